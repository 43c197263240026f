//! The writes of a log, in order: waiting for their turn, under way, or done behind one that is
//! not.
//!
//! Where a write goes was decided when it was queued. What counts as durable is decided here: the
//! contiguous prefix, and only what is still part of the log.
//!
//! Invariants: `queue` is in log order, which is also the order of tickets and of positions; the
//! first `issued` of it have been given to the disk.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::breaks;
use crate::buffer::Buffer;
use crate::disk::Op;
use crate::id::{BatchEnd, Index, Position, SegmentNumber, Ticket};

#[derive(Debug)]
pub(crate) struct Write {
    pub(crate) ticket: Ticket,
    pub(crate) position: Position,
    pub(crate) end: BatchEnd,
    /// What its frame says to be durable.
    pub(crate) claims: Index,
    pub(crate) data: Arc<Buffer>,
}

#[derive(Debug)]
struct Queued {
    write: Write,
    done: bool,
}

#[derive(Debug)]
pub(crate) struct Writer {
    queue: VecDeque<Queued>,
    issued: usize,
    /// Given to the disk and not done, whether or not still part of the log.
    flying: Vec<(Ticket, Position)>,
    flying_max: usize,
    /// Bytes queued and not given to the disk.
    waiting: u64,
    durable: BatchEnd,
    /// What frames and hard states on disk say to be durable, truncated or not.
    claimed: Index,
    /// Set while the log's new beginning is not yet durable: under which ticket it will be, and
    /// what it is.
    beginning: Option<(Ticket, BatchEnd)>,
}

impl Writer {
    /// All of a log that ends in `durable` is on disk.
    pub(crate) fn new(durable: BatchEnd, flying_max: u32) -> Writer {
        assert!(flying_max > 0);
        let flying_max = flying_max as usize;
        let flying = Vec::with_capacity(flying_max);
        Writer {
            queue: VecDeque::new(),
            issued: 0,
            flying,
            flying_max,
            waiting: 0,
            durable,
            claimed: durable.id.index,
            beginning: None,
        }
    }

    /// The end of the durable part of the log; zero while not even its beginning is durable.
    pub(crate) fn durable(&self) -> BatchEnd {
        self.durable
    }

    /// So much of it is said to be durable by a hard state or a frame on disk: were it lost, the
    /// next opening would miss it.
    pub(crate) fn claimed(&self) -> Index {
        self.claimed.min(self.durable.id.index)
    }

    /// Something on disk says that the log is durable up to here.
    pub(crate) fn claim(&mut self, durable: Index) {
        self.claimed = self.claimed().max(durable);
    }

    /// Bytes queued and not given to the disk.
    pub(crate) fn waiting(&self) -> u64 {
        self.waiting
    }

    pub(crate) fn push(&mut self, write: Write) {
        let rises = self.queue.back().is_none_or(|last| {
            last.write.ticket < write.ticket && last.write.position < write.position
        });
        assert!(rises, "writes are queued in the order of the log");
        self.waiting += write.data.len() as u64;
        self.queue.push_back(Queued { write, done: false });
    }

    /// Where the first write goes that is not part of the durable prefix yet.
    pub(crate) fn first_position(&self) -> Option<Position> {
        self.queue.front().map(|queued| queued.write.position)
    }

    /// The segment that the next waiting write needs, if it may go now.
    pub(crate) fn next_segment(&self) -> Option<SegmentNumber> {
        let next = self.queue.get(self.issued)?;
        (self.flying.len() < self.flying_max).then_some(next.write.position.segment)
    }

    /// Gives the next waiting write to the disk.
    pub(crate) fn issue(&mut self) -> Op {
        assert!(self.issued < self.queue.len() && self.flying.len() < self.flying_max);
        let write = &self.queue[self.issued].write;
        self.issued += 1;
        self.waiting -= write.data.len() as u64;
        self.flying.push((write.ticket, write.position));
        Op::Write {
            ticket: write.ticket,
            segment: write.position.segment,
            offset: write.position.offset,
            data: Arc::clone(&write.data),
        }
    }

    /// The disk has finished a write. Returns where it went; `None` if it was not under way.
    pub(crate) fn landed(&mut self, ticket: Ticket) -> Option<Position> {
        let at = self.flying.iter().position(|&(flying, _)| flying == ticket)?;
        Some(self.flying.swap_remove(at).1)
    }

    /// Whether a write to `segment` is under way.
    pub(crate) fn is_writing(&self, segment: SegmentNumber) -> bool {
        self.flying.iter().any(|(_, position)| position.segment == segment)
    }

    /// The write of `ticket` is durable: does the durable prefix reach further now?
    pub(crate) fn finish(&mut self, ticket: Ticket) -> bool {
        let at = self.queue.partition_point(|queued| queued.write.ticket < ticket);
        let issued = self.issued;
        match self.queue.get_mut(at).filter(|queued| queued.write.ticket == ticket) {
            Some(queued) => {
                assert!(at < issued, "only what was issued can be done");
                queued.done = true;
                self.advance()
            }
            None if breaks::ABA_ACK.on() && self.issued > 0 => {
                self.queue[0].done = true;
                self.advance()
            }
            None => false,
        }
    }

    /// Drops what ends behind `end`. Writes under way go on, and no longer count.
    pub(crate) fn truncate_suffix(&mut self, end: BatchEnd) {
        while self.queue.back().is_some_and(|last| last.write.end.id.index > end.id.index) {
            let Some(last) = self.queue.pop_back() else { break };
            if self.issued > self.queue.len() {
                self.issued = self.queue.len();
            } else {
                self.waiting -= last.write.data.len() as u64;
            }
        }
        if self.durable.id.index > end.id.index {
            assert!(self.queue.is_empty());
            self.durable = end;
        }
    }

    /// The log begins anew behind `start`, which is durable with the hard state of `ticket`.
    pub(crate) fn reset(&mut self, start: BatchEnd, ticket: Ticket) {
        self.queue.clear();
        self.issued = 0;
        self.waiting = 0;
        self.durable = BatchEnd::ZERO;
        self.beginning = Some((ticket, start));
    }

    /// The hard state of `ticket`, and with it all before, is durable: does that make the log
    /// durable?
    pub(crate) fn hard_state_done(&mut self, ticket: Ticket) -> bool {
        match self.beginning {
            Some((wanted, start)) if wanted <= ticket => {
                self.beginning = None;
                self.durable = start;
                self.advance();
                true
            }
            _ => false,
        }
    }

    /// Nothing is given to the disk any more.
    pub(crate) fn stop(&mut self) {
        self.queue.truncate(self.issued);
        self.waiting = 0;
        self.flying_max = 0;
    }

    /// The index up to which the log would be durable if its beginning were.
    pub(crate) fn durable_index(&self) -> Index {
        self.durable.id.index
    }

    fn advance(&mut self) -> bool {
        let mut advanced = false;
        if breaks::DURABLE_WITH_HOLES.on()
            && let Some(last) = self.queue.iter().rposition(|queued| queued.done)
        {
            self.queue.range_mut(..last).for_each(|queued| queued.done = true);
        }
        while self.beginning.is_none() && self.queue.front().is_some_and(|front| front.done) {
            let Some(front) = self.queue.pop_front() else { break };
            self.issued -= 1;
            assert!(front.write.end.id.index > self.durable.id.index);
            self.claim(front.write.claims);
            self.durable = front.write.end;
            advanced = true;
        }
        advanced
    }
}
