use super::*;
use crate::machine::Sequence;
use crate::resource::codec::Encode;
use crate::resource::log::{AppendV1, Retention};
use crate::resource::transaction::CommitV1;
use crate::resource::{counter, map};
use std::time::Duration;

fn apply<O: Encode>(registry: &mut Registry, index: u64, resource: u64, operation: &O) {
    let (payload, mut effects) = (operation.encode(), Effects::new());
    effects.begin(Index(index));
    let commit = Commit {
        index: Index(index),
        time: LogTime(0),
        session: SessionId(1),
        sequence: Sequence(index),
        kind: O::KIND,
        schema: O::SCHEMA,
        resource: ResourceId(resource),
        payload: &payload,
    };
    registry.apply(&commit, &mut effects);
    assert_eq!(effects.code, Code::OK);
}

#[test]
fn what_a_timer_drops_is_freed_bit_by_bit_also_where_nobody_comes_again() {
    let mut registry = Registry::new();
    let options = Retention::new().age(Duration::from_secs(1)).encode();
    let open = OpenV1 { name: b"log".to_vec(), kind: kind::LOG, options };
    apply(&mut registry, 2, 0, &open);
    apply(&mut registry, 3, 2, &AppendV1 { records: vec![vec![7]; 1_000], position: 0 });
    let due = registry.next_timer().expect("the records' end");
    assert_eq!(registry.fire(Index(4), due, 10, &mut Effects::new()), 1);
    // Each command of the group frees a part, whatever it is about.
    let other = OpenV1 { name: b"other".to_vec(), kind: kind::MAP, options: Vec::new() };
    let commands = (5..).take_while(|index| {
        let left = !registry.waste.is_empty();
        apply(&mut registry, *index, 0, &other);
        left
    });
    assert!((2..100).contains(&commands.count()));
}

/// What was cleared a moment ago must not be freed there and then.
#[test]
fn a_transaction_that_is_undone_frees_nothing_of_what_was_cleared_before() {
    let mut registry = Registry::new();
    for (index, kind) in [(2, kind::MAP), (3, kind::COUNTER)] {
        let open = OpenV1 { name: vec![b'a' + kind], kind, options: Vec::new() };
        apply(&mut registry, index, 0, &open);
    }
    for index in 4..1_000_u64 {
        let (key, value) = (index.to_be_bytes().to_vec(), Vec::new());
        let put = map::PutV1 { key, value, previous: false, ephemeral: false, ttl_ms: 0 };
        apply(&mut registry, index, 2, &put);
    }
    apply(&mut registry, 1_000, 2, &map::ClearV1 {});
    apply(&mut registry, 1_001, 3, &counter::AddV1 { delta: i64::MAX });
    assert!(!registry.waste.is_empty());
    let overflow = CommitV1 {
        kinds: vec![counter::AddV1::KIND],
        schemas: vec![counter::AddV1::SCHEMA],
        resources: vec![3],
        payloads: vec![counter::AddV1 { delta: 1 }.encode()],
        ..CommitV1::default()
    };
    apply(&mut registry, 1_002, 0, &overflow);
    assert!(!registry.waste.is_empty());
}
