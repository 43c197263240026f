//! Reads by lease (thesis §6.4.1): a leader that has heard a quorum a moment ago answers from its
//! state without asking again.
//!
//! ```text
//!    leader    ──●── round r begins ────────● a quorum has answered r ────────┤ lease ends
//!                │                                                        drift │
//!    a follower  └─────► ● hears it: no vote for election_min of its clock ─────┴──►
//! ```
//!
//! Who answers a round has heard this leader after the round began, and ignores candidates for
//! `election_min` from then on, also if it restarts or learns of a higher term (`election.rs`). So
//! nobody else is elected before `election_min` after the *begin* of a round that a quorum has
//! answered — of both majorities in a joint configuration — if clocks run equally fast. They do
//! not, quite: the lease is shorter by `drift`.
//!
//! What it rests on, and what a round does not need: clocks that differ in speed by less than
//! `drift` in `election_min`, and that go on while a machine sleeps (CLOCK_BOOTTIME). A hypervisor
//! that stops a guest's clock with the guest breaks it. So it is a level of its own, and can be
//! switched off.
//!
//! * Only after the own no-op has committed: before, a leader does not know what is.
//! * Not in a term in which this leader has asked somebody to stand: that candidate is not ignored.

use std::collections::VecDeque;

use margay_log::breaks;
use margay_log::id::{Index, Micros};

use super::message::Round;
use super::{Leader, Raft, Role};

/// What a leader remembers of its rounds.
#[derive(Debug, Default)]
pub(super) struct Lease {
    /// Rounds not yet answered by a quorum, and when they began; not all of them.
    begun: VecDeque<(Round, Micros)>,
    /// When the latest round began that a quorum has answered.
    from: Option<Micros>,
}

/// Rounds remembered, at most: some heartbeats' worth.
const ROUNDS_MAX: usize = 16;

impl Leader {
    /// Begins a round: all appends from now on carry its number.
    pub(super) fn begin_round(&mut self, now: Micros) {
        self.round = Round(self.round.0 + 1);
        let lease = &mut self.lease;
        if lease.begun.len() < ROUNDS_MAX {
            lease.begun.push_back((self.round, now));
        }
    }
}

impl Raft {
    /// Takes in which rounds a quorum has answered, and begins one with every heartbeat.
    pub(super) fn advance_lease(&mut self) {
        if !self.config.lease {
            return;
        }
        let (now, heartbeat) = (self.now, self.config.heartbeat);
        let Role::Leader(leader) = &self.role else { return };
        let Some(confirmed) = self.agreed(leader, Round(u64::MAX), |peer| peer.round) else {
            return;
        };
        let Role::Leader(leader) = &mut self.role else { return };
        let Leader { lease, .. } = leader;
        while let Some(&(round, began)) = lease.begun.front() {
            let stale = began.after(self.config.election_min) <= now;
            if round <= confirmed {
                let answered = breaks::LEASE_FROM_ANSWER.on();
                lease.from = Some(if answered { now } else { began });
            } else if !stale {
                break;
            }
            lease.begun.pop_front();
        }
        let newest = lease.begun.back().map(|&(_, began)| began).or(lease.from);
        if newest.is_none_or(|began| began.after(heartbeat) <= now) {
            leader.begin_round(now);
        }
    }

    /// What a read must see that is asked now, if this node certainly leads now; else it needs a
    /// round.
    #[must_use]
    pub fn lease(&self, now: Micros) -> Option<Index> {
        let Role::Leader(leader) = &self.role else { return None };
        let handed_over = leader.handed_over && !breaks::LEASE_KEPT_ON_TRANSFER.on();
        let knows = self.may_serve() || breaks::LEASE_BEFORE_OWN_COMMIT.on();
        if !self.config.lease || handed_over || !knows {
            return None;
        }
        let alone = self.agreed(leader, true, |_| false) == Some(true);
        let length = Micros(self.config.election_min.0 - self.config.drift.0);
        let holds = alone || leader.lease.from.is_some_and(|from| now < from.after(length));
        holds.then_some(self.commit_index)
    }
}
