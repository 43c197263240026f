//! Applying what is committed, and the sessions' expiry.
//!
//! Batches come from the log's tail in memory, or from the disk after a restart; a turn applies
//! about `apply_bytes` or `ENTRIES_PER_TURN` and leaves the rest to the next.

use margay_log::Read;
use margay_log::batch::Batch;
use margay_log::id::{Index, Micros};

use super::{Fatal, Host, Replica};
use crate::machine::{
    Code, Entry, Halted, LogTime, ResourceId, Sequence, SessionId, StateMachine, kind,
};

/// Entries applied in one turn, about: whole batches, and the last may be a large one.
const ENTRIES_PER_TURN: u32 = 4_096;
/// No session's end is proposed in a batch that has so many entries already.
const EXPIRIES_PER_BATCH: u32 = 1_024;

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
    /// Applies committed batches in order and answers for them.
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
        let mut budget = self.config.apply_bytes;
        let mut entries_left = ENTRIES_PER_TURN;
        while self.machine.applied() < self.commit && self.apply_fetch.is_none() {
            if self.halted.is_some() {
                break;
            }
            if budget == 0 {
                self.hungry = true;
                break;
            }
            let applied = self.machine.applied();
            let mut batches = std::mem::take(&mut self.batches);
            batches.clear();
            match self.log.read(applied, budget, &mut batches) {
                Read::Cached => {}
                Read::Pending(ticket) => self.apply_fetch = Some(ticket),
                // It is being asked for.
                Read::Damaged if self.has_others() => {
                    self.batches = batches;
                    return Ok(());
                }
                Read::End | Read::Gone | Read::Damaged => {
                    return Err(Fatal::Damaged { group: self.config.group, behind: applied });
                }
            }
            for batch in &batches {
                if batch.header().last().index > self.commit {
                    break;
                }
                let time = LogTime(batch.header().log_time);
                let (first, mut delivery) = (batch.header().first, self.front.delivery(host));
                let applied =
                    self.machine.apply_or_halt(first, time, entries(batch), &mut delivery);
                if let Err(halted) = applied {
                    self.halt(halted, host);
                    break;
                }
                entries_left = entries_left.saturating_sub(batch.header().count);
                budget = if entries_left > 0 { budget.saturating_sub(batch.size()) } else { 0 };
                if self.machine.applied() >= self.commit || budget == 0 {
                    break;
                }
            }
            batches.clear();
            self.batches = batches;
            if let Some(waste) = self.machine.take_waste() {
                host.dispose(waste);
            }
            self.applied_to(now);
            if self.machine.applied() == applied {
                // It is being fetched, or commit lies inside a batch, as no correct leader says.
                break;
            }
        }
        Ok(())
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
    fn applied_to(&mut self, now: Micros) {
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
    /// batch may end.
    pub(super) fn expire_sessions(&mut self, now: Micros) {
        while !self.is_crowded()
            && let Some(session) = self.front.expired(now)
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
