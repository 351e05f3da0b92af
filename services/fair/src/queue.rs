//! Start-time fair queueing (P. Goyal, H. M. Vin, H. Cheng, SIGCOMM 1996), nested.
//!
//! A flow's next item has a start tag: where the flow's last item ended in virtual time, or now, if it was idle. The lowest
//! tag is served next, and virtual time is the tag of what was served last. So a flow that has nothing waiting is served
//! next when it comes, and flows that always wait get shares by weight. What something costs may become known afterwards
//! ([`Fair::charge`]), which is why tags are starts and not ends.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::Hash;

/// Virtual time passes in this many parts of one unit of cost, so that weights divide without rounding to nothing.
const FINE: u128 = 1 << 16;
/// Idle flows that are ahead of virtual time are remembered, up to this many more than there are others.
const REMEMBERED: usize = 4096;

/// What items can be put into and taken from.
pub trait Queue: Default {
    /// Where in the queue an item belongs.
    type Path;
    /// What waits.
    type Item;

    /// Puts an item at the end of its flow.
    fn push(&mut self, path: Self::Path, cost: u64, item: Self::Item);

    /// The next item and its cost. Items that are not `wanted` any more are dropped unpaid.
    fn pop(&mut self, wanted: &mut dyn FnMut(&Self::Item) -> bool) -> Option<(u64, Self::Item)>;

    /// As putting in and taking out at once, of a flow in which nothing waits.
    fn pass(&mut self, path: &Self::Path, cost: u64);

    /// Says that something of this path cost more than was said when it was put in.
    fn charge(&mut self, path: &Self::Path, more: u64);

    /// How many wait, the unwanted included.
    fn len(&self) -> usize;

    /// Whether nothing waits.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// In order of arrival.
#[derive(Debug)]
pub struct Fifo<T>(VecDeque<(u64, T)>);

impl<T> Default for Fifo<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T> Queue for Fifo<T> {
    type Path = ();
    type Item = T;

    fn push(&mut self, (): (), cost: u64, item: T) {
        self.0.push_back((cost, item));
    }

    fn pop(&mut self, wanted: &mut dyn FnMut(&T) -> bool) -> Option<(u64, T)> {
        loop {
            let (cost, item) = self.0.pop_front()?;
            if wanted(&item) {
                return Some((cost, item));
            }
        }
    }

    fn pass(&mut self, (): &(), _cost: u64) {}

    fn charge(&mut self, (): &(), _more: u64) {}

    fn len(&self) -> usize {
        self.0.len()
    }
}

/// Flows by key, each with its share. A path is `(key, weight, path within the flow)`.
#[derive(Debug)]
pub struct Fair<K, Q> {
    flows: HashMap<K, Flow<Q>>,
    /// Flows in which something waits: start tag, order of arrival, key.
    ready: BTreeSet<(u128, u64, K)>,
    /// Other flows, by the tag from which on they are as any new one.
    idle: BTreeSet<(u128, K)>,
    now: u128,
    arrivals: u64,
    len: usize,
}

#[derive(Debug)]
struct Flow<Q> {
    queue: Q,
    weight: u64,
    /// Where its next item starts, at the earliest.
    tag: u128,
    /// When it became ready.
    since: u64,
}

impl<K, Q> Default for Fair<K, Q> {
    fn default() -> Self {
        Self { flows: HashMap::new(), ready: BTreeSet::new(), idle: BTreeSet::new(), now: 0, arrivals: 0, len: 0 }
    }
}

impl<K: Copy + Ord + Hash, Q: Queue> Fair<K, Q> {
    /// As [`Queue::pop`], of the flows that may have something now.
    pub fn pop_where(
        &mut self,
        may: impl Fn(&K) -> bool,
        wanted: &mut dyn FnMut(&Q::Item) -> bool,
    ) -> Option<(u64, Q::Item)> {
        loop {
            let entry = self.ready.iter().find(|(_, _, key)| may(key)).copied()?;
            self.ready.remove(&entry);
            let (tag, _, key) = entry;
            let flow = self.flows.get_mut(&key)?;
            let before = flow.queue.len();
            let popped = flow.queue.pop(wanted);
            self.len -= before - flow.queue.len();
            if let Some((cost, _)) = &popped {
                self.now = self.now.max(tag);
                flow.tag = tag + parts(*cost, flow.weight);
            }
            if flow.queue.is_empty() {
                self.idle.insert((flow.tag, key));
                self.forget();
            } else {
                self.ready.insert((flow.tag, flow.since, key));
            }
            if popped.is_some() {
                return popped;
            }
        }
    }

    fn flow(&mut self, key: K, weight: u64) -> &mut Flow<Q> {
        let new = || Flow { queue: Q::default(), weight: 1, tag: 0, since: 0 };
        let flow = self.flows.entry(key).or_insert_with(new);
        flow.weight = weight.max(1);
        flow
    }

    /// Flows that are behind virtual time are as good as new ones.
    fn forget(&mut self) {
        while let Some((tag, key)) = self.idle.first().copied() {
            if tag > self.now && self.idle.len() <= self.ready.len() + REMEMBERED {
                break;
            }
            self.idle.pop_first();
            self.flows.remove(&key);
        }
    }
}

impl<K: Copy + Ord + Hash, Q: Queue> Queue for Fair<K, Q> {
    type Path = (K, u64, Q::Path);
    type Item = Q::Item;

    fn push(&mut self, (key, weight, path): Self::Path, cost: u64, item: Q::Item) {
        let (now, arrival) = (self.now, self.arrivals + 1);
        let flow = self.flow(key, weight);
        let was_idle = flow.queue.is_empty();
        let before = flow.tag;
        if was_idle {
            flow.tag = flow.tag.max(now);
            flow.since = arrival;
        }
        let tag = flow.tag;
        flow.queue.push(path, cost, item);
        if was_idle {
            self.idle.remove(&(before, key));
            self.ready.insert((tag, arrival, key));
            self.arrivals = arrival;
        }
        self.len += 1;
    }

    fn pop(&mut self, wanted: &mut dyn FnMut(&Q::Item) -> bool) -> Option<(u64, Q::Item)> {
        self.pop_where(|_| true, wanted)
    }

    fn pass(&mut self, (key, weight, path): &Self::Path, cost: u64) {
        let now = self.now;
        let flow = self.flow(*key, *weight);
        debug_assert!(flow.queue.is_empty(), "what waits is passed by");
        let before = flow.tag;
        let start = before.max(now);
        flow.tag = start + parts(cost, *weight);
        let tag = flow.tag;
        flow.queue.pass(path, cost);
        self.now = start;
        self.idle.remove(&(before, *key));
        self.idle.insert((tag, *key));
        self.forget();
    }

    fn charge(&mut self, (key, weight, path): &Self::Path, more: u64) {
        // A flow that is forgotten is behind virtual time: it has earned what it took.
        let Some(flow) = self.flows.get_mut(key) else { return };
        let tag = flow.tag + parts(more, *weight);
        if flow.queue.is_empty() {
            self.idle.remove(&(flow.tag, *key));
            self.idle.insert((tag, *key));
        } else {
            self.ready.remove(&(flow.tag, flow.since, *key));
            self.ready.insert((tag, flow.since, *key));
        }
        flow.tag = tag;
        flow.queue.charge(path, more);
    }

    fn len(&self) -> usize {
        self.len
    }
}

/// Nothing is free: flows that cost nothing still take turns.
fn parts(cost: u64, weight: u64) -> u128 {
    (u128::from(cost) * FINE / u128::from(weight.max(1))).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Flat = Fair<char, Fifo<char>>;

    fn push(queue: &mut Flat, flow: char, weight: u64, costs: &[u64]) {
        costs.iter().for_each(|cost| queue.push((flow, weight, ()), *cost, flow));
    }

    fn served(queue: &mut Flat, count: usize) -> String {
        (0..count).filter_map(|_| queue.pop(&mut |_| true)).map(|(_, item)| item).collect()
    }

    #[test]
    fn who_comes_to_a_long_queue_of_another_is_served_next() {
        let mut queue = Flat::default();
        push(&mut queue, 'n', 1, &[1; 1000]);
        assert_eq!(served(&mut queue, 3), "nnn");
        push(&mut queue, 'q', 1, &[1]);
        assert_eq!(served(&mut queue, 2), "qn");
        assert_eq!(queue.len(), 996);
    }

    #[test]
    fn shares_are_by_cost_and_weight() {
        // (a's weight and cost, b's weight and cost) -> of ten, how many are a's
        for ((weight_a, cost_a), (weight_b, cost_b), of_a) in
            [((1, 1), (1, 1), 5), ((4, 1), (1, 1), 8), ((1, 4), (1, 1), 2), ((1, 1000), (1, 1), 1), ((1, 0), (1, 0), 5)]
        {
            let mut queue = Flat::default();
            push(&mut queue, 'a', weight_a, &[cost_a; 20]);
            push(&mut queue, 'b', weight_b, &[cost_b; 20]);
            let told = served(&mut queue, 10);
            assert_eq!(told.matches('a').count(), of_a, "{weight_a} {cost_a} {weight_b} {cost_b}: {told}");
        }
    }

    #[test]
    fn what_is_charged_afterwards_counts_as_if_it_had_been_said() {
        let mut queue = Flat::default();
        push(&mut queue, 'a', 1, &[1; 10]);
        push(&mut queue, 'b', 1, &[1; 10]);
        assert_eq!(served(&mut queue, 1), "a");
        queue.charge(&('a', 1, ()), 4);
        assert_eq!(served(&mut queue, 7), "bbbbbab");
    }

    #[test]
    fn being_idle_saves_nothing_up() {
        let mut queue = Flat::default();
        push(&mut queue, 'a', 1, &[1; 100]);
        assert_eq!(served(&mut queue, 50).len(), 50);
        push(&mut queue, 'b', 1, &[1; 100]);
        let told = served(&mut queue, 10);
        assert_eq!(told.matches('b').count(), 5, "{told}");
    }

    #[test]
    fn a_flow_that_took_much_and_left_does_not_come_back_as_new() {
        let mut queue = Flat::default();
        push(&mut queue, 'a', 1, &[1]);
        push(&mut queue, 'b', 1, &[1; 100]);
        assert_eq!(served(&mut queue, 2), "ab");
        queue.charge(&('a', 1, ()), 20);
        push(&mut queue, 'a', 1, &[1]);
        assert_eq!(served(&mut queue, 20).find('a'), None);
        assert!(served(&mut queue, 2).contains('a'));
    }

    #[test]
    fn who_has_left_is_passed_over_unpaid() {
        let mut queue = Flat::default();
        push(&mut queue, 'a', 1, &[1000; 5]);
        push(&mut queue, 'b', 1, &[1]);
        let mut leaving = 4;
        let mut wanted = |item: &char| {
            let leaves = *item == 'a' && leaving > 0;
            leaving -= i32::from(leaves);
            !leaves
        };
        // Four of a's five are gone; the last is a's first, and comes first.
        let order: Vec<char> = std::iter::from_fn(|| queue.pop(&mut wanted)).map(|(_, item)| item).collect();
        assert_eq!(order, ['a', 'b']);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_flow_that_may_not_is_passed_over_and_keeps_its_place() {
        let mut queue = Flat::default();
        push(&mut queue, 'a', 1, &[1; 3]);
        push(&mut queue, 'b', 1, &[1; 3]);
        let pop = |queue: &mut Flat, not: char| queue.pop_where(|key| *key != not, &mut |_| true).map(|(_, item)| item);
        assert_eq!([pop(&mut queue, 'a'), pop(&mut queue, 'a')], [Some('b'), Some('b')]);
        assert_eq!(served(&mut queue, 2), "aa", "it has not lost its share meanwhile");
        assert_eq!([pop(&mut queue, 'b'), pop(&mut queue, 'b')], [Some('a'), None]);
        assert_eq!(served(&mut queue, 3), "b");
    }

    #[test]
    fn passing_costs_what_waiting_does() {
        let mut queue = Flat::default();
        (0..5).for_each(|_| queue.pass(&('a', 1, ()), 2));
        push(&mut queue, 'a', 1, &[1]);
        push(&mut queue, 'b', 1, &[1; 4]);
        assert_eq!(served(&mut queue, 4), "bbab");
    }

    #[test]
    fn flows_within_a_flow_share_what_it_gets() {
        let mut queue: Fair<u8, Flat> = Fair::default();
        for _ in 0..100 {
            queue.push((1, 1, ('a', 1, ())), 1, 'a');
            queue.push((2, 1, ('x', 1, ())), 1, 'x');
            queue.push((2, 1, ('y', 3, ())), 1, 'y');
        }
        let mut told = String::new();
        for _ in 0..80 {
            told.extend(queue.pop(&mut |_| true).map(|(_, item)| item));
        }
        let count = |flow: char| told.matches(flow).count();
        assert_eq!([count('a'), count('x'), count('y')], [40, 10, 30]);
        assert_eq!(queue.len(), 220);
    }

    #[test]
    fn flows_that_left_are_forgotten() {
        let mut queue: Fair<u32, Fifo<u32>> = Fair::default();
        for flow in 0..100_000 {
            queue.push((flow, 1, ()), 1, flow);
            assert_eq!(queue.pop(&mut |_| true), Some((1, flow)));
        }
        assert!(queue.flows.len() <= REMEMBERED + 1, "{} flows are remembered", queue.flows.len());
        assert_eq!(queue.flows.len(), queue.idle.len());
    }
}
