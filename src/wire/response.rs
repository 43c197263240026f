//! What nodes answer to clients, and tell them without being asked.

use margay_log::id::{Index, Micros, NodeId};

use super::fields::{Block, Fields, cut};
use super::status::GroupStatus;
use super::{Error, Frame, Kind, encode};
use crate::machine::{Code, Notice, NoticeState, ResourceId, Sequence, SessionId};

/// Longest text in a refusal, in bytes; longer ones are cut.
pub const TEXT_MAX: usize = 1024;

/// Notices that fit into one `Attached`, with room to spare.
pub const NOTICES_MAX: usize = 32_768;

const NOTICE_BYTES: usize = 40;
const _: () = assert!(NOTICES_MAX * NOTICE_BYTES + 64 < super::FRAME_MAX);

/// From a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Response<'a> {
    /// The session is open.
    Registered {
        /// Of the request.
        correlation: u64,
        /// The session.
        session: SessionId,
        /// Its time-out; the asked-for one within the limits of the cluster.
        timeout: Micros,
        /// Everything up to here was applied.
        index: Index,
    },
    /// The connection speaks for the session.
    Attached {
        /// The session.
        session: SessionId,
        /// Everything up to here was applied.
        index: Index,
        /// The last command of the session that was applied by then.
        sequence: Sequence,
        /// What the session holds and waits for at that index, in full.
        notices: Vec<Notice>,
    },
    /// Heard, and confirmed as leader since.
    KeptAlive {
        /// The session.
        session: SessionId,
        /// The commit index.
        index: Index,
    },
    /// The session has ended.
    Closed {
        /// The session.
        session: SessionId,
    },
    /// Answer to a command.
    Reply {
        /// Of the command.
        sequence: Sequence,
        /// Where it stands in the log.
        index: Index,
        /// How it went.
        code: Code,
        /// Its result, archived.
        payload: &'a [u8],
    },
    /// Answer to a query.
    QueryReply {
        /// Of the query.
        id: u64,
        /// The state that was read.
        index: Index,
        /// How it went.
        code: Code,
        /// Its result, archived.
        payload: &'a [u8],
    },
    /// Something happened.
    Event {
        /// To whom it goes.
        subscription: u64,
        /// The entry that caused it.
        index: Index,
        /// Counts the events of that entry.
        ordinal: u32,
        /// What happened.
        kind: u16,
        /// More about it.
        payload: &'a [u8],
    },
    /// Events were dropped before this subscription took them. It goes on with those from `oldest`
    /// on.
    Lagged {
        /// Who missed them.
        subscription: u64,
        /// Index of the oldest event that is still kept.
        oldest: Index,
    },
    /// Events follow: those behind the asked-for position, or behind `index` when none was given.
    Subscribed {
        /// The subscription.
        id: u64,
        /// Everything up to here was applied.
        index: Index,
    },
    /// What the session waits for or holds has changed.
    Notice(Notice),
    /// No. What was asked for had no effect; where that cannot be said, a node closes the
    /// connection instead.
    Refused {
        /// What is refused.
        of: RefusedOf,
        /// Why.
        code: Code,
        /// Ask again after this long; 0 where that makes no difference.
        retry: Micros,
        /// Address of the leader, or empty.
        leader: &'a str,
        /// More for a person, or empty.
        text: &'a str,
    },
    /// How this node is.
    Status {
        /// Of the request.
        id: u64,
        /// Its groups.
        groups: Vec<GroupStatus>,
    },
    /// What was asked for as an operator is done, and committed.
    Admin {
        /// Of the request.
        id: u64,
        /// Whether it was not so before.
        changed: bool,
        /// Number of the node it is about; 0 where nobody knows it, as a member or as one before.
        node: NodeId,
        /// The commit index.
        index: Index,
    },
}

/// What a refusal refuses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RefusedOf {
    /// Everything; the connection is closed after this.
    Connection,
    /// A command, and all that was sent behind it on this connection and not yet answered.
    Command(Sequence),
    /// A query, by id.
    Query(u64),
    /// A register, by correlation.
    Register(u64),
    /// An attach, keep-alive or close.
    Session(SessionId),
    /// A subscription, by id.
    Subscription(u64),
    /// A status request, by id.
    Status(u64),
    /// One frame, of a kind that is not known here, by that kind; the connection goes on.
    Frame(u8),
    /// An operator's request, by id.
    Admin(u64),
}

impl RefusedOf {
    fn parts(self) -> (u8, u64) {
        match self {
            RefusedOf::Connection => (0, 0),
            RefusedOf::Command(sequence) => (1, sequence.0),
            RefusedOf::Query(id) => (2, id),
            RefusedOf::Register(correlation) => (3, correlation),
            RefusedOf::Session(session) => (4, session.0),
            RefusedOf::Subscription(id) => (5, id),
            RefusedOf::Status(id) => (6, id),
            RefusedOf::Frame(kind) => (7, u64::from(kind)),
            RefusedOf::Admin(id) => (8, id),
        }
    }

    fn from_parts(which: u8, number: u64) -> Option<RefusedOf> {
        Some(match which {
            0 if number == 0 => RefusedOf::Connection,
            1 => RefusedOf::Command(Sequence(number)),
            2 => RefusedOf::Query(number),
            3 => RefusedOf::Register(number),
            4 => RefusedOf::Session(SessionId(number)),
            5 => RefusedOf::Subscription(number),
            6 => RefusedOf::Status(number),
            7 => RefusedOf::Frame(u8::try_from(number).ok()?),
            8 => RefusedOf::Admin(number),
            _ => return None,
        })
    }
}

impl<'a> Response<'a> {
    /// Appends the frame to `out`.
    ///
    /// # Panics
    /// When a payload is longer than [`super::PAYLOAD_MAX`], or there are more than [`NOTICES_MAX`]
    /// notices.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Response::Registered { correlation, session, timeout, index } => {
                let block = Block::<16>::new().u64(timeout.0).u64(index.0).done();
                encode(out, Kind::Registered, 0, *correlation, session.0, &[&block]);
            }
            Response::Attached { session, index, sequence, notices } => {
                let block = Block::<16>::new().u64(sequence.0).done();
                let list: Vec<[u8; NOTICE_BYTES]> = notices.iter().map(notice_block).collect();
                encode(out, Kind::Attached, 0, session.0, index.0, &[&block, list.as_flattened()]);
            }
            Response::KeptAlive { session, index } => {
                encode(out, Kind::KeptAlive, 0, session.0, index.0, &[]);
            }
            Response::Closed { session } => encode(out, Kind::Closed, 0, session.0, 0, &[]),
            Response::Reply { sequence, index, code, payload } => {
                let block = Block::<16>::new().u16(code.0).done();
                encode(out, Kind::Reply, 0, sequence.0, index.0, &[&block, payload]);
            }
            Response::QueryReply { id, index, code, payload } => {
                let block = Block::<16>::new().u16(code.0).done();
                encode(out, Kind::QueryReply, 0, *id, index.0, &[&block, payload]);
            }
            Response::Event { subscription, index, ordinal, kind, payload } => {
                let block = Block::<16>::new().u32(*ordinal).u16(*kind).done();
                encode(out, Kind::Event, 0, *subscription, index.0, &[&block, payload]);
            }
            Response::Lagged { subscription, oldest } => {
                encode(out, Kind::Lagged, 0, *subscription, oldest.0, &[]);
            }
            Response::Subscribed { id, index } => {
                encode(out, Kind::Subscribed, 0, *id, index.0, &[]);
            }
            Response::Notice(notice) => {
                encode(out, Kind::Notice, 0, 0, 0, &[&notice_block(notice)]);
            }
            Response::Refused { of, code, retry, leader, text } => {
                let (which, number) = of.parts();
                let (leader, text) = (cut(leader, TEXT_MAX), cut(text, TEXT_MAX));
                let block =
                    Block::<16>::new().u64(number).u16(code.0).u16(leader.len() as u16).done();
                let parts: [&[u8]; 3] = [&block, leader.as_bytes(), text.as_bytes()];
                encode(out, Kind::Refused, which, retry.0, 0, &parts);
            }
            Response::Status { id, groups } => {
                let mut body = Vec::new();
                groups.iter().for_each(|group| group.put(&mut body));
                encode(out, Kind::StatusReply, 0, *id, groups.len() as u64, &[&body]);
            }
            Response::Admin { id, changed, node, index } => {
                let block = Block::<16>::new().u32(node.0).done();
                encode(out, Kind::AdminReply, u8::from(*changed), *id, index.0, &[&block]);
            }
        }
    }

    /// Reads a response from a frame.
    ///
    /// # Errors
    /// When the frame is not a response a node of this version can send.
    pub fn decode(frame: &Frame<'a>) -> Result<Response<'a>, Error> {
        let Frame { kind: frame_kind, flags, a, b, body } = *frame;
        let mut fields = Fields::new(frame_kind, body);
        let flagged = matches!(frame_kind, Kind::Refused | Kind::AdminReply);
        if flags != 0 && !flagged {
            return Err(fields.error("unknown flags"));
        }
        let response = match frame_kind {
            Kind::Reply => {
                let code = Code(fields.u16()?);
                fields.zeros::<14>()?;
                let payload = fields.rest();
                return Ok(Response::Reply {
                    sequence: Sequence(a),
                    index: Index(b),
                    code,
                    payload,
                });
            }
            Kind::QueryReply => {
                let code = Code(fields.u16()?);
                fields.zeros::<14>()?;
                return Ok(Response::QueryReply {
                    id: a,
                    index: Index(b),
                    code,
                    payload: fields.rest(),
                });
            }
            Kind::Event => {
                let (ordinal, kind) = (fields.u32()?, fields.u16()?);
                fields.zeros::<10>()?;
                let (index, payload) = (Index(b), fields.rest());
                return Ok(Response::Event { subscription: a, index, ordinal, kind, payload });
            }
            Kind::Refused => return decode_refused(flags, a, b, fields),
            Kind::Attached => return decode_attached(a, b, fields),
            Kind::StatusReply => {
                let groups = GroupStatus::take_all(b, &mut fields)?;
                Response::Status { id: a, groups }
            }
            Kind::AdminReply if flags <= 1 => {
                let node = NodeId(fields.u32()?);
                fields.zeros::<12>()?;
                Response::Admin { id: a, changed: flags == 1, node, index: Index(b) }
            }
            Kind::Notice if a == 0 && b == 0 => Response::Notice(decode_notice(&mut fields)?),
            Kind::Registered => {
                let (timeout, index) = (Micros(fields.u64()?), Index(fields.u64()?));
                Response::Registered { correlation: a, session: SessionId(b), timeout, index }
            }
            Kind::KeptAlive => Response::KeptAlive { session: SessionId(a), index: Index(b) },
            Kind::Closed if b == 0 => Response::Closed { session: SessionId(a) },
            Kind::Lagged => Response::Lagged { subscription: a, oldest: Index(b) },
            Kind::Subscribed => Response::Subscribed { id: a, index: Index(b) },
            _ => return Err(fields.error("not a response")),
        };
        fields.end()?;
        Ok(response)
    }
}

fn decode_attached(a: u64, b: u64, mut fields: Fields<'_>) -> Result<Response<'_>, Error> {
    let sequence = Sequence(fields.u64()?);
    fields.zeros::<8>()?;
    let mut notices = Vec::with_capacity(fields.left() / NOTICE_BYTES);
    while fields.left() > 0 {
        notices.push(decode_notice(&mut fields)?);
    }
    Ok(Response::Attached { session: SessionId(a), index: Index(b), sequence, notices })
}

fn decode_refused(
    flags: u8,
    a: u64,
    b: u64,
    mut fields: Fields<'_>,
) -> Result<Response<'_>, Error> {
    let number = fields.u64()?;
    let code = Code(fields.u16()?);
    let leader_length = usize::from(fields.u16()?);
    fields.zeros::<4>()?;
    let of = RefusedOf::from_parts(flags, number).filter(|_| b == 0);
    let of = of.ok_or_else(|| fields.error("refuses nothing that can be asked for"))?;
    let leader = fields.text(leader_length)?;
    let text = fields.text(fields.left())?;
    if leader.len() > TEXT_MAX || text.len() > TEXT_MAX {
        return Err(fields.error("text is too long"));
    }
    Ok(Response::Refused { of, code, retry: Micros(a), leader, text })
}

/// A notice in 40 bytes: session, resource, waiter, token, state.
fn notice_block(notice: &Notice) -> [u8; NOTICE_BYTES] {
    let (state, token) = match notice.state {
        NoticeState::Waiting => (0, 0),
        NoticeState::Granted { token } => (1, token),
        NoticeState::TimedOut => (2, 0),
        NoticeState::Released => (3, 0),
        NoticeState::Lost => (4, 0),
    };
    let block = Block::<NOTICE_BYTES>::new().u64(notice.session.0).u64(notice.resource.0);
    block.u64(notice.waiter.0).u64(token).u8(state).done()
}

fn decode_notice(fields: &mut Fields<'_>) -> Result<Notice, Error> {
    let session = SessionId(fields.u64()?);
    let resource = ResourceId(fields.u64()?);
    let waiter = Index(fields.u64()?);
    let token = fields.u64()?;
    let state = match (fields.u8()?, token) {
        (0, 0) => NoticeState::Waiting,
        (1, token) => NoticeState::Granted { token },
        (2, 0) => NoticeState::TimedOut,
        (3, 0) => NoticeState::Released,
        (4, 0) => NoticeState::Lost,
        _ => return Err(fields.error("unknown notice state")),
    };
    fields.zeros::<7>()?;
    Ok(Notice { session, resource, waiter, state })
}
