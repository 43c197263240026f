//! An ordered map from bytes to bytes, with a version per entry.
//!
//! The version of an entry is the index of the command that wrote it. An entry can end by itself,
//! after a time or with the session that put it. Events: those of [`super::entries`].

mod handle;
mod page;

pub use super::entries::{PAGE_BYTES_MAX, PAGE_MAX};
pub use handle::{Map, MapEvent};
pub use page::{MapEntry, MapPage, MapRange};

use super::Resource;
use super::codec::{Operation, Scratch, access, check_by_schema, limits, operation};
use super::entries::{Entries, Held, Life, Page, delegate_to_entries};
use super::handle::{put_swap, put_versioned};
use crate::machine::bytes;
use crate::machine::{Code, Commit, Effects, Pair, Query, kind};

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
    /// Whether it ends with the session.
    pub ephemeral: bool,
    /// Its time to live in milliseconds; 0 for no limit.
    pub ttl_ms: u64,
}

/// Sets the value of a key that has none. Answers 1, or 0 and the value there is.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct PutIfAbsentV1 {
    /// At most 4 KiB.
    pub key: Vec<u8>,
    /// At most 1 MiB.
    pub value: Vec<u8>,
    /// Whether it ends with the session.
    pub ephemeral: bool,
    /// Its time to live in milliseconds; 0 for no limit.
    pub ttl_ms: u64,
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
    /// Whether it ends with the session.
    pub ephemeral: bool,
    /// Its time to live in milliseconds; 0 for no limit.
    pub ttl_ms: u64,
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
    /// Whether it ends with the session.
    pub ephemeral: bool,
    /// Its time to live in milliseconds; 0 for no limit.
    pub ttl_ms: u64,
}

/// Removes all keys.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct ClearV1 {}

/// Removes the first or the last entry. Answers version, key after its length, and value; nothing
/// where there is none.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct PollV1 {
    /// The last one.
    pub last: bool,
}

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

/// Query: entries in order of their keys. Answers the key to go on after or none at the end, a
/// count, then key, version and value of each. A page may be short, even empty, and not the last.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct PageV1 {
    /// What the keys begin with.
    pub prefix: Vec<u8>,
    /// The least key.
    pub from: Option<Vec<u8>>,
    /// The keys are less than this; at most 4 KiB and one byte.
    pub to: Option<Vec<u8>>,
    /// The page begins after this key, in its direction.
    pub after: Option<Vec<u8>>,
    /// At most so many; 0 and anything over [`PAGE_MAX`] stand for [`PAGE_MAX`].
    pub limit: u32,
    /// From the last key to the first.
    pub descending: bool,
    /// Whether to answer the values.
    pub values: bool,
}

/// Query: the values of up to 1,000 keys. Answers a count, then version and value of each, in the
/// order of the keys; after 1 MiB no more of them.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct GetManyV1 {
    /// At most 4 KiB each.
    pub keys: Vec<Vec<u8>>,
}

/// Query: whether a value is there, under any key, among the next 10,000. Answers its key or none,
/// and the key to go on after or none.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct FindValueV1 {
    /// At most 1 MiB.
    pub value: Vec<u8>,
    /// Look at what comes after this key.
    pub after: Option<Vec<u8>>,
}

operation!(PutV1, kind::MAP, 0x0101, "put");
operation!(PutIfAbsentV1, kind::MAP, 0x0201, "put-if-absent");
operation!(RemoveV1, kind::MAP, 0x0301, "remove");
operation!(RemoveIfV1, kind::MAP, 0x0401, "remove-if");
operation!(ReplaceV1, kind::MAP, 0x0501, "replace");
operation!(ReplaceIfV1, kind::MAP, 0x0601, "replace-if");
operation!(ClearV1, kind::MAP, 0x0701, "clear");
operation!(PollV1, kind::MAP, 0x0801, "poll");
operation!(GetV1, kind::MAP, 0x4001, "get");
operation!(ContainsV1, kind::MAP, 0x4101, "contains");
operation!(SizeV1, kind::MAP, 0x4201, "size");
operation!(PageV1, kind::MAP, 0x4301, "page");
operation!(GetManyV1, kind::MAP, 0x4401, "get-many");
operation!(FindValueV1, kind::MAP, 0x4501, "find-value");

limits! {
    ArchivedPutV1: key(key), value(value), ttl(ttl_ms);
    ArchivedPutIfAbsentV1: key(key), value(value), ttl(ttl_ms);
    ArchivedRemoveV1: key(key);
    ArchivedRemoveIfV1: key(key), expected(expected);
    ArchivedReplaceV1: key(key), value(value), ttl(ttl_ms);
    ArchivedReplaceIfV1: key(key), expected(expected), value(value), ttl(ttl_ms);
    ArchivedClearV1:;
    ArchivedPollV1:;
    ArchivedGetV1: key(key);
    ArchivedContainsV1: key(key);
    ArchivedSizeV1:;
    ArchivedPageV1: key(prefix), bound(from), bound(to), bound(after);
    ArchivedGetManyV1: keys(keys);
    ArchivedFindValueV1: value(value), bound(after);
}

check_by_schema!(
    PutV1,
    PutIfAbsentV1,
    RemoveV1,
    RemoveIfV1,
    ReplaceV1,
    ReplaceIfV1,
    ClearV1,
    PollV1
);

// ---- state ----------------------------------------------------------------------------------

/// Entries, and nothing else.
#[derive(Clone, Debug, Default)]
pub(super) struct MapState {
    entries: Entries,
}

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

    delegate_to_entries!(entries);
}

impl MapState {
    fn try_apply(&mut self, commit: &Commit<'_>, effects: &mut Effects) -> Result<(), Code> {
        let (payload, mut scratch) = (commit.payload, Scratch::new());
        match commit.schema {
            PutV1::SCHEMA => {
                let put = access::<PutV1>(payload, &mut scratch)?;
                let life = Life::wished(put.ttl_ms.to_native(), put.ephemeral, commit);
                let old = self.put(&put.key, &put.value, life, commit, effects);
                if put.previous {
                    put_versioned(&mut effects.reply, old.as_ref().map(Held::versioned));
                }
            }
            RemoveV1::SCHEMA => {
                let remove = access::<RemoveV1>(payload, &mut scratch)?;
                let old = self.entries.remove(&remove.key, commit, effects);
                effects.reply.push(u8::from(old.is_some()));
                if remove.previous {
                    put_versioned(&mut effects.reply, old.as_ref().map(Held::versioned));
                }
            }
            ReplaceV1::SCHEMA => {
                let replace = access::<ReplaceV1>(payload, &mut scratch)?;
                let life = Life::wished(replace.ttl_ms.to_native(), replace.ephemeral, commit);
                let old = self.entries.get(&replace.key, commit.time);
                put_versioned(&mut effects.reply, old.map(Held::versioned));
                if old.is_some() {
                    self.put(&replace.key, &replace.value, life, commit, effects);
                }
            }
            ClearV1::SCHEMA => {
                access::<ClearV1>(payload, &mut scratch)?;
                self.entries.clear(commit, effects);
            }
            PollV1::SCHEMA => {
                let descending = access::<PollV1>(payload, &mut scratch)?.last;
                self.poll(&Page { descending, ..Page::default() }, commit, effects)?;
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
                let life = Life::wished(put.ttl_ms.to_native(), put.ephemeral, commit);
                let held = self.entries.get(&put.key, commit.time);
                let done = held.is_none();
                put_swap(&mut effects.reply, done, held.map(Held::versioned));
                if done {
                    self.put(&put.key, &put.value, life, commit, effects);
                }
            }
            RemoveIfV1::SCHEMA => {
                let remove = access::<RemoveIfV1>(payload, &mut scratch)?;
                let expected = remove.expected.as_deref();
                let held = self.entries.get(&remove.key, commit.time);
                let done =
                    held.is_some_and(|held| held.meets(expected, remove.version.to_native()));
                put_swap(&mut effects.reply, done, held.map(Held::versioned));
                if done {
                    self.entries.remove(&remove.key, commit, effects);
                }
            }
            ReplaceIfV1::SCHEMA => {
                let replace = access::<ReplaceIfV1>(payload, &mut scratch)?;
                let life = Life::wished(replace.ttl_ms.to_native(), replace.ephemeral, commit);
                let expected = replace.expected.as_deref();
                let held = self.entries.get(&replace.key, commit.time);
                let done =
                    held.is_some_and(|held| held.meets(expected, replace.version.to_native()));
                put_swap(&mut effects.reply, done, held.map(Held::versioned));
                if done {
                    self.put(&replace.key, &replace.value, life, commit, effects);
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
        life: Life,
        commit: &Commit<'_>,
        effects: &mut Effects,
    ) -> Option<Held<()>> {
        self.entries.put(Pair::new(key, value), life, (), commit, effects)
    }

    fn poll(
        &mut self,
        page: &Page<'_>,
        commit: &Commit<'_>,
        effects: &mut Effects,
    ) -> Result<(), Code> {
        let Some(first) = self.entries.first(page, commit.time)? else { return Ok(()) };
        let pair = first.pair.clone();
        bytes::put_u64(&mut effects.reply, first.version.0);
        bytes::put_bytes(&mut effects.reply, pair.key());
        effects.reply.extend_from_slice(pair.value());
        self.entries.remove(pair.key(), commit, effects);
        Ok(())
    }

    fn try_query(&self, query: &Query<'_>, out: &mut Vec<u8>) -> Result<(), Code> {
        let (payload, now, mut scratch) = (query.payload, query.time, Scratch::new());
        match query.schema {
            GetV1::SCHEMA => {
                let get = access::<GetV1>(payload, &mut scratch)?;
                put_versioned(out, self.entries.get(&get.key, now).map(Held::versioned));
            }
            ContainsV1::SCHEMA => {
                let contains = access::<ContainsV1>(payload, &mut scratch)?;
                let held = self.entries.get(&contains.key, now);
                bytes::put_u64(out, held.map_or(0, |held| held.version.0));
            }
            SizeV1::SCHEMA => {
                access::<SizeV1>(payload, &mut scratch)?;
                bytes::put_u64(out, self.entries.len(now) as u64);
            }
            PageV1::SCHEMA => {
                let page = access::<PageV1>(payload, &mut scratch)?;
                self.entries.page(&page.as_page(), now, out);
            }
            GetManyV1::SCHEMA => {
                let many = access::<GetManyV1>(payload, &mut scratch)?;
                let keys = many.keys.iter().map(|key| &key[..]);
                self.entries.get_many(keys, now, out);
            }
            FindValueV1::SCHEMA => {
                let find = access::<FindValueV1>(payload, &mut scratch)?;
                let after = find.after.as_deref();
                self.entries.find_value(&find.value, after, now, out);
            }
            _ => return Err(Code::BAD_KIND),
        }
        Ok(())
    }
}

impl ArchivedPageV1 {
    fn as_page(&self) -> Page<'_> {
        Page {
            prefix: &self.prefix,
            from: self.from.as_deref(),
            to: self.to.as_deref(),
            after: self.after.as_deref(),
            limit: self.limit.to_native(),
            descending: self.descending,
            values: self.values,
        }
    }
}
