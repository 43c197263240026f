//! Numbers that nobody else gets, without asking for each.

use super::Counter;
use crate::machine::{Level, ResourceId};
use crate::resource::{Failure, Reply, Submit};
use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Ids taken from the counter at once, unless told otherwise.
const BATCH: u32 = 1_000;

/// Gives out numbers that no other client gets from the same counter: it reserves a range of them
/// and asks the cluster only when that is used up. Clones share their ranges.
///
/// Ids begin at 1 and never repeat as long as nobody else writes to the counter. They do not rise
/// from client to client, and what is left of a range when a client ends is never given out.
#[derive(Clone, Debug)]
pub struct IdGenerator<S> {
    counter: Counter<S>,
    batch: u32,
    reserved: Arc<Mutex<VecDeque<RangeInclusive<i64>>>>,
}

impl<S: Submit> IdGenerator<S> {
    /// A generator over the counter of this name, which is created where there is none.
    pub fn open(submit: S, name: &str) -> Reply<IdGenerator<S>> {
        Counter::open(submit, name).and_then(|counter| Ok(IdGenerator::over(counter)))
    }

    /// A generator over a counter.
    #[must_use]
    pub fn over(counter: Counter<S>) -> IdGenerator<S> {
        let counter = counter.with_level(Level::Linearizable);
        IdGenerator { counter, batch: BATCH, reserved: Arc::default() }
    }

    /// The same, with ranges of this many ids; at least 1. Default 1,000.
    #[must_use]
    pub fn with_batch(self, batch: u32) -> IdGenerator<S> {
        IdGenerator { batch: batch.max(1), ..self }
    }

    /// The counter's id.
    #[must_use]
    pub fn id(&self) -> ResourceId {
        self.counter.id()
    }

    /// The next id. Fails with [`Code::OVERFLOW`](crate::machine::Code::OVERFLOW) when all are used
    /// up.
    pub fn next_id(&self) -> Reply<i64> {
        if let Some(id) = self.take() {
            return Reply::ready(Ok(id));
        }
        let generator = self.clone();
        self.counter.get_and_add(self.batch.into()).and_then(move |last| generator.refill(last))
    }

    fn refill(&self, last: i64) -> Result<i64, Failure> {
        // The counter did not overflow when it was raised, so neither does this.
        let mut range = last + 1..=last + i64::from(self.batch);
        let id = range.next().expect("a range holds at least one id");
        self.reserved().push_back(range);
        Ok(id)
    }

    fn take(&self) -> Option<i64> {
        let mut reserved = self.reserved();
        loop {
            match reserved.front_mut()?.next() {
                Some(id) => return Some(id),
                None => reserved.pop_front(),
            };
        }
    }

    /// A panic elsewhere does not make a range invalid.
    fn reserved(&self) -> MutexGuard<'_, VecDeque<RangeInclusive<i64>>> {
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
