//! Claims in snapshots: a head, holds, waits.

use super::{Claims, HOLDS_MAX, Hold, PERMITS_MAX};
use crate::machine::bytes::{self, Reader};
use crate::machine::{Code, SessionId};
use crate::resource::handle::thaw_version;
use crate::resource::snapshot::Items;
use crate::resource::waiters::Waiters;
use margay_log::id::Index;

/// First byte of an item. Those of a resource's own begin with [`ITEM_OWN`].
const ITEM_HEAD: u8 = 0;
const ITEM_WAITER: u8 = 1;
const ITEM_HOLD: u8 = 2;
pub(super) const ITEM_OWN: u8 = 16;

impl Claims {
    /// Writes all of it.
    pub(in super::super) fn freeze(&self, items: &mut Items<'_>) {
        items.put(|out| {
            out.push(ITEM_HEAD);
            bytes::put_u64(out, self.last_token);
        });
        for hold in self.holds.values() {
            items.put(|out| {
                out.push(ITEM_HOLD);
                bytes::put_u64(out, hold.session.0);
                bytes::put_u64(out, hold.request);
                bytes::put_u64(out, hold.waiter.0);
                bytes::put_u64(out, hold.token);
                bytes::put_u64(out, hold.amount);
            });
        }
        for (index, waiter) in self.waiters.iter_by_index() {
            items.put(|out| {
                out.push(ITEM_WAITER);
                Waiters::freeze(index, &waiter, out);
            });
        }
    }

    /// Takes back an item of [`Claims::freeze`], whose first byte is `tag`.
    pub(in super::super) fn thaw(
        &mut self,
        tag: u8,
        reader: &mut Reader<'_>,
        applied: Index,
    ) -> Result<(), Code> {
        match tag {
            ITEM_HEAD => {
                self.last_token = reader.u64()?;
                let sound = self.last_token <= applied.0 && self.holds.is_empty();
                if sound { Ok(()) } else { Err(Code::BAD_PAYLOAD) }
            }
            ITEM_HOLD => self.thaw_hold(reader, applied),
            ITEM_WAITER => {
                let waiter = self.waiters.thaw(reader, applied)?;
                let named = (waiter.session, waiter.request);
                let sound = (1..=PERMITS_MAX).contains(&waiter.amount)
                    && !self.requests.contains_key(&named);
                if sound { Ok(()) } else { Err(Code::BAD_PAYLOAD) }
            }
            _ => Err(Code::BAD_PAYLOAD),
        }
    }

    fn thaw_hold(&mut self, reader: &mut Reader<'_>, applied: Index) -> Result<(), Code> {
        let (session, request) = (SessionId(reader.u64()?), reader.u64()?);
        let waiter = thaw_version(reader, applied)?;
        let (token, amount) = (reader.u64()?, reader.u64()?);
        let sound = waiter.0 <= token
            && token <= self.last_token
            && (1..=PERMITS_MAX).contains(&amount)
            && self.holds.len() < HOLDS_MAX
            && !self.holds.contains_key(&waiter)
            && !self.requests.contains_key(&(session, request))
            && self.waiters.is_empty();
        if !sound {
            return Err(Code::BAD_PAYLOAD);
        }
        self.insert(Hold { session, request, waiter, token, amount });
        Ok(())
    }
}
