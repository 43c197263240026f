//! Following a log: a reader that waits at the end.

use std::future::poll_fn;
use std::task::{Context, Poll};

use crate::commit_log::reader::{Reader, Record};
use crate::error::Error;
use crate::id::Index;

/// Gives each entry as it becomes durable. Made by [`CommitLog::follow`](super::CommitLog::follow).
///
/// ```no_run
/// # use margay_log::commit_log::{CommitLog, CommitLogOptions};
/// # fn main() -> Result<(), margay_log::Error> {
/// let log = CommitLog::open("events", CommitLogOptions::default())?.log;
/// let mut follower = log.follow(log.last().next()); // what comes from now on
/// std::thread::spawn(move || {
///     // Ends with `Error::Closed` when the log is closed and all was seen.
///     while let Ok(record) = follower.wait_next() {
///         println!("{} {:?}", record.index, record.payload);
///     }
/// });
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Follower {
    reader: Reader,
    /// Under which its waker is registered.
    number: u64,
}

impl Drop for Follower {
    fn drop(&mut self) {
        let waker = self.reader.shared().state().forget_follower(self.number);
        drop(waker);
    }
}

impl Follower {
    pub(crate) fn new(reader: Reader) -> Follower {
        let number = reader.shared().state().number_follower();
        Follower { reader, number }
    }

    /// The next entry, once it is durable. What is no longer in memory is read from disk on the
    /// thread that polls.
    ///
    /// # Errors
    /// As [`Reader::read_next`]; [`Error::Closed`] when the log is closed and all has been given.
    /// After [`Error::Cut`] nothing else comes: follow anew.
    pub async fn next(&mut self) -> Result<Record<'_>, Error> {
        loop {
            poll_fn(|context| self.poll_ready(context)).await?;
            if let Some(at) = self.reader.find_next()? {
                return Ok(self.reader.lend(at));
            }
            // Compaction has removed what was durable.
        }
    }

    /// Blocks the thread until the next entry is durable.
    ///
    /// # Errors
    /// As [`Follower::next`].
    pub fn wait_next(&mut self) -> Result<Record<'_>, Error> {
        loop {
            self.reader.heed_cuts()?;
            let reader = &self.reader;
            let (shared, next) = (reader.shared(), reader.position());
            shared.wait(Some(next), |state| state.log.durable() >= next || reader.is_cut(state));
            if let Some(at) = self.reader.find_next()? {
                return Ok(self.reader.lend(at));
            }
            // Compaction has removed what was durable, or nothing more will be.
            let state = self.reader.shared().state();
            match state.log.poisoned() {
                Some(error) => return Err(error.clone()),
                None if state.is_closed => return Err(Error::Closed),
                None => {}
            }
        }
    }

    /// The next entry, if it is durable already.
    ///
    /// # Errors
    /// As [`Reader::read_next`].
    pub fn try_next(&mut self) -> Result<Option<Record<'_>>, Error> {
        self.reader.read_next()
    }

    /// Ready when [`Follower::try_next`] has something to give or to say. For implementations of
    /// streams.
    ///
    /// # Errors
    /// [`Error::Closed`] when the log is closed and all has been given, or why it has stopped.
    pub fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let mut state = self.reader.shared().state();
        if state.log.durable() >= self.reader.position() || self.reader.is_cut(&state) {
            return Poll::Ready(Ok(()));
        }
        if state.is_closed {
            return Poll::Ready(Err(Error::Closed));
        }
        if let Some(error) = state.log.poisoned() {
            return Poll::Ready(Err(error.clone()));
        }
        let former = state.wake_follower(self.number, context.waker());
        drop(state);
        drop(former);
        Poll::Pending
    }

    /// The index that comes next.
    #[must_use]
    pub fn position(&self) -> Index {
        self.reader.position()
    }
}
