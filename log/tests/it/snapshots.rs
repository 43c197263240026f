//! The files of snapshots: every disk makes and reads the same, a flipped bit is found, and a crash
//! leaves the snapshots there were, and the new one whole or not at all.

use std::sync::Arc;

use margay_log::disk::{Disk, DiskError, Done, SnapshotStep};
use margay_log::format::BLOCK;
use margay_log::id::{BatchEnd, Chain, ClusterId, EntryId, GroupId, Index, Term};
use margay_log::snapshot::{SNAPSHOT_HEADER, SnapshotHeader, SnapshotMaker, SnapshotReader};
use margay_log::{Buffer, Log, Opened, Options, open};

const GROUP: GroupId = GroupId(3);
const CLUSTER: ClusterId = ClusterId(7);

fn options() -> Options {
    Options { cluster: CLUSTER, group: GROUP, segment_first: 64 << 10, ..Options::default() }
}

fn header(index: u64) -> SnapshotHeader {
    SnapshotHeader {
        cluster: CLUSTER,
        group: GROUP,
        end: BatchEnd { id: EntryId::new(Term(2), Index(index)), chain: Chain(0xabcd) },
        log_time: 77,
        meta: b"members".to_vec(),
        ..SnapshotHeader::default()
    }
}

fn payloads() -> Vec<Vec<u8>> {
    let sizes = [1, 4064, 4065, 100_000, 16];
    sizes.iter().enumerate().map(|(n, &size)| vec![n as u8 + 1; size]).collect()
}

/// The pieces of a snapshot, in the order in which they are written.
fn pieces(index: u64) -> Vec<(u64, Buffer)> {
    let mut maker = SnapshotMaker::new(header(index));
    let mut pieces: Vec<_> = payloads().iter().map(|payload| maker.chunk(payload)).collect();
    pieces.push((0, maker.header().encode()));
    pieces
}

fn whole(index: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (offset, piece) in pieces(index) {
        let end = offset as usize + piece.len();
        bytes.resize(bytes.len().max(end), 0);
        bytes[offset as usize..end].copy_from_slice(&piece);
    }
    bytes
}

/// All chunks of a file, if it is what was written.
fn read(bytes: &[u8], piece: usize) -> Option<Vec<Vec<u8>>> {
    let mut reader = SnapshotReader::new(SnapshotHeader::decode(bytes).ok()?);
    let mut found = Vec::new();
    for piece in bytes[SNAPSHOT_HEADER..].chunks(piece) {
        reader.feed(piece);
        while let Some(chunk) = reader.next_chunk().ok()? {
            found.push(chunk.to_vec());
        }
    }
    reader.is_complete().then_some(found)
}

/// One step, to its end.
fn step(
    log: &mut Log,
    disk: &mut dyn Disk,
    index: u64,
    step: SnapshotStep,
) -> Result<Option<Buffer>, DiskError> {
    let asked = log.snapshot_step(Index(index), step);
    let mut done = Vec::new();
    loop {
        log.ops().for_each(|op| disk.submit(op));
        disk.poll(true, &mut done);
        for done in done.drain(..) {
            match done {
                Done::Snapshot { ticket, result } if ticket == asked => return result,
                other => _ = log.on_done(other).expect("no write fails"),
            }
        }
    }
}

fn make(log: &mut Log, disk: &mut dyn Disk, index: u64) -> Result<(), DiskError> {
    step(log, disk, index, SnapshotStep::Begin)?;
    for (offset, piece) in pieces(index) {
        step(log, disk, index, SnapshotStep::Write { offset, data: Arc::new(piece) })?;
    }
    step(log, disk, index, SnapshotStep::Publish).map(|_| ())
}

#[test]
fn chunks_come_back_in_pieces_of_any_size() {
    let bytes = whole(9);
    for piece in [BLOCK, 3 * BLOCK, 1 << 20] {
        assert_eq!(read(&bytes, piece), Some(payloads()));
    }
}

#[test]
fn no_flipped_bit_and_no_missing_block_goes_unnoticed() {
    let bytes = whole(9);
    for at in (0..bytes.len()).step_by(61) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        assert_eq!(read(&flipped, 1 << 20), None, "byte {at}");
    }
    for block in 4..bytes.len() / BLOCK {
        let mut cut = bytes.clone();
        cut.drain(block * BLOCK..(block + 1) * BLOCK);
        assert_eq!(read(&cut, 1 << 20), None, "block {block}");
    }
    let mut mixed = bytes.clone();
    let other = whole(10);
    let first = SNAPSHOT_HEADER..SNAPSHOT_HEADER + BLOCK;
    mixed[first.clone()].copy_from_slice(&other[first]);
    assert_eq!(read(&mixed, 1 << 20), None, "a chunk of another snapshot");
}

/// The file of one that was removed becomes the next, whatever length that has, and nobody else's.
#[cfg(feature = "direct")]
fn files_are_used_again<D: Disk>(
    path: &std::path::Path,
    mut open_disk: impl FnMut() -> (Opened, D),
) {
    use std::os::unix::fs::MetadataExt;

    let file = |index: u64| {
        let name = margay_log::snapshot::snapshot_file(Index(index));
        std::fs::metadata(path.join(name)).map(|found| (found.ino(), found.len()))
    };
    let (Opened { mut log, .. }, mut disk) = open_disk();
    make(&mut log, &mut disk, 20).expect("made");
    make(&mut log, &mut disk, 21).expect("made");
    let (first, length) = file(20).expect("there");
    step(&mut log, &mut disk, 20, SnapshotStep::Remove).expect("removed");
    file(20).expect_err("its name is gone");
    assert_eq!(temporary(path), 1);

    // Shorter than what was there: the rest is cut off.
    let header = header(22).encode();
    step(&mut log, &mut disk, 22, SnapshotStep::Begin).expect("begun");
    let short = SnapshotStep::Write { offset: 0, data: Arc::new(header) };
    step(&mut log, &mut disk, 22, short).expect("written");
    step(&mut log, &mut disk, 22, SnapshotStep::Publish).expect("made");
    assert_eq!(file(22).expect("there"), (first, SNAPSHOT_HEADER as u64));

    // Longer than what was there; and of two that are removed one is kept.
    step(&mut log, &mut disk, 22, SnapshotStep::Remove).expect("removed");
    step(&mut log, &mut disk, 21, SnapshotStep::Remove).expect("removed");
    assert_eq!(temporary(path), 1);
    make(&mut log, &mut disk, 23).expect("made");
    assert_eq!(file(23).expect("there"), (first, length));
    assert_eq!(temporary(path), 0);
    make(&mut log, &mut disk, 24).expect("made");

    // One that waits to be used is gone with the next opening, and the others are what they were.
    step(&mut log, &mut disk, 23, SnapshotStep::Remove).expect("removed");
    drop((log, disk));
    let (Opened { snapshots, mut log, report, .. }, mut disk) = open_disk();
    assert_eq!(report.snapshots_unreadable, []);
    let indexes: Vec<u64> = snapshots.iter().map(|found| found.end.id.index.0).collect();
    assert!(indexes.ends_with(&[24]), "{indexes:?}");
    let read_all = SnapshotStep::Read { offset: 0, length: length as u32 };
    let bytes = step(&mut log, &mut disk, 24, read_all).expect("there").expect("bytes");
    assert!(bytes[..] == whole(24)[..]);
    assert_eq!(temporary(path), 0);
}

/// Files that the next opening removes.
#[cfg(feature = "direct")]
fn temporary(path: &std::path::Path) -> usize {
    let names = std::fs::read_dir(path).expect("a directory").map(|file| file.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().ends_with(".tmp")).count()
}

#[cfg(any(feature = "sim", feature = "direct"))]
fn suite<D: Disk>(mut open_disk: impl FnMut() -> (Opened, D)) {
    let (Opened { mut log, snapshots, .. }, mut disk) = open_disk();
    assert!(snapshots.is_empty());
    make(&mut log, &mut disk, 9).expect("made");
    make(&mut log, &mut disk, 12).expect("made");
    let length = whole(9).len() as u64;
    let read_all = SnapshotStep::Read { offset: 0, length: length as u32 };
    let bytes = step(&mut log, &mut disk, 9, read_all.clone()).expect("there").expect("bytes");
    assert!(bytes[..] == whole(9)[..]);
    step(&mut log, &mut disk, 10, read_all).expect_err("there is none");

    // One that is given up leaves nothing; one that is begun and not published neither.
    step(&mut log, &mut disk, 13, SnapshotStep::Begin).expect("begun");
    step(&mut log, &mut disk, 13, SnapshotStep::Discard).expect("given up");
    let late = SnapshotStep::Write { offset: 0, data: Arc::new(Buffer::zeroed(BLOCK)) };
    step(&mut log, &mut disk, 13, late).expect_err("it was given up");
    step(&mut log, &mut disk, 14, SnapshotStep::Begin).expect("begun");
    step(&mut log, &mut disk, 9, SnapshotStep::Remove).expect("removed");
    step(&mut log, &mut disk, 9, SnapshotStep::Remove).expect("removed already");

    drop((log, disk));
    let (Opened { snapshots, report, .. }, _) = open_disk();
    let found: Vec<_> = snapshots.iter().map(|found| (found.end, found.length)).collect();
    assert_eq!(found, [(header(12).end, length)]);
    assert_eq!(snapshots[0].meta, b"members");
    assert_eq!(report.snapshots_unreadable, []);
}

#[cfg(feature = "direct")]
#[test]
fn plain_calls() {
    use margay_log::disk::direct::Direct;
    let path = std::env::temp_dir().join(format!("margay-snapshot-{}", std::process::id()));
    let open_disk = || {
        let mut disk = Direct::open(&path).expect("a directory");
        (open(&mut disk, options()).expect("opens"), disk)
    };
    suite(open_disk);
    let mut names: Vec<_> = std::fs::read_dir(&path)
        .expect("there")
        .map(|entry| entry.expect("readable").file_name().into_string().expect("text"))
        .collect();
    names.sort_unstable();
    assert_eq!(
        names,
        ["hard-state", "segment-0000000000000001.log", "snapshot-0000000000000012.mgs"]
    );
    files_are_used_again(&path, open_disk);
    std::fs::remove_dir_all(&path).expect("ours");
}

#[cfg(feature = "uring")]
#[test]
fn ring() {
    use margay_log::disk::{direct::Direct, uring::Uring};
    let path = std::env::temp_dir().join(format!("margay-snapshot-ring-{}", std::process::id()));
    let open_disk = || {
        let mut files = Direct::open(&path).expect("a directory");
        let opened = open(&mut files, options()).expect("opens");
        (opened, Uring::new(files).expect("a ring"))
    };
    suite(open_disk);
    files_are_used_again(&path, open_disk);
    std::fs::remove_dir_all(&path).expect("ours");
}

#[cfg(feature = "sim")]
mod simulated {
    use super::*;
    use margay_log::disk::sim::{ENOSPC, SimDisk};
    use margay_log::rng::Rng;

    #[test]
    fn simulated_disk() {
        let mut kept = SimDisk::new(1);
        let handle = std::rc::Rc::new(std::cell::RefCell::new(&mut kept));
        struct Shared<'a>(std::rc::Rc<std::cell::RefCell<&'a mut SimDisk>>);
        impl Disk for Shared<'_> {
            fn submit(&mut self, op: margay_log::disk::Op) {
                self.0.borrow_mut().submit(op);
            }
            fn poll(&mut self, wait: bool, done: &mut Vec<Done>) {
                self.0.borrow_mut().poll(wait, done);
            }
        }
        suite(|| {
            let opened = open(*handle.borrow_mut(), options()).expect("opens");
            (opened, Shared(std::rc::Rc::clone(&handle)))
        });
    }

    /// The power goes in every step of making and removing: the older snapshot is there, the new
    /// one is whole or not there.
    #[test]
    fn power_cut_at_every_step_of_a_snapshot() {
        let (mut with, mut without) = (0, 0);
        for seed in 1..=8 {
            let mut rng = Rng::new(seed);
            let mut disk = SimDisk::new(seed);
            let mut log = open(&mut disk, options()).expect("opens").log;
            make(&mut log, &mut disk, 9).expect("made");
            let mut steps = vec![SnapshotStep::Begin];
            let writes = pieces(12)
                .into_iter()
                .map(|(offset, piece)| SnapshotStep::Write { offset, data: Arc::new(piece) });
            steps.extend(writes);
            steps.push(SnapshotStep::Publish);
            for step in steps {
                log.snapshot_step(Index(12), step);
                log.ops().for_each(|op| disk.submit(op));
                for _ in 0..4 {
                    let mut cut = disk.clone();
                    cut.power_cut(&mut rng);
                    match check(&mut cut).as_slice() {
                        [9] => without += 1,
                        [9, 12] => with += 1,
                        other => panic!("{other:?}"),
                    }
                }
                while disk.in_flight().len() > 0 {
                    disk.complete(0);
                }
            }
            assert_eq!(check(&mut disk), [9, 12]);
        }
        assert!(without > 0 && with > 0);
    }

    /// The indexes of the snapshots a restart finds, each read through.
    fn check(disk: &mut SimDisk) -> Vec<u64> {
        let opened = open(disk, options()).expect("opens after a crash");
        assert_eq!(opened.report.snapshots_unreadable, []);
        let mut log = opened.log;
        let mut found = Vec::new();
        for header in opened.snapshots {
            let index = header.end.id.index.0;
            let read_all = SnapshotStep::Read { offset: 0, length: header.length as u32 };
            let bytes = step(&mut log, disk, index, read_all).expect("there").expect("bytes");
            assert_eq!(read(&bytes, BLOCK), Some(payloads()), "whole");
            found.push(index);
        }
        found
    }

    #[test]
    fn a_full_disk_and_rot_cost_that_snapshot_alone() {
        let mut disk = SimDisk::new(5);
        let mut log = open(&mut disk, options()).expect("opens").log;
        disk.fail_snapshots(Some(ENOSPC));
        assert_eq!(make(&mut log, &mut disk, 9), Err(ENOSPC));
        assert_eq!(log.poisoned(), None);
        disk.fail_snapshots(None);
        make(&mut log, &mut disk, 9).expect("space again");
        make(&mut log, &mut disk, 12).expect("made");
        assert!(disk.flip_snapshot(Index(12), 8, 1));
        let opened = open(&mut disk, options()).expect("opens");
        assert_eq!(opened.snapshots.len(), 1, "the older one is still good");
        assert_eq!(opened.report.snapshots_unreadable, [Index(12)]);
    }
}
