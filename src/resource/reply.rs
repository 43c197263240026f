//! Answers that come later: futures of no runtime that can also be waited for.
//!
//! The only file of this module that knows threads. A [`Reply`] is completed by whoever does the
//! I/O through its [`Completer`]; dropping the reply does not take the operation back.

use crate::machine::{Code, Outcome};
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

    /// The failure of one of several parts, where those before it `have_changed` something: that
    /// this one has not does not mean that nothing is changed.
    pub(super) fn behind(self, have_changed: bool) -> Failure {
        match self.outcome {
            Outcome::NotApplied if have_changed => Failure { outcome: Outcome::Unknown, ..self },
            _ => self,
        }
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

/// What leads to the reply that is waited for next, in its place: a chain of replies of any length,
/// as an update makes that is overtaken again and again, is no deeper than its first one.
type Steps<T> = Pin<Box<dyn Future<Output = Source<T>> + Send>>;

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
        let steps = async move { Source::Ready(Some(read(self.await))) };
        Reply { source: Source::Steps(Box::pin(steps)) }
    }

    /// Goes on with another reply once the result is there. `next` runs when somebody awaits or
    /// waits.
    pub fn then<U: Send + 'static>(
        self,
        next: impl FnOnce(Result<T, Failure>) -> Reply<U> + Send + 'static,
    ) -> Reply<U> {
        let steps = async move { next(self.await).source };
        Reply { source: Source::Steps(Box::pin(steps)) }
    }
}

// The future inside `Steps` is pinned by its box; nothing else needs to stay where it is.
impl<T> Unpin for Reply<T> {}

impl<T> Future for Reply<T> {
    type Output = Result<T, Failure>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            match &mut self.source {
                Source::Ready(result) => {
                    let result = result.take().expect("a reply is not polled after it was ready");
                    return Poll::Ready(result);
                }
                Source::Steps(steps) => match steps.as_mut().poll(context) {
                    Poll::Ready(next) => self.source = next,
                    Poll::Pending => return Poll::Pending,
                },
                Source::Slot(slot) => {
                    let mut state = slot.state();
                    if let Some(result) = state.result.take() {
                        return Poll::Ready(result);
                    }
                    match &mut state.waker {
                        Some(waker) => waker.clone_from(context.waker()),
                        none => *none = Some(context.waker().clone()),
                    }
                    return Poll::Pending;
                }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// As an update that is overtaken so often, or a search through so many pages.
    #[test]
    fn a_long_chain_of_replies_needs_no_deep_stack() {
        fn count_down(left: u32) -> Reply<u32> {
            Reply::ready(Ok(left)).then(|left| match left {
                Ok(left) if left > 0 => count_down(left - 1),
                end => Reply::ready(end),
            })
        }
        assert_eq!(count_down(100_000).wait(), Ok(0));
    }
}
