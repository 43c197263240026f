//! A read-write lock. In the time in which a writer's session is certainly alive nobody else may
//! hold it, and a writer's token is above those of all before.

use std::time::Duration;

use super::{Actor, Journal, Workload};
use crate::resource::rwlock::RwLock;
use crate::sim::Failure;
use crate::sim::client::Desk;

/// See the module's text.
pub(in crate::sim) struct Reading {
    lock: RwLock<Desk>,
}

/// A time in which somebody certainly held the lock, in virtual microseconds.
#[derive(Clone, Copy, Debug)]
struct Tenure {
    from: u64,
    until: u64,
    token: u64,
    write: bool,
}

/// Who held it when.
#[derive(Default)]
pub(in crate::sim) struct Tenures(Vec<Tenure>);

impl Journal for Tenures {
    fn judge(&mut self) -> Result<u64, Failure> {
        self.0.sort_by_key(|tenure| (tenure.token, tenure.from));
        for (at, writer) in self.0.iter().enumerate().filter(|(_, tenure)| tenure.write) {
            let other = |tenure: &&Tenure| tenure.from < writer.until && writer.from < tenure.until;
            let mut rest = self.0[..at].iter().chain(&self.0[at + 1..]);
            if let Some(other) = rest.find(other) {
                let details = format!("{writer:?} and {other:?}");
                return Err(Failure::new("a writer is alone", details));
            }
            let before = self.0[..at].last();
            if let Some(before) = before.filter(|before| before.from > writer.from) {
                let details = format!("{before:?} and {writer:?}");
                return Err(Failure::new("a writer's token is above those before", details));
            }
        }
        Ok(0)
    }
}

impl Workload for Reading {
    type Journal = Tenures;

    async fn open(actor: &mut Actor<Tenures>) -> Reading {
        Reading { lock: actor.open(|desk| RwLock::open(desk, "rwlock")).await }
    }

    /// Takes the lock one way or the other, holds it for a while, gives it back.
    async fn act(&mut self, actor: &mut Actor<Tenures>) {
        let sessions = actor.desk.expired();
        let wait = Duration::from_millis(50 + actor.rng.below(2_000));
        let granted = match actor.rng.chance(1, 3) {
            true => self.lock.write_within(wait).await,
            false => self.lock.read_within(wait).await,
        };
        let Some(Some((from, Some(guard)))) = actor.outcome(granted) else {
            return actor.pause(50_000).await;
        };
        let (token, write) = (guard.token(), guard.is_writer());
        actor.pause(50_000).await;
        let ours = actor.desk.expired() == sessions;
        let until = actor.now().min(actor.desk.safe_until());
        if ours && until > from {
            actor.note(|tenures| tenures.0.push(Tenure { from, until, token, write }));
        }
        if actor.rng.chance(9, 10) {
            actor.outcome(guard.unlock().await);
        } else {
            drop(guard);
        }
    }

    /// What it was is known already.
    async fn look(&mut self, _actor: &mut Actor<Tenures>) {}
}
