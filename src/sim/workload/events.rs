//! A map that all clients write and watch, with entries that end by themselves. Whoever watches
//! sees every event, once and in order, or is told that some are missing: also over a new
//! connection, a new leader and a new session.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use super::{Actor, Journal, Workload};
use crate::machine::Filter;
use crate::resource::handle::Handle;
use crate::resource::map::Map;
use crate::resource::subscription::{Delivery, Subscription};
use crate::sim::Failure;
use crate::sim::client::Desk;
use margay_log::id::Index;

/// Keys that all clients share.
const KEYS: u64 = 4;

/// See the module's text.
pub(in crate::sim) struct Following {
    map: Map<Desk>,
    events: Subscription,
    /// The last event seen.
    last: Option<(Index, u32)>,
    /// Events without a gap between them.
    seen: Vec<Seen>,
}

/// An event: its position, its kind, what it says.
type Seen = ((Index, u32), u16, Vec<u8>);

/// What each client saw, in parts between which events are missing.
#[derive(Default)]
pub(in crate::sim) struct Streams(Vec<Vec<Seen>>);

impl Journal for Streams {
    fn judge(&mut self) -> Result<u64, Failure> {
        let failure = |what: &str, at: &Seen| {
            Failure::new("watchers see every event once and in order", format!("{what}: {at:?}"))
        };
        let mut all: BTreeMap<(Index, u32), &Seen> = BTreeMap::new();
        for part in &self.0 {
            for pair in part.windows(2) {
                if pair[0].0 >= pair[1].0 {
                    return Err(failure("out of order, or twice", &pair[1]));
                }
            }
            for event in part {
                if *all.entry(event.0).or_insert(event) != event {
                    return Err(failure("not what another saw there", event));
                }
            }
        }
        for part in &self.0 {
            let (Some(first), Some(last)) = (part.first(), part.last()) else { continue };
            let mut own = part.iter();
            for (position, event) in all.range(first.0..=last.0) {
                if own.next().map(|seen| seen.0) != Some(*position) {
                    return Err(failure("another saw it", event));
                }
            }
        }
        Ok(0)
    }
}

impl Following {
    fn subscribe(&mut self, actor: &Actor<Streams>) {
        let handle = Handle::new(actor.desk.clone(), self.map.id());
        self.events = handle.subscribe(self.last, Filter::All);
    }

    /// Takes what has come.
    async fn take(&mut self, actor: &mut Actor<Streams>) {
        loop {
            let next = poll_fn(|context| {
                Poll::Ready(match self.events.poll_next(context) {
                    Poll::Ready(next) => Some(next),
                    Poll::Pending => None,
                })
            });
            match next.await {
                None => return,
                Some(Ok(Delivery::Event { index, ordinal, kind, payload })) => {
                    self.last = Some((index, ordinal));
                    self.seen.push(((index, ordinal), kind, payload));
                }
                Some(Ok(Delivery::Lagged { .. })) => self.note(actor),
                // With the session. What happens until the next subscription is not lost.
                Some(Err(_)) => return self.subscribe(actor),
            }
        }
    }

    fn note(&mut self, actor: &Actor<Streams>) {
        let seen = std::mem::take(&mut self.seen);
        actor.note(|streams| streams.0.push(seen));
    }
}

impl Workload for Following {
    type Journal = Streams;

    async fn open(actor: &mut Actor<Streams>) -> Following {
        let map = actor.open(|desk| Map::open(desk, "followed")).await;
        let handle = Handle::new(actor.desk.clone(), map.id());
        let events = handle.subscribe(None, Filter::All);
        Following { map, events, last: None, seen: Vec::new() }
    }

    async fn act(&mut self, actor: &mut Actor<Streams>) {
        let key = actor.rng.below(KEYS).to_le_bytes();
        let value = actor.fresh().to_le_bytes();
        let map = self.map.clone();
        let done = match actor.rng.below(8) {
            0 => map.clear().await,
            1 => map.remove(&key).await.map(drop),
            2 => map.ephemeral().put(&key, &value).await.map(drop),
            3 | 4 => {
                let ttl = Duration::from_millis(1 + actor.rng.below(300));
                map.with_ttl(ttl).put(&key, &value).await.map(drop)
            }
            _ => map.put(&key, &value).await.map(drop),
        };
        actor.outcome(done);
        self.take(actor).await;
    }

    /// A last write must reach every watcher.
    async fn look(&mut self, actor: &mut Actor<Streams>) {
        let written = loop {
            if let Ok(version) = self.map.put(b"last", b"").await {
                break version;
            }
        };
        while self.last.is_none_or(|(index, _)| index < written) {
            actor.pause(50_000).await;
            self.take(actor).await;
        }
        self.note(actor);
    }
}
