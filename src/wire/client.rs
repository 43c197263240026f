//! What clients ask of nodes, after the hello; what these answer is in `response.rs`.
//!
//! Hot messages (command, reply, query, its answer) are a 16- or 32-byte block and a payload,
//! borrowed when read. The answers to the commands of one session come in the order of their
//! sequences; nothing is promised about the order of other answers, except that an event or notice
//! of index ≤ i comes before any answer that names an index ≥ i.

use margay_log::id::{Index, Micros};

use super::fields::{Block, Fields};
use super::{Error, Frame, Kind, encode};
use crate::machine::{ResourceId, Sequence, SessionId};

pub use super::admin::Admin;
pub use super::response::{NOTICES_MAX, RefusedOf, Response, TEXT_MAX};
pub use crate::machine::Level;

/// `Subscribe` says where to begin.
const FLAG_AFTER: u8 = 1;

/// From a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request<'a> {
    /// Open a session, or find the one that was opened with the same key; the connection speaks for
    /// it then.
    Register {
        /// Comes back in the answer.
        correlation: u64,
        /// Random; names this attempt and is the secret for `Attach`.
        key: [u8; 16],
        /// The session expires when nothing was heard of the client for this long.
        timeout: Micros,
    },
    /// Speak for a session on this connection from now on; an older connection is told
    /// `SESSION_MOVED`.
    Attach {
        /// The session.
        session: SessionId,
        /// What it was registered with.
        key: [u8; 16],
        /// End of the contiguous prefix of replies received.
        acked: Sequence,
    },
    /// The client lives. Answered by a leader that was confirmed after this arrived.
    KeepAlive {
        /// The session.
        session: SessionId,
        /// End of the contiguous prefix of replies received.
        acked: Sequence,
    },
    /// End the session.
    Close {
        /// The session.
        session: SessionId,
    },
    /// An operation that changes something, of the session this connection speaks for.
    Command {
        /// From 1, without gaps.
        sequence: Sequence,
        /// End of the contiguous prefix of replies received.
        acked: Sequence,
        /// Kind of operation.
        kind: u8,
        /// Version of the operation.
        schema: u16,
        /// What it is about.
        resource: ResourceId,
        /// The operation, archived.
        payload: &'a [u8],
    },
    /// An operation that changes nothing.
    Query {
        /// Comes back in the answer.
        id: u64,
        /// How recent the answer must be.
        level: Level,
        /// Highest index the client has seen; the answer is not older.
        seen: Index,
        /// The answer sees the commands of this session up to here.
        after: Sequence,
        /// Kind of operation.
        kind: u8,
        /// Version of the operation.
        schema: u16,
        /// What it is about.
        resource: ResourceId,
        /// The operation, archived.
        payload: &'a [u8],
    },
    /// Send the events of a resource on this connection, until told otherwise or until it ends. The
    /// same id again replaces the subscription.
    Subscribe {
        /// Names the subscription.
        id: u64,
        /// Whose events.
        resource: ResourceId,
        /// Begin behind this (index, ordinal); without it, behind the index in the answer.
        after: Option<(Index, u32)>,
        /// Which of them; empty for all.
        filter: &'a [u8],
    },
    /// No more events of this subscription. Not answered.
    Unsubscribe {
        /// The subscription.
        id: u64,
    },
    /// How is this node?
    Status {
        /// Comes back in the answer.
        id: u64,
    },
    /// Change who is a member.
    Admin {
        /// Comes back in the answer.
        id: u64,
        /// What is to be done.
        admin: Admin<'a>,
    },
}

impl<'a> Request<'a> {
    /// Appends the frame to `out`.
    ///
    /// # Panics
    /// When a payload is longer than [`super::PAYLOAD_MAX`].
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Request::Register { correlation, key, timeout } => {
                encode(out, Kind::Register, 0, correlation, timeout.0, &[&key]);
            }
            Request::Attach { session, key, acked } => {
                encode(out, Kind::Attach, 0, session.0, acked.0, &[&key]);
            }
            Request::KeepAlive { session, acked } => {
                encode(out, Kind::KeepAlive, 0, session.0, acked.0, &[]);
            }
            Request::Close { session } => encode(out, Kind::Close, 0, session.0, 0, &[]),
            Request::Command { sequence, acked, kind, schema, resource, payload } => {
                let block =
                    Block::<16>::new().u8(kind).u8(0).u16(schema).u32(0).u64(resource.0).done();
                encode(out, Kind::Command, 0, sequence.0, acked.0, &[&block, payload]);
            }
            Request::Query { id, level, seen, after, kind, schema, resource, payload } => {
                let level = match level {
                    Level::Linearizable => 0,
                    Level::Lease => 1,
                    Level::Sequential => 2,
                };
                let block = Block::<32>::new().u8(kind).u8(level).u16(schema).u32(0);
                let block = block.u64(resource.0).u64(after.0).done();
                encode(out, Kind::Query, 0, id, seen.0, &[&block, payload]);
            }
            Request::Subscribe { id, resource, after, filter } => {
                let (index, ordinal) = after.unwrap_or_default();
                let flags = if after.is_some() { FLAG_AFTER } else { 0 };
                let block = Block::<16>::new().u64(index.0).u32(ordinal).done();
                encode(out, Kind::Subscribe, flags, id, resource.0, &[&block, filter]);
            }
            Request::Unsubscribe { id } => encode(out, Kind::Unsubscribe, 0, id, 0, &[]),
            Request::Status { id } => encode(out, Kind::Status, 0, id, 0, &[]),
            Request::Admin { id, admin } => admin.put(id, out),
        }
    }

    /// Reads a request from a frame.
    ///
    /// # Errors
    /// When the frame is not a request a client of this version can send.
    pub fn decode(frame: &Frame<'a>) -> Result<Request<'a>, Error> {
        let Frame { kind: frame_kind, flags, a, b, body } = *frame;
        let mut fields = Fields::new(frame_kind, body);
        if frame_kind == Kind::Admin {
            return Ok(Request::Admin { id: a, admin: Admin::take(flags, b, fields)? });
        }
        if flags & !(if frame_kind == Kind::Subscribe { FLAG_AFTER } else { 0 }) != 0 {
            return Err(fields.error("unknown flags"));
        }
        let request = match frame_kind {
            Kind::Command => {
                let kind = fields.u8()?;
                fields.zeros::<1>()?;
                let schema = fields.u16()?;
                fields.zeros::<4>()?;
                let resource = ResourceId(fields.u64()?);
                let (sequence, acked) = (Sequence(a), Sequence(b));
                let payload = fields.rest();
                return Ok(Request::Command { sequence, acked, kind, schema, resource, payload });
            }
            Kind::Query => return decode_query(a, b, fields),
            Kind::Subscribe => return decode_subscribe(flags, a, b, fields),
            Kind::Register => {
                Request::Register { correlation: a, key: fields.array()?, timeout: Micros(b) }
            }
            Kind::Attach => {
                Request::Attach { session: SessionId(a), key: fields.array()?, acked: Sequence(b) }
            }
            Kind::KeepAlive => Request::KeepAlive { session: SessionId(a), acked: Sequence(b) },
            Kind::Close if b == 0 => Request::Close { session: SessionId(a) },
            Kind::Unsubscribe if b == 0 => Request::Unsubscribe { id: a },
            Kind::Status if b == 0 => Request::Status { id: a },
            _ => return Err(fields.error("not a request")),
        };
        fields.end()?;
        Ok(request)
    }
}

fn decode_query(a: u64, b: u64, mut fields: Fields<'_>) -> Result<Request<'_>, Error> {
    let kind = fields.u8()?;
    let level = match fields.u8()? {
        0 => Level::Linearizable,
        1 => Level::Lease,
        2 => Level::Sequential,
        _ => return Err(fields.error("unknown level")),
    };
    let schema = fields.u16()?;
    fields.zeros::<4>()?;
    let resource = ResourceId(fields.u64()?);
    let after = Sequence(fields.u64()?);
    fields.zeros::<8>()?;
    let payload = fields.rest();
    Ok(Request::Query { id: a, level, seen: Index(b), after, kind, schema, resource, payload })
}

fn decode_subscribe(
    flags: u8,
    a: u64,
    b: u64,
    mut fields: Fields<'_>,
) -> Result<Request<'_>, Error> {
    let after = (Index(fields.u64()?), fields.u32()?);
    fields.zeros::<4>()?;
    let given = flags & FLAG_AFTER != 0;
    if !given && after != Default::default() {
        return Err(fields.error("a position without its flag"));
    }
    let after = given.then_some(after);
    Ok(Request::Subscribe { id: a, resource: ResourceId(b), after, filter: fields.rest() })
}
