//! Reads, and whatever else must hear that this node still leads before it is answered.
//!
//! What arrives in one turn shares one confirming round (Raft thesis §6.4). A round that is
//! confirmed says which index must be applied first; a query also waits for the commands its
//! session sent before it.

use std::collections::VecDeque;

use margay_log::id::{Index, Micros};

use super::front::refuse;
use super::{ConnId, Host, Replica};
use crate::machine::{
    Code, Effects, LogTime, Query, ResourceId, Sequence, SessionId, StateMachine,
};
use crate::raft::message::{Input, ReadId, RoleKind};
use crate::wire::client::{NOTICES_MAX, RefusedOf, Response};

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
    pub want: Want,
}

impl Waiting {
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
    effects: Effects,
}

impl Pending {
    /// Joins the round that begins at the end of this turn.
    pub(super) fn gather(&mut self, waiting: Waiting) {
        self.gathering.push(waiting);
    }

    /// Needs no round, only the index.
    pub(super) fn when_applied(&mut self, index: Index, waiting: Waiting) {
        self.confirmed.push_back((index, waiting));
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        let rounds: usize = self.rounds.iter().map(|(_, waiting)| waiting.len()).sum();
        self.gathering.len() + rounds + self.confirmed.len()
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
        self.gathering.retain(|waiting| waiting.conn != conn);
        for (_, round) in &mut self.rounds {
            round.retain(|waiting| waiting.conn != conn);
        }
        self.confirmed.retain(|(_, waiting)| waiting.conn != conn);
    }
}

impl<S: StateMachine> Replica<S> {
    /// Begins one round for all that arrived in this turn.
    pub(super) fn flush_reads(&mut self, now: Micros) {
        if self.pending.gathering.is_empty() {
            return;
        }
        let id = ReadId(self.pending.last.0 + 1);
        self.pending.last = id;
        let waiting = std::mem::take(&mut self.pending.gathering);
        self.pending.rounds.push_back((id, waiting));
        self.step(now, Input::Read { id });
    }

    /// Answers what waited for an index that is applied by now.
    pub(super) fn serve_reads(&mut self, _now: Micros, host: &mut dyn Host) {
        for _ in 0..self.pending.confirmed.len() {
            let Some((index, waiting)) = self.pending.confirmed.pop_front() else { return };
            let after = match waiting.want {
                Want::Query { after, .. } => after,
                _ => Sequence(0),
            };
            let seen = self.machine.applied() >= index
                && (after.0 == 0
                    || waiting.session == SessionId::default()
                    || self.applied_sequence(waiting.session) >= after.0);
            if seen {
                self.serve_read(&waiting, host);
            } else {
                self.pending.confirmed.push_back((index, waiting));
            }
        }
    }

    fn serve_read(&mut self, waiting: &Waiting, host: &mut dyn Host) {
        let Waiting { conn, session, ref want } = *waiting;
        let index = self.machine.applied();
        let Some(out) = host.client(conn) else { return };
        match *want {
            Want::Query { id, kind, schema, resource, ref payload, .. } => {
                let time = self.query_time();
                let effects = &mut self.pending.effects;
                let query = Query { index, time, session, kind, schema, resource, payload };
                self.machine.query(&query, effects);
                let (code, payload) = (effects.code, &effects.reply[..]);
                Response::QueryReply { id, index, code, payload }.encode(out);
            }
            Want::KeepAlive => Response::KeptAlive { session, index }.encode(out),
            Want::Attach => {
                let Some(known) = self.machine.sessions().get(session) else {
                    let of = RefusedOf::Session(session);
                    return refuse(host, conn, of, Code::SESSION_EXPIRED, Micros(0), "");
                };
                let sequence = known.last_sequence();
                let mut notices = Vec::new();
                self.machine.holdings(session, &mut notices);
                if notices.len() > NOTICES_MAX {
                    // More than one frame can list. It ends with the session, and all of it is
                    // free.
                    let of = RefusedOf::Session(session);
                    return refuse(host, conn, of, Code::TOO_MANY_WAITERS, Micros(0), "");
                }
                Response::Attached { session, index, sequence, notices }.encode(out);
            }
            Want::Register { correlation, timeout } => {
                Response::Registered { correlation, session, timeout, index }.encode(out);
            }
        }
    }

    /// A query sees what is due as gone, also before a batch says so: on the leader by its own
    /// clock.
    fn query_time(&self) -> LogTime {
        self.machine.time()
    }

    pub(super) fn refuse_reads(&mut self, id: ReadId, host: &mut dyn Host) {
        if let Some(at) = self.pending.rounds.iter().position(|&(round, _)| round == id) {
            let (_, waiting) = self.pending.rounds.remove(at).expect("just found");
            self.refuse_waiting(waiting, host);
        }
    }

    pub(super) fn refuse_all_reads(&mut self, host: &mut dyn Host) {
        let mut waiting = std::mem::take(&mut self.pending.gathering);
        waiting.extend(self.pending.rounds.drain(..).flat_map(|(_, waiting)| waiting));
        self.refuse_waiting(waiting, host);
    }

    fn refuse_waiting(&mut self, waiting: Vec<Waiting>, host: &mut dyn Host) {
        let leader = self.leader_address();
        for waiting in waiting {
            refuse(host, waiting.conn, waiting.of(), Code::NOT_LEADER, Micros(0), &leader);
        }
    }

    /// Whether this node may take a linearizable read: it leads, as far as it knows.
    pub(super) fn leads(&self) -> bool {
        self.raft.role() == RoleKind::Leader
    }
}
