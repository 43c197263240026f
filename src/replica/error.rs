//! What can go wrong: faults of others cost them their connection, and what is fatal ends this
//! replica. A state machine that cannot go on is neither; see [`Halted`](crate::machine::Halted).

use margay_log::id::{GroupId, Index, NodeId};

use super::membership::BadMembership;
use crate::wire;

/// Something a peer or a client did that costs it its connection. The replica is unharmed.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// Bytes that do not decode.
    #[error(transparent)]
    Wire(#[from] wire::Error),
    /// A batch that does not check.
    #[error("batch refused: {0}")]
    Batch(#[from] margay_log::FormatError),
    /// An append that contradicts itself.
    #[error("{0}")]
    Append(&'static str),
    /// A message from a node that is no member any more.
    #[error("node {0} was removed from this group")]
    Stranger(NodeId),
    /// A configuration entry that does not decode.
    #[error(transparent)]
    Membership(#[from] BadMembership),
}

/// Something after which this replica must not go on. The process says so and stops.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// The log is poisoned.
    #[error(transparent)]
    Log(#[from] margay_log::Error),
    /// A batch that Raft accepts but that is not sealed on what this log holds: the logs differ at
    /// a position both call committed, or memory is broken.
    #[error("group {group}: this log differs from the leader's behind index {behind}: {why}")]
    Diverged {
        /// The group.
        group: GroupId,
        /// The last index both agree on, as far as is known.
        behind: Index,
        /// What the log said.
        why: String,
    },
    /// The log's meta block is not one of ours.
    #[error("group {group}: the hard state holds no term and vote this version can read")]
    Meta {
        /// The group.
        group: GroupId,
    },
    /// A configuration entry of the log is not one of ours.
    #[error("group {group}: the configuration at index {index} cannot be read: {why}")]
    Membership {
        /// The group.
        group: GroupId,
        /// Where it is.
        index: Index,
        /// What is wrong with it.
        why: BadMembership,
    },
    /// A committed batch cannot be read back.
    #[error("group {group}: the log is damaged behind index {behind}")]
    Damaged {
        /// The group.
        group: GroupId,
        /// The last index that could be read.
        behind: Index,
    },
}
