//! A real directory: who may open it, what a crash leaves in it, and what other people put there.

use std::path::Path;
use std::time::Duration;

use margay_log::disk::Disk;
use margay_log::disk::direct::{Access, Direct};
use margay_log::format::EntryHeader;
use margay_log::id::{GroupId, Incarnation, Index, Term};
use margay_log::{Error, Log, Options, open};

use crate::conformance::{PATIENCE, TempDir, in_time};

const FIRST: &str = "segment-0000000000000001.log";

const AT_ONCE: Access = Access { lock_wait: Duration::ZERO, buffered: false };

fn options() -> Options {
    Options { segment_first: 64 << 10, segment_max: 64 << 10, ..Options::default() }
}

/// Not all of two segments.
const BATCHES: usize = 25;

/// A log with a few batches in it.
fn filled(path: &Path) {
    let mut direct = Direct::open(path).expect("a directory");
    let mut log = open(&mut direct, options()).expect("a new log").log;
    for _ in 0..BATCHES {
        append(&mut log, &mut direct);
    }
}

/// A batch that takes one block.
fn append(log: &mut Log, direct: &mut Direct) {
    log.push(&EntryHeader::default(), &[7; 3_000]).expect("fits");
    log.seal(Term(1), 0).expect("space");
    let mut done = Vec::new();
    log.ops().for_each(|op| direct.submit(op));
    direct.poll(true, &mut done);
    done.into_iter().for_each(|done| {
        log.on_done(done).expect("nothing fails");
    });
}

fn reopened(path: &Path, options: Options) -> Result<margay_log::Report, Error> {
    let mut direct = Direct::open(path)?;
    open(&mut direct, options).map(|opened| opened.report)
}

/// What a log takes is more than its entries: a small batch takes a block, and a segment that an
/// unclean end cut short is paid for as a whole.
#[test]
fn what_lies_between_two_entries_is_counted_as_it_lies_on_disk() {
    const BLOCK: u64 = margay_log::format::BLOCK as u64;
    let directory = TempDir::new("space");
    filled(directory.path());
    let mut direct = Direct::open(directory.path()).expect("free");
    let mut log = open(&mut direct, options()).expect("opens").log;
    assert_eq!(log.disk_bytes(Index(1), Index(2)), BLOCK);
    assert_eq!(log.disk_bytes(Index(2), Index(2)), 0);
    assert_eq!(log.disk_bytes(Index(14), Index(16)), 3 * BLOCK, "with a segment's header");
    assert_eq!(log.disk_bytes(Index(0), Index(24)), (16 + 10) * BLOCK);
    assert_eq!(log.disk_bytes(Index(0), Index(25)), 2 * 16 * BLOCK, "five stay empty");
    assert_eq!(log.disk_bytes(Index(0), Index(99)), 2 * 16 * BLOCK, "as far as it goes");
    append(&mut log, &mut direct);
    assert_eq!(log.disk_bytes(Index(24), Index(26)), (1 + 5 + 2) * BLOCK);
}

/// Segments only grow: no file is kept for later ones that none of them will fit.
#[test]
fn only_files_that_will_be_used_again_are_kept() {
    let directory = TempDir::new("spares");
    let mut direct = Direct::open(directory.path()).expect("a directory");
    let largest = 256 << 10;
    let options = Options { segment_max: largest, spare_bytes: 4 * largest, ..options() };
    let mut log = open(&mut direct, options).expect("a new log").log;
    let mut most = 0;
    for n in 1..400 {
        append(&mut log, &mut direct);
        if n % 10 == 0 {
            log.truncate_prefix(Index(n)).expect("not poisoned");
        }
        let files = std::fs::read_dir(directory.path()).expect("it is there").flatten();
        let spare = |file: &std::fs::DirEntry| file.file_name().to_string_lossy().contains("spare");
        let sizes = files.filter(spare).map(|file| file.metadata().expect("it is there").len());
        let sizes: Vec<u64> = sizes.collect();
        assert!(sizes.iter().all(|size| *size == largest), "{sizes:?} after {n}");
        most = most.max(sizes.len());
    }
    assert!(most > 0, "some are kept");
}

#[test]
fn one_at_a_time() {
    let directory = TempDir::new("locked");
    filled(directory.path());
    let holder = Direct::open(directory.path()).expect("free");
    let error = Direct::open_with(directory.path(), AT_ONCE).expect_err("taken");
    assert!(matches!(&error, Error::Locked { .. }));
    assert!(error.to_string().contains(&directory.path().display().to_string()));
    // Another process, as far as locks go: the lock of each file on its own descriptor. One that
    // another test is starting just now may have ours for a moment longer.
    drop(holder);
    let file = std::fs::File::open(directory.path().join(FIRST)).expect("a segment");
    let taken = flock(&file);
    assert!(taken, "the file is free");
    let error = Direct::open_with(directory.path(), AT_ONCE).expect_err("taken");
    assert!(matches!(error, Error::Locked { path } if path.ends_with(FIRST)));
    drop(file);
    reopened(directory.path(), options()).expect("free again");
}

/// Locks a file without unsafe code in a test: `flock` locks the descriptor that we pass on to it,
/// and the lock stays with that.
fn flock(file: &std::fs::File) -> bool {
    let mut flock = std::process::Command::new("flock");
    flock.args(["-w", "60", "0"]).stdin(file.try_clone().expect("a descriptor"));
    flock.status().is_ok_and(|status| status.success())
}

#[test]
fn a_lock_that_is_given_up_in_time_is_waited_for() {
    let directory = TempDir::new("waited");
    filled(directory.path());
    let holder = Direct::open(directory.path()).expect("free");
    let path = directory.path().to_owned();
    let waiting = std::thread::spawn(move || Direct::open(&path).map(|_| ()));
    drop(holder);
    assert_eq!(waiting.join().expect("no panic"), Ok(()));
}

/// Whoever has waited for a directory has the one that is there, not the one that was.
#[test]
fn a_directory_that_was_exchanged_is_not_taken_for_the_new_one() {
    let directory = TempDir::new("exchanged");
    let (path, moved) = (directory.path().join("log"), directory.path().join("moved"));
    filled(&path);
    let holder = Direct::open(&path).expect("free");
    let opened = || {
        let open = std::fs::read_dir("/proc/self/fd").expect("Linux").flatten();
        open.filter(|file| std::fs::read_link(file.path()).is_ok_and(|name| name == path)).count()
    };
    let (name, before) = (path.clone(), opened());
    let waiting = std::thread::spawn(move || {
        let patient = Access { lock_wait: PATIENCE, ..Access::default() };
        Direct::open_with(&name, patient).expect("free in the end")
    });
    assert!(in_time(|| opened() > before), "it waits for the one that is there");
    std::fs::rename(&path, &moved).expect("ours");
    filled(&path);
    drop(holder);
    let waited = waiting.join().expect("no panic");
    let error = Direct::open_with(&path, AT_ONCE).expect_err("taken");
    let named = path.display().to_string();
    assert_eq!(error, Error::Locked { path: named }, "all of it, not only its files");
    drop(waited);
    drop(Direct::open(&path).expect("free again"));
}

#[test]
fn leftovers_of_a_crash_are_removed() {
    let directory = TempDir::new("leftovers");
    filled(directory.path());
    let before = reopened(directory.path(), options()).expect("opens").last;
    let leftover = directory.path().join("segment-0000000000000099.log.tmp");
    std::fs::write(&leftover, b"half a file").expect("a file");
    let notes = directory.path().join("notes.tmp");
    std::fs::write(&notes, b"not ours").expect("a file");
    let report = reopened(directory.path(), options()).expect("opens");
    assert_eq!((report.last, report.damage), (before, None));
    assert!(!leftover.exists() && notes.exists());
}

#[test]
fn what_is_not_ours_is_named() {
    let directory = TempDir::new("foreign");
    let path = directory.path();
    filled(path);
    let first = path.join(FIRST);
    let kept = std::fs::read(&first).expect("a segment");
    let check = |bytes: &[u8], expected: &str| {
        std::fs::write(&first, bytes).expect("a file");
        let error = reopened(path, options()).expect_err("refused").to_string();
        assert!(error.contains(FIRST) && error.contains(expected), "{error}");
        assert!(!error.ends_with('.') && !error.contains('\n'), "{error}");
    };
    check(b"", "0 bytes");
    check(&kept[..8192], "8192 bytes instead of 65536");
    check(&vec![b'x'; 65536], "not a margay file");
    let other = std::fs::read(path.join("segment-0000000000000002.log")).expect("a segment");
    check(&other, "holds what belongs into segment-0000000000000002.log");
    let mut newer = kept.clone();
    newer[4] = 2;
    let crc = crc32c::crc32c(&newer[..4092]);
    newer[4092..4096].copy_from_slice(&crc.to_le_bytes());
    check(&newer, "version 2");
    std::fs::write(&first, &kept).expect("a file");
    reopened(path, options()).expect("as before");

    std::fs::rename(&first, path.join("elsewhere")).expect("ours");
    let error = reopened(path, options()).expect_err("refused").to_string();
    assert!(error.contains(FIRST) && error.contains("missing"), "{error}");
    std::fs::rename(path.join("elsewhere"), &first).expect("ours");

    let hard_state = path.join("hard-state");
    let kept = std::fs::read(&hard_state).expect("a file");
    std::fs::write(&hard_state, b"").expect("a file");
    assert_eq!(reopened(path, options()).expect_err("refused"), Error::HardStateUnreadable);
    std::fs::write(&hard_state, vec![b'x'; 16384]).expect("a file");
    assert!(matches!(reopened(path, options()), Err(Error::Foreign { .. })));
    std::fs::remove_file(&hard_state).expect("ours");
    assert_eq!(reopened(path, options()).expect_err("refused"), Error::HardStateMissing);
    std::fs::write(&hard_state, kept).expect("a file");
    reopened(path, options()).expect("as before");
}

#[test]
fn another_log_is_not_opened() {
    let directory = TempDir::new("identity");
    filled(directory.path());
    let group = Options { group: GroupId(5), ..options() };
    assert!(matches!(reopened(directory.path(), group), Err(Error::OtherGroup { .. })));
    let life = Options { incarnation: Incarnation(5), ..options() };
    assert!(matches!(reopened(directory.path(), life), Err(Error::OtherIncarnation { .. })));
}

#[test]
fn a_path_that_cannot_be_a_directory_is_named() {
    let directory = TempDir::new("file");
    std::fs::write(directory.path(), b"a file").expect("a file");
    let error = Direct::open(directory.path()).expect_err("refused");
    assert!(matches!(&error, Error::Path { action: "create", .. }), "{error}");
    std::fs::remove_file(directory.path()).expect("ours");
}
