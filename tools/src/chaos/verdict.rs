//! Judging what clients saw, and what the nodes hold at the end.

use std::fmt;
use std::time::{Duration, Instant};

use margay::sim::linearizable::{Model, Verdict, check};
use margay::sim::models::{Key, Sum};

use crate::clients::{History, Journal};
use crate::hosts::Hosts;

/// Steps of one search, at most.
const STEPS: u64 = 2_000_000;

/// A time in which a client certainly held the lock, in microseconds since the start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tenure {
    pub(crate) from: u64,
    pub(crate) until: u64,
    pub(crate) token: u64,
}

/// What was found.
pub(crate) struct Report {
    operations: u64,
    refused: u64,
    unknown: u64,
    histories: usize,
    tenures: usize,
    outage: Duration,
    /// Histories whose search was given up.
    given_up: usize,
    violations: Vec<String>,
}

impl Report {
    /// Judges a journal, and waits until all nodes hold the same log.
    pub(crate) fn judge(journal: &Journal, hosts: &Hosts, patience: Duration) -> Report {
        let mut report = Report {
            operations: journal.operations,
            refused: journal.refused,
            unknown: journal.unknown,
            histories: journal.keys.len() + journal.counters.len(),
            tenures: journal.tenures.len(),
            outage: Duration::from_micros(journal.outage),
            given_up: 0,
            violations: Vec::new(),
        };
        for (key, history) in &journal.keys {
            report.judge_one(&Key, history, &format!("map key {key}"));
        }
        for (name, history) in &journal.counters {
            report.judge_one(&Sum, history, &format!("counter {name}"));
        }
        report.judge_lock(journal.tenures.clone());
        report.compare_logs(hosts, patience);
        report
    }

    /// Whether everything that was promised was kept.
    pub(crate) fn holds(&self) -> bool {
        self.violations.is_empty()
    }

    fn judge_one<M: Model>(&mut self, model: &M, history: &History<M::Op, M::Reply>, what: &str)
    where
        M::Op: fmt::Debug,
        M::Reply: fmt::Debug,
    {
        match check(model, history, STEPS) {
            Verdict::Linearizable => {}
            Verdict::Unknown => self.given_up += 1,
            Verdict::Violation => {
                let mut sorted: Vec<_> = history.iter().collect();
                sorted.sort_by_key(|operation| operation.invoked);
                let lines: Vec<String> = sorted.iter().map(|op| format!("    {op:?}")).collect();
                let text = format!("{what} is not linearizable:\n{}", lines.join("\n"));
                self.violations.push(text);
            }
        }
    }

    /// One holder at a time, and tokens rise.
    fn judge_lock(&mut self, mut tenures: Vec<Tenure>) {
        tenures.sort_by_key(|tenure| tenure.token);
        for pair in tenures.windows(2) {
            let [before, after] = [pair[0], pair[1]];
            if before.token == after.token || before.until > after.from {
                self.violations.push(format!("two holders of a lock: {before:?}, {after:?}"));
            }
        }
    }

    fn compare_logs(&mut self, hosts: &Hosts, patience: Duration) {
        let end = Instant::now() + patience;
        loop {
            let differing = differing(hosts);
            match differing {
                None => return,
                Some(text) if Instant::now() > end => {
                    self.violations.push(format!("after {patience:?} of peace {text}"));
                    return;
                }
                Some(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }
}

/// What differs between the logs of the nodes; `None` if each group's are equal to the last byte.
fn differing(hosts: &Hosts) -> Option<String> {
    let mut groups = Vec::new();
    for node in hosts.status() {
        match node.groups {
            Ok(views) => groups.push((node.endpoint, views)),
            Err(error) => return Some(format!("{} does not answer: {error}", node.endpoint)),
        }
    }
    let (first, views) = groups.first()?;
    for (other, theirs) in &groups[1..] {
        for (a, b) in views.iter().zip(theirs) {
            if (a.last, a.chain, a.applied) != (b.last, b.chain, b.applied) {
                return Some(format!("{first} and {other} differ: {a:?}, {b:?}"));
            }
        }
    }
    None
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { operations, refused, unknown, histories, tenures, given_up, .. } = self;
        writeln!(f, "operations  {operations}: {refused} refused, {unknown} of unknown outcome")?;
        writeln!(f, "outage      {:?} at most without any answer", self.outage)?;
        writeln!(f, "histories   {histories}, {given_up} too entangled to judge")?;
        writeln!(f, "lock        {tenures} tenures")?;
        for violation in &self.violations {
            writeln!(f, "VIOLATION   {violation}")?;
        }
        let verdict = if self.holds() { "nothing promised was broken" } else { "BROKEN" };
        write!(f, "verdict     {verdict}")
    }
}
