//! What a session is asked to do, and what it wants done or has to tell.

use margay_log::id::Index;

use super::CallId;
use crate::machine::{Level, Notice, ResourceId};
use crate::resource::{Answer, Failure};
use crate::wire::GroupStatus;

/// Something to be done by the group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Call {
    /// Changes something.
    Command {
        /// Kind of operation.
        kind: u8,
        /// Version of the operation.
        schema: u16,
        /// What it is about.
        resource: ResourceId,
        /// The operation, archived.
        payload: Vec<u8>,
    },
    /// Changes nothing.
    Query {
        /// How recent the answer must be.
        level: Level,
        /// Kind of operation.
        kind: u8,
        /// Version of the operation.
        schema: u16,
        /// What it is about.
        resource: ResourceId,
        /// The operation, archived.
        payload: Vec<u8>,
    },
    /// Asks for events. The call is over when they begin; the subscription has the same id.
    Subscribe {
        /// Whose events.
        resource: ResourceId,
        /// Begin behind this event, or with what happens from now on.
        after: Option<(Index, u32)>,
        /// Which of them, encoded.
        filter: Vec<u8>,
    },
    /// How is the node we are connected to?
    Status,
}

/// What the session wants done, or has to tell.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Connect to this address and say `on_connected` or `on_failed`.
    Connect(String),
    /// Drop the connection, or the attempt to connect; say nothing more of it.
    Disconnect,
    /// A call is over.
    Finished(CallId, Result<Answer, Failure>),
    /// A status call is over.
    Status(CallId, Vec<GroupStatus>),
    /// An event of a subscription.
    Event {
        /// The subscription.
        subscription: CallId,
        /// The entry that caused it.
        index: Index,
        /// Counts the events of that entry.
        ordinal: u32,
        /// What happened.
        kind: u16,
        /// More about it.
        payload: Vec<u8>,
    },
    /// Events of a subscription were missed; it goes on from `oldest`.
    Lagged {
        /// The subscription.
        subscription: CallId,
        /// Index of the oldest event still kept.
        oldest: Index,
    },
    /// A subscription that had begun is over.
    Ended {
        /// The subscription.
        subscription: CallId,
        /// Why.
        failure: Failure,
    },
    /// What the session holds or waits for has changed.
    Notice(Notice),
    /// The session has expired with this, all it held or waited for; the state follows.
    Lost(Vec<Notice>),
    /// The session is in another state.
    State(SessionState),
}

/// What a client can rely on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SessionState {
    /// Registered, and heard of in time: what it holds is its own.
    Connected,
    /// Not heard of for a whole time-out: it may have expired. It is `Connected` again or `Expired`
    /// later.
    Suspended,
    /// What it held is released. The next command begins a new session.
    Expired,
    /// Ended by its own wish.
    Closed,
}
