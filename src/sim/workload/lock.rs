//! A lock that all clients take in turn. In the time in which a client's session is certainly
//! alive nobody else may hold it, and its tokens rise.

use std::time::Duration;

use super::{Actor, Journal, Workload};
use crate::resource::lock::Lock;
use crate::sim::Failure;
use crate::sim::client::Desk;

/// See the module's text.
pub(in crate::sim) struct Holding {
    lock: Lock<Desk>,
}

/// A time in which somebody certainly held the lock, in virtual microseconds.
#[derive(Clone, Copy, Debug)]
struct Tenure {
    from: u64,
    until: u64,
    token: u64,
}

/// Who held it when.
#[derive(Default)]
pub(in crate::sim) struct Tenures(Vec<Tenure>);

impl Journal for Tenures {
    fn judge(&mut self) -> Result<u64, Failure> {
        self.0.sort_by_key(|tenure| tenure.token);
        for pair in self.0.windows(2) {
            let [before, after] = [pair[0], pair[1]];
            if before.token == after.token || before.until > after.from {
                let details = format!("{before:?} and {after:?}");
                return Err(Failure::new("a lock has one holder, and tokens rise", details));
            }
        }
        Ok(0)
    }
}

impl Workload for Holding {
    type Journal = Tenures;

    async fn open(actor: &mut Actor<Tenures>) -> Holding {
        Holding { lock: actor.open(|desk| Lock::open(desk, "lock")).await }
    }

    /// Takes the lock, holds it for a while, gives it back; remembers from when to when it was
    /// certainly ours.
    async fn act(&mut self, actor: &mut Actor<Tenures>) {
        let sessions = actor.desk.expired();
        let wait = Duration::from_millis(50 + actor.rng.below(2_000));
        let granted = self.lock.lock_within(wait).await;
        let Some(Some((from, Some(guard)))) = actor.outcome(granted) else {
            return actor.pause(50_000).await;
        };
        let token = guard.token();
        // Mostly short, so that it changes hands; sometimes so long that a session may end.
        let hold = if actor.rng.chance(1, 6) { 5_000_000 } else { 50_000 };
        actor.pause(hold).await;
        // What was held ended no later than the session's safe time, or with the session.
        let ours = actor.desk.expired() == sessions;
        let until = actor.now().min(actor.desk.safe_until());
        if ours && until > from {
            actor.note(|tenures| tenures.0.push(Tenure { from, until, token }));
        }
        if actor.rng.chance(9, 10) {
            actor.outcome(guard.unlock().await);
        } else {
            drop(guard);
        }
        actor.pause(50_000).await;
    }

    /// What it was is known already.
    async fn look(&mut self, _actor: &mut Actor<Tenures>) {}
}
