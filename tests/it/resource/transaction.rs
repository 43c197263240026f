//! Transactions: all or nothing, at one index, against a model and against bad input.

use super::handles::Near;
use crate::machine::{Told, World, chunks, restore};
use margay::machine::bytes::Reader;
use margay::machine::{Code, StateMachine, kind};
use margay::resource::codec::{Encode, Operation};
use margay::resource::transaction::{
    CommitV1, EQUAL, GREATER, LESS, LONG_MAX, NOT_EQUAL, OPERATIONS_MAX, Outcome, TOLD_MAX,
};
use margay::resource::{
    Counter, Election, Lock, Log, Multimap, Queue, Registry, Set, Swap, Transaction, Tree, Value,
};
use margay::resource::{counter, lock, log, map, multimap, queue, set, tree, value};
use margay_log::id::Index;
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
fn what_would_look_at_too_much_or_tell_too_much_is_refused() {
    let get = multimap::GetV1 { key: b"k".to_vec(), after: None, limit: 0 };
    let read = log::ReadV1 { from: 1, limit: 0 };
    let looks = |count| {
        let half = (0..count / 2).fold(Steps::default(), |all, _| all.check(1, &get, EQUAL, &[]));
        (count / 2..count).fold(half, |all, _| all.check(2, &read, EQUAL, &[]))
    };
    assert_eq!(looks(LONG_MAX).admitted(), Ok(()));
    assert_eq!(looks(LONG_MAX + 1).admitted(), Err(Code::TOO_MANY_OPERATIONS));

    let mut world = World::new();
    let session = world.register(1);
    let sets: Vec<u64> =
        (0..=5).map(|n| world.open(session, &format!("set{n}"), kind::SET)).collect();
    let member = |n: usize| n.to_be_bytes().to_vec();
    let add = |count| set::AddV1 {
        members: (0..count).map(member).collect(),
        ephemeral: false,
        ttl_ms: 0,
    };
    let adds = |last| {
        let full = sets[..4].iter().fold(Steps::default(), |all, set| all.then(*set, &add(1_000)));
        full.then(sets[4], &add(last)).0
    };
    let (before, events) = (state(&world), world.seen.events.len());
    let told = world.command(session, 0, &adds(TOLD_MAX - 4_000 + 1));
    assert_eq!(ended(&told), (REFUSED, 4));
    assert_eq!(told.payload[5..7], Code::TOO_MANY_OPERATIONS.0.to_le_bytes());
    assert!(state(&world) == before && world.seen.events.len() == events, "nothing has changed");
    let told = world.command(session, 0, &adds(TOLD_MAX - 4_000));
    assert_eq!(ended(&told), (COMMITTED, 5));
    assert_eq!(world.seen.events.len(), events + TOLD_MAX);
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

/// All that a snapshot holds but the sessions, whose cached replies differ.
fn state(world: &World) -> Vec<Vec<u8>> {
    chunks(&world.machine, 200).into_iter().filter(|chunk| chunk[0] == STATE_CHUNK).collect()
}

/// First byte of the chunks that hold resources.
const STATE_CHUNK: u8 = 3;

#[test]
fn collections_take_several_steps_at_one_index_or_none() {
    let mut world = World::new();
    let session = world.register(1);
    let kinds = [kind::MULTIMAP, kind::SET, kind::QUEUE, kind::TREE, kind::LOG];
    let [multimap, set, queue, tree, log] =
        kinds.map(|kind| world.open(session, &format!("r{kind}"), kind));
    let node = |path: &[u8], sequential| {
        let (path, data) = (path.to_vec(), b"data".to_vec());
        tree::CreateV1 { path, data, ephemeral: false, sequential, parents: false }
    };
    let add = |member: &[u8], ttl_ms| set::AddV1 {
        members: vec![member.to_vec()],
        ephemeral: true,
        ttl_ms,
    };
    let put = |value: &[u8]| multimap::PutV1 { key: b"k".to_vec(), value: value.to_vec() };
    let append = |record: &[u8]| log::AppendV1 { records: vec![record.to_vec()], position: 0 };
    let steps = || {
        Steps::default()
            .then(multimap, &put(b"1"))
            .then(multimap, &put(b"2"))
            .then(multimap, &multimap::RemoveEntryV1 { key: b"k".to_vec(), value: b"1".to_vec() })
            .then(set, &add(b"a", 5))
            .then(set, &add(b"a", 9))
            .then(set, &add(b"b", 0))
            .then(set, &set::RemoveV1 { members: vec![b"b".to_vec()] })
            .then(queue, &queue::OfferV1 { value: b"task".to_vec(), delay_ms: 0 })
            .then(tree, &node(b"/a", false))
            .then(tree, &node(b"/a/n", true))
            .then(tree, &node(b"/a/n", true))
            .then(log, &append(b"one"))
            .then(log, &append(b"two"))
    };
    let before = state(&world);
    let (events, notices) = (world.seen.events.len(), world.seen.notices.len());
    let undone = steps().then(tree, &tree::DeleteV1 { path: b"/a".to_vec(), version: 0 });
    let told = world.command(session, 0, &undone.0);
    assert_eq!(ended(&told), (REFUSED, 13), "there are nodes below");
    assert_eq!(state(&world), before, "not a byte has changed");
    assert_eq!((world.seen.events.len(), world.seen.notices.len()), (events, notices));
    assert_eq!(world.machine.next_timer(), None);

    let told = world.command(session, 0, &steps().0);
    assert_eq!(ended(&told), (COMMITTED, 13));
    let get = multimap::GetV1 { key: b"k".to_vec(), after: None, limit: 0 };
    assert_eq!(world.query(session, multimap, &get).payload[4..8], [1, 0, 0, 0]);
    let contains = set::ContainsV1 { members: vec![b"a".to_vec(), b"b".to_vec()] };
    assert_eq!(world.query(session, set, &contains).payload, [1, 0]);
    let contains = queue::ContainsV1 { task: told.index };
    assert_eq!(world.query(session, queue, &contains).payload, [1], "numbered by the entry");
    let children = tree::ChildrenV1 { path: b"/a".to_vec(), after: None, limit: 0 };
    let names = world.query(session, tree, &children).payload;
    assert!(names.ends_with(b"n0000000001") && names[2] == 2, "two nodes, two numbers");
    let status = world.query(session, log, &log::StatusV1 {}).payload;
    assert_eq!(status[8..16], 3_u64.to_le_bytes());
    assert!(world.seen.events[events..].iter().all(|(index, _)| *index == told.index));
    let copy = restore(&chunks(&world.machine, 100)).expect("what we wrote");
    assert_eq!(chunks(&copy, 100), chunks(&world.machine, 100));

    let offer = || queue::OfferV1 { value: vec![], delay_ms: 0 };
    let twice = Steps::default().then(queue, &offer()).then(queue, &offer());
    assert_eq!(twice.admitted(), Err(Code::DUPLICATE_KEY), "one number an entry");
}

#[test]
fn the_handle_checks_and_changes_every_collection() {
    let (near, _) = Near::pair();
    let multimap = Multimap::open(near.clone(), "multimap").wait().unwrap();
    let set = Set::open(near.clone(), "set").wait().unwrap();
    let queue = Queue::open(near.clone(), "queue").wait().unwrap();
    let tree = Tree::open(near.clone(), "tree").wait().unwrap();
    let log = Log::open(near, "log").wait().unwrap();
    let new = Transaction::new;
    let commit = |transaction: Transaction<Near>| transaction.commit().wait().unwrap();
    let done = commit(
        new()
            .lacks_value(&multimap, b"k", b"v")
            .lacks_member(&set, b"m")
            .lacks_task(&queue, 1)
            .node_is(&tree, "/a", None)
            .log_ends_at(&log, 1)
            .put_value(&multimap, b"k", b"v")
            .add_member(&set, b"m")
            .offer(&queue, b"task")
            .create_node(&tree, "/a", b"data")
            .append(&log, b"record"),
    );
    let Outcome::Committed(done) = done else { panic!("{done:?}") };
    let version = done.index;
    let task = version.0;
    let holds = |transaction| matches!(commit(transaction), Outcome::Committed(_));
    let checks = [
        (new().has_value(&multimap, b"k", b"v"), true),
        (new().has_value(&multimap, b"k", b"other"), false),
        (new().lacks_value(&multimap, b"k", b"v"), false),
        (new().has_member(&set, b"m"), true),
        (new().lacks_member(&set, b"m"), false),
        (new().has_member(&set, b"n"), false),
        (new().has_task(&queue, task), true),
        (new().lacks_task(&queue, task), false),
        (new().has_task(&queue, task + 1), false),
        (new().node_exists(&tree, "/a"), true),
        (new().node_exists(&tree, "/b"), false),
        (new().node_is(&tree, "/a", Some(b"data")), true),
        (new().node_is(&tree, "/a", Some(b"dat")), false),
        (new().node_is(&tree, "/b", Some(b"")), false),
        (new().node_is(&tree, "/a", None), false),
        (new().node_version(&tree, "/a", version), true),
        (new().node_version(&tree, "/a", version.next()), false),
        (new().node_version(&tree, "/b", Index::ZERO), false),
        (new().log_ends_at(&log, 2), true),
        (new().log_ends_at(&log, 1), false),
    ];
    for (at, (check, expected)) in checks.into_iter().enumerate() {
        assert_eq!(holds(check), expected, "check {at}");
    }
    let changed = new()
        .remove_value(&multimap, b"k", b"v")
        .remove_member(&set, b"m")
        .set_node(&tree, "/a", b"new")
        .create_node(&tree, "/a/b", b"");
    assert!(holds(changed));
    assert!(holds(new().node_is(&tree, "/a", Some(b"new")).lacks_member(&set, b"m")));
    let Outcome::Refused { command: 1, code: Code::HAS_CHILDREN, .. } =
        commit(new().append(&log, b"never").delete_node(&tree, "/a"))
    else {
        panic!("it has children")
    };
    assert!(holds(new().log_ends_at(&log, 2).delete_node(&tree, "/a/b")));
    assert_eq!(queue.poll().wait().unwrap().unwrap(), b"task");
    assert!(holds(new().lacks_task(&queue, task)));
}

/// Some checks take two queries, one takes none.
#[test]
fn a_check_that_fails_has_the_number_with_which_it_was_added() {
    let (near, _) = Near::pair();
    let value = Value::open(near.clone(), "value").wait().unwrap();
    let tree = Tree::open(near.clone(), "tree").wait().unwrap();
    let counter = Counter::open(near, "counter").wait().unwrap();
    value.set(b"is").wait().unwrap();
    let version = match tree.create("/a", b"is").wait().unwrap() {
        Swap::Done(version) => version,
        Swap::Conflict(found) => panic!("{found:?}"),
    };
    let failed = |transaction: Transaction<Near>| match transaction.commit().wait().unwrap() {
        Outcome::CheckFailed { check, .. } => check,
        other => panic!("{other:?}"),
    };
    let new = Transaction::new;
    let good = || {
        let checked = new().value_is(&value, Some(b"is")).node_is(&tree, "/a", Some(b"is"));
        checked.node_version(&tree, "/a", version).at_least(&counter, i64::MIN)
    };
    assert_eq!(failed(good().counter_is(&counter, 1)), 4);
    assert_eq!(failed(good().at_most(&counter, i64::MAX).value_is(&value, None)), 5);
    assert_eq!(failed(new().value_is(&value, Some(b"was")).counter_is(&counter, 1)), 0);
    assert_eq!(failed(good().node_is(&tree, "/a", Some(b"was"))), 4);
    let holds = new().at_most(&counter, i64::MAX).commit().wait().unwrap();
    assert!(matches!(holds, Outcome::Committed(_)), "it is a check, though it always holds");
}

#[test]
fn a_write_under_a_stale_token_is_not_done() {
    let (one, two) = Near::pair();
    let ours = Lock::open(one.clone(), "lock").wait().unwrap();
    let theirs = Lock::open(two.clone(), "lock").wait().unwrap();
    let election = Election::open(one.clone(), "boss").wait().unwrap();
    let value = Value::open(one, "value").wait().unwrap();
    let write = |checked: Transaction<Near>, to: &[u8]| {
        let outcome = checked.set(&value, to).commit().wait().unwrap();
        matches!(outcome, Outcome::Committed(_))
    };
    let new = Transaction::new;
    // 0 is the token of no grant, and what a program has that was granted nothing.
    for token in [0, 1] {
        assert!(!write(new().holds(&ours, token), b"nobody holds it"));
    }
    let stale = ours.lock().wait().unwrap().keep();
    assert!(write(new().holds(&ours, stale), b"ours"));
    ours.unlock(stale).wait().unwrap();
    let token = theirs.lock().wait().unwrap().keep();
    assert!(!write(new().holds(&ours, stale), b"late"), "somebody else holds it");
    assert!(write(new().holds(&ours, token), b"theirs"));

    for term in [0, 1] {
        assert!(!write(new().leads(&election, term), b"nobody leads"));
    }
    let first = election.campaign(b"first").wait().unwrap();
    let term = first.term();
    assert!(write(new().leads(&election, term), b"led"));
    first.resign().wait().unwrap();
    assert!(!write(new().leads(&election, term), b"late"), "nobody leads");
    let second = election.campaign(b"second").wait().unwrap();
    assert!(!write(new().leads(&election, term), b"late"));
    assert!(write(new().leads(&election, second.term()), b"last"));
    assert_eq!(value.get().wait().unwrap().unwrap().value, b"last");
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
