//! A fair read-write lock with fencing tokens: many readers, or one writer.
//!
//! First come, first served: readers that come after a waiting writer wait behind it, so that
//! nobody starves. Who holds it is a request of a session, as with the lock; it is not re-entrant,
//! and a reader cannot become a writer without giving the lock back.
//!
//! A grant's token is the index of the entry that granted it. A writer's is higher than that of
//! every grant before; readers admitted by one entry share theirs. Whatever the lock protects
//! should refuse tokens lower than the highest of a *writer* it has seen.

use super::Resource;
use super::claims::{Ask, Claims, PERMITS_MAX, cancel_operation, check_wait, claims_methods};
use super::codec::{Limits, Operation, Scratch, access, check_by_schema, limits, operation};
use super::snapshot::Items;
use crate::machine::bytes::{self, Reader};
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
    ArchivedUnlockV1:;
    ArchivedStatusV1:;
}

impl Limits for ArchivedLockV1 {
    fn limits(&self) -> Result<(), Code> {
        check_wait(self.wait_ms.as_ref().map(|wait| wait.to_native()))
    }
}

check_by_schema!(LockV1, UnlockV1, CancelV1);

// ---- state ----------------------------------------------------------------------------------

/// Who holds it and who waits: a writer takes all permits, a reader one.
#[derive(Clone, Debug, Default)]
pub(super) struct RwLockState {
    claims: Claims,
}

/// What a writer takes.
const ALL: u64 = PERMITS_MAX;

impl Resource for RwLockState {
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
            StatusV1::SCHEMA => access::<StatusV1>(query.payload, &mut scratch).map(|_| ()),
            _ => Err(Code::BAD_KIND),
        };
        if let Err(code) = checked {
            return effects.refuse(code, "");
        }
        let writer = self.claims.holds().next().filter(|hold| hold.amount == ALL);
        let readers = if writer.is_some() { 0 } else { self.claims.holding() };
        let out = &mut effects.reply;
        bytes::put_u64(out, writer.map_or(0, |hold| hold.session.0));
        bytes::put_u64(out, writer.map_or(0, |hold| hold.token));
        bytes::put_u32(out, readers as u32);
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
        if self.claims.taken() > ALL {
            return Err(Code::BAD_PAYLOAD);
        }
        reader.end()
    }

    claims_methods!();
}

impl RwLockState {
    fn total(&self) -> u64 {
        ALL
    }

    fn try_apply(&mut self, commit: &Commit<'_>, effects: &mut Effects) -> Result<(), Code> {
        let (payload, mut scratch) = (commit.payload, Scratch::new());
        let session = commit.session;
        match commit.schema {
            LockV1::SCHEMA => {
                let lock = access::<LockV1>(payload, &mut scratch)?;
                let wait_ms = lock.wait_ms.as_ref().map(|wait| wait.to_native());
                let amount = if lock.write { ALL } else { 1 };
                let ask = Ask { session, request: lock.request.to_native(), amount, wait_ms };
                let free = self.claims.is_free(ALL, amount);
                self.claims.ask(ask, free, commit.into(), effects)?;
            }
            UnlockV1::SCHEMA => {
                let hold = Index(access::<UnlockV1>(payload, &mut scratch)?.hold.to_native());
                if self.claims.hold(hold).is_none_or(|held| held.session != session) {
                    let text = "nothing is held under this number";
                    effects.refuse(Code::NOT_HOLDER, text);
                    return Ok(());
                }
                self.claims.release(hold, commit.into(), effects);
            }
            CancelV1::SCHEMA => {
                let request = access::<CancelV1>(payload, &mut scratch)?.request.to_native();
                self.claims.cancel((session, request), commit.into(), effects);
            }
            _ => return Err(Code::BAD_KIND),
        }
        Ok(())
    }
}
