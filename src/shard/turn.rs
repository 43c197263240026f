//! The loop of a shard: one turn after another, and sleep in between.

use std::io;
use std::time::Duration;

use margay_log::id::Micros;

use super::net::{ACCEPT, CONNECT, Gone, RECEIVE, SEND, WAKE};
use super::ring::{Completion, TAG_DRIVER};
use super::{Shard, sys};
use crate::config;
use crate::error::Error;
use crate::replica::Fatal;

/// A shard that must not go on.
pub(super) enum Halt {
    /// A group says so.
    Group(Fatal),
    /// The ring does not work.
    Ring(io::Error),
}

impl From<Fatal> for Halt {
    fn from(fatal: Fatal) -> Halt {
        Halt::Group(fatal)
    }
}

impl Shard {
    /// Runs until the node stops.
    pub(super) fn run(mut self) {
        self.ring.watch(self.node.inboxes[self.index].eventfd(), WAKE);
        while !self.node.is_stopping() {
            let wait = self.patience();
            if let Err(halt) = self.turn(wait) {
                self.halt(halt);
            }
        }
        self.retire();
        self.finish();
    }

    /// The node must not go on.
    pub(super) fn halt(&self, halt: Halt) {
        self.node.fail(match halt {
            Halt::Group(fatal) => Error::fatal(&fatal),
            Halt::Ring(error) => Error::ring(self.index, &error),
        });
    }

    /// One turn, which begins with sleeping for `wait` if that is given.
    pub(super) fn turn(&mut self, wait: Option<Duration>) -> Result<(), Halt> {
        let mut completions = std::mem::take(&mut self.completions);
        let reaped = self.ring.reap(&mut completions, wait).map_err(Halt::Ring)?;
        let now = sys::now();
        self.begin(now);
        self.pace.begin(now);

        for completion in completions.drain(..) {
            self.on_completion(completion)?;
        }
        self.completions = completions;
        self.pace.lap();
        self.shake_hands();
        self.on_greeted();
        if self.node.inboxes[self.index].called() {
            for handover in self.node.inboxes[self.index].take() {
                self.adopt(handover);
            }
        }
        self.on_deadlines(now);
        self.on_gone();
        self.pace.lap();
        self.flush_groups()?;
        self.pace.lap();
        self.net.flush(&mut self.ring);
        self.pace.lap();
        self.count(reaped);
        Ok(())
    }

    /// How long the next turn may sleep before it has something to do; `None`: not at all.
    pub(super) fn patience(&mut self) -> Option<Duration> {
        let now = sys::now();
        let deadline = self.deadline().unwrap_or(now.after(config::SLEEP_MAX));
        let restless = self.net.is_restless() || !self.touched.is_empty();
        let restless = restless || !self.shaking.is_empty();
        if deadline <= now || restless || self.node.inboxes[self.index].is_called() || self.spins()
        {
            return None;
        }
        let nap = Duration::from_micros(deadline.since(now).0.min(config::SLEEP_MAX.0));
        if self.ring.has_news() {
            // Submitting comes first; what completes at once ends the sleep at once.
            return Some(nap);
        }
        self.node.counters(self.index).parks.add(1);
        self.slept = Some((now, deadline));
        Some(nap)
    }

    /// Time enters: the clock of the whole turn.
    fn begin(&mut self, now: Micros) {
        self.net.now = now;
        if let Some((began, deadline)) = self.slept.take() {
            self.spin.slept(now.since(began));
            if now.since(deadline) >= config::LATE {
                self.node.counters(self.index).late.add(1);
            }
        }
    }

    fn count(&mut self, reaped: usize) {
        let took = self.pace.end(reaped);
        let counters = self.node.counters(self.index);
        counters.turns.add(1);
        counters.completions.add(reaped as u64);
        counters.frames.add(self.frames - counters.frames.get());
        if reaped > 0 && took >= config::TURN_ALARM {
            counters.long_turns.add(1);
        }
        counters.longest.raise(took.0);
    }

    pub(super) fn on_completion(&mut self, completion: Completion) -> Result<(), Halt> {
        let Completion { token, result, .. } = completion;
        let tag = (token >> 48) as u16;
        if tag >= TAG_DRIVER {
            return self.on_disk(tag - TAG_DRIVER, token, result);
        }
        let index = token as u32;
        match token & (0xffff << 32) {
            RECEIVE => self.on_received(index, completion),
            SEND => self.net.on_sent(&mut self.ring, index, result, completion.memory),
            ACCEPT => self.on_accepted(result, completion.more),
            WAKE if completion.more || self.node.is_stopping() => {}
            WAKE => self.ring.watch(self.node.inboxes[self.index].eventfd(), WAKE),
            CONNECT => self.net.on_connected(&mut self.ring, &self.node, index, result),
            _ => unreachable!("a token of nobody's: {token:#x}"),
        }
        Ok(())
    }

    fn on_disk(&mut self, slot: u16, user_data: u64, result: i32) -> Result<(), Halt> {
        let slot = u32::from(slot);
        self.groups[slot as usize].disk.on_completion(&mut self.ring, user_data, result);
        self.take_done(slot)
    }

    /// Tells a replica what its disk has done.
    fn take_done(&mut self, slot: u32) -> Result<(), Halt> {
        for done in self.groups[slot as usize].disk.take_done() {
            let (replica, mut view) = self.group(slot);
            let now = view.net.now;
            replica.on_disk(now, done, &mut view)?;
            self.touch(slot);
        }
        Ok(())
    }

    /// Has a group flushed at the end of the turn.
    pub(super) fn touch(&mut self, slot: u32) {
        let group = &mut self.groups[slot as usize];
        if !group.touched {
            group.touched = true;
            self.touched.push(slot);
        }
    }

    /// Everything whose time has come.
    fn on_deadlines(&mut self, now: Micros) {
        while let Some(index) = self.net.next_expired() {
            self.on_expired(index);
        }
        self.net.dial_due(&mut self.ring, &self.node);
        if self.door.paused_until.is_some_and(|until| until <= now) {
            self.open_door();
        }
        for slot in 0..self.groups.len() as u32 {
            if self.groups[slot as usize].deadline.is_some_and(|deadline| deadline <= now) {
                self.touch(slot);
            }
        }
    }

    /// Tells replicas who has left.
    fn on_gone(&mut self) {
        for gone in std::mem::take(&mut self.net.gone) {
            match gone {
                Gone::Client { slot, conn } => {
                    self.groups[slot as usize].replica.on_client_gone(conn);
                }
                Gone::Peer { slot, peer } => {
                    let (replica, mut view) = self.group(slot);
                    let now = view.net.now;
                    replica.on_peer_down(now, peer, &mut view);
                    self.touch(slot);
                }
            }
        }
    }

    fn flush_groups(&mut self) -> Result<(), Halt> {
        let mut touched = std::mem::take(&mut self.touched);
        for slot in touched.drain(..) {
            self.groups[slot as usize].touched = false;
            let (replica, mut view) = self.group(slot);
            let now = view.net.now;
            replica.flush(now, &mut view)?;
            self.groups[slot as usize].deadline = self.groups[slot as usize].replica.deadline();
            // Operations that ended without going to the kernel.
            self.take_done(slot)?;
        }
        if self.touched.is_empty() {
            self.touched = touched;
        }
        Ok(())
    }

    /// When this shard must run again even if nothing happens.
    fn deadline(&self) -> Option<Micros> {
        let groups = self.groups.iter().filter_map(|group| group.deadline).min();
        let links = Some(self.net.links_due);
        let others = [self.net.deadline(), links, self.door.paused_until];
        groups.into_iter().chain(others.into_iter().flatten()).min()
    }

    /// Looks for news for a moment. `true`: there are some.
    fn spins(&mut self) -> bool {
        if !self.spin.pays() || self.ring.has_news() {
            return false;
        }
        let until = sys::now().after(self.spin.limit);
        loop {
            if self.ring.has_news() || self.node.inboxes[self.index].is_called() {
                self.spin.won();
                return true;
            }
            if sys::now() >= until {
                self.spin.lost();
                return false;
            }
            std::hint::spin_loop();
        }
    }
}

impl super::Spin {
    pub(super) fn new(limit: Micros) -> super::Spin {
        super::Spin { limit, short: 0 }
    }

    fn pays(&self) -> bool {
        self.limit.0 > 0 && self.short >= 128
    }

    fn slept(&mut self, time: Micros) {
        let short = if time <= self.limit { 16 } else { 0 };
        self.short = self.short - self.short / 16 + short;
    }

    fn won(&mut self) {
        self.short = self.short - self.short / 16 + 16;
    }

    fn lost(&mut self) {
        self.short -= self.short / 16;
    }
}
