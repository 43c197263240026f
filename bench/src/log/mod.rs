//! The commit log against what the disk allows, and against other logs.
//!
//! By turns, because a machine is not equally fast from one second to the next: within a row all
//! contenders are open at once, and each appends for a fraction of a second after the other, there
//! and back. Only ratios within a run mean anything.
//!
//! The ceiling ([`ceiling`]) writes the same blocks with no log at all. Other logs are
//! [`Contender`]s too; they live in `bench/peers`, so that nobody else has to build them.

pub mod ceiling;
mod futures;
mod ours;
mod recovery;
mod rows;
pub mod run;

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::time::{Duration, Instant};

pub use self::ours::Margay;
pub use self::recovery::{Found, Scan, recovery, scan};
pub use self::rows::{ROWS, Row};
use crate::report::Recorder;

/// Something that keeps entries. It is opened on an empty directory, appends, and is dropped.
pub trait Contender {
    /// As it is shown.
    fn name(&self) -> &'static str;

    /// Whether `row` is worth measuring.
    fn runs(&self, row: &Row) -> bool {
        !row.futures
    }

    /// Appenders it needs for `row`. One that stands for all counts for all.
    fn appenders(&self, row: &Row) -> usize {
        row.appenders
    }

    /// Opens it in `dir` for about `bytes` of entries. Whatever it can prepare, it prepares here:
    /// the clock does not run.
    ///
    /// # Errors
    /// Whatever kept it.
    fn open(&self, dir: &Path, row: &Row, bytes: u64) -> io::Result<Box<dyn Appender>>;

    /// Whether its recovery is worth measuring.
    fn recovers(&self) -> bool {
        true
    }

    /// Opens what appends have left, checks all of it, and closes it. Returns how many
    /// entries there are; `None` if this contender does not check what it opens.
    ///
    /// # Errors
    /// Whatever kept it.
    fn recover(&self, dir: &Path) -> io::Result<Option<u64>>;
}

/// An append that somebody polls.
pub type Append<'a> = Pin<Box<dyn Future<Output = io::Result<()>> + Send + 'a>>;

/// One open log.
pub trait Appender: Sync {
    /// Appends `entries` together and returns when they are durable.
    ///
    /// # Errors
    /// Whatever kept it.
    fn append(&self, entries: &[Vec<u8>]) -> io::Result<()>;

    /// As [`Appender::append`], and returns at once what is ready when they are durable.
    fn begin<'a>(&'a self, entries: &'a [Vec<u8>]) -> Append<'a> {
        Box::pin(std::future::ready(self.append(entries)))
    }

    /// Returns when all is durable, where an append may return before.
    ///
    /// # Errors
    /// Whatever kept it.
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

/// One contender in one row in one turn.
#[derive(Clone, Debug)]
pub struct Cell {
    /// The contender.
    pub name: &'static str,
    /// The row.
    pub row: Row,
    /// Batches made durable in a second.
    pub batches_per_s: f64,
    /// From the call to its return, in microseconds.
    pub p50_us: u64,
    /// See `p50_us`.
    pub p99_us: u64,
}

impl Cell {
    /// Payload bytes in a second, in millions.
    #[must_use]
    pub fn megabytes_per_s(&self) -> f64 {
        self.batches_per_s * self.row.payload_bytes() as f64 / 1e6
    }
}

/// Turns of a round, each of an equal part of its time.
const TURNS: u32 = 5;
/// Appends that are not measured: what is done once.
const WARM: u32 = 8;

/// Measures `contenders` in a row, all of them open at once and by turns, in `dir`, which is made
/// and removed. Returns a cell for each turn.
///
/// # Errors
/// Whatever kept one from its work.
pub fn measure(
    contenders: &[&dyn Contender],
    row: &Row,
    time: Duration,
    dir: &Path,
) -> io::Result<Vec<Cell>> {
    let _ = std::fs::remove_dir_all(dir);
    std::fs::create_dir_all(dir)?;
    let result = by_turns(contenders, row, time, dir);
    std::fs::remove_dir_all(dir)?;
    result
}

fn by_turns(
    contenders: &[&dyn Contender],
    row: &Row,
    time: Duration,
    dir: &Path,
) -> io::Result<Vec<Cell>> {
    let bytes = row.bytes_max() + u64::from(TURNS * WARM) * row.block_bytes();
    let mut logs = Vec::new();
    for (number, contender) in contenders.iter().enumerate() {
        let dir = dir.join(number.to_string());
        std::fs::create_dir(&dir)?;
        logs.push((*contender, contender.open(&dir, row, bytes)?));
    }
    let mut cells = Vec::new();
    for _ in 0..TURNS {
        for (contender, log) in &logs {
            cells.push(turn(*contender, &**log, row, time / TURNS)?);
        }
        logs.reverse();
    }
    Ok(cells)
}

fn turn(
    contender: &dyn Contender,
    log: &dyn Appender,
    row: &Row,
    time: Duration,
) -> io::Result<Cell> {
    let appenders = contender.appenders(row);
    let budget = row.batches_max() / u64::from(TURNS);
    let run = || -> io::Result<Recorder> {
        let entries = row.entries();
        let mut recorder = Recorder::new();
        let begin = Instant::now();
        for _ in 0..budget / appenders as u64 {
            let start = Instant::now();
            log.append(&entries)?;
            recorder.operation(start.elapsed());
            if begin.elapsed() >= time {
                break;
            }
        }
        log.flush()?;
        Ok(recorder)
    };
    for _ in 0..WARM {
        log.append(&row.entries())?;
    }
    log.flush()?;
    let begin = Instant::now();
    let recorders: Vec<Recorder> = if appenders == 1 {
        vec![run()?]
    } else if row.futures {
        vec![futures::run(log, row, appenders, time, budget)?]
    } else {
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..appenders).map(|_| scope.spawn(run)).collect();
            let ended = threads.into_iter().map(|thread| thread.join());
            ended.map(|ended| ended.expect("an appender does not panic")).collect::<io::Result<_>>()
        })?
    };
    let seconds = begin.elapsed().as_secs_f64();
    let mut recorder = Recorder::new();
    recorders.iter().for_each(|one| recorder.add(one));
    Ok(Cell {
        name: contender.name(),
        row: *row,
        batches_per_s: recorder.ops() as f64 / seconds * (row.appenders / appenders) as f64,
        p50_us: recorder.micros(0.5),
        p99_us: recorder.micros(0.99),
    })
}
