//! A simulated node: a real replica over a simulated disk, and everything it wants to leave it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use margay_log::batch::Batch;
use margay_log::disk::Op;
use margay_log::disk::sim::SimDisk;
use margay_log::id::{Incarnation, Micros, NodeId};

use crate::machine::StateMachine;
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
    /// Bits have flipped on its disk.
    pub rotten: bool,
}

impl<S: StateMachine> Node<S> {
    pub(super) fn new(id: NodeId, incarnation: Incarnation, disk: SimDisk) -> Node<S> {
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
            rotten: false,
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.replica.is_some()
    }
}
