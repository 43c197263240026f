//! Who belongs to a group: names, addresses, disks, and who votes. The payload of a CONFIGURATION
//! entry.
//!
//! The core knows numbers and quorums; this is what the numbers stand for, and what a change turns
//! a membership into. A change of voters is two entries: the joint membership, in which both halves
//! count, and, once that is committed, the one that ends it (thesis §4.3). Everything else takes
//! one.
//!
//! What does not live here: which memberships a log holds (`replica::memberships`), when a change
//! is safe (`raft::membership`), who asks for it (`replica::change`).
//!
//! Invariants
//! - A number is given to one data directory and never again.
//! - Names are unique; one data directory (incarnation) has one name.
//! - Members are in the order of their numbers, and there is always a voter on either side.

use margay_log::id::{Incarnation, NodeId};
use margay_log::snapshot::SNAPSHOT_META_MAX;

use crate::config::{ADDRESS_BYTES_MAX, MEMBERS_MAX, NAME_BYTES_MAX};
use crate::raft::Configuration;

/// Removed nodes that are remembered, so that these can be told, and so can whoever asks for a
/// removal once more.
const REMOVED_MAX: usize = 64;
const VERSION: u16 = 1;

// A snapshot carries it, behind its index.
const _: () = assert!(
    8 + 12
        + REMOVED_MAX * (5 + NAME_BYTES_MAX)
        + MEMBERS_MAX * (16 + NAME_BYTES_MAX + ADDRESS_BYTES_MAX)
        <= SNAPSHOT_META_MAX
);

/// A node of a group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Its number; never used for another.
    pub id: NodeId,
    /// Its name, unique in the cluster.
    pub name: String,
    /// Where it listens, `host:port`.
    pub address: String,
    /// The life of its data directory.
    pub incarnation: Incarnation,
}

/// How a member counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Standing {
    /// Votes.
    Voter = 1,
    /// Receives the log.
    Learner = 2,
    /// Did not vote before the change under way, and does from it on.
    Promoted = 3,
    /// Votes until the change under way ends, and is a learner from then on.
    Demoted = 4,
    /// Votes until the change under way ends, and is no member from then on.
    Leaving = 5,
}

impl Standing {
    fn from_number(number: u8) -> Option<Standing> {
        Some(match number {
            1 => Standing::Voter,
            2 => Standing::Learner,
            3 => Standing::Promoted,
            4 => Standing::Demoted,
            5 => Standing::Leaving,
            _ => return None,
        })
    }

    /// Whether its vote counts now, in either half.
    #[must_use]
    pub fn votes(self) -> bool {
        self != Standing::Learner
    }
}

/// What may be asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// A new member, as a learner; or the new address of one.
    Add {
        /// Its name.
        name: String,
        /// Where it listens.
        address: String,
        /// The life of its data directory.
        incarnation: Incarnation,
        /// Its number, where another group has given it one.
        id: Option<NodeId>,
    },
    /// A learner is to vote.
    Promote(String),
    /// A voter is to be a learner.
    Demote(String),
    /// A member is to be none.
    Remove(String),
}

/// Why a change makes no sense, whoever leads.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Senseless {
    /// The name belongs to another data directory.
    #[error("{name} is known with another disk; remove it, then use --join")]
    OtherDisk {
        /// The name.
        name: String,
    },
    /// The data directory, or the number, belongs to a member of another name.
    #[error("this disk belongs to {name}")]
    OtherName {
        /// The name it is known by.
        name: String,
    },
    /// The number was another's.
    #[error("number {id} was given to another node before")]
    Number {
        /// The number.
        id: NodeId,
    },
    /// Nobody is called so.
    #[error("{name} is not a member; add it first")]
    Unknown {
        /// The name.
        name: String,
    },
    /// Nobody would vote any more.
    #[error("{name} is the only voter; promote another node first")]
    LastVoter {
        /// The name.
        name: String,
    },
    /// A name or an address that no member can have.
    #[error("a member has a name of 1 to 64 and an address of 1 to 255 bytes")]
    Text,
    /// There are as many members as there may be.
    #[error("a group has at most {MEMBERS_MAX} members; remove one first")]
    Full,
}

/// Bytes that are not a membership of this version.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a membership: {0}")]
pub struct BadMembership(pub(super) &'static str);

/// The members of a group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Membership {
    /// By number.
    members: Vec<(Member, Standing)>,
    /// Who was a member and is none, the latest last.
    removed: Vec<(NodeId, String)>,
    /// The number that the next new member gets, unless it has one.
    next: NodeId,
}

impl Membership {
    /// The voters with whom a group begins.
    ///
    /// # Panics
    /// When there is none, or a number twice: they come from a founding record, which has checked.
    #[must_use]
    pub fn founding(mut voters: Vec<Member>) -> Membership {
        voters.sort_by_key(|member| member.id);
        assert!(voters.windows(2).all(|two| two[0].id < two[1].id), "a number twice");
        let last = voters.last().expect("somebody votes").id;
        let members = voters.into_iter().map(|member| (member, Standing::Voter)).collect();
        Membership { members, removed: Vec::new(), next: NodeId(last.0 + 1) }
    }

    /// Everybody the log is sent to, by number.
    pub fn members(&self) -> impl Iterator<Item = (&Member, Standing)> {
        self.members.iter().map(|(member, standing)| (member, *standing))
    }

    /// The member of this number.
    #[must_use]
    pub fn member(&self, id: NodeId) -> Option<&Member> {
        self.members().map(|(member, _)| member).find(|member| member.id == id)
    }

    /// The member of this name, and how it counts.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<(&Member, Standing)> {
        self.members().find(|(member, _)| member.name == name)
    }

    /// Whether this number was a member's that has been removed, not long ago.
    #[must_use]
    pub fn is_removed(&self, id: NodeId) -> bool {
        self.removed.iter().any(|(removed, _)| *removed == id)
    }

    /// The number of the member of this name, or of the last one that has been removed, not long
    /// ago.
    #[must_use]
    pub fn number_of(&self, name: &str) -> Option<NodeId> {
        let removed = || self.removed.iter().rfind(|(_, removed)| removed == name);
        let member = self.find(name).map(|(member, _)| member.id);
        member.or_else(|| removed().map(|(id, _)| *id))
    }

    /// Whether a change of voters is under way.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        let settled = |standing| matches!(standing, Standing::Voter | Standing::Learner);
        !self.members().all(|(_, standing)| settled(standing))
    }

    /// What the core needs of it.
    #[must_use]
    pub fn configuration(&self) -> Configuration {
        let of = |chosen: &dyn Fn(Standing) -> bool| -> Vec<NodeId> {
            let members = self.members().filter(|(_, standing)| chosen(*standing));
            members.map(|(member, _)| member.id).collect()
        };
        let voters = of(&|standing| matches!(standing, Standing::Voter | Standing::Promoted));
        let outgoing = match self.is_joint() {
            true => of(&|standing| !matches!(standing, Standing::Learner | Standing::Promoted)),
            false => Vec::new(),
        };
        Configuration::new(voters, outgoing, of(&|standing| standing == Standing::Learner))
    }

    /// What a change turns this membership into; `None` if it is so already. While a change of
    /// voters is under way the core allows none.
    ///
    /// # Errors
    /// When it makes no sense.
    pub fn changed(&self, change: &Change) -> Result<Option<Membership>, Senseless> {
        match change {
            Change::Add { name, address, incarnation, id } => {
                self.added(name, address, *incarnation, *id)
            }
            Change::Promote(name) => match self.find(name) {
                None => Err(Senseless::Unknown { name: name.clone() }),
                Some((_, Standing::Learner)) => Ok(Some(self.with(name, Standing::Promoted))),
                Some(_) => Ok(None),
            },
            Change::Demote(name) => match self.find(name) {
                None => Err(Senseless::Unknown { name: name.clone() }),
                Some((_, Standing::Voter)) => self.without_vote(name, Standing::Demoted).map(Some),
                Some(_) => Ok(None),
            },
            Change::Remove(name) => match self.find(name) {
                None => Ok(None),
                Some((_, Standing::Learner)) => {
                    let leaving = self.with(name, Standing::Leaving);
                    Ok(Some(leaving.ended()))
                }
                Some(_) => self.without_vote(name, Standing::Leaving).map(Some),
            },
        }
    }

    fn added(
        &self,
        name: &str,
        address: &str,
        incarnation: Incarnation,
        id: Option<NodeId>,
    ) -> Result<Option<Membership>, Senseless> {
        if !fits(name, NAME_BYTES_MAX) || !fits(address, ADDRESS_BYTES_MAX) {
            return Err(Senseless::Text);
        }
        let mut changed = self.clone();
        let known = changed.members.iter_mut().find(|(member, _)| {
            member.name == name || member.incarnation == incarnation || Some(member.id) == id
        });
        if let Some((member, _)) = known {
            if member.name != name {
                return Err(Senseless::OtherName { name: member.name.clone() });
            }
            if member.incarnation != incarnation {
                return Err(Senseless::OtherDisk { name: name.to_owned() });
            }
            if let Some(id) = id.filter(|id| *id != member.id) {
                return Err(Senseless::Number { id });
            }
            if member.address == address {
                return Ok(None);
            }
            address.clone_into(&mut member.address);
            return Ok(Some(changed));
        }
        if self.members.len() >= MEMBERS_MAX {
            return Err(Senseless::Full);
        }
        let number = id.unwrap_or(self.next);
        if number == NodeId(0) || number == NodeId(u32::MAX) || self.is_removed(number) {
            return Err(Senseless::Number { id: number });
        }
        let (name, address) = (name.to_owned(), address.to_owned());
        let member = Member { id: number, name, address, incarnation };
        changed.members.push((member, Standing::Learner));
        changed.members.sort_by_key(|(member, _)| member.id);
        changed.next = changed.next.max(NodeId(number.0 + 1));
        Ok(Some(changed))
    }

    fn with(&self, name: &str, standing: Standing) -> Membership {
        let mut changed = self.clone();
        let found = changed.members.iter_mut().find(|(member, _)| member.name == name);
        found.expect("it was found before").1 = standing;
        changed
    }

    fn without_vote(&self, name: &str, standing: Standing) -> Result<Membership, Senseless> {
        let changed = self.with(name, standing);
        if changed.configuration().voters().is_empty() {
            return Err(Senseless::LastVoter { name: name.to_owned() });
        }
        Ok(changed)
    }

    /// The membership once the change under way has ended.
    #[must_use]
    pub fn ended(&self) -> Membership {
        let mut ended = self.clone();
        for (member, standing) in &mut ended.members {
            match standing {
                Standing::Promoted => *standing = Standing::Voter,
                Standing::Demoted => *standing = Standing::Learner,
                Standing::Leaving => ended.removed.push((member.id, member.name.clone())),
                Standing::Voter | Standing::Learner => {}
            }
        }
        ended.members.retain(|(_, standing)| *standing != Standing::Leaving);
        let forgotten = ended.removed.len().saturating_sub(REMOVED_MAX);
        ended.removed.drain(..forgotten);
        ended
    }

    /// The bytes of the entry.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16 + self.members.len() * 64);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&(self.members.len() as u16).to_le_bytes());
        out.extend_from_slice(&(self.removed.len() as u16).to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&self.next.0.to_le_bytes());
        for (removed, name) in &self.removed {
            out.extend_from_slice(&removed.0.to_le_bytes());
            out.push(name.len() as u8);
            out.extend_from_slice(name.as_bytes());
        }
        for (member, standing) in &self.members {
            out.extend_from_slice(&member.incarnation.0.to_le_bytes());
            out.extend_from_slice(&member.id.0.to_le_bytes());
            out.extend_from_slice(&[*standing as u8, member.name.len() as u8]);
            out.extend_from_slice(&(member.address.len() as u16).to_le_bytes());
            out.extend_from_slice(member.name.as_bytes());
            out.extend_from_slice(member.address.as_bytes());
        }
        out
    }

    /// Reads the bytes of an entry.
    ///
    /// # Errors
    /// When they are anything else than what [`Membership::encode`] makes.
    pub fn decode(bytes: &[u8]) -> Result<Membership, BadMembership> {
        let mut rest = Rest(bytes);
        if u16::from_le_bytes(rest.take()?) != VERSION {
            return Err(BadMembership("version"));
        }
        let count = u16::from_le_bytes(rest.take()?);
        let removed = u16::from_le_bytes(rest.take()?);
        if rest.take::<2>()? != [0; 2] {
            return Err(BadMembership("reserved bytes"));
        }
        if usize::from(count) > MEMBERS_MAX || usize::from(removed) > REMOVED_MAX {
            return Err(BadMembership("too many nodes"));
        }
        let next = NodeId(u32::from_le_bytes(rest.take()?));
        let mut membership = Membership { members: Vec::new(), removed: Vec::new(), next };
        for _ in 0..removed {
            let (id, [name]) = (NodeId(u32::from_le_bytes(rest.take()?)), rest.take()?);
            membership.removed.push((id, rest.text(usize::from(name), NAME_BYTES_MAX)?));
        }
        for _ in 0..count {
            let incarnation = Incarnation(u64::from_le_bytes(rest.take()?));
            let id = NodeId(u32::from_le_bytes(rest.take()?));
            let [standing, name] = rest.take()?;
            let address = u16::from_le_bytes(rest.take()?);
            let standing = Standing::from_number(standing).ok_or(BadMembership("standing"))?;
            let name = rest.text(usize::from(name), NAME_BYTES_MAX)?;
            let address = rest.text(usize::from(address), ADDRESS_BYTES_MAX)?;
            membership.members.push((Member { id, name, address, incarnation }, standing));
        }
        if !rest.0.is_empty() {
            return Err(BadMembership("too long"));
        }
        membership.check()
    }

    fn check(self) -> Result<Membership, BadMembership> {
        let ids = || self.members.iter().map(|(member, _)| member.id);
        if !ids().zip(ids().skip(1)).all(|(one, next)| one < next) {
            return Err(BadMembership("order"));
        }
        if ids().any(|id| id == NodeId(0) || id >= self.next || self.is_removed(id)) {
            return Err(BadMembership("numbers"));
        }
        let mut names: Vec<&str> = self.members.iter().map(|(m, _)| m.name.as_str()).collect();
        names.sort_unstable();
        if names.windows(2).any(|two| two[0] == two[1]) {
            return Err(BadMembership("a name twice"));
        }
        let votes = self.configuration();
        if votes.voters().is_empty() || (self.is_joint() && votes.outgoing().is_empty()) {
            return Err(BadMembership("nobody votes"));
        }
        Ok(self)
    }
}

fn fits(text: &str, max: usize) -> bool {
    (1..=max).contains(&text.len())
}

/// What is left to read.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], BadMembership> {
        let (front, back) = self.0.split_first_chunk::<N>().ok_or(BadMembership("too short"))?;
        self.0 = back;
        Ok(*front)
    }

    fn text(&mut self, length: usize, max: usize) -> Result<String, BadMembership> {
        let (front, back) = self.0.split_at_checked(length).ok_or(BadMembership("too short"))?;
        self.0 = back;
        let text = std::str::from_utf8(front).map_err(|_| BadMembership("not UTF-8"))?;
        if fits(text, max) { Ok(text.to_owned()) } else { Err(BadMembership("length of a text")) }
    }
}

#[cfg(test)]
mod tests;
