//! Answers that come later: futures of no runtime that can also be waited for.
//!
//! The only file of this module that knows threads. A [`Reply`] is completed by whoever does the
//! I/O through its [`Completer`]; dropping the reply does not take the operation back.

use crate::machine::{Code, Outcome};
use futures_core::Stream;
use margay_log::id::Index;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// What came back for a command or a query.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// How it ended.
    pub code: Code,
    /// Where a command took effect; what a query has seen.
    pub index: Index,
    /// The reply; with a code other than OK a text for people.
    pub payload: Vec<u8>,
}

impl Answer {
    /// The answer, if its code is OK.
    ///
    /// # Errors
    /// The failure its code stands for.
    pub fn ok(self) -> Result<Answer, Failure> {
        if self.code.is_ok() { Ok(self) } else { Err(Failure::from_answer(&self)) }
    }
}

/// Why there is no good answer, and what is known about the operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// What went wrong.
    pub code: Code,
    /// Whether the operation took effect.
    pub outcome: Outcome,
    /// What was tried and what was found, for people; may be empty.
    pub text: String,
}

impl Failure {
    /// A failure with the outcome its code stands for.
    pub fn new(code: Code, text: impl Into<String>) -> Failure {
        Failure { code, outcome: code.outcome(), text: text.into() }
    }

    /// A failure whose outcome is known better than its code says.
    pub fn with_outcome(code: Code, outcome: Outcome, text: impl Into<String>) -> Failure {
        Failure { code, outcome, text: text.into() }
    }

    /// An answer that was a refusal.
    #[must_use]
    pub fn from_answer(answer: &Answer) -> Failure {
        Failure::new(answer.code, String::from_utf8_lossy(&answer.payload))
    }

    /// Whether the operation took effect.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        self.outcome
    }
}

impl From<Code> for Failure {
    fn from(code: Code) -> Failure {
        Failure::new(code, "")
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.text.is_empty() {
            write!(f, "{}", self.code)
        } else {
            write!(f, "{}: {}", self.code, self.text)
        }
    }
}

impl std::error::Error for Failure {}

/// A result that comes later: a future of no runtime, or [`Reply::wait`] for it. Dropping it does
/// not take the operation back.
#[must_use = "nothing tells you of a failure unless you await or wait"]
pub struct Reply<T> {
    source: Source<T>,
}

type Steps<T> = Pin<Box<dyn Future<Output = Result<T, Failure>> + Send>>;

enum Source<T> {
    Slot(Arc<Slot<T>>),
    Steps(Steps<T>),
    Ready(Option<Result<T, Failure>>),
}

/// Completes a [`Reply`], from any thread. Dropped without completing, it fails the reply with
/// [`Code::CLIENT_CLOSED`].
pub struct Completer<T> {
    slot: Option<Arc<Slot<T>>>,
}

struct Slot<T> {
    state: Mutex<State<T>>,
}

struct State<T> {
    result: Option<Result<T, Failure>>,
    waker: Option<Waker>,
}

impl<T> Slot<T> {
    /// A panic elsewhere does not make a result invalid.
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Reply<T> {
    /// A reply and who completes it.
    pub fn channel() -> (Completer<T>, Reply<T>) {
        let slot = Arc::new(Slot { state: Mutex::new(State { result: None, waker: None }) });
        (Completer { slot: Some(slot.clone()) }, Reply { source: Source::Slot(slot) })
    }

    /// A reply that is there already.
    pub fn ready(result: Result<T, Failure>) -> Reply<T> {
        Reply { source: Source::Ready(Some(result)) }
    }

    /// Blocks the thread until the result is there. Not for use inside an executor.
    ///
    /// # Errors
    /// Whatever the operation failed with.
    pub fn wait(self) -> Result<T, Failure> {
        wait(self)
    }
}

impl<T: Send + 'static> Reply<T> {
    /// Reads a good result once it is there.
    pub fn and_then<U: Send + 'static>(
        self,
        read: impl FnOnce(T) -> Result<U, Failure> + Send + 'static,
    ) -> Reply<U> {
        self.map(|result| result.and_then(read))
    }

    /// Reads the result, good or bad, once it is there.
    pub fn map<U: Send + 'static>(
        self,
        read: impl FnOnce(Result<T, Failure>) -> Result<U, Failure> + Send + 'static,
    ) -> Reply<U> {
        Reply { source: Source::Steps(Box::pin(async move { read(self.await) })) }
    }

    /// Goes on with another reply once the result is there. `next` runs when somebody awaits or
    /// waits.
    pub fn then<U: Send + 'static>(
        self,
        next: impl FnOnce(Result<T, Failure>) -> Reply<U> + Send + 'static,
    ) -> Reply<U> {
        Reply { source: Source::Steps(Box::pin(async move { next(self.await).await })) }
    }
}

// The future inside `Steps` is pinned by its box; nothing else needs to stay where it is.
impl<T> Unpin for Reply<T> {}

impl<T> Future for Reply<T> {
    type Output = Result<T, Failure>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.source {
            Source::Ready(result) => {
                Poll::Ready(result.take().expect("a reply is not polled after it was ready"))
            }
            Source::Steps(steps) => steps.as_mut().poll(context),
            Source::Slot(slot) => {
                let mut state = slot.state();
                if let Some(result) = state.result.take() {
                    return Poll::Ready(result);
                }
                match &mut state.waker {
                    Some(waker) => waker.clone_from(context.waker()),
                    none => *none = Some(context.waker().clone()),
                }
                Poll::Pending
            }
        }
    }
}

impl<T> Completer<T> {
    /// Hands over the result and wakes who waits for it.
    pub fn complete(mut self, result: Result<T, Failure>) {
        self.finish(result);
    }

    /// Whether nobody is there any more to take the result.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.slot.as_ref().is_none_or(|slot| Arc::strong_count(slot) == 1)
    }

    fn finish(&mut self, result: Result<T, Failure>) {
        let Some(slot) = self.slot.take() else { return };
        let waker = {
            let mut state = slot.state();
            state.result = Some(result);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Drop for Completer<T> {
    fn drop(&mut self) {
        self.finish(Err(Failure::from(Code::CLIENT_CLOSED)));
    }
}

/// Blocks the thread until the future is ready.
pub(crate) fn wait<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let waker = Waker::from(Arc::new(Parked(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        std::thread::park();
    }
}

struct Parked(std::thread::Thread);

impl Wake for Parked {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

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
    ready: std::collections::VecDeque<T>,
    fetching: Option<Reply<(Vec<T>, C)>>,
    /// A stream has told its end.
    is_over: bool,
}

impl<T, C: Copy> Fetched<T, C> {
    pub(super) fn new(
        cursor: C,
        fetch: impl Fn(C) -> Reply<(Vec<T>, C)> + Send + Sync + 'static,
    ) -> Fetched<T, C> {
        let (ready, fetch) = (std::collections::VecDeque::new(), Box::new(fetch));
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

/// Fills a [`Subscription`]. Dropped, it ends the stream with [`Code::CLIENT_CLOSED`].
#[derive(Debug)]
pub struct Feed {
    queue: Arc<Queue>,
}

/// Deliveries kept for a reader that is slow, at most; beyond it the reader has lagged.
pub const FEED_MAX: usize = 4_096;

#[derive(Debug)]
struct Queue {
    state: Mutex<QueueState>,
}

#[derive(Debug, Default)]
struct QueueState {
    waiting: std::collections::VecDeque<Delivery>,
    end: Option<Failure>,
    waker: Option<Waker>,
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
        self.queue.state().waiting.pop_front()
    }

    /// For implementations of streams.
    ///
    /// # Errors
    /// The reason why there will be no more deliveries.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Delivery, Failure>> {
        let mut state = self.queue.state();
        if let Some(delivery) = state.waiting.pop_front() {
            return Poll::Ready(Ok(delivery));
        }
        if let Some(end) = &state.end {
            return Poll::Ready(Err(end.clone()));
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Feed {
    /// Delivers. Where the reader is [`FEED_MAX`] behind, all it has not read is replaced by
    /// [`Delivery::Lagged`] with the index of this delivery.
    pub fn push(&self, delivery: Delivery) {
        let waker = {
            let mut state = self.queue.state();
            if state.waiting.len() >= FEED_MAX {
                state.waiting.clear();
                let oldest = match &delivery {
                    Delivery::Event { index, .. } => *index,
                    Delivery::Lagged { oldest } => *oldest,
                };
                state.waiting.push_back(Delivery::Lagged { oldest });
            }
            state.waiting.push_back(delivery);
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
