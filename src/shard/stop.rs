//! The end of a shard, in order: accept no more, say good-bye, cancel, reap until nothing is in
//! flight, drop.

use std::time::Duration;

use super::conn::State;
use super::ring::TAG_DRIVER;
use super::{Shard, sys};
use crate::config;

impl Shard {
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
