//! What is sent: to whose inboxes it is brought, who gets it when they leave, and what the asker is
//! told.
//!
//! Invariants: a message that nobody has, and that is not for any, is over; of a question that is
//! over its asker is told once.

use margay_log::id::{Index, Micros};

use super::super::mail::{Message, Outcome};
use super::super::*;
use super::GroupState;
use crate::machine::{Code, Commit, Effects, Pair};
use crate::resource::claims::{Ask, Moment};

impl GroupState {
    pub(super) fn send(
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

    pub(in super::super) fn unanswered(&self) -> usize {
        self.claims.waiters.len().saturating_sub(self.joining.len())
    }

    /// Whose turn it is to get a message for any: the next after the last that has room.
    fn next_member(&self, size: u64) -> Option<Index> {
        self.mail.next_with_room(self.last, size)
    }

    /// Messages that nobody has are brought to whom they can be, in order.
    pub(super) fn house(&mut self, at: Moment, effects: &mut Effects) {
        while let Some((name, message)) = self.mail.first_homeless() {
            let Some(member) = self.next_member(message.size()) else { return };
            self.last = member;
            self.mail.bring(name, member, at.index);
            self.claims.touch(member, at, effects);
        }
    }

    /// A member has left: what it had is for the next one, or over.
    pub(super) fn empty_inbox(
        &mut self,
        member: Index,
        id: &[u8],
        at: Moment,
        effects: &mut Effects,
    ) {
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

    pub(super) fn answer(
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

    pub(in super::super) fn note(
        &mut self,
        name: Index,
        member: Index,
        kind: u8,
        id: &[u8],
        value: &[u8],
    ) {
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
    pub(super) fn expire(&mut self, name: Index, at: Moment, effects: &mut Effects) {
        let Some((message, holders)) = self.mail.remove(name) else { return };
        for member in holders.into_iter().filter(|_| message.ask) {
            let id = self.members.get(&member).map(Pair::key).unwrap_or_default().to_vec();
            self.note(name, member, SILENT, &id, &[]);
        }
        self.tell_asker(name, at, effects);
        self.house(at, effects);
    }
}
