//! The simulated cluster: nodes, links and virtual time. One queue of events, one seed.
//!
//! A node's replica is called as a shard would call it: inputs as they come, then one flush that
//! ends the turn. Disk operations end after a drawn time, in any order; a crash resolves those
//! under way as a power cut does.

mod links;
mod sending;

use std::collections::BTreeMap;
use std::sync::Arc;

use margay_log::batch::{BATCH_OFFSET, Batch};
use margay_log::breaks;
use margay_log::buffer::Buffer;
use margay_log::disk::sim::SimDisk;
use margay_log::disk::{Disk, Op};
use margay_log::id::{ClusterId, GroupId, Incarnation, Index, Micros, NodeId, Term};
use margay_log::rng::Rng;

use self::links::Link;
use super::clock::Clock;
use super::network::{End, Network, Weather};
use super::node::{Node, batch_of};
use super::queue::Queue;
use super::trace::Trace;
use super::{Failure, Summary};
use crate::machine::{StateMachine, kind};
use crate::raft::Raft;
use crate::raft::message::{Config, RoleKind, WINDOW_BYTES};
use crate::replica::membership::Member;
use crate::replica::{ConnId, Fatal, Fault, Replica, ReplicaConfig};
use crate::wire;
use crate::wire::client::{Admin, Request};
use crate::wire::peer::PeerMessage;

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
    /// A node's deadline has come; void where it has moved.
    Wake { node: usize, boot: u64, due: Micros },
    /// A client looks at its deadlines, or does its next operation.
    Client { client: usize },
    /// A client goes, with a farewell or without, and another comes in its place.
    Replace { client: usize, farewell: bool },
    /// The power of a node goes, if this is still its boot.
    Crash { node: usize, boot: u64 },
    /// A node that is down since its `boot` starts.
    Start { node: usize, boot: u64 },
    /// A write of an earlier boot reaches a disk after all.
    Late { node: usize, op: Op },
    /// All links of a node are cut, or mended.
    Isolate { node: usize, cut: bool },
    /// All links are mended.
    Heal,
    /// The next fault.
    Nemesis,
    /// What a fault does in a second step.
    Sequel { of: &'static str, node: usize },
}

/// See the module's text.
pub(super) struct Cluster<S: StateMachine> {
    pub now: Micros,
    pub rng: Rng,
    pub nodes: Vec<Node<S>>,
    pub network: Network,
    pub links: BTreeMap<ConnId, Link>,
    pub trace: Trace,
    queue: Queue<Event>,
    conns: u64,
    cluster: ClusterId,
    /// All nodes there are, by number, members or not.
    places: Vec<Member>,
    pub founders: usize,
    /// When somebody last asked for a change of the membership.
    pub changed: Micros,
    state: fn() -> S,
    /// How many clients there are.
    pub clients: usize,
    /// When the leader of a term had first committed something of its own.
    committed_first: BTreeMap<Term, Micros>,
    /// Nodes whose role has changed and no fault has seen it yet.
    pub role_changed: Vec<usize>,
    /// Slowest disk operation, in microseconds.
    pub disk_latency: u64,
    /// How long a voter must have been well before leadership moves to it.
    settled: Micros,
    /// Entry bytes between snapshots.
    snapshot_after: u64,
    segment_first: u64,
    /// Bytes under way to a follower, at most: seldom so many that nobody ever waits.
    window_bytes: u64,
    /// Whether leaders answer by their lease.
    lease: bool,
    /// What replicas have counted, those included that are gone.
    pub counted: Summary,
}

impl<S: StateMachine> Cluster<S> {
    pub(super) fn new(seed: u64, nodes: usize, state: fn() -> S, trace: Trace) -> Cluster<S> {
        let mut rng = Rng::new(seed);
        let mut places = Vec::new();
        let founders = nodes;
        let nodes = (1..=nodes)
            .map(|n| {
                let (id, incarnation) = (NodeId(n as u32), Incarnation(rng.next_u64() | 1));
                let (name, address) = (format!("n{n}"), format!("n{n}:5150"));
                places.push(Member { id, name, address, incarnation });
                let disk = SimDisk::new(rng.next_u64());
                Node::new(id, incarnation, disk, Clock::draw(&mut rng))
            })
            .collect();
        Cluster {
            now: Micros(1_000_000),
            nodes,
            network: Network::new(Weather::FAIR),
            links: BTreeMap::new(),
            trace,
            queue: Queue::new(),
            conns: 0,
            cluster: ClusterId(seed | 1),
            places,
            founders,
            changed: Micros(0),
            state,
            clients: 0,
            committed_first: BTreeMap::new(),
            role_changed: Vec::new(),
            disk_latency: 100 + rng.below(2_000),
            settled: Micros::from_millis(100 + rng.below(2_000)),
            snapshot_after: 64 << 10 << rng.below(5),
            segment_first: 16 << 10 << rng.below(3),
            window_bytes: WINDOW_BYTES >> (5 * rng.below(3)),
            lease: rng.chance(15, 16),
            counted: Summary::default(),
            rng,
        }
    }

    pub(super) fn schedule(&mut self, after: Micros, event: Event) {
        self.queue.push(self.now.after(after), event);
    }

    /// The next event; time moves to it.
    pub(super) fn next(&mut self) -> Option<Event> {
        let (at, event) = self.queue.pop()?;
        self.now = self.now.max(at);
        Some(event)
    }

    /// Events that are to come.
    pub(super) fn under_way(&self) -> usize {
        self.queue.len()
    }

    /// Puts an event into the trace.
    pub(super) fn note(&mut self, event: &Event) {
        let now = self.now;
        let trace = &mut self.trace;
        match *event {
            Event::Peer { to, from, ref frame, .. } => {
                let sum = u64::from(crc32c::crc32c(frame));
                let to = self.nodes[to].id;
                let message = if trace.is_full() { wire::decode(frame).ok() } else { None };
                let message = message.and_then(|frame| PeerMessage::decode(&frame).ok());
                let message = message.map(|peer| peer.message);
                let numbers = [u64::from(from.0), u64::from(to.0), sum];
                trace.event(now, numbers, format_args!("{from} -> {to} {message:?}"));
            }
            Event::ToNode { conn, ref bytes } => {
                let sum = u64::from(crc32c::crc32c(bytes));
                let length = bytes.len();
                let what = format_args!("client -> node on {}: {length} bytes", conn.0);
                trace.event(now, [100, conn.0, sum], what);
            }
            Event::ToClient { conn, ref bytes } => {
                let sum = u64::from(crc32c::crc32c(bytes));
                let length = bytes.len();
                let what = format_args!("node -> client on {}: {length} bytes", conn.0);
                trace.event(now, [101, conn.0, sum], what);
            }
            Event::Connected { client, conn } => {
                let what = format_args!("client {client} is connected by {}", conn.0);
                trace.event(now, [102, conn.0, client as u64], what);
            }
            Event::Broken { conn, at } => {
                let what = format_args!("{at:?} learns that {} is gone", conn.0);
                trace.event(now, [103, conn.0, 0], what);
            }
            Event::Disk { node, boot } => {
                let what = format_args!("disk {node} has done something");
                trace.event(now, [104, node as u64, boot], what);
            }
            _ => {}
        }
    }

    /// What comes for a node that is paused waits for it, in about the order in which it came.
    pub(super) fn unless_paused(&mut self, event: Event) -> Option<Event> {
        let node = match event {
            Event::Peer { to, .. } => to,
            Event::ToNode { conn, .. } => self.links.get(&conn)?.node,
            Event::Disk { node, .. } | Event::Turn { node, .. } | Event::Wake { node, .. } => node,
            _ => return Some(event),
        };
        let until = self.nodes[node].paused_until;
        if until <= self.now {
            return Some(event);
        }
        let overtakes = self.network.weather.overtakes;
        let stream = match event {
            Event::ToNode { .. } => true,
            Event::Peer { .. } => !overtakes,
            _ => false,
        };
        let late = if stream { 0 } else { self.rng.below(300) };
        let after = Micros(until.since(self.now).0 + late);
        self.schedule(after, event);
        None
    }

    pub(super) fn node_named(&self, address: &str) -> Option<usize> {
        self.places.iter().position(|place| place.address == address)
    }

    pub(super) fn address_of(&self, conn: ConnId) -> Option<String> {
        let node = self.links.get(&conn)?.node;
        Some(self.places[node].address.clone())
    }

    pub(super) fn addresses(&self) -> Vec<String> {
        self.places.iter().map(|place| place.address.clone()).collect()
    }

    /// Who a node is.
    pub(super) fn place(&self, at: usize) -> &Member {
        &self.places[at]
    }

    /// A node that founded nothing, with an empty disk; it is up.
    pub(super) fn add_node(&mut self) -> Result<usize, Failure> {
        let at = self.nodes.len();
        let n = at as u32 + 1;
        let (id, incarnation) = (NodeId(n), Incarnation(self.rng.next_u64() | 1));
        let (name, address) = (format!("n{n}"), format!("n{n}:5150"));
        self.places.push(Member { id, name, address, incarnation });
        let disk = SimDisk::new(self.rng.next_u64());
        let clock = Clock::draw(&mut self.rng);
        self.nodes.push(Node::new(id, incarnation, disk, clock));
        self.start(at).map(|()| at)
    }

    /// The leader of the highest term, if one is up.
    pub(super) fn leader(&self) -> Option<usize> {
        let raft = |at: usize| self.nodes[at].replica.as_ref().map(Replica::raft);
        let leads = |at: &usize| raft(*at).is_some_and(|raft| raft.role() == RoleKind::Leader);
        (0..self.nodes.len()).filter(leads).max_by_key(|at| raft(*at).map(Raft::term))
    }

    /// What a node is, if it is up.
    pub(super) fn role(&self, at: usize) -> Option<RoleKind> {
        self.nodes[at].replica.as_ref().map(|replica| replica.raft().role())
    }

    /// Whether a node takes itself for a leader.
    pub(super) fn leads(&self, at: usize) -> bool {
        self.role(at) == Some(RoleKind::Leader)
    }

    /// An operator asks a node for a change; what it answers is not waited for.
    pub(super) fn ask(&mut self, at: usize, admin: Admin<'_>) -> Result<(), Failure> {
        self.changed = self.now;
        self.trace.line(self.now, format_args!("{} is asked to {admin:?}", self.nodes[at].id));
        self.conns += 1;
        let conn = ConnId(self.conns);
        let mut frame = Vec::new();
        Request::Admin { id: 1, admin }.encode(&mut frame);
        let frame = wire::decode(&frame)
            .map_err(|error| Failure::new("operators' frames decode", error.to_string()))?;
        let node = &mut self.nodes[at];
        let now = node.clock.at(self.now);
        let Some(replica) = &mut node.replica else { return Ok(()) };
        replica
            .on_client(now, conn, &frame, &mut node.out)
            .map_err(|fault| Failure::new("operators keep the protocol", fault.to_string()))?;
        self.turn_soon(at);
        Ok(())
    }

    /// Starts a node from what its disk holds.
    pub(super) fn start(&mut self, at: usize) -> Result<(), Failure> {
        let (seed, mut turns) = (self.rng.next_u64(), self.rng.fork());
        let node = &mut self.nodes[at];
        assert!(!node.is_up() && !node.gone);
        node.boot += 1;
        node.landed.clear();
        node.fails = false;
        let shown = node.clock.at(self.now);
        let window_bytes = self.window_bytes;
        let lease = self.lease;
        let raft = Config { checked: true, window_bytes, lease, ..Config::new(node.id, seed) };
        let members = self.places[..self.founders].to_vec();
        let config = ReplicaConfig {
            snapshot_after: self.snapshot_after,
            snapshot_chunk: 2 << 10,
            apply_part: 1 << turns.below(4),
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
            spare_bytes: 1 << 20,
            keep_rotten: true,
            mark: Some(kind::CONFIGURATION),
            ..margay_log::Options::default()
        };
        let opened = match margay_log::open(&mut node.disk, options) {
            Ok(opened) => opened,
            // Nothing to go on in: it is tried again.
            Err(_) if node.full => {
                let boot = node.boot;
                self.schedule(Micros::from_millis(500), Event::Start { node: at, boot });
                return Ok(());
            }
            Err(error) => {
                return Err(Failure::new("logs open after a crash", error.to_string()));
            }
        };
        let damage = opened.report.damage.as_ref().filter(|_| !node.rotten);
        if let Some(damage) = damage {
            return Err(Failure::new("no damage without rot", format!("{}: {damage:?}", node.id)));
        }
        let (last, left) = (opened.log.last().index, node.left_durable);
        if last < left && opened.log.repair().is_none() {
            let details = format!("{}: durable up to {left}, found up to {last}", node.id);
            return Err(Failure::new("a log that has lost something knows it", details));
        }
        self.trace.line(self.now, format_args!("{} starts at {}", node.id, opened.log.last()));
        let replica = Replica::new(config, opened, (self.state)(), shown)
            .map_err(|error| Failure::new("replica starts", error.to_string()))?;
        node.out.turns = Some(turns);
        node.replica = Some(replica);
        node.wake = None;
        node.turning = false;
        node.muted = false;
        node.was_durable = Index::ZERO;
        node.note_durable();
        self.turn_soon(at);
        Ok(())
    }

    /// The node's power goes: what was under way on its disk is dropped, torn or done.
    pub(super) fn crash(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        self.trace.line(self.now, format_args!("{} crashes", node.id));
        if breaks::OLD_WRITE_LANDS.on() {
            for op in node.disk.abandon() {
                let late = Micros(self.rng.below(2_000_000));
                self.queue.push(self.now.after(late), Event::Late { node: at, op });
            }
        }
        node.disk.power_cut(&mut self.rng);
        self.stop(at);
    }

    /// Crashes a node; it starts again within the time, in microseconds.
    pub(super) fn crash_for(&mut self, at: usize, within: u64) {
        self.crash(at);
        let boot = self.nodes[at].boot;
        let down = Micros(self.rng.below(within));
        self.schedule(down, Event::Start { node: at, boot });
    }

    /// The process of a node is gone.
    pub(super) fn stop(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if let Some(replica) = node.replica.take() {
            node.left_durable = replica.log().durable();
            node.left_at_rest = replica.log().at_rest_below();
        }
        node.out = Default::default();
        let conns: Vec<ConnId> =
            self.links.iter().filter(|(_, link)| link.node == at).map(|(&conn, _)| conn).collect();
        for conn in conns {
            self.break_link(conn, Some(End::Node(at)));
        }
        self.tell_peers_down(at);
    }

    /// The others notice that the connection to a node broke.
    fn tell_peers_down(&mut self, down: usize) {
        for at in 0..self.nodes.len() {
            if at != down && self.network.reaches(End::Node(down), End::Node(at)) {
                self.tell_peer_down(at, down);
            }
        }
    }

    /// A node learns that its connection to another broke.
    pub(super) fn tell_peer_down(&mut self, at: usize, down: usize) {
        let peer = self.nodes[down].id;
        let now = self.nodes[at].clock.at(self.now);
        let node = &mut self.nodes[at];
        if let Some(replica) = &mut node.replica {
            replica.on_peer_down(now, peer, &mut node.out);
            self.turn_soon(at);
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
        let sender = End::Node(from.0 as usize - 1);
        let node = &mut self.nodes[at];
        let now = node.clock.at(self.now);
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
        match replica.on_peer(now, from, &frame, batch, &mut node.out) {
            // A node that was removed and does not know it: its connection is closed.
            Ok(()) | Err(Fault::Stranger(_)) => {}
            Err(fault) => {
                return Err(Failure::new("peers keep the protocol", fault.to_string()));
            }
        }
        self.turn_soon(at);
        Ok(())
    }

    /// One disk operation ends, drawn from those under way.
    pub(super) fn on_disk(&mut self, at: usize, boot: u64) -> Result<(), Failure> {
        let node = &mut self.nodes[at];
        let now = node.clock.at(self.now);
        if node.boot != boot || node.disk.in_flight().len() == 0 {
            return Ok(());
        }
        let which = node.disk.turn_of(self.rng.below(node.disk.in_flight().len() as u64) as usize);
        let landing = node.disk.in_flight().nth(which).and_then(batch_of);
        node.landed.extend(landing.map(|(last, chain)| (last, chain.0)));
        node.disk.complete(which);
        let mut done = Vec::new();
        node.disk.poll(false, &mut done);
        let Some(replica) = &mut node.replica else { return Ok(()) };
        let before = replica.snapshot_counts();
        for done in done {
            if let Err(fatal) = replica.on_disk(now, done, &mut node.out) {
                return self.fail(at, &fatal);
            }
        }
        let after = replica.snapshot_counts();
        self.counted.snapshots += after.made - before.made;
        self.counted.installs += after.installed - before.installed;
        node.note_durable();
        node.check_durable()?;
        self.turn_soon(at);
        Ok(())
    }

    /// A replica says that it must not go on. It may where its disk was made to fail.
    fn fail(&mut self, at: usize, fatal: &Fatal) -> Result<(), Failure> {
        let node = &mut self.nodes[at];
        if !node.fails {
            return Err(Failure::new("replicas do not stop", fatal.to_string()));
        }
        self.trace.line(self.now, format_args!("{} stops: {fatal}", node.id));
        node.disk.kill(&mut self.rng);
        self.stop(at);
        let boot = self.nodes[at].boot;
        let down = Micros(self.rng.below(1_000_000));
        self.schedule(down, Event::Start { node: at, boot });
        Ok(())
    }

    /// Ends a node's turn and carries out what it wants.
    pub(super) fn on_turn(&mut self, at: usize, boot: u64) -> Result<(), Failure> {
        let node = &mut self.nodes[at];
        let now = node.clock.at(self.now);
        if node.boot != boot || !node.is_up() {
            return Ok(());
        }
        node.turning = false;
        let Some(replica) = &mut node.replica else { return Ok(()) };
        if let Err(fatal) = replica.flush(now, &mut node.out) {
            return self.fail(at, &fatal);
        }
        self.note_role(at);
        self.carry_out(at)?;
        self.wake_at_deadline(at);
        Ok(())
    }

    fn note_role(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let Some(replica) = &node.replica else { return };
        let raft = replica.raft();
        if raft.may_serve() {
            self.committed_first.entry(raft.term()).or_insert(self.now);
        }
        let role = (raft.role(), raft.term());
        if node.role != Some(role) {
            node.role = Some(role);
            let (role, term) = role;
            let last = raft.last();
            let what = format_args!("{} is {role:?} in {term}, its log ends at {last}", node.id);
            self.trace.line(self.now, what);
            self.role_changed.push(at);
        }
    }

    /// Cuts all links of a node, or mends them.
    pub(super) fn isolate(&mut self, node: usize, cut: bool) {
        let word = if cut { "cut off" } else { "reached again" };
        self.trace.line(self.now, format_args!("node {node} is {word}"));
        let nodes = (0..self.nodes.len()).filter(|&other| other != node).map(End::Node);
        for end in nodes.chain((0..self.clients).map(End::Client)) {
            if cut {
                self.network.cut(End::Node(node), end);
                self.network.cut(end, End::Node(node));
            } else {
                self.network.mend(End::Node(node), end);
                self.network.mend(end, End::Node(node));
            }
        }
    }

    /// A deadline has come.
    pub(super) fn on_wake(&mut self, at: usize, boot: u64, due: Micros) -> Result<(), Failure> {
        let node = &mut self.nodes[at];
        if node.boot != boot || node.wake != Some(due) {
            return Ok(());
        }
        node.wake = None;
        self.on_turn(at, boot)
    }

    fn wake_at_deadline(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let Some(deadline) = node.replica.as_ref().and_then(Replica::deadline) else { return };
        let deadline = node.clock.when(deadline);
        if !node.turning && node.wake.is_none_or(|wake| deadline < wake) {
            node.wake = Some(deadline);
            let boot = node.boot;
            let in_a_while = Micros(deadline.since(self.now).0 + 1 + self.rng.below(50));
            self.schedule(in_a_while, Event::Wake { node: at, boot, due: deadline });
        }
    }
}
