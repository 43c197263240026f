//! Reading the log, on any thread, while others write.
//!
//! What is in memory is lent from there. The rest is read from the files, in pieces that grow as
//! long as the reader goes on where the last one ended, verified as on opening, and lent from the
//! reader's own memory: no entry is copied. A reader that has come to large pieces has the next
//! ones fetched meanwhile, see `ahead.rs`.
//!
//! Invariants: a reader shows what is durable, in order, without gaps but those that compaction has
//! made, and nothing that is not what was written; what it cannot read is an error that says where.
//! Once the log is cut below what it has given, it gives nothing more before it is told where to
//! go.

use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::batch::Batch;
use crate::buffer::Buffer;
use crate::commit_log::ahead::{Piece, Plan, ReadAhead};
use crate::commit_log::shared::{Shared, State};
use crate::error::{Error, ReadError};
use crate::format::{BatchHeader, EntryHeader};
use crate::id::{Index, Position, SegmentNumber};
use crate::log::Log;
use crate::pack::{Entries, kept_entry};
use crate::segment::BatchRef;

/// Bytes read from a file at a time, beyond the first batch: to begin with, ...
const WINDOW_MIN: u64 = 64 << 10;
/// ... and four times as much with every piece that follows on the last, up to this: from 2 MiB on
/// memory is on huge pages, into which a disk reads at twice the rate.
const WINDOW_MAX: u64 = 4 << 20;

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
    /// Which of them is likely to be asked for next.
    likely: usize,
    batch: Option<BatchHeader>,
    /// How often entries had gone when all this was looked up.
    cuts: u64,
    /// The highest index that it has given going back.
    reached: Index,
    /// Where the log was cut, if that was below what it has given. Until it is told where to go.
    cut: Option<Index>,
    /// Bytes of the next piece.
    window: u64,
    ahead: Option<ReadAhead>,
}

/// The bytes of the batch that entries are lent from.
enum Held {
    Nothing,
    Shared(Arc<Batch>),
    Piece(Piece),
}

/// Where a batch comes from.
enum Source {
    Memory(Arc<Batch>),
    Ahead(Plan),
    File(Plan),
}

/// Where a reader is going.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Forward,
    Back,
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
        Reader {
            cuts: shared.cuts.load(Ordering::Acquire),
            shared,
            next: first,
            first,
            last,
            held: Held::Nothing,
            looked_for: None,
            entries: Vec::new(),
            likely: 0,
            batch: None,
            reached: Index::ZERO,
            cut: None,
            window: WINDOW_MIN,
            ahead: None,
        }
    }

    /// The next entry that is durable; `None` at the end of the range or of the log. At the end of
    /// the log it may be asked again later.
    ///
    /// # Errors
    /// [`Error::Gone`] if the log begins behind it by now, [`Error::Unreadable`] if it cannot be
    /// read back. [`Error::Cut`], again and again until [`Reader::seek`], if the log was cut below
    /// where it stands, or below what it has given: other entries may have these indexes by now.
    pub fn read_next(&mut self) -> Result<Option<Record<'_>>, Error> {
        Ok(self.find_next()?.map(|at| self.lend(at)))
    }

    /// As [`Reader::read_next`]: which of the entries held it is.
    pub(crate) fn find_next(&mut self) -> Result<Option<usize>, Error> {
        self.heed_cuts()?;
        while self.next <= self.last && self.hold(self.next, Way::Forward)? {
            let at = self.place_of(self.next);
            match self.entries.get(at) {
                Some(&(index, _)) if index > self.last => return Ok(None),
                Some(&(index, _)) => {
                    self.next = index.next();
                    self.likely = at + 1;
                    return Ok(Some(at));
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
        self.heed_cuts()?;
        let (end, begin) = {
            let state = self.shared.state();
            (state.log.durable().min(self.last).next(), state.log.first().max(self.first))
        };
        let mut before = self.next.min(end);
        while before > begin && self.hold(before.prev(), Way::Back)? {
            let at = self.entries.partition_point(|&(index, _)| index < before);
            match at.checked_sub(1) {
                Some(at) if self.entries[at].0 < begin => return Ok(None),
                Some(at) => {
                    self.next = self.entries[at].0;
                    self.reached = self.reached.max(self.next);
                    return Ok(Some(self.lend(at)));
                }
                None => before = self.batch_held().first,
            }
        }
        Ok(None)
    }

    /// Goes to `index`: [`Reader::read_next`] gives that one then. Bounded by the range, which may
    /// end before it begins.
    pub fn seek(&mut self, index: Index) {
        self.forget(self.shared.cuts.load(Ordering::Acquire));
        (self.reached, self.cut) = (Index::ZERO, None);
        self.next = index.min(self.last.next()).max(self.first);
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
    fn hold(&mut self, index: Index, way: Way) -> Result<bool, Error> {
        for _ in 0..LOOKS_MAX {
            match self.try_hold(index, way) {
                // Compaction may have moved it since its place was looked up.
                Err(Error::Unreadable { segment, .. }) if self.has_moved(segment, index) => {}
                other => return other,
            }
        }
        self.try_hold(index, way)
    }

    /// Whether the batch of `index` is listed elsewhere than where it was just looked for. While
    /// its segment is rewritten the file may be another one already and the list not: that is
    /// waited for, or where somebody else writes the log, looked for.
    fn has_moved(&self, segment: SegmentNumber, index: Index) -> bool {
        self.shared.wait_until(|state| !state.log.is_rewriting_batch(index));
        self.shared.look_again(segment);
        let listed = self.shared.state().log.listed(index);
        listed.is_none() || listed != self.looked_for
    }

    /// Looks whether entries have gone that it has given or holds.
    pub(crate) fn heed_cuts(&mut self) -> Result<(), Error> {
        if self.cut.is_none() && self.shared.cuts.load(Ordering::Acquire) == self.cuts {
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        self.heed(&shared.state())
    }

    fn heed(&mut self, state: &State) -> Result<(), Error> {
        if self.is_cut(state) {
            let cut = state.cuts.since(self.cuts);
            self.cut = self.cut.into_iter().chain(cut).min();
        }
        self.forget(self.shared.cuts.load(Ordering::Acquire));
        self.cut.map_or(Ok(()), |after| Err(Error::Cut { after }))
    }

    /// Whether it has an [`Error::Cut`] to tell.
    pub(crate) fn is_cut(&self, state: &State) -> bool {
        let reached = self.reached.max(self.next.prev());
        self.cut.is_some() || state.cuts.since(self.cuts).is_some_and(|after| after < reached)
    }

    /// Lets go of what is held if entries have gone since it was looked up.
    fn forget(&mut self, cuts: u64) {
        if cuts != self.cuts {
            self.cuts = cuts;
            (self.batch, self.held) = (None, Held::Nothing);
        }
    }

    fn try_hold(&mut self, index: Index, way: Way) -> Result<bool, Error> {
        if self.batch.is_some_and(|batch| holds(&batch, index)) {
            return Ok(true);
        }
        if let Held::Piece(piece) = &mut self.held
            && let Some(at) = piece.plan.at(index)
        {
            piece.at = at;
            return self.verify(index).map(|()| true);
        }
        let spare = self.let_go(index, way);
        let shared = Arc::clone(&self.shared);
        let source = {
            let state = shared.state();
            // What is looked up is of the log as it is now.
            self.heed(&state)?;
            if index > state.log.durable() {
                return Ok(false);
            }
            if index < state.log.first() {
                return Err(Error::Gone { index, first: state.log.first() });
            }
            self.source(&state.log, index, way)
        };
        match source {
            Source::Memory(batch) => {
                let entries = Entries::whole(batch.header(), batch.body());
                find(entries, batch.body().len(), &mut self.entries);
                self.likely = 0;
                self.batch = Some(*batch.header());
                self.held = Held::Shared(batch);
                return Ok(true);
            }
            Source::Ahead(plan) => self.take_ahead(index, plan, spare)?,
            Source::File(plan) => self.fetch(index, plan, spare)?,
        }
        self.verify(index).map(|()| true)
    }

    /// Lets go of what is held, in favour of the batch of `index`. Returns memory to read it into.
    fn let_go(&mut self, index: Index, way: Way) -> Option<Buffer> {
        self.batch = None;
        let mut follows = false;
        let mut spare = None;
        if let Held::Piece(piece) = std::mem::replace(&mut self.held, Held::Nothing) {
            let batches = &piece.plan.batches;
            follows = match way {
                Way::Forward => batches.last().is_some_and(|last| last.last.next() == index),
                Way::Back => batches[0].first.prev() == index,
            };
            spare = Some(piece.buffer);
        }
        self.window = if follows { (self.window * 4).min(WINDOW_MAX) } else { WINDOW_MIN };
        if self.window < WINDOW_MAX || way == Way::Back {
            self.ahead = None;
        } else if self.ahead.is_none() {
            self.ahead = ReadAhead::start(&self.shared);
        }
        spare
    }

    /// Where to take the batch of `index` from, which is held; has what follows fetched.
    fn source(&mut self, log: &Log, index: Index, way: Way) -> Source {
        if let Some(batch) = log.cached(index) {
            self.ahead = None;
            return Source::Memory(Arc::clone(batch));
        }
        if self.ahead.as_ref().is_some_and(|ahead| !ahead.fits(index, log)) {
            self.ahead = None;
        }
        let source = match self.ahead.as_mut().and_then(ReadAhead::next) {
            Some(plan) => Source::Ahead(plan),
            None if way == Way::Back => Source::File(log.plan_back(index, self.window)),
            None => Source::File(log.plan(index, self.window)),
        };
        let (Source::Ahead(plan) | Source::File(plan)) = &source else { return source };
        if let (Some(ahead), Some(end)) = (&mut self.ahead, plan.batches.last()) {
            ahead.ask(log, end.last, self.last, WINDOW_MAX);
        }
        source
    }

    /// Waits for what was asked for.
    fn take_ahead(&mut self, index: Index, plan: Plan, spare: Option<Buffer>) -> Result<(), Error> {
        let piece = self.ahead.as_mut().and_then(|ahead| {
            spare.into_iter().for_each(|spare| ahead.recycle(spare));
            ahead.wait(plan.clone())
        });
        match piece {
            Some(piece) => {
                let at = piece.plan.at(index).unwrap_or(0);
                self.held = Held::Piece(Piece { at, ..piece });
                Ok(())
            }
            None => {
                // The reader's own attempt says why.
                self.ahead = None;
                self.fetch(index, plan, None)
            }
        }
    }

    /// Reads the batches of `plan`.
    fn fetch(&mut self, index: Index, plan: Plan, spare: Option<Buffer>) -> Result<(), Error> {
        let at = plan.at(index).unwrap_or(0);
        self.looked_for = plan.batches.get(at).copied();
        let (offset, length) = plan.span();
        let mut buffer = spare
            .filter(|buffer| buffer.capacity() as u64 >= length)
            .unwrap_or_else(|| Buffer::zeroed(length.max(self.window) as usize));
        buffer.set_length(length as usize);
        let segment = plan.segment;
        let read = self.shared.files.read(Position { segment, offset }, &mut buffer);
        if let Err(cause) = read {
            let first = self.shared.state().log.first();
            if index < first {
                return Err(Error::Gone { index, first });
            }
            if plan.batches.len() > 1 {
                // Which of them is unreadable? The one that is wanted decides for itself.
                let batches = vec![plan.batches[at]];
                return self.fetch(index, Plan { segment, batches }, Some(buffer));
            }
            let (index, cause) = (plan.batches[0].first, ReadError::Disk(cause));
            return Err(Error::Unreadable { segment, offset, index, cause });
        }
        self.held = Held::Piece(Piece { buffer, plan, at });
        Ok(())
    }

    /// Checks the batch that is held in a piece, and finds its entries.
    fn verify(&mut self, index: Index) -> Result<(), Error> {
        self.batch = None;
        let Held::Piece(piece) = &self.held else { return Ok(()) };
        let listed = piece.plan.batches[piece.at];
        self.looked_for = Some(listed);
        let bytes = piece.bytes(&listed);
        let segment = piece.plan.segment;
        if let Some((header, entries)) = self.shared.files.verified(segment, &listed, bytes) {
            let end = listed.bytes_end();
            find(entries, end, &mut self.entries);
            self.likely = 0;
            self.batch = Some(header);
            return Ok(());
        }
        let first = self.shared.state().log.first();
        self.held = Held::Nothing;
        if index < first {
            return Err(Error::Gone { index, first });
        }
        let (offset, index, cause) = (listed.offset, listed.first, ReadError::Changed);
        Err(Error::Unreadable { segment, offset, index, cause })
    }

    fn batch_held(&self) -> &BatchHeader {
        self.batch.as_ref().expect("a batch is held")
    }

    /// Which of the entries held is the first that is not before `index`: mostly the one behind the
    /// last, and then nothing is searched for.
    fn place_of(&self, index: Index) -> usize {
        let at = self.likely;
        let is_before = |at: usize| self.entries.get(at).is_some_and(|&(found, _)| found < index);
        if at < self.entries.len() && !is_before(at) && at.checked_sub(1).is_none_or(is_before) {
            return at;
        }
        self.entries.partition_point(|&(found, _)| found < index)
    }

    /// The `at`th entry of the batch that is held.
    pub(crate) fn lend(&self, at: usize) -> Record<'_> {
        let (index, offset) = self.entries[at];
        let bytes = match &self.held {
            Held::Shared(batch) => batch.body(),
            Held::Piece(piece) => piece.bytes(&piece.plan.batches[piece.at]),
            Held::Nothing => unreachable!("a batch is held"),
        };
        let entry = kept_entry(&bytes[offset as usize..]).ok().flatten();
        let (_, header, payload, _) = entry.expect("the batch was checked as a whole");
        Record { index, time: self.batch_held().log_time, header, payload }
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
