//! Who asks for events is sent first what was missed and is kept, or told that something is
//! lacking; then what applying brings forth (`front/delivery.rs`).

use margay_log::breaks;
use margay_log::id::{Index, Micros};

use super::front::{FAN_OUT_MAX, send_event};
use super::{ConnId, Host, Replica};
use crate::machine::{Code, Events, Filter, Halted, ResourceId, StateMachine};
use crate::wire::client::{RefusedOf, Response};

/// Subscriptions of one connection, at most.
const SUBSCRIPTIONS_MAX: usize = 4_096;

/// What looking through the kept events of a resource counts for, in bytes that are sent.
const LOOKED_THROUGH: usize = 16 << 10;

impl<S: StateMachine> Replica<S> {
    pub(super) fn on_subscribe(
        &mut self,
        conn: ConnId,
        id: u64,
        resource: ResourceId,
        after: Option<(Index, u32)>,
        filter: &[u8],
        host: &mut dyn Host,
    ) {
        if self.front.subscriptions(conn) >= SUBSCRIPTIONS_MAX {
            let (of, code) = (RefusedOf::Subscription(id), Code::TOO_MANY_SUBSCRIPTIONS);
            return self.refuse(host, conn, of, code, Micros(0));
        }
        if let Err(code) = Filter::decode(filter) {
            return self.refuse(host, conn, RefusedOf::Subscription(id), code, Micros(0));
        }
        let Some(out) = host.client(conn) else { return };
        let index = self.machine.applied();
        Response::Subscribed { id, index }.encode(out);
        let after = after.filter(|_| !breaks::EVENT_LOST.on()).unwrap_or((index, u32::MAX));
        match self.send_missed(out, id, resource, after, filter) {
            Ok(true) => self.front.subscribe(conn, id, resource, filter),
            Ok(false) => self.front.unsubscribe(conn, id),
            Err(halted) => self.halt(halted, host),
        }
    }

    /// The state has leapt ahead of `before`: sends every subscription what is kept of the events
    /// in between, or that it lags, where there are many of them.
    pub(super) fn send_missed_to_all(&mut self, before: Index, host: &mut dyn Host) {
        let mut left = FAN_OUT_MAX;
        for (conn, id, resource, filter) in self.front.all_subscriptions() {
            let Some(out) = host.client(conn) else { continue };
            let mut after = (before, u32::MAX);
            if left == 0 {
                after.0 = self.machine.applied();
                Response::Lagged { subscription: id, oldest: after.0.next() }.encode(out);
            }
            let length = out.len();
            let sent = self.send_missed(out, id, resource, after, &filter);
            left = left.saturating_sub(LOOKED_THROUGH + out.len() - length);
            match sent {
                Ok(true) => {}
                Ok(false) => self.front.unsubscribe(conn, id),
                Err(halted) => return self.halt(halted, host),
            }
        }
    }

    /// Sends the kept events after a position; says so first where some are not kept any more.
    /// Returns whether more can come: of a deleted resource nothing is kept, not even that.
    fn send_missed(
        &self,
        out: &mut Vec<u8>,
        id: u64,
        resource: ResourceId,
        after: (Index, u32),
        filter: &[u8],
    ) -> Result<bool, Halted> {
        let mut kept = self.machine.events_or_halt(resource, after, filter)?;
        if let Events::Lagged { oldest } = kept {
            Response::Lagged { subscription: id, oldest }.encode(out);
            let after = (oldest.prev(), u32::MAX);
            kept = self.machine.events_or_halt(resource, after, filter)?;
        }
        match kept {
            Events::Some(missed) => {
                for (index, event) in missed {
                    send_event(out, id, index, &event, &event.payload());
                }
            }
            // Where its creation is not applied here yet, all of it is to come.
            Events::Gone if resource.0 <= self.machine.applied().0 => {
                let (of, code) = (RefusedOf::Subscription(id), Code::NO_SUCH_RESOURCE);
                let (retry, leader, text) = (Micros(0), "", code.text());
                Response::Refused { of, code, retry, leader, text }.encode(out);
                return Ok(false);
            }
            Events::Gone | Events::Lagged { .. } => {}
        }
        Ok(true)
    }
}
