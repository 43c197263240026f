//! Where each batch of the log lies: the segments, and in each the batches that are part of the
//! log.
//!
//! A segment also holds frames that are no longer, or never were, part of the log; they are not
//! listed. Positions rise with indexes, because a batch is always written after the one it stands
//! on: so one list in physical order is also in log order. No bytes and no I/O here.
//!
//! Invariants: the listed batches follow each other without gap from `start` to `last`, and chain;
//! segment numbers rise by one; nothing is listed behind the active segment.

use std::collections::VecDeque;

use crate::clean::Marks;
use crate::format::{BLOCK, BatchHeader, FRAME, in_blocks};
use crate::id::{BatchEnd, Chain, EntryId, Index, Position, SegmentNumber, Term};
use crate::pack::Placed;

/// `end` of a segment that is not in use yet.
const SPARE: Index = Index(u64::MAX);

/// A batch of the log, by place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BatchRef {
    pub(crate) first: Index,
    pub(crate) last: Index,
    pub(crate) term: Term,
    pub(crate) chain: Chain,
    /// The log's own time, in microseconds.
    pub(crate) log_time: u64,
    /// Offset of its frame in the segment.
    pub(crate) offset: u64,
    /// Bytes of the batch, without frame.
    pub(crate) length: u32,
    /// It lies in a pack: `offset` and `length` are those of its record.
    pub(crate) packed: bool,
}

impl BatchRef {
    pub(crate) fn new(header: &BatchHeader, offset: u64) -> BatchRef {
        BatchRef {
            first: header.first,
            last: header.last().index,
            term: header.term,
            chain: header.chain,
            log_time: header.log_time,
            offset,
            length: header.length,
            packed: false,
        }
    }

    /// A batch in a pack.
    pub(crate) fn placed(placed: &Placed) -> BatchRef {
        let length = placed.length;
        BatchRef { length, packed: true, ..BatchRef::new(&placed.header, placed.offset) }
    }

    /// Bytes on disk, frame and padding included.
    pub(crate) fn disk_length(&self) -> u64 {
        in_blocks(FRAME as u64 + u64::from(self.length))
    }

    /// Where its entries end, counted from `offset`.
    #[cfg(feature = "direct")]
    pub(crate) fn bytes_end(&self) -> usize {
        self.length as usize + if self.packed { 0 } else { FRAME }
    }

    /// The blocks that it lies in: offset and length.
    pub(crate) fn span(&self) -> (u64, u64) {
        if !self.packed {
            return (self.offset, self.disk_length());
        }
        let begin = self.offset - self.offset % BLOCK as u64;
        (begin, in_blocks(self.offset + u64::from(self.length)) - begin)
    }

    /// Whether it has the entry at `index`.
    #[cfg(feature = "direct")]
    pub(crate) fn holds(&self, index: Index) -> bool {
        self.first <= index && index <= self.last
    }

    pub(crate) fn end(&self) -> BatchEnd {
        BatchEnd { id: EntryId::new(self.term, self.last), chain: self.chain }
    }
}

/// A segment file.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) number: SegmentNumber,
    /// File size in bytes.
    pub(crate) size: u64,
    /// Where the next frame would go.
    pub(crate) cursor: u64,
    /// Its space is prepared.
    pub(crate) ready: bool,
    /// The log's last index when it went on in the next segment, or now; beyond all while it is a
    /// spare.
    end: Index,
    batches: Vec<BatchRef>,
    /// Entries that are no longer wanted.
    marks: Marks,
    /// Entries that compaction has removed.
    removed: u64,
}

impl Segment {
    pub(crate) fn new(number: SegmentNumber, size: u64, ready: bool) -> Segment {
        assert!(size > BLOCK as u64 && size.is_multiple_of(BLOCK as u64));
        let (batches, marks) = (Vec::new(), Marks::default());
        let (cursor, end) = (BLOCK as u64, Index::ZERO);
        Segment { number, size, cursor, ready, end, batches, marks, removed: 0 }
    }

    pub(crate) fn room(&self) -> u64 {
        self.size - self.cursor
    }

    pub(crate) fn batches(&self) -> &[BatchRef] {
        &self.batches
    }

    pub(crate) fn marks(&self) -> &Marks {
        &self.marks
    }

    /// Bytes of it up to the end of the batch that holds `index`.
    fn bytes_through(&self, index: Index) -> u64 {
        let before = self.batches.partition_point(|batch| batch.last <= index);
        let end = |batch: &BatchRef| batch.span().0 + batch.span().1;
        self.batches[..before].last().map_or(0, end)
    }

    /// Marks an entry of this segment.
    pub(crate) fn clean(&mut self, index: Index) {
        if self.marks.count() == 0 {
            self.marks = Marks::from(self.batches[0].first);
        }
        self.marks.set(index);
    }

    /// Entries that compaction has not removed.
    pub(crate) fn entries_left(&self) -> u64 {
        let entries = |batch: &BatchRef| batch.last.since(batch.first.prev());
        let all: u64 = self.batches.iter().map(entries).sum();
        all.saturating_sub(self.removed)
    }

    /// Its file has been replaced, by one that lacks `gone` more entries. What has been cut off
    /// since stays cut off.
    pub(crate) fn replace(
        &mut self,
        size: u64,
        mut batches: Vec<BatchRef>,
        marks: &Marks,
        gone: u64,
    ) {
        batches.truncate(self.batches.len());
        let same = |(new, old): (&BatchRef, &BatchRef)| new.end() == old.end();
        assert!(batches.iter().zip(&self.batches).all(same), "the same batches, elsewhere");
        self.removed += gone;
        self.marks.subtract(marks);
        (self.size, self.cursor, self.batches) = (size, size, batches);
    }
}

/// All segments, and the shape of the log.
#[derive(Debug)]
pub(crate) struct Segments {
    list: VecDeque<Segment>,
    /// Which of `list` takes the next batch.
    active: usize,
    start: BatchEnd,
    last: BatchEnd,
    /// Each term of the log with its first index, rising in both.
    terms: Vec<(Term, Index)>,
    /// The latest log time of any batch there has been.
    log_time: u64,
}

impl Segments {
    /// An empty log behind `start`, without segments.
    pub(crate) fn new(start: BatchEnd) -> Segments {
        let (list, terms) = (VecDeque::new(), Vec::new());
        Segments { list, active: 0, start, last: start, terms, log_time: 0 }
    }

    pub(crate) fn log_time(&self) -> u64 {
        self.log_time
    }

    /// A batch of this log time has entered the log.
    pub(crate) fn note_time(&mut self, log_time: u64) {
        self.log_time = self.log_time.max(log_time);
    }

    pub(crate) fn start(&self) -> BatchEnd {
        self.start
    }

    pub(crate) fn last(&self) -> BatchEnd {
        self.last
    }

    pub(crate) fn terms(&self) -> &[(Term, Index)] {
        &self.terms
    }

    /// Where the next frame would go if it fits.
    pub(crate) fn cursor(&self) -> Position {
        let active = self.active();
        Position { segment: active.number, offset: active.cursor }
    }

    pub(crate) fn active(&self) -> &Segment {
        &self.list[self.active]
    }

    /// The segments behind the active one.
    pub(crate) fn spares(&self) -> impl Iterator<Item = &Segment> {
        self.list.iter().skip(self.active + 1)
    }

    /// All of them, in order.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Segment> {
        self.list.iter()
    }

    /// The first index of the first batch of this log time or a later one; behind the last if there
    /// is none. Log times must not go back.
    #[cfg(feature = "direct")]
    pub(crate) fn first_at(&self, time: u64) -> Index {
        let reaches =
            |segment: &&Segment| segment.batches.last().is_some_and(|batch| batch.log_time >= time);
        if let Some(segment) = self.list.iter().find(reaches) {
            let at = segment.batches.partition_point(|batch| batch.log_time < time);
            return segment.batches[at].first;
        }
        self.last.id.index.next()
    }

    pub(crate) fn newest(&self) -> Option<&Segment> {
        self.list.back()
    }

    /// The oldest segment.
    pub(crate) fn oldest(&self) -> SegmentNumber {
        self.list[0].number
    }

    /// The oldest segment that is not prepared.
    pub(crate) fn unready(&self) -> Option<&Segment> {
        self.list.iter().find(|segment| !segment.ready)
    }

    pub(crate) fn by_number(&mut self, number: SegmentNumber) -> Option<&mut Segment> {
        let oldest = self.list.front()?.number.0;
        let at = usize::try_from(number.0.checked_sub(oldest)?).ok()?;
        self.list.get_mut(at)
    }

    /// Adds a segment behind all others.
    pub(crate) fn add(&mut self, mut segment: Segment) {
        let follows = self.newest().is_none_or(|newest| newest.number.0 + 1 == segment.number.0);
        assert!(follows, "segment numbers rise by one");
        segment.end = if self.list.is_empty() { self.last.id.index } else { SPARE };
        self.list.push_back(segment);
    }

    /// Goes on in the segment behind the active one.
    pub(crate) fn advance(&mut self) {
        assert!(self.active + 1 < self.list.len());
        self.active += 1;
        self.list[self.active].end = self.last.id.index;
    }

    /// Goes on in the newest segment.
    pub(crate) fn advance_to_newest(&mut self) {
        while self.active + 1 < self.list.len() {
            self.advance();
        }
    }

    /// Goes on in segment `number`, which like those behind it has nothing in it.
    pub(crate) fn rewind(&mut self, number: SegmentNumber) {
        while self.active > 0 && self.list[self.active].number > number {
            assert!(self.list[self.active].batches.is_empty());
            self.list[self.active].end = SPARE;
            self.active -= 1;
        }
        assert!(self.list[self.active].number == number);
        assert!(self.list[self.active].batches.is_empty());
    }

    /// Sets space aside in the active segment and says where.
    pub(crate) fn reserve(&mut self, bytes: u64) -> Position {
        let position = self.cursor();
        let active = &mut self.list[self.active];
        assert!(bytes <= active.room() && bytes.is_multiple_of(BLOCK as u64));
        active.cursor += bytes;
        position
    }

    /// Lists a batch in the active segment as the log's new end.
    pub(crate) fn push(&mut self, batch: BatchRef) {
        assert!(batch.first == self.last.id.index.next(), "batches follow without gap");
        assert!(batch.last >= batch.first);
        let active = &mut self.list[self.active];
        let after = active.batches.last().is_none_or(|before| before.offset < batch.offset);
        assert!(after, "positions rise with indexes");
        if self.terms.last().is_none_or(|&(term, _)| term < batch.term) {
            self.terms.push((batch.term, batch.first));
        }
        active.batches.push(batch);
        active.end = batch.last;
        self.last = batch.end();
    }

    /// Compaction has removed so many entries of the newest batch's segment, this batch among them.
    pub(crate) fn note_removed(&mut self, entries: u64) {
        self.list[self.active].removed += entries;
    }

    /// The entries behind `after` up to `through`, all of one batch, that are no longer wanted.
    #[cfg(any(feature = "direct", feature = "sim"))]
    pub(crate) fn marked(&self, after: Index, through: Index) -> Vec<Index> {
        let Some((segment, _)) = self.find(through) else { return Vec::new() };
        let entries = (after.next().0..=through.0).map(Index);
        entries.filter(|&index| segment.marks.has(index)).collect()
    }

    /// The batch that holds `index`, and its segment.
    pub(crate) fn find(&self, index: Index) -> Option<(&Segment, usize)> {
        if index <= self.start.id.index || index > self.last.id.index {
            return None;
        }
        let at = self.list.partition_point(|segment| segment.end < index);
        let segment = self.list.get(at)?;
        let batch = segment.batches.partition_point(|batch| batch.last < index);
        assert!(batch < segment.batches.len());
        Some((segment, batch))
    }

    /// Bytes of disk between the ends of two batches: also what rounding to blocks and segments
    /// that were given up half-way take. As far as the log has them.
    pub(crate) fn disk_bytes(&self, after: Index, through: Index) -> u64 {
        let begin = self.list.partition_point(|segment| segment.end < after);
        let mut bytes = 0;
        for (at, segment) in
            self.list.iter().enumerate().skip(begin).take_while(|(at, _)| *at <= self.active)
        {
            let whole = at < self.active && segment.end <= through;
            let end = if whole { segment.size } else { segment.bytes_through(through) };
            bytes += end.saturating_sub(segment.bytes_through(after));
            if segment.end > through {
                break;
            }
        }
        bytes
    }

    /// The end of the batch that ends at `index`, or `start`.
    pub(crate) fn end_at(&self, index: Index) -> Option<BatchEnd> {
        if index == self.start.id.index {
            return Some(self.start);
        }
        let (segment, at) = self.find(index)?;
        let batch = segment.batches[at];
        (batch.last == index).then(|| batch.end())
    }

    /// The term of the entry at `index`, or of `start`.
    pub(crate) fn term_at(&self, index: Index) -> Option<Term> {
        if index == self.start.id.index {
            return Some(self.start.id.term);
        }
        if index < self.start.id.index || index > self.last.id.index {
            return None;
        }
        let at = self.terms.partition_point(|&(_, first)| first <= index);
        Some(self.terms[at.checked_sub(1)?].0)
    }

    /// The last batch end that is not behind `index`.
    pub(crate) fn end_up_to(&self, index: Index) -> BatchEnd {
        if index >= self.last.id.index {
            return self.last;
        }
        match self.find(index) {
            Some((segment, at)) if segment.batches[at].last == index => segment.batches[at].end(),
            Some((segment, at)) => {
                let prev = segment.batches[at].first.prev();
                self.end_at(prev).unwrap_or(self.start)
            }
            None => self.start,
        }
    }

    /// Drops everything behind `end`, which is a batch end of the log. Returns how many batches
    /// that were.
    pub(crate) fn truncate_suffix(&mut self, end: BatchEnd) -> u64 {
        let after = end.id.index;
        assert!(self.start.id.index <= after && after <= self.last.id.index);
        if after == self.last.id.index {
            return 0;
        }
        let mut dropped = 0;
        for segment in self.list.range_mut(..=self.active).rev() {
            if segment.end <= after {
                break;
            }
            while segment.batches.last().is_some_and(|batch| batch.last > after) {
                segment.batches.pop();
                dropped += 1;
            }
            segment.end = after;
            segment.marks.cut(after);
        }
        while self.terms.last().is_some_and(|&(_, first)| first > after) {
            self.terms.pop();
        }
        self.last = end;
        dropped
    }

    /// Drops the oldest segments whose batches all end at or before `through`; never the active
    /// one. Returns their numbers and sizes.
    pub(crate) fn truncate_prefix(&mut self, through: Index) -> Vec<(SegmentNumber, u64)> {
        let mut dropped = Vec::new();
        while self.active > 0 && self.list[0].ready && self.list[0].end <= through {
            let Some(segment) = self.list.pop_front() else { break };
            self.active -= 1;
            if let Some(batch) = segment.batches.last() {
                self.start = batch.end();
            }
            dropped.push((segment.number, segment.size));
        }
        let first = self.start.id.index.next();
        let gone = self.terms.partition_point(|&(_, from)| from <= first);
        if gone > 0 {
            self.terms.drain(..gone - 1);
            self.terms[0].1 = first;
        }
        if first > self.last.id.index {
            self.terms.clear();
        }
        dropped
    }

    /// Forgets all batches: the log is empty behind `start`. Prepared segments before the active
    /// one are dropped. Returns their numbers and sizes.
    pub(crate) fn reset(&mut self, start: BatchEnd) -> Vec<(SegmentNumber, u64)> {
        let mut dropped = Vec::new();
        while self.active > 0 && self.list[0].ready {
            let Some(segment) = self.list.pop_front() else { break };
            self.active -= 1;
            dropped.push((segment.number, segment.size));
        }
        for segment in self.list.range_mut(..=self.active) {
            segment.batches.clear();
            segment.marks = Marks::default();
            segment.end = start.id.index;
        }
        self.terms.clear();
        self.start = start;
        self.last = start;
        dropped
    }
}
