//! A read or a write through a ring, in as many pieces as the kernel makes of it.
//!
//! Invariant: what an entry points to belongs to its transfer until the completion.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use io_uring::{opcode, squeue, types};

use crate::buffer::Buffer;
use crate::disk::driver::{EIO, checked};
use crate::disk::sys::disk_error;
use crate::disk::{DiskError, Done};
use crate::format::BLOCK;
use crate::id::Ticket;

/// A read or a write, possibly in several pieces.
#[derive(Debug)]
pub(super) struct Transfer {
    ticket: Ticket,
    file: Arc<File>,
    offset: u64,
    data: Data,
    transferred: usize,
}

#[derive(Debug)]
pub(super) enum Data {
    Write(Arc<Buffer>),
    Mend(Arc<Buffer>),
    HardState(Arc<Buffer>),
    Snapshot(Arc<Buffer>),
    Read(Buffer),
    ReadSnapshot(Buffer),
}

impl Data {
    fn len(&self) -> usize {
        match self {
            Data::Write(buffer)
            | Data::Mend(buffer)
            | Data::HardState(buffer)
            | Data::Snapshot(buffer) => buffer.len(),
            Data::Read(buffer) | Data::ReadSnapshot(buffer) => buffer.len(),
        }
    }

    /// Nobody gives its memory back.
    fn leak(&mut self) {
        match self {
            Data::Write(buffer)
            | Data::Mend(buffer)
            | Data::HardState(buffer)
            | Data::Snapshot(buffer) => std::mem::forget(Arc::clone(buffer)),
            Data::Read(buffer) | Data::ReadSnapshot(buffer) => {
                std::mem::forget(std::mem::replace(buffer, Buffer::empty()));
            }
        }
    }
}

impl Transfer {
    pub(super) fn new(ticket: Ticket, file: Arc<File>, offset: u64, data: Data) -> Transfer {
        Transfer { ticket, file, offset, data, transferred: 0 }
    }

    /// The entry of the piece that is due.
    pub(super) fn entry(&mut self) -> squeue::Entry {
        let file = types::Fd(self.file.as_raw_fd());
        let (from, left) = (self.transferred, self.data.len() - self.transferred);
        let offset = self.offset + from as u64;
        assert!(left > 0);
        match &mut self.data {
            Data::Write(data) | Data::Mend(data) | Data::HardState(data) | Data::Snapshot(data) => {
                opcode::Write::new(file, data[from..].as_ptr(), left as u32).offset(offset).build()
            }
            Data::Read(buffer) | Data::ReadSnapshot(buffer) => {
                let bytes = &mut buffer[from..];
                opcode::Read::new(file, bytes.as_mut_ptr(), left as u32).offset(offset).build()
            }
        }
    }

    /// Goes on after a short transfer, ends after the last piece.
    pub(super) fn advance(mut self, result: i32) -> Result<Transfer, Done> {
        match checked(result) {
            Err(error) => Err(self.finish(Err(error))),
            // The file ends, or takes nothing.
            Ok(0) => Err(self.finish(Err(EIO))),
            Ok(bytes) => {
                let end = self.transferred + bytes as usize;
                if end >= self.data.len() {
                    return Err(self.finish(Ok(())));
                }
                // A piece is continued at a block, as O_DIRECT demands; a part of one is done
                // again. No block at all is progress too small to be believed.
                let blocks = end - end % BLOCK;
                if blocks == self.transferred {
                    return Err(self.finish(Err(EIO)));
                }
                self.transferred = blocks;
                Ok(self)
            }
        }
    }

    /// Does it with a plain call, if it is a write of the log's.
    pub(super) fn write_now(&self) -> Option<Result<(), DiskError>> {
        let (Data::Write(data) | Data::HardState(data)) = &self.data else { return None };
        let written = self.file.write_all_at(data, self.offset);
        Some(written.map_err(|error| disk_error(&error)))
    }

    /// Ends it with `error`. The kernel may still read or write what it was about.
    pub(super) fn fail(mut self, error: DiskError) -> Done {
        self.data.leak();
        self.finish(Err(error))
    }

    pub(super) fn finish(self, result: Result<(), DiskError>) -> Done {
        let ticket = self.ticket;
        match self.data {
            Data::Write(_) => Done::Write { ticket, result },
            Data::Mend(_) => Done::Mend { ticket, result },
            Data::HardState(_) => Done::HardState { ticket, result },
            Data::Read(buffer) => Done::Read { ticket, result: result.map(|()| buffer) },
            Data::Snapshot(_) => Done::Snapshot { ticket, result: result.map(|()| None) },
            Data::ReadSnapshot(buffer) => {
                Done::Snapshot { ticket, result: result.map(|()| Some(buffer)) }
            }
        }
    }
}
