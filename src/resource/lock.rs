//! A fair lock with fencing tokens.
//!
//! First come, first served. Who holds it is a *request* of a session, not the session: several
//! tasks that share a session wait for each other like strangers. So it is not re-entrant: a task
//! that asks again while it holds the lock waits for itself. Held until it is given back, or its
//! session ends.
//!
//! Every grant carries a token: the index of the entry that granted it, so it rises strictly.
//! Whatever the lock protects should refuse tokens lower than the highest it has seen: a holder
//! that was thought dead may still be writing.

use super::codec::{Limits, Operation, Scratch, access, check_by_schema, limits, operation};
use super::snapshot::Items;
use super::waiters::{Waiter, Waiters};
use super::{Firing, Resource};
use crate::machine::bytes::{self, Reader};
use crate::machine::clock::Due;
use crate::machine::{
    Code, Commit, Effects, LogTime, Notice, NoticeState, Query, ResourceId, SessionId, kind,
};
use margay_log::id::{Index, Micros};

mod handle;

pub use handle::{Holder, Lock, LockGuard};

/// Longest wait, in milliseconds: a year.
pub const WAIT_MS_MAX: u64 = 365 * 24 * 3_600 * 1_000;

// ---- operations -----------------------------------------------------------------------------

/// Asks for the lock. Answers [`GRANTED`] and the token; [`WAITING`], with a notice to follow; or
/// [`NOT_ACQUIRED`]. Then the waiter: the index of this command.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct LockV1 {
    /// The session's own number for this hold or wait: none of those under way.
    pub request: u64,
    /// How long to wait in log time, in milliseconds; 0 for not at all, `None` for as long as it
    /// takes.
    pub wait_ms: Option<u64>,
}

/// Gives the lock back.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct UnlockV1 {
    /// The token of the grant.
    pub token: u64,
}

/// Takes back a request, whatever has become of it. Answers 0 where it neither waits nor holds, 1
/// where it waited, 2 where it held.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct CancelV1 {
    /// The number it was asked with.
    pub request: u64,
}

/// Query: who holds it. Answers 1 or 0, the holder's session and token, and how many wait (u32).
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct HolderV1 {}

/// Answer: somebody else holds it, and it was not wished to wait.
pub const NOT_ACQUIRED: u8 = 0;
/// Answer: held from now on.
pub const GRANTED: u8 = 1;
/// Answer: waiting; the outcome comes as a notice.
pub const WAITING: u8 = 2;

operation!(LockV1, kind::LOCK, 0x0101, "lock");
operation!(UnlockV1, kind::LOCK, 0x0201, "unlock");
operation!(CancelV1, kind::LOCK, 0x0301, "cancel");
operation!(HolderV1, kind::LOCK, 0x4001, "holder");

limits! {
    ArchivedUnlockV1:;
    ArchivedCancelV1:;
    ArchivedHolderV1:;
}

impl Limits for ArchivedLockV1 {
    fn limits(&self) -> Result<(), Code> {
        let long = self.wait_ms.as_ref().is_some_and(|wait| wait.to_native() > WAIT_MS_MAX);
        if long { Err(Code::BAD_TIME) } else { Ok(()) }
    }
}

check_by_schema!(LockV1, UnlockV1, CancelV1);

// ---- state ----------------------------------------------------------------------------------

/// Who holds it and who waits. Nobody waits while nobody holds it.
#[derive(Clone, Debug, Default)]
pub(super) struct LockState {
    holder: Option<Held>,
    waiters: Waiters,
    /// The token of the last grant; 0 before the first.
    last_token: u64,
}

/// A hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Held {
    session: SessionId,
    request: u64,
    waiter: Index,
    token: u64,
}

/// First byte of an item in a snapshot.
const ITEM_HEAD: u8 = 0;
const ITEM_WAITER: u8 = 1;

impl Resource for LockState {
    fn apply(&mut self, commit: &Commit<'_>, effects: &mut Effects) {
        if let Err(code) = self.try_apply(commit, effects) {
            effects.refuse(code, "");
        }
    }

    fn query(&self, query: &Query<'_>, effects: &mut Effects) {
        let mut scratch = Scratch::new();
        let checked = match query.schema {
            HolderV1::SCHEMA => access::<HolderV1>(query.payload, &mut scratch).map(|_| ()),
            _ => Err(Code::BAD_KIND),
        };
        if let Err(code) = checked {
            return effects.refuse(code, "");
        }
        let waiting = u32::try_from(self.waiters.len_at(query.time)).expect("at most WAITERS_MAX");
        let out = &mut effects.reply;
        out.push(u8::from(self.holder.is_some()));
        bytes::put_u64(out, self.holder.map_or(0, |held| held.session.0));
        bytes::put_u64(out, self.holder.map_or(0, |held| held.token));
        bytes::put_u32(out, waiting);
    }

    fn session_ended(&mut self, session: SessionId, commit: &Commit<'_>, effects: &mut Effects) {
        self.drop_due(commit.resource, commit.time, effects);
        self.waiters.remove_session(session);
        if self.holder.is_some_and(|held| held.session == session) {
            self.holder = None;
            self.grant_next(commit, effects);
        }
    }

    fn deleted(&mut self, commit: &Commit<'_>, effects: &mut Effects) {
        let id = commit.resource;
        self.drop_due(id, commit.time, effects);
        if let Some(held) = self.holder.take() {
            effects.notice(held.session, id, held.waiter, NoticeState::Lost);
        }
        while let Some((index, waiter)) = self.waiters.pop() {
            effects.notice(waiter.session, id, index, NoticeState::Lost);
        }
    }

    fn next_timer(&self) -> Option<Due> {
        self.waiters.next_timer()
    }

    fn fire(&mut self, firing: &Firing, effects: &mut Effects) {
        self.drop_one_due(firing.resource, firing.now, effects);
    }

    fn involves(&self, session: SessionId) -> bool {
        self.holder.is_some_and(|held| held.session == session)
            || self.waiters.of_session(session).next().is_some()
    }

    fn sessions(&self) -> Vec<SessionId> {
        let holder = self.holder.iter().map(|held| held.session);
        let mut sessions: Vec<SessionId> =
            holder.chain(self.waiters.iter().map(|(_, waiter)| waiter.session)).collect();
        sessions.sort_unstable();
        sessions.dedup();
        sessions
    }

    fn holdings(
        &self,
        resource: ResourceId,
        session: SessionId,
        now: LogTime,
        out: &mut Vec<Notice>,
    ) {
        if let Some(held) = self.holder.filter(|held| held.session == session) {
            let state = NoticeState::Granted { token: held.token };
            out.push(Notice { session, resource, waiter: held.waiter, state });
        }
        let waits = self.waiters.of_session(session);
        for (waiter, _) in waits.filter(|(_, waiter)| waiter.due.is_none_or(|due| due > now)) {
            out.push(Notice { session, resource, waiter, state: NoticeState::Waiting });
        }
    }

    fn freeze(&self, _after: Option<&[u8]>, items: &mut Items<'_>) -> Option<Vec<u8>> {
        items.put(|out| {
            out.push(ITEM_HEAD);
            bytes::put_u64(out, self.last_token);
            if let Some(held) = &self.holder {
                bytes::put_u64(out, held.session.0);
                bytes::put_u64(out, held.request);
                bytes::put_u64(out, held.waiter.0);
                bytes::put_u64(out, held.token);
            }
        });
        for (index, waiter) in self.waiters.iter() {
            items.put(|out| {
                out.push(ITEM_WAITER);
                Waiters::freeze(index, &waiter, out);
            });
        }
        None
    }

    fn thaw(&mut self, item: &[u8], applied: Index) -> Result<(), Code> {
        let mut reader = Reader::new(item);
        match (reader.u8()?, self.holder) {
            (ITEM_HEAD, None) => {
                self.last_token = reader.u64()?;
                if self.last_token > applied.0 {
                    return Err(Code::BAD_PAYLOAD);
                }
                if !reader.is_empty() {
                    let (session, request) = (SessionId(reader.u64()?), reader.u64()?);
                    let (waiter, token) = (Index(reader.u64()?), reader.u64()?);
                    if token != self.last_token {
                        return Err(Code::BAD_PAYLOAD);
                    }
                    self.holder = Some(Held { session, request, waiter, token });
                }
            }
            (ITEM_WAITER, Some(_)) => self.waiters.thaw(&mut reader, applied)?,
            _ => return Err(Code::BAD_PAYLOAD),
        }
        reader.end()
    }

    fn boxed_clone(&self) -> Box<dyn Resource> {
        Box::new(self.clone())
    }
}

impl LockState {
    fn try_apply(&mut self, commit: &Commit<'_>, effects: &mut Effects) -> Result<(), Code> {
        let (payload, mut scratch) = (commit.payload, Scratch::new());
        self.drop_due(commit.resource, commit.time, effects);
        match commit.schema {
            LockV1::SCHEMA => {
                let lock = access::<LockV1>(payload, &mut scratch)?;
                let wait_ms = lock.wait_ms.as_ref().map(|wait| wait.to_native());
                self.lock(lock.request.to_native(), wait_ms, commit, effects)
            }
            UnlockV1::SCHEMA => {
                let token = access::<UnlockV1>(payload, &mut scratch)?.token.to_native();
                self.unlock(token, commit, effects);
                Ok(())
            }
            CancelV1::SCHEMA => {
                let request = access::<CancelV1>(payload, &mut scratch)?.request.to_native();
                self.cancel(request, commit, effects);
                Ok(())
            }
            _ => Err(Code::BAD_KIND),
        }
    }

    fn lock(
        &mut self,
        request: u64,
        wait_ms: Option<u64>,
        commit: &Commit<'_>,
        effects: &mut Effects,
    ) -> Result<(), Code> {
        let Commit { index, session, resource, .. } = *commit;
        let answer = match self.holder {
            None => {
                assert!(self.waiters.is_empty(), "nobody waits for a free lock");
                self.grant(index, session, request, commit, effects);
                GRANTED
            }
            Some(held) if (held.session, held.request) == (session, request) => {
                return Err(Code::ALREADY_HELD);
            }
            Some(_) if self.waiters.find(session, request).is_some() => {
                return Err(Code::ALREADY_HELD);
            }
            Some(_) if wait_ms == Some(0) => NOT_ACQUIRED,
            Some(_) => {
                let due = wait_ms.map(|wait| commit.time.after(Micros::from_millis(wait)));
                self.waiters.push(index, Waiter { session, request, amount: 1, due })?;
                effects.notice(session, resource, index, NoticeState::Waiting);
                WAITING
            }
        };
        effects.reply.push(answer);
        bytes::put_u64(&mut effects.reply, if answer == GRANTED { self.last_token } else { 0 });
        bytes::put_u64(&mut effects.reply, index.0);
        Ok(())
    }

    fn unlock(&mut self, token: u64, commit: &Commit<'_>, effects: &mut Effects) {
        match self.holder {
            Some(held) if (held.session, held.token) == (commit.session, token) => {
                self.release(held, commit, effects);
            }
            Some(held) => {
                let text = format!("held with token {}, not {token}", held.token);
                effects.refuse(Code::NOT_HOLDER, &text);
            }
            None => effects.refuse(Code::NOT_HOLDER, "nobody holds it"),
        }
    }

    fn cancel(&mut self, request: u64, commit: &Commit<'_>, effects: &mut Effects) {
        let Commit { session, resource, .. } = *commit;
        let holder = self.holder.filter(|held| (held.session, held.request) == (session, request));
        let found = if let Some(index) = self.waiters.find(session, request) {
            self.waiters.remove(index);
            effects.notice(session, resource, index, NoticeState::Released);
            1
        } else if let Some(held) = holder {
            self.release(held, commit, effects);
            2
        } else {
            0
        };
        effects.reply.push(found);
    }

    fn release(&mut self, held: Held, commit: &Commit<'_>, effects: &mut Effects) {
        self.holder = None;
        effects.notice(held.session, commit.resource, held.waiter, NoticeState::Released);
        self.grant_next(commit, effects);
    }

    fn grant_next(&mut self, commit: &Commit<'_>, effects: &mut Effects) {
        if let Some((index, waiter)) = self.waiters.pop() {
            assert!(waiter.due.is_none_or(|due| due > commit.time), "what is due is gone");
            self.grant(index, waiter.session, waiter.request, commit, effects);
        }
    }

    fn grant(
        &mut self,
        waiter: Index,
        session: SessionId,
        request: u64,
        commit: &Commit<'_>,
        effects: &mut Effects,
    ) {
        let token = commit.index.0;
        assert!(token > self.last_token, "an entry grants a lock once");
        assert!(self.holder.is_none(), "one holder at a time");
        self.last_token = token;
        self.holder = Some(Held { session, request, waiter, token });
        effects.notice(session, commit.resource, waiter, NoticeState::Granted { token });
    }

    /// Waits due at `now` are over, whether or not their timers have fired.
    fn drop_due(&mut self, resource: ResourceId, now: LogTime, effects: &mut Effects) {
        while self.drop_one_due(resource, now, effects) {}
    }

    fn drop_one_due(&mut self, resource: ResourceId, now: LogTime, effects: &mut Effects) -> bool {
        let Some((index, waiter)) = self.waiters.pop_due(now) else { return false };
        effects.notice(waiter.session, resource, index, NoticeState::TimedOut);
        true
    }
}
