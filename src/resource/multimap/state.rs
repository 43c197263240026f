//! What a multimap keeps: values by key.

use super::*;
use crate::machine::bytes::{self, Reader};
use crate::machine::{Code, Commit, Effects, LogTime, Pair, Query, Shared};
use crate::resource::codec::{Operation, Scratch, access, page_limit};
use crate::resource::handle::thaw_version;
use crate::resource::snapshot::Items;
use crate::resource::waste::Waste;
use crate::resource::{Firing, Resource};
use imbl::{OrdMap, OrdSet};
use margay_log::id::Index;
use std::borrow::Borrow;
use std::cmp::Ordering;
use std::ops::Bound;

/// A key, shared by all who keep it.
type Key = Shared<[u8]>;

/// Values by key. No key is there without a value.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct MultimapState {
    keys: OrdMap<Key, OrdSet<Value>>,
    /// Entries in all.
    size: u64,
    /// What was removed at once, until somebody takes it.
    waste: Removed,
}

/// A value of a key, in one allocation with it. Ordered by the value alone.
#[derive(Clone, Debug)]
struct Value {
    pair: Pair,
    version: Index,
}

impl Resource for MultimapState {
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

    fn size(&self, _now: LogTime) -> u64 {
        self.size
    }

    fn deleted(&mut self, _firing: &Firing, _limit: usize, _effects: &mut Effects) -> bool {
        self.discard();
        false
    }

    fn take_waste(&mut self) -> Option<Box<dyn Waste>> {
        let waste = std::mem::take(&mut self.waste);
        (!waste.0.is_empty()).then(|| Box::new(waste) as Box<dyn Waste>)
    }

    fn freeze(&self, after: Option<&[u8]>, items: &mut Items<'_>) -> Option<Vec<u8>> {
        // A place: the last key, after its length, and its last value written.
        let mut place = after.unwrap_or_default().to_vec();
        let mut reader = Reader::new(after.unwrap_or_default());
        let all = match reader.bytes() {
            Ok(key) => self.iter_from(key, Some(Bound::Excluded(reader.rest()))),
            Err(_) => self.iter_from(&[], Some(Bound::Unbounded)),
        };
        for (key, value) in all {
            if items.is_full() {
                return Some(place);
            }
            items.put(|out| {
                bytes::put_u64(out, value.version.0);
                bytes::put_bytes(out, key);
                bytes::put_bytes(out, value.pair.value());
            });
            place.clear();
            bytes::put_bytes(&mut place, key);
            place.extend_from_slice(value.pair.value());
        }
        None
    }

    fn thaw(&mut self, item: &[u8], applied: Index) -> Result<(), Code> {
        let mut reader = Reader::new(item);
        let version = thaw_version(&mut reader, applied)?;
        let (key, value) = (reader.bytes()?, reader.bytes()?);
        reader.end()?;
        let last = self.keys.get_max().and_then(|(key, values)| Some((key, values.get_max()?)));
        if last.is_some_and(|(last, least)| (&last[..], least.pair.value()) >= (key, value)) {
            return Err(Code::BAD_PAYLOAD);
        }
        self.insert(Value { pair: Pair::new(key, value), version });
        Ok(())
    }

    fn boxed_clone(&self) -> Box<dyn Resource> {
        Box::new(self.clone())
    }
}

impl MultimapState {
    fn try_apply(&mut self, commit: &Commit<'_>, effects: &mut Effects) -> Result<(), Code> {
        let (payload, mut scratch) = (commit.payload, Scratch::new());
        match commit.schema {
            PutV1::SCHEMA => {
                let put = access::<PutV1>(payload, &mut scratch)?;
                let is_new = self.put(&put.key, &put.value, commit, effects);
                effects.reply.push(u8::from(is_new));
            }
            ReplaceV1::SCHEMA => {
                let replace = access::<ReplaceV1>(payload, &mut scratch)?;
                let before = self.remove_key(&replace.key, commit, effects);
                for value in replace.values.iter() {
                    self.put(&replace.key, value, commit, effects);
                }
                bytes::put_u64(&mut effects.reply, before);
            }
            RemoveEntryV1::SCHEMA => {
                let remove = access::<RemoveEntryV1>(payload, &mut scratch)?;
                let was_there = self.remove(&remove.key, &remove.value, commit, effects);
                effects.reply.push(u8::from(was_there));
            }
            RemoveKeyV1::SCHEMA => {
                let remove = access::<RemoveKeyV1>(payload, &mut scratch)?;
                let before = self.remove_key(&remove.key, commit, effects);
                bytes::put_u64(&mut effects.reply, before);
            }
            RemoveValueV1::SCHEMA => {
                let remove = access::<RemoveValueV1>(payload, &mut scratch)?;
                let after = remove.after.as_deref();
                let (having, next) = self.having(&remove.value, after, SCAN_MAX);
                for key in &having {
                    self.remove(key, &remove.value, commit, effects);
                }
                bytes::put_u64(&mut effects.reply, having.len() as u64);
                bytes::put_optional(&mut effects.reply, next.as_deref());
            }
            ClearV1::SCHEMA => {
                access::<ClearV1>(payload, &mut scratch)?;
                if self.size > 0 {
                    self.discard();
                    effects.event(commit.resource, entries::CLEARED, None, None);
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
    ) -> bool {
        if self.has(key, value) {
            return false;
        }
        let pair = Pair::new(key, value);
        self.insert(Value { pair: pair.clone(), version: commit.index });
        effects.event(commit.resource, entries::PUT, Some(pair), None);
        true
    }

    fn insert(&mut self, value: Value) {
        self.size += 1;
        let key = value.pair.key();
        match self.keys.get_mut(key) {
            Some(values) => drop(values.insert(value)),
            None => drop(self.keys.insert(key.into(), OrdSet::unit(value))),
        }
    }

    fn remove(
        &mut self,
        key: &[u8],
        value: &[u8],
        commit: &Commit<'_>,
        effects: &mut Effects,
    ) -> bool {
        if !self.has(key, value) {
            return false;
        }
        let values = self.keys.get_mut(key).expect("it has a value");
        let removed = values.remove(value).expect("just seen");
        if values.is_empty() {
            self.keys.remove(key);
        }
        self.size -= 1;
        effects.event(commit.resource, entries::REMOVED, None, Some(removed.pair));
        true
    }

    fn remove_key(&mut self, key: &[u8], commit: &Commit<'_>, effects: &mut Effects) -> u64 {
        let Some(values) = self.keys.remove(key) else { return 0 };
        let removed = values.len() as u64;
        self.size -= removed;
        self.waste.0.push(values);
        effects.event(commit.resource, KEY_REMOVED, None, Some(Pair::new(key, &[])));
        removed
    }

    /// Removes all keys without a word.
    fn discard(&mut self) {
        let keys = std::mem::take(&mut self.keys);
        self.size = 0;
        self.waste.1.push(keys);
    }

    fn has(&self, key: &[u8], value: &[u8]) -> bool {
        self.keys.get(key).is_some_and(|values| values.contains(value))
    }

    /// Which of the next `limit` keys have a value, and the key to go on after.
    fn having(&self, value: &[u8], after: Option<&[u8]>, limit: usize) -> (Vec<Key>, Option<Key>) {
        let mut rest = self.keys.range::<_, [u8]>((after_key(after), Bound::Unbounded));
        let (mut having, mut last) = (Vec::new(), None);
        for (key, values) in rest.by_ref().take(limit) {
            if values.contains(value) {
                having.push(key.clone());
            }
            last = Some(key.clone());
        }
        (having, last.filter(|_| rest.next().is_some()))
    }

    /// The values of a key that are in a range, or none of them, then all entries of later keys.
    fn iter_from<'a>(
        &'a self,
        key: &'a [u8],
        values: Option<Bound<&'a [u8]>>,
    ) -> impl Iterator<Item = (&'a [u8], &'a Value)> {
        let of_key = values.and_then(|from| {
            let all = self.keys.get(key)?;
            Some(all.range::<_, [u8]>((from, Bound::Unbounded)))
        });
        let of_key = of_key.into_iter().flatten().map(|value| (value.pair.key(), value));
        let later = self.keys.range::<_, [u8]>((Bound::Excluded(key), Bound::Unbounded));
        of_key.chain(later.flat_map(|(key, values)| values.iter().map(move |v| (&key[..], v))))
    }

    fn try_query(&self, query: &Query<'_>, out: &mut Vec<u8>) -> Result<(), Code> {
        let (payload, mut scratch) = (query.payload, Scratch::new());
        match query.schema {
            GetV1::SCHEMA => self.get(access::<GetV1>(payload, &mut scratch)?, out),
            ContainsV1::SCHEMA => {
                let contains = access::<ContainsV1>(payload, &mut scratch)?;
                out.push(u8::from(match contains.value.as_ref() {
                    Some(value) => self.has(&contains.key, value),
                    None => self.keys.contains_key(&contains.key[..]),
                }));
            }
            FindValueV1::SCHEMA => {
                let find = access::<FindValueV1>(payload, &mut scratch)?;
                let after = find.after.as_deref();
                let (having, next) = self.having(&find.value, after, SCAN_MAX);
                bytes::put_optional(out, having.first().map(|key| &key[..]));
                bytes::put_optional(out, next.as_deref().filter(|_| having.is_empty()));
            }
            SizeV1::SCHEMA => {
                let (entries, keys) = match access::<SizeV1>(payload, &mut scratch)?.key.as_ref() {
                    Some(key) => match self.keys.get(&key[..]) {
                        Some(values) => (values.len() as u64, 1),
                        None => (0, 0),
                    },
                    None => (self.size, self.keys.len() as u64),
                };
                bytes::put_u64(out, entries);
                bytes::put_u64(out, keys);
            }
            PageV1::SCHEMA => self.page(access::<PageV1>(payload, &mut scratch)?, out),
            _ => return Err(Code::BAD_KIND),
        }
        Ok(())
    }

    fn get(&self, get: &ArchivedGetV1, out: &mut Vec<u8>) {
        let limit = page_limit(get.limit.to_native(), PAGE_MAX);
        let from = get.after.as_ref().map_or(Bound::Unbounded, |after| Bound::Excluded(&after[..]));
        let values = self.keys.get(&get.key[..]);
        let values =
            values.into_iter().flat_map(|all| all.range::<_, [u8]>((from, Bound::Unbounded)));
        let (mut body, mut count, mut last, mut next) = (Vec::new(), 0, None, None);
        for value in values {
            let size = value.pair.value().len();
            if count == limit || (count > 0 && body.len() + size > PAGE_BYTES_MAX) {
                next = last;
                break;
            }
            bytes::put_u64(&mut body, value.version.0);
            bytes::put_bytes(&mut body, value.pair.value());
            count += 1;
            last = Some(value.pair.value());
        }
        bytes::put_optional(out, next);
        bytes::put_u32(out, count);
        out.extend_from_slice(&body);
    }

    fn page(&self, page: &ArchivedPageV1, out: &mut Vec<u8>) {
        let limit = page_limit(page.limit.to_native(), PAGE_MAX);
        let after = page.after_key.as_deref();
        let after = after.filter(|key| *key >= &page.prefix[..]);
        let all = match after {
            Some(key) => {
                let after = page.after_value.as_ref().map(|value| Bound::Excluded(&value[..]));
                self.iter_from(key, after)
            }
            None => self.iter_from(&page.prefix, Some(Bound::Unbounded)),
        };
        let begin = out.len();
        out.push(0);
        bytes::put_u32(out, 0);
        let mut count = 0_u32;
        for (key, value) in all.take_while(|(key, _)| key.starts_with(&page.prefix)) {
            let size = key.len() + value.pair.value().len();
            if count == limit || (count > 0 && out.len() - begin + size > PAGE_BYTES_MAX) {
                out[begin] = 1;
                break;
            }
            bytes::put_bytes(out, key);
            bytes::put_u64(out, value.version.0);
            bytes::put_bytes(out, value.pair.value());
            count += 1;
        }
        out[begin + 1..begin + 5].copy_from_slice(&count.to_le_bytes());
    }
}

fn after_key(after: Option<&[u8]>) -> Bound<&[u8]> {
    after.map_or(Bound::Unbounded, Bound::Excluded)
}

/// Values of single keys, and whole maps.
#[derive(Clone, Debug, Default)]
struct Removed(Vec<OrdSet<Value>>, Vec<OrdMap<Key, OrdSet<Value>>>);

impl Waste for Removed {
    fn shed(&mut self, limit: usize) -> bool {
        for _ in 0..limit {
            if let Some(values) = self.0.last_mut() {
                if values.remove_min().is_none() {
                    self.0.pop();
                }
            } else if let Some(keys) = self.1.last_mut() {
                match keys.get_min().map(|(key, _)| key.clone()) {
                    Some(first) => self.0.extend(keys.remove(&first)),
                    None => drop(self.1.pop()),
                }
            } else {
                return false;
            }
        }
        true
    }
}

impl Borrow<[u8]> for Value {
    fn borrow(&self) -> &[u8] {
        self.pair.value()
    }
}

impl Ord for Value {
    fn cmp(&self, other: &Value) -> Ordering {
        self.pair.value().cmp(other.pair.value())
    }
}

impl PartialOrd for Value {
    fn partial_cmp(&self, other: &Value) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Value) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Value {}
