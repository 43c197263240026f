//! Those who wait for a log, read it and close it, while it stops or is compacted.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::task::{Context, Wake, Waker};
use std::thread;
use std::time::Duration;

use margay_log::Error;
use margay_log::commit_log::{
    CommitLog, CommitLogOptions, Compaction, Driver, ReadOnlyLog, Reader,
};
use margay_log::error::segment_file;
use margay_log::id::{Index, SegmentNumber};

use crate::conformance::{PATIENCE, TempDir, in_time};

fn drivers() -> [Driver; 1 + cfg!(feature = "uring") as usize] {
    [
        Driver::Direct,
        #[cfg(feature = "uring")]
        Driver::Uring,
    ]
}

fn open(dir: &TempDir, driver: Driver, segment: u64) -> CommitLog {
    let options = CommitLogOptions {
        driver,
        segment_first: segment,
        segment_max: segment,
        cache_bytes: 0,
        ..CommitLogOptions::default()
    };
    CommitLog::open(dir.path(), options).expect("opens").log
}

/// A write fails while entries wait in memory for the next one: nobody goes on trying to write
/// them, and the log can be closed.
#[test]
fn a_log_that_has_stopped_with_entries_in_memory_is_closed() {
    for driver in drivers() {
        let dir = TempDir::new(&format!("stopped-{driver:?}"));
        let log = open(&dir, driver, 8 << 20);
        for _ in 0..90 {
            drop(log.append(&[1; 60 << 10]).expect("taken"));
        }
        log.sync().wait().expect("durable");
        let next = dir.path().join(segment_file(SegmentNumber(2)));
        assert!(in_time(|| std::fs::remove_file(&next).is_ok()), "it is prepared ahead");
        let mut taken = Vec::new();
        let stopped = loop {
            match log.append(&[2; 60 << 10]) {
                Ok(appended) => taken.push(appended),
                Err(error) => break error,
            }
            assert!(taken.len() < 10_000);
        };
        assert!(matches!(stopped, Error::Write { .. }), "{stopped}");
        let last = taken.pop().expect("some were taken").wait();
        assert_eq!(last, Err(stopped));
        drop(taken);
        let (closed, is_closed) = channel();
        thread::spawn(move || {
            drop(log);
            closed.send(()).expect("waited for");
        });
        is_closed.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{driver:?}: it is closed"));
    }
}

/// Compaction has removed the log's last entries: a follower waits for those behind them.
#[test]
fn a_follower_waits_behind_entries_that_were_removed() {
    for driver in drivers() {
        let dir = TempDir::new(&format!("removed-{driver:?}"));
        for n in 0..4_u8 {
            open(&dir, driver, 64 << 10).append(&[n]).expect("taken").wait().expect("durable");
        }
        // The last entry lies in a segment behind which the log goes on, in an empty one.
        let log = open(&dir, driver, 64 << 10);
        log.clean(Index(4)).expect("held");
        let compacted = log.compact(Compaction::default(), |_| true).expect("runs");
        assert_eq!(compacted.entries, 1);
        let mut follower = log.follow(Index(3));
        assert_eq!(follower.wait_next().expect("there").payload, [2]);
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(50));
                log.append(b"next").expect("taken").wait().expect("durable");
            });
            let record = follower.wait_next().expect("it is waited for");
            assert_eq!((record.index, record.payload), (Index(5), &b"next"[..]));
        });
    }
}

/// Entries that compaction has removed are marked again, as after a restart: they are not removed
/// twice, and what is left is worth rewriting no sooner for it.
#[test]
fn entries_that_are_marked_again_are_not_removed_again() {
    for driver in drivers() {
        let dir = TempDir::new(&format!("again-{driver:?}"));
        let log = open(&dir, driver, 64 << 10);
        for n in 0..20_u8 {
            drop(log.append(&[n]).expect("taken"));
        }
        log.sync().wait().expect("durable");
        drop(log);
        let log = open(&dir, driver, 64 << 10);
        let compaction = Compaction { dead_percent: 50, ..Compaction::default() };
        let compact = |indexes: std::ops::RangeInclusive<u64>| {
            indexes.for_each(|n| log.clean(Index(n)).expect("held"));
            log.compact(compaction, |_| true).expect("runs")
        };
        assert_eq!(compact(1..=10).entries, 10);
        assert_eq!(compact(1..=10).entries, 0);
        assert_eq!(compact(11..=11).segments, 0, "one of ten that are left");
    }
}

/// Readers look up a place, compaction exchanges the file, and the place is another one before the
/// log has been told.
#[test]
fn readers_of_many_segments_go_on_while_they_are_rewritten() {
    for driver in drivers() {
        let dir = TempDir::new(&format!("exchanged-{driver:?}"));
        let log = open(&dir, driver, 64 << 10);
        let entries = 40 * 10;
        for n in 1..=entries {
            let payload = [&u64::to_le_bytes(n)[..], &[7; 5_000]].concat();
            log.append(&payload).expect("taken").wait().expect("durable");
        }
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                for stride in [2, 3, 5] {
                    for n in (1..=entries).filter(|n| n % stride == 0) {
                        log.clean(Index(n)).expect("held");
                    }
                    let compaction = Compaction { dead_percent: 1, ..Compaction::default() };
                    log.compact(compaction, |_| true).expect("runs");
                }
                is_over.store(true, Ordering::Relaxed);
            });
            for _ in 0..3 {
                scope.spawn(|| {
                    while !is_over.load(Ordering::Relaxed) {
                        let mut reader = log.read(..);
                        while let Some(record) = reader.read_next().expect("readable") {
                            assert!(record.payload.starts_with(&record.index.0.to_le_bytes()));
                        }
                    }
                });
            }
        });
    }
}

/// Whoever looks at a log reads on beside a writer that rewrites and removes what was listed.
#[test]
fn a_view_goes_on_where_segments_are_rewritten_and_removed() {
    for driver in drivers() {
        let dir = TempDir::new(&format!("view-{driver:?}"));
        let log = open(&dir, driver, 64 << 10);
        let append = |entries: RangeInclusive<u64>| {
            for n in entries {
                let payload = [&u64::to_le_bytes(n)[..], &[7; 5_000]].concat();
                log.append(&payload).expect("taken").wait().expect("durable");
            }
        };
        let is_removed = || {
            let files = std::fs::read_dir(dir.path()).expect("ours").flatten();
            let names = files.map(|file| file.file_name().to_string_lossy().into_owned());
            let segments = names.filter(|name| name.starts_with("segment-"));
            segments.count() as u64 == log.stats().segments
        };
        append(1..=200);
        let view = ReadOnlyLog::open(dir.path()).expect("can be looked at");
        let (mut one, mut other) = (view.read(..), view.read(Index(100)..));
        assert_eq!(one.read_next().expect("readable").expect("there").index, Index(1));

        for n in (2..=150).step_by(2) {
            log.clean(Index(n)).expect("held");
        }
        let compaction = Compaction { dead_percent: 1, ..Compaction::default() };
        assert!(log.compact(compaction, |_| true).expect("runs").entries >= 70);
        let kept = |first: u64, last: u64| {
            (first..=last).filter(|n| n % 2 == 1 || *n > 150).collect::<Vec<_>>()
        };
        assert_eq!(rest(&mut other), kept(100, 200));

        let first = log.truncate_prefix(Index(90)).expect("runs");
        assert!(first > Index(20) && in_time(is_removed));
        let gone = std::iter::from_fn(|| one.read_next().map(|read| read.map(|_| ())).transpose());
        let gone = gone.filter_map(Result::err).next();
        assert!(matches!(gone, Some(Error::Gone { first: from, .. }) if from == first), "{gone:?}");
        assert_eq!(view.first(), first);
        one.seek(first);
        assert_eq!(rest(&mut one), kept(first.0, 200));
        assert_eq!(view.verify(|_, _| true).expect("runs").unreadable, []);

        // Nothing is left of what was listed.
        append(201..=260);
        let mut one = view.read(..);
        let first = log.truncate_prefix(Index(250)).expect("runs");
        assert!(first > Index(200) && in_time(is_removed));
        let gone = one.read_next().map(|_| ()).expect_err("removed");
        assert!(matches!(gone, Error::Gone { first: from, .. } if from == first), "{gone}");
        one.seek(first);
        assert_eq!(rest(&mut one), kept(first.0, 260));
    }
}

/// Counts how often it is woken.
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Ten entries in two batches; the log is cut in the midst of the second, or between the two.
#[test]
fn who_has_passed_a_cut_is_told_at_once() {
    for (driver, after) in drivers().into_iter().flat_map(|driver| [(driver, 7), (driver, 5)]) {
        let dir = TempDir::new(&format!("told-{driver:?}-{after}"));
        let log = open(&dir, driver, 1 << 20);
        for _ in 0..2 {
            log.append_many(&[b"old"; 5]).expect("taken").wait().expect("durable");
        }
        let after = Index(after);
        let told = Error::Cut { after };
        let at_the_end = |index| {
            let mut follower = log.follow(index);
            while follower.try_next().expect("readable").is_some() {}
            follower
        };
        let mut sleeps = at_the_end(Index(1));
        let (ended, has_ended) = channel();
        let asleep = thread::spawn(move || {
            ended.send(sleeps.wait_next().map(|record| record.index)).expect("waited for");
            sleeps
        });
        let woken = Arc::new(Woken(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&woken));
        let context = &mut Context::from_waker(&waker);
        let (mut polled, mut idle) = (at_the_end(Index(9)), at_the_end(Index(10)));
        assert!(polled.poll_ready(context).is_pending());
        let (mut forth, mut back) = (log.read(..=Index(10)), log.read(..));
        assert_eq!(rest_of(&mut forth), 10);
        back.seek(after.next().next());
        // It stands where the log is cut, and has given what lies behind.
        assert_eq!(back.read_prev().expect("readable").expect("there").index, after.next());
        let mut before = log.read(..);
        before.seek(after.next());
        let mut waits = log.follow(after.next());
        assert_eq!(waits.try_next().expect("readable").expect("there").index, after.next());
        let mut waits = log.follow(after.next());

        thread::sleep(Duration::from_millis(20));
        log.truncate_suffix(after).expect("runs");
        assert_eq!(has_ended.recv_timeout(PATIENCE).expect("woken"), Err(told.clone()));
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert!(polled.poll_ready(context).is_ready());
        assert!(waits.poll_ready(context).is_pending());
        log.append_many(&[b"new"; 9]).expect("taken").wait().expect("durable");
        // Also those who have come back to where there are entries again, and until they go there.
        let mut sleeps = asleep.join().expect("no panic");
        for _ in 0..2 {
            for follower in [&mut sleeps, &mut polled, &mut idle] {
                assert_eq!(follower.wait_next().map(|record| record.index), Err(told.clone()));
                assert_eq!(follower.try_next(), Err(told.clone()));
                assert!(follower.poll_ready(context).is_ready());
            }
            for reader in [&mut forth, &mut back] {
                assert_eq!(reader.read_next(), Err(told.clone()));
                assert_eq!(reader.read_prev(), Err(told.clone()));
            }
        }
        back.seek(after.next());
        for record in [back.read_next(), before.read_next(), waits.try_next()] {
            let record = record.expect("not told").expect("there");
            assert_eq!((record.index, record.payload), (after.next(), &b"new"[..]));
        }
        // Of several cuts the lowest counts, whatever was appended between them.
        let mut late = at_the_end(Index(1));
        for after in [6, 3, 8] {
            log.truncate_suffix(Index(after)).expect("runs");
            log.append_many(&[b"more"; 9]).expect("taken").wait().expect("durable");
        }
        assert_eq!(late.try_next(), Err(Error::Cut { after: Index(3) }));
    }
}

/// What a view has listed is gone, and the log is another one by now.
#[test]
fn a_view_of_a_log_that_was_cut_meanwhile_says_so() {
    for driver in drivers() {
        let dir = TempDir::new(&format!("view-cut-{driver:?}"));
        let log = open(&dir, driver, 64 << 10);
        let append = |entries: RangeInclusive<u64>, byte: u8| {
            for n in entries {
                let payload = [&u64::to_le_bytes(n)[..], &[byte; 5_000]].concat();
                log.append(&payload).expect("taken").wait().expect("durable");
            }
        };
        append(1..=100, 1);
        let view = ReadOnlyLog::open(dir.path()).expect("can be looked at");
        let mut reader = view.read(..);
        let mut given = 0;
        let mut next = || {
            let record = reader.read_next()?.map(|record| (record.index, record.payload[8]));
            let expected = (Index(given + 1), 1);
            given += 1;
            assert_eq!(record, Some(expected));
            Ok(given)
        };
        while next().expect("readable") < 60 {}
        log.truncate_suffix(Index(40)).expect("runs");
        append(41..=140, 2);
        let first = log.truncate_prefix(Index(60)).expect("runs");
        assert!(first > Index(40));
        let files = || std::fs::read_dir(dir.path()).expect("ours").count() as u64;
        assert!(in_time(|| files() == log.stats().segments + 1));
        // What it holds in memory it still shows, as it was.
        let told = std::iter::from_fn(|| Some(next())).find_map(Result::err);
        assert_eq!(told, Some(Error::Cut { after: Index(0) }), "at {given}");
        assert_eq!(reader.read_next(), Err(Error::Cut { after: Index(0) }));
        reader.seek(Index(1));
        assert_eq!(reader.read_next(), Err(Error::Gone { index: Index(1), first }));
        reader.seek(first);
        assert_eq!(rest(&mut reader), (first.0..=140).collect::<Vec<_>>());
    }
}

/// Who cuts is not disturbed by others that do, nor who checks the log.
#[test]
fn many_cut_a_log_that_others_check() {
    for driver in drivers() {
        let dir = TempDir::new(&format!("many-cut-{driver:?}"));
        let log = open(&dir, driver, 1 << 20);
        thread::scope(|scope| {
            let cutting: Vec<_> = (0..3)
                .map(|thread| {
                    let log = &log;
                    scope.spawn(move || {
                        for round in 0..30 {
                            log.append_many(&[[7; 900]; 9])
                                .expect("taken")
                                .wait()
                                .expect("durable");
                            let after = Index(log.durable().0.saturating_sub(round + thread));
                            log.truncate_suffix(after).expect("runs");
                        }
                    })
                })
                .collect();
            while !cutting.iter().all(|thread| thread.is_finished()) {
                assert_eq!(log.verify(|_, _| true).expect("runs").unreadable, []);
            }
        });
        let last = log.last();
        drop(log);
        assert_eq!(open(&dir, driver, 1 << 20).last(), last);
    }
}

/// Reads to the end: how many entries there are.
fn rest_of(reader: &mut Reader) -> u64 {
    let mut entries = 0;
    while reader.read_next().expect("readable").is_some() {
        entries += 1;
    }
    entries
}

/// Reads to the end: which entries there are.
fn rest(reader: &mut Reader) -> Vec<u64> {
    let mut found = Vec::new();
    while let Some(record) = reader.read_next().expect("readable") {
        assert!(record.payload.starts_with(&record.index.0.to_le_bytes()));
        found.push(record.index.0);
    }
    found
}
