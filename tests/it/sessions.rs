//! What a client is told of its sessions, and holders of what they hold, in a real cluster.

use std::time::{Duration, Instant};

use margay::client::session::SessionState;
use margay::client::{Client, Selection};
use margay::server::{LocalCluster, Node};

use crate::PATIENCE;

/// A lock held by its guard.
fn hold(client: &Client, name: &str) -> margay::resource::LockGuard<margay::client::Group> {
    client.lock(name).wait().expect("it opens").lock().wait().expect("it is free")
}

#[test]
fn without_a_majority_holders_are_told_in_time_and_may_go_on_later() {
    let mut cluster = LocalCluster::builder(3).groups(1).start().expect("it starts");
    let builder = cluster.client_builder().session_timeout(Duration::from_secs(5));
    let client = builder.timeout(PATIENCE).connect().unwrap();
    let guard = hold(&client, "shaky");
    let (lost, mut changes) = (guard.lost(), client.state_changes());
    let begun = Instant::now();
    cluster.stop_node(0).unwrap();
    cluster.stop_node(1).unwrap();
    lost.wait().expect("it is in doubt");
    assert!(begun.elapsed() >= Duration::from_secs(1), "until then the session was safe");
    assert_eq!(changes.wait_next().map(|change| change.state), Some(SessionState::Suspended));

    cluster.start_node(0).unwrap();
    let back = changes.wait_next().expect("the client lives");
    // A new leader gives everybody a whole time-out, so the session was not expired.
    assert_eq!((back.state, back.lost.len()), (SessionState::Connected, 0));
    guard.unlock().wait().expect("it was still held");
    client.close().unwrap();
    let last = std::iter::from_fn(|| changes.wait_next()).last().expect("a change, then the end");
    assert_eq!(last.state, SessionState::Closed);
}

#[test]
fn a_session_begins_where_it_is_told_to() {
    let node = Node::builder().temporary().start().expect("it starts");
    let endpoints = ["127.0.0.1:1".to_owned(), node.address().to_string()];
    for selection in [Selection::Any, Selection::InOrder, Selection::Nearest] {
        let builder = Client::builder().endpoints(endpoints.clone()).selection(selection);
        let client = builder.timeout(PATIENCE).connect().expect("one of two is enough");
        client.value("v").wait().unwrap().set(b"x").wait().unwrap();
    }
}
