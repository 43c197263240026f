//! An election: candidates in a row, the first of whom leads until it resigns, is replaced, or its
//! session ends; then the next one leads.
//!
//! A term's number is the index of the entry in which it began, so it rises strictly: it is the
//! fencing token of whatever the leader does. A candidate is named by the index of the command with
//! which it entered, and brings bytes of its own choice, such as its address.

use super::claims::{Ask, Claims, Moment, cancel_operation, delegate_to_claims};
use super::codec::{Operation, Scratch, access, check_by_schema, limits, operation, page_limit};
use super::handle::thaw_version;
use super::snapshot::Items;
use super::{Firing, Resource};
use crate::machine::bytes::{self, Reader};
use crate::machine::clock::Due;
use crate::machine::{Code, Commit, Effects, NoticeState, Pair, Query, SessionId, Shared, kind};
use imbl::OrdMap;
use margay_log::id::Index;

mod handle;

pub use super::claims::{GRANTED, NOT_ACQUIRED, WAITING};
pub(super) use handle::read_event;
pub use handle::{Candidate, Election, ElectionEvent, Leader, Leadership};

/// Candidates on one list, at most.
pub const LIST_MAX: u32 = 1_000;
/// Bytes of one list, about.
const LIST_BYTES: usize = 1 << 20;

/// Event: somebody leads; the event's index is the term. Its value is the candidate (u64) and its
/// bytes.
pub const ELECTED: u16 = 1;
/// Event: nobody leads.
pub const VACANT: u16 = 2;

// ---- operations -----------------------------------------------------------------------------

/// Enters as a candidate. Answers [`GRANTED`] and the term, where it leads at once; [`WAITING`],
/// with a notice to follow; or [`NOT_ACQUIRED`]. Then the candidate: the index of this command.
/// It resigns with [`CancelV1`].
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct CampaignV1 {
    /// The session's own number for this candidacy: none of those under way.
    pub request: u64,
    /// What others shall know of it. At most 4 KiB.
    pub data: Vec<u8>,
    /// How long to wait in log time, in milliseconds; 0 for not at all, `None` for as long as it
    /// takes.
    pub wait_ms: Option<u64>,
}

/// Makes a candidate the leader, at once. Who leads now is out and may enter again.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct AnointV1 {
    /// The candidate.
    pub candidate: u64,
}

/// Puts a candidate in front of the others.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct PromoteV1 {
    /// The candidate.
    pub candidate: u64,
}

/// Takes a candidate out, also the one that leads.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct EvictV1 {
    /// The candidate.
    pub candidate: u64,
}

/// Query: who leads. Answers 1 or 0, the leader's session, term and candidate, how many wait (u32),
/// and its bytes.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct LeaderV1 {}

/// Query: who waits, in order of their turns. Answers a count; then candidate, session, bytes of
/// each.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct CandidatesV1 {
    /// At most so many; 0 and anything over [`LIST_MAX`] stand for [`LIST_MAX`].
    pub limit: u32,
}

operation!(CampaignV1, kind::ELECTION, 0x0101, "campaign");
cancel_operation!(kind::ELECTION);
operation!(AnointV1, kind::ELECTION, 0x0401, "anoint");
operation!(PromoteV1, kind::ELECTION, 0x0501, "promote");
operation!(EvictV1, kind::ELECTION, 0x0601, "evict");
operation!(LeaderV1, kind::ELECTION, 0x4001, "leader");
operation!(CandidatesV1, kind::ELECTION, 0x4101, "candidates");

limits! {
    ArchivedCampaignV1: key(data), wait(wait_ms);
    ArchivedAnointV1:;
    ArchivedPromoteV1:;
    ArchivedEvictV1:;
    ArchivedLeaderV1:;
    ArchivedCandidatesV1:;
}

check_by_schema!(CampaignV1, CancelV1, AnointV1, PromoteV1, EvictV1);

// ---- state ----------------------------------------------------------------------------------

/// Who leads and who waits. Nobody waits while nobody leads.
#[derive(Clone, Debug, Default)]
pub(super) struct ElectionState {
    claims: Claims,
    /// What each candidate, the leader included, has brought.
    data: OrdMap<Index, Shared<[u8]>>,
}

/// First byte of an item in a snapshot, beside those of the claims.
const ITEM_MOVED: u8 = 16;
const ITEM_DATA: u8 = 17;

impl Resource for ElectionState {
    fn apply(&mut self, commit: &Commit<'_>, effects: &mut Effects) {
        self.change(commit.into(), effects, |state, effects| {
            state.claims.settle(1, commit.into(), effects);
            if let Err(code) = state.try_apply(commit, effects) {
                effects.refuse(code, "");
            }
            state.claims.settle(1, commit.into(), effects);
        });
    }

    fn query(&self, query: &Query<'_>, effects: &mut Effects) {
        if let Err(code) = self.try_query(query, &mut effects.reply) {
            effects.refuse(code, "");
        }
    }

    fn session_ended(
        &mut self,
        session: SessionId,
        commit: &Commit<'_>,
        effects: &mut Effects,
    ) -> usize {
        let names = self.claims.some_of(session);
        self.change(commit.into(), effects, |state, effects| {
            state.claims.end(&names);
            for name in &names {
                state.data.remove(name);
            }
            state.claims.settle(1, commit.into(), effects);
        });
        names.len()
    }

    fn fire(&mut self, firing: &Firing, effects: &mut Effects) {
        self.change(firing.into(), effects, |state, effects| {
            state.claims.fire(1, firing.into(), effects);
        });
    }

    fn deleted(&mut self, firing: &Firing, limit: usize, effects: &mut Effects) -> bool {
        let told = effects.notices.len();
        let more = self.claims.lose_some(limit, firing.into(), effects);
        self.forget(told, effects);
        more
    }

    fn next_timer(&self) -> Option<Due> {
        self.claims.next_timer_of(1)
    }

    delegate_to_claims!(claims);

    fn freeze(&self, after: Option<&[u8]>, items: &mut Items<'_>) -> Option<Vec<u8>> {
        let first = match after {
            Some(last) => Index(u64::from_be_bytes(last.try_into().expect("our own key"))).next(),
            None => {
                self.claims.freeze(items);
                for (index, by) in self.claims.waiters.moved() {
                    items.put(|out| {
                        out.push(ITEM_MOVED);
                        bytes::put_u64(out, index.0);
                        bytes::put_u64(out, by.0);
                    });
                }
                Index::ZERO
            }
        };
        for (index, data) in self.data.range(first..) {
            items.put(|out| {
                out.push(ITEM_DATA);
                bytes::put_u64(out, index.0);
                out.extend_from_slice(data);
            });
            if items.is_full() {
                return Some(index.0.to_be_bytes().to_vec());
            }
        }
        None
    }

    fn thaw(&mut self, item: &[u8], applied: Index) -> Result<(), Code> {
        let mut reader = Reader::new(item);
        match reader.u8()? {
            ITEM_MOVED => {
                let (index, by) = (Index(reader.u64()?), thaw_version(&mut reader, applied)?);
                let waiters = &mut self.claims.waiters;
                let fresh = waiters.moved_by(index).is_none();
                if !fresh || waiters.is_moved_by(by) || !waiters.move_to_front(index, by) {
                    return Err(Code::BAD_PAYLOAD);
                }
            }
            ITEM_DATA => {
                let index = Index(reader.u64()?);
                let known =
                    self.claims.hold(index).is_some() || self.claims.waiters.get(index).is_some();
                if !known || self.data.insert(index, reader.rest().into()).is_some() {
                    return Err(Code::BAD_PAYLOAD);
                }
                return Ok(());
            }
            tag => {
                self.claims.thaw(tag, &mut reader, applied)?;
                if self.claims.taken() > 1 {
                    return Err(Code::BAD_PAYLOAD);
                }
            }
        }
        reader.end()
    }

    fn boxed_clone(&self) -> Box<dyn Resource> {
        Box::new(self.clone())
    }
}

impl ElectionState {
    /// Lets something happen. What became of candidates and leader is noted and told.
    fn change(
        &mut self,
        at: Moment,
        effects: &mut Effects,
        act: impl FnOnce(&mut ElectionState, &mut Effects),
    ) {
        let (before, told) = (self.leader(), effects.notices.len());
        act(self, effects);
        self.forget(told, effects);
        let leader = self.leader();
        if leader == before {
            return;
        }
        match leader {
            Some(name) => {
                let mut value = name.0.to_le_bytes().to_vec();
                value.extend_from_slice(self.data_of(name));
                effects.event(at.resource, ELECTED, Some(Pair::new(&[], &value)), None);
            }
            None => effects.event(at.resource, VACANT, None, None),
        }
    }

    /// Candidates that were told that they are out have left nothing.
    fn forget(&mut self, told: usize, effects: &Effects) {
        for notice in &effects.notices[told..] {
            if notice.state.is_final() {
                self.data.remove(&notice.waiter);
            }
        }
    }

    fn leader(&self) -> Option<Index> {
        self.claims.holds().next().map(|held| held.waiter)
    }

    fn data_of(&self, candidate: Index) -> &[u8] {
        self.data.get(&candidate).map_or(&[], |data| &data[..])
    }

    fn try_apply(&mut self, commit: &Commit<'_>, effects: &mut Effects) -> Result<(), Code> {
        let (payload, mut scratch) = (commit.payload, Scratch::new());
        let (session, at) = (commit.session, Moment::from(commit));
        match commit.schema {
            CampaignV1::SCHEMA => {
                let campaign = access::<CampaignV1>(payload, &mut scratch)?;
                let ask = Ask::new(session, campaign.request, 1, &campaign.wait_ms);
                let free = self.claims.is_free(1, 1, at.now);
                if self.claims.ask(ask, free, at, effects)? != NOT_ACQUIRED {
                    self.data.insert(commit.index, campaign.data[..].into());
                }
            }
            CancelV1::SCHEMA => {
                let request = access::<CancelV1>(payload, &mut scratch)?.request.to_native();
                self.claims.cancel((session, request), at, effects);
            }
            AnointV1::SCHEMA => {
                let candidate = access::<AnointV1>(payload, &mut scratch)?.candidate.to_native();
                self.anoint(Index(candidate), at, effects)?;
            }
            PromoteV1::SCHEMA => {
                let candidate = access::<PromoteV1>(payload, &mut scratch)?.candidate.to_native();
                self.claims.drop_if_due(Index(candidate), at, effects);
                if !self.claims.waiters.move_to_front(Index(candidate), commit.index) {
                    return Err(Code::NO_SUCH_CANDIDATE);
                }
            }
            EvictV1::SCHEMA => {
                let candidate = access::<EvictV1>(payload, &mut scratch)?.candidate.to_native();
                self.evict(Index(candidate), at, effects)?;
            }
            _ => return Err(Code::BAD_KIND),
        }
        Ok(())
    }

    fn anoint(&mut self, candidate: Index, at: Moment, effects: &mut Effects) -> Result<(), Code> {
        if self.leader() == Some(candidate) {
            return Ok(());
        }
        self.claims.drop_if_due(candidate, at, effects);
        let chosen = self.claims.waiters.remove(candidate).ok_or(Code::NO_SUCH_CANDIDATE)?;
        if let Some(leader) = self.leader() {
            self.claims.lose(leader, at, effects);
        }
        self.claims.grant(candidate, chosen, at, effects);
        Ok(())
    }

    fn evict(&mut self, candidate: Index, at: Moment, effects: &mut Effects) -> Result<(), Code> {
        if self.claims.lose(candidate, at, effects) {
            return Ok(());
        }
        self.claims.drop_if_due(candidate, at, effects);
        let evicted = self.claims.waiters.remove(candidate).ok_or(Code::NO_SUCH_CANDIDATE)?;
        effects.notice(evicted.session, at.resource, candidate, NoticeState::Lost);
        Ok(())
    }

    fn try_query(&self, query: &Query<'_>, out: &mut Vec<u8>) -> Result<(), Code> {
        let mut scratch = Scratch::new();
        match query.schema {
            LeaderV1::SCHEMA => {
                access::<LeaderV1>(query.payload, &mut scratch)?;
                let leader = self.claims.holds().next();
                out.push(u8::from(leader.is_some()));
                bytes::put_u64(out, leader.map_or(0, |held| held.session.0));
                bytes::put_u64(out, leader.map_or(0, |held| held.token));
                bytes::put_u64(out, leader.map_or(0, |held| held.waiter.0));
                bytes::put_u32(out, self.claims.waiting(query.time));
                out.extend_from_slice(leader.map_or(&[], |held| self.data_of(held.waiter)));
            }
            CandidatesV1::SCHEMA => {
                let limit = access::<CandidatesV1>(query.payload, &mut scratch)?.limit.to_native();
                self.list(page_limit(limit, LIST_MAX), query, out);
            }
            _ => return Err(Code::BAD_KIND),
        }
        Ok(())
    }

    fn list(&self, limit: u32, query: &Query<'_>, out: &mut Vec<u8>) {
        let mut count = 0_u32;
        bytes::put_u32(out, 0);
        let waiting = self.claims.waiters.iter();
        let alive = waiting.filter(|(_, waiter)| waiter.due.is_none_or(|due| due > query.time));
        for (name, waiter) in alive.take(limit as usize) {
            bytes::put_u64(out, name.0);
            bytes::put_u64(out, waiter.session.0);
            bytes::put_bytes(out, self.data_of(name));
            count += 1;
            if out.len() >= LIST_BYTES {
                break;
            }
        }
        out[..4].copy_from_slice(&count.to_le_bytes());
    }
}
