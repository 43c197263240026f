//! Somebody who speaks as a node of the cluster.

use margay::forming::FoundingRecord;
use margay::machine::Code;
use margay::raft::message::{Body, Message, Round};
use margay::wire::forming::Forming;
use margay::wire::peer::PeerMessage;
use margay::wire::{self, Hello, HelloKind};
use margay_log::id::{Chain, ClusterId, EntryId, GroupId, Index, NodeId, Term};

use crate::raw::Raw;

/// What every node tells a founder that comes late: who the members are.
fn record(endpoint: &str) -> (Hello, FoundingRecord) {
    let mut raw = Raw::dial(endpoint);
    let hello = Hello::client(ClusterId(0), GroupId(0));
    raw.send(&Hello { kind: HelloKind::Forming, ..hello }.encode());
    let hello = raw.hello();
    let frame = raw.frame();
    let frame = wire::decode(&frame).expect("a right frame");
    match Forming::decode(&frame).expect("a forming message") {
        Forming::Founded { record } => (hello, FoundingRecord::decode(record).expect("a record")),
        other => panic!("{other:?}"),
    }
}

/// Speaks to each node as another member, in the last term there is.
pub(crate) fn claim_terms_from_the_future(endpoints: &[String]) {
    for endpoint in endpoints {
        let (theirs, record) = record(endpoint);
        let other = NodeId(theirs.node.0 % 3 + 1);
        let founder = &record.founders()[other.0 as usize - 1];
        let hello = Hello {
            kind: HelloKind::Peer,
            node: other,
            incarnation: founder.incarnation,
            group: GroupId(0),
            ..theirs
        };
        let last = EntryId::new(Term(u64::MAX), Index(u64::MAX));
        let append = |prev| Body::Append { prev, batch: None, commit: Index(0), round: Round(1) };
        let bodies = [
            Body::PreVote { last },
            Body::Vote { last },
            Body::VoteReply { granted: true },
            append(last),
            append(EntryId::ZERO),
            Body::AppendAck { matched: Index(u64::MAX), round: Round(u64::MAX) },
            Body::TimeoutNow,
        ];
        for body in bodies {
            let mut raw = Raw::dial(endpoint);
            raw.send(&hello.encode());
            assert_eq!(raw.hello().code, Code::OK);
            let message = Message { term: Term(u64::MAX), body };
            let mut bytes = Vec::new();
            PeerMessage { message, chain: Chain(0), batch_length: 0 }.encode(&mut bytes);
            raw.send(&bytes);
        }
    }
}
