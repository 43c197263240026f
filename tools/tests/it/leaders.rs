//! Which node leads which group.

use std::process::Command;
use std::time::Instant;

use crate::harness::{Ended, MARGAY, PATIENCE, Scratch, alone, plan, run, until};
use crate::nodes::{NODES, Nodes};

/// Two for each node.
const GROUPS: u32 = 6;

/// How many groups each node leads.
fn leaders(nodes: &Nodes) -> [usize; NODES] {
    let mut led = [0; NODES];
    for group in 0..GROUPS {
        if let Some(leader) = nodes.leader(group) {
            led[leader] += 1;
        }
    }
    led
}

#[test]
fn leaders_are_spread_over_the_nodes_and_again_when_one_goes_or_comes_back() {
    let _alone = alone();
    let scratch = Scratch::new("leaders");
    let mut nodes = Nodes::start(&plan(scratch.path(), GROUPS), PATIENCE).expect("three nodes");
    until("each node to lead two groups", || leaders(&nodes) == [2, 2, 2]);
    nodes.kill(1).expect("it can be killed");
    until("two nodes to share the groups", || leaders(&nodes) == [3, 0, 3]);
    nodes.restart(1, PATIENCE).expect("it starts again");
    until("it to have its groups back", || leaders(&nodes) == [2, 2, 2]);
    nodes.stop(PATIENCE).expect("all stop in order");
}

fn transfer_leader(nodes: &Nodes, args: &[&str]) -> Ended {
    let mut command = Command::new(MARGAY);
    command.args(["cluster", "transfer-leader"]).args(args);
    command.env("MARGAY_ENDPOINTS", nodes.endpoints().join(","));
    run(command)
}

#[test]
fn an_operator_says_who_leads() {
    let _alone = alone();
    let scratch = Scratch::new("transfer");
    let mut nodes = Nodes::start(&plan(scratch.path(), GROUPS), PATIENCE).expect("three nodes");
    // Two each may also come of chance, with other groups than the ranks give them.
    let first = |group: u32| Some((group % 3) as usize);
    until("each group to be led by its first", || {
        (0..GROUPS).all(|group| nodes.leader(group) == first(group))
    });

    // n2 is the second of group 0, and the first has just given it away: it keeps it.
    let told = transfer_leader(&nodes, &["--group", "0", "n2"]).with(0);
    assert_eq!(told.out, "n2 leads in 1 of 1 groups\n");
    assert_eq!(nodes.leader(0), Some(1));
    let told = transfer_leader(&nodes, &["--group", "0", "n2"]).with(0);
    assert_eq!(told.out, "n2 leads in 1 of 1 groups, as before\n");
    assert_eq!(leaders(&nodes), [1, 3, 2], "the other groups are left alone");

    let told = transfer_leader(&nodes, &["n2", "-o", "json"]).with(0).json();
    let expected = serde_json::json!(
        {"node": "n2", "done": 6, "changed": 3, "groups": 6, "refused": []}
    );
    assert_eq!(told, expected);

    let refused = transfer_leader(&nodes, &["n9"]).with(1);
    assert!(refused.err.contains("n9 is no member"), "{refused:?}");
    let refused = transfer_leader(&nodes, &["--group", "6", "n2"]).with(2);
    assert!(refused.err.contains("no group 6"), "{refused:?}");
    until("n2 to lead group 0", || nodes.leader(0) == Some(1));
    nodes.kill(2).expect("it can be killed");
    let refused = transfer_leader(&nodes, &["--group", "0", "n3", "--wait", "5s"]).with(1);
    assert!(refused.err.contains("n3 "), "{refused:?}");
    assert_eq!(nodes.leader(0), Some(1), "who led leads on");
    nodes.restart(2, PATIENCE).expect("it starts again");
    nodes.stop(PATIENCE).expect("all stop in order");
}

/// All groups of all nodes elect at the same time; none is left without a leader, and none needs
/// many attempts.
#[test]
fn election_storm_of_many_groups_at_a_restart() {
    const MANY: u32 = 64;
    let _alone = alone();
    let scratch = Scratch::new("storm");
    let mut nodes = Nodes::start(&plan(scratch.path(), MANY), PATIENCE).expect("three nodes");
    // (groups with a leader that all know, the highest term)
    let led = |nodes: &Nodes| {
        let status = nodes.status();
        let views = status.iter().filter_map(|status| status.groups.as_ref().ok()).flatten();
        let mut known = [0_usize; MANY as usize];
        let mut highest = 0;
        for view in views {
            known[view.group.0 as usize] += usize::from(view.leader.is_some());
            highest = highest.max(view.term.0);
        }
        (known.iter().filter(|known| **known == NODES).count(), highest)
    };
    until("all groups to have a leader", || led(&nodes).0 == MANY as usize);
    let (_, before) = led(&nodes);
    (0..NODES).for_each(|node| _ = nodes.kill(node).expect("it can be killed"));
    let begun = Instant::now();
    (0..NODES).for_each(|node| nodes.restart(node, PATIENCE).expect("it starts again"));
    until("all groups to have a leader again", || led(&nodes).0 == MANY as usize);
    let (_, after) = led(&nodes);
    let took = begun.elapsed().as_millis();
    println!("{MANY} groups lead {took} ms after the first start; terms from {before} to {after}");
    assert!(after <= before + 10, "from term {before} to {after}");
    nodes.stop(PATIENCE).expect("all stop in order");
}

/// What of value, counter and map can be read with one node of three, which does not lead.
#[test]
fn a_node_without_a_majority_answers_sequential_reads_only() {
    let _alone = alone();
    let scratch = Scratch::new("levels");
    let mut nodes = Nodes::start(&plan(scratch.path(), 1), PATIENCE).expect("three nodes");
    let all = nodes.endpoints();
    let margay = |endpoints: &[String], line: &str| {
        let mut command = Command::new(MARGAY);
        command.args(line.split(' ')).env("MARGAY_ENDPOINTS", endpoints.join(","));
        run(command)
    };
    margay(&all, "value set v one").with(0);
    margay(&all, "counter set c 7").with(0);
    margay(&all, "map put m k two").with(0);
    let reads = [
        ("value get v", "one\n"),
        ("counter get c", "7\n"),
        ("map get m k", "two\n"),
        ("map get-many m k -o jsonl", "{\"key\":\"k\""),
        ("map has m k", ""),
        ("map size m", "1\n"),
        ("map entries m -o jsonl", "{\"key\":\"k\""),
        ("map keys m -o jsonl", "{\"key\":\"k\""),
    ];
    for (line, expected) in reads {
        for level in ["linearizable", "lease"] {
            let read = margay(&all, &format!("{line} --level {level}")).with(0);
            assert!(read.out.starts_with(expected), "{line}: {read:?}");
        }
        // A node may be behind for a moment.
        until(line, || {
            let read = margay(&all[2..], &format!("{line} --level sequential"));
            read.code == Some(0) && read.out.starts_with(expected)
        });
    }
    nodes.kill(0).expect("it can be killed");
    nodes.kill(1).expect("it can be killed");
    for (line, expected) in reads {
        let read = margay(&all[2..], &format!("{line} --level sequential")).with(0);
        assert!(read.out.starts_with(expected), "{line}: {read:?}");
    }
    margay(&all[2..], "value get v --timeout 2s").with(3);
    margay(&all[2..], "value get v --level lease --timeout 2s").with(3);
}
