//! The replicated state machine of one group: sessions, log time, and whatever state a
//! [`StateMachine`] keeps.
//!
//! Everything here is a function of the log: the same entries give the same state, replies and
//! events on every replica. So there is no clock, no random source, no thread and no address
//! order below this line; time is the log time of the batch being applied. What resources there
//! are is not known here.

pub mod bytes;
pub mod clock;
pub mod code;
pub mod event;
mod group;
pub mod halt;
pub mod session;

pub use code::{Code, Outcome};
pub use event::{Event, EventPayload, Events, Filter, Notice, NoticeState, Pair};
pub use group::{FrozenMachine, Machine, RestoringMachine};
pub use halt::Halted;
pub use session::{Session, Sessions};

use margay_log::id::{Index, Micros};
use std::any::Any;
use std::fmt;

/// A pointer to data that is shared and never changed while shared. Freezing copies these.
pub type Shared<T> = std::sync::Arc<T>;

/// Longest key of a resource, in bytes.
pub const KEY_MAX: usize = 4 << 10;
/// Largest value of a resource, in bytes.
pub const VALUE_MAX: usize = 1 << 20;
/// Longest resource name, in bytes.
pub const NAME_MAX: usize = 256;
/// Timers fired before the entries of one batch, at most. The rest fires with the next batch;
/// until then operations treat what is due as gone.
pub const TIMERS_PER_BATCH: usize = 1_024;
/// What the entry that ends a session lets go of, about, in things that it held or that are told.
/// The rest follows before the entries of later batches; a session that holds more is over only
/// when all of it is gone.
pub const ENDED_PER_ENTRY: usize = 256;
/// What sessions that are ending let go of before the entries of one batch, about.
pub const ENDED_PER_BATCH: usize = 1_024;

/// A session: the index of the entry that registered it. 0 is none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SessionId(pub u64);

/// Number of a command within its session, from 1, without gaps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Sequence(pub u64);

impl Sequence {
    /// The next one. Saturates: a hostile number must not panic.
    #[must_use]
    pub fn next(self) -> Sequence {
        Sequence(self.0.saturating_add(1))
    }
}

/// A resource: the index of the entry that created it, so never used twice. 0 is the registry
/// itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ResourceId(pub u64);

impl ResourceId {
    /// The registry: opens, finds and deletes resources.
    pub const REGISTRY: ResourceId = ResourceId(0);
}

/// Microseconds since the cluster was formed, as the log counts them. Never runs backwards.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LogTime(pub u64);

impl LogTime {
    /// This time plus a span. Saturates.
    #[must_use]
    pub fn after(self, span: Micros) -> LogTime {
        LogTime(self.0.saturating_add(span.0))
    }
}

macro_rules! shown_as {
    ($($type:ident $format:literal;)*) => {$(
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }
    )*};
}

shown_as! {
    SessionId "S{}";
    Sequence "#{}";
    ResourceId "R{}";
    LogTime "{}us";
}

/// What an entry is: `EntryHeader.kind`. From 8 on the number is also the type of a resource.
pub mod kind {
    /// First entry of a leader's term.
    pub const NOOP: u8 = 0;
    /// A membership.
    pub const CONFIGURATION: u8 = 1;
    /// Opens a session.
    pub const REGISTER: u8 = 2;
    /// Ends a session at its own wish.
    pub const CLOSE: u8 = 3;
    /// Ends a session that was silent for too long.
    pub const EXPIRE: u8 = 4;
    /// Lets time pass.
    pub const TICK: u8 = 5;
    /// A command that was refused for its content: it uses up its sequence and answers a code.
    pub const REFUSED: u8 = 6;
    /// Opens and deletes resources.
    pub const REGISTRY: u8 = 8;
    /// Checks and commands that take effect together.
    pub const TRANSACTION: u8 = 9;
    /// A single value.
    pub const VALUE: u8 = 16;
    /// A signed 64-bit number.
    pub const COUNTER: u8 = 17;
    /// An ordered map.
    pub const MAP: u8 = 18;
    /// A fair lock with fencing tokens.
    pub const LOCK: u8 = 19;
    /// An ordered map from keys to sets of values.
    pub const MULTIMAP: u8 = 20;
    /// An ordered set.
    pub const SET: u8 = 21;
    /// A queue of values or tasks.
    pub const QUEUE: u8 = 22;
    /// A fair read-write lock.
    pub const RW_LOCK: u8 = 23;
    /// A fair semaphore.
    pub const SEMAPHORE: u8 = 24;
    /// A cyclic barrier.
    pub const BARRIER: u8 = 25;
    /// A count-down latch.
    pub const LATCH: u8 = 26;
    /// An election.
    pub const ELECTION: u8 = 27;
    /// Members that send each other messages.
    pub const GROUP: u8 = 28;
    /// Messages in one order.
    pub const TOPIC: u8 = 29;
    /// A tree of documents under paths.
    pub const TREE: u8 = 30;
    /// Records in one order, at positions.
    pub const LOG: u8 = 31;
}

/// How fresh the answer to a query must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Level {
    /// It sees everything that was acknowledged to anybody before it was asked.
    #[default]
    Linearizable,
    /// The same, as long as clocks run about equally fast: the leader answers without asking the
    /// others, if it has heard a majority of them a moment ago.
    Lease,
    /// From any replica; never older than what the session has seen.
    Sequential,
}

/// An entry of the log as the machine needs it.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Its position.
    pub index: Index,
    /// See [`kind`].
    pub kind: u8,
    /// Operation and version within the kind.
    pub schema: u16,
    /// The resource it is for.
    pub resource: ResourceId,
    /// The session that sent it; 0 for none.
    pub session: SessionId,
    /// Its number within the session.
    pub sequence: Sequence,
    /// End of the contiguous prefix of replies the session has received.
    pub acked: Sequence,
    /// The operation.
    pub payload: &'a [u8],
}

/// A command that is applied now, exactly once.
#[derive(Clone, Copy, Debug)]
pub struct Commit<'a> {
    /// Its position; the version of whatever it writes.
    pub index: Index,
    /// The log time of its batch.
    pub time: LogTime,
    /// Who sent it.
    pub session: SessionId,
    /// Its number within the session.
    pub sequence: Sequence,
    /// See [`kind`].
    pub kind: u8,
    /// Operation and version within the kind.
    pub schema: u16,
    /// The resource it is for.
    pub resource: ResourceId,
    /// The operation.
    pub payload: &'a [u8],
}

/// A question to the state; changes nothing.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// What has been applied.
    pub index: Index,
    /// The log time of that.
    pub time: LogTime,
    /// Who asks.
    pub session: SessionId,
    /// See [`kind`].
    pub kind: u8,
    /// Operation and version within the kind.
    pub schema: u16,
    /// The resource it is for.
    pub resource: ResourceId,
    /// The operation.
    pub payload: &'a [u8],
}

/// What an operation leads to. One is reused for all entries.
#[derive(Clone, Debug, Default)]
pub struct Effects {
    /// How it ended. [`Code::OK`] unless somebody says otherwise.
    pub code: Code,
    /// The reply's payload; with another code than OK a text for people, or nothing.
    pub reply: Vec<u8>,
    /// Events, in order; see [`Effects::event`].
    pub events: Vec<Event>,
    /// Notices, in order.
    pub notices: Vec<Notice>,
    /// How much the session that commands holds and waits for before it.
    pub(crate) held: usize,
    index: Index,
    ordinal: u32,
}

impl Effects {
    /// Empty, before the first entry.
    #[must_use]
    pub fn new() -> Effects {
        Effects::default()
    }

    /// Forgets all, for an operation at `index`. Events of one index are numbered on.
    pub fn begin(&mut self, index: Index) {
        self.code = Code::OK;
        self.reply.clear();
        self.events.clear();
        self.notices.clear();
        self.held = 0;
        if self.index != index {
            self.index = index;
            self.ordinal = 0;
        }
    }

    /// Adds an event and numbers it.
    pub fn event(&mut self, resource: ResourceId, kind: u16, new: Option<Pair>, old: Option<Pair>) {
        self.events.push(Event { resource, ordinal: self.ordinal, kind, new, old });
        self.ordinal += 1;
    }

    /// Adds a notice.
    pub fn notice(
        &mut self,
        session: SessionId,
        resource: ResourceId,
        waiter: Index,
        state: NoticeState,
    ) {
        self.notices.push(Notice { session, resource, waiter, state });
    }

    /// Ends the operation with a code and, where it helps, a text for people.
    pub fn refuse(&mut self, code: Code, text: &str) {
        self.code = code;
        self.reply.clear();
        self.reply.extend_from_slice(text.as_bytes());
    }
}

/// A deterministic state: the same commits give the same state and the same effects, everywhere.
///
/// Nothing here may look at a clock, an address or a random source. What is no longer needed of a
/// large state may be dropped on another thread; hence `Send`. Payloads come from clients:
/// one that is not valid is answered with a code, never a panic.
pub trait StateMachine: Sized + Send + 'static {
    /// A view of the state that stays as it is while the state goes on.
    type Frozen: Frozen + Send + 'static;
    /// A state in the making.
    type Restoring: Restoring<State = Self> + Send + 'static;

    /// Whether a panic while it is applied to is a failed assertion of margay's: then the process
    /// stops. One of a user's halts its group; see [`halt`].
    const IS_OURS: bool = false;

    /// Admission: whether a command's payload is well formed and within limits, without looking
    /// at state.
    ///
    /// # Errors
    /// The code to refuse it with.
    fn check(kind: u8, schema: u16, payload: &[u8]) -> Result<(), Code>;

    /// Applies a command.
    fn apply(&mut self, commit: &Commit<'_>, effects: &mut Effects);

    /// What a command has taken out of the state at once and that takes long to free, if there is
    /// something: whoever drives the machine drops it where it holds up nobody. No part of the
    /// state.
    fn take_waste(&mut self) -> Option<Box<dyn Any + Send>> {
        None
    }

    /// Answers a query: only code and reply of `effects` count.
    fn query(&self, query: &Query<'_>, effects: &mut Effects);

    /// The session is ending: what it holds is released, about `limit` things of it. Returns how
    /// many; fewer than `limit` say that nothing is left. Otherwise it is asked again before the
    /// entries of a later batch. `commit` is what ends the session, or stands for that batch.
    fn session_ended(
        &mut self,
        session: SessionId,
        commit: &Commit<'_>,
        limit: usize,
        effects: &mut Effects,
    ) -> usize;

    /// When the next timer is due.
    fn next_timer(&self) -> Option<LogTime>;

    /// Fires timers due at `now`, in order (due, creation), at most `limit`. Returns how many.
    fn fire(&mut self, index: Index, now: LogTime, limit: usize, effects: &mut Effects) -> usize;

    /// Appends everything the session holds or waits for at `now`.
    fn holdings(&self, session: SessionId, now: LogTime, out: &mut Vec<Notice>);

    /// The kept events of a resource after a position that pass a filter ([`Event::passes`]);
    /// [`Events::Gone`] ends the subscription, unless the resource is yet to be created.
    fn events(&self, resource: ResourceId, after: (Index, u32), filter: &[u8]) -> Events;

    /// A view of the state as it is now. Copies pointers, not data.
    fn freeze(&self) -> Self::Frozen;

    /// Begins to rebuild a state from what its frozen view wrote as of the entry `applied`.
    fn restore(applied: Index) -> Self::Restoring;
}

/// A state as it was at one index, written out slice by slice. Equal states write equal bytes.
pub trait Frozen {
    /// Appends about `max` bytes: whole items only, so possibly one item more. Returns whether
    /// more follow. A slice of more than 16 MiB halts the group.
    fn next_chunk(&mut self, max: usize, out: &mut Vec<u8>) -> bool;
}

/// Takes the chunks of a [`Frozen`], in order, as they were cut.
pub trait Restoring: Sized {
    /// What is restored.
    type State;

    /// Takes the next chunk.
    ///
    /// # Errors
    /// Where it is not what a frozen view writes, or not the next one.
    fn feed(&mut self, chunk: &[u8]) -> Result<(), RestoreError>;

    /// All chunks were fed.
    ///
    /// # Errors
    /// Where some are missing.
    fn finish(self) -> Result<Self::State, RestoreError>;
}

/// A snapshot that cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The bytes are not what this version writes.
    #[error("snapshot is damaged: {what}; fetch it again")]
    Damaged {
        /// What was being read.
        what: &'static str,
    },
    /// It ends too early.
    #[error("snapshot is incomplete; fetch the rest")]
    Incomplete,
    /// It has a version or a resource type this program does not know.
    #[error("snapshot holds format {found}, newer than this program; update it")]
    TooNew {
        /// The version or type found.
        found: u32,
    },
}

/// Why a session ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EndReason {
    /// At its own wish.
    Closed,
    /// It was silent for longer than its time-out.
    Expired,
}

/// Who is told what the applied entries led to, in order. For one entry: events, notices, then
/// the rest, so an event or notice of index i precedes the reply to an operation that saw i.
pub trait Sink {
    /// A command is answered. `index` is where it took effect: for one that was in the log
    /// before, the first place. An entry that is no command and was refused answers so too, with
    /// sequence 0.
    fn reply(
        &mut self,
        index: Index,
        session: SessionId,
        sequence: Sequence,
        code: Code,
        payload: &[u8],
    );

    /// Something happened to a resource. (index, `event.ordinal`) rises strictly.
    fn event(&mut self, index: Index, event: &Event);

    /// What a session holds or waits for has changed.
    fn notice(&mut self, notice: &Notice);

    /// A session is registered; again with the same key, the same session.
    fn registered(&mut self, index: Index, session: SessionId, key: &[u8; 16], timeout: Micros);

    /// A session is over, and nothing is left of what it held.
    fn ended(&mut self, index: Index, session: SessionId, reason: EndReason);
}

/// What is known of a command before it is proposed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admit<'a> {
    /// The one after the last applied.
    Next,
    /// Further on. Whether what is between is proposed only the replica knows.
    Ahead,
    /// Applied, and its reply is kept.
    Cached {
        /// Where it took effect.
        index: Index,
        /// How it ended.
        code: Code,
        /// Its reply.
        payload: &'a [u8],
    },
    /// Applied, but the reply is no longer kept.
    Gone,
    /// No such session.
    Unknown,
}
