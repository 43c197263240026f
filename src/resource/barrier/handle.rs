//! The barrier as applications use it.

use super::{AwaitV1, CancelV1, ResetV1, StatusV1, options};
use crate::machine::bytes::Reader;
use crate::machine::{Level, ResourceId, kind};
use crate::resource::claims::handle::{Ways, acquire, milliseconds, or_timeout};
use crate::resource::handle::Handle;
use crate::resource::{Reply, Submit};
use std::time::Duration;

/// A cyclic barrier.
///
/// At most 5,000 parties.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let client = margay::client::Client::builder().endpoints(["127.0.0.1:5150"]).connect()?;
/// let start = client.barrier("start", 3).wait()?; // 3 where it is created now
/// let round = start.arrive().wait()?; // until three have come
/// # let _ = round;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Barrier<S> {
    handle: Handle<S>,
}

/// How a barrier stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BarrierStatus {
    /// How many it is for.
    pub parties: u32,
    /// How many wait.
    pub waiting: u32,
}

impl<S: Submit> Barrier<S> {
    /// Opens a barrier by name; it is created for so many parties where there is none. Where it
    /// exists, `parties` is ignored. 1 to [`PARTIES_MAX`](super::PARTIES_MAX).
    pub fn open(submit: S, name: &str, parties: u32) -> Reply<Barrier<S>> {
        Handle::open_with(submit, name, kind::BARRIER, &options(parties))
            .and_then(|handle| Ok(Barrier { handle }))
    }

    /// The barrier `id`.
    pub fn new(submit: S, id: ResourceId) -> Barrier<S> {
        Barrier { handle: Handle::new(submit, id) }
    }

    /// The same, with queries at another level.
    #[must_use]
    pub fn with_level(self, level: Level) -> Barrier<S> {
        Barrier { handle: self.handle.with_level(level) }
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

    /// Waits until all parties are here. Returns the round, the same for all who pass together;
    /// rounds rise. Fails with [`WAIT_LOST`](crate::machine::Code::WAIT_LOST) where the barrier was
    /// reset or deleted. Dropping the reply withdraws.
    pub fn arrive(&self) -> Reply<u64> {
        self.ask(None).and_then(or_timeout)
    }

    /// The same; `None` where the round is not complete within `wait`, in log time. Parts of a
    /// millisecond count as one.
    pub fn arrive_within(&self, wait: Duration) -> Reply<Option<u64>> {
        self.ask(Some(milliseconds(wait)))
    }

    /// Sends away all who wait: they fail.
    pub fn reset(&self) -> Reply<()> {
        self.handle.command(&ResetV1 {}).and_then(|_| Ok(()))
    }

    /// How it stands.
    pub fn status(&self) -> Reply<BarrierStatus> {
        self.handle.query(&StatusV1 {}).and_then(|answer| {
            let mut reader = Reader::new(&answer.payload);
            Ok(BarrierStatus { parties: reader.u32()?, waiting: reader.u32()? })
        })
    }

    fn ask(&self, wait_ms: Option<u64>) -> Reply<Option<u64>> {
        let request = self.handle.submit().unique();
        let asked = self.handle.command(&AwaitV1 { request, wait_ms });
        let ways = Ways::cancelling::<CancelV1>();
        // Dropping what was granted tells that it was seen.
        let passed = acquire(&self.handle, request, 1, asked, ways);
        passed.and_then(|passed| Ok(passed.map(|passed| passed.grant().token)))
    }
}
