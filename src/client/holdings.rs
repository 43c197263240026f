//! What the session holds and waits for, as the cluster last said: a mirror of its state, never
//! behind the reply to a command that changed it.

use std::collections::BTreeMap;

use margay_log::id::Index;

use super::config::HOLDINGS_MAX;
use crate::machine::{Notice, NoticeState, ResourceId, SessionId};

/// See the module. Entries that are over are not kept.
#[derive(Debug, Default)]
pub(super) struct Holdings {
    states: BTreeMap<(ResourceId, Index), NoticeState>,
}

impl Holdings {
    pub(super) fn get(&self, resource: ResourceId, waiter: Index) -> Option<NoticeState> {
        self.states.get(&(resource, waiter)).copied()
    }

    /// Everything, as the cluster last said.
    pub(super) fn all(&self, session: SessionId) -> Vec<Notice> {
        let notice = |(&(resource, waiter), &state): (&(ResourceId, Index), &NoticeState)| Notice {
            session,
            resource,
            waiter,
            state,
        };
        self.states.iter().map(notice).collect()
    }

    /// Takes a change. Returns whether it is news: a notice may arrive again.
    pub(super) fn change(&mut self, notice: &Notice) -> bool {
        let key = (notice.resource, notice.waiter);
        if notice.state.is_final() {
            return self.states.remove(&key).is_some();
        }
        if self.states.len() >= HOLDINGS_MAX && !self.states.contains_key(&key) {
            return false;
        }
        self.states.insert(key, notice.state) != Some(notice.state)
    }

    /// Takes the full list that comes with an attach. Appends what is news, and an end for
    /// everything that is not in the list any more: a wait has timed out, a hold was lost.
    pub(super) fn replace(&mut self, session: SessionId, list: &[Notice], news: &mut Vec<Notice>) {
        let old = std::mem::take(&mut self.states);
        for notice in list {
            let key = (notice.resource, notice.waiter);
            if self.change(notice) && old.get(&key) != Some(&notice.state) {
                news.push(*notice);
            }
        }
        for ((resource, waiter), state) in old {
            if !self.states.contains_key(&(resource, waiter)) {
                let state = match state {
                    NoticeState::Waiting => NoticeState::TimedOut,
                    _ => NoticeState::Lost,
                };
                news.push(Notice { session, resource, waiter, state });
            }
        }
    }

    /// The session has ended, and with it everything it held.
    pub(super) fn clear(&mut self) {
        self.states.clear();
    }
}
