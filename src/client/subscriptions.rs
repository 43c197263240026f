//! Subscriptions outlive connections: each remembers the last event it delivered and goes on behind
//! it.

use std::collections::BTreeMap;

use margay_log::breaks;
use margay_log::id::Index;

use super::calls::CallId;
use crate::machine::ResourceId;
use crate::wire::client::Request;

/// Where in the events of a resource: (index, ordinal).
pub(super) type Position = (Index, u32);

/// One subscription, named by the call that asked for it.
#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) id: CallId,
    resource: ResourceId,
    filter: Vec<u8>,
    /// The last event delivered, or where it was asked to begin.
    last: Option<Position>,
    /// Asked for on this connection.
    sent: bool,
    /// Was confirmed once, on whichever connection.
    pub(super) confirmed: bool,
}

/// All subscriptions of a session, by id.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    all: BTreeMap<u64, Subscription>,
    /// Some may have to be asked for on this connection.
    unsent: bool,
}

impl Subscriptions {
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn add(
        &mut self,
        id: CallId,
        resource: ResourceId,
        after: Option<Position>,
        filter: Vec<u8>,
    ) {
        let (last, sent, confirmed) = (after, false, false);
        self.unsent = true;
        self.all.insert(id.0, Subscription { id, resource, filter, last, sent, confirmed });
    }

    /// Ends one.
    pub(super) fn remove(&mut self, id: u64) -> Option<Subscription> {
        self.all.remove(&id)
    }

    /// Encodes those that were not asked for on this connection.
    pub(super) fn send(&mut self, out: &mut Vec<u8>) {
        if !std::mem::take(&mut self.unsent) {
            return;
        }
        for one in self.all.values_mut().filter(|one| !one.sent) {
            one.sent = true;
            let (id, resource, after) = (one.id.0, one.resource, one.last);
            Request::Subscribe { id, resource, after, filter: &one.filter }.encode(out);
        }
    }

    /// The connection is gone.
    pub(super) fn lose(&mut self) {
        self.unsent = true;
        self.all.values_mut().for_each(|one| one.sent = false);
    }

    /// This one was refused and is to be asked for again.
    pub(super) fn refuse(&mut self, id: u64) {
        if let Some(one) = self.all.get_mut(&id) {
            one.sent = false;
            self.unsent = true;
        }
    }

    /// The node sends events from now on. Returns the id at the first confirmation.
    pub(super) fn confirm(&mut self, id: u64, index: Index) -> Option<CallId> {
        let one = self.all.get_mut(&id)?;
        // From now on: everything up to `index` is behind us, whatever its ordinal.
        one.last.get_or_insert((index, u32::MAX));
        let first = !std::mem::replace(&mut one.confirmed, true);
        first.then_some(one.id)
    }

    /// An event has come. Returns whose it is, or `None` for one that was delivered before.
    pub(super) fn deliver(&mut self, id: u64, position: Position) -> Option<CallId> {
        let one = self.all.get_mut(&id)?;
        let again = breaks::EVENT_REPEATED.on() && one.last == Some(position);
        if one.last.is_some_and(|last| position <= last) && !again {
            return None;
        }
        one.last = Some(position);
        Some(one.id)
    }

    /// Events before `oldest` are gone. Returns whom to tell, once.
    pub(super) fn lag(&mut self, id: u64, oldest: Index) -> Option<CallId> {
        let before = (oldest.prev(), u32::MAX);
        self.deliver(id, before)
    }
}
