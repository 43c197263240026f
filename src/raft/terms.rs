//! What the core knows of the log: which term wrote which positions.
//!
//! A term never decreases along a log, so a log of millions of entries is a short list of (term,
//! first index). That is all Raft ever asks of it: two logs that agree in an [`EntryId`] are equal
//! up to it (paper §5.3).
//!
//! The atom of the log is the batch: a batch has one term, and is sent, written, truncated and
//! counted whole. The list does not know where batches end, but these positions always are such
//! ends: the snapshot, the last entry, and the last entry of each term. Whatever the core computes
//! is one of those, or was named by a peer that computed it likewise.

use margay_log::id::{EntryId, Index, Term};

/// The log as a list of terms.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct TermRanges {
    /// The entry the log begins behind: the snapshot, or zero.
    base: EntryId,
    /// (term, index of its first entry behind `base`), both rising.
    ranges: Vec<(Term, Index)>,
    /// The last entry; `base` in an empty log.
    last: EntryId,
}

impl TermRanges {
    /// The log between `base` and `last`. What `ranges` says of positions up to `base` is dropped.
    pub(super) fn new(base: EntryId, ranges: Vec<(Term, Index)>, last: EntryId) -> TermRanges {
        assert!(base.index <= last.index, "the log ends at {last}, before its snapshot {base}");
        let mut terms = TermRanges { base, ranges: Vec::new(), last: base };
        for (at, (term, first)) in ranges.iter().enumerate() {
            let end = match ranges.get(at + 1) {
                Some((_, next)) => next.prev(),
                None => last.index,
            };
            assert!(*first <= end, "{term} begins at {first} and ends at {end}");
            if end > base.index {
                terms.append(EntryId::new(*term, end));
            }
        }
        assert_eq!(terms.last, last, "the ranges do not end where the log does");
        terms
    }

    /// The entry the log begins behind.
    pub(super) fn base(&self) -> EntryId {
        self.base
    }

    /// The last entry.
    pub(super) fn last(&self) -> EntryId {
        self.last
    }

    /// The term at `index`; `None` beyond the end and before the base.
    pub(super) fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        if index < self.base.index || index > self.last.index {
            return None;
        }
        let after = self.ranges.partition_point(|(_, first)| *first <= index);
        Some(self.ranges[after - 1].0)
    }

    /// The entry at `index`, likewise.
    pub(super) fn entry_at(&self, index: Index) -> Option<EntryId> {
        self.term_at(index).map(|term| EntryId::new(term, index))
    }

    /// Whether the log holds this very entry.
    pub(super) fn holds(&self, entry: EntryId) -> bool {
        self.term_at(entry.index) == Some(entry.term)
    }

    /// Appends everything up to `last`, all of its term.
    pub(super) fn append(&mut self, last: EntryId) {
        assert!(last.index > self.last.index, "{last} appended behind {}", self.last);
        assert!(last.term >= self.last.term, "{last} appended behind {}", self.last);
        if self.ranges.last().is_none_or(|(term, _)| *term < last.term) {
            self.ranges.push((last.term, self.last.index.next()));
        }
        self.last = last;
    }

    /// Forgets everything after `index`.
    pub(super) fn truncate_after(&mut self, index: Index) {
        let last = self.entry_at(index).expect("the log is truncated within its bounds");
        self.ranges.retain(|(_, first)| *first <= index);
        self.last = last;
    }

    /// The log begins behind `index` from now on.
    pub(super) fn forget_up_to(&mut self, index: Index) {
        let base = self.entry_at(index).expect("the log begins anew within its bounds");
        let first = index.next();
        let gone = self.ranges.partition_point(|(_, from)| *from <= first);
        if first > self.last.index {
            self.ranges.clear();
        } else if gone > 0 {
            self.ranges.drain(..gone - 1);
            self.ranges[0].1 = first;
        }
        self.base = base;
    }

    /// The last entry at or before `limit.index` whose term is not above `limit.term`: what a
    /// follower names when it does not hold `limit`. The base, where nothing is left.
    pub(super) fn hint(&self, limit: EntryId) -> EntryId {
        match self.range(limit) {
            Some((term, end)) => EntryId::new(term, end.min(limit.index)),
            None => self.base,
        }
    }

    /// Where to look next for the end of what a follower has in common with this log, when it named
    /// `hint`: the hinted entry if it is here too, else the end of the last term that may be
    /// common. Always the end of a batch. `None` if that is behind the base.
    ///
    /// The end of a term may lie beyond the hint: the follower then answers with its own last entry
    /// of that term. So a search takes one message per term in which the two logs differ, never one
    /// per entry.
    pub(super) fn probe(&self, hint: EntryId) -> Option<EntryId> {
        if self.holds(hint) {
            return Some(hint);
        }
        match self.range(hint) {
            Some((term, end)) => Some(EntryId::new(term, end)),
            None => (hint.index > self.base.index).then_some(self.base),
        }
    }

    /// (term, last index) of the last term that begins at or before `limit.index` and is not above
    /// `limit.term`.
    fn range(&self, limit: EntryId) -> Option<(Term, Index)> {
        let fits = |(term, first): &(Term, Index)| *term <= limit.term && *first <= limit.index;
        let at = self.ranges.iter().rposition(fits)?;
        let end = self.ranges.get(at + 1).map_or(self.last.index, |(_, next)| next.prev());
        Some((self.ranges[at].0, end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(term: u64, index: u64) -> EntryId {
        EntryId::new(Term(term), Index(index))
    }

    /// A log from a list of (term, last index), behind `base`.
    fn log(base: EntryId, ends: &[(u64, u64)]) -> TermRanges {
        let mut terms = TermRanges::new(base, Vec::new(), base);
        ends.iter().for_each(|(term, end)| terms.append(id(*term, *end)));
        terms
    }

    #[test]
    fn finds_the_term_of_every_position() {
        let terms = log(id(1, 2), &[(1, 4), (3, 5), (3, 6), (7, 9)]);
        let found: Vec<_> = (0..=10).map(|i| terms.term_at(Index(i)).map(|t| t.0)).collect();
        let (one, three, seven) = (Some(1), Some(3), Some(7));
        let expected = [None, None, one, one, one, three, three, seven, seven, seven, None];
        assert_eq!(found, expected);
        assert!(terms.holds(id(3, 6)) && !terms.holds(id(3, 7)));
    }

    #[test]
    fn restores_from_the_ranges_of_a_longer_log() {
        let ranges = vec![(Term(1), Index(1)), (Term(2), Index(5)), (Term(4), Index(8))];
        let terms = TermRanges::new(id(2, 6), ranges, id(4, 9));
        assert_eq!(terms, log(id(2, 6), &[(2, 7), (4, 9)]));
    }

    #[test]
    fn what_the_log_begins_behind_may_be_anywhere_in_it() {
        for base in 0..=9 {
            let mut terms = log(EntryId::ZERO, &[(1, 4), (3, 6), (7, 9)]);
            let whole = terms.clone();
            terms.forget_up_to(Index(base));
            for index in 0..=10 {
                let expected = whole.term_at(Index(index)).filter(|_| index >= base);
                assert_eq!(terms.term_at(Index(index)), expected, "{index} behind {base}");
            }
            assert_eq!((terms.base().index, terms.last()), (Index(base), id(7, 9)));
            terms.append(id(8, 12));
            assert_eq!(terms.term_at(Index(11)), Some(Term(8)));
        }
    }

    #[test]
    fn truncation_forgets_whole_terms() {
        let mut terms = log(EntryId::ZERO, &[(1, 4), (3, 6), (7, 9)]);
        terms.truncate_after(Index(6));
        assert_eq!(terms, log(EntryId::ZERO, &[(1, 4), (3, 6)]));
        terms.truncate_after(Index(0));
        assert_eq!(terms.last(), EntryId::ZERO);
        terms.append(id(9, 1));
        assert_eq!(terms, log(EntryId::ZERO, &[(9, 1)]));
    }

    #[test]
    fn a_hint_is_never_above_what_was_asked() {
        let terms = log(EntryId::ZERO, &[(1, 4), (3, 6), (7, 9)]);
        assert_eq!(terms.hint(id(5, 20)), id(3, 6));
        assert_eq!(terms.hint(id(7, 8)), id(7, 8));
        assert_eq!(terms.hint(id(9, 5)), id(3, 5));
        assert_eq!(log(EntryId::ZERO, &[(4, 4)]).hint(id(3, 9)), EntryId::ZERO);
        assert_eq!(log(id(4, 4), &[]).hint(id(3, 9)), id(4, 4));
    }

    #[test]
    fn a_probe_is_the_end_of_a_batch() {
        let terms = log(EntryId::ZERO, &[(3, 12), (5, 20)]);
        assert_eq!(terms.probe(id(3, 8)), Some(id(3, 8)), "held: the follower's own batch end");
        assert_eq!(terms.probe(id(4, 10)), Some(id(3, 12)), "not held: the end of term 3");
        assert_eq!(terms.probe(id(2, 8)), Some(EntryId::ZERO));
        assert_eq!(log(id(3, 9), &[(5, 20)]).probe(id(2, 8)), None, "behind the snapshot");
        assert_eq!(log(id(3, 9), &[(5, 20)]).probe(id(2, 11)), Some(id(3, 9)));
    }
}
