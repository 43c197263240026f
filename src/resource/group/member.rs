//! Being a member: the guard that keeps the membership, and the messages that come.

use super::state::drawn;
use super::{AnswerV1, CancelV1, InboxV1, SetV1};
use crate::machine::bytes::Reader;
use crate::machine::{Code, NoticeState, SessionId};
use crate::resource::claims::handle::{Held, Ways};
use crate::resource::handle::Handle;
use crate::resource::{Answer, Failure, Fetched, Reply, Submit};
use margay_log::id::Index;
use std::sync::Arc;

/// Being a member. Dropping it leaves and does not wait for that: use [`Membership::leave`] to
/// know.
///
/// It says nothing about the present: the session may have expired and somebody else have the id.
/// Give [`Membership::number`] to whatever the member writes to, and stop when
/// [`Membership::lost`] tells.
#[must_use = "dropping it leaves"]
pub struct Membership<S: Submit> {
    handle: Handle<S>,
    held: Arc<Held<S>>,
    id: String,
}

/// How a membership ends at its own wish.
pub(super) fn way_out<S: Submit>() -> Ways<S> {
    Ways {
        cancel: |handle, request| handle.command(&CancelV1 { request }),
        release: |handle, grant| {
            let left = handle.command(&CancelV1 { request: grant.request });
            left.and_then(|answer| match answer.payload[..] {
                [2] => Ok(answer),
                _ => Err(Failure::new(Code::NO_SUCH_MEMBER, "it was not there any more")),
            })
        },
    }
}

impl<S: Submit> Membership<S> {
    pub(super) fn new(handle: Handle<S>, held: Arc<Held<S>>, own: String) -> Membership<S> {
        let id = if own.is_empty() { drawn(held.grant().waiter) } else { own };
        Membership { handle, held, id }
    }

    /// The id: its own, or `:` and the number.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The number: rises with every membership of an id, a fencing token.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.held.grant().waiter.0
    }

    /// Changes what others see of it: at most 4 KiB. Fails with [`Code::NO_SUCH_MEMBER`] where it
    /// is not there any more.
    pub fn set(&self, data: &[u8]) -> Reply<()> {
        let set = SetV1 { member: self.number(), data: data.to_vec() };
        self.handle.command(&set).and_then(|_| Ok(()))
    }

    /// The messages that wait in the inbox, then those that come, each once, in order. Those that
    /// were not answered come again to whoever calls this anew. Over a new connection or leader it
    /// goes on; it fails when the membership is over.
    pub fn messages(&self) -> Inbox<S> {
        self.messages_as(|message| message)
    }

    /// The same, each as something else.
    pub(in super::super) fn messages_as<T: Send + 'static>(
        &self,
        read: fn(Message<S>) -> T,
    ) -> Fetched<T, Cursor> {
        let (handle, member) = (self.handle.clone(), self.held.grant().waiter);
        Fetched::new(Cursor::default(), move |cursor| {
            let fetched = fetch(&handle, member, cursor);
            fetched.and_then(move |(all, cursor)| Ok((all.into_iter().map(read).collect(), cursor)))
        })
    }

    /// Resolves when it may not be a member any more: removed, left, the group deleted, or the
    /// session was not heard of for so long that it may have expired. Fails where the client was
    /// closed.
    pub fn lost(&self) -> Reply<()> {
        self.held.lost()
    }

    /// Leaves. Fails with [`Code::NO_SUCH_MEMBER`] where it was not there any more.
    pub fn leave(self) -> Reply<()> {
        self.held.release()
    }
}

/// The messages of a member, as they come: a stream, or [`Fetched::next`],
/// [`Fetched::wait_next`].
pub type Inbox<S> = Fetched<Message<S>, Cursor>;

/// How far an inbox was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cursor {
    /// The entry that brought the last message, and its number.
    last: (Index, Index),
    /// There is more behind it.
    more: bool,
}

/// Waits until there is something behind the cursor, then reads a page of it.
fn fetch<S: Submit>(
    handle: &Handle<S>,
    member: Index,
    cursor: Cursor,
) -> Reply<(Vec<Message<S>>, Cursor)> {
    if cursor.more {
        return read(handle, member, cursor);
    }
    let handle = handle.clone();
    let news = handle.submit().await_token(handle.id(), member, cursor.last.0.0);
    news.then(move |state| match state {
        Ok(NoticeState::Granted { token }) => {
            read(&handle, member, cursor).and_then(move |(messages, mut cursor)| {
                // All that was brought so far was read: the next is brought by a later entry.
                if !cursor.more {
                    cursor.last = cursor.last.max((Index(token), Index(u64::MAX)));
                }
                Ok((messages, cursor))
            })
        }
        Ok(_) => Reply::ready(Err(Failure::new(Code::NO_SUCH_MEMBER, "the membership is over"))),
        Err(failure) => Reply::ready(Err(failure)),
    })
}

fn read<S: Submit>(
    handle: &Handle<S>,
    member: Index,
    cursor: Cursor,
) -> Reply<(Vec<Message<S>>, Cursor)> {
    let (brought, message) = (cursor.last.0.0, cursor.last.1.0);
    let read = handle.query(&InboxV1 { member: member.0, brought, message });
    let handle = handle.clone();
    read.and_then(move |answer| read_page(&handle, member, cursor, &answer))
}

fn read_page<S: Submit>(
    handle: &Handle<S>,
    member: Index,
    mut cursor: Cursor,
    answer: &Answer,
) -> Result<(Vec<Message<S>>, Cursor), Failure> {
    let mut reader = Reader::new(&answer.payload);
    cursor.more = reader.u8()? != 0;
    let mut messages = Vec::new();
    for _ in 0..reader.u32()? {
        cursor.last = (Index(reader.u64()?), Index(reader.u64()?));
        let (from, is_question) = (SessionId(reader.u64()?), reader.u8()? != 0);
        let (handle, number) = (handle.clone(), cursor.last.1.0);
        let value = reader.bytes()?.to_vec();
        messages.push(Message { handle, member, number, from, is_question, value });
    }
    Ok((messages, cursor))
}

/// A message for a member. It waits in the inbox until it is answered, in one of three ways;
/// dropping it answers nothing.
#[must_use = "a message that is not answered stays in the inbox"]
#[derive(Clone, Debug)]
pub struct Message<S> {
    handle: Handle<S>,
    member: Index,
    number: u64,
    from: SessionId,
    is_question: bool,
    value: Vec<u8>,
}

impl<S: Submit> Message<S> {
    /// Its number: messages of a sender to a member have rising ones. The same in every inbox, so
    /// that who gets it from another that has left can tell.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Who sent it.
    #[must_use]
    pub fn sender(&self) -> SessionId {
        self.from
    }

    /// Whether the sender waits for the answer.
    #[must_use]
    pub fn is_question(&self) -> bool {
        self.is_question
    }

    /// What was sent.
    #[must_use]
    pub fn value(&self) -> &[u8] {
        &self.value
    }

    /// It is done with; who has asked gets an empty answer. Fails with [`Code::NO_SUCH_MESSAGE`]
    /// where it was answered before, withdrawn, or its time is over, [`Code::NO_SUCH_MEMBER`] where
    /// the membership is: then somebody else may have it. So do the next two.
    pub fn ack(self) -> Reply<()> {
        self.answer(false, &[])
    }

    /// Answers with a value, at most 1 MiB. Where nobody waits for it, it is as good as
    /// [`Message::ack`].
    pub fn reply(self, value: &[u8]) -> Reply<()> {
        self.answer(false, value)
    }

    /// What was asked could not be done, and why. The message is done with all the same.
    pub fn fail(self, why: &str) -> Reply<()> {
        self.answer(true, why.as_bytes())
    }

    fn answer(self, failed: bool, value: &[u8]) -> Reply<()> {
        let (member, message) = (self.member.0, self.number);
        let answer = AnswerV1 { member, message, failed, value: value.to_vec() };
        self.handle.command(&answer).and_then(|_| Ok(()))
    }
}
