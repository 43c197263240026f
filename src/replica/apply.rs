//! Applying what is committed, and the sessions' expiry.
//!
//! Batches come from the log's tail in memory, or from the disk after a restart; a turn applies
//! about `apply_bytes` or `ENTRIES_PER_TURN` and leaves the rest to the next. Where its host says
//! that it has become long, it stops within a batch, too: a state of which a snapshot is written
//! out takes ten times as long to write to as another.

use std::cell::Cell;
use std::sync::Arc;

use margay_log::Read;
use margay_log::batch::Batch;
use margay_log::id::{Index, Micros};

use super::{Fatal, Host, Replica};
use crate::machine::{
    Code, Entry, Halted, LogTime, ResourceId, Sequence, SessionId, StateMachine, kind,
};

/// Entries applied in one turn, about: whole batches, and the last may be a large one.
const ENTRIES_PER_TURN: u32 = 4_096;
/// Bytes of an entry that count as much as one more: a thousand members that a set has already are
/// looked for without a word about any.
const LENGTH_AS_ENTRY: usize = 1 << 10;
/// No session's end is proposed in a batch that has so many entries already.
const EXPIRIES_PER_BATCH: u32 = 1_024;
/// Sessions of which one turn finds out whether they have been silent, at most.
const LOOKED_AT_PER_TURN: usize = 4_096;

/// What a turn may still apply, about.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Left {
    bytes: u64,
    entries: u32,
}

impl Left {
    fn is_nothing(self) -> bool {
        self.bytes == 0 || self.entries == 0
    }
}

/// A batch's entries as the machine takes them.
fn entries(batch: &Batch) -> impl Iterator<Item = Entry<'_>> {
    batch.entries().map(|entry| Entry {
        index: entry.index,
        kind: entry.header.kind,
        schema: entry.header.schema,
        resource: ResourceId(entry.header.resource),
        session: SessionId(entry.header.session),
        sequence: Sequence(entry.header.sequence),
        acked: Sequence(entry.header.acked),
        payload: entry.payload,
    })
}

impl<S: StateMachine> Replica<S> {
    /// Applies committed batches in order and answers for them, until all are, or until the turn
    /// has done its part.
    pub(super) fn apply_committed(
        &mut self,
        now: Micros,
        host: &mut dyn Host,
    ) -> Result<(), Fatal> {
        self.hungry = false;
        if self.snapshots.is_restoring() {
            return Ok(());
        }
        if self.lacks_state() {
            return self.without_state();
        }
        if let Some(batch) = self.started.take() {
            // A turn that goes on within a batch ends with it: only there can a snapshot begin.
            self.apply_batch(&batch, host);
            self.note_applied(now, host);
            self.hungry = self.machine.applied() < self.commit && self.halted.is_none();
            return Ok(());
        }
        let mut left = Left { bytes: self.config.apply_bytes, entries: ENTRIES_PER_TURN };
        let mut batches = std::mem::take(&mut self.batches);
        let applied = loop {
            let is_done = self.machine.applied() >= self.commit || self.halted.is_some();
            if is_done || self.apply_fetch.is_some() {
                break Ok(());
            }
            if left.is_nothing() {
                self.hungry = true;
                break Ok(());
            }
            let before = self.machine.applied();
            if let Err(fatal) = self.read_committed(left.bytes, &mut batches) {
                break Err(fatal);
            }
            self.apply_batches(&batches, &mut left, host);
            self.note_applied(now, host);
            if self.machine.applied() == before {
                // It is being fetched or asked for, or commit lies inside a batch, as no correct
                // leader says.
                break Ok(());
            }
        };
        batches.clear();
        self.batches = batches;
        applied
    }

    /// Reads what is to be applied next. Nothing while it is being fetched from the disk, or asked
    /// for because it is damaged there.
    fn read_committed(&mut self, bytes: u64, out: &mut Vec<Arc<Batch>>) -> Result<(), Fatal> {
        out.clear();
        let behind = self.machine.applied();
        match self.log.read(behind, bytes, out) {
            Read::Cached => {}
            Read::Pending(ticket) => self.apply_fetch = Some(ticket),
            Read::Damaged if self.has_others() => {}
            Read::End | Read::Gone | Read::Damaged => {
                return Err(Fatal::Damaged { group: self.config.group, behind });
            }
        }
        Ok(())
    }

    /// Applies whole batches, and of the last one perhaps a part.
    fn apply_batches(&mut self, batches: &[Arc<Batch>], left: &mut Left, host: &mut dyn Host) {
        for batch in batches {
            if left.is_nothing() || batch.header().last().index > self.commit {
                return;
            }
            if !self.apply_batch(batch, host) {
                *left = Left::default();
                return;
            }
            left.bytes = left.bytes.saturating_sub(batch.size());
            left.entries = left.entries.saturating_sub(batch.header().count);
        }
    }

    /// Applies what is left of a batch, and stops where the turn has become long. Returns whether
    /// the turn may go on.
    fn apply_batch(&mut self, batch: &Arc<Batch>, host: &mut dyn Host) -> bool {
        let (first, last) = (batch.header().first, batch.header().last().index);
        let time = LogTime(batch.header().log_time);
        let done = self.machine.applied().next().since(first);
        let mut rest = entries(batch).skip(done as usize);
        loop {
            let left = Cell::new(self.config.apply_part);
            let part = std::iter::from_fn(|| {
                let more = left.get().checked_sub(1)?;
                let entry: Entry<'_> = rest.next()?;
                left.set(more.saturating_sub(entry.payload.len() / LENGTH_AS_ENTRY));
                Some(entry)
            });
            let mut delivery = self.front.delivery(&left, host);
            if let Err(halted) = self.machine.apply_or_halt(first, time, part, &mut delivery) {
                self.halt(halted, host);
                return false;
            }
            let (is_long, is_whole) = (host.is_turn_long(), self.machine.applied() == last);
            if is_long && !is_whole {
                self.started = Some(Arc::clone(batch));
            }
            if is_long || is_whole {
                return !is_long;
            }
        }
    }

    /// The state is asked for, where there is somebody to ask.
    fn without_state(&self) -> Result<(), Fatal> {
        let behind = self.machine.applied();
        let lost = Fatal::Damaged { group: self.config.group, behind };
        if self.has_others() { Ok(()) } else { Err(lost) }
    }

    /// The machine cannot go on. The group keeps its log and its place in elections, and answers
    /// nothing until a program that can apply the entry takes over from the disk.
    pub(super) fn halt(&mut self, halted: Halted, host: &mut dyn Host) {
        tracing::error!(
            group = self.config.group.0,
            "{halted}; the other groups go on, this one does when a mended program is started here"
        );
        self.halted = Some(halted);
        self.leading = false;
        self.front.stop_leading(Code::HALTED, "", host);
        self.refuse_all_reads(Code::HALTED, host);
    }

    /// What waited for the applied index to come this far.
    pub(super) fn note_applied(&mut self, now: Micros, host: &mut dyn Host) {
        if let Some(waste) = self.machine.take_waste() {
            host.dispose(waste);
        }
        let applied = self.machine.applied();
        if self.ticking.is_some_and(|at| at <= applied) {
            self.ticking = None;
        }
        // The first time the own no-op is applied, and only then, the sessions become this
        // leader's.
        let halted = self.halted.is_some();
        if self.ready_at.is_some_and(|at| at <= applied) && !self.leading && !halted {
            self.leading = true;
            self.front.start_leading(now);
        }
    }

    /// Proposes the end of each session that has been silent for its whole time-out, as many as one
    /// batch may end. Those of which that may be so are looked at a few thousand in a turn: when a
    /// new leader's first time-out is over, it may be so of all.
    pub(super) fn expire_sessions(&mut self, now: Micros) {
        let mut left = LOOKED_AT_PER_TURN;
        while !self.is_crowded()
            && let Some(session) = self.front.expired(now, &mut left)
        {
            if self.push_system(kind::EXPIRE, session.0, &[]).is_none() {
                self.front.expire_later(now, session);
                return;
            }
        }
    }

    /// The open batch has so many entries that those of the system's own wait for the next one:
    /// when a hundred thousand sessions end at once, they must not all end in one turn.
    pub(super) fn is_crowded(&self) -> bool {
        self.log.open_entries() >= EXPIRIES_PER_BATCH
    }

    /// The last sequence of a session that is applied here; 0 for none.
    pub(super) fn applied_sequence(&self, session: SessionId) -> u64 {
        self.machine.sessions().get(session).map_or(0, |known| known.last_sequence().0)
    }

    /// Entries proposed here and not yet applied.
    pub(super) fn in_flight(&self) -> u64 {
        let end = Index(self.log.last().index.0 + u64::from(self.log.open_entries()));
        end.since(self.machine.applied())
    }
}
