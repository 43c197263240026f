//! The margay command: server, client, demo and benchmark in one binary.
//!
//! One file per family of commands. What they print goes through `output`, how they end through
//! `exit`.
#![deny(unsafe_code)]

mod bench;
mod cluster;
mod connect;
mod counter;
mod demo;
mod exit;
mod ids;
mod lock;
mod log;
mod map;
mod nodes;
mod output;
mod serve;
mod sim;
mod sys;
mod units;
mod value;

use std::process::ExitCode;

use clap::Parser;

/// A thread-per-core replicated log on io_uring, and distributed resources on top of it
#[derive(Parser, Debug)]
#[command(
    name = "margay",
    version,
    max_term_width = 100,
    after_help = "\
Exit codes: 0 done · 1 a negative answer (absent, conflict, lock not got)
            2 usage or configuration · 3 no leader reachable · 4 outcome unknown"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    Serve(serve::Args),
    Demo(demo::Args),
    Cluster(cluster::Args),
    Value(value::Args),
    Counter(counter::Args),
    Map(map::Args),
    Lock(lock::Args),
    Log(log::Args),
    Bench(bench::Args),
    Sim(sim::Args),
}

fn main() -> ExitCode {
    let ended = match Cli::parse().command {
        Command::Serve(args) => serve::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Cluster(args) => cluster::run(&args),
        Command::Value(args) => value::run(&args),
        Command::Counter(args) => counter::run(&args),
        Command::Map(args) => map::run(&args),
        Command::Lock(args) => lock::run(&args),
        Command::Log(args) => log::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Sim(args) => sim::run(&args),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => exit.report(),
    }
}
