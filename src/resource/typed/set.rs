//! A set of a type.

use super::{Change, Data};
use crate::machine::{Filter, Level};
use crate::resource::set::SetRange;
use crate::resource::{Failure, Reply, Set, Submit, Watch};
use margay_log::id::Index;
use std::marker::PhantomData;
use std::time::Duration;

/// A set of a type, in the order of the members' bytes.
pub struct SetOf<M, S> {
    set: Set<S>,
    is: PhantomData<fn() -> M>,
}

/// Members of a [`SetOf`], in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SetPageOf<M> {
    /// The members.
    pub members: Vec<M>,
    /// Ask for the next page after this member; `None` where this is the last. A page may be
    /// short, even empty, and not the last.
    pub next: Option<M>,
}

impl<M: Data, S: Submit> SetOf<M, S> {
    /// The same set, with members of a type.
    pub fn new(set: Set<S>) -> SetOf<M, S> {
        SetOf { set, is: PhantomData }
    }

    /// The set in bytes, for all else it can do.
    #[must_use]
    pub fn bytes(&self) -> &Set<S> {
        &self.set
    }

    /// See [`Set::with_level`].
    #[must_use]
    pub fn with_level(self, level: Level) -> SetOf<M, S> {
        SetOf::new(self.set.with_level(level))
    }

    /// See [`Set::with_ttl`].
    #[must_use]
    pub fn with_ttl(self, ttl: Duration) -> SetOf<M, S> {
        SetOf::new(self.set.with_ttl(ttl))
    }

    /// See [`Set::ephemeral`].
    #[must_use]
    pub fn ephemeral(self) -> SetOf<M, S> {
        SetOf::new(self.set.ephemeral())
    }

    /// See [`Set::add`].
    pub fn add(&self, member: &M) -> Reply<bool> {
        self.set.add(&member.to_bytes())
    }

    /// See [`Set::add_all`].
    pub fn add_all(&self, members: &[M]) -> Reply<u64> {
        self.set.add_all(&all(members))
    }

    /// Removes a member. Returns whether it was there.
    pub fn remove(&self, member: &M) -> Reply<bool> {
        self.set.remove(&member.to_bytes())
    }

    /// See [`Set::remove_all`].
    pub fn remove_all(&self, members: &[M]) -> Reply<u64> {
        self.set.remove_all(&all(members))
    }

    /// See [`Set::retain`].
    pub fn retain(&self, members: &[M]) -> Reply<u64> {
        self.set.retain(&all(members))
    }

    /// Removes all members.
    pub fn clear(&self) -> Reply<()> {
        self.set.clear()
    }

    /// Removes and returns the least member.
    pub fn poll_first(&self) -> Reply<Option<M>> {
        self.set.poll_first().and_then(read_member)
    }

    /// Removes and returns the greatest member.
    pub fn poll_last(&self) -> Reply<Option<M>> {
        self.set.poll_last().and_then(read_member)
    }

    /// Whether a member is there.
    pub fn contains(&self, member: &M) -> Reply<bool> {
        self.set.contains(&member.to_bytes())
    }

    /// See [`Set::contains_all`].
    pub fn contains_all(&self, members: &[M]) -> Reply<bool> {
        self.set.contains_all(&all(members))
    }

    /// The number of members.
    pub fn size(&self) -> Reply<u64> {
        self.set.size()
    }

    /// A page of members after one of them, or from the first; at most `limit`, 0 for as many as
    /// a page holds.
    pub fn members(&self, after: Option<&M>, limit: u32) -> Reply<SetPageOf<M>> {
        let after = after.map(Data::to_bytes);
        self.set.members(SetRange { after, limit, ..SetRange::default() }).and_then(|page| {
            let member = |member: &Vec<u8>| Ok(M::from_bytes(member)?);
            let members = page.members.iter().map(member).collect::<Result<_, Failure>>()?;
            Ok(SetPageOf { members, next: read_member(page.next)? })
        })
    }

    /// Changes of the set, after a position or from now on.
    pub fn watch(&self, after: Option<(Index, u32)>) -> Watch<Change<M, ()>> {
        Watch::new(self.set.handle().subscribe(after, Filter::All), Change::read)
    }
}

fn all<M: Data>(members: &[M]) -> Vec<Vec<u8>> {
    members.iter().map(Data::to_bytes).collect()
}

fn read_member<M: Data>(found: Option<Vec<u8>>) -> Result<Option<M>, Failure> {
    Ok(found.as_deref().map(M::from_bytes).transpose()?)
}

impl<M, S: Clone> Clone for SetOf<M, S> {
    fn clone(&self) -> Self {
        SetOf { set: self.set.clone(), is: PhantomData }
    }
}
