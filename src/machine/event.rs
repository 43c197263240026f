//! What the state machine tells without being asked: events (a bounded history) and notices
//! (state).

use super::bytes::{self, Reader};
use super::code::Code;
use super::{ResourceId, SessionId, Shared};
use margay_log::id::Index;
use std::fmt;

/// A key and a value in one allocation, shared between state, events and snapshots in the making.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    bytes: Shared<[u8]>,
    key_length: u32,
}

impl Pair {
    /// Copies both, with one allocation. The key must be shorter than 4 GiB.
    #[must_use]
    pub fn new(key: &[u8], value: &[u8]) -> Pair {
        let key_length = u32::try_from(key.len()).expect("a key shorter than 4 GiB");
        let length = key.len() + value.len();
        let mut bytes: Shared<[u8]> = std::iter::repeat_n(0, length).collect();
        let (to_key, to_value) =
            Shared::get_mut(&mut bytes).expect("nobody else has it yet").split_at_mut(key.len());
        to_key.copy_from_slice(key);
        to_value.copy_from_slice(value);
        Pair { bytes, key_length }
    }

    /// The key; empty where the resource has none.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.bytes[..self.key_length as usize]
    }

    /// The value.
    #[must_use]
    pub fn value(&self) -> &[u8] {
        &self.bytes[self.key_length as usize..]
    }

    /// Bytes of both.
    #[must_use]
    pub fn size(&self) -> usize {
        self.bytes.len()
    }
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.key().escape_ascii(), self.value().escape_ascii())
    }
}

/// A change of a resource, numbered (index, ordinal): see [`super::Sink::event`].
///
/// It shares its bytes with the state; the form that travels is made on delivery only
/// ([`Event::encode`]).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// Whose event it is.
    pub resource: ResourceId,
    /// Its number among the events of one index, from 0, over all resources of the group.
    pub ordinal: u32,
    /// What happened; each type of resource numbers its own.
    pub kind: u16,
    /// What is there now, if anything is.
    pub new: Option<Pair>,
    /// What was there before, if anything was.
    pub old: Option<Pair>,
}

impl Event {
    /// The key it is about; `None` where it is about all of them.
    #[must_use]
    pub fn key(&self) -> Option<&[u8]> {
        self.new.as_ref().or(self.old.as_ref()).map(Pair::key)
    }

    /// Bytes it counts with against the bound of a ring.
    #[must_use]
    pub fn size(&self) -> usize {
        EVENT_OVERHEAD
            + self.new.as_ref().map_or(0, Pair::size)
            + self.old.as_ref().map_or(0, Pair::size)
    }

    /// Whether it passes a subscription's filter, in the form [`Filter::encode`] gives it. One
    /// that is not well formed passes nothing; refuse it with [`Filter::decode`] before.
    #[must_use]
    pub fn passes(&self, filter: &[u8]) -> bool {
        match (filter, self.key()) {
            ([], _) | ([1 | 2, ..], None) => true,
            ([1, wanted @ ..], Some(key)) => wanted == key,
            ([2, prefix @ ..], Some(key)) => key.starts_with(prefix),
            _ => false,
        }
    }

    /// The payload as it travels; see [`Event::encode`].
    #[must_use]
    pub fn payload(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.size());
        self.encode(&mut out);
        out
    }

    /// Appends the payload as it travels: key, new value, old value, each after a length.
    pub fn encode(&self, out: &mut Vec<u8>) {
        bytes::put_optional(out, self.key());
        bytes::put_optional(out, self.new.as_ref().map(Pair::value));
        bytes::put_optional(out, self.old.as_ref().map(Pair::value));
    }
}

/// What an event counts with beside its bytes.
const EVENT_OVERHEAD: usize = 64;

/// The payload of an event as its receiver sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EventPayload {
    /// The key it is about; `None` where it is about all of them.
    pub key: Option<Vec<u8>>,
    /// The value there is now.
    pub new: Option<Vec<u8>>,
    /// The value there was.
    pub old: Option<Vec<u8>>,
}

impl EventPayload {
    /// Reads what [`Event::encode`] wrote.
    ///
    /// # Errors
    /// [`Code::BAD_PAYLOAD`] where the bytes are anything else.
    pub fn decode(payload: &[u8]) -> Result<EventPayload, Code> {
        let mut reader = Reader::new(payload);
        let key = reader.optional()?.map(<[u8]>::to_vec);
        let new = reader.optional()?.map(<[u8]>::to_vec);
        let old = reader.optional()?.map(<[u8]>::to_vec);
        reader.end()?;
        Ok(EventPayload { key, new, old })
    }
}

/// Which events of a resource a subscription wants. An event about all keys passes every filter.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Filter {
    /// All of them.
    #[default]
    All,
    /// Those about this key.
    Key(Vec<u8>),
    /// Those about keys that begin so.
    Prefix(Vec<u8>),
}

impl Filter {
    /// Appends the form that travels: nothing for all, else one byte and the key.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (tag, key) = match self {
            Filter::All => return,
            Filter::Key(key) => (1, key),
            Filter::Prefix(key) => (2, key),
        };
        out.push(tag);
        out.extend_from_slice(key);
    }

    /// Reads what [`Filter::encode`] wrote.
    ///
    /// # Errors
    /// [`Code::BAD_FILTER`] for an unknown first byte, [`Code::KEY_TOO_LARGE`] for a key over 4
    /// KiB.
    pub fn decode(filter: &[u8]) -> Result<Filter, Code> {
        match filter {
            [] => Ok(Filter::All),
            [_, key @ ..] if key.len() > super::KEY_MAX => Err(Code::KEY_TOO_LARGE),
            [1, key @ ..] => Ok(Filter::Key(key.to_vec())),
            [2, key @ ..] => Ok(Filter::Prefix(key.to_vec())),
            _ => Err(Code::BAD_FILTER),
        }
    }
}

/// What is kept of a resource's events after a position.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Events {
    /// All of them that pass the filter, in order.
    Some(Vec<(Index, Event)>),
    /// Some between the position and `oldest` are no longer kept.
    Lagged {
        /// From this index on all are kept.
        oldest: Index,
    },
    /// There is no such resource: it was deleted, or is not created yet.
    Gone,
}

/// A change of what a session holds or waits for. The sum of a session's notices is what
/// [`super::StateMachine::holdings`] lists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Notice {
    /// Whom it concerns.
    pub session: SessionId,
    /// The resource held or waited for.
    pub resource: ResourceId,
    /// Names the hold or wait: index of the command that asked.
    pub waiter: Index,
    /// What it is now.
    pub state: NoticeState,
}

/// What became of a request that could wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoticeState {
    /// It waits. Later: `Granted`, `TimedOut`, `Released` or `Lost`.
    Waiting,
    /// It holds. Later: `Released` or `Lost`.
    Granted {
        /// The fencing token: rises strictly with every grant of the resource. That of a member
        /// of a group rises with its messages, too.
        token: u64,
    },
    /// Its time-out passed before its turn came. Final.
    TimedOut,
    /// The session itself gave it back or stopped waiting. Final.
    Released,
    /// It was taken away: the resource was deleted, a lease ended. Final.
    Lost,
}

impl NoticeState {
    /// Whether it says more than that the request waits, or is granted with a token up to `seen`.
    #[must_use]
    pub fn is_news(self, seen: u64) -> bool {
        match self {
            NoticeState::Waiting => false,
            NoticeState::Granted { token } => token > seen,
            _ => true,
        }
    }

    /// Whether the request is over: neither held nor waited for.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, NoticeState::TimedOut | NoticeState::Released | NoticeState::Lost)
    }
}
