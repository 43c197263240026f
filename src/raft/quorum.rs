//! Quorums, as pure functions over a set of voters.
//!
//! There is one question: *what has a majority reached?* Asked of durable positions it is the
//! commit index (paper §5.3), of rounds the confirmed round (thesis §6.4), of times of contact the
//! moment up to which the leader certainly led (§6.2), and of ballots — `bool` is ordered too —
//! whether an election is won.
//!
//! Sets are tiny (1 to 7 voters), so the answer is counted in place instead of sorted in a copy:
//! this runs in every step of a leader and must not allocate.

use margay_log::breaks;
use margay_log::id::NodeId;

/// The greatest value that a majority of `voters` has reached, or `None` without voters.
///
/// ```
/// use margay::raft::quorum::agreed;
/// use margay_log::id::NodeId;
/// let voters = [NodeId(1), NodeId(2), NodeId(3)];
/// assert_eq!(agreed(&voters, |node| node.0 * 10), Some(20));
/// ```
pub fn agreed<T: Ord + Copy>(voters: &[NodeId], value: impl Fn(NodeId) -> T) -> Option<T> {
    let majority = voters.len() / 2 + usize::from(!breaks::HALF_IS_A_QUORUM.on());
    let reached = |goal: T| voters.iter().filter(|voter| value(**voter) >= goal).count();
    voters.iter().map(|voter| value(*voter)).filter(|goal| reached(*goal) >= majority).max()
}

/// The greatest value that a majority of each of two sets has reached: what counts during a change
/// of membership (thesis §4.3). An empty `outgoing` means that no change is under way.
pub fn agreed_jointly<T: Ord + Copy>(
    incoming: &[NodeId],
    outgoing: &[NodeId],
    value: impl Fn(NodeId) -> T,
) -> Option<T> {
    let new = agreed(incoming, &value)?;
    match agreed(outgoing, &value) {
        Some(old) => Some(new.min(old)),
        None => Some(new),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(ids: &[u32]) -> Vec<NodeId> {
        ids.iter().map(|id| NodeId(*id)).collect()
    }

    /// What `values[i]` is for node i + 1.
    fn by(values: &[u64]) -> impl Fn(NodeId) -> u64 {
        let values = values.to_vec();
        move |node| values[node.0 as usize - 1]
    }

    #[test]
    fn a_majority_reaches_the_median() {
        assert_eq!(agreed(&nodes(&[]), by(&[])), None);
        assert_eq!(agreed(&nodes(&[1]), by(&[7])), Some(7));
        assert_eq!(agreed(&nodes(&[1, 2]), by(&[7, 3])), Some(3));
        assert_eq!(agreed(&nodes(&[1, 2, 3]), by(&[7, 3, 5])), Some(5));
        assert_eq!(agreed(&nodes(&[1, 2, 3, 4]), by(&[9, 9, 1, 2])), Some(2));
        assert_eq!(agreed(&nodes(&[1, 2, 3, 4, 5]), by(&[1, 2, 2, 2, 9])), Some(2));
    }

    #[test]
    fn agrees_with_sorting() {
        for seed in 0..5_000_u64 {
            let count = seed % 7 + 1;
            let values: Vec<u64> =
                (0..count).map(|i| ((seed * 2_654_435_761) >> (i * 5)) % 6).collect();
            let voters: Vec<NodeId> = (1..=count as u32).map(NodeId).collect();
            let mut sorted = values.clone();
            sorted.sort_unstable();
            let median = sorted[(count as usize - 1) / 2];
            assert_eq!(agreed(&voters, by(&values)), Some(median), "{values:?}");
        }
    }

    #[test]
    fn a_joint_configuration_needs_both_majorities() {
        let (new, old) = (nodes(&[3, 4, 5]), nodes(&[1, 2, 3]));
        assert_eq!(agreed_jointly(&new, &old, by(&[1, 1, 9, 9, 9])), Some(1));
        assert_eq!(agreed_jointly(&new, &old, by(&[9, 9, 9, 1, 1])), Some(1));
        assert_eq!(agreed_jointly(&new, &old, by(&[1, 9, 9, 1, 9])), Some(9));
        assert_eq!(agreed_jointly(&new, &[], by(&[1, 1, 9, 9, 9])), Some(9));
    }

    #[test]
    fn an_election_is_the_case_of_yes_and_no() {
        let voters = nodes(&[1, 2, 3]);
        assert_eq!(agreed(&voters, |node| node.0 == 1), Some(false));
        assert_eq!(agreed(&voters, |node| node.0 <= 2), Some(true));
    }
}
