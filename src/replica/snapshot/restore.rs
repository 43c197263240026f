//! Restoring the machine from a snapshot on this disk, between turns: after a restart, when the
//! log alone does not lead to where it was, or would take longer.
//!
//! One that turns out to be damaged is passed over for the next older one, and at last for the
//! whole log. Nothing is deleted for that.

use margay_log::Buffer;
use margay_log::breaks;
use margay_log::disk::{DiskError, SnapshotStep};
use margay_log::id::{Micros, Ticket};
use margay_log::snapshot::{SnapshotHeader, SnapshotReader};

use super::super::memberships::Memberships;
use super::super::{Host, Replica};
use crate::machine::{Machine, RestoringMachine, StateMachine};
use crate::raft::message::Input;

/// Bytes read and restored at a time.
const PIECE: u64 = 128 << 10;

/// A machine being restored from a file.
pub(super) struct Restore<S: StateMachine> {
    pub(super) feeding: Feeding<S>,
    /// The read under way.
    read: Ticket,
}

/// A snapshot's bytes on their way into a machine.
pub(super) struct Feeding<S: StateMachine> {
    reader: SnapshotReader,
    machine: RestoringMachine<S>,
}

impl<S: StateMachine> Feeding<S> {
    pub(super) fn new(header: SnapshotHeader) -> Feeding<S> {
        Feeding { reader: SnapshotReader::new(header), machine: Machine::restore() }
    }

    pub(super) fn header(&self) -> &SnapshotHeader {
        self.reader.header()
    }

    /// Where the next piece begins in the file.
    pub(super) fn position(&self) -> u64 {
        self.reader.position()
    }

    /// Takes the next piece of the file, behind its header block. The error is for people.
    pub(super) fn feed(&mut self, piece: &[u8]) -> Result<(), String> {
        self.reader.feed(piece);
        while let Some(chunk) = self.reader.next_chunk().map_err(|error| error.to_string())? {
            self.machine.try_feed(chunk)?;
        }
        Ok(())
    }

    /// All of it has come.
    pub(super) fn is_complete(&self) -> bool {
        self.reader.is_complete()
    }

    /// The machine. The error is for people.
    pub(super) fn finish(self) -> Result<Machine<S>, String> {
        if !self.reader.is_complete() {
            return Err("the file ends too early".to_owned());
        }
        let end = self.reader.header().end.id.index;
        let machine = self.machine.try_finish()?;
        if machine.applied() == end {
            Ok(machine)
        } else {
            Err(format!("it holds the state at {}, not at {end}", machine.applied()))
        }
    }
}

impl<S: StateMachine> Replica<S> {
    /// Begins to restore the newest snapshot that is of use: one that the log goes on from.
    pub(in super::super) fn begin_restore(&mut self) {
        let start = self.log.start().id.index;
        let applied = self.machine.applied();
        let fits = |header: &&SnapshotHeader| {
            header.end.id.index >= start && header.end.id.index > applied
        };
        let Some(header) = self.snapshots.kept.iter().rev().find(fits).cloned() else { return };
        tracing::info!(group = self.config.group.0, index = %header.end.id.index,
            bytes = header.length, "restoring a snapshot");
        let feeding = Feeding::new(header);
        self.snapshots.restoring = self.read_next(feeding);
    }

    fn read_next(&mut self, feeding: Feeding<S>) -> Option<Restore<S>> {
        let header = feeding.header();
        let (index, offset) = (header.end.id.index, feeding.position());
        let length = PIECE.min(header.length - offset) as u32;
        let read = self.log.snapshot_step(index, SnapshotStep::Read { offset, length });
        Some(Restore { feeding, read })
    }

    /// If that was a piece of the snapshot being restored, takes it; else gives the result back.
    pub(super) fn on_restoring(
        &mut self,
        now: Micros,
        ticket: Ticket,
        result: Result<Option<Buffer>, DiskError>,
        host: &mut dyn Host,
    ) -> Option<Result<Option<Buffer>, DiskError>> {
        let Some(restore) = self.snapshots.restoring.take_if(|restore| restore.read == ticket)
        else {
            return Some(result);
        };
        let mut feeding = restore.feeding;
        let header = feeding.header().clone();
        let fed = match result {
            Ok(piece) => feeding.feed(piece.as_deref().unwrap_or_default()),
            Err(error) => Err(error.to_string()),
        };
        let ended = match fed {
            Ok(()) if feeding.position() < header.length => {
                self.snapshots.restoring = self.read_next(feeding);
                return None;
            }
            Ok(()) => feeding.finish(),
            Err(why) => {
                host.dispose(Box::new(feeding.machine));
                Err(why)
            }
        };
        match ended {
            Ok(machine) => {
                let is_taken = self.take_over(now, &header, machine, host);
                self.snapshots.counts.restored += u64::from(is_taken);
            }
            Err(why) => {
                let index = header.end.id.index;
                tracing::error!(group = self.config.group.0, %index, why,
                    "the snapshot is damaged; going back to what is older");
                self.snapshots.counts.damaged += 1;
                self.snapshots.kept.retain(|kept| kept.end != header.end);
                self.snapshots.useless.push(index);
                self.begin_restore();
            }
        }
        None
    }

    /// A whole machine is here, and durable as a snapshot: it takes the place of the one
    /// there is, and of the log where that does not lead there. Whether it could.
    pub(super) fn take_over(
        &mut self,
        now: Micros,
        header: &SnapshotHeader,
        machine: Machine<S>,
        host: &mut dyn Host,
    ) -> bool {
        let end = header.end;
        let members = Memberships::decode(&header.meta);
        let holds =
            self.log.chain_at(end.id.index) == Some(end.chain) && !breaks::SNAPSHOT_CUTS_TAIL.on();
        let may = self.raft.may_install(end.id);
        let (Ok((at, members)), true) = (members, may && (holds || self.log.reset(end).is_ok()))
        else {
            // Only a broken peer, or a log that has stopped, brings us here.
            tracing::error!(group = self.config.group.0, %end.id,
                "the snapshot contradicts the log");
            host.dispose(Box::new(machine));
            return false;
        };
        let before = self.machine.applied();
        let old = std::mem::replace(&mut self.machine, machine);
        host.dispose(Box::new(old));
        (self.apply_fetch, self.started) = (None, None);
        // One that is brought may come before an older one has been read here.
        let overtaken =
            |restore: &mut Restore<S>| restore.feeding.header().end.id.index <= end.id.index;
        if let Some(overtaken) = self.snapshots.restoring.take_if(overtaken) {
            host.dispose(Box::new(overtaken.feeding.machine));
        }
        let configuration = (at, members.configuration());
        if holds {
            // The log may lack the batch that says so.
            self.insert_members(at, members);
        } else {
            self.members = Memberships::new(at, members);
            self.members_news = true;
        }
        self.step(now, Input::Installed { end: end.id, configuration });
        assert_eq!(self.raft.last(), self.log.last());
        self.send_missed_to_all(before, host);
        self.run_outputs(now, host);
        true
    }
}
