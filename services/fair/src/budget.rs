//! Budgets: how much all may have at once, and how much one of them.

use std::collections::HashMap;
use std::hash::Hash;

/// What is held, by whom.
#[derive(Debug)]
pub struct Budget<K> {
    all: u64,
    each: u64,
    used: u64,
    by: HashMap<K, u64>,
}

/// Which limit was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Everybody's together.
    All,
    /// One's own.
    Own,
}

/// Nothing was taken: it would have been more than there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exceeded {
    /// Whose limit.
    pub whose: Limit,
    /// What is held under it.
    pub used: u64,
    /// What may be.
    pub limit: u64,
}

impl<K: Eq + Hash + Copy> Budget<K> {
    /// So much for all together, and for each.
    pub fn new(all: u64, each: u64) -> Self {
        Self { all, each: each.min(all), used: 0, by: HashMap::new() }
    }

    /// Takes `amount`, if `spare` of what one may have is left then: for others of the same holder, who matter more.
    pub fn take(&mut self, who: K, amount: u64, spare: u64) -> Result<(), Exceeded> {
        let own = self.by.get(&who).copied().unwrap_or(0);
        let each = self.each - self.each.min(spare);
        if own.saturating_add(amount) > each {
            return Err(Exceeded { whose: Limit::Own, used: own, limit: each });
        }
        if self.used.saturating_add(amount) > self.all {
            return Err(Exceeded { whose: Limit::All, used: self.used, limit: self.all });
        }
        self.used += amount;
        *self.by.entry(who).or_default() += amount;
        Ok(())
    }

    /// Gives back what was taken.
    pub fn give_back(&mut self, who: K, amount: u64) {
        self.used -= amount.min(self.used);
        if let Some(own) = self.by.get_mut(&who) {
            *own -= amount.min(*own);
            if *own == 0 {
                self.by.remove(&who);
            }
        }
    }

    /// What is held by all.
    pub fn used(&self) -> u64 {
        self.used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_more_than_his_own_nor_all_more_than_there_is() {
        let mut budget = Budget::new(10, 6);
        let own = |used, limit| Err(Exceeded { whose: Limit::Own, used, limit });
        // who, amount, spare -> answer
        for (who, amount, spare, answer) in [
            ('a', 4, 0, Ok(())),
            ('a', 3, 0, own(4, 6)),
            ('a', 2, 1, own(4, 5)),
            ('a', 2, 0, Ok(())),
            ('b', 5, 0, Err(Exceeded { whose: Limit::All, used: 6, limit: 10 })),
            ('b', 4, 0, Ok(())),
            ('c', u64::MAX, 0, own(0, 6)),
        ] {
            assert_eq!(budget.take(who, amount, spare), answer, "{who} {amount} {spare}");
        }
        budget.give_back('a', 6);
        assert_eq!((budget.used(), budget.by.len()), (4, 1));
        assert_eq!(budget.take('c', 6, 0), Ok(()));
    }
}
