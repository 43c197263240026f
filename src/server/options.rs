//! What a node may be started with: impossible options are refused before anything is made.

use std::net::SocketAddr;

use super::ServerConfig;
use crate::config;
use crate::error::Error;
use crate::forming::{self, Peer};
use crate::shard::sys;
use crate::tls::Role;

/// Shards, and the CPUs they are pinned to (none: they are not). Refuses what cannot be.
pub(super) fn check(config: &ServerConfig) -> Result<(usize, Vec<usize>), Error> {
    forming::check_name(&config.name)
        .map_err(|why| Error::Config(format!("--name {}: {why}", config.name)))?;
    match &config.tls {
        Some(tls) if tls.role() != Role::Node => {
            let name = Role::Node.name();
            return Err(Error::Config(format!(
                "--tls: the certificate is no node's; one for {name} is needed"
            )));
        }
        None if !config.listen.ip().is_loopback() && !config.unsafe_no_auth => {
            return Err(Error::PublicBind(config.listen));
        }
        _ => {}
    }
    check_peers(config)?;
    check_reach(config)?;
    check_join(config)?;
    let available = sys::cpus_available().unwrap_or_default();
    let shards = config.shards.or(config.cpus.as_ref().map(Vec::len)).unwrap_or(available.len());
    let shards = if config.shards.is_none() { shards.max(1) } else { shards };
    if shards == 0 || shards > config::SHARDS_MAX {
        let max = config::SHARDS_MAX;
        return Err(Error::Config(format!("--shards {shards}: between 1 and {max}")));
    }
    if config.groups.is_some_and(|groups| groups == 0 || groups > config::GROUPS_MAX) {
        let (groups, max) = (config.groups.unwrap_or(0), config::GROUPS_MAX);
        return Err(Error::Config(format!("--groups {groups}: between 1 and {max}")));
    }
    if config.snapshot_after < config::SNAPSHOT_AFTER_MIN {
        let (after, least) = (config.snapshot_after, config::SNAPSHOT_AFTER_MIN);
        return Err(Error::Config(format!("--snapshot-after {after}: at least {least} bytes")));
    }
    let cpus = match &config.cpus {
        Some(cpus) if cpus.len() < shards => {
            let count = cpus.len();
            return Err(Error::Config(format!("--cpus names {count} cpus for {shards} shards")));
        }
        Some(cpus) => check_cpus(cpus, &available)?,
        // A machine of our own: pin. Otherwise the scheduler knows better.
        None if config.pin && available.len() >= shards && config.has_its_machine() => available,
        None => Vec::new(),
    };
    Ok((shards, cpus))
}

/// A shard has its CPU for itself.
fn check_cpus(cpus: &[usize], available: &[usize]) -> Result<Vec<usize>, Error> {
    if let Some(cpu) = cpus.iter().find(|cpu| !available.contains(cpu)) {
        return Err(Error::Config(format!("--cpus: cpu {cpu} is not ours to use")));
    }
    let twice = |at: &usize| cpus[..*at].contains(&cpus[*at]);
    match (0..cpus.len()).find(twice) {
        Some(at) => Err(Error::Config(format!("--cpus names cpu {} twice", cpus[at]))),
        None => Ok(cpus.to_vec()),
    }
}

/// A node that listens on this machine only is not found where its list says it is.
fn check_reach(config: &ServerConfig) -> Result<(), Error> {
    let own = config.peers.iter().find(|peer| peer.name == config.name);
    let Some(Ok(told)) = own.map(|peer| peer.address.parse::<SocketAddr>()) else { return Ok(()) };
    if config.listen.ip().is_loopback() && !told.ip().is_loopback() {
        let listen = config.listen;
        return Err(Error::Config(format!(
            "--peers says that {} is at {told}, but it listens on {listen}, where only this \
             machine finds it; say --listen {told}",
            config.name
        )));
    }
    Ok(())
}

/// Who joins must say where others find it.
fn check_join(config: &ServerConfig) -> Result<(), Error> {
    let fault = |text: &str| Err(Error::Config(text.to_owned()));
    let reach = config.advertise.as_ref();
    if reach.is_some_and(|address| !is_host_port(address)) {
        return fault("--advertise: an address is host:port");
    }
    if config.join.is_empty() {
        return Ok(());
    }
    if !config.peers.is_empty() {
        return fault("--peers founds a cluster and --join joins one; name one of them");
    }
    if !config.join.iter().all(|address| is_host_port(address)) {
        return fault("--join: an address is host:port");
    }
    if config.listen.ip().is_unspecified() && reach.is_none() {
        return fault("other nodes must find this one; say --advertise HOST:PORT");
    }
    Ok(())
}

fn is_host_port(address: &str) -> bool {
    let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    port.is_some_and(|port| port > 0) && address.len() <= config::ADDRESS_BYTES_MAX
}

fn check_peers(config: &ServerConfig) -> Result<(), Error> {
    let fault = |text: String| Err(Error::Config(format!("--peers: {text}")));
    if config.peers.is_empty() {
        return Ok(());
    }
    if config.peers.len() > config::FOUNDERS_MAX {
        return fault(format!("at most {} nodes", config::FOUNDERS_MAX));
    }
    let mut seen: Vec<&Peer> = Vec::new();
    for peer in &config.peers {
        if let Err(why) = forming::check_name(&peer.name) {
            return fault(format!("{}: {why}", peer.name));
        }
        if !is_host_port(&peer.address) {
            return fault(format!("{}: an address is host:port", peer.name));
        }
        if let Some(twin) = seen.iter().find(|s| s.name == peer.name || s.address == peer.address) {
            return fault(format!("{twin} and {peer} share a name or an address"));
        }
        seen.push(peer);
    }
    if !seen.iter().any(|peer| peer.name == config.name) {
        return fault(format!(
            "{} is not among them; name all founders, this node too",
            config.name
        ));
    }
    Ok(())
}

impl ServerConfig {
    /// Whether this node has its machine for itself, as far as the list tells.
    fn has_its_machine(&self) -> bool {
        let own = self.listen.ip().to_string();
        let joins_here = |address: &String| {
            address.rsplit_once(':').is_some_and(|(host, _)| host == own || host == "localhost")
        };
        if self.join.iter().any(joins_here) {
            return false;
        }
        let host = |peer: &Peer| peer.address.rsplit_once(':').map(|(host, _)| host.to_owned());
        let own = self.peers.iter().find(|peer| peer.name == self.name).and_then(host);
        self.peers.iter().filter(|peer| peer.name != self.name).all(|peer| host(peer) != own)
    }
}
