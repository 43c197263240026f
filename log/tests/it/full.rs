//! Disks that are full, and disks that fail: a small ext4 in a file that lies in memory, in a mount
//! namespace of its own that goes with the process.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use margay_log::Error;
use margay_log::commit_log::{Appended, CommitLog, CommitLogOptions, Compaction, Driver};
use margay_log::id::Index;

use crate::conformance::{PATIENCE, TempDir};

/// Tells the test in the namespace where its directory in memory is.
const BASE: &str = "MARGAY_TEST_SMALL_DISK";

/// Runs `test` of this module again, by itself, where `disk` of its directory is the small file
/// system. Where nobody may mount, that is said, and nothing is tested.
fn on_a_small_disk(test: &str, run: fn(&Path)) {
    if let Some(base) = std::env::var_os(BASE) {
        return run(Path::new(&base));
    }
    let dir = TempDir::new(test);
    let base = dir.path().join("base");
    fs::create_dir_all(&base).expect("ours");
    // $0 is the directory in memory.
    let script = "mount -t tmpfs -o size=96m none \"$0\" && truncate -s 64M \"$0/image\" && \
                  mkfs.ext4 -q \"$0/image\" && mkdir \"$0/disk\" && \
                  mount -o loop \"$0/image\" \"$0/disk\" && exec \"$@\"";
    let small = || {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script]).arg(&base).env(BASE, &base);
        command
    };
    let may = small().arg("true").output();
    if !may.as_ref().is_ok_and(|output| output.status.success()) {
        println!("skipped: a small file system cannot be mounted here: {may:?}");
        return;
    }
    let own = std::env::current_exe().expect("a test has a file");
    let name = format!("full::{test}");
    let output = small().arg(own).args([&name, "--exact", "--nocapture"]).output().expect("runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}{error}");
}

/// Writes into a file until there is no space left.
fn fill(path: &Path) {
    let mut file = File::create(path).expect("a small file finds its place");
    let mut piece = 1 << 20;
    while piece >= 4_096 {
        let more = file.write_all(&vec![0x55; piece]).and_then(|()| file.sync_data());
        if more.is_err() {
            piece /= 2;
        }
    }
}

fn drivers() -> [Driver; 1 + cfg!(feature = "uring") as usize] {
    [
        Driver::Direct,
        #[cfg(feature = "uring")]
        Driver::Uring,
    ]
}

fn open(path: &Path, driver: Driver) -> CommitLog {
    let options = CommitLogOptions {
        driver,
        segment_first: 1 << 20,
        segment_max: 4 << 20,
        cache_bytes: 1 << 20,
        ..CommitLogOptions::default()
    };
    let opening = CommitLog::open(path, options).expect("opens");
    assert_eq!(opening.report.damage, None);
    opening.log
}

fn entry(n: u64) -> Vec<u8> {
    vec![n as u8; 50_000]
}

/// Appends from `next` on, and waits for none, until an append is refused: why.
fn append_until_refused(log: &CommitLog, next: u64) -> (Vec<Appended>, Error) {
    let mut taken = Vec::new();
    for n in next..next + 4_000 {
        match log.append(&entry(n)) {
            Ok(appended) => taken.push(appended),
            Err(error) => return (taken, error),
        }
    }
    panic!("64 MiB took 200 MB");
}

fn check(log: &CommitLog, entries: u64) {
    let mut reader = log.read(..=Index(entries));
    for n in 1..=entries {
        let record = reader.read_next().expect("readable").expect("there");
        assert_eq!((record.index, record.payload), (Index(n), &entry(n)[..]));
    }
    assert_eq!(reader.read_next().expect("readable"), None);
}

fn fills_up_and_resumes(base: &Path) {
    for driver in drivers() {
        let path: PathBuf = base.join("disk").join(format!("log-{driver:?}"));
        let balloon = base.join("disk/balloon");
        let log = open(&path, driver);
        log.append(&entry(1)).expect("room").wait().expect("durable");
        fill(&balloon);
        let (taken, error) = append_until_refused(&log, 2);
        let Error::DiskFull { cause } = error else { panic!("{error}") };
        assert_eq!(cause.errno, libc::ENOSPC);
        // What was taken before anybody knew waits for space; reading goes on.
        let next = taken.len() as u64 + 2;
        assert_eq!(log.last(), Index(next - 1));
        check(&log, log.durable().0);
        log.set_meta(b"in place").expect("fits").wait().expect("needs no space");
        assert!(matches!(log.append(b"still full"), Err(Error::DiskFull { .. })));
        fs::remove_file(&balloon).expect("ours");
        // Nobody opens it anew.
        let appended = append_when_there_is_space(&log, &entry(next));
        assert_eq!(appended.wait(), Ok(Index(next)));
        for (n, appended) in (2..).zip(taken) {
            assert_eq!(appended.wait(), Ok(Index(n)));
        }
        check(&log, next);
        drop(log);
        let log = open(&path, driver);
        check(&log, next);
        assert_eq!(log.meta(), b"in place");
        drop(log);
        fs::remove_dir_all(&path).expect("ours");
    }
}

/// Appends `entry` until it is taken.
fn append_when_there_is_space(log: &CommitLog, entry: &[u8]) -> Appended {
    let begin = Instant::now();
    loop {
        match log.append(entry) {
            Ok(appended) => return appended,
            Err(Error::DiskFull { .. }) => std::thread::sleep(Duration::from_millis(20)),
            Err(error) => panic!("{error}"),
        }
        assert!(begin.elapsed() < PATIENCE, "it does not resume");
    }
}

/// Compacts after all but every tenth entry up to `through` has been marked.
fn compact(log: &CommitLog, through: Index) -> Result<u64, Error> {
    for n in (log.first().0..=through.0).filter(|n| n % 10 > 0) {
        log.clean(Index(n)).expect("held");
    }
    log.compact(Compaction::default(), |_| true).map(|compacted| compacted.entries)
}

fn opens_and_makes_room(base: &Path) {
    for driver in drivers() {
        let path: PathBuf = base.join("disk").join(format!("log-{driver:?}"));
        let balloon = base.join("disk/balloon");
        let log = open(&path, driver);
        for n in 1..200 {
            drop(log.append(&entry(n)).expect("room"));
        }
        log.sync().wait().expect("durable");
        drop(log);
        // Whatever was prepared is used: there is none to go on in.
        let two = [entry(200), entry(201)];
        open(&path, driver).append_many(&two).expect("room").wait().expect("durable");
        fill(&balloon);
        for _ in 0..2 {
            let log = open(&path, driver);
            check(&log, 201);
            let error = log.append(b"full").map(|_| ()).expect_err("no space");
            assert!(matches!(&error, Error::DiskFull { cause } if cause.is_full()), "{error}");
            log.set_meta(b"in place").expect("fits").wait().expect("needs no space");
            // What a rewritten segment keeps has no place beside it.
            let error = compact(&log, Index(100)).expect_err("no space");
            assert!(matches!(&error, Error::Storage { cause, .. } if cause.is_full()), "{error}");
            // Nor has what stays of a batch that is cut in two, which hard states would wait for.
            let error = log.truncate_suffix(Index(200)).expect_err("no space");
            assert!(matches!(&error, Error::DiskFull { cause } if cause.is_full()), "{error}");
            check(&log, 201);
        }
        let log = open(&path, driver);
        assert_eq!(log.meta(), b"in place");
        let first = log.truncate_prefix(Index(60)).expect("needs no space");
        assert!(first > Index(1), "segments go");
        assert_eq!(append_when_there_is_space(&log, &entry(202)).wait(), Ok(Index(202)));
        log.truncate_suffix(Index(200)).expect("space by now");
        assert_eq!(append_when_there_is_space(&log, &entry(201)).wait(), Ok(Index(201)));
        assert!(compact(&log, Index(150)).expect("room by now") > 0);
        drop(log);
        let log = open(&path, driver);
        let (mut reader, mut entries) = (log.read(..), 0);
        while let Some(record) = reader.read_next().expect("readable") {
            assert_eq!(record.payload, &entry(record.index.0)[..]);
            entries += 1;
        }
        assert_eq!((log.first(), log.last()), (first, Index(201)));
        assert!((40..190).contains(&entries), "{entries} left");
        drop((reader, log));
        fs::remove_dir_all(&path).expect("ours");
        fs::remove_file(&balloon).expect("ours");
    }
}

fn stops_at_the_first_failed_write(base: &Path) {
    let path = base.join("disk/log");
    // The last: what it leaves of the disk is not worth much.
    let driver = if cfg!(feature = "uring") { Driver::Auto } else { Driver::Direct };
    let log = open(&path, driver);
    for n in 1..=3 {
        log.append(&entry(n)).expect("room").wait().expect("durable");
    }
    // The prepared space loses what backs it, and nothing is left to back it anew.
    let mut punch = Command::new("fallocate");
    punch.args(["--punch-hole", "--offset", "0", "--length", "64MiB"]).arg(base.join("image"));
    assert!(punch.status().expect("runs").success());
    fill(&base.join("balloon"));
    let failed = loop {
        let n = log.last().0 + 1;
        match log.append(&entry(n)).map(|appended| appended.wait()) {
            Ok(Ok(index)) => assert!(index < Index(1_000), "nothing fails"),
            Ok(Err(error)) | Err(error) => break error,
        }
    };
    let Error::Write { file, offset, cause } = &failed else { panic!("{failed}") };
    assert!(file.starts_with("segment-") && *offset > 0, "{failed}");
    assert!([libc::EIO, libc::ENOSPC].contains(&cause.errno), "{failed}");
    // For good, whatever is asked; what became durable before counts, and nothing behind it.
    let durable = log.durable();
    fs::remove_file(base.join("balloon")).expect("ours");
    for _ in 0..3 {
        assert_eq!(log.append(b"more").map(|_| ()), Err(failed.clone()));
        assert_eq!(log.sync().wait(), Err(failed.clone()));
        assert_eq!(log.set_meta(b"more").map(|_| ()), Err(failed.clone()));
        assert_eq!(log.truncate_prefix(durable), Err(failed.clone()));
    }
    assert!(durable >= Index(3));
    assert_eq!(log.durable(), durable);
}

#[test]
fn a_full_disk_refuses_appends_and_resumes_by_itself() {
    on_a_small_disk("a_full_disk_refuses_appends_and_resumes_by_itself", fills_up_and_resumes);
}

#[test]
fn a_log_on_a_full_disk_is_opened_read_and_cut() {
    on_a_small_disk("a_log_on_a_full_disk_is_opened_read_and_cut", opens_and_makes_room);
}

#[test]
fn the_first_failed_write_stops_the_log() {
    on_a_small_disk("the_first_failed_write_stops_the_log", stops_at_the_first_failed_write);
}
