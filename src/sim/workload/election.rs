//! An election in which all clients are candidates. In the time in which the leader's session is
//! certainly alive nobody else leads, unless it was taken from it; terms rise.

use std::time::Duration;

use super::{Actor, Journal, Workload, or_refused};
use crate::machine::Code;
use crate::resource::election::Election;
use crate::sim::Failure;
use crate::sim::client::Desk;

/// See the module's text.
pub(in crate::sim) struct Leading {
    election: Election<Desk>,
}

/// A time in which somebody certainly led, in virtual microseconds.
#[derive(Clone, Copy, Debug)]
struct Tenure {
    from: u64,
    until: u64,
    term: u64,
}

/// Who led when.
#[derive(Default)]
pub(in crate::sim) struct Tenures(Vec<Tenure>);

impl Journal for Tenures {
    fn judge(&mut self) -> Result<u64, Failure> {
        self.0.sort_by_key(|tenure| tenure.term);
        for pair in self.0.windows(2) {
            let [before, after] = [pair[0], pair[1]];
            if before.term == after.term || before.until > after.from {
                let details = format!("{before:?} and {after:?}");
                return Err(Failure::new("one leads at a time, and terms rise", details));
            }
        }
        Ok(0)
    }
}

impl Workload for Leading {
    type Journal = Tenures;

    async fn open(actor: &mut Actor<Tenures>) -> Leading {
        Leading { election: actor.open(|desk| Election::open(desk, "election")).await }
    }

    /// Enters, leads for a while, resigns. Now and then puts somebody else in front.
    async fn act(&mut self, actor: &mut Actor<Tenures>) {
        if actor.rng.chance(1, 5) {
            return self.promote(actor).await;
        }
        let sessions = actor.desk.expired();
        let wait = Duration::from_millis(50 + actor.rng.below(2_000));
        let data = actor.id.to_le_bytes();
        let granted = self.election.campaign_within(&data, wait).await;
        let Some(Some((from, Some(lead)))) = actor.outcome(granted) else {
            return actor.pause(50_000).await;
        };
        let term = lead.term();
        actor.pause(50_000).await;
        let ours = actor.desk.expired() == sessions;
        let until = actor.now().min(actor.desk.safe_until());
        if ours && until > from {
            actor.note(|tenures| tenures.0.push(Tenure { from, until, term }));
        }
        if actor.rng.chance(9, 10) {
            actor.outcome(lead.resign().await);
        } else {
            drop(lead);
        }
    }

    /// What it was is known already.
    async fn look(&mut self, _actor: &mut Actor<Tenures>) {}
}

impl Leading {
    async fn promote(&mut self, actor: &mut Actor<Tenures>) {
        let listed = self.election.candidates().await;
        let Some(Some((_, row))) = actor.outcome(listed) else { return };
        if let Some(last) = row.last() {
            let promoted = self.election.promote(last.candidate).await;
            actor.outcome(or_refused(promoted, &[Code::NO_SUCH_CANDIDATE]));
        }
        actor.pause(50_000).await;
    }
}
