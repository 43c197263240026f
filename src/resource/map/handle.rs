//! The map as applications use it.

use super::{
    CLEARED, ClearV1, ContainsV1, GetV1, PUT, PageV1, PutIfAbsentV1, PutV1, REMOVED, RemoveIfV1,
    RemoveV1, ReplaceIfV1, ReplaceV1, SizeV1,
};
use crate::machine::bytes::Reader;
use crate::machine::{Code, EventPayload, Filter, Level, ResourceId, kind};
use crate::resource::handle::{Handle, Swap, Versioned, read_swap, read_versioned};
use crate::resource::registry::DELETED;
use crate::resource::{Delivery, Failure, Reply, Submit, Watch};
use margay_log::id::Index;

/// An ordered map of bytes.
#[derive(Clone, Debug)]
pub struct Map<S> {
    handle: Handle<S>,
}

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
    /// Whether there are more after the last of them.
    pub more: bool,
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
    /// The page begins after this key: the last one of the page before.
    pub after: Option<Vec<u8>>,
    /// At most so many; 0 for as many as fit.
    pub limit: u32,
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
    /// A key was removed.
    Removed {
        /// The key.
        key: Vec<u8>,
        /// The value it had.
        old: Vec<u8>,
    },
    /// All keys were removed.
    Cleared,
    /// The map was deleted.
    Deleted,
    /// Changes were missed: read the map, then go on.
    Lagged,
}

impl<S: Submit> Map<S> {
    /// Opens a map by name; it is created where there is none.
    pub fn open(submit: S, name: &str) -> Reply<Map<S>> {
        Handle::open(submit, name, kind::MAP).and_then(|handle| Ok(Map { handle }))
    }

    /// The map `id`.
    pub fn new(submit: S, id: ResourceId) -> Map<S> {
        Map { handle: Handle::new(submit, id) }
    }

    /// The same, with reads at another level.
    #[must_use]
    pub fn with_level(self, level: Level) -> Map<S> {
        Map { handle: self.handle.with_level(level) }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> ResourceId {
        self.handle.id()
    }

    /// Sets a value. Returns its version.
    pub fn put(&self, key: &[u8], value: &[u8]) -> Reply<Index> {
        let put = PutV1 { key: key.to_vec(), value: value.to_vec(), previous: false };
        self.handle.command(&put).and_then(|answer| Ok(answer.index))
    }

    /// Sets a value. Returns the previous one.
    pub fn get_and_put(&self, key: &[u8], value: &[u8]) -> Reply<Option<Versioned>> {
        let put = PutV1 { key: key.to_vec(), value: value.to_vec(), previous: true };
        self.handle.command(&put).and_then(|answer| read_versioned(Reader::new(&answer.payload)))
    }

    /// Sets the value of a key that has none.
    pub fn put_if_absent(&self, key: &[u8], value: &[u8]) -> Reply<Swap<Option<Versioned>>> {
        let put = PutIfAbsentV1 { key: key.to_vec(), value: value.to_vec() };
        self.handle.command(&put).and_then(|answer| read_swap(&answer))
    }

    /// Sets the value of a key that has one. Returns the previous one; `None` where nothing was
    /// done.
    pub fn replace(&self, key: &[u8], value: &[u8]) -> Reply<Option<Versioned>> {
        let replace = ReplaceV1 { key: key.to_vec(), value: value.to_vec() };
        self.handle
            .command(&replace)
            .and_then(|answer| read_versioned(Reader::new(&answer.payload)))
    }

    /// Sets the value of a key that has the value `expected`.
    pub fn replace_if(
        &self,
        key: &[u8],
        expected: &[u8],
        value: &[u8],
    ) -> Reply<Swap<Option<Versioned>>> {
        let expected = Some(expected.to_vec());
        let (key, value) = (key.to_vec(), value.to_vec());
        self.handle
            .command(&ReplaceIfV1 { key, expected, version: 0, value })
            .and_then(|answer| read_swap(&answer))
    }

    /// Sets the value of a key that has the version `version`.
    pub fn replace_version(
        &self,
        key: &[u8],
        version: Index,
        value: &[u8],
    ) -> Reply<Swap<Option<Versioned>>> {
        let (key, version, value) = (key.to_vec(), version.0, value.to_vec());
        self.handle
            .command(&ReplaceIfV1 { key, expected: None, version, value })
            .and_then(|answer| read_swap(&answer))
    }

    /// Removes a key. Returns whether it was there.
    pub fn remove(&self, key: &[u8]) -> Reply<bool> {
        let remove = RemoveV1 { key: key.to_vec(), previous: false };
        self.handle.command(&remove).and_then(|answer| Ok(Reader::new(&answer.payload).u8()? != 0))
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

    /// Removes a key that has the version `version`.
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

    /// Whether a key is there.
    pub fn contains_key(&self, key: &[u8]) -> Reply<bool> {
        self.handle
            .query(&ContainsV1 { key: key.to_vec() })
            .and_then(|answer| Ok(Reader::new(&answer.payload).u64()? != 0))
    }

    /// The number of keys.
    pub fn size(&self) -> Reply<u64> {
        self.handle.query(&SizeV1 {}).and_then(|answer| Ok(Reader::new(&answer.payload).u64()?))
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
        let MapRange { prefix, after, limit } = range;
        self.handle.query(&PageV1 { prefix, after, limit, values }).and_then(|answer| {
            let mut reader = Reader::new(&answer.payload);
            let more = reader.u8()? != 0;
            let mut entries = Vec::new();
            for _ in 0..reader.u32()? {
                let (key, version) = (reader.bytes()?.to_vec(), Index(reader.u64()?));
                let value = reader.optional()?.map(<[u8]>::to_vec);
                entries.push(MapEntry { key, version, value });
            }
            Ok(MapPage { entries, more })
        })
    }

    /// Changes that pass the filter, after a position or from now on.
    pub fn watch(&self, after: Option<(Index, u32)>, filter: Filter) -> Watch<MapEvent> {
        Watch::new(self.handle.subscribe(after, filter), read_event)
    }
}

fn read_event(delivery: Delivery) -> Result<MapEvent, Failure> {
    let Delivery::Event { index, kind, payload, .. } = delivery else {
        return Ok(MapEvent::Lagged);
    };
    let EventPayload { key, new, old } = EventPayload::decode(&payload)?;
    match (kind, key, new, old) {
        (PUT, Some(key), Some(value), old) => {
            Ok(MapEvent::Put { key, value: Versioned { value, version: index }, old })
        }
        (REMOVED, Some(key), _, Some(old)) => Ok(MapEvent::Removed { key, old }),
        (CLEARED, ..) => Ok(MapEvent::Cleared),
        (DELETED, ..) => Ok(MapEvent::Deleted),
        _ => Err(Failure::from(Code::BAD_PAYLOAD)),
    }
}
