//! What clients do, and what they remember of it.
//!
//! Values are unique, so that what was read says who wrote it. Keys change every few seconds, so
//! that each has a history short enough to be judged.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use margay::client::{Client, Error, Group};
use margay::machine::Outcome;
use margay::resource::{Counter, Failure, Lock, Map, Swap, Versioned};
use margay::sim::linearizable::Operation;
use margay::sim::models::{KeyOp, SumOp};
use margay_log::rng::Rng;

use crate::story::Story;
use crate::verdict::Tenure;

/// A key lives so long.
const ERA: Duration = Duration::from_secs(4);
/// Keys of one era.
const KEYS: u64 = 4;
/// An operation is given up after this time.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Sessions end after this silence: some do, while their nodes are cut off.
const SESSION: Duration = Duration::from_secs(3);
/// A time without any answer that is worth a line.
const SILENCE: Duration = Duration::from_secs(2);
/// At the end everything answers within this time.
const FINAL: Duration = Duration::from_secs(30);

/// A history: operations on one key or counter.
pub(crate) type History<O, R> = Vec<Operation<O, R>>;

/// What all clients did.
#[derive(Default)]
pub(crate) struct Journal {
    pub(crate) keys: BTreeMap<String, History<KeyOp, Option<u64>>>,
    pub(crate) counters: BTreeMap<String, History<SumOp, i64>>,
    /// Times in which a client certainly held the lock.
    pub(crate) tenures: Vec<Tenure>,
    pub(crate) operations: u64,
    pub(crate) refused: u64,
    pub(crate) unknown: u64,
    /// The longest time between two answers to anybody, in microseconds.
    pub(crate) outage: u64,
}

/// Clients at work.
pub(crate) struct Clients {
    endpoints: Vec<String>,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Result<Journal, Error>>>,
}

struct Shared {
    began: Instant,
    stop: AtomicBool,
    operations: AtomicU64,
    /// Time of the last answer, and the longest pause before one.
    answered: AtomicU64,
    outage: AtomicU64,
    story: Story,
}

impl Shared {
    fn now(&self) -> u64 {
        self.began.elapsed().as_micros() as u64
    }

    fn answer(&self) {
        let now = self.now();
        let before = self.answered.swap(now, Ordering::Relaxed);
        let silence = now.saturating_sub(before);
        self.outage.fetch_max(silence, Ordering::Relaxed);
        if silence > SILENCE.as_micros() as u64 {
            self.story.note(&format!("clients: answered after {} ms of silence", silence / 1_000));
        }
        self.operations.fetch_add(1, Ordering::Relaxed);
    }
}

struct Worker {
    id: u64,
    rng: Rng,
    shared: Arc<Shared>,
    journal: Journal,
    written: u64,
    map: Map<Group>,
    lock: Lock<Group>,
    client: Client,
    counter: Option<(String, Counter<Group>)>,
}

impl Clients {
    /// Starts `count` clients, each with a thread and a session of its own.
    pub(crate) fn start(
        endpoints: Vec<String>,
        count: u64,
        seed: u64,
        story: Story,
    ) -> io::Result<Clients> {
        let shared = Arc::new(Shared {
            began: Instant::now(),
            stop: AtomicBool::new(false),
            operations: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            outage: AtomicU64::new(0),
            story,
        });
        let mut threads = Vec::new();
        for id in 0..count {
            let mut worker = Worker::new(&endpoints, id, seed, shared.clone())
                .map_err(|error| io::Error::other(format!("client {id}: {error}")))?;
            threads.push(thread::spawn(move || {
                while !worker.shared.stop.load(Ordering::Relaxed) {
                    worker.act();
                }
                // Some sessions cannot be closed in time: they expire.
                let _ = worker.client.close();
                Ok(worker.journal)
            }));
        }
        Ok(Clients { endpoints, shared, threads })
    }

    /// Operations answered so far.
    pub(crate) fn operations(&self) -> u64 {
        self.shared.operations.load(Ordering::Relaxed)
    }

    /// Stops, reads everything once more, and hands over what is remembered.
    pub(crate) fn finish(self) -> io::Result<Journal> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut all = Journal::default();
        for thread in self.threads {
            let one = thread.join().map_err(|_| io::Error::other("a client panicked"))?;
            all.add(one.map_err(|error| io::Error::other(error.to_string()))?);
        }
        all.outage = self.shared.outage.load(Ordering::Relaxed);
        let read = all.read_back(&self.endpoints, &self.shared);
        read.map_err(|error| io::Error::other(format!("reading back: {error}")))?;
        Ok(all)
    }
}

impl Journal {
    fn add(&mut self, other: Journal) {
        for (key, history) in other.keys {
            self.keys.entry(key).or_default().extend(history);
        }
        for (name, history) in other.counters {
            self.counters.entry(name).or_default().extend(history);
        }
        self.tenures.extend(other.tenures);
        self.operations += other.operations;
        self.refused += other.refused;
        self.unknown += other.unknown;
    }

    /// What was acknowledged must be there now.
    fn read_back(&mut self, endpoints: &[String], shared: &Shared) -> Result<(), Error> {
        let client = Client::builder().endpoints(endpoints.to_vec()).timeout(FINAL).connect()?;
        let map = client.map("chaos@0").wait()?;
        for (key, history) in &mut self.keys {
            let invoked = shared.now();
            let found = number(map.get(key.as_bytes()).wait()?);
            let replied = Some((shared.now(), found));
            history.push(Operation { invoked, replied, op: KeyOp::Get });
        }
        for (name, history) in &mut self.counters {
            let counter = client.counter(name).wait()?;
            let invoked = shared.now();
            let found = counter.get().wait()?;
            let replied = Some((shared.now(), found));
            history.push(Operation { invoked, replied, op: SumOp::Get });
        }
        client.close()
    }
}

impl Worker {
    fn new(endpoints: &[String], id: u64, seed: u64, shared: Arc<Shared>) -> Result<Worker, Error> {
        let client = Client::builder().endpoints(endpoints.to_vec()).timeout(TIMEOUT);
        let client = client.session_timeout(SESSION).connect()?;
        let map = client.map("chaos@0").wait()?;
        let lock = client.lock("chaos-lock@1").wait()?;
        let rng = Rng::new(seed ^ (id + 1).wrapping_mul(0x9e37_79b9));
        let journal = Journal::default();
        Ok(Worker { id, rng, shared, journal, written: 0, map, lock, client, counter: None })
    }

    fn act(&mut self) {
        match self.rng.below(10) {
            0..=5 => self.touch_key(),
            6..=7 => self.touch_counter(),
            8 => self.touch_lock(),
            _ => self.think(),
        }
        self.think();
    }

    /// Clients need time to think: the history must be judged afterwards.
    fn think(&mut self) {
        thread::sleep(Duration::from_micros(self.rng.below(4_000)));
    }

    fn era(&self) -> u64 {
        self.shared.began.elapsed().as_secs() / ERA.as_secs()
    }

    fn fresh(&mut self) -> u64 {
        self.written += 1;
        (self.id + 1) << 40 | self.written
    }

    fn touch_key(&mut self) {
        let key = format!("{}-{}", self.era(), self.rng.below(KEYS));
        let invoked = self.shared.now();
        let (op, result) = match self.rng.below(4) {
            0 => (KeyOp::Get, self.map.get(key.as_bytes()).wait().map(number)),
            1 => (KeyOp::Remove, self.map.get_and_remove(key.as_bytes()).wait().map(number)),
            2 => {
                let value = self.fresh();
                let put = self.map.put_if_absent(key.as_bytes(), &value.to_le_bytes()).wait();
                let before = put.map(|swap| match swap {
                    Swap::Done(_) => None,
                    Swap::Conflict(found) => number(found),
                });
                (KeyOp::PutIfAbsent(value), before)
            }
            _ => {
                let value = self.fresh();
                let put = self.map.get_and_put(key.as_bytes(), &value.to_le_bytes()).wait();
                (KeyOp::Put(value), put.map(number))
            }
        };
        if let Some(replied) = self.outcome(result) {
            let history = self.journal.keys.entry(key).or_default();
            history.push(Operation { invoked, replied, op });
        }
    }

    fn touch_counter(&mut self) {
        let name = format!("chaos-{}@1", self.era());
        if self.counter.as_ref().is_none_or(|(known, _)| *known != name) {
            let opened = self.client.counter(&name).wait();
            self.counter = opened.ok().map(|counter| (name.clone(), counter));
        }
        let Some((_, counter)) = &self.counter else { return };
        let invoked = self.shared.now();
        let (op, result) = if self.rng.chance(1, 3) {
            (SumOp::Get, counter.get().wait())
        } else {
            let delta = 1 + self.rng.below(9) as i64;
            (SumOp::Add(delta), counter.add_and_get(delta).wait())
        };
        if let Some(replied) = self.outcome(result) {
            let history = self.journal.counters.entry(name).or_default();
            history.push(Operation { invoked, replied, op });
        }
    }

    /// Takes the lock, holds it for a moment, gives it back. An unlock that succeeds proves that it
    /// was held all the time.
    fn touch_lock(&mut self) {
        let wait = Duration::from_millis(self.rng.below(1_000));
        let granted = self.lock.lock_within(wait).wait();
        let granted = match self.outcome(granted.map(|guard| guard.map(|guard| guard.keep()))) {
            Some(Some((from, Some(token)))) => Some((from, token)),
            _ => None,
        };
        let Some((from, token)) = granted else { return };
        self.think();
        let until = self.shared.now();
        let unlocked = self.lock.unlock(token).wait();
        if let Some(Some(_)) = self.outcome(unlocked) {
            self.journal.tenures.push(Tenure { from, until, token });
        }
    }

    /// What the history says of an operation: a reply, none that ever came, or that it never was.
    fn outcome<R>(&mut self, result: Result<R, Failure>) -> Option<Option<(u64, R)>> {
        self.journal.operations += 1;
        match result {
            Ok(reply) => {
                self.shared.answer();
                Some(Some((self.shared.now(), reply)))
            }
            Err(failure) if failure.outcome() == Outcome::NotApplied => {
                self.journal.refused += 1;
                None
            }
            Err(_) => {
                self.journal.unknown += 1;
                Some(None)
            }
        }
    }
}

/// A value as the number it was written as.
fn number(found: Option<Versioned>) -> Option<u64> {
    found.and_then(|found| found.value.try_into().ok()).map(u64::from_le_bytes)
}
