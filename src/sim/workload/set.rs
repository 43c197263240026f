//! A small set and a small multimap that all clients change, as wholes: what one operation removes
//! another does not find.

use super::{Actor, Journal, Workload};
use crate::resource::Failure as Refused;
use crate::resource::multimap::Multimap;
use crate::resource::set::Set;
use crate::sim::Failure;
use crate::sim::client::Desk;
use crate::sim::history::History;
use crate::sim::linearizable::Model;

/// See the module's text.
pub(in crate::sim) struct Gathering {
    set: Set<Desk>,
    map: Multimap<Desk>,
}

/// An operation on members numbered from 0 to 3; of the multimap, key and value make one number.
#[derive(Clone, Debug)]
pub(in crate::sim) enum Op {
    Add(u8),
    Remove(u8),
    /// All members of a mask.
    RemoveAll(u8),
    Has(u8),
    Size,
    Poll,
}

/// Members as a mask of bits.
#[derive(Default)]
pub(in crate::sim) struct Members;

impl Model for Members {
    type State = u8;
    type Op = Op;
    /// How many were added, removed or found; for a poll the member and one, or 0.
    type Reply = u64;

    fn init(&self) -> u8 {
        0
    }

    fn step(&self, state: &u8, op: &Op) -> (u8, u64) {
        let count = |mask: u8| u64::from(mask.count_ones());
        match *op {
            Op::Add(member) => (state | 1 << member, count(!state & 1 << member)),
            Op::Remove(member) => (state & !(1 << member), count(state & 1 << member)),
            Op::RemoveAll(mask) => (state & !mask, count(state & mask)),
            Op::Has(member) => (*state, count(state & 1 << member)),
            Op::Size => (*state, count(*state)),
            Op::Poll if *state == 0 => (0, 0),
            Op::Poll => (state & (state - 1), u64::from(state.trailing_zeros()) + 1),
        }
    }
}

/// Of the set, and of the multimap.
#[derive(Default)]
pub(in crate::sim) struct Histories {
    set: History<Members>,
    map: History<Members>,
}

impl Journal for Histories {
    fn judge(&mut self) -> Result<u64, Failure> {
        Ok(self.set.judge("set")? + self.map.judge("multimap")?)
    }
}

impl Gathering {
    async fn of_set(&self, op: &Op) -> Result<u64, Refused> {
        let set = &self.set;
        match *op {
            Op::Add(member) => set.add(&[member]).await.map(u64::from),
            Op::Remove(member) => set.remove(&[member]).await.map(u64::from),
            Op::RemoveAll(mask) => {
                let stay: Vec<[u8; 1]> =
                    (0..4).filter(|n| mask & 1 << n == 0).map(|n| [n]).collect();
                set.retain(&stay).await
            }
            Op::Has(member) => set.contains(&[member]).await.map(u64::from),
            Op::Size => set.size().await,
            Op::Poll => {
                let polled = set.poll_first().await?;
                Ok(polled.map_or(0, |member| u64::from(member[0]) + 1))
            }
        }
    }

    /// A member is a key of one bit and a value of one bit.
    async fn of_map(&self, op: &Op) -> Result<u64, Refused> {
        let map = &self.map;
        let (key, value) = (|member: u8| [member >> 1], |member: u8| [member & 1]);
        match *op {
            Op::Add(member) => map.put(&key(member), &value(member)).await.map(u64::from),
            Op::Remove(member) => map.remove(&key(member), &value(member)).await.map(u64::from),
            Op::RemoveAll(0b0011) => map.remove_key(&[0]).await,
            Op::RemoveAll(0b1100) => map.remove_key(&[1]).await,
            Op::RemoveAll(mask) => map.remove_value(&[u8::from(mask == 0b1010)]).await,
            Op::Has(member) => map.contains(&key(member), &value(member)).await.map(u64::from),
            Op::Size | Op::Poll => map.size().await,
        }
    }
}

impl Workload for Gathering {
    type Journal = Histories;

    async fn open(actor: &mut Actor<Histories>) -> Gathering {
        let set = actor.open(|desk| Set::open(desk, "set")).await;
        Gathering { set, map: actor.open(|desk| Multimap::open(desk, "multimap")).await }
    }

    async fn act(&mut self, actor: &mut Actor<Histories>) {
        let member = actor.rng.below(4) as u8;
        // One key, or one value, of the multimap.
        let mask = [0b0011, 0b1100, 0b0101, 0b1010][actor.rng.below(4) as usize];
        let op = match actor.rng.below(12) {
            0..=4 => Op::Add(member),
            5..=6 => Op::Remove(member),
            7 => Op::RemoveAll(mask),
            8..=9 => Op::Has(member),
            10 => Op::Size,
            _ => Op::Poll,
        };
        let invoked = actor.now();
        if actor.rng.chance(1, 2) {
            let result = self.of_set(&op).await;
            actor.record(invoked, op, result, |journal| &mut journal.set);
        } else {
            let op = if matches!(op, Op::Poll) { Op::Size } else { op };
            let result = self.of_map(&op).await;
            actor.record(invoked, op, result, |journal| &mut journal.map);
        }
        actor.pause(10_000).await;
    }

    async fn look(&mut self, actor: &mut Actor<Histories>) {
        for member in 0..4 {
            loop {
                let (invoked, op) = (actor.now(), Op::Has(member));
                let Ok(found) = self.of_set(&op).await else { continue };
                break actor.record(invoked, op, Ok(found), |journal| &mut journal.set);
            }
            loop {
                let (invoked, op) = (actor.now(), Op::Has(member));
                let Ok(found) = self.of_map(&op).await else { continue };
                break actor.record(invoked, op, Ok(found), |journal| &mut journal.map);
            }
        }
    }
}
