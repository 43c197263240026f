//! One suite for every disk: simulated, plain calls, ring.

#[cfg(feature = "direct")]
use std::path::{Path, PathBuf};
#[cfg(feature = "direct")]
use std::time::{Duration, Instant};

use margay_log::disk::Disk;
use margay_log::format::EntryHeader;
use margay_log::id::{BatchEnd, Chain, ClusterId, EntryId, Index, Micros, Term};
use margay_log::{Error, Log, Options, Read, Report, Space, open};

/// Only whoever hangs is ended by this: the machine may stand still for a while, or have much else
/// to do.
#[cfg(feature = "direct")]
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Whether it comes to hold within [`PATIENCE`].
#[cfg(feature = "direct")]
pub(crate) fn in_time(mut holds: impl FnMut() -> bool) -> bool {
    let begin = Instant::now();
    while !holds() {
        if begin.elapsed() > PATIENCE {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

/// A log on some disk.
struct Host {
    log: Log,
    disk: Box<dyn Disk>,
    report: Report,
    meta: Vec<u8>,
}

/// Something a log can be opened on, again and again.
trait Medium {
    fn open(&mut self) -> Host;
}

fn options() -> Options {
    Options {
        cluster: ClusterId(1),
        segment_first: 64 << 10,
        segment_max: 512 << 10,
        tail_bytes: 256 << 10,
        spare_bytes: 2 << 20,
        ..Options::default()
    }
}

impl Host {
    fn settle(&mut self) {
        let mut done = Vec::new();
        loop {
            self.log.ops().for_each(|op| self.disk.submit(op));
            self.disk.poll(true, &mut done);
            if done.is_empty() {
                return;
            }
            for done in done.drain(..) {
                self.log.on_done(done).expect("nothing fails");
            }
        }
    }

    /// As if a second had passed without work.
    fn rest(&mut self) {
        self.settle();
        for second in 1..=3 {
            self.log.on_tick(Micros::from_millis(1_000 * second));
            self.settle();
        }
        assert_eq!(self.log.deadline(), None);
    }

    fn append(&mut self, term: u64, entries: u64) {
        for _ in 0..entries {
            let index = self.log.last().index.0 + u64::from(self.log.open_entries()) + 1;
            let payload = payload(term, index);
            self.log
                .push_parts(&header(term), &[&payload[..], &index.to_le_bytes()])
                .expect("fits");
        }
        while let Err(error) = self.log.seal(Term(term), 0) {
            assert_eq!(error, Error::NoSpace);
            self.settle();
        }
    }

    fn check(&mut self, term_of: impl Fn(u64) -> u64) {
        let mut after = self.log.start().id.index;
        let mut out = Vec::new();
        loop {
            match self.log.read(after, 200 << 10, &mut out) {
                Read::Cached => {}
                Read::Pending(_) => self.settle(),
                Read::End => break,
                other => panic!("{other:?}"),
            }
            for batch in out.drain(..) {
                for entry in batch.entries() {
                    assert_eq!(entry.index, after.next());
                    let term = term_of(entry.index.0);
                    assert_eq!(batch.header().term, Term(term));
                    let mut expected = payload(term, entry.index.0);
                    expected.extend(entry.index.0.to_le_bytes());
                    assert_eq!(entry.payload, expected);
                    assert_eq!(entry.header.session, term);
                    after = entry.index;
                }
            }
        }
        assert_eq!(after, self.log.last().index);
    }
}

fn header(term: u64) -> EntryHeader {
    EntryHeader { kind: 9, session: term, ..EntryHeader::default() }
}

fn payload(term: u64, index: u64) -> Vec<u8> {
    (0..index * 131 % 9_000).map(|at| (at * term + index) as u8).collect()
}

fn suite(medium: &mut dyn Medium) {
    let mut host = medium.open();
    assert!(host.report.created && host.meta.is_empty());
    assert_eq!(host.log.space(), Space::Ready);
    let incarnation = host.log.incarnation();
    host.log.set_meta(b"term 1, vote 2");
    for batch in 0..150 {
        host.append(1, 1 + batch % 4);
    }
    host.rest();
    let long = host.log.last().index;
    assert_eq!(host.log.durable(), long);
    host.check(|_| 1);

    // What another leader has from the middle on.
    let mut host = medium.open_after(host);
    assert_eq!((host.report.last.index, host.report.damage), (long, None));
    assert_eq!(host.meta, b"term 1, vote 2");
    assert_eq!(host.log.incarnation(), incarnation);
    host.check(|_| 1);
    let middle = host.log.end_up_to(Index(long.0 / 2)).id.index;
    host.log.truncate_suffix(middle).expect("a batch end");
    for _ in 0..100 {
        host.append(2, 3);
    }
    host.rest();
    let term_of = |index| if index <= middle.0 { 1 } else { 2 };
    host.check(term_of);

    let mut host = medium.open_after(host);
    assert_eq!(host.report.last, EntryId::new(Term(2), Index(middle.0 + 300)));
    assert!(host.report.superseded > 0 && host.report.torn.is_empty());
    assert_eq!(host.log.terms(), [(Term(1), Index(1)), (Term(2), middle.next())]);
    host.check(term_of);

    // The prefix goes.
    host.log.truncate_prefix(Index(middle.0 + 200)).expect("not poisoned");
    host.rest();
    let first = host.log.first();
    assert!(first > Index(1) && first <= Index(middle.0 + 201));
    host.check(term_of);
    let segments = host.report.segments;
    let mut host = medium.open_after(host);
    assert_eq!(host.log.first(), first);
    assert!(host.report.segments < segments);
    host.check(term_of);

    replaced_by_a_snapshot(medium, host);
}

fn replaced_by_a_snapshot(medium: &mut dyn Medium, mut host: Host) {
    let id = EntryId::new(Term(3), Index(100_000));
    host.log.reset(BatchEnd { id, chain: Chain(99) }).expect("not poisoned");
    assert_eq!(host.log.durable(), Index::ZERO);
    host.append(3, 2);
    host.rest();
    assert_eq!(host.log.durable(), Index(100_002));
    let mut host = medium.open_after(host);
    assert_eq!((host.log.first(), host.log.last().index), (Index(100_001), Index(100_002)));
    assert_eq!(host.log.chain_at(Index(100_000)), Some(Chain(99)));
    host.check(|_| 3);

    // Many openings use nothing up.
    let segments = host.report.segments;
    for _ in 0..4 {
        host = medium.open_after(host);
    }
    assert!(host.report.segments <= segments + 1);
    host.check(|_| 3);
}

/// Where the prefix goes as fast as the log grows, no new files are made, and what the old ones
/// held is not mistaken for anything.
#[cfg(feature = "direct")]
fn files_are_used_again(medium: &mut dyn Medium, path: &Path) {
    use std::os::unix::fs::MetadataExt;

    let mut host = medium.open();
    let mut files = std::collections::BTreeSet::new();
    for round in 0..40 {
        for _ in 0..40 {
            host.append(1, 3);
        }
        host.settle();
        let keep = host.log.last().index.0 - 100;
        host.log.truncate_prefix(Index(keep)).expect("not poisoned");
        host.settle();
        if round >= 10 {
            let listed = std::fs::read_dir(path).expect("a directory").map(|file| file.unwrap());
            let segments =
                listed.filter(|file| file.file_name().to_string_lossy().contains("segment"));
            files.extend(segments.map(|file| file.metadata().expect("there").ino()));
        }
    }
    assert!(files.len() <= 8, "{} files for 30 rounds of a segment or more", files.len());
    host.check(|_| 1);
    let (first, last) = (host.log.first(), host.log.last());
    for _ in 0..3 {
        host = medium.open_after(host);
        assert_eq!((host.report.last, host.log.first(), host.report.damage), (last, first, None));
        assert!(host.report.torn.is_empty(), "{:?}", host.report.torn);
        host.check(|_| 1);
    }
    host.append(2, 3);
    host.rest();
    let mut host = medium.open_after(host);
    host.check(|index| if index <= last.index.0 { 1 } else { 2 });
}

trait Reopen {
    fn open_after(&mut self, host: Host) -> Host;
}

impl Reopen for dyn Medium + '_ {
    fn open_after(&mut self, host: Host) -> Host {
        drop(host);
        self.open()
    }
}

#[cfg(feature = "sim")]
mod simulated {
    use super::*;
    use margay_log::disk::sim::SimDisk;
    use margay_log::disk::{Done, Op};
    use std::cell::RefCell;
    use std::rc::Rc;

    #[derive(Clone)]
    struct Shared(Rc<RefCell<SimDisk>>);

    impl Disk for Shared {
        fn submit(&mut self, op: Op) {
            self.0.borrow_mut().submit(op);
        }
        fn poll(&mut self, wait: bool, done: &mut Vec<Done>) {
            self.0.borrow_mut().poll(wait, done);
        }
    }

    impl Medium for Shared {
        fn open(&mut self) -> Host {
            let opened = open(&mut *self.0.borrow_mut(), options()).expect("opens");
            let disk = Box::new(self.clone());
            Host { log: opened.log, disk, report: opened.report, meta: opened.meta }
        }
    }

    #[test]
    fn simulated_disk() {
        suite(&mut Shared(Rc::new(RefCell::new(SimDisk::new(1)))));
    }
}

/// A directory that goes away with the test.
#[cfg(feature = "direct")]
pub(crate) struct TempDir(pub(crate) PathBuf);

#[cfg(feature = "direct")]
impl TempDir {
    pub(crate) fn new(name: &str) -> TempDir {
        let path = std::env::temp_dir().join(format!("margay-log-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        TempDir(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

#[cfg(feature = "direct")]
impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(feature = "direct")]
mod direct {
    use super::*;
    use margay_log::disk::direct::{Access, Direct, Mode};

    impl Medium for TempDir {
        fn open(&mut self) -> Host {
            let mut direct = Direct::open(self.path()).expect("a directory");
            if direct.mode() == Mode::Buffered {
                println!("no O_DIRECT on {}", self.path().display());
            }
            let opened = open(&mut direct, options()).expect("opens");
            let disk = Box::new(direct);
            Host { log: opened.log, disk, report: opened.report, meta: opened.meta }
        }
    }

    /// Through the page cache, as where a file system refuses `O_DIRECT`.
    struct Buffered(TempDir);

    impl Medium for Buffered {
        fn open(&mut self) -> Host {
            let access = Access { buffered: true, ..Access::default() };
            let mut direct = Direct::open_with(self.0.path(), access).expect("a directory");
            assert_eq!(direct.mode(), Mode::Buffered);
            let opened = open(&mut direct, options()).expect("opens");
            let disk = Box::new(direct);
            Host { log: opened.log, disk, report: opened.report, meta: opened.meta }
        }
    }

    #[test]
    fn plain_calls() {
        suite(&mut TempDir::new("direct"));
    }

    #[test]
    fn files_are_used_again_with_plain_calls() {
        let mut medium = TempDir::new("direct-again");
        let path = medium.path().to_owned();
        files_are_used_again(&mut medium, &path);
    }

    #[test]
    fn plain_calls_through_the_page_cache() {
        suite(&mut Buffered(TempDir::new("buffered")));
    }
}

#[cfg(feature = "uring")]
mod uring {
    use super::*;
    use margay_log::disk::direct::Direct;
    use margay_log::disk::uring::Uring;

    struct Ring(TempDir);

    impl Medium for Ring {
        fn open(&mut self) -> Host {
            let mut direct = Direct::open(self.0.path()).expect("a directory");
            let opened = open(&mut direct, options()).expect("opens");
            let disk = Box::new(Uring::new(direct).expect("io_uring is allowed here"));
            Host { log: opened.log, disk, report: opened.report, meta: opened.meta }
        }
    }

    #[test]
    fn ring() {
        suite(&mut Ring(TempDir::new("uring")));
    }

    #[test]
    fn files_are_used_again_through_a_ring() {
        let mut medium = Ring(TempDir::new("uring-again"));
        let path = medium.0.path().to_owned();
        files_are_used_again(&mut medium, &path);
    }

    /// Dropping a disk in the middle of everything is a crash: nothing reported durable is lost.
    #[test]
    fn ring_dropped_in_the_middle() {
        let mut medium = Ring(TempDir::new("uring-drop"));
        let mut durable = Index::ZERO;
        let mut done = Vec::new();
        for round in 1..=10 {
            let mut host = medium.open();
            assert_eq!(host.report.damage, None);
            assert!(host.log.last().index >= durable);
            durable = host.log.durable();
            for batch in 0..40 {
                host.append(round, 1 + batch % 3);
                host.log.ops().for_each(|op| host.disk.submit(op));
                host.disk.poll(false, &mut done);
                for done in done.drain(..) {
                    let progress = host.log.on_done(done).expect("nothing fails");
                    durable = progress.durable.unwrap_or(durable);
                }
            }
        }
        assert!(durable > Index::ZERO);
    }
}
