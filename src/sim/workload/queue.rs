//! Tasks that all clients offer and take. Every task is done; one that is acknowledged is never
//! handed out again; none is acknowledged twice.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Actor, Journal, Workload};
use crate::resource::queue::{Queue, Task};
use crate::sim::Failure;
use crate::sim::client::Desk;

/// See the module's text.
pub(in crate::sim) struct Working {
    queue: Queue<Desk>,
}

/// What became of the tasks, by their values.
#[derive(Default)]
pub(in crate::sim) struct Tasks {
    /// Whose offer was acknowledged.
    offered: BTreeSet<u64>,
    /// When the acknowledgement of a task was answered; 0 where no answer came.
    acked: BTreeMap<u64, u64>,
    /// When a take was invoked that got the task.
    taken: Vec<(u64, u64)>,
    twice: Vec<u64>,
}

impl Journal for Tasks {
    fn judge(&mut self) -> Result<u64, Failure> {
        if let Some(task) = self.twice.first() {
            let details = format!("task {task:x}");
            return Err(Failure::new("a task is acknowledged once", details));
        }
        if let Some(task) = self.offered.iter().find(|task| !self.acked.contains_key(task)) {
            let details = format!("task {task:x} was offered and never done");
            return Err(Failure::new("every task is done", details));
        }
        for (task, invoked) in &self.taken {
            if self.acked.get(task).is_some_and(|acked| *acked != 0 && acked < invoked) {
                let details = format!("task {task:x}, taken at {invoked}");
                let what = "what is acknowledged is never handed out again";
                return Err(Failure::new(what, details));
            }
        }
        Ok(0)
    }
}

const LEASE: Duration = Duration::from_secs(2);

impl Workload for Working {
    type Journal = Tasks;

    async fn open(actor: &mut Actor<Tasks>) -> Working {
        Working { queue: actor.open(|desk| Queue::open(desk, "queue")).await }
    }

    async fn act(&mut self, actor: &mut Actor<Tasks>) {
        if actor.rng.chance(1, 3) {
            let task = actor.fresh();
            let delay = Duration::from_millis(actor.rng.below(2) * actor.rng.below(100));
            let offered = self.queue.offer_after(&task.to_le_bytes(), delay).await;
            if let Some(Some(_)) = actor.outcome(offered) {
                actor.note(|tasks| tasks.offered.extend([task]));
            }
            // No faster than tasks are done, or all that is left at the end takes too long.
            return actor.pause(40_000).await;
        }
        let wait = Duration::from_millis(actor.rng.below(500));
        let max = 1 + actor.rng.below(3) as u32;
        let tasks = self.take(actor, max, wait).await;
        if tasks.is_empty() {
            return actor.pause(100_000).await;
        }
        for task in tasks {
            actor.pause(10_000).await;
            match actor.rng.below(10) {
                0 => drop(task),
                1 => drop(actor.outcome(task.nack(Duration::from_millis(10)).await)),
                _ => acknowledge(actor, task).await,
            }
        }
    }

    /// All that is left is done.
    async fn look(&mut self, actor: &mut Actor<Tasks>) {
        loop {
            for task in self.take(actor, 100, Duration::from_millis(500)).await {
                acknowledge(actor, task).await;
            }
            let Ok(status) = self.queue.status().await else { continue };
            if status.ready + status.delayed + status.leased == 0 {
                return;
            }
        }
    }
}

impl Working {
    async fn take(
        &mut self,
        actor: &mut Actor<Tasks>,
        max: u32,
        wait: Duration,
    ) -> Vec<Task<Desk>> {
        let invoked = actor.now();
        let took = self.queue.take_within(max, LEASE, wait).await;
        let Some(Some((_, tasks))) = actor.outcome(took) else { return Vec::new() };
        for task in &tasks {
            actor.note(|journal| journal.taken.push((number(task), invoked)));
        }
        tasks
    }
}

async fn acknowledge(actor: &mut Actor<Tasks>, task: Task<Desk>) {
    let number = number(&task);
    match actor.outcome(task.ack().await) {
        Some(Some((at, ()))) => actor.note(|tasks| {
            if tasks.acked.insert(number, at).is_some_and(|before| before != 0) {
                tasks.twice.push(number);
            }
        }),
        Some(None) => actor.note(|tasks| {
            tasks.acked.entry(number).or_insert(0);
        }),
        None => {}
    }
}

fn number(task: &Task<Desk>) -> u64 {
    task.value().try_into().map_or(0, u64::from_le_bytes)
}
