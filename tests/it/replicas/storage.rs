//! Disks that rot, fill up, fail and go back in time, under a whole group.

use std::cell::Cell;
use std::rc::Rc;

use margay::machine::kind;
use margay::raft::message::{Body, RoleKind};
use margay::replica::Fatal;
use margay::resource::counter::AddV1;
use margay::wire;
use margay::wire::client::Admin;
use margay::wire::peer::PeerMessage;
use margay_log::disk::Op;
use margay_log::disk::sim::{EIO, ENOSPC};
use margay_log::format::{BATCH_HEADER, BatchHeader, FRAME};
use margay_log::id::{Incarnation, Index, Micros, NodeId, SegmentNumber};
use margay_log::recover::Storage;

use super::caller::Caller;
use super::group::{Group, address};
use super::leaders::ask;

/// Where the bodies of the batches lie on a node's disk: (last index, segment, offset).
fn bodies(group: &mut Group, n: u32) -> Vec<(Index, SegmentNumber, u64)> {
    let disk = &mut group.node(n).disk;
    let segments: Vec<SegmentNumber> = disk.segment_numbers().collect();
    let mut found = Vec::new();
    for segment in segments {
        let blocks: Vec<u64> = disk.written_blocks(segment).collect();
        for block in blocks {
            let mut bytes = vec![0; 4096];
            if disk.read(segment, block, &mut bytes).is_ok()
                && let Ok(header) = BatchHeader::decode(&bytes[FRAME..])
            {
                found.push((header.last().index, segment, block + (FRAME + BATCH_HEADER) as u64));
            }
        }
    }
    found.sort_unstable();
    found
}

/// A bit flips in the body of the batch that ends at `index`.
fn rot(group: &mut Group, n: u32, index: Index) {
    let bodies = bodies(group, n);
    let found = bodies.iter().find(|(last, ..)| *last == index);
    let &(_, segment, offset) = found.unwrap_or_else(|| panic!("n{n} holds no batch to {index}"));
    assert!(group.node(n).disk.flip(segment, offset + 20, 3));
}

/// A group at rest, with thirty writes behind it that every disk knows to be durable.
fn at_rest() -> (Group, Caller, margay::machine::ResourceId) {
    let mut group = Group::new(3);
    let mut caller = Caller::new(&group, 1, &[1, 2, 3], 60_000);
    let counter = caller.open(&mut group, "counter", kind::COUNTER);
    for _ in 0..30 {
        caller.add(&mut group, counter);
    }
    group.converge();
    group.run(1_000);
    (group, caller, counter)
}

/// Ends of some of the batches that all hold.
fn ends(group: &mut Group) -> Vec<Index> {
    bodies(group, 1).into_iter().map(|(last, ..)| last).filter(|last| last.0 > 5).collect()
}

/// All copies of an entry have rotted: nobody leads, nothing is cut off, nothing is invented.
#[test]
pub(super) fn corrupt_entry_left_of_head_everywhere_halts_the_group() {
    let (mut group, ..) = at_rest();
    let end = ends(&mut group)[7];
    let last = group.replica(1).log().last();
    (1..=3).for_each(|n| group.crash(n));
    (1..=3).for_each(|n| rot(&mut group, n, end));
    (1..=3).for_each(|n| group.start(n));
    for _ in 0..10 {
        group.run(1_000);
        assert_eq!(group.leads(), None);
        for n in 1..=3 {
            let log = group.replica(n).log();
            assert_eq!((log.last(), log.damaged().len()), (last, 1), "n{n}");
            assert!(group.replica(n).machine().applied() < end);
        }
    }
}

/// Other entries have rotted on each node: each has what the others lack.
#[test]
pub(super) fn corrupt_entries_in_disjoint_copies_are_brought_back() {
    let (mut group, mut caller, counter) = at_rest();
    let ends = ends(&mut group);
    (1..=3).for_each(|n| group.crash(n));
    (1..=3).for_each(|n| rot(&mut group, n, ends[4 + n as usize]));
    (1..=3).for_each(|n| group.start(n));
    group.converge();
    assert_eq!(caller.count(&mut group, counter), 30);
    for n in 1..=3 {
        assert!(!group.replica(n).log().is_damaged(), "n{n}");
        assert_eq!(group.replica(n).repair_counts().mended, 1, "n{n}");
    }
}

/// What only its leader has rots: nobody can give it back, and it was never committed. Another
/// leads, without it.
#[test]
pub(super) fn rot_of_what_nobody_else_has_ends_a_reign() {
    let (mut group, mut caller, counter) = at_rest();
    let (leader, others) = group.led();
    let last = group.replica(leader).log().last().index;
    group.isolate(leader);
    let id = caller.command(&group, counter, &AddV1 { delta: 1 });
    group.until("a write on one disk", |group| {
        caller.carry(group);
        group.replica(leader).log().durable() > last
    });
    let end = group.replica(leader).log().last().index;
    (1..=3).for_each(|n| group.crash(n));
    (1..=3).for_each(|n| group.start(n));
    rot(&mut group, leader, end);
    // Only who has most can be elected.
    group.heal();
    group.cut.extend([(others[0], others[1]), (others[1], others[0])]);
    group.until("it to lead", |group| group.replica(leader).raft().role() == RoleKind::Leader);
    group.heal();
    group.until("another to lead", |group| group.leads().is_some_and(|n| n != leader));
    group.converge();
    assert!(!group.replica(leader).log().is_damaged());
    caller.finish(&mut group, id).expect("it was sent again");
    assert_eq!(caller.count(&mut group, counter), 31);
}

/// Every batch has rotted on two of three nodes, each time two others.
#[test]
pub(super) fn helical_faults() {
    let (mut group, mut caller, counter) = at_rest();
    let ends = ends(&mut group);
    // The newest stay: a batch that was durable a moment ago and cannot be read may be torn.
    let ends = &ends[..ends.len() - 2];
    (1..=3).for_each(|n| group.crash(n));
    for (at, end) in ends.iter().enumerate() {
        let good = at as u32 % 3 + 1;
        (1..=3).filter(|n| *n != good).for_each(|n| rot(&mut group, n, *end));
    }
    (1..=3).for_each(|n| group.start(n));
    group.converge();
    assert_eq!(caller.count(&mut group, counter), 30);
    let mended: u64 = (1..=3).map(|n| group.replica(n).repair_counts().mended).sum();
    assert!(mended >= 2 * ends.len() as u64 && ends.len() > 20, "{mended} of {}", ends.len());
    assert!((1..=3).all(|n| !group.replica(n).log().is_damaged()));
}

/// A leader starts again and finds a committed batch rotten: it says nothing about it that could
/// have it truncated, and gets it back from the others.
#[test]
pub(super) fn corrupt_committed_op_on_leader_then_view_change() {
    let (mut group, mut caller, counter) = at_rest();
    let (leader, end) = (group.leader(), ends(&mut group)[9]);
    let (last, chain) = {
        let log = group.replica(leader).log();
        (log.last(), log.chain_at(end))
    };
    group.crash(leader);
    rot(&mut group, leader, end);
    group.start(leader);
    for _ in 0..400 {
        let log = group.replica(leader).log();
        assert!(log.last() >= last && log.chain_at(end) == chain, "nothing is truncated");
        group.rounds(1);
    }
    assert_eq!(caller.add(&mut group, counter), 31);
    group.converge();
    assert_ne!(group.leader(), leader, "who lacks something does not stand");
    assert_eq!(group.replica(leader).repair_counts().mended, 1);
}

/// What a leader cannot read it does not send, nor anything behind it; it has it brought back.
#[test]
pub(super) fn leader_read_error_must_not_send_malformed_prev() {
    let mut group = Group::new(3);
    let (leader, others) = group.led();
    let mut caller = Caller::new(&group, 1, &[leader], 60_000);
    let counter = caller.open(&mut group, "counter", kind::COUNTER);
    group.converge();
    let away = others[0];
    group.isolate(away);
    caller.add(&mut group, counter);
    // So much that it is no longer in memory.
    caller.fill(&mut group, 200);
    group.run(1_000);
    let last = group.replica(away).log().last().index;
    let behind = bodies(&mut group, leader).into_iter().map(|(end, ..)| end);
    let first = behind.filter(|end| *end > last).min().expect("there are some");
    rot(&mut group, leader, first);
    group.heal();
    // Whatever arrives anywhere is checked: an append that contradicts itself is a failure.
    group.converge();
    assert_eq!(group.leader(), leader);
    assert_eq!(group.replica(leader).repair_counts().mended, 1);
    assert_eq!(caller.count(&mut group, counter), 1);
}

/// A follower's disk is full, then fails, then is well again: its log has no hole.
#[test]
pub(super) fn temporary_disk_error_leaves_no_hole_after_rejoin() {
    let mut group = Group::new(3);
    let (leader, others) = group.led();
    let victim = others[0];
    let mut caller = Caller::new(&group, 1, &[leader], 60_000);
    let counter = caller.open(&mut group, "counter", kind::COUNTER);
    group.node(victim).disk.fail_prepares(Some(ENOSPC));
    caller.fill(&mut group, 200);
    caller.add(&mut group, counter);
    let behind = group.replica(victim).log().durable();
    assert!(behind < group.replica(leader).log().durable(), "its disk has been full for long");
    group.node(victim).disk.fail_prepares(None);
    caller.fill(&mut group, 20);
    group.node(victim).disk.fail_next_write(EIO);
    caller.fill(&mut group, 20);
    group.until("the disk to fail", |group| group.node(victim).fatal.is_some());
    assert!(matches!(group.node(victim).fatal, Some(Fatal::Log(_))));
    caller.add(&mut group, counter);
    group.crash(victim);
    group.start(victim);
    group.converge();
    group.run(1_000);
    // From its disk alone, it is the same.
    group.restart(victim);
    group.converge();
    assert_eq!(caller.count(&mut group, counter), 2);
}

/// Until a follower's new term is on its disk it says nothing in it: so it is sent nothing, and
/// counts for nothing. A crash then loses nothing either.
#[test]
pub(super) fn sync_phase_ack_only_after_term_is_durable() {
    let mut group = Group::new(3);
    let (leader, others) = group.led();
    let (witness, slow) = (others[0], others[1]);
    group.converge();
    group.node(slow).holds = Some(|op| matches!(op, Op::HardState { .. }));
    // A new term, which the other two begin.
    group.restart(leader);
    group.until("a new leader", |group| group.leads().is_some_and(|n| n != slow));
    let leads = group.leader();
    let other = if leads == leader { witness } else { leader };
    let term = group.replica(leads).term();
    group.run(200);
    group.isolate(other);
    let mut caller = Caller::new(&group, 1, &[leads], 60_000);
    caller.session.register(group.now);
    let commit = group.replica(leads).commit();
    for _ in 0..50 {
        caller.carry(&mut group);
        group.run(10);
    }
    assert_eq!(group.replica(slow).term(), term, "it knows of the term");
    assert!(group.replica(slow).log().last().term < term);
    assert!(group.replica(leads).log().last().index > commit);
    assert_eq!(group.replica(leads).commit(), commit, "two of three are there, one speaks");
    group.node(slow).holds = None;
    group.crash(slow);
    group.start(slow);
    group.heal();
    group.converge();
    assert!(group.replica(slow).term() >= term);
}

/// Two of three disks are put back to what they were earlier, and their nodes go on from there. The
/// third keeps what it knows to be committed.
#[test]
pub(super) fn quorum_lost_data_does_not_overwrite_the_healthy_node() {
    let mut group = Group::new(3);
    let mut caller = Caller::new(&group, 1, &[1, 2, 3], 60_000);
    let counter = caller.open(&mut group, "counter", kind::COUNTER);
    caller.add(&mut group, counter);
    group.converge();
    group.run(1_000);
    let (healthy, robbed) = group.led();
    let old: Vec<_> = robbed.iter().map(|n| group.node(*n).disk.clone()).collect();
    for _ in 0..20 {
        caller.add(&mut group, counter);
    }
    group.converge();
    let (commit, applied) = {
        let replica = group.replica(healthy);
        (replica.commit(), replica.machine().applied())
    };
    let chain = group.replica(healthy).log().chain_at(commit);
    assert!(chain.is_some());

    group.robbed = true;
    group.isolate(healthy);
    for (n, disk) in robbed.iter().zip(old) {
        group.crash(*n);
        group.node(*n).disk = disk;
        group.start(*n);
    }
    // They know no better: they elect one of them, and go on.
    let mut other = Caller::new(&group, 2, &robbed, 60_000);
    group.until("the robbed to have a leader", |group| {
        group.leads().is_some_and(|leader| robbed.contains(&leader))
    });
    for _ in 0..30 {
        other.add(&mut group, counter);
    }
    group.heal();
    // Not as fast as they can: nothing that is said again changes anything.
    let frames = Rc::new(Cell::new(0_u64));
    let counted = Rc::clone(&frames);
    group.weather = Some(Box::new(move |_| {
        counted.set(counted.get() + 1);
        Some(Micros(0))
    }));
    for _ in 0..10 {
        group.run(1_000);
        let replica = group.replica(healthy);
        assert_eq!(replica.log().chain_at(commit), chain, "what was committed stays");
        assert!(replica.machine().applied() == applied, "and nothing else is applied");
    }
    assert!(frames.get() < 2_000, "{} frames in ten seconds", frames.get());
}

/// What the others could mend once, nobody can when they have left: such a log is left as it is,
/// and what is put right from a copy is whole again.
#[test]
pub(super) fn damage_of_the_last_voter_is_refused_and_changes_nothing() {
    let (mut group, mut caller, counter) = at_rest();
    let (last, others) = group.led();
    for other in others {
        let name = format!("n{other}");
        assert_eq!(ask(&mut group, last, Admin::Demote { name: &name }), "done");
        assert_eq!(ask(&mut group, last, Admin::Remove { name: &name }), "done");
        group.stop(other);
    }
    group.until("all to be committed", |group| {
        let replica = group.replica(last);
        replica.commit() == replica.log().last().index
    });
    let count = caller.add(&mut group, counter);
    group.run(1_000);
    group.crash(last);
    let whole = group.node(last).disk.clone();

    // One batch within the log, and then its end.
    let all: Vec<Index> = bodies(&mut group, last).into_iter().map(|(end, ..)| end).collect();
    rot(&mut group, last, all[all.len() / 2]);
    let refused = |group: &mut Group| {
        let refused = group.try_start(last).expect_err("nobody could mend it");
        assert!(matches!(refused, margay_log::Error::Damaged { .. }), "{refused}");
    };
    refused(&mut group);
    group.node(last).disk = whole.clone();
    let (_, segment, offset) = *bodies(&mut group, last).last().expect("batches");
    assert!(group.node(last).disk.overwrite(segment, offset & !4_095, &[0; 4_096]));
    refused(&mut group);

    let block = &mut [0; 4_096];
    whole.clone().read(segment, offset & !4_095, block).expect("readable");
    assert!(group.node(last).disk.overwrite(segment, offset & !4_095, block));
    group.start(last);
    let mut caller = Caller::new(&group, 2, &[last], 60_000);
    assert_eq!(caller.add(&mut group, counter), count + 1);
}

/// A voter has lost the end of its log, and the leader to whom it had acknowledged that leads on.
/// On the way back there it holds much that is committed: it votes when it holds all of it.
#[test]
fn who_is_brought_its_lost_end_by_the_same_leader_votes_when_it_has_all_of_it() {
    let mut group = Group::new(3);
    let (leader, others) = group.led();
    let (victim, away) = (others[0], others[1]);
    let mut caller = Caller::new(&group, 1, &[leader], 60_000);
    let counter = caller.open(&mut group, "counter", kind::COUNTER);
    group.converge();
    group.isolate(away);
    for _ in 0..30 {
        caller.add(&mut group, counter);
    }
    // Two disks have it all, and know that they do.
    group.run(1_000);
    let last = group.replica(leader).commit();
    assert_eq!(group.replica(victim).log().durable(), last);
    group.crash(victim);
    let all = bodies(&mut group, victim);
    let (_, segment, offset) = all[all.len() - 20];
    assert!(group.node(victim).disk.overwrite(segment, offset & !4_095, &[0; 4_096]));
    group.start(victim);
    assert_eq!(group.replica(victim).log().repair(), Some(last));
    // Half of it comes.
    let half = Index(last.0 - 10);
    group.weather = Some(Box::new(move |flight| {
        let is_behind = flight.batch.as_ref().is_some_and(|it| it.header().last().index > half);
        (!is_behind).then_some(Micros(0))
    }));
    group.until("half of it", |group| group.replica(victim).log().durable() == half);
    group.run(1_000);
    assert_eq!(group.replica(victim).commit(), half, "committed in the leader's own term");
    assert_eq!(group.leads(), Some(leader));
    group.crash(leader);
    group.weather = None;
    group.heal();
    group.run(5_000);
    assert_eq!(group.leads(), None, "the only one that has it is away");
    group.start(leader);
    group.converge();
    let mut caller = Caller::new(&group, 2, &[1, 2, 3], 60_000);
    assert_eq!(caller.count(&mut group, counter), 30);
    // And now it votes.
    group.crash(leader);
    group.until("another leader", |group| group.leads().is_some());
}

/// A leader cannot read on to its own beginning, and the others have let go of what it lacks. The
/// state that it is brought goes as far as that beginning: it leads from there, though nothing
/// else is applied.
#[test]
fn a_leader_that_is_brought_a_state_with_its_beginning_serves() {
    const LEADS: u32 = 1;
    let mut group = Group::with(3, |config| {
        if config.raft.id != NodeId(LEADS) {
            config.snapshot_after = 1;
        }
    });
    let mut caller = Caller::new(&group, 1, &[1, 2, 3], 60_000);
    let counter = caller.open(&mut group, "counter", kind::COUNTER);
    for _ in 0..60 {
        caller.add(&mut group, counter);
    }
    caller.fill(&mut group, 60);
    group.converge();
    group.run(1_000);
    let begins = |group: &Group, n: u32| group.replica(n).log().start().id.index;
    let lacks = bodies(&mut group, LEADS)[10].0;
    assert!(begins(&group, LEADS) < lacks && [2, 3].iter().all(|n| begins(&group, *n) > lacks));

    // Nobody else can be elected, and it cannot read yet what it is to apply.
    (1..=3).for_each(|n| group.crash(n));
    [2, 3].iter().for_each(|n| group.start(*n));
    group.weather = Some(Box::new(|flight| {
        let frame = wire::decode(&flight.frame).expect("a frame");
        let body = PeerMessage::decode(&frame).map(|said| said.message.body);
        let stands = matches!(body, Ok(Body::PreVote { .. } | Body::Vote { .. }));
        (!stands || flight.from == LEADS).then_some(Micros(0))
    }));
    group.node(LEADS).holds = Some(|op| matches!(op, Op::Read { .. }));
    // It begins again and again, until one of the others takes a snapshot of just that.
    let made = |group: &Group| [2, 3].map(|n| group.replica(n).snapshot_counts().made);
    let before = made(&group);
    let mut attempts = 0;
    while made(&group) == before {
        attempts += 1;
        assert!(attempts < 40, "a snapshot is due with every tenth entry or so");
        if attempts > 1 {
            group.crash(LEADS);
        }
        group.start(LEADS);
        group.until("it to lead", |group| group.leads() == Some(LEADS));
        group.run(200);
    }
    let beginning = group.replica(LEADS).log().last();
    assert_eq!(beginning.term, group.replica(LEADS).term());
    // The other one has an older snapshot.
    let other = if made(&group)[0] == before[0] { 2 } else { 3 };
    group.cut.extend([(other, LEADS), (LEADS, other)]);
    rot(&mut group, LEADS, lacks);
    group.node(LEADS).holds = None;
    group.until("the state", |group| group.replica(LEADS).snapshot_counts().installed == 1);
    assert_eq!(
        group.replica(LEADS).machine().applied(),
        beginning.index,
        "nothing is left to read"
    );
    assert_eq!(group.leads(), Some(LEADS));
    let mut caller = Caller::new(&group, 2, &[LEADS], 60_000);
    assert_eq!(caller.count(&mut group, counter), 60);
    assert_eq!(caller.add(&mut group, counter), 61);
    group.weather = None;
    group.heal();
    group.converge();
}

/// A founder that was alone has its damage mended by those who joined it.
#[test]
pub(super) fn damage_of_a_founder_is_mended_by_who_joined() {
    let mut group = Group::new(1);
    let mut caller = Caller::new(&group, 1, &[1], 60_000);
    let counter = caller.open(&mut group, "counter", kind::COUNTER);
    caller.add(&mut group, counter);
    for _ in 0..2 {
        let joined = group.join();
        let name = format!("n{joined}");
        let (incarnation, node) = (Incarnation(u64::from(joined)), NodeId(0));
        let add = Admin::Add { name: &name, address: &address(joined), incarnation, node };
        assert_eq!(ask(&mut group, 1, add), "done");
        group.converge();
        assert_eq!(ask(&mut group, 1, Admin::Promote { name: &name }), "done");
    }
    let mut count = 0;
    for _ in 0..10 {
        count = caller.add(&mut group, counter);
    }
    group.converge();
    group.run(1_000);
    group.crash(1);
    let all: Vec<Index> = bodies(&mut group, 1).into_iter().map(|(end, ..)| end).collect();
    rot(&mut group, 1, all[all.len() - 3]);
    group.start(1);
    group.converge();
    assert!(group.replica(1).repair_counts().mended > 0);
    let mut caller = Caller::new(&group, 2, &[1, 2, 3], 60_000);
    assert_eq!(caller.add(&mut group, counter), count + 1);
}

/// A node lacks a membership that the others have no more in their logs. The state that it is
/// brought says who belongs to the group, and it votes by that.
#[test]
fn a_membership_that_rotted_is_told_by_the_snapshot_that_is_brought() {
    const LONE: u32 = 3;
    let mut group = Group::with(3, |config| {
        if config.raft.id != NodeId(LONE) {
            config.snapshot_after = 32 << 10;
        }
    });
    let leader = group.leader();
    let mut caller = Caller::new(&group, 1, &[1, 2, 3], 60_000);
    let counter = caller.open(&mut group, "counter", kind::COUNTER);
    let joined = group.join();
    let name = format!("n{joined}");
    let (incarnation, node) = (Incarnation(u64::from(joined)), NodeId(0));
    let add = Admin::Add { name: &name, address: &address(joined), incarnation, node };
    assert_eq!(ask(&mut group, leader, add), "done");
    group.converge();
    let at = group.replica(LONE).members().iter().last().expect("one is in force").0;
    let begin = |group: &Group, n| group.replica(n).log().start().id.index;
    while [1, 2, joined].iter().any(|n| begin(&group, *n) < at) {
        caller.fill(&mut group, 8);
    }
    assert_eq!(caller.add(&mut group, counter), 1);
    group.converge();
    group.run(1_000);
    assert_eq!(begin(&group, LONE), Index::ZERO);
    group.crash(LONE);
    let ends = bodies(&mut group, LONE).into_iter().map(|(end, ..)| end);
    let end = ends.filter(|end| *end >= at).min().expect("it is in the log");
    rot(&mut group, LONE, end);
    group.start(LONE);
    assert_eq!(group.replica(LONE).members().current().members().count(), 3, "as founded");
    group.until("the state", |group| group.replica(LONE).snapshot_counts().installed == 1);
    group.converge();
    let replica = group.replica(LONE);
    assert!(replica.members().current().find(&name).is_some());
    assert_eq!(replica.raft().configuration().learners(), [NodeId(joined)]);
}
