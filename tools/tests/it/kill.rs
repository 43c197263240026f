//! Nothing acknowledged is lost, whatever is killed.
//!
//! Clients write unique ids while the leader, then a follower, then all three nodes are killed with
//! SIGKILL and started again with what they left on their disks; and while the leader is asked to
//! stop with SIGTERM, which hands leadership over. `MARGAY_KILL_ROUNDS` says how often;
//! `scripts/kill.sh --rounds 20` sets it and shows the table.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{PATIENCE, Scratch, alone, plan, until};
use crate::ids::Writers;
use crate::nodes::{NODES, Nodes, name};
use crate::sys;

/// Ids acknowledged between two events, at least.
const PROGRESS: u64 = 200;

/// What is killed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Victim {
    Leader,
    Follower,
    All,
    /// The leader, with SIGTERM.
    Stop,
}

#[test]
fn nothing_acknowledged_is_lost_when_nodes_are_killed() {
    let _alone = alone();
    let rounds = std::env::var("MARGAY_KILL_ROUNDS").map_or(Ok(1), |rounds| rounds.parse());
    let rounds: u32 = rounds.expect("MARGAY_KILL_ROUNDS is a number");
    let scratch = Scratch::new("kill");
    let mut nodes = Nodes::start(&plan(scratch.path(), 1), PATIENCE).expect("three nodes start");
    let victims = [Victim::Leader, Victim::Follower, Victim::All, Victim::Stop];
    let mut times = [const { Vec::new() }; 4];
    for round in 1..=rounds {
        let writers = Writers::start(&nodes.endpoints(), &format!("{round}"), 0);
        let writers = writers.expect("writers connect");
        let mut line = format!("round {round:>2}:");
        for (victim, times) in victims.into_iter().zip(&mut times) {
            let time = kill_and_restart(&mut nodes, &writers, victim);
            line += &format!("  {victim:?} {} ms", time.as_millis());
            times.push(time);
        }
        let verdict = writers.finish(&nodes.endpoints()).unwrap_or_else(|error| {
            let logs: Vec<String> = (0..NODES).map(|node| nodes.log(node)).collect();
            panic!("round {round}: {error}\n{}", logs.join("\n"));
        });
        let (ids, adds, unknown) = (verdict.acknowledged, verdict.adds, verdict.unknown_present);
        println!("{line}  ids {ids} (+{unknown} unknown)  counter {} of {adds}", verdict.counter);
    }
    println!("time from the kill to the next committed write, {rounds} rounds;");
    println!("for a leader that is asked to stop, the longest time without a committed write:");
    for (victim, times) in victims.into_iter().zip(&mut times) {
        times.sort();
        let (median, most) = (times[times.len() / 2], times[times.len() - 1]);
        println!(
            "{victim:>10?}  median {:>5} ms  max {:>5} ms",
            median.as_millis(),
            most.as_millis()
        );
    }
    nodes.stop(PATIENCE).expect("nodes stop when they are asked to");
}

/// Returns the time from the kill to the first answer to a write that was sent after it; of a node
/// that stops in order, how long there was none.
fn kill_and_restart(nodes: &mut Nodes, writers: &Writers, victim: Victim) -> Duration {
    progress(writers, "before a kill");
    until("a leader", || nodes.leader(0).is_some());
    let leader = nodes.leader(0).unwrap_or_default();
    let killed: Vec<usize> = match victim {
        Victim::Leader | Victim::Stop => vec![leader],
        Victim::Follower => vec![(leader + 1) % NODES],
        Victim::All => (0..NODES).collect(),
    };
    if victim == Victim::Stop {
        let time = silence(writers, || stop(nodes, leader));
        revive(nodes, &killed);
        catch_up(nodes, writers, &killed);
        return time;
    }
    let times: Vec<_> =
        killed.iter().map(|node| nodes.kill(*node).expect("can be killed")).collect();
    writers.on_killed(times[0]);
    if victim != Victim::All {
        // Two of three go on by themselves.
        until("a write without the dead node", || writers.next_write().is_some());
    }
    revive(nodes, &killed);
    until("a write after the kill", || writers.next_write().is_some());
    let time = writers.next_write().unwrap_or_default();
    catch_up(nodes, writers, &killed);
    time
}

/// Starts what is down.
fn revive(nodes: &mut Nodes, killed: &[usize]) {
    for node in killed {
        let restarted = nodes.restart(*node, PATIENCE);
        restarted.unwrap_or_else(|error| panic!("{} restarts: {error}", name(*node)));
    }
}

/// Sees nodes that were down catch up under load.
fn catch_up(nodes: &Nodes, writers: &Writers, killed: &[usize]) {
    progress(writers, "after a restart");
    let goal = commit_index(nodes);
    until("the restarted nodes to catch up", || {
        killed.iter().all(|node| applied_index(nodes, *node) >= goal)
    });
}

/// Asks a node to stop, and waits until it has.
fn stop(nodes: &mut Nodes, node: usize) {
    sys::signal(nodes.pids()[node], libc::SIGTERM);
    until("the node to stop", || {
        let status = nodes.ended(node).expect("it can be asked");
        status.inspect(|status| assert!(status.success(), "{status}: {}", nodes.log(node)));
        status.is_some()
    });
}

/// The longest time in which no write was acknowledged, while something is done and until the next
/// one is.
fn silence(writers: &Writers, act: impl FnOnce()) -> Duration {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let (mut seen, mut since, mut longest) = (0, Instant::now(), Duration::ZERO);
            loop {
                let acknowledged = writers.acknowledged();
                if acknowledged > seen {
                    longest = longest.max(since.elapsed());
                    (seen, since) = (acknowledged, Instant::now());
                    if done.load(Ordering::Relaxed) {
                        return longest;
                    }
                }
                thread::sleep(Duration::from_micros(500));
            }
        });
        act();
        done.store(true, Ordering::Relaxed);
        watch.join().expect("it only looks")
    })
}

fn progress(writers: &Writers, when: &str) {
    let goal = writers.acknowledged() + PROGRESS;
    until(&format!("progress {when}"), || writers.acknowledged() >= goal);
}

/// What any node knows to be committed.
fn commit_index(nodes: &Nodes) -> u64 {
    let status = nodes.status();
    let groups = status.iter().filter_map(|node| node.groups.as_ref().ok()).flatten();
    groups.map(|group| group.commit.0).max().unwrap_or_default()
}

fn applied_index(nodes: &Nodes, node: usize) -> u64 {
    let status = nodes.status();
    let groups = status[node].groups.as_ref().map_or(&[][..], |groups| groups);
    groups.iter().map(|group| group.applied.0).max().unwrap_or_default()
}
