//! Judging what clients saw: each resource's history against its sequential specification.

use super::Failure;
use super::linearizable::{Model, Operation, Verdict, check};
use super::workload::Journal;

/// Steps of one search, at most.
const STEPS: u64 = 400_000;

/// An operation on one key of the map.
#[derive(Clone, Debug)]
pub(super) enum KeyOp {
    Get,
    Put(u64),
    PutIfAbsent(u64),
    Remove,
}

/// The value there was before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum KeyReply {
    Value(Option<u64>),
}

struct Key;

impl Model for Key {
    type State = Option<u64>;
    type Op = KeyOp;
    type Reply = KeyReply;

    fn init(&self) -> Option<u64> {
        None
    }

    fn step(&self, state: &Option<u64>, op: &KeyOp) -> (Option<u64>, KeyReply) {
        let after = match *op {
            KeyOp::Get => *state,
            KeyOp::Put(value) => Some(value),
            KeyOp::PutIfAbsent(value) => state.or(Some(value)),
            KeyOp::Remove => None,
        };
        (after, KeyReply::Value(*state))
    }
}

/// An operation on the counter.
#[derive(Clone, Debug)]
pub(super) enum CounterOp {
    Get,
    Add(i64),
}

/// The value there is after it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct CounterReply(pub i64);

struct Count;

impl Model for Count {
    type State = i64;
    type Op = CounterOp;
    type Reply = CounterReply;

    fn init(&self) -> i64 {
        0
    }

    fn step(&self, state: &i64, op: &CounterOp) -> (i64, CounterReply) {
        let after = match *op {
            CounterOp::Get => *state,
            CounterOp::Add(delta) => state + delta,
        };
        (after, CounterReply(after))
    }
}

/// A time in which somebody certainly held the lock, in virtual microseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tenure {
    pub from: u64,
    pub until: u64,
    pub token: u64,
}

/// Judges a journal. Returns how many searches were given up.
pub(super) fn judge(journal: &mut Journal) -> Result<u64, Failure> {
    let mut given_up = 0;
    for (key, history) in journal.keys.iter().enumerate() {
        given_up += verdict(&Key, history, &format!("map key {key}"))?;
    }
    given_up += verdict(&Count, &journal.counter, "counter")?;
    judge_lock(journal)?;
    Ok(given_up)
}

fn verdict<M: Model>(
    model: &M,
    history: &[Operation<M::Op, M::Reply>],
    what: &str,
) -> Result<u64, Failure>
where
    M::Op: std::fmt::Debug,
    M::Reply: std::fmt::Debug,
{
    match check(model, history, STEPS) {
        Verdict::Linearizable => Ok(0),
        Verdict::Unknown => Ok(1),
        Verdict::Violation => {
            let mut details = String::new();
            let mut sorted: Vec<_> = history.iter().collect();
            sorted.sort_by_key(|operation| operation.invoked);
            for operation in sorted {
                details.push_str(&format!("\n  {operation:?}"));
            }
            Err(Failure::new("histories are linearizable", format!("{what}:{details}")))
        }
    }
}

/// One holder at a time, and tokens rise.
fn judge_lock(journal: &mut Journal) -> Result<(), Failure> {
    journal.tenures.sort_by_key(|tenure| tenure.token);
    for pair in journal.tenures.windows(2) {
        let [before, after] = [pair[0], pair[1]];
        if before.token == after.token || before.until > after.from {
            let details = format!("{before:?} and {after:?}");
            return Err(Failure::new("a lock has one holder, and tokens rise", details));
        }
    }
    Ok(())
}
