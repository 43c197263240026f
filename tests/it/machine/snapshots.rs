//! What is frozen comes back and goes on as if nothing had happened.

use super::{World, apply, chunks, restore};
use crate::resource::script::{Step, play, steps};
use margay::machine::{Frozen, RestoreError, kind};
use margay::resource::map::PutV1;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// At every prefix of a history: restore(freeze(x)) tells the same and freezes the same as x.
    #[test]
    fn a_restored_machine_goes_on_like_the_original(script in steps(60), max in 1_usize..400) {
        let (batches, _) = play(&script);
        let mut original = World::new();
        let mut copies: Vec<World> = Vec::new();
        for batch in &batches {
            let mut copy = World::new();
            copy.machine = restore(&chunks(&original.machine, max)).expect("what we wrote");
            copies.push(copy);
            original.seen = Default::default();
            original.batch(batch);
            let frozen = chunks(&original.machine, max);
            for copy in &mut copies {
                copy.seen = Default::default();
                copy.batch(batch);
                prop_assert_eq!(&copy.seen, &original.seen);
                prop_assert_eq!(&chunks(&copy.machine, max), &frozen);
                prop_assert_eq!(copy.machine.next_timer(), original.machine.next_timer());
            }
            // Ten living copies are enough to tell a late difference.
            if copies.len() > 10 {
                copies.remove(0);
            }
        }
    }

    /// A frozen view does not see what happens after it was taken.
    #[test]
    fn a_frozen_view_stays_as_it_was(script in steps(40), at in 0_usize..40) {
        let (batches, _) = play(&script);
        let (before, after) = batches.split_at(at.min(batches.len()));
        let mut world = World::new();
        before.iter().for_each(|batch| world.batch(batch));
        let expected = chunks(&world.machine, 300);
        let mut frozen = world.machine.freeze();
        let (mut written, mut rest) = (Vec::new(), after.iter());
        loop {
            let mut chunk = Vec::new();
            let more = frozen.next_chunk(300, &mut chunk);
            written.push(chunk);
            if let Some(batch) = rest.next() {
                world.batch(batch);
            }
            if !more {
                break;
            }
        }
        prop_assert_eq!(written, expected);
    }

    /// A damaged snapshot is an error or restores something; never a panic, then or later.
    #[test]
    fn a_damaged_snapshot_never_panics(
        script in steps(30),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let (batches, _) = play(&script);
        let mut world = World::new();
        batches.iter().for_each(|batch| world.batch(batch));
        let mut damaged = chunks(&world.machine, 200);
        for (at, byte) in flips {
            let chunk = at.index(damaged.len());
            let byte_at = at.index(damaged[chunk].len());
            damaged[chunk][byte_at] = byte;
        }
        let applied = world.machine.applied();
        if let Ok(mut machine) = restore(&damaged)
            && machine.applied() == applied
        {
            let more = play(&[Step::Tick(1_000_000)]).0;
            more.iter().for_each(|batch| apply(&mut machine, batch, &mut super::Seen::default()));
        }
        let cut = cut.index(damaged.len());
        prop_assert!(restore(&damaged[..cut]).is_err(), "an incomplete snapshot is no snapshot");
    }
}

#[test]
fn chunks_have_the_size_asked_for() {
    let mut world = World::new();
    let session = world.register(1);
    let map = world.open(session, "map", kind::MAP);
    for n in 0..500_u32 {
        let key = n.to_be_bytes().to_vec();
        world.command(
            session,
            map,
            &PutV1 { key, value: vec![1; 100], previous: false, ephemeral: false, ttl_ms: 0 },
        );
    }
    let written = chunks(&world.machine, 4_096);
    assert!(written.len() > 20);
    assert!(written.iter().skip(2).all(|chunk| chunk.len() < 4_096 + 300));
    let large = chunks(&world.machine, usize::MAX);
    assert_eq!(large.len(), 4, "head, sessions, state, end");
    assert!(restore(&large).is_ok());
}

#[test]
fn chunks_out_of_order_are_refused() {
    let mut world = World::new();
    world.register(1);
    let good = chunks(&world.machine, 1_000);
    for (one, other) in [(0, 1), (1, 2), (2, 3)] {
        let mut swapped = good.clone();
        swapped.swap(one, other);
        assert!(restore(&swapped).is_err(), "{one} and {other}");
    }
    let mut newer = good.clone();
    newer[0][1] = 9;
    assert_eq!(restore(&newer).err(), Some(RestoreError::TooNew { found: 9 }));
    assert_eq!(restore(&good[..3]).err(), Some(RestoreError::Incomplete));
}
