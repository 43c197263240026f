//! The semaphore as applications use it.

use super::{AcquireV1, CancelV1, DrainV1, ReleaseV1, ResizeV1, StatusV1, options};
use crate::machine::bytes::Reader;
use crate::machine::{Level, ResourceId, kind};
use crate::resource::claims::handle::{Held, Ways, acquire, milliseconds, or_timeout};
use crate::resource::handle::{Handle, read_count};
use crate::resource::{Reply, Submit};
use std::sync::Arc;
use std::time::Duration;

/// A fair semaphore.
///
/// Who asks for more permits than there are is refused with
/// [`BAD_AMOUNT`](crate::machine::Code::BAD_AMOUNT).
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let client = margay::client::Client::builder().endpoints(["127.0.0.1:5150"]).connect()?;
/// let downloads = client.semaphore("downloads", 4).wait()?; // 4 where it is created now
/// let permits = downloads.acquire(2).wait()?;
/// permits.release().wait()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Semaphore<S> {
    handle: Handle<S>,
}

/// How a semaphore stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SemaphoreStatus {
    /// Permits there are.
    pub permits: u64,
    /// Permits that are left. 0 too where more are out than there are.
    pub available: u64,
    /// How many requests hold permits.
    pub holders: u32,
    /// How many wait.
    pub waiting: u32,
}

impl<S: Submit> Semaphore<S> {
    /// Opens a semaphore by name; it is created with so many permits where there is none. Where it
    /// exists, `permits` is ignored.
    pub fn open(submit: S, name: &str, permits: u32) -> Reply<Semaphore<S>> {
        Handle::open_with(submit, name, kind::SEMAPHORE, &options(permits))
            .and_then(|handle| Ok(Semaphore { handle }))
    }

    /// The semaphore `id`.
    pub fn new(submit: S, id: ResourceId) -> Semaphore<S> {
        Semaphore { handle: Handle::new(submit, id) }
    }

    /// The same, with queries at another level.
    #[must_use]
    pub fn with_level(self, level: Level) -> Semaphore<S> {
        Semaphore { handle: self.handle.with_level(level) }
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

    /// Takes permits, however long that takes. Fails with
    /// [`BAD_AMOUNT`](crate::machine::Code::BAD_AMOUNT) where there are not so many at all, or for
    /// 0. Dropping the reply withdraws the request.
    pub fn acquire(&self, permits: u32) -> Reply<Permits<S>> {
        self.ask(permits, None).and_then(or_timeout)
    }

    /// Takes permits if the turn comes within `wait`, in log time; else `None`. Parts of a
    /// millisecond count as one. Dropping the reply withdraws the request.
    pub fn acquire_within(&self, permits: u32, wait: Duration) -> Reply<Option<Permits<S>>> {
        self.ask(permits, Some(milliseconds(wait)))
    }

    /// Takes permits if so many are left and nobody waits; else `None`.
    pub fn try_acquire(&self, permits: u32) -> Reply<Option<Permits<S>>> {
        self.ask(permits, Some(0))
    }

    /// Takes all permits that are left; `None` where there are none, or somebody waits.
    pub fn drain(&self) -> Reply<Option<Permits<S>>> {
        let request = self.handle.submit().unique();
        let asked = self.handle.command(&DrainV1 { request });
        let held = acquire(&self.handle, request, 0, asked, ways());
        held.and_then(|held| Ok(held.map(|held| Permits { held })))
    }

    /// Changes how many permits there are, those that are out included. Returns how many there
    /// were. Nobody loses what it holds.
    pub fn resize(&self, permits: u32) -> Reply<u64> {
        let resized = self.handle.command(&ResizeV1 { permits });
        resized.and_then(read_count)
    }

    /// How it stands.
    pub fn status(&self) -> Reply<SemaphoreStatus> {
        self.handle.query(&StatusV1 {}).and_then(|answer| {
            let mut reader = Reader::new(&answer.payload);
            let (permits, available) = (reader.u64()?, reader.u64()?);
            let (holders, waiting) = (reader.u32()?, reader.u32()?);
            Ok(SemaphoreStatus { permits, available, holders, waiting })
        })
    }

    fn ask(&self, permits: u32, wait_ms: Option<u64>) -> Reply<Option<Permits<S>>> {
        let request = self.handle.submit().unique();
        let asked = self.handle.command(&AcquireV1 { request, permits, wait_ms });
        let held = acquire(&self.handle, request, permits.into(), asked, ways());
        held.and_then(|held| Ok(held.map(|held| Permits { held })))
    }
}

fn ways<S: Submit>() -> Ways<S> {
    Ways {
        cancel: |handle, request| handle.command(&CancelV1 { request }),
        release: |handle, grant| {
            let permits = u32::try_from(grant.amount).unwrap_or(u32::MAX);
            handle.command(&ReleaseV1 { hold: grant.waiter.0, permits })
        },
    }
}

/// Permits held. Dropping this sends the release and does not wait for it: use
/// [`Permits::release`] to know.
#[must_use = "dropping it releases the permits"]
pub struct Permits<S: Submit> {
    held: Arc<Held<S>>,
}

impl<S: Submit> Permits<S> {
    /// How many they are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.held.grant().amount
    }

    /// The fencing token of the grant: never lower than that of an earlier one.
    #[must_use]
    pub fn token(&self) -> u64 {
        self.held.grant().token
    }

    /// Resolves when the permits may be somebody else's: see
    /// [`LockGuard::lost`](crate::resource::LockGuard::lost).
    pub fn lost(&self) -> Reply<()> {
        self.held.lost()
    }

    /// Gives them back. Fails with [`BAD_RELEASE`](crate::machine::Code::BAD_RELEASE) where they
    /// were lost before.
    pub fn release(self) -> Reply<()> {
        self.held.release()
    }
}
