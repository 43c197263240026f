//! The group as applications use it: who is there, joining, and sending.

use super::member::{Membership, way_out};
use super::{
    ANSWERED, AnswersV1, CancelV1, FAILED, GONE, JOINED, JoinV1, LEFT, MemberV1, MembersV1,
    REMOVED, RemoveV1, SESSION_ENDED, SILENT, SendV1, StatusV1, TO_ALL, TO_ANY, TO_MEMBER, UPDATED,
};
use crate::machine::bytes::Reader;
use crate::machine::{Code, EventPayload, Filter, Level, Outcome, ResourceId, SessionId, kind};
use crate::resource::claims::handle::{Held, Ways, acquire, milliseconds};
use crate::resource::handle::{Handle, read_bool};
use crate::resource::registry::DELETED;
use crate::resource::{Answer, Delivery, Failure, Reply, Submit, Watch};
use margay_log::id::Index;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A group of members that send each other messages.
///
/// At most 5,000 members; a message is at most 1 MiB, and 1,000 or 8 MiB wait for a member: see
/// [`Code::INBOX_FULL`].
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let client = margay::client::Client::builder().endpoints(["127.0.0.1:5150"]).connect()?;
/// use margay::resource::group::To;
/// use std::time::Duration;
/// let workers = client.member_group("workers").wait()?;
/// let member = workers.join(b"what others see of it").wait()?;
/// let answer = workers.ask(To::Any, b"resize 17", Duration::from_secs(5));
/// let message = member.messages().wait_next()?;
/// message.reply(b"done").wait()?;
/// assert_eq!(answer.wait()?, b"done");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct MemberGroup<S> {
    handle: Handle<S>,
}

/// Whom a message is for. For all, see [`MemberGroup::send_all`] and [`MemberGroup::ask_all`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum To<'a> {
    /// Any of the members, in turn.
    Any,
    /// The member of this id.
    Member(&'a str),
}

/// Somebody who is in a group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Its id: its own, or `:` and its number where it has none.
    pub id: String,
    /// Its number: the index of the command that joined.
    pub number: u64,
    /// Its session.
    pub session: SessionId,
    /// What it has brought.
    pub data: Vec<u8>,
    /// Messages it has not answered.
    pub messages: u32,
}

/// Some members, in the order in which they joined.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberPage {
    /// They.
    pub members: Vec<Member>,
    /// Ask for the next page after this number; `None` where this is the last.
    pub next: Option<u64>,
    /// What this page has seen: watch from here on, with `watch(Some((as_of, u32::MAX)))`, and
    /// nothing is missed.
    pub as_of: Index,
}

/// How a group stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GroupStatus {
    /// How many are there.
    pub members: u64,
    /// Messages that members have not answered; one to all counts for each.
    pub messages: u64,
    /// Messages for any that nobody is there for, or has room for.
    pub homeless: u64,
    /// Bytes of all messages; one to all counts once.
    pub bytes: u64,
    /// Joins that wait for an id.
    pub waiting: u32,
    /// Questions that are not answered.
    pub asked: u32,
}

/// Why a member is not there any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Departure {
    /// It left.
    Left,
    /// Somebody removed it.
    Removed,
    /// Its session was over.
    SessionEnded,
}

/// What happened to the members of a group.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum MemberEvent {
    /// Somebody has joined.
    Joined {
        /// The member's id.
        id: String,
        /// What it has brought.
        data: Vec<u8>,
    },
    /// A member has other metadata.
    Updated {
        /// The member's id.
        id: String,
        /// The metadata.
        data: Vec<u8>,
        /// What it was.
        old: Vec<u8>,
    },
    /// A member is not there any more.
    Left {
        /// The member's id.
        id: String,
        /// What it had brought.
        data: Vec<u8>,
        /// Why.
        why: Departure,
    },
    /// The group was deleted.
    Deleted,
    /// Events were missed: list the members, then go on.
    Lagged {
        /// Index of the oldest event still kept.
        oldest: Index,
    },
}

/// What one member made of a question to all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answered {
    /// The member's id.
    pub id: String,
    /// Its answer. Otherwise [`Code::MESSAGE_FAILED`] with what it says,
    /// [`Code::NO_SUCH_MEMBER`] where it left before, [`Code::TIMEOUT`] where it said nothing.
    pub answer: Result<Vec<u8>, Failure>,
}

impl<S: Submit> MemberGroup<S> {
    /// Opens a group by name; it is created where there is none.
    pub fn open(submit: S, name: &str) -> Reply<MemberGroup<S>> {
        Handle::open(submit, name, kind::GROUP).and_then(|handle| Ok(MemberGroup { handle }))
    }

    /// The group `id`.
    pub fn new(submit: S, id: ResourceId) -> MemberGroup<S> {
        MemberGroup { handle: Handle::new(submit, id) }
    }

    /// The same, with queries about members at another level.
    #[must_use]
    pub fn with_level(self, level: Level) -> MemberGroup<S> {
        MemberGroup { handle: self.handle.with_level(level) }
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

    /// Joins under an id that is drawn. `data`, at most 4 KiB, is what others see. Dropping the
    /// reply leaves. Fails with [`Code::TOO_MANY_MEMBERS`] where the group is full; so do the next
    /// two.
    pub fn join(&self, data: &[u8]) -> Reply<Membership<S>> {
        self.ask_to_join("", data, Some(0))
    }

    /// Joins under an id of one's own: 1 to 256 bytes without control characters that do not begin
    /// with `:`. Fails with [`Code::MEMBER_EXISTS`] where another session has it. Where this
    /// session has it, it is the same membership, with this metadata, and belongs to the last who
    /// joined.
    pub fn join_as(&self, id: &str, data: &[u8]) -> Reply<Membership<S>> {
        self.own_id(id).unwrap_or_else(|| self.ask_to_join(id, data, Some(0)))
    }

    /// The same; where another session has the id, waits for it as long as `wait`, in log time:
    /// after a crash, until the session from before has expired. Parts of a millisecond count as
    /// one, here and below.
    pub fn join_within(&self, id: &str, data: &[u8], wait: Duration) -> Reply<Membership<S>> {
        let wait_ms = Some(milliseconds(wait));
        self.own_id(id).unwrap_or_else(|| self.ask_to_join(id, data, wait_ms))
    }

    /// Members after the number `after` (0 for the first), in the order in which they joined; at
    /// most `limit`, 0 for as many as fit on a page.
    pub fn members(&self, after: u64, limit: u32) -> Reply<MemberPage> {
        self.handle.query(&MembersV1 { after, limit }).and_then(|answer| {
            let (members, more) = read_members(&answer)?;
            let next = members.last().map(|member| member.number).filter(|_| more);
            Ok(MemberPage { members, next, as_of: answer.index })
        })
    }

    /// The member of an id, if it is there: then its session lives.
    pub fn member(&self, id: &str) -> Reply<Option<Member>> {
        let member = MemberV1 { id: id.as_bytes().to_vec() };
        self.handle.query(&member).and_then(|answer| Ok(read_members(&answer)?.0.pop()))
    }

    /// Removes a member, whosever it is. Returns whether it was there.
    pub fn remove(&self, id: &str) -> Reply<bool> {
        let removed = self.handle.command(&RemoveV1 { id: id.as_bytes().to_vec() });
        removed.and_then(read_bool)
    }

    /// How it stands.
    pub fn status(&self) -> Reply<GroupStatus> {
        self.handle.query(&StatusV1 {}).and_then(|answer| {
            let mut reader = Reader::new(&answer.payload);
            let (members, messages) = (reader.u64()?, reader.u64()?);
            let (homeless, bytes) = (reader.u64()?, reader.u64()?);
            let (waiting, asked) = (reader.u32()?, reader.u32()?);
            Ok(GroupStatus { members, messages, homeless, bytes, waiting, asked })
        })
    }

    /// Who joins, leaves and changes from now on, or after an event seen before. To begin with who
    /// is there, see [`MemberPage::as_of`].
    #[must_use]
    pub fn watch(&self, after: Option<(Index, u32)>) -> Watch<MemberEvent> {
        Watch::new(self.handle.subscribe(after, Filter::All), read_event)
    }

    /// Sends a message, at most 1 MiB. Returns its number once it waits in the inbox: then it is
    /// durable and outlives this session. Fails with [`Code::NO_SUCH_MEMBER`] where nobody is
    /// there, [`Code::INBOX_FULL`] where there is no room; so do all that send and ask.
    pub fn send(&self, to: To<'_>, value: &[u8]) -> Reply<u64> {
        self.tell(to.parts(), value, None)
    }

    /// The same; taken back where it is not answered within `within`, in log time.
    pub fn send_within(&self, to: To<'_>, value: &[u8], within: Duration) -> Reply<u64> {
        self.tell(to.parts(), value, Some(milliseconds(within)))
    }

    /// Sends a message to all who are there now: to every inbox, or to none.
    pub fn send_all(&self, value: &[u8]) -> Reply<u64> {
        self.tell((TO_ALL, ""), value, None)
    }

    /// Sends a message and waits for the answer, as long as `within`, in log time. Fails with
    /// [`Code::MESSAGE_FAILED`] and what the member says, where that could not do what was asked;
    /// with [`Code::NO_SUCH_MEMBER`] where it left before it answered (one for any goes to the next
    /// then), [`Code::TIMEOUT`] where no answer came: in these two, and whatever else happens once
    /// it is sent, the member may have done it, and the outcome is unknown. Dropping the reply
    /// withdraws the question; so does the end of the session.
    pub fn ask(&self, to: To<'_>, value: &[u8], within: Duration) -> Reply<Vec<u8>> {
        self.question(to.parts(), value, within).and_then(|mut answers| match answers.pop() {
            Some(answered) => answered.answer,
            None => Err(silence()),
        })
    }

    /// Asks all who are there now, and waits until each has answered or left, as long as `within`:
    /// what came of it for each, in the order in which they joined.
    pub fn ask_all(&self, value: &[u8], within: Duration) -> Reply<Vec<Answered>> {
        self.question((TO_ALL, ""), value, within)
    }

    fn tell(&self, (to, id): (u8, &str), value: &[u8], wait_ms: Option<u64>) -> Reply<u64> {
        let (id, value) = (id.as_bytes().to_vec(), value.to_vec());
        let send = SendV1 { request: 0, to, id, value, ask: false, wait_ms };
        self.handle.command(&send).and_then(|answer| Ok(answer.index.0))
    }

    fn question(
        &self,
        (to, id): (u8, &str),
        value: &[u8],
        within: Duration,
    ) -> Reply<Vec<Answered>> {
        let request = self.handle.submit().unique();
        let (id, value) = (id.as_bytes().to_vec(), value.to_vec());
        let wait_ms = Some(milliseconds(within));
        let send = SendV1 { request, to, id, value, ask: true, wait_ms };
        // Once it waits in an inbox it may be done, whatever becomes of the answer.
        let sent = Arc::new(AtomicBool::new(false));
        let noted = sent.clone();
        let asked = self.handle.command(&send).and_then(move |answer| {
            noted.store(true, Ordering::Relaxed);
            Ok(answer)
        });
        // Whatever was not seen before the reply must be seen now.
        let handle = self.handle.clone().with_level(Level::default());
        let asked = acquire(&handle, request, 1, asked, Ways::cancelling::<CancelV1>());
        let answered = asked.then(move |held| match held {
            Ok(Some(held)) => answers(handle, held, 0, Vec::new()),
            Ok(None) => Reply::ready(Err(silence())),
            Err(failure) => Reply::ready(Err(failure)),
        });
        answered.map(move |answers| {
            answers.map_err(|failure| failure.behind(sent.load(Ordering::Relaxed)))
        })
    }

    /// Why an id cannot be one's own.
    fn own_id(&self, id: &str) -> Option<Reply<Membership<S>>> {
        let text = "a member's own id is not empty";
        id.is_empty().then(|| Reply::ready(Err(Failure::new(Code::BAD_NAME, text))))
    }

    fn ask_to_join(&self, id: &str, data: &[u8], wait_ms: Option<u64>) -> Reply<Membership<S>> {
        let request = self.handle.submit().unique();
        let (own, data) = (id.to_owned(), data.to_vec());
        let asked = self.handle.command(&JoinV1 { request, id: id.into(), data, wait_ms });
        let handle = self.handle.clone().with_level(Level::default());
        acquire(&self.handle, request, 1, asked, way_out()).and_then(move |held| match held {
            Some(held) => Ok(Membership::new(handle, held, own)),
            None => Err(Failure::new(Code::MEMBER_EXISTS, format!("{own} is still there"))),
        })
    }
}

impl<'a> To<'a> {
    fn parts(self) -> (u8, &'a str) {
        match self {
            To::Any => (TO_ANY, ""),
            To::Member(id) => (TO_MEMBER, id),
        }
    }
}

/// Fetches what came of a question, page by page; then it is forgotten.
fn answers<S: Submit>(
    handle: Handle<S>,
    held: Arc<Held<S>>,
    after: u64,
    mut all: Vec<Answered>,
) -> Reply<Vec<Answered>> {
    let wanted = AnswersV1 { message: held.grant().waiter.0, after };
    handle.query(&wanted).then(move |answer| {
        let read = answer.and_then(|answer| read_answers(&answer, &mut all));
        match read {
            Ok(Some(last)) => answers(handle, held, last, all),
            Ok(None) => Reply::ready(Ok(all)),
            Err(failure) => Reply::ready(Err(failure)),
        }
    })
}

/// Returns whom to go on after.
fn read_answers(answer: &Answer, all: &mut Vec<Answered>) -> Result<Option<u64>, Failure> {
    let mut reader = Reader::new(&answer.payload);
    let (more, mut last) = (reader.u8()? != 0, None);
    for _ in 0..reader.u32()? {
        last = Some(reader.u64()?);
        let outcome = reader.u8()?;
        let id = text(reader.bytes()?);
        let value = reader.bytes()?.to_vec();
        let unknown = |code, text| Failure::with_outcome(code, Outcome::Unknown, text);
        let answer = match outcome {
            ANSWERED => Ok(value),
            FAILED => Err(Failure::new(Code::MESSAGE_FAILED, text(&value))),
            GONE => Err(unknown(Code::NO_SUCH_MEMBER, format!("{id} left before it answered"))),
            SILENT => Err(silence()),
            _ => return Err(Failure::from(Code::BAD_PAYLOAD)),
        };
        all.push(Answered { id, answer });
    }
    Ok(last.filter(|_| more))
}

fn silence() -> Failure {
    Failure::new(Code::TIMEOUT, "no member has answered in time")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn read_members(answer: &Answer) -> Result<(Vec<Member>, bool), Failure> {
    let mut reader = Reader::new(&answer.payload);
    let (more, mut members) = (reader.u8()? != 0, Vec::new());
    for _ in 0..reader.u32()? {
        let (number, session) = (reader.u64()?, SessionId(reader.u64()?));
        let messages = reader.u32()?;
        let (id, data) = (text(reader.bytes()?), reader.bytes()?.to_vec());
        members.push(Member { id, number, session, data, messages });
    }
    Ok((members, more))
}

fn read_event(delivery: Delivery) -> Result<MemberEvent, Failure> {
    let (kind, payload) = match delivery {
        Delivery::Lagged { oldest } => return Ok(MemberEvent::Lagged { oldest }),
        Delivery::Event { kind, payload, .. } => (kind, payload),
    };
    if kind == DELETED {
        return Ok(MemberEvent::Deleted);
    }
    let payload = EventPayload::decode(&payload)?;
    let id = text(&payload.key.unwrap_or_default());
    let why = match kind {
        LEFT => Departure::Left,
        REMOVED => Departure::Removed,
        _ => Departure::SessionEnded,
    };
    match (kind, payload.new, payload.old) {
        (JOINED, Some(data), _) => Ok(MemberEvent::Joined { id, data }),
        (UPDATED, Some(data), Some(old)) => Ok(MemberEvent::Updated { id, data, old }),
        (LEFT | REMOVED | SESSION_ENDED, _, Some(data)) => Ok(MemberEvent::Left { id, data, why }),
        _ => Err(Failure::from(Code::BAD_PAYLOAD)),
    }
}
