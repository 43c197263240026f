//! A whole cluster inside one process: for tests of programs that use margay.
//!
//! Real nodes: real logs on a real disk, real sockets on loopback. Only the processes are missing,
//! so a node here can be stopped and started, but not killed.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use margay_log::id::GroupId;

use super::embed::{ANY_PORT, Scratch, Start, reserve};
use super::{MakeGroup, Server, ServerConfig, resources};
use crate::client;
use crate::config::FOUNDERS_MAX;
use crate::error::Error;
use crate::forming::Peer;
use crate::tls::Tls;

/// How long a node is waited for when it is asked how it is.
const STATUS_TIME: Duration = Duration::from_secs(1);

/// Some nodes of one cluster, in this process; numbered from 0, named `n1`, `n2` and so on.
/// Dropped, they stop, and what they have written goes away.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut cluster = margay::server::LocalCluster::start(3)?;
/// let client = cluster.client()?;
/// client.value("greeting").wait()?.set(b"hello").wait()?;
/// cluster.stop_node(0)?;
/// assert!(client.value("greeting").wait()?.get().wait()?.is_some());
/// # Ok(())
/// # }
/// ```
pub struct LocalCluster {
    nodes: Vec<Place>,
    // After the nodes: they are in it.
    _scratch: Scratch,
}

/// A node that runs, or could.
struct Place {
    server: Option<Server>,
    start: Start,
}

/// How such a cluster is started.
#[must_use = "nothing happens before `start`"]
pub struct LocalBuilder {
    nodes: usize,
    config: ServerConfig,
    make: MakeGroup,
}

impl LocalBuilder {
    /// Raft groups. Default: one per node.
    pub fn groups(mut self, groups: u32) -> LocalBuilder {
        self.config.groups = Some(groups);
        self
    }

    /// Shards of each node. Default 1.
    pub fn shards(mut self, shards: usize) -> LocalBuilder {
        self.config.shards = Some(shards);
        self
    }

    /// Groups that run something else than margay's resources: see [`super::replica`].
    pub fn machine(mut self, make: MakeGroup) -> LocalBuilder {
        self.make = make;
        self
    }

    /// Any other option of all nodes. Name, directory, address and peers are set for each.
    pub fn configure(mut self, change: impl FnOnce(&mut ServerConfig)) -> LocalBuilder {
        change(&mut self.config);
        self
    }

    /// Starts all nodes; returns when the cluster is founded and all of them listen.
    ///
    /// # Errors
    /// See [`Error`]; nothing is left running.
    pub fn start(self) -> Result<LocalCluster, Error> {
        let LocalBuilder { nodes, config, make } = self;
        if nodes == 0 || nodes > FOUNDERS_MAX {
            return Err(Error::Config(format!("a cluster has 1 to {FOUNDERS_MAX} nodes")));
        }
        let scratch = Scratch::new()?;
        let ports = (0..nodes).map(|_| reserve(ANY_PORT)).collect::<Result<Vec<_>, Error>>()?;
        let peer = |(n, (_, address)): (usize, &(_, SocketAddr))| Peer {
            name: format!("n{}", n + 1),
            address: address.to_string(),
        };
        let peers: Vec<Peer> = ports.iter().enumerate().map(peer).collect();
        let starts = ports.into_iter().zip(&peers).map(|((fd, address), peer)| Start {
            config: ServerConfig {
                name: peer.name.clone(),
                data: scratch.path().join(&peer.name),
                listen: address,
                peers: peers.clone(),
                ..config.clone()
            },
            make: make.clone(),
            reserved: Some(fd),
            _scratch: None,
        });
        let nodes = starts.map(|start| Place { server: None, start }).collect();
        let mut cluster = LocalCluster { nodes, _scratch: scratch };
        cluster.start_all()?;
        Ok(cluster)
    }
}

impl LocalCluster {
    /// Starts so many nodes with the defaults.
    ///
    /// # Errors
    /// See [`LocalBuilder::start`].
    pub fn start(nodes: usize) -> Result<LocalCluster, Error> {
        LocalCluster::builder(nodes).start()
    }

    /// So many nodes, with options to set.
    pub fn builder(nodes: usize) -> LocalBuilder {
        let mut config = ServerConfig::new("", "");
        config.shards = Some(1);
        config.pin = false;
        LocalBuilder { nodes, config, make: resources() }
    }

    /// Each founder waits for the others, so each has a thread to wait on. Where one fails, the
    /// others wait no longer; its reason is the one that counts.
    fn start_all(&mut self) -> Result<(), Error> {
        let stop = AtomicBool::new(false);
        let start = |place: &mut Place| {
            let started = place.start.start(&stop).map(|server| place.server = Some(server));
            stop.fetch_or(started.is_err(), Ordering::SeqCst);
            started
        };
        let ended: Vec<Result<(), Error>> = thread::scope(|scope| {
            let starting: Vec<_> =
                self.nodes.iter_mut().map(|place| scope.spawn(|| start(place))).collect();
            let panicked = |_| Err(Error::Shard("a start panicked".to_owned()));
            starting.into_iter().map(|thread| thread.join().unwrap_or_else(panicked)).collect()
        });
        let is_cause =
            |ended: &Result<(), Error>| !matches!(ended, Ok(()) | Err(Error::Interrupted));
        match ended.iter().position(is_cause) {
            Some(first) => ended.into_iter().nth(first).expect("it was found there"),
            None => ended.into_iter().collect(),
        }
    }

    /// Addresses of all nodes, running or not.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        self.nodes.iter().map(|place| place.start.config.listen.to_string()).collect()
    }

    /// How many nodes it has, running or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Never: a cluster has a node.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// A client that knows all nodes.
    ///
    /// # Errors
    /// See [`client::Builder::connect`].
    pub fn client(&self) -> Result<client::Client, client::Error> {
        self.client_builder().connect()
    }

    /// The same, with options to set.
    #[must_use]
    pub fn client_builder(&self) -> client::Builder {
        client::Client::builder().endpoints(self.endpoints()).tls_if(self.tls().cloned())
    }

    fn tls(&self) -> Option<&Tls> {
        self.nodes.first()?.start.config.tls.as_ref()
    }

    /// A node, while it runs.
    #[must_use]
    pub fn node(&self, node: usize) -> Option<&Server> {
        self.nodes.get(node)?.server.as_ref()
    }

    /// The node that leads a group, if one says so now.
    #[must_use]
    pub fn leader(&self, group: GroupId) -> Option<usize> {
        let all = client::status(&self.endpoints(), self.tls(), STATUS_TIME);
        all.iter().position(|node| {
            let groups = node.groups.as_ref().map_or(&[][..], Vec::as_slice);
            let status = groups.iter().find(|status| status.group == group);
            status.is_some_and(|status| status.leader.as_ref() == Some(&status.node))
        })
    }

    /// Stops a node in order; one that is down stays so.
    ///
    /// # Errors
    /// What had stopped it before.
    ///
    /// # Panics
    /// There is no such node.
    pub fn stop_node(&mut self, node: usize) -> Result<(), Error> {
        self.nodes[node].server.take().map_or(Ok(()), Server::stop)
    }

    /// Starts a node that is down, at its address and from its directory.
    ///
    /// # Errors
    /// See [`Error`].
    ///
    /// # Panics
    /// There is no such node.
    pub fn start_node(&mut self, node: usize) -> Result<(), Error> {
        let place = &mut self.nodes[node];
        if place.server.is_none() {
            place.server = Some(place.start.start(&AtomicBool::new(false))?);
        }
        Ok(())
    }

    /// Stops a node and starts it again.
    ///
    /// # Errors
    /// See [`Error`].
    ///
    /// # Panics
    /// There is no such node.
    pub fn restart_node(&mut self, node: usize) -> Result<(), Error> {
        self.stop_node(node)?;
        self.start_node(node)
    }

    /// Stops all nodes, and removes what they have written.
    ///
    /// # Errors
    /// What had stopped one of them before; all are stopped all the same.
    pub fn stop(mut self) -> Result<(), Error> {
        let stopped = self.nodes.iter_mut().filter_map(|place| place.server.take());
        stopped.map(Server::stop).fold(Ok(()), Result::and)
    }
}
