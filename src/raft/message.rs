//! The vocabulary of the core: what a node is told, what it must do, and what nodes say to each
//! other.
//!
//! All of it speaks of positions. Bytes are the replica's business; how a message looks on the wire
//! is `wire::peer`'s.

use margay_log::id::{EntryId, Index, Micros, NodeId, Term, Ticket};

use super::Configuration;

/// Number of a confirming round of one leader: rises with every round it starts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Round(pub u64);

/// A linearizable read (or anything else that needs the leader confirmed) under way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct ReadId(pub u64);

/// From node to node. `term` is the sender's, except in a pre-vote, where it is the term it would
/// stand for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// The sender's term.
    pub term: Term,
    /// What is said.
    pub body: Body,
}

/// See Figure 2 of the Raft paper; pre-vote is thesis §9.6.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    /// Would you vote for me?
    PreVote {
        /// The end of the candidate's log.
        last: EntryId,
    },
    /// Answer to `PreVote`. A granted one carries the asked-for term, a refused one the sender's
    /// own.
    PreVoteReply {
        /// Whether the vote would be granted.
        granted: bool,
    },
    /// Vote for me.
    Vote {
        /// The end of the candidate's log.
        last: EntryId,
        /// The leader itself asked the candidate to stand: those who hear it vote all the same.
        handed_over: bool,
    },
    /// Answer to `Vote`.
    VoteReply {
        /// Whether the vote is granted.
        granted: bool,
    },
    /// Append at most one batch behind `prev`; without a batch a heartbeat or probe.
    Append {
        /// What the log must hold before the batch.
        prev: EntryId,
        /// The end of the batch that travels with this message, if one does. Its term and length
        /// are those of one sealed batch; it begins at `prev.index + 1`.
        batch: Option<EntryId>,
        /// The leader's commit index.
        commit: Index,
        /// The latest round the leader has begun.
        round: Round,
    },
    /// The log equals the leader's up to `matched`, and that part is durable here.
    AppendAck {
        /// End of the matching durable prefix.
        matched: Index,
        /// The highest round seen.
        round: Round,
    },
    /// The log does not hold `prev`; or, in a higher term than the append's, this node cannot
    /// follow its sender, and only the term counts.
    AppendReject {
        /// `prev.index` of the refused append.
        prev: Index,
        /// Where the leader should try next: the follower's own last entry at or before `prev`
        /// whose term is not above `prev.term`. The end of a batch. A hint, never a match.
        hint: EntryId,
        /// The highest round seen.
        round: Round,
    },
    /// Stand for election at once (thesis §3.10).
    TimeoutNow,
}

/// What a node is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// Time has passed; nothing else happened. Due at [`super::Raft::deadline`].
    Tick,
    /// A message from a member. The replica has checked who sent it.
    Message {
        /// The sender.
        from: NodeId,
        /// What it said.
        message: Message,
        /// What the first entry of the batch that came with it says, if that is a configuration.
        configuration: Option<Configuration>,
    },
    /// The leader has sealed a batch of `entries` behind its last entry. Only a leader of the
    /// current term may be told so, and not while it hands over ([`super::Raft::may_propose`]).
    Appended {
        /// Number of entries, at least 1.
        entries: u32,
        /// What the first of them says, if it is a configuration. One that
        /// [`super::Raft::check_change`] allows, or the end of a change that
        /// [`super::Raft::change_ends`] asks for.
        configuration: Option<Configuration>,
    },
    /// The own log is durable up to `index`: contiguous, as the log stands now. An `Accept` that
    /// truncated has lowered it in the core already; an index below what the core knows is ignored.
    Durable {
        /// End of the durable prefix.
        index: Index,
    },
    /// An [`Output::Persist`] is durable.
    Persisted {
        /// The one that is.
        ticket: Ticket,
    },
    /// Answer to [`Output::Replicate`]: batches up to `last` (`bytes` in all) were handed to the
    /// network. `last == after` where the data is not in memory: the replica is fetching it and
    /// will say `Readable`.
    Sent {
        /// The follower.
        to: NodeId,
        /// End of the last batch sent.
        last: Index,
        /// Size of what was sent.
        bytes: u64,
    },
    /// What `to` lacks is now in memory. One too many does no harm.
    Readable {
        /// The follower.
        to: NodeId,
    },
    /// The connection to `peer` broke: what was in flight may be lost.
    Unreachable {
        /// The follower.
        peer: NodeId,
    },
    /// The log begins behind `base` from now on: a batch end of it, committed and durable.
    Compacted {
        /// What it begins behind.
        base: EntryId,
    },
    /// A snapshot up to `end` is durable here and takes the place of what the log held up to
    /// there; if the log did not hold `end`, of all of it. A node whose term is not above this
    /// node's had found `end` committed.
    Installed {
        /// The last entry it contains.
        end: EntryId,
        /// The configuration in force there, and the index of its entry.
        configuration: (Index, Configuration),
    },
    /// A batch that could not be read when the log was opened is back, and its first entry is this
    /// configuration. It takes its place among those that are known.
    Found {
        /// The index of its entry.
        index: Index,
        /// What it says.
        configuration: Configuration,
    },
    /// Confirm that this node is still leader, and tell the commit index that a read must see.
    Read {
        /// Names the read in its answer.
        id: ReadId,
    },
    /// Hand leadership over, to a voter. Ends with one [`Output::Transferred`], unless the same
    /// transfer is under way already.
    Transfer {
        /// Who is to lead.
        to: NodeId,
    },
}

/// What a node must do, in order. `Send` and `Replicate` may be lost; nothing else may.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Make term and vote durable, then say `Persisted`. No message of a term leaves before its
    /// term is durable: the core holds them back itself.
    Persist {
        /// Names it in `Persisted`.
        ticket: Ticket,
        /// The current term.
        term: Term,
        /// Whom this node voted for in it.
        vote: Option<NodeId>,
    },
    /// Send a message.
    Send {
        /// The receiver.
        to: NodeId,
        /// What to say.
        message: Message,
    },
    /// Send batches that follow `after`, one `Append` each, at most `budget` bytes beyond the
    /// first, and answer `Sent` in the same step.
    Replicate {
        /// The follower.
        to: NodeId,
        /// The entry before the first batch to send; always the end of a batch of this log.
        after: EntryId,
        /// Window left, in bytes. At least one batch may always be sent.
        budget: u64,
        /// The leader's term.
        term: Term,
        /// The leader's commit index.
        commit: Index,
        /// The latest round.
        round: Round,
    },
    /// The follower lacks what the log no longer holds: bring it a snapshot. Said again with every
    /// heartbeat for as long as that is so.
    NeedsSnapshot {
        /// The follower.
        to: NodeId,
    },
    /// Take the batch that came with the message into the log, in place of everything behind
    /// `prev`. Comes only in answer to that message, and only if the log does not hold the batch.
    Accept {
        /// The entry before it.
        prev: EntryId,
        /// Its end.
        last: EntryId,
    },
    /// Everything up to `index`, the end of a batch, is committed. It may be ahead of the own disk.
    Commit {
        /// The commit index.
        index: Index,
    },
    /// The read may be served once `index` is applied.
    ReadReady {
        /// The read.
        id: ReadId,
        /// What it must see.
        index: Index,
    },
    /// This node is not (or no longer known to be) leader: the read must be asked elsewhere.
    ReadRefused {
        /// The read.
        id: ReadId,
    },
    /// A transfer is over, or was never begun.
    Transferred {
        /// Who was to lead.
        to: NodeId,
        /// How it ended.
        end: TransferEnd,
    },
    /// What this leader says contradicts what is committed here, or what it said before: a majority
    /// has lost what it had called durable, or the peer is broken. Nothing more is taken from it in
    /// this term, nor answered.
    Contradicted {
        /// The leader.
        by: NodeId,
    },
    /// Role, term or known leader changed. A new leader must append a batch with a no-op before
    /// anything else; one that leads no longer must drop its open batch before the next output.
    RoleChanged {
        /// The new role.
        role: RoleKind,
        /// The term.
        term: Term,
        /// The leader of the term, where known.
        leader: Option<NodeId>,
    },
}

/// How handing leadership over ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransferEnd {
    /// This node leads no longer; who does, an election tells. In all likelihood the target.
    Over,
    /// It did not lead.
    NotLeader,
    /// The target leads already.
    Leads,
    /// The target has no vote, or is not a member, or leaves.
    NotVoter,
    /// The target has not been heard for the shortest election time-out.
    Silent,
    /// The target needs a snapshot first.
    Behind,
    /// The target did not come up to the leader's log, or did not stand, within the longest
    /// election time-out. This node leads on; the target may still stand.
    TimedOut,
    /// Somebody else is to lead, as was asked for later.
    Replaced,
    /// This node is to lead on, and has told another to stand: that is not to be taken back.
    TooLate,
}

/// What a node is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RoleKind {
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks whether it would be elected, without raising its term.
    PreCandidate,
    /// Stands for election.
    Candidate,
    /// Leads.
    Leader,
}

/// A member as its leader sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerStatus {
    /// The member.
    pub id: NodeId,
    /// Its disk holds the leader's log up to here.
    pub matched: Index,
    /// When it last answered; when this node became leader, if it has not.
    pub heard: Micros,
    /// The log is being streamed to it: the end of what it has in common is known.
    pub replicating: bool,
}

/// How a node begins: what it found on its disk.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Restored {
    /// Durable term. May be behind the log's last: they are written side by side.
    pub term: Term,
    /// Durable vote of that term.
    pub vote: Option<NodeId>,
    /// (term, its first index) for each term in the log, rising.
    pub terms: Vec<(Term, Index)>,
    /// The last entry of the log; all of it is durable.
    pub last: EntryId,
    /// The snapshot the log begins behind; zero without one. Everything up to it is committed.
    pub snapshot: EntryId,
    /// What is known to be committed; counts where it is behind `snapshot`.
    pub commit: Index,
    /// The configurations, each with its index, rising: the one as of the snapshot, and those of
    /// the log behind it.
    pub configurations: Vec<(Index, Configuration)>,
}

impl Restored {
    /// A node that has nothing, of a group that these voters found.
    #[must_use]
    pub fn founding(voters: Vec<NodeId>) -> Restored {
        let founding = Configuration::new(voters, Vec::new(), Vec::new());
        Restored { configurations: vec![(Index::ZERO, founding)], ..Restored::default() }
    }
}

/// Why a configuration may not be appended now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ChangeRefused {
    /// This node does not lead.
    NotLeader,
    /// This leader has not committed an entry of its own term.
    NotReady,
    /// Another change has not ended, or leadership is being handed over.
    UnderWay,
    /// A new voter would hold up every commit.
    NotCaughtUp {
        /// Which.
        node: NodeId,
        /// Entries it lacks, about.
        behind: u64,
    },
    /// A majority of the new voters has not been heard lately.
    NoQuorum {
        /// Who has not.
        silent: Vec<NodeId>,
    },
}

/// Bytes sent to a follower and not yet acknowledged, at most: what a fast disk writes in 4 ms.
pub const WINDOW_BYTES: u64 = 8 << 20;

/// Timing and bounds. Times on the caller's monotonic clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// This node.
    pub id: NodeId,
    /// A leader with nothing to send says so this often. Default 100 ms.
    pub heartbeat: Micros,
    /// Shortest time without a leader before an election. Default 400 ms; at least 3 heartbeats.
    pub election_min: Micros,
    /// Longest. Default 800 ms; at least `election_min` + 1 ms.
    pub election_max: Micros,
    /// Seeds the election time-outs.
    pub seed: u64,
    /// Bytes sent to a follower and not yet acknowledged, at most, but for one batch; headers
    /// count. Default [`WINDOW_BYTES`].
    pub window_bytes: u64,
    /// Whether a leader answers reads by its lease. Off, they cost a round. Others keep their
    /// promises to a leader either way. Default on.
    pub lease: bool,
    /// How much shorter a lease is than `election_min`, because clocks do not run equally fast.
    /// Default 40 ms: a tenth, where clocks that are disciplined differ by a thousandth.
    pub drift: Micros,
    /// Check what must hold after every step, where that is compiled in. Default: in debug builds.
    pub checked: bool,
}

impl Config {
    /// The defaults, for node `id`.
    #[must_use]
    pub fn new(id: NodeId, seed: u64) -> Config {
        Config {
            id,
            heartbeat: Micros::from_millis(100),
            election_min: Micros::from_millis(400),
            election_max: Micros::from_millis(800),
            seed,
            window_bytes: WINDOW_BYTES,
            lease: true,
            drift: Micros::from_millis(40),
            checked: cfg!(debug_assertions),
        }
    }
}
