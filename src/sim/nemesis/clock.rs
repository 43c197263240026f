//! The machine of a node is suspended: its process stands still, and its clock shows the time that
//! has passed when it goes on.

use margay_log::id::Micros;

use super::Fault;
use crate::machine::StateMachine;
use crate::sim::Failure;
use crate::sim::cluster::Cluster;

/// See the module's text.
pub(super) struct Suspend;

impl<S: StateMachine> Fault<S> for Suspend {
    fn strike(&mut self, cluster: &mut Cluster<S>) -> Result<bool, Failure> {
        let at = cluster.rng.below(cluster.nodes.len() as u64) as usize;
        if !cluster.nodes[at].is_up() {
            return Ok(false);
        }
        // Longer for the machine than for the rest of the world: minutes need not be simulated.
        let pause = Micros(cluster.rng.below(500_000));
        let jump = Micros(cluster.rng.below(20_000_000));
        cluster.trace.line(cluster.now, format_args!("node {at} is suspended for {jump}"));
        cluster.nodes[at].paused_until = cluster.now.after(pause);
        cluster.nodes[at].clock.jump(cluster.now, jump);
        cluster.turn_soon(at);
        Ok(true)
    }

    fn mend(&mut self, cluster: &mut Cluster<S>) -> Result<(), Failure> {
        cluster.nodes.iter_mut().for_each(|node| node.paused_until = Micros(0));
        Ok(())
    }
}
