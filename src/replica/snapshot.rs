//! Snapshots of this replica's machine: when one is taken, how it gets to disk, what goes with it.
//!
//! A snapshot is the whole machine at one applied index, the end of a batch. Freezing copies
//! pointers; chunks are written out between turns, one per turn and a few on their way to the disk
//! at a time, so that no turn is held up. The two newest snapshots are kept, and the log from the
//! older one on: whoever lags less than that needs no snapshot, and a snapshot that turns out to be
//! rotten costs a longer replay, not data.
//!
//! Restoring one is in `restore.rs`, bringing one to another node in `send.rs`, taking one that is
//! brought in `install.rs`, looking for rot in `scrub.rs`.
//!
//! Invariants
//! - A snapshot gets its name only when the log is durable here up to its end: a node that starts
//!   from it has, in effect, the log it stands for.
//! - The log is never cut behind the older of two finished snapshots, nor behind one that is being
//!   brought to somebody, as long as that does not take too long.
//! - One file is being made at a time: the own one, or one that is being brought.

mod install;
mod restore;
mod scrub;
mod send;

use std::sync::Arc;

use margay_log::breaks;
use margay_log::disk::{DiskError, SnapshotStep};
use margay_log::id::{BatchEnd, EntryId, Index, Micros, Term, Ticket};
use margay_log::snapshot::{SnapshotHeader, SnapshotMaker};
use margay_log::{Buffer, Log};

use super::{Host, Replica};
use crate::machine::{FrozenMachine, StateMachine};
use crate::raft::message::Input;
use crate::wire::snapshot::SnapshotId;
use install::Installing;
use restore::Restore;
use scrub::Scrub;
use send::Sending;

/// Chunks of the own snapshot on their way to the disk, at most.
const WRITES_MAX: usize = 2;
/// Pause after a snapshot that could not be made, or taken from another node.
const RETRY: Micros = Micros::from_millis(5_000);
/// Finished snapshots kept.
const KEPT: usize = 2;

/// Everything this replica knows and does about snapshots.
pub(super) struct Snapshots<S: StateMachine> {
    /// Finished ones, oldest first.
    kept: Vec<SnapshotHeader>,
    /// Files that are no snapshots of use: deleted with the next one made.
    useless: Vec<Index>,
    /// Not before this time.
    retry_at: Option<Micros>,
    making: Option<Making<S>>,
    restoring: Option<Restore<S>>,
    installing: Option<Installing<S>>,
    /// Steps of attempts that were given up, with their snapshot, still under way. A write among
    /// them must not find the file of a later attempt: that begins when they have ended.
    strays: Vec<(Index, Ticket)>,
    sending: Vec<Sending>,
    /// Where looking through them is, and the last that was found whole in this round.
    scrubbing: Option<Scrub>,
    scrubbed: Index,
    /// Refused by the node that it was brought to: it is looked through at once.
    suspected: Option<Index>,
    /// One of those kept turned out to be damaged, or another node needs one: it is made whatever
    /// the log has grown by.
    is_overdue: bool,
    pub counts: SnapshotCounts,
}

impl<S: StateMachine> Snapshots<S> {
    pub(super) fn new(kept: Vec<SnapshotHeader>, useless: Vec<Index>) -> Snapshots<S> {
        Snapshots {
            kept,
            useless,
            retry_at: None,
            making: None,
            restoring: None,
            installing: None,
            strays: Vec::new(),
            sending: Vec::new(),
            scrubbing: None,
            scrubbed: Index::ZERO,
            suspected: None,
            is_overdue: false,
            counts: SnapshotCounts::default(),
        }
    }

    /// The newest whose end the log holds: up to there it is committed.
    pub(super) fn held_by(&self, log: &Log) -> Option<&SnapshotHeader> {
        let held = |kept: &&SnapshotHeader| log.chain_at(kept.end.id.index) == Some(kept.end.chain);
        self.kept.iter().rfind(held)
    }

    /// The highest term that a snapshot ends in.
    pub(super) fn term(&self) -> Term {
        self.kept.iter().map(|kept| kept.end.id.term).max().unwrap_or_default()
    }

    /// The machine is being restored: nothing can be applied to it.
    pub(super) fn is_restoring(&self) -> bool {
        self.restoring.is_some()
    }

    /// One is being written out.
    pub(super) fn is_making(&self) -> bool {
        self.making.is_some()
    }

    /// The last entry of the newest finished snapshot; zero without one.
    pub(super) fn newest(&self) -> Index {
        self.kept.last().map_or(Index::ZERO, |newest| newest.end.id.index)
    }

    /// One is made as soon as it can be, whatever the log has grown by.
    pub(super) fn want_one(&mut self) {
        self.is_overdue = true;
    }

    /// A chunk could be written out at once.
    pub(super) fn is_hungry(&self) -> bool {
        self.making
            .as_ref()
            .is_some_and(|making| making.stage == Stage::Chunks && making.writes.len() < WRITES_MAX)
    }

    /// When there is something to do even if nothing happens.
    pub(super) fn deadline(&self) -> Option<Micros> {
        let patience = self.sending.iter().filter_map(Sending::deadline).min();
        let installing = self.installing.as_ref().map(Installing::deadline);
        [self.retry_at, patience, installing].into_iter().flatten().min()
    }
}

/// How often what happened, since this replica began.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SnapshotCounts {
    /// Own snapshots finished.
    pub made: u64,
    /// Machines restored from a snapshot on this disk.
    pub restored: u64,
    /// Snapshots that another node brought, in force here.
    pub installed: u64,
    /// Snapshots on this disk found to be damaged.
    pub damaged: u64,
}

/// A snapshot of this replica's own on its way to the disk.
struct Making<S: StateMachine> {
    frozen: Option<FrozenMachine<S>>,
    maker: SnapshotMaker,
    stage: Stage,
    /// Writes under way.
    writes: Vec<Ticket>,
    chunk: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// The file is being begun.
    Begin(Ticket),
    /// Chunks follow.
    Chunks,
    /// The last chunks, then the header, are being written.
    Ending,
    /// All is written. The name comes when the own log is durable up to the end.
    Written,
    /// It is getting its name.
    Publish(Ticket),
}

impl<S: StateMachine> Making<S> {
    fn end(&self) -> BatchEnd {
        self.maker.header().end
    }
}

/// What another node knows a snapshot by.
fn id_of(header: &SnapshotHeader) -> SnapshotId {
    SnapshotId { end: header.end.id, chain: header.end.chain, digest: header.digest }
}

impl<S: StateMachine> Replica<S> {
    /// What is due about snapshots at the end of a turn.
    pub(super) fn flush_snapshots(&mut self, now: Micros, host: &mut dyn Host) {
        self.begin_snapshot(now, host);
        self.write_chunk(now, host);
        self.publish_when_durable();
        self.send_pieces(now);
        self.give_up_install(now, host);
    }

    /// Freezes the machine if enough has been applied since the last time. Counted are the bytes on
    /// disk: it is they that fill it, and that a restart reads.
    fn begin_snapshot(&mut self, now: Micros, host: &mut dyn Host) {
        let snapshots = &mut self.snapshots;
        if snapshots.retry_at.is_some_and(|at| at <= now) {
            snapshots.retry_at = None;
        }
        let busy = snapshots.making.is_some()
            || snapshots.restoring.is_some()
            || snapshots.installing.is_some()
            || snapshots.retry_at.is_some()
            || !snapshots.strays.is_empty()
            // What a panic left behind is no state to keep.
            || self.halted.is_some();
        let mut applied = self.machine.applied();
        if breaks::SNAPSHOT_ABOVE_APPLIED.on() {
            applied = self.log.last().index;
        }
        // A membership may be committed that is not applied yet: its turn comes.
        if busy || applied <= snapshots.newest() || !self.members.reaches(applied) {
            return;
        }
        let behind = self.log.disk_bytes(self.snapshots.newest(), applied);
        if behind < self.snapshot_due_at() && !self.snapshots.is_overdue {
            return;
        }
        let (Some(term), Some(chain)) = (self.log.term_at(applied), self.log.chain_at(applied))
        else {
            return;
        };
        let header = SnapshotHeader {
            cluster: self.config.cluster,
            group: self.config.group,
            end: BatchEnd { id: EntryId::new(term, applied), chain },
            log_time: self.machine.time().0,
            meta: self.members.encode_at(applied),
            ..SnapshotHeader::default()
        };
        tracing::debug!(group = self.config.group.0, %applied, "snapshot begun");
        let frozen = match self.machine.freeze_or_halt() {
            Ok(frozen) => frozen,
            Err(halted) => return self.halt(halted, host),
        };
        #[cfg(feature = "breaks")]
        let frozen = frozen.relabelled(applied);
        let ticket = self.log.snapshot_step(applied, SnapshotStep::Begin);
        self.snapshots.is_overdue = false;
        self.snapshots.making = Some(Making {
            frozen: Some(frozen),
            maker: SnapshotMaker::new(header),
            stage: Stage::Begin(ticket),
            writes: Vec::new(),
            chunk: Vec::new(),
        });
    }

    /// Bytes of log behind the newest snapshot, as they lie on disk, at which the next is due: as
    /// many as the state has, so that writing states out costs no more than writing the log did. Up
    /// to half as many more, by this node's place among the voters: all count the same log, and all
    /// would be slow at once.
    fn snapshot_due_at(&self) -> u64 {
        let after = self.config.snapshot_after;
        let due = self.snapshots.kept.last().map_or(after, |newest| after.max(newest.length));
        let voters = self.raft.configuration().voters();
        let place = voters.iter().position(|&voter| voter == self.config.raft.id);
        let place = place.unwrap_or(voters.len()) as u64;
        due + due / 2 * place / voters.len().max(1) as u64
    }

    /// Writes one chunk out, if the disk has taken the ones before.
    fn write_chunk(&mut self, now: Micros, host: &mut dyn Host) {
        let Some(making) = &mut self.snapshots.making else { return };
        if making.stage != Stage::Chunks || making.writes.len() >= WRITES_MAX {
            return;
        }
        let Some(frozen) = &mut making.frozen else { return };
        making.chunk.clear();
        let max = self.config.snapshot_chunk;
        let more = match self.machine.chunk_or_halt(frozen, max, &mut making.chunk) {
            Ok(more) => more,
            Err(halted) => {
                self.abandon_snapshot(now, None, host);
                return self.halt(halted, host);
            }
        };
        let (offset, piece) = making.maker.chunk(&making.chunk);
        let index = making.end().id.index;
        let step = SnapshotStep::Write { offset, data: Arc::new(piece) };
        making.writes.push(self.log.snapshot_step(index, step));
        if !more {
            making.stage = Stage::Ending;
            let step =
                SnapshotStep::Write { offset: 0, data: Arc::new(making.maker.header().encode()) };
            making.writes.push(self.log.snapshot_step(index, step));
        }
    }

    /// A snapshot must not stand for entries that this disk may still lose.
    fn publish_when_durable(&mut self) {
        let Some(making) = &mut self.snapshots.making else { return };
        let index = making.end().id.index;
        if making.stage == Stage::Written && self.log.durable() >= index {
            let ticket = self.log.snapshot_step(index, SnapshotStep::Publish);
            making.stage = Stage::Publish(ticket);
        }
    }

    /// A step on a snapshot's file has ended.
    pub(super) fn on_snapshot_step(
        &mut self,
        now: Micros,
        ticket: Ticket,
        result: Result<Option<Buffer>, DiskError>,
        host: &mut dyn Host,
    ) {
        if let Some(at) = self.snapshots.strays.iter().position(|&(_, stray)| stray == ticket) {
            self.snapshots.strays.swap_remove(at);
            return;
        }
        let result = match self.on_scrubbed(ticket, result) {
            Some(result) => result,
            None => return,
        };
        let result = match self.on_making(now, ticket, result, host) {
            Some(result) => result,
            None => return,
        };
        let result = match self.on_restoring(now, ticket, result, host) {
            Some(result) => result,
            None => return,
        };
        let result = match self.on_installing(now, ticket, result, host) {
            Some(result) => result,
            None => return,
        };
        self.on_sending(now, ticket, result, host);
    }

    /// If that was a step of the own snapshot, goes on; else gives the result back.
    fn on_making(
        &mut self,
        now: Micros,
        ticket: Ticket,
        result: Result<Option<Buffer>, DiskError>,
        host: &mut dyn Host,
    ) -> Option<Result<Option<Buffer>, DiskError>> {
        let Some(making) = &mut self.snapshots.making else { return Some(result) };
        let write = making.writes.iter().position(|&write| write == ticket);
        let other = [Stage::Begin(ticket), Stage::Publish(ticket)].contains(&making.stage);
        if write.is_none() && !other {
            return Some(result);
        }
        if let Some(write) = write {
            making.writes.swap_remove(write);
        }
        if let Err(error) = result {
            self.abandon_snapshot(now, Some(error), host);
            self.snapshots.strays.retain(|&(_, stray)| stray != ticket);
            return None;
        }
        match making.stage {
            Stage::Begin(_) => making.stage = Stage::Chunks,
            Stage::Ending if making.writes.is_empty() => making.stage = Stage::Written,
            Stage::Publish(_) => self.snapshot_made(now, host),
            Stage::Chunks | Stage::Ending | Stage::Written => {}
        }
        None
    }

    /// Gives the own snapshot up: for an error, or because another one is more urgent.
    pub(super) fn abandon_snapshot(
        &mut self,
        now: Micros,
        error: Option<DiskError>,
        host: &mut dyn Host,
    ) {
        let Some(making) = self.snapshots.making.take() else { return };
        let index = making.end().id.index;
        if let Some(error) = error {
            tracing::warn!(group = self.config.group.0, %index, %error,
                "the snapshot could not be written; it is tried again");
            self.snapshots.retry_at = Some(now.after(RETRY));
        }
        let discard = self.log.snapshot_step(index, SnapshotStep::Discard);
        let stage = match making.stage {
            Stage::Begin(ticket) | Stage::Publish(ticket) => Some(ticket),
            Stage::Chunks | Stage::Ending | Stage::Written => None,
        };
        let left = making.writes.into_iter().chain(stage).chain([discard]);
        self.snapshots.strays.extend(left.map(|ticket| (index, ticket)));
        host.dispose(Box::new(making.frozen));
    }

    /// The own snapshot has its name.
    fn snapshot_made(&mut self, now: Micros, host: &mut dyn Host) {
        let Some(making) = self.snapshots.making.take() else { return };
        let header = making.maker.header().clone();
        let (index, bytes) = (header.end.id.index, header.length);
        tracing::info!(group = self.config.group.0, %index, bytes, "snapshot made");
        host.dispose(Box::new(making.frozen));
        self.snapshots.counts.made += 1;
        self.snapshots.kept.push(header);
        self.give_up_slow_ones();
        self.forget_old_snapshots();
        self.truncate_log(now);
    }

    /// Deletes what is older than the kept ones and is not being sent.
    fn forget_old_snapshots(&mut self) {
        let snapshots = &mut self.snapshots;
        for index in std::mem::take(&mut snapshots.useless) {
            if snapshots.kept.iter().all(|kept| kept.end.id.index != index) {
                self.log.snapshot_step(index, SnapshotStep::Remove);
            }
        }
        for at in (0..snapshots.kept.len().saturating_sub(KEPT)).rev() {
            let old = snapshots.kept[at].end.id.index;
            if snapshots.sending.iter().all(|sending| sending.index() != old) {
                self.log.snapshot_step(old, SnapshotStep::Remove);
                snapshots.kept.remove(at);
            }
        }
    }

    /// Lets go of the log up to the older of the two newest snapshots.
    fn truncate_log(&mut self, now: Micros) {
        let kept = &self.snapshots.kept;
        let Some(older) = kept.len().checked_sub(KEPT).map(|at| kept[at].end.id.index) else {
            return;
        };
        let needed = self.snapshots.sending.iter().map(Sending::index).min();
        let through = needed.map_or(older, |needed| needed.min(older));
        // As much as it lets go of now it grows by until the next snapshot.
        self.log.keep_spares(self.snapshot_due_at());
        if self.log.truncate_prefix(through).is_err() {
            return; // The log is poisoned: whoever finds that out next says so.
        }
        let base = self.log.start().id;
        if base.index > Index::ZERO {
            self.step(now, Input::Compacted { base });
        }
    }
}
