//! The disk through an io_uring of the log's own.
//!
//! What goes through it is in `driver.rs`.
//!
//! Invariant: the ring has as many entries as were pushed and have not completed, and is not let go
//! of before they have.

use std::collections::VecDeque;

use io_uring::{IoUring, squeue};

use crate::disk::direct::Direct;
use crate::disk::driver::Driver;
use crate::disk::sys::disk_error;
use crate::disk::{Disk, Done, Op};
use crate::error::Error;

/// Places in the ring.
const RING_ENTRIES: u32 = 64;

/// A disk with a ring of its own.
pub struct Uring {
    ring: IoUring,
    driver: Driver,
    /// Entries that wait for a place in the ring.
    waiting: VecDeque<squeue::Entry>,
    /// Entries the kernel has, or will have with the next submission.
    in_ring: usize,
    scratch: Vec<squeue::Entry>,
}

impl std::fmt::Debug for Uring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uring").field("in_ring", &self.in_ring).finish_non_exhaustive()
    }
}

impl Uring {
    /// Whether the kernel lets us have a ring at all.
    ///
    /// # Errors
    /// [`Error::Ring`] if it does not.
    pub fn probe() -> Result<(), Error> {
        IoUring::new(RING_ENTRIES)
            .map(|_| ())
            .map_err(|error| Error::Ring { cause: disk_error(&error) })
    }

    /// Sets up a ring for the log in `files`, which has been opened.
    ///
    /// # Errors
    /// [`Error::Ring`] if the kernel does not allow it.
    pub fn new(files: Direct) -> Result<Uring, Error> {
        let ring = IoUring::new(RING_ENTRIES)
            .map_err(|error| Error::Ring { cause: disk_error(&error) })?;
        let driver = Driver::new(files, 0);
        Ok(Uring { ring, driver, waiting: VecDeque::new(), in_ring: 0, scratch: Vec::new() })
    }

    /// Operations begun and not ended.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.driver.in_flight()
    }

    /// Gives the kernel what waits; waits for a completion if `wait`.
    fn enter(&mut self, wait: bool) {
        while self.in_ring < RING_ENTRIES as usize
            && let Some(entry) = self.waiting.pop_front()
        {
            // SAFETY: what the entry points to belongs to its slot in `driver` until the
            // completion, and `drop` waits for completions before the driver goes.
            let pushed = unsafe { self.ring.submission().push(&entry) };
            assert!(pushed.is_ok(), "no more entries than the ring has places");
            self.in_ring += 1;
        }
        let wait = usize::from(wait && self.in_ring > 0);
        loop {
            match self.ring.submit_and_wait(wait) {
                Ok(_) => return,
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                // Short of memory, or completions must be reaped first: the caller comes again.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY)) => {
                    return;
                }
                Err(error) => panic!("the ring of a log is broken: {error}"),
            }
        }
    }

    /// Takes what has completed. Entries that go on with it wait in `scratch`.
    fn reap(&mut self, done: &mut Vec<Done>) {
        for completion in self.ring.completion() {
            self.in_ring -= 1;
            let (user_data, result) = (completion.user_data(), completion.result());
            self.driver.on_completion(user_data, result, &mut self.scratch, done);
        }
    }
}

impl Disk for Uring {
    fn submit(&mut self, op: Op) {
        self.driver.start(op, &mut self.scratch);
        self.waiting.extend(self.scratch.drain(..));
    }

    fn poll(&mut self, wait: bool, done: &mut Vec<Done>) {
        let before = done.len();
        if wait
            && self.in_ring == 0
            && self.waiting.len() == 1
            && let Some(finished) = self.driver.perform_alone(&self.waiting[0])
        {
            self.waiting.clear();
            done.push(finished);
            return;
        }
        loop {
            let idle = self.in_flight() == 0;
            self.enter(wait && done.len() == before && !idle);
            self.reap(done);
            let goes_on = !self.scratch.is_empty();
            self.waiting.extend(self.scratch.drain(..));
            if goes_on {
                // The next step of something longer: under way before anybody waits.
                self.enter(false);
            }
            if !wait || done.len() > before || self.in_flight() == 0 {
                return;
            }
        }
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        self.waiting.clear();
        let mut done = Vec::new();
        while self.in_ring > 0 {
            self.enter(true);
            self.reap(&mut done);
            self.scratch.clear();
        }
        self.driver.abandon();
    }
}
