//! Reading the log, on any thread, while others write.
//!
//! What is in memory is lent from there. The rest is read from the files on the reader's own
//! thread, a large piece at a time, verified as on opening, and lent from the reader's own memory:
//! no entry is copied.
//!
//! Invariants: a reader shows what is durable, in order, without gaps but those that compaction has
//! made, and nothing that is not what was written; what it cannot read is an error that says where.

use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use crate::batch::Batch;
use crate::buffer::Buffer;
use crate::commit_log::shared::Shared;
use crate::error::{Error, ReadError};
use crate::format::{BatchHeader, EntryHeader};
use crate::id::{Index, Position, SegmentNumber};
use crate::pack::{Entries, kept_entry};
use crate::segment::BatchRef;

/// Bytes read from a file at a time, beyond the first batch.
const READ_BYTES: u64 = 1 << 20;

/// Times a place is looked up again because compaction has changed it meanwhile.
const LOOKS_MAX: u32 = 10;

/// One entry, lent by the reader until the next call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record<'a> {
    /// Its position.
    pub index: Index,
    /// When it was appended, in microseconds since 1970. Never goes back along the log.
    pub time: u64,
    /// What it was appended with besides the payload; its fields are the application's.
    pub header: EntryHeader,
    /// Its bytes, at an address that is a multiple of 16.
    pub payload: &'a [u8],
}

/// Reads a part of a log forwards and backwards. Made by
/// [`CommitLog::read`](super::CommitLog::read).
pub struct Reader {
    shared: Arc<Shared>,
    /// What [`Reader::read_next`] gives next.
    next: Index,
    /// The bounds, both included; `last` may lie beyond the end of the log.
    first: Index,
    last: Index,
    held: Held,
    /// The batch that was looked for last, as it was listed.
    looked_for: Option<BatchRef>,
    /// Each entry of the batch that is held: its index, and where it begins in the bytes held.
    entries: Vec<(Index, u32)>,
    batch: Option<BatchHeader>,
}

/// The bytes of the batch that entries are lent from.
enum Held {
    Nothing,
    Shared(Arc<Batch>),
    Piece(Piece),
}

/// Adjacent batches of a segment, read at once.
struct Piece {
    buffer: Buffer,
    segment: SegmentNumber,
    offset: u64,
    batches: Vec<BatchRef>,
    /// Which of them is held.
    at: usize,
}

impl Reader {
    pub(crate) fn new(shared: &Arc<Shared>, range: impl RangeBounds<Index>) -> Reader {
        let first = match range.start_bound() {
            Bound::Included(&index) => index,
            Bound::Excluded(&index) => index.next(),
            Bound::Unbounded => shared.state().log.first(),
        };
        let last = match range.end_bound() {
            Bound::Included(&index) => index,
            Bound::Excluded(&index) => index.prev(),
            Bound::Unbounded => Index(u64::MAX),
        };
        let first = first.max(Index(1));
        let shared = Arc::clone(shared);
        let (held, entries, batch) = (Held::Nothing, Vec::new(), None);
        Reader { shared, next: first, first, last, held, looked_for: None, entries, batch }
    }

    /// The next entry that is durable; `None` at the end of the range or of the log. At the end of
    /// the log it may be asked again later.
    ///
    /// # Errors
    /// [`Error::Gone`] if the log begins behind it by now, [`Error::Unreadable`] if it cannot be
    /// read back.
    pub fn read_next(&mut self) -> Result<Option<Record<'_>>, Error> {
        while self.next <= self.last && self.hold(self.next)? {
            let at = self.entries.partition_point(|&(index, _)| index < self.next);
            match self.entries.get(at) {
                Some(&(index, _)) if index > self.last => return Ok(None),
                Some(&(index, _)) => {
                    self.next = index.next();
                    return Ok(Some(self.lend(at)));
                }
                // Compaction has removed the rest of the batch.
                None => self.next = self.batch_held().last().index.next(),
            }
        }
        Ok(None)
    }

    /// The entry before the one that [`Reader::read_next`] would give, which it gives again then;
    /// `None` at the beginning of the range.
    ///
    /// # Errors
    /// As [`Reader::read_next`].
    pub fn read_prev(&mut self) -> Result<Option<Record<'_>>, Error> {
        let (end, begin) = {
            let state = self.shared.state();
            (state.log.durable().min(self.last).next(), state.log.first().max(self.first))
        };
        let mut before = self.next.min(end);
        while before > begin && self.hold(before.prev())? {
            let at = self.entries.partition_point(|&(index, _)| index < before);
            match at.checked_sub(1) {
                Some(at) if self.entries[at].0 < begin => return Ok(None),
                Some(at) => {
                    self.next = self.entries[at].0;
                    return Ok(Some(self.lend(at)));
                }
                None => before = self.batch_held().first,
            }
        }
        Ok(None)
    }

    /// Goes to `index`: [`Reader::read_next`] gives that one then. Bounded by the range.
    pub fn seek(&mut self, index: Index) {
        self.next = index.clamp(self.first, self.last.next());
    }

    /// Goes behind the last durable entry, to read backwards from there.
    pub fn seek_to_end(&mut self) {
        let end = self.shared.state().log.durable();
        self.seek(end.next());
    }

    /// The index that [`Reader::read_next`] would give.
    #[must_use]
    pub fn position(&self) -> Index {
        self.next
    }

    /// Goes behind the batch that comes next, as when it cannot be read.
    pub(crate) fn skip_batch(&mut self) {
        self.next = self.shared.state().log.batch_end(self.next).next();
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Sees to it that the batch of `index` is held. False if it is not durable yet.
    fn hold(&mut self, index: Index) -> Result<bool, Error> {
        for _ in 0..LOOKS_MAX {
            match self.try_hold(index) {
                // Compaction may have moved it since its place was looked up.
                Err(Error::Unreadable { .. }) if self.has_moved(index) => {}
                other => return other,
            }
        }
        self.try_hold(index)
    }

    /// Whether the batch of `index` is listed elsewhere than where it was just looked for.
    fn has_moved(&self, index: Index) -> bool {
        let listed = self.shared.state().log.listed(index);
        listed.is_none() || listed != self.looked_for
    }

    fn try_hold(&mut self, index: Index) -> Result<bool, Error> {
        if self.batch.is_some_and(|batch| holds(&batch, index)) {
            return Ok(true);
        }
        if let Held::Piece(piece) = &mut self.held
            && let Some(at) = piece.batches.iter().position(|batch| batch.holds(index))
        {
            piece.at = at;
            return self.verify(index).map(|()| true);
        }
        let spare = match std::mem::replace(&mut self.held, Held::Nothing) {
            Held::Piece(piece) => Some(piece),
            _ => None,
        };
        self.batch = None;
        let mut plan = Vec::new();
        let segment = {
            let state = self.shared.state();
            if index > state.log.durable() {
                return Ok(false);
            }
            if index < state.log.first() {
                return Err(Error::Gone { index, first: state.log.first() });
            }
            if let Some(batch) = state.log.cached(index) {
                let batch = Arc::clone(batch);
                drop(state);
                let entries = Entries::whole(batch.header(), batch.body());
                find(entries, batch.body().len(), &mut self.entries);
                self.batch = Some(*batch.header());
                self.held = Held::Shared(batch);
                return Ok(true);
            }
            state.log.plan(index, READ_BYTES, &mut plan)
        };
        self.looked_for = plan.first().copied();
        self.fetch(index, segment, plan, spare)?;
        self.verify(index).map(|()| true)
    }

    /// Reads the batches of `plan`, which lie one behind the other.
    fn fetch(
        &mut self,
        index: Index,
        segment: SegmentNumber,
        batches: Vec<BatchRef>,
        spare: Option<Piece>,
    ) -> Result<(), Error> {
        let (offset, first) = batches[0].span();
        let ends = batches.iter().map(|batch| batch.span()).map(|(at, length)| at + length);
        let length = ends.max().map_or(first, |end| end - offset);
        let spare = spare.map(|piece| piece.buffer);
        let mut buffer = spare
            .filter(|buffer| buffer.capacity() as u64 >= length)
            .unwrap_or_else(|| Buffer::zeroed(length.max(READ_BYTES) as usize));
        buffer.set_length(length as usize);
        let read = self.shared.files.read(Position { segment, offset }, &mut buffer);
        if let Err(cause) = read {
            let first = self.shared.state().log.first();
            if index < first {
                return Err(Error::Gone { index, first });
            }
            if batches.len() > 1 {
                // Which of them is unreadable? The first alone decides for itself.
                let piece = Piece { buffer, segment, offset, batches: Vec::new(), at: 0 };
                return self.fetch(index, segment, vec![batches[0]], Some(piece));
            }
            let (index, cause) = (batches[0].first, ReadError::Disk(cause));
            return Err(Error::Unreadable { segment, offset, index, cause });
        }
        self.held = Held::Piece(Piece { buffer, segment, offset, batches, at: 0 });
        Ok(())
    }

    /// Checks the batch that is held in a piece, and finds its entries.
    fn verify(&mut self, index: Index) -> Result<(), Error> {
        self.batch = None;
        let Held::Piece(piece) = &self.held else { return Ok(()) };
        let listed = piece.batches[piece.at];
        self.looked_for = Some(listed);
        let bytes = piece.bytes(&listed);
        if let Some((header, entries)) = self.shared.files.verified(piece.segment, &listed, bytes) {
            let end = listed.bytes_end();
            find(entries, end, &mut self.entries);
            self.batch = Some(header);
            return Ok(());
        }
        let (segment, offset) = (piece.segment, listed.offset);
        let first = self.shared.state().log.first();
        self.held = Held::Nothing;
        if index < first {
            return Err(Error::Gone { index, first });
        }
        let (index, cause) = (listed.first, ReadError::Changed);
        Err(Error::Unreadable { segment, offset, index, cause })
    }

    fn batch_held(&self) -> &BatchHeader {
        self.batch.as_ref().expect("a batch is held")
    }

    /// The `at`th entry of the batch that is held.
    fn lend(&self, at: usize) -> Record<'_> {
        let (index, offset) = self.entries[at];
        let bytes = match &self.held {
            Held::Shared(batch) => batch.body(),
            Held::Piece(piece) => piece.bytes(&piece.batches[piece.at]),
            Held::Nothing => unreachable!("a batch is held"),
        };
        let entry = kept_entry(&bytes[offset as usize..]).ok().flatten();
        let (_, header, payload, _) = entry.expect("the batch was checked as a whole");
        Record { index, time: self.batch_held().log_time, header, payload }
    }
}

impl Piece {
    /// What lies where a batch begins, and all behind.
    fn bytes(&self, batch: &BatchRef) -> &[u8] {
        &self.buffer[(batch.offset - self.offset) as usize..]
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reader(at {} of {}..={})", self.next, self.first, self.last)
    }
}

fn holds(batch: &BatchHeader, index: Index) -> bool {
    batch.first <= index && index <= batch.last().index
}

/// Where each entry begins, in bytes of which the entries end at `end`.
fn find(mut entries: Entries<'_>, end: usize, found: &mut Vec<(Index, u32)>) {
    found.clear();
    let mut at = end - entries.rest().len();
    while let Some((index, _, _)) = entries.next() {
        found.push((index, at as u32));
        at = end - entries.rest().len();
    }
}
