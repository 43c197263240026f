//! A commit log as the write-ahead log of a small database: a table in memory, a checkpoint in a
//! file, and what has happened since in the log.
//!
//!     cargo run -p margay-log --example wal
//!
//! A transaction is one append of many entries: after a crash all of it is there or none.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use margay_log::Error;
use margay_log::commit_log::{CommitLog, CommitLogOptions};
use margay_log::id::Index;

type Table = BTreeMap<Vec<u8>, Vec<u8>>;

/// A table that survives.
struct Database {
    directory: PathBuf,
    wal: CommitLog,
    table: Table,
    /// All up to here is in `table`.
    applied: Index,
}

impl Database {
    fn open(directory: &Path) -> Result<Database, Box<dyn std::error::Error>> {
        let wal = CommitLog::open(directory.join("wal"), CommitLogOptions::default())?.log;
        let (mut table, mut applied) = read_checkpoint(&directory.join("checkpoint"))?;
        // What the checkpoint does not have is in the log.
        let mut reader = wal.read(applied.next()..);
        while let Some(change) = reader.read_next()? {
            apply(&mut table, change.payload);
            applied = change.index;
        }
        drop(reader);
        Ok(Database { directory: directory.to_owned(), wal, table, applied })
    }

    fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.table.get(key).map(Vec::as_slice)
    }

    /// Puts all pairs, or after a crash none of them. Durable on return.
    fn put_all(&mut self, pairs: &[(&[u8], &[u8])]) -> Result<(), Error> {
        let changes: Vec<Vec<u8>> = pairs.iter().map(|(key, value)| encode(key, value)).collect();
        // Write ahead: the table changes only once the log has it.
        self.applied = self.wal.append_many(&changes)?.wait()?;
        for change in &changes {
            apply(&mut self.table, change);
        }
        Ok(())
    }

    /// Writes the table down and lets go of the log before it.
    fn checkpoint(&mut self) -> Result<(), Box<dyn std::error::Error>> {
        let (new, old) = (self.directory.join("checkpoint.new"), self.directory.join("checkpoint"));
        let mut file = File::create(&new)?;
        file.write_all(&self.applied.0.to_le_bytes())?;
        for (key, value) in &self.table {
            let change = encode(key, value);
            file.write_all(&(change.len() as u32).to_le_bytes())?;
            file.write_all(&change)?;
        }
        file.sync_all()?;
        std::fs::rename(new, old)?;
        File::open(&self.directory)?.sync_all()?;
        self.wal.truncate_prefix(self.applied)?;
        Ok(())
    }
}

fn encode(key: &[u8], value: &[u8]) -> Vec<u8> {
    [&(key.len() as u32).to_le_bytes(), key, value].concat()
}

fn apply(table: &mut Table, change: &[u8]) {
    let (length, rest) = change.split_first_chunk::<4>().expect("we wrote it");
    let (key, value) = rest.split_at(u32::from_le_bytes(*length) as usize);
    table.insert(key.to_vec(), value.to_vec());
}

fn read_checkpoint(path: &Path) -> std::io::Result<(Table, Index)> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok((Table::new(), Index::ZERO));
        }
        Err(error) => return Err(error),
    };
    let (applied, mut rest) = bytes.split_first_chunk::<8>().expect("we wrote it");
    let mut table = Table::new();
    while let Some((length, behind)) = rest.split_first_chunk::<4>() {
        let (change, behind) = behind.split_at(u32::from_le_bytes(*length) as usize);
        apply(&mut table, change);
        rest = behind;
    }
    Ok((table, Index(u64::from_le_bytes(*applied))))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = std::env::temp_dir().join(format!("margay-wal-{}", std::process::id()));
    let result = run(&directory);
    let _ = std::fs::remove_dir_all(&directory);
    result
}

fn run(directory: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let mut database = Database::open(directory)?;
    database.put_all(&[(b"alice", b"100"), (b"bob", b"0")])?;
    database.put_all(&[(b"alice", b"70"), (b"bob", b"30")])?;
    drop(database);

    let mut database = Database::open(directory)?;
    assert_eq!(database.get(b"bob"), Some(&b"30"[..]));
    database.checkpoint()?;
    database.put_all(&[(b"alice", b"60"), (b"carol", b"10")])?;
    drop(database);

    let database = Database::open(directory)?;
    let amount = |name: &[u8]| database.get(name).map(String::from_utf8_lossy);
    println!(
        "alice {:?}, bob {:?}, carol {:?}",
        amount(b"alice"),
        amount(b"bob"),
        amount(b"carol")
    );
    assert_eq!(database.get(b"alice"), Some(&b"60"[..]));
    assert_eq!(database.get(b"bob"), Some(&b"30"[..]));
    assert_eq!(database.get(b"carol"), Some(&b"10"[..]));
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn runs() {
        super::main().expect("the example runs");
    }
}
