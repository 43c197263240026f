//! Where a log was cut, for readers that look up only later whether that concerns them.
//!
//! Of what has no bound little is kept: a cut that a later one undercuts says nothing any more, and
//! of very many the oldest are taken together. Whoever asks is told the lowest place, or a lower
//! one.
//!
//! Invariant: numbers and places rise along the list.

use crate::id::Index;

/// Cuts that are told apart, at most.
const CUTS_MAX: usize = 64;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Cuts(Vec<Cut>);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Cut {
    /// It was the log's change of this number.
    number: u64,
    /// The last entry that was left.
    after: Index,
}

impl Cuts {
    /// With change `number` the log was cut behind `after`.
    pub(crate) fn note(&mut self, number: u64, after: Index) {
        let Cuts(list) = self;
        let lower = list.partition_point(|cut| cut.after < after);
        list.truncate(lower);
        if list.len() == CUTS_MAX {
            // Who knows the older of the two is told of its place once more.
            list[0].number = list.remove(1).number;
        }
        list.push(Cut { number, after });
    }

    /// The lowest place at which the log was cut since change `number`.
    pub(crate) fn since(&self, number: u64) -> Option<Index> {
        let Cuts(list) = self;
        let at = list.partition_point(|cut| cut.number <= number);
        list.get(at).map(|cut| cut.after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compared with a list that keeps everything.
    #[test]
    fn the_lowest_cut_since_then_is_found() {
        let (mut cuts, mut all) = (Cuts::default(), Vec::new());
        let mut place = 12_345_u64;
        for number in 1..=2_000 {
            place = place.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let after = Index((place >> 33) % 1_000);
            cuts.note(number, after);
            all.push(after);
            for seen in [0, number / 2, number.saturating_sub(3), number - 1, number] {
                let lowest = all[seen as usize..].iter().min().copied();
                assert_eq!(cuts.since(seen), lowest, "cut {number}, seen {seen}");
            }
        }
    }

    #[test]
    fn of_very_many_it_tells_too_low_a_place_and_never_too_high_a_one() {
        let mut cuts = Cuts::default();
        for number in 1..=10_000 {
            cuts.note(number, Index(number * 10));
            assert!(cuts.0.len() <= CUTS_MAX);
            for seen in [0, number / 2, number - 1] {
                let told = cuts.since(seen).expect("it was cut since");
                assert!(told <= Index((seen + 1) * 10));
            }
            let recent = number.saturating_sub(20);
            assert_eq!(cuts.since(recent), Some(Index((recent + 1) * 10)));
        }
        assert_eq!(cuts.since(10_000), None);
    }
}
