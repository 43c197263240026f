//! A node inside a program: the same server, the same client, no second process.
//!
//! What lives here: choosing a directory and a port, starting, stopping and starting again. What
//! does not: signals and logging, which belong to the program.

use std::fs::DirBuilder;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use super::{MakeGroup, Server, ServerConfig, resources};
use crate::client;
use crate::error::Error;
use crate::forming::Peer;
use crate::resource::own::{OwnType, RegisterError, register};
use crate::shard::sys;

/// A node in this process. Dropped, it stops in order.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let node = margay::server::Node::builder().data("/var/lib/app/margay").start()?;
/// let client = node.client()?;
/// client.counter("starts").wait()?.add_and_get(1).wait()?;
/// client.close()?;
/// node.stop()?;
/// # Ok(())
/// # }
/// ```
pub struct Node {
    // Ends before the directory goes.
    server: Server,
    start: Start,
}

/// How a node in this process is started. Blocking: inside a runtime, start it on a thread that may
/// wait.
#[must_use = "nothing happens before `start`"]
pub struct NodeBuilder {
    config: ServerConfig,
    make: MakeGroup,
    place: Option<Place>,
}

enum Place {
    Kept(PathBuf),
    Temporary,
}

/// All that it takes to start a node, once and again.
pub(super) struct Start {
    pub(super) config: ServerConfig,
    pub(super) make: MakeGroup,
    /// Keeps the port that the kernel has chosen, also while the node is down.
    pub(super) reserved: Option<OwnedFd>,
    /// Goes with the node.
    pub(super) _scratch: Option<Scratch>,
}

impl Node {
    /// Begins with the defaults: a cluster of one, on a port of loopback that the kernel chooses,
    /// one shard, not pinned.
    pub fn builder() -> NodeBuilder {
        let mut config = ServerConfig::new("n1", "");
        config.listen = ANY_PORT;
        config.shards = Some(1);
        config.pin = false;
        NodeBuilder { config, make: resources(), place: None }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// The server, for its numbers.
    #[must_use]
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// A client of its cluster that begins with this node.
    ///
    /// # Errors
    /// See [`client::Builder::connect`].
    pub fn client(&self) -> Result<client::Client, client::Error> {
        self.client_builder().connect()
    }

    /// The same, with options to set.
    #[must_use]
    pub fn client_builder(&self) -> client::Builder {
        let builder = client::Client::builder().endpoints([self.address().to_string()]);
        builder.tls_if(self.start.config.tls.clone())
    }

    /// Stops in order: no more connections, everything under way cancelled and reaped, then
    /// dropped. The node stays a member and takes up where it was when it is started again. A
    /// temporary directory goes now.
    ///
    /// # Errors
    /// What had stopped it before, if something had.
    pub fn stop(self) -> Result<(), Error> {
        self.server.stop()
    }

    /// Stops, and starts again from what is on its disk, at the same address.
    ///
    /// # Errors
    /// What had stopped it before, or why it does not start again: then it is down.
    pub fn restart(self) -> Result<Node, Error> {
        let Node { server, start } = self;
        server.stop()?;
        Ok(Node { server: start.start(&AtomicBool::new(false))?, start })
    }
}

impl NodeBuilder {
    /// Where its identity and its logs are.
    pub fn data(mut self, directory: impl Into<PathBuf>) -> NodeBuilder {
        self.place = Some(Place::Kept(directory.into()));
        self
    }

    /// Everything in a directory of its own that goes away with the node: for tests.
    pub fn temporary(mut self) -> NodeBuilder {
        self.place = Some(Place::Temporary);
        self
    }

    /// Its name, unique in the cluster. Default `n1`.
    pub fn name(mut self, name: impl Into<String>) -> NodeBuilder {
        self.config.name = name.into();
        self
    }

    /// Where it listens. Default: a port of 127.0.0.1 that the kernel chooses.
    pub fn listen(mut self, address: SocketAddr) -> NodeBuilder {
        self.config.listen = address;
        self
    }

    /// The founders of its cluster, this node among them; in other processes or in this one. Start
    /// the nodes of one process at the same time: each waits for the others.
    pub fn peers(mut self, peers: impl IntoIterator<Item = Peer>) -> NodeBuilder {
        self.config.peers = peers.into_iter().collect();
        self
    }

    /// Threads, each with an executor and a ring. Default 1.
    pub fn shards(mut self, shards: usize) -> NodeBuilder {
        self.config.shards = Some(shards);
        self
    }

    /// Raft groups, fixed when the cluster is founded. Default: one per shard of each node.
    pub fn groups(mut self, groups: u32) -> NodeBuilder {
        self.config.groups = Some(groups);
        self
    }

    /// A type of resource of the program's own, beside margay's. All nodes of the cluster must have
    /// it. Register it with [`register`] where nodes are not started here.
    ///
    /// # Errors
    /// Its number is margay's, or another type's.
    pub fn resource<T: OwnType>(self) -> Result<NodeBuilder, RegisterError> {
        register::<T>().map(|()| self)
    }

    /// Groups that run something else than margay's resources: see [`super::replica`].
    pub fn machine(mut self, make: MakeGroup) -> NodeBuilder {
        self.make = make;
        self
    }

    /// Any other option.
    pub fn configure(mut self, change: impl FnOnce(&mut ServerConfig)) -> NodeBuilder {
        change(&mut self.config);
        self
    }

    /// Starts it; returns when it listens and its cluster is founded.
    ///
    /// # Errors
    /// See [`Error`]; nothing is left running.
    pub fn start(self) -> Result<Node, Error> {
        let start = self.prepare()?;
        Ok(Node { server: start.start(&AtomicBool::new(false))?, start })
    }

    fn prepare(self) -> Result<Start, Error> {
        let NodeBuilder { mut config, make, place } = self;
        let scratch = match place {
            Some(Place::Kept(directory)) => {
                config.data = directory;
                None
            }
            Some(Place::Temporary) => {
                let scratch = Scratch::new()?;
                config.data = scratch.path().join(&config.name);
                Some(scratch)
            }
            None => {
                let why = "no directory: say data(…), or temporary() in a test";
                return Err(Error::Config(why.to_owned()));
            }
        };
        let reserved = match config.listen.port() {
            0 => {
                let (fd, address) = reserve(config.listen)?;
                config.listen = address;
                Some(fd)
            }
            _ => None,
        };
        Ok(Start { config, make, reserved, _scratch: scratch })
    }
}

impl Start {
    /// `stop` ends the waiting for other founders.
    pub(super) fn start(&self, stop: &AtomicBool) -> Result<Server, Error> {
        let listen = if self.reserved.is_some() { listen_where_reserved } else { super::listen };
        Server::start_with(&self.config, listen, self.make.clone(), stop)
    }
}

/// A port of this machine that the kernel chooses.
pub(super) const ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Takes a port nobody else will get while the descriptor is open.
pub(super) fn reserve(address: SocketAddr) -> Result<(OwnedFd, SocketAddr), Error> {
    let error = |e: std::io::Error| Error::Listen { address, cause: e.to_string() };
    let fd = sys::reserve(address).map_err(error)?;
    let copy = TcpListener::from(fd.try_clone().map_err(error)?);
    let address = copy.local_addr().map_err(error)?;
    Ok((fd, address))
}

fn listen_where_reserved(address: SocketAddr) -> Result<OwnedFd, Error> {
    sys::listen(address).map_err(|e| Error::Listen { address, cause: e.to_string() })
}

/// A directory that goes away when this is dropped.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new() -> Result<Scratch, Error> {
        let parent = std::env::temp_dir();
        let random = sys::random_u64().map_err(|e| Error::data("no random name in", &parent, e))?;
        let path = parent.join(format!("margay-{random:016x}"));
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|e| Error::data("cannot make", &path, e))?;
        Ok(Scratch(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!("cannot remove {}: {e}", self.0.display());
        }
    }
}
