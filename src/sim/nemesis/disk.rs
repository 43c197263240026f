//! A disk that is slow, full or fails a write. None of it destroys what was durable.

use margay_log::disk::sim::{EIO, ENOSPC};
use margay_log::id::Micros;

use super::Fault;
use crate::machine::StateMachine;
use crate::sim::Failure;
use crate::sim::cluster::Cluster;

/// Every operation takes much longer, for a while: of one disk, or of all.
pub(super) struct Slow;

/// No segment can be prepared and no snapshot written, or one of the two, until it strikes again.
pub(super) struct Full;

/// One write fails: the node says so, stops, and starts again.
pub(super) struct Failing;

fn draw<S: StateMachine>(cluster: &mut Cluster<S>) -> usize {
    cluster.rng.below(cluster.nodes.len() as u64) as usize
}

impl<S: StateMachine> Fault<S> for Slow {
    fn strike(&mut self, cluster: &mut Cluster<S>) -> Result<bool, Failure> {
        let (one, times) = (draw(cluster), 2 + cluster.rng.below(100));
        let until = cluster.now.after(Micros(cluster.rng.below(2_000_000)));
        let all = cluster.rng.chance(1, 3);
        for at in (0..cluster.nodes.len()).filter(|&at| all || at == one) {
            cluster.trace.line(cluster.now, format_args!("disk {at} is {times} times as slow"));
            cluster.nodes[at].slow = (times, until);
        }
        Ok(true)
    }

    fn mend(&mut self, cluster: &mut Cluster<S>) -> Result<(), Failure> {
        cluster.nodes.iter_mut().for_each(|node| node.slow = (1, Micros(0)));
        Ok(())
    }
}

impl<S: StateMachine> Fault<S> for Full {
    fn strike(&mut self, cluster: &mut Cluster<S>) -> Result<bool, Failure> {
        let at = draw(cluster);
        let (log, snapshots) = [(false, false), (false, true), (true, false), (true, true)]
            [cluster.rng.below(4) as usize];
        let line = format_args!("disk {at} is full for logs {log}, for snapshots {snapshots}");
        cluster.trace.line(cluster.now, line);
        let node = &mut cluster.nodes[at];
        node.full = log;
        node.disk.fail_prepares(log.then_some(ENOSPC));
        node.disk.fail_snapshots(snapshots.then_some(ENOSPC));
        Ok(log || snapshots)
    }

    fn mend(&mut self, cluster: &mut Cluster<S>) -> Result<(), Failure> {
        for node in &mut cluster.nodes {
            node.full = false;
            node.disk.fail_prepares(None);
            node.disk.fail_snapshots(None);
        }
        Ok(())
    }
}

impl<S: StateMachine> Fault<S> for Failing {
    fn strike(&mut self, cluster: &mut Cluster<S>) -> Result<bool, Failure> {
        let at = draw(cluster);
        if !cluster.nodes[at].is_up() {
            return Ok(false);
        }
        cluster.trace.line(cluster.now, format_args!("a write of node {at} fails"));
        cluster.nodes[at].fails = true;
        cluster.nodes[at].disk.fail_next_write(EIO);
        Ok(true)
    }
}
