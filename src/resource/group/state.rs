//! What a group is, and which command does what to it. Who is in it is decided in
//! `state/members.rs`, who gets which message in `state/messages.rs`.

mod members;
mod messages;

use super::mail::Mail;
use super::*;
use crate::machine::clock::Due;
use crate::machine::{Commit, Effects, LogTime, Pair, Query, SessionId, Shared};
use crate::resource::Firing;
use crate::resource::claims::{Moment, delegate_to_claims};
use crate::resource::codec::{Operation, Scratch, access};
use crate::resource::snapshot::Items;
use crate::resource::waste::Waste;
use imbl::{OrdMap, OrdSet};
use margay_log::id::Index;
pub(super) use members::drawn;

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

    fn size(&self, _now: LogTime) -> u64 {
        self.members.len() as u64
    }

    delegate_to_claims!(claims);

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
}
