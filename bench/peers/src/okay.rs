//! okaywal: an entry of one chunk for each of ours; 64 MiB segments.

use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use margay_bench::log::{Appender, Contender, Row};
use okaywal::{
    Configuration, Entry, EntryId, LogManager, ReadChunkResult, SegmentReader, WriteAheadLog,
};

#[derive(Debug)]
pub struct OkayWal;

/// Reads every chunk of what is recovered, so that all of it is checked.
#[derive(Debug, Clone, Default)]
struct Count(Arc<AtomicU64>);

impl LogManager for Count {
    fn recover(&mut self, entry: &mut Entry<'_>) -> io::Result<()> {
        let mut bytes = Vec::new();
        while let ReadChunkResult::Chunk(mut chunk) = entry.read_chunk()? {
            bytes.clear();
            chunk.read_to_end(&mut bytes)?;
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn checkpoint_to(
        &mut self,
        _: EntryId,
        _: &mut SegmentReader,
        _: &WriteAheadLog,
    ) -> io::Result<()> {
        Ok(())
    }
}

fn open(dir: &Path, count: &Count, checkpoints: bool) -> io::Result<WriteAheadLog> {
    let mut configuration = Configuration::default_for(dir)
        .preallocate_bytes(64 << 20)
        .buffer_bytes(1 << 20);
    // What is to be recovered must not be checkpointed away.
    let after = if checkpoints { 48 << 20 } else { 2 << 30 };
    configuration = configuration.checkpoint_after_bytes(after);
    configuration.open(count.clone())
}

impl Contender for OkayWal {
    fn name(&self) -> &'static str {
        "okaywal"
    }

    fn open(&self, dir: &Path, _: &Row, bytes: u64) -> io::Result<Box<dyn Appender>> {
        Ok(Box::new(Open(open(dir, &Count::default(), bytes > 0)?)))
    }

    fn recover(&self, dir: &Path) -> io::Result<Option<u64>> {
        let count = Count::default();
        let log = open(dir, &count, false)?;
        let entries = count.0.load(Ordering::Relaxed);
        log.shutdown()?;
        Ok(Some(entries))
    }
}

struct Open(WriteAheadLog);

impl Appender for Open {
    fn append(&self, entries: &[Vec<u8>]) -> io::Result<()> {
        let mut writer = self.0.begin_entry()?;
        for entry in entries {
            writer.write_chunk(entry)?;
        }
        writer.commit().map(|_| ())
    }
}
