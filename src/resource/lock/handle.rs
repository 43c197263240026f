//! The lock as applications use it.

use super::{CancelV1, HolderV1, LockV1, UnlockV1};
use crate::machine::bytes::Reader;
use crate::machine::{Level, ResourceId, SessionId, kind};
use crate::resource::claims::handle::{Held, Ways, acquire, milliseconds, or_timeout};
use crate::resource::handle::Handle;
use crate::resource::{Reply, Submit};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

/// A fair lock with fencing tokens.
///
/// At most 10,000 wait for it: see [`TOO_MANY_WAITERS`](crate::machine::Code::TOO_MANY_WAITERS).
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let client = margay::client::Client::builder().endpoints(["127.0.0.1:5150"]).connect()?;
/// use std::time::Duration;
/// let nightly = client.lock("nightly").wait()?;
/// match nightly.lock_within(Duration::from_secs(10)).wait()? {
///     Some(guard) => println!("pass {} to whatever the lock protects", guard.token()),
///     None => println!("somebody else has it"),
/// }
/// # Ok(())
/// # }
/// ```
pub struct Lock<S: Submit> {
    handle: Handle<S>,
    /// What the clones of a re-entrant handle hold together.
    shared: Option<Arc<Mutex<Weak<Held<S>>>>>,
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
        Handle::open(submit, name, kind::LOCK).and_then(|handle| Ok(Lock { handle, shared: None }))
    }

    /// The lock `id`.
    pub fn new(submit: S, id: ResourceId) -> Lock<S> {
        Lock { handle: Handle::new(submit, id), shared: None }
    }

    /// The same, with queries at another level.
    #[must_use]
    pub fn with_level(self, level: Level) -> Lock<S> {
        Lock { handle: self.handle.with_level(level), ..self }
    }

    /// A re-entrant handle: while it or a clone of it holds the lock, asking again gives at once
    /// another guard of the same hold, with the same token. The last guard dropped gives it back.
    ///
    /// It is for one task that calls itself: tasks that must exclude each other need handles of
    /// their own.
    #[must_use]
    pub fn reentrant(self) -> Lock<S> {
        Lock { shared: Some(Arc::new(Mutex::new(Weak::new()))), ..self }
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

    /// Acquires it, however long that takes. Dropping the reply withdraws the request.
    pub fn lock(&self) -> Reply<LockGuard<S>> {
        self.acquire(None).and_then(or_timeout)
    }

    /// Acquires it if its turn comes within `wait`, in log time; else `None`. Parts of a
    /// millisecond count as one. Dropping the reply withdraws the request.
    pub fn lock_within(&self, wait: Duration) -> Reply<Option<LockGuard<S>>> {
        self.acquire(Some(milliseconds(wait)))
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

    /// Whether anybody holds it.
    pub fn is_held(&self) -> Reply<bool> {
        self.holder().and_then(|holder| Ok(holder.is_some()))
    }

    /// Gives back a hold of this session whose token was kept but not its guard.
    pub fn unlock(&self, token: u64) -> Reply<()> {
        self.handle.command(&UnlockV1 { token }).and_then(|_| Ok(()))
    }

    fn acquire(&self, wait_ms: Option<u64>) -> Reply<Option<LockGuard<S>>> {
        if let Some(held) = self.shared.as_ref().and_then(|shared| locked(shared).upgrade()) {
            return Reply::ready(Ok(Some(LockGuard { held })));
        }
        let (request, shared) = (self.handle.submit().unique(), self.shared.clone());
        let asked = self.handle.command(&LockV1 { request, wait_ms });
        acquire(&self.handle, request, 1, asked, ways()).and_then(move |held| {
            if let (Some(shared), Some(held)) = (shared, &held) {
                *locked(&shared) = Arc::downgrade(held);
            }
            Ok(held.map(|held| LockGuard { held }))
        })
    }
}

fn ways<S: Submit>() -> Ways<S> {
    Ways {
        cancel: |handle, request| handle.command(&CancelV1 { request }),
        release: |handle, grant| handle.command(&UnlockV1 { token: grant.token }),
    }
}

/// A panic elsewhere does not make a pointer invalid.
fn locked<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: Submit> Clone for Lock<S> {
    fn clone(&self) -> Lock<S> {
        Lock { handle: self.handle.clone(), shared: self.shared.clone() }
    }
}

impl<S: Submit> fmt::Debug for Lock<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock").field("id", &self.id()).finish_non_exhaustive()
    }
}

/// A lock held. Dropping it sends the release and does not wait for it: use [`LockGuard::unlock`]
/// to know.
///
/// It says nothing about the present: the session may have expired and somebody else hold the
/// lock. Give [`LockGuard::token`] to whatever the lock protects, and stop when
/// [`LockGuard::lost`] tells.
#[must_use = "dropping the guard releases the lock"]
pub struct LockGuard<S: Submit> {
    held: Arc<Held<S>>,
}

impl<S: Submit> LockGuard<S> {
    /// The fencing token: rises strictly with every grant.
    #[must_use]
    pub fn token(&self) -> u64 {
        self.held.grant().token
    }

    /// Resolves when the lock may be somebody else's: it was deleted or given back, or the session
    /// was not heard of for so long that it may have expired. Fails where the client was closed.
    pub fn lost(&self) -> Reply<()> {
        self.held.lost()
    }

    /// Releases the lock. Fails with [`NOT_HOLDER`](crate::machine::Code::NOT_HOLDER) where it was
    /// lost before. Where other guards share the hold, these keep it.
    pub fn unlock(self) -> Reply<()> {
        match Arc::into_inner(self.held) {
            Some(held) => held.release(),
            None => Reply::ready(Ok(())),
        }
    }

    /// Keeps the lock without a guard, until [`Lock::unlock`] or the end of the session. Returns
    /// the token.
    #[must_use]
    pub fn keep(self) -> u64 {
        self.held.keep();
        self.token()
    }
}
