//! The queue as applications use it.

use super::{
    AckV1, CLEARED, CancelV1, ClearV1, ContainsV1, DIED, DeadV1, ExtendV1, LeasedV1, NackV1,
    OFFERED, OfferV1, PeekV1, PollV1, REMOVED, RemoveV1, ReviveV1, StatusV1, TakeV1, options,
};
use crate::machine::bytes::Reader;
use crate::machine::{Code, EventPayload, Filter, Level, ResourceId, kind};
use crate::resource::claims::handle::{Ways, acquire, is_over, milliseconds};
use crate::resource::handle::{Handle, read_bool, read_count};
use crate::resource::registry::DELETED;
use crate::resource::{Answer, Delivery, Failure, Reply, Submit, Watch};
use margay_log::id::Index;
use std::time::Duration;

/// A queue of values or tasks.
///
/// A value is at most 1 MiB. At most a million are in a queue, or 256 MiB of them: see
/// [`Code::QUEUE_FULL`].
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let client = margay::client::Client::builder().endpoints(["127.0.0.1:5150"]).connect()?;
/// use std::time::Duration;
/// let jobs = client.queue_with("jobs", 5).wait()?; // handed out 5 times: a dead letter
/// jobs.offer(b"picture-17").wait()?;
/// for task in jobs.take(1, Duration::from_secs(30)).wait()? {
///     println!("to do: {:?}", task.value()); // one that fails here is dropped, and given back
///     task.ack().wait()?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Queue<S> {
    handle: Handle<S>,
}

/// How a queue stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueStatus {
    /// Tasks that can be had.
    pub ready: u64,
    /// Tasks that cannot be had yet.
    pub delayed: u64,
    /// Tasks that are handed out.
    pub leased: u64,
    /// Dead letters.
    pub dead: u64,
    /// Takes that wait.
    pub waiting: u32,
}

/// A task that was handed out as often as the queue allows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeadLetter {
    /// Its number.
    pub id: u64,
    /// How often it was handed out.
    pub deliveries: u32,
    /// Its value.
    pub value: Vec<u8>,
}

/// What happened in a queue.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum QueueEvent {
    /// Something was offered.
    Offered {
        /// Its number.
        id: u64,
        /// Its value.
        value: Vec<u8>,
    },
    /// Something is gone: polled, removed or acknowledged.
    Removed {
        /// Its number.
        id: u64,
        /// Its value.
        value: Vec<u8>,
    },
    /// Something is a dead letter.
    Died {
        /// Its number.
        id: u64,
        /// Its value.
        value: Vec<u8>,
    },
    /// All that was not handed out is gone.
    Cleared,
    /// The queue was deleted.
    Deleted,
    /// Events were missed: read the state, then go on.
    Lagged {
        /// Index of the oldest event still kept.
        oldest: Index,
    },
}

impl<S: Submit> Queue<S> {
    /// Opens a queue by name; it is created where there is none.
    pub fn open(submit: S, name: &str) -> Reply<Queue<S>> {
        Queue::open_with(submit, name, 0)
    }

    /// The same; where it is created, a task that was handed out `deliveries_max` times without
    /// being acknowledged becomes a dead letter. 0 for never.
    pub fn open_with(submit: S, name: &str, deliveries_max: u32) -> Reply<Queue<S>> {
        Handle::open_with(submit, name, kind::QUEUE, &options(deliveries_max))
            .and_then(|handle| Ok(Queue { handle }))
    }

    /// The queue `id`.
    pub fn new(submit: S, id: ResourceId) -> Queue<S> {
        Queue { handle: Handle::new(submit, id) }
    }

    /// The same, with queries at another level.
    #[must_use]
    pub fn with_level(self, level: Level) -> Queue<S> {
        Queue { handle: self.handle.with_level(level) }
    }

    /// The way to it, for transactions and operations of one's own.
    #[must_use]
    pub fn handle(&self) -> &Handle<S> {
        &self.handle
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> ResourceId {
        self.handle.id()
    }

    /// Offers a value or task at the end. Returns its number: numbers rise. Fails with
    /// [`Code::QUEUE_FULL`] where there is no room.
    pub fn offer(&self, value: &[u8]) -> Reply<u64> {
        self.offer_after(value, Duration::ZERO)
    }

    /// The same; it cannot be had before `delay` has passed, in log time. Parts of a millisecond
    /// count as one, here and below.
    pub fn offer_after(&self, value: &[u8], delay: Duration) -> Reply<u64> {
        let offer = OfferV1 { value: value.to_vec(), delay_ms: milliseconds(delay) };
        self.handle.command(&offer).and_then(read_count)
    }

    /// Takes the first away for good, if there is one.
    pub fn poll(&self) -> Reply<Option<Vec<u8>>> {
        self.handle.command(&PollV1 {}).and_then(|answer| read_first(&answer))
    }

    /// The first, if there is one.
    pub fn peek(&self) -> Reply<Option<Vec<u8>>> {
        self.handle.query(&PeekV1 {}).and_then(|answer| read_first(&answer))
    }

    /// Whether a task is still there, handed out or not.
    pub fn contains(&self, id: u64) -> Reply<bool> {
        self.handle.query(&ContainsV1 { task: id }).and_then(read_bool)
    }

    /// Takes back a task that is not handed out. Returns whether it was there.
    pub fn remove(&self, id: u64) -> Reply<bool> {
        self.handle.command(&RemoveV1 { task: id }).and_then(read_bool)
    }

    /// Takes away all that is not handed out. Returns how many.
    pub fn clear(&self) -> Reply<u64> {
        let cleared = self.handle.command(&ClearV1 {});
        cleared.and_then(read_count)
    }

    /// How it stands.
    pub fn status(&self) -> Reply<QueueStatus> {
        self.handle.query(&StatusV1 {}).and_then(|answer| {
            let mut reader = Reader::new(&answer.payload);
            let (ready, delayed) = (reader.u64()?, reader.u64()?);
            let (leased, dead, waiting) = (reader.u64()?, reader.u64()?, reader.u32()?);
            Ok(QueueStatus { ready, delayed, leased, dead, waiting })
        })
    }

    /// Takes up to `max` tasks, 1 to [`TAKE_MAX`](super::TAKE_MAX), for the time of `lease`; waits
    /// until there is one. The list is empty only where the lease had ended before the tasks
    /// arrived. Dropping the reply withdraws.
    pub fn take(&self, max: u32, lease: Duration) -> Reply<Vec<Task<S>>> {
        self.ask(max, lease, None)
    }

    /// The same; an empty list where none can be had within `wait`, in log time.
    pub fn take_within(&self, max: u32, lease: Duration, wait: Duration) -> Reply<Vec<Task<S>>> {
        self.ask(max, lease, Some(milliseconds(wait)))
    }

    /// Dead letters after the number `after` (0 for the first), oldest first, at most 1,000.
    pub fn dead_letters(&self, after: u64) -> Reply<Vec<DeadLetter>> {
        self.handle.query(&DeadV1 { after, limit: 0 }).and_then(|answer| {
            let mut reader = Reader::new(&answer.payload);
            let mut letters = Vec::new();
            for _ in 0..reader.u32()? {
                let (id, deliveries) = (reader.u64()?, reader.u32()?);
                letters.push(DeadLetter { id, deliveries, value: reader.bytes()?.to_vec() });
            }
            Ok(letters)
        })
    }

    /// Makes a dead letter a task again, at its old place, as if it had never been handed out.
    /// Returns whether it was there. Fails with [`Code::QUEUE_FULL`] where there is no room for it.
    pub fn revive(&self, id: u64) -> Reply<bool> {
        self.handle.command(&ReviveV1 { task: id }).and_then(read_bool)
    }

    /// What happens from now on, or after an event seen before.
    #[must_use]
    pub fn watch(&self, after: Option<(Index, u32)>) -> Watch<QueueEvent> {
        Watch::new(self.handle.subscribe(after, Filter::All), read_event)
    }

    fn ask(&self, max: u32, lease: Duration, wait_ms: Option<u64>) -> Reply<Vec<Task<S>>> {
        let request = self.handle.submit().unique();
        let take = TakeV1 { request, max, lease_ms: milliseconds(lease), wait_ms };
        let ways = Ways::cancelling::<CancelV1>();
        let asked = self.handle.command(&take);
        let handle = self.handle.clone();
        acquire(&self.handle, request, 1, asked, ways).then(move |held| {
            let held = match held {
                Ok(Some(held)) => held,
                Ok(None) => return Reply::ready(Ok(Vec::new())),
                Err(failure) => return Reply::ready(Err(failure)),
            };
            let (take, token) = (held.grant().waiter, held.grant().token);
            if let Some(listed) = held.listed() {
                let tasks = read_tasks(&handle, token, listed);
                held.keep();
                return Reply::ready(tasks);
            }
            // Whoever waited is told that there is something, not what. Dropped before it is
            // known, everything is given back.
            handle.query(&LeasedV1 { take: take.0 }).and_then(move |answer| {
                let tasks = read_tasks(&handle, token, &answer.payload)?;
                held.keep();
                Ok(tasks)
            })
        })
    }
}

fn read_first(answer: &Answer) -> Result<Option<Vec<u8>>, Failure> {
    let mut reader = Reader::new(&answer.payload);
    if reader.u8()? == 0 {
        return Ok(None);
    }
    reader.u64()?;
    Ok(Some(reader.rest().to_vec()))
}

fn read_tasks<S: Submit>(
    handle: &Handle<S>,
    token: u64,
    listed: &[u8],
) -> Result<Vec<Task<S>>, Failure> {
    let mut reader = Reader::new(listed);
    let mut tasks = Vec::new();
    for _ in 0..reader.u32()? {
        let (id, deliveries) = (reader.u64()?, reader.u32()?);
        let value = reader.bytes()?.to_vec();
        tasks.push(Task { handle: Some(handle.clone()), id, token, deliveries, value });
    }
    Ok(tasks)
}

fn read_event(delivery: Delivery) -> Result<QueueEvent, Failure> {
    let (kind, payload) = match delivery {
        Delivery::Lagged { oldest } => return Ok(QueueEvent::Lagged { oldest }),
        Delivery::Event { kind, payload, .. } => (kind, EventPayload::decode(&payload)?),
    };
    match kind {
        CLEARED => return Ok(QueueEvent::Cleared),
        DELETED => return Ok(QueueEvent::Deleted),
        _ => {}
    }
    let bad = || Failure::from(Code::BAD_PAYLOAD);
    let key = payload.key.ok_or_else(bad)?;
    let id = u64::from_be_bytes(key.try_into().map_err(|_| bad())?);
    let value = payload.new.or(payload.old).ok_or_else(bad)?;
    match kind {
        OFFERED => Ok(QueueEvent::Offered { id, value }),
        REMOVED => Ok(QueueEvent::Removed { id, value }),
        DIED => Ok(QueueEvent::Died { id, value }),
        _ => Err(bad()),
    }
}

/// A task handed out. Dropping it gives it back and does not wait for that.
#[must_use = "dropping a task gives it back"]
pub struct Task<S: Submit> {
    handle: Option<Handle<S>>,
    id: u64,
    token: u64,
    deliveries: u32,
    value: Vec<u8>,
}

impl<S: Submit> Task<S> {
    /// Its number in the queue.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The fencing token of its lease: rises every time the task is handed out.
    #[must_use]
    pub fn token(&self) -> u64 {
        self.token
    }

    /// How often it was handed out, this time included. More than 1: somebody may have done a part
    /// of it already.
    #[must_use]
    pub fn deliveries(&self) -> u32 {
        self.deliveries
    }

    /// What was offered.
    #[must_use]
    pub fn value(&self) -> &[u8] {
        &self.value
    }

    /// It is done, and will never be handed out again. Fails with [`Code::LEASE_EXPIRED`] where the
    /// lease had ended before: then somebody else has it, or will.
    pub fn ack(self) -> Reply<()> {
        let (task, token) = (self.id, self.token);
        self.end(move |handle| handle.command(&AckV1 { task, token }))
    }

    /// Gives it back; it can be had again when `delay` has passed, in log time.
    pub fn nack(self, delay: Duration) -> Reply<()> {
        let (task, token, delay_ms) = (self.id, self.token, milliseconds(delay));
        self.end(move |handle| handle.command(&NackV1 { task, token, delay_ms }))
    }

    /// Keeps it for the time of `lease` from now on.
    pub fn extend(&self, lease: Duration) -> Reply<()> {
        let Some(handle) = &self.handle else { return Reply::ready(Ok(())) };
        let (task, token, lease_ms) = (self.id, self.token, milliseconds(lease));
        handle.command(&ExtendV1 { task, token, lease_ms }).and_then(|_| Ok(()))
    }

    /// Where that fails, or nobody waits to see, it is given back as if it had been dropped.
    fn end(mut self, end: impl FnOnce(&Handle<S>) -> Reply<Answer>) -> Reply<()> {
        let Some(handle) = &self.handle else { return Reply::ready(Ok(())) };
        end(handle).map(move |result| {
            // Without it there is nothing for the drop to give back.
            drop(self.handle.take_if(|_| is_over(&result)));
            result.map(drop)
        })
    }
}

impl<S: Submit> Drop for Task<S> {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.take() {
            let nack = NackV1 { task: self.id, token: self.token, delay_ms: 0 };
            drop(handle.lasting().command(&nack));
        }
    }
}
