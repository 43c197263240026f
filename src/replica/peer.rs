//! What comes from the other nodes' replicas of the group, and what it must stand up to before the
//! core hears of it.

use margay_log::Space;
use margay_log::batch::Received;
use margay_log::buffer::Buffer;
use margay_log::id::{EntryId, Index, Micros, NodeId};

use super::membership::Membership;
use super::{Fault, Host, Replica};
use crate::machine::{StateMachine, kind};
use crate::raft::message::{self, Input};
use crate::wire::peer::PeerMessage;
use crate::wire::repair::{ChainQuery, RepairReply, RepairRequest};
use crate::wire::snapshot::{SnapshotAck, SnapshotPiece};
use crate::wire::{Frame, Kind};

impl<S: StateMachine> Replica<S> {
    /// A frame from another node's replica of this group; `batch` holds the bytes that followed it,
    /// from [`margay_log::batch::BATCH_OFFSET`] on.
    ///
    /// # Errors
    /// The peer broke the protocol; its connection should be closed.
    pub fn on_peer(
        &mut self,
        now: Micros,
        from: NodeId,
        frame: &Frame<'_>,
        batch: Option<Buffer>,
        host: &mut dyn Host,
    ) -> Result<(), Fault> {
        if from == self.config.raft.id || self.members.current().is_removed(from) {
            return Err(Fault::Stranger(from));
        }
        if frame.kind == Kind::RepairReply {
            let reply = RepairReply::decode(frame)?;
            return self.on_repair_reply(now, from, reply, batch, host);
        }
        if self.on_aside(now, from, frame, host)? {
            return Ok(());
        }
        let peer = PeerMessage::decode(frame)?;
        if let message::Body::AppendAck { matched, .. } = peer.message.body
            && self.ignore_ack(from, matched, &peer)
        {
            return Ok(());
        }
        if peer.message.body == message::Body::TimeoutNow && self.takes_no_leadership() {
            return Ok(());
        }
        self.arriving = None;
        self.arriving_members = None;
        if let message::Body::Append { prev, batch: Some(last), .. } = peer.message.body
            && !self.take_batch(prev, last, batch, &peer)?
        {
            // The leader sends it again; nothing was promised yet.
            return Ok(());
        }
        let configuration = self.arriving_members.as_ref().map(Membership::configuration);
        self.step(now, Input::Message { from, message: peer.message, configuration });
        // A batch whose bytes do not belong where its message said must stop this replica, not the
        // peer. That is found while the outputs run, and reported by the flush that ends the turn.
        self.run_outputs(now, host);
        self.arriving = None;
        Ok(())
    }

    /// What is said beside the protocol of the core: snapshots, comparing, mending. Returns whether
    /// it was that.
    fn on_aside(
        &mut self,
        now: Micros,
        from: NodeId,
        frame: &Frame<'_>,
        host: &mut dyn Host,
    ) -> Result<bool, Fault> {
        match frame.kind {
            Kind::SnapshotPiece => {
                self.on_snapshot_piece(now, from, &SnapshotPiece::decode(frame)?, host);
            }
            Kind::SnapshotAck => self.on_snapshot_ack(now, from, SnapshotAck::decode(frame)?),
            Kind::ChainQuery => {
                let reply = self.chain_reply(ChainQuery::decode(frame)?);
                self.frame.clear();
                reply.encode(&mut self.frame);
                host.peer(from, &self.frame, None);
            }
            Kind::RepairRequest => {
                self.on_repair_request(now, from, RepairRequest::decode(frame)?, host);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Checks the batch that came with an append from `prev` to `last`. Returns whether there is
    /// room for it.
    fn take_batch(
        &mut self,
        prev: EntryId,
        last: EntryId,
        batch: Option<Buffer>,
        peer: &PeerMessage,
    ) -> Result<bool, Fault> {
        let Some(buffer) = batch else {
            return Err(Fault::Append("an append came without its batch"));
        };
        let length = peer.batch_length as usize;
        let received = Received::check(buffer, length, self.config.cluster, self.config.group)?;
        let header = received.header();
        if header.last() != last || header.first != prev.index.next() {
            return Err(Fault::Append("a batch other than the announced one came"));
        }
        if !self.log.has_room_for(header) {
            return Ok(false);
        }
        if let Some((header, payload)) = received.first_entry()
            && header.kind == kind::CONFIGURATION
        {
            self.arriving_members = Some(Membership::decode(payload)?);
        }
        self.arriving = Some(received);
        Ok(true)
    }

    /// Says when there is no space for batches any more, and when there is again: what others send
    /// is dropped meanwhile, and nobody else would tell why this node falls behind.
    pub(super) fn tell_space(&mut self) {
        let (group, space) = (self.config.group.0, self.log.space());
        match space {
            Space::Full(error) if !self.full => {
                tracing::warn!(group, %error, "no space for the log: nothing is taken");
            }
            Space::Ready if self.full => tracing::info!(group, "there is space for the log again"),
            _ => return,
        }
        self.full = matches!(space, Space::Full(_));
    }

    /// An acknowledgement names the chain it acknowledges; one of another log must not count.
    fn ignore_ack(&self, from: NodeId, matched: Index, peer: &PeerMessage) -> bool {
        if !self.leads() || peer.message.term != self.raft.term() {
            return false;
        }
        let start = self.log.start().id.index;
        match self.log.chain_at(matched) {
            // Inside a batch: no position that a follower can have. What the log begins behind is
            // committed, and cannot be looked up any more.
            None if matched > start && matched <= self.log.last().index => true,
            Some(chain) if chain != peer.chain => {
                tracing::error!(
                    group = self.config.group.0,
                    %from, %matched, theirs = %peer.chain, ours = %chain,
                    "a follower acknowledged another log; its acknowledgement is ignored"
                );
                true
            }
            _ => false,
        }
    }

    /// The connection that carries this node's messages to `peer` broke.
    pub fn on_peer_down(&mut self, now: Micros, peer: NodeId, host: &mut dyn Host) {
        self.step(now, Input::Unreachable { peer });
        self.run_outputs(now, host);
    }
}
