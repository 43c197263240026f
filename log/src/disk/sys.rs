//! System calls that the standard library lacks: locks, space, renames that replace nothing or
//! exchange, random numbers; and errors by number.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::disk::DiskError;
use crate::error::Error;

/// The system's error, by number.
pub(crate) fn disk_error(error: &io::Error) -> DiskError {
    DiskError { errno: error.raw_os_error().unwrap_or(libc::EIO) }
}

/// What could not be done to which file, and why.
pub(crate) fn failed(action: &'static str, path: &Path, error: &io::Error) -> Error {
    Error::Path { action, path: path.display().to_string(), cause: disk_error(error) }
}

/// Whether a file could not be opened because the process, or the system, has too many open.
pub(crate) fn is_short_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// Takes the lock if nobody has it.
pub(crate) fn try_lock(file: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open as long as `file` is borrowed; no memory is involved.
    let result = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reserves space, so that a full disk is noticed at once and extents are long. Not all file
/// systems can.
pub(crate) fn allocate(file: &File, size: u64) -> io::Result<()> {
    let size = libc::off_t::try_from(size).map_err(|_| io::Error::from(ErrorKind::InvalidInput))?;
    loop {
        // SAFETY: the descriptor is open as long as `file` is borrowed; no memory is involved.
        if unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, size) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            Some(libc::EOPNOTSUPP | libc::ENOSYS) => return Ok(()),
            _ => return Err(error),
        }
    }
}

/// Renames, but never over another file: what is there under the final name is a segment in use.
pub(crate) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match rename(from, to, libc::RENAME_NOREPLACE) {
        // The file system cannot promise it; the lock on the directory must do.
        Err(error) if is_refused(&error) && !to.exists() => std::fs::rename(from, to),
        renamed => renamed,
    }
}

/// Exchanges two names at once. False if the file system cannot.
pub(crate) fn exchange(one: &Path, other: &Path) -> io::Result<bool> {
    match rename(one, other, libc::RENAME_EXCHANGE) {
        Err(error) if is_refused(&error) => Ok(false),
        renamed => renamed.map(|()| true),
    }
}

/// Whether renaming in a special way is more than the system can.
fn is_refused(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS))
}

fn rename(from: &Path, to: &Path, flags: u32) -> io::Result<()> {
    let (source, target) = (path_string(from)?, path_string(to)?);
    let (source, target) = (source.as_ptr(), target.as_ptr());
    // SAFETY: both strings end in a zero byte and outlive the call.
    let result = unsafe { libc::renameat2(libc::AT_FDCWD, source, libc::AT_FDCWD, target, flags) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn path_string(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// A number that nobody can guess, nor draw a second time.
pub(crate) fn entropy() -> u64 {
    let mut bytes = [0; 8];
    loop {
        // SAFETY: the pointer and the length describe `bytes`, which outlives the call.
        let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        if got == bytes.len() as isize {
            return u64::from_ne_bytes(bytes);
        }
        // Soon after the system's start it may wait for randomness, and be interrupted.
        let error = io::Error::last_os_error();
        assert!(error.kind() == ErrorKind::Interrupted, "no random numbers: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_numbers_differ() {
        assert_ne!(entropy(), entropy());
    }

    #[test]
    fn space_can_be_reserved_and_files_are_not_replaced() {
        let path = std::env::temp_dir().join(format!("margay-rename-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory");
        let (one, two) = (path.join("one"), path.join("two"));
        let file = File::create(&one).expect("a file");
        allocate(&file, 1 << 20).expect("space");
        try_lock(&file).expect("free");
        try_lock(&File::open(&one).expect("there")).expect_err("taken");
        std::fs::write(&two, b"here").expect("another file");
        rename_new(&one, &two).expect_err("it is there");
        std::fs::remove_file(&two).expect("ours");
        rename_new(&one, &two).expect("free now");
        std::fs::remove_dir_all(&path).expect("ours");
    }
}
