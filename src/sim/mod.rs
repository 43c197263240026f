//! A whole cluster and its clients on one thread, from one seed.
//!
//! The replicas, logs, sessions, resources and handles are those that ship; only disks, network,
//! clients' programs and time are simulated. A run has two phases: faults, drawn from the seed, and
//! then peace, in which everything must converge. After every turn what must hold is checked; at
//! the end what the clients saw is judged. The same seed gives the same run, byte for byte.
//!
//! What does not live here: sockets, files, and anything that a run could not repeat.

mod checker;
mod client;
mod cluster;
mod history;
pub mod linearizable;
mod nemesis;
mod network;
mod node;
mod trace;
mod workload;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};

use margay_log::id::Micros;

use self::checker::Checker;
use self::client::Client;
use self::cluster::{Cluster, Event};
use self::nemesis::Nemesis;
use self::network::End;
use self::trace::Trace;
use self::workload::{SharedJournal, Worker};
use crate::client::session::Output;
use crate::resource::registry::Registry;

/// What to simulate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Everything is drawn from it.
    pub seed: u64,
    /// Nodes, 1 to 7. Default 3.
    pub nodes: usize,
    /// Clients. Default 3.
    pub clients: usize,
    /// Virtual time with faults, in microseconds. Default 5 s.
    pub trouble: Micros,
    /// Virtual time after that in which everything must come to its end. Default 60 s.
    pub peace: Micros,
    /// Whether faults are made at all. Default yes.
    pub faults: bool,
    /// Print the trace.
    pub loud: bool,
}

impl Options {
    /// The defaults for a seed.
    #[must_use]
    pub fn new(seed: u64) -> Options {
        Options {
            seed,
            nodes: 3,
            clients: 3,
            trouble: Micros::from_millis(5_000),
            peace: Micros::from_millis(60_000),
            faults: true,
            loud: false,
        }
    }
}

/// What a run came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// Equal for equal runs.
    pub trace: u64,
    /// Virtual time that passed.
    pub time: Micros,
    /// Events that happened.
    pub events: u64,
    /// Operations that clients asked for.
    pub operations: u64,
    /// Of those, the ones that failed or whose outcome stayed unknown.
    pub unknown: u64,
    /// Nodes that crashed.
    pub crashes: u64,
    /// Links that were cut, and clients whose connection broke.
    pub cuts: u64,
    /// Snapshots that were finished.
    pub snapshots: u64,
    /// Snapshots that one node brought another.
    pub installs: u64,
    /// Histories whose search was given up.
    pub given_up: u64,
}

/// A property that did not hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// What should hold.
    pub property: &'static str,
    /// What was seen.
    pub details: String,
    /// The seed that shows it.
    pub seed: u64,
    /// The last events before it.
    pub last: Vec<String>,
}

impl Failure {
    pub(self) fn new(property: &'static str, details: impl Into<String>) -> Failure {
        Failure { property, details: details.into(), seed: 0, last: Vec::new() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.last {
            writeln!(f, "{line}")?;
        }
        write!(f, "seed {} violates «{}»: {}", self.seed, self.property, self.details)
    }
}

impl std::error::Error for Failure {}

/// Runs one seed.
///
/// # Errors
/// The first property that did not hold.
pub fn run(options: Options) -> Result<Summary, Failure> {
    let mut run = Run::new(options);
    // An assertion of the code under test is a finding like any other.
    let result = catch_unwind(AssertUnwindSafe(|| run.drive())).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
        Err(Failure::new("assertions hold", text))
    });
    result.map_err(|failure| Failure {
        seed: options.seed,
        last: run.cluster.trace.last(),
        ..failure
    })
}

struct Run {
    options: Options,
    cluster: Cluster<Registry>,
    clients: Vec<Client>,
    checker: Checker,
    nemesis: Nemesis,
    journal: SharedJournal,
    summary: Summary,
    peaceful: bool,
}

impl Run {
    fn new(options: Options) -> Run {
        let trace = Trace::new(options.loud);
        let mut cluster = Cluster::new(options.seed, options.nodes, Registry::new, trace);
        let journal: SharedJournal = Arc::default();
        let (now, endpoints) = (cluster.now, cluster.addresses());
        let clients = (0..options.clients)
            .map(|id| {
                let (rng, journal) = (cluster.rng.fork(), Arc::clone(&journal));
                Client::new(&mut cluster.rng, endpoints.clone(), now, |desk| {
                    let id = id as u64 + 1;
                    Box::pin(Worker { desk, rng, id, journal, written: 0 }.run())
                })
            })
            .collect();
        cluster.clients = options.clients;
        let nemesis = Nemesis::new(&mut cluster.rng);
        Run {
            options,
            cluster,
            clients,
            checker: Checker::default(),
            nemesis,
            journal,
            summary: Summary::default(),
            peaceful: false,
        }
    }

    fn drive(&mut self) -> Result<Summary, Failure> {
        let began = self.cluster.now;
        for at in 0..self.options.nodes {
            self.cluster.start(at)?;
        }
        for client in 0..self.clients.len() {
            self.cluster.schedule(Micros(0), Event::Client { client });
        }
        if self.options.faults {
            self.cluster.schedule(Micros::from_millis(100), Event::Nemesis);
        }
        let trouble_ends = began.after(self.options.trouble);
        let peace_ends = trouble_ends.after(self.options.peace);
        while let Some(event) = self.cluster.next() {
            self.summary.events += 1;
            if !self.peaceful && self.cluster.now >= trouble_ends {
                self.make_peace()?;
            }
            if self.cluster.now >= peace_ends {
                return Err(self.no_end());
            }
            self.handle(event)?;
            if self.peaceful && self.is_over() {
                break;
            }
        }
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        self.summary.given_up = history::judge(&mut journal)?;
        self.summary.operations = journal.operations;
        self.summary.unknown = journal.unknown;
        let Summary { snapshots, installs, .. } = self.cluster.counted;
        (self.summary.snapshots, self.summary.installs) = (snapshots, installs);
        self.summary.time = self.cluster.now.since(began);
        self.summary.trace = self.cluster.trace.hash();
        Ok(self.summary)
    }

    fn handle(&mut self, event: Event) -> Result<(), Failure> {
        let Some(event) = self.cluster.unless_paused(event) else { return Ok(()) };
        match event {
            Event::Peer { to, from, frame, batch } => {
                self.cluster.on_peer(to, from, &frame, batch.as_ref())?;
            }
            Event::ToNode { conn, bytes } => self.cluster.on_client_bytes(conn, &bytes)?,
            Event::ToClient { conn, bytes } => self.on_bytes(conn, &bytes),
            Event::Connected { client, conn } => self.on_connected(client, conn),
            Event::Broken { conn, at } => self.on_broken(conn, at),
            Event::Disk { node, boot } => self.cluster.on_disk(node, boot)?,
            Event::Turn { node, boot } => {
                self.cluster.on_turn(node, boot)?;
                let deep = self.cluster.rng.chance(1, 50);
                self.checker.look(&self.cluster.nodes, node, deep)?;
            }
            Event::Client { client } => {
                let now = self.cluster.now;
                if self.clients[client].wake.is_some_and(|wake| wake <= now) {
                    self.clients[client].wake = None;
                }
                self.clients[client].session.on_tick(now);
                self.run_client(client);
            }
            Event::Nemesis if !self.peaceful => {
                let next = self.nemesis.strike(&mut self.cluster, &mut self.summary)?;
                self.cluster.schedule(next, Event::Nemesis);
            }
            Event::Nemesis => {}
        }
        Ok(())
    }

    /// The end of trouble: everything is mended, and clients finish what they are at.
    fn make_peace(&mut self) -> Result<(), Failure> {
        self.peaceful = true;
        self.cluster.trace.line(self.cluster.now, format_args!("peace"));
        self.cluster.network.heal();
        self.cluster.network.weather = network::Weather::FAIR;
        for at in 0..self.options.nodes {
            self.cluster.nodes[at].paused_until = Micros(0);
            if !self.cluster.nodes[at].is_up() {
                self.cluster.start(at)?;
            }
            self.cluster.turn_soon(at);
        }
        for client in 0..self.clients.len() {
            self.clients[client].close();
            self.run_client(client);
        }
        Ok(())
    }

    /// Every client is done and every node has applied the same.
    fn is_over(&self) -> bool {
        if !self.clients.iter().all(Client::is_done) {
            return false;
        }
        let mut replicas = self.cluster.nodes.iter().map(|node| node.replica.as_ref());
        let Some(Some(first)) = replicas.next() else { return false };
        let applied = first.machine().applied();
        applied == first.log().last().index
            && replicas.all(|replica| {
                replica.is_some_and(|replica| {
                    replica.machine().applied() == applied
                        && replica.log().last() == first.log().last()
                })
            })
    }

    fn no_end(&self) -> Failure {
        let mut details = String::new();
        for node in &self.cluster.nodes {
            let Some(replica) = &node.replica else { continue };
            details.push_str(&format!("\n  {} {:?}", node.id, replica.status()));
        }
        for (at, client) in self.clients.iter().enumerate() {
            let (done, tried) = (client.is_done(), client.session.tried());
            let state = client.session.state();
            details.push_str(&format!("\n  client {at}: done {done}, {state:?}, tried {tried}"));
        }
        Failure::new("in peace everything comes to its end", details)
    }

    fn on_bytes(&mut self, conn: crate::replica::ConnId, bytes: &[u8]) {
        let now = self.cluster.now;
        let Some(link) = self.cluster.links.get(&conn) else { return };
        let client = link.client;
        if self.clients[client].link != Some(conn) {
            return;
        }
        self.clients[client].session.on_bytes(now, bytes);
        self.run_client(client);
    }

    fn on_connected(&mut self, client: usize, conn: crate::replica::ConnId) {
        if self.clients[client].link != Some(conn) {
            return;
        }
        let now = self.cluster.now;
        let Some(endpoint) = self.cluster.address_of(conn) else { return };
        self.clients[client].linked = true;
        self.clients[client].session.on_connected(now, &endpoint);
        self.run_client(client);
    }

    fn on_broken(&mut self, conn: crate::replica::ConnId, at: End) {
        let now = self.cluster.now;
        let Some(client) = self.cluster.on_broken(conn, at) else { return };
        let told = &mut self.clients[client];
        if told.link != Some(conn) {
            return;
        }
        told.link = None;
        if std::mem::take(&mut told.linked) {
            told.session.on_disconnected(now);
        } else {
            told.session.on_failed(now, "connection refused");
        }
        self.run_client(client);
    }

    /// Lets a client do what it can: its program, its session, its connection.
    fn run_client(&mut self, client: usize) {
        let now = self.cluster.now;
        for _ in 0..64 {
            self.clients[client].run(now);
            let outputs = self.clients[client].take_outputs();
            let idle = outputs.is_empty() && !self.clients[client].has_news();
            for output in outputs {
                match output {
                    Output::Connect(address) => {
                        let node = self.cluster.node_named(&address).expect("known addresses");
                        self.clients[client].link = Some(self.cluster.connect(client, node));
                        self.clients[client].linked = false;
                    }
                    Output::Disconnect => {
                        if let Some(conn) = self.clients[client].link.take() {
                            self.clients[client].linked = false;
                            self.cluster.break_link(conn, None);
                        }
                    }
                    _ => {}
                }
            }
            if idle {
                break;
            }
        }
        let bytes = std::mem::take(self.clients[client].session.outgoing());
        if let Some(conn) = self.clients[client].link.filter(|_| !bytes.is_empty()) {
            self.cluster.send_to_node(conn, bytes);
        }
        let wake = &mut self.clients[client];
        if let Some(deadline) = wake.deadline()
            && wake.wake.is_none_or(|at| deadline < at)
        {
            wake.wake = Some(deadline);
            let after = Micros(deadline.since(now).0 + 1);
            self.cluster.schedule(after, Event::Client { client });
        }
    }
}
