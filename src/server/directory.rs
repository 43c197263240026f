//! A node's data directory: who it is, what it has founded, and one directory per group.
//!
//! ```text
//! DIR/lock       flock of the process that uses it, with its number
//! DIR/node       name and incarnation, durable before the first message
//! DIR/joined     its number, if it did not found the cluster; durable before `founding`
//! DIR/founding   the founding record, twice, durable before the first vote
//! DIR/groups     all logs have been made: from then on none may be missing
//! DIR/group-N/   the log of group N
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crc32c::crc32c;
use margay_log::id::{GroupId, Incarnation, NodeId};

use crate::error::Error;
use crate::forming::{FoundingRecord, check_name};
use crate::shard::sys;

const NODE_MAGIC: &str = "margay node 1";
const COPY_MAGIC: [u8; 8] = *b"MGYFILE\x01";
/// The second copy begins at a multiple of this: another block of the disk.
const COPY_BLOCK: usize = 4_096;

/// An open, locked data directory.
pub(super) struct Directory {
    path: PathBuf,
    pub(super) incarnation: Incarnation,
    /// Held until the process ends or this is dropped.
    _lock: File,
}

impl Directory {
    /// Opens or makes the directory of the node called `name`.
    pub(super) fn open(path: &Path, name: &str) -> Result<Directory, Error> {
        make(path)?;
        let lock = lock(path)?;
        let file = path.join("node");
        let incarnation = match read(&file)? {
            Some(bytes) => read_node(&file, &bytes, name)?,
            None if may_exist(&path.join("founding")) => {
                let why = "it is missing, but the directory holds a cluster; restore it as it was";
                return Err(Error::lost(file, why));
            }
            None => found_node(&file, name)?,
        };
        Ok(Directory { path: path.to_owned(), incarnation, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The directory of a group's log.
    pub(super) fn group(&self, group: GroupId) -> PathBuf {
        self.path.join(format!("group-{}", group.0))
    }

    /// The record this node has made durable, if it has.
    pub(super) fn founding(&self) -> Result<Option<FoundingRecord>, Error> {
        let path = self.path.join("founding");
        let Some(bytes) = read_copies(&path)? else {
            // It is durable before the first log is made. Founding again would put another cluster
            // over the logs of this one.
            let why = "it is missing, but group-0 is there; restore it as it was";
            return match may_exist(&self.group(GroupId(0))) {
                true => Err(Error::lost(path, why)),
                false => Ok(None),
            };
        };
        let record = FoundingRecord::decode(&bytes).map(Some);
        record.map_err(|e| Error::lost(path, &format!("{e}; restore it as it was")))
    }

    /// The number this node was given when it joined, if it did.
    pub(super) fn joined(&self) -> Result<Option<NodeId>, Error> {
        let path = self.path.join("joined");
        let Some(bytes) = read_copies(&path)? else { return Ok(None) };
        let id = bytes.try_into().ok().map(u32::from_le_bytes).filter(|id| *id > 0);
        let why = "it holds no number; restore it as it was";
        id.map(|id| Some(NodeId(id))).ok_or_else(|| Error::lost(path, why))
    }

    /// Makes the number durable.
    pub(super) fn set_joined(&self, id: NodeId) -> Result<(), Error> {
        replace(&self.path.join("joined"), &two_copies(&id.0.to_le_bytes()))
    }

    /// Makes the record durable.
    pub(super) fn set_founding(&self, record: &FoundingRecord) -> Result<(), Error> {
        replace(&self.path.join("founding"), &two_copies(&record.encode()))
    }

    /// Whether all logs have been made. A group whose log is gone must not begin anew: what this
    /// node has acknowledged and whom it has voted for would be forgotten.
    pub(super) fn has_groups(&self) -> bool {
        may_exist(&self.path.join("groups"))
    }

    /// All logs have been made, `count` of them.
    ///
    /// # Errors
    /// It cannot be made durable.
    pub(super) fn set_groups(&self, count: u32) -> Result<(), Error> {
        replace(&self.path.join("groups"), &two_copies(&count.to_le_bytes()))
    }
}

/// Makes the directory if it is not there, and looks whether it is ours alone.
fn make(path: &Path) -> Result<(), Error> {
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
            made.map_err(|e| Error::data("cannot make", path, e))
        }
        Err(e) => Err(Error::data("cannot look at", path, e)),
        Ok(meta) if meta.file_type().is_symlink() => {
            let why = "is a symbolic link; name the directory itself";
            Err(Error::Unsafe { path: path.to_owned(), why })
        }
        Ok(meta) if !meta.is_dir() => {
            Err(Error::data("cannot use", path, io::ErrorKind::NotADirectory.into()))
        }
        Ok(meta) if meta.mode() & 0o002 != 0 => {
            let why = "can be written to by everybody; run: chmod o-w on it";
            Err(Error::Unsafe { path: path.to_owned(), why })
        }
        Ok(meta) if meta.uid() != sys::user() && sys::user() != 0 => {
            let why = "belongs to another user; run the server as that user, or use another --data";
            Err(Error::Unsafe { path: path.to_owned(), why })
        }
        Ok(_) => Ok(()),
    }
}

/// One process per directory.
fn lock(path: &Path) -> Result<File, Error> {
    let file = path.join("lock");
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let fail = |e| Error::data("cannot lock", &file, e);
    let mut lock = options.open(&file).map_err(|e| match e.kind() {
        io::ErrorKind::ReadOnlyFilesystem => {
            let why = "is on a file system that is read-only; remount it, or use another --data";
            Error::Unsafe { path: path.to_owned(), why }
        }
        _ => fail(e),
    })?;
    if !sys::try_lock(lock.as_fd()).map_err(fail)? {
        let mut text = String::new();
        // Without a readable number the message says 0.
        let _ = lock.read_to_string(&mut text);
        let pid = text.trim().parse().unwrap_or(0);
        return Err(Error::Locked { path: path.to_owned(), pid });
    }
    // It is there to be told to others: on a full disk they do without.
    let _ = lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id()));
    Ok(lock)
}

fn found_node(path: &Path, name: &str) -> Result<Incarnation, Error> {
    let random = sys::random_u64().map_err(|e| Error::data("no random number for", path, e))?;
    let incarnation = Incarnation(random.max(1));
    let text = format!("{NODE_MAGIC}\nname {name}\nincarnation {incarnation}\n");
    let crc = crc32c(text.as_bytes());
    replace(path, format!("{text}crc {crc:08x}\n").as_bytes())?;
    Ok(incarnation)
}

fn read_node(path: &Path, bytes: &[u8], name: &str) -> Result<Incarnation, Error> {
    let (known, incarnation) = decode_node(bytes)
        .ok_or_else(|| Error::lost(path, "its checksum does not match; restore it as it was"))?;
    if known != name {
        return Err(Error::Mismatch(format!(
            "{} belongs to node {known}, this one was started with --name {name}",
            path.display()
        )));
    }
    Ok(incarnation)
}

fn decode_node(bytes: &[u8]) -> Option<(&str, Incarnation)> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (body, crc) = text.rsplit_once("crc ")?;
    if u32::from_str_radix(crc.trim_end(), 16).ok()? != crc32c(body.as_bytes()) {
        return None;
    }
    let mut lines = body.lines();
    if lines.next()? != NODE_MAGIC {
        return None;
    }
    let name = lines.next()?.strip_prefix("name ")?;
    let incarnation = lines.next()?.strip_prefix("incarnation ")?;
    check_name(name).ok()?;
    Some((name, Incarnation(u64::from_str_radix(incarnation, 16).ok()?)))
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) => unread(path, e),
    }
}

/// Whether a file is there, or may be: nothing is begun anew in its place then.
fn may_exist(path: &Path) -> bool {
    path.try_exists().unwrap_or(true)
}

/// What is not there is nothing; what the disk does not give any more is lost.
fn unread<T>(path: &Path, error: io::Error) -> Result<Option<T>, Error> {
    match error.raw_os_error() {
        Some(libc::ENOENT) => Ok(None),
        Some(libc::EIO) => {
            Err(Error::lost(path, &format!("it cannot be read: {error}; restore it as it was")))
        }
        _ => Err(Error::data("cannot read", path, error)),
    }
}

/// What a file holds twice, if it is there. A copy that cannot be read or is not whole is put back
/// from the other: some day that one would be lost, too.
fn read_copies(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    let opened = File::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
    let (length, file) = match opened {
        Ok(opened) => opened,
        Err(error) => return unread(path, error),
    };
    let copies = either_copy(length, |bytes, at| file.read_exact_at(bytes, at));
    let (bytes, are_both_whole) = match copies {
        Ok(copies) => copies,
        Err(Some(error)) => return unread(path, error),
        Err(None) => return Err(Error::lost(path, "no copy is whole; restore it as it was")),
    };
    if !are_both_whole {
        let file = path.display();
        match replace(path, &two_copies(&bytes)) {
            Ok(()) => tracing::warn!("{file}: one of two copies was not whole and is put back"),
            Err(e) => tracing::warn!("{file}: one of two copies is not whole: {e}"),
        }
    }
    Ok(Some(bytes))
}

/// Writes a file so that after a crash either the old or the new one is there, whole.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let temporary = path.with_extension("new");
    let write = || -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        match path.parent() {
            Some(parent) => File::open(parent)?.sync_all(),
            None => Ok(()),
        }
    };
    write().map_err(|e| Error::data("cannot write", path, e))
}

/// `magic 8 | length u32 | crc u32 | bytes`, twice, each from the start of a block.
fn two_copies(bytes: &[u8]) -> Vec<u8> {
    let mut copy = COPY_MAGIC.to_vec();
    copy.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    copy.extend_from_slice(&crc32c(bytes).to_le_bytes());
    copy.extend_from_slice(bytes);
    copy.resize(copy.len().next_multiple_of(COPY_BLOCK), 0);
    copy.repeat(2)
}

/// What a file of `length` bytes holds twice, and whether both copies are whole. Where none is, why
/// one of them cannot be read, if that is so.
fn either_copy(
    length: u64,
    read: impl Fn(&mut [u8], u64) -> io::Result<()>,
) -> Result<(Vec<u8>, bool), Option<io::Error>> {
    let half = length / 2;
    let copy = |at| {
        let mut bytes = vec![0; usize::try_from(half).unwrap_or_default()];
        read(&mut bytes, at).map(|()| whole_copy(&bytes).map(<[u8]>::to_vec))
    };
    match (copy(0), copy(half)) {
        (Ok(Some(one)), other) => Ok((one, matches!(other, Ok(Some(_))))),
        (_, Ok(Some(other))) => Ok((other, false)),
        (Err(error), _) | (_, Err(error)) => Err(Some(error)),
        (Ok(None), Ok(None)) => Err(None),
    }
}

/// The bytes of a copy, if their checksum says so.
fn whole_copy(copy: &[u8]) -> Option<&[u8]> {
    let rest = copy.strip_prefix(&COPY_MAGIC)?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    let body = rest.get(..u32::from_le_bytes(*length) as usize)?;
    (crc32c(body) == u32::from_le_bytes(*crc)).then_some(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a disk gives it that does not give the block at `lost`.
    fn read(file: &[u8], lost: Option<usize>) -> Result<(Vec<u8>, bool), Option<i32>> {
        let given = either_copy(file.len() as u64, |bytes, at| {
            let (from, until) = (at as usize, at as usize + bytes.len());
            if lost.is_some_and(|lost| (from..until).contains(&lost)) {
                return Err(io::Error::from_raw_os_error(libc::EIO));
            }
            bytes.copy_from_slice(&file[from..until]);
            Ok(())
        });
        given.map_err(|error| error.and_then(|error| error.raw_os_error()))
    }

    /// Nothing is begun anew over it.
    #[test]
    fn what_cannot_be_looked_at_may_be_there() {
        let path = std::env::temp_dir().join(format!("margay-may-{}", std::process::id()));
        std::os::unix::fs::symlink(&path, &path).expect("a name that leads to itself");
        let may = may_exist(&path);
        fs::remove_file(&path).expect("ours");
        assert_eq!([may, may_exist(&path)], [true, false]);
    }

    #[test]
    fn either_copy_is_enough() {
        let bytes = vec![7; 5_000];
        let whole = two_copies(&bytes);
        assert_eq!(read(&whole, None), Ok((bytes.clone(), true)));
        for at in [0, 9, 13, 100] {
            let mut one = whole.clone();
            one[at] ^= 1;
            assert_eq!(read(&one, None), Ok((bytes.clone(), false)), "first copy damaged at {at}");
            assert_eq!(read(&one, Some(4_096)), Ok((bytes.clone(), false)), "and unreadable");
            assert_eq!(read(&one, Some(whole.len() - 1)), Err(Some(libc::EIO)), "both lost");
            one[whole.len() / 2 + at] ^= 1;
            assert_eq!(read(&one, None), Err(None), "both damaged at {at}");
        }
        assert_eq!(read(&whole, Some(whole.len() - 1)), Ok((bytes, false)));
        assert_eq!(read(&[], None), Err(None));
    }
}
