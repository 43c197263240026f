//! A fair lock with fencing tokens.
//!
//! First come, first served. Who holds it is a *request* of a session, not the session: several
//! tasks that share a session wait for each other like strangers. So it is not re-entrant by
//! itself: a task that asks again while it holds the lock waits for itself, unless its handle
//! shares what it holds ([`Lock::reentrant`]). Held until it is given back, or its session ends.
//!
//! Every grant carries a token: the index of the entry that granted it, so it rises strictly.
//! Whatever the lock protects should refuse tokens lower than the highest it has seen: a holder
//! that was thought dead may still be writing.

use super::Resource;
use super::claims::{Ask, Claims, cancel_operation, check_wait, claims_methods};
use super::codec::{Limits, Operation, Scratch, access, check_by_schema, limits, operation};
use super::snapshot::Items;
use crate::machine::bytes::{self, Reader};
use crate::machine::{Code, Commit, Effects, Query, kind};
use margay_log::id::Index;

mod handle;

pub use super::claims::{GRANTED, NOT_ACQUIRED, WAIT_MS_MAX, WAITING};
pub use handle::{Holder, Lock, LockGuard};

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

/// Query: who holds it. Answers 1 or 0, the holder's session and token, and how many wait (u32).
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct HolderV1 {}

operation!(LockV1, kind::LOCK, 0x0101, "lock");
operation!(UnlockV1, kind::LOCK, 0x0201, "unlock");
cancel_operation!(kind::LOCK);
operation!(HolderV1, kind::LOCK, 0x4001, "holder");

limits! {
    ArchivedUnlockV1:;
    ArchivedHolderV1:;
}

impl Limits for ArchivedLockV1 {
    fn limits(&self) -> Result<(), Code> {
        check_wait(self.wait_ms.as_ref().map(|wait| wait.to_native()))
    }
}

check_by_schema!(LockV1, UnlockV1, CancelV1);

// ---- state ----------------------------------------------------------------------------------

/// Who holds it and who waits: one permit. Nobody waits while nobody holds it.
#[derive(Clone, Debug, Default)]
pub(super) struct LockState {
    claims: Claims,
}

impl Resource for LockState {
    fn apply(&mut self, commit: &Commit<'_>, effects: &mut Effects) {
        self.claims.settle(self.total(), commit.into(), effects);
        if let Err(code) = self.try_apply(commit, effects) {
            effects.refuse(code, "");
        }
        self.claims.serve(self.total(), commit.into(), effects);
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
        let holder = self.claims.holds().next();
        let out = &mut effects.reply;
        out.push(u8::from(holder.is_some()));
        bytes::put_u64(out, holder.map_or(0, |held| held.session.0));
        bytes::put_u64(out, holder.map_or(0, |held| held.token));
        bytes::put_u32(out, self.claims.waiting(query.time));
    }

    fn freeze(&self, _after: Option<&[u8]>, items: &mut Items<'_>) -> Option<Vec<u8>> {
        self.claims.freeze(items);
        None
    }

    fn thaw(&mut self, item: &[u8], applied: Index) -> Result<(), Code> {
        let mut reader = Reader::new(item);
        let tag = reader.u8()?;
        self.claims.thaw(tag, &mut reader, applied)?;
        if self.claims.taken() > self.total() {
            return Err(Code::BAD_PAYLOAD);
        }
        reader.end()
    }

    claims_methods!();
}

impl LockState {
    fn total(&self) -> u64 {
        1
    }

    fn try_apply(&mut self, commit: &Commit<'_>, effects: &mut Effects) -> Result<(), Code> {
        let (payload, mut scratch) = (commit.payload, Scratch::new());
        let session = commit.session;
        match commit.schema {
            LockV1::SCHEMA => {
                let lock = access::<LockV1>(payload, &mut scratch)?;
                let wait_ms = lock.wait_ms.as_ref().map(|wait| wait.to_native());
                let ask = Ask { session, request: lock.request.to_native(), amount: 1, wait_ms };
                let free = self.claims.is_free(self.total(), 1);
                self.claims.ask(ask, free, commit.into(), effects)?;
            }
            UnlockV1::SCHEMA => {
                let token = access::<UnlockV1>(payload, &mut scratch)?.token.to_native();
                self.unlock(token, commit, effects);
            }
            CancelV1::SCHEMA => {
                let request = access::<CancelV1>(payload, &mut scratch)?.request.to_native();
                self.claims.cancel((session, request), commit.into(), effects);
            }
            _ => return Err(Code::BAD_KIND),
        }
        Ok(())
    }

    fn unlock(&mut self, token: u64, commit: &Commit<'_>, effects: &mut Effects) {
        let holder = self.claims.holds().next().copied();
        match holder {
            Some(held) if (held.session, held.token) == (commit.session, token) => {
                self.claims.release(held.waiter, commit.into(), effects);
            }
            Some(held) => {
                let text = format!("held with token {}, not {token}", held.token);
                effects.refuse(Code::NOT_HOLDER, &text);
            }
            None => effects.refuse(Code::NOT_HOLDER, "nobody holds it"),
        }
    }
}
