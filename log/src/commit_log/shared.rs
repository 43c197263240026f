//! What all handles of a log share, and the turn in which its I/O is done.
//!
//! There is no thread between an append and the disk. Whoever waits for an entry takes the disk, if
//! nobody has it, and drives it until the entry is durable; everybody else waits for that one, and
//! their entries go into the next write together. The log's own thread, in `shared/thread.rs`, does
//! the same for futures, and for what is due while nobody is there.
//!
//! Threads whose entries went into one write are woken together, by one call, with the word that
//! they are durable, and return without asking. Nobody else is woken, but the one who goes on
//! driving.
//!
//! Two locks. `state` is held for as long as it takes to copy an entry or to account for what has
//! completed, never across I/O. `disk` is held by whoever drives, also while it sleeps in the
//! kernel. Whoever has `state` may only *try* to take `disk`.
//!
//! Invariant: while entries wait to become durable or operations are under way, somebody drives, or
//! has been woken to do so: whoever lets go of the disk looks once more, and wakes one who waits.
//! Where nobody waits, the log's thread looks by itself, soon.

mod state;
#[cfg(all(test, feature = "sim"))]
mod tests;
mod thread;

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::task::Waker;
use std::time::Instant;

use crate::commit_log::ahead::Threads;
use crate::commit_log::files::Files;
use crate::commit_log::options::Retention;
use crate::commit_log::read_only::Sight;
pub(crate) use crate::commit_log::shared::state::{State, wall_clock};
use crate::commit_log::sleepers::{Crew, wake};
use crate::disk::{Disk, Done, Op};
use crate::error::Error;
use crate::id::Index;
use crate::log::{Log, Space};

/// A batch that has reached this many bytes is large: it is written even while another write is
/// under way.
const LARGE_BYTES: u64 = 128 << 10;

pub(crate) type BoxedDisk = Box<dyn Disk + Send>;

/// The disk, and what is in the hands of whoever drives it: kept for its memory.
struct Driven {
    disk: BoxedDisk,
    ops: Vec<Op>,
    done: Vec<Done>,
    due: Due,
}

/// Whom to wake, without the lock: who is woken asks for it at once.
#[derive(Default)]
struct Due {
    sleepers: Vec<Arc<Crew>>,
    wakers: Vec<Waker>,
}

impl Due {
    fn wake(&mut self) {
        wake(&mut self.sleepers);
        wake_futures(&mut self.wakers);
    }
}

thread_local! {
    /// This thread is waking futures, and may have the disk meanwhile, or be one of a log's own.
    static IS_WAKING: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread must not wait for a log: an executor may poll within `wake`.
pub(crate) fn is_waking() -> bool {
    IS_WAKING.get()
}

pub(crate) fn wake_futures(due: &mut Vec<Waker>) {
    struct Before(bool);
    impl Drop for Before {
        fn drop(&mut self) {
            IS_WAKING.set(self.0);
        }
    }
    if !due.is_empty() {
        let _before = Before(IS_WAKING.replace(true));
        due.drain(..).for_each(Waker::wake);
    }
}

/// See the module.
pub(crate) struct Shared {
    pub(crate) state: Mutex<State>,
    /// Gone once the log is closed.
    disk: Mutex<Option<Driven>>,
    /// For threads that wait for something else than an entry.
    progress: Condvar,
    /// For the log's own thread.
    rest: Condvar,
    pub(crate) files: Files,
    /// That read ahead.
    pub(crate) threads: Threads,
    /// Of a log that is only read.
    pub(crate) sight: Option<Sight>,
    /// How often a suffix was cut off, or compaction has removed entries: what a reader holds may
    /// no longer be part of the log then.
    pub(crate) cuts: AtomicU64,
    pub(crate) path: PathBuf,
    /// A write can be begun without waiting for it.
    is_async: bool,
    begin: Instant,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Shared {
    /// Of a log that is only read: closed from the beginning.
    pub(crate) fn to_read(log: Log, path: &Path, sight: Sight) -> Arc<Shared> {
        let path = path.to_owned();
        let mut shared = Shared::made(log, None, false, path, Retention::default());
        shared.sight = Some(sight);
        {
            let mut state = shared.state();
            (state.closing, state.is_closed) = (true, true);
        }
        Arc::new(shared)
    }

    pub(crate) fn new(
        log: Log,
        disk: BoxedDisk,
        is_async: bool,
        path: PathBuf,
        retention: Retention,
    ) -> Arc<Shared> {
        Arc::new(Shared::made(log, Some(disk), is_async, path, retention))
    }

    fn made(
        log: Log,
        disk: Option<BoxedDisk>,
        is_async: bool,
        path: PathBuf,
        retention: Retention,
    ) -> Shared {
        let salt = log.salt;
        let incarnation = log.incarnation();
        Shared {
            state: Mutex::new(State::new(log, retention)),
            disk: Mutex::new(disk.map(|disk| Driven {
                disk,
                ops: Vec::new(),
                done: Vec::new(),
                due: Due::default(),
            })),
            progress: Condvar::new(),
            rest: Condvar::new(),
            files: Files::new(&path, salt, incarnation),
            threads: Threads::default(),
            sight: None,
            cuts: AtomicU64::new(0),
            path,
            is_async,
            begin: Instant::now(),
        }
    }

    /// Nothing that panics leaves the log half changed: a poisoned lock is still good.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Before another append, of `bytes`: begins the write of a batch that is full, or large as the
    /// append is, so that it is under way while the next one is filled. What is small joins a large
    /// batch instead: that takes less than a write of its own would. What is not begun waits for
    /// whoever asks whether it is durable, and may be joined until then. `None` if a write was
    /// begun, without the lock.
    pub(crate) fn begin<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        bytes: u64,
    ) -> Option<MutexGuard<'a, State>> {
        let are_large = bytes >= LARGE_BYTES && state.log.open_bytes() >= LARGE_BYTES;
        if !are_large && !state.log.open_is_full() {
            return Some(state);
        }
        if !self.is_async {
            self.kick(&mut state);
            return Some(state);
        }
        if let Some(mut disk) = self.try_disk()
            && let Some(open) = disk.as_mut()
        {
            drop(state);
            self.turn(open, false);
            drop(disk);
            self.pass_on(&mut self.state());
            return None;
        }
        Some(state)
    }

    /// Drives, or waits for whoever does, until `is_done`, which may be asked again after it said
    /// yes. Ends early when the log has stopped.
    pub(crate) fn wait_until(&self, is_done: impl FnMut(&mut State) -> bool) {
        self.wait(None, is_done);
    }

    /// As [`Shared::wait_until`], for a condition that holds when `entry` is durable. True if it
    /// was told that it is, and then has not asked.
    pub(crate) fn wait(
        &self,
        entry: Option<Index>,
        mut is_done: impl FnMut(&mut State) -> bool,
    ) -> bool {
        let mut state = self.state();
        loop {
            if is_done(&mut state) || state.log.poisoned().is_some() || state.is_closed {
                self.pass_on(&mut state);
                return false;
            }
            if state.is_drivable()
                && let Some(mut disk) = self.try_disk()
                && let Some(open) = disk.as_mut()
            {
                drop(state);
                loop {
                    self.turn(open, true);
                    state = self.state();
                    if is_done(&mut state) || !state.is_drivable() {
                        break;
                    }
                    drop(state);
                }
                drop(disk);
                continue;
            }
            if let Some(entry) = entry {
                let open = state.open();
                let crew = state.sleepers.add(entry, &open);
                drop(state);
                if crew.sleep() {
                    return true;
                }
                state = self.state();
                continue;
            }
            state.sleeping += 1;
            state = self.progress.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.sleeping -= 1;
        }
    }

    /// Nobody has the disk, as far as the caller knows: somebody else goes on if there is something
    /// to go on with.
    fn pass_on(&self, state: &mut State) {
        if !state.is_drivable() {
            return;
        }
        if !state.sleepers.is_empty() {
            state.sleepers.wake_one();
            return;
        }
        if state.sleeping > 0 {
            self.progress.notify_one();
            return;
        }
        // The thread may have looked in vain while the disk was taken: it is told again of what it
        // was told of, futures and an entry that a follower waits for.
        let is_followed = !state.followers.is_empty() && state.left > state.log.durable();
        let is_begun = state.disk_under_way > 0 || state.log.has_ops();
        if is_begun || is_followed || !state.wakers.is_empty() {
            self.kick(state);
        }
    }

    fn try_disk(&self) -> Option<MutexGuard<'_, Option<Driven>>> {
        match self.disk.try_lock() {
            Ok(disk) => Some(disk),
            Err(TryLockError::Poisoned(disk)) => Some(disk.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// One turn: what is due goes to the disk, what has completed is accounted for.
    fn turn(&self, driven: &mut Driven, wait: bool) {
        let Driven { disk, ops, done, due } = driven;
        let mut state = self.state();
        state.seal();
        self.take_ops(&mut state, ops, disk);
        drop(state);
        for op in ops.drain(..) {
            disk.submit(op);
        }
        disk.poll(wait, done);
        self.account(&mut self.state(), done, due);
        due.wake();
    }

    /// What the disk is to do; what makes or frees space goes to the spacer.
    fn take_ops(&self, state: &mut State, ops: &mut Vec<Op>, disk: &mut BoxedDisk) {
        let State { log, spacer, disk_under_way, writes_under_way, space_under_way, .. } = state;
        for op in log.ops() {
            match op {
                Op::Prepare { .. } | Op::Retire { .. } | Op::Rewrite { .. } => {
                    if let Op::Retire { segment, .. } | Op::Rewrite { segment, .. } = &op {
                        disk.forget(*segment);
                    }
                    *space_under_way += 1;
                    spacer.submit(op);
                }
                op => {
                    *disk_under_way += 1;
                    *writes_under_way += usize::from(matches!(op, Op::Write { .. }));
                    ops.push(op);
                }
            }
        }
    }

    /// Takes what has ended into account.
    fn account(&self, state: &mut State, done: &mut Vec<Done>, due: &mut Due) {
        let before = (state.log.durable(), state.meta_durable);
        for done in done.drain(..) {
            state.on_done(done, &mut due.wakers);
        }
        let has_moved = before != (state.log.durable(), state.meta_durable);
        if state.sleeping > 0 && (has_moved || state.log.poisoned().is_some()) {
            self.progress.notify_all();
        }
        if before.0 != state.log.durable() {
            state.sleepers.take_durable(state.log.durable(), &mut due.sleepers);
        }
    }

    /// The spacer has finished something. Writes may have waited for it.
    pub(crate) fn on_space(&self, done: Done) {
        let mut due = Vec::new();
        let mut state = self.state();
        match done {
            Done::Prepared { .. } => {
                state.on_done(done, &mut due);
                state.retain();
            }
            Done::Retired { segment, .. } => {
                state.on_done(done, &mut due);
                self.files.forget(segment);
            }
            Done::Rewritten { segment, result } => {
                state.on_done(done, &mut due);
                self.files.forget(segment);
                self.cuts.fetch_add(1, Ordering::Release);
                state.rewritten = Some((segment, result));
            }
            done => state.on_done(done, &mut due),
        }
        self.progress.notify_all();
        state.take_followers(&mut due);
        self.kick(&mut state);
        drop(state);
        wake_futures(&mut due);
    }

    /// The log has been cut behind `after`: readers that have come further will hear of it, and
    /// those who wait for more look now. Their wakers are to be woken without the lock.
    #[must_use]
    pub(crate) fn on_cut(&self, state: &mut State, after: Index) -> Vec<Waker> {
        let mut due = Vec::new();
        let number = self.cuts.fetch_add(1, Ordering::Release) + 1;
        state.on_cut(number, after, &mut due);
        due
    }

    /// Waits for the spacer and lets go of the directory.
    pub(crate) fn finish(&self) {
        let spacer = std::mem::take(&mut self.state().spacer);
        spacer.stop();
        self.disk.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut state = self.state();
        state.is_closed = true;
        let mut due = Vec::new();
        state.wake_all(&mut due);
        self.progress.notify_all();
        drop(state);
        wake_futures(&mut due);
    }

    /// Tells everybody that the log is being closed.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.closing = true;
        self.kick(&mut state);
        self.progress.notify_all();
    }

    /// Whether an append may go on: room in memory, and on disk.
    pub(crate) fn room(state: &State) -> Result<bool, Error> {
        match state.log.space() {
            Space::Full(cause) => Err(Error::DiskFull { cause }),
            Space::Ready => Ok(true),
            Space::Preparing => Ok(state.log.has_queue_room()),
        }
    }
}
