//! Who is connected to this replica, and the sessions as their leader sees them.
//!
//! All of it is volatile. Sessions themselves are replicated (`machine::session`); here is what
//! only their leader knows: which connection speaks for a session, what was proposed for it and not
//! yet applied, and when it was last heard. A new leader starts this afresh, with a full time-out
//! for everyone. It takes its sessions over as they are heard of, and the silent ones bit by bit:
//! a hundred thousand at once would be a turn of many milliseconds.
//!
//! Invariants
//! - A session is answered on the one connection that attached to it last.
//! - A session that has a connection, or something proposed, has been taken over.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::mem::take;

use margay_log::breaks;
use margay_log::id::{Index, Micros};

use super::{ConnId, Fatal, Host};
use crate::machine::session::Sessions;
use crate::machine::{Code, EndReason, Event, Notice, ResourceId, Sequence, SessionId, Sink};
use crate::wire::PAYLOAD_MAX;
use crate::wire::client::{RefusedOf, Response};

/// Sessions that a new leader takes over in one turn, a third of a millisecond or so.
const ADOPTED_PER_TURN: usize = 1_024;

/// Events and notices that count as much as applying an entry.
const TOLD_AS_ENTRY: usize = 16;
/// Bytes of events that one entry sends, about. Whoever would get more is told that it lags: ten
/// thousand who watch one value of 1 MiB would be sent 10 GB at once.
pub(super) const FAN_OUT_MAX: usize = 16 << 20;

/// A session as its leader sees it.
#[derive(Debug)]
pub(super) struct Led {
    /// The last sequence proposed for it.
    pub proposed: Sequence,
    /// The last sequence applied.
    pub applied: Sequence,
    /// The connection that speaks for it.
    pub conn: Option<ConnId>,
    /// The time-out it registered with.
    pub timeout: Micros,
    /// Its expiry has been proposed: nothing is accepted for it any more.
    pub expiring: bool,
    /// Whom to answer its register, and with what, while that is not applied. The connection may
    /// speak for another session by then.
    pub registrant: Option<(ConnId, u64)>,
    heard: Micros,
    /// `Front::deaf` when it was heard.
    deaf_then: Micros,
}

/// Sessions that are still to be taken over: those after one.
#[derive(Debug)]
struct Adopting {
    after: SessionId,
    /// When leading began, and `Front::deaf` then: they count as heard at that moment.
    began: Micros,
    deaf_then: Micros,
}

#[derive(Debug, Default)]
struct Conn {
    session: Option<SessionId>,
    subscriptions: Vec<(u64, ResourceId)>,
}

#[derive(Debug)]
struct Subscriber {
    filter: Vec<u8>,
    /// The entry whose events it was told to have missed.
    lagged: Index,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Front {
    conns: BTreeMap<ConnId, Conn>,
    sessions: BTreeMap<SessionId, Led>,
    registering: BTreeMap<[u8; 16], SessionId>,
    /// (not before, session): looked at again then. One entry per session.
    expiries: BTreeSet<(Micros, SessionId)>,
    /// By connection and number there: one that goes must not look at all of them.
    subscribers: BTreeMap<ResourceId, BTreeMap<(ConnId, u64), Subscriber>>,
    /// Time, in all, in which this leader could not have heard anyone.
    deaf: Micros,
    adopting: Option<Adopting>,
    /// What stops the replica at the end of the turn.
    pub fatal: Option<Fatal>,
}

impl Front {
    /// The session a connection speaks for.
    pub(super) fn session_of(&self, conn: ConnId) -> Option<SessionId> {
        self.conns.get(&conn)?.session
    }

    /// The session as this leader sees it, heard just now.
    pub(super) fn hear(&mut self, now: Micros, session: SessionId) -> Option<&mut Led> {
        let led = self.sessions.get_mut(&session)?;
        led.heard = now;
        led.deaf_then = self.deaf;
        Some(led)
    }

    /// Whether no session has been taken over or is being registered.
    pub(super) fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// How many sessions are being registered.
    pub(super) fn registers(&self) -> usize {
        self.registering.len()
    }

    /// The session a register under way with this key will open.
    pub(super) fn registering(&self, key: &[u8; 16]) -> Option<SessionId> {
        self.registering.get(key).copied()
    }

    /// A register was proposed: from now on the connection may pipeline commands behind it.
    pub(super) fn register(
        &mut self,
        now: Micros,
        conn: ConnId,
        session: SessionId,
        key: [u8; 16],
        timeout: Micros,
    ) {
        self.registering.insert(key, session);
        self.lead((now, self.deaf), session, timeout, Sequence(0));
        self.bind(conn, session);
    }

    /// Makes `conn` the connection of `session`; the connection it had before is to be told and
    /// closed.
    pub(super) fn bind(&mut self, conn: ConnId, session: SessionId) -> Option<ConnId> {
        let led = self.sessions.get_mut(&session)?;
        let before = led.conn.replace(conn).filter(|&before| before != conn);
        if let Some(before) = before.and_then(|before| self.conns.get_mut(&before)) {
            before.session = None;
        }
        let held = self.conns.entry(conn).or_default().session.replace(session);
        if let Some(held) = held.filter(|&held| held != session)
            && let Some(held) = self.sessions.get_mut(&held)
        {
            held.conn = None;
        }
        before
    }

    /// A connection is gone. Its session lives on until it expires.
    pub(super) fn gone(&mut self, conn: ConnId) {
        let Some(gone) = self.conns.remove(&conn) else { return };
        if let Some(led) = gone.session.and_then(|session| self.sessions.get_mut(&session))
            && led.conn == Some(conn)
        {
            led.conn = None;
        }
        for (id, resource) in gone.subscriptions {
            self.remove_subscriber(conn, id, resource);
        }
    }

    fn remove_subscriber(&mut self, conn: ConnId, id: u64, resource: ResourceId) {
        if let Some(subscribers) = self.subscribers.get_mut(&resource) {
            subscribers.remove(&(conn, id));
            if subscribers.is_empty() {
                self.subscribers.remove(&resource);
            }
        }
    }

    /// Subscriptions of one connection.
    pub(super) fn subscriptions(&self, conn: ConnId) -> usize {
        self.conns.get(&conn).map_or(0, |conn| conn.subscriptions.len())
    }

    pub(super) fn subscribe(&mut self, conn: ConnId, id: u64, resource: ResourceId, filter: &[u8]) {
        self.unsubscribe(conn, id);
        self.conns.entry(conn).or_default().subscriptions.push((id, resource));
        let (filter, lagged) = (filter.to_vec(), Index::ZERO);
        let subscribers = self.subscribers.entry(resource).or_default();
        subscribers.insert((conn, id), Subscriber { filter, lagged });
    }

    /// Every subscription: connection, its number there, resource and filter.
    pub(super) fn all_subscriptions(&self) -> Vec<(ConnId, u64, ResourceId, Vec<u8>)> {
        let mut all = Vec::new();
        for (resource, subscribers) in &self.subscribers {
            let each = subscribers.iter();
            all.extend(each.map(|(&(conn, id), one)| (conn, id, *resource, one.filter.clone())));
        }
        all
    }

    pub(super) fn unsubscribe(&mut self, conn: ConnId, id: u64) {
        let Some(known) = self.conns.get_mut(&conn) else { return };
        let Some(at) = known.subscriptions.iter().position(|&(known, _)| known == id) else {
            return;
        };
        let (_, resource) = known.subscriptions.swap_remove(at);
        self.remove_subscriber(conn, id, resource);
    }

    /// This node's own no-op is applied: it leads the sessions there are, each with a full
    /// time-out. They are taken over by and by; see [`Front::adopt`].
    pub(super) fn start_leading(&mut self, now: Micros) {
        assert!(self.sessions.is_empty() && self.adopting.is_none());
        let (after, deaf_then) = (SessionId(0), self.deaf);
        self.adopting = Some(Adopting { after, began: now, deaf_then });
    }

    /// Whether there may be sessions that are not taken over.
    pub(super) fn is_adopting(&self) -> bool {
        self.adopting.is_some()
    }

    /// Takes over the next few of the machine's sessions.
    pub(super) fn adopt(&mut self, sessions: &Sessions) {
        let Some(Adopting { after, .. }) = self.adopting else { return };
        let mut last = None;
        for (session, _) in sessions.after(after).take(ADOPTED_PER_TURN) {
            self.adopt_one(session, sessions);
            last = Some(session);
        }
        match (last, &mut self.adopting) {
            (Some(last), Some(adopting)) => adopting.after = last,
            _ => self.adopting = None,
        }
    }

    /// Takes over a session that is heard of, unless it has been.
    pub(super) fn adopt_one(&mut self, session: SessionId, sessions: &Sessions) {
        let Some(adopting) = &self.adopting else { return };
        let (mut heard, deaf_then) = (adopting.began, adopting.deaf_then);
        let is_new = session > adopting.after && !self.sessions.contains_key(&session);
        let Some(known) = sessions.get(session).filter(|_| is_new) else { return };
        if breaks::NEW_LEADER_EXPIRES_EARLY.on() {
            heard = Micros(heard.0.saturating_sub(known.timeout().0 * 9 / 10));
        }
        self.lead((heard, deaf_then), session, known.timeout(), known.last_sequence());
    }

    /// `heard` is when, and `Front::deaf` then.
    fn lead(
        &mut self,
        (heard, deaf_then): (Micros, Micros),
        session: SessionId,
        timeout: Micros,
        sequence: Sequence,
    ) {
        let led = Led {
            proposed: sequence,
            applied: sequence,
            conn: None,
            timeout,
            expiring: false,
            registrant: None,
            heard,
            deaf_then,
        };
        self.sessions.insert(session, led);
        self.expiries.insert((heard.after(timeout), session));
    }

    /// Leadership is lost: every session's connection is sent to the next leader. What was proposed
    /// may or may not be applied there; the sequence tells.
    pub(super) fn stop_leading(&mut self, why: Code, leader: &str, host: &mut dyn Host) {
        for (&conn, known) in &mut self.conns {
            if known.session.take().is_some() {
                refuse(host, conn, RefusedOf::Connection, why, Micros(0), leader);
                host.close(conn);
            }
        }
        self.adopting = None;
        let (sessions, expiries) = (take(&mut self.sessions), take(&mut self.expiries));
        if sessions.len() > ADOPTED_PER_TURN {
            host.dispose(Box::new((sessions, expiries)));
        }
        self.registering.clear();
    }

    /// Whether anybody watches here.
    pub(super) fn is_watched(&self) -> bool {
        !self.subscribers.is_empty()
    }

    /// This node has lost touch: who watches without a session is sent to another.
    pub(super) fn send_watchers_elsewhere(&mut self, host: &mut dyn Host) {
        for (&conn, known) in &self.conns {
            if known.session.is_none() && !known.subscriptions.is_empty() {
                let of = RefusedOf::Connection;
                refuse(host, conn, of, Code::NO_LEADER, Micros(0), "");
                host.close(conn);
            }
        }
    }

    /// A turn that came much later than the heartbeat lets it was deaf for the rest of the time.
    pub(super) fn note_silence(&mut self, now: Micros, before: Micros, heartbeat: Micros) {
        let usual = Micros(heartbeat.0 * 2);
        self.deaf = self.deaf.after(now.since(before).since(usual));
    }

    /// When the first session may have expired.
    pub(super) fn next_expiry(&self) -> Option<Micros> {
        self.expiries.first().map(|&(due, _)| due)
    }

    /// The next session that has been silent for its whole time-out; it is marked as expiring.
    /// Looks at `left` sessions at most, and takes those it has looked at off.
    pub(super) fn expired(&mut self, now: Micros, left: &mut usize) -> Option<SessionId> {
        while *left > 0
            && let Some(&(due, session)) = self.expiries.first()
        {
            if due > now {
                return None;
            }
            *left -= 1;
            self.expiries.pop_first();
            let led = self.sessions.get_mut(&session).filter(|led| !led.expiring);
            let Some(led) = led else { continue };
            let deaf_since = self.deaf.since(led.deaf_then);
            let silent_until = led.heard.after(led.timeout).after(deaf_since);
            if led.registrant.is_some() {
                // Not even registered yet: it begins to count when it is.
                self.expiries.insert((now.after(led.timeout), session));
                continue;
            }
            if silent_until > now {
                let again = silent_until;
                self.expiries.insert((again, session));
                continue;
            }
            led.expiring = true;
            return Some(session);
        }
        None
    }

    /// The expiry could not be proposed now; it is tried again shortly.
    pub(super) fn expire_later(&mut self, now: Micros, session: SessionId) {
        if let Some(led) = self.sessions.get_mut(&session) {
            led.expiring = false;
            self.expiries.insert((now.after(Micros::from_millis(10)), session));
        }
    }

    /// Delivers what applying brings forth. `left` is how many entries may still be applied: it
    /// falls with what is told, too.
    pub(super) fn delivery<'a>(
        &'a mut self,
        left: &'a Cell<usize>,
        host: &'a mut dyn Host,
    ) -> Delivery<'a> {
        Delivery { front: self, host, left, told: 0, sent: (Index::ZERO, 0) }
    }
}

/// Writes a refusal into a connection's out-buffer.
pub(super) fn refuse(
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
pub(super) fn sendable(code: Code, payload: &[u8], otherwise: Code) -> (Code, &[u8]) {
    if payload.len() <= PAYLOAD_MAX { (code, payload) } else { (otherwise, &[]) }
}

/// Writes an event, whose payload is encoded already, into an out-buffer.
pub(super) fn send_event(
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

/// Takes what the machine says while applying straight to the out-buffers.
pub(super) struct Delivery<'a> {
    front: &'a mut Front,
    host: &'a mut dyn Host,
    left: &'a Cell<usize>,
    told: usize,
    /// Bytes of events that the last entry with some has sent.
    sent: (Index, usize),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::{Pair, VALUE_MAX};
    use crate::wire::{self, Kind};
    use margay_log::batch::Batch;
    use margay_log::disk::Op;
    use margay_log::id::NodeId;
    use std::sync::Arc;

    fn sent(old: usize) -> Response<'static> {
        let pair = |length| Some(Pair::new(b"key", &vec![7; length]));
        let resource = ResourceId(1);
        let event = Event { resource, ordinal: 0, kind: 1, new: pair(VALUE_MAX), old: pair(old) };
        let mut out = Vec::new();
        send_event(&mut out, 5, Index(9), &event, &event.payload());
        let frame = wire::decode(out.leak()).expect("one whole frame");
        Response::decode(&frame).expect("a response")
    }

    /// When a new leader's first time-out is over, all its sessions may have been silent.
    #[test]
    fn sessions_are_looked_at_a_few_at_a_time() {
        let (begun, timeout) = (Micros(0), Micros::from_millis(1_000));
        let mut front = Front::default();
        for session in (1..=100).map(SessionId) {
            front.lead((begun, Micros(0)), session, timeout, Sequence(0));
            if session != SessionId(100) {
                front.hear(Micros(1), session);
            }
        }
        let due = begun.after(timeout);
        for _ in 0..3 {
            let mut left = 33;
            assert_eq!((front.expired(due, &mut left), left), (None, 0));
            assert_eq!(front.next_expiry(), Some(due), "the next turn goes on");
        }
        let mut left = 33;
        assert_eq!((front.expired(due, &mut left), left), (Some(SessionId(100)), 32));
        assert_eq!((front.expired(due, &mut left), left), (None, 32));
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
