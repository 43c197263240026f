//! Opening a [`CommitLog`]: the directory, the driver, the threads.

use std::path::Path;
use std::sync::Arc;

use crate::commit_log::options::{CommitLogOptions, Driver};
use crate::commit_log::shared::{BoxedDisk, Shared};
use crate::commit_log::space::Spacer;
use crate::commit_log::{CommitLog, Handle};
use crate::disk::direct::{Access, Direct, Mode};
use crate::error::Error;
use crate::recover::{Opened, Report};

/// A log that was opened, and what was found.
#[derive(Debug)]
pub struct Opening {
    /// The log.
    pub log: CommitLog,
    /// What was there: torn writes, damage, how much was read.
    pub report: Report,
    /// Who does its I/O.
    pub driver: Running,
}

/// Who does a log's I/O, and how. Its text is one line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Running {
    /// [`Driver::Uring`] or [`Driver::Direct`].
    pub driver: Driver,
    /// Past the page cache or through it.
    pub mode: Mode,
    /// Why it is not io_uring, where that was wanted.
    pub fallback: Option<Error>,
}

impl std::fmt::Display for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.driver {
            Driver::Direct => "plain calls",
            _ => "io_uring",
        })?;
        if self.mode == Mode::Buffered {
            f.write_str(" through the page cache, the file system refuses O_DIRECT")?;
        }
        match &self.fallback {
            Some(error) => write!(f, "; {error}"),
            None => Ok(()),
        }
    }
}

pub(crate) fn open(path: &Path, options: CommitLogOptions) -> Result<Opening, Error> {
    let access = Access { lock_wait: options.lock_wait, buffered: false };
    let mut files = Direct::open_with(path, access)?;
    let Opened { mut log, report, .. } = crate::recover::open(&mut files, options.log())?;
    log.prepare_ahead();
    let (maker, mode) = (files.maker(), files.mode());
    let (disk, driver, fallback) = choose(files, &options)?;
    let is_async = driver == Driver::Uring;
    let shared = Shared::new(log, disk, is_async, path.to_owned(), options.retention);
    let spacer = Spacer::start(maker, &shared)?;
    shared.state().spacer = spacer;
    let running = Arc::clone(&shared);
    let thread = std::thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || running.run())
        .map_err(|error| Error::thread(&error))?;
    let handle = Arc::new(Handle { shared, thread: Some(thread), compacting: Default::default() });
    let log = CommitLog { handle };
    Ok(Opening { log, report, driver: Running { driver, mode, fallback } })
}

#[cfg(feature = "uring")]
fn choose(
    files: Direct,
    options: &CommitLogOptions,
) -> Result<(BoxedDisk, Driver, Option<Error>), Error> {
    use crate::disk::uring::Uring;
    // Through the page cache a ring would only hand every write to a thread of the kernel's.
    let is_plain = files.mode() == Mode::Buffered && options.driver == Driver::Auto;
    if options.driver == Driver::Direct || is_plain {
        return Ok((Box::new(files), Driver::Direct, None));
    }
    match Uring::probe() {
        Ok(()) => Ok((Box::new(Uring::new(files)?), Driver::Uring, None)),
        Err(error) if options.driver == Driver::Uring => Err(error),
        Err(error) => Ok((Box::new(files), Driver::Direct, Some(error))),
    }
}

#[cfg(not(feature = "uring"))]
fn choose(
    files: Direct,
    options: &CommitLogOptions,
) -> Result<(BoxedDisk, Driver, Option<Error>), Error> {
    match options.driver {
        Driver::Uring => Err(Error::Unsupported {
            action: "use io_uring",
            reason: "built without feature uring",
        }),
        _ => Ok((Box::new(files), Driver::Direct, None)),
    }
}
