//! A snapshot is installed: what may be said of it, and when.

use margay::raft::message::{Body, Config, Input, Message, Output, Restored, RoleKind, Round};
use margay::raft::{Configuration, Raft};
use margay_log::id::{EntryId, Index, Micros, NodeId, Term};

/// The last acknowledgement among `out`.
fn acknowledged(out: &[Output]) -> Option<Index> {
    out.iter().rev().find_map(|output| match output {
        Output::Send { message: Message { body: Body::AppendAck { matched, .. }, .. }, .. } => {
            Some(*matched)
        }
        _ => None,
    })
}

/// Until the log's new beginning is on the disk, a restart finds the old log, and votes by it.
#[test]
fn a_snapshot_is_acknowledged_once_the_log_begins_behind_it() {
    let voters = vec![NodeId(1), NodeId(2), NodeId(3)];
    let restored = Restored { term: Term(3), ..Restored::founding(voters.clone()) };
    let mut raft = Raft::new(Config::new(NodeId(2), 1), restored, Micros(0));
    let mut out = Vec::new();
    let body =
        Body::Append { prev: EntryId::ZERO, batch: None, commit: Index::ZERO, round: Round(1) };
    let message = Message { term: Term(3), body };
    let heartbeat = Input::Message { from: NodeId(1), message, configuration: None };
    raft.step(Micros(1), heartbeat.clone(), &mut out);

    out.clear();
    let end = EntryId::new(Term(2), Index(301));
    let configuration = (Index::ZERO, Configuration::new(voters, Vec::new(), Vec::new()));
    raft.step(Micros(2), Input::Installed { end, configuration }, &mut out);
    raft.step(Micros(200_000), heartbeat, &mut out);
    assert_eq!(raft.commit(), Index(301));
    assert_eq!(acknowledged(&out).unwrap_or_default(), Index::ZERO, "{out:?}");

    out.clear();
    raft.step(Micros(200_001), Input::Durable { index: Index(301) }, &mut out);
    assert_eq!(acknowledged(&out), Some(Index(301)), "{out:?}");
}

/// Whoever stands does so by its log and its members. Behind a snapshot both may be others: it may
/// be a learner there, and has asked for votes that nobody owes it.
#[test]
fn a_snapshot_ends_a_candidacy() {
    let nodes = [1, 2, 3].map(NodeId);
    let restored = Restored { term: Term(3), ..Restored::founding(nodes.to_vec()) };
    let mut raft = Raft::new(Config::new(NodeId(2), 1), restored, Micros(0));
    let mut out = Vec::new();
    let due = raft.deadline().expect("a voter has one");
    raft.step(due, Input::Tick, &mut out);
    assert_eq!(raft.role(), RoleKind::PreCandidate);

    let end = EntryId::new(Term(2), Index(301));
    let others = Configuration::new(vec![NodeId(1), NodeId(3)], Vec::new(), vec![NodeId(2)]);
    let configuration = (Index(300), others);
    raft.step(due, Input::Installed { end, configuration }, &mut out);
    assert_eq!(raft.role(), RoleKind::Follower);
    out.clear();
    for voter in [1, 3].map(NodeId) {
        let message = Message { term: Term(4), body: Body::PreVoteReply { granted: true } };
        raft.step(due, Input::Message { from: voter, message, configuration: None }, &mut out);
    }
    assert_eq!(raft.role(), RoleKind::Follower);
    assert!(out.is_empty(), "{out:?}");
}

/// Who has come to abstain gives up as soon as it looks at the clock, and is told to at once: it
/// does not wait until it would ask again.
#[test]
fn who_comes_to_abstain_gives_up_at_once() {
    let restored = Restored::founding([1, 2, 3].map(NodeId).to_vec());
    let mut raft = Raft::new(Config::new(NodeId(2), 1), restored, Micros(0));
    let mut out = Vec::new();
    let due = raft.deadline().expect("a voter has one");
    raft.step(due, Input::Tick, &mut out);
    assert_eq!(raft.role(), RoleKind::PreCandidate);
    assert!(raft.deadline().is_some_and(|next| next > due), "it would ask again later");
    raft.abstain(true);
    assert_eq!(raft.deadline(), Some(due));
    raft.step(due, Input::Tick, &mut out);
    assert_eq!(raft.role(), RoleKind::Follower);
    assert!(raft.deadline().is_none_or(|next| next > due), "and has nothing more to do now");
}
