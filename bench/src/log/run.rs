//! A whole run: every contender in every row, by turns, and what it comes to.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use crate::log::{Cell, Contender, Found, Margay, ROWS, Row, Scan, measure, recovery, scan};

/// What is to be measured, and where.
#[derive(Clone, Debug)]
pub struct Plan {
    /// A directory on the disk that is meant; what is made in it is removed.
    pub dir: PathBuf,
    /// How often everything is measured.
    pub rounds: u32,
    /// How long a contender appends in a row and round, at most.
    pub time: Duration,
    /// Bytes of the log that is recovered and read; 0 leaves that out.
    pub recover_bytes: u64,
    /// Rows whose name contains this: all of them, if it is empty.
    pub rows: String,
}

impl Default for Plan {
    fn default() -> Plan {
        let time = Duration::from_millis(1_500);
        Plan {
            dir: PathBuf::from("."),
            rounds: 3,
            time,
            recover_bytes: 1 << 30,
            rows: String::new(),
        }
    }
}

/// What was measured.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Every cell of every turn.
    pub cells: Vec<Cell>,
    /// Every recovery.
    pub found: Vec<Found>,
    /// Every reading of ours.
    pub scans: Vec<Scan>,
}

/// Runs `plan`; `say` is told of each step. `reader` is what is read and followed.
///
/// # Errors
/// Whatever kept a contender from its work.
pub fn run(
    plan: &Plan,
    contenders: &[&dyn Contender],
    reader: Margay,
    say: &mut dyn FnMut(&str),
) -> io::Result<Outcome> {
    let dir = plan.dir.join(format!("margay-bench-log-{}", std::process::id()));
    let mut outcome = Outcome::default();
    for round in 1..=plan.rounds {
        let mut order = contenders.to_vec();
        if round % 2 == 0 {
            order.reverse();
        }
        for row in ROWS.iter().filter(|row| row.name.contains(&plan.rows)) {
            say(&format!("round {round}: {}", row.name));
            let those: Vec<_> = order.iter().copied().filter(|one| one.runs(row)).collect();
            outcome.cells.extend(measure(&those, row, plan.time, &dir)?);
        }
        if plan.recover_bytes > 0 {
            for contender in &order {
                if contender.recovers() {
                    say(&format!("round {round}: recovery · {}", contender.name()));
                    outcome.found.extend(recovery(*contender, plan.recover_bytes, &dir)?);
                }
            }
            say(&format!("round {round}: reading and following"));
            outcome.scans.extend(scan(reader, plan.recover_bytes, &dir)?);
        }
    }
    Ok(outcome)
}

/// The middle one; of an even number the lower of the two.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len().checked_sub(1)? / 2).copied()
}

impl Outcome {
    fn cells_of<'a>(&'a self, row: &'a Row, name: &'a str) -> impl Iterator<Item = &'a Cell> {
        self.cells.iter().filter(move |cell| cell.row == *row && cell.name == name)
    }

    /// Names in the order in which they were first measured.
    fn names(&self) -> Vec<&'static str> {
        let mut names = Vec::new();
        for cell in &self.cells {
            if !names.contains(&cell.name) {
                names.push(cell.name);
            }
        }
        names
    }

    /// Median over the turns of `name`'s rate divided by that of `other` in the same turn.
    #[must_use]
    pub fn ratio(&self, row: &Row, name: &str, other: &str) -> Option<f64> {
        let pairs = self.cells_of(row, name).zip(self.cells_of(row, other));
        median(pairs.map(|(one, two)| one.batches_per_s / two.batches_per_s).collect())
    }

    fn rate(&self, row: &Row, name: &str) -> Option<f64> {
        median(self.cells_of(row, name).map(|cell| cell.batches_per_s).collect())
    }

    /// One object; its keys are stable.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let cells: Vec<_> = self
            .cells
            .iter()
            .map(|cell| {
                json!({
                    "row": cell.row.name, "log": cell.name,
                    "batches_per_s": cell.batches_per_s.round(),
                    "megabytes_per_s": (cell.megabytes_per_s() * 10.0).round() / 10.0,
                    "p50_us": cell.p50_us, "p99_us": cell.p99_us,
                })
            })
            .collect();
        let found: Vec<_> = self
            .found
            .iter()
            .map(|found| {
                json!({ "log": found.name, "entries": found.entries, "seconds": found.seconds })
            })
            .collect();
        let scans: Vec<_> = self
            .scans
            .iter()
            .map(|scan| {
                json!({
                    "log_megabytes_per_s": scan.log_megabytes_per_s.round(),
                    "plain_megabytes_per_s": scan.plain_megabytes_per_s.round(),
                    "tail_p50_us": scan.tail_p50_us, "tail_p99_us": scan.tail_p99_us,
                })
            })
            .collect();
        json!({ "appends": cells, "recovery": found, "reading": scans })
    }
}

/// Markdown, as it stands in docs/BENCHMARKS.md.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| row | log | batches/s | MB/s | p50 µs | p99 µs | of the ceiling |")?;
        writeln!(f, "|---|---|---|---|---|---|---|")?;
        for row in &ROWS {
            for name in self.names() {
                let Some(rate) = self.rate(row, name) else { continue };
                let p50 = median(self.cells_of(row, name).map(|cell| cell.p50_us as f64).collect());
                let p99 = median(self.cells_of(row, name).map(|cell| cell.p99_us as f64).collect());
                let (p50, p99) = (p50.unwrap_or_default(), p99.unwrap_or_default());
                let megabytes = rate * row.payload_bytes() as f64 / 1e6;
                let share = self.ratio(row, name, row.ceiling()).unwrap_or_default();
                let (name_of_row, p) = (row.name, format!("{p50:.0} | {p99:.0}"));
                writeln!(
                    f,
                    "| {name_of_row} | {name} | {rate:.0} | {megabytes:.1} | {p} | {share:.2} |"
                )?;
            }
        }
        for name in self.names() {
            let seconds: Vec<f64> =
                self.found.iter().filter(|found| found.name == name).map(|f| f.seconds).collect();
            if let Some(seconds) = median(seconds) {
                writeln!(f, "\nrecovery, {name}: {seconds:.2} s")?;
            }
        }
        let of = |pick: fn(&Scan) -> f64| median(self.scans.iter().map(pick).collect());
        if let Some(share) = of(|scan| scan.log_megabytes_per_s / scan.plain_megabytes_per_s) {
            let log = of(|scan| scan.log_megabytes_per_s).unwrap_or_default();
            let (p50, p99) =
                (of(|scan| scan.tail_p50_us as f64), of(|scan| scan.tail_p99_us as f64));
            writeln!(f, "\nsequential read: {log:.0} MB/s of payload, {share:.2} of a plain read")?;
            writeln!(
                f,
                "append to follower: p50 {:.0} µs, p99 {:.0} µs",
                p50.unwrap_or_default(),
                p99.unwrap_or_default()
            )?;
        }
        Ok(())
    }
}
