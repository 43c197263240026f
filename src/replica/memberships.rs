//! The memberships in a log: the latest that is committed, and those behind it. The last one counts
//! from its append on (thesis §4.1), and goes again with what is cut off.

use margay_log::id::{Index, NodeId};

use super::membership::{BadMembership, Member, Membership};

/// The memberships in a log that may still count, each with the index of its entry: the latest that
/// is committed, and those behind it. The last one is in force (thesis §4.1: from its append on).
#[derive(Clone, Debug)]
pub struct Memberships(Vec<(Index, Membership)>);

impl Memberships {
    /// The membership as of `index`, which is committed, and those behind it, rising.
    #[must_use]
    pub fn new(index: Index, membership: Membership) -> Memberships {
        Memberships(vec![(index, membership)])
    }

    /// The one in force.
    #[must_use]
    pub fn current(&self) -> &Membership {
        &self.0.last().expect("there is always one").1
    }

    /// All that may still count, the one in force last.
    pub fn iter(&self) -> impl Iterator<Item = &(Index, Membership)> {
        self.0.iter()
    }

    /// Whether it is known what was in force as of `index`: not where a later one is committed.
    #[must_use]
    pub fn reaches(&self, index: Index) -> bool {
        self.0.first().is_some_and(|(at, _)| *at <= index)
    }

    /// The one in force as of `index`; what a snapshot at `index` must carry.
    ///
    /// `index` must not be before the latest committed one: see [`Memberships::reaches`].
    #[must_use]
    pub fn at(&self, index: Index) -> &Membership {
        let found = self.0.iter().rfind(|(at, _)| *at <= index);
        &found.expect("the committed membership is kept").1
    }

    /// The bytes of the one in force as of `index`, behind the index of its entry: what a snapshot
    /// carries.
    #[must_use]
    pub fn encode_at(&self, index: Index) -> Vec<u8> {
        let found = self.0.iter().rfind(|(at, _)| *at <= index);
        let (at, membership) = found.expect("the committed membership is kept");
        let mut out = at.0.to_le_bytes().to_vec();
        out.extend_from_slice(&membership.encode());
        out
    }

    /// Reads what [`Memberships::encode_at`] wrote.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn decode(bytes: &[u8]) -> Result<(Index, Membership), BadMembership> {
        let (index, rest) = bytes.split_first_chunk().ok_or(BadMembership("too short"))?;
        Ok((Index(u64::from_le_bytes(*index)), Membership::decode(rest)?))
    }

    /// An entry was appended.
    pub fn append(&mut self, index: Index, membership: Membership) {
        assert!(self.0.last().is_some_and(|(last, _)| *last < index), "memberships rise");
        self.0.push((index, membership));
    }

    /// Gives one its place that was in the log all the time, and has come to light. Whether it may
    /// still count and was not known.
    pub fn insert(&mut self, index: Index, membership: Membership) -> bool {
        let place = self.0.partition_point(|(at, _)| *at < index);
        let is_known = self.0.get(place).is_some_and(|(at, _)| *at == index);
        let is_new = place > 0 && !is_known;
        if is_new {
            self.0.insert(place, (index, membership));
        }
        is_new
    }

    /// The log was cut behind `index`. Whether that changed who is a member.
    pub fn truncate_after(&mut self, index: Index) -> bool {
        let before = self.0.len();
        self.0.retain(|(at, _)| *at <= index);
        assert!(!self.0.is_empty(), "a committed membership would be truncated");
        self.0.len() < before
    }

    /// The log is committed up to `index`. Whether a membership was settled by that.
    pub fn commit(&mut self, index: Index) -> bool {
        let committed = self.0.iter().rposition(|(at, _)| *at <= index).unwrap_or(0);
        self.0.drain(..committed);
        committed > 0
    }

    /// Whether the one in force is committed, and no change of voters under way.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.0.len() == 1 && !self.current().is_joint()
    }

    /// A member of this number in any of them; the latest wins.
    #[must_use]
    pub fn member(&self, id: NodeId) -> Option<&Member> {
        self.0.iter().rev().find_map(|(_, membership)| membership.member(id))
    }
}

#[cfg(test)]
mod tests {
    use margay_log::id::Incarnation;

    use super::*;

    /// A group of so many.
    fn of(members: u32) -> Membership {
        let member = |n: u32| Member {
            id: NodeId(n),
            name: format!("n{n}"),
            address: format!("h{n}:5150"),
            incarnation: Incarnation(u64::from(n)),
        };
        Membership::founding((1..=members).map(member).collect())
    }

    #[test]
    fn memberships_follow_the_log() {
        let mut kept = Memberships::new(Index(0), of(3));
        let four = of(4);
        kept.append(Index(7), four.clone());
        assert_eq!(kept.current(), &four);
        assert_eq!(kept.at(Index(6)), &of(3));
        assert!(kept.truncate_after(Index(6)) && !kept.truncate_after(Index(3)));
        assert_eq!(kept.current(), &of(3));
        kept.append(Index(8), four.clone());
        assert!(!kept.commit(Index(7)) && kept.commit(Index(8)) && !kept.commit(Index(9)));
        assert_eq!(kept.iter().count(), 1);
    }

    /// What is applied may be behind what is committed: then nobody can say any more what was in
    /// force.
    #[test]
    fn what_was_in_force_is_known_from_the_latest_committed_on() {
        let four = of(4);
        let mut memberships = Memberships::new(Index(1), of(3));
        memberships.append(Index(7), four.clone());
        assert!(memberships.reaches(Index(6)) && !memberships.reaches(Index(0)));
        assert_eq!(memberships.at(Index(6)), &of(3));
        assert!(memberships.commit(Index(7)));
        assert!(memberships.reaches(Index(7)) && !memberships.reaches(Index(6)));
        assert_eq!(memberships.at(Index(7)), &four);
    }

    /// A batch that could not be read when the log was opened is back.
    #[test]
    fn what_was_in_the_log_all_the_time_finds_its_place() {
        let four = of(4);
        let five = of(5);
        let mut memberships = Memberships::new(Index(1), of(3));
        memberships.append(Index(9), five.clone());
        assert!(memberships.insert(Index(5), four.clone()));
        assert!(!memberships.insert(Index(5), four.clone()), "known by now");
        assert!(!memberships.insert(Index(1), four.clone()) && !memberships.insert(Index(0), four));
        let at = |index| memberships.at(Index(index)).members().count();
        assert_eq!([1, 4, 5, 8, 9].map(at), [3, 3, 4, 4, 5]);
        assert_eq!(memberships.current(), &five);
    }
}
