//! An event store on a commit log: streams, optimistic appends, a projection that is rebuilt by
//! replay, and a consumer that handles every event exactly once across restarts.
//!
//!     cargo run -p margay-log --example event_store
//!
//! The log is the only thing that is written. Which events belong to which stream is kept in memory
//! and rebuilt from the log when it is opened: an event says its stream in its header.

use std::collections::BTreeMap;
use std::path::Path;

use margay_log::Error;
use margay_log::commit_log::{CommitLog, CommitLogOptions};
use margay_log::format::EntryHeader;
use margay_log::id::Index;

/// Events of many streams in one log.
struct EventStore {
    log: CommitLog,
    /// Where the events of each stream lie.
    streams: BTreeMap<u64, Vec<Index>>,
}

/// The stream has moved on since it was read: read it again, decide again.
#[derive(Debug, PartialEq, Eq)]
struct Conflict {
    version: u64,
}

impl EventStore {
    fn open(directory: &Path) -> Result<EventStore, Error> {
        let log = CommitLog::open(directory, CommitLogOptions::default())?.log;
        let mut streams: BTreeMap<u64, Vec<Index>> = BTreeMap::new();
        let mut reader = log.read(..);
        while let Some(event) = reader.read_next()? {
            streams.entry(event.header.resource).or_default().push(event.index);
        }
        Ok(EventStore { log, streams })
    }

    /// How many events the stream has.
    fn version(&self, stream: u64) -> u64 {
        self.streams.get(&stream).map_or(0, |events| events.len() as u64)
    }

    /// Appends an event if the stream still has `expected` events, and waits until it is durable.
    fn append(
        &mut self,
        stream: u64,
        expected: u64,
        event: &[u8],
    ) -> Result<Result<Index, Conflict>, Error> {
        let version = self.version(stream);
        if version != expected {
            return Ok(Err(Conflict { version }));
        }
        let header = EntryHeader { resource: stream, sequence: expected, ..Default::default() };
        let fill = |bytes: &mut [u8]| bytes.copy_from_slice(event);
        let index = self.log.append_with(&header, event.len(), fill)?.wait()?;
        self.streams.entry(stream).or_default().push(index);
        Ok(Ok(index))
    }

    /// Gives every event of a stream, oldest first.
    fn replay(&self, stream: u64, mut apply: impl FnMut(&[u8])) -> Result<(), Error> {
        let Some(events) = self.streams.get(&stream) else { return Ok(()) };
        let mut reader = self.log.read(..);
        for &index in events {
            reader.seek(index);
            if let Some(event) = reader.read_next()? {
                apply(event.payload);
            }
        }
        Ok(())
    }
}

/// A projection and how far it has come, kept in one place: the meta block of a log of its own.
/// Both change together or not at all, so an event counts once whatever happens in between.
struct Totals {
    state: CommitLog,
    handled: Index,
    total: i64,
}

impl Totals {
    fn open(directory: &Path) -> Result<Totals, Error> {
        let state = CommitLog::open(directory, CommitLogOptions::default())?.log;
        let meta = state.meta();
        let number = |at: usize| meta.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
        let handled = Index(number(0).map_or(0, u64::from_le_bytes));
        let total = number(8).map_or(0, i64::from_le_bytes);
        Ok(Totals { state, handled, total })
    }

    /// Handles what has come since, at most `most` events; then records how far it has come.
    fn catch_up(&mut self, events: &EventStore, most: u64) -> Result<(), Error> {
        let mut reader = events.log.read(self.handled.next()..);
        let mut left = most;
        while left > 0
            && let Some(event) = reader.read_next()?
        {
            self.total += amount(event.payload);
            self.handled = event.index;
            left -= 1;
        }
        let meta = [self.handled.0.to_le_bytes(), self.total.to_le_bytes()].concat();
        self.state.set_meta(&meta)?.wait()
    }
}

fn amount(event: &[u8]) -> i64 {
    event.try_into().map_or(0, i64::from_le_bytes)
}

fn main() -> Result<(), Error> {
    let directory = std::env::temp_dir().join(format!("margay-events-{}", std::process::id()));
    let (events, totals) = (directory.join("events"), directory.join("totals"));
    let result = run(&events, &totals);
    let _ = std::fs::remove_dir_all(&directory);
    result
}

fn run(events: &Path, totals: &Path) -> Result<(), Error> {
    const ALICE: u64 = 1;
    const BOB: u64 = 2;
    let mut store = EventStore::open(events)?;
    for n in 0..10 {
        let stream = if n % 3 == 0 { BOB } else { ALICE };
        let version = store.version(stream);
        let appended = store.append(stream, version, &i64::from(n).to_le_bytes())?;
        assert!(appended.is_ok());
    }
    // Somebody decides on what is no longer so.
    let stale = store.append(ALICE, 2, &1_000_i64.to_le_bytes())?;
    assert_eq!(stale, Err(Conflict { version: 6 }));

    let mut consumer = Totals::open(totals)?;
    consumer.catch_up(&store, 4)?;
    // It stops in the middle, and both go on after a restart.
    drop((consumer, store));
    let store = EventStore::open(events)?;
    let mut consumer = Totals::open(totals)?;
    assert_eq!(consumer.handled, Index(4));
    consumer.catch_up(&store, u64::MAX)?;
    consumer.catch_up(&store, u64::MAX)?;
    assert_eq!(consumer.total, (0..10).sum::<i64>());

    let mut balance = 0;
    store.replay(ALICE, |event| balance += amount(event))?;
    println!("alice has {balance}, everybody together {}", consumer.total);
    assert_eq!(balance, 1 + 2 + 4 + 5 + 7 + 8);
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn runs() {
        super::main().expect("the example runs");
    }
}
