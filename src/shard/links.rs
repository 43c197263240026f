//! Connections to peers: one per group and node, for what this node has to say. Answers come on the
//! peer's own.
//!
//! What is said while a link is down is lost; the core repeats itself. A link that breaks is
//! reported, tried again at once, then with growing pauses.
//!
//! The group says who its members are. Who is one no more is still told so for a moment. A node
//! that no configuration here names yet may be the leader that brings it: its own connection says
//! where it can be answered.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use margay_log::batch::Batch;
use margay_log::id::{GroupId, Incarnation, Micros, NodeId};

use super::conn::{Greeting, NEVER, State};
use super::net::{CONNECT, Net};
use super::ring::Ring;
use super::{Node, sys};
use crate::config;
use crate::machine::Code;
use crate::raft::message::WINDOW_BYTES;
use crate::replica::memberships::Memberships;
use crate::wire::{FRAME_MAX, Hello, HelloKind};

/// Bytes waiting to be sent to a peer, at most: more than may be under way to it, even where the
/// search for the common log has begun anew with a full window. One that is owed more gets a new
/// connection, and would never catch up if that were soon owed as much.
const OWED_MAX: usize = 2 * (WINDOW_BYTES as usize + FRAME_MAX);

/// The way to one peer of one group.
pub(crate) struct Link {
    pub(crate) slot: u32,
    pub(crate) group: GroupId,
    pub(crate) to: NodeId,
    pub(crate) status: Status,
    /// The life of its data directory, where a configuration names it.
    incarnation: Option<Incarnation>,
    /// It is no member any more; until then it may still be told.
    leaves: Option<Micros>,
    pause: Micros,
    /// The last reason that was said, so that a peer that stays away is reported once.
    said: String,
}

/// How far a link is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Status {
    /// To be tried at this time.
    Down(Micros),
    /// Connecting, or waiting for the answer to the hello.
    Trying,
    /// Carries messages.
    Up(u32),
    /// Not wanted any more.
    Gone,
}

impl Link {
    pub(crate) fn new(slot: u32, group: GroupId, to: NodeId) -> Link {
        let status = Status::Down(Micros(0));
        let (pause, said) = (config::BACKOFF_MIN, String::new());
        Link { slot, group, to, status, incarnation: None, leaves: None, pause, said }
    }

    /// The connection is gone, or was never made.
    fn broke(&mut self, now: Micros) {
        if self.status == Status::Gone {
            return;
        }
        self.status = Status::Down(now.after(self.pause));
        self.pause = Micros((self.pause.0 * 2).min(config::BACKOFF_MAX.0));
    }

    fn came_up(&mut self, conn: u32) {
        self.status = Status::Up(conn);
        self.pause = config::BACKOFF_MIN;
        self.said.clear();
    }

    /// Says why there is no connection, unless that was the last thing said. One group of a shard
    /// speaks for all of them: they fail together.
    pub(crate) fn complain(&mut self, reason: String) {
        if self.said == reason {
            return;
        }
        if self.slot == 0 {
            tracing::warn!(peer = %self.to, "no connection to peer: {reason}");
        } else {
            tracing::debug!(group = %self.group, peer = %self.to, "no connection: {reason}");
        }
        self.said = reason;
    }

    /// A member that has moved, or that this node has replaced: others will say where it is now, or
    /// that it is none any more.
    fn note_own_address(&mut self) {
        let reason = "it had this node's address before; it is not there any more";
        if self.said != reason && self.slot == 0 {
            tracing::info!(peer = %self.to, "no connection to peer: {reason}");
        }
        reason.clone_into(&mut self.said);
    }
}

impl Net {
    /// Dials every peer whose time has come.
    pub(crate) fn dial_due(&mut self, ring: &mut Ring, node: &Node) {
        if self.links_due > self.now {
            return;
        }
        for number in 0..self.links.len() {
            if self.links[number].leaves.is_some_and(|at| at <= self.now) {
                self.drop_link(number);
            }
            match self.links[number].status {
                Status::Down(at) if at <= self.now => self.dial(ring, node, number as u32),
                _ => {}
            }
        }
        let due = self.links.iter().filter_map(|link| match link.status {
            Status::Down(at) => Some(link.leaves.map_or(at, |leaves| leaves.min(at))),
            Status::Trying | Status::Up(_) => link.leaves,
            Status::Gone => None,
        });
        self.links_due = due.min().unwrap_or(NEVER);
    }

    /// A link is down from now on, or still.
    pub(crate) fn link_broke(&mut self, number: u32) {
        let now = self.now;
        let link = &mut self.links[number as usize];
        link.broke(now);
        if let Status::Down(at) = link.status {
            self.links_due = self.links_due.min(at);
        }
    }

    fn dial(&mut self, ring: &mut Ring, node: &Node, number: u32) {
        let link = &mut self.links[number as usize];
        let Some(address) = node.address(link.to) else {
            link.complain("its address is not known".to_owned());
            return self.link_broke(number);
        };
        let fd = match open(&address) {
            Ok(fd) => fd,
            Err(e) => {
                link.complain(format!("no socket: {e}"));
                return self.link_broke(number);
            }
        };
        link.status = Status::Trying;
        let index = self.insert(fd, State::Dialing { link: number }, config::CONNECT_TIME);
        let Some(conn) = self.get(index) else { return };
        conn.operations += 1;
        ring.connect(&conn.fd, address, CONNECT | u64::from(index));
    }

    /// A connect has ended.
    pub(crate) fn on_connected(&mut self, ring: &mut Ring, node: &Node, index: u32, result: i32) {
        let Some(conn) = self.get(index) else { return };
        let State::Dialing { link } = conn.state else { return self.operation_ended(index) };
        if self.links[link as usize].status == Status::Gone {
            self.kill(ring, index);
            return self.operation_ended(index);
        }
        if result < 0 {
            let error = std::io::Error::from_raw_os_error(-result);
            self.links[link as usize].complain(error.to_string());
            self.kill(ring, index);
            return self.operation_ended(index);
        }
        let Some(conn) = self.get(index) else { return };
        conn.operations -= 1;
        conn.state = State::Greeting { link, greeting: Greeting::default() };
        let link = &self.links[link as usize];
        let hello = node.hello(HelloKind::Peer, link.group, Code::OK).encode();
        if let Some(conn) = self.get(index) {
            conn.secure = node.tls.as_ref().map(|tls| Box::new(tls.dial()));
            conn.out.push(&hello, None);
        }
        self.mark(index);
        self.thirst(index);
    }

    /// A peer has answered our hello.
    pub(crate) fn on_answer(&mut self, ring: &mut Ring, node: &Node, index: u32, hello: &Hello) {
        let Some(conn) = self.get(index) else { return };
        let State::Greeting { link: number, .. } = conn.state else { return };
        let link = &mut self.links[number as usize];
        if link.status == Status::Gone {
            return self.kill(ring, index);
        }
        if node.is_own(hello) {
            link.note_own_address();
            return self.kill(ring, index);
        }
        let complaint = if !hello.code.is_ok() {
            Some(format!("refused: {}", hello.code))
        } else if hello.cluster != node.cluster {
            Some(format!("it belongs to cluster {}, this node to {}", hello.cluster, node.cluster))
        } else if hello.node != link.to || hello.kind != HelloKind::Peer {
            Some(format!("node {} answers at its address", hello.node))
        } else if link.incarnation.is_some_and(|known| known != hello.incarnation) {
            Some("it is known with another disk; remove it and use --join".to_owned())
        } else {
            None
        };
        if let Some(complaint) = complaint {
            link.complain(complaint);
            return self.kill(ring, index);
        }
        link.came_up(index);
        tracing::debug!(group = %link.group, peer = %link.to, "connected to peer");
        if let Some(conn) = self.get(index) {
            conn.state = State::PeerOut { link: number };
            conn.state_until = NEVER;
        }
        self.thirst(index);
    }

    /// Queues a message for a peer; without a connection it is lost.
    pub(crate) fn say(&mut self, slot: u32, to: NodeId, frame: &[u8], batch: Option<&Arc<Batch>>) {
        let Some(link) = self.link_to(slot, to) else { return };
        let Status::Up(index) = self.links[link].status else { return };
        let Some(conn) = self.get(index) else { return };
        if conn.owed() > OWED_MAX {
            self.doomed.push((index, "the peer takes no more messages"));
            return;
        }
        conn.out.push(frame, batch);
        self.mark(index);
    }
}

// Who is linked.
impl Net {
    /// The members of the group in `slot`, as it knows them now.
    pub(crate) fn set_links(
        &mut self,
        node: &Arc<Node>,
        slot: u32,
        group: GroupId,
        members: &Memberships,
    ) {
        let leaves = self.now.after(config::LINGER);
        let removed = members.current().is_removed(node.id);
        for number in self.links_of(slot).to_vec() {
            let link = &mut self.links[number as usize];
            // Who was only introduced stays, until it is known to be removed.
            let known = link.incarnation.is_some() || members.current().is_removed(link.to);
            let out = removed || (members.member(link.to).is_none() && known);
            if out && link.leaves.is_none() {
                link.leaves = Some(leaves);
            }
        }
        self.links_due = self.now;
        if removed {
            tracing::warn!(%group, "{}", Code::REMOVED.text());
            return;
        }
        let all = members.iter().flat_map(|(_, membership)| membership.members());
        for (member, _) in all.filter(|(member, _)| member.id != node.id) {
            node.set_place(member.id, &member.address);
            let number = self.link_or_new(slot, group, member.id);
            self.links[number].incarnation = Some(member.incarnation);
            self.links[number].leaves = None;
        }
    }

    /// A node has connected to the group in `slot`, from this address. Who is in no configuration
    /// here is answered there: where it was before it is no more.
    pub(crate) fn introduce(&mut self, node: &Node, slot: u32, hello: &Hello, from: IpAddr) {
        let strangers = |net: &Net| {
            let links = net.links_of(slot).iter().map(|number| &net.links[*number as usize]);
            links.filter(|link| link.incarnation.is_none()).count()
        };
        let may_be_new = match self.link_to(slot, hello.node) {
            Some(known) => self.links[known].incarnation.is_none(),
            None => strangers(self) < config::MEMBERS_MAX,
        };
        if hello.port != 0 && may_be_new {
            node.note_address(hello.node, SocketAddr::new(from, hello.port));
            let number = self.link_or_new(slot, hello.group, hello.node);
            let status = &mut self.links[number].status;
            if let Status::Down(at) = status {
                *at = self.now;
            }
            self.links_due = self.now;
        }
    }

    fn links_of(&self, slot: u32) -> &[u32] {
        self.links_of.get(slot as usize).map_or(&[], Vec::as_slice)
    }

    /// The link that is not gone.
    fn link_to(&self, slot: u32, to: NodeId) -> Option<usize> {
        let numbers = self.links_of(slot).iter().map(|number| *number as usize);
        numbers.into_iter().find(|number| self.links[*number].to == to)
    }

    fn link_or_new(&mut self, slot: u32, group: GroupId, to: NodeId) -> usize {
        if let Some(number) = self.link_to(slot, to) {
            return number;
        }
        // Numbers are not used again: a connection that is being made names its link.
        let number = self.links.len();
        self.links.push(Link::new(slot, group, to));
        let slots = self.links_of.len().max(slot as usize + 1);
        self.links_of.resize(slots, Vec::new());
        self.links_of[slot as usize].push(number as u32);
        number
    }

    /// Lets what is on its way leave, and says no more.
    fn drop_link(&mut self, number: usize) {
        let link = &mut self.links[number];
        link.leaves = None;
        let before = std::mem::replace(&mut link.status, Status::Gone);
        let slot = link.slot as usize;
        self.links_of[slot].retain(|other| *other as usize != number);
        if let Status::Up(index) = before {
            self.close(index);
        }
    }
}

fn open(address: &SocketAddr) -> std::io::Result<std::os::fd::OwnedFd> {
    let fd = sys::stream_socket(address)?;
    sys::prepare_stream(&fd)?;
    sys::set_user_timeout(&fd, config::PEER_SILENT_MILLIS)?;
    Ok(fd)
}
