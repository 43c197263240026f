//! The operations of one session that have no answer yet: a slab, so that finding one costs the
//! same however many there are.
//!
//! A slot is given out again only when the end of its call has been taken by the caller: until then
//! the caller may keep what belongs to the call under [`CallId::slot`].

use margay_log::id::Micros;

use crate::machine::{Level, ResourceId, Sequence};

/// Names an operation until its end has been reported; never used twice by one session.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CallId(pub u64);

impl CallId {
    fn new(slot: u32, generation: u32) -> CallId {
        CallId(u64::from(generation) << 32 | u64::from(slot))
    }

    /// A small number that no other call has until the end of this one has been taken: an index for
    /// arrays.
    #[must_use]
    pub fn slot(self) -> usize {
        (self.0 & 0xffff_ffff) as usize
    }

    fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// What a command or query carries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Operation {
    pub(super) kind: u8,
    pub(super) schema: u16,
    pub(super) resource: ResourceId,
    pub(super) payload: Vec<u8>,
}

/// How far a call has come.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Work {
    /// No call.
    Free,
    /// Over; the caller has not taken its end yet.
    Finished,
    /// Never sent, so it has no sequence.
    Command(Operation),
    /// In the stream of commands.
    Sent(Sequence),
    /// Asked again on every new connection; `order` tells the order of asking.
    Query { level: Level, operation: Operation, order: u64, sent: bool },
    /// Waits for its first confirmation.
    Subscribe,
    /// Asked again on every new connection.
    Status { sent: bool },
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    submitted: Micros,
    deadline: Micros,
    work: Work,
}

/// The deadline of a call that has none.
pub const NEVER: Micros = Micros(u64::MAX);

/// All calls of a session.
#[derive(Debug, Default)]
pub(super) struct Calls {
    slots: Vec<Slot>,
    free: Vec<u32>,
    open: usize,
    /// No deadline is earlier; the exact one is found when this has passed.
    earliest: Option<Micros>,
}

impl Calls {
    /// Calls that are not over.
    pub(super) fn open(&self) -> usize {
        self.open
    }

    /// Begins a call.
    pub(super) fn begin(&mut self, now: Micros, deadline: Micros, work: Work) -> CallId {
        self.open += 1;
        self.earliest = Some(self.earliest.map_or(deadline, |earliest| earliest.min(deadline)));
        if let Some(slot) = self.free.pop() {
            let place = &mut self.slots[slot as usize];
            debug_assert_eq!(place.work, Work::Free);
            (place.submitted, place.deadline, place.work) = (now, deadline, work);
            return CallId::new(slot, place.generation);
        }
        let slot = u32::try_from(self.slots.len()).expect("fewer calls than 2^32");
        self.slots.push(Slot { generation: 1, submitted: now, deadline, work });
        CallId::new(slot, 1)
    }

    /// What an open call is at.
    pub(super) fn work(&mut self, call: CallId) -> Option<&mut Work> {
        let slot = self.slots.get_mut(call.slot())?;
        let open = slot.generation == call.generation()
            && !matches!(slot.work, Work::Free | Work::Finished);
        open.then_some(&mut slot.work)
    }

    /// When an open or finished call was begun.
    pub(super) fn submitted(&self, call: CallId) -> Micros {
        self.slots[call.slot()].submitted
    }

    /// Ends a call and returns what it was at; `None` if it had ended before.
    pub(super) fn finish(&mut self, call: CallId) -> Option<Work> {
        let work = std::mem::replace(self.work(call)?, Work::Finished);
        self.open -= 1;
        Some(work)
    }

    /// The caller has taken the end of a finished call.
    pub(super) fn release(&mut self, call: CallId) {
        let slot = &mut self.slots[call.slot()];
        assert_eq!((slot.generation, &slot.work), (call.generation(), &Work::Finished));
        slot.work = Work::Free;
        slot.generation = slot.generation.wrapping_add(1).max(1);
        self.free.push(call.slot() as u32);
    }

    /// No open call is due before this.
    pub(super) fn deadline(&self) -> Option<Micros> {
        self.earliest.filter(|at| self.open > 0 && *at < NEVER)
    }

    /// Appends the open calls whose deadline has passed. Looks at all calls only when the earliest
    /// deadline known has passed, so with deadlines of seconds it costs nothing per call.
    pub(super) fn overdue(&mut self, now: Micros, out: &mut Vec<CallId>) {
        if self.earliest.is_none_or(|earliest| earliest > now) {
            return;
        }
        self.earliest = None;
        for (number, slot) in self.slots.iter().enumerate() {
            if matches!(slot.work, Work::Free | Work::Finished) {
                continue;
            }
            if slot.deadline <= now {
                out.push(CallId::new(number as u32, slot.generation));
            } else {
                let earliest = self.earliest.map_or(slot.deadline, |at| at.min(slot.deadline));
                self.earliest = Some(earliest);
            }
        }
    }

    /// Appends the open calls for which `wanted` says so.
    pub(super) fn select(&mut self, out: &mut Vec<CallId>, wanted: impl Fn(&mut Work) -> bool) {
        for (number, slot) in self.slots.iter_mut().enumerate() {
            if !matches!(slot.work, Work::Free | Work::Finished) && wanted(&mut slot.work) {
                out.push(CallId::new(number as u32, slot.generation));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_not_given_out_before_its_end_is_taken() {
        let mut calls = Calls::default();
        let first = calls.begin(Micros(0), Micros(10), Work::Subscribe);
        assert_eq!(calls.finish(first), Some(Work::Subscribe));
        assert_eq!(calls.finish(first), None, "once");
        let second = calls.begin(Micros(0), Micros(10), Work::Subscribe);
        assert_ne!(first.slot(), second.slot());
        calls.release(first);
        let third = calls.begin(Micros(0), Micros(10), Work::Subscribe);
        assert_eq!(first.slot(), third.slot());
        assert_ne!(first, third);
        assert!(calls.work(first).is_none());
        assert_eq!(calls.open(), 2);
    }

    #[test]
    fn overdue_calls_are_found_and_the_next_deadline_is_right() {
        let mut calls = Calls::default();
        let late = calls.begin(Micros(0), Micros(30), Work::Subscribe);
        let early = calls.begin(Micros(0), Micros(10), Work::Subscribe);
        let mut due = Vec::new();
        calls.overdue(Micros(9), &mut due);
        assert!(due.is_empty());
        calls.overdue(Micros(10), &mut due);
        assert_eq!(due, [early]);
        calls.finish(early);
        assert_eq!(calls.deadline(), Some(Micros(30)));
        due.clear();
        calls.overdue(Micros(31), &mut due);
        assert_eq!(due, [late]);
    }
}
