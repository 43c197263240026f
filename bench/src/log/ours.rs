//! margay-log as a contender.

use std::io;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use margay_log::Error;
use margay_log::commit_log::{Appended, CommitLog, CommitLogOptions, Driver};
use margay_log::format::EntryHeader;
use margay_log::id::Index;

use crate::log::{Append, Appender, Contender, Row};

/// The log, with one of its drivers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Margay {
    /// Who does its I/O.
    pub driver: Driver,
    /// Space is written before the clock runs, as a log that recycles has it.
    pub prepared: bool,
    /// The next append is made before the last one is waited for: what futures are for.
    pub two_under_way: bool,
    /// Each entry is put together where it lies in the log, and the last one is waited for.
    pub in_place: bool,
}

impl Margay {
    /// As it comes.
    pub const DEFAULT: Margay =
        Margay { driver: Driver::Auto, prepared: true, two_under_way: false, in_place: false };
    /// With the one before still under way.
    pub const TWO: Margay = Margay { two_under_way: true, ..Margay::DEFAULT };
    /// With plain calls.
    pub const PLAIN: Margay = Margay { driver: Driver::Direct, ..Margay::DEFAULT };
    /// With entries put together in place.
    pub const IN_PLACE: Margay = Margay { in_place: true, ..Margay::DEFAULT };
    /// On space that must be made as it goes.
    pub const FRESH: Margay = Margay { prepared: false, ..Margay::DEFAULT };
}

/// Longest wait for space to be prepared.
const PREPARE_MAX: Duration = Duration::from_secs(120);

struct Open {
    log: CommitLog,
    /// The append before this one, where it may be waited for later.
    before: Option<Mutex<Option<Appended>>>,
    in_place: bool,
}

impl Open {
    fn begin_append(&self, entries: &[Vec<u8>]) -> Result<Appended, Error> {
        match entries {
            entries if self.in_place => {
                let mut last = Err(Error::Empty);
                for entry in entries {
                    let fill = |bytes: &mut [u8]| bytes.copy_from_slice(entry);
                    // The last one is durable after all others.
                    last = Ok(self.log.append_with(&EntryHeader::default(), entry.len(), fill)?);
                }
                last
            }
            [entry] => self.log.append(entry),
            entries => self.log.append_many(entries),
        }
    }
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
        match (self.driver, self.prepared, self.two_under_way) {
            _ if self.in_place => "margay, in place",
            (_, _, true) => "margay, 2 under way",
            (Driver::Direct, _, _) => "margay, plain calls",
            (_, true, _) => "margay",
            (_, false, _) => "margay, fresh space",
        }
    }

    /// Futures are under way together anyway; in place shows where entries are many and small.
    fn runs(&self, row: &Row) -> bool {
        let is_shown = row.appenders == 1 && (2..=256).contains(&row.count);
        !(row.futures && self.two_under_way) && (is_shown || !self.in_place)
    }

    fn open(&self, dir: &Path, _: &Row, bytes: u64) -> io::Result<Box<dyn Appender>> {
        let log = self.open_log(dir, if self.prepared { bytes } else { 0 })?;
        let before = self.two_under_way.then(|| Mutex::new(None));
        Ok(Box::new(Open { log, before, in_place: self.in_place }))
    }

    /// It is the same however it was written.
    fn recovers(&self) -> bool {
        *self == Margay::DEFAULT
    }

    fn recover(&self, dir: &Path) -> io::Result<Option<u64>> {
        let log = self.open_log(dir, 0)?;
        Ok(Some(log.last().since(Index::ZERO)))
    }
}

impl Appender for Open {
    fn append(&self, entries: &[Vec<u8>]) -> io::Result<()> {
        let appended = self.begin_append(entries).map_err(io::Error::other)?;
        let wait_for = match &self.before {
            Some(before) => before.lock().expect("no appender panics").replace(appended),
            None => Some(appended),
        };
        wait_for.map_or(Ok(()), |appended| appended.wait().map(|_| ()).map_err(io::Error::other))
    }

    fn begin<'a>(&'a self, entries: &'a [Vec<u8>]) -> Append<'a> {
        let appended = self.begin_append(entries);
        Box::pin(async move {
            appended.map_err(io::Error::other)?.await.map(|_| ()).map_err(io::Error::other)
        })
    }

    fn flush(&self) -> io::Result<()> {
        self.log.sync().wait().map(|_| ()).map_err(io::Error::other)
    }
}
