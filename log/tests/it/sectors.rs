//! What a write that was cut off may leave, and what other writes may hit: sector by sector, block
//! by block.

use margay_log::disk::sim::SimDisk;
use margay_log::disk::{Disk, Op};
use margay_log::format::{BATCH_HEADER, BLOCK, ENTRY_HEADER, EntryHeader, FRAME, SECTOR};
use margay_log::id::{BatchEnd, ClusterId, Index, Micros, SegmentNumber, Term};
use margay_log::recover::Storage;
use margay_log::{Error, Log, Options, Read, open};

use crate::world::{CLUSTER, options, thrifty};

/// A payload with which frame and batch fill just so many blocks, and `more` bytes.
fn payload(blocks: usize, more: isize) -> Vec<u8> {
    let head = FRAME + BATCH_HEADER + ENTRY_HEADER;
    let length = (blocks * BLOCK - head).checked_add_signed(more).expect("blocks are larger");
    (0..length).map(|at| (at ^ length ^ (blocks << 3)) as u8 | 1).collect()
}

fn append(log: &mut Log, payload: &[u8]) {
    log.push(&EntryHeader::default(), payload).expect("fits");
    log.seal(Term(1), 0).expect("space");
}

fn settle(log: &mut Log, disk: &mut dyn Disk) {
    loop {
        log.ops().for_each(|op| disk.submit(op));
        let mut done = Vec::new();
        disk.poll(true, &mut done);
        if done.is_empty() {
            return;
        }
        for done in done {
            log.on_done(done).expect("no write fails");
        }
    }
}

fn end_of(log: &Log) -> BatchEnd {
    log.end_up_to(log.last().index)
}

fn block(disk: &mut SimDisk, segment: SegmentNumber, offset: u64) -> Vec<u8> {
    let mut bytes = vec![0; BLOCK];
    disk.read(segment, offset, &mut bytes).expect("it is there");
    bytes
}

/// Any sector of the last batch may be missing, or hold garbage, or what was elsewhere: the log
/// ends before that batch, says that something was torn there, and goes on.
/// A log whose newest segment was another one before, and whose only batch, the last, was lost on
/// its way to the disk: what lies there is a frame of this log, whole, from the file's former life.
fn lost_in_a_used_file() -> (SimDisk, Index) {
    let mut disk = SimDisk::new(1);
    let mut log = open(&mut disk, thrifty()).expect("a new log").log;
    let mut now = Micros(0);
    loop {
        log.truncate_prefix(log.last().index).expect("not poisoned");
        log.push(&EntryHeader::default(), &[7; 100]).expect("fits");
        log.seal(Term(1), 0).expect("space");
        let (before, mut place) = (disk.clone(), None);
        // Everything under way finishes, and the log has recorded how far it is durable.
        while place.is_none() || log.deadline().is_some() {
            now = now.max(log.deadline().unwrap_or(now));
            log.on_tick(now);
            for op in log.ops() {
                if let Op::Write { segment, offset, data, .. } = &op {
                    place = Some((*segment, *offset, data.len()));
                }
                disk.submit(op);
            }
            let mut done = Vec::new();
            disk.poll(true, &mut done);
            for done in done {
                log.on_done(done).expect("nothing fails");
            }
        }
        let (segment, offset, length) = place.expect("it was written");
        let mut old = vec![0; length];
        let is_there = Storage::read(&mut before.clone(), segment, offset, &mut old).is_ok();
        if is_there && old.iter().any(|byte| *byte != 0) {
            assert!(disk.overwrite(segment, offset, &old));
            return (disk, log.last().index);
        }
    }
}

#[test]
fn a_write_that_is_lost_in_a_file_used_again_is_noticed() {
    let (mut disk, last) = lost_in_a_used_file();
    let report = open(&mut disk, thrifty()).expect("opens").report;
    assert_eq!(report.damage.map(|damage| damage.until), Some(last));
}

/// The same, if frames were not asked which segment they were written for.
#[cfg(feature = "breaks")]
#[test]
fn old_frames_that_count_hide_a_lost_write() {
    let (mut disk, _) = lost_in_a_used_file();
    let switch = margay_log::breaks::OLD_FRAMES_COUNT.switch_on();
    let report = open(&mut disk, thrifty()).expect("opens").report;
    drop(switch);
    assert_eq!(report.damage, None);
}

#[test]
fn torn_write() {
    let mut disk = SimDisk::new(1);
    let mut log = open(&mut disk, options()).expect("a new log").log;
    let blocks = 3;
    append(&mut log, &payload(1, 0));
    append(&mut log, &payload(1, 0));
    settle(&mut log, &mut disk);
    let before = end_of(&log);
    append(&mut log, &payload(blocks, 0));
    settle(&mut log, &mut disk);
    let (segment, first) = (SegmentNumber(1), 3 * BLOCK as u64);
    let older = block(&mut disk, segment, BLOCK as u64);
    let mut torn = 0;
    for sector in 0..blocks * BLOCK / SECTOR {
        let offset = first + (sector * SECTOR / BLOCK * BLOCK) as u64;
        let within = sector * SECTOR % BLOCK..sector * SECTOR % BLOCK + SECTOR;
        for content in [vec![0; SECTOR], vec![0xa5; SECTOR], older[within.clone()].to_vec()] {
            let mut disk = disk.clone();
            let mut bytes = block(&mut disk, segment, offset);
            bytes[within.clone()].copy_from_slice(&content);
            assert!(disk.overwrite(segment, offset, &bytes));
            let opened = open(&mut disk, options()).expect("opens");
            let what = format!("sector {sector}, {:?}", &content[..2]);
            assert_eq!(end_of(&opened.log), before, "{what}");
            assert_eq!(opened.report.damage, None, "{what}: it was never acknowledged");
            assert!(!opened.report.torn.is_empty() || sector == 0, "{what}");
            let mut log = opened.log;
            append(&mut log, b"it goes on");
            settle(&mut log, &mut disk);
            let again = open(&mut disk, options()).expect("opens again");
            assert_eq!(end_of(&again.log), end_of(&log), "{what}");
            torn += 1;
        }
    }
    assert_eq!(torn, 3 * 3 * 8);
}

/// A log of twelve batches that knows how far it is durable.
fn at_rest(cluster: ClusterId) -> (Log, SimDisk) {
    let mut disk = SimDisk::new(2);
    let options = Options { cluster, segment_first: 128 << 10, ..options() };
    let mut log = open(&mut disk, options).expect("a new log").log;
    for _ in 0..12 {
        append(&mut log, &payload(1, 0));
    }
    settle(&mut log, &mut disk);
    while let Some(at) = log.deadline() {
        log.on_tick(at);
        settle(&mut log, &mut disk);
    }
    (log, disk)
}

/// A write went elsewhere, or nowhere, or a block is as it was some time ago, or as it is in
/// another log: each is noticed, at the right place, and nothing behind it is believed.
#[test]
fn misdirected_lost_and_stale_writes_are_noticed() {
    let (log, mut disk) = at_rest(CLUSTER);
    let (_, mut other) = at_rest(ClusterId(9));
    let segment = SegmentNumber(1);
    // Batch 1 lies in block 1, and so on.
    let at = |batch: u64| batch * BLOCK as u64;
    let zeros = vec![0; BLOCK];
    let cases = [
        ("misdirected", 5, block(&mut disk, segment, at(9))),
        ("misdirected back", 9, block(&mut disk, segment, at(5))),
        ("lost", 7, zeros.clone()),
        ("of another log", 6, block(&mut other, segment, at(6))),
    ];
    for (what, batch, bytes) in cases {
        let mut disk = disk.clone();
        assert!(disk.overwrite(segment, at(batch), &bytes));
        let opened = open(&mut disk, options()).expect("opens");
        let damage = opened.report.damage.expect(what);
        assert_eq!((damage.index, damage.offset), (Index(batch), at(batch)), "{what}");
        assert_eq!(damage.until, log.last().index, "{what}");
        assert_eq!(opened.log.last().index, Index(batch - 1), "{what}");
    }
    // The end is as it was before the last four were written: they are missed.
    let mut stale = disk.clone();
    (9..=12).for_each(|batch| assert!(stale.overwrite(segment, at(batch), &zeros)));
    let opened = open(&mut stale, options()).expect("opens");
    let damage = opened.report.damage.expect("the hard state knows that there was more");
    assert_eq!((damage.index, damage.until), (Index(9), Index(12)));
    // The segment's header of another log.
    let header = block(&mut other, segment, 0);
    assert!(disk.overwrite(segment, 0, &header));
    let error = open(&mut disk, options()).expect_err("it is another's");
    assert!(matches!(error, Error::OtherGroup { .. }), "{error}");
}

/// Entries around the size of a block and of several, one batch each, through a disk.
fn around_a_block(mut open_disk: impl FnMut() -> (Log, Box<dyn Disk>)) {
    let sizes: Vec<(usize, isize)> =
        [1, 2, 4].iter().flat_map(|blocks| (-33..=33).map(|more| (*blocks, more))).collect();
    let (mut log, mut disk) = open_disk();
    for (blocks, more) in &sizes {
        append(&mut log, &payload(*blocks, *more));
        settle(&mut log, &mut *disk);
    }
    assert_eq!(log.durable(), Index(sizes.len() as u64));
    drop((log, disk));
    let (mut log, mut disk) = open_disk();
    for (at, (blocks, more)) in sizes.iter().enumerate() {
        let mut out = Vec::new();
        while log.read(Index(at as u64), 0, &mut out) != Read::Cached {
            settle(&mut log, &mut *disk);
        }
        let entry = out[0].entries().next().expect("one each");
        assert!(entry.payload == payload(*blocks, *more), "{blocks} blocks and {more}");
    }
}

#[cfg(feature = "direct")]
#[test]
fn entries_around_the_size_of_a_block() {
    use margay_log::disk::direct::Direct;
    let path = std::env::temp_dir().join(format!("margay-sectors-{}", std::process::id()));
    around_a_block(|| {
        let mut disk = Direct::open(&path).expect("a directory");
        let opened = open(&mut disk, options()).expect("opens");
        (opened.log, Box::new(disk))
    });
    std::fs::remove_dir_all(&path).expect("ours");
}

/// Several writes are under way and end in any order: what counts is the prefix without a hole.
#[test]
fn out_of_order_completions_count_as_a_prefix() {
    let mut orders = 0;
    for order in permutations(4) {
        let mut disk = SimDisk::new(1);
        let mut log = open(&mut disk, options()).expect("a new log").log;
        (0..4).for_each(|_| append(&mut log, b"x"));
        log.ops().for_each(|op| disk.submit(op));
        let mut ended = [false; 4];
        for write in order {
            let place = (write + 1) * BLOCK;
            let is_it = |op: &Op| matches!(op, Op::Write { offset, .. } if *offset == place as u64);
            let under_way = disk.in_flight().position(is_it).expect("all four are under way");
            disk.complete(under_way);
            ended[write] = true;
            let mut done = Vec::new();
            disk.poll(false, &mut done);
            done.into_iter().for_each(|done| _ = log.on_done(done).expect("no write fails"));
            let prefix = ended.iter().take_while(|ended| **ended).count();
            assert_eq!(log.durable(), Index(prefix as u64), "{ended:?}");
        }
        orders += 1;
    }
    assert_eq!(orders, 24);
}

fn permutations(count: usize) -> Vec<Vec<usize>> {
    let mut all = vec![Vec::new()];
    for next in 0..count {
        let longer = |order: &Vec<usize>| {
            (0..=order.len())
                .map(|at| {
                    let mut order = order.clone();
                    order.insert(at, next);
                    order
                })
                .collect::<Vec<_>>()
        };
        all = all.iter().flat_map(longer).collect();
    }
    all
}
