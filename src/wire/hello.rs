//! The first 64 bytes of every connection, in both directions.

use crc32c::crc32c;
use margay_log::id::{ClusterId, GroupId, Incarnation, NodeId};

use super::{Error, Foreign, Part, VERSION, u32_at, u64_at};
use crate::machine::Code;

/// Bytes of a hello.
pub const HELLO_BYTES: usize = 64;

/// No text protocol begins with the first byte, and a transfer that mends line ends spoils the
/// last.
const MAGIC: [u8; 8] = *b"\x89MARGAY\n";

/// Who connects to what; the answer says who answered. The side that connects speaks first.
///
/// ```text
///  0 magic 8         12 group u32     28 groups u32        44 zeros
///  8 version u16     16 cluster u64   32 incarnation u64   60 crc u32 (bytes 0 .. 60)
/// 10 kind u8 · 11 0  24 node u32      40 code u16 · 42 port u16
/// ```
/// Magic and version stay where they are in all versions to come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hello {
    /// What the connection is for. The answer has the same kind.
    pub kind: HelloKind,
    /// The group the connection belongs to.
    pub group: GroupId,
    /// The cluster; 0 from a client stands for any, and from a node that has not been founded for
    /// none.
    pub cluster: ClusterId,
    /// Who speaks; 0 from clients.
    pub node: NodeId,
    /// Number of groups of the cluster, in answers.
    pub groups: u32,
    /// The life of the speaker's data directory; 0 from clients.
    pub incarnation: Incarnation,
    /// In answers: `Code::OK`, or why the connection is closed after this hello.
    pub code: Code,
    /// Where the node listens, on the address that it comes from: who does not know it yet can
    /// answer it. 0 from clients.
    pub port: u16,
}

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum HelloKind {
    /// Requests and responses of one client with one group.
    Client = 1,
    /// Messages of one node to another about one group.
    Peer = 2,
    /// Founders finding each other.
    Forming = 3,
}

impl HelloKind {
    fn from_number(number: u8) -> Option<HelloKind> {
        match number {
            1 => Some(HelloKind::Client),
            2 => Some(HelloKind::Peer),
            3 => Some(HelloKind::Forming),
            _ => None,
        }
    }
}

impl Hello {
    /// What a client says to reach `group` of `cluster` (0: whichever it is).
    #[must_use]
    pub fn client(cluster: ClusterId, group: GroupId) -> Hello {
        Hello {
            kind: HelloKind::Client,
            group,
            cluster,
            node: NodeId(0),
            groups: 0,
            incarnation: Incarnation(0),
            code: Code(0),
            port: 0,
        }
    }

    /// The 64 bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HELLO_BYTES] {
        let mut bytes = [0; HELLO_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&u16::from(VERSION).to_le_bytes());
        bytes[10] = self.kind as u8;
        bytes[12..16].copy_from_slice(&self.group.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.cluster.0.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.node.0.to_le_bytes());
        bytes[28..32].copy_from_slice(&self.groups.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.incarnation.0.to_le_bytes());
        bytes[40..42].copy_from_slice(&self.code.0.to_le_bytes());
        bytes[42..44].copy_from_slice(&self.port.to_le_bytes());
        let crc = crc32c(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Whether a whole hello is there; `None` while it may still become one. A stranger's first
    /// bytes are told from a hello's as soon as they differ, so that a client of another protocol
    /// that waits for an answer after a few bytes gets one.
    ///
    /// # Errors
    /// When the bytes cannot begin a hello of this version.
    pub fn peek(bytes: &[u8]) -> Result<Option<usize>, Error> {
        let known = bytes.len().min(MAGIC.len());
        if bytes[..known] != MAGIC[..known] {
            return match sniff(bytes) {
                Some(foreign) => Err(Error::Foreign(foreign)),
                None => Ok(None),
            };
        }
        if bytes.len() >= 10 {
            let theirs = u16::from_le_bytes([bytes[8], bytes[9]]);
            if theirs != u16::from(VERSION) {
                return Err(Error::Version { theirs });
            }
        }
        Ok((bytes.len() >= HELLO_BYTES).then_some(HELLO_BYTES))
    }

    /// Reads a hello from the first 64 of `bytes`.
    ///
    /// # Errors
    /// When they are a stranger's, of another version, or damaged.
    pub fn decode(bytes: &[u8]) -> Result<Hello, Error> {
        let whole = Hello::peek(bytes)?.and_then(|_| bytes.first_chunk::<HELLO_BYTES>());
        let Some(hello) = whole else {
            return Err(Error::Length { length: u32::try_from(bytes.len()).unwrap_or(u32::MAX) });
        };
        if crc32c(&hello[..60]) != u32_at(hello, 60) {
            return Err(Error::Checksum(Part::Hello));
        }
        // Undamaged, of our version, and yet not something this version can say: another version
        // after all.
        let reserved = hello[11] != 0 || hello[44..60].iter().any(|byte| *byte != 0);
        let kind = HelloKind::from_number(hello[10]).filter(|_| !reserved);
        let kind = kind.ok_or(Error::Kind(hello[10]))?;
        Ok(Hello {
            kind,
            group: GroupId(u32_at(hello, 12)),
            cluster: ClusterId(u64_at(hello, 16)),
            node: NodeId(u32_at(hello, 24)),
            groups: u32_at(hello, 28),
            incarnation: Incarnation(u64_at(hello, 32)),
            code: Code(u16::from_le_bytes([hello[40], hello[41]])),
            port: u16::from_le_bytes([hello[42], hello[43]]),
        })
    }
}

/// Whose protocol these first bytes belong to, if not ours; `None` while that is open: too few
/// bytes, or ours.
#[must_use]
pub fn sniff(bytes: &[u8]) -> Option<Foreign> {
    const STARTS: [(&[u8], Foreign); 16] = [
        (b"GET ", Foreign::Http),
        (b"POST", Foreign::Http),
        (b"PUT ", Foreign::Http),
        (b"HEAD", Foreign::Http),
        (b"DELE", Foreign::Http),
        (b"OPTI", Foreign::Http),
        (b"PATC", Foreign::Http),
        (b"CONN", Foreign::Http),
        (b"PRI ", Foreign::Http),
        (b"HTTP", Foreign::Http),
        // What a web server says to a line that is none.
        (b"<!DO", Foreign::Http),
        (b"SSH-", Foreign::Ssh),
        (b"PING", Foreign::Redis),
        (b"AUTH", Foreign::Redis),
        (b"INFO", Foreign::Redis),
        (b"QUIT", Foreign::Redis),
    ];
    let known = bytes.len().min(MAGIC.len());
    let first = bytes.first_chunk::<4>()?;
    if bytes[..known] == MAGIC[..known] {
        return None;
    }
    if let Some((_, foreign)) = STARTS.iter().find(|(start, _)| *start == first) {
        return Some(*foreign);
    }
    match first {
        [0x15 | 0x16, 3, 0..=4, _] => Some(Foreign::Tls),
        [b'*', b'0'..=b'9', ..] => Some(Foreign::Redis),
        _ => Some(Foreign::Unknown),
    }
}
