//! Who runs a replica: where what it says goes, and whom it asks about the turn it is in. A shard
//! and the simulator each are one.

use std::any::Any;
use std::sync::Arc;

use margay_log::batch::Batch;
use margay_log::disk::Op;
use margay_log::id::{Micros, NodeId};

use super::memberships::Memberships;

/// A client's connection, named by whoever owns the socket. Never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct ConnId(pub u64);

/// Where a replica's outputs go.
pub trait Host {
    /// The out-buffer of a connection; `None` where it is gone or its buffer is over its bound.
    fn client(&mut self, conn: ConnId) -> Option<&mut Vec<u8>>;
    /// Close a connection once its out-buffer has been sent.
    fn close(&mut self, conn: ConnId);
    /// Send a frame, and behind it the bytes of a batch, to another node's replica of this group.
    fn peer(&mut self, to: NodeId, frame: &[u8], batch: Option<&Arc<Batch>>);
    /// Start a disk operation on this group's directory.
    fn disk(&mut self, op: Op);
    /// Drop what is left of a large state, without holding up the turn where that can be done.
    fn dispose(&mut self, remains: Box<dyn Any + Send>) {
        drop(remains);
    }
    /// The turn has become long: what can wait is left to the next one.
    fn is_turn_long(&mut self) -> bool {
        false
    }
    /// The longest turn of the shard in the last five to ten seconds, for reports.
    fn longest_turn(&self) -> LongestTurn {
        LongestTurn::default()
    }
    /// Who may be sent something from now on. A host that reaches every node by its number has
    /// nothing to do.
    fn members(&mut self, members: &Memberships) {
        let _ = members;
    }
}

/// The longest of some turns of a shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LongestTurn {
    /// From its begin to its end.
    pub took: Micros,
    /// Since its end.
    pub ago: Micros,
    /// What a turn itself ran, at most: not necessarily the same one.
    pub ran: Micros,
}
