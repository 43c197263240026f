//! Known bugs that can be put back, one at a time, to see whether the simulator notices.
//!
//! Each is one line here and one condition where the bug belongs: `if breaks::ACK_EARLY.on()`.
//! Without the feature `breaks` the condition is the constant `false` and nothing of it is left.
//! With the feature a bug is on only for the thread that switched it on, so simulations of several
//! threads do not disturb each other.
//!
//! Invariant: no bug is on unless [`Break::switch_on`] was called, which only the simulator does.

/// A known bug.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Break {
    /// As `margay sim --break NAME` takes it.
    pub name: &'static str,
    /// What is wrong, in one line.
    pub what: &'static str,
}

macro_rules! breaks {
    ($($constant:ident $name:literal $what:literal;)*) => {
        $(#[doc = $what] pub const $constant: Break = Break { name: $name, what: $what };)*
        /// All there are, in the order of the table.
        pub const ALL: &[Break] = &[$($constant),*];
    };
}

breaks! {
    VOTE_NOT_PERSISTED "vote-not-persisted" "term and vote are never written to disk";
    VOTE_TWICE "vote-twice" "a node votes for everybody who asks in a term";
    VOTE_FOR_SHORTER_LOG "vote-for-shorter-log" "a node votes for a log that is behind its own";
    HALF_IS_A_QUORUM "half-is-a-quorum" "less than a majority decides";
    COMMIT_OLD_TERM "commit-old-term" "entries of earlier terms commit by counting (figure 8)";
    ACK_BEFORE_DURABLE "ack-before-durable" "a follower acknowledges what it has only received";
    ACK_UNVERIFIED "ack-unverified" "a follower acknowledges all it has, verified or not";
    MATCH_BY_INDEX "match-by-index" "a follower compares where its log ends, not what is there";
    GAP_ACCEPTED "gap-accepted" "a follower takes a batch although what precedes it is missing";
    HINT_AS_MATCH "hint-as-match" "a refusal's hint counts as acknowledged";
    LEARNER_COUNTS "learner-counts" "learners count towards a quorum";
    OLD_QUORUM_ONLY "old-quorum-only" "during a change only the old voters count";
    NEW_QUORUM_ONLY "new-quorum-only" "a change of voters is one step, the old ones do not count";
    CHANGE_AT_COMMIT "change-at-commit" "a configuration counts from its commit, not its append on";
    REMOVED_LEADER_COUNTS "removed-leader-counts" "a leader that is removed still counts itself";
    READ_WITHOUT_ROUND "read-without-round" "a leader answers reads without hearing a quorum";
    READ_BEFORE_OWN_COMMIT "read-before-own-commit" "a new leader answers before its no-op commits";
    READ_BY_OLD_ROUND "read-by-old-round" "answers to earlier messages confirm a read";
    READ_GOES_BACK "read-goes-back" "a replica answers from before what the session saw";
    LEASE_KEPT_ON_TRANSFER "lease-kept-on-transfer" "a leader that hands over reads by lease";
    LEASE_FORGOTTEN_AT_RESTART "lease-forgotten-at-restart" "a restart ends a voter's promise";
    LEASE_BROKEN_BY_VOTER "lease-broken-by-voter" "a voter that hears a leader elects another";
    LEASE_FROM_ANSWER "lease-from-answer" "a lease counts from the answer, not from the question";
    LEASE_BEFORE_OWN_COMMIT "lease-before-own-commit" "a new leader reads before its no-op commits";
    KEEP_ALIVE_UNCONFIRMED "keep-alive-unconfirmed" "a deposed leader answers keep-alives";
    NEW_LEADER_EXPIRES_EARLY "new-leader-expires-early" "a new leader gives sessions no full time";
    SAFE_TIME_FROM_RECEIPT "safe-time-from-receipt" "a client counts from the answer, not the send";
    DUPLICATE_APPLIED "duplicate-applied" "a command that is sent again is applied again";
    DUPLICATE_ANSWERED_EMPTY "duplicate-answered-empty" "a command sent again gets an empty answer";
    HASH_ORDER "hash-order" "who is next is chosen in the order of a seeded hash";
    EVENT_LOST "event-lost" "a subscription that resumes begins from now on";
    EVENT_REPEATED "event-repeated" "a subscription that resumes gets its last event again";
    SESSIONS_CUT_IN_SNAPSHOT "sessions-cut-in-snapshot" "a snapshot lacks the last results";
    SNAPSHOT_ABOVE_APPLIED "snapshot-above-applied" "a snapshot claims what is not applied";
    SNAPSHOT_CUTS_TAIL "snapshot-cuts-tail" "a snapshot that is restored drops the log behind it";
    SNAPSHOT_ACKED_EARLY "snapshot-acked-early" "a snapshot counts before the log begins there";
    BATCH_SPLIT "batch-split" "a batch is taken in two halves";
    DURABLE_WITH_HOLES "durable-with-holes" "a finished write counts before those ahead of it";
    ABA_ACK "aba-ack" "the end of a write that was truncated counts for what took its place";
    WRITE_ERROR_IGNORED "write-error-ignored" "a failed write counts as done";
    ONE_SLOT "one-slot" "only one copy of the hard state is read";
    TORN_TAIL_ACCEPTED "torn-tail-accepted" "a batch is recovered without checking its body";
    DAMAGE_CUT_OFF "damage-cut-off" "a log that lacks acknowledged entries is taken for shorter";
    OLD_BATCH_WINS "old-batch-wins" "recovery keeps a batch that a later one had replaced";
    OLD_WRITE_LANDS "old-write-lands" "a write of before the restart lands after it";
    WIPED_NODE_VOTES "wiped-node-votes" "a node whose disk was lost goes on as if it were itself";
}

/// What a file held as another segment counts for the one that it is now. Only the log's own tests
/// put it back: it shows where a write is lost in silence, which the simulator's disks do not do.
pub const OLD_FRAMES_COUNT: Break =
    Break { name: "old-frames-count", what: "old frames of a file used again count" };

impl Break {
    /// The one of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Break> {
        ALL.iter().copied().find(|known| known.name == name)
    }

    /// Whether the bug is in place.
    #[inline]
    #[must_use]
    pub fn on(self) -> bool {
        active() == Some(self)
    }
}

#[cfg(not(feature = "breaks"))]
#[inline]
const fn active() -> Option<Break> {
    None
}

#[cfg(feature = "breaks")]
pub use switch::Switch;
#[cfg(feature = "breaks")]
use switch::active;

#[cfg(feature = "breaks")]
mod switch {
    use std::cell::Cell;

    use super::Break;

    std::thread_local! {
        static ACTIVE: Cell<Option<Break>> = const { Cell::new(None) };
    }

    #[inline]
    pub(super) fn active() -> Option<Break> {
        ACTIVE.get()
    }

    /// Keeps a bug in place on this thread until it is dropped.
    #[derive(Debug)]
    pub struct Switch(Option<Break>);

    impl Break {
        /// Puts the bug in place on this thread.
        #[must_use = "the bug is taken out again when this is dropped"]
        pub fn switch_on(self) -> Switch {
            Switch(ACTIVE.replace(Some(self)))
        }
    }

    impl Drop for Switch {
        fn drop(&mut self) {
            ACTIVE.set(self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        for (at, known) in ALL.iter().enumerate() {
            assert_eq!(ALL.iter().position(|other| other.name == known.name), Some(at));
            assert_eq!(Break::named(known.name), Some(*known));
        }
    }

    #[test]
    fn a_bug_is_off_unless_it_is_switched_on() {
        assert!(!ALL.iter().any(|known| known.on()));
        #[cfg(feature = "breaks")]
        {
            let switch = ALL[0].switch_on();
            assert!(ALL[0].on() && !ALL[1].on());
            drop(switch);
            assert!(!ALL[0].on());
        }
    }
}
