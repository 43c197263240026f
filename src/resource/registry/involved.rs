//! What sessions have to do with resources, and the end of that.

use super::{Registry, own_copy};
use crate::machine::{Commit, Effects, ResourceId, SessionId};
use crate::resource::{Firing, own};

impl Registry {
    /// Where a session holds, waits for or owns something; perhaps more.
    pub(super) fn involving(&self, session: SessionId) -> impl Iterator<Item = ResourceId> {
        let all = (session, ResourceId(0))..=(session, ResourceId(u64::MAX));
        self.links.involved.range(all).map(|(_, resource)| *resource)
    }

    /// A session that is ending lets go of about `limit` things. Returns how many.
    pub(super) fn let_go(
        &mut self,
        session: SessionId,
        commit: &Commit<'_>,
        limit: usize,
        effects: &mut Effects,
    ) -> usize {
        let mut released = 0;
        while released < limit {
            let Some(resource) = self.involving(session).next() else {
                self.links.holdings.remove(&session);
                return released;
            };
            let link = (session, resource);
            let involved = self.slots.get_mut(&resource).filter(|slot| slot.involves(session));
            let Some(slot) = involved else {
                // What restored replicas do not even have must not count.
                self.links.involved.remove(&link);
                continue;
            };
            let told = effects.events.len() + effects.notices.len();
            if slot.deleted {
                // Nobody's turn comes here any more: all are told that it is lost, this one too.
                let firing = Firing { resource, index: commit.index, now: commit.time };
                self.dismantle(&firing, limit - released, effects);
                released += (effects.events.len() + effects.notices.len() - told).max(1);
                continue;
            }
            let slot = own_copy(slot);
            let commit = Commit { resource, ..*commit };
            let whose = (resource, Some(session));
            slot.change(whose, commit.index, effects, &mut self.links, |state, effects| {
                released += 1 + state.session_ended(session, &commit, effects);
            });
            if own::is_own(slot.kind) {
                self.links.involved.remove(&link);
            }
            released += effects.events.len() + effects.notices.len() - told;
        }
        released
    }

    /// A resource that is deleted: up to `limit` of those who hold something there are told. The
    /// resource is gone when all are.
    pub(super) fn dismantle(&mut self, firing: &Firing, limit: usize, effects: &mut Effects) {
        let (id, mut more) = (firing.resource, false);
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let slot = own_copy(slot);
        slot.change((id, None), firing.index, effects, &mut self.links, |state, effects| {
            more = state.deleted(firing, limit, effects);
        });
        if let Some(waste) = slot.state.take_waste() {
            self.waste.add(waste);
        }
        if more {
            return;
        }
        if let Some(due) = slot.timer {
            self.links.agenda.remove(&(due, id));
        }
        self.slots.remove(&id);
    }
}
