//! Exactly once: duplicates, late repeats, lost replies, gaps, ends.

use super::{Batched, Logged, World, command, register};
use margay::machine::{Admit, Code, EndReason, Sequence, SessionId, kind, session};
use margay::resource::counter::AddV1;
use margay::resource::map::PutV1;
use margay_log::id::{Index, Micros};

fn counter() -> (World, u64, u64) {
    let mut world = World::new();
    let session = world.register(1);
    let id = world.open(session, "hits", kind::COUNTER);
    (world, session, id)
}

fn value(payload: &[u8]) -> i64 {
    i64::from_le_bytes(payload[8..16].try_into().expect("old and new"))
}

#[test]
fn the_same_key_registers_the_same_session() {
    let mut world = World::new();
    let first = world.register(1);
    assert_eq!((world.register(1), world.register(2)), (first, first + 2));
    let (found, timeout) = world.machine.sessions().find(&[1; 16]).expect("registered");
    assert_eq!((found.0, timeout), (first, Micros::from_millis(10_000)));
    assert_eq!(world.machine.sessions().len(), 2);
    world.end(kind::CLOSE, first);
    assert_ne!(world.register(1), first, "a closed session does not come back");
}

#[test]
fn a_duplicate_is_answered_from_the_cache_and_not_applied_again() {
    let (mut world, session, id) = counter();
    let logged = command(session, 2, id, &AddV1 { delta: 5 });
    let first = world.send(logged.clone());
    world.command(session, id, &AddV1 { delta: 1 });
    let again = world.send(logged);
    assert_eq!(first, again, "the same index, code and bytes");
    let told = world.send(command(session, 4, id, &AddV1 { delta: 0 }));
    assert_eq!(value(&told.payload), 6);
}

#[test]
fn a_gap_has_no_effect_and_leaves_the_sequence_free() {
    let (mut world, session, id) = counter();
    let told = world.send(command(session, 4, id, &AddV1 { delta: 5 }));
    assert_eq!(told.code, Code::SEQUENCE_GAP);
    for sequence in [0, u64::MAX] {
        let told = world.send(command(session, sequence, id, &AddV1 { delta: 5 }));
        assert!([Code::SEQUENCE_GAP, Code::REPLY_GONE].contains(&told.code));
    }
    let told = world.send(command(session, 2, id, &AddV1 { delta: 1 }));
    assert_eq!((told.code, value(&told.payload)), (Code::OK, 1));
}

#[test]
fn acknowledged_replies_are_gone_and_others_stay() {
    let (mut world, session, id) = counter();
    for sequence in 2..=5 {
        let mut logged = command(session, sequence, id, &AddV1 { delta: 1 });
        logged.acked = if sequence == 5 { 3 } else { 0 };
        world.send(logged);
    }
    let admit = |sequence| world.machine.admit(SessionId(session), Sequence(sequence));
    assert_eq!(admit(3), Admit::Gone);
    assert!(matches!(admit(4), Admit::Cached { code: Code::OK, .. }));
    assert!(matches!(admit(5), Admit::Cached { code: Code::OK, .. }));
    assert_eq!((admit(6), admit(7)), (Admit::Next, Admit::Ahead));
    assert_eq!(world.machine.admit(SessionId(99), Sequence(1)), Admit::Unknown);
    let late = world.send(command(session, 3, id, &AddV1 { delta: 1 }));
    assert_eq!((late.code, late.payload.len()), (Code::REPLY_GONE, 0));
}

#[test]
fn a_hostile_acknowledgement_is_taken_for_the_last_command() {
    let (mut world, session, id) = counter();
    let mut logged = command(session, 2, id, &AddV1 { delta: 1 });
    logged.acked = u64::MAX;
    world.send(logged);
    let admitted = world.machine.admit(SessionId(session), Sequence(2));
    assert!(matches!(admitted, Admit::Cached { .. }));
}

#[test]
fn the_cache_is_bounded_in_number_and_bytes() {
    let (mut world, session, id) = counter();
    for _ in 0..session::REPLIES_MAX + 10 {
        world.command(session, id, &AddV1 { delta: 1 });
    }
    let last = world.sequences[&session];
    let admit = |world: &World, back: u64| {
        let admitted = world.machine.admit(SessionId(session), Sequence(last - back));
        matches!(admitted, Admit::Cached { .. })
    };
    assert!(admit(&world, session::REPLIES_MAX as u64 - 1));
    assert!(!admit(&world, session::REPLIES_MAX as u64));

    let map = world.open(session, "map", kind::MAP);
    let put = |size| PutV1 {
        key: vec![1],
        value: vec![7; size],
        previous: true,
        ephemeral: false,
        ttl_ms: 0,
    };
    for _ in 0..40 {
        world.command(session, map, &put(60_000));
    }
    let last = world.sequences[&session];
    let kept = (0..40)
        .filter(|back| {
            let admitted = world.machine.admit(SessionId(session), Sequence(last - back));
            matches!(admitted, Admit::Cached { .. })
        })
        .count();
    assert_eq!(kept, (1 << 20) / 60_008);

    world.command(session, map, &put(session::REPLY_MAX + 1));
    let told = world.command(session, map, &put(1));
    assert!(told.payload.len() > session::REPLY_MAX, "a large reply is sent");
    let admitted = world.machine.admit(SessionId(session), Sequence(told.sequence));
    assert_eq!(admitted, Admit::Gone, "but not kept");
}

#[test]
fn a_refused_command_uses_up_its_sequence() {
    let (mut world, session, id) = counter();
    let payload = session::encode_refused(Code::VALUE_TOO_LARGE).to_vec();
    let refused =
        Logged { kind: kind::REFUSED, session, sequence: 2, payload, ..Logged::default() };
    assert_eq!(world.send(refused.clone()).code, Code::VALUE_TOO_LARGE);
    assert_eq!(world.command(session, id, &AddV1 { delta: 1 }).code, Code::OK);
    assert_eq!(world.send(refused).code, Code::VALUE_TOO_LARGE, "from the cache");
    for payload in [vec![], vec![0; 8], vec![1; 7], vec![1; 8]] {
        let logged = Logged {
            kind: kind::REFUSED,
            session,
            sequence: world.machine.sessions().get(SessionId(session)).unwrap().last_sequence().0
                + 1,
            payload,
            ..Logged::default()
        };
        assert_eq!(world.send(logged).code, Code::BAD_PAYLOAD, "a refusal is never a success");
    }
}

#[test]
fn an_ended_session_sends_nothing_more() {
    for (kind, reason) in [(kind::CLOSE, EndReason::Closed), (kind::EXPIRE, EndReason::Expired)] {
        let (mut world, session, id) = counter();
        world.end(kind, session);
        assert_eq!(world.seen.ended, [(3, session, reason)]);
        let told = world.send(command(session, 2, id, &AddV1 { delta: 1 }));
        assert_eq!(told.code, Code::SESSION_EXPIRED);
        world.end(kind, session);
        assert_eq!(world.seen.ended.len(), 1, "it ends once");
        let told = world.seen.replies.last().expect("told so");
        assert_eq!((told.session, told.sequence), (session, 0));
        assert_eq!(told.code, Code::SESSION_EXPIRED);
    }
}

#[test]
fn malformed_registers_are_refused() {
    let mut world = World::new();
    let good = session::encode_register(&[9; 16], Micros::from_millis(1_000)).to_vec();
    let mut trailing = good.clone();
    trailing[31] = 1;
    let mut forever = good.clone();
    forever[16..20].copy_from_slice(&u32::MAX.to_le_bytes());
    let cases = [
        (Vec::new(), Code::BAD_PAYLOAD),
        (good[..31].to_vec(), Code::BAD_PAYLOAD),
        ([&good[..], &[0]].concat(), Code::BAD_PAYLOAD),
        (trailing, Code::BAD_PAYLOAD),
        (forever, Code::BAD_TIMEOUT),
    ];
    for (payload, code) in cases {
        world.entry(Logged { kind: kind::REGISTER, payload, ..Logged::default() });
        assert_eq!(world.seen.replies.last().expect("refused").code, code);
    }
    assert!(world.machine.sessions().is_empty() && world.seen.registered.is_empty());
}

#[test]
fn other_entries_only_advance() {
    let mut world = World::new();
    for kind in [kind::NOOP, kind::CONFIGURATION, kind::TICK] {
        world.entry(Logged { kind, payload: vec![1, 2, 3], ..Logged::default() });
    }
    assert_eq!(world.machine.applied(), Index(3));
    assert_eq!(world.seen, super::Seen::default());
    let told = world.send(Logged { kind: 7, sequence: 1, ..Logged::default() });
    assert_eq!(told.code, Code::SESSION_EXPIRED, "no session, no command");
    let session = world.register(1);
    let told = world.send(Logged { kind: 7, session, sequence: 1, ..Logged::default() });
    assert_eq!(told.code, Code::BAD_KIND);
}

#[test]
fn log_time_never_runs_backwards() {
    let mut world = World::new();
    for (time, shown) in [(5, 5), (3, 5), (9, 9)] {
        world.batch(&Batched { time, entries: vec![register(time as u8)] });
        assert_eq!(world.machine.time().0, shown);
    }
}
