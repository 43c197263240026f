//! A count-down latch: closed until it was counted down to zero, then open for ever.
//!
//! What was counted down stays so, whatever becomes of the session that did it. Passing is held, as
//! a grant is, until the session has seen it.

use super::claims::{Ask, Claims, PERMITS_MAX, Rules, Turns, cancel_operation};
use super::codec::{
    Operation, Scratch, access, check_by_schema, limits, number_or, only, operation,
};
use super::snapshot::Items;
use crate::machine::bytes::{self, Reader};
use crate::machine::{Code, Commit, Effects, Query, kind};

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
    ArchivedCountDownV1: amount(by);
    ArchivedAwaitV1: wait(wait_ms);
    ArchivedStatusV1:;
}

check_by_schema!(CountDownV1, AwaitV1, CancelV1);

/// The options of a latch: what it counts down from.
#[must_use]
pub fn options(count: u32) -> Vec<u8> {
    count.to_le_bytes().to_vec()
}

// ---- state ----------------------------------------------------------------------------------

/// What is left. Who has passed holds that until it has seen it.
#[derive(Clone, Debug)]
struct LatchRules {
    left: u64,
}

/// First byte of an item in a snapshot, beside those of the claims.
const ITEM_LEFT: u8 = 16;

/// With options; without any it counts down from 1.
pub(super) fn create(options: &[u8]) -> super::Created {
    let left = number_or(1, options)?.into();
    Ok(Box::new(Turns::new(LatchRules { left })))
}

impl Rules for LatchRules {
    /// None until it is open; then there are enough for everybody.
    fn permits(&self) -> u64 {
        if self.left == 0 { PERMITS_MAX } else { 0 }
    }

    fn apply(
        &mut self,
        claims: &mut Claims,
        commit: &Commit<'_>,
        effects: &mut Effects,
    ) -> Result<(), Code> {
        let (payload, mut scratch) = (commit.payload, Scratch::new());
        match commit.schema {
            CountDownV1::SCHEMA => {
                let by = access::<CountDownV1>(payload, &mut scratch)?.by.to_native();
                self.left = self.left.saturating_sub(by.into());
                bytes::put_u64(&mut effects.reply, self.left);
            }
            AwaitV1::SCHEMA => {
                let wait = access::<AwaitV1>(payload, &mut scratch)?;
                let ask = Ask::new(commit.session, wait.request, 1, &wait.wait_ms);
                claims.ask_to_pass(ask, self.left == 0, commit.into(), effects)?;
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
        bytes::put_u64(out, self.left);
        bytes::put_u32(out, claims.waiting(query.time));
        Ok(())
    }

    fn freeze(&self, items: &mut Items<'_>) {
        items.put(|out| {
            out.push(ITEM_LEFT);
            bytes::put_u64(out, self.left);
        });
    }

    fn thaw(&mut self, tag: u8, reader: &mut Reader<'_>) -> Result<(), Code> {
        self.left = reader.u64()?;
        if tag == ITEM_LEFT { Ok(()) } else { Err(Code::BAD_PAYLOAD) }
    }
}
