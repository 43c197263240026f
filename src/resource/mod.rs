//! Resources: what users see of the replicated log, and the state behind it.
//!
//! A file per type, each in the same order: operations (what travels and is logged), state (what
//! is replicated), handle (what the application holds). Handles are generic over [`Submit`]: the
//! client, a node in the same process and the simulator carry operations alike.

pub mod barrier;
mod claims;
pub mod codec;
pub mod counter;
pub mod describe;
pub mod directory;
pub mod election;
pub mod entries;
pub mod group;
pub mod handle;
pub mod latch;
pub mod lock;
pub mod log;
pub mod map;
pub mod multimap;
pub mod own;
pub mod queue;
pub mod registry;
pub mod reply;
mod ring;
pub mod rwlock;
pub mod semaphore;
pub mod set;
pub mod snapshot;
pub mod subscription;
pub mod topic;
pub mod transaction;
pub mod tree;
pub mod typed;
pub mod value;
pub mod waiters;
pub mod waste;

pub use barrier::Barrier;
pub use counter::{Counter, IdGenerator};
pub use describe::Description;
pub use directory::Directory;
pub use election::{Election, Leadership};
pub use group::{MemberGroup, Membership};
pub use handle::{Handle, Removal, Swap, Versioned};
pub use latch::Latch;
pub use lock::{Lock, LockGuard};
pub use log::Log;
pub use map::Map;
pub use multimap::Multimap;
pub use own::{OwnType, register};
pub use queue::{Queue, Task};
pub use registry::Registry;
pub use reply::{Answer, Completer, Failure, Reply};
pub use rwlock::{RwLock, RwLockGuard};
pub use semaphore::{Permits, Semaphore};
pub use set::Set;
pub use subscription::{Delivery, Feed, Fetched, Subscription, Watch};
pub use topic::Topic;
pub use transaction::Transaction;
pub use tree::Tree;
pub use value::Value;

use crate::machine::clock::Due;
use crate::machine::{
    Code, Commit, Effects, Filter, Level, LogTime, Notice, NoticeState, Query, ResourceId,
    SessionId, kind,
};
use describe::Holders;
use margay_log::id::{GroupId, Index};
use snapshot::Items;
use std::fmt;

/// Carries operations of one session to the group a resource lives in.
///
/// Operations are numbered when these functions are called, not when replies are awaited: calls
/// made one after the other are applied in that order. A reply with a code other than OK may come
/// as an [`Answer`] or as a [`Failure`].
pub trait Submit: Clone + Send + Sync + 'static {
    /// Sends a command: applied once, whatever happens to connections and leaders.
    fn command(
        &self,
        kind: u8,
        schema: u16,
        resource: ResourceId,
        payload: Vec<u8>,
    ) -> Reply<Answer>;

    /// Asks a query.
    fn query(
        &self,
        level: Level,
        kind: u8,
        schema: u16,
        resource: ResourceId,
        payload: Vec<u8>,
    ) -> Reply<Answer>;

    /// The same way for commands that give something back and that nobody waits for: as long as the
    /// session lives they are neither refused for load nor given up. Unless it is said otherwise,
    /// this way itself.
    #[must_use]
    fn lasting(&self) -> Self {
        self.clone()
    }

    /// What became of a wait whose command was answered `Waiting`, once it is not `Waiting` any
    /// more.
    fn await_notice(&self, resource: ResourceId, waiter: Index) -> Reply<NoticeState> {
        self.await_token(resource, waiter, 0)
    }

    /// What has become of a wait or a hold, once it is not `Waiting`, nor granted with a token up
    /// to `seen` that the caller knows.
    ///
    /// Implementations mirror the session's holdings: a map from (resource, waiter) to state,
    /// changed by every notice (final states remove), replaced by the list at attach. Notices
    /// precede the reply on the same connection, so with the reply at hand a waiter that is not
    /// in the mirror is over: `TimedOut`. A session that ends answers
    /// [`Code::SESSION_EXPIRED`](crate::machine::Code::SESSION_EXPIRED).
    fn await_token(&self, resource: ResourceId, waiter: Index, seen: u64) -> Reply<NoticeState>;

    /// Resolves when what a session holds or waits for is over: the final state, or
    /// [`NoticeState::Lost`] as soon as nobody can be sure of it any more, which is when the
    /// session was not heard of in time. Fails where the client was closed.
    fn await_end(&self, resource: ResourceId, waiter: Index) -> Reply<NoticeState>;

    /// Subscribes to events of a resource after a position, or from now on.
    fn subscribe(
        &self,
        resource: ResourceId,
        after: Option<(Index, u32)>,
        filter: Filter,
    ) -> Subscription;

    /// The group it leads to: what one transaction can span.
    fn group(&self) -> GroupId {
        GroupId(0)
    }

    /// A number not given out before in this session. From 1.
    fn unique(&self) -> u64;
}

/// The replicated state of one resource. The rules of [`crate::machine::StateMachine`] hold for
/// it; the registry adds the name, the events' ring and the order of timers over all resources.
pub trait Resource: Send + Sync + fmt::Debug {
    /// Applies a command. What is due at its time is gone for it.
    fn apply(&mut self, commit: &Commit<'_>, effects: &mut Effects);

    /// Answers a query.
    fn query(&self, query: &Query<'_>, effects: &mut Effects);

    /// A session is ending that this involves: about [`ENDED_AT_ONCE`] things that it holds, waits
    /// for or owns here go. Returns how many, what is told not counted. It is called again as long
    /// as the session is involved; a user's own type once.
    fn session_ended(
        &mut self,
        session: SessionId,
        commit: &Commit<'_>,
        effects: &mut Effects,
    ) -> usize {
        let _ = (session, commit, effects);
        0
    }

    /// The resource is deleted: whoever holds or waits for something here has lost it. Tells up to
    /// `limit` of them. Returns whether there are more: then it is called again.
    fn deleted(&mut self, firing: &Firing, limit: usize, effects: &mut Effects) -> bool {
        let _ = (firing, limit, effects);
        false
    }

    /// Its next timer.
    fn next_timer(&self) -> Option<Due> {
        None
    }

    /// Fires its next timer, which is due.
    fn fire(&mut self, firing: &Firing, effects: &mut Effects) {
        let _ = (firing, effects);
    }

    /// Whether a session holds, waits for or owns something here. What it holds or waits for
    /// changes with a notice; what it owns, by commands of its own, or to less.
    fn involves(&self, session: SessionId) -> bool {
        let _ = session;
        false
    }

    /// How many entries it holds at `now`, for people; 0 for types that hold none.
    fn size(&self, now: LogTime) -> u64 {
        let _ = now;
        0
    }

    /// Sessions it involves, up to `limit`.
    fn sessions(&self, limit: usize) -> Vec<SessionId> {
        let _ = limit;
        Vec::new()
    }

    /// Who holds something here and how many wait, for people.
    fn holders(&self, now: LogTime) -> Holders {
        Holders::listed(self, now)
    }

    /// Appends what a session holds or waits for.
    fn holdings(
        &self,
        resource: ResourceId,
        session: SessionId,
        now: LogTime,
        out: &mut Vec<Notice>,
    ) {
        let _ = (resource, session, now, out);
    }

    /// Sessions that own nothing here any more since this was last asked, and were not told.
    fn take_left(&mut self) -> Vec<SessionId> {
        Vec::new()
    }

    /// What it has cleared since the last command, or all of it once it is deleted: freed bit by
    /// bit where there is much of it.
    fn take_waste(&mut self) -> Option<Box<dyn waste::Waste>> {
        None
    }

    /// Writes its state, item by item, until the items are full: then it returns a key of its own
    /// choice after which to go on, else `None`.
    fn freeze(&self, after: Option<&[u8]>, items: &mut Items<'_>) -> Option<Vec<u8>>;

    /// Takes back an item that [`Resource::freeze`] wrote as of the entry `applied`, in the same
    /// order.
    ///
    /// # Errors
    /// Where it is anything else.
    fn thaw(&mut self, item: &[u8], applied: Index) -> Result<(), Code>;

    /// A copy that shares its structure.
    fn boxed_clone(&self) -> Box<dyn Resource>;
}

impl Clone for Box<dyn Resource> {
    fn clone(&self) -> Box<dyn Resource> {
        self.boxed_clone()
    }
}

/// What one session holds and waits for in a group, at most; memberships and questions included.
/// All of it is listed when the session attaches.
pub const HOLDINGS_MAX: usize = 10_000;

/// What a resource lets go of at a time when a session ends, about.
pub const ENDED_AT_ONCE: usize = 8;

/// A timer fires.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Firing {
    /// Whose timer it is.
    pub resource: ResourceId,
    /// The first entry of the batch it fires before; what comes of it is numbered so.
    pub index: Index,
    /// The log time of that batch.
    pub now: LogTime,
}

/// A type of resource: what the registry must know of it.
struct Type {
    /// See [`kind`].
    kind: u8,
    /// For people.
    name: &'static str,
    /// Admission of a command's payload.
    check: fn(schema: u16, payload: &[u8]) -> Result<(), Code>,
    /// An empty one, with the options it was opened with.
    create: fn(options: &[u8]) -> Created,
}

/// A new resource's state, or why its options are refused.
pub type Created = Result<Box<dyn Resource>, Code>;

/// All types there are, by kind.
static TYPES: &[Type] = &[
    Type {
        kind: kind::VALUE,
        name: "value",
        check: value::check,
        create: without_options::<value::ValueState>,
    },
    Type {
        kind: kind::COUNTER,
        name: "counter",
        check: counter::check,
        create: without_options::<counter::CounterState>,
    },
    Type {
        kind: kind::MAP,
        name: "map",
        check: map::check,
        create: without_options::<map::MapState>,
    },
    Type {
        kind: kind::LOCK,
        name: "lock",
        check: lock::check,
        create: without_options::<claims::Turns<lock::LockRules>>,
    },
    Type { kind: kind::QUEUE, name: "queue", check: queue::check, create: queue::create },
    Type {
        kind: kind::MULTIMAP,
        name: "multimap",
        check: multimap::check,
        create: without_options::<multimap::MultimapState>,
    },
    Type {
        kind: kind::SET,
        name: "set",
        check: set::check,
        create: without_options::<set::SetState>,
    },
    Type {
        kind: kind::RW_LOCK,
        name: "read-write lock",
        check: rwlock::check,
        create: without_options::<claims::Turns<rwlock::RwLockRules>>,
    },
    Type {
        kind: kind::SEMAPHORE,
        name: "semaphore",
        check: semaphore::check,
        create: semaphore::create,
    },
    Type { kind: kind::BARRIER, name: "barrier", check: barrier::check, create: barrier::create },
    Type { kind: kind::LATCH, name: "latch", check: latch::check, create: latch::create },
    Type {
        kind: kind::ELECTION,
        name: "election",
        check: election::check,
        create: without_options::<election::ElectionState>,
    },
    Type {
        kind: kind::GROUP,
        name: "member group",
        check: group::check,
        create: without_options::<group::GroupState>,
    },
    Type {
        kind: kind::TOPIC,
        name: "topic",
        check: topic::check,
        create: without_options::<topic::TopicState>,
    },
    Type {
        kind: kind::TREE,
        name: "document tree",
        check: tree::check,
        create: without_options::<tree::TreeState>,
    },
    Type { kind: kind::LOG, name: "log", check: log::check, create: log::create },
];

fn type_of(kind: u8) -> Option<&'static Type> {
    TYPES.iter().find(|known| known.kind == kind).or_else(|| own::find(kind))
}

/// What a type of resource is called.
#[must_use]
pub fn type_name(kind: u8) -> &'static str {
    type_of(kind).map_or("resource of an unknown type", |known| known.name)
}

/// The type of this name, one of the program's own types included.
#[must_use]
pub fn type_named(name: &str) -> Option<u8> {
    let mut all = TYPES.iter().chain((own::OWN_MIN..=u8::MAX).filter_map(own::find));
    all.find(|known| known.name == name).map(|known| known.kind)
}

/// Names of margay's types, by kind.
pub fn type_names() -> impl Iterator<Item = &'static str> {
    TYPES.iter().map(|known| known.name)
}

/// Creates a resource of a type that has no options.
fn without_options<R: Resource + Default + 'static>(options: &[u8]) -> Created {
    if options.is_empty() { Ok(Box::new(R::default())) } else { Err(Code::BAD_PAYLOAD) }
}
