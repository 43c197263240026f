//! Reads, and whatever else must hear that this node still leads before it is answered.
//!
//! What arrives in one turn shares one confirming round (Raft thesis §6.4). A round that is
//! confirmed says which index must be applied first; a query also waits for the commands its
//! session sent before it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use margay_log::id::{Index, Micros};

use super::front::{refuse, sendable};
use super::{ConnId, Host, Replica};
use crate::machine::{Code, Effects, Query, ResourceId, Sequence, SessionId, StateMachine, kind};
use crate::raft::message::{Input, ReadId, RoleKind};
use crate::wire::client::{NOTICES_MAX, RefusedOf, Response};

/// Queries and confirmations that wait in one group, at most.
const WAITING_MAX: usize = 65_536;
/// Bytes of the queries among them, at most.
const WAITING_BYTES_MAX: usize = 64 << 20;
/// Those of one connection, at most.
const WAITING_OF_ONE_MAX: usize = 2_048;
/// Reads served between two looks at whether the turn has become long. One may look at ten
/// thousand entries, and a client may send two thousand of them at once.
const SERVED_PART: usize = 4;
/// So many things held, listed for a session that attaches, count as another read.
const LISTED_AS_READ: usize = 1_024;
/// Nobody waits longer for an index that does not come.
const PATIENCE: Micros = Micros::from_millis(10_000);

/// What to answer once the round is confirmed.
#[derive(Debug)]
pub(super) enum Want {
    Query {
        id: u64,
        after: Sequence,
        kind: u8,
        schema: u16,
        resource: ResourceId,
        payload: Vec<u8>,
    },
    KeepAlive,
    Attach,
    Register {
        correlation: u64,
        timeout: Micros,
    },
}

/// Someone who waits.
#[derive(Debug)]
pub(super) struct Waiting {
    pub conn: ConnId,
    pub session: SessionId,
    /// When it arrived.
    pub since: Micros,
    pub want: Want,
}

impl Waiting {
    fn bytes(&self) -> usize {
        if let Want::Query { payload, .. } = &self.want { payload.len() } else { 0 }
    }

    pub(super) fn of(&self) -> RefusedOf {
        match self.want {
            Want::Query { id, .. } => RefusedOf::Query(id),
            Want::Register { correlation, .. } => RefusedOf::Register(correlation),
            Want::KeepAlive | Want::Attach => RefusedOf::Session(self.session),
        }
    }
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// Arrived in this turn.
    gathering: Vec<Waiting>,
    /// Rounds under way.
    rounds: VecDeque<(ReadId, Vec<Waiting>)>,
    /// Confirmed: served once the index is applied.
    confirmed: VecDeque<(Index, Waiting)>,
    last: ReadId,
    /// How many wait for each connection, and the bytes of all.
    waiting: BTreeMap<ConnId, usize>,
    count: usize,
    bytes: usize,
    /// Connections that are gone; who waited on them is looked for once a turn, for all of them.
    gone: BTreeSet<ConnId>,
    effects: Effects,
}

impl Pending {
    /// Joins the round that begins at the end of this turn.
    pub(super) fn gather(&mut self, waiting: Waiting) {
        self.take_on(&waiting);
        self.gathering.push(waiting);
    }

    /// Whether one more may wait: nobody fills the places, or the memory, of everybody.
    pub(super) fn has_room(&self, waiting: &Waiting) -> bool {
        let own = self.waiting.get(&waiting.conn).copied().unwrap_or(0);
        self.count < WAITING_MAX
            && own < WAITING_OF_ONE_MAX
            && self.bytes + waiting.bytes() <= WAITING_BYTES_MAX
    }

    fn take_on(&mut self, waiting: &Waiting) {
        *self.waiting.entry(waiting.conn).or_default() += 1;
        self.count += 1;
        self.bytes += waiting.bytes();
    }

    fn let_go(&mut self, waiting: &Waiting) {
        self.count -= 1;
        self.bytes -= waiting.bytes();
        if let Some(own) = self.waiting.get_mut(&waiting.conn) {
            *own -= 1;
            if *own == 0 {
                self.waiting.remove(&waiting.conn);
            }
        }
    }

    /// Needs no round, only the index.
    pub(super) fn when_applied(&mut self, index: Index, waiting: Waiting) {
        self.take_on(&waiting);
        self.confirmed.push_back((index, waiting));
    }

    /// A round is confirmed.
    pub(super) fn ready(&mut self, id: ReadId, index: Index) {
        if let Some(at) = self.rounds.iter().position(|&(round, _)| round == id) {
            let (_, waiting) = self.rounds.remove(at).expect("just found");
            self.confirmed.extend(waiting.into_iter().map(|waiting| (index, waiting)));
        }
    }

    /// A connection is gone: nobody waits on it.
    pub(super) fn gone(&mut self, conn: ConnId) {
        if self.waiting.remove(&conn).is_some() {
            self.gone.insert(conn);
        }
    }

    /// Forgets those who waited on connections that are gone. Thousands may go in one turn.
    fn forget_gone(&mut self) {
        let gone = std::mem::take(&mut self.gone);
        if gone.is_empty() {
            return;
        }
        let (mut count, mut bytes) = (0, 0);
        let mut stays = |waiting: &Waiting| {
            let stays = !gone.contains(&waiting.conn);
            count += usize::from(!stays);
            bytes += if stays { 0 } else { waiting.bytes() };
            stays
        };
        self.gathering.retain(&mut stays);
        for (_, round) in &mut self.rounds {
            round.retain(&mut stays);
        }
        self.confirmed.retain(|(_, waiting)| stays(waiting));
        self.count -= count;
        self.bytes -= bytes;
    }
}

impl<S: StateMachine> Replica<S> {
    /// Begins one round for all that arrived in this turn.
    pub(super) fn flush_reads(&mut self, now: Micros) {
        self.pending.forget_gone();
        if self.pending.gathering.is_empty() {
            return;
        }
        let id = ReadId(self.pending.last.0 + 1);
        self.pending.last = id;
        let waiting = std::mem::take(&mut self.pending.gathering);
        self.pending.rounds.push_back((id, waiting));
        self.step(now, Input::Read { id });
    }

    /// Answers what waited for an index that is applied by now, until the turn has become long.
    pub(super) fn serve_reads(&mut self, now: Micros, host: &mut dyn Host) {
        let mut served = 0;
        for _ in 0..self.pending.confirmed.len() {
            let Some((index, waiting)) = self.pending.confirmed.pop_front() else { return };
            if self.has_seen(index, &waiting) {
                self.pending.let_go(&waiting);
                served += self.serve_read(now, &waiting, host);
                if served >= SERVED_PART {
                    served = 0;
                    if host.is_turn_long() {
                        self.hungry |= !self.pending.confirmed.is_empty();
                        return;
                    }
                }
            } else if waiting.since.after(PATIENCE) <= now {
                self.pending.let_go(&waiting);
                refuse(host, waiting.conn, waiting.of(), Code::TIMEOUT, Micros(0), "");
            } else {
                self.pending.confirmed.push_back((index, waiting));
            }
        }
    }

    /// Whether the state is as new as the one who waits may expect.
    fn has_seen(&self, index: Index, waiting: &Waiting) -> bool {
        let after = match waiting.want {
            Want::Query { after, .. } if waiting.session != SessionId::default() => after.0,
            _ => 0,
        };
        self.machine.applied() >= index && self.applied_sequence(waiting.session) >= after
    }

    /// Returns how many reads it counts for.
    pub(super) fn serve_read(
        &mut self,
        now: Micros,
        waiting: &Waiting,
        host: &mut dyn Host,
    ) -> usize {
        let Waiting { conn, session, ref want, .. } = *waiting;
        let index = self.machine.applied();
        let Some(out) = host.client(conn) else { return 1 };
        match *want {
            Want::Query { id, kind, schema, resource, ref payload, .. } => {
                let time = self.machine.time();
                let effects = &mut self.pending.effects;
                let query = Query { index, time, session, kind, schema, resource, payload };
                self.machine.query(&query, effects);
                let code = Code::FRAME_TOO_LARGE;
                let (code, payload) = sendable(effects.code, &effects.reply, code);
                Response::QueryReply { id, index, code, payload }.encode(out);
            }
            Want::KeepAlive => Response::KeptAlive { session, index }.encode(out),
            Want::Attach => {
                let Some(known) = self.machine.sessions().get(session) else {
                    let of = RefusedOf::Session(session);
                    refuse(host, conn, of, Code::SESSION_EXPIRED, Micros(0), "");
                    return 1;
                };
                let sequence = known.last_sequence();
                match self.machine.holdings_or_halt(session) {
                    Ok(notices) if notices.len() > NOTICES_MAX => {
                        self.end_overgrown(now, conn, session, host);
                    }
                    Ok(notices) => {
                        let reads = 1 + notices.len() / LISTED_AS_READ;
                        Response::Attached { session, index, sequence, notices }.encode(out);
                        return reads;
                    }
                    Err(halted) => self.halt(halted, host),
                }
            }
            Want::Register { correlation, .. }
                if self.machine.sessions().get(session).is_none() =>
            {
                // It ended meanwhile; the next attempt opens another.
                refuse(
                    host,
                    conn,
                    RefusedOf::Register(correlation),
                    Code::NOT_READY,
                    Micros(0),
                    "",
                );
            }
            Want::Register { correlation, timeout } => {
                Response::Registered { correlation, session, timeout, index }.encode(out);
            }
        }
        1
    }

    /// A session that holds and waits for more than one frame can list is ended, and all of it is
    /// free then: margay's own types do not let it come to that, those of users may. By a leader:
    /// this node may have been deposed since it was confirmed.
    fn end_overgrown(
        &mut self,
        now: Micros,
        conn: ConnId,
        session: SessionId,
        host: &mut dyn Host,
    ) {
        if !self.speaks() {
            let (of, leader) = (RefusedOf::Session(session), self.leader_address());
            return refuse(host, conn, of, Code::NOT_LEADER, Micros(0), &leader);
        }
        if self.push_system(kind::EXPIRE, session.0, &[]).is_some()
            && let Some(led) = self.front.hear(now, session)
        {
            led.expiring = true;
        }
        refuse(host, conn, RefusedOf::Session(session), Code::SESSION_EXPIRED, Micros(0), "");
    }

    pub(super) fn refuse_reads(&mut self, id: ReadId, host: &mut dyn Host) {
        if let Some(at) = self.pending.rounds.iter().position(|&(round, _)| round == id) {
            let (_, waiting) = self.pending.rounds.remove(at).expect("just found");
            self.refuse_waiting(waiting, Code::NOT_LEADER, host);
        }
    }

    /// Nobody who waits for a round can be answered here any more; where this replica has halted,
    /// nor can those who wait for an index.
    pub(super) fn refuse_all_reads(&mut self, why: Code, host: &mut dyn Host) {
        let mut waiting = std::mem::take(&mut self.pending.gathering);
        waiting.extend(self.pending.rounds.drain(..).flat_map(|(_, waiting)| waiting));
        if self.halted.is_some() {
            waiting.extend(self.pending.confirmed.drain(..).map(|(_, waiting)| waiting));
        }
        self.refuse_waiting(waiting, why, host);
    }

    fn refuse_waiting(&mut self, waiting: Vec<Waiting>, why: Code, host: &mut dyn Host) {
        let leader = self.leader_address();
        for waiting in waiting {
            self.pending.let_go(&waiting);
            refuse(host, waiting.conn, waiting.of(), why, Micros(0), &leader);
        }
    }

    /// Whether this node may take a linearizable read: it leads, as far as it knows.
    pub(super) fn leads(&self) -> bool {
        self.raft.role() == RoleKind::Leader
    }
}
