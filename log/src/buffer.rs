//! Memory the kernel may write from and read into directly: aligned to a block, zeroed, never
//! moved.
//!
//! The only unsafe code outside the disk drivers. What the bytes mean is not decided here.
//!
//! Invariants: the address and the capacity are multiples of [`BLOCK`], the address of a large one
//! also of a huge page; all bytes up to the
//! capacity are initialised; the visible length is a multiple of [`BLOCK`] and not above the
//! capacity. A buffer without any bytes has no memory either.

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use crate::format::BLOCK;

/// Size of a huge page, in bytes: buffers that large are aligned to it.
const HUGE: usize = 2 << 20;

/// Block-aligned bytes. Dereferences to its visible length, which is a multiple of [`BLOCK`].
pub struct Buffer {
    start: NonNull<u8>,
    length: usize,
    capacity: usize,
}

impl Buffer {
    /// A buffer of `bytes` zeros, rounded up to whole blocks, at least one.
    ///
    /// # Panics
    /// If `bytes` is beyond what an allocation may be.
    #[must_use]
    pub fn zeroed(bytes: usize) -> Buffer {
        let capacity = rounded(bytes);
        let layout = layout(capacity);
        let start = if capacity < HUGE {
            // SAFETY: the layout's size is not zero, `rounded` gives at least one block.
            unsafe { alloc_zeroed(layout) }
        } else {
            // SAFETY: as above.
            unsafe { alloc(layout) }
        };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        if capacity >= HUGE {
            wish_huge(start, capacity);
            // SAFETY: `capacity` bytes from `start` have just been allocated.
            unsafe { start.as_ptr().write_bytes(0, capacity) };
        }
        assert!((start.as_ptr() as usize).is_multiple_of(BLOCK));
        Buffer { start, length: capacity, capacity }
    }

    /// No bytes and no memory: what is left where a buffer was taken away.
    pub(crate) const fn empty() -> Buffer {
        Buffer { start: NonNull::dangling(), length: 0, capacity: 0 }
    }

    /// Bytes that are there, visible or not.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Sets the visible length to `bytes`, rounded up to whole blocks. Bytes that come into view
    /// again keep what they held.
    ///
    /// # Panics
    /// If that is more than the capacity.
    pub fn set_length(&mut self, bytes: usize) {
        let length = rounded(bytes);
        assert!(length <= self.capacity, "a buffer does not grow in place");
        self.length = length;
    }

    /// Address of the first byte, for the kernel.
    #[must_use]
    pub fn as_mut_pointer(&mut self) -> *mut u8 {
        self.start.as_ptr()
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `length <= capacity` bytes from `start` are allocated, initialised and owned by
        // `self`; where that is none, any pointer that is not null will do.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.capacity > 0 {
            // SAFETY: allocated in `zeroed` with this very layout, and nobody else frees it.
            unsafe { dealloc(self.start.as_ptr(), layout(self.capacity)) }
        }
    }
}

// SAFETY: a buffer owns its bytes as a `Vec<u8>` does; there is no interior mutability.
unsafe impl Send for Buffer {}
// SAFETY: shared access only reads.
unsafe impl Sync for Buffer {}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} of {} bytes)", self.length, self.capacity)
    }
}

/// `bytes` rounded up to whole blocks, at least one.
fn rounded(bytes: usize) -> usize {
    bytes.max(1).checked_next_multiple_of(BLOCK).expect("a buffer fits in memory")
}

fn layout(capacity: usize) -> Layout {
    let align = if capacity < HUGE { BLOCK } else { HUGE };
    Layout::from_size_align(capacity, align).expect("a buffer fits in memory")
}

/// Tells the system that these bytes would do well on huge pages: pinning one for a write takes a
/// tenth of what its small pages take. Must come before they are first touched.
#[cfg(feature = "direct")]
fn wish_huge(start: NonNull<u8>, capacity: usize) {
    let whole = capacity - capacity % HUGE;
    // SAFETY: the bytes are allocated and nobody else's; the advice changes no content. A system
    // that does not take it is as good.
    unsafe { libc::madvise(start.as_ptr().cast(), whole, libc::MADV_HUGEPAGE) };
}

#[cfg(not(feature = "direct"))]
fn wish_huge(_: NonNull<u8>, _: usize) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_aligned_zeroed_and_writable() {
        for bytes in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 1 << 20, HUGE, HUGE + 1, 3 * HUGE] {
            let mut buffer = Buffer::zeroed(bytes);
            assert_eq!(buffer.len(), bytes.max(1).next_multiple_of(BLOCK));
            assert!((buffer.as_mut_pointer() as usize).is_multiple_of(BLOCK));
            assert!(buffer.iter().all(|&byte| byte == 0));
            buffer.fill(0xa5);
            assert!(buffer.iter().all(|&byte| byte == 0xa5));
        }
    }

    #[test]
    fn an_empty_one_has_no_bytes() {
        let mut empty = Buffer::empty();
        assert_eq!((empty.len(), empty.capacity()), (0, 0));
        assert!(empty.iter_mut().next().is_none());
        let taken = std::mem::replace(&mut empty, Buffer::zeroed(BLOCK));
        drop(taken);
        assert_eq!(empty.len(), BLOCK);
    }

    #[test]
    fn hides_and_shows_its_tail() {
        let mut buffer = Buffer::zeroed(3 * BLOCK);
        buffer[2 * BLOCK] = 7;
        buffer.set_length(BLOCK);
        assert_eq!(buffer.len(), BLOCK);
        buffer.set_length(buffer.capacity());
        assert_eq!(buffer[2 * BLOCK], 7);
    }

    #[test]
    fn crosses_threads() {
        let buffer = std::sync::Arc::new(Buffer::zeroed(BLOCK));
        let other = std::sync::Arc::clone(&buffer);
        let sum =
            std::thread::spawn(move || other.iter().map(|&byte| u64::from(byte)).sum::<u64>());
        assert_eq!(sum.join().expect("the thread ends"), 0);
        assert_eq!(buffer.len(), BLOCK);
    }
}
