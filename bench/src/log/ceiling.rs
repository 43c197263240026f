//! What the disk allows: whole blocks written `O_DIRECT|O_DSYNC` over space that was written
//! before, one at a time, from one thread.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Mutex;

use margay_log::buffer::Buffer;

use crate::log::{Appender, Contender, Row};

/// Zeros written at a time.
const PIECE: usize = 1 << 20;
/// The file is written round and round.
const FILE_BYTES: u64 = 256 << 20;

/// See the module. It takes no notice of entries, only of how many blocks they would fill.
#[derive(Debug)]
pub struct Ceiling;

struct Blocks {
    file: File,
    block: Buffer,
    size: u64,
    at: Mutex<u64>,
}

impl Contender for Ceiling {
    fn name(&self) -> &'static str {
        "ceiling"
    }

    /// Threads that wait for each other's writes share one.
    fn threads(&self, _: &Row) -> usize {
        1
    }

    fn open(&self, dir: &Path, row: &Row, _: u64) -> io::Result<Box<dyn Appender>> {
        let shared = Row { count: row.count * row.threads, ..*row };
        let mut block = Buffer::zeroed(shared.block_bytes() as usize);
        block.fill(0xa5);
        let path = dir.join("blocks");
        let size = FILE_BYTES - FILE_BYTES % block.len() as u64;
        fill(&path, size)?;
        let file = open(&path)?;
        Ok(Box::new(Blocks { file, block, size, at: Mutex::new(0) }))
    }

    fn recovers(&self) -> bool {
        false
    }

    fn recover(&self, _: &Path) -> io::Result<Option<u64>> {
        Ok(None)
    }
}

impl Appender for Blocks {
    fn append(&self, _: &[Vec<u8>]) -> io::Result<()> {
        let mut at = self.at.lock().expect("no writer panics");
        self.file.write_all_at(&self.block, *at)?;
        *at = (*at + self.block.len() as u64) % self.size;
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).custom_flags(libc::O_DIRECT | libc::O_DSYNC);
    options.open(path)
}

/// Writes `size` bytes of zeros.
fn fill(path: &Path, size: u64) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).custom_flags(libc::O_DIRECT);
    let file = options.open(path)?;
    let zeros = Buffer::zeroed(PIECE);
    let mut at = 0;
    while at < size {
        let length = (size - at).min(PIECE as u64);
        file.write_all_at(&zeros[..length as usize], at)?;
        at += length;
    }
    file.sync_all()
}

/// Reads all files of a directory past the page cache, `piece` bytes at a time, and looks at
/// nothing. Returns the bytes read.
///
/// # Errors
/// The system's.
pub fn read_directory(dir: &Path, piece: usize) -> io::Result<u64> {
    let mut buffer = Buffer::zeroed(piece);
    let mut total = 0;
    for entry in std::fs::read_dir(dir)? {
        let mut options = OpenOptions::new();
        let file = options.read(true).custom_flags(libc::O_DIRECT).open(entry?.path())?;
        let mut at = 0;
        loop {
            match file.read_at(&mut buffer, at)? {
                0 => break,
                read => at += read as u64,
            }
        }
        total += at;
    }
    Ok(total)
}
