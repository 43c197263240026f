//! Log time, and timers in log time.
//!
//! Log time stands still between batches: every entry of a batch has the batch's time. What is
//! due at that time is gone for every operation, whether its timer has fired or not.

use super::LogTime;
use imbl::OrdSet;
use margay_log::id::Index;

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
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Timers<T: Ord + Clone> {
    ordered: OrdSet<(Due, T)>,
}

impl<T: Ord + Clone> Default for Timers<T> {
    fn default() -> Timers<T> {
        Timers { ordered: OrdSet::new() }
    }
}

impl<T: Ord + Clone> Timers<T> {
    /// Adds a timer.
    pub fn schedule(&mut self, due: Due, about: T) {
        let before = self.ordered.insert((due, about));
        assert!(before.is_none(), "one timer per creation and subject");
    }

    /// Removes a timer. Returns whether it was there.
    pub fn cancel(&mut self, due: Due, about: T) -> bool {
        self.ordered.remove(&(due, about)).is_some()
    }

    /// The next one.
    #[must_use]
    pub fn first(&self) -> Option<&(Due, T)> {
        self.ordered.get_min()
    }

    /// Takes the next one if it is due at `now`.
    pub fn pop_due(&mut self, now: LogTime) -> Option<(Due, T)> {
        self.first().filter(|(due, _)| due.at <= now)?;
        self.ordered.remove_min()
    }

    /// Those due at `now`, in order.
    pub fn due(&self, now: LogTime) -> impl Iterator<Item = &(Due, T)> {
        self.ordered.iter().take_while(move |(due, _)| due.at <= now)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ordered.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ordered.is_empty()
    }
}
