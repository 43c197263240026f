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
use crate::disk::{Disk, DiskError, Done, Op};
use crate::error::Error;
use crate::id::SegmentNumber;

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
    /// Why the kernel takes and tells nothing any more.
    broken: Option<DiskError>,
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
        let (waiting, scratch) = (VecDeque::new(), Vec::new());
        Ok(Uring { ring, driver, waiting, in_ring: 0, scratch, broken: None })
    }

    /// Operations begun and not ended.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.driver.in_flight()
    }

    /// Gives the kernel what waits; waits for a completion if `wait`. On an error that does not
    /// pass the ring is broken.
    fn enter(&mut self, wait: bool) {
        if self.broken.is_some() {
            return;
        }
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
                Err(error) => {
                    self.broken = Some(disk_error(&error));
                    return;
                }
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

    /// Everything that has begun ends, where the ring is broken: a log stops at the first write
    /// that fails, and says why.
    fn give_up(&mut self, done: &mut Vec<Done>) -> bool {
        if let Some(error) = self.broken {
            self.waiting.clear();
            self.scratch.clear();
            self.driver.fail(error, done);
            self.in_ring = 0;
        }
        self.broken.is_some()
    }
}

impl Disk for Uring {
    fn submit(&mut self, op: Op) {
        self.driver.start(op, &mut self.scratch);
        self.waiting.extend(self.scratch.drain(..));
    }

    fn forget(&mut self, segment: SegmentNumber) {
        self.driver.forget(segment);
    }

    fn poll(&mut self, wait: bool, done: &mut Vec<Done>) {
        let before = done.len();
        if self.give_up(done) {
            return;
        }
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
            if self.give_up(done) {
                return;
            }
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
        while self.in_ring > 0 && !self.give_up(&mut done) {
            self.enter(true);
            self.reap(&mut done);
            self.scratch.clear();
        }
        self.driver.abandon();
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd;
    use std::sync::Arc;

    use super::*;
    use crate::buffer::Buffer;
    use crate::format::BLOCK;
    use crate::id::Ticket;
    use crate::options::Options;

    /// The kernel refuses the ring from one call to the next: what is under way has failed, and so
    /// has whatever follows. Nobody waits for ever, and nobody panics.
    #[test]
    fn a_ring_that_breaks_fails_what_it_was_given() {
        let path = std::env::temp_dir().join(format!("margay-ring-{}", std::process::id()));
        let mut files = Direct::open(&path).expect("a fresh directory");
        crate::recover::open(&mut files, Options::default()).expect("a new log");
        let mut disk = Uring::new(files).expect("a ring");
        let segment = SegmentNumber(1);
        let write = |n: u64| Op::Write {
            ticket: Ticket(n),
            segment,
            offset: n * BLOCK as u64,
            data: Arc::new(Buffer::zeroed(BLOCK)),
        };
        let read = Op::Read { ticket: Ticket(5), segment, offset: 0, length: BLOCK as u32 };
        let mut done = Vec::new();
        (1..=2).for_each(|n| disk.submit(write(n)));
        while disk.in_flight() > 0 {
            disk.poll(true, &mut done);
        }
        assert!(done.iter().all(|done| matches!(done, Done::Write { result: Ok(()), .. })));

        let null = File::open("/dev/null").expect("opens");
        // SAFETY: both descriptors are open, and no memory is involved; the ring's is its alone.
        let other = unsafe { libc::dup2(null.as_raw_fd(), disk.ring.as_raw_fd()) };
        assert_eq!(other, disk.ring.as_raw_fd());
        done.clear();
        (3..=4).for_each(|n| disk.submit(write(n)));
        disk.submit(read);
        disk.poll(true, &mut done);
        let broken = DiskError { errno: libc::EOPNOTSUPP };
        assert_eq!(done.len(), 3);
        assert!(done.iter().all(|done| match done {
            Done::Write { result, .. } => *result == Err(broken),
            Done::Read { result, .. } => result.as_ref().is_err_and(|error| *error == broken),
            _ => false,
        }));
        done.clear();
        disk.submit(write(6));
        disk.poll(false, &mut done);
        assert!(matches!(done[..], [Done::Write { result: Err(error), .. }] if error == broken));
        assert_eq!(disk.in_flight(), 0);
        drop(disk);
        std::fs::remove_dir_all(&path).expect("it is ours");
    }
}
