//! Clients' connections break.

use super::Fault;
use crate::machine::StateMachine;
use crate::sim::Failure;
use crate::sim::cluster::Cluster;

/// See the module's text.
pub(super) struct Break;

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
