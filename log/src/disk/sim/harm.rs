//! What a simulation does to the disk: operations that fail from now on, and harm to what is
//! stored, by rot or by an operator.

use super::SimDisk;
use crate::disk::DiskError;
use crate::format::BLOCK;
use crate::hard_state::HARD_STATE_BYTES;
use crate::id::{Index, SegmentNumber};

impl SimDisk {
    /// The next log or hard-state write that completes fails with `error`, leaving a torn write
    /// behind.
    pub fn fail_next_write(&mut self, error: DiskError) {
        self.fail_write = Some(error);
    }

    /// From now on preparing a segment fails with `error`; `None` ends that.
    pub fn fail_prepares(&mut self, error: Option<DiskError>) {
        self.fail_prepare = error;
    }

    /// From now on every step of making a snapshot fails with `error`; `None` ends that.
    pub fn fail_snapshots(&mut self, error: Option<DiskError>) {
        self.fail_snapshots = error;
    }

    /// Makes the block at `offset` unreadable: reads of it fail with `EIO` until it is written.
    pub fn fail_reads_of(&mut self, segment: SegmentNumber, offset: u64) {
        self.unreadable.insert((segment, offset / BLOCK as u64));
    }

    /// Lets `calls` more writing calls of [`Storage`](crate::recover::Storage) through; the one
    /// after is torn and fails, and so do all later ones until the power is cut.
    pub fn crash_after(&mut self, calls: u32) {
        self.fuse = Some(calls);
    }

    /// Flips a bit of a stored segment. False if the segment is not there or shorter.
    pub fn flip(&mut self, segment: SegmentNumber, offset: u64, bit: u8) -> bool {
        self.segments.get_mut(&segment).is_some_and(|file| file.flip(offset, bit))
    }

    /// Flips a bit of the hard-state file. False if it is not there.
    pub fn flip_hard_state(&mut self, offset: u64, bit: u8) -> bool {
        let offset = offset % HARD_STATE_BYTES as u64;
        self.hard_state.as_mut().is_some_and(|file| file.flip(offset, bit))
    }

    /// Flips a bit of a finished snapshot. False if it is not there or shorter.
    pub fn flip_snapshot(&mut self, snapshot: Index, offset: u64, bit: u8) -> bool {
        self.snapshots.get_mut(&snapshot).is_some_and(|file| file.flip(offset, bit))
    }

    /// Overwrites whole blocks of a stored segment, as a misdirected write would. False if the
    /// segment is not there or ends before.
    pub fn overwrite(&mut self, segment: SegmentNumber, offset: u64, bytes: &[u8]) -> bool {
        let Some(file) = self.segments.get_mut(&segment) else { return false };
        let whole = offset.is_multiple_of(BLOCK as u64) && bytes.len().is_multiple_of(BLOCK);
        if !whole || offset.saturating_add(bytes.len() as u64) > file.size {
            return false;
        }
        file.write(offset, bytes, || true);
        true
    }

    /// Cuts a segment file to `size` bytes.
    pub fn shorten_segment(&mut self, segment: SegmentNumber, size: u64) -> bool {
        let Some(file) = self.segments.get_mut(&segment) else { return false };
        file.size = size;
        file.blocks.retain(|&block, _| block < size / BLOCK as u64);
        true
    }

    /// Exchanges the contents of two segment files.
    pub fn swap_segments(&mut self, one: SegmentNumber, other: SegmentNumber) -> bool {
        let Some(first) = self.segments.remove(&one) else { return false };
        let second = self.segments.insert(other, first);
        if let Some(second) = second {
            self.segments.insert(one, second);
        }
        true
    }

    /// Removes a file, as an operator might.
    pub fn lose_segment(&mut self, segment: SegmentNumber) -> bool {
        self.segments.remove(&segment).is_some()
    }

    /// Removes the hard-state file.
    pub fn lose_hard_state(&mut self) -> bool {
        self.hard_state.take().is_some()
    }

    /// Removes a finished snapshot, as an operator might.
    pub fn lose_snapshot(&mut self, snapshot: Index) -> bool {
        self.snapshots.remove(&snapshot).is_some()
    }
}
