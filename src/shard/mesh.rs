//! From shard to shard: connections that were accepted by one and belong to another.
//!
//! A small bounded queue per shard and a wake-up through the eventfd that its loop sleeps on. Only
//! descriptors with nothing in flight are handed over.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::limits::Permit;
use super::sys;
use crate::config::HANDOVERS_MAX;
use crate::wire::Hello;

/// A connection whose hello has been read, and nothing else.
pub(crate) struct Handover {
    pub(crate) fd: OwnedFd,
    pub(crate) hello: Hello,
    pub(crate) permit: Permit,
}

/// What reaches a shard from other threads.
pub(crate) struct Inbox {
    queue: Mutex<VecDeque<Handover>>,
    /// Set before the eventfd is signalled; the loop looks at it every turn.
    flag: AtomicBool,
    wake: OwnedFd,
}

impl Inbox {
    pub(crate) fn new() -> io::Result<Inbox> {
        let wake = sys::eventfd()?;
        Ok(Inbox { queue: Mutex::default(), flag: AtomicBool::new(false), wake })
    }

    /// The eventfd the shard sleeps on.
    pub(crate) fn eventfd(&self) -> &OwnedFd {
        &self.wake
    }

    /// Hands a connection over; gives it back if too many wait.
    pub(crate) fn push(&self, handover: Handover) -> Result<(), Handover> {
        {
            let mut queue = self.queue.lock().expect("nobody panics while holding the queue");
            if queue.len() >= HANDOVERS_MAX {
                return Err(handover);
            }
            queue.push_back(handover);
        }
        self.wake();
        Ok(())
    }

    /// The shard's loop runs at least once more.
    pub(crate) fn wake(&self) {
        if !self.flag.swap(true, Ordering::SeqCst) {
            sys::eventfd_signal(self.wake.as_fd());
        }
    }

    /// Whether anybody has called since the last time. Cheap: asked every turn.
    pub(crate) fn called(&self) -> bool {
        if !self.flag.load(Ordering::Relaxed) {
            return false;
        }
        // Before the flag falls: a call after that signals anew.
        sys::eventfd_clear(self.wake.as_fd());
        self.flag.swap(false, Ordering::SeqCst)
    }

    /// Whether somebody has called, without forgetting it.
    pub(crate) fn is_called(&self) -> bool {
        self.flag.load(Ordering::SeqCst)
    }

    /// Takes everything that waits.
    pub(crate) fn take(&self) -> VecDeque<Handover> {
        std::mem::take(&mut *self.queue.lock().expect("nobody panics while holding the queue"))
    }
}
