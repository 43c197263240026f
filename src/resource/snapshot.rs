//! Snapshots of all resources of a group: what is written, and how it comes back.
//!
//! A chunk is a sequence of items, each a tag, a length (u32) and a body. A RESOURCE item is
//! followed by the STATE items of that resource and by its kept EVENT items; resources come in
//! order of their ids. What can be derived (names, timers, who is involved where) is not written.

use super::registry::{Registry, Slot};
use super::ring::{self, Position, Ring};
use super::{own, type_of};
use crate::machine::bytes::{self, Reader};
use crate::machine::{Code, Frozen, ResourceId, RestoreError, Restoring, Shared};
use margay_log::id::Index;

const RESOURCE: u8 = 1;
const STATE: u8 = 2;
const EVENT: u8 = 3;

/// Where a resource writes the items of its state.
#[derive(Debug)]
pub struct Items<'a> {
    out: &'a mut Vec<u8>,
    end: usize,
}

impl<'a> Items<'a> {
    /// Items up to about `max` bytes, behind what `out` holds.
    pub fn new(out: &'a mut Vec<u8>, max: usize) -> Items<'a> {
        let end = out.len().saturating_add(max);
        Items { out, end }
    }

    /// Whether it is time to stop and say where to go on.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.out.len() >= self.end
    }

    /// Appends an item of a resource's state.
    pub fn put(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        self.put_tagged(STATE, write);
    }

    fn put_tagged(&mut self, tag: u8, write: impl FnOnce(&mut Vec<u8>)) {
        self.out.push(tag);
        let at = self.out.len();
        bytes::put_u32(self.out, 0);
        write(self.out);
        let length = u32::try_from(self.out.len() - at - 4).expect("an item under 4 GiB");
        self.out[at..at + 4].copy_from_slice(&length.to_le_bytes());
    }
}

/// All resources as they were at one index.
#[derive(Debug)]
pub struct FrozenRegistry {
    registry: Registry,
    stage: Stage,
}

/// What to write next.
#[derive(Clone, Debug)]
enum Stage {
    /// The resource after this one.
    Resource(ResourceId),
    /// Its state, after a key of its own choice.
    State(ResourceId, Option<Vec<u8>>),
    /// Its events after a position.
    Events(ResourceId, Position),
}

impl FrozenRegistry {
    pub(super) fn new(registry: Registry) -> FrozenRegistry {
        FrozenRegistry { registry, stage: Stage::Resource(ResourceId::REGISTRY) }
    }

    fn slot(&self, id: ResourceId) -> &Slot {
        self.registry.any_slot(id).expect("a frozen registry keeps its resources")
    }

    /// Writes what the stage says and returns the next; `None` at the end.
    fn write(&self, items: &mut Items<'_>) -> Option<Stage> {
        Some(match &self.stage {
            Stage::Resource(after) => {
                let (id, slot) = self.registry.slot_after(*after)?;
                items.put_tagged(RESOURCE, |out| freeze_slot(id, slot, out));
                Stage::State(id, None)
            }
            Stage::State(id, after) => {
                let slot = self.slot(*id);
                match own::run(slot.kind, || slot.state.freeze(after.as_deref(), items)) {
                    Some(last) => Stage::State(*id, Some(last)),
                    None => Stage::Events(*id, slot.ring.dropped()),
                }
            }
            Stage::Events(id, after) => match self.slot(*id).ring.next_after(*after) {
                Some((position, event)) => {
                    items.put_tagged(EVENT, |out| ring::freeze_event(position.0, event, out));
                    Stage::Events(*id, position)
                }
                None => Stage::Resource(*id),
            },
        })
    }
}

impl Frozen for FrozenRegistry {
    fn next_chunk(&mut self, max: usize, out: &mut Vec<u8>) -> bool {
        let mut items = Items::new(out, max.max(1));
        while !items.is_full() {
            match self.write(&mut items) {
                Some(next) => self.stage = next,
                None => return false,
            }
        }
        true
    }
}

/// Id, kind, name, options, the last event no longer kept, 1 where it is deleted.
fn freeze_slot(id: ResourceId, slot: &Slot, out: &mut Vec<u8>) {
    bytes::put_u64(out, id.0);
    out.push(slot.kind);
    bytes::put_bytes(out, &slot.name);
    bytes::put_bytes(out, &slot.options);
    let (index, ordinal) = slot.ring.dropped();
    bytes::put_u64(out, index.0);
    bytes::put_u32(out, ordinal);
    out.push(u8::from(slot.deleted));
}

/// All resources in the making.
#[derive(Debug)]
pub struct RestoringRegistry {
    applied: Index,
    registry: Registry,
    current: Option<(ResourceId, Slot)>,
}

impl RestoringRegistry {
    pub(super) fn new(applied: Index) -> RestoringRegistry {
        RestoringRegistry { applied, registry: Registry::default(), current: None }
    }

    fn feed_item(&mut self, tag: u8, item: &[u8]) -> Result<(), RestoreError> {
        match (tag, &mut self.current) {
            (RESOURCE, _) => {
                self.flush()?;
                self.current = Some(thaw_slot(item)?);
                Ok(())
            }
            (STATE, Some((_, slot))) => {
                let thawed = own::run(slot.kind, || slot.state.thaw(item, self.applied));
                thawed.map_err(damaged("a state"))
            }
            (EVENT, Some((id, slot))) => ring::thaw_event(*id, item, self.applied, &mut slot.ring)
                .map_err(damaged("an event")),
            _ => Err(RestoreError::Damaged { what: "an item's tag" }),
        }
    }

    fn flush(&mut self) -> Result<(), RestoreError> {
        match self.current.take() {
            Some((id, _)) if id.0 > self.applied.0 => {
                Err(RestoreError::Damaged { what: "a resource's id" })
            }
            Some((id, slot)) => self.registry.adopt(id, slot).map_err(damaged("a resource")),
            None => Ok(()),
        }
    }
}

impl Restoring for RestoringRegistry {
    type State = Registry;

    fn feed(&mut self, chunk: &[u8]) -> Result<(), RestoreError> {
        let mut reader = Reader::new(chunk);
        while !reader.is_empty() {
            let tag = reader.u8().map_err(damaged("an item"))?;
            let item = reader.bytes().map_err(damaged("an item"))?;
            self.feed_item(tag, item)?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Registry, RestoreError> {
        self.flush()?;
        Ok(self.registry)
    }
}

fn damaged(what: &'static str) -> impl Fn(Code) -> RestoreError {
    move |_| RestoreError::Damaged { what }
}

fn thaw_slot(item: &[u8]) -> Result<(ResourceId, Slot), RestoreError> {
    let read = || -> Result<_, Code> {
        let mut reader = Reader::new(item);
        let id = ResourceId(reader.u64()?);
        let kind = reader.u8()?;
        let name: Shared<[u8]> = reader.bytes()?.into();
        let options = reader.bytes()?.to_vec();
        let dropped = (Index(reader.u64()?), reader.u32()?);
        let deleted = match reader.u8()? {
            0 => false,
            1 => true,
            _ => return Err(Code::BAD_PAYLOAD),
        };
        reader.end()?;
        Ok((id, kind, name, options, dropped, deleted))
    };
    let (id, kind, name, options, dropped, deleted) = read().map_err(damaged("a resource"))?;
    let Some(known) = type_of(kind) else {
        return Err(RestoreError::TooNew { found: u32::from(kind) });
    };
    let state = own::run(kind, || (known.create)(&options));
    let state = state.map_err(damaged("a resource's options"))?;
    let ring = Ring::with_dropped(dropped);
    Ok((id, Slot { name, kind, options, state, ring, timer: None, deleted }))
}
