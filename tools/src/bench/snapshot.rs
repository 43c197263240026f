//! `margay bench snapshot`: how long a turn of a shard takes at most while its state is written
//! out, and what clients notice of it.
//!
//! Three nodes as processes, one group. A map is filled until the state is as large as was asked
//! for; then the same load runs again and again, and each run is a row: with a snapshot under way,
//! for a part of the time, or without one. Nodes take snapshots when they think fit, as they always
//! do. The length of turns is the nodes' own word, asked for twice a second; in how much of it the
//! machine itself stood still is told apart.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{fs, sync::Arc};

use margay_bench::load::{self, Load, Workload};
use margay_bench::report::{Report, Shape};
use serde_json::json;

use super::standstill::{self, Standstill, Still};
use super::{Progress, connections, inflight, payload};
use crate::connect::Connect;
use crate::exit::{Exit, NEGATIVE};
use crate::nodes::{Live, NODES, Nodes, Plan};
use crate::output::{self, Table};
use crate::{sys, units};

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// How large the state is: keys of 12 bytes with values of --payload
    #[arg(long, value_name = "BYTES", value_parser = units::size, default_value = "1GiB")]
    state: usize,
    /// Bytes of a value
    #[arg(long, default_value = "1KiB", value_parser = payload)]
    payload: usize,
    /// Sockets in total, each with one session
    #[arg(long, default_value_t = 16, value_parser = connections)]
    connections: usize,
    /// Operations under way per connection
    #[arg(long, default_value_t = 16, value_parser = inflight)]
    inflight: usize,
    /// How long each run takes
    #[arg(long, value_name = "TIME", value_parser = units::seconds, default_value = "5")]
    seconds: Duration,
    /// Runs with a snapshot under way that are waited for, and as many without; six times as many
    /// runs at most
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// No turn may take longer while a snapshot is under way, without the time that the machine
    /// itself stood still; exit code 1 if one does
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "10ms")]
    bound: Duration,
    /// Where the nodes keep their files, six times the state, while it runs
    #[arg(long, default_value = ".")]
    dir: PathBuf,
}

/// A cluster without a leader for this long is broken.
const PATIENCE: Duration = Duration::from_secs(60);
/// Runs, at most, for each that is waited for: under full load hardly a moment passes in which no
/// node writes its state out.
const RUNS_PER_ROUND: usize = 6;
/// Pause between two looks at the nodes.
const LOOK: Duration = Duration::from_millis(500);
/// What a node says of its turns reaches back so far.
const REACH: Duration = Duration::from_secs(10);

/// What a node said, and when.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// When the nodes were asked.
    at: Instant,
    node: usize,
    snapshotting: bool,
    longest: Longest,
    /// Within which the longest turn was.
    from: Instant,
    to: Instant,
}

/// The longest of some turns, by three measures.
#[derive(Clone, Copy, Debug, Default)]
struct Longest {
    turn: Duration,
    /// Without the time that the machine itself stood still.
    own: Duration,
    /// What a turn itself ran, standstills included; the rest was waiting.
    ran: Duration,
}

impl Longest {
    fn max(self, other: Longest) -> Longest {
        Longest {
            turn: self.turn.max(other.turn),
            own: self.own.max(other.own),
            ran: self.ran.max(other.ran),
        }
    }

    fn row(self, what: &str) -> Vec<String> {
        let times = [self.turn, self.own, self.ran].map(|time| time.as_micros() as u64);
        [vec![what.to_owned()], times.map(units::time).to_vec()].concat()
    }

    fn json(self) -> serde_json::Value {
        json!({
            "turn_us": self.turn.as_micros() as u64,
            "without_standstill_us": self.own.as_micros() as u64,
            "ran_us": self.ran.as_micros() as u64,
        })
    }
}

pub(crate) fn run(connect: &Connect, args: &Args) -> Result<(), Exit> {
    crate::serve::refuse_bugs()?;
    let dir = args.dir.join(format!("margay-snapshot-{}", std::process::id()));
    fs::create_dir_all(&dir)?;
    let dir = dir.canonicalize()?;
    let told = measure(connect, args, &dir);
    // Left over if it cannot be removed; what was measured is said all the same.
    let _ = fs::remove_dir_all(&dir);
    told
}

fn measure(connect: &Connect, args: &Args, dir: &std::path::Path) -> Result<(), Exit> {
    let plan = Plan {
        executable: std::env::current_exe()?,
        dir: dir.to_owned(),
        groups: 1,
        shards: 1,
        tls: None,
        more: Vec::new(),
        live: Live::default(),
    };
    let nodes = Nodes::start(&plan, PATIENCE)?;
    crate::cluster::wait_until_ready(&nodes.endpoints(), None, PATIENCE)?;
    let keys = (args.state / (args.payload + 12)).clamp(1, u32::MAX as usize) as u32;
    let Args { connections, inflight, payload, .. } = *args;
    let load = Load {
        tls: None,
        endpoints: nodes.endpoints(),
        workload: Workload::MapPut,
        shape: Shape { connections, inflight, payload },
        keys,
        time: args.seconds,
    };
    // A generator is on another machine, as a rule: it must not take the nodes' turns away here.
    sys::yield_to_others();
    output::aside(&format!("filling {} keys …\n", units::grouped(keys.into())));
    load::fill(&load)?;
    let standstill = Standstill::watch();
    let watch = Watch::begin(nodes.endpoints())?;
    let runs = runs(&load, &watch, args.rounds)?;
    let mut seen = watch.end();
    nodes.stop(PATIENCE)?;
    let still = standstill.map(Standstill::end);
    if let Err(error) = &still {
        output::aside(&format!("when the machine itself stood still is not known: {error}\n"));
    }
    let still = still.unwrap_or_default();
    for Seen { longest, from, to, .. } in &mut seen {
        longest.own = longest.turn.saturating_sub(standstill::within(&still, *from, *to));
    }
    show(connect, args, &runs, &seen, &still)
}

/// One run of the load.
struct Run {
    report: Report,
    begin: Instant,
    end: Instant,
}

fn runs(load: &Load, watch: &Watch, rounds: u32) -> Result<Vec<Run>, Exit> {
    let (mut runs, mut with, mut without) = (Vec::new(), 0, 0);
    let most = RUNS_PER_ROUND * rounds as usize;
    while (with < rounds || without < rounds) && runs.len() < most {
        let begin = Instant::now();
        let mut progress = Progress::new(load.time);
        let report = load::run(load, &mut |pulse| progress.show(pulse));
        progress.clear();
        let run = Run { report: report?, begin, end: Instant::now() };
        let is_with = share(&run, &watch.seen()) > 0.0;
        *(if is_with { &mut with } else { &mut without }) += 1;
        runs.push(run);
    }
    Ok(runs)
}

/// How much of a run a snapshot was under way somewhere, as a part of the looks.
fn share(run: &Run, seen: &[Seen]) -> f64 {
    let during = |seen: &&Seen| run.begin <= seen.at && seen.at <= run.end;
    let (mut looks, mut under_way) = (0, 0);
    let looked: Vec<&Seen> = seen.iter().filter(during).collect();
    for look in looked.chunk_by(|one, other| one.at == other.at) {
        looks += 1;
        under_way += usize::from(look.iter().any(|seen| seen.snapshotting));
    }
    under_way as f64 / f64::from(looks.max(1))
}

/// Asks the nodes how they are, on a thread of its own.
struct Watch {
    seen: Arc<std::sync::Mutex<Vec<Seen>>>,
    ended: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Watch {
    fn begin(endpoints: Vec<String>) -> std::io::Result<Watch> {
        let (seen, ended) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let (all, stop): (Arc<std::sync::Mutex<Vec<Seen>>>, _) =
            (Arc::clone(&seen), Arc::clone(&ended));
        let thread = thread::Builder::new().name("margay-watch".to_owned()).spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let found = look(&endpoints);
                all.lock().expect("nobody panics while looking").extend(found);
                thread::sleep(LOOK);
            }
        })?;
        Ok(Watch { seen, ended, thread })
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("nobody panics while looking").clone()
    }

    fn end(self) -> Vec<Seen> {
        self.ended.store(true, Ordering::Relaxed);
        // It has nothing to say but what it has seen.
        let _ = self.thread.join();
        self.seen.lock().expect("nobody panics while looking").clone()
    }
}

fn look(endpoints: &[String]) -> Vec<Seen> {
    let at = Instant::now();
    let nodes = margay::client::status(endpoints, None, PATIENCE);
    let answered = Instant::now();
    let all = nodes.iter().enumerate().flat_map(|(node, said)| {
        let groups = said.groups.iter().flatten();
        groups.map(move |group| {
            let turn = Duration::from_micros(group.longest_turn_us.into());
            let ago = Duration::from_micros(group.longest_turn_ago_us.into());
            let ran = Duration::from_micros(group.busiest_turn_us.into());
            Seen {
                at,
                node,
                snapshotting: group.snapshotting,
                longest: Longest { turn, own: turn, ran },
                // The node looked at its clock at some time in between.
                from: at.checked_sub(ago + turn).unwrap_or(at),
                to: answered.checked_sub(ago).unwrap_or(answered),
            }
        })
    });
    all.collect()
}

/// The longest turn of all nodes: with a snapshot under way within what the node's word reaches
/// back, or without.
fn longest(seen: &[Seen], with: bool) -> Longest {
    let mut longest = Longest::default();
    for node in 0..NODES {
        let of_node: Vec<&Seen> = seen.iter().filter(|seen| seen.node == node).collect();
        for one in &of_node {
            let reached = |other: &&&Seen| {
                other.at <= one.at && one.at.duration_since(other.at) <= REACH + LOOK
            };
            let is_with = of_node.iter().filter(reached).any(|other| other.snapshotting);
            if is_with == with {
                longest = longest.max(one.longest);
            }
        }
    }
    longest
}

fn show(
    connect: &Connect,
    args: &Args,
    runs: &[Run],
    seen: &[Seen],
    still: &[Still],
) -> Result<(), Exit> {
    let (with, without) = (longest(seen, true), longest(seen, false));
    let standstill = still.iter().map(|still| still.to - still.from).max().unwrap_or_default();
    if connect.is_json() {
        let rows: Vec<_> = runs
            .iter()
            .map(|run| json!({ "snapshot_share": share(run, seen), "load": run.report.to_json() }))
            .collect();
        output::json(&json!({
            "state_bytes": args.state,
            "longest_with": with.json(),
            "longest_without": without.json(),
            "longest_standstill_us": standstill.as_micros() as u64,
            "bound_us": args.bound.as_micros() as u64,
            "runs": rows,
        }))?;
    } else {
        let mut table = Table::new(&["SNAPSHOT", "OPS/S", "P50", "P99", "P99.9", "MAX"]);
        for run in runs {
            let Report { p50_us, p99_us, p999_us, max_us, .. } = run.report;
            let mut row = vec![format!("{:.0} %", share(run, seen) * 100.0)];
            row.push(units::grouped(run.report.ops_per_s()));
            row.extend([p50_us, p99_us, p999_us, max_us].map(units::time));
            table.row(row);
        }
        table.print()?;
        output::line("")?;
        let mut table = Table::new(&["LONGEST", "TURN", "WITHOUT STANDSTILL", "ITSELF RAN"]);
        table.row(with.row("with a snapshot"));
        table.row(without.row("without"));
        table.print()?;
        let standstill = units::time(standstill.as_micros() as u64);
        output::line(&format!("the machine itself stood still for {standstill} at most"))?;
    }
    if with.own > args.bound {
        let bound = units::time(args.bound.as_micros() as u64);
        let why = if with.ran > args.bound { "" } else { ", waiting included" };
        return Err(Exit::new(NEGATIVE, format!("a turn took longer than {bound}{why}")));
    }
    Ok(())
}
