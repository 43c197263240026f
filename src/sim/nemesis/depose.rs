//! Leaders that are deposed and do not hear of it: in the short time in which they would still
//! trust their lease, or with writes under way that others have already replaced.

use margay_log::id::Micros;

use super::Fault;
use super::cut::part;
use crate::machine::StateMachine;
use crate::raft::message::RoleKind;
use crate::replica::Replica;
use crate::sim::Failure;
use crate::sim::cluster::{Cluster, Event};
use crate::sim::network::End;
use crate::wire::client::Admin;

pub(super) const HANDED_OVER: &str = "handed-over leader";
pub(super) const RESTARTED: &str = "restarted voters";
pub(super) const STALLED: &str = "stalled leader";

/// A leader is asked to hand over, and parted from the other nodes at the moment at which its
/// successor stands.
#[derive(Default)]
pub(super) struct HandOver {
    watched: Option<usize>,
}

/// One follower does not hear the leader any more. When it stands the others restart, and the
/// leader is parted from all of them.
#[derive(Default)]
pub(super) struct RestartedVoters {
    /// The follower and the leader.
    watched: Option<(usize, usize)>,
    /// When there is time for another attempt.
    again: Micros,
}

/// The leader's disk takes very long, and the leader is cut off until others have elected another:
/// what they replace is still being written.
#[derive(Default)]
pub(super) struct Stall {
    /// When there is time for another attempt.
    again: Micros,
}

/// All links are mended again before long.
fn heal_soon<S: StateMachine>(cluster: &mut Cluster<S>) {
    let heal = Micros(500_000 + cluster.rng.below(1_500_000));
    cluster.schedule(heal, Event::Heal);
}

impl<S: StateMachine> Fault<S> for HandOver {
    fn strike(&mut self, cluster: &mut Cluster<S>) -> Result<bool, Failure> {
        let Some(leader) = cluster.leader() else { return Ok(false) };
        let own = cluster.nodes[leader].id;
        let raft = cluster.nodes[leader].replica.as_ref().map(Replica::raft);
        let voters = raft.map_or(&[][..], |raft| raft.configuration().voters());
        let others: Vec<_> = voters.iter().copied().filter(|voter| *voter != own).collect();
        if others.is_empty() {
            return Ok(false);
        }
        let to = others[cluster.rng.below(others.len() as u64) as usize];
        let name = cluster.place(to.0 as usize - 1).name.clone();
        self.watched = cluster.rng.chance(3, 4).then_some(leader);
        cluster.ask(leader, Admin::Transfer { name: &name }).map(|()| true)
    }

    fn on_role(&mut self, cluster: &mut Cluster<S>, at: usize) -> Result<(), Failure> {
        let Some(leader) = self.watched.filter(|&leader| leader != at) else { return Ok(()) };
        if cluster.role(at) == Some(RoleKind::Candidate) && cluster.leads(leader) {
            self.watched = None;
            let with = part(cluster, leader);
            let line = format_args!("{with:?} do not hear that node {at} stands");
            cluster.trace.line(cluster.now, line);
            heal_soon(cluster);
        }
        Ok(())
    }
}

impl<S: StateMachine> Fault<S> for RestartedVoters {
    fn strike(&mut self, cluster: &mut Cluster<S>) -> Result<bool, Failure> {
        let Some(leader) = cluster.leader() else { return Ok(false) };
        if cluster.now < self.again {
            return Ok(false);
        }
        let up = |at: &usize| *at != leader && cluster.nodes[*at].is_up();
        let followers: Vec<usize> = (0..cluster.nodes.len()).filter(up).collect();
        if followers.len() < 2 {
            return Ok(false);
        }
        let lost = followers[cluster.rng.below(followers.len() as u64) as usize];
        cluster.network.cut(End::Node(leader), End::Node(lost));
        cluster.network.cut(End::Node(lost), End::Node(leader));
        let line = format_args!("node {lost} does not hear node {leader}");
        cluster.trace.line(cluster.now, line);
        self.watched = Some((lost, leader));
        self.again = cluster.now.after(Micros::from_millis(1_500));
        Ok(true)
    }

    fn on_role(&mut self, cluster: &mut Cluster<S>, at: usize) -> Result<(), Failure> {
        let Some((lost, leader)) = self.watched.filter(|(lost, _)| *lost == at) else {
            return Ok(());
        };
        if cluster.role(lost) != Some(RoleKind::PreCandidate) || !cluster.leads(leader) {
            return Ok(());
        }
        self.watched = None;
        // They are there again when the question comes.
        for at in (0..cluster.nodes.len()).filter(|&at| at != leader && at != lost) {
            if cluster.nodes[at].is_up() {
                cluster.crash_for(at, 20);
            }
        }
        let with = part(cluster, leader);
        cluster.trace.line(cluster.now, format_args!("{with:?} are on their own"));
        heal_soon(cluster);
        Ok(())
    }
}

impl<S: StateMachine> Fault<S> for Stall {
    fn strike(&mut self, cluster: &mut Cluster<S>) -> Result<bool, Failure> {
        let Some(leader) = cluster.leader() else { return Ok(false) };
        if cluster.now < self.again {
            return Ok(false);
        }
        self.again = cluster.now.after(Micros::from_millis(1_500));
        let (span, now) = (Micros(100_000 + cluster.rng.below(400_000)), cluster.now);
        // Two seconds for the slowest operation.
        cluster.nodes[leader].slow = (2_000_000 / cluster.disk_latency, now.after(span));
        for other in (0..cluster.nodes.len()).filter(|&other| other != leader) {
            cluster.network.cut(End::Node(leader), End::Node(other));
            cluster.network.cut(End::Node(other), End::Node(leader));
        }
        cluster.trace.line(now, format_args!("node {leader} is cut off, its disk hardly moves"));
        let heal = Micros(600_000 + cluster.rng.below(600_000));
        cluster.schedule(heal, Event::Heal);
        Ok(true)
    }

    fn mend(&mut self, cluster: &mut Cluster<S>) -> Result<(), Failure> {
        cluster.nodes.iter_mut().for_each(|node| node.slow = (1, Micros(0)));
        Ok(())
    }
}
