//! What clients saw of one object, and whether it could have been so.

use std::fmt;

use super::Failure;
use super::linearizable::{Model, Operation, Verdict, check};

/// Steps of one search, at most.
const STEPS: u64 = 400_000;

/// Operations on one object that has a sequential specification.
pub(super) struct History<M: Model> {
    operations: Vec<Operation<M::Op, M::Reply>>,
    model: M,
}

impl<M: Model + Default> Default for History<M> {
    fn default() -> History<M> {
        History { operations: Vec::new(), model: M::default() }
    }
}

/// An operation as a history keeps it.
pub(super) fn seen<O, R>(invoked: u64, op: O, replied: Option<(u64, R)>) -> Operation<O, R> {
    Operation { invoked, replied, op }
}

impl<M: Model> History<M> {
    pub(super) fn push(&mut self, operation: Operation<M::Op, M::Reply>) {
        self.operations.push(operation);
    }

    /// Whether it is linearizable; 1 where the search was given up, else 0.
    pub(super) fn judge(&self, what: &str) -> Result<u64, Failure>
    where
        M::Op: fmt::Debug,
        M::Reply: fmt::Debug,
    {
        match check(&self.model, &self.operations, STEPS) {
            Verdict::Linearizable => Ok(0),
            Verdict::Unknown => Ok(1),
            Verdict::Violation => {
                let mut details = String::new();
                let mut sorted: Vec<_> = self.operations.iter().collect();
                sorted.sort_by_key(|operation| operation.invoked);
                for operation in sorted {
                    details.push_str(&format!("\n  {operation:?}"));
                }
                Err(Failure::new("histories are linearizable", format!("{what}:{details}")))
            }
        }
    }
}
