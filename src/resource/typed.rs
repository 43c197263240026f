//! Handles that speak a program's own types instead of bytes.
//!
//! Only a layer, a file per type of resource: what travels and is stored are the bytes that
//! [`Data`] makes, and `bytes()` of each handle leads to the one below, for all else it can do.
//! What is stored and stands for no value of the type fails what reads it; an operation that also
//! takes it away, a poll for instance, has done so all the same.

mod data;
mod election;
mod group;
mod log;
mod map;
mod multimap;
mod queue;
mod set;
mod topic;
mod tree;
mod value;

#[cfg(feature = "serde")]
pub use data::Json;
pub use data::{Data, DataError, Rkyv};
pub use election::{CandidateOf, ElectionEventOf, ElectionOf, LeaderOf};
pub use group::{MemberGroupOf, MembershipOf, MessageOf};
pub use log::{FollowOf, LogOf, LogPageOf, RecordOf};
pub use map::{Entry, EntryPage, MapOf};
pub use multimap::{MultimapEventOf, MultimapOf, MultimapPageOf, ValuesPageOf};
pub use queue::{QueueOf, TaskOf};
pub use set::{SetOf, SetPageOf};
pub use topic::{TopicEventOf, TopicOf};
pub use tree::{NodeOf, TreeEventOf, TreeOf};
pub use value::ValueOf;

use super::registry::DELETED;
use super::{Delivery, Failure, Removal, Swap, Versioned, entries};
use crate::machine::{Code, EventPayload};
use margay_log::id::Index;

/// A value with its version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stored<V> {
    /// The value.
    pub value: V,
    /// Rises with every change; never used twice within a resource.
    pub version: Index,
}

/// A change of a value, a map or a set. The key of a value is `()`, and so is the value of a set's
/// member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change<K, V> {
    /// A key has a value.
    Put {
        /// The key.
        key: K,
        /// Its value.
        value: V,
        /// The version of the value.
        version: Index,
        /// The value before, where it had one.
        old: Option<V>,
    },
    /// A key has none any more.
    Removed {
        /// The key.
        key: K,
        /// The value it had.
        old: V,
        /// Where in the log that happened; above the version it had.
        version: Index,
        /// Why.
        why: Removal,
    },
    /// All keys were removed.
    Cleared,
    /// The resource was deleted.
    Deleted,
    /// Changes were missed: read what is there, then go on.
    Lagged {
        /// Index of the oldest event still kept.
        oldest: Index,
    },
}

impl<K: Data, V: Data> Change<K, V> {
    fn read(delivery: Delivery) -> Result<Change<K, V>, Failure> {
        let (version, kind, payload) = match delivery {
            Delivery::Lagged { oldest } => return Ok(Change::Lagged { oldest }),
            Delivery::Event { index: version, kind, payload, .. } => (version, kind, payload),
        };
        let EventPayload { key, new, old } = EventPayload::decode(&payload)?;
        let key = || K::from_bytes(key.as_deref().unwrap_or_default());
        let old = old.map(|old| V::from_bytes(&old)).transpose()?;
        match (kind, new, old) {
            (entries::CLEARED, ..) => Ok(Change::Cleared),
            (DELETED, ..) => Ok(Change::Deleted),
            (entries::PUT, Some(value), old) => {
                Ok(Change::Put { key: key()?, value: V::from_bytes(&value)?, version, old })
            }
            (kind, _, Some(old)) => match Removal::of_event(kind) {
                Some(why) => Ok(Change::Removed { key: key()?, old, version, why }),
                None => Err(Failure::from(Code::BAD_PAYLOAD)),
            },
            _ => Err(Failure::from(Code::BAD_PAYLOAD)),
        }
    }
}

fn read<V: Data>(versioned: Versioned) -> Result<Stored<V>, Failure> {
    let Versioned { value, version } = versioned;
    Ok(Stored { value: V::from_bytes(&value)?, version })
}

fn read_some<V: Data>(found: Option<Versioned>) -> Result<Option<Stored<V>>, Failure> {
    found.map(read).transpose()
}

fn read_swap<V: Data>(swap: Swap<Option<Versioned>>) -> Result<Swap<Option<Stored<V>>>, Failure> {
    match swap {
        Swap::Done(version) => Ok(Swap::Done(version)),
        Swap::Conflict(None) => Ok(Swap::Conflict(None)),
        Swap::Conflict(Some(Versioned { value, version })) => {
            let value = V::from_bytes(&value).map_err(DataError::before_writing)?;
            Ok(Swap::Conflict(Some(Stored { value, version })))
        }
    }
}

/// What an operation that has not written anything yet has found.
fn read_found<V: Data>(found: Option<&[u8]>) -> Result<Option<V>, Failure> {
    found.map(V::from_bytes).transpose().map_err(DataError::before_writing)
}
