//! A cyclic barrier: as many as it was made for wait for each other, then all pass, and the next
//! round begins.
//!
//! A party whose wait ends before the round is complete (its time-out passed, it withdrew, its
//! session ended) is simply not counted any more: another can take its place, and the rest waits
//! on. Passing is held, as a grant is, until the session has seen it: a party that was cut off when
//! the round was completed learns so when it is back.

use super::claims::{Ask, Claims, Rules, Turns, cancel_operation};
use super::codec::{
    Operation, Scratch, access, check_by_schema, limits, number_or, only, operation,
};
use crate::machine::bytes;
use crate::machine::{Code, Commit, Effects, Query, kind};

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
    ArchivedAwaitV1: wait(wait_ms);
    ArchivedResetV1:;
    ArchivedStatusV1:;
}

check_by_schema!(AwaitV1, CancelV1, ResetV1);

/// The options of a barrier: how many parties it waits for.
#[must_use]
pub fn options(parties: u32) -> Vec<u8> {
    parties.to_le_bytes().to_vec()
}

// ---- state ----------------------------------------------------------------------------------

/// How many wait for each other: from the options, not written to snapshots again. Who has passed
/// holds that until it has seen it.
#[derive(Clone, Debug)]
struct BarrierRules {
    parties: u32,
}

/// With options; without any it is for two.
pub(super) fn create(options: &[u8]) -> super::Created {
    let parties = number_or(2, options)?;
    if !(1..=PARTIES_MAX).contains(&parties) {
        return Err(Code::BAD_AMOUNT);
    }
    Ok(Box::new(Turns::new(BarrierRules { parties })))
}

impl Rules for BarrierRules {
    fn apply(
        &mut self,
        claims: &mut Claims,
        commit: &Commit<'_>,
        effects: &mut Effects,
    ) -> Result<(), Code> {
        let (payload, mut scratch) = (commit.payload, Scratch::new());
        match commit.schema {
            AwaitV1::SCHEMA => {
                let wait = access::<AwaitV1>(payload, &mut scratch)?;
                let ask = Ask::new(commit.session, wait.request, 1, &wait.wait_ms);
                let complete = claims.waiting(commit.time) + 1 >= self.parties;
                if claims.ask_to_pass(ask, complete, commit.into(), effects)? == GRANTED {
                    claims.serve_all(commit.into(), effects);
                }
            }
            CancelV1::SCHEMA => {
                let request = access::<CancelV1>(payload, &mut scratch)?.request.to_native();
                claims.cancel((commit.session, request), commit.into(), effects);
            }
            ResetV1::SCHEMA => {
                access::<ResetV1>(payload, &mut scratch)?;
                claims.lose_waiting(commit.into(), effects);
            }
            _ => return Err(Code::BAD_KIND),
        }
        Ok(())
    }

    fn query(&self, claims: &Claims, query: &Query<'_>, out: &mut Vec<u8>) -> Result<(), Code> {
        only::<StatusV1>(query)?;
        bytes::put_u32(out, self.parties);
        bytes::put_u32(out, claims.waiting(query.time));
        Ok(())
    }
}
