//! A fair read-write lock with fencing tokens: many readers, or one writer.
//!
//! First come, first served: readers that come after a waiting writer wait behind it, so that
//! nobody starves. Who holds it is a request of a session, as with the lock; it is not re-entrant,
//! and a reader cannot become a writer without giving the lock back.
//!
//! A grant's token is the index of the entry that granted it. A writer's is higher than that of
//! every grant before; readers admitted by one entry share theirs. Whatever the lock protects
//! should refuse tokens lower than the highest of a *writer* it has seen.

use super::claims::{Ask, Claims, PERMITS_MAX, Rules, cancel_operation};
use super::codec::{Operation, Scratch, access, check_by_schema, limits, only, operation};
use crate::machine::bytes;
use crate::machine::{Code, Commit, Effects, Query, kind};
use margay_log::id::Index;

mod handle;

pub use super::claims::{GRANTED, NOT_ACQUIRED, WAITING};
pub use handle::{RwLock, RwLockGuard, RwLockStatus};

// ---- operations -----------------------------------------------------------------------------

/// Asks for the lock. Answers [`GRANTED`] and the token; [`WAITING`], with a notice to follow; or
/// [`NOT_ACQUIRED`]. Then the hold: the index of this command.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct LockV1 {
    /// The session's own number for this hold or wait: none of those under way.
    pub request: u64,
    /// Alone, or beside other readers.
    pub write: bool,
    /// How long to wait in log time, in milliseconds; 0 for not at all, `None` for as long as it
    /// takes.
    pub wait_ms: Option<u64>,
}

/// Gives a hold back.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct UnlockV1 {
    /// Names the hold.
    pub hold: u64,
}

/// Query: the writer's session and token, 0 for none; readers (u32), and how many wait (u32).
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct StatusV1 {}

operation!(LockV1, kind::RW_LOCK, 0x0101, "lock");
operation!(UnlockV1, kind::RW_LOCK, 0x0201, "unlock");
cancel_operation!(kind::RW_LOCK);
operation!(StatusV1, kind::RW_LOCK, 0x4001, "status");

limits! {
    ArchivedLockV1: wait(wait_ms);
    ArchivedUnlockV1:;
    ArchivedStatusV1:;
}

check_by_schema!(LockV1, UnlockV1, CancelV1);

// ---- state ----------------------------------------------------------------------------------

/// A writer takes all permits, a reader one.
#[derive(Clone, Debug, Default)]
pub(super) struct RwLockRules;

/// What a writer takes.
const ALL: u64 = PERMITS_MAX;

impl Rules for RwLockRules {
    fn permits(&self) -> u64 {
        ALL
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
                let amount = if lock.write { ALL } else { 1 };
                let ask = Ask::new(commit.session, lock.request, amount, &lock.wait_ms);
                claims.ask(
                    ask,
                    claims.is_free(ALL, amount, commit.time),
                    commit.into(),
                    effects,
                )?;
            }
            UnlockV1::SCHEMA => {
                let hold = Index(access::<UnlockV1>(payload, &mut scratch)?.hold.to_native());
                match claims.hold(hold).filter(|held| held.session == commit.session) {
                    Some(_) => claims.release(hold, commit.into(), effects),
                    None => {
                        effects.refuse(Code::NOT_HOLDER, "nothing is held under this number");
                    }
                }
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
        only::<StatusV1>(query)?;
        let writer = claims.holds().next().filter(|hold| hold.amount == ALL);
        let readers = if writer.is_some() { 0 } else { claims.holding() };
        bytes::put_u64(out, writer.map_or(0, |hold| hold.session.0));
        bytes::put_u64(out, writer.map_or(0, |hold| hold.token));
        bytes::put_u32(out, readers as u32);
        bytes::put_u32(out, claims.waiting(query.time));
        Ok(())
    }

    fn is_sound(&self, claims: &Claims) -> bool {
        claims.taken() <= ALL
    }
}
