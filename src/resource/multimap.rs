//! An ordered map from a key to an ordered set of values.
//!
//! A key is there as long as it has values. Events: [`entries::PUT`] for each value that is new,
//! [`entries::REMOVED`] for each that goes, [`KEY_REMOVED`] where all values of a key go at once,
//! [`entries::CLEARED`] where all keys do.

mod handle;
mod state;

pub use super::entries::{PAGE_BYTES_MAX, PAGE_MAX};
pub(super) use handle::read_event;
pub use handle::{Multimap, MultimapEvent, MultimapPage, MultimapRange, ValuesPage};
pub(super) use state::MultimapState;

use super::codec::{check_by_schema, limits, operation};
use super::entries;
use crate::machine::kind;

/// Event: all values of a key were removed at once. With it the key, and no value.
pub const KEY_REMOVED: u16 = 6;

/// Keys looked at by one operation that looks for a value, at most.
const SCAN_MAX: usize = 1_024;

// ---- operations -----------------------------------------------------------------------------

/// Adds a value to a key. Answers whether it was not there.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct PutV1 {
    /// At most 4 KiB.
    pub key: Vec<u8>,
    /// At most 1 MiB.
    pub value: Vec<u8>,
}

/// Gives a key these values and no others. Answers how many it had.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct ReplaceV1 {
    /// At most 4 KiB.
    pub key: Vec<u8>,
    /// At most 1,000; none to remove the key.
    pub values: Vec<Vec<u8>>,
}

/// Removes a value of a key. Answers whether it was there.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct RemoveEntryV1 {
    /// At most 4 KiB.
    pub key: Vec<u8>,
    /// At most 1 MiB.
    pub value: Vec<u8>,
}

/// Removes all values of a key. Answers how many there were.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct RemoveKeyV1 {
    /// At most 4 KiB.
    pub key: Vec<u8>,
}

/// Removes a value from the next 1,024 keys. Answers how many had it, and the key to go on after
/// or none at the end.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct RemoveValueV1 {
    /// At most 1 MiB.
    pub value: Vec<u8>,
    /// Begin after this key.
    pub after: Option<Vec<u8>>,
}

/// Removes all keys.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct ClearV1 {}

/// Query: the values of a key, in order. Answers the value to go on after or none at the end, a
/// count, then version and value of each.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct GetV1 {
    /// At most 4 KiB.
    pub key: Vec<u8>,
    /// The page begins after this value.
    pub after: Option<Vec<u8>>,
    /// At most so many; 0 and anything over [`PAGE_MAX`] stand for [`PAGE_MAX`].
    pub limit: u32,
}

/// Query: whether a key has a value, or any where none is given. Answers 1 or 0.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct ContainsV1 {
    /// At most 4 KiB.
    pub key: Vec<u8>,
    /// At most 1 MiB.
    pub value: Option<Vec<u8>>,
}

/// Query: whether one of the next 1,024 keys has a value. Answers the key or none, and the key to
/// go on after or none.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct FindValueV1 {
    /// At most 1 MiB.
    pub value: Vec<u8>,
    /// Begin after this key.
    pub after: Option<Vec<u8>>,
}

/// Query: how many entries there are, or how many values of one key. Answers that, and the number
/// of keys counted.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct SizeV1 {
    /// `None` for all.
    pub key: Option<Vec<u8>>,
}

/// Query: entries in order of keys, then values. Answers 1 where more follow, a count, then key,
/// version and value of each.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct PageV1 {
    /// What the keys begin with.
    pub prefix: Vec<u8>,
    /// The page begins after this key, or among its values.
    pub after_key: Option<Vec<u8>>,
    /// With a key: after this value of it.
    pub after_value: Option<Vec<u8>>,
    /// At most so many; 0 and anything over [`PAGE_MAX`] stand for [`PAGE_MAX`].
    pub limit: u32,
}

operation!(PutV1, kind::MULTIMAP, 0x0101, "put");
operation!(ReplaceV1, kind::MULTIMAP, 0x0201, "replace");
operation!(RemoveEntryV1, kind::MULTIMAP, 0x0301, "remove-entry");
operation!(RemoveKeyV1, kind::MULTIMAP, 0x0401, "remove-key");
operation!(RemoveValueV1, kind::MULTIMAP, 0x0501, "remove-value");
operation!(ClearV1, kind::MULTIMAP, 0x0601, "clear");
operation!(GetV1, kind::MULTIMAP, 0x4001, "get");
operation!(ContainsV1, kind::MULTIMAP, 0x4101, "contains");
operation!(FindValueV1, kind::MULTIMAP, 0x4201, "find-value");
operation!(SizeV1, kind::MULTIMAP, 0x4301, "size");
operation!(PageV1, kind::MULTIMAP, 0x4401, "page");

limits! {
    ArchivedPutV1: key(key), value(value);
    ArchivedReplaceV1: key(key), values(values);
    ArchivedRemoveEntryV1: key(key), value(value);
    ArchivedRemoveKeyV1: key(key);
    ArchivedRemoveValueV1: value(value), bound(after);
    ArchivedClearV1:;
    ArchivedGetV1: key(key), expected(after);
    ArchivedContainsV1: key(key), expected(value);
    ArchivedFindValueV1: value(value), bound(after);
    ArchivedSizeV1: bound(key);
    ArchivedPageV1: key(prefix), bound(after_key), expected(after_value);
}

check_by_schema!(PutV1, ReplaceV1, RemoveEntryV1, RemoveKeyV1, RemoveValueV1, ClearV1);
