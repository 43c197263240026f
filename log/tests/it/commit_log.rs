//! The handle that programs embed, over each of its drivers: the same suite for all.

use std::future::Future;
use std::io::IoSlice;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use margay_log::Error;
use margay_log::commit_log::{
    CommitLog, CommitLogOptions, Compaction, Driver, Opening, Reader, Retention,
};
use margay_log::format::{EntryHeader, PAYLOAD_MAX};
use margay_log::id::Index;

use crate::conformance::{PATIENCE, TempDir, in_time};

fn options(driver: Driver) -> CommitLogOptions {
    CommitLogOptions {
        driver,
        segment_first: 64 << 10,
        segment_max: 512 << 10,
        cache_bytes: 256 << 10,
        ..CommitLogOptions::default()
    }
}

fn open(dir: &TempDir, driver: Driver) -> CommitLog {
    let Opening { log, report, driver: running } =
        CommitLog::open(dir.path(), options(driver)).expect("opens");
    assert_eq!(report.damage, None);
    if driver != Driver::Auto {
        assert_eq!((running.driver, running.fallback), (driver, None));
    }
    log
}

/// Each test runs once for each driver.
macro_rules! for_each_driver {
    ($($test:ident),* $(,)?) => {
        mod plain {
            use super::*;
            $(#[test] fn $test() { super::$test(Driver::Direct); })*
        }
        #[cfg(feature = "uring")]
        mod ring {
            use super::*;
            $(#[test] fn $test() { super::$test(Driver::Uring); })*
        }
    };
}

for_each_driver! {
    what_was_appended_is_read_back,
    many_threads_append_and_every_entry_is_there_once,
    readers_read_while_others_write,
    a_follower_waits_for_each_entry,
    futures_of_no_runtime,
    dropped_futures_take_nothing_back,
    entries_of_one_append_stay_together,
    meta_is_kept,
    one_directory_has_one_writer,
    what_is_too_large_is_refused,
    a_panic_while_filling_appends_nothing,
    a_closed_log_says_so,
    a_suffix_is_cut_at_any_entry,
    a_reader_shows_nothing_of_what_was_cut_off,
    a_long_log_is_read_both_ways,
    a_prefix_goes_by_segments,
    retention_lets_go_by_itself,
    a_time_is_looked_up,
    a_damaged_entry_is_located,
    cleaned_entries_go_and_indexes_stay,
    readers_go_on_while_segments_are_rewritten,
}

fn payload(n: u64) -> Vec<u8> {
    (0..n * 37 % 5_000).map(|at| (at ^ n) as u8).chain(n.to_le_bytes()).collect()
}

/// Reads forwards and backwards and compares with what [`payload`] says.
fn check(log: &CommitLog, entries: u64) {
    let mut reader = log.read(..);
    for n in 1..=entries {
        let record = reader.read_next().expect("readable").expect("there");
        assert_eq!((record.index, record.payload), (Index(n), &payload(n)[..]));
        assert!((record.payload.as_ptr() as usize).is_multiple_of(16));
    }
    assert_eq!(reader.read_next().expect("readable"), None);
    for n in (1..=entries).rev() {
        let record = reader.read_prev().expect("readable").expect("there");
        assert_eq!((record.index, record.payload), (Index(n), &payload(n)[..]));
    }
    assert_eq!(reader.read_prev().expect("readable"), None);
    let mut part = log.read(Index(10)..Index(20));
    let mut indexes = Vec::new();
    while let Some(record) = part.read_next().expect("readable") {
        indexes.push(record.index.0);
    }
    assert_eq!(indexes, (10..20.min(entries + 1)).collect::<Vec<_>>());
    part.seek(Index(12));
    assert_eq!(part.read_prev().expect("readable").expect("there").index, Index(11));
    assert_eq!(part.position(), Index(11));
}

fn what_was_appended_is_read_back(driver: Driver) {
    let dir = TempDir::new(&format!("handle-{driver:?}"));
    let log = open(&dir, driver);
    let header = EntryHeader { kind: 3, resource: 77, ..EntryHeader::default() };
    for n in 1..=400 {
        let payload = payload(n);
        let appended = match n % 4 {
            0 => log.append(&payload),
            1 => log.append_many(&[&payload]),
            2 => {
                let (one, two) = payload.split_at(payload.len() / 2);
                log.append_vectored(&[IoSlice::new(one), IoSlice::new(two)])
            }
            _ => log.append_with(&header, payload.len(), |bytes| bytes.copy_from_slice(&payload)),
        };
        let appended = appended.expect("room");
        assert_eq!(appended.indexes(), Index(n)..=Index(n));
        if n % 7 == 0 {
            assert_eq!(appended.wait(), Ok(Index(n)));
            assert!(log.durable() >= Index(n));
        }
    }
    assert_eq!(log.sync().wait(), Ok(Index(400)));
    assert_eq!((log.first(), log.last(), log.durable()), (Index(1), Index(400), Index(400)));
    check(&log, 400);
    let mut reader = log.read(Index(399)..);
    let record = reader.read_next().expect("readable").expect("there");
    assert_eq!((record.header.kind, record.header.resource), (3, 77));
    assert!(record.time > 1_600_000_000_000_000);
    drop(reader);
    drop(log);
    let log = open(&dir, driver);
    check(&log, 400);
    assert_eq!(log.append(&payload(401)).expect("room").wait(), Ok(Index(401)));
    check(&log, 401);
}

fn many_threads_append_and_every_entry_is_there_once(driver: Driver) {
    let dir = TempDir::new(&format!("many-{driver:?}"));
    let log = open(&dir, driver);
    std::thread::scope(|scope| {
        for thread in 0..16_u64 {
            let log = log.clone();
            scope.spawn(move || {
                for n in 0..40_u64 {
                    let id = (thread * 1000 + n).to_le_bytes();
                    let index = log.append(&id).expect("room").wait().expect("durable");
                    assert!(log.durable() >= index);
                }
            });
        }
    });
    drop(log);
    let log = open(&dir, driver);
    let mut reader = log.read(..);
    let mut found = Vec::new();
    while let Some(record) = reader.read_next().expect("readable") {
        found.push(u64::from_le_bytes(record.payload.try_into().expect("8 bytes")));
    }
    found.sort_unstable();
    let expected: Vec<u64> =
        (0..16).flat_map(|thread| (0..40).map(move |n| thread * 1000 + n)).collect();
    assert_eq!(found, expected);
}

fn readers_read_while_others_write(driver: Driver) {
    const ENTRIES: u64 = 3_000;
    let dir = TempDir::new(&format!("readers-{driver:?}"));
    let log = open(&dir, driver);
    std::thread::scope(|scope| {
        for start in [1, 500] {
            let mut follower = log.follow(Index(start));
            scope.spawn(move || {
                for n in start..=ENTRIES {
                    let record = follower.wait_next().expect("comes");
                    assert_eq!((record.index, record.payload), (Index(n), &payload(n)[..]));
                }
            });
        }
        let reader_log = log.clone();
        scope.spawn(move || {
            while reader_log.durable() < Index(ENTRIES) {
                let end = reader_log.durable();
                let mut reader = reader_log.read(..);
                let mut n = 0;
                while let Some(record) = reader.read_next().expect("readable") {
                    n += 1;
                    assert_eq!((record.index, record.payload), (Index(n), &payload(n)[..]));
                }
                assert!(Index(n) >= end);
            }
        });
        for n in 1..=ENTRIES {
            let appended = log.append(&payload(n)).expect("room");
            if n % 50 == 0 {
                appended.wait().expect("durable");
            }
        }
        log.sync().wait().expect("durable");
    });
}

fn a_follower_waits_for_each_entry(driver: Driver) {
    let dir = TempDir::new(&format!("follow-{driver:?}"));
    let log = open(&dir, driver);
    let mut follower = log.follow(Index(1));
    assert_eq!(follower.try_next().expect("readable"), None);
    let writer = log.clone();
    let thread = std::thread::spawn(move || {
        for n in 1..=20 {
            writer.append(&payload(n)).expect("room").wait().expect("durable");
        }
    });
    for n in 1..=20 {
        assert_eq!(follower.wait_next().expect("comes").payload, payload(n));
    }
    thread.join().expect("ends well");
    let waiting = std::thread::spawn(move || follower.wait_next().map(|record| record.index));
    std::thread::sleep(Duration::from_millis(20));
    drop(log);
    assert_eq!(waiting.join().expect("ends"), Err(Error::Closed));
}

/// Counts how often it is woken.
struct Counted(AtomicU64, std::thread::Thread);

impl Wake for Counted {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
        self.1.unpark();
    }
}

/// The smallest executor: one future, one thread.
fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let counted = Arc::new(Counted(AtomicU64::new(0), std::thread::current()));
    let waker = Waker::from(Arc::clone(&counted));
    loop {
        let seen = counted.0.load(Ordering::SeqCst);
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        // Whoever was woken while it looked does not sleep the first time, which tells nothing.
        let is_woken = || counted.0.load(Ordering::SeqCst) > seen;
        let end = Instant::now() + PATIENCE;
        while !is_woken() {
            std::thread::park_timeout(end.saturating_duration_since(Instant::now()));
            assert!(is_woken() || Instant::now() < end, "never woken");
        }
    }
}

fn futures_of_no_runtime(driver: Driver) {
    let dir = TempDir::new(&format!("futures-{driver:?}"));
    let log = open(&dir, driver);
    block_on(async {
        for n in 1..=50 {
            assert_eq!(log.append(&payload(n)).expect("room").await, Ok(Index(n)));
        }
        log.set_meta(b"from a future").expect("fits").await.expect("durable");
        let many: Vec<_> = (51..=100).map(|n| log.append(&payload(n)).expect("room")).collect();
        for appended in many.into_iter().rev() {
            let index = appended.index();
            assert_eq!(appended.await, Ok(index));
        }
        let mut follower = log.follow(Index(1));
        for n in 1..=100 {
            assert_eq!(follower.next().await.expect("comes").payload, payload(n));
        }
        let later = log.clone();
        let thread = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(10));
            later.append(&payload(101)).expect("room").wait().expect("durable");
        });
        assert_eq!(follower.next().await.expect("comes").index, Index(101));
        thread.join().expect("ends well");
    });
    assert_eq!(log.meta(), b"from a future");
}

fn dropped_futures_take_nothing_back(driver: Driver) {
    let dir = TempDir::new(&format!("dropped-{driver:?}"));
    let log = open(&dir, driver);
    drop(log.append(b"one").expect("room"));
    assert!(in_time(|| log.durable() == Index(1)), "nobody wrote it");
    // Polled once and dropped, and not even waited for before the log is closed.
    let mut two = log.append(b"two").expect("room");
    let _ = Pin::new(&mut two).poll(&mut Context::from_waker(Waker::noop()));
    drop(two);
    std::mem::forget(log.append(b"three").expect("room"));
    drop(log);
    assert_eq!(open(&dir, driver).last(), Index(2).next());
}

fn entries_of_one_append_stay_together(driver: Driver) {
    let dir = TempDir::new(&format!("together-{driver:?}"));
    let log = open(&dir, driver);
    drop(log.append(b"before").expect("room"));
    let entry = vec![5; 1024];
    let appended = log.append_many(&vec![&entry; 1500]).expect("fits into one batch");
    assert_eq!(appended.indexes(), Index(2)..=Index(1501));
    appended.wait().expect("durable");
    assert_eq!(log.append_many::<&[u8]>(&[]).map(|_| ()), Err(Error::Empty));
    assert!(matches!(log.append_many(&vec![&entry; 2100]), Err(Error::TooLarge { .. })));
    assert_eq!(log.last(), Index(1501));
    let mut reader = log.read(..);
    while let Some(record) = reader.read_next().expect("readable") {
        assert_eq!(record.payload.len(), if record.index == Index(1) { 6 } else { 1024 });
    }
    assert_eq!(reader.position(), Index(1502));
}

fn meta_is_kept(driver: Driver) {
    let dir = TempDir::new(&format!("meta-{driver:?}"));
    let log = open(&dir, driver);
    assert_eq!(log.meta(), b"");
    log.set_meta(b"position 7").expect("fits").wait().expect("durable");
    let big = vec![0; 2049];
    assert!(matches!(log.set_meta(&big), Err(Error::TooLarge { length: 2049, most: 2048 })));
    drop(log);
    assert_eq!(open(&dir, driver).meta(), b"position 7");
}

fn one_directory_has_one_writer(driver: Driver) {
    let dir = TempDir::new(&format!("twice-{driver:?}"));
    let log = open(&dir, driver);
    let options = CommitLogOptions { lock_wait: Duration::from_millis(100), ..options(driver) };
    let again = CommitLog::open(dir.path(), options).map(|_| ());
    assert!(matches!(again, Err(Error::Locked { .. })), "{again:?}");
    drop(log);
    drop(open(&dir, driver));
}

fn what_is_too_large_is_refused(driver: Driver) {
    let dir = TempDir::new(&format!("large-{driver:?}"));
    let log = open(&dir, driver);
    let most = vec![1; PAYLOAD_MAX as usize];
    assert!(matches!(
        log.append(&vec![1; PAYLOAD_MAX as usize + 1]),
        Err(Error::TooLarge { most, .. }) if most == u64::from(PAYLOAD_MAX)
    ));
    for n in 1..=5 {
        assert_eq!(log.append(&most).expect("room").wait(), Ok(Index(n)));
    }
    assert_eq!(log.read(..).read_next().expect("readable").expect("there").payload, most);
}

fn a_panic_while_filling_appends_nothing(driver: Driver) {
    let dir = TempDir::new(&format!("panic-{driver:?}"));
    let log = open(&dir, driver);
    drop(log.append(b"before").expect("room"));
    let panicking = std::panic::AssertUnwindSafe(|| {
        let _ = log.append_with(&EntryHeader::default(), 100, |_| panic!("on purpose"));
    });
    std::panic::catch_unwind(panicking).expect_err("panics");
    assert_eq!(log.append(b"after").expect("room").wait(), Ok(Index(2)));
    assert_eq!(log.read(Index(2)..).read_next().expect("good").expect("there").payload, b"after");
}

fn a_closed_log_says_so(driver: Driver) {
    let dir = TempDir::new(&format!("closed-{driver:?}"));
    let log = open(&dir, driver);
    let appended = log.append(b"one").expect("room");
    let mut reader = log.read(..);
    drop(log);
    // What was appended became durable in closing, and readers read on.
    assert_eq!(appended.wait(), Ok(Index(1)));
    assert_eq!(reader.read_next().expect("readable").expect("there").payload, b"one");
}

#[test]
fn the_driver_in_use_is_said_in_one_line() {
    let dir = TempDir::new("line");
    let opening = CommitLog::open(dir.path(), options(Driver::Auto)).expect("opens");
    let line = opening.driver.to_string();
    assert!(line.starts_with("io_uring") || line.starts_with("plain calls"), "{line}");
    assert!(!line.contains('\n'));
}

/// One batch of `count` entries from `first` on.
fn append_batch(log: &CommitLog, first: u64, count: u64) {
    let payloads: Vec<_> = (first..first + count).map(payload).collect();
    log.append_many(&payloads).expect("room").wait().expect("durable");
}

fn a_suffix_is_cut_at_any_entry(driver: Driver) {
    let dir = TempDir::new(&format!("suffix-{driver:?}"));
    let mut log = open(&dir, driver);
    for batch in 0..10 {
        append_batch(&log, 1 + batch * 10, 10);
    }
    // In the middle of a batch, at the end of one, and nowhere.
    let cuts = [
        (97, false),
        (90, false),
        (87, false),
        (83, true),
        (60, true),
        (60, false),
        (45, false),
        (31, true),
    ];
    for (cut, reopen) in cuts {
        let waiting = log.sync();
        log.truncate_suffix(Index(cut)).expect("cut");
        assert_eq!(log.last(), Index(cut));
        assert!(waiting.wait().is_ok(), "what was appended before has its answer");
        if reopen {
            drop(log);
            log = open(&dir, driver);
        }
        check(&log, cut);
    }
    append_batch(&log, 32, 5);
    log.truncate_suffix(Index(40)).expect("nothing to cut");
    drop(log);
    let log = open(&dir, driver);
    check(&log, 36);
    log.truncate_suffix(Index(0)).expect("everything");
    assert_eq!((log.first(), log.last()), (Index(1), Index(0)));
    append_batch(&log, 1, 12);
    drop(log);
    check(&open(&dir, driver), 12);
}

/// Even what the reader had in its memory already.
fn a_reader_shows_nothing_of_what_was_cut_off(driver: Driver) {
    const ENTRIES: u64 = 2_000;
    let dir = TempDir::new(&format!("cut-read-{driver:?}"));
    let options = CommitLogOptions { cache_bytes: 0, ..options(driver) };
    let log = CommitLog::open(dir.path(), options).expect("opens").log;
    (0..ENTRIES / 10).for_each(|batch| append_batch(&log, 1 + batch * 10, 10));
    let mut reader = log.read(..);
    let mut next = 1;
    for cut in [11, 14, 1_000, 1_300, 1_305] {
        while next < cut {
            let record = reader.read_next().expect("readable").expect("there");
            assert_eq!((record.index, record.payload), (Index(next), &payload(next)[..]));
            next += 1;
        }
        // One entry of the same batch is left, or none; what follows is different.
        log.truncate_suffix(Index(cut - 1)).expect("cut");
        assert_eq!(reader.read_next().expect("readable"), None, "cut behind {}", cut - 1);
        log.append_many(&[b"other"; 3]).expect("room").wait().expect("durable");
        let record = reader.read_next().expect("readable").expect("there");
        assert_eq!((record.index, record.payload), (Index(cut), &b"other"[..]));
        log.truncate_suffix(Index(cut - 1)).expect("cut");
        // What it was given last is gone, which it hears until it goes elsewhere.
        let told = Error::Cut { after: Index(cut - 1) };
        assert_eq!(reader.read_next(), Err(told.clone()));
        assert_eq!(reader.read_prev(), Err(told));
        reader.seek(Index(cut));
        assert_eq!(reader.read_prev().expect("readable").map(|r| r.index), Some(Index(cut - 1)));
        reader.seek(Index(cut));
        for n in cut..=ENTRIES {
            drop(log.append(&payload(n)).expect("room"));
        }
        log.sync().wait().expect("durable");
    }
}

/// Longer than what is read at once, forwards, backwards and to and fro, from several threads.
fn a_long_log_is_read_both_ways(driver: Driver) {
    const ENTRIES: u64 = 2_500;
    let dir = TempDir::new(&format!("long-{driver:?}"));
    let options = CommitLogOptions { cache_bytes: 0, segment_max: 4 << 20, ..options(driver) };
    let log = CommitLog::open(dir.path(), options).expect("opens").log;
    (0..ENTRIES / 10).for_each(|batch| append_batch(&log, 1 + batch * 10, 10));
    let payloads: Vec<_> = (0..=ENTRIES).map(payload).collect();
    let read = |reader: &mut Reader, from: u64, to: u64| {
        reader.seek(Index(from));
        for n in from..=to {
            let record = reader.read_next().expect("readable").expect("there");
            assert_eq!((record.index, record.payload), (Index(n), &payloads[n as usize][..]));
        }
        for n in (from..=to).rev() {
            let record = reader.read_prev().expect("readable").expect("there");
            assert_eq!((record.index, record.payload), (Index(n), &payloads[n as usize][..]));
        }
    };
    // More than are read ahead for.
    std::thread::scope(|scope| {
        for thread in 0..10 {
            let (log, read) = (log.clone(), &read);
            scope.spawn(move || {
                let mut reader = log.read(..);
                read(&mut reader, 1 + thread * 100, ENTRIES - thread * 20);
                read(&mut reader, 2_000, 2_100);
                read(&mut reader, 300, 2_000);
            });
        }
    });
    let mut part = log.read(Index(100)..=Index(2_400));
    read(&mut part, 100, 2_400);
    assert_eq!(part.read_prev().expect("readable"), None);
}

fn a_prefix_goes_by_segments(driver: Driver) {
    let dir = TempDir::new(&format!("prefix-{driver:?}"));
    let log = open(&dir, driver);
    for batch in 0..60 {
        append_batch(&log, 1 + batch * 10, 10);
    }
    let mut early = log.read(..);
    assert!(early.read_next().expect("readable").is_some());
    let first = log.truncate_prefix(Index(300)).expect("open");
    assert!(first > Index(1) && first <= Index(301), "{first}");
    assert_eq!(log.first(), first);
    assert!(matches!(log.read(Index(1)..).read_next(), Err(Error::Gone { index: Index(1), .. })));
    assert!(matches!(log.truncate_suffix(Index(1)), Err(Error::Gone { .. })));
    let bytes = |log: &CommitLog| log.stats().file_bytes;
    let before = bytes(&log);
    drop(log);
    let log = open(&dir, driver);
    assert_eq!(log.first(), first);
    assert!(bytes(&log) <= before + (64 << 10));
    let mut reader = log.read(..);
    let mut n = first.0;
    while let Some(record) = reader.read_next().expect("readable") {
        assert_eq!((record.index, record.payload), (Index(n), &payload(n)[..]));
        n += 1;
    }
    assert_eq!(n, 601);
}

fn retention_lets_go_by_itself(driver: Driver) {
    let dir = TempDir::new(&format!("retention-{driver:?}"));
    let retention = Retention { bytes: 1 << 20, entries: 50, ..Retention::default() };
    let options = CommitLogOptions { retention, ..options(driver) };
    let log = CommitLog::open(dir.path(), options).expect("opens").log;
    let entry = vec![9; 50_000];
    let mut most = 0;
    for _ in 0..200 {
        log.append(&entry).expect("room").wait().expect("durable");
        most = most.max(log.stats().file_bytes);
    }
    assert!(log.first() > Index(50) && log.first() <= Index(151), "{}", log.first());
    assert!(most < 6 << 20, "{most}");
}

fn a_time_is_looked_up(driver: Driver) {
    let dir = TempDir::new(&format!("time-{driver:?}"));
    let log = open(&dir, driver);
    let mut times = Vec::new();
    for batch in 0..40 {
        append_batch(&log, 1 + batch * 10, 10);
        std::thread::sleep(Duration::from_micros(200));
        let last = log.read(log.last()..).read_next().expect("good").expect("there").time;
        times.push(last);
    }
    for (batch, &time) in times.iter().enumerate() {
        assert_eq!(log.find_time(time), Index(1 + batch as u64 * 10));
        assert_eq!(log.find_time(time + 1), Index(11 + batch as u64 * 10));
    }
    assert_eq!(log.find_time(0), Index(1));
    assert_eq!(log.find_time(u64::MAX), Index(401));
    assert_eq!(log.stats().times, Some((times[0], times[39])));
}

fn a_damaged_entry_is_located(driver: Driver) {
    let dir = TempDir::new(&format!("located-{driver:?}"));
    let log = CommitLog::open(dir.path(), CommitLogOptions { cache_bytes: 0, ..options(driver) });
    let log = log.expect("opens").log;
    for batch in 0..40 {
        append_batch(&log, 1 + batch * 10, 10);
    }
    assert_eq!(log.verify(|_, _| true).expect("runs").unreadable, []);
    let segment = dir.path().join("segment-0000000000000001.log");
    let mut bytes = std::fs::read(&segment).expect("there");
    bytes[4096 + 200] ^= 1;
    std::fs::write(&segment, bytes).expect("writable");
    let verified = log.verify(|_, _| true).expect("runs");
    let [Error::Unreadable { segment, offset, index, .. }] = verified.unreadable[..] else {
        panic!("{verified:?}");
    };
    assert_eq!((segment.0, offset, index), (1, 4096, Index(1)));
    assert_eq!(verified.entries, 390);
    assert!(matches!(log.read(..).read_next(), Err(Error::Unreadable { index: Index(1), .. })));
    drop(log);
    let refused = CommitLog::open(dir.path(), options(driver)).map(|_| ());
    assert!(matches!(refused, Err(Error::Damaged { index: Index(1), .. })), "{refused:?}");
}

fn cleaned_entries_go_and_indexes_stay(driver: Driver) {
    let dir = TempDir::new(&format!("compact-{driver:?}"));
    let options = CommitLogOptions { cache_bytes: 0, ..options(driver) };
    let log = CommitLog::open(dir.path(), options.clone()).expect("opens").log;
    for batch in 0..60 {
        append_batch(&log, 1 + batch * 10, 10);
    }
    let before = log.stats();
    let keeps = |n: u64| n.is_multiple_of(7);
    for n in (1..=600).filter(|&n| !keeps(n)) {
        log.clean(Index(n)).expect("held");
    }
    assert!(matches!(log.clean(Index(601)), Err(Error::Gone { .. })));
    let mut told = 0;
    let compacted = log.compact(Compaction::default(), |so_far| {
        told += 1;
        assert_eq!(so_far.segments, told);
        true
    });
    let compacted = compacted.expect("runs");
    assert!(compacted.segments > 3 && compacted.segments == told, "{compacted:?}");
    assert!(compacted.bytes_after * 3 < compacted.bytes_before, "{compacted:?}");
    let after = log.stats();
    assert_eq!((after.first, after.last), (before.first, before.last));
    let saved = compacted.bytes_before - compacted.bytes_after;
    assert_eq!(after.file_bytes, before.file_bytes - saved);

    let last_gone = check_kept(&log, keeps);
    assert_eq!(log.compact(Compaction::default(), |_| true).expect("runs").segments, 0);
    drop(log);
    let log = CommitLog::open(dir.path(), options).expect("opens").log;
    assert_eq!(check_kept(&log, keeps), last_gone);
    // What is left can be cleaned again, and the log goes on.
    for n in (7..=600).step_by(7) {
        log.clean(Index(n)).expect("held");
    }
    let again = log.compact(Compaction { dead_percent: 100, ..Compaction::default() }, |_| true);
    assert!(again.expect("runs").segments > 3);
    append_batch(&log, 601, 10);
    assert_eq!(log.last(), Index(610));
    assert!(matches!(log.truncate_suffix(Index(13)), Err(Error::Unsupported { .. })));
    log.truncate_suffix(Index(10)).expect("at the end of a batch");
    drop(log);
    assert_eq!(open(&dir, driver).last(), Index(10));
}

/// Reads both ways: what is kept is there, in order; the rest is gone but in the newest segment.
fn check_kept(log: &CommitLog, keeps: impl Fn(u64) -> bool) -> u64 {
    let mut found = Vec::new();
    let mut reader = log.read(..);
    while let Some(record) = reader.read_next().expect("readable") {
        assert_eq!(record.payload, payload(record.index.0));
        found.push(record.index.0);
    }
    assert_eq!(log.verify(|_, _| true).expect("runs").unreadable, []);
    let rest = found.iter().copied().find(|&n| !keeps(n)).expect("the newest segment");
    let expected: Vec<u64> = (1..=600).filter(|&n| n >= rest || keeps(n)).collect();
    assert_eq!(found, expected);
    while let Some(record) = reader.read_prev().expect("readable") {
        assert_eq!(Some(record.index.0), found.pop());
        assert_eq!(record.payload, payload(record.index.0));
    }
    assert!(found.is_empty());
    rest
}

fn readers_go_on_while_segments_are_rewritten(driver: Driver) {
    let dir = TempDir::new(&format!("compact-read-{driver:?}"));
    let options = CommitLogOptions { cache_bytes: 0, ..options(driver) };
    let log = CommitLog::open(dir.path(), options).expect("opens").log;
    for batch in 0..80 {
        append_batch(&log, 1 + batch * 10, 10);
    }
    std::thread::scope(|scope| {
        let compacting = scope.spawn(|| {
            for stride in [2, 3, 5] {
                for n in (1..=800).filter(|n| n % stride == 0) {
                    log.clean(Index(n)).expect("held");
                }
                let compaction = Compaction { dead_percent: 1, ..Compaction::default() };
                log.compact(compaction, |_| true).expect("runs");
            }
        });
        while !compacting.is_finished() {
            let mut reader = log.read(..);
            let mut last = 0;
            while let Some(record) = reader.read_next().expect("readable") {
                assert!(record.index.0 > last);
                last = record.index.0;
                assert_eq!(record.payload, payload(last));
            }
            assert!(last >= 799);
        }
    });
}
