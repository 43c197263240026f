//! The power of a node goes, or that of the whole cluster; it comes back after a while.
//!
//! Leaders that crash when they have just been elected leave behind what the figures of the Raft
//! paper are about: entries of several terms that only some have.

use margay_log::id::Micros;

use super::Fault;
use crate::machine::StateMachine;
use crate::sim::Failure;
use crate::sim::cluster::Cluster;

/// One node, or all.
pub(super) struct Crash;

/// Two of three new leaders: at once, or after speaking to nobody for a while.
pub(super) struct ShortReigns;

impl<S: StateMachine> Fault<S> for ShortReigns {
    fn strike(&mut self, cluster: &mut Cluster<S>) -> Result<bool, Failure> {
        cluster.reign = cluster.rng.chance(5, 6).then(|| {
            // From microseconds to a few disk operations: each length as likely as the next.
            Micros(1 << cluster.rng.below(16))
        });
        Ok(cluster.reign.is_some())
    }

    fn mend(&mut self, cluster: &mut Cluster<S>) -> Result<(), Failure> {
        cluster.reign = None;
        Ok(())
    }
}

impl<S: StateMachine> Fault<S> for Crash {
    fn strike(&mut self, cluster: &mut Cluster<S>) -> Result<bool, Failure> {
        let nodes = cluster.nodes.len();
        let first = cluster.rng.below(nodes as u64) as usize;
        let all = cluster.rng.chance(1, 6);
        let mut crashed = false;
        for at in (0..nodes).map(|n| (first + n) % nodes).take(if all { nodes } else { 1 }) {
            if cluster.nodes[at].is_up() {
                crashed = true;
                let for_long = cluster.rng.chance(1, 4);
                cluster.crash_for(at, if for_long { 4_000_000 } else { 600_000 });
            }
        }
        Ok(crashed)
    }
}
