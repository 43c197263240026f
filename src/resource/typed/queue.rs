//! A queue of values or tasks of a type.

use super::Data;
use crate::machine::Level;
use crate::resource::{Failure, Queue, Reply, Submit, Task};
use std::marker::PhantomData;
use std::time::Duration;

/// A queue of values or tasks of a type.
pub struct QueueOf<T, S> {
    queue: Queue<S>,
    is: PhantomData<fn() -> T>,
}

impl<T: Data, S: Submit> QueueOf<T, S> {
    /// The same queue, of a type.
    pub fn new(queue: Queue<S>) -> QueueOf<T, S> {
        QueueOf { queue, is: PhantomData }
    }

    /// The queue in bytes, for all else it can do.
    #[must_use]
    pub fn bytes(&self) -> &Queue<S> {
        &self.queue
    }

    /// See [`Queue::with_level`].
    #[must_use]
    pub fn with_level(self, level: Level) -> QueueOf<T, S> {
        QueueOf::new(self.queue.with_level(level))
    }

    /// See [`Queue::offer`].
    pub fn offer(&self, value: &T) -> Reply<u64> {
        self.queue.offer(&value.to_bytes())
    }

    /// See [`Queue::offer_after`].
    pub fn offer_after(&self, value: &T, delay: Duration) -> Reply<u64> {
        self.queue.offer_after(&value.to_bytes(), delay)
    }

    /// Takes the first away for good, if there is one.
    pub fn poll(&self) -> Reply<Option<T>> {
        self.queue.poll().and_then(read_first)
    }

    /// The first, if there is one.
    pub fn peek(&self) -> Reply<Option<T>> {
        self.queue.peek().and_then(read_first)
    }

    /// See [`Queue::take`].
    pub fn take(&self, max: u32, lease: Duration) -> Reply<Vec<TaskOf<T, S>>> {
        self.queue.take(max, lease).and_then(tasks)
    }

    /// See [`Queue::take_within`].
    pub fn take_within(
        &self,
        max: u32,
        lease: Duration,
        wait: Duration,
    ) -> Reply<Vec<TaskOf<T, S>>> {
        self.queue.take_within(max, lease, wait).and_then(tasks)
    }
}

fn read_first<T: Data>(found: Option<Vec<u8>>) -> Result<Option<T>, Failure> {
    Ok(found.as_deref().map(T::from_bytes).transpose()?)
}

fn tasks<T: Data, S: Submit>(taken: Vec<Task<S>>) -> Result<Vec<TaskOf<T, S>>, Failure> {
    Ok(taken.into_iter().map(|task| TaskOf { task, is: PhantomData }).collect())
}

/// A task handed out; see [`Task`].
#[must_use = "dropping a task gives it back"]
pub struct TaskOf<T, S: Submit> {
    task: Task<S>,
    is: PhantomData<fn() -> T>,
}

impl<T: Data, S: Submit> TaskOf<T, S> {
    /// The task in bytes, for all else it can do.
    pub fn bytes(&self) -> &Task<S> {
        &self.task
    }

    /// What was offered.
    ///
    /// # Errors
    /// The bytes are no value of the type. Whoever gives such a task back will have it again: see
    /// [`Client::queue_with`](crate::client::Client::queue_with) for dead letters.
    pub fn value(&self) -> Result<T, Failure> {
        Ok(T::from_bytes(self.task.value())?)
    }

    /// See [`Task::ack`].
    pub fn ack(self) -> Reply<()> {
        self.task.ack()
    }

    /// See [`Task::nack`].
    pub fn nack(self, delay: Duration) -> Reply<()> {
        self.task.nack(delay)
    }

    /// See [`Task::extend`].
    pub fn extend(&self, lease: Duration) -> Reply<()> {
        self.task.extend(lease)
    }
}

impl<T, S: Clone> Clone for QueueOf<T, S> {
    fn clone(&self) -> Self {
        QueueOf { queue: self.queue.clone(), is: PhantomData }
    }
}
