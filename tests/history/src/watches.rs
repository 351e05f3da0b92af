//! Watches: each stream is the log over its interval: ordered, complete, unique. As each is checked against the same log, a
//! watch that resumes where another ended neither misses nor repeats anything between the two.

use std::collections::{BTreeMap, HashMap, hash_map};
use std::ops::Bound;

use crate::check::{Rule, Verdict};
use crate::entry::{EndKind, Entry, Event, EventKind, From, Open, Opened, Outcome, Selector, State};
use crate::lists;
use crate::log::Log;

struct Session<'a> {
    open: &'a Open,
    opened: usize,
    /// Where the log takes over: the start, or the end of what was there at the start.
    from: Option<u64>,
    initial: Vec<(usize, &'a State)>,
    events: HashMap<u64, (usize, &'a Event)>,
    /// The newest that was received: event or bookmark, and which.
    reached: u64,
    newest: usize,
    newest_is_event: bool,
}

pub(crate) fn check(history: &[Entry], log: &Log, verdict: &mut Verdict) {
    let mut sessions: BTreeMap<u64, Session<'_>> = BTreeMap::new();
    for (index, entry) in history.iter().enumerate() {
        match entry {
            Entry::Open(open) if open.outcome == Opened::Yes => {
                let from = if let From::Version(from) = open.from { Some(from) } else { None };
                let session = Session {
                    open,
                    opened: index,
                    from,
                    initial: Vec::new(),
                    events: HashMap::new(),
                    reached: from.unwrap_or_default(),
                    newest: index,
                    newest_is_event: false,
                };
                sessions.insert(open.session, session);
            }
            Entry::Open(open) if open.outcome == Opened::Gone => check_gone(history, index, open, open.end, verdict),
            Entry::Event(event) => {
                if let Some(session) = sessions.get_mut(&event.session) {
                    session.take(index, event, verdict);
                }
            }
            Entry::Bookmark(bookmark) => {
                let Some(session) = sessions.get_mut(&bookmark.session) else { continue };
                if bookmark.version < session.reached {
                    let what = format!(
                        "watch #{} has a bookmark at {}, after it had come to {}",
                        bookmark.session, bookmark.version, session.reached
                    );
                    verdict.add(Rule::Bookmark, what, [session.newest, index]);
                }
                session.reached = session.reached.max(bookmark.version);
                session.newest = index;
                session.newest_is_event = false;
                if session.from.is_none() && bookmark.initial_end {
                    session.from = Some(bookmark.version);
                    let initial: Vec<&State> = session.initial.iter().map(|(_, state)| *state).collect();
                    let of = &session.open.of;
                    lists::compare(log, of, bookmark.version, &initial, true, "a watch's start", index, verdict);
                }
            }
            Entry::End(end) if end.kind == EndKind::Gone => {
                if let Some(session) = sessions.get(&end.session) {
                    check_gone(history, index, session.open, end.at, verdict);
                }
            }
            Entry::Stuck(stuck) => {
                let what = format!(
                    "{} came to {}, and not to {} in the time that it had",
                    stuck.client, stuck.reached, stuck.wanted
                );
                verdict.add(Rule::Stuck, what, [index]);
            }
            _ => {}
        }
    }
    for session in sessions.values() {
        session.compare(log, verdict);
    }
}

impl<'a> Session<'a> {
    fn take(&mut self, index: usize, event: &'a Event, verdict: &mut Verdict) {
        let (number, version) = (event.session, event.state.version);
        if self.from.is_none() {
            // What is there at the start comes in any order.
            self.initial.push((index, &event.state));
            return;
        }
        match self.events.entry(version) {
            hash_map::Entry::Occupied(before) => {
                let what = format!("watch #{number} has revision {version} twice");
                verdict.add(Rule::WatchRepeat, what, [before.get().0, index]);
                return;
            }
            hash_map::Entry::Vacant(place) => {
                place.insert((index, event));
            }
        }
        if version <= self.reached {
            let (rule, what) = if self.newest == self.opened {
                let what = format!("watch #{number} from {} begins with revision {version}", self.reached);
                (Rule::WatchRepeat, what)
            } else if self.newest_is_event {
                (Rule::WatchOrder, format!("watch #{number} has revision {version} after {}", self.reached))
            } else {
                (Rule::Bookmark, format!("watch #{number} has revision {version} after a bookmark at {}", self.reached))
            };
            verdict.add(rule, what, [self.newest, index]);
        }
        self.reached = self.reached.max(version);
        self.newest = index;
        self.newest_is_event = true;
    }

    /// Compares what was received with what the log says for the interval.
    fn compare(&self, log: &Log, verdict: &mut Verdict) {
        let (Some(from), number) = (self.from, self.open.session) else { return };
        let of = &self.open.of;
        // What a selector makes of a change depends on the state before, which is only known up to the horizon.
        let to = if of.half.is_some() { self.reached.min(log.horizon) } else { self.reached };
        if to <= from {
            return;
        }
        let mut got = self.events.clone();
        for (version, change) in log.changes.range((Bound::Excluded(from), Bound::Included(to))) {
            let before = change.before.map(|before| &log.changes[&before]).filter(|before| !before.deleted);
            let expected = expected(of, &change.state, change.deleted, before.map(|before| &before.state));
            let about = [Some(self.opened), change.by, Some(change.seen), Some(self.newest)].into_iter().flatten();
            match (expected, got.remove(version)) {
                (None, None) => {}
                (Some((kind, state)), None) => {
                    let what = format!(
                        "watch #{number} of {} from {from} came to {}, and never had revision {version}: {kind:?} {} = {}",
                        self.open.client, self.reached, state.name, state.value
                    );
                    verdict.add(Rule::WatchGap, what, about);
                }
                (None, Some((index, event))) => {
                    let what = format!(
                        "watch #{number} has {:?} {} at {version}, which is none of its selector's",
                        event.kind, event.state.name
                    );
                    verdict.add(Rule::WatchEvent, what, [self.opened, change.seen, index]);
                }
                (Some((kind, state)), Some((index, event))) => {
                    let same = event.state.name == state.name
                        && event.state.uid == state.uid
                        && event.state.value == state.value;
                    let known = change.told.is_some() || of.half.is_some();
                    if !same || (known && event.kind != kind && change.told.is_none_or(|(told, _)| told != event.kind))
                    {
                        let what = format!(
                            "watch #{number} says {:?} {} = {} at {version}; it was {kind:?} {} = {}",
                            event.kind, event.state.name, event.state.value, state.name, state.value
                        );
                        verdict.add(Rule::WatchEvent, what, [self.opened, change.seen, index]);
                    }
                }
            }
        }
        let strange = got.into_values().filter(|(_, event)| event.state.version > from && event.state.version <= to);
        for (index, event) in strange {
            let what = format!(
                "watch #{number} has {:?} {} at {}, which never happened",
                event.kind, event.state.name, event.state.version
            );
            verdict.add(Rule::WatchEvent, what, [self.opened, index]);
        }
    }
}

/// What a selector makes of a change: an object that begins to match is added, one that stops is deleted as it was last seen.
fn expected<'a>(
    of: &Selector,
    after: &'a State,
    deleted: bool,
    before: Option<&'a State>,
) -> Option<(EventKind, &'a State)> {
    let matched = before.is_some_and(|before| of.matches(&before.name, &before.half));
    let matches = !deleted && of.matches(&after.name, &after.half);
    match (matched, matches) {
        (true, true) => Some((EventKind::Modified, after)),
        (false, true) => Some((EventKind::Added, after)),
        (true, false) => Some((EventKind::Deleted, if deleted { after } else { before.unwrap_or(after) })),
        (false, false) => None,
    }
}

/// A revision may be forgotten when it is as old as the retention. It is at most as old as the newest write of ours that is
/// not newer than it.
pub(crate) fn check_gone_at(history: &[Entry], index: usize, version: u64, at: u64, verdict: &mut Verdict) {
    let setup = history.iter().find_map(|entry| if let Entry::Setup(setup) = entry { Some(setup) } else { None });
    let Some(retention) = setup.and_then(|setup| setup.retention) else { return };
    let base = setup.map_or(0, |setup| setup.base);
    let began = history.iter().filter_map(|entry| match entry {
        Entry::Write(write) => match &write.outcome {
            Outcome::Done(state) if state.version <= version => Some(write.start),
            _ => None,
        },
        _ => None,
    });
    let Some(began) = began.max().or((version >= base).then_some(0)) else { return };
    let age = at.saturating_sub(began);
    if age < retention {
        let what = format!(
            "revision {version} is gone (410) at the age of at most {} s; {} s were promised",
            age / 1_000_000,
            retention / 1_000_000
        );
        verdict.add(Rule::Gone, what, [index]);
    }
}

fn check_gone(history: &[Entry], index: usize, open: &Open, at: u64, verdict: &mut Verdict) {
    if let From::Version(version) = open.from {
        check_gone_at(history, index, version, at, verdict);
    }
}
