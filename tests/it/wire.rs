//! The bytes on the wire: golden for every kind, and robust against all others.
//!
//! A golden file that differs is a change of the protocol: it needs a new version, not a new file.
//! To write the files of new kinds, remove nothing and run with `MARGAY_GOLDEN=write`.

use std::path::Path;

use margay::machine::{Code, Notice, NoticeState, ResourceId, Sequence, SessionId};
use margay::raft::message::{Body, Message, Round};
use margay::wire::client::{Admin, Level, RefusedOf, Request, Response};
use margay::wire::forming::Forming;
use margay::wire::peer::PeerMessage;
use margay::wire::repair::{ChainQuery, ChainReply, RepairReply, RepairRequest};
use margay::wire::snapshot::{SnapshotAck, SnapshotId, SnapshotPiece, SnapshotState};
use margay::wire::{self, Error, Foreign, Frame, GroupStatus, Hello, HelloKind, Kind};
use margay_log::id::{
    BatchEnd, Chain, ClusterId, EntryId, GroupId, Incarnation, Index, Micros, NodeId, Term,
};
use proptest::prelude::*;

const KEY: [u8; 16] = *b"0123456789abcdef";

/// Appends the frame of a message.
type Encode = Box<dyn Fn(&mut Vec<u8>)>;

fn requests() -> Vec<(&'static str, Request<'static>)> {
    let session = SessionId(7);
    let resource = ResourceId(0x0102_0304_0506_0708);
    vec![
        ("register", Request::Register { correlation: 3, key: KEY, timeout: Micros(10_000_000) }),
        ("attach", Request::Attach { session, key: KEY, acked: Sequence(9) }),
        ("keep_alive", Request::KeepAlive { session, acked: Sequence(9) }),
        ("close", Request::Close { session }),
        (
            "command",
            Request::Command {
                sequence: Sequence(11),
                acked: Sequence(9),
                kind: 18,
                schema: 1,
                resource,
                payload: b"put k v",
            },
        ),
        (
            "query",
            Request::Query {
                id: 5,
                level: Level::Sequential,
                seen: Index(42),
                after: Sequence(11),
                kind: 18,
                schema: 2,
                resource,
                payload: b"get k",
            },
        ),
        (
            "subscribe",
            Request::Subscribe {
                id: 6,
                resource,
                after: Some((Index(42), 3)),
                filter: b"\x02user/",
            },
        ),
        ("subscribe_from_now", Request::Subscribe { id: 6, resource, after: None, filter: b"" }),
        ("unsubscribe", Request::Unsubscribe { id: 6 }),
        ("status", Request::Status { id: 8 }),
        ("admin_add", Request::Admin { id: 9, admin: added() }),
        ("admin_promote", Request::Admin { id: 9, admin: Admin::Promote { name: "n4" } }),
        ("admin_demote", Request::Admin { id: 9, admin: Admin::Demote { name: "n4" } }),
        ("admin_remove", Request::Admin { id: 9, admin: Admin::Remove { name: "n4" } }),
        ("admin_transfer", Request::Admin { id: 9, admin: Admin::Transfer { name: "n4" } }),
    ]
}

fn added() -> Admin<'static> {
    let incarnation = Incarnation(0x1122_3344_5566_7788);
    Admin::Add { name: "n4", address: "10.0.0.4:5150", incarnation, node: NodeId(4) }
}

fn notice(waiter: u64, state: NoticeState) -> Notice {
    Notice { session: SessionId(7), resource: ResourceId(21), waiter: Index(waiter), state }
}

fn group_status() -> GroupStatus {
    GroupStatus {
        group: GroupId(1),
        node: "n1".to_owned(),
        leader: Some("n2".to_owned()),
        halted: false,
        snapshotting: true,
        longest_turn_us: 1_234,
        longest_turn_ago_us: 89_000,
        busiest_turn_us: 567,
        term: Term(4),
        first: Index(1),
        last: EntryId::new(Term(4), Index(100)),
        chain: Chain(0xdead_beef),
        durable: Index(99),
        commit: Index(98),
        applied: Index(97),
        sessions: 12,
        voters: vec!["n2".to_owned(), "n3".to_owned(), "n4".to_owned()],
        outgoing: vec!["n1".to_owned(), "n2".to_owned(), "n3".to_owned()],
        learners: vec!["n5".to_owned()],
        members: vec![("n2".to_owned(), "10.0.0.2:5150".to_owned())],
    }
}

fn responses() -> Vec<(&'static str, Response<'static>)> {
    let session = SessionId(7);
    let index = Index(42);
    let refused =
        |of, code, leader, text| Response::Refused { of, code, retry: Micros(5_000), leader, text };
    vec![
        (
            "registered",
            Response::Registered { correlation: 3, session, timeout: Micros(10_000_000), index },
        ),
        (
            "attached",
            Response::Attached {
                session,
                index,
                sequence: Sequence(10),
                notices: vec![
                    notice(31, NoticeState::Granted { token: 31 }),
                    notice(33, NoticeState::Waiting),
                ],
            },
        ),
        ("kept_alive", Response::KeptAlive { session, index }),
        ("closed", Response::Closed { session }),
        (
            "reply",
            Response::Reply {
                sequence: Sequence(11),
                index,
                code: Code::OK,
                payload: b"old value",
            },
        ),
        (
            "query_reply",
            Response::QueryReply { id: 5, index, code: Code::NO_SUCH_RESOURCE, payload: b"" },
        ),
        (
            "event",
            Response::Event { subscription: 6, index, ordinal: 3, kind: 2, payload: b"what" },
        ),
        ("lagged", Response::Lagged { subscription: 6, oldest: Index(40) }),
        ("subscribed", Response::Subscribed { id: 6, index }),
        ("notice", Response::Notice(notice(31, NoticeState::Lost))),
        (
            "refused_command",
            refused(RefusedOf::Command(Sequence(11)), Code::NOT_LEADER, "10.0.0.2:5150", ""),
        ),
        ("refused_query", refused(RefusedOf::Query(5), Code::OVERLOADED, "", "8,192 in flight")),
        ("refused_connection", refused(RefusedOf::Connection, Code::SESSION_MOVED, "", "")),
        ("refused_frame", refused(RefusedOf::Frame(200), Code::BAD_KIND, "", "")),
        (
            "refused_admin",
            refused(RefusedOf::Admin(9), Code::NOT_CAUGHT_UP, "", "it lacks 4,711 entries"),
        ),
        ("admin_reply", Response::Admin { id: 9, changed: true, node: NodeId(4), index }),
        ("status_reply", Response::Status { id: 8, groups: vec![group_status()] }),
    ]
}

fn peer_messages() -> Vec<(&'static str, PeerMessage)> {
    let last = EntryId::new(Term(4), Index(100));
    let said = |body, chain, batch_length| PeerMessage {
        message: Message { term: Term(5), body },
        chain: Chain(chain),
        batch_length,
    };
    let append = |batch| Body::Append { prev: last, batch, commit: Index(98), round: Round(17) };
    let batch = EntryId::new(Term(5), Index(103));
    let reject = Body::AppendReject { prev: Index(100), hint: last, round: Round(17) };
    vec![
        ("pre_vote", said(Body::PreVote { last }, 0, 0)),
        ("pre_vote_reply", said(Body::PreVoteReply { granted: true }, 0, 0)),
        ("vote", said(Body::Vote { last, handed_over: false }, 0, 0)),
        ("vote_reply", said(Body::VoteReply { granted: false }, 0, 0)),
        ("append_heartbeat", said(append(None), 0x0bad_cafe, 0)),
        ("append_batch", said(append(Some(batch)), 0x0bad_cafe, 4096)),
        (
            "append_ack",
            said(Body::AppendAck { matched: Index(100), round: Round(17) }, 0x0bad_cafe, 0),
        ),
        ("append_reject", said(reject, 0, 0)),
        ("timeout_now", said(Body::TimeoutNow, 0, 0)),
        ("vote_handed_over", said(Body::Vote { last, handed_over: true }, 0, 0)),
    ]
}

fn forming_messages() -> Vec<(&'static str, Forming<'static>)> {
    vec![
        (
            "offer",
            Forming::Offer {
                name: "n1",
                incarnation: Incarnation(0x1122_3344_5566_7788),
                peers: "n1=10.0.0.1,n2=10.0.0.2,n3=10.0.0.3",
                groups: 6,
            },
        ),
        ("founded", Forming::Founded { record: b"the record" }),
    ]
}

fn snapshot_messages() -> Vec<(&'static str, Encode)> {
    let id = SnapshotId {
        end: EntryId::new(Term(4), Index(100)),
        chain: Chain(0x0bad_cafe),
        digest: 0x1234_5678,
    };
    let ack = SnapshotAck { term: Term(5), id, offset: 8192, state: SnapshotState::Held };
    let (first, batch_length) = (Index(98), 4096);
    let end = BatchEnd { id: id.end, chain: id.chain };
    let found = ChainReply { id: 9, end, start: Index(17), damaged: 2 };
    let (term, length, offset, bytes) = (Term(5), 12288, 4096, &[7; 4096]);
    vec![
        (
            "snapshot_piece",
            Box::new(move |o| SnapshotPiece { term, id, length, offset, bytes }.encode(o)),
        ),
        ("snapshot_ack", Box::new(move |o| ack.encode(o))),
        ("repair_request", Box::new(move |o| RepairRequest { term, first, end }.encode(o))),
        ("repair_reply", Box::new(move |o| RepairReply { term, first, batch_length }.encode(o))),
        ("chain_query", Box::new(move |o| ChainQuery { id: 9, index: Index(100) }.encode(o))),
        ("chain_reply", Box::new(move |o| found.encode(o))),
    ]
}

/// One frame of every shape there is, under the name of its golden file.
fn frames() -> Vec<(&'static str, Vec<u8>)> {
    let mut all: Vec<(&'static str, Encode)> = Vec::new();
    all.extend(
        requests().into_iter().map(|(n, m)| (n, Box::new(move |o: &mut _| m.encode(o)) as _)),
    );
    all.extend(
        responses().into_iter().map(|(n, m)| (n, Box::new(move |o: &mut _| m.encode(o)) as _)),
    );
    all.extend(
        peer_messages().into_iter().map(|(n, m)| (n, Box::new(move |o: &mut _| m.encode(o)) as _)),
    );
    all.extend(snapshot_messages());
    all.extend(
        forming_messages()
            .into_iter()
            .map(|(n, m)| (n, Box::new(move |o: &mut _| m.encode(o)) as _)),
    );
    let encoded = |encode: Encode| {
        let mut out = Vec::new();
        encode(&mut out);
        out
    };
    all.into_iter().map(|(name, encode)| (name, encoded(encode))).collect()
}

fn hello() -> Hello {
    Hello {
        kind: HelloKind::Peer,
        group: GroupId(3),
        cluster: ClusterId(0x0011_2233_4455_6677),
        node: NodeId(2),
        groups: 6,
        incarnation: Incarnation(0x1122_3344_5566_7788),
        code: Code::CLUSTER_MISMATCH,
        port: 5150,
    }
}

/// The frame as whatever it is, encoded again.
fn encode_again(frame: &Frame<'_>) -> Result<Vec<u8>, Error> {
    let mut out = Vec::new();
    match frame.kind as u8 {
        0..=31 => Request::decode(frame)?.encode(&mut out),
        32..=63 => Response::decode(frame)?.encode(&mut out),
        72 => SnapshotPiece::decode(frame)?.encode(&mut out),
        73 => SnapshotAck::decode(frame)?.encode(&mut out),
        74 => RepairRequest::decode(frame)?.encode(&mut out),
        75 => RepairReply::decode(frame)?.encode(&mut out),
        76 => ChainQuery::decode(frame)?.encode(&mut out),
        77 => ChainReply::decode(frame)?.encode(&mut out),
        64..=95 => PeerMessage::decode(frame)?.encode(&mut out),
        _ => Forming::decode(frame)?.encode(&mut out),
    }
    Ok(out)
}

fn hex(bytes: &[u8]) -> String {
    let line = |chunk: &[u8]| {
        chunk.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ") + "\n"
    };
    bytes.chunks(16).map(line).collect()
}

#[test]
fn every_frame_has_its_golden_bytes() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/golden");
    let mut all = frames();
    all.push(("hello", hello().encode().to_vec()));
    for (name, bytes) in &all {
        let path = directory.join(format!("{name}.hex"));
        if std::env::var_os("MARGAY_GOLDEN").is_some() && !path.exists() {
            std::fs::write(&path, hex(bytes)).unwrap();
        }
        let golden = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(golden, hex(bytes), "{name}: the protocol has changed");
    }
    let kinds: Vec<u8> = frames().iter().map(|(_, bytes)| bytes[4]).collect();
    for kind in Kind::ALL {
        assert!(kinds.contains(&(*kind as u8)), "{kind:?} has no golden file");
    }
}

#[test]
fn what_is_encoded_decodes_to_the_same() {
    for (name, message) in requests() {
        let mut out = Vec::new();
        message.encode(&mut out);
        assert_eq!(Request::decode(&wire::decode(&out).unwrap()), Ok(message), "{name}");
    }
    for (name, message) in responses() {
        let mut out = Vec::new();
        message.encode(&mut out);
        assert_eq!(Response::decode(&wire::decode(&out).unwrap()), Ok(message), "{name}");
    }
    for (name, message) in peer_messages() {
        let mut out = Vec::new();
        message.encode(&mut out);
        assert_eq!(PeerMessage::decode(&wire::decode(&out).unwrap()), Ok(message), "{name}");
    }
    for (name, message) in forming_messages() {
        let mut out = Vec::new();
        message.encode(&mut out);
        assert_eq!(Forming::decode(&wire::decode(&out).unwrap()), Ok(message), "{name}");
    }
    assert_eq!(Hello::decode(&hello().encode()), Ok(hello()));
}

#[test]
fn payloads_are_aligned_in_their_frames() {
    for (name, bytes) in frames() {
        assert!(bytes.len().is_multiple_of(wire::ALIGN), "{name}");
        let frame = wire::decode(&bytes).unwrap();
        let payload = match frame.kind {
            Kind::Command | Kind::Query => match Request::decode(&frame).unwrap() {
                Request::Command { payload, .. } | Request::Query { payload, .. } => payload,
                other => panic!("{other:?}"),
            },
            Kind::Reply | Kind::QueryReply | Kind::Event => match Response::decode(&frame).unwrap()
            {
                Response::Reply { payload, .. }
                | Response::QueryReply { payload, .. }
                | Response::Event { payload, .. } => payload,
                other => panic!("{other:?}"),
            },
            _ => continue,
        };
        let offset = payload.as_ptr() as usize - bytes.as_ptr() as usize;
        assert!(offset.is_multiple_of(wire::ALIGN), "{name}: payload at {offset}");
    }
}

#[test]
fn no_damaged_byte_is_accepted() {
    for (name, bytes) in frames() {
        for position in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[position] ^= 1 << bit;
                assert!(wire::decode(&damaged).is_err(), "{name}: bit {bit} of byte {position}");
            }
        }
        for length in 0..bytes.len() {
            assert!(wire::decode(&bytes[..length]).is_err(), "{name}: {length} bytes of it");
        }
        let mut longer = bytes.clone();
        longer.extend([0; 16]);
        assert!(wire::decode(&longer).is_err(), "{name}: with more behind it");
    }
    let bytes = hello().encode();
    for position in 0..bytes.len() {
        for bit in 0..8 {
            let mut damaged = bytes;
            damaged[position] ^= 1 << bit;
            assert!(Hello::decode(&damaged).is_err(), "hello: bit {bit} of byte {position}");
        }
        assert!(Hello::decode(&bytes[..position]).is_err());
    }
}

#[test]
fn a_length_of_four_gigabytes_is_refused_by_its_fourth_byte() {
    let error = wire::peek(&[0xff; 4]).unwrap_err();
    assert_eq!(error, Error::TooLarge { length: u32::MAX });
    assert_eq!((error.code(), error.is_fatal()), (Code::FRAME_TOO_LARGE, true));
    for length in [0, 1, 16, 31, 33, 47] {
        let refused = wire::peek(&u32::to_le_bytes(length));
        assert_eq!(refused, Err(Error::Length { length }));
    }
    assert_eq!(wire::peek(&[0xff, 0, 0]), Ok(None));
}

#[test]
fn an_unknown_kind_leaves_the_connection_usable() {
    let mut bytes = Vec::new();
    wire::encode(&mut bytes, Kind::Status, 0, 1, 0, &[]);
    bytes[4] = 200;
    seal(&mut bytes);
    assert_eq!(wire::peek(&bytes), Ok(Some(32)));
    let error = wire::decode(&bytes).unwrap_err();
    assert_eq!((error, error.is_fatal()), (Error::Kind(200), false));
}

#[test]
fn a_later_version_is_named() {
    let (_, mut bytes) = frames().swap_remove(0);
    bytes[5] = 2;
    seal(&mut bytes);
    assert_eq!(wire::decode(&bytes), Err(Error::Version { theirs: 2 }));

    let mut later = hello().encode();
    later[8] = 2;
    let error = Hello::decode(&later).unwrap_err();
    assert_eq!(error.to_string(), "protocol version 2; version 1 is spoken here");
}

#[test]
fn strangers_are_recognised_and_answered_in_their_own_protocol() {
    let cases: [(&[u8], Foreign); 9] = [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", Foreign::Http),
        (b"HTTP/1.1 400 Bad Request\r\n", Foreign::Http),
        (b"<!DOCTYPE HTML>\n", Foreign::Http),
        (b"\x15\x03\x03\x00\x02\x02\x46", Foreign::Tls),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", Foreign::Tls),
        (b"SSH-2.0-OpenSSH_9.9\r\n", Foreign::Ssh),
        (b"*1\r\n$4\r\nPING\r\n", Foreign::Redis),
        (b"PING\r\n", Foreign::Redis),
        (b"\x00\x01\x02\x03", Foreign::Unknown),
    ];
    for (first_bytes, foreign) in cases {
        assert_eq!(Hello::peek(first_bytes), Err(Error::Foreign(foreign)));
        assert_eq!(wire::sniff(first_bytes), Some(foreign));
    }
    assert_eq!(Hello::peek(b"GET"), Ok(None), "not yet known");
    assert_eq!(wire::sniff(&hello().encode()), None);
    let http = std::str::from_utf8(Foreign::Http.answer()).unwrap();
    let (head, body) = http.split_once("\r\n\r\n").unwrap();
    assert!(head.ends_with(&format!("Content-Length: {}", body.len())), "{head}");
    assert!(Foreign::Redis.answer().starts_with(b"-ERR "));
    let error = Error::Foreign(Foreign::Http);
    assert_eq!(error.to_string(), "HTTP is spoken, instead of margay's own protocol");
}

#[test]
fn forged_counts_allocate_nothing() {
    let mut bytes = Vec::new();
    wire::encode(&mut bytes, Kind::StatusReply, 0, 1, u64::MAX, &[&[0; 200]]);
    let error = Response::decode(&wire::decode(&bytes).unwrap()).unwrap_err();
    assert_eq!(error.code(), Code::BAD_PAYLOAD);

    let mut append = Vec::new();
    peer_messages()[5].1.encode(&mut append);
    append[32 + 40..32 + 44].copy_from_slice(&u32::MAX.to_le_bytes());
    seal(&mut append);
    let error = PeerMessage::decode(&wire::decode(&append).unwrap()).unwrap_err();
    assert_eq!(error.to_string(), "Append message: impossible batch length");
}

#[test]
fn long_texts_of_a_refusal_are_cut_at_a_character() {
    let text = "ä".repeat(4_000);
    let refusal = Response::Refused {
        of: RefusedOf::Connection,
        code: Code::OVERLOADED,
        retry: Micros(0),
        leader: "",
        text: &text,
    };
    let mut bytes = Vec::new();
    refusal.encode(&mut bytes);
    match Response::decode(&wire::decode(&bytes).unwrap()).unwrap() {
        Response::Refused { text, .. } => assert_eq!(text, "ä".repeat(512)),
        other => panic!("{other:?}"),
    }
}

/// Makes the checksums of a frame right again, as a hostile sender would.
fn seal(bytes: &mut [u8]) {
    let body = crc32c::crc32c(&bytes[32..]);
    bytes[24..28].copy_from_slice(&body.to_le_bytes());
    let head = crc32c::crc32c(&bytes[..28]);
    bytes[28..32].copy_from_slice(&head.to_le_bytes());
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        cases: 2_000,
        ..Default::default()
    })]

    /// Bytes of any kind: refused or, with right checksums, understood in exactly one way. Never a
    /// panic.
    #[test]
    fn random_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = wire::peek(&bytes);
        prop_assert!(wire::decode(&bytes).is_err());
        let _ = Hello::peek(&bytes);
        prop_assert!(Hello::decode(&bytes).is_err());
    }

    /// Hostile frames: right checksums around changed fields. What is accepted encodes to the same
    /// bytes.
    #[test]
    fn sealed_mutations_are_refused_or_understood_exactly(
        which in any::<prop::sample::Index>(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in proptest::option::of(1usize..4),
    ) {
        let all = frames();
        let (name, mut bytes) = all[which.index(all.len())].clone();
        if let Some(cut) = cut {
            bytes.truncate(bytes.len().saturating_sub(cut * 16).max(32));
            let length = bytes.len() as u32;
            bytes[..4].copy_from_slice(&length.to_le_bytes());
        }
        for (position, value) in changes {
            let position = position.index(bytes.len());
            bytes[position] = value;
        }
        seal(&mut bytes);
        if let Ok(frame) = wire::decode(&bytes)
            && let Ok(again) = encode_again(&frame)
        {
            prop_assert_eq!(again, bytes, "{}", name);
        }
    }
}
