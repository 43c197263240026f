//! What a log asks of a disk and what it is told in return. No I/O happens here.
//!
//! A log is a plain state machine: it emits [`Op`]s and is told [`Done`]s, in any order. Whoever
//! drives it owns the disk: a ring of its own ([`uring`]), plain calls on the calling thread
//! ([`direct`]), a seeded fault injector ([`sim`]), or somebody else's ring.
//!
//! Invariant: a buffer named by an `Op` belongs to the disk until the `Op` is done; `Arc` makes it
//! so.

use std::sync::Arc;

use crate::buffer::Buffer;
use crate::id::{Index, SegmentNumber, Ticket};

#[cfg(feature = "direct")]
mod ahead;
#[cfg(feature = "direct")]
pub mod direct;
#[cfg(feature = "direct")]
pub(crate) mod directory;
#[cfg(feature = "uring")]
#[allow(unsafe_code)]
pub mod driver;
#[cfg(feature = "direct")]
pub(crate) mod maker;
#[cfg(feature = "uring")]
mod prepare;
#[cfg(feature = "uring")]
mod publish;
#[cfg(feature = "sim")]
pub mod sim;
#[cfg(feature = "direct")]
mod slots;
#[cfg(feature = "direct")]
pub(crate) mod snapshots;
#[cfg(feature = "direct")]
#[allow(unsafe_code)]
pub(crate) mod sys;
#[cfg(feature = "uring")]
mod transfer;
#[cfg(feature = "uring")]
#[allow(unsafe_code)]
pub mod uring;
#[cfg(feature = "direct")]
pub mod view;

/// One request to the disk. Offsets and lengths of data are multiples of [`crate::format::BLOCK`].
#[derive(Debug, Clone)]
pub enum Op {
    /// Write into prepared space of a segment, durable when done.
    Write {
        /// Names this write in its `Done`.
        ticket: Ticket,
        /// The segment file.
        segment: SegmentNumber,
        /// Byte offset in the file.
        offset: u64,
        /// The bytes: a frame, its batch and zeros up to the block.
        data: Arc<Buffer>,
    },
    /// Put back, where it was, a batch that the disk has lost. Durable when done; a failure
    /// changes nothing.
    Mend {
        /// Names this write in its `Done`.
        ticket: Ticket,
        /// The segment file.
        segment: SegmentNumber,
        /// Byte offset in the file.
        offset: u64,
        /// The bytes, as of a `Write`.
        data: Arc<Buffer>,
    },
    /// Read from a segment.
    Read {
        /// Names this read in its `Done`.
        ticket: Ticket,
        /// The segment file.
        segment: SegmentNumber,
        /// Byte offset in the file.
        offset: u64,
        /// Bytes to read.
        length: u32,
    },
    /// Make a segment of `size` bytes: header block, then zeros, all durable, then visible under
    /// its name. May fail and be asked for again.
    Prepare {
        /// The new segment.
        segment: SegmentNumber,
        /// File size in bytes, header block included.
        size: u64,
        /// The header block.
        header: Arc<Buffer>,
        /// Make it from the file of this size that was set aside when this segment was retired:
        /// only the header block is written anew. It is gone then, also after a failure.
        spare: Option<SegmentNumber>,
    },
    /// Delete a segment, or set its file aside.
    Retire {
        /// The segment that is no longer needed.
        segment: SegmentNumber,
        /// Set it aside, under a temporary name, for a later `Prepare`.
        keep: bool,
    },
    /// Replace a segment's file by these bytes, header block included: whole and durable when done,
    /// or as it was. Should the directory not be synced, a crash may bring the former file back.
    Rewrite {
        /// The segment.
        segment: SegmentNumber,
        /// The new file.
        data: Arc<Buffer>,
    },
    /// Write both copies of one pair of hard-state slots, durable when done.
    HardState {
        /// Names this write in its `Done`.
        ticket: Ticket,
        /// Which pair, 0 or 1.
        pair: u8,
        /// Two equal blocks.
        data: Arc<Buffer>,
    },
    /// Work on the file of a snapshot. A failure harms that snapshot alone.
    Snapshot {
        /// Names this step in its `Done`.
        ticket: Ticket,
        /// The snapshot, by the last index it contains.
        snapshot: Index,
        /// What to do.
        step: SnapshotStep,
    },
}

/// A step in the life of a snapshot's file. It is made under a temporary name, by one owner at a
/// time, and gets its own when all of it is durable.
#[derive(Debug, Clone)]
pub enum SnapshotStep {
    /// Begin an empty file under the temporary name. Ends before any step that is submitted later.
    Begin,
    /// Write a piece of it. Durable only with `Publish`.
    Write {
        /// Byte offset in the file.
        offset: u64,
        /// Whole blocks.
        data: Arc<Buffer>,
    },
    /// All pieces are written: make the file durable, then visible under its name, in place of one
    /// that has it.
    Publish,
    /// Give the unfinished file up.
    Discard,
    /// Read from the finished file.
    Read {
        /// Byte offset in the file.
        offset: u64,
        /// Bytes to read: whole blocks.
        length: u32,
    },
    /// Delete the finished file.
    Remove,
}

/// The end of an [`Op`].
#[derive(Debug)]
pub enum Done {
    /// Of [`Op::Write`]: the bytes are durable, or the log must be poisoned.
    Write {
        /// The write it answers.
        ticket: Ticket,
        /// What happened.
        result: Result<(), DiskError>,
    },
    /// Of [`Op::Mend`].
    Mend {
        /// The write it answers.
        ticket: Ticket,
        /// What happened.
        result: Result<(), DiskError>,
    },
    /// Of [`Op::Read`].
    Read {
        /// The read it answers.
        ticket: Ticket,
        /// The bytes.
        result: Result<Buffer, DiskError>,
    },
    /// Of [`Op::Prepare`]: the segment can be written to.
    Prepared {
        /// The segment.
        segment: SegmentNumber,
        /// What happened; a failure may be retried.
        result: Result<(), DiskError>,
    },
    /// Of [`Op::Retire`].
    Retired {
        /// The segment.
        segment: SegmentNumber,
        /// What happened; a failure leaves a file that the next opening removes.
        result: Result<(), DiskError>,
    },
    /// Of [`Op::Rewrite`].
    Rewritten {
        /// The segment.
        segment: SegmentNumber,
        /// What happened; after a failure the file is as it was.
        result: Result<(), DiskError>,
    },
    /// Of [`Op::HardState`]: durable, or the log must be poisoned.
    HardState {
        /// The write it answers.
        ticket: Ticket,
        /// What happened.
        result: Result<(), DiskError>,
    },
    /// Of [`Op::Snapshot`].
    Snapshot {
        /// The step it answers.
        ticket: Ticket,
        /// What happened; the bytes of a `Read`.
        result: Result<Option<Buffer>, DiskError>,
    },
}

/// An error of the operating system, by number: small, comparable and the same in simulation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}", std::io::Error::from_raw_os_error(*errno))]
pub struct DiskError {
    /// `errno` of the failed call; 5 (EIO) for a short transfer.
    pub errno: i32,
}

impl DiskError {
    /// There is no space, for anybody or for this user: there may be some later.
    #[must_use]
    pub fn is_full(&self) -> bool {
        const ENOSPC: i32 = 28;
        const EDQUOT: i32 = 122;
        matches!(self.errno, ENOSPC | EDQUOT)
    }
}

/// Where an [`Op`] goes. Implementations never block in `submit`.
pub trait Disk {
    /// Starts `op`. Its `Done` comes out of a later `poll`.
    fn submit(&mut self, op: Op);

    /// Somebody else removes or replaces the file of a segment, which is not written to any more:
    /// it must not stay open, for it would go on taking its space.
    fn forget(&mut self, _segment: SegmentNumber) {}

    /// Appends what has finished to `done`; waits for at least one if `wait` and something is under
    /// way.
    fn poll(&mut self, wait: bool, done: &mut Vec<Done>);
}
