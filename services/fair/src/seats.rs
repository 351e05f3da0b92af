//! Turns to compute: a few seats, as many as there are cores, given to tenants by fair shares of the time they hold them.
//!
//! A seat is held while something is computed and never while something is waited for, so a handful is enough, and whoever
//! comes waits at most for one piece of work of another. While others are about, no tenant has all seats: who comes next
//! should find one free, as the work under way is not interrupted.
//!
//! Within a tenant, nodes and the cluster's own components have shares before its users, as Kubernetes' suggested priority
//! levels have it: a storm of requests does not turn nodes unready.

use std::collections::HashMap;
use std::hash::Hash;

use crate::queue::{Fair, Fifo, Queue};

/// For so long a tenant counts as being about after it last asked for a turn, in milliseconds. Longer than a node's
/// heartbeats are apart, shorter than the wait of somebody who left would be noticed.
const ABOUT: u64 = 10_000;

/// What kind of request, in Kubernetes' words (API Priority and Fairness, suggested configuration). Within a tenant, each has a
/// share of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Level {
    /// `node-high`, `system`: nodes.
    Nodes,
    /// `leader-election`, `workload-high`: components of the cluster, in `kube-system`.
    System,
    /// `workload-low`: service accounts.
    Workloads,
    /// `global-default`: people.
    Users,
    /// `catch-all`: who shows no credential.
    Anonymous,
}

impl Level {
    /// Every level.
    pub const ALL: [Self; 5] = [Self::Nodes, Self::System, Self::Workloads, Self::Users, Self::Anonymous];

    /// Its share of its tenant's turns: in the proportions of the suggested configuration's concurrency shares, where
    /// `node-high` and `system` have 70 of 225, and `catch-all` next to none.
    pub fn weight(self) -> u64 {
        match self {
            Self::Nodes | Self::System => 8,
            Self::Workloads | Self::Users => 4,
            Self::Anonymous => 1,
        }
    }

    /// Whether a cluster falls apart without it.
    pub fn is_vital(self) -> bool {
        match self {
            Self::Nodes | Self::System => true,
            Self::Workloads | Self::Users | Self::Anonymous => false,
        }
    }
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Who<T> {
    /// Whose share of the process.
    pub tenant: T,
    /// Which share of the tenant's.
    pub level: Level,
    /// Which share of the level's: a hash of cluster and user.
    pub user: u64,
}

/// What there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Turns at once.
    pub seats: usize,
    /// Requests of one level of one tenant that may wait for their first turn.
    pub waiting: usize,
}

/// What to do now.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// Begin; give the seat back with [`Seats::end`].
    Begin,
    /// The waiter was put in the queue: [`Seats::next`] gives it out again.
    Wait,
}

/// Too many of this level of this tenant wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// How many do.
    pub waiting: usize,
}

/// The seats and who waits for them. `W` is how a waiter is woken.
#[derive(Debug)]
pub struct Seats<T, W> {
    limits: Limits,
    free: usize,
    tenants: HashMap<T, Tenant>,
    queue: Fair<T, Fair<Level, Fair<u64, Fifo<Waiter<T, W>>>>>,
    /// The two tenants that asked last, and when, in milliseconds.
    about: [Option<(T, u64)>; 2],
}

#[derive(Debug)]
struct Waiter<T, W> {
    who: Who<T>,
    first: bool,
    wake: W,
}

#[derive(Debug, Default)]
struct Tenant {
    held: usize,
    /// All that wait.
    waiting: usize,
    /// Those that wait for their first turn, by level.
    new: [usize; Level::ALL.len()],
}

impl<T: Copy + Ord + Hash, W> Seats<T, W> {
    /// All free.
    pub fn new(limits: Limits) -> Self {
        let limits = Limits { seats: limits.seats.max(1), ..limits };
        Self { limits, free: limits.seats, tenants: HashMap::new(), queue: Fair::default(), about: [None, None] }
    }

    /// A turn for `who`, at `now` in milliseconds. The `first` turn of a request may be refused, later ones never are: what
    /// was begun is ended.
    pub fn ask(&mut self, who: Who<T>, first: bool, now: u64, wake: impl FnOnce() -> W) -> Result<Answer, Refused> {
        self.seen(who.tenant, now);
        let most = most(self.limits.seats, &self.about, who.tenant, now);
        let tenant = self.tenants.entry(who.tenant).or_default();
        if self.free > 0 && tenant.held < most && tenant.waiting == 0 {
            tenant.held += 1;
            self.free -= 1;
            if !self.is_alone(who.tenant, now) {
                self.queue.pass(&path(who), 1);
            }
            return Ok(Answer::Begin);
        }
        let new = &mut tenant.new[who.level as usize];
        if first {
            if *new >= self.limits.waiting {
                return Err(Refused { waiting: *new });
            }
            *new += 1;
        }
        tenant.waiting += 1;
        self.queue.push(path(who), 1, Waiter { who, first, wake: wake() });
        Ok(Answer::Wait)
    }

    /// A turn of `who` ended at `now` that cost so much: a thousandth of a millisecond of a core is 1.
    pub fn end(&mut self, who: Who<T>, cost: u64, now: u64) {
        if !self.is_alone(who.tenant, now) {
            self.queue.charge(&path(who), cost);
        }
        self.free += 1;
        if let Some(tenant) = self.tenants.get_mut(&who.tenant) {
            tenant.held -= 1;
            self.tidy(who.tenant);
        }
    }

    /// Whose turn it is now, if there is a seat: it has it. Who is not `wanted` any more has left.
    pub fn next(&mut self, now: u64, mut wanted: impl FnMut(&W) -> bool) -> Option<W> {
        if self.free == 0 {
            return None;
        }
        let (seats, about) = (self.limits.seats, self.about);
        let tenants = &self.tenants;
        let may = |tenant: &T| tenants.get(tenant).is_none_or(|state| state.held < most(seats, &about, *tenant, now));
        let mut left: Vec<(Who<T>, bool)> = Vec::new();
        let popped = self.queue.pop_where(may, &mut |waiter| {
            let stays = wanted(&waiter.wake);
            if !stays {
                left.push((waiter.who, waiter.first));
            }
            stays
        });
        for (who, first) in left {
            self.leave(who, first);
        }
        let (_, Waiter { who, first, wake }) = popped?;
        self.free -= 1;
        self.tenants.entry(who.tenant).or_default().held += 1;
        self.leave(who, first);
        Some(wake)
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Nobody waits, and nobody else is about: there is nothing to share, and nothing to keep account of.
    fn is_alone(&self, tenant: T, now: u64) -> bool {
        self.queue.is_empty() && !is_other_about(&self.about, tenant, now)
    }

    fn leave(&mut self, who: Who<T>, first: bool) {
        if let Some(tenant) = self.tenants.get_mut(&who.tenant) {
            tenant.waiting -= 1;
            tenant.new[who.level as usize] -= usize::from(first);
            self.tidy(who.tenant);
        }
    }

    fn tidy(&mut self, tenant: T) {
        if self.tenants.get(&tenant).is_some_and(|state| state.held == 0 && state.waiting == 0) {
            self.tenants.remove(&tenant);
        }
    }

    fn seen(&mut self, tenant: T, now: u64) {
        match &mut self.about[0] {
            Some((last, at)) if *last == tenant => *at = now,
            _ => self.about = [Some((tenant, now)), self.about[0]],
        }
    }
}

/// How many seats a tenant may have: all, or, while another is about, a quarter less, but one at least.
fn most<T: PartialEq>(seats: usize, about: &[Option<(T, u64)>; 2], tenant: T, now: u64) -> usize {
    if is_other_about(about, tenant, now) { (seats - (seats / 4).max(1)).max(1) } else { seats }
}

fn is_other_about<T: PartialEq>(about: &[Option<(T, u64)>; 2], tenant: T, now: u64) -> bool {
    about.iter().flatten().any(|(seen, at)| *seen != tenant && now.saturating_sub(*at) < ABOUT)
}

fn path<T>(who: Who<T>) -> (T, u64, (Level, u64, (u64, u64, ()))) {
    (who.tenant, 1, (who.level, who.level.weight(), (who.user, 1, ())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { seats: 4, waiting: 3 };

    fn who(tenant: char, level: Level) -> Who<char> {
        Who { tenant, level, user: 0 }
    }

    fn user(tenant: char) -> Who<char> {
        who(tenant, Level::Users)
    }

    /// Asks so many times: how many begin, wait, are refused.
    fn ask<W: Clone>(seats: &mut Seats<char, W>, who: Who<char>, times: usize, wake: W) -> [usize; 3] {
        let mut told = [0; 3];
        for _ in 0..times {
            let answer = match seats.ask(who, true, 0, || wake.clone()) {
                Ok(Answer::Begin) => 0,
                Ok(Answer::Wait) => 1,
                Err(_) => 2,
            };
            told[answer] += 1;
        }
        told
    }

    #[test]
    fn one_tenant_alone_has_every_seat() {
        let mut seats = Seats::new(LIMITS);
        assert_eq!(ask(&mut seats, user('n'), 9, 'n'), [4, 3, 2]);
    }

    #[test]
    fn beside_another_a_tenant_leaves_a_seat_free() {
        let mut seats = Seats::new(LIMITS);
        assert_eq!(ask(&mut seats, user('q'), 1, 'q'), [1, 0, 0]);
        seats.end(user('q'), 1, 0);
        assert_eq!(ask(&mut seats, user('n'), 5, 'n'), [3, 2, 0]);
        assert_eq!(seats.next(0, |_| true), None, "the last seat is not for the same tenant");
        assert_eq!(ask(&mut seats, user('q'), 2, 'q'), [1, 1, 0]);
        seats.end(user('n'), 1, 0);
        assert_eq!(seats.next(0, |_| true), Some('q'));
        // The other has left long ago.
        seats.end(user('q'), 1, 0);
        seats.end(user('q'), 1, 0);
        assert_eq!([seats.next(ABOUT, |_| true), seats.next(ABOUT, |_| true)], [Some('n'), Some('n')]);
        assert_eq!((seats.free, seats.waiting(), seats.tenants.len()), (0, 0, 1));
    }

    #[test]
    fn a_quiet_tenant_is_served_next_however_long_the_queue_of_another_is() {
        let mut seats = Seats::new(Limits { seats: 1, waiting: 1000 });
        ask(&mut seats, user('n'), 500, 'n');
        assert_eq!(ask(&mut seats, user('q'), 1, 'q'), [0, 1, 0]);
        seats.end(user('n'), 100, 0);
        assert_eq!(seats.next(0, |_| true), Some('q'));
    }

    #[test]
    fn nodes_of_a_tenant_are_served_before_its_own_storm_and_find_room_to_wait() {
        let mut seats = Seats::new(Limits { seats: 1, waiting: 3 });
        assert_eq!(ask(&mut seats, user('t'), 5, "user"), [1, 3, 1]);
        assert_eq!(ask(&mut seats, who('t', Level::Nodes), 2, "node"), [0, 2, 0]);
        let mut order = Vec::new();
        seats.end(user('t'), 1000, 0);
        while let Some(woken) = seats.next(0, |_| true) {
            order.push(woken);
            seats.end(who('t', if woken == "user" { Level::Users } else { Level::Nodes }), 1000, 0);
        }
        assert_eq!(order, ["node", "node", "user", "user", "user"]);
    }

    #[test]
    fn later_turns_of_a_request_are_never_refused() {
        let mut seats = Seats::new(Limits { seats: 1, waiting: 0 });
        assert_eq!(seats.ask(user('a'), true, 0, || 1), Ok(Answer::Begin));
        assert_eq!(seats.ask(user('a'), true, 0, || 2), Err(Refused { waiting: 0 }));
        assert_eq!(seats.ask(user('a'), false, 0, || 3), Ok(Answer::Wait));
    }

    #[test]
    fn who_leaves_makes_room_and_takes_no_seat() {
        let mut seats = Seats::new(Limits { seats: 1, waiting: 2 });
        assert_eq!(ask(&mut seats, user('a'), 2, "gone"), [1, 1, 0]);
        assert_eq!(ask(&mut seats, user('a'), 2, "stays"), [0, 1, 1]);
        seats.end(user('a'), 1, 0);
        assert_eq!(seats.next(0, |wake| *wake != "gone"), Some("stays"));
        seats.end(user('a'), 1, 0);
        assert_eq!((seats.free, seats.waiting(), seats.tenants.len()), (1, 0, 0));
    }

    #[test]
    fn who_holds_seats_longer_gets_fewer_turns() {
        let mut seats = Seats::new(Limits { seats: 1, waiting: 100 });
        ask(&mut seats, user('l'), 50, 'l');
        ask(&mut seats, user('s'), 50, 's');
        seats.end(user('l'), 1000, 0);
        let mut short = 0;
        for _ in 0..40 {
            let woken = seats.next(0, |_| true).unwrap();
            short += usize::from(woken == 's');
            seats.end(user(woken), if woken == 's' { 100 } else { 900 }, 0);
        }
        assert!((35..=37).contains(&short), "{short} of 40 turns, nine for one: as much time for each");
    }
}
