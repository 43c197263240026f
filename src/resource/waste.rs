//! What was dropped at once and is freed where it holds up nobody.
//!
//! Clearing or deleting a million entries takes no longer than one: they are set aside. A replica
//! hands them to its host at the end of the turn, which has a thread for it; where nobody takes
//! them, each later command of the group frees a few. Not part of the replicated state: copies and
//! snapshots know nothing of it.

use std::any::Any;
use std::fmt;

/// Items freed by each command, at most.
pub(super) const SHED_PER_COMMAND: usize = 64;

/// A structure that can be freed in parts.
pub trait Waste: Send + Sync + fmt::Debug {
    /// Frees up to `limit` items. Returns whether there may be more.
    fn shed(&mut self, limit: usize) -> bool;
}

/// All that is to be freed.
#[derive(Debug, Default)]
pub(super) struct Heap(Vec<Box<dyn Waste>>);

impl Heap {
    pub(super) fn add(&mut self, waste: Box<dyn Waste>) {
        self.0.push(waste);
    }

    /// Whether nothing is left to be freed.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Gives it all to whoever drops it elsewhere.
    pub(super) fn take(&mut self) -> Option<Box<dyn Any + Send>> {
        let all = std::mem::take(&mut self.0);
        (!all.is_empty()).then(|| Box::new(all) as Box<dyn Any + Send>)
    }

    pub(super) fn shed(&mut self) {
        if let Some(last) = self.0.last_mut()
            && !last.shed(SHED_PER_COMMAND)
        {
            self.0.pop();
        }
    }
}

impl Clone for Heap {
    fn clone(&self) -> Heap {
        Heap::default()
    }
}
