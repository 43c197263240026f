//! A group of members: who is there, and messages to one of them, to any, or to all.
//!
//! A member has an id: one of its own that lasts over its sessions, or one that is drawn. It is
//! there from its join until it leaves, is removed, or its session ends; so whoever is listed has
//! a session that lives. A membership is named by the index of the command that joined, its number,
//! which rises for each id: the fencing token of whatever the member does.
//!
//! A message waits in the inbox of whom it is for until it is answered, and is delivered in the
//! order of the inbox. What it is for decides what becomes of it when the member leaves before:
//!
//! - *any* member, in turn: the next one gets it; where there is none, whoever joins next. So it is
//!   handled at least once, and answered once.
//! - *one* member, or *all*: it has left with the membership, and is not handled there any more.
//!
//! Who *sends* is answered when the message waits in its inboxes; nothing but an answer, the
//! member's leaving, or its own time limit takes it away from there. Who *asks* waits, in log time,
//! until all have answered or left; the question is withdrawn when the asker's session ends, when
//! it is cancelled, or its time is over.
//!
//! How a member hears of messages: its membership is a hold, whose token rises with each message.

use super::Resource;
use super::claims::{Claims, cancel_operation};
use super::codec::{Limits, check_by_schema, limit, limits, operation};
use crate::machine::{Code, KEY_MAX, kind};

mod frozen;
mod handle;
mod loads;
mod mail;
mod member;
mod page;
mod state;

pub use super::claims::{GRANTED, NOT_ACQUIRED, WAITING};
pub use handle::{
    Answered, Departure, GroupStatus, Member, MemberEvent, MemberGroup, MemberPage, To,
};
pub use member::{Cursor, Inbox, Membership, Message};
pub(super) use state::GroupState;

/// Members of one group, at most.
pub const MEMBERS_MAX: usize = 5_000;
/// Members on one page of a list, at most.
pub const PAGE_MAX: u32 = 1_000;
/// Questions of one group that are not answered, or whose answers were not fetched, at most.
pub const ASKED_MAX: usize = 5_000;
/// Messages in one inbox, at most.
pub const INBOX_MAX: u32 = 1_000;
/// Bytes of the messages in one inbox, at most.
pub const INBOX_BYTES_MAX: u64 = 8 << 20;
/// Messages in all inboxes of a group, and answers not fetched, at most.
pub const DELIVERIES_MAX: usize = 50_000;
/// Bytes of the messages of one group, at most, where one to all counts once; and of its answers.
pub const BYTES_MAX: u64 = 64 << 20;
/// Bytes of one answer, about.
const PAGE_BYTES: usize = 1 << 20;
/// What a drawn id begins with, and no other.
pub const DRAWN: u8 = b':';

/// Event: somebody is a member now. The key is the id, the value the metadata.
pub const JOINED: u16 = 1;
/// Event: a member has other metadata. With it the old.
pub const UPDATED: u16 = 2;
/// Event: a member has left by itself. With it its metadata; so with the next two.
pub const LEFT: u16 = 3;
/// Event: a member was removed by somebody else.
pub const REMOVED: u16 = 4;
/// Event: a member's session is over.
pub const SESSION_ENDED: u16 = 5;

/// A message is for any member.
pub const TO_ANY: u8 = 0;
/// For the member of this id.
pub const TO_MEMBER: u8 = 1;
/// For all who are there.
pub const TO_ALL: u8 = 2;

/// Outcome of a question: no answer in time.
pub const SILENT: u8 = 0;
/// It was answered.
pub const ANSWERED: u8 = 1;
/// The member could not do what was asked, and says why.
pub const FAILED: u8 = 2;
/// The member left before it answered.
pub const GONE: u8 = 3;

// ---- operations -----------------------------------------------------------------------------

/// Joins. Answers [`GRANTED`] and the token; [`WAITING`], with a notice to follow, where another
/// session has the id; or [`NOT_ACQUIRED`]. Then the number of the membership: the index of this
/// command. Where this session has the id already, it stays the same membership, which belongs to
/// this request from now on, and has this metadata. It leaves with [`CancelV1`], which also takes
/// back a question.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct JoinV1 {
    /// The session's own number for this membership: none of those under way.
    pub request: u64,
    /// Its id, 1 to 256 bytes of UTF-8 that do not begin with [`DRAWN`]; empty for one that is
    /// drawn: [`DRAWN`] and the number.
    pub id: Vec<u8>,
    /// What others shall know of it. At most 4 KiB.
    pub data: Vec<u8>,
    /// How long to wait for the id in log time, in milliseconds; 0 for not at all, `None` for as
    /// long as it takes.
    pub wait_ms: Option<u64>,
}

/// Sends a message. Its number is the index of this command. Without `ask` the answer is empty;
/// with it, [`WAITING`], a token of 0, the number; a notice follows when all is answered.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct SendV1 {
    /// The session's own number for this question: none of those under way. Without `ask`, any.
    pub request: u64,
    /// [`TO_ANY`], [`TO_MEMBER`], [`TO_ALL`].
    pub to: u8,
    /// The member's id; empty unless it is for one member.
    pub id: Vec<u8>,
    /// The message, at most 1 MiB.
    pub value: Vec<u8>,
    /// Whether the answers are waited for.
    pub ask: bool,
    /// It is taken back after so many milliseconds of log time, from 1; `None` for never.
    pub wait_ms: Option<u64>,
}

/// Other metadata for a member, by its own session.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct SetV1 {
    /// The number of the membership.
    pub member: u64,
    /// At most 4 KiB.
    pub data: Vec<u8>,
}

/// Removes a member, whosever it is. Answers 1 or 0.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct RemoveV1 {
    /// Its id.
    pub id: Vec<u8>,
}

/// A member has done with a message: it is in its inbox no more. The answer is kept until the asker
/// has fetched it; where nobody asked, for nobody.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct AnswerV1 {
    /// The number of the membership.
    pub member: u64,
    /// The number of the message.
    pub message: u64,
    /// Whether it could not be done; then the value says why.
    pub failed: bool,
    /// At most 1 MiB.
    pub value: Vec<u8>,
}

/// Query: members in order of their numbers. Answers whether there are more (u8) and a count (u32);
/// then number, session, messages in the inbox (u32), id, metadata of each.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct MembersV1 {
    /// After this number; 0 for the first.
    pub after: u64,
    /// At most so many; 0 and anything over [`PAGE_MAX`] stand for [`PAGE_MAX`].
    pub limit: u32,
}

/// Query: the member of an id. Answers as [`MembersV1`] does: none, or one.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct MemberV1 {
    /// Its id.
    pub id: Vec<u8>,
}

/// Query: messages in an inbox. Answers whether there are more (u8) and a count (u32); then the
/// entry that brought it here, its number, the sender's session, whether an answer is waited for
/// (u8), and the message, of each.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct InboxV1 {
    /// The number of the membership.
    pub member: u64,
    /// After the message that this entry brought there, and ...
    pub brought: u64,
    /// ... with this number; 0 and 0 for the first.
    pub message: u64,
}

/// Query: what came of a question. Answers whether there are more (u8) and a count (u32); then the
/// member's number, [`SILENT`], [`ANSWERED`], [`FAILED`] or [`GONE`], its id and the answer, of
/// each.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct AnswersV1 {
    /// The number of the message.
    pub message: u64,
    /// After this member; 0 for the first.
    pub after: u64,
}

/// Query: members, messages in inboxes, messages nobody is there for, bytes of messages (u64 each);
/// joins that wait, questions that are not answered (u32 each).
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct StatusV1 {}

operation!(JoinV1, kind::GROUP, 0x0101, "join");
operation!(SendV1, kind::GROUP, 0x0201, "send");
cancel_operation!(kind::GROUP);
operation!(SetV1, kind::GROUP, 0x0401, "set");
operation!(RemoveV1, kind::GROUP, 0x0501, "remove");
operation!(AnswerV1, kind::GROUP, 0x0601, "answer");
operation!(MembersV1, kind::GROUP, 0x4001, "members");
operation!(MemberV1, kind::GROUP, 0x4101, "member");
operation!(InboxV1, kind::GROUP, 0x4201, "inbox");
operation!(AnswersV1, kind::GROUP, 0x4301, "answers");
operation!(StatusV1, kind::GROUP, 0x4401, "status");

limits! {
    ArchivedSetV1: key(data);
    ArchivedRemoveV1: name(id);
    ArchivedMemberV1: name(id);
    ArchivedAnswerV1: value(value);
    ArchivedMembersV1:;
    ArchivedInboxV1:;
    ArchivedAnswersV1:;
    ArchivedStatusV1:;
}

impl Limits for ArchivedJoinV1 {
    fn limits(&self) -> Result<(), Code> {
        if !self.id.is_empty() {
            limit::name(&self.id)?;
        }
        if self.id.first() == Some(&DRAWN) {
            return Err(Code::BAD_NAME);
        }
        limit::key(&self.data)?;
        limit::wait(&self.wait_ms)
    }
}

impl Limits for ArchivedSendV1 {
    fn limits(&self) -> Result<(), Code> {
        match self.to {
            TO_MEMBER => limit::name(&self.id)?,
            TO_ANY | TO_ALL if self.id.is_empty() => {}
            _ => return Err(Code::BAD_PAYLOAD),
        }
        limit::value(&self.value)?;
        if self.wait_ms.as_ref().is_some_and(|wait| wait.to_native() == 0) {
            return Err(Code::BAD_TIME);
        }
        limit::wait(&self.wait_ms)
    }
}

check_by_schema!(JoinV1, SendV1, CancelV1, SetV1, RemoveV1, AnswerV1);
