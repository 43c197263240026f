//! The records of a log, by position: chunks of them, so that a copy is a few pointers, and so that
//! what is trimmed can be set aside in parts.

use crate::machine::{LogTime, Pair, Shared};
use crate::resource::waste::Waste;
use imbl::OrdMap;

/// Records in one chunk, at most. The first chunk may hold so many that are trimmed already.
const CHUNK_RECORDS: usize = 256;
/// No record is added to a chunk that has so many bytes.
const CHUNK_BYTES: u64 = 64 << 10;

/// A record. The pair is its position and log time, big-endian, and its bytes.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) pair: Pair,
    /// Bytes of this record and all before it, those that are gone included.
    end: u64,
}

impl Record {
    pub(super) fn time(&self) -> LogTime {
        let time = self.pair.key().last_chunk().expect("a position and a time");
        LogTime(u64::from_be_bytes(*time))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.pair.value()
    }

    /// Bytes of all records before it.
    fn start(&self) -> u64 {
        self.end - self.bytes().len() as u64
    }
}

type Chunk = Shared<Vec<Record>>;

/// See the module. Positions `first..next` are there.
#[derive(Clone, Debug)]
pub(super) struct Records {
    /// By the position of the first record in each; what one lacks to the next is not there.
    chunks: OrdMap<u64, Chunk>,
    first: u64,
    next: u64,
    /// Bytes of all records ever, as far as this replica has counted: only differences matter.
    end: u64,
    dropped: Vec<Chunk>,
}

impl Default for Records {
    fn default() -> Records {
        Records { chunks: OrdMap::new(), first: 1, next: 1, end: 0, dropped: Vec::new() }
    }
}

impl Records {
    /// None, and the next is to be at `next`.
    pub(super) fn empty_at(next: u64) -> Records {
        Records { first: next, next, ..Records::default() }
    }

    /// The first position that is there, or the next where there is none.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// Where the next record goes.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    pub(super) fn len(&self) -> u64 {
        self.next - self.first
    }

    /// Bytes of the records from a position on.
    pub(super) fn bytes_from(&self, position: u64) -> u64 {
        self.get(position).map_or(0, |record| self.end - record.start())
    }

    pub(super) fn get(&self, position: u64) -> Option<&Record> {
        if !(self.first..self.next).contains(&position) {
            return None;
        }
        let (begin, chunk) = self.chunks.range(..=position).next_back()?;
        chunk.get((position - begin) as usize)
    }

    /// Those from a position on that are there, in order.
    pub(super) fn from(&self, position: u64) -> impl Iterator<Item = &Record> {
        let position = position.max(self.first);
        let chunk = self.chunks.range(..=position).next_back().map(|(begin, _)| *begin);
        let begin = chunk.unwrap_or(position);
        let skipped = (position - begin) as usize;
        self.chunks.range(begin..).flat_map(|(_, chunk)| chunk.iter()).skip(skipped)
    }

    /// The last record's log time.
    pub(super) fn last_time(&self) -> Option<LogTime> {
        self.get(self.next.checked_sub(1)?).map(Record::time)
    }

    /// Appends a record and returns its bytes, to be shared.
    pub(super) fn push(&mut self, time: LogTime, bytes: &[u8]) -> Pair {
        let key = [self.next.to_be_bytes(), time.0.to_be_bytes()].concat();
        let pair = Pair::new(&key, bytes);
        self.end += bytes.len() as u64;
        let record = Record { pair: pair.clone(), end: self.end };
        match self.chunks.get_max().map(|(begin, chunk)| (*begin, is_full(chunk))) {
            Some((begin, false)) => {
                let last = self.chunks.get_mut(&begin).expect("just seen");
                Shared::make_mut(last).push(record);
            }
            _ => drop(self.chunks.insert(self.next, Shared::new(vec![record]))),
        }
        self.next += 1;
        pair
    }

    /// The first position whose record is not `gone`; if one is gone, so are all before it.
    pub(super) fn first_left(&self, gone: impl Fn(&Record) -> bool) -> u64 {
        let (mut low, mut high) = (self.first, self.next);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.get(middle).is_some_and(&gone) {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        low
    }

    /// The first position from which on there are at most so many bytes.
    pub(super) fn first_within(&self, bytes: u64) -> u64 {
        self.first_left(|record| self.end - record.start() > bytes)
    }

    /// Takes away what is before a position.
    pub(super) fn trim(&mut self, before: u64) {
        self.first = before.clamp(self.first, self.next);
        while let Some((begin, chunk)) = self.chunks.get_min()
            && begin + chunk.len() as u64 <= self.first
        {
            let begin = *begin;
            self.dropped.extend(self.chunks.remove(&begin));
        }
    }

    /// What was trimmed: to be freed bit by bit.
    pub(super) fn take_waste(&mut self) -> Option<Box<dyn Waste>> {
        let dropped = std::mem::take(&mut self.dropped);
        (!dropped.is_empty()).then(|| Box::new(dropped) as Box<dyn Waste>)
    }
}

fn is_full(chunk: &[Record]) -> bool {
    let bytes = |first: &Record, last: &Record| last.end - first.start();
    chunk.len() >= CHUNK_RECORDS
        || chunk.first().zip(chunk.last()).is_some_and(|(f, l)| bytes(f, l) >= CHUNK_BYTES)
}

impl Waste for Vec<Chunk> {
    fn shed(&mut self, limit: usize) -> bool {
        let Some(last) = self.last_mut() else { return false };
        // What somebody else still has costs nothing to let go.
        let left = Shared::get_mut(last).map_or(0, |records| {
            records.truncate(records.len().saturating_sub(limit));
            records.len()
        });
        if left == 0 {
            self.pop();
        }
        !self.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(records: u64, bytes: usize) -> Records {
        let mut all = Records::default();
        for n in 0..records {
            all.push(LogTime(n * 10), &vec![n as u8; bytes]);
        }
        all
    }

    #[test]
    fn every_position_is_found_across_chunks_and_trims() {
        let mut all = filled(1_000, 3);
        assert!(all.chunks.len() >= 4);
        for before in [1, 2, 255, 257, 258, 700, 1_001] {
            all.trim(before);
            assert_eq!((all.first(), all.next(), all.len()), (before, 1_001, 1_001 - before));
            assert_eq!(all.bytes_from(before), 3 * all.len());
            assert!(all.get(before - 1).is_none() && all.get(1_001).is_none());
            for position in before..1_001 {
                let record = all.get(position).expect("it is there");
                assert_eq!(record.time(), LogTime((position - 1) * 10));
                assert_eq!(record.bytes(), [(position - 1) as u8; 3]);
            }
            let listed: Vec<u64> = all.from(0).map(|record| record.time().0 / 10 + 1).collect();
            assert!(listed.into_iter().eq(before..1_001));
        }
        assert_eq!(all.last_time(), None);
        all.push(LogTime(7), b"on");
        assert_eq!(all.get(1_001).map(Record::bytes), Some(&b"on"[..]));
    }

    #[test]
    fn bounds_are_found_by_halving() {
        let all = filled(600, 10);
        for (bytes, first) in [(6_000, 1), (5_999, 2), (10, 600), (9, 601), (0, 601)] {
            assert_eq!(all.first_within(bytes), first);
        }
        assert_eq!(all.first_left(|record| record.time() <= LogTime(990)), 101);
    }

    #[test]
    fn large_records_do_not_keep_each_other() {
        let mut all = filled(10, 100 << 10);
        assert_eq!(all.chunks.len(), 10);
        all.trim(10);
        assert_eq!(all.chunks.len(), 1);
    }

    #[test]
    fn what_was_trimmed_is_freed_in_parts() {
        let mut all = filled(600, 1);
        let frozen = all.clone();
        all.trim(601);
        let mut waste = all.take_waste().expect("three chunks");
        assert!(all.take_waste().is_none());
        let rounds = |waste: &mut Box<dyn Waste>| (1..).find(|_| !waste.shed(64)).expect("an end");
        assert_eq!(rounds(&mut waste), 3, "the frozen view has them all");
        assert_eq!(frozen.from(1).count(), 600);
        let mut own = frozen;
        own.trim(601);
        assert_eq!(rounds(&mut own.take_waste().expect("three chunks")), 10);
    }
}
