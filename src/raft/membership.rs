//! Membership: who belongs to the group, whose agreement counts, and how that changes.
//!
//! ```text
//!            propose          committed           leader appends          committed
//! ┌─────────┐ ─────► ┌───────┐ ──────► (change_ends) ──────► ┌─────────┐ ──────► who is out goes
//! │ settled │        │ joint │                               │ settled │
//! └─────────┘ ◄───── └───────┘ ◄──────────────────────────── └─────────┘
//!            truncated                    truncated
//! ```
//!
//! A configuration is in force from the moment its entry is in the log, committed or not, and no
//! longer when that is truncated (thesis §4.1). A change of voters goes through a joint
//! configuration, in which a majority of the old and of the new voters must agree (§4.3), however
//! small it is: there is one way, and it is the one that is always safe. Whoever leads when the
//! joint configuration is committed ends it, also if another leader has begun it.
//!
//! * **One at a time**, and none before an entry of the leader's own term is committed: without
//!   that, two leaders could each count a majority of their own (Ongaro, raft-dev 2015).
//! * **A learner** gets the log and does not vote. It is promoted only when it has kept up for a
//!   round shorter than an election time-out (thesis §4.2.1): otherwise the group would wait for it
//!   with every commit.
//! * **Voting and standing.** A node grants votes whether or not it believes that it is a voter: it
//!   may be one in a configuration that it has not received (§4.2.1). It stands if it is a voter in
//!   any configuration that may still count: the one that removes it may be needed until it is
//!   committed (§4.2.2).
//! * **A leader that is no voter any more** leads until that is committed, without counting itself,
//!   then asks another to stand, and steps down. Members that are removed hear of it before the
//!   leader forgets them, if they answer within a time-out; disturb they cannot in any case, as
//!   nobody who hears a leader listens to a candidate.

use margay_log::breaks;
use margay_log::id::{Index, Micros, NodeId};

use super::message::{Body, ChangeRefused, Message, Output};
use super::progress::Progress;
use super::{Raft, Role, quorum};

/// The members of a group. Each list is sorted and without duplicates.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Configuration {
    /// Who votes; while a change is under way, who will.
    voters: Vec<NodeId>,
    /// Who voted before the change under way; empty without one.
    outgoing: Vec<NodeId>,
    /// Who gets the log and does not vote.
    learners: Vec<NodeId>,
}

impl Configuration {
    /// A configuration of `voters` and `learners`; `outgoing` are the voters it replaces, while it
    /// does.
    #[must_use]
    pub fn new(
        mut voters: Vec<NodeId>,
        mut outgoing: Vec<NodeId>,
        mut learners: Vec<NodeId>,
    ) -> Configuration {
        for list in [&mut voters, &mut outgoing, &mut learners] {
            list.sort_unstable();
            list.dedup();
        }
        learners.retain(|node| !voters.contains(node) && !outgoing.contains(node));
        Configuration { voters, outgoing, learners }
    }

    /// The voters, sorted.
    #[must_use]
    pub fn voters(&self) -> &[NodeId] {
        &self.voters
    }

    /// Who voted before the change under way, sorted; empty without one.
    #[must_use]
    pub fn outgoing(&self) -> &[NodeId] {
        &self.outgoing
    }

    /// Who gets the log and does not vote, sorted.
    #[must_use]
    pub fn learners(&self) -> &[NodeId] {
        &self.learners
    }

    /// Whether a change of voters is under way.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether the node's vote counts, in either half of a joint configuration.
    #[must_use]
    pub fn is_voter(&self, node: NodeId) -> bool {
        self.voters.contains(&node) || self.outgoing.contains(&node)
    }

    /// Everybody the log is sent to, each once.
    pub fn members(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.electors().chain(self.learners.iter().copied())
    }

    /// Everybody whose vote counts, each once.
    pub fn electors(&self) -> impl Iterator<Item = NodeId> + '_ {
        let leaving = self.outgoing.iter().filter(|node| !self.voters.contains(node));
        self.voters.iter().chain(leaving).copied()
    }

    /// What a quorum has reached; see [`quorum`].
    pub fn agreed<T: Ord + Copy>(&self, value: impl Fn(NodeId) -> T) -> Option<T> {
        if breaks::LEARNER_COUNTS.on() {
            return quorum::agreed(&self.members().collect::<Vec<_>>(), value);
        }
        if breaks::OLD_QUORUM_ONLY.on() && self.is_joint() {
            return quorum::agreed(&self.outgoing, value);
        }
        if breaks::NEW_QUORUM_ONLY.on() {
            return quorum::agreed(&self.voters, value);
        }
        quorum::agreed_jointly(&self.voters, &self.outgoing, value)
    }

    /// Whether the next entry of the log may replace this configuration by `next`: voters change
    /// only through a joint configuration, and one that is joint only ends.
    #[must_use]
    pub fn may_become(&self, next: &Configuration) -> bool {
        let begins = !self.is_joint() && next.outgoing == self.voters;
        let settled = !next.is_joint() && next.voters == self.voters;
        !next.voters.is_empty() && (begins || settled)
    }
}

/// The configurations in the log that may still count, each with the index of its entry: the latest
/// that is committed, and those behind it.
#[derive(Clone, Debug)]
pub(super) struct Configurations(Vec<(Index, Configuration)>);

impl Configurations {
    /// From the first, which is committed as of a snapshot, on; rising.
    pub(super) fn new(list: Vec<(Index, Configuration)>) -> Configurations {
        assert!(!list.is_empty(), "a group begins with a configuration");
        assert!(list.windows(2).all(|two| two[0].0 < two[1].0), "configurations rise");
        Configurations(list)
    }

    /// The one in force.
    pub(super) fn current(&self) -> &Configuration {
        if breaks::CHANGE_AT_COMMIT.on() {
            return &self.0[0].1;
        }
        &self.0.last().expect("there is always one").1
    }

    /// Where the one in force is.
    pub(super) fn index(&self) -> Index {
        self.0.last().expect("there is always one").0
    }

    pub(super) fn append(&mut self, index: Index, configuration: Configuration) {
        assert!(self.index() < index, "configurations rise");
        self.0.push((index, configuration));
    }

    /// Gives one its place that was in the log all the time. Whether it may still count and was not
    /// known.
    fn insert(&mut self, index: Index, configuration: Configuration) -> bool {
        let place = self.0.partition_point(|(at, _)| *at < index);
        let is_known = self.0.get(place).is_some_and(|(at, _)| *at == index);
        let is_new = place > 0 && !is_known;
        if is_new {
            self.0.insert(place, (index, configuration));
        }
        is_new
    }

    pub(super) fn truncate_after(&mut self, index: Index) {
        self.0.retain(|(at, _)| *at <= index);
        assert!(!self.0.is_empty(), "a committed configuration would be truncated");
    }

    /// Forgets what is superseded for good. Whether there was anything.
    pub(super) fn commit(&mut self, index: Index) -> bool {
        let committed = self.0.iter().rposition(|(at, _)| *at <= index).unwrap_or(0);
        self.0.drain(..committed);
        committed > 0
    }

    /// Whether `node` is a voter in any that may still count.
    pub(super) fn may_vote(&self, node: NodeId) -> bool {
        self.0.iter().any(|(_, configuration)| configuration.is_voter(node))
    }

    /// Whether `node` is a member in any that may still count.
    fn may_belong(&self, node: NodeId) -> bool {
        self.0.iter().any(|(_, configuration)| configuration.members().any(|id| id == node))
    }
}

// What the replica asks before it appends a configuration.
impl Raft {
    /// The configuration in force.
    #[must_use]
    pub fn configuration(&self) -> &Configuration {
        self.configurations.current()
    }

    /// Whether a change may begin now, whichever.
    ///
    /// # Errors
    /// Why not.
    pub fn may_change(&self) -> Result<(), ChangeRefused> {
        if !matches!(self.role, Role::Leader(_)) {
            return Err(ChangeRefused::NotLeader);
        }
        if !self.may_serve() && !breaks::NEW_QUORUM_ONLY.on() {
            return Err(ChangeRefused::NotReady);
        }
        let committed = self.configurations.index() <= self.commit_index;
        if !committed || self.configuration().is_joint() || !self.may_propose() {
            return Err(ChangeRefused::UnderWay);
        }
        Ok(())
    }

    /// Whether `next` may be appended now. Nothing that the group could not live with: a new voter
    /// must have caught up, and a majority of the new voters must have answered since `since`. What
    /// was heard before is no sign of life, and a change that waits for a dead node cannot be taken
    /// back.
    ///
    /// # Errors
    /// Why not.
    ///
    /// # Panics
    /// If `next` does not follow from the configuration in force; see
    /// [`Configuration::may_become`].
    pub fn check_change(&self, next: &Configuration, since: Micros) -> Result<(), ChangeRefused> {
        self.may_change()?;
        assert!(self.configuration().may_become(next), "not a step: {next:?}");
        let Role::Leader(leader) = &self.role else { return Err(ChangeRefused::NotLeader) };
        let last = self.terms.last().index;
        let promoted = next.voters().iter().filter(|id| !self.configuration().is_voter(**id));
        for &node in promoted {
            let peer = leader.peers.iter().find(|peer| peer.id == node);
            let Some(peer) = peer.filter(|peer| peer.match_index >= leader.first) else {
                return Err(ChangeRefused::NotCaughtUp { node, behind: last.0 });
            };
            if !peer.keeps_up(self.now, self.config.election_min) {
                let behind = last.since(peer.match_index);
                return Err(ChangeRefused::NotCaughtUp { node, behind });
            }
        }
        if next.is_joint() {
            let own = self.config.id;
            let is_there = |id: NodeId| {
                let peer = leader.peers.iter().find(|peer| peer.id == id);
                id == own || peer.and_then(|peer| peer.answered).is_some_and(|at| at >= since)
            };
            if quorum::agreed(next.voters(), is_there) != Some(true) {
                let silent = next.voters().iter().filter(|id| !is_there(**id));
                return Err(ChangeRefused::NoQuorum { silent: silent.copied().collect() });
            }
        }
        Ok(())
    }

    /// Whether the leader should append the end of the change under way: the joint configuration is
    /// committed, and this node knows it.
    #[must_use]
    pub fn change_ends(&self) -> bool {
        let committed = self.configurations.index() <= self.commit_index;
        self.may_serve() && self.may_propose() && committed && self.configuration().is_joint()
    }
}

// What follows from a configuration that comes or is committed.
impl Raft {
    /// The leader has appended it: new members get the log from here on.
    pub(super) fn lead_configuration(&mut self, index: Index, configuration: Configuration) {
        assert!(self.configuration().may_become(&configuration), "not a step: {configuration:?}");
        self.configurations.append(index, configuration);
        let (own, now) = (self.config.id, self.now);
        let Role::Leader(leader) = &mut self.role else { return };
        for id in self.configurations.current().members().filter(|id| *id != own) {
            if !leader.peers.iter().any(|peer| peer.id == id) {
                leader.peers.push(Progress::new(id, index, now));
            }
        }
    }

    /// It was in the log all the time, and has come to light: the batch that could not be read is
    /// back, or a snapshot tells. Whoever stood or led by another one gives up: it may have no
    /// vote, and has asked the wrong nodes for theirs.
    pub(super) fn on_found(
        &mut self,
        index: Index,
        configuration: Configuration,
        out: &mut Vec<Output>,
    ) {
        let within = index <= self.terms.last().index;
        if !within || !self.configurations.insert(index, configuration) {
            return;
        }
        let is_in_force = self.configurations.index() == index;
        self.configurations.commit(self.commit_index);
        if is_in_force && !matches!(self.role, Role::Follower(_)) {
            self.become_follower(None, out);
        }
    }

    /// Everything is committed up to `index`.
    pub(super) fn commit_to(&mut self, index: Index, out: &mut Vec<Output>) {
        self.commit_index = index;
        let settled = self.configurations.commit(index);
        if let Role::Leader(leader) = &mut self.role
            && settled
        {
            leader.told_until = self.now.after(self.config.election_max);
        }
        out.push(Output::Commit { index });
    }

    /// After a leader's step: who is out and has been told, or does not answer, is forgotten; if it
    /// is the leader itself, it steps down.
    pub(super) fn let_go(&mut self, out: &mut Vec<Output>) {
        let Role::Leader(leader) = &mut self.role else { return };
        let (now, index) = (self.now, self.configurations.index());
        let untold = now < leader.told_until;
        leader.peers.retain(|peer| {
            let told = peer.commit_told >= index || !untold;
            !told || self.configurations.may_belong(peer.id)
        });
        if !self.configurations.may_vote(self.config.id) {
            // Nobody needs to wait for a time-out: one of those who are left stands at once.
            let (term, last) = (self.term, self.terms.last().index);
            let voters = self.configurations.current().voters();
            let level = |peer: &&Progress| voters.contains(&peer.id) && peer.match_index >= last;
            if let Some(heir) = leader.peers.iter().find(level) {
                let message = Message { term, body: Body::TimeoutNow };
                out.push(Output::Send { to: heir.id, message });
            }
            self.become_follower(None, out);
        }
    }

    /// Whether this node may stand for election.
    pub(super) fn may_stand(&self) -> bool {
        !self.abstains && self.configurations.may_vote(self.config.id)
    }

    /// When this node may stand; never, if it has no vote.
    pub(super) fn stand_deadline(&self) -> Option<Micros> {
        self.may_stand().then_some(self.election_due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(ids: &[u32]) -> Vec<NodeId> {
        ids.iter().map(|id| NodeId(*id)).collect()
    }

    fn settled(voters: &[u32]) -> Configuration {
        Configuration::new(nodes(voters), Vec::new(), Vec::new())
    }

    #[test]
    fn every_member_is_listed_once() {
        let joint = Configuration::new(nodes(&[4, 2, 2]), nodes(&[1, 2]), nodes(&[1, 5]));
        assert_eq!(joint.members().collect::<Vec<_>>(), nodes(&[2, 4, 1, 5]));
        assert_eq!(joint.electors().collect::<Vec<_>>(), nodes(&[2, 4, 1]));
        assert!(joint.is_voter(NodeId(1)) && !joint.is_voter(NodeId(5)));
    }

    #[test]
    fn learners_do_not_count() {
        let group = Configuration::new(nodes(&[1, 2, 3]), Vec::new(), nodes(&[4, 5]));
        assert_eq!(group.agreed(|node| node.0 > 2), Some(false));
        assert_eq!(group.agreed(|node| node.0 < 3), Some(true));
    }

    #[test]
    fn voters_change_only_through_a_joint_configuration() {
        let three = settled(&[1, 2, 3]);
        let joint = Configuration::new(nodes(&[2, 3, 4]), nodes(&[1, 2, 3]), Vec::new());
        let learner = Configuration::new(nodes(&[1, 2, 3]), Vec::new(), nodes(&[4]));
        assert!(three.may_become(&joint) && three.may_become(&learner));
        assert!(joint.may_become(&settled(&[2, 3, 4])));
        for next in [settled(&[1, 2]), settled(&[2, 3, 4]), settled(&[])] {
            assert!(!three.may_become(&next), "{next:?}");
        }
        let other = Configuration::new(nodes(&[5]), nodes(&[2, 3, 4]), Vec::new());
        assert!(!joint.may_become(&other) && !joint.may_become(&three));
    }

    #[test]
    fn a_truncated_configuration_has_never_been() {
        let mut kept = Configurations::new(vec![(Index(0), settled(&[1]))]);
        kept.append(Index(5), Configuration::new(nodes(&[2]), nodes(&[1]), Vec::new()));
        assert!(kept.may_vote(NodeId(2)));
        kept.truncate_after(Index(4));
        assert_eq!((kept.index(), kept.current()), (Index(0), &settled(&[1])));
        kept.append(Index(5), Configuration::new(nodes(&[3]), nodes(&[1]), Vec::new()));
        kept.commit(Index(4));
        assert_eq!(kept.0.len(), 2);
        kept.commit(Index(5));
        kept.append(Index(6), settled(&[3]));
        assert!(kept.may_vote(NodeId(1)), "its removal is not committed");
        kept.commit(Index(9));
        assert!(!kept.may_vote(NodeId(1)));
    }
}
