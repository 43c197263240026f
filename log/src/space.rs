//! Room for what is appended: in the queue to the disk, and on it.
//!
//! A batch gets its place when it enters the log, behind the last one or at the beginning of the
//! next segment that it fits in, whether that is prepared or not. Segments are asked for early, and
//! each is twice as large as the one before. When one is prepared, and when one is retired, is in
//! `progress.rs`; whose files are used again, in `spare.rs`.
//!
//! Invariant: a place is given once.

use crate::batch::disk_length;
use crate::disk::DiskError;
use crate::format::{BLOCK, BatchHeader, FRAME, LENGTH_MAX, in_blocks};
use crate::id::{Index, Position, SegmentNumber};
use crate::log::Log;
use crate::segment::Segment;

/// Whether a new batch could be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Space {
    /// At once.
    Ready,
    /// Soon: space is being prepared, sealed batches wait in memory.
    Preparing,
    /// Preparing space failed and is tried again from time to time: propose nothing meanwhile.
    Full(DiskError),
}

impl Log {
    /// Whether a new batch could be written.
    #[must_use]
    pub fn space(&self) -> Space {
        let active = self.segments.active();
        let spare = self.segments.spares().next();
        let queued = self.writer.waiting() > self.options.queue_bytes / 2;
        let has_room = active.ready && active.room() >= self.reserve();
        let ready = (has_room || spare.is_some_and(|spare| spare.ready)) && !queued;
        match self.preparing.failed {
            _ if ready => Space::Ready,
            Some(error) => Space::Full(error),
            None => Space::Preparing,
        }
    }

    /// Whether [`Log::accept`] would find room for a batch now.
    #[must_use]
    pub fn has_room_for(&self, header: &BatchHeader) -> bool {
        self.has_room(disk_length(header))
    }

    /// Whether the queue to the disk takes another batch, whatever its size.
    #[cfg(feature = "direct")]
    pub(crate) fn has_queue_room(&self) -> bool {
        self.has_room(in_blocks(FRAME as u64 + u64::from(LENGTH_MAX)))
    }

    /// Whether [`Log::seal`] would find room for the open batch now.
    #[must_use]
    pub fn has_room_for_open(&self) -> bool {
        self.has_room(in_blocks(FRAME as u64 + self.open_bytes()))
    }

    /// Whether a batch of `bytes` on disk could be queued.
    pub(crate) fn has_room(&self, bytes: u64) -> bool {
        let waiting = self.writer.waiting();
        waiting == 0 || waiting.saturating_add(bytes) <= self.options.queue_bytes
    }

    /// Sets aside `bytes` in the active segment or the next one that has room, and sees to it that
    /// the one after is asked for in time.
    pub(crate) fn place(&mut self, bytes: u64) -> Position {
        while self.segments.active().room() < bytes {
            if self.segments.spares().next().is_none() {
                self.add_segment(bytes);
            }
            self.segments.advance();
        }
        let position = self.segments.reserve(bytes);
        let active = self.segments.active();
        if active.cursor >= active.size / 2 && self.segments.spares().next().is_none() {
            self.add_segment(0);
        }
        position
    }

    /// Has as much space prepared ahead as the options say.
    pub fn prepare_ahead(&mut self) {
        let wanted = self.options.prepared_bytes;
        let spares: u64 = self.segments.spares().map(|segment| segment.size).sum();
        let mut ahead = self.segments.active().room() + spares;
        while ahead < wanted {
            ahead += self.add_segment(0);
        }
        self.pump();
    }

    /// From now on files of segments that are no longer needed are kept for later ones up to
    /// `bytes`, or [`crate::Options::spare_bytes`], if that is more. What is kept beyond that goes
    /// as it is used.
    pub fn keep_spares(&mut self, bytes: u64) {
        self.spares.bytes_max = bytes.max(self.options.spare_bytes);
    }

    /// Asks for another segment, in which `bytes` fit. Returns its size.
    pub(crate) fn add_segment(&mut self, bytes: u64) -> u64 {
        let newest = self.segments.newest().expect("a log has at least one segment");
        let doubled = newest.size.saturating_mul(2).min(self.options.segment_max);
        let size = doubled.max(BLOCK as u64 + in_blocks(bytes));
        let number = SegmentNumber(newest.number.0 + 1);
        self.segments.add(Segment::new(number, size, false));
        size
    }

    /// Space that must be left in the active segment for it to count as ready: the largest batch,
    /// or a quarter of a small segment.
    pub(crate) fn reserve(&self) -> u64 {
        let largest = in_blocks(FRAME as u64 + u64::from(LENGTH_MAX));
        largest.min(self.options.segment_first / 4)
    }

    /// Bytes of disk between the ends of the batches that end at `after` and at `through`: also
    /// what rounding to blocks and segments that were given up half-way take. Counts only what the
    /// log still has.
    #[must_use]
    pub fn disk_bytes(&self, after: Index, through: Index) -> u64 {
        self.segments.disk_bytes(after, through)
    }
}
