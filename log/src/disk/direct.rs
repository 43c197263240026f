//! A log's directory, and plain blocking calls on it: for opening a log, and as the simplest
//! [`Disk`].
//!
//! What is where: `segment-0000000000000001.log` and so on, `hard-state`, `snapshot-….mgs`, and
//! while a file is being made the same name with `.tmp`. A file is made under its temporary name,
//! synced, renamed, and the directory synced, so a name stands for a whole file. What a crash left
//! under a temporary name is removed.
//!
//! Locks are `flock`s: on the directory, against a second opener; and on each file that is written
//! to, on the very descriptor that writes, because the writes of a killed process can outlive it
//! and hold that descriptor. A lock that is held is waited for, for a while.
//!
//! Invariants: everything is read as it is on the medium (synced first, then read past the page
//! cache where the file system can do that); at most [`FILES_MAX`] segments are open at a time,
//! plus those in use.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::{
    ffi::OsStrExt,
    fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt},
};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::buffer::Buffer;
use crate::disk::ahead::{Ahead, Piece};
use crate::disk::maker::Maker;
use crate::disk::snapshots::SnapshotFiles;
use crate::disk::sys::{self, disk_error, try_lock};
use crate::disk::{Disk, DiskError, Done, Op};
use crate::error::{Error, HARD_STATE_FILE, segment_file};
use crate::format::BLOCK;
use crate::hard_state::{HARD_STATE_BYTES, PAIR_BYTES};
use crate::id::{Index, Position, SegmentNumber};
use crate::recover::Storage;
use crate::walk::WINDOW;

/// Segments kept open, at most.
pub const FILES_MAX: usize = 16;
/// Zeros are written this many bytes at a time.
pub(crate) const ZEROS: usize = 256 << 10;
/// Marks a file that is being made.
pub(crate) const TEMPORARY: &str = ".tmp";
const LOCK_WAIT: Duration = Duration::from_secs(5);
const LOCK_RETRY: Duration = Duration::from_millis(50);
/// Times a directory is locked that turns out to be another one by then.
const LOCK_TRIES: u32 = 10;

/// How the directory is read and written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Past the page cache: `O_DIRECT` and `O_DSYNC`.
    Direct,
    /// Through the page cache, because the file system refuses `O_DIRECT`: `O_DSYNC` alone. Durable
    /// all the same, slower.
    Buffered,
}

impl Mode {
    fn flags(self) -> i32 {
        match self {
            Mode::Direct => libc::O_DIRECT,
            Mode::Buffered => 0,
        }
    }
}

/// Choices in opening a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    /// How long to wait for a lock that somebody else holds. Default 5 s.
    pub lock_wait: Duration,
    /// Go through the page cache even where the file system can do without. Default false.
    pub buffered: bool,
}

impl Default for Access {
    fn default() -> Access {
        Access { lock_wait: LOCK_WAIT, buffered: false }
    }
}

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
        make_directory(path).map_err(|error| failed("create", path, &error))?;
        let directory = lock_directory(path, access.lock_wait)?;
        let possible = probe(path).map_err(|error| failed("write to", path, &error))?;
        let directory = Arc::new(directory);
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
        direct.remove_temporaries().map_err(|error| failed("clean up", path, &error))?;
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

    fn remove_temporaries(&self) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            if name.as_bytes().ends_with(TEMPORARY.as_bytes()) && is_ours(name.as_bytes()) {
                std::fs::remove_file(self.path.join(name))?;
            }
        }
        self.directory.sync_all()
    }

    /// Opens, locks and syncs all files, one after the other: afterwards no write of an earlier
    /// process is under way, and what is read is what is durable.
    fn lock_files(&mut self) -> Result<(), Error> {
        let path = self.path.join(HARD_STATE_FILE);
        match self.options().open(&path) {
            Ok(file) => {
                lock(&file, &path, self.lock_wait)?;
                file.sync_all().map_err(|error| failed("sync", &path, &error))?;
                self.hard_state = Some(Arc::new(file));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(failed("open", &path, &error)),
        }
        let listed = listed(&self.path).map_err(|error| failed("list", &self.path, &error))?;
        for (segment, _) in listed {
            let path = self.path.join(segment_file(segment));
            let file = self.options().open(&path).map_err(|error| failed("open", &path, &error))?;
            lock(&file, &path, self.lock_wait)?;
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
        listed(&self.path).map_err(|error| disk_error(&error))
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

/// Fills `bytes` with a hard-state file, slot by slot. One that the disk does not give is zeros, as
/// long as it gives the other of the pair: that is what there are two for. A file that is too short
/// has zeros at its end.
pub(crate) fn read_slots(
    bytes: &mut [u8],
    read: impl Fn(&mut [u8], u64) -> io::Result<usize>,
) -> Result<(), DiskError> {
    let mut offset = 0;
    for pair in bytes.chunks_mut(PAIR_BYTES) {
        let mut failed = Vec::new();
        for slot in pair.chunks_mut(BLOCK) {
            if let Err(error) = read_slot(slot, offset, &read) {
                slot.fill(0);
                failed.push(error);
            }
            offset += BLOCK as u64;
        }
        if let [_, error] = &failed[..] {
            return Err(disk_error(error));
        }
    }
    Ok(())
}

fn read_slot(
    slot: &mut [u8],
    offset: u64,
    read: impl Fn(&mut [u8], u64) -> io::Result<usize>,
) -> io::Result<()> {
    let mut at = 0;
    while at < slot.len() {
        match read(&mut slot[at..], offset + at as u64) {
            Ok(0) => break,
            Ok(read) => at += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The segments in a directory with their sizes, rising.
pub(crate) fn listed(path: &Path) -> io::Result<Vec<(SegmentNumber, u64)>> {
    let mut listed = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        if let Some(segment) = segment_number(entry.file_name().as_bytes()) {
            listed.push((segment, entry.metadata()?.len()));
        }
    }
    listed.sort_unstable();
    Ok(listed)
}

fn lock(file: &File, path: &Path, wait: Duration) -> Result<(), Error> {
    let begin = Instant::now();
    loop {
        match try_lock(file) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() != ErrorKind::WouldBlock => {
                return Err(failed("lock", path, &error));
            }
            Err(_) if begin.elapsed() >= wait => {
                return Err(Error::Locked { path: path.display().to_string() });
            }
            Err(_) => std::thread::sleep(LOCK_RETRY.min(wait)),
        }
    }
}

/// Opens and locks the directory at `path`: not one that was moved away while it was waited for.
fn lock_directory(path: &Path, wait: Duration) -> Result<File, Error> {
    for _ in 0..LOCK_TRIES {
        let directory = File::open(path).map_err(|error| failed("open", path, &error))?;
        lock(&directory, path, wait)?;
        let is_there = || -> io::Result<bool> {
            let (locked, named) = (directory.metadata()?, std::fs::metadata(path)?);
            Ok((locked.dev(), locked.ino()) == (named.dev(), named.ino()))
        };
        if is_there().map_err(|error| failed("look at", path, &error))? {
            return Ok(directory);
        }
    }
    Err(Error::Locked { path: path.display().to_string() })
}

/// Makes a directory, and all above it that is missing, so that it stays there when the power goes.
fn make_directory(path: &Path) -> io::Result<()> {
    let absolute = std::path::absolute(path)?;
    let made = absolute.ancestors().take_while(|directory| !directory.exists()).count();
    if !path.is_dir() {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    }
    for parent in absolute.ancestors().skip(1).take(made) {
        File::open(parent)?.sync_all()?;
    }
    if made == 0 && !path.join(HARD_STATE_FILE).exists() {
        // Somebody else has made it just now, or a start that did not come as far as here. Who may
        // not look above it has to have seen to that.
        let parent = absolute.parent().and_then(|parent| File::open(parent).ok());
        parent.map_or(Ok(()), |parent| parent.sync_all())?;
    }
    Ok(())
}

/// Whether the file system does `O_DIRECT`: some refuse it on opening, some only when writing.
/// Where there is no space to try, what is there is read that way.
fn probe(path: &Path) -> io::Result<Mode> {
    let probe = path.join(format!("{HARD_STATE_FILE}.probe{TEMPORARY}"));
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let written = options
        .custom_flags(libc::O_DIRECT)
        .open(&probe)
        .and_then(|file| file.write_all_at(&Buffer::zeroed(BLOCK), 0));
    let removed = std::fs::remove_file(&probe);
    match written {
        Ok(()) => removed.map(|()| Mode::Direct),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(Mode::Buffered),
        Err(error) if disk_error(&error).is_full() => probe_by_reading(path).ok_or(error),
        Err(error) => Err(error),
    }
}

/// `None` if there is nothing to read.
fn probe_by_reading(path: &Path) -> Option<Mode> {
    let mut options = OpenOptions::new();
    let file = options.read(true).custom_flags(libc::O_DIRECT).open(path.join(HARD_STATE_FILE));
    match file.and_then(|file| file.read_at(&mut Buffer::zeroed(BLOCK), 0)) {
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Some(Mode::Buffered),
        _ => Some(Mode::Direct),
    }
}

fn write(file: &File, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
    file.write_all_at(bytes, offset).map_err(|error| disk_error(&error))
}

fn is_ours(name: &[u8]) -> bool {
    name.starts_with(b"segment-")
        || name.starts_with(b"snapshot-")
        || name.starts_with(HARD_STATE_FILE.as_bytes())
}

/// The number in the name of a segment file, if it is exactly that.
pub(crate) fn segment_number(name: &[u8]) -> Option<SegmentNumber> {
    let name = std::str::from_utf8(name).ok()?;
    let digits = name.strip_prefix("segment-")?.strip_suffix(".log")?;
    let number = SegmentNumber(digits.parse().ok()?);
    (segment_file(number) == name).then_some(number)
}

fn failed(action: &'static str, path: &Path, error: &io::Error) -> Error {
    Error::Path { action, path: path.display().to_string(), cause: disk_error(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for number in [1, 9_999_999_999_999_999, u64::MAX] {
            let name = segment_file(SegmentNumber(number));
            assert_eq!(segment_number(name.as_bytes()), Some(SegmentNumber(number)));
        }
        for name in ["segment-1.log", "segment-+000000000000001.log", "hard-state", "segment-.log"]
        {
            assert_eq!(segment_number(name.as_bytes()), None);
        }
    }

    /// A sector of the hard state cannot be read: its twin is there.
    #[test]
    fn a_slot_that_the_disk_does_not_give_is_one_of_two() {
        let given = |lost: &[u64]| {
            let lost = lost.to_vec();
            let mut bytes = vec![0; HARD_STATE_BYTES];
            let read = |bytes: &mut [u8], at: u64| {
                // A read of several sectors fails as a whole.
                let sectors = at / BLOCK as u64..(at + bytes.len() as u64).div_ceil(BLOCK as u64);
                if lost.iter().any(|sector| sectors.contains(sector)) {
                    return Err(io::Error::from_raw_os_error(libc::EIO));
                }
                bytes.fill(sectors.start as u8 + 1);
                Ok(bytes.len())
            };
            let result = read_slots(&mut bytes, read);
            result.map(|()| bytes.chunks(BLOCK).map(|slot| slot[BLOCK / 2]).collect::<Vec<_>>())
        };
        assert_eq!(given(&[]), Ok(vec![1, 2, 3, 4]));
        assert_eq!(given(&[0, 3]), Ok(vec![0, 2, 3, 0]));
        assert_eq!(given(&[2, 3]), Err(DiskError { errno: libc::EIO }));
    }
}
