use super::*;

const BACKOFF: Backoff = Backoff { base: Duration::from_millis(10), max: Duration::from_secs(1) };

fn job(name: &str) -> Job {
    Job { controller: 0, key: ObjectKey::new(&"pods".into(), "default", name) }
}

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap()
}

fn done() -> Finished {
    Finished::Done { wake_at: None }
}

#[test]
fn wake_ups_of_a_key_coalesce() {
    let mut queue = Queue::new(BACKOFF);
    queue.wake(job("a"), Revision(1));
    queue.wake(job("a"), Revision(2));
    assert_eq!(queue.start(Revision(2), at(0)), Some(job("a")));
    assert_eq!(queue.start(Revision(2), at(0)), None);
    queue.wake(job("a"), Revision(3));
    queue.wake(job("a"), Revision(4));
    assert_eq!(queue.start(Revision(4), at(0)), None, "not while it runs");
    queue.finish(&job("a"), done(), None, at(0));
    assert_eq!(queue.start(Revision(4), at(0)), Some(job("a")));
    queue.finish(&job("a"), done(), None, at(0));
    assert_eq!(queue.start(Revision(4), at(0)), None);
    assert!(queue.is_quiet() && queue.entries.is_empty());
}

#[test]
fn a_key_is_not_planned_before_the_view_has_its_own_writes() {
    let mut queue = Queue::new(BACKOFF);
    queue.wake(job("a"), Revision(1));
    queue.start(Revision(1), at(0)).unwrap();
    queue.finish(&job("a"), done(), Some(Revision(9)), at(0));
    queue.wake(job("a"), Revision(8));
    assert_eq!(queue.start(Revision(8), at(0)), None);
    assert!(!queue.is_quiet());
    assert_eq!(queue.start(Revision(9), at(0)), Some(job("a")));
}

#[test]
fn a_failing_key_backs_off_until_somebody_else_changes_something() {
    let mut queue = Queue::new(BACKOFF);
    queue.wake(job("a"), Revision(1));
    let failed = || Finished::Failed { failure: None };
    queue.start(Revision(1), at(0)).unwrap();
    queue.finish(&job("a"), failed(), Some(Revision(3)), at(0));
    queue.wake(job("a"), Revision(3));
    assert_eq!(queue.start(Revision(3), at(9)), None, "its own write is no news");
    assert_eq!(queue.next_timer(), Some(at(10)));
    assert_eq!(queue.start(Revision(3), at(10)), Some(job("a")));
    queue.finish(&job("a"), failed(), None, at(10));
    assert_eq!(queue.next_timer(), Some(at(30)), "twice as long");
    queue.wake(job("a"), Revision(4));
    assert_eq!(queue.start(Revision(4), at(11)), Some(job("a")));
    queue.finish(&job("a"), done(), None, at(11));
    assert!(queue.is_quiet() && queue.next_timer().is_none());
}

#[test]
fn a_timer_wakes_its_key_and_a_new_plan_replaces_it() {
    let mut queue = Queue::new(BACKOFF);
    queue.wake(job("a"), Revision(1));
    queue.start(Revision(1), at(0)).unwrap();
    queue.finish(&job("a"), Finished::Done { wake_at: Some(at(100)) }, None, at(0));
    queue.wake(job("a"), Revision(2));
    queue.start(Revision(2), at(50)).unwrap();
    queue.finish(&job("a"), Finished::Done { wake_at: Some(at(200)) }, None, at(50));
    assert_eq!(queue.start(Revision(2), at(150)), None);
    assert_eq!(queue.start(Revision(2), at(200)), Some(job("a")));
}
