//! What is to happen, in order of time; of equal times, in order of being scheduled.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use margay_log::id::Micros;

/// A queue of events. The heap holds places, for events are large.
#[derive(Debug)]
pub(super) struct Queue<E> {
    heap: BinaryHeap<Reverse<(Micros, u64, usize)>>,
    events: Vec<Option<E>>,
    free: Vec<usize>,
    scheduled: u64,
}

impl<E> Queue<E> {
    pub(super) fn new() -> Queue<E> {
        Queue { heap: BinaryHeap::new(), events: Vec::new(), free: Vec::new(), scheduled: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }

    pub(super) fn push(&mut self, at: Micros, event: E) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            self.events.len() - 1
        });
        self.events[place] = Some(event);
        self.scheduled += 1;
        self.heap.push(Reverse((at, self.scheduled, place)));
    }

    pub(super) fn pop(&mut self) -> Option<(Micros, E)> {
        let Reverse((at, _, place)) = self.heap.pop()?;
        self.free.push(place);
        let event = self.events[place].take().expect("a place in the heap holds an event");
        Some((at, event))
    }
}
