//! Rot: bits flip in what is at rest on one node's disk, in old segments of its log and in its
//! snapshots. Others have what it loses, so that all of it can be mended.
//!
//! What is not at rest stays as it is: what was durable a moment ago and is unreadable after a
//! crash cannot be told from a write that was cut off.

use margay_log::Log;
use margay_log::rng::Rng;

use super::{Cluster, Failure, Fault, StateMachine};
use crate::replica::Replica;

pub(super) struct Rot {
    victim: u64,
}

impl Rot {
    pub(super) fn new(rng: &mut Rng) -> Rot {
        Rot { victim: rng.next_u64() }
    }
}

impl<S: StateMachine> Fault<S> for Rot {
    fn strike(&mut self, cluster: &mut Cluster<S>) -> Result<bool, Failure> {
        let at = (self.victim % cluster.nodes.len() as u64) as usize;
        if cluster.nodes.iter().any(|node| node.gone) || cluster.founders < 3 {
            return Ok(false); // There may be no other copy, or nobody to elect a leader without it.
        }
        let Cluster { nodes, rng, .. } = cluster;
        // Nobody could bring a log back that was cut while another node is lost.
        let mut others = nodes.iter().enumerate().filter(|(other, _)| *other != at);
        if others.any(|(_, node)| node.rotten || node.gone) || nodes[at].gone {
            return Ok(false);
        }
        let node = &mut nodes[at];
        let snapshots: Vec<_> = node.disk.finished_snapshots().collect();
        if rng.chance(1, 4) && !snapshots.is_empty() {
            let (snapshot, size) = snapshots[rng.below(snapshots.len() as u64) as usize];
            let (offset, bit) = (rng.below(size), rng.below(8) as u8);
            node.disk.flip_snapshot(snapshot, offset, bit);
            cluster.trace.line(cluster.now, format_args!("node {at}: {snapshot}.mgs rots"));
            cluster.nodes[at].rotten = true;
            return Ok(true);
        }
        let log = node.replica.as_ref().map(Replica::log);
        let end = log.map_or(node.left_at_rest, Log::at_rest_below);
        let segments: Vec<_> = node.disk.segment_numbers().filter(|at| *at < end).collect();
        if segments.is_empty() {
            return Ok(false);
        }
        let segment = segments[rng.below(segments.len() as u64) as usize];
        let blocks: Vec<u64> = node.disk.written_blocks(segment).collect();
        let block = blocks[rng.below(blocks.len() as u64) as usize];
        // Most of a small batch is padding: what counts is at its beginning.
        let within = if rng.chance(1, 2) { 256 } else { 4_096 };
        let (offset, bit) = (block + rng.below(within), rng.below(8) as u8);
        node.disk.flip(segment, offset, bit);
        node.rotten = true;
        let line = format_args!("node {at}: segment {segment} rots at {offset}");
        cluster.trace.line(cluster.now, line);
        Ok(true)
    }
}
