//! Bits flip in what was durable: it is reported, never left out in silence; and what was reported
//! is remembered until it is repaired.

use std::collections::BTreeMap;

use margay_log::disk::sim::{EIO, SimDisk};
use margay_log::disk::{Disk, Done, Op};
use margay_log::format::BLOCK;
use margay_log::hard_state::{HardState, Newest};
use margay_log::id::{BatchEnd, EntryId, Index, SegmentNumber};
use margay_log::recover::{Cause, Storage};
use margay_log::rng::Rng;
use margay_log::{Error, Log, Opened, Options, Read, open};

use crate::world::{Made, World, for_seeds, options, received, seeds};

/// A world at rest: everything it holds is durable, and the disk says so.
fn at_rest(seed: u64, steps: usize) -> World {
    let mut world = World::new(seed);
    for _ in 0..steps {
        world.act();
        while world.rng.chance(1, 2) && world.finish_one() {
            world.tell();
        }
    }
    world.settle();
    world
}

fn some_block(disk: &SimDisk, rng: &mut Rng) -> (SegmentNumber, u64) {
    let segments: Vec<_> = disk.segment_numbers().collect();
    let segment = segments[rng.below(segments.len() as u64) as usize];
    let blocks: Vec<_> = disk.written_blocks(segment).collect();
    (segment, blocks[rng.below(blocks.len() as u64) as usize])
}

fn end_of(log: &Log) -> BatchEnd {
    let chain = log.chain_at(log.last().index).expect("the last is a batch end");
    BatchEnd { id: log.last(), chain }
}

#[test]
fn a_flipped_bit_is_reported() {
    let (mut damaged, mut harmless) = (0, 0);
    for_seeds("a_flipped_bit_is_reported", &seeds(24), |seed| {
        let world = at_rest(seed, 60);
        let whole = end_of(&world.log);
        let mut rng = Rng::new(seed);
        for _ in 0..40 {
            let mut disk = world.disk.clone();
            let (segment, block) = some_block(&disk, &mut rng);
            assert!(disk.flip(segment, block + rng.below(4096), rng.below(8) as u8));
            let opened = match open(&mut disk, options()) {
                Ok(opened) => opened,
                // A header that is not ours any more, and nothing behind it: said clearly.
                Err(Error::Foreign { .. } | Error::Newer { .. }) => continue,
                Err(error) => panic!("{error}"),
            };
            match opened.report.damage {
                Some(damage) => {
                    assert_eq!(damage.cause, Cause::Unreadable);
                    assert_eq!((damage.segment, damage.offset <= block), (segment, true));
                    assert_eq!(damage.index, opened.log.last().index.next());
                    assert_eq!(damage.until, whole.id.index);
                    repair(&world, disk, opened, whole);
                    damaged += 1;
                }
                None => {
                    assert_eq!(end_of(&opened.log), whole, "not one entry less without a word");
                    harmless += 1;
                }
            }
        }
    });
    println!("{damaged} flips in what counts, {harmless} in what does not");
    assert!(damaged > 50 && harmless > 50);
}

/// Where the last frame of a segment begins.
fn last_frame(disk: &mut SimDisk, segment: SegmentNumber) -> Option<u64> {
    let blocks: Vec<_> = disk.written_blocks(segment).collect();
    let mut bytes = vec![0; BLOCK];
    blocks.into_iter().rev().find(|&block| {
        disk.read(segment, block, &mut bytes).expect("it is there");
        bytes.starts_with(b"MGYF")
    })
}

/// What becomes of a log whose last batch in `segment` is gone: is it said to be damaged?
fn is_missed(disk: &SimDisk, segment: SegmentNumber) -> Option<bool> {
    let mut disk = disk.clone();
    let frame = last_frame(&mut disk, segment)?;
    assert!(disk.flip(segment, frame + 8, 0));
    Some(open(&mut disk, options()).expect("opens").report.damage.is_some())
}

/// Below it the disk loses nothing unnoticed; what nothing on disk says to be durable is not below
/// it.
#[test]
fn what_is_at_rest_is_missed() {
    let mut world = World::new(1);
    assert_eq!(world.log.at_rest_below(), SegmentNumber(0));
    let (mut missed, mut unnoticed) = (0, 0);
    for _ in 0..120 {
        world.append_one();
        world.settle_without_mark();
        assert_eq!(world.log.durable(), world.log.last().index);
        let below = world.log.at_rest_below();
        let segments: Vec<_> = world.disk.segment_numbers().collect();
        for &segment in segments.iter().filter(|segment| **segment < below) {
            assert_ne!(is_missed(&world.disk, segment), Some(false), "{segment} is at rest");
            missed += 1;
        }
        let last = segments.iter().rev().find_map(|&segment| {
            is_missed(&world.disk, segment).map(|is_missed| (segment, is_missed))
        });
        let (segment, is_missed) = last.expect("something was written");
        assert!(!is_missed && segment >= below, "nothing says that the newest batch was durable");
        unnoticed += 1;
    }
    assert!(missed > 100 && unnoticed == 120, "{missed} missed");
    // Once the log rests, the hard state says it of the newest too.
    world.settle();
    let below = world.log.at_rest_below();
    let newest = world.disk.segment_numbers().filter(|segment| *segment >= below);
    let newest: Vec<_> = newest.filter_map(|segment| is_missed(&world.disk, segment)).collect();
    assert!(!newest.is_empty() && newest.iter().all(|missed| *missed));
}

/// With somebody to ask, rot within the log costs the batch it hit, and that can be put back.
#[test]
fn a_rotten_batch_is_put_back_where_it_was() {
    let (mut mended, mut cut) = (0, 0);
    for_seeds("a_rotten_batch_is_put_back_where_it_was", &seeds(24), |seed| {
        let world = at_rest(seed, 60);
        let whole = end_of(&world.log);
        let mut rng = Rng::new(seed);
        let keep = || margay_log::Options { keep_rotten: true, ..options() };
        for _ in 0..30 {
            let mut disk = world.disk.clone();
            for _ in 0..=rng.below(2) {
                let (segment, block) = some_block(&disk, &mut rng);
                assert!(disk.flip(segment, block + 128 + rng.below(3968), rng.below(8) as u8));
            }
            let Ok(opened) = open(&mut disk, keep()) else { continue };
            let mut log = opened.log;
            if opened.report.damage.is_some() {
                cut += 1;
                continue;
            }
            assert_eq!(end_of(&log), whole, "the end is known");
            let damaged = log.damaged();
            let listed: Vec<_> = damaged.iter().map(|one| (one.first, one.end)).collect();
            let found = opened.report.rotten.iter().map(|one| (one.first, one.end));
            assert_eq!(listed, found.collect::<Vec<_>>());
            for rotten in damaged {
                let mut out = Vec::new();
                assert_eq!(log.read(rotten.first.prev(), 0, &mut out), Read::Damaged);
                let made = &world.made[&(rotten.first, rotten.end.chain.0)];
                assert!(log.mend(received(&made.bytes)), "it is the very batch");
                assert!(!log.mend(received(&made.bytes)), "once is enough");
                // The power may go while it is being written.
                let mut torn = disk.clone();
                log.ops().for_each(|op| {
                    torn.submit(op.clone());
                    disk.submit(op);
                });
                torn.power_cut(&mut rng);
                let again = open(&mut torn, keep()).expect("opens after a crash");
                assert_eq!(again.report.damage, None);
                assert_eq!(end_of(&again.log), whole);
                let mut done = Vec::new();
                disk.poll(true, &mut done);
                done.into_iter().for_each(|done| _ = log.on_done(done).expect("works"));
                mended += 1;
            }
            assert!(!log.is_damaged());
            let mut again = open(&mut disk, keep()).expect("opens again");
            assert_eq!((again.report.damage, again.report.rotten.len()), (None, 0));
            world.read_all(&mut again.log, &mut disk);
        }
    });
    println!("{mended} batches put back, {cut} logs cut because a frame was hit");
    assert!(mended > 50);
}

/// Batches rot, are found and put back, while all else goes on and the power goes in between.
#[test]
fn rot_comes_and_goes_in_any_history() {
    let mut count = Rotted::default();
    for_seeds("rot_comes_and_goes_in_any_history", &seeds(12), |seed| {
        for options in [options(), crate::world::thrifty()] {
            // What an unreadable batch holds cannot be told.
            let options = Options { keep_rotten: true, mark: None, ..options };
            rot_in_history(World::with(seed, options), &mut Rng::new(seed ^ 0x207), &mut count);
        }
    });
    let Rotted { flips, cuts, found, mended } = count;
    println!("{flips} flips, {cuts} power cuts, {found} found after one, {mended} put back");
    assert!(flips > 30 && found > 100 && mended > 10);
}

#[derive(Default)]
struct Rotted {
    flips: u64,
    cuts: u64,
    found: u64,
    mended: u64,
}

fn rot_in_history(mut world: World, rng: &mut Rng, count: &mut Rotted) {
    for step in 0..120 {
        world.act();
        match rng.below(8) {
            0..3 => count.flips += u64::from(flip_at_rest(&mut world, rng)),
            3 => {
                let behind = rng.below(world.log.last().index.0 + 1);
                world.log.scrub(Index(behind));
            }
            4 => count.mended += put_back_all(&world.made, &mut world.log),
            _ => {}
        }
        world.log.ops().for_each(|op| world.disk.submit(op));
        while world.rng.chance(1, 2) && world.finish_one() {
            world.tell();
        }
        let mut disk = world.disk.clone();
        disk.power_cut(rng);
        count.cuts += 1;
        let (mut log, report, meta) = world.check_after_crash(&mut disk);
        count.found += report.rotten.len() as u64;
        if step % 40 == 39 {
            world.go_on(disk, log, meta);
        } else if rng.chance(1, 8) {
            count.mended += put_back_all(&world.made, &mut log);
            world.read_all(&mut log, &mut disk);
        }
    }
}

/// A bit in the body of a batch flips, where the next opening would miss it.
fn flip_at_rest(world: &mut World, rng: &mut Rng) -> bool {
    let below = world.log.at_rest_below();
    let segments = world.disk.segment_numbers().filter(|segment| *segment < below);
    let blocks = segments.flat_map(|segment| {
        let blocks = world.disk.written_blocks(segment).filter(|block| *block > 0);
        blocks.map(move |block| (segment, block))
    });
    let blocks: Vec<_> = blocks.collect();
    if blocks.is_empty() {
        return false;
    }
    let (segment, block) = blocks[rng.below(blocks.len() as u64) as usize];
    world.disk.flip(segment, block + 128 + rng.below(3968), rng.below(8) as u8)
}

/// All that the log knows to be unreadable.
fn put_back_all(made: &BTreeMap<(Index, u32), Made>, log: &mut Log) -> u64 {
    let damaged = log.damaged();
    for rotten in &damaged {
        let made = &made[&(rotten.first, rotten.end.chain.0)];
        assert!(log.mend(received(&made.bytes)), "it is the very batch");
    }
    damaged.len() as u64
}

/// A batch was to be put back and was cut off meanwhile; the disk refuses.
#[test]
fn a_batch_that_takes_the_place_of_an_unreadable_one_is_not_taken_for_it() {
    let mut world = World::with(1, Options { keep_rotten: true, mark: None, ..options() });
    for _ in 0..4 {
        world.append_one();
        world.settle_without_mark();
    }
    let (segment, block) = (SegmentNumber(1), world.disk.written_blocks(SegmentNumber(1)).nth(1));
    assert!(world.disk.flip(segment, block.expect("the first batch") + 130, 1));
    world.log.scrub(Index(0));
    world.settle_without_mark();
    let damaged = world.log.damaged();
    assert_eq!((damaged.len(), damaged[0].first), (1, Index(1)));
    assert_eq!(put_back_all(&world.made, &mut world.log), 1);
    let mend = world.log.ops().next().expect("it is written");
    let Op::Mend { ticket, .. } = mend else { panic!("{mend:?}") };
    world.log.truncate_suffix(Index(0)).expect("everything");
    world.append_one();
    assert!(!world.log.is_damaged());
    world.log.on_done(Done::Mend { ticket, result: Err(EIO) }).expect("harms nobody else");
    assert!(!world.log.is_damaged());
}

#[test]
fn frames_testify_before_the_log_has_come_to_rest() {
    let (mut damaged, mut shorter) = (0, 0);
    for_seeds("frames_testify_before_the_log_has_come_to_rest", &seeds(8), |seed| {
        let mut world = at_rest(seed, 30);
        for _ in 0..8 {
            world.append_one();
            world.settle_without_mark();
        }
        // The last frame was made when this was durable.
        let claimed = world.promise.durable;
        world.append_one();
        world.settle_without_mark();
        let mut rng = Rng::new(seed);
        for _ in 0..60 {
            let mut disk = world.disk.clone();
            let (segment, block) = some_block(&disk, &mut rng);
            assert!(disk.flip(segment, block + rng.below(300), rng.below(8) as u8));
            let Ok(opened) = open(&mut disk, options()) else { continue };
            if opened.report.damage.is_some() {
                damaged += 1;
            } else {
                let found = opened.log.chain_at(claimed.id.index);
                assert_eq!(found, Some(claimed.chain), "what a frame says is there");
                shorter += u64::from(opened.log.last() != world.log.last());
            }
        }
    });
    println!("{damaged} damaged, {shorter} shorter by what nobody could know");
    assert!(damaged > 10);
}

/// The damage stays known over restarts and until a leader has brought back what was lost.
fn repair(world: &World, mut disk: SimDisk, opened: Opened, whole: BatchEnd) {
    assert_eq!(opened.log.repair(), Some(whole.id.index));
    let mut log = opened.log;
    let kept = end_of(&log);
    for _ in 0..3 {
        let again = open(&mut disk, options()).expect("opens again");
        let damage = again.report.damage.expect("still damaged");
        assert_eq!((end_of(&again.log), damage.until), (kept, whole.id.index));
        log = again.log;
    }
    let mut missing = Vec::new();
    let mut end = whole;
    // What was kept may be a branch that a rotten batch had superseded.
    while log.chain_at(end.id.index) != Some(end.chain) {
        let made = world.made.values().find(|made| made.end == end).expect("somebody made it");
        missing.push(made.clone());
        end = made.previous;
    }
    let mut next = World::new(0);
    next.made.clone_from(&world.made);
    next.go_on(disk, log, 0);
    let half = missing.len() / 2;
    while missing.len() > half {
        let made = missing.pop().expect("there are more");
        next.log.accept(received(&made.bytes)).expect("follows");
        next.settle();
    }
    if half > 0 {
        let again = open(&mut next.disk, options()).expect("opens in the middle");
        let damage = again.report.damage.expect("half is not all");
        assert_eq!((damage.cause, damage.until), (Cause::Unrepaired, whole.id.index));
        next.log = again.log;
    }
    while let Some(made) = missing.pop() {
        next.log.accept(received(&made.bytes)).expect("follows");
        next.settle();
    }
    assert_eq!(next.log.repair(), None);
    let again = open(&mut next.disk, options()).expect("opens repaired");
    assert_eq!((again.report.damage, end_of(&again.log)), (None, whole));
}

#[test]
fn a_flipped_bit_in_the_hard_state_changes_nothing() {
    for_seeds("a_flipped_bit_in_the_hard_state_changes_nothing", &seeds(4), |seed| {
        let world = at_rest(seed, 40);
        let mut rng = Rng::new(seed);
        for _ in 0..50 {
            let mut disk = world.disk.clone();
            assert!(disk.flip_hard_state(rng.below(4 * 4096), rng.below(8) as u8));
            let (log, _, meta) = world.check_after_crash(&mut disk);
            assert_eq!((end_of(&log), meta), (end_of(&world.log), world.metas_set));
        }
    });
}

/// An update is torn, or a copy has rotted, and opening may itself be cut off. From
/// then on it survives the loss of any one copy.
#[test]
fn what_opening_finds_in_the_hard_state_is_there_twice() {
    let mut alone = 0;
    for_seeds("what_opening_finds_in_the_hard_state_is_there_twice", &seeds(16), |seed| {
        let mut world = at_rest(seed, 30);
        let mut rng = Rng::new(seed);
        // In a segment in which nothing was written the next opening changes nothing.
        world.log = open(&mut world.disk, options()).expect("opens").log;
        world.log.set_meta(b"a vote");
        world.log.ops().for_each(|op| world.disk.submit(op));
        for _ in 0..20 {
            let mut disk = world.disk.clone();
            if rng.chance(1, 4) {
                disk.complete(0);
                disk.flip_hard_state(rng.below(4 * 4096), 1);
            }
            disk.power_cut(&mut rng);
            alone += u64::from(!newest(&mut disk).has_twin);
            if rng.chance(1, 2) {
                disk.crash_after(0);
                let _ = open(&mut disk, options());
                disk.power_cut(&mut rng);
            }
            let found = open(&mut disk, options()).expect("opens").meta;
            let update = newest(&mut disk).state.update;
            for slot in 0..4 {
                let mut disk = disk.clone();
                disk.flip_hard_state(slot * 4096 + rng.below(4096), 1);
                assert_eq!(newest(&mut disk).state.update, update);
                assert_eq!(open(&mut disk, options()).expect("opens").meta, found);
            }
            let again = open(&mut disk, options()).expect("opens");
            assert_eq!((again.meta, newest(&mut disk).state.update), (found, update));
        }
    });
    assert!(alone > 50, "{alone} openings found one copy alone");
}

fn newest(disk: &mut SimDisk) -> Newest {
    let file = disk.hard_state().expect("readable").expect("there");
    HardState::newest(&file).expect("one is readable")
}

#[test]
fn a_lost_hard_state_is_noticed() {
    let mut world = at_rest(3, 80);
    let mut disk = world.disk.clone();
    assert!(disk.lose_hard_state());
    assert_eq!(open(&mut disk, options()).expect_err("refused"), Error::HardStateMissing);

    // Both copies of the newest pair: the other pair is readable, but it is old, and a frame knows.
    world.log.set_meta(b"a vote");
    world.settle();
    world.append_one();
    world.settle_without_mark();
    let mut lost = 0;
    for pair in 0..2 {
        let mut disk = world.disk.clone();
        assert!(disk.flip_hard_state(pair * 8192 + 100, 1));
        assert!(disk.flip_hard_state(pair * 8192 + 4096 + 100, 1));
        match open(&mut disk, options()) {
            Ok(opened) => assert_eq!(opened.meta, b"a vote"),
            Err(Error::HardStateLost { found, needed }) => {
                assert!(found < needed);
                lost += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(lost, 1);
}

#[test]
fn files_that_were_lost_cut_or_exchanged_are_named() {
    let mut world = World::new(11);
    for _ in 0..80 {
        world.append_one();
        world.settle_without_mark();
    }
    world.settle();
    let numbers: Vec<_> = world.disk.segment_numbers().collect();
    assert!(numbers.len() > 3);
    let opened = |change: &dyn Fn(&mut SimDisk)| {
        let mut disk = world.disk.clone();
        change(&mut disk);
        open(&mut disk, options()).map(|opened| opened.report.damage.expect("damaged").cause)
    };
    let segment = numbers[1];
    let missing = opened(&|disk| assert!(disk.lose_segment(segment)));
    assert_eq!(missing, Err(Error::SegmentMissing { segment }));
    let swapped = opened(&|disk| assert!(disk.swap_segments(segment, numbers[2])));
    assert_eq!(swapped, Err(Error::SegmentSwapped { segment, found: numbers[2] }));
    let empty = opened(&|disk| assert!(disk.shorten_segment(segment, 0)));
    assert_eq!(empty, Err(Error::SegmentSize { segment, expected: 0, found: 0 }));
    let short = opened(&|disk| assert!(disk.shorten_segment(segment, 8192)));
    assert!(matches!(
        short,
        Err(Error::SegmentSize { expected, found: 8192, .. }) if expected > 8192
    ));
    // The newest segments leave no gap behind them; what was in them is missed.
    let newest_gone = opened(&|disk| {
        for &number in &numbers[2..] {
            assert!(disk.lose_segment(number));
        }
    });
    assert_eq!(newest_gone, Ok(Cause::Missing));
}

#[test]
fn a_block_that_cannot_be_read_is_damage_too() {
    let world = at_rest(5, 100);
    let mut rng = Rng::new(5);
    let mut damaged = 0;
    for _ in 0..30 {
        let mut disk = world.disk.clone();
        let (segment, block) = some_block(&disk, &mut rng);
        disk.fail_reads_of(segment, block);
        let opened = open(&mut disk, options()).expect("opens");
        match opened.report.damage {
            Some(damage) => {
                assert_eq!(damage.until, world.log.last().index);
                damaged += 1;
            }
            None => assert_eq!(end_of(&opened.log), end_of(&world.log)),
        }
    }
    assert!(damaged > 0);
}

#[test]
fn rot_under_a_running_log_is_found_on_reading() {
    let mut world = at_rest(8, 100);
    let Opened { mut log, .. } = open(&mut world.disk.clone(), options()).expect("opens");
    let mut disk = world.disk.clone();
    for number in world.disk.segment_numbers() {
        for block in world.disk.written_blocks(number).filter(|&block| block > 0) {
            disk.flip(number, block + 200, 3);
        }
    }
    let after = log.start().id.index;
    let mut out = Vec::new();
    assert!(matches!(log.read(after, 1, &mut out), Read::Pending(_)));
    world.disk = disk;
    std::mem::swap(&mut world.log, &mut log);
    world.settle();
    assert_eq!(world.log.read(after, 1, &mut out), Read::Damaged);
    assert!(out.is_empty() && world.log.last().index > Index::ZERO);
    assert_ne!(world.log.last(), EntryId::ZERO);
}
