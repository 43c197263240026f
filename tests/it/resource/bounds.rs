//! What has all that it may have comes back from a snapshot like everything else, and whatever is
//! asked about it is answered in a frame.

use crate::machine::{World, chunks, restore};
use margay::machine::bytes::Reader;
use margay::machine::{Code, VALUE_MAX, kind};
use margay::resource::codec::{Encode, Operation};
use margay::resource::group::{
    AnswerV1, AnswersV1, DELIVERIES_MAX, INBOX_MAX, InboxV1, JoinV1, SendV1, TO_ALL, TO_ANY,
    WAITING,
};
use margay::resource::log::{AppendV1, Retention};
use margay::resource::queue::{
    self, DEAD_BYTES_MAX, DeadV1, NackV1, OfferV1, PollV1, ReviveV1, StatusV1, TakeV1,
};
use margay::resource::registry::OpenV1;
use margay::resource::transaction::CommitV1;
use margay::resource::tree::{ChildrenV1, CreateV1};
use margay::wire::PAYLOAD_MAX;
use margay_log::id::Micros;

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
    // It is there, and there is no room for it.
    let revive = ReviveV1 { task };
    assert_eq!(world.command(session, id, &revive).code, Code::QUEUE_FULL);
    world.command(session, id, &PollV1 {});
    assert_eq!(world.command(session, id, &revive).payload, [1]);
    assert_eq!(world.command(session, id, &revive).payload, [0]);
}

/// Tasks that nobody can do cost no more memory than those that wait.
#[test]
fn dead_letters_are_bounded_in_bytes_and_the_oldest_go() {
    let mut world = World::new();
    let session = world.register(1);
    let id = open(&mut world, session, kind::QUEUE, queue::options(1));
    let mut dead = Vec::new();
    for request in 0..DEAD_BYTES_MAX / VALUE_MAX as u64 + 5 {
        let offer = OfferV1 { value: vec![7; VALUE_MAX], delay_ms: 0 };
        let task = world.command(session, id, &offer).index;
        let take = TakeV1 { request, max: 1, lease_ms: 1_000, wait_ms: None };
        let token = world.command(session, id, &take).index;
        let told = world.command(session, id, &NackV1 { task, token, delay_ms: 0 });
        assert_eq!(told.code, Code::OK);
        dead.push(task);
    }
    let status = world.query(session, id, &StatusV1 {}).payload;
    let kept = u64::from_le_bytes(status[24..32].try_into().unwrap());
    assert_eq!(kept, DEAD_BYTES_MAX / VALUE_MAX as u64 - 1, "each has its number, too");
    let oldest = dead[dead.len() - kept as usize];
    let page = world.query(session, id, &DeadV1 { after: 0, limit: 0 }).payload;
    assert_eq!(page[4..12], oldest.to_le_bytes());
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
    for _ in 0..4 {
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

/// How long all resources are in a snapshot.
fn state_bytes(world: &World) -> usize {
    let written = chunks(&world.machine, 64 << 10);
    written.iter().filter(|chunk| chunk[0] == 3).map(Vec::len).sum()
}

/// Where thousands of waits are over at once, that is told bit by bit; the request of one that is
/// over may come again before.
#[test]
fn a_request_that_comes_again_after_its_time_leaves_nothing_of_the_first() {
    fn again<O: Encode>(world: &mut World, resource: u64, ask: impl Fn(u64) -> O) {
        let session = world.register(2);
        let before = state_bytes(world);
        for request in 1..=2_000 {
            assert_eq!(world.command(session, resource, &ask(request)).payload[0], WAITING);
        }
        world.time += 10_000;
        assert_eq!(world.command(session, resource, &ask(2_000)).payload[0], WAITING);
        comes_back(world);
        (0..3).for_each(|_| world.tick(Micros::from_millis(10)));
        assert_eq!(state_bytes(world), before, "nobody waits any more");
    }
    let mut world = World::new();
    let session = world.register(1);
    let queue = world.open(session, "queue", kind::QUEUE);
    let group = world.open(session, "group", kind::GROUP);
    let wait_ms = Some(5);
    let join = |request| JoinV1 { request, id: b"id".to_vec(), data: Vec::new(), wait_ms };
    assert_eq!(world.command(session, group, &join(1)).code, Code::OK);
    again(&mut world, group, join);
    again(&mut world, queue, |request| TakeV1 { request, max: 1, lease_ms: 1_000, wait_ms });
}

/// Two of these are a little longer than a page may be, and fit no frame with what goes with them.
fn large() -> Vec<u8> {
    vec![7; VALUE_MAX - 64]
}

/// Whether there is more, and how many are on the page.
fn group_page(payload: &[u8]) -> (u8, u32) {
    assert!(payload.len() <= PAYLOAD_MAX, "{} bytes in one answer", payload.len());
    let mut reader = Reader::new(payload);
    (reader.u8().unwrap(), reader.u32().unwrap())
}

#[test]
fn large_messages_and_answers_of_a_group_come_one_to_a_page() {
    let mut world = World::new();
    let session = world.register(1);
    let id = open(&mut world, session, kind::GROUP, Vec::new());
    let members = [1, 2].map(|request| {
        let join = JoinV1 { request, id: Vec::new(), data: Vec::new(), wait_ms: None };
        world.command(session, id, &join).index
    });
    let mut send = |request, ask| {
        let (to, value) = (TO_ALL, large());
        let send = SendV1 { request, to, id: Vec::new(), value, ask, wait_ms: None };
        let told = world.command(session, id, &send);
        assert_eq!(told.code, Code::OK);
        told.index
    };
    let (first, question) = (send(3, false), send(4, true));
    let inbox = |brought, message| InboxV1 { member: members[0], brought, message };
    let told = world.query(session, id, &inbox(0, 0));
    assert_eq!(group_page(&told.payload), (1, 1));
    let told = world.query(session, id, &inbox(first, first));
    assert_eq!(group_page(&told.payload), (0, 1));
    for member in members {
        let answer = AnswerV1 { member, message: question, failed: false, value: large() };
        assert_eq!(world.command(session, id, &answer).code, Code::OK);
    }
    let answers = |after| AnswersV1 { message: question, after };
    assert_eq!(group_page(&world.query(session, id, &answers(0)).payload), (1, 1));
    assert_eq!(group_page(&world.query(session, id, &answers(members[0])).payload), (0, 1));
}

#[test]
fn large_dead_letters_come_one_to_a_page() {
    let mut world = World::new();
    let session = world.register(1);
    let id = open(&mut world, session, kind::QUEUE, queue::options(1));
    for _ in 0..2 {
        world.command(session, id, &OfferV1 { value: large(), delay_ms: 0 });
    }
    let mut dead = Vec::new();
    for request in 1..=2 {
        let take = TakeV1 { request, max: 1, lease_ms: 1_000, wait_ms: None };
        let told = world.command(session, id, &take);
        let mut reader = Reader::new(&told.payload);
        let (_, token, _) = (reader.u8(), reader.u64().unwrap(), reader.u64());
        let (_, task) = (reader.u32(), reader.u64().unwrap());
        let nack = NackV1 { task, token, delay_ms: 0 };
        assert_eq!(world.command(session, id, &nack).code, Code::OK);
        dead.push(task);
    }
    for after in [0, dead[0]] {
        let told = world.query(session, id, &DeadV1 { after, limit: 0 });
        assert!(told.payload.len() <= PAYLOAD_MAX, "{} bytes", told.payload.len());
        assert_eq!(Reader::new(&told.payload).u32(), Ok(1));
    }
}

#[test]
fn long_names_in_a_tree_come_as_a_frame_has_room_for() {
    let mut world = World::new();
    let session = world.register(1);
    let id = open(&mut world, session, kind::TREE, Vec::new());
    for n in 0..700 {
        let path = format!("/{n:04}{}", "x".repeat(4_000)).into_bytes();
        let (data, ephemeral, sequential, parents) = (Vec::new(), false, false, false);
        let create = CreateV1 { path, data, ephemeral, sequential, parents };
        assert_eq!(world.command(session, id, &create).code, Code::OK);
    }
    let (mut after, mut all) = (None, 0);
    loop {
        let children = ChildrenV1 { path: b"/".to_vec(), after, limit: 0 };
        let told = world.query(session, id, &children);
        assert!(told.payload.len() <= PAYLOAD_MAX, "{} bytes", told.payload.len());
        let mut reader = Reader::new(&told.payload);
        let (_, more, count) = (reader.u8(), reader.u8().unwrap(), reader.u32().unwrap());
        all += count;
        after = (0..count).map(|_| reader.bytes().unwrap().to_vec()).last();
        if more == 0 {
            break;
        }
    }
    assert_eq!(all, 700);
}
