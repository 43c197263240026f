//! The latch as applications use it.

use super::{AwaitV1, CancelV1, CountDownV1, StatusV1, options};
use crate::machine::bytes::Reader;
use crate::machine::{Level, ResourceId, kind};
use crate::resource::claims::handle::{Ways, acquire, milliseconds, or_timeout};
use crate::resource::handle::{Handle, read_count};
use crate::resource::{Reply, Submit};
use std::time::Duration;

/// A count-down latch.
///
/// At most 10,000 wait for it: see [`TOO_MANY_WAITERS`](crate::machine::Code::TOO_MANY_WAITERS).
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let client = margay::client::Client::builder().endpoints(["127.0.0.1:5150"]).connect()?;
/// let ready = client.latch("ready", 3).wait()?; // 3 where it is created now
/// ready.count_down().wait()?;
/// ready.opened().wait()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Latch<S> {
    handle: Handle<S>,
}

/// How a latch stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LatchStatus {
    /// What is left to count down; 0 where it is open.
    pub left: u64,
    /// How many wait.
    pub waiting: u32,
}

impl<S: Submit> Latch<S> {
    /// Opens a latch by name; it is created to count down from `count` where there is none. Where
    /// it exists, `count` is ignored.
    pub fn open(submit: S, name: &str, count: u32) -> Reply<Latch<S>> {
        Handle::open_with(submit, name, kind::LATCH, &options(count))
            .and_then(|handle| Ok(Latch { handle }))
    }

    /// The latch `id`.
    pub fn new(submit: S, id: ResourceId) -> Latch<S> {
        Latch { handle: Handle::new(submit, id) }
    }

    /// The same, with queries at another level.
    #[must_use]
    pub fn with_level(self, level: Level) -> Latch<S> {
        Latch { handle: self.handle.with_level(level) }
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

    /// Counts down by 1. Returns what is left.
    pub fn count_down(&self) -> Reply<u64> {
        self.count_down_by(1)
    }

    /// Counts down, to zero at most. Returns what is left. Fails with
    /// [`BAD_AMOUNT`](crate::machine::Code::BAD_AMOUNT) for 0.
    pub fn count_down_by(&self, by: u32) -> Reply<u64> {
        self.handle.command(&CountDownV1 { by }).and_then(read_count)
    }

    /// Waits until it is open. Dropping the reply withdraws.
    pub fn opened(&self) -> Reply<()> {
        self.ask(None).and_then(or_timeout)
    }

    /// Waits until it is open, no longer than `wait`, in log time. Returns whether it is. Parts of
    /// a millisecond count as one.
    pub fn opened_within(&self, wait: Duration) -> Reply<bool> {
        self.ask(Some(milliseconds(wait))).and_then(|opened| Ok(opened.is_some()))
    }

    /// How it stands.
    pub fn status(&self) -> Reply<LatchStatus> {
        self.handle.query(&StatusV1 {}).and_then(|answer| {
            let mut reader = Reader::new(&answer.payload);
            Ok(LatchStatus { left: reader.u64()?, waiting: reader.u32()? })
        })
    }

    fn ask(&self, wait_ms: Option<u64>) -> Reply<Option<()>> {
        let request = self.handle.submit().unique();
        let asked = self.handle.command(&AwaitV1 { request, wait_ms });
        let ways = Ways::cancelling::<CancelV1>();
        // Dropping what was granted tells that it was seen.
        acquire(&self.handle, request, 1, asked, ways).and_then(|passed| Ok(passed.map(drop)))
    }
}
