//! Events: numbered, kept within bounds, resumed without gap or duplicate.

use super::handles::Near;
use crate::machine::{World, chunks, restore};
use margay::machine::{Event, EventPayload, Events, Filter, ResourceId, kind};
use margay::resource::map::{ClearV1, MapEvent, PutV1, RemoveV1};
use margay::resource::multimap::MultimapEvent;
use margay::resource::set::{AddV1, SetEvent};
use margay::resource::tree::TreeEvent;
use margay::resource::typed::{Change, MapOf, MultimapEventOf, MultimapOf, TreeEventOf, TreeOf};
use margay::resource::value::ValueEvent;
use margay::resource::{Map, Multimap, Set, Tree, Value, Watch};
use margay_log::id::Index;

fn put(key: &[u8], size: usize) -> PutV1 {
    PutV1 { key: key.to_vec(), value: vec![7; size], previous: false, ephemeral: false, ttl_ms: 0 }
}

fn after(world: &World, id: u64, after: (u64, u32), filter: &Filter) -> Events {
    let mut bytes = Vec::new();
    filter.encode(&mut bytes);
    assert_eq!(Filter::decode(&bytes).as_ref(), Ok(filter));
    world.machine.events(ResourceId(id), (Index(after.0), after.1), &bytes)
}

fn some(events: Events) -> Vec<(Index, Event)> {
    match events {
        Events::Some(events) => events,
        Events::Lagged { oldest } => panic!("lagged behind {oldest}"),
        Events::Gone => panic!("no such resource"),
    }
}

#[test]
fn a_subscription_resumes_where_it_was() {
    let mut world = World::new();
    let session = world.register(1);
    let id = world.open(session, "map", kind::MAP);
    let other = world.open(session, "other", kind::MAP);
    for n in 0..20_u8 {
        world.command(session, id, &put(&[n], 3));
        world.command(session, other, &put(&[n], 3));
    }
    let live: Vec<(Index, Event)> = world
        .seen
        .events
        .iter()
        .filter(|(_, event)| event.resource.0 == id)
        .map(|(index, event)| (Index(*index), event.clone()))
        .collect();
    assert_eq!(some(after(&world, id, (0, 0), &Filter::All)), live);
    for (seen, (index, event)) in live.iter().enumerate() {
        let rest = some(after(&world, id, (index.0, event.ordinal), &Filter::All));
        assert_eq!(rest, live[seen + 1..]);
    }
}

#[test]
fn filters_choose_by_key_and_everybody_hears_of_a_clear() {
    let mut world = World::new();
    let session = world.register(1);
    let id = world.open(session, "map", kind::MAP);
    for key in ["a", "ab", "b"] {
        world.command(session, id, &put(key.as_bytes(), 1));
    }
    world.command(session, id, &RemoveV1 { key: b"a".to_vec(), previous: false });
    world.command(session, id, &ClearV1 {});
    let keys = |filter: Filter| -> Vec<(u16, Option<Vec<u8>>)> {
        let events = some(after(&world, id, (0, 0), &filter));
        events.iter().map(|(_, e)| (e.kind, e.key().map(<[u8]>::to_vec))).collect()
    };
    let (a, ab) = (Some(b"a".to_vec()), Some(b"ab".to_vec()));
    assert_eq!(keys(Filter::Key(b"a".to_vec())), [(1, a.clone()), (2, a.clone()), (3, None)]);
    let prefix = keys(Filter::Prefix(b"a".to_vec()));
    assert_eq!(prefix, [(1, a.clone()), (1, ab), (2, a), (3, None)]);
    assert_eq!(keys(Filter::Key(b"x".to_vec())), [(3, None)]);
    assert_eq!(keys(Filter::All).len(), 5);
    assert!(Filter::decode(&[3]).is_err() && Filter::decode(&[1; 5_000]).is_err());
}

#[test]
fn the_ring_is_bounded_in_number() {
    let mut world = World::new();
    let session = world.register(1);
    let id = world.open(session, "map", kind::MAP);
    let first = world.command(session, id, &put(b"k", 1)).index;
    for _ in 0..1_024 {
        world.command(session, id, &put(b"k", 1));
    }
    assert_eq!(some(after(&world, id, (first, 0), &Filter::All)).len(), 1_024);
    let oldest = Index(first + 1);
    assert_eq!(after(&world, id, (first - 1, 0), &Filter::All), Events::Lagged { oldest });
}

#[test]
fn the_ring_is_bounded_in_bytes() {
    let mut world = World::new();
    let session = world.register(1);
    let id = world.open(session, "map", kind::MAP);
    let mut last = 0;
    for n in 0..10_u8 {
        last = world.command(session, id, &put(&[n], 300 << 10)).index;
    }
    assert_eq!(some(after(&world, id, (last - 3, 0), &Filter::All)).len(), 3);
    assert!(matches!(after(&world, id, (last - 4, 0), &Filter::All), Events::Lagged { .. }));
    // An event that does not fit at all is told, but not kept.
    last = world.command(session, id, &put(b"big", 1 << 20)).index;
    assert_eq!(world.seen.events.last().unwrap().0, last);
    assert!(matches!(after(&world, id, (last - 1, 0), &Filter::All), Events::Lagged { .. }));
    assert_eq!(some(after(&world, id, (last, 0), &Filter::All)), []);
}

/// A connection can break in the middle of what one entry has told, and of that more can be gone
/// than has come: who goes on there has missed something, and is told so.
#[test]
fn an_entry_of_which_some_is_gone_is_gone() {
    let mut world = World::new();
    let session = world.register(1);
    let id = world.open(session, "set", kind::SET);
    let member = |n: u16| [&n.to_be_bytes()[..], &[7; 4_000]].concat();
    let mut add =
        |members| world.command(session, id, &AddV1 { members, ephemeral: false, ttl_ms: 0 }).index;
    let index = add((0..300).map(member).collect());
    let next = add(vec![b"one more".to_vec()]);
    for heard in [(index - 1, u32::MAX), (index, 0), (index, 1)] {
        let missed = Events::Lagged { oldest: Index(next) };
        assert_eq!(after(&world, id, heard, &Filter::All), missed, "{heard:?}");
    }
    assert_eq!(some(after(&world, id, (next - 1, u32::MAX), &Filter::All)).len(), 1);
    let heard = (index, 290);
    assert_eq!(some(after(&world, id, heard, &Filter::All)).len(), 10, "they are all kept");
}

#[test]
fn a_restored_ring_knows_what_it_has_lost() {
    let mut world = World::new();
    let session = world.register(1);
    let id = world.open(session, "map", kind::MAP);
    for _ in 0..1_030 {
        world.command(session, id, &put(b"k", 1));
    }
    let restored = restore(&chunks(&world.machine, 1_000)).expect("what we wrote");
    let last = world.machine.applied().0;
    for back in [0, 1, 1_023, 1_024, 1_025, last] {
        let position = (Index(last - back), 0);
        let expected = world.machine.events(ResourceId(id), position, &[]);
        assert_eq!(restored.events(ResourceId(id), position, &[]), expected);
        assert_eq!(matches!(expected, Events::Lagged { .. }), back > 1_024);
    }
}

#[test]
fn an_event_travels_whole() {
    let mut world = World::new();
    let session = world.register(1);
    let id = world.open(session, "map", kind::MAP);
    world.command(session, id, &put(b"k", 0));
    world.command(session, id, &put(b"k", 2));
    let (_, event) = world.seen.events.last().unwrap();
    let payload = EventPayload::decode(&event.payload()).expect("what we wrote");
    let expected =
        EventPayload { key: Some(b"k".to_vec()), new: Some(vec![7, 7]), old: Some(vec![]) };
    assert_eq!(payload, expected);
    for cut in 0..event.payload().len() {
        assert!(EventPayload::decode(&event.payload()[..cut]).is_err());
    }
}

/// What the first event that is still kept, and the one before it, say about where they are.
fn goes_on<E>(mut watch: Watch<E>, position: impl Fn(E) -> (bool, Index)) -> bool {
    let mut next = || position(watch.try_next().expect("it is there").expect("it can be read"));
    let ((lagged, oldest), (again, first)) = (next(), next());
    lagged && !again && oldest == first
}

#[test]
fn every_watch_says_from_where_it_goes_on() {
    let (near, _) = Near::pair();
    let value = Value::open(near.clone(), "value").wait().unwrap();
    let map = Map::open(near.clone(), "map").wait().unwrap();
    let set = Set::open(near.clone(), "set").wait().unwrap();
    let multimap = Multimap::open(near.clone(), "multimap").wait().unwrap();
    let tree = Tree::open(near, "tree").wait().unwrap();
    for n in 0..1_100_u16 {
        let key = n.to_be_bytes();
        value.set(&key).wait().unwrap();
        map.put(&key, &key).wait().unwrap();
        set.add(&key).wait().unwrap();
        multimap.put(&key, &key).wait().unwrap();
        tree.create(&format!("/{n}"), &key).wait().unwrap();
    }
    let (begin, all) = (Some((Index(1), u32::MAX)), || Filter::All);
    assert!(goes_on(value.watch(begin), |event| match event {
        ValueEvent::Lagged { oldest } => (true, oldest),
        ValueEvent::Changed { new, .. } => (false, new.version),
        other => panic!("{other:?}"),
    }));
    assert!(goes_on(map.watch(begin, all()), |event| match event {
        MapEvent::Lagged { oldest } => (true, oldest),
        MapEvent::Put { value, .. } => (false, value.version),
        other => panic!("{other:?}"),
    }));
    assert!(goes_on(MapOf::<u16, u16, _>::new(map).watch(begin), |event| match event {
        Change::Lagged { oldest } => (true, oldest),
        Change::Put { version, .. } => (false, version),
        other => panic!("{other:?}"),
    }));
    assert!(goes_on(set.watch(begin, all()), |event| match event {
        SetEvent::Lagged { oldest } => (true, oldest),
        SetEvent::Added { version, .. } => (false, version),
        other => panic!("{other:?}"),
    }));
    assert!(goes_on(multimap.watch(begin, all()), |event| match event {
        MultimapEvent::Lagged { oldest } => (true, oldest),
        MultimapEvent::Put { value, .. } => (false, value.version),
        other => panic!("{other:?}"),
    }));
    let multimap = MultimapOf::<u16, u16, _>::new(multimap);
    assert!(goes_on(multimap.watch(begin), |event| match event {
        MultimapEventOf::Lagged { oldest } => (true, oldest),
        MultimapEventOf::Put { version, .. } => (false, version),
        other => panic!("{other:?}"),
    }));
    assert!(goes_on(tree.watch_below("/", begin).unwrap(), |event| match event {
        TreeEvent::Lagged { oldest } => (true, oldest),
        TreeEvent::Created { data, .. } => (false, data.version),
        other => panic!("{other:?}"),
    }));
    let tree = TreeOf::<u16, _>::new(tree);
    assert!(goes_on(tree.watch_below("/", begin).unwrap(), |event| match event {
        TreeEventOf::Lagged { oldest } => (true, oldest),
        TreeEventOf::Created { data, .. } => (false, data.version),
        other => panic!("{other:?}"),
    }));
}
