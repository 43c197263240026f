//! One run: the cluster, its clients, faults and checks, from the first event to the verdict.

use margay_log::id::Micros;
use margay_log::rng::Rng;

use super::checker::Checker;
use super::client::Client;
use super::cluster::{Cluster, Event};
use super::nemesis::Nemesis;
use super::network::End;
use super::trace::Trace;
use super::workload::Running;
use super::{Failure, Faults, Focus, Options, Summary};
use crate::client::session::Output;
use crate::machine::StateMachine;
use crate::replica::ConnId;

/// What is simulated.
pub(super) struct Subject<S> {
    /// The machine at the beginning.
    pub state: fn() -> S,
    /// What must hold for each of its states.
    pub invariant: fn(&S) -> Result<(), String>,
    /// What the clients do.
    pub workloads: Draw,
}

/// Draws what clients do, or some of it that a focus names.
pub(super) type Draw = fn(&mut Rng, Option<Focus>) -> Vec<Box<dyn Running>>;

/// Events that are to come, at most: where each message brings two there is no end.
const UNDER_WAY_MAX: usize = 100_000;

/// See the module's text.
pub(super) struct Run<S: StateMachine> {
    options: Options,
    pub(super) cluster: Cluster<S>,
    clients: Vec<Client>,
    workloads: Vec<Box<dyn Running>>,
    checker: Checker<S>,
    nemesis: Nemesis<S>,
    events: u64,
    /// Clients that came so far.
    came: u64,
    peaceful: bool,
}

fn new_client<S: StateMachine>(
    cluster: &mut Cluster<S>,
    workloads: &[Box<dyn Running>],
    id: u64,
) -> Client {
    let (now, endpoints, mut rng) = (cluster.now, cluster.addresses(), cluster.rng.fork());
    // Every third client only reads, where that makes sense: it has no session to wait for.
    let readers = workloads.iter().any(|kind| kind.reads());
    let only_reads = readers && id.is_multiple_of(3) && rng.chance(2, 3);
    Client::new(&mut cluster.rng, endpoints, now, |desk| {
        let kinds = workloads.iter().filter(|kind| !only_reads || kind.reads());
        kinds.map(|kind| kind.program(desk.clone(), rng.fork(), id, only_reads)).collect()
    })
}

impl<S: StateMachine> Run<S> {
    pub(super) fn new(options: Options, full: bool, subject: Subject<S>) -> Run<S> {
        let Subject { state, invariant, workloads } = subject;
        let trace = Trace::new(options.loud, full);
        let mut cluster = Cluster::new(options.seed, options.nodes, state, trace);
        let workloads = workloads(&mut cluster.rng, options.focus);
        let came = options.clients as u64;
        let clients = (1..=came).map(|id| new_client(&mut cluster, &workloads, id)).collect();
        cluster.clients = options.clients;
        let nemesis = match options.faults {
            Faults::Laggard => Nemesis::laggard(Micros(options.trouble.0 / 2)),
            Faults::Drawn | Faults::None => Nemesis::new(&mut cluster.rng, options.focus),
        };
        Run {
            options,
            cluster,
            clients,
            workloads,
            checker: Checker::new(invariant),
            nemesis,
            events: 0,
            came,
            peaceful: false,
        }
    }

    /// Runs to the end.
    pub(super) fn drive(&mut self) -> Result<Summary, Failure> {
        let began = self.cluster.now;
        let kinds: Vec<&str> = self.workloads.iter().map(|kind| kind.name()).collect();
        let calm = self.options.faults == Faults::None;
        let faults = if calm { Vec::new() } else { self.nemesis.names() };
        self.cluster.trace.line(began, format_args!("clients use {}", kinds.join(", ")));
        self.cluster.trace.line(began, format_args!("faults: {}", faults.join(", ")));
        for at in 0..self.options.nodes {
            self.cluster.start(at)?;
        }
        for client in 0..self.clients.len() {
            self.cluster.schedule(Micros(0), Event::Client { client });
        }
        if !calm {
            self.cluster.schedule(Micros::from_millis(100), Event::Nemesis);
        }
        let mut trouble_ends = began.after(self.options.trouble);
        let reigns = faults.contains(&"short reigns") || faults.contains(&"unheard leaders");
        if reigns || self.options.focus.is_some() {
            // Little else happens while leaders come and go, or faults wait for their moment.
            trouble_ends = trouble_ends.after(self.options.trouble);
        }
        let peace_ends = trouble_ends.after(self.options.peace);
        while let Some(event) = self.cluster.next() {
            self.events += 1;
            if self.cluster.under_way() > UNDER_WAY_MAX {
                return Err(Failure::new("messages do not multiply", self.describe()));
            }
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
        for node in &self.cluster.nodes {
            self.checker.compare_state(node)?;
        }
        let mut summary = Summary {
            trace: self.cluster.trace.hash(),
            time: self.cluster.now.since(began),
            events: self.events,
            faults: self.nemesis.struck().clone(),
            ..Summary::default()
        };
        for kind in &self.workloads {
            summary.given_up += kind.judge()?;
            summary.operations += kind.tally().operations;
            summary.unknown += kind.tally().unknown;
        }
        let Summary { snapshots, installs, .. } = self.cluster.counted;
        (summary.snapshots, summary.installs) = (snapshots, installs);
        Ok(summary)
    }

    fn handle(&mut self, event: Event) -> Result<(), Failure> {
        let Some(event) = self.cluster.unless_paused(event) else { return Ok(()) };
        self.cluster.note(&event);
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
                self.look(node)?;
            }
            Event::Wake { node, boot, due } => {
                self.cluster.on_wake(node, boot, due)?;
                self.look(node)?;
            }
            Event::Client { client } => {
                let now = self.cluster.now;
                if self.clients[client].wake.is_some_and(|wake| wake <= now) {
                    self.clients[client].wake = None;
                }
                self.clients[client].session.on_tick(now);
                self.run_client(client);
            }
            Event::Replace { client, farewell } if !self.peaceful => {
                self.replace_client(client, farewell);
            }
            Event::Crash { node, boot } => {
                if self.cluster.nodes[node].boot == boot && self.cluster.nodes[node].is_up() {
                    self.cluster.crash_for(node, 600_000);
                }
            }
            Event::Start { node, boot } => {
                let down = &self.cluster.nodes[node];
                if down.boot == boot && !down.is_up() && !down.gone {
                    self.cluster.start(node)?;
                }
            }
            Event::Late { node, op } => {
                let mut rng = self.cluster.rng.fork();
                self.cluster.nodes[node].disk.land(op, &mut rng);
            }
            Event::Isolate { node, cut } if !self.peaceful => self.cluster.isolate(node, cut),
            Event::Heal => self.cluster.network.heal(),
            Event::Replace { .. } | Event::Isolate { .. } => {}
            Event::Nemesis if !self.peaceful => {
                let next = self.nemesis.strike(&mut self.cluster)?;
                self.cluster.schedule(next, Event::Nemesis);
            }
            Event::Nemesis => {}
            Event::Sequel { of, node } if !self.peaceful => {
                self.nemesis.sequel(&mut self.cluster, of, node)?;
            }
            Event::Sequel { .. } => {}
        }
        Ok(())
    }

    /// After a node's turn: what must hold is checked, and faults see what has changed.
    fn look(&mut self, node: usize) -> Result<(), Failure> {
        self.checker.look(&self.cluster.nodes, node)?;
        if self.peaceful || self.options.faults == Faults::None {
            self.cluster.role_changed.clear();
            return Ok(());
        }
        self.nemesis.see_roles(&mut self.cluster)
    }

    /// The end of trouble: everything is mended, and clients finish what they are at.
    fn make_peace(&mut self) -> Result<(), Failure> {
        self.peaceful = true;
        self.cluster.trace.line(self.cluster.now, format_args!("peace"));
        self.cluster.network.heal();
        if self.options.faults != Faults::None {
            self.nemesis.mend(&mut self.cluster)?;
        }
        for at in 0..self.cluster.nodes.len() {
            if !self.cluster.nodes[at].is_up() && !self.cluster.nodes[at].gone {
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

    /// A client goes and another comes. What was under way is over for it: its outcome is noted
    /// first.
    fn replace_client(&mut self, client: usize, farewell: bool) {
        let now = self.cluster.now;
        self.cluster.trace.line(now, format_args!("client {client} goes, farewell {farewell}"));
        self.clients[client].leave(now);
        if farewell {
            self.run_client(client);
        }
        while self.clients[client].has_news() {
            self.clients[client].run(now);
            self.clients[client].take_outputs();
        }
        if let Some(conn) = self.clients[client].link.take() {
            self.cluster.break_link(conn, None);
        }
        self.came += 1;
        self.clients[client] = self.new_client(self.came);
        self.run_client(client);
    }

    fn new_client(&mut self, id: u64) -> Client {
        new_client(&mut self.cluster, &self.workloads, id)
    }

    /// Every client is done and every member has applied the same; no change is under way.
    fn is_over(&self) -> bool {
        if !self.clients.iter().all(Client::is_done) {
            return false;
        }
        let leader = self.cluster.leader().and_then(|at| self.cluster.nodes[at].replica.as_ref());
        let Some(leader) = leader.filter(|leader| leader.raft().may_change().is_ok()) else {
            return false;
        };
        let members = leader.members().current();
        let stays = |id| members.member(id).is_some();
        let staying = self.cluster.nodes.iter().filter(|node| !node.gone && stays(node.id));
        let mut replicas = staying.map(|node| node.replica.as_ref());
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
        Failure::new("in peace everything comes to its end", self.describe())
    }

    fn describe(&self) -> String {
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
        details
    }

    fn on_bytes(&mut self, conn: ConnId, bytes: &[u8]) {
        let now = self.cluster.now;
        let Some(link) = self.cluster.links.get(&conn) else { return };
        let client = link.client;
        if self.clients[client].link != Some(conn) {
            return;
        }
        self.clients[client].session.on_bytes(now, bytes);
        self.run_client(client);
    }

    fn on_connected(&mut self, client: usize, conn: ConnId) {
        if self.clients[client].link != Some(conn) {
            return;
        }
        let now = self.cluster.now;
        let Some(endpoint) = self.cluster.address_of(conn) else { return };
        self.clients[client].linked = true;
        self.clients[client].session.on_connected(now, &endpoint);
        self.run_client(client);
    }

    fn on_broken(&mut self, conn: ConnId, at: End) {
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
