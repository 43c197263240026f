//! What an append or a change of the meta block comes to: futures of no runtime that can also be
//! waited for. They hold no result: the log's durable index is the result.

use std::future::Future;
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::commit_log::shared::{Shared, State};
use crate::error::Error;
use crate::id::{Index, Ticket};

/// Entries that were appended: ready when they are durable. Await it or [`wait`](Appended::wait)
/// for it; dropping it does not take the entries back, but they may take a millisecond longer.
/// Entries that were taken before a disk was
/// found to be full become durable when there is space again.
#[must_use = "nothing tells you of a failure unless you await or wait"]
pub struct Appended {
    shared: Arc<Shared>,
    first: Index,
    last: Index,
    /// See [`State::generation`].
    generation: u64,
    is_settled: bool,
}

impl Appended {
    pub(crate) fn new(shared: &Arc<Shared>, first: Index, last: Index, state: &State) -> Appended {
        let generation = state.generation;
        Appended { shared: Arc::clone(shared), first, last, generation, is_settled: false }
    }

    /// The indexes the entries have, durable or not.
    #[must_use]
    pub fn indexes(&self) -> RangeInclusive<Index> {
        self.first..=self.last
    }

    /// The index of the last of them.
    #[must_use]
    pub fn index(&self) -> Index {
        self.last
    }

    /// Blocks the thread until they are durable, and does the I/O on this thread if nobody else
    /// does. Not for use inside an executor.
    ///
    /// # Errors
    /// [`Error::Write`] if the log has stopped before; whether they will be found after a restart
    /// is then unknown.
    pub fn wait(mut self) -> Result<Index, Error> {
        let (last, generation) = (self.last, self.generation);
        let mut result = None;
        let is_durable = self.shared.wait(Some(last), |state| {
            result = settled(state, last, generation);
            result.is_some()
        });
        self.is_settled = true;
        if is_durable {
            return Ok(last);
        }
        result.unwrap_or_else(|| {
            settled(&self.shared.state(), last, generation).unwrap_or(Err(Error::Closed))
        })
    }
}

/// What became of the entries up to `last`, if that is known.
fn settled(state: &State, last: Index, generation: u64) -> Option<Result<Index, Error>> {
    // Before a suffix is cut off, all there is becomes durable.
    if state.log.durable() >= last || state.generation != generation {
        return Some(Ok(last));
    }
    match state.log.poisoned() {
        Some(error) => Some(Err(error.clone())),
        None if state.is_closed => Some(Err(Error::Closed)),
        None => None,
    }
}

impl Future for Appended {
    type Output = Result<Index, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Appended { shared, last, generation, is_settled, .. } = &mut *self;
        let mut state = shared.state();
        if let Some(result) = settled(&state, *last, *generation) {
            *is_settled = true;
            return Poll::Ready(result);
        }
        state.wake_at(*last, context.waker());
        shared.kick(&mut state);
        Poll::Pending
    }
}

impl Drop for Appended {
    fn drop(&mut self) {
        if self.is_settled {
            return;
        }
        let mut state = self.shared.state();
        if settled(&state, self.last, self.generation).is_none() {
            self.shared.leave(&mut state, self.last);
        }
    }
}

impl std::fmt::Debug for Appended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Appended({}..={})", self.first, self.last)
    }
}

/// A new meta block, or a new beginning: ready when it is durable.
#[must_use = "nothing tells you of a failure unless you await or wait"]
pub struct Recorded {
    shared: Arc<Shared>,
    ticket: Ticket,
}

impl Recorded {
    pub(crate) fn new(shared: &Arc<Shared>, ticket: Ticket) -> Recorded {
        Recorded { shared: Arc::clone(shared), ticket }
    }

    /// Blocks the thread until it is durable. Not for use inside an executor.
    ///
    /// # Errors
    /// [`Error::Write`] if the log has stopped before.
    pub fn wait(self) -> Result<(), Error> {
        let mut result = None;
        self.shared.wait_until(|state| {
            result = self.settled(state);
            result.is_some()
        });
        result.unwrap_or_else(|| self.settled(&self.shared.state()).unwrap_or(Err(Error::Closed)))
    }

    fn settled(&self, state: &State) -> Option<Result<(), Error>> {
        if state.meta_durable >= self.ticket {
            return Some(Ok(()));
        }
        match state.log.poisoned() {
            Some(error) => Some(Err(error.clone())),
            None if state.is_closed => Some(Err(Error::Closed)),
            None => None,
        }
    }
}

impl Future for Recorded {
    type Output = Result<(), Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.shared.state();
        if let Some(result) = self.settled(&state) {
            return Poll::Ready(result);
        }
        state.wake_at_meta(self.ticket, context.waker());
        self.shared.kick(&mut state);
        Poll::Pending
    }
}

impl std::fmt::Debug for Recorded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Recorded({})", self.ticket)
    }
}
