//! The Raft core of one group on one node: it decides about *positions*.
//!
//! [`Raft::step`] takes one [`Input`] and appends [`Output`]s that must be carried out in order.
//! The core never sees an entry, a byte, a disk, a socket or a clock: the log is known to it as
//! (term → first index), time is an argument, chance is a seed. The same inputs give the same
//! outputs, so a simulator that replays a seed runs the very code that ships.
//!
//! # The protocol, and where it is written down
//!
//! *Paper*: Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm" (extended
//! version). *Thesis*: Ongaro, "Consensus: Bridging Theory and Practice". One file per
//! conversation; who asks and who answers are on the same page.
//!
//! | conversation | file | source |
//! |---|---|---|
//! | terms: which message counts at all | here | paper §5.1, thesis §3.3 |
//! | term and vote: what waits until they are durable | `persist.rs` | paper fig. 2, thesis §3.8 |
//! | time-outs, (pre-)vote, check-quorum | `election.rs` | paper §5.2; thesis §9.6, §6.2, §4.2.3 |
//! | append, acknowledge, refuse, commit | `replication.rs` | paper §5.3, §5.4.2; thesis §10.2 |
//! | linearizable reads | `read.rs` | thesis §6.4 |
//! | reads by lease | `lease.rs` | thesis §6.4.1 |
//! | handing leadership over | `transfer.rs` | thesis §3.10 |
//! | members | `membership.rs` | thesis §4 |
//!
//! `progress.rs` is what a leader knows of a peer, `quorum.rs` counts, `terms.rs` is the log,
//! `invariants.rs` is what must hold after every step.
//!
//! # What is durable when
//!
//! * **Term and vote.** Whatever a node says, it says in its current term; so all messages of a
//!   step that changed term or vote wait until that is durable ([`Output::Persist`],
//!   [`Input::Persisted`]). A candidate's own vote counts from then on, too: a leader's term is
//!   always durable. What waits is replaced by newer messages of its kind and dropped with its
//!   role: messages may be lost.
//! * **Entries.** An [`Body::AppendAck`] names `min(durable, verified)`: what is on this disk *and*
//!   was found equal to the leader's log in this term. Appends are answered when their batch is
//!   durable, heartbeats at once. The leader's own disk is one more acknowledgement (thesis
//!   §10.2.1): it sends before it has written, and may commit what it does not yet hold durably
//!   itself.
//!
//! # Deviations from the paper
//!
//! 1. *Batches.* An append carries at most one batch, sealed once by the leader of its term.
//!    Conflicts, truncation and commit positions are ends of batches; a follower that lacks the end
//!    of a batch it is offered holds none of it.
//! 2. *Pre-vote, check-quorum and stickiness are always on*, and belong together: a node that hears
//!    a leader ignores candidates (so a returning node deposes nobody), and a leader that hears no
//!    quorum steps down (so that stickiness ends). Candidates that the leader itself asked to stand
//!    say so and are heard.
//! 3. *A refused append brings a hint* (thesis p. 21 leaves it open): a follower's last entry that
//!    may be common. Searching takes a message per differing term.
//! 4. *A committed prefix is beyond dispute.* An append that would change it comes from a broken
//!    peer, or from a majority whose disks went back in time. It is dropped, as is anything else no
//!    correct peer would send, and this node takes nothing more from that leader: answers would
//!    only have it sent again, as fast as the two can talk. Nothing a peer says can panic this
//!    code; assertions cover what this node computed or was told by its own log.
//! 5. *Terms do not leap.* A message whose term is more than [`TERM_LEAP_MAX`] above ours is
//!    dropped. Terms rise by one per election, at most a few a second; without the bound one forged
//!    vote request of the highest term would leave the group without terms to elect anybody in. At
//!    the last term nobody campaigns.
//! 6. *A leader's commit index is not stored.* After a restart it is learned again from a leader.

mod election;
mod invariants;
mod lease;
mod membership;
pub mod message;
mod persist;
mod progress;
pub mod quorum;
mod read;
mod replication;
mod terms;
mod transfer;

use std::mem;

use margay_log::breaks;
use margay_log::id::{EntryId, Index, Micros, NodeId, Term, Ticket};

pub use membership::Configuration;

use election::SplitMix;
use lease::Lease;
use membership::Configurations;
use message::{
    Body, Config, Input, Message, Output, PeerStatus, Restored, RoleKind, Round, TransferEnd,
};
use progress::Progress;
use read::Reads;
use terms::TermRanges;
use transfer::Transfer;

/// How far a message's term may be above ours. At one election per millisecond, seven weeks' worth.
pub const TERM_LEAP_MAX: u64 = 1 << 32;

/// One group's Raft on one node.
///
/// A host calls [`step`](Raft::step) with whatever happens, carries out the outputs in order, and
/// calls it with [`Input::Tick`] when [`deadline`](Raft::deadline) has come. Inputs that are
/// waiting go before a tick: a node that was paused must not take its own silence for its peers'.
///
/// ```
/// use margay::raft::{Raft, message::{Config, Input, Output, Restored, RoleKind}};
/// use margay_log::id::{Index, Micros, NodeId};
///
/// // A group of one: it elects itself, and commits what is on its own disk.
/// let restored = Restored::founding(vec![NodeId(1)]);
/// let mut raft = Raft::new(Config::new(NodeId(1), 42), restored, Micros(0));
/// let mut out = Vec::new();
/// raft.step(Micros(0), Input::Tick, &mut out);
/// let Some(Output::Persist { ticket, .. }) = out.pop() else { panic!("a vote must be durable") };
/// raft.step(Micros(90), Input::Persisted { ticket }, &mut out);
/// assert_eq!(raft.role(), RoleKind::Leader);
///
/// out.clear();
/// raft.step(Micros(90), Input::Appended { entries: 1, configuration: None }, &mut out);
/// raft.step(Micros(190), Input::Durable { index: Index(1) }, &mut out);
/// assert_eq!(out, [Output::Commit { index: Index(1) }]);
/// assert!(raft.may_serve());
/// ```
#[derive(Debug)]
pub struct Raft {
    config: Config,
    configurations: Configurations,
    /// The latest time told.
    now: Micros,
    random: SplitMix,

    /// The current term, and whom this node voted for in it.
    term: Term,
    vote: Option<NodeId>,
    /// The leader of the term, once it was heard: there is no second one, even if this node gave
    /// up hope of the first.
    term_leader: Option<NodeId>,
    /// What this node once acknowledged may be lacking: it gives no votes and asks for none.
    abstains: bool,
    /// Term or vote changed in this step; a `Persist` is owed.
    persist_owed: bool,
    /// The last `Persist` asked for, and the last that is durable.
    persist_issued: Ticket,
    persist_durable: Ticket,
    /// Messages that wait for it, one per receiver and kind.
    held: Vec<(NodeId, Message)>,

    terms: TermRanges,
    durable_index: Index,
    commit_index: Index,

    role: Role,
    /// When a node that is not leader stands for election.
    election_due: Micros,
    /// Candidates are ignored until then: a leader was heard, or may have been before a restart.
    loyal_until: Micros,
    /// What the last `RoleChanged` said.
    announced: (RoleKind, Term, Option<NodeId>),

    #[cfg(any(debug_assertions, feature = "sim"))]
    observed: invariants::Observed,
}

/// What a node is, with the state that only exists then.
#[derive(Debug)]
enum Role {
    Follower(Follower),
    /// Holds who would vote for this node.
    PreCandidate(Vec<NodeId>),
    Candidate(Candidate),
    Leader(Leader),
}

/// Lives until the term, the leader or the role changes.
#[derive(Debug, Default)]
struct Follower {
    leader: Option<NodeId>,
    /// The log equals the leader's up to here: an append of this leader in this term showed it.
    verified: Index,
    /// It contradicts what is committed here.
    contradicted: bool,
    /// The round of its latest append.
    round: Round,
    /// What the last acknowledgement said, and when.
    acked: Index,
    acked_round: Round,
    acked_at: Micros,
}

#[derive(Debug)]
struct Candidate {
    /// Who has voted for it.
    granted: Vec<NodeId>,
    /// The leader that asked it to stand, if one did.
    asked_by: Option<NodeId>,
}

#[derive(Debug)]
struct Leader {
    /// The first entry of its term, its no-op.
    first: Index,
    /// Every member but this node.
    peers: Vec<Progress>,
    /// Until then members that were removed may still be told.
    told_until: Micros,
    /// The latest round begun.
    round: Round,
    reads: Reads,
    lease: Lease,
    /// The leader before, if it asked this node to stand.
    asked_by: Option<NodeId>,
    transfer: Option<Transfer>,
    /// Somebody was asked to stand in place of this leader.
    handed_over: bool,
}

impl Raft {
    /// A node as its disk left it: a follower that knows no leader. The only voter of a group
    /// stands for election at once, anybody else after a time-out.
    ///
    /// # Panics
    /// If `config` breaks the bounds given there, or `restored` contradicts itself.
    #[must_use]
    pub fn new(config: Config, restored: Restored, now: Micros) -> Raft {
        let beats = Micros(config.heartbeat.0.saturating_mul(3));
        assert!(config.heartbeat > Micros(0) && config.election_min >= beats);
        assert!(config.election_max >= config.election_min.after(Micros::from_millis(1)));
        assert!(config.window_bytes > 0 && config.drift < config.election_min);
        let Restored { term, vote, terms, last, snapshot, commit, configurations } = restored;
        assert!(commit <= last.index, "what is committed is in the log");
        let configurations = Configurations::new(configurations);
        let mut random = SplitMix::new(config.seed, config.id);
        let current = configurations.current();
        let alone = current.voters() == [config.id] && !current.is_joint();
        let time_out = random.between(config.election_min, config.election_max);
        // Entries may become durable before the term they were received in: the two are written
        // side by side. Nothing was said in that term then, so no vote of it is lost.
        let behind = term < last.term;
        let fresh = term.max(last.term) == Term::ZERO;
        let (loyal, forgets) =
            (now.after(config.election_min), breaks::LEASE_FORGOTTEN_AT_RESTART.on());
        Raft {
            config,
            configurations,
            now,
            random,
            term: term.max(last.term),
            vote: if behind { None } else { vote },
            term_leader: None,
            abstains: false,
            persist_owed: behind,
            persist_issued: Ticket(0),
            persist_durable: Ticket(0),
            held: Vec::new(),
            terms: TermRanges::new(snapshot, terms, last),
            durable_index: last.index,
            commit_index: snapshot.index.max(commit),
            role: Role::Follower(Follower::default()),
            election_due: if alone { now } else { now.after(time_out) },
            // In term 0 nobody can have been heard.
            loyal_until: if fresh || forgets { Micros(0) } else { loyal },
            announced: (RoleKind::Follower, term.max(last.term), None),
            #[cfg(any(debug_assertions, feature = "sim"))]
            observed: invariants::Observed::default(),
        }
    }

    /// Advances the protocol by one input. `now` never runs backwards; an earlier one is taken for
    /// the latest.
    ///
    /// # Panics
    /// If the host breaks the contract of an [`Input`] that speaks of its own log or disk. No
    /// message from a peer can do that.
    pub fn step(&mut self, now: Micros, input: Input, out: &mut Vec<Output>) {
        self.now = self.now.max(now);
        match input {
            Input::Tick => self.on_tick(out),
            Input::Message { from, message, configuration } => {
                self.on_message(from, message, configuration, out);
            }
            Input::Appended { entries, configuration } => self.on_appended(entries, configuration),
            Input::Durable { index } => self.on_durable(index, out),
            Input::Persisted { ticket } => self.on_persisted(ticket, out),
            Input::Sent { to, last, bytes } => self.on_sent(to, last, bytes),
            Input::Readable { to } => self.on_readable(to),
            Input::Unreachable { peer } => self.on_unreachable(peer),
            Input::Compacted { base } => self.on_compacted(base),
            Input::Found { index, configuration } => self.on_found(index, configuration, out),
            Input::Installed { end, configuration } => {
                self.on_installed(end, configuration, out);
            }
            Input::Read { id } => self.on_read(id, out),
            Input::Transfer { to } => self.on_transfer(to, out),
        }
        // Handlers of a leader only note what they learned. What follows from it is decided once,
        // here.
        self.advance_commit(out);
        self.advance_reads(out);
        self.advance_transfer(out);
        self.advance_lease();
        self.pump(out);
        self.let_go(out);
        self.persist(out);
        #[cfg(any(debug_assertions, feature = "sim"))]
        if self.config.checked {
            self.check_invariants();
        }
    }

    /// When [`Input::Tick`] is due; `None` while nothing can come of it.
    #[must_use]
    pub fn deadline(&self) -> Option<Micros> {
        match &self.role {
            Role::Leader(_) | Role::PreCandidate(_) if self.abstains => Some(self.now),
            Role::Leader(leader) => {
                let heartbeat = |peer: &Progress| peer.sent.after(self.config.heartbeat);
                let heartbeats = leader.peers.iter().map(heartbeat);
                let transfer = leader.transfer.map(|it| it.deadline(self.config.heartbeat));
                heartbeats.chain(self.quorum_deadline(leader)).chain(transfer).min()
            }
            _ => self.stand_deadline(),
        }
    }

    /// What this node is.
    #[must_use]
    pub fn role(&self) -> RoleKind {
        match self.role {
            Role::Follower(_) => RoleKind::Follower,
            Role::PreCandidate(_) => RoleKind::PreCandidate,
            Role::Candidate(_) => RoleKind::Candidate,
            Role::Leader(_) => RoleKind::Leader,
        }
    }

    /// The current term.
    #[must_use]
    pub fn term(&self) -> Term {
        self.term
    }

    /// The leader of the current term, where known; this node, if it leads.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        match &self.role {
            Role::Follower(follower) => follower.leader,
            Role::PreCandidate(_) | Role::Candidate(_) => None,
            Role::Leader(_) => Some(self.config.id),
        }
    }

    /// The last entry of the log, durable or not.
    #[must_use]
    pub fn last(&self) -> EntryId {
        self.terms.last()
    }

    /// Everything up to here is committed. Starts at the snapshot.
    #[must_use]
    pub fn commit(&self) -> Index {
        self.commit_index
    }

    /// The log is durable up to here.
    #[must_use]
    pub fn durable(&self) -> Index {
        self.durable_index
    }

    /// Whether this node gives no votes and asks for none, because what it once acknowledged may be
    /// lacking. Who leads or would gives up with the next tick, which is due then. Everything else
    /// it does as always.
    pub fn abstain(&mut self, abstains: bool) {
        self.abstains = abstains;
    }

    /// What this leader knows of the other members.
    pub fn peers(&self) -> impl Iterator<Item = PeerStatus> + '_ {
        let peers = match &self.role {
            Role::Leader(leader) => &leader.peers[..],
            _ => &[],
        };
        peers.iter().map(Progress::status)
    }

    /// Whether [`Input::Installed`] may say that a snapshot up to `end` is here: nothing that this
    /// node knows contradicts it.
    #[must_use]
    pub fn may_install(&self, end: EntryId) -> bool {
        let unknown = end.index > self.commit_index.max(self.verified());
        let follows = match &self.role {
            Role::Leader(_) => false,
            Role::Follower(follower) => !follower.contradicted,
            _ => true,
        };
        end.term <= self.term && (self.terms.holds(end) || (unknown && follows))
    }

    /// Whether the log holds this very entry, or begins behind it.
    #[must_use]
    pub fn holds(&self, entry: EntryId) -> bool {
        self.terms.holds(entry)
    }

    /// Whether this node leads and has committed its own no-op: only then does it know all that was
    /// ever committed (paper §8), and may answer for the group.
    #[must_use]
    pub fn may_serve(&self) -> bool {
        matches!(&self.role, Role::Leader(leader) if self.commit_index >= leader.first)
    }

    /// The one place where a message is weighed by its term, and where a term is taken over from a
    /// message. Behind it every message but a pre-vote is of the current term.
    fn on_message(
        &mut self,
        from: NodeId,
        message: Message,
        configuration: Option<Configuration>,
        out: &mut Vec<Output>,
    ) {
        let Message { term, body } = message;
        if from == self.config.id || term.0.saturating_sub(self.term.0) > TERM_LEAP_MAX {
            return;
        }
        // A pre-vote, asked or granted, is about a term that nobody is in (thesis §9.6).
        let asked = matches!(body, Body::PreVote { .. } | Body::PreVoteReply { granted: true });
        if !asked && term < self.term {
            return self.on_stale(from, &body, out);
        }
        if !asked && term > self.term {
            // Thesis §4.2.3: whoever hears a leader does not even learn of the candidate's term.
            if matches!(body, Body::Vote { handed_over: false, .. }) && self.hears_leader() {
                return;
            }
            self.enter_term(term, None);
            let leader = matches!(body, Body::Append { .. }).then_some(from);
            self.become_follower(leader, out);
        }
        match body {
            Body::PreVote { last } => self.on_pre_vote(from, term, last, out),
            Body::PreVoteReply { granted } => self.on_pre_vote_reply(from, term, granted, out),
            Body::Vote { last, handed_over } => self.on_vote(from, last, handed_over, out),
            Body::VoteReply { granted } => self.on_vote_reply(from, granted, out),
            Body::Append { prev, batch, commit, round } => {
                let append = replication::Append { prev, batch, configuration, commit, round };
                self.on_append(from, append, out);
            }
            Body::AppendAck { matched, round } => self.on_append_ack(from, matched, round),
            Body::AppendReject { prev, hint, round } => {
                self.on_append_reject(from, prev, hint, round);
            }
            Body::TimeoutNow => self.on_timeout_now(from, out),
        }
    }

    /// Tells the sender of a stale request which term it is. A leader must learn it even though it
    /// deposes it: a node in a higher term could never follow it, and with others like it there
    /// would be no quorum left (etcd #8501).
    fn on_stale(&mut self, from: NodeId, body: &Body, out: &mut Vec<Output>) {
        match body {
            Body::Vote { .. } => self.send(from, Body::VoteReply { granted: false }, out),
            Body::Append { prev, .. } => {
                let (prev, hint) = (prev.index, EntryId::ZERO);
                self.send(from, Body::AppendReject { prev, hint, round: Round(0) }, out);
            }
            _ => {}
        }
    }

    /// Moves to a higher term, or votes in the present one.
    fn enter_term(&mut self, term: Term, vote: Option<NodeId>) {
        assert!(term > self.term || (term == self.term && self.vote.is_none()));
        if term > self.term {
            self.term_leader = None;
        }
        self.term = term;
        self.vote = vote;
        self.persist_owed = true;
    }

    /// The only way to change role. What the old one had promised to answer is refused, what it had
    /// not yet said is dropped.
    fn become_role(&mut self, role: Role, out: &mut Vec<Output>) {
        self.held.clear();
        if let Role::Leader(leader) = mem::replace(&mut self.role, role) {
            leader.reads.refuse(out);
            if let Some(to) = leader.transfer.map(|transfer| transfer.to) {
                out.push(Output::Transferred { to, end: TransferEnd::Over });
            }
        }
        self.term_leader = self.term_leader.or(self.leader());
        self.announce(out);
    }

    fn announce(&mut self, out: &mut Vec<Output>) {
        let (role, term, leader) = (self.role(), self.term, self.leader());
        if self.announced != (role, term, leader) {
            self.announced = (role, term, leader);
            out.push(Output::RoleChanged { role, term, leader });
        }
    }
}
