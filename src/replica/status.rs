//! What a replica says about itself: to operators, checkers and reports. Nothing is decided here.

use margay_log::Log;
use margay_log::id::{Index, NodeId, Term};

use super::memberships::Memberships;
use super::{Replica, SnapshotCounts};
use crate::machine::{Machine, StateMachine};
use crate::raft::Raft;
use crate::wire::GroupStatus;

impl<S: StateMachine> Replica<S> {
    /// What `cluster status` shows of this replica; its host adds how long turns took.
    #[must_use]
    pub fn status(&self) -> GroupStatus {
        let name = |id: NodeId| self.members.member(id).map(|member| member.name.clone());
        let named = |ids: &[NodeId]| ids.iter().filter_map(|id| name(*id)).collect();
        let members = self.raft.configuration();
        let places = self.members.current().members();
        let places = places.map(|(member, _)| (member.name.clone(), member.address.clone()));
        GroupStatus {
            group: self.config.group,
            node: name(self.config.raft.id).unwrap_or_default(),
            leader: self.raft.leader().and_then(name),
            halted: self.halted.is_some(),
            snapshotting: self.snapshots.is_making(),
            longest_turn_us: 0,
            longest_turn_ago_us: 0,
            busiest_turn_us: 0,
            term: self.raft.term(),
            first: self.log.first(),
            last: self.log.last(),
            chain: self.log.chain_at(self.log.last().index).unwrap_or_default(),
            durable: self.log.durable(),
            commit: self.commit,
            applied: self.machine.applied(),
            sessions: self.machine.sessions().len() as u32,
            voters: named(members.voters()),
            outgoing: named(members.outgoing()),
            learners: named(members.learners()),
            members: places.collect(),
        }
    }

    /// What has happened about snapshots.
    #[must_use]
    pub fn snapshot_counts(&self) -> SnapshotCounts {
        self.snapshots.counts
    }

    /// Who belongs to the group.
    #[must_use]
    pub fn members(&self) -> &Memberships {
        &self.members
    }

    /// The core, for checkers and reports.
    #[must_use]
    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    /// The log, for checkers and reports.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The machine, for checkers and reports.
    #[must_use]
    pub fn machine(&self) -> &Machine<S> {
        &self.machine
    }

    /// The commit index as this replica knows it.
    #[must_use]
    pub fn commit(&self) -> Index {
        self.commit
    }

    /// The current term.
    #[must_use]
    pub fn term(&self) -> Term {
        self.raft.term()
    }
}
