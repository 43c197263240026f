//! Making, removing and using again whole files of a log, with plain calls. Whoever writes to them
//! opens them.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::buffer::Buffer;
use crate::disk::DiskError;
#[cfg(doc)]
use crate::disk::Op;
use crate::disk::directory::TEMPORARY;
use crate::disk::sys::{allocate, disk_error, rename_new};
use crate::error::segment_file;
use crate::id::SegmentNumber;

/// Zeros are written this many bytes at a time.
pub(crate) const ZEROS: usize = 256 << 10;

/// Makes and removes whole files. Whoever writes to them opens them.
#[derive(Debug)]
pub(crate) struct Maker {
    path: PathBuf,
    directory: Arc<File>,
    fill_flags: i32,
}

impl Maker {
    /// In a directory that is locked. `fill_flags` are those of a descriptor that fills a file.
    pub(crate) fn new(path: PathBuf, directory: Arc<File>, fill_flags: i32) -> Maker {
        Maker { path, directory, fill_flags }
    }

    /// Makes a file of `size` bytes, `front` and then zeros: whole, or after a crash not at all.
    pub(crate) fn make(&self, name: &str, size: u64, front: &[u8]) -> io::Result<()> {
        let temporary = self.path.join(format!("{name}{TEMPORARY}"));
        let made = self.make_temporary(&temporary, size, front);
        let renamed = made.and_then(|()| rename_new(&temporary, &self.path.join(name)));
        if let Err(error) = renamed {
            let _ = std::fs::remove_file(&temporary);
            return Err(error);
        }
        self.sync_name(name)
    }

    /// Makes a file's new name durable, or takes it away again: whoever tries once more finds it
    /// free.
    fn sync_name(&self, name: &str) -> io::Result<()> {
        let synced = self.directory.sync_all();
        if synced.is_err() {
            let _ = std::fs::remove_file(self.path.join(name));
        }
        synced
    }

    fn make_temporary(&self, path: &Path, size: u64, front: &[u8]) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let file = options.custom_flags(self.fill_flags).open(path)?;
        allocate(&file, size)?;
        file.write_all_at(front, 0)?;
        let zeros = Buffer::zeroed(ZEROS);
        let mut at = front.len() as u64;
        while at < size {
            let length = (size - at).min(ZEROS as u64);
            file.write_all_at(&zeros[..length as usize], at)?;
            at += length;
        }
        file.sync_all()
    }

    /// As [`Op::Prepare`].
    pub(crate) fn prepare(
        &self,
        segment: SegmentNumber,
        size: u64,
        header: &Buffer,
    ) -> Result<(), DiskError> {
        let made = self.make(&segment_file(segment), size, header);
        made.map_err(|error| disk_error(&error))
    }

    /// As [`Op::Rewrite`].
    pub(crate) fn rewrite(&self, segment: SegmentNumber, data: &Buffer) -> Result<(), DiskError> {
        let name = segment_file(segment);
        let temporary = self.path.join(format!("{name}{TEMPORARY}"));
        let made = self.make_temporary(&temporary, data.len() as u64, data);
        let replaced = made.and_then(|()| std::fs::rename(&temporary, self.path.join(name)));
        if let Err(error) = replaced {
            let _ = std::fs::remove_file(&temporary);
            return Err(disk_error(&error));
        }
        // From here on there is only the new file to read. Should the directory not become durable,
        // a crash brings back the former one, as a crash before would have.
        let _ = self.directory.sync_all();
        Ok(())
    }

    /// As [`Op::Prepare`] from the file of another segment. What was written to that is durable,
    /// and so is the new header before the file has its new name.
    pub(crate) fn reuse(
        &self,
        spare: SegmentNumber,
        segment: SegmentNumber,
        header: &Buffer,
    ) -> Result<(), DiskError> {
        let from = self.path.join(spare_file(spare));
        let mut options = OpenOptions::new();
        let file = options.write(true).custom_flags(self.fill_flags).open(&from);
        let made = file
            .and_then(|file| file.write_all_at(header, 0).and_then(|()| file.sync_all()))
            .and_then(|()| rename_new(&from, &self.path.join(segment_file(segment))));
        if let Err(error) = made {
            let _ = std::fs::remove_file(&from);
            return Err(disk_error(&error));
        }
        self.sync_name(&segment_file(segment)).map_err(|error| disk_error(&error))
    }

    /// As [`Op::Retire`] that keeps the file. Under its new name opening removes it, under the old
    /// one as well: so nothing is synced.
    pub(crate) fn set_aside(&self, segment: SegmentNumber) -> Result<(), DiskError> {
        let from = self.path.join(segment_file(segment));
        let renamed = std::fs::rename(from, self.path.join(spare_file(segment)));
        renamed.map_err(|error| disk_error(&error))
    }

    /// As [`Op::Retire`].
    pub(crate) fn remove(&self, segment: SegmentNumber) -> Result<(), DiskError> {
        let removed = std::fs::remove_file(self.path.join(segment_file(segment)));
        removed.map_err(|error| disk_error(&error))
    }
}

/// The name of a retired segment's file that is kept for a later one.
pub(crate) fn spare_file(segment: SegmentNumber) -> String {
    format!("{}.spare{TEMPORARY}", segment_file(segment))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::BLOCK;

    /// The directory refuses to be synced once: the next attempt finds the name free, and what was
    /// rewritten is what the log is told.
    #[test]
    fn a_directory_that_is_not_synced_leaves_no_half_way() {
        let path = std::env::temp_dir().join(format!("margay-maker-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory");
        let (good, bad) = (File::open(&path), File::open("/dev/null"));
        let maker = |directory: io::Result<File>| {
            Maker::new(path.clone(), Arc::new(directory.expect("opens")), 0)
        };
        let (good, bad) = (maker(good), maker(bad));
        let (header, size) = (Buffer::zeroed(BLOCK), 4 * BLOCK as u64);
        let file = |number| path.join(segment_file(SegmentNumber(number)));

        bad.prepare(SegmentNumber(1), size, &header).expect_err("not durable");
        good.prepare(SegmentNumber(1), size, &header).expect("at the second attempt");

        good.set_aside(SegmentNumber(1)).expect("kept");
        bad.reuse(SegmentNumber(1), SegmentNumber(2), &header).expect_err("not durable");
        good.prepare(SegmentNumber(2), size, &header).expect("at the second attempt");

        let mut data = Buffer::zeroed(BLOCK);
        data.fill(7);
        bad.rewrite(SegmentNumber(2), &data).expect("exchanged");
        assert_eq!(std::fs::read(file(2)).expect("there"), data[..]);
        std::fs::remove_dir_all(&path).expect("ours");
    }
}
