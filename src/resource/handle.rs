//! What the handles of all types share: carrying operations, opening by name, and answers with
//! versions.

use super::codec::Encode;
use super::{Answer, Directory, Failure, Reply, Submit, Subscription, entries};
use crate::machine::bytes::{self, Reader};
use crate::machine::{Code, Filter, Level, ResourceId, Shared};
use margay_log::id::Index;
use std::time::Duration;

/// A resource and the way to it.
#[derive(Clone, Debug)]
pub struct Handle<S> {
    submit: S,
    id: ResourceId,
    level: Level,
    /// As it was opened.
    name: Option<Shared<str>>,
}

impl<S: Submit> Handle<S> {
    /// The resource `id`, whose type the caller knows.
    pub fn new(submit: S, id: ResourceId) -> Handle<S> {
        Handle { submit, id, level: Level::default(), name: None }
    }

    /// Opens a resource by name; it is created where there is none.
    pub fn open(submit: S, name: &str, kind: u8) -> Reply<Handle<S>> {
        Handle::open_with(submit, name, kind, &[])
    }

    /// The same, created with options where there is none.
    pub fn open_with(submit: S, name: &str, kind: u8, options: &[u8]) -> Reply<Handle<S>> {
        let opened = Directory::new(submit.clone()).open(name, kind, options);
        let name = Some(Shared::from(name));
        opened.and_then(move |id| Ok(Handle { name, ..Handle::new(submit, id) }))
    }

    /// The same, with queries at another level.
    #[must_use]
    pub fn with_level(self, level: Level) -> Handle<S> {
        Handle { level, ..self }
    }

    /// The same for what is given back; see [`Submit::lasting`].
    pub(super) fn lasting(&self) -> Handle<S> {
        Handle { submit: self.submit.lasting(), ..self.clone() }
    }

    /// What to call it when speaking to people: its name, where it was opened by name.
    pub(super) fn called(&self) -> String {
        self.name.as_ref().map_or_else(|| self.id.to_string(), ToString::to_string)
    }

    /// The resource.
    #[must_use]
    pub fn id(&self) -> ResourceId {
        self.id
    }

    /// The way to it.
    #[must_use]
    pub fn submit(&self) -> &S {
        &self.submit
    }

    /// Sends a command; an answer that refuses is a failure.
    pub fn command<O: Encode>(&self, operation: &O) -> Reply<Answer> {
        command(&self.submit, self.id, operation)
    }

    /// Asks a query; an answer that refuses is a failure.
    pub fn query<O: Encode>(&self, operation: &O) -> Reply<Answer> {
        query(&self.submit, self.level, self.id, operation)
    }

    /// Sends a command in bytes of its type's own; an answer that refuses is a failure.
    pub fn command_bytes(&self, kind: u8, schema: u16, payload: Vec<u8>) -> Reply<Answer> {
        self.submit.command(kind, schema, self.id, payload).and_then(Answer::ok)
    }

    /// Asks a query in bytes of its type's own; an answer that refuses is a failure.
    pub fn query_bytes(&self, kind: u8, schema: u16, payload: Vec<u8>) -> Reply<Answer> {
        self.submit.query(self.level, kind, schema, self.id, payload).and_then(Answer::ok)
    }

    /// Its events that pass the filter, after a position or from now on.
    #[must_use]
    pub fn subscribe(&self, after: Option<(Index, u32)>, filter: Filter) -> Subscription {
        self.submit.subscribe(self.id, after, filter)
    }
}

/// Sends a command; an answer that refuses is a failure.
pub(super) fn command<S: Submit, O: Encode>(
    submit: &S,
    resource: ResourceId,
    operation: &O,
) -> Reply<Answer> {
    submit.command(O::KIND, O::SCHEMA, resource, operation.encode()).and_then(Answer::ok)
}

/// Asks a query; an answer that refuses is a failure.
pub(super) fn query<S: Submit, O: Encode>(
    submit: &S,
    level: Level,
    resource: ResourceId,
    operation: &O,
) -> Reply<Answer> {
    submit.query(level, O::KIND, O::SCHEMA, resource, operation.encode()).and_then(Answer::ok)
}

/// How long what a handle writes stays: for good, unless it is told otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Lifetime {
    /// In milliseconds of log time; 0 for no limit.
    pub ttl_ms: u64,
    /// Whether it ends with the session.
    pub ephemeral: bool,
}

impl Lifetime {
    /// Parts of a millisecond count as one. No time at all is not the same as no limit: it is
    /// refused, as too much of it is.
    pub(super) fn with_ttl(self, ttl: Duration) -> Lifetime {
        let ttl_ms = match ttl.as_nanos().div_ceil(1_000_000) {
            0 => u64::MAX,
            ttl_ms => u64::try_from(ttl_ms).unwrap_or(u64::MAX),
        };
        Lifetime { ttl_ms, ..self }
    }

    pub(super) fn ephemeral(self) -> Lifetime {
        Lifetime { ephemeral: true, ..self }
    }
}

/// Why something is no longer there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Removal {
    /// Somebody removed it.
    Removed,
    /// Its time to live was over.
    Expired,
    /// The session it belonged to was over.
    SessionEnded,
}

impl Removal {
    /// What an event of a removal says of it.
    pub(super) fn of_event(kind: u16) -> Option<Removal> {
        match kind {
            entries::REMOVED => Some(Removal::Removed),
            entries::EXPIRED => Some(Removal::Expired),
            entries::SESSION_ENDED => Some(Removal::SessionEnded),
            _ => None,
        }
    }
}

/// A value with the version it has: the index of the entry that wrote it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Versioned {
    /// The value.
    pub value: Vec<u8>,
    /// Rises with every change; never used twice within a resource.
    pub version: Index,
}

/// Whether a conditional operation was done. A negative answer is data, not a failure.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Swap<T> {
    /// The condition held; the new version.
    Done(Index),
    /// It did not; what is there.
    Conflict(T),
}

/// A version in a snapshot: not 0, and not above what was applied.
pub(super) fn thaw_version(reader: &mut Reader<'_>, applied: Index) -> Result<Index, Code> {
    let version = Index(reader.u64()?);
    if Index::ZERO < version && version <= applied { Ok(version) } else { Err(Code::BAD_PAYLOAD) }
}

/// Appends a version, 0 for none, and the value to the end.
pub(super) fn put_versioned(out: &mut Vec<u8>, found: Option<(&[u8], Index)>) {
    let (value, version) = found.unwrap_or((&[], Index::ZERO));
    bytes::put_u64(out, version.0);
    out.extend_from_slice(value);
}

/// Reads what [`put_versioned`] wrote.
pub(super) fn read_versioned(mut reader: Reader<'_>) -> Result<Option<Versioned>, Failure> {
    let version = Index(reader.u64()?);
    let value = reader.rest().to_vec();
    Ok((version != Index::ZERO).then_some(Versioned { value, version }))
}

/// Appends the answer of a conditional operation: 1 where done, else 0 and what is there.
pub(super) fn put_swap(out: &mut Vec<u8>, done: bool, found: Option<(&[u8], Index)>) {
    out.push(u8::from(done));
    if !done {
        put_versioned(out, found);
    }
}

/// Reads what [`put_swap`] wrote.
pub(super) fn read_swap(answer: &Answer) -> Result<Swap<Option<Versioned>>, Failure> {
    let mut reader = Reader::new(&answer.payload);
    match reader.u8()? {
        0 => Ok(Swap::Conflict(read_versioned(reader)?)),
        _ => Ok(Swap::Done(answer.index)),
    }
}

/// Reads an answer that is 1 or 0.
pub(super) fn read_bool(answer: Answer) -> Result<bool, Failure> {
    Ok(Reader::new(&answer.payload).u8()? != 0)
}

/// Reads an answer that is, or begins with, a number.
pub(super) fn read_count(answer: Answer) -> Result<u64, Failure> {
    Ok(Reader::new(&answer.payload).u64()?)
}

/// Whether a part of what is searched has it; if not, where the next part begins, if there is one.
pub(super) fn read_found(answer: Answer) -> Result<(bool, Option<Vec<u8>>), Failure> {
    let mut reader = Reader::new(&answer.payload);
    let found = reader.optional()?.is_some();
    Ok((found, reader.optional()?.map(<[u8]>::to_vec)))
}
