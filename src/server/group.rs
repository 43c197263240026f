//! The group a node runs: a replica of margay's own resources.

use std::sync::Arc;

use margay_log::Buffer;
use margay_log::disk::Done;
use margay_log::id::{Incarnation, Micros, NodeId};
use margay_log::recover::Damage;

use super::{MakeGroup, Seed, Server, ServerConfig, run_with};
use crate::error::Error;
use crate::forming::Founder;
use crate::machine::{Code, StateMachine};
use crate::raft::message::Config;
use crate::replica::membership::Member;
use crate::replica::{ConnId, Fatal, Fault, Host, Replica, ReplicaConfig};
use crate::resource::registry::Registry;
use crate::shard::Group;
use crate::wire::Frame;

impl<S: StateMachine> Group for Replica<S> {
    fn on_peer(
        &mut self,
        now: Micros,
        from: NodeId,
        frame: &Frame<'_>,
        batch: Option<Buffer>,
        host: &mut dyn Host,
    ) -> Result<(), Fault> {
        Replica::on_peer(self, now, from, frame, batch, host)
    }

    fn refuses(&self, node: NodeId, incarnation: Incarnation) -> Option<Code> {
        Replica::refuses(self, node, incarnation)
    }

    fn on_peer_down(&mut self, now: Micros, peer: NodeId, host: &mut dyn Host) {
        Replica::on_peer_down(self, now, peer, host);
    }

    fn on_client(
        &mut self,
        now: Micros,
        conn: ConnId,
        frame: &Frame<'_>,
        host: &mut dyn Host,
    ) -> Result<(), Fault> {
        Replica::on_client(self, now, conn, frame, host)
    }

    fn on_client_gone(&mut self, conn: ConnId) {
        Replica::on_client_gone(self, conn);
    }

    fn on_disk(&mut self, now: Micros, done: Done, host: &mut dyn Host) -> Result<(), Fatal> {
        Replica::on_disk(self, now, done, host)
    }

    fn flush(&mut self, now: Micros, host: &mut dyn Host) -> Result<(), Fatal> {
        Replica::flush(self, now, host)
    }

    fn deadline(&self) -> Option<Micros> {
        Replica::deadline(self)
    }

    fn retire(&mut self, now: Micros, host: &mut dyn Host) {
        Replica::retire(self, now, host);
    }

    fn is_retired(&self) -> bool {
        Replica::is_retired(self)
    }

    fn rest(&mut self) {
        Replica::rest(self);
    }

    fn is_settled(&self) -> bool {
        Replica::is_settled(self)
    }
}

/// Makes replicas of margay's own resources.
#[must_use]
pub fn resources() -> MakeGroup {
    Arc::new(|seed: Seed, now| Ok(Box::new(replica(seed, Registry::new(), now)?)))
}

/// The founders of a cluster as members of its groups.
pub(super) fn founding(founders: Vec<Founder>) -> Vec<Member> {
    let numbered = founders.into_iter().zip(1..);
    numbered
        .map(|(founder, id)| Member {
            id: NodeId(id),
            name: founder.name,
            address: founder.address,
            incarnation: founder.incarnation,
        })
        .collect()
}

/// A replica of any state machine.
///
/// # Errors
/// The log cannot be taken over; see [`Error`].
pub fn replica<S: StateMachine>(seed: Seed, state: S, now: Micros) -> Result<Replica<S>, Error> {
    let Seed { cluster, group, node, founders, opened, snapshot_after, lease } = seed;
    let failed = |cause: String| Error::Log { group: group.0, cause };
    if let Some(&Damage { segment, offset, index, until, cause }) = opened.report.damage.as_ref() {
        let file = margay_log::error::segment_file(segment);
        tracing::error!(group = group.0, file, offset, %index, %until,
            "the log is damaged: {cause}; the leader will bring what is lacking");
    }
    for index in &opened.report.snapshots_unreadable {
        let file = margay_log::snapshot::snapshot_file(*index);
        tracing::error!(group = group.0, file, "the snapshot cannot be read and is left out");
    }
    for torn in &opened.report.torn {
        tracing::info!(
            group = group.0,
            segment = torn.segment.0,
            offset = torn.offset,
            "a write was cut off here by the last stop; it was never acknowledged"
        );
    }
    let members = founding(founders);
    // Any number does: it only spreads the election time-outs of nodes and groups.
    let spread = opened.log.incarnation().0 ^ u64::from(group.0).rotate_left(32) ^ now.0;
    let raft = Config { lease, ..Config::new(node, spread) };
    let config =
        ReplicaConfig { snapshot_after, ..ReplicaConfig::new(cluster, group, members, raft) };
    Replica::new(config, opened, state, now).map_err(|fatal| failed(fatal.to_string()))
}

/// Runs a node until SIGTERM or SIGINT; `on_ready` is called once it listens.
///
/// # Errors
/// See [`Error`] and [`Error::exit_code`].
pub fn run(config: &ServerConfig, on_ready: impl FnOnce(&Server)) -> Result<(), Error> {
    run_with(config, resources(), on_ready)
}
