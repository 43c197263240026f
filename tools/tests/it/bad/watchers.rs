//! Who watches and does not read what comes.

use margay::machine::{Code, ResourceId, kind};
use margay::resource::Directory;
use margay::resource::value::ValueEvent;
use margay::wire::client::{RefusedOf, Request, Response};
use margay_log::id::Index;

use super::frames::peak_memory;
use super::{One, Wire, connect};
use crate::harness::{Scratch, beside_others, until};

/// What one connection may subscribe to.
const SUBSCRIPTIONS: u64 = 4_096;
const VALUE_BYTES: usize = 32 << 10;
const WRITES: u32 = 100;

/// Subscribes as often as a connection may, and once more.
fn subscribe_to_all(wire: &mut Wire, resource: ResourceId) {
    let mut bytes = Vec::new();
    for id in 0..=SUBSCRIPTIONS {
        Request::Subscribe { id, resource, after: None, filter: &[] }.encode(&mut bytes);
    }
    wire.send(&bytes);
    for id in 0..SUBSCRIPTIONS {
        let told = wire.answer(|answer| match answer {
            Response::Subscribed { id, .. } => id,
            other => panic!("not subscribed: {other:?}"),
        });
        assert_eq!(told, id);
    }
    let (of, code, _) = wire.refusal();
    assert_eq!((of, code), (RefusedOf::Subscription(SUBSCRIPTIONS), Code::TOO_MANY_SUBSCRIPTIONS));
}

#[test]
fn who_watches_and_does_not_read_is_closed_and_the_others_hear_everything() {
    let _beside = beside_others();
    let scratch = Scratch::new("bad-watch");
    let one = One::start(scratch.path());
    let client = connect(&one.address);
    let value = client.value("bad-watch").wait().expect("opens");
    let begin = value.set(b"begin").wait().expect("is set");
    let directory = Directory::new(client.group_of("bad-watch").expect("its group"));
    let found = directory.find("bad-watch", kind::VALUE).wait().expect("answers");
    let id = found.expect("it is there").id;

    let mut deaf: Vec<Wire> = (0..4).map(|_| Wire::client(&one.address)).collect();
    deaf.iter_mut().for_each(|wire| subscribe_to_all(wire, id));
    let mut watch = value.watch(Some((begin, u32::MAX)));
    let before = peak_memory(one.child.id());
    let mut last = Index::ZERO;
    for n in 0..WRITES {
        last = value.set(&vec![n as u8; VALUE_BYTES]).wait().expect("is set");
    }
    for n in 0..WRITES {
        let event = watch.wait_next().expect("an event");
        let ValueEvent::Changed { new, .. } = event else { panic!("{event:?}") };
        assert_eq!(new.value, vec![n as u8; VALUE_BYTES], "once, and in order");
    }
    // Each of the deaf was owed 4,096 times as much as that.
    let grown = peak_memory(one.child.id()) - before;
    println!("{grown} KiB for four watchers that do not read");
    assert!(grown < 200 << 10, "{grown} KiB");
    until("the node has said why", || {
        one.said().contains("the client does not read what it asked for")
    });
    for wire in &mut deaf {
        wire.rest();
    }

    // Who comes back and is too far behind is told so, and goes on.
    let mut late = value.watch(Some((begin, u32::MAX)));
    let lagged = late.wait_next().expect("an event");
    let ValueEvent::Lagged { oldest } = lagged else { panic!("{lagged:?}") };
    let goes_on = late.wait_next().expect("an event");
    let ValueEvent::Changed { new, .. } = goes_on else { panic!("{goes_on:?}") };
    assert_eq!(new.version, oldest);
    let newest = loop {
        match late.wait_next().expect("an event") {
            ValueEvent::Changed { new, .. } if new.version == last => break new.value,
            ValueEvent::Changed { .. } => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(newest[0] as u32, WRITES - 1);
    one.serves();
}
