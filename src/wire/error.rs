//! What is wrong with received bytes, in words for whoever sent them.

use super::{FRAME_MAX, Kind, VERSION};
use crate::machine::Code;

/// Bytes that were refused. The message is fit to be sent back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Longer than any frame may be. Nothing was allocated for it.
    #[error("frame of {length} bytes; the largest allowed is {FRAME_MAX}")]
    TooLarge {
        /// What the header says, in bytes.
        length: u32,
    },
    /// Not a length a frame can have, or not the length of these bytes.
    #[error("frame length {length} does not fit: lengths are multiples of 16, 32 or more")]
    Length {
        /// What the header says, in bytes.
        length: u32,
    },
    /// Who is at the other end speaks another protocol.
    #[error("{0} is spoken, instead of margay's own protocol")]
    Foreign(Foreign),
    /// A margay of another protocol version.
    #[error("protocol version {theirs}; version {VERSION} is spoken here")]
    Version {
        /// What the other side speaks.
        theirs: u16,
    },
    /// Damaged on the way, or made by a faulty program.
    #[error("checksum of the {0} does not match")]
    Checksum(Part),
    /// No such message; the other side is newer. Framing holds: the connection may be kept.
    #[error("unknown message kind {0}")]
    Kind(u8),
    /// Undamaged, but not what a message of this kind looks like.
    #[error("{kind:?} message: {what}")]
    Body {
        /// The kind of message.
        kind: Kind,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// What a checksum covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// The first 64 bytes of a connection.
    Hello,
    /// The header of a frame.
    Header,
    /// The body of a frame.
    Body,
}

/// Whose protocol the first bytes belong to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Foreign {
    /// A web client or server.
    Http,
    /// A TLS handshake, or the refusal of one.
    Tls,
    /// An SSH client or server.
    Ssh,
    /// A Redis client.
    Redis,
    /// Nobody we know.
    Unknown,
}

impl Error {
    /// Stable number of this error (1xx).
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Error::TooLarge { .. } => Code::FRAME_TOO_LARGE,
            Error::Length { .. } => Code::BAD_FRAME,
            Error::Foreign(_) => Code::FOREIGN,
            Error::Version { .. } => Code::VERSION,
            Error::Checksum(_) => Code::CORRUPT,
            Error::Kind(_) => Code::BAD_KIND,
            Error::Body { .. } => Code::BAD_PAYLOAD,
        }
    }

    /// Whether the connection must be closed. Only an unknown kind leaves it usable.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        !matches!(self, Error::Kind(_))
    }
}

impl Foreign {
    /// What to send before closing, in the stranger's own protocol where that has a way to say it.
    #[must_use]
    pub fn answer(self) -> &'static [u8] {
        match self {
            Foreign::Http => {
                b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\
                Content-Length: 48\r\n\r\nthis is a margay port; HTTP is not spoken here\r\n"
            }
            // A fatal alert: protocol_version.
            Foreign::Tls => &[0x15, 3, 1, 0, 2, 2, 70],
            Foreign::Ssh => b"this is a margay port; SSH is not spoken here\r\n",
            Foreign::Redis => b"-ERR this is a margay port; Redis is not spoken here\r\n",
            Foreign::Unknown => b"",
        }
    }
}

impl std::fmt::Display for Foreign {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Foreign::Http => "HTTP",
            Foreign::Tls => "TLS",
            Foreign::Ssh => "SSH",
            Foreign::Redis => "the Redis protocol",
            Foreign::Unknown => "an unknown protocol",
        })
    }
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Part::Hello => "hello",
            Part::Header => "frame header",
            Part::Body => "frame body",
        })
    }
}
