//! Which node should lead this group, and how it comes to that.
//!
//! All nodes rank a group's voters alike ([`rank`]), so that the leaders of many groups are spread
//! over the nodes. A leader that is not the first hands over to one ranked above it that has been
//! well for a while; one whose own disk lags, or is full, or who has halted, hands over to anybody
//! who is well. All disks may be full, all may have halted, and nobody tells: who was given
//! leadership waits longer for such a reason.
//!
//! *Well* is a voter that answers, is streamed to, and holds on its disk what was committed
//! `BEHIND` ago. Whoever was not has to be well for [`ReplicaConfig::settled`] before it is
//! preferred again, and a group's leader moves by itself once in twice that time at most: so
//! neither a flapping link nor a disk that is slow from time to time makes leadership flap.
//!
//! A leader that gave leadership away had a reason: its disk, or an operator's word. Its successor
//! does not give it back to that node for `GIVEN_UP` times as long, unless it stops answering
//! meanwhile. Whom an operator wants to lead is asked for it again when it does, to make sure; so
//! it knows, and does not give leadership away by rank for `HELD` times as long.
//!
//! [`ReplicaConfig::settled`]: super::ReplicaConfig::settled

use std::collections::{BTreeMap, VecDeque};

use margay_log::Space;
use margay_log::id::{GroupId, Index, Micros, NodeId};

use super::{ConnId, Host, RETRY, Replica};
use crate::machine::{Code, StateMachine};
use crate::raft::message::{Input, PeerStatus, TransferEnd};
use crate::wire::client::{RefusedOf, Response};

/// A disk that does not hold what was committed this long ago lags.
const BEHIND: Micros = Micros::from_millis(500);
/// A leader whose disk lags for this long gives leadership away.
const LAGGED: Micros = Micros::from_millis(1_000);
/// From one attempt to hand over that nobody asked for to the next, at least, in times of
/// `settled`; so long who was given leadership keeps it with a full disk, or halted.
const PAUSE: u64 = 2;
/// It doubles with each that fails, up to this.
const PAUSE_MAX: u64 = 32;
/// Who gave leadership away does not get it back by rank for this many times of `settled`.
const GIVEN_UP: u64 = 12;
/// Who leads because an operator wants it does not pass that on by rank for this many times of
/// `settled`: ten minutes, time for what the operator has in mind.
const HELD: u64 = 120;

/// The voters of a group, the one that should lead it first. Group 0 prefers the first voter, group
/// 1 the second, and so on; among the groups of one first voter the others take turns likewise, so
/// that they share its groups when it is gone.
#[must_use]
pub fn rank(group: GroupId, voters: &[NodeId]) -> Vec<NodeId> {
    let mut voters = voters.to_vec();
    voters.sort_unstable();
    if let Some(first) = (group.0 as usize).checked_rem(voters.len()) {
        let turns = group.0 as usize / voters.len();
        voters.rotate_left(first);
        if let Some(by) = turns.checked_rem(voters.len() - 1) {
            voters[1..].rotate_left(by);
        }
    }
    voters
}

/// What a replica keeps for this while it leads.
#[derive(Debug, Default)]
pub(super) struct Leadership {
    /// How long a voter must have been well.
    settled: Micros,
    /// The commit index at some times, rising: not more than `BEHIND` reaches back, and one before.
    commits: VecDeque<(Micros, Index)>,
    /// Since when each voter is well, if it is.
    well: BTreeMap<NodeId, Micros>,
    /// Since when the own disk lags, if it does.
    lags: Option<Micros>,
    /// Since when it is full, if it is.
    full: Option<Micros>,
    /// Since when this replica has halted, if it has.
    halted: Option<Micros>,
    /// Looked at again then.
    look_at: Micros,
    /// No transfer by rank or lag before this.
    not_before: Micros,
    pause: Micros,
    /// Who gave leadership to this node, and until when it does not get it back.
    given_up: Option<(NodeId, Micros)>,
    /// Until then this node leads whatever the rank, because an operator wants it.
    held_until: Micros,
    /// Targets that failed since this node should lead no more.
    failed: Vec<NodeId>,
    /// The node is about to stop: whoever is well may have it.
    retiring: bool,
    /// An operator who waits: the connection, the request, and who is to lead.
    asked: Option<(ConnId, u64, NodeId)>,
}

impl Leadership {
    pub(super) fn new(settled: Micros) -> Leadership {
        Leadership { settled, ..Leadership::default() }
    }

    /// A new term as leader.
    fn begin(&mut self, now: Micros, from: Option<NodeId>) {
        let Leadership { settled, retiring, .. } = *self;
        *self = Leadership {
            settled,
            given_up: from.map(|node| (node, now.after(Micros(settled.0 * GIVEN_UP)))),
            not_before: now.after(settled),
            pause: Micros(settled.0 * PAUSE),
            retiring,
            ..Leadership::default()
        };
    }

    /// Takes in how the others are doing. `beat` is the heartbeat.
    fn note(
        &mut self,
        now: Micros,
        commit: Index,
        durable: Index,
        beat: Micros,
        peers: impl Iterator<Item = PeerStatus>,
    ) {
        self.commits.push_back((now, commit));
        while self.commits.get(1).is_some_and(|&(at, _)| at.after(BEHIND) <= now) {
            self.commits.pop_front();
        }
        let oldest = self.commits.front().filter(|&&(at, _)| at.after(BEHIND) <= now);
        let then = oldest.map_or(Index::ZERO, |&(_, commit)| commit);
        for peer in peers {
            let answers = now.since(peer.heard) <= Micros(beat.0 * 3);
            if answers && peer.replicating && peer.matched >= then {
                self.well.entry(peer.id).or_insert(now);
            } else {
                self.well.remove(&peer.id);
            }
            if !answers && self.given_up.is_some_and(|(node, _)| node == peer.id) {
                self.given_up = None;
            }
        }
        if durable < then {
            self.lags.get_or_insert(now);
        } else {
            self.lags = None;
        }
    }

    /// Takes in whether the own disk is full, which takes nothing then that could lag on it, and
    /// whether this replica has halted.
    fn note_own(&mut self, now: Micros, is_full: bool, has_halted: bool) {
        self.full = is_full.then(|| self.full.unwrap_or(now));
        self.halted = has_halted.then(|| self.halted.unwrap_or(now));
    }

    /// Who should lead in place of `own` now, if anybody.
    fn successor(&self, now: Micros, own: NodeId, rank: &[NodeId]) -> Option<NodeId> {
        let given_up = self.given_up.filter(|&(_, until)| now < until).map(|(node, _)| node);
        let well_for = |node: &NodeId, span: Micros| {
            self.well.get(node).is_some_and(|since| since.after(span) <= now)
        };
        let candidates = rank.iter().filter(|node| **node != own && !self.failed.contains(node));
        if self.retiring {
            return candidates.copied().find(|node| well_for(node, Micros(0)));
        }
        if now < self.not_before {
            return None;
        }
        let mut candidates = candidates.filter(|node| Some(**node) != given_up);
        let idle_for = if given_up.is_some() { Micros(self.settled.0 * PAUSE) } else { LAGGED };
        let is_for = |since: Option<Micros>, span| since.is_some_and(|at| at.after(span) <= now);
        let is_idle = is_for(self.full, idle_for) || is_for(self.halted, idle_for);
        if is_for(self.lags, LAGGED) || is_idle {
            return candidates.copied().find(|node| well_for(node, LAGGED));
        }
        if now < self.held_until {
            return None;
        }
        let above = rank.iter().position(|node| *node == own).unwrap_or(rank.len());
        candidates
            .find(|node| rank[..above].contains(node) && well_for(node, self.settled))
            .copied()
    }
}

impl<S: StateMachine> Replica<S> {
    /// This node leads now, or no longer.
    pub(super) fn leadership_began(&mut self, now: Micros) {
        self.leadership.begin(now, self.raft.handed_over_by());
    }

    /// When to look again at who should lead.
    pub(super) fn leadership_deadline(&self) -> Option<Micros> {
        self.leads().then_some(self.leadership.look_at)
    }

    /// Looks at who should lead, once per heartbeat, and begins to hand over where it is another.
    pub(super) fn look_at_leadership(&mut self, now: Micros, host: &mut dyn Host) {
        if !self.leads() || now < self.leadership.look_at {
            return;
        }
        let (own, beat) = (self.config.raft.id, self.config.raft.heartbeat);
        self.leadership.look_at = now.after(beat);
        let (commit, durable) = (self.raft.commit(), self.raft.durable());
        self.leadership.note(now, commit, durable, beat, self.raft.peers());
        let is_full = matches!(self.log.space(), Space::Full(_));
        self.leadership.note_own(now, is_full, self.halted.is_some());
        let ready = self.raft.may_serve() || self.leadership.retiring;
        if self.raft.transferring_to().is_some() || !ready {
            return;
        }
        let rank = rank(self.config.group, self.raft.configuration().voters());
        let Some(to) = self.leadership.successor(now, own, &rank) else { return };
        let (lags, full) = (self.leadership.lags.is_some(), self.leadership.full.is_some());
        let halted = self.halted.is_some();
        tracing::info!(group = self.config.group.0, %to, lags, full, halted,
            "handing leadership over");
        self.step(now, Input::Transfer { to });
        self.run_outputs(now, host);
    }

    /// An operator wants somebody to lead. Only the leader knows for sure who is a member.
    pub(super) fn on_transfer_asked(
        &mut self,
        now: Micros,
        conn: ConnId,
        id: u64,
        name: &str,
        host: &mut dyn Host,
    ) {
        if !self.leads() {
            return self.answer_transfer(conn, id, Code::NOT_LEADER, "", host);
        }
        let to = self.members.current().find(name).map(|(member, _)| member.id);
        let Some(to) = to else {
            let text = format!("{name} is no member of this group");
            return self.answer_transfer(conn, id, Code::BAD_CHANGE, &text, host);
        };
        if let Some((conn, id, _)) = self.leadership.asked.replace((conn, id, to)) {
            let text = "another transfer was asked for";
            self.answer_transfer(conn, id, Code::CHANGE_UNDER_WAY, text, host);
        }
        self.step(now, Input::Transfer { to });
        self.run_outputs(now, host);
    }

    fn answer_transfer(&self, conn: ConnId, id: u64, code: Code, text: &str, host: &mut dyn Host) {
        let leader = self.leader_address();
        if let Some(out) = host.client(conn) {
            let (of, leader) = (RefusedOf::Admin(id), &leader[..]);
            Response::Refused { of, code, retry: RETRY, leader, text }.encode(out);
        }
    }

    /// Tells the operator who asked for a transfer how it has ended.
    fn tell_transferred(&mut self, to: NodeId, end: TransferEnd, host: &mut dyn Host) {
        let asked = self.leadership.asked.take_if(|(_, _, node)| *node == to);
        let Some((conn, id, _)) = asked else { return };
        let (name, own) = (self.name(to), self.name(self.config.raft.id));
        let (code, text) = match end {
            TransferEnd::Leads => {
                let index = self.commit;
                if let Some(out) = host.client(conn) {
                    Response::Admin { id, changed: false, node: to, index }.encode(out);
                }
                return;
            }
            // Whoever is asked next knows.
            TransferEnd::Over => (Code::LEADER_CHANGED, String::new()),
            TransferEnd::NotLeader => (Code::NOT_LEADER, String::new()),
            TransferEnd::NotVoter => (Code::BAD_CHANGE, format!("{name} has no vote")),
            TransferEnd::Silent => (Code::UNSAFE_CHANGE, format!("{name} does not answer")),
            TransferEnd::Behind => {
                (Code::NOT_CAUGHT_UP, format!("{name} is so far behind that it needs a snapshot"))
            }
            TransferEnd::TimedOut => {
                let text = format!("{name} has not caught up or not stood in time; {own} leads on");
                (Code::NOT_CAUGHT_UP, text)
            }
            TransferEnd::Replaced => {
                (Code::CHANGE_UNDER_WAY, "another transfer was asked for".to_owned())
            }
            TransferEnd::TooLate => {
                let text = format!("{own} has told another to lead in its place; ask again");
                (Code::CHANGE_UNDER_WAY, text)
            }
        };
        self.answer_transfer(conn, id, code, &text, host);
    }

    fn name(&self, node: NodeId) -> String {
        let member = self.members.member(node);
        member.map_or_else(|| node.to_string(), |member| member.name.clone())
    }

    /// A transfer is over.
    pub(super) fn on_transferred(
        &mut self,
        now: Micros,
        to: NodeId,
        end: TransferEnd,
        host: &mut dyn Host,
    ) {
        self.tell_transferred(to, end, host);
        if end == TransferEnd::Leads {
            self.leadership.held_until = now.after(Micros(self.leadership.settled.0 * HELD));
        }
        if matches!(end, TransferEnd::Over | TransferEnd::Leads | TransferEnd::TooLate) {
            return;
        }
        tracing::info!(group = self.config.group.0, %to, ?end, "leadership was not handed over");
        let leadership = &mut self.leadership;
        if leadership.retiring {
            leadership.failed.push(to);
            leadership.look_at = now;
        }
        leadership.not_before = now.after(leadership.pause);
        leadership.pause = Micros((leadership.pause.0 * 2).min(leadership.settled.0 * PAUSE_MAX));
    }

    /// The node is about to stop: this replica hands leadership over where anybody can take it, and
    /// takes none any more. [`Replica::is_retired`] tells when that is done.
    pub fn retire(&mut self, now: Micros, host: &mut dyn Host) {
        self.leadership.retiring = true;
        self.leadership.look_at = now;
        self.look_at_leadership(now, host);
    }

    /// Whether this node takes leadership from nobody: it is about to stop, or could not answer.
    pub(super) fn takes_no_leadership(&self) -> bool {
        self.leadership.retiring || self.halted.is_some()
    }

    /// Whether nothing is lost for the group by stopping now: somebody else leads, or nobody else
    /// could.
    #[must_use]
    pub fn is_retired(&self) -> bool {
        let leadership = &self.leadership;
        if !self.leads() {
            return self.raft.leader().is_some() || self.raft.configuration().voters().len() < 2;
        }
        let left = leadership.well.keys().any(|node| !leadership.failed.contains(node));
        self.raft.transferring_to().is_none() && !left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTLED: Micros = Micros::from_millis(5_000);

    fn nodes(ids: &[u32]) -> Vec<NodeId> {
        ids.iter().map(|id| NodeId(*id)).collect()
    }

    #[test]
    fn groups_prefer_all_voters_alike_and_share_those_of_one_that_is_gone() {
        let voters = nodes(&[3, 1, 2]);
        let ranks: Vec<Vec<NodeId>> = (0..6).map(|group| rank(GroupId(group), &voters)).collect();
        assert_eq!(ranks[0], nodes(&[1, 2, 3]));
        assert_eq!(ranks[1], nodes(&[2, 3, 1]));
        assert_eq!(ranks[3], nodes(&[1, 3, 2]), "without n1, n3 has the second of its groups");
        for node in 1..=3 {
            let first = ranks.iter().filter(|rank| rank[0] == NodeId(node)).count();
            let second = ranks.iter().filter(|rank| rank[1] == NodeId(node)).count();
            assert_eq!((first, second), (2, 2));
        }
        assert_eq!(rank(GroupId(7), &nodes(&[4])), nodes(&[4]));
        assert_eq!(rank(GroupId(7), &[]), nodes(&[]));
    }

    /// Leads as n2, with n1 ranked above it and n3 below.
    struct Watch {
        leadership: Leadership,
        now: Micros,
        commit: u64,
    }

    impl Watch {
        fn new(from: Option<NodeId>) -> Watch {
            let mut leadership = Leadership::new(SETTLED);
            leadership.begin(Micros(0), from);
            Watch { leadership, now: Micros(0), commit: 0 }
        }

        /// Time passes while ten entries are committed every 100 ms, and n1, n2 and n3 are so many
        /// behind; one that is far behind does not answer. Whom leadership goes to, and when.
        fn pass(&mut self, millis: u64, behind: [u64; 3]) -> Option<(NodeId, u64)> {
            let beat = Micros::from_millis(100);
            for _ in 0..millis / 100 {
                self.now = self.now.after(beat);
                self.commit += 10;
                let peer = |id: u32| {
                    let lag = behind[id as usize - 1];
                    let matched = Index(self.commit.saturating_sub(lag));
                    let heard = if lag > 1_000 { Micros(0) } else { self.now };
                    PeerStatus { id: NodeId(id), matched, heard, replicating: true }
                };
                let durable = Index(self.commit.saturating_sub(behind[1]));
                let peers = [peer(1), peer(3)].into_iter();
                self.leadership.note(self.now, Index(self.commit), durable, beat, peers);
                let to = self.leadership.successor(self.now, NodeId(2), &nodes(&[1, 2, 3]));
                if let Some(to) = to {
                    return Some((to, self.now.0 / 1_000));
                }
            }
            None
        }
    }

    #[test]
    fn the_first_in_rank_leads_once_it_has_been_well_for_a_while() {
        let mut watch = Watch::new(None);
        assert_eq!(watch.pass(4_000, [0, 0, 0]), None);
        assert_eq!(watch.pass(1_000, [200, 0, 0]), None, "its disk is two seconds behind");
        let led = watch.pass(10_000, [10, 0, 0]);
        assert!(matches!(led, Some((NodeId(1), 10_000..=10_300))), "{led:?}");
    }

    #[test]
    fn nobody_below_takes_over_from_a_leader_that_is_well() {
        assert_eq!(Watch::new(None).pass(60_000, [9_999, 30, 0]), None);
    }

    #[test]
    fn a_leader_whose_disk_lags_hands_over_to_anybody_who_is_well() {
        let mut watch = Watch::new(None);
        assert_eq!(watch.pass(5_500, [9_999, 0, 0]), None);
        let led = watch.pass(5_000, [9_999, 200, 0]);
        assert!(matches!(led, Some((NodeId(3), 6_500..=7_000))), "{led:?}");
    }

    #[test]
    fn a_disk_that_is_slow_for_moments_moves_nothing() {
        let mut watch = Watch::new(None);
        for _ in 0..20 {
            assert_eq!(watch.pass(900, [9_999, 100, 0]), None);
            assert_eq!(watch.pass(300, [9_999, 0, 0]), None);
        }
    }

    #[test]
    fn whom_an_operator_wants_to_lead_leads_on_unless_its_disk_lags() {
        let held = || {
            let mut watch = Watch::new(Some(NodeId(3)));
            watch.leadership.held_until = Micros(SETTLED.0 * HELD);
            watch
        };
        let mut watch = held();
        assert_eq!(watch.pass(599_000, [0, 0, 0]), None);
        assert!(matches!(watch.pass(2_000, [0, 0, 0]), Some((NodeId(1), 600_000..))));
        let mut watch = held();
        assert_eq!(watch.pass(5_500, [0, 0, 0]), None);
        assert!(matches!(watch.pass(5_000, [0, 200, 0]), Some((NodeId(1), 6_500..=7_000))));
    }

    #[test]
    fn who_gave_leadership_away_gets_it_back_later_or_after_a_restart() {
        let mut watch = Watch::new(Some(NodeId(1)));
        assert_eq!(watch.pass(59_000, [0, 0, 0]), None);
        assert!(matches!(watch.pass(2_000, [0, 0, 0]), Some((NodeId(1), 60_000..))));
        let mut watch = Watch::new(Some(NodeId(1)));
        assert_eq!(watch.pass(2_000, [9_999, 0, 0]), None);
        assert!(matches!(watch.pass(9_000, [0, 0, 0]), Some((NodeId(1), 7_000..=7_500))));
    }
}
