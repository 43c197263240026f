//! Making the log shorter: at its end, at its beginning, or all of it.
//!
//! In the midst of a batch it is cut by `cut.rs`. What is dropped is gone from memory at once; on
//! disk it is gone when a hard state says so, or when it is superseded.
//!
//! Invariants: only a suffix of batches is dropped, or a prefix of segments; no segment is given up
//! before the hard state that does not need it is durable.

use crate::error::Error;
use crate::format::BLOCK;
use crate::id::{BatchEnd, Index, Position, SegmentNumber, Ticket};
use crate::log::Log;
use crate::progress::Retiring;

impl Log {
    /// Drops all entries behind `after`. On disk they remain until the next batch supersedes them
    /// or the next hard state is durable: a crash before that brings them back.
    ///
    /// # Errors
    /// [`Error::NotABatchEnd`] or [`Error::Poisoned`].
    ///
    /// # Panics
    /// If a batch is open.
    pub fn truncate_suffix(&mut self, after: Index) -> Result<(), Error> {
        assert!(self.open_entries() == 0, "an open batch exists only in a leader");
        self.check_poison()?;
        let Some(end) = self.segments.end_at(after) else {
            let (start, last) = (self.segments.start().id.index, self.segments.last().id.index);
            return Err(Error::NotABatchEnd { index: after, start, last });
        };
        self.drop_behind(end);
        Ok(())
    }

    /// Lets go of the segments that hold nothing behind `through`; [`Log::first`] says what that
    /// came to. Nothing that is not durable is dropped.
    ///
    /// # Errors
    /// [`Error::Poisoned`].
    pub fn truncate_prefix(&mut self, through: Index) -> Result<(), Error> {
        self.check_poison()?;
        let dropped = self.segments.truncate_prefix(through.min(self.durable()));
        if dropped.is_empty() {
            return Ok(());
        }
        let start = self.segments.start().id.index;
        self.tail.truncate_prefix(start);
        self.reads.truncate_prefix(start);
        let begin = Position { segment: self.segments.oldest(), offset: BLOCK as u64 };
        self.from = self.from.max(begin);
        let ticket = self.next_ticket();
        self.retire(dropped, ticket);
        self.updates.want(ticket);
        self.pump();
        Ok(())
    }

    /// Replaces the whole log by an empty one that begins behind `start`, as when a snapshot takes
    /// its place. [`Log::durable`] is zero until that is durable, then at least `start`.
    ///
    /// # Errors
    /// [`Error::Poisoned`].
    ///
    /// # Panics
    /// If a batch is open.
    pub fn reset(&mut self, start: BatchEnd) -> Result<(), Error> {
        assert!(self.open_entries() == 0, "an open batch exists only in a leader");
        self.check_poison()?;
        let dropped = self.segments.reset(start);
        self.tail.truncate_suffix(Index::ZERO);
        self.reads.truncate_suffix(Index::ZERO);
        self.from = self.segments.cursor();
        let ticket = self.next_ticket();
        self.writer.reset(start, ticket);
        self.replacing = Index::ZERO;
        self.cut_at = None;
        self.forget_places();
        self.retire(dropped, ticket);
        self.updates.want(ticket);
        self.pump();
        Ok(())
    }

    /// Drops what lies behind `end`, a batch end of the log.
    pub(crate) fn drop_behind(&mut self, end: BatchEnd) {
        self.segments.truncate_suffix(end);
        self.tail.truncate_suffix(end.id.index);
        self.reads.truncate_suffix(end.id.index);
        self.writer.truncate_suffix(end);
        // What was left of a batch goes as well: nothing is to be waited for.
        self.replacing = self.replacing.min(end.id.index);
        self.forget_places();
        let durable = self.durable();
        assert!(durable <= self.last().index);
        // See `cut`: others do not rely on it.
        self.cut_at = None;
    }

    /// Lets go of segments once the hard state of `needed` is durable.
    fn retire(&mut self, dropped: Vec<(SegmentNumber, u64)>, needed: Ticket) {
        let retiring = |(segment, size)| Retiring { segment, size, needed };
        self.retiring.extend(dropped.into_iter().map(retiring));
    }
}
