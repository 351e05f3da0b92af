//! Real time: one sweep over all beginnings and ends of requests.
//!
//! `known` is the newest revision that anybody had evidence of at a moment: an acknowledged write, an event, a bookmark, a
//! list, an object that was read. Whatever begins later must not come before it: a write gets a newer revision, a read shows
//! what held then or later.
//!
//! That is all of linearizability here. A read that shows what held at some revision not before `known` at its start can be
//! placed there; placing each as early as possible, and taking that place as known at its end, finds an order if there is
//! one, because places only ever move later.

use crate::check::{Rule, Verdict};
use crate::entry::{Asked, Entry, Outcome, Read, Write, WriteKind};
use crate::log::Log;

/// What is known, and from which entry.
#[derive(Debug, Clone, Copy)]
struct Known {
    version: u64,
    from: Option<usize>,
}

pub(crate) fn check(history: &[Entry], log: &Log, verdict: &mut Verdict) {
    // At one instant, beginnings come before ends: the two are concurrent.
    let mut moments: Vec<(u64, bool, usize)> = Vec::new();
    for (index, entry) in history.iter().enumerate() {
        let (start, end) = match entry {
            Entry::Write(write) => (Some(write.start), write.end),
            Entry::Get(get) => (Some(get.start), get.end),
            Entry::List(list) => (Some(list.start), list.end),
            Entry::Open(open) => (Some(open.start), open.end),
            Entry::Event(event) => (None, event.at),
            Entry::Bookmark(bookmark) => (None, bookmark.at),
            Entry::Setup(_) | Entry::End(_) | Entry::Stuck(_) | Entry::Note { .. } => continue,
        };
        moments.extend(start.map(|start| (start, false, index)));
        moments.push((end, true, index));
    }
    moments.sort_unstable();

    let mut known = Known { version: log.base, from: None };
    let mut at_start = vec![known; history.len()];
    let made_by = made_by(history, log);
    for (_, ends, index) in moments {
        if !ends {
            at_start[index] = known;
            continue;
        }
        let seen = judge(history, log, index, at_start[index], &made_by, verdict);
        if let Some(version) = seen
            && version > known.version
        {
            known = Known { version, from: Some(index) };
        }
    }
}

/// The revision that each write made, where it is known.
fn made_by(history: &[Entry], log: &Log) -> Vec<Option<u64>> {
    let mut made = vec![None; history.len()];
    for (version, change) in &log.changes {
        if let Some(by) = change.by.filter(|_| !change.deleted) {
            made[by] = Some(*version);
        }
    }
    for (index, entry) in history.iter().enumerate() {
        if let Entry::Write(Write { outcome: Outcome::Deleted { uid }, .. }) = entry {
            made[index] = log.deletions.get(uid).copied();
        }
    }
    made
}

/// Judges an entry at its end; the revision that it is evidence of.
fn judge(
    history: &[Entry],
    log: &Log,
    index: usize,
    before: Known,
    made_by: &[Option<u64>],
    verdict: &mut Verdict,
) -> Option<u64> {
    match &history[index] {
        Entry::Write(write) => judge_write(log, index, write, before, made_by[index], verdict),
        Entry::Get(get) => match (&get.outcome, get.asked) {
            (Read::Failed(_), _) => None,
            (Read::Found(state), Asked::Newest | Asked::NotOlder(_)) => {
                let after = log.changes.get(&state.version).and_then(|change| change.after);
                let least = if let Asked::NotOlder(asked) = get.asked { asked } else { before.version };
                if let Some(after) = after.filter(|after| *after <= least) {
                    let next = &log.changes[&after];
                    let what = format!(
                        "{} was read as {} (revision {}), which ended at {after}, when {least} was known before the read \
                         began",
                        state.name, state.value, state.version
                    );
                    let about = [before.from, next.by, Some(next.seen), Some(index)].into_iter().flatten();
                    verdict.add(Rule::StaleRead, what, about);
                }
                Some(state.version)
            }
            (Read::Found(state), Asked::Any | Asked::Exact(_)) => Some(state.version),
            (Read::Absent, Asked::Newest) => {
                earliest(log, &get.name, index, before, "not found", |state| state.is_none(), verdict)
            }
            (Read::Absent, _) => None,
        },
        Entry::List(list) => {
            let version = list.pages.first()?.version;
            if list.asked == Asked::Newest && version < before.version {
                let what =
                    format!("a list is of revision {version}, when {} was known before it began", before.version);
                verdict.add(Rule::StaleRead, what, before.from.into_iter().chain([index]));
            }
            Some(version)
        }
        Entry::Event(event) => Some(event.state.version),
        Entry::Bookmark(bookmark) => Some(bookmark.version),
        Entry::Open(_) | Entry::Setup(_) | Entry::End(_) | Entry::Stuck(_) | Entry::Note { .. } => None,
    }
}

fn judge_write(
    log: &Log,
    index: usize,
    write: &Write,
    before: Known,
    made: Option<u64>,
    verdict: &mut Verdict,
) -> Option<u64> {
    if let Some(version) = made
        && version <= before.version
    {
        let what = format!(
            "a write of {} got revision {version}, when {} was known before it began",
            write.name, before.version
        );
        verdict.add(Rule::RealTime, what, before.from.into_iter().chain([index]));
    }
    let name = &write.name;
    match &write.outcome {
        Outcome::Done(state) => Some(state.version),
        Outcome::Deleted { .. } => made,
        Outcome::Exists => earliest(log, name, index, before, "there already", |state| state.is_some(), verdict),
        Outcome::NotFound => earliest(log, name, index, before, "not found", |state| state.is_none(), verdict),
        Outcome::Conflict => {
            let expected = write.expects.filter(|_| write.kind != WriteKind::Create)?;
            let other = |state: Option<u64>| state != Some(expected);
            earliest(log, name, index, before, "at another revision than expected", other, verdict)
        }
        Outcome::Refused(_) | Outcome::Unknown(_) => None,
    }
}

/// The earliest revision, not before what was known, at which a name was as the answer says. `as_told` gets the revision of the
/// object, `None` where there is none.
fn earliest(
    log: &Log,
    name: &str,
    index: usize,
    before: Known,
    told: &str,
    as_told: impl Fn(Option<u64>) -> bool,
    verdict: &mut Verdict,
) -> Option<u64> {
    if as_told(log.state_at(name, before.version).map(|state| state.version)) {
        return Some(before.version);
    }
    let chain = log.chains.get(name).map_or(&[] as &[u64], Vec::as_slice);
    let later = &chain[chain.partition_point(|version| *version <= before.version)..];
    let found = later.iter().find(|version| as_told((!log.changes[*version].deleted).then_some(**version)));
    if found.is_none() && log.is_covered() {
        let what = format!(
            "{name} was said to be {told}, but it was not so at {}, which was known before, nor ever after",
            before.version
        );
        let held = log.at(name, before.version).into_iter().flat_map(|change| [change.by, Some(change.seen)]).flatten();
        verdict.add(Rule::StaleRead, what, held.chain(before.from).chain([index]));
    }
    found.copied()
}
