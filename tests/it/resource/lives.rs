//! Entries that end by themselves: after a time, or with their session.

use crate::machine::{Batched, Logged, Told, World, chunks, command, restore};
use margay::machine::bytes::Reader;
use margay::machine::{Code, ENDED_PER_ENTRY, TIMERS_PER_BATCH, kind};
use margay::resource::entries::{CLEARED, EXPIRED, PUT, REMOVED, SESSION_ENDED};
use margay::resource::map::{
    ClearV1, ContainsV1, GetManyV1, GetV1, PageV1, PollV1, PutIfAbsentV1, PutV1, RemoveIfV1,
    RemoveV1, ReplaceV1, SizeV1,
};
use margay::resource::value;
use margay_log::id::Micros;
use proptest::prelude::*;
use std::collections::BTreeMap;

const SECOND: u64 = 1_000;

fn put(key: &str, ttl_ms: u64, ephemeral: bool) -> PutV1 {
    let (key, value) = (key.as_bytes().to_vec(), b"v".to_vec());
    PutV1 { key, value, previous: false, ephemeral, ttl_ms }
}

fn pass(world: &mut World, milliseconds: u64) {
    world.tick(Micros::from_millis(milliseconds));
}

/// Time passes without a batch: what a query at that time would see before any timer fires.
fn look_ahead(world: &mut World, milliseconds: u64) {
    world.time += Micros::from_millis(milliseconds).0;
}

fn world() -> (World, u64, u64) {
    let mut world = World::new();
    let session = world.register(1);
    let map = world.open(session, "map", kind::MAP);
    (world, session, map)
}

fn has(world: &World, map: u64, key: &str) -> bool {
    let told = world.query(0, map, &ContainsV1 { key: key.as_bytes().to_vec() });
    told.payload != 0_u64.to_le_bytes()
}

fn size(world: &World, map: u64) -> u64 {
    u64::from_le_bytes(world.query(0, map, &SizeV1 {}).payload.try_into().expect("a size"))
}

fn kinds(world: &World) -> Vec<u16> {
    world.seen.events.iter().map(|(_, event)| event.kind).collect()
}

fn page() -> PageV1 {
    let (prefix, limit) = (vec![], 0);
    PageV1 { prefix, from: None, to: None, after: None, limit, descending: false, values: false }
}

/// The number of entries on a page, and whether it is not the last.
fn page_size(told: &Told) -> (u32, bool) {
    let mut reader = Reader::new(&told.payload);
    let more = reader.optional().expect("a key to go on after").is_some();
    (reader.u32().expect("a count"), more)
}

// ---- bugs others had, each by name ----------------------------------------------------------

#[test]
fn an_overwritten_value_is_not_removed_by_the_old_time_to_live() {
    let (mut world, session, map) = world();
    world.command(session, map, &put("k", SECOND, false));
    world.command(session, map, &put("k", 0, false));
    pass(&mut world, 10 * SECOND);
    assert!(has(&world, map, "k"));
    world.command(session, map, &put("k", SECOND, false));
    pass(&mut world, SECOND / 2);
    world.command(session, map, &put("k", SECOND, false));
    pass(&mut world, SECOND / 2);
    assert!(has(&world, map, "k"), "a put begins anew");
    pass(&mut world, SECOND / 2);
    assert!(!has(&world, map, "k"));
    assert_eq!(kinds(&world), [PUT, PUT, PUT, PUT, EXPIRED]);
}

#[test]
fn removing_what_is_absent_says_so() {
    let (mut world, session, map) = world();
    let key = b"k".to_vec();
    let remove = RemoveV1 { key: key.clone(), previous: false };
    assert_eq!(world.command(session, map, &remove).payload, [0]);
    let expected = Some(b"v".to_vec());
    let told = world.command(session, map, &RemoveIfV1 { key, expected, version: 0 });
    assert_eq!(told.payload[0], 0);
    world.command(session, map, &put("k", SECOND, false));
    look_ahead(&mut world, SECOND);
    assert_eq!(world.command(session, map, &remove).payload, [0], "what has ended is absent");
    assert_eq!(kinds(&world), [PUT, EXPIRED]);
}

#[test]
fn a_clear_disarms_timers_and_owners() {
    let (mut world, session, map) = world();
    let other = world.register(2);
    world.command(session, map, &put("timed", SECOND, false));
    world.command(session, map, &put("owned", 0, true));
    world.command(other, map, &ClearV1 {});
    assert_eq!(world.machine.next_timer(), None);
    world.command(other, map, &put("timed", 0, false));
    world.command(other, map, &put("owned", 0, false));
    pass(&mut world, 10 * SECOND);
    world.end(kind::CLOSE, session);
    assert_eq!(size(&world, map), 2);
    assert_eq!(kinds(&world), [PUT, PUT, CLEARED, PUT, PUT]);
}

#[test]
fn sizes_and_pages_do_not_count_what_has_ended() {
    let (mut world, session, map) = world();
    for key in ["a", "b", "c"] {
        world.command(session, map, &put(key, SECOND, false));
    }
    world.command(session, map, &put("d", 0, false));
    look_ahead(&mut world, SECOND);
    assert_eq!(size(&world, map), 1);
    assert_eq!(page_size(&world.query(session, map, &page())), (1, false));
    assert_eq!(world.query(session, map, &GetV1 { key: b"a".to_vec() }).payload, [0; 8]);
    let many = GetManyV1 { keys: vec![b"a".to_vec(), b"d".to_vec()] };
    assert_eq!(world.query(session, map, &many).payload[4..12], [0; 8]);
    let polled = world.command(session, map, &PollV1 { last: false }).payload;
    assert_eq!(polled[8..], [1, 0, 0, 0, b'd', b'v'], "the first that is there");
}

/// So many have ended, and are still to be removed, that the first that is there is not looked for.
#[test]
fn the_first_entry_is_not_looked_for_without_end() {
    let (mut world, session, map) = world();
    for n in 0..12_000 {
        world.command(session, map, &put(&format!("{n:05}"), 100 * SECOND, false));
    }
    world.command(session, map, &put("last", 0, false));
    look_ahead(&mut world, 100 * SECOND);
    let poll = PollV1 { last: false };
    assert_eq!(world.command(session, map, &poll).code, Code::OVERLOADED);
    let polled = world.command(session, map, &poll);
    assert_eq!((polled.code, &polled.payload[12..]), (Code::OK, &b"lastv"[..]));
}

#[test]
fn put_if_absent_over_an_entry_that_has_ended_sets_a_timer_of_its_own() {
    let (mut world, session, map) = world();
    world.command(session, map, &put("k", SECOND, false));
    look_ahead(&mut world, SECOND);
    let (key, value) = (b"k".to_vec(), b"new".to_vec());
    let again = PutIfAbsentV1 { key, value, ephemeral: false, ttl_ms: SECOND };
    assert_eq!(world.command(session, map, &again).payload, [1]);
    pass(&mut world, SECOND - 1);
    assert!(has(&world, map, "k"));
    pass(&mut world, 1);
    assert!(!has(&world, map, "k"));
    assert_eq!(kinds(&world), [PUT, EXPIRED, PUT, EXPIRED]);
}

#[test]
fn an_ephemeral_put_over_a_lasting_entry_is_ephemeral_and_the_other_way_round() {
    let (mut world, session, map) = world();
    for key in ["a", "b"] {
        world.command(session, map, &put(key, 0, key == "a"));
        world.command(session, map, &put(key, 0, key == "b"));
    }
    world.end(kind::EXPIRE, session);
    assert!(has(&world, map, "a") && !has(&world, map, "b"));
}

#[test]
fn queries_change_nothing() {
    let (mut world, session, map) = world();
    for key in ["a", "b", "c"] {
        world.command(session, map, &put(key, SECOND, true));
    }
    let before = chunks(&world.machine, 1_000);
    look_ahead(&mut world, SECOND);
    assert!(!has(&world, map, "a") && size(&world, map) == 0);
    world.query(session, map, &page());
    assert_eq!(chunks(&world.machine, 1_000), before);
}

#[test]
fn an_ephemeral_write_right_after_creation_stays_until_its_session_ends() {
    let (mut world, session, map) = world();
    let told = world.command(session, map, &put("k", 0, true));
    assert_eq!(told.code, Code::OK);
    pass(&mut world, 1_000 * SECOND);
    assert!(has(&world, map, "k"));
    world.end(kind::CLOSE, session);
    assert!(!has(&world, map, "k"));
    assert_eq!(kinds(&world), [PUT, SESSION_ENDED]);
}

#[test]
fn a_session_that_expires_ends_its_entries_as_one_that_closes_does() {
    for end in [kind::CLOSE, kind::EXPIRE] {
        let (mut world, session, map) = world();
        let other = world.register(2);
        let (mine, theirs) = (put("mine", 0, true), put("theirs", 0, true));
        world.command(session, map, &mine);
        world.command(other, map, &theirs);
        // Taken over: it is the other's now.
        world.command(session, map, &put("taken", 0, true));
        world.command(other, map, &put("taken", 0, true));
        world.end(end, session);
        assert!(!has(&world, map, "mine"));
        assert!(has(&world, map, "theirs") && has(&world, map, "taken"));
        world.end(end, other);
        assert_eq!(size(&world, map), 0);
    }
}

#[test]
fn the_expiry_of_a_value_is_an_event() {
    let mut world = World::new();
    let session = world.register(1);
    let id = world.open(session, "value", kind::VALUE);
    let set = |ttl_ms, ephemeral| value::SetV1 { value: b"v".to_vec(), ephemeral, ttl_ms };
    world.command(session, id, &set(SECOND, false));
    look_ahead(&mut world, SECOND);
    assert_eq!(world.query(session, id, &value::GetV1 {}).payload, [0; 8]);
    pass(&mut world, 0);
    let (_, event) = world.seen.events.last().expect("an event");
    let old = event.old.as_ref().map(|pair| pair.value());
    assert_eq!((event.kind, old), (EXPIRED, Some(&b"v"[..])));
    world.command(session, id, &set(0, true));
    world.end(kind::EXPIRE, session);
    assert_eq!(kinds(&world), [PUT, EXPIRED, PUT, SESSION_ENDED]);
    assert_eq!(world.query(0, id, &value::GetV1 {}).payload, [0; 8]);
}

#[test]
fn compare_and_set_from_nothing_sets_the_new_value_and_compares_by_content() {
    let mut world = World::new();
    let session = world.register(1);
    let id = world.open(session, "value", kind::VALUE);
    let swap = |expected: Option<&[u8]>, value: &[u8]| {
        let (expected, value) = (expected.map(<[u8]>::to_vec), value.to_vec());
        value::CompareAndSetV1 { expected, value, ephemeral: false, ttl_ms: SECOND }
    };
    assert_eq!(world.command(session, id, &swap(None, b"x")).payload, [1]);
    assert_eq!(world.query(session, id, &value::GetV1 {}).payload[8..], *b"x");
    assert_eq!(world.command(session, id, &swap(Some(b"x"), b"y")).payload, [1]);
    look_ahead(&mut world, SECOND);
    assert_eq!(world.command(session, id, &swap(Some(b"y"), b"z")).payload[0], 0, "it has ended");
    assert_eq!(world.command(session, id, &swap(None, b"z")).payload, [1]);
}

#[test]
fn replacing_what_has_ended_replaces_nothing() {
    let (mut world, session, map) = world();
    world.command(session, map, &put("k", SECOND, false));
    look_ahead(&mut world, SECOND);
    let (key, value) = (b"k".to_vec(), b"new".to_vec());
    let replace = ReplaceV1 { key, value, ephemeral: false, ttl_ms: 0 };
    assert_eq!(world.command(session, map, &replace).payload, [0; 8]);
    assert!(!has(&world, map, "k"));
}

#[test]
fn a_time_to_live_out_of_range_is_refused() {
    let (mut world, session, map) = world();
    let ten_years = 3_650 * 24 * 60 * 60 * SECOND;
    assert_eq!(world.command(session, map, &put("k", ten_years, false)).code, Code::OK);
    for ttl_ms in [ten_years + 1, u64::MAX] {
        assert_eq!(world.command(session, map, &put("k", ttl_ms, false)).code, Code::BAD_TIME);
    }
}

// ---- many at once ---------------------------------------------------------------------------

/// Puts `count` entries in batches of commands.
fn put_many(world: &mut World, session: u64, map: u64, count: usize, ttl_ms: u64, ephemeral: bool) {
    let entries = (0..count).map(|n| {
        let sequence = world.sequences[&session] + 1 + n as u64;
        let mut logged =
            command(session, sequence, map, &put(&format!("{n:06}"), ttl_ms, ephemeral));
        logged.acked = sequence - 1;
        logged
    });
    let batch = Batched { time: world.time, entries: entries.collect() };
    *world.sequences.get_mut(&session).expect("a session") += count as u64;
    world.batch(&batch);
    assert_eq!(size(world, map), count as u64);
}

#[test]
fn a_mass_expiry_is_seen_at_once_and_done_in_parts() {
    let (mut world, session, map) = world();
    let count = 3 * TIMERS_PER_BATCH - 1;
    put_many(&mut world, session, map, count, SECOND, false);
    world.command(session, map, &put("stays", 0, false));
    for part in 1..=3 {
        world.seen.events.clear();
        pass(&mut world, if part == 1 { SECOND } else { 0 });
        let expected = if part < 3 { TIMERS_PER_BATCH } else { TIMERS_PER_BATCH - 1 };
        assert_eq!(kinds(&world), vec![EXPIRED; expected]);
        assert_eq!(size(&world, map), 1);
        assert_eq!(page_size(&world.query(session, map, &page())), (1, false));
        let restored = restore(&chunks(&world.machine, 10_000)).expect("what we wrote");
        assert_eq!(restored.next_timer(), world.machine.next_timer());
        assert_eq!(restored.next_timer().is_some(), part < 3);
    }
}

#[test]
fn a_page_looks_at_a_bounded_number_of_entries() {
    let (mut world, session, map) = world();
    put_many(&mut world, session, map, 12_000, SECOND, false);
    look_ahead(&mut world, SECOND);
    let told = world.query(session, map, &page());
    assert_eq!(page_size(&told), (0, true), "nothing found, and it goes on");
    let after = Reader::new(&told.payload).optional().unwrap().map(<[u8]>::to_vec);
    let told = world.query(session, map, &PageV1 { after, ..page() });
    assert_eq!(page_size(&told), (0, false));
}

#[test]
fn the_end_of_a_session_that_owns_much_is_done_in_parts() {
    let (mut world, session, map) = world();
    let other = world.register(2);
    let count = 2 * TIMERS_PER_BATCH + 10;
    put_many(&mut world, session, map, count, 0, true);
    world.command(other, map, &put("stays", 0, true));
    world.seen.events.clear();
    world.end(kind::EXPIRE, session);
    let first = kinds(&world).len();
    assert!((1..ENDED_PER_ENTRY).contains(&first), "{first} at once");
    assert_eq!(size(&world, map), (count - first + 1) as u64);
    let mut copy = World::new();
    copy.machine = restore(&chunks(&world.machine, 500)).expect("what we wrote");
    copy.time = world.time;
    copy.sequences = world.sequences.clone();
    // A key of the session is taken over before its turn to be removed has come.
    for world in [&mut world, &mut copy] {
        world.seen = Default::default();
        world.command(other, map, &put("002057", 0, false));
        assert!(world.seen.ended.is_empty());
        while world.machine.next_timer().is_some() {
            pass(world, 0);
        }
        assert_eq!(world.seen.ended.len(), 1);
        assert_eq!(size(world, map), 2);
    }
    assert_eq!(world.seen, copy.seen);
    let gone = kinds(&world).iter().filter(|kind| **kind == SESSION_ENDED).count();
    assert_eq!(gone, count - first - 1);
}

#[test]
fn a_huge_map_is_cleared_and_deleted_at_once() {
    let (mut world, session, map) = world();
    put_many(&mut world, session, map, 20_000, SECOND, true);
    world.seen.events.clear();
    world.command(session, map, &ClearV1 {});
    assert_eq!(kinds(&world), [CLEARED]);
    assert_eq!((size(&world, map), world.machine.next_timer()), (0, None));
    put_many(&mut world, session, map, 2_000, SECOND, true);
    let told = world.command(session, 0, &margay::resource::registry::DeleteV1 { resource: map });
    assert_eq!(told.code, Code::OK);
    assert_eq!(world.machine.next_timer(), None);
    // The session owned something there; its end finds nothing to do.
    world.end(kind::CLOSE, session);
    pass(&mut world, SECOND);
}

/// What a session owned and is gone is not looked for at its end: that may be in many resources.
#[test]
fn what_is_gone_leaves_no_trace() {
    let (mut world, session, map) = world();
    let other = world.register(2);
    let links = |world: &World| world.machine.state().links();
    let gone: [fn(&mut World, u64, u64); 4] = [
        |world, _, _| pass(world, SECOND),
        |world, other, map| {
            world.command(other, map, &put("k", 0, false));
        },
        |world, other, map| {
            world.command(other, map, &RemoveV1 { key: b"k".to_vec(), previous: false });
        },
        |world, other, map| {
            world.command(other, map, &ClearV1 {});
        },
    ];
    for gone in gone {
        world.command(session, map, &put("k", SECOND, true));
        assert_eq!(links(&world), 1);
        gone(&mut world, other, map);
        assert_eq!(links(&world), 0);
    }
    world.command(session, map, &put("k", SECOND, true));
    world.command(other, 0, &margay::resource::registry::DeleteV1 { resource: map });
    assert_eq!(links(&world), 0);
}

// ---- against a model ------------------------------------------------------------------------

#[derive(Clone, Debug)]
enum Step {
    Put { who: usize, key: u8, ttl_ms: u64, ephemeral: bool },
    PutIfAbsent { who: usize, key: u8, ttl_ms: u64, ephemeral: bool },
    Remove { who: usize, key: u8 },
    Poll { who: usize, last: bool },
    Clear { who: usize },
    Pass(u64),
    End { who: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let ttl = || prop_oneof![Just(0), 1..6_u64];
    prop_oneof![
        6 => (0..3_usize, 0..6_u8, ttl(), any::<bool>())
            .prop_map(|(who, key, ttl_ms, ephemeral)| Step::Put { who, key, ttl_ms, ephemeral }),
        3 => (0..3_usize, 0..6_u8, ttl(), any::<bool>()).prop_map(
            |(who, key, ttl_ms, ephemeral)| Step::PutIfAbsent { who, key, ttl_ms, ephemeral }
        ),
        2 => (0..3_usize, 0..6_u8).prop_map(|(who, key)| Step::Remove { who, key }),
        1 => (0..3_usize, any::<bool>()).prop_map(|(who, last)| Step::Poll { who, last }),
        1 => (0..3_usize).prop_map(|who| Step::Clear { who }),
        3 => (0..4_u64).prop_map(Step::Pass),
        1 => (0..3_usize).prop_map(|who| Step::End { who }),
    ]
}

/// Until when, and whose.
type Model = BTreeMap<u8, (Option<u64>, Option<u64>)>;

fn play(world: &mut World, model: &mut Model, sessions: &mut [u64; 3], map: u64, step: &Step) {
    let now = world.time;
    let due = |ttl_ms: u64| (ttl_ms > 0).then(|| now + ttl_ms * 1_000);
    match *step {
        Step::Put { who, key, ttl_ms, ephemeral } => {
            let old = model.insert(key, (due(ttl_ms), ephemeral.then_some(sessions[who])));
            let (key, value) = (vec![key], vec![]);
            let put = PutV1 { key, value, previous: true, ephemeral, ttl_ms };
            let told = world.command(sessions[who], map, &put);
            assert_eq!(told.payload != [0; 8], old.is_some());
        }
        Step::PutIfAbsent { who, key, ttl_ms, ephemeral } => {
            let is_free = !model.contains_key(&key);
            if is_free {
                model.insert(key, (due(ttl_ms), ephemeral.then_some(sessions[who])));
            }
            let (key, value) = (vec![key], vec![]);
            let put = PutIfAbsentV1 { key, value, ephemeral, ttl_ms };
            let told = world.command(sessions[who], map, &put);
            assert_eq!(told.payload[0] == 1, is_free);
        }
        Step::Remove { who, key } => {
            let remove = RemoveV1 { key: vec![key], previous: false };
            let told = world.command(sessions[who], map, &remove);
            assert_eq!(told.payload[0] == 1, model.remove(&key).is_some());
        }
        Step::Poll { who, last } => {
            let polled = if last { model.pop_last() } else { model.pop_first() };
            let told = world.command(sessions[who], map, &PollV1 { last });
            assert_eq!(told.payload.get(12).copied(), polled.map(|(key, _)| key));
        }
        Step::Clear { who } => {
            model.clear();
            world.command(sessions[who], map, &ClearV1 {});
        }
        Step::Pass(milliseconds) => {
            pass(world, milliseconds);
            model.retain(|_, (due, _)| due.is_none_or(|due| due > world.time));
        }
        Step::End { who } => {
            let ended = sessions[who];
            world.end(kind::EXPIRE, ended);
            model.retain(|_, (_, owner)| *owner != Some(ended));
            sessions[who] = world.register(100 + who as u8);
        }
    }
}

proptest! {
    #[test]
    fn what_has_ended_is_gone_and_nothing_else(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::new();
        let mut sessions = [1, 2, 3].map(|key| world.register(key));
        let map = world.open(sessions[0], "map", kind::MAP);
        let mut model = Model::new();
        // What a watcher that follows the events believes.
        let mut mirror: BTreeMap<Vec<u8>, ()> = BTreeMap::new();
        let mut told = 0;
        for step in &steps {
            play(&mut world, &mut model, &mut sessions, map, step);
            for (_, event) in &world.seen.events[told..] {
                let key = event.key().map(<[u8]>::to_vec);
                match (event.kind, key) {
                    (PUT, Some(key)) => {
                        let was_there = mirror.insert(key, ()).is_some();
                        prop_assert_eq!(was_there, event.old.is_some());
                    }
                    (REMOVED | EXPIRED | SESSION_ENDED, Some(key)) => {
                        prop_assert!(mirror.remove(&key).is_some(), "told once");
                    }
                    (CLEARED, None) => mirror.clear(),
                    other => prop_assert!(false, "{other:?}"),
                }
            }
            told = world.seen.events.len();
            let keys: Vec<Vec<u8>> = model.keys().map(|key| vec![*key]).collect();
            prop_assert_eq!(mirror.keys().cloned().collect::<Vec<_>>(), keys);
            prop_assert_eq!(size(&world, map), model.len() as u64);
        }
        world.entry(Logged { kind: kind::NOOP, ..Logged::default() });
    }
}
