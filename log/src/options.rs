//! How a log is made and bounded: every bound with its unit, range and reason.

use crate::error::Error;
use crate::format::BLOCK;
use crate::id::{ClusterId, GroupId, Incarnation, Micros};

/// How a log is made and bounded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// The cluster; zero for a log used alone. A log of another cluster is not opened.
    pub cluster: ClusterId,
    /// The group. A log of another group is not opened.
    pub group: GroupId,
    /// The life of the data directory. Zero: whatever is on disk, and a random one for a new log.
    pub incarnation: Incarnation,
    /// Size of the first segment and of the first after a restart, in bytes. Default 4 MiB; a
    /// multiple of 4096, at least 16 KiB.
    pub segment_first: u64,
    /// Each segment is twice as large as the one before, up to this many bytes. Default 64 MiB; at
    /// least `segment_first`. A batch that is larger gets a segment of its own.
    pub segment_max: u64,
    /// Memory for the newest batches, in bytes. Default 64 MiB. What is not yet durable stays in
    /// any case.
    pub tail_bytes: u64,
    /// Large batches lie on huge pages: each is written sooner, but where the system has to find
    /// such a page, that takes milliseconds in a virtual machine. Default false: whoever has a turn
    /// to end would rather not.
    pub huge_pages: bool,
    /// Writes given to the disk and not done, at most. Default 16, at least 1.
    pub writes_in_flight: u32,
    /// Bytes sealed and waiting for prepared space or for their turn, at most. Default 32 MiB. One
    /// batch may always wait.
    pub queue_bytes: u64,
    /// Space that [`crate::Log::prepare_ahead`] has prepared, in bytes, at most 1 TiB. Default 0.
    /// Beyond that, a segment is asked for when half of the last one is used.
    pub prepared_bytes: u64,
    /// Files of segments that are no longer needed are kept for later segments, up to this many
    /// bytes. Default 0. Not for logs whose files others read beside the writer.
    pub spare_bytes: u64,
    /// Damage is an error, found before anything is written: what is restored then is whole again.
    /// Default: it is reported, and the log goes on without what it lacks.
    pub refuse_damage: bool,
    /// Opening tells the payloads of all entries of this kind that are the first of their batch;
    /// see [`crate::Opened::marked`]. Default: of none.
    pub mark: Option<u8>,
    /// A batch that was durable and has rotted stays part of the log, as one that cannot be read
    /// until [`crate::Log::mend`] has put it back: for owners that know somebody who has it.
    /// Default: the log is cut before it.
    pub keep_rotten: bool,
    /// A log at rest for this long records how far it is durable. Default 100 ms.
    pub idle_mark: Micros,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            cluster: ClusterId(0),
            group: GroupId(0),
            incarnation: Incarnation(0),
            segment_first: 4 << 20,
            segment_max: 64 << 20,
            tail_bytes: 64 << 20,
            huge_pages: false,
            writes_in_flight: 16,
            queue_bytes: 32 << 20,
            prepared_bytes: 0,
            spare_bytes: 0,
            refuse_damage: false,
            keep_rotten: false,
            mark: None,
            idle_mark: Micros::from_millis(100),
        }
    }
}

impl Options {
    /// Says which option is out of range, if one is.
    ///
    /// # Errors
    /// [`Error::Options`].
    pub fn check(&self) -> Result<(), Error> {
        let wrong = |option, rule| Err(Error::Options { option, rule });
        let block = BLOCK as u64;
        if self.segment_first < 4 * block || !self.segment_first.is_multiple_of(block) {
            return wrong("segment_first", "a multiple of 4096, at least 16384");
        }
        if self.segment_max < self.segment_first || !self.segment_max.is_multiple_of(block) {
            return wrong("segment_max", "a multiple of 4096, at least segment_first");
        }
        if self.segment_max > 1 << 40 {
            return wrong("segment_max", "at most 1 TiB");
        }
        if self.prepared_bytes > 1 << 40 {
            return wrong("prepared_bytes", "at most 1 TiB");
        }
        if self.writes_in_flight == 0 {
            return wrong("writes_in_flight", "at least 1");
        }
        Ok(())
    }
}
