//! The verdict, and its words.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};

use crate::entry::{EndKind, Entry, From, Opened, Outcome, Read, Write, WriteKind};
use crate::log::Log;
use crate::{lists, order, watches};

/// A promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Rule {
    /// A revision is one change of one object, whoever looks.
    OneMeaning,
    /// What is there was written by somebody.
    NobodysWrite,
    /// A refused write is not done.
    RefusedYetDone,
    /// What a write was answered is what it wrote.
    Answer,
    /// An acknowledged write stays.
    LostWrite,
    /// A conditional write is done on the revision that it names.
    LostUpdate,
    /// An object's changes follow from each other.
    Follows,
    /// Revisions respect real time: what begins after something is known comes after it.
    RealTime,
    /// A read shows nothing older than what was known before it began.
    StaleRead,
    /// A list is the state at its revision.
    ListAtRevision,
    /// Pages of one list are of one revision, each object once, in order.
    Pages,
    /// A list is of the revision that was asked for.
    AskedRevision,
    /// A watch's events come in order.
    WatchOrder,
    /// A watch repeats no event.
    WatchRepeat,
    /// A watch leaves no event out.
    WatchGap,
    /// A watch has no event that did not happen, and calls each what it is.
    WatchEvent,
    /// After a bookmark nothing comes that it covers.
    Bookmark,
    /// 410 only past the retention.
    Gone,
    /// A watch gets on.
    Stuck,
}

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub rule: Rule,
    /// How, in words.
    pub what: String,
    /// The entries that show it, by their index.
    pub about: Vec<usize>,
}

#[derive(Debug, Default)]
pub(crate) struct Verdict {
    violations: Vec<Violation>,
    /// One entry breaks a rule once.
    known: BTreeSet<(Rule, Vec<usize>)>,
}

/// Beyond these a broken server only repeats itself.
const MOST: usize = 100;

impl Verdict {
    pub fn add(&mut self, rule: Rule, what: String, about: impl IntoIterator<Item = usize>) {
        let about: Vec<usize> = about.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
        if self.violations.len() < MOST && self.known.insert((rule, about.clone())) {
            self.violations.push(Violation { rule, what, about });
        }
    }
}

/// How much was judged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Acknowledged writes.
    pub written: usize,
    /// Writes whose outcome is unknown.
    pub unknown: usize,
    /// Writes that were refused for what was there (409, 404).
    pub refused: usize,
    /// Gets.
    pub gets: usize,
    /// Lists.
    pub lists: usize,
    /// Lists in several pages.
    pub paginated: usize,
    /// Watches opened.
    pub watches: usize,
    /// Of these, from a revision that an earlier watch had come to.
    pub resumed: usize,
    /// Watches that broke.
    pub broken: usize,
    /// 410 answers.
    pub gone: usize,
    /// Events.
    pub events: usize,
    /// Bookmarks.
    pub bookmarks: usize,
    /// The longest time without an acknowledged write, in microseconds.
    pub longest_silence: u64,
}

impl Counts {
    /// Adds those of another history.
    pub fn add(&mut self, other: &Self) {
        self.written += other.written;
        self.unknown += other.unknown;
        self.refused += other.refused;
        self.gets += other.gets;
        self.lists += other.lists;
        self.paginated += other.paginated;
        self.watches += other.watches;
        self.resumed += other.resumed;
        self.broken += other.broken;
        self.gone += other.gone;
        self.events += other.events;
        self.bookmarks += other.bookmarks;
        self.longest_silence = self.longest_silence.max(other.longest_silence);
    }
}

/// A history that keeps all promises.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// How much was judged.
    pub counts: Counts,
    /// Changes of objects that anybody saw.
    pub changes: usize,
}

/// Judges a history.
pub fn check(history: &[Entry]) -> Result<Report, Vec<Violation>> {
    let mut verdict = Verdict::default();
    let log = Log::of(history, &mut verdict);
    check_answers(history, &mut verdict);
    watches::check(history, &log, &mut verdict);
    lists::check(history, &log, &mut verdict);
    order::check(history, &log, &mut verdict);
    if verdict.violations.is_empty() {
        Ok(Report { counts: counts(history), changes: log.changes.len() })
    } else {
        Err(verdict.violations)
    }
}

fn check_answers(history: &[Entry], verdict: &mut Verdict) {
    for (index, entry) in history.iter().enumerate() {
        if let Entry::Write(Write { outcome: Outcome::Done(state), name, value, .. }) = entry
            && (state.name != *name || state.value != *value)
        {
            let what = format!("{name} was written as {value}, and the answer is {} {}", state.name, state.value);
            verdict.add(Rule::Answer, what, [index]);
        }
    }
}

fn counts(history: &[Entry]) -> Counts {
    let mut counts = Counts::default();
    let mut acknowledged = Vec::new();
    for entry in history {
        match entry {
            Entry::Write(write) => match &write.outcome {
                Outcome::Done(_) | Outcome::Deleted { .. } => {
                    counts.written += 1;
                    acknowledged.push(write.end);
                }
                Outcome::Unknown(_) => counts.unknown += 1,
                Outcome::Exists | Outcome::NotFound | Outcome::Conflict | Outcome::Refused(_) => counts.refused += 1,
            },
            Entry::Get(_) => counts.gets += 1,
            Entry::List(list) => {
                counts.lists += 1;
                counts.paginated += usize::from(list.pages.len() > 1);
                counts.gone += usize::from(list.gone);
            }
            Entry::Open(open) => {
                counts.watches += usize::from(open.outcome == Opened::Yes);
                counts.gone += usize::from(open.outcome == Opened::Gone);
                counts.resumed += usize::from(open.outcome == Opened::Yes && matches!(open.from, From::Version(_)));
            }
            Entry::Event(_) => counts.events += 1,
            Entry::Bookmark(_) => counts.bookmarks += 1,
            Entry::End(end) => {
                counts.broken += usize::from(matches!(end.kind, EndKind::Broken(_)));
                counts.gone += usize::from(end.kind == EndKind::Gone);
            }
            Entry::Setup(_) | Entry::Stuck(_) | Entry::Note { .. } => {}
        }
    }
    acknowledged.sort_unstable();
    counts.longest_silence = acknowledged.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default();
    counts
}

/// Entries told around a violation.
const SHOWN: usize = 24;

/// A violation with the smallest part of the history that shows it.
pub fn explain(history: &[Entry], violation: &Violation) -> String {
    let mut text = format!("{:?}: {}\n", violation.rule, violation.what);
    for index in violation.about.iter().take(SHOWN) {
        if let Some(entry) = history.get(*index) {
            let _ = writeln!(text, "  {:>6}  {entry}", index + 1);
        }
    }
    text
}

fn at(micros: u64) -> String {
    format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Setup(setup) => write!(f, "seed {}, from revision {}", setup.seed, setup.base),
            Self::Write(write) => {
                let verb = match write.kind {
                    WriteKind::Create => "create",
                    WriteKind::Update => "update",
                    WriteKind::Patch => "patch",
                    WriteKind::Delete => "delete",
                };
                write!(f, "{}-{} {} {verb} {}", at(write.start), at(write.end), write.client, write.name)?;
                if !write.value.is_empty() {
                    write!(f, " = {}", write.value)?;
                }
                if let Some(expected) = write.expects {
                    write!(f, " if at {expected}")?;
                }
                match &write.outcome {
                    Outcome::Done(state) => write!(f, " -> done at {}", state.version),
                    Outcome::Deleted { uid } => write!(f, " -> deleted uid {uid}"),
                    Outcome::Exists => f.write_str(" -> exists"),
                    Outcome::NotFound => f.write_str(" -> not found"),
                    Outcome::Conflict => f.write_str(" -> conflict"),
                    Outcome::Refused(why) => write!(f, " -> refused: {why}"),
                    Outcome::Unknown(why) => write!(f, " -> unknown: {why}"),
                }
            }
            Self::Get(get) => {
                write!(f, "{}-{} {} get {} ({:?})", at(get.start), at(get.end), get.client, get.name, get.asked)?;
                match &get.outcome {
                    Read::Found(state) => write!(f, " -> {} at {}", state.value, state.version),
                    Read::Absent => f.write_str(" -> not found"),
                    Read::Failed(why) => write!(f, " -> failed: {why}"),
                }
            }
            Self::List(list) => {
                let (start, end) = (at(list.start), at(list.end));
                write!(f, "{start}-{end} {} list {:?} ({:?}) ->", list.client, list.of, list.asked)?;
                for page in &list.pages {
                    write!(f, " [at {}:", page.version)?;
                    for item in &page.items {
                        write!(f, " {}@{}", item.name, item.version)?;
                    }
                    f.write_str("]")?;
                }
                if list.complete { Ok(()) } else { write!(f, " incomplete {}", list.failed) }
            }
            Self::Open(open) => {
                let (start, end) = (at(open.start), at(open.end));
                write!(f, "{start}-{end} {} watch #{} {:?} from", open.client, open.session, open.of)?;
                write!(f, " {:?} -> {:?}", open.from, open.outcome)
            }
            Self::Event(event) => {
                let state = &event.state;
                write!(f, "{} watch #{} {:?} {}", at(event.at), event.session, event.kind, state.name)?;
                write!(f, " = {} at {}", state.value, state.version)
            }
            Self::Bookmark(bookmark) => {
                write!(f, "{} watch #{} bookmark at {}", at(bookmark.at), bookmark.session, bookmark.version)
            }
            Self::End(end) => write!(f, "{} watch #{} ended: {:?}", at(end.at), end.session, end.kind),
            Self::Stuck(stuck) => {
                write!(f, "{} {} is at {}, not at {}", at(stuck.at), stuck.client, stuck.reached, stuck.wanted)
            }
            Self::Note { at: time, what } => write!(f, "{} {what}", at(*time)),
        }
    }
}
