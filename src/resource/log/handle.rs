//! The log as applications use it.

use super::{AppendV1, Follow, ReadV1, Retention, StatusV1, TrimV1};
use crate::machine::bytes::Reader;
use crate::machine::{Code, Level, LogTime, ResourceId, kind};
use crate::resource::handle::{Handle, read_count};
use crate::resource::{Answer, Failure, Reply, Submit};
use std::ops::Range;

/// A log of records.
///
/// A record is at most 1 MiB. A log that keeps everything takes a million records, or 256 MiB of
/// them: see [`Code::LOG_FULL`].
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let client = margay::client::Client::builder().endpoints(["127.0.0.1:5150"]).connect()?;
/// let audit = client.log("audit").wait()?;
/// let position = audit.append(b"ada logged in").wait()?;
/// let mut records = audit.follow(Some(position)); // what is there, then what comes
/// println!("{:?}", records.wait_next()?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Log<S> {
    handle: Handle<S>,
}

/// A record of a log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Its place in the log: from 1, without gaps.
    pub position: u64,
    /// The log time at which it was appended.
    pub time: LogTime,
    /// What was appended.
    pub bytes: Vec<u8>,
}

/// Records that follow each other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogPage {
    /// In order; empty only at the end of the log.
    pub records: Vec<Record>,
    /// The first position that is kept.
    pub first: u64,
    /// Where the next record is going to be.
    pub next: u64,
}

impl LogPage {
    /// The position to go on reading from; `None` where the page ends with the log.
    #[must_use]
    pub fn go_on(&self) -> Option<u64> {
        let last = self.records.last()?.position;
        (last + 1 < self.next).then_some(last + 1)
    }
}

/// How a log stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogStatus {
    /// The first position that is kept; the same as `next` where nothing is.
    pub first: u64,
    /// Where the next record is going to be.
    pub next: u64,
    /// Bytes of the records that are kept.
    pub bytes: u64,
}

/// What became of an append at an expected position. A negative answer is data, not a failure.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Appended {
    /// The records have these positions.
    Done(Range<u64>),
    /// Somebody was faster, or the log is not as long: the next record is going to be here.
    Conflict {
        /// As [`LogStatus::next`].
        next: u64,
    },
}

impl<S: Submit> Log<S> {
    /// Opens a log by name; it is created, to keep everything, where there is none.
    pub fn open(submit: S, name: &str) -> Reply<Log<S>> {
        Log::open_with(submit, name, Retention::new())
    }

    /// The same; where it is created, it keeps what `retention` says. Then that must be within
    /// bounds: else [`Code::BAD_AMOUNT`] or [`Code::BAD_TIME`].
    pub fn open_with(submit: S, name: &str, retention: Retention) -> Reply<Log<S>> {
        Handle::open_with(submit, name, kind::LOG, &retention.encode())
            .and_then(|handle| Ok(Log { handle }))
    }

    /// The log `id`.
    pub fn new(submit: S, id: ResourceId) -> Log<S> {
        Log { handle: Handle::new(submit, id) }
    }

    /// The same, with reads at another level.
    #[must_use]
    pub fn with_level(self, level: Level) -> Log<S> {
        Log { handle: self.handle.with_level(level) }
    }

    /// The way to it, for transactions and operations of one's own.
    #[must_use]
    pub fn handle(&self) -> &Handle<S> {
        &self.handle
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> ResourceId {
        self.handle.id()
    }

    /// Appends a record of at most 1 MiB. Returns its position. Fails with [`Code::LOG_FULL`] where
    /// there is no room and the log was not created to make some.
    pub fn append(&self, record: &[u8]) -> Reply<u64> {
        self.append_all(&[record]).and_then(|positions| Ok(positions.start))
    }

    /// Appends records at positions that follow each other, at once: 1 to 1,000, at most 1 MiB
    /// together. Returns the positions.
    pub fn append_all(&self, records: &[impl AsRef<[u8]>]) -> Reply<Range<u64>> {
        self.append_from(0, records).and_then(|appended| match appended {
            Appended::Done(positions) => Ok(positions),
            Appended::Conflict { .. } => Err(Failure::from(Code::BAD_PAYLOAD)),
        })
    }

    /// The same, only if the first of them gets this position: that is, if nobody has appended
    /// anything since the log was seen to end there. Fails with [`Code::BAD_AMOUNT`] for 0.
    pub fn append_at(&self, position: u64, records: &[impl AsRef<[u8]>]) -> Reply<Appended> {
        match position {
            0 => Reply::ready(Err(Failure::new(Code::BAD_AMOUNT, "positions begin at 1"))),
            _ => self.append_from(position, records),
        }
    }

    fn append_from(&self, position: u64, records: &[impl AsRef<[u8]>]) -> Reply<Appended> {
        let records: Vec<Vec<u8>> = records.iter().map(|record| record.as_ref().to_vec()).collect();
        let count = records.len() as u64;
        self.handle.command(&AppendV1 { records, position }).and_then(move |answer| {
            let mut reader = Reader::new(&answer.payload);
            let (done, next) = (reader.u8()? != 0, reader.u64()?);
            Ok(match done {
                true => Appended::Done(next..next.saturating_add(count)),
                false => Appended::Conflict { next },
            })
        })
    }

    /// A page of records from a position on, or from the first that is kept for 0; `limit` 0 for as
    /// many as fit. Fails with [`Code::TRIMMED`] where the position is not kept any more.
    pub fn read(&self, from: u64, limit: u32) -> Reply<LogPage> {
        self.ask(from, limit).and_then(|answer| read_page(&answer))
    }

    pub(super) fn ask(&self, from: u64, limit: u32) -> Reply<Answer> {
        self.handle.query(&ReadV1 { from, limit })
    }

    /// How it stands.
    pub fn status(&self) -> Reply<LogStatus> {
        self.handle.query(&StatusV1 {}).and_then(|answer| read_status(&answer))
    }

    pub(super) fn ask_status(&self) -> Reply<Answer> {
        self.handle.query(&StatusV1 {})
    }

    /// Takes away all records before a position, or all there are where it is beyond the end.
    /// Returns the first position that is left.
    pub fn trim(&self, before: u64) -> Reply<u64> {
        self.handle.command(&TrimV1 { before }).and_then(read_count)
    }

    /// All records from a position on, those that are there and those to come; from the first that
    /// is kept for 0, and only those to come for `None`. See [`Follow`].
    #[must_use]
    pub fn follow(&self, from: Option<u64>) -> Follow<S> {
        Follow::new(self.clone(), from)
    }
}

pub(super) fn read_status(answer: &Answer) -> Result<LogStatus, Failure> {
    let mut reader = Reader::new(&answer.payload);
    let (first, next, bytes) = (reader.u64()?, reader.u64()?, reader.u64()?);
    Ok(LogStatus { first, next, bytes })
}

pub(super) fn read_page(answer: &Answer) -> Result<LogPage, Failure> {
    let mut reader = Reader::new(&answer.payload);
    let (from, first, next) = (reader.u64()?, reader.u64()?, reader.u64()?);
    let mut records = Vec::new();
    for position in (from..).take(reader.u32()? as usize) {
        let (time, bytes) = (LogTime(reader.u64()?), reader.bytes()?.to_vec());
        records.push(Record { position, time, bytes });
    }
    Ok(LogPage { records, first, next })
}
