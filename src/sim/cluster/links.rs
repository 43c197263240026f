//! Clients' connections: bytes in order, until they break; also half-open ones, whose bytes get
//! lost without anybody being told.

use margay_log::id::Micros;

use super::{Cluster, Event};
use crate::machine::StateMachine;
use crate::replica::ConnId;
use crate::sim::Failure;
use crate::sim::network::End;
use crate::wire::client::{Request, Response};
use crate::wire::{self, Frame, Hello};

/// A client's connection.
pub(in crate::sim) struct Link {
    pub client: usize,
    pub node: usize,
    boot: u64,
    /// Arrived and not yet whole frames.
    inbox: Vec<u8>,
    greeted: bool,
    /// When the client sent the keep-alive, or the wish to attach, that is not answered yet.
    asked: Option<Micros>,
    /// Bytes do not overtake each other.
    to_node_at: Micros,
    to_client_at: Micros,
    node_end: bool,
    client_end: bool,
    /// Bytes towards the node, or the client, get lost and nobody is told.
    pub deaf_node: bool,
    pub deaf_client: bool,
}

impl<S: StateMachine> Cluster<S> {
    /// A client wants a connection. Tells how it is named; whether it came about, an event will
    /// say.
    pub(in crate::sim) fn connect(&mut self, client: usize, node: usize) -> ConnId {
        self.conns += 1;
        let conn = ConnId(self.conns);
        let delay = self.network.delay(&mut self.rng);
        let link = Link {
            client,
            node,
            boot: self.nodes[node].boot,
            inbox: Vec::new(),
            greeted: false,
            asked: None,
            to_node_at: self.now,
            to_client_at: self.now,
            node_end: true,
            client_end: true,
            deaf_node: false,
            deaf_client: false,
        };
        let (from, to) = (End::Client(client), End::Node(node));
        let up = self.nodes[node].is_up()
            && self.network.reaches(from, to)
            && self.network.reaches(to, from);
        self.links.insert(conn, link);
        if up {
            self.nodes[node].out.clients.insert(conn, Vec::new());
            self.schedule(delay, Event::Connected { client, conn });
        } else {
            self.schedule(delay, Event::Broken { conn, at: from });
        }
        conn
    }

    /// Sends a client's bytes on their way.
    pub(in crate::sim) fn send_to_node(&mut self, conn: ConnId, bytes: Vec<u8>) {
        let Some(link) = self.links.get(&conn) else { return };
        let (from, to) = (End::Client(link.client), End::Node(link.node));
        if link.deaf_node {
            return;
        }
        if !self.network.reaches(from, to) {
            return self.stall(conn, to);
        }
        let delay = self.network.delay(&mut self.rng);
        let Some(link) = self.links.get_mut(&conn) else { return };
        if asks_for_life(&bytes) {
            link.asked = Some(self.now);
        }
        link.to_node_at = link.to_node_at.max(self.now.after(delay));
        let after = link.to_node_at.since(self.now);
        self.schedule(after, Event::ToNode { conn, bytes });
    }

    pub(super) fn send_to_client(&mut self, conn: ConnId, bytes: Vec<u8>) -> Result<(), Failure> {
        self.check_answerer(conn, &bytes)?;
        self.carry_to_client(conn, bytes);
        Ok(())
    }

    /// Nobody who was deposed before it was asked says that a session lives: somebody else may end
    /// it.
    fn check_answerer(&mut self, conn: ConnId, bytes: &[u8]) -> Result<(), Failure> {
        let Some(link) = self.links.get_mut(&conn) else { return Ok(()) };
        let Some(asked) = link.asked.filter(|_| says_it_lives(bytes)) else { return Ok(()) };
        link.asked = None;
        let Some(replica) = &self.nodes[link.node].replica else { return Ok(()) };
        let newer = self.committed_first.range(replica.term().next()..).next();
        match newer.filter(|&(_, &at)| at < asked) {
            None => Ok(()),
            Some((term, at)) => {
                let (id, own) = (self.nodes[link.node].id, replica.term());
                let details = format!(
                    "{id} answered in {own} what was asked at {asked}; {term} has led since {at}"
                );
                Err(Failure::new("no deposed leader says that a session lives", details))
            }
        }
    }

    fn carry_to_client(&mut self, conn: ConnId, bytes: Vec<u8>) {
        let Some(link) = self.links.get(&conn) else { return };
        let (from, to) = (End::Node(link.node), End::Client(link.client));
        if link.deaf_client {
            return;
        }
        if !self.network.reaches(from, to) {
            return self.stall(conn, to);
        }
        let delay = self.network.delay_to(&mut self.rng, to);
        let Some(link) = self.links.get_mut(&conn) else { return };
        link.to_client_at = link.to_client_at.max(self.now.after(delay));
        let after = link.to_client_at.since(self.now);
        self.schedule(after, Event::ToClient { conn, bytes });
    }

    /// Bytes were lost on a cut link: what follows them on this connection does not arrive either,
    /// and sooner or later both ends give it up.
    fn stall(&mut self, conn: ConnId, to: End) {
        let Some(link) = self.links.get_mut(&conn) else { return };
        match to {
            End::Node(_) => link.deaf_node = true,
            End::Client(_) => link.deaf_client = true,
        }
        let (client, node) = (End::Client(link.client), End::Node(link.node));
        for at in [client, node] {
            let patience = Micros::from_millis(100 + self.rng.below(2_000));
            self.schedule(patience, Event::Broken { conn, at });
        }
    }

    /// Both ends learn of it, in their own time; `dead` is an end that is beyond learning.
    pub(in crate::sim) fn break_link(&mut self, conn: ConnId, dead: Option<End>) {
        let Some(link) = self.links.get_mut(&conn) else { return };
        let (client, node) = (End::Client(link.client), End::Node(link.node));
        if dead == Some(node) {
            link.node_end = false;
        }
        for at in [client, node] {
            if dead != Some(at) {
                let delay = self.network.delay(&mut self.rng);
                self.schedule(delay, Event::Broken { conn, at });
            }
        }
    }

    /// An end learns that a connection is gone. Returns the client, if it is the one to tell.
    pub(in crate::sim) fn on_broken(&mut self, conn: ConnId, at: End) -> Option<usize> {
        let link = self.links.get_mut(&conn)?;
        let mut told = None;
        match at {
            End::Client(client) if link.client_end => {
                link.client_end = false;
                told = Some(client);
            }
            End::Node(_) if link.node_end => {
                link.node_end = false;
                let (at, boot) = (link.node, link.boot);
                let node = &mut self.nodes[at];
                node.out.clients.remove(&conn);
                if let Some(replica) = node.replica.as_mut().filter(|_| node.boot == boot) {
                    replica.on_client_gone(conn);
                    self.turn_soon(at);
                }
            }
            _ => {}
        }
        // Whoever has not noticed yet will: the other side answers no more.
        let link = self.links.get(&conn)?;
        let other = match at {
            End::Client(_) if link.node_end => Some(End::Node(link.node)),
            End::Node(_) if link.client_end => Some(End::Client(link.client)),
            _ => None,
        };
        match other {
            Some(at) => {
                let delay = self.network.delay(&mut self.rng);
                self.schedule(delay, Event::Broken { conn, at });
            }
            None => {
                self.links.remove(&conn);
            }
        }
        told
    }

    /// Bytes of a client arrive: whole frames go to the replica.
    pub(in crate::sim) fn on_client_bytes(
        &mut self,
        conn: ConnId,
        bytes: &[u8],
    ) -> Result<(), Failure> {
        let Some(link) = self.links.get_mut(&conn).filter(|link| link.node_end) else {
            return Ok(());
        };
        let at = link.node;
        let node = &mut self.nodes[at];
        let now = node.clock.at(self.now);
        let Some(replica) = node.replica.as_mut().filter(|_| node.boot == link.boot) else {
            return Ok(());
        };
        link.inbox.extend_from_slice(bytes);
        let broken = |error: wire::Error| Failure::new("clients' frames decode", error.to_string());
        let mut taken = 0;
        if !link.greeted {
            let Some(length) = Hello::peek(&link.inbox).map_err(broken)? else { return Ok(()) };
            let asked = Hello::decode(&link.inbox[..length]).map_err(broken)?;
            let answer =
                Hello { cluster: self.cluster, node: node.id, groups: 1, ..asked }.encode();
            if let Some(out) = node.out.clients.get_mut(&conn) {
                out.extend_from_slice(&answer);
            }
            link.greeted = true;
            taken = length;
        }
        while let Some(length) = wire::peek(&link.inbox[taken..]).map_err(broken)? {
            if link.inbox.len() - taken < length {
                break;
            }
            let frame = wire::decode(&link.inbox[taken..taken + length]).map_err(broken)?;
            replica
                .on_client(now, conn, &frame, &mut node.out)
                .map_err(|fault| Failure::new("clients keep the protocol", fault.to_string()))?;
            taken += length;
        }
        link.inbox.drain(..taken);
        self.turn_soon(at);
        Ok(())
    }
}

/// Whether a client asks to be kept alive, or to attach.
fn asks_for_life(bytes: &[u8]) -> bool {
    has_frame(bytes, |frame| {
        let request = Request::decode(frame);
        matches!(request, Ok(Request::KeepAlive { .. } | Request::Attach { .. }))
    })
}

/// Whether a node says so.
fn says_it_lives(bytes: &[u8]) -> bool {
    has_frame(bytes, |frame| {
        let response = Response::decode(frame);
        matches!(response, Ok(Response::KeptAlive { .. } | Response::Attached { .. }))
    })
}

fn has_frame(mut bytes: &[u8], is_it: impl Fn(&Frame<'_>) -> bool) -> bool {
    while let Ok(Some(length)) = wire::peek(bytes)
        && length <= bytes.len()
    {
        if wire::decode(&bytes[..length]).is_ok_and(|frame| is_it(&frame)) {
            return true;
        }
        bytes = &bytes[length..];
    }
    false
}
