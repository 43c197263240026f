//! A group of real replicas over simulated disks, on one thread. Time passes in small steps,
//! messages arrive in the order in which they were sent, and disk operations end at once, unless a
//! test says otherwise.
//!
//! After every step: one leader per term, commit never goes back, and logs that are committed are
//! equal.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use margay::machine::{Frozen, kind};
use margay::raft::message::{Config, RoleKind};
use margay::replica::membership::Member;
use margay::replica::{ConnId, Fatal, Fault, Host, Replica, ReplicaConfig, is_beyond_repair};
use margay::resource::Registry;
use margay::wire;
use margay_log::batch::{BATCH_OFFSET, Batch};
use margay_log::disk::sim::SimDisk;
use margay_log::disk::{Disk, Op};
use margay_log::id::{Chain, ClusterId, GroupId, Incarnation, Index, Micros, NodeId, Term};
use margay_log::rng::Rng;
use margay_log::{Buffer, Found, Options};

pub(crate) const CLUSTER: ClusterId = ClusterId(7);
/// What passes between two rounds of messages and disk operations.
const STEP: Micros = Micros(50);

/// What a replica has put out.
#[derive(Default)]
struct Outbox {
    clients: BTreeMap<ConnId, Vec<u8>>,
    closing: Vec<ConnId>,
    peers: Vec<(NodeId, Vec<u8>, Option<Arc<Batch>>)>,
    ops: Vec<Op>,
}

impl Host for Outbox {
    fn client(&mut self, conn: ConnId) -> Option<&mut Vec<u8>> {
        self.clients.get_mut(&conn)
    }

    fn close(&mut self, conn: ConnId) {
        self.closing.push(conn);
    }

    fn peer(&mut self, to: NodeId, frame: &[u8], batch: Option<&Arc<Batch>>) {
        self.peers.push((to, frame.to_vec(), batch.cloned()));
    }

    fn disk(&mut self, op: Op) {
        self.ops.push(op);
    }
}

pub(crate) struct Node {
    pub(crate) disk: SimDisk,
    pub(crate) replica: Option<Replica<Registry>>,
    /// Why it stopped by itself.
    pub(crate) fatal: Option<Fatal>,
    /// What its disk does not do for now.
    pub(crate) holds: Option<fn(&Op) -> bool>,
    /// How long its disk takes for each operation, one after the other.
    pub(crate) pace: Micros,
    ready_at: Micros,
    /// Its process stands still; what comes for it waits.
    pub(crate) paused: bool,
    out: Outbox,
    /// Frames of peers that came for it while it stood still.
    late: Vec<Flight>,
    news: bool,
    commit: Index,
    boots: u64,
}

/// A frame on its way.
pub(crate) struct Flight {
    due: Micros,
    pub(crate) from: u32,
    pub(crate) to: u32,
    pub(crate) frame: Vec<u8>,
    pub(crate) batch: Option<Arc<Batch>>,
}

impl Flight {
    /// A frame without a batch.
    pub(crate) fn new(from: u32, to: u32, frame: Vec<u8>) -> Flight {
        Flight { due: Micros(0), from, to, frame, batch: None }
    }
}

/// What happens to a frame: `None` loses it, else it arrives after that time.
type Weather = Box<dyn FnMut(&Flight) -> Option<Micros>>;

pub(crate) struct Group {
    pub(crate) now: Micros,
    nodes: Vec<Node>,
    /// Links that lose everything, by (from, to).
    pub(crate) cut: BTreeSet<(u32, u32)>,
    pub(crate) weather: Option<Weather>,
    pub(crate) rng: Rng,
    founders: Vec<Member>,
    configure: fn(&mut ReplicaConfig),
    net: VecDeque<Flight>,
    conns: u64,
    /// Which node a connection leads to.
    pub(crate) links: BTreeMap<ConnId, u32>,
    leaders: BTreeMap<Term, u32>,
    committed: BTreeMap<Index, Chain>,
    /// Disks have lost what they had called durable: what is committed may differ.
    pub(crate) robbed: bool,
}

pub(crate) fn address(node: u32) -> String {
    format!("n{node}:5150")
}

impl Group {
    /// A group of `nodes` founders that have just started. Leadership moves by elections alone.
    pub(crate) fn new(nodes: u32) -> Group {
        Group::with(nodes, |_| {})
    }

    /// The same, with other bounds.
    pub(crate) fn with(nodes: u32, configure: fn(&mut ReplicaConfig)) -> Group {
        let member = |n: u32| Member {
            id: NodeId(n),
            name: format!("n{n}"),
            address: address(n),
            incarnation: Incarnation(u64::from(n)),
        };
        let mut group = Group {
            now: Micros(1_000_000),
            nodes: Vec::new(),
            cut: BTreeSet::new(),
            weather: None,
            rng: Rng::new(11),
            founders: (1..=nodes).map(member).collect(),
            configure,
            net: VecDeque::new(),
            conns: 0,
            links: BTreeMap::new(),
            leaders: BTreeMap::new(),
            committed: BTreeMap::new(),
            robbed: false,
        };
        (1..=nodes).for_each(|n| group.add(n));
        (1..=nodes).for_each(|n| group.start(n));
        group
    }

    fn add(&mut self, n: u32) {
        self.nodes.push(Node {
            disk: SimDisk::new(u64::from(n)),
            replica: None,
            fatal: None,
            holds: None,
            pace: Micros(0),
            ready_at: Micros(0),
            paused: false,
            out: Outbox::default(),
            late: Vec::new(),
            news: false,
            commit: Index::ZERO,
            boots: 0,
        });
    }

    /// A node that is no member yet, with an empty disk.
    pub(crate) fn join(&mut self) -> u32 {
        let n = self.nodes.len() as u32 + 1;
        self.add(n);
        self.start(n);
        n
    }

    pub(crate) fn node(&mut self, n: u32) -> &mut Node {
        &mut self.nodes[n as usize - 1]
    }

    pub(crate) fn replica(&self, n: u32) -> &Replica<Registry> {
        self.nodes[n as usize - 1].replica.as_ref().expect("it runs")
    }

    /// Numbers of the nodes that run.
    pub(crate) fn running(&self) -> Vec<u32> {
        let nodes = self.nodes.iter().zip(1..);
        nodes.filter(|(node, _)| node.replica.is_some()).map(|(_, n)| n).collect()
    }

    /// The leader of the highest term, if it may answer.
    pub(crate) fn leads(&self) -> Option<u32> {
        let raft = |n: &u32| self.replica(*n).raft();
        let leaders = self.running().into_iter().filter(|n| raft(n).role() == RoleKind::Leader);
        leaders.max_by_key(|n| raft(n).term()).filter(|n| raft(n).may_serve())
    }

    /// Waits for a leader that may answer.
    pub(crate) fn leader(&mut self) -> u32 {
        self.until("a leader", |group| group.leads().is_some());
        self.leads().expect("just seen")
    }

    /// A leader, and the others.
    pub(crate) fn led(&mut self) -> (u32, Vec<u32>) {
        let leader = self.leader();
        (leader, self.running().into_iter().filter(|n| *n != leader).collect())
    }

    /// Starts a node from what its disk holds.
    pub(crate) fn start(&mut self, n: u32) {
        self.try_start(n).expect("the log opens");
    }

    /// The same, where the log may be refused.
    pub(crate) fn try_start(&mut self, n: u32) -> Result<(), margay_log::Error> {
        let (now, founders) = (self.now, self.founders.clone());
        let seed = u64::from(n) << 32 | self.node(n).boots;
        let raft = Config { checked: true, ..Config::new(NodeId(n), seed) };
        let mut config = ReplicaConfig {
            settled: Micros::from_millis(3_600_000),
            snapshot_after: 1 << 40,
            snapshot_chunk: 2 << 10,
            scrub_pause: Micros(0),
            ..ReplicaConfig::new(CLUSTER, GroupId(0), founders, raft)
        };
        (self.configure)(&mut config);
        let options = Options {
            cluster: CLUSTER,
            group: GroupId(0),
            incarnation: Incarnation(u64::from(n)),
            segment_first: 64 << 10,
            segment_max: 256 << 10,
            tail_bytes: 64 << 10,
            keep_rotten: true,
            mark: Some(kind::CONFIGURATION),
            ..Options::default()
        };
        let node = self.node(n);
        assert!(node.replica.is_none(), "n{n} runs");
        node.boots += 1;
        node.commit = Index::ZERO;
        (node.fatal, node.news) = (None, true);
        let refuse = |found: &Found<'_>| is_beyond_repair(NodeId(n), &config.founders, found);
        let opened = margay_log::open_unless(&mut node.disk, options, refuse)?;
        node.replica = Some(Replica::new(config, opened, Registry::new(), now).expect("it starts"));
        Ok(())
    }

    /// The power of a node goes.
    pub(crate) fn crash(&mut self, n: u32) {
        let mut rng = self.rng.fork();
        self.node(n).disk.power_cut(&mut rng);
        self.stop(n);
    }

    /// The process of a node is gone; its disk is left alone.
    pub(crate) fn stop(&mut self, n: u32) {
        let node = self.node(n);
        node.replica = None;
        node.out = Outbox::default();
        node.late.clear();
        self.links.retain(|_, at| *at != n);
        for other in self.running() {
            let now = self.now;
            let node = self.node(other);
            let replica = node.replica.as_mut().expect("it runs");
            replica.on_peer_down(now, NodeId(n), &mut node.out);
            node.news = true;
        }
    }

    pub(crate) fn restart(&mut self, n: u32) {
        self.crash(n);
        self.start(n);
    }

    /// All links between a node and the others lose everything.
    pub(crate) fn isolate(&mut self, n: u32) {
        for other in (1..=self.nodes.len() as u32).filter(|other| *other != n) {
            self.cut.extend([(n, other), (other, n)]);
        }
    }

    pub(crate) fn heal(&mut self) {
        self.cut.clear();
    }

    /// Opens a connection to a node; nothing, if it is down.
    pub(crate) fn connect(&mut self, n: u32) -> Option<ConnId> {
        self.nodes[n as usize - 1].replica.as_ref()?;
        self.conns += 1;
        let conn = ConnId(self.conns);
        self.links.insert(conn, n);
        self.node(n).out.clients.insert(conn, Vec::new());
        Some(conn)
    }

    /// The client closes its connection.
    pub(crate) fn disconnect(&mut self, conn: ConnId) {
        let Some(n) = self.links.remove(&conn) else { return };
        let node = self.node(n);
        node.out.clients.remove(&conn);
        if let Some(replica) = &mut node.replica {
            replica.on_client_gone(conn);
            node.news = true;
        }
    }

    /// A frame of a client arrives. A process that stands still must not be spoken to.
    pub(crate) fn say(&mut self, conn: ConnId, frame: &[u8]) {
        let now = self.now;
        let Some(&n) = self.links.get(&conn) else { return };
        let node = self.node(n);
        assert!(!node.paused, "n{n} stands still");
        let Some(replica) = &mut node.replica else { return };
        let frame = wire::decode(frame).expect("a frame");
        replica.on_client(now, conn, &frame, &mut node.out).expect("clients keep the protocol");
        node.news = true;
    }

    /// What a node has sent on a connection since last asked.
    pub(crate) fn heard(&mut self, conn: ConnId) -> Vec<u8> {
        let Some(&n) = self.links.get(&conn) else { return Vec::new() };
        let node = self.node(n);
        node.out.clients.get_mut(&conn).map(std::mem::take).unwrap_or_default()
    }

    /// A few rounds of messages and disk operations.
    pub(crate) fn rounds(&mut self, count: u32) {
        (0..count).for_each(|_| self.step(Micros(u64::MAX)));
    }

    /// Time passes.
    pub(crate) fn run(&mut self, millis: u64) {
        let end = self.now.after(Micros::from_millis(millis));
        while self.now < end {
            self.step(end);
        }
    }

    /// Time passes until something is so; half a minute should be enough.
    #[track_caller]
    pub(crate) fn until(&mut self, what: &str, mut reached: impl FnMut(&mut Group) -> bool) {
        let end = self.now.after(Micros::from_millis(30_000));
        while !reached(self) {
            assert!(self.now < end, "waited for {what}\n{}", self.describe());
            self.step(end);
        }
    }

    pub(crate) fn describe(&self) -> String {
        let status = |n| format!("n{n} {:?}\n", self.replica(n).status());
        self.running().into_iter().map(status).collect()
    }

    /// One round of turns, messages and disk operations; where nothing happens, time leaps to what
    /// comes next, at most to `end`.
    fn step(&mut self, end: Micros) {
        let mut busy = false;
        for n in self.running() {
            busy |= self.turn(n);
        }
        busy |= self.deliver();
        self.check();
        let next = if busy { self.now.after(STEP) } else { self.next_deadline().min(end) };
        self.now = next.max(self.now.after(Micros(1)));
    }

    fn next_deadline(&self) -> Micros {
        let nodes = self.nodes.iter().filter(|node| !node.paused);
        let turns = nodes.filter_map(|node| {
            let disk = Some(node.ready_at).filter(|_| node.disk.in_flight().len() > 0);
            let disk = disk.filter(|_| node.holds.is_none() && node.replica.is_some());
            [node.replica.as_ref().and_then(Replica::deadline), disk].into_iter().flatten().min()
        });
        turns.chain(self.net.iter().map(|flight| flight.due)).min().unwrap_or(Micros(u64::MAX))
    }

    /// Ends a turn of a node, if there is anything to do, and lets its disk work.
    fn turn(&mut self, n: u32) -> bool {
        let now = self.now;
        let node = self.node(n);
        if node.paused {
            return false;
        }
        let Some(replica) = &mut node.replica else { return false };
        let due = replica.deadline().is_some_and(|due| due <= now);
        let mut busy = due || std::mem::take(&mut node.news);
        let mut ended = if busy { replica.flush(now, &mut node.out) } else { Ok(()) };
        node.out.ops.drain(..).for_each(|op| node.disk.submit(op));
        let free = |op: &Op| node.holds.is_none_or(|holds| !holds(op));
        let first = node.disk.in_flight().position(free);
        if let Some(first) = first.filter(|_| now >= node.ready_at) {
            node.disk.complete(first);
            node.ready_at = now.after(node.pace);
        }
        let mut done = Vec::new();
        node.disk.poll(false, &mut done);
        for done in done {
            busy = true;
            node.news = true;
            ended = ended.and_then(|()| replica.on_disk(now, done, &mut node.out));
        }
        if let Err(fatal) = ended {
            self.stop(n);
            self.node(n).fatal = Some(fatal);
            return true;
        }
        self.send(n);
        busy
    }

    /// What a node has put out goes on its way.
    fn send(&mut self, n: u32) {
        let now = self.now;
        let out = &mut self.node(n).out;
        let (peers, closing) = (std::mem::take(&mut out.peers), std::mem::take(&mut out.closing));
        for (to, frame, batch) in peers {
            let flight = Flight { due: now, from: n, to: to.0, frame, batch };
            let delay = match &mut self.weather {
                Some(weather) => weather(&flight),
                None => Some(Micros(0)),
            };
            let Some(delay) = delay else { continue };
            self.net.push_back(Flight { due: now.after(delay), ..flight });
        }
        for conn in closing {
            // What was said before stays to be read.
            if let Some(replica) = &mut self.node(n).replica {
                replica.on_client_gone(conn);
            }
        }
    }

    fn deliver(&mut self) -> bool {
        let now = self.now;
        let (due, later): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.net).into_iter().partition(|flight| flight.due <= now);
        self.net = later;
        let busy = !due.is_empty();
        for flight in due {
            self.arrive(flight);
        }
        for n in 1..=self.nodes.len() as u32 {
            if !self.node(n).paused {
                std::mem::take(&mut self.node(n).late).into_iter().for_each(|it| self.arrive(it));
            }
        }
        busy
    }

    /// A frame of a peer arrives, or is lost.
    pub(crate) fn arrive(&mut self, flight: Flight) {
        let now = self.now;
        let Flight { from, to, .. } = flight;
        if self.cut.contains(&(from, to)) || to as usize > self.nodes.len() {
            return;
        }
        let node = self.node(to);
        if node.paused {
            return node.late.push(flight);
        }
        let Some(replica) = &mut node.replica else { return };
        let batch = flight.batch.map(|batch| {
            let mut buffer = Buffer::zeroed(BATCH_OFFSET + batch.bytes().len());
            buffer[BATCH_OFFSET..][..batch.bytes().len()].copy_from_slice(batch.bytes());
            buffer
        });
        let frame = wire::decode(&flight.frame).expect("a frame");
        let heard = replica.on_peer(now, NodeId(from), &frame, batch, &mut node.out);
        assert!(matches!(heard, Ok(()) | Err(Fault::Stranger(_))), "n{from} to n{to}: {heard:?}");
        node.news = true;
    }

    fn check(&mut self) {
        for n in self.running() {
            let replica = self.replica(n);
            let (raft, commit) = (replica.raft(), replica.commit());
            if raft.role() == RoleKind::Leader {
                let term = raft.term();
                let leader = *self.leaders.entry(term).or_insert(n);
                assert_eq!(leader, n, "two leaders in {term}");
            }
            let chain = self.replica(n).log().chain_at(commit);
            let before = std::mem::replace(&mut self.node(n).commit, commit);
            assert!(before <= commit, "n{n} takes back what is committed");
            if let Some(chain) = chain.filter(|_| commit > before && !self.robbed) {
                let known = *self.committed.entry(commit).or_insert(chain);
                assert_eq!(known, chain, "n{n} commits another {commit}");
            }
        }
    }

    /// The state of a node, as a snapshot would hold it.
    pub(crate) fn state(&self, n: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut frozen = self.replica(n).machine().freeze();
        while frozen.next_chunk(1 << 20, &mut bytes) {}
        bytes
    }

    /// Waits until all that run hold the same log and have applied it, and compares their states.
    #[track_caller]
    pub(crate) fn converge(&mut self) {
        self.converge_among(&self.running());
    }

    /// The same, for some of them.
    #[track_caller]
    pub(crate) fn converge_among(&mut self, nodes: &[u32]) {
        self.until("all to hold the same", |group| {
            let Some(leader) = group.leads() else { return false };
            let last = group.replica(leader).log().last();
            nodes.iter().all(|n| {
                let replica = group.replica(*n);
                replica.log().last() == last && replica.machine().applied() == last.index
            })
        });
        for n in &nodes[1..] {
            assert!(self.state(*n) == self.state(nodes[0]), "n{n} holds another state");
        }
    }
}
