//! A log that is looked at, without a lock: beside the program that writes it, or long after it.

use std::ops::RangeBounds;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::commit_log::manage::{Stats, Verified, verify};
use crate::commit_log::reader::Reader;
use crate::commit_log::shared::Shared;
use crate::disk::view::View;
use crate::error::Error;
use crate::id::Index;
use crate::recover::{Opened, Report};

/// How often a directory that looks damaged is looked at: a writer may be at work.
const LOOKS_MAX: u32 = 5;
const PAUSE: Duration = Duration::from_millis(20);

/// A log opened for reading only: as it was at that moment. Nothing in its directory is changed,
/// and nobody is kept from it.
#[derive(Debug)]
pub struct ReadOnlyLog {
    path: PathBuf,
    shared: Arc<Shared>,
    report: Report,
    meta: Vec<u8>,
}

impl ReadOnlyLog {
    /// Looks at the log in a directory, of whatever cluster and group. Verifies all of it. Damage
    /// is no error; [`ReadOnlyLog::report`] says what there is.
    ///
    /// # Errors
    /// As [`CommitLog::open`](super::CommitLog::open), but for locks.
    pub fn open(path: impl AsRef<Path>) -> Result<ReadOnlyLog, Error> {
        let path = path.as_ref();
        ReadOnlyLog::open_with(path, |_| {})
    }

    /// As [`ReadOnlyLog::open`]; `prepare` may have the view's progress told.
    ///
    /// # Errors
    /// As [`ReadOnlyLog::open`].
    pub fn open_with(path: &Path, prepare: impl Fn(&mut View)) -> Result<ReadOnlyLog, Error> {
        let mut looks = 1;
        loop {
            let mut view = View::open(path)?;
            prepare(&mut view);
            let looked = view.walk();
            let is_sound = looked.as_ref().is_ok_and(|opened| opened.report.damage.is_none());
            if is_sound || looks == LOOKS_MAX {
                let Opened { log, meta, report, .. } = looked?;
                let (path, shared) = (path.to_owned(), Shared::to_read(log, path));
                return Ok(ReadOnlyLog { path, shared, report, meta });
            }
            looks += 1;
            std::thread::sleep(PAUSE);
        }
    }

    /// Looks again: what has been appended since can be read, by new readers.
    ///
    /// # Errors
    /// As [`ReadOnlyLog::open`]; then all is as before.
    pub fn refresh(&mut self) -> Result<(), Error> {
        *self = ReadOnlyLog::open(&self.path)?;
        Ok(())
    }

    /// What was found.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The owner's bytes.
    #[must_use]
    pub fn meta(&self) -> &[u8] {
        &self.meta
    }

    /// The first index that is held.
    #[must_use]
    pub fn first(&self) -> Index {
        self.shared.state().log.first()
    }

    /// The last index.
    #[must_use]
    pub fn last(&self) -> Index {
        self.shared.state().log.last().index
    }

    /// Reads a range of indexes.
    pub fn read(&self, range: impl RangeBounds<Index>) -> Reader {
        Reader::new(&self.shared, range)
    }

    /// As [`CommitLog::find_time`](super::CommitLog::find_time).
    #[must_use]
    pub fn find_time(&self, time: u64) -> Index {
        self.shared.state().log.first_at(time)
    }

    /// The log in numbers.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.state().log.stats()
    }

    /// As [`CommitLog::verify`](super::CommitLog::verify).
    ///
    /// # Errors
    /// None but what cannot be.
    pub fn verify(&self, progress: impl FnMut(Index, Index) -> bool) -> Result<Verified, Error> {
        verify(self.read(..), self.last(), progress)
    }
}
