//! The power goes after every single operation of the disk, and what was promised is there.

use margay_log::disk::sim::SimDisk;
use margay_log::rng::Rng;
use margay_log::{Log, Report, open};

use crate::world::{World, for_seeds, seeds, thrifty};

const STEPS: usize = 160;

#[derive(Default)]
struct Count {
    cuts: u64,
    torn: u64,
    superseded: u64,
    recoveries_cut: u64,
    halved: u64,
    reused: u64,
    /// Segments that had been removed and came back.
    back: u64,
}

#[test]
fn power_cut_at_every_operation() {
    let mut count = Count::default();
    for_seeds("power_cut_at_every_operation", &seeds(16), |seed| {
        let mut world = World::new(seed);
        // Every fourth log is one that nobody replicates, which can be cut within a batch.
        world.is_alone = seed.is_multiple_of(4);
        history(world, seed, &mut count);
    });
    let Count { cuts, torn, superseded, recoveries_cut, halved, reused, back } = count;
    println!("{cuts} power cuts, {recoveries_cut} of them also while recovering;");
    println!("{torn} left torn writes, {superseded} superseded or unreachable batches;");
    println!("{halved} batches were cut in two, {back} removed segments came back");
    assert!(torn > 0 && superseded > 0 && recoveries_cut > 0 && halved > 0 && back > 0);
    assert_eq!(reused, 0);
}

/// What a file held before it became another segment is never taken for anything.
#[test]
fn power_cut_while_files_are_used_again() {
    let mut count = Count::default();
    for_seeds("power_cut_while_files_are_used_again", &seeds(12), |seed| {
        history(World::with(seed, thrifty()), seed, &mut count);
    });
    let Count { cuts, superseded, recoveries_cut, reused, back, .. } = count;
    println!("{cuts} power cuts, {reused} segments made from the files of others,");
    println!("{back} came back that had been removed or set aside");
    assert!(superseded > 0 && recoveries_cut > 0 && reused > 50 && back > 0);
}

fn history(mut world: World, seed: u64, count: &mut Count) {
    let mut cut_rng = Rng::new(seed ^ 0xc0_ffee);
    for step in 0..STEPS {
        world.act();
        cut(&world, &mut cut_rng, count);
        while world.rng.chance(1, 2) && world.finish_one() {
            // Done, but the log has not heard of it yet.
            cut(&world, &mut cut_rng, count);
            world.tell();
            cut(&world, &mut cut_rng, count);
        }
        if step % 40 == 39 {
            let mut disk = world.disk.clone();
            if cut_rng.chance(1, 2) {
                disk.power_cut(&mut cut_rng);
            } else {
                disk.kill(&mut cut_rng);
            }
            let (log, _, meta) = world.check_after_crash(&mut disk);
            world.go_on(disk, log, meta);
        }
    }
    world.settle();
    count.halved += world.halved;
    count.reused += world.disk.reused();
    let mut disk = world.disk.clone();
    let (mut log, report, _) = world.check_after_crash(&mut disk);
    assert_eq!(report.last, world.log.last(), "all that was written is there");
    world.read_all(&mut log, &mut disk);
}

/// Cuts the power on a copy of the world.
fn cut(world: &World, rng: &mut Rng, count: &mut Count) {
    let rounds = if world.writes_under_way() > 0 { 2 } else { 1 };
    for _ in 0..rounds {
        let mut disk = world.disk.clone();
        disk.power_cut(rng);
        count.cuts += 1;
        count.back += disk.back() - world.disk.back();
        if rng.chance(1, 8) {
            cut_recovery(world, &mut disk.clone(), rng);
            count.recoveries_cut += 1;
        }
        let (mut log, report, meta) = world.check_after_crash(&mut disk);
        count.torn += u64::from(!report.torn.is_empty());
        count.superseded += report.superseded;
        if rng.chance(1, 8) {
            world.read_all(&mut log, &mut disk);
            opens_again_the_same(world, &report, disk.clone());
            goes_on(world, disk, log, meta);
        }
    }
}

/// The power goes again while the log is being opened.
fn cut_recovery(world: &World, disk: &mut SimDisk, rng: &mut Rng) {
    for calls in 0..4 {
        disk.crash_after(calls);
        let opened = open(disk, world.options.clone());
        disk.power_cut(rng);
        if opened.is_ok() {
            break;
        }
        world.check_after_crash(&mut disk.clone());
    }
    world.check_after_crash(disk);
}

/// Opening again and again changes nothing and uses up nothing.
fn opens_again_the_same(world: &World, report: &Report, mut disk: SimDisk) {
    let segments = disk.segment_numbers().count();
    for _ in 0..3 {
        let again = open(&mut disk, world.options.clone()).expect("opens again").report;
        assert_eq!((again.last, again.batches), (report.last, report.batches));
        assert_eq!(again.damage, None);
        assert_eq!(disk.segment_numbers().count(), segments);
    }
}

/// A recovered log takes more, and keeps it.
fn goes_on(world: &World, disk: SimDisk, log: Log, meta: u64) {
    let mut next = World::with(0, world.options.clone());
    next.made.clone_from(&world.made);
    next.metas_set = world.metas_set;
    next.go_on(disk, log, meta);
    for _ in 0..6 {
        next.act();
    }
    next.settle();
    let mut disk = next.disk.clone();
    let (mut log, report, _) = next.check_after_crash(&mut disk);
    assert_eq!(report.last, next.log.last());
    next.read_all(&mut log, &mut disk);
}
