//! Types of resources that a program brings along, beside margay's own: kinds 128 to 255.
//!
//! A type belongs to the program, not to one node of it: it is registered once, for all nodes and
//! simulations of the process, before the first of them starts. Every program that runs a node of
//! the cluster must register the same types: one that meets a type in the log that it does not know
//! halts that group rather than leave the resource out.

use std::any::TypeId;
use std::sync::OnceLock;

use super::{Created, Type};
use crate::machine::{Code, halt};

/// The first kind that is a user's.
pub const OWN_MIN: u8 = 128;

/// A type of resource that a program brings along.
///
/// The rules of [`super::Resource`] hold: same commands, same state and replies, everywhere. Where
/// its code panics while an entry is applied, the group halts at that entry, on every replica.
pub trait OwnType: 'static {
    /// Its number, 128 to 255: stored with every operation, so never change its meaning.
    const KIND: u8;
    /// For people, as in "orders is a ledger".
    const NAME: &'static str;

    /// Admission of a command: whether its bytes are well formed and within limits, without looking
    /// at state. Anything unknown is [`Code::BAD_KIND`].
    ///
    /// # Errors
    /// The code to refuse it with.
    fn check(schema: u16, payload: &[u8]) -> Result<(), Code>;

    /// An empty one, with the options it was opened with.
    ///
    /// # Errors
    /// The code to refuse the options with.
    fn create(options: &[u8]) -> Created;
}

/// A type that cannot be registered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RegisterError {
    /// The number is one of margay's.
    #[error("{name} has kind {kind}; those of own types are 128 to 255")]
    NotOwn {
        /// The type's name.
        name: &'static str,
        /// Its number.
        kind: u8,
    },
    /// Another type has the number.
    #[error("{name} has kind {kind}, which is {taken}; choose another number")]
    Taken {
        /// The type's name.
        name: &'static str,
        /// Its number.
        kind: u8,
        /// Whose it is.
        taken: &'static str,
    },
}

struct Own {
    is: TypeId,
    known: Type,
}

static OWN: [OnceLock<Own>; 128] = [const { OnceLock::new() }; 128];

/// Makes a type known to this process. Again, it does nothing.
///
/// # Errors
/// Its number is margay's, or another type's.
pub fn register<T: OwnType>() -> Result<(), RegisterError> {
    let (name, kind) = (T::NAME, T::KIND);
    let place = kind.checked_sub(OWN_MIN).ok_or(RegisterError::NotOwn { name, kind })?;
    let known = Type { kind, name, check: T::check, create: T::create };
    let there = OWN[usize::from(place)].get_or_init(|| Own { is: TypeId::of::<T>(), known });
    match there.is == TypeId::of::<T>() {
        true => Ok(()),
        false => Err(RegisterError::Taken { name, kind, taken: there.known.name }),
    }
}

/// A registered type.
pub(super) fn find(kind: u8) -> Option<&'static Type> {
    let place = kind.checked_sub(OWN_MIN)?;
    OWN[usize::from(place)].get().map(|own| &own.known)
}

/// Whether a number is a user's, registered or not.
pub(super) fn is_own(kind: u8) -> bool {
    kind >= OWN_MIN
}

/// Runs code of a resource's state: where it is a user's and panics, the group halts.
pub(super) fn run<T>(kind: u8, work: impl FnOnce() -> T) -> T {
    if !is_own(kind) {
        return work();
    }
    halt::guarded(|| super::type_name(kind).to_owned(), work)
}

/// Admission by the type's own check; its panic is a refusal.
pub(super) fn check(known: &Type, schema: u16, payload: &[u8]) -> Result<(), Code> {
    if !is_own(known.kind) {
        return (known.check)(schema, payload);
    }
    let checked = halt::guard(|| (known.check)(schema, payload));
    checked.unwrap_or(Err(Code::BAD_PAYLOAD))
}
