//! Set and multimap against plain models, and what their handles promise.

use super::handles::Near;
use crate::machine::World;
use margay::machine::bytes::Reader;
use margay::machine::{Code, Event, Filter, kind};
use margay::resource::entries::{CLEARED, EXPIRED, PUT, REMOVED};
use margay::resource::multimap::{self, KEY_REMOVED, MultimapEvent, MultimapRange};
use margay::resource::set::{self, SetEvent, SetRange};
use margay::resource::{Multimap, Set};
use margay_log::id::Micros;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

type Bytes = Vec<u8>;

fn bytes() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(0_u8..3, 0..3)
}

fn some(max: usize) -> impl Strategy<Value = Vec<Bytes>> {
    prop::collection::vec(bytes(), 0..max)
}

fn count(payload: &[u8]) -> u64 {
    Reader::new(payload).u64().expect("a count")
}

// ---- set ------------------------------------------------------------------------------------

fn add(members: Vec<Bytes>, ttl_ms: u64) -> set::AddV1 {
    set::AddV1 { members, ephemeral: false, ttl_ms }
}

/// What a watcher believes after these events.
fn follow(members: &mut BTreeSet<Bytes>, event: &Event) {
    match (event.kind, event.key()) {
        (PUT, Some(member)) => assert!(members.insert(member.to_vec()), "told once"),
        (CLEARED, None) => members.clear(),
        (_, Some(member)) => assert!(members.remove(member), "told once"),
        (kind, None) => panic!("an event {kind} about nothing"),
    }
}

proptest! {
    #[test]
    fn a_set_is_an_ordered_set(
        steps in prop::collection::vec((0..6_u8, some(4), any::<bool>()), 1..60),
        prefix in bytes(),
        limit in 1_u32..5,
    ) {
        let mut world = World::new();
        let session = world.register(1);
        let id = world.open(session, "set", kind::SET);
        let (mut model, mut mirror) = (BTreeSet::new(), BTreeSet::new());
        for (step, members, last) in steps {
            let asked: BTreeSet<Bytes> = members.iter().cloned().collect();
            let told = match step {
                0 | 1 => {
                    let told = world.command(session, id, &add(members, 0));
                    let new = asked.difference(&model).count() as u64;
                    prop_assert_eq!(count(&told.payload), new);
                    model.extend(asked);
                    told
                }
                2 => {
                    let told = world.command(session, id, &set::RemoveV1 { members });
                    let there = asked.intersection(&model).count() as u64;
                    prop_assert_eq!(count(&told.payload), there);
                    model.retain(|member| !asked.contains(member));
                    told
                }
                3 => {
                    let told = world.command(session, id, &set::RetainV1 { members });
                    let gone = model.difference(&asked).count() as u64;
                    prop_assert_eq!(count(&told.payload), gone);
                    model.retain(|member| asked.contains(member));
                    told
                }
                4 => {
                    let told = world.command(session, id, &set::PollV1 { last });
                    let polled = if last { model.pop_last() } else { model.pop_first() };
                    let expected = polled.map_or(vec![0], |member| [&[1], &member[..]].concat());
                    prop_assert_eq!(&told.payload, &expected);
                    told
                }
                _ => {
                    model.clear();
                    world.command(session, id, &set::ClearV1 {})
                }
            };
            prop_assert_eq!(told.code, Code::OK);
            let contains = set::ContainsV1 { members: model.iter().cloned().collect() };
            let there = world.query(session, id, &contains).payload;
            prop_assert_eq!(there, vec![1; model.len()]);
        }
        world.seen.events.iter().for_each(|(_, event)| follow(&mut mirror, event));
        prop_assert_eq!(&mirror, &model);
        prop_assert_eq!(count(&world.query(0, id, &set::SizeV1 {}).payload), model.len() as u64);
        let near = Near::over(world, session);
        let handle = Set::new(near, margay::machine::ResourceId(id));
        let mut range = SetRange { prefix: prefix.clone(), limit, ..SetRange::default() };
        let mut pages = Vec::new();
        loop {
            let page = handle.members(range.clone()).wait().unwrap();
            pages.extend(page.members);
            range.after = page.next;
            if range.after.is_none() {
                break;
            }
        }
        let expected: Vec<_> = model.into_iter().filter(|m| m.starts_with(&prefix)).collect();
        prop_assert_eq!(pages, expected);
    }
}

#[test]
fn members_are_told_apart_by_their_bytes_and_adding_says_whether_they_are_new() {
    let (near, _) = Near::pair();
    let set = Set::open(near, "s").wait().unwrap();
    // One hash in Java: "Aa" and "BB".
    assert!(set.add(b"Aa").wait().unwrap() && set.add(b"BB").wait().unwrap());
    assert!(!set.add(b"Aa").wait().unwrap());
    assert_eq!(set.size().wait().unwrap(), 2);
    assert!(set.remove(b"BB").wait().unwrap() && set.contains(b"Aa").wait().unwrap());
    assert!(!set.contains_all(&["Aa", "BB"]).wait().unwrap());
}

#[test]
fn adding_a_member_again_gives_it_a_new_life() {
    let mut world = World::new();
    let session = world.register(1);
    let id = world.open(session, "set", kind::SET);
    let member = || vec![b"m".to_vec()];
    world.command(session, id, &add(member(), 10));
    world.tick(Micros::from_millis(5));
    world.command(session, id, &add(member(), 10));
    world.tick(Micros::from_millis(5));
    assert_eq!(count(&world.query(0, id, &set::SizeV1 {}).payload), 1);
    world.tick(Micros::from_millis(5));
    assert_eq!(count(&world.query(0, id, &set::SizeV1 {}).payload), 0);
    world.command(session, id, &set::AddV1 { members: member(), ephemeral: true, ttl_ms: 0 });
    world.command(session, id, &add(member(), 0));
    world.end(kind::EXPIRE, session);
    assert_eq!(count(&world.query(0, id, &set::SizeV1 {}).payload), 1, "it was made to last");
    let kinds: Vec<u16> = world.seen.events.iter().map(|(_, event)| event.kind).collect();
    assert_eq!(kinds, [PUT, EXPIRED, PUT]);
}

#[test]
fn a_retain_that_removes_much_is_told_as_a_clear() {
    let (near, _) = Near::pair();
    let set = Set::open(near, "s").wait().unwrap();
    let members: Vec<Bytes> = (0..1_500_u32).map(|n| n.to_be_bytes().to_vec()).collect();
    for part in members.chunks(500) {
        set.add_all(part).wait().unwrap();
    }
    let mut watch = set.watch(None, Filter::All);
    assert_eq!(set.retain(&members[7..9]).wait().unwrap(), 1_498);
    assert_eq!(set.members(SetRange::default()).wait().unwrap().members, members[7..9]);
    assert_eq!(watch.try_next(), Some(Ok(SetEvent::Cleared)));
    assert!(matches!(watch.try_next(), Some(Ok(SetEvent::Added { .. }))));
    assert!(matches!(watch.try_next(), Some(Ok(SetEvent::Added { .. }))));
    assert_eq!(watch.try_next(), None);
    let many = vec![vec![1]; 1_001];
    assert_eq!(set.add_all(&many).wait().unwrap_err().code, Code::TOO_MANY_KEYS);
}

// ---- multimap -------------------------------------------------------------------------------

#[derive(Clone, Debug)]
enum Step {
    Put(Bytes, Bytes),
    Replace(Bytes, Vec<Bytes>),
    Remove(Bytes, Bytes),
    RemoveKey(Bytes),
    RemoveValue(Bytes),
    Clear,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (bytes(), bytes()).prop_map(|(key, value)| Step::Put(key, value)),
        2 => (bytes(), some(4)).prop_map(|(key, values)| Step::Replace(key, values)),
        2 => (bytes(), bytes()).prop_map(|(key, value)| Step::Remove(key, value)),
        1 => bytes().prop_map(Step::RemoveKey),
        1 => bytes().prop_map(Step::RemoveValue),
        1 => Just(Step::Clear),
    ]
}

type Model = BTreeMap<Bytes, BTreeSet<Bytes>>;

fn play(world: &mut World, session: u64, id: u64, model: &mut Model, step: Step) {
    let told = match step {
        Step::Put(key, value) => {
            let is_new = model.entry(key.clone()).or_default().insert(value.clone());
            let told = world.command(session, id, &multimap::PutV1 { key, value });
            assert_eq!(told.payload, [u8::from(is_new)]);
            told
        }
        Step::Replace(key, values) => {
            let before = model.remove(&key).map_or(0, |values| values.len() as u64);
            if !values.is_empty() {
                model.insert(key.clone(), values.iter().cloned().collect());
            }
            let told = world.command(session, id, &multimap::ReplaceV1 { key, values });
            assert_eq!(count(&told.payload), before);
            told
        }
        Step::Remove(key, value) => {
            let was_there = model.get_mut(&key).is_some_and(|values| values.remove(&value));
            let told = world.command(session, id, &multimap::RemoveEntryV1 { key, value });
            assert_eq!(told.payload, [u8::from(was_there)]);
            told
        }
        Step::RemoveKey(key) => {
            let before = model.remove(&key).map_or(0, |values| values.len() as u64);
            let told = world.command(session, id, &multimap::RemoveKeyV1 { key });
            assert_eq!(count(&told.payload), before);
            told
        }
        Step::RemoveValue(value) => {
            let removed = model.values_mut().filter_map(|all| all.take(&value)).count() as u64;
            let remove = multimap::RemoveValueV1 { value, after: None };
            let told = world.command(session, id, &remove);
            assert_eq!(count(&told.payload), removed);
            told
        }
        Step::Clear => {
            model.clear();
            world.command(session, id, &multimap::ClearV1 {})
        }
    };
    assert_eq!(told.code, Code::OK);
    // A key is there as long as it has values.
    model.retain(|_, values| !values.is_empty());
}

/// What a watcher believes after this event.
fn follow_entries(model: &mut Model, event: &Event) {
    let key = event.key().map(<[u8]>::to_vec);
    let value = |pair: &Option<margay::machine::Pair>| {
        pair.as_ref().map(|pair| pair.value().to_vec()).expect("a value")
    };
    match (event.kind, key) {
        (PUT, Some(key)) => assert!(model.entry(key).or_default().insert(value(&event.new))),
        (REMOVED, Some(key)) => {
            let values = model.get_mut(&key).expect("a key");
            assert!(values.remove(&value(&event.old)));
            model.retain(|_, values| !values.is_empty());
        }
        (KEY_REMOVED, Some(key)) => assert!(model.remove(&key).is_some()),
        (CLEARED, None) => model.clear(),
        other => panic!("{other:?}"),
    }
}

proptest! {
    #[test]
    fn a_multimap_is_a_map_of_sets(
        steps in prop::collection::vec(step(), 1..60),
        prefix in bytes(),
        limit in 1_u32..4,
    ) {
        let mut world = World::new();
        let session = world.register(1);
        let id = world.open(session, "multimap", kind::MULTIMAP);
        let (mut model, mut mirror) = (Model::new(), Model::new());
        for step in steps {
            play(&mut world, session, id, &mut model, step);
        }
        world.seen.events.iter().for_each(|(_, event)| follow_entries(&mut mirror, event));
        prop_assert_eq!(&mirror, &model);
        let handle = Multimap::new(Near::over(world, session), margay::machine::ResourceId(id));
        let size = model.values().map(BTreeSet::len).sum::<usize>() as u64;
        prop_assert_eq!(handle.size().wait().unwrap(), size);
        prop_assert_eq!(handle.keys_size().wait().unwrap(), model.len() as u64);
        let mut range = MultimapRange { prefix: prefix.clone(), after: None, limit };
        let mut pages = Model::new();
        loop {
            let page = handle.entries(range.clone()).wait().unwrap();
            range.after = page.entries.last().map(|(key, v)| (key.clone(), v.value.clone()));
            for (key, found) in page.entries {
                prop_assert!(pages.entry(key).or_default().insert(found.value), "pages get on");
            }
            if !page.more {
                break;
            }
        }
        let starts = |key: &Bytes| key.starts_with(&prefix);
        let expected: Model = model.clone().into_iter().filter(|(key, _)| starts(key)).collect();
        prop_assert_eq!(pages, expected);
        for (key, values) in &model {
            prop_assert_eq!(handle.size_of(key).wait().unwrap(), values.len() as u64);
            let (mut got, mut after) = (Vec::new(), None);
            loop {
                let page = handle.get(key, after.as_deref(), limit).wait().unwrap();
                got.extend(page.values.into_iter().map(|found| found.value));
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            prop_assert_eq!(&got.into_iter().collect::<BTreeSet<_>>(), values);
        }
        let is_there = model.values().any(|values| values.contains(&prefix));
        prop_assert_eq!(handle.contains_value(&prefix).wait().unwrap(), is_there);
    }
}

#[test]
fn a_key_without_values_is_not_there() {
    let (near, _) = Near::pair();
    let map = Multimap::open(near, "m").wait().unwrap();
    let mut watch = map.watch(None, Filter::Key(b"k".to_vec()));
    assert!(map.put(b"k", b"1").wait().unwrap() && !map.put(b"k", b"1").wait().unwrap());
    map.put(b"k", b"2").wait().unwrap();
    map.put(b"other", b"2").wait().unwrap();
    assert!(map.contains(b"k", b"1").wait().unwrap());
    assert!(map.remove(b"k", b"1").wait().unwrap() && !map.remove(b"k", b"1").wait().unwrap());
    assert_eq!(map.remove_value(b"2").wait().unwrap(), 2);
    assert!(!map.contains_key(b"k").wait().unwrap());
    assert_eq!(map.keys_size().wait().unwrap(), 0);
    assert_eq!(map.replace(b"k", &["a", "b"]).wait().unwrap(), 0);
    assert_eq!(map.remove_key(b"k").wait().unwrap(), 2);
    assert_eq!(map.remove_key(b"k").wait().unwrap(), 0);
    let mut kinds = String::new();
    while let Some(event) = watch.try_next() {
        kinds.push(match event.unwrap() {
            MultimapEvent::Put { .. } => 'p',
            MultimapEvent::Removed { .. } => 'r',
            MultimapEvent::KeyRemoved { .. } => 'k',
            other => panic!("{other:?}"),
        });
    }
    assert_eq!(kinds, "pprrppk");
}

#[test]
fn a_value_is_removed_from_thousands_of_keys_in_parts() {
    let (near, _) = Near::pair();
    let map = Multimap::open(near, "m").wait().unwrap();
    for n in 0..2_500_u32 {
        map.put(&n.to_be_bytes(), if n % 2 == 0 { b"even" } else { b"odd" }).wait().unwrap();
    }
    assert!(map.contains_value(b"odd").wait().unwrap());
    assert_eq!(map.remove_value(b"even").wait().unwrap(), 1_250);
    assert_eq!(map.size().wait().unwrap(), 1_250);
    assert!(!map.contains_value(b"even").wait().unwrap());
}
