//! Making and removing segment files on a thread of its own, with plain calls: filling a segment
//! with zeros takes a while, and nobody who drives the disk shall wait for it.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

use crate::commit_log::shared::Shared;
use crate::disk::maker::Maker;
use crate::disk::{Done, Op};
use crate::error::Error;

/// Takes what is to be made or removed. Without anybody to give it to it takes nothing.
#[derive(Debug, Default)]
pub(crate) struct Spacer {
    work: Option<Sender<Op>>,
    thread: Option<JoinHandle<()>>,
}

impl Spacer {
    /// Starts the thread.
    pub(crate) fn start(maker: Maker, shared: &Arc<Shared>) -> Result<Spacer, Error> {
        let (sender, receiver) = channel();
        let shared = Arc::downgrade(shared);
        let thread = std::thread::Builder::new()
            .name("log-space".to_owned())
            .spawn(move || run(&maker, &receiver, &shared))
            .map_err(|error| Error::thread(&error))?;
        Ok(Spacer { work: Some(sender), thread: Some(thread) })
    }

    /// One whose work somebody else does.
    #[cfg(all(test, feature = "sim"))]
    pub(crate) fn by_hand() -> (Spacer, Receiver<Op>) {
        let (sender, receiver) = channel();
        (Spacer { work: Some(sender), thread: None }, receiver)
    }

    pub(crate) fn submit(&self, op: Op) {
        if let Some(sender) = &self.work {
            // The thread ends only when this sender does.
            let _ = sender.send(op);
        }
    }

    /// Waits for what is under way, and ends the thread.
    pub(crate) fn stop(self) {
        drop(self.work);
        if let Some(thread) = self.thread {
            let _ = thread.join();
        }
    }
}

fn run(maker: &Maker, work: &Receiver<Op>, shared: &Weak<Shared>) {
    for op in work {
        let done = match op {
            Op::Prepare { segment, size, header, spare: None } => {
                Done::Prepared { segment, result: maker.prepare(segment, size, &header) }
            }
            Op::Retire { segment, keep: false } => {
                Done::Retired { segment, result: maker.remove(segment) }
            }
            Op::Rewrite { segment, data } => {
                Done::Rewritten { segment, result: maker.rewrite(segment, &data) }
            }
            other => unreachable!("only space is made here, not {other:?}"),
        };
        let Some(shared) = shared.upgrade() else { return };
        shared.on_space(done);
    }
}
