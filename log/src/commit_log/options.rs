//! How a [`CommitLog`](super::CommitLog) is opened.

use std::time::Duration;

use crate::options::Options;

/// Who does the log's I/O.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Driver {
    /// io_uring where the kernel allows it, plain calls where not;
    /// [`Opening::driver`](super::Opening::driver) says which it came to.
    #[default]
    Auto,
    /// io_uring, or an error.
    Uring,
    /// Plain blocking calls. Also through the page cache, where the file system refuses
    /// `O_DIRECT`.
    Direct,
}

/// What is let go of by itself, whole segments at a time, after each new segment. A bound of zero
/// is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Retention {
    /// Keep about this many bytes of files.
    pub bytes: u64,
    /// Keep what is younger than this.
    pub age: Duration,
    /// Keep at least this many entries, if there are more of them.
    pub entries: u64,
}

impl Retention {
    pub(crate) fn is_off(&self) -> bool {
        *self == Retention::default()
    }
}

/// How a log is opened. `CommitLogOptions::default()` is right for most.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommitLogOptions {
    /// Who does the I/O. Default [`Driver::Auto`].
    pub driver: Driver,
    /// Size of the first segment in bytes; a multiple of 4096, at least 16 KiB. Default 4 MiB.
    pub segment_first: u64,
    /// Segments double up to this size in bytes. Default 64 MiB.
    pub segment_max: u64,
    /// Memory for the newest entries, in bytes, from which readers are served. Default 2 MiB: what
    /// is written round and round should stay in the processor's caches.
    pub cache_bytes: u64,
    /// Space written with zeros when the log is opened, in the background, in bytes, so that a
    /// burst of that size finds it; at most 1 TiB. Default 0. Beyond that, a segment is begun when
    /// half of the last one is used.
    pub prepared_bytes: u64,
    /// What is let go of by itself. Default: nothing.
    pub retention: Retention,
    /// How long to wait for a directory that somebody else has open. Default 5 s.
    pub lock_wait: Duration,
    /// A log that lacks what it once had is not opened. Default true; `false` opens it, cut to end
    /// before what is lacking, and [`Opening::report`](super::Opening::report) says so.
    pub refuse_damage: bool,
}

impl Default for CommitLogOptions {
    fn default() -> CommitLogOptions {
        let Options { segment_first, segment_max, .. } = Options::default();
        CommitLogOptions {
            driver: Driver::Auto,
            segment_first,
            segment_max,
            cache_bytes: 2 << 20,
            prepared_bytes: 0,
            retention: Retention::default(),
            lock_wait: Duration::from_secs(5),
            refuse_damage: true,
        }
    }
}

impl CommitLogOptions {
    /// The same, as the log itself takes them.
    pub(crate) fn log(&self) -> Options {
        Options {
            segment_first: self.segment_first,
            segment_max: self.segment_max,
            tail_bytes: self.cache_bytes,
            huge_pages: true,
            prepared_bytes: self.prepared_bytes,
            refuse_damage: self.refuse_damage,
            ..Options::default()
        }
    }
}
