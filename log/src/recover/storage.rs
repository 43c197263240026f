//! What opening a log needs of the disk that the log is on.

use crate::buffer::Buffer;
use crate::disk::DiskError;
#[cfg(doc)]
use crate::format::BLOCK;
use crate::id::{Index, SegmentNumber};

/// The files of one log, while it is being opened. Everything blocks and is durable on return.
/// Offsets and lengths are multiples of [`BLOCK`]. Whoever makes one holds the locks.
pub trait Storage {
    /// The segments that are there with their sizes in bytes, rising. Leftovers of a crash are not.
    ///
    /// # Errors
    /// The system's.
    fn segments(&mut self) -> Result<Vec<(SegmentNumber, u64)>, DiskError>;

    /// Fills `bytes` from a segment.
    ///
    /// # Errors
    /// The system's.
    fn read(
        &mut self,
        segment: SegmentNumber,
        offset: u64,
        bytes: &mut [u8],
    ) -> Result<(), DiskError>;

    /// Fills the front of `buffer` with `length` bytes from a segment. Called piece by piece, one
    /// behind the other: whoever can reads the next one ahead, into a buffer that it exchanges.
    ///
    /// # Errors
    /// The system's.
    fn fill(
        &mut self,
        segment: SegmentNumber,
        offset: u64,
        length: usize,
        buffer: &mut Buffer,
    ) -> Result<(), DiskError> {
        self.read(segment, offset, &mut buffer[..length])
    }

    /// Nothing more is filled.
    fn filled(&mut self) {}

    /// All bytes of the hard-state file, if it is there.
    ///
    /// # Errors
    /// The system's.
    fn hard_state(&mut self) -> Result<Option<Vec<u8>>, DiskError>;

    /// Makes the hard-state file: all of it or, after a crash, nothing.
    ///
    /// # Errors
    /// The system's.
    fn create_hard_state(&mut self, file: &Buffer) -> Result<(), DiskError>;

    /// Writes a pair of slots.
    ///
    /// # Errors
    /// The system's.
    fn write_hard_state(&mut self, pair: u8, slots: &Buffer) -> Result<(), DiskError>;

    /// As [`crate::disk::Op::Prepare`].
    ///
    /// # Errors
    /// The system's.
    fn prepare(
        &mut self,
        segment: SegmentNumber,
        size: u64,
        header: &Buffer,
    ) -> Result<(), DiskError>;

    /// Deletes a segment.
    ///
    /// # Errors
    /// The system's.
    fn remove(&mut self, segment: SegmentNumber) -> Result<(), DiskError>;

    /// The finished snapshots that are there with their sizes in bytes, rising by index. None,
    /// where nobody makes any.
    ///
    /// # Errors
    /// The system's.
    fn snapshots(&mut self) -> Result<Vec<(Index, u64)>, DiskError> {
        Ok(Vec::new())
    }

    /// Fills `bytes` from a finished snapshot.
    ///
    /// # Errors
    /// The system's.
    fn read_snapshot(
        &mut self,
        _snapshot: Index,
        _offset: u64,
        _bytes: &mut [u8],
    ) -> Result<(), DiskError> {
        Err(DiskError { errno: 2 })
    }

    /// A number that nobody can guess, for a new log.
    fn entropy(&mut self) -> u64;
}
