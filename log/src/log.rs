//! The log: batches in order, from whoever leads. It does no I/O: it emits [`Op`]s and is told
//! `Done`s.
//!
//! Here is what the owner says to the log, and how a batch enters it. Where it finds room is in
//! `space.rs`, making the log shorter in `truncate.rs`, what the disk says in `progress.rs`,
//! reading back in `read.rs`, opening in [`crate::recover`].
//!
//! Invariants: the log is a chain of whole batches; only a suffix of batches is ever dropped, or a
//! prefix of segments; a frame's place is decided when its batch enters the log and is never used
//! twice; what a frame says about durability was true when it was made.

use std::collections::VecDeque;
use std::sync::Arc;

#[cfg(feature = "direct")]
use crate::batch::body_length;
use crate::batch::{BODY_OFFSET, Batch, Open, Received, disk_length, entry_length};
use crate::clean::Rewriting;
use crate::disk::{Op, SnapshotStep};
use crate::error::{Error, Full, Refused};
use crate::format::{BatchHeader, EntryHeader, FRAME, Frame, in_blocks};
use crate::hard_state::{META_MAX, Updates};
use crate::id::{BatchEnd, Chain, EntryId, Incarnation, Index, Position, Term, Ticket};
pub use crate::options::Options;
use crate::progress::{Idle, Preparing, Retiring};
use crate::read::Reads;
use crate::segment::{BatchRef, Segments};
pub use crate::space::Space;
use crate::spare::Spares;
use crate::tail::Tail;
use crate::writer::{Write, Writer};

/// A commit log without I/O. Made by [`crate::recover::open`].
#[derive(Debug)]
pub struct Log {
    pub(crate) options: Options,
    pub(crate) salt: u32,
    pub(crate) segments: Segments,
    pub(crate) tail: Tail,
    pub(crate) open: Option<Open>,
    pub(crate) writer: Writer,
    pub(crate) reads: Reads,
    pub(crate) preparing: Preparing,
    pub(crate) updates: Updates,
    pub(crate) idle: Idle,
    pub(crate) meta: Vec<u8>,
    /// Frames before this place are no longer part of the log.
    pub(crate) from: Position,
    /// See [`Log::repair`].
    pub(crate) repair: Index,
    /// All up to this entry is durable, and it was cut behind it: since, or before it was opened.
    /// What lies on disk behind must not come back once a hard state says so. Means nothing when
    /// the log is durable further than this.
    pub(crate) cut_at: Option<Index>,
    /// Where the log was to go on, as the two pairs of hard states say that are on disk.
    pub(crate) places: [Position; 2],
    /// The segment that compaction replaces.
    pub(crate) rewriting: Option<Rewriting>,
    /// What stays of a batch that was cut in two ends here; zero for nothing. See `cut.rs`.
    pub(crate) replacing: Index,
    /// Segments to retire once the hard state of the ticket is durable.
    pub(crate) retiring: Vec<Retiring>,
    pub(crate) spares: Spares,
    /// Hard states up to this one are durable.
    pub(crate) hard_ticket: Ticket,
    pub(crate) ops: VecDeque<Op>,
    pub(crate) ticket: Ticket,
    pub(crate) poisoned: Option<Error>,
}

impl Log {
    /// The last entry of the log, durable or not; without entries, what it begins behind.
    #[must_use]
    pub fn last(&self) -> EntryId {
        self.segments.last().id
    }

    /// The first index still held, or the one that the next entry will have.
    #[must_use]
    pub fn first(&self) -> Index {
        self.segments.start().id.index.next()
    }

    /// What the log begins behind.
    #[must_use]
    pub fn start(&self) -> BatchEnd {
        self.segments.start()
    }

    /// The end of the durable part: contiguous, and as the log stands now. Zero after
    /// [`Log::reset`] until that is durable.
    #[must_use]
    pub fn durable(&self) -> Index {
        self.writer.durable_index()
    }

    /// Each term of the log with its first index, rising in both.
    #[must_use]
    pub fn terms(&self) -> Vec<(Term, Index)> {
        self.segments.terms().to_vec()
    }

    /// The chain of the log up to `index`, if a batch ends there or the log begins behind it.
    #[must_use]
    pub fn chain_at(&self, index: Index) -> Option<Chain> {
        self.segments.end_at(index).map(|end| end.chain)
    }

    /// The term of the entry at `index`, or of the one the log begins behind.
    #[must_use]
    pub fn term_at(&self, index: Index) -> Option<Term> {
        self.segments.term_at(index)
    }

    /// The last batch end at or before `index`, not before where the log begins.
    #[must_use]
    pub fn end_up_to(&self, index: Index) -> BatchEnd {
        self.segments.end_up_to(index)
    }

    /// The log was found damaged and is whole again once it is durable up to here: until then it
    /// may lack entries that it once acknowledged. Survives restarts.
    #[must_use]
    pub fn repair(&self) -> Option<Index> {
        (self.repair > Index::ZERO).then_some(self.repair)
    }

    /// Somebody who knows has found that the log lacks nothing that counts: ends [`Log::repair`].
    pub fn set_repaired(&mut self) {
        self.repair = Index::ZERO;
    }

    /// The life of the data directory.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.options.incarnation
    }

    /// The write that failed and stopped the log, if one did.
    #[must_use]
    pub fn poisoned(&self) -> Option<&Error> {
        self.poisoned.as_ref()
    }

    /// Adds an entry to the open batch. Returns the index it will have.
    ///
    /// # Errors
    /// [`Full`], and then the open batch is as before.
    pub fn push(&mut self, header: &EntryHeader, payload: &[u8]) -> Result<Index, Full> {
        self.push_parts(header, &[payload])
    }

    /// As [`Log::push`], with a payload in several parts.
    ///
    /// # Errors
    /// [`Full`], and then the open batch is as before.
    pub fn push_parts(&mut self, header: &EntryHeader, parts: &[&[u8]]) -> Result<Index, Full> {
        let length = parts.iter().map(|part| part.len()).sum();
        self.open_for(entry_length(length)).push(header, parts)?;
        Ok(self.open_last())
    }

    /// As [`Log::push`], with a payload of `length` bytes that `fill` writes in place, over
    /// arbitrary ones.
    ///
    /// # Errors
    /// [`Full`], and then the open batch is as before.
    #[cfg(any(feature = "direct", feature = "sim"))]
    pub(crate) fn push_with(
        &mut self,
        header: &EntryHeader,
        length: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<Index, Full> {
        self.open_for(entry_length(length)).push_with(header, length, fill)?;
        Ok(self.open_last())
    }

    /// Adds all of `payloads` to the open batch, even beyond [`crate::format::BATCH_MAX`]. Returns
    /// the index of the first. If one of them panics, none is there.
    ///
    /// # Errors
    /// [`Full`], and then the open batch is as before.
    #[cfg(feature = "direct")]
    pub(crate) fn push_all<P: AsRef<[u8]>>(&mut self, payloads: &[P]) -> Result<Index, Full> {
        let length = body_length(payloads.iter().map(|payload| payload.as_ref().len()));
        self.open_for(length as usize).push_all(payloads)?;
        Ok(Index(self.open_last().0 + 1 - payloads.len() as u64))
    }

    /// Whether the open batch must be sealed before it takes another entry.
    #[cfg(feature = "direct")]
    pub(crate) fn open_is_full(&self) -> bool {
        self.open.as_ref().is_some_and(Open::is_full)
    }

    /// The open batch, with room for `bytes` more of entries, unless they are too many for it.
    fn open_for(&mut self, bytes: usize) -> &mut Open {
        let Log { open, tail, .. } = self;
        let open = open.get_or_insert_with(|| Open::new(tail.buffer(BODY_OFFSET + bytes)));
        let former = open.reserve(bytes, |length| tail.buffer(length));
        former.into_iter().for_each(|former| tail.recycle(former));
        open
    }

    /// The index that the last entry of the open batch will have.
    fn open_last(&self) -> Index {
        Index(self.segments.last().id.index.0 + u64::from(self.open_entries()))
    }

    /// Entries in the open batch.
    #[must_use]
    pub fn open_entries(&self) -> u32 {
        self.open.as_ref().map_or(0, Open::count)
    }

    /// Bytes of the open batch, header included; 0 without entries.
    #[must_use]
    pub fn open_bytes(&self) -> u64 {
        self.open.as_ref().filter(|open| open.count() > 0).map_or(0, |open| u64::from(open.size()))
    }

    /// Drops the open batch: its entries never existed.
    pub fn discard_open(&mut self) {
        if let Some(open) = self.open.take() {
            self.tail.recycle(open.discard());
        }
    }

    /// Ends the open batch and appends it to the log: its write is emitted now or when there is
    /// space.
    ///
    /// # Errors
    /// [`Error::Poisoned`], [`Error::NoSpace`], [`Error::Empty`] or [`Error::TermBackwards`]; the
    /// open batch is then as before.
    pub fn seal(&mut self, term: Term, log_time: u64) -> Result<Arc<Batch>, Error> {
        self.check_poison()?;
        let Some(open) = self.open.take_if(|open| open.count() > 0) else {
            return Err(Error::Empty);
        };
        let last = self.segments.last();
        let bytes = in_blocks(FRAME as u64 + u64::from(open.size()));
        let refused = if term < last.id.term {
            Some(Error::TermBackwards { last: last.id.term, found: term })
        } else if self.has_room(bytes) {
            None
        } else {
            Some(Error::NoSpace)
        };
        if let Some(error) = refused {
            self.open = Some(open);
            return Err(error);
        }
        let mut header = BatchHeader {
            cluster: self.options.cluster,
            group: self.options.group,
            count: open.count(),
            term,
            first: last.id.index.next(),
            log_time,
            length: open.size(),
            body_crc: open.body_crc(),
            chain: Chain(0),
        };
        header.chain = header.chain_behind(last.chain);
        let tail = &mut self.tail;
        let (buffer, spare) = open.into_buffer(&header, |length| tail.small_buffer(length));
        spare.into_iter().for_each(|spare| self.tail.recycle(spare));
        let batch = self.append(header, buffer);
        self.pump();
        Ok(batch)
    }

    /// Takes a batch from elsewhere. A suffix that conflicts with it is dropped first; one that is
    /// held already changes nothing. The open batch must have been discarded.
    ///
    /// # Errors
    /// [`Refused`], and then the log is as before.
    ///
    /// # Panics
    /// If a batch is open, or `received` was checked for another group.
    pub fn accept(&mut self, received: Received) -> Result<Arc<Batch>, Refused> {
        assert!(self.open_entries() == 0, "an open batch exists only in a leader");
        let (header, buffer) = received.into_parts();
        assert!(header.cluster == self.options.cluster && header.group == self.options.group);
        if self.poisoned.is_some() {
            return Err(Refused::Poisoned);
        }
        let last = self.segments.last().id.index;
        if header.prev() > last {
            return Err(Refused::Gap { last });
        }
        if header.first < self.first() {
            return Err(Refused::Gone { first: self.first() });
        }
        let previous = match self.segments.end_at(header.prev()) {
            Some(end) if header.follows(end.chain) => end,
            end => {
                let chain = end.map(|end| end.chain);
                return Err(Refused::Chain { prev: header.prev(), chain });
            }
        };
        if header.term < previous.id.term {
            return Err(Refused::Term { previous: previous.id.term, found: header.term });
        }
        if self.holds(&header) {
            let held = self.tail.find(header.first).cloned();
            return Ok(held.unwrap_or_else(|| Arc::new(Batch::new(header, buffer))));
        }
        if !self.has_room(disk_length(&header)) {
            return Err(Refused::NoSpace);
        }
        if header.first <= last {
            self.drop_behind(previous);
        }
        let batch = self.append(header, buffer);
        self.pump();
        Ok(batch)
    }

    /// The owner's bytes in the hard state, as last set.
    #[must_use]
    pub fn meta(&self) -> &[u8] {
        &self.meta
    }

    /// Replaces the owner's bytes in the hard state. They are durable when a [`crate::Progress`]
    /// names this ticket or a later one; on a stopped log, never.
    ///
    /// # Panics
    /// If there are more than [`META_MAX`] bytes.
    pub fn set_meta(&mut self, meta: &[u8]) -> Ticket {
        assert!(meta.len() <= META_MAX, "at most {META_MAX} bytes fit into a slot");
        self.meta.clear();
        self.meta.extend_from_slice(meta);
        let ticket = self.next_ticket();
        if self.poisoned.is_none() {
            self.updates.want(ticket);
            self.pump();
        }
        ticket
    }

    /// Emits a step of work on a snapshot's file, and names it. Its [`crate::disk::Done`] is the
    /// caller's: the log takes no notice of it.
    pub fn snapshot_step(&mut self, snapshot: Index, step: SnapshotStep) -> Ticket {
        let ticket = self.next_ticket();
        self.ops.push_back(Op::Snapshot { ticket, snapshot, step });
        ticket
    }

    /// The latest log time of any batch this log has held, dropped ones included.
    #[must_use]
    pub fn log_time(&self) -> u64 {
        self.segments.log_time()
    }

    /// Whether the log holds this very batch.
    fn holds(&self, header: &BatchHeader) -> bool {
        self.segments.find(header.first).is_some_and(|(segment, at)| {
            let offset = segment.batches()[at].offset;
            segment.batches()[at] == BatchRef::new(header, offset)
        })
    }

    /// Gives the batch its place, frames it and queues its write. It follows the log's last.
    fn append(&mut self, header: BatchHeader, mut buffer: crate::buffer::Buffer) -> Arc<Batch> {
        assert!(header.follows(self.segments.last().chain));
        let position = self.place(buffer.len() as u64);
        let durable = self.writer.durable();
        let frame = Frame {
            incarnation: self.options.incarnation,
            position,
            length: FRAME as u32 + header.length,
            durable: durable.id.index,
            durable_chain: durable.chain,
            hard_state: self.updates.durable(),
        };
        buffer[..FRAME].copy_from_slice(&frame.encode(self.salt));
        let batch = self.tail.batch(header, buffer);
        let listed = BatchRef::new(&header, position.offset);
        self.segments.push(listed);
        self.segments.note_time(header.log_time);
        let ticket = self.next_ticket();
        let data = Arc::clone(batch.buffer());
        let (end, claims) = (listed.end(), durable.id.index);
        self.writer.push(Write { ticket, position, end, claims, data });
        self.tail.push(&batch, self.durable());
        batch
    }

    pub(crate) fn next_ticket(&mut self) -> Ticket {
        self.ticket = Ticket(self.ticket.0 + 1);
        self.ticket
    }

    pub(crate) fn check_poison(&self) -> Result<(), Error> {
        if self.poisoned.is_some() { Err(Error::Poisoned) } else { Ok(()) }
    }
}
