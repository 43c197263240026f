//! A count-down latch: closed until it was counted down to zero, then open for ever.
//!
//! What was counted down stays so, whatever becomes of the session that did it. Passing is held, as
//! a grant is, until the session has seen it.

use super::claims::{Ask, Claims, HOLDS_MAX, cancel_operation, check_wait, claims_listing};
use super::codec::{Limits, Operation, Scratch, access, check_by_schema, limits, operation};
use super::snapshot::Items;
use super::{Firing, Resource};
use crate::machine::bytes::{self, Reader};
use crate::machine::{Code, Commit, Effects, Query, SessionId, kind};
use margay_log::id::Index;

mod handle;

pub use super::claims::{GRANTED, NOT_ACQUIRED, WAITING};
pub use handle::{Latch, LatchStatus};

// ---- operations -----------------------------------------------------------------------------

/// Counts down; at zero it stays. Answers what is left (u64).
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct CountDownV1 {
    /// By how much, from 1.
    pub by: u32,
}

/// Waits until it is open. Answers [`GRANTED`] and the index of this command, where it is open;
/// [`WAITING`], with a notice to follow; or [`NOT_ACQUIRED`]. Then the name of the wait: the index
/// of this command. A passage is over with [`CancelV1`].
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct AwaitV1 {
    /// The session's own number for this wait: none of those under way.
    pub request: u64,
    /// How long to wait in log time, in milliseconds; 0 for not at all, `None` for as long as it
    /// takes.
    pub wait_ms: Option<u64>,
}

/// Query: what is left to count down (u64), and how many wait (u32).
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct StatusV1 {}

operation!(CountDownV1, kind::LATCH, 0x0101, "count-down");
operation!(AwaitV1, kind::LATCH, 0x0201, "await");
cancel_operation!(kind::LATCH);
operation!(StatusV1, kind::LATCH, 0x4001, "status");

limits! {
    ArchivedStatusV1:;
}

impl Limits for ArchivedCountDownV1 {
    fn limits(&self) -> Result<(), Code> {
        if self.by == 0 { Err(Code::BAD_AMOUNT) } else { Ok(()) }
    }
}

impl Limits for ArchivedAwaitV1 {
    fn limits(&self) -> Result<(), Code> {
        check_wait(self.wait_ms.as_ref().map(|wait| wait.to_native()))
    }
}

check_by_schema!(CountDownV1, AwaitV1, CancelV1);

/// The options of a latch: what it counts down from.
#[must_use]
pub fn options(count: u32) -> Vec<u8> {
    count.to_le_bytes().to_vec()
}

// ---- state ----------------------------------------------------------------------------------

/// What is left, who waits, and who has passed and not seen it yet.
#[derive(Clone, Debug)]
pub(super) struct LatchState {
    left: u64,
    claims: Claims,
}

/// First byte of an item in a snapshot, beside those of the claims.
const ITEM_LEFT: u8 = 16;

/// With options; without any it counts down from 1.
pub(super) fn create(options: &[u8]) -> super::Created {
    let count = match options {
        [] => 1,
        _ => u32::from_le_bytes(options.try_into().map_err(|_| Code::BAD_PAYLOAD)?),
    };
    Ok(Box::new(LatchState { left: count.into(), claims: Claims::default() }))
}

impl Resource for LatchState {
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
        bytes::put_u64(&mut effects.reply, self.left);
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
        items.put(|out| {
            out.push(ITEM_LEFT);
            bytes::put_u64(out, self.left);
        });
        self.claims.freeze(items);
        None
    }

    fn thaw(&mut self, item: &[u8], applied: Index) -> Result<(), Code> {
        let mut reader = Reader::new(item);
        match reader.u8()? {
            ITEM_LEFT => self.left = reader.u64()?,
            tag => self.claims.thaw(tag, &mut reader, applied)?,
        }
        reader.end()
    }

    claims_listing!();
}

impl LatchState {
    fn try_apply(&mut self, commit: &Commit<'_>, effects: &mut Effects) -> Result<(), Code> {
        let (payload, mut scratch) = (commit.payload, Scratch::new());
        let session = commit.session;
        match commit.schema {
            CountDownV1::SCHEMA => {
                let by = access::<CountDownV1>(payload, &mut scratch)?.by.to_native();
                self.left = self.left.saturating_sub(by.into());
                bytes::put_u64(&mut effects.reply, self.left);
                if self.left == 0 {
                    self.claims.serve_all(commit.into(), effects);
                }
            }
            AwaitV1::SCHEMA => {
                let wait = access::<AwaitV1>(payload, &mut scratch)?;
                let wait_ms = wait.wait_ms.as_ref().map(|wait| wait.to_native());
                let ask = Ask { session, request: wait.request.to_native(), amount: 1, wait_ms };
                // There must be room for all who wait to pass.
                if self.claims.holding() + self.claims.waiters.len() >= HOLDS_MAX {
                    return Err(Code::TOO_MANY_WAITERS);
                }
                self.claims.ask(ask, self.left == 0, commit.into(), effects)?;
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
