//! Threads that wait for an entry to become durable. Those whose entries lie in one batch sleep
//! together and are woken by one call; who waits for another batch sleeps on. Or one is woken to
//! look after the log.
//!
//! Invariants: the entries of a crew become durable together; whoever is counted out of the list is
//! woken, once.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::id::Index;

/// Crews without threads that are kept for the next batches.
const IDLE_MAX: usize = 8;

/// Threads that sleep together.
#[derive(Debug, Default)]
pub(crate) struct Crew {
    word: Mutex<Word>,
    called: Condvar,
}

/// What they are woken for.
#[derive(Debug, Default)]
struct Word {
    is_durable: bool,
    /// So many of them, whoever they are, are to look.
    looks: usize,
}

impl Crew {
    /// Sleeps until this thread is woken. True if its entry is durable, false if it must look for
    /// itself.
    pub(crate) fn sleep(&self) -> bool {
        let mut word = self.word();
        loop {
            if word.looks > 0 {
                word.looks -= 1;
                return false;
            }
            if word.is_durable {
                return true;
            }
            word = self.called.wait(word).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn wake(&self) {
        self.word().is_durable = true;
        self.called.notify_all();
    }

    fn look(&self, threads: usize) {
        self.word().looks += threads;
        match threads {
            1 => self.called.notify_one(),
            _ => self.called.notify_all(),
        }
    }

    fn word(&self) -> MutexGuard<'_, Word> {
        self.word.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A crew in the list.
#[derive(Debug)]
struct Asleep {
    /// What they wait for lies in here: in one batch, or it is one entry.
    entries: RangeInclusive<Index>,
    threads: usize,
    crew: Arc<Crew>,
}

/// Those who sleep, in the order in which their crews came.
#[derive(Debug, Default)]
pub(crate) struct Sleepers {
    list: VecDeque<Asleep>,
    /// Kept for their memory; threads that are just waking up may still have them.
    idle: Vec<Arc<Crew>>,
}

impl Sleepers {
    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Adds the calling thread, which then sleeps: without the lock. `open` are the entries of the
    /// open batch.
    pub(crate) fn add(&mut self, index: Index, open: &RangeInclusive<Index>) -> Arc<Crew> {
        let is_open = open.contains(&index);
        let joins = |asleep: &&mut Asleep| {
            let (first, last) = (asleep.entries.start(), asleep.entries.end());
            let both_open = is_open && open.contains(first) && open.contains(last);
            both_open || asleep.entries.contains(&index)
        };
        if let Some(asleep) = self.list.iter_mut().rev().find(joins) {
            let (first, last) = (*asleep.entries.start(), *asleep.entries.end());
            asleep.entries = first.min(index)..=last.max(index);
            asleep.threads += 1;
            return Arc::clone(&asleep.crew);
        }
        let crew = self.crew();
        self.list.push_back(Asleep { entries: index..=index, threads: 1, crew: Arc::clone(&crew) });
        crew
    }

    /// One that nobody has any more, or a new one.
    fn crew(&mut self) -> Arc<Crew> {
        for at in 0..self.idle.len() {
            if let Some(crew) = Arc::get_mut(&mut self.idle[at]) {
                *crew.word.get_mut().unwrap_or_else(PoisonError::into_inner) = Word::default();
                return self.idle.swap_remove(at);
            }
        }
        Arc::default()
    }

    /// Takes out those whose entries are durable, to be woken without the lock.
    pub(crate) fn take_durable(&mut self, durable: Index, due: &mut Vec<Arc<Crew>>) {
        let Sleepers { list, idle } = self;
        list.retain(|asleep| {
            let is_due = *asleep.entries.end() <= durable;
            if is_due {
                due.push(Arc::clone(&asleep.crew));
                keep(idle, &asleep.crew);
            }
            !is_due
        });
    }

    /// Wakes one of those who came first, to look.
    pub(crate) fn wake_one(&mut self) {
        let Some(first) = self.list.front_mut() else { return };
        first.threads -= 1;
        first.crew.look(1);
        if first.threads == 0 {
            keep(&mut self.idle, &first.crew);
            self.list.pop_front();
        }
    }

    /// Wakes everybody, to look.
    pub(crate) fn wake_all(&mut self) {
        self.list.drain(..).for_each(|asleep| asleep.crew.look(asleep.threads));
    }
}

fn keep(idle: &mut Vec<Arc<Crew>>, crew: &Arc<Crew>) {
    if idle.len() < IDLE_MAX {
        idle.push(Arc::clone(crew));
    }
}

/// Wakes those who were taken out.
pub(crate) fn wake(due: &mut Vec<Arc<Crew>>) {
    due.drain(..).for_each(|crew| crew.wake());
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: RangeInclusive<Index> = Index(1)..=Index(0);

    /// Crews in the list, by the entries they wait for and their number.
    fn crews(sleepers: &Sleepers) -> Vec<(u64, u64, usize)> {
        let crews = sleepers.list.iter();
        crews.map(|one| (one.entries.start().0, one.entries.end().0, one.threads)).collect()
    }

    #[test]
    fn each_is_woken_for_its_own_batch() {
        let mut sleepers = Sleepers::default();
        let open = Index(1)..=Index(3);
        let mut due = Vec::new();
        std::thread::scope(|scope| {
            for index in [3, 1, 2, 1] {
                let crew = sleepers.add(Index(index), &open);
                scope.spawn(move || assert!(crew.sleep(), "entry {index}"));
            }
            let open = Index(4)..=Index(9);
            let later = sleepers.add(Index(8), &open);
            assert_eq!(crews(&sleepers), [(1, 3, 4), (8, 8, 1)]);
            let looks = scope.spawn(move || later.sleep());
            sleepers.take_durable(Index(2), &mut due);
            assert!(due.is_empty(), "the batch ends with 3");
            sleepers.take_durable(Index(7), &mut due);
            assert_eq!(due.len(), 1);
            wake(&mut due);
            sleepers.wake_one();
            assert!(!looks.join().expect("ends"), "woken to look");
            assert!(sleepers.is_empty());
        });
    }

    #[test]
    fn nobody_waits_for_an_entry_of_somebody_elses() {
        let mut sleepers = Sleepers::default();
        // A follower waits for what is not yet appended.
        sleepers.add(Index(11), &(Index(5)..=Index(10)));
        sleepers.add(Index(10), &(Index(5)..=Index(10)));
        assert_eq!(crews(&sleepers), [(11, 11, 1), (10, 10, 1)]);
        // 10 was sealed, 11 is open.
        sleepers.add(Index(12), &(Index(11)..=Index(12)));
        assert_eq!(crews(&sleepers), [(11, 12, 2), (10, 10, 1)]);
        // Of batches that were sealed before, only what must lie in the same one.
        sleepers.add(Index(11), &NONE);
        sleepers.add(Index(9), &NONE);
        assert_eq!(crews(&sleepers), [(11, 12, 3), (10, 10, 1), (9, 9, 1)]);
    }

    #[test]
    fn whoever_is_woken_to_look_looks_even_if_all_is_durable() {
        let mut sleepers = Sleepers::default();
        let open = Index(1)..=Index(2);
        let (one, two) = (sleepers.add(Index(1), &open), sleepers.add(Index(2), &open));
        sleepers.wake_one();
        assert_eq!(crews(&sleepers), [(1, 2, 1)]);
        let mut due = Vec::new();
        sleepers.take_durable(Index(2), &mut due);
        wake(&mut due);
        assert_eq!((one.sleep(), two.sleep()), (false, true));
    }

    #[test]
    fn a_crew_is_used_again_when_nobody_has_it() {
        let mut sleepers = Sleepers::default();
        let mut due = Vec::new();
        let first = sleepers.add(Index(1), &NONE);
        sleepers.take_durable(Index(1), &mut due);
        wake(&mut due);
        let second = sleepers.add(Index(2), &NONE);
        assert!(!Arc::ptr_eq(&first, &second), "somebody may still be asleep in it");
        assert!(first.sleep());
        let address = Arc::as_ptr(&first);
        drop(first);
        let third = sleepers.add(Index(3), &NONE);
        assert_eq!(Arc::as_ptr(&third), address);
        sleepers.take_durable(Index(3), &mut due);
        assert_eq!(due.len(), 2);
        wake(&mut due);
        assert!(third.sleep() && second.sleep());
    }
}
