//! A node that is asked to stop, as an operator or a new version would have it: it hands over, has
//! its log write down how far it is durable, stops, and comes back after a while.

use margay_log::disk::Op;
use margay_log::id::Micros;

use super::{Cluster, Failure, Fault, StateMachine};
use crate::sim::cluster::Event;

pub(super) const STOP: &str = "orderly stop";

/// How often it is looked whether a node has come so far.
const LOOK: Micros = Micros::from_millis(5);
/// No step of stopping takes longer.
const PATIENCE: Micros = Micros::from_millis(2_000);

/// One node after the other.
#[derive(Default)]
pub(super) struct Stop(Option<Stopping>);

/// A node that is about to stop.
struct Stopping {
    node: usize,
    boot: u64,
    /// It has handed over; what is begun is being finished.
    rests: bool,
    until: Micros,
}

impl Stop {
    /// The node is gone, whatever it has come to.
    fn end<S: StateMachine>(&mut self, cluster: &mut Cluster<S>, at: usize) {
        self.0 = None;
        let id = cluster.nodes[at].id;
        cluster.trace.line(cluster.now, format_args!("{id} stops in order"));
        cluster.nodes[at].disk.kill(&mut cluster.rng);
        cluster.stop(at);
    }
}

impl<S: StateMachine> Fault<S> for Stop {
    fn strike(&mut self, cluster: &mut Cluster<S>) -> Result<bool, Failure> {
        let at = cluster.rng.below(cluster.nodes.len() as u64) as usize;
        let node = &mut cluster.nodes[at];
        let now = node.clock.at(cluster.now);
        let Some(replica) = node.replica.as_mut().filter(|_| self.0.is_none()) else {
            return Ok(false);
        };
        replica.retire(now, &mut node.out);
        let (boot, until) = (node.boot, cluster.now.after(PATIENCE));
        self.0 = Some(Stopping { node: at, boot, rests: false, until });
        cluster.trace.line(cluster.now, format_args!("node {at} is asked to stop"));
        cluster.turn_soon(at);
        cluster.schedule(LOOK, Event::Sequel { of: STOP, node: at });
        Ok(true)
    }

    fn sequel(&mut self, cluster: &mut Cluster<S>, at: usize) -> Result<(), Failure> {
        let Some(stopping) = self.0.as_mut().filter(|stopping| stopping.node == at) else {
            return Ok(());
        };
        let (now, node) = (cluster.now, &mut cluster.nodes[at]);
        let replica = node.replica.as_mut().filter(|_| node.boot == stopping.boot);
        let Some(replica) = replica else {
            self.0 = None;
            return Ok(());
        };
        let is_late = now >= stopping.until;
        if !stopping.rests && (is_late || replica.is_retired()) {
            replica.rest();
            (stopping.rests, stopping.until) = (true, now.after(PATIENCE));
            cluster.turn_soon(at);
        } else if stopping.rests && (is_late || replica.is_settled()) {
            let writes = |op: &Op| matches!(op, Op::Write { .. } | Op::HardState { .. });
            if replica.is_settled() && node.disk.in_flight().any(writes) {
                let details = format!("{} says that it is", node.id);
                return Err(Failure::new("who is settled has nothing under way", details));
            }
            self.end(cluster, at);
            let (boot, down) = (cluster.nodes[at].boot, Micros(cluster.rng.below(600_000)));
            cluster.schedule(down, Event::Start { node: at, boot });
            return Ok(());
        }
        cluster.schedule(LOOK, Event::Sequel { of: STOP, node: at });
        Ok(())
    }

    /// Who has said good-bye leads nobody: it starts again.
    fn mend(&mut self, cluster: &mut Cluster<S>) -> Result<(), Failure> {
        let Some(Stopping { node, boot, .. }) = self.0.take() else { return Ok(()) };
        if cluster.nodes[node].boot == boot && cluster.nodes[node].is_up() {
            self.end(cluster, node);
        }
        Ok(())
    }
}
