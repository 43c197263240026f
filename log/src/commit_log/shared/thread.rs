//! The log's own thread, which sees to what no other thread waits for: entries of futures, those
//! whose futures were dropped, and what is due by time.
//!
//! It drives as soon as a future asks. Entries that nobody waits for have time: they go with what
//! is appended next.

use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::commit_log::shared::{Driven, Shared, State};
use crate::id::{Index, Micros};

/// How long entries that nobody waits for may stay open: whoever appends many and waits for the
/// last of them shall find them in its write.
const LINGER: Duration = Duration::from_millis(1);
/// How long after an append the next one may come and still count as following it, and how long a
/// write waits for them in all: less than it takes.
const GATHER_PAUSE: Duration = Duration::from_micros(3);
const GATHER_MAX: Duration = Duration::from_micros(100);
/// How long the log's thread sleeps at most: a deadline of the log is never further away.
const REST_MAX: Duration = Duration::from_millis(250);
/// And at least: no deadline is finer than that.
const REST_MIN: Duration = Duration::from_millis(1);

impl Shared {
    /// Somebody must drive for whoever does not wait. Who was told so and has not looked yet is not
    /// told again.
    pub(crate) fn kick(&self, state: &mut State) {
        if !std::mem::replace(&mut state.kicked, true) {
            self.rest.notify_one();
        }
    }

    /// Nobody waits for `entry`, which is to become durable all the same: at once if somebody waits
    /// for another or follows, else soon.
    pub(crate) fn leave(&self, state: &mut State, entry: Index) {
        state.left = state.left.max(entry);
        if state.has_sleepers() || !state.followers.is_empty() {
            self.kick(state);
        } else if !std::mem::replace(&mut state.lingers, true) {
            self.rest.notify_one();
        }
    }

    /// The log's own thread.
    pub(crate) fn run(&self) {
        let mut state = self.state();
        loop {
            state.log.on_tick(self.now());
            if state.closing && !state.is_unfinished() {
                state.log.record_durable();
            }
            let is_wanted = state.kicked || state.closing || state.log.has_ops();
            state.kicked = false;
            if is_wanted
                && state.is_drivable()
                && let Some(mut disk) = self.try_disk()
                && let Some(open) = disk.as_mut()
            {
                drop(state);
                state = self.drive(open);
                drop(disk);
                self.pass_on(&mut state);
                continue;
            }
            let is_stuck = state.log.poisoned().is_some() || Shared::room(&state).is_err();
            if state.closing && (is_stuck || !state.is_unfinished()) {
                return;
            }
            if state.kicked {
                continue;
            }
            state = self.rest(state);
        }
    }

    /// Sleeps until something is due. What was left before and is still not durable is due then.
    pub(super) fn rest<'a>(&self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let left = state.left;
        let lingers = left > state.log.durable() && state.is_drivable();
        state.lingers = lingers;
        let rest = state.log.deadline().map_or(REST_MAX, |at| {
            Duration::from_micros(at.since(self.now()).0).clamp(REST_MIN, REST_MAX)
        });
        let rest = if lingers { rest.min(LINGER) } else { rest };
        let (mut state, slept) =
            self.rest.wait_timeout(state, rest).unwrap_or_else(PoisonError::into_inner);
        if lingers && slept.timed_out() && left > state.log.durable() {
            state.kicked = true;
        }
        state
    }

    /// Drives as long as there is something to do and no thread waits that could.
    pub(super) fn drive(&self, driven: &mut Driven) -> MutexGuard<'_, State> {
        loop {
            let begin = Instant::now();
            self.gather(|| {
                let pause = Instant::now();
                while pause.elapsed() < GATHER_PAUSE {
                    std::thread::yield_now();
                }
                begin.elapsed() < GATHER_MAX
            });
            self.turn(driven, true);
            let state = self.state();
            if !state.is_drivable() || state.has_sleepers() {
                return state;
            }
        }
    }

    /// Several futures that one write has made ready append again one after the other, and the
    /// first of them asks at once. The next write waits as long as others follow, so that all go
    /// with it and do not take turns with two writes; a future that is alone never waits. `pause`
    /// gives them time, and is false when that was enough.
    pub(super) fn gather(&self, mut pause: impl FnMut() -> bool) {
        let mut state = self.state();
        let mut seen = state.log.open_entries();
        while state.answered > 1 && (seen as usize) < state.answered {
            drop(state);
            let goes_on = pause();
            state = self.state();
            if !goes_on || state.log.open_entries() == seen {
                return;
            }
            seen = state.log.open_entries();
        }
    }

    fn now(&self) -> Micros {
        Micros(u64::try_from(self.begin.elapsed().as_micros()).unwrap_or(u64::MAX))
    }
}
