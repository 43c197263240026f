//! An ordered set of bytes.
//!
//! A member can leave by itself, after a time or with the session that added it; adding it again
//! gives it the life of the new addition. Events: those of [`super::entries`], the member as key,
//! without values.

mod handle;

pub use super::entries::{PAGE_BYTES_MAX, PAGE_MAX};
pub use handle::{Set, SetEvent, SetPage, SetRange};

use super::Resource;
use super::codec::{Operation, Scratch, access, check_by_schema, limits, operation};
use super::entries::{Entries, Held, Life, Page, delegate_to_entries};
use crate::machine::bytes;
use crate::machine::{Code, Commit, Effects, Pair, Query, kind};
use rkyv::vec::ArchivedVec;

/// Members that a retain removes one by one, at most; where more go, it is told as a clear, and
/// those that stay as additions.
const RETAIN_MAX: usize = 1_024;

// ---- operations -----------------------------------------------------------------------------

/// Adds members. Answers how many were not there.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct AddV1 {
    /// Up to 1,000 of at most 4 KiB.
    pub members: Vec<Vec<u8>>,
    /// Whether they end with the session.
    pub ephemeral: bool,
    /// Their time to live in milliseconds; 0 for no limit.
    pub ttl_ms: u64,
}

/// Removes members. Answers how many were there.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct RemoveV1 {
    /// Up to 1,000 of at most 4 KiB.
    pub members: Vec<Vec<u8>>,
}

/// Removes all members but these. Answers how many were removed.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct RetainV1 {
    /// Up to 1,000 of at most 4 KiB.
    pub members: Vec<Vec<u8>>,
}

/// Removes all members.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct ClearV1 {}

/// Removes the first or the last member. Answers 1 and the member, or 0.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct PollV1 {
    /// The last one.
    pub last: bool,
}

/// Query: whether members are there. Answers 1 or 0 for each.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct ContainsV1 {
    /// Up to 1,000 of at most 4 KiB.
    pub members: Vec<Vec<u8>>,
}

/// Query: the number of members.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct SizeV1 {}

/// Query: members in order. Answers as a map does, without values.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct PageV1 {
    /// What the members begin with.
    pub prefix: Vec<u8>,
    /// The least member.
    pub from: Option<Vec<u8>>,
    /// The members are less than this; at most 4 KiB and one byte.
    pub to: Option<Vec<u8>>,
    /// The page begins after this member, in its direction.
    pub after: Option<Vec<u8>>,
    /// At most so many; 0 and anything over [`PAGE_MAX`] stand for [`PAGE_MAX`].
    pub limit: u32,
    /// From the last member to the first.
    pub descending: bool,
}

operation!(AddV1, kind::SET, 0x0101, "add");
operation!(RemoveV1, kind::SET, 0x0201, "remove");
operation!(RetainV1, kind::SET, 0x0301, "retain");
operation!(ClearV1, kind::SET, 0x0401, "clear");
operation!(PollV1, kind::SET, 0x0501, "poll");
operation!(ContainsV1, kind::SET, 0x4001, "contains");
operation!(SizeV1, kind::SET, 0x4101, "size");
operation!(PageV1, kind::SET, 0x4201, "page");

limits! {
    ArchivedAddV1: keys(members), ttl(ttl_ms);
    ArchivedRemoveV1: keys(members);
    ArchivedRetainV1: keys(members);
    ArchivedClearV1:;
    ArchivedPollV1:;
    ArchivedContainsV1: keys(members);
    ArchivedSizeV1:;
    ArchivedPageV1: key(prefix), bound(from), bound(to), bound(after);
}

check_by_schema!(AddV1, RemoveV1, RetainV1, ClearV1, PollV1);

// ---- state ----------------------------------------------------------------------------------

/// Entries without values.
#[derive(Clone, Debug, Default)]
pub(super) struct SetState {
    members: Entries,
}

impl Resource for SetState {
    fn apply(&mut self, commit: &Commit<'_>, effects: &mut Effects) {
        if let Err(code) = self.try_apply(commit, effects) {
            effects.refuse(code, "");
        }
    }

    fn query(&self, query: &Query<'_>, effects: &mut Effects) {
        if let Err(code) = self.try_query(query, &mut effects.reply) {
            effects.refuse(code, "");
        }
    }

    delegate_to_entries!(members);
}

impl SetState {
    fn try_apply(&mut self, commit: &Commit<'_>, effects: &mut Effects) -> Result<(), Code> {
        let (payload, mut scratch) = (commit.payload, Scratch::new());
        match commit.schema {
            AddV1::SCHEMA => {
                let add = access::<AddV1>(payload, &mut scratch)?;
                let life = Life::wished(add.ttl_ms.to_native(), add.ephemeral, commit);
                let is_new = |member: &&ArchivedVec<u8>| self.add(member, life, commit, effects);
                let added = add.members.iter().filter(is_new).count();
                bytes::put_u64(&mut effects.reply, added as u64);
            }
            RemoveV1::SCHEMA => {
                let remove = access::<RemoveV1>(payload, &mut scratch)?;
                let mut removed = 0;
                for member in remove.members.iter() {
                    removed += u64::from(self.members.remove(member, commit, effects).is_some());
                }
                bytes::put_u64(&mut effects.reply, removed);
            }
            RetainV1::SCHEMA => {
                let retain = access::<RetainV1>(payload, &mut scratch)?;
                let removed = self.retain(&retain.members, commit, effects);
                bytes::put_u64(&mut effects.reply, removed);
            }
            ClearV1::SCHEMA => {
                access::<ClearV1>(payload, &mut scratch)?;
                self.members.clear(commit, effects);
            }
            PollV1::SCHEMA => {
                let descending = access::<PollV1>(payload, &mut scratch)?.last;
                let page = Page { descending, ..Page::default() };
                let first = self.members.first(&page, commit.time)?;
                let first = first.map(|held| held.pair.clone());
                effects.reply.push(u8::from(first.is_some()));
                if let Some(first) = first {
                    effects.reply.extend_from_slice(first.key());
                    self.members.remove(first.key(), commit, effects);
                }
            }
            _ => return Err(Code::BAD_KIND),
        }
        Ok(())
    }

    /// Returns whether it was not there. One that was has a new life now, and nobody is told.
    fn add(
        &mut self,
        member: &[u8],
        life: Life,
        commit: &Commit<'_>,
        effects: &mut Effects,
    ) -> bool {
        match self.members.get(member, commit.time) {
            None => {
                self.members.put(Pair::new(member, &[]), life, (), commit, effects);
                true
            }
            Some(held) => {
                let renewed = Held::new(held.pair.clone(), commit.index, life, ());
                self.members.insert(renewed);
                false
            }
        }
    }

    fn retain(
        &mut self,
        members: &ArchivedVec<ArchivedVec<u8>>,
        commit: &Commit<'_>,
        effects: &mut Effects,
    ) -> u64 {
        let before = self.members.len(commit.time) as u64;
        let mut kept: Vec<&[u8]> = members.iter().map(|member| &member[..]).collect();
        kept.sort_unstable();
        kept.dedup();
        kept.retain(|member| self.members.get(member, commit.time).is_some());
        if self.members.len_at_most() - kept.len() <= RETAIN_MAX {
            let mut leaving = Vec::new();
            self.members.scan(&Page::default(), commit.time, |held| {
                if kept.binary_search(&held.pair.key()).is_err() {
                    leaving.push(held.pair.clone());
                }
                true
            });
            for pair in &leaving {
                self.members.remove(pair.key(), commit, effects);
            }
        } else {
            let held = |member: &&[u8]| self.members.get(member, commit.time).cloned();
            let stay: Vec<Held<()>> = kept.iter().filter_map(held).collect();
            self.members.clear(commit, effects);
            for held in stay {
                let Held { ref pair, version, extra, .. } = held;
                effects.event(commit.resource, super::entries::PUT, Some(pair.clone()), None);
                self.members.insert(Held::new(pair.clone(), version, held.life(), extra));
            }
        }
        before - kept.len() as u64
    }

    fn try_query(&self, query: &Query<'_>, out: &mut Vec<u8>) -> Result<(), Code> {
        let (payload, now, mut scratch) = (query.payload, query.time, Scratch::new());
        match query.schema {
            ContainsV1::SCHEMA => {
                let contains = access::<ContainsV1>(payload, &mut scratch)?;
                let is_there = |member: &ArchivedVec<u8>| self.members.get(member, now).is_some();
                out.extend(contains.members.iter().map(|member| u8::from(is_there(member))));
            }
            SizeV1::SCHEMA => {
                access::<SizeV1>(payload, &mut scratch)?;
                bytes::put_u64(out, self.members.len(now) as u64);
            }
            PageV1::SCHEMA => {
                let page = access::<PageV1>(payload, &mut scratch)?;
                let page = Page {
                    prefix: &page.prefix,
                    from: page.from.as_deref(),
                    to: page.to.as_deref(),
                    after: page.after.as_deref(),
                    limit: page.limit.to_native(),
                    descending: page.descending,
                    values: false,
                };
                self.members.page(&page, now, out);
            }
            _ => return Err(Code::BAD_KIND),
        }
        Ok(())
    }
}
