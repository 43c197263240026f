//! Linearizable reads without writing the log (thesis §6.4).
//!
//! A leader that answers from its state must know that nobody was elected behind its back. It takes
//! the commit index, begins a *round* — a number that all its appends carry from then on — and when
//! a quorum has answered that round or a later one, in this term, it was still the leader after it
//! took the index.
//!
//! One round is in flight at a time. Reads that arrive meanwhile join the next: answers to messages
//! that were sent before a read arrived prove nothing for it. A lost round needs no timer,
//! heartbeats carry it too.
//!
//! A leader does not know what is committed until an entry of its own term is (paper §8): reads
//! that come before its no-op has committed wait for it. How many may wait is the replica's bound.

use std::mem;

use margay_log::breaks;
use margay_log::id::Index;

use super::message::{Output, ReadId};
use super::{Raft, Role, Round};

/// The reads of one leader.
#[derive(Debug, Default)]
pub(super) struct Reads {
    /// For the next round.
    waiting: Vec<ReadId>,
    /// For the one in flight.
    confirming: Vec<ReadId>,
    /// That round, and the commit index when it began.
    round: Round,
    index: Index,
}

impl Reads {
    /// Answers all of them with "not here". Rounds are numbered anew by each leader.
    pub(super) fn refuse(self, out: &mut Vec<Output>) {
        for id in self.confirming.into_iter().chain(self.waiting) {
            out.push(Output::ReadRefused { id });
        }
    }
}

impl Raft {
    pub(super) fn on_read(&mut self, id: ReadId, out: &mut Vec<Output>) {
        match &mut self.role {
            Role::Leader(leader) => leader.reads.waiting.push(id),
            _ => out.push(Output::ReadRefused { id }),
        }
    }

    /// Ends the round in flight if it is confirmed, and begins the next if reads wait for one.
    pub(super) fn advance_reads(&mut self, out: &mut Vec<Output>) {
        let serve = self.may_serve() || breaks::READ_BEFORE_OWN_COMMIT.on();
        let now = self.now;
        let Role::Leader(leader) = &self.role else { return };
        if leader.reads.waiting.is_empty() && leader.reads.confirming.is_empty() {
            return;
        }
        let confirmed = self.agreed(leader, Round(u64::MAX), |peer| peer.round);
        let (commit, Some(confirmed)) = (self.commit_index, confirmed) else { return };
        let Role::Leader(leader) = &mut self.role else { return };
        let reads = &mut leader.reads;
        if !reads.confirming.is_empty() && confirmed >= reads.round {
            let index = reads.index;
            out.extend(reads.confirming.drain(..).map(|id| Output::ReadReady { id, index }));
        }
        if !serve || reads.waiting.is_empty() || !reads.confirming.is_empty() {
            return;
        }
        if breaks::READ_WITHOUT_ROUND.on() {
            out.extend(reads.waiting.drain(..).map(|id| Output::ReadReady { id, index: commit }));
            return;
        }
        mem::swap(&mut reads.waiting, &mut reads.confirming);
        if !breaks::READ_BY_OLD_ROUND.on() || leader.round == Round(0) {
            leader.begin_round(now);
        }
        let reads = &mut leader.reads;
        reads.round = leader.round;
        reads.index = commit;
        if confirmed == Round(u64::MAX) {
            // The only voter is its own quorum.
            out.extend(
                reads.confirming.drain(..).map(|id| Output::ReadReady { id, index: commit }),
            );
        }
        leader.peers.iter_mut().for_each(|peer| peer.urgent = true);
    }
}
