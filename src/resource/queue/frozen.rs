//! A queue in snapshots: claims, the leases that takes which wait have asked for, tasks, dead
//! letters.

use super::state::QueueState;
use super::tasks::{Lease, Place, Task};
use super::*;
use crate::machine::bytes::{self, Reader};
use crate::machine::{LogTime, Pair};
use crate::resource::handle::thaw_version;
use crate::resource::snapshot::Items;
use margay_log::id::Index;

/// First byte of an item in a snapshot, beside those of the claims.
const ITEM_ASKED: u8 = 16;
const ITEM_TASK: u8 = 17;
const ITEM_DEAD: u8 = 18;

impl QueueState {
    /// See [`Resource::freeze`].
    pub(super) fn freeze_behind(
        &self,
        after: Option<&[u8]>,
        items: &mut Items<'_>,
    ) -> Option<Vec<u8>> {
        let (dead, last) = match after {
            Some([stage, last @ ..]) => {
                let last = u64::from_be_bytes(last.try_into().expect("our own key"));
                (*stage == ITEM_DEAD, Index(last))
            }
            _ => {
                self.freeze_claims(items);
                (false, Index::ZERO)
            }
        };
        let go_on = |stage: u8, name: &Index| {
            let mut key = vec![stage];
            key.extend_from_slice(&name.0.to_be_bytes());
            Some(key)
        };
        if !dead {
            for (name, task) in self.tasks.after(last) {
                items.put(|out| freeze_task(ITEM_TASK, *name, task, out));
                if items.is_full() {
                    return go_on(ITEM_TASK, name);
                }
            }
        }
        let last = if dead { last } else { Index::ZERO };
        for (name, task) in self.dead.after(last) {
            items.put(|out| freeze_task(ITEM_DEAD, name, task, out));
            if items.is_full() {
                return go_on(ITEM_DEAD, &name);
            }
        }
        None
    }

    /// See [`Resource::thaw`].
    pub(super) fn thaw_item(&mut self, item: &[u8], applied: Index) -> Result<(), Code> {
        let mut reader = Reader::new(item);
        match reader.u8()? {
            ITEM_ASKED => {
                let (name, lease_ms) = (Index(reader.u64()?), reader.u64()?);
                limit::lease(&lease_ms.into())?;
                self.asked.insert(name, lease_ms);
            }
            tag @ (ITEM_TASK | ITEM_DEAD) => return self.thaw_task(tag, reader, applied),
            tag => self.claims.thaw(tag, &mut reader, applied)?,
        }
        reader.end()
    }

    fn freeze_claims(&self, items: &mut Items<'_>) {
        self.claims.freeze(items);
        for (name, lease_ms) in &self.asked {
            items.put(|out| {
                out.push(ITEM_ASKED);
                bytes::put_u64(out, name.0);
                bytes::put_u64(out, *lease_ms);
            });
        }
    }

    fn thaw_task(&mut self, tag: u8, mut reader: Reader<'_>, applied: Index) -> Result<(), Code> {
        let name = thaw_version(&mut reader, applied)?;
        let deliveries = reader.u32()?;
        let place = match reader.u8()? {
            0 => Place::Ready,
            1 => Place::Delayed(LogTime(reader.u64()?)),
            2 => {
                let (take, due) = (Index(reader.u64()?), LogTime(reader.u64()?));
                Place::Leased(Lease { take, due })
            }
            _ => return Err(Code::BAD_PAYLOAD),
        };
        let task =
            Task { pair: Pair::new(&name.0.to_be_bytes(), reader.rest()), deliveries, place };
        let known = self.tasks.get(name).is_some() || self.dead.get(name).is_some();
        let fits = match tag {
            ITEM_TASK => self.fits(task.pair.size()),
            _ => self.dead.fits(task.pair.size()),
        };
        match (tag, place) {
            _ if known || !fits => return Err(Code::BAD_PAYLOAD),
            (_, Place::Leased(lease)) if self.claims.hold(lease.take).is_none() => {
                return Err(Code::BAD_PAYLOAD);
            }
            (ITEM_TASK, _) => self.tasks.insert(name, task),
            (_, Place::Ready) => self.dead.insert(name, task),
            _ => return Err(Code::BAD_PAYLOAD),
        }
        Ok(())
    }
}

fn freeze_task(tag: u8, name: Index, task: &Task, out: &mut Vec<u8>) {
    out.push(tag);
    bytes::put_u64(out, name.0);
    bytes::put_u32(out, task.deliveries);
    match task.place {
        _ if tag == ITEM_DEAD => out.push(0),
        Place::Ready => out.push(0),
        Place::Delayed(at) => {
            out.push(1);
            bytes::put_u64(out, at.0);
        }
        Place::Leased(lease) => {
            out.push(2);
            bytes::put_u64(out, lease.take.0);
            bytes::put_u64(out, lease.due.0);
        }
    }
    out.extend_from_slice(task.pair.value());
}
