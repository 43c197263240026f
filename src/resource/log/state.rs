//! What a log does with its records: keeps as many as it was told to.

use super::records::Records;
use super::*;
use crate::machine::bytes;
use crate::machine::clock::Due;
use crate::machine::{Commit, Effects, LogTime, Pair, Query};
use crate::resource::Firing;
use crate::resource::codec::{Operation, Scratch, access, page_limit};
use crate::resource::snapshot::Items;
use crate::resource::transaction::OPERATIONS_MAX;
use crate::resource::waste::Waste;
use margay_log::id::{Index, Micros};

/// Records that have become too old are removed at whole seconds: they are gone for everybody
/// before, and one timer a second is enough.
const SWEEP: Micros = Micros::from_millis(1_000);

/// First byte of an item in a snapshot.
const ITEM_FIRST: u8 = 1;
const ITEM_RECORD: u8 = 2;

/// See the module above.
#[derive(Clone, Debug)]
pub(super) struct LogState {
    retention: Retention,
    records: Records,
}

/// With options; see [`Retention`].
pub(in super::super) fn create(options: &[u8]) -> Created {
    let retention = Retention::decode(options)?;
    Ok(Box::new(LogState { retention, records: Records::default() }))
}

impl Resource for LogState {
    fn apply(&mut self, commit: &Commit<'_>, effects: &mut Effects) {
        self.records.trim(self.first_at(commit.time));
        if let Err(code) = self.try_apply(commit, effects) {
            effects.refuse(code, "");
        }
    }

    fn query(&self, query: &Query<'_>, effects: &mut Effects) {
        let (now, mut scratch) = (query.time, Scratch::new());
        let answered = match query.schema {
            ReadV1::SCHEMA => access::<ReadV1>(query.payload, &mut scratch)
                .map(|read| self.read(read.from.to_native(), read.limit.to_native(), now, effects)),
            StatusV1::SCHEMA => access::<StatusV1>(query.payload, &mut scratch).map(|_| {
                let first = self.first_at(now);
                for number in [first, self.records.next(), self.records.bytes_from(first)] {
                    bytes::put_u64(&mut effects.reply, number);
                }
            }),
            _ => Err(Code::BAD_KIND),
        };
        if let Err(code) = answered {
            effects.refuse(code, "");
        }
    }

    fn deleted(&mut self, _firing: &Firing, _limit: usize, _effects: &mut Effects) -> bool {
        self.records.trim(u64::MAX);
        false
    }

    fn next_timer(&self) -> Option<Due> {
        let end = self.end_of_life(self.records.get(self.records.first())?.time())?;
        let at = LogTime(end.0.div_ceil(SWEEP.0).saturating_mul(SWEEP.0));
        Some(Due { at, created: Index::ZERO })
    }

    fn fire(&mut self, firing: &Firing, _effects: &mut Effects) {
        self.records.trim(self.first_at(firing.now));
    }

    fn size(&self, now: LogTime) -> u64 {
        self.records.next() - self.first_at(now)
    }

    fn take_waste(&mut self) -> Option<Box<dyn Waste>> {
        self.records.take_waste()
    }

    fn freeze(&self, after: Option<&[u8]>, items: &mut Items<'_>) -> Option<Vec<u8>> {
        let begin = match after {
            Some(next) => u64::from_be_bytes(next.try_into().expect("our own key")),
            None => {
                items.put(|out| {
                    out.push(ITEM_FIRST);
                    bytes::put_u64(out, self.records.first());
                });
                self.records.first()
            }
        };
        for (position, record) in (begin..).zip(self.records.from(begin)) {
            if items.is_full() {
                return Some(position.to_be_bytes().to_vec());
            }
            items.put(|out| {
                out.push(ITEM_RECORD);
                bytes::put_u64(out, record.time().0);
                out.extend_from_slice(record.bytes());
            });
        }
        None
    }

    fn thaw(&mut self, item: &[u8], applied: Index) -> Result<(), Code> {
        let mut reader = Reader::new(item);
        match reader.u8()? {
            ITEM_FIRST => {
                let first = reader.u64()?;
                // A transaction, which is one entry, appends so many records at most.
                let of_one = (limit::KEYS_MAX * OPERATIONS_MAX) as u64;
                let most = applied.0.saturating_mul(of_one).min(u64::MAX / 2);
                if self.records.next() != 1 || first == 0 || first - 1 > most {
                    return Err(Code::BAD_PAYLOAD);
                }
                self.records = Records::empty_at(first);
                reader.end()
            }
            ITEM_RECORD => {
                let time = LogTime(reader.u64()?);
                if self.records.last_time().is_some_and(|last| last > time) {
                    return Err(Code::BAD_PAYLOAD);
                }
                self.records.push(time, reader.rest());
                Ok(())
            }
            _ => Err(Code::BAD_PAYLOAD),
        }
    }

    fn boxed_clone(&self) -> Box<dyn Resource> {
        Box::new(self.clone())
    }
}

impl LogState {
    fn try_apply(&mut self, commit: &Commit<'_>, effects: &mut Effects) -> Result<(), Code> {
        let mut scratch = Scratch::new();
        match commit.schema {
            AppendV1::SCHEMA => {
                let append = access::<AppendV1>(commit.payload, &mut scratch)?;
                self.append(append, commit, effects)
            }
            TrimV1::SCHEMA => {
                let before = access::<TrimV1>(commit.payload, &mut scratch)?.before.to_native();
                if before > self.records.first() && self.records.len() > 0 {
                    self.records.trim(before);
                    let left = self.records.first().to_be_bytes();
                    effects.event(commit.resource, TRIMMED, None, Some(Pair::new(&left, &[])));
                }
                bytes::put_u64(&mut effects.reply, self.records.first());
                Ok(())
            }
            _ => Err(Code::BAD_KIND),
        }
    }

    fn append(
        &mut self,
        append: &ArchivedAppendV1,
        commit: &Commit<'_>,
        effects: &mut Effects,
    ) -> Result<(), Code> {
        let (next, expected) = (self.records.next(), append.position.to_native());
        let fits = expected == 0 || expected == next;
        if fits && !self.has_room(append) {
            return Err(Code::LOG_FULL);
        }
        effects.reply.push(u8::from(fits));
        bytes::put_u64(&mut effects.reply, next);
        if fits {
            for record in append.records.iter() {
                let pair = self.records.push(commit.time, record);
                effects.event(commit.resource, APPENDED, Some(pair), None);
            }
            self.roll();
        }
        Ok(())
    }

    /// Whether more records fit: where the oldest make room, always.
    fn has_room(&self, append: &ArchivedAppendV1) -> bool {
        let more = append.records.iter().map(|record| record.len() as u64).sum::<u64>();
        let bytes = self.records.bytes_from(self.records.first());
        self.retention.rolls()
            || (self.records.len() + append.records.len() as u64 <= RECORDS_MAX
                && bytes + more <= BYTES_MAX)
    }

    /// The oldest records make room. The last one stays.
    fn roll(&mut self) {
        if self.retention.rolls() {
            let next = self.records.next();
            let by_number = next.saturating_sub(self.retention.records_max());
            let by_bytes = self.records.first_within(self.retention.bytes_max());
            self.records.trim(by_number.max(by_bytes).min(next - 1));
        }
    }

    /// When a record of this time is too old.
    fn end_of_life(&self, time: LogTime) -> Option<LogTime> {
        let age_ms = self.retention.age_ms;
        (age_ms > 0).then(|| time.after(Micros::from_millis(age_ms)))
    }

    /// The first position that is kept at a time: what is too old then is not.
    fn first_at(&self, now: LogTime) -> u64 {
        if self.retention.age_ms == 0 {
            return self.records.first();
        }
        let is_over = |time| self.end_of_life(time).is_some_and(|end| end <= now);
        self.records.first_left(|record| is_over(record.time()))
    }

    fn read(&self, from: u64, limit: u32, now: LogTime, effects: &mut Effects) {
        let first = self.first_at(now);
        if from > 0 && from < first {
            let text = format!("position {from} is gone; the first is {first}");
            return effects.refuse(Code::TRIMMED, &text);
        }
        let limit = page_limit(limit, PAGE_MAX);
        let (from, next) = (from.max(first), self.records.next());
        let (mut body, mut count, mut size) = (Vec::new(), 0_u32, 0);
        for record in self.records.from(from).take(limit as usize) {
            size += record.bytes().len();
            if count > 0 && size > PAGE_BYTES_MAX {
                break;
            }
            bytes::put_u64(&mut body, record.time().0);
            bytes::put_bytes(&mut body, record.bytes());
            count += 1;
        }
        for number in [from, first, next] {
            bytes::put_u64(&mut effects.reply, number);
        }
        bytes::put_u32(&mut effects.reply, count);
        effects.reply.extend_from_slice(&body);
    }
}
