//! A topic whose messages are of a type.

use super::Data;
use crate::machine::Filter;
use crate::resource::topic::{TopicEvent, read_event};
use crate::resource::{Delivery, Failure, Reply, Submit, Topic, Watch};
use margay_log::id::Index;
use std::marker::PhantomData;

/// A topic whose messages are of a type.
pub struct TopicOf<M, S> {
    topic: Topic<S>,
    is: PhantomData<fn() -> M>,
}

/// What a subscriber hears.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum TopicEventOf<M> {
    /// A message.
    Message {
        /// Its position: rises.
        position: Index,
        /// What it was published under.
        key: Vec<u8>,
        /// The message.
        value: M,
    },
    /// Messages were missed; what follows is from this position on.
    Lagged {
        /// The oldest position still kept.
        oldest: Index,
    },
    /// The topic was deleted.
    Deleted,
}

impl<M: Data, S: Submit> TopicOf<M, S> {
    /// The same topic, with messages of a type.
    pub fn new(topic: Topic<S>) -> TopicOf<M, S> {
        TopicOf { topic, is: PhantomData }
    }

    /// The topic in bytes, for all else it can do.
    #[must_use]
    pub fn bytes(&self) -> &Topic<S> {
        &self.topic
    }

    /// See [`Topic::publish`].
    pub fn publish(&self, message: &M) -> Reply<Index> {
        self.topic.publish(&message.to_bytes())
    }

    /// See [`Topic::publish_under`].
    pub fn publish_under(&self, key: &[u8], message: &M) -> Reply<Index> {
        self.topic.publish_under(key, &message.to_bytes())
    }

    /// See [`Topic::subscribe`]. A message that is none of the type is a failure, and the next one
    /// comes all the same.
    #[must_use]
    pub fn subscribe(&self, behind: Option<Index>, filter: Filter) -> Watch<TopicEventOf<M>> {
        let after = behind.map(|position| (position, u32::MAX));
        Watch::new(self.topic.handle().subscribe(after, filter), read_typed)
    }
}

fn read_typed<M: Data>(delivery: Delivery) -> Result<TopicEventOf<M>, Failure> {
    Ok(match read_event(delivery)? {
        TopicEvent::Message { position, key, value } => {
            TopicEventOf::Message { position, key, value: M::from_bytes(&value)? }
        }
        TopicEvent::Lagged { oldest } => TopicEventOf::Lagged { oldest },
        TopicEvent::Deleted => TopicEventOf::Deleted,
    })
}

impl<M, S: Clone> Clone for TopicOf<M, S> {
    fn clone(&self) -> Self {
        TopicOf { topic: self.topic.clone(), is: PhantomData }
    }
}
