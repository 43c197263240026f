//! Links that carry nothing: a node is cut off from all or some, both ways or one, with its clients
//! or without them.

use super::Fault;
use crate::machine::StateMachine;
use crate::sim::Failure;
use crate::sim::cluster::Cluster;
use crate::sim::network::End;

/// Cuts a node off.
pub(super) struct Cut;

/// Mends all links.
pub(super) struct Heal;

impl<S: StateMachine> Fault<S> for Cut {
    fn strike(&mut self, cluster: &mut Cluster<S>) -> Result<bool, Failure> {
        let at = cluster.rng.below(cluster.nodes.len() as u64) as usize;
        let direction = cluster.rng.below(3);
        let partly = cluster.rng.chance(1, 3);
        // A leader that its clients still reach is the one that could answer with what is no longer
        // true.
        let clients = if cluster.rng.chance(1, 2) { 0 } else { cluster.clients };
        cluster.trace.line(
            cluster.now,
            format_args!("node {at} is cut off, way {direction}, {clients} clients too"),
        );
        let nodes = (0..cluster.nodes.len()).filter(|&other| other != at).map(End::Node);
        let ends: Vec<End> = nodes.chain((0..clients).map(End::Client)).collect();
        for end in ends {
            if partly && cluster.rng.chance(1, 2) {
                continue;
            }
            if direction != 1 {
                cluster.network.cut(End::Node(at), end);
            }
            if direction != 2 {
                cluster.network.cut(end, End::Node(at));
            }
        }
        Ok(true)
    }
}

impl<S: StateMachine> Fault<S> for Heal {
    fn strike(&mut self, cluster: &mut Cluster<S>) -> Result<bool, Failure> {
        if !cluster.network.is_cut() {
            return Ok(false);
        }
        cluster.trace.line(cluster.now, format_args!("all links are mended"));
        cluster.network.heal();
        Ok(true)
    }
}
