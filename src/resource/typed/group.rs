//! A group of members whose messages and answers are of a type.

use super::Data;
use crate::resource::group::{Answered, Cursor, MemberGroup, Membership, Message, To};
use crate::resource::{Failure, Fetched, Reply, Submit};
use std::marker::PhantomData;
use std::time::Duration;

/// A group of members that send each other messages of a type.
pub struct MemberGroupOf<M, S> {
    group: MemberGroup<S>,
    is: PhantomData<fn() -> M>,
}

impl<M: Data, S: Submit> MemberGroupOf<M, S> {
    /// The same group, with messages of a type.
    pub fn new(group: MemberGroup<S>) -> MemberGroupOf<M, S> {
        MemberGroupOf { group, is: PhantomData }
    }

    /// The group in bytes, for all else it can do.
    #[must_use]
    pub fn bytes(&self) -> &MemberGroup<S> {
        &self.group
    }

    /// See [`MemberGroup::join`].
    pub fn join(&self, data: &[u8]) -> Reply<MembershipOf<M, S>> {
        self.group.join(data).and_then(MembershipOf::new)
    }

    /// See [`MemberGroup::join_as`].
    pub fn join_as(&self, id: &str, data: &[u8]) -> Reply<MembershipOf<M, S>> {
        self.group.join_as(id, data).and_then(MembershipOf::new)
    }

    /// See [`MemberGroup::join_within`].
    pub fn join_within(&self, id: &str, data: &[u8], wait: Duration) -> Reply<MembershipOf<M, S>> {
        self.group.join_within(id, data, wait).and_then(MembershipOf::new)
    }

    /// See [`MemberGroup::send`].
    pub fn send(&self, to: To<'_>, message: &M) -> Reply<u64> {
        self.group.send(to, &message.to_bytes())
    }

    /// See [`MemberGroup::send_all`].
    pub fn send_all(&self, message: &M) -> Reply<u64> {
        self.group.send_all(&message.to_bytes())
    }

    /// See [`MemberGroup::ask`]. A member that only acknowledges answers with no bytes at all,
    /// which may be no value of the type.
    pub fn ask(&self, to: To<'_>, message: &M, within: Duration) -> Reply<M> {
        let answer = self.group.ask(to, &message.to_bytes(), within);
        answer.and_then(|answer| Ok(M::from_bytes(&answer)?))
    }

    /// See [`MemberGroup::ask_all`]: the id of each member, and its answer.
    pub fn ask_all(
        &self,
        message: &M,
        within: Duration,
    ) -> Reply<Vec<(String, Result<M, Failure>)>> {
        let answers = self.group.ask_all(&message.to_bytes(), within);
        answers.and_then(|answers| {
            let read = |Answered { id, answer }| {
                (id, answer.and_then(|answer| Ok(M::from_bytes(&answer)?)))
            };
            Ok(answers.into_iter().map(read).collect())
        })
    }
}

/// Being a member; see [`Membership`].
#[must_use = "dropping it leaves"]
pub struct MembershipOf<M, S: Submit> {
    member: Membership<S>,
    is: PhantomData<fn() -> M>,
}

impl<M: Data, S: Submit> MembershipOf<M, S> {
    fn new(member: Membership<S>) -> Result<MembershipOf<M, S>, Failure> {
        Ok(MembershipOf { member, is: PhantomData })
    }

    /// The membership in bytes, for all else it can do.
    pub fn bytes(&self) -> &Membership<S> {
        &self.member
    }

    /// See [`Membership::messages`].
    pub fn messages(&self) -> Fetched<MessageOf<M, S>, Cursor> {
        self.member.messages_as(|message| MessageOf { message, is: PhantomData })
    }

    /// See [`Membership::leave`].
    pub fn leave(self) -> Reply<()> {
        self.member.leave()
    }
}

/// A message for a member; see [`Message`].
#[must_use = "a message that is not answered stays in the inbox"]
pub struct MessageOf<M, S> {
    message: Message<S>,
    is: PhantomData<fn() -> M>,
}

impl<M: Data, S: Submit> MessageOf<M, S> {
    /// The message in bytes, for all else it can do.
    pub fn bytes(&self) -> &Message<S> {
        &self.message
    }

    /// What was sent.
    ///
    /// # Errors
    /// The bytes are no value of the type: [`MessageOf::fail`] tells the sender.
    pub fn value(&self) -> Result<M, Failure> {
        Ok(M::from_bytes(self.message.value())?)
    }

    /// See [`Message::ack`].
    pub fn ack(self) -> Reply<()> {
        self.message.ack()
    }

    /// See [`Message::reply`].
    pub fn reply(self, answer: &M) -> Reply<()> {
        self.message.reply(&answer.to_bytes())
    }

    /// See [`Message::fail`].
    pub fn fail(self, why: &str) -> Reply<()> {
        self.message.fail(why)
    }
}

impl<M, S: Clone> Clone for MemberGroupOf<M, S> {
    fn clone(&self) -> Self {
        MemberGroupOf { group: self.group.clone(), is: PhantomData }
    }
}
