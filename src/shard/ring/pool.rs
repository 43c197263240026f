//! Receive buffers that the kernel chooses from when data arrives: an idle connection owns none.
//!
//! Invariant: a buffer is either in the ring of provided buffers (the kernel's), or behind one
//! [`Pooled`] (ours). Dropping a `Pooled` gives it back.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::Cell;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;
use margay_log::format::BLOCK;

/// Memory shared with the kernel: the ring of entries, then the buffers.
pub(crate) struct Pool {
    memory: NonNull<u8>,
    layout: Layout,
    count: u16,
    size: u32,
    tail: Cell<u16>,
}

impl Pool {
    /// `count` buffers (a power of two) of `size` bytes (a multiple of the block size), all of them
    /// provided.
    pub(super) fn new(count: u16, size: u32) -> Rc<Pool> {
        assert!(count.is_power_of_two() && size.is_multiple_of(BLOCK as u32));
        let entries = (usize::from(count) * size_of::<BufRingEntry>()).next_multiple_of(BLOCK);
        let bytes = entries + usize::from(count) * size as usize;
        let layout = Layout::from_size_align(bytes, BLOCK).expect("a pool is far below isize::MAX");
        // SAFETY: the layout is not empty.
        let memory = unsafe { alloc_zeroed(layout) };
        let memory = NonNull::new(memory).unwrap_or_else(|| handle_alloc_error(layout));
        let pool = Pool { memory, layout, count, size, tail: Cell::new(0) };
        for id in 0..count {
            pool.provide(id);
        }
        Rc::new(pool)
    }

    /// Address of the ring of entries, for registering it.
    pub(super) fn entries(&self) -> u64 {
        self.memory.as_ptr() as u64
    }

    pub(super) fn count(&self) -> u16 {
        self.count
    }

    fn buffer(&self, id: u16) -> *mut u8 {
        assert!(id < self.count);
        let entries = (usize::from(self.count) * size_of::<BufRingEntry>()).next_multiple_of(BLOCK);
        // SAFETY: the memory holds `count` buffers of `size` bytes behind the entries.
        unsafe { self.memory.as_ptr().add(entries + usize::from(id) * self.size as usize) }
    }

    /// Gives buffer `id` to the kernel.
    fn provide(&self, id: u16) {
        let base = self.memory.as_ptr().cast::<BufRingEntry>();
        let tail = self.tail.get();
        let slot = usize::from(tail & (self.count - 1));
        // SAFETY: `slot` < count. An entry behind the tail is ours to write: at most `count`
        // buffers exist, and this one is not among those the kernel has. Fields are written one by
        // one because the kernel's tail lies inside the first entry.
        unsafe {
            let entry = &mut *base.add(slot);
            entry.set_addr(self.buffer(id) as u64);
            entry.set_len(self.size);
            entry.set_bid(id);
        }
        let tail = tail.wrapping_add(1);
        self.tail.set(tail);
        // SAFETY: the tail is an aligned u16 inside the first entry; the kernel reads it with
        // acquire ordering.
        unsafe {
            let shared = BufRingEntry::tail(base).cast_mut().cast::<AtomicU16>();
            (*shared).store(tail, Ordering::Release);
        }
    }

    /// A buffer that the kernel has filled with `length` bytes.
    ///
    /// # Safety
    /// A completion has just handed buffer `id` over, and this is the only `Pooled` made from it.
    pub(super) unsafe fn take(self: &Rc<Pool>, id: u16, length: u32) -> Pooled {
        assert!(id < self.count && length <= self.size, "the kernel filled a buffer we provided");
        Pooled { pool: Rc::clone(self), id, length }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout. The ring it was registered with holds a reference
        // until it is closed and nothing of it is in flight.
        unsafe { dealloc(self.memory.as_ptr(), self.layout) };
    }
}

/// Received bytes, 4096-aligned. Dropping it lets the kernel use the buffer again.
pub(crate) struct Pooled {
    pool: Rc<Pool>,
    id: u16,
    length: u32,
}

impl std::ops::Deref for Pooled {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the kernel has initialised `length` bytes and does not write again before
        // `provide`.
        unsafe { std::slice::from_raw_parts(self.pool.buffer(self.id), self.length as usize) }
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        self.pool.provide(self.id);
    }
}
