//! A node of a cluster: everything from the options to the last descriptor closed.
//!
//! Boot: look at the machine, lock the directory, know who one is, found the cluster, open the
//! logs, start the shards. Stop: accept no more, cancel, reap until nothing is in flight, drop.
//! Stopping is not leaving: the node stays a member and takes up where it was.

mod cluster;
mod directory;
mod embed;
mod founding;
mod group;
mod join;
mod local;
mod lookups;
mod options;
mod signals;
mod twin;

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use margay_log::disk::DiskError;
use margay_log::disk::direct::Direct;
use margay_log::disk::driver::Driver;
use margay_log::id::{ClusterId, GroupId, Micros, NodeId};
use margay_log::recover::Storage;
use margay_log::{Found, Opened};

use crate::config;
use crate::error::Error;
use crate::forming::{Founder, Peer};
use crate::replica::{address_of, is_beyond_repair};
pub use crate::shard::Group;
pub use crate::shard::preflight;
use crate::shard::{self, Plan, Running, driver_tag, start, sys};
use crate::tls::Tls;
pub use embed::{Node, NodeBuilder};
pub use group::{replica, resources, run};
pub use local::{LocalBuilder, LocalCluster};

use cluster::belong;
use directory::Directory;
use lookups::Lookups;
use options::check;
use preflight::{Finding, Level};
use signals::SignalWatch;

/// How a node is started.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Its name, unique in the cluster.
    pub name: String,
    /// Where its identity and its logs are.
    pub data: PathBuf,
    /// Where it listens, for clients and peers.
    pub listen: SocketAddr,
    /// The founders, this node among them; empty for a cluster of one.
    pub peers: Vec<Peer>,
    /// Nodes of a cluster to join, as `host:port`; used until this node belongs to one.
    pub join: Vec<String>,
    /// Where others reach this node, as `host:port`, if that is not where it listens. A founder is
    /// where `peers` says.
    pub advertise: Option<String>,
    /// Number of groups, or decided at the founding: nodes × shards of the smallest.
    pub groups: Option<u32>,
    /// Number of shards, or as many as there are CPUs for this process.
    pub shards: Option<usize>,
    /// CPUs to pin shards to, in order; otherwise they are pinned where there are enough.
    pub cpus: Option<Vec<usize>>,
    /// Who this node is and whom it trusts: its connections are encrypted then, and both ends show
    /// certificates.
    pub tls: Option<Tls>,
    /// Listen on a public address although nobody is authenticated.
    pub unsafe_no_auth: bool,
    /// Look for work this long before sleeping, in microseconds, where that has paid off lately; 0
    /// never.
    pub spin_us: u32,
    /// A group takes a snapshot when what was applied since its last takes this many bytes of disk,
    /// or as many as that one has, whichever is more; some voters wait for up to half as many more,
    /// so that not all of them are at it at once. The log behind the last but one is kept. Default
    /// 64 MiB, at least 64 KiB.
    pub snapshot_after: u64,
    /// Whether leaders answer reads at level lease by their lease; off, these take a round like
    /// linearizable ones. Off where clocks stop with the machine.
    pub lease: bool,
    /// Pin shards to CPUs where there are enough. Off where several nodes share a machine, or a
    /// program has other work for its CPUs.
    pub pin: bool,
}

impl ServerConfig {
    /// A node alone on this machine, with its data in `data`.
    #[must_use]
    pub fn new(name: impl Into<String>, data: impl Into<PathBuf>) -> ServerConfig {
        ServerConfig {
            name: name.into(),
            data: data.into(),
            listen: config::LISTEN,
            peers: Vec::new(),
            join: Vec::new(),
            advertise: None,
            groups: None,
            shards: None,
            cpus: None,
            tls: None,
            unsafe_no_auth: false,
            spin_us: 0,
            snapshot_after: config::SNAPSHOT_AFTER,
            lease: true,
            pin: true,
        }
    }
}

/// What a group is made from.
pub struct Seed {
    /// The cluster.
    pub cluster: ClusterId,
    /// The group.
    pub group: GroupId,
    /// This node.
    pub node: NodeId,
    /// The nodes that founded the cluster; node 1 is the first.
    pub founders: Vec<Founder>,
    /// What the log holds.
    pub opened: Opened,
    /// See [`ServerConfig::snapshot_after`].
    pub snapshot_after: u64,
    /// See [`ServerConfig::lease`].
    pub lease: bool,
}

/// Makes the groups of a node, each on the thread of its shard. The last argument is the time.
pub type MakeGroup = Arc<dyn Fn(Seed, Micros) -> Result<Box<dyn Group>, Error> + Send + Sync>;

/// A node that serves.
pub struct Server {
    node: Arc<shard::Node>,
    running: Vec<Running>,
    address: SocketAddr,
    notes: Vec<String>,
    _lookups: Lookups,
    /// Held until the last shard has ended.
    _directory: Directory,
}

/// Counters of all shards of a node, added up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Turns of the loops.
    pub turns: u64,
    /// Completions of the rings.
    pub completions: u64,
    /// Frames received.
    pub frames: u64,
    /// Sleeps.
    pub parks: u64,
    /// Wake-ups well after their deadline; should be 0.
    pub late_wakes: u64,
    /// Turns over the alarm.
    pub long_turns: u64,
    /// The longest turn of any shard, in microseconds.
    pub longest_turn_us: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Connections refused.
    pub refused: u64,
    /// Connections closed for what came over them.
    pub faults: u64,
    /// Connections open now.
    pub open: u64,
}

impl Server {
    /// Starts a node whose groups are made by `make`; returns when it listens. `stop` ends the
    /// waiting for other founders.
    ///
    /// # Errors
    /// See [`Error`]; nothing is left running.
    pub fn start(
        config: &ServerConfig,
        make: MakeGroup,
        stop: &AtomicBool,
    ) -> Result<Server, Error> {
        Server::start_with(config, listen, make, stop)
    }

    /// The same with a way of its own to the listener.
    fn start_with(
        config: &ServerConfig,
        listen: fn(SocketAddr) -> Result<OwnedFd, Error>,
        make: MakeGroup,
        stop: &AtomicBool,
    ) -> Result<Server, Error> {
        let (shards, cpus) = check(config)?;
        let mut notes = inspect(preflight::machine(shards))?;
        let listener = listen(config.listen)?;
        let address = local_address(&listener, config.listen)?;
        let directory = Directory::open(&config.data, &config.name)?;
        notes.extend(inspect(vec![preflight::directory(directory.path())])?);

        let (record, id) = belong(config, &directory, address, shards, &listener, stop)?;
        let own = (id, directory.incarnation);
        let (port, tls) = (address.port(), config.tls.clone());
        let node = shard::Node::new(&record, own, port, shards, connections(), tls);
        let node = node.map(Arc::new).map_err(|e| Error::executor(&e))?;
        let peers = if config.peers.is_empty() { record.peers() } else { config.peers.clone() };
        for peer in &peers {
            // One that cannot be found now is looked for again; the others may be enough.
            if let Some(id) = record.node(&peer.name) {
                node.resolve(id, &peer.address);
            }
        }
        let plans = plan(config, &directory, &node, listener, address, &cpus, &make)?;
        let lookups = Lookups::begin(&node)?;
        let running = start(&node, plans)?;
        Ok(Server { node, running, address, notes, _lookups: lookups, _directory: directory })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The cluster.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.node.cluster
    }

    /// This node's number.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node.id
    }

    /// Number of groups of the cluster.
    #[must_use]
    pub fn groups(&self) -> u32 {
        self.node.groups
    }

    /// Number of shards of this node.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.node.shards
    }

    /// What is unusual about this machine, one line each.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// What its shards have counted.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let sum = |count: fn(&shard::Counters) -> u64| self.node.counters.iter().map(count).sum();
        let longest = self.node.counters.iter().map(|counters| counters.longest.get());
        Stats {
            turns: sum(|c| c.turns.get()),
            completions: sum(|c| c.completions.get()),
            frames: sum(|c| c.frames.get()),
            parks: sum(|c| c.parks.get()),
            late_wakes: sum(|c| c.late.get()),
            long_turns: sum(|c| c.long_turns.get()),
            longest_turn_us: longest.max().unwrap_or(0),
            accepted: sum(|c| c.accepted.get()),
            refused: sum(|c| c.refused.get()),
            faults: sum(|c| c.faults.get()),
            open: self.node.limits.open() as u64,
        }
    }

    /// Waits until a signal arrives or a shard has failed.
    fn watch(&self, signals: &SignalWatch) {
        const FOREVER: i32 = -1;
        while !self.node.is_stopping() && !signals.stop.load(Ordering::SeqCst) {
            sys::wait_readable(&[signals.arrived().as_fd(), self.node.failed.as_fd()], FOREVER);
        }
    }

    /// Stops in order and returns when the last shard has ended.
    ///
    /// # Errors
    /// What had stopped it before, if something had.
    pub fn stop(mut self) -> Result<(), Error> {
        self.end()
    }

    fn end(&mut self) -> Result<(), Error> {
        self.node.stop();
        shard::join(std::mem::take(&mut self.running));
        self.node.failure().map_or(Ok(()), Err)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // An error was logged when it happened; `stop` is the way to see it.
        let _ = self.end();
    }
}

/// Runs a node with groups made by `make` until SIGTERM or SIGINT, or until it must not go on. A
/// second signal ends the process at once.
///
/// # Errors
/// See [`Error`] and [`Error::exit_code`].
pub fn run_with(
    config: &ServerConfig,
    make: MakeGroup,
    on_ready: impl FnOnce(&Server),
) -> Result<(), Error> {
    let signals = SignalWatch::begin()?;
    let server = Server::start(config, make, &signals.stop)?;
    on_ready(&server);
    server.watch(&signals);
    tracing::info!("stopping");
    server.stop()
}

/// Problems end the start; warnings become notes.
fn inspect(findings: Vec<Finding>) -> Result<Vec<String>, Error> {
    let problem = findings.iter().find(|finding| finding.level == Level::Problem);
    if let Some(problem) = problem {
        return Err(Error::Preflight(problem.to_string()));
    }
    let warnings = findings.iter().filter(|finding| finding.level == Level::Warning);
    Ok(warnings.map(ToString::to_string).collect())
}

/// Listens where nobody else does. A process that was killed may hold its port for a moment longer:
/// the kernel takes its ring down after it.
fn listen(address: SocketAddr) -> Result<OwnedFd, Error> {
    let until = Instant::now() + Duration::from_micros(config::LISTEN_TIME.0);
    let mut free = sys::probe_address(address);
    while free.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::AddrInUse)
        && Instant::now() < until
    {
        std::thread::sleep(Duration::from_micros(config::LISTEN_PAUSE.0));
        free = sys::probe_address(address);
    }
    let cause = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::AddrInUse => {
            "somebody listens there already; stop it, or use another --listen".to_owned()
        }
        std::io::ErrorKind::AddrNotAvailable => {
            "this machine has no such address; --listen needs one of its own".to_owned()
        }
        std::io::ErrorKind::PermissionDenied => {
            "ports below 1024 need CAP_NET_BIND_SERVICE; use another --listen".to_owned()
        }
        _ => e.to_string(),
    };
    free.and_then(|()| sys::listen(address)).map_err(|e| Error::Listen { address, cause: cause(e) })
}

/// The address with the port that the system chose, where it was 0.
fn local_address(listener: &OwnedFd, address: SocketAddr) -> Result<SocketAddr, Error> {
    let error = |e: std::io::Error| Error::Listen { address, cause: e.to_string() };
    let copy = TcpListener::from(listener.try_clone().map_err(error)?);
    copy.local_addr().map_err(error)
}

/// Connections this process has descriptors for.
fn connections() -> usize {
    let files = sys::raise_limit(sys::Limit::Files).unwrap_or(1_024);
    let spare = files.saturating_sub(config::FILES_RESERVED).max(64);
    config::CONNECTIONS_MAX.min(usize::try_from(spare).unwrap_or(usize::MAX))
}

/// Opens all logs and divides them over the shards.
fn plan(
    config: &ServerConfig,
    directory: &Directory,
    node: &Arc<shard::Node>,
    listener: OwnedFd,
    address: SocketAddr,
    cpus: &[usize],
    make: &MakeGroup,
) -> Result<Vec<Plan>, Error> {
    let mut plans = Vec::new();
    let mut first = Some(listener);
    for index in 0..node.shards {
        let listener = match first.take() {
            Some(listener) => listener,
            None => {
                sys::listen(address).map_err(|e| Error::Listen { address, cause: e.to_string() })?
            }
        };
        let spin = if cpus.is_empty() { Micros(0) } else { Micros(config.spin_us.into()) };
        let cpu = cpus.get(index).copied();
        plans.push(Plan { index, listener, cpu, spin, groups: Vec::new() });
    }
    let are_made = directory.has_groups();
    for group in (0..node.groups).map(GroupId) {
        let shard = group.0 as usize % node.shards;
        let slot = plans[shard].groups.len();
        let path = directory.group(group);
        let (opened, driver, known) = open_log(node, group, &path, slot, are_made)?;
        if let (GroupId(0), Some(known)) = (group, &known) {
            let listeners: Vec<&OwnedFd> = plans.iter().map(|plan| &plan.listener).collect();
            twin::refuse(
                &config.name,
                node.incarnation,
                known,
                address,
                &listeners,
                config.tls.as_ref(),
            )?;
        }
        let seed = Seed {
            cluster: node.cluster,
            group,
            node: node.id,
            founders: node.founders.clone(),
            opened,
            snapshot_after: config.snapshot_after,
            lease: config.lease,
        };
        let make = Arc::clone(make);
        plans[shard].groups.push((group, driver, Box::new(move |now| make(seed, now))));
    }
    if !are_made {
        directory.set_groups(node.groups)?;
    }
    Ok(plans)
}

/// The log of a group, what drives it, and where the cluster knows this node, as the log tells.
fn open_log(
    node: &shard::Node,
    group: GroupId,
    path: &Path,
    slot: usize,
    is_made: bool,
) -> Result<(Opened, Driver, Option<String>), Error> {
    let failed = |cause: String| Error::Log { group: group.0, cause };
    let options = margay_log::Options {
        cluster: node.cluster,
        group,
        incarnation: node.incarnation,
        keep_rotten: true,
        spare_bytes: config::SPARE_BYTES,
        mark: Some(crate::machine::kind::CONFIGURATION),
        ..margay_log::Options::default()
    };
    let mut files = Direct::open(path).map_err(|e| failed(e.to_string()))?;
    if is_made && begins_anew(&mut files).map_err(|e| failed(e.to_string()))? {
        let why = "the log of this group is gone, and with it what this node has acknowledged; \
                   restore it as it was";
        return Err(Error::lost(path, why));
    }
    let founders = group::founding(node.founders.clone());
    let refuse = |found: &Found<'_>| is_beyond_repair(node.id, &founders, found);
    let opened = margay_log::open_unless(&mut files, options, refuse);
    let opened = opened.map_err(|e| {
        failed(if e.is_loss() { format!("{e}, {}", Error::REJOIN) } else { e.to_string() })
    })?;
    let known = address_of(node.id, &founders, &opened);
    Ok((opened, Driver::new(files, u64::from(driver_tag(slot)) << 48), known))
}

/// Whether there is no log in the directory, so that opening makes one.
fn begins_anew(files: &mut Direct) -> Result<bool, DiskError> {
    Ok(files.hard_state()?.is_none() && files.segments()?.is_empty())
}
