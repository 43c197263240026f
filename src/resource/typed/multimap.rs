//! A multimap from one type to another.

use super::{Data, Entry, Stored, read};
use crate::machine::{Filter, Level};
use crate::resource::multimap::{MultimapEvent, MultimapRange, read_event};
use crate::resource::{Delivery, Failure, Multimap, Reply, Submit, Watch};
use margay_log::id::Index;
use std::marker::PhantomData;

/// A multimap from one type to another, in the order of the bytes of keys and values.
pub struct MultimapOf<K, V, S> {
    multimap: Multimap<S>,
    is: PhantomData<fn() -> (K, V)>,
}

/// Values of a key of a [`MultimapOf`], in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ValuesPageOf<V> {
    /// The values.
    pub values: Vec<Stored<V>>,
    /// Ask for the next page after this value; `None` where this is the last.
    pub next: Option<V>,
}

/// Entries of a [`MultimapOf`], in order of keys, then values.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MultimapPageOf<K, V> {
    /// Keys with one of their values each.
    pub entries: Vec<Entry<K, V>>,
    /// Ask for the next page after this entry; `None` where this is the last.
    pub next: Option<(K, V)>,
}

/// A change of a [`MultimapOf`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MultimapEventOf<K, V> {
    /// A key has a value that it had not.
    Put {
        /// The key.
        key: K,
        /// The value.
        value: V,
        /// The version of the value.
        version: Index,
    },
    /// A key has lost a value.
    Removed {
        /// The key.
        key: K,
        /// The value.
        value: V,
        /// Where in the log that happened.
        version: Index,
    },
    /// A key has lost all its values.
    KeyRemoved {
        /// The key.
        key: K,
        /// Where in the log that happened.
        version: Index,
    },
    /// All keys were removed.
    Cleared,
    /// The multimap was deleted.
    Deleted,
    /// Changes were missed: read the multimap, then go on.
    Lagged {
        /// Index of the oldest event still kept.
        oldest: Index,
    },
}

impl<K: Data, V: Data, S: Submit> MultimapOf<K, V, S> {
    /// The same multimap, read and written as types.
    pub fn new(multimap: Multimap<S>) -> MultimapOf<K, V, S> {
        MultimapOf { multimap, is: PhantomData }
    }

    /// The multimap in bytes, for all else it can do.
    #[must_use]
    pub fn bytes(&self) -> &Multimap<S> {
        &self.multimap
    }

    /// See [`Multimap::with_level`].
    #[must_use]
    pub fn with_level(self, level: Level) -> MultimapOf<K, V, S> {
        MultimapOf::new(self.multimap.with_level(level))
    }

    /// Adds a value to a key. Returns whether the key had it not.
    pub fn put(&self, key: &K, value: &V) -> Reply<bool> {
        self.multimap.put(&key.to_bytes(), &value.to_bytes())
    }

    /// See [`Multimap::replace`].
    pub fn replace(&self, key: &K, values: &[V]) -> Reply<u64> {
        let values: Vec<Vec<u8>> = values.iter().map(Data::to_bytes).collect();
        self.multimap.replace(&key.to_bytes(), &values)
    }

    /// Removes a value of a key. Returns whether it was there.
    pub fn remove(&self, key: &K, value: &V) -> Reply<bool> {
        self.multimap.remove(&key.to_bytes(), &value.to_bytes())
    }

    /// Removes all values of a key. Returns how many there were.
    pub fn remove_key(&self, key: &K) -> Reply<u64> {
        self.multimap.remove_key(&key.to_bytes())
    }

    /// See [`Multimap::remove_value`].
    pub fn remove_value(&self, value: &V) -> Reply<u64> {
        self.multimap.remove_value(&value.to_bytes())
    }

    /// Removes all keys.
    pub fn clear(&self) -> Reply<()> {
        self.multimap.clear()
    }

    /// A page of the values of a key, after one of them or from the first; at most `limit`, 0 for
    /// as many as a page holds.
    pub fn get(&self, key: &K, after: Option<&V>, limit: u32) -> Reply<ValuesPageOf<V>> {
        let after = after.map(Data::to_bytes);
        self.multimap.get(&key.to_bytes(), after.as_deref(), limit).and_then(|page| {
            let values = page.values.into_iter().map(read).collect::<Result<_, Failure>>()?;
            let next = page.next.as_deref().map(V::from_bytes).transpose()?;
            Ok(ValuesPageOf { values, next })
        })
    }

    /// Whether a key has any value.
    pub fn contains_key(&self, key: &K) -> Reply<bool> {
        self.multimap.contains_key(&key.to_bytes())
    }

    /// Whether a key has this value.
    pub fn contains(&self, key: &K, value: &V) -> Reply<bool> {
        self.multimap.contains(&key.to_bytes(), &value.to_bytes())
    }

    /// See [`Multimap::contains_value`].
    pub fn contains_value(&self, value: &V) -> Reply<bool> {
        self.multimap.contains_value(&value.to_bytes())
    }

    /// The number of entries: values of all keys.
    pub fn size(&self) -> Reply<u64> {
        self.multimap.size()
    }

    /// The number of keys.
    pub fn keys_size(&self) -> Reply<u64> {
        self.multimap.keys_size()
    }

    /// The number of values of a key.
    pub fn size_of(&self, key: &K) -> Reply<u64> {
        self.multimap.size_of(&key.to_bytes())
    }

    /// A page of entries after one of them, or from the first; at most `limit`, 0 for as many as a
    /// page holds.
    pub fn entries(&self, after: Option<(&K, &V)>, limit: u32) -> Reply<MultimapPageOf<K, V>> {
        let after = after.map(|(key, value)| (key.to_bytes(), value.to_bytes()));
        let range = MultimapRange { after, limit, ..MultimapRange::default() };
        self.multimap.entries(range).and_then(|page| {
            let next = match page.entries.last().filter(|_| page.more) {
                Some((key, last)) => Some((K::from_bytes(key)?, V::from_bytes(&last.value)?)),
                None => None,
            };
            let entries = page.entries.into_iter().map(|(key, value)| {
                let (key, Stored { value, version }) = (K::from_bytes(&key)?, read(value)?);
                Ok(Entry { key, value, version })
            });
            Ok(MultimapPageOf { entries: entries.collect::<Result<_, Failure>>()?, next })
        })
    }

    /// Changes of all keys, after a position or from now on.
    pub fn watch(&self, after: Option<(Index, u32)>) -> Watch<MultimapEventOf<K, V>> {
        Watch::new(self.multimap.handle().subscribe(after, Filter::All), read_typed)
    }

    /// Changes of one key, after a position or from now on.
    pub fn watch_key(&self, key: &K, after: Option<(Index, u32)>) -> Watch<MultimapEventOf<K, V>> {
        let filter = Filter::Key(key.to_bytes());
        Watch::new(self.multimap.handle().subscribe(after, filter), read_typed)
    }
}

fn read_typed<K: Data, V: Data>(delivery: Delivery) -> Result<MultimapEventOf<K, V>, Failure> {
    Ok(match read_event(delivery)? {
        MultimapEvent::Put { key, value } => {
            let (key, Stored { value, version }) = (K::from_bytes(&key)?, read(value)?);
            MultimapEventOf::Put { key, value, version }
        }
        MultimapEvent::Removed { key, value, version } => {
            let (key, value) = (K::from_bytes(&key)?, V::from_bytes(&value)?);
            MultimapEventOf::Removed { key, value, version }
        }
        MultimapEvent::KeyRemoved { key, version } => {
            MultimapEventOf::KeyRemoved { key: K::from_bytes(&key)?, version }
        }
        MultimapEvent::Cleared => MultimapEventOf::Cleared,
        MultimapEvent::Deleted => MultimapEventOf::Deleted,
        MultimapEvent::Lagged { oldest } => MultimapEventOf::Lagged { oldest },
    })
}

impl<K, V, S: Clone> Clone for MultimapOf<K, V, S> {
    fn clone(&self) -> Self {
        MultimapOf { multimap: self.multimap.clone(), is: PhantomData }
    }
}
