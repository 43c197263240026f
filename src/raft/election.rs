//! Elections: time-outs, pre-vote, vote, and how a leader notices that it leads no longer.
//!
//! ```text
//!               time-out                a quorum would           own vote durable
//!  ┌──────────┐ ───────► ┌──────────────┐ ───────► ┌───────────┐ and a quorum's ► ┌────────┐
//!  │ Follower │          │ PreCandidate │ term + 1 │ Candidate │                  │ Leader │
//!  └──────────┘ ◄─────── └──────────────┘ ◄─────── └───────────┘                  └────────┘
//!       ▲    hears a leader           time-out           │ hears a leader             │
//!       └────────────────────────────────────────────────┴────────────────────────────┘
//!                   whoever sees a higher term; a leader without a quorum for `election_max`
//! ```
//!
//! * A **pre-vote** asks "would you vote for me in the next term?" and changes nothing at either
//!   side (thesis §9.6). Terms rise only when an election can be won, so that a node that was cut
//!   off returns in the term it left.
//! * **Stickiness**: a node that has heard a leader within the shortest time-out ignores candidates
//!   (thesis §4.2.3), whatever else it hears: leases count on it. It ends by itself: when the
//!   leader is not heard, and for the leader by check-quorum (thesis §6.2). A node that restarts
//!   does not know whom it heard, and ignores candidates for as long. Only a candidate that the
//!   leader itself asked to stand is not ignored (`transfer.rs`).
//! * Refusals are not counted. They only matter for the term they bring; an election that cannot be
//!   won ends with the candidate's time-out.

use margay_log::breaks;
use margay_log::id::{EntryId, Micros, NodeId, Term};

use super::lease::Lease;
use super::message::{Body, Output};
use super::progress::Progress;
use super::read::Reads;
use super::{Candidate, Follower, Leader, Raft, Role, Round, quorum};

impl Raft {
    /// Two things happen because time has passed: a leader without a quorum gives up, and so does
    /// who leads or would and has come to abstain; a voter without a leader stands. Heartbeats are
    /// sent by `pump`, which runs after every input.
    pub(super) fn on_tick(&mut self, out: &mut Vec<Output>) {
        if let Role::Leader(leader) = &self.role {
            let is_alone =
                self.quorum_deadline(leader).is_some_and(|deadline| self.now >= deadline);
            if is_alone || self.abstains {
                self.become_follower(None, out);
            }
        } else if self.abstains && matches!(self.role, Role::PreCandidate(_)) {
            self.become_follower(None, out);
        } else if self.now >= self.election_due && self.may_stand() {
            self.pre_campaign(out);
        }
    }

    /// Check-quorum: when a leader gives up, unless a quorum answers. It waits for the longest
    /// time-out: its followers must not find it gone before they would have missed it.
    pub(super) fn quorum_deadline(&self, leader: &Leader) -> Option<Micros> {
        let always = Micros(u64::MAX);
        let heard = self.agreed(leader, always, |peer| peer.heard)?;
        // The only voter hears a quorum as long as it lives.
        (heard < always).then(|| heard.after(self.config.election_max))
    }

    /// What a quorum has reached, where this node itself is at `own`.
    pub(super) fn agreed<T: Ord + Copy>(
        &self,
        leader: &Leader,
        own: T,
        of: impl Fn(&Progress) -> T,
    ) -> Option<T> {
        let configuration = self.configuration();
        if breaks::REMOVED_LEADER_COUNTS.on() && !configuration.is_voter(self.config.id) {
            let counted: Vec<NodeId> = configuration.electors().chain([self.config.id]).collect();
            let of = |id| leader.peers.iter().find(|peer| peer.id == id).map_or(own, &of);
            return quorum::agreed(&counted, of);
        }
        configuration.agreed(|voter| {
            if voter == self.config.id {
                return own;
            }
            let peer = leader.peers.iter().find(|peer| peer.id == voter);
            of(peer.expect("a leader keeps the progress of every member"))
        })
    }

    /// Whether to ignore candidates. A leader does, as long as check-quorum lets it lead.
    pub(super) fn hears_leader(&self) -> bool {
        let loyal = self.now < self.loyal_until && !breaks::LEASE_BROKEN_BY_VOTER.on();
        matches!(self.role, Role::Leader(_)) || loyal
    }

    /// Of `leader`, or of nobody yet. Whatever was verified, acknowledged or granted is forgotten.
    pub(super) fn become_follower(&mut self, leader: Option<NodeId>, out: &mut Vec<Output>) {
        // Others keep their time-out: whoever cannot win must not put off those who wait with it.
        if matches!(self.role, Role::Leader(_)) {
            self.reset_election_timer();
        }
        let follower = Follower { leader, ..Follower::default() };
        self.become_role(Role::Follower(follower), out);
    }

    pub(super) fn reset_election_timer(&mut self) {
        let (min, max) = (self.config.election_min, self.config.election_max);
        self.election_due = self.now.after(self.random.between(min, max));
    }

    /// Asks who would vote for this node in the next term. It would itself; where that is a
    /// majority it stands at once.
    fn pre_campaign(&mut self, out: &mut Vec<Output>) {
        self.reset_election_timer();
        if self.term.next() == self.term {
            return; // No term is left. See deviation 5 in the module above.
        }
        self.become_role(Role::PreCandidate(Vec::new()), out);
        let last = self.terms.last();
        self.send_to_voters(self.term.next(), &Body::PreVote { last }, out);
        self.on_pre_vote_reply(self.config.id, self.term.next(), true, out);
    }

    /// Answers whether this node would vote so, were it asked. Nothing changes: not the term, not
    /// the vote (canonical/raft #196), not the timer.
    pub(super) fn on_pre_vote(
        &mut self,
        from: NodeId,
        term: Term,
        last: EntryId,
        out: &mut Vec<Output>,
    ) {
        // Stale ones are told the term even by those who hear a leader: a node left behind in an
        // old term, or one with a better log than all in a newer one, would else ask for ever (etcd
        // #8243, redpanda #2071).
        if term > self.term && self.hears_leader() {
            return;
        }
        let level = last >= self.terms.last() || breaks::VOTE_FOR_SHORTER_LOG.on();
        if term > self.term && level && !self.abstains {
            self.send_in(term, from, Body::PreVoteReply { granted: true }, out);
        } else {
            self.send(from, Body::PreVoteReply { granted: false }, out);
        }
    }

    /// Counts who would. Not a vote: whoever said so may say it to others, and is asked again.
    pub(super) fn on_pre_vote_reply(
        &mut self,
        from: NodeId,
        term: Term,
        granted: bool,
        out: &mut Vec<Output>,
    ) {
        // The term tells a pre-vote from one asked in an earlier term.
        if !granted || term != self.term.next() {
            return;
        }
        if self.abstains {
            return;
        }
        let Role::PreCandidate(granted) = &mut self.role else { return };
        if !granted.contains(&from) {
            granted.push(from);
        }
        let granted = &*granted;
        if self.configurations.current().agreed(|voter| granted.contains(&voter)) == Some(true) {
            self.campaign(None, out);
        }
    }

    /// Stands for election, because nobody leads or because the leader hands over. The requests and
    /// the own vote wait until term and vote are durable.
    pub(super) fn campaign(&mut self, asked_by: Option<NodeId>, out: &mut Vec<Output>) {
        assert!(self.may_stand());
        self.reset_election_timer();
        if self.term.next() == self.term {
            return;
        }
        self.enter_term(self.term.next(), Some(self.config.id));
        self.become_role(Role::Candidate(Candidate { granted: Vec::new(), asked_by }), out);
        let last = self.terms.last();
        self.send_to_voters(self.term, &Body::Vote { last, handed_over: asked_by.is_some() }, out);
    }

    fn send_to_voters(&mut self, term: Term, body: &Body, out: &mut Vec<Output>) {
        let own = self.config.id;
        let others = self.configuration().electors().filter(|to| *to != own);
        for to in others.collect::<Vec<_>>() {
            self.send_in(term, to, body.clone(), out);
        }
    }

    /// Paper §5.2, §5.4.1: one vote per term, for a log that is not behind ours.
    pub(super) fn on_vote(
        &mut self,
        from: NodeId,
        last: EntryId,
        handed_over: bool,
        out: &mut Vec<Output>,
    ) {
        // Where this very term has a leader, the election is over. One of a higher term did not
        // come this far, unless its leader wanted it.
        let over = if handed_over { self.leader().is_some() } else { self.hears_leader() };
        if over {
            return;
        }
        let free = self.vote.is_none_or(|vote| vote == from) || breaks::VOTE_TWICE.on();
        // The own end counts whether durable or not: at worst a vote is refused too many.
        let level = last >= self.terms.last() || breaks::VOTE_FOR_SHORTER_LOG.on();
        let granted = free && level && !self.abstains;
        if granted {
            if self.vote.is_none() {
                self.enter_term(self.term, Some(from));
            }
            self.reset_election_timer();
        }
        self.send(from, Body::VoteReply { granted }, out);
    }

    /// Counts a vote of the current term. Twice the same one is one (paper §5.2). Before term and
    /// own vote are durable nobody has been asked: such a vote is none.
    pub(super) fn on_vote_reply(&mut self, from: NodeId, granted: bool, out: &mut Vec<Output>) {
        if !granted || !self.is_persisted() {
            return;
        }
        let Role::Candidate(Candidate { granted, asked_by }) = &mut self.role else { return };
        if !granted.contains(&from) {
            granted.push(from);
        }
        let (granted, asked_by) = (&*granted, *asked_by);
        if self.configurations.current().agreed(|voter| granted.contains(&voter)) == Some(true) {
            self.become_leader(asked_by, out);
        }
    }

    /// Only a durable own vote counts: else a restart could vote for somebody else in the same
    /// term.
    pub(super) fn on_own_vote_durable(&mut self, out: &mut Vec<Output>) {
        if matches!(self.role, Role::Candidate(_)) {
            self.on_vote_reply(self.config.id, true, out);
        }
    }

    /// Makes itself known with empty appends, sent by `pump` in this step: they put off the others'
    /// elections and find the ends of the common logs. The no-op that the replica seals now follows
    /// them as soon as they are answered.
    fn become_leader(&mut self, asked_by: Option<NodeId>, out: &mut Vec<Output>) {
        assert!(self.is_persisted() && self.vote == Some(self.config.id));
        let (own, next, now) = (self.config.id, self.terms.last().index.next(), self.now);
        let others = self.configuration().members().filter(|member| *member != own);
        let peers = others.map(|member| Progress::new(member, next, now)).collect();
        let leader = Leader {
            first: next,
            peers,
            told_until: now,
            round: Round(0),
            reads: Reads::default(),
            lease: Lease::default(),
            asked_by,
            transfer: None,
            handed_over: false,
        };
        self.become_role(Role::Leader(leader), out);
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, fast, and good enough to keep time-outs apart.
#[derive(Debug)]
pub(super) struct SplitMix(u64);

impl SplitMix {
    /// Nodes that share a seed still differ.
    pub(super) fn new(seed: u64, node: NodeId) -> SplitMix {
        SplitMix(seed ^ u64::from(node.0).wrapping_mul(0xd1b5_4a32_d192_ed03))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A span from `min` up to, not including, `max`.
    pub(super) fn between(&mut self, min: Micros, max: Micros) -> Micros {
        Micros(min.0 + self.next() % (max.0 - min.0))
    }
}
