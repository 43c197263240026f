//! Nodes inside this process: alone, several side by side, and as a cluster that loses one.

use std::time::{Duration, Instant};

use margay::error::Error;
use margay::server::{LocalCluster, Node};
use margay_log::id::GroupId;

use crate::PATIENCE;

#[test]
fn a_node_in_a_program_keeps_its_state_over_a_restart() {
    let node = Node::builder().temporary().groups(2).start().expect("it starts");
    let (address, data) = (node.address(), node.server().cluster());
    let client = node.client().expect("it answers");
    client.counter("starts").wait().unwrap().add_and_get(3).wait().unwrap();
    client.close().unwrap();

    let node = node.restart().expect("it starts again");
    assert_eq!((node.address(), node.server().cluster()), (address, data));
    let client = node.client().expect("it answers again");
    assert_eq!(client.counter("starts").wait().unwrap().add_and_get(1).wait().unwrap(), 4);
    client.close().unwrap();
    node.stop().expect("nothing had stopped it");
    let left = std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1));
    assert!(left.is_err(), "nobody listens any more");
}

#[test]
fn nodes_in_one_process_do_not_know_of_each_other() {
    let nodes: Vec<Node> =
        (0..3).map(|_| Node::builder().temporary().start().expect("it starts")).collect();
    for (n, node) in nodes.iter().enumerate() {
        let value = node.client().unwrap().value("who").wait().unwrap();
        assert_eq!(value.get().wait().unwrap(), None);
        value.set(&[n as u8]).wait().unwrap();
    }
    for (n, node) in nodes.iter().enumerate() {
        let value = node.client().unwrap().value("who").wait().unwrap();
        assert_eq!(value.get().wait().unwrap().unwrap().value, [n as u8]);
    }
}

#[test]
fn a_local_cluster_outlives_its_leader() {
    let mut cluster = LocalCluster::builder(3).groups(1).start().expect("it starts");
    let client = cluster.client().expect("somebody answers");
    let counter = client.with_timeout(PATIENCE).counter("hits").wait().unwrap();
    counter.add_and_get(1).wait().unwrap();

    let begun = Instant::now();
    let leader = loop {
        match cluster.leader(GroupId(0)) {
            Some(leader) => break leader,
            None => assert!(begun.elapsed() < PATIENCE, "nobody leads"),
        }
    };
    cluster.stop_node(leader).expect("it was well");
    assert!(cluster.node(leader).is_none());
    assert_eq!(counter.add_and_get(1).wait().expect("the others go on"), 2);

    cluster.start_node(leader).expect("it comes back");
    cluster.stop_node((leader + 1) % 3).expect("it was well");
    assert_eq!(counter.add_and_get(1).wait().expect("two of three are enough"), 3);
    cluster.stop().expect("nothing had stopped them");
}

#[test]
fn what_cannot_be_started_is_said_at_once() {
    let refused = Node::builder().start().err();
    assert!(matches!(refused, Some(Error::Config(why)) if why.contains("temporary()")));
    assert!(matches!(LocalCluster::start(0), Err(Error::Config(_))));
    let begun = Instant::now();
    let refused = LocalCluster::builder(3).groups(100_000).start().err();
    assert!(matches!(refused, Some(Error::Config(why)) if why.contains("--groups")));
    assert!(begun.elapsed() < PATIENCE, "the others do not wait for one that failed");
}
