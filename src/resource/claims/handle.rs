//! What applications hold of claims: a request under way, and a grant that is given back when it is
//! dropped.

use super::{GRANTED, NOT_ACQUIRED, WAITING};
use crate::machine::bytes::Reader;
use crate::machine::{Code, NoticeState, Outcome};
use crate::resource::codec::Encode;
use crate::resource::handle::Handle;
use crate::resource::{Answer, Failure, Reply, Submit};
use margay_log::id::Index;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A span in the unit of operations; parts of a millisecond count as one.
pub(in super::super) fn milliseconds(span: Duration) -> u64 {
    u64::try_from(span.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// What was granted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) struct Grant {
    pub(in super::super) request: u64,
    /// Names the hold.
    pub(in super::super) waiter: Index,
    pub(in super::super) token: u64,
    pub(in super::super) amount: u64,
}

/// How a type of resource takes back what it granted.
pub(in super::super) struct Ways<S> {
    /// By the request's number, whatever became of it.
    pub(in super::super) cancel: fn(&Handle<S>, u64) -> Reply<Answer>,
    /// What is held. Fails where it is not.
    pub(in super::super) release: fn(&Handle<S>, &Grant) -> Reply<Answer>,
}

impl<S: Submit> Ways<S> {
    /// For what is given back as a request is taken back: `C` makes that command.
    pub(in super::super) fn cancelling<C: Cancel>() -> Ways<S> {
        Ways {
            cancel: |handle, request| handle.command(&C::of(request)),
            release: |handle, grant| handle.command(&C::of(grant.request)),
        }
    }
}

/// The command that takes back a request.
pub(in super::super) trait Cancel: Encode {
    /// That of this number.
    fn of(request: u64) -> Self;
}

impl<S> Clone for Ways<S> {
    fn clone(&self) -> Ways<S> {
        *self
    }
}

impl<S> Copy for Ways<S> {}

/// Something held; given back when the last of its guards is dropped.
pub(in super::super) struct Held<S: Submit> {
    handle: Handle<S>,
    grant: Grant,
    ways: Ways<S>,
    /// What the answer listed behind the grant; `None` for one that had to be waited for.
    listed: Option<Vec<u8>>,
    /// Given back, or kept without a guard.
    let_go: AtomicBool,
}

impl<S: Submit> Held<S> {
    pub(in super::super) fn grant(&self) -> &Grant {
        &self.grant
    }

    /// What the answer listed behind the grant; `None` for one that had to be waited for.
    pub(in super::super) fn listed(&self) -> Option<&[u8]> {
        self.listed.as_deref()
    }

    /// Gives it back and says whether it was still held. Where that fails, or nobody waits to see,
    /// it is given back as if it had been dropped.
    pub(in super::super) fn release(&self) -> Reply<()> {
        if self.let_go.swap(true, Ordering::Relaxed) {
            return Reply::ready(Ok(()));
        }
        let (handle, grant, ways) = (self.handle.clone(), self.grant, self.ways);
        let mut unsure = Unsure { handle, grant, ways, is_over: false };
        (self.ways.release)(&self.handle, &self.grant).map(move |result| {
            unsure.learn(&result);
            result.map(drop)
        })
    }

    /// Is not given back when this is dropped.
    pub(in super::super) fn keep(&self) {
        self.let_go.store(true, Ordering::Relaxed);
    }

    /// Resolves when it may no longer be held.
    pub(in super::super) fn lost(&self) -> Reply<()> {
        self.handle.submit().await_end(self.handle.id(), self.grant.waiter).and_then(|_| Ok(()))
    }
}

impl<S: Submit> Drop for Held<S> {
    fn drop(&mut self) {
        if !*self.let_go.get_mut() {
            drop((self.ways.release)(&self.handle.lasting(), &self.grant));
        }
    }
}

/// Was to be given back, with an answer that nobody has seen yet. Dropped before it is over, it is
/// given back once more; what is not held any more is not touched by that. No guard: who asks
/// again meanwhile must not share the hold.
struct Unsure<S: Submit> {
    handle: Handle<S>,
    grant: Grant,
    ways: Ways<S>,
    is_over: bool,
}

impl<S: Submit> Unsure<S> {
    fn learn(&mut self, result: &Result<Answer, Failure>) {
        self.is_over = is_over(result);
    }
}

impl<S: Submit> Drop for Unsure<S> {
    fn drop(&mut self) {
        if !self.is_over {
            drop((self.ways.release)(&self.handle.lasting(), &self.grant));
        }
    }
}

/// Whether what was to be given back with this result is certainly not held any more.
pub(in super::super) fn is_over(result: &Result<Answer, Failure>) -> bool {
    result.as_ref().err().is_none_or(|failure| {
        failure.outcome() == Outcome::Applied || failure.code == Code::SESSION_EXPIRED
    })
}

/// Asks for something. `None` where it was not to be had in time.
pub(in super::super) fn acquire<S: Submit>(
    handle: &Handle<S>,
    request: u64,
    amount: u64,
    asked: Reply<Answer>,
    ways: Ways<S>,
) -> Reply<Option<Arc<Held<S>>>> {
    let pending = Pending { handle: Some(handle.clone()), request, amount, ways, listed: None };
    asked.then(move |result| pending.answered(result))
}

/// A wait that only a time-out or the session itself could end has ended.
pub(in super::super) fn or_timeout<T>(granted: Option<T>) -> Result<T, Failure> {
    let text = "the wait ended before its turn came";
    granted.ok_or_else(|| Failure::with_outcome(Code::TIMEOUT, Outcome::NotApplied, text))
}

/// A request under way. Dropped before it is over, it is taken back, whatever has become of it:
/// commands of a session are applied in order, so this one comes after the request.
struct Pending<S: Submit> {
    handle: Option<Handle<S>>,
    request: u64,
    amount: u64,
    ways: Ways<S>,
    listed: Option<Vec<u8>>,
}

impl<S: Submit> Pending<S> {
    fn answered(mut self, result: Result<Answer, Failure>) -> Reply<Option<Arc<Held<S>>>> {
        match result.and_then(|answer| self.read_answer(&answer)) {
            Err(failure) => {
                if failure.outcome() == Outcome::NotApplied {
                    self.handle = None;
                }
                Reply::ready(Err(failure))
            }
            Ok((GRANTED, token, waiter)) => Reply::ready(Ok(self.granted(waiter, token))),
            Ok((WAITING, _, waiter)) => match &self.handle {
                Some(handle) => {
                    let noticed = handle.submit().await_notice(handle.id(), waiter);
                    noticed.map(move |state| self.noticed(waiter, state))
                }
                None => Reply::ready(Ok(None)),
            },
            Ok(_) => {
                self.handle = None;
                Reply::ready(Ok(None))
            }
        }
    }

    /// Answer, token, name of the hold. Where the amount was left to the resource (0), it follows;
    /// the rest is kept.
    fn read_answer(&mut self, answer: &Answer) -> Result<(u8, u64, Index), Failure> {
        let mut reader = Reader::new(&answer.payload);
        let read = (reader.u8()?, reader.u64()?, Index(reader.u64()?));
        if self.amount == 0 && !reader.is_empty() {
            self.amount = reader.u64()?;
        }
        if read.0 == GRANTED {
            self.listed = Some(reader.rest().to_vec());
        }
        match read.0 {
            NOT_ACQUIRED | GRANTED | WAITING => Ok(read),
            _ => Err(Failure::from(Code::BAD_PAYLOAD)),
        }
    }

    fn noticed(
        mut self,
        waiter: Index,
        state: Result<NoticeState, Failure>,
    ) -> Result<Option<Arc<Held<S>>>, Failure> {
        match state? {
            NoticeState::Granted { token } => Ok(self.granted(waiter, token)),
            NoticeState::TimedOut | NoticeState::Released => {
                self.handle = None;
                Ok(None)
            }
            NoticeState::Lost => {
                self.handle = None;
                let text = "the wait was ended by others: deleted, reset or evicted";
                Err(Failure::with_outcome(Code::WAIT_LOST, Outcome::NotApplied, text))
            }
            NoticeState::Waiting => Err(Failure::from(Code::BAD_PAYLOAD)),
        }
    }

    fn granted(&mut self, waiter: Index, token: u64) -> Option<Arc<Held<S>>> {
        let Pending { request, amount, ways, .. } = *self;
        let grant = Grant { request, waiter, token, amount };
        let handle = self.handle.take()?;
        let (listed, let_go) = (self.listed.take(), AtomicBool::new(false));
        Some(Arc::new(Held { handle, grant, ways, listed, let_go }))
    }
}

impl<S: Submit> Drop for Pending<S> {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.take() {
            drop((self.ways.cancel)(&handle.lasting(), self.request));
        }
    }
}
