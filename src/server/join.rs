//! Joining a cluster that exists: asks one of its nodes what was founded, has itself added to every
//! group as a learner, and keeps the number it was given.
//!
//! Runs before any shard, and may be broken off and begun again at any point: the cluster knows the
//! node by its incarnation, and what is durable here is written when all groups know it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use margay_log::id::{GroupId, NodeId};

use super::ServerConfig;
use super::cluster::check_groups;
use super::directory::Directory;
use super::founding;
use crate::client::admin::{Admin, AdminError, Done, admin};
use crate::error::Error;
use crate::forming::FoundingRecord;

/// How long one group's leader is looked for before that is said.
const ATTEMPT: Duration = Duration::from_secs(5);
/// Between two rounds over the given nodes.
const PAUSE: Duration = Duration::from_millis(200);

/// Joins the cluster of the nodes at `config.join`. Waits as long as it takes for a node, and for
/// every group's leader.
pub(super) fn join(
    config: &ServerConfig,
    directory: &Directory,
    address: SocketAddr,
    stop: &AtomicBool,
) -> Result<(FoundingRecord, NodeId), Error> {
    let record = record_of(config, directory, stop)?;
    check_groups(config, &record)?;
    let address = config.advertise.clone().unwrap_or_else(|| address.to_string());
    let mut node = NodeId(0);
    for group in (0..record.groups()).map(GroupId) {
        let ask = Admin::Add {
            name: &config.name,
            address: &address,
            incarnation: directory.incarnation,
            node,
        };
        node = add(config, group, ask, stop)?.node;
        let (done, all) = (group.0 + 1, record.groups());
        tracing::info!("joined {done} of {all} groups as node {}", node.0);
    }
    directory.set_joined(node)?;
    directory.set_founding(&record)?;
    Ok((record, node))
}

/// The founding record, from whoever answers first.
fn record_of(
    config: &ServerConfig,
    directory: &Directory,
    stop: &AtomicBool,
) -> Result<FoundingRecord, Error> {
    let mut said = String::new();
    loop {
        for endpoint in &config.join {
            match founding::record_of(
                &config.name,
                directory.incarnation,
                endpoint,
                config.tls.as_ref(),
            ) {
                Ok(record) => return Ok(record),
                Err(error) => complain(&mut said, format!("{endpoint}: {error}")),
            }
        }
        pause(stop)?;
    }
}

/// Has this node added to a group.
fn add(
    config: &ServerConfig,
    group: GroupId,
    ask: Admin<'_>,
    stop: &AtomicBool,
) -> Result<Done, Error> {
    let mut said = String::new();
    loop {
        match admin(&config.join, config.tls.as_ref(), group, ask, Instant::now() + ATTEMPT) {
            Ok(done) => return Ok(done),
            Err(error @ AdminError::Refused { .. }) if !may_pass(&error) => {
                return Err(Error::Forming(error.to_string()));
            }
            Err(error) => complain(&mut said, error.to_string()),
        }
        pause(stop)?;
    }
}

/// Whether waiting may help.
fn may_pass(error: &AdminError) -> bool {
    use crate::machine::Code;
    let passing = [Code::NOT_READY, Code::CHANGE_UNDER_WAY, Code::UNSAFE_CHANGE, Code::OVERLOADED];
    matches!(error, AdminError::Refused { code, .. } if passing.contains(code))
}

fn complain(said: &mut String, why: String) {
    if *said != why {
        tracing::warn!("not joined yet: {why}");
        *said = why;
    }
}

fn pause(stop: &AtomicBool) -> Result<(), Error> {
    if stop.load(Ordering::SeqCst) {
        return Err(Error::Interrupted);
    }
    std::thread::sleep(PAUSE);
    Ok(())
}
