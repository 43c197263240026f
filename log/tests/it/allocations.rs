//! How often an append asks for memory: never, once the cache of newest entries is full.
//!
//! What is not counted, because it comes once in many batches: the list of where batches lie grows
//! by doubling, and half-way through a segment the next one is asked for.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use margay_log::commit_log::{CommitLog, CommitLogOptions, Driver};

use crate::conformance::TempDir;

/// The system's memory, counted by the thread that asks for it.
struct Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: everything is passed on to the system's allocator as it came; counting takes no memory:
// the count is a plain number that needs neither initialisation nor a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above; `pointer` came from the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: as in `dealloc`.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }
}

fn counted(work: impl FnOnce()) -> u64 {
    let before = COUNT.get();
    work();
    COUNT.get() - before
}

#[test]
fn the_counter_counts() {
    assert_eq!(counted(|| drop(std::hint::black_box(Box::new(1_u64)))), 1);
    assert_eq!(counted(|| drop(std::hint::black_box(vec![0_u8; 5000]))), 1);
    assert_eq!(counted(|| ()), 0);
}

/// Appends 300 batches, then counts while it appends 150 more. Between 256 and 512 of them the
/// list of batches does not grow.
fn appends_without_allocating(driver: Driver, name: &str, entries: usize, size: usize) {
    let dir = TempDir::new(&format!("allocations-{driver:?}-{name}"));
    let bytes = (entries * (size + 64)) as u64;
    let options = CommitLogOptions {
        driver,
        cache_bytes: 64 * bytes.max(4096),
        // Half of it is never reached.
        segment_first: (1024 * (bytes + 8192)).next_multiple_of(4096),
        segment_max: 1 << 30,
        ..CommitLogOptions::default()
    };
    let log = CommitLog::open(dir.path(), options).expect("opens").log;
    let payloads = vec![vec![7; size]; entries];
    let append = || {
        let appended = match &payloads[..] {
            [payload] => log.append(payload),
            payloads => log.append_many(payloads),
        };
        appended.expect("room").wait().expect("durable");
    };
    (0..300).for_each(|_| append());
    let allocations = counted(|| (0..150).for_each(|_| append()));
    assert_eq!(allocations, 0, "{name}, {driver:?}: in 150 appends");
}

#[test]
fn an_append_allocates_nothing() {
    for driver in [
        Driver::Direct,
        #[cfg(feature = "uring")]
        Driver::Uring,
    ] {
        appends_without_allocating(driver, "one", 1, 64);
        appends_without_allocating(driver, "many", 64, 64);
        appends_without_allocating(driver, "large", 40, 1024);
    }
}
