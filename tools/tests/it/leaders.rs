//! Which node leads which group.

use crate::harness::{PATIENCE, Scratch, alone, plan, until};
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
