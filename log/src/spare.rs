//! Files of retired segments that wait to become later ones: where a log is cut behind as fast as
//! it grows, its disk is asked for no new space, and no zeros are written.
//!
//! What a file held stays in it. It cannot be mistaken for anything of the segment it becomes: a
//! frame names the segment it was written for, under a checksum that begins with the log's salt,
//! and no number is used twice.
//!
//! Invariant: no operation on a file that is kept is under way.

use crate::id::SegmentNumber;

/// A file, by the number of the segment that it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Spare {
    segment: SegmentNumber,
    size: u64,
    /// It has been set aside; until then it is on its way.
    is_kept: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Spares {
    all: Vec<Spare>,
    /// Bytes kept, at most.
    pub bytes_max: u64,
}

impl Spares {
    pub(crate) fn new(bytes_max: u64) -> Spares {
        Spares { all: Vec::new(), bytes_max }
    }

    /// Whether a segment that is retired now is to be set aside: if all of them fit.
    pub(crate) fn takes(&mut self, segment: SegmentNumber, size: u64) -> bool {
        let bytes: u64 = self.all.iter().map(|spare| spare.size).sum();
        let fits = bytes.saturating_add(size) <= self.bytes_max;
        if fits {
            self.all.push(Spare { segment, size, is_kept: false });
        }
        fits
    }

    /// A segment has been retired, or could not be.
    pub(crate) fn on_retired(&mut self, segment: SegmentNumber, succeeded: bool) {
        self.all.retain(|spare| spare.segment != segment || succeeded);
        for spare in self.all.iter_mut().filter(|spare| spare.segment == segment) {
            spare.is_kept = true;
        }
    }

    /// Gives away a file of this very size, if there is one.
    pub(crate) fn give(&mut self, size: u64) -> Option<SegmentNumber> {
        let fits = |spare: &Spare| spare.is_kept && spare.size == size;
        let at = self.all.iter().position(fits)?;
        Some(self.all.swap_remove(at).segment)
    }
}
