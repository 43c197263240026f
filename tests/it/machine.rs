//! The machine: a world of one replica, and what sessions promise.

mod sessions;
mod snapshots;

use margay::machine::{
    Code, EndReason, Entry, Event, Frozen, LogTime, Machine, Notice, ResourceId, RestoreError,
    Restoring, Sequence, SessionId, Sink, kind, session,
};
use margay::resource::Registry;
use margay::resource::codec::Encode;
use margay_log::id::{Index, Micros};
use std::collections::BTreeMap;

/// An entry that owns its payload.
#[derive(Clone, Debug, Default)]
pub(crate) struct Logged {
    pub kind: u8,
    pub schema: u16,
    pub resource: u64,
    pub session: u64,
    pub sequence: u64,
    pub acked: u64,
    pub payload: Vec<u8>,
}

impl Logged {
    fn at(&self, index: u64) -> Entry<'_> {
        Entry {
            index: Index(index),
            kind: self.kind,
            schema: self.schema,
            resource: ResourceId(self.resource),
            session: SessionId(self.session),
            sequence: Sequence(self.sequence),
            acked: Sequence(self.acked),
            payload: &self.payload,
        }
    }
}

/// Entries with one log time.
#[derive(Clone, Debug)]
pub(crate) struct Batched {
    pub time: u64,
    pub entries: Vec<Logged>,
}

/// A reply as the sink was told it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Told {
    pub index: u64,
    pub session: u64,
    pub sequence: u64,
    pub code: Code,
    pub payload: Vec<u8>,
}

/// All a sink was told.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Seen {
    pub replies: Vec<Told>,
    pub events: Vec<(u64, Event)>,
    pub notices: Vec<Notice>,
    pub registered: Vec<(u64, u64)>,
    pub ended: Vec<(u64, u64, EndReason)>,
}

impl Sink for Seen {
    fn reply(
        &mut self,
        index: Index,
        session: SessionId,
        sequence: Sequence,
        code: Code,
        payload: &[u8],
    ) {
        let (index, session, sequence) = (index.0, session.0, sequence.0);
        self.replies.push(Told { index, session, sequence, code, payload: payload.to_vec() });
    }

    fn event(&mut self, index: Index, event: &Event) {
        if let Some((last, before)) = self.events.last() {
            assert!((*last, before.ordinal) < (index.0, event.ordinal), "events rise");
        }
        self.events.push((index.0, event.clone()));
    }

    fn notice(&mut self, notice: &Notice) {
        self.notices.push(*notice);
    }

    fn registered(&mut self, index: Index, session: SessionId, _key: &[u8; 16], _timeout: Micros) {
        self.registered.push((index.0, session.0));
    }

    fn ended(&mut self, index: Index, session: SessionId, reason: EndReason) {
        self.ended.push((index.0, session.0, reason));
    }
}

/// One replica and what it told.
pub(crate) struct World {
    pub machine: Machine<Registry>,
    pub seen: Seen,
    pub time: u64,
    /// The last sequence of each session.
    pub sequences: BTreeMap<u64, u64>,
}

impl World {
    pub(crate) fn new() -> World {
        World {
            machine: Machine::new(Registry::new()),
            seen: Seen::default(),
            time: 0,
            sequences: BTreeMap::new(),
        }
    }

    pub(crate) fn batch(&mut self, batch: &Batched) {
        apply(&mut self.machine, batch, &mut self.seen);
        self.time = self.time.max(batch.time);
    }

    /// One entry as a batch of its own; its index.
    pub(crate) fn entry(&mut self, logged: Logged) -> u64 {
        let batch = Batched { time: self.time, entries: vec![logged] };
        self.batch(&batch);
        self.machine.applied().0
    }

    /// Lets log time pass, with a tick.
    pub(crate) fn tick(&mut self, span: Micros) {
        self.time += span.0;
        self.entry(Logged { kind: kind::TICK, ..Logged::default() });
    }

    pub(crate) fn register(&mut self, key: u8) -> u64 {
        self.entry(register(key));
        self.seen.registered.last().expect("registered").1
    }

    pub(crate) fn end(&mut self, kind: u8, session: u64) {
        self.entry(Logged { kind, session, ..Logged::default() });
    }

    /// The session's next command; its reply.
    pub(crate) fn command<O: Encode>(&mut self, session: u64, resource: u64, op: &O) -> Told {
        let sequence = self.sequences.get(&session).copied().unwrap_or_default() + 1;
        let logged = command(session, sequence, resource, op);
        self.send(logged)
    }

    /// Any command; its reply.
    pub(crate) fn send(&mut self, logged: Logged) -> Told {
        self.sequences.insert(logged.session, logged.sequence);
        let replies = self.seen.replies.len();
        self.entry(logged);
        assert_eq!(self.seen.replies.len(), replies + 1, "a command is answered at once");
        self.seen.replies[replies].clone()
    }

    pub(crate) fn open(&mut self, session: u64, name: &str, kind: u8) -> u64 {
        let name = name.as_bytes().to_vec();
        let open = margay::resource::registry::OpenV1 { name, kind, options: Vec::new() };
        let told = self.command(session, 0, &open);
        assert_eq!(told.code, Code::OK);
        u64::from_le_bytes(told.payload[..8].try_into().expect("an id"))
    }

    pub(crate) fn query<O: Encode>(&self, session: u64, resource: u64, op: &O) -> Told {
        query(&self.machine, session, resource, op, LogTime(self.time))
    }
}

pub(crate) fn query<O: Encode>(
    machine: &Machine<Registry>,
    session: u64,
    resource: u64,
    op: &O,
    time: LogTime,
) -> Told {
    let payload = op.encode();
    let query = margay::machine::Query {
        index: machine.applied(),
        time,
        session: SessionId(session),
        kind: O::KIND,
        schema: O::SCHEMA,
        resource: ResourceId(resource),
        payload: &payload,
    };
    let mut effects = margay::machine::Effects::new();
    machine.query(&query, &mut effects);
    let (code, payload) = (effects.code, effects.reply);
    Told { index: query.index.0, session, sequence: 0, code, payload }
}

pub(crate) fn register(key: u8) -> Logged {
    let payload = session::encode_register(&[key; 16], Micros::from_millis(10_000)).to_vec();
    Logged { kind: kind::REGISTER, payload, ..Logged::default() }
}

pub(crate) fn command<O: Encode>(session: u64, sequence: u64, resource: u64, op: &O) -> Logged {
    let payload = op.encode();
    Logged { kind: O::KIND, schema: O::SCHEMA, resource, session, sequence, acked: 0, payload }
}

pub(crate) fn apply(machine: &mut Machine<Registry>, batch: &Batched, sink: &mut dyn Sink) {
    let first = machine.applied().0 + 1;
    let entries = (first..).zip(&batch.entries).map(|(index, logged)| logged.at(index));
    machine.apply(Index(first), LogTime(batch.time), entries, sink);
}

pub(crate) fn chunks(machine: &Machine<Registry>, max: usize) -> Vec<Vec<u8>> {
    let mut frozen = machine.freeze();
    let mut chunks = Vec::new();
    loop {
        let mut chunk = Vec::new();
        let more = frozen.next_chunk(max, &mut chunk);
        chunks.push(chunk);
        if !more {
            return chunks;
        }
    }
}

pub(crate) fn restore(chunks: &[Vec<u8>]) -> Result<Machine<Registry>, RestoreError> {
    let mut restoring = Machine::restore();
    for chunk in chunks {
        restoring.feed(chunk)?;
    }
    restoring.finish()
}
