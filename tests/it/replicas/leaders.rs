//! Who leads: at an operator's word, with a slow disk, after a pause, and on a bad network.

use std::collections::BTreeSet;

use margay::machine::kind;
use margay::replica::ConnId;
use margay::resource::counter::AddV1;
use margay::wire::client::{Admin, Request, Response};
use margay_log::disk::Op;
use margay_log::disk::sim::ENOSPC;
use margay_log::id::{Incarnation, Micros, NodeId};

use super::caller::Caller;
use super::group::{Group, address};

/// A node that does not lead says who does, whoever is named: it may not know all members.
#[test]
pub(super) fn an_operator_asks_who_does_not_know_the_new_node() {
    let mut group = Group::new(3);
    let (leader, others) = group.led();
    let unaware = others[0];
    group.isolate(unaware);
    let joined = group.join();
    let name = format!("n{joined}");
    let (incarnation, node) = (Incarnation(u64::from(joined)), NodeId(0));
    let add = Admin::Add { name: &name, address: &address(joined), incarnation, node };
    assert_eq!(ask(&mut group, leader, add), "done");
    group.converge_among(&[leader, others[1], joined]);
    assert_eq!(ask(&mut group, leader, Admin::Promote { name: &name }), "done");
    let said = ask(&mut group, unaware, Admin::Transfer { name: &name });
    assert!(said.starts_with("NOT_LEADER"), "{said}");
    // Who leads does know: a name that is no member's is refused for good.
    let said = ask(&mut group, leader, Admin::Transfer { name: "n9" });
    assert!(said.contains("n9 is no member"), "{said}");
    let said = ask(&mut group, leader, Admin::Transfer { name: &name });
    assert!(said.starts_with("LEADER_CHANGED"), "{said}");
    group.until("the new node to lead", |group| group.leads() == Some(joined));
    assert_eq!(ask(&mut group, joined, Admin::Transfer { name: &name }), "done");
    group.heal();
    group.converge();
}

/// What a node answers to an operator.
pub(super) fn ask(group: &mut Group, n: u32, admin: Admin<'_>) -> String {
    let conn = begin(group, n, admin);
    let mut said = None;
    group.until("an answer", |group| {
        said = answer(group, conn);
        said.is_some()
    });
    group.disconnect(conn);
    said.expect("just seen")
}

/// Asks a node, on a connection of its own.
fn begin(group: &mut Group, n: u32, admin: Admin<'_>) -> ConnId {
    let conn = group.connect(n).expect("it runs");
    let mut frame = Vec::new();
    Request::Admin { id: 1, admin }.encode(&mut frame);
    group.say(conn, &frame);
    conn
}

fn answer(group: &mut Group, conn: ConnId) -> Option<String> {
    let bytes = group.heard(conn);
    let frame = margay::wire::decode(&bytes).ok()?;
    match Response::decode(&frame).expect("an answer") {
        Response::Admin { .. } => Some("done".to_owned()),
        Response::Refused { code, text, .. } => Some(format!("{code:?} {text}")),
        other => panic!("{other:?}"),
    }
}

/// A change that waits in the open batch, because the followers' disks stand still, has begun: it
/// is not refused, to be made all the same when they go on.
#[test]
fn a_change_that_has_begun_is_not_refused_as_late() {
    let mut group = Group::new(3);
    let (leader, others) = group.led();
    let mut caller = Caller::new(&group, 1, &[leader], 60_000);
    let counter = caller.open(&mut group, "counter", kind::COUNTER);
    group.converge();
    for &other in &others {
        group.node(other).holds = Some(|op| matches!(op, Op::Write { .. }));
    }
    let added = caller.command(&group, counter, &AddV1 { delta: 1 });
    caller.carry(&mut group);
    group.run(10);
    let name = format!("n{}", others[0]);
    let conn = begin(&mut group, leader, Admin::Demote { name: &name });
    group.run(5_000);
    assert_eq!(answer(&mut group, conn), None);
    for &other in &others {
        group.node(other).holds = None;
    }
    group.until("an answer", |group| answer(group, conn) == Some("done".to_owned()));
    caller.finish(&mut group, added).expect("it is committed");
}

/// A leader that is told to go, or not to vote any more, says that it is done, and steps down.
#[test]
fn a_leader_that_is_removed_says_that_it_is_done() {
    for demoted in [false, true] {
        let mut group = Group::new(3);
        let (leader, others) = group.led();
        let name = format!("n{leader}");
        let change =
            if demoted { Admin::Demote { name: &name } } else { Admin::Remove { name: &name } };
        assert_eq!(ask(&mut group, leader, change), "done");
        group.until("another to lead", |group| group.leads().is_some_and(|leads| leads != leader));
        // The next one knows it, too.
        let next = others.into_iter().find(|&other| group.leads() == Some(other));
        assert_eq!(ask(&mut group, next.expect("one of them"), change), "done");
    }
}

/// Leadership stays where an operator wants it, whatever the rank, for ten minutes.
#[test]
pub(super) fn an_operators_transfer_holds() {
    let mut group = Group::with(3, |config| config.settled = Micros::from_millis(5_000));
    group.until("the first to lead", |group| group.leads() == Some(1));
    let transfer = Admin::Transfer { name: "n3" };
    assert!(ask(&mut group, 1, transfer).starts_with("LEADER_CHANGED"));
    group.until("n3 to lead", |group| group.leads() == Some(3));
    assert_eq!(ask(&mut group, 3, transfer), "done");
    for _ in 0..590 {
        group.run(1_000);
        assert_eq!(group.leads(), Some(3));
    }
    // Then the ranks count again.
    group.run(20_000);
    group.until("the first to lead again", |group| group.leads() == Some(1));
}

/// An operator who wants the present leader to lead gets that, though it is handing over.
#[test]
fn an_operator_keeps_a_leader_that_is_handing_over() {
    let mut group = Group::new(3);
    let (leader, others) = group.led();
    let mut caller = Caller::new(&group, 1, &[leader], 60_000);
    let counter = caller.open(&mut group, "counter", kind::COUNTER);
    group.converge();
    // The successor lacks an entry, and so is not told to stand yet.
    group.node(others[0]).holds = Some(|op| matches!(op, Op::Write { .. }));
    assert_eq!(caller.add(&mut group, counter), 1);
    let (next, own) = (format!("n{}", others[0]), format!("n{leader}"));
    let conn = begin(&mut group, leader, Admin::Transfer { name: &next });
    group.run(100);
    assert_eq!(answer(&mut group, conn), None);
    assert_eq!(ask(&mut group, leader, Admin::Transfer { name: &own }), "done");
    let said = answer(&mut group, conn).expect("it is over");
    assert!(said.starts_with("CHANGE_UNDER_WAY"), "{said}");
    let begun = group.now;
    assert_eq!(caller.add(&mut group, counter), 2);
    assert!(group.now.since(begun) < Micros::from_millis(200), "it takes commands at once");
    group.node(others[0]).holds = None;
    group.run(3_000);
    assert_eq!(group.leads(), Some(leader));
}

/// A leader whose disk is slow commits with the disks of the others, and hands over before long;
/// a follower's slow disk is nobody's business.
#[test]
pub(super) fn slow_disk_on_leader_or_follower() {
    for victim in [1, 2] {
        let mut group = Group::with(3, |config| config.settled = Micros::from_millis(5_000));
        group.until("the first to lead", |group| group.leads() == Some(1));
        let mut caller = Caller::new(&group, 1, &[1, 2, 3], 10_000);
        let counter = caller.open(&mut group, "counter", kind::COUNTER);
        group.node(victim).pace = Micros::from_millis(400);
        let (begun, mut longest) = (group.now, Micros(0));
        let mut led = BTreeSet::new();
        for _ in 0..500 {
            let asked = group.now;
            caller.add(&mut group, counter);
            longest = longest.max(group.now.since(asked));
            group.run(20);
            led.extend(group.leads());
        }
        assert!(longest < Micros::from_millis(1_500), "a write took {longest}");
        assert!(group.now.since(begun) < Micros::from_millis(15_000));
        let moved = led.iter().any(|n| *n != 1);
        assert_eq!(moved, victim == 1, "led: {led:?}");
        group.node(victim).pace = Micros(0);
        group.converge();
        assert_eq!(caller.count(&mut group, counter), 500);
    }
}

/// A leader whose disk is full takes no more, and the others have space: it hands over before long,
/// and does not lead again while that is so.
#[test]
pub(super) fn a_leader_whose_disk_is_full_hands_over() {
    let mut group = Group::with(3, |config| config.settled = Micros::from_millis(5_000));
    group.until("the first to lead", |group| group.leads() == Some(1));
    let mut caller = Caller::new(&group, 1, &[1, 2, 3], 30_000);
    let counter = caller.open(&mut group, "counter", kind::COUNTER);
    group.node(1).disk.fail_prepares(Some(ENOSPC));
    let begun = group.now;
    caller.fill(&mut group, 300);
    assert!(group.now.since(begun) < Micros::from_millis(15_000), "it hands over before long");
    for count in 1..=60 {
        assert_eq!(caller.add(&mut group, counter), count);
        assert_ne!(group.leads(), Some(1));
        group.run(2_000);
    }
    group.node(1).disk.fail_prepares(None);
    group.converge();
    group.until("the first to lead again", |group| group.leads() == Some(1));
    assert_eq!(caller.count(&mut group, counter), 60);
}

/// A leader that stood still for long is no leader when it goes on, whatever waits for it.
#[test]
pub(super) fn process_pause_of_leader_then_resume() {
    let mut group = Group::new(3);
    let (leader, others) = group.led();
    let mut caller = Caller::new(&group, 1, &[leader, others[0], others[1]], 10_000);
    let counter = caller.open(&mut group, "counter", kind::COUNTER);
    // One that stays with the old leader: it has asked just before the pause.
    let mut stays = Caller::new(&group, 2, &[leader], 60_000);
    assert_eq!(stays.count(&mut group, counter), 0);
    let read = stays.query(
        &group,
        margay::machine::Level::Lease,
        counter,
        &margay::resource::counter::GetV1 {},
    );
    group.node(leader).paused = true;
    stays.carry(&mut group);
    for expected in 1..=20 {
        assert_eq!(caller.add(&mut group, counter), expected);
    }
    group.run(3_000);
    group.node(leader).paused = false;
    let answer = stays.finish(&mut group, read).expect("it is read in the end");
    assert_eq!(super::caller::number(&answer.payload, 0), 20, "nothing old is read");
    group.converge();
    assert_ne!(group.leader(), leader);
}

/// Half of all messages are lost, the others take 25 to 125 ms: the group gets somewhere, and
/// loses nothing.
#[test]
pub(super) fn drop_half_and_delay() {
    let mut group = Group::new(3);
    let (leader, others) = group.led();
    let mut caller = Caller::new(&group, 1, &[leader, others[0], others[1]], 30_000);
    let counter = caller.open(&mut group, "counter", kind::COUNTER);
    let mut rng = group.rng.fork();
    group.weather = Some(Box::new(move |_| {
        let delay = Micros(25_000 + rng.below(100_000));
        rng.chance(1, 2).then_some(delay)
    }));
    let mut counted = 0;
    for _ in 0..60 {
        let add = margay::resource::counter::AddV1 { delta: 1 };
        let id = caller.command(&group, counter, &add);
        counted += i64::from(caller.finish(&mut group, id).is_ok());
    }
    assert!(counted > 10, "{counted} of 60");
    group.weather = None;
    group.converge();
    let count = caller.count(&mut group, counter);
    assert!((counted..=60).contains(&count), "{counted} were acknowledged, {count} counted");
}
