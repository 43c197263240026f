//! The messages of a group: in whose inboxes each is, and what came of those that are questions.
//!
//! A message is in the inboxes of those who have yet to answer it; one for any member of whom there
//! is none, or none with room, is *homeless*. Who gets what, and who is told, is decided in
//! `state/messages.rs`.

use super::loads::Loads;
use super::{BYTES_MAX, DELIVERIES_MAX};
use crate::machine::clock::{Due, Timers};
use crate::machine::{LogTime, SessionId, Shared};
use imbl::{OrdMap, OrdSet};
use margay_log::id::Index;
use std::ops::Bound;

/// A message under way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Message {
    /// Who sent it.
    pub(super) from: SessionId,
    /// See [`super::SendV1`].
    pub(super) to: u8,
    pub(super) ask: bool,
    /// When it is taken back.
    pub(super) due: Option<LogTime>,
    pub(super) value: Shared<[u8]>,
}

impl Message {
    pub(super) fn size(&self) -> u64 {
        self.value.len() as u64
    }

    pub(super) fn is_due(&self, now: LogTime) -> bool {
        self.due.is_some_and(|due| due <= now)
    }
}

/// What one member made of a question.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Outcome {
    /// See [`super::AnswersV1`].
    pub(super) kind: u8,
    pub(super) id: Shared<[u8]>,
    pub(super) value: Shared<[u8]>,
}

/// A place in an inbox: the member, the entry that brought the message there, the message.
pub(super) type Place = (Index, Index, Index);

/// See the module. A message is named by the index of the command that sent it.
#[derive(Clone, Debug, Default)]
pub(super) struct Mail {
    messages: OrdMap<Index, Message>,
    inboxes: OrdSet<Place>,
    /// Of each message and the members that have it: the entry that brought it there.
    places: OrdMap<(Index, Index), Index>,
    homeless: OrdSet<Index>,
    /// Of all members.
    loads: Loads,
    timers: Timers<Index>,
    /// Of each question and the members that are done with it.
    outcomes: OrdMap<(Index, Index), Outcome>,
    /// Sums over the messages and the outcomes.
    bytes: u64,
    answer_bytes: u64,
}

impl Mail {
    pub(super) fn get(&self, message: Index) -> Option<&Message> {
        self.messages.get(&message)
    }

    /// Whether there are neither messages nor answers.
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.outcomes.is_empty()
    }

    /// Messages in inboxes, in none, and bytes of all of them.
    pub(super) fn counts(&self) -> (usize, usize, u64) {
        (self.places.len(), self.homeless.len(), self.bytes)
    }

    /// Whether a message of this size may be brought to so many inboxes.
    pub(super) fn fits(&self, recipients: usize, size: u64) -> bool {
        let deliveries = self.places.len() + self.homeless.len() + self.outcomes.len();
        deliveries + recipients <= DELIVERIES_MAX && self.bytes + size <= BYTES_MAX
    }

    /// Whether an answer of this size may be kept.
    pub(super) fn fits_answer(&self, size: u64) -> bool {
        self.answer_bytes + size <= BYTES_MAX
    }

    /// Whether a member's inbox has room for a message of this size.
    pub(super) fn has_room(&self, member: Index, size: u64) -> bool {
        self.loads.get(member).has_room(size)
    }

    /// The next member after one, and around, whose inbox has room for a message of this size.
    pub(super) fn next_with_room(&self, after: Index, size: u64) -> Option<Index> {
        self.loads.next_with_room(after, size)
    }

    /// How many messages are in a member's inbox.
    pub(super) fn waiting_for(&self, member: Index) -> u32 {
        self.loads.get(member).messages
    }

    /// Somebody is a member now, with an empty inbox.
    pub(super) fn seat(&mut self, member: Index) {
        self.loads.insert(member);
    }

    /// Somebody is none any more: nothing is brought there. What is in the inbox stays for now.
    pub(super) fn unseat(&mut self, member: Index) {
        self.loads.remove(member);
    }

    /// Puts a message in, homeless for now. Its name must be free.
    pub(super) fn insert(&mut self, name: Index, message: Message) {
        if let Some(at) = message.due {
            self.timers.schedule(Due { at, created: name }, name);
        }
        self.bytes += message.size();
        self.homeless.insert(name);
        let before = self.messages.insert(name, message);
        assert!(before.is_none(), "an index sends one message");
    }

    /// Brings a message to an inbox that does not have it.
    pub(super) fn bring(&mut self, name: Index, member: Index, by: Index) {
        let Some(message) = self.messages.get(&name) else { return };
        let size = message.size();
        self.loads.change(member, |load| {
            load.messages += 1;
            load.bytes += size;
        });
        self.homeless.remove(&name);
        self.inboxes.insert((member, by, name));
        let before = self.places.insert((name, member), by);
        assert!(before.is_none(), "a message is in an inbox once");
    }

    /// Takes a message out of one inbox. Returns whether it was there.
    pub(super) fn take_out(&mut self, name: Index, member: Index) -> bool {
        let Some(by) = self.places.remove(&(name, member)) else { return false };
        self.inboxes.remove(&(member, by, name));
        let size = self.messages.get(&name).map_or(0, Message::size);
        self.loads.change(member, |load| {
            load.messages -= 1;
            load.bytes -= size;
        });
        true
    }

    /// The message is for any, and nobody has it.
    pub(super) fn make_homeless(&mut self, name: Index) {
        self.homeless.insert(name);
    }

    /// Whether nobody has the message.
    pub(super) fn is_homeless(&self, name: Index) -> bool {
        self.homeless.contains(&name)
    }

    /// The oldest message that nobody has.
    pub(super) fn first_homeless(&self) -> Option<(Index, &Message)> {
        let name = *self.homeless.get_min()?;
        Some((name, self.messages.get(&name)?))
    }

    /// Who has a message, in order.
    pub(super) fn holders(&self, name: Index) -> impl Iterator<Item = Index> {
        let all = (name, Index::ZERO)..=(name, Index(u64::MAX));
        self.places.range(all).map(|((_, member), _)| *member)
    }

    /// Whether a member has a message.
    pub(super) fn has(&self, name: Index, member: Index) -> bool {
        self.places.contains_key(&(name, member))
    }

    /// The messages of an inbox, in its order, behind a place.
    pub(super) fn inbox(
        &self,
        member: Index,
        behind: (Index, Index),
    ) -> impl Iterator<Item = (Index, Index, &Message)> {
        let from = (member, behind.0, behind.1);
        let to = (member, Index(u64::MAX), Index(u64::MAX));
        let all = self.inboxes.range(from..=to).filter(move |place| **place != from);
        all.filter_map(|(_, by, name)| Some((*by, *name, self.messages.get(name)?)))
    }

    /// Takes a message away from everywhere. Returns it, and who had it.
    pub(super) fn remove(&mut self, name: Index) -> Option<(Message, Vec<Index>)> {
        let holders: Vec<Index> = self.holders(name).collect();
        for member in &holders {
            self.take_out(name, *member);
        }
        self.homeless.remove(&name);
        let message = self.messages.remove(&name)?;
        self.bytes -= message.size();
        if let Some(at) = message.due {
            self.timers.cancel(Due { at, created: name }, name);
        }
        Some((message, holders))
    }

    pub(super) fn next_timer(&self) -> Option<Due> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// The next message whose time is over at `now`.
    pub(super) fn first_due(&self, now: LogTime) -> Option<Index> {
        self.timers.first().filter(|(due, _)| due.at <= now).map(|(_, name)| *name)
    }

    /// A member is done with a question.
    pub(super) fn note(&mut self, name: Index, member: Index, outcome: Outcome) {
        self.answer_bytes += outcome.value.len() as u64;
        let before = self.outcomes.insert((name, member), outcome);
        assert!(before.is_none(), "a member is done with a question once");
    }

    /// What members made of a question, behind one of them.
    pub(super) fn outcomes(
        &self,
        name: Index,
        behind: Index,
    ) -> impl Iterator<Item = (Index, &Outcome)> {
        let all = self.outcomes.range((name, behind)..=(name, Index(u64::MAX)));
        let rest = all.filter(move |((_, member), _)| *member != behind);
        rest.map(|((_, member), outcome)| (*member, outcome))
    }

    /// Nobody wants to know any more what came of a question.
    pub(super) fn forget_outcomes(&mut self, name: Index) {
        let members: Vec<Index> = self.outcomes(name, Index::ZERO).map(|(who, _)| who).collect();
        for member in members {
            if let Some(outcome) = self.outcomes.remove(&(name, member)) {
                self.answer_bytes -= outcome.value.len() as u64;
            }
        }
    }

    /// All messages behind one, for snapshots; so with the next two.
    pub(super) fn messages_behind(&self, name: Index) -> impl Iterator<Item = (Index, &Message)> {
        self.messages.range(name.next()..).map(|(name, message)| (*name, message))
    }

    pub(super) fn places_behind(&self, place: Place) -> impl Iterator<Item = &Place> {
        self.inboxes.range((Bound::Excluded(place), Bound::Unbounded))
    }

    pub(super) fn outcomes_behind(
        &self,
        behind: (Index, Index),
    ) -> impl Iterator<Item = (Index, Index, &Outcome)> {
        let range = self.outcomes.range((Bound::Excluded(behind), Bound::Unbounded));
        range.map(|((name, member), outcome)| (*name, *member, outcome))
    }

    /// Whether a member is done with a question.
    pub(super) fn is_noted(&self, name: Index, member: Index) -> bool {
        self.outcomes.contains_key(&(name, member))
    }
}
