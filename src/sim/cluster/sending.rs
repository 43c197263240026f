//! What leaves a node at the end of its turn: disk operations, frames for other nodes, bytes for
//! clients. What it tells others of its disk is compared with that disk.

use margay_log::disk::Disk;
use margay_log::id::Micros;

use super::{Cluster, Event};
use crate::machine::StateMachine;
use crate::raft::message::Body;
use crate::replica::{ConnId, Replica};
use crate::sim::Failure;
use crate::sim::network::End;
use crate::sim::node::PeerFrame;
use crate::wire::{self, Kind, peer::PeerMessage};

impl<S: StateMachine> Cluster<S> {
    pub(super) fn carry_out(&mut self, at: usize) -> Result<(), Failure> {
        let out = &mut self.nodes[at].out;
        let ops = std::mem::take(&mut out.ops);
        let peers = std::mem::take(&mut out.peers);
        let closing = std::mem::take(&mut out.closing);
        let clients: Vec<(ConnId, Vec<u8>)> = out
            .clients
            .iter_mut()
            .filter(|(_, bytes)| !bytes.is_empty())
            .map(|(&conn, bytes)| (conn, std::mem::take(bytes)))
            .collect();
        let (boot, from) = (self.nodes[at].boot, self.nodes[at].id);
        for op in ops {
            self.nodes[at].disk.submit(op);
            let (times, until) = self.nodes[at].slow;
            let times = if until > self.now { times } else { 1 };
            let takes = Micros((20 + self.rng.below(self.disk_latency)) * times);
            self.schedule(takes, Event::Disk { node: at, boot });
        }
        for peer in peers {
            self.check_acknowledged(at, &peer)?;
            if self.is_muted(at, &peer) {
                continue;
            }
            let to = peer.to.0 as usize - 1;
            let (now, rng) = (self.now, &mut self.rng);
            let delays = self.network.delays(rng, now, End::Node(at), End::Node(to));
            for delay in delays.into_iter().flatten() {
                let (frame, batch) = (peer.frame.clone(), peer.batch.clone());
                self.schedule(delay, Event::Peer { to, from, frame, batch });
            }
        }
        self.nodes[at].note_durable();
        for (conn, bytes) in clients {
            self.send_to_client(conn, bytes)?;
        }
        for conn in closing {
            self.break_link(conn, None);
        }
        Ok(())
    }

    /// Nobody acknowledges what a crash could still take from its disk.
    fn check_acknowledged(&self, at: usize, peer: &PeerFrame) -> Result<(), Failure> {
        if peer.frame.get(4) != Some(&(Kind::AppendAck as u8)) {
            return Ok(()); // Not worth decoding.
        }
        let Ok(frame) = wire::decode(&peer.frame) else { return Ok(()) };
        let Ok(PeerMessage { message, .. }) = PeerMessage::decode(&frame) else { return Ok(()) };
        let Body::AppendAck { matched, .. } = message.body else { return Ok(()) };
        let node = &self.nodes[at];
        if matched <= node.was_durable {
            return Ok(());
        }
        let details =
            format!("{} acknowledges {matched}, durable is {}", node.id, node.was_durable);
        Err(Failure::new("what is acknowledged is on the disk", details))
    }

    /// Whether the frame gets lost because nobody is to hear of its leader's own entries.
    fn is_muted(&self, at: usize, peer: &PeerFrame) -> bool {
        let node = &self.nodes[at];
        let term = node.replica.as_ref().map(Replica::term);
        node.muted && peer.batch.as_ref().is_some_and(|batch| Some(batch.header().term) == term)
    }
}
