//! What a group does: seats members, brings messages to inboxes, and tells askers the outcome.

use super::mail::{Mail, Message, Outcome};
use super::*;
use crate::machine::bytes;
use crate::machine::clock::Due;
use crate::machine::{
    Commit, Effects, LogTime, Notice, Pair, Query, ResourceId, SessionId, Shared,
};
use crate::resource::Firing;
use crate::resource::claims::{Ask, Moment};
use crate::resource::codec::{Operation, Scratch, access};
use crate::resource::describe::Holders;
use crate::resource::snapshot::Items;
use crate::resource::waste::Waste;
use imbl::{OrdMap, OrdSet};
use margay_log::id::{Index, Micros};

/// Joins that are due that one command looks after, at most; timers do the rest.
const DUE_PER_COMMAND: usize = 256;

/// See the module above. A membership and a question that is answered are holds; a join that waits
/// for its id and a question that is not answered are waits.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct GroupState {
    pub(super) claims: Claims,
    /// Id and metadata of each.
    pub(super) members: OrdMap<Index, Pair>,
    pub(super) ids: OrdMap<Shared<[u8]>, Index>,
    /// Who waits until another session has left the id.
    pub(super) joining: OrdMap<Index, Pair>,
    wanted: OrdSet<(Shared<[u8]>, Index)>,
    pub(super) mail: Mail,
    /// Who was the last in turn to get a message for any.
    pub(super) last: Index,
    /// All of it, once the group is deleted.
    gone: Option<Box<GroupState>>,
}

impl GroupState {
    /// Whether nobody is here and nothing is under way.
    fn is_empty(&self) -> bool {
        self.members.is_empty() && self.joining.is_empty() && self.mail.is_empty()
    }
}

/// Dropped as a whole: it has no more than 50,000 messages.
impl Waste for GroupState {
    fn shed(&mut self, _limit: usize) -> bool {
        false
    }
}

impl Resource for GroupState {
    fn apply(&mut self, commit: &Commit<'_>, effects: &mut Effects) {
        self.drop_due(commit.into(), effects);
        if let Err(code) = self.try_apply(commit, effects) {
            effects.refuse(code, "");
        }
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
        let at = Moment::from(commit);
        self.drop_due(at, effects);
        let mut names = self.claims.some_of(session);
        names.sort_unstable();
        // At least one, and no more than have about as many messages as one inbox holds.
        let (mut messages, mut fits) = (0, 0);
        for name in &names {
            messages += self.mail.waiting_for(*name);
            fits += usize::from(fits == 0 || messages <= INBOX_MAX);
        }
        names.truncate(fits);
        let released = names.len() + messages.min(INBOX_MAX) as usize;
        self.claims.end(&names);
        self.let_go(&names, SESSION_ENDED, at, effects);
        released
    }

    fn deleted(&mut self, firing: &Firing, limit: usize, effects: &mut Effects) -> bool {
        let more = self.claims.lose_some(limit, firing.into(), effects);
        // The claims of a group that is deleted are all that is left of it.
        let claims = std::mem::take(&mut self.claims);
        let rest = std::mem::replace(self, GroupState { claims, ..GroupState::default() });
        if !rest.is_empty() {
            self.gone = Some(Box::new(rest));
        }
        more
    }

    fn take_waste(&mut self) -> Option<Box<dyn Waste>> {
        Some(self.gone.take()?)
    }

    fn next_timer(&self) -> Option<Due> {
        [self.claims.next_timer(), self.mail.next_timer()].into_iter().flatten().min()
    }

    fn fire(&mut self, firing: &Firing, effects: &mut Effects) {
        let at = Moment::from(firing);
        if self.claims.next_timer().is_some_and(|due| Some(due) == self.next_timer()) {
            self.drop_one_due(at, effects);
        } else if let Some(message) = self.mail.first_due(at.now) {
            self.expire(message, at, effects);
        }
    }

    fn involves(&self, session: SessionId) -> bool {
        self.claims.involves(session)
    }

    fn size(&self, _now: LogTime) -> u64 {
        self.members.len() as u64
    }

    fn sessions(&self, limit: usize) -> Vec<SessionId> {
        self.claims.sessions(limit)
    }

    fn holders(&self, now: LogTime) -> Holders {
        self.claims.holders(now)
    }

    fn holdings(
        &self,
        resource: ResourceId,
        session: SessionId,
        now: LogTime,
        out: &mut Vec<Notice>,
    ) {
        self.claims.holdings(resource, session, now, out);
    }

    fn freeze(&self, after: Option<&[u8]>, items: &mut Items<'_>) -> Option<Vec<u8>> {
        self.freeze_behind(after, items)
    }

    fn thaw(&mut self, item: &[u8], applied: Index) -> Result<(), Code> {
        self.thaw_item(item, applied)
    }

    fn boxed_clone(&self) -> Box<dyn Resource> {
        Box::new(self.clone())
    }
}

// ---- members --------------------------------------------------------------------------------

impl GroupState {
    fn try_apply(&mut self, commit: &Commit<'_>, effects: &mut Effects) -> Result<(), Code> {
        let (payload, mut scratch) = (commit.payload, Scratch::new());
        let at = Moment::from(commit);
        match commit.schema {
            JoinV1::SCHEMA => {
                self.join(access::<JoinV1>(payload, &mut scratch)?, commit, effects)?;
            }
            SendV1::SCHEMA => {
                self.send(access::<SendV1>(payload, &mut scratch)?, commit, effects)?;
            }
            CancelV1::SCHEMA => {
                let request = access::<CancelV1>(payload, &mut scratch)?.request.to_native();
                let named = (commit.session, request);
                let name = self.claims.name_of(named);
                self.claims.cancel(named, at, effects);
                self.let_go(name.as_slice(), LEFT, at, effects);
            }
            SetV1::SCHEMA => {
                let set = access::<SetV1>(payload, &mut scratch)?;
                let member = self.own_member(set.member.to_native(), commit)?;
                self.set_data(member, &set.data, at, effects);
            }
            RemoveV1::SCHEMA => {
                let id = &access::<RemoveV1>(payload, &mut scratch)?.id;
                let member = self.ids.get(&id[..]).copied();
                effects.reply.push(u8::from(member.is_some()));
                if let Some(member) = member {
                    self.claims.lose(member, at, effects);
                    self.let_go(&[member], REMOVED, at, effects);
                }
            }
            AnswerV1::SCHEMA => {
                let answer = access::<AnswerV1>(payload, &mut scratch)?;
                self.answer(answer, commit, effects)?;
            }
            _ => return Err(Code::BAD_KIND),
        }
        Ok(())
    }

    fn join(
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

    pub(super) fn wait_for_id(&mut self, name: Index, pair: Pair) {
        self.wanted.insert((pair.key().into(), name));
        self.joining.insert(name, pair);
    }

    /// A join that waited is over.
    fn stop_waiting(&mut self, name: Index) -> Option<Pair> {
        let pair = self.joining.remove(&name)?;
        self.wanted.remove(&(pair.key().into(), name));
        Some(pair)
    }

    fn set_data(&mut self, member: Index, data: &[u8], at: Moment, effects: &mut Effects) {
        let Some(pair) = self.members.get_mut(&member) else { return };
        if pair.value() == data {
            return;
        }
        let new = Pair::new(pair.key(), data);
        let old = std::mem::replace(pair, new.clone());
        effects.event(at.resource, UPDATED, Some(new), Some(old));
    }

    /// The membership, where it is the session's.
    fn own_member(&self, member: u64, commit: &Commit<'_>) -> Result<Index, Code> {
        let name = Index(member);
        let held = self.claims.hold(name).is_some_and(|hold| hold.session == commit.session);
        let ours = held && self.members.contains_key(&name);
        if ours { Ok(name) } else { Err(Code::NO_SUCH_MEMBER) }
    }

    /// Joins that are due are over, whether or not their timers have fired.
    fn drop_due(&mut self, at: Moment, effects: &mut Effects) {
        for _ in 0..DUE_PER_COMMAND {
            if !self.drop_one_due(at, effects) {
                return;
            }
        }
    }

    fn drop_one_due(&mut self, at: Moment, effects: &mut Effects) -> bool {
        let told = effects.notices.len();
        let dropped = self.claims.drop_one_due(at, effects);
        self.forget_over(told, effects);
        dropped
    }

    /// See [`Claims::ask`]. A join of the same request may have been over.
    fn ask(&mut self, ask: Ask, free: bool, at: Moment, effects: &mut Effects) -> Result<u8, Code> {
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
    fn let_go(&mut self, names: &[Index], why: u16, at: Moment, effects: &mut Effects) {
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
pub(super) fn drawn(name: Index) -> String {
    format!("{}{}", char::from(DRAWN), name.0)
}

// ---- messages -------------------------------------------------------------------------------

impl GroupState {
    fn send(
        &mut self,
        send: &ArchivedSendV1,
        commit: &Commit<'_>,
        effects: &mut Effects,
    ) -> Result<(), Code> {
        let (name, session, at) = (commit.index, commit.session, Moment::from(commit));
        let recipients = self.recipients(send)?;
        if !self.mail.fits(recipients.len(), send.value.len() as u64) {
            return Err(Code::INBOX_FULL);
        }
        if send.ask {
            if self.asked() >= ASKED_MAX {
                return Err(Code::TOO_MANY_WAITERS);
            }
            let request = send.request.to_native();
            // Its time limit is the message's.
            self.ask(Ask { session, request, amount: 1, wait_ms: None }, false, at, effects)?;
        }
        let wait_ms = send.wait_ms.as_ref().map(|wait| wait.to_native());
        let due = wait_ms.map(|wait| at.now.after(Micros::from_millis(wait)));
        let (value, to, ask) = (send.value[..].into(), send.to, send.ask);
        self.mail.insert(name, Message { from: session, to, ask, due, value });
        if to == TO_ANY {
            self.last = recipients[0];
        }
        for member in recipients {
            self.mail.bring(name, member, name);
            self.claims.touch(member, at, effects);
        }
        Ok(())
    }

    /// Whom a message goes to: at least one, and all of them have room.
    fn recipients(&self, send: &ArchivedSendV1) -> Result<Vec<Index>, Code> {
        if self.members.is_empty() {
            return Err(Code::NO_SUCH_MEMBER);
        }
        let size = send.value.len() as u64;
        let recipients = match send.to {
            TO_ANY => self.next_member(size).into_iter().collect(),
            TO_MEMBER => vec![*self.ids.get(&send.id[..]).ok_or(Code::NO_SUCH_MEMBER)?],
            _ => self.members.keys().copied().collect::<Vec<Index>>(),
        };
        let fit = recipients.iter().all(|member| self.mail.has_room(*member, size));
        if fit && !recipients.is_empty() { Ok(recipients) } else { Err(Code::INBOX_FULL) }
    }

    /// Questions that are not answered, or whose answers were not fetched.
    fn asked(&self) -> usize {
        let held = self.claims.holding().saturating_sub(self.members.len());
        held + self.unanswered()
    }

    pub(super) fn unanswered(&self) -> usize {
        self.claims.waiters.len().saturating_sub(self.joining.len())
    }

    /// Whose turn it is to get a message for any: the next after the last that has room.
    fn next_member(&self, size: u64) -> Option<Index> {
        self.mail.next_with_room(self.last, size)
    }

    /// Messages that nobody has are brought to whom they can be, in order.
    fn house(&mut self, at: Moment, effects: &mut Effects) {
        while let Some((name, message)) = self.mail.first_homeless() {
            let Some(member) = self.next_member(message.size()) else { return };
            self.last = member;
            self.mail.bring(name, member, at.index);
            self.claims.touch(member, at, effects);
        }
    }

    /// A member has left: what it had is for the next one, or over.
    fn empty_inbox(&mut self, member: Index, id: &[u8], at: Moment, effects: &mut Effects) {
        let none = (Index::ZERO, Index::ZERO);
        let all: Vec<(Index, u8, bool)> = self
            .mail
            .inbox(member, none)
            .map(|(_, name, message)| (name, message.to, message.ask))
            .collect();
        for (name, to, ask) in all {
            self.mail.take_out(name, member);
            if to == TO_ANY {
                self.mail.make_homeless(name);
                continue;
            }
            if ask {
                self.note(name, member, GONE, id, &[]);
            }
            self.finish(name, at, effects);
        }
    }

    fn answer(
        &mut self,
        answer: &ArchivedAnswerV1,
        commit: &Commit<'_>,
        effects: &mut Effects,
    ) -> Result<(), Code> {
        let at = Moment::from(commit);
        let member = self.own_member(answer.member.to_native(), commit)?;
        let name = Index(answer.message.to_native());
        let message = self.mail.get(name).filter(|message| !message.is_due(at.now));
        let Some(message) = message.filter(|_| self.mail.has(name, member)) else {
            return Err(Code::NO_SUCH_MESSAGE);
        };
        if message.ask {
            if !self.mail.fits_answer(answer.value.len() as u64) {
                return Err(Code::INBOX_FULL);
            }
            let kind = if answer.failed { FAILED } else { ANSWERED };
            let id = self.members.get(&member).map(Pair::key).unwrap_or_default().to_vec();
            self.note(name, member, kind, &id, &answer.value);
        }
        self.mail.take_out(name, member);
        self.finish(name, at, effects);
        self.house(at, effects);
        Ok(())
    }

    pub(super) fn note(&mut self, name: Index, member: Index, kind: u8, id: &[u8], value: &[u8]) {
        self.mail.note(name, member, Outcome { kind, id: id.into(), value: value.into() });
    }

    /// Where nobody has a message any more, it is over.
    fn finish(&mut self, name: Index, at: Moment, effects: &mut Effects) {
        if self.mail.holders(name).next().is_none() {
            self.mail.remove(name);
            self.tell_asker(name, at, effects);
        }
    }

    /// All that will come of a message has come. Where nobody asked, nobody is told.
    fn tell_asker(&mut self, name: Index, at: Moment, effects: &mut Effects) {
        if let Some(waiter) = self.claims.waiters.remove(name) {
            self.claims.grant(name, waiter, at, effects);
        }
    }

    /// The time of a message is over.
    fn expire(&mut self, name: Index, at: Moment, effects: &mut Effects) {
        let Some((message, holders)) = self.mail.remove(name) else { return };
        for member in holders.into_iter().filter(|_| message.ask) {
            let id = self.members.get(&member).map(Pair::key).unwrap_or_default().to_vec();
            self.note(name, member, SILENT, &id, &[]);
        }
        self.tell_asker(name, at, effects);
        self.house(at, effects);
    }
}
