use super::*;
use crate::machine::Sequence;
use crate::resource::codec::Encode;
use crate::resource::log::{AppendV1, Retention};
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
