//! Opening, reading and following a log that is there.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use margay_log::commit_log::CommitLog;
use margay_log::id::Index;

use crate::log::ceiling::read_directory;
use crate::log::{Contender, Margay, Row};
use crate::report::Recorder;

/// Entries of what is recovered.
const FILL: Row = Row::alone("fill", 1024, 1024);
/// Bytes of a plain read.
const PIECE: usize = 1 << 20;

/// What opening a filled log took.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// The contender.
    pub name: &'static str,
    /// Entries that were there.
    pub entries: u64,
    /// Seconds to open, with nothing of it in the page cache.
    pub seconds: f64,
}

/// Fills `contender` with `bytes` of 1 KiB entries, forgets the page cache's copy, and opens it.
/// `None` if it does not check what it opens.
///
/// # Errors
/// Whatever kept the contender from its work.
pub fn recovery(contender: &dyn Contender, bytes: u64, dir: &Path) -> io::Result<Option<Found>> {
    let _ = std::fs::remove_dir_all(dir);
    std::fs::create_dir_all(dir)?;
    fill(contender, bytes, dir)?;
    drop_caches(dir)?;
    let begin = Instant::now();
    let entries = contender.recover(dir)?;
    let seconds = begin.elapsed().as_secs_f64();
    std::fs::remove_dir_all(dir)?;
    Ok(entries.map(|entries| Found { name: contender.name(), entries, seconds }))
}

fn fill(contender: &dyn Contender, bytes: u64, dir: &Path) -> io::Result<()> {
    let log = contender.open(dir, &FILL, 0)?;
    let entries = FILL.entries();
    for _ in 0..bytes / FILL.payload_bytes() {
        log.append(&entries)?;
    }
    Ok(())
}

/// Turns in which a log and its files are read.
const TURNS: usize = 5;

/// Reading a log from its beginning to its end, and following it.
#[derive(Clone, Copy, Debug)]
pub struct Scan {
    /// Payload bytes read through the log in a second, in millions; each entry checked.
    pub log_megabytes_per_s: f64,
    /// Bytes of its files read in a second with nothing looked at, in millions.
    pub plain_megabytes_per_s: f64,
    /// From the append to the follower having it, when both are waited for: microseconds.
    pub tail_p50_us: u64,
    /// See `tail_p50_us`.
    pub tail_p99_us: u64,
}

/// Fills a log, follows it, reads it and its files by turns. Returns a scan for each turn.
///
/// # Errors
/// Whatever kept the log from its work.
pub fn scan(margay: Margay, bytes: u64, dir: &Path) -> io::Result<Vec<Scan>> {
    let _ = std::fs::remove_dir_all(dir);
    std::fs::create_dir_all(dir)?;
    fill(&margay, bytes, dir)?;
    let log = margay.open_log(dir, 0)?;
    let tail = follow(&log)?;
    let (tail_p50_us, tail_p99_us) = (tail.micros(0.5), tail.micros(0.99));
    let per_second = |bytes, begin: Instant| bytes as f64 / begin.elapsed().as_secs_f64() / 1e6;
    let mut scans = Vec::new();
    for _ in 0..TURNS {
        let begin = Instant::now();
        let log_megabytes_per_s = per_second(read_all(&log)?, begin);
        let begin = Instant::now();
        let plain_megabytes_per_s = per_second(read_directory(dir, PIECE)?, begin);
        scans.push(Scan { log_megabytes_per_s, plain_megabytes_per_s, tail_p50_us, tail_p99_us });
    }
    drop(log);
    std::fs::remove_dir_all(dir)?;
    Ok(scans)
}

fn read_all(log: &CommitLog) -> io::Result<u64> {
    let mut reader = log.read(..);
    let mut bytes = 0;
    while let Some(record) = reader.read_next().map_err(io::Error::other)? {
        bytes += record.payload.len() as u64;
    }
    Ok(bytes)
}

/// One thread appends, the time in each entry; another follows.
fn follow(log: &CommitLog) -> io::Result<Recorder> {
    const ENTRIES: u64 = 2_000;
    let begin = Instant::now();
    let mut follower = log.follow(log.last().next());
    let end = Index(log.last().0 + ENTRIES);
    std::thread::scope(|scope| {
        let follows = scope.spawn(move || {
            let mut recorder = Recorder::new();
            while follower.position() <= end {
                let record = follower.wait_next().map_err(io::Error::other)?;
                let sent = record.payload.try_into().map_or(0, u64::from_le_bytes);
                recorder.operation(begin.elapsed().saturating_sub(Duration::from_nanos(sent)));
            }
            io::Result::Ok(recorder)
        });
        for _ in 0..ENTRIES {
            let now = begin.elapsed().as_nanos() as u64;
            let appended = log.append(&now.to_le_bytes()).map_err(io::Error::other)?;
            appended.wait().map_err(io::Error::other)?;
        }
        follows.join().expect("a follower does not panic")
    })
}

/// The files of `dir` leave the page cache, as far as the system goes along.
fn drop_caches(dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            drop_caches(&path)?;
        } else {
            let file = std::fs::File::open(&path)?;
            file.sync_all()?;
            crate::ring::forget_cached(&file);
        }
    }
    Ok(())
}
