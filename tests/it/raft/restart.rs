//! What a node makes of what its disk holds, where the two halves of it are of different times.

use margay::raft::Raft;
use margay::raft::message::{Body, Config, Input, Message, Output, Restored};
use margay_log::id::{EntryId, Index, Micros, NodeId, Term};

/// Entries and term are written side by side, so entries may be durable before the term they came
/// in. Nothing was said in that term then; the node begins in it, and writes it down before it says
/// anything.
#[test]
fn a_log_that_outran_its_term_is_in_it_and_has_not_voted() {
    let restored = Restored {
        term: Term(1),
        vote: Some(NodeId(3)),
        terms: vec![(Term(1), Index(1)), (Term(4), Index(2))],
        last: EntryId::new(Term(4), Index(2)),
        ..Restored::founding(vec![NodeId(1), NodeId(2), NodeId(3)])
    };
    let mut raft = Raft::new(Config::new(NodeId(2), 1), restored, Micros(0));
    assert_eq!(raft.term(), Term(4));
    let mut out = Vec::new();
    let body = Body::Vote { last: EntryId::new(Term(4), Index(2)), handed_over: false };
    let message = Message { term: Term(4), body };
    let vote = Input::Message { from: NodeId(1), message, configuration: None };
    // After the time in which it might still be loyal to somebody.
    raft.step(Micros(500_000), vote, &mut out);
    let Some(Output::Persist { ticket, term: Term(4), vote: Some(NodeId(1)) }) = out.pop() else {
        panic!("the vote of term 1 does not count, and this one must be durable: {out:?}")
    };
    assert!(out.is_empty(), "nothing is said before that: {out:?}");
    raft.step(Micros(500_000), Input::Persisted { ticket }, &mut out);
    let said =
        matches!(out[..], [Output::Send { to: NodeId(1), message: Message { term: Term(4), .. } }]);
    assert!(said, "{out:?}");
}
