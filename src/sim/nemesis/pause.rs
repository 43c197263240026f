//! A process that stands still for a while, as by SIGSTOP; then everything that came for it
//! meanwhile comes at once.

use margay_log::id::Micros;

use super::Fault;
use crate::machine::StateMachine;
use crate::sim::Failure;
use crate::sim::cluster::Cluster;

/// See the module's text.
pub(super) struct Pause;

impl<S: StateMachine> Fault<S> for Pause {
    fn strike(&mut self, cluster: &mut Cluster<S>) -> Result<bool, Failure> {
        let at = cluster.rng.below(cluster.nodes.len() as u64) as usize;
        if !cluster.nodes[at].is_up() {
            return Ok(false);
        }
        let pause = Micros(cluster.rng.below(2_000_000));
        cluster.trace.line(cluster.now, format_args!("node {at} pauses for {pause}"));
        cluster.nodes[at].paused_until = cluster.now.after(pause);
        Ok(true)
    }

    fn mend(&mut self, cluster: &mut Cluster<S>) -> Result<(), Failure> {
        cluster.nodes.iter_mut().for_each(|node| node.paused_until = Micros(0));
        Ok(())
    }
}
