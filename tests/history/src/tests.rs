//! Hand-written histories, good and bad. Times are in whole microseconds; a request from 10 to 12 is `(10, 12)`.

use crate::*;

const HORIZON: u64 = 1000;

fn state(name: &str, version: u64, value: &str) -> State {
    State { name: name.into(), uid: format!("uid-{name}"), version, value: value.into(), half: "a".into() }
}

fn half(mut state: State, half: &str) -> State {
    state.half = half.into();
    state
}

fn setup() -> Entry {
    Entry::Setup(Setup { seed: 1, base: 100, retention: Some(1_000_000) })
}

fn write(kind: WriteKind, (start, end): (u64, u64), name: &str, value: &str, outcome: Outcome) -> Entry {
    Entry::Write(Write {
        client: "w".into(),
        start,
        end,
        kind,
        name: name.into(),
        value: value.into(),
        expects: None,
        outcome,
    })
}

fn create(time: (u64, u64), name: &str, version: u64, value: &str) -> Entry {
    write(WriteKind::Create, time, name, value, Outcome::Done(state(name, version, value)))
}

fn update(time: (u64, u64), name: &str, version: u64, value: &str) -> Entry {
    write(WriteKind::Update, time, name, value, Outcome::Done(state(name, version, value)))
}

fn expecting(mut entry: Entry, expected: u64) -> Entry {
    if let Entry::Write(write) = &mut entry {
        write.expects = Some(expected);
    }
    entry
}

fn delete(time: (u64, u64), name: &str) -> Entry {
    write(WriteKind::Delete, time, name, "", Outcome::Deleted { uid: format!("uid-{name}") })
}

fn get(time: (u64, u64), found: State) -> Entry {
    got(time, &found.name.clone(), Read::Found(found))
}

fn got((start, end): (u64, u64), name: &str, outcome: Read) -> Entry {
    Entry::Get(Get { client: "r".into(), start, end, name: name.into(), asked: Asked::Newest, outcome })
}

fn list(time: (u64, u64), version: u64, items: &[State]) -> Entry {
    pages(time, &[(version, items)])
}

fn pages((start, end): (u64, u64), pages: &[(u64, &[State])]) -> Entry {
    Entry::List(List {
        client: "r".into(),
        start,
        end,
        of: Selector::default(),
        asked: Asked::Newest,
        limit: None,
        pages: pages.iter().map(|(version, items)| Page { version: *version, items: items.to_vec() }).collect(),
        complete: true,
        gone: false,
        failed: String::new(),
    })
}

fn open(session: u64, from: u64) -> Entry {
    open_as(session, From::Version(from), Selector::default(), Opened::Yes)
}

fn open_as(session: u64, from: From, of: Selector, outcome: Opened) -> Entry {
    Entry::Open(Open { session, client: format!("watcher-{session}"), start: 0, end: 1, of, from, outcome })
}

fn event(session: u64, at: u64, kind: EventKind, state: State) -> Entry {
    Entry::Event(Event { session, at, kind, state })
}

fn added(session: u64, at: u64, state: State) -> Entry {
    event(session, at, EventKind::Added, state)
}

fn modified(session: u64, at: u64, state: State) -> Entry {
    event(session, at, EventKind::Modified, state)
}

fn deleted(session: u64, at: u64, state: State) -> Entry {
    event(session, at, EventKind::Deleted, state)
}

fn bookmark(session: u64, at: u64, version: u64) -> Entry {
    Entry::Bookmark(Bookmark { session, at, version, initial_end: false })
}

/// Two writes, and watch 1 that saw them and everything else up to the horizon.
fn two() -> Vec<Entry> {
    vec![
        setup(),
        create((10, 12), "x", 101, "x1"),
        update((20, 22), "x", 102, "x2"),
        open(1, 100),
        added(1, 12, state("x", 101, "x1")),
        modified(1, 22, state("x", 102, "x2")),
        bookmark(1, 900, HORIZON),
    ]
}

fn with(mut entries: Vec<Entry>, more: &[Entry]) -> Vec<Entry> {
    entries.extend_from_slice(more);
    entries
}

fn rules(history: &[Entry]) -> Vec<Rule> {
    match check(history) {
        Ok(_) => Vec::new(),
        Err(violations) => {
            for violation in &violations {
                assert!(!explain(history, violation).is_empty());
            }
            let mut rules: Vec<Rule> = violations.into_iter().map(|violation| violation.rule).collect();
            rules.sort_unstable();
            rules.dedup();
            rules
        }
    }
}

#[track_caller]
fn good(history: &[Entry]) {
    if let Err(violations) = check(history) {
        let texts: Vec<String> = violations.iter().map(|violation| explain(history, violation)).collect();
        panic!("{}", texts.concat());
    }
}

#[track_caller]
fn breaks(history: &[Entry], rule: Rule) {
    assert_eq!(rules(history), [rule]);
}

#[test]
fn a_plain_history_is_good_and_counted() {
    let history = with(two(), &[get((30, 31), state("x", 102, "x2")), list((30, 31), 102, &[state("x", 102, "x2")])]);
    let report = check(&history).expect("good");
    assert_eq!((report.changes, report.counts.written, report.counts.gets, report.counts.lists), (2, 2, 1, 1));
    assert_eq!((report.counts.events, report.counts.bookmarks, report.counts.longest_silence), (2, 1, 10));
}

#[test]
fn a_read_of_what_was_overwritten_before_it_began_is_stale() {
    breaks(&with(two(), &[get((30, 31), state("x", 101, "x1"))]), Rule::StaleRead);
    // While the second write was under way either may be read.
    good(&with(two(), &[get((21, 31), state("x", 101, "x1"))]));
    good(&with(two(), &[get((19, 21), state("x", 102, "x2"))]));
}

#[test]
fn what_one_reader_saw_no_later_reader_unsees() {
    let history = with(two(), &[get((20, 21), state("x", 102, "x2")), get((21, 23), state("x", 101, "x1"))]);
    // The same microsecond is concurrent, the next is not.
    good(&history);
    let history = with(two(), &[get((20, 20), state("x", 102, "x2")), get((21, 23), state("x", 101, "x1"))]);
    breaks(&history, Rule::StaleRead);
}

#[test]
fn what_a_watcher_saw_no_later_reader_unsees() {
    let mut history = two();
    history[5] = modified(1, 20, state("x", 102, "x2"));
    breaks(&with(history, &[get((21, 30), state("x", 101, "x1"))]), Rule::StaleRead);
}

#[test]
fn a_missing_object_must_have_been_missing() {
    let absent = |time| got(time, "x", Read::Absent);
    good(&with(two(), &[absent((5, 6)), absent((9, 11))]));
    breaks(&with(two(), &[absent((13, 14))]), Rule::StaleRead);
    let gone = [delete((30, 32), "x"), deleted(2, 33, state("x", 103, "x2")), bookmark(2, 900, HORIZON)];
    let mut history = two();
    history.pop();
    let history = with(with(history, &[open(2, 102)]), &gone);
    good(&with(history.clone(), &[absent((31, 34)), absent((40, 41))]));
    breaks(&with(history, &[get((40, 41), state("x", 102, "x2"))]), Rule::StaleRead);
}

#[test]
fn refusals_must_be_true() {
    let refused = |kind, time, outcome| write(kind, time, "x", "no", outcome);
    good(&with(two(), &[refused(WriteKind::Create, (11, 13), Outcome::Exists)]));
    good(&with(two(), &[refused(WriteKind::Update, (5, 11), Outcome::NotFound)]));
    breaks(&with(two(), &[refused(WriteKind::Update, (13, 14), Outcome::NotFound)]), Rule::StaleRead);
    let conflict = |time, expected| expecting(refused(WriteKind::Update, time, Outcome::Conflict), expected);
    good(&with(two(), &[conflict((13, 21), 101)]));
    breaks(&with(two(), &[conflict((30, 31), 102)]), Rule::StaleRead);
}

#[test]
fn a_refused_write_is_not_done() {
    let mut history = two();
    history[2] = write(WriteKind::Update, (20, 22), "x", "x2", Outcome::Conflict);
    breaks(&history, Rule::RefusedYetDone);
}

#[test]
fn an_unknown_write_may_or_may_not_have_happened() {
    let unknown = |time| write(WriteKind::Update, time, "x", "x2", Outcome::Unknown("timeout".into()));
    let mut happened = two();
    happened[2] = unknown((20, 22));
    good(&happened);
    let mut did_not = two();
    did_not[2] = unknown((20, 22));
    did_not.remove(5);
    good(&did_not);
    good(&with(did_not, &[get((30, 31), state("x", 101, "x1"))]));
    // But not before it was sent.
    let mut early = with(two(), &[get((15, 16), state("x", 102, "x2"))]);
    early[2] = unknown((20, 22));
    breaks(&early, Rule::RealTime);
}

#[test]
fn revisions_respect_real_time() {
    let mut history = two();
    history[2] = update((8, 9), "x", 102, "x2");
    breaks(&history, Rule::RealTime);
    let mut history = two();
    history.insert(3, create((30, 31), "y", 99, "y1"));
    assert!(rules(&history).contains(&Rule::RealTime));
}

#[test]
fn one_revision_is_one_thing() {
    breaks(&with(two(), &[create((30, 31), "y", 102, "y1")]), Rule::OneMeaning);
}

#[test]
fn nobody_reads_what_nobody_wrote() {
    assert!(rules(&with(two(), &[get((20, 22), state("x", 102, "other"))])).contains(&Rule::OneMeaning));
    assert!(rules(&with(two(), &[get((30, 32), state("z", 1001, "z1"))])).contains(&Rule::NobodysWrite));
}

#[test]
fn an_answer_is_what_was_written() {
    let history = with(two(), &[write(WriteKind::Update, (30, 31), "x", "x3", Outcome::Done(state("x", 102, "x2")))]);
    assert!(rules(&history).contains(&Rule::Answer));
}

#[test]
fn an_acknowledged_write_that_no_watch_tells_of_is_a_gap() {
    let mut history = two();
    history.remove(5);
    breaks(&history, Rule::WatchGap);
}

#[test]
fn an_acknowledged_deletion_must_happen() {
    breaks(&with(two(), &[delete((30, 31), "x")]), Rule::LostWrite);
}

#[test]
fn a_conditional_write_is_done_on_its_condition() {
    let mut history = two();
    history[2] = expecting(history[2].clone(), 101);
    good(&history);
    history[2] = expecting(history[2].clone(), 100);
    breaks(&history, Rule::LostUpdate);
}

#[test]
fn changes_of_an_object_follow_from_each_other() {
    let mut history = two();
    history[5] = added(1, 22, state("x", 102, "x2"));
    breaks(&history, Rule::Follows);
    let other = State { uid: "other".into(), ..state("x", 102, "x2") };
    let mut history = two();
    history[2] = write(WriteKind::Update, (20, 22), "x", "x2", Outcome::Done(other.clone()));
    history[5] = modified(1, 22, other);
    breaks(&history, Rule::Follows);
}

#[test]
fn events_come_in_order_once_each_and_after_the_start() {
    let mut history = two();
    history.swap(4, 5);
    breaks(&history, Rule::WatchOrder);
    let mut history = two();
    history.insert(6, modified(1, 23, state("x", 102, "x2")));
    breaks(&history, Rule::WatchRepeat);
    breaks(&with(two(), &[open(2, 102), modified(2, 40, state("x", 102, "x2"))]), Rule::WatchRepeat);
}

#[test]
fn a_resumed_watch_has_what_the_first_had() {
    good(&with(two(), &[open(2, 101), modified(2, 40, state("x", 102, "x2"))]));
    breaks(&with(two(), &[open(2, 101), bookmark(2, 40, 102)]), Rule::WatchGap);
    // It has not come to the change yet: nothing is missing.
    good(&with(two(), &[open(2, 100), added(2, 40, state("x", 101, "x1"))]));
}

#[test]
fn nothing_comes_after_the_bookmark_that_covers_it() {
    let more = [open(2, 100), added(2, 30, state("x", 101, "x1")), bookmark(2, 31, 102)];
    let history = with(with(two(), &more), &[modified(2, 32, state("x", 102, "x2"))]);
    breaks(&history, Rule::Bookmark);
    breaks(&with(two(), &[bookmark(1, 901, 950)]), Rule::Bookmark);
}

#[test]
fn watchers_agree_on_what_an_event_is() {
    let more = [open(2, 100), added(2, 40, state("x", 101, "x1")), added(2, 40, state("x", 102, "x2"))];
    assert!(rules(&with(two(), &more)).contains(&Rule::OneMeaning));
    let mut ghost = two();
    ghost[5] = deleted(1, 22, state("x", 102, "x1"));
    assert!(rules(&ghost).contains(&Rule::OneMeaning));
}

#[test]
fn a_selector_makes_of_changes_what_its_watcher_sees() {
    let entries = |seen: &[Entry]| {
        let moved = half(state("x", 102, "x2"), "b");
        let history = vec![
            setup(),
            create((10, 12), "x", 101, "x1"),
            write(WriteKind::Update, (20, 22), "x", "x2", Outcome::Done(moved.clone())),
            open(1, 100),
            added(1, 12, state("x", 101, "x1")),
            modified(1, 22, moved),
            bookmark(1, 900, HORIZON),
            open_as(2, From::Version(100), Selector { half: Some("a".into()), name: None }, Opened::Yes),
        ];
        with(history, seen)
    };
    let left = deleted(2, 22, state("x", 102, "x1"));
    good(&entries(&[added(2, 12, state("x", 101, "x1")), left.clone(), bookmark(2, 900, HORIZON)]));
    breaks(&entries(&[added(2, 12, state("x", 101, "x1")), bookmark(2, 900, HORIZON)]), Rule::WatchGap);
    breaks(&entries(&[left, bookmark(2, 900, HORIZON)]), Rule::WatchGap);
}

#[test]
fn a_list_is_the_state_at_its_revision() {
    let both = [state("x", 101, "x1"), state("y", 103, "y1")];
    let mut history = with(two(), &[create((30, 32), "y", 103, "y1")]);
    history.insert(6, added(1, 32, state("y", 103, "y1")));
    good(&with(history.clone(), &[list((40, 41), 103, &[state("x", 102, "x2"), state("y", 103, "y1")])]));
    // One object of before, one of after.
    breaks(&with(history.clone(), &[list((11, 41), 103, &both)]), Rule::ListAtRevision);
    breaks(&with(history.clone(), &[list((11, 41), 102, &both)]), Rule::ListAtRevision);
    breaks(&with(history.clone(), &[list((40, 41), 103, &[state("x", 102, "x2")])]), Rule::ListAtRevision);
    breaks(&with(history.clone(), &[list((40, 41), 102, &[state("x", 102, "x2")])]), Rule::StaleRead);
    let torn: [(u64, &[State]); 2] = [(102, &[state("x", 102, "x2")]), (103, &[state("y", 103, "y1")])];
    breaks(&with(history.clone(), &[pages((31, 41), &torn)]), Rule::Pages);
    let twice: [(u64, &[State]); 2] = [(102, &[state("x", 102, "x2")]), (102, &[state("x", 102, "x2")])];
    breaks(&with(history, &[pages((25, 41), &twice)]), Rule::Pages);
}

#[test]
fn an_unfinished_list_is_judged_as_far_as_it_came() {
    let mut unfinished = list((40, 41), 102, &[]);
    if let Entry::List(list) = &mut unfinished {
        list.complete = false;
        list.failed = "reset".into();
    }
    good(&with(two(), &[unfinished]));
}

#[test]
fn a_list_has_the_revision_that_was_asked_for() {
    let asked = |asked| {
        let mut entry = list((40, 41), 101, &[state("x", 101, "x1")]);
        if let Entry::List(list) = &mut entry {
            list.asked = asked;
        }
        with(two(), &[entry])
    };
    good(&asked(Asked::Any));
    good(&asked(Asked::Exact(101)));
    good(&asked(Asked::NotOlder(101)));
    breaks(&asked(Asked::Exact(102)), Rule::AskedRevision);
    breaks(&asked(Asked::NotOlder(102)), Rule::AskedRevision);
    breaks(&asked(Asked::Newest), Rule::StaleRead);
}

#[test]
fn what_a_watch_begins_with_is_a_list() {
    let initial = |states: &[State], version| {
        let mut entries = with(two(), &[open_as(2, From::Initial, Selector::default(), Opened::Yes)]);
        entries.extend(states.iter().map(|state| added(2, 40, state.clone())));
        entries.push(Entry::Bookmark(Bookmark { session: 2, at: 41, version, initial_end: true }));
        entries
    };
    good(&initial(&[state("x", 102, "x2")], 102));
    breaks(&initial(&[state("x", 101, "x1")], 102), Rule::ListAtRevision);
    breaks(&initial(&[], 102), Rule::ListAtRevision);
}

#[test]
fn gone_is_only_what_is_older_than_the_retention() {
    let gone = |at| {
        let mut entry = open_as(2, From::Version(101), Selector::default(), Opened::Gone);
        if let Entry::Open(open) = &mut entry {
            open.end = at;
        }
        with(two(), &[entry])
    };
    breaks(&gone(1_000_000), Rule::Gone);
    good(&gone(1_000_010));
    let end = Entry::End(End { session: 1, at: 500_000, kind: EndKind::Gone });
    breaks(&with(two(), &[end]), Rule::Gone);
}

#[test]
fn a_stuck_watcher_is_told() {
    let stuck = Entry::Stuck(Stuck { client: "watcher-1".into(), at: 99, reached: 101, wanted: 102 });
    breaks(&with(two(), &[stuck]), Rule::Stuck);
}

#[test]
fn a_history_survives_its_file() {
    for entry in with(two(), &[get((1, 2), state("x", 102, "x2")), list((3, 4), 102, &[]), delete((5, 6), "x")]) {
        let line = serde_json::to_string(&entry).expect("encodes");
        assert_eq!(serde_json::from_str::<Entry>(&line).expect("decodes"), entry, "{line}");
    }
}
