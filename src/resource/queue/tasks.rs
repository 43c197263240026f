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

impl Place {
    /// When a delay or a lease ends.
    fn end(self) -> Option<LogTime> {
        match self {
            Place::Ready => None,
            Place::Delayed(at) => Some(at),
            Place::Leased(lease) => Some(lease.due),
        }
    }
}

/// See the module. A task is named by the index of the command that offered it. Those that are
/// handed out lie apart: all others are cleared at once, however many there are of either.
#[derive(Clone, Debug, Default)]
pub(super) struct Tasks {
    waiting: Part,
    ready: OrdSet<Index>,
    leased: Part,
    by_take: OrdSet<(Index, Index)>,
}

/// Some of the tasks, with the ends of their delays or leases.
#[derive(Clone, Debug, Default)]
struct Part {
    all: OrdMap<Index, Task>,
    bytes: u64,
    timers: Timers<Index>,
}

impl Part {
    fn insert(&mut self, name: Index, task: Task) {
        self.bytes += task.pair.size() as u64;
        if let Some(at) = task.place.end() {
            self.timers.schedule(Due { at, created: name }, name);
        }
        let before = self.all.insert(name, task);
        assert!(before.is_none(), "an index offers one task");
    }

    fn remove(&mut self, name: Index) -> Option<Task> {
        let task = self.all.remove(&name)?;
        self.bytes -= task.pair.size() as u64;
        if let Some(at) = task.place.end() {
            self.timers.cancel(Due { at, created: name }, name);
        }
        Some(task)
    }
}

impl Tasks {
    pub(super) fn len(&self) -> usize {
        self.waiting.all.len() + self.leased.all.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.waiting.bytes + self.leased.bytes
    }

    pub(super) fn ready(&self) -> usize {
        self.ready.len()
    }

    pub(super) fn leased(&self) -> usize {
        self.leased.all.len()
    }

    pub(super) fn get(&self, task: Index) -> Option<&Task> {
        self.leased.all.get(&task).or_else(|| self.waiting.all.get(&task))
    }

    pub(super) fn first_ready(&self) -> Option<Index> {
        self.ready.get_min().copied()
    }

    /// In order of their numbers, wherever they are.
    pub(super) fn after(&self, task: Index) -> impl Iterator<Item = (&Index, &Task)> {
        let mut waiting = self.waiting.all.range(task.next()..).peekable();
        let mut leased = self.leased.all.range(task.next()..).peekable();
        std::iter::from_fn(move || match (waiting.peek(), leased.peek()) {
            (Some((one, _)), Some((other, _))) if one > other => leased.next(),
            (None, _) => leased.next(),
            _ => waiting.next(),
        })
    }

    /// Puts a task in; its number must be free.
    pub(super) fn insert(&mut self, name: Index, task: Task) {
        match task.place {
            Place::Leased(lease) => {
                self.by_take.insert((lease.take, name));
                return self.leased.insert(name, task);
            }
            Place::Ready => drop(self.ready.insert(name)),
            Place::Delayed(_) => {}
        }
        self.waiting.insert(name, task);
    }

    pub(super) fn remove(&mut self, name: Index) -> Option<Task> {
        let task = self.leased.remove(name).or_else(|| self.waiting.remove(name))?;
        match task.place {
            Place::Leased(lease) => drop(self.by_take.remove(&(lease.take, name))),
            Place::Ready => drop(self.ready.remove(&name)),
            Place::Delayed(_) => {}
        }
        Some(task)
    }

    /// Moves a task to another place.
    pub(super) fn put(&mut self, name: Index, place: Place) {
        let Some(mut task) = self.remove(name) else { return };
        let before = std::mem::replace(&mut task.place, place);
        if let Place::Leased(_) = place
            && !matches!(before, Place::Leased(_))
        {
            task.deliveries = task.deliveries.saturating_add(1);
        }
        self.insert(name, task);
    }

    /// A dead letter begins anew.
    pub(super) fn forget_deliveries(task: &mut Task) {
        task.deliveries = 0;
        task.place = Place::Ready;
    }

    /// The tasks of a take, in order of their numbers.
    pub(super) fn of_take(&self, take: Index) -> impl Iterator<Item = Index> {
        let all = (take, Index::ZERO)..=(take, Index(u64::MAX));
        self.by_take.range(all).map(|(_, task)| *task)
    }

    fn first_timer(&self) -> Option<(Due, Index)> {
        let both = [self.waiting.timers.first(), self.leased.timers.first()];
        both.into_iter().flatten().min().copied()
    }

    pub(super) fn next_timer(&self) -> Option<Due> {
        self.first_timer().map(|(due, _)| due)
    }

    /// The next task whose delay or lease ends at or before `now`.
    pub(super) fn first_due(&self, now: LogTime) -> Option<Index> {
        self.first_timer().filter(|(due, _)| due.at <= now).map(|(_, task)| task)
    }

    /// Takes out all that are not handed out. Returns how many.
    pub(super) fn clear(&mut self) -> (u64, Tasks) {
        let (waiting, ready) = (std::mem::take(&mut self.waiting), std::mem::take(&mut self.ready));
        (waiting.all.len() as u64, Tasks { waiting, ready, ..Tasks::default() })
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
            let Some(name) = self.after(Index::ZERO).next().map(|(name, _)| *name) else {
                return false;
            };
            self.remove(name);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[derive(Clone, Debug)]
    enum Step {
        Offer(u64, Place),
        Put(u64, Place),
        Remove(u64),
        Clear,
    }

    fn step() -> impl Strategy<Value = Step> {
        let place = || {
            prop_oneof![
                Just(Place::Ready),
                (1..9_u64).prop_map(|at| Place::Delayed(LogTime(at))),
                (1..4_u64, 1..9_u64).prop_map(|(take, due)| {
                    Place::Leased(Lease { take: Index(take), due: LogTime(due) })
                }),
            ]
        };
        prop_oneof![
            8 => (1..40_u64, place()).prop_map(|(name, place)| Step::Offer(name, place)),
            8 => (1..40_u64, place()).prop_map(|(name, place)| Step::Put(name, place)),
            4 => (1..40_u64).prop_map(Step::Remove),
            1 => Just(Step::Clear),
        ]
    }

    /// Everything that is asked of tasks, of all of them in one row.
    fn check(tasks: &Tasks, model: &BTreeMap<Index, Task>) {
        let all = || model.iter();
        assert!(tasks.after(Index::ZERO).eq(all()), "all, in order");
        let behind = Index(20);
        assert!(tasks.after(behind).eq(model.range(behind.next()..)));
        assert_eq!(tasks.len(), model.len());
        assert_eq!(tasks.bytes(), all().map(|(_, task)| task.pair.size() as u64).sum::<u64>());
        let ready: Vec<Index> =
            all().filter(|(_, task)| task.place == Place::Ready).map(|(name, _)| *name).collect();
        assert_eq!((tasks.ready(), tasks.first_ready()), (ready.len(), ready.first().copied()));
        let take_of = |task: &Task| match task.place {
            Place::Leased(lease) => Some(lease.take),
            _ => None,
        };
        assert_eq!(tasks.leased(), all().filter_map(|(_, task)| take_of(task)).count());
        for take in (0..4).map(Index) {
            let its = all().filter(|(_, task)| take_of(task) == Some(take)).map(|(name, _)| *name);
            assert!(tasks.of_take(take).eq(its));
        }
        let ends = all().filter_map(|(name, task)| Some((task.place.end()?, *name)));
        let next = ends.min();
        let due = next.map(|(at, created)| Due { at, created });
        assert_eq!(tasks.next_timer(), due);
        for now in (0..10).map(LogTime) {
            let due = next.filter(|(at, _)| *at <= now).map(|(_, name)| name);
            assert_eq!(tasks.first_due(now), due);
        }
    }

    proptest! {
        #[test]
        fn tasks_that_are_handed_out_and_others_are_one_row(
            steps in prop::collection::vec(step(), 1..80),
        ) {
            let (mut tasks, mut model) = (Tasks::default(), BTreeMap::new());
            for step in steps {
                match step {
                    Step::Offer(name, place) => {
                        let pair = Pair::new(&name.to_be_bytes(), &vec![0; name as usize]);
                        let (name, task) = (Index(name), Task { pair, deliveries: 0, place });
                        if tasks.get(name).is_none() {
                            tasks.insert(name, task.clone());
                            model.insert(name, task);
                        }
                    }
                    Step::Put(name, place) => {
                        tasks.put(Index(name), place);
                        if let Some(task) = model.get_mut(&Index(name)) {
                            let is_leased = |place| matches!(place, Place::Leased(_));
                            task.deliveries +=
                                u32::from(is_leased(place) && !is_leased(task.place));
                            task.place = place;
                        }
                    }
                    Step::Remove(name) => {
                        prop_assert_eq!(tasks.remove(Index(name)), model.remove(&Index(name)));
                    }
                    Step::Clear => {
                        let before = model.len();
                        let (count, cleared) = tasks.clear();
                        let (gone, kept) = model.into_iter().partition(|(_, task)| {
                            !matches!(task.place, Place::Leased(_))
                        });
                        model = kept;
                        prop_assert_eq!(count as usize, before - model.len());
                        check(&cleared, &gone);
                    }
                }
                check(&tasks, &model);
            }
            while tasks.shed(3) {}
            check(&tasks, &BTreeMap::new());
        }
    }
}
