//! The handle at its edges: appends that fail half-way, ranges without entries, what compaction and
//! cuts do to each other, files that are gone, handles that go where nobody expects it.

use std::future::Future;
use std::pin::Pin;
use std::process::Command;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant};

use margay_log::commit_log::{CommitLog, CommitLogOptions, Compaction, Driver};
use margay_log::disk::Disk;
use margay_log::disk::direct::Direct;
use margay_log::format::{EntryHeader, PAYLOAD_MAX};
use margay_log::id::{Index, Term};
use margay_log::{Error, Options};

use crate::conformance::{PATIENCE, TempDir, in_time};

fn drivers() -> [Driver; 1 + cfg!(feature = "uring") as usize] {
    [
        Driver::Direct,
        #[cfg(feature = "uring")]
        Driver::Uring,
    ]
}

fn small(driver: Driver) -> CommitLogOptions {
    CommitLogOptions {
        driver,
        segment_first: 64 << 10,
        segment_max: 64 << 10,
        ..CommitLogOptions::default()
    }
}

fn open(dir: &TempDir, options: CommitLogOptions) -> CommitLog {
    CommitLog::open(dir.path(), options).expect("opens").log
}

fn indexes(log: &CommitLog) -> Vec<u64> {
    let mut reader = log.read(..);
    let mut found = Vec::new();
    while let Some(record) = reader.read_next().expect("readable") {
        found.push(record.index.0);
    }
    found
}

/// Many small entries and one that is too large, which is found last.
#[test]
fn of_an_append_that_is_refused_nothing_is_left() {
    let dir = TempDir::new("handle-refused");
    let log = open(&dir, CommitLogOptions::default());
    let large = vec![1; PAYLOAD_MAX as usize + 1];
    let mut payloads = vec![&[][..]; 2_500];
    payloads.push(&large);
    let refused = log.append_many(&payloads).map(|_| ());
    let (length, most) = (large.len() as u64, u64::from(PAYLOAD_MAX));
    assert_eq!(refused, Err(Error::TooLarge { length, most }));
    assert_eq!(log.last(), Index(0));
    assert_eq!(log.append(b"next").expect("room").wait(), Ok(Index(1)));
    assert_eq!(indexes(&log), [1]);
}

/// As if it had not been tried.
#[test]
fn of_an_append_that_panics_nothing_is_left() {
    struct Breaks(&'static [u8]);
    impl AsRef<[u8]> for Breaks {
        fn as_ref(&self) -> &[u8] {
            // Its length is asked for first.
            let asked = ASKED.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            assert!(asked < 5, "it cannot be read");
            self.0
        }
    }
    static ASKED: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let dir = TempDir::new("handle-panics");
    let log = open(&dir, CommitLogOptions::default());
    drop(log.append(b"before").expect("room"));
    let payloads = [Breaks(b"one"), Breaks(b"two")];
    let append = std::panic::AssertUnwindSafe(|| log.append_many(&payloads).map(|_| ()));
    std::panic::catch_unwind(append).expect_err("panics");
    assert_eq!(log.last(), Index(1));
    assert_eq!(log.append(b"after").expect("room").wait(), Ok(Index(2)));
    drop(log);
    let log = open(&dir, CommitLogOptions::default());
    assert_eq!(log.read(Index(2)..).read_next().expect("good").expect("there").payload, b"after");
}

/// One that ends before it begins, or before the log does.
#[test]
fn a_range_without_entries_is_read_in_all_ways() {
    let dir = TempDir::new("handle-range");
    let log = open(&dir, small(Driver::Direct));
    for _ in 0..100 {
        log.append(&[7; 3_000]).expect("room").wait().expect("durable");
    }
    let first = log.truncate_prefix(Index(60)).expect("open");
    assert!(first > Index(20));
    let backwards = Index(90)..Index(80);
    for mut reader in [log.read(backwards), log.read(..Index(10)), log.read(Index(200)..)] {
        assert_eq!(reader.read_next().expect("readable"), None);
        assert_eq!(reader.read_prev().expect("readable"), None);
        reader.seek_to_end();
        reader.seek(Index(85));
        reader.seek(Index(1));
    }
}

/// Readers are served from memory where they can be.
#[test]
fn what_compaction_has_removed_is_not_given_from_memory() {
    for driver in drivers() {
        let dir = TempDir::new(&format!("handle-memory-{driver:?}"));
        let log = open(&dir, small(driver));
        for _ in 0..12 {
            log.append_many(&[[7; 3_000]; 5]).expect("room").wait().expect("durable");
        }
        let gone = |index: &u64| index.is_multiple_of(2);
        for index in (1..=60).filter(gone) {
            log.clean(Index(index)).expect("held");
        }
        let mut early = log.read(..);
        assert_eq!(early.read_next().expect("readable").expect("there").index, Index(1));
        let compaction = Compaction { dead_percent: 1, ..Compaction::default() };
        let compacted = log.compact(compaction, |_| true).expect("runs");
        assert!(compacted.entries > 10, "{compacted:?}");
        let found = indexes(&log);
        assert_eq!(found[..3], [1, 3, 5]);
        // Nor by who has the batch in hand.
        assert_eq!(early.read_next().expect("readable").expect("there").index, Index(3));
        drop(log);
        assert_eq!(found, indexes(&open(&dir, small(driver))));
    }
}

/// A file that is held open keeps its space.
#[test]
fn files_that_are_gone_are_not_held_open() {
    for driver in drivers() {
        let dir = TempDir::new(&format!("handle-open-{driver:?}"));
        let log = open(&dir, small(driver));
        let mut last = Index(0);
        for _ in 0..200 {
            last = log.append(&[7; 3_000]).expect("room").wait().expect("durable");
        }
        for index in 100..=200 {
            log.clean(Index(index)).expect("held");
        }
        assert!(log.compact(Compaction::default(), |_| true).expect("runs").segments > 1);
        log.truncate_prefix(Index(80)).expect("open");
        log.set_meta(b"behind it").expect("fits").wait().expect("durable");
        let held = || {
            let open = std::fs::read_dir("/proc/self/fd").expect("Linux").flatten();
            let names = open.filter_map(|file| std::fs::read_link(file.path()).ok());
            let mine = names.filter(|name| name.starts_with(dir.path()));
            mine.filter(|name| name.to_string_lossy().ends_with("(deleted)")).collect::<Vec<_>>()
        };
        // They go on the log's own threads.
        assert!(in_time(|| held().is_empty()), "{driver:?} holds {:?}", held());
        assert_eq!(log.last(), last);
    }
}

/// The batch that is cut in two loses entries to compaction while it is looked at.
#[test]
fn a_batch_is_cut_in_two_beside_compaction() {
    let (mut cut, mut refused) = (0, 0);
    for round in 0..30 {
        let dir = TempDir::new(&format!("handle-cut-{round}"));
        let segment = 2 << 20;
        let options = CommitLogOptions {
            segment_first: segment,
            segment_max: segment,
            cache_bytes: 0,
            ..small(Driver::Direct)
        };
        let log = open(&dir, options.clone());
        for _ in 0..4 {
            log.append_many(&[[7; 50_000]; 20]).expect("room").wait().expect("durable");
        }
        for index in (1..=40).filter(|index| index % 2 == 0) {
            log.clean(Index(index)).expect("held");
        }
        std::thread::scope(|scope| {
            let compacting =
                scope.spawn(|| log.compact(Compaction::default(), |_| true).expect("runs"));
            std::thread::sleep(Duration::from_micros(700 * round));
            match log.truncate_suffix(Index(30)) {
                Ok(()) => cut += 1,
                Err(Error::Unsupported { .. }) => refused += 1,
                Err(error) => panic!("{error}"),
            }
            compacting.join().expect("does not panic");
        });
        let found = indexes(&log);
        drop(log);
        let log = open(&dir, options);
        assert_eq!(found, indexes(&log));
        assert_eq!(log.verify(|_, _| true).expect("runs").unreadable, []);
    }
    println!("{cut} cut, {refused} were packed already");
}

/// A segment is let go of when compaction has chosen it and not read it yet.
#[test]
fn compaction_goes_on_where_a_segment_is_let_go_of() {
    let dir = TempDir::new("handle-let-go");
    let log = open(&dir, small(Driver::Direct));
    for _ in 0..100 {
        log.append(&[7; 3_000]).expect("room").wait().expect("durable");
    }
    for index in (1..=100).filter(|index| index % 2 == 0) {
        log.clean(Index(index)).expect("held");
    }
    let compaction = Compaction { dead_percent: 1, pause: Duration::from_millis(400) };
    let (begun, has_begun) = channel();
    let compacted = std::thread::scope(|scope| {
        let log = &log;
        scope.spawn(move || {
            has_begun.recv().expect("told");
            std::thread::sleep(Duration::from_millis(100));
            assert!(log.truncate_prefix(Index(30)).expect("open") > Index(29));
        });
        log.compact(compaction, |_| {
            let _ = begun.send(());
            true
        })
    });
    assert!(compacted.expect("goes on").segments > 2);
}

/// It was appended, and nobody has waited for it.
#[test]
fn an_entry_can_be_marked_at_once() {
    let dir = TempDir::new("handle-at-once");
    let log = open(&dir, small(Driver::Direct));
    drop(log.append(b"in the open batch").expect("room"));
    log.clean(Index(1)).expect("held");
    let gone = log.clean(Index(2));
    assert!(matches!(gone, Err(Error::Gone { index: Index(2), .. })), "{gone:?}");
    log.sync().wait().expect("durable");
}

/// Marks are of entries, and those stay that are left of the batch.
#[test]
fn what_is_left_of_a_batch_stays_marked() {
    let dir = TempDir::new("handle-marked");
    let log = open(&dir, small(Driver::Direct));
    log.append_many(&[[7; 3_000]; 10]).expect("room").wait().expect("durable");
    for index in [2, 4, 6, 8] {
        log.clean(Index(index)).expect("held");
    }
    log.truncate_suffix(Index(6)).expect("cut");
    for _ in 0..20 {
        log.append(&[7; 3_000]).expect("room").wait().expect("durable");
    }
    let never = Compaction { dead_percent: u64::MAX, ..Compaction::default() };
    assert_eq!(log.compact(never, |_| true).expect("runs").segments, 0);
    let compaction = Compaction { dead_percent: 1, ..Compaction::default() };
    assert_eq!(log.compact(compaction, |_| true).expect("runs").entries, 3);
    assert_eq!(indexes(&log)[..4], [1, 3, 5, 7]);
}

/// A task of an executor that polls whoever is woken at once, on the thread that wakes.
struct Task(Mutex<Option<Pin<Box<dyn Future<Output = ()> + Send>>>>);

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        let waker = Waker::from(Arc::clone(&self));
        let mut slot = self.0.lock().expect("nobody panics with it");
        let Some(mut future) = slot.take() else { return };
        if future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
            *slot = Some(future);
        }
    }
}

/// The last handle of a log lies in a future, which ends on one of the log's own threads, or on
/// that of somebody who drives it.
#[test]
fn the_last_handle_is_dropped_where_a_future_is_woken() {
    for driver in drivers() {
        for drives in [false, true] {
            let dir = TempDir::new(&format!("handle-last-{driver:?}-{drives}"));
            let log = open(&dir, small(driver));
            let other = log.append(b"somebody else's").expect("room");
            let (ended, has_ended) = channel();
            let task = async move {
                let appended = log.append(b"of a future").expect("room").await;
                // Nobody waits for it, and it is durable when the log is closed.
                let left = log.append(b"left").map(|_| ());
                drop(log);
                ended.send((appended, left)).expect("waited for");
            };
            let task = Arc::new(Task(Mutex::new(Some(Box::pin(task)))));
            if drives {
                let waits = std::thread::spawn(move || other.wait());
                Arc::clone(&task).wake();
                waits.join().expect("no panic").expect("durable");
            } else {
                Arc::clone(&task).wake();
            }
            let (appended, left) = has_ended.recv_timeout(PATIENCE).expect("the future ends");
            assert_eq!((appended, left), (Ok(Index(2)), Ok(())));
            let options = CommitLogOptions { lock_wait: PATIENCE, ..small(driver) };
            let log = CommitLog::open(dir.path(), options).expect("it was closed").log;
            assert_eq!(log.last(), Index(3), "{driver:?}, {drives}");
        }
    }
}

/// Tells the test in a process of its own that it is.
const ALONE: &str = "MARGAY_TEST_FEW_DESCRIPTORS";
/// Too many files are open.
const EMFILE: i32 = 24;

/// Runs `test` of this module again, by itself, in a process that may have few files open.
fn with_few_descriptors(test: &str, run: fn(Driver)) {
    if std::env::var_os(ALONE).is_some() {
        return drivers().into_iter().for_each(run);
    }
    let own = std::env::current_exe().expect("a test has a file");
    let mut few = Command::new("sh");
    few.args(["-c", "ulimit -n 100 && exec \"$0\" \"$@\""]).arg(own).env(ALONE, "1");
    few.args([&format!("handle::{test}"), "--exact", "--nocapture"]);
    let output = few.output().expect("runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}{error}");
}

/// All the descriptors that are free.
fn all_descriptors() -> Vec<std::fs::File> {
    std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect()
}

/// A process has no descriptor to spare when the log goes on in its next segment: it does not stop.
#[test]
fn a_log_does_not_stop_for_want_of_a_descriptor() {
    with_few_descriptors("a_log_does_not_stop_for_want_of_a_descriptor", |driver| {
        let dir = TempDir::new(&format!("handle-few-{driver:?}"));
        let log = open(&dir, small(driver));
        let append = || log.append(&[7; 3_000]).expect("room").wait();
        // More than half of the first segment is used, and the second is prepared.
        (0..10).for_each(|_| _ = append().expect("durable"));
        let is_prepared = || log.stats().free_bytes > small(driver).segment_first;
        assert!(in_time(is_prepared), "{driver:?}: {:?}", log.stats());
        let taken = all_descriptors();
        assert!(!taken.is_empty());
        let appended: Vec<_> = (0..10).map(|_| append()).collect();
        drop(taken);
        assert!(appended.iter().all(Result::is_ok), "{driver:?}: {appended:?}");
    });
}

/// Whatever needs one says so, loses nothing, and goes on by itself.
#[test]
fn a_log_waits_for_descriptors() {
    with_few_descriptors("a_log_waits_for_descriptors", |driver| {
        let dir = TempDir::new(&format!("handle-waits-{driver:?}"));
        let options = CommitLogOptions { cache_bytes: 0, ..small(driver) };
        let log = open(&dir, options.clone());
        for _ in 0..60 {
            log.append(&[7; 3_000]).expect("room").wait().expect("durable");
        }
        (2..=30).step_by(2).for_each(|index| log.clean(Index(index)).expect("held"));
        let mut reader = log.read(..);
        assert_eq!(reader.read_next().expect("readable").expect("there").index, Index(1));

        let mut taken = all_descriptors();
        assert!(!taken.is_empty());
        // One is enough for a reader: those of other segments are there to be at hand.
        assert_eq!(indexes(&log), (1..=60).collect::<Vec<_>>());
        taken.extend(all_descriptors());
        let error = CommitLog::open(dir.path().with_extension("other"), options.clone());
        let error = error.map(|_| ()).expect_err("it would need some");
        assert!(matches!(&error, Error::Path { cause, .. } if cause.errno == EMFILE), "{error}");
        // What the log has open of a segment that is exchanged is one.
        match log.compact(Compaction::default(), |_| true) {
            Ok(_) => {}
            Err(Error::Storage { cause, .. }) if cause.errno == EMFILE => {}
            Err(error) => panic!("{error}"),
        }
        let kept = indexes(&log);
        let mut appended = Vec::new();
        let error = loop {
            taken.extend(all_descriptors());
            match log.append(&[7; 3_000]) {
                Ok(one) => appended.push(one),
                Err(error) => break error,
            }
            assert!(appended.len() < 10_000);
        };
        assert!(matches!(&error, Error::DiskFull { cause } if cause.errno == EMFILE), "{error}");
        drop(taken);

        let last = Index(60 + appended.len() as u64);
        for one in appended {
            one.wait().expect("when there is space again");
        }
        assert!(log.append(&[7; 3_000]).expect("room").wait().expect("durable") > last);
        let found = indexes(&log);
        assert!(found.iter().copied().eq(kept.into_iter().chain(61..=last.0 + 1)));
        let compaction = Compaction { dead_percent: 1, ..Compaction::default() };
        log.compact(compaction, |_| true).expect("runs");
        let found: Vec<_> = found.into_iter().filter(|n| *n > 30 || n % 2 == 1).collect();
        assert!(indexes(&log) == found, "all that was marked is gone, and nothing else");
        drop((reader, log));
        let log = open(&dir, options);
        assert!(indexes(&log) == found && log.last() == last.next());
        std::fs::remove_dir_all(dir.path().with_extension("other")).expect("empty");
    });
}

/// A log was written by hand, in terms of its owner's.
#[test]
fn a_log_of_later_terms_goes_on() {
    let dir = TempDir::new("handle-term");
    let mut disk = Direct::open(dir.path()).expect("a directory");
    let mut log = margay_log::open(&mut disk, Options::default()).expect("a new log").log;
    log.push(&EntryHeader::default(), b"by hand").expect("fits");
    log.seal(Term(7), 1).expect("space");
    log.ops().for_each(|op| disk.submit(op));
    let mut done = Vec::new();
    disk.poll(true, &mut done);
    drop((log, disk));
    let (ended, has_ended) = channel();
    let log = open(&dir, CommitLogOptions::default());
    std::thread::spawn(move || {
        ended.send(log.append(b"more").expect("room").wait()).expect("waited for");
    });
    assert_eq!(has_ended.recv_timeout(PATIENCE).expect("it ends"), Ok(Index(2)));
}

/// When a log is opened, in the background: a burst of that size makes no file.
#[test]
fn as_much_space_is_prepared_as_was_asked_for() {
    for driver in drivers() {
        let dir = TempDir::new(&format!("prepared-{driver:?}"));
        let prepared_bytes = 3 << 20;
        let log = open(&dir, CommitLogOptions { prepared_bytes, ..small(driver) });
        let begun = Instant::now();
        while log.stats().free_bytes < prepared_bytes * 9 / 10 {
            assert!(begun.elapsed() < LONG, "{:?}", log.stats());
            std::thread::sleep(Duration::from_millis(1));
        }
        let before = log.stats().segments;
        // Of each a block and what goes with it.
        for _ in 0..(2 << 20) / (8 << 10) {
            log.append(&[7; 4 << 10]).expect("room").wait().expect("durable");
        }
        assert_eq!(log.stats().segments, before);
    }
}
