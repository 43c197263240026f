//! A fair semaphore: a number of permits, taken and given back.
//!
//! First come, first served: who asks for many is not overtaken by those who ask for few. What a
//! request took it gives back as a whole, by itself or with the end of its session. The number of
//! permits is chosen by whoever creates the semaphore and may be changed; where it falls below what
//! is out, nobody is granted anything until enough has come back.
//!
//! A grant's token is the index of the entry that granted it. Tokens never fall; grants of one
//! entry share theirs.

use super::claims::{Ask, Claims, PERMITS_MAX, Rules, Turns, cancel_operation};
use super::codec::{
    Operation, Scratch, access, check_by_schema, limits, number_or, only, operation,
};
use super::snapshot::Items;
use crate::machine::bytes::{self, Reader};
use crate::machine::{Code, Commit, Effects, Query, kind};
use margay_log::id::Index;

mod handle;

pub use super::claims::{GRANTED, NOT_ACQUIRED, WAITING};
pub use handle::{Permits, Semaphore, SemaphoreStatus};

// ---- operations -----------------------------------------------------------------------------

/// Asks for permits. Answers [`GRANTED`] and the token; [`WAITING`], with a notice to follow; or
/// [`NOT_ACQUIRED`]. Then the hold: the index of this command.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct AcquireV1 {
    /// The session's own number for this hold or wait: none of those under way.
    pub request: u64,
    /// How many, from 1. More than there are: refused.
    pub permits: u32,
    /// How long to wait in log time, in milliseconds; 0 for not at all, `None` for as long as it
    /// takes.
    pub wait_ms: Option<u64>,
}

/// Gives back what a request took.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct ReleaseV1 {
    /// Names the hold.
    pub hold: u64,
    /// How many permits it took; anything else is refused.
    pub permits: u32,
}

/// Takes all permits that are left. Answers as [`AcquireV1`] does, never [`WAITING`], and how many
/// they are (u64).
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct DrainV1 {
    /// As in [`AcquireV1`].
    pub request: u64,
}

/// Changes how many permits there are. Answers how many there were (u64).
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct ResizeV1 {
    /// How many there shall be, those that are out included.
    pub permits: u32,
}

/// Query: permits (u64), those that are left (u64), holds (u32), and how many wait (u32).
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct StatusV1 {}

operation!(AcquireV1, kind::SEMAPHORE, 0x0101, "acquire");
operation!(ReleaseV1, kind::SEMAPHORE, 0x0201, "release");
cancel_operation!(kind::SEMAPHORE);
operation!(DrainV1, kind::SEMAPHORE, 0x0401, "drain");
operation!(ResizeV1, kind::SEMAPHORE, 0x0501, "resize");
operation!(StatusV1, kind::SEMAPHORE, 0x4001, "status");

limits! {
    ArchivedAcquireV1: amount(permits), wait(wait_ms);
    ArchivedReleaseV1:;
    ArchivedDrainV1:;
    ArchivedResizeV1:;
    ArchivedStatusV1:;
}

check_by_schema!(AcquireV1, ReleaseV1, CancelV1, DrainV1, ResizeV1);

/// The options of a semaphore: how many permits it has.
#[must_use]
pub fn options(permits: u32) -> Vec<u8> {
    permits.to_le_bytes().to_vec()
}

// ---- state ----------------------------------------------------------------------------------

/// How many permits there are.
#[derive(Clone, Debug)]
struct SemaphoreRules {
    permits: u64,
}

/// First byte of an item in a snapshot, beside those of the claims.
const ITEM_PERMITS: u8 = 16;

/// With options; without any it has one permit.
pub(super) fn create(options: &[u8]) -> super::Created {
    let permits = number_or(1, options)?.into();
    Ok(Box::new(Turns::new(SemaphoreRules { permits })))
}

impl Rules for SemaphoreRules {
    fn permits(&self) -> u64 {
        self.permits
    }

    fn apply(
        &mut self,
        claims: &mut Claims,
        commit: &Commit<'_>,
        effects: &mut Effects,
    ) -> Result<(), Code> {
        let (payload, mut scratch) = (commit.payload, Scratch::new());
        let session = commit.session;
        match commit.schema {
            AcquireV1::SCHEMA => {
                let acquire = access::<AcquireV1>(payload, &mut scratch)?;
                let amount = u64::from(acquire.permits.to_native());
                if amount > self.permits {
                    let text = format!("asked for {amount} of {}", self.permits);
                    effects.refuse(Code::BAD_AMOUNT, &text);
                    return Ok(());
                }
                let ask = Ask::new(session, acquire.request, amount, &acquire.wait_ms);
                let free = claims.is_free(self.permits, amount, commit.time);
                claims.ask(ask, free, commit.into(), effects)?;
            }
            ReleaseV1::SCHEMA => {
                let release = access::<ReleaseV1>(payload, &mut scratch)?;
                let hold = Index(release.hold.to_native());
                give_back(claims, hold, release.permits.to_native().into(), commit, effects);
            }
            CancelV1::SCHEMA => {
                let request = access::<CancelV1>(payload, &mut scratch)?.request.to_native();
                claims.cancel((session, request), commit.into(), effects);
            }
            DrainV1::SCHEMA => {
                let request = access::<DrainV1>(payload, &mut scratch)?.request.to_native();
                let amount = self.left(claims);
                let ask = Ask { session, request, amount, wait_ms: Some(0) };
                // Those who wait come first, even where nothing that is left fits them.
                let free = amount > 0 && claims.is_free(self.permits, amount, commit.time);
                let answer = claims.ask(ask, free, commit.into(), effects)?;
                let taken = if answer == GRANTED { amount } else { 0 };
                bytes::put_u64(&mut effects.reply, taken);
            }
            ResizeV1::SCHEMA => {
                let permits = access::<ResizeV1>(payload, &mut scratch)?.permits.to_native();
                bytes::put_u64(&mut effects.reply, self.permits);
                self.permits = permits.into();
            }
            _ => return Err(Code::BAD_KIND),
        }
        Ok(())
    }

    fn query(&self, claims: &Claims, query: &Query<'_>, out: &mut Vec<u8>) -> Result<(), Code> {
        only::<StatusV1>(query)?;
        bytes::put_u64(out, self.permits);
        bytes::put_u64(out, self.left(claims));
        bytes::put_u32(out, claims.holding() as u32);
        bytes::put_u32(out, claims.waiting(query.time));
        Ok(())
    }

    fn freeze(&self, items: &mut Items<'_>) {
        items.put(|out| {
            out.push(ITEM_PERMITS);
            bytes::put_u64(out, self.permits);
        });
    }

    fn thaw(&mut self, tag: u8, reader: &mut Reader<'_>) -> Result<(), Code> {
        self.permits = reader.u64()?;
        let sound = tag == ITEM_PERMITS && self.permits <= PERMITS_MAX;
        if sound { Ok(()) } else { Err(Code::BAD_PAYLOAD) }
    }
}

impl SemaphoreRules {
    fn left(&self, claims: &Claims) -> u64 {
        self.permits.saturating_sub(claims.taken())
    }
}

fn give_back(
    claims: &mut Claims,
    hold: Index,
    permits: u64,
    commit: &Commit<'_>,
    effects: &mut Effects,
) {
    match claims.hold(hold).filter(|held| held.session == commit.session) {
        Some(held) if held.amount == permits => claims.release(hold, commit.into(), effects),
        Some(held) => {
            let text = format!("{} are held, not {permits}", held.amount);
            effects.refuse(Code::BAD_RELEASE, &text);
        }
        None => effects.refuse(Code::BAD_RELEASE, "nothing is held under this number"),
    }
}
