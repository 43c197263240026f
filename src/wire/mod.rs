//! What travels between nodes and clients: a hello in each direction, then frames.
//!
//! No sockets here, and no allocation on the hot path: commands, replies and queries borrow from
//! the bytes they were received in and are encoded straight into an out-buffer. Headers are written
//! by hand, little-endian, with fixed layouts. What a payload means is not known here.
//!
//! Invariants:
//! - Every length is checked against a bound and against the bytes at hand before anything is
//!   allocated or read.
//! - No input makes this module panic; bytes whose checksum is wrong are never accepted.
//! - Whatever is accepted encodes to the same bytes again: unused flags, reserved fields and
//!   padding are zero.
//!
//! ```text
//!  0 length u32: the whole frame, a multiple of 16, 32 ..= 2 MiB
//!  4 kind u8 · 5 version u8 · 6 pad u8 · 7 flags u8
//!  8 a u64
//! 16 b u64
//! 24 body crc u32 (bytes 32 .. length) · 28 head crc u32 (bytes 0 .. 28)
//! 32 body, then `pad` zeros
//! ```
//!
//! `a` and `b` are the two numbers a message is about: a sequence and an index, say. A payload
//! begins at a multiple of 16 in its frame, so that an archived payload can be checked where it was
//! received.

use crc32c::crc32c;
use margay_log::sum;

mod admin;
pub mod client;
mod error;
mod fields;
pub mod forming;
mod hello;
pub mod peer;
pub mod repair;
mod response;
pub mod snapshot;
mod status;

pub use error::{Error, Foreign, Part};
pub use hello::{HELLO_BYTES, Hello, HelloKind, sniff};
pub use status::GroupStatus;

/// Bytes of a frame's header.
pub const HEADER: usize = 32;

/// Frames, and payloads within them, are aligned to this many bytes.
pub const ALIGN: usize = 16;

/// Largest frame: 2 MiB. A value of 1 MiB and what surrounds it fit with room to spare.
pub const FRAME_MAX: usize = 2 << 20;

/// Largest payload of a command, query, reply or event, whatever precedes it in the body.
pub const PAYLOAD_MAX: usize = FRAME_MAX - HEADER - 64;

/// The protocol spoken here; the same number in hellos and frames.
pub const VERSION: u8 = 1;

const _: () = assert!(FRAME_MAX.is_multiple_of(ALIGN) && HEADER.is_multiple_of(ALIGN));
const _: () = assert!(FRAME_MAX < u32::MAX as usize);

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// What a frame is. Numbers are never used again for something else.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub enum Kind {
            $($(#[$doc])* $name = $number,)*
        }

        impl Kind {
            /// Every kind there is.
            pub const ALL: &'static [Kind] = &[$(Kind::$name,)*];

            /// The kind of this number, if there is one.
            #[must_use]
            pub fn from_number(number: u8) -> Option<Kind> {
                match number {
                    $($number => Some(Kind::$name),)*
                    _ => None,
                }
            }
        }
    };
}

kinds! {
    /// Client: open a session.
    Register = 1,
    /// Client: this connection speaks for a session from now on.
    Attach = 2,
    /// Client: I am still here.
    KeepAlive = 3,
    /// Client: end my session.
    Close = 4,
    /// Client: change something.
    Command = 5,
    /// Client: read something.
    Query = 6,
    /// Client: tell me what happens.
    Subscribe = 7,
    /// Client: tell me no more.
    Unsubscribe = 8,
    /// Client: how is this node?
    Status = 9,
    /// Client: change who is a member, or who leads.
    Admin = 10,
    /// Node: the session is open.
    Registered = 33,
    /// Node: the session is known, and this is what it holds.
    Attached = 34,
    /// Node: heard you, and was leader after that.
    KeptAlive = 35,
    /// Node: the session has ended as asked.
    Closed = 36,
    /// Node: answer to a command.
    Reply = 37,
    /// Node: answer to a query.
    QueryReply = 38,
    /// Node: something happened.
    Event = 39,
    /// Node: events were dropped before you took them.
    Lagged = 40,
    /// Node: events follow.
    Subscribed = 41,
    /// Node: what a session waits for or holds has changed.
    Notice = 42,
    /// Node: no, and why.
    Refused = 43,
    /// Node: how it is.
    StatusReply = 44,
    /// Node: what was asked of it as an operator is done.
    AdminReply = 45,
    /// Peer: would you vote for me?
    PreVote = 64,
    /// Peer: answer to a pre-vote.
    PreVoteReply = 65,
    /// Peer: vote for me.
    Vote = 66,
    /// Peer: answer to a vote.
    VoteReply = 67,
    /// Peer: at most one batch, or a heartbeat.
    Append = 68,
    /// Peer: the log matches up to here.
    AppendAck = 69,
    /// Peer: the log does not hold what the append follows.
    AppendReject = 70,
    /// Peer: stand for election at once.
    TimeoutNow = 71,
    /// Peer: a piece of a snapshot.
    SnapshotPiece = 72,
    /// Peer: how much of a snapshot has come.
    SnapshotAck = 73,
    /// Peer: who has this batch, or a snapshot?
    RepairRequest = 74,
    /// Peer: here it is.
    RepairReply = 75,
    /// Anybody: what is the chain of this log?
    ChainQuery = 76,
    /// Node: this is it.
    ChainReply = 77,
    /// Founder: this is who I am and whom I expect.
    Offer = 96,
    /// Founder: the founding record, durable at the sender.
    Founded = 97,
}

/// One frame, borrowed from the bytes it was received in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame<'a> {
    /// What it is.
    pub kind: Kind,
    /// Meaning depends on the kind; most have none.
    pub flags: u8,
    /// First number.
    pub a: u64,
    /// Second number.
    pub b: u64,
    /// The body without its padding.
    pub body: &'a [u8],
}

/// How long the frame is that begins with `bytes`; `None` while its header is incomplete.
///
/// A frame that will be refused is refused as early as its bytes show it: a length of 4 GiB by the
/// fourth.
///
/// # Errors
/// When the header is wrong. Framing is lost then, and the connection with it.
pub fn peek(bytes: &[u8]) -> Result<Option<usize>, Error> {
    let Some(first) = bytes.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_le_bytes(*first);
    if length as usize > FRAME_MAX {
        return Err(foreign(bytes).unwrap_or(Error::TooLarge { length }));
    }
    if (length as usize) < HEADER || !(length as usize).is_multiple_of(ALIGN) {
        return Err(foreign(bytes).unwrap_or(Error::Length { length }));
    }
    let Some(header) = bytes.first_chunk::<HEADER>() else { return Ok(None) };
    if crc32c(&header[..28]) != u32_at(header, 28) {
        return Err(Error::Checksum(Part::Header));
    }
    if header[5] != VERSION {
        return Err(Error::Version { theirs: u16::from(header[5]) });
    }
    if usize::from(header[6]) >= ALIGN || usize::from(header[6]) > length as usize - HEADER {
        return Err(Error::Length { length });
    }
    Ok(Some(length as usize))
}

/// Reads one whole frame.
///
/// # Errors
/// When `bytes` are not exactly one right frame. After [`Error::Kind`] the next frame can still be
/// read; see [`Error::is_fatal`].
pub fn decode(bytes: &[u8]) -> Result<Frame<'_>, Error> {
    let Some(header) = bytes.first_chunk::<HEADER>() else {
        return Err(Error::Length { length: u32::try_from(bytes.len()).unwrap_or(u32::MAX) });
    };
    if peek(header)? != Some(bytes.len()) {
        return Err(Error::Length { length: u32_at(header, 0) });
    }
    if sum::crc32c(&bytes[HEADER..]) != u32_at(header, 24) {
        return Err(Error::Checksum(Part::Body));
    }
    let kind = Kind::from_number(header[4]).ok_or(Error::Kind(header[4]))?;
    let (body, padding) = bytes[HEADER..].split_at(bytes.len() - HEADER - usize::from(header[6]));
    if padding.iter().any(|byte| *byte != 0) {
        return Err(Error::Body { kind, what: "padding is not zero" });
    }
    Ok(Frame { kind, flags: header[7], a: u64_at(header, 8), b: u64_at(header, 16), body })
}

/// Appends one frame to `out`: one copy of the parts, one pass of checksumming over them where they
/// lie.
///
/// # Panics
/// When the parts do not fit into a frame: the caller bounds what it sends by [`PAYLOAD_MAX`].
pub fn encode(out: &mut Vec<u8>, kind: Kind, flags: u8, a: u64, b: u64, body_parts: &[&[u8]]) {
    let body: usize = body_parts.iter().map(|part| part.len()).sum();
    let length = (HEADER + body).next_multiple_of(ALIGN);
    assert!(length <= FRAME_MAX, "a {kind:?} frame of {length} bytes");
    let pad = length - HEADER - body;

    let start = out.len();
    out.reserve(length);
    let mut header = [0; HEADER];
    header[..4].copy_from_slice(&(length as u32).to_le_bytes());
    header[4..8].copy_from_slice(&[kind as u8, VERSION, pad as u8, flags]);
    header[8..16].copy_from_slice(&a.to_le_bytes());
    header[16..24].copy_from_slice(&b.to_le_bytes());
    out.extend_from_slice(&header);
    for part in body_parts {
        out.extend_from_slice(part);
    }
    out.extend_from_slice(&[0; ALIGN][..pad]);

    let body_crc = sum::crc32c(&out[start + HEADER..]);
    let header = &mut out[start..start + HEADER];
    header[24..28].copy_from_slice(&body_crc.to_le_bytes());
    let head_crc = crc32c(&header[..28]);
    header[28..].copy_from_slice(&head_crc.to_le_bytes());
}

/// Bytes that are no frame, if it is known whose they are: an answer from the wrong kind of server,
/// say.
fn foreign(bytes: &[u8]) -> Option<Error> {
    sniff(bytes).filter(|foreign| *foreign != Foreign::Unknown).map(Error::Foreign)
}

/// The number at `offset`, which the caller knows to be inside.
fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[offset..offset + 4]);
    u32::from_le_bytes(number)
}

/// The number at `offset`, which the caller knows to be inside.
fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[offset..offset + 8]);
    u64::from_le_bytes(number)
}
