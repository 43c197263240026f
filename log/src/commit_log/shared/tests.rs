//! How many writes appends come to, on a simulated disk and without the log's thread: nothing
//! happens but what the test does.

mod power;

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};

use super::{BoxedDisk, Retention, Shared};
use crate::commit_log::{Appended, CommitLog, Handle};
use crate::disk::sim::{EIO, SimDisk};
use crate::disk::{Disk, Done, Op};
use crate::format::{BATCH_MAX, EntryHeader};
use crate::id::Index;
use crate::log::Options;

/// Takes down the length of each write that was begun.
struct Noting {
    disk: SimDisk,
    writes: Arc<Mutex<Vec<usize>>>,
}

impl Disk for Noting {
    fn submit(&mut self, op: Op) {
        if let Op::Write { data, .. } = &op {
            self.writes.lock().expect("nobody panics with it").push(data.len());
        }
        self.disk.submit(op);
    }

    fn poll(&mut self, wait: bool, done: &mut Vec<Done>) {
        self.disk.poll(wait, done);
    }
}

struct Fixture {
    log: CommitLog,
    writes: Arc<Mutex<Vec<usize>>>,
}

impl Fixture {
    fn new() -> Fixture {
        let writes = Arc::default();
        let noting = Arc::clone(&writes);
        let fixture = Fixture::on(|disk| Box::new(Noting { disk, writes: noting }));
        Fixture { writes, ..fixture }
    }

    /// One whose disk is made of a simulated one.
    fn on(make: impl FnOnce(SimDisk) -> BoxedDisk) -> Fixture {
        let mut disk = SimDisk::new(1);
        let options = Options { segment_first: 16 << 20, ..Options::default() };
        let log = crate::recover::open(&mut disk, options).expect("a new log").log;
        let shared = Shared::new(log, make(disk), true, PathBuf::new(), Retention::default());
        let handle = Handle { shared, thread: None, compacting: Mutex::default() };
        Fixture { log: CommitLog { handle: Arc::new(handle) }, writes: Arc::default() }
    }

    fn shared(&self) -> &Shared {
        &self.log.handle.shared
    }

    /// Puts together an entry of 1 KiB in place.
    fn put(&self) -> Appended {
        let fill = |bytes: &mut [u8]| bytes.fill(7);
        self.log.append_with(&EntryHeader::default(), 1024, fill).expect("room")
    }

    fn writes(&self) -> usize {
        self.writes.lock().expect("nobody panics with it").len()
    }

    /// Appends an entry and polls it.
    fn ask(&self) -> Appended {
        let mut appended = self.log.append(b"from a future").expect("room");
        let polled = Pin::new(&mut appended).poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending());
        appended
    }

    /// As the log's thread.
    fn drive(&self) {
        let mut disk = self.shared().try_disk().expect("nobody else drives");
        drop(self.shared().drive(disk.as_mut().expect("open")));
    }

    /// How often a write that is due waits for more, if `more` of them come meanwhile.
    fn pauses(&self, mut more: usize) -> usize {
        let mut pauses = 0;
        self.shared().gather(|| {
            pauses += 1;
            if more > 0 {
                more -= 1;
                drop(self.ask());
            }
            true
        });
        pauses
    }
}

#[test]
fn entries_put_in_place_go_in_one_write() {
    let fixture = Fixture::new();
    let mut last = fixture.put();
    for _ in 1..256 {
        last = fixture.put();
    }
    assert_eq!(fixture.writes(), 0);
    assert_eq!(last.wait(), Ok(Index(256)));
    assert_eq!(fixture.writes(), 1);
}

#[test]
fn a_full_batch_is_under_way_while_the_next_is_filled() {
    let fixture = Fixture::new();
    let appended: Vec<_> = (0..1024).map(|_| fixture.put()).collect();
    let lengths = fixture.writes.lock().expect("nobody panics with it").clone();
    assert_eq!(lengths.len(), 1);
    assert!((BATCH_MAX as usize..BATCH_MAX as usize + 8192).contains(&lengths[0]));
    for appended in appended {
        appended.wait().expect("durable");
    }
    assert_eq!(fixture.writes(), 2);
}

#[test]
fn a_large_append_is_under_way_while_the_next_large_one_is_made() {
    let fixture = Fixture::new();
    let payloads = vec![vec![7; 1024]; 256];
    let one = fixture.log.append_many(&payloads).expect("room");
    assert_eq!(fixture.writes(), 0, "whoever waits at once writes it without a ring");
    let two = fixture.log.append_many(&payloads).expect("room");
    assert_eq!(fixture.writes(), 1);
    let three = fixture.put();
    assert_eq!(fixture.writes(), 1, "what is small joins");
    assert_eq!([one.wait(), two.wait()], [Ok(Index(256)), Ok(Index(512))]);
    assert_eq!((three.wait(), fixture.writes()), (Ok(Index(513)), 2));
}

/// Ends every operation in the turn in which it is begun.
struct Prompt(SimDisk);

impl Disk for Prompt {
    fn submit(&mut self, op: Op) {
        self.0.submit(op);
        self.0.complete(0);
    }

    fn poll(&mut self, _: bool, done: &mut Vec<Done>) {
        self.0.poll(false, done);
    }
}

/// What an append begins while it waits for room may end before it goes on, and not well.
#[test]
fn an_append_that_begins_a_write_which_fails_appends_nothing() {
    let fixture = Fixture::on(|mut disk| {
        disk.fail_next_write(EIO);
        Box::new(Prompt(disk))
    });
    let payloads = vec![vec![7; 1024]; 256];
    let one = fixture.log.append_many(&payloads).expect("room");
    assert!(fixture.log.append_many(&payloads).is_err(), "the log has stopped");
    assert_eq!(fixture.log.last(), Index(256));
    assert!(one.wait().is_err());
}

#[test]
fn what_nobody_waits_for_is_left_for_a_moment() {
    let fixture = Fixture::new();
    drop(fixture.put());
    assert!(!fixture.shared().state().kicked);
    // It may return for no reason.
    for _ in 0..100 {
        let state = fixture.shared().rest(fixture.shared().state());
        if state.kicked {
            break;
        }
    }
    assert!(std::mem::take(&mut fixture.shared().state().kicked));
    fixture.drive();
    assert_eq!((fixture.log.durable(), fixture.writes()), (Index(1), 1));
    // What went with an entry that was waited for needs nobody any more.
    drop(fixture.put());
    fixture.put().wait().expect("durable");
    drop(fixture.shared().rest(fixture.shared().state()));
    assert!(!fixture.shared().state().kicked);
}

#[test]
fn what_somebody_follows_is_not_left() {
    let fixture = Fixture::new();
    let mut follower = fixture.log.follow(Index(1));
    assert!(follower.poll_ready(&mut Context::from_waker(Waker::noop())).is_pending());
    drop(fixture.put());
    assert!(fixture.shared().state().kicked);
}

/// The thread was told, and found the disk taken. Whoever had it ends.
#[test]
fn what_the_thread_could_not_see_to_is_passed_on_to_it() {
    let used_up = |fixture: &Fixture| {
        assert!(std::mem::take(&mut fixture.shared().state().kicked));
        fixture.shared().wait_until(|_| true);
        assert!(fixture.shared().state().kicked);
    };
    let fixture = Fixture::new();
    let mut recorded = fixture.log.set_meta(b"of a future").expect("open");
    let polled = Pin::new(&mut recorded).poll(&mut Context::from_waker(Waker::noop()));
    assert!(polled.is_pending());
    used_up(&fixture);

    let fixture = Fixture::new();
    let mut follower = fixture.log.follow(Index(1));
    assert!(follower.poll_ready(&mut Context::from_waker(Waker::noop())).is_pending());
    drop(fixture.put());
    used_up(&fixture);
}

/// Looks whether the log's lock is free, as an executor that polls within `wake` needs it.
struct Looking {
    shared: Arc<Shared>,
    found_free: AtomicUsize,
}

impl Wake for Looking {
    fn wake(self: Arc<Self>) {
        let is_free = self.shared.state.try_lock().is_ok();
        self.found_free.fetch_add(usize::from(is_free), Ordering::Relaxed);
    }
}

impl Looking {
    fn at(fixture: &Fixture) -> Arc<Looking> {
        let shared = Arc::clone(&fixture.log.handle.shared);
        Arc::new(Looking { shared, found_free: AtomicUsize::new(0) })
    }
}

#[test]
fn futures_are_woken_without_the_lock_when_the_log_is_closed() {
    let fixture = Fixture::new();
    let looking = Looking::at(&fixture);
    let waker = Waker::from(Arc::clone(&looking));
    let context = &mut Context::from_waker(&waker);
    let mut appended = fixture.log.append(b"not written").expect("room");
    assert!(Pin::new(&mut appended).poll(context).is_pending());
    let mut recorded = fixture.log.set_meta(b"not written").expect("open");
    assert!(Pin::new(&mut recorded).poll(context).is_pending());
    let mut follower = fixture.log.follow(Index(1));
    assert!(follower.poll_ready(context).is_pending());
    fixture.shared().finish();
    assert_eq!(looking.found_free.load(Ordering::Relaxed), 3);
}

#[test]
fn a_follower_has_one_waker_and_takes_it_along() {
    let fixture = Fixture::new();
    let mut follower = fixture.log.follow(Index(1));
    let tasks: Vec<_> = (0..8).map(|_| Looking::at(&fixture)).collect();
    for task in &tasks {
        let waker = Waker::from(Arc::clone(task));
        assert!(follower.poll_ready(&mut Context::from_waker(&waker)).is_pending());
    }
    assert_eq!(fixture.shared().state().followers.len(), 1);
    fixture.put().wait().expect("durable");
    let woken: Vec<_> = tasks.iter().map(|task| task.found_free.load(Ordering::Relaxed)).collect();
    assert_eq!(woken, [0, 0, 0, 0, 0, 0, 0, 1]);

    let mut follower = fixture.log.follow(Index(2));
    assert!(follower.poll_ready(&mut Context::from_waker(Waker::noop())).is_pending());
    drop(follower);
    assert!(fixture.shared().state().followers.is_empty());
}

#[test]
fn a_write_waits_for_futures_that_append_again() {
    let fixture = Fixture::new();
    let first: Vec<_> = (0..8).map(|_| fixture.ask()).collect();
    fixture.drive();
    assert_eq!((fixture.log.durable(), fixture.writes()), (Index(8), 1));
    // All of them come again, then three of them, then nobody else.
    drop(fixture.ask());
    assert_eq!(fixture.pauses(100), 7);
    fixture.drive();
    drop(fixture.ask());
    assert_eq!(fixture.pauses(2), 3);
    fixture.drive();
    assert_eq!((fixture.log.durable(), fixture.writes()), (Index(19), 3));
    drop(first);
}

#[test]
fn each_future_is_woken_once_and_when_its_entry_is_durable() {
    struct Woken(AtomicUsize);
    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let fixture = Fixture::new();
    let mut appended: Vec<_> =
        (0..4).map(|_| fixture.log.append(b"polled out of order").expect("room")).collect();
    let woken: Vec<_> = (0..4).map(|_| Arc::new(Woken(AtomicUsize::new(0)))).collect();
    let mut poll = |at: usize, by: usize| {
        let waker = Waker::from(Arc::clone(&woken[by]));
        let polled = Pin::new(&mut appended[at]).poll(&mut Context::from_waker(&waker));
        assert!(polled.is_pending());
    };
    // Twice by the same task, and by another one.
    for (at, by) in [(3, 3), (0, 0), (2, 2), (0, 0), (1, 1), (2, 0), (3, 3)] {
        poll(at, by);
    }
    let counts = || woken.iter().map(|one| one.0.load(Ordering::Relaxed)).collect::<Vec<_>>();
    let done = |index| {
        let mut state = fixture.shared().state();
        let mut due = Vec::new();
        state.take_wakers(Index(index), &mut due);
        due.into_iter().for_each(Waker::wake);
    };
    done(2);
    assert_eq!(counts(), [1, 1, 0, 0]);
    done(3);
    assert_eq!(counts(), [2, 1, 1, 0]);
    done(4);
    assert_eq!(counts(), [2, 1, 1, 1]);
}

#[test]
fn a_future_that_is_alone_never_waits_for_others() {
    let fixture = Fixture::new();
    for n in 1..=3 {
        let alone = fixture.ask();
        assert_eq!(fixture.pauses(100), 0);
        fixture.drive();
        assert_eq!((alone.wait(), fixture.writes()), (Ok(Index(n)), n as usize));
    }
}
