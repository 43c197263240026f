//! Cutting off the end of a log that is used alone: at any entry, also in the midst of a batch.
//!
//! A batch is never changed. What is to stay of one that is cut in two becomes a new batch, which
//! supersedes the old one on disk. Until that is durable no hard state is written: it would drop
//! the old batch already. So whatever a hard state is needed for waits, freeing space too, and the
//! new batch must not wait for space: it is made only where it can be written at once.

use crate::batch::entry_length;
use crate::error::Error;
use crate::format::{BATCH_HEADER, EntryHeader, FRAME, in_blocks};
use crate::id::Index;
#[cfg(feature = "direct")]
use crate::id::Ticket;
use crate::log::{Log, Space};
use crate::segment::Segment;

impl Log {
    /// As [`Log::truncate_suffix`], and made durable: by the returned ticket's hard state.
    #[cfg(feature = "direct")]
    pub(crate) fn cut(&mut self, after: Index) -> Result<Ticket, Error> {
        self.truncate_suffix(after)?;
        self.cut_at = Some(after);
        let ticket = self.next_ticket();
        self.updates.want(ticket);
        self.pump();
        Ok(ticket)
    }

    /// Drops all entries behind `after`, in the middle of a batch, of which `kept` stays: as a new
    /// batch. Returns the last index. For logs used alone, when all there is is durable.
    ///
    /// # Errors
    /// [`Error::NoSpace`] while space for it is being prepared, [`Error::DiskFull`] if there is
    /// none, or [`Error::Poisoned`]; the log is then as before.
    ///
    /// # Panics
    /// If a batch is open, or `kept` is not what lies between the batch end before `after` and it.
    #[doc(hidden)]
    pub fn replace_suffix(
        &mut self,
        after: Index,
        kept: &[(EntryHeader, Vec<u8>)],
    ) -> Result<Index, Error> {
        self.check_poison()?;
        let end = self.end_up_to(after);
        assert!(end.id.index.forward(kept.len() as u64) == Some(after));
        self.ask_for_space(kept);
        match self.space_for(kept) {
            Space::Ready => {}
            Space::Preparing => return Err(Error::NoSpace),
            Space::Full(cause) => return Err(Error::DiskFull { cause }),
        }
        let (term, log_time) = (self.last().term, self.log_time());
        let marked = self.segments.marked(end.id.index, after);
        self.truncate_suffix(end.id.index)?;
        self.replacing = after;
        for (header, payload) in kept {
            self.push_with(header, payload.len(), |bytes| bytes.copy_from_slice(payload))
                .expect("they came from one batch");
        }
        self.seal(term, log_time)?;
        for index in marked {
            self.clean(index)?;
        }
        Ok(after)
    }

    /// What stays of a batch that was cut in two is not durable yet.
    #[doc(hidden)]
    #[must_use]
    pub fn is_replacing(&self) -> bool {
        self.durable() < self.replacing
    }

    /// Whether a batch of these entries could be written at once.
    pub(crate) fn space_for(&self, kept: &[(EntryHeader, Vec<u8>)]) -> Space {
        match self.place_for(disk_length(kept)) {
            Some(segment) if segment.ready && self.writer.waiting() == 0 => Space::Ready,
            _ => self.preparing.failed.map_or(Space::Preparing, Space::Full),
        }
    }

    /// Has space prepared where a batch of these entries finds a place, if nobody has asked for
    /// any.
    fn ask_for_space(&mut self, kept: &[(EntryHeader, Vec<u8>)]) {
        let bytes = disk_length(kept);
        if self.place_for(bytes).is_none() {
            self.add_segment(bytes);
            self.pump();
        }
    }

    /// The segment that a batch of `bytes` would go to.
    fn place_for(&self, bytes: u64) -> Option<&Segment> {
        let mut places = std::iter::once(self.segments.active()).chain(self.segments.spares());
        places.find(|segment| segment.room() >= bytes)
    }
}

/// Bytes on disk of a batch of these entries.
fn disk_length(entries: &[(EntryHeader, Vec<u8>)]) -> u64 {
    let body: usize = entries.iter().map(|(_, payload)| entry_length(payload.len())).sum();
    in_blocks((FRAME + BATCH_HEADER + body) as u64)
}
