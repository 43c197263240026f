//! Transfers between two counters, each one transaction: what is in both together never changes,
//! and none is overdrawn.
//!
//! Both are read in one moment by a transaction that changes nothing and tells what it saw.

use super::{Actor, Journal, Workload};
use crate::resource::counter::{Counter, GetV1};
use crate::resource::transaction::{Expect, Outcome, Transaction};
use crate::resource::{Failure as Refused, Reply};
use crate::sim::Failure;
use crate::sim::client::Desk;
use crate::sim::history::History;
use crate::sim::linearizable::Model;

/// See the module's text.
pub(in crate::sim) struct Transfers {
    left: Counter<Desk>,
    right: Counter<Desk>,
}

/// An operation on both; `true` where the transaction was committed.
#[derive(Clone, Debug)]
pub(in crate::sim) enum Op {
    /// Puts so much into the left one, and takes as much out of nowhere: the beginning.
    Fill(i64),
    /// From left to right, or back where it is negative, if there is as much.
    Move(i64),
    /// Whether this is what is in them.
    Are(i64, i64),
}

/// The two counters by themselves.
#[derive(Default)]
pub(in crate::sim) struct Both;

impl Model for Both {
    type State = (i64, i64);
    type Op = Op;
    type Reply = bool;

    fn init(&self) -> (i64, i64) {
        (0, 0)
    }

    fn step(&self, &(left, right): &(i64, i64), op: &Op) -> ((i64, i64), bool) {
        match *op {
            Op::Fill(more) => ((left + more, right), true),
            Op::Move(amount) if left < amount || right < -amount => ((left, right), false),
            Op::Move(amount) => ((left - amount, right + amount), true),
            Op::Are(l, r) => ((left, right), (l, r) == (left, right)),
        }
    }
}

impl Journal for History<Both> {
    fn judge(&mut self) -> Result<u64, Failure> {
        History::judge(self, "transfers")
    }
}

impl Transfers {
    fn ask(&self, op: &Op) -> Reply<Outcome> {
        let (left, right) = (&self.left, &self.right);
        let transaction = Transaction::new();
        match *op {
            Op::Fill(more) => transaction.add(left, more),
            Op::Move(amount) => {
                let enough = transaction.at_least(left, amount).at_least(right, -amount);
                enough.add(left, -amount).add(right, amount)
            }
            Op::Are(l, r) => {
                let expect = |number: i64| Expect::is(&number.to_le_bytes());
                let both = transaction.check(left.handle(), &GetV1 {}, expect(l));
                both.check(right.handle(), &GetV1 {}, expect(r))
            }
        }
        .commit()
    }
}

fn was_done(result: Result<Outcome, Refused>) -> Result<bool, Refused> {
    result.map(|outcome| matches!(outcome, Outcome::Committed(_)))
}

impl Workload for Transfers {
    type Journal = History<Both>;

    async fn open(actor: &mut Actor<History<Both>>) -> Transfers {
        let left = actor.open(|desk| Counter::open(desk, "left")).await;
        let right = actor.open(|desk| Counter::open(desk, "right")).await;
        Transfers { left, right }
    }

    async fn act(&mut self, actor: &mut Actor<History<Both>>) {
        let invoked = actor.now();
        let op = match actor.rng.below(8) {
            0 => Op::Fill(1 + actor.rng.below(5) as i64),
            1 | 2 => Op::Are(actor.rng.below(6) as i64, actor.rng.below(6) as i64),
            _ => Op::Move(actor.rng.below(9) as i64 - 4),
        };
        let result = was_done(self.ask(&op).await);
        actor.record(invoked, op, result, |history| history);
        actor.pause(20_000).await;
    }

    async fn look(&mut self, actor: &mut Actor<History<Both>>) {
        loop {
            // What is read one after the other may never have been at one time: the transaction
            // says whether it was, and its word is judged either way.
            let (Ok(left), Ok(right)) = (self.left.get().await, self.right.get().await) else {
                continue;
            };
            let (invoked, op) = (actor.now(), Op::Are(left, right));
            let Ok(same) = was_done(self.ask(&op).await) else { continue };
            actor.record(invoked, op, Ok(same), |history| history);
            return;
        }
    }
}
