//! Log time, and timers in log time.
//!
//! Log time stands still between batches: every entry of a batch has the batch's time. What is
//! due at that time is gone for every operation, whether its timer has fired or not.

use super::{LogTime, Shared};
use imbl::OrdMap;
use margay_log::id::Index;
use std::ops::Bound;

/// The log time applied so far. Never runs backwards, whatever a batch says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Clock {
    now: LogTime,
}

impl Clock {
    /// A clock that shows `now`.
    #[must_use]
    pub fn at(now: LogTime) -> Clock {
        Clock { now }
    }

    /// The time of the last batch.
    #[must_use]
    pub fn now(&self) -> LogTime {
        self.now
    }

    /// The time of the next batch, or the last time where that is later.
    pub fn advance(&mut self, time: LogTime) -> LogTime {
        self.now = self.now.max(time);
        self.now
    }
}

/// When a timer is due, and its place among those due at the same time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Due {
    /// Due from this time on.
    pub at: LogTime,
    /// The entry that created it.
    pub created: Index,
}

/// Timers of one resource, each with what it is about, in order (due, creation).
///
/// They lie in runs of which each knows its length: what is due is counted without looking at each.
/// After a minute without a leader that may be a million, and whoever asks for a size counts them.
#[derive(Clone, Debug)]
pub struct Timers<T: Ord + Clone> {
    /// Under a bound: none of a run is before it, and all of the run before are.
    runs: OrdMap<Timer<T>, Run<T>>,
}

type Timer<T> = (Due, T);

/// Some timers that follow one another, in order; never none.
#[derive(Clone, Debug)]
struct Run<T> {
    timers: Shared<Vec<Timer<T>>>,
    /// How many: here, where counting passes by.
    length: usize,
}

/// Timers in one run, at most. A copy that is changed takes one run for itself.
const RUN_MAX: usize = 64;
/// One that has become so short joins one beside it, if both are no more than half a run.
const RUN_SHORT: usize = RUN_MAX / 4;

impl<T: Ord + Clone> Default for Timers<T> {
    fn default() -> Timers<T> {
        Timers { runs: OrdMap::new() }
    }
}

impl<T: Ord + Clone> Timers<T> {
    /// Adds a timer.
    pub fn schedule(&mut self, due: Due, about: T) {
        let timer = (due, about);
        let Some((_, run)) = self.runs.get_prev_mut(&timer) else { return self.prepend(timer) };
        let at = run.timers.binary_search(&timer);
        let at = at.expect_err("one timer per creation and subject");
        if run.length < RUN_MAX {
            return run.insert(at, timer);
        }
        let mut next = match at {
            // They often come in order; then those before stay full.
            RUN_MAX => Run::default(),
            _ => run.split(),
        };
        match at.checked_sub(run.length) {
            Some(at) => next.insert(at, timer),
            None => run.insert(at, timer),
        }
        self.runs.insert(next.timers[0].clone(), next);
    }

    /// Adds one before all bounds.
    fn prepend(&mut self, timer: Timer<T>) {
        let first = self.runs.get_min().filter(|(_, run)| run.length < RUN_MAX);
        let first = first.map(|(bound, _)| bound.clone());
        let mut run = first.and_then(|bound| self.runs.remove(&bound)).unwrap_or_default();
        run.insert(0, timer.clone());
        self.runs.insert(timer, run);
    }

    /// Removes a timer. Returns whether it was there.
    pub fn cancel(&mut self, due: Due, about: T) -> bool {
        let timer = (due, about);
        let Some((bound, run)) = self.runs.get_prev_mut(&timer) else { return false };
        let Ok(at) = run.timers.binary_search(&timer) else { return false };
        run.remove(at);
        match run.length {
            0 => {
                let bound = bound.clone();
                self.runs.remove(&bound);
            }
            // Not at each: most runs go on to their end.
            1 | 4 | RUN_SHORT => {
                let bound = bound.clone();
                self.join(&bound);
            }
            _ => {}
        }
        true
    }

    /// A run that has become short joins the one before it, or the next joins it.
    fn join(&mut self, bound: &Timer<T>) {
        let before = (Bound::Unbounded, Bound::Excluded(bound));
        let behind = (Bound::Excluded(bound), Bound::Unbounded);
        let before = self.runs.range::<_, Timer<T>>(before).next_back();
        let behind = self.runs.range::<_, Timer<T>>(behind).next();
        let length = self.runs.get(bound).map_or(0, |run| run.length);
        let fits = |other: Option<(&Timer<T>, &Run<T>)>| {
            let other = other.filter(|(_, run)| run.length + length <= RUN_MAX / 2);
            other.map(|(bound, _)| bound.clone())
        };
        let (one, next) = match (fits(before), fits(behind)) {
            (Some(before), _) => (before, bound.clone()),
            (None, Some(behind)) => (bound.clone(), behind),
            (None, None) => return,
        };
        if let Some(next) = self.runs.remove(&next)
            && let Some(run) = self.runs.get_mut(&one)
        {
            run.append(&next);
        }
    }

    /// The next one.
    #[must_use]
    pub fn first(&self) -> Option<&(Due, T)> {
        self.runs.get_min().and_then(|(_, run)| run.timers.first())
    }

    /// Takes the next one if it is due at `now`.
    pub fn pop_due(&mut self, now: LogTime) -> Option<(Due, T)> {
        let (due, about) = self.first().filter(|(due, _)| due.at <= now)?.clone();
        self.cancel(due, about.clone());
        Some((due, about))
    }

    /// How many are due at `now`.
    #[must_use]
    pub fn count_due(&self, now: LogTime) -> usize {
        // All runs but the last that has begun are over.
        let (mut count, mut last) = (0, None);
        for (_, run) in self.runs.iter().take_while(|((bound, _), _)| bound.at <= now) {
            count += run.length;
            last = Some(run);
        }
        let to_come =
            |run: &Run<T>| run.length - run.timers.partition_point(|(due, _)| due.at <= now);
        count - last.map_or(0, to_come)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }
}

impl<T> Default for Run<T> {
    fn default() -> Run<T> {
        Run { timers: Shared::new(Vec::new()), length: 0 }
    }
}

impl<T: Clone> Run<T> {
    fn insert(&mut self, at: usize, timer: Timer<T>) {
        Shared::make_mut(&mut self.timers).insert(at, timer);
        self.length += 1;
    }

    fn remove(&mut self, at: usize) {
        Shared::make_mut(&mut self.timers).remove(at);
        self.length -= 1;
    }

    fn append(&mut self, next: &Run<T>) {
        Shared::make_mut(&mut self.timers).extend(next.timers.iter().cloned());
        self.length += next.length;
    }

    /// Gives away its later half.
    fn split(&mut self) -> Run<T> {
        let upper = Shared::make_mut(&mut self.timers).split_off(self.length / 2);
        let length = upper.len();
        self.length -= length;
        Run { timers: Shared::new(upper), length }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn due(at: u64, created: u64) -> Due {
        Due { at: LogTime(at), created: Index(created) }
    }

    /// What is done, to which of the numbers: more is scheduled than cancelled, or less.
    fn steps() -> impl Strategy<Value = Vec<(bool, u64, u64)>> {
        (1..10_u32, 1..2_000_u64).prop_flat_map(|(weight, spread)| {
            let grows = prop_oneof![weight => Just(true), 5 => Just(false)];
            prop::collection::vec((grows, 0..spread, 0..4_u64), 1..3_000)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn timers_are_an_ordered_set_that_counts(steps in steps(), now in 0..2_000_u64) {
            let (mut timers, mut model) = (Timers::default(), BTreeSet::new());
            for (n, (schedule, at, created)) in steps.into_iter().enumerate() {
                let timer = (due(at, created), created);
                if !schedule {
                    prop_assert_eq!(timers.cancel(timer.0, created), model.remove(&timer));
                } else if model.insert(timer) {
                    timers.schedule(timer.0, created);
                }
                let (kept, before) = (timers.clone(), model.first().copied());
                if n % 7 == 0 {
                    let due = before.filter(|(due, _)| due.at.0 <= now);
                    if let Some(due) = due {
                        model.remove(&due);
                    }
                    prop_assert_eq!(timers.pop_due(LogTime(now)), due);
                }
                prop_assert_eq!(kept.first().copied(), before);
                prop_assert_eq!(timers.first(), model.first());
                prop_assert_eq!(timers.is_empty(), model.is_empty());
                for now in [now, at, at + 1] {
                    let count = model.iter().take_while(|(due, _)| due.at.0 <= now).count();
                    prop_assert_eq!(timers.count_due(LogTime(now)), count);
                }
            }
            let all = std::iter::from_fn(|| timers.pop_due(LogTime(u64::MAX)));
            prop_assert!(all.eq(model));
        }
    }

    /// However they came and went: counting looks at few runs.
    #[test]
    fn runs_stay_long() {
        let mut timers = Timers::default();
        let runs = |timers: &Timers<u64>| timers.runs.len();
        for n in 0..64_000 {
            timers.schedule(due(n, n), n);
        }
        assert_eq!(runs(&timers), 1_000, "in order, each is full");
        for n in (0..64_000).filter(|n| n % 64 != 7) {
            assert!(timers.cancel(due(n, n), n));
        }
        assert!(runs(&timers) <= 1_000 / 8, "{} runs for 1,000", runs(&timers));
        for n in (0..64_000).rev().filter(|n| n % 64 != 7) {
            timers.schedule(due(n, n), n);
        }
        assert!(runs(&timers) <= 2_200, "{} runs backwards", runs(&timers));
        assert_eq!(timers.count_due(LogTime(40_000)), 40_001);
    }
}
