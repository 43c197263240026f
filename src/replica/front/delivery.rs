//! What clients are told: answers, events and notices, straight into the out-buffers of their
//! connections, as applying brings them forth.
//!
//! Telling takes time as applying does, and counts as that. What one entry sends is bounded: who
//! would get more is told that it lags.

use std::cell::Cell;

use margay_log::id::{Index, Micros};

use super::Front;
use crate::machine::{Code, EndReason, Event, Notice, Sequence, SessionId, Sink};
use crate::replica::{ConnId, Host};
use crate::wire::PAYLOAD_MAX;
use crate::wire::client::{RefusedOf, Response};

/// Events and notices that count as much as applying an entry.
const TOLD_AS_ENTRY: usize = 16;

/// Bytes of events that one entry sends, about. Whoever would get more is told that it lags: ten
/// thousand who watch one value of 1 MiB would be sent 10 GB at once.
pub(in crate::replica) const FAN_OUT_MAX: usize = 16 << 20;

/// Takes what the machine says while applying straight to the out-buffers.
pub(in crate::replica) struct Delivery<'a> {
    front: &'a mut Front,
    host: &'a mut dyn Host,
    left: &'a Cell<usize>,
    told: usize,
    /// Bytes of events that the last entry with some has sent.
    sent: (Index, usize),
}

impl Front {
    /// Delivers what applying brings forth. `left` is how many entries may still be applied: it
    /// falls with what is told, too.
    pub(in crate::replica) fn delivery<'a>(
        &'a mut self,
        left: &'a Cell<usize>,
        host: &'a mut dyn Host,
    ) -> Delivery<'a> {
        Delivery { front: self, host, left, told: 0, sent: (Index::ZERO, 0) }
    }
}

impl Delivery<'_> {
    /// There is something to tell, perhaps to many: that takes time as applying does.
    fn count(&mut self, told: usize) {
        let all = self.told + told;
        self.told = all % TOLD_AS_ENTRY;
        self.left.set(self.left.get().saturating_sub(all / TOLD_AS_ENTRY));
    }

    fn to(&mut self, session: SessionId) -> Option<&mut Vec<u8>> {
        let conn = self.front.sessions.get(&session)?.conn?;
        self.host.client(conn)
    }
}

impl Sink for Delivery<'_> {
    fn reply(
        &mut self,
        index: Index,
        session: SessionId,
        sequence: Sequence,
        code: Code,
        payload: &[u8],
    ) {
        let Some(led) = self.front.sessions.get_mut(&session) else { return };
        led.applied = led.applied.max(sequence);
        let Some(out) = led.conn.and_then(|conn| self.host.client(conn)) else { return };
        let (code, payload) = sendable(code, payload, Code::REPLY_GONE);
        Response::Reply { sequence, index, code, payload }.encode(out);
    }

    fn event(&mut self, index: Index, event: &Event) {
        self.count(1);
        let Some(subscribers) = self.front.subscribers.get_mut(&event.resource) else { return };
        let (mut payload, mut told) = (None, 0_usize);
        let mut sent = if self.sent.0 == index { self.sent.1 } else { 0 };
        for (&(conn, subscription), subscriber) in subscribers {
            if subscriber.lagged == index || !event.passes(&subscriber.filter) {
                continue;
            }
            let Some(out) = self.host.client(conn) else { continue };
            let payload = payload.get_or_insert_with(|| event.payload());
            told += 1;
            if sent > FAN_OUT_MAX {
                subscriber.lagged = index;
                Response::Lagged { subscription, oldest: index.next() }.encode(out);
            } else {
                send_event(out, subscription, index, event, payload);
                sent += payload.len();
            }
        }
        self.sent = (index, sent);
        self.count(told);
    }

    fn notice(&mut self, notice: &Notice) {
        self.count(1);
        if let Some(out) = self.to(notice.session) {
            Response::Notice(*notice).encode(out);
        }
    }

    fn registered(&mut self, index: Index, session: SessionId, key: &[u8; 16], timeout: Micros) {
        self.front.registering.remove(key);
        let Some(led) = self.front.sessions.get_mut(&session) else { return };
        let Some((conn, correlation)) = led.registrant.take() else { return };
        let Some(out) = self.host.client(conn) else { return };
        Response::Registered { correlation, session, timeout, index }.encode(out);
    }

    fn ended(&mut self, _index: Index, session: SessionId, reason: EndReason) {
        let Some(led) = self.front.sessions.remove(&session) else { return };
        let Some(conn) = led.conn else { return };
        if let Some(known) = self.front.conns.get_mut(&conn) {
            known.session = None;
        }
        match reason {
            EndReason::Closed => {
                if let Some(out) = self.host.client(conn) {
                    Response::Closed { session }.encode(out);
                }
            }
            EndReason::Expired => {
                let of = RefusedOf::Session(session);
                refuse(self.host, conn, of, Code::SESSION_EXPIRED, Micros(0), "");
            }
        }
    }
}

/// Writes a refusal into a connection's out-buffer.
pub(in crate::replica) fn refuse(
    host: &mut dyn Host,
    conn: ConnId,
    of: RefusedOf,
    code: Code,
    retry: Micros,
    leader: &str,
) {
    if let Some(out) = host.client(conn) {
        Response::Refused { of, code, retry, leader, text: code.text() }.encode(out);
    }
}

/// An answer, or `otherwise` where it fits no frame: several operations of one transaction may each
/// answer much, and a user's type anything.
pub(in crate::replica) fn sendable(code: Code, payload: &[u8], otherwise: Code) -> (Code, &[u8]) {
    if payload.len() <= PAYLOAD_MAX { (code, payload) } else { (otherwise, &[]) }
}

/// Writes an event, whose payload is encoded already, into an out-buffer.
pub(in crate::replica) fn send_event(
    out: &mut Vec<u8>,
    subscription: u64,
    index: Index,
    event: &Event,
    payload: &[u8],
) {
    let Event { ordinal, kind, .. } = *event;
    if payload.len() > PAYLOAD_MAX {
        // Old and new value together do not fit a frame: read the state, then go on.
        return Response::Lagged { subscription, oldest: index.next() }.encode(out);
    }
    Response::Event { subscription, index, ordinal, kind, payload }.encode(out);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use margay_log::batch::Batch;
    use margay_log::disk::Op;
    use margay_log::id::NodeId;

    use super::*;
    use crate::machine::{Pair, ResourceId, VALUE_MAX};
    use crate::wire::{self, Kind};

    fn sent(old: usize) -> Response<'static> {
        let pair = |length| Some(Pair::new(b"key", &vec![7; length]));
        let resource = ResourceId(1);
        let event = Event { resource, ordinal: 0, kind: 1, new: pair(VALUE_MAX), old: pair(old) };
        let mut out = Vec::new();
        send_event(&mut out, 5, Index(9), &event, &event.payload());
        let frame = wire::decode(out.leak()).expect("one whole frame");
        Response::decode(&frame).expect("a response")
    }

    #[derive(Default)]
    struct Buffers(BTreeMap<ConnId, Vec<u8>>);

    impl Host for Buffers {
        fn client(&mut self, conn: ConnId) -> Option<&mut Vec<u8>> {
            Some(self.0.entry(conn).or_default())
        }

        fn close(&mut self, _: ConnId) {}
        fn peer(&mut self, _: NodeId, _: &[u8], _: Option<&Arc<Batch>>) {}
        fn disk(&mut self, _: Op) {}
    }

    /// How many were sent events, and how many were told that they lag.
    fn told(buffers: &mut Buffers) -> (usize, usize) {
        let frames = |buffer: &Vec<u8>| {
            let kinds = std::iter::successors(Some(&buffer[..]), |rest| {
                let length = wire::peek(rest).ok()??;
                Some(&rest[length..])
            });
            kinds.filter_map(|rest| rest.get(4).copied()).collect::<Vec<u8>>()
        };
        let kinds: Vec<u8> = buffers.0.values().flat_map(frames).collect();
        buffers.0.clear();
        let of = |kind: Kind| kinds.iter().filter(|found| **found == kind as u8).count();
        (of(Kind::Event), of(Kind::Lagged))
    }

    /// Everybody at once would be sent as much as their number times the value.
    #[test]
    fn many_who_watch_a_large_value_are_told_that_they_lag() {
        let (mut front, mut buffers) = (Front::default(), Buffers::default());
        let resource = ResourceId(1);
        for n in 1..=40 {
            front.subscribe(ConnId(n), 7, resource, &[]);
        }
        let event = |ordinal, size| {
            let new = Some(Pair::new(b"key", &vec![7; size]));
            Event { resource, ordinal, kind: 1, new, old: None }
        };
        let left = Cell::new(16);
        let mut send = |index, event: &Event| {
            front.delivery(&left, &mut buffers).event(Index(index), event);
            told(&mut buffers)
        };
        assert_eq!(send(5, &event(0, 64)), (40, 0));
        assert_eq!(send(6, &event(0, VALUE_MAX)), (16, 24));
        assert_eq!(send(7, &event(0, 64)), (40, 0), "they go on with what comes then");
        assert!(left.get() < 16, "telling takes time as applying does");
        let mut delivery = front.delivery(&left, &mut buffers);
        delivery.event(Index(8), &event(0, VALUE_MAX));
        delivery.event(Index(8), &event(1, VALUE_MAX));
        assert_eq!(told(&mut buffers), (16, 40), "once for each, however much they miss");
        front.gone(ConnId(1));
        front.delivery(&left, &mut buffers).event(Index(9), &event(0, 64));
        assert_eq!(told(&mut buffers), (39, 0), "who has left is sent nothing");
    }

    #[test]
    fn an_event_that_fits_no_frame_lags_its_subscriber() {
        assert!(matches!(sent(64), Response::Event { subscription: 5, index: Index(9), .. }));
        let lagged = Response::Lagged { subscription: 5, oldest: Index(10) };
        assert_eq!(sent(VALUE_MAX), lagged);
    }
}
