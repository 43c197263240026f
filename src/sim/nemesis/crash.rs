//! The power of a node goes, or that of the whole cluster; it comes back after a while.
//!
//! Leaders that crash when they have just been elected leave behind what the figures of the Raft
//! paper are about: entries of several terms that only some have.

use margay_log::id::Micros;

use super::Fault;
use crate::machine::StateMachine;
use crate::sim::Failure;
use crate::sim::cluster::{Cluster, Event};
use crate::sim::network::End;

pub(super) const UNHEARD: &str = "unheard leaders";

/// One node, or all.
pub(super) struct Crash;

/// Two of three new leaders crash: at once, or after speaking to nobody for a while.
#[derive(Default)]
pub(super) struct ShortReigns {
    /// Within this time.
    reign: Option<Micros>,
}

/// New leaders of whom nobody hears anything of their own term, until they crash. What earlier
/// leaders left they do pass on: entries of several terms that only some have, and that no entry of
/// a leader's own term makes safe, are what figure 8 of the Raft paper is about.
#[derive(Default)]
pub(super) struct Unheard {
    on: bool,
}

impl<S: StateMachine> Fault<S> for ShortReigns {
    fn strike(&mut self, cluster: &mut Cluster<S>) -> Result<bool, Failure> {
        self.reign = cluster.rng.chance(5, 6).then(|| {
            // From microseconds to a few disk operations: each length as likely as the next.
            Micros(1 << cluster.rng.below(16))
        });
        Ok(self.reign.is_some())
    }

    fn on_role(&mut self, cluster: &mut Cluster<S>, at: usize) -> Result<(), Failure> {
        let Some(reign) = self.reign.filter(|_| cluster.leads(at)) else { return Ok(()) };
        let boot = cluster.nodes[at].boot;
        match cluster.rng.below(3) {
            0 => {
                let within = Micros(cluster.rng.below(reign.0));
                cluster.schedule(within, Event::Crash { node: at, boot });
            }
            1 => {
                for other in (0..cluster.nodes.len()).filter(|&other| other != at) {
                    cluster.network.cut(End::Node(at), End::Node(other));
                }
                let within = Micros(1_000 + cluster.rng.below(100_000));
                cluster.schedule(within, Event::Crash { node: at, boot });
                cluster.schedule(within, Event::Isolate { node: at, cut: false });
            }
            _ => {}
        }
        Ok(())
    }
}

impl<S: StateMachine> Fault<S> for Unheard {
    fn strike(&mut self, cluster: &mut Cluster<S>) -> Result<bool, Failure> {
        self.on = cluster.rng.chance(5, 6);
        Ok(self.on)
    }

    fn on_role(&mut self, cluster: &mut Cluster<S>, at: usize) -> Result<(), Failure> {
        if !self.on || !cluster.leads(at) || cluster.rng.chance(1, 8) {
            return Ok(());
        }
        cluster.nodes[at].muted = true;
        cluster.trace.line(cluster.now, format_args!("nobody hears of the term of node {at}"));
        let reign = Micros(5_000 + cluster.rng.below(150_000));
        cluster.schedule(reign, Event::Sequel { of: UNHEARD, node: at });
        Ok(())
    }

    /// It is away for about an election: another leads then that has not heard of it either.
    fn sequel(&mut self, cluster: &mut Cluster<S>, at: usize) -> Result<(), Failure> {
        if cluster.leads(at) {
            cluster.crash(at);
            let boot = cluster.nodes[at].boot;
            let down = Micros(700_000 + cluster.rng.below(600_000));
            cluster.schedule(down, Event::Start { node: at, boot });
        }
        Ok(())
    }

    fn mend(&mut self, cluster: &mut Cluster<S>) -> Result<(), Failure> {
        cluster.nodes.iter_mut().for_each(|node| node.muted = false);
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
