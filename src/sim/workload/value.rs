//! A value that all clients swap: by what it was, by its version, or without looking.

use super::{Actor, Journal, Workload};
use crate::resource::handle::{Swap, Versioned};
use crate::resource::value::Value;
use crate::sim::Failure;
use crate::sim::client::Desk;
use crate::sim::history::History;
use crate::sim::linearizable::Model;
use margay_log::id::Index;

/// See the module's text.
pub(in crate::sim) struct Swapping {
    value: Value<Desk>,
    /// What was read or refused last.
    known: Option<Versioned>,
}

/// An operation; the reply is whether it was done and what there was before, where it says so.
#[derive(Clone, Debug)]
pub(in crate::sim) enum Op {
    Get,
    Swap(u64),
    Compare(Option<u64>, u64),
    Delete,
}

/// The value by itself.
#[derive(Default)]
pub(in crate::sim) struct Cell;

impl Model for Cell {
    type State = Option<u64>;
    type Op = Op;
    /// Done, and what was there, where that is told.
    type Reply = (bool, Option<Option<u64>>);

    fn init(&self) -> Option<u64> {
        None
    }

    fn step(&self, state: &Option<u64>, op: &Op) -> (Option<u64>, Self::Reply) {
        match *op {
            Op::Get => (*state, (true, Some(*state))),
            Op::Swap(value) => (Some(value), (true, Some(*state))),
            Op::Compare(expected, value) if expected == *state => (Some(value), (true, None)),
            Op::Compare(..) => (*state, (false, Some(*state))),
            Op::Delete => (None, (state.is_some(), None)),
        }
    }
}

impl Journal for History<Cell> {
    fn judge(&mut self) -> Result<u64, Failure> {
        History::judge(self, "value")
    }
}

impl Workload for Swapping {
    type Journal = History<Cell>;

    async fn open(actor: &mut Actor<History<Cell>>) -> Swapping {
        Swapping { value: actor.open(|desk| Value::open(desk, "value")).await, known: None }
    }

    async fn act(&mut self, actor: &mut Actor<History<Cell>>) {
        let (new, known) = (actor.fresh(), self.known.clone());
        let (written, expected) = (new.to_le_bytes(), known.as_ref().map(number));
        let invoked = actor.now();
        let (op, result) = match actor.rng.below(5) {
            0 => {
                let read = self.value.get().await;
                if let Ok(found) = &read {
                    self.known.clone_from(found);
                }
                (Op::Get, read.map(|found| (true, Some(found.as_ref().map(number)))))
            }
            1 => {
                let swapped = self.value.get_and_set(&written).await;
                (Op::Swap(new), swapped.map(|found| (true, Some(found.as_ref().map(number)))))
            }
            2 => (Op::Delete, self.value.delete().await.map(|was_set| (was_set, None))),
            3 => {
                // Values are written once: the same version is the same value.
                let version = known.as_ref().map_or(Index::ZERO, |known| known.version);
                let swap = self.value.compare_version_and_set(version, &written).await;
                (Op::Compare(expected, new), swap.map(|swap| self.read(swap)))
            }
            _ => {
                let known = known.as_ref().map(|known| &known.value[..]);
                let swap = self.value.compare_and_set(known, &written).await;
                (Op::Compare(expected, new), swap.map(|swap| self.read(swap)))
            }
        };
        actor.record(invoked, op, result, |history| history);
        actor.pause(10_000).await;
    }

    async fn look(&mut self, actor: &mut Actor<History<Cell>>) {
        loop {
            let invoked = actor.now();
            let Ok(found) = self.value.get().await else { continue };
            let reply = (true, Some(found.as_ref().map(number)));
            return actor.record(invoked, Op::Get, Ok(reply), |history| history);
        }
    }
}

impl Swapping {
    fn read(&mut self, swap: Swap<Option<Versioned>>) -> (bool, Option<Option<u64>>) {
        match swap {
            Swap::Done(_) => (true, None),
            Swap::Conflict(found) => {
                self.known = found;
                (false, Some(self.known.as_ref().map(number)))
            }
        }
    }
}

/// A value as the number it was written as.
fn number(found: &Versioned) -> u64 {
    found.value[..].try_into().map_or(u64::MAX, u64::from_le_bytes)
}
