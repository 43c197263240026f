//! Bytes of operations: one struct per operation and version, chosen by (kind, schema), and never
//! changed once shipped.
//!
//! Flat types only: integers, `bool`, byte arrays, byte vectors, strings, and `Vec` and `Option`
//! of those. The validator has no notion of shared pointers, so anything else does not compile;
//! its depth is bounded, so nested lengths from a hostile client end in an error.

use crate::machine::{Code, Query};
use rkyv::api::access_with_context;
use rkyv::api::high::{HighSerializer, to_bytes_in};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::{Failure, Strategy};
use rkyv::ser::allocator::ArenaHandle;
use rkyv::util::AlignedVec;
use rkyv::validation::archive::ArchiveValidator;
use rkyv::{Archive, Portable, Serialize};
use std::num::NonZeroUsize;

/// Deepest nesting of an operation: a vector of vectors needs 4.
const DEPTH_MAX: Option<NonZeroUsize> = NonZeroUsize::new(8);
/// Operations are read in place at this alignment, in bytes; the log keeps it.
const ALIGNMENT: usize = 16;

/// An operation of one version.
pub trait Operation: Archive<Archived: Limits + Checked> {
    /// The resource's kind: see [`crate::machine::kind`].
    const KIND: u8;
    /// Which operation of the kind, and its version: number << 8 | version.
    const SCHEMA: u16;
    /// Its name, for people.
    const NAME: &'static str;
}

/// Operations that can be written.
pub trait Encode: Operation {
    /// Its bytes.
    #[must_use]
    fn encode(&self) -> Vec<u8>;
}

impl<O> Encode for O
where
    O: Operation + for<'a> Serialize<HighSerializer<Vec<u8>, ArenaHandle<'a>, Failure>>,
{
    fn encode(&self) -> Vec<u8> {
        to_bytes_in::<_, Failure>(self, Vec::new()).expect("writing flat types to memory")
    }
}

/// Bounds of an operation's content, beyond its bytes being valid.
pub trait Limits {
    /// Whether the content is within bounds.
    ///
    /// # Errors
    /// The code to refuse it with.
    fn limits(&self) -> Result<(), Code> {
        Ok(())
    }
}

/// Archived types that can be read in place from bytes nobody vouches for.
pub trait Checked: Portable + for<'a> CheckBytes<Strategy<ArchiveValidator<'a>, Failure>> {}

impl<T> Checked for T
where
    T: Portable,
    T: for<'a> CheckBytes<Strategy<ArchiveValidator<'a>, Failure>>,
{
}

/// Declares what an operation is called and its number.
macro_rules! operation {
    ($type:ident, $kind:expr, $schema:literal, $name:literal) => {
        impl $crate::resource::codec::Operation for $type {
            const KIND: u8 = $kind;
            const SCHEMA: u16 = $schema;
            const NAME: &'static str = $name;
        }
    };
}
pub(super) use operation;

/// Bounds of operations, field by field: see [`limit`].
macro_rules! limits {
    ($($type:ident: $($what:ident($field:ident)),*;)*) => {$(
        impl $crate::resource::codec::Limits for $type {
            fn limits(&self) -> Result<(), $crate::machine::Code> {
                $($crate::resource::codec::limit::$what(&self.$field)?;)*
                Ok(())
            }
        }
    )*};
}
pub(super) use limits;

/// Defines `check`: admission of the commands listed. Anything else, queries too, is no command.
macro_rules! check_by_schema {
    ($($operation:ident),*) => {
        pub(super) fn check(schema: u16, payload: &[u8]) -> Result<(), $crate::machine::Code> {
            match schema {
                $(<$operation as $crate::resource::codec::Operation>::SCHEMA => {
                    $crate::resource::codec::check::<$operation>(payload)
                })*
                _ => Err($crate::machine::Code::BAD_KIND),
            }
        }
    };
}
pub(super) use check_by_schema;

/// Holds an operation whose bytes were not aligned.
pub type Scratch = AlignedVec<ALIGNMENT>;

/// Reads an operation in place: bytes and limits are checked. Where they are not aligned, which
/// only memory of this process can cause, they are copied to `scratch`: the outcome is the same
/// on every replica.
///
/// # Errors
/// [`Code::BAD_PAYLOAD`], or what the limits say.
pub fn access<'a, O: Operation>(
    payload: &'a [u8],
    scratch: &'a mut Scratch,
) -> Result<&'a O::Archived, Code> {
    let payload = if payload.as_ptr().align_offset(ALIGNMENT) == 0 {
        payload
    } else {
        scratch.clear();
        scratch.extend_from_slice(payload);
        &scratch[..]
    };
    let mut validator = ArchiveValidator::with_max_depth(payload, DEPTH_MAX);
    let operation = access_with_context::<O::Archived, _, Failure>(payload, &mut validator)
        .map_err(|Failure| Code::BAD_PAYLOAD)?;
    operation.limits()?;
    Ok(operation)
}

/// Checks an operation's bytes and limits.
///
/// # Errors
/// See [`access`].
pub fn check<O: Operation>(payload: &[u8]) -> Result<(), Code> {
    access::<O>(payload, &mut Scratch::new()).map(|_| ())
}

/// Checks that a query is the only one of its type, which has no content.
///
/// # Errors
/// [`Code::BAD_KIND`] where it is another, and those of [`access`].
pub(super) fn only<O: Operation>(query: &Query<'_>) -> Result<(), Code> {
    if query.schema == O::SCHEMA { check::<O>(query.payload) } else { Err(Code::BAD_KIND) }
}

/// Options that are one number; without any it is the default.
///
/// # Errors
/// [`Code::BAD_PAYLOAD`] where they are anything else.
pub(super) fn number_or(default: u32, options: &[u8]) -> Result<u32, Code> {
    match options {
        [] => Ok(default),
        _ => Ok(u32::from_le_bytes(options.try_into().map_err(|_| Code::BAD_PAYLOAD)?)),
    }
}

/// How many a page holds at most: 0, and anything over `most`, stand for `most`.
pub(super) fn page_limit(asked: u32, most: u32) -> u32 {
    if asked == 0 { most } else { asked.min(most) }
}

/// Bounds of single fields.
pub(super) mod limit {
    use crate::machine::{Code, KEY_MAX, VALUE_MAX};
    use crate::resource::claims::WAIT_MS_MAX;
    use crate::resource::registry::check_name;
    use crate::resource::tree::path;
    use rkyv::option::ArchivedOption;
    use rkyv::primitive::{ArchivedU32, ArchivedU64};
    use rkyv::vec::ArchivedVec;

    /// Longest time to live: ten years, in milliseconds.
    pub(in super::super) const TTL_MS_MAX: u64 = 3_650 * 24 * 60 * 60 * 1_000;
    /// Keys or members in one operation, at most.
    pub(in super::super) const KEYS_MAX: usize = 1_000;

    pub(in super::super) fn key(key: &[u8]) -> Result<(), Code> {
        if key.len() <= KEY_MAX { Ok(()) } else { Err(Code::KEY_TOO_LARGE) }
    }

    pub(in super::super) fn value(value: &[u8]) -> Result<(), Code> {
        if value.len() <= VALUE_MAX { Ok(()) } else { Err(Code::VALUE_TOO_LARGE) }
    }

    pub(in super::super) fn expected(value: &ArchivedOption<ArchivedVec<u8>>) -> Result<(), Code> {
        value.as_ref().map_or(Ok(()), |bytes| self::value(bytes))
    }

    /// Of a resource, or of a member of a group.
    pub(in super::super) fn name(name: &[u8]) -> Result<(), Code> {
        check_name(name)
    }

    /// Of a node in a document tree.
    pub(in super::super) fn path(path: &[u8]) -> Result<(), Code> {
        path::key(path).map(drop)
    }

    /// From 1.
    pub(in super::super) fn amount(amount: &ArchivedU32) -> Result<(), Code> {
        if amount.to_native() == 0 { Err(Code::BAD_AMOUNT) } else { Ok(()) }
    }

    /// `None` for as long as it takes.
    pub(in super::super) fn wait(wait_ms: &ArchivedOption<ArchivedU64>) -> Result<(), Code> {
        wait_ms.as_ref().map_or(Ok(()), delay)
    }

    /// 0 for none.
    pub(in super::super) fn delay(delay_ms: &ArchivedU64) -> Result<(), Code> {
        if delay_ms.to_native() <= WAIT_MS_MAX { Ok(()) } else { Err(Code::BAD_TIME) }
    }

    /// From 1 ms.
    pub(in super::super) fn lease(lease_ms: &ArchivedU64) -> Result<(), Code> {
        if lease_ms.to_native() == 0 { Err(Code::BAD_TIME) } else { delay(lease_ms) }
    }

    /// 0 for no limit.
    pub(in super::super) fn ttl(ttl_ms: &ArchivedU64) -> Result<(), Code> {
        if ttl_ms.to_native() <= TTL_MS_MAX { Ok(()) } else { Err(Code::BAD_TIME) }
    }

    pub(in super::super) fn keys(keys: &ArchivedVec<ArchivedVec<u8>>) -> Result<(), Code> {
        if keys.len() > KEYS_MAX {
            return Err(Code::TOO_MANY_KEYS);
        }
        keys.iter().try_for_each(|key| self::key(key))
    }

    pub(in super::super) fn values(values: &ArchivedVec<ArchivedVec<u8>>) -> Result<(), Code> {
        if values.len() > KEYS_MAX {
            return Err(Code::TOO_MANY_KEYS);
        }
        values.iter().try_for_each(|value| self::value(value))
    }

    /// The end of a range. One byte more than a key may have: the least key above another is that
    /// and a zero.
    pub(in super::super) fn bound(bound: &ArchivedOption<ArchivedVec<u8>>) -> Result<(), Code> {
        match bound {
            ArchivedOption::Some(key) if key.len() > KEY_MAX + 1 => Err(Code::KEY_TOO_LARGE),
            _ => Ok(()),
        }
    }
}
