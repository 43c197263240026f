//! One log, appended to and followed from two runtimes and from plain threads at the same time:
//! its futures belong to none of them.

use std::collections::BTreeMap;
use std::rc::Rc;

use glommio::{LocalExecutorBuilder, Placement};
use margay_log::Error;
use margay_log::commit_log::{CommitLog, CommitLogOptions, Driver};
use margay_log::id::Index;

use crate::conformance::TempDir;

const TASKS: u64 = 6;
const APPENDS: u64 = 60;
/// From tokio, glommio and threads.
const ALL: u64 = 3 * TASKS * APPENDS;

/// Who appends, and the number of the append.
fn entry(writer: u64, n: u64) -> Vec<u8> {
    [writer.to_le_bytes(), n.to_le_bytes()].concat().repeat(1 + (n % 40) as usize)
}

/// What each writer of a runtime does.
async fn append(log: CommitLog, writer: u64) -> Result<(), Error> {
    for n in 0..APPENDS {
        let appended = log.append(&entry(writer, n))?;
        let index = appended.index();
        match n % 3 {
            // Some are dropped: that takes nothing back.
            0 => drop(appended),
            _ => assert_eq!(appended.await?, index),
        }
        assert!(n % 3 == 0 || log.durable() >= index);
    }
    log.sync().await.map(|_| ())
}

/// Every entry of every writer, in its order, at the index where it says it is.
async fn follow(log: CommitLog) -> Result<(), Error> {
    let mut follower = log.follow(Index(1));
    let mut seen = BTreeMap::new();
    for n in 1..=ALL {
        let record = follower.next().await?;
        assert_eq!(record.index, Index(n));
        let writer = u64::from_le_bytes(record.payload[..8].try_into().expect("8 bytes"));
        let next: &mut u64 = seen.entry(writer).or_default();
        assert_eq!(record.payload, entry(writer, *next), "writer {writer}");
        *next += 1;
    }
    assert!(seen.len() as u64 == 3 * TASKS && seen.values().all(|&count| count == APPENDS));
    Ok(())
}

fn in_tokio(log: &CommitLog) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build();
    runtime.expect("a runtime").block_on(async {
        let following = tokio::spawn(follow(log.clone()));
        let tasks: Vec<_> =
            (0..TASKS).map(|task| tokio::spawn(append(log.clone(), 100 + task))).collect();
        for task in tasks {
            task.await.expect("no panic").expect("appends");
        }
        following.await.expect("no panic").expect("follows");
    });
}

fn in_glommio(log: CommitLog) {
    let executor = LocalExecutorBuilder::new(Placement::Unbound).spawn(move || async move {
        // A task that is not `Send` holds it just as well.
        let log = Rc::new(log);
        let following = glommio::spawn_local(follow(CommitLog::clone(&log)));
        let tasks: Vec<_> = (0..TASKS)
            .map(|task| {
                let log = Rc::clone(&log);
                glommio::spawn_local(
                    async move { append(CommitLog::clone(&log), 200 + task).await },
                )
            })
            .collect();
        for task in tasks {
            task.await.expect("appends");
        }
        following.await.expect("follows");
    });
    executor.expect("an executor").join().expect("no panic");
}

fn in_threads(log: &CommitLog) {
    std::thread::scope(|scope| {
        for task in 0..TASKS {
            scope.spawn(move || {
                for n in 0..APPENDS {
                    let appended = log.append(&entry(300 + task, n)).expect("room");
                    let index = appended.index();
                    assert_eq!(appended.wait(), Ok(index));
                }
            });
        }
        scope.spawn(|| {
            let mut follower = log.follow(Index(1));
            for n in 1..=ALL {
                assert_eq!(follower.wait_next().expect("comes").index, Index(n));
            }
        });
    });
}

fn from_everywhere(driver: Driver) {
    let dir = TempDir::new(&format!("runtimes-{driver:?}"));
    let options = CommitLogOptions {
        driver,
        segment_first: 64 << 10,
        segment_max: 512 << 10,
        cache_bytes: 64 << 10,
        ..CommitLogOptions::default()
    };
    let log = CommitLog::open(dir.path(), options).expect("opens").log;
    std::thread::scope(|scope| {
        scope.spawn(|| in_tokio(&log));
        scope.spawn(|| in_glommio(log.clone()));
        scope.spawn(|| in_threads(&log));
    });
    assert_eq!((log.last(), log.durable()), (Index(ALL), Index(ALL)));
}

#[test]
fn two_runtimes_and_threads_share_a_log_over_plain_calls() {
    from_everywhere(Driver::Direct);
}

#[cfg(feature = "uring")]
#[test]
fn two_runtimes_and_threads_share_a_log_over_a_ring() {
    from_everywhere(Driver::Uring);
}
