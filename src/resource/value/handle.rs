//! The value as applications use it.

use super::{CompareAndSetV1, CompareVersionV1, DeleteV1, GetAndSetV1, GetV1, SetV1};
use crate::machine::bytes::Reader;
use crate::machine::{Code, EventPayload, Filter, Level, ResourceId, kind};
use crate::resource::handle::{
    Handle, Lifetime, Removal, Swap, Versioned, read_bool, read_swap, read_versioned,
};
use crate::resource::{Delivery, Failure, Reply, Submit, Watch, entries, registry};
use margay_log::id::Index;
use std::time::Duration;

/// A single value of bytes.
///
/// It is at most 1 MiB, else writing fails with [`Code::VALUE_TOO_LARGE`].
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let client = margay::client::Client::builder().endpoints(["127.0.0.1:5150"]).connect()?;
/// use margay::resource::Swap;
/// let config = client.value("config").wait()?;
/// config.set(b"v1").wait()?;
/// match config.compare_and_set(Some(b"v1"), b"v2").wait()? {
///     Swap::Done(version) => println!("now v2, written at {version}"),
///     Swap::Conflict(found) => println!("somebody was faster: {found:?}"),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Value<S> {
    handle: Handle<S>,
    life: Lifetime,
}

/// A change of a value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ValueEvent {
    /// It was set.
    Changed {
        /// What it is now.
        new: Versioned,
        /// What it was.
        old: Option<Vec<u8>>,
    },
    /// It is not set any more; the resource is still there.
    Removed {
        /// What it was.
        old: Vec<u8>,
        /// Where in the log that happened; above the version it had.
        version: Index,
        /// Why.
        why: Removal,
    },
    /// The resource was deleted.
    Deleted,
    /// Changes were missed: read the value, then go on.
    Lagged {
        /// Index of the oldest event still kept.
        oldest: Index,
    },
}

impl<S: Submit> Value<S> {
    /// Opens a value by name; it is created, and not set, where there is none.
    pub fn open(submit: S, name: &str) -> Reply<Value<S>> {
        let opened = Handle::open(submit, name, kind::VALUE);
        opened.and_then(|handle| Ok(Value { handle, life: Lifetime::default() }))
    }

    /// The value `id`.
    pub fn new(submit: S, id: ResourceId) -> Value<S> {
        Value { handle: Handle::new(submit, id), life: Lifetime::default() }
    }

    /// The same, with reads at another level.
    #[must_use]
    pub fn with_level(self, level: Level) -> Value<S> {
        Value { handle: self.handle.with_level(level), ..self }
    }

    /// The same value, but what is set through this handle ends by itself after `ttl`, in log
    /// time: 1 ms to 10 years, else setting fails with [`Code::BAD_TIME`]. Parts of a millisecond
    /// count as one. Setting it again begins anew.
    #[must_use]
    pub fn with_ttl(self, ttl: Duration) -> Value<S> {
        Value { life: self.life.with_ttl(ttl), ..self }
    }

    /// The same value, but what is set through this handle ends with this client's session.
    #[must_use]
    pub fn ephemeral(self) -> Value<S> {
        Value { life: self.life.ephemeral(), ..self }
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

    /// The value, `None` where it is not set.
    pub fn get(&self) -> Reply<Option<Versioned>> {
        self.handle.query(&GetV1 {}).and_then(|answer| read_versioned(Reader::new(&answer.payload)))
    }

    /// Sets it. Returns its version.
    pub fn set(&self, value: &[u8]) -> Reply<Index> {
        let (value, Lifetime { ttl_ms, ephemeral }) = (value.to_vec(), self.life);
        let set = SetV1 { value, ephemeral, ttl_ms };
        self.handle.command(&set).and_then(|answer| Ok(answer.index))
    }

    /// Sets it. Returns what it was.
    pub fn get_and_set(&self, value: &[u8]) -> Reply<Option<Versioned>> {
        let (value, Lifetime { ttl_ms, ephemeral }) = (value.to_vec(), self.life);
        let set = GetAndSetV1 { value, ephemeral, ttl_ms };
        self.handle.command(&set).and_then(|answer| read_versioned(Reader::new(&answer.payload)))
    }

    /// Sets it if it is `expected`; `None` for not set. The two are at most 1 MiB together: for
    /// larger ones compare versions.
    pub fn compare_and_set(
        &self,
        expected: Option<&[u8]>,
        value: &[u8],
    ) -> Reply<Swap<Option<Versioned>>> {
        let (expected, value) = (expected.map(<[u8]>::to_vec), value.to_vec());
        let Lifetime { ttl_ms, ephemeral } = self.life;
        self.handle
            .command(&CompareAndSetV1 { expected, value, ephemeral, ttl_ms })
            .and_then(|answer| read_swap(&answer))
    }

    /// Sets it if it has this version; `Index::ZERO` for not set.
    pub fn compare_version_and_set(
        &self,
        version: Index,
        value: &[u8],
    ) -> Reply<Swap<Option<Versioned>>> {
        let (version, value) = (version.0, value.to_vec());
        let Lifetime { ttl_ms, ephemeral } = self.life;
        self.handle
            .command(&CompareVersionV1 { version, value, ephemeral, ttl_ms })
            .and_then(|answer| read_swap(&answer))
    }

    /// Reads it, lets `change` make the new one of it, and sets that if nobody was faster; else
    /// begins again with what is there then. Returns what was set.
    pub fn update<F>(&self, mut change: F) -> Reply<Versioned>
    where
        F: FnMut(Option<&[u8]>) -> Vec<u8> + Send + 'static,
    {
        self.try_update(move |found| Ok(change(found)))
    }

    /// The same; where `change` fails, nothing is set.
    pub(in super::super) fn try_update<F>(&self, change: F) -> Reply<Versioned>
    where
        F: FnMut(Option<&[u8]>) -> Result<Vec<u8>, Failure> + Send + 'static,
    {
        let value = self.clone();
        self.get().then(move |found| match found {
            Ok(found) => value.update_from(found, change),
            Err(failure) => Reply::ready(Err(failure)),
        })
    }

    fn update_from<F>(self, found: Option<Versioned>, mut change: F) -> Reply<Versioned>
    where
        F: FnMut(Option<&[u8]>) -> Result<Vec<u8>, Failure> + Send + 'static,
    {
        let value = match change(found.as_ref().map(|found| &found.value[..])) {
            Ok(value) => value,
            Err(failure) => return Reply::ready(Err(failure)),
        };
        let version = found.map_or(Index::ZERO, |found| found.version);
        self.compare_version_and_set(version, &value).then(move |swap| match swap {
            Ok(Swap::Done(version)) => Reply::ready(Ok(Versioned { value, version })),
            Ok(Swap::Conflict(found)) => self.update_from(found, change),
            Err(failure) => Reply::ready(Err(failure)),
        })
    }

    /// Deletes the value. Returns whether it was set.
    pub fn delete(&self) -> Reply<bool> {
        self.handle.command(&DeleteV1 {}).and_then(read_bool)
    }

    /// Changes after a position, or from now on.
    pub fn watch(&self, after: Option<(Index, u32)>) -> Watch<ValueEvent> {
        Watch::new(self.handle.subscribe(after, Filter::All), read_event)
    }
}

fn read_event(delivery: Delivery) -> Result<ValueEvent, Failure> {
    let (index, kind, payload) = match delivery {
        Delivery::Lagged { oldest } => return Ok(ValueEvent::Lagged { oldest }),
        Delivery::Event { index, kind, payload, .. } => (index, kind, payload),
    };
    let EventPayload { new, old, .. } = EventPayload::decode(&payload)?;
    match (kind, new, old) {
        (entries::PUT, Some(value), old) => {
            Ok(ValueEvent::Changed { new: Versioned { value, version: index }, old })
        }
        (registry::DELETED, ..) => Ok(ValueEvent::Deleted),
        (kind, _, Some(old)) => match Removal::of_event(kind) {
            Some(why) => Ok(ValueEvent::Removed { old, version: index, why }),
            None => Err(Failure::from(Code::BAD_PAYLOAD)),
        },
        _ => Err(Failure::from(Code::BAD_PAYLOAD)),
    }
}
