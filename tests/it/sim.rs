//! Whole clusters from seeds. `MARGAY_SEED=N` runs one, `MARGAY_SEEDS=N` that many.

use margay::sim::{Options, run};

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

#[test]
fn the_same_seed_gives_the_same_run() {
    let once = run(Options::new(7)).expect("seed 7 holds");
    let again = run(Options::new(7)).expect("seed 7 holds");
    assert_eq!(once, again);
    assert_ne!(once.trace, run(Options::new(8)).expect("seed 8 holds").trace);
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
    let summary = run(Options { faults: false, ..Options::new(3) }).expect("nothing goes wrong");
    assert_eq!((summary.unknown, summary.faults.len()), (0, 0));
    assert!(summary.operations > 100);
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
