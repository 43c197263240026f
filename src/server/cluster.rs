//! Which cluster a node belongs to, and where the other members are.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicBool;

use margay_log::id::NodeId;

use super::directory::Directory;
use super::{ServerConfig, founding, join};
use crate::error::Error;
use crate::forming::{Ask, Disagreement, Forming, FoundingRecord, Offer, Peer, peers_text};

/// The list this node founds with; a node alone is its own list.
fn founders(config: &ServerConfig, address: SocketAddr) -> Vec<Peer> {
    if config.peers.is_empty() {
        vec![Peer { name: config.name.clone(), address: address.to_string() }]
    } else {
        config.peers.clone()
    }
}

/// The cluster this node belongs to, and its number there: as is durable here, or as it founds or
/// joins one now.
pub(super) fn belong(
    config: &ServerConfig,
    directory: &Directory,
    address: SocketAddr,
    shards: usize,
    listener: &OwnedFd,
    stop: &AtomicBool,
) -> Result<(FoundingRecord, NodeId), Error> {
    let known = directory.founding()?;
    if let (Some(record), Some(id)) = (&known, directory.joined()?) {
        check_groups(config, record)?;
        return Ok((record.clone(), id));
    }
    if known.is_none() && !config.join.is_empty() {
        return join::join(config, directory, address, stop);
    }
    let peers = founders(config, address);
    let record = founded(config, directory, peers, shards, listener, stop)?;
    let id = record.node(&config.name).ok_or_else(|| {
        let (name, cluster) = (config.name.clone(), record.cluster());
        Error::Forming(Disagreement::NotFounder { name, cluster }.to_string())
    })?;
    Ok((record, id))
}

/// The founding record: the one that is durable here, or a new one.
fn founded(
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
    let record = founding::found(forming, &plain, config.tls.as_ref(), stop)?;
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
    check_groups(config, &record)?;
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

pub(super) fn check_groups(config: &ServerConfig, record: &FoundingRecord) -> Result<(), Error> {
    match config.groups.filter(|groups| *groups != record.groups()) {
        Some(groups) => Err(Error::Mismatch(format!(
            "the cluster was founded with {} groups, this node was started with --groups {groups}; \
             the number cannot change",
            record.groups()
        ))),
        None => Ok(()),
    }
}
