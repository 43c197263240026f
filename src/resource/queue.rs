//! A queue, of values or of tasks.
//!
//! As a queue of values: offered at the end, polled from the front. As a queue of tasks: whoever
//! takes one has it for the time of a lease; acknowledged, it is gone; given back, or kept longer
//! than its lease, or lost with a session, it is there again at its old place. So every task is
//! done at least once, and one that is acknowledged is never handed out again. A task that was
//! handed out as often as the queue allows becomes a dead letter.
//!
//! A lease carries a token, the index of the entry that granted it, which rises strictly for each
//! task: an acknowledgement under an older one is refused.

use super::Resource;
use super::claims::{Claims, cancel_operation};
use super::codec::{Limits, check_by_schema, limit, limits, operation};
use crate::machine::{Code, kind};

mod frozen;
mod handle;
mod page;
mod state;
mod tasks;

pub use super::claims::{GRANTED, NOT_ACQUIRED, WAITING};
pub use handle::{DeadLetter, Queue, QueueEvent, QueueStatus, Task};
pub(super) use state::create;

/// Tasks of one queue, dead letters not counted, at most.
pub const TASKS_MAX: usize = 1_000_000;
/// Bytes of all tasks of one queue, dead letters not counted, at most.
pub const BYTES_MAX: u64 = 256 << 20;
/// Dead letters kept, at most; the oldest go first.
pub const DEAD_MAX: usize = 10_000;
/// Bytes of dead letters kept, at most; the oldest go first.
pub const DEAD_BYTES_MAX: u64 = 64 << 20;
/// Tasks that are handed out at the same time, at most.
pub const LEASED_MAX: usize = 10_000;
/// Tasks handed out by one take, at most.
pub const TAKE_MAX: u32 = 100;
/// Bytes of one answer, about.
const ANSWER_BYTES: usize = 1 << 20;
/// Longest lease and delay, in milliseconds: a year.
pub const LEASE_MS_MAX: u64 = super::claims::WAIT_MS_MAX;

/// Event: a value or task was offered. The key is its number (u64, big-endian).
pub const OFFERED: u16 = 1;
/// Event: it is gone: polled, removed, or acknowledged.
pub const REMOVED: u16 = 2;
/// Event: it is a dead letter now.
pub const DIED: u16 = 3;
/// Event: all are gone but those that are handed out.
pub const CLEARED: u16 = 4;

// ---- operations -----------------------------------------------------------------------------

/// Offers a value. Its number is the index of this command, which is answered.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct OfferV1 {
    /// At most 1 MiB.
    pub value: Vec<u8>,
    /// Not to be had before so many milliseconds of log time.
    pub delay_ms: u64,
}

/// Takes the first value away for good. Answers 0, or 1, its number and itself.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct PollV1 {}

/// Takes back a task that waits, by its number. Answers 1 or 0.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct RemoveV1 {
    /// Its number.
    pub task: u64,
}

/// Takes away all that waits; what is handed out stays so. Answers how many (u64).
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct ClearV1 {}

/// Asks for tasks. Answers [`GRANTED`] and the token; [`WAITING`], with a notice to follow; or
/// [`NOT_ACQUIRED`]. Then the take: the index of this command. Then, if granted, the tasks as
/// [`LeasedV1`] answers them.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct TakeV1 {
    /// The session's own number for this take or wait: none of those under way.
    pub request: u64,
    /// At most so many, from 1 to [`TAKE_MAX`]. Fewer are no reason to wait.
    pub max: u32,
    /// For how long, in milliseconds of log time, from 1.
    pub lease_ms: u64,
    /// How long to wait in log time, in milliseconds; 0 for not at all, `None` for as long as it
    /// takes.
    pub wait_ms: Option<u64>,
}

/// A task is done.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct AckV1 {
    /// Its number.
    pub task: u64,
    /// The token of its lease.
    pub token: u64,
}

/// A task is given back.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct NackV1 {
    /// Its number.
    pub task: u64,
    /// The token of its lease.
    pub token: u64,
    /// Not to be had again before so many milliseconds.
    pub delay_ms: u64,
}

/// A lease ends later: so long after this command.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct ExtendV1 {
    /// The task's number.
    pub task: u64,
    /// The token of its lease.
    pub token: u64,
    /// In milliseconds, from 1.
    pub lease_ms: u64,
}

/// A dead letter is a task again, as if it had never been handed out. Answers 1 or 0; refused with
/// [`Code::QUEUE_FULL`] where there is no room.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct ReviveV1 {
    /// Its number.
    pub task: u64,
}

/// Query: the first that can be had. Answers 0, or 1, its number and itself.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct PeekV1 {}

/// Query: whether it still has a task, handed out or not. Answers 1 or 0.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct ContainsV1 {
    /// Its number.
    pub task: u64,
}

/// Query: how many can be had, are delayed, are handed out, are dead (u64 each), and how many takes
/// wait (u32).
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct StatusV1 {}

/// Query: the tasks of a take. Answers a count; then number, hand-outs (u32), value of each.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct LeasedV1 {
    /// The take.
    pub take: u64,
}

/// Query: dead letters, oldest first. Answers as [`LeasedV1`] does.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct DeadV1 {
    /// After this number; 0 for the first.
    pub after: u64,
    /// At most so many; 0 and anything over 1,000 stand for 1,000.
    pub limit: u32,
}

operation!(OfferV1, kind::QUEUE, 0x0101, "offer");
operation!(PollV1, kind::QUEUE, 0x0201, "poll");
cancel_operation!(kind::QUEUE);
operation!(RemoveV1, kind::QUEUE, 0x0401, "remove");
operation!(ClearV1, kind::QUEUE, 0x0501, "clear");
operation!(TakeV1, kind::QUEUE, 0x0601, "take");
operation!(AckV1, kind::QUEUE, 0x0701, "ack");
operation!(NackV1, kind::QUEUE, 0x0801, "nack");
operation!(ExtendV1, kind::QUEUE, 0x0901, "extend");
operation!(ReviveV1, kind::QUEUE, 0x0a01, "revive");
operation!(PeekV1, kind::QUEUE, 0x4001, "peek");
operation!(ContainsV1, kind::QUEUE, 0x4101, "contains");
operation!(StatusV1, kind::QUEUE, 0x4201, "status");
operation!(LeasedV1, kind::QUEUE, 0x4301, "leased");
operation!(DeadV1, kind::QUEUE, 0x4401, "dead");

limits! {
    ArchivedOfferV1: value(value), delay(delay_ms);
    ArchivedPollV1:;
    ArchivedRemoveV1:;
    ArchivedClearV1:;
    ArchivedAckV1:;
    ArchivedNackV1: delay(delay_ms);
    ArchivedExtendV1: lease(lease_ms);
    ArchivedReviveV1:;
    ArchivedPeekV1:;
    ArchivedContainsV1:;
    ArchivedStatusV1:;
    ArchivedLeasedV1:;
    ArchivedDeadV1:;
}

impl Limits for ArchivedTakeV1 {
    fn limits(&self) -> Result<(), Code> {
        if !(1..=TAKE_MAX).contains(&self.max.to_native()) {
            return Err(Code::BAD_AMOUNT);
        }
        limit::lease(&self.lease_ms)?;
        limit::wait(&self.wait_ms)
    }
}

check_by_schema!(
    OfferV1, PollV1, CancelV1, RemoveV1, ClearV1, TakeV1, AckV1, NackV1, ExtendV1, ReviveV1
);

/// The options of a queue: how often a task may be handed out before it is a dead letter; 0 for as
/// often as it takes.
#[must_use]
pub fn options(deliveries_max: u32) -> Vec<u8> {
    deliveries_max.to_le_bytes().to_vec()
}
