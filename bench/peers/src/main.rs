//! margay-log, the ceiling and other crates' logs, by turns in one run.
//!
//!     margay-bench-peers [--dir DIR] [--rounds N] [--seconds S] [--recover BYTES] [--row TEXT]
//!         [--json]

mod okay;
mod raft;
mod red;

use std::path::PathBuf;
use std::time::Duration;

use margay_bench::log::ceiling::{Ceiling, Shared, Woken};
use margay_bench::log::{Contender, Margay, run};

fn main() -> std::io::Result<()> {
    let mut plan = run::Plan::default();
    let mut is_json = false;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().expect("the option has a value");
        match argument.as_str() {
            "--dir" => plan.dir = PathBuf::from(value()),
            "--rounds" => plan.rounds = value().parse().expect("a number"),
            "--seconds" => {
                plan.time = Duration::from_secs_f64(value().parse().expect("a number"));
            }
            "--recover" => plan.recover_bytes = value().parse().expect("a number of bytes"),
            "--row" => plan.rows = value(),
            "--json" => is_json = true,
            other => panic!("unknown option {other}; see the top of bench/peers/src/main.rs"),
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
