//! Value, counter and map against the plainest model there is.

use crate::machine::{Told, World};
use margay::machine::bytes::Reader;
use margay::machine::{Code, Event, kind};
use margay::resource::{counter, entries, map, value};
use proptest::prelude::*;
use std::collections::BTreeMap;

type Bytes = Vec<u8>;
type Found = Option<(Bytes, u64)>;

/// A version, 0 for none, and the value.
fn found(payload: &[u8]) -> Found {
    let mut reader = Reader::new(payload);
    let version = reader.u64().expect("a version");
    let value = reader.rest().to_vec();
    if version == 0 {
        assert!(value.is_empty());
        return None;
    }
    Some((value, version))
}

/// Done, or what was there instead.
fn swapped(payload: &[u8]) -> Result<(), Found> {
    match payload {
        [1] => Ok(()),
        [0, rest @ ..] => Err(found(rest)),
        _ => panic!("not the answer of a conditional operation: {payload:?}"),
    }
}

fn bytes() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(0_u8..3, 0..3)
}

/// What a step should have told: the event's kind, key, new and old value.
type Change = (u16, Option<Bytes>, Option<Bytes>, Option<Bytes>);

fn change(event: &Event) -> Change {
    let key = event.key().map(<[u8]>::to_vec);
    let new = event.new.as_ref().map(|pair| pair.value().to_vec());
    let old = event.old.as_ref().map(|pair| pair.value().to_vec());
    (event.kind, key, new, old)
}

#[derive(Clone, Debug)]
enum MapStep {
    Put(Bytes, Bytes, bool),
    PutIfAbsent(Bytes, Bytes),
    Remove(Bytes, bool),
    RemoveIf(Bytes, Option<Bytes>, bool),
    Replace(Bytes, Bytes),
    ReplaceIf(Bytes, Option<Bytes>, bool, Bytes),
    Clear,
}

fn map_step() -> impl Strategy<Value = MapStep> {
    use MapStep::*;
    let maybe = || prop::option::of(bytes());
    let flag = any::<bool>;
    prop_oneof![
        4 => (bytes(), bytes(), flag())
            .prop_map(|(key, value, previous)| Put(key, value, previous)),
        2 => (bytes(), bytes()).prop_map(|(key, value)| PutIfAbsent(key, value)),
        2 => (bytes(), flag()).prop_map(|(key, previous)| Remove(key, previous)),
        2 => (bytes(), maybe(), flag()).prop_map(|(key, old, right)| RemoveIf(key, old, right)),
        2 => (bytes(), bytes()).prop_map(|(key, value)| Replace(key, value)),
        2 => (bytes(), maybe(), flag(), bytes())
            .prop_map(|(key, old, right, value)| ReplaceIf(key, old, right, value)),
        1 => Just(Clear),
    ]
}

#[derive(Default)]
struct MapModel {
    entries: BTreeMap<Bytes, (Bytes, u64)>,
    changes: Vec<Change>,
}

impl MapModel {
    fn put(&mut self, key: &Bytes, value: &Bytes, version: u64) -> Found {
        let old = self.entries.insert(key.clone(), (value.clone(), version));
        let before = old.as_ref().map(|(value, _)| value.clone());
        self.changes.push((entries::PUT, Some(key.clone()), Some(value.clone()), before));
        old
    }

    fn remove(&mut self, key: &Bytes) -> Found {
        let old = self.entries.remove(key)?;
        self.changes.push((entries::REMOVED, Some(key.clone()), None, Some(old.0.clone())));
        Some(old)
    }

    fn clear(&mut self) {
        if !self.entries.is_empty() {
            self.entries.clear();
            self.changes.push((entries::CLEARED, None, None, None));
        }
    }

    fn meets(&self, key: &Bytes, expected: &Option<Bytes>, version: u64) -> Result<(), Found> {
        match self.entries.get(key) {
            Some((value, has))
                if expected.as_ref().is_none_or(|expected| expected == value)
                    && (version == 0 || version == *has) =>
            {
                Ok(())
            }
            other => Err(other.cloned()),
        }
    }
}

fn map_play(world: &mut World, session: u64, id: u64, model: &mut MapModel, step: &MapStep) {
    // A right version is that of the entry now; a wrong one nothing has ever had.
    let version = |model: &MapModel, key: &Bytes, right: bool| match model.entries.get(key) {
        Some((_, version)) if right => *version,
        _ => u64::MAX,
    };
    let told: Told;
    match step.clone() {
        MapStep::Put(key, value, previous) => {
            let (put_key, put_value) = (key.clone(), value.clone());
            let put = map::PutV1 {
                key: put_key,
                value: put_value,
                previous,
                ephemeral: false,
                ttl_ms: 0,
            };
            told = world.command(session, id, &put);
            let old = model.put(&key, &value, told.index);
            match previous {
                true => assert_eq!(found(&told.payload), old),
                false => assert!(told.payload.is_empty()),
            }
        }
        MapStep::PutIfAbsent(key, value) => {
            told = map_play_put_if_absent(world, (session, id), model, key, value);
        }
        MapStep::Remove(key, previous) => {
            told = world.command(session, id, &map::RemoveV1 { key: key.clone(), previous });
            let old = model.remove(&key);
            assert_eq!(told.payload[0] == 1, old.is_some());
            assert_eq!(told.payload.len() > 1, previous);
            assert!(!previous || found(&told.payload[1..]) == old);
        }
        MapStep::RemoveIf(key, expected, right) => {
            let version = if right && expected.is_some() { 0 } else { version(model, &key, right) };
            told = map_play_remove_if(world, (session, id), model, (key, expected, version));
        }
        MapStep::Replace(key, value) => {
            let (put_key, put_value) = (key.clone(), value.clone());
            let replace =
                map::ReplaceV1 { key: put_key, value: put_value, ephemeral: false, ttl_ms: 0 };
            told = world.command(session, id, &replace);
            let old = model.entries.get(&key).cloned();
            assert_eq!(found(&told.payload), old);
            if old.is_some() {
                model.put(&key, &value, told.index);
            }
        }
        MapStep::ReplaceIf(key, expected, right, value) => {
            let version = if right && expected.is_some() { 0 } else { version(model, &key, right) };
            let condition = (key, expected, version);
            told = map_play_replace_if(world, (session, id), model, condition, value);
        }
        MapStep::Clear => {
            told = world.command(session, id, &map::ClearV1 {});
            model.clear();
        }
    }
    assert_eq!(told.code, Code::OK);
}

/// What must be there: a key, its value if that counts, its version (0: any).
type Condition = (Bytes, Option<Bytes>, u64);

fn map_play_put_if_absent(
    world: &mut World,
    (session, id): (u64, u64),
    model: &mut MapModel,
    key: Bytes,
    value: Bytes,
) -> Told {
    let put =
        map::PutIfAbsentV1 { key: key.clone(), value: value.clone(), ephemeral: false, ttl_ms: 0 };
    let told = world.command(session, id, &put);
    let there = model.entries.get(&key).cloned();
    let expected = there.clone().map_or(Ok(()), |found| Err(Some(found)));
    assert_eq!(swapped(&told.payload), expected);
    if there.is_none() {
        model.put(&key, &value, told.index);
    }
    told
}

fn map_play_remove_if(
    world: &mut World,
    (session, id): (u64, u64),
    model: &mut MapModel,
    (key, expected, version): Condition,
) -> Told {
    let remove = map::RemoveIfV1 { key: key.clone(), expected: expected.clone(), version };
    let told = world.command(session, id, &remove);
    let meets = model.meets(&key, &expected, version);
    assert_eq!(swapped(&told.payload), meets);
    if meets.is_ok() {
        model.remove(&key);
    }
    told
}

fn map_play_replace_if(
    world: &mut World,
    (session, id): (u64, u64),
    model: &mut MapModel,
    (key, expected, version): Condition,
    value: Bytes,
) -> Told {
    let replace = map::ReplaceIfV1 {
        key: key.clone(),
        expected: expected.clone(),
        version,
        value: value.clone(),
        ephemeral: false,
        ttl_ms: 0,
    };
    let told = world.command(session, id, &replace);
    let meets = model.meets(&key, &expected, version);
    assert_eq!(swapped(&told.payload), meets);
    if meets.is_ok() {
        model.put(&key, &value, told.index);
    }
    told
}

fn page(values: bool) -> map::PageV1 {
    let (prefix, limit, descending) = (vec![], 0, false);
    map::PageV1 { prefix, from: None, to: None, after: None, limit, descending, values }
}

/// All entries, page by page.
fn pages(world: &World, id: u64, prefix: &Bytes, limit: u32) -> Vec<(Bytes, Found)> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = map::PageV1 { prefix: prefix.clone(), after, limit, ..page(true) };
        let told = world.query(0, id, &page);
        let mut reader = Reader::new(&told.payload);
        let next = reader.optional().unwrap().map(<[u8]>::to_vec);
        let count = reader.u32().unwrap();
        assert!(count <= limit && (next.is_none() || count > 0));
        for _ in 0..count {
            let key = reader.bytes().unwrap().to_vec();
            assert!(all.last().is_none_or(|(last, _)| *last < key), "pages get on");
            let version = reader.u64().unwrap();
            let value = reader.optional().unwrap().expect("asked for").to_vec();
            all.push((key, Some((value, version))));
        }
        reader.end().unwrap();
        if next.is_none() {
            return all;
        }
        assert_eq!(next.as_ref(), all.last().map(|(key, _)| key));
        after = next;
    }
}

proptest! {
    #[test]
    fn a_map_is_an_ordered_map(
        steps in prop::collection::vec(map_step(), 1..80),
        prefix in bytes(),
        limit in 1_u32..5,
    ) {
        let mut world = World::new();
        let session = world.register(1);
        let id = world.open(session, "map", kind::MAP);
        let mut model = MapModel::default();
        for step in &steps {
            map_play(&mut world, session, id, &mut model, step);
        }
        let told: Vec<Change> = world.seen.events.iter().map(|(_, event)| change(event)).collect();
        prop_assert_eq!(told, model.changes);
        let size = world.query(session, id, &map::SizeV1 {}).payload;
        prop_assert_eq!(size, (model.entries.len() as u64).to_le_bytes());
        let expected: Vec<_> = model
            .entries
            .iter()
            .filter(|(key, _)| key.starts_with(&prefix))
            .map(|(key, found)| (key.clone(), Some(found.clone())))
            .collect();
        prop_assert_eq!(pages(&world, id, &prefix, limit), expected);
        for key in model.entries.keys().chain([&prefix]) {
            let got = found(&world.query(session, id, &map::GetV1 { key: key.clone() }).payload);
            prop_assert_eq!(&got, &model.entries.get(key).cloned());
            let contains = world.query(session, id, &map::ContainsV1 { key: key.clone() }).payload;
            prop_assert_eq!(contains, got.map_or(0, |(_, version)| version).to_le_bytes());
        }
    }

    #[test]
    fn a_value_is_an_option(
        steps in prop::collection::vec((0..5_u8, bytes(), any::<bool>()), 1..60),
    ) {
        let mut world = World::new();
        let session = world.register(1);
        let id = world.open(session, "value", kind::VALUE);
        let mut model: Found = None;
        let mut changes: Vec<Change> = Vec::new();
        for (step, bytes, right) in steps {
            let held = model.clone();
            let old = held.clone().map(|(old, _)| old);
            let version = held.as_ref().map_or(0, |(_, version)| *version);
            let (value, ephemeral, ttl_ms) = (bytes.clone(), false, 0);
            let (told, done) = match step {
                0 => {
                    let set = value::SetV1 { value, ephemeral, ttl_ms };
                    (world.command(session, id, &set), true)
                }
                1 => {
                    let set = value::GetAndSetV1 { value, ephemeral, ttl_ms };
                    let told = world.command(session, id, &set);
                    prop_assert_eq!(found(&told.payload), held);
                    (told, true)
                }
                2 => {
                    let expected = if right { old.clone() } else { Some(bytes.clone()) };
                    let done = expected == old;
                    let swap = value::CompareAndSetV1 { expected, value, ephemeral, ttl_ms };
                    let told = world.command(session, id, &swap);
                    prop_assert_eq!(swapped(&told.payload), if done { Ok(()) } else { Err(held) });
                    (told, done)
                }
                3 => {
                    let version = if right { version } else { version + 1 };
                    let swap = value::CompareVersionV1 { version, value, ephemeral, ttl_ms };
                    let told = world.command(session, id, &swap);
                    prop_assert_eq!(swapped(&told.payload), if right { Ok(()) } else { Err(held) });
                    (told, right)
                }
                _ => {
                    let told = world.command(session, id, &value::DeleteV1 {});
                    prop_assert_eq!(&told.payload[..], [u8::from(old.is_some())]);
                    if old.is_some() {
                        changes.push((entries::REMOVED, Some(vec![]), None, old.clone()));
                    }
                    model = None;
                    (told, false)
                }
            };
            prop_assert_eq!(told.code, Code::OK);
            if done {
                changes.push((entries::PUT, Some(vec![]), Some(bytes.clone()), old));
                model = Some((bytes, told.index));
            }
            let got = world.query(session, id, &value::GetV1 {}).payload;
            prop_assert_eq!(found(&got), model.clone());
        }
        let told: Vec<Change> = world.seen.events.iter().map(|(_, event)| change(event)).collect();
        prop_assert_eq!(told, changes);
    }

    #[test]
    fn a_counter_is_an_i64_that_refuses_to_overflow(
        steps in prop::collection::vec((0..3_u8, edge(), edge()), 1..60),
    ) {
        let mut world = World::new();
        let session = world.register(1);
        let id = world.open(session, "counter", kind::COUNTER);
        let mut model = 0_i64;
        let both = |old: i64, new: i64| [old.to_le_bytes(), new.to_le_bytes()].concat();
        for (step, one, other) in steps {
            match step {
                0 => {
                    let told = world.command(session, id, &counter::SetV1 { value: one });
                    prop_assert_eq!(told.payload, both(model, one));
                    model = one;
                }
                1 => {
                    let told = world.command(session, id, &counter::AddV1 { delta: one });
                    match model.checked_add(one) {
                        Some(new) => {
                            prop_assert_eq!(told.payload, both(model, new));
                            model = new;
                        }
                        None => prop_assert_eq!(told.code, Code::OVERFLOW),
                    }
                }
                _ => {
                    let swap = counter::CompareAndSetV1 { expected: one, value: other };
                    let told = world.command(session, id, &swap);
                    prop_assert_eq!(told.payload[0] == 1, model == one);
                    prop_assert_eq!(&told.payload[1..], model.to_le_bytes());
                    if model == one {
                        model = other;
                    }
                }
            }
            let got = world.query(session, id, &counter::GetV1 {}).payload;
            prop_assert_eq!(got, model.to_le_bytes());
        }
    }
}

fn edge() -> impl Strategy<Value = i64> {
    prop_oneof![-2..3_i64, Just(i64::MAX), Just(i64::MIN), Just(i64::MAX - 1), any::<i64>()]
}

#[test]
fn a_page_is_bounded_in_bytes_and_always_gets_on() {
    let mut world = World::new();
    let session = world.register(1);
    let id = world.open(session, "map", kind::MAP);
    for n in 0..4_u8 {
        let value = vec![n; 700 << 10];
        world.command(
            session,
            id,
            &map::PutV1 { key: vec![n], value, previous: false, ephemeral: false, ttl_ms: 0 },
        );
    }
    let first = world.query(session, id, &page(true)).payload;
    assert_eq!(first[..9], [2, 0, 0, 0, 0, 1, 0, 0, 0], "to go on after key 0; one item");
    assert_eq!(pages(&world, id, &vec![], 1_000).len(), 4);
    assert_eq!(world.query(session, id, &page(false)).payload[..8], [0, 0, 0, 0, 4, 0, 0, 0]);
}
