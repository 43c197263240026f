//! One follower that lags: its disk is slow, or it is away, while the others go on. Once that has
//! passed it must have caught up before the load ends.

use margay_log::id::{Index, Micros};

use super::Fault;
use crate::machine::StateMachine;
use crate::sim::Failure;
use crate::sim::cluster::{Cluster, Event};

pub(super) const NAME: &str = "laggard";

/// Its disk operations take so many times as long as those of the others.
const TIMES: u64 = 100;

/// Entries that a follower under load may lack at any time.
const BEHIND: u64 = 64;

/// See the module's text.
pub(super) struct Laggard {
    /// For how long.
    lags: Micros,
    laggard: Option<usize>,
}

impl Laggard {
    pub(super) fn new(lags: Micros) -> Laggard {
        Laggard { lags, laggard: None }
    }
}

fn applied<S: StateMachine>(cluster: &Cluster<S>, at: usize) -> Index {
    let replica = cluster.nodes[at].replica.as_ref();
    replica.map_or(Index::ZERO, |replica| replica.machine().applied())
}

impl<S: StateMachine> Fault<S> for Laggard {
    fn strike(&mut self, cluster: &mut Cluster<S>) -> Result<bool, Failure> {
        let Some(leader) = cluster.leader().filter(|_| self.laggard.is_none()) else {
            return Ok(false);
        };
        let Some(at) = (0..cluster.nodes.len()).rev().find(|&at| at != leader) else {
            return Ok(false);
        };
        self.laggard = Some(at);
        if cluster.rng.chance(1, 2) {
            cluster.isolate(at, true);
        } else {
            cluster.trace.line(cluster.now, format_args!("the disk of node {at} is slow"));
            cluster.nodes[at].slow = (TIMES, Micros(u64::MAX));
        }
        cluster.schedule(self.lags, Event::Sequel { of: NAME, node: at });
        Ok(true)
    }

    fn sequel(&mut self, cluster: &mut Cluster<S>, at: usize) -> Result<(), Failure> {
        cluster.nodes[at].slow = (1, Micros(0));
        cluster.isolate(at, false);
        let behind = cluster
            .leader()
            .map_or(0, |leader| applied(cluster, leader).since(applied(cluster, at)));
        let line = format_args!("node {at} is {behind} entries behind");
        cluster.trace.line(cluster.now, line);
        Ok(())
    }

    fn mend(&mut self, cluster: &mut Cluster<S>) -> Result<(), Failure> {
        let (Some(at), Some(leader)) = (self.laggard, cluster.leader()) else { return Ok(()) };
        let (own, others) = (applied(cluster, at), applied(cluster, leader));
        if others.since(own) <= BEHIND {
            return Ok(());
        }
        let details = format!("node {at} has applied {own}, the leader {others}");
        Err(Failure::new("a laggard catches up under load", details))
    }
}
