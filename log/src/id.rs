//! The names of positions, nodes and groups: newtypes, so that a term is never added to an index.
//!
//! Nothing here knows what is stored under a position. There is no `From<u64>`: a bare number
//! becomes an id only where somebody says which one it is.

use std::fmt;

/// Position of an entry in a log. The first entry has index 1; 0 stands for "before the first".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Index(pub u64);

impl Index {
    /// Before the first entry.
    pub const ZERO: Index = Index(0);

    /// The index after this one. Saturates: an index from a hostile peer must not panic.
    #[must_use]
    pub fn next(self) -> Index {
        Index(self.0.saturating_add(1))
    }

    /// The index before this one, or zero.
    #[must_use]
    pub fn prev(self) -> Index {
        Index(self.0.saturating_sub(1))
    }

    /// The index `entries` further on, or `None` where that does not fit.
    #[must_use]
    pub fn forward(self, entries: u64) -> Option<Index> {
        self.0.checked_add(entries).map(Index)
    }

    /// How many entries lie after `earlier` up to and including this one; 0 if there are none.
    #[must_use]
    pub fn since(self, earlier: Index) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Raft term, or the epoch of the writer for a log used alone. Never decreases along a log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Term(pub u64);

impl Term {
    /// Before the first election.
    pub const ZERO: Term = Term(0);

    /// The next term. Saturates, for the same reason as [`Index::next`].
    #[must_use]
    pub fn next(self) -> Term {
        Term(self.0.saturating_add(1))
    }
}

/// Identity of an entry: two logs that hold the same `EntryId` are equal up to it (Raft paper
/// §5.3). Ordered as elections compare logs: by term, then by index.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct EntryId {
    /// Term of the batch that holds the entry.
    pub term: Term,
    /// Position of the entry.
    pub index: Index,
}

impl EntryId {
    /// Before the first entry.
    pub const ZERO: EntryId = EntryId { term: Term::ZERO, index: Index::ZERO };

    /// The entry of `term` at `index`.
    #[must_use]
    pub fn new(term: Term, index: Index) -> EntryId {
        EntryId { term, index }
    }
}

/// Running checksum of a log up to the end of a batch: equal chains mean equal bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Chain(pub u32);

/// A Raft group: one replicated log. Groups are numbered from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct GroupId(pub u32);

/// A node of the cluster, as the membership numbers it (from 1; 0 is nobody). Never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct NodeId(pub u32);

/// Hash of the founding record. 0 stands for "no cluster": a log used alone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ClusterId(pub u64);

/// One life of a data directory: random, made once. A wiped node has another one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Incarnation(pub u64);

/// A write that is under way. Rising, never used twice by one log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Ticket(pub u64);

/// Number of a segment file. Rising, never used twice in a log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SegmentNumber(pub u64);

/// A place in the log's files. Frames are made in rising order of it, so it also says what came
/// first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// The segment file.
    pub segment: SegmentNumber,
    /// Byte offset in it.
    pub offset: u64,
}

/// The end of a batch: which entry, and the chain of the log up to it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct BatchEnd {
    /// Its last entry.
    pub id: EntryId,
    /// The chain there.
    pub chain: Chain,
}

impl BatchEnd {
    /// Before the first batch.
    pub const ZERO: BatchEnd = BatchEnd { id: EntryId::ZERO, chain: Chain(0) };
}

/// Microseconds on a clock that never runs backwards; which clock is the caller's business.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Micros(pub u64);

impl Micros {
    /// `n` milliseconds.
    #[must_use]
    pub const fn from_millis(n: u64) -> Micros {
        Micros(n * 1_000)
    }

    /// This time plus a span.
    #[must_use]
    pub fn after(self, span: Micros) -> Micros {
        Micros(self.0.saturating_add(span.0))
    }

    /// The span since `earlier`, or 0 if that is later.
    #[must_use]
    pub fn since(self, earlier: Micros) -> Micros {
        Micros(self.0.saturating_sub(earlier.0))
    }
}

macro_rules! shown_as {
    ($($type:ident $format:literal;)*) => {$(
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }
    )*};
}

shown_as! {
    Index "{}";
    Term "t{}";
    Chain "{:08x}";
    GroupId "g{}";
    NodeId "#{}";
    ClusterId "{:016x}";
    Incarnation "{:016x}";
    Ticket "~{}";
    SegmentNumber "s{}";
    Micros "{}us";
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.index.0, self.term.0)
    }
}

impl fmt::Debug for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{:#x}", self.segment, self.offset)
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for BatchEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.id, self.chain)
    }
}
