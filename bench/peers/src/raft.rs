//! raft-engine: a batch of protobuf entries, synced; files filled with zeros before the clock runs.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use margay_bench::log::{Appender, Contender, Row};
use protobuf::well_known_types::BytesValue;
use raft_engine::{Config, Engine, LogBatch, MessageExt, ReadableSize};

#[derive(Debug)]
pub struct RaftEngine;

/// An entry: its index, then its bytes.
#[derive(Clone)]
struct Message;

impl MessageExt for Message {
    type Entry = BytesValue;

    fn index(entry: &BytesValue) -> u64 {
        entry.value[..8].try_into().map_or(0, u64::from_le_bytes)
    }
}

struct Open {
    engine: Engine,
    next: AtomicU64,
}

impl Contender for RaftEngine {
    fn name(&self) -> &'static str {
        "raft-engine"
    }

    fn open(&self, dir: &Path, _: &Row, bytes: u64) -> io::Result<Box<dyn Appender>> {
        let config = Config {
            dir: dir.to_string_lossy().into_owned(),
            batch_compression_threshold: ReadableSize(0),
            enable_log_recycle: bytes > 0,
            prefill_for_recycle: bytes > 0,
            prefill_limit: (bytes > 0).then_some(ReadableSize(bytes.max(256 << 20))),
            purge_threshold: ReadableSize(bytes.max(2 << 30)),
            ..Config::default()
        };
        let engine = Engine::open(config).map_err(io::Error::other)?;
        Ok(Box::new(Open { engine, next: AtomicU64::new(1) }))
    }

    /// It reads the headers and the index of each batch, not the entries: there is no check to
    /// compare with.
    fn recover(&self, _: &Path) -> io::Result<Option<u64>> {
        Ok(None)
    }
}

impl Appender for Open {
    fn append(&self, entries: &[Vec<u8>]) -> io::Result<()> {
        // Each append is a group of its own: threads need no order among themselves.
        let count = entries.len() as u64;
        let first = self.next.fetch_add(count, Ordering::Relaxed);
        let messages: Vec<BytesValue> = (first..)
            .zip(entries)
            .map(|(index, entry)| {
                let mut message = BytesValue::new();
                message.value = [&index.to_le_bytes()[..], entry].concat();
                message
            })
            .collect();
        let mut batch = LogBatch::default();
        batch.add_entries::<Message>(group(count, first), &messages).map_err(io::Error::other)?;
        self.engine.write(&mut batch, true).map(|_| ()).map_err(io::Error::other)
    }
}

/// Single entries may come from many threads, whose order is not that of their indexes.
fn group(count: u64, first: u64) -> u64 {
    if count == 1 { first } else { 1 }
}
