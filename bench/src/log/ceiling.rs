//! What the disk allows: whole blocks written `O_DIRECT|O_DSYNC` over space that was written
//! before, once and with zeros as a log's is, one at a time, from one thread. From ordinary memory,
//! as by any program, and for large blocks also from huge pages, as by ours.
//!
//! For many appenders, what the disk and the system together allow: such writes, each for all who
//! wait, and everybody is woken. Without the waking it is one write for all.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Waker};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use margay_log::buffer::Buffer;

use crate::log::{Append, Appender, Contender, Row};

/// Zeros written at a time.
const PIECE: usize = 1 << 20;

/// How long after one future the next one may come and still go with its write.
const PAUSE: Duration = Duration::from_micros(3);

/// Memory of this many bytes is on huge pages.
const HUGE: usize = 2 << 20;

/// See the module. It takes no notice of entries, only of how many blocks they would fill.
#[derive(Debug)]
pub struct Ceiling {
    /// Its memory is on huge pages.
    huge: bool,
    /// One write stands for those of many appenders, of whom there are none.
    for_all: bool,
}

impl Ceiling {
    /// From ordinary memory.
    pub const DEFAULT: Ceiling = Ceiling { huge: false, for_all: false };
    /// From huge pages.
    pub const HUGE: Ceiling = Ceiling { huge: true, for_all: false };
    /// For many appenders, none of whom is ever woken: what nobody can reach.
    pub const FOR_ALL: Ceiling = Ceiling { huge: false, for_all: true };
}

struct Blocks {
    file: File,
    block: Buffer,
    size: u64,
    at: Mutex<u64>,
}

impl Contender for Ceiling {
    fn name(&self) -> &'static str {
        match self {
            Ceiling { huge: true, .. } => "ceiling, huge pages",
            Ceiling { for_all: true, .. } => "one write for all, nobody woken",
            _ => "ceiling",
        }
    }

    /// On huge pages where pages are many.
    fn runs(&self, row: &Row) -> bool {
        let is_large = row.block_bytes() >= HUGE as u64 / 2;
        self.for_all == (row.appenders > 1) && (is_large || !self.huge)
    }

    fn appenders(&self, _: &Row) -> usize {
        1
    }

    fn open(&self, dir: &Path, row: &Row, bytes: u64) -> io::Result<Box<dyn Appender>> {
        Ok(Box::new(self.blocks(dir, row, bytes)?))
    }

    fn recovers(&self) -> bool {
        false
    }

    fn recover(&self, _: &Path) -> io::Result<Option<u64>> {
        Ok(None)
    }
}

impl Ceiling {
    /// In a file of `bytes`. Should there be more to write, it begins again at the front.
    fn blocks(&self, dir: &Path, row: &Row, bytes: u64) -> io::Result<Blocks> {
        let shared = Row { count: row.count * row.appenders, ..*row };
        let length = shared.block_bytes() as usize;
        let mut block = Buffer::zeroed(if self.huge { length.max(HUGE) } else { length });
        block.set_length(length);
        block.fill(0xa5);
        let path = dir.join("blocks");
        let size = bytes.next_multiple_of(block.len() as u64);
        fill(&path, size)?;
        let file = open(&path)?;
        Ok(Blocks { file, block, size, at: Mutex::new(0) })
    }
}

impl Appender for Blocks {
    fn append(&self, _: &[Vec<u8>]) -> io::Result<()> {
        let mut at = self.at.lock().expect("no writer panics");
        self.file.write_all_at(&self.block, *at)?;
        *at = (*at + self.block.len() as u64) % self.size;
        Ok(())
    }
}

/// Many threads that share such writes and are woken when theirs is durable, with no log: what
/// waking costs. Those of one write sleep together and are woken by one call, which is the fastest
/// way that was found.
#[derive(Debug)]
pub struct Shared;

struct Turns {
    blocks: Blocks,
    turn: Mutex<Turn>,
}

#[derive(Default)]
struct Turn {
    /// Who wait for a write that has not begun, and how many they are.
    next: Arc<Crew>,
    waiting: u64,
    is_writing: bool,
}

/// Threads that sleep until one write is done.
#[derive(Default)]
struct Crew {
    word: Mutex<Word>,
    called: Condvar,
}

#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Word {
    #[default]
    Sleep,
    /// One of them is to write for all.
    Write,
    Written,
}

impl Crew {
    /// Returns whether the thread must write.
    fn sleep(&self) -> bool {
        let mut word = self.word.lock().expect("no sleeper panics");
        loop {
            match *word {
                Word::Sleep => word = self.called.wait(word).expect("no sleeper panics"),
                Word::Write => {
                    *word = Word::Sleep;
                    return true;
                }
                Word::Written => return false,
            }
        }
    }

    fn tell(&self, word: Word) {
        *self.word.lock().expect("no sleeper panics") = word;
        match word {
            Word::Write => self.called.notify_one(),
            _ => self.called.notify_all(),
        }
    }
}

impl Contender for Shared {
    fn name(&self) -> &'static str {
        "no log, threads woken"
    }

    fn runs(&self, row: &Row) -> bool {
        row.appenders > 1 && !row.futures
    }

    fn open(&self, dir: &Path, row: &Row, bytes: u64) -> io::Result<Box<dyn Appender>> {
        let blocks = Ceiling::DEFAULT.blocks(dir, row, bytes)?;
        Ok(Box::new(Turns { blocks, turn: Mutex::default() }))
    }

    fn recovers(&self) -> bool {
        false
    }

    fn recover(&self, _: &Path) -> io::Result<Option<u64>> {
        Ok(None)
    }
}

impl Appender for Turns {
    fn append(&self, entries: &[Vec<u8>]) -> io::Result<()> {
        let lock = || self.turn.lock().expect("no writer panics");
        let mut turn = lock();
        turn.waiting += 1;
        if turn.is_writing {
            let crew = Arc::clone(&turn.next);
            drop(turn);
            if !crew.sleep() {
                return Ok(());
            }
            turn = lock();
        }
        turn.is_writing = true;
        turn.waiting = 0;
        let written = std::mem::take(&mut turn.next);
        drop(turn);
        self.blocks.append(entries)?;
        written.tell(Word::Written);
        let mut turn = lock();
        turn.is_writing = turn.waiting > 0;
        let next = turn.is_writing.then(|| Arc::clone(&turn.next));
        drop(turn);
        next.iter().for_each(|crew| crew.tell(Word::Write));
        Ok(())
    }
}

/// Futures whose entries a thread writes together and wakes, with no log: what the way to that
/// thread and back costs.
#[derive(Debug)]
pub struct Woken;

#[derive(Default)]
struct Queue {
    /// Of those whose entries wait to be written.
    waiting: Vec<Waker>,
    /// Writes begun and done.
    begun: u64,
    done: u64,
    is_over: bool,
}

struct Writer {
    queue: Arc<(Mutex<Queue>, Condvar)>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

/// Ready when a write that began behind it is done.
struct Written<'a> {
    queue: &'a (Mutex<Queue>, Condvar),
    after: Option<u64>,
}

impl Contender for Woken {
    fn name(&self) -> &'static str {
        "no log, futures woken"
    }

    fn runs(&self, row: &Row) -> bool {
        row.futures
    }

    fn open(&self, dir: &Path, row: &Row, bytes: u64) -> io::Result<Box<dyn Appender>> {
        let blocks = Ceiling::DEFAULT.blocks(dir, row, bytes)?;
        let queue = Arc::<(Mutex<Queue>, Condvar)>::default();
        let shared = Arc::clone(&queue);
        let thread = std::thread::spawn(move || serve(&blocks, &shared));
        Ok(Box::new(Writer { queue, thread: Some(thread) }))
    }

    fn recovers(&self) -> bool {
        false
    }

    fn recover(&self, _: &Path) -> io::Result<Option<u64>> {
        Ok(None)
    }
}

/// Writes for whoever waits, all at once, until it is over.
fn serve(blocks: &Blocks, (queue, called): &(Mutex<Queue>, Condvar)) -> io::Result<()> {
    let lock = || queue.lock().expect("no writer panics");
    let mut written = 0;
    loop {
        let mut queue = lock();
        while queue.waiting.is_empty() {
            if queue.is_over {
                return Ok(());
            }
            queue = called.wait(queue).expect("no writer panics");
        }
        // Those that were just woken come one after the other, and all go with one write.
        let mut seen = 0;
        while (seen + 1..written).contains(&queue.waiting.len()) {
            seen = queue.waiting.len();
            drop(queue);
            let pause = Instant::now();
            while pause.elapsed() < PAUSE {
                std::thread::yield_now();
            }
            queue = lock();
        }
        let due = std::mem::take(&mut queue.waiting);
        queue.begun += 1;
        drop(queue);
        blocks.append(&[])?;
        written = due.len();
        lock().done += 1;
        due.into_iter().for_each(Waker::wake);
    }
}

impl Future for Written<'_> {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (queue, called) = self.queue;
        let mut queue = queue.lock().expect("no writer panics");
        match self.after {
            Some(after) if queue.done > after => return Poll::Ready(Ok(())),
            Some(_) => {}
            None => {
                self.after = Some(queue.begun);
                queue.waiting.push(context.waker().clone());
                if queue.waiting.len() == 1 {
                    called.notify_one();
                }
            }
        }
        Poll::Pending
    }
}

impl Appender for Writer {
    fn append(&self, _: &[Vec<u8>]) -> io::Result<()> {
        Ok(())
    }

    fn begin<'a>(&'a self, _: &'a [Vec<u8>]) -> Append<'a> {
        Box::pin(Written { queue: &self.queue, after: None })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue.0.lock().expect("no writer panics").is_over = true;
        self.queue.1.notify_one();
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).custom_flags(libc::O_DIRECT | libc::O_DSYNC);
    options.open(path)
}

/// Writes `size` bytes of zeros.
fn fill(path: &Path, size: u64) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).custom_flags(libc::O_DIRECT);
    let file = options.open(path)?;
    let zeros = Buffer::zeroed(PIECE);
    let mut at = 0;
    while at < size {
        let length = (size - at).min(PIECE as u64);
        file.write_all_at(&zeros[..length as usize], at)?;
        at += length;
    }
    file.sync_all()
}

/// Reads all files of a directory past the page cache, `piece` bytes at a time, into huge pages,
/// and looks at nothing. Returns the bytes read.
///
/// # Errors
/// The system's.
pub fn read_directory(dir: &Path, piece: usize) -> io::Result<u64> {
    let mut buffer = Buffer::zeroed(piece.max(HUGE));
    buffer.set_length(piece);
    let mut total = 0;
    for entry in std::fs::read_dir(dir)? {
        let mut options = OpenOptions::new();
        let file = options.read(true).custom_flags(libc::O_DIRECT).open(entry?.path())?;
        let mut at = 0;
        loop {
            match file.read_at(&mut buffer, at)? {
                0 => break,
                read => at += read as u64,
            }
        }
        total += at;
    }
    Ok(total)
}
