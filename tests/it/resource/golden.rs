//! Bytes that are in logs and snapshots out there: they never change.
//!
//! `MARGAY_GOLDEN=write` writes the files anew, for an operation or a format that is new.

use crate::machine::{Logged, command};
use crate::machine::{World, chunks, register, restore};
use margay::machine::{StateMachine, kind};
use margay::resource::Registry;
use margay::resource::codec::{Encode, Operation};
use margay::resource::{
    barrier, counter, describe, election, group, latch, lock, log, map, multimap, queue, registry,
    rwlock, semaphore, set, topic, transaction, tree, value,
};
use margay_log::id::Micros;
use std::fmt::Write;

type Coded = (String, u8, u16, Vec<u8>);

fn code<O: Encode>(operation: &O) -> Coded {
    (O::NAME.to_owned(), O::KIND, O::SCHEMA, operation.encode())
}

/// One of each operation there is, with telling contents: by kind, in the order of their numbers.
pub(super) fn operations() -> Vec<Coded> {
    let all = [
        of_registry(),
        of_transaction(),
        of_value(),
        of_counter(),
        of_map(),
        of_lock(),
        of_multimap(),
        of_set(),
        of_queue(),
        claims(VERSION),
        of_group(VERSION),
        of_topic(),
        of_tree(),
        of_log(),
    ];
    all.concat()
}

const VERSION: u64 = 0x0102_0304_0506_0708;
/// Milliseconds: a time to live within bounds.
const TTL_MS: u64 = 0x01_0203_0405;

fn key() -> Vec<u8> {
    b"key".to_vec()
}

fn value() -> Vec<u8> {
    b"a value".to_vec()
}

fn expected() -> Option<Vec<u8>> {
    Some(b"expected".to_vec())
}

fn of_registry() -> Vec<Coded> {
    let (name, prefix, after) = (b"name".to_vec(), b"pre".to_vec(), b"prefix".to_vec());
    vec![
        code(&registry::OpenV1 { name: name.clone(), kind: kind::MAP, options: vec![] }),
        code(&registry::DeleteV1 { resource: VERSION }),
        code(&registry::FindV1 { name: name.clone(), kind: kind::LOCK }),
        code(&registry::ListV1 { prefix, kind: 0, after, limit: 7 }),
        code(&describe::DescribeV1 { name }),
    ]
}

fn of_transaction() -> Vec<Coded> {
    vec![code(&transaction::CommitV1 {
        check_kinds: vec![kind::COUNTER],
        check_schemas: vec![0x4001],
        check_resources: vec![VERSION],
        check_payloads: vec![vec![1, 2]],
        check_relations: vec![transaction::GREATER],
        check_offsets: vec![0x0304],
        check_to_end: vec![true],
        check_expected: vec![value()],
        kinds: vec![kind::VALUE, kind::COUNTER],
        schemas: vec![value::SetV1::SCHEMA, counter::AddV1::SCHEMA],
        resources: vec![VERSION, 7],
        payloads: vec![
            value::SetV1 { value: value(), ephemeral: false, ttl_ms: 0 }.encode(),
            counter::AddV1 { delta: -1 }.encode(),
        ],
    })]
}

fn of_value() -> Vec<Coded> {
    let (value, version, ephemeral, ttl_ms) = (value(), VERSION, false, 0);
    let swap = |expected| {
        code(&value::CompareAndSetV1 { expected, value: value.clone(), ephemeral, ttl_ms })
    };
    vec![
        code(&value::SetV1 { value: value.clone(), ephemeral: true, ttl_ms: TTL_MS }),
        code(&value::GetAndSetV1 { value: value.clone(), ephemeral, ttl_ms }),
        swap(expected()),
        swap(None),
        code(&value::CompareVersionV1 { version, value: value.clone(), ephemeral, ttl_ms }),
        code(&value::DeleteV1 {}),
        code(&value::GetV1 {}),
    ]
}

fn of_counter() -> Vec<Coded> {
    vec![
        code(&counter::SetV1 { value: -2 }),
        code(&counter::AddV1 { delta: i64::MIN }),
        code(&counter::CompareAndSetV1 { expected: -1, value: 0x0102_0304 }),
        code(&counter::GetV1 {}),
    ]
}

fn of_map() -> Vec<Coded> {
    let (key, value, expected, version) = (key(), value(), expected(), VERSION);
    let (ephemeral, ttl_ms) = (false, 0);
    let put = map::PutV1 {
        key: key.clone(),
        value: value.clone(),
        previous: true,
        ephemeral: true,
        ttl_ms: TTL_MS,
    };
    let (put_key, put_value) = (key.clone(), value.clone());
    let absent =
        map::PutIfAbsentV1 { key: put_key.clone(), value: put_value.clone(), ephemeral, ttl_ms };
    let replace = map::ReplaceV1 { key: put_key.clone(), value: put_value, ephemeral, ttl_ms };
    let remove_if =
        map::RemoveIfV1 { key: put_key.clone(), expected: expected.clone(), version: 0 };
    let replace_if = map::ReplaceIfV1 { key: put_key, expected, version, value, ephemeral, ttl_ms };
    let page = map::PageV1 {
        prefix: b"pre".to_vec(),
        from: Some(b"from".to_vec()),
        to: Some(b"until".to_vec()),
        after: Some(key.clone()),
        limit: 5,
        descending: true,
        values: true,
    };
    vec![
        code(&put),
        code(&absent),
        code(&map::RemoveV1 { key: key.clone(), previous: false }),
        code(&remove_if),
        code(&replace),
        code(&replace_if),
        code(&map::ClearV1 {}),
        code(&map::PollV1 { last: true }),
        code(&map::GetV1 { key: key.clone() }),
        code(&map::ContainsV1 { key: key.clone() }),
        code(&map::SizeV1 {}),
        code(&page),
        code(&map::GetManyV1 { keys: vec![key.clone(), b"other".to_vec()] }),
        code(&map::FindValueV1 { value: b"sought".to_vec(), after: Some(key) }),
    ]
}

fn of_lock() -> Vec<Coded> {
    vec![
        code(&lock::LockV1 { request: VERSION, wait_ms: Some(1_500) }),
        code(&lock::LockV1 { request: 1, wait_ms: None }),
        code(&lock::UnlockV1 { token: VERSION }),
        code(&lock::CancelV1 { request: VERSION }),
        code(&lock::HolderV1 {}),
    ]
}

fn of_multimap() -> Vec<Coded> {
    let (key, value, values) = (key(), value(), vec![b"one".to_vec(), b"two".to_vec()]);
    let (after, prefix) = (Some(b"after".to_vec()), b"pre".to_vec());
    let (after_key, after_value) = (after.clone(), Some(b"that".to_vec()));
    vec![
        code(&multimap::PutV1 { key: key.clone(), value: value.clone() }),
        code(&multimap::ReplaceV1 { key: key.clone(), values }),
        code(&multimap::RemoveEntryV1 { key: key.clone(), value: value.clone() }),
        code(&multimap::RemoveKeyV1 { key: key.clone() }),
        code(&multimap::RemoveValueV1 { value: value.clone(), after: after.clone() }),
        code(&multimap::ClearV1 {}),
        code(&multimap::GetV1 { key: key.clone(), after: after.clone(), limit: 3 }),
        code(&multimap::ContainsV1 { key: key.clone(), value: Some(value.clone()) }),
        code(&multimap::FindValueV1 { value, after }),
        code(&multimap::SizeV1 { key: Some(key) }),
        code(&multimap::PageV1 { prefix, after_key, after_value, limit: 5 }),
    ]
}

fn of_set() -> Vec<Coded> {
    let members = || vec![b"one".to_vec(), b"two".to_vec()];
    let page = set::PageV1 {
        prefix: b"pre".to_vec(),
        from: Some(b"from".to_vec()),
        to: Some(b"until".to_vec()),
        after: Some(key()),
        limit: 5,
        descending: true,
    };
    vec![
        code(&set::AddV1 { members: members(), ephemeral: true, ttl_ms: TTL_MS }),
        code(&set::RemoveV1 { members: members() }),
        code(&set::RetainV1 { members: members() }),
        code(&set::ClearV1 {}),
        code(&set::PollV1 { last: true }),
        code(&set::ContainsV1 { members: members() }),
        code(&set::SizeV1 {}),
        code(&page),
    ]
}

fn of_tree() -> Vec<Coded> {
    let (path, data, version) = (b"/a/path".to_vec(), b"data".to_vec(), VERSION);
    let create = tree::CreateV1 {
        path: path.clone(),
        data: data.clone(),
        ephemeral: true,
        sequential: false,
        parents: true,
    };
    vec![
        code(&create),
        code(&tree::SetV1 { path: path.clone(), data, version }),
        code(&tree::DeleteV1 { path: path.clone(), version }),
        code(&tree::DeleteBelowV1 { path: path.clone() }),
        code(&tree::GetV1 { path: path.clone() }),
        code(&tree::ChildrenV1 { path, after: Some(key()), limit: 9 }),
    ]
}

fn of_group(number: u64) -> Vec<Coded> {
    let (id, wait_ms) = (|| b"n1".to_vec(), Some(1_500));
    let ask = group::SendV1 {
        request: number,
        to: group::TO_MEMBER,
        id: id(),
        value: value(),
        ask: true,
        wait_ms,
    };
    vec![
        code(&group::JoinV1 { request: number, id: id(), data: b"data".to_vec(), wait_ms }),
        code(&ask),
        code(&group::CancelV1 { request: number }),
        code(&group::SetV1 { member: number, data: b"data".to_vec() }),
        code(&group::RemoveV1 { id: id() }),
        code(&group::AnswerV1 { member: number, message: 7, failed: true, value: value() }),
        code(&group::MembersV1 { after: number, limit: 7 }),
        code(&group::MemberV1 { id: id() }),
        code(&group::InboxV1 { member: number, brought: 8, message: 7 }),
        code(&group::AnswersV1 { message: number, after: 7 }),
        code(&group::StatusV1 {}),
    ]
}

fn of_topic() -> Vec<Coded> {
    let publish = topic::PublishV1 { key: key(), value: value() };
    vec![code(&publish), code(&topic::StatusV1 {})]
}

fn of_log() -> Vec<Coded> {
    let records = vec![b"one".to_vec(), b"two".to_vec()];
    vec![
        code(&log::AppendV1 { records, position: VERSION }),
        code(&log::TrimV1 { before: VERSION }),
        code(&log::ReadV1 { from: VERSION, limit: 7 }),
        code(&log::StatusV1 {}),
    ]
}

fn of_queue() -> Vec<Coded> {
    let (task, token) = (VERSION, 7);
    vec![
        code(&queue::OfferV1 { value: value(), delay_ms: 1_500 }),
        code(&queue::PollV1 {}),
        code(&queue::CancelV1 { request: VERSION }),
        code(&queue::RemoveV1 { task }),
        code(&queue::ClearV1 {}),
        code(&queue::TakeV1 { request: 9, max: 3, lease_ms: 1_500, wait_ms: Some(50) }),
        code(&queue::AckV1 { task, token }),
        code(&queue::NackV1 { task, token, delay_ms: 1_500 }),
        code(&queue::ExtendV1 { task, token, lease_ms: 1_500 }),
        code(&queue::ReviveV1 { task }),
        code(&queue::PeekV1 {}),
        code(&queue::ContainsV1 { task }),
        code(&queue::StatusV1 {}),
        code(&queue::LeasedV1 { take: VERSION }),
        code(&queue::DeadV1 { after: VERSION, limit: 7 }),
    ]
}

/// Those of what is granted in turn.
fn claims(number: u64) -> Vec<Coded> {
    vec![
        code(&rwlock::LockV1 { request: number, write: true, wait_ms: Some(1_500) }),
        code(&rwlock::UnlockV1 { hold: number }),
        code(&rwlock::CancelV1 { request: number }),
        code(&rwlock::StatusV1 {}),
        code(&semaphore::AcquireV1 { request: number, permits: 3, wait_ms: None }),
        code(&semaphore::ReleaseV1 { hold: number, permits: 3 }),
        code(&semaphore::CancelV1 { request: number }),
        code(&semaphore::DrainV1 { request: number }),
        code(&semaphore::ResizeV1 { permits: 5 }),
        code(&semaphore::StatusV1 {}),
        code(&barrier::AwaitV1 { request: number, wait_ms: None }),
        code(&barrier::CancelV1 { request: number }),
        code(&barrier::ResetV1 {}),
        code(&barrier::StatusV1 {}),
        code(&latch::CountDownV1 { by: 2 }),
        code(&latch::AwaitV1 { request: number, wait_ms: Some(1_500) }),
        code(&latch::CancelV1 { request: number }),
        code(&latch::StatusV1 {}),
        code(&election::CampaignV1 { request: number, data: b"me".to_vec(), wait_ms: None }),
        code(&election::CancelV1 { request: number }),
        code(&election::AnointV1 { candidate: number }),
        code(&election::PromoteV1 { candidate: number }),
        code(&election::EvictV1 { candidate: number }),
        code(&election::LeaderV1 {}),
        code(&election::CandidatesV1 { limit: 7 }),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        write!(out, "{byte:02x}").expect("to a string");
        out
    })
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal digits");
    (0..text.len()).step_by(2).map(digit).collect()
}

fn compare(file: &str, golden: &str, written: &str) {
    if std::env::var_os("MARGAY_GOLDEN").is_some_and(|wish| wish == "write") {
        let path = format!("{}/tests/it/golden/{file}", env!("CARGO_MANIFEST_DIR"));
        std::fs::write(path, written).expect("the source tree can be written");
        return;
    }
    for (line, (old, new)) in golden.lines().zip(written.lines()).enumerate() {
        assert_eq!(new, old, "{file}:{}: bytes that are out there have changed", line + 1);
    }
    assert_eq!(golden.lines().count(), written.lines().count(), "{file}");
}

#[test]
fn operations_keep_their_bytes() {
    let mut written = String::new();
    for (name, kind, schema, payload) in operations() {
        writeln!(written, "{kind} {schema:04x} {name} {}", hex(&payload)).expect("to a string");
    }
    compare("operations.txt", include_str!("../golden/operations.txt"), &written);
}

#[test]
fn operations_of_the_past_are_admitted() {
    for line in include_str!("../golden/operations.txt").lines() {
        let mut words = line.split(' ');
        let kind = words.next().unwrap().parse().unwrap();
        let schema = u16::from_str_radix(words.next().unwrap(), 16).unwrap();
        words.next();
        let payload = unhex(words.next().unwrap());
        // Queries are no commands.
        if schema < 0x4000 && !(kind == kind::REGISTRY && schema >= 0x0300) {
            assert_eq!(Registry::check(kind, schema, &payload), Ok(()), "{line}");
        }
    }
}

#[test]
fn numbers_of_operations_are_used_once() {
    let mut numbers: Vec<(u8, u16)> =
        operations().iter().map(|(_, kind, schema, _)| (*kind, *schema)).collect();
    numbers.sort_unstable();
    numbers.dedup();
    // Two of them are in the list twice.
    assert_eq!(numbers.len(), operations().len() - 2);
    assert_eq!((map::PutV1::KIND, map::PutV1::SCHEMA), (18, 0x0101));
}

/// A world in which everything is there that a snapshot can hold.
fn full() -> World {
    let mut world = World::new();
    let one = world.register(1);
    let kinds =
        [kind::VALUE, kind::COUNTER, kind::MAP, kind::LOCK, kind::MULTIMAP, kind::SET, kind::TREE];
    let ids: Vec<u64> =
        kinds.iter().map(|kind| world.open(one, &format!("r{kind}"), *kind)).collect();
    fill_claims(&mut world, one);
    world.tick(Micros::from_millis(5));
    let two = world.entry(register(2));
    world.command(
        one,
        ids[0],
        &value::SetV1 { value: b"first".to_vec(), ephemeral: false, ttl_ms: 0 },
    );
    world.command(
        one,
        ids[0],
        &value::GetAndSetV1 { value: b"second".to_vec(), ephemeral: false, ttl_ms: 0 },
    );
    world.command(one, ids[1], &counter::AddV1 { delta: -7 });
    for key in ["a", "b", "c"] {
        let value = key.repeat(3).into_bytes();
        world.command(
            one,
            ids[2],
            &map::PutV1 {
                key: key.into(),
                value,
                previous: false,
                ephemeral: key != "b",
                ttl_ms: 9 * u64::from(key == "c"),
            },
        );
    }
    world.command(one, ids[2], &map::RemoveV1 { key: b"b".to_vec(), previous: true });
    world.command(one, ids[3], &lock::LockV1 { request: 9, wait_ms: None });
    world.command(two, ids[3], &lock::LockV1 { request: 8, wait_ms: Some(1_000) });
    world.command(one, ids[3], &lock::LockV1 { request: 7, wait_ms: None });
    for value in ["1", "2"] {
        let (key, value) = (key(), value.into());
        world.command(one, ids[4], &multimap::PutV1 { key, value });
    }
    let members = vec![b"one".to_vec(), b"two".to_vec()];
    world.command(one, ids[5], &set::AddV1 { members, ephemeral: true, ttl_ms: 7 });
    let (path, data) = (b"/a/b-".to_vec(), b"data".to_vec());
    let (ephemeral, sequential, parents) = (true, true, true);
    let create = tree::CreateV1 { path, data, ephemeral, sequential, parents };
    world.command(one, ids[6], &create);
    fill_group(&mut world, one, two);
    let id = world.open(one, "r29", kind::TOPIC);
    world.command(one, id, &topic::PublishV1 { key: key(), value: value() });
    let options = log::Retention::new().records(2).encode();
    let open = registry::OpenV1 { name: b"r31".to_vec(), kind: kind::LOG, options };
    let id = world.command(one, 0, &open).index;
    let records = vec![b"one".to_vec(), b"two".to_vec(), b"three".to_vec()];
    world.command(one, id, &log::AppendV1 { records, position: 0 });
    let sequence = world.sequences[&two] + 1;
    let mut last = command(two, sequence, ids[1], &counter::AddV1 { delta: i64::MIN });
    last.acked = 1;
    world.send(last);
    world.entry(Logged { kind: kind::NOOP, ..Logged::default() });
    world
}

/// What is granted in turn: a hold and a wait of each.
fn fill_claims(world: &mut World, one: u64) {
    let options = queue::options(1);
    let open = registry::OpenV1 { name: b"r22".to_vec(), kind: kind::QUEUE, options };
    let id = world.command(one, 0, &open).index;
    for delay_ms in [0, 0, 0, 5_000] {
        world.command(one, id, &queue::OfferV1 { value: vec![1, 2], delay_ms });
    }
    for (request, lease_ms) in [(1, 1), (2, 900)] {
        world.command(one, id, &queue::TakeV1 { request, max: 1, lease_ms, wait_ms: None });
    }
    world.tick(Micros::from_millis(1));
    let id = world.open(one, "r23", kind::RW_LOCK);
    for (request, write) in [(1, false), (2, true)] {
        world.command(one, id, &rwlock::LockV1 { request, write, wait_ms: Some(900) });
    }
    let options = semaphore::options(3);
    let open = registry::OpenV1 { name: b"r24".to_vec(), kind: kind::SEMAPHORE, options };
    let id = world.command(one, 0, &open).index;
    for request in 1..3 {
        world.command(one, id, &semaphore::AcquireV1 { request, permits: 2, wait_ms: None });
    }
    let id = world.open(one, "r25", kind::BARRIER);
    for request in 1..4 {
        world.command(one, id, &barrier::AwaitV1 { request, wait_ms: None });
    }
    let id = world.open(one, "r26", kind::LATCH);
    world.command(one, id, &latch::AwaitV1 { request: 1, wait_ms: Some(900) });
    let id = world.open(one, "r27", kind::ELECTION);
    let campaign =
        |request| election::CampaignV1 { request, data: vec![request as u8], wait_ms: None };
    let names = [1, 2, 3].map(|request| world.command(one, id, &campaign(request)).index);
    world.command(one, id, &election::PromoteV1 { candidate: names[2] });
}

/// A group with members, a join that waits, messages of all kinds, and what came of a question.
fn fill_group(world: &mut World, one: u64, two: u64) {
    let id = world.open(one, "r28", kind::GROUP);
    let join = |request, name: &[u8]| {
        let (id, data) = (name.to_vec(), b"data".to_vec());
        group::JoinV1 { request, id, data, wait_ms: Some(900) }
    };
    let member = world.command(one, id, &join(1, b"a")).index;
    world.command(one, id, &join(2, b""));
    world.command(two, id, &join(1, b"a"));
    let send = |request, to, name: &[u8], ask: bool| {
        let (id, value, wait_ms) = (name.to_vec(), b"message".to_vec(), ask.then_some(900));
        group::SendV1 { request, to, id, value, ask, wait_ms }
    };
    world.command(two, id, &send(0, group::TO_ANY, b"", false));
    let message = world.command(two, id, &send(3, group::TO_ALL, b"", true)).index;
    world.command(two, id, &send(4, group::TO_MEMBER, b"a", true));
    let value = b"answer".to_vec();
    world.command(one, id, &group::AnswerV1 { member, message, failed: false, value });
}

#[test]
fn snapshots_keep_their_bytes() {
    let written: String =
        chunks(&full().machine, 256).iter().map(|chunk| hex(chunk) + "\n").collect();
    compare("snapshot.txt", include_str!("../golden/snapshot.txt"), &written);
}

#[test]
fn snapshots_of_the_past_are_restored() {
    let lines = include_str!("../golden/snapshot.txt").lines();
    let old: Vec<Vec<u8>> = lines.map(unhex).collect();
    let machine = restore(&old).expect("an old snapshot");
    assert_eq!(chunks(&machine, 256), chunks(&full().machine, 256));
    assert_eq!(machine.applied(), full().machine.applied());
}
