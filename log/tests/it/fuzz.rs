//! Any bytes, for every decoder and for whole directories: nothing panics, nothing hangs, nothing
//! is made up.
//!
//! Here the corpus and some random inputs. `log/fuzz` gives the same targets to bolero, which goes
//! on as long as it is let.

use std::sync::OnceLock;

use margay_log::batch::BATCH_OFFSET;
use margay_log::disk::Disk;
use margay_log::disk::sim::SimDisk;
use margay_log::format::{BatchHeader, EntryHeader, Frame, SegmentHeader};
use margay_log::hard_state::HardState;
use margay_log::id::{Index, Position, SegmentNumber, Term};
use margay_log::recover::Storage;
use margay_log::rng::Rng;
use margay_log::{Buffer, Log, Received, open};

use crate::world::{CLUSTER, GROUP, options};

/// Every decoder takes any bytes.
pub(crate) fn decoders(bytes: &[u8]) {
    let salt = bytes.first().map_or(0, |&byte| u32::from(byte));
    let _ = BatchHeader::decode(bytes);
    let _ = EntryHeader::decode(bytes);
    let _ = Frame::decode(bytes, salt);
    let _ = SegmentHeader::decode(bytes);
    let _ = HardState::decode(bytes);
    let _ = HardState::newest(bytes);
    let mut buffer = Buffer::zeroed(BATCH_OFFSET + bytes.len());
    buffer[BATCH_OFFSET..][..bytes.len()].copy_from_slice(bytes);
    if let Ok(received) = Received::check(buffer, bytes.len(), CLUSTER, GROUP) {
        assert!(received.header().count > 0);
    }
}

type Appended = (Index, Vec<u8>);

/// A log of a few segments, the first of them compacted.
fn sound() -> &'static (SimDisk, Vec<Appended>) {
    static SOUND: OnceLock<(SimDisk, Vec<Appended>)> = OnceLock::new();
    SOUND.get_or_init(|| {
        let mut disk = SimDisk::new(1);
        let mut log = open(&mut disk, options()).expect("a new log").log;
        let mut appended = Vec::new();
        for n in 1..=40_u64 {
            let payload = vec![n as u8; (n * 37 % 700) as usize];
            let index = log.push(&EntryHeader::default(), &payload).expect("fits");
            appended.push((index, payload));
            log.seal(Term(1), n).expect("space");
            settle(&mut log, &mut disk);
        }
        (1..=8).filter(|n| n % 3 != 0).for_each(|n| log.clean(Index(n)).expect("held"));
        for _ in 0..2 {
            log.record_place();
            settle(&mut log, &mut disk);
        }
        let candidate = log.candidate(SegmentNumber(0), 1).expect("some are marked");
        let packed = candidate.pack(|at, bytes| disk.read(at.segment, at.offset, bytes));
        assert!(log.rewrite(&candidate, packed.expect("readable")));
        settle(&mut log, &mut disk);
        (disk, appended)
    })
}

fn settle(log: &mut Log, disk: &mut SimDisk) {
    let mut done = Vec::new();
    loop {
        log.ops().for_each(|op| disk.submit(op));
        disk.poll(true, &mut done);
        if done.is_empty() {
            return;
        }
        done.drain(..).for_each(|done| {
            log.on_done(done).expect("nothing fails");
        });
    }
}

/// What is drawn changes bits of a sound log's files, four bytes for each: which segment, which
/// block, where, how.
pub(crate) fn directories(bytes: &[u8]) {
    let (sound, appended) = sound();
    let mut disk = sound.clone();
    let segments: Vec<_> = disk.segment_numbers().collect();
    for change in bytes.chunks_exact(4).take(16) {
        let segment = segments[usize::from(change[0]) % segments.len()];
        let blocks: Vec<_> = disk.written_blocks(segment).collect();
        let block = blocks[usize::from(change[1]) % blocks.len()];
        // The first bytes of a block are headers: they are hit most.
        let within = u64::from(change[2]) * if change[3] & 1 == 0 { 1 } else { 16 };
        disk.flip(segment, block + within, change[3] >> 1);
    }
    let Ok(opened) = open(&mut disk, options()) else { return };
    let read = |at: Position, bytes: &mut [u8]| disk.read(at.segment, at.offset, bytes);
    // Whatever is given is what was appended; what was rotten is not given.
    let _ = opened.log.each_entry(read, |index, payload| {
        let at = usize::try_from(index.0 - 1).expect("small");
        assert_eq!((index, payload), (appended[at].0, &appended[at].1[..]));
    });
    let is_short = opened.log.last().index < Index(appended.len() as u64);
    assert!(!is_short || opened.report.damage.is_some(), "never shorter without a word");
}

/// Runs the corpus and some inputs of our own through a target.
fn replay(corpus: &str, target: fn(&[u8])) {
    // The package of the log, or that of the fuzzing.
    let package = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let within = ["fuzz/corpus", "corpus"].map(|folder| package.join(folder).join(corpus));
    let folder = within.into_iter().find(|folder| folder.is_dir()).expect("there is a corpus");
    let mut files = 0;
    for file in std::fs::read_dir(&folder).expect("there is a corpus") {
        target(&std::fs::read(file.expect("listed").path()).expect("readable"));
        files += 1;
    }
    assert!(files > 0, "nothing in {}", folder.display());
    crate::world::for_seeds(corpus, &crate::world::seeds(200), |seed| {
        let mut rng = Rng::new(seed);
        let length = rng.below(64);
        let bytes: Vec<u8> = (0..length).map(|_| rng.next_u64() as u8).collect();
        target(&bytes);
    });
}

#[test]
fn any_bytes_for_decoders() {
    replay("decoders", decoders);
}

#[test]
fn any_harm_to_directories() {
    replay("directories", directories);
}
