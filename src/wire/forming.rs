//! What the founders of a cluster say to each other, on connections of their own, until it is
//! founded.
//!
//! All founders exchange offers; when every list and group count is equal, each makes the same
//! founding record durable and says so. What the record holds is not known here.

use super::fields::{Fields, put_short_text};
use super::{Error, Frame, Kind, encode};
use margay_log::id::Incarnation;

/// Largest founding record, in bytes.
pub const RECORD_MAX: usize = 64 << 10;

/// Longest name of a node, in bytes.
pub const NAME_MAX: usize = 256;

/// Longest list of peers, in bytes.
pub const PEERS_MAX: usize = 16 << 10;

/// From founder to founder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Forming<'a> {
    /// This is who I am and whom I expect.
    Offer {
        /// Name of the sender.
        name: &'a str,
        /// The life of its data directory.
        incarnation: Incarnation,
        /// The list it was started with, as its own text.
        peers: &'a str,
        /// Number of groups it would found.
        groups: u32,
    },
    /// The founding record, durable at the sender.
    Founded {
        /// Its bytes; their hash is the cluster id.
        record: &'a [u8],
    },
}

impl<'a> Forming<'a> {
    /// Appends the frame to `out`.
    ///
    /// # Panics
    /// When a field is longer than its bound: the caller has checked its own configuration.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Forming::Offer { name, incarnation, peers, groups } => {
                assert!(name.len() <= NAME_MAX && peers.len() <= PEERS_MAX);
                let mut body = Vec::with_capacity(4 + name.len() + peers.len());
                put_short_text(&mut body, name);
                put_short_text(&mut body, peers);
                encode(out, Kind::Offer, 0, incarnation.0, u64::from(groups), &[&body]);
            }
            Forming::Founded { record } => {
                assert!(record.len() <= RECORD_MAX);
                encode(out, Kind::Founded, 0, 0, 0, &[record]);
            }
        }
    }

    /// Reads a message from a frame.
    ///
    /// # Errors
    /// When the frame is not a message a founder of this version can send.
    pub fn decode(frame: &Frame<'a>) -> Result<Forming<'a>, Error> {
        let Frame { kind, flags, a, b, body } = *frame;
        let mut fields = Fields::new(kind, body);
        if flags != 0 {
            return Err(fields.error("unknown flags"));
        }
        match kind {
            Kind::Offer => {
                let groups = u32::try_from(b).map_err(|_| fields.error("too many groups"))?;
                let (name, peers) = (fields.short_text()?, fields.short_text()?);
                if name.len() > NAME_MAX || peers.len() > PEERS_MAX {
                    return Err(fields.error("text is too long"));
                }
                fields.end()?;
                Ok(Forming::Offer { name, incarnation: Incarnation(a), peers, groups })
            }
            Kind::Founded if a == 0 && b == 0 && body.len() <= RECORD_MAX => {
                Ok(Forming::Founded { record: body })
            }
            _ => Err(fields.error("not a forming message")),
        }
    }
}
