//! The file of a node: written once before it is used, so that a write changes no metadata.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use margay_log::format::BLOCK;

/// Bytes; behind its end writing begins anew.
const SIZE: u64 = 64 << 20;

/// Removed when dropped.
pub(crate) struct NodeFile {
    path: PathBuf,
}

/// A file that can be written to, and where.
pub(crate) struct Space {
    /// Opened for direct, synchronous writes; until its ring takes it.
    file: Option<File>,
    /// Where its next block goes.
    offset: u64,
}

impl NodeFile {
    /// Writes the zeros.
    pub(crate) fn create(dir: &Path, node: usize) -> io::Result<NodeFile> {
        let path = dir.join(format!("margay-floor-{}-{node}", std::process::id()));
        let node_file = NodeFile { path };
        let fill = || -> io::Result<()> {
            let mut file = File::create(&node_file.path)?;
            let zeros = vec![0; 1 << 20];
            for _ in 0..SIZE / zeros.len() as u64 {
                file.write_all(&zeros)?;
            }
            file.sync_all()
        };
        fill().map_err(|error| node_file.explain("cannot write", &error))?;
        Ok(node_file)
    }

    /// Opens it for the node.
    pub(crate) fn open(&self) -> io::Result<Space> {
        let file = OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_DIRECT | libc::O_DSYNC)
            .open(&self.path)
            .map_err(|error| self.explain("cannot open with O_DIRECT", &error))?;
        Ok(Space { file: Some(file), offset: 0 })
    }

    fn explain(&self, what: &str, error: &io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("{what} {}: {error}", self.path.display()))
    }
}

impl Drop for NodeFile {
    fn drop(&mut self) {
        // Nothing depends on it: a file that stays behind is only untidy.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Space {
    /// The file itself, once.
    pub(crate) fn take_file(&mut self) -> io::Result<File> {
        self.file.take().ok_or_else(|| io::Error::other("the file has been taken"))
    }

    /// Where `length` bytes go, and how many they are as whole blocks.
    pub(crate) fn place(&mut self, length: usize) -> (u64, usize) {
        let blocks = length.next_multiple_of(BLOCK);
        if self.offset + blocks as u64 > SIZE {
            self.offset = 0;
        }
        let offset = self.offset;
        self.offset += blocks as u64;
        (offset, blocks)
    }
}
