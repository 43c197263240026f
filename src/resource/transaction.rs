//! Check and commit over several resources of one group: all of it at one index, or nothing.
//!
//! A check is a query of any type of resource and what its answer must be; a command is a command
//! of any type. Where a check fails, or a command is refused, nothing has happened, and the answer
//! says which. Commands see what those before them have done; checks see the state before all of
//! them.
//!
//! Data can be changed several times in one transaction. Whatever queues and grants (queues, locks
//! and the like, and users' own types) takes one command per resource: it is numbered by entries.

use super::codec::{Encode, Limits, Operation, Scratch, access, operation};
use super::registry::Registry;
use super::{own, type_of};
use crate::machine::bytes::{self, Reader};
use crate::machine::{Code, Commit, Effects, Query, ResourceId, kind};

mod handle;
mod steps;

pub use handle::{Committed, Expect, Outcome, Transaction, one_group};

/// Checks and commands of one transaction, at most.
pub const OPERATIONS_MAX: usize = 256;

/// Checks and commands of one transaction that may look at many entries, such as pages and
/// searches, at most.
pub const LONG_MAX: usize = 4;
/// Events and notices that one transaction may bring forth, at most. One that would bring forth
/// more is refused.
pub const TOLD_MAX: usize = 4_096;

/// The answer equals what is expected.
pub const EQUAL: u8 = 0;
/// It does not.
pub const NOT_EQUAL: u8 = 1;
/// As a signed 64-bit number, little-endian, it is less.
pub const LESS: u8 = 2;
/// As such a number, it is greater.
pub const GREATER: u8 = 3;

// ---- operations -----------------------------------------------------------------------------

/// Checks and commits. Answers what [`Outcome`] reads. The n-th element of each vector that
/// begins with `check` belongs to the n-th check; so with commands.
#[derive(rkyv::Archive, rkyv::Serialize, Clone, Debug, Default)]
pub struct CommitV1 {
    /// Types of the resources to be queried.
    pub check_kinds: Vec<u8>,
    /// Which queries.
    pub check_schemas: Vec<u16>,
    /// The resources.
    pub check_resources: Vec<u64>,
    /// The queries.
    pub check_payloads: Vec<Vec<u8>>,
    /// [`EQUAL`] and so on.
    pub check_relations: Vec<u8>,
    /// The compared part of the answer begins here.
    pub check_offsets: Vec<u32>,
    /// Whether the compared part goes to the end of the answer; otherwise it is as long as what is
    /// expected.
    pub check_to_end: Vec<bool>,
    /// What the answer is compared with.
    pub check_expected: Vec<Vec<u8>>,
    /// Types of the resources to be changed.
    pub kinds: Vec<u8>,
    /// Which commands.
    pub schemas: Vec<u16>,
    /// The resources.
    pub resources: Vec<u64>,
    /// The commands.
    pub payloads: Vec<Vec<u8>>,
}

operation!(CommitV1, kind::TRANSACTION, 0x0101, "commit");

impl Limits for ArchivedCommitV1 {
    fn limits(&self) -> Result<(), Code> {
        let (checks, commands) = (self.check_kinds.len(), self.kinds.len());
        let as_many = |length: usize| length == checks;
        let is_even = as_many(self.check_schemas.len())
            && as_many(self.check_resources.len())
            && as_many(self.check_payloads.len())
            && as_many(self.check_relations.len())
            && as_many(self.check_offsets.len())
            && as_many(self.check_to_end.len())
            && as_many(self.check_expected.len())
            && self.schemas.len() == commands
            && self.resources.len() == commands
            && self.payloads.len() == commands;
        if !is_even || self.check_relations.iter().any(|relation| *relation > GREATER) {
            return Err(Code::BAD_PAYLOAD);
        }
        if checks + commands == 0 || checks + commands > OPERATIONS_MAX {
            return Err(Code::TOO_MANY_OPERATIONS);
        }
        for (at, kind) in self.kinds.iter().enumerate() {
            let resource = self.resources[at].to_native();
            if !is_data(*kind) && self.resources[..at].iter().any(|other| *other == resource) {
                return Err(Code::DUPLICATE_KEY);
            }
        }
        let checks = self.check_kinds.iter().zip(self.check_schemas.iter());
        let parts = checks.chain(self.kinds.iter().zip(self.schemas.iter()));
        if parts.filter(|(kind, schema)| is_long(**kind, schema.to_native())).count() > LONG_MAX {
            return Err(Code::TOO_MANY_OPERATIONS);
        }
        let all = self.check_kinds.iter().chain(self.kinds.iter());
        // Opening and deleting resources, and transactions, do not belong into one.
        if { all }.any(|kind| *kind < kind::VALUE) { Err(Code::BAD_KIND) } else { Ok(()) }
    }
}

/// Types that any number of commands of one entry may change.
fn is_data(kind: u8) -> bool {
    use kind::{COUNTER, LOG, MAP, MULTIMAP, SET, TREE, VALUE};
    matches!(kind, VALUE | COUNTER | MAP | MULTIMAP | SET | TREE | LOG)
}

/// Operations that may look at a thousand entries or more, or answer a megabyte.
fn is_long(kind: u8, schema: u16) -> bool {
    use super::{election, group, log, map, multimap, queue, set, tree};
    let long: &[u16] = match kind {
        kind::MAP => &[
            map::PageV1::SCHEMA,
            map::FindValueV1::SCHEMA,
            map::GetManyV1::SCHEMA,
            map::PollV1::SCHEMA,
        ],
        kind::SET => &[set::PageV1::SCHEMA, set::RetainV1::SCHEMA, set::PollV1::SCHEMA],
        kind::MULTIMAP => &[
            multimap::GetV1::SCHEMA,
            multimap::PageV1::SCHEMA,
            multimap::FindValueV1::SCHEMA,
            multimap::RemoveValueV1::SCHEMA,
        ],
        kind::QUEUE => &[queue::LeasedV1::SCHEMA, queue::DeadV1::SCHEMA, queue::TakeV1::SCHEMA],
        kind::ELECTION => &[election::CandidatesV1::SCHEMA],
        kind::GROUP => &[
            group::SendV1::SCHEMA,
            group::MembersV1::SCHEMA,
            group::InboxV1::SCHEMA,
            group::AnswersV1::SCHEMA,
        ],
        kind::TREE => &[tree::ChildrenV1::SCHEMA, tree::DeleteBelowV1::SCHEMA],
        kind::LOG => &[log::ReadV1::SCHEMA],
        _ => &[],
    };
    long.contains(&schema)
}

/// Admission: the commands of a transaction must be admissible each by itself.
pub(super) fn check(schema: u16, payload: &[u8]) -> Result<(), Code> {
    if schema != CommitV1::SCHEMA {
        return Err(Code::BAD_KIND);
    }
    let mut scratch = Scratch::new();
    let commit = access::<CommitV1>(payload, &mut scratch)?;
    check_parts(commit, |_| true)
}

/// Checks each part whose type `wanted` names.
fn check_parts(commit: &ArchivedCommitV1, wanted: impl Fn(u8) -> bool) -> Result<(), Code> {
    for kind in commit.check_kinds.iter().filter(|kind| wanted(**kind)) {
        type_of(*kind).ok_or(Code::BAD_KIND)?;
    }
    for (at, kind) in commit.kinds.iter().enumerate().filter(|(_, kind)| wanted(**kind)) {
        let known = type_of(*kind).ok_or(Code::BAD_KIND)?;
        own::check(known, commit.schemas[at].to_native(), &commit.payloads[at])?;
    }
    Ok(())
}

// ---- state ----------------------------------------------------------------------------------

/// First byte of the answer: a check failed, with its number and the answer it got.
pub(super) const CHECK_FAILED: u8 = 0;
/// Done, with the replies of all commands.
pub(super) const COMMITTED: u8 = 1;
/// A command was refused, with its number, a code and a text.
pub(super) const REFUSED: u8 = 2;

impl Registry {
    /// Applies a transaction.
    pub(super) fn transact(
        &mut self,
        commit: &Commit<'_>,
        effects: &mut Effects,
    ) -> Result<(), Code> {
        if commit.schema != CommitV1::SCHEMA {
            return Err(Code::BAD_KIND);
        }
        let mut scratch = Scratch::new();
        let transaction = access::<CommitV1>(commit.payload, &mut scratch)?;
        // A user's check may differ from program to program: it admits, and no more.
        check_parts(transaction, |kind| !own::is_own(kind))?;
        for at in 0..transaction.check_kinds.len() {
            if !self.passes(transaction, at, commit, effects) {
                let answer = std::mem::take(&mut effects.reply);
                (effects.code, effects.reply) = (Code::OK, vec![CHECK_FAILED]);
                bytes::put_u32(&mut effects.reply, at as u32);
                effects.reply.extend_from_slice(&answer);
                return Ok(());
            }
        }
        // Copies pointers; what is changed below is copied as it is changed.
        let before = self.clone();
        let told = (effects.events.len(), effects.notices.len());
        let mut replies = vec![COMMITTED];
        bytes::put_u32(&mut replies, transaction.kinds.len() as u32);
        for at in 0..transaction.kinds.len() {
            (effects.code, effects.reply) = (Code::OK, Vec::new());
            let one = Commit {
                kind: transaction.kinds[at],
                schema: transaction.schemas[at].to_native(),
                resource: ResourceId(transaction.resources[at].to_native()),
                payload: &transaction.payloads[at],
                ..*commit
            };
            self.apply_to_resource(&one, effects);
            let new = (effects.events.len() - told.0) + (effects.notices.len() - told.1);
            if new > TOLD_MAX && effects.code.is_ok() {
                effects.refuse(Code::TOO_MANY_OPERATIONS, "it changes too much at once");
            }
            if !effects.code.is_ok() {
                self.undo(before);
                effects.events.truncate(told.0);
                effects.notices.truncate(told.1);
                let (code, text) = (effects.code, std::mem::take(&mut effects.reply));
                (effects.code, effects.reply) = (Code::OK, vec![REFUSED]);
                bytes::put_u32(&mut effects.reply, at as u32);
                effects.reply.extend_from_slice(&code.0.to_le_bytes());
                effects.reply.extend_from_slice(&text);
                return Ok(());
            }
            bytes::put_bytes(&mut replies, &effects.reply);
        }
        effects.reply = replies;
        Ok(())
    }

    /// Whether a check holds. Leaves the answer it got in `effects`.
    fn passes(
        &self,
        transaction: &ArchivedCommitV1,
        at: usize,
        commit: &Commit<'_>,
        effects: &mut Effects,
    ) -> bool {
        (effects.code, effects.reply) = (Code::OK, Vec::new());
        let query = Query {
            index: commit.index,
            time: commit.time,
            session: commit.session,
            kind: transaction.check_kinds[at],
            schema: transaction.check_schemas[at].to_native(),
            resource: ResourceId(transaction.check_resources[at].to_native()),
            payload: &transaction.check_payloads[at],
        };
        self.query_resource(&query, effects);
        let expected = &transaction.check_expected[at][..];
        let offset = transaction.check_offsets[at].to_native() as usize;
        let rest = effects.reply.get(offset..).filter(|_| effects.code.is_ok());
        let found = match transaction.check_to_end[at] {
            true => rest,
            false => rest.and_then(|rest| rest.get(..expected.len())),
        };
        let Some(found) = found else { return false };
        let number = |bytes: &[u8]| bytes.try_into().map(i64::from_le_bytes).ok();
        match transaction.check_relations[at] {
            EQUAL => found == expected,
            NOT_EQUAL => found != expected,
            relation => match (number(found), number(expected)) {
                (Some(found), Some(expected)) if relation == LESS => found < expected,
                (Some(found), Some(expected)) => found > expected,
                _ => false,
            },
        }
    }
}
