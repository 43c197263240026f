//! Many appends as futures, all polled by one thread that sleeps when none is ready: what a program
//! with an executor of one thread does, without the executor.

use std::io;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use crate::log::{Append, Appender, Row};
use crate::report::Recorder;

/// Whose turn it is, and who takes them.
struct Ready {
    tasks: Mutex<Vec<usize>>,
    thread: Thread,
}

/// Wakes one of them.
struct Task {
    number: usize,
    ready: Arc<Ready>,
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let mut tasks = self.ready.tasks.lock().expect("nobody panics with it");
        tasks.push(self.number);
        let is_first = tasks.len() == 1;
        drop(tasks);
        if is_first {
            self.ready.thread.unpark();
        }
    }
}

/// `count` tasks append again and again, each when its last entry is durable: for `time`, or until
/// `budget` are done.
pub(super) fn run(
    log: &dyn Appender,
    row: &Row,
    count: usize,
    time: Duration,
    budget: u64,
) -> io::Result<Recorder> {
    let entries = row.entries();
    let thread = std::thread::current();
    let ready = Arc::new(Ready { tasks: Mutex::new((0..count).collect()), thread });
    let wakers: Vec<Waker> = (0..count)
        .map(|number| Waker::from(Arc::new(Task { number, ready: Arc::clone(&ready) })))
        .collect();
    let mut appends: Vec<Option<(Instant, Append<'_>)>> = (0..count).map(|_| None).collect();
    let mut is_done = vec![false; count];
    let mut recorder = Recorder::new();
    let (begin, mut left) = (Instant::now(), count);
    let mut turn = Vec::new();
    while left > 0 {
        std::mem::swap(&mut turn, &mut *ready.tasks.lock().expect("nobody panics with it"));
        if turn.is_empty() {
            std::thread::park();
        }
        for task in turn.drain(..) {
            let mut context = Context::from_waker(&wakers[task]);
            // Who is woken once too often after its last append has nothing to do.
            while !is_done[task] {
                let (start, append) =
                    appends[task].get_or_insert_with(|| (Instant::now(), log.begin(&entries)));
                let Poll::Ready(result) = append.as_mut().poll(&mut context) else { break };
                result?;
                recorder.operation(start.elapsed());
                appends[task] = None;
                is_done[task] = begin.elapsed() >= time || recorder.ops() >= budget;
                left -= usize::from(is_done[task]);
            }
        }
    }
    Ok(recorder)
}
