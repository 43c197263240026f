//! Snapshots: made, brought, lost, damaged, late, and cut off in the middle.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use margay::machine::{ResourceId, kind};
use margay::replica::ReplicaConfig;
use margay::resource::value::SetV1;
use margay::wire::client::Admin;
use margay::wire::snapshot::{SnapshotAck, SnapshotPiece, SnapshotState};
use margay::wire::{self, Kind};
use margay_log::disk::sim::ENOSPC;
use margay_log::disk::{Op, SnapshotStep};
use margay_log::id::{Incarnation, Index, Micros, NodeId};

use super::caller::Caller;
use super::group::{Flight, Group, address};
use super::leaders::ask;

/// A snapshot is due after every 32 KiB of entries.
fn often(config: &mut ReplicaConfig) {
    config.snapshot_after = 32 << 10;
}

/// A group, its leader, a client of that, a counter, and a follower that was away until the log
/// began behind what it has.
struct Scene {
    group: Group,
    leader: u32,
    other: u32,
    away: u32,
    caller: Caller,
    counter: ResourceId,
}

/// Where a node's log begins.
fn begin(group: &Group, n: u32) -> Index {
    group.replica(n).log().start().id.index
}

impl Scene {
    fn new() -> Scene {
        Scene::with(often)
    }

    fn with(configure: fn(&mut ReplicaConfig)) -> Scene {
        let mut group = Group::with(3, configure);
        let (leader, others) = group.led();
        let mut caller = Caller::new(&group, 1, &[leader], 60_000);
        let counter = caller.open(&mut group, "counter", kind::COUNTER);
        caller.add(&mut group, counter);
        group.converge();
        Scene { group, leader, other: others[0], away: others[1], caller, counter }
    }

    /// The same, and the follower lacks what the leader's log has no more.
    fn behind() -> Scene {
        let mut scene = Scene::new();
        scene.group.isolate(scene.away);
        scene.leave_behind();
        scene
    }

    /// Writes until the leader's log begins behind what the follower has.
    fn leave_behind(&mut self) {
        let last = self.group.replica(self.away).log().last().index;
        while begin(&self.group, self.leader) <= last {
            self.caller.fill(&mut self.group, 8);
        }
    }

    fn installed(&self) -> u64 {
        self.group.replica(self.away).snapshot_counts().installed
    }

    /// All is well in the end, and the counter has counted so far.
    #[track_caller]
    fn ends_well(&mut self, count: i64) {
        self.group.converge();
        let leader = self.group.leader();
        if leader != self.leader {
            let nodes = self.group.running();
            self.caller = Caller::new(&self.group, 2, &nodes, 60_000);
        }
        assert_eq!(self.caller.count(&mut self.group, self.counter), count);
    }
}

fn is_piece(flight: &Flight) -> bool {
    wire::decode(&flight.frame).is_ok_and(|frame| frame.kind == Kind::SnapshotPiece)
}

#[test]
pub(super) fn blackhole_until_snapshot_needed() {
    let mut scene = Scene::behind();
    scene.group.run(2_000);
    assert_eq!(scene.installed(), 0);
    scene.group.heal();
    scene.ends_well(1);
    assert_eq!(scene.installed(), 1);
    // A crash finds the snapshot, and the log behind it.
    scene.group.run(300);
    let (away, last) = (scene.away, scene.group.replica(scene.away).log().last());
    scene.group.restart(away);
    assert_eq!(scene.group.replica(away).log().last(), last);
    scene.ends_well(1);
}

/// The power goes after one round of the disk, then after two, and so on, until the snapshot has
/// been brought in spite of it, and a while longer: after the save, the rename, the reset of the
/// log.
#[test]
pub(super) fn snapshot_installed_then_crash_before_log_reset() {
    let mut scene = Scene::behind();
    let (away, leader) = (scene.away, scene.leader);
    let old = scene.group.replica(away).log().last();
    scene.group.heal();
    let (mut cuts, mut after) = (0, 0);
    while after < 8 {
        scene.group.restart(away);
        let replica = scene.group.replica(away);
        let (start, last) = (replica.log().start().id.index, replica.log().last());
        let whole = start > Index::ZERO || last == old;
        assert!(whole, "the old log or the new one, not the log up to {last}");
        scene.group.rounds(1 + cuts);
        cuts += 1;
        let replica = scene.group.replica(away);
        after += u32::from(replica.log().start().id.index > Index::ZERO);
        assert!(cuts < 400, "it never comes so far: {}", scene.group.describe());
    }
    assert!(cuts > 12, "{cuts} cuts are not many");
    scene.ends_well(1);
    assert_eq!(scene.group.leader(), leader, "nobody was disturbed");
}

/// A node has a snapshot, and starts again before its leader knows: what it says of the log behind
/// its beginning is understood.
#[test]
pub(super) fn snapshot_installed_then_crash_before_the_leader_knows() {
    let mut scene = Scene::behind();
    let away = scene.away;
    scene.group.weather = Some(Box::new(move |flight| {
        let acks = wire::decode(&flight.frame).is_ok_and(|it| it.kind == Kind::AppendAck);
        (!acks || flight.from != away).then_some(Micros(0))
    }));
    scene.group.heal();
    scene.group.until("the snapshot", |group| group.replica(away).snapshot_counts().installed == 1);
    scene.group.run(300);
    scene.group.restart(away);
    scene.group.weather = None;
    scene.ends_well(1);
}

/// A disk may end what it has begun in any order: nothing of a snapshot is written before its file
/// is there. Else a file begun late would take the place of one that is written.
#[test]
pub(super) fn a_snapshot_is_written_once_its_file_has_begun() {
    let mut scene = Scene::behind();
    let away = scene.away;
    scene.group.node(away).holds = Some(|op| matches!(op, Op::Snapshot { .. }));
    scene.group.heal();
    scene.group.run(300);
    let ops = scene.group.node(away).disk.in_flight();
    let begins = |op: &Op| matches!(op, Op::Snapshot { step: SnapshotStep::Begin, .. });
    assert_eq!(ops.map(begins).collect::<Vec<_>>(), [true]);
    scene.group.node(away).holds = None;
    scene.ends_well(1);
    scene.group.run(300);
    scene.group.restart(away);
    scene.ends_well(1);
    let counts = scene.group.replica(away).snapshot_counts();
    assert_eq!((counts.restored, counts.damaged, counts.installed), (1, 0, 0));
}

#[test]
pub(super) fn two_snapshots_in_quick_succession() {
    let mut scene = Scene::behind();
    let (away, leader) = (scene.away, scene.leader);
    scene.group.heal();
    // The first arrives and cannot be written; meanwhile the next two are made.
    scene.group.node(away).holds = Some(|_| true);
    scene.group.run(300);
    let made = scene.group.replica(leader).snapshot_counts().made;
    while scene.group.replica(leader).snapshot_counts().made < made + 2 {
        scene.caller.fill(&mut scene.group, 8);
    }
    assert_eq!(scene.installed(), 0);
    scene.group.node(away).holds = None;
    scene.ends_well(1);
    assert!(scene.installed() >= 1);
}

#[test]
pub(super) fn old_snapshot_must_not_replace_newer_state() {
    let mut scene = Scene::behind();
    let away = scene.away;
    let late: Rc<RefCell<Vec<Vec<u8>>>> = Rc::default();
    let seen = Rc::clone(&late);
    scene.group.weather = Some(Box::new(move |flight| {
        if is_piece(flight) {
            seen.borrow_mut().push(flight.frame.clone());
        }
        Some(Micros(0))
    }));
    scene.group.heal();
    scene.group.converge();
    scene.group.weather = None;
    assert_eq!(scene.installed(), 1);
    let counter = scene.counter;
    scene.caller.add(&mut scene.group, counter);
    scene.group.converge();
    let (applied, state) = (scene.group.replica(away).machine().applied(), scene.group.state(away));
    // All of them again, late, and from somebody else, too.
    let frames = late.borrow().clone();
    assert!(!frames.is_empty());
    for from in [scene.leader, scene.other] {
        for frame in &frames {
            scene.group.arrive(Flight::new(from, away, frame.clone()));
            scene.group.rounds(4);
        }
    }
    assert!(scene.group.replica(away).machine().applied() >= applied);
    assert!(scene.group.state(away) == state, "the newer state stays");
    assert_eq!(scene.installed(), 1);
    scene.ends_well(2);
}

/// A node that restores its own snapshot, slowly, is brought a newer one meanwhile: what it
/// restores is of no use then, and it goes on from the newer one at once.
#[test]
pub(super) fn old_snapshot_restored_late_must_not_replace_newer_state() {
    let mut scene = Scene::new();
    let away = scene.away;
    while begin(&scene.group, away) == Index::ZERO {
        scene.caller.fill(&mut scene.group, 8);
    }
    scene.group.converge();
    let last = scene.group.replica(away).log().last().index;
    scene.group.crash(away);
    while begin(&scene.group, scene.leader) <= last {
        scene.caller.fill(&mut scene.group, 8);
    }
    let reads = |op: &Op| matches!(op, Op::Snapshot { step: SnapshotStep::Read { .. }, .. });
    scene.group.node(away).holds = Some(reads);
    scene.group.start(away);
    scene.group.until("the newer one to be brought", |group| {
        group.replica(away).snapshot_counts().installed == 1
    });
    let last = scene.group.replica(scene.leader).log().last().index;
    scene.group.until("it to go on", |group| group.replica(away).machine().applied() >= last);
    let (start, state) = (begin(&scene.group, away), scene.group.state(away));
    scene.group.isolate(away);
    scene.group.node(away).holds = None;
    scene.group.run(100);
    assert_eq!(scene.group.replica(away).snapshot_counts().restored, 0);
    assert_eq!(begin(&scene.group, away), start);
    assert!(scene.group.state(away) == state, "the newer state stays");
    scene.group.heal();
    scene.ends_well(1);
}

/// Whose log begins behind a hole does not vote, serves nothing, and is brought a snapshot.
#[test]
pub(super) fn log_gap_after_snapshot_detected_at_start() {
    let mut scene = Scene::new();
    let (away, other, leader) = (scene.away, scene.other, scene.leader);
    while begin(&scene.group, away) == Index::ZERO {
        scene.caller.fill(&mut scene.group, 8);
    }
    scene.group.converge();
    [leader, other, away].iter().for_each(|n| scene.group.crash(*n));
    let disk = &mut scene.group.node(away).disk;
    let snapshots: Vec<Index> = disk.finished_snapshots().map(|(index, _)| index).collect();
    assert!(!snapshots.is_empty() && snapshots.iter().all(|at| disk.lose_snapshot(*at)));
    scene.group.start(away);
    scene.group.start(other);
    // Nobody hears what it asks for.
    scene.group.weather = Some(Box::new(|flight| {
        let asks = wire::decode(&flight.frame).is_ok_and(|it| it.kind == Kind::RepairRequest);
        (!asks).then_some(Micros(0))
    }));
    scene.group.run(5_000);
    assert_eq!(scene.group.leads(), None, "two are enough, but one of them has a gap");
    assert_eq!(scene.group.replica(away).machine().applied(), Index::ZERO);
    scene.group.weather = None;
    scene.group.until("the state to be brought", |group| {
        group.replica(away).snapshot_counts().installed == 1
    });
    scene.group.until("it to vote again", |group| group.leads().is_some());
    scene.group.start(leader);
    scene.ends_well(1);
}

#[test]
pub(super) fn snapshot_of_unreachable_node_does_not_block_leader() {
    let mut scene = Scene::behind();
    let (away, leader, counter) = (scene.away, scene.leader, scene.counter);
    scene.group.heal();
    // It is gone again as soon as the leader begins to bring it one.
    let begun = Rc::new(Cell::new(false));
    let seen = Rc::clone(&begun);
    scene.group.weather = Some(Box::new(move |flight| {
        seen.set(seen.get() || is_piece(flight));
        Some(Micros(0))
    }));
    scene.group.until("a first piece", |_| begun.get());
    scene.group.weather = None;
    scene.group.crash(away);
    for _ in 0..20 {
        let before = begin(&scene.group, leader);
        scene.caller.add(&mut scene.group, counter);
        scene.caller.fill(&mut scene.group, 40);
        scene.group.run(1_000);
        assert!(begin(&scene.group, leader) >= before);
    }
    assert_eq!(scene.group.leader(), leader);
    let kept = scene.group.node(leader).disk.finished_snapshots().count();
    assert!(kept <= 3, "{kept} are kept: the two newest, and one that it may still ask for");
    scene.group.start(away);
    scene.ends_well(21);
}

/// Neither making a snapshot nor reading one for another holds up anything else.
#[test]
pub(super) fn snapshot_does_not_block_apply_and_append() {
    let mut scene = Scene::behind();
    let (leader, counter) = (scene.leader, scene.counter);
    scene.group.heal();
    scene.group.node(leader).holds = Some(|op| matches!(op, Op::Snapshot { .. }));
    for _ in 0..10 {
        scene.caller.fill(&mut scene.group, 8);
        scene.caller.add(&mut scene.group, counter);
    }
    assert_eq!(scene.installed(), 0, "the snapshot cannot be read");
    assert_eq!(scene.group.leader(), leader);
    scene.group.node(leader).holds = None;
    scene.ends_well(11);
}

/// While a piece is being read the receiver says that it wants another, for it has the rest from
/// somebody else: bytes are sent as what they are, or not at all.
#[test]
pub(super) fn snapshot_answer_overtakes_a_read() {
    let mut scene = Scene::behind();
    let (away, leader) = (scene.away, scene.leader);
    let sent: Rc<RefCell<Vec<Vec<u8>>>> = Rc::default();
    let pieces = Rc::clone(&sent);
    scene.group.weather = Some(Box::new(move |flight| {
        if is_piece(flight) {
            pieces.borrow_mut().push(flight.frame.clone());
            return None;
        }
        Some(Micros(0))
    }));
    scene.group.heal();
    scene.group.until("a first piece", |_| !sent.borrow().is_empty());
    // It is lost; after a while it is read again.
    scene.group.node(leader).holds = Some(|op| matches!(op, Op::Snapshot { .. }));
    scene.group.run(600);
    let first = sent.borrow()[0].clone();
    let first = SnapshotPiece::decode(&wire::decode(&first).expect("a frame")).expect("a piece");
    let (id, offset) = (first.id, first.length - 4_096);
    let term = scene.group.replica(leader).raft().term();
    let mut answer = Vec::new();
    SnapshotAck { term, id, offset, state: SnapshotState::Wanted }.encode(&mut answer);
    scene.group.arrive(Flight::new(away, leader, answer));
    scene.group.node(leader).holds = None;
    sent.borrow_mut().clear();
    scene.group.until("what it wants", |_| !sent.borrow().is_empty());
    scene.group.weather = None;
    for frame in sent.borrow().iter() {
        let piece = SnapshotPiece::decode(&wire::decode(frame).expect("a frame"));
        let piece = piece.expect("within its file");
        assert_eq!(piece.offset == 0, piece.bytes.starts_with(b"MGYN"), "the header is in front");
    }
    scene.ends_well(1);
}

#[test]
pub(super) fn lost_snapshot_trigger() {
    let mut scene = Scene::behind();
    // The first twenty pieces are lost, among them whatever begins the first attempts.
    let mut left = 20;
    scene.group.weather = Some(Box::new(move |flight| {
        let lost = is_piece(flight) && left > 0;
        left -= u32::from(lost);
        (!lost).then_some(Micros(0))
    }));
    scene.group.heal();
    scene.ends_well(1);
    assert_eq!(scene.installed(), 1);
}

/// While a snapshot is on its way the leader keeps it, and the log from it on: one is enough.
#[test]
pub(super) fn purge_during_stream() {
    let mut scene = Scene::behind();
    let (away, leader) = (scene.away, scene.leader);
    scene.group.heal();
    scene.group.weather =
        Some(Box::new(|flight| Some(Micros(if is_piece(flight) { 2_000_000 } else { 0 }))));
    scene.group.run(300);
    let newest = scene.group.node(leader).disk.finished_snapshots().map(|(at, _)| at).max();
    let made = scene.group.replica(leader).snapshot_counts().made;
    while scene.group.replica(leader).snapshot_counts().made < made + 4 {
        scene.caller.fill(&mut scene.group, 8);
    }
    assert!(begin(&scene.group, leader) <= newest.expect("one is on its way"));
    scene.ends_well(1);
    assert_eq!(scene.installed(), 1, "the log from there on is still there");
    scene.group.weather = None;
    scene.caller.fill(&mut scene.group, 80);
    assert!(begin(&scene.group, leader) > newest.expect("as before"), "then it goes");
    assert!(scene.group.node(away).fatal.is_none());
}

/// Whose disk has no space for a snapshot is not sent it all the time, and keeps nobody from
/// letting go of old log and old snapshots.
#[test]
fn who_has_no_space_for_a_snapshot_holds_nobody_up() {
    let mut scene = Scene::behind();
    let (away, leader) = (scene.away, scene.leader);
    scene.group.node(away).disk.fail_snapshots(Some(ENOSPC));
    let sent = Rc::new(Cell::new(0));
    let pieces = Rc::clone(&sent);
    scene.group.weather = Some(Box::new(move |flight| {
        pieces.set(pieces.get() + u32::from(is_piece(flight)));
        Some(Micros(0))
    }));
    let begins = begin(&scene.group, leader);
    scene.group.heal();
    for _ in 0..30 {
        scene.caller.fill(&mut scene.group, 20);
        scene.group.run(1_000);
    }
    assert_eq!(scene.installed(), 0);
    assert!((30..300).contains(&sent.get()), "{} pieces in 30 s", sent.get());
    let kept = scene.group.node(leader).disk.finished_snapshots().count();
    assert!(kept <= 3, "{kept} snapshots are kept");
    assert!(begin(&scene.group, leader) > begins, "the log goes");
    scene.group.node(away).disk.fail_snapshots(None);
    scene.ends_well(1);
}

/// Who answers and gets no further is given up: no log is kept for it, though there is not much.
#[test]
fn who_gets_no_further_with_a_snapshot_is_given_up() {
    let mut scene = Scene::behind();
    let (away, leader) = (scene.away, scene.leader);
    scene.group.node(away).disk.fail_snapshots(Some(ENOSPC));
    scene.group.heal();
    scene.group.run(300);
    let newest = scene.group.node(leader).disk.finished_snapshots().map(|(at, _)| at).max();
    let newest = newest.expect("one is on its way");
    let make = |scene: &mut Scene, count| {
        let made = scene.group.replica(leader).snapshot_counts().made;
        while scene.group.replica(leader).snapshot_counts().made < made + count {
            scene.caller.fill(&mut scene.group, 8);
        }
    };
    make(&mut scene, 3);
    assert!(begin(&scene.group, leader) <= newest, "it may still come so far");
    scene.group.run(15_000);
    make(&mut scene, 1);
    assert!(begin(&scene.group, leader) > newest, "it has had its time");
    scene.group.node(away).disk.fail_snapshots(None);
    scene.ends_well(1);
}

/// A receiver that gets on, but not as fast as the log grows, does not fill the leader's disk.
#[test]
fn a_snapshot_on_its_way_keeps_so_much_log_and_no_more() {
    let mut scene = Scene::behind();
    let (away, leader) = (scene.away, scene.leader);
    scene.group.heal();
    scene.group.weather =
        Some(Box::new(|flight| Some(Micros(if is_piece(flight) { 9_000_000 } else { 0 }))));
    scene.group.run(300);
    let newest = scene.group.node(leader).disk.finished_snapshots().map(|(at, _)| at).max();
    let newest = newest.expect("one is on its way");
    let made = scene.group.replica(leader).snapshot_counts().made;
    while scene.group.replica(leader).snapshot_counts().made < made + 6 {
        scene.caller.fill(&mut scene.group, 8);
        let kept: Vec<_> = scene.group.node(leader).disk.finished_snapshots().collect();
        assert!(kept.len() <= 4 && kept[0].0 <= newest, "{kept:?}: it and the two newest");
    }
    assert!(begin(&scene.group, leader) <= newest);
    while scene.group.replica(leader).snapshot_counts().made < made + 14 {
        scene.caller.fill(&mut scene.group, 8);
    }
    assert!(scene.group.replica(away).snapshot_counts().installed == 0, "it still has not come");
    assert!(begin(&scene.group, leader) > newest, "others have to be served");
    scene.group.weather = None;
    scene.ends_well(1);
}

#[test]
pub(super) fn corrupt_snapshot_on_minority_never_deletes_data() {
    let mut scene = Scene::new();
    let away = scene.away;
    while scene.group.node(away).disk.finished_snapshots().count() < 2 {
        scene.caller.fill(&mut scene.group, 8);
    }
    scene.caller.fill(&mut scene.group, 3);
    scene.group.converge();
    let applied = scene.group.replica(away).machine().applied();
    let begins = begin(&scene.group, away);
    // The newest: the older one and a longer replay do.
    for rotten in [1, 2] {
        scene.group.crash(away);
        let disk = &mut scene.group.node(away).disk;
        let snapshots: Vec<(Index, u64)> = disk.finished_snapshots().collect();
        for (at, size) in snapshots.iter().rev().take(rotten) {
            assert!(disk.flip_snapshot(*at, size - 4_000, 3));
        }
        scene.group.start(away);
        assert_eq!(begin(&scene.group, away), begins, "the log is as it was");
        scene.group.until("the state to be there again", |group| {
            group.replica(away).machine().applied() >= applied
        });
        scene.group.converge();
        let counts = scene.group.replica(away).snapshot_counts();
        assert!(counts.damaged > 0, "{counts:?}");
        assert_eq!(counts.installed, u64::from(rotten == 2), "both rot: the others have it");
    }
    scene.ends_well(1);
}

/// Nobody looks at it otherwise for a long time.
#[test]
fn a_snapshot_that_was_refused_is_looked_through_at_once() {
    let mut scene = Scene::with(|config| {
        often(config);
        config.scrub_pause = Micros::from_millis(600_000);
    });
    scene.group.isolate(scene.away);
    scene.leave_behind();
    let disk = &mut scene.group.node(scene.leader).disk;
    let (newest, size) = disk.finished_snapshots().last().expect("one was made");
    assert!(disk.flip_snapshot(newest, size - 4_000, 3));
    scene.group.heal();
    let away = scene.away;
    scene.group.until("the next one to be brought", |group| {
        group.replica(away).snapshot_counts().installed == 1
    });
    assert_eq!(scene.group.replica(scene.leader).snapshot_counts().damaged, 1);
    scene.ends_well(1);
}

/// A follower that catches up batch by batch knows of commits that it has not applied: when its
/// snapshot is due before a membership among them, it waits for that.
#[test]
pub(super) fn a_snapshot_waits_for_a_membership_that_is_committed_and_not_applied() {
    let mut group = Group::with(3, |config| {
        // Once before the membership, and not so often that the log goes.
        config.snapshot_after = 128 << 10;
        config.apply_bytes = 1;
    });
    let (leader, others) = group.led();
    let away = others[1];
    let mut caller = Caller::new(&group, 1, &[leader], 60_000);
    let counter = caller.open(&mut group, "counter", kind::COUNTER);
    group.converge();
    group.isolate(away);
    caller.fill(&mut group, 40);
    let joined = group.join();
    let (name, address) = (format!("n{joined}"), address(joined));
    let (incarnation, node) = (Incarnation(u64::from(joined)), NodeId(0));
    let add = Admin::Add { name: &name, address: &address, incarnation, node };
    assert_eq!(ask(&mut group, leader, add), "done");
    assert_eq!(caller.add(&mut group, counter), 1);
    group.heal();
    group.converge();
    assert_eq!(group.replica(away).machine().applied(), group.replica(leader).machine().applied());
}

/// A follower that a snapshot is brought to has caught up by the log when it is there: the state
/// that it has by then stays.
#[test]
pub(super) fn a_snapshot_that_comes_too_late_takes_nothing_back() {
    // One node keeps its whole log, and makes no snapshot.
    const WHOLE: u32 = 2;
    let mut group = Group::with(3, |config| {
        if config.raft.id != NodeId(WHOLE) {
            often(config);
        }
    });
    if group.leader() == WHOLE {
        assert!(ask(&mut group, WHOLE, Admin::Transfer { name: "n1" }).starts_with("LEADER"));
        group.until("another leader", |group| group.leads() == Some(1));
    }
    let leader = group.leader();
    let away = 4 - leader;
    let mut caller = Caller::new(&group, 1, &[1, 2, 3], 60_000);
    let counter = caller.open(&mut group, "counter", kind::COUNTER);
    group.converge();
    group.isolate(away);
    let last = group.replica(away).log().last().index;
    while begin(&group, leader) <= last {
        caller.fill(&mut group, 8);
    }
    // The snapshot comes, and is held up at its very end.
    let publishes = |op: &Op| matches!(op, Op::Snapshot { step: SnapshotStep::Publish, .. });
    group.node(away).holds = Some(publishes);
    group.heal();
    group.until("all of the snapshot", |group| group.node(away).disk.in_flight().any(publishes));
    ask(&mut group, leader, Admin::Transfer { name: "n2" });
    group.until("a leader with the whole log", |group| group.leads() == Some(WHOLE));
    assert_eq!(caller.add(&mut group, counter), 1);
    group.converge();
    let applied = group.replica(away).machine().applied();
    let asked = [Admin::Transfer { name: &format!("n{away}") }];
    asked.into_iter().for_each(|transfer| drop(ask(&mut group, WHOLE, transfer)));
    group.until("it to lead", |group| group.leads() == Some(away));

    group.node(away).holds = None;
    for _ in 0..400 {
        group.rounds(1);
        assert!(group.replica(away).machine().applied() >= applied, "its state goes back");
    }
    assert_eq!(caller.count(&mut group, counter), 1);
    // It is a snapshot as good as any.
    group.crash(away);
    group.start(away);
    group.until("it to be restored", |group| group.replica(away).snapshot_counts().restored == 1);
    group.converge();
    assert_eq!(caller.count(&mut group, counter), 1);
}

/// A follower whose disk is slow says what it holds, which the leader's log begins behind by now:
/// that it is there, and follows, counts all the same.
#[test]
pub(super) fn who_lags_behind_the_begin_of_the_log_is_heard() {
    let mut scene = Scene::new();
    let (leader, other, away) = (scene.leader, scene.other, scene.away);
    scene.group.node(away).holds = Some(|op| matches!(op, Op::Write { .. }));
    let durable = scene.group.replica(away).log().durable();
    while begin(&scene.group, leader) <= durable {
        scene.caller.fill(&mut scene.group, 8);
    }
    let (term, verified) = (scene.group.replica(leader).term(), scene.group.replica(away).log());
    assert!(verified.last().index > begin(&scene.group, leader), "it has received them");
    scene.group.crash(other);
    scene.group.run(5_000);
    assert_eq!(scene.group.replica(leader).term(), term, "two of three are there");
    assert_eq!(scene.group.leads(), Some(leader));
    scene.group.start(other);
    scene.group.node(away).holds = None;
    scene.ends_well(1);
}

/// A network is faster than a disk: what a snapshot's pieces take of memory is bounded, and they
/// are asked for as the disk gets on.
#[test]
pub(super) fn pieces_wait_for_the_disk_and_not_in_memory() {
    let mut scene = Scene::new();
    let (leader, away) = (scene.leader, scene.away);
    for n in 0..48 {
        let value = scene.caller.open(&mut scene.group, &format!("value {n}"), kind::VALUE);
        let set = SetV1 { value: vec![n as u8; 60_000], ephemeral: false, ttl_ms: 0 };
        let id = scene.caller.command(&scene.group, value, &set);
        scene.caller.finish(&mut scene.group, id).expect("it is set");
    }
    scene.group.converge();
    scene.group.isolate(away);
    scene.caller.fill(&mut scene.group, 8);
    let last = scene.group.replica(away).log().last().index;
    while begin(&scene.group, leader) <= last {
        scene.caller.fill(&mut scene.group, 100);
    }
    let writes = |op: &Op| matches!(op, Op::Snapshot { step: SnapshotStep::Write { .. }, .. });
    scene.group.node(away).holds = Some(writes);
    scene.group.heal();
    scene.group.run(20_000);
    let waiting = scene.group.node(away).disk.in_flight().filter(|op| writes(op)).count();
    assert!((4..=16).contains(&waiting), "{waiting} pieces of 64 KiB wait for the disk");
    scene.group.node(away).holds = None;
    let begun = scene.group.now;
    scene.group.until("the rest", |group| group.replica(away).snapshot_counts().installed == 1);
    let took = scene.group.now.since(begun);
    assert!(took < Micros::from_millis(11_000), "{took:?}: the sender waits 10 s at most");
    scene.ends_well(1);
}
