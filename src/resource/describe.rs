//! What there is to say of one resource: its type, its size, who holds it and how many wait.

use super::codec::{limits, operation};
use super::registry::Slot;
use crate::machine::bytes::{self, Reader};
use crate::machine::{Code, LogTime, NoticeState, ResourceId, SessionId, kind};

/// Holders that are named, at most; all are counted.
pub const HOLDERS_MAX: usize = 64;

/// Query: a resource by name. Answers id, kind, size, kept events, number of holders and of
/// waiters, options, the type's name; then session and token of each holder, up to
/// [`HOLDERS_MAX`].
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct DescribeV1 {
    /// Its name.
    pub name: Vec<u8>,
}

operation!(DescribeV1, kind::REGISTRY, 0x0501, "describe");

limits! {
    ArchivedDescribeV1: name(name);
}

/// A resource, described.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Description {
    /// Its id: the index of the entry that created it.
    pub id: ResourceId,
    /// Its type: see [`crate::machine::kind`].
    pub kind: u8,
    /// What the type is called.
    pub type_name: String,
    /// How many entries it holds.
    pub size: u64,
    /// Events that a late watcher can still have.
    pub events: u32,
    /// What it was created with.
    pub options: Vec<u8>,
    /// Who holds something here, each with its token; at most [`HOLDERS_MAX`] of them.
    pub holders: Vec<(SessionId, u64)>,
    /// How many holds there are.
    pub held: u32,
    /// How many wait.
    pub waiting: u32,
}

/// Who holds something of a resource, and how many wait.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Holders {
    /// How many holds there are.
    pub held: u32,
    /// How many wait.
    pub waiting: u32,
    /// The first holders, each with its token: up to [`HOLDERS_MAX`].
    pub first: Vec<(SessionId, u64)>,
}

impl Holders {
    /// By what sessions hold, up to 1,024 of them: for types that keep no count.
    pub(super) fn listed<R: super::Resource + ?Sized>(of: &R, now: LogTime) -> Holders {
        let (mut holders, mut notices) = (Holders::default(), Vec::new());
        for session in of.sessions(LISTED_MAX) {
            notices.clear();
            of.holdings(ResourceId(0), session, now, &mut notices);
            for notice in &notices {
                match notice.state {
                    NoticeState::Granted { token } => {
                        holders.held += 1;
                        if holders.first.len() < HOLDERS_MAX {
                            holders.first.push((session, token));
                        }
                    }
                    NoticeState::Waiting => holders.waiting += 1,
                    _ => {}
                }
            }
        }
        holders
    }
}

/// Sessions whose holdings are looked at for one description, at most.
const LISTED_MAX: usize = 1_024;

/// Appends what there is to say of a resource.
pub(super) fn describe(id: ResourceId, slot: &Slot, now: LogTime, out: &mut Vec<u8>) {
    let Holders { held, waiting, first } = slot.state.holders(now);
    bytes::put_u64(out, id.0);
    out.push(slot.kind);
    bytes::put_u64(out, slot.state.size(now));
    bytes::put_u32(out, u32::try_from(slot.ring.len()).unwrap_or(u32::MAX));
    bytes::put_u32(out, held);
    bytes::put_u32(out, waiting);
    bytes::put_bytes(out, &slot.options);
    bytes::put_bytes(out, super::type_name(slot.kind).as_bytes());
    for (session, token) in first {
        bytes::put_u64(out, session.0);
        bytes::put_u64(out, token);
    }
}

/// Reads what [`describe`] wrote.
pub(super) fn read(payload: &[u8]) -> Result<Description, Code> {
    let mut reader = Reader::new(payload);
    let (id, kind, size) = (ResourceId(reader.u64()?), reader.u8()?, reader.u64()?);
    let (events, held, waiting) = (reader.u32()?, reader.u32()?, reader.u32()?);
    let options = reader.bytes()?.to_vec();
    let type_name = String::from_utf8_lossy(reader.bytes()?).into_owned();
    let mut holders = Vec::new();
    while !reader.is_empty() {
        holders.push((SessionId(reader.u64()?), reader.u64()?));
    }
    Ok(Description { id, kind, type_name, size, events, options, holders, held, waiting })
}
