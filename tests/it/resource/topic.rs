//! The topic: one order for all, explicit where something is missing.

use super::handles::Near;
use crate::machine::World;
use margay::machine::{Events, Filter, ResourceId, VALUE_MAX, kind};
use margay::resource::Topic;
use margay::resource::topic::{PublishV1, StatusV1, TopicEvent};
use margay_log::id::Index;

#[test]
fn subscribers_hear_all_messages_in_one_order() {
    let (one, two) = Near::pair();
    let ours = Topic::open(one, "news").wait().unwrap();
    let theirs = Topic::open(two, "news").wait().unwrap();
    assert_eq!(ours.status().wait().unwrap(), (0, None));
    let mut all = [ours.subscribe(None, Filter::All), theirs.subscribe(None, Filter::All)];
    let mut some = theirs.subscribe(None, Filter::Prefix(b"b".to_vec()));
    let mut positions = Vec::new();
    for (n, key) in [b"a1", b"b1", b"b2"].into_iter().enumerate() {
        let from = if n == 1 { &theirs } else { &ours };
        positions.push(from.publish_under(key, &[n as u8]).wait().unwrap());
    }
    positions.push(ours.publish(b"to nobody in particular").wait().unwrap());
    assert!(positions.windows(2).all(|pair| pair[0] < pair[1]));
    let heard = |watch: &mut margay::resource::Watch<TopicEvent>| -> Vec<Index> {
        let events = std::iter::from_fn(|| watch.try_next()).map(Result::unwrap);
        let position = |event| match event {
            TopicEvent::Message { position, .. } => position,
            other => panic!("{other:?}"),
        };
        events.map(position).collect()
    };
    for watch in &mut all {
        assert_eq!(heard(watch), positions, "the publisher too");
    }
    assert_eq!(heard(&mut some), positions[1..3]);
    assert_eq!(ours.status().wait().unwrap(), (4, positions.last().copied()));
}

#[test]
fn the_past_is_bounded_and_a_gap_is_explicit() {
    let mut world = World::new();
    let session = world.register(1);
    let id = world.open(session, "news", kind::TOPIC);
    let publish = |world: &mut World| {
        let message = PublishV1 { key: vec![], value: vec![7; 10] };
        world.command(session, id, &message).index
    };
    let positions: Vec<u64> = (0..1_500).map(|_| publish(&mut world)).collect();
    let resource = ResourceId(id);
    let after = |index| world.machine.events(resource, (Index(index), u32::MAX), &[]);
    let Events::Lagged { oldest } = after(0) else { panic!("the first is long gone") };
    assert_eq!(oldest.0, positions[1_500 - 1_024]);
    let Events::Some(rest) = after(positions[1_000]) else { panic!("it is kept") };
    let heard: Vec<u64> = rest.iter().map(|(index, _)| index.0).collect();
    assert_eq!(heard, positions[1_001..], "no gap, no duplicate");
    let status = world.query(session, id, &StatusV1 {}).payload;
    assert_eq!(status[..8], 1_500_u64.to_le_bytes());
}

#[test]
fn a_message_too_large_to_be_kept_leaves_a_gap() {
    let mut world = World::new();
    let session = world.register(1);
    let id = world.open(session, "news", kind::TOPIC);
    let mut publish = |size| {
        let message = PublishV1 { key: vec![], value: vec![7; size] };
        world.command(session, id, &message).index
    };
    let (first, large, last) = (publish(1), publish(VALUE_MAX), publish(1));
    let after = |index| world.machine.events(ResourceId(id), (Index(index), u32::MAX), &[]);
    for behind in [0, first] {
        assert!(matches!(after(behind), Events::Lagged { oldest } if oldest.0 == last));
    }
    let Events::Some(rest) = after(large) else { panic!("it is kept") };
    assert_eq!(rest.len(), 1);
}
