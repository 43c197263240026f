//! Keys of a map that all clients write and read: each key is a register with a history.

use margay_log::id::Index;

use super::{Actor, Journal, Workload};
use crate::machine::{Level, ResourceId};
use crate::resource::handle::{Swap, Versioned};
use crate::resource::map::Map;
use crate::sim::Failure;
use crate::sim::client::Desk;
use crate::sim::history::History;
use crate::sim::models::{Key, KeyOp};

/// Keys that all clients share.
const KEYS: u64 = 4;

/// See the module's text.
pub(in crate::sim) struct Keys {
    map: Map<Desk>,
    /// The same, read from whatever replica.
    any: Map<Desk>,
    /// The newest version of each key that this client has seen.
    seen: [Index; KEYS as usize],
}

/// A history for each key.
#[derive(Default)]
pub(in crate::sim) struct Histories {
    keys: [History<Key>; KEYS as usize],
    backwards: Vec<String>,
    /// The map, once somebody has opened it.
    id: Option<ResourceId>,
}

impl Journal for Histories {
    fn judge(&mut self) -> Result<u64, Failure> {
        if let Some(backwards) = self.backwards.first() {
            let property = "a session's reads do not go backwards";
            return Err(Failure::new(property, backwards.clone()));
        }
        let judged = self.keys.iter().enumerate();
        judged.map(|(key, history)| history.judge(&format!("map key {key}"))).sum()
    }
}

impl Workload for Keys {
    type Journal = Histories;
    const READS: bool = true;

    async fn open(actor: &mut Actor<Histories>) -> Keys {
        let mut known = None;
        // Where nobody else has opened it, and nobody is left who would, it does so in peace.
        while actor.only_reads && known.is_none() && !actor.desk.closing() {
            actor.pause(10_000).await;
            actor.note(|journal| known = journal.id);
        }
        let map = match known {
            Some(id) => Map::new(actor.desk.clone(), id),
            None => actor.open(|desk| Map::open(desk, "map")).await,
        };
        actor.note(|journal| journal.id = Some(map.id()));
        Keys { any: map.clone().with_level(Level::Sequential), map, seen: Default::default() }
    }

    async fn act(&mut self, actor: &mut Actor<Histories>) {
        let key = actor.rng.below(KEYS);
        if actor.rng.chance(1, 6) {
            return self.read_any(actor, key as usize).await;
        }
        let (name, value) = (key.to_le_bytes(), actor.fresh());
        let written = value.to_le_bytes();
        let invoked = actor.now();
        let what = if actor.only_reads { 0 } else { actor.rng.below(4) };
        let (op, result) = match what {
            0 => {
                let got = self.map.get(&name).await;
                if let Ok(Some(found)) = &got {
                    self.seen[key as usize] = found.version;
                }
                (KeyOp::Get, got.map(number))
            }
            1 => (KeyOp::Remove, self.map.get_and_remove(&name).await.map(number)),
            2 => {
                let put = self.map.put_if_absent(&name, &written).await;
                let before = put.map(|swap| match swap {
                    Swap::Done(_) => None,
                    Swap::Conflict(found) => number(found),
                });
                (KeyOp::PutIfAbsent(value), before)
            }
            _ => (KeyOp::Put(value), self.map.get_and_put(&name, &written).await.map(number)),
        };
        actor.record(invoked, op, result, |journal| &mut journal.keys[key as usize]);
    }

    async fn look(&mut self, actor: &mut Actor<Histories>) {
        for key in 0..KEYS {
            loop {
                let invoked = actor.now();
                let Ok(found) = self.map.get(&key.to_le_bytes()).await else { continue };
                actor.record(invoked, KeyOp::Get, Ok(number(found)), |journal: &mut Histories| {
                    &mut journal.keys[key as usize]
                });
                break;
            }
        }
    }
}

impl Keys {
    /// A read that may be old, but no older than what this client has seen.
    async fn read_any(&mut self, actor: &mut Actor<Histories>, key: usize) {
        let got = self.any.get(&(key as u64).to_le_bytes()).await;
        let Some(Some((_, Some(found)))) = actor.outcome(got) else { return };
        let (seen, read) = (self.seen[key], found.version);
        if read < seen {
            let what = format!("key {key}: version {read} after {seen}");
            actor.note(|journal| journal.backwards.push(what));
        }
        self.seen[key] = read;
    }
}

/// A value as the number it was written as.
fn number(found: Option<Versioned>) -> Option<u64> {
    found.and_then(|found| found.value.try_into().ok()).map(u64::from_le_bytes)
}
