//! What can go wrong, one enum per audience: whoever holds bytes ([`FormatError`]), whoever pushes
//! an entry ([`Full`]), a follower ([`Refused`]), and whoever runs the log ([`Error`]).
//!
//! Each message says what, where and the remedy, in one line.

use crate::disk::DiskError;
use crate::id::{Chain, GroupId, Incarnation, Index, SegmentNumber, Term};
use crate::recover::Cause;

/// Name of a segment's file.
#[must_use]
pub fn segment_file(segment: SegmentNumber) -> String {
    format!("segment-{:016}.log", segment.0)
}

/// Name of the hard-state file.
pub const HARD_STATE_FILE: &str = "hard-state";

/// Why bytes are not what they should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// Fewer bytes than the header has, or than it announces.
    #[error("too few bytes")]
    Short,
    /// Not ours, or overwritten.
    #[error("wrong magic number")]
    Magic,
    /// Written by another version.
    #[error("format version {found}, this is version {}", crate::format::VERSION)]
    Version {
        /// The version in the header.
        found: u16,
    },
    /// The header's checksum does not match.
    #[error("header checksum does not match")]
    HeaderCrc,
    /// The body's checksum does not match.
    #[error("body checksum does not match")]
    BodyCrc,
    /// A length that no writer makes.
    #[error("impossible length {length}")]
    Length {
        /// The length in the header.
        length: u32,
    },
    /// A number of entries that no writer makes, or that the body does not hold.
    #[error("impossible number of entries {count}")]
    Count {
        /// The number in the header.
        count: u32,
    },
    /// An index that no writer makes.
    #[error("impossible first index {first}")]
    Index {
        /// The index in the header.
        first: Index,
    },
    /// Bytes that must be zero are not.
    #[error("reserved bytes are not zero")]
    Reserved,
    /// Of another cluster or group.
    #[error("belongs to another cluster or group")]
    Identity,
}

/// Why an entry was not taken into the open batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Full {
    /// The open batch is large enough: seal it, then push again.
    #[error("the open batch is full; seal it first")]
    Batch,
    /// The payload is beyond [`crate::format::PAYLOAD_MAX`] and fits in no batch.
    #[error("payload of {length} bytes, at most {} fit", crate::format::PAYLOAD_MAX)]
    Payload {
        /// Bytes of the payload.
        length: u64,
    },
}

/// Why a batch from elsewhere was not taken into the log, which is as it was before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refused {
    /// The log does not reach to the entry before it.
    #[error("the log ends at {last}, before the batch begins")]
    Gap {
        /// The log's last index.
        last: Index,
    },
    /// The log begins behind it: it is part of what was truncated or replaced by a snapshot.
    #[error("the log begins at {first}, behind the batch")]
    Gone {
        /// The first index still held.
        first: Index,
    },
    /// It was sealed on another log.
    #[error("sealed on another log than the one up to {prev}, whose chain is {chain:?}")]
    Chain {
        /// The index before the batch.
        prev: Index,
        /// The log's chain there; `None` if no batch ends there.
        chain: Option<Chain>,
    },
    /// Its term is lower than that of the entry before it.
    #[error("term {found} behind term {previous}")]
    Term {
        /// Term of the entry before the batch.
        previous: Term,
        /// Term of the batch.
        found: Term,
    },
    /// Too many bytes wait for space on disk: try again when [`crate::Log::space`] is ready.
    #[error("no space prepared for it yet")]
    NoSpace,
    /// A write failed before: the log takes nothing more.
    #[error("the log has stopped after a failed write")]
    Poisoned,
}

/// Why bytes that a log holds cannot be read back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReadError {
    /// The system refuses.
    #[error("{0}")]
    Disk(DiskError),
    /// They are not what was written: a checksum, the chain or the place does not match.
    #[error("not what was written there")]
    Changed,
}

/// Why a log could not be opened or cannot go on.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Somebody else has the directory open.
    #[error("{path} is in use by another process or handle; stop that one first")]
    Locked {
        /// What is locked.
        path: String,
    },
    /// A system call on a path failed.
    #[error("cannot {action} {path}: {cause}")]
    Path {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: String,
        /// The system's answer.
        cause: DiskError,
    },
    /// The kernel does not let us have a ring.
    #[error(
        "cannot set up io_uring: {cause}; allow io_uring (containers: seccomp profile, sysctl \
         kernel.io_uring_disabled), or use the direct driver"
    )]
    Ring {
        /// The system's answer.
        cause: DiskError,
    },
    /// A write, or a sync, failed. What is on disk is uncertain, so the log has stopped for good.
    #[error("writing {file} at offset {offset} failed: {cause}; restart to recover from the disk")]
    Write {
        /// The file.
        file: String,
        /// Where in it.
        offset: u64,
        /// The system's answer.
        cause: DiskError,
    },
    /// Preparing, reading or removing a file while opening failed.
    #[error("cannot {action} {file}: {cause}")]
    Storage {
        /// What was tried.
        action: &'static str,
        /// The file.
        file: String,
        /// The system's answer.
        cause: DiskError,
    },
    /// A write failed earlier.
    #[error("the log has stopped after a failed write; restart to recover from the disk")]
    Poisoned,
    /// Too many bytes wait for space on disk.
    #[error("no space prepared for another batch yet; try again when space is ready")]
    NoSpace,
    /// The disk is full. The log goes on by itself when there is space again.
    #[error("no space for the log: {cause}; free some, appends go on by themselves then")]
    DiskFull {
        /// The system's answer to preparing a segment.
        cause: DiskError,
    },
    /// The log has been closed.
    #[error("the log has been closed")]
    Closed,
    /// More bytes than one entry, or one append of many, may have.
    #[error("{length} bytes are too many for one append, at most {most} fit; split it")]
    TooLarge {
        /// Bytes asked for, headers included where there are several entries.
        length: u64,
        /// Bytes that fit.
        most: u64,
    },
    /// The entry is no longer held.
    #[error("entry {index} is gone; the log begins at {first}")]
    Gone {
        /// The index asked for.
        index: Index,
        /// The first that is held.
        first: Index,
    },
    /// The log was cut where a reader had been: what it has given from behind `after` on is no
    /// longer part of the log.
    #[error(
        "the log was cut behind entry {after}; take back what was read from there on, and seek"
    )]
    Cut {
        /// The last entry that was left, or one before it.
        after: Index,
    },
    /// An entry that is held cannot be read back.
    #[error(
        "{} cannot be read at offset {offset}: index {index}: {cause}",
        segment_file(*.segment)
    )]
    Unreadable {
        /// The segment.
        segment: SegmentNumber,
        /// Byte offset of the batch.
        offset: u64,
        /// Its first entry.
        index: Index,
        /// What is wrong.
        cause: ReadError,
    },
    /// An entry is not of the type that it was to be read as.
    #[error(
        "entry {index} is no value of schema {expected}: it has schema {found}; read it as what it \
         was appended as"
    )]
    NotAValue {
        /// The entry.
        index: Index,
        /// The schema asked for.
        expected: u16,
        /// The schema it was appended with; the same if its bytes are no such value.
        found: u16,
    },
    /// The log was opened for reading only, or as something else than it is, or a value cannot be
    /// written as bytes.
    #[error("cannot {action}: {reason}")]
    Unsupported {
        /// What was tried.
        action: &'static str,
        /// Why not.
        reason: &'static str,
    },
    /// There is nothing to seal.
    #[error("the open batch has no entries")]
    Empty,
    /// A batch would have a lower term than the one before it.
    #[error("term {found} behind term {last} of the log")]
    TermBackwards {
        /// Term of the last entry.
        last: Term,
        /// The term asked for.
        found: Term,
    },
    /// No batch ends there, or the log does not reach there.
    #[error("no batch ends at index {index}; truncate at a batch end between {start} and {last}")]
    NotABatchEnd {
        /// The index asked for.
        index: Index,
        /// Where the log begins.
        start: Index,
        /// Where it ends.
        last: Index,
    },
    /// An option is out of range.
    #[error("option {option} is out of range: {rule}")]
    Options {
        /// Its name.
        option: &'static str,
        /// What it must satisfy.
        rule: &'static str,
    },
    /// What was durable is not there; nothing has been written.
    #[error(
        "{} is damaged at offset {offset}: index {index} was durable and is {cause}; \
         restore it as it was",
        segment_file(*.segment)
    )]
    Damaged {
        /// Where the first thing that is lacking may have been.
        segment: SegmentNumber,
        /// Byte offset there.
        offset: u64,
        /// The first index that is lacking.
        index: Index,
        /// What seems to have happened.
        cause: Cause,
    },
    /// Segments without a hard state: the file was deleted, or not everything was copied.
    #[error("{HARD_STATE_FILE} is missing but segments are there; restore it as it was")]
    HardStateMissing,
    /// All four copies of the hard state are unreadable.
    #[error("{HARD_STATE_FILE}: none of four copies is readable; restore it as it was")]
    HardStateUnreadable,
    /// The newest hard state known to be durable is not there.
    #[error(
        "{HARD_STATE_FILE} holds update {found}, but update {needed} was durable; \
         the file is old or rotten: restore it as it was"
    )]
    HardStateLost {
        /// The newest readable update.
        found: u64,
        /// The update that a frame names.
        needed: u64,
    },
    /// The file is not one of ours.
    #[error("{file} is not a margay file; move it out of the directory")]
    Foreign {
        /// The file.
        file: String,
    },
    /// The file was written by a newer version.
    #[error("{file} has format version {found}; open it with a newer margay")]
    Newer {
        /// The file.
        file: String,
        /// Its version.
        found: u16,
    },
    /// The file belongs to another life of a data directory.
    #[error("{file} belongs to incarnation {found}, this is {expected}; files were mixed")]
    OtherIncarnation {
        /// The file.
        file: String,
        /// The one asked for, or that of the hard state.
        expected: Incarnation,
        /// The one in the file.
        found: Incarnation,
    },
    /// The file belongs to another cluster or group.
    #[error("{file} belongs to another cluster or to group {found}; check the directory's name")]
    OtherGroup {
        /// The file.
        file: String,
        /// The group in the file.
        found: GroupId,
    },
    /// A segment in the middle is not there.
    #[error("{} is missing; restore it as it was", segment_file(*.segment))]
    SegmentMissing {
        /// The segment.
        segment: SegmentNumber,
    },
    /// A segment file has another size than it was made with.
    #[error(
        "{} has {found} bytes{}; restore it as it was",
        segment_file(*.segment),
        instead_of(*.expected)
    )]
    SegmentSize {
        /// The segment.
        segment: SegmentNumber,
        /// Its size as made, in bytes; 0 if its header is unreadable too.
        expected: u64,
        /// Its size now, in bytes.
        found: u64,
    },
    /// A segment file holds another segment.
    #[error(
        "{} holds what belongs into {}; files were renamed",
        segment_file(*.segment),
        segment_file(*.found)
    )]
    SegmentSwapped {
        /// The segment its name says.
        segment: SegmentNumber,
        /// The segment its header says.
        found: SegmentNumber,
    },
}

fn instead_of(expected: u64) -> String {
    match expected {
        0 => ", none of which is a header".to_owned(),
        expected => format!(" instead of {expected}"),
    }
}

impl Error {
    /// Whether what was durable is not there any more. An older copy brings back an older log. A
    /// program that can do without may also remove the directory and begin anew.
    #[must_use]
    pub fn is_loss(&self) -> bool {
        matches!(
            self,
            Error::Damaged { .. }
                | Error::HardStateMissing
                | Error::HardStateUnreadable
                | Error::HardStateLost { .. }
                | Error::SegmentMissing { .. }
                | Error::SegmentSize { .. }
        )
    }
}

#[cfg(feature = "direct")]
impl Error {
    /// A thread of the log could not be started.
    pub(crate) fn thread(error: &std::io::Error) -> Error {
        let cause = crate::disk::sys::disk_error(error);
        Error::Path { action: "start", path: "a thread".to_owned(), cause }
    }
}
