//! The walk over the frames of a log in the order in which they were made, which decides what the
//! log is.
//!
//! What links is kept: a batch whose predecessor is a batch end of the kept log with the chain it
//! was sealed on, truncating what it supersedes. Everything else is torn, superseded, or behind a
//! hole.
//!
//! Every frame, linked or not, says how far the log was durable when the frame was made; so does
//! the hard state, for the moment when the next frame was to go to its `position`. A later
//! statement replaces an earlier one, and a linked batch lowers it to the entry before it. What the
//! last statement claims and the kept log lacks is damage.
//!
//! Why that is right: let D be the durable part of the log as the node knew it, after each frame.
//! By induction the kept log begins with D: a frame on disk that follows D's end, or an entry in
//! it, links; one that is missing, or does not link, leaves D no longer than it was. A statement is
//! never more than D.
//!
//! A batch whose body is broken and whose header is not is linked like a whole one, for the time
//! being: if what was claimed in the end reaches beyond it, it was durable and has rotted, and is
//! kept as a batch of this log that cannot be read; else it was being written when the power went,
//! and goes, and what hangs on it.
//!
//! No damage is decided from what a frame *contains* beyond its checksums: a write that was under
//! way when the power went leaves any subset of its sectors.

use crate::batch::{check_body, first_entry};
use crate::breaks;
use crate::buffer::Buffer;
use crate::disk::DiskError;
use crate::format::{BATCH_HEADER, BLOCK, BatchHeader, FRAME, Frame, LENGTH_MAX, in_blocks};
use crate::hard_state::HardState;
use crate::id::{BatchEnd, Chain, Index, Position, SegmentNumber};
use crate::pack::{PackFrame, Placed, record};
use crate::recover::{Storage, Torn};
use crate::segment::{BatchRef, Segment, Segments};

/// Unreadable places that are remembered, at most.
const TORN_MAX: usize = 1024;
/// Bytes read at a time: a largest batch fits.
pub(crate) const WINDOW: usize = 4 << 20;
const _: () = assert!(WINDOW > LENGTH_MAX as usize + FRAME + 2 * BLOCK);

/// The state of the walk.
pub(crate) struct Walk<'a> {
    hard: &'a HardState,
    pub(crate) segments: Segments,
    /// The last statement about durability; the term is not known.
    pub(crate) claimed: (Index, Chain),
    /// The hard state has had its say.
    hard_applied: bool,
    /// The newest hard-state update that a frame knew to be durable.
    pub(crate) hard_needed: u64,
    pub(crate) batches: u64,
    pub(crate) superseded: u64,
    pub(crate) torn: Vec<Torn>,
    /// See [`crate::Options::keep_rotten`].
    pub(crate) keep_rotten: bool,
    /// Linked batches that cannot be read, by first index, rising.
    pub(crate) broken: Vec<Index>,
    /// Where the last linked frame ends.
    pub(crate) linked_to: Position,
    /// The kind of entry that the owner asked for.
    mark: Option<u8>,
    /// Those that are the first of a kept batch.
    pub(crate) marked: Vec<(Index, Vec<u8>)>,
    /// Segments whose files were others before.
    used: Vec<SegmentNumber>,
    window: Window,
}

/// What one segment held.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Walked {
    /// A frame of this log was there, whole or with a broken batch.
    pub(crate) frames: bool,
    /// Something other than zeros was there.
    pub(crate) written: bool,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(hard: &'a HardState, mark: Option<u8>) -> Walk<'a> {
        Walk {
            hard,
            segments: Segments::new(hard.start),
            claimed: (Index::ZERO, Chain(0)),
            hard_applied: false,
            hard_needed: 0,
            batches: 0,
            superseded: 0,
            torn: Vec::new(),
            keep_rotten: false,
            broken: Vec::new(),
            linked_to: hard.from,
            mark,
            marked: Vec::new(),
            used: Vec::new(),
            window: Window::new(),
        }
    }

    /// Walks over one segment, the next by number. Where its file was another one before
    /// (`is_used`), what is no frame of this one means nothing.
    pub(crate) fn segment(
        &mut self,
        storage: &mut dyn Storage,
        number: SegmentNumber,
        size: u64,
        is_used: bool,
    ) -> Result<Walked, DiskError> {
        self.used.extend(is_used.then_some(number));
        self.segments.add(Segment::new(number, size, true));
        self.segments.advance_to_newest();
        self.window.open(number, size);
        let mut walked = Walked::default();
        let mut offset = BLOCK as u64;
        while offset < size {
            let position = Position { segment: number, offset };
            let block = self.window.view(storage, offset, BLOCK as u64)?;
            let is_zero = is_zero(block);
            let mut frame = Frame::decode(block, self.hard.salt).ok();
            let mut pack = PackFrame::decode(block, self.hard.salt).ok();
            if breaks::OLD_FRAMES_COUNT.on() {
                let packed = pack.iter_mut().map(|pack| &mut pack.frame);
                frame.iter_mut().chain(packed).for_each(|frame| frame.position = position);
            }
            let frame = frame.filter(|frame| self.is_ours(frame, position, size));
            let pack = pack.filter(|pack| self.is_ours(&pack.frame, position, size));
            walked.written |= !is_zero;
            walked.frames |= frame.is_some() || pack.is_some();
            let length = match (frame, pack) {
                (Some(frame), _) => self.on_frame(storage, &frame)?,
                (None, Some(pack)) => self.on_pack(storage, &pack)?,
                (None, None) => {
                    if !is_zero && !is_used && position >= self.hard.from {
                        self.on_torn(position);
                    }
                    BLOCK as u64
                }
            };
            offset += length;
        }
        Ok(walked)
    }

    /// Ends the walk.
    pub(crate) fn finish(&mut self, storage: &mut dyn Storage) {
        storage.filled();
        let end = Position { segment: SegmentNumber(u64::MAX), offset: u64::MAX };
        self.apply_hard_state(end);
        let (claimed, _) = self.claimed;
        let durable = |first: Index| {
            let found = self.segments.find(first);
            found.is_some_and(|(segment, at)| segment.batches()[at].last <= claimed)
        };
        if let Some(&torn) = self.broken.iter().find(|first| !durable(**first)) {
            let end = self.segments.end_at(torn.prev()).expect("it follows a batch");
            self.superseded += self.truncate(end);
        }
    }

    /// Whether something that means nothing may lie where the last linked frame ends.
    pub(crate) fn is_used_there(&self) -> bool {
        self.used.contains(&self.linked_to.segment)
    }

    /// The index up to which the log was durable, if the kept log does not have it all.
    pub(crate) fn lacking(&self) -> Option<Index> {
        let (index, chain) = self.claimed;
        let start = self.segments.start().id.index;
        let is_there = index < start
            || index == Index::ZERO
            || self.segments.end_at(index).is_some_and(|end| end.chain == chain);
        if is_there { None } else { Some(index) }
    }

    fn is_ours(&self, frame: &Frame, position: Position, size: u64) -> bool {
        frame.incarnation == self.hard.incarnation
            && frame.position == position
            && in_blocks(u64::from(frame.length)) <= size - position.offset
    }

    /// A frame that is right in itself. Returns the bytes it covers.
    fn on_frame(&mut self, storage: &mut dyn Storage, frame: &Frame) -> Result<u64, DiskError> {
        let length = in_blocks(u64::from(frame.length));
        let bytes = self.window.view(storage, frame.position.offset, length)?;
        let batch = checked_batch(self.hard, frame, bytes);
        let batch = batch.filter(|(_, whole)| *whole || self.keep_rotten);
        let marked =
            batch.as_ref().and_then(|(_, whole)| marked(self.mark.filter(|_| *whole)?, bytes));
        if frame.position < self.hard.from {
            return Ok(length);
        }
        self.apply_hard_state(frame.position);
        // A frame is believed even where its batch is broken: it has a checksum of its own.
        self.claimed = (frame.durable, frame.durable_chain);
        self.hard_needed = self.hard_needed.max(frame.hard_state);
        match batch {
            Some((header, whole)) => {
                let linked = self.on_batch(&header, frame.position, marked);
                if !whole {
                    self.on_torn(frame.position);
                    self.broken.extend(linked.then_some(header.first));
                }
            }
            None => self.on_torn(frame.position),
        }
        Ok(length)
    }

    /// A pack's frame that is right in itself. Returns the bytes it covers.
    fn on_pack(&mut self, storage: &mut dyn Storage, pack: &PackFrame) -> Result<u64, DiskError> {
        let position = pack.frame.position;
        let length = in_blocks(u64::from(pack.frame.length));
        if position < self.hard.from {
            return Ok(length);
        }
        self.apply_hard_state(position);
        self.claimed = (pack.frame.durable, pack.frame.durable_chain);
        self.hard_needed = self.hard_needed.max(pack.frame.hard_state);
        let bytes = self.window.view(storage, position.offset, length)?;
        let bytes = &bytes[..pack.frame.length as usize];
        let mut placed = Vec::new();
        let mut at = FRAME;
        let is_whole = loop {
            if at == bytes.len() {
                break placed.len() == pack.records as usize;
            }
            let Some(record) = bytes.get(at..).and_then(|rest| record(rest, self.hard.salt).ok())
            else {
                break false;
            };
            let (header, length) = (record.header, record.length);
            let is_ours = header.cluster == self.hard.cluster && header.group == self.hard.group;
            if !is_ours {
                break false;
            }
            let left = record.entries().count() as u64;
            placed.push((Placed { header, offset: position.offset + at as u64, length }, left));
            at += length as usize;
        };
        for (placed, left) in placed {
            if self.on_listed(&placed.header, BatchRef::placed(&placed), None) {
                self.segments.note_removed(u64::from(placed.header.count) - left);
            }
        }
        if is_whole {
            self.linked_to = Position { offset: position.offset + length, ..position };
        } else {
            self.on_torn(position);
        }
        Ok(length)
    }

    /// Links the batch if it follows. Whether it does.
    fn on_batch(
        &mut self,
        header: &BatchHeader,
        position: Position,
        marked: Option<Vec<u8>>,
    ) -> bool {
        let linked = self.on_listed(header, BatchRef::new(header, position.offset), marked);
        if linked {
            let length = FRAME as u64 + u64::from(header.length);
            self.linked_to = Position { offset: position.offset + in_blocks(length), ..position };
        }
        linked
    }

    /// Keeps a batch if it links. Returns whether it does.
    fn on_listed(
        &mut self,
        header: &BatchHeader,
        listed: BatchRef,
        marked: Option<Vec<u8>>,
    ) -> bool {
        let previous = self.segments.end_at(header.prev());
        let Some(previous) =
            previous.filter(|end| header.follows(end.chain) && end.id.term <= header.term)
        else {
            self.superseded += 1;
            return false;
        };
        if breaks::OLD_BATCH_WINS.on() && previous.id.index < self.segments.last().id.index {
            self.superseded += 1;
            return false;
        }
        let superseded = self.truncate(previous);
        self.superseded += superseded;
        self.segments.push(listed);
        self.segments.note_time(header.log_time);
        self.marked.retain(|(index, _)| *index < header.first);
        self.marked.extend(marked.map(|payload| (header.first, payload)));
        self.batches += 1;
        true
    }

    /// Drops what lies behind `end`. Returns how many batches that were.
    pub(crate) fn truncate(&mut self, end: BatchEnd) -> u64 {
        let dropped = self.segments.truncate_suffix(end);
        self.batches -= dropped;
        self.broken.retain(|first| *first <= end.id.index);
        dropped
    }

    /// Lets the hard state speak when the walk has come to the moment it speaks of.
    fn apply_hard_state(&mut self, next: Position) {
        if self.hard_applied || next < self.hard.position {
            return;
        }
        self.hard_applied = true;
        self.claimed = (self.hard.durable.id.index, self.hard.durable.chain);
        let end = self.segments.end_up_to(self.hard.end);
        self.superseded += self.truncate(end);
    }

    fn on_torn(&mut self, position: Position) {
        let adjacent = self.torn.last_mut().filter(|torn| {
            torn.segment == position.segment && torn.offset + torn.length == position.offset
        });
        if let Some(torn) = adjacent {
            torn.length += BLOCK as u64;
        } else if self.torn.len() < TORN_MAX {
            let (segment, offset) = (position.segment, position.offset);
            self.torn.push(Torn { segment, offset, length: BLOCK as u64 });
        }
    }
}

/// The batch header behind `frame`, if it is right, and whether the body is.
fn checked_batch(hard: &HardState, frame: &Frame, bytes: &[u8]) -> Option<(BatchHeader, bool)> {
    let header = BatchHeader::decode(bytes.get(FRAME..)?).ok()?;
    let is_ours = header.cluster == hard.cluster && header.group == hard.group;
    if !is_ours || u64::from(header.length) + FRAME as u64 != u64::from(frame.length) {
        return None;
    }
    let whole = check_body(&header, bytes.get(FRAME + BATCH_HEADER..)?).is_ok();
    Some((header, whole || breaks::TORN_TAIL_ACCEPTED.on()))
}

/// The payload of the first entry of the batch behind a frame, if it is of this kind.
fn marked(kind: u8, bytes: &[u8]) -> Option<Vec<u8>> {
    let first = first_entry(bytes.get(FRAME + BATCH_HEADER..)?)?;
    (first.0.kind == kind).then(|| first.1.to_vec())
}

fn is_zero(block: &[u8]) -> bool {
    static ZEROS: [u8; BLOCK] = [0; BLOCK];
    block == ZEROS
}

/// A view of one segment, read a large piece at a time, each behind the last.
struct Window {
    buffer: Buffer,
    /// What lies in two pieces.
    joined: Buffer,
    segment: SegmentNumber,
    size: u64,
    start: u64,
    end: u64,
}

impl Window {
    fn new() -> Window {
        let (buffer, joined) = (Buffer::zeroed(BLOCK), Buffer::zeroed(BLOCK));
        Window { buffer, joined, segment: SegmentNumber(0), size: 0, start: 0, end: 0 }
    }

    fn open(&mut self, segment: SegmentNumber, size: u64) {
        let most = size.min(WINDOW as u64) as usize;
        if self.buffer.capacity() < most {
            self.buffer = Buffer::zeroed(most);
        }
        (self.segment, self.size) = (segment, size);
        (self.start, self.end) = (0, 0);
    }

    /// The `length` bytes at `offset`, both multiples of a block and inside the segment. Never
    /// before what was viewed last.
    fn view(
        &mut self,
        storage: &mut dyn Storage,
        offset: u64,
        length: u64,
    ) -> Result<&[u8], DiskError> {
        assert!(length <= WINDOW as u64 && offset + length <= self.size);
        if offset < self.start || offset > self.end || self.end == 0 {
            self.fill(storage, offset)?;
        } else if offset == self.end {
            self.fill(storage, self.end)?;
        }
        let from = (offset - self.start) as usize;
        let here = (self.end - offset).min(length) as usize;
        if here as u64 == length {
            return Ok(&self.buffer[from..from + here]);
        }
        if self.joined.capacity() < length as usize {
            self.joined = Buffer::zeroed(WINDOW);
        }
        self.joined[..here].copy_from_slice(&self.buffer[from..from + here]);
        self.fill(storage, self.end)?;
        let rest = length as usize - here;
        self.joined[here..here + rest].copy_from_slice(&self.buffer[..rest]);
        Ok(&self.joined[..length as usize])
    }

    fn fill(&mut self, storage: &mut dyn Storage, start: u64) -> Result<(), DiskError> {
        self.start = start;
        self.end = self.size.min(start + WINDOW as u64);
        let length = (self.end - self.start) as usize;
        let Err(error) = storage.fill(self.segment, self.start, length, &mut self.buffer) else {
            return Ok(());
        };
        // Some sector cannot be read. Block by block, the unreadable ones count as broken: not zero
        // and not a frame. If none can be read it is the disk, not a sector.
        let mut readable = 0;
        for (at, block) in self.buffer[..length].chunks_mut(BLOCK).enumerate() {
            let offset = self.start + (at * BLOCK) as u64;
            match storage.read(self.segment, offset, block) {
                Ok(()) => readable += 1,
                Err(_) => block.fill(0xff),
            }
        }
        if readable > 0 || length == BLOCK { Ok(()) } else { Err(error) }
    }
}
