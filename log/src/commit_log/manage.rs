//! What is done to a log besides appending and reading: cutting it at either end, by hand or by
//! retention, looking up a time, checking it, counting it.

use std::sync::Arc;
use std::time::Duration;

use crate::commit_log::options::Retention;
use crate::commit_log::pending::Recorded;
use crate::commit_log::shared::{State, wake_futures, wall_clock};
use crate::commit_log::{Appended, CommitLog};
use crate::error::Error;
use crate::id::Index;
use crate::log::{Log, Space};

/// A log in numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stats {
    /// The first entry held, or the one that would be.
    pub first: Index,
    /// The last entry, durable or not.
    pub last: Index,
    /// All up to here is durable.
    pub durable: Index,
    /// Batches the entries lie in.
    pub batches: u64,
    /// Segment files, those prepared ahead included.
    pub segments: u64,
    /// Bytes of them.
    pub file_bytes: u64,
    /// Bytes of them that are prepared and not used.
    pub free_bytes: u64,
    /// When the first and the last batch were appended, in microseconds since 1970.
    pub times: Option<(u64, u64)>,
    /// Whether another batch could be written.
    pub space: Space,
}

/// What [`CommitLog::verify`] found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Verified {
    /// Entries that are what was written.
    pub entries: u64,
    /// Bytes of their payloads.
    pub payload_bytes: u64,
    /// What could not be read back, in order.
    pub unreadable: Vec<Error>,
}

impl CommitLog {
    /// Lets go of the segments that hold nothing behind `through`; returns the first index that is
    /// held then. Nothing that is not durable goes.
    ///
    /// # Errors
    /// [`Error::Closed`], or why the log has stopped.
    pub fn truncate_prefix(&self, through: Index) -> Result<Index, Error> {
        let shared = &self.handle.shared;
        let mut state = shared.state();
        state.check()?;
        state.log.truncate_prefix(through)?;
        shared.kick(&mut state);
        Ok(state.log.first())
    }

    /// Drops every entry behind `after` and blocks until that is durable. All that is under way
    /// becomes durable first, so that every append has its answer. Not for use while others append:
    /// it waits for a moment in which nothing is under way. Readers and followers that have come
    /// further are told with [`Error::Cut`], those who wait at once.
    ///
    /// # Errors
    /// [`Error::Gone`] if `after` lies before the first entry, [`Error::Unreadable`] if the batch
    /// that is cut in two cannot be read back, [`Error::DiskFull`] if what stays of it finds no
    /// space, or why the log has stopped. Then nothing was cut off.
    pub fn truncate_suffix(&self, after: Index) -> Result<(), Error> {
        let shared = &self.handle.shared;
        loop {
            self.sync().wait()?;
            // An entry is cut off with its batch, and what stays of that is written anew.
            let kept = match self.kept(after) {
                // Somebody else was first.
                Err(Error::Cut { .. }) => continue,
                kept => kept?,
            };
            let mut state = shared.state();
            state.check()?;
            let is_quiet = state.log.open_entries() == 0
                && state.log.durable() == state.log.last().index
                && !state.log.is_replacing();
            if !is_quiet {
                continue;
            }
            if after >= state.log.last().index {
                return Ok(());
            }
            let first = state.log.first();
            if after.next() < first {
                return Err(Error::Gone { index: after, first });
            }
            // Retention or compaction may have been there meanwhile.
            let begins_so = state.log.end_up_to(after).id.index.next() == kept.first;
            if !begins_so || after.since(kept.first.prev()) != kept.entries.len() as u64 {
                continue;
            }
            if kept.entries.is_empty() {
                let ticket = state.log.cut(after)?;
                let mut due = shared.on_cut(&mut state, after);
                drop(state);
                wake_futures(&mut due);
                return Recorded::new(shared, ticket).wait();
            }
            let last = match state.log.replace_suffix(after, &kept.entries) {
                Err(Error::NoSpace) => {
                    shared.kick(&mut state);
                    drop(state);
                    shared
                        .wait_until(|state| state.log.space_for(&kept.entries) != Space::Preparing);
                    continue;
                }
                replaced => replaced?,
            };
            let mut due = shared.on_cut(&mut state, after);
            let appended = Appended::new(shared, last, last, &state);
            drop(state);
            wake_futures(&mut due);
            return appended.wait().map(|_| ());
        }
    }

    /// The entries of the batch that `after` lies in, up to `after`; none if it ends there.
    fn kept(&self, after: Index) -> Result<Kept, Error> {
        let mut kept = Kept { first: Index::ZERO, entries: Vec::new() };
        {
            let state = self.handle.shared.state();
            kept.first = state.log.end_up_to(after).id.index.next();
            if after < state.log.first() || after >= state.log.last().index {
                return Ok(kept);
            }
        }
        let is_packed = |log: &Log| log.listed(after.next()).is_some_and(|batch| batch.packed);
        if kept.first <= after && is_packed(&self.handle.shared.state().log) {
            return Err(Error::Unsupported {
                action: "cut a batch in two",
                reason: "compaction has removed entries of it; cut before or behind it",
            });
        }
        let mut reader = self.read(kept.first..=after);
        while let Some(record) = reader.read_next()? {
            kept.entries.push((record.header, record.payload.to_vec()));
        }
        Ok(kept)
    }

    /// The first entry that was appended at `time` or later, in microseconds since 1970; behind the
    /// last one if there is none. Entries that became durable together have the same time.
    #[must_use]
    pub fn find_time(&self, time: u64) -> Index {
        self.handle.shared.state().log.first_at(time)
    }

    /// The log in numbers.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.handle.shared.state().log.stats()
    }

    /// Reads every entry back from wherever a reader would, and checks it. `progress` is told the
    /// index reached and the last one, now and then; it ends the check by returning false.
    ///
    /// # Errors
    /// Why the log has stopped. What cannot be read back is no error but reported.
    pub fn verify(&self, progress: impl FnMut(Index, Index) -> bool) -> Result<Verified, Error> {
        verify(self.read(..), self.durable(), progress)
    }
}

/// What stays of a batch that is cut in two.
struct Kept {
    first: Index,
    entries: Vec<(crate::format::EntryHeader, Vec<u8>)>,
}

/// See [`CommitLog::verify`].
pub(crate) fn verify(
    mut reader: super::Reader,
    last: Index,
    mut progress: impl FnMut(Index, Index) -> bool,
) -> Result<Verified, Error> {
    let mut verified = Verified::default();
    loop {
        if verified.entries.is_multiple_of(4096) && !progress(reader.position(), last) {
            return Ok(verified);
        }
        match reader.read_next() {
            Ok(Some(record)) => {
                verified.entries += 1;
                verified.payload_bytes += record.payload.len() as u64;
            }
            Ok(None) => {
                progress(last, last);
                return Ok(verified);
            }
            Err(Error::Gone { first, .. }) => reader.seek(first),
            Err(Error::Cut { after }) => reader.seek(after.next()),
            Err(error @ Error::Unreadable { .. }) => {
                verified.unreadable.push(error);
                reader.skip_batch();
            }
            Err(error) => return Err(error),
        }
    }
}

impl Retention {
    /// Up to where `log` is to be let go of, if anywhere.
    pub(crate) fn through(&self, log: &Log) -> Option<Index> {
        if self.is_off() {
            return None;
        }
        let now = wall_clock();
        let age = u64::try_from(self.age.as_micros()).unwrap_or(u64::MAX);
        let oldest = now.saturating_sub(age);
        let mut left: u64 = log.segments.all().map(|segment| segment.size).sum();
        let mut through = None;
        for segment in log.segments.all() {
            let Some(last) = segment.batches().last() else { continue };
            let entries_left = log.last().index.since(last.last);
            if self.entries > 0 && entries_left < self.entries {
                break;
            }
            left -= segment.size;
            let by_bytes = self.bytes > 0 && left >= self.bytes;
            let by_age = self.age > Duration::ZERO && last.log_time < oldest;
            let by_entries = self.entries > 0 && self.bytes == 0 && self.age == Duration::ZERO;
            if !(by_bytes || by_age || by_entries) {
                break;
            }
            through = Some(last.last);
        }
        through
    }
}

impl State {
    /// Lets go of what retention no longer keeps.
    pub(crate) fn retain(&mut self) {
        if let Some(through) = self.retention.through(&self.log) {
            // A log that has stopped keeps what it has.
            let _ = self.log.truncate_prefix(through);
        }
    }
}

impl Log {
    pub(crate) fn first_at(&self, time: u64) -> Index {
        self.segments.first_at(time).max(self.first())
    }

    pub(crate) fn stats(&self) -> Stats {
        let mut stats = Stats {
            first: self.first(),
            last: self.last().index,
            durable: self.durable(),
            batches: 0,
            segments: 0,
            file_bytes: 0,
            free_bytes: self.segments.active().room(),
            times: None,
            space: self.space(),
        };
        for segment in self.segments.all() {
            stats.segments += 1;
            stats.file_bytes += segment.size;
            stats.batches += segment.batches().len() as u64;
            for batch in segment.batches().first().into_iter().chain(segment.batches().last()) {
                let begin = stats.times.map_or(batch.log_time, |(begin, _)| begin);
                stats.times = Some((begin, batch.log_time));
            }
        }
        let ready = self.segments.spares().filter(|spare| spare.ready);
        stats.free_bytes += ready.map(|spare| spare.room()).sum::<u64>();
        stats
    }
}

/// Kept alive by handles, readers and futures alike.
const _: fn() = || {
    fn is_shared<T: Send + Sync>() {}
    is_shared::<CommitLog>();
    is_shared::<Arc<crate::commit_log::shared::Shared>>();
    is_shared::<crate::commit_log::Follower>();
};
