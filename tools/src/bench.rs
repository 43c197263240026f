//! `margay bench`: the load generator, the floor, and one against the other.

mod snapshot;
mod standstill;

use std::path::PathBuf;
use std::time::Duration;

use margay_bench::floor;
use margay_bench::load::{self, CONNECTIONS_MAX, INFLIGHT_MAX, KEYS, Load, Pulse, Workload};
use margay_bench::log;
use margay_bench::log::ceiling::{Ceiling, Shared, Woken};
use margay_bench::report::{Report, Shape};

use crate::connect::Connect;
use crate::exit::{Exit, NEGATIVE};
use crate::output::{self, Table};
use crate::units;

/// Measure a cluster, or this machine
#[derive(clap::Args, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  margay bench --workload map-put --connections 16 --inflight 16
  margay bench floor --dir /var/lib/margay     # what this machine allows, with no protocol
  margay bench compare --dir /tmp              # both, alternating
  margay bench log --dir /var/tmp              # the commit log alone, against the disk
  margay bench snapshot --dir /var/tmp         # the longest turn while a large state is written out

A closed loop: each connection is a socket with a session of its own and keeps as many operations
under way as --inflight says. Times run from sending to the answer."
)]
pub(crate) struct Args {
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    load: LoadArgs,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(clap::Subcommand, Debug)]
enum Verb {
    /// Move the bytes of replicated writes with no protocol: three nodes and a generator in this
    /// process
    Floor {
        #[command(flatten)]
        load: ShapeArgs,
        /// Where the nodes keep their files, 192 MiB, while it runs
        #[arg(long, default_value = ".")]
        dir: PathBuf,
    },
    /// Measure the commit log alone against what the disk allows, by turns
    Log {
        /// Measurements of each
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
        rounds: u32,
        /// How long each takes, at most
        #[arg(long, value_name = "TIME", value_parser = units::seconds, default_value = "1500ms")]
        seconds: Duration,
        /// How large the log is that is recovered and read; 0 leaves that out
        #[arg(long, value_name = "BYTES", value_parser = units::size, default_value = "1GiB")]
        recover: usize,
        /// Only rows whose name contains this, such as "1 KiB"; default: all of them
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        row: String,
        /// Where the files are kept while it runs, up to 7 GiB
        #[arg(long, default_value = ".")]
        dir: PathBuf,
    },
    /// Measure the longest turn of a shard while a large state is written out under load: three
    /// nodes as processes of their own
    Snapshot(snapshot::Args),
    /// Measure the cluster and the floor by turns and print margay's share
    Compare {
        /// Measurements of each
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
        rounds: u32,
        /// How long each takes
        #[arg(long, value_name = "TIME", value_parser = units::seconds, default_value = "5")]
        seconds: Duration,
        /// Where the floor keeps its files: on the disk that the nodes use
        #[arg(long, default_value = ".")]
        dir: PathBuf,
    },
}

#[derive(clap::Args, Debug)]
struct LoadArgs {
    /// What to do: map-put, map-get or counter-add
    #[arg(long, default_value = "map-put", value_name = "NAME")]
    workload: Workload,
    #[command(flatten)]
    shape: ShapeArgs,
}

#[derive(clap::Args, Clone, Copy, Debug)]
struct ShapeArgs {
    /// Sockets in total, each with one session
    #[arg(long, default_value_t = 16, value_parser = connections)]
    connections: usize,
    /// Operations under way per connection
    #[arg(long, default_value_t = 16, value_parser = inflight)]
    inflight: usize,
    /// Bytes of a value, e.g. 64 or 4KiB
    #[arg(long, default_value = "64", value_parser = payload)]
    payload: usize,
    /// How long to measure, e.g. 5 or 500ms
    #[arg(long, value_name = "TIME", value_parser = units::seconds, default_value = "5")]
    seconds: Duration,
}

impl ShapeArgs {
    fn shape(self) -> Shape {
        let ShapeArgs { connections, inflight, payload, .. } = self;
        Shape { connections, inflight, payload }
    }
}

fn connections(text: &str) -> Result<usize, String> {
    bounded(text.parse().map_err(|_| "not a number")?, 1, CONNECTIONS_MAX)
}

fn inflight(text: &str) -> Result<usize, String> {
    bounded(text.parse().map_err(|_| "not a number")?, 1, INFLIGHT_MAX)
}

fn payload(text: &str) -> Result<usize, String> {
    bounded(units::size(text)?, 0, floor::PAYLOAD_MAX)
}

fn bounded(number: usize, least: usize, most: usize) -> Result<usize, String> {
    let fits = (least..=most).contains(&number);
    fits.then_some(number).ok_or_else(|| format!("from {least} to {most}"))
}

pub(crate) fn run(args: &Args) -> Result<(), Exit> {
    match &args.verb {
        None => {
            let LoadArgs { workload, shape } = &args.load;
            let report = measure(&args.connect, *workload, shape.shape(), shape.seconds)?;
            print(&args.connect, &report)
        }
        Some(Verb::Floor { load, dir }) => {
            let report = run_floor(load.shape(), load.seconds, dir)?;
            print(&args.connect, &report)
        }
        Some(Verb::Log { rounds, seconds, recover, row, dir }) => {
            let plan = log::run::Plan {
                dir: dir.clone(),
                rounds: *rounds,
                time: *seconds,
                recover_bytes: *recover as u64,
                rows: row.clone(),
            };
            measure_log(&args.connect, &plan)
        }
        Some(Verb::Snapshot(plan)) => snapshot::run(&args.connect, plan),
        Some(Verb::Compare { rounds, seconds, dir }) => {
            compare(&args.connect, *rounds, *seconds, dir)
        }
    }
}

/// The log and the ceiling; other crates' logs join in `bench/peers`.
fn measure_log(connect: &Connect, plan: &log::run::Plan) -> Result<(), Exit> {
    let (ours, two) = (log::Margay::DEFAULT, log::Margay::TWO);
    let (plain, place) = (log::Margay::PLAIN, log::Margay::IN_PLACE);
    let fresh = log::Margay::FRESH;
    let contenders: [&dyn log::Contender; 10] = [
        &Ceiling::DEFAULT,
        &Ceiling::HUGE,
        &Ceiling::FOR_ALL,
        &Shared,
        &Woken,
        &ours,
        &two,
        &plain,
        &place,
        &fresh,
    ];
    let is_shown = output::is_terminal();
    let mut say = |line: &str| {
        if is_shown {
            output::aside(&format!("\r\x1b[K{line}"));
        }
    };
    let outcome = log::run::run(plan, &contenders, ours, &mut say);
    if is_shown {
        output::aside("\r\x1b[K");
    }
    let outcome = outcome.map_err(|error| {
        Exit::new(NEGATIVE, format!("the log: {error}"))
            .hint("it needs --dir on a file system with direct I/O (not tmpfs), and space there")
    })?;
    if connect.is_json() {
        output::json(&outcome.to_json())
    } else {
        output::line(outcome.to_string().trim_end())
    }
}

fn measure(
    connect: &Connect,
    workload: Workload,
    shape: Shape,
    time: Duration,
) -> Result<Report, Exit> {
    connect.check()?;
    let endpoints = connect.endpoints.clone();
    let tls = connect.tls()?;
    let load = Load { endpoints, tls, workload, shape, keys: KEYS, time };
    let mut progress = Progress::new(time);
    let report = load::run(&load, &mut |pulse| progress.show(pulse));
    progress.clear();
    Ok(report?)
}

fn run_floor(shape: Shape, time: Duration, dir: &std::path::Path) -> Result<Report, Exit> {
    // As the log's measurement does.
    std::fs::create_dir_all(dir)
        .map_err(|error| Exit::usage(format!("cannot make {}: {error}", dir.display())))?;
    floor::run(shape, time, dir).map_err(|error| {
        Exit::new(NEGATIVE, format!("the floor: {error}"))
            .hint("it needs io_uring, and --dir on a file system with direct I/O (not tmpfs)")
    })
}

/// One line on the terminal that follows the run.
pub(crate) struct Progress {
    time: Duration,
    is_shown: bool,
    last: Pulse,
}

impl Progress {
    pub(crate) fn new(time: Duration) -> Progress {
        let last = Pulse { elapsed: Duration::ZERO, ops: 0 };
        Progress { time, is_shown: output::is_terminal(), last }
    }

    pub(crate) fn show(&mut self, pulse: Pulse) {
        let since = pulse.elapsed.saturating_sub(self.last.elapsed);
        if !self.is_shown || since.is_zero() {
            return;
        }
        let rate = (pulse.ops.saturating_sub(self.last.ops)) as f64 / since.as_secs_f64();
        let (elapsed, time) = (pulse.elapsed.as_secs_f64(), self.time.as_secs_f64());
        let rate = units::grouped(rate as u64);
        output::aside(&format!("\r\x1b[K{elapsed:.1} of {time:.1} s   {rate} ops/s"));
        self.last = pulse;
    }

    pub(crate) fn clear(&self) {
        if self.is_shown {
            output::aside("\r\x1b[K");
        }
    }
}

const HEADS: [&str; 9] =
    ["WORKLOAD", "CONNS", "INFLIGHT", "BYTES", "OPS/S", "P50", "P99", "P99.9", "MAX"];

fn cells(report: &Report) -> Vec<String> {
    let shape = report.shape;
    let mut cells = vec![report.workload.clone()];
    cells.extend([shape.connections, shape.inflight, shape.payload].map(|n| n.to_string()));
    cells.push(units::grouped(report.ops_per_s()));
    let times = [report.p50_us, report.p99_us, report.p999_us, report.max_us];
    cells.extend(times.map(units::time));
    cells
}

fn print(connect: &Connect, report: &Report) -> Result<(), Exit> {
    if connect.is_json() {
        return output::json(&report.to_json());
    }
    let mut table = Table::new(&HEADS);
    table.row(cells(report));
    table.print()?;
    if report.errors > 0 {
        output::aside(&format!("note: {} operations failed\n", units::grouped(report.errors)));
    }
    Ok(())
}

/// The two shapes that tell most: many operations at once, and one alone.
const SHAPES: [Shape; 2] = [
    Shape { connections: 16, inflight: 16, payload: 64 },
    Shape { connections: 1, inflight: 1, payload: 64 },
];

/// Alternates, because a machine is not equally fast from one minute to the next; shows the
/// medians.
fn compare(
    connect: &Connect,
    rounds: u32,
    time: Duration,
    dir: &std::path::Path,
) -> Result<(), Exit> {
    let (mut table, mut array) = (Table::new(&HEADS), output::Array::begin(connect.output));
    let mut shares = Vec::new();
    for shape in SHAPES {
        let (mut ours, mut floors) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            floors.push(run_floor(shape, time, dir)?);
            ours.push(measure(connect, Workload::MapPut, shape, time)?);
        }
        let (ours, floor) = (median(ours), median(floors));
        let share = ours.ops_per_s() as f64 / floor.ops_per_s().max(1) as f64;
        let slower = ours.p50_us as f64 / floor.p50_us.max(1) as f64;
        let (connections, inflight) = (shape.connections, shape.inflight);
        shares.push((format!("{connections}x{inflight}"), share, slower));
        for report in [&floor, &ours] {
            array.add(&report.to_json())?;
            table.row(cells(report));
        }
    }
    if connect.is_json() {
        return array.end();
    }
    table.print()?;
    for (shape, share, slower) in shares {
        let share = share * 100.0;
        output::line(&format!(
            "{shape}: {share:.0} % of the floor's ops/s, {slower:.2} x its p50"
        ))?;
    }
    Ok(())
}

/// The report of median throughput: one that was measured, not a mixture.
fn median(mut reports: Vec<Report>) -> Report {
    reports.sort_by_key(Report::ops_per_s);
    reports.swap_remove(reports.len() / 2)
}
