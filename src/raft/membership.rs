//! Who belongs to the group, and whose agreement counts.
//!
//! A configuration is fixed when a node starts; changing it goes through the log and is not here
//! yet. Everything that counts votes, acknowledgements, rounds or contacts already asks this type,
//! so a joint configuration (thesis §4.3) changes nothing elsewhere.

use margay_log::id::NodeId;

use super::quorum;

/// The members of a group. Each list is sorted and without duplicates.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Configuration {
    /// Who votes; while a change is under way, who will.
    voters: Vec<NodeId>,
    /// Who voted before the change under way; empty without one.
    outgoing: Vec<NodeId>,
    /// Who gets the log and does not vote.
    learners: Vec<NodeId>,
}

impl Configuration {
    /// A configuration of `voters` and `learners`; `outgoing` are the voters it replaces, while it
    /// does.
    #[must_use]
    pub fn new(
        mut voters: Vec<NodeId>,
        mut outgoing: Vec<NodeId>,
        mut learners: Vec<NodeId>,
    ) -> Configuration {
        for list in [&mut voters, &mut outgoing, &mut learners] {
            list.sort_unstable();
            list.dedup();
        }
        learners.retain(|node| !voters.contains(node) && !outgoing.contains(node));
        Configuration { voters, outgoing, learners }
    }

    /// The voters, sorted.
    #[must_use]
    pub fn voters(&self) -> &[NodeId] {
        &self.voters
    }

    /// Whether the node's vote counts, in either half of a joint configuration.
    #[must_use]
    pub fn is_voter(&self, node: NodeId) -> bool {
        self.voters.contains(&node) || self.outgoing.contains(&node)
    }

    /// Everybody the log is sent to, each once.
    pub fn members(&self) -> impl Iterator<Item = NodeId> + '_ {
        let leaving = self.outgoing.iter().filter(|node| !self.voters.contains(node));
        self.voters.iter().chain(leaving).chain(&self.learners).copied()
    }

    /// What a quorum has reached; see [`quorum`].
    pub fn agreed<T: Ord + Copy>(&self, value: impl Fn(NodeId) -> T) -> Option<T> {
        quorum::agreed_jointly(&self.voters, &self.outgoing, value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(ids: &[u32]) -> Vec<NodeId> {
        ids.iter().map(|id| NodeId(*id)).collect()
    }

    #[test]
    fn every_member_is_listed_once() {
        let joint = Configuration::new(nodes(&[4, 2, 2]), nodes(&[1, 2]), nodes(&[1, 5]));
        assert_eq!(joint.members().collect::<Vec<_>>(), nodes(&[2, 4, 1, 5]));
        assert!(joint.is_voter(NodeId(1)) && !joint.is_voter(NodeId(5)));
    }

    #[test]
    fn learners_do_not_count() {
        let group = Configuration::new(nodes(&[1, 2, 3]), Vec::new(), nodes(&[4, 5]));
        assert_eq!(group.agreed(|node| node.0 > 2), Some(false));
        assert_eq!(group.agreed(|node| node.0 < 3), Some(true));
    }
}
