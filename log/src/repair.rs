//! Making a damaged log usable again, for whoever has no other copy of it.
//!
//! Nothing is changed in place. What can be saved is put together in a directory beside, from links
//! to the segments and a new hard state, and opened there: that says what is kept and what is lost.
//! [`Repair::finish`] then exchanges the two; the originals stay, beside. Of a group's log copies
//! are put together: a node uses its files again, and would write over what is shared.
//!
//! What is done, in this order, as far as it is needed: segments that bear each other's names get
//! their own; a hard state that is lost is made anew from what the segments say; a segment of a
//! wrong size gets its own again, with zeros for what is missing, since its frames prove
//! themselves; one that cannot be used, and all behind it, is left out; the log is cut to end
//! before what it lacks. A group's snapshots go along, and where one leads further than what is
//! left, the log begins behind it. What a newer version has written is no damage: it is left alone.

mod hard_state;
mod step;

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::disk::direct::Direct;
use crate::disk::directory;
use crate::disk::sys::{exchange, failed};
use crate::disk::view::View;
use crate::disk::{Disk, Done};
use crate::error::{Error, HARD_STATE_FILE, segment_file};
use crate::format::{BLOCK, SegmentHeader};
use crate::hard_state::HARD_STATE_BYTES;
use crate::id::{ClusterId, Index, SegmentNumber};
use crate::options::Options;
use crate::recover::Opened;
use crate::snapshot::{SnapshotHeader, SnapshotReader, snapshot_file};
use hard_state::hard_state_of;
pub use step::Step;

/// A segment's file: its number, its size in bytes, and its header where that is readable.
type Listed = (SegmentNumber, u64, Option<SegmentHeader>);

/// A repair that is ready and not done.
///
/// ```no_run
/// # fn main() -> Result<(), margay_log::Error> {
/// use margay_log::repair::Repair;
///
/// if let Some(repair) = Repair::plan("events".as_ref())? {
///     repair.steps().iter().for_each(|step| println!("{step}")); // what would be lost, too
///     println!("the originals are in {}", repair.finish()?.display());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Repair {
    path: PathBuf,
    scratch: PathBuf,
    steps: Vec<Step>,
    first: Index,
    last: Index,
    /// Nobody opens the log between the plan and its end.
    _locked: File,
}

impl Repair {
    /// Finds out what would have to be done to the log in `path`. `None`: nothing. The log must not
    /// be open anywhere, and cannot be opened until this is done or dropped.
    ///
    /// # Errors
    /// [`Error::Locked`], or why it cannot be repaired; nothing has changed then.
    pub fn plan(path: &Path) -> Result<Option<Repair>, Error> {
        let locked = Direct::lock_only(path)?;
        if View::open(path)?.walk().is_ok_and(|opened| opened.report.damage.is_none()) {
            return Ok(None);
        }
        // `.` has no name that another could be put beside.
        let path = fs::canonicalize(path).map_err(|error| failed("find", path, &error))?;
        let scratch = beside(&path, "repair");
        let _ = fs::remove_dir_all(&scratch);
        let mut repair = Repair {
            path,
            scratch,
            steps: Vec::new(),
            first: Index::ZERO,
            last: Index::ZERO,
            _locked: locked,
        };
        repair.link().and_then(|()| repair.work()).map(|()| Some(repair))
    }

    /// What is done, in order.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The first entry the log will have.
    #[must_use]
    pub fn first(&self) -> Index {
        self.first
    }

    /// The last entry the log will have.
    #[must_use]
    pub fn last(&self) -> Index {
        self.last
    }

    /// Puts the repaired log in place of the damaged one. Returns where the originals are.
    ///
    /// # Errors
    /// The system's. Then the log is as it was, or its originals are where they were to go.
    pub fn finish(self) -> Result<PathBuf, Error> {
        let mut originals = beside(&self.path, "damaged");
        let mut number = 1;
        while originals.exists() {
            number += 1;
            originals = beside(&self.path, &format!("damaged-{number}"));
        }
        // At no moment is there nothing under the log's name: whoever opened it would begin anew.
        let moved = fs::rename(&self.scratch, &originals);
        moved.map_err(|error| failed("move", &self.scratch, &error))?;
        let is_exchanged = exchange(&self.path, &originals).map_err(|error| {
            let _ = fs::rename(&originals, &self.scratch);
            failed("exchange", &self.path, &error)
        })?;
        if !is_exchanged {
            let exchanged = self.exchange_in_steps(&originals);
            exchanged.map_err(|error| failed("exchange", &self.path, &error))?;
        }
        sync_parent(&self.path).map_err(|error| failed("sync", &self.path, &error))?;
        Ok(originals)
    }

    /// Exchanges the log and what is in `other`, where that cannot be done at once.
    fn exchange_in_steps(&self, other: &Path) -> io::Result<()> {
        fs::rename(other, &self.scratch)?;
        fs::rename(&self.path, other)?;
        fs::rename(&self.scratch, &self.path).inspect_err(|_| _ = fs::rename(other, &self.path))
    }

    /// Links every file into the scratch directory, or copies it where it would be written. Opening
    /// what is there syncs it, but for snapshots.
    fn link(&self) -> Result<(), Error> {
        let made = fs::create_dir(&self.scratch).and_then(|()| {
            fs::set_permissions(&self.scratch, fs::metadata(&self.path)?.permissions())
        });
        made.map_err(|error| failed("create", &self.scratch, &error))?;
        let hard_state = self.path.join(HARD_STATE_FILE);
        if hard_state.exists() {
            copy(&hard_state, &self.scratch.join(HARD_STATE_FILE))?;
        }
        let segments = self.files(&self.path)?;
        let is_groups = |header: &SegmentHeader| header.cluster != ClusterId(0);
        let is_groups =
            segments.iter().any(|(_, _, header)| header.as_ref().is_some_and(is_groups));
        for (number, _, _) in segments {
            let (from, to) = (self.file(&self.path, number), self.file(&self.scratch, number));
            match is_groups {
                true => copy(&from, &to)?,
                false => {
                    fs::hard_link(&from, &to).map_err(|error| failed("link", &from, &error))?
                }
            }
        }
        let snapshots = directory::snapshots(&self.path);
        for (index, _) in snapshots.map_err(|error| failed("list", &self.path, &error))? {
            let name = snapshot_file(index);
            copy(&self.path.join(&name), &self.scratch.join(&name))?;
        }
        Ok(())
    }

    fn work(&mut self) -> Result<(), Error> {
        self.rename_swapped()?;
        // Each round mends what stands in the way, and there is only so much of it: of a segment
        // its size, then all the rest of it.
        for _ in 0..=2 * self.files(&self.scratch)?.len() + 2 {
            let found = View::open(&self.scratch)?.walk();
            match found {
                Ok(opened) => return self.cut(&opened),
                Err(Error::HardStateMissing | Error::HardStateUnreadable) => {
                    self.new_hard_state()?;
                }
                Err(Error::HardStateLost { .. }) => self.new_hard_state()?,
                Err(Error::Foreign { file }) if file == HARD_STATE_FILE => self.new_hard_state()?,
                Err(Error::SegmentSize { segment, .. }) => match self.made_with(segment)? {
                    Some((found, made)) => self.resize(segment, found, made)?,
                    None => self.leave_out(segment)?,
                },
                Err(error) => match segment_of(&error) {
                    Some(_) if self.files(&self.scratch)?.is_empty() => break,
                    Some(segment) => self.leave_out(segment)?,
                    None => return Err(error),
                },
            }
        }
        Err(Error::Unsupported {
            action: "repair the log",
            reason: "no segment of it can be used; to begin anew, move the directory away",
        })
    }

    /// How many bytes a segment file has, and how many it was made with: as its header says, or, if
    /// that is unreadable, whole blocks that hold what is there. `None` if nothing else is there.
    fn made_with(&self, segment: SegmentNumber) -> Result<Option<(u64, u64)>, Error> {
        let files = self.files(&self.scratch)?;
        let file = files.iter().find(|(number, _, _)| *number == segment);
        Ok(file.and_then(|&(_, found, header)| match header {
            Some(header) => {
                (header.segment == segment && header.size != found).then_some((found, header.size))
            }
            None => (found > BLOCK as u64).then(|| (found, found.next_multiple_of(BLOCK as u64))),
        }))
    }

    /// Gives a segment its size: not in the file that the original is.
    fn resize(&mut self, segment: SegmentNumber, found: u64, made: u64) -> Result<(), Error> {
        let file = self.file(&self.scratch, segment);
        let aside = self.scratch.join(format!("{}.aside", segment_file(segment)));
        copy(&file, &aside)?;
        let resized = || -> io::Result<()> {
            let mut copied = File::options().append(true).open(&aside)?;
            copied.set_len(found.min(made))?;
            // Space that later writes need not ask for.
            io::copy(&mut io::repeat(0).take(made.saturating_sub(found)), &mut copied)?;
            copied.sync_all()?;
            fs::rename(&aside, &file)
        };
        resized().map_err(|error| failed("resize", &file, &error))?;
        self.steps.push(Step::Resize { segment, found, made });
        Ok(())
    }

    /// Files that hold a segment of another name, which no file rightly has.
    fn rename_swapped(&mut self) -> Result<(), Error> {
        let files = self.files(&self.scratch)?;
        let holds = |number: SegmentNumber| {
            files.iter().find(|(name, _, _)| *name == number).and_then(|(_, _, header)| *header)
        };
        let mut renamed = Vec::new();
        for &(name, _, header) in &files {
            let Some(header) = header else { continue };
            let taken = holds(header.segment).is_some_and(|other| other.segment == header.segment);
            if header.segment != name && !taken {
                let aside = self.scratch.join(format!("{}.aside", segment_file(header.segment)));
                let from = self.file(&self.scratch, name);
                fs::rename(&from, &aside).map_err(|error| failed("rename", &from, &error))?;
                renamed.push((aside, header.segment));
                self.steps.push(Step::Rename { from: name, to: header.segment });
            }
        }
        for (aside, number) in renamed {
            let to = self.file(&self.scratch, number);
            fs::rename(&aside, &to).map_err(|error| failed("rename", &aside, &error))?;
        }
        Ok(())
    }

    /// Leaves out a segment and all behind it.
    fn leave_out(&mut self, from: SegmentNumber) -> Result<(), Error> {
        for (segment, _, _) in self.files(&self.scratch)? {
            if segment >= from {
                let file = self.file(&self.scratch, segment);
                fs::remove_file(&file).map_err(|error| failed("remove", &file, &error))?;
                self.steps.push(Step::LeaveOut { segment });
            }
        }
        Ok(())
    }

    /// Opens what is left for real, so that it is cut, and says that it lacks nothing any more.
    fn cut(&mut self, walked: &Opened) -> Result<(), Error> {
        self.part()?;
        let hard = View::open(&self.scratch)?.newest_hard_state()?;
        let options = Options { cluster: hard.cluster, group: hard.group, ..Options::default() };
        let mut disk = Direct::open(&self.scratch)?;
        let opened = crate::open(&mut disk, options)?;
        let mut log = opened.log;
        let ahead =
            opened.snapshots.iter().rev().find(|snapshot| {
                snapshot.end.id.index > log.last().index && self.is_whole(snapshot)
            });
        // Before that is written down.
        log.set_repaired();
        if let Some(snapshot) = ahead {
            log.reset(snapshot.end)?;
            self.steps.push(Step::BeginBehind { snapshot: snapshot.end.id.index });
        }
        if let Some(damage) = walked.report.damage {
            let first = ahead
                .map_or(damage.index, |snapshot| damage.index.max(snapshot.end.id.index.next()));
            if first <= damage.until {
                self.steps.push(Step::Lose { first, until: damage.until });
            }
        }
        log.record_durable();
        let mut done: Vec<Done> = Vec::new();
        loop {
            log.ops().for_each(|op| disk.submit(op));
            disk.poll(true, &mut done);
            if done.is_empty() {
                break;
            }
            for done in done.drain(..) {
                log.on_done(done)?;
            }
        }
        (self.first, self.last) = (log.first(), log.last().index);
        Ok(())
    }

    /// Whether the file of a snapshot holds all of it.
    fn is_whole(&self, snapshot: &SnapshotHeader) -> bool {
        const PIECE: u64 = 1 << 20;
        let path = self.scratch.join(snapshot_file(snapshot.end.id.index));
        let read = || -> io::Result<bool> {
            let file = File::open(path)?;
            let mut reader = SnapshotReader::new(snapshot.clone());
            let mut piece = vec![0; PIECE as usize];
            while reader.position() < snapshot.length {
                let length = PIECE.min(snapshot.length - reader.position()) as usize;
                file.read_exact_at(&mut piece[..length], reader.position())?;
                reader.feed(&piece[..length]);
                while let Some(chunk) = reader.next_chunk().transpose() {
                    if chunk.is_err() {
                        return Ok(false);
                    }
                }
            }
            Ok(reader.is_complete())
        };
        read().unwrap_or(false)
    }

    /// Copies the newest segments as far as nothing was written to them: the log will go on there,
    /// and not in the originals.
    fn part(&self) -> Result<(), Error> {
        for (segment, _, _) in self.files(&self.scratch)?.into_iter().rev() {
            let file = self.file(&self.scratch, segment);
            let bytes = fs::read(&file).map_err(|error| failed("read", &file, &error))?;
            if bytes.iter().skip(BLOCK).any(|&byte| byte != 0) {
                return Ok(());
            }
            fs::remove_file(&file).map_err(|error| failed("remove", &file, &error))?;
            fs::write(&file, bytes).map_err(|error| failed("copy", &file, &error))?;
        }
        Ok(())
    }

    /// Makes a hard state from what segments and frames say.
    fn new_hard_state(&mut self) -> Result<(), Error> {
        let files = self.files(&self.scratch)?;
        let hard = hard_state_of(&files, |segment| {
            let path = self.file(&self.scratch, segment);
            fs::read(&path).map_err(|error| failed("read", &path, &error))
        })?;
        let file = hard.encode_file();
        assert!(file.len() == HARD_STATE_BYTES);
        let path = self.scratch.join(HARD_STATE_FILE);
        fs::write(&path, &file[..]).map_err(|error| failed("write", &path, &error))?;
        self.steps.push(Step::NewHardState);
        Ok(())
    }

    fn files(&self, path: &Path) -> Result<Vec<Listed>, Error> {
        let files = View::open(path)?.files();
        files.map_err(|cause| Error::Path {
            action: "list",
            path: path.display().to_string(),
            cause,
        })
    }

    fn file(&self, directory: &Path, segment: SegmentNumber) -> PathBuf {
        directory.join(segment_file(segment))
    }
}

impl Drop for Repair {
    fn drop(&mut self) {
        // Gone already when it was finished.
        let _ = fs::remove_dir_all(&self.scratch);
    }
}

/// The segment from which on a log cannot be used because of `error`.
fn segment_of(error: &Error) -> Option<SegmentNumber> {
    match error {
        Error::SegmentMissing { segment }
        | Error::SegmentSize { segment, .. }
        | Error::SegmentSwapped { segment, .. } => Some(*segment),
        Error::Foreign { file }
        | Error::OtherIncarnation { file, .. }
        | Error::OtherGroup { file, .. } => directory::segment_number(file.as_bytes()),
        _ => None,
    }
}

fn beside(path: &Path, what: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{what}"));
    path.with_file_name(name)
}

fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    let copied = fs::copy(from, to).and_then(|_| File::open(to)?.sync_all());
    copied.map_err(|error| failed("copy", from, &error))
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match std::path::absolute(path)?.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}
