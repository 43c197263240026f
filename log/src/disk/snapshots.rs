//! The files of snapshots in a log's directory: which are there, which are open, and each step of
//! their life as a plain call.
//!
//! A snapshot is written under `….mgs.tmp`, past the page cache where that is possible, synced
//! once, renamed, and its directory synced. No locks: what the writes of a killed process can still
//! reach is a temporary file, and that is removed on opening.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::buffer::Buffer;
use crate::disk::direct::{TEMPORARY, disk_error};
use crate::disk::{DiskError, SnapshotStep};
use crate::id::Index;
use crate::snapshot::snapshot_file;

/// Finished snapshots kept open for reading, at most.
const OPEN_MAX: usize = 2;
const ENOENT: DiskError = DiskError { errno: libc::ENOENT };

/// The snapshots of one directory.
#[derive(Debug)]
pub(crate) struct SnapshotFiles {
    path: PathBuf,
    directory: Arc<File>,
    /// Flags of a descriptor that reads, or writes what is synced later.
    flags: i32,
    /// The one being made.
    making: Option<(Index, Arc<File>)>,
    /// Finished ones, the most recently used last.
    open: Vec<(Index, Arc<File>)>,
}

impl SnapshotFiles {
    pub(crate) fn new(path: &Path, directory: Arc<File>, flags: i32) -> SnapshotFiles {
        SnapshotFiles { path: path.to_owned(), directory, flags, making: None, open: Vec::new() }
    }

    /// Those that are there, with their sizes.
    pub(crate) fn list(&self) -> io::Result<Vec<(Index, u64)>> {
        let mut listed = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let entry = entry?;
            if let Some(index) = snapshot_index(entry.file_name().as_bytes()) {
                listed.push((index, entry.metadata()?.len()));
            }
        }
        listed.sort_unstable();
        Ok(listed)
    }

    /// Begins a file, in place of one that was begun.
    pub(crate) fn begin(&mut self, snapshot: Index) -> Result<(), DiskError> {
        self.making = None;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true).mode(0o600);
        let file = options.custom_flags(self.flags).open(self.temporary(snapshot));
        self.making = Some((snapshot, Arc::new(file.map_err(|error| disk_error(&error))?)));
        Ok(())
    }

    /// The file being made.
    pub(crate) fn making(&self, snapshot: Index) -> Result<Arc<File>, DiskError> {
        let making = self.making.as_ref().filter(|&&(making, _)| making == snapshot);
        making.map(|(_, file)| Arc::clone(file)).ok_or(ENOENT)
    }

    /// A finished file, opened if it is not open.
    pub(crate) fn finished(&mut self, snapshot: Index) -> Result<Arc<File>, DiskError> {
        if let Some(at) = self.open.iter().position(|&(index, _)| index == snapshot) {
            self.open[at..].rotate_left(1);
        } else {
            let mut options = OpenOptions::new();
            let file = options.read(true).custom_flags(self.flags).open(self.named(snapshot));
            let file = Arc::new(file.map_err(|error| disk_error(&error))?);
            if self.open.len() >= OPEN_MAX {
                self.open.remove(0);
            }
            self.open.push((snapshot, file));
        }
        let (_, file) = self.open.last().expect("just moved there");
        Ok(Arc::clone(file))
    }

    /// The file has its name now, or is given up.
    pub(crate) fn made(&mut self, snapshot: Index) {
        self.making = self.making.take().filter(|&(making, _)| making != snapshot);
        self.close(snapshot);
    }

    /// Closes a finished file.
    pub(crate) fn close(&mut self, snapshot: Index) {
        self.open.retain(|&(index, _)| index != snapshot);
    }

    /// One step, with plain calls.
    pub(crate) fn perform(
        &mut self,
        snapshot: Index,
        step: &SnapshotStep,
    ) -> Result<Option<Buffer>, DiskError> {
        match step {
            SnapshotStep::Begin => self.begin(snapshot).map(|()| None),
            SnapshotStep::Write { offset, data } => {
                let written = self.making(snapshot)?.write_all_at(data, *offset);
                written.map(|()| None).map_err(|error| disk_error(&error))
            }
            SnapshotStep::Publish => {
                let file = self.making(snapshot)?;
                let published = file
                    .sync_all()
                    .and_then(|()| std::fs::rename(self.temporary(snapshot), self.named(snapshot)))
                    .and_then(|()| self.directory.sync_all());
                self.made(snapshot);
                published.map(|()| None).map_err(|error| disk_error(&error))
            }
            SnapshotStep::Discard => {
                self.made(snapshot);
                remove(&self.temporary(snapshot)).map(|()| None)
            }
            SnapshotStep::Read { offset, length } => {
                let mut buffer = Buffer::zeroed(*length as usize);
                self.read(snapshot, *offset, &mut buffer).map(|()| Some(buffer))
            }
            SnapshotStep::Remove => {
                self.close(snapshot);
                remove(&self.named(snapshot)).map(|()| None)
            }
        }
    }

    /// Fills `bytes` from a finished snapshot.
    pub(crate) fn read(
        &mut self,
        snapshot: Index,
        offset: u64,
        bytes: &mut [u8],
    ) -> Result<(), DiskError> {
        let file = self.finished(snapshot)?;
        file.read_exact_at(bytes, offset).map_err(|error| disk_error(&error))
    }

    fn named(&self, snapshot: Index) -> PathBuf {
        self.path.join(snapshot_file(snapshot))
    }

    fn temporary(&self, snapshot: Index) -> PathBuf {
        self.path.join(format!("{}{TEMPORARY}", snapshot_file(snapshot)))
    }
}

fn remove(path: &Path) -> Result<(), DiskError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(disk_error(&error)),
        _ => Ok(()),
    }
}

/// The index in the name of a snapshot's file, if it is exactly that.
fn snapshot_index(name: &[u8]) -> Option<Index> {
    let name = std::str::from_utf8(name).ok()?;
    let digits = name.strip_prefix("snapshot-")?.strip_suffix(".mgs")?;
    let index = Index(digits.parse().ok()?);
    (snapshot_file(index) == name).then_some(index)
}
