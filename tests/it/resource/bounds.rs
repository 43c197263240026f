//! What has all that it may have comes back from a snapshot like everything else.

use crate::machine::{World, chunks, restore};
use margay::machine::bytes::Reader;
use margay::machine::{Code, VALUE_MAX, kind};
use margay::resource::codec::{Encode, Operation};
use margay::resource::group::{DELIVERIES_MAX, INBOX_MAX, JoinV1, SendV1, TO_ANY};
use margay::resource::log::{AppendV1, Retention};
use margay::resource::queue::{self, NackV1, OfferV1, TakeV1};
use margay::resource::registry::OpenV1;
use margay::resource::transaction::CommitV1;

fn open(world: &mut World, session: u64, kind: u8, options: Vec<u8>) -> u64 {
    let told = world.command(session, 0, &OpenV1 { name: b"it".to_vec(), kind, options });
    assert_eq!(told.code, Code::OK);
    told.index
}

fn comes_back(world: &World) {
    let written = chunks(&world.machine, 64 << 10);
    let copy = restore(&written).expect("what we wrote");
    assert!(chunks(&copy, 64 << 10) == written, "the same state");
}

/// Dead letters do not count as tasks: there may be some beside as many tasks as there may be.
#[test]
fn a_queue_that_is_full_comes_back_with_its_dead_letters() {
    let mut world = World::new();
    let session = world.register(1);
    let id = open(&mut world, session, kind::QUEUE, queue::options(1));
    let offer = OfferV1 { value: vec![7; VALUE_MAX], delay_ms: 0 };
    let task = world.command(session, id, &offer).index;
    let take = TakeV1 { request: 1, max: 1, lease_ms: 1_000, wait_ms: None };
    let token = world.command(session, id, &take).index;
    let told = world.command(session, id, &NackV1 { task, token, delay_ms: 0 });
    assert_eq!(told.code, Code::OK);
    while world.command(session, id, &offer).code == Code::OK {}
    comes_back(&world);
}

/// A message that has an inbox is counted there and nowhere else.
#[test]
fn a_group_with_all_messages_it_may_have_comes_back() {
    let mut world = World::new();
    let session = world.register(1);
    let id = open(&mut world, session, kind::GROUP, Vec::new());
    for request in 1..=DELIVERIES_MAX as u64 / u64::from(INBOX_MAX) {
        let join = JoinV1 { request, id: Vec::new(), data: Vec::new(), wait_ms: None };
        assert_eq!(world.command(session, id, &join).code, Code::OK);
    }
    let (to, value) = (TO_ANY, b"do".to_vec());
    let send = SendV1 { request: 0, to, id: Vec::new(), value, ask: false, wait_ms: None };
    let mut sent = 0;
    while world.command(session, id, &send).code == Code::OK {
        sent += 1;
    }
    assert_eq!(sent, DELIVERIES_MAX);
    comes_back(&world);
}

/// A transaction appends to a log as often as it likes.
#[test]
fn a_log_that_grew_by_transactions_comes_back() {
    let mut world = World::new();
    let session = world.register(1);
    let id = open(&mut world, session, kind::LOG, Retention::new().records(1).encode());
    let append = AppendV1 { records: vec![Vec::new(); 1_000], position: 0 };
    let mut commit = CommitV1::default();
    for _ in 0..10 {
        commit.kinds.push(AppendV1::KIND);
        commit.schemas.push(AppendV1::SCHEMA);
        commit.resources.push(id);
        commit.payloads.push(append.encode());
    }
    let told = world.command(session, 0, &commit);
    let mut reader = Reader::new(&told.payload);
    assert_eq!((told.code, reader.u8()), (Code::OK, Ok(1)), "it is committed");
    comes_back(&world);
}
