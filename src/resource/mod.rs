//! Resources: what users see of the replicated log, and the state behind it.
//!
//! A file per type, each in the same order: operations (what travels and is logged), state (what is
//! replicated), handle (what the application holds). Handles are generic over [`Submit`]: the client, a node
//! in the same process and the simulator carry operations alike.

pub mod reply;

pub use reply::{Answer, Completer, Failure, Reply};

use crate::machine::{Filter, Level, NoticeState, ResourceId};
use margay_log::id::Index;

/// Carries operations of one session to the group a resource lives in.
///
/// Operations are numbered when these functions are called, not when replies are awaited: calls made one
/// after the other are applied in that order. A reply with a code other than OK may come as an [`Answer`] or
/// as a [`Failure`].
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

    /// What became of a wait whose command was answered `Waiting`, once it is not `Waiting` any more.
    ///
    /// Implementations mirror the session's holdings: a map from (resource, waiter) to state, changed by every
    /// notice (final states remove), replaced by the list at attach. Notices precede the reply on the same
    /// connection, so with the reply at hand a waiter that is not in the mirror is over: `TimedOut`.
    /// A session that ends answers [`Code::SESSION_EXPIRED`](crate::machine::Code::SESSION_EXPIRED).
    fn await_notice(&self, resource: ResourceId, waiter: Index) -> Reply<NoticeState>;

    /// Subscribes to events of a resource after a position, or from now on.
    fn subscribe(
        &self,
        resource: ResourceId,
        after: Option<(Index, u32)>,
        filter: Filter,
    ) -> reply::Subscription;

    /// A number not given out before in this session. From 1.
    fn unique(&self) -> u64;
}
