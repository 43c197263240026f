//! A group's log directory behind the shard's ring: operations in, ends of operations out.

use io_uring::squeue;
use margay_log::disk::driver::Driver;
use margay_log::disk::{Done, Op};

use super::ring::Ring;

/// Drives the files of one group. The ring must be done with it before it is dropped.
pub(crate) struct GroupDisk {
    driver: Driver,
    entries: Vec<squeue::Entry>,
    done: Vec<Done>,
}

impl GroupDisk {
    pub(crate) fn new(driver: Driver) -> GroupDisk {
        GroupDisk { driver, entries: Vec::new(), done: Vec::new() }
    }

    /// Starts an operation; what can be said at once is in `done` afterwards.
    pub(crate) fn start(&mut self, ring: &mut Ring, op: Op) {
        self.driver.start(op, &mut self.entries);
        ring.drive(&mut self.entries);
    }

    /// A completion with this driver's tag.
    pub(crate) fn on_completion(&mut self, ring: &mut Ring, user_data: u64, result: i32) {
        self.driver.on_completion(user_data, result, &mut self.entries, &mut self.done);
        ring.drive(&mut self.entries);
    }

    /// The same when the shard ends: nothing new is started.
    pub(crate) fn on_last_completion(&mut self, user_data: u64, result: i32) {
        self.driver.on_completion(user_data, result, &mut self.entries, &mut self.done);
        self.entries.clear();
        self.done.clear();
    }

    /// The operations that have ended since the last call.
    pub(crate) fn take_done(&mut self) -> Vec<Done> {
        std::mem::take(&mut self.done)
    }
}
