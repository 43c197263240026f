//! A log on a simulated disk, what was ever put into it, and what it has promised.

use std::collections::BTreeMap;
use std::sync::Arc;

use margay_log::disk::sim::{ENOSPC, SimDisk};
use margay_log::disk::{Disk, Done, Op};
use margay_log::format::{BATCH_HEADER, BatchHeader, ENTRY_HEADER, EntryHeader};
use margay_log::id::{BatchEnd, Chain, ClusterId, EntryId, GroupId, Index, Micros, Term, Ticket};
use margay_log::rng::Rng;
use margay_log::{Batch, Buffer, Error, Log, Opened, Options, Read, Received, Report, open};

pub(crate) const CLUSTER: ClusterId = ClusterId(7);
pub(crate) const GROUP: GroupId = GroupId(3);
/// The kind of entries that other leaders make.
const OTHERS: u8 = 17;

/// A batch that was made once: by this log as a leader, or by another.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub(crate) previous: BatchEnd,
    pub(crate) end: BatchEnd,
    pub(crate) bytes: Arc<Vec<u8>>,
}

/// What the owner of the log was told and may rely on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Promise {
    pub(crate) durable: BatchEnd,
    /// The log that a reset replaces, until the reset is durable.
    pub(crate) replaced: Option<BatchEnd>,
    /// Entries up to here are there, whether of a batch that was cut in two or of what is left of
    /// it.
    kept: Index,
    /// Number of the oldest meta that may be found after a crash.
    pub(crate) meta: u64,
}

pub(crate) struct World {
    pub(crate) options: Options,
    pub(crate) log: Log,
    pub(crate) disk: SimDisk,
    pub(crate) rng: Rng,
    /// By first index and chain.
    pub(crate) made: BTreeMap<(Index, u32), Made>,
    pub(crate) promise: Promise,
    /// Where the log may begin, as far as it was asked to.
    pub(crate) starts: Vec<BatchEnd>,
    metas: Vec<(Ticket, u64)>,
    pub(crate) metas_set: u64,
    /// Nobody replicates it.
    pub(crate) is_alone: bool,
    /// Batches that were cut in two.
    pub(crate) halved: u64,
    term: Term,
    now: Micros,
}

pub(crate) fn options() -> Options {
    Options {
        cluster: CLUSTER,
        group: GROUP,
        segment_first: 32 << 10,
        segment_max: 128 << 10,
        tail_bytes: 128 << 10,
        writes_in_flight: 4,
        queue_bytes: 64 << 10,
        mark: Some(OTHERS),
        ..Options::default()
    }
}

/// Segments of one size, whose files are used again.
pub(crate) fn thrifty() -> Options {
    Options { segment_max: 32 << 10, spare_bytes: 128 << 10, ..options() }
}

impl World {
    pub(crate) fn new(seed: u64) -> World {
        World::with(seed, options())
    }

    pub(crate) fn with(seed: u64, options: Options) -> World {
        let mut disk = SimDisk::new(seed);
        disk.bring_back_removed();
        let Opened { log, report, .. } = open(&mut disk, options.clone()).expect("a new log");
        assert!(report.created);
        World {
            options,
            log,
            disk,
            rng: Rng::new(seed ^ 0x5eed),
            made: BTreeMap::new(),
            promise: Promise::default(),
            starts: vec![BatchEnd::ZERO],
            metas: Vec::new(),
            metas_set: 0,
            is_alone: false,
            halved: 0,
            term: Term(1),
            now: Micros(0),
        }
    }

    /// Something the owner of a log might do.
    pub(crate) fn act(&mut self) {
        if self.is_alone {
            return self.act_alone();
        }
        match self.rng.below(64) {
            0..26 => self.append(),
            26..36 => self.accept_other(),
            36..42 => self.accept_again(),
            42..45 => self.truncate_suffix(),
            45..50 => self.truncate_prefix(),
            50 => self.reset(),
            51..56 => self.set_meta(),
            56..61 => self.tick(),
            61 => self.disk.fail_prepares(Some(ENOSPC)),
            _ => self.disk.fail_prepares(None),
        }
        self.log.ops().for_each(|op| self.disk.submit(op));
    }

    /// The same of a log that no group replicates. It is cut when all is durable.
    fn act_alone(&mut self) {
        match self.rng.below(32) {
            0..4 if self.is_quiet() => self.truncate_suffix(),
            4..10 => {
                self.settle_without_mark();
                if self.is_quiet() {
                    self.replace_suffix();
                }
            }
            0..24 => self.append(),
            24..26 => self.truncate_prefix(),
            26..28 => self.set_meta(),
            28..30 => self.tick(),
            30 => self.disk.fail_prepares(Some(ENOSPC)),
            _ => self.disk.fail_prepares(None),
        }
        self.log.ops().for_each(|op| self.disk.submit(op));
        let is_written = self.disk.in_flight().any(|op| matches!(op, Op::Write { .. }));
        assert!(
            !self.log.is_replacing() || is_written,
            "hard states wait for a write, not for space"
        );
    }

    fn is_quiet(&self) -> bool {
        self.log.durable() == self.log.last().index && !self.log.is_replacing()
    }

    /// The disk finishes something under way, if there is anything.
    pub(crate) fn finish_one(&mut self) -> bool {
        let under_way = self.disk.in_flight().len() as u64;
        if under_way == 0 {
            return false;
        }
        self.disk.complete(self.rng.below(under_way) as usize);
        true
    }

    /// The log is told what has finished.
    pub(crate) fn tell(&mut self) {
        assert_eq!(self.disk.overwrites(), 0, "a block is written once");
        let mut done = Vec::new();
        self.disk.poll(false, &mut done);
        for done in done {
            self.on_done(done);
        }
        self.log.ops().for_each(|op| self.disk.submit(op));
    }

    /// Appends a batch, whatever space there is.
    pub(crate) fn append_one(&mut self) {
        let last = self.log.last();
        while self.log.last() == last {
            self.append();
        }
    }

    /// Everything under way finishes.
    pub(crate) fn settle_without_mark(&mut self) {
        loop {
            self.log.ops().for_each(|op| self.disk.submit(op));
            if !self.finish_one() {
                return;
            }
            self.tell();
        }
    }

    /// Everything under way finishes, and the log has recorded how far it is durable.
    pub(crate) fn settle(&mut self) {
        self.disk.fail_prepares(None);
        for _ in 0..100 {
            self.settle_without_mark();
            match self.log.deadline() {
                Some(at) => {
                    self.now = self.now.max(at);
                    self.log.on_tick(self.now);
                }
                None => return,
            }
        }
        panic!("a log without work does not come to rest");
    }

    fn on_done(&mut self, done: Done) {
        let progress = self.log.on_done(done).expect("no write failed");
        if let Some(durable) = progress.durable {
            assert_eq!(durable, self.log.durable());
            self.promise.durable = self.end_at(durable);
            self.promise.replaced = None;
        }
        if let Some(ticket) = progress.meta {
            for &(set, number) in &self.metas {
                if set <= ticket {
                    self.promise.meta = self.promise.meta.max(number);
                }
            }
        }
    }

    fn end_at(&self, index: Index) -> BatchEnd {
        let chain = self.log.chain_at(index).expect("durable is a batch end");
        let term = self.log.term_at(index).expect("and has a term");
        BatchEnd { id: EntryId::new(term, index), chain }
    }

    fn last(&self) -> BatchEnd {
        self.end_at(self.log.last().index)
    }

    fn remember(&mut self, previous: BatchEnd, batch: &Batch) {
        let header = *batch.header();
        let end = BatchEnd { id: header.last(), chain: header.chain };
        let bytes = Arc::new(batch.bytes().to_vec());
        self.made.insert((header.first, header.chain.0), Made { previous, end, bytes });
    }

    fn append(&mut self) {
        let previous = self.last();
        if self.rng.chance(1, 16) {
            self.term = self.term.next();
        }
        self.term = self.term.max(previous.id.term);
        for _ in 0..=self.rng.below(3) {
            let payload = self.payload();
            self.log
                .push(&EntryHeader { kind: 16, ..EntryHeader::default() }, &payload)
                .expect("fits");
        }
        match self.log.seal(self.term, self.now.0) {
            Ok(batch) => self.remember(previous, &batch),
            Err(Error::NoSpace) => self.log.discard_open(),
            Err(error) => panic!("{error}"),
        }
    }

    fn payload(&mut self) -> Vec<u8> {
        let long = self.rng.chance(1, 12);
        let length = self.rng.below(if long { 20_000 } else { 700 });
        let byte = self.rng.next_u64() as u8;
        vec![byte; length as usize]
    }

    /// A random batch end of the log.
    fn some_end(&mut self) -> BatchEnd {
        let (start, last) = (self.log.start().id.index.0, self.log.last().index.0);
        let back = self.rng.below(12).min(last - start);
        self.log.end_up_to(Index(last - back))
    }

    /// Another leader has gone on somewhere in this log.
    fn accept_other(&mut self) {
        let previous = self.some_end();
        self.term = self.term.next();
        let mut payloads = Vec::new();
        for _ in 0..=self.rng.below(3) {
            payloads.push(self.payload());
        }
        let bytes = make(previous, self.term, &payloads);
        self.accept(previous, &bytes);
    }

    /// A batch comes once more that this log has held, now or at another time.
    fn accept_again(&mut self) {
        let skip = self.rng.below(self.made.len().max(1) as u64) as usize;
        let fitting = self.made.values().cycle().skip(skip).take(self.made.len()).find(|made| {
            self.log.chain_at(made.previous.id.index) == Some(made.previous.chain)
                && made.previous.id.index >= self.log.start().id.index
        });
        if let Some(made) = fitting.cloned() {
            self.accept(made.previous, &made.bytes);
        }
    }

    pub(crate) fn accept(&mut self, previous: BatchEnd, bytes: &[u8]) {
        let held = self.last();
        let batch = match self.log.accept(received(bytes)) {
            Ok(batch) => batch,
            Err(margay_log::Refused::NoSpace) => return,
            Err(refused) => panic!("{refused}"),
        };
        assert_eq!(batch.bytes(), bytes);
        if self.last() != held {
            self.lower(previous);
        }
        self.remember(previous, &batch);
    }

    fn truncate_suffix(&mut self) {
        let end = self.some_end();
        self.log.truncate_suffix(end.id.index).expect("a batch end");
        self.lower(end);
    }

    /// A batch is cut in two, as a log used alone does when all is durable.
    fn replace_suffix(&mut self) {
        let (start, last) = (self.log.start().id.index.0, self.log.last().index.0);
        let after = Index(last - self.rng.below(12).min(last - start));
        let previous = self.log.end_up_to(after);
        let kept = after.since(previous.id.index) as usize;
        if kept == 0 {
            return;
        }
        let made = self.made_behind(&self.log, previous).expect("the log holds a batch there");
        let mut entries = entries(&made.bytes);
        entries.truncate(kept);
        match self.log.replace_suffix(after, &entries) {
            Ok(index) => assert_eq!(index, after),
            Err(Error::NoSpace | Error::DiskFull { .. }) => return,
            Err(error) => panic!("{error}"),
        }
        let mut out = Vec::new();
        assert_eq!(self.log.read(previous.id.index, 0, &mut out), Read::Cached);
        assert_eq!(out[0].header().last().index, after);
        self.remember(previous, &out[0]);
        self.lower(previous);
        self.promise.kept = after;
        self.halved += 1;
    }

    /// What the log holds behind the batch end `previous`.
    fn made_behind(&self, log: &Log, previous: BatchEnd) -> Option<Made> {
        let first = previous.id.index.next();
        let fits = |made: &&Made| {
            made.previous == previous && log.chain_at(made.end.id.index) == Some(made.end.chain)
        };
        self.made.range((first, 0)..=(first, u32::MAX)).map(|(_, made)| made).find(fits).cloned()
    }

    /// The log was cut to `end`: only that much is promised still.
    fn lower(&mut self, end: BatchEnd) {
        self.promise.kept = self.promise.kept.min(end.id.index);
        if self.promise.replaced.is_none() && self.promise.durable.id.index > end.id.index {
            self.promise.durable = end;
        }
    }

    fn truncate_prefix(&mut self) {
        let (start, last) = (self.log.start().id.index.0, self.log.last().index.0);
        let through = start + self.rng.below(last - start + 1);
        self.log.truncate_prefix(Index(through)).expect("not poisoned");
        self.starts.push(self.log.start());
    }

    fn reset(&mut self) {
        let index = Index(self.log.last().index.0 + 1 + self.rng.below(50));
        let id = EntryId::new(self.term, index);
        let start = BatchEnd { id, chain: Chain(self.rng.next_u64() as u32) };
        if self.promise.replaced.is_none() {
            self.promise.replaced = Some(self.promise.durable);
        }
        self.log.reset(start).expect("not poisoned");
        self.promise.durable = BatchEnd::ZERO;
        self.promise.kept = Index::ZERO;
        self.starts.push(start);
    }

    fn set_meta(&mut self) {
        self.metas_set += 1;
        let ticket = self.log.set_meta(&self.metas_set.to_le_bytes());
        self.metas.push((ticket, self.metas_set));
    }

    fn tick(&mut self) {
        self.now = self.now.after(Micros(self.rng.below(150_000)));
        self.log.on_tick(self.now);
    }

    /// Opens what is on `disk` and holds it against what was promised.
    pub(crate) fn check_after_crash(&self, disk: &mut SimDisk) -> (Log, Report, u64) {
        let Opened { log, meta, marked, report, .. } =
            open(disk, self.options.clone()).expect("opens after a crash");
        assert_eq!(report.damage, None, "no false damage: {report:?}");
        assert!(report.headers.is_empty());
        assert_eq!((report.last, report.durable), (log.last(), log.last().index));
        assert_eq!(log.durable(), log.last().index);
        assert!(self.starts.contains(&log.start()), "begins where it was asked to");

        let was_reset = self.promise.replaced.is_some() && log.start().id.index.0 > 0;
        let promised = match self.promise.replaced {
            Some(old) if log.chain_at(old.id.index) == Some(old.chain) => old,
            Some(_) if was_reset => BatchEnd::ZERO,
            Some(old) => old,
            None => self.promise.durable,
        };
        if promised.id.index > Index::ZERO {
            let found = log.chain_at(promised.id.index);
            assert_eq!(found, Some(promised.chain), "durable {promised:?}, found {report:?}");
        }
        let kept = self.promise.kept;
        assert!(log.last().index >= kept, "{kept} was kept, found {report:?}");
        let mut end = log.start();
        let mut of_others = Vec::new();
        while end.id.index < log.last().index {
            let first = end.id.index.next();
            let made = self.made_behind(&log, end);
            let made = made.unwrap_or_else(|| panic!("nobody made the batch at {first}"));
            end = made.end;
            let (header, body) = made.bytes[BATCH_HEADER..].split_at(ENTRY_HEADER);
            let header = EntryHeader::decode(header).expect("an entry");
            if header.kind == OTHERS {
                of_others.push((first, body[..header.length as usize].to_vec()));
            }
        }
        let is_asked = self.options.mark.is_some();
        assert!(
            !is_asked || marked == of_others,
            "the marked entries of the log, no more, no less"
        );
        let meta = meta.try_into().map_or(0, u64::from_le_bytes);
        assert!(self.promise.meta <= meta && meta <= self.metas_set, "meta {meta}");
        (log, report, meta)
    }

    /// Goes on with what was found after a crash.
    pub(crate) fn go_on(&mut self, disk: SimDisk, log: Log, meta: u64) {
        (self.disk, self.log) = (disk, log);
        self.promise = Promise { durable: self.last(), meta, ..Promise::default() };
        self.starts = vec![self.log.start()];
        self.metas.clear();
        self.metas_set = self.metas_set.max(meta);
        self.now = Micros(0);
    }

    /// Reads the whole log and compares it with what was made.
    pub(crate) fn read_all(&self, log: &mut Log, disk: &mut SimDisk) {
        let mut out = Vec::new();
        let mut after = log.start().id.index;
        loop {
            match log.read(after, 64 << 10, &mut out) {
                Read::Cached => {}
                Read::Pending(_) => {
                    log.ops().for_each(|op| disk.submit(op));
                    let mut done = Vec::new();
                    disk.poll(true, &mut done);
                    for done in done {
                        log.on_done(done).expect("reads do not stop a log");
                    }
                }
                Read::End => return,
                other => panic!("{other:?} behind {after}"),
            }
            for batch in out.drain(..) {
                let made = &self.made[&(batch.header().first, batch.header().chain.0)];
                assert_eq!(batch.bytes(), &made.bytes[..]);
                assert_eq!(batch.header().first, after.next());
                after = batch.header().last().index;
            }
        }
    }

    /// How many operations of the disk would write.
    pub(crate) fn writes_under_way(&self) -> usize {
        self.disk.in_flight().filter(|op| !matches!(op, Op::Read { .. })).count()
    }
}

/// The entries of a batch.
fn entries(batch: &[u8]) -> Vec<(EntryHeader, Vec<u8>)> {
    let mut rest = &batch[BATCH_HEADER..];
    let mut entries = Vec::new();
    while !rest.is_empty() {
        let (header, behind) = rest.split_at(ENTRY_HEADER);
        let header = EntryHeader::decode(header).expect("an entry");
        let (payload, behind) = behind.split_at((header.length as usize).next_multiple_of(16));
        entries.push((header, payload[..header.length as usize].to_vec()));
        rest = behind;
    }
    entries
}

/// A batch as another leader would seal it behind `previous`.
pub(crate) fn make(previous: BatchEnd, term: Term, payloads: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = vec![0; BATCH_HEADER];
    for payload in payloads {
        let length = payload.len() as u32;
        bytes.extend(EntryHeader { length, kind: OTHERS, ..EntryHeader::default() }.encode());
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(16), 0);
    }
    let mut header = BatchHeader {
        cluster: CLUSTER,
        group: GROUP,
        count: payloads.len() as u32,
        term,
        first: previous.id.index.next(),
        log_time: 0,
        length: bytes.len() as u32,
        body_crc: crc32c::crc32c(&bytes[BATCH_HEADER..]),
        chain: Chain(0),
    };
    header.chain = header.chain_behind(previous.chain);
    bytes[..BATCH_HEADER].copy_from_slice(&header.encode());
    bytes
}

pub(crate) fn received(bytes: &[u8]) -> Received {
    let mut buffer = Buffer::zeroed(margay_log::batch::BATCH_OFFSET + bytes.len());
    buffer[margay_log::batch::BATCH_OFFSET..][..bytes.len()].copy_from_slice(bytes);
    Received::check(buffer, bytes.len(), CLUSTER, GROUP).expect("well-formed")
}

/// The seeds to run: `MARGAY_SEED` alone, or `count` of them (times `MARGAY_SCALE`).
pub(crate) fn seeds(count: u64) -> Vec<u64> {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    match number("MARGAY_SEED") {
        Some(seed) => vec![seed],
        None => (1..=count * number("MARGAY_SCALE").unwrap_or(1)).collect(),
    }
}

/// Runs `test` for each seed; a failure says which one it was.
pub(crate) fn for_seeds(name: &str, seeds: &[u64], mut test: impl FnMut(u64)) {
    for &seed in seeds {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(seed)));
        if let Err(panic) = outcome {
            eprintln!("replay with: MARGAY_SEED={seed} cargo test -p margay-log {name}");
            std::panic::resume_unwind(panic);
        }
    }
}
