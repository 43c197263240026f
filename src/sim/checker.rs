//! What must hold after every turn of every node, seen from above.
//!
//! Raft's own invariants are checked inside the core; here is what no node can see by itself.

use std::collections::BTreeMap;

use margay_log::id::{Chain, Index, NodeId, Term};

use super::Failure;
use super::node::Node;
use crate::machine::{Frozen, StateMachine};
use crate::raft::Configuration;
use crate::raft::message::RoleKind;

/// States are compared at one index of `2^SAMPLE_BITS`, and at the end.
const SAMPLE_BITS: u32 = 6;

/// What was seen so far.
#[derive(Debug)]
pub(super) struct Checker<S> {
    /// What must hold for every state.
    invariant: fn(&S) -> Result<(), String>,
    leaders: BTreeMap<Term, NodeId>,
    /// Chain at each commit position anybody has named.
    committed: BTreeMap<Index, Chain>,
    highest: Index,
    /// Digest of the state at an applied index.
    states: BTreeMap<Index, (NodeId, u32)>,
    /// The boot and index at which a node's state was last compared.
    compared: BTreeMap<NodeId, (u64, Index)>,
    /// What a node that is down had made durable.
    durable: BTreeMap<NodeId, Index>,
    seen: BTreeMap<(NodeId, u64), Index>,
}

impl<S: StateMachine> Checker<S> {
    pub(super) fn new(invariant: fn(&S) -> Result<(), String>) -> Checker<S> {
        Checker {
            invariant,
            leaders: BTreeMap::new(),
            committed: BTreeMap::new(),
            highest: Index::ZERO,
            states: BTreeMap::new(),
            compared: BTreeMap::new(),
            durable: BTreeMap::new(),
            seen: BTreeMap::new(),
        }
    }

    /// Looks at one node after its turn.
    pub(super) fn look(&mut self, nodes: &[Node<S>], at: usize) -> Result<(), Failure> {
        let node = &nodes[at];
        let Some(replica) = &node.replica else { return Ok(()) };
        let raft = replica.raft();
        self.durable.insert(node.id, replica.log().durable());
        if raft.role() == RoleKind::Leader {
            let leader = *self.leaders.entry(raft.term()).or_insert(node.id);
            if leader != node.id {
                let details = format!("{leader} and {} in {}", node.id, raft.term());
                return Err(Failure::new("one leader per term", details));
            }
        }
        let commit = replica.commit();
        let before = self.seen.insert((node.id, node.boot), commit).unwrap_or_default();
        if commit < before {
            return Err(Failure::new("commit never goes back", format!("{}", node.id)));
        }
        if commit > before {
            self.committed_at(nodes, at, commit)?;
        }
        if replica.repair_counts().found > 0 && !node.rotten {
            let details = format!("{} has a batch that cannot be read", node.id);
            return Err(Failure::new("no damage without rot", details));
        }
        // The two newest, one for each node that it is brought to, and some that are on their way out.
        let (kept, max) = (node.disk.finished_snapshots().count(), 4 + nodes.len());
        if kept > max {
            let details = format!("{} keeps {kept}", node.id);
            return Err(Failure::new("old snapshots are let go of", details));
        }
        let applied = replica.machine().applied();
        // The same indexes on every node: what is drawn by the node would seldom meet.
        if applied.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - SAMPLE_BITS) == 0 {
            self.compare_state(node)?;
        }
        Ok(())
    }

    fn committed_at(&mut self, nodes: &[Node<S>], at: usize, commit: Index) -> Result<(), Failure> {
        let node = &nodes[at];
        let Some(replica) = &node.replica else { return Ok(()) };
        let log = replica.log();
        let Some(chain) = log.chain_at(commit) else {
            let details = format!("{} committed {commit}", node.id);
            return Err(Failure::new("commit positions are batch ends", details));
        };
        let known = *self.committed.entry(commit).or_insert(chain);
        if known != chain {
            let details = format!("{} at {commit}: {chain}, others {known}", node.id);
            return Err(Failure::new("committed logs are identical", details));
        }
        if commit <= self.highest {
            return Ok(());
        }
        self.highest = commit;
        let holds = |id: NodeId| {
            let node = &nodes[id.0 as usize - 1];
            match &node.replica {
                Some(replica) => {
                    let log = replica.log();
                    // What has rotted since it was acknowledged counts: it is brought back.
                    node.rotten || (log.durable() >= commit && log.chain_at(commit) == Some(chain))
                }
                None => self.durable.get(&node.id).is_some_and(|&durable| durable >= commit),
            }
        };
        let majority = |voters: &[NodeId]| {
            let holding = voters.iter().filter(|voter| holds(**voter)).count();
            voters.is_empty() || 2 * holding > voters.len()
        };
        // Whoever has lost its snapshots may know later ones alone.
        if !replica.members().reaches(commit) {
            return Ok(());
        }
        // What is in force counts, and that may have come behind the entry: once a joint
        // configuration is committed, nobody leads without a majority of its new half.
        let as_of = replica.members().at(commit).configuration();
        let in_force = replica.members().current().configuration();
        let rests_on =
            |counts: &Configuration| majority(counts.voters()) && majority(counts.outgoing());
        if !rests_on(&as_of) && !rests_on(&in_force) {
            let details = format!("{} committed {commit} with {as_of:?}", node.id);
            return Err(Failure::new("commit rests on a durable quorum", details));
        }
        Ok(())
    }

    /// Compares a node's state with that of others at the same index.
    pub(super) fn compare_state(&mut self, node: &Node<S>) -> Result<(), Failure> {
        let Some(machine) = node.replica.as_ref().map(|replica| replica.machine()) else {
            return Ok(());
        };
        let applied = machine.applied();
        if self.compared.insert(node.id, (node.boot, applied)) == Some((node.boot, applied)) {
            return Ok(());
        }
        if let Err(details) = (self.invariant)(machine.state()) {
            return Err(Failure::new("the machine's own invariant", details));
        }
        let (mut digest, mut chunk) = (0, Vec::new());
        let mut frozen = machine.freeze();
        loop {
            chunk.clear();
            let more = frozen.next_chunk(64 << 10, &mut chunk);
            digest = crc32c::crc32c_append(digest, &chunk);
            if !more {
                break;
            }
        }
        let (other, known) = *self.states.entry(applied).or_insert((node.id, digest));
        if known != digest {
            let details = format!("{other} and {} differ at {applied}", node.id);
            return Err(Failure::new("equal logs give equal states", details));
        }
        Ok(())
    }
}
