//! A log: records in one order, each at a position, from 1 and without gaps.
//!
//! What is appended stays until it is trimmed, or until it is more than the log was created to
//! keep: the oldest records go first, and positions are never used again. Whoever reads says from
//! where; a position that is no longer kept is an error, never a gap. Events: [`APPENDED`] for each
//! record, [`TRIMMED`] for each trim by hand.

mod follow;
mod handle;
mod records;
mod state;

pub use follow::Follow;
pub use handle::{Appended, Log, LogPage, LogStatus, Record};
pub(super) use state::create;

use super::codec::{Limits, check_by_schema, limit, limits, operation};
use super::{Created, Resource};
use crate::machine::bytes::Reader;
use crate::machine::{Code, kind};
use std::time::Duration;

/// Records of one log, at most.
pub const RECORDS_MAX: u64 = 1_000_000;
/// Bytes of all records of one log, at most.
pub const BYTES_MAX: u64 = 256 << 20;
/// Longest time that a log can be told to keep records, in milliseconds: ten years.
pub const AGE_MS_MAX: u64 = limit::TTL_MS_MAX;
/// Records on one page, at most.
pub const PAGE_MAX: u32 = 1_000;
/// Bytes of records on one page, at most, beyond the first record.
pub const PAGE_BYTES_MAX: usize = 1 << 20;

/// Event: a record was appended. Its key is position and log time (u64 each, big-endian).
pub const APPENDED: u16 = 1;
/// Event: the log was trimmed. Its key is the first position that is left (u64, big-endian).
pub const TRIMMED: u16 = 2;

// ---- operations -----------------------------------------------------------------------------

/// Appends records at positions that follow each other. Answers 1 and the first of these; or 0 and
/// where the log ends, where that is not what was expected.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct AppendV1 {
    /// From 1 to 1,000, of at most 1 MiB together.
    pub records: Vec<Vec<u8>>,
    /// Only if the first of them gets this position; 0 for any.
    pub position: u64,
}

/// Takes away all records before a position, or all there are. Answers the first position that is
/// left.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct TrimV1 {
    /// The first position to stay.
    pub before: u64,
}

/// Query: records from a position on. Answers the position of the first of them, the first
/// position that is kept, the next to be appended at (u64 each) and a count (u32); then log time
/// (u64) and bytes of each. Refused with [`Code::TRIMMED`] where the position is not kept any more.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct ReadV1 {
    /// The first position; 0 for the first that is kept.
    pub from: u64,
    /// At most so many; 0 and anything over [`PAGE_MAX`] stand for [`PAGE_MAX`].
    pub limit: u32,
}

/// Query: the first position that is kept, the next to be appended at, and how many bytes are kept
/// (u64 each).
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct StatusV1 {}

operation!(AppendV1, kind::LOG, 0x0101, "append");
operation!(TrimV1, kind::LOG, 0x0201, "trim");
operation!(ReadV1, kind::LOG, 0x4001, "read");
operation!(StatusV1, kind::LOG, 0x4101, "status");

impl Limits for ArchivedAppendV1 {
    fn limits(&self) -> Result<(), Code> {
        if self.records.is_empty() {
            return Err(Code::BAD_AMOUNT);
        }
        limit::values(&self.records)
    }
}

limits! {
    ArchivedTrimV1:;
    ArchivedReadV1:;
    ArchivedStatusV1:;
}

check_by_schema!(AppendV1, TrimV1);

/// What a log keeps: the options it is created with.
///
/// Without any it keeps everything, and refuses with [`Code::LOG_FULL`] what does not fit any more:
/// nothing goes unless it is trimmed. With a number of records or bytes the oldest go instead,
/// though the last record always stays. With an age, records go when they are older, and that
/// alone makes no room for others.
///
/// ```
/// # use margay::resource::log::Retention;
/// # use std::time::Duration;
/// let a_day_at_most = Retention::new().records(100_000).age(Duration::from_secs(86_400));
/// # assert_ne!(a_day_at_most, Retention::new());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Retention {
    records: u64,
    bytes: u64,
    age_ms: u64,
}

impl Retention {
    /// Everything is kept.
    #[must_use]
    pub fn new() -> Retention {
        Retention::default()
    }

    /// No more than so many of the last records, 1 to [`RECORDS_MAX`].
    #[must_use]
    pub fn records(self, records: u64) -> Retention {
        Retention { records: if records == 0 { u64::MAX } else { records }, ..self }
    }

    /// No more than so many bytes of the last records, 1 to [`BYTES_MAX`].
    #[must_use]
    pub fn bytes(self, bytes: u64) -> Retention {
        Retention { bytes: if bytes == 0 { u64::MAX } else { bytes }, ..self }
    }

    /// Nothing that is older, in log time: 1 ms to ten years. Parts of a millisecond count as one.
    #[must_use]
    pub fn age(self, age: Duration) -> Retention {
        let age_ms = match age.as_nanos().div_ceil(1_000_000) {
            0 => u64::MAX,
            age_ms => u64::try_from(age_ms).unwrap_or(u64::MAX),
        };
        Retention { age_ms, ..self }
    }

    /// The options a log is created with. What is out of range is refused then.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        let Retention { records, bytes, age_ms } = self;
        match self == Retention::new() {
            true => Vec::new(),
            false => [records, bytes, age_ms].map(u64::to_le_bytes).concat(),
        }
    }

    /// Reads what [`Retention::encode`] wrote.
    ///
    /// # Errors
    /// [`Code::BAD_AMOUNT`], [`Code::BAD_TIME`], or [`Code::BAD_PAYLOAD`] for anything else.
    pub fn decode(options: &[u8]) -> Result<Retention, Code> {
        if options.is_empty() {
            return Ok(Retention::new());
        }
        let mut reader = Reader::new(options);
        let (records, bytes, age_ms) = (reader.u64()?, reader.u64()?, reader.u64()?);
        reader.end()?;
        if records > RECORDS_MAX || bytes > BYTES_MAX {
            return Err(Code::BAD_AMOUNT);
        }
        if age_ms > AGE_MS_MAX {
            return Err(Code::BAD_TIME);
        }
        Ok(Retention { records, bytes, age_ms })
    }

    /// Whether the oldest records make room for new ones.
    fn rolls(self) -> bool {
        self.records > 0 || self.bytes > 0
    }

    fn records_max(self) -> u64 {
        if self.records == 0 { RECORDS_MAX } else { self.records }
    }

    fn bytes_max(self) -> u64 {
        if self.bytes == 0 { BYTES_MAX } else { self.bytes }
    }
}
