//! Opening a log: what is on disk becomes a [`Log`] and a [`Report`], or an error that says why
//! not.
//!
//! Straight-line and blocking, over a [`Storage`]. What the frames mean is `walk.rs`'s, what is
//! lacking is found in `recover/found.rs`; here are the files: whose they are, whether one is
//! missing, where to go on.
//!
//! Invariants: nothing on disk is changed but leftovers below the log's beginning, the hard state,
//! and a fresh segment; no block that may have been written is written again; a log that lacks what
//! it once knew to be durable is never opened without saying so, now and after every later restart,
//! until it is repaired.

mod found;
mod storage;

use std::collections::VecDeque;

use crate::breaks;
use crate::buffer::Buffer;
use crate::disk::DiskError;
use crate::error::{Error, FormatError, HARD_STATE_FILE, segment_file};
use crate::format::{BLOCK, SegmentHeader};
use crate::hard_state::{HardState, Newest, Updates};
use crate::id::{Incarnation, Index, Position, SegmentNumber, Ticket};
use crate::log::Log;
use crate::options::Options;
use crate::progress::{Idle, Preparing};
use crate::read::Reads;
use crate::segment::Segment;
use crate::snapshot::{SNAPSHOT_HEADER, SnapshotHeader, snapshot_file};
use crate::spare::Spares;
use crate::tail::Tail;
use crate::walk::Walk;
use crate::writer::Writer;
pub use found::{Cause, Damage, Found, Report, Rotten, Torn};
use found::{find_damage, find_rotten, first_damage};
pub use storage::Storage;

/// A log that has been opened.
#[derive(Debug)]
pub struct Opened {
    /// The log. All of it is durable.
    pub log: Log,
    /// The owner's bytes in the hard state.
    pub meta: Vec<u8>,
    /// The snapshots whose headers are whole, oldest first. Their chunks have not been looked at.
    pub snapshots: Vec<SnapshotHeader>,
    /// Entries of the kind [`Options::mark`] that are the first of a batch of the log: where they
    /// are and their payloads, rising.
    pub marked: Vec<(Index, Vec<u8>)>,
    /// What was found.
    pub report: Report,
}

/// Opens the log in `storage`; makes one if there is none.
///
/// # Errors
/// Whatever keeps it from being opened, as [`Error`] lists it. Damage is one of them if
/// [`Options::refuse_damage`] says so; else it is reported.
pub fn open(storage: &mut dyn Storage, options: Options) -> Result<Opened, Error> {
    let refuse = options.refuse_damage;
    open_unless(storage, options, |_| refuse)
}

/// The same, for who decides by what was found whether damage is an error: `refuse` is asked only
/// where there is some, and before anything is written.
///
/// # Errors
/// As with [`open`].
pub fn open_unless(
    storage: &mut dyn Storage,
    mut options: Options,
    refuse: impl FnOnce(&Found<'_>) -> bool,
) -> Result<Opened, Error> {
    options.check()?;
    let listed = storage.segments().map_err(|cause| failed("list", "segments", cause))?;
    let (newest, created) = hard_state(storage, &options, listed.is_empty())?;
    let hard = &newest.state;
    check_identity(hard, &mut options)?;
    let listed = remove_leftovers(storage, listed, hard)?;
    check_numbers(&listed, hard)?;

    let mut walk = Walk::new(hard, options.mark);
    walk.keep_rotten = options.keep_rotten;
    let mut headers = Vec::new();
    let mut fresh = None;
    for &(number, size) in &listed {
        let (header, is_used) = match check_segment(storage, hard, number, size)? {
            Ok(header) => (None, header.former != SegmentNumber::default()),
            Err(error) => (Some(error), false),
        };
        let walked = walk
            .segment(storage, number, size, is_used)
            .map_err(|cause| failed("read", &segment_file(number), cause))?;
        match header {
            Some(FormatError::Magic) if !walked.frames => {
                return Err(Error::Foreign { file: segment_file(number) });
            }
            Some(_) => headers.push(number),
            None => {}
        }
        let untouched = !walked.written && header.is_none();
        fresh = if untouched { fresh.or(Some(number)) } else { None };
    }
    walk.finish(storage);
    if walk.hard_needed > hard.update {
        let (found, needed) = (hard.update, walk.hard_needed);
        return Err(Error::HardStateLost { found, needed });
    }
    let damage = find_damage(&mut walk, hard).filter(|_| !breaks::DAMAGE_CUT_OFF.on());
    let rotten = find_rotten(&walk);
    let (snapshots, snapshots_unreadable) = read_snapshots(storage, hard)?;
    let last = walk.segments.last();
    walk.marked.retain(|(index, _)| *index <= last.id.index);
    let (marked, whole) = (&walk.marked, &snapshots);
    refuse_if(refuse, Found { damage, rotten: &rotten, marked, snapshots: whole })?;
    let next = listed.last().map_or(hard.from.segment, |last| SegmentNumber(last.0.0 + 1));
    let fresh = go_on_in(&mut walk, fresh, next, &options);
    let marked = std::mem::take(&mut walk.marked);
    let report = Report {
        created,
        last: last.id,
        durable: last.id.index,
        segments: listed.len() as u64,
        batches: walk.batches,
        torn: walk.torn,
        superseded: walk.superseded,
        headers,
        damage,
        rotten,
        snapshots_unreadable,
    };
    let mut log = recovered(options, &newest, walk.segments, damage);
    report.rotten.iter().for_each(|rotten| log.reads.note_damaged(rotten.first));
    go_on(storage, &mut log, &newest, fresh)?;
    Ok(Opened { meta: newest.state.meta, marked, log, snapshots, report })
}

/// Where the log goes on: in the newest segment if nothing was written there, else in one that is
/// to be made, which is returned.
fn go_on_in(
    walk: &mut Walk,
    untouched: Option<SegmentNumber>,
    next: SegmentNumber,
    options: &Options,
) -> Option<SegmentNumber> {
    if let Some(number) = untouched {
        walk.segments.rewind(number);
        return None;
    }
    walk.segments.add(Segment::new(next, options.segment_first, false));
    walk.segments.advance_to_newest();
    Some(next)
}

/// The first damage there is as an error, if the owner wants it to be one.
fn refuse_if(refuse: impl FnOnce(&Found<'_>) -> bool, found: Found<'_>) -> Result<(), Error> {
    match first_damage(&found) {
        Some(error) if refuse(&found) => Err(error),
        _ => Ok(()),
    }
}

/// The newest hard state, and whether the log is new.
fn hard_state(
    storage: &mut dyn Storage,
    options: &Options,
    empty: bool,
) -> Result<(Newest, bool), Error> {
    let file = storage.hard_state().map_err(|cause| failed("read", HARD_STATE_FILE, cause))?;
    if let Some(file) = file {
        return Ok((HardState::newest(&file)?, false));
    }
    if !empty {
        return Err(Error::HardStateMissing);
    }
    let begin = Position { segment: SegmentNumber(1), offset: BLOCK as u64 };
    let mut incarnation = options.incarnation;
    while incarnation == Incarnation(0) {
        incarnation = Incarnation(storage.entropy());
    }
    let hard = HardState {
        incarnation,
        cluster: options.cluster,
        group: options.group,
        salt: storage.entropy() as u32,
        update: 1,
        position: begin,
        from: begin,
        ..HardState::default()
    };
    storage
        .create_hard_state(&hard.encode_file())
        .map_err(|cause| failed("create", HARD_STATE_FILE, cause))?;
    Ok((Newest { state: hard, pair: 0, has_twin: true }, true))
}

fn check_identity(hard: &HardState, options: &mut Options) -> Result<(), Error> {
    if options.incarnation == Incarnation(0) {
        options.incarnation = hard.incarnation;
    }
    let file = HARD_STATE_FILE.to_owned();
    if hard.incarnation != options.incarnation {
        let (expected, found) = (options.incarnation, hard.incarnation);
        return Err(Error::OtherIncarnation { file, expected, found });
    }
    if hard.cluster != options.cluster || hard.group != options.group {
        return Err(Error::OtherGroup { file, found: hard.group });
    }
    Ok(())
}

/// Deletes segments that a crash kept from being deleted.
fn remove_leftovers(
    storage: &mut dyn Storage,
    mut listed: Vec<(SegmentNumber, u64)>,
    hard: &HardState,
) -> Result<Vec<(SegmentNumber, u64)>, Error> {
    listed.sort_unstable();
    let needed = listed.partition_point(|&(number, _)| number < hard.from.segment);
    for (number, _) in listed.drain(..needed) {
        storage.remove(number).map_err(|cause| failed("remove", &segment_file(number), cause))?;
    }
    Ok(listed)
}

/// Segments are numbered without gap from where the log begins. That the newest are there is for
/// the frames to say.
fn check_numbers(listed: &[(SegmentNumber, u64)], hard: &HardState) -> Result<(), Error> {
    let mut expected = hard.from.segment;
    for &(number, _) in listed {
        if number != expected {
            return Err(Error::SegmentMissing { segment: expected });
        }
        let next = expected.0.checked_add(1);
        expected = SegmentNumber(next.ok_or(Error::SegmentMissing { segment: expected })?);
    }
    let nothing_written = hard.durable.id.index <= hard.start.id.index;
    // The first segment is there before an update follows that of the making, whatever had become
    // durable by then. A later one may be announced before it is made.
    let begun = hard.update > 1 && expected == SegmentNumber(1);
    if listed.is_empty() && (begun || !nothing_written) {
        return Err(Error::SegmentMissing { segment: expected });
    }
    Ok(())
}

/// The segment's header, which must be what its name says. One that cannot be read is no error of
/// opening: its frames may be there all the same.
fn check_segment(
    storage: &mut dyn Storage,
    hard: &HardState,
    segment: SegmentNumber,
    size: u64,
) -> Result<Result<SegmentHeader, FormatError>, Error> {
    let file = segment_file(segment);
    let mut block = Buffer::zeroed(BLOCK);
    let read = match size {
        _ if size < BLOCK as u64 => Err(FormatError::Short),
        _ if storage.read(segment, 0, &mut block).is_err() => Err(FormatError::Short),
        _ => SegmentHeader::decode(&block),
    };
    let header = match read {
        Ok(header) => header,
        Err(FormatError::Version { found }) => return Err(Error::Newer { file, found }),
        Err(_) if size <= BLOCK as u64 || !size.is_multiple_of(BLOCK as u64) => {
            return Err(Error::SegmentSize { segment, expected: 0, found: size });
        }
        Err(error) => return Ok(Err(error)),
    };
    if header.incarnation != hard.incarnation {
        let (expected, found) = (hard.incarnation, header.incarnation);
        return Err(Error::OtherIncarnation { file, expected, found });
    }
    if header.cluster != hard.cluster || header.group != hard.group {
        return Err(Error::OtherGroup { file, found: header.group });
    }
    if header.segment != segment {
        return Err(Error::SegmentSwapped { segment, found: header.segment });
    }
    if header.size != size {
        return Err(Error::SegmentSize { segment, expected: header.size, found: size });
    }
    Ok(Ok(header))
}

/// The snapshots that may be restored, by their headers, and those that may not.
fn read_snapshots(
    storage: &mut dyn Storage,
    hard: &HardState,
) -> Result<(Vec<SnapshotHeader>, Vec<Index>), Error> {
    let listed = storage.snapshots().map_err(|cause| failed("list", "snapshots", cause))?;
    let (mut whole, mut unreadable) = (Vec::new(), Vec::new());
    for (index, size) in listed {
        let mut header = Buffer::zeroed(SNAPSHOT_HEADER);
        let header = match storage.read_snapshot(index, 0, &mut header) {
            Ok(()) => match SnapshotHeader::decode(&header) {
                // It is no damage: whoever has the newer version reads it.
                Err(FormatError::Version { found }) => {
                    return Err(Error::Newer { file: snapshot_file(index), found });
                }
                decoded => decoded.ok(),
            },
            Err(_) => None,
        };
        let is_ours = |header: &SnapshotHeader| {
            header.cluster == hard.cluster
                && header.group == hard.group
                && header.end.id.index == index
                && header.length == size
        };
        match header.filter(is_ours) {
            Some(header) => whole.push(header),
            None => unreadable.push(index),
        }
    }
    Ok((whole, unreadable))
}

fn recovered(
    options: Options,
    newest: &Newest,
    segments: crate::segment::Segments,
    damage: Option<Damage>,
) -> Log {
    let hard = &newest.state;
    let last = segments.last();
    let mut log = Log {
        salt: hard.salt,
        tail: Tail::new(options.tail_bytes, options.huge_pages),
        open: None,
        writer: Writer::new(last, options.writes_in_flight),
        reads: Reads::default(),
        preparing: Preparing::default(),
        updates: Updates::new(hard.update, newest.pair),
        idle: Idle::default(),
        meta: hard.meta.clone(),
        from: hard.from,
        repair: damage.map_or(Index::ZERO, |damage| damage.until),
        cut_at: Some(last.id.index),
        places: [Position::default(); 2],
        rewriting: None,
        replacing: Index::ZERO,
        retiring: Vec::new(),
        spares: Spares::new(options.spare_bytes),
        hard_ticket: Ticket(0),
        ops: VecDeque::new(),
        ticket: Ticket(0),
        poisoned: None,
        segments,
        options,
    };
    // Where the log was to go on may have been behind space that turned out not to be written.
    log.from = log.from.min(log.segments.cursor());
    log.idle.look_at = log.options.idle_mark;
    log.record();
    log
}

/// Brings the hard state up to date, unless it says just this and does so twice, and prepares the
/// segment to go on in; where the disk is full, that is left to the log.
fn go_on(
    storage: &mut dyn Storage,
    log: &mut Log,
    newest: &Newest,
    fresh: Option<SegmentNumber>,
) -> Result<(), Error> {
    let Newest { state: hard, pair, has_twin } = newest;
    if !has_twin || log.hard_state(hard.update) != *hard {
        let (update, pair) = (hard.update.saturating_add(1), 1 - pair);
        storage
            .write_hard_state(pair, &log.hard_state(update).encode_pair())
            .map_err(|cause| failed("write", HARD_STATE_FILE, cause))?;
        log.updates = Updates::new(update, pair);
    }
    let Some(number) = fresh else { return Ok(()) };
    let size = log.options.segment_first;
    let mut header = Buffer::zeroed(BLOCK);
    log.segment_header(number, size).encode(&mut header);
    match storage.prepare(number, size, &header) {
        Ok(()) => {
            if let Some(segment) = log.segments.by_number(number) {
                segment.ready = true;
            }
            Ok(())
        }
        // What is there can be read, and cut, which makes room. The first of all segments must be
        // there before anything else is recorded.
        Err(cause) if cause.is_full() && number > SegmentNumber(1) => {
            log.note_unprepared(cause);
            Ok(())
        }
        Err(cause) => Err(failed("prepare", &segment_file(number), cause)),
    }
}

fn failed(action: &'static str, file: &str, cause: DiskError) -> Error {
    Error::Storage { action, file: file.to_owned(), cause }
}
