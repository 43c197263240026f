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

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::mpsc::channel;
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::commit_log::{CommitLog, CommitLogOptions, Compaction, Driver};
    use crate::id::Index;

    /// A segment's file is another one already, and the log has not been told: whoever opens it
    /// then finds other bytes there than are listed, waits until they are, and reads those.
    #[test]
    fn a_reader_waits_where_a_file_is_another_than_the_log_knows() {
        let path = std::env::temp_dir().join(format!("margay-space-{}", std::process::id()));
        let options = CommitLogOptions {
            driver: Driver::Direct,
            segment_first: 64 << 10,
            segment_max: 64 << 10,
            cache_bytes: 0,
            ..CommitLogOptions::default()
        };
        let log = CommitLog::open(&path, options).expect("a fresh directory").log;
        for _ in 0..20 {
            log.append(&[7; 5_000]).expect("room").wait().expect("durable");
        }
        let (exchanged, is_exchanged) = channel();
        let (go_on, goes_on) = channel();
        let shared = Arc::clone(&log.handle.shared);
        let maker = Maker::new(path.clone(), Arc::new(File::open(&path).expect("ours")), 0);
        let (sender, work) = channel();
        let held_up = move || {
            for op in work {
                let done = match op {
                    Op::Rewrite { segment, data } => {
                        let result = maker.rewrite(segment, &data);
                        // As if many others had been read since.
                        shared.files.forget(segment);
                        exchanged.send(()).expect("waited for");
                        goes_on.recv().expect("it goes on");
                        Done::Rewritten { segment, result }
                    }
                    Op::Prepare { segment, size, header, .. } => {
                        Done::Prepared { segment, result: maker.prepare(segment, size, &header) }
                    }
                    other => unreachable!("nothing is removed, as {other:?} would"),
                };
                shared.on_space(done);
            }
        };
        let held_up = Spacer { work: Some(sender), thread: Some(thread::spawn(held_up)) };
        let before = std::mem::replace(&mut log.handle.shared.state().spacer, held_up);
        before.stop();
        (1..=7).filter(|n| n % 2 == 0).for_each(|n| log.clean(Index(n)).expect("held"));
        let found = thread::scope(|scope| {
            let log = &log;
            let compaction = Compaction { dead_percent: 1, ..Compaction::default() };
            scope.spawn(move || log.compact(compaction, |_| false));
            is_exchanged.recv_timeout(Duration::from_secs(60)).expect("it is rewritten");
            let reading = scope.spawn(move || {
                let mut reader = log.read(..Index(10));
                let mut next = || reader.read_next().map(|read| read.map(|it| it.index.0));
                std::iter::from_fn(|| next().transpose()).collect()
            });
            thread::sleep(Duration::from_millis(100));
            go_on.send(()).expect("it is waited for");
            reading.join().expect("no panic")
        });
        let found: Result<Vec<u64>, Error> = found;
        assert_eq!(found, Ok(vec![1, 3, 5, 7, 8, 9]));
        drop(log);
        std::fs::remove_dir_all(&path).expect("it is ours");
    }
}
