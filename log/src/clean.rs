//! Cleaning: entries that are no longer wanted, and rewriting the segments that hold many of them.
//!
//! Here is which segments are worth it, and what changes in a log when one has been rewritten. The
//! bytes are `pack.rs`'s; whoever drives the log reads the old ones and lays down the new ones.
//!
//! Invariants: indexes stay; only segments behind which the log goes on are rewritten, and only
//! when every durable hard state speaks of a place behind them and knows of every cut, so that
//! nothing it says about places refers to what has moved, and nothing that has been left out is
//! missed; a segment is replaced as a whole or not at all.

use std::sync::Arc;

use crate::buffer::Buffer;
use crate::disk::{DiskError, Op};
use crate::error::{Error, ReadError};
use crate::format::BLOCK;
use crate::id::{Chain, Incarnation, Index, Position, SegmentNumber, Ticket};
use crate::log::Log;
use crate::pack::{Packer, Placed, verified};
use crate::segment::BatchRef;

/// Which entries of a segment are no longer wanted, by index from the first on.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Marks {
    first: u64,
    bits: Vec<u64>,
    count: u64,
}

impl Marks {
    /// Marks for entries from `first` on.
    pub(crate) fn from(first: Index) -> Marks {
        Marks { first: first.0, ..Marks::default() }
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Forgets the marks behind `after`.
    pub(crate) fn cut(&mut self, after: Index) {
        let kept = after.next().0.saturating_sub(self.first);
        let (words, bits) = ((kept / 64) as usize, kept % 64);
        self.bits.truncate(words + 1);
        if let Some(word) = self.bits.get_mut(words) {
            *word &= (1 << bits) - 1;
        }
        self.recount();
    }

    /// Forgets the marks that `other` has.
    pub(crate) fn subtract(&mut self, other: &Marks) {
        if self.first == other.first {
            for (word, gone) in self.bits.iter_mut().zip(&other.bits) {
                *word &= !gone;
            }
        }
        self.recount();
    }

    fn recount(&mut self) {
        self.count = self.bits.iter().map(|word| u64::from(word.count_ones())).sum();
    }

    pub(crate) fn set(&mut self, index: Index) -> bool {
        let at = index.0 - self.first;
        let (word, bit) = ((at / 64) as usize, at % 64);
        if self.bits.len() <= word {
            self.bits.resize(word + 1, 0);
        }
        let is_new = self.bits[word] & (1 << bit) == 0;
        self.bits[word] |= 1 << bit;
        self.count += u64::from(is_new);
        is_new
    }

    pub(crate) fn has(&self, index: Index) -> bool {
        let Some(at) = index.0.checked_sub(self.first) else { return false };
        self.bits.get((at / 64) as usize).is_some_and(|word| word & (1 << (at % 64)) != 0)
    }
}

/// A segment that is worth rewriting, as it was when it was chosen.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The segment.
    pub segment: SegmentNumber,
    /// Bytes of its file.
    pub size: u64,
    batches: Vec<BatchRef>,
    marks: Marks,
    /// What the log had before the first of them.
    before: (Index, Chain),
    salt: u32,
    incarnation: Incarnation,
    hard_state: u64,
}

/// What a segment is to be replaced by.
#[derive(Debug)]
pub struct Packed {
    data: Buffer,
    placed: Vec<Placed>,
    /// Entries that are left out.
    pub gone: u64,
}

impl Packed {
    /// Bytes of the new file.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.data.len() as u64
    }
}

impl Candidate {
    /// Reads the segment, by `read`, and lays down what is left of it.
    ///
    /// # Errors
    /// [`Error::Unreadable`] if a batch of it cannot be read back.
    pub fn pack(
        &self,
        mut read: impl FnMut(Position, &mut [u8]) -> Result<(), DiskError>,
    ) -> Result<Packed, Error> {
        let segment = self.segment;
        let mut packer =
            Packer::new(self.salt, self.incarnation, segment, self.before, self.hard_state);
        let mut gone = 0;
        let mut buffer = Buffer::zeroed(BLOCK);
        for batch in &self.batches {
            let (offset, length) = batch.span();
            if (buffer.capacity() as u64) < length {
                buffer = Buffer::zeroed(length as usize);
            }
            buffer.set_length(length as usize);
            let unreadable =
                |cause| Error::Unreadable { segment, offset, index: batch.first, cause };
            read(Position { segment, offset }, &mut buffer)
                .map_err(|cause| unreadable(ReadError::Disk(cause)))?;
            let bytes = &buffer[(batch.offset - offset) as usize..];
            let checked = verified(self.salt, self.incarnation, segment, batch, bytes);
            let (header, entries) = checked.ok_or_else(|| unreadable(ReadError::Changed))?;
            let kept = entries.filter(|(index, _, _)| {
                let is_marked = self.marks.has(*index);
                gone += u64::from(is_marked);
                !is_marked
            });
            packer.add(&header, kept);
        }
        let (content, placed) = packer.finish();
        let mut data = Buffer::zeroed(content.len());
        data.copy_from_slice(&content);
        Ok(Packed { data, placed, gone })
    }
}

/// A segment that is being rewritten.
#[derive(Debug)]
pub(crate) struct Rewriting {
    pub(crate) segment: SegmentNumber,
    size: u64,
    batches: Vec<BatchRef>,
    marks: Marks,
    /// Entries that are left out: fewer than are marked where some were removed before.
    gone: u64,
}

impl Log {
    /// Marks an entry as no longer wanted. Marks are in memory: compaction makes them durable.
    ///
    /// # Errors
    /// [`Error::Gone`] if it is not held.
    pub fn clean(&mut self, index: Index) -> Result<(), Error> {
        let first = self.first();
        let held = index <= self.last().index && index >= first;
        let segment = self.segments.find(index).map(|(segment, _)| segment.number);
        let Some(segment) = segment.filter(|_| held).and_then(|at| self.segments.by_number(at))
        else {
            return Err(Error::Gone { index, first });
        };
        segment.clean(index);
        Ok(())
    }

    /// The next segment behind `after` of which at least `percent` of the entries that are left are
    /// marked.
    #[must_use]
    pub fn candidate(&self, after: SegmentNumber, percent: u64) -> Option<Candidate> {
        let active = self.segments.active().number;
        let durable = self.durable();
        for segment in self.segments.all() {
            let (first, last) = (segment.batches().first(), segment.batches().last());
            let (Some(first), Some(last)) = (first, last) else { continue };
            let is_sealed = segment.number < active && segment.ready && last.last <= durable;
            // The log may begin within a segment; its places must not move.
            let begins_here =
                segment.number == self.from.segment && self.from.offset > BLOCK as u64;
            if segment.number <= after || !is_sealed || begins_here {
                continue;
            }
            let (marked, entries) = (segment.marks().count(), segment.entries_left());
            if marked == 0 || marked * 100 < entries.saturating_mul(percent) {
                continue;
            }
            let before = self.segments.end_at(first.first.prev());
            let before = before.map_or((Index::ZERO, Chain(0)), |end| (end.id.index, end.chain));
            return Some(Candidate {
                segment: segment.number,
                size: segment.size,
                batches: segment.batches().to_vec(),
                marks: segment.marks().clone(),
                before,
                salt: self.salt,
                incarnation: self.options.incarnation,
                hard_state: self.updates.durable(),
            });
        }
        None
    }

    /// Reads every entry that is left, by `read`, verified; those that were removed are not given.
    ///
    /// # Errors
    /// [`Error::Unreadable`] if a batch cannot be read back.
    pub fn each_entry(
        &self,
        mut read: impl FnMut(Position, &mut [u8]) -> Result<(), DiskError>,
        mut give: impl FnMut(Index, &[u8]),
    ) -> Result<(), Error> {
        for segment in self.segments.all() {
            for batch in segment.batches() {
                let (offset, length) = batch.span();
                let (number, index) = (segment.number, batch.first);
                let unreadable =
                    |cause| Error::Unreadable { segment: number, offset, index, cause };
                let mut buffer = Buffer::zeroed(length as usize);
                read(Position { segment: number, offset }, &mut buffer)
                    .map_err(|cause| unreadable(ReadError::Disk(cause)))?;
                let bytes = &buffer[(batch.offset - offset) as usize..];
                let incarnation = self.options.incarnation;
                let checked = verified(self.salt, incarnation, number, batch, bytes);
                let (_, entries) = checked.ok_or_else(|| unreadable(ReadError::Changed))?;
                entries.for_each(|(index, _, payload)| give(index, payload));
            }
        }
        Ok(())
    }

    /// Whether a segment is being rewritten.
    #[must_use]
    pub fn is_rewriting(&self) -> bool {
        self.rewriting.is_some()
    }

    /// Whether the batch that holds `index` lies in the segment that is being rewritten.
    #[cfg(feature = "direct")]
    pub(crate) fn is_rewriting_batch(&self, index: Index) -> bool {
        let Some(rewriting) = &self.rewriting else { return false };
        self.segments.find(index).is_some_and(|(segment, _)| segment.number == rewriting.segment)
    }

    /// Has a hard state written that speaks of the place where the log goes on now.
    pub fn record_place(&mut self) -> Ticket {
        let ticket = self.next_ticket();
        self.updates.want(ticket);
        self.pump();
        ticket
    }

    /// Whether every hard state on disk speaks of a place behind `segment`, so that it may be
    /// rewritten. [`Log::record_place`] twice makes it so.
    #[must_use]
    pub fn may_rewrite(&self, segment: SegmentNumber) -> bool {
        self.places.iter().all(|place| place.segment > segment)
    }

    /// No hard state on disk, or on its way there, knows how the log has just been cut: what was
    /// cut off must stay where it is until one does.
    pub(crate) fn forget_places(&mut self) {
        self.places = [Position::default(); 2];
        self.idle.begun.position = Position::default();
    }

    /// Whether the segment still is what it was when it was chosen.
    pub(crate) fn is_current(&self, candidate: &Candidate) -> bool {
        let segment = self.segments.all().find(|segment| segment.number == candidate.segment);
        segment.is_some_and(|segment| segment.batches() == candidate.batches)
    }

    /// Replaces the file of a segment. False if it is no longer what it was when it was chosen.
    ///
    /// # Panics
    /// Unless [`Log::may_rewrite`], or if another segment is being rewritten.
    pub fn rewrite(&mut self, candidate: &Candidate, packed: Packed) -> bool {
        assert!(self.may_rewrite(candidate.segment) && self.rewriting.is_none());
        if !self.is_current(candidate) || self.poisoned.is_some() {
            return false;
        }
        let (segment, marks) = (candidate.segment, candidate.marks.clone());
        let Packed { mut data, placed, gone } = packed;
        let size = data.len() as u64;
        self.segment_header(segment, size).encode(&mut data[..BLOCK]);
        let batches = placed.iter().map(BatchRef::placed).collect();
        self.rewriting = Some(Rewriting { segment, size, batches, marks, gone });
        self.ops.push_back(Op::Rewrite { segment, data: Arc::new(data) });
        true
    }

    /// The file has been replaced, or not.
    pub(crate) fn on_rewritten(&mut self, segment: SegmentNumber, result: Result<(), DiskError>) {
        let Some(done) = self.rewriting.take_if(|rewriting| rewriting.segment == segment) else {
            return;
        };
        if result.is_err() {
            return;
        }
        // Its file waited for this to be set aside.
        let retiring = self.retiring.iter_mut().find(|retiring| retiring.segment == segment);
        retiring.into_iter().for_each(|retiring| retiring.size = done.size);
        if let Some(segment) = self.segments.by_number(segment) {
            segment.replace(done.size, done.batches, &done.marks, done.gone);
            // Batches in memory have what was left out. They go from the oldest on.
            let through = segment.batches().last().map_or(Index::ZERO, |batch| batch.last);
            self.tail.truncate_prefix(through);
        }
    }
}
