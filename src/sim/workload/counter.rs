//! One counter that all clients add to and read: an addition that is applied twice, or not at all,
//! shows in every later reply.

use super::{Actor, Journal, Workload};
use crate::resource::counter::Counter;
use crate::sim::Failure;
use crate::sim::client::Desk;
use crate::sim::history::History;
use crate::sim::models::{Sum, SumOp};

/// See the module's text.
pub(in crate::sim) struct Adding {
    counter: Counter<Desk>,
}

impl Journal for History<Sum> {
    fn judge(&mut self) -> Result<u64, Failure> {
        History::judge(self, "counter")
    }
}

impl Workload for Adding {
    type Journal = History<Sum>;

    async fn open(actor: &mut Actor<History<Sum>>) -> Adding {
        Adding { counter: actor.open(|desk| Counter::open(desk, "counter")).await }
    }

    async fn act(&mut self, actor: &mut Actor<History<Sum>>) {
        let invoked = actor.now();
        let (op, result) = if actor.rng.chance(1, 3) {
            (SumOp::Get, self.counter.get().await)
        } else {
            let delta = 1 + actor.rng.below(9) as i64;
            (SumOp::Add(delta), self.counter.add_and_get(delta).await)
        };
        actor.record(invoked, op, result, |history| history);
        actor.pause(10_000).await;
    }

    async fn look(&mut self, actor: &mut Actor<History<Sum>>) {
        loop {
            let invoked = actor.now();
            let Ok(found) = self.counter.get().await else { continue };
            return actor.record(invoked, SumOp::Get, Ok(found), |history| history);
        }
    }
}
