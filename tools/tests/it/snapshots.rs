//! Snapshots between real processes: a follower that was away too long is brought one, and a
//! cluster that is killed as a whole starts from them.

use crate::harness::{PATIENCE, Scratch, alone, plan, until};
use crate::ids::Writers;
use crate::nodes::{NODES, Nodes, name};

/// The first index that a node's log still holds, and the last it has applied.
fn place(nodes: &Nodes, node: usize) -> Option<(u64, u64)> {
    let status = nodes.status();
    let mut groups = status.iter().filter_map(|status| status.groups.as_ref().ok()).flatten();
    let group = groups.find(|group| group.node == name(node))?;
    Some((group.first.0, group.applied.0))
}

#[test]
fn follower_needs_entry_compacted_meanwhile() {
    let _alone = alone();
    let scratch = Scratch::new("snapshots");
    let mut plan = plan(scratch.path(), 1);
    plan.more = ["--snapshot-after", "128KiB"].map(str::to_owned).to_vec();
    let mut nodes = Nodes::start(&plan, PATIENCE).expect("three nodes start");
    until("a leader", || nodes.leader(0).is_some());
    let leader = nodes.leader(0).expect("just seen");
    let away = (leader + 1) % NODES;
    let writers = Writers::start(&nodes.endpoints(), "snapshots", 0).expect("writers connect");
    until("writes", || writers.acknowledged() > 100);
    nodes.kill(away).expect("can be killed");
    until("the leader's log to begin behind what the follower has", || {
        let (leader, away) = (place(&nodes, leader), nodes.log(away).len());
        leader.is_some_and(|(first, _)| first > 1) && away > 0
    });

    nodes.restart(away, PATIENCE).expect("restarts");
    until("the follower to be brought a snapshot", || {
        nodes.log(away).contains("the snapshot is installed")
    });
    until("the follower to have caught up under load", || {
        let goal = place(&nodes, leader).map(|(_, applied)| applied);
        place(&nodes, away).map(|(_, applied)| applied) >= goal
    });

    for node in 0..NODES {
        nodes.kill(node).expect("can be killed");
    }
    for node in 0..NODES {
        nodes.restart(node, PATIENCE).expect("restarts");
    }
    for node in 0..NODES {
        assert!(nodes.log(node).contains("restoring a snapshot"), "{}", nodes.log(node));
    }
    let before = writers.acknowledged();
    until("writes after the restart", || writers.acknowledged() > before + 100);
    let verdict = writers.finish(&nodes.endpoints()).unwrap_or_else(|error| {
        let logs: Vec<String> = (0..NODES).map(|node| nodes.log(node)).collect();
        panic!("{error}\n{}", logs.join("\n"));
    });
    assert!(verdict.acknowledged > 200);
    nodes.stop(PATIENCE).expect("nodes stop when they are asked to");
}
