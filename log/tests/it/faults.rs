//! Writes that fail stop the log; space that runs out does not.

use margay_log::disk::Disk;
use margay_log::disk::sim::{EIO, ENOSPC, SimDisk};
use margay_log::format::EntryHeader;
use margay_log::id::{BatchEnd, Chain, EntryId, Index, Micros, SegmentNumber, Term};
use margay_log::{Error, Full, Log, Opened, Progress, Read, Refused, Space, open};

use crate::world::{World, make, options, received};

fn append(log: &mut Log, bytes: usize) -> Result<Index, Error> {
    log.push(&EntryHeader::default(), &vec![7; bytes]).expect("fits");
    match log.seal(Term(1), 0) {
        Ok(batch) => Ok(batch.header().last().index),
        Err(error) => {
            log.discard_open();
            Err(error)
        }
    }
}

fn settle(log: &mut Log, disk: &mut SimDisk) -> Result<Vec<Progress>, Error> {
    let mut progress = Vec::new();
    loop {
        log.ops().for_each(|op| disk.submit(op));
        let mut done = Vec::new();
        disk.poll(true, &mut done);
        if done.is_empty() {
            return Ok(progress);
        }
        for done in done {
            progress.push(log.on_done(done)?);
        }
    }
}

#[test]
fn a_failed_write_stops_the_log() {
    let mut disk = SimDisk::new(1);
    let mut log = open(&mut disk, options()).expect("a new log").log;
    append(&mut log, 100).expect("space");
    settle(&mut log, &mut disk).expect("no fault yet");
    append(&mut log, 100).expect("space");
    append(&mut log, 100).expect("space");
    disk.fail_next_write(EIO);
    let error = settle(&mut log, &mut disk).expect_err("the write fails");
    let Error::Write { file, offset, cause } = &error else { panic!("{error}") };
    assert_eq!((file.as_str(), *offset, *cause), ("segment-0000000000000001.log", 8192, EIO));
    assert_eq!(log.poisoned(), Some(&error));

    // The write behind it succeeds, and counts for nothing.
    settle(&mut log, &mut disk).expect("told once");
    assert_eq!(log.durable(), Index(1));
    assert_eq!(append(&mut log, 1).expect_err("stopped"), Error::Poisoned);
    assert_eq!(log.truncate_suffix(Index(1)), Err(Error::Poisoned));
    assert_eq!(log.truncate_prefix(Index(1)), Err(Error::Poisoned));
    log.set_meta(b"never durable");
    log.on_tick(Micros::from_millis(10_000));
    assert_eq!((log.ops().count(), log.deadline()), (0, None));
    let mut out = Vec::new();
    assert_eq!(log.read(Index(0), 1, &mut out), Read::Cached);
    let bytes = make(log.start(), Term(1), &[vec![1]]);
    assert!(matches!(log.accept(received(&bytes)), Err(Refused::Poisoned)));

    let again = open(&mut disk, options()).expect("recovers");
    assert!(again.report.last.index >= Index(1) && again.report.damage.is_none());
}

#[test]
fn a_failed_hard_state_stops_the_log() {
    let mut disk = SimDisk::new(1);
    let mut log = open(&mut disk, options()).expect("a new log").log;
    log.set_meta(b"one");
    disk.fail_next_write(EIO);
    let error = settle(&mut log, &mut disk).expect_err("the write fails");
    assert!(matches!(&error, Error::Write { file, .. } if file == "hard-state"));
    assert!(log.poisoned().is_some());
    assert!(open(&mut disk, options()).is_ok());
}

#[test]
fn a_full_disk_is_waited_out() {
    let mut disk = SimDisk::new(1);
    let mut log = open(&mut disk, options()).expect("a new log").log;
    disk.fail_prepares(Some(ENOSPC));
    let mut now = 0;
    while log.space() != Space::Full(ENOSPC) {
        let written = append(&mut log, 3_000).expect("the queue is not full yet");
        settle(&mut log, &mut disk).expect("a full disk does not stop a log");
        assert!(written < Index(100), "the first segment ends some time");
    }
    // What is sealed nevertheless waits, up to a bound, and is not durable.
    let mut queued = 0;
    while append(&mut log, 3_000).is_ok() {
        settle(&mut log, &mut disk).expect("a full disk does not stop a log");
        queued += 1;
        assert!(queued < 100);
    }
    assert_eq!(append(&mut log, 3_000), Err(Error::NoSpace));
    assert!(log.durable() < log.last().index);
    let bytes = make(log.end_up_to(log.last().index), Term(1), &[vec![0; 9_000]]);
    assert!(matches!(log.accept(received(&bytes)), Err(Refused::NoSpace)));

    // It asks again, less and less often.
    let mut asked = 0;
    while now < 60_000_000 {
        now = log.deadline().expect("it wants to try again").0.max(now + 1);
        log.on_tick(Micros(now));
        asked += log.ops().map(|op| disk.submit(op)).count();
        settle(&mut log, &mut disk).expect("a full disk does not stop a log");
    }
    assert!((10..60).contains(&asked), "{asked} attempts in a minute");

    disk.fail_prepares(None);
    log.on_tick(Micros(now + 10_000_000));
    let progress = settle(&mut log, &mut disk).expect("space again");
    assert!(progress.iter().any(|progress| progress.space));
    assert_eq!((log.space(), log.durable()), (Space::Ready, log.last().index));
    let last = log.last();
    assert_eq!(open(&mut disk, options()).expect("opens").report.last, last);
}

/// What is there can be read, and cut, which makes room: at once, not at the next attempt.
#[test]
fn a_full_disk_is_opened_and_cut() {
    let mut disk = SimDisk::new(9);
    let mut log = open(&mut disk, options()).expect("a new log").log;
    // None is prepared in which it could go on.
    let is_begun = |disk: &SimDisk| {
        let newest = disk.segment_numbers().last().expect("a segment");
        newest > SegmentNumber(3) && disk.written_blocks(newest).count() > 1
    };
    while !is_begun(&disk) {
        append(&mut log, 3_000).expect("the queue has room");
        settle(&mut log, &mut disk).expect("no fault");
    }
    let (last, segments) = (log.last(), disk.segment_numbers().count());
    drop(log);
    for _ in 0..2 {
        disk.fail_prepares(Some(ENOSPC));
        let opened = open(&mut disk, options()).expect("opens");
        assert_eq!((opened.report.last, opened.report.damage), (last, None));
        let mut log = opened.log;
        assert_eq!(log.space(), Space::Full(ENOSPC));
        // What is taken nevertheless waits.
        append(&mut log, 3_000).expect("one batch may always wait");
        log.set_meta(b"in place");
        settle(&mut log, &mut disk).expect("a full disk does not stop a log");
        assert_eq!((log.durable(), disk.segment_numbers().count()), (last.index, segments));
        let before = log.ops().count();
        assert_eq!(before, 0, "it is tried again by and by");
        assert!(log.deadline().is_some());
    }
    let Opened { mut log, meta, .. } = open(&mut disk, options()).expect("opens");
    assert_eq!(meta, b"in place");
    append(&mut log, 3_000).expect("one batch may always wait");
    disk.fail_prepares(None);
    log.truncate_prefix(last.index).expect("not poisoned");
    let progress = settle(&mut log, &mut disk).expect("room");
    assert!(progress.iter().any(|progress| progress.space));
    assert_eq!((log.first(), log.durable()), (last.index.next(), last.index.next()));
    let report = open(&mut disk, options()).expect("opens").report;
    assert_eq!((report.last, report.damage), (log.last(), None));
}

/// Hard states wait for what stays of a batch that is cut in two, and the space that a truncation
/// frees waits for a hard state. So on a full disk no batch is cut in two, and the log can make
/// room for itself.
#[test]
fn a_full_disk_makes_room_where_a_batch_was_to_be_cut_in_two() {
    let mut disk = SimDisk::new(11);
    let mut log = open(&mut disk, options()).expect("a new log").log;
    let entry = (EntryHeader::default(), vec![7; 3_000]);
    let batch = |log: &mut Log| {
        (0..2).for_each(|_| _ = log.push(&entry.0, &entry.1).expect("fits"));
        log.seal(Term(1), 0).map(|_| ())
    };
    while disk.segment_numbers().count() < 4 {
        batch(&mut log).expect("the queue has room");
        settle(&mut log, &mut disk).expect("no fault");
    }
    disk.fail_prepares(Some(ENOSPC));
    while log.durable() == log.last().index {
        batch(&mut log).expect("the queue has room");
        settle(&mut log, &mut disk).expect("a full disk does not stop a log");
    }
    // What waits for space is given up.
    let durable = log.durable();
    log.truncate_suffix(durable).expect("a batch end");
    let (before, segments) = (log.last(), disk.segment_numbers().count());
    assert_eq!(log.space(), Space::Full(ENOSPC));
    let halve = |log: &mut Log| {
        let after = log.last().index.prev();
        log.replace_suffix(after, std::slice::from_ref(&entry))
    };
    let refused = halve(&mut log);
    log.truncate_prefix(Index(durable.0 / 2)).expect("not poisoned");
    settle(&mut log, &mut disk).expect("a full disk does not stop a log");
    assert!(disk.segment_numbers().count() < segments, "{refused:?}, and nothing is freed");
    assert_eq!((refused, log.last()), (Err(Error::DiskFull { cause: ENOSPC }), before));
    // That is room for a new one.
    disk.fail_prepares(None);
    log.on_tick(log.deadline().expect("it tries again"));
    settle(&mut log, &mut disk).expect("no fault");
    assert_eq!(halve(&mut log), Ok(durable.prev()));
    settle(&mut log, &mut disk).expect("no fault");
    assert_eq!(log.durable(), durable.prev());
    let report = open(&mut disk, options()).expect("opens").report;
    assert_eq!((report.last, report.damage), (log.last(), None));
}

/// A new log has nothing to be read, and its first segment is there before anything else is.
#[test]
fn a_new_log_needs_space() {
    let mut disk = SimDisk::new(10);
    disk.fail_prepares(Some(ENOSPC));
    for _ in 0..2 {
        let error = open(&mut disk, options()).expect_err("no space");
        assert!(matches!(error, Error::Storage { cause: ENOSPC, .. }), "{error}");
    }
    disk.fail_prepares(None);
    open(&mut disk, options()).expect("opens");
}

/// A segment that could not be prepared and is not needed any more still has its turn: a gap in the
/// numbers would look like a lost file.
#[test]
fn no_gap_where_preparing_failed() {
    let mut world = World::new(4);
    let log = &mut world.log;
    world.disk.fail_prepares(Some(ENOSPC));
    while log.space() == Space::Ready {
        append(log, 3_000).expect("space");
        settle(log, &mut world.disk).expect("a full disk does not stop a log");
    }
    while log.last().index == log.durable() {
        append(log, 3_000).expect("queued");
        settle(log, &mut world.disk).expect("a full disk does not stop a log");
    }
    // On to the segment after the one that is not there.
    append(log, 58_000).expect("queued");
    let durable = log.durable();
    log.truncate_suffix(durable).expect("a batch end");
    log.truncate_prefix(durable).expect("not poisoned");
    let hard_states: Vec<_> = log.ops().collect();
    world.disk.fail_prepares(None);
    while let Some(at) = log.deadline().filter(|_| log.space() != Space::Ready) {
        log.on_tick(at);
        settle(log, &mut world.disk).expect("space again");
    }
    // The power goes before the hard state that drops the first segments is durable.
    drop(hard_states);
    let report = open(&mut world.disk, options()).expect("no file is missing").report;
    assert_eq!((report.last.index, report.damage), (durable, None));
}

#[test]
fn a_stale_done_counts_for_nothing() {
    let mut world = World::new(2);
    for _ in 0..3 {
        append(&mut world.log, 100).expect("space");
    }
    let ops: Vec<_> = world.log.ops().collect();
    world.log.truncate_suffix(Index(1)).expect("a batch end");
    append(&mut world.log, 50).expect("space");
    let newest: Vec<_> = world.log.ops().collect();
    for op in ops.into_iter().rev() {
        world.disk.submit(op);
    }
    // Writes 2 and 3 are done, but they are no longer part of the log; 1 is.
    let progress = settle(&mut world.log, &mut world.disk).expect("no fault");
    let durable: Vec<_> = progress.iter().filter_map(|progress| progress.durable).collect();
    assert_eq!(durable, [Index(1)]);
    for op in newest {
        world.disk.submit(op);
    }
    settle(&mut world.log, &mut world.disk).expect("no fault");
    assert_eq!(world.log.durable(), Index(2));
    let report = open(&mut world.disk, options()).expect("opens").report;
    assert_eq!((report.last, report.superseded), (EntryId::new(Term(1), Index(2)), 2));
}

/// A follower refuses what does not fit, and says why.
#[test]
fn refusals() {
    let mut leader = open(&mut SimDisk::new(5), options()).expect("opens").log;
    let mut follower = open(&mut SimDisk::new(6), options()).expect("opens").log;
    let mut batches = Vec::new();
    for term in [1, 1, 2, 2] {
        leader.push(&EntryHeader::default(), b"x").expect("fits");
        batches.push(leader.seal(Term(term), 0).expect("space"));
    }
    let batch = |at: usize| received(batches[at].bytes());
    let gap = follower.accept(batch(1)).expect_err("a gap");
    assert_eq!(gap, Refused::Gap { last: Index(0) });
    follower.accept(batch(0)).expect("follows");
    follower.accept(batch(1)).expect("follows");
    assert_eq!(follower.ops().count(), 2);
    follower.accept(batch(0)).expect("held already");
    assert_eq!((follower.last().index, follower.ops().count()), (Index(2), 0));
    follower.truncate_suffix(Index(1)).expect("a batch end");
    follower.push(&EntryHeader::default(), b"other").expect("fits");
    follower.seal(Term(3), 0).expect("space");
    let other = follower.accept(batch(2)).expect_err("another log");
    assert_eq!(other, Refused::Chain { prev: Index(2), chain: follower.chain_at(Index(2)) });
    assert_eq!(follower.last(), EntryId::new(Term(3), Index(2)));
    let start = BatchEnd { id: EntryId::new(Term(9), Index(9)), chain: Chain(1) };
    follower.reset(start).expect("runs");
    let gone = follower.accept(batch(3)).expect_err("behind the beginning");
    assert_eq!(gone, Refused::Gone { first: Index(10) });
}

/// A leader is told what does not fit, and nothing is lost by it.
#[test]
fn a_batch_has_an_end() {
    use margay_log::format::{BATCH_MAX, LENGTH_MAX, PAYLOAD_MAX};
    let mut disk = SimDisk::new(7);
    let mut log = open(&mut disk, options()).expect("opens").log;
    assert_eq!(log.seal(Term(1), 0).expect_err("nothing in it"), Error::Empty);
    let large = vec![1; PAYLOAD_MAX as usize + 1];
    let length = large.len() as u64;
    assert_eq!(log.push(&EntryHeader::default(), &large), Err(Full::Payload { length }));
    let mut entries = 0;
    while u64::from(BATCH_MAX) > log.open_bytes() + 4_096 {
        log.push(&EntryHeader::default(), &[2; 4_000]).expect("fits");
        entries += 1;
    }
    log.push(&EntryHeader::default(), &large[1..]).expect("the last one may be large");
    assert_eq!(log.push(&EntryHeader::default(), b""), Err(Full::Batch));
    assert_eq!(log.open_entries(), entries + 1);
    assert!(log.open_bytes() <= u64::from(LENGTH_MAX));
    // Larger than any segment is meant to be: it gets one of its own.
    log.seal(Term(2), 0).expect("space for one batch there always is");
    assert_eq!(log.push(&EntryHeader::default(), b""), Ok(Index(u64::from(entries) + 2)));
    let found = Error::TermBackwards { last: Term(2), found: Term(1) };
    assert_eq!(log.seal(Term(1), 0).expect_err("backwards"), found);
    log.discard_open();
    settle(&mut log, &mut disk).expect("no fault");
    assert_eq!(log.durable(), log.last().index);
    let report = open(&mut disk, options()).expect("opens").report;
    assert_eq!((report.last, report.damage), (log.last(), None));
}
