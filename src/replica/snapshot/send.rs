//! Bringing a snapshot to a node that needs it: its file, piece by piece, as it lies on this disk.
//!
//! A few pieces are on their way at a time. Each answer says how far the receiver has come, and
//! that is where the next one begins: a lost piece, a broken connection or a new leader costs what
//! was on its way, not what has arrived. Equal states make equal files, so another node with the
//! same snapshot goes on where this one stopped.

use margay_log::Buffer;
use margay_log::disk::{DiskError, SnapshotStep};
use margay_log::id::{Index, Micros, NodeId, Ticket};
use margay_log::snapshot::SnapshotHeader;

use super::super::{Host, Replica};
use super::id_of;
use crate::machine::StateMachine;
use crate::wire::snapshot::{SnapshotAck, SnapshotPiece, SnapshotState};

/// Bytes of a piece: small, so that heartbeats and appends find their way in between.
const PIECE: u64 = 64 << 10;
/// Bytes on their way and not answered, at most.
const WINDOW: u64 = 4 * PIECE;
/// Without an answer for this long, what is on its way is taken for lost.
const PATIENCE: Micros = Micros::from_millis(500);
/// Without getting further for this long the attempt ends; the next heartbeat may begin another. A
/// receiver that has no space for it answers, too.
const SILENCE: Micros = Micros::from_millis(10_000);
/// Bytes of log kept for whoever is being brought a snapshot, at most, in times of what makes one
/// due. Who needs longer would not catch up with a log that grows so fast.
const LOG_MAX: u64 = 8;

/// A snapshot on its way to another node.
pub(super) struct Sending {
    to: NodeId,
    header: SnapshotHeader,
    /// The receiver has everything before this.
    acked: u64,
    /// Everything before this was sent.
    sent: u64,
    /// The read under way, and from where.
    read: Option<(Ticket, u64)>,
    /// The furthest it has been, and since when.
    furthest: u64,
    furthest_since: Micros,
    /// Since when what is sent is unanswered.
    waits_since: Micros,
}

impl Sending {
    pub(super) fn index(&self) -> Index {
        self.header.end.id.index
    }

    pub(super) fn deadline(&self) -> Option<Micros> {
        let lapses = self.furthest_since.after(SILENCE);
        let waits = self.sent > self.acked && self.read.is_none();
        Some(if waits { lapses.min(self.waits_since.after(PATIENCE)) } else { lapses })
    }
}

impl<S: StateMachine> Replica<S> {
    /// The core says, again and again, that a follower cannot go on without a snapshot.
    pub(in super::super) fn on_needs_snapshot(&mut self, now: Micros, to: NodeId) {
        if self.snapshots.sending.iter().any(|sending| sending.to == to) {
            return;
        }
        let start = self.log.start().id.index;
        let newest = self.snapshots.kept.last().filter(|newest| newest.end.id.index >= start);
        let Some(header) = newest.cloned() else {
            tracing::warn!(group = self.config.group.0, %to,
                "no snapshot to bring to this follower");
            return;
        };
        tracing::info!(group = self.config.group.0, %to, index = %header.end.id.index,
            bytes = header.length, "bringing a snapshot");
        self.snapshots.sending.push(Sending {
            to,
            header,
            acked: 0,
            sent: 0,
            read: None,
            furthest: 0,
            furthest_since: now,
            waits_since: now,
        });
    }

    /// Gives up who takes so long that the log kept for it would fill this disk in the end.
    pub(super) fn give_up_slow_ones(&mut self) {
        let (applied, max) = (self.machine.applied(), LOG_MAX * self.snapshot_due_at());
        let log = &self.log;
        self.snapshots.sending.retain(|sending| log.disk_bytes(sending.index(), applied) <= max);
    }

    /// Begins the reads that are due, and gives up who gets no further.
    pub(super) fn send_pieces(&mut self, now: Micros) {
        let before = self.snapshots.sending.len();
        let sending = &mut self.snapshots.sending;
        sending.retain(|sending| now < sending.furthest_since.after(SILENCE));
        for sending in &mut self.snapshots.sending {
            let waits = sending.sent > sending.acked && sending.read.is_none();
            if waits && now >= sending.waits_since.after(PATIENCE) {
                sending.sent = sending.acked;
            }
            let window = sending.sent - sending.acked < WINDOW;
            if sending.read.is_none() && window && sending.sent < sending.header.length {
                let length = PIECE.min(sending.header.length - sending.sent) as u32;
                let step = SnapshotStep::Read { offset: sending.sent, length };
                let ticket = self.log.snapshot_step(sending.index(), step);
                sending.read = Some((ticket, sending.sent));
            }
        }
        if self.snapshots.sending.len() < before {
            self.forget_old_snapshots();
        }
    }

    /// A piece has been read: it is sent.
    pub(super) fn on_sending(
        &mut self,
        now: Micros,
        ticket: Ticket,
        result: Result<Option<Buffer>, DiskError>,
        host: &mut dyn Host,
    ) {
        let of = |sending: &Sending| sending.read.is_some_and(|(read, _)| read == ticket);
        let Some(at) = self.snapshots.sending.iter().position(of) else { return };
        let sending = &mut self.snapshots.sending[at];
        let Some((_, offset)) = sending.read.take() else { return };
        let bytes = match result {
            Ok(bytes) => bytes.unwrap_or_else(|| Buffer::zeroed(0)),
            Err(error) => {
                let index = sending.index();
                tracing::error!(group = self.config.group.0, %index, %error,
                    "a snapshot cannot be read");
                self.snapshots.sending.swap_remove(at);
                return;
            }
        };
        if offset != sending.sent {
            // Meanwhile the receiver has said that it wants another: that one is read next.
            return;
        }
        if sending.sent == sending.acked {
            sending.waits_since = now;
        }
        let piece = SnapshotPiece {
            term: self.raft.term(),
            id: id_of(&sending.header),
            length: sending.header.length,
            offset,
            bytes: &bytes,
        };
        self.frame.clear();
        piece.encode(&mut self.frame);
        sending.sent += bytes.len() as u64;
        host.peer(sending.to, &self.frame, None);
    }

    /// The receiver says how far it has come.
    pub(in super::super) fn on_snapshot_ack(
        &mut self,
        now: Micros,
        from: NodeId,
        ack: SnapshotAck,
    ) {
        let of = |sending: &Sending| sending.to == from && id_of(&sending.header) == ack.id;
        let Some(at) = self.snapshots.sending.iter().position(of) else { return };
        let sending = &mut self.snapshots.sending[at];
        match ack.state {
            SnapshotState::Wanted if ack.offset <= sending.header.length => {
                if ack.offset > sending.furthest {
                    (sending.furthest, sending.furthest_since) = (ack.offset, now);
                }
                if ack.offset != sending.acked {
                    sending.waits_since = now;
                }
                // A late answer names less than an earlier one; one that has begun anew, too.
                let anew = ack.offset < sending.acked && ack.offset == 0;
                if ack.offset > sending.acked || anew {
                    sending.acked = ack.offset;
                }
                if anew || ack.offset > sending.sent {
                    sending.sent = ack.offset;
                }
            }
            SnapshotState::Wanted => {}
            SnapshotState::Held | SnapshotState::Refused => {
                if ack.state == SnapshotState::Refused {
                    let index = sending.index();
                    tracing::warn!(group = self.config.group.0, to = %from, %index,
                        "the snapshot was refused; it is looked through");
                    self.snapshots.suspected = Some(index);
                }
                self.snapshots.sending.swap_remove(at);
                self.forget_old_snapshots();
            }
        }
    }
}
