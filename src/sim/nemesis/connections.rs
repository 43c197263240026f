//! Clients' connections break, or carry nothing any more without anybody being told.

use super::Fault;
use crate::machine::StateMachine;
use crate::sim::Failure;
use crate::sim::cluster::Cluster;

/// Both ends learn that a connection is gone.
pub(super) struct Break;

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
