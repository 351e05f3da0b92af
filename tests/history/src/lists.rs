//! Lists: each is the state at exactly its revision; pages of one list are of one.

use std::collections::BTreeMap;

use crate::check::{Rule, Verdict};
use crate::entry::{Asked, Entry, List, Selector, State};
use crate::log::Log;
use crate::watches;

pub(crate) fn check(history: &[Entry], log: &Log, verdict: &mut Verdict) {
    for (index, entry) in history.iter().enumerate() {
        let Entry::List(list) = entry else { continue };
        if list.gone {
            check_gone(history, index, list, verdict);
        }
        let Some(version) = list.pages.first().map(|page| page.version) else { continue };
        if let Some(other) = list.pages.iter().find(|page| page.version != version) {
            let what = format!("pages of one list are of revisions {version} and {}", other.version);
            verdict.add(Rule::Pages, what, [index]);
            continue;
        }
        let asked = match list.asked {
            Asked::Newest | Asked::Any => None,
            Asked::NotOlder(asked) => (version < asked).then(|| format!("not older than {asked}")),
            Asked::Exact(asked) => (version != asked).then(|| format!("at {asked}")),
        };
        if let Some(asked) = asked {
            let what = format!("a list {asked} was asked for, and it is of {version}");
            verdict.add(Rule::AskedRevision, what, [index]);
        }
        let items: Vec<&State> = list.pages.iter().flat_map(|page| &page.items).collect();
        if let Some(pair) = items.windows(2).find(|pair| pair[0].name >= pair[1].name) {
            let what = format!("a list has {} before {}", pair[0].name, pair[1].name);
            verdict.add(Rule::Pages, what, [index]);
        }
        compare(log, &list.of, version, &items, list.complete, "a list", index, verdict);
    }
}

fn check_gone(history: &[Entry], index: usize, list: &List, verdict: &mut Verdict) {
    let version = match (list.pages.first(), list.asked) {
        (Some(page), _) => page.version,
        (None, Asked::Exact(asked)) => asked,
        (None, Asked::Newest | Asked::Any | Asked::NotOlder(_)) => {
            verdict.add(Rule::Gone, "a list that named no revision is gone (410)".into(), [index]);
            return;
        }
    };
    watches::check_gone_at(history, index, version, list.end, verdict);
}

/// Compares items with the state at a revision. Incomplete ones end with the last that is there.
pub(crate) fn compare(
    log: &Log,
    of: &Selector,
    version: u64,
    items: &[&State],
    complete: bool,
    whose: &str,
    index: usize,
    verdict: &mut Verdict,
) {
    if version > log.horizon {
        return;
    }
    let mut found: BTreeMap<&str, &State> = BTreeMap::new();
    for item in items {
        if found.insert(&item.name, item).is_some() {
            verdict.add(Rule::Pages, format!("{whose} has {} twice", item.name), [index]);
        }
    }
    let last = items.last().map_or("", |item| item.name.as_str());
    for name in log.chains.keys().filter(|name| complete || name.as_str() <= last) {
        let then = log.at(name, version);
        let expected = then.filter(|change| !change.deleted && of.matches(name, &change.state.half));
        let got = found.remove(name.as_str());
        if expected.map(|change| change.state.version) == got.map(|state| state.version) {
            continue;
        }
        let tell = |version: Option<u64>| version.map_or("not there".to_owned(), |version| format!("at {version}"));
        let what = format!(
            "{whose} of revision {version} has {name} {}; it was {} then",
            tell(got.map(|state| state.version)),
            match then {
                Some(change) if expected.is_none() && !change.deleted => "outside of the selector".to_owned(),
                _ => tell(expected.map(|change| change.state.version)),
            }
        );
        let changes = then.into_iter().chain(got.and_then(|state| log.changes.get(&state.version)));
        let after = then.and_then(|change| change.after).and_then(|after| log.changes.get(&after));
        let shown: Vec<usize> =
            changes.chain(after).flat_map(|change| [change.by.unwrap_or(change.seen), change.seen]).collect();
        verdict.add(Rule::ListAtRevision, what, shown.into_iter().chain([index]));
    }
    for (name, state) in found {
        if !complete && name > last {
            continue;
        }
        let what = format!("{whose} of revision {version} has {name} at {}, which was never there", state.version);
        verdict.add(Rule::ListAtRevision, what, [index]);
    }
}
