//! A shard: one thread, one executor, one ring, and the groups that live on it.
//!
//! **The turn.** Reap what has completed, read the clock once, hand everything to the replicas it
//! is for, flush each replica that was touched or is due once, send once per connection. Time
//! enters only here.
//!
//! **Sleep.** One system call submits what the last turn left, sleeps and collects; it sleeps only
//! when nobody has called, nothing is due and nothing was left over, and until the next deadline.
//! The sleep is in the shard's own [`ring`], not in the executor's: that would take about ten more
//! operations each time, and glommio 0.9 can lose a wake-up (see
//! [`config::EXECUTOR_PREEMPT`](crate::config::EXECUTOR_PREEMPT)). So the loop is the executor's
//! one task; glommio gives it its thread and its place. Other threads call through an eventfd that
//! the ring watches.
//!
//! No request crosses shards after its connection has been handed over.

mod conn;
mod disk;
mod greet;
mod inbound;
mod limits;
mod links;
mod mesh;
mod net;
mod node;
mod outbox;
mod pace;
pub mod preflight;
mod reader;
mod ring;
mod secure;
mod start;
mod stop;
pub(crate) mod sys;
mod turn;
mod waste;

use std::any::Any;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use margay_log::batch::Batch;
use margay_log::buffer::Buffer;
use margay_log::disk::{Done, Op};
use margay_log::id::{GroupId, Incarnation, Micros, NodeId};

use crate::machine::Code;
use crate::replica::memberships::Memberships;
use crate::replica::{ConnId, Fatal, Fault, Host, LongestTurn};
use crate::wire::Frame;
use disk::GroupDisk;
use greet::Door;
use net::Net;
pub(crate) use node::{Counters, Node};
use pace::Pace;
use ring::{Completion, Ring};
pub(crate) use secure::bar;
pub(crate) use start::{Plan, Running, driver_tag, join, start};
use waste::Waste;

/// What a shard runs one of per group: told what arrives, asked to flush once per turn. A replica
/// is one.
pub trait Group {
    /// A frame from another node's group of the same number, and the batch that followed it.
    ///
    /// # Errors
    /// The peer broke the protocol; its connection is closed.
    fn on_peer(
        &mut self,
        now: Micros,
        from: NodeId,
        frame: &Frame<'_>,
        batch: Option<Buffer>,
        host: &mut dyn Host,
    ) -> Result<(), Fault>;

    /// Why nothing is taken from this node, if so: it was removed, or is known with another disk.
    fn refuses(&self, node: NodeId, incarnation: Incarnation) -> Option<Code> {
        let _ = (node, incarnation);
        None
    }

    /// The connection that carries this node's messages to `peer` broke.
    fn on_peer_down(&mut self, now: Micros, peer: NodeId, host: &mut dyn Host);

    /// A frame from a client.
    ///
    /// # Errors
    /// The client is told, and its connection closed.
    fn on_client(
        &mut self,
        now: Micros,
        conn: ConnId,
        frame: &Frame<'_>,
        host: &mut dyn Host,
    ) -> Result<(), Fault>;

    /// A client's connection is gone.
    fn on_client_gone(&mut self, conn: ConnId);

    /// A disk operation has ended.
    ///
    /// # Errors
    /// The process must stop.
    fn on_disk(&mut self, now: Micros, done: Done, host: &mut dyn Host) -> Result<(), Fatal>;

    /// The end of a turn in which something happened, or a deadline has passed.
    ///
    /// # Errors
    /// The process must stop.
    fn flush(&mut self, now: Micros, host: &mut dyn Host) -> Result<(), Fatal>;

    /// When to flush even if nothing happens.
    fn deadline(&self) -> Option<Micros>;

    /// The node is about to stop: hand over what others can take. Turns go on until `is_retired`,
    /// or for [`config::RETIRE_TIME`](crate::config::RETIRE_TIME).
    fn retire(&mut self, _now: Micros, _host: &mut dyn Host) {}

    /// Whether nothing is left to hand over.
    fn is_retired(&self) -> bool {
        true
    }

    /// The last turns before the stop, until `is_settled`: begin nothing, finish what is begun.
    fn rest(&mut self) {}

    /// Whether everything begun is done.
    fn is_settled(&self) -> bool {
        true
    }
}

/// A group on this shard.
struct Slot {
    group: GroupId,
    replica: Box<dyn Group>,
    disk: GroupDisk,
    /// Something has been handed to it this turn.
    touched: bool,
    deadline: Option<Micros>,
}

/// See the module's text.
pub(crate) struct Shard {
    index: usize,
    node: Arc<Node>,
    net: Net,
    ring: Ring,
    /// Dropped after the ring: it owns memory of operations.
    groups: Vec<Slot>,
    door: Door,
    /// The listener, until the ring has stopped accepting from it.
    closed_door: Option<OwnedFd>,
    /// Connections whose hello is complete.
    greeted: Vec<u32>,
    /// Pieces of handshakes that wait, and whose they are.
    shaking: VecDeque<(ConnId, Vec<u8>)>,
    /// What was decrypted last; kept for its memory.
    plain: Vec<u8>,
    /// Groups to flush this turn.
    touched: Vec<u32>,
    completions: Vec<Completion>,
    frames: u64,
    spin: Spin,
    /// When this shard went to sleep, and until when, if it did.
    slept: Option<(Micros, Micros)>,
    pace: Pace,
}

/// Looking for work a little longer before sleeping, where that has paid off lately.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Spin {
    /// At most this long; 0 never.
    limit: Micros,
    /// Of the last sleeps, how many were over so soon that spinning would have avoided them, times
    /// 16.
    short: u32,
}

/// A replica's view of its shard.
struct View<'a> {
    node: &'a Arc<Node>,
    net: &'a mut Net,
    ring: &'a mut Ring,
    disk: &'a mut GroupDisk,
    group: GroupId,
    waste: &'a Waste,
    slot: u32,
    pace: Pace,
}

impl Host for View<'_> {
    fn client(&mut self, conn: ConnId) -> Option<&mut Vec<u8>> {
        let (index, found) = self.net.find(conn)?;
        if !found.is_serving() {
            return None;
        }
        if found.owed() > crate::config::OUT_BYTES_MAX {
            self.net.doomed.push((index, "the client does not read what it asked for"));
            return None;
        }
        self.net.mark(index);
        self.net.find(conn).map(|(_, found)| found.out.bytes_mut())
    }

    fn close(&mut self, conn: ConnId) {
        if let Some((index, _)) = self.net.find(conn) {
            self.net.close(index);
        }
    }

    fn peer(&mut self, to: NodeId, frame: &[u8], batch: Option<&Arc<Batch>>) {
        self.net.say(self.slot, to, frame, batch);
    }

    fn disk(&mut self, op: Op) {
        self.disk.start(self.ring, op);
    }

    fn members(&mut self, members: &Memberships) {
        self.net.set_links(self.node, self.slot, self.group, members);
    }

    fn is_turn_long(&mut self) -> bool {
        sys::now().since(self.net.now) >= crate::config::TURN_LONG
    }

    fn longest_turn(&self) -> LongestTurn {
        self.pace.longest(self.net.now)
    }

    fn dispose(&mut self, remains: Box<dyn Any + Send>) {
        self.waste.dispose(remains);
    }
}
