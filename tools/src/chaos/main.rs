//! Real nodes under real trouble: every node a host of its own, with a network that can be cut one
//! way, a disk that can fill up and a process that can be killed or stopped. Clients work all the
//! while; afterwards their histories are judged.
//!
//! `hosts` makes the hosts and undoes them, `faults` draws what happens to them, `operator` changes
//! who is a member, `story` says when, `clients` works and remembers, `verdict` judges. Everything
//! happens in a network and a mount namespace that end with this process: `scripts/chaos.sh` makes
//! them, and nothing else on the machine is touched.
#![deny(unsafe_code)]

mod clients;
mod faults;
mod hosts;
mod operator;
mod story;
#[allow(dead_code)]
#[path = "../sys.rs"]
mod sys;
mod verdict;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;

use clients::Clients;
use faults::Faults;
use hosts::Hosts;
use operator::Operator;
use story::Story;
use verdict::Report;

/// Runs nodes in network namespaces, hurts them under load, and judges what clients saw
#[derive(Parser, Debug)]
#[command(name = "chaos")]
struct Args {
    /// How long to make trouble, in minutes; fractions are allowed
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// Nodes: 3 or 5
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(3..=5))]
    nodes: u32,
    /// Repeats what was drawn; when things happen still differs
    #[arg(long)]
    seed: Option<u64>,
    /// The margay executable
    #[arg(long)]
    margay: PathBuf,
    /// Where nodes keep data and logs
    #[arg(long)]
    dir: PathBuf,
}

/// Clients at work.
const CLIENTS: u64 = 6;
/// The operator waits so long for what must be done to a host, at most.
const LOOK: Duration = Duration::from_millis(20);
/// Every node answers within this time after the trouble.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> io::Result<bool> {
    let (sender, signals) = channel();
    sys::divert_signals(sender, |signal| signal.number)?;
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seed = args.seed.unwrap_or(clock.as_millis() as u64);
    println!("chaos: {} nodes, seed {seed}, data and logs in {}", args.nodes, args.dir.display());
    let mut hosts = Hosts::start(&args.margay, &args.dir, args.nodes as usize, PATIENCE)?;
    let report = trouble(args, seed, &mut hosts, &signals);
    match report.and_then(|holds| hosts.stop(PATIENCE).map(|()| holds)) {
        Err(error) => {
            // The hosts were made: whatever does not work from then on is what was looked for.
            println!("VIOLATION   {error}");
            Ok(false)
        }
        holds => holds,
    }
}

/// Makes trouble for the given time, then peace, and judges.
fn trouble(args: &Args, seed: u64, hosts: &mut Hosts, signals: &Receiver<i32>) -> io::Result<bool> {
    let story = Story::begin(&args.dir)?;
    let clients = Clients::start(hosts.endpoints(), CLIENTS, seed, story.clone())?;
    let operator = Operator::start(hosts.endpoints(), seed, story.clone());
    let mut faults = Faults::new(seed, story);
    let end = Instant::now() + Duration::from_secs_f64(args.minutes.max(0.0) * 60.0);
    let mut told = Instant::now();
    while Instant::now() < end {
        let next = Instant::now() + faults.strike(hosts, operator.replacing())?;
        hosts.check()?;
        if told.elapsed() > Duration::from_secs(10) {
            told = Instant::now();
            let left = end.saturating_duration_since(told).as_secs();
            println!("{left:>5} s left  {} operations  {faults}", clients.operations());
        }
        if !pause(next, &operator, hosts, &mut faults, signals)? {
            println!("interrupted: judging what there is");
            break;
        }
    }
    println!("healing");
    faults.heal(hosts)?;
    let changes = operator.finish(hosts, &mut faults, PATIENCE)?;
    hosts.wait_for_all(PATIENCE)?;
    let journal = clients.finish()?;
    let report = Report::judge(&journal, hosts, PATIENCE);
    println!("\nfaults      {faults}\nchanges     {changes}\n{report}");
    Ok(report.holds())
}

/// Nothing bad happens until then, and the operator is attended to. Returns false for a signal.
fn pause(
    until: Instant,
    operator: &Operator,
    hosts: &mut Hosts,
    faults: &mut Faults,
    signals: &Receiver<i32>,
) -> io::Result<bool> {
    loop {
        operator.attend(hosts, faults)?;
        let left = until.saturating_duration_since(Instant::now());
        match signals.recv_timeout(left.min(LOOK)) {
            Err(RecvTimeoutError::Timeout) if left > LOOK => {}
            Err(RecvTimeoutError::Timeout) => return Ok(true),
            _ => return Ok(false),
        }
    }
}
