//! Bad input over the network: each gets a clear answer, and the server goes on serving others.
//!
//! The numbers are those of the list of abuses in docs/TESTING.md.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use margay::client::{Client, status};
use margay::machine::{Code, ResourceId, Sequence, SessionId, kind};
use margay::resource::codec::Encode;
use margay::resource::counter::AddV1;
use margay::resource::lock::UnlockV1;
use margay::resource::map::PutV1;
use margay::resource::registry::OpenV1;
use margay::wire::client::{RefusedOf, Request};
use margay::wire::{FRAME_MAX, Hello};
use margay_log::id::{ClusterId, GroupId, Micros};

use crate::harness::{beside_others, cluster, margay, until};
use crate::raw::{Raw, header, hello_with, peer_hello, response};

/// Any node of the shared cluster.
fn anyone() -> &'static str {
    cluster().split(',').next().expect("three endpoints")
}

/// The node that leads group 0.
fn leader() -> String {
    let endpoints: Vec<String> = cluster().split(',').map(str::to_string).collect();
    let mut found = None;
    until("a leader of group 0", || {
        let nodes = status(&endpoints, Duration::from_secs(5));
        found = nodes.iter().find_map(|node| {
            let groups = node.groups.as_ref().ok()?;
            let group = groups.iter().find(|group| group.group == GroupId(0))?;
            (group.leader.as_ref() == Some(&group.node)).then(|| node.endpoint.clone())
        });
        found.is_some()
    });
    found.unwrap_or_default()
}

/// Somebody else works undisturbed.
#[track_caller]
fn still_serves() {
    let client = Client::builder().endpoints(cluster().split(',')).connect().expect("connects");
    let value = client.value("hostile-others@0").wait().expect("opens");
    value.set(b"fine").wait().expect("writes");
    assert_eq!(value.get().wait().expect("reads").map(|found| found.value), Some(b"fine".to_vec()));
    client.close().expect("closes");
}

/// After a right hello: bytes, and the code they must be refused with before the server closes.
#[track_caller]
fn refused_and_closed(bytes: &[u8], code: Code) {
    let mut raw = Raw::client(anyone(), 0);
    raw.send(bytes);
    let refusal = raw.refusal();
    assert_eq!((refusal.of, refusal.code), (RefusedOf::Connection, code));
    raw.rest();
    still_serves();
}

#[test]
fn frames_that_cannot_be_are_refused_before_anything_is_allocated() {
    let _beside = beside_others();
    // 1: four gigabytes, and one block more than allowed.
    refused_and_closed(&header(u32::MAX - 15, 1, 1, 0), Code::FRAME_TOO_LARGE);
    refused_and_closed(&header(FRAME_MAX as u32 + 16, 1, 1, 0), Code::FRAME_TOO_LARGE);
    // 2: nothing, less than a header, not a multiple of 16.
    refused_and_closed(&header(0, 1, 1, 0), Code::BAD_FRAME);
    refused_and_closed(&header(16, 1, 1, 0), Code::BAD_FRAME);
    refused_and_closed(&header(40, 1, 1, 0), Code::BAD_FRAME);
    // 7: a frame of the next version.
    refused_and_closed(&header(32, 1, 2, 0), Code::VERSION);
}

#[test]
fn damaged_frames_are_told_from_wrong_ones() {
    let _beside = beside_others();
    let mut frame = Vec::new();
    Request::Status { id: 1 }.encode(&mut frame);
    Request::Command {
        sequence: Sequence(1),
        acked: Sequence(0),
        kind: kind::COUNTER,
        schema: 1,
        resource: ResourceId(1),
        payload: b"some payload",
    }
    .encode(&mut frame);
    // 8: a bit of the last body, and one of the header before it.
    let (mut body, mut head) = (frame.clone(), frame.clone());
    let last = body.len() - 16;
    body[last] ^= 1;
    head[8] ^= 1;
    refused_and_closed(&body, Code::CORRUPT);
    refused_and_closed(&head, Code::CORRUPT);
}

#[test]
fn slow_strangers_are_cut_off() {
    let _beside = beside_others();
    // 3 and 4: half a hello and silence; a byte now and then.
    let hello = Hello::client(ClusterId(0), GroupId(0)).encode();
    let (mut silent, mut slow) = (Raw::dial(anyone()), Raw::dial(anyone()));
    silent.send(&hello[..32]);
    let began = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for byte in &hello[..20] {
                slow.send(&[*byte]);
                std::thread::sleep(Duration::from_millis(500));
            }
            slow.rest();
        });
        silent.rest();
        let waited = began.elapsed().as_secs();
        assert!((4..12).contains(&waited), "{waited} s");
    });
    still_serves();
}

#[test]
fn other_protocols_are_answered_in_their_own_words() {
    let _beside = beside_others();
    // 5 and 6.
    let answer = |bytes: &[u8]| {
        let mut raw = Raw::dial(anyone());
        raw.send(bytes);
        String::from_utf8_lossy(&raw.rest()).into_owned()
    };
    let http = answer(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(http.starts_with("HTTP/1.1 4") && http.contains("margay"), "{http}");
    let redis = answer(b"*1\r\n$4\r\nPING\r\n");
    assert!(redis.starts_with('-') && redis.contains("margay"), "{redis}");
    answer(b"SSH-2.0-OpenSSH_9.2\r\n");
    answer(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03");
    answer(&[0xff; 64]);
    still_serves();
}

#[test]
fn other_versions_and_clusters_are_named() {
    let _beside = beside_others();
    let code = |bytes: &[u8]| {
        let mut raw = Raw::dial(anyone());
        raw.send(bytes);
        let code = raw.hello().code;
        raw.rest();
        code
    };
    // 7: a newer protocol; a hello that was damaged; a kind of connection nobody knows.
    assert_eq!(code(&hello_with(|hello| hello[8] = 9)), Code::VERSION);
    let mut damaged = Hello::client(ClusterId(0), GroupId(0)).encode();
    damaged[20] ^= 1;
    assert_eq!(code(&damaged), Code::CORRUPT);
    assert_eq!(code(&hello_with(|hello| hello[10] = 77)), Code::BAD_KIND);
    // 39: a client of another cluster, a group there is not.
    assert_eq!(code(&Hello::client(ClusterId(7), GroupId(0)).encode()), Code::CLUSTER_MISMATCH);
    assert_eq!(code(&Hello::client(ClusterId(0), GroupId(99)).encode()), Code::NO_SUCH_GROUP);
    still_serves();
}

#[test]
fn strangers_are_no_peers() {
    let _beside = beside_others();
    // 39: another cluster's node, and a node of ours with another disk.
    let mut raw = Raw::dial(anyone());
    raw.send(&Hello::client(ClusterId(0), GroupId(0)).encode());
    let ours = raw.hello();
    let other = if ours.node.0 == 1 { 2 } else { 1 };
    let code = |hello: Hello| {
        let mut raw = Raw::dial(anyone());
        raw.send(&hello.encode());
        let code = raw.hello().code;
        raw.rest();
        code
    };
    let stranger = Hello { cluster: ClusterId(7), ..peer_hello(&ours, other, 5) };
    assert_eq!(code(stranger), Code::CLUSTER_MISMATCH);
    assert_eq!(code(peer_hello(&ours, other, 5)), Code::DUPLICATE_NODE);
    assert_eq!(code(peer_hello(&ours, 77, 5)), Code::CLUSTER_MISMATCH);
    still_serves();
}

#[test]
fn an_unknown_operation_costs_nothing_but_itself() {
    let _beside = beside_others();
    // 9: the connection and the session stay, and the next command is taken.
    let (mut raw, _) = Raw::session(&leader(), 0, *b"unknown-operatio");
    let open = OpenV1 { name: b"hostile-9@0".to_vec(), kind: kind::COUNTER, options: Vec::new() };
    raw.request(&command(1, 200, 1, 0, b""));
    assert_eq!(raw.answer().code, Code::BAD_KIND);
    raw.request(&command(2, kind::REGISTRY, 0x7f01, 0, b""));
    assert_eq!(raw.answer().code, Code::BAD_KIND);
    raw.request(&command(3, kind::REGISTRY, open_schema(), 0, &[0xff; 64]));
    assert_eq!(raw.answer().code, Code::BAD_PAYLOAD);
    raw.request(&command(4, kind::REGISTRY, open_schema(), 0, &open.encode()));
    assert_eq!(raw.answer().code, Code::OK);
}

fn open_schema() -> u16 {
    use margay::resource::codec::Operation;
    OpenV1::SCHEMA
}

fn command(sequence: u64, kind: u8, schema: u16, resource: u64, payload: &[u8]) -> Request<'_> {
    let (sequence, acked, resource) = (Sequence(sequence), Sequence(0), ResourceId(resource));
    Request::Command { sequence, acked, kind, schema, resource, payload }
}

/// A session of its own and a counter it has opened with its first command.
fn with_counter(name: &str, key: [u8; 16]) -> (Raw, SessionId, u64) {
    let (mut raw, session) = Raw::session(&leader(), 0, key);
    let (name, kind) = (name.as_bytes().to_vec(), kind::COUNTER);
    let open = OpenV1 { name, kind, options: Vec::new() }.encode();
    raw.request(&command(1, kind::REGISTRY, open_schema(), 0, &open));
    let answer = raw.answer();
    assert_eq!(answer.code, Code::OK);
    let id = answer.payload.first_chunk().copied().map(u64::from_le_bytes);
    (raw, session, id.expect("an id"))
}

fn add(sequence: u64, counter: u64, payload: &[u8]) -> Request<'_> {
    use margay::resource::codec::Operation;
    command(sequence, kind::COUNTER, AddV1::SCHEMA, counter, payload)
}

#[test]
fn bad_names_and_values_are_refused_by_content() {
    let _beside = beside_others();
    let client = Client::builder().endpoints(cluster().split(',')).connect().expect("connects");
    // 12
    let (long, path) = ("x".repeat(257), "../../etc/passwd");
    for name in ["", "a\0b", "a\nb", "\x1b[2J", &long] {
        let failure = client.value(name).wait().expect_err("no such name");
        assert_eq!(failure.code, Code::BAD_NAME, "{name:?}");
    }
    client.value(path).wait().expect("a name is not a path");
    let bytes = OpenV1 { name: vec![0xff, 0xfe], kind: kind::VALUE, options: Vec::new() };
    let (mut raw, _) = Raw::session(&leader(), 0, *b"names-not-utf-8-");
    raw.request(&command(1, kind::REGISTRY, open_schema(), 0, &bytes.encode()));
    assert_eq!(raw.answer().code, Code::BAD_NAME);
    // 13
    client.map("hostile-13").wait().expect("opens");
    let failure = client.counter("hostile-13").wait().expect_err("it is a map");
    assert_eq!(failure.code, Code::WRONG_TYPE);
    let ended = margay(&["counter", "add", "hostile-13"]).with(2);
    assert!(ended.err.contains("another type"), "{ended:?}");
    // 20: a value one byte too large, by the handle and on the wire.
    let map = client.map("hostile-20").wait().expect("opens");
    let failure = map.put(b"k", &vec![0; (1 << 20) + 1]).wait().expect_err("too large");
    assert_eq!(failure.code, Code::VALUE_TOO_LARGE);
    map.put(b"k", &vec![0; 1 << 20]).wait().expect("the largest there may be");
    let failure = map.put(&[0; 4097], b"").wait().expect_err("too large");
    assert_eq!(failure.code, Code::KEY_TOO_LARGE);
    let put = PutV1 { key: vec![1], value: vec![0; 1 << 21], previous: false }.encode();
    let failure = std::panic::catch_unwind(|| {
        let mut bytes = Vec::new();
        command(2, kind::MAP, 0x0101, 1, &put).encode(&mut bytes);
    });
    assert!(failure.is_err(), "our own client cannot even encode it");
    // 10 MB of a name do not get past the client; on the wire they are a frame too large.
    let failure = client.value(&"x".repeat(10 << 20)).wait().expect_err("too long");
    assert!([Code::BAD_NAME, Code::FRAME_TOO_LARGE].contains(&failure.code), "{failure:?}");
    client.close().expect("closes");
}

#[test]
fn limits_of_numbers_and_times_hold() {
    let _beside = beside_others();
    let client = Client::builder().endpoints(cluster().split(',')).connect().expect("connects");
    // 14
    let counter = client.counter("hostile-14").wait().expect("opens");
    counter.set(i64::MAX).wait().expect("sets");
    assert_eq!(counter.increment().wait().expect_err("overflow").code, Code::OVERFLOW);
    assert_eq!(counter.get().wait().expect("reads"), i64::MAX);
    // 15: sessions that would end at once, or never.
    for timeout in [Micros(0), Micros(1), Micros(u64::MAX)] {
        let mut raw = Raw::client(&leader(), 0);
        raw.request(&Request::Register { correlation: 1, key: [7; 16], timeout });
        assert_eq!(raw.refusal().code, Code::BAD_TIMEOUT);
    }
    // 16
    let value = client.value("hostile-16").wait().expect("opens");
    let version = value.set(b"one").wait().expect("sets");
    value.set(b"two").wait().expect("sets");
    let swap = value.compare_version_and_set(version, b"late").wait().expect("answers");
    let margay::resource::Swap::Conflict(Some(found)) = swap else { panic!("{swap:?}") };
    assert_eq!(found.value, b"two");
    // 23: a release by somebody who does not hold, and one with an old token.
    let lock = client.lock("hostile-23").wait().expect("opens");
    let failure = lock.unlock(1).wait().expect_err("nobody holds it");
    assert_eq!(failure.code, Code::NOT_HOLDER);
    let guard = lock.lock().wait().expect("is free");
    let failure = lock.unlock(guard.token() - 1).wait().expect_err("another grant");
    assert_eq!(failure.code, Code::NOT_HOLDER);
    let (mut raw, _) = Raw::session(&leader(), 0, *b"steals-the-lock!");
    let steal = UnlockV1 { token: guard.token() }.encode();
    use margay::resource::codec::Operation;
    let id = lock.id().0;
    if client.group_of("hostile-23").expect("routes").id() == GroupId(0) {
        raw.request(&command(1, kind::LOCK, UnlockV1::SCHEMA, id, &steal));
        assert_eq!(raw.answer().code, Code::NOT_HOLDER);
    }
    guard.unlock().wait().expect("is held");
    client.close().expect("closes");
}

#[test]
fn sequences_are_applied_once_and_in_order() {
    let _beside = beside_others();
    let (mut raw, _, counter) = with_counter("hostile-28@0", *b"sequences-in-ord");
    let one = AddV1 { delta: 1 }.encode();
    raw.request(&add(2, counter, &one));
    let first = raw.answer();
    assert_eq!((first.sequence, first.code), (Sequence(2), Code::OK));
    // 28: the same again is answered from the cache and changes nothing.
    raw.request(&add(2, counter, &one));
    assert_eq!(raw.answer(), first);
    // 29: a jump ahead is refused, and does not disturb the next.
    raw.request(&add(9, counter, &one));
    let ahead = raw.answer();
    assert_eq!((ahead.sequence, ahead.code), (Sequence(9), Code::SEQUENCE_GAP));
    raw.request(&add(3, counter, &one));
    let next = raw.answer();
    assert_eq!((next.sequence, next.code), (Sequence(3), Code::OK));
    assert_eq!(next.payload[8..16], 2_i64.to_le_bytes(), "two adds, not three");
}

#[test]
fn a_session_belongs_to_one_connection_and_to_who_knows_its_key() {
    let _beside = beside_others();
    let key = *b"who-knows-my-key";
    let (mut first, session, counter) = with_counter("hostile-30@0", key);
    // 31: a wrong key, and a session that never was.
    for (session, key) in [(session, [0; 16]), (SessionId(u64::MAX), key)] {
        let mut thief = Raw::client(&leader(), 0);
        thief.request(&Request::Attach { session, key, acked: Sequence(0) });
        let refusal = thief.refusal();
        assert!([Code::SESSION_EXPIRED, Code::SESSION_KEY].contains(&refusal.code), "{refusal:?}");
        // 27: and commands without a session do nothing.
        thief.request(&add(2, counter, &AddV1 { delta: 100 }.encode()));
        assert_eq!(thief.answer().code, Code::NO_SESSION);
    }
    // 30: who knows the key takes over, and the older connection is told.
    let mut second = Raw::client(&leader(), 0);
    second.request(&Request::Attach { session, key, acked: Sequence(1) });
    let refusal = first.refusal();
    assert_eq!((refusal.of, refusal.code), (RefusedOf::Session(session), Code::SESSION_MOVED));
    first.rest();
    second.frame();
    second.request(&add(2, counter, &AddV1 { delta: 1 }.encode()));
    assert_eq!(second.answer().payload[8..16], 1_i64.to_le_bytes(), "only our own add");
    // 27: a session that was closed is over for good.
    second.request(&Request::Close { session });
    let frame = second.frame();
    assert!(matches!(response(&frame), margay::wire::client::Response::Closed { .. }));
    let mut late = Raw::client(&leader(), 0);
    late.request(&Request::Attach { session, key, acked: Sequence(1) });
    assert_eq!(late.refusal().code, Code::SESSION_EXPIRED);
}

#[test]
fn a_flood_of_commands_is_bounded_and_others_are_served() {
    let _beside = beside_others();
    // 35: far more than may be under way, and nobody reads the answers.
    const COMMANDS: u64 = 20_000;
    let (mut raw, _, counter) = with_counter("hostile-35@0", *b"flood-of-command");
    let one = AddV1 { delta: 1 }.encode();
    let mut bytes = Vec::new();
    (2..2 + COMMANDS).for_each(|sequence| add(sequence, counter, &one).encode(&mut bytes));
    raw.send(&bytes);
    still_serves();
    // Refusals overtake answers that wait for the disk; what counts is which commands they are for.
    let (mut applied, mut refused) = (Vec::new(), Vec::new());
    for _ in 0..COMMANDS {
        let answer = raw.answer();
        match answer.code {
            Code::OK => applied.push(answer.sequence.0),
            Code::OVERLOADED | Code::SEQUENCE_GAP => refused.push(answer.sequence.0),
            other => panic!("{other:?}"),
        }
    }
    assert!(!refused.is_empty(), "there is a bound");
    let applied = applied.into_iter().collect::<BTreeSet<u64>>().len() as u64;
    assert!(
        refused.iter().all(|sequence| *sequence >= 2 + applied),
        "the first ones, without gaps"
    );
    raw.request(&add(2 + applied, counter, &one));
    assert_eq!(raw.answer().payload[8..16], (applied as i64 + 1).to_le_bytes());
}

#[test]
fn thousands_of_silent_connections_disturb_nobody() {
    let _beside = beside_others();
    // 32
    let silent: Vec<Raw> = (0..800).map(|_| Raw::dial(anyone())).collect();
    still_serves();
    drop(silent);
    for _ in 0..3_000 {
        drop(Raw::dial(anyone()));
    }
    still_serves();
}
