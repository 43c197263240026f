//! Disks that lose what they had: a bit of the hard state, or everything.
//!
//! The atlas, so that one good copy is left: of the hard state one bit per node and run, for each
//! slot of a pair has a twin; of disks one, and only where no other rots. A node whose disk is lost
//! does not come back.

use margay_log::disk::sim::SimDisk;
use margay_log::format::BLOCK;
use margay_log::hard_state::{HARD_STATE_BYTES, PAIR_BYTES};
use margay_log::id::{Index, Micros, NodeId};
use margay_log::rng::Rng;
use margay_log::{breaks, recover::Storage};

use super::Fault;
use crate::machine::StateMachine;
use crate::replica::Replica;
use crate::sim::Failure;
use crate::sim::cluster::Cluster;

/// A bit of the hard state, once per node.
#[derive(Default)]
pub(super) struct HardState {
    flipped: Vec<usize>,
}

/// The whole disk of one node, once.
#[derive(Default)]
pub(super) struct Wipe {
    done: bool,
}

/// Crashes a node, to find its disk changed when it starts.
fn crash<S: StateMachine>(cluster: &mut Cluster<S>, at: usize) {
    if cluster.nodes[at].is_up() {
        cluster.crash_for(at, 1_000_000);
    }
}

fn draw<S: StateMachine>(cluster: &mut Cluster<S>) -> usize {
    cluster.rng.below(cluster.nodes.len() as u64) as usize
}

/// Whether a majority of the voters stays if this node goes for good, too. Not while who votes is
/// being changed.
fn may_lose<S: StateMachine>(cluster: &Cluster<S>, at: usize) -> bool {
    let leader = cluster.leader().and_then(|leader| cluster.nodes[leader].replica.as_ref());
    let Some(raft) = leader.map(Replica::raft).filter(|raft| raft.may_change().is_ok()) else {
        return false;
    };
    let stays = |id: &&NodeId| {
        let other = id.0 as usize - 1;
        let node = &cluster.nodes[other];
        other != at && !node.rotten && !node.gone
    };
    let voters = raft.configuration().voters();
    let quiet = cluster.now.since(cluster.changed) > Micros::from_millis(2_000);
    quiet && 2 * voters.iter().filter(stays).count() > voters.len()
}

impl<S: StateMachine> Fault<S> for HardState {
    fn strike(&mut self, cluster: &mut Cluster<S>) -> Result<bool, Failure> {
        let at = draw(cluster);
        if self.flipped.contains(&at) || cluster.nodes[at].gone {
            return Ok(false);
        }
        self.flipped.push(at);
        crash(cluster, at);
        let offset = newest_slot(&mut cluster.nodes[at].disk, &mut cluster.rng);
        cluster.nodes[at].disk.flip_hard_state(offset, 3);
        cluster.trace.line(cluster.now, format_args!("the hard state of node {at} rots"));
        Ok(true)
    }
}

/// A place in one of the two copies of the newest update.
fn newest_slot(disk: &mut SimDisk, rng: &mut Rng) -> u64 {
    let file = disk.hard_state().ok().flatten().unwrap_or_default();
    let newest = margay_log::hard_state::HardState::newest(&file).ok();
    let pair = newest.map_or(0, |newest| u64::from(newest.pair));
    let copy = rng.below(2);
    (pair * PAIR_BYTES as u64 + copy * BLOCK as u64 + rng.below(64)) % HARD_STATE_BYTES as u64
}

impl<S: StateMachine> Fault<S> for Wipe {
    fn strike(&mut self, cluster: &mut Cluster<S>) -> Result<bool, Failure> {
        let at = draw(cluster);
        if self.done || !may_lose(cluster, at) {
            return Ok(false);
        }
        self.done = true;
        crash(cluster, at);
        let node = &mut cluster.nodes[at];
        cluster.trace.line(cluster.now, format_args!("{} loses its disk", node.id));
        node.disk = SimDisk::new(cluster.rng.next_u64());
        node.left_durable = Index::ZERO;
        // Its peers know it by its incarnation, which was on that disk.
        node.gone = !breaks::WIPED_NODE_VOTES.on();
        Ok(true)
    }
}
