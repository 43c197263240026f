//! Looking through the snapshots on this disk for rot, a piece at a time: one that is damaged is
//! found while the other is still there, and another is made in its place. One that another node
//! has refused comes before all others, and without pauses.

use margay_log::Buffer;
use margay_log::disk::{DiskError, SnapshotStep};
use margay_log::id::{Index, Ticket};
use margay_log::snapshot::{SNAPSHOT_HEADER, SnapshotHeader, SnapshotReader};

use super::super::Replica;
use crate::machine::StateMachine;

/// Bytes looked at in one go: they come into memory that is cold or not there yet, and a turn in
/// which it was 1 MiB took up to 10 ms.
const PIECE: u64 = 256 << 10;

/// A snapshot that is being looked through.
pub(super) struct Scrub {
    reader: SnapshotReader,
    /// The header block has been read again, and is what it was.
    is_known: bool,
    read: Option<Ticket>,
}

impl Scrub {
    fn index(&self) -> Index {
        self.reader.header().end.id.index
    }

    /// Takes what was read. The error is for people.
    fn feed(&mut self, piece: &[u8]) -> Result<(), String> {
        if !self.is_known {
            let header = SnapshotHeader::decode(piece).map_err(|error| error.to_string())?;
            self.is_known = header == *self.reader.header();
            return if self.is_known { Ok(()) } else { Err("another header".to_owned()) };
        }
        self.reader.feed(piece);
        while self.reader.next_chunk().map_err(|error| error.to_string())?.is_some() {}
        let ends = self.reader.position() >= self.reader.header().length;
        let is_whole = !ends || self.reader.is_complete();
        if is_whole { Ok(()) } else { Err("the file ends too early".to_owned()) }
    }
}

impl<S: StateMachine> Replica<S> {
    /// One is kept that another node has refused.
    pub(in super::super) fn is_suspicious(&self) -> bool {
        let of = |kept: &SnapshotHeader| Some(kept.end.id.index) == self.snapshots.suspected;
        self.snapshots.kept.iter().any(of)
    }

    /// Begins to read the next piece, unless one is being read. `false`: all snapshots have been
    /// looked through.
    pub(in super::super) fn scrub_snapshots(&mut self) -> bool {
        let snapshots = &mut self.snapshots;
        if snapshots.scrubbing.is_none() {
            let after = snapshots.scrubbed;
            let of = |kept: &&SnapshotHeader| Some(kept.end.id.index) == snapshots.suspected;
            let next = snapshots.kept.iter().find(of);
            let next = next.or(snapshots.kept.iter().find(|kept| kept.end.id.index > after));
            let Some(header) = next.cloned() else {
                snapshots.scrubbed = Index::ZERO;
                return false;
            };
            let reader = SnapshotReader::new(header);
            snapshots.scrubbing = Some(Scrub { reader, is_known: false, read: None });
        }
        let Some(scrub) = snapshots.scrubbing.as_mut().filter(|scrub| scrub.read.is_none()) else {
            return true;
        };
        let (offset, length) = match scrub.is_known {
            false => (0, SNAPSHOT_HEADER as u64),
            true => {
                let position = scrub.reader.position();
                (position, PIECE.min(scrub.reader.header().length - position))
            }
        };
        let step = SnapshotStep::Read { offset, length: length as u32 };
        scrub.read = Some(self.log.snapshot_step(scrub.index(), step));
        true
    }

    /// If that was a piece that is being looked at, does so; else gives the result back.
    pub(super) fn on_scrubbed(
        &mut self,
        ticket: Ticket,
        result: Result<Option<Buffer>, DiskError>,
    ) -> Option<Result<Option<Buffer>, DiskError>> {
        let is_read = |scrub: &mut Scrub| scrub.read == Some(ticket);
        let Some(mut scrub) = self.snapshots.scrubbing.take_if(is_read) else {
            return Some(result);
        };
        scrub.read = None;
        let index = scrub.index();
        let looked = match result {
            Ok(piece) => scrub.feed(piece.as_deref().unwrap_or_default()),
            Err(error) => Err(error.to_string()),
        };
        let is_suspected = self.snapshots.suspected == Some(index);
        let is_kept = self.snapshots.kept.iter().any(|kept| kept == scrub.reader.header());
        match looked {
            // It has been deleted or replaced meanwhile.
            _ if !is_kept => {}
            Ok(()) if scrub.reader.position() < scrub.reader.header().length => {
                self.snapshots.scrubbing = Some(scrub);
            }
            Ok(()) if is_suspected => self.snapshots.suspected = None,
            Ok(()) => self.snapshots.scrubbed = index,
            Err(why) => {
                tracing::error!(group = self.config.group.0, %index, why,
                    "a snapshot at rest is damaged; another is made");
                self.snapshots.counts.damaged += 1;
                self.snapshots.kept.retain(|kept| kept.end.id.index != index);
                self.snapshots.useless.push(index);
                self.snapshots.is_overdue = true;
            }
        }
        None
    }
}
