//! One group on one node: Raft, log and state machine put together. Moves bytes; does no I/O.
//!
//! The core decides about positions, the log owns the bytes, the machine gives them meaning. A
//! replica is told what arrived (`on_peer`, `on_client`, `on_disk`) and once per turn asked to
//! `flush`: due deadlines, one sealed batch where the pipeline has room, what the core wants sent,
//! what has become committed applied and answered. Whatever leaves goes through [`Host`]; a shard
//! and the simulator each are one.
//!
//! What does not live here: sockets and files (`shard`), how frames look (`wire`), what commands
//! mean (`resource`), who may lead (`raft`).
//!
//! Invariants
//! - A reply leaves only after its entry was applied, and an entry is applied only when committed.
//! - Raft's last entry and the log's sealed end are the same position after every call.
//! - Nothing about a session is answered by a leader before its own no-op has been applied.

mod apply;
mod change;
mod config;
mod error;
mod front;
mod host;
pub mod leadership;
pub mod membership;
pub mod memberships;
mod outputs;
mod peer;
mod pending;
mod repair;
mod requests;
mod snapshot;
mod status;
mod subscriptions;
mod watchers;

use std::collections::VecDeque;
use std::sync::Arc;

use margay_log::batch::{Batch, Received};
use margay_log::disk::Done;
use margay_log::format::BATCH_MAX;
use margay_log::id::{Index, Micros, NodeId, Ticket};
use margay_log::{Log, Opened};

use crate::machine::session::SESSIONS_MAX;
use crate::machine::{Halted, LogTime, Machine, StateMachine, kind};
use crate::raft::Raft;
use crate::raft::message::{Input, Output, Restored};
use change::{Changes, restore_members};
pub use config::ReplicaConfig;
pub use error::{Fatal, Fault};
use front::Front;
pub use host::{ConnId, Host, LongestTurn};
use leadership::Leadership;
use membership::Membership;
use memberships::Memberships;
use pending::Pending;
use repair::Repairs;
pub use repair::{RepairCounts, address_of, is_beyond_repair};
pub use snapshot::SnapshotCounts;
use snapshot::Snapshots;

/// How long a client refused for load should wait before it tries again.
const RETRY: Micros = Micros::from_millis(5);

/// One group on one node. See the module's text.
pub struct Replica<S: StateMachine> {
    config: ReplicaConfig,
    /// Who belongs to the group; in step with the core's configurations.
    members: Memberships,
    raft: Raft,
    log: Log,
    machine: Machine<S>,
    /// Who is connected, and the sessions as their leader sees them.
    front: Front,
    /// Reads and confirmations that wait for a round or for an index.
    pending: Pending,
    /// Damage, and what is done about it.
    repairs: Repairs,
    /// Who should lead.
    leadership: Leadership,
    /// Snapshots of the machine.
    snapshots: Snapshots<S>,
    /// What the core wants done, not yet done.
    outputs: VecDeque<Output>,
    scratch: Vec<Output>,
    /// The batch that came with the message being handled.
    arriving: Option<Received>,
    /// What its first entry says, if that is a configuration.
    arriving_members: Option<Membership>,
    /// Changes of the membership, as their leader sees them.
    changes: Changes,
    /// The host has not been told of the members.
    members_news: bool,
    /// Hard-state updates under way: (the log's ticket, the core's).
    persisting: VecDeque<(Ticket, Ticket)>,
    /// Log reads under way for followers.
    fetching: Vec<(Ticket, NodeId)>,
    /// The log read that applying waits for.
    apply_fetch: Option<Ticket>,
    /// The batch of which a part is applied: the turn had become long.
    started: Option<Arc<Batch>>,
    /// Commit index as the core told it.
    commit: Index,
    /// Sealed by this leader, not yet committed: (last index, bytes).
    uncommitted: VecDeque<(Index, u64)>,
    uncommitted_bytes: u64,
    /// This leader's log time: at `.1` on the turn's clock it was `.0`.
    clock: Option<(LogTime, Micros)>,
    /// A tick was proposed and is not applied yet.
    ticking: Option<Index>,
    /// The last entry this leader must see applied before it speaks for sessions: its own no-op.
    ready_at: Option<Index>,
    /// The no-op is applied and `front` leads the sessions.
    leading: bool,
    /// The node is about to stop, and nothing is sealed any more.
    resting: bool,
    /// The disk is full, and that has been said.
    full: bool,
    /// Applying came to an entry that cannot be applied: nothing is answered any more.
    halted: Option<Halted>,
    /// Since when this node is watched and knows no leader, if so.
    leaderless: Option<Micros>,
    /// More to do at once: the last flush stopped at its budget.
    hungry: bool,
    /// When the last flush was, for telling how long this leader was deaf.
    flushed_at: Micros,
    frame: Vec<u8>,
    batches: Vec<Arc<Batch>>,
}

impl<S: StateMachine> Replica<S> {
    /// Takes over an opened log. `state` is the machine's state at index 0; the committed part of
    /// the log is applied to it as soon as the commit index is known.
    ///
    /// # Errors
    /// The meta block of the log's hard state cannot be read.
    pub fn new(
        config: ReplicaConfig,
        opened: Opened,
        state: S,
        now: Micros,
    ) -> Result<Self, Fatal> {
        assert!(config.sessions_max <= SESSIONS_MAX, "the machine would refuse some");
        let group = config.group;
        let (term, vote) = outputs::decode_meta(&opened.meta).ok_or(Fatal::Meta { group })?;
        let log = opened.log;
        let snapshots = Snapshots::new(opened.snapshots, opened.report.snapshots_unreadable);
        let held = snapshots.held_by(&log);
        let commit = held.map_or(Index::ZERO, |held| held.end.id.index);
        let members = restore_members(&config, held, &opened.marked)?;
        let configurations = members.iter().map(|(at, members)| (*at, members.configuration()));
        let configurations = configurations.collect();
        // A snapshot may have become durable before the term it was brought in.
        let (term, vote) = match snapshots.term() {
            begun if begun > term => (begun, None),
            _ => (term, vote),
        };
        let (terms, last, snapshot) = (log.terms(), log.last(), log.start().id);
        let restored = Restored { term, vote, terms, last, snapshot, commit, configurations };
        let raft = Raft::new(config.raft, restored, now);
        let mut replica = Self {
            members,
            raft,
            log,
            machine: Machine::new(state),
            front: Front::default(),
            pending: Pending::default(),
            repairs: Repairs::default(),
            leadership: Leadership::new(config.settled),
            snapshots,
            outputs: VecDeque::new(),
            scratch: Vec::new(),
            arriving: None,
            arriving_members: None,
            changes: Changes::default(),
            members_news: true,
            persisting: VecDeque::new(),
            fetching: Vec::new(),
            apply_fetch: None,
            started: None,
            commit,
            uncommitted: VecDeque::new(),
            uncommitted_bytes: 0,
            clock: None,
            ticking: None,
            ready_at: None,
            leading: false,
            resting: false,
            full: false,
            halted: None,
            leaderless: None,
            hungry: false,
            flushed_at: now,
            frame: Vec::new(),
            batches: Vec::new(),
            config,
        };
        replica.begin_restore();
        replica.begin_repair(opened.report.rotten.len());
        Ok(replica)
    }

    /// A disk operation ended.
    ///
    /// # Errors
    /// The log is poisoned: a write into prepared space or of the hard state failed.
    pub fn on_disk(&mut self, now: Micros, done: Done, host: &mut dyn Host) -> Result<(), Fatal> {
        if let Done::Snapshot { ticket, result } = done {
            self.on_snapshot_step(now, ticket, result, host);
            return Ok(());
        }
        let progress = self.log.on_done(done)?;
        if let Some(index) = progress.durable {
            self.step(now, Input::Durable { index });
        }
        if let Some(durable) = progress.meta {
            while let Some(&(ticket, persisted)) = self.persisting.front() {
                if ticket > durable {
                    break;
                }
                self.persisting.pop_front();
                self.step(now, Input::Persisted { ticket: persisted });
            }
        }
        if let Some(read) = progress.read {
            self.on_read_for_repair(now, read, host);
            if self.apply_fetch == Some(read) {
                self.apply_fetch = None;
            }
            let mut at = 0;
            while at < self.fetching.len() {
                if self.fetching[at].0 == read {
                    let (_, to) = self.fetching.swap_remove(at);
                    self.step(now, Input::Readable { to });
                } else {
                    at += 1;
                }
            }
        }
        self.run_outputs(now, host);
        Ok(())
    }

    /// Ends a turn: everything that is due, sealed, sent, applied and answered.
    ///
    /// # Errors
    /// The log is poisoned, damaged or not the leader's: this replica must stop.
    pub fn flush(&mut self, now: Micros, host: &mut dyn Host) -> Result<(), Fatal> {
        self.tell_members(host);
        self.refuse_late_change(now, host);
        self.flush_deadlines(now, host);
        self.flush_seal(now, host)?;
        self.flush_reads(now);
        self.run_outputs(now, host);
        if let Some(fatal) = self.front.fatal.take() {
            // The core counts on a batch that the log has refused: nothing may be applied any more.
            return Err(fatal);
        }
        self.apply_committed(now, host)?;
        // Applying may have answered, and a new leader's no-op may open the pipeline again.
        self.flush_seal(now, host)?;
        self.run_outputs(now, host);
        self.tell_members(host);
        self.answer_change(host);
        self.serve_reads(now, host);
        self.flush_snapshots(now, host);
        self.flush_repairs(now, host);
        self.tell_space();
        if self.resting {
            self.log.mark();
        }
        for op in self.log.ops() {
            host.disk(op);
        }
        self.flushed_at = now;
        Ok(())
    }

    /// When `flush` must be called at the latest, if nothing else happens.
    #[must_use]
    pub fn deadline(&self) -> Option<Micros> {
        let hungry = self.hungry || self.snapshots.is_hungry() || self.front.is_adopting();
        let now = hungry.then_some(Micros(0));
        // A full batch takes no tick and no expiry. Room comes with a commit or the end of a write,
        // and both are followed by a flush.
        let full = self.log.open_bytes() >= u64::from(BATCH_MAX);
        let timer = if full { None } else { self.timer_deadline() };
        let speaks = self.speaks() && !full && !self.front.is_empty();
        let ends = speaks && !self.is_crowded();
        let session = if ends { self.front.next_expiry() } else { None };
        // A leader that is flushed less often takes the silence for its own deafness.
        let listen =
            speaks.then(|| self.flushed_at.after(Micros(self.config.raft.heartbeat.0 * 2)));
        let (raft, leadership) = (self.raft.deadline(), self.leadership_deadline());
        let (log, snapshots) = (self.log.deadline(), self.snapshots.deadline());
        let (change, repair) = (self.change_deadline(), self.repair_deadline());
        let watchers = self.watchers_deadline();
        let deadlines = [
            now, raft, leadership, change, log, timer, session, listen, snapshots, repair, watchers,
        ];
        deadlines.into_iter().flatten().min()
    }

    fn flush_deadlines(&mut self, now: Micros, host: &mut dyn Host) {
        if self.raft.deadline().is_some_and(|due| due <= now) {
            self.step(now, Input::Tick);
            self.run_outputs(now, host);
        }
        if self.log.deadline().is_some_and(|due| due <= now) {
            self.log.on_tick(now);
        }
        self.look_at_leadership(now, host);
        self.look_at_watchers(now, host);
        if self.speaks() {
            self.front.adopt(self.machine.sessions());
            self.front.note_silence(now, self.flushed_at, self.config.raft.heartbeat);
            self.expire_sessions(now);
            self.propose_tick(now);
        }
    }

    /// Seals the open batch where the pipeline has room for it (DESIGN: the pipeline opens the
    /// gate, not the leader's own disk).
    fn flush_seal(&mut self, now: Micros, host: &mut dyn Host) -> Result<(), Fatal> {
        loop {
            if !self.raft.may_propose() || self.resting {
                return Ok(());
            }
            self.propose_configuration();
            if self.log.open_entries() == 0 {
                return Ok(());
            }
            let idle = self.uncommitted.is_empty();
            let room = self.uncommitted.len() < self.config.batches_in_flight
                && self.uncommitted_bytes < self.config.bytes_in_flight;
            if !(idle || room && self.log.open_bytes() >= self.config.seal_early) {
                return Ok(());
            }
            let time = self.log_time(now);
            let entries = self.log.open_entries();
            let batch = match self.log.seal(self.raft.term(), time.0) {
                Err(margay_log::Error::NoSpace) => return Ok(()),
                sealed => sealed?,
            };
            assert_eq!(batch.header().first, self.raft.last().index.next());
            self.uncommitted.push_back((batch.header().last().index, batch.size()));
            self.uncommitted_bytes += batch.size();
            let configuration = self.sealed_configuration(batch.header().first);
            self.step(now, Input::Appended { entries, configuration });
            assert_eq!(self.raft.last(), self.log.last());
            self.run_outputs(now, host);
        }
    }

    /// Gives one input to the core; what it wants done waits in `outputs`.
    fn step(&mut self, now: Micros, input: Input) {
        self.raft.step(now, input, &mut self.scratch);
        self.outputs.extend(self.scratch.drain(..));
    }

    /// Whether this node leads and may answer for sessions: its own no-op has been applied.
    fn speaks(&self) -> bool {
        self.leading
    }

    /// The log time of a batch sealed now: the leader's own clock, from the last log time on.
    fn log_time(&self, now: Micros) -> LogTime {
        match self.clock {
            Some((time, at)) => LogTime(time.0.saturating_add(now.since(at).0)),
            None => self.machine.time(),
        }
    }

    /// When the machine's next timer is due, on the turn's clock.
    fn timer_deadline(&self) -> Option<Micros> {
        if !self.speaks() || self.ticking.is_some() {
            return None;
        }
        let (time, at) = self.clock?;
        let due = self.machine.next_timer()?;
        Some(at.after(Micros(due.0.saturating_sub(time.0))))
    }

    /// With timers due and nothing else to append, a leader appends a tick.
    fn propose_tick(&mut self, now: Micros) {
        if self.timer_deadline().is_some_and(|due| due <= now) {
            self.ticking = self.push_system(kind::TICK, 0, &[]);
        }
    }

    /// Before the node stops: from now on nothing is sealed, and every flush has the log write down
    /// how far it is durable, until [`Replica::is_settled`].
    pub fn rest(&mut self) {
        self.resting = true;
    }

    /// Whether everything this replica has given to its disk is done.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.log.is_marked()
    }
}
