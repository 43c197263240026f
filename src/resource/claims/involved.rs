//! Who has to do with a resource that is granted in turn: for sessions that attach or end, and for
//! people. Nothing is changed here.

use margay_log::id::Index;

use super::{Claims, Hold};
use crate::machine::{LogTime, Notice, NoticeState, ResourceId, SessionId};
use crate::resource::ENDED_AT_ONCE;
use crate::resource::describe::{HOLDERS_MAX, Holders};

/// What a resource that is granted in turn leaves to its claims: who has to do with it.
macro_rules! delegate_to_claims {
    ($claims:ident) => {
        fn involves(&self, session: $crate::machine::SessionId) -> bool {
            self.$claims.involves(session)
        }

        fn sessions(&self, limit: usize) -> Vec<$crate::machine::SessionId> {
            self.$claims.sessions(limit)
        }

        fn holders(&self, now: $crate::machine::LogTime) -> $crate::resource::describe::Holders {
            self.$claims.holders(now)
        }

        fn holdings(
            &self,
            resource: $crate::machine::ResourceId,
            session: $crate::machine::SessionId,
            now: $crate::machine::LogTime,
            out: &mut Vec<$crate::machine::Notice>,
        ) {
            self.$claims.holdings(resource, session, now, out);
        }
    };
}
pub(in super::super) use delegate_to_claims;

impl Claims {
    fn held_by(&self, session: SessionId) -> impl Iterator<Item = &Hold> {
        self.requests
            .range((session, 0)..=(session, u64::MAX))
            .map(|(_, waiter)| &self.holds[waiter])
    }

    /// The next few waits and holds of a session. The waits come first, so that none of them is
    /// granted while the session ends.
    pub(in super::super) fn some_of(&self, session: SessionId) -> Vec<Index> {
        let waits = self.waiters.of_session(session).map(|(index, _)| index);
        let holds = self.held_by(session).map(|hold| hold.waiter);
        waits.chain(holds).take(ENDED_AT_ONCE).collect()
    }

    pub(in super::super) fn involves(&self, session: SessionId) -> bool {
        self.held_by(session).next().is_some() || self.waiters.of_session(session).next().is_some()
    }

    pub(in super::super) fn sessions(&self, limit: usize) -> Vec<SessionId> {
        let holding = self.holds.values().map(|hold| hold.session);
        let waiting = self.waiters.iter().map(|(_, waiter)| waiter.session);
        let mut sessions: Vec<SessionId> = holding.chain(waiting).take(limit).collect();
        sessions.sort_unstable();
        sessions.dedup();
        sessions
    }

    pub(in super::super) fn holders(&self, now: LogTime) -> Holders {
        let holds = self.requests.values().map(|waiter| &self.holds[waiter]);
        Holders {
            held: u32::try_from(self.holds.len()).expect("at most HOLDS_MAX"),
            waiting: self.waiting(now),
            first: holds.take(HOLDERS_MAX).map(|hold| (hold.session, hold.token)).collect(),
        }
    }

    pub(in super::super) fn holdings(
        &self,
        resource: ResourceId,
        session: SessionId,
        now: LogTime,
        out: &mut Vec<Notice>,
    ) {
        for hold in self.held_by(session) {
            let state = NoticeState::Granted { token: hold.token };
            out.push(Notice { session, resource, waiter: hold.waiter, state });
        }
        let waits = self.waiters.of_session(session);
        for (waiter, _) in waits.filter(|(_, waiter)| waiter.due.is_none_or(|due| due > now)) {
            out.push(Notice { session, resource, waiter, state: NoticeState::Waiting });
        }
    }
}
