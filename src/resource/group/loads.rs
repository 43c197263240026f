//! How full the inboxes of a group are, in the order of its members.
//!
//! Whose turn it is to get a message is the next member with room for it. There may be thousands
//! without, and each message that comes, ends or is answered asks anew. So inboxes lie in runs, and
//! each run knows what its emptiest one holds: a run without room is passed by as one.

use super::{INBOX_BYTES_MAX, INBOX_MAX};
use crate::machine::Shared;
use imbl::OrdMap;
use margay_log::id::Index;
use std::ops::Bound;

/// How full an inbox is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Load {
    pub(super) messages: u32,
    pub(super) bytes: u64,
}

impl Load {
    /// Whether a message of this size fits.
    pub(super) fn has_room(self, size: u64) -> bool {
        self.messages < INBOX_MAX && self.bytes + size <= INBOX_BYTES_MAX
    }
}

/// Inboxes in one run, at most. Two beside each other have more than half as many together.
const RUN_MAX: usize = 64;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Loads {
    /// Under a bound: none of a run is before it, and all of the run before are.
    runs: OrdMap<Index, Run>,
}

/// Some inboxes that follow one another, in order; never none.
#[derive(Clone, Debug, Default)]
struct Run {
    loads: Shared<Vec<(Index, Load)>>,
    /// Bytes in the emptiest that takes a message more, if one does.
    least: Option<u64>,
}

impl Loads {
    /// An empty inbox for a member that has none.
    pub(super) fn insert(&mut self, member: Index) {
        let new = (member, Load::default());
        let Some((_, run)) = self.runs.get_prev_mut(&member) else { return self.prepend(new) };
        let at = run.loads.partition_point(|(before, _)| *before < member);
        if run.loads.len() < RUN_MAX {
            return run.update(|loads| loads.insert(at, new));
        }
        // Members mostly come in order; then those before stay full.
        let split = if at == RUN_MAX { RUN_MAX } else { RUN_MAX / 2 };
        let mut upper = Vec::new();
        run.update(|loads| upper = loads.split_off(split));
        match at.checked_sub(split) {
            Some(at) => upper.insert(at, new),
            None => run.update(|loads| loads.insert(at, new)),
        }
        let bound = upper[0].0;
        self.runs.insert(bound, Run::new(upper));
        self.join(bound);
    }

    /// The same for one before all bounds.
    fn prepend(&mut self, new: (Index, Load)) {
        let first = self.runs.get_min().filter(|(_, run)| run.loads.len() < RUN_MAX);
        let first = first.map(|(bound, _)| *bound);
        let mut run = first.and_then(|bound| self.runs.remove(&bound)).unwrap_or_default();
        run.update(|loads| loads.insert(0, new));
        self.runs.insert(new.0, run);
    }

    /// A member has no inbox any more.
    pub(super) fn remove(&mut self, member: Index) {
        let Some((bound, run)) = self.runs.get_prev_mut(&member) else { return };
        let Ok(at) = run.find(member) else { return };
        let bound = *bound;
        run.update(|loads| {
            loads.remove(at);
        });
        if run.loads.is_empty() {
            self.runs.remove(&bound);
        } else {
            self.join(bound);
        }
        // What is beside the gap.
        let before = (Bound::Unbounded, Bound::Excluded(bound));
        if let Some(before) = self.runs.range(before).next_back().map(|(bound, _)| *bound) {
            self.join(before);
        }
    }

    /// A run takes in the next, where both together are short.
    fn join(&mut self, bound: Index) {
        let behind = (Bound::Excluded(bound), Bound::Unbounded);
        let next = self.runs.range(behind).next();
        let Some((next, length)) = next.map(|(next, run)| (*next, run.loads.len())) else { return };
        let Some(run) = self.runs.get(&bound) else { return };
        if run.loads.len() + length <= RUN_MAX / 2
            && let Some(next) = self.runs.remove(&next)
            && let Some(run) = self.runs.get_mut(&bound)
        {
            run.update(|loads| loads.extend(next.loads.iter()));
        }
    }

    /// How full a member's inbox is; who has none has an empty one.
    pub(super) fn get(&self, member: Index) -> Load {
        let run = self.runs.get_prev(&member).map(|(_, run)| run);
        let found = run.and_then(|run| run.find(member).ok().map(|at| run.loads[at].1));
        found.unwrap_or_default()
    }

    /// A member's inbox is fuller, or emptier; nothing happens where it has none.
    pub(super) fn change(&mut self, member: Index, change: impl FnOnce(&mut Load)) {
        let Some((_, run)) = self.runs.get_prev_mut(&member) else { return };
        if let Ok(at) = run.find(member) {
            run.update(|loads| change(&mut loads[at].1));
        }
    }

    /// The next member after one, and around, whose inbox has room for a message of this size.
    pub(super) fn next_with_room(&self, after: Index, size: u64) -> Option<Index> {
        let run = self.runs.get_prev(&after).map_or(Index::ZERO, |(bound, _)| *bound);
        let behind = self.runs.range(run..).find_map(|(_, run)| run.first_with_room(after, size));
        behind.or_else(|| {
            let before = &mut self.runs.range(..=run);
            before.find_map(|(_, run)| run.first_with_room(Index::ZERO, size))
        })
    }
}

impl Run {
    fn new(loads: Vec<(Index, Load)>) -> Run {
        let mut run = Run { loads: Shared::new(loads), least: None };
        run.update(|_| ());
        run
    }

    fn update(&mut self, change: impl FnOnce(&mut Vec<(Index, Load)>)) {
        let loads = Shared::make_mut(&mut self.loads);
        change(loads);
        let takes_more = loads.iter().filter(|(_, load)| load.has_room(0));
        self.least = takes_more.map(|(_, load)| load.bytes).min();
    }

    fn find(&self, member: Index) -> Result<usize, usize> {
        self.loads.binary_search_by_key(&member, |(member, _)| *member)
    }

    fn first_with_room(&self, after: Index, size: u64) -> Option<Index> {
        self.least.filter(|least| least + size <= INBOX_BYTES_MAX)?;
        let fits = |(member, load): &&(Index, Load)| *member > after && load.has_room(size);
        self.loads.iter().find(fits).map(|(member, _)| *member)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u64),
        Remove(u64),
        Fill(u64, u64),
        Empty(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        (1..6_u32, 100..2_000_u64).prop_flat_map(|(weight, spread)| {
            let step = prop_oneof![
                3 * weight => (1..spread).prop_map(Step::Insert),
                8 => (1..spread).prop_map(Step::Remove),
                4 => (1..spread, 0..4_u64).prop_map(|(member, part)| Step::Fill(member, part)),
                1 => (1..spread).prop_map(Step::Empty),
            ];
            prop::collection::vec(step, 1..3_000)
        })
    }

    /// A quarter of what fits.
    const PART: u64 = INBOX_BYTES_MAX / 4;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_next_with_room_is_who_comes_first(steps in steps()) {
            let (mut loads, mut model) = (Loads::default(), BTreeMap::<u64, Load>::new());
            for (n, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Insert(member) => {
                        if let std::collections::btree_map::Entry::Vacant(free) =
                            model.entry(member)
                        {
                            free.insert(Load::default());
                            loads.insert(Index(member));
                        }
                    }
                    Step::Remove(member) => {
                        model.remove(&member);
                        loads.remove(Index(member));
                    }
                    Step::Fill(member, part) => {
                        let fill = |load: &mut Load| {
                            *load = Load { messages: INBOX_MAX, bytes: load.bytes + part * PART };
                            load.messages -= u32::from(part > 0);
                            load.bytes = load.bytes.min(INBOX_BYTES_MAX);
                        };
                        model.get_mut(&member).into_iter().for_each(fill);
                        loads.change(Index(member), fill);
                    }
                    Step::Empty(member) => {
                        let empty = |load: &mut Load| *load = Load::default();
                        model.get_mut(&member).into_iter().for_each(empty);
                        loads.change(Index(member), empty);
                    }
                }
                let (after, size) = (n as u64 * 7 % 2_000, n as u64 % 5 * PART);
                let all = model.range(after + 1..).chain(model.range(..=after));
                let next = { all }.find(|(_, load)| load.has_room(size));
                let next = next.map(|(member, _)| Index(*member));
                prop_assert_eq!(loads.next_with_room(Index(after), size), next);
                let load = model.get(&after).copied().unwrap_or_default();
                prop_assert_eq!(loads.get(Index(after)), load);
            }
            let lengths: Vec<usize> = loads.runs.values().map(|run| run.loads.len()).collect();
            prop_assert_eq!(lengths.iter().sum::<usize>(), model.len());
            let is_long = |two: &[usize]| two[0] + two[1] > RUN_MAX / 2;
            prop_assert!(lengths.windows(2).all(is_long), "{:?}", lengths);
        }
    }
}
