//! The last events of a resource, kept so that a subscription can go on after a reconnect or
//! fail-over.

use super::handle::thaw_version;
use crate::machine::bytes::{self, Reader};
use crate::machine::{Code, Event, Events, Pair, ResourceId};
use margay_log::breaks;
use margay_log::id::Index;
use std::collections::VecDeque;

/// Events kept per resource, at most.
pub(super) const EVENTS_MAX: usize = 1_024;
/// Bytes of events kept per resource, at most ([`Event::size`]).
pub(super) const EVENT_BYTES_MAX: u64 = 1 << 20;

/// A position in a resource's events: index and ordinal.
pub(super) type Position = (Index, u32);

/// Part of the replicated state. Its bytes are shared with the resource's own state, so keeping
/// an event costs no allocation.
#[derive(Clone, Debug, Default)]
pub(super) struct Ring {
    events: VecDeque<(Index, Event)>,
    /// Sum of the sizes.
    bytes: u64,
    /// The last event no longer kept.
    dropped: Position,
}

impl Ring {
    pub(super) fn push(&mut self, index: Index, event: Event) {
        self.bytes += event.size() as u64;
        self.events.push_back((index, event));
        while self.events.len() > EVENTS_MAX || self.bytes > EVENT_BYTES_MAX {
            let Some((index, event)) = self.events.pop_front() else { return };
            self.bytes -= event.size() as u64;
            self.dropped = (index, event.ordinal);
        }
    }

    /// See [`crate::machine::StateMachine::events`].
    pub(super) fn after(&self, after: Position, filter: &[u8]) -> Events {
        if after < self.dropped {
            // An entry of which some are gone counts as gone.
            let oldest = self.events.front().map(|(index, _)| *index);
            let oldest = oldest.filter(|index| *index > self.dropped.0);
            return Events::Lagged { oldest: oldest.unwrap_or(self.dropped.0.next()) };
        }
        let mut after = after;
        if breaks::EVENT_REPEATED.on() {
            after = (after.0, after.1.saturating_sub(1)).min((after.0.prev(), u32::MAX));
        }
        let passing = self.kept_after(after).filter(|(_, event)| event.passes(filter));
        Events::Some(passing.cloned().collect())
    }

    fn kept_after(&self, after: Position) -> impl Iterator<Item = &(Index, Event)> {
        let first = self.events.partition_point(|(index, event)| (*index, event.ordinal) <= after);
        self.events.range(first..)
    }

    /// How many are kept.
    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    pub(super) fn dropped(&self) -> Position {
        self.dropped
    }

    /// A ring that has lost everything up to a position, before events are thawed into it.
    pub(super) fn with_dropped(dropped: Position) -> Ring {
        Ring { dropped, ..Ring::default() }
    }

    /// The first event after a position, and that event's own.
    pub(super) fn next_after(&self, after: Position) -> Option<(Position, &Event)> {
        let (index, event) = self.kept_after(after).next()?;
        Some(((*index, event.ordinal), event))
    }
}

/// Appends an event as snapshots hold it.
pub(super) fn freeze_event(index: Index, event: &Event, out: &mut Vec<u8>) {
    bytes::put_u64(out, index.0);
    bytes::put_u32(out, event.ordinal);
    out.extend_from_slice(&event.kind.to_le_bytes());
    freeze_pair(event.new.as_ref(), out);
    freeze_pair(event.old.as_ref(), out);
}

/// Takes an event back; it must be later than all in the ring.
pub(super) fn thaw_event(
    resource: ResourceId,
    item: &[u8],
    applied: Index,
    ring: &mut Ring,
) -> Result<(), Code> {
    let mut reader = Reader::new(item);
    let index = thaw_version(&mut reader, applied)?;
    let ordinal = reader.u32()?;
    let kind = reader.u16()?;
    let new = thaw_pair(&mut reader)?;
    let old = thaw_pair(&mut reader)?;
    reader.end()?;
    let last = ring.events.back().map_or(ring.dropped, |(index, event)| (*index, event.ordinal));
    if (index, ordinal) <= last {
        return Err(Code::BAD_PAYLOAD);
    }
    ring.push(index, Event { resource, ordinal, kind, new, old });
    Ok(())
}

fn freeze_pair(pair: Option<&Pair>, out: &mut Vec<u8>) {
    bytes::put_optional(out, pair.map(Pair::key));
    bytes::put_optional(out, pair.map(Pair::value));
}

fn thaw_pair(reader: &mut Reader<'_>) -> Result<Option<Pair>, Code> {
    match (reader.optional()?, reader.optional()?) {
        (Some(key), Some(value)) => Ok(Some(Pair::new(key, value))),
        (None, None) => Ok(None),
        _ => Err(Code::BAD_PAYLOAD),
    }
}
