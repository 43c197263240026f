//! Somebody who says that he is a member: of another cluster, with another disk, or with words that
//! no member would say.

use std::fs;
use std::io::Write;
use std::path::Path;

use margay::machine::Code;
use margay::raft::message::{Body, Message, Round};
use margay::wire::peer::PeerMessage;
use margay::wire::repair::{RepairReply, RepairRequest};
use margay::wire::snapshot::{SnapshotAck, SnapshotId, SnapshotPiece, SnapshotState};
use margay::wire::{Hello, HelloKind};
use margay_log::format::BLOCK;
use margay_log::id::{
    BatchEnd, Chain, ClusterId, EntryId, GroupId, Incarnation, Index, NodeId, Term,
};
use margay_log::snapshot::{SNAPSHOT_HEADER, SnapshotHeader};

use super::{One, Wire, connect, serves};
use crate::harness::{PATIENCE, Scratch, beside_others, margay_alone, plan, until};
use crate::nodes::{NODES, Nodes, name};

/// What a node's directory says of its life.
fn incarnation(data: &Path) -> Incarnation {
    let text = fs::read_to_string(data.join("node")).expect("it is there");
    let number = text.lines().find_map(|line| line.strip_prefix("incarnation "));
    let number = number.and_then(|number| u64::from_str_radix(number, 16).ok());
    Incarnation(number.expect("a number"))
}

fn hello(cluster: ClusterId, node: NodeId, incarnation: Incarnation) -> Hello {
    let group = GroupId(0);
    Hello { kind: HelloKind::Peer, node, incarnation, ..Hello::client(cluster, group) }
}

fn message(term: u64, body: Body, batch_length: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let message = Message { term: Term(term), body };
    PeerMessage { message, chain: Chain(7), batch_length }.encode(&mut bytes);
    bytes
}

/// Messages that no member sends. What only a leader could say falsely in its own term is not among
/// them: members trust that.
fn lies(term: u64) -> Vec<Vec<u8>> {
    const MAX: u64 = u64::MAX;
    let entry = |term, index| EntryId::new(Term(term), Index(index));
    let append = |prev, commit| {
        let (commit, round) = (Index(commit), Round(1));
        Body::Append { prev, batch: None, commit, round }
    };
    let batch = |prev: EntryId, last| Body::Append {
        prev,
        batch: Some(last),
        commit: Index(MAX),
        round: Round(1),
    };
    let follow = |body, bytes: &[u8]| {
        let mut frame = message(term, body, bytes.len() as u32);
        frame.extend_from_slice(bytes);
        frame
    };
    vec![
        message(MAX, Body::Vote { last: entry(MAX, MAX), handed_over: false }, 0),
        message(MAX, Body::PreVote { last: entry(MAX, MAX) }, 0),
        message(MAX, Body::VoteReply { granted: true }, 0),
        message(MAX, append(entry(MAX, MAX), MAX), 0),
        message(MAX, Body::TimeoutNow, 0),
        message(0, Body::Vote { last: entry(0, 0), handed_over: true }, 0),
        message(term, append(entry(term, MAX), MAX), 0),
        message(term, append(entry(term, MAX - 1), 0), 0),
        message(term, append(entry(0, 5), MAX), 0),
        message(term, append(entry(MAX, 5), MAX), 0),
        message(term, append(entry(0, 0), MAX), 0),
        message(term, Body::AppendAck { matched: Index(MAX), round: Round(MAX) }, 0),
        message(term, Body::AppendAck { matched: Index(1), round: Round(MAX) }, 0),
        message(
            term,
            Body::AppendReject { prev: Index(MAX), hint: entry(MAX, MAX), round: Round(MAX) },
            0,
        ),
        message(term, Body::AppendReject { prev: Index(1), hint: entry(0, 0), round: Round(0) }, 0),
        message(term, Body::PreVoteReply { granted: true }, 0),
        message(term, Body::VoteReply { granted: true }, 0),
        follow(batch(entry(0, 0), entry(term, 1)), &[0; 112]),
        follow(batch(entry(term, 2), entry(term, MAX)), &[0xff; 4_096]),
        vec![0xff; 64],
        vec![0; 64],
    ]
}

/// The same about snapshots and batches that are lost: of other sizes, rotten, long past, of the
/// largest index, of what nobody asked for.
fn lies_about_files(cluster: ClusterId, term: u64) -> Vec<Vec<u8>> {
    const MAX: u64 = u64::MAX;
    let (term, chain, digest) = (Term(term), Chain(7), 7);
    let id = |index| SnapshotId { end: EntryId::new(term, Index(index)), chain, digest };
    let encoded = |encode: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = Vec::new();
        encode(&mut bytes);
        bytes
    };
    let piece = |id, length, offset, bytes: &[u8]| {
        encoded(&|out| SnapshotPiece { term, id, length, offset, bytes }.encode(out))
    };
    let ack =
        |id, offset, state| encoded(&|out| SnapshotAck { term, id, offset, state }.encode(out));
    let ask = |first, end| {
        let (first, end) = (Index(first), BatchEnd { id: EntryId::new(term, Index(end)), chain });
        encoded(&|out| RepairRequest { term, first, end }.encode(out))
    };
    let (ours, length) = (id(1 << 40), (SNAPSHOT_HEADER + BLOCK) as u64);
    let end = BatchEnd { id: ours.end, chain };
    let header = SnapshotHeader { cluster, end, chunks: 1, length, digest, ..Default::default() };
    let header = header.encode();
    let begun = piece(ours, length, 0, &header);
    let given = encoded(&|out| {
        RepairReply { term, first: Index(1), batch_length: 112 }.encode(out);
        out.extend_from_slice(&[0; 112]);
    });
    vec![
        piece(id(MAX), length, 0, &[0xff; BLOCK]),
        piece(id(1), length, 0, &header),
        piece(id(1 << 40), MAX - 4_095, MAX - 8_191, &[0; BLOCK]),
        piece(ours, length + BLOCK as u64, 0, &header),
        [&begun[..], &piece(ours, length, 0, &header[..BLOCK])].concat(),
        [&begun[..], &piece(ours, length, SNAPSHOT_HEADER as u64, &[0x5a; BLOCK])].concat(),
        ack(id(1), 0, SnapshotState::Refused),
        ack(id(MAX), MAX, SnapshotState::Wanted),
        ack(ours, 0, SnapshotState::Held),
        ask(0, MAX),
        ask(1, MAX),
        ask(1, 1),
        given,
    ]
}

/// Says something as a member. The real one, whose connection this one has taken the place of,
/// comes back and takes it again, perhaps before anything was said here: then it is said once more.
fn tell(endpoint: &str, hello: &Hello, lie: &[u8]) {
    until("a lie to be told", || {
        let mut wire = Wire::dial(endpoint);
        wire.send(&hello.encode());
        let answer = wire.hello_if_any();
        answer.inspect(|answer| assert_eq!(answer.code, Code::OK));
        answer.is_some() && wire.0.write_all(lie).is_ok()
    });
}

#[test]
fn who_is_no_member_is_refused_and_a_lying_member_does_no_harm() {
    let _beside = beside_others();
    let scratch = Scratch::new("bad-peers");
    let nodes = Nodes::start(&plan(scratch.path(), 1), PATIENCE).expect("three nodes start");
    let endpoints = nodes.endpoints();
    let all = endpoints.join(",");
    let client = connect(&all);
    let cluster = client.cluster();
    let counter = client.counter("bad-peers").wait().expect("opens");
    counter.increment().wait().expect("adds");
    let life = |node: usize| incarnation(&scratch.path().join(name(node)));

    let other = ClusterId(cluster.0 ^ 1);
    let strangers = [
        (hello(other, NodeId(2), life(1)), Code::CLUSTER_MISMATCH),
        (hello(cluster, NodeId(9), life(1)), Code::DUPLICATE_NODE),
        (hello(cluster, NodeId(0), life(1)), Code::CLUSTER_MISMATCH),
        (hello(cluster, NodeId(2), Incarnation(life(1).0 ^ 1)), Code::DUPLICATE_NODE),
        (hello(cluster, NodeId(1), life(0)), Code::DUPLICATE_NODE),
        (Hello { group: GroupId(9), ..hello(cluster, NodeId(2), life(1)) }, Code::NO_SUCH_GROUP),
    ];
    for (hello, code) in strangers {
        let mut wire = Wire::dial(&endpoints[0]);
        wire.send(&hello.encode());
        assert_eq!(wire.hello().code, code);
        wire.closed();
    }
    assert!(nodes.said(0).contains("hello refused"), "{}", nodes.said(0));
    serves(&all);

    until("a leader", || nodes.leader(0).is_some());
    let status = nodes.status();
    let groups = status.iter().filter_map(|node| node.groups.as_ref().ok()).flatten();
    let term = groups.map(|group| group.term.0).max().expect("somebody answers");
    for (node, endpoint) in endpoints.iter().enumerate() {
        let liar = (node + 1) % NODES;
        for lie in lies(term).into_iter().chain(lies_about_files(cluster, term)) {
            tell(endpoint, &hello(cluster, NodeId(liar as u32 + 1), life(liar)), &lie);
        }
    }
    counter.increment().wait().expect("the cluster serves");
    serves(&all);
    assert_eq!(counter.get().wait().expect("reads"), 2, "nothing acknowledged is lost");
    all_agree(&nodes);
    nodes.stop(PATIENCE).expect("all stop in order");
}

/// Every node applies what any had committed, and nobody was led into an absurd term.
fn all_agree(nodes: &Nodes) {
    let goal = nodes
        .status()
        .iter()
        .filter_map(|node| node.groups.as_ref().ok())
        .flatten()
        .map(|group| group.commit.0)
        .max();
    until("all nodes to agree", || {
        let status = nodes.status();
        let mut groups = status.iter().filter_map(|node| node.groups.as_ref().ok()).flatten();
        groups.clone().count() == NODES && groups.all(|group| Some(group.applied.0) >= goal)
    });
    for node in 0..NODES {
        let log = nodes.said(node);
        assert!(!log.contains("panicked"), "{log}");
        let status = nodes.status();
        let groups = status[node].groups.as_ref().expect("it answers");
        assert!(groups.iter().all(|group| group.term.0 < 1 << 32), "{groups:?}");
    }
}

#[test]
fn a_wiped_node_is_refused_and_the_others_go_on() {
    // It would have forgotten whom it voted for and what it has acknowledged.
    let _beside = beside_others();
    let scratch = Scratch::new("bad-wiped");
    let mut nodes = Nodes::start(&plan(scratch.path(), 1), PATIENCE).expect("three nodes start");
    nodes.kill(2).expect("can be killed");
    std::fs::remove_dir_all(scratch.path().join(name(2))).expect("is removed");
    let error = nodes.restart(2, PATIENCE).expect_err("it must not come back so");
    assert!(error.to_string().contains("known with another disk"), "{error}");
    serves(&nodes.endpoints().join(","));
}

#[test]
fn the_last_voter_is_neither_removed_nor_demoted() {
    let _beside = beside_others();
    let scratch = Scratch::new("bad-last");
    let one = One::start(scratch.path());
    for verb in ["remove", "demote"] {
        let args = ["cluster", verb, "n1", "--endpoints", &one.address];
        let ended = margay_alone(&args).with(1);
        let words = "n1 is the only voter; promote another node first";
        assert!(ended.err.contains(words), "{ended:?}");
    }
    one.serves();
}
