//! Nodes that start, crash and stop. A start finds what the disk holds, and nothing of what was
//! durable may be lacking without the log's knowing it.

use margay_log::breaks;
use margay_log::disk::sim::SimDisk;
use margay_log::id::{GroupId, Incarnation, Index, Micros, NodeId};
use margay_log::rng::Rng;

use super::{Cluster, Event};
use crate::machine::{StateMachine, kind};
use crate::raft::message::Config;
use crate::replica::membership::Member;
use crate::replica::{ConnId, Fatal, Replica, ReplicaConfig};
use crate::sim::Failure;
use crate::sim::clock::Clock;
use crate::sim::network::End;
use crate::sim::node::Node;

/// The node of a number, with an empty disk, and who it is.
pub(super) fn empty_node<S: StateMachine>(n: u32, rng: &mut Rng) -> (Member, Node<S>) {
    let (id, incarnation) = (NodeId(n), Incarnation(rng.next_u64() | 1));
    let (name, address) = (format!("n{n}"), format!("n{n}:5150"));
    let disk = SimDisk::new(rng.next_u64());
    let node = Node::new(id, incarnation, disk, Clock::draw(rng));
    (Member { id, name, address, incarnation }, node)
}

impl<S: StateMachine> Cluster<S> {
    /// A node that founded nothing, with an empty disk; it is up.
    pub(in crate::sim) fn add_node(&mut self) -> Result<usize, Failure> {
        let at = self.nodes.len();
        let (place, node) = empty_node(at as u32 + 1, &mut self.rng);
        self.places.push(place);
        self.nodes.push(node);
        self.start(at).map(|()| at)
    }

    /// Starts a node from what its disk holds.
    pub(in crate::sim) fn start(&mut self, at: usize) -> Result<(), Failure> {
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
    pub(in crate::sim) fn crash(&mut self, at: usize) {
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
    pub(in crate::sim) fn crash_for(&mut self, at: usize, within: u64) {
        self.crash(at);
        let boot = self.nodes[at].boot;
        let down = Micros(self.rng.below(within));
        self.schedule(down, Event::Start { node: at, boot });
    }

    /// The process of a node is gone.
    pub(in crate::sim) fn stop(&mut self, at: usize) {
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

    /// A replica says that it must not go on. It may where its disk was made to fail.
    pub(super) fn fail(&mut self, at: usize, fatal: &Fatal) -> Result<(), Failure> {
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

    /// The others notice that the connection to a node broke.
    fn tell_peers_down(&mut self, down: usize) {
        for at in 0..self.nodes.len() {
            if at != down && self.network.reaches(End::Node(down), End::Node(at)) {
                self.tell_peer_down(at, down);
            }
        }
    }

    /// A node learns that its connection to another broke.
    pub(in crate::sim) fn tell_peer_down(&mut self, at: usize, down: usize) {
        let peer = self.nodes[down].id;
        let now = self.nodes[at].clock.at(self.now);
        let node = &mut self.nodes[at];
        if let Some(replica) = &mut node.replica {
            replica.on_peer_down(now, peer, &mut node.out);
            self.turn_soon(at);
        }
    }
}
