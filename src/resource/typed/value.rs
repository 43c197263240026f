//! A single value of a type.

use super::{Change, Data, Stored, read, read_found, read_some, read_swap};
use crate::machine::{Filter, Level};
use crate::resource::{Reply, Submit, Swap, Value, Watch};
use margay_log::id::Index;
use std::marker::PhantomData;
use std::time::Duration;

/// A single value of a type.
pub struct ValueOf<V, S> {
    value: Value<S>,
    is: PhantomData<fn() -> V>,
}

impl<V: Data, S: Submit> ValueOf<V, S> {
    /// The same value, read and written as a type.
    pub fn new(value: Value<S>) -> ValueOf<V, S> {
        ValueOf { value, is: PhantomData }
    }

    /// The value in bytes, for all else it can do.
    #[must_use]
    pub fn bytes(&self) -> &Value<S> {
        &self.value
    }

    /// See [`Value::with_level`].
    #[must_use]
    pub fn with_level(self, level: Level) -> ValueOf<V, S> {
        ValueOf::new(self.value.with_level(level))
    }

    /// See [`Value::with_ttl`].
    #[must_use]
    pub fn with_ttl(self, ttl: Duration) -> ValueOf<V, S> {
        ValueOf::new(self.value.with_ttl(ttl))
    }

    /// See [`Value::ephemeral`].
    #[must_use]
    pub fn ephemeral(self) -> ValueOf<V, S> {
        ValueOf::new(self.value.ephemeral())
    }

    /// The value, `None` where it is not set.
    pub fn get(&self) -> Reply<Option<Stored<V>>> {
        self.value.get().and_then(read_some)
    }

    /// Sets it. Returns its version.
    pub fn set(&self, value: &V) -> Reply<Index> {
        self.value.set(&value.to_bytes())
    }

    /// Sets it. Returns what it was.
    pub fn get_and_set(&self, value: &V) -> Reply<Option<Stored<V>>> {
        self.value.get_and_set(&value.to_bytes()).and_then(read_some)
    }

    /// Sets it if its bytes are those of `expected`; `None` for not set.
    pub fn compare_and_set(
        &self,
        expected: Option<&V>,
        value: &V,
    ) -> Reply<Swap<Option<Stored<V>>>> {
        let expected = expected.map(Data::to_bytes);
        self.value.compare_and_set(expected.as_deref(), &value.to_bytes()).and_then(read_swap)
    }

    /// Sets it if it has this version; `Index::ZERO` for not set.
    pub fn set_if(&self, version: Index, value: &V) -> Reply<Swap<Option<Stored<V>>>> {
        self.value.compare_version_and_set(version, &value.to_bytes()).and_then(read_swap)
    }

    /// See [`Value::update`].
    pub fn update<F>(&self, mut change: F) -> Reply<Stored<V>>
    where
        F: FnMut(Option<V>) -> V + Send + 'static,
    {
        let change = move |found: Option<&[u8]>| Ok(change(read_found(found)?).to_bytes());
        self.value.try_update(change).and_then(read)
    }

    /// Deletes it. Returns whether it was set.
    pub fn delete(&self) -> Reply<bool> {
        self.value.delete()
    }

    /// Changes after a position, or from now on.
    pub fn watch(&self, after: Option<(Index, u32)>) -> Watch<Change<(), V>> {
        Watch::new(self.value.handle().subscribe(after, Filter::All), Change::read)
    }
}

impl<V, S: Clone> Clone for ValueOf<V, S> {
    fn clone(&self) -> Self {
        ValueOf { value: self.value.clone(), is: PhantomData }
    }
}
