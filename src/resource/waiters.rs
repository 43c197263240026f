//! The waiting list that everything shares that lets sessions wait their turn.
//!
//! First come, first served, in order of the commands that asked; who is moved to the front goes
//! before all others. A wait ends when its turn comes, when it is withdrawn, when its session ends,
//! or when its deadline in log time passes; a session names its waits by request numbers of its
//! own.

use super::handle::thaw_version;
use crate::machine::bytes::{self, Reader};
use crate::machine::clock::{Due, Timers};
use crate::machine::{Code, LogTime, SessionId};
use imbl::OrdMap;
use margay_log::breaks;
use margay_log::id::Index;
use std::cmp::Reverse;

/// Waiters of one resource, at most.
pub const WAITERS_MAX: usize = 10_000;

/// One who waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Waiter {
    /// Whose wait it is.
    pub session: SessionId,
    /// The session's own number for it.
    pub request: u64,
    /// How much it waits for, where that can differ; else 1.
    pub amount: u64,
    /// Until when.
    pub due: Option<LogTime>,
}

impl Waiter {
    /// Whether its wait is over though it is still in the list.
    #[must_use]
    pub fn is_due(&self, now: LogTime) -> bool {
        self.due.is_some_and(|due| due <= now)
    }
}

/// The list. A waiter is named by the index of the command that asked.
#[derive(Clone, Debug, Default)]
pub struct Waiters {
    queue: OrdMap<Index, Waiter>,
    requests: OrdMap<(SessionId, u64), Index>,
    deadlines: Timers<Index>,
    /// Those moved to the front, in order of their turns: the last one moved is the first.
    front: OrdMap<Reverse<Index>, Index>,
    /// The entry that moved a waiter to the front.
    moved: OrdMap<Index, Index>,
}

impl Waiters {
    /// Joins the end of the list. `index` must be above all in it.
    ///
    /// # Errors
    /// [`Code::ALREADY_HELD`] where the session has a wait with this request number,
    /// [`Code::TOO_MANY_WAITERS`] where the list is full.
    pub fn push(&mut self, index: Index, waiter: Waiter) -> Result<(), Code> {
        if self.find(waiter.session, waiter.request).is_some() {
            return Err(Code::ALREADY_HELD);
        }
        if self.queue.len() >= WAITERS_MAX {
            return Err(Code::TOO_MANY_WAITERS);
        }
        assert!(self.queue.get_max().is_none_or(|(last, _)| *last < index), "waits come in order");
        if let Some(at) = waiter.due {
            self.deadlines.schedule(Due { at, created: index }, index);
        }
        self.requests.insert((waiter.session, waiter.request), index);
        self.queue.insert(index, waiter);
        Ok(())
    }

    /// The one whose turn is next.
    #[must_use]
    pub fn first(&self) -> Option<(Index, Waiter)> {
        if breaks::HASH_ORDER.on() {
            use std::hash::BuildHasher;
            let order = std::hash::RandomState::new();
            return self.iter().min_by_key(|(index, _)| order.hash_one(index.0));
        }
        match self.front.get_min() {
            Some((_, index)) => Some((*index, self.queue[index])),
            None => self.queue.get_min().copied(),
        }
    }

    /// Moves one to the front, by the entry `by`. Returns whether it is there to be moved.
    pub fn move_to_front(&mut self, index: Index, by: Index) -> bool {
        if !self.queue.contains_key(&index) {
            return false;
        }
        self.forget_move(index);
        self.moved.insert(index, by);
        self.front.insert(Reverse(by), index);
        true
    }

    /// The entry that moved a waiter to the front, if one did.
    #[must_use]
    pub fn moved_by(&self, index: Index) -> Option<Index> {
        self.moved.get(&index).copied()
    }

    /// Those that were moved to the front, each with the entry that did.
    pub fn moved(&self) -> impl Iterator<Item = (Index, Index)> {
        self.moved.iter().map(|(index, by)| (*index, *by))
    }

    /// Whether this entry has moved one to the front.
    #[must_use]
    pub fn is_moved_by(&self, by: Index) -> bool {
        self.front.contains_key(&Reverse(by))
    }

    fn forget_move(&mut self, index: Index) {
        if let Some(by) = self.moved.remove(&index) {
            self.front.remove(&Reverse(by));
        }
    }

    /// Removes one.
    pub fn remove(&mut self, index: Index) -> Option<Waiter> {
        let waiter = self.queue.remove(&index)?;
        let named = self.requests.remove(&(waiter.session, waiter.request));
        assert_eq!(named, Some(index), "a request names the wait that has it");
        self.forget_move(index);
        if let Some(at) = waiter.due {
            self.deadlines.cancel(Due { at, created: index }, index);
        }
        Some(waiter)
    }

    /// Removes the next one whose deadline is at or before `now`, in order (deadline, creation).
    pub fn pop_due(&mut self, now: LogTime) -> Option<(Index, Waiter)> {
        let (_, index) = self.deadlines.pop_due(now)?;
        let waiter = self.remove(index).expect("a deadline belongs to a wait");
        Some((index, waiter))
    }

    /// The next deadline.
    #[must_use]
    pub fn next_timer(&self) -> Option<Due> {
        self.deadlines.first().map(|(due, _)| *due)
    }

    /// The wait with this request number.
    #[must_use]
    pub fn find(&self, session: SessionId, request: u64) -> Option<Index> {
        self.requests.get(&(session, request)).copied()
    }

    /// All waits of a session, in order of their request numbers.
    pub fn of_session(&self, session: SessionId) -> impl Iterator<Item = (Index, Waiter)> {
        self.requests
            .range((session, 0)..=(session, u64::MAX))
            .map(|(_, index)| (*index, self.queue[index]))
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, index: Index) -> Option<Waiter> {
        self.queue.get(&index).copied()
    }

    /// All of them, in order of their turns.
    pub fn iter(&self) -> impl Iterator<Item = (Index, Waiter)> {
        let front = self.front.values().map(|index| (*index, self.queue[index]));
        front.chain(self.iter_by_index().filter(|(index, _)| !self.moved.contains_key(index)))
    }

    /// All of them, in order of the commands that asked.
    pub fn iter_by_index(&self) -> impl Iterator<Item = (Index, Waiter)> {
        self.queue.iter().map(|(index, waiter)| (*index, *waiter))
    }

    /// How many there are, whether their deadlines have passed or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// How many there are whose deadline is after `now`.
    #[must_use]
    pub fn len_at(&self, now: LogTime) -> usize {
        self.queue.len() - self.deadlines.count_due(now)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Appends one as snapshots hold it.
    pub fn freeze(index: Index, waiter: &Waiter, out: &mut Vec<u8>) {
        bytes::put_u64(out, index.0);
        bytes::put_u64(out, waiter.session.0);
        bytes::put_u64(out, waiter.request);
        bytes::put_u64(out, waiter.amount);
        out.push(u8::from(waiter.due.is_some()));
        bytes::put_u64(out, waiter.due.unwrap_or_default().0);
    }

    /// Takes back what [`Waiters::freeze`] wrote; it must come after all in the list.
    ///
    /// # Errors
    /// [`Code::BAD_PAYLOAD`] and those of [`Waiters::push`].
    pub fn thaw(&mut self, reader: &mut Reader<'_>, applied: Index) -> Result<Waiter, Code> {
        let index = thaw_version(reader, applied)?;
        let (session, request) = (SessionId(reader.u64()?), reader.u64()?);
        let amount = reader.u64()?;
        let has_due = reader.u8()? != 0;
        let due = Some(LogTime(reader.u64()?)).filter(|_| has_due);
        if self.queue.get_max().is_some_and(|(last, _)| *last >= index) {
            return Err(Code::BAD_PAYLOAD);
        }
        let waiter = Waiter { session, request, amount, due };
        self.push(index, waiter)?;
        Ok(waiter)
    }
}
