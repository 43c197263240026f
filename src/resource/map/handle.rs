//! The map as applications use it.

use super::page::{MapEntry, MapPage, MapRange};
use super::{
    ClearV1, ContainsV1, FindValueV1, GetManyV1, GetV1, PageV1, PollV1, PutIfAbsentV1, PutV1,
    RemoveIfV1, RemoveV1, ReplaceIfV1, ReplaceV1, SizeV1,
};
use crate::machine::bytes::Reader;
use crate::machine::{Code, EventPayload, Filter, Level, ResourceId, kind};
use crate::resource::codec::limit::KEYS_MAX;
use crate::resource::handle::{
    Handle, Lifetime, Removal, Swap, Versioned, read_bool, read_count, read_found, read_swap,
    read_versioned,
};
use crate::resource::registry::DELETED;
use crate::resource::{Answer, Delivery, Failure, Reply, Submit, Watch, entries};
use margay_log::id::Index;
use std::time::Duration;

/// An ordered map of bytes.
///
/// Keys are at most 4 KiB and values 1 MiB, else writing fails with [`Code::KEY_TOO_LARGE`] or
/// [`Code::VALUE_TOO_LARGE`].
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let client = margay::client::Client::builder().endpoints(["127.0.0.1:5150"]).connect()?;
/// let users = client.map("users").wait()?;
/// users.put(b"ada", b"admin").wait()?;
/// let found = users.get(b"ada").wait()?.expect("just put");
/// users.replace_version(b"ada", found.version, b"author").wait()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Map<S> {
    handle: Handle<S>,
    life: Lifetime,
}

/// A change of a map.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MapEvent {
    /// A key has a new value.
    Put {
        /// The key.
        key: Vec<u8>,
        /// Its value.
        value: Versioned,
        /// The value it had.
        old: Option<Vec<u8>>,
    },
    /// A key is not there any more.
    Removed {
        /// The key.
        key: Vec<u8>,
        /// The value it had.
        old: Vec<u8>,
        /// Where in the log that happened; above the version it had.
        version: Index,
        /// Why.
        why: Removal,
    },
    /// All keys were removed.
    Cleared,
    /// The map was deleted.
    Deleted,
    /// Changes were missed: read the map, then go on.
    Lagged {
        /// Index of the oldest event still kept.
        oldest: Index,
    },
}

impl<S: Submit> Map<S> {
    /// Opens a map by name; it is created where there is none.
    pub fn open(submit: S, name: &str) -> Reply<Map<S>> {
        let opened = Handle::open(submit, name, kind::MAP);
        opened.and_then(|handle| Ok(Map { handle, life: Lifetime::default() }))
    }

    /// The map `id`.
    pub fn new(submit: S, id: ResourceId) -> Map<S> {
        Map { handle: Handle::new(submit, id), life: Lifetime::default() }
    }

    /// The same, with reads at another level.
    #[must_use]
    pub fn with_level(self, level: Level) -> Map<S> {
        Map { handle: self.handle.with_level(level), ..self }
    }

    /// The same map, but what is put through this handle ends by itself after `ttl`, in log time:
    /// 1 ms to 10 years, else putting fails with [`Code::BAD_TIME`]. Parts of a millisecond count
    /// as one. Putting a key again begins anew.
    #[must_use]
    pub fn with_ttl(self, ttl: Duration) -> Map<S> {
        Map { life: self.life.with_ttl(ttl), ..self }
    }

    /// The same map, but what is put through this handle ends with this client's session.
    #[must_use]
    pub fn ephemeral(self) -> Map<S> {
        Map { life: self.life.ephemeral(), ..self }
    }

    /// The way to it, for transactions and operations of one's own.
    #[must_use]
    pub fn handle(&self) -> &Handle<S> {
        &self.handle
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> ResourceId {
        self.handle.id()
    }

    /// Sets a value. Returns its version.
    pub fn put(&self, key: &[u8], value: &[u8]) -> Reply<Index> {
        self.put_asking(key, value, false).and_then(|answer| Ok(answer.index))
    }

    /// Sets a value. Returns the previous one.
    pub fn get_and_put(&self, key: &[u8], value: &[u8]) -> Reply<Option<Versioned>> {
        let put = self.put_asking(key, value, true);
        put.and_then(|answer| read_versioned(Reader::new(&answer.payload)))
    }

    fn put_asking(&self, key: &[u8], value: &[u8], previous: bool) -> Reply<Answer> {
        let (key, value) = (key.to_vec(), value.to_vec());
        let Lifetime { ttl_ms, ephemeral } = self.life;
        self.handle.command(&PutV1 { key, value, previous, ephemeral, ttl_ms })
    }

    /// Sets the value of a key that has none.
    pub fn put_if_absent(&self, key: &[u8], value: &[u8]) -> Reply<Swap<Option<Versioned>>> {
        let (key, value) = (key.to_vec(), value.to_vec());
        let Lifetime { ttl_ms, ephemeral } = self.life;
        let put = PutIfAbsentV1 { key, value, ephemeral, ttl_ms };
        self.handle.command(&put).and_then(|answer| read_swap(&answer))
    }

    /// Sets the value of a key that has one. Returns the previous one; `None` where nothing was
    /// done.
    pub fn replace(&self, key: &[u8], value: &[u8]) -> Reply<Option<Versioned>> {
        let (key, value) = (key.to_vec(), value.to_vec());
        let Lifetime { ttl_ms, ephemeral } = self.life;
        let replace = ReplaceV1 { key, value, ephemeral, ttl_ms };
        self.handle
            .command(&replace)
            .and_then(|answer| read_versioned(Reader::new(&answer.payload)))
    }

    /// Sets the value of a key that has the value `expected`. The two are at most 1 MiB together:
    /// for larger ones compare versions.
    pub fn replace_if(
        &self,
        key: &[u8],
        expected: &[u8],
        value: &[u8],
    ) -> Reply<Swap<Option<Versioned>>> {
        self.replace_meeting(key, Some(expected.to_vec()), 0, value)
    }

    /// Sets the value of a key that has the version `version`, or any for `Index::ZERO`.
    pub fn replace_version(
        &self,
        key: &[u8],
        version: Index,
        value: &[u8],
    ) -> Reply<Swap<Option<Versioned>>> {
        self.replace_meeting(key, None, version.0, value)
    }

    fn replace_meeting(
        &self,
        key: &[u8],
        expected: Option<Vec<u8>>,
        version: u64,
        value: &[u8],
    ) -> Reply<Swap<Option<Versioned>>> {
        let (key, value) = (key.to_vec(), value.to_vec());
        let Lifetime { ttl_ms, ephemeral } = self.life;
        self.handle
            .command(&ReplaceIfV1 { key, expected, version, value, ephemeral, ttl_ms })
            .and_then(|answer| read_swap(&answer))
    }

    /// Removes a key. Returns whether it was there.
    pub fn remove(&self, key: &[u8]) -> Reply<bool> {
        let remove = RemoveV1 { key: key.to_vec(), previous: false };
        self.handle.command(&remove).and_then(read_bool)
    }

    /// Removes a key. Returns the value it had.
    pub fn get_and_remove(&self, key: &[u8]) -> Reply<Option<Versioned>> {
        let remove = RemoveV1 { key: key.to_vec(), previous: true };
        self.handle.command(&remove).and_then(|answer| {
            let mut reader = Reader::new(&answer.payload);
            reader.u8()?;
            read_versioned(reader)
        })
    }

    /// Removes a key that has the value `expected`.
    pub fn remove_if(&self, key: &[u8], expected: &[u8]) -> Reply<Swap<Option<Versioned>>> {
        let (key, expected) = (key.to_vec(), Some(expected.to_vec()));
        self.handle
            .command(&RemoveIfV1 { key, expected, version: 0 })
            .and_then(|answer| read_swap(&answer))
    }

    /// Removes a key that has the version `version`, or any for `Index::ZERO`.
    pub fn remove_version(&self, key: &[u8], version: Index) -> Reply<Swap<Option<Versioned>>> {
        let (key, version) = (key.to_vec(), version.0);
        self.handle
            .command(&RemoveIfV1 { key, expected: None, version })
            .and_then(|answer| read_swap(&answer))
    }

    /// Removes all keys.
    pub fn clear(&self) -> Reply<()> {
        self.handle.command(&ClearV1 {}).and_then(|_| Ok(()))
    }

    /// Removes and returns the entry with the least key.
    pub fn poll_first(&self) -> Reply<Option<MapEntry>> {
        self.poll(false)
    }

    /// Removes and returns the entry with the greatest key.
    pub fn poll_last(&self) -> Reply<Option<MapEntry>> {
        self.poll(true)
    }

    fn poll(&self, last: bool) -> Reply<Option<MapEntry>> {
        self.handle.command(&PollV1 { last }).and_then(|answer| {
            if answer.payload.is_empty() {
                return Ok(None);
            }
            let mut reader = Reader::new(&answer.payload);
            let (version, key) = (Index(reader.u64()?), reader.bytes()?.to_vec());
            Ok(Some(MapEntry { key, version, value: Some(reader.rest().to_vec()) }))
        })
    }

    /// Reads a value, lets `change` make the new one of it, or none, and writes that if nobody was
    /// faster; else begins again with what is there then. Returns what was written.
    pub fn compute<F>(&self, key: &[u8], mut change: F) -> Reply<Option<Versioned>>
    where
        F: FnMut(Option<&[u8]>) -> Option<Vec<u8>> + Send + 'static,
    {
        self.try_compute(key, move |found| Ok(change(found)))
    }

    /// The same; where `change` fails, nothing is written.
    pub(in super::super) fn try_compute<F>(&self, key: &[u8], change: F) -> Reply<Option<Versioned>>
    where
        F: FnMut(Option<&[u8]>) -> Result<Option<Vec<u8>>, Failure> + Send + 'static,
    {
        let (map, own_key) = (self.clone(), key.to_vec());
        self.get(key).then(move |found| match found {
            Ok(found) => map.compute_from(own_key, found, change),
            Err(failure) => Reply::ready(Err(failure)),
        })
    }

    fn compute_from<F>(
        self,
        key: Vec<u8>,
        found: Option<Versioned>,
        mut change: F,
    ) -> Reply<Option<Versioned>>
    where
        F: FnMut(Option<&[u8]>) -> Result<Option<Vec<u8>>, Failure> + Send + 'static,
    {
        let new = match change(found.as_ref().map(|found| &found.value[..])) {
            Ok(new) => new,
            Err(failure) => return Reply::ready(Err(failure)),
        };
        let tried = match (&found, &new) {
            (None, None) => return Reply::ready(Ok(None)),
            (None, Some(value)) => self.put_if_absent(&key, value),
            (Some(old), Some(value)) => self.replace_version(&key, old.version, value),
            (Some(old), None) => self.remove_version(&key, old.version),
        };
        tried.then(move |swap| match swap {
            Ok(Swap::Done(version)) => {
                Reply::ready(Ok(new.map(|value| Versioned { value, version })))
            }
            Ok(Swap::Conflict(found)) => self.compute_from(key, found, change),
            Err(failure) => Reply::ready(Err(failure)),
        })
    }

    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> Reply<Option<Versioned>> {
        self.handle
            .query(&GetV1 { key: key.to_vec() })
            .and_then(|answer| read_versioned(Reader::new(&answer.payload)))
    }

    /// The value of a key, or `default`.
    pub fn get_or_default(&self, key: &[u8], default: &[u8]) -> Reply<Vec<u8>> {
        let default = default.to_vec();
        self.get(key).and_then(|found| Ok(found.map_or(default, |found| found.value)))
    }

    /// The values of many keys, in their order. Those that fit into 1 MiB together, and are up to
    /// 1,000, are as of one moment; each part of that size after them is as of another.
    pub fn get_many<K: AsRef<[u8]>>(&self, keys: &[K]) -> Reply<Vec<Option<Versioned>>> {
        let keys = keys.iter().map(|key| key.as_ref().to_vec()).collect();
        self.clone().get_more(keys, Vec::new())
    }

    fn get_more(
        self,
        mut keys: Vec<Vec<u8>>,
        mut found: Vec<Option<Versioned>>,
    ) -> Reply<Vec<Option<Versioned>>> {
        if keys.is_empty() {
            return Reply::ready(Ok(found));
        }
        let part = keys[..keys.len().min(KEYS_MAX)].to_vec();
        self.handle.query(&GetManyV1 { keys: part }).then(move |answer| {
            match answer.and_then(|answer| read_many(&answer, &mut found)) {
                Ok(count) if count > 0 && count <= keys.len() => {
                    keys.drain(..count);
                    self.get_more(keys, found)
                }
                Ok(_) => Reply::ready(Err(Failure::from(Code::BAD_PAYLOAD))),
                Err(failure) => Reply::ready(Err(failure)),
            }
        })
    }

    /// Whether a key is there.
    pub fn contains_key(&self, key: &[u8]) -> Reply<bool> {
        self.handle
            .query(&ContainsV1 { key: key.to_vec() })
            .and_then(|answer| Ok(Reader::new(&answer.payload).u64()? != 0))
    }

    /// Whether a value is there, under any key: looks at all of them, 10,000 at a time, each of
    /// these parts as of one moment.
    pub fn contains_value(&self, value: &[u8]) -> Reply<bool> {
        self.clone().find_value(value.to_vec(), None)
    }

    fn find_value(self, value: Vec<u8>, after: Option<Vec<u8>>) -> Reply<bool> {
        let find = FindValueV1 { value, after };
        self.handle.query(&find).then(move |answer| match answer.and_then(read_found) {
            Ok((false, Some(next))) => self.find_value(find.value, Some(next)),
            Ok((found, _)) => Reply::ready(Ok(found)),
            Err(failure) => Reply::ready(Err(failure)),
        })
    }

    /// The entry with the least key.
    pub fn first(&self) -> Reply<Option<MapEntry>> {
        self.one(MapRange::default())
    }

    /// The entry with the greatest key.
    pub fn last(&self) -> Reply<Option<MapEntry>> {
        self.one(MapRange { descending: true, ..MapRange::default() })
    }

    /// The entry with the greatest key up to and including `key`.
    pub fn floor(&self, key: &[u8]) -> Reply<Option<MapEntry>> {
        let to = Some([key, &[0]].concat());
        self.one(MapRange { to, descending: true, ..MapRange::default() })
    }

    /// The entry with the least key from `key` on.
    pub fn ceiling(&self, key: &[u8]) -> Reply<Option<MapEntry>> {
        self.one(MapRange { from: Some(key.to_vec()), ..MapRange::default() })
    }

    /// The entry with the greatest key below `key`.
    pub fn lower(&self, key: &[u8]) -> Reply<Option<MapEntry>> {
        let to = Some(key.to_vec());
        self.one(MapRange { to, descending: true, ..MapRange::default() })
    }

    /// The entry with the least key above `key`.
    pub fn higher(&self, key: &[u8]) -> Reply<Option<MapEntry>> {
        self.one(MapRange { from: Some([key, &[0]].concat()), ..MapRange::default() })
    }

    fn one(&self, range: MapRange) -> Reply<Option<MapEntry>> {
        let map = self.clone();
        self.page(MapRange { limit: 1, ..range.clone() }, true).then(move |page| match page {
            Ok(MapPage { mut entries, next }) => match (entries.pop(), next) {
                // All that was looked at had just ended.
                (None, Some(next)) => map.one(MapRange { after: Some(next), ..range }),
                (entry, _) => Reply::ready(Ok(entry)),
            },
            Err(failure) => Reply::ready(Err(failure)),
        })
    }

    /// The number of keys.
    pub fn size(&self) -> Reply<u64> {
        self.handle.query(&SizeV1 {}).and_then(read_count)
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> Reply<bool> {
        self.size().and_then(|size| Ok(size == 0))
    }

    /// A page of keys, without values.
    pub fn keys(&self, range: MapRange) -> Reply<MapPage> {
        self.page(range, false)
    }

    /// A page of keys and values. For values alone see [`MapPage::into_values`].
    pub fn entries(&self, range: MapRange) -> Reply<MapPage> {
        self.page(range, true)
    }

    fn page(&self, range: MapRange, values: bool) -> Reply<MapPage> {
        let MapRange { prefix, from, to, after, limit, descending } = range;
        let page = PageV1 { prefix, from, to, after, limit, descending, values };
        self.handle.query(&page).and_then(|answer| {
            let mut reader = Reader::new(&answer.payload);
            let next = reader.optional()?.map(<[u8]>::to_vec);
            let mut entries = Vec::new();
            for _ in 0..reader.u32()? {
                let (key, version) = (reader.bytes()?.to_vec(), Index(reader.u64()?));
                let value = reader.optional()?.map(<[u8]>::to_vec);
                entries.push(MapEntry { key, version, value });
            }
            Ok(MapPage { entries, next })
        })
    }

    /// Changes that pass the filter, after a position or from now on.
    pub fn watch(&self, after: Option<(Index, u32)>, filter: Filter) -> Watch<MapEvent> {
        Watch::new(self.handle.subscribe(after, filter), read_event)
    }
}

/// Appends what is answered of the keys asked for. Returns how many.
fn read_many(answer: &Answer, found: &mut Vec<Option<Versioned>>) -> Result<usize, Failure> {
    let mut reader = Reader::new(&answer.payload);
    let count = reader.u32()?;
    for _ in 0..count {
        let (version, value) = (Index(reader.u64()?), reader.bytes()?.to_vec());
        found.push((version != Index::ZERO).then_some(Versioned { value, version }));
    }
    Ok(count as usize)
}

fn read_event(delivery: Delivery) -> Result<MapEvent, Failure> {
    let (index, kind, payload) = match delivery {
        Delivery::Lagged { oldest } => return Ok(MapEvent::Lagged { oldest }),
        Delivery::Event { index, kind, payload, .. } => (index, kind, payload),
    };
    let EventPayload { key, new, old } = EventPayload::decode(&payload)?;
    match (kind, key, new, old) {
        (entries::PUT, Some(key), Some(value), old) => {
            Ok(MapEvent::Put { key, value: Versioned { value, version: index }, old })
        }
        (entries::CLEARED, ..) => Ok(MapEvent::Cleared),
        (DELETED, ..) => Ok(MapEvent::Deleted),
        (kind, Some(key), _, Some(old)) => match Removal::of_event(kind) {
            Some(why) => Ok(MapEvent::Removed { key, old, version: index, why }),
            None => Err(Failure::from(Code::BAD_PAYLOAD)),
        },
        _ => Err(Failure::from(Code::BAD_PAYLOAD)),
    }
}
