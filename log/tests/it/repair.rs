//! Directories that something has happened to: each kind of harm has its own name, looking changes
//! nothing, and a repair loses only what it says and keeps the originals.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use margay_log::commit_log::{CommitLog, CommitLogOptions, Compaction, ReadOnlyLog};
use margay_log::disk::Disk;
use margay_log::disk::direct::Direct;
use margay_log::disk::view::View;
use margay_log::format::{BLOCK, EntryHeader};
use margay_log::id::{BatchEnd, ClusterId, Index, SegmentNumber, Term};
use margay_log::recover::Cause;
use margay_log::repair::{Repair, Step};
use margay_log::snapshot::{SnapshotHeader, SnapshotMaker};
use margay_log::{Error, Log, Options};

use crate::conformance::TempDir;

const ENTRIES: u64 = 60;

fn options() -> CommitLogOptions {
    CommitLogOptions {
        segment_first: 16 << 10,
        segment_max: 32 << 10,
        ..CommitLogOptions::default()
    }
}

/// A closed log of many small segments, one entry a batch.
fn filled(name: &str) -> (TempDir, PathBuf) {
    let dir = TempDir::new(name);
    let path = dir.path().join("log");
    let log = CommitLog::open(&path, options()).expect("a new log").log;
    for n in 1..=ENTRIES {
        log.append(&n.to_le_bytes()).expect("room").wait().expect("durable");
    }
    log.set_meta(b"the owner's").expect("fits").wait().expect("durable");
    drop(log);
    (dir, path)
}

fn segment(path: &Path, number: u64) -> PathBuf {
    path.join(margay_log::error::segment_file(SegmentNumber(number)))
}

fn is_segment(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("segment-"))
}

fn contents(path: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = fs::read_dir(path).expect("there").map(|entry| entry.expect("there").path());
    files.map(|file| (file.clone(), fs::read(&file).expect("readable"))).collect()
}

fn read_all(path: &Path) -> Vec<u64> {
    let log = ReadOnlyLog::open(path).expect("can be looked at");
    let mut reader = log.read(..);
    let mut found = Vec::new();
    while let Some(record) = reader.read_next().expect("readable") {
        let number = record.payload.try_into().expect("8 bytes");
        assert_eq!(record.index, Index(u64::from_le_bytes(number)));
        found.push(record.index.0);
    }
    found
}

/// Looks at the directory, which must not change, then repairs it.
fn repaired(path: &Path) -> (Vec<Step>, Vec<u64>, PathBuf) {
    let before = contents(path);
    let refused = CommitLog::open(path, options()).map(|_| ()).expect_err("not as it is");
    assert!(!matches!(refused, Error::Locked { .. }), "{refused}");
    let _ = ReadOnlyLog::open(path);
    assert_eq!(contents(path), before, "refusing and looking change nothing");

    let repair = Repair::plan(path).expect("can be repaired").expect("needs to be");
    assert_eq!(contents(path), before, "a plan changes nothing");
    let (steps, first, last) = (repair.steps().to_vec(), repair.first(), repair.last());
    let originals = repair.finish().expect("done");
    let moved: BTreeMap<_, _> = before
        .into_iter()
        .map(|(file, bytes)| (originals.join(file.file_name().expect("named")), bytes))
        .collect();
    assert_eq!(contents(&originals), moved, "the originals are as they were");

    let kept = read_all(path);
    assert_eq!((first.0..=last.0).collect::<Vec<_>>(), kept);
    assert!(Repair::plan(path).expect("sound").is_none());
    let log = CommitLog::open(path, options()).expect("opens again").log;
    log.append(&(last.0 + 1).to_le_bytes()).expect("room").wait().expect("durable");
    drop(log);
    assert_eq!(read_all(path).last(), Some(&(last.0 + 1)));
    assert_eq!(contents(&originals), moved, "and stay so");
    (steps, kept, originals)
}

#[test]
fn a_sound_log_needs_no_repair() {
    let (_dir, path) = filled("sound");
    let before = contents(&path);
    assert!(Repair::plan(&path).expect("sound").is_none());
    assert_eq!(contents(&path), before);
    let stats = ReadOnlyLog::open(&path).expect("can be looked at").stats();
    let segments: Vec<_> = before.iter().filter(|(name, _)| is_segment(name)).collect();
    let bytes: usize = segments.iter().map(|(_, bytes)| bytes.len()).sum();
    assert_eq!((stats.segments, stats.file_bytes), (segments.len() as u64, bytes as u64));
    assert_eq!(read_all(&path), (1..=ENTRIES).collect::<Vec<_>>());
}

#[test]
fn a_log_in_use_is_not_repaired() {
    let (_dir, path) = filled("in-use");
    let log = CommitLog::open(&path, options()).expect("opens").log;
    assert!(matches!(Repair::plan(&path), Err(Error::Locked { .. })));
    drop(log);
}

/// What the log begins behind is in them.
#[test]
fn snapshots_are_kept_and_shared_with_nobody() {
    let (_dir, path) = filled("snapshots");
    fs::remove_file(segment(&path, 4)).expect("there");
    let name = margay_log::snapshot::snapshot_file(Index(7));
    fs::write(path.join(&name), b"the state at 7").expect("writable");
    let (_, _, originals) = repaired(&path);
    assert_eq!(fs::read(path.join(&name)).expect("there"), b"the state at 7");
    // Its file becomes another one when the snapshot is removed.
    fs::write(path.join(&name), b"a later state").expect("writable");
    assert_eq!(fs::read(originals.join(&name)).expect("there"), b"the state at 7");
}

const CLUSTER: ClusterId = ClusterId(3);

/// How a group of a node opens its log.
fn of_a_group() -> Options {
    let (segment_first, segment_max) = (16 << 10, 16 << 10);
    Options { cluster: CLUSTER, segment_first, segment_max, ..Options::default() }
}

/// The closed log of a group, of 20 entries in segments of three. Gives the end of each batch, too.
fn filled_by_a_group(dir: &TempDir) -> (PathBuf, Vec<BatchEnd>) {
    let path = dir.path().join("log");
    let mut disk = Direct::open(&path).expect("a directory");
    let mut log = margay_log::open(&mut disk, of_a_group()).expect("a new log").log;
    let mut ends = Vec::new();
    let mut write = |log: &mut Log| {
        log.ops().for_each(|op| disk.submit(op));
        let mut done = Vec::new();
        disk.poll(true, &mut done);
        done.into_iter().for_each(|done| _ = log.on_done(done).expect("nothing fails"));
    };
    for _ in 0..20 {
        log.push(&EntryHeader::default(), b"an entry").expect("fits");
        let batch = log.seal(Term(1), 0).expect("space");
        ends.push(BatchEnd { id: batch.header().last(), chain: batch.header().chain });
        write(&mut log);
    }
    log.record_durable();
    write(&mut log);
    (path, ends)
}

/// A group's segments become later ones.
#[test]
fn segments_that_are_used_again_are_shared_with_nobody() {
    let dir = TempDir::new("group");
    let (path, _) = filled_by_a_group(&dir);
    fs::remove_file(segment(&path, 4)).expect("there");
    let originals = Repair::plan(&path).expect("can be").expect("needs to be").finish();
    for file in contents(&originals.expect("done")).keys() {
        assert_eq!(fs::metadata(file).expect("there").nlink(), 1, "{}", file.display());
    }
    let mut disk = Direct::open(&path).expect("free");
    let opened = margay_log::open(&mut disk, of_a_group()).expect("opens");
    assert!(opened.log.last().index > Index(5) && opened.report.damage.is_none());
}

/// What its header says of a snapshot may be all that is left of it: then the one before it leads
/// further than the log.
#[test]
fn a_repaired_log_begins_behind_a_snapshot_only_if_all_of_it_is_there() {
    type Harm = (&'static str, u64, fn(&mut Vec<u8>));
    let harms: [Harm; 3] = [
        ("whole", 18, |_| {}),
        ("rotten", 15, |bytes| *bytes.last_mut().expect("long") ^= 1),
        ("cut", 15, |bytes| bytes.truncate(bytes.len() - BLOCK)),
    ];
    for (name, begins_behind, harm) in harms {
        let dir = TempDir::new(&format!("group-{name}"));
        let (path, ends) = filled_by_a_group(&dir);
        fs::remove_file(segment(&path, 3)).expect("there");
        let mut newest = PathBuf::new();
        for end in [ends[14], ends[17]] {
            newest = path.join(margay_log::snapshot::snapshot_file(end.id.index));
            fs::write(&newest, snapshot(end)).expect("writable");
        }
        let mut bytes = fs::read(&newest).expect("there");
        harm(&mut bytes);
        fs::write(&newest, bytes).expect("writable");

        let repair = Repair::plan(&path).expect("can be").expect("needs to be");
        let snapshot = Index(begins_behind);
        assert!(repair.steps().contains(&Step::BeginBehind { snapshot }), "{name}: {repair:?}");
        let loss = Step::Lose { first: snapshot.next(), until: Index(20) };
        assert_eq!(repair.steps().last(), Some(&loss), "{name}");
        repair.finish().expect("done");
        let mut disk = Direct::open(&path).expect("free");
        let log = margay_log::open(&mut disk, of_a_group()).expect("opens").log;
        assert_eq!(log.start(), ends[begins_behind as usize - 1], "{name}");
    }
}

/// The file of a snapshot: two chunks, each in blocks of its own.
fn snapshot(end: BatchEnd) -> Vec<u8> {
    let mut maker = SnapshotMaker::new(SnapshotHeader {
        cluster: CLUSTER,
        end,
        meta: b"members".to_vec(),
        ..SnapshotHeader::default()
    });
    let chunks = [1, 2].map(|chunk| maker.chunk(&vec![chunk; 2 * BLOCK]).1);
    let header = maker.header().encode();
    [&header[..], &chunks[0], &chunks[1]].concat()
}

/// Of a repair that cannot be finished the log is as it was, and in its place.
#[test]
fn a_repair_that_fails_leaves_the_log_where_it_is() {
    let (dir, path) = filled("fails");
    fs::remove_file(segment(&path, 4)).expect("there");
    let before = contents(&path);
    let repair = Repair::plan(&path).expect("can be repaired").expect("needs to be");
    let at_once = CommitLogOptions { lock_wait: Duration::ZERO, ..options() };
    let locked = CommitLog::open(&path, at_once).map(|_| ());
    assert!(matches!(locked, Err(Error::Locked { .. })), "{locked:?}");
    fs::remove_dir_all(dir.path().join("log.repair")).expect("there");
    repair.finish().expect_err("there is nothing to put in place");
    assert_eq!(contents(&path), before);
    // Somebody has moved the log away: what was to take its place is not taken for the originals.
    let repair = Repair::plan(&path).expect("can be repaired").expect("needs to be");
    let moved = dir.path().join("moved");
    fs::rename(&path, &moved).expect("ours");
    repair.finish().expect_err("there is nothing to exchange");
    assert!(contents(&moved).into_values().eq(before.into_values()), "it is as it was");
    assert!(!dir.path().join("log.damaged").exists());
}

#[test]
fn rot_loses_what_lies_behind_it() {
    let (_dir, path) = filled("rot");
    let mut bytes = fs::read(segment(&path, 3)).expect("there");
    bytes[4096 + 130] ^= 4;
    fs::write(segment(&path, 3), bytes).expect("writable");
    let looked = ReadOnlyLog::open(&path).expect("can be looked at");
    let damage = looked.report().damage.expect("damaged");
    assert_eq!((damage.segment, damage.offset), (SegmentNumber(3), 4096));
    assert_eq!(damage.cause, Cause::Unreadable);
    let (steps, kept, _) = repaired(&path);
    assert_eq!(steps, [Step::Lose { first: damage.index, until: Index(ENTRIES) }]);
    assert_eq!(kept.last().copied(), Some(damage.index.0 - 1));
}

#[test]
fn a_lost_segment_loses_what_lies_behind_it() {
    let (_dir, path) = filled("lost");
    fs::remove_file(segment(&path, 4)).expect("there");
    let error = ReadOnlyLog::open(&path).map(|_| ()).expect_err("a gap");
    assert_eq!(error, Error::SegmentMissing { segment: SegmentNumber(4) });
    let (steps, kept, originals) = repaired(&path);
    assert!(steps.contains(&Step::LeaveOut { segment: SegmentNumber(5) }));
    assert!(matches!(steps.last(), Some(Step::Lose { .. })));
    assert!(!kept.is_empty() && kept.len() < ENTRIES as usize);
    assert!(segment(&originals, 5).exists());
}

#[test]
fn each_kind_of_harm_to_a_segment_is_told_apart() {
    type Harm = (&'static str, fn(&Path), fn(&Error) -> bool);
    let harms: [Harm; 4] = [
        (
            "empty",
            |file| fs::write(file, []).expect("writable"),
            |error| matches!(error, Error::SegmentSize { found: 0, expected: 0, .. }),
        ),
        (
            "foreign",
            |file| {
                let length = fs::read(file).expect("there").len();
                fs::write(file, vec![b'x'; length]).expect("writable");
            },
            |error| matches!(error, Error::Foreign { .. }),
        ),
        (
            "twice",
            |file| {
                fs::copy(segment(file.parent().expect("in a directory"), 2), file).expect("there");
            },
            |error| {
                // By its name, or by its size where that differs too.
                matches!(error, Error::SegmentSwapped { found: SegmentNumber(2), .. })
            },
        ),
        (
            "other-log",
            |file| {
                let (_dir, other) = filled("other");
                fs::copy(segment(&other, 3), file).expect("there");
            },
            |error| matches!(error, Error::OtherIncarnation { .. }),
        ),
    ];
    for (name, harm, is_named) in harms {
        let (_dir, path) = filled(&format!("harm-{name}"));
        harm(&segment(&path, 3));
        let error = ReadOnlyLog::open(&path).map(|_| ()).expect_err(name);
        assert!(is_named(&error), "{name}: {error}");
        let (steps, kept, _) = repaired(&path);
        assert!(steps.contains(&Step::LeaveOut { segment: SegmentNumber(3) }), "{name}");
        assert!(!kept.is_empty(), "{name}");
    }
}

/// Whatever is there of it proves itself.
#[test]
fn of_a_segment_of_a_wrong_size_all_is_kept_that_is_there() {
    // Ten entries lie before it, and of seven in it each has a block.
    let sizes = [
        (32_768 + 5_000, ENTRIES),
        (32_768 + 4_096, ENTRIES),
        (20_480, 14),
        (20_480 + 77, 14),
        (16_384 + 100, 13),
        (4_096 + 77, 10),
        (4_096, 10),
        (77, 10),
    ];
    for (size, last) in sizes {
        let (_dir, path) = filled(&format!("size-{size}"));
        let mut bytes = fs::read(segment(&path, 3)).expect("there");
        assert_eq!(bytes.len(), 32_768);
        bytes.resize(size, b'x');
        fs::write(segment(&path, 3), bytes).expect("writable");
        let error = ReadOnlyLog::open(&path).map(|_| ()).expect_err("of another size");
        let number = SegmentNumber(3);
        assert!(
            matches!(error, Error::SegmentSize { segment, .. } if segment == number),
            "{error}"
        );
        let (steps, kept, _) = repaired(&path);
        let step = match size {
            77 => Step::LeaveOut { segment: number },
            _ => Step::Resize { segment: number, found: size as u64, made: 32_768 },
        };
        assert!(steps.contains(&step), "{size}: {steps:?}");
        assert_eq!(kept, (1..=last).collect::<Vec<_>>(), "{size}");
        let loss = Step::Lose { first: Index(last + 1), until: Index(ENTRIES) };
        assert_eq!(steps.contains(&loss), last < ENTRIES, "{size}: {steps:?}");
    }
}

/// Nothing is left to begin with: that is said, and what can be done.
#[test]
fn a_log_of_which_nothing_is_left_is_not_repaired() {
    let (dir, path) = filled("nothing-left");
    for file in contents(&path).keys().filter(|file| is_segment(file)) {
        fs::write(file, b"").expect("writable");
    }
    let before = contents(&path);
    let error = Repair::plan(&path).map(|_| ()).expect_err("what of?");
    assert!(error.to_string().contains("move the directory away"), "{error}");
    assert_eq!(contents(&path), before);
    assert_eq!(fs::read_dir(dir.path()).expect("there").count(), 1, "nothing is left beside");
}

/// It is no damage: whoever has the newer version reads it.
#[test]
fn what_a_newer_version_has_written_is_left_alone() {
    let (_dir, path) = filled("newer");
    let mut bytes = fs::read(segment(&path, 3)).expect("there");
    bytes[4..6].copy_from_slice(&2_u16.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..4_092]);
    bytes[4_092..4_096].copy_from_slice(&crc.to_le_bytes());
    fs::write(segment(&path, 3), bytes).expect("writable");
    let before = contents(&path);
    for error in [
        CommitLog::open(&path, options()).map(|_| ()).expect_err("newer"),
        ReadOnlyLog::open(&path).map(|_| ()).expect_err("newer"),
        Repair::plan(&path).map(|_| ()).expect_err("newer"),
    ] {
        assert!(matches!(error, Error::Newer { found: 2, .. }), "{error}");
    }
    assert_eq!(contents(&path), before);
    let beside = fs::read_dir(path.parent().expect("in a directory")).expect("there");
    assert_eq!(beside.count(), 1, "nothing is left beside");
}

#[test]
fn exchanged_segments_lose_nothing() {
    let (_dir, path) = filled("exchanged");
    let (two, three) = (segment(&path, 2), segment(&path, 3));
    let aside = path.join("aside");
    fs::rename(&two, &aside).expect("there");
    fs::rename(&three, &two).expect("there");
    fs::rename(&aside, &three).expect("there");
    let error = ReadOnlyLog::open(&path).map(|_| ()).expect_err("exchanged");
    assert!(matches!(error, Error::SegmentSwapped { .. }), "{error}");
    let (steps, kept, _) = repaired(&path);
    assert_eq!(steps.len(), 2);
    assert_eq!(kept, (1..=ENTRIES).collect::<Vec<_>>());
}

#[test]
fn a_lost_hard_state_is_made_anew() {
    for (name, bytes) in [("gone", None), ("rotten", Some(vec![7_u8; 16384]))] {
        let (_dir, path) = filled(&format!("hard-state-{name}"));
        let hard_state = path.join("hard-state");
        match bytes {
            Some(bytes) => fs::write(hard_state, bytes).expect("writable"),
            None => fs::remove_file(hard_state).expect("there"),
        }
        let (steps, kept, _) = repaired(&path);
        assert_eq!(steps, [Step::NewHardState]);
        assert_eq!(kept, (1..=ENTRIES).collect::<Vec<_>>());
        assert_eq!(ReadOnlyLog::open(&path).expect("sound").meta(), b"");
    }
}

/// Where the log begins and which hard state was the newest, packs say as well.
#[test]
fn a_lost_hard_state_of_a_compacted_log() {
    for cut in [0, 20] {
        let (_dir, path) = filled(&format!("hard-state-packed-{cut}"));
        let log = CommitLog::open(&path, options()).expect("opens").log;
        let first = log.truncate_prefix(Index(cut)).expect("open");
        for n in (first.0..40).step_by(2) {
            log.clean(Index(n)).expect("held");
        }
        let compaction = Compaction { dead_percent: 1, ..Compaction::default() };
        let compacted = log.compact(compaction, |_| true).expect("runs");
        assert!(compacted.segments > 1, "{compacted:?}");
        drop(log);
        let before = read_all(&path);
        fs::remove_file(path.join("hard-state")).expect("there");
        let repair = Repair::plan(&path).expect("can be repaired").expect("needs to be");
        assert_eq!(repair.steps(), [Step::NewHardState]);
        assert_eq!((repair.first(), repair.last()), (first, Index(ENTRIES)));
        repair.finish().expect("done");
        assert_eq!(read_all(&path), before);
    }
}

#[test]
fn a_lost_hard_state_of_a_log_without_its_beginning() {
    let (_dir, path) = filled("hard-state-prefix");
    let log = CommitLog::open(&path, options()).expect("opens").log;
    let first = log.truncate_prefix(Index(30)).expect("open");
    assert!(first > Index(1));
    drop(log);
    fs::remove_file(path.join("hard-state")).expect("there");
    let (steps, kept, _) = repaired(&path);
    assert_eq!(steps, [Step::NewHardState]);
    assert_eq!(kept, (first.0..=ENTRIES).collect::<Vec<_>>());
}

#[test]
fn a_reader_beside_a_live_writer_sees_a_whole_log() {
    let (_dir, path) = filled("beside");
    let log = CommitLog::open(&path, options()).expect("opens").log;
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let (log, path) = (&log, &path);
        let writer = scope.spawn(move || {
            let mut n = ENTRIES;
            while begin.elapsed() < Duration::from_millis(700) {
                n += 1;
                log.append(&n.to_le_bytes()).expect("room").wait().expect("durable");
            }
            n
        });
        let mut looked = ReadOnlyLog::open(path).expect("can be looked at");
        let mut last = looked.last();
        while !writer.is_finished() {
            looked.refresh().expect("can be looked at again");
            assert_eq!(looked.report().damage, None);
            assert!(looked.last() >= last);
            last = looked.last();
            assert_eq!(read_all(path).first(), Some(&1));
        }
        let n = writer.join().expect("ends well");
        looked.refresh().expect("can be looked at");
        assert_eq!(looked.last(), Index(n));
    });
}

#[test]
fn a_directory_without_a_log_is_said_to_have_none() {
    let dir = TempDir::new("nothing");
    fs::create_dir_all(dir.path()).expect("writable");
    let error = View::open(dir.path()).map(|_| ()).expect_err("nothing there");
    assert!(matches!(error, Error::Path { .. }), "{error}");
    assert!(matches!(Repair::plan(dir.path()), Err(Error::Path { .. })));
}
