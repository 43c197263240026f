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

use super::claims::{Ask, Claims, Rules, cancel_operation};
use super::codec::{Operation, Scratch, access, check_by_schema, limits, only, operation};
use crate::machine::bytes;
use crate::machine::{Code, Commit, Effects, Query, kind};

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
    ArchivedLockV1: wait(wait_ms);
    ArchivedUnlockV1:;
    ArchivedHolderV1:;
}

check_by_schema!(LockV1, UnlockV1, CancelV1);

// ---- state ----------------------------------------------------------------------------------

/// One permit. Nobody waits while nobody holds it.
#[derive(Clone, Debug, Default)]
pub(super) struct LockRules;

impl Rules for LockRules {
    fn permits(&self) -> u64 {
        1
    }

    fn apply(
        &mut self,
        claims: &mut Claims,
        commit: &Commit<'_>,
        effects: &mut Effects,
    ) -> Result<(), Code> {
        let (payload, mut scratch) = (commit.payload, Scratch::new());
        match commit.schema {
            LockV1::SCHEMA => {
                let lock = access::<LockV1>(payload, &mut scratch)?;
                let ask = Ask::new(commit.session, lock.request, 1, &lock.wait_ms);
                claims.ask(ask, claims.is_free(1, 1, commit.time), commit.into(), effects)?;
            }
            UnlockV1::SCHEMA => {
                let token = access::<UnlockV1>(payload, &mut scratch)?.token.to_native();
                unlock(claims, token, commit, effects);
            }
            CancelV1::SCHEMA => {
                let request = access::<CancelV1>(payload, &mut scratch)?.request.to_native();
                claims.cancel((commit.session, request), commit.into(), effects);
            }
            _ => return Err(Code::BAD_KIND),
        }
        Ok(())
    }

    fn query(&self, claims: &Claims, query: &Query<'_>, out: &mut Vec<u8>) -> Result<(), Code> {
        only::<HolderV1>(query)?;
        let holder = claims.holds().next();
        out.push(u8::from(holder.is_some()));
        bytes::put_u64(out, holder.map_or(0, |held| held.session.0));
        bytes::put_u64(out, holder.map_or(0, |held| held.token));
        bytes::put_u32(out, claims.waiting(query.time));
        Ok(())
    }

    fn is_sound(&self, claims: &Claims) -> bool {
        claims.taken() <= 1
    }
}

fn unlock(claims: &mut Claims, token: u64, commit: &Commit<'_>, effects: &mut Effects) {
    let holder = claims.holds().next().copied();
    match holder {
        Some(held) if (held.session, held.token) == (commit.session, token) => {
            claims.release(held.waiter, commit.into(), effects);
        }
        Some(held) => {
            let text = format!("held with token {}, not {token}", held.token);
            effects.refuse(Code::NOT_HOLDER, &text);
        }
        None => effects.refuse(Code::NOT_HOLDER, "nobody holds it"),
    }
}
