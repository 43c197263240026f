//! A multimap from one type to another.

use super::{Data, Stored, read};
use crate::machine::Level;
use crate::resource::{Failure, Multimap, Reply, Submit};
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

    /// The number of entries: values of all keys.
    pub fn size(&self) -> Reply<u64> {
        self.multimap.size()
    }
}

impl<K, V, S: Clone> Clone for MultimapOf<K, V, S> {
    fn clone(&self) -> Self {
        MultimapOf { multimap: self.multimap.clone(), is: PhantomData }
    }
}
