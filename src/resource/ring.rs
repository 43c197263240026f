//! The last events of a resource, kept so that a subscription can go on after a reconnect or
//! fail-over. They lie in blocks that copies share: a transaction keeps a copy of all that it may
//! have to undo, and a snapshot in the making one of everything.

use super::handle::thaw_version;
use crate::machine::bytes::{self, Reader};
use crate::machine::{Code, Event, Events, Pair, ResourceId, Shared};
use margay_log::breaks;
use margay_log::id::Index;
use std::collections::VecDeque;

/// Events kept per resource, at most.
pub(super) const EVENTS_MAX: usize = 1_024;
/// Bytes of events kept per resource, at most ([`Event::size`]).
pub(super) const EVENT_BYTES_MAX: u64 = 1 << 20;
/// Events in one block, at most: as many as there are blocks then, and a copy takes a pointer per
/// block and the events of none.
const BLOCK_EVENTS: usize = 32;
/// A block that has so many bytes takes no more events. What is dropped goes with the last event of
/// its block, so less than this is in memory for longer than it is kept.
const BLOCK_BYTES: u64 = EVENT_BYTES_MAX / 32;

/// A position in a resource's events: index and ordinal.
pub(super) type Position = (Index, u32);

type Numbered = (Index, Event);

/// Part of the replicated state. Its bytes are shared with the resource's own state, so keeping
/// an event costs no allocation of its own.
#[derive(Clone, Debug, Default)]
pub(super) struct Ring {
    /// Full blocks, the oldest first. Of that one the first `gone` events are dropped.
    blocks: VecDeque<Shared<[Numbered]>>,
    gone: usize,
    /// The newest events, in no block yet.
    newest: Vec<Numbered>,
    /// Sum of the sizes of the newest, and of all that are kept.
    newest_bytes: u64,
    bytes: u64,
    /// How many are kept.
    len: usize,
    /// The last event no longer kept.
    dropped: Position,
}

impl Ring {
    pub(super) fn push(&mut self, index: Index, event: Event) {
        let size = event.size() as u64;
        self.newest.push((index, event));
        self.newest_bytes += size;
        self.bytes += size;
        self.len += 1;
        if self.newest.len() == BLOCK_EVENTS || self.newest_bytes >= BLOCK_BYTES {
            self.blocks.push_back(self.newest.drain(..).collect());
            self.newest_bytes = 0;
        }
        while self.len > EVENTS_MAX || self.bytes > EVENT_BYTES_MAX {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        // Those in no block are far fewer, and smaller, than what may be kept.
        let block = self.blocks.front().expect("more than fits is in blocks");
        let (index, event) = &block[self.gone];
        self.dropped = (*index, event.ordinal);
        self.bytes -= event.size() as u64;
        self.len -= 1;
        self.gone += 1;
        if self.gone == block.len() {
            self.blocks.pop_front();
            self.gone = 0;
        }
    }

    /// See [`crate::machine::StateMachine::events`].
    pub(super) fn after(&self, after: Position, filter: &[u8]) -> Events {
        if after < self.dropped {
            // An entry of which some are gone counts as gone.
            let oldest = self.kept_after(self.dropped).next().map(|(index, _)| *index);
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

    fn kept_after(&self, after: Position) -> impl Iterator<Item = &Numbered> {
        let after = after.max(self.dropped);
        let is_past = move |numbered: &Numbered| position(numbered) <= after;
        let past = self.blocks.partition_point(|block| block.last().is_some_and(is_past));
        let rest = self.blocks.range(past..).map(|block| &block[..]).chain([&self.newest[..]]);
        let mut rest = rest.peekable();
        let first = rest.peek().map_or(0, |block| block.partition_point(is_past));
        rest.flatten().skip(first)
    }

    /// How many are kept.
    pub(super) fn len(&self) -> usize {
        self.len
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
        let next = self.kept_after(after).next()?;
        Some((position(next), &next.1))
    }

    /// The last event, or the last no longer kept.
    fn last(&self) -> Position {
        let newest = self.newest.last().or_else(|| self.blocks.back()?.last());
        newest.map_or(self.dropped, position)
    }
}

fn position((index, event): &Numbered) -> Position {
    (*index, event.ordinal)
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
    if (index, ordinal) <= ring.last() {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn event(ordinal: u32, value: usize) -> Event {
        let new = Some(Pair::new(b"key", &vec![7; value]));
        Event { resource: ResourceId(1), ordinal, kind: 1, new, old: None }
    }

    /// What a ring is to keep, by the plain rule.
    #[derive(Default)]
    struct Plain {
        kept: VecDeque<Numbered>,
        dropped: Position,
    }

    impl Plain {
        fn push(&mut self, index: Index, event: Event) {
            self.kept.push_back((index, event));
            while self.kept.len() > EVENTS_MAX || self.bytes() > EVENT_BYTES_MAX {
                self.dropped = position(&self.kept.pop_front().expect("more than fits"));
            }
        }

        fn bytes(&self) -> u64 {
            self.kept.iter().map(|(_, event)| event.size() as u64).sum()
        }

        fn after(&self, after: Position) -> Option<Vec<Numbered>> {
            let rest = self.kept.iter().filter(|numbered| position(numbered) > after);
            (after >= self.dropped).then(|| rest.cloned().collect())
        }
    }

    #[test]
    fn keeps_the_newest_events_up_to_a_number_and_to_bytes() {
        let sizes: [&[usize]; 5] =
            [&[0], &[900, 5_000], &[20_000, 0, 0, 40_000], &[1 << 20, 10], &[0, 0, 0, 300_000]];
        for sizes in sizes {
            let (mut ring, mut plain) = (Ring::default(), Plain::default());
            let count = if sizes.iter().max() > Some(&10_000) { 250 } else { 1_500 };
            for n in 1..=count {
                let (index, size) = (Index(n / 3), sizes[n as usize % sizes.len()]);
                let event = event(n as u32 % 3, size);
                ring.push(index, event.clone());
                plain.push(index, event);
                if n % 125 > 1 {
                    continue;
                }
                assert_eq!((ring.len(), ring.dropped()), (plain.kept.len(), plain.dropped));
                for back in [0, 1, 2, 31, 32, 33, 100, 1_024, 1_400] {
                    let from = (Index(u64::saturating_sub(n, back) / 3), (n % 3) as u32);
                    let found = match ring.after(from, &[]) {
                        Events::Some(events) => Some(events),
                        _ => None,
                    };
                    assert_eq!(found, plain.after(from), "{n} events, {back} back");
                }
            }
        }
    }

    /// What is dropped goes with its block, and a large value with itself.
    #[test]
    fn little_is_in_memory_that_is_not_kept() {
        let mut ring = Ring::default();
        for n in 1..3_000 {
            ring.push(Index(n), event(0, [10, 900, 30_000, 400_000, 0][n as usize % 5]));
            let held = ring.blocks.iter().flat_map(|block| block.iter()).chain(&ring.newest);
            let held: u64 = held.map(|(_, event)| event.size() as u64).sum();
            assert!(held < ring.bytes + BLOCK_BYTES, "{held} bytes for {}", ring.bytes);
        }
    }

    #[test]
    fn a_copy_shares_all_events_but_the_newest_few() {
        let mut ring = Ring::default();
        for n in 1..=EVENTS_MAX as u64 + 500 {
            ring.push(Index(n), event(0, 10));
        }
        let mut copy = ring.clone();
        copy.push(Index(9_999), event(0, 10));
        let address = |ring: &Ring, n| {
            let (position, event) = ring.next_after((Index(n), 0)).expect("a kept event");
            (position, std::ptr::from_ref(event))
        };
        let both = 600..EVENTS_MAX as u64 + 499;
        let apart = both.filter(|n| address(&ring, *n) != address(&copy, *n)).count();
        assert!(apart < BLOCK_EVENTS, "{apart} events were copied");
        assert_eq!((ring.len(), copy.len()), (EVENTS_MAX, EVENTS_MAX));
    }
}
