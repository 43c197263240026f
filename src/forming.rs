//! How a cluster is founded: all founders exchange offers, and when they agree each makes the same
//! record.
//!
//! Deterministic, and no I/O: told offers, records and the time; says whom to ask and what has been
//! founded. The record is configuration 0 of every group and its hash is the cluster's id; a node
//! that has it durable may vote. As each node founds at most once, two records can never both find
//! a quorum.
//!
//! Wiped and restarted founders have another incarnation: a founder that already has a record
//! answers with it, and the other side sees that it is known with another disk.

use std::collections::BTreeMap;
use std::fmt;

use margay_log::id::{ClusterId, Incarnation, Micros, NodeId};

use crate::config::{
    ADDRESS_BYTES_MAX, FORMING_PAUSE, FOUNDERS_MAX, GROUPS_MAX, NAME_BYTES_MAX, SHARDS_MAX,
};

/// A node of `--peers`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Where it listens, `host:port`.
    pub address: String,
}

/// A node that founded the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Founder {
    /// Its name.
    pub name: String,
    /// Where it listened at the founding, `host:port`.
    pub address: String,
    /// The life of its data directory.
    pub incarnation: Incarnation,
}

/// What all founders agreed on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FoundingRecord {
    groups: u32,
    /// By name: node 1 is the first.
    founders: Vec<Founder>,
}

/// Bytes that are not a founding record of this version.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a founding record: {0}")]
pub struct BadRecord(&'static str);

const MAGIC: [u8; 8] = *b"MGYFOUND";
const VERSION: u16 = 1;

impl FoundingRecord {
    /// A record of these founders, in any order.
    ///
    /// # Errors
    /// When no cluster could be founded so.
    pub fn new(groups: u32, mut founders: Vec<Founder>) -> Result<FoundingRecord, BadRecord> {
        founders.sort_by(|a, b| a.name.cmp(&b.name));
        if founders.is_empty() || founders.len() > FOUNDERS_MAX {
            return Err(BadRecord("number of founders"));
        }
        if groups == 0 || groups > GROUPS_MAX {
            return Err(BadRecord("number of groups"));
        }
        if founders.windows(2).any(|two| two[0].name == two[1].name) {
            return Err(BadRecord("a name twice"));
        }
        for founder in &founders {
            check_name(&founder.name).map_err(BadRecord)?;
            if founder.address.is_empty() || founder.address.len() > ADDRESS_BYTES_MAX {
                return Err(BadRecord("length of an address"));
            }
        }
        Ok(FoundingRecord { groups, founders })
    }

    /// Number of groups.
    #[must_use]
    pub fn groups(&self) -> u32 {
        self.groups
    }

    /// The founders by name; node 1 is the first.
    #[must_use]
    pub fn founders(&self) -> &[Founder] {
        &self.founders
    }

    /// The number of a node.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<NodeId> {
        let at = self.founders.iter().position(|founder| founder.name == name)?;
        Some(NodeId(at as u32 + 1))
    }

    /// The hash of the canonical bytes (64-bit FNV-1a); never 0.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        let hash = self.encode().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        ClusterId(hash.max(1))
    }

    /// The canonical bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&(self.founders.len() as u16).to_le_bytes());
        out.extend_from_slice(&self.groups.to_le_bytes());
        for founder in &self.founders {
            out.extend_from_slice(&founder.incarnation.0.to_le_bytes());
            for text in [&founder.name, &founder.address] {
                out.extend_from_slice(&(text.len() as u16).to_le_bytes());
                out.extend_from_slice(text.as_bytes());
            }
        }
        out
    }

    /// Reads canonical bytes.
    ///
    /// # Errors
    /// When they are anything else.
    pub fn decode(bytes: &[u8]) -> Result<FoundingRecord, BadRecord> {
        let mut rest = bytes;
        if take::<8>(&mut rest)? != MAGIC {
            return Err(BadRecord("magic"));
        }
        if u16::from_le_bytes(take(&mut rest)?) != VERSION {
            return Err(BadRecord("version"));
        }
        let count = u16::from_le_bytes(take(&mut rest)?);
        let groups = u32::from_le_bytes(take(&mut rest)?);
        if usize::from(count) > FOUNDERS_MAX {
            return Err(BadRecord("number of founders"));
        }
        let mut founders = Vec::new();
        for _ in 0..count {
            let incarnation = Incarnation(u64::from_le_bytes(take(&mut rest)?));
            let (name, address) = (take_text(&mut rest)?, take_text(&mut rest)?);
            founders.push(Founder { name, address, incarnation });
        }
        let record = FoundingRecord::new(groups, founders)?;
        // One record has one form: what is not canonical would have another hash.
        if rest.is_empty() && record.encode() == bytes {
            Ok(record)
        } else {
            Err(BadRecord("not canonical"))
        }
    }

    /// The list it was founded with.
    #[must_use]
    pub fn peers(&self) -> Vec<Peer> {
        let peer = |f: &Founder| Peer { name: f.name.clone(), address: f.address.clone() };
        self.founders.iter().map(peer).collect()
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], BadRecord> {
    let (front, back) = rest.split_first_chunk::<N>().ok_or(BadRecord("too short"))?;
    *rest = back;
    Ok(*front)
}

fn take_text(rest: &mut &[u8]) -> Result<String, BadRecord> {
    let length = usize::from(u16::from_le_bytes(take(rest)?));
    let text = rest.get(..length).ok_or(BadRecord("too short"))?;
    *rest = &rest[length..];
    String::from_utf8(text.to_vec()).map_err(|_| BadRecord("not UTF-8"))
}

/// Whether a node may be called so.
///
/// # Errors
/// What a name must be.
pub fn check_name(name: &str) -> Result<(), &'static str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(plain) {
        return Err("names of nodes are 1 to 64 ASCII letters, digits, '-', '_' and '.'");
    }
    Ok(())
}

/// A list as its canonical text: `n1=host:port,n2=host:port`, by name.
#[must_use]
pub fn peers_text(peers: &[Peer]) -> String {
    let mut sorted: Vec<&Peer> = peers.iter().collect();
    sorted.sort();
    let parts: Vec<String> = sorted.iter().map(|p| format!("{}={}", p.name, p.address)).collect();
    parts.join(",")
}

/// What a founder wants of the number of groups.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ask {
    /// Its shards.
    pub shards: u16,
    /// `--groups`; 0 without it.
    pub groups: u16,
}

impl Ask {
    /// Both in one number, as an offer carries it.
    #[must_use]
    pub fn number(self) -> u32 {
        u32::from(self.shards) << 16 | u32::from(self.groups)
    }

    /// The reverse of [`Ask::number`].
    #[must_use]
    pub fn from_number(number: u32) -> Ask {
        Ask { shards: (number >> 16) as u16, groups: number as u16 }
    }
}

/// What a founder says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Offer {
    /// Its name.
    pub name: String,
    /// The life of its data directory, durable before this was said.
    pub incarnation: Incarnation,
    /// The list it was started with, as [`peers_text`].
    pub peers: String,
    /// What it wants of the number of groups.
    pub ask: Ask,
}

/// Founders that do not agree: who, and both values.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Disagreement {
    /// Different lists.
    #[error("{name} was started with --peers {theirs}, this node with --peers {ours}")]
    Peers {
        /// Who.
        name: String,
        /// Its list.
        theirs: String,
        /// Ours.
        ours: String,
    },
    /// Different numbers of groups.
    #[error("{name} was started with --groups {theirs}, {other} with --groups {ours}")]
    Groups {
        /// Who.
        name: String,
        /// What it wants.
        theirs: u32,
        /// Who wants something else.
        other: String,
        /// And what.
        ours: u32,
    },
    /// Somebody else has this node's name.
    #[error("another node was started with --name {name}; each founder needs its own name")]
    SameName {
        /// The name.
        name: String,
    },
    /// The cluster exists and knows this node as another.
    #[error(
        "{name} is known with another disk in cluster {cluster}; remove it there and use --join"
    )]
    OtherDisk {
        /// This node.
        name: String,
        /// The cluster.
        cluster: ClusterId,
    },
    /// The cluster exists without this node.
    #[error("cluster {cluster} was founded without {name}; use --join")]
    NotFounder {
        /// This node.
        name: String,
        /// The cluster.
        cluster: ClusterId,
    },
}

impl Disagreement {
    /// Whether this node's part is over. Otherwise the others can be started anew and waiting goes
    /// on.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self, Disagreement::OtherDisk { .. } | Disagreement::NotFounder { .. })
    }
}

/// What a node is told while it forms.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// Time has passed.
    Tick,
    /// A founder's offer.
    Offer(Offer),
    /// A record that is durable at another founder.
    Record(FoundingRecord),
}

/// What it does next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Exchange offers with this founder; its answer is an offer or a record.
    Ask(Peer),
    /// Make this durable and begin.
    Formed(FoundingRecord),
    /// Say this, and go on waiting unless it is final.
    Disagrees(Disagreement),
}

/// One founder, until the cluster is founded.
#[derive(Debug)]
pub struct Forming {
    own: Offer,
    /// Everybody, this node among them.
    peers: Vec<Peer>,
    /// The latest of each other founder that agrees with ours.
    offers: BTreeMap<String, Offer>,
    /// The latest that does not.
    disagrees: BTreeMap<String, Disagreement>,
    ask_at: Micros,
    formed: bool,
}

impl Forming {
    /// A founder of `peers`, of which it is one.
    ///
    /// # Panics
    /// When `own` is not in the list: the configuration was checked before.
    #[must_use]
    pub fn new(own: Offer, peers: Vec<Peer>) -> Forming {
        assert!(peers.iter().any(|peer| peer.name == own.name), "a founder is in its own list");
        assert_eq!(own.peers, peers_text(&peers));
        let (offers, disagrees) = (BTreeMap::new(), BTreeMap::new());
        Forming { own, peers, offers, disagrees, ask_at: Micros(0), formed: false }
    }

    /// What this node says.
    #[must_use]
    pub fn offer(&self) -> &Offer {
        &self.own
    }

    /// Who has not agreed yet.
    pub fn waiting(&self) -> impl Iterator<Item = &str> {
        let others = self.peers.iter().filter(|peer| peer.name != self.own.name);
        others.filter(|peer| !self.offers.contains_key(&peer.name)).map(|peer| peer.name.as_str())
    }

    /// Why somebody has not, where that is known.
    #[must_use]
    pub fn disagreement(&self, name: &str) -> Option<&Disagreement> {
        self.disagrees.get(name)
    }

    /// One step. After `Formed` nothing follows.
    pub fn step(&mut self, now: Micros, input: Input, out: &mut Vec<Output>) {
        if self.formed {
            return;
        }
        match input {
            Input::Tick => {}
            Input::Offer(offer) => self.on_offer(offer, out),
            Input::Record(record) => self.on_record(record, out),
        }
        if !self.formed {
            self.maybe_form(out);
        }
        if !self.formed && now >= self.ask_at {
            self.ask_at = now.after(FORMING_PAUSE);
            // Those that have agreed, too: they may know of everybody and have founded meanwhile, and
            // whom this node still waits for may be gone for good.
            let others = self.peers.iter().filter(|peer| peer.name != self.own.name);
            out.extend(others.cloned().map(Output::Ask));
        }
    }

    fn on_offer(&mut self, offer: Offer, out: &mut Vec<Output>) {
        // What a stranger wants decides nothing. He is told of, as he may be a founder whose list
        // or name is wrong; so many of them that there are no founders like that are passed over.
        let is_listed = self.peers.iter().any(|peer| peer.name == offer.name);
        let is_known = is_listed || self.disagrees.contains_key(&offer.name);
        let is_one_too_many = !is_known && self.disagrees.len() >= 2 * FOUNDERS_MAX;
        if is_one_too_many || (!is_listed && offer.peers == self.own.peers) {
            return;
        }
        let disagreement = if offer.name == self.own.name {
            let myself = offer.incarnation == self.own.incarnation;
            (!myself).then(|| Disagreement::SameName { name: offer.name.clone() })
        } else if offer.peers != self.own.peers {
            let (theirs, ours) = (offer.peers.clone(), self.own.peers.clone());
            Some(Disagreement::Peers { name: offer.name.clone(), theirs, ours })
        } else {
            self.other_groups(&offer)
        };
        match disagreement {
            Some(disagreement) => {
                self.offers.remove(&offer.name);
                let before = self.disagrees.insert(offer.name, disagreement.clone());
                if before.as_ref() != Some(&disagreement) {
                    out.push(Output::Disagrees(disagreement));
                }
            }
            None if offer.name != self.own.name => {
                // A founder that was wiped and started anew replaces its earlier offer.
                self.disagrees.remove(&offer.name);
                self.offers.insert(offer.name.clone(), offer);
            }
            None => {}
        }
    }

    /// Whoever names a number of groups names the same.
    fn other_groups(&self, offer: &Offer) -> Option<Disagreement> {
        let asked = std::iter::once(&self.own).chain(self.offers.values());
        let other = asked.filter(|known| known.name != offer.name).find(|known| {
            let (a, b) = (known.ask.groups, offer.ask.groups);
            a != 0 && b != 0 && a != b
        })?;
        Some(Disagreement::Groups {
            name: offer.name.clone(),
            theirs: u32::from(offer.ask.groups),
            other: other.name.clone(),
            ours: u32::from(other.ask.groups),
        })
    }

    fn on_record(&mut self, record: FoundingRecord, out: &mut Vec<Output>) {
        let (name, cluster) = (self.own.name.clone(), record.cluster());
        let own = record.founders().iter().find(|founder| founder.name == name);
        let disagreement = match own {
            None => Disagreement::NotFounder { name, cluster },
            Some(founder) if founder.incarnation != self.own.incarnation => {
                Disagreement::OtherDisk { name, cluster }
            }
            // It holds our incarnation, so our offer was part of it: we agreed.
            Some(_) => return self.form(record, out),
        };
        out.push(Output::Disagrees(disagreement));
    }

    fn maybe_form(&mut self, out: &mut Vec<Output>) {
        if self.waiting().next().is_some() {
            return;
        }
        let all = || std::iter::once(&self.own).chain(self.offers.values());
        let asked = all().map(|offer| u32::from(offer.ask.groups)).find(|groups| *groups > 0);
        let shards = all().map(|offer| u32::from(offer.ask.shards)).min().unwrap_or(1);
        let groups = asked.unwrap_or(self.peers.len() as u32 * shards).clamp(1, GROUPS_MAX);
        let founders = self.peers.iter().map(|peer| {
            let offer = self.offers.get(&peer.name).unwrap_or(&self.own);
            let (name, address) = (peer.name.clone(), peer.address.clone());
            Founder { name, address, incarnation: offer.incarnation }
        });
        if let Ok(record) = FoundingRecord::new(groups, founders.collect()) {
            self.form(record, out);
        }
    }

    fn form(&mut self, record: FoundingRecord, out: &mut Vec<Output>) {
        self.formed = true;
        out.push(Output::Formed(record));
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.address)
    }
}

const _: () = assert!(GROUPS_MAX <= u16::MAX as u32 && SHARDS_MAX <= u16::MAX as usize);

#[cfg(test)]
mod tests;
