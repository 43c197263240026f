//! What the disk tells the log, and what the passing of time does: writes that become durable,
//! space that is prepared, hard states that follow each other, and the mark an idle log leaves.
//!
//! Invariants: at most one `Prepare` and one `HardState` are under way; a segment is retired only
//! after the hard state that no longer needs it is durable; after a failed write nothing is emitted
//! but reads.

use std::sync::Arc;

use crate::breaks;
use crate::buffer::Buffer;
use crate::disk::{DiskError, Done, Op};
use crate::error::{Error, HARD_STATE_FILE, segment_file};
use crate::format::{BLOCK, SegmentHeader};
use crate::hard_state::{HardState, PAIR_BYTES};
use crate::id::{BatchEnd, Index, Micros, Position, SegmentNumber, Ticket};
use crate::log::Log;

/// First pause after a failed `Prepare`; it doubles with every further one.
const RETRY_MIN: Micros = Micros::from_millis(100);
/// Longest pause.
const RETRY_MAX: Micros = Micros::from_millis(5_000);

/// What a [`Done`] brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// The log is durable up to here, further than before.
    pub durable: Option<Index>,
    /// Hard states up to this ticket are durable.
    pub meta: Option<Ticket>,
    /// What this read was for is in memory now, or known to be damaged: read again.
    pub read: Option<Ticket>,
    /// [`Log::space`] changed.
    pub space: bool,
}

/// The segment being prepared, and failures.
#[derive(Debug, Default)]
pub(crate) struct Preparing {
    segment: Option<SegmentNumber>,
    pub(crate) failed: Option<DiskError>,
    retry_at: Option<Micros>,
    pause: Micros,
}

/// A segment that is no longer needed once a hard state is durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Retiring {
    pub(crate) segment: SegmentNumber,
    pub(crate) size: u64,
    pub(crate) needed: Ticket,
}

/// What a hard state says about the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Moment {
    pub(crate) durable: BatchEnd,
    pub(crate) position: Position,
    pub(crate) end: Index,
    pub(crate) repair: Index,
}

/// Watches whether the log is at rest with something unrecorded.
#[derive(Debug, Default)]
pub(crate) struct Idle {
    /// What the last hard state begun says.
    recorded: Moment,
    /// What the last hard state that was given to the disk says.
    pub(crate) begun: Moment,
    /// How things were at the last look.
    seen: Moment,
    /// When to look again.
    pub(crate) look_at: Micros,
    now: Micros,
}

impl Log {
    /// Takes out what the disk is to do, in order.
    pub fn ops(&mut self) -> impl Iterator<Item = Op> + '_ {
        self.ops.drain(..)
    }

    /// Whether [`Log::ops`] has something.
    #[must_use]
    pub fn has_ops(&self) -> bool {
        !self.ops.is_empty()
    }

    /// Records at once how far the log is durable, as resting would do by and by. Changes nothing
    /// where that is on disk already.
    pub fn record_durable(&mut self) {
        if self.poisoned.is_none() && self.moment() != self.idle.recorded && self.updates.is_idle()
        {
            let ticket = self.next_ticket();
            self.updates.want(ticket);
            self.pump();
        }
    }

    /// Tells the log that an [`Op`] has ended. Unknown tickets are ignored.
    ///
    /// # Errors
    /// [`Error::Write`] when a write or a hard state failed: the log has stopped, see
    /// [`Log::poisoned`].
    pub fn on_done(&mut self, done: Done) -> Result<Progress, Error> {
        let space = self.space();
        let mut progress = Progress::default();
        match done {
            Done::Write { ticket, result } => self.on_write(ticket, result, &mut progress)?,
            Done::HardState { ticket, result } => {
                self.on_hard_state(ticket, result, &mut progress)?
            }
            Done::Mend { ticket, result } => self.on_mend(ticket, result),
            Done::Prepared { segment, result } => self.on_prepared(segment, result),
            Done::Read { ticket, result } => progress.read = self.on_read(ticket, result),
            Done::Retired { segment, result } => self.on_retired(segment, result),
            Done::Rewritten { segment, result } => self.on_rewritten(segment, result),
            // Whoever asked for it is told by whoever drives the log.
            Done::Snapshot { .. } => {}
        }
        if progress.durable.is_some() && self.repair <= self.durable() {
            self.repair = Index::ZERO;
        }
        self.pump();
        progress.space = self.space() != space;
        Ok(progress)
    }

    /// Does what is due at `now`: records how far an idle log is durable, retries a failed
    /// `Prepare`.
    pub fn on_tick(&mut self, now: Micros) {
        self.idle.now = self.idle.now.max(now);
        if self.poisoned.is_some() {
            return;
        }
        if self.preparing.retry_at.is_some_and(|at| at <= now) {
            self.preparing.retry_at = None;
        }
        let moment = self.moment();
        if moment != self.idle.recorded && self.idle.look_at <= now {
            if moment == self.idle.seen && self.updates.is_idle() {
                let ticket = self.next_ticket();
                self.updates.want(ticket);
            }
            self.idle.seen = moment;
            self.idle.look_at = now.after(self.options.idle_mark);
        }
        self.pump();
    }

    /// Before an orderly stop, when nothing is appended any more: has the hard state say how far
    /// the log is durable, without waiting until it has been idle for a while. To be called until
    /// [`Log::is_marked`]; it waits for writes under way.
    pub fn mark(&mut self) {
        let written = self.writer.durable() == self.segments.last();
        let told = self.moment() == self.idle.recorded;
        if self.poisoned.is_some() || !written || told || !self.updates.is_idle() {
            return;
        }
        let ticket = self.next_ticket();
        self.updates.want(ticket);
        self.pump();
    }

    /// Whether the hard state on disk says how things stand, and nothing is under way: a log that
    /// has lost its end since would be known to be damaged.
    #[must_use]
    pub fn is_marked(&self) -> bool {
        let written = self.writer.durable() == self.segments.last();
        written && self.moment() == self.idle.recorded && self.updates.is_idle()
    }

    /// Segments below this one are at rest: whatever their disk loses of them, the next opening
    /// misses it. Of what lies behind it nothing on disk says yet that it was durable, and what is
    /// unreadable there after a crash cannot be told from a write that was cut off.
    #[must_use]
    pub fn at_rest_below(&self) -> SegmentNumber {
        let segment = self.segments.find(self.writer.claimed()).map(|(segment, _)| segment.number);
        segment.unwrap_or_default()
    }

    /// When [`Log::on_tick`] has something to do next.
    #[must_use]
    pub fn deadline(&self) -> Option<Micros> {
        if self.poisoned.is_some() {
            return None;
        }
        let mark = (self.moment() != self.idle.recorded).then_some(self.idle.look_at);
        match (mark, self.preparing.retry_at) {
            (Some(mark), Some(retry)) => Some(mark.min(retry)),
            (mark, retry) => mark.or(retry),
        }
    }

    /// Emits whatever may go now.
    pub(crate) fn pump(&mut self) {
        if self.poisoned.is_some() {
            return;
        }
        while let Some(segment) = self.writer.next_segment() {
            if !self.segments.by_number(segment).is_some_and(|segment| segment.ready) {
                break;
            }
            let write = self.writer.issue();
            self.ops.push_back(write);
        }
        let is_held_up = self.durable() < self.replacing;
        if !is_held_up && let Some((ticket, update, pair)) = self.updates.begin() {
            let data = Arc::new(self.hard_state(update).encode_pair());
            assert!(data.len() == PAIR_BYTES);
            self.record();
            self.idle.begun = self.idle.recorded;
            self.ops.push_back(Op::HardState { ticket, pair, data });
        }
        self.pump_prepare();
        self.pump_retire();
    }

    fn pump_prepare(&mut self) {
        if self.preparing.segment.is_some() || self.preparing.retry_at.is_some() {
            return;
        }
        let Some(next) = self.segments.unready() else { return };
        let (segment, size) = (next.number, next.size);
        let spare = self.spares.give(size);
        let former = spare.unwrap_or_default();
        let mut header = Buffer::zeroed(BLOCK);
        SegmentHeader { former, ..self.segment_header(segment, size) }.encode(&mut header);
        self.preparing.segment = Some(segment);
        self.ops.push_back(Op::Prepare { segment, size, header: Arc::new(header), spare });
    }

    pub(crate) fn segment_header(&self, segment: SegmentNumber, size: u64) -> SegmentHeader {
        SegmentHeader {
            incarnation: self.options.incarnation,
            cluster: self.options.cluster,
            group: self.options.group,
            segment,
            size,
            salt: self.salt,
            former: SegmentNumber::default(),
        }
    }

    /// How things stand, as a hard state would say it.
    pub(crate) fn moment(&self) -> Moment {
        let (mut position, mut end) = (self.segments.cursor(), self.segments.last().id.index);
        // What was cut off lies on disk still, and nothing durable supersedes it. What is to do so
        // may be lost, so the log is described as it is without: the end of what counts before
        // that.
        if self.cut_at == Some(self.durable())
            && let Some(first) = self.writer.first_position()
        {
            (position, end) = (first, self.durable());
        }
        Moment { durable: self.writer.durable(), position, end, repair: self.repair }
    }

    /// The hard state on disk, or about to be, says how things stand.
    pub(crate) fn record(&mut self) {
        self.idle.recorded = self.moment();
        self.idle.seen = self.idle.recorded;
    }

    /// The hard state as of now. While the log's new beginning is not durable, this is what makes
    /// it so.
    pub(crate) fn hard_state(&self, update: u64) -> HardState {
        let moment = self.moment();
        let start = self.segments.start();
        let whole = moment.durable.id.index >= start.id.index;
        HardState {
            incarnation: self.options.incarnation,
            cluster: self.options.cluster,
            group: self.options.group,
            salt: self.salt,
            update,
            durable: if whole { moment.durable } else { start },
            position: moment.position,
            end: moment.end,
            start,
            from: self.from,
            repair: moment.repair,
            meta: self.meta.clone(),
        }
    }

    fn on_write(
        &mut self,
        ticket: Ticket,
        result: Result<(), DiskError>,
        progress: &mut Progress,
    ) -> Result<(), Error> {
        let Some(position) = self.writer.landed(ticket) else { return Ok(()) };
        if let Err(cause) = result
            && !breaks::WRITE_ERROR_IGNORED.on()
        {
            return self.poison(segment_file(position.segment), position.offset, cause);
        }
        if self.poisoned.is_none() && self.writer.finish(ticket) {
            progress.durable = Some(self.durable());
        }
        Ok(())
    }

    fn on_hard_state(
        &mut self,
        ticket: Ticket,
        result: Result<(), DiskError>,
        progress: &mut Progress,
    ) -> Result<(), Error> {
        if let Err(cause) = result {
            return self.poison(HARD_STATE_FILE.to_owned(), 0, cause);
        }
        if self.poisoned.is_some() || !self.updates.finish(ticket) {
            return Ok(());
        }
        self.places = [self.places[1], self.idle.begun.position];
        progress.meta = Some(ticket);
        if self.writer.hard_state_done(ticket) {
            progress.durable = Some(self.durable());
        }
        self.writer.claim(self.idle.begun.durable.id.index);
        self.hard_ticket = ticket;
        Ok(())
    }

    /// Retires what the durable hard state does not need, once nothing that writes to it or reads
    /// it is under way any more: its file may become another segment.
    fn pump_retire(&mut self) {
        let (durable, preparing) = (self.hard_ticket, self.preparing.segment);
        let rewriting = self.rewriting.as_ref().map(|rewriting| rewriting.segment);
        let (writer, reads, ops) = (&self.writer, &self.reads, &mut self.ops);
        let spares = &mut self.spares;
        // Segments double up to the largest: no other size that there has been will be asked for
        // again, nor that of a file that was rewritten, or made for one large batch.
        let fits = |size| size == self.options.segment_max;
        self.retiring.retain(|&Retiring { segment, size, needed }| {
            let is_busy = [preparing, rewriting].contains(&Some(segment))
                || writer.is_writing(segment)
                || reads.is_using(segment);
            let is_due = needed <= durable && !is_busy;
            if is_due {
                let keep = fits(size) && spares.takes(segment, size);
                ops.push_back(Op::Retire { segment, keep });
            }
            !is_due
        });
    }

    fn on_prepared(&mut self, segment: SegmentNumber, result: Result<(), DiskError>) {
        if self.preparing.segment != Some(segment) {
            return;
        }
        self.preparing.segment = None;
        match result {
            Ok(()) => {
                if let Some(segment) = self.segments.by_number(segment) {
                    segment.ready = true;
                }
                self.preparing = Preparing::default();
            }
            Err(error) => self.note_unprepared(error),
        }
    }

    /// A file that could not be deleted is deleted by the next opening. One that was may have been
    /// what there was no space beside.
    fn on_retired(&mut self, segment: SegmentNumber, result: Result<(), DiskError>) {
        self.spares.on_retired(segment, result.is_ok());
        if result.is_ok() {
            self.preparing.retry_at = None;
        }
    }

    /// The segment that is due could not be prepared: it is tried again by and by.
    pub(crate) fn note_unprepared(&mut self, error: DiskError) {
        let pause = Micros(self.preparing.pause.0.saturating_mul(2));
        self.preparing.pause = pause.clamp(RETRY_MIN, RETRY_MAX);
        self.preparing.retry_at = Some(self.idle.now.after(self.preparing.pause));
        self.preparing.failed = Some(error);
    }

    /// Stops the log. The first failure is the one that is told.
    fn poison(&mut self, file: String, offset: u64, cause: DiskError) -> Result<(), Error> {
        if self.poisoned.is_some() {
            return Ok(());
        }
        let error = Error::Write { file, offset, cause };
        self.poisoned = Some(error.clone());
        self.writer.stop();
        self.ops.retain(|op| matches!(op, Op::Read { .. }));
        Err(error)
    }
}
