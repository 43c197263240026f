//! A single value of bytes, with a version.
//!
//! The version is the index of the command that wrote it. A value is either set, possibly to no
//! bytes at all, or not set. Events: [`CHANGED`], [`REMOVED`].

use super::codec::{Operation, Scratch, access, check_by_schema, limits, operation};
use super::handle::{
    Handle, Swap, Versioned, put_swap, put_versioned, read_swap, read_versioned, thaw_version,
};
use super::snapshot::Items;
use super::{Delivery, Failure, Reply, Resource, Submit, Watch, registry};
use crate::machine::bytes::{self, Reader};
use crate::machine::{
    Code, Commit, Effects, EventPayload, Filter, Level, Pair, Query, ResourceId, kind,
};
use margay_log::id::Index;

/// Event: the value was set. With it the old one, if there was one.
pub const CHANGED: u16 = 1;
/// Event: the value was deleted. With it the old one.
pub const REMOVED: u16 = 2;

// ---- operations -----------------------------------------------------------------------------

/// Sets the value.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct SetV1 {
    /// At most 1 MiB.
    pub value: Vec<u8>,
}

/// Sets the value. Answers the previous one.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct GetAndSetV1 {
    /// At most 1 MiB.
    pub value: Vec<u8>,
}

/// Sets the value if it is the expected one. Answers 1, or 0 and the value there is.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct CompareAndSetV1 {
    /// `None`: it must not be set.
    pub expected: Option<Vec<u8>>,
    /// At most 1 MiB.
    pub value: Vec<u8>,
}

/// Sets the value if it has this version. Answers 1, or 0 and the value there is.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct CompareVersionV1 {
    /// 0: it must not be set.
    pub version: u64,
    /// At most 1 MiB.
    pub value: Vec<u8>,
}

/// Deletes the value. Answers whether it was set.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct DeleteV1 {}

/// Query: the value.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct GetV1 {}

operation!(SetV1, kind::VALUE, 0x0101, "set");
operation!(GetAndSetV1, kind::VALUE, 0x0201, "get-and-set");
operation!(CompareAndSetV1, kind::VALUE, 0x0301, "compare-and-set");
operation!(CompareVersionV1, kind::VALUE, 0x0401, "compare-version");
operation!(DeleteV1, kind::VALUE, 0x0501, "delete");
operation!(GetV1, kind::VALUE, 0x4001, "get");

limits! {
    ArchivedSetV1: value(value);
    ArchivedGetAndSetV1: value(value);
    ArchivedCompareAndSetV1: expected(expected), value(value);
    ArchivedCompareVersionV1: value(value);
    ArchivedDeleteV1:;
    ArchivedGetV1:;
}

check_by_schema!(SetV1, GetAndSetV1, CompareAndSetV1, CompareVersionV1, DeleteV1);

// ---- state ----------------------------------------------------------------------------------

/// The value, if set: a pair without a key, and its version.
#[derive(Clone, Debug, Default)]
pub(super) struct ValueState {
    held: Option<(Pair, Index)>,
}

impl Resource for ValueState {
    fn apply(&mut self, commit: &Commit<'_>, effects: &mut Effects) {
        if let Err(code) = self.try_apply(commit, effects) {
            effects.refuse(code, "");
        }
    }

    fn query(&self, query: &Query<'_>, effects: &mut Effects) {
        let mut scratch = Scratch::new();
        let checked = match query.schema {
            GetV1::SCHEMA => access::<GetV1>(query.payload, &mut scratch).map(|_| ()),
            _ => Err(Code::BAD_KIND),
        };
        match checked {
            Ok(()) => put_versioned(&mut effects.reply, self.versioned()),
            Err(code) => effects.refuse(code, ""),
        }
    }

    fn freeze(&self, _after: Option<&[u8]>, items: &mut Items<'_>) -> Option<Vec<u8>> {
        if let Some((pair, version)) = &self.held {
            items.put(|out| {
                bytes::put_u64(out, version.0);
                bytes::put_bytes(out, pair.value());
            });
        }
        None
    }

    fn thaw(&mut self, item: &[u8], applied: Index) -> Result<(), Code> {
        let mut reader = Reader::new(item);
        let version = thaw_version(&mut reader, applied)?;
        let pair = Pair::new(&[], reader.bytes()?);
        reader.end()?;
        match self.held.replace((pair, version)) {
            None => Ok(()),
            Some(_) => Err(Code::BAD_PAYLOAD),
        }
    }

    fn size(&self) -> u64 {
        self.held.as_ref().map_or(0, |(pair, _)| pair.value().len() as u64)
    }

    fn boxed_clone(&self) -> Box<dyn Resource> {
        Box::new(self.clone())
    }
}

impl ValueState {
    fn versioned(&self) -> Option<(&[u8], Index)> {
        self.held.as_ref().map(|(pair, version)| (pair.value(), *version))
    }

    fn try_apply(&mut self, commit: &Commit<'_>, effects: &mut Effects) -> Result<(), Code> {
        let (payload, mut scratch) = (commit.payload, Scratch::new());
        match commit.schema {
            SetV1::SCHEMA => {
                let set = access::<SetV1>(payload, &mut scratch)?;
                self.set(&set.value, commit, effects);
            }
            GetAndSetV1::SCHEMA => {
                let set = access::<GetAndSetV1>(payload, &mut scratch)?;
                put_versioned(&mut effects.reply, self.versioned());
                self.set(&set.value, commit, effects);
            }
            CompareAndSetV1::SCHEMA => {
                let set = access::<CompareAndSetV1>(payload, &mut scratch)?;
                let expected = set.expected.as_ref().map(|expected| &expected[..]);
                let done = expected == self.versioned().map(|(value, _)| value);
                self.set_if(done, &set.value, commit, effects);
            }
            CompareVersionV1::SCHEMA => {
                let set = access::<CompareVersionV1>(payload, &mut scratch)?;
                let done = set.version == self.held.as_ref().map_or(0, |(_, version)| version.0);
                self.set_if(done, &set.value, commit, effects);
            }
            DeleteV1::SCHEMA => {
                access::<DeleteV1>(payload, &mut scratch)?;
                let old = self.held.take();
                effects.reply.push(u8::from(old.is_some()));
                if let Some((old, _)) = old {
                    effects.event(commit.resource, REMOVED, None, Some(old));
                }
            }
            _ => return Err(Code::BAD_KIND),
        }
        Ok(())
    }

    fn set_if(&mut self, done: bool, value: &[u8], commit: &Commit<'_>, effects: &mut Effects) {
        put_swap(&mut effects.reply, done, self.versioned());
        if done {
            self.set(value, commit, effects);
        }
    }

    fn set(&mut self, value: &[u8], commit: &Commit<'_>, effects: &mut Effects) {
        let new = Pair::new(&[], value);
        let old = self.held.replace((new.clone(), commit.index)).map(|(old, _)| old);
        effects.event(commit.resource, CHANGED, Some(new), old);
    }
}

// ---- handle ---------------------------------------------------------------------------------

/// A single value of bytes.
#[derive(Clone, Debug)]
pub struct Value<S> {
    handle: Handle<S>,
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
    /// It was deleted; the resource is still there.
    Removed {
        /// What it was.
        old: Vec<u8>,
    },
    /// The resource was deleted.
    Deleted,
    /// Changes were missed: read the value, then go on.
    Lagged,
}

impl<S: Submit> Value<S> {
    /// Opens a value by name; it is created, and not set, where there is none.
    pub fn open(submit: S, name: &str) -> Reply<Value<S>> {
        Handle::open(submit, name, kind::VALUE).and_then(|handle| Ok(Value { handle }))
    }

    /// The value `id`.
    pub fn new(submit: S, id: ResourceId) -> Value<S> {
        Value { handle: Handle::new(submit, id) }
    }

    /// The same, with reads at another level.
    #[must_use]
    pub fn with_level(self, level: Level) -> Value<S> {
        Value { handle: self.handle.with_level(level) }
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
        let set = SetV1 { value: value.to_vec() };
        self.handle.command(&set).and_then(|answer| Ok(answer.index))
    }

    /// Sets it. Returns what it was.
    pub fn get_and_set(&self, value: &[u8]) -> Reply<Option<Versioned>> {
        let set = GetAndSetV1 { value: value.to_vec() };
        self.handle.command(&set).and_then(|answer| read_versioned(Reader::new(&answer.payload)))
    }

    /// Sets it if it is `expected`; `None` for not set.
    pub fn compare_and_set(
        &self,
        expected: Option<&[u8]>,
        value: &[u8],
    ) -> Reply<Swap<Option<Versioned>>> {
        let (expected, value) = (expected.map(<[u8]>::to_vec), value.to_vec());
        self.handle
            .command(&CompareAndSetV1 { expected, value })
            .and_then(|answer| read_swap(&answer))
    }

    /// Sets it if it has this version; `Index::ZERO` for not set.
    pub fn compare_version_and_set(
        &self,
        version: Index,
        value: &[u8],
    ) -> Reply<Swap<Option<Versioned>>> {
        let (version, value) = (version.0, value.to_vec());
        self.handle
            .command(&CompareVersionV1 { version, value })
            .and_then(|answer| read_swap(&answer))
    }

    /// Deletes the value. Returns whether it was set.
    pub fn delete(&self) -> Reply<bool> {
        self.handle
            .command(&DeleteV1 {})
            .and_then(|answer| Ok(Reader::new(&answer.payload).u8()? != 0))
    }

    /// Changes after a position, or from now on.
    pub fn watch(&self, after: Option<(Index, u32)>) -> Watch<ValueEvent> {
        Watch::new(self.handle.subscribe(after, Filter::All), read_event)
    }
}

fn read_event(delivery: Delivery) -> Result<ValueEvent, Failure> {
    let Delivery::Event { index, kind, payload, .. } = delivery else {
        return Ok(ValueEvent::Lagged);
    };
    let EventPayload { new, old, .. } = EventPayload::decode(&payload)?;
    match (kind, new, old) {
        (CHANGED, Some(value), old) => {
            Ok(ValueEvent::Changed { new: Versioned { value, version: index }, old })
        }
        (REMOVED, _, Some(old)) => Ok(ValueEvent::Removed { old }),
        (registry::DELETED, ..) => Ok(ValueEvent::Deleted),
        _ => Err(Failure::from(Code::BAD_PAYLOAD)),
    }
}
