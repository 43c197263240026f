//! A simulated node: a real replica over a simulated disk, and everything it wants to leave it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use margay_log::batch::Batch;
use margay_log::disk::Op;
use margay_log::disk::sim::SimDisk;
use margay_log::format::{BatchHeader, FRAME};
use margay_log::id::{Chain, Incarnation, Index, Micros, NodeId, SegmentNumber, Term};
use margay_log::rng::Rng;

use super::Failure;
use super::clock::Clock;
use crate::machine::StateMachine;
use crate::raft::message::RoleKind;
use crate::replica::{ConnId, Host, Replica};

/// A frame for another node, with the batch that follows it.
pub(super) struct PeerFrame {
    pub to: NodeId,
    pub frame: Vec<u8>,
    pub batch: Option<Arc<Batch>>,
}

/// What a replica has put out in one turn.
#[derive(Default)]
pub(super) struct Outbox {
    /// Open connections and the bytes for them.
    pub clients: BTreeMap<ConnId, Vec<u8>>,
    pub closing: BTreeSet<ConnId>,
    pub peers: Vec<PeerFrame>,
    pub ops: Vec<Op>,
    /// Draws when a turn has become long.
    pub turns: Option<Rng>,
}

impl Host for Outbox {
    fn client(&mut self, conn: ConnId) -> Option<&mut Vec<u8>> {
        self.clients.get_mut(&conn)
    }

    fn close(&mut self, conn: ConnId) {
        self.closing.insert(conn);
    }

    fn peer(&mut self, to: NodeId, frame: &[u8], batch: Option<&Arc<Batch>>) {
        self.peers.push(PeerFrame { to, frame: frame.to_vec(), batch: batch.cloned() });
    }

    fn disk(&mut self, op: Op) {
        self.ops.push(op);
    }

    fn is_turn_long(&mut self) -> bool {
        self.turns.as_mut().is_some_and(|turns| turns.chance(1, 8))
    }
}

/// See the module's text.
pub(super) struct Node<S: StateMachine> {
    pub id: NodeId,
    pub incarnation: Incarnation,
    pub disk: SimDisk,
    /// `None` while the node is down.
    pub replica: Option<Replica<S>>,
    /// Rises with every start; what was meant for an earlier one is void.
    pub boot: u64,
    pub out: Outbox,
    /// The end of the current turn is scheduled.
    pub turning: bool,
    /// When the replica wanted to be woken, as it was last scheduled.
    pub wake: Option<Micros>,
    /// Nothing reaches the replica, as if its process were stopped.
    pub paused_until: Micros,
    /// What the replica takes for the time.
    pub clock: Clock,
    /// Its disk takes so many times as long as usual, until then.
    pub slow: (u64, Micros),
    /// Its role as it was last noted.
    pub role: Option<(RoleKind, Term)>,
    /// Batches whose writes have ended in this boot.
    pub landed: BTreeSet<(Index, u32)>,
    /// The log was durable up to here at some time in this boot: what waits for a term to become
    /// durable may be said when the log begins anew behind a snapshot.
    pub was_durable: Index,
    /// The log was durable up to here when the node went down.
    pub left_durable: Index,
    /// Segments below this one were at rest when the node went down.
    pub left_at_rest: SegmentNumber,
    /// What is of its own term gets lost on the way to the others.
    pub muted: bool,
    /// A write was made to fail: the node stops when it learns of it.
    pub fails: bool,
    /// Nothing can be added to its disk.
    pub full: bool,
    /// Something that was durable on its disk was destroyed.
    pub rotten: bool,
    /// It never comes back: its disk is lost.
    pub gone: bool,
}

impl<S: StateMachine> Node<S> {
    pub(super) fn new(
        id: NodeId,
        incarnation: Incarnation,
        disk: SimDisk,
        clock: Clock,
    ) -> Node<S> {
        Node {
            id,
            incarnation,
            disk,
            replica: None,
            boot: 0,
            out: Outbox::default(),
            turning: false,
            wake: None,
            paused_until: Micros(0),
            clock,
            slow: (1, Micros(0)),
            role: None,
            landed: BTreeSet::new(),
            was_durable: Index::ZERO,
            left_durable: Index::ZERO,
            left_at_rest: SegmentNumber::default(),
            muted: false,
            fails: false,
            full: false,
            rotten: false,
            gone: false,
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.replica.is_some()
    }

    /// Remembers how far the log is durable now.
    pub(super) fn note_durable(&mut self) {
        let durable = self.replica.as_ref().map_or(Index::ZERO, |replica| replica.log().durable());
        self.was_durable = self.was_durable.max(durable);
    }

    /// What the log calls durable is not still on its way to the disk.
    pub(super) fn check_durable(&self) -> Result<(), Failure> {
        let Some(log) = self.replica.as_ref().map(Replica::log) else { return Ok(()) };
        let durable = log.durable();
        for (last, chain) in self.disk.in_flight().filter_map(batch_of) {
            let is_held = log.chain_at(last) == Some(chain);
            if is_held && last <= durable && !self.landed.contains(&(last, chain.0)) {
                let details = format!("{}: durable up to {durable}, {last} is not", self.id);
                return Err(Failure::new("what is called durable is on the disk", details));
            }
        }
        Ok(())
    }
}

/// The batch that a write carries: its last entry and its chain.
pub(super) fn batch_of(op: &Op) -> Option<(Index, Chain)> {
    let Op::Write { data, .. } = op else { return None };
    let header = BatchHeader::decode(data.get(FRAME..)?).ok()?;
    Some((header.last().index, header.chain))
}
