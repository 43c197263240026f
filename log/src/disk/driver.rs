//! Operations on a log's directory as entries of an io_uring, and completions as results. The ring
//! is whoever's: a log's own (`uring.rs`), or a shard's.
//!
//! What each of them takes is in files of its own: reading and writing in `transfer.rs`, preparing
//! a segment in `prepare.rs`, naming and removing a snapshot in `publish.rs`.
//!
//! Invariants: buffers, paths and descriptors that an entry points to belong to its slot until the
//! completion, whoever drops what; a slot has one entry under way; a result is told once.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::Arc;

use io_uring::{opcode, squeue, types};

use crate::buffer::Buffer;
use crate::disk::direct::Direct;
use crate::disk::maker::{ZEROS, spare_file};
use crate::disk::prepare::Prepare;
use crate::disk::publish::{Aim, Publish, over};
use crate::disk::transfer::{Data, Transfer};
use crate::disk::{DiskError, Done, Op, SnapshotStep};
use crate::error::segment_file;
use crate::hard_state::PAIR_BYTES;
use crate::id::{Index, SegmentNumber, Ticket};

/// Bits of `user_data` that a driver uses; the rest is the caller's.
const OWN_BITS: u32 = 48;
const SLOT_BITS: u32 = 20;
/// Times an interrupted operation is tried again before its error counts.
const TRIES_MAX: u32 = 1000;

pub(crate) const EIO: DiskError = DiskError { errno: libc::EIO };

/// Turns [`Op`]s into ring entries and completions into [`Done`]s. The ring is somebody else's.
///
/// Every entry it hands out must be pushed to a ring and its completion given back. Dropped before
/// that, it leaks what the kernel may still use.
#[derive(Debug)]
pub struct Driver {
    files: Direct,
    base: u64,
    slots: Vec<Slot>,
    free: Vec<usize>,
    zeros: Arc<Buffer>,
}

#[derive(Debug)]
struct Slot {
    /// Told apart from earlier uses of the slot.
    generation: u64,
    tries: u32,
    work: Option<Work>,
}

#[derive(Debug)]
enum Work {
    Transfer(Transfer),
    Prepare(Box<Prepare>),
    Retire {
        segment: SegmentNumber,
        path: CString,
        /// The name under which it is kept, if it is.
        kept: Option<CString>,
        directory: Arc<File>,
    },
    /// Makes a snapshot durable and gives it its name, or deletes it.
    Snapshot(Box<Publish>),
    /// Ended, or could not even begin.
    Over(Done),
}

impl Driver {
    /// A driver for the log in `files`. Its entries carry `base` in their `user_data`, and a number
    /// of its own in the low 48 bits.
    ///
    /// # Panics
    /// If the low 48 bits of `base` are not zero.
    #[must_use]
    pub fn new(files: Direct, base: u64) -> Driver {
        assert!(base.trailing_zeros() >= OWN_BITS, "the low 48 bits are the driver's own");
        let zeros = Arc::new(Buffer::zeroed(ZEROS));
        Driver { files, base, slots: Vec::new(), free: Vec::new(), zeros }
    }

    /// Operations begun and not ended.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Begins `op`: appends its first entry. Reading a segment that has not been used for long
    /// opens its file again, with a plain call.
    pub fn start(&mut self, op: Op, entries: &mut Vec<squeue::Entry>) {
        let work = self.begin(op);
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.slots.push(Slot { generation: 0, tries: 0, work: None });
                self.slots.len() - 1
            }
        };
        assert!(slot < 1 << SLOT_BITS);
        let taken = &mut self.slots[slot];
        assert!(taken.work.is_none());
        taken.generation += 1;
        taken.tries = 0;
        taken.work = Some(work);
        entries.push(self.entry(slot));
    }

    /// Takes a completion with this driver's base: appends the entry that goes on with it, or its
    /// result. Unknown ones are ignored.
    pub fn on_completion(
        &mut self,
        user_data: u64,
        result: i32,
        entries: &mut Vec<squeue::Entry>,
        done: &mut Vec<Done>,
    ) {
        let at = (user_data & ((1 << SLOT_BITS) - 1)) as usize;
        let known = self.slots.get(at).is_some_and(|slot| slot.work.is_some());
        if !known || self.user_data(at) != user_data {
            return;
        }
        let slot = &mut self.slots[at];
        // Cancelled is what a thread that ended had submitted and the kernel had not begun.
        let again = matches!(-result, libc::EINTR | libc::EAGAIN | libc::ECANCELED);
        if again && slot.tries < TRIES_MAX {
            slot.tries += 1;
            entries.push(self.entry(at));
            return;
        }
        let Some(work) = slot.work.take() else { return };
        match self.advance(work, result) {
            Ok(work) => {
                self.slots[at].work = Some(work);
                entries.push(self.entry(at));
            }
            Err(finished) => {
                self.free.push(at);
                done.push(finished);
            }
        }
    }

    /// Does the one operation that has begun with a plain call, if it is a write and the ring has
    /// not seen it yet.
    ///
    /// A durable write through a ring ends in a worker of the kernel's, which must be scheduled
    /// before whoever waits is woken; a plain call flushes on the caller's own thread. Alone, that
    /// is faster, and on a busy machine much faster.
    pub(super) fn perform_alone(&mut self, entry: &squeue::Entry) -> Option<Done> {
        let at = (entry.get_user_data() & ((1 << SLOT_BITS) - 1)) as usize;
        let slot = self.slots.get_mut(at)?;
        let Some(Work::Transfer(transfer)) = &slot.work else { return None };
        let result = transfer.write_now()?;
        let Some(Work::Transfer(transfer)) = slot.work.take() else { return None };
        self.free.push(at);
        Some(transfer.finish(result))
    }

    /// Nothing is under way in any ring: what had begun is given up.
    pub(super) fn abandon(&mut self) {
        self.slots.clear();
        self.free.clear();
    }

    /// The ring tells nothing any more: everything that has begun has failed. What the kernel may
    /// still read or write is leaked.
    pub(super) fn fail(&mut self, error: DiskError, done: &mut Vec<Done>) {
        for (at, slot) in self.slots.iter_mut().enumerate() {
            if let Some(work) = slot.work.take() {
                done.push(work.fail(error));
                self.free.push(at);
            }
        }
    }

    /// See [`Disk::forget`](crate::disk::Disk::forget).
    pub(super) fn forget(&mut self, segment: SegmentNumber) {
        self.files.close(segment);
    }

    fn begin(&mut self, op: Op) -> Work {
        match op {
            Op::Write { ticket, segment, offset, data } => match self.files.segment(segment) {
                Ok(file) => transfer(ticket, file, offset, Data::Write(data)),
                Err(error) => Work::Over(Done::Write { ticket, result: Err(error) }),
            },
            Op::Mend { ticket, segment, offset, data } => match self.files.segment(segment) {
                Ok(file) => transfer(ticket, file, offset, Data::Mend(data)),
                Err(error) => Work::Over(Done::Mend { ticket, result: Err(error) }),
            },
            Op::Read { ticket, segment, offset, length } => match self.files.segment(segment) {
                Ok(file) => {
                    let buffer = Buffer::zeroed(length as usize);
                    assert!(buffer.len() == length as usize, "whole blocks are read");
                    transfer(ticket, file, offset, Data::Read(buffer))
                }
                Err(error) => Work::Over(Done::Read { ticket, result: Err(error) }),
            },
            Op::HardState { ticket, pair, data } => match self.files.hard_state_file() {
                Ok(file) => {
                    let offset = u64::from(pair) * PAIR_BYTES as u64;
                    transfer(ticket, file, offset, Data::HardState(data))
                }
                Err(error) => Work::Over(Done::HardState { ticket, result: Err(error) }),
            },
            Op::Retire { segment, keep } => {
                self.files.close(segment);
                let directory = Arc::clone(self.files.directory());
                let (path, kept) = (c_string(segment_file(segment)), spare_file(segment));
                let kept = keep.then(|| c_string(kept));
                Work::Retire { segment, path, kept, directory }
            }
            // With plain calls: whoever compacts a log waits for it anyway.
            Op::Rewrite { segment, data } => {
                self.files.close(segment);
                let result = self.files.maker().rewrite(segment, &data);
                Work::Over(Done::Rewritten { segment, result })
            }
            Op::Snapshot { ticket, snapshot, step } => {
                let begun = self.begin_snapshot(ticket, snapshot, step);
                begun.unwrap_or_else(|error| Work::Over(over(ticket, Err(error))))
            }
            Op::Prepare { segment, size, header, spare } => {
                let zeros = Arc::clone(&self.zeros);
                let prepare = Prepare::new(&self.files, segment, size, header, zeros, spare);
                Work::Prepare(Box::new(prepare))
            }
        }
    }

    /// Opening a file is a plain call: once per snapshot.
    fn begin_snapshot(
        &mut self,
        ticket: Ticket,
        snapshot: Index,
        step: SnapshotStep,
    ) -> Result<Work, DiskError> {
        let directory = Arc::clone(self.files.directory());
        let files = self.files.snapshots();
        let aim = match step {
            SnapshotStep::Begin => {
                files.begin(snapshot)?;
                return Ok(Work::Over(over(ticket, Ok(()))));
            }
            SnapshotStep::Write { offset, data } => {
                let file = files.writing(snapshot, offset + data.len() as u64)?;
                return Ok(transfer(ticket, file, offset, Data::Snapshot(data)));
            }
            SnapshotStep::Read { offset, length } => {
                let buffer = Buffer::zeroed(length as usize);
                assert!(buffer.len() == length as usize, "whole blocks are read");
                let file = files.finished(snapshot)?;
                return Ok(transfer(ticket, file, offset, Data::ReadSnapshot(buffer)));
            }
            SnapshotStep::Publish => Aim::Publish,
            SnapshotStep::Discard => Aim::Discard,
            SnapshotStep::Remove => Aim::Remove,
        };
        let publish = Publish::new(files, directory, ticket, snapshot, aim)?;
        Ok(Work::Snapshot(Box::new(publish)))
    }

    /// What follows on `result`: more of the same work, or its end.
    fn advance(&mut self, work: Work, result: i32) -> Result<Work, Done> {
        match work {
            Work::Transfer(transfer) => transfer.advance(result).map(Work::Transfer),
            Work::Prepare(mut prepare) => match prepare.advance(result, adopt) {
                Ok(None) => Ok(Work::Prepare(prepare)),
                Ok(Some(file)) => {
                    self.files.keep(prepare.segment(), Arc::new(file));
                    Err(Done::Prepared { segment: prepare.segment(), result: Ok(()) })
                }
                Err(error) => {
                    prepare.clean_up(&self.files);
                    if error.is_full() {
                        self.files.snapshots().give_up_spare();
                    }
                    Err(Done::Prepared { segment: prepare.segment(), result: Err(error) })
                }
            },
            Work::Retire { segment, .. } => {
                Err(Done::Retired { segment, result: checked(result).map(|_| ()) })
            }
            Work::Snapshot(publish) => {
                if publish.ends_setting_aside(result) {
                    self.files.snapshots().on_set_aside(result >= 0);
                }
                publish.advance(result).map(Work::Snapshot)
            }
            Work::Over(done) => Err(done),
        }
    }

    fn user_data(&self, slot: usize) -> u64 {
        let own = (self.slots[slot].generation << SLOT_BITS) | slot as u64;
        self.base | (own & ((1 << OWN_BITS) - 1))
    }

    fn entry(&mut self, slot: usize) -> squeue::Entry {
        let user_data = self.user_data(slot);
        let work = self.slots[slot].work.as_mut().expect("a slot with an entry has work");
        let entry = match work {
            Work::Transfer(transfer) => transfer.entry(),
            Work::Prepare(prepare) => prepare.entry(),
            Work::Retire { path, kept, directory, .. } => {
                let directory = types::Fd(directory.as_raw_fd());
                match kept {
                    Some(kept) => {
                        let (from, to) = (path.as_ptr(), kept.as_ptr());
                        opcode::RenameAt::new(directory, from, directory, to).build()
                    }
                    None => opcode::UnlinkAt::new(directory, path.as_ptr()).build(),
                }
            }
            Work::Snapshot(publish) => publish.entry(),
            Work::Over(_) => opcode::Nop::new().build(),
        };
        entry.user_data(user_data)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // The kernel may still read or write what the slots own.
        if self.in_flight() > 0 {
            std::mem::forget(std::mem::take(&mut self.slots));
        }
    }
}

impl Work {
    /// Ends it with `error`, and leaks what an entry of it points to.
    fn fail(self, error: DiskError) -> Done {
        let result = Err(error);
        match self {
            Work::Transfer(transfer) => transfer.fail(error),
            Work::Prepare(prepare) => {
                let segment = prepare.segment();
                std::mem::forget(prepare);
                Done::Prepared { segment, result }
            }
            Work::Retire { segment, path, kept, .. } => {
                std::mem::forget((path, kept));
                Done::Retired { segment, result }
            }
            Work::Snapshot(publish) => {
                let ticket = publish.ticket();
                std::mem::forget(publish);
                over(ticket, result)
            }
            Work::Over(done) => done,
        }
    }
}

fn transfer(ticket: Ticket, file: Arc<File>, offset: u64, data: Data) -> Work {
    Work::Transfer(Transfer::new(ticket, file, offset, data))
}

/// The file of a descriptor that an `OpenAt` has just given us.
fn adopt(descriptor: i32) -> File {
    // SAFETY: the kernel has just opened this descriptor for this driver; nobody else knows it.
    unsafe { File::from_raw_fd(descriptor) }
}

/// A completion's result: what was transferred or opened, or the error.
pub(crate) fn checked(result: i32) -> Result<u32, DiskError> {
    u32::try_from(result).map_err(|_| DiskError { errno: result.saturating_neg() })
}

pub(crate) fn c_string(name: String) -> CString {
    CString::new(name).expect("a segment's name has no zero byte")
}
