//! What happens in a simulated cluster, and how it is noted. What comes for a node that is paused
//! is held back.

use std::sync::Arc;

use margay_log::batch::Batch;
use margay_log::disk::Op;
use margay_log::id::{Micros, NodeId};

use super::Cluster;
use crate::machine::StateMachine;
use crate::replica::ConnId;
use crate::sim::network::End;
use crate::wire;
use crate::wire::peer::PeerMessage;

/// What happens at some time.
pub(in crate::sim) enum Event {
    /// A frame of another node arrives.
    Peer { to: usize, from: NodeId, frame: Vec<u8>, batch: Option<Arc<Batch>> },
    /// Bytes of a client arrive.
    ToNode { conn: ConnId, bytes: Vec<u8> },
    /// Bytes of a node arrive at a client.
    ToClient { conn: ConnId, bytes: Vec<u8> },
    /// A client's attempt to connect ends.
    Connected { client: usize, conn: ConnId },
    /// One end learns that the connection is gone.
    Broken { conn: ConnId, at: End },
    /// One disk operation of a node ends, if any is under way.
    Disk { node: usize, boot: u64 },
    /// The end of a node's turn.
    Turn { node: usize, boot: u64 },
    /// A node's deadline has come; void where it has moved.
    Wake { node: usize, boot: u64, due: Micros },
    /// A client looks at its deadlines, or does its next operation.
    Client { client: usize },
    /// A client goes, with a farewell or without, and another comes in its place.
    Replace { client: usize, farewell: bool },
    /// The power of a node goes, if this is still its boot.
    Crash { node: usize, boot: u64 },
    /// A node that is down since its `boot` starts.
    Start { node: usize, boot: u64 },
    /// A write of an earlier boot reaches a disk after all.
    Late { node: usize, op: Op },
    /// All links of a node are cut, or mended.
    Isolate { node: usize, cut: bool },
    /// All links are mended.
    Heal,
    /// The next fault.
    Nemesis,
    /// What a fault does in a second step.
    Sequel { of: &'static str, node: usize },
}

impl<S: StateMachine> Cluster<S> {
    /// Puts an event into the trace.
    pub(in crate::sim) fn note(&mut self, event: &Event) {
        let now = self.now;
        let trace = &mut self.trace;
        match *event {
            Event::Peer { to, from, ref frame, .. } => {
                let sum = u64::from(crc32c::crc32c(frame));
                let to = self.nodes[to].id;
                let message = if trace.is_full() { wire::decode(frame).ok() } else { None };
                let message = message.and_then(|frame| PeerMessage::decode(&frame).ok());
                let message = message.map(|peer| peer.message);
                let numbers = [u64::from(from.0), u64::from(to.0), sum];
                trace.event(now, numbers, format_args!("{from} -> {to} {message:?}"));
            }
            Event::ToNode { conn, ref bytes } => {
                let sum = u64::from(crc32c::crc32c(bytes));
                let length = bytes.len();
                let what = format_args!("client -> node on {}: {length} bytes", conn.0);
                trace.event(now, [100, conn.0, sum], what);
            }
            Event::ToClient { conn, ref bytes } => {
                let sum = u64::from(crc32c::crc32c(bytes));
                let length = bytes.len();
                let what = format_args!("node -> client on {}: {length} bytes", conn.0);
                trace.event(now, [101, conn.0, sum], what);
            }
            Event::Connected { client, conn } => {
                let what = format_args!("client {client} is connected by {}", conn.0);
                trace.event(now, [102, conn.0, client as u64], what);
            }
            Event::Broken { conn, at } => {
                let what = format_args!("{at:?} learns that {} is gone", conn.0);
                trace.event(now, [103, conn.0, 0], what);
            }
            Event::Disk { node, boot } => {
                let what = format_args!("disk {node} has done something");
                trace.event(now, [104, node as u64, boot], what);
            }
            _ => {}
        }
    }

    /// What comes for a node that is paused waits for it, in about the order in which it came.
    pub(in crate::sim) fn unless_paused(&mut self, event: Event) -> Option<Event> {
        let node = match event {
            Event::Peer { to, .. } => to,
            Event::ToNode { conn, .. } => self.links.get(&conn)?.node,
            Event::Disk { node, .. } | Event::Turn { node, .. } | Event::Wake { node, .. } => node,
            _ => return Some(event),
        };
        let until = self.nodes[node].paused_until;
        if until <= self.now {
            return Some(event);
        }
        let overtakes = self.network.weather.overtakes;
        let stream = match event {
            Event::ToNode { .. } => true,
            Event::Peer { .. } => !overtakes,
            _ => false,
        };
        let late = if stream { 0 } else { self.rng.below(300) };
        let after = Micros(until.since(self.now).0 + late);
        self.schedule(after, event);
        None
    }
}
