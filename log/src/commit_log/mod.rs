//! The log for programs that want a log, not its parts: one handle for threads and futures of any
//! runtime.
//!
//! ```
//! use margay_log::commit_log::{CommitLog, CommitLogOptions};
//!
//! # let directory = std::env::temp_dir().join(format!("margay-doc-{}", std::process::id()));
//! # let _ = std::fs::remove_dir_all(&directory);
//! # fn run(directory: &std::path::Path) -> Result<(), margay_log::Error> {
//! let log = CommitLog::open(directory, CommitLogOptions::default())?.log;
//! let first = log.append(b"hello")?;              // in memory, with an index
//! let second = log.append(b"world")?;
//! second.wait()?;                                 // durable, and so is all before it
//!
//! let mut reader = log.read(..);
//! while let Some(record) = reader.read_next()? {
//!     println!("{} {}", record.index, String::from_utf8_lossy(record.payload));
//! }
//! # assert_eq!(first.index(), margay_log::id::Index(1));
//! # Ok(())
//! # }
//! # run(&directory).expect("the example runs");
//! # std::fs::remove_dir_all(&directory).expect("it is ours");
//! ```
//!
//! A [`CommitLog`] is a handle: clone it, send it to other threads. Entries appended at the same
//! time by many become durable together. [`Appended`] is a future and can be waited for; [`Reader`]
//! and [`Follower`] read on their own threads while others write. How it is driven is written down
//! in `shared.rs`.

pub(crate) mod ahead;
mod compact;
mod cuts;
mod files;
mod follow;
mod manage;
mod opening;
mod options;
mod pending;
mod read_only;
mod reader;
mod shared;
mod sleepers;
mod space;
#[cfg(feature = "typed")]
mod typed;

use std::io::IoSlice;
use std::ops::RangeBounds;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

pub use self::compact::{Compacted, Compaction};
pub use self::follow::Follower;
pub use self::manage::{Stats, Verified};
pub use self::opening::{Opening, Running};
pub use self::options::{CommitLogOptions, Driver, Retention};
pub use self::pending::{Appended, Recorded};
pub use self::read_only::ReadOnlyLog;
pub use self::reader::{Reader, Record};
#[cfg(feature = "typed")]
pub use self::typed::{InPlace, TypedFollower, TypedLog, TypedReader, Value, Written};
use crate::commit_log::shared::{Shared, State, is_waking};
use crate::error::{Error, Full};
use crate::format::{EntryHeader, LENGTH_MAX, PAYLOAD_MAX};
use crate::hard_state::META_MAX;
use crate::id::Index;

/// A handle of an open log. Clones are handles of the same log; the last one that is dropped makes
/// durable what is not yet, and closes it. That blocks, but where a future that is polled within
/// `wake` drops it: then the log is closed soon after.
#[derive(Clone, Debug)]
pub struct CommitLog {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// One compaction at a time.
    compacting: std::sync::Mutex<()>,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CommitLog").field("path", &self.shared.path).finish_non_exhaustive()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.close();
        let (shared, thread) = (Arc::clone(&self.shared), self.thread.take());
        let finish = move || {
            if let Some(thread) = thread {
                let _ = thread.join();
            }
            shared.finish();
        };
        if is_waking() {
            // A future had it that was polled where it was woken, by whoever drives the log and
            // must not wait for that. Without a thread the directory stays locked.
            let _ = std::thread::Builder::new().name("log-close".to_owned()).spawn(finish);
        } else {
            finish();
        }
    }
}

impl CommitLog {
    /// Opens the log in a directory; makes both if they are not there. Verifies all of it.
    ///
    /// # Errors
    /// [`Error::Locked`] if it is open already, [`Error::Damaged`] if it lacks what it once had,
    /// and whatever else keeps it from being opened.
    pub fn open(path: impl AsRef<Path>, options: CommitLogOptions) -> Result<Opening, Error> {
        opening::open(path.as_ref(), options)
    }

    /// Appends an entry. Where the queue to the disk is full, it waits for room.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::DiskFull`], [`Error::Closed`], or why the log has stopped;
    /// then nothing was appended.
    pub fn append(&self, payload: &[u8]) -> Result<Appended, Error> {
        self.append_entry(&EntryHeader::default(), &[IoSlice::new(payload)])
    }

    /// Appends one entry whose payload lies in several parts.
    ///
    /// # Errors
    /// As [`CommitLog::append`].
    pub fn append_vectored(&self, parts: &[IoSlice<'_>]) -> Result<Appended, Error> {
        self.append_entry(&EntryHeader::default(), parts)
    }

    /// As [`CommitLog::append_vectored`], with fields of the application's: kind, flags, schema and
    /// the five numbers are stored with the entry and mean nothing to the log. `length` is ignored.
    ///
    /// # Errors
    /// As [`CommitLog::append`].
    pub fn append_entry(
        &self,
        header: &EntryHeader,
        parts: &[IoSlice<'_>],
    ) -> Result<Appended, Error> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        self.append_with(header, length, |mut bytes| {
            for part in parts {
                let (front, rest) = bytes.split_at_mut(part.len());
                front.copy_from_slice(part);
                bytes = rest;
            }
        })
    }

    /// Appends an entry of `length` bytes that `fill` writes in place, where they stay until they
    /// are on disk. The bytes hold arbitrary values before. `fill` must be quick: other appends
    /// wait for it. If it panics, nothing is appended.
    ///
    /// # Errors
    /// As [`CommitLog::append`].
    pub fn append_with(
        &self,
        header: &EntryHeader,
        length: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<Appended, Error> {
        if length > PAYLOAD_MAX as usize {
            return Err(Error::TooLarge { length: length as u64, most: PAYLOAD_MAX.into() });
        }
        let mut state = self.room(length as u64)?;
        if state.log.open_is_full() {
            state.seal_now();
        }
        let index = state.log.push_with(header, length, fill).map_err(too_large)?;
        let appended = Appended::new(&self.handle.shared, index, index, &state);
        Ok(appended)
    }

    /// Appends several entries at once: after a crash all of them are there, or none.
    ///
    /// # Errors
    /// As [`CommitLog::append`]; [`Error::TooLarge`] if they do not fit into one batch, which has
    /// a little over 2 MiB. Without any entry, [`Error::Empty`].
    pub fn append_many<P: AsRef<[u8]>>(&self, payloads: &[P]) -> Result<Appended, Error> {
        let sizes = payloads.iter().map(|payload| payload.as_ref().len());
        let length = crate::batch::body_length(sizes);
        let most = u64::from(LENGTH_MAX) - crate::format::BATCH_HEADER as u64;
        if length > most {
            return Err(Error::TooLarge { length, most });
        }
        let Some(count) = (payloads.len() as u64).checked_sub(1) else {
            return Err(Error::Empty);
        };
        let mut state = self.room(length)?;
        if state.log.open_entries() > 0 && state.log.open_bytes() + length > u64::from(LENGTH_MAX) {
            state.seal_now();
        }
        let first = state.log.push_all(payloads).map_err(too_large)?;
        let last = Index(first.0 + count);
        let appended = Appended::new(&self.handle.shared, first, last, &state);
        Ok(appended)
    }

    /// Ready when everything appended so far is durable, by whomever. Gives the last index.
    pub fn sync(&self) -> Appended {
        let state = self.handle.shared.state();
        let last = Index(state.log.last().index.0 + u64::from(state.log.open_entries()));
        Appended::new(&self.handle.shared, last, last, &state)
    }

    /// The first index that is held, or the one that the next entry will have.
    #[must_use]
    pub fn first(&self) -> Index {
        self.handle.shared.state().log.first()
    }

    /// The last index, durable or not.
    #[must_use]
    pub fn last(&self) -> Index {
        let state = self.handle.shared.state();
        Index(state.log.last().index.0 + u64::from(state.log.open_entries()))
    }

    /// All up to here is durable.
    #[must_use]
    pub fn durable(&self) -> Index {
        self.handle.shared.state().log.durable()
    }

    /// Reads what is durable of a range of indexes.
    pub fn read(&self, range: impl RangeBounds<Index>) -> Reader {
        Reader::new(&self.handle.shared, range)
    }

    /// Gives every entry from `from` on, and waits for more at the end.
    pub fn follow(&self, from: Index) -> Follower {
        Follower::new(Reader::new(&self.handle.shared, from..))
    }

    /// The application's own bytes, as last set.
    #[must_use]
    pub fn meta(&self) -> Vec<u8> {
        self.handle.shared.state().log.meta().to_vec()
    }

    /// Replaces the application's own bytes, at most [`META_MAX`] of them: whole or not at all.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::Closed`], or why the log has stopped.
    pub fn set_meta(&self, meta: &[u8]) -> Result<Recorded, Error> {
        if meta.len() > META_MAX {
            return Err(Error::TooLarge { length: meta.len() as u64, most: META_MAX as u64 });
        }
        let mut state = self.handle.shared.state();
        state.check()?;
        let ticket = state.log.set_meta(meta);
        Ok(Recorded::new(&self.handle.shared, ticket))
    }

    /// Waits for room for another append, of `bytes`.
    fn room(&self, bytes: u64) -> Result<std::sync::MutexGuard<'_, State>, Error> {
        let shared = &self.handle.shared;
        loop {
            let state = shared.state();
            state.check()?;
            if Shared::room(&state)? {
                match shared.begin(state, bytes) {
                    Some(state) => return Ok(state),
                    // Others may have been there meanwhile.
                    None => continue,
                }
            }
            drop(state);
            shared.wait_until(|state| Shared::room(state).unwrap_or(true));
        }
    }
}

fn too_large(full: Full) -> Error {
    match full {
        Full::Payload { length } => Error::TooLarge { length, most: PAYLOAD_MAX.into() },
        Full::Batch => Error::NoSpace,
    }
}
