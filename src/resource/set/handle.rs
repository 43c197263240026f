//! The set as applications use it.

use super::{AddV1, ClearV1, ContainsV1, PageV1, PollV1, RemoveV1, RetainV1, SizeV1};
use crate::machine::bytes::Reader;
use crate::machine::{Code, EventPayload, Filter, Level, ResourceId, kind};
use crate::resource::handle::{Handle, Lifetime, Removal, read_count};
use crate::resource::registry::DELETED;
use crate::resource::{Delivery, Failure, Reply, Submit, Watch, entries};
use margay_log::id::Index;
use std::time::Duration;

/// An ordered set of bytes.
///
/// Members are at most 4 KiB, else adding fails with [`Code::KEY_TOO_LARGE`].
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let client = margay::client::Client::builder().endpoints(["127.0.0.1:5150"]).connect()?;
/// let tags = client.set("tags").wait()?;
/// let added = tags.add_all(&["red", "green"]).wait()?;
/// println!("{added} of them are new, {} are there", tags.size().wait()?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Set<S> {
    handle: Handle<S>,
    life: Lifetime,
}

/// Part of a set, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SetPage {
    /// At most [`super::PAGE_MAX`], about [`super::PAGE_BYTES_MAX`].
    pub members: Vec<Vec<u8>>,
    /// Ask for the next page after this member ([`SetRange::after`]); `None` where this is the
    /// last. A page may be short, even empty, and not the last.
    pub next: Option<Vec<u8>>,
}

/// Which part of a set to read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SetRange {
    /// What the members begin with.
    pub prefix: Vec<u8>,
    /// The least member.
    pub from: Option<Vec<u8>>,
    /// The members are less than this.
    pub to: Option<Vec<u8>>,
    /// The page begins after this member, in its direction: [`SetPage::next`] of the page before.
    pub after: Option<Vec<u8>>,
    /// At most so many; 0 for as many as fit.
    pub limit: u32,
    /// From the last member to the first.
    pub descending: bool,
}

/// A change of a set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SetEvent {
    /// A member is there that was not.
    Added {
        /// The member.
        member: Vec<u8>,
        /// Where in the log that happened.
        version: Index,
    },
    /// A member is not there any more.
    Removed {
        /// The member.
        member: Vec<u8>,
        /// Where in the log that happened.
        version: Index,
        /// Why.
        why: Removal,
    },
    /// All members were removed.
    Cleared,
    /// The set was deleted.
    Deleted,
    /// Changes were missed: read the set, then go on.
    Lagged {
        /// Index of the oldest event still kept.
        oldest: Index,
    },
}

impl<S: Submit> Set<S> {
    /// Opens a set by name; it is created where there is none.
    pub fn open(submit: S, name: &str) -> Reply<Set<S>> {
        let opened = Handle::open(submit, name, kind::SET);
        opened.and_then(|handle| Ok(Set { handle, life: Lifetime::default() }))
    }

    /// The set `id`.
    pub fn new(submit: S, id: ResourceId) -> Set<S> {
        Set { handle: Handle::new(submit, id), life: Lifetime::default() }
    }

    /// The same, with reads at another level.
    #[must_use]
    pub fn with_level(self, level: Level) -> Set<S> {
        Set { handle: self.handle.with_level(level), ..self }
    }

    /// The same set, but what is added through this handle leaves by itself after `ttl`, in log
    /// time: 1 ms to 10 years, else adding fails with [`Code::BAD_TIME`]. Parts of a millisecond
    /// count as one. Adding a member again begins anew.
    #[must_use]
    pub fn with_ttl(self, ttl: Duration) -> Set<S> {
        Set { life: self.life.with_ttl(ttl), ..self }
    }

    /// The same set, but what is added through this handle leaves with this client's session.
    #[must_use]
    pub fn ephemeral(self) -> Set<S> {
        Set { life: self.life.ephemeral(), ..self }
    }

    /// The way to it, for transactions and operations of one's own.
    #[must_use]
    pub fn handle(&self) -> &Handle<S> {
        &self.handle
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> ResourceId {
        self.handle.id()
    }

    /// Adds a member. Returns whether it was not there. One that was there has the life of this
    /// addition from now on.
    pub fn add(&self, member: &[u8]) -> Reply<bool> {
        self.add_all(&[member]).and_then(|added| Ok(added > 0))
    }

    /// Adds members, at most 1,000 and 1 MiB, at once. Returns how many were not there.
    pub fn add_all<M: AsRef<[u8]>>(&self, members: &[M]) -> Reply<u64> {
        let (members, Lifetime { ttl_ms, ephemeral }) = (owned(members), self.life);
        self.handle.command(&AddV1 { members, ephemeral, ttl_ms }).and_then(read_count)
    }

    /// Removes a member. Returns whether it was there.
    pub fn remove(&self, member: &[u8]) -> Reply<bool> {
        self.remove_all(&[member]).and_then(|removed| Ok(removed > 0))
    }

    /// Removes members, at most 1,000 and 1 MiB, at once. Returns how many were there.
    pub fn remove_all<M: AsRef<[u8]>>(&self, members: &[M]) -> Reply<u64> {
        self.handle.command(&RemoveV1 { members: owned(members) }).and_then(read_count)
    }

    /// Removes all members but these, at most 1,000 and 1 MiB. Returns how many were removed.
    ///
    /// Where more than about a thousand go, watchers are told of a clear, and then of those that
    /// stay as if they were added.
    pub fn retain<M: AsRef<[u8]>>(&self, members: &[M]) -> Reply<u64> {
        self.handle.command(&RetainV1 { members: owned(members) }).and_then(read_count)
    }

    /// Removes all members.
    pub fn clear(&self) -> Reply<()> {
        self.handle.command(&ClearV1 {}).and_then(|_| Ok(()))
    }

    /// Removes and returns the least member.
    pub fn poll_first(&self) -> Reply<Option<Vec<u8>>> {
        self.poll(false)
    }

    /// Removes and returns the greatest member.
    pub fn poll_last(&self) -> Reply<Option<Vec<u8>>> {
        self.poll(true)
    }

    fn poll(&self, last: bool) -> Reply<Option<Vec<u8>>> {
        self.handle.command(&PollV1 { last }).and_then(|answer| {
            let mut reader = Reader::new(&answer.payload);
            let is_there = reader.u8()? != 0;
            Ok(is_there.then(|| reader.rest().to_vec()))
        })
    }

    /// Whether a member is there.
    pub fn contains(&self, member: &[u8]) -> Reply<bool> {
        self.contains_all(&[member])
    }

    /// Whether all of these, at most 1,000, are there, at one moment.
    pub fn contains_all<M: AsRef<[u8]>>(&self, members: &[M]) -> Reply<bool> {
        let contains = ContainsV1 { members: owned(members) };
        let asked = self.handle.query(&contains);
        asked.and_then(|answer| Ok(answer.payload.iter().all(|is_there| *is_there != 0)))
    }

    /// The number of members.
    pub fn size(&self) -> Reply<u64> {
        self.handle.query(&SizeV1 {}).and_then(read_count)
    }

    /// Whether there are no members.
    pub fn is_empty(&self) -> Reply<bool> {
        self.size().and_then(|size| Ok(size == 0))
    }

    /// A page of members.
    pub fn members(&self, range: SetRange) -> Reply<SetPage> {
        let SetRange { prefix, from, to, after, limit, descending } = range;
        let page = PageV1 { prefix, from, to, after, limit, descending };
        self.handle.query(&page).and_then(|answer| {
            let mut reader = Reader::new(&answer.payload);
            let next = reader.optional()?.map(<[u8]>::to_vec);
            let mut members = Vec::new();
            for _ in 0..reader.u32()? {
                members.push(reader.bytes()?.to_vec());
                let _version_and_owner = (reader.u64()?, reader.optional()?);
            }
            Ok(SetPage { members, next })
        })
    }

    /// Changes that pass the filter, after a position or from now on.
    pub fn watch(&self, after: Option<(Index, u32)>, filter: Filter) -> Watch<SetEvent> {
        Watch::new(self.handle.subscribe(after, filter), read_event)
    }
}

fn owned<M: AsRef<[u8]>>(members: &[M]) -> Vec<Vec<u8>> {
    members.iter().map(|member| member.as_ref().to_vec()).collect()
}

fn read_event(delivery: Delivery) -> Result<SetEvent, Failure> {
    let (version, kind, payload) = match delivery {
        Delivery::Lagged { oldest } => return Ok(SetEvent::Lagged { oldest }),
        Delivery::Event { index: version, kind, payload, .. } => (version, kind, payload),
    };
    match (kind, EventPayload::decode(&payload)?.key) {
        (entries::PUT, Some(member)) => Ok(SetEvent::Added { member, version }),
        (entries::CLEARED, None) => Ok(SetEvent::Cleared),
        (DELETED, None) => Ok(SetEvent::Deleted),
        (kind, Some(member)) => match Removal::of_event(kind) {
            Some(why) => Ok(SetEvent::Removed { member, version, why }),
            None => Err(Failure::from(Code::BAD_PAYLOAD)),
        },
        _ => Err(Failure::from(Code::BAD_PAYLOAD)),
    }
}
