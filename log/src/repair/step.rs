//! What a repair does, one thing at a time, and how that is said.

use crate::error::segment_file;
use crate::id::{Index, SegmentNumber};
use crate::snapshot::snapshot_file;

/// One thing that is done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// A segment file had another segment's name.
    Rename {
        /// The name it had.
        from: SegmentNumber,
        /// The one it gets.
        to: SegmentNumber,
    },
    /// The hard state is made anew. The owner's bytes are lost: for a group its term and vote.
    NewHardState,
    /// A segment gets the size again that it was made with.
    Resize {
        /// The segment.
        segment: SegmentNumber,
        /// Bytes that there are.
        found: u64,
        /// Bytes that it gets: zeros behind those, or without those that are too many.
        made: u64,
    },
    /// A segment is left out, with all that it holds.
    LeaveOut {
        /// The segment.
        segment: SegmentNumber,
    },
    /// The log is emptied and begins behind a snapshot, which holds the state of all up to there.
    BeginBehind {
        /// The last entry whose effect it holds.
        snapshot: Index,
    },
    /// Entries that were durable are lost.
    Lose {
        /// The first of them.
        first: Index,
        /// The last that is known of.
        until: Index,
    },
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Step::Rename { from, to } => {
                write!(f, "give {} its own name, {}", segment_file(*from), segment_file(*to))
            }
            Step::NewHardState => f.write_str(
                "make hard-state anew from the segments; the owner's bytes in it are lost",
            ),
            Step::Resize { segment, found, made } => {
                let file = segment_file(*segment);
                write!(
                    f,
                    "give {file} the {made} bytes again that it was made with; it has {found}"
                )
            }
            Step::LeaveOut { segment } => {
                write!(f, "leave out {} and what it holds", segment_file(*segment))
            }
            Step::BeginBehind { snapshot } => {
                write!(f, "begin behind {}, which leads further", snapshot_file(*snapshot))
            }
            Step::Lose { first, until } => {
                write!(f, "lose entries {first} to {until}, which were durable")
            }
        }
    }
}
