//! A cyclic barrier: as many as it was made for wait for each other, then all pass, and the next
//! round begins.
//!
//! A party whose wait ends before the round is complete (its time-out passed, it withdrew, its
//! session ended) is simply not counted any more: another can take its place, and the rest waits
//! on. Passing is held, as a grant is, until the session has seen it: a party that was cut off when
//! the round was completed learns so when it is back.

use super::claims::{Ask, Claims, HOLDS_MAX, cancel_operation, check_wait, claims_listing};
use super::codec::{Limits, Operation, Scratch, access, check_by_schema, limits, operation};
use super::snapshot::Items;
use super::{Firing, Resource};
use crate::machine::bytes::{self, Reader};
use crate::machine::{Code, Commit, Effects, Query, SessionId, kind};
use margay_log::id::Index;

mod handle;

pub use super::claims::{GRANTED, NOT_ACQUIRED, WAITING};
pub use handle::{Barrier, BarrierStatus};

/// Parties of a barrier, at most.
pub const PARTIES_MAX: u32 = 5_000;

// ---- operations -----------------------------------------------------------------------------

/// Arrives at the barrier. Answers [`GRANTED`] and the round, where this completes it; [`WAITING`],
/// with a notice to follow; or [`NOT_ACQUIRED`]. Then the name of the wait: the index of this
/// command.
///
/// The round is the index of the entry that completed it. A passage is over with [`CancelV1`].
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct AwaitV1 {
    /// The session's own number for this wait: none of those under way.
    pub request: u64,
    /// How long to wait in log time, in milliseconds; 0 for not at all, `None` for as long as it
    /// takes.
    pub wait_ms: Option<u64>,
}

/// Sends away all who wait.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct ResetV1 {}

/// Query: parties (u32), and how many wait (u32).
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct StatusV1 {}

operation!(AwaitV1, kind::BARRIER, 0x0101, "await");
cancel_operation!(kind::BARRIER);
operation!(ResetV1, kind::BARRIER, 0x0401, "reset");
operation!(StatusV1, kind::BARRIER, 0x4001, "status");

limits! {
    ArchivedResetV1:;
    ArchivedStatusV1:;
}

impl Limits for ArchivedAwaitV1 {
    fn limits(&self) -> Result<(), Code> {
        check_wait(self.wait_ms.as_ref().map(|wait| wait.to_native()))
    }
}

check_by_schema!(AwaitV1, CancelV1, ResetV1);

/// The options of a barrier: how many parties it waits for.
#[must_use]
pub fn options(parties: u32) -> Vec<u8> {
    parties.to_le_bytes().to_vec()
}

// ---- state ----------------------------------------------------------------------------------

/// Who waits, and who has passed and not seen it yet.
#[derive(Clone, Debug)]
pub(super) struct BarrierState {
    /// From the options; not written to snapshots again.
    parties: u32,
    claims: Claims,
}

/// With options; without any it is for two.
pub(super) fn create(options: &[u8]) -> super::Created {
    let parties = match options {
        [] => 2,
        _ => u32::from_le_bytes(options.try_into().map_err(|_| Code::BAD_PAYLOAD)?),
    };
    if !(1..=PARTIES_MAX).contains(&parties) {
        return Err(Code::BAD_AMOUNT);
    }
    Ok(Box::new(BarrierState { parties, claims: Claims::default() }))
}

impl Resource for BarrierState {
    fn apply(&mut self, commit: &Commit<'_>, effects: &mut Effects) {
        self.claims.drop_due(commit.into(), effects);
        if let Err(code) = self.try_apply(commit, effects) {
            effects.refuse(code, "");
        }
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
        bytes::put_u32(&mut effects.reply, self.parties);
        bytes::put_u32(&mut effects.reply, self.claims.waiting(query.time));
    }

    fn session_ended(&mut self, session: SessionId, commit: &Commit<'_>, effects: &mut Effects) {
        self.claims.drop_due(commit.into(), effects);
        self.claims.end_session(session);
    }

    fn fire(&mut self, firing: &Firing, effects: &mut Effects) {
        self.claims.drop_one_due(firing.into(), effects);
    }

    fn freeze(&self, _after: Option<&[u8]>, items: &mut Items<'_>) -> Option<Vec<u8>> {
        self.claims.freeze(items);
        None
    }

    fn thaw(&mut self, item: &[u8], applied: Index) -> Result<(), Code> {
        let mut reader = Reader::new(item);
        let tag = reader.u8()?;
        self.claims.thaw(tag, &mut reader, applied)?;
        if self.claims.waiters.len() >= self.parties as usize {
            return Err(Code::BAD_PAYLOAD);
        }
        reader.end()
    }

    claims_listing!();
}

impl BarrierState {
    fn try_apply(&mut self, commit: &Commit<'_>, effects: &mut Effects) -> Result<(), Code> {
        let (payload, mut scratch) = (commit.payload, Scratch::new());
        let session = commit.session;
        match commit.schema {
            AwaitV1::SCHEMA => {
                let wait = access::<AwaitV1>(payload, &mut scratch)?;
                let wait_ms = wait.wait_ms.as_ref().map(|wait| wait.to_native());
                let ask = Ask { session, request: wait.request.to_native(), amount: 1, wait_ms };
                // There must be room for all who wait to pass.
                if self.claims.holding() + self.claims.waiters.len() >= HOLDS_MAX {
                    return Err(Code::TOO_MANY_WAITERS);
                }
                let complete = self.claims.waiters.len() + 1 >= self.parties as usize;
                if self.claims.ask(ask, complete, commit.into(), effects)? == GRANTED {
                    self.claims.serve_all(commit.into(), effects);
                }
            }
            CancelV1::SCHEMA => {
                let request = access::<CancelV1>(payload, &mut scratch)?.request.to_native();
                self.claims.cancel((session, request), commit.into(), effects);
            }
            ResetV1::SCHEMA => {
                access::<ResetV1>(payload, &mut scratch)?;
                self.claims.lose_waiting(commit.into(), effects);
            }
            _ => return Err(Code::BAD_KIND),
        }
        Ok(())
    }
}
