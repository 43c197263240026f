//! Snapshots and repair between real processes: a follower that was away too long is brought one,
//! and a cluster that is killed as a whole starts from them.

use margay_log::format::BLOCK;

use crate::harness::{PATIENCE, Scratch, alone, margay_alone, plan, until};
use crate::ids::Writers;
use crate::nodes::{NODES, Nodes, name};

/// The first index that a node's log still holds, and the last it has applied.
fn place(nodes: &Nodes, node: usize) -> Option<(u64, u64)> {
    let status = nodes.status();
    let mut groups = status.iter().filter_map(|status| status.groups.as_ref().ok()).flatten();
    let group = groups.find(|group| group.node == name(node))?;
    Some((group.first.0, group.applied.0))
}

/// `margay cluster verify` finds the same log everywhere, sooner or later.
fn verified(nodes: &Nodes) {
    let endpoints = nodes.endpoints().join(",");
    until("all replicas to be identical", || {
        let ended = margay_alone(&["cluster", "verify", "--endpoints", &endpoints]);
        ended.code == Some(0)
            && ended.out.contains("3 replicas identical to index")
            && !ended.out.contains("unreadable")
    });
    let json = margay_alone(&["cluster", "verify", "--endpoints", &endpoints, "-o", "json"]);
    let json = json.with(0).json();
    assert_eq!((&json[0]["identical"], &json[0]["compared"]), (&true.into(), &3.into()));
}

/// A bit that flips in what is at rest on one node is found, and mended from the others.
#[test]
fn bit_flip_in_a_batch_on_a_minority_is_repaired_from_a_peer() {
    let _alone = alone();
    let scratch = Scratch::new("rot");
    let mut nodes = Nodes::start(&plan(scratch.path(), 1), PATIENCE).expect("three nodes start");
    until("a leader", || nodes.leader(0).is_some());
    let victim = (nodes.leader(0).expect("just seen") + 1) % NODES;
    let writers = Writers::start(&nodes.endpoints(), "rot", 0).expect("writers connect");
    until("writes", || writers.acknowledged() > 300);
    nodes.kill(victim).expect("can be killed");

    let segment = scratch.path().join(name(victim)).join("group-0/segment-0000000000000001.log");
    let mut bytes = std::fs::read(&segment).expect("a segment");
    // In the body of an early batch: behind its frame and its header.
    let mut frames =
        (BLOCK..bytes.len()).step_by(BLOCK).filter(|at| bytes[*at..].starts_with(b"MGYF"));
    let frame = frames.nth(3).expect("some batches");
    bytes[frame + 150] ^= 1;
    std::fs::write(&segment, bytes).expect("the file is ours");
    nodes.restart(victim, PATIENCE).expect("a damaged node starts");
    until("the batch to be given back", || nodes.said(victim).contains("a batch was given back"));
    until("the node to vote again", || nodes.said(victim).contains("the log is whole again"));
    writers.finish(&nodes.endpoints()).expect("nothing is lost");
    verified(&nodes);

    // It is whole on the disk, too.
    nodes.kill(victim).expect("can be killed");
    nodes.restart(victim, PATIENCE).expect("restarts");
    let log = nodes.said(victim);
    assert_eq!(log.matches("the log is damaged").count(), 1, "{log}");
    verified(&nodes);
    nodes.stop(PATIENCE).expect("nodes stop when they are asked to");
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
    // Nobody has sent it more than is here by now.
    let status = nodes.status();
    let groups = status.iter().filter_map(|status| status.groups.as_ref().ok()).flatten();
    let last = groups.map(|group| group.last.index.0).max().expect("two are left");
    until("the leader's log to begin behind what the follower has", || {
        place(&nodes, leader).is_some_and(|(first, _)| first > last + 1)
    });

    nodes.restart(away, PATIENCE).expect("restarts");
    until("the follower to be brought a snapshot", || {
        nodes.said(away).contains("the snapshot is installed")
    });
    until("the follower to have caught up under load", || {
        let goal = place(&nodes, leader).map(|(_, applied)| applied);
        place(&nodes, away).map(|(_, applied)| applied) >= goal
    });

    for node in 0..NODES {
        nodes.kill(node).expect("can be killed");
    }
    let said = [0, 1, 2].map(|node| nodes.said(node).len());
    for node in 0..NODES {
        nodes.restart(node, PATIENCE).expect("restarts");
    }
    for (node, before) in said.into_iter().enumerate() {
        let said = &nodes.said(node)[before..];
        assert!(said.contains("restoring a snapshot"), "{said}");
    }
    let before = writers.acknowledged();
    until("writes after the restart", || writers.acknowledged() > before + 100);
    let verdict = writers.finish(&nodes.endpoints()).unwrap_or_else(|error| {
        let logs: Vec<String> = (0..NODES).map(|node| nodes.log(node)).collect();
        panic!("{error}\n{}", logs.join("\n"));
    });
    assert!(verdict.acknowledged > 200);
    verified(&nodes);
    nodes.stop(PATIENCE).expect("nodes stop when they are asked to");
}
