//! One value that is read far more often than it is written: at level lease, where a leader answers
//! without asking anybody, and at level sequential, where any replica answers.
//!
//! Reads by lease are linearizable together with the writes. Sequential ones may be old, but never
//! older than what the session has seen or written.

use margay_log::id::Index;

use super::{Actor, Journal, Workload};
use crate::machine::{Level, ResourceId};
use crate::resource::handle::Versioned;
use crate::resource::value::Value;
use crate::sim::Failure;
use crate::sim::client::Desk;
use crate::sim::history::History;
use crate::sim::linearizable::Model;

/// See the module's text.
pub(in crate::sim) struct Leasing {
    /// Read by lease.
    value: Value<Desk>,
    /// The same, read from whatever replica.
    any: Value<Desk>,
    /// The newest version that this session has seen.
    seen: Index,
    /// Of so many things done one is a write.
    writes: u64,
    /// Sessions of the client that had ended then.
    expired: u64,
}

/// What was written and read by lease, and what went backwards.
#[derive(Default)]
pub(in crate::sim) struct Reads {
    history: History<Register>,
    backwards: Vec<String>,
    /// The value, once somebody has opened it.
    id: Option<ResourceId>,
    /// See [`Leasing::writes`]; once somebody has decided.
    writes: Option<u64>,
}

#[derive(Clone, Debug)]
pub(in crate::sim) enum Op {
    Get,
    Set(u64),
}

/// The reply is what a read finds.
#[derive(Default)]
pub(in crate::sim) struct Register;

impl Model for Register {
    type State = Option<u64>;
    type Op = Op;
    type Reply = Option<u64>;

    fn init(&self) -> Option<u64> {
        None
    }

    fn step(&self, state: &Option<u64>, op: &Op) -> (Option<u64>, Option<u64>) {
        match *op {
            Op::Get => (*state, *state),
            Op::Set(value) => (Some(value), None),
        }
    }
}

impl Journal for Reads {
    fn judge(&mut self) -> Result<u64, Failure> {
        if let Some(backwards) = self.backwards.first() {
            let property = "a session's reads do not go backwards";
            return Err(Failure::new(property, backwards.clone()));
        }
        self.history.judge("reads by lease")
    }
}

impl Workload for Leasing {
    type Journal = Reads;
    const READS: bool = true;

    async fn open(actor: &mut Actor<Reads>) -> Leasing {
        let mut known = None;
        // Where nobody else has opened it, and nobody is left who would, it does so in peace.
        while actor.only_reads && known.is_none() && !actor.desk.closing() {
            actor.pause(10_000).await;
            actor.note(|reads| known = reads.id);
        }
        let value = match known {
            Some(id) => Value::new(actor.desk.clone(), id),
            None => actor.open(|desk| Value::open(desk, "leased")).await,
        };
        // Where hardly anything is written, even who has not heard of the leader for a while can be
        // elected.
        let (drawn, mut writes) = (if actor.rng.chance(1, 2) { 100 } else { 4 }, 0);
        actor.note(|reads| {
            reads.id = Some(value.id());
            writes = *reads.writes.get_or_insert(drawn);
        });
        let any = value.clone().with_level(Level::Sequential);
        let value = value.with_level(Level::Lease);
        Leasing { value, any, seen: Index::ZERO, writes, expired: actor.desk.expired() }
    }

    async fn act(&mut self, actor: &mut Actor<Reads>) {
        let write = actor.rng.chance(1, self.writes) && !actor.only_reads;
        match actor.rng.below(10) {
            _ if write => {
                let (value, invoked) = (actor.fresh(), actor.now());
                let set = self.value.set(&value.to_le_bytes()).await;
                self.saw(actor, set.as_ref().ok().copied());
                actor
                    .record(invoked, Op::Set(value), set.map(|_| None), |reads| &mut reads.history);
            }
            0 => {
                let got = self.any.get().await;
                let Some(Some((_, found))) = actor.outcome(got) else { return };
                self.check(actor, found.map_or(Index::ZERO, |found| found.version));
            }
            _ => {
                let invoked = actor.now();
                let got = self.value.get().await;
                self.saw(actor, got.as_ref().ok().and_then(version));
                actor.record(invoked, Op::Get, got.map(number), |reads| &mut reads.history);
            }
        }
        actor.pause(20_000).await;
    }

    async fn look(&mut self, actor: &mut Actor<Reads>) {
        loop {
            let invoked = actor.now();
            let Ok(found) = self.value.get().await else { continue };
            return actor.record(invoked, Op::Get, Ok(number(found)), |reads| &mut reads.history);
        }
    }
}

impl Leasing {
    /// The session has seen this version.
    fn saw(&mut self, actor: &Actor<Reads>, version: Option<Index>) {
        if let Some(version) = version {
            self.seen = self.seen.max(version);
            self.expired = actor.desk.expired();
        }
    }

    /// A sequential read has found this version.
    fn check(&mut self, actor: &Actor<Reads>, read: Index) {
        let seen = self.seen;
        if read < seen && actor.desk.expired() == self.expired {
            let what = format!("client {}: version {read} after {seen}", actor.id);
            actor.note(|reads| reads.backwards.push(what));
        }
        self.saw(actor, Some(read));
    }
}

fn version(found: &Option<Versioned>) -> Option<Index> {
    found.as_ref().map(|found| found.version)
}

/// A value as the number it was written as.
fn number(found: Option<Versioned>) -> Option<u64> {
    found.and_then(|found| found.value.try_into().ok()).map(u64::from_le_bytes)
}
