//! Events: every client sets one value and watches it.
//!
//! What a subscription delivers rises strictly, repeats nothing and misses nothing that anybody
//! knows of, unless it says that it lagged; and an event of an index comes before the reply to an
//! operation that saw that index.

use std::collections::BTreeMap;

use margay_log::id::Index;

use super::{Actor, Journal, Workload};
use crate::machine::EventPayload;
use crate::machine::Filter;
use crate::resource::value::Value;
use crate::resource::{Delivery, Submit, Subscription};
use crate::sim::Failure;
use crate::sim::client::Desk;

/// See the module's text.
pub(in crate::sim) struct Watching {
    value: Value<Desk>,
    events: Subscription,
    /// Number of the subscription in the journal.
    number: usize,
    /// The last event's position.
    last: (Index, u32),
}

/// What one subscription delivered.
#[derive(Default)]
struct Seen {
    indexes: Vec<Index>,
    /// From here on something may be missing up to the next event.
    lags: Vec<Index>,
}

/// All events that anybody knows of, with the value that was set.
#[derive(Default)]
pub(in crate::sim) struct Events {
    known: BTreeMap<Index, u64>,
    subscriptions: Vec<Seen>,
    wrong: Vec<String>,
}

impl Events {
    fn know(&mut self, index: Index, value: u64) {
        let known = *self.known.entry(index).or_insert(value);
        if known != value {
            self.wrong.push(format!("index {index} set {known:#x} and {value:#x}"));
        }
    }
}

impl Journal for Events {
    fn judge(&mut self) -> Result<u64, Failure> {
        for (number, seen) in self.subscriptions.iter().enumerate() {
            let mut before = Index::ZERO;
            for &index in &seen.indexes {
                if index <= before {
                    continue; // Of the same entry, or noted as wrong when it came.
                }
                let missed = self.known.range(before.next()..index).next();
                if let Some((missed, _)) = missed
                    && !seen.lags.contains(&before)
                {
                    let wrong = format!("subscription {number} missed the event of {missed}");
                    self.wrong.push(wrong);
                }
                before = index;
            }
        }
        match self.wrong.first() {
            None => Ok(0),
            Some(wrong) => Err(Failure::new("events are complete and in order", wrong.clone())),
        }
    }
}

impl Watching {
    /// Takes what has come.
    fn take(&mut self, actor: &Actor<Events>) {
        while let Some(delivery) = self.events.try_next() {
            actor.note(|events| self.note(delivery, events));
        }
    }

    fn note(&mut self, delivery: Delivery, events: &mut Events) {
        match delivery {
            Delivery::Event { index, ordinal, payload, .. } => {
                if (index, ordinal) <= self.last {
                    let last = self.last;
                    events.wrong.push(format!("event {index}.{ordinal} came after {last:?}"));
                }
                self.last = (index, ordinal);
                events.subscriptions[self.number].indexes.push(index);
                let new = EventPayload::decode(&payload).ok().and_then(|payload| payload.new);
                match new.and_then(|new| new.try_into().ok()).map(u64::from_le_bytes) {
                    Some(value) => events.know(index, value),
                    None => events.wrong.push(format!("event {index} holds no value")),
                }
            }
            Delivery::Lagged { .. } => {
                events.subscriptions[self.number].lags.push(self.last.0);
            }
        }
    }

    /// An operation has seen `index`: so has the subscription.
    fn saw(&mut self, actor: &Actor<Events>, index: Index) {
        self.take(actor);
        let last = self.last.0;
        actor.note(|events| {
            let lags = &events.subscriptions[self.number].lags;
            if last < index && events.known.contains_key(&index) && lags.last() != Some(&last) {
                events.wrong.push(format!("a reply saw {index}, the events had come to {last}"));
            }
        });
    }
}

impl Workload for Watching {
    type Journal = Events;

    async fn open(actor: &mut Actor<Events>) -> Watching {
        let value = actor.open(|desk| Value::open(desk, "watched")).await;
        // From the very first event on.
        let from = Some((Index::ZERO, 0));
        let events = actor.desk.subscribe(value.id(), from, Filter::All);
        let mut number = 0;
        actor.note(|journal| {
            number = journal.subscriptions.len();
            journal.subscriptions.push(Seen::default());
        });
        Watching { value, events, number, last: (Index::ZERO, 0) }
    }

    async fn act(&mut self, actor: &mut Actor<Events>) {
        if actor.rng.chance(1, 2) {
            let value = actor.fresh();
            let set = self.value.set(&value.to_le_bytes()).await;
            if let Some(Some((_, index))) = actor.outcome(set) {
                actor.note(|events| events.know(index, value));
                self.saw(actor, index);
            }
        } else {
            let got = self.value.get().await;
            if let Some(Some((_, Some(found)))) = actor.outcome(got) {
                self.saw(actor, found.version);
            }
        }
        actor.pause(20_000).await;
    }

    /// The last event arrives.
    async fn look(&mut self, actor: &mut Actor<Events>) {
        let last = loop {
            if let Ok(found) = self.value.get().await {
                break found.map_or(Index::ZERO, |found| found.version);
            }
        };
        loop {
            self.take(actor);
            if self.last.0 >= last {
                return;
            }
            actor.pause(10_000).await;
        }
    }
}
