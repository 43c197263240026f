//! Sessions that hold much: how much that may be, and that their end is done bit by bit and told
//! when it is over.

use crate::machine::{Batched, Logged, Seen, World, chunks, command, restore};
use margay::machine::session::encode_register;
use margay::machine::{
    Code, ENDED_PER_BATCH, ENDED_PER_ENTRY, EndReason, LogTime, NoticeState, SessionId, kind,
};
use margay::resource::codec::Encode;
use margay::resource::registry::{DeleteV1, OpenV1};
use margay::resource::{HOLDINGS_MAX, election, group, latch, lock, map, queue, semaphore};
use margay_log::id::Micros;

const FOREVER: Option<u64> = None;

fn open(world: &mut World, session: u64, name: &str, kind: u8, options: Vec<u8>) -> u64 {
    let name = name.as_bytes().to_vec();
    let told = world.command(session, 0, &OpenV1 { name, kind, options });
    assert_eq!(told.code, Code::OK);
    told.index
}

/// The session's next commands, all in one batch.
fn all<O: Encode>(world: &mut World, session: u64, commands: impl IntoIterator<Item = (u64, O)>) {
    let before = world.sequences.get(&session).copied().unwrap_or_default();
    let entries = (before + 1..).zip(commands).map(|(sequence, (resource, operation))| Logged {
        acked: sequence - 1,
        ..command(session, sequence, resource, &operation)
    });
    let batch = Batched { time: world.time, entries: entries.collect() };
    world.sequences.insert(session, before + batch.entries.len() as u64);
    let told = world.seen.replies.len();
    world.batch(&batch);
    assert!(world.seen.replies[told..].iter().all(|told| told.code == Code::OK));
}

fn acquire(request: u64, wait_ms: Option<u64>) -> semaphore::AcquireV1 {
    semaphore::AcquireV1 { request, permits: 1, wait_ms }
}

/// What the last batches told of resources.
fn told(world: &World) -> usize {
    world.seen.events.len() + world.seen.notices.len()
}

/// One session holds something in many resources, and much in some of them; others wait for it.
fn laden() -> (World, u64, Vec<u64>, u64) {
    let mut world = World::new();
    let [ending, other] = [1, 2].map(|key| world.register(key));
    let named = |kind: &str, n: u64| format!("{kind}{n}");
    let locks: Vec<u64> = (0..300)
        .map(|n| open(&mut world, other, &named("lock", n), kind::LOCK, Vec::new()))
        .collect();
    let ask = |lock: &u64| (*lock, lock::LockV1 { request: 1, wait_ms: FOREVER });
    all(&mut world, ending, locks.iter().map(ask));
    all(&mut world, other, locks.iter().map(ask));
    let maps: Vec<u64> =
        (0..2).map(|n| open(&mut world, other, &named("map", n), kind::MAP, Vec::new())).collect();
    let put = |n: u64| map::PutV1 {
        key: n.to_be_bytes().to_vec(),
        value: Vec::new(),
        previous: false,
        ephemeral: true,
        // Some are due before it is their turn.
        ttl_ms: if n.is_multiple_of(3) { 1 + n } else { 0 },
    };
    for map in maps {
        all(&mut world, ending, (0..1_500).map(|n| (map, put(n))));
    }
    let permits = open(&mut world, other, "permits", kind::SEMAPHORE, semaphore::options(2_000));
    all(&mut world, ending, (0..2_000).map(|n| (permits, acquire(n, FOREVER))));
    all(&mut world, other, (0..50).map(|n| (permits, acquire(n, FOREVER))));
    all(&mut world, ending, (2_000..2_050).map(|n| (permits, acquire(n, FOREVER))));
    let tasks = open(&mut world, other, "tasks", kind::QUEUE, queue::options(1));
    let offer = || queue::OfferV1 { value: b"do".to_vec(), delay_ms: 0 };
    all(&mut world, other, (0..600).map(|_| (tasks, offer())));
    let take = |request| queue::TakeV1 { request, max: 30, lease_ms: 10, wait_ms: FOREVER };
    all(&mut world, ending, (0..30).map(|request| (tasks, take(request))));
    let members = open(&mut world, other, "members", kind::GROUP, Vec::new());
    let join =
        |request| group::JoinV1 { request, id: Vec::new(), data: Vec::new(), wait_ms: FOREVER };
    all(&mut world, ending, (0..40).map(|request| (members, join(request))));
    all(&mut world, other, [(members, join(0))]);
    let send = |_| {
        let (id, value) = (Vec::new(), b"hear".to_vec());
        let to = group::TO_ANY;
        (members, group::SendV1 { request: 0, to, id, value, ask: false, wait_ms: FOREVER })
    };
    all(&mut world, other, (0..2_000).map(send));
    let election = open(&mut world, other, "election", kind::ELECTION, Vec::new());
    let stand = |request| election::CampaignV1 { request, data: vec![7], wait_ms: FOREVER };
    all(&mut world, ending, (0..20).map(|request| (election, stand(request))));
    all(&mut world, other, [(election, stand(0))]);
    (world, ending, locks, other)
}

#[test]
fn the_end_of_a_session_that_holds_much_is_done_in_parts_and_told_when_it_is_over() {
    let (mut world, ending, locks, other) = laden();
    // What comes of the last thing that a part lets go of is told whole.
    let slack = 200;
    world.seen = Seen::default();
    world.end(kind::EXPIRE, ending);
    assert!((1..ENDED_PER_ENTRY + slack).contains(&told(&world)), "{}", told(&world));
    let again = command(ending, world.sequences[&ending] + 1, locks[0], &lock::HolderV1 {});
    assert_eq!(world.send(again).code, Code::SESSION_EXPIRED, "it sends nothing more");
    assert!(world.machine.sessions().get(SessionId(ending)).is_none());
    let mut copy = World::new();
    let mut batches = 0;
    while world.machine.next_timer().is_some_and(|due| due <= LogTime(world.time)) {
        assert!(world.seen.ended.is_empty(), "it is not over yet");
        copy.machine = restore(&chunks(&world.machine, 5_000)).expect("what we wrote");
        assert_eq!(copy.machine.next_timer(), world.machine.next_timer());
        assert_eq!(copy.machine.sessions().len(), world.machine.sessions().len());
        copy.time = world.time;
        for world in [&mut world, &mut copy] {
            world.seen = Seen::default();
            world.tick(Micros::from_millis(1));
        }
        assert!(
            copy.seen == world.seen
                && chunks(&copy.machine, 5_000) == chunks(&world.machine, 5_000)
        );
        assert!(told(&world) < ENDED_PER_BATCH + slack, "{}", told(&world));
        batches += 1;
    }
    assert!((4..40).contains(&batches), "{batches} batches");
    let end = (world.machine.applied().0, ending, EndReason::Expired);
    assert_eq!(world.seen.ended, [end]);
    for lock in locks {
        let holder = world.query(other, lock, &lock::HolderV1 {}).payload;
        assert_eq!(holder[1..9], other.to_le_bytes(), "nobody is forgotten");
    }
    world.tick(Micros::from_millis(2_000));
    let mut held = Vec::new();
    world.machine.holdings(SessionId(ending), &mut held);
    assert_eq!((held, world.machine.next_timer()), (Vec::new(), None));
}

#[test]
fn a_session_that_is_ending_has_no_key_and_closes_at_last() {
    let (mut world, ending, ..) = laden();
    world.end(kind::CLOSE, ending);
    assert!(world.seen.ended.is_empty());
    assert_eq!(world.machine.sessions().len(), 2, "it takes its place until it is over");
    let next = world.register(1);
    assert_ne!(next, ending);
    world.end(kind::CLOSE, ending);
    let refused = world.seen.replies.last().expect("told so");
    assert_eq!((refused.session, refused.code), (ending, Code::SESSION_EXPIRED));
    while world.seen.ended.is_empty() {
        world.machine = restore(&chunks(&world.machine, 5_000)).expect("what we wrote");
        world.tick(Micros(0));
    }
    assert_eq!(world.seen.ended[0].1..=world.seen.ended[0].1, ending..=ending);
    assert_eq!(world.seen.ended[0].2, EndReason::Closed);
    assert!(world.machine.sessions().get(SessionId(next)).is_some());
}

/// It is noted of more maps that a session owns something there than is so, where many others owned
/// something that was cleared. Restored replicas do not note that, and its end is the same there.
#[test]
fn what_is_only_noted_of_a_session_does_not_count_when_it_ends() {
    let mut world = World::new();
    let owners: Vec<u64> = (0..=u8::MAX).map(|key| world.register(key)).collect();
    let payload = encode_register(b"as one of many  ", Micros::from_millis(10_000)).to_vec();
    let ending = world.entry(Logged { kind: kind::REGISTER, payload, ..Logged::default() });
    let put = |key: u64| map::PutV1 {
        key: key.to_be_bytes().to_vec(),
        value: Vec::new(),
        previous: false,
        ephemeral: true,
        ttl_ms: 0,
    };
    let maps: Vec<u64> = (0..ENDED_PER_ENTRY)
        .map(|n| open(&mut world, ending, &format!("map{n}"), kind::MAP, Vec::new()))
        .collect();
    for owner in owners.iter().chain([&ending]) {
        all(&mut world, *owner, maps.iter().map(|map| (*map, put(*owner))));
    }
    all(&mut world, owners[0], maps.iter().map(|map| (*map, map::ClearV1 {})));
    let mut copy = World::new();
    copy.machine = restore(&chunks(&world.machine, 64 << 10)).expect("what we wrote");
    assert!(world.machine.state().links() > copy.machine.state().links());
    (copy.time, copy.sequences) = (world.time, world.sequences.clone());
    for world in [&mut world, &mut copy] {
        world.seen = Seen::default();
        world.end(kind::EXPIRE, ending);
        assert_eq!(world.seen.ended.len(), 1, "it held nothing any more");
    }
}

// ---- how much a session may hold ------------------------------------------------------------

/// A session that holds and waits for as much as it may, in a semaphore and in locks of another.
fn full() -> (World, u64, u64, u64) {
    let mut world = World::new();
    let [session, other] = [1, 2].map(|key| world.register(key));
    let permits = open(&mut world, session, "permits", kind::SEMAPHORE, semaphore::options(9_000));
    let ask = |n: usize| (permits, acquire(n as u64, FOREVER));
    all(&mut world, session, (0..HOLDINGS_MAX - 1).map(ask));
    let lock = world.open(other, "lock", kind::LOCK);
    world.command(other, lock, &lock::LockV1 { request: 1, wait_ms: FOREVER });
    world.command(session, lock, &lock::LockV1 { request: 1, wait_ms: Some(5) });
    (world, session, permits, lock)
}

#[test]
fn a_session_that_holds_as_much_as_it_may_is_told_so() {
    let (mut world, session, permits, lock) = full();
    let more = acquire(u64::MAX, FOREVER);
    assert_eq!(world.command(session, permits, &more).code, Code::TOO_MANY_HOLDINGS);
    let not_now = acquire(u64::MAX, Some(0));
    assert_eq!(world.command(session, permits, &not_now).code, Code::OK, "nothing is kept");
    world.machine = restore(&chunks(&world.machine, 64 << 10)).expect("what we wrote");
    assert_eq!(world.command(session, permits, &more).code, Code::TOO_MANY_HOLDINGS);
    let mut held = Vec::new();
    world.machine.holdings(SessionId(session), &mut held);
    assert_eq!(held.len(), HOLDINGS_MAX);
    // Each way to hold or wait for less makes room for one.
    let request = world.sequences[&session];
    world.command(session, permits, &semaphore::CancelV1 { request: 1 });
    assert_eq!(world.command(session, permits, &acquire(1, FOREVER)).code, Code::OK);
    assert_eq!(world.command(session, permits, &more).code, Code::TOO_MANY_HOLDINGS);
    world.tick(Micros::from_millis(5));
    assert!(world.seen.notices.iter().any(|notice| notice.state == NoticeState::TimedOut));
    assert_eq!(world.command(session, permits, &more).code, Code::OK);
    assert_eq!(
        world.command(session, lock, &lock::LockV1 { request, wait_ms: FOREVER }).code,
        Code::TOO_MANY_HOLDINGS
    );
}

#[test]
fn what_is_deleted_is_held_no_more() {
    let (mut world, session, permits, lock) = full();
    let told = world.command(session, 0, &DeleteV1 { resource: permits });
    assert_eq!(told.code, Code::OK);
    follow(&mut world);
    let permits = open(&mut world, session, "permits", kind::SEMAPHORE, semaphore::options(9_000));
    let ask = |n: usize| (permits, acquire(n as u64, FOREVER));
    all(&mut world, session, (0..HOLDINGS_MAX - 1).map(ask));
    let more = acquire(u64::MAX, FOREVER);
    assert_eq!(world.command(session, permits, &more).code, Code::TOO_MANY_HOLDINGS);
    // A wait that is granted is no second thing.
    let other = world.machine.sessions().iter().last().expect("the other").0.0;
    world.command(other, lock, &lock::CancelV1 { request: 1 });
    world.command(session, permits, &semaphore::CancelV1 { request: 7 });
    assert_eq!(world.command(session, permits, &more).code, Code::OK);
    let most = acquire(u64::MAX - 1, FOREVER);
    assert_eq!(world.command(session, permits, &most).code, Code::TOO_MANY_HOLDINGS);
}

/// One that asks and is granted in the same entry holds one thing.
#[test]
fn a_turn_that_comes_at_once_counts_once() {
    let mut world = World::new();
    let session = world.register(1);
    let lock = world.open(session, "lock", kind::LOCK);
    for _ in 0..HOLDINGS_MAX + 2 {
        let told = world.command(session, lock, &lock::LockV1 { request: 1, wait_ms: FOREVER });
        assert_eq!((told.code, told.payload[0]), (Code::OK, lock::GRANTED));
        let token = told.index;
        assert_eq!(world.command(session, lock, &lock::UnlockV1 { token }).code, Code::OK);
    }
}

// ---- many turns at once ---------------------------------------------------------------------

/// So many wait for a latch: more than one entry lets pass.
fn waiting(world: &mut World, sessions: &[u64], id: u64, count: u64) {
    for (session, request) in sessions.iter().cycle().zip(0..count) {
        let told = world.command(*session, id, &latch::AwaitV1 { request, wait_ms: FOREVER });
        assert_eq!((told.code, told.payload[0]), (Code::OK, latch::WAITING));
    }
    world.seen = Seen::default();
}

/// Batch by batch, a copy that is restored before each of them does the same. How much each told.
fn follow(world: &mut World) -> Vec<usize> {
    let mut all = vec![told(world)];
    let mut copy = World::new();
    while world.machine.next_timer().is_some_and(|due| due <= LogTime(world.time)) {
        copy.machine = restore(&chunks(&world.machine, 5_000)).expect("what we wrote");
        copy.time = world.time;
        for world in [&mut *world, &mut copy] {
            world.seen = Seen::default();
            world.tick(Micros(0));
        }
        assert!(copy.seen == world.seen && chunks(&copy.machine, 99) == chunks(&world.machine, 99));
        all.push(told(world));
    }
    all
}

fn three() -> (World, Vec<u64>) {
    let mut world = World::new();
    let sessions = (1..=3).map(|key| world.register(key)).collect();
    (world, sessions)
}

fn next<O: Encode>(world: &mut World, session: u64, resource: u64, operation: &O) -> Logged {
    let sequence = world.sequences.entry(session).or_default();
    *sequence += 1;
    command(session, *sequence, resource, operation)
}

#[test]
fn a_latch_lets_thousands_pass_bit_by_bit() {
    let (mut world, sessions) = three();
    let id = world.open(sessions[0], "latch", kind::LATCH);
    waiting(&mut world, &sessions, id, 2_500);
    world.command(sessions[0], id, &latch::CountDownV1 { by: 1 });
    let parts = follow(&mut world);
    assert_eq!(parts, [256, 1_024, 1_024, 196]);
}

#[test]
fn waits_that_are_over_are_over_for_everybody_though_not_all_have_been_told() {
    let (mut world, sessions) = three();
    let id = world.open(sessions[0], "lock", kind::LOCK);
    let ask = |request, wait_ms| lock::LockV1 { request, wait_ms };
    world.command(sessions[0], id, &ask(9_999, FOREVER));
    for request in 0..6_000 {
        world.command(sessions[1], id, &ask(request, Some(5)));
    }
    world.time += 5_000;
    let waiting = world.query(sessions[0], id, &lock::HolderV1 {}).payload[17..].to_vec();
    assert_eq!(waiting, 0_u32.to_le_bytes(), "nobody waits any more");
    // Timers come first; what they have not come to is in nobody's way.
    let entries = vec![
        next(&mut world, sessions[0], id, &lock::CancelV1 { request: 9_999 }),
        next(&mut world, sessions[2], id, &ask(1, Some(0))),
        next(&mut world, sessions[1], id, &lock::CancelV1 { request: 5_999 }),
        next(&mut world, sessions[1], id, &ask(5_998, Some(7))),
    ];
    world.seen = Seen::default();
    let batch = Batched { time: world.time, entries };
    world.batch(&batch);
    let answers: Vec<u8> = world.seen.replies.iter().map(|told| told.payload[0]).collect();
    assert_eq!(answers, [2, lock::GRANTED, 0, lock::WAITING]);
    assert!(world.machine.next_timer().is_some_and(|due| due <= LogTime(world.time)));
    follow(&mut world);
    world.tick(Micros::from_millis(7));
    let mut held = Vec::new();
    world.machine.holdings(SessionId(sessions[1]), &mut held);
    assert_eq!(held, []);
}

#[test]
fn who_holds_something_of_a_deleted_resource_is_told_bit_by_bit() {
    let (mut world, sessions) = three();
    let id = world.open(sessions[0], "latch", kind::LATCH);
    waiting(&mut world, &sessions, id, 9_000);
    assert_eq!(world.command(sessions[0], 0, &DeleteV1 { resource: id }).code, Code::OK);
    let again = world.command(sessions[0], 0, &DeleteV1 { resource: id });
    assert_eq!(again.code, Code::NO_SUCH_RESOURCE, "it is gone for everybody");
    let count = latch::CountDownV1 { by: 1 };
    assert_eq!(world.command(sessions[0], id, &count).code, Code::NO_SUCH_RESOURCE);
    let next = world.open(sessions[0], "latch", kind::LATCH);
    assert_ne!(next, id, "the name is free");
    let mut held = Vec::new();
    world.machine.holdings(SessionId(sessions[0]), &mut held);
    assert_eq!(held, [], "what is listed exists");
    // Each batch so far has told some, too; and once that it is deleted.
    let parts = follow(&mut world);
    assert_eq!(parts, [256 + 3 * 1_024 + 1, 1_024, 1_024, 1_024, 1_024, 1_024, 552]);
    assert_eq!(world.machine.next_timer(), None);
    assert_eq!(world.machine.state().len(), 1);
    for session in sessions {
        world.end(kind::CLOSE, session);
        assert_eq!(world.machine.sessions().is_empty(), session == 3);
    }
}

/// Its waits are lost one after the other, and a session that ends meanwhile makes room for nobody.
#[test]
fn nothing_of_a_deleted_resource_is_granted_any_more() {
    for kind in [kind::LOCK, kind::ELECTION] {
        let mut world = World::new();
        let [holder, waits, ends] = [1, 2, 3].map(|key| world.register(key));
        let id = world.open(holder, "it", kind);
        let mut ask = |session, request: u64| {
            let (wait_ms, data) = (FOREVER, Vec::new());
            match kind {
                kind::LOCK => world.command(session, id, &lock::LockV1 { request, wait_ms }),
                _ => world.command(session, id, &election::CampaignV1 { request, data, wait_ms }),
            }
        };
        ask(holder, 1);
        (0..2_000).for_each(|request| drop(ask(waits, request)));
        ask(ends, 1);
        let sequence = world.sequences[&holder] + 1;
        let close = Logged { kind: kind::CLOSE, session: ends, ..Logged::default() };
        let entries = vec![command(holder, sequence, 0, &DeleteV1 { resource: id }), close];
        let told = world.seen.notices.len();
        world.batch(&Batched { time: world.time, entries });
        while world.machine.next_timer().is_some() {
            world.tick(Micros(1));
        }
        let notices = &world.seen.notices[told..];
        assert!(notices.iter().all(|notice| notice.state == NoticeState::Lost));
        assert!(notices.len() > 2_000);
        assert_eq!((world.machine.state().len(), world.seen.ended.len()), (0, 1));
    }
}

#[test]
fn groups_and_elections_are_deleted_bit_by_bit_too() {
    let (mut world, _, _, other) = laden();
    for name in ["members", "election", "tasks", "permits", "map0"] {
        let find = margay::resource::registry::FindV1 { name: name.as_bytes().to_vec(), kind: 0 };
        let found = world.query(other, 0, &find).payload;
        let resource = u64::from_le_bytes(found[..8].try_into().expect("an id"));
        assert_eq!(world.command(other, 0, &DeleteV1 { resource }).code, Code::OK);
        follow(&mut world);
        assert_eq!(world.query(other, 0, &find).code, Code::NO_SUCH_RESOURCE);
    }
}
