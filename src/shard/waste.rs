//! Where large states are dropped: on a thread of their own.
//!
//! Freeing a frozen view of a million keys takes a quarter of a second, all of it pointer chasing.
//! Done on the shard it would be the longest turn there is; cut into slices it would need every
//! state machine's help. The replica's own tiers stay free of threads: they only hand over.
//!
//! That thread has no lower priority than others. It frees what a shard has allocated, so it holds
//! the locks of the shard's allocator again and again; one that is kept from running while it does
//! keeps the shard from running, too.

use std::any::Any;
use std::sync::mpsc::{Sender, channel};

/// The way to that thread. It ends when this is dropped and all that was handed over is freed.
pub(crate) struct Waste {
    sender: Sender<Box<dyn Any + Send>>,
}

impl Waste {
    pub(crate) fn new() -> std::io::Result<Waste> {
        let (sender, receiver) = channel::<Box<dyn Any + Send>>();
        std::thread::Builder::new().name("margay-waste".to_owned()).spawn(move || {
            receiver.into_iter().for_each(drop);
        })?;
        Ok(Waste { sender })
    }

    pub(crate) fn dispose(&self, remains: Box<dyn Any + Send>) {
        // Without the thread it is dropped here.
        drop(self.sender.send(remains));
    }
}
