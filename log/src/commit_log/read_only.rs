//! A log that is looked at, without a lock: beside the program that writes it, or long after it.

use std::fs;
use std::ops::RangeBounds;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::commit_log::manage::{Stats, Verified, verify};
use crate::commit_log::reader::Reader;
use crate::commit_log::shared::{Shared, State};
use crate::disk::directory;
use crate::disk::view::View;
use crate::error::{Error, segment_file};
use crate::id::{BatchEnd, Index, SegmentNumber};
use crate::log::Log;
use crate::recover::{Opened, Report};

/// How often a directory that looks damaged is looked at: a writer may be at work.
const LOOKS_MAX: u32 = 5;
const PAUSE: Duration = Duration::from_millis(20);

/// A log opened for reading only: as it was at that moment. Nothing in its directory is changed,
/// and nobody is kept from it.
///
/// What its writer has removed since is [`Error::Gone`] to a reader, which may go on behind it. If
/// the writer has compacted what is read, the reader sees the log as it is then; that may be one
/// that was cut meanwhile, which is [`Error::Cut`] to a reader that had come further.
///
/// ```no_run
/// # fn main() -> Result<(), margay_log::Error> {
/// use margay_log::commit_log::ReadOnlyLog;
///
/// let log = ReadOnlyLog::open("events")?; // its writer may go on meanwhile
/// let verified = log.verify(|_, _| true)?; // every byte that counts
/// println!("{} to {}, {} entries", log.first(), log.last(), verified.entries);
/// # Ok(())
/// # }
/// ```
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
            let sight = Sight::of(path);
            let looked = view.walk();
            let is_sound = looked.as_ref().is_ok_and(|opened| opened.report.damage.is_none());
            if is_sound || looks == LOOKS_MAX {
                let Opened { log, meta, report, .. } = looked?;
                let (path, shared) = (path.to_owned(), Shared::to_read(log, path, sight));
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
        let seen = self.shared.sight.as_ref().map(Sight::stamps);
        let state = self.shared.state();
        let mut stats = state.log.stats();
        let next = state.log.segments.active();
        if seen.is_some_and(|seen| seen.iter().all(|(segment, _)| *segment != next.number)) {
            // Whoever wrote it would make this one first.
            stats.segments -= 1;
            stats.file_bytes -= next.size;
            stats.free_bytes -= next.room();
        }
        stats
    }

    /// As [`CommitLog::verify`](super::CommitLog::verify).
    ///
    /// # Errors
    /// None but what cannot be.
    pub fn verify(&self, progress: impl FnMut(Index, Index) -> bool) -> Result<Verified, Error> {
        verify(self.read(..), self.last(), progress)
    }
}

/// The segments' files as they were when the log was looked at.
pub(crate) struct Sight(Mutex<Vec<(SegmentNumber, Stamp)>>);

/// Another one if the file is another, or has been written to.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    changed: (i64, i64),
}

impl Stamp {
    /// `None` if there is no such file.
    fn of(path: &Path, segment: SegmentNumber) -> Option<Stamp> {
        let meta = fs::metadata(path.join(segment_file(segment))).ok()?;
        Some(Stamp { inode: meta.ino(), changed: (meta.ctime(), meta.ctime_nsec()) })
    }
}

impl Sight {
    fn stamps(&self) -> MutexGuard<'_, Vec<(SegmentNumber, Stamp)>> {
        let Sight(stamps) = self;
        stamps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What cannot be seen is another file later.
    fn of(path: &Path) -> Sight {
        let segments = directory::segments(path).unwrap_or_default().into_iter();
        let stamp = |(segment, _)| Some((segment, Stamp::of(path, segment)?));
        Sight(Mutex::new(segments.filter_map(stamp).collect()))
    }
}

impl Shared {
    /// Of a log that is only read: looks at it again if the file of `segment`, which does not hold
    /// what is listed, is another one by now. Should it be there no more, what is listed and gone
    /// is no longer listed.
    pub(crate) fn look_again(&self, segment: SegmentNumber) {
        let Some(sight) = &self.sight else { return };
        // One at a time: the others find what this one has found.
        let mut stamps = sight.stamps();
        let was = stamps.iter().find(|(number, _)| *number == segment).map(|(_, stamp)| *stamp);
        let is = Stamp::of(&self.path, segment);
        let is_gone = is.is_none();
        if (!is_gone && was == is) || (is_gone && self.forget_removed(segment)) {
            return;
        }
        // Whatever keeps it from being looked at: the reader says what it has found. A log that is
        // damaged by now ends before the damage, and nobody would be told why.
        let Ok(ReadOnlyLog { shared, report, .. }) = ReadOnlyLog::open(&self.path) else { return };
        if report.damage.is_some() {
            return;
        }
        let Ok(Shared { state, sight: Some(Sight(seen)), .. }) = Arc::try_unwrap(shared) else {
            return;
        };
        let log = state.into_inner().unwrap_or_else(PoisonError::into_inner).log;
        let mut state = self.state();
        if (log.incarnation(), log.salt) != (state.log.incarnation(), state.log.salt) {
            return;
        }
        let shared_end = shared_end(&state.log, &log);
        state.log = log;
        self.files.forget_all();
        match shared_end {
            // Nobody waits for a log that is only read.
            Some(after) => drop(self.on_cut(&mut state, after)),
            None => _ = self.cuts.fetch_add(1, Ordering::Release),
        }
        *stamps = seen.into_inner().unwrap_or_else(PoisonError::into_inner);
    }

    /// The hard state says where the log begins by now: mostly that is all that has become of a
    /// segment that was removed. Whether it is.
    fn forget_removed(&self, segment: SegmentNumber) -> bool {
        let hard = View::open(&self.path).and_then(|mut view| view.newest_hard_state());
        let Ok(hard) = hard else { return false };
        let mut state = self.state();
        let State { log, .. } = &mut *state;
        let start = hard.start.id.index;
        if hard.incarnation != log.incarnation() || start > log.last().index {
            return false;
        }
        let is_cut = log.truncate_prefix(start).is_ok() && log.segments.oldest() > segment;
        // Nobody does what it asks for.
        log.ops().for_each(drop);
        is_cut
    }
}

/// Where a log was cut that has become another one, if it was: the last batch end that both have,
/// or zero where none is left.
fn shared_end(former: &Log, log: &Log) -> Option<Index> {
    let mut end = former.end_up_to(Index(u64::MAX));
    let begin = former.start().id.index.max(log.start().id.index);
    let is_shared = |end: &BatchEnd| log.chain_at(end.id.index) == Some(end.chain);
    if end.id.index <= begin || is_shared(&end) {
        return None;
    }
    while end.id.index > begin && !is_shared(&end) {
        end = former.end_up_to(end.id.index.prev());
    }
    Some(if is_shared(&end) { end.id.index } else { Index::ZERO })
}
