//! A semaphore of three permits. In the time in which the sessions of those that hold some are
//! certainly alive, no more than three may be out.

use std::time::Duration;

use super::{Actor, Journal, Workload};
use crate::resource::semaphore::Semaphore;
use crate::sim::Failure;
use crate::sim::client::Desk;

const PERMITS: u32 = 3;

/// See the module's text.
pub(in crate::sim) struct Sharing {
    semaphore: Semaphore<Desk>,
}

/// A time in which somebody certainly held permits, in virtual microseconds.
#[derive(Clone, Copy, Debug)]
struct Tenure {
    from: u64,
    until: u64,
    count: u64,
}

/// Who held how many when.
#[derive(Default)]
pub(in crate::sim) struct Tenures(Vec<Tenure>);

impl Journal for Tenures {
    fn judge(&mut self) -> Result<u64, Failure> {
        // What ends at a time is gone before what begins then.
        let begins = self.0.iter().map(|tenure| (tenure.from, true, *tenure));
        let ends = self.0.iter().map(|tenure| (tenure.until, false, *tenure));
        let mut changes: Vec<_> = begins.chain(ends).collect();
        changes.sort_by_key(|(at, begins, _)| (*at, *begins));
        let mut out = 0;
        for (_, begins, tenure) in changes {
            match begins {
                true => out += tenure.count,
                false => out -= tenure.count,
            }
            if out > u64::from(PERMITS) {
                let details = format!("{out} of {PERMITS} were out with {tenure:?}");
                return Err(Failure::new("a semaphore grants what it has", details));
            }
        }
        Ok(0)
    }
}

impl Workload for Sharing {
    type Journal = Tenures;

    async fn open(actor: &mut Actor<Tenures>) -> Sharing {
        let open = |desk| Semaphore::open(desk, "semaphore", PERMITS);
        Sharing { semaphore: actor.open(open).await }
    }

    /// Takes one or two, holds them for a while, gives them back.
    async fn act(&mut self, actor: &mut Actor<Tenures>) {
        let sessions = actor.desk.expired();
        let wait = Duration::from_millis(50 + actor.rng.below(2_000));
        let permits = 1 + actor.rng.below(2) as u32;
        let granted = self.semaphore.acquire_within(permits, wait).await;
        let Some(Some((from, Some(held)))) = actor.outcome(granted) else {
            return actor.pause(50_000).await;
        };
        let count = held.count();
        actor.pause(50_000).await;
        let ours = actor.desk.expired() == sessions;
        let until = actor.now().min(actor.desk.safe_until());
        if ours && until > from {
            actor.note(|tenures| tenures.0.push(Tenure { from, until, count }));
        }
        if actor.rng.chance(9, 10) {
            actor.outcome(held.release().await);
        } else {
            drop(held);
        }
    }

    /// What it was is known already.
    async fn look(&mut self, _actor: &mut Actor<Tenures>) {}
}
