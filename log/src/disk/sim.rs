//! A simulated disk: what is stored, what is under way, and what a power cut leaves of it.
//!
//! Nothing happens by itself. The simulation decides which operation completes next, which write
//! fails (`sim/harm.rs`), and when the power goes; [`SimDisk::power_cut`] then drops, completes or
//! tears each operation under way, sector by sector, by a seeded source (`sim/crash.rs`).
//! Afterwards the same disk is opened again as [`Storage`].
//!
//! Invariant: what was reported done is stored and only [`SimDisk::flip`] changes it.

mod crash;
mod file;
mod harm;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use self::file::File;
use crate::buffer::Buffer;
use crate::disk::{Disk, DiskError, Done, Op, SnapshotStep};
use crate::format::BLOCK;
use crate::hard_state::{HARD_STATE_BYTES, PAIR_BYTES};
use crate::id::{Index, SegmentNumber};
use crate::recover::Storage;
use crate::rng::Rng;

/// `EIO`.
pub const EIO: DiskError = DiskError { errno: 5 };
/// `ENOSPC`.
pub const ENOSPC: DiskError = DiskError { errno: 28 };
/// `ENOENT`.
pub const ENOENT: DiskError = DiskError { errno: 2 };

/// A disk that exists in memory.
#[derive(Clone, Debug)]
pub struct SimDisk {
    segments: BTreeMap<SegmentNumber, File>,
    /// Set aside: temporary files, which opening removes.
    spares: BTreeMap<SegmentNumber, File>,
    hard_state: Option<File>,
    /// Removed or set aside, and the directory not synced since, if that is to count.
    removed: Option<BTreeMap<SegmentNumber, File>>,
    /// Finished snapshots, and the one being made.
    snapshots: BTreeMap<Index, File>,
    making: Option<(Index, File)>,
    in_flight: VecDeque<Op>,
    finished: VecDeque<Finished>,
    rng: Rng,
    fail_write: Option<DiskError>,
    fail_prepare: Option<DiskError>,
    fail_snapshots: Option<DiskError>,
    unreadable: BTreeSet<(SegmentNumber, u64)>,
    overwrites: u64,
    reused: u64,
    back: u64,
    fuse: Option<u32>,
}

/// A `Done` that can be cloned with its disk.
#[derive(Clone, Debug)]
enum Finished {
    Write(crate::id::Ticket, Result<(), DiskError>),
    Mend(crate::id::Ticket, Result<(), DiskError>),
    Read(crate::id::Ticket, Result<Arc<Buffer>, DiskError>),
    Prepared(SegmentNumber, Result<(), DiskError>),
    Retired(SegmentNumber, Result<(), DiskError>),
    Rewritten(SegmentNumber, Result<(), DiskError>),
    HardState(crate::id::Ticket, Result<(), DiskError>),
    Snapshot(crate::id::Ticket, Result<Option<Arc<Buffer>>, DiskError>),
}

impl SimDisk {
    /// An empty disk. `seed` decides how writes tear, and what a new log takes for random.
    #[must_use]
    pub fn new(seed: u64) -> SimDisk {
        SimDisk {
            segments: BTreeMap::new(),
            spares: BTreeMap::new(),
            removed: None,
            hard_state: None,
            snapshots: BTreeMap::new(),
            making: None,
            in_flight: VecDeque::new(),
            finished: VecDeque::new(),
            rng: Rng::new(seed),
            fail_write: None,
            fail_prepare: None,
            fail_snapshots: None,
            unreadable: BTreeSet::new(),
            overwrites: 0,
            reused: 0,
            back: 0,
            fuse: None,
        }
    }

    /// Operations under way, in the order they were submitted.
    pub fn in_flight(&self) -> impl ExactSizeIterator<Item = &Op> {
        self.in_flight.iter()
    }

    /// What ends instead of the `n`th operation under way: a file is begun before what is written
    /// to it, on every disk.
    #[must_use]
    pub fn turn_of(&self, n: usize) -> usize {
        let Some(Op::Snapshot { snapshot, .. }) = self.in_flight.get(n) else { return n };
        let begins = |op: &Op| {
            matches!(op, Op::Snapshot { snapshot: of, step: SnapshotStep::Begin, .. }
                if of == snapshot)
        };
        self.in_flight.iter().take(n).position(begins).unwrap_or(n)
    }

    /// Completes the `n`th operation under way. Its `Done` comes out of the next `poll`.
    ///
    /// # Panics
    /// If there are not that many.
    pub fn complete(&mut self, n: usize) {
        let op = self.in_flight.remove(n).expect("an operation under way");
        let finished = match op {
            Op::Write { ticket, segment, offset, data } => {
                Finished::Write(ticket, self.write(segment, offset, &data))
            }
            Op::Mend { ticket, segment, offset, data } => {
                Finished::Mend(ticket, self.write(segment, offset, &data))
            }
            Op::Read { ticket, segment, offset, length } => {
                let mut buffer = Buffer::zeroed(length as usize);
                let result = self.read_segment(segment, offset, &mut buffer);
                Finished::Read(ticket, result.map(|()| Arc::new(buffer)))
            }
            Op::Prepare { segment, size, header, spare } => {
                let spare = spare.map(|spare| self.spares.remove(&spare).ok_or(ENOENT));
                let result = match (self.fail_prepare, spare) {
                    (Some(error), _) | (None, Some(Err(error))) => Err(error),
                    (None, Some(Ok(file))) => self.reuse(file, segment, size, &header),
                    (None, None) => self.make(segment, size, &header),
                };
                self.sync_directory_if(result.is_ok());
                Finished::Prepared(segment, result)
            }
            Op::Retire { segment, keep } => {
                Finished::Retired(segment, self.retire(segment, keep).ok_or(ENOENT))
            }
            Op::Rewrite { segment, data } => {
                let result = match self.fail_prepare {
                    Some(error) => Err(error),
                    None => self.replace(segment, &data),
                };
                self.sync_directory_if(result.is_ok());
                Finished::Rewritten(segment, result)
            }
            Op::HardState { ticket, pair, data } => {
                Finished::HardState(ticket, self.write_pair(pair, &data))
            }
            Op::Snapshot { ticket, snapshot, step } => {
                let result = self.snapshot_step(snapshot, &step);
                self.sync_directory_if(matches!(step, SnapshotStep::Publish) && result.is_ok());
                Finished::Snapshot(ticket, result.map(|bytes| bytes.map(Arc::new)))
            }
        };
        self.finished.push_back(finished);
    }

    /// How many segments were made from the files of others.
    #[must_use]
    pub fn reused(&self) -> u64 {
        self.reused
    }

    /// How many log writes were submitted to blocks that were written before, since their file has
    /// been this segment. A log makes none.
    #[must_use]
    pub fn overwrites(&self) -> u64 {
        self.overwrites
    }

    /// Bytes of a stored segment that are not zero, as (offset, length) of blocks written.
    pub fn written_blocks(&self, segment: SegmentNumber) -> impl Iterator<Item = u64> + '_ {
        let file = self.segments.get(&segment);
        file.into_iter().flat_map(|file| file.blocks.keys().map(|block| block * BLOCK as u64))
    }

    /// Numbers of the stored segments.
    pub fn segment_numbers(&self) -> impl Iterator<Item = SegmentNumber> + '_ {
        self.segments.keys().copied()
    }

    /// The finished snapshots, with their sizes in bytes.
    pub fn finished_snapshots(&self) -> impl Iterator<Item = (Index, u64)> + '_ {
        self.snapshots.iter().map(|(&index, file)| (index, file.size))
    }

    fn snapshot_step(
        &mut self,
        snapshot: Index,
        step: &SnapshotStep,
    ) -> Result<Option<Buffer>, DiskError> {
        let makes = !matches!(
            step,
            SnapshotStep::Read { .. } | SnapshotStep::Discard | SnapshotStep::Remove
        );
        if let Some(error) = self.fail_snapshots.filter(|_| makes) {
            return Err(error);
        }
        let is_making = self.making.as_ref().is_some_and(|&(making, _)| making == snapshot);
        match step {
            SnapshotStep::Begin => self.making = Some((snapshot, File::new(0))),
            SnapshotStep::Write { offset, data } => {
                let (_, file) = self.making.as_mut().filter(|_| is_making).ok_or(ENOENT)?;
                file.size = file.size.max(offset + data.len() as u64);
                file.write(*offset, data, || true);
            }
            SnapshotStep::Publish => {
                let writes = self.in_flight.iter().any(|op| {
                    let Op::Snapshot { snapshot: other, step, .. } = op else { return false };
                    *other == snapshot && matches!(step, SnapshotStep::Write { .. })
                });
                assert!(!writes, "a snapshot is published when all of it is written");
                let (_, file) = self.making.take().filter(|_| is_making).ok_or(ENOENT)?;
                self.snapshots.insert(snapshot, file);
            }
            SnapshotStep::Discard => self.making = self.making.take().filter(|_| !is_making),
            SnapshotStep::Read { offset, length } => {
                let mut buffer = Buffer::zeroed(*length as usize);
                self.snapshots.get(&snapshot).ok_or(ENOENT)?.read(*offset, &mut buffer)?;
                return Ok(Some(buffer));
            }
            SnapshotStep::Remove => {
                self.snapshots.remove(&snapshot);
            }
        }
        Ok(None)
    }

    fn replace(&mut self, segment: SegmentNumber, data: &Buffer) -> Result<(), DiskError> {
        let file = self.segments.get_mut(&segment).ok_or(ENOENT)?;
        *file = File::new(data.len() as u64);
        file.write(0, data, || true);
        Ok(())
    }

    fn write(&mut self, segment: SegmentNumber, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        let failure = self.fail_write.take();
        let rng = &mut self.rng;
        let file = self.segments.get_mut(&segment).ok_or(ENOENT)?;
        match failure {
            Some(error) => {
                file.write(offset, data, || rng.chance(1, 2));
                Err(error)
            }
            None => {
                file.write(offset, data, || true);
                let first = offset / BLOCK as u64;
                for block in first..first + (data.len() / BLOCK) as u64 {
                    self.unreadable.remove(&(segment, block));
                }
                Ok(())
            }
        }
    }

    fn write_pair(&mut self, pair: u8, data: &[u8]) -> Result<(), DiskError> {
        assert!(pair < 2 && data.len() == PAIR_BYTES);
        let failure = self.fail_write.take();
        let rng = &mut self.rng;
        let file = self.hard_state.as_mut().ok_or(ENOENT)?;
        let fails = failure.is_some();
        file.write(u64::from(pair) * PAIR_BYTES as u64, data, || !fails || rng.chance(1, 2));
        failure.map_or(Ok(()), Err)
    }

    fn make(&mut self, segment: SegmentNumber, size: u64, header: &[u8]) -> Result<(), DiskError> {
        assert!(!self.segments.contains_key(&segment), "{segment} is made once");
        let mut file = File::new(size);
        file.write(0, header, || true);
        self.segments.insert(segment, file);
        Ok(())
    }

    /// A file that was set aside becomes another segment.
    fn reuse(
        &mut self,
        mut file: File,
        segment: SegmentNumber,
        size: u64,
        header: &[u8],
    ) -> Result<(), DiskError> {
        assert!(!self.segments.contains_key(&segment), "{segment} is made once");
        assert!(file.size == size, "a spare of this very size");
        file.blocks.values_mut().for_each(|block| block.is_old = true);
        file.write(0, header, || true);
        self.segments.insert(segment, file);
        self.reused += 1;
        Ok(())
    }

    fn retire(&mut self, segment: SegmentNumber, keep: bool) -> Option<()> {
        let busy = self.in_flight.iter().any(|op| {
            matches!(op, Op::Write { segment: of, .. } | Op::Mend { segment: of, .. }
                | Op::Read { segment: of, .. } if *of == segment)
        });
        assert!(!busy, "{segment} is retired when nothing works on it");
        let file = self.segments.remove(&segment)?;
        self.unreadable.retain(|&(of, _)| of != segment);
        self.note_removed(segment, &file);
        if keep {
            self.spares.insert(segment, file);
        }
        Some(())
    }

    fn read_segment(
        &self,
        segment: SegmentNumber,
        offset: u64,
        bytes: &mut [u8],
    ) -> Result<(), DiskError> {
        let first = offset / BLOCK as u64;
        let last = first + (bytes.len() / BLOCK) as u64;
        if self.unreadable.range((segment, first)..(segment, last)).next().is_some() {
            return Err(EIO);
        }
        self.segments.get(&segment).ok_or(ENOENT)?.read(offset, bytes)
    }

    /// Burns the fuse: true if this call is the one that crashes, or comes after it.
    fn is_crashed(&mut self) -> bool {
        match &mut self.fuse {
            None => false,
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
        }
    }
}

impl Disk for SimDisk {
    fn submit(&mut self, op: Op) {
        if let Op::Write { segment, offset, data, .. } = &op
            && let Some(file) = self.segments.get(segment)
        {
            self.overwrites += u64::from(!file.is_fresh(*offset, data.len()));
        }
        self.in_flight.push_back(op);
    }

    /// If `wait` and nothing has completed, completes the oldest operation.
    fn poll(&mut self, wait: bool, done: &mut Vec<Done>) {
        if wait && self.finished.is_empty() && !self.in_flight.is_empty() {
            self.complete(0);
        }
        done.extend(self.finished.drain(..).map(|finished| match finished {
            Finished::Write(ticket, result) => Done::Write { ticket, result },
            Finished::Mend(ticket, result) => Done::Mend { ticket, result },
            Finished::Read(ticket, result) => Done::Read { ticket, result: result.map(owned) },
            Finished::Prepared(segment, result) => Done::Prepared { segment, result },
            Finished::Retired(segment, result) => Done::Retired { segment, result },
            Finished::Rewritten(segment, result) => Done::Rewritten { segment, result },
            Finished::HardState(ticket, result) => Done::HardState { ticket, result },
            Finished::Snapshot(ticket, result) => {
                Done::Snapshot { ticket, result: result.map(|bytes| bytes.map(owned)) }
            }
        }));
    }
}

impl Storage for SimDisk {
    fn segments(&mut self) -> Result<Vec<(SegmentNumber, u64)>, DiskError> {
        // Whoever opens a directory syncs it first.
        self.sync_directory_if(true);
        Ok(self.segments.iter().map(|(&number, file)| (number, file.size)).collect())
    }

    fn read(
        &mut self,
        segment: SegmentNumber,
        offset: u64,
        bytes: &mut [u8],
    ) -> Result<(), DiskError> {
        self.read_segment(segment, offset, bytes)
    }

    fn hard_state(&mut self) -> Result<Option<Vec<u8>>, DiskError> {
        let Some(file) = &self.hard_state else { return Ok(None) };
        let mut bytes = vec![0; HARD_STATE_BYTES];
        file.read(0, &mut bytes)?;
        Ok(Some(bytes))
    }

    fn create_hard_state(&mut self, bytes: &Buffer) -> Result<(), DiskError> {
        if self.is_crashed() {
            return Err(EIO);
        }
        let mut file = File::new(HARD_STATE_BYTES as u64);
        file.write(0, bytes, || true);
        self.hard_state = Some(file);
        Ok(())
    }

    fn write_hard_state(&mut self, pair: u8, slots: &Buffer) -> Result<(), DiskError> {
        if self.is_crashed() {
            self.fail_write = Some(EIO);
        }
        self.write_pair(pair, slots)
    }

    fn prepare(
        &mut self,
        segment: SegmentNumber,
        size: u64,
        header: &Buffer,
    ) -> Result<(), DiskError> {
        if self.is_crashed() {
            return Err(EIO);
        }
        match self.fail_prepare {
            Some(error) => Err(error),
            None => {
                self.make(segment, size, header)?;
                self.sync_directory_if(true);
                Ok(())
            }
        }
    }

    fn remove(&mut self, segment: SegmentNumber) -> Result<(), DiskError> {
        if self.is_crashed() {
            return Err(EIO);
        }
        let file = self.segments.remove(&segment).ok_or(ENOENT)?;
        self.note_removed(segment, &file);
        Ok(())
    }

    fn snapshots(&mut self) -> Result<Vec<(Index, u64)>, DiskError> {
        Ok(self.finished_snapshots().collect())
    }

    fn read_snapshot(
        &mut self,
        snapshot: Index,
        offset: u64,
        bytes: &mut [u8],
    ) -> Result<(), DiskError> {
        self.snapshots.get(&snapshot).ok_or(ENOENT)?.read(offset, bytes)
    }

    fn entropy(&mut self) -> u64 {
        self.rng.next_u64()
    }
}

/// The buffer itself, or a copy where a clone of the disk holds it too.
fn owned(buffer: Arc<Buffer>) -> Buffer {
    Arc::try_unwrap(buffer).unwrap_or_else(|shared| {
        let mut copy = Buffer::zeroed(shared.len());
        copy.copy_from_slice(&shared);
        copy
    })
}
