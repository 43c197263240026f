//! Runs the simulator over seeds: `cargo run --features sim --example simulate -- [FIRST [COUNT]]`.
//! With one seed (`COUNT` 1) the trace is printed.

use margay::sim::{Options, run};

fn main() -> std::process::ExitCode {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let first = arguments.next().and_then(Result::ok).unwrap_or(1);
    let count = arguments.next().and_then(Result::ok).unwrap_or(100);
    let (mut operations, mut unknown, mut crashes, mut given_up) = (0, 0, 0, 0);
    let mut virtual_time = 0;
    for seed in first..first.saturating_add(count) {
        match run(Options { loud: count == 1, ..Options::new(seed) }) {
            Ok(summary) => {
                operations += summary.operations;
                unknown += summary.unknown;
                crashes += summary.faults.get("crash").copied().unwrap_or(0);
                given_up += summary.given_up;
                virtual_time += summary.time.0;
            }
            Err(failure) => {
                println!("{failure}");
                return std::process::ExitCode::FAILURE;
            }
        }
    }
    let seconds = virtual_time / 1_000_000;
    println!(
        "{count} seeds: {operations} operations ({unknown} failed or unknown), {crashes} crashes, \
         {given_up} searches given up, {seconds} virtual seconds"
    );
    std::process::ExitCode::SUCCESS
}
