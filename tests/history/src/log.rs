//! The log: what each revision did, put together from everything that anybody saw.

use std::collections::{BTreeMap, HashMap};

use crate::check::{Rule, Verdict};
use crate::entry::{Entry, Event, EventKind, From, Opened, Outcome, Read, State, WriteKind};

/// What a revision did.
#[derive(Debug)]
pub(crate) struct Change {
    /// After the change; the last state for a deletion.
    pub state: State,
    pub deleted: bool,
    /// What an unselective watch called it.
    pub told: Option<(EventKind, usize)>,
    /// The first entry that showed it.
    pub seen: usize,
    /// The write that made it.
    pub by: Option<usize>,
    /// The revision of the same name's change before.
    pub before: Option<u64>,
    /// The revision of the same name's change after.
    pub after: Option<u64>,
}

#[derive(Debug)]
pub(crate) struct Log {
    pub base: u64,
    pub changes: BTreeMap<u64, Change>,
    /// Revisions of each name's changes, ascending.
    pub chains: BTreeMap<String, Vec<u64>>,
    /// The revision that deleted a uid.
    pub deletions: HashMap<String, u64>,
    /// Up to here, unselective watches have told everything.
    pub horizon: u64,
}

impl Log {
    pub fn of(history: &[Entry], verdict: &mut Verdict) -> Self {
        let base =
            history.iter().find_map(|entry| if let Entry::Setup(setup) = entry { Some(setup.base) } else { None });
        let base = base.unwrap_or_default();
        let mut log = Self {
            base,
            changes: BTreeMap::new(),
            chains: BTreeMap::new(),
            deletions: HashMap::new(),
            horizon: horizon(history, base),
        };
        let opens = opens(history);
        for (index, entry) in history.iter().enumerate() {
            match entry {
                Entry::Write(write) => {
                    if let Outcome::Done(state) = &write.outcome {
                        log.put(index, state, false, None, verdict);
                    }
                }
                Entry::Get(get) => {
                    if let Read::Found(state) = &get.outcome {
                        log.put(index, state, false, None, verdict);
                    }
                }
                Entry::List(list) => {
                    for state in list.pages.iter().flat_map(|page| &page.items) {
                        log.put(index, state, false, None, verdict);
                    }
                }
                Entry::Event(event) => log.put_event(index, event, &opens, verdict),
                Entry::Setup(_)
                | Entry::Open(_)
                | Entry::Bookmark(_)
                | Entry::End(_)
                | Entry::Stuck(_)
                | Entry::Note { .. } => {}
            }
        }
        log.link();
        log.attribute(history, verdict);
        log.check_chains(history, verdict);
        log
    }

    fn put_event(&mut self, index: usize, event: &Event, opens: &HashMap<u64, &Entry>, verdict: &mut Verdict) {
        let Some(Entry::Open(open)) = opens.get(&event.session) else { return };
        let deleted = event.kind == EventKind::Deleted;
        // Of a watch with a label selector it only says that the object does not match any more.
        if deleted && open.of.half.is_some() {
            return;
        }
        // What was there at the start is called added, whatever it was.
        let is_history = open.of.half.is_none() && matches!(open.from, From::Version(_));
        self.put(index, &event.state, deleted, is_history.then_some(event.kind), verdict);
    }

    fn put(&mut self, index: usize, state: &State, deleted: bool, told: Option<EventKind>, verdict: &mut Verdict) {
        let told = told.map(|kind| (kind, index));
        let Some(known) = self.changes.get_mut(&state.version) else {
            let change =
                Change { state: state.clone(), deleted, told, seen: index, by: None, before: None, after: None };
            self.changes.insert(state.version, change);
            return;
        };
        if known.state != *state || known.deleted != deleted {
            let tell = |state: &State, deleted: bool| {
                let verb = if deleted { "deleted" } else { "made" };
                format!("{verb} {} {} (uid {})", state.name, state.value, state.uid)
            };
            verdict.add(
                Rule::OneMeaning,
                format!(
                    "revision {} is two things: it {}, and it {}",
                    state.version,
                    tell(&known.state, known.deleted),
                    tell(state, deleted)
                ),
                [known.seen, index],
            );
            return;
        }
        match (known.told, told) {
            (Some((one, seen)), Some((other, _))) if one != other => verdict.add(
                Rule::OneMeaning,
                format!(
                    "revision {} of {} is {one:?} to one watcher and {other:?} to another",
                    state.version, state.name
                ),
                [seen, index],
            ),
            (None, Some(_)) => known.told = told,
            _ => {}
        }
    }

    fn link(&mut self) {
        for (version, change) in &self.changes {
            self.chains.entry(change.state.name.clone()).or_default().push(*version);
            if change.deleted {
                self.deletions.insert(change.state.uid.clone(), *version);
            }
        }
        for chain in self.chains.values() {
            for pair in chain.windows(2) {
                if let Some(change) = self.changes.get_mut(&pair[0]) {
                    change.after = Some(pair[1]);
                }
                if let Some(change) = self.changes.get_mut(&pair[1]) {
                    change.before = Some(pair[0]);
                }
            }
        }
    }

    /// Finds for each change the write that made it; each must be one that may have been done.
    fn attribute(&mut self, history: &[Entry], verdict: &mut Verdict) {
        let mut by_value: HashMap<&str, usize> = HashMap::new();
        let mut deletes: HashMap<&str, Vec<usize>> = HashMap::new();
        for (index, entry) in history.iter().enumerate() {
            let Entry::Write(write) = entry else { continue };
            if write.kind == WriteKind::Delete {
                deletes.entry(&write.name).or_default().push(index);
            } else {
                by_value.insert(&write.value, index);
            }
        }
        let write_at = |index: usize| if let Entry::Write(write) = &history[index] { Some(write) } else { None };
        for (version, change) in &mut self.changes {
            let State { name, uid, value, .. } = &change.state;
            if change.deleted {
                let candidates = deletes.get(name.as_str()).map_or(&[] as &[usize], Vec::as_slice);
                let did = |index: &&usize| {
                    let outcome = write_at(**index).map(|write| &write.outcome);
                    matches!(outcome, Some(Outcome::Deleted { uid: deleted }) if deleted == uid)
                };
                let may_have =
                    |index: &&usize| matches!(write_at(**index).map(|write| &write.outcome), Some(Outcome::Unknown(_)));
                let by = candidates.iter().find(did).or_else(|| candidates.iter().find(may_have));
                change.by = by.copied();
                if change.by.is_none() {
                    let what = format!("{name} (uid {uid}) was deleted at {version}, and nobody deleted it");
                    verdict.add(Rule::NobodysWrite, what, [change.seen]);
                }
                continue;
            }
            let Some(index) = by_value.get(value.as_str()).copied() else {
                let what = format!("{name} is {value} at {version}, which nobody wrote");
                verdict.add(Rule::NobodysWrite, what, [change.seen]);
                continue;
            };
            change.by = Some(index);
            match write_at(index).map(|write| &write.outcome) {
                Some(Outcome::Done(done)) if done.version != *version => verdict.add(
                    Rule::OneMeaning,
                    format!("one write of {name} was done twice: at {} and at {version}", done.version),
                    [index, change.seen],
                ),
                Some(Outcome::Exists | Outcome::NotFound | Outcome::Conflict | Outcome::Refused(_)) => verdict.add(
                    Rule::RefusedYetDone,
                    format!("a write of {name} was refused, and yet was done at {version}"),
                    [index, change.seen],
                ),
                _ => {}
            }
        }
    }

    /// What kind of change the write that made it says it was.
    fn kind(change: &Change, history: &[Entry]) -> Option<EventKind> {
        if let Some((kind, _)) = change.told {
            return Some(kind);
        }
        let Some(Entry::Write(write)) = change.by.map(|index| &history[index]) else { return None };
        Some(match write.kind {
            WriteKind::Create => EventKind::Added,
            WriteKind::Update | WriteKind::Patch => EventKind::Modified,
            WriteKind::Delete => EventKind::Deleted,
        })
    }

    fn check_chains(&self, history: &[Entry], verdict: &mut Verdict) {
        for (version, change) in self.changes.range(self.base..=self.horizon) {
            let State { name, uid, .. } = &change.state;
            let before = change.before.map(|before| (before, &self.changes[&before]));
            let alive = before.filter(|(_, before)| !before.deleted);
            let about = [before.map(|(_, before)| before.seen), change.by, Some(change.seen)].into_iter().flatten();
            let broken = match (Self::kind(change, history), alive) {
                (None | Some(EventKind::Added), None) => None,
                (Some(EventKind::Added), Some((at, _))) => {
                    Some(format!("{name} came to be at {version}, but it was there already, since {at}"))
                }
                (Some(EventKind::Modified), None) => {
                    Some(format!("{name} was changed at {version}, but it was not there"))
                }
                (Some(EventKind::Deleted), None) => {
                    Some(format!("{name} was deleted at {version}, but it was not there"))
                }
                (kind, Some((at, before))) => {
                    if before.state.uid != *uid && kind.is_some() {
                        Some(format!("{name} at {version} is not the object that it was at {at}: another uid"))
                    } else if kind == Some(EventKind::Deleted) && before.state.value != change.state.value {
                        Some(format!(
                            "{name} was deleted at {version} as {}, but it was {} since {at}",
                            change.state.value, before.state.value
                        ))
                    } else {
                        None
                    }
                }
            };
            if let Some(what) = broken {
                verdict.add(Rule::Follows, what, about.clone());
            }
            if let Some(Entry::Write(write)) = change.by.map(|index| &history[index])
                && matches!(write.outcome, Outcome::Done(_) | Outcome::Deleted { .. })
                && let Some(expected) = write.expects
                && alive.map(|(at, _)| at) != Some(expected)
            {
                let found = alive.map_or("nothing".to_owned(), |(at, _)| format!("revision {at}"));
                let what =
                    format!("{name}: a write that expected revision {expected} was done at {version} on {found}");
                verdict.add(Rule::LostUpdate, what, about);
            }
        }
        for (index, entry) in history.iter().enumerate() {
            if let Entry::Write(write) = entry
                && let Outcome::Deleted { uid } = &write.outcome
                && !self.deletions.contains_key(uid)
                && self.is_covered()
            {
                let what = format!("the deletion of {} (uid {uid}) was acknowledged, and never happened", write.name);
                verdict.add(Rule::LostWrite, what, [index]);
            }
        }
    }

    /// Whether everything that is known lies in what watches have told: what is not in the log then did not happen.
    pub fn is_covered(&self) -> bool {
        self.changes.last_key_value().is_none_or(|(last, _)| *last <= self.horizon)
    }

    /// The change of a name that holds at a revision: the newest up to it.
    pub fn at(&self, name: &str, version: u64) -> Option<&Change> {
        let chain = self.chains.get(name)?;
        let newer = chain.partition_point(|at| *at <= version);
        self.changes.get(chain.get(newer.checked_sub(1)?)?)
    }

    /// The state of a name at a revision, if it is there.
    pub fn state_at(&self, name: &str, version: u64) -> Option<&State> {
        self.at(name, version).filter(|change| !change.deleted).map(|change| &change.state)
    }
}

pub(crate) fn opens(history: &[Entry]) -> HashMap<u64, &Entry> {
    let opened = history.iter().filter_map(|entry| match entry {
        Entry::Open(open) => Some((open.session, entry)),
        _ => None,
    });
    opened.collect()
}

/// How far the intervals of unselective watches reach from `base` without a hole.
fn horizon(history: &[Entry], base: u64) -> u64 {
    let mut intervals: HashMap<u64, (u64, u64)> = HashMap::new();
    for entry in history {
        match entry {
            Entry::Open(open) if open.of.is_everything() && open.outcome == Opened::Yes => {
                if let From::Version(from) = open.from {
                    intervals.insert(open.session, (from, from));
                }
            }
            Entry::Event(event) => {
                if let Some((_, to)) = intervals.get_mut(&event.session) {
                    *to = (*to).max(event.state.version);
                }
            }
            Entry::Bookmark(bookmark) => {
                if let Some((_, to)) = intervals.get_mut(&bookmark.session) {
                    *to = (*to).max(bookmark.version);
                }
            }
            _ => {}
        }
    }
    let mut intervals: Vec<(u64, u64)> = intervals.into_values().collect();
    intervals.sort_unstable();
    intervals.into_iter().fold(base, |reach, (from, to)| if from <= reach { reach.max(to) } else { reach })
}
