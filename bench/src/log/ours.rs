//! margay-log as a contender.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use margay_log::commit_log::{CommitLog, CommitLogOptions, Driver};
use margay_log::id::Index;

use crate::log::{Appender, Contender, Row};

/// The log, with one of its drivers.
#[derive(Clone, Copy, Debug)]
pub struct Margay {
    /// Who does its I/O.
    pub driver: Driver,
    /// Space is written before the clock runs, as a log that recycles has it.
    pub prepared: bool,
}

/// Longest wait for space to be prepared.
const PREPARE_MAX: Duration = Duration::from_secs(120);

struct Open {
    log: CommitLog,
}

impl Margay {
    /// As its users open it.
    ///
    /// # Errors
    /// Whatever kept it.
    pub fn open_log(&self, dir: &Path, prepared_bytes: u64) -> io::Result<CommitLog> {
        let options =
            CommitLogOptions { driver: self.driver, prepared_bytes, ..CommitLogOptions::default() };
        let log = CommitLog::open(dir, options).map_err(io::Error::other)?.log;
        let begin = Instant::now();
        while log.stats().free_bytes < prepared_bytes && begin.elapsed() < PREPARE_MAX {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(log)
    }
}

impl Contender for Margay {
    fn name(&self) -> &'static str {
        match (self.driver, self.prepared) {
            (Driver::Direct, true) => "margay-plain",
            (Driver::Direct, false) => "margay-plain, fresh",
            (_, true) => "margay",
            (_, false) => "margay, fresh",
        }
    }

    fn open(&self, dir: &Path, _: &Row, bytes: u64) -> io::Result<Box<dyn Appender>> {
        let log = self.open_log(dir, if self.prepared { bytes } else { 0 })?;
        Ok(Box::new(Open { log }))
    }

    fn recover(&self, dir: &Path) -> io::Result<Option<u64>> {
        let log = self.open_log(dir, 0)?;
        Ok(Some(log.last().since(Index::ZERO)))
    }
}

impl Appender for Open {
    fn append(&self, entries: &[Vec<u8>]) -> io::Result<()> {
        let appended = match entries {
            [entry] => self.log.append(entry),
            entries => self.log.append_many(entries),
        };
        appended.and_then(|appended| appended.wait()).map(|_| ()).map_err(io::Error::other)
    }
}
