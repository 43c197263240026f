//! Who a replica is, and its bounds: each with its unit and reason.

use margay_log::id::{ClusterId, GroupId, Micros};

#[cfg(doc)]
use super::leadership;
use super::membership::Member;
use crate::config::{SCRUB_PAUSE, SNAPSHOT_AFTER};
use crate::machine::session::SESSIONS_MAX;
use crate::raft::message::Config;

/// Who this replica is, and its bounds.
#[derive(Clone, Debug)]
pub struct ReplicaConfig {
    /// The cluster.
    pub cluster: ClusterId,
    /// The group.
    pub group: GroupId,
    /// The voters the group was founded with. This node need not be one.
    pub founders: Vec<Member>,
    /// Timing of the core, and this node's number.
    pub raft: Config,
    /// Batches sealed and not yet committed, at most.
    pub batches_in_flight: usize,
    /// Bytes sealed and not yet committed, at most.
    pub bytes_in_flight: u64,
    /// With a batch uncommitted, the next one is sealed early from this size on, in bytes.
    pub seal_early: u64,
    /// Commands proposed and not yet applied, per session.
    pub session_in_flight: u64,
    /// Commands proposed and not yet applied, in the whole group.
    pub group_in_flight: u64,
    /// Sessions of the group, at most.
    pub sessions_max: usize,
    /// Entry bytes applied in one flush, about; the rest waits for the next turn. While a snapshot
    /// is written out each write copies a piece of the state: 1 MiB of them has taken 9 ms.
    pub apply_bytes: u64,
    /// Entries applied between two looks at whether the turn has become long, fewer where much is
    /// told of them; at least 1.
    pub apply_part: usize,
    /// How long a voter must have been well before this node hands leadership over to it because it
    /// should lead; see [`leadership`].
    pub settled: Micros,
    /// A snapshot is taken when what was applied since the last one takes this many bytes of disk,
    /// or as many as that one has, whichever is more; some voters wait for up to half as many more,
    /// so that not all of them are at it at once.
    pub snapshot_after: u64,
    /// A snapshot is written out in chunks of about this many bytes, one per turn. Equal on all
    /// nodes, so that they write equal files.
    pub snapshot_chunk: usize,
    /// Pause between two pieces of about 256 KiB that are looked through for rot; 0 for never.
    pub scrub_pause: Micros,
}

impl ReplicaConfig {
    /// The defaults of `config.rs` for a member of a group.
    #[must_use]
    pub fn new(cluster: ClusterId, group: GroupId, founders: Vec<Member>, raft: Config) -> Self {
        Self {
            cluster,
            group,
            founders,
            raft,
            batches_in_flight: 4,
            bytes_in_flight: 8 << 20,
            seal_early: 16 << 10,
            session_in_flight: 1_024,
            group_in_flight: 8_192,
            sessions_max: SESSIONS_MAX,
            apply_bytes: 256 << 10,
            apply_part: 16,
            settled: Micros::from_millis(5_000),
            snapshot_after: SNAPSHOT_AFTER,
            snapshot_chunk: 64 << 10,
            scrub_pause: SCRUB_PAUSE,
        }
    }
}
