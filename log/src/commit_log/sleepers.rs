//! Threads that wait for an entry to become durable. Each sleeps by itself and is woken for its own
//! entry, so that what becomes durable wakes nobody else; or it is woken to look after the log.
//!
//! Invariant: whoever is taken out of the list is woken, once.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::Thread;

use crate::id::Index;

const ASLEEP: u8 = 0;
const DURABLE: u8 = 1;
const LOOK: u8 = 2;

/// A thread, and what it was woken for.
#[derive(Debug)]
pub(crate) struct Sleeper {
    thread: Thread,
    word: AtomicU8,
}

thread_local! {
    /// Each thread waits for one thing at a time.
    static OWN: Arc<Sleeper> = Arc::new(Sleeper::current());
}

impl Sleeper {
    fn current() -> Sleeper {
        Sleeper { thread: std::thread::current(), word: AtomicU8::new(ASLEEP) }
    }

    /// Sleeps until somebody wakes this thread. True if its entry is durable, false if it must look
    /// for itself.
    pub(crate) fn sleep(&self) -> bool {
        loop {
            match self.word.load(Ordering::Acquire) {
                // It may return for no reason, or for one of somebody else's.
                ASLEEP => std::thread::park(),
                word => return word == DURABLE,
            }
        }
    }

    fn wake(&self, word: u8) {
        self.word.store(word, Ordering::Release);
        self.thread.unpark();
    }
}

/// Those who sleep, in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct Sleepers {
    list: VecDeque<(Index, Arc<Sleeper>)>,
}

impl Sleepers {
    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Adds the calling thread, which then sleeps: without the lock.
    pub(crate) fn add(&mut self, index: Index) -> Arc<Sleeper> {
        let own = OWN.try_with(Arc::clone).unwrap_or_else(|_| Arc::new(Sleeper::current()));
        own.word.store(ASLEEP, Ordering::Relaxed);
        self.list.push_back((index, Arc::clone(&own)));
        own
    }

    /// Takes out those whose entries are durable, to be woken without the lock.
    pub(crate) fn take_durable(&mut self, durable: Index, due: &mut Vec<Arc<Sleeper>>) {
        self.list.retain(|(index, sleeper)| {
            let is_due = *index <= durable;
            if is_due {
                due.push(Arc::clone(sleeper));
            }
            !is_due
        });
    }

    /// Wakes the one that sleeps for longest, to look.
    pub(crate) fn wake_one(&mut self) {
        if let Some((_, sleeper)) = self.list.pop_front() {
            sleeper.wake(LOOK);
        }
    }

    /// Wakes everybody, to look.
    pub(crate) fn wake_all(&mut self) {
        self.list.drain(..).for_each(|(_, sleeper)| sleeper.wake(LOOK));
    }
}

/// Wakes those who were taken out.
pub(crate) fn wake(due: &mut Vec<Arc<Sleeper>>) {
    due.drain(..).for_each(|sleeper| sleeper.wake(DURABLE));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_woken_for_its_own_entry() {
        let mut sleepers = Sleepers::default();
        let (sent, added) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            for index in [3, 1, 2] {
                let sent = sent.clone();
                scope.spawn(move || {
                    let mut own = Sleepers::default();
                    let sleeper = own.add(Index(index));
                    sent.send((index, own.list.pop_front().expect("just added"))).expect("taken");
                    assert_eq!(sleeper.sleep(), index <= 2, "entry {index}");
                });
            }
            sleepers.list.extend((0..3).map(|_| added.recv().expect("sent").1));
            let mut due = Vec::new();
            sleepers.take_durable(Index(2), &mut due);
            assert_eq!((due.len(), sleepers.list.len()), (2, 1));
            wake(&mut due);
            sleepers.wake_one();
            assert!(sleepers.is_empty());
        });
    }
}
