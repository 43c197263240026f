//! One resource with what is kept for it, and what all of them are found by.

use crate::machine::clock::Due;
use crate::machine::{Effects, LogTime, Notice, ResourceId, SessionId, Shared, halt};
use crate::resource::ring::Ring;
use crate::resource::{Resource, own, type_name};
use imbl::{OrdMap, OrdSet};
use margay_log::id::Index;

/// What can be derived from the resources, kept so that nobody has to look at all of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Links {
    /// The next timer of each resource that has one.
    pub(super) agenda: OrdSet<(Due, ResourceId)>,
    /// Which resources a session holds, waits for or owns something in. May name more: what it
    /// owned may have been cleared with what many others owned, and the resource be gone.
    pub(super) involved: OrdSet<(SessionId, ResourceId)>,
    /// How much each session holds and waits for, where that is something: what listing it when it
    /// attaches comes to. Of users' own types nobody keeps count.
    pub(super) holdings: OrdMap<SessionId, usize>,
}

/// One resource with what is kept for it.
#[derive(Clone, Debug)]
pub(in super::super) struct Slot {
    pub(in super::super) name: Shared<[u8]>,
    pub(in super::super) kind: u8,
    pub(in super::super) options: Vec<u8>,
    pub(in super::super) state: Box<dyn Resource>,
    pub(in super::super) ring: Ring,
    /// What the agenda says of it.
    pub(in super::super) timer: Option<Due>,
    /// It is deleted, and some who held something here are still to be told.
    pub(in super::super) deleted: bool,
}

impl Slot {
    /// Whether a session holds, waits for or owns something here.
    pub(super) fn involves(&self, session: SessionId) -> bool {
        own::run(self.kind, || self.state.involves(session))
    }

    /// When it has something to do next: at once, where it is deleted.
    pub(super) fn next_timer(&self, id: ResourceId) -> Option<Due> {
        let at_once = Due { at: LogTime(0), created: Index(id.0) };
        if self.deleted { Some(at_once) } else { self.state.next_timer() }
    }

    /// Changes its state, in the name of a session or of none, and settles it. A panic of a user's
    /// own type halts the group.
    pub(super) fn change(
        &mut self,
        (id, who): (ResourceId, Option<SessionId>),
        index: Index,
        effects: &mut Effects,
        links: &mut Links,
        change: impl FnOnce(&mut dyn Resource, &mut Effects),
    ) {
        let before = (effects.events.len(), effects.notices.len());
        if !own::is_own(self.kind) {
            change(&mut *self.state, effects);
            return self.settle((id, who), index, before, effects, links);
        }
        let (kind, name) = (type_name(self.kind), self.name.clone());
        let whose = || format!("{kind} {}", String::from_utf8_lossy(&name));
        halt::guarded(whose, || {
            change(&mut *self.state, effects);
            self.settle((id, who), index, before, effects, links);
        });
    }

    /// After its state has changed: new events are kept, its timer and whom it involves are
    /// noted. `before` is how many events and notices are not its own.
    fn settle(
        &mut self,
        (id, who): (ResourceId, Option<SessionId>),
        index: Index,
        before: (usize, usize),
        effects: &Effects,
        links: &mut Links,
    ) {
        for event in &effects.events[before.0..] {
            self.ring.push(index, event.clone());
        }
        let timer = self.next_timer(id);
        if timer != self.timer {
            if let Some(due) = std::mem::replace(&mut self.timer, timer) {
                links.agenda.remove(&(due, id));
            }
            links.agenda.extend(timer.map(|due| (due, id)));
        }
        let (notices, is_own) = (&effects.notices[before.1..], own::is_own(self.kind));
        for notice in notices {
            if is_own || notice.state.is_final() {
                links.note(notice.session, id, &*self.state);
            } else {
                links.involve(notice.session, id);
            }
        }
        for session in self.state.take_left().into_iter().chain(who) {
            links.note(session, id, &*self.state);
        }
        if !is_own {
            links.count(index, notices);
        }
    }
}

impl Links {
    /// Keeps count of what sessions hold, by what one change at `index` told of one resource: what
    /// is asked for there is named by that index, and it is one thing.
    pub(super) fn count(&mut self, index: Index, notices: &[Notice]) {
        let is_new = |notice: &&Notice| notice.waiter == index && !notice.state.is_final();
        if let Some(asked) = notices.iter().find(is_new) {
            *self.holdings.entry(asked.session).or_default() += 1;
        }
        for over in notices.iter().filter(|notice| notice.state.is_final()) {
            let left = self.holdings.get_mut(&over.session).map(|held| {
                *held = held.saturating_sub(1);
                *held
            });
            if left == Some(0) {
                self.holdings.remove(&over.session);
            }
        }
    }

    /// Notes all sessions that a resource out of a snapshot involves.
    pub(super) fn adopt(&mut self, id: ResourceId, slot: &Slot) {
        let mut held = Vec::new();
        for session in own::run(slot.kind, || slot.state.sessions(usize::MAX)) {
            self.involved.insert((session, id));
            if !own::is_own(slot.kind) {
                held.clear();
                slot.state.holdings(id, session, LogTime(0), &mut held);
            }
            if !held.is_empty() {
                *self.holdings.entry(session).or_default() += held.len();
            }
        }
    }

    /// Notes whether a session is involved in a resource.
    fn note(&mut self, session: SessionId, id: ResourceId, state: &dyn Resource) {
        let link = (session, id);
        if state.involves(session) {
            self.involve(session, id);
        } else if self.involved.contains(&link) {
            self.involved.remove(&link);
        }
    }

    /// Notes that a session is involved in a resource. A copy that is shared stays so where that is
    /// known.
    fn involve(&mut self, session: SessionId, id: ResourceId) {
        if !self.involved.contains(&(session, id)) {
            self.involved.insert((session, id));
        }
    }
}

/// A slot to change: a copy where a frozen view shares it.
pub(super) fn own_copy(slot: &mut Shared<Slot>) -> &mut Slot {
    own::run(slot.kind, || Shared::make_mut(slot))
}
