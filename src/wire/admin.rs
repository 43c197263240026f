//! What an operator asks of a group: one frame per request, the verb in its flags.

use margay_log::id::{Incarnation, NodeId};

use super::fields::{Fields, put_short_text};
use super::{Error, Kind, encode};

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admin<'a> {
    /// Make a node a learner; or tell the new address of a member.
    Add {
        /// Its name.
        name: &'a str,
        /// Where it listens.
        address: &'a str,
        /// The life of its data directory.
        incarnation: Incarnation,
        /// Its number, as another group has given it; 0 for a new one.
        node: NodeId,
    },
    /// Let a learner vote.
    Promote {
        /// Its name.
        name: &'a str,
    },
    /// Make a voter a learner.
    Demote {
        /// Its name.
        name: &'a str,
    },
    /// Make a member none.
    Remove {
        /// Its name.
        name: &'a str,
    },
    /// Let a voter lead.
    Transfer {
        /// Its name.
        name: &'a str,
    },
}

impl<'a> Admin<'a> {
    /// Whom it is about.
    #[must_use]
    pub fn name(&self) -> &'a str {
        match *self {
            Admin::Add { name, .. }
            | Admin::Promote { name }
            | Admin::Demote { name }
            | Admin::Remove { name }
            | Admin::Transfer { name } => name,
        }
    }

    fn verb(&self) -> u8 {
        match self {
            Admin::Add { .. } => 1,
            Admin::Promote { .. } => 2,
            Admin::Demote { .. } => 3,
            Admin::Remove { .. } => 4,
            Admin::Transfer { .. } => 5,
        }
    }

    /// Appends the request's frame.
    pub(super) fn put(&self, id: u64, out: &mut Vec<u8>) {
        let (node, incarnation, address) = match *self {
            Admin::Add { address, incarnation, node, .. } => (node, incarnation, address),
            _ => (NodeId(0), Incarnation(0), ""),
        };
        let mut body = incarnation.0.to_le_bytes().to_vec();
        put_short_text(&mut body, self.name());
        put_short_text(&mut body, address);
        encode(out, Kind::Admin, self.verb(), id, u64::from(node.0), &[&body]);
    }

    /// Reads a request.
    pub(super) fn take(verb: u8, b: u64, mut fields: Fields<'a>) -> Result<Admin<'a>, Error> {
        let incarnation = Incarnation(fields.u64()?);
        let (name, address) = (fields.short_text()?, fields.short_text()?);
        let node = u32::try_from(b).map_err(|_| fields.error("no number of a node"))?;
        let is_add = verb == 1;
        if !is_add && (incarnation, address, node) != (Incarnation(0), "", 0) {
            return Err(fields.error("more than a name"));
        }
        let admin = match verb {
            1 => Admin::Add { name, address, incarnation, node: NodeId(node) },
            2 => Admin::Promote { name },
            3 => Admin::Demote { name },
            4 => Admin::Remove { name },
            5 => Admin::Transfer { name },
            _ => return Err(fields.error("unknown verb")),
        };
        fields.end()?;
        Ok(admin)
    }
}
