//! A topic to which all clients publish and listen.
//!
//! Whoever listens hears messages in the order of their positions, each once and none left out,
//! unless it is told first that some are missing; and never a message that nobody has published, or
//! another one at a position than somebody else.

use std::collections::BTreeMap;

use margay_log::id::Index;

use super::{Actor, Journal, Workload};
use crate::machine::Filter;
use crate::resource::Watch;
use crate::resource::topic::{Topic, TopicEvent};
use crate::sim::Failure;
use crate::sim::client::Desk;

/// Messages are so large in one of four runs that a topic does not keep them for long.
const LARGE: usize = 16 << 10;

/// See the module's text.
pub(in crate::sim) struct Publishing {
    topic: Topic<Desk>,
    messages: Watch<TopicEvent>,
    /// Number of the listener in the journal.
    number: usize,
    /// Where it has come to.
    last: Index,
    size: usize,
}

/// What one listener heard.
#[derive(Default)]
struct Heard {
    positions: Vec<Index>,
    /// (The last position before, the oldest still kept): between them something may be missing.
    lags: Vec<(Index, Index)>,
}

/// All messages that anybody knows of, by position, and what each listener heard.
#[derive(Default)]
pub(in crate::sim) struct Messages {
    known: BTreeMap<Index, u64>,
    listeners: Vec<Heard>,
    wrong: Vec<String>,
    /// Bytes of every message, once somebody has decided.
    size: Option<usize>,
}

impl Messages {
    fn know(&mut self, position: Index, message: u64) {
        let known = *self.known.entry(position).or_insert(message);
        if known != message {
            self.wrong.push(format!("{position} is {known:#x} and {message:#x}"));
        }
    }
}

impl Heard {
    /// The first of the known messages that was left out without a word.
    fn missed(&self, known: &BTreeMap<Index, u64>) -> Option<Index> {
        let mut before = Index::ZERO;
        for &position in &self.positions {
            let mut from = before.next();
            if let Some((_, oldest)) = self.lags.iter().find(|(last, _)| *last == before) {
                from = from.max(*oldest);
            }
            if from < position
                && let Some((missed, _)) = known.range(from..position).next()
            {
                return Some(*missed);
            }
            before = before.max(position);
        }
        None
    }
}

impl Journal for Messages {
    fn judge(&mut self) -> Result<u64, Failure> {
        for (number, heard) in self.listeners.iter().enumerate() {
            if let Some(missed) = heard.missed(&self.known) {
                self.wrong.push(format!("listener {number} was not told of {missed}"));
            }
        }
        match self.wrong.first() {
            None => Ok(0),
            Some(wrong) => Err(Failure::new("a topic is complete and in order", wrong.clone())),
        }
    }
}

impl Publishing {
    /// Takes what has come.
    fn take(&mut self, actor: &Actor<Messages>) {
        while let Some(next) = self.messages.try_next() {
            match next {
                Ok(event) => actor.note(|journal| self.note(event, journal)),
                // With the session: it goes on where it was.
                Err(_) => self.messages = self.topic.subscribe(Some(self.last), Filter::All),
            }
        }
    }

    fn note(&mut self, event: TopicEvent, journal: &mut Messages) {
        match event {
            TopicEvent::Message { position, value, .. } => {
                if position <= self.last {
                    journal.wrong.push(format!("{position} came after {}", self.last));
                }
                self.last = self.last.max(position);
                journal.listeners[self.number].positions.push(position);
                match value.first_chunk() {
                    Some(number) => journal.know(position, u64::from_le_bytes(*number)),
                    None => journal.wrong.push(format!("{position} holds no number")),
                }
            }
            TopicEvent::Lagged { oldest } => {
                if oldest <= self.last.next() {
                    let last = self.last;
                    journal.wrong.push(format!("nothing is missing from {last} to {oldest}"));
                }
                journal.listeners[self.number].lags.push((self.last, oldest));
            }
            TopicEvent::Deleted => journal.wrong.push("nobody has deleted it".to_owned()),
        }
    }
}

impl Workload for Publishing {
    type Journal = Messages;

    async fn open(actor: &mut Actor<Messages>) -> Publishing {
        let topic = actor.open(|desk| Topic::open(desk, "topic")).await;
        // From the very first message on: who comes late may be told that it does.
        let messages = topic.subscribe(Some(Index::ZERO), Filter::All);
        let drawn = if actor.rng.chance(1, 4) { LARGE } else { 8 };
        let (mut number, mut size) = (0, drawn);
        actor.note(|journal| {
            number = journal.listeners.len();
            journal.listeners.push(Heard::default());
            size = *journal.size.get_or_insert(drawn);
        });
        Publishing { topic, messages, number, last: Index::ZERO, size }
    }

    async fn act(&mut self, actor: &mut Actor<Messages>) {
        let number = actor.fresh();
        let mut message = number.to_le_bytes().to_vec();
        message.resize(self.size, 0);
        let published = self.topic.publish(&message).await;
        if let Some(Some((_, position))) = actor.outcome(published) {
            actor.note(|journal| journal.know(position, number));
        }
        self.take(actor);
        actor.pause(20_000).await;
    }

    /// The last message arrives, and the topic has counted all that are known of.
    async fn look(&mut self, actor: &mut Actor<Messages>) {
        let (count, last) = loop {
            if let Ok((count, last)) = self.topic.status().await {
                break (count, last.unwrap_or(Index::ZERO));
            }
        };
        actor.note(|journal| {
            let known = journal.known.range(..=last).count() as u64;
            if count < known {
                journal.wrong.push(format!("{count} messages are counted, {known} are known"));
            }
        });
        while self.last < last {
            actor.pause(10_000).await;
            self.take(actor);
        }
    }
}
