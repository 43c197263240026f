//! Transactions: all or nothing, at one index, against a model and against bad input.

use crate::machine::{Told, World};
use margay::machine::bytes::Reader;
use margay::machine::{Code, StateMachine, kind};
use margay::resource::Registry;
use margay::resource::codec::{Encode, Operation};
use margay::resource::transaction::{CommitV1, EQUAL, GREATER, LESS, NOT_EQUAL, OPERATIONS_MAX};
use margay::resource::{counter, lock, map, value};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Puts a transaction together.
#[derive(Default)]
struct Steps(CommitV1);

impl Steps {
    fn check<O: Encode>(mut self, id: u64, query: &O, relation: u8, expected: &[u8]) -> Steps {
        self.0.check_kinds.push(O::KIND);
        self.0.check_schemas.push(O::SCHEMA);
        self.0.check_resources.push(id);
        self.0.check_payloads.push(query.encode());
        self.0.check_relations.push(relation);
        self.0.check_offsets.push(0);
        self.0.check_to_end.push(false);
        self.0.check_expected.push(expected.to_vec());
        self
    }

    fn then<O: Encode>(mut self, id: u64, command: &O) -> Steps {
        self.0.kinds.push(O::KIND);
        self.0.schemas.push(O::SCHEMA);
        self.0.resources.push(id);
        self.0.payloads.push(command.encode());
        self
    }

    fn admitted(&self) -> Result<(), Code> {
        Registry::check(kind::TRANSACTION, CommitV1::SCHEMA, &self.0.encode())
    }
}

fn put(key: &[u8], value: &[u8]) -> map::PutV1 {
    let (key, value) = (key.to_vec(), value.to_vec());
    map::PutV1 { key, value, previous: false, ephemeral: false, ttl_ms: 0 }
}

fn set(value: &[u8]) -> value::SetV1 {
    value::SetV1 { value: value.to_vec(), ephemeral: false, ttl_ms: 0 }
}

const FAILED: u8 = 0;
const COMMITTED: u8 = 1;
const REFUSED: u8 = 2;

/// How it ended, and the number that goes with it.
fn ended(told: &Told) -> (u8, u32) {
    assert_eq!(told.code, Code::OK, "{told:?}");
    let mut reader = Reader::new(&told.payload);
    (reader.u8().unwrap(), reader.u32().unwrap())
}

struct Bank {
    world: World,
    session: u64,
    ids: [u64; 4],
}

impl Bank {
    /// A value, a counter, a map and a lock.
    fn new() -> Bank {
        let mut world = World::new();
        let session = world.register(1);
        let kinds = [kind::VALUE, kind::COUNTER, kind::MAP, kind::LOCK];
        let ids = kinds.map(|kind| world.open(session, &format!("r{kind}"), kind));
        Bank { world, session, ids }
    }

    fn commit(&mut self, steps: Steps) -> Told {
        self.world.command(self.session, 0, &steps.0)
    }

    fn query<O: Encode>(&mut self, id: u64, query: &O) -> Vec<u8> {
        self.world.query(self.session, id, query).payload
    }

    fn count(&mut self) -> i64 {
        let payload = self.query(self.ids[1], &counter::GetV1 {});
        i64::from_le_bytes(payload.try_into().unwrap())
    }
}

#[test]
fn all_of_it_takes_effect_at_one_index() {
    let mut bank = Bank::new();
    let [value, counter, map, lock] = bank.ids;
    let steps = Steps::default()
        .check(value, &value::GetV1 {}, EQUAL, &[0; 8])
        .then(value, &set(b"new"))
        .then(counter, &counter::AddV1 { delta: 5 })
        .then(map, &put(b"a", b"1"))
        .then(map, &put(b"b", b"2"))
        .then(map, &put(b"a", b"3"))
        .then(lock, &lock::LockV1 { request: 1, wait_ms: None });
    let before = bank.world.seen.events.len();
    let told = bank.commit(steps);
    assert_eq!(ended(&told), (COMMITTED, 6));
    let versioned = |value: &[u8]| [&told.index.to_le_bytes()[..], value].concat();
    assert_eq!(bank.query(value, &value::GetV1 {}), versioned(b"new"));
    assert_eq!(bank.query(map, &map::GetV1 { key: b"a".to_vec() }), versioned(b"3"));
    assert_eq!(bank.query(map, &map::GetV1 { key: b"b".to_vec() }), versioned(b"2"));
    assert_eq!(bank.count(), 5);
    let holder = bank.query(lock, &lock::HolderV1 {});
    assert_eq!(holder[0], 1, "a lock is got in a transaction as well");
    let events = &bank.world.seen.events[before..];
    assert!(events.len() >= 4 && events.iter().all(|(index, _)| *index == told.index));
}

#[test]
fn a_check_that_fails_or_a_command_that_is_refused_undoes_everything() {
    let mut bank = Bank::new();
    let [value, counter, map, lock] = bank.ids;
    bank.world.command(bank.session, value, &set(b"old"));
    let before = (bank.world.seen.events.len(), bank.world.seen.notices.len());
    let all = |steps: Steps| {
        steps
            .then(value, &set(b"new"))
            .then(map, &put(b"a", b"1"))
            .then(lock, &lock::LockV1 { request: 1, wait_ms: None })
            .then(counter, &counter::AddV1 { delta: i64::MAX })
            .then(counter, &counter::AddV1 { delta: 1 })
    };
    let unset = Steps::default().check(value, &value::GetV1 {}, EQUAL, &[0; 8]);
    assert_eq!(ended(&bank.commit(all(unset))), (FAILED, 0));
    let told = bank.commit(all(Steps::default()));
    assert_eq!(ended(&told), (REFUSED, 4), "the last one overflows");
    assert_eq!(told.payload[5..7], Code::OVERFLOW.0.to_le_bytes());
    let gone = Steps::default().then(value, &set(b"new")).then(999, &set(b"new"));
    assert_eq!(ended(&bank.commit(gone)), (REFUSED, 1), "no such resource");
    let other = Steps::default().then(value, &set(b"new")).then(map, &set(b"new"));
    assert_eq!(ended(&bank.commit(other)), (REFUSED, 1), "another type");

    assert_eq!(&bank.query(value, &value::GetV1 {})[8..], b"old");
    assert_eq!(bank.count(), 0);
    assert_eq!(bank.query(map, &map::SizeV1 {}), 0_u64.to_le_bytes());
    assert_eq!(bank.query(lock, &lock::HolderV1 {})[0], 0);
    let after = (bank.world.seen.events.len(), bank.world.seen.notices.len());
    assert_eq!(after, before, "nobody is told of what was undone");
}

#[test]
fn relations_of_checks_mean_what_they_say() {
    let mut bank = Bank::new();
    let counter = bank.ids[1];
    bank.world.command(bank.session, counter, &counter::SetV1 { value: -3 });
    let mut holds = |relation, number: i64| {
        let get = counter::GetV1 {};
        let told =
            bank.commit(Steps::default().check(counter, &get, relation, &number.to_le_bytes()));
        ended(&told).0 == COMMITTED
    };
    for number in [-4, -3, -2, i64::MIN, i64::MAX] {
        assert_eq!(holds(EQUAL, number), -3 == number);
        assert_eq!(holds(NOT_EQUAL, number), -3 != number);
        assert_eq!(holds(LESS, number), -3 < number);
        assert_eq!(holds(GREATER, number), -3 > number);
    }
    for relation in [EQUAL, NOT_EQUAL, LESS, GREATER] {
        let short = Steps::default().check(counter, &counter::GetV1 {}, relation, &[0; 9]);
        assert_eq!(ended(&bank.commit(short)), (FAILED, 0), "longer than the answer");
        let gone = Steps::default().check(999, &counter::GetV1 {}, relation, &[]);
        assert_eq!(ended(&bank.commit(gone)), (FAILED, 0), "a refused query fails the check");
    }
}

#[test]
fn impossible_transactions_are_refused_before_they_are_logged() {
    let bank = Bank::new();
    let [value, _, _, lock] = bank.ids;
    let lock_twice = Steps::default()
        .then(lock, &lock::LockV1 { request: 1, wait_ms: None })
        .then(lock, &lock::LockV1 { request: 2, wait_ms: None });
    assert_eq!(lock_twice.admitted(), Err(Code::DUPLICATE_KEY));
    assert_eq!(Steps::default().admitted(), Err(Code::TOO_MANY_OPERATIONS));
    let many = |count| (0..count).fold(Steps::default(), |steps, _| steps.then(value, &set(b"")));
    assert_eq!(many(OPERATIONS_MAX).admitted(), Ok(()));
    assert_eq!(many(OPERATIONS_MAX + 1).admitted(), Err(Code::TOO_MANY_OPERATIONS));
    let long = map::PutV1 { key: vec![0; 5_000], ..put(b"", b"") };
    assert_eq!(Steps::default().then(1, &long).admitted(), Err(Code::KEY_TOO_LARGE));
    let nested = Steps::default().then(0, &many(1).0);
    assert_eq!(nested.admitted(), Err(Code::BAD_KIND));
    let delete = margay::resource::registry::DeleteV1 { resource: value };
    assert_eq!(Steps::default().then(0, &delete).admitted(), Err(Code::BAD_KIND));

    let uneven: [fn(&mut CommitV1); 4] = [
        |commit| commit.schemas.truncate(1),
        |commit| commit.check_offsets.push(0),
        |commit| commit.check_relations = vec![GREATER + 1],
        |commit| commit.payloads.push(vec![]),
    ];
    for spoil in uneven {
        let mut steps = many(2).check(value, &value::GetV1 {}, EQUAL, &[]);
        spoil(&mut steps.0);
        assert_eq!(steps.admitted(), Err(Code::BAD_PAYLOAD));
    }
}

/// What is done to a map and a counter.
#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8),
    Remove(u8),
    Add(i64),
    /// Overflows or underflows.
    Break(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_u8..4, any::<u8>()).prop_map(|(key, value)| Step::Put(key, value)),
        2 => (0_u8..4).prop_map(Step::Remove),
        3 => (-5_i64..5).prop_map(Step::Add),
        1 => any::<bool>().prop_map(Step::Break),
    ]
}

proptest! {
    #[test]
    fn transactions_do_as_a_model_does(
        all in prop::collection::vec(
            (prop::option::of((0_u8..4, any::<bool>())), prop::collection::vec(step(), 1..5)),
            1..20,
        ),
    ) {
        let mut bank = Bank::new();
        let [_, counter, map, _] = bank.ids;
        let (mut entries, mut count) = (BTreeMap::<u8, u8>::new(), 0_i64);
        for (check, steps) in all {
            let mut commit = Steps::default();
            let mut holds = true;
            if let Some((key, present)) = check {
                let relation = if present { NOT_EQUAL } else { EQUAL };
                commit = commit.check(map, &map::GetV1 { key: vec![key] }, relation, &[0; 8]);
                holds = entries.contains_key(&key) == present;
            }
            let (mut then, mut sum, mut broken) = (entries.clone(), count, false);
            for step in &steps {
                commit = match *step {
                    Step::Put(key, value) => {
                        then.insert(key, value);
                        commit.then(map, &put(&[key], &[value]))
                    }
                    Step::Remove(key) => {
                        then.remove(&key);
                        commit.then(map, &map::RemoveV1 { key: vec![key], previous: false })
                    }
                    Step::Add(delta) => {
                        sum += delta;
                        commit.then(counter, &counter::AddV1 { delta })
                    }
                    Step::Break(up) => {
                        broken = true;
                        let delta = if up { i64::MAX } else { i64::MIN };
                        let twice = commit.then(counter, &counter::AddV1 { delta });
                        let twice = twice.then(counter, &counter::AddV1 { delta });
                        twice.then(counter, &counter::AddV1 { delta })
                    }
                };
            }
            let expected = match (holds, broken) {
                (false, _) => FAILED,
                (true, true) => REFUSED,
                (true, false) => COMMITTED,
            };
            prop_assert_eq!(ended(&bank.commit(commit)).0, expected);
            if expected == COMMITTED {
                (entries, count) = (then, sum);
            }
            prop_assert_eq!(bank.count(), count);
            for key in 0..4 {
                let found = bank.query(map, &map::GetV1 { key: vec![key] });
                prop_assert_eq!(found.get(8), entries.get(&key));
            }
        }
    }
}
