//! An operator at work in the midst of trouble: voters are demoted and promoted again, removed and
//! replaced by a node with an empty disk, leadership is moved. One change after the other, each
//! asked for until it is so; between two of them every node votes.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use margay::client::admin::{Admin, admin};
use margay_log::id::GroupId;
use margay_log::rng::Rng;

use crate::faults::Faults;
use crate::hosts::{self, GROUPS, Hosts};
use crate::story::Story;

/// A change of one group is asked for this long at a time.
const ATTEMPT: Duration = Duration::from_secs(2);
/// Between two looks, or attempts.
const LOOK: Duration = Duration::from_millis(50);

/// The operator's side of the main thread.
pub(crate) struct Operator {
    shared: Arc<Shared>,
    /// A node that no group knows any more: its disk may go.
    removed: Receiver<usize>,
    /// It has a new one.
    replaced: Sender<()>,
    thread: JoinHandle<()>,
}

struct Shared {
    stop: AtomicBool,
    counts: Mutex<BTreeMap<&'static str, u64>>,
    /// Who is being replaced.
    replacing: Mutex<Option<usize>>,
    /// How long each replacement took, from the wish to remove the node to the vote of the new one.
    replacements: Mutex<Vec<Duration>>,
    /// What is being tried, and why it has not been done.
    trying: Mutex<String>,
}

struct Worker {
    endpoints: Vec<String>,
    rng: Rng,
    shared: Arc<Shared>,
    removed: Sender<usize>,
    replaced: Receiver<()>,
    story: Story,
}

impl Operator {
    /// Starts to change who belongs to the cluster of these nodes.
    pub(crate) fn start(endpoints: Vec<String>, seed: u64, story: Story) -> Operator {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            counts: Mutex::default(),
            replacing: Mutex::default(),
            replacements: Mutex::default(),
            trying: Mutex::default(),
        });
        let (removed, told) = channel();
        let (replaced, asked) = channel();
        let rng = Rng::new(seed ^ 0x6f70);
        let shared_too = shared.clone();
        let worker = Worker { endpoints, rng, shared: shared_too, removed, replaced: asked, story };
        let thread = thread::spawn(move || worker.run());
        Operator { shared, removed: told, replaced, thread }
    }

    /// The node that is being replaced: until the new one votes, the others must do without.
    pub(crate) fn replacing(&self) -> Option<usize> {
        *self.shared.replacing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a node that was removed an empty disk, with which it joins.
    pub(crate) fn attend(&self, hosts: &mut Hosts, faults: &mut Faults) -> io::Result<()> {
        if let Ok(node) = self.removed.try_recv() {
            faults.replace(hosts, node)?;
            // The operator waits for it, unless it has ended.
            let _ = self.replaced.send(());
        }
        Ok(())
    }

    /// Lets the change under way come to its end, in peace. Returns what was changed.
    pub(crate) fn finish(
        self,
        hosts: &mut Hosts,
        faults: &mut Faults,
        patience: Duration,
    ) -> io::Result<Changes> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let end = Instant::now() + patience;
        while !self.thread.is_finished() {
            self.attend(hosts, faults)?;
            hosts.check()?;
            if Instant::now() > end {
                let trying = self.shared.trying.lock().unwrap_or_else(PoisonError::into_inner);
                let text = format!("after {patience:?} of peace not done: {trying}");
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            thread::sleep(LOOK);
        }
        self.thread.join().map_err(|_| io::Error::other("the operator has panicked"))?;
        let counts = self.shared.counts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let shared = &self.shared.replacements;
        let replacements = shared.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(Changes { counts, replacements })
    }
}

/// Changes made, counted.
pub(crate) struct Changes {
    counts: BTreeMap<&'static str, u64>,
    replacements: Vec<Duration>,
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> =
            self.counts.iter().map(|(what, count)| format!("{count} × {what}")).collect();
        f.write_str(if parts.is_empty() { "none" } else { "" })?;
        f.write_str(&parts.join(", "))?;
        let Some(longest) = self.replacements.iter().max() else { return Ok(()) };
        let mean = self.replacements.iter().sum::<Duration>() / self.replacements.len() as u32;
        write!(f, "\nreplacing   {mean:.1?} on average, {longest:.1?} at most, faults going on")
    }
}

impl Worker {
    fn run(mut self) {
        while !self.stopping() {
            let name = hosts::name(self.rng.below(self.endpoints.len() as u64) as usize);
            match self.rng.below(4) {
                0 => self.transfer(&name),
                1 => {
                    self.until_done("demoted", &name, Admin::Demote { name: &name });
                    self.until_done("promoted", &name, Admin::Promote { name: &name });
                }
                2 if !self.replace(&name) => return,
                _ => {}
            }
            let pause = Instant::now() + Duration::from_millis(1_000 + self.rng.below(4_000));
            while !self.stopping() && Instant::now() < pause {
                thread::sleep(LOOK);
            }
        }
    }

    fn stopping(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed)
    }

    fn count(&self, what: &'static str) {
        let mut counts = self.shared.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(what).or_default() += 1;
    }

    /// Who should lead may be dead or cut off: nothing says that it can.
    fn transfer(&self, name: &str) {
        for group in (0..GROUPS).map(GroupId) {
            let transfer = Admin::Transfer { name };
            if admin(&self.endpoints, None, group, transfer, Instant::now() + ATTEMPT).is_ok() {
                self.count("leadership moved");
            }
        }
    }

    /// Removes a node and makes another of it. Returns false if nobody is there to do so.
    fn replace(&self, name: &str) -> bool {
        let Some(node) = (0..self.endpoints.len()).find(|&node| hosts::name(node) == name) else {
            return true;
        };
        let (shared, begun) = (self.shared.clone(), Instant::now());
        *shared.replacing.lock().unwrap_or_else(PoisonError::into_inner) = Some(node);
        self.until_done("removed", name, Admin::Remove { name });
        if self.removed.send(node).is_err() || self.replaced.recv().is_err() {
            return false;
        }
        self.until_done("promoted", name, Admin::Promote { name });
        *shared.replacing.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let mut replacements = shared.replacements.lock().unwrap_or_else(PoisonError::into_inner);
        replacements.push(begun.elapsed());
        true
    }

    fn until_done(&self, what: &'static str, name: &str, ask: Admin<'_>) {
        for group in (0..GROUPS).map(GroupId) {
            while let Err(error) =
                admin(&self.endpoints, None, group, ask, Instant::now() + ATTEMPT)
            {
                let text = format!("{name} {what} in group {group}: {error}");
                let mut trying = self.shared.trying.lock().unwrap_or_else(PoisonError::into_inner);
                if *trying != text {
                    self.story.note(&format!("operator: not yet: {text}"));
                    *trying = text;
                }
                thread::sleep(LOOK);
            }
        }
        self.story.note(&format!("operator: {name} {what}"));
        self.count(what);
    }
}
