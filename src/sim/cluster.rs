//! The simulated cluster: nodes, links and virtual time. One queue of events, one seed.
//!
//! A node's replica is called as a shard would call it: inputs as they come, then one flush that
//! ends the turn. Disk operations end after a drawn time, in any order; a crash resolves those
//! under way as a power cut does.

mod event;
mod links;
mod power;
mod sending;

use std::collections::BTreeMap;
use std::sync::Arc;

use margay_log::batch::{BATCH_OFFSET, Batch};
use margay_log::buffer::Buffer;
use margay_log::disk::Disk;
use margay_log::id::{ClusterId, Micros, NodeId, Term};
use margay_log::rng::Rng;

pub(super) use self::event::Event;
use self::links::Link;
use self::power::empty_node;
use super::network::{End, Network, Weather};
use super::node::{Node, batch_of};
use super::queue::Queue;
use super::trace::Trace;
use super::{Failure, Summary};
use crate::machine::StateMachine;
use crate::raft::Raft;
use crate::raft::message::{RoleKind, WINDOW_BYTES};
use crate::replica::membership::Member;
use crate::replica::{ConnId, Fault, Replica};
use crate::wire;
use crate::wire::client::{Admin, Request};

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
        let founders = nodes;
        let (places, nodes) = (1..=nodes).map(|n| empty_node(n as u32, &mut rng)).unzip();
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
