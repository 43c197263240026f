//! All resources of a group, by name: opened, found, listed and deleted here, and every operation
//! for one of them passes through to it.
//!
//! A name has one type for as long as it exists. A resource's id is the index of the entry that
//! created it, so a deleted one is never mistaken for its successor.

use super::codec::{Operation, Scratch, access, check, page_limit};
use super::describe::{self, DescribeV1};
use super::ring::Ring;
use super::snapshot::{FrozenRegistry, RestoringRegistry};
use super::transaction;
use super::waste::Heap;
use super::{Firing, own, type_of};
use crate::machine::bytes;
use crate::machine::{
    Code, Commit, Effects, Events, LogTime, Notice, Query, ResourceId, SessionId, Shared,
    StateMachine, halt, kind,
};
use imbl::OrdMap;
use margay_log::id::Index;
use std::any::Any;
use std::ops::Bound;

mod involved;
mod operations;
mod slot;

pub use operations::*;
pub(super) use slot::Slot;
use slot::{Links, own_copy};

/// Resources of one group, at most.
pub const RESOURCES_MAX: usize = 1_000_000;
/// Resources on one page of a list, at most.
pub const PAGE_MAX: u32 = 1_000;
/// Names looked at for one page of a list, at most: a page may be short, or empty, and not the
/// last.
pub const SCAN_MAX: usize = 10_000;
/// Holders and waiters whom the entry that deletes a resource tells so, at most; timers do the
/// rest.
const LOST_PER_ENTRY: usize = 256;
/// The last event of a resource: it was deleted. Not kept: nothing is left to keep it.
pub const DELETED: u16 = u16::MAX;

/// The resources of a group: the state of its machine.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    slots: OrdMap<ResourceId, Shared<Slot>>,
    names: OrdMap<Shared<[u8]>, ResourceId>,
    links: Links,
    waste: Heap,
}

impl StateMachine for Registry {
    type Frozen = FrozenRegistry;
    type Restoring = RestoringRegistry;

    const IS_OURS: bool = true;

    fn check(kind: u8, schema: u16, payload: &[u8]) -> Result<(), Code> {
        if kind == kind::TRANSACTION {
            return transaction::check(schema, payload);
        }
        if kind != kind::REGISTRY {
            return own::check(type_of(kind).ok_or(Code::BAD_KIND)?, schema, payload);
        }
        match schema {
            OpenV1::SCHEMA => {
                let mut scratch = Scratch::new();
                let open = access::<OpenV1>(payload, &mut scratch)?;
                type_of(open.kind).map(|_| ()).ok_or(Code::BAD_KIND)
            }
            DeleteV1::SCHEMA => check::<DeleteV1>(payload),
            _ => Err(Code::BAD_KIND),
        }
    }

    fn apply(&mut self, commit: &Commit<'_>, effects: &mut Effects) {
        self.waste.shed();
        let applied = match commit.kind {
            kind::REGISTRY => self.apply_own(commit, effects),
            kind::TRANSACTION => self.transact(commit, effects),
            _ => return self.apply_to_resource(commit, effects),
        };
        if let Err(code) = applied {
            effects.refuse(code, "");
        }
    }

    fn take_waste(&mut self) -> Option<Box<dyn Any + Send>> {
        self.waste.take()
    }

    fn query(&self, query: &Query<'_>, effects: &mut Effects) {
        if query.kind == kind::REGISTRY {
            if let Err(code) = self.query_own(query, effects) {
                effects.refuse(code, "");
            }
            return;
        }
        self.query_resource(query, effects);
    }

    fn session_ended(
        &mut self,
        session: SessionId,
        commit: &Commit<'_>,
        limit: usize,
        effects: &mut Effects,
    ) -> usize {
        self.let_go(session, commit, limit, effects)
    }

    fn next_timer(&self) -> Option<LogTime> {
        self.links.agenda.get_min().map(|(due, _)| due.at)
    }

    fn fire(&mut self, index: Index, now: LogTime, limit: usize, effects: &mut Effects) -> usize {
        for fired in 0..limit {
            let Some(&(due, resource)) = self.links.agenda.get_min() else { return fired };
            if due.at > now {
                return fired;
            }
            let firing = Firing { resource, index, now };
            let slot = self.slots.get_mut(&resource).expect("only what exists has timers");
            if slot.deleted {
                self.dismantle(&firing, 1, effects);
                continue;
            }
            let slot = own_copy(slot);
            slot.change((resource, None), index, effects, &mut self.links, |state, effects| {
                state.fire(&firing, effects);
            });
            if let Some(waste) = slot.state.take_waste() {
                self.waste.add(waste);
            }
        }
        limit
    }

    fn holdings(&self, session: SessionId, now: LogTime, out: &mut Vec<Notice>) {
        for resource in self.involving(session) {
            if let Some(slot) = self.slot(resource) {
                own::run(slot.kind, || slot.state.holdings(resource, session, now, out));
            }
        }
    }

    fn events(&self, resource: ResourceId, after: (Index, u32), filter: &[u8]) -> Events {
        match self.slot(resource) {
            Some(slot) => slot.ring.after(after, filter),
            None => Events::Gone,
        }
    }

    fn freeze(&self) -> FrozenRegistry {
        FrozenRegistry::new(self.clone())
    }

    fn restore(applied: Index) -> RestoringRegistry {
        RestoringRegistry::new(applied)
    }
}

impl Registry {
    /// Applies a command of a resource.
    pub(super) fn apply_to_resource(&mut self, commit: &Commit<'_>, effects: &mut Effects) {
        let slot = self.slots.get_mut(&commit.resource).filter(|slot| !slot.deleted);
        let Some(slot) = slot else {
            return effects.refuse(Code::NO_SUCH_RESOURCE, "");
        };
        if slot.kind != commit.kind {
            return refuse_type(slot, commit.kind, effects);
        }
        let slot = own_copy(slot);
        let whose = (commit.resource, Some(commit.session));
        effects.held = self.links.holdings.get(&commit.session).copied().unwrap_or_default();
        slot.change(whose, commit.index, effects, &mut self.links, |state, effects| {
            state.apply(commit, effects);
        });
        if let Some(waste) = slot.state.take_waste() {
            self.waste.add(waste);
        }
    }

    /// Answers a query of a resource.
    pub(super) fn query_resource(&self, query: &Query<'_>, effects: &mut Effects) {
        match self.slot(query.resource) {
            Some(slot) if slot.kind == query.kind && own::is_own(slot.kind) => {
                if let Err(text) = halt::guard(|| slot.state.query(query, effects)) {
                    // It has changed nothing: only this question has no answer.
                    effects.refuse(Code::HALTED, &text);
                }
            }
            Some(slot) if slot.kind == query.kind => slot.state.query(query, effects),
            Some(slot) => refuse_type(slot, query.kind, effects),
            None => effects.refuse(Code::NO_SUCH_RESOURCE, ""),
        }
    }

    /// Everything is as in a copy made before. What is to be freed is no part of that: it must not
    /// be freed here and now.
    pub(super) fn undo(&mut self, before: Registry) {
        let waste = std::mem::take(&mut self.waste);
        *self = Registry { waste, ..before };
    }

    /// No resources yet.
    #[must_use]
    pub fn new() -> Registry {
        Registry::default()
    }

    /// How many resources there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// How many pairs of a session and a resource are known of which the one holds, waits for or
    /// owns something in the other.
    #[must_use]
    pub fn links(&self) -> usize {
        self.links.involved.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// One that exists.
    pub(super) fn slot(&self, id: ResourceId) -> Option<&Slot> {
        self.any_slot(id).filter(|slot| !slot.deleted)
    }

    /// One that exists, or is deleted and still held by somebody; so with the next.
    pub(super) fn any_slot(&self, id: ResourceId) -> Option<&Slot> {
        self.slots.get(&id).map(|slot| &**slot)
    }

    pub(super) fn slot_after(&self, after: ResourceId) -> Option<(ResourceId, &Slot)> {
        let first = ResourceId(after.0.checked_add(1)?);
        self.slots.range(first..).next().map(|(id, slot)| (*id, &**slot))
    }

    /// Takes a resource out of a snapshot: its id must be the highest so far, its name and type
    /// sound.
    pub(super) fn adopt(&mut self, id: ResourceId, mut slot: Slot) -> Result<(), Code> {
        let newest = self.slots.get_max().map_or(ResourceId::REGISTRY, |(newest, _)| *newest);
        check_name(&slot.name)?;
        let is_named = slot.deleted || self.names.insert(slot.name.clone(), id).is_none();
        if id <= newest || !is_named {
            return Err(Code::BAD_PAYLOAD);
        }
        slot.timer = own::run(slot.kind, || slot.next_timer(id));
        self.links.agenda.extend(slot.timer.map(|due| (due, id)));
        self.links.adopt(id, &slot);
        self.slots.insert(id, Shared::new(slot));
        Ok(())
    }

    fn apply_own(&mut self, commit: &Commit<'_>, effects: &mut Effects) -> Result<(), Code> {
        let mut scratch = Scratch::new();
        match commit.schema {
            OpenV1::SCHEMA => {
                let open = access::<OpenV1>(commit.payload, &mut scratch)?;
                self.open(open, commit, effects)
            }
            DeleteV1::SCHEMA => {
                let delete = access::<DeleteV1>(commit.payload, &mut scratch)?;
                self.delete(ResourceId(delete.resource.to_native()), commit, effects)
            }
            _ => Err(Code::BAD_KIND),
        }
    }

    fn open(
        &mut self,
        open: &ArchivedOpenV1,
        commit: &Commit<'_>,
        effects: &mut Effects,
    ) -> Result<(), Code> {
        if let Some(id) = self.names.get(&open.name[..]) {
            let slot = self.slot(*id).expect("a name names a resource");
            if slot.kind != open.kind {
                refuse_type(slot, open.kind, effects);
            } else {
                put_opened(&mut effects.reply, *id, false);
            }
            return Ok(());
        }
        if self.slots.len() >= RESOURCES_MAX {
            return Err(Code::TOO_MANY_RESOURCES);
        }
        let Some(known) = type_of(open.kind) else {
            let kind = open.kind;
            halt::halt(format!("the log holds a resource of type {kind}; register it and restart"));
        };
        let id = ResourceId(commit.index.0);
        let slot = Slot {
            name: open.name[..].into(),
            kind: open.kind,
            options: open.options.to_vec(),
            state: halt::guarded(|| known.name.to_owned(), || (known.create)(&open.options))?,
            ring: Ring::default(),
            timer: None,
            deleted: false,
        };
        self.names.insert(slot.name.clone(), id);
        self.slots.insert(id, Shared::new(slot));
        put_opened(&mut effects.reply, id, true);
        Ok(())
    }

    fn delete(
        &mut self,
        id: ResourceId,
        commit: &Commit<'_>,
        effects: &mut Effects,
    ) -> Result<(), Code> {
        let slot = self.slots.get_mut(&id).filter(|slot| !slot.deleted);
        let slot = own_copy(slot.ok_or(Code::NO_SUCH_RESOURCE)?);
        slot.deleted = true;
        self.names.remove(&slot.name);
        effects.event(id, DELETED, None, None);
        let firing = Firing { resource: id, index: commit.index, now: commit.time };
        self.dismantle(&firing, LOST_PER_ENTRY, effects);
        Ok(())
    }

    fn query_own(&self, query: &Query<'_>, effects: &mut Effects) -> Result<(), Code> {
        let mut scratch = Scratch::new();
        match query.schema {
            FindV1::SCHEMA => {
                let find = access::<FindV1>(query.payload, &mut scratch)?;
                let id = *self.names.get(&find.name[..]).ok_or(Code::NO_SUCH_RESOURCE)?;
                let slot = self.slot(id).expect("a name names a resource");
                if find.kind != 0 && find.kind != slot.kind {
                    refuse_type(slot, find.kind, effects);
                } else {
                    bytes::put_u64(&mut effects.reply, id.0);
                    effects.reply.push(slot.kind);
                }
                Ok(())
            }
            DescribeV1::SCHEMA => {
                let wanted = access::<DescribeV1>(query.payload, &mut scratch)?;
                let id = *self.names.get(&wanted.name[..]).ok_or(Code::NO_SUCH_RESOURCE)?;
                let slot = self.slot(id).expect("a name names a resource");
                describe::describe(id, slot, query.time, &mut effects.reply);
                Ok(())
            }
            ListV1::SCHEMA => {
                self.list(access::<ListV1>(query.payload, &mut scratch)?, &mut effects.reply);
                Ok(())
            }
            _ => Err(Code::BAD_KIND),
        }
    }

    fn list(&self, list: &ArchivedListV1, out: &mut Vec<u8>) {
        let limit = page_limit(list.limit.to_native(), PAGE_MAX);
        let from = if list.after[..] < list.prefix[..] {
            Bound::Included(&list.prefix[..])
        } else if list.after.is_empty() {
            Bound::Unbounded
        } else {
            Bound::Excluded(&list.after[..])
        };
        let mut names = self.names.range::<_, [u8]>((from, Bound::Unbounded));
        let mut page = Vec::new();
        let (mut count, mut scanned, mut last) = (0, 0, None);
        let next = loop {
            let Some((name, id)) = names.next() else { break None };
            if !name.starts_with(&list.prefix) {
                break None;
            }
            if count == limit || scanned == SCAN_MAX {
                break last;
            }
            scanned += 1;
            last = Some(&name[..]);
            let kind = self.slot(*id).expect("a name names a resource").kind;
            if list.kind == 0 || list.kind == kind {
                bytes::put_u64(&mut page, id.0);
                page.push(kind);
                bytes::put_bytes(&mut page, name);
                count += 1;
            }
        };
        bytes::put_optional(out, next);
        bytes::put_u32(out, count);
        out.extend_from_slice(&page);
    }
}

fn put_opened(out: &mut Vec<u8>, id: ResourceId, created: bool) {
    bytes::put_u64(out, id.0);
    out.push(u8::from(created));
}

fn refuse_type(slot: &Slot, wanted: u8, effects: &mut Effects) {
    let name = String::from_utf8_lossy(&slot.name);
    let (is, wanted) = (super::type_name(slot.kind), super::type_name(wanted));
    effects.refuse(Code::WRONG_TYPE, &format!("{name} is a {is}, not a {wanted}"));
}

#[cfg(test)]
mod tests;
