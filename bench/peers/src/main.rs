//! margay-log, the ceiling and other crates' logs, by turns in one run.

mod okay;
mod raft;
mod red;

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use margay_bench::log::ceiling::{Ceiling, Shared, Woken};
use margay_bench::log::{Contender, Margay, run};

const USAGE: &str = "\
margay-log, the ceiling and other crates' logs, by turns in one run

    margay-bench-peers [--dir DIR] [--rounds N] [--seconds S] [--recover BYTES] [--row TEXT]
        [--json]

  --dir DIR        where the logs are kept while it runs, some GiB; default: here
  --rounds N       how often each has its turn
  --seconds S      how long a turn is; fractions are allowed
  --recover BYTES  how much is opened again and read
  --row TEXT       only rows whose name contains TEXT
  --json           every cell, for programs";

fn main() -> std::io::Result<()> {
    let mut plan = run::Plan::default();
    let mut is_json = false;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().unwrap_or_else(|| refuse(&argument, "needs a value"));
        match argument.as_str() {
            "--dir" => plan.dir = PathBuf::from(value()),
            "--rounds" => plan.rounds = number(&value()),
            "--seconds" => {
                let seconds = Duration::try_from_secs_f64(number(&value()));
                plan.time = seconds.unwrap_or_else(|_| refuse("--seconds", "out of range"));
            }
            "--recover" => plan.recover_bytes = number(&value()),
            "--row" => plan.rows = value(),
            "--json" => is_json = true,
            "-h" | "--help" => {
                println!("{USAGE}");
                return Ok(());
            }
            other => refuse(other, "no such option"),
        }
    }
    let contenders: [&dyn Contender; 13] = [
        &Ceiling::DEFAULT,
        &Ceiling::HUGE,
        &Ceiling::FOR_ALL,
        &Shared,
        &Woken,
        &Margay::DEFAULT,
        &Margay::TWO,
        &Margay::PLAIN,
        &Margay::IN_PLACE,
        &Margay::FRESH,
        &okay::OkayWal,
        &raft::RaftEngine,
        &red::Redb,
    ];
    let outcome = run::run(&plan, &contenders, Margay::DEFAULT, &mut |line| eprintln!("{line}"))?;
    if is_json {
        println!("{}", outcome.to_json());
    } else {
        print!("{outcome}");
    }
    Ok(())
}

fn number<T: FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| refuse(text, "no number, without a unit"))
}

fn refuse(what: &str, why: &str) -> ! {
    eprintln!("error: {what}: {why}; see --help");
    std::process::exit(2);
}
