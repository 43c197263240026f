//! What must hold after every step: of one state, and between two. Checked in debug builds and in
//! simulation.
//!
//! The properties between nodes — one leader per term, equal logs, nothing committed is lost — need
//! all nodes and are checked by the simulator and by `tests/it/raft`. These here are their halves
//! that one node can see.

#![cfg(any(debug_assertions, feature = "sim"))]

use margay_log::id::{EntryId, Index, NodeId, Term, Ticket};

use super::message::RoleKind;
use super::progress::{Progress, State};
use super::{Leader, Raft, Role};

/// What is remembered of the last step.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Observed {
    term: Term,
    vote: Option<NodeId>,
    leader: Option<NodeId>,
    leads: bool,
    last: EntryId,
    commit: EntryId,
    persist_durable: Ticket,
}

impl Raft {
    pub(super) fn check_invariants(&mut self) {
        self.check_basic();
        let observed = Observed {
            term: self.term,
            vote: self.vote,
            leader: self.term_leader,
            leads: self.role() == RoleKind::Leader,
            last: self.terms.last(),
            commit: self.terms.entry_at(self.commit_index).expect("checked"),
            persist_durable: self.persist_durable,
        };
        self.check_delta(&observed);
        self.observed = observed;
    }

    fn check_basic(&self) {
        let (base, last) = (self.terms.base(), self.terms.last());
        assert!(self.configurations.index() <= last.index, "the configuration is in the log");
        assert!(base.index <= self.commit_index, "the snapshot is committed");
        assert!(self.commit_index <= last.index, "what is committed is in the log");
        let begins_anew = self.durable_index == Index::ZERO;
        assert!(base.index <= self.durable_index || begins_anew, "the log's beginning is durable");
        assert!(self.durable_index <= last.index, "what is durable is in the log");
        assert!(last.term <= self.term, "nobody leads a term that has not begun");
        assert!(!self.persist_owed, "a step ends with what it owes");
        assert!(self.held.is_empty() || !self.is_persisted(), "nothing waits without a reason");
        for (_, message) in &self.held {
            assert!(message.term >= self.term, "what waits is of this term, or asks for the next");
        }
        assert!(self.leader().is_none() || self.leader() == self.term_leader);
        match &self.role {
            Role::Follower(follower) => {
                assert_ne!(follower.leader, Some(self.config.id), "nobody follows itself");
                assert!(follower.verified <= last.index);
                assert!(follower.acked <= follower.verified);
                assert!(follower.acked <= self.durable_index, "acknowledged before durable");
            }
            Role::PreCandidate(_) => assert!(self.may_stand() || self.abstains),
            Role::Candidate(_) => assert_eq!(self.vote, Some(self.config.id)),
            Role::Leader(leader) => self.check_leader(leader),
        }
    }

    fn check_leader(&self, leader: &Leader) {
        let (base, last) = (self.terms.base(), self.terms.last());
        assert_eq!(self.vote, Some(self.config.id), "a leader voted for itself");
        assert!(self.is_persisted(), "a leader's term is durable");
        assert!(leader.first <= last.index.next());
        if base.index < leader.first && leader.first <= last.index {
            let first = self.terms.term_at(leader.first);
            assert_eq!(first, Some(self.term), "a leader's first entry is of its term");
            assert!(self.terms.term_at(leader.first.prev()) < first, "and none before it is");
        }
        let quorum = self.agreed(leader, last.index, |peer| peer.match_index);
        // Before its configuration is committed, the one before it may have had another quorum;
        // and afterwards a peer may lose what it held when it counted.
        let counts = self.commit_index > self.observed.commit.index
            && self.commit_index >= leader.first.max(self.configurations.index());
        assert!(!counts || Some(self.commit_index) <= quorum, "committed without a quorum");
        leader.peers.iter().for_each(|peer| self.check_peer(leader, peer));
    }

    fn check_peer(&self, leader: &Leader, peer: &Progress) {
        let (base, last) = (self.terms.base(), self.terms.last());
        assert!(peer.match_index <= last.index, "a peer holds what nobody sent");
        assert!(peer.next > peer.match_index, "what is held is not sent again");
        assert!(base.index < peer.next && peer.next <= last.index.next());
        assert!(peer.round <= leader.round, "a round answered before it began");
        assert!(peer.commit_told <= self.commit_index);
        assert!(peer.state != State::Snapshot || peer.next == base.index.next());
    }

    fn check_delta(&self, new: &Observed) {
        let old = &self.observed;
        assert!(old.term <= new.term, "terms rise");
        assert!(old.persist_durable <= new.persist_durable);
        assert!(old.commit.index <= new.commit.index, "what is committed stays so");
        if old.commit.index > self.terms.base().index {
            let kept = self.terms.holds(old.commit);
            assert!(kept, "the committed entry {} was replaced", old.commit);
        }
        if old.term < new.term {
            return;
        }
        assert!(old.vote.is_none() || old.vote == new.vote, "one vote per term");
        assert!(old.leader.is_none() || old.leader == new.leader, "one leader per term");
        if old.leads && new.leads {
            assert!(old.last.index <= new.last.index, "a leader only appends");
            let kept = old.last.index == Index::ZERO || self.terms.holds(old.last);
            assert!(kept, "a leader's entry {} was replaced", old.last);
        }
    }
}
