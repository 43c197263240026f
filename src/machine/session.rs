//! Replicated sessions: who may send commands, what each has sent, and the replies it may ask for
//! again.
//!
//! A session's commands are numbered from 1 without gaps and applied once: a number applied
//! before is answered from the cache, a number too far on has no effect. Deadlines are not here:
//! the leader alone keeps them and proposes EXPIRE. (Ongaro thesis §6.3; Copycat
//! `ServerSession`.)

use super::bytes::{self, Reader};
use super::{Admit, Code, EndReason, RestoreError, Sequence, SessionId, Shared};
use imbl::OrdMap;
use margay_log::breaks;
use margay_log::id::{Index, Micros};
use std::collections::VecDeque;
use std::ops::RangeInclusive;

/// How long a session may ask to live in silence.
pub const TIMEOUTS: RangeInclusive<Micros> =
    Micros::from_millis(1_000)..=Micros::from_millis(300_000);
/// Sessions of one group, at most.
pub const SESSIONS_MAX: usize = 100_000;
/// Replies kept for one session, at most: as many as it may have in flight.
pub const REPLIES_MAX: usize = 1_024;
/// Bytes of replies kept for one session, at most.
pub const REPLY_BYTES_MAX: u64 = 1 << 20;
/// A reply larger than this is never kept.
pub const REPLY_MAX: usize = 64 << 10;

/// The payload of a REGISTER entry: key, time-out in milliseconds (u32), zeros.
///
/// # Panics
/// Where the time-out is not within [`TIMEOUTS`]: check it before.
#[must_use]
pub fn encode_register(key: &[u8; 16], timeout: Micros) -> [u8; 32] {
    assert!(TIMEOUTS.contains(&timeout));
    let milliseconds = u32::try_from(timeout.0 / 1_000).expect("at most 300 s");
    let mut payload = [0; 32];
    payload[..16].copy_from_slice(key);
    payload[16..20].copy_from_slice(&milliseconds.to_le_bytes());
    payload
}

/// Reads the payload of a REGISTER entry.
///
/// # Errors
/// [`Code::BAD_PAYLOAD`], or [`Code::BAD_TIMEOUT`] for a time-out not within [`TIMEOUTS`].
pub fn decode_register(payload: &[u8]) -> Result<([u8; 16], Micros), Code> {
    let mut reader = Reader::new(payload);
    let key = reader.array()?;
    let timeout = Micros::from_millis(u64::from(reader.u32()?));
    if reader.array()? != [0; 12] {
        return Err(Code::BAD_PAYLOAD);
    }
    reader.end()?;
    if TIMEOUTS.contains(&timeout) { Ok((key, timeout)) } else { Err(Code::BAD_TIMEOUT) }
}

/// The payload of a REFUSED entry: the code it answers (u16), zeros.
#[must_use]
pub fn encode_refused(code: Code) -> [u8; 8] {
    let mut payload = [0; 8];
    payload[..2].copy_from_slice(&code.0.to_le_bytes());
    payload
}

/// The code a REFUSED entry answers: [`Code::BAD_PAYLOAD`] where that cannot be read, or is no
/// refusal.
#[must_use]
pub fn decode_refused(payload: &[u8]) -> Code {
    match payload {
        [low, high, 0, 0, 0, 0, 0, 0] if (*low, *high) != (0, 0) => {
            Code(u16::from_le_bytes([*low, *high]))
        }
        _ => Code::BAD_PAYLOAD,
    }
}

/// All sessions of a group.
#[derive(Clone, Debug, Default)]
pub struct Sessions {
    by_id: OrdMap<SessionId, Shared<Session>>,
    by_key: OrdMap<[u8; 16], SessionId>,
    /// Those that have ended and still hold something. They send nothing and are not found.
    ending: OrdMap<SessionId, EndReason>,
}

impl Sessions {
    /// A REGISTER entry: a new session named by its index, or the one that has the key.
    pub(super) fn register(
        &mut self,
        index: Index,
        payload: &[u8],
    ) -> Result<(SessionId, [u8; 16], Micros), Code> {
        let (key, timeout) = decode_register(payload)?;
        if let Some((session, timeout)) = self.find(&key) {
            return Ok((session, key, timeout));
        }
        if self.len() >= SESSIONS_MAX {
            return Err(Code::TOO_MANY_SESSIONS);
        }
        let session = SessionId(index.0);
        let before = self.by_id.insert(session, Shared::new(Session::new(key, timeout)));
        assert!(before.is_none(), "an index names one session");
        self.by_key.insert(key, session);
        Ok((session, key, timeout))
    }

    /// A session begins to end. Returns whether it was there.
    pub(super) fn end(&mut self, session: SessionId, reason: EndReason) -> bool {
        let Some(ended) = self.by_id.remove(&session) else { return false };
        let named = self.by_key.remove(&ended.key);
        assert_eq!(named, Some(session), "a key names the session that has it");
        self.ending.insert(session, reason);
        true
    }

    /// The oldest of those that have ended and still hold something.
    pub(super) fn first_ending(&self) -> Option<SessionId> {
        self.ending.get_min().map(|(session, _)| *session)
    }

    /// Nothing is left of what a session held that was ending.
    pub(super) fn forget(&mut self, session: SessionId) -> EndReason {
        self.ending.remove(&session).expect("it was ending")
    }

    pub(super) fn get_mut(&mut self, session: SessionId) -> Option<&mut Session> {
        self.by_id.get_mut(&session).map(Shared::make_mut)
    }

    /// A session that is neither closed nor expired.
    #[must_use]
    pub fn get(&self, session: SessionId) -> Option<&Session> {
        self.by_id.get(&session).map(|known| &**known)
    }

    /// The session registered with a key, and its time-out.
    #[must_use]
    pub fn find(&self, key: &[u8; 16]) -> Option<(SessionId, Micros)> {
        let session = *self.by_key.get(key)?;
        Some((session, self.get(session)?.timeout))
    }

    /// All of them, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (SessionId, &Session)> {
        self.by_id.iter().map(|(session, known)| (*session, &**known))
    }

    /// Those after `session`, oldest first.
    pub(crate) fn after(&self, session: SessionId) -> impl Iterator<Item = (SessionId, &Session)> {
        let first = SessionId(session.0.saturating_add(1));
        self.by_id.range(first..).map(|(session, known)| (*session, &**known))
    }

    /// How many there are, those that still hold something after their end included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len() + self.ending.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is known of a command before it is proposed.
    #[must_use]
    pub fn admit(&self, session: SessionId, sequence: Sequence) -> Admit<'_> {
        match self.get(session) {
            Some(known) => known.admit(sequence),
            None => Admit::Unknown,
        }
    }

    /// Appends those that have ended and still hold something: a count, then session and reason of
    /// each.
    pub(super) fn freeze_ending(&self, out: &mut Vec<u8>) {
        bytes::put_u32(out, u32::try_from(self.ending.len()).expect("at most SESSIONS_MAX"));
        for (session, reason) in &self.ending {
            bytes::put_u64(out, session.0);
            out.push(u8::from(*reason == EndReason::Expired));
        }
    }

    /// Takes back what [`Sessions::freeze_ending`] wrote as of the entry `applied`.
    pub(super) fn thaw_ending(
        &mut self,
        reader: &mut Reader<'_>,
        applied: Index,
    ) -> Result<(), Code> {
        for _ in 0..reader.u32()? {
            let session = SessionId(reader.u64()?);
            let reason = match reader.u8()? {
                0 => EndReason::Closed,
                1 => EndReason::Expired,
                _ => return Err(Code::BAD_PAYLOAD),
            };
            let is_next = self.ending.get_max().is_none_or(|(last, _)| *last < session);
            if !is_next || session.0 > applied.0 {
                return Err(Code::BAD_PAYLOAD);
            }
            self.ending.insert(session, reason);
        }
        Ok(())
    }

    /// Takes back a session that [`Session::freeze`] wrote.
    pub(super) fn thaw(&mut self, reader: &mut Reader<'_>) -> Result<SessionId, RestoreError> {
        let damaged = RestoreError::Damaged { what: "a session" };
        let (session, known) = Session::thaw(reader).map_err(|_| damaged)?;
        let newest = self.by_id.get_max().map_or(SessionId(0), |(newest, _)| *newest);
        let is_fresh = session > newest && !self.ending.contains_key(&session);
        if !is_fresh || self.by_key.insert(known.key, session).is_some() {
            return Err(damaged);
        }
        self.by_id.insert(session, Shared::new(known));
        Ok(session)
    }
}

/// One session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Session {
    key: [u8; 16],
    timeout: Micros,
    /// The last command applied; the last of `replies` is its reply.
    last: Sequence,
    /// Replies up to here were received: they are no longer kept.
    acked: Sequence,
    replies: VecDeque<Kept>,
    /// Sum over `replies`.
    reply_bytes: u64,
}

/// A reply.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Kept {
    index: Index,
    code: Code,
    payload: Payload,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Payload {
    Empty,
    Bytes(Shared<[u8]>),
    TooLarge,
}

impl Payload {
    fn new(payload: &[u8]) -> Payload {
        match payload.len() {
            0 => Payload::Empty,
            1..=REPLY_MAX => Payload::Bytes(payload.into()),
            _ => Payload::TooLarge,
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Payload::Bytes(bytes) => bytes,
            Payload::Empty | Payload::TooLarge => &[],
        }
    }
}

impl Session {
    fn new(key: [u8; 16], timeout: Micros) -> Session {
        Session {
            key,
            timeout,
            last: Sequence(0),
            acked: Sequence(0),
            replies: VecDeque::new(),
            reply_bytes: 0,
        }
    }

    /// The key it was registered with. Secret: who knows it may attach.
    #[must_use]
    pub fn key(&self) -> &[u8; 16] {
        &self.key
    }

    /// How long it may be silent.
    #[must_use]
    pub fn timeout(&self) -> Micros {
        self.timeout
    }

    /// The last command applied; 0 before the first.
    #[must_use]
    pub fn last_sequence(&self) -> Sequence {
        self.last
    }

    /// What is known of a command.
    #[must_use]
    pub fn admit(&self, sequence: Sequence) -> Admit<'_> {
        if sequence == self.last.next() {
            return Admit::Next;
        }
        if sequence > self.last {
            return Admit::Ahead;
        }
        match self.kept(sequence) {
            Some(Kept { index, code, payload }) if *payload != Payload::TooLarge => {
                Admit::Cached { index: *index, code: *code, payload: payload.bytes() }
            }
            _ => Admit::Gone,
        }
    }

    fn kept(&self, sequence: Sequence) -> Option<&Kept> {
        let back = self.last.0.checked_sub(sequence.0)?;
        let at = (self.replies.len() as u64).checked_sub(back + 1)?;
        self.replies.get(usize::try_from(at).ok()?)
    }

    /// Replies up to `acked` were received. A number beyond the last command is taken for that one.
    pub(super) fn acknowledge(&mut self, acked: Sequence) {
        self.acked = self.acked.max(acked.min(self.last));
        let keep = self.last.0 - self.acked.0;
        while self.replies.len() as u64 > keep {
            self.forget_oldest();
        }
    }

    /// The next command took effect at `index` and is answered so.
    pub(super) fn record(&mut self, index: Index, code: Code, payload: &[u8]) {
        self.last = self.last.next();
        let payload = Payload::new(payload);
        self.reply_bytes += payload.bytes().len() as u64;
        self.replies.push_back(Kept { index, code, payload });
        while self.replies.len() > REPLIES_MAX || self.reply_bytes > REPLY_BYTES_MAX {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some(oldest) = self.replies.pop_front() else { return };
        self.reply_bytes -= oldest.payload.bytes().len() as u64;
    }

    /// Appends the session: id, key, time-out, last, acked, replies.
    pub(super) fn freeze(&self, session: SessionId, out: &mut Vec<u8>) {
        bytes::put_u64(out, session.0);
        out.extend_from_slice(&self.key);
        bytes::put_u64(out, self.timeout.0);
        if breaks::SESSIONS_CUT_IN_SNAPSHOT.on() {
            bytes::put_u64(out, self.acked.0);
            bytes::put_u64(out, self.acked.0);
            return bytes::put_u32(out, 0);
        }
        bytes::put_u64(out, self.last.0);
        bytes::put_u64(out, self.acked.0);
        bytes::put_u32(out, u32::try_from(self.replies.len()).expect("at most REPLIES_MAX"));
        for Kept { index, code, payload } in &self.replies {
            bytes::put_u64(out, index.0);
            out.extend_from_slice(&code.0.to_le_bytes());
            let payload = (*payload != Payload::TooLarge).then(|| payload.bytes());
            bytes::put_optional(out, payload);
        }
    }

    fn thaw(reader: &mut Reader<'_>) -> Result<(SessionId, Session), Code> {
        let session = SessionId(reader.u64()?);
        let mut thawed = Session::new(reader.array()?, Micros(reader.u64()?));
        let last = Sequence(reader.u64()?);
        thawed.acked = Sequence(reader.u64()?);
        let count = reader.u32()?;
        for _ in 0..count {
            let index = Index(reader.u64()?);
            let code = Code(reader.u16()?);
            let payload = reader.optional()?.map_or(Payload::TooLarge, Payload::new);
            thawed.reply_bytes += payload.bytes().len() as u64;
            thawed.replies.push_back(Kept { index, code, payload });
        }
        thawed.last = last;
        let unacked = last.0.checked_sub(thawed.acked.0).ok_or(Code::BAD_PAYLOAD)?;
        let sound = u64::from(count) <= unacked
            && count as usize <= REPLIES_MAX
            && thawed.reply_bytes <= REPLY_BYTES_MAX
            && TIMEOUTS.contains(&thawed.timeout);
        if sound { Ok((session, thawed)) } else { Err(Code::BAD_PAYLOAD) }
    }
}
