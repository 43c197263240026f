//! A log on the simulated disk does what it says when nothing goes wrong.

use margay_log::disk::Disk;
use margay_log::disk::sim::SimDisk;
use margay_log::format::EntryHeader;
use margay_log::id::{ClusterId, GroupId, Index, Term};
use margay_log::{Buffer, Log, Opened, Options, Read, Received, open};

pub(crate) fn small() -> Options {
    Options { segment_first: 64 << 10, segment_max: 256 << 10, ..Options::default() }
}

/// Lets the disk do all there is to do.
pub(crate) fn settle(log: &mut Log, disk: &mut SimDisk) {
    loop {
        log.ops().for_each(|op| disk.submit(op));
        let mut done = Vec::new();
        disk.poll(true, &mut done);
        if done.is_empty() {
            return;
        }
        for done in done {
            log.on_done(done).expect("no faults");
        }
    }
}

fn payload(index: u64) -> Vec<u8> {
    (0..index * 37 % 5_000).map(|at| (at * index) as u8).collect()
}

fn check_all(log: &mut Log, disk: &mut SimDisk, through: u64) {
    let mut after = log.first().prev();
    let mut out = Vec::new();
    while after < Index(through) {
        match log.read(after, 1 << 20, &mut out) {
            Read::Cached => {
                for batch in out.drain(..) {
                    for entry in batch.entries() {
                        assert_eq!(entry.index, after.next());
                        assert_eq!(entry.payload, payload(entry.index.0));
                        after = entry.index;
                    }
                }
            }
            Read::Pending(_) => settle(log, disk),
            other => panic!("{other:?} behind {after}"),
        }
    }
    assert_eq!(log.read(after, 1, &mut out), Read::End);
}

#[test]
fn writes_reopens_and_reads_back() {
    let mut disk = SimDisk::new(1);
    let Opened { mut log, report, .. } = open(&mut disk, small()).expect("a new log");
    assert!(report.created);
    for batch in 0..200_u64 {
        for _ in 0..=batch % 5 {
            let next = log.last().index.0 + u64::from(log.open_entries()) + 1;
            let pushed = log.push(&EntryHeader::default(), &payload(next)).expect("it fits");
            assert_eq!(pushed, Index(next));
        }
        log.seal(Term(1 + batch / 50), batch).expect("there is space");
    }
    settle(&mut log, &mut disk);
    let last = log.last();
    assert_eq!(log.durable(), last.index);
    check_all(&mut log, &mut disk, last.index.0);

    for _ in 0..3 {
        let Opened { log: reopened, report, .. } = open(&mut disk, small()).expect("reopens");
        assert_eq!((report.last, report.durable), (last, last.index));
        assert_eq!(report.damage, None);
        assert!(report.torn.is_empty());
        assert_eq!(report.batches, 200);
        assert_eq!(reopened.terms(), log.terms());
        log = reopened;
        check_all(&mut log, &mut disk, last.index.0);
    }
    log.truncate_prefix(Index(300)).expect("not poisoned");
    settle(&mut log, &mut disk);
    assert!(log.first() > Index(1) && log.first() <= Index(301));
    let first = log.first();
    let Opened { mut log, .. } = open(&mut disk, small()).expect("reopens");
    assert_eq!((log.first(), log.last()), (first, last));
    check_all(&mut log, &mut disk, last.index.0);
}

#[test]
fn a_follower_holds_the_same_bytes() {
    let (mut one, mut two) = (SimDisk::new(1), SimDisk::new(2));
    let mut leader = open(&mut one, small()).expect("a new log").log;
    let mut follower = open(&mut two, small()).expect("a new log").log;
    for batch in 0..20 {
        leader.push(&EntryHeader::default(), &payload(batch)).expect("it fits");
        let sealed = leader.seal(Term(1), batch).expect("there is space");
        let mut buffer = Buffer::zeroed(64 + sealed.bytes().len());
        buffer[64..64 + sealed.bytes().len()].copy_from_slice(sealed.bytes());
        let received =
            Received::check(buffer, sealed.bytes().len(), ClusterId(0), GroupId(0)).expect("right");
        let taken = follower.accept(received).expect("it follows");
        assert_eq!(taken.bytes(), sealed.bytes());
    }
    settle(&mut follower, &mut two);
    assert_eq!(follower.chain_at(Index(20)), leader.chain_at(Index(20)));
    assert_eq!(follower.durable(), Index(20));
}
