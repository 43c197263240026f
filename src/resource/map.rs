//! An ordered map from bytes to bytes, with a version per entry.
//!
//! The version of an entry is the index of the command that wrote it. Events: [`PUT`], [`REMOVED`],
//! [`CLEARED`].

mod handle;

pub use handle::{Map, MapEntry, MapEvent, MapPage, MapRange};

use super::Resource;
use super::codec::{Operation, Scratch, access, check_by_schema, limits, operation};
use super::handle::{put_swap, put_versioned, thaw_version};
use super::snapshot::Items;
use crate::machine::bytes::{self, Reader};
use crate::machine::{Code, Commit, Effects, Pair, Query, kind};
use imbl::OrdSet;
use margay_log::id::Index;
use std::borrow::Borrow;
use std::cmp::Ordering;
use std::ops::Bound;

/// Event: a key has a new value. With it the old one, if there was one.
pub const PUT: u16 = 1;
/// Event: a key was removed. With it the old value.
pub const REMOVED: u16 = 2;
/// Event: all keys were removed at once.
pub const CLEARED: u16 = 3;

/// Items on a page, at most.
pub const PAGE_MAX: u32 = 1_000;
/// Bytes of keys and values on a page, at most, beyond the first item.
pub const PAGE_BYTES_MAX: usize = 1 << 20;

// ---- operations -----------------------------------------------------------------------------

/// Sets the value of a key. Answers the previous value where that is wished, else nothing.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct PutV1 {
    /// At most 4 KiB.
    pub key: Vec<u8>,
    /// At most 1 MiB.
    pub value: Vec<u8>,
    /// Whether to answer the previous value.
    pub previous: bool,
}

/// Sets the value of a key that has none. Answers 1, or 0 and the value there is.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct PutIfAbsentV1 {
    /// At most 4 KiB.
    pub key: Vec<u8>,
    /// At most 1 MiB.
    pub value: Vec<u8>,
}

/// Removes a key. Answers whether it was there, and the previous value where that is wished.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct RemoveV1 {
    /// At most 4 KiB.
    pub key: Vec<u8>,
    /// Whether to answer the previous value.
    pub previous: bool,
}

/// Removes a key that is there and meets the conditions. Answers 1, or 0 and the value there is.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct RemoveIfV1 {
    /// At most 4 KiB.
    pub key: Vec<u8>,
    /// The value it must have; `None` for any.
    pub expected: Option<Vec<u8>>,
    /// The version it must have; 0 for any.
    pub version: u64,
}

/// Sets the value of a key that has one. Answers the previous value; none where there was none.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct ReplaceV1 {
    /// At most 4 KiB.
    pub key: Vec<u8>,
    /// At most 1 MiB.
    pub value: Vec<u8>,
}

/// Sets the value of a key that is there and meets the conditions. Answers 1, or 0 and the value
/// there is.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct ReplaceIfV1 {
    /// At most 4 KiB.
    pub key: Vec<u8>,
    /// The value it must have; `None` for any.
    pub expected: Option<Vec<u8>>,
    /// The version it must have; 0 for any.
    pub version: u64,
    /// At most 1 MiB.
    pub value: Vec<u8>,
}

/// Removes all keys.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct ClearV1 {}

/// Query: the value of a key.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct GetV1 {
    /// At most 4 KiB.
    pub key: Vec<u8>,
}

/// Query: the version of a key, 0 where it is not there.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct ContainsV1 {
    /// At most 4 KiB.
    pub key: Vec<u8>,
}

/// Query: the number of keys.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct SizeV1 {}

/// Query: entries in order of their keys. Answers 1 where more follow, a count, then key, version
/// and value of each.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct PageV1 {
    /// What the keys begin with.
    pub prefix: Vec<u8>,
    /// The page begins after this key.
    pub after: Option<Vec<u8>>,
    /// At most so many; 0 and anything over [`PAGE_MAX`] stand for [`PAGE_MAX`].
    pub limit: u32,
    /// Whether to answer the values.
    pub values: bool,
}

operation!(PutV1, kind::MAP, 0x0101, "put");
operation!(PutIfAbsentV1, kind::MAP, 0x0201, "put-if-absent");
operation!(RemoveV1, kind::MAP, 0x0301, "remove");
operation!(RemoveIfV1, kind::MAP, 0x0401, "remove-if");
operation!(ReplaceV1, kind::MAP, 0x0501, "replace");
operation!(ReplaceIfV1, kind::MAP, 0x0601, "replace-if");
operation!(ClearV1, kind::MAP, 0x0701, "clear");
operation!(GetV1, kind::MAP, 0x4001, "get");
operation!(ContainsV1, kind::MAP, 0x4101, "contains");
operation!(SizeV1, kind::MAP, 0x4201, "size");
operation!(PageV1, kind::MAP, 0x4301, "page");

limits! {
    ArchivedPutV1: key(key), value(value);
    ArchivedPutIfAbsentV1: key(key), value(value);
    ArchivedRemoveV1: key(key);
    ArchivedRemoveIfV1: key(key), expected(expected);
    ArchivedReplaceV1: key(key), value(value);
    ArchivedReplaceIfV1: key(key), expected(expected), value(value);
    ArchivedClearV1:;
    ArchivedGetV1: key(key);
    ArchivedContainsV1: key(key);
    ArchivedSizeV1:;
    ArchivedPageV1: key(prefix);
}

check_by_schema!(PutV1, PutIfAbsentV1, RemoveV1, RemoveIfV1, ReplaceV1, ReplaceIfV1, ClearV1);

// ---- state ----------------------------------------------------------------------------------

/// Entries by key. Key and value share one allocation with the events that tell of them;
/// replacing a value may keep the old one alive inside the tree, for at most one entry in
/// sixteen.
#[derive(Clone, Debug, Default)]
pub(super) struct MapState {
    entries: OrdSet<Held>,
}

/// An entry. Ordered by its key alone.
#[derive(Clone, Debug)]
struct Held {
    pair: Pair,
    version: Index,
}

impl Held {
    fn meets(&self, expected: Option<&[u8]>, version: u64) -> bool {
        expected.is_none_or(|expected| expected == self.pair.value())
            && (version == 0 || version == self.version.0)
    }

    fn versioned(&self) -> (&[u8], Index) {
        (self.pair.value(), self.version)
    }
}

impl Borrow<[u8]> for Held {
    fn borrow(&self) -> &[u8] {
        self.pair.key()
    }
}

impl Ord for Held {
    fn cmp(&self, other: &Held) -> Ordering {
        self.pair.key().cmp(other.pair.key())
    }
}

impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Held) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Held {
    fn eq(&self, other: &Held) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Held {}

impl Resource for MapState {
    fn apply(&mut self, commit: &Commit<'_>, effects: &mut Effects) {
        if let Err(code) = self.try_apply(commit, effects) {
            effects.refuse(code, "");
        }
    }

    fn query(&self, query: &Query<'_>, effects: &mut Effects) {
        if let Err(code) = self.try_query(query, &mut effects.reply) {
            effects.refuse(code, "");
        }
    }

    fn freeze(&self, after: Option<&[u8]>, items: &mut Items<'_>) -> Option<Vec<u8>> {
        let mut last = after;
        for held in self.entries.range::<_, [u8]>((bound_after(after), Bound::Unbounded)) {
            if items.is_full() {
                return Some(last.unwrap_or_default().to_vec());
            }
            items.put(|out| {
                bytes::put_u64(out, held.version.0);
                bytes::put_bytes(out, held.pair.key());
                bytes::put_bytes(out, held.pair.value());
            });
            last = Some(held.pair.key());
        }
        None
    }

    fn thaw(&mut self, item: &[u8], applied: Index) -> Result<(), Code> {
        let mut reader = Reader::new(item);
        let version = thaw_version(&mut reader, applied)?;
        let pair = Pair::new(reader.bytes()?, reader.bytes()?);
        reader.end()?;
        let held = Held { pair, version };
        if self.entries.get_max().is_some_and(|last| *last >= held) {
            return Err(Code::BAD_PAYLOAD);
        }
        self.entries.insert(held);
        Ok(())
    }

    fn size(&self) -> u64 {
        self.entries.len() as u64
    }

    fn boxed_clone(&self) -> Box<dyn Resource> {
        Box::new(self.clone())
    }
}

impl MapState {
    fn try_apply(&mut self, commit: &Commit<'_>, effects: &mut Effects) -> Result<(), Code> {
        let (payload, mut scratch) = (commit.payload, Scratch::new());
        match commit.schema {
            PutV1::SCHEMA => {
                let put = access::<PutV1>(payload, &mut scratch)?;
                let old = self.put(&put.key, &put.value, commit, effects);
                if put.previous {
                    put_versioned(&mut effects.reply, old.as_ref().map(Held::versioned));
                }
            }
            RemoveV1::SCHEMA => {
                let remove = access::<RemoveV1>(payload, &mut scratch)?;
                let old = self.remove(&remove.key, commit, effects);
                effects.reply.push(u8::from(old.is_some()));
                if remove.previous {
                    put_versioned(&mut effects.reply, old.as_ref().map(Held::versioned));
                }
            }
            ReplaceV1::SCHEMA => {
                let replace = access::<ReplaceV1>(payload, &mut scratch)?;
                let old = match self.entries.contains(&replace.key[..]) {
                    true => self.put(&replace.key, &replace.value, commit, effects),
                    false => None,
                };
                put_versioned(&mut effects.reply, old.as_ref().map(Held::versioned));
            }
            ClearV1::SCHEMA => {
                access::<ClearV1>(payload, &mut scratch)?;
                if !self.entries.is_empty() {
                    self.entries.clear();
                    effects.event(commit.resource, CLEARED, None, None);
                }
            }
            _ => self.apply_conditional(commit, effects)?,
        }
        Ok(())
    }

    fn apply_conditional(
        &mut self,
        commit: &Commit<'_>,
        effects: &mut Effects,
    ) -> Result<(), Code> {
        let (payload, mut scratch) = (commit.payload, Scratch::new());
        match commit.schema {
            PutIfAbsentV1::SCHEMA => {
                let put = access::<PutIfAbsentV1>(payload, &mut scratch)?;
                let held = self.entries.get(&put.key[..]);
                let done = held.is_none();
                put_swap(&mut effects.reply, done, held.map(Held::versioned));
                if done {
                    self.put(&put.key, &put.value, commit, effects);
                }
            }
            RemoveIfV1::SCHEMA => {
                let remove = access::<RemoveIfV1>(payload, &mut scratch)?;
                let expected = remove.expected.as_ref().map(|expected| &expected[..]);
                let held = self.entries.get(&remove.key[..]);
                let done =
                    held.is_some_and(|held| held.meets(expected, remove.version.to_native()));
                put_swap(&mut effects.reply, done, held.map(Held::versioned));
                if done {
                    self.remove(&remove.key, commit, effects);
                }
            }
            ReplaceIfV1::SCHEMA => {
                let replace = access::<ReplaceIfV1>(payload, &mut scratch)?;
                let expected = replace.expected.as_ref().map(|expected| &expected[..]);
                let held = self.entries.get(&replace.key[..]);
                let done =
                    held.is_some_and(|held| held.meets(expected, replace.version.to_native()));
                put_swap(&mut effects.reply, done, held.map(Held::versioned));
                if done {
                    self.put(&replace.key, &replace.value, commit, effects);
                }
            }
            _ => return Err(Code::BAD_KIND),
        }
        Ok(())
    }

    fn put(
        &mut self,
        key: &[u8],
        value: &[u8],
        commit: &Commit<'_>,
        effects: &mut Effects,
    ) -> Option<Held> {
        let pair = Pair::new(key, value);
        let old = self.entries.insert(Held { pair: pair.clone(), version: commit.index });
        let before = old.as_ref().map(|held| held.pair.clone());
        effects.event(commit.resource, PUT, Some(pair), before);
        old
    }

    fn remove(&mut self, key: &[u8], commit: &Commit<'_>, effects: &mut Effects) -> Option<Held> {
        let old = self.entries.remove(key)?;
        effects.event(commit.resource, REMOVED, None, Some(old.pair.clone()));
        Some(old)
    }

    fn try_query(&self, query: &Query<'_>, out: &mut Vec<u8>) -> Result<(), Code> {
        let mut scratch = Scratch::new();
        match query.schema {
            GetV1::SCHEMA => {
                let get = access::<GetV1>(query.payload, &mut scratch)?;
                put_versioned(out, self.entries.get(&get.key[..]).map(Held::versioned));
            }
            ContainsV1::SCHEMA => {
                let contains = access::<ContainsV1>(query.payload, &mut scratch)?;
                let held = self.entries.get(&contains.key[..]);
                bytes::put_u64(out, held.map_or(0, |held| held.version.0));
            }
            SizeV1::SCHEMA => {
                access::<SizeV1>(query.payload, &mut scratch)?;
                bytes::put_u64(out, self.entries.len() as u64);
            }
            PageV1::SCHEMA => self.page(access::<PageV1>(query.payload, &mut scratch)?, out),
            _ => return Err(Code::BAD_KIND),
        }
        Ok(())
    }

    fn page(&self, page: &ArchivedPageV1, out: &mut Vec<u8>) {
        let limit = match page.limit.to_native() {
            0 => PAGE_MAX,
            limit => limit.min(PAGE_MAX),
        };
        let after = page.after.as_ref().map(|after| &after[..]);
        let from = match after {
            Some(after) if after >= &page.prefix[..] => Bound::Excluded(after),
            _ => Bound::Included(&page.prefix[..]),
        };
        let begin = out.len();
        out.push(0);
        bytes::put_u32(out, 0);
        let mut count = 0_u32;
        let range = self.entries.range::<_, [u8]>((from, Bound::Unbounded));
        for held in range.take_while(|held| held.pair.key().starts_with(&page.prefix)) {
            let size =
                held.pair.key().len() + if page.values { held.pair.value().len() } else { 0 };
            if count == limit || (count > 0 && out.len() - begin + size > PAGE_BYTES_MAX) {
                out[begin] = 1;
                break;
            }
            bytes::put_bytes(out, held.pair.key());
            bytes::put_u64(out, held.version.0);
            bytes::put_optional(out, page.values.then_some(held.pair.value()));
            count += 1;
        }
        out[begin + 1..begin + 5].copy_from_slice(&count.to_le_bytes());
    }
}

fn bound_after(after: Option<&[u8]>) -> Bound<&[u8]> {
    after.map_or(Bound::Unbounded, Bound::Excluded)
}
