//! One group of a cluster: carries the operations of handles to the client's thread.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use margay_log::id::{GroupId, Index};

use super::Shared;
use super::driver::Order;
use super::net::from_now;
use super::session::Call;
use crate::machine::{Filter, Level, NoticeState, ResourceId};
use crate::resource::{Answer, Reply, Submit, Subscription};

/// One group of a cluster: what handles send their operations through.
#[derive(Clone, Debug)]
pub struct Group {
    pub(super) shared: Arc<Shared>,
    pub(super) group: GroupId,
    pub(super) timeout: Duration,
    /// What is asked has no time limit.
    pub(super) lasts: bool,
}

impl Group {
    /// The group.
    #[must_use]
    pub fn id(&self) -> GroupId {
        self.group
    }

    /// The same group with another time limit for each operation.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Group {
        self.timeout = timeout;
        self
    }

    fn call(&self, call: Call) -> Reply<Answer> {
        let deadline = (!self.lasts).then(|| from_now(self.timeout));
        let group = self.group;
        let order = |completer| Order::Call { group, call, deadline, completer };
        if self.lasts { self.shared.ask_surely(order) } else { self.shared.ask(order) }
    }
}

impl Submit for Group {
    fn command(
        &self,
        kind: u8,
        schema: u16,
        resource: ResourceId,
        payload: Vec<u8>,
    ) -> Reply<Answer> {
        self.call(Call::Command { kind, schema, resource, payload })
    }

    fn lasting(&self) -> Group {
        Group { lasts: true, ..self.clone() }
    }

    fn query(
        &self,
        level: Level,
        kind: u8,
        schema: u16,
        resource: ResourceId,
        payload: Vec<u8>,
    ) -> Reply<Answer> {
        self.call(Call::Query { level, kind, schema, resource, payload })
    }

    fn await_token(&self, resource: ResourceId, waiter: Index, seen: u64) -> Reply<NoticeState> {
        let (group, waiter) = (self.group, (resource, waiter));
        self.shared.ask(|completer| Order::Await { group, waiter, seen, completer })
    }

    fn await_end(&self, resource: ResourceId, waiter: Index) -> Reply<NoticeState> {
        let (group, waiter) = (self.group, (resource, waiter));
        self.shared.ask(|completer| Order::AwaitEnd { group, waiter, completer })
    }

    fn subscribe(
        &self,
        resource: ResourceId,
        after: Option<(Index, u32)>,
        filter: Filter,
    ) -> Subscription {
        let (feed, subscription) = Subscription::channel();
        let mut encoded = Vec::new();
        filter.encode(&mut encoded);
        let call = Call::Subscribe { resource, after, filter: encoded };
        let (group, deadline) = (self.group, from_now(self.timeout));
        let order = Order::Subscribe { group, call, deadline, feed };
        if let Err((Order::Subscribe { feed, .. }, failure)) = self.shared.try_order(order) {
            feed.end(failure);
        }
        subscription
    }

    fn group(&self) -> GroupId {
        self.group
    }

    fn unique(&self) -> u64 {
        self.shared.unique.fetch_add(1, Ordering::Relaxed) + 1
    }
}
