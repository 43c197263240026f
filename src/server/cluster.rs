//! Which cluster a node belongs to, and where the other members are.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicBool;

use margay_log::id::NodeId;

use super::directory::Directory;
use super::{ServerConfig, founding};
use crate::error::Error;
use crate::forming::{Ask, Forming, FoundingRecord, Offer, Peer, peers_text};

/// The list this node founds with; a node alone is its own list.
pub(super) fn founders(config: &ServerConfig, address: SocketAddr) -> Vec<Peer> {
    if config.peers.is_empty() {
        vec![Peer { name: config.name.clone(), address: address.to_string() }]
    } else {
        config.peers.clone()
    }
}

/// The founding record: the one that is durable here, or a new one.
pub(super) fn founded(
    config: &ServerConfig,
    directory: &Directory,
    peers: Vec<Peer>,
    shards: usize,
    listener: &OwnedFd,
    stop: &AtomicBool,
) -> Result<FoundingRecord, Error> {
    if let Some(record) = directory.founding()? {
        return known(config, directory, record);
    }
    let ask = Ask { shards: shards as u16, groups: config.groups.unwrap_or(0) as u16 };
    let (name, incarnation) = (config.name.clone(), directory.incarnation);
    let offer = Offer { name, incarnation, peers: peers_text(&peers), ask };
    let forming = Forming::new(offer, peers);
    let error = |e: std::io::Error| {
        let address = config.listen;
        Error::Listen { address, cause: e.to_string() }
    };
    let plain = TcpListener::from(listener.try_clone().map_err(error)?);
    plain.set_nonblocking(true).map_err(error)?;
    let record = founding::found(forming, &plain, stop)?;
    directory.set_founding(&record)?;
    Ok(record)
}

/// A node that is started again: its options must fit what it is.
fn known(
    config: &ServerConfig,
    directory: &Directory,
    record: FoundingRecord,
) -> Result<FoundingRecord, Error> {
    let own = record.founders().iter().find(|founder| founder.name == config.name);
    if own.is_none_or(|own| own.incarnation != directory.incarnation) {
        return Err(Error::Mismatch(format!(
            "{}: the cluster in it knows {} with another disk; remove the node and use --join",
            directory.path().display(),
            config.name
        )));
    }
    if let Some(groups) = config.groups.filter(|groups| *groups != record.groups()) {
        return Err(Error::Mismatch(format!(
            "the cluster was founded with {} groups, this node was started with --groups {groups}; \
             the number cannot change",
            record.groups()
        )));
    }
    let names = |peers: &[Peer]| -> Vec<String> {
        let mut names: Vec<String> = peers.iter().map(|peer| peer.name.clone()).collect();
        names.sort();
        names
    };
    let (ours, theirs) = (names(&config.peers), names(&record.peers()));
    if !config.peers.is_empty() && ours != theirs {
        return Err(Error::Mismatch(format!(
            "the cluster was founded by {}, this node was started with --peers {}",
            theirs.join(", "),
            ours.join(", ")
        )));
    }
    Ok(record)
}

/// Where all members are.
pub(super) fn resolve(
    record: &FoundingRecord,
    peers: &[Peer],
) -> Result<BTreeMap<NodeId, SocketAddr>, Error> {
    let mut addresses = BTreeMap::new();
    for peer in peers {
        let Some(id) = record.node(&peer.name) else { continue };
        match resolve_one(peer) {
            Ok(address) => drop(addresses.insert(id, address)),
            // A peer that cannot be found now is looked for again; the others may be enough.
            Err(error) => tracing::warn!("{error}"),
        }
    }
    Ok(addresses)
}

pub(super) fn resolve_one(peer: &Peer) -> Result<SocketAddr, Error> {
    let error = |cause: String| {
        let (name, address) = (peer.name.clone(), peer.address.clone());
        Error::Resolve { name, address, cause }
    };
    let mut found = peer.address.to_socket_addrs().map_err(|e| error(e.to_string()))?;
    found.next().ok_or_else(|| error("no address".to_owned()))
}
