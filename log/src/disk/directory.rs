//! A log's directory: made, locked, tried out, and what is in it by name.
//!
//! What is where: `segment-0000000000000001.log` and so on, `hard-state`, `snapshot-….mgs`, and
//! while a file is being made the same name with `.tmp`. A file is made under its temporary name,
//! synced, renamed, and the directory synced, so a name stands for a whole file. What a crash left
//! under a temporary name is removed. Making them is `maker.rs`'s, opening them `direct.rs`'s.
//!
//! Locks are `flock`s: on the directory, against a second opener, and on files, for whoever opens
//! them. A lock that is held is waited for, for a while.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::{
    ffi::OsStrExt,
    fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt},
};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::buffer::Buffer;
use crate::disk::sys::{disk_error, failed, try_lock};
use crate::error::{Error, HARD_STATE_FILE, segment_file};
use crate::format::BLOCK;
use crate::id::{Index, SegmentNumber};
use crate::snapshot::snapshot_file;

/// Marks a file that is being made.
pub(crate) const TEMPORARY: &str = ".tmp";
/// How long a lock that somebody holds is waited for.
const LOCK_WAIT: Duration = Duration::from_secs(5);
/// And how long until the next look at it.
pub(super) const LOCK_RETRY: Duration = Duration::from_millis(50);
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
    pub(super) fn flags(self) -> i32 {
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

/// Locks a file, or waits for the lock so long.
pub(super) fn lock_file(file: &File, path: &Path, wait: Duration) -> Result<(), Error> {
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
pub(super) fn lock_directory(path: &Path, wait: Duration) -> Result<File, Error> {
    for _ in 0..LOCK_TRIES {
        let directory = File::open(path).map_err(|error| failed("open", path, &error))?;
        lock_file(&directory, path, wait)?;
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
pub(super) fn make(path: &Path) -> io::Result<()> {
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
pub(super) fn probe(path: &Path) -> io::Result<Mode> {
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

/// Removes what a crash has left of files that were being made. `directory` is the one at `path`.
pub(super) fn remove_temporaries(path: &Path, directory: &File) -> io::Result<()> {
    for entry in std::fs::read_dir(path)? {
        let name = entry?.file_name();
        if name.as_bytes().ends_with(TEMPORARY.as_bytes()) && is_ours(name.as_bytes()) {
            std::fs::remove_file(path.join(name))?;
        }
    }
    directory.sync_all()
}

/// The segments in a directory with their sizes, rising.
pub(crate) fn segments(path: &Path) -> io::Result<Vec<(SegmentNumber, u64)>> {
    listed(path, segment_number)
}

/// The finished snapshots in a directory with their sizes, rising.
pub(crate) fn snapshots(path: &Path) -> io::Result<Vec<(Index, u64)>> {
    listed(path, snapshot_index)
}

/// The files whose names `named` knows, with their sizes, rising.
fn listed<N: Ord>(path: &Path, named: impl Fn(&[u8]) -> Option<N>) -> io::Result<Vec<(N, u64)>> {
    let mut listed = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        if let Some(name) = named(entry.file_name().as_bytes()) {
            listed.push((name, entry.metadata()?.len()));
        }
    }
    listed.sort_unstable();
    Ok(listed)
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

/// The index in the name of a snapshot's file, if it is exactly that.
fn snapshot_index(name: &[u8]) -> Option<Index> {
    let name = std::str::from_utf8(name).ok()?;
    let digits = name.strip_prefix("snapshot-")?.strip_suffix(".mgs")?;
    let index = Index(digits.parse().ok()?);
    (snapshot_file(index) == name).then_some(index)
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
}
