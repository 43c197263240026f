//! Segment files as readers see them: opened for reading alone, past the page cache where the file
//! system can, without locks. A file that is removed or replaced stays readable for whoever has it
//! open.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::disk::DiskError;
use crate::disk::sys::{disk_error, is_short_of_descriptors};
use crate::disk::view::open_to_read;
use crate::error::segment_file;
use crate::format::BatchHeader;
use crate::id::{Incarnation, Position, SegmentNumber};
use crate::pack::{Entries, verified};
use crate::segment::BatchRef;

/// Segments kept open for reading, at most.
const FILES_MAX: usize = 16;

/// See the module.
#[derive(Debug)]
pub(crate) struct Files {
    path: PathBuf,
    salt: u32,
    incarnation: Incarnation,
    /// The most recently used last.
    open: Mutex<Vec<(SegmentNumber, Arc<File>)>>,
}

impl Files {
    pub(crate) fn new(path: &Path, salt: u32, incarnation: Incarnation) -> Files {
        Files { path: path.to_owned(), salt, incarnation, open: Mutex::new(Vec::new()) }
    }

    /// Fills `bytes`, whole blocks, from a segment.
    pub(crate) fn read(&self, position: Position, bytes: &mut [u8]) -> Result<(), DiskError> {
        let file = self.file(position.segment).map_err(|error| disk_error(&error))?;
        file.read_exact_at(bytes, position.offset).map_err(|error| disk_error(&error))
    }

    /// Forgets a segment that is gone or replaced.
    pub(crate) fn forget(&self, segment: SegmentNumber) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|&(number, _)| number != segment);
    }

    /// Forgets all of them.
    pub(crate) fn forget_all(&self) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The batch at the front of `bytes`, if that is whole and the one that is listed.
    pub(crate) fn verified<'a>(
        &self,
        segment: SegmentNumber,
        listed: &BatchRef,
        bytes: &'a [u8],
    ) -> Option<(BatchHeader, Entries<'a>)> {
        verified(self.salt, self.incarnation, segment, listed, bytes)
    }

    fn file(&self, segment: SegmentNumber) -> io::Result<Arc<File>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = open.iter().position(|&(number, _)| number == segment) {
            open[at..].rotate_left(1);
        } else {
            let path = self.path.join(segment_file(segment));
            let file = match open_to_read(&path) {
                // Those of other segments are open to be at hand.
                Err(error) if is_short_of_descriptors(&error) => {
                    open.clear();
                    open_to_read(&path)
                }
                opened => opened,
            }?;
            if open.len() >= FILES_MAX {
                open.remove(0);
            }
            open.push((segment, Arc::new(file)));
        }
        let (_, file) = open.last().expect("just put there");
        Ok(Arc::clone(file))
    }
}
