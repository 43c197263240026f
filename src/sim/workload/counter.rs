//! One counter that all clients add to and read: an addition that is applied twice, or not at all,
//! shows in every later reply.

use super::{Actor, Journal, Workload};
use crate::resource::counter::Counter;
use crate::sim::Failure;
use crate::sim::client::Desk;
use crate::sim::history::History;
use crate::sim::linearizable::Model;

/// See the module's text.
pub(in crate::sim) struct Adding {
    counter: Counter<Desk>,
}

/// An operation on the counter; the reply is the value there is after it.
#[derive(Clone, Debug)]
pub(in crate::sim) enum Op {
    Get,
    Add(i64),
}

/// The counter by itself.
#[derive(Default)]
pub(in crate::sim) struct Sum;

impl Model for Sum {
    type State = i64;
    type Op = Op;
    type Reply = i64;

    fn init(&self) -> i64 {
        0
    }

    fn step(&self, state: &i64, op: &Op) -> (i64, i64) {
        let after = match *op {
            Op::Get => *state,
            Op::Add(delta) => state + delta,
        };
        (after, after)
    }
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
            (Op::Get, self.counter.get().await)
        } else {
            let delta = 1 + actor.rng.below(9) as i64;
            (Op::Add(delta), self.counter.add_and_get(delta).await)
        };
        actor.record(invoked, op, result, |history| history);
        actor.pause(10_000).await;
    }

    async fn look(&mut self, actor: &mut Actor<History<Sum>>) {
        loop {
            let invoked = actor.now();
            let Ok(found) = self.counter.get().await else { continue };
            return actor.record(invoked, Op::Get, Ok(found), |history| history);
        }
    }
}
