//! The files of a log's directory, and plain blocking calls on them: for opening a log, and as the
//! simplest [`Disk`].
//!
//! What is where, and how a directory is locked, is in `directory.rs`; how files are made, in
//! `maker.rs`; those of snapshots are `snapshots.rs`'s.
//!
//! Each file that is written to is locked, on the very descriptor that writes, because the writes
//! of a killed process can outlive it and hold that descriptor.
//!
//! Invariants: everything is read as it is on the medium (synced first, then read past the page
//! cache where the file system can do that); at most [`FILES_MAX`] segments are open at a time,
//! plus those in use.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::buffer::Buffer;
use crate::disk::ahead::{Ahead, Piece};
use crate::disk::directory::{self, LOCK_RETRY, lock_directory, lock_file};
pub use crate::disk::directory::{Access, Mode};
use crate::disk::maker::Maker;
use crate::disk::slots::read_slots;
use crate::disk::snapshots::SnapshotFiles;
use crate::disk::sys::{self, disk_error, failed, try_lock};
use crate::disk::{Disk, DiskError, Done, Op};
use crate::error::{Error, HARD_STATE_FILE, segment_file};
use crate::format::BLOCK;
use crate::hard_state::{HARD_STATE_BYTES, PAIR_BYTES};
use crate::id::{Index, Position, SegmentNumber};
use crate::recover::Storage;
use crate::walk::WINDOW;

/// Segments kept open, at most.
pub const FILES_MAX: usize = 16;

/// An open directory of one log.
#[derive(Debug)]
pub struct Direct {
    path: PathBuf,
    /// Locked as long as this is open.
    directory: Arc<File>,
    mode: Mode,
    lock_wait: Duration,
    hard_state: Option<Arc<File>>,
    /// The most recently used last.
    segments: Vec<(SegmentNumber, Arc<File>)>,
    snapshots: SnapshotFiles,
    queue: Vec<Op>,
    /// While the log is being opened.
    ahead: Option<Ahead>,
}

impl Direct {
    /// Opens a directory, makes it if there is none, and locks it.
    ///
    /// # Errors
    /// [`Error::Locked`] if somebody else has it open still after 5 seconds, or [`Error::Path`].
    pub fn open(path: &Path) -> Result<Direct, Error> {
        Direct::open_with(path, Access::default())
    }

    /// As [`Direct::open`], with other choices.
    ///
    /// # Errors
    /// As [`Direct::open`].
    pub fn open_with(path: &Path, access: Access) -> Result<Direct, Error> {
        directory::make(path).map_err(|error| failed("create", path, &error))?;
        let locked = lock_directory(path, access.lock_wait)?;
        let possible = directory::probe(path).map_err(|error| failed("write to", path, &error))?;
        let directory = Arc::new(locked);
        let mode = if access.buffered { Mode::Buffered } else { possible };
        let snapshots = SnapshotFiles::new(path, Arc::clone(&directory), mode.flags());
        let mut direct = Direct {
            path: path.to_owned(),
            directory,
            mode,
            lock_wait: access.lock_wait,
            hard_state: None,
            segments: Vec::new(),
            snapshots,
            queue: Vec::new(),
            ahead: None,
        };
        directory::remove_temporaries(path, &direct.directory)
            .map_err(|error| failed("clean up", path, &error))?;
        direct.lock_files()?;
        Ok(direct)
    }

    /// How the directory is read and written.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    #[cfg(feature = "uring")]
    pub(crate) fn directory(&self) -> &Arc<File> {
        &self.directory
    }

    /// Flags of a descriptor that fills a new file: past the page cache where possible, synced at
    /// the end.
    pub(crate) fn fill_flags(&self) -> i32 {
        self.mode.flags()
    }

    /// Flags of a descriptor whose writes are durable when done.
    pub(crate) fn write_flags(&self) -> i32 {
        self.fill_flags() | libc::O_DSYNC
    }

    /// The hard-state file.
    pub(crate) fn hard_state_file(&self) -> Result<Arc<File>, DiskError> {
        self.hard_state.clone().ok_or(DiskError { errno: libc::ENOENT })
    }

    /// The files of snapshots.
    #[cfg(feature = "uring")]
    pub(crate) fn snapshots(&mut self) -> &mut SnapshotFiles {
        &mut self.snapshots
    }

    /// The file of a segment, opened and locked if it is not open.
    pub(crate) fn segment(&mut self, segment: SegmentNumber) -> Result<Arc<File>, DiskError> {
        if let Some(at) = self.segments.iter().position(|&(number, _)| number == segment) {
            self.segments[at..].rotate_left(1);
        } else {
            let path = self.path.join(segment_file(segment));
            let file = match self.options().open(&path) {
                // A write that fails stops the log. For want of a descriptor it need not: those of
                // other segments are open to be at hand.
                Err(error) if sys::is_short_of_descriptors(&error) => {
                    self.segments.retain(|(_, file)| Arc::strong_count(file) > 1);
                    self.options().open(&path)
                }
                opened => opened,
            };
            let file = file.map_err(|error| disk_error(&error))?;
            try_lock(&file).map_err(|error| disk_error(&error))?;
            self.keep(segment, Arc::new(file));
        }
        let (_, file) = self.segments.last().expect("just moved there");
        Ok(Arc::clone(file))
    }

    /// Keeps a segment open that is open and locked; if they are many, closes the one not used for
    /// longest. Not one that something is under way for: it would stay locked, and could not be
    /// opened again before that has ended.
    pub(crate) fn keep(&mut self, segment: SegmentNumber, file: Arc<File>) {
        self.segments.retain(|&(number, _)| number != segment);
        let is_idle = |(_, file): &(SegmentNumber, Arc<File>)| Arc::strong_count(file) == 1;
        while self.segments.len() >= FILES_MAX
            && let Some(at) = self.segments.iter().position(is_idle)
        {
            self.segments.remove(at);
        }
        self.segments.push((segment, file));
    }

    /// Closes a segment.
    pub(crate) fn close(&mut self, segment: SegmentNumber) {
        self.segments.retain(|&(number, _)| number != segment);
    }

    fn options(&self) -> OpenOptions {
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(self.write_flags());
        options
    }

    /// Opens, locks and syncs all files, one after the other: afterwards no write of an earlier
    /// process is under way, and what is read is what is durable.
    fn lock_files(&mut self) -> Result<(), Error> {
        let path = self.path.join(HARD_STATE_FILE);
        match self.options().open(&path) {
            Ok(file) => {
                lock_file(&file, &path, self.lock_wait)?;
                file.sync_all().map_err(|error| failed("sync", &path, &error))?;
                self.hard_state = Some(Arc::new(file));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(failed("open", &path, &error)),
        }
        let listed =
            directory::segments(&self.path).map_err(|error| failed("list", &self.path, &error))?;
        for (segment, _) in listed {
            let path = self.path.join(segment_file(segment));
            let file = self.options().open(&path).map_err(|error| failed("open", &path, &error))?;
            lock_file(&file, &path, self.lock_wait)?;
            file.sync_all().map_err(|error| failed("sync", &path, &error))?;
            self.keep(segment, Arc::new(file));
        }
        Ok(())
    }

    /// Locks a directory that is there, and looks at nothing: nobody else opens it meanwhile.
    pub(crate) fn lock_only(path: &Path) -> Result<File, Error> {
        lock_directory(path, LOCK_RETRY)
    }

    /// Makes a file and opens it, locked.
    fn make(&mut self, name: &str, size: u64, front: &[u8]) -> io::Result<Arc<File>> {
        self.maker().make(name, size, front)?;
        let file = self.options().open(self.path.join(name))?;
        try_lock(&file)?;
        Ok(Arc::new(file))
    }

    /// Makes files in this directory, and keeps it locked as long as it lives.
    pub(crate) fn maker(&self) -> Maker {
        Maker::new(self.path.clone(), Arc::clone(&self.directory), self.fill_flags())
    }

    fn perform(&mut self, op: Op) -> Done {
        match op {
            Op::Write { ticket, segment, offset, data } => {
                let result = self.segment(segment).and_then(|file| write(&file, offset, &data));
                Done::Write { ticket, result }
            }
            Op::Mend { ticket, segment, offset, data } => {
                let result = self.segment(segment).and_then(|file| write(&file, offset, &data));
                Done::Mend { ticket, result }
            }
            Op::Read { ticket, segment, offset, length } => {
                let mut buffer = Buffer::zeroed(length as usize);
                let result = Storage::read(self, segment, offset, &mut buffer);
                Done::Read { ticket, result: result.map(|()| buffer) }
            }
            Op::Prepare { segment, size, header, spare: None } => {
                let result = Storage::prepare(self, segment, size, &header);
                if result.is_err_and(|error| error.is_full()) {
                    self.snapshots.give_up_spare();
                }
                Done::Prepared { segment, result }
            }
            Op::Prepare { segment, header, spare: Some(spare), .. } => {
                Done::Prepared { segment, result: self.maker().reuse(spare, segment, &header) }
            }
            Op::Retire { segment, keep: false } => {
                Done::Retired { segment, result: Storage::remove(self, segment) }
            }
            Op::Retire { segment, keep: true } => {
                self.close(segment);
                Done::Retired { segment, result: self.maker().set_aside(segment) }
            }
            Op::Rewrite { segment, data } => {
                self.close(segment);
                Done::Rewritten { segment, result: self.maker().rewrite(segment, &data) }
            }
            Op::HardState { ticket, pair, data } => {
                let result = Storage::write_hard_state(self, pair, &data);
                Done::HardState { ticket, result }
            }
            Op::Snapshot { ticket, snapshot, step } => {
                Done::Snapshot { ticket, result: self.snapshots.perform(snapshot, &step) }
            }
        }
    }
}

impl Direct {
    /// Reads on behind `piece`: in this segment, or the next one.
    fn read_ahead(&mut self, piece: Piece) {
        let end = piece.at.offset + piece.length as u64;
        let size = |file: &File| file.metadata().map_or(0, |metadata| metadata.len());
        let Position { mut segment, .. } = piece.at;
        let mut offset = end;
        let Ok(mut file) = self.segment(segment) else { return };
        if offset >= size(&file) {
            (segment, offset) = (SegmentNumber(segment.0.saturating_add(1)), BLOCK as u64);
            let Ok(next) = self.segment(segment) else { return };
            file = next;
        }
        let left = size(&file).saturating_sub(offset);
        let length = left.min(WINDOW as u64) as usize;
        if let Some(ahead) = &mut self.ahead
            && length > 0
            && length.is_multiple_of(BLOCK)
        {
            ahead.ask(file, Piece { at: Position { segment, offset }, length });
        }
    }
}

impl Storage for Direct {
    fn fill(
        &mut self,
        segment: SegmentNumber,
        offset: u64,
        length: usize,
        buffer: &mut Buffer,
    ) -> Result<(), DiskError> {
        let piece = Piece { at: Position { segment, offset }, length };
        if self.ahead.is_none() {
            self.ahead = Ahead::start();
        }
        let taken = self.ahead.as_mut().and_then(|ahead| ahead.take(piece, buffer));
        if taken.is_none() || length == WINDOW {
            self.read_ahead(piece);
        }
        match taken {
            Some(result) => result,
            None => Storage::read(self, segment, offset, &mut buffer[..length]),
        }
    }

    fn filled(&mut self) {
        self.ahead = None;
    }

    fn segments(&mut self) -> Result<Vec<(SegmentNumber, u64)>, DiskError> {
        directory::segments(&self.path).map_err(|error| disk_error(&error))
    }

    fn read(
        &mut self,
        segment: SegmentNumber,
        offset: u64,
        bytes: &mut [u8],
    ) -> Result<(), DiskError> {
        let file = self.segment(segment)?;
        file.read_exact_at(bytes, offset).map_err(|error| disk_error(&error))
    }

    fn hard_state(&mut self) -> Result<Option<Vec<u8>>, DiskError> {
        let Some(file) = &self.hard_state else { return Ok(None) };
        let mut bytes = Buffer::zeroed(HARD_STATE_BYTES);
        read_slots(&mut bytes, |bytes, at| file.read_at(bytes, at))?;
        Ok(Some(bytes.to_vec()))
    }

    fn create_hard_state(&mut self, file: &Buffer) -> Result<(), DiskError> {
        let made = self.make(HARD_STATE_FILE, HARD_STATE_BYTES as u64, file);
        self.hard_state = Some(made.map_err(|error| disk_error(&error))?);
        Ok(())
    }

    fn write_hard_state(&mut self, pair: u8, slots: &Buffer) -> Result<(), DiskError> {
        assert!(pair < 2 && slots.len() == PAIR_BYTES);
        write(&*self.hard_state_file()?, u64::from(pair) * PAIR_BYTES as u64, slots)
    }

    fn prepare(
        &mut self,
        segment: SegmentNumber,
        size: u64,
        header: &Buffer,
    ) -> Result<(), DiskError> {
        let file = self.make(&segment_file(segment), size, header);
        self.keep(segment, file.map_err(|error| disk_error(&error))?);
        Ok(())
    }

    fn remove(&mut self, segment: SegmentNumber) -> Result<(), DiskError> {
        self.close(segment);
        let removed = std::fs::remove_file(self.path.join(segment_file(segment)));
        removed.map_err(|error| disk_error(&error))
    }

    fn snapshots(&mut self) -> Result<Vec<(Index, u64)>, DiskError> {
        self.snapshots.list().map_err(|error| disk_error(&error))
    }

    fn read_snapshot(
        &mut self,
        snapshot: Index,
        offset: u64,
        bytes: &mut [u8],
    ) -> Result<(), DiskError> {
        self.snapshots.read(snapshot, offset, bytes)
    }

    fn entropy(&mut self) -> u64 {
        sys::entropy()
    }
}

impl Disk for Direct {
    fn submit(&mut self, op: Op) {
        self.queue.push(op);
    }

    fn forget(&mut self, segment: SegmentNumber) {
        self.close(segment);
    }

    /// Does everything that was submitted, whether or not to `wait`.
    fn poll(&mut self, _wait: bool, done: &mut Vec<Done>) {
        let mut queue = std::mem::take(&mut self.queue);
        done.extend(queue.drain(..).map(|op| self.perform(op)));
        self.queue = queue;
    }
}

fn write(file: &File, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
    file.write_all_at(bytes, offset).map_err(|error| disk_error(&error))
}
