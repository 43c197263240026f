//! What simulated clients do, and what they remember of it.
//!
//! Every operation goes into a journal with the times of its invocation and reply. The journals are
//! judged afterwards by `history`. Values are unique, so that what was read says who wrote it.

use std::sync::{Arc, Mutex, PoisonError};

use margay_log::rng::Rng;

use super::client::Desk;
use super::history::{CounterOp, CounterReply, KeyOp, KeyReply, Tenure};
use super::linearizable::Operation;
use crate::machine::Outcome;
use crate::resource::Failure;
use crate::resource::counter::Counter;
use crate::resource::handle::Swap;
use crate::resource::lock::Lock;
use crate::resource::map::Map;

/// Keys of the map that all clients share.
pub(super) const KEYS: u64 = 4;

/// What all clients did.
#[derive(Debug, Default)]
pub(super) struct Journal {
    pub keys: Vec<Vec<Operation<KeyOp, KeyReply>>>,
    pub counter: Vec<Operation<CounterOp, CounterReply>>,
    pub tenures: Vec<Tenure>,
    pub operations: u64,
    pub unknown: u64,
}

/// Shared between the clients and the judge.
pub(super) type SharedJournal = Arc<Mutex<Journal>>;

/// One client's program.
pub(super) struct Worker {
    pub desk: Desk,
    pub rng: Rng,
    pub id: u64,
    pub journal: SharedJournal,
    pub written: u64,
}

impl Worker {
    /// Works until it is told to come to an end.
    pub(super) async fn run(mut self) {
        let map = self.open(|desk| Map::open(desk, "map")).await;
        let counter = self.open(|desk| Counter::open(desk, "counter")).await;
        let lock = self.open(|desk| Lock::open(desk, "lock")).await;
        while !self.desk.closing() {
            match self.rng.below(10) {
                0..=5 => self.touch_key(&map).await,
                6..=7 => self.touch_counter(&counter).await,
                8 => self.touch_lock(&lock).await,
                _ => self.pause().await,
            }
        }
        self.look_once_more(&map, &counter).await;
    }

    /// Opens a resource, however often it takes.
    async fn open<H>(&mut self, open: impl Fn(Desk) -> crate::resource::Reply<H>) -> H {
        loop {
            if let Ok(handle) = open(self.desk.clone()).await {
                return handle;
            }
            self.pause().await;
        }
    }

    async fn pause(&mut self) {
        let until = self.desk.now() + self.rng.below(50_000);
        self.desk.sleep_until(until).await;
    }

    fn fresh(&mut self) -> u64 {
        self.written += 1;
        self.id << 32 | self.written
    }

    async fn touch_key(&mut self, map: &Map<Desk>) {
        let key = self.rng.below(KEYS);
        let name = key.to_le_bytes();
        let invoked = self.desk.now();
        let (op, result) = match self.rng.below(4) {
            0 => {
                let read = map.get(&name).await;
                (KeyOp::Get, read.map(|found| KeyReply::Value(number(found))))
            }
            1 => {
                let removed = map.get_and_remove(&name).await;
                (KeyOp::Remove, removed.map(|found| KeyReply::Value(number(found))))
            }
            2 => {
                let value = self.fresh();
                let put = map.put_if_absent(&name, &value.to_le_bytes()).await;
                let reply = put.map(|swap| match swap {
                    Swap::Done(_) => KeyReply::Value(None),
                    Swap::Conflict(found) => KeyReply::Value(number(found)),
                });
                (KeyOp::PutIfAbsent(value), reply)
            }
            _ => {
                let value = self.fresh();
                let put = map.get_and_put(&name, &value.to_le_bytes()).await;
                (KeyOp::Put(value), put.map(|found| KeyReply::Value(number(found))))
            }
        };
        let replied = self.outcome(result);
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        journal.keys.resize_with(KEYS as usize, Vec::new);
        if let Some(replied) = replied {
            journal.keys[key as usize].push(Operation { invoked, replied, op });
        }
    }

    async fn touch_counter(&mut self, counter: &Counter<Desk>) {
        let invoked = self.desk.now();
        let (op, result) = if self.rng.chance(1, 3) {
            (CounterOp::Get, counter.get().await)
        } else {
            let delta = 1 + self.rng.below(9) as i64;
            (CounterOp::Add(delta), counter.add_and_get(delta).await)
        };
        let replied = self.outcome(result.map(CounterReply));
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(replied) = replied {
            journal.counter.push(Operation { invoked, replied, op });
        }
    }

    /// Takes the lock, holds it for a while, gives it back; remembers from when to when it was
    /// certainly ours.
    async fn touch_lock(&mut self, lock: &Lock<Desk>) {
        let sessions = self.desk.expired();
        let wait = std::time::Duration::from_millis(50 + self.rng.below(2_000));
        let granted = lock.lock_within(wait).await;
        self.count(granted.is_err());
        let Ok(Some(guard)) = granted else { return };
        let from = self.desk.now();
        let token = guard.token();
        self.pause().await;
        let now = self.desk.now();
        // What was held ended no later than the session's safe time, or with the session.
        let ours = self.desk.expired() == sessions;
        let until = now.min(self.desk.safe_until());
        if ours && until > from {
            let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
            journal.tenures.push(Tenure { from, until, token });
        }
        if self.rng.chance(9, 10) {
            let given = guard.unlock().await;
            self.count(given.is_err());
        } else {
            drop(guard);
        }
    }

    /// Reads everything once more, until the answer comes: what was acknowledged must be there.
    async fn look_once_more(&mut self, map: &Map<Desk>, counter: &Counter<Desk>) {
        for key in 0..KEYS {
            loop {
                let invoked = self.desk.now();
                let Ok(found) = map.get(&key.to_le_bytes()).await else { continue };
                let replied = Some((self.desk.now(), KeyReply::Value(number(found))));
                let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
                journal.keys.resize_with(KEYS as usize, Vec::new);
                let op = KeyOp::Get;
                journal.keys[key as usize].push(Operation { invoked, replied, op });
                break;
            }
        }
        loop {
            let invoked = self.desk.now();
            let Ok(found) = counter.get().await else { continue };
            let replied = Some((self.desk.now(), CounterReply(found)));
            let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
            journal.counter.push(Operation { invoked, replied, op: CounterOp::Get });
            break;
        }
    }

    /// What the history says of an operation: a reply, none that ever came, or that it never was.
    fn outcome<R>(&mut self, result: Result<R, Failure>) -> Option<Option<(u64, R)>> {
        self.count(result.is_err());
        match result {
            Ok(reply) => Some(Some((self.desk.now(), reply))),
            Err(failure) if failure.outcome() == Outcome::NotApplied => None,
            Err(_) => Some(None),
        }
    }

    fn count(&mut self, unknown: bool) {
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        journal.operations += 1;
        journal.unknown += u64::from(unknown);
    }
}

/// A value as the number it was written as.
fn number(found: Option<crate::resource::handle::Versioned>) -> Option<u64> {
    found.and_then(|found| found.value.try_into().ok()).map(u64::from_le_bytes)
}
