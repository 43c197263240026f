//! What a run measured.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::json;

/// The shape of a load: a closed loop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Sockets in total.
    pub connections: usize,
    /// Operations under way per socket.
    pub inflight: usize,
    /// Bytes of a value.
    pub payload: usize,
}

/// One run.
#[derive(Clone, Debug)]
pub struct Report {
    /// `map-put`, …, or `floor`.
    pub workload: String,
    /// What was asked for.
    pub shape: Shape,
    /// Time measured, without the warm-up.
    pub seconds: f64,
    /// Operations answered in it.
    pub ops: u64,
    /// Operations that failed.
    pub errors: u64,
    /// From sending to the answer: microseconds at half of the operations, and so on.
    pub p50_us: u64,
    /// See `p50_us`.
    pub p99_us: u64,
    /// See `p50_us`.
    pub p999_us: u64,
    /// See `p50_us`.
    pub max_us: u64,
}

impl Report {
    /// Operations per second, rounded.
    #[must_use]
    pub fn ops_per_s(&self) -> u64 {
        (self.ops as f64 / self.seconds).round() as u64
    }

    /// One object; its keys are stable.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        json!({
            "workload": self.workload,
            "connections": self.shape.connections,
            "inflight_per_connection": self.shape.inflight,
            "payload_bytes": self.shape.payload,
            "seconds": (self.seconds * 1000.0).round() / 1000.0,
            "ops": self.ops,
            "ops_per_s": self.ops_per_s(),
            "p50_us": self.p50_us,
            "p99_us": self.p99_us,
            "p999_us": self.p999_us,
            "max_us": self.max_us,
            "errors": self.errors,
        })
    }
}

/// Longer ones count as this.
const LATENCY_MAX: Duration = Duration::from_secs(3600);

/// Collects what a report is made of. Latencies are recorded in nanoseconds.
pub(crate) struct Recorder {
    latencies: Histogram<u64>,
    errors: u64,
}

impl Recorder {
    pub(crate) fn new() -> Recorder {
        let latencies = Histogram::new_with_max(LATENCY_MAX.as_nanos() as u64, 3)
            .expect("three digits and an hour are within the bounds");
        Recorder { latencies, errors: 0 }
    }

    pub(crate) fn operation(&mut self, latency: Duration) {
        let nanoseconds = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.latencies.saturating_record(nanoseconds);
    }

    /// Takes over what another one has collected.
    pub(crate) fn add(&mut self, other: &Recorder) {
        self.latencies.add(&other.latencies).expect("both have the same bounds");
        self.errors += other.errors;
    }

    /// Microseconds at a quantile.
    pub(crate) fn micros(&self, quantile: f64) -> u64 {
        self.latencies.value_at_quantile(quantile) / 1000
    }

    pub(crate) fn ops(&self) -> u64 {
        self.latencies.len()
    }

    pub(crate) fn error(&mut self) {
        self.errors += 1;
    }

    /// Forgets all: the warm-up is over.
    pub(crate) fn reset(&mut self) {
        self.latencies.reset();
        self.errors = 0;
    }

    pub(crate) fn report(&self, workload: &str, shape: Shape, seconds: Duration) -> Report {
        let micros = |quantile| self.micros(quantile);
        Report {
            workload: workload.to_string(),
            shape,
            seconds: seconds.as_secs_f64(),
            ops: self.latencies.len(),
            errors: self.errors,
            p50_us: micros(0.5),
            p99_us: micros(0.99),
            p999_us: micros(0.999),
            max_us: self.latencies.max() / 1000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_has_the_keys_that_programs_read() {
        let mut recorder = Recorder::new();
        (1..=1000).for_each(|n| recorder.operation(Duration::from_micros(n)));
        recorder.error();
        let shape = Shape { connections: 2, inflight: 3, payload: 64 };
        let json = recorder.report("map-put", shape, Duration::from_millis(500)).to_json();
        let number = |key: &str| json[key].as_f64().map(|n| n as u64);
        assert_eq!(json["workload"], "map-put");
        assert_eq!(number("inflight_per_connection"), Some(3));
        assert_eq!(number("ops"), Some(1000));
        assert_eq!(number("ops_per_s"), Some(2000));
        assert_eq!(number("errors"), Some(1));
        assert!((495..=505).contains(&number("p50_us").unwrap_or_default()));
        assert!((995..=1001).contains(&number("max_us").unwrap_or_default()));
        assert_eq!(json.as_object().map(|object| object.len()), Some(12));
    }
}
