//! A machine in snapshots: a head, sessions, the state's own chunks, an end.

use super::Machine;
use crate::machine::bytes::{self, Reader};
use crate::machine::clock::Clock;
use crate::machine::session::Sessions;
use crate::machine::{
    Code, Effects, Frozen, LogTime, RestoreError, Restoring, SessionId, StateMachine, halt,
};
use margay_log::id::Index;

/// Version of the snapshot format below.
const SNAPSHOT_VERSION: u32 = 1;

/// What a chunk holds, its first byte: the head, then sessions, then the state's own chunks, then
/// the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Version, applied, time, sessions that are ending.
    Head,
    /// Whole sessions after this one.
    Sessions(SessionId),
    State,
    /// Number of chunks before it.
    End,
    Done,
}

const HEAD: u8 = 1;
const SESSIONS: u8 = 2;
const STATE: u8 = 3;
const END: u8 = 4;

/// A [`Machine`] as it was at one index, written out slice by slice.
pub struct FrozenMachine<S: StateMachine> {
    applied: Index,
    time: LogTime,
    sessions: Sessions,
    state: S::Frozen,
    stage: Stage,
    chunks: u64,
}

impl<S: StateMachine> FrozenMachine<S> {
    pub(super) fn new(machine: &Machine<S>) -> FrozenMachine<S> {
        FrozenMachine {
            applied: machine.applied,
            time: machine.clock.now(),
            sessions: machine.sessions.clone(),
            state: machine.state.freeze(),
            stage: Stage::Head,
            chunks: 0,
        }
    }

    /// The last entry it contains.
    #[must_use]
    pub fn applied(&self) -> Index {
        self.applied
    }

    /// As if it were the state at another index, which it is not: for a known bug.
    #[cfg(feature = "breaks")]
    pub(crate) fn relabelled(self, applied: Index) -> FrozenMachine<S> {
        FrozenMachine { applied, ..self }
    }

    fn write_sessions(&self, after: SessionId, max: usize, out: &mut Vec<u8>) -> Stage {
        let begin = out.len();
        let mut last = after;
        for (session, known) in self.sessions.after(after) {
            if out.len() - begin >= max {
                return Stage::Sessions(last);
            }
            known.freeze(session, out);
            last = session;
        }
        Stage::State
    }
}

impl<S: StateMachine> Frozen for FrozenMachine<S> {
    fn next_chunk(&mut self, max: usize, out: &mut Vec<u8>) -> bool {
        self.stage = match self.stage {
            Stage::Head => {
                out.push(HEAD);
                bytes::put_u32(out, SNAPSHOT_VERSION);
                bytes::put_u64(out, self.applied.0);
                bytes::put_u64(out, self.time.0);
                self.sessions.freeze_ending(out);
                Stage::Sessions(SessionId(0))
            }
            Stage::Sessions(after) => {
                out.push(SESSIONS);
                self.write_sessions(after, max, out)
            }
            Stage::State => {
                out.push(STATE);
                if self.state.next_chunk(max, out) { Stage::State } else { Stage::End }
            }
            Stage::End | Stage::Done => {
                out.push(END);
                bytes::put_u64(out, self.chunks);
                Stage::Done
            }
        };
        self.chunks += 1;
        self.stage != Stage::Done
    }
}

/// A [`Machine`] in the making.
pub struct RestoringMachine<S: StateMachine> {
    applied: Index,
    time: LogTime,
    sessions: Sessions,
    /// From the head on.
    state: Option<S::Restoring>,
    stage: Stage,
    chunks: u64,
}

impl<S: StateMachine> Restoring for RestoringMachine<S> {
    type State = Machine<S>;

    fn feed(&mut self, chunk: &[u8]) -> Result<(), RestoreError> {
        let out_of_order = RestoreError::Damaged { what: "the order of chunks" };
        let Some((&section, body)) = chunk.split_first() else { return Err(out_of_order) };
        self.stage = match (self.stage, section) {
            (Stage::Head, HEAD) => self.feed_head(body)?,
            (Stage::Sessions(_), SESSIONS) => {
                let mut reader = Reader::new(body);
                while !reader.is_empty() {
                    self.sessions.thaw(&mut reader)?;
                }
                self.stage
            }
            (Stage::Sessions(_) | Stage::State, STATE) => {
                self.state.as_mut().ok_or(out_of_order)?.feed(body)?;
                Stage::State
            }
            (Stage::State, END) if body == self.chunks.to_le_bytes() => Stage::Done,
            _ => return Err(out_of_order),
        };
        self.chunks += 1;
        Ok(())
    }

    fn finish(self) -> Result<Machine<S>, RestoreError> {
        let (Stage::Done, Some(state)) = (self.stage, self.state) else {
            return Err(RestoreError::Incomplete);
        };
        let newest = self.sessions.iter().last().map_or(0, |(newest, _)| newest.0);
        if newest > self.applied.0 {
            return Err(RestoreError::Damaged { what: "a session" });
        }
        let state = state.finish()?;
        Ok(Machine {
            applied: self.applied,
            clock: Clock::at(self.time),
            sessions: self.sessions,
            next_timer: state.next_timer(),
            state,
            effects: Effects::new(),
        })
    }
}

impl<S: StateMachine> RestoringMachine<S> {
    pub(super) fn new() -> RestoringMachine<S> {
        RestoringMachine {
            applied: Index::ZERO,
            time: LogTime::default(),
            sessions: Sessions::default(),
            state: None,
            stage: Stage::Head,
            chunks: 0,
        }
    }

    /// As [`Restoring::feed`]; the error, also a panic in code of a user, is for people.
    pub(crate) fn try_feed(&mut self, chunk: &[u8]) -> Result<(), String> {
        let fed = halt::caught(S::IS_OURS, || self.feed(chunk))?;
        fed.map_err(|error| error.to_string())
    }

    /// As [`Restoring::finish`]; the error, also a panic in code of a user, is for people.
    pub(crate) fn try_finish(self) -> Result<Machine<S>, String> {
        let finished = halt::caught(S::IS_OURS, || self.finish())?;
        finished.map_err(|error| error.to_string())
    }

    fn feed_head(&mut self, body: &[u8]) -> Result<Stage, RestoreError> {
        let damaged = |_: Code| RestoreError::Damaged { what: "the head" };
        let mut reader = Reader::new(body);
        let version = reader.u32().map_err(damaged)?;
        if version != SNAPSHOT_VERSION {
            return Err(RestoreError::TooNew { found: version });
        }
        self.applied = Index(reader.u64().map_err(damaged)?);
        self.time = LogTime(reader.u64().map_err(damaged)?);
        self.sessions.thaw_ending(&mut reader, self.applied).map_err(damaged)?;
        reader.end().map_err(damaged)?;
        self.state = Some(S::restore(self.applied));
        Ok(Stage::Sessions(SessionId(0)))
    }
}
