//! Reading batches back: from memory where they are there, else from disk, verified again.
//!
//! Invariants: a batch read from disk is handed out only if it is the one the log holds, byte for
//! byte as its checksums and its chain say; one that is not is reported as damaged, never skipped.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::batch::{Batch, Received, check_body};
use crate::buffer::Buffer;
#[cfg(feature = "direct")]
use crate::commit_log::ahead::Plan;
use crate::disk::{DiskError, Op};
use crate::format::{BATCH_HEADER, BatchHeader, FRAME, Frame};
use crate::id::{Index, Position, SegmentNumber, Ticket};
use crate::log::Log;
use crate::recover::Rotten;
use crate::segment::BatchRef;

/// Bytes fetched with one read, at most (beyond the first batch).
const READ_BYTES: u64 = 1 << 20;
/// Bytes read to be looked at only, at most (beyond the first batch): few, for nobody waits for
/// them, and others wait for who looks at them.
const SCRUB_BYTES: u64 = 256 << 10;

/// Answer to [`Log::read`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Read {
    /// At least one batch was handed out; not necessarily all that the budget allows.
    Cached,
    /// Being fetched: read again when a [`crate::Progress`] names this ticket.
    Pending(Ticket),
    /// The log ends there.
    End,
    /// The log begins behind it.
    Gone,
    /// The batch behind it is not readable on this disk.
    Damaged,
}

#[derive(Debug)]
struct Fetch {
    ticket: Ticket,
    segment: SegmentNumber,
    batches: Vec<BatchRef>,
    /// Only looked at, not kept.
    scrub: bool,
}

/// Reads under way, and what they found to be damaged.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    fetches: Vec<Fetch>,
    /// By first index of the batch.
    damaged: BTreeSet<Index>,
    /// Writes that put batches back, and what goes where.
    mending: Vec<(Ticket, Position, BatchRef)>,
}

impl Reads {
    pub(crate) fn note_damaged(&mut self, first: Index) {
        self.damaged.insert(first);
    }

    /// Whether a segment is being read, or something is put back there.
    pub(crate) fn is_using(&self, segment: SegmentNumber) -> bool {
        self.fetches.iter().any(|fetch| fetch.segment == segment)
            || self.mending.iter().any(|(_, position, _)| position.segment == segment)
    }

    pub(crate) fn truncate_suffix(&mut self, after: Index) {
        self.damaged.retain(|&first| first <= after);
    }

    pub(crate) fn truncate_prefix(&mut self, through: Index) {
        self.damaged.retain(|&first| first > through);
    }
}

impl Log {
    /// Appends to `out` the batches behind `after`, at most `budget` bytes of them beyond the
    /// first.
    pub fn read(&mut self, after: Index, budget: u64, out: &mut Vec<Arc<Batch>>) -> Read {
        if after < self.segments.start().id.index {
            return Read::Gone;
        }
        if after >= self.segments.last().id.index {
            return Read::End;
        }
        let before = out.len();
        let mut next = after.next();
        let mut bytes = 0_u64;
        while let Some(batch) = self.tail.find(next) {
            bytes = bytes.saturating_add(batch.size());
            if out.len() > before && bytes > budget {
                break;
            }
            next = batch.header().last().index.next();
            out.push(Arc::clone(batch));
        }
        if out.len() > before {
            return Read::Cached;
        }
        self.fetch(next)
    }

    /// The batch that holds `index`, if it is in memory.
    #[cfg(feature = "direct")]
    pub(crate) fn cached(&self, index: Index) -> Option<&Arc<Batch>> {
        self.tail.find(index)
    }

    /// The batch that holds `index`, as it is listed now.
    #[cfg(feature = "direct")]
    pub(crate) fn listed(&self, index: Index) -> Option<BatchRef> {
        self.segments.find(index).map(|(segment, at)| segment.batches()[at])
    }

    /// The last index of the batch that holds `index`; `index` if none does.
    #[cfg(feature = "direct")]
    pub(crate) fn batch_end(&self, index: Index) -> Index {
        self.segments.find(index).map_or(index, |(segment, at)| segment.batches()[at].last)
    }

    /// Lists the batch that holds `index`, which the caller knows to be held, and what lies behind
    /// it in the same segment, within `budget` bytes beyond the first.
    #[cfg(feature = "direct")]
    pub(crate) fn plan(&self, index: Index, budget: u64) -> Plan {
        let (segment, at) = self.segments.find(index).expect("the caller checked that it is held");
        let batches = &segment.batches()[at..];
        let (begin, _) = batches[0].span();
        let fits = |batch: &&BatchRef| {
            let (offset, length) = batch.span();
            offset + length - begin <= budget && batch.last <= self.durable()
        };
        let count = 1 + batches[1..].iter().take_while(fits).count();
        Plan { segment: segment.number, batches: batches[..count].to_vec() }
    }

    /// As [`Log::plan`], with what lies before the batch instead of what lies behind it.
    #[cfg(feature = "direct")]
    pub(crate) fn plan_back(&self, index: Index, budget: u64) -> Plan {
        let (segment, at) = self.segments.find(index).expect("the caller checked that it is held");
        let batches = &segment.batches()[..=at];
        let (offset, length) = batches[at].span();
        let fits = |batch: &&BatchRef| offset + length - batch.span().0 <= budget;
        let count = 1 + batches[..at].iter().rev().take_while(fits).count();
        Plan { segment: segment.number, batches: batches[batches.len() - count..].to_vec() }
    }

    /// Whether these batches lie there now, one behind the other.
    #[cfg(feature = "direct")]
    pub(crate) fn lists(&self, plan: &Plan) -> bool {
        self.segments.find(plan.batches[0].first).is_some_and(|(segment, at)| {
            segment.number == plan.segment && segment.batches()[at..].starts_with(&plan.batches)
        })
    }

    /// Begins to read from disk, whatever is in memory, what is durable behind `after`: a batch
    /// that has rotted becomes known as damaged. Returns the read's ticket and how far it looks;
    /// `None` at the end.
    pub fn scrub(&mut self, after: Index) -> Option<(Ticket, Index)> {
        let durable = self.durable();
        let from = after.max(self.segments.start().id.index).next();
        let (segment, at) = self.segments.find(from)?;
        let first = segment.batches()[at];
        let (mut batches, mut length) = (Vec::new(), 0);
        for batch in &segment.batches()[at..] {
            let adjacent = batch.offset == first.offset + length;
            let fits = batches.is_empty() || length + batch.disk_length() <= SCRUB_BYTES;
            if !adjacent || !fits || batch.last > durable {
                break;
            }
            length += batch.disk_length();
            batches.push(*batch);
        }
        let through = batches.last()?.last;
        let (number, offset) = (segment.number, first.offset);
        let ticket = self.next_ticket();
        self.reads.fetches.push(Fetch { ticket, segment: number, batches, scrub: true });
        let length = length as u32;
        self.ops.push_back(Op::Read { ticket, segment: number, offset, length });
        Some((ticket, through))
    }

    /// The batches that are known to be unreadable on this disk, rising.
    #[must_use]
    pub fn damaged(&self) -> Vec<Rotten> {
        let found = self.reads.damaged.iter().filter_map(|&first| {
            let (segment, at) = self.segments.find(first)?;
            let batch = segment.batches()[at];
            let (segment, offset, end) = (segment.number, batch.offset, batch.end());
            Some(Rotten { segment, offset, first, end })
        });
        found.collect()
    }

    /// Whether any batch is known to be unreadable on this disk.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        !self.reads.damaged.is_empty()
    }

    /// Puts back a batch that this disk cannot read any more, where it was, if that is what
    /// `received` is. It can be read at once; it is mended for good when its write is done.
    ///
    /// # Panics
    /// If `received` was checked for another group.
    pub fn mend(&mut self, received: Received) -> bool {
        let (header, mut buffer) = received.into_parts();
        assert!(header.cluster == self.options.cluster && header.group == self.options.group);
        let Some((segment, at)) = self.segments.find(header.first) else { return false };
        let (number, listed) = (segment.number, segment.batches()[at]);
        let position = Position { segment: number, offset: listed.offset };
        let durable = self.writer.durable();
        let may_go = self.reads.damaged.contains(&header.first)
            && BatchRef::new(&header, listed.offset) == listed
            && listed.last <= durable.id.index
            && self.poisoned.is_none();
        if !may_go {
            return false;
        }
        // What the frame says must have been true when the walk comes past it: all before it was
        // durable, and no more is said.
        let before = self.segments.end_at(header.prev());
        let before = before.filter(|before| before.id.index > Index::ZERO).unwrap_or_default();
        let frame = Frame {
            incarnation: self.options.incarnation,
            position,
            length: FRAME as u32 + header.length,
            durable: before.id.index,
            durable_chain: before.chain,
            hard_state: self.updates.durable(),
        };
        buffer[..FRAME].copy_from_slice(&frame.encode(self.salt));
        let batch = Arc::new(Batch::new(header, buffer));
        let ticket = self.next_ticket();
        let data = Arc::clone(batch.buffer());
        self.reads.damaged.remove(&header.first);
        self.reads.mending.push((ticket, position, listed));
        self.tail.fetch(batch);
        self.ops.push_back(Op::Mend { ticket, segment: number, offset: listed.offset, data });
        true
    }

    /// A batch has been put back, or could not be.
    pub(crate) fn on_mend(&mut self, ticket: Ticket, result: Result<(), DiskError>) {
        let Some(at) = self.reads.mending.iter().position(|&(mend, ..)| mend == ticket) else {
            return;
        };
        let (_, position, batch) = self.reads.mending.swap_remove(at);
        // It may have been cut off meanwhile, and another one have its index.
        if result.is_err() && self.is_held(position, &batch) {
            self.reads.damaged.insert(batch.first);
        }
    }

    /// Begins to read the batch that holds `index` and what lies behind it, unless that is under
    /// way.
    fn fetch(&mut self, index: Index) -> Read {
        let (segment, at) = self.segments.find(index).expect("the caller checked that it is held");
        let first = segment.batches()[at];
        // Packs are for readers of their own: a batch of one cannot be sent to anybody.
        if first.packed || self.reads.damaged.contains(&first.first) {
            return Read::Damaged;
        }
        let number = segment.number;
        let is_same = |fetch: &&Fetch| {
            !fetch.scrub && fetch.segment == number && fetch.batches.contains(&first)
        };
        if let Some(fetch) = self.reads.fetches.iter().find(is_same) {
            return Read::Pending(fetch.ticket);
        }
        let mut batches = vec![first];
        let mut length = first.disk_length();
        for batch in &segment.batches()[at + 1..] {
            let adjacent = batch.offset == first.offset + length;
            let wanted = self.tail.find(batch.first).is_none();
            if !adjacent || !wanted || length + batch.disk_length() > READ_BYTES {
                break;
            }
            length += batch.disk_length();
            batches.push(*batch);
        }
        let ticket = self.next_ticket();
        let offset = first.offset;
        self.reads.fetches.push(Fetch { ticket, segment: number, batches, scrub: false });
        self.ops.push_back(Op::Read { ticket, segment: number, offset, length: length as u32 });
        Read::Pending(ticket)
    }

    /// A read has ended. Returns its ticket, unless it goes on.
    pub(crate) fn on_read(
        &mut self,
        ticket: Ticket,
        result: Result<Buffer, DiskError>,
    ) -> Option<Ticket> {
        let at = self.reads.fetches.iter().position(|fetch| fetch.ticket == ticket)?;
        let mut fetch = self.reads.fetches.swap_remove(at);
        let first = *fetch.batches.first()?;
        if result.is_err() && fetch.batches.len() > 1 {
            // Which of them is unreadable? The first alone decides for itself.
            fetch.batches.truncate(1);
            let (segment, offset) = (fetch.segment, first.offset);
            self.reads.fetches.push(fetch);
            let length = first.disk_length() as u32;
            self.ops.push_back(Op::Read { ticket, segment, offset, length });
            return None;
        }
        for batch in &fetch.batches {
            let position = Position { segment: fetch.segment, offset: batch.offset };
            if !self.is_held(position, batch) {
                continue;
            }
            let bytes = result.as_ref().ok().and_then(|buffer| {
                let from = (batch.offset - first.offset) as usize;
                buffer.get(from..from.checked_add(batch.disk_length() as usize)?)
            });
            match bytes.and_then(|bytes| self.verified(position, batch, bytes)) {
                Some(_) if fetch.scrub => {}
                Some(batch) => self.tail.fetch(Arc::new(batch)),
                None => {
                    self.reads.damaged.insert(batch.first);
                }
            }
        }
        Some(ticket)
    }

    /// Whether `batch` is part of the log, at this place.
    fn is_held(&self, position: Position, batch: &BatchRef) -> bool {
        self.segments.find(batch.first).is_some_and(|(segment, at)| {
            segment.number == position.segment && segment.batches()[at] == *batch
        })
    }

    /// The batch in `bytes`, if that is what the log holds there.
    fn verified(&self, position: Position, listed: &BatchRef, bytes: &[u8]) -> Option<Batch> {
        let frame = Frame::decode(bytes, self.salt).ok()?;
        if frame.position != position || frame.incarnation != self.options.incarnation {
            return None;
        }
        let header = BatchHeader::decode(&bytes[FRAME..]).ok()?;
        let is_ours = header.cluster == self.options.cluster && header.group == self.options.group;
        if !is_ours || BatchRef::new(&header, position.offset) != *listed {
            return None;
        }
        check_body(&header, &bytes[FRAME + BATCH_HEADER..]).ok()?;
        let mut buffer = Buffer::zeroed(bytes.len());
        buffer.copy_from_slice(bytes);
        Some(Batch::new(header, buffer))
    }
}
