//! A single value of bytes, with a version.
//!
//! The version is the index of the command that wrote it. A value is either set, possibly to no
//! bytes at all, or not set; it can end by itself, after a time or with the session that set it.
//! Its events are those of an entry without a key: [`super::entries`].

mod handle;

pub use handle::{Value, ValueEvent};

use super::Resource;
use super::codec::{Operation, Scratch, access, check_by_schema, limits, only, operation};
use super::entries::{Entries, Held, Life, delegate_to_entries};
use super::handle::{put_swap, put_versioned};
use crate::machine::{Code, Commit, Effects, LogTime, Pair, Query, kind};
use margay_log::id::Index;

// ---- operations -----------------------------------------------------------------------------

/// Sets the value.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct SetV1 {
    /// At most 1 MiB.
    pub value: Vec<u8>,
    /// Whether it ends with the session.
    pub ephemeral: bool,
    /// Its time to live in milliseconds; 0 for no limit.
    pub ttl_ms: u64,
}

/// Sets the value. Answers the previous one.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct GetAndSetV1 {
    /// At most 1 MiB.
    pub value: Vec<u8>,
    /// Whether it ends with the session.
    pub ephemeral: bool,
    /// Its time to live in milliseconds; 0 for no limit.
    pub ttl_ms: u64,
}

/// Sets the value if it is the expected one. Answers 1, or 0 and the value there is.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct CompareAndSetV1 {
    /// `None`: it must not be set.
    pub expected: Option<Vec<u8>>,
    /// At most 1 MiB.
    pub value: Vec<u8>,
    /// Whether it ends with the session.
    pub ephemeral: bool,
    /// Its time to live in milliseconds; 0 for no limit.
    pub ttl_ms: u64,
}

/// Sets the value if it has this version. Answers 1, or 0 and the value there is.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct CompareVersionV1 {
    /// 0: it must not be set.
    pub version: u64,
    /// At most 1 MiB.
    pub value: Vec<u8>,
    /// Whether it ends with the session.
    pub ephemeral: bool,
    /// Its time to live in milliseconds; 0 for no limit.
    pub ttl_ms: u64,
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
    ArchivedSetV1: value(value), ttl(ttl_ms);
    ArchivedGetAndSetV1: value(value), ttl(ttl_ms);
    ArchivedCompareAndSetV1: expected(expected), value(value), ttl(ttl_ms);
    ArchivedCompareVersionV1: value(value), ttl(ttl_ms);
    ArchivedDeleteV1:;
    ArchivedGetV1:;
}

check_by_schema!(SetV1, GetAndSetV1, CompareAndSetV1, CompareVersionV1, DeleteV1);

// ---- state ----------------------------------------------------------------------------------

/// The value, if set: the entry of no key.
#[derive(Clone, Debug, Default)]
pub(super) struct ValueState {
    entry: Entries,
}

const KEY: &[u8] = &[];

impl Resource for ValueState {
    fn apply(&mut self, commit: &Commit<'_>, effects: &mut Effects) {
        if let Err(code) = self.try_apply(commit, effects) {
            effects.refuse(code, "");
        }
    }

    fn query(&self, query: &Query<'_>, effects: &mut Effects) {
        match only::<GetV1>(query) {
            Ok(()) => put_versioned(&mut effects.reply, self.versioned(query.time)),
            Err(code) => effects.refuse(code, ""),
        }
    }

    delegate_to_entries!(entry);
}

impl ValueState {
    fn versioned(&self, now: LogTime) -> Option<(&[u8], Index)> {
        self.entry.get(KEY, now).map(Held::versioned)
    }

    fn try_apply(&mut self, commit: &Commit<'_>, effects: &mut Effects) -> Result<(), Code> {
        let (payload, mut scratch) = (commit.payload, Scratch::new());
        let found = self.versioned(commit.time);
        let life = |ttl_ms, ephemeral| Life::wished(ttl_ms, ephemeral, commit);
        match commit.schema {
            SetV1::SCHEMA => {
                let set = access::<SetV1>(payload, &mut scratch)?;
                let life = life(set.ttl_ms.to_native(), set.ephemeral);
                self.set(&set.value, life, commit, effects);
            }
            GetAndSetV1::SCHEMA => {
                let set = access::<GetAndSetV1>(payload, &mut scratch)?;
                let life = life(set.ttl_ms.to_native(), set.ephemeral);
                put_versioned(&mut effects.reply, found);
                self.set(&set.value, life, commit, effects);
            }
            CompareAndSetV1::SCHEMA => {
                let set = access::<CompareAndSetV1>(payload, &mut scratch)?;
                let life = life(set.ttl_ms.to_native(), set.ephemeral);
                let expected = set.expected.as_deref();
                let done = expected == found.map(|(value, _)| value);
                put_swap(&mut effects.reply, done, found);
                if done {
                    self.set(&set.value, life, commit, effects);
                }
            }
            CompareVersionV1::SCHEMA => {
                let set = access::<CompareVersionV1>(payload, &mut scratch)?;
                let life = life(set.ttl_ms.to_native(), set.ephemeral);
                let done = set.version == found.map_or(0, |(_, version)| version.0);
                put_swap(&mut effects.reply, done, found);
                if done {
                    self.set(&set.value, life, commit, effects);
                }
            }
            DeleteV1::SCHEMA => {
                access::<DeleteV1>(payload, &mut scratch)?;
                let old = self.entry.remove(KEY, commit, effects);
                effects.reply.push(u8::from(old.is_some()));
            }
            _ => return Err(Code::BAD_KIND),
        }
        Ok(())
    }

    fn set(&mut self, value: &[u8], life: Life, commit: &Commit<'_>, effects: &mut Effects) {
        self.entry.put(Pair::new(KEY, value), life, (), commit, effects);
    }
}
