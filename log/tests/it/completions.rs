//! What a ring may answer: interruptions, short transfers, errors, answers to nobody; and more
//! operations than it has places.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use io_uring::squeue;
use margay_log::disk::direct::{Direct, FILES_MAX};
use margay_log::disk::driver::Driver;
use margay_log::disk::uring::Uring;
use margay_log::disk::{Disk, DiskError, Done, Op};
use margay_log::format::BLOCK;
use margay_log::id::{SegmentNumber, Ticket};
use margay_log::recover::Storage;
use margay_log::{Buffer, Options, open};

const EINTR: i32 = -4;
const EIO: i32 = -5;
const EAGAIN: i32 = -11;

struct Directory(PathBuf);

impl Directory {
    /// With a new log in it.
    fn new(name: &str) -> (Directory, Direct) {
        let path = std::env::temp_dir().join(format!("margay-{name}-{}", std::process::id()));
        let mut files = Direct::open(&path).expect("a directory");
        open(&mut files, Options { segment_first: 64 << 10, ..Options::default() }).expect("opens");
        (Directory(path), files)
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        std::fs::remove_dir_all(self.path()).expect("ours");
    }
}

/// A driver whose ring is the test.
struct Played {
    driver: Driver,
    entries: Vec<squeue::Entry>,
    done: Vec<Done>,
}

impl Played {
    /// A write of four blocks has begun.
    fn new(files: Direct) -> Played {
        let mut played =
            Played { driver: Driver::new(files, 0), entries: Vec::new(), done: Vec::new() };
        played.begin(7);
        played
    }

    fn begin(&mut self, ticket: u64) {
        let data = Arc::new(Buffer::zeroed(4 * BLOCK));
        let (segment, offset) = (SegmentNumber(1), BLOCK as u64);
        let op = Op::Write { ticket: Ticket(ticket), segment, offset, data };
        self.driver.start(op, &mut self.entries);
    }

    /// The ring answers the one entry it was given; whether another followed.
    fn answer(&mut self, result: i32) -> bool {
        let entry = self.entries.pop().expect("something is under way");
        assert!(self.entries.is_empty());
        let (entries, done) = (&mut self.entries, &mut self.done);
        self.driver.on_completion(entry.get_user_data(), result, entries, done);
        !self.entries.is_empty()
    }

    /// How the write ended, if it has.
    fn ended(&mut self) -> Option<Result<(), DiskError>> {
        match self.done.pop()? {
            Done::Write { ticket: Ticket(7), result } => Some(result),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn interrupted_and_short_transfers_go_on() {
    let (_directory, files) = Directory::new("short");
    let mut played = Played::new(files);
    let block = BLOCK as i32;
    for result in [EINTR, EAGAIN, block, EINTR, block + 100, EAGAIN] {
        assert!(played.answer(result), "after {result} it is not over");
        assert_eq!(played.ended(), None);
    }
    // Two blocks are left: the part of the third was not believed.
    assert!(played.answer(block));
    assert!(!played.answer(block));
    assert_eq!(played.ended(), Some(Ok(())));
    assert_eq!(played.driver.in_flight(), 0);
}

#[test]
fn errors_end_a_write_once() {
    let (directory, _) = Directory::new("errors");
    for (result, errno) in [(EIO, 5), (0, 5), (100, 5), (-28, 28)] {
        let files = Direct::open(directory.path()).expect("a directory");
        let mut played = Played::new(files);
        let entry = played.entries[0].clone();
        assert!(!played.answer(result));
        assert_eq!(played.ended(), Some(Err(DiskError { errno })), "{result}");
        // The same answer again, and one that nobody asked for, are nobody's: not even that of the
        // next write, which has the same place.
        played.begin(8);
        let (entries, done) = (&mut played.entries, &mut played.done);
        played.driver.on_completion(entry.get_user_data(), 4 * BLOCK as i32, entries, done);
        played.driver.on_completion(99, EIO, entries, done);
        assert!(played.done.is_empty());
        assert_eq!((played.entries.len(), played.driver.in_flight()), (1, 1));
        assert!(!played.answer(4 * BLOCK as i32));
        played.done.clear();
    }
}

/// Many other segments are read while a write is under way, and another one follows it.
#[test]
fn a_file_in_use_stays_open_whatever_else_is_read() {
    let (_directory, mut files) = Directory::new("in-use");
    let others = (2..).map(SegmentNumber).take(2 * FILES_MAX);
    for segment in others.clone() {
        files.prepare(segment, 4 * BLOCK as u64, &Buffer::zeroed(BLOCK)).expect("made");
    }
    let mut played = Played::new(files);
    let write = played.entries.pop().expect("a write is under way");
    for segment in others {
        let (ticket, offset, length) = (Ticket(1), 0, BLOCK as u32);
        played.driver.start(Op::Read { ticket, segment, offset, length }, &mut played.entries);
        assert!(!played.answer(BLOCK as i32));
    }
    played.done.clear();
    played.begin(7);
    assert!(!played.answer(4 * BLOCK as i32));
    assert_eq!(played.ended(), Some(Ok(())));
    played.entries.push(write);
    assert!(!played.answer(4 * BLOCK as i32));
    assert_eq!(played.ended(), Some(Ok(())));
}

/// A kernel that never gets on is not waited for without end.
#[test]
fn endless_interruptions_are_an_error() {
    let (_directory, files) = Directory::new("endless");
    let mut played = Played::new(files);
    let mut answers = 1;
    while played.answer(EAGAIN) {
        answers += 1;
        assert!(answers < 100_000);
    }
    assert_eq!(played.ended(), Some(Err(DiskError { errno: 11 })));
    assert!(answers > 10, "{answers}");
}

/// Many more operations than the ring has places: each ends, once.
#[test]
fn more_operations_than_the_ring_has_places() {
    let (_directory, files) = Directory::new("full-ring");
    let mut disk = Uring::new(files).expect("io_uring is allowed here");
    let count = 2_000;
    for ticket in 0..count {
        let (segment, length) = (SegmentNumber(1), BLOCK as u32);
        disk.submit(Op::Read { ticket: Ticket(ticket), segment, offset: 0, length });
    }
    let mut ended = vec![0; count as usize];
    while disk.in_flight() > 0 {
        let mut done = Vec::new();
        disk.poll(true, &mut done);
        for done in done {
            let Done::Read { ticket, result } = done else { panic!("{done:?}") };
            assert_eq!(result.expect("it is read")[..4], *b"MGYS");
            ended[ticket.0 as usize] += 1;
        }
    }
    assert!(ended.iter().all(|times| *times == 1));
}
