//! What a reader fetches from the files: pieces of adjacent batches, and for a reader that goes on
//! from piece to piece the next ones while it looks at the last, on a thread of its own.
//!
//! What is fetched is decided by the reader, which also checks it. A thread that nobody waits for
//! any more ends after the read it is at.
//!
//! Invariants: answers come in the order of the requests; a buffer belongs to the thread from the
//! request to its answer.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use crate::buffer::Buffer;
use crate::commit_log::shared::Shared;
use crate::disk::DiskError;
use crate::id::{Index, Position, SegmentNumber};
use crate::log::Log;
use crate::segment::BatchRef;

/// Pieces that are asked for at a time. With the one that is looked at, a long reader has three.
const DEPTH: usize = 2;
/// Readers of one log that are read ahead for, at most: each has a thread. The others read on
/// their own.
const THREADS_MAX: usize = 8;

/// Batches of one segment, to be read at once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Plan {
    pub(crate) segment: SegmentNumber,
    /// One behind the other; never none.
    pub(crate) batches: Vec<BatchRef>,
}

impl Plan {
    /// The blocks they lie in: offset and length.
    pub(crate) fn span(&self) -> (u64, u64) {
        let offset = self.batches[0].span().0;
        let ends = self.batches.iter().map(|batch| batch.span()).map(|(at, length)| at + length);
        (offset, ends.max().map_or(0, |end| end - offset))
    }

    /// Which of them has the entry at `index`.
    pub(crate) fn at(&self, index: Index) -> Option<usize> {
        let at = self.batches.partition_point(|batch| batch.last < index);
        self.batches.get(at).is_some_and(|batch| batch.holds(index)).then_some(at)
    }

    fn end(&self) -> Index {
        self.batches.last().map_or(Index::ZERO, |batch| batch.last)
    }
}

/// The bytes of a plan.
pub(crate) struct Piece {
    pub(crate) buffer: Buffer,
    pub(crate) plan: Plan,
    /// Which of the batches is looked at.
    pub(crate) at: usize,
}

impl Piece {
    /// What lies where a batch begins, and all behind.
    pub(crate) fn bytes(&self, batch: &BatchRef) -> &[u8] {
        &self.buffer[(batch.offset - self.plan.span().0) as usize..]
    }
}

/// How many threads read ahead in a log.
#[derive(Debug, Default)]
pub(crate) struct Threads(AtomicUsize);

/// Of one of them; it keeps what is read open.
struct Permit(Arc<Shared>);

impl Permit {
    fn take(shared: &Arc<Shared>) -> Option<Permit> {
        let more = |threads: usize| (threads < THREADS_MAX).then_some(threads + 1);
        let Threads(count) = &shared.threads;
        count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Permit(Arc::clone(shared)))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Threads(count) = &self.0.threads;
        count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// See the module.
pub(crate) struct ReadAhead {
    requests: Sender<(Position, Buffer)>,
    /// Nobody shares it; a reader as a whole can be shared this way.
    answers: Mutex<Receiver<(Buffer, Result<(), DiskError>)>>,
    /// In the order in which they were asked for.
    asked: VecDeque<Plan>,
    spares: Vec<Buffer>,
}

impl ReadAhead {
    /// Starts the thread. `None` where there are many already, or can be none.
    pub(crate) fn start(shared: &Arc<Shared>) -> Option<ReadAhead> {
        let permit = Permit::take(shared)?;
        let (requests, work) = channel::<(Position, Buffer)>();
        let (answer, answers) = channel();
        let run = move || {
            let Permit(shared) = &permit;
            for (position, mut buffer) in work {
                let result = shared.files.read(position, &mut buffer);
                if answer.send((buffer, result)).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("log-read".to_owned()).spawn(run).ok()?;
        let (answers, asked) = (Mutex::new(answers), VecDeque::new());
        Some(ReadAhead { requests, answers, asked, spares: Vec::new() })
    }

    /// Whether what was asked for first, if anything, has the entry at `index` and is still what
    /// `log` lists.
    pub(crate) fn fits(&self, index: Index, log: &Log) -> bool {
        self.asked.front().is_none_or(|plan| plan.at(index).is_some() && log.lists(plan))
    }

    /// The plan that was asked for first, to be waited for.
    pub(crate) fn next(&mut self) -> Option<Plan> {
        self.asked.pop_front()
    }

    /// Waits for the plan that [`ReadAhead::next`] has given. `None` if it could not be read.
    pub(crate) fn wait(&mut self, plan: Plan) -> Option<Piece> {
        let answers = self.answers.get_mut().unwrap_or_else(PoisonError::into_inner);
        let (buffer, result) = answers.recv().ok()?;
        result.ok()?;
        Some(Piece { buffer, plan, at: 0 })
    }

    /// Asks for what `log` has behind `index`, and behind that what is asked for already, up to
    /// `last`: pieces of `window` bytes. What is in memory is not asked for.
    pub(crate) fn ask(&mut self, log: &Log, index: Index, last: Index, window: u64) {
        let mut behind = self.asked.back().map_or(index, Plan::end);
        while self.asked.len() < DEPTH {
            let next = behind.next();
            let may_be = next <= last && next <= log.durable() && next >= log.first();
            if !may_be || log.cached(next).is_some() {
                return;
            }
            let plan = log.plan(next, window);
            behind = plan.end();
            let (offset, length) = plan.span();
            let buffer = self.buffer(length, window);
            let position = Position { segment: plan.segment, offset };
            if self.requests.send((position, buffer)).is_err() {
                return;
            }
            self.asked.push_back(plan);
        }
    }

    /// Keeps a buffer for the next piece.
    pub(crate) fn recycle(&mut self, buffer: Buffer) {
        if self.spares.len() < DEPTH {
            self.spares.push(buffer);
        }
    }

    fn buffer(&mut self, length: u64, window: u64) -> Buffer {
        let spare = self.spares.pop().filter(|spare| spare.capacity() as u64 >= length);
        let mut buffer = spare.unwrap_or_else(|| Buffer::zeroed(length.max(window) as usize));
        buffer.set_length(length as usize);
        buffer
    }
}
