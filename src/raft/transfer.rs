//! Handing leadership over (thesis §3.10): the leader stops proposing, brings the target's log up
//! to its own, and tells it to stand at once.
//!
//! ```text
//!   leader                                target                         the others
//!     │  proposes no more                   │                                │
//!     │  append … ───────────────────────►  │                                │
//!     │  ◄─────────────── ack of everything │                                │
//!     │  time-out now ───────────────────►  │ term + 1, votes for itself     │
//!     │  ◄───────────────── vote? (handed over) ──────────────────────────►  │ votes, although
//!     │  steps down                         │ leads  ◄─────────────────────  │ it hears a leader
//! ```
//!
//! * Those who hear a leader ignore candidates. So the target asks without a pre-vote, and its
//!   request says that the leader itself wants it ([`Body::Vote::handed_over`]).
//! * What is not proposed meanwhile waits in the replica: it is sealed when the transfer has
//!   failed, and refused as "not applied" when it has not.
//! * It ends after `election_max` at the latest; then the leader proposes again. The target may
//!   still stand later, with a late message: then it leads, as after any election.
//! * Until the target is told it can be taken back: somebody asks that this node leads on.
//! * From the moment the target is told, this leader answers no read by its lease in this term:
//!   somebody may be elected who did not wait for it (etcd-raft #99).

use margay_log::id::{Micros, NodeId};

use super::message::{Body, Message, Output, TransferEnd};
use super::progress::State;
use super::{Leader, Raft, Role};

/// A transfer under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transfer {
    pub(super) to: NodeId,
    /// Given up then.
    until: Micros,
    /// When the target was last told to stand.
    told: Option<Micros>,
}

impl Transfer {
    /// When something is to be done, if nothing is heard.
    pub(super) fn deadline(&self, heartbeat: Micros) -> Micros {
        match self.told {
            Some(told) => self.until.min(told.after(heartbeat)),
            None => self.until,
        }
    }
}

impl Raft {
    /// Begins a transfer, in place of one under way to somebody else. One to this node itself takes
    /// that back, if it still can.
    pub(super) fn on_transfer(&mut self, to: NodeId, out: &mut Vec<Output>) {
        if to == self.config.id
            && let Role::Leader(leader) = &mut self.role
            && let Some(Transfer { to, .. }) = leader.transfer.take_if(|it| it.told.is_none())
        {
            out.push(Output::Transferred { to, end: TransferEnd::Replaced });
        }
        if let Some(end) = self.refuse_transfer(to) {
            return out.push(Output::Transferred { to, end });
        }
        let until = self.now.after(self.config.election_max);
        let Role::Leader(leader) = &mut self.role else { unreachable!("others are refused") };
        match leader.transfer {
            Some(transfer) if transfer.to == to => return,
            Some(Transfer { to, .. }) => {
                out.push(Output::Transferred { to, end: TransferEnd::Replaced });
            }
            None => {}
        }
        leader.transfer = Some(Transfer { to, until, told: None });
    }

    /// Why a transfer to this node is over before it begins.
    fn refuse_transfer(&self, to: NodeId) -> Option<TransferEnd> {
        let Role::Leader(leader) = &self.role else { return Some(TransferEnd::NotLeader) };
        if to == self.config.id {
            let is_leaving = leader.transfer.is_some();
            return Some(if is_leaving { TransferEnd::TooLate } else { TransferEnd::Leads });
        }
        let peer = leader.peers.iter().find(|peer| peer.id == to);
        let Some(peer) = peer.filter(|_| self.configuration().voters().contains(&to)) else {
            return Some(TransferEnd::NotVoter);
        };
        let silence = self.now.since(peer.heard);
        if silence >= self.config.election_min {
            return Some(TransferEnd::Silent);
        }
        (peer.state == State::Snapshot).then_some(TransferEnd::Behind)
    }

    /// Tells the target to stand as soon as it holds everything; again with every heartbeat, as
    /// messages are lost.
    pub(super) fn advance_transfer(&mut self, out: &mut Vec<Output>) {
        let (now, term, last) = (self.now, self.term, self.terms.last().index);
        let Role::Leader(leader) = &mut self.role else { return };
        let Leader { transfer: Some(transfer), peers, .. } = leader else { return };
        let to = transfer.to;
        let votes = self.configurations.current().voters().contains(&to);
        let peer = peers.iter().find(|peer| peer.id == to && votes);
        let end = match peer {
            None => Some(TransferEnd::NotVoter),
            Some(_) if now >= transfer.until => Some(TransferEnd::TimedOut),
            Some(_) => None,
        };
        if let Some(end) = end {
            leader.transfer = None;
            return out.push(Output::Transferred { to, end });
        }
        let due = transfer.told.is_none_or(|told| now >= told.after(self.config.heartbeat));
        if due && peer.is_some_and(|peer| peer.match_index >= last) {
            transfer.told = Some(now);
            leader.handed_over = true;
            let message = Message { term, body: Body::TimeoutNow };
            out.push(Output::Send { to, message });
        }
    }

    /// Whether batches may be appended: this node leads and is not handing over.
    #[must_use]
    pub fn may_propose(&self) -> bool {
        matches!(&self.role, Role::Leader(leader) if leader.transfer.is_none())
    }

    /// Whom this leader is handing over to.
    #[must_use]
    pub fn transferring_to(&self) -> Option<NodeId> {
        let Role::Leader(leader) = &self.role else { return None };
        leader.transfer.map(|transfer| transfer.to)
    }

    /// The leader before, if it asked this leader to stand.
    #[must_use]
    pub fn handed_over_by(&self) -> Option<NodeId> {
        let Role::Leader(leader) = &self.role else { return None };
        leader.asked_by
    }

    /// The leader hands over: stand for election at once. Without pre-vote, which those who still
    /// hear the leader would ignore.
    pub(super) fn on_timeout_now(&mut self, from: NodeId, out: &mut Vec<Output>) {
        if self.leader() == Some(from) && self.may_stand() {
            self.campaign(Some(from), out);
        }
    }
}
