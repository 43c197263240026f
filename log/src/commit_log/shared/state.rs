//! What all handles of a log have in common, under one lock: the log, who waits for what of it, and
//! what is under way.
//!
//! Whom something concerns is found here; woken they are without the lock, by whoever drives. No
//! I/O happens here.
//!
//! Invariant: whoever is taken out of a list is woken.

use std::ops::RangeInclusive;
use std::task::Waker;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::commit_log::cuts::Cuts;
use crate::commit_log::options::Retention;
use crate::commit_log::shared::LARGE_BYTES;
use crate::commit_log::sleepers::Sleepers;
use crate::commit_log::space::Spacer;
use crate::disk::{DiskError, Done};
use crate::error::Error;
use crate::id::{Index, SegmentNumber, Term, Ticket};
use crate::log::Log;

/// Every batch of a log used alone has this term, unless somebody else has begun it in a later one.
const TERM: Term = Term(1);

/// See the module.
pub(crate) struct State {
    pub(crate) log: Log,
    pub(crate) spacer: Spacer,
    /// Operations given to the disk and not done.
    pub(super) disk_under_way: usize,
    pub(super) writes_under_way: usize,
    /// Operations given to the spacer and not done.
    pub(super) space_under_way: usize,
    /// Threads that sleep until there is progress.
    pub(super) sleeping: usize,
    /// Threads that sleep until an entry is durable.
    pub(super) sleepers: Sleepers,
    /// Of futures, by the entry that each waits for.
    pub(super) wakers: Vec<(Index, Waker)>,
    meta_wakers: Vec<(Ticket, Waker)>,
    /// Of followers that wait, by their numbers: one each.
    pub(super) followers: Vec<(u64, Waker)>,
    followers_made: u64,
    pub(crate) meta_durable: Ticket,
    /// Somebody has entries or futures that only the thread can see to.
    pub(super) kicked: bool,
    /// The last entry that nobody waits for any more.
    pub(super) left: Index,
    /// The log's thread will look after what is left by itself, or was told to.
    pub(super) lingers: bool,
    /// Futures that the last write has made ready.
    pub(super) answered: usize,
    pub(crate) closing: bool,
    pub(crate) is_closed: bool,
    /// How often a suffix was cut off. Before each time, all there was had become durable.
    pub(crate) generation: u64,
    /// Numbered as [`Shared::cuts`](super::Shared::cuts) counts.
    pub(crate) cuts: Cuts,
    pub(crate) retention: Retention,
    /// What became of the segment that compaction has rewritten last.
    pub(crate) rewritten: Option<(SegmentNumber, Result<(), DiskError>)>,
}

impl State {
    pub(super) fn new(log: Log, retention: Retention) -> State {
        State {
            log,
            spacer: Spacer::default(),
            disk_under_way: 0,
            writes_under_way: 0,
            space_under_way: 0,
            sleeping: 0,
            sleepers: Sleepers::default(),
            wakers: Vec::new(),
            meta_wakers: Vec::new(),
            followers: Vec::new(),
            followers_made: 0,
            meta_durable: Ticket(0),
            kicked: false,
            left: Index::ZERO,
            lingers: false,
            answered: 0,
            closing: false,
            is_closed: false,
            generation: 0,
            cuts: Cuts::default(),
            retention,
            rewritten: None,
        }
    }

    /// Whether a driver finds something to do.
    pub(super) fn is_drivable(&self) -> bool {
        let is_stopped = self.log.poisoned().is_some();
        let can_seal = self.log.open_entries() > 0 && self.log.has_room_for_open() && !is_stopped;
        self.disk_under_way > 0 || self.log.has_ops() || can_seal
    }

    /// Whether something is not durable that may become so.
    pub(super) fn is_unfinished(&self) -> bool {
        let is_stopped = self.log.poisoned().is_some();
        let waits = self.log.open_entries() > 0 || self.log.durable() < self.last();
        self.disk_under_way > 0 || self.log.has_ops() || (waits && !is_stopped)
    }

    fn last(&self) -> Index {
        self.log.last().index
    }

    /// The entries of the open batch.
    pub(crate) fn open(&self) -> RangeInclusive<Index> {
        let last = self.last();
        last.next()..=Index(last.0 + u64::from(self.log.open_entries()))
    }

    /// Why nothing can be appended any more, if that is so.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.closing {
            return Err(Error::Closed);
        }
        match self.log.poisoned() {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    /// Seals the open batch if its time has come.
    pub(super) fn seal(&mut self) {
        let waits = self.writes_under_way > 0 && self.log.open_bytes() < LARGE_BYTES;
        if self.log.open_entries() > 0 && !waits {
            self.seal_now();
        }
    }

    /// Seals the open batch. Where there is no space it stays open; where the log has stopped, too:
    /// whoever waits is told.
    pub(crate) fn seal_now(&mut self) {
        let (term, time) = (self.log.last().term, self.log.log_time());
        let _ = self.log.seal(term.max(TERM), time.max(wall_clock()));
    }

    /// Registers a future's waker: woken when `index` is durable or never will be.
    pub(crate) fn wake_at(&mut self, index: Index, waker: &Waker) {
        let end = self.wakers.partition_point(|(at, _)| *at <= index);
        let mut of_it = self.wakers[..end].iter().rev().take_while(|(at, _)| *at == index);
        if !of_it.any(|(_, other)| other.will_wake(waker)) {
            self.wakers.insert(end, (index, waker.clone()));
        }
    }

    /// Takes out those whose entries are durable.
    pub(super) fn take_wakers(&mut self, durable: Index, due: &mut Vec<Waker>) {
        self.answered = self.wakers.partition_point(|(at, _)| *at <= durable);
        due.extend(self.wakers.drain(..self.answered).map(|(_, waker)| waker));
    }

    pub(crate) fn wake_at_meta(&mut self, ticket: Ticket, waker: &Waker) {
        let mut of_it = self.meta_wakers.iter().filter(|(at, _)| *at == ticket);
        if !of_it.any(|(_, other)| other.will_wake(waker)) {
            self.meta_wakers.push((ticket, waker.clone()));
        }
    }

    /// The number of a new follower.
    pub(crate) fn number_follower(&mut self) -> u64 {
        self.followers_made += 1;
        self.followers_made
    }

    /// Registers a follower's waker: woken by the next progress. Gives back the one it had before,
    /// to be dropped without the lock: a task may go with it.
    pub(crate) fn wake_follower(&mut self, follower: u64, waker: &Waker) -> Option<Waker> {
        match self.followers.iter_mut().find(|(number, _)| *number == follower) {
            Some((_, former)) if former.will_wake(waker) => None,
            Some((_, former)) => Some(std::mem::replace(former, waker.clone())),
            None => {
                self.followers.push((follower, waker.clone()));
                None
            }
        }
    }

    /// The follower waits no more. Its waker is to be dropped without the lock.
    pub(crate) fn forget_follower(&mut self, follower: u64) -> Option<Waker> {
        let at = self.followers.iter().position(|(number, _)| *number == follower)?;
        Some(self.followers.swap_remove(at).1)
    }

    pub(super) fn take_followers(&mut self, due: &mut Vec<Waker>) {
        due.extend(self.followers.drain(..).map(|(_, waker)| waker));
    }

    /// With change `number` everything behind `after` was cut off. Who waits for more is to look.
    pub(super) fn on_cut(&mut self, number: u64, after: Index, due: &mut Vec<Waker>) {
        self.generation += 1;
        self.cuts.note(number, after);
        self.sleepers.wake_all();
        self.take_followers(due);
    }

    pub(super) fn has_sleepers(&self) -> bool {
        self.sleeping > 0 || !self.sleepers.is_empty()
    }

    /// Wakes the threads, and takes out the wakers of all futures: an executor may poll within
    /// `wake`, which takes the lock.
    pub(super) fn wake_all(&mut self, due: &mut Vec<Waker>) {
        self.sleepers.wake_all();
        due.extend(self.wakers.drain(..).map(|(_, waker)| waker));
        due.extend(self.meta_wakers.drain(..).map(|(_, waker)| waker));
        self.take_followers(due);
    }

    /// Takes the end of an operation into account. Futures that it concerns are to be woken.
    pub(super) fn on_done(&mut self, done: Done, due: &mut Vec<Waker>) {
        match done {
            Done::Prepared { .. } | Done::Retired { .. } | Done::Rewritten { .. } => {
                self.space_under_way -= 1;
            }
            Done::Write { .. } => {
                self.disk_under_way -= 1;
                self.writes_under_way -= 1;
            }
            Done::Read { .. }
            | Done::HardState { .. }
            | Done::Mend { .. }
            | Done::Snapshot { .. } => {
                self.disk_under_way -= 1;
            }
        }
        let Ok(progress) = self.log.on_done(done) else {
            self.wake_all(due);
            return;
        };
        if let Some(ticket) = progress.meta {
            self.meta_durable = self.meta_durable.max(ticket);
            let meta = self.meta_wakers.extract_if(.., |(at, _)| *at <= ticket);
            due.extend(meta.map(|(_, waker)| waker));
        }
        if let Some(durable) = progress.durable {
            self.take_wakers(durable, due);
            self.take_followers(due);
        }
    }
}

/// Microseconds since 1970.
pub(crate) fn wall_clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
