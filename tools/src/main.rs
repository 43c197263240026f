//! The margay command: server, client, demo and benchmark in one binary.
//!
//! One file per family of commands. What they print goes through `output`, how they end through
//! `exit`.
#![deny(unsafe_code)]

mod barrier;
mod bench;
mod cluster;
mod connect;
mod counter;
mod data;
mod demo;
mod election;
mod exit;
mod generate;
mod group;
mod hold;
mod ids;
mod journal;
mod latch;
mod lock;
mod log;
mod manage;
mod map;
mod members;
mod multimap;
mod nodes;
mod output;
mod queue;
mod rwlock;
mod semaphore;
mod serve;
mod set;
mod shell;
mod sim;
mod sys;
mod tls;
mod topic;
mod tree;
mod txn;
mod units;
mod value;
mod verify;

use std::process::ExitCode;

/// A node lets another thread free what its shards have allocated, a million pieces at once. With
/// glibc's allocator the next thing that a shard asks for may pay for all of them, 28 ms were
/// measured; with this one it does not (docs/BENCHMARKS.md).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

use clap::{CommandFactory, Parser};

use exit::Exit;

/// A thread-per-core replicated log on io_uring, and distributed resources on top of it
#[derive(Parser, Debug)]
#[command(
    name = "margay",
    version,
    max_term_width = 100,
    after_help = "\
TIME is a number and its unit, us, ms, s, m, h or d, as in 500ms; SIZE is in bytes, or as in 4KiB,
64MiB and 1GiB.

Exit codes: 0 done · 1 a negative answer (absent, conflict, lock not got)
            2 usage or configuration
            3 no leader reachable, or none that can do it now: nothing was done
            4 the outcome is unknown · 5 it was done, and the answer is lost
            6 a node's storage is not to be trusted"
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
    Multimap(multimap::Args),
    Set(set::Args),
    Tree(tree::Args),
    Lock(lock::Args),
    Queue(queue::Args),
    Rwlock(rwlock::Args),
    Semaphore(semaphore::Args),
    Barrier(barrier::Args),
    Latch(latch::Args),
    Election(election::Args),
    Group(group::Args),
    Topic(topic::Args),
    Journal(journal::Args),
    Log(log::Args),
    Ls(manage::Ls),
    Describe(manage::Describe),
    Delete(manage::Delete),
    Watch(manage::Watch),
    Txn(txn::Args),
    Tls(tls::Args),
    Shell(shell::Args),
    Bench(bench::Args),
    Sim(sim::Args),
    Completions(generate::Completions),
    Man(generate::Man),
}

fn main() -> ExitCode {
    // What is no text is no format.
    output::prepare(std::env::args_os().filter_map(|arg| arg.into_string().ok()));
    match Cli::try_parse() {
        Ok(cli) => run(cli.command).map_or_else(|exit| exit.report(), |()| ExitCode::SUCCESS),
        Err(error) if error.use_stderr() && output::is_for_programs() => Exit::from(error).report(),
        // For people, in colours; and help, which is no error.
        Err(error) => error.exit(),
    }
}

fn run(command: Command) -> Result<(), Exit> {
    let ended = dispatch(command);
    if ended.as_ref().err().is_none_or(Exit::is_negative) {
        output::end()?;
    }
    ended
}

fn dispatch(command: Command) -> Result<(), Exit> {
    match command {
        Command::Serve(args) => serve::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Cluster(args) => cluster::run(&args),
        Command::Value(args) => value::run(&args),
        Command::Counter(args) => counter::run(&args),
        Command::Map(args) => map::run(&args),
        Command::Multimap(args) => multimap::run(&args),
        Command::Set(args) => set::run(&args),
        Command::Tree(args) => tree::run(&args),
        Command::Lock(args) => lock::run(&args),
        Command::Queue(args) => queue::run(&args),
        Command::Rwlock(args) => rwlock::run(&args),
        Command::Semaphore(args) => semaphore::run(&args),
        Command::Barrier(args) => barrier::run(&args),
        Command::Latch(args) => latch::run(&args),
        Command::Election(args) => election::run(&args),
        Command::Group(args) => group::run(&args),
        Command::Topic(args) => topic::run(&args),
        Command::Journal(args) => journal::run(&args),
        Command::Log(args) => log::run(&args),
        Command::Ls(args) => manage::ls(&args),
        Command::Describe(args) => manage::describe(&args),
        Command::Delete(args) => manage::delete(&args),
        Command::Watch(args) => manage::watch(&args),
        Command::Txn(args) => txn::run(&args),
        Command::Tls(args) => tls::run(&args),
        Command::Shell(args) => shell::run(&args, definitions()),
        Command::Bench(args) => bench::run(&args),
        Command::Sim(args) => sim::run(&args),
        Command::Completions(args) => generate::completions(&args, Cli::command()),
        Command::Man(args) => generate::man(&args, Cli::command()),
    }
}

/// All commands, with the options they share filled in.
fn definitions() -> clap::Command {
    let mut command = Cli::command();
    command.build();
    command
}
