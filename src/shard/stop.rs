//! The end of a shard, in order: hand leadership over, let the logs write down how far they are
//! durable, accept no more, say good-bye, cancel, reap until nothing is in flight, drop.

use std::time::Duration;

use margay_log::id::Micros;

use super::conn::State;
use super::ring::TAG_DRIVER;
use super::{Group, Shard, sys};
use crate::config;

/// While a shard waits for its groups to be done with something, it looks this often.
const LOOK: Duration = Duration::from_millis(5);

impl Shard {
    /// What a node that stops in order does first, in bounded time. One that must not go on just
    /// stops.
    pub(super) fn retire(&mut self) {
        let until = sys::now().after(config::RETIRE_TIME);
        self.net.now = sys::now();
        for slot in 0..self.groups.len() as u32 {
            let (replica, mut view) = self.group(slot);
            let now = view.net.now;
            replica.retire(now, &mut view);
            self.touch(slot);
        }
        self.turn_until(until, |group| group.is_retired());
        for slot in 0..self.groups.len() as u32 {
            self.groups[slot as usize].replica.rest();
            self.touch(slot);
        }
        self.turn_until(sys::now().after(config::REST_TIME), |group| group.is_settled());
    }

    /// Turns until all groups are done with something, or it is time.
    fn turn_until(&mut self, until: Micros, is_done: impl Fn(&dyn Group) -> bool) {
        while !self.node.has_failed()
            && sys::now() < until
            && !self.groups.iter().all(|group| is_done(group.replica.as_ref()))
        {
            let wait = self.patience().map(|wait| wait.min(LOOK));
            if let Err(halt) = self.turn(wait) {
                self.halt(halt);
            }
        }
    }

    /// After this the ring and everything it used may be dropped. Stopping is not leaving: peers
    /// and clients see a broken connection, and nothing about the membership changes.
    pub(super) fn finish(mut self) {
        self.close_door();
        self.ring.cancel(self.node.inboxes[self.index].eventfd());
        let until = sys::now().after(config::STOP_TIME);
        self.net.now = sys::now();
        for index in self.net.indexes() {
            self.net.close(index);
        }
        self.net.flush(&mut self.ring);
        self.wait_for_farewells();
        for index in self.net.indexes() {
            self.net.kill(&mut self.ring, index);
        }
        while self.ring.in_flight() > 0 && sys::now() < until {
            self.reap_last();
        }
        if self.ring.in_flight() > 0 {
            tracing::warn!(
                shard = self.index,
                operations = self.ring.in_flight(),
                "stopped with operations under way"
            );
            // The kernel may still use their memory: leaking it is the only safe thing left.
            std::mem::forget(self);
        }
    }

    /// A moment for what has been said to leave; nobody waits for it to be read.
    fn wait_for_farewells(&mut self) {
        let until = sys::now().after(config::CLOSING_TIME);
        while sys::now() < until {
            let waiting = self.net.indexes().into_iter().any(|index| {
                self.net.get(index).is_some_and(|conn| {
                    matches!(conn.state, State::Closing { .. }) && !conn.is_drained()
                })
            });
            if !waiting {
                return;
            }
            self.reap_last();
            self.net.flush(&mut self.ring);
        }
    }

    /// Collects what ends, without telling the replicas: they are not asked to do anything any
    /// more.
    fn reap_last(&mut self) {
        let mut completions = std::mem::take(&mut self.completions);
        if self.ring.reap(&mut completions, Some(Duration::from_millis(10))).is_err() {
            return;
        }
        self.net.now = sys::now();
        for completion in completions.drain(..) {
            let tag = (completion.token >> 48) as u16;
            if tag >= TAG_DRIVER {
                let disk = &mut self.groups[usize::from(tag - TAG_DRIVER)].disk;
                disk.on_last_completion(completion.token, completion.result);
            } else {
                // Errors have nobody left to be told to.
                let _ = self.on_completion(completion);
            }
        }
        self.completions = completions;
    }
}
