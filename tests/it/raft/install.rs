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

/// A settled group of these voters.
fn voters(ids: &[u32]) -> Configuration {
    Configuration::new(ids.iter().map(|id| NodeId(*id)).collect(), Vec::new(), Vec::new())
}

/// A log of 30 entries of term 1 with these configurations in it, none of them known to be
/// committed.
fn with_configurations(list: &[(u64, &[u32])]) -> Raft {
    let configurations = list.iter().map(|(at, ids)| (Index(*at), voters(ids))).collect();
    let restored = Restored {
        term: Term(1),
        terms: vec![(Term(1), Index(1))],
        last: EntryId::new(Term(1), Index(30)),
        configurations,
        ..Restored::default()
    };
    Raft::new(Config::new(NodeId(2), 1), restored, Micros(0))
}

/// A batch that had rotted comes back, and a later configuration is known: where that one is cut
/// off, what was found is in force, not what was before it.
#[test]
fn a_configuration_that_is_found_late_has_its_place_among_the_others() {
    let mut raft = with_configurations(&[(0, &[1, 2, 3]), (20, &[1, 2, 3, 4, 5])]);
    let mut out = Vec::new();
    let found = Input::Found { index: Index(10), configuration: voters(&[1, 2, 3, 4]) };
    raft.step(Micros(1), found, &mut out);
    assert_eq!(*raft.configuration(), voters(&[1, 2, 3, 4, 5]), "the last one is in force");

    let (prev, batch) = (EntryId::new(Term(1), Index(15)), EntryId::new(Term(2), Index(16)));
    let body = Body::Append { prev, batch: Some(batch), commit: Index::ZERO, round: Round(1) };
    let message = Message { term: Term(2), body };
    let input = Input::Message { from: NodeId(1), message, configuration: None };
    raft.step(Micros(2), input, &mut out);
    assert_eq!(raft.last(), batch);
    assert_eq!(*raft.configuration(), voters(&[1, 2, 3, 4]));
}

/// A node whose log lacks a batch with a configuration, and that is brought a snapshot from behind
/// it, goes by what the snapshot says, although its log holds the snapshot's end.
#[test]
fn a_snapshot_tells_of_a_configuration_that_the_log_lacks() {
    let mut raft = with_configurations(&[(0, &[1, 2, 3])]);
    let mut out = Vec::new();
    let due = raft.deadline().expect("a voter has one");
    raft.step(due, Input::Tick, &mut out);
    assert_eq!(raft.role(), RoleKind::PreCandidate);

    let configuration = (Index(10), voters(&[2, 3, 4]));
    let end = EntryId::new(Term(1), Index(25));
    raft.step(due, Input::Installed { end, configuration }, &mut out);
    assert_eq!((raft.commit(), raft.last().index), (Index(25), Index(30)));
    assert_eq!(*raft.configuration(), voters(&[2, 3, 4]));
    assert_eq!(raft.role(), RoleKind::Follower, "it has asked the wrong nodes");
}
