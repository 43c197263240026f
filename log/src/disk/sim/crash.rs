//! What a crash leaves: of each operation under way nothing, all, or, when the power goes, any of
//! its sectors; and names that were removed, as long as the directory was not synced.

use std::collections::BTreeMap;

use super::SimDisk;
use super::file::File;
use crate::disk::{Op, SnapshotStep};
use crate::hard_state::PAIR_BYTES;
use crate::id::SegmentNumber;
use crate::rng::Rng;

/// What an operation under way comes to when the power goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Dropped,
    Whole,
    Torn,
}

impl SimDisk {
    /// The power goes: each operation under way is dropped, whole, or any subset of its sectors.
    /// What was done stays; what waits to be polled is forgotten. Faults are switched off.
    pub fn power_cut(&mut self, rng: &mut Rng) {
        for op in std::mem::take(&mut self.in_flight) {
            let fate = [Fate::Dropped, Fate::Whole, Fate::Torn][rng.below(3) as usize];
            self.resolve(op, fate, rng);
        }
        for (segment, file) in self.removed.iter_mut().flat_map(std::mem::take) {
            if !self.segments.contains_key(&segment) && rng.chance(1, 2) {
                self.segments.insert(segment, file);
                self.back += 1;
            }
        }
        self.restart();
    }

    /// The process is killed, the machine goes on: each operation under way is dropped or whole.
    pub fn kill(&mut self, rng: &mut Rng) {
        for op in std::mem::take(&mut self.in_flight) {
            let fate = if rng.chance(1, 2) { Fate::Whole } else { Fate::Dropped };
            self.resolve(op, fate, rng);
        }
        self.restart();
    }

    /// Forgets what is under way, and returns it: it may still [`SimDisk::land`].
    pub fn abandon(&mut self) -> Vec<Op> {
        self.in_flight.drain(..).collect()
    }

    /// An operation that was abandoned reaches the disk after all.
    pub fn land(&mut self, op: Op, rng: &mut Rng) {
        self.resolve(op, Fate::Whole, rng);
    }

    /// From now on a power cut may bring back the file of a segment that was removed or set aside,
    /// until a directory that has changed otherwise is synced: nobody waits for a name to be gone.
    pub fn bring_back_removed(&mut self) {
        self.removed.get_or_insert_default();
    }

    /// How many segments came back.
    #[must_use]
    pub fn back(&self) -> u64 {
        self.back
    }

    /// Names that are gone are so for certain, if the directory was synced.
    pub(super) fn sync_directory_if(&mut self, is_synced: bool) {
        if is_synced {
            self.removed.iter_mut().for_each(BTreeMap::clear);
        }
    }

    pub(super) fn note_removed(&mut self, segment: SegmentNumber, file: &File) {
        if let Some(removed) = &mut self.removed {
            removed.insert(segment, file.clone());
        }
    }

    /// What is left of an operation that did not complete.
    fn resolve(&mut self, op: Op, fate: Fate, rng: &mut Rng) {
        if fate == Fate::Dropped {
            return;
        }
        let mut lands = || fate == Fate::Whole || rng.chance(1, 2);
        match op {
            Op::Write { segment, offset, data, .. } | Op::Mend { segment, offset, data, .. } => {
                if let Some(file) = self.segments.get_mut(&segment) {
                    file.write(offset, &data, lands);
                }
            }
            Op::HardState { pair, data, .. } => {
                if let Some(file) = &mut self.hard_state {
                    file.write(u64::from(pair) * PAIR_BYTES as u64, &data, lands);
                }
            }
            // A segment has its name only when all of it is durable; deletion happens or does not.
            Op::Prepare { segment, size, header, spare: None } => {
                let is_new = !self.segments.contains_key(&segment);
                if lands() && is_new && self.fail_prepare.is_none() {
                    let _ = self.make(segment, size, &header);
                }
            }
            // Neither of a spare's two renamings need be durable: it may be what it was, but for
            // its header.
            Op::Prepare { segment, size, header, spare: Some(spare) } => {
                let Some(mut file) = self.spares.remove(&spare) else { return };
                let is_new = !self.segments.contains_key(&segment);
                if lands() && is_new && self.fail_prepare.is_none() {
                    let _ = self.reuse(file, segment, size, &header);
                    self.removed.iter_mut().for_each(|removed| _ = removed.remove(&spare));
                } else if fate == Fate::Torn && !self.segments.contains_key(&spare) {
                    file.write(0, &header, || true);
                    self.segments.insert(spare, file);
                }
            }
            Op::Retire { segment, keep } => {
                if lands() {
                    self.retire(segment, keep);
                }
            }
            // A rename replaces a file or does not.
            Op::Rewrite { segment, data } => {
                if lands() && self.fail_prepare.is_none() {
                    let _ = self.replace(segment, &data);
                }
            }
            // Until it is published a snapshot is a temporary file, which opening removes.
            Op::Snapshot { snapshot, step, .. } => {
                let lasting = matches!(step, SnapshotStep::Publish | SnapshotStep::Remove);
                if lasting && lands() {
                    let _ = self.snapshot_step(snapshot, &step);
                }
            }
            Op::Read { .. } => {}
        }
    }

    fn restart(&mut self) {
        self.finished.clear();
        self.spares.clear();
        self.making = None;
        self.fail_snapshots = None;
        self.fail_write = None;
        self.fail_prepare = None;
        self.fuse = None;
    }
}
