//! What comes again and again: events of a subscription, read by type or not, and items that are
//! fetched as they are asked for. Streams of no runtime that can also be waited for.

use super::reply::wait;
use super::{Failure, Reply};
use crate::machine::Code;
use futures_core::Stream;
use margay_log::id::Index;
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// What a subscription delivers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Delivery {
    /// An event.
    Event {
        /// Where it arose.
        index: Index,
        /// Its number among the events of that index.
        ordinal: u32,
        /// What happened; each type of resource numbers its own.
        kind: u16,
        /// See [`crate::machine::EventPayload`].
        payload: Vec<u8>,
    },
    /// Events were missed: read the state, then go on; what follows is from `oldest` on.
    Lagged {
        /// Index of the oldest event still kept.
        oldest: Index,
    },
}

/// Events as they come. Dropping it ends the subscription.
#[derive(Debug)]
pub struct Subscription {
    queue: Arc<Queue>,
    /// A stream has told its end.
    is_over: bool,
}

/// Fills a [`Subscription`]. Dropped, it ends the stream with [`Code::CLIENT_CLOSED`].
#[derive(Debug)]
pub struct Feed {
    queue: Arc<Queue>,
}

/// Deliveries kept for a reader that is slow, at most; beyond it the reader has lagged.
pub const FEED_MAX: usize = 4_096;
/// Bytes of their payloads, at most.
pub const FEED_BYTES_MAX: usize = 16 << 20;

#[derive(Debug)]
struct Queue {
    state: Mutex<QueueState>,
}

#[derive(Debug, Default)]
struct QueueState {
    waiting: VecDeque<Delivery>,
    /// Of the payloads among them.
    bytes: usize,
    end: Option<Failure>,
    waker: Option<Waker>,
}

impl Delivery {
    fn bytes(&self) -> usize {
        if let Delivery::Event { payload, .. } = self { payload.len() } else { 0 }
    }
}

impl QueueState {
    fn push(&mut self, delivery: Delivery) {
        self.bytes += delivery.bytes();
        self.waiting.push_back(delivery);
    }

    fn take(&mut self) -> Option<Delivery> {
        let first = self.waiting.pop_front()?;
        self.bytes -= first.bytes();
        Some(first)
    }

    fn clear(&mut self) {
        self.waiting.clear();
        self.bytes = 0;
    }

    fn has_room(&self, delivery: &Delivery) -> bool {
        self.waiting.len() < FEED_MAX && self.bytes + delivery.bytes() <= FEED_BYTES_MAX
    }
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscription {
    /// A subscription and who fills it.
    #[must_use]
    pub fn channel() -> (Feed, Subscription) {
        let queue = Arc::new(Queue { state: Mutex::new(QueueState::default()) });
        (Feed { queue: queue.clone() }, Subscription { queue, is_over: false })
    }

    /// The next delivery.
    ///
    /// # Errors
    /// The reason why there will be none.
    pub async fn next(&mut self) -> Result<Delivery, Failure> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    /// Blocks the thread until the next delivery.
    ///
    /// # Errors
    /// The reason why there will be none.
    pub fn wait_next(&mut self) -> Result<Delivery, Failure> {
        wait(self.next())
    }

    /// A delivery that is there already.
    pub fn try_next(&mut self) -> Option<Delivery> {
        self.queue.state().take()
    }

    /// For implementations of streams.
    ///
    /// # Errors
    /// The reason why there will be no more deliveries.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Delivery, Failure>> {
        let mut state = self.queue.state();
        if let Some(delivery) = state.take() {
            return Poll::Ready(Ok(delivery));
        }
        if let Some(end) = &state.end {
            return Poll::Ready(Err(end.clone()));
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

/// After a failure it is over.
impl Stream for Subscription {
    type Item = Result<Delivery, Failure>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let polled = Subscription::poll_next(&mut self, context);
        self.is_over = matches!(polled, Poll::Ready(Err(_)));
        polled.map(Some)
    }
}

impl Feed {
    /// Delivers. Where the reader is [`FEED_MAX`] or [`FEED_BYTES_MAX`] behind, all it has not read
    /// is replaced by [`Delivery::Lagged`] with the index of this delivery.
    pub fn push(&self, delivery: Delivery) {
        let waker = {
            let mut state = self.queue.state();
            if !state.has_room(&delivery) {
                state.clear();
                let oldest = match &delivery {
                    Delivery::Event { index, .. } => *index,
                    Delivery::Lagged { oldest } => *oldest,
                };
                state.push(Delivery::Lagged { oldest });
            }
            state.push(delivery);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Ends the stream. What was delivered before can still be read.
    pub fn end(self, failure: Failure) {
        self.finish(failure);
    }

    /// Whether the reader has gone.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        Arc::strong_count(&self.queue) == 1
    }

    fn finish(&self, failure: Failure) {
        let waker = {
            let mut state = self.queue.state();
            state.end.get_or_insert(failure);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.finish(Failure::from(Code::CLIENT_CLOSED));
    }
}

/// Events of one type of resource as they come. Dropping it ends the subscription.
#[derive(Debug)]
pub struct Watch<E> {
    subscription: Subscription,
    read: fn(Delivery) -> Result<E, Failure>,
}

impl<E> Watch<E> {
    /// Reads what a subscription delivers.
    pub fn new(subscription: Subscription, read: fn(Delivery) -> Result<E, Failure>) -> Watch<E> {
        Watch { subscription, read }
    }

    /// The next event.
    ///
    /// # Errors
    /// The reason why there will be none.
    pub async fn next(&mut self) -> Result<E, Failure> {
        self.subscription.next().await.and_then(self.read)
    }

    /// Blocks the thread until the next event.
    ///
    /// # Errors
    /// The reason why there will be none.
    pub fn wait_next(&mut self) -> Result<E, Failure> {
        self.subscription.wait_next().and_then(self.read)
    }

    /// An event that is there already.
    pub fn try_next(&mut self) -> Option<Result<E, Failure>> {
        self.subscription.try_next().map(self.read)
    }
}

/// After a failure of the subscription it is over; an event that cannot be read is only that.
impl<E> Stream for Watch<E> {
    type Item = Result<E, Failure>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let read = self.read;
        let polled = Pin::new(&mut self.subscription);
        Stream::poll_next(polled, context).map(|next| next.map(|delivery| delivery.and_then(read)))
    }
}

/// Fetches what comes behind a cursor, and says where to go on. It may have nothing.
type Fetch<T, C> = dyn Fn(C) -> Reply<(Vec<T>, C)> + Send + Sync;

/// Items that are fetched as they are asked for, from a cursor on that moves. A stream.
#[must_use = "nothing is fetched until it is asked for"]
pub struct Fetched<T, C> {
    cursor: C,
    fetch: Box<Fetch<T, C>>,
    ready: VecDeque<T>,
    fetching: Option<Reply<(Vec<T>, C)>>,
    /// A stream has told its end.
    is_over: bool,
}

impl<T, C: Copy> Fetched<T, C> {
    pub(super) fn new(
        cursor: C,
        fetch: impl Fn(C) -> Reply<(Vec<T>, C)> + Send + Sync + 'static,
    ) -> Fetched<T, C> {
        let (ready, fetch) = (VecDeque::new(), Box::new(fetch));
        Fetched { cursor, fetch, ready, fetching: None, is_over: false }
    }

    /// The next item, however long it takes.
    ///
    /// # Errors
    /// Why it cannot be had. It may be asked for again.
    pub async fn next(&mut self) -> Result<T, Failure> {
        std::future::poll_fn(|context| self.poll(context)).await
    }

    /// Blocks the thread until the next item.
    ///
    /// # Errors
    /// See [`Fetched::next`].
    pub fn wait_next(&mut self) -> Result<T, Failure> {
        wait(self.next())
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<T, Failure>> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Poll::Ready(Ok(item));
            }
            let fetching = self.fetching.get_or_insert_with(|| (self.fetch)(self.cursor));
            let Poll::Ready(fetched) = Pin::new(fetching).poll(context) else {
                return Poll::Pending;
            };
            self.fetching = None;
            match fetched {
                Ok((items, cursor)) => (self.ready, self.cursor) = (items.into(), cursor),
                Err(failure) => return Poll::Ready(Err(failure)),
            }
        }
    }
}

// What it fetches with is behind a pointer; nothing needs to stay where it is.
impl<T, C> Unpin for Fetched<T, C> {}

/// After a failure it is over.
impl<T, C: Copy> Stream for Fetched<T, C> {
    type Item = Result<T, Failure>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let polled = self.poll(context);
        self.is_over = matches!(polled, Poll::Ready(Err(_)));
        polled.map(Some)
    }
}

impl<T: fmt::Debug, C: fmt::Debug> fmt::Debug for Fetched<T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Fetched");
        debug.field("cursor", &self.cursor).field("ready", &self.ready).finish_non_exhaustive()
    }
}
