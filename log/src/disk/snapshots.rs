//! The files of snapshots in a log's directory: which are there, which are open, and each step of
//! their life as a plain call.
//!
//! A snapshot is written under `….mgs.tmp`, past the page cache where that is possible, synced
//! once, renamed, and its directory synced. No locks: what the writes of a killed process can still
//! reach is a temporary file, and that is removed on opening.
//!
//! The file of one that is removed is set aside and becomes the next: it is written over, where a
//! new one has its blocks allocated write by write, and to delete 1 GiB can hold the whole disk up
//! for 40 ms (docs/BENCHMARKS.md). Its old name is gone for certain before anything is written to
//! it.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::buffer::Buffer;
use crate::disk::directory::{self, TEMPORARY};
use crate::disk::sys::disk_error;
use crate::disk::{DiskError, SnapshotStep};
use crate::id::Index;
use crate::snapshot::snapshot_file;

/// Finished snapshots kept open for reading, at most.
const OPEN_MAX: usize = 2;
/// The file of a removed snapshot that becomes the next: a temporary one, which opening removes.
pub(crate) const SPARE_FILE: &str = "snapshot-spare.mgs.tmp";
const ENOENT: DiskError = DiskError { errno: libc::ENOENT };

/// The snapshots of one directory.
#[derive(Debug)]
pub(crate) struct SnapshotFiles {
    path: PathBuf,
    directory: Arc<File>,
    /// Flags of a descriptor that reads, or writes what is synced later.
    flags: i32,
    making: Option<Making>,
    spare: Spare,
    /// Finished ones, the most recently used last.
    open: Vec<(Index, Arc<File>)>,
}

/// The one being made.
#[derive(Debug)]
struct Making {
    snapshot: Index,
    file: Arc<File>,
    /// Bytes that the file had already.
    length: u64,
    /// Where what has been written to it ends.
    end: u64,
}

/// The file of a removed snapshot, kept for the next one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Spare {
    #[default]
    None,
    /// It is getting its temporary name.
    Coming,
    Kept,
}

impl SnapshotFiles {
    pub(crate) fn new(path: &Path, directory: Arc<File>, flags: i32) -> SnapshotFiles {
        let (making, spare, open) = (None, Spare::None, Vec::new());
        SnapshotFiles { path: path.to_owned(), directory, flags, making, spare, open }
    }

    /// Those that are there, with their sizes.
    pub(crate) fn list(&self) -> io::Result<Vec<(Index, u64)>> {
        directory::snapshots(&self.path)
    }

    /// Begins a file, in place of one that was begun.
    pub(crate) fn begin(&mut self, snapshot: Index) -> Result<(), DiskError> {
        self.making = None;
        let path = self.temporary(snapshot);
        let is_used_again =
            self.take_spare() && std::fs::rename(self.path.join(SPARE_FILE), &path).is_ok();
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(!is_used_again).mode(0o600);
        let opened = options.custom_flags(self.flags).open(path);
        let opened = opened.and_then(|file| Ok((file.metadata()?.len(), file)));
        let (length, file) = opened.map_err(|error| disk_error(&error))?;
        self.making = Some(Making { snapshot, file: Arc::new(file), length, end: 0 });
        Ok(())
    }

    /// The file being made, for a write that ends at `end`.
    pub(crate) fn writing(&mut self, snapshot: Index, end: u64) -> Result<Arc<File>, DiskError> {
        let making = self.making(snapshot)?;
        making.end = making.end.max(end);
        Ok(Arc::clone(&making.file))
    }

    /// The file being made, all of it written: what it had been longer is cut off.
    pub(crate) fn written(&mut self, snapshot: Index) -> Result<Arc<File>, DiskError> {
        let making = self.making(snapshot)?;
        if making.length > making.end {
            making.file.set_len(making.end).map_err(|error| disk_error(&error))?;
        }
        Ok(Arc::clone(&making.file))
    }

    fn making(&mut self, snapshot: Index) -> Result<&mut Making, DiskError> {
        self.making.as_mut().filter(|making| making.snapshot == snapshot).ok_or(ENOENT)
    }

    /// Whether the file of a snapshot that is removed now is to get the name [`SPARE_FILE`],
    /// durably, instead of being deleted: one of them, unless somebody still reads it. Whoever does
    /// it says so with [`SnapshotFiles::on_set_aside`].
    pub(crate) fn sets_aside(&mut self, snapshot: Index) -> bool {
        let mut open = self.open.iter().filter(|&&(index, _)| index == snapshot);
        let is_read = open.any(|(_, file)| Arc::strong_count(file) > 1);
        let takes = self.spare == Spare::None && !is_read;
        if takes {
            self.spare = Spare::Coming;
        }
        takes
    }

    /// A file was set aside, or was not there, or could not be.
    pub(crate) fn on_set_aside(&mut self, is_kept: bool) {
        self.spare = if is_kept { Spare::Kept } else { Spare::None };
    }

    /// Whether there was one: it is the caller's now.
    fn take_spare(&mut self) -> bool {
        let is_kept = self.spare == Spare::Kept;
        if is_kept {
            self.spare = Spare::None;
        }
        is_kept
    }

    /// Deletes the file that is kept, as the disk is full.
    pub(crate) fn give_up_spare(&mut self) {
        if self.take_spare() {
            // One that stays is removed by the next opening.
            let _ = remove(&self.path.join(SPARE_FILE));
        }
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
        self.making = self.making.take().filter(|making| making.snapshot != snapshot);
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
                let file = self.writing(snapshot, offset + data.len() as u64)?;
                let written = file.write_all_at(data, *offset);
                written.map(|()| None).map_err(|error| disk_error(&error))
            }
            SnapshotStep::Publish => {
                let file = self.written(snapshot)?;
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
                let sets_aside = self.sets_aside(snapshot);
                self.close(snapshot);
                let named = self.named(snapshot);
                if !sets_aside {
                    return remove(&named).map(|()| None);
                }
                let renamed = std::fs::rename(named, self.path.join(SPARE_FILE));
                let renamed = renamed.and_then(|()| self.directory.sync_all());
                self.on_set_aside(renamed.is_ok());
                unless_gone(renamed).map(|()| None)
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
    unless_gone(std::fs::remove_file(path))
}

/// What is not there need not be removed.
fn unless_gone(removed: io::Result<()>) -> Result<(), DiskError> {
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(disk_error(&error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_gets_the_spare_back() {
        let path = std::env::temp_dir().join(format!("margay-spare-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory");
        let directory = Arc::new(File::open(&path).expect("just made"));
        let mut files = SnapshotFiles::new(&path, directory, 0);
        for step in [SnapshotStep::Begin, SnapshotStep::Publish, SnapshotStep::Remove] {
            files.perform(Index(7), &step).expect("done");
        }
        assert!(path.join(SPARE_FILE).exists());
        files.give_up_spare();
        assert!(!path.join(SPARE_FILE).exists());
        files.begin(Index(8)).expect("a new one");
        std::fs::remove_dir_all(&path).expect("ours");
    }
}
