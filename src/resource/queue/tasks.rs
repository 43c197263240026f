//! The tasks of a queue: each waits to be had, is delayed, is handed out, or is a dead letter.
//!
//! Who may have what, and who is told, is decided in `state.rs`.

use super::{DEAD_BYTES_MAX, DEAD_MAX};
use crate::machine::clock::{Due, Timers};
use crate::machine::{LogTime, Pair};
use crate::resource::waste::Waste;
use imbl::{OrdMap, OrdSet};
use margay_log::id::Index;

/// A task. The pair is its number, big-endian, and its value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Task {
    pub(super) pair: Pair,
    /// How often it was handed out.
    pub(super) deliveries: u32,
    pub(super) place: Place,
}

/// Where a task is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// Can be had.
    Ready,
    /// Cannot be had before this time.
    Delayed(LogTime),
    /// Is handed out.
    Leased(Lease),
}

/// A task is somebody's until a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Lease {
    /// The command that took it.
    pub(super) take: Index,
    pub(super) due: LogTime,
}

/// See the module. A task is named by the index of the command that offered it.
#[derive(Clone, Debug, Default)]
pub(super) struct Tasks {
    all: OrdMap<Index, Task>,
    bytes: u64,
    ready: OrdSet<Index>,
    /// Ends of delays and leases.
    timers: Timers<Index>,
    by_take: OrdSet<(Index, Index)>,
}

impl Tasks {
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn ready(&self) -> usize {
        self.ready.len()
    }

    pub(super) fn leased(&self) -> usize {
        self.by_take.len()
    }

    pub(super) fn get(&self, task: Index) -> Option<&Task> {
        self.all.get(&task)
    }

    pub(super) fn first_ready(&self) -> Option<Index> {
        self.ready.get_min().copied()
    }

    pub(super) fn after(&self, task: Index) -> impl Iterator<Item = (&Index, &Task)> {
        self.all.range(task.next()..)
    }

    /// Puts a task in; its number must be free.
    pub(super) fn insert(&mut self, name: Index, task: Task) {
        self.bytes += task.pair.size() as u64;
        self.settle_in(name, task.place);
        let before = self.all.insert(name, task);
        assert!(before.is_none(), "an index offers one task");
    }

    pub(super) fn remove(&mut self, name: Index) -> Option<Task> {
        let task = self.all.remove(&name)?;
        self.bytes -= task.pair.size() as u64;
        self.move_out(name, task.place);
        Some(task)
    }

    /// Moves a task to another place.
    pub(super) fn put(&mut self, name: Index, place: Place) {
        let Some(task) = self.all.get_mut(&name) else { return };
        let before = std::mem::replace(&mut task.place, place);
        if let Place::Leased(_) = place
            && !matches!(before, Place::Leased(_))
        {
            task.deliveries = task.deliveries.saturating_add(1);
        }
        self.move_out(name, before);
        self.settle_in(name, place);
    }

    /// A dead letter begins anew.
    pub(super) fn forget_deliveries(task: &mut Task) {
        task.deliveries = 0;
        task.place = Place::Ready;
    }

    fn settle_in(&mut self, name: Index, place: Place) {
        match place {
            Place::Ready => drop(self.ready.insert(name)),
            Place::Delayed(at) => self.timers.schedule(Due { at, created: name }, name),
            Place::Leased(Lease { take, due }) => {
                self.timers.schedule(Due { at: due, created: name }, name);
                self.by_take.insert((take, name));
            }
        }
    }

    fn move_out(&mut self, name: Index, place: Place) {
        match place {
            Place::Ready => drop(self.ready.remove(&name)),
            Place::Delayed(at) => drop(self.timers.cancel(Due { at, created: name }, name)),
            Place::Leased(Lease { take, due }) => {
                self.timers.cancel(Due { at: due, created: name }, name);
                self.by_take.remove(&(take, name));
            }
        }
    }

    /// The tasks of a take, in order of their numbers.
    pub(super) fn of_take(&self, take: Index) -> impl Iterator<Item = Index> {
        let all = (take, Index::ZERO)..=(take, Index(u64::MAX));
        self.by_take.range(all).map(|(_, task)| *task)
    }

    pub(super) fn next_timer(&self) -> Option<Due> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// The next task whose delay or lease ends at or before `now`.
    pub(super) fn first_due(&self, now: LogTime) -> Option<Index> {
        self.timers.first().filter(|(due, _)| due.at <= now).map(|(_, task)| *task)
    }

    /// Takes out all that are not handed out. Returns how many.
    pub(super) fn clear(&mut self) -> (u64, Tasks) {
        let mut kept = Tasks::default();
        for (_, name) in self.by_take.iter() {
            kept.insert(*name, self.all[name].clone());
        }
        let cleared = self.all.len() - kept.all.len();
        (cleared as u64, std::mem::replace(self, kept))
    }
}

/// Dead letters, by their numbers. Where there are too many, the oldest go.
#[derive(Clone, Debug, Default)]
pub(super) struct Letters {
    all: OrdMap<Index, Task>,
    bytes: u64,
}

impl Letters {
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn get(&self, name: Index) -> Option<&Task> {
        self.all.get(&name)
    }

    pub(super) fn after(&self, name: Index) -> impl Iterator<Item = (Index, &Task)> {
        self.all.range(name.next()..).map(|(name, task)| (*name, task))
    }

    /// Whether one of this size takes nobody's place.
    pub(super) fn fits(&self, size: usize) -> bool {
        self.all.len() < DEAD_MAX && self.bytes + size as u64 <= DEAD_BYTES_MAX
    }

    pub(super) fn insert(&mut self, name: Index, task: Task) {
        while !self.fits(task.pair.size())
            && let Some(oldest) = self.all.get_min().map(|(name, _)| *name)
        {
            self.remove(oldest);
        }
        self.bytes += task.pair.size() as u64;
        let before = self.all.insert(name, task);
        assert!(before.is_none(), "a task dies once");
    }

    pub(super) fn remove(&mut self, name: Index) -> Option<Task> {
        let task = self.all.remove(&name)?;
        self.bytes -= task.pair.size() as u64;
        Some(task)
    }
}

impl Waste for Tasks {
    fn shed(&mut self, limit: usize) -> bool {
        for _ in 0..limit {
            let Some((name, _)) = self.all.get_min() else { return false };
            let name = *name;
            self.remove(name);
        }
        true
    }
}
