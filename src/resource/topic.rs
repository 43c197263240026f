//! A topic: messages in one order for all who listen.
//!
//! A message is an event of the topic, at the index of the command that published it. The last of
//! them are kept, as with every resource, so that a subscriber can begin in the past and goes on
//! after a reconnect or fail-over without gap or duplicate; one that is too far behind is told.

use super::codec::{Operation, Scratch, access, check_by_schema, limits, only, operation};
use super::handle::Handle;
use super::registry::DELETED;
use super::snapshot::Items;
use super::{Delivery, Failure, Reply, Resource, Submit, Watch};
use crate::machine::bytes::{self, Reader};
use crate::machine::{
    Code, Commit, Effects, EventPayload, Filter, Level, Pair, Query, ResourceId, kind,
};
use margay_log::id::Index;

/// Event: a message was published.
pub const PUBLISHED: u16 = 1;

// ---- operations -----------------------------------------------------------------------------

/// Publishes a message. Its position is the index of this command.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct PublishV1 {
    /// What subscribers can choose by; may be empty. At most 4 KiB.
    pub key: Vec<u8>,
    /// The message, at most 1 MiB.
    pub value: Vec<u8>,
}

/// Query: how many messages there have been, and the position of the last (0 for none).
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct StatusV1 {}

operation!(PublishV1, kind::TOPIC, 0x0101, "publish");
operation!(StatusV1, kind::TOPIC, 0x4001, "status");

limits! {
    ArchivedPublishV1: key(key), value(value);
    ArchivedStatusV1:;
}

check_by_schema!(PublishV1);

// ---- state ----------------------------------------------------------------------------------

/// Messages are kept as events; what is left is to count them.
#[derive(Clone, Debug, Default)]
pub(super) struct TopicState {
    published: u64,
    last: Index,
}

impl Resource for TopicState {
    fn apply(&mut self, commit: &Commit<'_>, effects: &mut Effects) {
        let mut scratch = Scratch::new();
        let publish = match commit.schema {
            PublishV1::SCHEMA => access::<PublishV1>(commit.payload, &mut scratch),
            _ => Err(Code::BAD_KIND),
        };
        match publish {
            Ok(publish) => {
                self.published += 1;
                self.last = commit.index;
                let message = Pair::new(&publish.key, &publish.value);
                effects.event(commit.resource, PUBLISHED, Some(message), None);
            }
            Err(code) => effects.refuse(code, ""),
        }
    }

    fn query(&self, query: &Query<'_>, effects: &mut Effects) {
        if let Err(code) = only::<StatusV1>(query) {
            return effects.refuse(code, "");
        }
        bytes::put_u64(&mut effects.reply, self.published);
        bytes::put_u64(&mut effects.reply, self.last.0);
    }

    fn freeze(&self, _after: Option<&[u8]>, items: &mut Items<'_>) -> Option<Vec<u8>> {
        items.put(|out| {
            bytes::put_u64(out, self.published);
            bytes::put_u64(out, self.last.0);
        });
        None
    }

    fn thaw(&mut self, item: &[u8], applied: Index) -> Result<(), Code> {
        let mut reader = Reader::new(item);
        (self.published, self.last) = (reader.u64()?, Index(reader.u64()?));
        if self.last > applied || self.published > self.last.0 {
            return Err(Code::BAD_PAYLOAD);
        }
        reader.end()
    }

    fn boxed_clone(&self) -> Box<dyn Resource> {
        Box::new(self.clone())
    }
}

// ---- handle ---------------------------------------------------------------------------------

/// A topic.
///
/// A message is at most 1 MiB. The last 1,024 messages are kept, or 1 MiB of them: who is further
/// behind is told so.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let client = margay::client::Client::builder().endpoints(["127.0.0.1:5150"]).connect()?;
/// use margay::machine::Filter;
/// let news = client.topic("news").wait()?;
/// let mut messages = news.subscribe(None, Filter::All); // from now on
/// news.publish(b"it works").wait()?;
/// println!("{:?}", messages.wait_next()?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Topic<S> {
    handle: Handle<S>,
}

/// What a subscriber hears.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum TopicEvent {
    /// A message.
    Message {
        /// Its position: rises.
        position: Index,
        /// What it was published under.
        key: Vec<u8>,
        /// The message.
        value: Vec<u8>,
    },
    /// Messages were missed; what follows is from this position on.
    Lagged {
        /// Position of the oldest message still kept.
        oldest: Index,
    },
    /// The topic was deleted.
    Deleted,
}

impl<S: Submit> Topic<S> {
    /// Opens a topic by name; it is created where there is none.
    pub fn open(submit: S, name: &str) -> Reply<Topic<S>> {
        Handle::open(submit, name, kind::TOPIC).and_then(|handle| Ok(Topic { handle }))
    }

    /// The topic `id`.
    pub fn new(submit: S, id: ResourceId) -> Topic<S> {
        Topic { handle: Handle::new(submit, id) }
    }

    /// The same, with queries at another level.
    #[must_use]
    pub fn with_level(self, level: Level) -> Topic<S> {
        Topic { handle: self.handle.with_level(level) }
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

    /// Publishes a message. Returns its position: all subscribers hear messages in the order of
    /// these. One within a few bytes of 1 MiB, key included, is too large to be kept: only those
    /// who listen at the time hear it.
    pub fn publish(&self, value: &[u8]) -> Reply<Index> {
        self.publish_under(b"", value)
    }

    /// The same, under a key that subscribers can choose by.
    pub fn publish_under(&self, key: &[u8], value: &[u8]) -> Reply<Index> {
        let publish = PublishV1 { key: key.to_vec(), value: value.to_vec() };
        self.handle.command(&publish).and_then(|answer| Ok(answer.index))
    }

    /// How many messages there have been, and the position of the last.
    pub fn status(&self) -> Reply<(u64, Option<Index>)> {
        self.handle.query(&StatusV1 {}).and_then(|answer| {
            let mut reader = Reader::new(&answer.payload);
            let (published, last) = (reader.u64()?, Index(reader.u64()?));
            Ok((published, (published > 0).then_some(last)))
        })
    }

    /// Messages that pass the filter: from now on, or those behind a position. [`Index::ZERO`] is
    /// before the first. The last 1,024 messages, or 1 MiB of them, are kept; where some that were
    /// asked for are not kept any more, [`TopicEvent::Lagged`] comes first.
    #[must_use]
    pub fn subscribe(&self, behind: Option<Index>, filter: Filter) -> Watch<TopicEvent> {
        let after = behind.map(|position| (position, u32::MAX));
        Watch::new(self.handle.subscribe(after, filter), read_event)
    }
}

pub(super) fn read_event(delivery: Delivery) -> Result<TopicEvent, Failure> {
    let (position, kind, payload) = match delivery {
        Delivery::Lagged { oldest } => return Ok(TopicEvent::Lagged { oldest }),
        Delivery::Event { index, kind, payload, .. } => (index, kind, payload),
    };
    if kind == DELETED {
        return Ok(TopicEvent::Deleted);
    }
    let payload = EventPayload::decode(&payload)?;
    match (kind, payload.key, payload.new) {
        (PUBLISHED, Some(key), Some(value)) => Ok(TopicEvent::Message { position, key, value }),
        _ => Err(Failure::from(Code::BAD_PAYLOAD)),
    }
}
