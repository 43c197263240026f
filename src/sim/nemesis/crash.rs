//! The power of a node goes, or that of the whole cluster; it comes back after a while.

use margay_log::id::Micros;

use super::Fault;
use crate::machine::StateMachine;
use crate::sim::Failure;
use crate::sim::cluster::{Cluster, Event};

/// See the module's text.
pub(super) struct Crash;

impl<S: StateMachine> Fault<S> for Crash {
    fn strike(&mut self, cluster: &mut Cluster<S>) -> Result<bool, Failure> {
        let nodes = cluster.nodes.len();
        let first = cluster.rng.below(nodes as u64) as usize;
        let all = cluster.rng.chance(1, 6);
        let mut crashed = false;
        for at in (0..nodes).map(|n| (first + n) % nodes).take(if all { nodes } else { 1 }) {
            if cluster.nodes[at].is_up() {
                crashed = true;
                cluster.crash(at);
                let for_long = cluster.rng.chance(1, 4);
                let down = Micros(cluster.rng.below(if for_long { 4_000_000 } else { 600_000 }));
                let boot = cluster.nodes[at].boot;
                cluster.schedule(down, Event::Start { node: at, boot });
            }
        }
        Ok(crashed)
    }
}
