//! A log's directory as it is, for looking only: no locks, nothing is made, changed or removed.
//!
//! A writer may be at work beside. What it does while the directory is read can look like damage,
//! because a place is read before it is written and another after; whoever finds damage looks
//! again.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::buffer::Buffer;
use crate::disk::DiskError;
use crate::disk::directory;
use crate::disk::slots::read_slots;
use crate::disk::sys::{disk_error, failed};
use crate::error::{Error, HARD_STATE_FILE, segment_file};
use crate::format::{BLOCK, SegmentHeader};
use crate::hard_state::HardState;
use crate::id::SegmentNumber;
use crate::options::Options;
use crate::recover::{Opened, Storage};

/// See the module. As [`Storage`] it accepts every change and makes none.
pub struct View {
    path: PathBuf,
    file: Option<(SegmentNumber, Arc<File>)>,
    /// Bytes read so far, of how many.
    read: u64,
    total: u64,
    progress: Option<Box<dyn FnMut(u64, u64)>>,
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").field("path", &self.path).finish_non_exhaustive()
    }
}

impl View {
    /// Looks at a directory.
    ///
    /// # Errors
    /// [`Error::Path`] if there is no log: neither a hard state nor a segment.
    pub fn open(path: &Path) -> Result<View, Error> {
        let segments = directory::segments(path).map_err(|error| failed("list", path, &error))?;
        if segments.is_empty() && !path.join(HARD_STATE_FILE).exists() {
            let missing = io::Error::from_raw_os_error(libc::ENOENT);
            return Err(failed("find a log in", path, &missing));
        }
        let total = segments.iter().map(|(_, size)| size).sum();
        Ok(View { path: path.to_owned(), file: None, read: 0, total, progress: None })
    }

    /// Has `progress` told how many bytes have been read, of how many.
    pub fn on_progress(&mut self, progress: impl FnMut(u64, u64) + 'static) {
        self.progress = Some(Box::new(progress));
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The newest readable hard state.
    ///
    /// # Errors
    /// [`Error::HardStateMissing`], or why it is not readable.
    pub fn newest_hard_state(&mut self) -> Result<HardState, Error> {
        let file = HARD_STATE_FILE.to_owned();
        let bytes = Storage::hard_state(self)
            .map_err(|cause| Error::Storage { action: "read", file, cause })?
            .ok_or(Error::HardStateMissing)?;
        HardState::newest(&bytes).map(|newest| newest.state)
    }

    /// The segment files, with their sizes and, where readable, their headers.
    ///
    /// # Errors
    /// The system's.
    pub fn files(&mut self) -> Result<Vec<(SegmentNumber, u64, Option<SegmentHeader>)>, DiskError> {
        let mut files = Vec::new();
        for (number, size) in Storage::segments(self)? {
            let mut block = Buffer::zeroed(BLOCK);
            let read = self.read_at(number, 0, &mut block);
            let header = read.ok().and_then(|()| SegmentHeader::decode(&block).ok());
            files.push((number, size, header));
        }
        Ok(files)
    }

    /// Walks over all of it and says what it holds, whosever it is. Damage is reported.
    ///
    /// # Errors
    /// As [`crate::open`].
    pub fn walk(&mut self) -> Result<Opened, Error> {
        let hard = self.newest_hard_state()?;
        let options = Options {
            cluster: hard.cluster,
            group: hard.group,
            incarnation: hard.incarnation,
            ..Options::default()
        };
        self.read = 0;
        crate::open(self, options)
    }

    fn read_at(&mut self, segment: SegmentNumber, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let file = match &self.file {
            Some((number, file)) if *number == segment => Arc::clone(file),
            _ => {
                let file = Arc::new(open_to_read(&self.path.join(segment_file(segment)))?);
                self.file = Some((segment, Arc::clone(&file)));
                file
            }
        };
        file.read_exact_at(bytes, offset)
    }
}

/// Opens a file past the page cache, where the file system can.
pub(crate) fn open_to_read(path: &Path) -> io::Result<File> {
    match OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => File::open(path),
        other => other,
    }
}

impl Storage for View {
    fn segments(&mut self) -> Result<Vec<(SegmentNumber, u64)>, DiskError> {
        directory::segments(&self.path).map_err(|error| disk_error(&error))
    }

    fn read(
        &mut self,
        segment: SegmentNumber,
        offset: u64,
        bytes: &mut [u8],
    ) -> Result<(), DiskError> {
        self.read += bytes.len() as u64;
        if let Some(progress) = &mut self.progress {
            progress(self.read.min(self.total), self.total);
        }
        self.read_at(segment, offset, bytes).map_err(|error| disk_error(&error))
    }

    fn hard_state(&mut self) -> Result<Option<Vec<u8>>, DiskError> {
        match File::open(self.path.join(HARD_STATE_FILE)) {
            Ok(file) => {
                let mut bytes = vec![0; crate::hard_state::HARD_STATE_BYTES];
                read_slots(&mut bytes, |bytes, at| file.read_at(bytes, at))?;
                Ok(Some(bytes))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(disk_error(&error)),
        }
    }

    fn create_hard_state(&mut self, _: &Buffer) -> Result<(), DiskError> {
        Err(DiskError { errno: libc::EROFS })
    }

    fn write_hard_state(&mut self, _: u8, _: &Buffer) -> Result<(), DiskError> {
        Ok(())
    }

    fn prepare(&mut self, _: SegmentNumber, _: u64, _: &Buffer) -> Result<(), DiskError> {
        Ok(())
    }

    fn remove(&mut self, _: SegmentNumber) -> Result<(), DiskError> {
        Ok(())
    }

    fn entropy(&mut self) -> u64 {
        1
    }
}
