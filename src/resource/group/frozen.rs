//! A group in snapshots: claims, members, joins that wait, messages, places in inboxes, outcomes.

use super::mail::{Message, Place};
use super::state::GroupState;
use super::*;
use crate::machine::bytes::{self, Reader};
use crate::machine::{LogTime, Pair, SessionId};
use crate::resource::handle::thaw_version;
use crate::resource::snapshot::Items;
use margay_log::id::Index;

/// First byte of an item in a snapshot, beside those of the claims.
const ITEM_LAST: u8 = 16;
const ITEM_MEMBER: u8 = 17;
const ITEM_JOINING: u8 = 18;
const ITEM_MESSAGE: u8 = 19;
const ITEM_PLACE: u8 = 20;
const ITEM_OUTCOME: u8 = 21;

impl GroupState {
    /// See [`Resource::freeze`].
    pub(super) fn freeze_behind(
        &self,
        after: Option<&[u8]>,
        items: &mut Items<'_>,
    ) -> Option<Vec<u8>> {
        let zero = (Index::ZERO, Index::ZERO, Index::ZERO);
        let (first, behind) = match after {
            Some(key) => read_key(key).expect("our own key"),
            None => {
                self.claims.freeze(items);
                items.put(|out| {
                    out.push(ITEM_LAST);
                    bytes::put_u64(out, self.last.0);
                });
                (ITEM_MEMBER, zero)
            }
        };
        for stage in first..=ITEM_OUTCOME {
            let behind = if stage == first { behind } else { zero };
            if let Some(last) = self.freeze_stage(stage, behind, items) {
                return Some(write_key(stage, last));
            }
        }
        None
    }

    /// See [`Resource::thaw`].
    pub(super) fn thaw_item(&mut self, item: &[u8], applied: Index) -> Result<(), Code> {
        let mut reader = Reader::new(item);
        match reader.u8()? {
            ITEM_LAST => {
                self.last = Index(reader.u64()?);
                if self.last > applied {
                    return Err(Code::BAD_PAYLOAD);
                }
            }
            tag @ (ITEM_MEMBER | ITEM_JOINING) => return self.thaw_member(tag, reader),
            ITEM_MESSAGE => return self.thaw_message(reader, applied),
            ITEM_PLACE => self.thaw_place(&mut reader, applied)?,
            ITEM_OUTCOME => return self.thaw_outcome(reader),
            tag => self.claims.thaw(tag, &mut reader, applied)?,
        }
        reader.end()
    }

    /// Writes what there is of one kind behind a key. Returns the last key where there may be more.
    fn freeze_stage(&self, stage: u8, behind: Place, items: &mut Items<'_>) -> Option<Place> {
        let zero = Index::ZERO;
        match stage {
            ITEM_MEMBER | ITEM_JOINING => {
                let all = if stage == ITEM_MEMBER { &self.members } else { &self.joining };
                let mut all = all.range(behind.0.next()..);
                freeze_all(&mut all, items, |(name, pair), out| {
                    out.push(stage);
                    bytes::put_u64(out, name.0);
                    bytes::put_bytes(out, pair.key());
                    out.extend_from_slice(pair.value());
                    (*name, zero, zero)
                })
            }
            ITEM_MESSAGE => freeze_all(
                &mut self.mail.messages_behind(behind.0),
                items,
                |(name, message), out| {
                    freeze_message(name, message, out);
                    (name, zero, zero)
                },
            ),
            ITEM_PLACE => freeze_all(&mut self.mail.places_behind(behind), items, |place, out| {
                out.push(ITEM_PLACE);
                for part in [place.0, place.1, place.2] {
                    bytes::put_u64(out, part.0);
                }
                *place
            }),
            _ => {
                let mut all = self.mail.outcomes_behind((behind.0, behind.1));
                freeze_all(&mut all, items, |(name, member, outcome), out| {
                    out.push(ITEM_OUTCOME);
                    bytes::put_u64(out, name.0);
                    bytes::put_u64(out, member.0);
                    out.push(outcome.kind);
                    bytes::put_bytes(out, &outcome.id);
                    out.extend_from_slice(&outcome.value);
                    (name, member, zero)
                })
            }
        }
    }

    fn thaw_member(&mut self, tag: u8, mut reader: Reader<'_>) -> Result<(), Code> {
        let name = Index(reader.u64()?);
        let id = reader.bytes()?;
        let data = reader.rest();
        let known = self.is_member(name) || self.joining.contains_key(&name);
        limit::name(id)?;
        if known || data.len() > KEY_MAX {
            return Err(Code::BAD_PAYLOAD);
        }
        let pair = Pair::new(id, data);
        if tag == ITEM_JOINING {
            self.claims.waiters.get(name).ok_or(Code::BAD_PAYLOAD)?;
            self.wait_for_id(name, pair);
            return Ok(());
        }
        self.claims.hold(name).ok_or(Code::BAD_PAYLOAD)?;
        let full = self.members.len() >= MEMBERS_MAX;
        if full || self.ids.insert(id.into(), name).is_some() {
            return Err(Code::BAD_PAYLOAD);
        }
        self.members.insert(name, pair);
        self.mail.seat(name);
        Ok(())
    }

    fn thaw_message(&mut self, mut reader: Reader<'_>, applied: Index) -> Result<(), Code> {
        let name = thaw_version(&mut reader, applied)?;
        let from = SessionId(reader.u64()?);
        let (to, ask, has_due) = (reader.u8()?, reader.u8()? != 0, reader.u8()? != 0);
        let due = Some(LogTime(reader.u64()?)).filter(|_| has_due);
        let value = reader.rest();
        let waits = self.claims.waiters.get(name).is_some() && !self.joining.contains_key(&name);
        let sound = to <= TO_ALL
            && ask == waits
            && self.mail.get(name).is_none()
            && self.mail.fits(1, value.len() as u64);
        if !sound {
            return Err(Code::BAD_PAYLOAD);
        }
        self.mail.insert(name, Message { from, to, ask, due, value: value.into() });
        Ok(())
    }

    fn thaw_place(&mut self, reader: &mut Reader<'_>, applied: Index) -> Result<(), Code> {
        let (member, by) = (Index(reader.u64()?), Index(reader.u64()?));
        let name = Index(reader.u64()?);
        let size = self.mail.get(name).ok_or(Code::BAD_PAYLOAD)?.size();
        // Until it has its first place it is counted as one that nobody has.
        let more = usize::from(!self.mail.is_homeless(name));
        let sound = name <= by
            && by <= applied
            && self.is_member(member)
            && !self.mail.has(name, member)
            && self.mail.fits(more, 0)
            && self.mail.has_room(member, size);
        if !sound {
            return Err(Code::BAD_PAYLOAD);
        }
        self.mail.bring(name, member, by);
        Ok(())
    }

    fn thaw_outcome(&mut self, mut reader: Reader<'_>) -> Result<(), Code> {
        let (name, member) = (Index(reader.u64()?), Index(reader.u64()?));
        let kind = reader.u8()?;
        let id = reader.bytes()?;
        let value = reader.rest();
        let asked = self.claims.hold(name).is_some() || self.claims.waiters.get(name).is_some();
        let sound = asked
            && !self.is_member(name)
            && kind <= GONE
            && !self.mail.is_noted(name, member)
            && !self.mail.has(name, member)
            && self.mail.fits(1, 0)
            && self.mail.fits_answer(value.len() as u64);
        if !sound {
            return Err(Code::BAD_PAYLOAD);
        }
        self.note(name, member, kind, id, value);
        Ok(())
    }
}

fn freeze_message(name: Index, message: &Message, out: &mut Vec<u8>) {
    out.push(ITEM_MESSAGE);
    bytes::put_u64(out, name.0);
    bytes::put_u64(out, message.from.0);
    out.push(message.to);
    out.push(u8::from(message.ask));
    out.push(u8::from(message.due.is_some()));
    bytes::put_u64(out, message.due.unwrap_or_default().0);
    out.extend_from_slice(&message.value);
}

/// Writes items until there are no more, or they are full: then returns the key of the last.
fn freeze_all<T>(
    all: &mut dyn Iterator<Item = T>,
    items: &mut Items<'_>,
    mut write: impl FnMut(T, &mut Vec<u8>) -> Place,
) -> Option<Place> {
    for one in all {
        let mut key = (Index::ZERO, Index::ZERO, Index::ZERO);
        items.put(|out| key = write(one, out));
        if items.is_full() {
            return Some(key);
        }
    }
    None
}

/// Where to go on: a stage and a key in it.
fn write_key(stage: u8, key: Place) -> Vec<u8> {
    let mut out = vec![stage];
    for part in [key.0, key.1, key.2] {
        bytes::put_u64(&mut out, part.0);
    }
    out
}

fn read_key(key: &[u8]) -> Result<(u8, Place), Code> {
    let mut reader = Reader::new(key);
    let stage = reader.u8()?;
    Ok((stage, (Index(reader.u64()?), Index(reader.u64()?), Index(reader.u64()?))))
}
