//! What a key of a map and a counter do by themselves, for [`check`](super::linearizable::check):
//! in simulation, and for what clients of real nodes have seen.

use super::linearizable::Model;

/// A key by itself. Replies are the value there was before.
#[derive(Clone, Copy, Default, Debug)]
pub struct Key;

/// An operation on one key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyOp {
    /// Reads it.
    Get,
    /// Sets it.
    Put(u64),
    /// Sets it where there is none.
    PutIfAbsent(u64),
    /// Removes it.
    Remove,
}

impl Model for Key {
    type State = Option<u64>;
    type Op = KeyOp;
    type Reply = Option<u64>;

    fn init(&self) -> Option<u64> {
        None
    }

    fn step(&self, state: &Option<u64>, op: &KeyOp) -> (Option<u64>, Option<u64>) {
        let after = match *op {
            KeyOp::Get => *state,
            KeyOp::Put(value) => Some(value),
            KeyOp::PutIfAbsent(value) => state.or(Some(value)),
            KeyOp::Remove => None,
        };
        (after, *state)
    }
}

/// A counter by itself. Replies are the value there is afterwards.
#[derive(Clone, Copy, Default, Debug)]
pub struct Sum;

/// An operation on a counter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SumOp {
    /// Reads it.
    Get,
    /// Adds to it.
    Add(i64),
}

impl Model for Sum {
    type State = i64;
    type Op = SumOp;
    type Reply = i64;

    fn init(&self) -> i64 {
        0
    }

    fn step(&self, state: &i64, op: &SumOp) -> (i64, i64) {
        let after = match *op {
            SumOp::Get => *state,
            SumOp::Add(delta) => state + delta,
        };
        (after, after)
    }
}
