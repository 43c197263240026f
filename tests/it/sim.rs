//! Whole clusters from seeds. `MARGAY_SEED=N` runs one, `MARGAY_SEEDS=N` that many.

use margay::sim::{Faults, Options, run};
use margay_log::id::Micros;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn seeds_hold() {
    let (first, count) = match number("MARGAY_SEED") {
        Some(seed) => (seed, 1),
        None => (1, number("MARGAY_SEEDS").unwrap_or(24)),
    };
    let (mut operations, mut crashes, mut snapshots, mut installs) = (0, 0, 0, 0);
    for seed in first..first + count {
        match run(Options::new(seed)) {
            Ok(summary) => {
                operations += summary.operations;
                crashes += summary.faults.get("crash").copied().unwrap_or(0);
                snapshots += summary.snapshots;
                installs += summary.installs;
            }
            Err(failure) => panic!("{failure}\nreplay with MARGAY_SEED={seed}"),
        }
    }
    println!("{count} seeds: {operations} operations, {crashes} crashes,");
    println!("{snapshots} snapshots made, {installs} brought to another node");
    assert!(operations > 0);
}

/// Address layout and the seeds of hash maps differ from process to process: nothing may depend on
/// them.
#[test]
fn the_same_seed_gives_the_same_run_in_every_process() {
    let traces = || -> Vec<String> {
        (1..=8).map(|seed| format!("{:?}", run(Options::new(seed)))).collect()
    };
    if std::env::var_os("MARGAY_SIM_TRACES").is_some() {
        traces().iter().for_each(|trace| println!("trace: {trace}"));
        return;
    }
    let here = traces();
    assert_ne!(here[0], here[1]);
    let program = std::env::current_exe().expect("a test is a program");
    for _ in 0..2 {
        let test = "sim::the_same_seed_gives_the_same_run_in_every_process";
        let child = std::process::Command::new(&program)
            .args(["--exact", test, "--nocapture"])
            .env("MARGAY_SIM_TRACES", "1")
            .output()
            .expect("the test runs as a process of its own");
        let text = String::from_utf8_lossy(&child.stdout);
        let there: Vec<_> = text.lines().filter_map(|line| line.split_once("trace: ")).collect();
        assert_eq!(there.len(), here.len(), "{text}");
        for (here, (_, there)) in here.iter().zip(&there) {
            assert_eq!(here, there);
        }
    }
}

#[test]
fn five_nodes_hold() {
    for seed in 1..=4 {
        if let Err(failure) = run(Options { nodes: 5, ..Options::new(seed) }) {
            panic!("{failure}");
        }
    }
}

#[test]
fn without_faults_every_operation_is_answered() {
    let summary =
        run(Options { faults: Faults::None, ..Options::new(3) }).expect("nothing goes wrong");
    assert_eq!((summary.unknown, summary.faults.len()), (0, 0));
    assert!(summary.operations > 100);
}

/// A slow follower never makes the others slow, and catches up under load; where it
/// lacks more than the log still has, by a snapshot.
#[test]
fn a_laggard_slows_nobody_down_and_catches_up_under_load() {
    let (mut alone, mut together, mut installs) = (0, 0, 0);
    for seed in 1..=12 {
        for (faults, operations) in [(Faults::None, &mut alone), (Faults::Laggard, &mut together)] {
            let (trouble, drawn) = (Micros::from_millis(5_000), Options::new(seed));
            // Of two nodes each is needed.
            let nodes = drawn.nodes.max(3);
            match run(Options { faults, trouble, nodes, ..drawn }) {
                Ok(summary) => {
                    *operations += summary.operations;
                    installs += summary.installs;
                }
                Err(failure) => panic!("{failure}"),
            }
        }
    }
    println!("{alone} operations without a laggard, {together} with one, {installs} snapshots");
    assert!(together * 10 >= alone * 9, "a laggard costs at most a tenth");
    assert!(installs > 0, "some lacked more than the log still had");
}

/// The simulator has teeth: each known bug that is put back is found. `margay sim --breaks` tries
/// them all.
#[cfg(feature = "breaks")]
#[test]
fn a_bug_that_is_put_back_is_found() {
    use margay_log::breaks;

    for broken in [breaks::ACK_BEFORE_DURABLE, breaks::VOTE_NOT_PERSISTED] {
        let found = (1..=500)
            .find_map(|seed| run(Options { broken: Some(broken), ..Options::new(seed) }).err());
        let found = found.unwrap_or_else(|| panic!("{} is not found", broken.name));
        println!("{}: seed {}, «{}»", broken.name, found.seed, found.property);
    }
}
