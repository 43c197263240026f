//! The simulated cluster: nodes, links and virtual time. One queue of events, one seed.
//!
//! A node's replica is called as a shard would call it: inputs as they come, then one flush that
//! ends the turn. Disk operations end after a drawn time, in any order; a crash resolves those
//! under way as a power cut does.

use std::collections::BTreeMap;
use std::sync::Arc;

use margay_log::batch::{BATCH_OFFSET, Batch};
use margay_log::buffer::Buffer;
use margay_log::disk::Disk;
use margay_log::disk::sim::SimDisk;
use margay_log::id::{ClusterId, GroupId, Incarnation, Micros, NodeId};
use margay_log::rng::Rng;

use super::network::{End, Network, Weather};
use super::node::Node;
use super::trace::Trace;
use super::{Failure, Summary};
use crate::machine::StateMachine;
use crate::raft::message::Config;
use crate::replica::membership::Member;
use crate::replica::{ConnId, Replica, ReplicaConfig};
use crate::wire::{self, Hello};

/// What happens at some time.
pub(super) enum Event {
    /// A frame of another node arrives.
    Peer { to: usize, from: NodeId, frame: Vec<u8>, batch: Option<Arc<Batch>> },
    /// Bytes of a client arrive.
    ToNode { conn: ConnId, bytes: Vec<u8> },
    /// Bytes of a node arrive at a client.
    ToClient { conn: ConnId, bytes: Vec<u8> },
    /// A client's attempt to connect ends.
    Connected { client: usize, conn: ConnId },
    /// One end learns that the connection is gone.
    Broken { conn: ConnId, at: End },
    /// One disk operation of a node ends, if any is under way.
    Disk { node: usize, boot: u64 },
    /// The end of a node's turn.
    Turn { node: usize, boot: u64 },
    /// A client looks at its deadlines, or does its next operation.
    Client { client: usize },
    /// A node that is down since its `boot` starts.
    Start { node: usize, boot: u64 },
    /// The next fault.
    Nemesis,
}

/// A client's connection.
pub(super) struct Link {
    pub client: usize,
    pub node: usize,
    boot: u64,
    /// Arrived and not yet whole frames.
    inbox: Vec<u8>,
    greeted: bool,
    /// Bytes do not overtake each other.
    to_node_at: Micros,
    to_client_at: Micros,
    node_end: bool,
    client_end: bool,
}

/// See the module's text.
pub(super) struct Cluster<S: StateMachine> {
    pub now: Micros,
    pub rng: Rng,
    pub nodes: Vec<Node<S>>,
    pub network: Network,
    pub links: BTreeMap<ConnId, Link>,
    pub trace: Trace,
    queue: BTreeMap<(Micros, u64), Event>,
    scheduled: u64,
    conns: u64,
    cluster: ClusterId,
    members: Vec<Member>,
    state: fn() -> S,
    /// How many clients there are.
    pub clients: usize,
    /// Slowest disk operation, in microseconds.
    pub disk_latency: u64,
    /// How long a voter must have been well before leadership moves to it.
    settled: Micros,
    /// Entry bytes between snapshots.
    snapshot_after: u64,
    segment_first: u64,
    /// What replicas have counted, those included that are gone.
    pub counted: Summary,
}

impl<S: StateMachine> Cluster<S> {
    pub(super) fn new(seed: u64, nodes: usize, state: fn() -> S, trace: Trace) -> Cluster<S> {
        let mut rng = Rng::new(seed);
        let mut members = Vec::new();
        let nodes = (1..=nodes)
            .map(|n| {
                let (id, incarnation) = (NodeId(n as u32), Incarnation(rng.next_u64() | 1));
                let (name, address) = (format!("n{n}"), format!("n{n}:5150"));
                members.push(Member { id, name, address, incarnation });
                Node::new(id, incarnation, SimDisk::new(rng.next_u64()))
            })
            .collect();
        Cluster {
            now: Micros(1_000_000),
            nodes,
            network: Network::new(Weather::FAIR),
            links: BTreeMap::new(),
            trace,
            queue: BTreeMap::new(),
            scheduled: 0,
            conns: 0,
            cluster: ClusterId(seed | 1),
            members,
            state,
            clients: 0,
            disk_latency: 100 + rng.below(2_000),
            settled: Micros::from_millis(100 + rng.below(2_000)),
            snapshot_after: 4 << 10 << rng.below(5),
            segment_first: 16 << 10 << rng.below(3),
            counted: Summary::default(),
            rng,
        }
    }

    pub(super) fn schedule(&mut self, after: Micros, event: Event) {
        self.scheduled += 1;
        self.queue.insert((self.now.after(after), self.scheduled), event);
    }

    /// The next event; time moves to it.
    pub(super) fn next(&mut self) -> Option<Event> {
        let ((at, _), event) = self.queue.pop_first()?;
        self.now = self.now.max(at);
        Some(event)
    }

    /// What comes for a node that is paused waits for it, in about the order in which it came.
    pub(super) fn unless_paused(&mut self, event: Event) -> Option<Event> {
        let node = match event {
            Event::Peer { to, .. } => to,
            Event::ToNode { conn, .. } => self.links.get(&conn)?.node,
            Event::Disk { node, .. } | Event::Turn { node, .. } => node,
            _ => return Some(event),
        };
        let until = self.nodes[node].paused_until;
        if until <= self.now {
            return Some(event);
        }
        let stream = matches!(event, Event::ToNode { .. });
        let late = if stream { 0 } else { self.rng.below(300) };
        let after = Micros(until.since(self.now).0 + late);
        self.schedule(after, event);
        None
    }

    pub(super) fn node_named(&self, address: &str) -> Option<usize> {
        self.members.iter().position(|member| member.address == address)
    }

    pub(super) fn address_of(&self, conn: ConnId) -> Option<String> {
        let node = self.links.get(&conn)?.node;
        Some(self.members[node].address.clone())
    }

    pub(super) fn addresses(&self) -> Vec<String> {
        self.members.iter().map(|member| member.address.clone()).collect()
    }

    /// Starts a node from what its disk holds.
    pub(super) fn start(&mut self, at: usize) -> Result<(), Failure> {
        let seed = self.rng.next_u64();
        let node = &mut self.nodes[at];
        assert!(!node.is_up());
        node.boot += 1;
        let raft = Config::new(node.id, seed);
        let members = self.members.clone();
        let config = ReplicaConfig {
            snapshot_after: self.snapshot_after,
            snapshot_chunk: 2 << 10,
            scrub_pause: Micros::from_millis(50),
            // So that leadership is handed over again and again.
            settled: self.settled,
            ..ReplicaConfig::new(self.cluster, GroupId(0), members, raft)
        };
        let options = margay_log::Options {
            cluster: self.cluster,
            group: GroupId(0),
            incarnation: node.incarnation,
            segment_first: self.segment_first,
            segment_max: 512 << 10,
            tail_bytes: 256 << 10,
            keep_rotten: true,
            ..margay_log::Options::default()
        };
        let opened = margay_log::open(&mut node.disk, options)
            .map_err(|error| Failure::new("log opens after a crash", error.to_string()))?;
        let damage = opened.report.damage.as_ref().filter(|_| !node.rotten);
        if let Some(damage) = damage {
            return Err(Failure::new("no damage without rot", format!("{}: {damage:?}", node.id)));
        }
        self.trace.line(self.now, format_args!("{} starts at {}", node.id, opened.log.last()));
        let replica = Replica::new(config, opened, (self.state)(), self.now)
            .map_err(|error| Failure::new("replica starts", error.to_string()))?;
        node.replica = Some(replica);
        node.wake = None;
        node.turning = false;
        self.turn_soon(at);
        Ok(())
    }

    /// The node's power goes: what was under way on its disk is dropped, torn or done.
    pub(super) fn crash(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        self.trace.line(self.now, format_args!("{} crashes", node.id));
        node.replica = None;
        node.out = Default::default();
        node.disk.power_cut(&mut self.rng);
        let conns: Vec<ConnId> =
            self.links.iter().filter(|(_, link)| link.node == at).map(|(&conn, _)| conn).collect();
        for conn in conns {
            self.break_link(conn, Some(End::Node(at)));
        }
        self.tell_peers_down(at);
    }

    /// The others notice that the connection to a node broke.
    fn tell_peers_down(&mut self, down: usize) {
        let peer = self.nodes[down].id;
        for at in 0..self.nodes.len() {
            let now = self.now;
            let node = &mut self.nodes[at];
            if at == down || !self.network.reaches(End::Node(down), End::Node(at)) {
                continue;
            }
            if let Some(replica) = &mut node.replica {
                replica.on_peer_down(now, peer, &mut node.out);
                self.turn_soon(at);
            }
        }
    }

    /// Ends the node's turn within a moment: what comes until then shares it.
    pub(super) fn turn_soon(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if node.turning || !node.is_up() {
            return;
        }
        node.turning = true;
        let boot = node.boot;
        let within = Micros(self.rng.below(200));
        self.schedule(within, Event::Turn { node: at, boot });
    }

    /// A frame of another node arrives.
    pub(super) fn on_peer(
        &mut self,
        at: usize,
        from: NodeId,
        frame: &[u8],
        batch: Option<&Arc<Batch>>,
    ) -> Result<(), Failure> {
        let now = self.now;
        let sender = End::Node(from.0 as usize - 1);
        let node = &mut self.nodes[at];
        let Some(replica) = &mut node.replica else { return Ok(()) };
        if !self.network.reaches(sender, End::Node(at)) {
            return Ok(());
        }
        let batch = batch.map(|batch| {
            let bytes = batch.bytes();
            let mut buffer = Buffer::zeroed(BATCH_OFFSET + bytes.len());
            buffer[BATCH_OFFSET..BATCH_OFFSET + bytes.len()].copy_from_slice(bytes);
            buffer
        });
        let frame = wire::decode(frame)
            .map_err(|error| Failure::new("peers' frames decode", error.to_string()))?;
        replica
            .on_peer(now, from, &frame, batch, &mut node.out)
            .map_err(|fault| Failure::new("peers keep the protocol", fault.to_string()))?;
        self.turn_soon(at);
        Ok(())
    }

    /// One disk operation ends, drawn from those under way.
    pub(super) fn on_disk(&mut self, at: usize, boot: u64) -> Result<(), Failure> {
        let now = self.now;
        let node = &mut self.nodes[at];
        if node.boot != boot || node.disk.in_flight().len() == 0 {
            return Ok(());
        }
        let which = self.rng.below(node.disk.in_flight().len() as u64) as usize;
        node.disk.complete(which);
        let mut done = Vec::new();
        node.disk.poll(false, &mut done);
        let Some(replica) = &mut node.replica else { return Ok(()) };
        let before = replica.snapshot_counts();
        for done in done {
            replica
                .on_disk(now, done, &mut node.out)
                .map_err(|fatal| Failure::new("the disk works", fatal.to_string()))?;
        }
        let after = replica.snapshot_counts();
        self.counted.snapshots += after.made - before.made;
        self.counted.installs += after.installed - before.installed;
        self.turn_soon(at);
        Ok(())
    }

    /// Ends a node's turn and carries out what it wants.
    pub(super) fn on_turn(&mut self, at: usize, boot: u64) -> Result<(), Failure> {
        let now = self.now;
        let node = &mut self.nodes[at];
        if node.boot != boot || !node.is_up() {
            return Ok(());
        }
        node.turning = false;
        node.wake = None;
        let Some(replica) = &mut node.replica else { return Ok(()) };
        replica
            .flush(now, &mut node.out)
            .map_err(|fatal| Failure::new("replicas do not stop", fatal.to_string()))?;
        self.carry_out(at);
        self.wake_at_deadline(at);
        Ok(())
    }

    fn wake_at_deadline(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let Some(deadline) = node.replica.as_ref().and_then(Replica::deadline) else { return };
        if !node.turning && node.wake.is_none_or(|wake| deadline < wake) {
            node.wake = Some(deadline);
            let boot = node.boot;
            let in_a_while = Micros(deadline.since(self.now).0 + 1 + self.rng.below(50));
            self.schedule(in_a_while, Event::Turn { node: at, boot });
        }
    }

    fn carry_out(&mut self, at: usize) {
        let out = &mut self.nodes[at].out;
        let ops = std::mem::take(&mut out.ops);
        let peers = std::mem::take(&mut out.peers);
        let closing = std::mem::take(&mut out.closing);
        let clients: Vec<(ConnId, Vec<u8>)> = out
            .clients
            .iter_mut()
            .filter(|(_, bytes)| !bytes.is_empty())
            .map(|(&conn, bytes)| (conn, std::mem::take(bytes)))
            .collect();
        let (boot, from) = (self.nodes[at].boot, self.nodes[at].id);
        for op in ops {
            self.nodes[at].disk.submit(op);
            let takes = Micros(20 + self.rng.below(self.disk_latency));
            self.schedule(takes, Event::Disk { node: at, boot });
        }
        for peer in peers {
            let to = peer.to.0 as usize - 1;
            let delays = self.network.delays(&mut self.rng, End::Node(at), End::Node(to));
            for delay in delays.into_iter().flatten() {
                let (frame, batch) = (peer.frame.clone(), peer.batch.clone());
                self.schedule(delay, Event::Peer { to, from, frame, batch });
            }
        }
        for (conn, bytes) in clients {
            self.send_to_client(conn, bytes);
        }
        for conn in closing {
            self.break_link(conn, None);
        }
    }

    /// A client wants a connection. Tells how it is named; whether it came about, an event will
    /// say.
    pub(super) fn connect(&mut self, client: usize, node: usize) -> ConnId {
        self.conns += 1;
        let conn = ConnId(self.conns);
        let delay = self.network.delay(&mut self.rng);
        let link = Link {
            client,
            node,
            boot: self.nodes[node].boot,
            inbox: Vec::new(),
            greeted: false,
            to_node_at: self.now,
            to_client_at: self.now,
            node_end: true,
            client_end: true,
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
    pub(super) fn send_to_node(&mut self, conn: ConnId, bytes: Vec<u8>) {
        let Some(link) = self.links.get(&conn) else { return };
        let (from, to) = (End::Client(link.client), End::Node(link.node));
        if !self.network.reaches(from, to) {
            return self.stall(conn);
        }
        let delay = self.network.delay(&mut self.rng);
        let Some(link) = self.links.get_mut(&conn) else { return };
        link.to_node_at = link.to_node_at.max(self.now.after(delay));
        let after = link.to_node_at.since(self.now);
        self.schedule(after, Event::ToNode { conn, bytes });
    }

    fn send_to_client(&mut self, conn: ConnId, bytes: Vec<u8>) {
        let Some(link) = self.links.get(&conn) else { return };
        let (from, to) = (End::Node(link.node), End::Client(link.client));
        if !self.network.reaches(from, to) {
            return self.stall(conn);
        }
        let delay = self.network.delay(&mut self.rng);
        let Some(link) = self.links.get_mut(&conn) else { return };
        link.to_client_at = link.to_client_at.max(self.now.after(delay));
        let after = link.to_client_at.since(self.now);
        self.schedule(after, Event::ToClient { conn, bytes });
    }

    /// Bytes were lost on a cut link: sooner or later both ends give the connection up.
    fn stall(&mut self, conn: ConnId) {
        let Some(link) = self.links.get(&conn) else { return };
        let (client, node) = (End::Client(link.client), End::Node(link.node));
        for at in [client, node] {
            let patience = Micros::from_millis(100 + self.rng.below(2_000));
            self.schedule(patience, Event::Broken { conn, at });
        }
    }

    /// Both ends learn of it, in their own time; `dead` is an end that is beyond learning.
    pub(super) fn break_link(&mut self, conn: ConnId, dead: Option<End>) {
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
    pub(super) fn on_broken(&mut self, conn: ConnId, at: End) -> Option<usize> {
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
    pub(super) fn on_client_bytes(&mut self, conn: ConnId, bytes: &[u8]) -> Result<(), Failure> {
        let now = self.now;
        let Some(link) = self.links.get_mut(&conn).filter(|link| link.node_end) else {
            return Ok(());
        };
        let at = link.node;
        let node = &mut self.nodes[at];
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
