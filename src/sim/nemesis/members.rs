//! Who belongs to the group changes: what an operator asks of a leader, and asks again later.
//!
//! Nodes join under numbers of their own, with empty disks; learners are promoted, voters demoted,
//! anybody removed. One that is gone for good is removed first, and whoever joins then replaces it.
//! Where a disk may turn out to have lost something, no voter leaves, and otherwise three stay: of
//! what is acknowledged there is more than one copy.

use margay_log::id::NodeId;
use margay_log::rng::Rng;

use super::Fault;
use crate::machine::StateMachine;
use crate::replica::membership::{Membership, Standing};
use crate::sim::Failure;
use crate::sim::cluster::Cluster;
use crate::wire::client::Admin;

/// See the module's text.
pub(super) struct Members {
    /// Nodes that may still join.
    spare: u64,
}

impl Members {
    pub(super) fn new(rng: &mut Rng) -> Members {
        Members { spare: 1 + rng.below(3) }
    }

    /// A node that is to be a member: one that has asked before and is none, or a new one.
    fn newcomer<S: StateMachine>(
        &mut self,
        cluster: &mut Cluster<S>,
        members: &Membership,
    ) -> Result<Option<usize>, Failure> {
        let waits = |id: NodeId| members.member(id).is_none() && !members.is_removed(id);
        let waiting = cluster.nodes.iter().position(|node| waits(node.id) && !node.gone);
        if waiting.is_some() || self.spare == 0 {
            return Ok(waiting);
        }
        self.spare -= 1;
        cluster.add_node().map(Some)
    }

    /// An operator asks this leader for some change. Whether there was one to ask for.
    fn ask<S: StateMachine>(
        &mut self,
        cluster: &mut Cluster<S>,
        leader: usize,
    ) -> Result<bool, Failure> {
        let Some(replica) = &cluster.nodes[leader].replica else { return Ok(false) };
        let members = replica.members().current().clone();
        let gone = members.members().find(|(m, _)| cluster.nodes[m.id.0 as usize - 1].gone);
        if let Some((member, _)) = gone {
            let name = member.name.clone();
            return cluster.ask(leader, Admin::Remove { name: &name }).map(|()| true);
        }
        // What looks whole may be found damaged with the next start.
        let doubtful = cluster.nodes.iter().any(|node| node.rotten);
        let few = members.configuration().voters().len() <= 3;
        let settled = |standing| standing == Standing::Voter;
        match cluster.rng.below(8) {
            0..3 => {
                let Some(at) = self.newcomer(cluster, &members)? else { return Ok(false) };
                let place = cluster.place(at).clone();
                let (name, address) = (place.name.as_str(), place.address.as_str());
                let (incarnation, node) = (place.incarnation, place.id);
                cluster.ask(leader, Admin::Add { name, address, incarnation, node })?;
            }
            3..6 => {
                let learner = draw(cluster, &members, |standing| standing == Standing::Learner);
                let Some(name) = learner else { return Ok(false) };
                cluster.ask(leader, Admin::Promote { name: &name })?;
            }
            6 if !doubtful && !few => {
                let Some(name) = leaving(cluster, leader, &members, settled) else {
                    return Ok(false);
                };
                cluster.ask(leader, Admin::Demote { name: &name })?;
            }
            7 if !doubtful && !few => {
                let Some(name) = leaving(cluster, leader, &members, |_| true) else {
                    return Ok(false);
                };
                cluster.ask(leader, Admin::Remove { name: &name })?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// A member that stands so, and is not gone.
fn draw<S: StateMachine>(
    cluster: &mut Cluster<S>,
    members: &Membership,
    chosen: impl Fn(Standing) -> bool,
) -> Option<String> {
    let here = |id: NodeId| !cluster.nodes[id.0 as usize - 1].gone;
    let fits = members.members().filter(|(member, standing)| chosen(*standing) && here(member.id));
    let names: Vec<String> = fits.map(|(member, _)| member.name.clone()).collect();
    if names.is_empty() {
        return None;
    }
    let at = cluster.rng.below(names.len() as u64) as usize;
    names.into_iter().nth(at)
}

/// Who leaves: often the leader itself, which then leads on with others' votes alone.
fn leaving<S: StateMachine>(
    cluster: &mut Cluster<S>,
    leader: usize,
    members: &Membership,
    chosen: impl Fn(Standing) -> bool,
) -> Option<String> {
    if cluster.rng.chance(1, 3) {
        return Some(cluster.place(leader).name.clone());
    }
    draw(cluster, members, chosen)
}

impl<S: StateMachine> Fault<S> for Members {
    fn strike(&mut self, cluster: &mut Cluster<S>) -> Result<bool, Failure> {
        let Some(leader) = cluster.leader() else { return Ok(false) };
        self.ask(cluster, leader)
    }

    /// A new leader is asked at once, some of them: it must know first what is committed.
    fn on_role(&mut self, cluster: &mut Cluster<S>, at: usize) -> Result<(), Failure> {
        if cluster.leads(at) && cluster.rng.chance(1, 3) {
            self.ask(cluster, at)?;
        }
        Ok(())
    }
}
