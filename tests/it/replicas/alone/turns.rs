//! Turns that have become long, and places to wait in: what many ask for at once is bounded.

use margay::machine::{Level, ResourceId, Sequence};
use margay::replica::ConnId;
use margay::wire::client::Request;
use margay_log::disk::sim::SimDisk;
use margay_log::id::{Index, Micros};

use super::{NOTE, World};

/// A query that is answered by a state as new as `seen`.
fn question(id: u64, level: Level, seen: Index) -> Request<'static> {
    let (after, resource) = (Sequence(0), ResourceId(1));
    let (kind, schema, payload) = (NOTE, 1, &[]);
    Request::Query { id, level, seen, after, kind, schema, resource, payload }
}

impl World {
    fn asks(&mut self, id: u64, level: Level) {
        self.says(&question(id, level, Index::ZERO));
    }
}

/// What is applied of a batch is answered, and a snapshot waits for the batch's end.
#[test]
fn a_turn_that_has_become_long_ends_within_a_batch() {
    let mut world = World::open(SimDisk::new(6), 3, Micros(0));
    world.lead();
    world.heard();
    let part = 16;
    let before = world.replica.machine().applied().0;
    for _ in 0..4 * part {
        world.note(&vec![b'x'; 1_000]);
    }
    world.out.long = true;
    let end = before + 4 * part;
    world.until("a part", |world| world.replica.machine().applied().0 > before);
    assert_eq!(world.replica.commit().0, end, "all is one batch");
    assert_eq!(world.replica.machine().applied().0, before + part);
    let replies = world.heard().iter().filter(|said| said.contains("Reply")).count() as u64;
    assert_eq!(replies, part);
    for parts in 2..=4 {
        assert!(!world.replica.status().snapshotting, "48 KiB are applied, the batch is not");
        world.turn();
        assert_eq!(world.replica.machine().applied().0, before + parts * part);
    }
    world.until("a snapshot", |world| world.replica.snapshot_counts().made == 1);
    let World { disk, .. } = world;
    let snapshots: Vec<_> = disk.finished_snapshots().map(|(index, _)| index.0).collect();
    assert_eq!(snapshots, [end]);
}

/// What a long entry asks for may take as long as what several short ones do, though nobody is told
/// of it.
#[test]
fn a_long_entry_counts_as_several_where_a_turn_may_end() {
    let mut world = World::open(SimDisk::new(14), 3, Micros(0));
    world.lead();
    let before = world.replica.machine().applied().0;
    (0..8).for_each(|_| world.note(&[b'x'; 3 << 10]));
    world.out.long = true;
    world.until("a part", |world| world.replica.machine().applied().0 > before);
    assert_eq!(world.replica.commit().0, before + 8, "all is one batch");
    assert_eq!(world.replica.machine().applied().0, before + 4, "16 between two looks, of 4 each");
}

/// A client that asks for much at once does not hold up the others of the shard: a turn that has
/// become long leaves reads to the next, and none of them is forgotten.
#[test]
fn a_turn_that_has_become_long_leaves_reads_to_the_next() {
    let mut world = World::open(SimDisk::new(8), 3, Micros(0));
    world.lead();
    world.heard();
    world.out.long = true;
    (1..=50).for_each(|id| world.asks(id, Level::Sequential));
    let (mut answered, mut turns) = (0, 0);
    while answered < 50 {
        world.turn();
        let now = world.heard().iter().filter(|said| said.contains("QueryReply")).count();
        assert!((1..=8).contains(&now), "{now} in a turn");
        (answered, turns) = (answered + now, turns + 1);
        let at_once = world.replica.deadline() <= Some(world.now);
        assert_eq!(at_once, answered < 50, "{answered} are answered after {turns} turns");
    }
    assert_eq!(answered, 50);
}

/// It takes as long to list thousands of things held as to answer several reads.
#[test]
fn a_long_list_for_who_attaches_counts_as_several_reads() {
    let mut world = World::open(SimDisk::new(12), 3, Micros(0));
    let session = world.lead();
    world.note(b"hold much");
    world.turn();
    let all = |world: &World| world.replica.machine().applied() == world.replica.log().last().index;
    world.until("all applied", all);
    world.heard();
    world.out.long = true;
    let acked = Sequence(0);
    world.says(&Request::Attach { session, key: [1; 16], acked });
    (1..=2).for_each(|id| world.asks(id, Level::Linearizable));
    let heard = loop {
        world.turn();
        let heard = world.heard();
        if !heard.is_empty() {
            break heard;
        }
    };
    assert!(heard.len() == 1 && heard[0].contains("Attached"), "{} are answered", heard.len());
    world.turn();
    assert_eq!(world.heard().len(), 2, "they are read in the next turn");
}

/// There are only so many places to wait in. Who has left takes none of them, though what it waited
/// for has not come.
#[test]
fn who_has_left_takes_no_place_from_those_who_wait() {
    let mut world = World::open(SimDisk::new(13), 3, Micros(0));
    world.lead();
    world.heard();
    let crowd: Vec<ConnId> = (2..34).map(ConnId).collect();
    for conn in &crowd {
        world.says_often(*conn, 2_048, &question(1, Level::Sequential, Index(u64::MAX)));
    }
    world.asks(1, Level::Sequential);
    let heard = world.heard();
    assert!(heard.iter().any(|said| said.contains("OVERLOADED")), "{heard:?}");
    crowd.iter().for_each(|conn| world.replica.on_client_gone(*conn));
    world.turn();
    world.asks(2, Level::Sequential);
    world.turn();
    let heard = world.heard();
    assert!(heard.iter().any(|said| said.contains("QueryReply")), "{heard:?}");
}
