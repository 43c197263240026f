//! A signed 64-bit number. It begins at 0, and refuses to leave its range.

mod ids;

pub use ids::IdGenerator;

use super::codec::{Operation, Scratch, access, check_by_schema, limits, only, operation};
use super::handle::{Handle, Swap};
use super::snapshot::Items;
use super::{Answer, Failure, Reply, Resource, Submit};
use crate::machine::bytes::Reader;
use crate::machine::{Code, Commit, Effects, Level, Query, ResourceId, kind};
use margay_log::id::Index;

// ---- operations -----------------------------------------------------------------------------

/// Sets the number. Answers the old one and the new one.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct SetV1 {
    /// What it shall be.
    pub value: i64,
}

/// Adds to the number. Answers the old one and the new one.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct AddV1 {
    /// May be negative.
    pub delta: i64,
}

/// Sets the number if it is the expected one. Answers 1 or 0, and the number there was.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct CompareAndSetV1 {
    /// What it must be.
    pub expected: i64,
    /// What it shall be.
    pub value: i64,
}

/// Query: the number.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct GetV1 {}

operation!(SetV1, kind::COUNTER, 0x0101, "set");
operation!(AddV1, kind::COUNTER, 0x0201, "add");
operation!(CompareAndSetV1, kind::COUNTER, 0x0301, "compare-and-set");
operation!(GetV1, kind::COUNTER, 0x4001, "get");

limits! {
    ArchivedSetV1:;
    ArchivedAddV1:;
    ArchivedCompareAndSetV1:;
    ArchivedGetV1:;
}

check_by_schema!(SetV1, AddV1, CompareAndSetV1);

// ---- state ----------------------------------------------------------------------------------

/// The number.
#[derive(Clone, Debug, Default)]
pub(super) struct CounterState {
    value: i64,
}

impl Resource for CounterState {
    fn apply(&mut self, commit: &Commit<'_>, effects: &mut Effects) {
        if let Err(code) = self.try_apply(commit, effects) {
            effects.refuse(code, "");
        }
    }

    fn query(&self, query: &Query<'_>, effects: &mut Effects) {
        match only::<GetV1>(query) {
            Ok(()) => put_i64(&mut effects.reply, self.value),
            Err(code) => effects.refuse(code, ""),
        }
    }

    fn freeze(&self, _after: Option<&[u8]>, items: &mut Items<'_>) -> Option<Vec<u8>> {
        items.put(|out| put_i64(out, self.value));
        None
    }

    fn thaw(&mut self, item: &[u8], _applied: Index) -> Result<(), Code> {
        let mut reader = Reader::new(item);
        self.value = i64::from_le_bytes(reader.array()?);
        reader.end()
    }

    fn boxed_clone(&self) -> Box<dyn Resource> {
        Box::new(self.clone())
    }
}

impl CounterState {
    fn try_apply(&mut self, commit: &Commit<'_>, effects: &mut Effects) -> Result<(), Code> {
        let (payload, mut scratch) = (commit.payload, Scratch::new());
        let out = &mut effects.reply;
        match commit.schema {
            SetV1::SCHEMA => {
                let set = access::<SetV1>(payload, &mut scratch)?;
                self.set(set.value.to_native(), out);
            }
            AddV1::SCHEMA => {
                let delta = access::<AddV1>(payload, &mut scratch)?.delta.to_native();
                self.set(self.value.checked_add(delta).ok_or(Code::OVERFLOW)?, out);
            }
            CompareAndSetV1::SCHEMA => {
                let set = access::<CompareAndSetV1>(payload, &mut scratch)?;
                let done = self.value == set.expected;
                out.push(u8::from(done));
                put_i64(out, self.value);
                if done {
                    self.value = set.value.to_native();
                }
            }
            _ => return Err(Code::BAD_KIND),
        }
        Ok(())
    }

    fn set(&mut self, value: i64, out: &mut Vec<u8>) {
        put_i64(out, self.value);
        put_i64(out, value);
        self.value = value;
    }
}

fn put_i64(out: &mut Vec<u8>, value: i64) {
    out.extend_from_slice(&value.to_le_bytes());
}

// ---- handle ---------------------------------------------------------------------------------

/// A signed 64-bit number.
///
/// At 0 to begin with. What would leave its range fails with [`Code::OVERFLOW`], and changes
/// nothing.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let client = margay::client::Client::builder().endpoints(["127.0.0.1:5150"]).connect()?;
/// let hits = client.counter("hits").wait()?;
/// println!("{}", hits.add_and_get(3).wait()?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Counter<S> {
    handle: Handle<S>,
}

impl<S: Submit> Counter<S> {
    /// Opens a counter by name; it is created, at 0, where there is none.
    pub fn open(submit: S, name: &str) -> Reply<Counter<S>> {
        Handle::open(submit, name, kind::COUNTER).and_then(|handle| Ok(Counter { handle }))
    }

    /// The counter `id`.
    pub fn new(submit: S, id: ResourceId) -> Counter<S> {
        Counter { handle: Handle::new(submit, id) }
    }

    /// The same, with reads at another level.
    #[must_use]
    pub fn with_level(self, level: Level) -> Counter<S> {
        Counter { handle: self.handle.with_level(level) }
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

    /// The number.
    pub fn get(&self) -> Reply<i64> {
        self.handle.query(&GetV1 {}).and_then(|answer| read_i64(&mut Reader::new(&answer.payload)))
    }

    /// Sets it. Returns what it was.
    pub fn set(&self, value: i64) -> Reply<i64> {
        self.handle.command(&SetV1 { value }).and_then(|answer| Ok(old_and_new(&answer)?.0))
    }

    /// Adds to it. Returns what it is then. Fails with [`Code::OVERFLOW`] and changes nothing
    /// where that does not fit; so do all that add.
    pub fn add_and_get(&self, delta: i64) -> Reply<i64> {
        self.add(delta).and_then(|(_, new)| Ok(new))
    }

    /// Adds to it. Returns what it was.
    pub fn get_and_add(&self, delta: i64) -> Reply<i64> {
        self.add(delta).and_then(|(old, _)| Ok(old))
    }

    /// Adds 1. Returns what it is then.
    pub fn increment(&self) -> Reply<i64> {
        self.add_and_get(1)
    }

    /// Takes 1 off. Returns what it is then.
    pub fn decrement(&self) -> Reply<i64> {
        self.add_and_get(-1)
    }

    /// Sets it if it is `expected`; else says what it is.
    pub fn compare_and_set(&self, expected: i64, value: i64) -> Reply<Swap<i64>> {
        self.handle.command(&CompareAndSetV1 { expected, value }).and_then(|answer| {
            let mut reader = Reader::new(&answer.payload);
            match reader.u8()? {
                0 => Ok(Swap::Conflict(read_i64(&mut reader)?)),
                _ => Ok(Swap::Done(answer.index)),
            }
        })
    }

    fn add(&self, delta: i64) -> Reply<(i64, i64)> {
        self.handle.command(&AddV1 { delta }).and_then(|answer| old_and_new(&answer))
    }
}

fn old_and_new(answer: &Answer) -> Result<(i64, i64), Failure> {
    let mut reader = Reader::new(&answer.payload);
    Ok((read_i64(&mut reader)?, read_i64(&mut reader)?))
}

fn read_i64(reader: &mut Reader<'_>) -> Result<i64, Failure> {
    Ok(i64::from_le_bytes(reader.array()?))
}
