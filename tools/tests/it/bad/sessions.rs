//! Operations and sessions that must be refused: right frames with wrong content.

use std::thread;

use margay::machine::session::SESSIONS_MAX;
use margay::machine::{Code, ResourceId, Sequence, SessionId, kind};
use margay::resource::codec::{Encode, Operation};
use margay::resource::{counter, lock, map, registry, value};
use margay::wire::client::{RefusedOf, Request, Response};
use margay_log::id::{Index, Micros};

use super::frames::peak_memory;
use super::{One, Wire, connect, serves};
use crate::harness::{PATIENCE, Scratch, beside_others, margay_alone};

/// A session over a connection of the test's own making.
struct Raw {
    wire: Wire,
    session: SessionId,
    key: [u8; 16],
    sequence: u64,
}

impl Raw {
    #[track_caller]
    fn open(address: &str, key: u8, timeout: Micros) -> Raw {
        let (mut wire, key) = (Wire::client(address), [key; 16]);
        ask(&mut wire, &Request::Register { correlation: 1, key, timeout });
        let session = wire.answer(|answer| match answer {
            Response::Registered { session, .. } => session,
            other => panic!("not registered: {other:?}"),
        });
        Raw { wire, session, key, sequence: 0 }
    }

    fn send(&mut self, sequence: u64, acked: u64, (kind, schema): (u8, u16), payload: &[u8]) {
        self.send_to(ResourceId(0), sequence, acked, (kind, schema), payload);
    }

    fn send_to(
        &mut self,
        resource: ResourceId,
        sequence: u64,
        acked: u64,
        (kind, schema): (u8, u16),
        payload: &[u8],
    ) {
        let (sequence, acked) = (Sequence(sequence), Sequence(acked));
        let request = Request::Command { sequence, acked, kind, schema, resource, payload };
        ask(&mut self.wire, &request);
    }

    /// Sends the next command and returns how it ended: where, how, and with which bytes.
    #[track_caller]
    fn command(
        &mut self,
        resource: ResourceId,
        of: (u8, u16),
        payload: &[u8],
    ) -> (Index, Code, Vec<u8>) {
        self.sequence += 1;
        self.send_to(resource, self.sequence, 0, of, payload);
        self.reply()
    }

    #[track_caller]
    fn operation<O: Encode>(&mut self, resource: ResourceId, operation: &O) -> Code {
        self.command(resource, (O::KIND, O::SCHEMA), &operation.encode()).1
    }

    /// The resource of a name, created where it is not there.
    #[track_caller]
    fn create(&mut self, name: &str, kind: u8) -> ResourceId {
        let open = registry::OpenV1 { name: name.into(), kind, options: Vec::new() };
        let of = (registry::OpenV1::KIND, registry::OpenV1::SCHEMA);
        let (_, code, payload) = self.command(ResourceId(0), of, &open.encode());
        assert_eq!(code, Code::OK);
        ResourceId(payload.first_chunk().map(|id| u64::from_le_bytes(*id)).expect("an id"))
    }

    #[track_caller]
    fn reply(&mut self) -> (Index, Code, Vec<u8>) {
        let expected = self.sequence;
        loop {
            let reply = self.wire.answer(|answer| match answer {
                Response::Reply { sequence, index, code, payload } => {
                    assert_eq!(sequence.0, expected);
                    Some((index, code, payload.to_vec()))
                }
                Response::Notice(_) => None,
                other => panic!("not a reply: {other:?}"),
            });
            if let Some(reply) = reply {
                return reply;
            }
        }
    }
}

fn ask(wire: &mut Wire, request: &Request<'_>) {
    let mut bytes = Vec::new();
    request.encode(&mut bytes);
    wire.send(&bytes);
}

const SECONDS: u64 = 1_000_000;

fn forged_puts_are_refused(raw: &mut Raw, root: ResourceId) {
    let put = (kind::MAP, map::PutV1::SCHEMA);
    let forged = map::PutV1 {
        key: vec![1; 40],
        value: vec![2; 40],
        previous: true,
        ephemeral: false,
        ttl_ms: 0,
    }
    .encode();
    for at in 0..forged.len() - 4 {
        let mut forged = forged.clone();
        forged[at..at + 4].fill(0x7f);
        // Where only bytes of the key are hit it is valid, and the resource is not there.
        let code = raw.command(root, put, &forged).1;
        let refused = [Code::BAD_PAYLOAD, Code::BAD_TIME, Code::NO_SUCH_RESOURCE].contains(&code);
        assert!(refused, "{at}: {code}");
    }
}

#[test]
fn content_that_is_not_allowed_is_refused_and_the_session_goes_on() {
    let _beside = beside_others();
    let scratch = Scratch::new("bad-content");
    let one = One::start(scratch.path());
    let mut raw = Raw::open(&one.address, 1, Micros(10 * SECONDS));
    let root = ResourceId(0);

    let add = (kind::COUNTER, counter::AddV1::SCHEMA);
    let put = (kind::MAP, map::PutV1::SCHEMA);
    forged_puts_are_refused(&mut raw, root);
    assert_eq!(raw.command(root, put, &[0xff; 4_096]).1, Code::BAD_PAYLOAD);
    assert_eq!(raw.command(root, add, &[1]).1, Code::BAD_PAYLOAD);
    assert_eq!(raw.command(root, add, &[]).1, Code::BAD_PAYLOAD);
    assert_eq!(raw.command(root, (kind::COUNTER, 0x7701), &[]).1, Code::BAD_KIND);
    for number in [kind::NOOP, kind::REGISTER, kind::EXPIRE, kind::TICK, 99, 255] {
        assert_eq!(raw.command(root, (number, 0), &[0; 32]).1, Code::BAD_KIND, "{number}");
    }

    let long = vec![b'x'; 257];
    let large = vec![b'x'; 1_000_000];
    let names: [&[u8]; 8] = [b"", b"\xff", b"a\0b", b"\x1b[2J", b"a\nb", b"\x7f", &long, &large];
    for name in names {
        let open = registry::OpenV1 { name: name.to_vec(), kind: kind::MAP, options: Vec::new() };
        assert_eq!(raw.operation(root, &open), Code::BAD_NAME, "{:?}", name.first());
    }
    let counter = raw.create("bad-content", kind::COUNTER);
    let set = value::SetV1 { value: vec![1], ephemeral: false, ttl_ms: 0 };
    assert_eq!(raw.operation(counter, &set), Code::WRONG_TYPE);
    assert_eq!(raw.operation(ResourceId(u64::MAX), &set), Code::NO_SUCH_RESOURCE);
    assert_eq!(raw.operation(counter, &counter::SetV1 { value: i64::MAX }), Code::OK);
    assert_eq!(raw.operation(counter, &counter::AddV1 { delta: 1 }), Code::OVERFLOW);
    let cell = raw.create("bad-content-value", kind::VALUE);
    let large = value::SetV1 { value: vec![1; (1 << 20) + 1], ephemeral: false, ttl_ms: 0 };
    assert_eq!(raw.operation(cell, &large), Code::VALUE_TOO_LARGE);
    let map = raw.create("bad-content-map", kind::MAP);
    let key = map::PutV1 {
        key: vec![1; 4_097],
        value: vec![],
        previous: false,
        ephemeral: false,
        ttl_ms: 0,
    };
    assert_eq!(raw.operation(map, &key), Code::KEY_TOO_LARGE);
    let lock = raw.create("bad-content-lock", kind::LOCK);
    assert_eq!(raw.operation(lock, &lock::UnlockV1 { token: 1 }), Code::NOT_HOLDER);
    assert_eq!(raw.operation(lock, &lock::LockV1 { request: 1, wait_ms: None }), Code::OK);
    assert_eq!(raw.operation(lock, &lock::UnlockV1 { token: u64::MAX }), Code::NOT_HOLDER);

    let client = connect(&one.address);
    let number = client.counter("bad-content").wait().expect("opens").get().wait();
    assert_eq!(number.expect("reads"), i64::MAX, "unchanged");
    // Names never become paths.
    client.counter("../../etc/passwd").wait().expect("a name as any other");
    assert_eq!(client.map("bad-content").wait().expect_err("a counter").code, Code::WRONG_TYPE);
    assert_eq!(client.map("").wait().expect_err("no name").code, Code::BAD_NAME);
    let name = "x".repeat(10_000_000);
    assert_eq!(client.map(&name).wait().expect_err("long").code, Code::FRAME_TOO_LARGE);
    let cell = client.value("bad-content-value").wait().expect("opens");
    for (size, code) in [((1 << 20) + 1, Code::VALUE_TOO_LARGE), (9 << 20, Code::FRAME_TOO_LARGE)] {
        assert_eq!(cell.set(&vec![1; size]).wait().expect_err("too large").code, code);
    }
    one.serves();
}

#[test]
fn a_stale_version_is_a_conflict_with_the_actual_value() {
    let _beside = beside_others();
    let scratch = Scratch::new("bad-cas");
    let one = One::start(scratch.path());
    let run =
        |args: &[&str]| margay_alone(&[&["value", "--endpoints", &one.address][..], args].concat());
    run(&["set", "cas", "new"]).with(0);
    let ended = run(&["cas", "cas", "old", "mine"]).with(1);
    assert!(format!("{}{}", ended.out, ended.err).contains("new"), "{ended:?}");
    assert_eq!(run(&["get", "cas"]).with(0).out, "new\n");
    let ended = run(&["set", "\x1b[2J", "x"]).with(2);
    assert!(ended.err.contains("control characters") && !ended.err.contains('\x1b'), "{ended:?}");
    one.serves();
}

#[test]
fn sequences_are_applied_once_and_in_order() {
    let _beside = beside_others();
    let scratch = Scratch::new("bad-sequence");
    let one = One::start(scratch.path());
    let mut nobody = Wire::client(&one.address);
    let (sequence, acked) = (Sequence(1), Sequence(0));
    let (of, resource) = ((kind::COUNTER, counter::AddV1::SCHEMA), ResourceId(1));
    let (kind, schema) = of;
    ask(&mut nobody, &Request::Command { sequence, acked, kind, schema, resource, payload: &[] });
    assert_eq!(nobody.refusal().1, Code::NO_SESSION);
    for timeout in [0, 1, SECONDS - 1, 301 * SECONDS, 1_000_000_000 * SECONDS, u64::MAX] {
        let timeout = Micros(timeout);
        ask(&mut nobody, &Request::Register { correlation: 5, key: [9; 16], timeout });
        let (of, code, text) = nobody.refusal();
        assert_eq!((of, code), (RefusedOf::Register(5), Code::BAD_TIMEOUT));
        assert!(text.contains("1 to 300 seconds"), "{text}");
    }

    let mut raw = Raw::open(&one.address, 1, Micros(10 * SECONDS));
    let counter = raw.create("bad-sequence", kind);
    let add = counter::AddV1 { delta: 1 }.encode();
    let first = raw.command(counter, of, &add);
    raw.send_to(counter, raw.sequence, 0, of, &add);
    assert_eq!(raw.reply(), first, "a replay is answered from the cache");
    for ahead in [2, 1_000_000, u64::MAX - raw.sequence] {
        let sequence = raw.sequence + ahead;
        raw.send(sequence, 0, of, &add);
        let refusal = raw.wire.refusal();
        assert_eq!(refusal.0, RefusedOf::Command(Sequence(sequence)));
        assert_eq!(refusal.1, Code::SEQUENCE_GAP);
    }
    raw.command(counter, of, &add);
    raw.sequence += 1;
    raw.send_to(counter, raw.sequence, raw.sequence - 1, of, &add);
    assert_eq!(raw.reply().1, Code::OK);
    // What was acknowledged is not kept: it is known to have been applied.
    let newest = std::mem::replace(&mut raw.sequence, 2);
    raw.send_to(counter, 2, newest, of, &add);
    assert_eq!(raw.reply().1, Code::REPLY_GONE);
    let counter = connect(&one.address).counter("bad-sequence").wait().expect("opens");
    assert_eq!(counter.get().wait().expect("reads"), 3);
    one.serves();
}

#[test]
fn a_session_belongs_to_its_key_and_to_one_connection() {
    let _beside = beside_others();
    let scratch = Scratch::new("bad-key");
    let one = One::start(scratch.path());
    // As long as what comes before the end of it may take.
    let mut raw = Raw::open(&one.address, 1, Micros(5 * SECONDS));
    let lock = raw.create("bad-key", kind::LOCK);
    assert_eq!(raw.operation(lock, &lock::LockV1 { request: 1, wait_ms: None }), Code::OK);

    let (session, key, acked) = (raw.session, raw.key, Sequence(0));
    let mut second = Wire::client(&one.address);
    ask(&mut second, &Request::Attach { session, key, acked });
    let attached = second.answer(|answer| matches!(answer, Response::Attached { .. }));
    assert!(attached);
    let (of, code, _) = raw.wire.refusal();
    assert_eq!((of, code), (RefusedOf::Session(session), Code::SESSION_MOVED));
    raw.wire.closed();

    // Nobody guesses a session, nor keeps it alive by guessing: its lock is free in time.
    let waiter = connect(&one.address).lock("bad-key").wait().expect("opens").lock();
    let address = one.address.clone();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let guesser = thread::spawn(move || {
        let mut wire = Wire::client(&address);
        while stopped.try_recv().is_err() {
            ask(&mut wire, &Request::Attach { session, key: [2; 16], acked });
            assert_eq!(wire.refusal().1, Code::SESSION_EXPIRED);
        }
    });
    let (granted, got) = std::sync::mpsc::channel();
    thread::spawn(move || granted.send(waiter.wait().map(drop)));
    let got = got.recv_timeout(PATIENCE);
    stop.send(()).expect("it guesses");
    guesser.join().expect("every guess is refused");
    got.expect("the session expires although somebody guesses").expect("the lock is free");

    let (of, code, text) = second.refusal();
    assert_eq!((of, code), (RefusedOf::Session(session), Code::SESSION_EXPIRED), "{text}");
    let (sequence, resource) = (Sequence(raw.sequence + 1), lock);
    let (kind, schema) = (kind::LOCK, lock::LockV1::SCHEMA);
    let payload = &lock::LockV1 { request: 2, wait_ms: None }.encode();
    ask(&mut second, &Request::Command { sequence, acked, kind, schema, resource, payload });
    assert_eq!(second.refusal().1, Code::NO_SESSION, "never executed");
    ask(&mut second, &Request::Attach { session, key, acked });
    assert_eq!(second.refusal().1, Code::SESSION_EXPIRED);
    ask(&mut second, &Request::KeepAlive { session: SessionId(SESSIONS_MAX as u64 * 9), acked });
    assert_eq!(second.refusal().1, Code::NO_SESSION);
    one.serves();
}

/// A connection speaks for the session it asked for last; all it asked for are there.
#[test]
fn every_register_is_answered_also_on_one_connection() {
    let _beside = beside_others();
    let scratch = Scratch::new("bad-registers");
    let one = One::start(scratch.path());
    let (mut wire, timeout) = (Wire::client(&one.address), Micros(10 * SECONDS));
    let mut bytes = Vec::new();
    for correlation in 1..=3 {
        let key = [correlation as u8; 16];
        Request::Register { correlation, key, timeout }.encode(&mut bytes);
    }
    wire.send(&bytes);
    let mut sessions = Vec::new();
    for expected in 1..=3 {
        sessions.push(wire.answer(|answer| match answer {
            Response::Registered { correlation, session, .. } => {
                assert_eq!(correlation, expected);
                session
            }
            other => panic!("not registered: {other:?}"),
        }));
    }
    assert!(sessions.is_sorted_by(|one, other| one < other));
    let (first, last, acked) = (sessions[0], sessions[2], Sequence(0));
    ask(&mut wire, &Request::KeepAlive { session: first, acked });
    assert_eq!(wire.refusal().1, Code::NO_SESSION);
    ask(&mut wire, &Request::KeepAlive { session: last, acked });
    assert!(wire.answer(|answer| matches!(answer, Response::KeptAlive { .. })));
    ask(&mut wire, &Request::Attach { session: first, key: [1; 16], acked });
    assert!(wire.answer(|answer| matches!(answer, Response::Attached { .. })));
    one.serves();
}

/// Connections open session after session, each in place of the one before, until the group has no
/// room: who comes then is told to come later, and who was there before is served.
#[test]
fn more_sessions_than_a_group_keeps_are_refused_and_the_others_served() {
    const CONNECTIONS: usize = 200;
    let _beside = beside_others();
    let scratch = Scratch::new("bad-many");
    let one = One::start(scratch.path());
    let client = connect(&one.address);
    let counter = client.counter("bad-many").wait().expect("opens");
    let mut wires: Vec<Wire> = (0..CONNECTIONS).map(|_| Wire::client(&one.address)).collect();
    let (mut opened, mut refused) = (0, 0);
    while refused == 0 {
        assert!(opened <= SESSIONS_MAX, "{opened} sessions");
        for (number, wire) in (opened..).zip(&mut wires) {
            let (correlation, mut key) = (number as u64, [7; 16]);
            key[..8].copy_from_slice(&correlation.to_le_bytes());
            ask(wire, &Request::Register { correlation, key, timeout: Micros(300 * SECONDS) });
        }
        for wire in &mut wires {
            wire.answer(|answer| match answer {
                Response::Registered { .. } => opened += 1,
                Response::Refused { of: RefusedOf::Register(_), code, retry, .. } => {
                    assert_eq!(code, Code::TOO_MANY_SESSIONS);
                    assert!(retry > Micros(0), "it is said when to come again");
                    refused += 1;
                }
                other => panic!("{other:?}"),
            });
        }
    }
    // The client's own session is one of them.
    assert_eq!(opened, SESSIONS_MAX - 1);
    assert_eq!(counter.increment().wait().expect("who was there before is served"), 1);
    let memory = peak_memory(one.child.id());
    println!("{SESSIONS_MAX} sessions: {memory} KiB at most");
}

/// More commands at once than a session may have under way, from a client that does not read.
#[test]
fn a_flood_is_told_when_to_come_again() {
    const COMMANDS: u64 = 20_000;
    let _beside = beside_others();
    let scratch = Scratch::new("bad-flood");
    let one = One::start(scratch.path());
    let mut raw = Raw::open(&one.address, 1, Micros(10 * SECONDS));
    let resource = raw.create("bad-flood", kind::COUNTER);
    let payload = &counter::AddV1 { delta: 1 }.encode();
    let (kind, schema, acked) = (kind::COUNTER, counter::AddV1::SCHEMA, Sequence(0));
    let mut bytes = Vec::new();
    for sequence in (2..=COMMANDS + 1).map(Sequence) {
        let request = Request::Command { sequence, acked, kind, schema, resource, payload };
        request.encode(&mut bytes);
    }
    let mut sender = raw.wire.0.try_clone().expect("a second handle");
    let sent = thread::spawn(move || std::io::Write::write_all(&mut sender, &bytes));
    let (mut applied, mut refused, mut retry_after) = (0, 0, Micros(0));
    while applied + refused < COMMANDS {
        raw.wire.answer(|answer| match answer {
            Response::Reply { code: Code::OK, .. } => applied += 1,
            Response::Refused { code: Code::OVERLOADED, retry, .. } => {
                refused += 1;
                retry_after = retry;
            }
            Response::Refused { code: Code::SEQUENCE_GAP, .. } => refused += 1,
            other => panic!("{other:?}"),
        });
    }
    sent.join().expect("no panic").expect("everything is taken");
    assert!(refused == 0 || retry_after > Micros(0), "{refused} refused without a time");
    let client = connect(&one.address);
    let counter = client.counter("bad-flood").wait().expect("opens");
    assert_eq!(counter.get().wait().expect("reads") as u64, applied, "what was said was done");
    serves(&one.address);
}
