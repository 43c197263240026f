//! Who is in the group: joining, waiting for an id, and leaving. A membership is a hold, a join
//! that waits is a wait: both are known to the [`Claims`].
//!
//! Invariants: an id has one member at most; whoever is over has left nothing here.

use margay_log::id::Index;

use super::super::*;
use super::GroupState;
use crate::machine::{Code, Commit, Effects, Pair, Shared, bytes};
use crate::resource::claims::{Ask, Moment};

/// Joins that are due that one command looks after, at most; timers do the rest.
const DUE_PER_COMMAND: usize = 256;

impl GroupState {
    pub(super) fn join(
        &mut self,
        join: &ArchivedJoinV1,
        commit: &Commit<'_>,
        effects: &mut Effects,
    ) -> Result<(), Code> {
        let (name, session, at) = (commit.index, commit.session, Moment::from(commit));
        let request = join.request.to_native();
        let id: Shared<[u8]> = match join.id[..] {
            [] => drawn(name).as_bytes().into(),
            ref id => id.into(),
        };
        let there = self.ids.get(&id).copied();
        if let Some(member) = there
            && let Some(hold) = self.claims.hold(member).filter(|hold| hold.session == session)
        {
            let token = hold.token;
            if self.claims.name_of((session, request)).is_some() {
                return Err(Code::ALREADY_HELD);
            }
            self.claims.pass(member, request);
            self.set_data(member, &join.data, at, effects);
            effects.reply.push(GRANTED);
            bytes::put_u64(&mut effects.reply, token);
            bytes::put_u64(&mut effects.reply, member.0);
            return Ok(());
        }
        let free = there.is_none();
        if free && self.members.len() >= MEMBERS_MAX {
            return Err(Code::TOO_MANY_MEMBERS);
        }
        let pair = Pair::new(&id, &join.data);
        let ask = Ask::new(session, join.request, 1, &join.wait_ms);
        match self.ask(ask, free, at, effects)? {
            GRANTED => self.seat(name, pair, at, effects),
            WAITING => self.wait_for_id(name, pair),
            _ => {}
        }
        Ok(())
    }

    /// Somebody whose hold is granted is a member.
    fn seat(&mut self, name: Index, pair: Pair, at: Moment, effects: &mut Effects) {
        self.ids.insert(pair.key().into(), name);
        self.members.insert(name, pair.clone());
        self.mail.seat(name);
        effects.event(at.resource, JOINED, Some(pair), None);
        self.house(at, effects);
    }

    pub(in super::super) fn wait_for_id(&mut self, name: Index, pair: Pair) {
        self.wanted.insert((pair.key().into(), name));
        self.joining.insert(name, pair);
    }

    /// A join that waited is over.
    fn stop_waiting(&mut self, name: Index) -> Option<Pair> {
        let pair = self.joining.remove(&name)?;
        self.wanted.remove(&(pair.key().into(), name));
        Some(pair)
    }

    pub(super) fn set_data(
        &mut self,
        member: Index,
        data: &[u8],
        at: Moment,
        effects: &mut Effects,
    ) {
        let Some(pair) = self.members.get_mut(&member) else { return };
        if pair.value() == data {
            return;
        }
        let new = Pair::new(pair.key(), data);
        let old = std::mem::replace(pair, new.clone());
        effects.event(at.resource, UPDATED, Some(new), Some(old));
    }

    /// The membership, where it is the session's.
    pub(super) fn own_member(&self, member: u64, commit: &Commit<'_>) -> Result<Index, Code> {
        let name = Index(member);
        let held = self.claims.hold(name).is_some_and(|hold| hold.session == commit.session);
        let ours = held && self.members.contains_key(&name);
        if ours { Ok(name) } else { Err(Code::NO_SUCH_MEMBER) }
    }

    /// Joins that are due are over, whether or not their timers have fired.
    pub(super) fn drop_due(&mut self, at: Moment, effects: &mut Effects) {
        for _ in 0..DUE_PER_COMMAND {
            if !self.drop_one_due(at, effects) {
                return;
            }
        }
    }

    pub(super) fn drop_one_due(&mut self, at: Moment, effects: &mut Effects) -> bool {
        let told = effects.notices.len();
        let dropped = self.claims.drop_one_due(at, effects);
        self.forget_over(told, effects);
        dropped
    }

    /// See [`Claims::ask`]. A join of the same request may have been over.
    pub(super) fn ask(
        &mut self,
        ask: Ask,
        free: bool,
        at: Moment,
        effects: &mut Effects,
    ) -> Result<u8, Code> {
        let told = effects.notices.len();
        let asked = self.claims.ask(ask, free, at, effects);
        self.forget_over(told, effects);
        asked
    }

    /// Joins that were told that they are over have left nothing.
    fn forget_over(&mut self, told: usize, effects: &Effects) {
        for notice in effects.notices[told..].iter().filter(|notice| notice.state.is_final()) {
            self.stop_waiting(notice.waiter);
        }
    }

    /// These are neither held nor waited for any more: whatever they were, nothing of it is left.
    pub(super) fn let_go(&mut self, names: &[Index], why: u16, at: Moment, effects: &mut Effects) {
        let mut left = Vec::new();
        for name in names {
            self.stop_waiting(*name);
            self.mail.remove(*name);
            self.mail.forget_outcomes(*name);
            if let Some(pair) = self.members.remove(name) {
                self.ids.remove(pair.key());
                self.mail.unseat(*name);
                effects.event(at.resource, why, None, Some(pair.clone()));
                left.push((*name, pair));
            }
        }
        for (name, pair) in &left {
            self.empty_inbox(*name, pair.key(), at, effects);
        }
        for (_, pair) in left {
            self.hand_over(pair.key(), at, effects);
        }
        self.house(at, effects);
    }

    /// A free id goes to the first who waits for it.
    fn hand_over(&mut self, id: &[u8], at: Moment, effects: &mut Effects) {
        let name = loop {
            let next = self.wanted.range((id.into(), Index::ZERO)..).next();
            let Some(&(_, name)) = next.filter(|(wanted, _)| &wanted[..] == id) else { return };
            if !self.claims.drop_if_due(name, at, effects) {
                break name;
            }
            self.stop_waiting(name);
        };
        let waiter = self.claims.waiters.remove(name);
        if let (Some(waiter), Some(pair)) = (waiter, self.stop_waiting(name)) {
            self.claims.grant(name, waiter, at, effects);
            self.seat(name, pair, at, effects);
        }
    }
}

/// The id of a member that has none of its own.
pub(in super::super) fn drawn(name: Index) -> String {
    format!("{}{}", char::from(DRAWN), name.0)
}
