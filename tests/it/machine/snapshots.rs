//! What is frozen comes back and goes on as if nothing had happened.

use std::sync::OnceLock;

use super::{Batched, Logged, World, apply, chunks, restore};
use crate::resource::script::{Step, play, steps};
use margay::machine::{Code, ENDED_PER_ENTRY, Frozen, RestoreError, SessionId, kind};
use margay::resource::lock::LockV1;
use margay::resource::map::PutV1;
use margay_log::id::Micros;
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

/// The snapshot of a machine in which two sessions are ending that still hold much, and a third
/// waits for some of it.
fn ending() -> &'static [Vec<u8>] {
    static ENDING: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    ENDING.get_or_init(|| {
        let mut world = World::new();
        let [one, two, waits] = [1, 2, 3].map(|key| world.register(key));
        let map = world.open(waits, "map", kind::MAP);
        let locks: Vec<u64> =
            (0..3).map(|n| world.open(waits, &format!("lock{n}"), kind::LOCK)).collect();
        for session in [one, two] {
            for key in 0..ENDED_PER_ENTRY as u64 + 50 {
                let key = [session, key].map(u64::to_be_bytes).concat();
                let (value, previous, ephemeral, ttl_ms) = (Vec::new(), false, true, 0);
                let put = PutV1 { key, value, previous, ephemeral, ttl_ms };
                assert_eq!(world.command(session, map, &put).code, Code::OK);
            }
        }
        for session in [one, two, waits] {
            let lock = LockV1 { request: 1, wait_ms: None };
            locks.iter().for_each(|id| drop(world.command(session, *id, &lock)));
        }
        // All in one batch: before the next, those that are ending let go of more.
        let ends = [(one, kind::CLOSE), (two, kind::EXPIRE)];
        let ends = ends.map(|(session, kind)| Logged { kind, session, ..Logged::default() });
        world.batch(&Batched { time: world.time, entries: ends.to_vec() });
        assert_eq!(world.machine.sessions().len(), 3, "both still hold something");
        chunks(&world.machine, 400)
    })
}

/// Behind version, applied and time in the head: how many are ending, then who and why.
const ENDING: usize = 1 + 4 + 8 + 8;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever a snapshot says of sessions that are ending is an error, or comes to its end.
    #[test]
    fn hostile_bytes_about_sessions_that_are_ending_never_panic(
        said in prop_oneof![
            prop::collection::vec((0..5_u64, 0..3_u8), 0..5),
            prop::collection::btree_map(prop_oneof![0..5_u64, any::<u64>()], 0..2_u8, 0..4)
                .prop_map(|said| said.into_iter().collect()),
        ],
        counted in prop::option::of(any::<u32>()),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        grown in prop::collection::vec(any::<u8>(), 0..2),
    ) {
        let mut damaged = ending().to_vec();
        let head = &mut damaged[0];
        head.truncate(ENDING);
        head.extend(counted.unwrap_or(said.len() as u32).to_le_bytes());
        for (session, reason) in &said {
            head.extend(session.to_le_bytes());
            head.push(*reason);
        }
        head.extend(grown);
        let head = damaged[0].clone();
        // Of the head and the sessions behind it, where those that are ending are not listed.
        for (at, byte) in flips {
            let chunk = &mut damaged[at.index(2)];
            let at = at.index(chunk.len());
            chunk[at] = byte;
        }
        let Ok(machine) = restore(&damaged) else { return Ok(()) };
        let written = chunks(&machine, 400);
        prop_assert_eq!(&written[0], &damaged[0], "nobody is left out or made up");
        for session in said.iter().map(|(session, _)| SessionId(*session)) {
            let lives = machine.sessions().get(session).is_some();
            let may_be = !lives && session.0 <= machine.applied().0;
            prop_assert!(may_be || damaged[0] != head, "{session:?} lives, or is to come");
        }
        let mut world = World { machine, ..World::new() };
        let again = restore(&written).expect("what we wrote");
        prop_assert_eq!(again.next_timer(), world.machine.next_timer());
        world.time = world.machine.time().0;
        for session in 0..5 {
            world.end(kind::CLOSE, session);
        }
        for _ in 0..10 {
            world.tick(Micros(0));
        }
        let is_due = world.machine.next_timer().is_some_and(|due| due <= world.machine.time());
        prop_assert!(!is_due, "nobody is ending any more");
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
