//! What becomes of a client's sessions, as it happens: for applications that must know what they
//! can rely on, and what they have lost.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use futures_core::Stream;
use margay_log::id::GroupId;

use super::session::SessionState;
use crate::machine::{Notice, NoticeState};
use crate::resource::reply;

/// Changes kept for a reader that is slow, at most; beyond it the oldest go.
const CHANGES_MAX: usize = 1_024;

/// A session is in another state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StateChange {
    /// The group the session is of.
    pub group: GroupId,
    /// What can be relied on from now on.
    pub state: SessionState,
    /// With [`SessionState::Expired`]: all that the session held or waited for. It is released. The
    /// next command begins a new session, which holds nothing, unless the client was built with
    /// [`super::Recovery::Close`].
    pub lost: Vec<Notice>,
}

impl StateChange {
    /// Fencing tokens of what was held and is lost.
    pub fn lost_tokens(&self) -> impl Iterator<Item = u64> {
        self.lost.iter().filter_map(|notice| match notice.state {
            NoticeState::Granted { token } => Some(token),
            _ => None,
        })
    }
}

/// Changes of all sessions of a client, in order, from when this was asked for. Ends when the
/// client is closed. A [`Stream`], or [`StateChanges::wait_next`].
#[derive(Debug)]
pub struct StateChanges {
    queue: Arc<Queue>,
}

/// Where the client's thread puts them.
#[derive(Debug)]
pub(super) struct StateFeed {
    queue: Weak<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    changes: VecDeque<StateChange>,
    is_over: bool,
    waker: Option<Waker>,
}

impl Queue {
    /// A panic elsewhere does not make a change invalid.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A reader, and where to put what it reads.
pub(super) fn changes() -> (StateFeed, StateChanges) {
    let queue = Arc::new(Queue::default());
    (StateFeed { queue: Arc::downgrade(&queue) }, StateChanges { queue })
}

impl StateFeed {
    /// Returns whether anybody reads.
    pub(super) fn push(&self, change: &StateChange) -> bool {
        let Some(queue) = self.queue.upgrade() else { return false };
        let waker = {
            let mut state = queue.state();
            if state.changes.len() >= CHANGES_MAX {
                state.changes.pop_front();
            }
            state.changes.push_back(change.clone());
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }
}

impl Drop for StateFeed {
    fn drop(&mut self) {
        let Some(queue) = self.queue.upgrade() else { return };
        let waker = {
            let mut state = queue.state();
            state.is_over = true;
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl StateChanges {
    /// The next change; `None` when the client is closed.
    pub async fn next(&mut self) -> Option<StateChange> {
        std::future::poll_fn(|context| self.poll(context)).await
    }

    /// Blocks the thread until the next change; `None` when the client is closed.
    pub fn wait_next(&mut self) -> Option<StateChange> {
        reply::wait(self.next())
    }

    /// A change that is there already.
    pub fn try_next(&mut self) -> Option<StateChange> {
        self.queue.state().changes.pop_front()
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<StateChange>> {
        let mut state = self.queue.state();
        if let Some(change) = state.changes.pop_front() {
            return Poll::Ready(Some(change));
        }
        if state.is_over {
            return Poll::Ready(None);
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Stream for StateChanges {
    type Item = StateChange;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<StateChange>> {
        self.poll(context)
    }
}
