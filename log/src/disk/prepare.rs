//! Preparing a segment through a ring, step by step, one entry under way at a time: filling it with
//! zeros never holds up a log write for longer than one piece of it takes.
//!
//! ```text
//! create ─► allocate ─► header ─► zeros … ─► sync ─► rename ─► sync directory ─► open
//! ```
//!
//! From a file that was set aside it is open ─► header ─► sync, and on as above.
//!
//! Zeros are written because a durable write over written space costs half of one over space that
//! is merely reserved, and because recovery tells by zeros what was never written.
//!
//! Invariant: the segment has its name only when all of it is durable.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use io_uring::{opcode, squeue, types};

use crate::buffer::Buffer;
use crate::disk::DiskError;
use crate::disk::direct::Direct;
use crate::disk::directory::TEMPORARY;
use crate::disk::driver::{EIO, c_string, checked};
use crate::disk::maker::spare_file;
use crate::disk::sys::{disk_error, try_lock};
use crate::error::segment_file;
use crate::format::BLOCK;
use crate::id::SegmentNumber;

/// One segment on its way.
#[derive(Debug)]
pub(crate) struct Prepare {
    segment: SegmentNumber,
    size: u64,
    header: Arc<Buffer>,
    zeros: Arc<Buffer>,
    directory: Arc<File>,
    temporary: CString,
    name: CString,
    step: Step,
    /// `temporary` is a file that was set aside.
    is_spare: bool,
    /// The file under its temporary name.
    file: Option<File>,
    fill_flags: i32,
    write_flags: i32,
    rename_flags: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Create,
    Allocate,
    /// Write at this offset.
    Fill(u64),
    Sync,
    Rename,
    SyncDirectory,
    Open,
}

impl Prepare {
    pub(crate) fn new(
        files: &Direct,
        segment: SegmentNumber,
        size: u64,
        header: Arc<Buffer>,
        zeros: Arc<Buffer>,
        spare: Option<SegmentNumber>,
    ) -> Prepare {
        let name = segment_file(segment);
        let temporary = spare.map_or_else(|| format!("{name}{TEMPORARY}"), spare_file);
        Prepare {
            segment,
            size,
            header,
            zeros,
            directory: Arc::clone(files.directory()),
            temporary: c_string(temporary),
            name: c_string(name),
            step: Step::Create,
            is_spare: spare.is_some(),
            file: None,
            fill_flags: files.fill_flags(),
            write_flags: files.write_flags(),
            rename_flags: libc::RENAME_NOREPLACE,
        }
    }

    pub(crate) fn segment(&self) -> SegmentNumber {
        self.segment
    }

    /// The entry of the step that is due.
    pub(crate) fn entry(&mut self) -> squeue::Entry {
        let directory = types::Fd(self.directory.as_raw_fd());
        let file = types::Fd(self.file.as_ref().map_or(-1, AsRawFd::as_raw_fd));
        match self.step {
            Step::Create => opcode::OpenAt::new(directory, self.temporary.as_ptr())
                .flags(self.create_flags())
                .mode(0o600)
                .build(),
            Step::Allocate => opcode::Fallocate::new(file, self.size).build(),
            Step::Fill(at) => {
                let (bytes, length) = self.piece(at);
                opcode::Write::new(file, bytes.as_ptr(), length).offset(at).build()
            }
            Step::Sync => opcode::Fsync::new(file).build(),
            Step::Rename => opcode::RenameAt::new(
                directory,
                self.temporary.as_ptr(),
                directory,
                self.name.as_ptr(),
            )
            .flags(self.rename_flags)
            .build(),
            Step::SyncDirectory => opcode::Fsync::new(directory).build(),
            Step::Open => opcode::OpenAt::new(directory, self.name.as_ptr())
                .flags(libc::O_RDWR | libc::O_CLOEXEC | self.write_flags)
                .build(),
        }
    }

    fn create_flags(&self) -> i32 {
        let empty = if self.is_spare { 0 } else { libc::O_CREAT | libc::O_TRUNC };
        libc::O_RDWR | libc::O_CLOEXEC | empty | self.fill_flags
    }

    /// Up to where it is written: all of it, or the header alone.
    fn filled(&self) -> u64 {
        if self.is_spare { BLOCK as u64 } else { self.size }
    }

    /// What is written at `at`: the header block, then zeros.
    fn piece(&self, at: u64) -> (&[u8], u32) {
        let bytes = if at == 0 { &self.header[..] } else { &self.zeros[..] };
        let length = (self.size - at).min(bytes.len() as u64);
        (bytes, length as u32)
    }

    /// Takes the result of a step; the finished file after the last one.
    pub(crate) fn advance(
        &mut self,
        result: i32,
        adopt: fn(i32) -> File,
    ) -> Result<Option<File>, DiskError> {
        let next = match (self.step, checked(result)) {
            (Step::Create, Ok(descriptor)) => {
                self.file = Some(adopt(descriptor as i32));
                if self.is_spare { Step::Fill(0) } else { Step::Allocate }
            }
            (Step::Allocate, Ok(_)) => Step::Fill(0),
            (Step::Allocate, Err(DiskError { errno: libc::EOPNOTSUPP | libc::ENOSYS })) => {
                Step::Fill(0)
            }
            (Step::Fill(at), Ok(written)) => {
                let end = at + u64::from(written);
                let blocks = end - end % BLOCK as u64;
                if blocks <= at {
                    return Err(EIO);
                }
                if blocks < self.filled() { Step::Fill(blocks) } else { Step::Sync }
            }
            (Step::Sync, Ok(_)) => Step::Rename,
            (Step::Rename, Ok(_)) => Step::SyncDirectory,
            (Step::Rename, Err(DiskError { errno: libc::EINVAL })) if self.rename_flags != 0 => {
                // The file system cannot promise not to replace; the directory's lock must do.
                self.rename_flags = 0;
                Step::Rename
            }
            (Step::SyncDirectory, Ok(_)) => Step::Open,
            (Step::Open, Ok(descriptor)) => {
                let file = adopt(descriptor as i32);
                try_lock(&file).map_err(|error| disk_error(&error))?;
                return Ok(Some(file));
            }
            (_, Err(error)) => return Err(error),
        };
        self.step = next;
        Ok(None)
    }

    /// Removes what a failed attempt has left, so that the next one can begin. Blocks for a moment;
    /// the log waits a hundred milliseconds before it tries again anyway.
    pub(crate) fn clean_up(&mut self, files: &Direct) {
        self.file = None;
        let renamed = matches!(self.step, Step::SyncDirectory | Step::Open);
        let left = if renamed { &self.name } else { &self.temporary };
        // Should this fail, the next opening removes it.
        let _ = std::fs::remove_file(files.path().join(OsStr::from_bytes(left.to_bytes())));
    }
}
