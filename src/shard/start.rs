//! Starting the executors of a node, each with its ring, and waiting until all of them are ready.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement};
use margay_log::disk::driver::Driver;
use margay_log::id::{GroupId, Micros};

use super::disk::GroupDisk;
use super::greet::Door;
use super::net::Net;
use super::ring::{Ring, TAG_DRIVER};
use super::{Group, Node, Pace, Shard, Slot, Spin, sys};
use crate::config;
use crate::error::Error;

/// Makes the replica of a group, on the shard that will run it.
pub(crate) type Build = Box<dyn FnOnce(Micros) -> Result<Box<dyn Group>, Error> + Send>;

/// What a shard is started with.
pub(crate) struct Plan {
    pub(crate) index: usize,
    pub(crate) listener: OwnedFd,
    /// The CPU its thread is pinned to, if there are enough.
    pub(crate) cpu: Option<usize>,
    /// Look for work this long before sleeping; 0 never.
    pub(crate) spin: Micros,
    /// Its groups, rising, and the way to make each.
    pub(crate) groups: Vec<(GroupId, Driver, Build)>,
}

/// A running shard.
pub(crate) type Running = ExecutorJoinHandle<()>;

/// Starts all shards. Returns when each has built its ring and its replicas, or one could not.
pub(crate) fn start(node: &Arc<Node>, plans: Vec<Plan>) -> Result<Vec<Running>, Error> {
    let mut running = Vec::new();
    let mut result = Ok(());
    let (ready, answers) = channel();
    for plan in plans {
        let node = Arc::clone(node);
        let ready = ready.clone();
        let spawned = LocalExecutorBuilder::new(Placement::Unbound)
            .name("margay-shard")
            .io_memory(config::EXECUTOR_IO_MEMORY)
            .ring_depth(config::EXECUTOR_RING_DEPTH)
            .preempt_timer(Duration::from_micros(config::EXECUTOR_PREEMPT.0))
            .spawn(move || run(node, plan, ready));
        match spawned {
            Ok(handle) => running.push(handle),
            Err(e) => result = Err(Error::executor(&e)),
        }
    }
    drop(ready);
    for _ in 0..running.len() {
        // An executor that could not be made hangs up without a word.
        let answer = answers.recv().unwrap_or_else(|_| Err(Error::executor(&"it ended at once")));
        result = result.and(answer);
    }
    if let Err(error) = result {
        node.stop();
        join(running);
        return Err(error);
    }
    Ok(running)
}

/// Waits until all shards have ended.
pub(crate) fn join(running: Vec<Running>) {
    for handle in running {
        // A panic has aborted the process already; other errors were said when they happened.
        let _ = handle.join();
    }
}

async fn run(node: Arc<Node>, plan: Plan, ready: Sender<Result<(), Error>>) {
    let _guard = AbortOnPanic { shard: plan.index };
    if let Some(cpu) = plan.cpu
        && !core_affinity::set_for_current(core_affinity::CoreId { id: cpu })
    {
        tracing::warn!(shard = plan.index, cpu, "this thread could not be pinned to its cpu");
    }
    // Waiting behind another thread's whole slice is what makes turns long on a busy machine.
    if let Err(error) = sys::ask_for_slices(config::SHARD_SLICE) {
        tracing::debug!(shard = plan.index, "the scheduler takes no wishes: {error}");
    }
    // The first timer of a glommio executor takes tens of milliseconds; after it, sleeping is
    // quick.
    glommio::timer::sleep(Duration::from_millis(1)).await;

    match Shard::new(node, plan) {
        Ok(shard) => {
            let _ = ready.send(Ok(()));
            drop(ready);
            shard.run();
        }
        Err(error) => drop(ready.send(Err(error))),
    }
}

impl Shard {
    fn new(node: Arc<Node>, plan: Plan) -> Result<Shard, Error> {
        let index = plan.index;
        let ring = Ring::new().map_err(|e| Error::ring(index, &e))?;
        let now = sys::now();
        let net = Net::new(now);
        let mut groups = Vec::new();
        let mut touched = Vec::new();
        for (slot, (group, driver, build)) in plan.groups.into_iter().enumerate() {
            let slot = slot as u32;
            let replica = build(sys::now())?;
            let disk = GroupDisk::new(driver);
            groups.push(Slot { group, replica, disk, touched: true, deadline: None });
            touched.push(slot);
        }
        let mut shard = Shard {
            index,
            net,
            ring,
            groups,
            door: Door::new(plan.listener),
            closed_door: None,
            greeted: Vec::new(),
            shaking: VecDeque::new(),
            plain: Vec::new(),
            touched,
            completions: Vec::new(),
            frames: 0,
            spin: Spin::new(plan.spin),
            slept: None,
            pace: Pace::default(),
            node,
        };
        shard.open_door();
        Ok(shard)
    }
}

/// The tag of the driver of a shard's group in `slot`.
pub(crate) fn driver_tag(slot: usize) -> u16 {
    TAG_DRIVER + u16::try_from(slot).expect("a shard has at most GROUPS_MAX groups")
}

/// A dead shard must not look alive: its groups would neither serve nor be given up.
struct AbortOnPanic {
    shard: usize,
}

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("margay: shard {} has panicked (see above); the process stops", self.shard);
            std::process::abort();
        }
    }
}
