//! Writers whose every write can be found again: the proof that nothing acknowledged was lost and
//! nothing was done twice.
//!
//! Each writer puts unique ids into a map and adds 1 to a counter for each, in this order and in
//! one session. Commands of a session are applied in order, so an add that was applied has its id
//! in the map. Hence, whatever was killed meanwhile:
//!
//! - every acknowledged id is in the map, and none that was never sent;
//! - the counter is at least the number of acknowledged adds, and exceeds it by no more than the
//!   unknown adds whose ids are in the map.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use margay::client::{Client, Error, Group};
use margay::machine::Outcome;
use margay::resource::map::MapRange;
use margay::resource::{Counter, Failure, Map, Reply};
use margay_log::id::Index;

/// An operation lives through an outage of this length.
const PATIENCE: Duration = Duration::from_secs(30);
/// Writers, each with a session of its own.
const WRITERS: u64 = 3;
/// Ids under way per writer.
const WINDOW: usize = 16;

/// What became of everything that was written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    sent: u64,
    puts: BTreeSet<u64>,
    unknown_puts: BTreeSet<u64>,
    adds: u64,
    unknown_adds: BTreeSet<u64>,
}

/// Writers at work.
pub(crate) struct Writers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Result<Ledger, Error>>>,
    map: String,
    counter: String,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    acknowledged: AtomicU64,
    outage: Mutex<Option<Outage>>,
}

/// Something was killed.
#[derive(Clone, Copy, Debug)]
struct Outage {
    /// When it was.
    killed: Instant,
    /// When it was dead for certain: what is sent later and answered was committed without it.
    dead: Instant,
    /// From the kill to the first answer to such a write.
    next_write: Option<Duration>,
}

impl Shared {
    fn outage(&self) -> MutexGuard<'_, Option<Outage>> {
        self.outage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was found after the fact.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Verdict {
    /// Ids whose put was acknowledged; all of them are in the map.
    pub(crate) acknowledged: u64,
    /// Ids whose put has an unknown outcome and that are in the map.
    pub(crate) unknown_present: u64,
    /// Adds acknowledged.
    pub(crate) adds: u64,
    /// The counter.
    pub(crate) counter: i64,
}

impl Writers {
    /// Starts writing into the map `ids-TAG@GROUP` and the counter `count-TAG@GROUP`.
    pub(crate) fn start(endpoints: &[String], tag: &str, group: u32) -> Result<Writers, Error> {
        let shared = Arc::new(Shared::default());
        let (map, counter) = (format!("ids-{tag}@{group}"), format!("count-{tag}@{group}"));
        let mut threads = Vec::new();
        for writer in 0..WRITERS {
            let client = Client::builder().endpoints(endpoints.to_vec()).timeout(PATIENCE);
            let client = client.connect()?;
            let map = client.map(&map).wait()?;
            let counter = client.counter(&counter).wait()?;
            let shared = shared.clone();
            threads.push(thread::spawn(move || {
                let ledger = write(writer, &map, &counter, &shared);
                client.close()?;
                Ok(ledger)
            }));
        }
        Ok(Writers { shared, threads, map, counter })
    }

    /// Ids acknowledged so far.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// Something has been killed and is dead now.
    pub(crate) fn on_killed(&self, killed: Instant) {
        *self.shared.outage() = Some(Outage { killed, dead: Instant::now(), next_write: None });
    }

    /// How long after the last kill a write was acknowledged that was sent after it.
    pub(crate) fn next_write(&self) -> Option<Duration> {
        self.shared.outage().and_then(|outage| outage.next_write)
    }

    /// Stops, waits for what is under way, and compares the cluster with what it has acknowledged.
    pub(crate) fn finish(self, endpoints: &[String]) -> Result<Verdict, String> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut ledger = Ledger::default();
        for thread in self.threads {
            let one = thread.join().map_err(|_| "a writer panicked".to_string())?;
            ledger.add(one.map_err(|error| error.to_string())?);
        }
        let (present, counter) = read(endpoints, &self.map, &self.counter)
            .map_err(|error| format!("reading back: {error}"))?;
        ledger.check(&present, counter)
    }
}

/// An id is answered when its put and its add are.
type Pair = (u64, Instant, Reply<Index>, Reply<i64>);

fn write(writer: u64, map: &Map<Group>, counter: &Counter<Group>, shared: &Shared) -> Ledger {
    let mut ledger = Ledger::default();
    let mut open: VecDeque<Pair> = VecDeque::new();
    let mut next = writer << 40;
    loop {
        let stopping = shared.stop.load(Ordering::Relaxed);
        while !stopping && open.len() < WINDOW {
            let sent = Instant::now();
            let put = map.put(&next.to_be_bytes(), b"");
            open.push_back((next, sent, put, counter.increment()));
            (next, ledger.sent) = (next + 1, ledger.sent + 1);
        }
        let Some((id, sent, put, add)) = open.pop_front() else { return ledger };
        match put.wait() {
            Ok(_) => {
                ledger.puts.insert(id);
                if let Some(outage) = shared.outage().as_mut()
                    && outage.next_write.is_none()
                    && sent > outage.dead
                {
                    outage.next_write = Some(outage.killed.elapsed());
                }
            }
            Err(failure) if may_be_applied(&failure) => {
                ledger.unknown_puts.insert(id);
            }
            Err(_) => {}
        }
        match add.wait() {
            Ok(_) => {
                ledger.adds += 1;
                shared.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Err(failure) if may_be_applied(&failure) => {
                ledger.unknown_adds.insert(id);
            }
            Err(_) => {}
        }
    }
}

fn may_be_applied(failure: &Failure) -> bool {
    failure.outcome() != Outcome::NotApplied
}

/// All ids in the map, and the counter.
fn read(endpoints: &[String], map: &str, counter: &str) -> Result<(BTreeSet<u64>, i64), Error> {
    let client = Client::builder().endpoints(endpoints.to_vec()).timeout(PATIENCE).connect()?;
    let (map, counter) = (client.map(map).wait()?, client.counter(counter).wait()?);
    let mut present = BTreeSet::new();
    let mut after = None;
    loop {
        let page = map.keys(MapRange { after, ..MapRange::default() }).wait()?;
        for entry in &page.entries {
            let id = entry.key.first_chunk().copied().map_or(u64::MAX, u64::from_be_bytes);
            present.insert(id);
        }
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    let counter = counter.get().wait()?;
    client.close()?;
    Ok((present, counter))
}

impl Ledger {
    fn add(&mut self, other: Ledger) {
        self.sent += other.sent;
        self.adds += other.adds;
        self.puts.extend(other.puts);
        self.unknown_puts.extend(other.unknown_puts);
        self.unknown_adds.extend(other.unknown_adds);
    }

    /// See the module.
    fn check(&self, present: &BTreeSet<u64>, counter: i64) -> Result<Verdict, String> {
        let lost: Vec<&u64> = self.puts.difference(present).take(3).collect();
        if !lost.is_empty() {
            let count = self.puts.difference(present).count();
            return Err(format!("{count} acknowledged ids are lost: {lost:x?} …"));
        }
        let unknown_present = present.intersection(&self.unknown_puts).count() as u64;
        let strange = present.len() as u64 - self.puts.len() as u64 - unknown_present;
        if strange > 0 {
            return Err(format!("{strange} ids are there that were refused or never sent"));
        }
        let possible = self.unknown_adds.intersection(present).count() as u64;
        let found = u64::try_from(counter).map_err(|_| format!("the counter is {counter}"))?;
        if found < self.adds || found > self.adds + possible {
            let adds = self.adds;
            return Err(format!(
                "the counter is {counter}: {adds} adds were acknowledged, {possible} more may be"
            ));
        }
        let acknowledged = self.puts.len() as u64;
        Ok(Verdict { acknowledged, unknown_present, adds: self.adds, counter })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> Ledger {
        Ledger {
            sent: 5,
            puts: BTreeSet::from([1, 2, 3]),
            unknown_puts: BTreeSet::from([4, 5]),
            adds: 3,
            unknown_adds: BTreeSet::from([4, 5]),
        }
    }

    #[test]
    fn what_is_unknown_may_be_there_or_not() {
        for (present, counters) in [(vec![1, 2, 3], 3..=3), (vec![1, 2, 3, 5], 3..=4)] {
            let present = present.into_iter().collect();
            for counter in 0..9 {
                let fits = ledger().check(&present, counter).is_ok();
                assert_eq!(fits, counters.contains(&counter), "{present:?} {counter}");
            }
        }
    }

    #[test]
    fn a_lost_id_is_named() {
        let present = BTreeSet::from([1, 3]);
        let error = ledger().check(&present, 3).unwrap_err();
        assert!(error.contains("1 acknowledged ids are lost: [2]"), "{error}");
    }

    #[test]
    fn an_id_nobody_sent_is_noticed() {
        assert!(ledger().check(&BTreeSet::from([1, 2, 3, 9]), 3).is_err());
    }
}
