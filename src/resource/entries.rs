//! Entries by key, in order of their keys: the state that value, map, set and document tree share.
//!
//! An entry has a value, a version (the index of the command that wrote it) and, where that was
//! wished, a bounded life: until a log time, until its session ends, or until the first of both.
//! What is due is gone for every operation at once; it is removed, and told, one by one: by its
//! timer, or by the next command that touches its key. The end of a session removes its entries a
//! few at a time, and is over when none is left. So neither a mass expiry, nor the end of a session
//! that owned a million entries, nor a clear does much at a time: see [`super::waste`] for the
//! latter.

mod item;
mod page;

use item::Sought;
pub(super) use item::{Extra, Held, Key, Life};
pub(super) use page::Page;
pub use page::{PAGE_BYTES_MAX, PAGE_MAX};

use super::snapshot::Items;
use super::waste::Waste;
use super::{ENDED_AT_ONCE, Firing};
use crate::machine::bytes::Reader;
use crate::machine::clock::{Due, Timers};
use crate::machine::{Code, Commit, Effects, LogTime, Pair, SessionId};
use imbl::OrdSet;
use margay_log::id::Index;
use std::ops::Bound;

/// Event: a key has a new value. With it the old one, if there was one.
pub const PUT: u16 = 1;
/// Event: a key was removed. With it the old value.
pub const REMOVED: u16 = 2;
/// Event: all keys were removed at once.
pub const CLEARED: u16 = 3;
/// Event: a key's time to live is over. With it the old value.
pub const EXPIRED: u16 = 4;
/// Event: the session a key belonged to is over, and the key with it. With it the old value.
pub const SESSION_ENDED: u16 = 5;

/// Sessions that are told apart when all entries go at once, at most. Of the others it stays noted
/// that they own something, until they end.
const LEFT_MAX: usize = 256;

/// What a resource whose whole state is entries leaves to them.
macro_rules! delegate_to_entries {
    ($entries:ident) => {
        fn session_ended(
            &mut self,
            session: $crate::machine::SessionId,
            commit: &$crate::machine::Commit<'_>,
            effects: &mut $crate::machine::Effects,
        ) -> usize {
            self.$entries.session_ended(session, commit, effects);
            0
        }

        fn deleted(
            &mut self,
            _firing: &$crate::resource::Firing,
            _limit: usize,
            _effects: &mut $crate::machine::Effects,
        ) -> bool {
            self.$entries.discard();
            false
        }

        fn next_timer(&self) -> Option<$crate::machine::clock::Due> {
            self.$entries.next_timer()
        }

        fn fire(
            &mut self,
            firing: &$crate::resource::Firing,
            effects: &mut $crate::machine::Effects,
        ) {
            self.$entries.fire(firing, effects);
        }

        fn involves(&self, session: $crate::machine::SessionId) -> bool {
            self.$entries.involves(session)
        }

        fn sessions(&self, limit: usize) -> Vec<$crate::machine::SessionId> {
            self.$entries.sessions(limit)
        }

        fn holders(&self, _now: $crate::machine::LogTime) -> $crate::resource::describe::Holders {
            $crate::resource::describe::Holders::default()
        }

        fn size(&self, now: $crate::machine::LogTime) -> u64 {
            self.$entries.len(now) as u64
        }

        fn take_left(&mut self) -> Vec<$crate::machine::SessionId> {
            self.$entries.take_left()
        }

        fn take_waste(&mut self) -> Option<Box<dyn $crate::resource::waste::Waste>> {
            self.$entries.take_waste()
        }

        fn freeze(
            &self,
            after: Option<&[u8]>,
            items: &mut $crate::resource::snapshot::Items<'_>,
        ) -> Option<Vec<u8>> {
            self.$entries.freeze(after, items)
        }

        fn thaw(
            &mut self,
            item: &[u8],
            applied: margay_log::id::Index,
        ) -> Result<(), $crate::machine::Code> {
            self.$entries.thaw(item, applied)
        }

        fn boxed_clone(&self) -> Box<dyn $crate::resource::Resource> {
            Box::new(self.clone())
        }
    };
}
pub(super) use delegate_to_entries;

/// Entries by key.
#[derive(Clone, Debug)]
pub(super) struct Entries<T: Extra = ()> {
    held: OrdSet<Held<T>>,
    deadlines: Timers<Key>,
    owned: OrdSet<(SessionId, Key)>,
    /// Sessions whose last entry is gone, until somebody takes them.
    left: Vec<SessionId>,
    /// What was cleared, until somebody takes it.
    waste: Vec<Entries<T>>,
}

impl<T: Extra> Default for Entries<T> {
    fn default() -> Entries<T> {
        Entries {
            held: OrdSet::new(),
            deadlines: Timers::default(),
            owned: OrdSet::new(),
            left: Vec::new(),
            waste: Vec::new(),
        }
    }
}

impl<T: Extra> Entries<T> {
    /// The entry of a key, unless its life is over.
    pub(super) fn get(&self, key: &[u8], now: LogTime) -> Option<&Held<T>> {
        self.held.get(&Sought::new(key)).filter(|held| !held.is_due(now))
    }

    /// How many entries there are that are not due.
    pub(super) fn len(&self, now: LogTime) -> usize {
        self.held.len() - self.deadlines.count_due(now)
    }

    /// How many entries there are, over or not: no less than [`Entries::len`], and quick.
    pub(super) fn len_at_most(&self) -> usize {
        self.held.len()
    }

    /// Removes the entry of a key if it is due, before a command looks at the key.
    pub(super) fn drop_gone(&mut self, key: &[u8], commit: &Commit<'_>, effects: &mut Effects) {
        if self.deadlines.is_empty() {
            return;
        }
        let Some(held) = self.held.get(&Sought::new(key)) else { return };
        if held.is_due(commit.time) {
            let gone = self.take(key).expect("just seen");
            effects.event(commit.resource, EXPIRED, None, Some(gone.pair));
        }
    }

    /// Sets an entry and tells of it. Returns what was there.
    pub(super) fn put(
        &mut self,
        pair: Pair,
        life: Life,
        extra: T,
        commit: &Commit<'_>,
        effects: &mut Effects,
    ) -> Option<Held<T>> {
        self.drop_gone(pair.key(), commit, effects);
        let old = self.insert(Held::new(pair.clone(), commit.index, life, extra));
        let before = old.as_ref().map(|held| held.pair.clone());
        effects.event(commit.resource, PUT, Some(pair), before);
        old
    }

    /// Sets an entry without a word. Returns what was there, over or not.
    pub(super) fn insert(&mut self, held: Held<T>) -> Option<Held<T>> {
        let linked = held.bounded_life().map(|life| (life, held.version, Key::of(&held.pair)));
        let old = self.held.insert(held);
        if let Some(old) = &old {
            self.unlink(old);
        }
        if let Some((life, version, key)) = linked {
            if let Some(at) = life.due {
                self.deadlines.schedule(Due { at, created: version }, key.clone());
            }
            self.owned.extend(life.owner.map(|owner| (owner, key)));
        }
        old
    }

    /// Removes an entry and tells of it. Returns it, unless its life was over.
    pub(super) fn remove(
        &mut self,
        key: &[u8],
        commit: &Commit<'_>,
        effects: &mut Effects,
    ) -> Option<Held<T>> {
        self.drop_gone(key, commit, effects);
        let old = self.take(key)?;
        effects.event(commit.resource, REMOVED, None, Some(old.pair.clone()));
        Some(old)
    }

    /// Removes all entries and tells of it, once.
    pub(super) fn clear(&mut self, commit: &Commit<'_>, effects: &mut Effects) {
        if !self.held.is_empty() {
            self.discard();
            effects.event(commit.resource, CLEARED, None, None);
        }
    }

    /// Removes all entries without a word.
    pub(super) fn discard(&mut self) {
        let left = self.sessions(LEFT_MAX);
        let mut all = std::mem::take(self);
        self.waste = std::mem::take(&mut all.waste);
        self.waste.push(all);
        self.left = left;
    }

    /// Sessions that own nothing here any more, since this was last asked.
    pub(super) fn take_left(&mut self) -> Vec<SessionId> {
        std::mem::take(&mut self.left)
    }

    /// What was cleared: to be freed bit by bit.
    pub(super) fn take_waste(&mut self) -> Option<Box<dyn Waste>> {
        let waste = std::mem::take(&mut self.waste);
        (!waste.is_empty()).then(|| Box::new(waste) as Box<dyn Waste>)
    }

    fn take(&mut self, key: &[u8]) -> Option<Held<T>> {
        let held = self.held.remove(&Sought::new(key))?;
        self.unlink(&held);
        Some(held)
    }

    fn unlink(&mut self, held: &Held<T>) {
        let Some(life) = held.bounded_life() else { return };
        let key = Key::of(&held.pair);
        if let Some(owner) = life.owner {
            self.owned.remove(&(owner, key.clone()));
            if !self.involves(owner) {
                self.left.push(owner);
            }
        }
        if let Some(at) = life.due {
            let was_there = self.deadlines.cancel(Due { at, created: held.version }, key);
            assert!(was_there, "an entry with an end has a timer");
        }
    }

    fn owned_by(&self, session: SessionId) -> impl Iterator<Item = &Key> {
        let rest = self.owned.range((session, Key::default())..);
        rest.take_while(move |(owner, _)| *owner == session).map(|(_, key)| key)
    }

    // ---- sessions and timers ----------------------------------------------------------------

    /// Whether something here ends with this session.
    pub(super) fn involves(&self, session: SessionId) -> bool {
        self.owned_by(session).next().is_some()
    }

    /// Sessions it involves, up to `limit`.
    pub(super) fn sessions(&self, limit: usize) -> Vec<SessionId> {
        let mut sessions = Vec::new();
        let mut next = SessionId(0);
        while sessions.len() < limit {
            let rest = self.owned.range((next, Key::default())..).next();
            let Some((session, _)) = rest else { break };
            sessions.push(*session);
            next = SessionId(session.0 + 1);
        }
        sessions
    }

    /// The next few that a session owned are gone.
    pub(super) fn session_ended(
        &mut self,
        session: SessionId,
        commit: &Commit<'_>,
        effects: &mut Effects,
    ) {
        for _ in 0..ENDED_AT_ONCE {
            let Some(key) = self.owned_by(session).next().cloned() else { return };
            let held = self.take(key.bytes()).expect("what is owned is held");
            let event = if held.is_due(commit.time) { EXPIRED } else { SESSION_ENDED };
            effects.event(commit.resource, event, None, Some(held.pair));
        }
    }

    /// When something is to be removed next.
    pub(super) fn next_timer(&self) -> Option<Due> {
        self.deadlines.first().map(|(due, _)| *due)
    }

    /// Removes what is to be removed next, which is due.
    pub(super) fn fire(&mut self, firing: &Firing, effects: &mut Effects) {
        let Some((_, key)) = self.deadlines.first().cloned() else { return };
        let held = self.take(key.bytes()).expect("a deadline belongs to an entry");
        effects.event(firing.resource, EXPIRED, None, Some(held.pair));
    }

    // ---- snapshots --------------------------------------------------------------------------

    /// See [`super::Resource::freeze`].
    pub(super) fn freeze(&self, after: Option<&[u8]>, items: &mut Items<'_>) -> Option<Vec<u8>> {
        // A place: nothing for the beginning, or 1 and the last key written.
        let from = match after.and_then(<[u8]>::split_first) {
            Some((_, last)) => Bound::Excluded(Sought::new(last)),
            None => Bound::Unbounded,
        };
        let mut last = after.unwrap_or_default().to_vec();
        for held in self.held.range((from, Bound::Unbounded)) {
            if items.is_full() {
                return Some(last);
            }
            items.put(|out| {
                out.push(ITEM_ENTRY);
                held.freeze(out);
            });
            last.clear();
            last.push(1);
            last.extend_from_slice(held.pair.key());
        }
        None
    }

    /// See [`super::Resource::thaw`].
    pub(super) fn thaw(&mut self, item: &[u8], applied: Index) -> Result<(), Code> {
        let mut reader = Reader::new(item);
        if reader.u8()? != ITEM_ENTRY {
            return Err(Code::BAD_PAYLOAD);
        }
        let held = Held::thaw(&mut reader, applied)?;
        if self.held.get_max().is_some_and(|last| *last >= held) {
            return Err(Code::BAD_PAYLOAD);
        }
        self.insert(held);
        reader.end()
    }
}

/// First byte of an item in a snapshot.
const ITEM_ENTRY: u8 = 2;

impl<T: Extra> Waste for Vec<Entries<T>> {
    fn shed(&mut self, limit: usize) -> bool {
        for _ in 0..limit {
            let Some(last) = self.last_mut() else { return false };
            let held = last.held.remove_min().is_some();
            let timer = last.deadlines.pop_due(LogTime(u64::MAX)).is_some();
            let owned = last.owned.remove_min().is_some();
            if !(held || timer || owned) {
                self.pop();
            }
        }
        true
    }
}
