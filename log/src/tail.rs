//! Batches in memory: the end of the log as it was written, batches read back from disk, and what
//! the next ones are made of, so that a log whose memory is full allocates nothing for a batch.
//!
//! Invariants: `batches` is contiguous and ends where the log ends; a batch that is not yet durable
//! stays; everything is bounded, and counted by what it occupies, not by what it holds.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::batch::{Batch, Shell};
use crate::buffer::{Buffer, HUGE, Pages};
use crate::format::{BatchHeader, in_blocks};
use crate::id::Index;

/// Smallest buffer a batch is begun in, in bytes: what one durable write costs no more than a
/// block.
const BUFFER_MIN: usize = 64 << 10;
/// From this size on, in bytes, buffers may lie on huge pages, several on one: pinning its small
/// pages takes a write longer than the bytes in them do. Below, a log is not worth a page of its
/// own.
const PAGE_MIN: usize = 256 << 10;
/// Free buffers kept, at most.
const POOL_MAX: usize = 16;
/// Largest buffer kept, in bytes.
const POOL_BUFFER_MAX: usize = 2 << 20;
/// Buffers smaller than those and kept, and shells kept, at most.
const SMALL_MAX: usize = 32;
/// Bytes read back from disk and kept, at most (beyond the newest batch).
const FETCHED_BYTES: u64 = 8 << 20;

#[derive(Debug)]
pub(crate) struct Tail {
    batches: VecDeque<Arc<Batch>>,
    bytes: u64,
    bytes_max: u64,
    /// By first index, each with the number of its coming.
    fetched: BTreeMap<Index, (u64, Arc<Batch>)>,
    /// The order in which they came; those that have gone since do not match any more.
    fetched_order: VecDeque<(u64, Index)>,
    fetched_count: u64,
    fetched_bytes: u64,
    /// Free buffers, the one kept for longest first.
    pool: Vec<Buffer>,
    /// What large ones lie on, if they are to.
    pages: Option<Pages>,
    /// Free buffers too small to begin a batch in.
    small: Vec<Buffer>,
    shells: Vec<Shell>,
    /// Capacity the next batch is likely to need.
    expected: usize,
}

impl Tail {
    pub(crate) fn new(bytes_max: u64, huge_pages: bool) -> Tail {
        Tail {
            batches: VecDeque::new(),
            bytes: 0,
            bytes_max,
            fetched: BTreeMap::new(),
            fetched_order: VecDeque::new(),
            fetched_count: 0,
            fetched_bytes: 0,
            pool: Vec::with_capacity(POOL_MAX),
            pages: huge_pages.then(Pages::default),
            small: Vec::with_capacity(SMALL_MAX),
            shells: Vec::with_capacity(SMALL_MAX),
            expected: BUFFER_MIN,
        }
    }

    /// A buffer to build a batch in that may come to `length` bytes or more; what it holds is
    /// arbitrary. The one that was in use last, because its bytes are in the processor's caches.
    pub(crate) fn buffer(&mut self, length: usize) -> Buffer {
        let wanted = match self.expected.max(length) {
            length @ ..=HUGE => length.next_power_of_two(),
            length => in_blocks(length as u64) as usize,
        };
        let fits = |buffer: &Buffer| (wanted..=2 * wanted).contains(&buffer.capacity());
        if let Some(at) = self.pool.iter().rposition(fits) {
            return self.pool.remove(at);
        }
        let pages = self.pages.as_mut().filter(|_| (PAGE_MIN..HUGE).contains(&wanted));
        let Some(pages) = pages else { return Buffer::zeroed(wanted) };
        let mut parts = pages.part(wanted);
        let first = parts.next().expect("a page has one part at least");
        parts.for_each(|part| self.recycle(part));
        first
    }

    /// A buffer for a batch of `length` bytes, at most twice as large; what it holds is arbitrary.
    pub(crate) fn small_buffer(&mut self, length: usize) -> Buffer {
        let fits = |buffer: &Buffer| (length..=2 * length).contains(&buffer.capacity());
        match self.small.iter().rposition(fits) {
            Some(at) => self.small.remove(at),
            None => Buffer::zeroed(length),
        }
    }

    /// Makes a batch of its header and its bytes.
    pub(crate) fn batch(&mut self, header: BatchHeader, buffer: Buffer) -> Arc<Batch> {
        match self.shells.pop() {
            Some(shell) => shell.fill(header, buffer),
            None => Arc::new(Batch::new(header, buffer)),
        }
    }

    /// Keeps a buffer that nobody uses any more; forgets the one kept for longest if they are
    /// many: sizes change, and what was useful once may never fit again.
    pub(crate) fn recycle(&mut self, buffer: Buffer) {
        let (kept, most) = match buffer.capacity() {
            ..BUFFER_MIN => (&mut self.small, SMALL_MAX),
            BUFFER_MIN..=POOL_BUFFER_MAX => (&mut self.pool, POOL_MAX),
            _ => return,
        };
        if kept.len() == most {
            kept.remove(0);
        }
        kept.push(buffer);
    }

    /// Adds the log's new last batch, then forgets the oldest durable ones beyond the bound.
    pub(crate) fn push(&mut self, batch: &Arc<Batch>, durable: Index) {
        let contiguous = self
            .batches
            .back()
            .is_none_or(|last| last.header().last().index == batch.header().prev());
        assert!(contiguous, "the tail ends where the log ends");
        self.expected = batch.buffer().capacity().clamp(BUFFER_MIN, POOL_BUFFER_MAX);
        self.bytes += cost(batch);
        self.batches.push_back(Arc::clone(batch));
        while self.bytes > self.bytes_max && self.batches.len() > 1 {
            if self.batches[0].header().last().index > durable {
                break;
            }
            self.pop_front();
        }
    }

    /// Adds a batch that was read back. It stays at least until the next one.
    pub(crate) fn fetch(&mut self, batch: Arc<Batch>) {
        let first = batch.header().first;
        self.fetched_count += 1;
        self.fetched_bytes += cost(&batch);
        self.fetched_order.push_back((self.fetched_count, first));
        if let Some((_, same)) = self.fetched.insert(first, (self.fetched_count, batch)) {
            self.fetched_bytes -= cost(&same);
        }
        while self.fetched_bytes > FETCHED_BYTES && self.fetched.len() > 1 {
            let Some((came, oldest)) = self.fetched_order.pop_front() else { break };
            if self.fetched.get(&oldest).is_some_and(|(stamp, _)| *stamp == came) {
                self.forget_fetched(oldest);
            }
        }
        if self.fetched_order.len() > 2 * self.fetched.len() + POOL_MAX {
            let fetched = &self.fetched;
            let is_there = |(came, first): &(u64, Index)| {
                fetched.get(first).is_some_and(|(stamp, _)| stamp == came)
            };
            self.fetched_order.retain(is_there);
        }
    }

    /// The batch that holds `index`, if it is in memory.
    pub(crate) fn find(&self, index: Index) -> Option<&Arc<Batch>> {
        let at = self.batches.partition_point(|batch| batch.header().last().index < index);
        let tail = self.batches.get(at).filter(|batch| batch.header().first <= index);
        tail.or_else(|| {
            let (_, (_, batch)) = self.fetched.range(..=index).next_back()?;
            (batch.header().last().index >= index).then_some(batch)
        })
    }

    /// Forgets batches that end behind `after`.
    pub(crate) fn truncate_suffix(&mut self, after: Index) {
        while self.batches.back().is_some_and(|batch| batch.header().last().index > after) {
            if let Some(batch) = self.batches.pop_back() {
                self.bytes -= cost(&batch);
            }
        }
        while let Some((&first, (_, batch))) = self.fetched.last_key_value() {
            if batch.header().last().index <= after {
                break;
            }
            self.forget_fetched(first);
        }
    }

    /// Forgets batches that end at or before `through`.
    pub(crate) fn truncate_prefix(&mut self, through: Index) {
        while self.batches.front().is_some_and(|batch| batch.header().last().index <= through) {
            self.pop_front();
        }
        while let Some((&first, (_, batch))) = self.fetched.first_key_value() {
            if batch.header().last().index > through {
                break;
            }
            self.forget_fetched(first);
        }
    }

    fn forget_fetched(&mut self, first: Index) {
        if let Some((_, batch)) = self.fetched.remove(&first) {
            self.fetched_bytes -= cost(&batch);
        }
    }

    fn pop_front(&mut self) {
        let Some(batch) = self.batches.pop_front() else { return };
        self.bytes -= cost(&batch);
        if let Some((shell, buffer)) = Shell::of(batch) {
            self.recycle(buffer);
            if self.shells.len() < SMALL_MAX {
                self.shells.push(shell);
            }
        }
    }
}

/// Bytes of memory a batch occupies.
fn cost(batch: &Batch) -> u64 {
    batch.buffer().capacity() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::BLOCK;

    #[test]
    fn large_buffers_share_a_page_if_they_are_to() {
        for huge_pages in [true, false] {
            let mut tail = Tail::new(1 << 20, huge_pages);
            tail.buffer(PAGE_MIN / 2);
            assert!(tail.pool.is_empty(), "a small one has no others beside it");
            tail.buffer(PAGE_MIN);
            let beside = if huge_pages { HUGE / PAGE_MIN - 1 } else { 0 };
            assert_eq!(tail.pool.len(), beside);
        }
    }

    #[test]
    fn buffers_that_no_longer_fit_make_room_for_those_that_do() {
        let mut tail = Tail::new(1 << 20, false);
        for _ in 0..2 * POOL_MAX {
            tail.recycle(Buffer::zeroed(BUFFER_MIN));
            tail.recycle(Buffer::zeroed(4 * BLOCK));
        }
        tail.expected = POOL_BUFFER_MAX;
        let mut large = tail.buffer(0);
        let address = large.as_mut_pointer();
        tail.recycle(large);
        assert_eq!(tail.buffer(0).as_mut_pointer(), address, "the same one again");
        let mut small = tail.small_buffer(BLOCK);
        let address = small.as_mut_pointer();
        tail.recycle(small);
        assert_eq!(tail.small_buffer(BLOCK).as_mut_pointer(), address, "the same one again");
        assert_eq!((tail.pool.len(), tail.small.len()), (POOL_MAX - 1, SMALL_MAX - 1));
    }
}
