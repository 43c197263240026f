//! What clients ask: one function per request, admission first. Events are asked for in
//! `subscriptions.rs`.
//!
//! A command that is refused for what it says is logged as refused under its own sequence, so that
//! the sequence has no gap; one that is refused for load is not admitted, nor is what was pipelined
//! behind it.

use margay_log::Space;
use margay_log::breaks;
use margay_log::format::{EntryHeader, PAYLOAD_MAX};
use margay_log::id::{Index, Micros};

use super::front::refuse;
use super::pending::{Waiting, Want};
use super::{ConnId, Fault, Host, RETRY, Replica};
use crate::machine::{
    Admit, Code, Level, ResourceId, Sequence, SessionId, StateMachine, kind, session,
};
use crate::wire::client::{RefusedOf, Request, Response};
use crate::wire::repair::ChainQuery;
use crate::wire::{Frame, GroupStatus, Kind};

/// A command as it arrived.
struct Arrived<'a> {
    sequence: Sequence,
    acked: Sequence,
    kind: u8,
    schema: u16,
    resource: ResourceId,
    payload: &'a [u8],
}

impl<S: StateMachine> Replica<S> {
    /// A frame from a client.
    ///
    /// # Errors
    /// The frame does not decode; the connection should be told and closed.
    pub fn on_client(
        &mut self,
        now: Micros,
        conn: ConnId,
        frame: &Frame<'_>,
        host: &mut dyn Host,
    ) -> Result<(), Fault> {
        if frame.kind == Kind::ChainQuery {
            let reply = self.chain_reply(ChainQuery::decode(frame)?);
            if let Some(out) = host.client(conn) {
                reply.encode(out);
            }
            return Ok(());
        }
        let request = Request::decode(frame)?;
        if self.halted.is_some() && !matches!(request, Request::Status { .. }) {
            // Another node may run a program that can go on.
            self.refuse(host, conn, RefusedOf::Connection, Code::HALTED, Micros(0));
            host.close(conn);
            return Ok(());
        }
        match request {
            Request::Command { sequence, acked, kind, schema, resource, payload } => {
                let arrived = Arrived { sequence, acked, kind, schema, resource, payload };
                self.on_command(now, conn, &arrived, host);
            }
            Request::Query { id, level, seen, after, kind, schema, resource, payload } => {
                let payload = payload.to_vec();
                let want = Want::Query { id, after, kind, schema, resource, payload };
                self.on_query(now, conn, level, seen, want, host);
            }
            Request::Register { correlation, key, timeout } => {
                self.on_register(now, conn, correlation, key, timeout, host);
            }
            Request::Attach { session, key, .. } => self.on_attach(now, conn, session, key, host),
            Request::KeepAlive { session, .. } => self.on_keep_alive(now, conn, session, host),
            Request::Close { session } => self.on_close(now, conn, session, host),
            Request::Subscribe { id, resource, after, filter } => {
                self.on_subscribe(conn, id, resource, after, filter, host);
            }
            Request::Unsubscribe { id } => self.front.unsubscribe(conn, id),
            Request::Admin { id, admin } => self.on_admin(now, conn, id, admin, host),
            Request::Status { id } => {
                let longest = host.longest_turn();
                let micros = |time: Micros| u32::try_from(time.0).unwrap_or(u32::MAX);
                let status = GroupStatus {
                    longest_turn_us: micros(longest.took),
                    longest_turn_ago_us: micros(longest.ago),
                    busiest_turn_us: micros(longest.ran),
                    ..self.status()
                };
                let groups = vec![status];
                if let Some(out) = host.client(conn) {
                    Response::Status { id, groups }.encode(out);
                }
            }
        }
        Ok(())
    }

    /// A client's connection is gone.
    pub fn on_client_gone(&mut self, conn: ConnId) {
        self.front.gone(conn);
        self.pending.gone(conn);
    }

    /// Why nothing about sessions can be answered here, if so.
    fn not_speaking(&self) -> Option<(Code, Micros)> {
        if !self.leads() {
            Some((Code::NOT_LEADER, Micros(0)))
        } else if !self.speaks() {
            Some((Code::NOT_READY, RETRY))
        } else {
            None
        }
    }

    pub(super) fn refuse(
        &self,
        host: &mut dyn Host,
        conn: ConnId,
        of: RefusedOf,
        code: Code,
        retry: Micros,
    ) {
        if code == Code::NOT_LEADER {
            refuse(host, conn, of, code, retry, &self.leader_address());
        } else {
            refuse(host, conn, of, code, retry, "");
        }
    }

    fn on_command(
        &mut self,
        now: Micros,
        conn: ConnId,
        arrived: &Arrived<'_>,
        host: &mut dyn Host,
    ) {
        if let Err((code, retry)) = self.try_command(now, conn, arrived, host) {
            self.refuse(host, conn, RefusedOf::Command(arrived.sequence), code, retry);
        }
    }

    fn try_command(
        &mut self,
        now: Micros,
        conn: ConnId,
        arrived: &Arrived<'_>,
        host: &mut dyn Host,
    ) -> Result<(), (Code, Micros)> {
        if let Some(refused) = self.not_speaking() {
            return Err(refused);
        }
        let session = self.front.session_of(conn).ok_or((Code::NO_SESSION, Micros(0)))?;
        let led = self.front.hear(now, session).ok_or((Code::SESSION_EXPIRED, Micros(0)))?;
        let (proposed, applied) = (led.proposed, led.applied);
        if led.expiring {
            return Err((Code::SESSION_EXPIRED, Micros(0)));
        }
        let again = breaks::DUPLICATE_APPLIED.on() && arrived.sequence.0 == proposed.0;
        if arrived.sequence <= proposed && !again {
            self.on_duplicate(conn, session, arrived.sequence, host);
            return Ok(());
        }
        if arrived.sequence.0 != proposed.0 + 1 && !again {
            return Err((Code::SEQUENCE_GAP, Micros(0)));
        }
        if proposed.0 - applied.0 >= self.config.session_in_flight
            || self.in_flight() >= self.config.group_in_flight
        {
            return Err((Code::OVERLOADED, RETRY));
        }
        if let Space::Full(_) = self.log.space() {
            return Err((Code::DISK_FULL, Micros::from_millis(200)));
        }
        self.propose_command(now, session, arrived, host).ok_or((Code::OVERLOADED, RETRY))?;
        if let Some(led) = self.front.hear(now, session) {
            led.proposed = arrived.sequence;
        }
        Ok(())
    }

    /// Places a command in the open batch, once; `None` where neither it nor the next batch has
    /// room.
    fn propose_command(
        &mut self,
        now: Micros,
        session: SessionId,
        arrived: &Arrived<'_>,
        host: &mut dyn Host,
    ) -> Option<Index> {
        let checked = if arrived.kind < kind::REGISTRY {
            Err(Code::BAD_KIND)
        } else if arrived.payload.len() > PAYLOAD_MAX as usize {
            Err(Code::VALUE_TOO_LARGE)
        } else {
            S::check(arrived.kind, arrived.schema, arrived.payload)
        };
        let header = EntryHeader {
            kind: arrived.kind,
            schema: arrived.schema,
            resource: arrived.resource.0,
            session: session.0,
            sequence: arrived.sequence.0,
            acked: arrived.acked.0,
            ..EntryHeader::default()
        };
        let refused = checked.err().map(session::encode_refused);
        let (header, payload) = match &refused {
            Some(payload) => (EntryHeader { kind: kind::REFUSED, ..header }, &payload[..]),
            None => (header, arrived.payload),
        };
        if let Ok(index) = self.log.push(&header, payload) {
            return Some(index);
        }
        // The open batch is full: seal it where the pipeline has room, and begin the next.
        self.flush_seal(now, host).ok()?;
        self.log.push(&header, payload).ok()
    }

    /// A sequence that was proposed before: answered from the cache, or when it is applied.
    fn on_duplicate(
        &mut self,
        conn: ConnId,
        session: SessionId,
        sequence: Sequence,
        host: &mut dyn Host,
    ) {
        let Some(out) = host.client(conn) else { return };
        match self.machine.admit(session, sequence) {
            Admit::Cached { index, code, .. } if breaks::DUPLICATE_ANSWERED_EMPTY.on() => {
                Response::Reply { sequence, index, code, payload: &[] }.encode(out);
            }
            Admit::Cached { index, code, payload } => {
                Response::Reply { sequence, index, code, payload }.encode(out);
            }
            Admit::Gone => {
                let (index, code) = (self.machine.applied(), Code::REPLY_GONE);
                Response::Reply { sequence, index, code, payload: &[] }.encode(out);
            }
            Admit::Next | Admit::Ahead | Admit::Unknown => {}
        }
    }

    fn on_query(
        &mut self,
        now: Micros,
        conn: ConnId,
        level: Level,
        seen: Index,
        want: Want,
        host: &mut dyn Host,
    ) {
        let session = self.front.session_of(conn).unwrap_or_default();
        self.front.hear(now, session);
        let waiting = Waiting { conn, session, since: now, want };
        if !self.pending.has_room(&waiting) {
            return self.refuse(host, conn, waiting.of(), Code::OVERLOADED, RETRY);
        }
        match level {
            Level::Sequential if breaks::READ_GOES_BACK.on() => {
                self.pending.when_applied(Index::ZERO, waiting);
            }
            Level::Sequential => self.pending.when_applied(seen, waiting),
            Level::Linearizable | Level::Lease if self.leads() => {
                let lease = if level == Level::Lease { self.raft.lease(now) } else { None };
                match lease {
                    Some(index) => self.pending.when_applied(index, waiting),
                    // Without a lease the answer takes a round.
                    None => self.pending.gather(waiting),
                }
            }
            Level::Linearizable | Level::Lease => {
                self.refuse(host, conn, waiting.of(), Code::NOT_LEADER, Micros(0));
            }
        }
    }

    fn on_register(
        &mut self,
        now: Micros,
        conn: ConnId,
        correlation: u64,
        key: [u8; 16],
        timeout: Micros,
        host: &mut dyn Host,
    ) {
        let refused = match self.not_speaking() {
            Some(refused) => Some(refused),
            None if !session::TIMEOUTS.contains(&timeout) => Some((Code::BAD_TIMEOUT, Micros(0))),
            None if self.front.registering(&key).is_none()
                && self.machine.sessions().find(&key).is_none()
                && self.sessions() >= self.config.sessions_max =>
            {
                Some((Code::TOO_MANY_SESSIONS, Micros::from_millis(1_000)))
            }
            None => None,
        };
        if let Some((code, retry)) = refused {
            return self.refuse(host, conn, RefusedOf::Register(correlation), code, retry);
        }
        if let Some(session) = self.front.registering(&key) {
            // The same register again, over another connection, before the first is applied.
            self.bind(now, conn, session, host);
            if let Some(led) = self.front.hear(now, session) {
                led.registrant = Some((conn, correlation));
            }
        } else if let Some((session, timeout)) = self.machine.sessions().find(&key) {
            self.front.adopt_one(session, self.machine.sessions());
            if self.front.hear(now, session).is_none_or(|led| led.expiring) {
                // It is about to end; the next attempt opens another.
                let of = RefusedOf::Register(correlation);
                return self.refuse(host, conn, of, Code::NOT_READY, RETRY);
            }
            self.bind(now, conn, session, host);
            self.gather(now, conn, session, Want::Register { correlation, timeout }, host);
        } else {
            let payload = session::encode_register(&key, timeout);
            match self.push_system(kind::REGISTER, 0, &payload) {
                Some(index) => {
                    let session = SessionId(index.0);
                    self.front.register(now, conn, session, key, timeout);
                    if let Some(led) = self.front.hear(now, session) {
                        led.registrant = Some((conn, correlation));
                    }
                }
                None => {
                    let of = RefusedOf::Register(correlation);
                    self.refuse(host, conn, of, Code::OVERLOADED, RETRY);
                }
            }
        }
    }

    /// Answers once a round that begins now is confirmed.
    fn gather(
        &mut self,
        now: Micros,
        conn: ConnId,
        session: SessionId,
        want: Want,
        host: &mut dyn Host,
    ) {
        let waiting = Waiting { conn, session, since: now, want };
        if self.pending.has_room(&waiting) {
            self.pending.gather(waiting);
        } else {
            self.refuse(host, conn, waiting.of(), Code::OVERLOADED, RETRY);
        }
    }

    /// Gives a session to a connection; the one that had it is told so and closed.
    fn bind(&mut self, now: Micros, conn: ConnId, session: SessionId, host: &mut dyn Host) {
        self.front.hear(now, session);
        if let Some(before) = self.front.bind(conn, session) {
            let of = RefusedOf::Session(session);
            self.refuse(host, before, of, Code::SESSION_MOVED, Micros(0));
            host.close(before);
        }
    }

    fn on_attach(
        &mut self,
        now: Micros,
        conn: ConnId,
        session: SessionId,
        key: [u8; 16],
        host: &mut dyn Host,
    ) {
        // Only who knows the key is heard: a session must not be kept alive by guessing.
        let known = self.machine.sessions().find(&key).is_some_and(|(id, _)| id == session);
        if known {
            self.front.adopt_one(session, self.machine.sessions());
        }
        let expiring = known && self.front.hear(now, session).is_none_or(|led| led.expiring);
        let refused = self
            .not_speaking()
            .or_else(|| (!known || expiring).then_some((Code::SESSION_EXPIRED, Micros(0))));
        if let Some((code, retry)) = refused {
            return self.refuse(host, conn, RefusedOf::Session(session), code, retry);
        }
        self.bind(now, conn, session, host);
        self.gather(now, conn, session, Want::Attach, host);
    }

    fn on_keep_alive(
        &mut self,
        now: Micros,
        conn: ConnId,
        session: SessionId,
        host: &mut dyn Host,
    ) {
        let refused = self.not_speaking().or_else(|| self.not_bound(conn, session)).or_else(|| {
            let expiring = self.front.hear(now, session).is_none_or(|led| led.expiring);
            expiring.then_some((Code::SESSION_EXPIRED, Micros(0)))
        });
        if let Some((code, retry)) = refused {
            return self.refuse(host, conn, RefusedOf::Session(session), code, retry);
        }
        if breaks::KEEP_ALIVE_UNCONFIRMED.on() {
            let want = Want::KeepAlive;
            self.serve_read(now, &Waiting { conn, session, since: now, want }, host);
            return;
        }
        self.gather(now, conn, session, Want::KeepAlive, host);
    }

    fn on_close(&mut self, now: Micros, conn: ConnId, session: SessionId, host: &mut dyn Host) {
        let refused = self.not_speaking().or_else(|| self.not_bound(conn, session));
        let of = RefusedOf::Session(session);
        if let Some((code, retry)) = refused {
            return self.refuse(host, conn, of, code, retry);
        }
        if self.front.hear(now, session).is_some_and(|led| led.expiring) {
            return; // its end is in the log already and will be told
        }
        if self.push_system(kind::CLOSE, session.0, &[]).is_none() {
            return self.refuse(host, conn, of, Code::OVERLOADED, RETRY);
        }
        if let Some(led) = self.front.hear(now, session) {
            led.expiring = true;
        }
    }

    /// How many sessions there are, those being registered included.
    fn sessions(&self) -> usize {
        self.machine.sessions().len() + self.front.registers()
    }

    fn not_bound(&self, conn: ConnId, session: SessionId) -> Option<(Code, Micros)> {
        (self.front.session_of(conn) != Some(session)).then_some((Code::NO_SESSION, Micros(0)))
    }
}
