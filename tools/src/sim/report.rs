//! What simulations came to, as they run and at the end.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use margay::sim::{Failure, Summary};
use serde_json::json;

use crate::exit::{Exit, NEGATIVE};
use crate::output;
use crate::units;

/// All runs together.
pub(super) struct Total {
    began: Instant,
    seeds: u64,
    operations: u64,
    unknown: u64,
    given_up: u64,
    micros: u64,
    faults: BTreeMap<&'static str, u64>,
}

impl Default for Total {
    fn default() -> Total {
        Total {
            began: Instant::now(),
            seeds: 0,
            operations: 0,
            unknown: 0,
            given_up: 0,
            micros: 0,
            faults: BTreeMap::new(),
        }
    }
}

impl Total {
    /// Adds a run that held; returns the failure of one that did not.
    pub(super) fn add(&mut self, found: Result<Summary, Failure>) -> Option<Failure> {
        self.seeds += 1;
        let summary = match found {
            Ok(summary) => summary,
            Err(failure) => return Some(failure),
        };
        self.operations += summary.operations;
        self.unknown += summary.unknown;
        self.given_up += summary.given_up;
        self.micros += summary.time.0;
        for (name, count) in summary.faults {
            *self.faults.entry(name).or_default() += count;
        }
        None
    }

    fn seeds_per_second(&self) -> f64 {
        self.seeds as f64 / self.began.elapsed().as_secs_f64().max(1e-9)
    }

    fn hours_per_minute(&self) -> f64 {
        let hours = self.micros as f64 / 3.6e9;
        hours / (self.began.elapsed().as_secs_f64().max(1e-9) / 60.0)
    }
}

/// A line on the terminal that says how far it is.
pub(super) struct Progress {
    seeds: Option<u64>,
    is_shown: bool,
    last: Instant,
}

impl Progress {
    /// `seeds`: how many there will be, if that is known.
    pub(super) fn new(seeds: Option<u64>) -> Progress {
        Progress { seeds, is_shown: output::is_terminal(), last: Instant::now() }
    }

    pub(super) fn show(&mut self, total: &Total) {
        if !self.is_shown || self.last.elapsed() < Duration::from_millis(200) {
            return;
        }
        self.last = Instant::now();
        let of = self.seeds.map(|seeds| format!(" of {}", units::grouped(seeds)));
        output::aside(&format!(
            "\r\x1b[K{}{} seeds   {:.1} seeds/s   {:.2} simulated hours per minute",
            units::grouped(total.seeds),
            of.unwrap_or_default(),
            total.seeds_per_second(),
            total.hours_per_minute(),
        ));
    }

    pub(super) fn clear(&self) {
        if self.is_shown {
            output::aside("\r\x1b[K");
        }
    }
}

/// Says what all came to; a failure ends with exit code 1.
pub(super) fn end(
    is_json: bool,
    total: &Total,
    jobs: usize,
    failure: Option<Failure>,
) -> Result<(), Exit> {
    let seconds = total.began.elapsed().as_secs_f64();
    if is_json {
        let failed = failure.as_ref().map(|failure| {
            json!({
                "seed": failure.seed,
                "property": failure.property,
                "details": failure.details,
                "last_events": failure.last,
            })
        });
        output::json(&json!({
            "seeds": total.seeds,
            "failure": failed,
            "operations": total.operations,
            "unknown": total.unknown,
            "searches_given_up": total.given_up,
            "faults": total.faults,
            "simulated_seconds": total.micros as f64 / 1e6,
            "seconds": seconds,
            "jobs": jobs,
        }))?;
        return if failure.is_some() { Err(Exit::quiet(NEGATIVE)) } else { Ok(()) };
    }
    if let Some(failure) = failure {
        output::line(&failure.to_string())?;
        return Err(Exit::quiet(NEGATIVE));
    }
    let faults: Vec<String> = total
        .faults
        .iter()
        .map(|(name, count)| format!("{} × {name}", units::grouped(*count)))
        .collect();
    output::line(&format!(
        "{} seeds held: {} operations, {} of them failed or unknown, {} searches given up\n\
         faults: {}\n{:.1} simulated hours in {:.0} s: {:.2} per minute, {:.1} seeds/s, {jobs} \
         jobs",
        units::grouped(total.seeds),
        units::grouped(total.operations),
        units::grouped(total.unknown),
        units::grouped(total.given_up),
        if faults.is_empty() { "none".to_owned() } else { faults.join(", ") },
        total.micros as f64 / 3.6e9,
        seconds,
        total.hours_per_minute(),
        total.seeds_per_second(),
    ))
}

/// One line about a bug that was put back.
#[cfg(feature = "breaks")]
pub(super) fn found(
    known: &margay_log::breaks::Break,
    failure: Option<&Failure>,
    from: u64,
) -> String {
    match failure {
        Some(Failure { seed, property, .. }) => {
            format!("{}: found by «{property}» after {} seeds", known.name, seed - from + 1)
        }
        None => format!("{}: not found", known.name),
    }
}

/// The table of all known bugs; exit code 1 unless each was found.
#[cfg(feature = "breaks")]
pub(super) fn breaks(
    is_json: bool,
    rows: &[(margay_log::breaks::Break, Option<Failure>)],
    from: u64,
    seeds: u64,
) -> Result<(), Exit> {
    if is_json {
        let rows = rows.iter().map(|(known, failure)| {
            let property = failure.as_ref().map(|failure| failure.property);
            let after = failure.as_ref().map(|failure| failure.seed - from + 1);
            json!({ "name": known.name, "what": known.what, "property": property, "seeds": after })
        });
        output::json(&json!({ "breaks": rows.collect::<Vec<_>>(), "seeds": seeds }))?;
    } else {
        let mut table = output::Table::new(&["BUG", "FOUND BY", "SEEDS", "WHAT IT IS"]);
        for (known, failure) in rows {
            let property = failure.as_ref().map_or("NOT FOUND", |failure| failure.property);
            let after = failure.as_ref().map_or(seeds, |failure| failure.seed - from + 1);
            table.row(vec![
                known.name.to_owned(),
                property.to_owned(),
                units::grouped(after),
                known.what.to_owned(),
            ]);
        }
        table.print()?;
    }
    let missed = rows.iter().filter(|(_, failure)| failure.is_none()).count();
    if missed == 0 { Ok(()) } else { Err(Exit::new(NEGATIVE, format!("{missed} were not found"))) }
}
