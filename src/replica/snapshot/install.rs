//! Taking a snapshot that another node brings: written to this disk and restored as it comes, and
//! in force at once when the last of it is durable.
//!
//! Until then the replica is as it was: it goes on following, voting and answering what it may. A
//! piece that does not come next is answered with the place that does.

use std::sync::Arc;

use margay_log::Buffer;
use margay_log::disk::{DiskError, SnapshotStep};
use margay_log::id::{Micros, NodeId, Ticket};
use margay_log::snapshot::{SNAPSHOT_HEADER, SnapshotHeader};

use super::super::{Host, Replica};
use super::restore::Feeding;
use super::{RETRY, SnapshotId, id_of};
use crate::machine::StateMachine;
use crate::wire::snapshot::{SnapshotAck, SnapshotPiece, SnapshotState};

/// Without a piece for this long the attempt ends, and what has come is forgotten.
const SILENCE: Micros = Micros::from_millis(60_000);
/// With so many pieces on their way to the disk, no more are asked for: the network may be much
/// faster than the disk.
const BACKLOG: usize = 8;
/// With so many, one that comes all the same is dropped; the sender sends it again.
const BACKLOG_MAX: usize = 2 * BACKLOG;

/// A snapshot on its way from another node.
pub(super) struct Installing<S: StateMachine> {
    from: NodeId,
    feeding: Feeding<S>,
    /// The file is being begun. Until it is, pieces wait: a disk may end what it does in any order,
    /// and a file that is begun late would take the place of one that is written.
    begin: Option<Ticket>,
    waiting: Vec<SnapshotStep>,
    /// Writes under way.
    writes: Vec<Ticket>,
    /// The last piece is to be answered when the disk has caught up.
    owes_answer: bool,
    /// It is getting its name.
    publish: Option<Ticket>,
    heard: Micros,
}

impl<S: StateMachine> Installing<S> {
    fn header(&self) -> &SnapshotHeader {
        self.feeding.header()
    }

    /// Pieces on their way to the disk.
    fn backlog(&self) -> usize {
        self.waiting.len() + self.writes.len()
    }

    pub(super) fn deadline(&self) -> Micros {
        self.heard.after(SILENCE)
    }
}

impl<S: StateMachine> Replica<S> {
    /// A piece of a snapshot has come.
    pub(in super::super) fn on_snapshot_piece(
        &mut self,
        now: Micros,
        from: NodeId,
        piece: &SnapshotPiece<'_>,
        host: &mut dyn Host,
    ) {
        // The sender found the end committed in its term or before; a term that this node has not
        // heard of yet comes with the sender's next heartbeat.
        if piece.term > self.raft.term() {
            return;
        }
        if !self.needs(&piece.id) {
            return self.answer_piece(from, piece.id, 0, SnapshotState::Held, host);
        }
        if !self.is_installing(&piece.id) && !self.begin_install(now, from, piece, host) {
            return;
        }
        let Some(installing) = &mut self.snapshots.installing else { return };
        installing.heard = now;
        installing.from = from;
        let position = installing.feeding.position();
        // The first piece brings the header, which is known by now, and what follows it.
        let fresh = match piece.offset {
            0 if position == SNAPSHOT_HEADER as u64 => piece.bytes.get(SNAPSHOT_HEADER..),
            offset => (offset == position).then_some(piece.bytes),
        };
        let Some(fresh) = fresh.filter(|_| installing.publish.is_none()) else {
            return self.answer_piece(from, piece.id, position, SnapshotState::Wanted, host);
        };
        if installing.backlog() >= BACKLOG_MAX {
            return;
        }
        if let Err(why) = installing.feeding.feed(fresh) {
            tracing::error!(group = self.config.group.0, %from, why,
                "what came is no whole snapshot");
            self.abandon_install(host);
            self.snapshots.retry_at = Some(now.after(RETRY));
            return self.answer_piece(from, piece.id, 0, SnapshotState::Refused, host);
        }
        let mut data = Buffer::zeroed(piece.bytes.len());
        data.copy_from_slice(piece.bytes);
        let step = SnapshotStep::Write { offset: piece.offset, data: Arc::new(data) };
        installing.waiting.push(step);
        installing.owes_answer = true;
        self.write_pieces();
        self.answer_owed(host);
    }

    /// Says how far all of it has come, once the disk is not far behind.
    fn answer_owed(&mut self, host: &mut dyn Host) {
        let Some(installing) = &mut self.snapshots.installing else { return };
        if installing.owes_answer && installing.backlog() < BACKLOG {
            installing.owes_answer = false;
            let (from, id) = (installing.from, id_of(installing.header()));
            let position = installing.feeding.position();
            self.answer_piece(from, id, position, SnapshotState::Wanted, host);
        }
    }

    /// Whether the snapshot would bring this node forward.
    fn needs(&self, id: &SnapshotId) -> bool {
        let ahead = id.end.index > self.raft.commit() && id.end.index > self.machine.applied();
        let newer = self.snapshots.installing.as_ref().is_none_or(|installing| {
            installing.publish.is_none() && installing.header().end.id.index <= id.end.index
        });
        let lacking = id.end.index > self.machine.applied() && self.is_stuck();
        (ahead || lacking || self.lacks_state()) && newer && self.raft.may_install(id.end)
    }

    /// Neither a snapshot nor the log leads to where this node was.
    pub(in super::super) fn lacks_state(&self) -> bool {
        !self.snapshots.is_restoring() && self.machine.applied() < self.log.start().id.index
    }

    fn is_installing(&self, id: &SnapshotId) -> bool {
        let installing = self.snapshots.installing.as_ref();
        installing.is_some_and(|installing| id_of(installing.header()) == *id)
    }

    /// Begins anew with the first piece of a file; `false` where that is not what came, or it is too
    /// early to try again.
    fn begin_install(
        &mut self,
        now: Micros,
        from: NodeId,
        piece: &SnapshotPiece<'_>,
        host: &mut dyn Host,
    ) -> bool {
        if self.snapshots.retry_at.is_some_and(|at| now < at) {
            return false; // The sender tries again.
        }
        if piece.offset != 0 {
            self.answer_piece(from, piece.id, 0, SnapshotState::Wanted, host);
            return false;
        }
        let header = SnapshotHeader::decode(piece.bytes).ok().filter(|header| {
            header.cluster == self.config.cluster
                && header.group == self.config.group
                && header.length == piece.length
                && id_of(header) == piece.id
        });
        let Some(header) = header else {
            tracing::error!(group = self.config.group.0, %from, "what came is no snapshot of ours");
            self.answer_piece(from, piece.id, 0, SnapshotState::Refused, host);
            return false;
        };
        self.abandon_install(host);
        self.abandon_snapshot(now, None, host);
        let index = header.end.id.index;
        if self.snapshots.strays.iter().any(|&(of, _)| of == index) {
            return false; // The sender tries again.
        }
        tracing::info!(group = self.config.group.0, %from, %index, bytes = header.length,
            "a snapshot is being brought");
        let begin = self.log.snapshot_step(index, SnapshotStep::Begin);
        self.snapshots.installing = Some(Installing {
            from,
            feeding: Feeding::new(header),
            begin: Some(begin),
            waiting: Vec::new(),
            writes: Vec::new(),
            owes_answer: false,
            publish: None,
            heard: now,
        });
        true
    }

    /// Writes what has come, if there is a file to write it to.
    fn write_pieces(&mut self) {
        let Some(installing) = &mut self.snapshots.installing else { return };
        if installing.begin.is_none() {
            let index = installing.header().end.id.index;
            for step in installing.waiting.drain(..) {
                installing.writes.push(self.log.snapshot_step(index, step));
            }
        }
    }

    /// If that was a step of what is being installed, goes on; else gives the result back.
    pub(super) fn on_installing(
        &mut self,
        now: Micros,
        ticket: Ticket,
        result: Result<Option<Buffer>, DiskError>,
        host: &mut dyn Host,
    ) -> Option<Result<Option<Buffer>, DiskError>> {
        let Some(installing) = &mut self.snapshots.installing else { return Some(result) };
        let write = installing.writes.iter().position(|&write| write == ticket);
        let begun = installing.begin == Some(ticket);
        if write.is_none() && !begun && installing.publish != Some(ticket) {
            return Some(result);
        }
        if let Err(error) = result {
            tracing::warn!(group = self.config.group.0, %error,
                "the snapshot that is being brought cannot be written");
            let (from, id) = (installing.from, id_of(installing.header()));
            self.abandon_install(host);
            self.snapshots.strays.retain(|&(_, stray)| stray != ticket);
            self.snapshots.retry_at = Some(now.after(RETRY));
            // All that was taken is gone with it: the sender, who may have sent everything, would
            // wait for long.
            self.answer_piece(from, id, 0, SnapshotState::Wanted, host);
            return None;
        }
        if begun {
            installing.begin = None;
            self.write_pieces();
        } else if let Some(write) = write {
            installing.writes.swap_remove(write);
            let index = installing.header().end.id.index;
            if installing.writes.is_empty() && installing.feeding.is_complete() {
                let publish = self.log.snapshot_step(index, SnapshotStep::Publish);
                installing.publish = Some(publish);
            }
            self.answer_owed(host);
        } else {
            self.installed(now, host);
        }
        None
    }

    /// All of it is durable under its name: it is in force, unless the log has led as far since.
    fn installed(&mut self, now: Micros, host: &mut dyn Host) {
        let Some(installing) = self.snapshots.installing.take() else { return };
        let Installing { from, feeding, .. } = installing;
        let header = feeding.header().clone();
        let (id, index) = (id_of(&header), header.end.id.index);
        let machine = match feeding.finish() {
            Ok(machine) => machine,
            Err(why) => {
                tracing::error!(group = self.config.group.0, %from, %index, why,
                    "the snapshot that was brought does not restore");
                self.snapshots.useless.push(index);
                self.snapshots.retry_at = Some(now.after(RETRY));
                return self.answer_piece(from, id, 0, SnapshotState::Refused, host);
            }
        };
        let is_late = self.machine.applied() >= index;
        if is_late {
            host.dispose(Box::new(machine));
            tracing::info!(group = self.config.group.0, %from, %index, "the snapshot comes late");
        } else if self.take_over(now, &header, machine, host) {
            self.note_applied(now, host);
            self.snapshots.counts.installed += 1;
            tracing::info!(group = self.config.group.0, %from, %index, "the snapshot is installed");
            self.forget_all_snapshots();
        }
        // What this log does not hold the end of must not be found by the next start.
        if self.log.chain_at(index) != Some(header.end.chain) {
            self.log.snapshot_step(index, SnapshotStep::Remove);
            return self.answer_piece(from, id, 0, SnapshotState::Refused, host);
        }
        self.snapshots.kept.push(header);
        self.forget_old_snapshots();
        self.answer_piece(from, id, 0, SnapshotState::Held, host);
    }

    /// None of those there are is of use behind the one that has been taken.
    fn forget_all_snapshots(&mut self) {
        let older = std::mem::take(&mut self.snapshots.kept);
        for old in older.iter().map(|old| old.end.id.index) {
            if self.snapshots.sending.iter().all(|sending| sending.index() != old) {
                self.snapshots.useless.push(old);
            }
        }
    }

    /// The sender has fallen silent.
    pub(super) fn give_up_install(&mut self, now: Micros, host: &mut dyn Host) {
        let silent = |installing: &Installing<S>| {
            installing.publish.is_none() && now >= installing.deadline()
        };
        if self.snapshots.installing.as_ref().is_some_and(silent) {
            self.abandon_install(host);
        }
    }

    fn abandon_install(&mut self, host: &mut dyn Host) {
        let Some(installing) = self.snapshots.installing.take() else { return };
        let index = installing.header().end.id.index;
        let discard = self.log.snapshot_step(index, SnapshotStep::Discard);
        let steps = installing.begin.into_iter().chain(installing.writes);
        let left = steps.chain(installing.publish).chain([discard]);
        self.snapshots.strays.extend(left.map(|ticket| (index, ticket)));
        host.dispose(Box::new(installing.feeding));
    }

    fn answer_piece(
        &mut self,
        to: NodeId,
        id: SnapshotId,
        offset: u64,
        state: SnapshotState,
        host: &mut dyn Host,
    ) {
        let term = self.raft.term();
        self.frame.clear();
        SnapshotAck { term, id, offset, state }.encode(&mut self.frame);
        host.peer(to, &self.frame, None);
    }
}
