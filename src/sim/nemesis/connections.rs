//! Connections break, of clients and between nodes, or carry nothing any more without anybody being
//! told.

use super::Fault;
use crate::machine::StateMachine;
use crate::sim::Failure;
use crate::sim::cluster::Cluster;

/// Both ends learn that a connection is gone.
pub(super) struct Break;

/// Nodes learn that their connections to others are gone. Whatever was on its way arrives all the
/// same: how much of it did is never known.
pub(super) struct BreakPeers;

/// What one end sends gets lost from now on, or what both send.
pub(super) struct HalfOpen;

impl<S: StateMachine> Fault<S> for Break {
    fn strike(&mut self, cluster: &mut Cluster<S>) -> Result<bool, Failure> {
        let conns: Vec<_> = cluster.links.keys().copied().collect();
        let mut broke = false;
        for conn in conns {
            if cluster.rng.chance(1, 2) {
                broke = true;
                cluster.trace.line(cluster.now, format_args!("connection {} breaks", conn.0));
                cluster.break_link(conn, None);
            }
        }
        Ok(broke)
    }
}

impl<S: StateMachine> Fault<S> for BreakPeers {
    fn strike(&mut self, cluster: &mut Cluster<S>) -> Result<bool, Failure> {
        let nodes = cluster.nodes.len();
        let pairs = (0..nodes).flat_map(|at| (0..nodes).map(move |to| (at, to)));
        let mut broke = false;
        for (at, to) in pairs.filter(|(at, to)| at != to) {
            if cluster.nodes[at].is_up() && cluster.rng.chance(1, 3) {
                broke = true;
                let line = format_args!("node {at} learns that its connection to {to} is gone");
                cluster.trace.line(cluster.now, line);
                cluster.tell_peer_down(at, to);
            }
        }
        Ok(broke)
    }
}

impl<S: StateMachine> Fault<S> for HalfOpen {
    fn strike(&mut self, cluster: &mut Cluster<S>) -> Result<bool, Failure> {
        let mut lost = false;
        for (conn, link) in &mut cluster.links {
            if cluster.rng.chance(1, 2) {
                lost = true;
                let way = cluster.rng.below(3);
                link.deaf_node |= way != 1;
                link.deaf_client |= way != 2;
                cluster.trace.line(cluster.now, format_args!("connection {} is deaf", conn.0));
            }
        }
        Ok(lost)
    }
}
