//! The lock as applications use it.

use super::{CancelV1, GRANTED, HolderV1, LockV1, NOT_ACQUIRED, UnlockV1, WAITING};
use crate::machine::bytes::Reader;
use crate::machine::{Code, Level, NoticeState, Outcome, ResourceId, SessionId, kind};
use crate::resource::handle::Handle;
use crate::resource::{Answer, Failure, Reply, Submit};
use margay_log::id::Index;
use std::time::Duration;

/// A fair lock with fencing tokens.
#[derive(Clone, Debug)]
pub struct Lock<S> {
    handle: Handle<S>,
}

/// Who holds a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Holder {
    /// The session.
    pub session: SessionId,
    /// The token of its grant.
    pub token: u64,
    /// How many wait.
    pub waiting: u32,
}

impl<S: Submit> Lock<S> {
    /// Opens a lock by name; it is created where there is none.
    pub fn open(submit: S, name: &str) -> Reply<Lock<S>> {
        Handle::open(submit, name, kind::LOCK).and_then(|handle| Ok(Lock { handle }))
    }

    /// The lock `id`.
    pub fn new(submit: S, id: ResourceId) -> Lock<S> {
        Lock { handle: Handle::new(submit, id) }
    }

    /// The same, with queries at another level.
    #[must_use]
    pub fn with_level(self, level: Level) -> Lock<S> {
        Lock { handle: self.handle.with_level(level) }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> ResourceId {
        self.handle.id()
    }

    /// Acquires it, however long that takes. Dropping the reply withdraws the request.
    pub fn lock(&self) -> Reply<LockGuard<S>> {
        self.acquire(None).and_then(|guard| {
            let text = "the wait ended before its turn came";
            guard.ok_or_else(|| Failure::with_outcome(Code::TIMEOUT, Outcome::NotApplied, text))
        })
    }

    /// Acquires it if its turn comes within `wait`, in log time; else `None`. Parts of a
    /// millisecond count as one. Dropping the reply withdraws the request.
    pub fn lock_within(&self, wait: Duration) -> Reply<Option<LockGuard<S>>> {
        let milliseconds = wait.as_nanos().div_ceil(1_000_000);
        self.acquire(Some(u64::try_from(milliseconds).unwrap_or(u64::MAX)))
    }

    /// Acquires it if nobody holds it; else `None`.
    pub fn try_lock(&self) -> Reply<Option<LockGuard<S>>> {
        self.acquire(Some(0))
    }

    /// Who holds it, if anybody does.
    pub fn holder(&self) -> Reply<Option<Holder>> {
        self.handle.query(&HolderV1 {}).and_then(|answer| {
            let mut reader = Reader::new(&answer.payload);
            let held = reader.u8()? != 0;
            let (session, token) = (SessionId(reader.u64()?), reader.u64()?);
            let waiting = reader.u32()?;
            Ok(held.then_some(Holder { session, token, waiting }))
        })
    }

    /// Gives back a hold of this session whose token was kept but not its guard.
    pub fn unlock(&self, token: u64) -> Reply<()> {
        self.handle.command(&UnlockV1 { token }).and_then(|_| Ok(()))
    }

    fn acquire(&self, wait_ms: Option<u64>) -> Reply<Option<LockGuard<S>>> {
        let request = self.handle.submit().unique();
        let asked = self.handle.command(&LockV1 { request, wait_ms });
        let pending = Pending { handle: Some(self.handle.clone()), request };
        asked.then(move |result| pending.answered(result))
    }
}

/// A request under way. Dropped before it is over, it is taken back, whatever has become of it:
/// commands of a session are applied in order, so this one comes after the request.
struct Pending<S: Submit> {
    handle: Option<Handle<S>>,
    request: u64,
}

impl<S: Submit> Pending<S> {
    fn answered(mut self, result: Result<Answer, Failure>) -> Reply<Option<LockGuard<S>>> {
        match result.and_then(|answer| read_answer(&answer)) {
            Err(failure) => {
                if failure.outcome() == Outcome::NotApplied {
                    self.handle = None;
                }
                Reply::ready(Err(failure))
            }
            Ok((GRANTED, token, _)) => Reply::ready(Ok(self.granted(token))),
            Ok((WAITING, _, waiter)) => match &self.handle {
                Some(handle) => {
                    let noticed = handle.submit().await_notice(handle.id(), waiter);
                    noticed.map(move |state| self.noticed(state))
                }
                None => Reply::ready(Ok(None)),
            },
            Ok(_) => {
                self.handle = None;
                Reply::ready(Ok(None))
            }
        }
    }

    fn noticed(
        mut self,
        state: Result<NoticeState, Failure>,
    ) -> Result<Option<LockGuard<S>>, Failure> {
        match state? {
            NoticeState::Granted { token } => Ok(self.granted(token)),
            NoticeState::TimedOut | NoticeState::Released => {
                self.handle = None;
                Ok(None)
            }
            NoticeState::Lost => {
                self.handle = None;
                Err(Failure::new(Code::NO_SUCH_RESOURCE, "the lock was deleted"))
            }
            NoticeState::Waiting => Err(Failure::from(Code::BAD_PAYLOAD)),
        }
    }

    fn granted(&mut self, token: u64) -> Option<LockGuard<S>> {
        self.handle.take().map(|handle| LockGuard { handle: Some(handle), token })
    }
}

impl<S: Submit> Drop for Pending<S> {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.take() {
            drop(handle.command(&CancelV1 { request: self.request }));
        }
    }
}

fn read_answer(answer: &Answer) -> Result<(u8, u64, Index), Failure> {
    let mut reader = Reader::new(&answer.payload);
    let read = (reader.u8()?, reader.u64()?, Index(reader.u64()?));
    match read.0 {
        NOT_ACQUIRED | GRANTED | WAITING => Ok(read),
        _ => Err(Failure::from(Code::BAD_PAYLOAD)),
    }
}

/// A lock held. Dropping it sends the release and does not wait for it: use [`LockGuard::unlock`]
/// to know.
///
/// It says nothing about the present: the session may have expired and somebody else hold the
/// lock. Give [`LockGuard::token`] to whatever the lock protects.
#[must_use = "dropping the guard releases the lock"]
pub struct LockGuard<S: Submit> {
    handle: Option<Handle<S>>,
    token: u64,
}

impl<S: Submit> LockGuard<S> {
    /// The fencing token: rises strictly with every grant.
    #[must_use]
    pub fn token(&self) -> u64 {
        self.token
    }

    /// Releases the lock. Fails with [`Code::NOT_HOLDER`] where it was lost before.
    pub fn unlock(mut self) -> Reply<()> {
        match self.handle.take() {
            Some(handle) => handle.command(&UnlockV1 { token: self.token }).and_then(|_| Ok(())),
            None => Reply::ready(Ok(())),
        }
    }

    /// Keeps the lock without a guard, until [`Lock::unlock`] or the end of the session. Returns
    /// the token.
    #[must_use]
    pub fn keep(mut self) -> u64 {
        self.handle = None;
        self.token
    }
}

impl<S: Submit> Drop for LockGuard<S> {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.take() {
            drop(handle.command(&UnlockV1 { token: self.token }));
        }
    }
}
