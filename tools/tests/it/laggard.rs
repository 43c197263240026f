//! A follower that lags stops nobody else, and catches up under load. How fast the others are
//! meanwhile is printed: what else the machine does moves it too much to tell right from wrong.

use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{PATIENCE, Scratch, alone, plan, until};
use crate::ids::Writers;
use crate::nodes::{NODES, Nodes};
use crate::sys;

/// How long throughput is measured.
const SPAN: Duration = Duration::from_secs(4);

/// Writes acknowledged per second.
fn rate(writers: &Writers) -> f64 {
    let (before, began) = (writers.acknowledged(), Instant::now());
    thread::sleep(SPAN);
    (writers.acknowledged() - before) as f64 / began.elapsed().as_secs_f64()
}

/// (what node `node` has applied, what its group has committed)
fn progress(nodes: &Nodes, node: usize) -> (u64, u64) {
    let status = nodes.status();
    let of = |node: usize| status[node].groups.as_ref().ok().and_then(|groups| groups.first());
    let commit = (0..NODES).filter_map(of).map(|group| group.commit.0).max();
    (of(node).map_or(0, |group| group.applied.0), commit.unwrap_or_default())
}

#[test]
fn a_stopped_follower_stops_nobody_and_catches_up_under_load() {
    let _alone = alone();
    let scratch = Scratch::new("laggard");
    let nodes = Nodes::start(&plan(scratch.path(), 1), PATIENCE).expect("three nodes start");
    // So that leadership does not move while something is measured.
    until("n1 to lead its group", || nodes.leader(0) == Some(0));
    let follower = 2;
    let writers = Writers::start(&nodes.endpoints(), "lag", 0).expect("writers connect");
    thread::sleep(Duration::from_secs(1));
    let before = rate(&writers);

    let pid = nodes.pids()[follower];
    sys::signal(pid, libc::SIGSTOP);
    let during = rate(&writers);
    sys::signal(pid, libc::SIGCONT);
    let resumed = Instant::now();
    let after = rate(&writers);
    until("the follower to catch up under load", || {
        let (applied, commit) = progress(&nodes, follower);
        applied > 0 && commit - applied < commit / 20
    });
    let caught_up = resumed.elapsed();
    println!(
        "writes/s: {before:.0} with all, {during:.0} without one, {after:.0} while it catches up, \
         which took at most {} ms",
        caught_up.as_millis()
    );
    let verdict = writers.finish(&nodes.endpoints()).expect("nothing acknowledged is lost");
    assert!(verdict.acknowledged > 0);
    assert!(during > 0.0, "no writes without a follower");
    assert!(after > 0.0, "no writes while it catches up");
    nodes.stop(PATIENCE).expect("all stop in order");
    drop(scratch);
}
