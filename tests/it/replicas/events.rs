//! Watching over crashes, partitions and snapshots.

use margay::client::session::Output;
use margay::machine::{Code, ResourceId, kind};
use margay::resource::registry::DeleteV1;
use margay::resource::value::SetV1;
use margay::wire;
use margay::wire::client::{Request, Response};
use margay_log::id::{Index, Micros};

use super::caller::Caller;
use super::group::Group;

/// Whoever watches sees each change once, in order, from whichever node: over broken connections,
/// nodes that crash, nodes that lag, and nodes whose state leaps ahead with a snapshot.
#[test]
pub(super) fn watch_no_gap_no_dup_no_time_travel() {
    let mut group = Group::with(3, |config| config.snapshot_after = 32 << 10);
    let (leader, others) = group.led();
    let mut writer = Caller::new(&group, 1, &[leader, others[0], others[1]], 30_000);
    let value = writer.open(&mut group, "value", kind::VALUE);
    let mut watcher = Caller::new(&group, 2, &[others[0], others[1], leader], 30_000);
    watcher.watch(&group, value, Index::ZERO);
    let (mut written, mut leaps) = (Vec::new(), 0);
    for round in 0_u8..24 {
        for n in 0..5 {
            let set = SetV1 { value: vec![round, n], ephemeral: false, ttl_ms: 0 };
            let id = writer.command(&group, value, &set);
            group.until("a write", |group| {
                watcher.carry(group);
                writer.carry(group);
                writer.session.in_flight() == 0
            });
            written.push(writer.result(id).expect("just seen").expect("it is written").index);
        }
        // Time to find another node, if it needs one.
        for _ in 0..20 {
            group.run(20);
            watcher.carry(&mut group);
        }
        group.heal();
        watcher.cut.clear();
        let leader = group.leader();
        let follower = watcher.node(&group).filter(|node| *node != leader);
        match (round % 4, follower) {
            (0, Some(node)) => group.restart(node),
            (1, Some(node)) => {
                // It lags, its watcher sees nothing for a while, and then a leap.
                group.isolate(node);
                let last = group.replica(node).log().last().index;
                while group.replica(leader).log().start().id.index <= last {
                    writer.fill(&mut group, 8);
                }
                watcher.carry(&mut group);
                group.heal();
                leaps += 1;
            }
            // It goes to a node that is behind what it has seen.
            _ => {
                let behind = (1..=3).find(|n| *n != leader && Some(*n) != follower);
                let behind = behind.expect("two follow");
                group.isolate(behind);
                watcher.cut = (1..=3).filter(|n| *n != behind).collect();
                watcher.hang_up(&mut group);
            }
        }
    }
    group.heal();
    watcher.cut.clear();
    let last = *written.last().expect("much was written");
    group.until("the last event", |group| {
        watcher.carry(group);
        events(&watcher).last() == Some(&last)
    });
    assert_eq!(events(&watcher), written);
    let lagged = |told: &&Output| matches!(told, Output::Lagged { .. });
    assert_eq!(watcher.told.iter().filter(lagged).count(), 0, "so few are all kept");
    assert!(leaps > 1 && watcher.tried.len() > 8, "{leaps} leaps, {:?}", watcher.tried);
}

/// Nothing is kept of what was deleted, not even that it was. Who was cut off meanwhile is told so
/// by a node that has applied it, and by one whose state leaps over it.
#[test]
fn who_was_cut_off_from_what_was_deleted_is_told() {
    let mut group = Group::with(3, |config| config.snapshot_after = 32 << 10);
    let (leader, others) = group.led();
    let mut writer = Caller::new(&group, 1, &[leader], 30_000);
    let mut watchers = Vec::new();
    for (name, node) in [("one", leader), ("two", others[0]), ("three", others[1])] {
        let value = writer.open(&mut group, name, kind::VALUE);
        let mut watcher = Caller::new(&group, 2, &[node], 30_000);
        watcher.watch(&group, value, Index::ZERO);
        watchers.push((watcher, value));
    }
    group.until("all to watch", |group| {
        watchers.iter_mut().for_each(|(watcher, _)| watcher.carry(group));
        watchers.iter().all(|(watcher, _)| watcher.session.in_flight() == 0)
    });
    let lagging = others[1];
    group.isolate(lagging);
    for (watcher, value) in &mut watchers[..2] {
        watcher.hang_up(&mut group);
        let id = writer.command(&group, ResourceId(0), &DeleteV1 { resource: value.0 });
        writer.finish(&mut group, id).expect("it is deleted");
    }
    let id = writer.command(&group, ResourceId(0), &DeleteV1 { resource: watchers[2].1.0 });
    writer.finish(&mut group, id).expect("it is deleted");
    let last = group.replica(lagging).log().last().index;
    while group.replica(leader).log().start().id.index <= last {
        writer.fill(&mut group, 8);
    }
    group.heal();
    let end = |told: &Output| match told {
        Output::Ended { failure, .. } => Some(failure.code),
        _ => None,
    };
    group.until("all to be told", |group| {
        watchers.iter_mut().for_each(|(watcher, _)| watcher.carry(group));
        watchers.iter().all(|(watcher, _)| watcher.told.iter().any(|told| end(told).is_some()))
    });
    for (watcher, _) in &watchers {
        let ends: Vec<Code> = watcher.told.iter().filter_map(end).collect();
        assert_eq!(ends, [Code::NO_SUCH_RESOURCE]);
    }
    assert_eq!(group.replica(lagging).snapshot_counts().installed, 1, "its state has leapt");
}

/// A node that is cut off from its group has nothing to tell any more, and answers who asks whether
/// it is there: who only watches is sent elsewhere, and misses nothing.
#[test]
fn who_only_watches_is_sent_away_from_a_node_that_is_cut_off() {
    for cuts_leader in [false, true] {
        let mut group = Group::new(3);
        let (leader, others) = group.led();
        let cut = if cuts_leader { leader } else { others[0] };
        let rest: Vec<u32> = (1..=3).filter(|n| *n != cut).collect();
        let mut writer = Caller::new(&group, 1, &rest, 30_000);
        let value = writer.open(&mut group, "value", kind::VALUE);
        let mut watcher = Caller::new(&group, 2, &[cut, rest[0], rest[1]], 30_000);
        watcher.watch(&group, value, Index::ZERO);
        group.until("it to watch", |group| {
            watcher.carry(group);
            watcher.session.in_flight() == 0
        });
        group.isolate(cut);
        assert_eq!(watcher.node(&group), Some(cut));
        let set = SetV1 { value: b"new".to_vec(), ephemeral: false, ttl_ms: 0 };
        let id = writer.command(&group, value, &set);
        let written = writer.finish(&mut group, id).expect("the others go on").index;
        let begun = group.now;
        group.until("the event", |group| {
            watcher.carry(group);
            events(&watcher) == [written]
        });
        assert!(group.now.since(begun) < Micros::from_millis(10_000));
        assert_eq!(watcher.tried.len(), 2, "{:?}", watcher.tried);
    }
}

/// Where no node knows a leader, who watches asks one after the other, and takes time for it.
#[test]
fn who_only_watches_goes_round_while_nobody_leads() {
    let mut group = Group::new(3);
    let (leader, others) = group.led();
    let mut writer = Caller::new(&group, 1, &[leader, others[0], others[1]], 30_000);
    let value = writer.open(&mut group, "value", kind::VALUE);
    let mut watcher = Caller::new(&group, 2, &[leader, others[0], others[1]], 30_000);
    watcher.watch(&group, value, Index::ZERO);
    watcher.carry(&mut group);
    (1..=3).for_each(|n| group.isolate(n));
    for _ in 0..600 {
        group.run(100);
        watcher.carry(&mut group);
    }
    assert!((5..25).contains(&watcher.tried.len()), "{:?}", watcher.tried);
    group.heal();
    let set = SetV1 { value: b"new".to_vec(), ephemeral: false, ttl_ms: 0 };
    let id = writer.command(&group, value, &set);
    let written = writer.finish(&mut group, id).expect("they go on").index;
    group.until("the event", |group| {
        watcher.carry(group);
        events(&watcher) == [written]
    });
}

/// Where a state leaps, what is kept of the events in between is looked through for some of those
/// who watch; the others are told that they lag. What comes then all of them hear.
#[test]
fn many_who_watch_where_a_state_leaps_are_told_that_they_lag() {
    const WATCHERS: u64 = 1_500;
    let mut group = Group::with(3, |config| config.snapshot_after = 32 << 10);
    let (leader, others) = group.led();
    let lagging = others[0];
    let mut writer = Caller::new(&group, 1, &[leader], 30_000);
    let value = writer.open(&mut group, "value", kind::VALUE);
    group.converge();
    let conn = group.connect(lagging).expect("it runs");
    for id in 1..=WATCHERS {
        let mut frame = Vec::new();
        Request::Subscribe { id, resource: value, after: None, filter: &[] }.encode(&mut frame);
        group.say(conn, &frame);
    }
    let told = |group: &mut Group| {
        let bytes = group.heard(conn);
        let (mut events, mut lagged, mut rest) = (0, 0, &bytes[..]);
        while !rest.is_empty() {
            let (frame, others) = rest.split_at(wire::peek(rest).expect("frames").expect("whole"));
            let frame = wire::decode(frame).expect("a frame");
            match Response::decode(&frame).expect("ours") {
                Response::Event { .. } => events += 1,
                Response::Lagged { .. } => lagged += 1,
                _ => {}
            }
            rest = others;
        }
        (events, lagged)
    };
    assert_eq!(told(&mut group), (0, 0));
    group.isolate(lagging);
    let write = |group: &mut Group, writer: &mut Caller, text: &[u8]| {
        let set = SetV1 { value: text.to_vec(), ephemeral: false, ttl_ms: 0 };
        let id = writer.command(group, value, &set);
        writer.finish(group, id).expect("it is written");
    };
    write(&mut group, &mut writer, b"before the leap");
    let last = group.replica(lagging).log().last().index;
    while group.replica(leader).log().start().id.index <= last {
        writer.fill(&mut group, 8);
    }
    group.heal();
    group.until("the leap", |group| group.replica(lagging).snapshot_counts().installed == 1);
    let (events, lagged) = told(&mut group);
    assert_eq!(events + lagged, WATCHERS, "each is told something");
    assert!((512..=1_024).contains(&events), "16 MiB, of 16 KiB each: {events}");
    write(&mut group, &mut writer, b"behind the leap");
    group.converge();
    assert_eq!(told(&mut group), (WATCHERS, 0));
}

fn events(watcher: &Caller) -> Vec<Index> {
    let events = watcher.told.iter().filter_map(|told| match told {
        Output::Event { index, .. } => Some(*index),
        _ => None,
    });
    events.collect()
}
