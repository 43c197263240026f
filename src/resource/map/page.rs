//! Parts of a map, as applications read them.

use margay_log::id::Index;

/// An entry of a [`MapPage`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MapEntry {
    /// The key.
    pub key: Vec<u8>,
    /// The index of the command that wrote it.
    pub version: Index,
    /// The value, where values were asked for.
    pub value: Option<Vec<u8>>,
}

/// Part of a map, in order of the keys.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MapPage {
    /// At most [`super::PAGE_MAX`], about [`super::PAGE_BYTES_MAX`].
    pub entries: Vec<MapEntry>,
    /// Ask for the next page after this key ([`MapRange::after`]); `None` where this is the last.
    /// A page may be short, even empty, and not the last.
    pub next: Option<Vec<u8>>,
}

impl MapPage {
    /// The values, in order of their keys.
    pub fn into_values(self) -> impl Iterator<Item = Vec<u8>> {
        self.entries.into_iter().filter_map(|entry| entry.value)
    }
}

/// Which part of a map to read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MapRange {
    /// What the keys begin with.
    pub prefix: Vec<u8>,
    /// The least key.
    pub from: Option<Vec<u8>>,
    /// The keys are less than this.
    pub to: Option<Vec<u8>>,
    /// The page begins after this key, in its direction: [`MapPage::next`] of the page before.
    pub after: Option<Vec<u8>>,
    /// At most so many; 0 for as many as fit.
    pub limit: u32,
    /// From the last key to the first.
    pub descending: bool,
}
