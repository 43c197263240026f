//! Memory the kernel may write from and read into directly: aligned to a block, zeroed, never
//! moved.
//!
//! The only unsafe code outside the disk drivers. What the bytes mean is not decided here.
//!
//! Invariants: the address and the capacity are multiples of [`BLOCK`], the address of a large one
//! also of a huge page; all bytes up to the capacity are initialised; the visible length is a
//! multiple of [`BLOCK`] and not above the capacity. Buffers that share a huge page do not overlap,
//! and nobody looks at the page itself. A buffer without any bytes has no memory either.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::Arc;

use crate::format::BLOCK;

/// Size of a huge page, in bytes: buffers that large are aligned to it.
pub(crate) const HUGE: usize = 2 << 20;

/// Block-aligned bytes. Dereferences to its visible length, which is a multiple of [`BLOCK`].
pub struct Buffer {
    start: NonNull<u8>,
    length: usize,
    capacity: usize,
    /// Where its bytes lie, if it does not own them.
    page: Option<Arc<Buffer>>,
}

impl Buffer {
    /// A buffer of `bytes` zeros, rounded up to whole blocks, at least one.
    ///
    /// # Panics
    /// If `bytes` is beyond what an allocation may be.
    #[must_use]
    pub fn zeroed(bytes: usize) -> Buffer {
        let capacity = rounded(bytes);
        let start = if capacity < HUGE { taken(capacity) } else { mapped(capacity) };
        let Some(start) = start else { handle_alloc_error(layout(capacity)) };
        assert!((start.as_ptr() as usize).is_multiple_of(BLOCK));
        Buffer { start, length: capacity, capacity, page: None }
    }

    /// No bytes and no memory: what is left where a buffer was taken away.
    pub(crate) const fn empty() -> Buffer {
        Buffer { start: NonNull::dangling(), length: 0, capacity: 0, page: None }
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
        // `self`, or its part of a page that `self` keeps and nobody else looks at; where that is
        // none, any pointer that is not null will do.
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
        if self.capacity == 0 || self.page.is_some() {
            return;
        }
        // SAFETY: `zeroed` got it from there with this very capacity, and nobody else gives it
        // back.
        unsafe {
            if self.capacity < HUGE {
                dealloc(self.start.as_ptr(), layout(self.capacity));
            } else {
                unmap(self.start, self.capacity);
            }
        }
    }
}

// SAFETY: a buffer owns its bytes as a `Vec<u8>` does, its part of a page included; there is no
// interior mutability.
unsafe impl Send for Buffer {}
// SAFETY: shared access only reads.
unsafe impl Sync for Buffer {}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} of {} bytes)", self.length, self.capacity)
    }
}

/// Huge pages in parts. One of which nobody has a part any more is parted anew: the system brings
/// another as a whole, when it is first touched, and where it is a guest its host may take
/// milliseconds over that.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    pages: Vec<Arc<Buffer>>,
}

/// Pages kept of which nobody has a part, at most.
const FREE_MAX: usize = 4;

impl Pages {
    /// A page in buffers of `capacity` bytes each; what they hold is arbitrary. The page is there
    /// as long as one of them is, and longer if it may be wanted again.
    ///
    /// # Panics
    /// If `capacity` is not a power of two between [`BLOCK`] and a huge page.
    pub(crate) fn part(&mut self, capacity: usize) -> impl Iterator<Item = Buffer> + use<> {
        assert!(capacity.is_power_of_two() && (BLOCK..=HUGE).contains(&capacity));
        let mut free = 0;
        self.pages.retain_mut(|page| {
            free += usize::from(is_free(page));
            !is_free(page) || free <= FREE_MAX
        });
        let page = match self.pages.iter_mut().find_map(|page| is_free(page).then_some(page)) {
            Some(page) => Arc::clone(page),
            None => {
                self.pages.push(Arc::new(Buffer::zeroed(HUGE)));
                Arc::clone(self.pages.last().expect("just added"))
            }
        };
        (0..HUGE / capacity).map(move |part| {
            // SAFETY: the part begins within the bytes of the page.
            let start = unsafe { page.start.add(part * capacity) };
            Buffer { start, length: capacity, capacity, page: Some(Arc::clone(&page)) }
        })
    }
}

/// Whether nobody has a part of `page`. What others did with theirs was before this.
fn is_free(page: &mut Arc<Buffer>) -> bool {
    Arc::get_mut(page).is_some()
}

/// `bytes` rounded up to whole blocks, at least one.
fn rounded(bytes: usize) -> usize {
    bytes.max(1).checked_next_multiple_of(BLOCK).expect("a buffer fits in memory")
}

fn layout(capacity: usize) -> Layout {
    let align = if capacity < HUGE { BLOCK } else { HUGE };
    Layout::from_size_align(capacity, align).expect("a buffer fits in memory")
}

/// Zeros from the allocator.
fn taken(capacity: usize) -> Option<NonNull<u8>> {
    // SAFETY: the layout's size is not zero, `rounded` gives at least one block.
    NonNull::new(unsafe { alloc_zeroed(layout(capacity)) })
}

/// Zeros from the system itself, on huge pages if it goes along: pinning one for a write takes a
/// tenth of what its small pages take. An allocator would hand out memory that it was given back,
/// and what was touched before stays on small pages.
#[cfg(feature = "direct")]
fn mapped(capacity: usize) -> Option<NonNull<u8>> {
    let whole = capacity.checked_next_multiple_of(HUGE)?;
    let size = whole.checked_add(HUGE)?;
    let (access, flags) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a mapping of its own, where the system likes; no memory of ours is involved.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), size, access, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return None;
    }
    let before = start.align_offset(HUGE);
    assert!(before < HUGE, "the address of a byte can be aligned");
    // SAFETY: all within the mapping just made: what lies before and behind the aligned part is
    // given back, and nobody has seen it; the advice is for whole huge pages and changes no
    // content.
    unsafe {
        let begin = start.byte_add(before);
        if before > 0 {
            libc::munmap(start, before);
        }
        libc::munmap(begin.byte_add(whole), HUGE - before);
        libc::madvise(begin, capacity - capacity % HUGE, libc::MADV_HUGEPAGE);
        NonNull::new(begin.cast())
    }
}

/// Gives back what [`mapped`] gave for `capacity`.
///
/// # Safety
/// It did, and nobody uses it any more.
#[cfg(feature = "direct")]
unsafe fn unmap(start: NonNull<u8>, capacity: usize) {
    // SAFETY: the part of the mapping that was kept, says the caller.
    unsafe { libc::munmap(start.as_ptr().cast(), capacity.next_multiple_of(HUGE)) };
}

#[cfg(not(feature = "direct"))]
fn mapped(capacity: usize) -> Option<NonNull<u8>> {
    taken(capacity)
}

/// # Safety
/// As of `dealloc`.
#[cfg(not(feature = "direct"))]
unsafe fn unmap(start: NonNull<u8>, capacity: usize) {
    // SAFETY: says the caller.
    unsafe { dealloc(start.as_ptr(), layout(capacity)) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_aligned_zeroed_and_writable() {
        for bytes in [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 1 << 20, HUGE, HUGE + 1, 3 * HUGE] {
            let mut buffer = Buffer::zeroed(bytes);
            assert_eq!(buffer.len(), bytes.max(1).next_multiple_of(BLOCK));
            let align = if buffer.len() < HUGE { BLOCK } else { HUGE };
            assert!((buffer.as_mut_pointer() as usize).is_multiple_of(align));
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
    fn parts_of_a_page_are_apart_and_outlive_each_other() {
        let mut parts: Vec<Buffer> = Pages::default().part(HUGE / 4).collect();
        assert_eq!(parts.len(), 4);
        for (at, part) in parts.iter_mut().enumerate() {
            assert_eq!((part.len(), part.capacity()), (HUGE / 4, HUGE / 4));
            assert!(part.iter().all(|&byte| byte == 0));
            part.fill(at as u8 + 1);
        }
        let mut last = parts.pop().expect("four of them");
        for (at, part) in parts.iter().enumerate() {
            assert!(part.iter().all(|&byte| byte == at as u8 + 1));
        }
        drop(parts);
        last.set_length(BLOCK);
        let last = std::thread::spawn(move || last.iter().all(|&byte| byte == 4));
        assert!(last.join().expect("the thread ends"));
        assert_eq!(Pages::default().part(HUGE).count(), 1);
    }

    #[test]
    fn a_page_is_parted_anew_when_nobody_has_a_part() {
        let mut pages = Pages::default();
        let mut halves: Vec<Buffer> = pages.part(HUGE / 2).collect();
        let address = halves[0].as_mut_pointer() as usize;
        halves.pop();
        let mut other: Vec<Buffer> = pages.part(HUGE).collect();
        assert_ne!(other[0].as_mut_pointer() as usize, address, "half of it is in use");
        std::thread::spawn(move || drop(halves)).join().expect("the thread ends");
        let mut again: Vec<Buffer> = pages.part(HUGE / 4).collect();
        assert_eq!(again[0].as_mut_pointer() as usize, address);
        drop((other, again));
        assert_eq!(pages.pages.len(), 2, "kept for next time");
    }

    #[test]
    fn few_pages_are_kept() {
        let mut pages = Pages::default();
        let all: Vec<Buffer> = (0..2 * FREE_MAX).flat_map(|_| pages.part(HUGE)).collect();
        assert_eq!(all.len(), 2 * FREE_MAX);
        drop(all);
        assert_eq!(pages.part(HUGE).count(), 1);
        assert_eq!(pages.pages.len(), FREE_MAX);
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
