//! Faults: which, when, and how much a cluster must bear.
//!
//! Any number of nodes may be down or cut off at a time; what was acknowledged must survive it all,
//! for disks keep what they said was durable. Which kinds of faults a run has is drawn once, so
//! that some runs are only crashes, some only cuts.

use margay_log::id::Micros;
use margay_log::rng::Rng;

use super::cluster::Cluster;
use super::network::{End, Weather};
use super::{Failure, Summary};
use crate::machine::StateMachine;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Nemesis {
    crashes: bool,
    cuts: bool,
    pauses: bool,
    weather: bool,
    breaks: bool,
    /// Pause between two strikes, at most.
    every: u64,
}

impl Nemesis {
    pub(super) fn new(rng: &mut Rng) -> Nemesis {
        Nemesis {
            crashes: rng.chance(2, 3),
            cuts: rng.chance(1, 2),
            pauses: rng.chance(1, 3),
            weather: rng.chance(1, 2),
            breaks: rng.chance(1, 2),
            every: 50_000 + rng.below(1_000_000),
        }
    }

    /// Does something bad, or mends something. Returns when to come again.
    pub(super) fn strike<S: StateMachine>(
        &mut self,
        cluster: &mut Cluster<S>,
        summary: &mut Summary,
    ) -> Result<Micros, Failure> {
        let nodes = cluster.nodes.len() as u64;
        let at = cluster.rng.below(nodes) as usize;
        let what = cluster.rng.below(8);
        if !cluster.nodes[at].is_up() {
            cluster.start(at)?;
        } else if what < 2 && self.crashes {
            summary.crashes += 1;
            cluster.crash(at);
            if cluster.rng.chance(1, 4) {
                self.crash_all(cluster, summary);
            }
        } else if what == 2 && self.cuts {
            summary.cuts += 1;
            self.cut(cluster, at);
        } else if what == 3 && self.cuts {
            cluster.trace.line(cluster.now, format_args!("all links are mended"));
            cluster.network.heal();
        } else if what == 4 && self.pauses {
            let pause = Micros(cluster.rng.below(2_000_000));
            cluster.trace.line(cluster.now, format_args!("node {at} pauses for {pause}"));
            cluster.nodes[at].paused_until = cluster.now.after(pause);
        } else if what == 5 && self.weather {
            cluster.network.weather = Weather::draw(&mut cluster.rng);
            let weather = cluster.network.weather;
            cluster.trace.line(cluster.now, format_args!("{weather:?}"));
        } else if what == 6 && self.breaks {
            summary.cuts += 1;
            self.break_connections(cluster);
        }
        Ok(Micros(1_000 + cluster.rng.below(self.every)))
    }

    /// The power of the whole cluster goes.
    fn crash_all<S: StateMachine>(&self, cluster: &mut Cluster<S>, summary: &mut Summary) {
        for at in 0..cluster.nodes.len() {
            if cluster.nodes[at].is_up() {
                summary.crashes += 1;
                cluster.crash(at);
            }
        }
    }

    /// Cuts a node off: from everyone or from some, both ways or one.
    fn cut<S: StateMachine>(&self, cluster: &mut Cluster<S>, at: usize) {
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
    }

    fn break_connections<S: StateMachine>(&self, cluster: &mut Cluster<S>) {
        let conns: Vec<_> = cluster.links.keys().copied().collect();
        for conn in conns {
            if cluster.rng.chance(1, 2) {
                cluster.trace.line(cluster.now, format_args!("connection {} breaks", conn.0));
                cluster.break_link(conn, None);
            }
        }
    }
}
