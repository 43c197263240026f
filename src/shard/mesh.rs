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
use crate::tls::Secure;
use crate::wire::Hello;

/// A connection whose hello has been read.
pub(crate) struct Handover {
    pub(crate) fd: OwnedFd,
    pub(crate) hello: Hello,
    pub(crate) permit: Permit,
    pub(crate) secure: Option<Box<Secure>>,
    /// What was said behind the hello.
    pub(crate) early: Vec<u8>,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::limits::Limits;
    use margay_log::id::{ClusterId, GroupId};

    /// Whoever accepts faster than another shard takes gets the rest back, and nobody blocks; what
    /// waits comes in order.
    #[test]
    fn a_full_inbox_gives_back_what_it_has_no_place_for() {
        let files = sys::raise_limit(sys::Limit::Files).expect("a limit");
        assert!(files > HANDOVERS_MAX as u64 + 100, "{files} descriptors are too few for this");
        let (inbox, limits) = (Inbox::new().expect("an eventfd"), Limits::new(usize::MAX));
        let handover = |n: u64| {
            let permit = limits.admit("127.0.0.1".parse().expect("an address")).expect("taken");
            let hello = Hello::client(ClusterId(n), GroupId(0));
            Handover {
                fd: sys::eventfd().expect("a descriptor"),
                hello,
                permit,
                secure: None,
                early: Vec::new(),
            }
        };
        for n in 0..HANDOVERS_MAX as u64 {
            assert!(inbox.push(handover(n)).is_ok(), "{n}");
        }
        let refused = inbox.push(handover(77)).expect_err("it is full");
        assert_eq!(refused.hello.cluster, ClusterId(77));
        assert!(inbox.called() && !inbox.called());
        let taken = inbox.take();
        let order: Vec<u64> = taken.iter().map(|taken| taken.hello.cluster.0).collect();
        assert_eq!(order, (0..HANDOVERS_MAX as u64).collect::<Vec<_>>());
        assert!(inbox.push(refused).is_ok() && inbox.is_called());
        drop((taken, inbox));
        assert_eq!(limits.open(), 0, "nothing is left of them");
    }
}
