//! A snapshot's file on its way to its name, or out of the way, through a ring: step by step, one
//! entry under way at a time.
//!
//! ```text
//! sync ─► rename ─► sync directory        a new snapshot
//!         rename ─► sync directory        one that is removed, and whose file is kept
//! delete                                  one that is removed, or given up
//! ```
//!
//! The same steps as plain calls are in `snapshots.rs`, and which files there are.
//!
//! Invariant: a snapshot has its name only when all of it is durable.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use io_uring::{opcode, squeue, types};

use crate::disk::directory::TEMPORARY;
use crate::disk::driver::{c_string, checked};
use crate::disk::snapshots::{SPARE_FILE, SnapshotFiles};
use crate::disk::{DiskError, Done};
use crate::id::{Index, Ticket};
use crate::snapshot::snapshot_file;

/// A snapshot's file on its way to its name, or out of the way.
#[derive(Debug)]
pub(super) struct Publish {
    ticket: Ticket,
    file: Option<Arc<File>>,
    directory: Arc<File>,
    from: CString,
    to: CString,
    step: PublishStep,
    /// It is no new snapshot that gets another name, but one that is removed.
    sets_aside: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum PublishStep {
    Sync,
    Rename,
    SyncDirectory,
    /// Delete `from`: that is all.
    Delete,
}

/// What is to become of the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Aim {
    Publish,
    Discard,
    Remove,
}

impl Publish {
    pub(super) fn new(
        files: &mut SnapshotFiles,
        directory: Arc<File>,
        ticket: Ticket,
        snapshot: Index,
        aim: Aim,
    ) -> Result<Publish, DiskError> {
        let name = snapshot_file(snapshot);
        let temporary = format!("{name}{TEMPORARY}");
        let removes = aim == Aim::Remove;
        let sets_aside = removes && files.sets_aside(snapshot);
        let (from, to, file, step) = match aim {
            Aim::Publish => (temporary, name, Some(files.written(snapshot)?), PublishStep::Sync),
            Aim::Discard => (temporary, name, None, PublishStep::Delete),
            Aim::Remove if sets_aside => (name, SPARE_FILE.to_owned(), None, PublishStep::Rename),
            Aim::Remove => (name.clone(), name, None, PublishStep::Delete),
        };
        if removes {
            files.close(snapshot);
        } else {
            files.made(snapshot);
        }
        let (from, to) = (c_string(from), c_string(to));
        Ok(Publish { ticket, file, directory, from, to, step, sets_aside })
    }

    pub(super) fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// Whether this `result` ends it, and the file of a removed snapshot was to be kept.
    pub(super) fn ends_setting_aside(&self, result: i32) -> bool {
        self.sets_aside && (result < 0 || self.is_last())
    }

    /// The entry of the step that is due.
    pub(super) fn entry(&self) -> squeue::Entry {
        let directory = types::Fd(self.directory.as_raw_fd());
        let file = types::Fd(self.file.as_ref().map_or(-1, |file| file.as_raw_fd()));
        match self.step {
            PublishStep::Sync => opcode::Fsync::new(file).build(),
            PublishStep::Rename => {
                opcode::RenameAt::new(directory, self.from.as_ptr(), directory, self.to.as_ptr())
                    .build()
            }
            PublishStep::SyncDirectory => opcode::Fsync::new(directory).build(),
            PublishStep::Delete => opcode::UnlinkAt::new(directory, self.from.as_ptr()).build(),
        }
    }

    fn is_last(&self) -> bool {
        matches!(self.step, PublishStep::SyncDirectory | PublishStep::Delete)
    }

    /// The next step, or the end.
    pub(super) fn advance(mut self: Box<Self>, result: i32) -> Result<Box<Publish>, Done> {
        if let Err(error) = checked(result) {
            // What is not there need not be removed.
            let removes = self.sets_aside || self.step == PublishStep::Delete;
            let is_gone = removes && error.errno == libc::ENOENT;
            return Err(over(self.ticket, if is_gone { Ok(()) } else { Err(error) }));
        }
        self.step = match self.step {
            PublishStep::Sync => PublishStep::Rename,
            PublishStep::Rename => PublishStep::SyncDirectory,
            PublishStep::SyncDirectory | PublishStep::Delete => {
                return Err(over(self.ticket, Ok(())));
            }
        };
        Ok(self)
    }
}

/// The end of a step on a snapshot that brings no bytes.
pub(super) fn over(ticket: Ticket, result: Result<(), DiskError>) -> Done {
    Done::Snapshot { ticket, result: result.map(|()| None) }
}
