//! What opening finds: what there is, and what is lacking of what once was durable.
//!
//! What the frames mean is decided by the walk; here what it has kept is held against what was
//! claimed last.
//!
//! Invariant: nothing here changes the disk.

#[cfg(doc)]
use crate::Opened;
use crate::error::Error;
use crate::hard_state::HardState;
use crate::id::{BatchEnd, EntryId, Index, Position, SegmentNumber};
#[cfg(doc)]
use crate::log::Log;
use crate::snapshot::SnapshotHeader;
use crate::walk::Walk;

/// What was found on opening.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// The log is new.
    pub created: bool,
    /// The last entry.
    pub last: EntryId,
    /// The durable index; that of `last`.
    pub durable: Index,
    /// Segment files walked over.
    pub segments: u64,
    /// Batches in the log.
    pub batches: u64,
    /// Places that are neither zero nor a whole frame: writes that were cut off, or rot.
    pub torn: Vec<Torn>,
    /// Whole batches that are not part of the log: superseded, or behind a write that was cut off.
    pub superseded: u64,
    /// Segments whose header block is unreadable; what is in them was read nevertheless.
    pub headers: Vec<SegmentNumber>,
    /// What the log once knew to be durable and now lacks.
    pub damage: Option<Damage>,
    /// Batches within the log that cannot be read, rising.
    pub rotten: Vec<Rotten>,
    /// Snapshots that are not of this group, or whose header is damaged or of another version.
    pub snapshots_unreadable: Vec<Index>,
}

/// A batch of the log that was durable and cannot be read any more. Its length and its chain are
/// known, so anybody who has it can give it back: see [`Log::mend`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rotten {
    /// The segment.
    pub segment: SegmentNumber,
    /// Where its frame is.
    pub offset: u64,
    /// The first index.
    pub first: Index,
    /// Its end, and the chain there.
    pub end: BatchEnd,
}

/// A place that holds neither zeros nor a whole frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Torn {
    /// The segment.
    pub segment: SegmentNumber,
    /// Where it begins.
    pub offset: u64,
    /// Bytes; more may belong to it.
    pub length: u64,
}

/// A log that is shorter than it was, or different.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Damage {
    /// Where the first thing that is lacking may have been.
    pub segment: SegmentNumber,
    /// Byte offset there.
    pub offset: u64,
    /// The first index that is lacking. The log has been cut to end before it.
    pub index: Index,
    /// The log was durable up to here.
    pub until: Index,
    /// What seems to have happened.
    pub cause: Cause,
}

/// What seems to have happened to a damaged log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// There is something unreadable at the place: rot.
    Unreadable,
    /// There is nothing at the place: a write was lost, or a file.
    Missing,
    /// It was found at an earlier opening and has not been repaired since.
    Unrepaired,
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Cause::Unreadable => "unreadable",
            Cause::Missing => "missing",
            Cause::Unrepaired => "still missing since an earlier start",
        })
    }
}

/// What there is of a damaged log, before anything of it is changed.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// What the log lacks at its end. The entries behind that are not known.
    pub damage: Option<Damage>,
    /// Batches within the log that cannot be read.
    pub rotten: &'a [Rotten],
    /// See [`Opened::marked`].
    pub marked: &'a [(Index, Vec<u8>)],
    /// Snapshots whose header can be read, oldest first.
    pub snapshots: &'a [SnapshotHeader],
}

/// Compares what was kept with what is claimed. A log that lacks something is cut to end before it,
/// so that it can only grow there again from somebody who has it.
pub(super) fn find_damage(walk: &mut Walk<'_>, hard: &HardState) -> Option<Damage> {
    let place = |walk: &Walk<'_>| {
        let at = |torn: &&Torn| {
            Position { segment: torn.segment, offset: torn.offset } >= walk.linked_to
        };
        walk.torn.iter().find(at).map(|torn| (torn.segment, torn.offset))
    };
    let (until, cause) = match walk.lacking() {
        Some(until) => {
            let found = place(walk).is_some() || walk.is_used_there();
            let cause = if found { Cause::Unreadable } else { Cause::Missing };
            (until.max(hard.repair), cause)
        }
        None if hard.repair > walk.segments.last().id.index => (hard.repair, Cause::Unrepaired),
        None => return None,
    };
    if let Some(lacking) = walk.lacking() {
        let end = walk.segments.end_up_to(lacking.prev());
        walk.truncate(end);
    }
    let (segment, offset) = place(walk).unwrap_or((walk.linked_to.segment, walk.linked_to.offset));
    let index = walk.segments.last().id.index.next();
    Some(Damage { segment, offset, index, until, cause })
}

/// The batches that are part of the log and cannot be read.
pub(super) fn find_rotten(walk: &Walk<'_>) -> Vec<Rotten> {
    let found = walk.broken.iter().filter_map(|&first| {
        let (segment, at) = walk.segments.find(first)?;
        let batch = segment.batches()[at];
        let (segment, offset, end) = (segment.number, batch.offset, batch.end());
        Some(Rotten { segment, offset, first, end })
    });
    found.collect()
}

/// The first damage there is, as an error.
pub(super) fn first_damage(found: &Found<'_>) -> Option<Error> {
    if let Some(Damage { segment, offset, index, cause, .. }) = found.damage {
        return Some(Error::Damaged { segment, offset, index, cause });
    }
    let &Rotten { segment, offset, first, .. } = found.rotten.first()?;
    Some(Error::Damaged { segment, offset, index: first, cause: Cause::Unreadable })
}
