//! Who is connected to this replica, and the sessions as their leader sees them.
//!
//! All of it is volatile. Sessions themselves are replicated (`machine::session`); here is what
//! only their leader knows: which connection speaks for a session, what was proposed for it and not
//! yet applied, and when it was last heard. A new leader starts this afresh, with a full time-out
//! for everyone. It takes its sessions over as they are heard of, and the silent ones bit by bit:
//! a hundred thousand at once would be a turn of many milliseconds. What they are told is in
//! `front/delivery.rs`.
//!
//! Invariants
//! - A session is answered on the one connection that attached to it last.
//! - A session that has a connection, or something proposed, has been taken over.

mod delivery;

use std::collections::{BTreeMap, BTreeSet};
use std::mem::take;

use margay_log::breaks;
use margay_log::id::{Index, Micros};

use super::{ConnId, Fatal, Host};
use crate::machine::session::Sessions;
use crate::machine::{Code, ResourceId, Sequence, SessionId};
use crate::wire::client::RefusedOf;
pub(super) use delivery::{FAN_OUT_MAX, refuse, send_event, sendable};

/// Sessions that a new leader takes over in one turn, a third of a millisecond or so.
const ADOPTED_PER_TURN: usize = 1_024;

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
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
