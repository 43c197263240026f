//! A map from one type to another.

use super::{Change, Data, Stored, read, read_found, read_some, read_swap};
use crate::machine::{Filter, Level};
use crate::resource::map::{MapEntry, MapRange};
use crate::resource::{Failure, Map, Reply, Submit, Swap, Watch};
use margay_log::id::Index;
use std::marker::PhantomData;
use std::time::Duration;

/// A map from one type to another, in the order of the keys' bytes.
pub struct MapOf<K, V, S> {
    map: Map<S>,
    is: PhantomData<fn() -> (K, V)>,
}

/// An entry of a [`MapOf`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry<K, V> {
    /// Its key.
    pub key: K,
    /// Its value.
    pub value: V,
    /// The version of the value.
    pub version: Index,
}

/// Entries of a [`MapOf`], in order of their keys.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EntryPage<K, V> {
    /// The entries.
    pub entries: Vec<Entry<K, V>>,
    /// Ask for the next page after this key; `None` where this is the last. A page may be short,
    /// even empty, and not the last.
    pub next: Option<K>,
}

impl<K: Data, V: Data, S: Submit> MapOf<K, V, S> {
    /// The same map, read and written as types.
    pub fn new(map: Map<S>) -> MapOf<K, V, S> {
        MapOf { map, is: PhantomData }
    }

    /// The map in bytes, for all else it can do.
    #[must_use]
    pub fn bytes(&self) -> &Map<S> {
        &self.map
    }

    /// See [`Map::with_level`].
    #[must_use]
    pub fn with_level(self, level: Level) -> MapOf<K, V, S> {
        MapOf::new(self.map.with_level(level))
    }

    /// See [`Map::with_ttl`].
    #[must_use]
    pub fn with_ttl(self, ttl: Duration) -> MapOf<K, V, S> {
        MapOf::new(self.map.with_ttl(ttl))
    }

    /// See [`Map::ephemeral`].
    #[must_use]
    pub fn ephemeral(self) -> MapOf<K, V, S> {
        MapOf::new(self.map.ephemeral())
    }

    /// The value of a key.
    pub fn get(&self, key: &K) -> Reply<Option<Stored<V>>> {
        self.map.get(&key.to_bytes()).and_then(read_some)
    }

    /// The values of many keys, in their order; see [`Map::get_many`].
    pub fn get_many(&self, keys: &[K]) -> Reply<Vec<Option<Stored<V>>>> {
        let keys: Vec<Vec<u8>> = keys.iter().map(Data::to_bytes).collect();
        let found = self.map.get_many(&keys);
        found.and_then(|found| found.into_iter().map(read_some).collect())
    }

    /// Sets the value of a key. Returns its version.
    pub fn put(&self, key: &K, value: &V) -> Reply<Index> {
        self.map.put(&key.to_bytes(), &value.to_bytes())
    }

    /// Sets the value of a key. Returns the previous one.
    pub fn get_and_put(&self, key: &K, value: &V) -> Reply<Option<Stored<V>>> {
        self.map.get_and_put(&key.to_bytes(), &value.to_bytes()).and_then(read_some)
    }

    /// Sets the value of a key that has none.
    pub fn put_if_absent(&self, key: &K, value: &V) -> Reply<Swap<Option<Stored<V>>>> {
        self.map.put_if_absent(&key.to_bytes(), &value.to_bytes()).and_then(read_swap)
    }

    /// Sets the value of a key that has the version `version`, or any for `Index::ZERO`.
    pub fn replace_version(
        &self,
        key: &K,
        version: Index,
        value: &V,
    ) -> Reply<Swap<Option<Stored<V>>>> {
        let replaced = self.map.replace_version(&key.to_bytes(), version, &value.to_bytes());
        replaced.and_then(read_swap)
    }

    /// See [`Map::compute`].
    pub fn compute<F>(&self, key: &K, mut change: F) -> Reply<Option<Stored<V>>>
    where
        F: FnMut(Option<V>) -> Option<V> + Send + 'static,
    {
        let change =
            move |found: Option<&[u8]>| Ok(change(read_found(found)?).map(|new| new.to_bytes()));
        let computed = self.map.try_compute(&key.to_bytes(), change);
        computed.and_then(|written| written.map(read).transpose())
    }

    /// Removes a key. Returns whether it was there.
    pub fn remove(&self, key: &K) -> Reply<bool> {
        self.map.remove(&key.to_bytes())
    }

    /// Removes a key. Returns the value it had.
    pub fn get_and_remove(&self, key: &K) -> Reply<Option<Stored<V>>> {
        self.map.get_and_remove(&key.to_bytes()).and_then(read_some)
    }

    /// Removes a key that has the version `version`, or any for `Index::ZERO`.
    pub fn remove_version(&self, key: &K, version: Index) -> Reply<Swap<Option<Stored<V>>>> {
        self.map.remove_version(&key.to_bytes(), version).and_then(read_swap)
    }

    /// Removes all keys.
    pub fn clear(&self) -> Reply<()> {
        self.map.clear()
    }

    /// Removes and returns the entry with the least key.
    pub fn poll_first(&self) -> Reply<Option<Entry<K, V>>> {
        self.map.poll_first().and_then(read_entry)
    }

    /// Removes and returns the entry with the greatest key.
    pub fn poll_last(&self) -> Reply<Option<Entry<K, V>>> {
        self.map.poll_last().and_then(read_entry)
    }

    /// Whether a key is there.
    pub fn contains(&self, key: &K) -> Reply<bool> {
        self.map.contains_key(&key.to_bytes())
    }

    /// How many entries there are.
    pub fn size(&self) -> Reply<u64> {
        self.map.size()
    }

    /// The entry with the least key.
    pub fn first(&self) -> Reply<Option<Entry<K, V>>> {
        self.map.first().and_then(read_entry)
    }

    /// The entry with the greatest key.
    pub fn last(&self) -> Reply<Option<Entry<K, V>>> {
        self.map.last().and_then(read_entry)
    }

    /// The entry with the greatest key up to and including `key`.
    pub fn floor(&self, key: &K) -> Reply<Option<Entry<K, V>>> {
        self.map.floor(&key.to_bytes()).and_then(read_entry)
    }

    /// The entry with the least key from `key` on.
    pub fn ceiling(&self, key: &K) -> Reply<Option<Entry<K, V>>> {
        self.map.ceiling(&key.to_bytes()).and_then(read_entry)
    }

    /// A page of entries after a key, or from the first; at most `limit`, 0 for as many as a page
    /// holds.
    pub fn entries(&self, after: Option<&K>, limit: u32) -> Reply<EntryPage<K, V>> {
        let after = after.map(Data::to_bytes);
        let range = MapRange { after, limit, ..MapRange::default() };
        self.map.entries(range).and_then(|page| {
            let entries = page.entries.into_iter().map(entry).collect::<Result<_, Failure>>()?;
            let next = page.next.as_deref().map(K::from_bytes).transpose()?;
            Ok(EntryPage { entries, next })
        })
    }

    /// Changes of all keys, after a position or from now on.
    pub fn watch(&self, after: Option<(Index, u32)>) -> Watch<Change<K, V>> {
        Watch::new(self.map.handle().subscribe(after, Filter::All), Change::read)
    }

    /// Changes of one key, after a position or from now on.
    pub fn watch_key(&self, key: &K, after: Option<(Index, u32)>) -> Watch<Change<K, V>> {
        let filter = Filter::Key(key.to_bytes());
        Watch::new(self.map.handle().subscribe(after, filter), Change::read)
    }
}

fn entry<K: Data, V: Data>(entry: MapEntry) -> Result<Entry<K, V>, Failure> {
    let MapEntry { key, version, value } = entry;
    let value = V::from_bytes(value.as_deref().unwrap_or_default())?;
    Ok(Entry { key: K::from_bytes(&key)?, value, version })
}

fn read_entry<K: Data, V: Data>(found: Option<MapEntry>) -> Result<Option<Entry<K, V>>, Failure> {
    found.map(entry).transpose()
}

impl<K, V, S: Clone> Clone for MapOf<K, V, S> {
    fn clone(&self) -> Self {
        MapOf { map: self.map.clone(), is: PhantomData }
    }
}
