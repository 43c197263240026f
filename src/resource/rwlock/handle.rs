//! The read-write lock as applications use it.

use super::{CancelV1, LockV1, StatusV1, UnlockV1};
use crate::machine::bytes::Reader;
use crate::machine::{Level, ResourceId, SessionId, kind};
use crate::resource::claims::handle::{Held, Ways, acquire, milliseconds, or_timeout};
use crate::resource::handle::Handle;
use crate::resource::{Reply, Submit};
use std::sync::Arc;
use std::time::Duration;

/// A fair read-write lock.
///
/// Many read, or one writes, in the order in which they came.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let client = margay::client::Client::builder().endpoints(["127.0.0.1:5150"]).connect()?;
/// let config = client.rwlock("config").wait()?;
/// let reader = config.read().wait()?;
/// reader.unlock().wait()?;
/// let writer = config.write().wait()?;
/// println!("pass {} to whatever it protects", writer.token());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct RwLock<S> {
    handle: Handle<S>,
}

/// How a read-write lock stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RwLockStatus {
    /// The session and token of the writer that holds it.
    pub writer: Option<(SessionId, u64)>,
    /// Readers that hold it.
    pub readers: u32,
    /// How many wait, readers and writers.
    pub waiting: u32,
}

impl<S: Submit> RwLock<S> {
    /// Opens a read-write lock by name; it is created where there is none.
    pub fn open(submit: S, name: &str) -> Reply<RwLock<S>> {
        Handle::open(submit, name, kind::RW_LOCK).and_then(|handle| Ok(RwLock { handle }))
    }

    /// The read-write lock `id`.
    pub fn new(submit: S, id: ResourceId) -> RwLock<S> {
        RwLock { handle: Handle::new(submit, id) }
    }

    /// The same, with queries at another level.
    #[must_use]
    pub fn with_level(self, level: Level) -> RwLock<S> {
        RwLock { handle: self.handle.with_level(level) }
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

    /// Acquires it beside other readers, however long that takes. Dropping the reply withdraws the
    /// request; so with all of these.
    pub fn read(&self) -> Reply<RwLockGuard<S>> {
        self.ask(false, None).and_then(or_timeout)
    }

    /// Acquires it alone, however long that takes.
    pub fn write(&self) -> Reply<RwLockGuard<S>> {
        self.ask(true, None).and_then(or_timeout)
    }

    /// As [`RwLock::read`], if the turn comes within `wait`, in log time; else `None`. Parts of a
    /// millisecond count as one.
    pub fn read_within(&self, wait: Duration) -> Reply<Option<RwLockGuard<S>>> {
        self.ask(false, Some(milliseconds(wait)))
    }

    /// As [`RwLock::write`], if the turn comes within `wait`, in log time; else `None`.
    pub fn write_within(&self, wait: Duration) -> Reply<Option<RwLockGuard<S>>> {
        self.ask(true, Some(milliseconds(wait)))
    }

    /// Acquires it beside other readers if no writer holds it and nobody waits; else `None`.
    pub fn try_read(&self) -> Reply<Option<RwLockGuard<S>>> {
        self.ask(false, Some(0))
    }

    /// Acquires it alone if nobody holds it; else `None`.
    pub fn try_write(&self) -> Reply<Option<RwLockGuard<S>>> {
        self.ask(true, Some(0))
    }

    /// How it stands.
    pub fn status(&self) -> Reply<RwLockStatus> {
        self.handle.query(&StatusV1 {}).and_then(|answer| {
            let mut reader = Reader::new(&answer.payload);
            let (session, token) = (SessionId(reader.u64()?), reader.u64()?);
            let (readers, waiting) = (reader.u32()?, reader.u32()?);
            let writer = (token != 0).then_some((session, token));
            Ok(RwLockStatus { writer, readers, waiting })
        })
    }

    fn ask(&self, write: bool, wait_ms: Option<u64>) -> Reply<Option<RwLockGuard<S>>> {
        let request = self.handle.submit().unique();
        let asked = self.handle.command(&LockV1 { request, write, wait_ms });
        let ways = Ways {
            cancel: |handle, request| handle.command(&CancelV1 { request }),
            release: |handle, grant| handle.command(&UnlockV1 { hold: grant.waiter.0 }),
        };
        let held = acquire(&self.handle, request, 1, asked, ways);
        held.and_then(move |held| Ok(held.map(|held| RwLockGuard { held, write })))
    }
}

/// A read-write lock held. Dropping it sends the release and does not wait for it: use
/// [`RwLockGuard::unlock`] to know.
#[must_use = "dropping the guard releases the lock"]
pub struct RwLockGuard<S: Submit> {
    held: Arc<Held<S>>,
    write: bool,
}

impl<S: Submit> RwLockGuard<S> {
    /// Whether it is held alone.
    #[must_use]
    pub fn is_writer(&self) -> bool {
        self.write
    }

    /// The fencing token. A writer's is higher than those of all grants before it.
    #[must_use]
    pub fn token(&self) -> u64 {
        self.held.grant().token
    }

    /// Resolves when the lock may be somebody else's: see
    /// [`LockGuard::lost`](crate::resource::LockGuard::lost).
    pub fn lost(&self) -> Reply<()> {
        self.held.lost()
    }

    /// Releases it. Fails with [`NOT_HOLDER`](crate::machine::Code::NOT_HOLDER) where it was lost
    /// before.
    pub fn unlock(self) -> Reply<()> {
        self.held.release()
    }
}
