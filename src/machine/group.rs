//! The machine of one group: applies what is committed, answers queries, freezes and comes back.

use super::clock::Clock;
use super::halt::{self, Halted};
use super::session::{Sessions, decode_refused};
use super::{
    Admit, Code, Commit, ENDED_PER_BATCH, ENDED_PER_ENTRY, Effects, EndReason, Entry, Events,
    Frozen, LogTime, Notice, Query, ResourceId, Sequence, SessionId, Sink, StateMachine,
    TIMERS_PER_BATCH, kind,
};
use margay_log::breaks;
use margay_log::id::Index;
use margay_log::snapshot::CHUNK_MAX;
use std::any::Any;

mod frozen;

pub use frozen::{FrozenMachine, RestoringMachine};

/// Sessions, log time and state of one group, as of one index.
#[derive(Debug)]
pub struct Machine<S> {
    applied: Index,
    clock: Clock,
    sessions: Sessions,
    state: S,
    /// When its next timer is due, as of the last batch.
    next_timer: Option<LogTime>,
    effects: Effects,
}

impl<S: StateMachine> Machine<S> {
    /// Before the first entry. `state` must be the same on every replica.
    #[must_use]
    pub fn new(state: S) -> Machine<S> {
        Machine {
            applied: Index::ZERO,
            clock: Clock::default(),
            sessions: Sessions::default(),
            next_timer: state.next_timer(),
            state,
            effects: Effects::new(),
        }
    }

    /// The last entry applied.
    #[must_use]
    pub fn applied(&self) -> Index {
        self.applied
    }

    /// The log time of the last batch applied.
    #[must_use]
    pub fn time(&self) -> LogTime {
        self.clock.now()
    }

    /// The state.
    #[must_use]
    pub fn state(&self) -> &S {
        &self.state
    }

    /// The sessions.
    #[must_use]
    pub fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// When the state's next timer is due; at once while a session is ending. A leader with a timer
    /// due and nothing to append appends a tick.
    #[must_use]
    pub fn next_timer(&self) -> Option<LogTime> {
        match self.sessions.first_ending() {
            Some(_) => Some(self.clock.now()),
            None => self.next_timer,
        }
    }

    /// Applies a batch, or a part of it: first what is due at its time, if nothing of it has been
    /// applied yet, then `entries`. `first` is the index of the batch's first one.
    ///
    /// # Panics
    /// Where they do not follow what has been applied: that is the caller's mistake, not a peer's.
    pub fn apply<'a, E: Into<Entry<'a>>>(
        &mut self,
        first: Index,
        time: LogTime,
        entries: impl IntoIterator<Item = E>,
        sink: &mut dyn Sink,
    ) {
        assert!(first <= self.applied.next(), "batches are applied in order");
        if first == self.applied.next() {
            let now = self.clock.advance(time);
            self.fire_timers(first, now, sink);
            self.go_on_ending(first, now, sink);
        }
        for entry in entries {
            let entry = entry.into();
            assert_eq!(entry.index, self.applied.next(), "entries are applied in order");
            self.apply_entry(&entry, sink);
            self.applied = entry.index;
        }
        self.next_timer = self.state.next_timer();
    }

    /// As [`Machine::apply`]; where code of a user panics, it ends there. After that the machine is
    /// not to be used any more: a part of the entry may have been applied.
    ///
    /// # Errors
    /// The entry at which it has halted, and why.
    pub fn apply_or_halt<'a, E: Into<Entry<'a>>>(
        &mut self,
        first: Index,
        time: LogTime,
        entries: impl IntoIterator<Item = E>,
        sink: &mut dyn Sink,
    ) -> Result<(), Halted> {
        let applied = halt::caught(S::IS_OURS, || self.apply(first, time, entries, sink));
        applied.map_err(|text| self.halted(text))
    }

    /// It cannot go on behind what is applied.
    fn halted(&self, text: String) -> Halted {
        Halted { index: self.applied.next(), text }
    }

    fn fire_timers(&mut self, index: Index, now: LogTime, sink: &mut dyn Sink) {
        if self.next_timer.is_none_or(|due| due > now) {
            return;
        }
        self.effects.begin(index);
        let fired = self.state.fire(index, now, TIMERS_PER_BATCH, &mut self.effects);
        assert!(fired <= TIMERS_PER_BATCH);
        deliver(index, &self.effects, sink);
    }

    fn apply_entry(&mut self, entry: &Entry<'_>, sink: &mut dyn Sink) {
        match entry.kind {
            kind::NOOP | kind::CONFIGURATION | kind::TICK => {}
            kind::REGISTER => self.apply_register(entry, sink),
            kind::CLOSE => self.apply_end(entry, EndReason::Closed, sink),
            kind::EXPIRE => self.apply_end(entry, EndReason::Expired, sink),
            _ => self.apply_command(entry, sink),
        }
    }

    fn apply_register(&mut self, entry: &Entry<'_>, sink: &mut dyn Sink) {
        let index = entry.index;
        match self.sessions.register(index, entry.payload) {
            Ok((session, key, timeout)) => sink.registered(index, session, &key, timeout),
            Err(code) => sink.reply(index, entry.session, Sequence(0), code, &[]),
        }
    }

    fn apply_end(&mut self, entry: &Entry<'_>, reason: EndReason, sink: &mut dyn Sink) {
        let (index, session) = (entry.index, entry.session);
        if !self.sessions.end(session, reason) {
            return sink.reply(index, session, Sequence(0), Code::SESSION_EXPIRED, &[]);
        }
        let commit = commit(entry, self.clock.now());
        self.release(&commit, ENDED_PER_ENTRY, sink);
    }

    /// Sessions that hold more than their last entries could let go of, the oldest first.
    fn go_on_ending(&mut self, first: Index, now: LogTime, sink: &mut dyn Sink) {
        let mut left = ENDED_PER_BATCH;
        while left > 0
            && let Some(session) = self.sessions.first_ending()
        {
            let end = Entry {
                index: first,
                kind: kind::EXPIRE,
                schema: 0,
                resource: ResourceId::REGISTRY,
                session,
                sequence: Sequence(0),
                acked: Sequence(0),
                payload: &[],
            };
            left -= self.release(&commit(&end, now), left, sink).clamp(1, left);
        }
    }

    /// A session that is ending lets go of about `limit` things. Returns how many.
    fn release(&mut self, end: &Commit<'_>, limit: usize, sink: &mut dyn Sink) -> usize {
        let Commit { index, session, .. } = *end;
        self.effects.begin(index);
        let released = self.state.session_ended(session, end, limit, &mut self.effects);
        deliver(index, &self.effects, sink);
        if released < limit {
            sink.ended(index, session, self.sessions.forget(session));
        }
        released
    }

    fn apply_command(&mut self, entry: &Entry<'_>, sink: &mut dyn Sink) {
        let Entry { index, session, sequence, .. } = *entry;
        let Some(known) = self.sessions.get_mut(session) else {
            return sink.reply(index, session, sequence, Code::SESSION_EXPIRED, &[]);
        };
        match known.admit(sequence) {
            Admit::Next => {}
            Admit::Cached { .. } | Admit::Gone if breaks::DUPLICATE_APPLIED.on() => {}
            Admit::Cached { index, code, payload } => {
                return sink.reply(index, session, sequence, code, payload);
            }
            Admit::Gone => return sink.reply(index, session, sequence, Code::REPLY_GONE, &[]),
            Admit::Ahead | Admit::Unknown => {
                return sink.reply(index, session, sequence, Code::SEQUENCE_GAP, &[]);
            }
        }
        known.acknowledge(entry.acked);
        self.effects.begin(index);
        match entry.kind {
            kind::REFUSED => self.effects.code = decode_refused(entry.payload),
            kind::REGISTRY.. => {
                self.state.apply(&commit(entry, self.clock.now()), &mut self.effects);
            }
            _ => self.effects.code = Code::BAD_KIND,
        }
        let Effects { code, ref reply, .. } = self.effects;
        if sequence > known.last_sequence() || !breaks::DUPLICATE_APPLIED.on() {
            known.record(index, code, reply);
        }
        deliver(index, &self.effects, sink);
        sink.reply(index, session, sequence, code, reply);
    }

    /// What the last commands have left to be dropped; see [`StateMachine::take_waste`].
    pub(crate) fn take_waste(&mut self) -> Option<Box<dyn Any + Send>> {
        self.state.take_waste()
    }

    /// What is known of a command before it is proposed.
    #[must_use]
    pub fn admit(&self, session: SessionId, sequence: Sequence) -> Admit<'_> {
        self.sessions.admit(session, sequence)
    }

    /// Answers a query from the state as it is. Only code and reply of `effects` are set. Where
    /// the query's time is before the last batch's, that one counts.
    pub fn query(&self, query: &Query<'_>, effects: &mut Effects) {
        effects.begin(query.index);
        let time = query.time.max(self.clock.now());
        let query = Query { time, ..*query };
        if S::IS_OURS {
            self.state.query(&query, effects);
        } else if let Err(text) = halt::guard(|| self.state.query(&query, effects)) {
            // It has changed nothing: only this question has no answer.
            effects.refuse(Code::HALTED, &text);
        }
        debug_assert!(effects.events.is_empty() && effects.notices.is_empty());
    }

    /// Appends everything a session holds or waits for.
    pub fn holdings(&self, session: SessionId, out: &mut Vec<Notice>) {
        self.state.holdings(session, self.clock.now(), out);
    }

    /// As [`Machine::holdings`].
    ///
    /// # Errors
    /// Code of a user panicked: nobody can say any more what is held.
    pub fn holdings_or_halt(&self, session: SessionId) -> Result<Vec<Notice>, Halted> {
        let mut notices = Vec::new();
        let told = halt::caught(S::IS_OURS, || self.holdings(session, &mut notices));
        told.map(|()| notices).map_err(|text| self.halted(format!("what is held: {text}")))
    }

    /// Kept events of a resource after a position that pass a filter.
    #[must_use]
    pub fn events(&self, resource: ResourceId, after: (Index, u32), filter: &[u8]) -> Events {
        self.state.events(resource, after, filter)
    }

    /// As [`Machine::events`].
    ///
    /// # Errors
    /// Code of a user panicked.
    pub fn events_or_halt(
        &self,
        resource: ResourceId,
        after: (Index, u32),
        filter: &[u8],
    ) -> Result<Events, Halted> {
        let kept = halt::caught(S::IS_OURS, || self.events(resource, after, filter));
        kept.map_err(|text| self.halted(format!("the kept events: {text}")))
    }

    /// As [`Machine::freeze`].
    ///
    /// # Errors
    /// Code of a user panicked: the log of a state that cannot be kept would grow for ever.
    pub fn freeze_or_halt(&self) -> Result<FrozenMachine<S>, Halted> {
        let frozen = halt::caught(S::IS_OURS, || self.freeze());
        frozen.map_err(|text| self.halted(format!("freezing the state: {text}")))
    }

    /// As [`Frozen::next_chunk`] of a view of this machine.
    ///
    /// # Errors
    /// Code of a user panicked, or wrote more than a chunk may have.
    pub fn chunk_or_halt(
        &self,
        frozen: &mut FrozenMachine<S>,
        max: usize,
        out: &mut Vec<u8>,
    ) -> Result<bool, Halted> {
        let more = halt::caught(S::IS_OURS, || frozen.next_chunk(max, out));
        let more = more.and_then(|more| match out.len() {
            length if length > CHUNK_MAX => Err(format!("a slice of {length} bytes")),
            _ => Ok(more),
        });
        more.map_err(|text| self.halted(format!("writing out the state: {text}")))
    }

    /// A view of all this as it is now. Copies pointers, not data.
    #[must_use]
    pub fn freeze(&self) -> FrozenMachine<S> {
        FrozenMachine::new(self)
    }

    /// Begins to rebuild a machine from what [`Machine::freeze`] wrote.
    #[must_use]
    pub fn restore() -> RestoringMachine<S> {
        RestoringMachine::new()
    }
}

fn commit<'a>(entry: &Entry<'a>, time: LogTime) -> Commit<'a> {
    Commit {
        index: entry.index,
        time,
        session: entry.session,
        sequence: entry.sequence,
        kind: entry.kind,
        schema: entry.schema,
        resource: entry.resource,
        payload: entry.payload,
    }
}

fn deliver(index: Index, effects: &Effects, sink: &mut dyn Sink) {
    for event in &effects.events {
        sink.event(index, event);
    }
    for notice in &effects.notices {
        sink.notice(notice);
    }
}
