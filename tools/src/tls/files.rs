//! Reading and writing the files of an authority or an identity.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::Path;

use crate::exit::Exit;

/// Who may read a file.
#[derive(Clone, Copy)]
pub(super) enum Readers {
    All,
    Owner,
}

/// Makes a folder for its owner alone, if it is not there.
pub(super) fn folder(path: &Path) -> Result<(), Exit> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| cannot("make", path, &error))
}

/// A file's text; none where it is not there.
pub(super) fn find(path: &Path) -> Result<Option<String>, Exit> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(cannot("read", path, &error)),
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
    }
}

/// A file's text.
pub(super) fn read(path: &Path) -> Result<String, Exit> {
    find(path)?.ok_or_else(|| Exit::usage(format!("there is no {}", path.display())))
}

/// Writes a file in a folder. Readers see what was there before, or all of what is now; so do those
/// who look after a crash. It belongs to whom the folder belongs, where that is up to us: a node
/// must be able to read what root has renewed.
pub(super) fn write(folder: &Path, name: &str, text: &str, readers: Readers) -> Result<(), Exit> {
    let path = folder.join(name);
    let next = folder.join(format!(".{name}.{}", std::process::id()));
    let mode = match readers {
        Readers::All => 0o644,
        Readers::Owner => 0o600,
    };
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&next)?;
        let owner = fs::metadata(folder)?;
        if file.metadata()?.uid() != owner.uid() {
            // Only root may give files away.
            let _ = fchown(&file, Some(owner.uid()), Some(owner.gid()));
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&next, &path)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(|error| {
        // It may not have come so far.
        let _ = fs::remove_file(&next);
        cannot("write", &path, &error)
    })
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> Exit {
    Exit::usage(format!("cannot {what} {}: {error}", path.display()))
}
