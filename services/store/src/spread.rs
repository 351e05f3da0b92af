//! Who owns which shard: from what lease rows say to what one replica does about it. Pure, and the same on every replica, so
//! that all come to one answer without asking each other.
//!
//! - Each member's share is the number of shards over the number of members, rounded down or up; who holds more already gets
//!   the rounding, so that shares that are even stay where they are.
//! - A free shard is taken by the member whose share it falls into. If it does not, anybody takes it: a shard without an owner
//!   is worse than an uneven share.
//! - A shard that has an owner moves only when the owner gives it away. A member that has just started is given nothing, so
//!   that one that keeps crashing does not take shards down with it.

use std::collections::BTreeMap;
use std::time::Duration;

use galley_types::ShardId;

/// A replica that owns shards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    /// As in lease rows.
    pub holder: String,
    /// Where other replicas reach it, `HOST:PORT`. Empty: nowhere.
    pub address: String,
    /// How long it has been running.
    pub age: Duration,
    /// It gives its shards away, and takes none.
    pub leaving: bool,
}

/// Who holds a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lot {
    pub shard: ShardId,
    /// Whose name is in the lease row, whether or not the lease still holds.
    pub holder: Option<String>,
    /// What is left of the lease. `None`: nobody's.
    pub left: Option<Duration>,
    /// How long it has been nobody's.
    pub free_for: Duration,
}

impl Lot {
    /// Whose lease holds.
    pub(crate) fn owner(&self) -> Option<&str> {
        self.holder.as_deref().filter(|_| self.left.is_some())
    }
}

/// All that lease rows said at one time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Roster {
    /// Those whose rows have not run out.
    pub members: Vec<Member>,
    pub lots: Vec<Lot>,
}

/// How patient replicas are with each other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// A member younger than this is given nothing, unless all are.
    pub settle: Duration,
    /// A shard that has been free so long is anybody's.
    pub overdue: Duration,
}

/// What one replica does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Shares {
    /// To be taken, if they are still free or in this replica's name.
    pub take: Vec<ShardId>,
    /// To be handed over, and to whom. `None`: whoever wants it, which only a replica that leaves does.
    pub give: Vec<(ShardId, Option<String>)>,
}

/// What `me` does, which holds the shards of `held`.
pub(crate) fn shares(me: &str, held: &[ShardId], roster: &Roster, patience: Patience) -> Shares {
    let staying: Vec<&Member> = roster.members.iter().filter(|member| !member.leaving).collect();
    let i_stay = staying.iter().any(|member| member.holder == me);
    let grown = |member: &&&Member| member.age >= patience.settle;
    let all_young = !staying.iter().any(|member| grown(&member));
    let sharing: BTreeMap<&str, usize> =
        staying.iter().filter(|member| all_young || grown(member)).map(|member| (member.holder.as_str(), 0)).collect();
    let is_mine = |lot: &Lot| held.contains(&lot.shard);

    // What members hold; what nobody does, or what is to go; what is left to whoever has it.
    let mut holdings: BTreeMap<&str, Vec<&Lot>> = sharing.keys().map(|holder| (*holder, Vec::new())).collect();
    let mut pool: Vec<&Lot> = Vec::new();
    let mut shares = Shares::default();
    for lot in &roster.lots {
        let owner = if is_mine(lot) { Some(me) } else { lot.owner() };
        match owner {
            // Handed over to this replica, or left by it when it was killed.
            Some(owner) if owner == me && !is_mine(lot) => {
                if i_stay {
                    shares.take.push(lot.shard);
                }
                if let Some(holding) = holdings.get_mut(me) {
                    holding.push(lot);
                }
            }
            Some(owner) if owner == me && !i_stay => pool.push(lot),
            Some(owner) => {
                if let Some(holding) = holdings.get_mut(owner) {
                    holding.push(lot);
                }
            }
            None => pool.push(lot),
        }
    }

    let total = pool.len() + holdings.values().map(Vec::len).sum::<usize>();
    let mut order: Vec<(&str, Vec<&Lot>)> = holdings.into_iter().collect();
    order.sort_by_key(|(holder, holding)| (std::cmp::Reverse(holding.len()), *holder));
    let (base, extra) = total.checked_div(order.len()).map_or((0, 0), |base| (base, total % order.len()));
    let mut wanting: Vec<(&str, usize)> = Vec::new();
    for (at, (holder, holding)) in order.iter_mut().enumerate() {
        let quota = base + usize::from(at < extra);
        pool.extend(holding.drain(quota.min(holding.len())..));
        wanting.push((*holder, quota - holding.len()));
    }
    // Those with least come first.
    wanting.reverse();
    pool.sort_by_key(|lot| lot.shard);
    let mut heirs = wanting.into_iter().flat_map(|(holder, count)| std::iter::repeat_n(holder, count));
    for lot in pool {
        let heir = heirs.next();
        if is_mine(lot) {
            if heir != Some(me) {
                shares.give.push((lot.shard, heir.map(str::to_owned)));
            }
        } else if lot.owner().is_none() && i_stay && (heir == Some(me) || lot.free_for >= patience.overdue) {
            shares.take.push(lot.shard);
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience { settle: Duration::from_secs(5), overdue: Duration::from_secs(4) };

    /// `a+3 b c`: members by age in minutes (`-` leaves, `!` has just started).
    fn members(text: &str) -> Vec<Member> {
        text.split_whitespace()
            .map(|word| Member {
                holder: word.trim_end_matches(['!', '-']).to_owned(),
                address: String::new(),
                age: Duration::from_secs(if word.ends_with('!') { 1 } else { 60 }),
                leaving: word.ends_with('-'),
            })
            .collect()
    }

    /// A letter for each shard: its owner; `.` free, `,` free for long.
    fn lots(text: &str) -> Vec<Lot> {
        let lot = |(at, holder): (usize, char)| Lot {
            shard: ShardId(i32::try_from(at).expect("few")),
            holder: holder.is_alphabetic().then(|| holder.to_string()),
            left: holder.is_alphabetic().then_some(Duration::from_secs(9)),
            free_for: Duration::from_secs(if holder == ',' { 4 } else { 0 }),
        };
        text.chars().enumerate().map(lot).collect()
    }

    fn held(text: &str, me: &str) -> Vec<ShardId> {
        lots(text).into_iter().filter(|lot| lot.owner() == Some(me)).map(|lot| lot.shard).collect()
    }

    /// Every member acts on the same rows: what the rows say then.
    fn step(who: &str, owners: &str) -> String {
        let roster = Roster { members: members(who), lots: lots(owners) };
        let mut after: Vec<char> = owners.chars().map(|owner| if owner == ',' { '.' } else { owner }).collect();
        for member in &roster.members {
            let at = |shard: ShardId| usize::try_from(shard.0).expect("small");
            let shares = shares(&member.holder, &held(owners, &member.holder), &roster, PATIENCE);
            for shard in shares.take {
                after[at(shard)] = member.holder.chars().next().expect("a name");
            }
            for (shard, heir) in shares.give {
                after[at(shard)] = heir.and_then(|heir| heir.chars().next()).unwrap_or('.');
            }
        }
        after.into_iter().collect()
    }

    #[test]
    fn shares_become_even_in_one_step_and_stay() {
        for (who, before, after) in [
            // The first takes everything, of whatever age.
            ("a", "......", "aaaaaa"),
            ("a!", ",,,,,,", "aaaaaa"),
            // A second one joins, then a third.
            ("a b", "aaaaaa", "aaabbb"),
            ("a b c", "aaabbb", "aabbcc"),
            // Uneven numbers: whoever has more keeps it.
            ("a b", "aaaaa", "aaabb"),
            ("a b", "abbbb", "aabbb"),
            ("a b c", "aaaaaaaa", "aaabbbcc"),
            // Nothing to do.
            ("a b", "ababa", "ababa"),
            ("a b", "babab", "babab"),
            ("a b c d e f g", "abc", "abc"),
            // One is gone: the others divide what was its.
            ("a b", "aa..bb", "aababb"),
            ("a b c", "aab.c.", "aabbcc"),
            // One that has just started keeps what it has and gets nothing yet.
            ("a b!", "aaaaaa", "aaaaaa"),
            ("a b! c", "aaaabb", "aaccbb"),
            ("a b!", "aaa...", "aaaaaa"),
            // One that leaves gives everything away, evenly.
            ("a- b c", "aaabbbccc", "bcbbbbccc"),
            ("a- b! c!", "aaaa", "ccbb"),
            ("a-", "aaa", "..."),
            ("a- b", "aaab", "bbbb"),
            // A holder that is no member (of an older version, say) is left alone.
            ("a b", "xxxxab", "xxxxab"),
            // More members than shards.
            ("a b c", "aa", "ab"),
            ("", "ab", "ab"),
        ] {
            let reached = step(who, before);
            let count = |text: &str, who: char| text.chars().filter(|owner| *owner == who).count();
            for member in members(who) {
                let name = member.holder.chars().next().expect("a name");
                assert_eq!(count(&reached, name), count(after, name), "{name} of {who:?}: {before} -> {reached}");
            }
            assert_eq!(step(who, &reached), reached, "{who:?} at rest: {before} -> {reached}");
        }
    }

    #[test]
    fn a_move_moves_no_more_than_it_must() {
        for (who, before, moves) in
            [("a b", "aaaaaa", 3), ("a b c", "aaabbb", 2), ("a b c", "aaabbbc", 1), ("a b", "aab", 0)]
        {
            let after = step(who, before);
            assert_eq!(before.chars().zip(after.chars()).filter(|(b, a)| b != a).count(), moves, "{before} -> {after}");
        }
    }

    #[test]
    fn a_shard_that_nobody_takes_in_time_is_anybodys() {
        let roster = Roster { members: members("a b"), lots: lots("aa,,") };
        let shares = shares("a", &held("aa,,", "a"), &roster, PATIENCE);
        assert_eq!(shares, Shares { take: vec![ShardId(2), ShardId(3)], give: Vec::new() });
    }

    #[test]
    fn a_shard_in_ones_own_name_is_taken_back() {
        let roster = Roster { members: members("a b"), lots: lots("aabb") };
        let back = shares("a", &[ShardId(1)], &roster, PATIENCE);
        assert_eq!(back, Shares { take: vec![ShardId(0)], give: Vec::new() });
        // Held, though the row says otherwise: the lease round finds out, not this.
        let roster = Roster { members: members("a b"), lots: lots("abbb") };
        assert_eq!(shares("a", &[ShardId(0), ShardId(1)], &roster, PATIENCE), Shares::default());
    }
}
