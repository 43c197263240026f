//! A log whose records are of a type.

use super::Data;
use crate::machine::{Level, LogTime};
use crate::resource::log::{Appended, Follow, Record};
use crate::resource::{Failure, Log, Reply, Submit};
use futures_core::Stream;
use std::marker::PhantomData;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};

/// A log whose records are of a type.
pub struct LogOf<R, S> {
    log: Log<S>,
    is: PhantomData<fn() -> R>,
}

/// A record of a [`LogOf`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecordOf<R> {
    /// Its place in the log: from 1, without gaps.
    pub position: u64,
    /// The log time at which it was appended.
    pub time: LogTime,
    /// What was appended.
    pub value: R,
}

/// Records of a [`LogOf`] that follow each other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogPageOf<R> {
    /// In order; empty only at the end of the log.
    pub records: Vec<RecordOf<R>>,
    /// The position to go on reading from; `None` where the page ends with the log.
    pub go_on: Option<u64>,
}

impl<R: Data, S: Submit> LogOf<R, S> {
    /// The same log, with records of a type.
    pub fn new(log: Log<S>) -> LogOf<R, S> {
        LogOf { log, is: PhantomData }
    }

    /// The log in bytes, for all else it can do.
    #[must_use]
    pub fn bytes(&self) -> &Log<S> {
        &self.log
    }

    /// See [`Log::with_level`].
    #[must_use]
    pub fn with_level(self, level: Level) -> LogOf<R, S> {
        LogOf::new(self.log.with_level(level))
    }

    /// See [`Log::append`].
    pub fn append(&self, record: &R) -> Reply<u64> {
        self.log.append(&record.to_bytes())
    }

    /// See [`Log::append_all`].
    pub fn append_all(&self, records: &[R]) -> Reply<Range<u64>> {
        self.log.append_all(&all(records))
    }

    /// See [`Log::append_at`].
    pub fn append_at(&self, position: u64, records: &[R]) -> Reply<Appended> {
        self.log.append_at(position, &all(records))
    }

    /// See [`Log::read`].
    pub fn read(&self, from: u64, limit: u32) -> Reply<LogPageOf<R>> {
        self.log.read(from, limit).and_then(|page| {
            let go_on = page.go_on();
            let records = page.records.into_iter().map(read).collect::<Result<_, Failure>>()?;
            Ok(LogPageOf { records, go_on })
        })
    }

    /// See [`Log::follow`].
    #[must_use]
    pub fn follow(&self, from: Option<u64>) -> FollowOf<R, S> {
        FollowOf { follow: self.log.follow(from), is: PhantomData }
    }
}

fn all<R: Data>(records: &[R]) -> Vec<Vec<u8>> {
    records.iter().map(Data::to_bytes).collect()
}

fn read<R: Data>(record: Record) -> Result<RecordOf<R>, Failure> {
    let Record { position, time, bytes } = record;
    Ok(RecordOf { position, time, value: R::from_bytes(&bytes)? })
}

/// The records of a log in order, each once: see [`Follow`]. A record that is none of the type is
/// a failure, and the next one comes all the same.
pub struct FollowOf<R, S> {
    follow: Follow<S>,
    is: PhantomData<fn() -> R>,
}

impl<R: Data, S: Submit> FollowOf<R, S> {
    /// See [`Follow::position`].
    #[must_use]
    pub fn position(&self) -> u64 {
        self.follow.position()
    }

    /// The next record.
    ///
    /// # Errors
    /// It cannot be read, or the reason why there will be none.
    pub async fn next(&mut self) -> Result<RecordOf<R>, Failure> {
        self.follow.next().await.and_then(read)
    }

    /// Blocks the thread until the next record.
    ///
    /// # Errors
    /// It cannot be read, or the reason why there will be none.
    pub fn wait_next(&mut self) -> Result<RecordOf<R>, Failure> {
        self.follow.wait_next().and_then(read)
    }

    /// A record that is there already, without waiting for anything.
    pub fn try_next(&mut self) -> Option<Result<RecordOf<R>, Failure>> {
        self.follow.try_next().map(|next| next.and_then(read))
    }
}

/// After a failure that is not about one record it is over.
impl<R: Data, S: Submit> Stream for FollowOf<R, S> {
    type Item = Result<RecordOf<R>, Failure>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = Stream::poll_next(Pin::new(&mut self.follow), context);
        polled.map(|next| next.map(|record| record.and_then(read)))
    }
}

impl<R, S: Clone> Clone for LogOf<R, S> {
    fn clone(&self) -> Self {
        LogOf { log: self.log.clone(), is: PhantomData }
    }
}
