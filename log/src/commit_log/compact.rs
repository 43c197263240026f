//! Compaction of a [`CommitLog`]: reading what is left of a segment, laying it down anew, and
//! having the file replaced, one segment after the other.

use std::time::Duration;

use crate::clean::Candidate;
use crate::commit_log::CommitLog;
use crate::commit_log::pending::Recorded;
use crate::commit_log::shared::State;
use crate::error::Error;
use crate::id::{Index, SegmentNumber};

/// How compaction goes about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Compaction {
    /// A segment is rewritten when at least this share of the entries it still has is marked, in
    /// percent. Default 50.
    pub dead_percent: u64,
    /// Pause between two segments, so that others have the disk. Default none.
    pub pause: Duration,
}

impl Default for Compaction {
    fn default() -> Compaction {
        Compaction { dead_percent: 50, pause: Duration::ZERO }
    }
}

/// What compaction has come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Compacted {
    /// Segments rewritten.
    pub segments: u64,
    /// Entries that are gone now.
    pub entries: u64,
    /// Bytes of those segments before.
    pub bytes_before: u64,
    /// And after.
    pub bytes_after: u64,
}

impl CommitLog {
    /// Marks an entry as no longer wanted. It may still be read until [`CommitLog::compact`] has
    /// removed it; its index is not used again. Marks are not kept across restarts: what was not
    /// removed must be marked again.
    ///
    /// # Errors
    /// [`Error::Gone`] if it is not held, [`Error::Closed`], or why the log has stopped.
    pub fn clean(&self, index: Index) -> Result<(), Error> {
        let mut state = self.handle.shared.state();
        state.check()?;
        if state.open().contains(&index) {
            // What is marked lies in a segment.
            state.seal_now();
        }
        state.log.clean(index)
    }

    /// Rewrites the segments of which enough is marked, oldest first, on this thread. Appends and
    /// readers go on meanwhile. After each segment `progress` is told; it ends compaction by
    /// returning false. A crash leaves each segment either as it was or rewritten.
    ///
    /// The newest segment is never rewritten, and small ones are not merged.
    ///
    /// # Errors
    /// [`Error::Unreadable`] if something that is to be kept cannot be read; then that segment is
    /// as before. Why the file could not be written, or why the log has stopped.
    pub fn compact(
        &self,
        compaction: Compaction,
        mut progress: impl FnMut(&Compacted) -> bool,
    ) -> Result<Compacted, Error> {
        let mut compacted = Compacted::default();
        let mut after = SegmentNumber(0);
        let _alone = self.handle.compacting.lock().unwrap_or_else(|poison| poison.into_inner());
        loop {
            let candidate = self.state()?.log.candidate(after, compaction.dead_percent);
            let Some(candidate) = candidate else { return Ok(compacted) };
            after = candidate.segment;
            if compacted.segments == 0 {
                // Both pairs of hard states speak of places behind it then.
                self.record_place()?;
                self.record_place()?;
            } else {
                std::thread::sleep(compaction.pause);
            }
            if let Some((entries, bytes)) = self.compact_segment(&candidate)? {
                compacted.segments += 1;
                compacted.entries += entries;
                compacted.bytes_before += candidate.size;
                compacted.bytes_after += bytes;
                if !progress(&compacted) {
                    return Ok(compacted);
                }
            }
        }
    }

    fn state(&self) -> Result<std::sync::MutexGuard<'_, State>, Error> {
        let state = self.handle.shared.state();
        state.check()?;
        Ok(state)
    }

    fn record_place(&self) -> Result<(), Error> {
        let ticket = self.state()?.log.record_place();
        Recorded::new(&self.handle.shared, ticket).wait()
    }

    /// Returns how many entries are gone and how many bytes are left; `None` if the segment has
    /// changed meanwhile.
    fn compact_segment(&self, candidate: &Candidate) -> Result<Option<(u64, u64)>, Error> {
        let shared = &self.handle.shared;
        let packed = match candidate.pack(|position, bytes| shared.files.read(position, bytes)) {
            Ok(packed) => packed,
            // It was let go of meanwhile.
            Err(_) if !self.state()?.log.is_current(candidate) => return Ok(None),
            Err(error) => return Err(error),
        };
        let (gone, size) = (packed.gone, packed.size());
        {
            let mut state = self.state()?;
            if !state.log.may_rewrite(candidate.segment) || !state.log.rewrite(candidate, packed) {
                return Ok(None);
            }
            shared.kick(&mut state);
        }
        let mut result = None;
        // It may be asked again after it said yes.
        shared.wait_until(|state| {
            result = result.take().or_else(|| state.rewritten.take());
            result.is_some()
        });
        match result {
            Some((_, Ok(()))) => Ok(Some((gone, size))),
            Some((segment, Err(cause))) => {
                let file = crate::error::segment_file(segment);
                Err(Error::Storage { action: "rewrite", file, cause })
            }
            None => self.state().map(|_| None),
        }
    }
}
