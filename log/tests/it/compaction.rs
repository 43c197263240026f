//! Entries are cleaned, segments rewritten, and the power goes in between: what was to stay is
//! there, what went is gone or is as it was, and everything still links.

use std::collections::{BTreeMap, BTreeSet};

use margay_log::clean::{Candidate, Packed};
use margay_log::disk::Disk;
use margay_log::disk::sim::{ENOSPC, SimDisk};
use margay_log::format::{BLOCK, EntryHeader, SegmentHeader};
use margay_log::id::{Index, Micros, Position, SegmentNumber, Term};
use margay_log::recover::Storage;
use margay_log::rng::Rng;
use margay_log::{Error, Log, Opened, Options, open};

use crate::world::{for_seeds, options, seeds, thrifty};

struct Store {
    options: Options,
    log: Log,
    disk: SimDisk,
    rng: Rng,
    /// What was ever appended at an index, and is not cut off.
    appended: BTreeMap<Index, Vec<u8>>,
    /// As things are now.
    cleaned: BTreeSet<Index>,
    /// At any time: a cut that a crash undoes brings back what had been cleaned before it.
    ever_cleaned: BTreeSet<Index>,
    /// Segments that were rewritten and whose files were others before.
    rewritten_reused: u64,
    halved: u64,
    /// Laid down, and not asked for yet.
    chosen: Option<(Candidate, Packed)>,
    /// Candidates that had changed when they were to be rewritten.
    changed: u64,
    /// Cuts within what was being rewritten.
    cut_meanwhile: u64,
    now: Micros,
}

impl Store {
    fn new(seed: u64, options: Options) -> Store {
        let mut disk = SimDisk::new(seed);
        disk.bring_back_removed();
        let Opened { log, .. } = open(&mut disk, options.clone()).expect("a new log");
        let (appended, cleaned, ever_cleaned) = Default::default();
        let rng = Rng::new(seed);
        Store {
            options,
            log,
            disk,
            rng,
            appended,
            cleaned,
            ever_cleaned,
            rewritten_reused: 0,
            halved: 0,
            chosen: None,
            changed: 0,
            cut_meanwhile: 0,
            now: Micros(0),
        }
    }

    fn act(&mut self) {
        match self.rng.below(20) {
            // Back into what is worked on, as chance alone would seldom have it.
            _ if self.log.is_rewriting() && self.rng.chance(1, 6) => self.cut(120),
            _ if self.chosen.is_some() && self.rng.chance(1, 40) => self.cut(120),
            0..7 => self.append(),
            7 if self.options.spare_bytes > 0 => self.truncate_prefix(),
            7..11 => self.clean(),
            11..14 => self.compact(),
            14 => self.cut(8),
            15 => self.truncate_prefix(),
            16 => self.cut_in_two(),
            17 => _ = self.log.set_meta(b"somebody's"),
            18 => self.disk.fail_prepares(Some(ENOSPC)),
            _ => {
                self.disk.fail_prepares(None);
                self.now = self.now.after(Micros::from_millis(150));
                self.log.on_tick(self.now);
            }
        }
        self.log.ops().for_each(|op| self.disk.submit(op));
    }

    fn append(&mut self) {
        let first = self.log.last().index.0 + 1;
        let mut entries = Vec::new();
        for n in 0..=self.rng.below(6) {
            let is_long = self.rng.chance(1, 40);
            let length = self.rng.below(if is_long { 30_000 } else { 900 }) as usize;
            let payload = [&(first + n).to_le_bytes()[..], &vec![n as u8; length]].concat();
            self.log.push(&EntryHeader::default(), &payload).expect("fits");
            entries.push((Index(first + n), payload));
        }
        match self.log.seal(Term(1), 0) {
            Ok(_) => {
                for (index, payload) in entries {
                    self.cleaned.remove(&index);
                    self.appended.insert(index, payload);
                }
            }
            Err(Error::NoSpace) => self.log.discard_open(),
            Err(error) => panic!("{error}"),
        }
    }

    fn clean(&mut self) {
        let (first, last) = (self.log.first().0, self.log.last().index.0);
        for _ in 0..30 {
            if last < first {
                return;
            }
            let index = Index(first + self.rng.below(last - first + 1));
            self.log.clean(index).expect("held");
            self.cleaned.insert(index);
            self.ever_cleaned.insert(index);
        }
    }

    /// One step of compaction, as far as it may go now.
    fn compact(&mut self) {
        if self.log.is_rewriting() {
            return;
        }
        let at_once = self.chosen.is_none();
        let Some((candidate, packed)) = self.chosen.take().or_else(|| self.choose()) else {
            return;
        };
        if !self.log.may_rewrite(candidate.segment) {
            self.log.record_place();
            self.chosen = Some((candidate, packed));
            return;
        }
        if at_once && self.rng.chance(1, 4) {
            // Something else comes before it.
            self.chosen = Some((candidate, packed));
            return;
        }
        let is_current = self.log.rewrite(&candidate, packed);
        assert!(is_current || !at_once);
        self.changed += u64::from(!is_current);
        if !is_current {
            return;
        }
        let mut header = [0; BLOCK];
        Storage::read(&mut self.disk, candidate.segment, 0, &mut header).expect("readable");
        let header = SegmentHeader::decode(&header).expect("a header");
        self.rewritten_reused += u64::from(header.former != SegmentNumber::default());
    }

    fn choose(&mut self) -> Option<(Candidate, Packed)> {
        let percent = 1 + self.rng.below(40);
        let candidate = self.log.candidate(SegmentNumber(0), percent)?;
        let disk = &mut self.disk;
        let packed = candidate
            .pack(|position, bytes| Storage::read(disk, position.segment, position.offset, bytes));
        Some((candidate, packed.expect("readable")))
    }

    /// At a batch end that is less than `most` entries back.
    fn cut(&mut self, most: u64) {
        let (start, last) = (self.log.start().id.index.0, self.log.last().index.0);
        let back = self.rng.below(most).min(last - start);
        let end = self.log.end_up_to(Index(last - back)).id.index;
        self.cut_meanwhile += u64::from(self.log.is_rewriting() && end.0 < last);
        self.log.truncate_suffix(end).expect("a batch end");
    }

    /// A batch is cut in two, whether or not compaction has been there or is at work.
    fn cut_in_two(&mut self) {
        let (start, last) = (self.log.start().id.index.0, self.log.last().index.0);
        let after = Index(last - self.rng.below(8).min(last - start));
        let end = self.log.end_up_to(after).id.index;
        let is_quiet = self.log.durable() == self.log.last().index && !self.log.is_replacing();
        if !is_quiet || end == after {
            return;
        }
        let mut kept = Vec::new();
        let disk = &mut self.disk;
        let read = |position: Position, bytes: &mut [u8]| {
            Storage::read(&mut *disk, position.segment, position.offset, bytes)
        };
        let read = self.log.each_entry(read, |index, payload| {
            if end < index && index <= after {
                kept.push((EntryHeader::default(), payload.to_vec()));
            }
        });
        // A file that is exchanged has its new places when the log is told.
        if read.is_err() || kept.len() as u64 != after.since(end) {
            return;
        }
        match self.log.replace_suffix(after, &kept) {
            Ok(_) => self.halved += 1,
            Err(Error::NoSpace | Error::DiskFull { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }

    fn truncate_prefix(&mut self) {
        let (start, last) = (self.log.start().id.index.0, self.log.last().index.0);
        let through = start + self.rng.below(last - start + 1) / 2;
        self.log.truncate_prefix(Index(through)).expect("not poisoned");
    }

    fn finish_one(&mut self) -> bool {
        let under_way = self.disk.in_flight().len() as u64;
        if under_way > 0 {
            self.disk.complete(self.rng.below(under_way) as usize);
            let mut done = Vec::new();
            self.disk.poll(false, &mut done);
            for done in done {
                self.log.on_done(done).expect("nothing fails");
            }
            self.log.ops().for_each(|op| self.disk.submit(op));
        }
        under_way > 0
    }

    /// Opens what is left of the disk and holds it against what was appended and `cleaned`. Returns
    /// how many entries compaction has removed.
    fn check(&self, disk: &mut SimDisk, cleaned: &BTreeSet<Index>) -> (Log, u64) {
        let Opened { log, report, .. } = open(disk, self.options.clone()).expect("opens");
        assert_eq!(report.damage, None, "no false damage: {report:?}");
        assert!(log.last().index >= self.log.durable().min(self.log.last().index));
        let mut found = BTreeSet::new();
        let read = |position: Position, bytes: &mut [u8]| {
            Storage::read(&mut *disk, position.segment, position.offset, bytes)
        };
        log.each_entry(read, |index, payload| {
            assert!(found.insert(index), "each once");
            assert!(payload.starts_with(&index.0.to_le_bytes()));
            if let Some(appended) = self.appended.get(&index)
                && index <= self.log.last().index
                && index <= self.log.durable()
            {
                assert_eq!(payload, appended);
            }
        })
        .expect("all of it is readable");
        let mut removed = 0;
        for index in (log.first().0..=log.last().index.0).map(Index) {
            if !found.contains(&index) {
                assert!(cleaned.contains(&index), "{index} was not cleaned");
                removed += 1;
            }
        }
        (log, removed)
    }
}

/// What a run came to.
#[derive(Default)]
struct Count {
    cuts: u64,
    removed: u64,
    /// Segments made from the files of others.
    reused: u64,
    /// Rewritten ones that had been made so.
    rewritten_reused: u64,
    halved: u64,
    changed: u64,
    cut_meanwhile: u64,
    /// Segments that had been removed and came back.
    back: u64,
}

#[test]
fn power_cut_while_compacting() {
    let mut count = Count::default();
    for_seeds("power_cut_while_compacting", &seeds(12), |seed| {
        history(Store::new(seed, options()), seed, &mut count);
    });
    let Count { cuts, removed, reused, halved, changed, cut_meanwhile, back, .. } = count;
    println!("{cuts} power cuts, {removed} entries were found removed;");
    println!("{halved} batches were cut in two, {back} removed segments came back");
    println!("{changed} candidates had changed, {cut_meanwhile} cuts during a rewriting");
    assert!(removed > 1000 && reused == 0 && halved > 0 && back > 0);
    assert!(changed > 0 && cut_meanwhile > 0);
}

/// Files go from hand to hand: a segment that is rewritten was another one before, and what is
/// left of it becomes a later one.
#[test]
fn power_cut_while_compacting_files_that_are_used_again() {
    let mut count = Count::default();
    for_seeds("power_cut_while_compacting_files_that_are_used_again", &seeds(30), |seed| {
        history(Store::new(seed, thrifty()), seed, &mut count);
    });
    let Count { cuts, removed, reused, rewritten_reused, .. } = count;
    println!("{cuts} power cuts, {removed} entries were found removed;");
    println!("{reused} segments made from the files of others, {rewritten_reused} then rewritten");
    assert!(removed > 1000 && reused > 50 && rewritten_reused > 10);
}

fn history(mut store: Store, seed: u64, count: &mut Count) {
    let mut rng = Rng::new(seed ^ 0xcafe);
    for step in 0..220 {
        store.act();
        loop {
            let mut disk = store.disk.clone();
            disk.power_cut(&mut rng);
            count.back += disk.back() - store.disk.back();
            count.removed += store.check(&mut disk, &store.ever_cleaned).1;
            count.cuts += 1;
            if !rng.chance(2, 3) || !store.finish_one() {
                break;
            }
        }
        if step % 70 == 69 {
            let mut disk = store.disk.clone();
            disk.power_cut(&mut rng);
            let (log, _) = store.check(&mut disk, &store.ever_cleaned);
            let last = log.last().index;
            store.appended.retain(|&index, _| index <= last);
            // A cut that was not durable is undone; what it had cut off is there again.
            (store.log, store.disk, store.chosen) = (log, disk, None);
            store.adopt();
        }
    }
    // A cut that no hard state speaks of is undone by a crash.
    store.disk.fail_prepares(None);
    store.now = store.now.after(Micros::from_millis(60_000));
    store.log.on_tick(store.now);
    store.log.record_place();
    store.log.ops().for_each(|op| store.disk.submit(op));
    while store.finish_one() {}
    count.reused += store.disk.reused();
    count.halved += store.halved;
    count.changed += store.changed;
    count.cut_meanwhile += store.cut_meanwhile;
    count.rewritten_reused += store.rewritten_reused;
    let mut disk = store.disk.clone();
    let (log, _) = store.check(&mut disk, &store.cleaned);
    assert_eq!(log.last(), store.log.last());
}

impl Store {
    /// What is on disk is what there is.
    fn adopt(&mut self) {
        let mut appended = BTreeMap::new();
        let disk = &mut self.disk;
        self.log
            .each_entry(
                |position, bytes| Storage::read(disk, position.segment, position.offset, bytes),
                |index, payload| {
                    appended.insert(index, payload.to_vec());
                },
            )
            .expect("readable");
        let held = self.log.first()..=self.log.last().index;
        let removed = |index: &Index| held.contains(index) && !appended.contains_key(index);
        // Also what was cleaned before a cut that the crash has undone.
        self.ever_cleaned.retain(|index| removed(index));
        self.cleaned.clone_from(&self.ever_cleaned);
        self.appended = appended;
    }
}
