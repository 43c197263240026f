//! Three nodes as child processes, for the demo and for the tests that kill them.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use margay::client::{NodeStatus, status};
use margay::tls::Tls;
use margay::wire::GroupStatus;

use crate::sys;

/// Nodes of the cluster.
pub(crate) const NODES: usize = 3;
/// Ports are taken from the kernel and given back before a node binds them: somebody else may be
/// faster, and then all is tried again with other ports.
const TRIES: usize = 5;
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(5);
/// A node that has answered nothing for this long is not going to.
const ANSWER: Duration = Duration::from_secs(2);

/// How the nodes are started.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The margay executable.
    pub(crate) executable: PathBuf,
    /// Where each node gets a directory and a file for its log lines.
    pub(crate) dir: PathBuf,
    /// Raft groups.
    pub(crate) groups: u32,
    /// Executors per node.
    pub(crate) shards: u32,
    /// Who the nodes are, if their connections are encrypted.
    pub(crate) tls: Option<Identities>,
    /// More options of `serve`.
    pub(crate) more: Vec<String>,
    /// The processes there are, for whoever must end them without asking.
    pub(crate) live: Live,
}

/// Folders for `--tls`.
#[derive(Clone, Debug)]
pub(crate) struct Identities {
    /// Where each node's is, under its name.
    pub(crate) dir: PathBuf,
    /// Of whoever asks the nodes how they are.
    pub(crate) own: Tls,
}

/// Numbers of processes that have not been waited for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Live(Arc<Mutex<BTreeSet<u32>>>);

impl Live {
    /// SIGKILL to all.
    pub(crate) fn kill(&self) {
        self.set().iter().for_each(|pid| sys::signal(*pid, libc::SIGKILL));
    }

    fn set(&self) -> MutexGuard<'_, BTreeSet<u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running cluster. Dropping it kills all nodes.
#[derive(Debug)]
pub(crate) struct Nodes {
    plan: Plan,
    addresses: Vec<String>,
    children: Vec<Option<Child>>,
}

/// As the command line and status call a node.
pub(crate) fn name(node: usize) -> String {
    format!("n{}", node + 1)
}

impl Nodes {
    /// Starts all and waits until every group has a leader.
    pub(crate) fn start(plan: &Plan, patience: Duration) -> io::Result<Nodes> {
        let mut tried = 0;
        loop {
            tried += 1;
            let mut nodes = Nodes {
                plan: plan.clone(),
                addresses: free_addresses()?,
                children: (0..NODES).map(|_| None).collect(),
            };
            for node in 0..NODES {
                nodes.spawn(node)?;
            }
            match nodes.wait_for_leaders(patience) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && tried < TRIES => {
                    drop(nodes);
                    (0..NODES).try_for_each(|node| remove(&plan.dir.join(name(node))))?;
                }
                Err(error) => return Err(error),
                Ok(()) => return Ok(nodes),
            }
        }
    }

    /// Where the nodes listen.
    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.addresses.clone()
    }

    /// Numbers of the processes.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.children.iter().flatten().map(Child::id).collect()
    }

    /// SIGKILL. Returns once the process is no more; the time is that of the signal.
    pub(crate) fn kill(&mut self, node: usize) -> io::Result<Instant> {
        let killed = Instant::now();
        if let Some(child) = &mut self.children[node] {
            child.kill()?;
            child.wait()?;
        }
        self.forget(node);
        Ok(killed)
    }

    /// Starts a node that was killed, with the data it left. Returns once it answers.
    pub(crate) fn restart(&mut self, node: usize, patience: Duration) -> io::Result<()> {
        let end = Instant::now() + patience;
        loop {
            self.spawn(node)?;
            match self.wait_for_answer(node, end) {
                // While a node is down its port may serve somebody else's outgoing connection for
                // a moment.
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < end => {
                    thread::sleep(LOOK);
                }
                other => return other,
            }
        }
    }

    /// Asks all nodes to stop and waits for them.
    pub(crate) fn stop(mut self, patience: Duration) -> io::Result<()> {
        self.pids().into_iter().for_each(|pid| sys::signal(pid, libc::SIGTERM));
        let end = Instant::now() + patience;
        while self.children.iter().any(Option::is_some) {
            for node in 0..NODES {
                match self.children[node].as_mut().map(Child::try_wait).transpose()?.flatten() {
                    Some(status) if status.success() => self.children[node] = None,
                    Some(status) => {
                        self.children[node] = None;
                        let text =
                            format!("{} ended with {status}: {}", name(node), self.log(node));
                        return Err(io::Error::other(text));
                    }
                    None => {}
                }
            }
            if Instant::now() > end {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "a node did not stop"));
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }

    /// What each node says.
    pub(crate) fn status(&self) -> Vec<NodeStatus> {
        status(&self.addresses, self.tls(), ANSWER)
    }

    /// The node that leads `group`, by its own word in the highest term any node knows.
    pub(crate) fn leader(&self, group: u32) -> Option<usize> {
        let nodes = self.status();
        let views = |node: &NodeStatus| -> Option<GroupStatus> {
            let groups = node.groups.as_ref().ok()?;
            groups.iter().find(|status| status.group.0 == group).cloned()
        };
        let views: Vec<Option<GroupStatus>> = nodes.iter().map(views).collect();
        let term = views.iter().flatten().map(|view| view.term).max()?;
        let leads = |view: &GroupStatus| {
            view.term == term && view.leader.as_ref().is_some_and(|leader| *leader == view.node)
        };
        views.iter().position(|view| view.as_ref().is_some_and(leads))
    }

    /// Everything a node has logged, in all its lives.
    pub(crate) fn said(&self, node: usize) -> String {
        let log = self.plan.dir.join(name(node)).with_extension("log");
        String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned()
    }

    /// The last lines a node has logged.
    pub(crate) fn log(&self, node: usize) -> String {
        let read = || -> io::Result<String> {
            let mut file = File::open(self.plan.dir.join(name(node)).with_extension("log"))?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(2_000)))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        read().unwrap_or_else(|error| format!("(no log: {error})"))
    }

    /// What a node has warned of that has to do with its directory.
    pub(crate) fn warnings(&self, node: usize) -> Vec<String> {
        let (dir, log) = (self.plan.dir.join(name(node)), self.said(node));
        let dir = dir.display().to_string();
        let warned = log.lines().filter_map(|line| Some(line.split_once(" WARN ")?.1));
        warned.filter(|text| text.contains(&dir)).map(str::to_string).collect()
    }

    fn tls(&self) -> Option<&Tls> {
        self.plan.tls.as_ref().map(|identities| &identities.own)
    }

    fn spawn(&mut self, node: usize) -> io::Result<()> {
        let peer = |(n, address): (usize, &String)| format!("{}={address}", name(n));
        let peers: Vec<String> = self.addresses.iter().enumerate().map(peer).collect();
        fs::create_dir_all(&self.plan.dir)?;
        let log = self.plan.dir.join(name(node)).with_extension("log");
        let log = OpenOptions::new().create(true).append(true).open(log)?;
        let mut command = Command::new(&self.plan.executable);
        command.arg("serve").args(["--name", &name(node), "--listen", &self.addresses[node]]);
        command
            .args(["--peers", &peers.join(",")])
            .arg("--data")
            .arg(self.plan.dir.join(name(node)));
        command.args(["--groups", &self.plan.groups.to_string()]);
        command.args(["--shards", &self.plan.shards.to_string()]);
        if let Some(identities) = &self.plan.tls {
            command.arg("--tls").arg(identities.dir.join(name(node)));
        }
        command.args(&self.plan.more);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // Ctrl-C is for whoever started the cluster, who then stops it in order.
        command.process_group(0);
        sys::die_with_parent(&mut command, libc::SIGKILL);
        let child = command.spawn()?;
        self.plan.live.set().insert(child.id());
        self.children[node] = Some(child);
        Ok(())
    }

    /// How a node's process ended, when it has.
    pub(crate) fn ended(&mut self, node: usize) -> io::Result<Option<ExitStatus>> {
        let Some(child) = &mut self.children[node] else { return Ok(None) };
        let status = child.try_wait()?;
        if status.is_some() {
            self.forget(node);
        }
        Ok(status)
    }

    fn forget(&mut self, node: usize) {
        if let Some(child) = self.children[node].take() {
            self.plan.live.set().remove(&child.id());
        }
    }

    /// Whether a node has ended by itself, as an error that says why.
    fn check(&mut self, node: usize) -> io::Result<()> {
        let Some(status) = self.ended(node)? else { return Ok(()) };
        let log = self.log(node);
        let taken = log.contains("cannot listen on");
        let kind = if taken { io::ErrorKind::AddrInUse } else { io::ErrorKind::Other };
        Err(io::Error::new(kind, format!("{} ended with {status}: {log}", name(node))))
    }

    fn wait_for_leaders(&mut self, patience: Duration) -> io::Result<()> {
        let end = Instant::now() + patience;
        while !(0..self.plan.groups).all(|group| self.leader(group).is_some()) {
            (0..NODES).try_for_each(|node| self.check(node))?;
            if Instant::now() > end {
                let logs: Vec<String> = (0..NODES).map(|node| self.log(node)).collect();
                let text = format!("no leader after {patience:?}:\n{}", logs.join("\n"));
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }

    fn wait_for_answer(&mut self, node: usize, end: Instant) -> io::Result<()> {
        let address = vec![self.addresses[node].clone()];
        while status(&address, self.tls(), ANSWER)[0].groups.is_err() {
            self.check(node)?;
            if Instant::now() > end {
                let text = format!("{} does not answer: {}", name(node), self.log(node));
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for node in 0..NODES {
            // Gone already, or not ours any more: either way there is nothing left to do.
            let _ = self.kill(node);
        }
    }
}

fn free_addresses() -> io::Result<Vec<String>> {
    // All are held at the same time, so that they differ.
    let listeners = (0..NODES).map(|_| TcpListener::bind("127.0.0.1:0"));
    let listeners = listeners.collect::<io::Result<Vec<TcpListener>>>()?;
    listeners.iter().map(|listener| Ok(listener.local_addr()?.to_string())).collect()
}

fn remove(dir: &std::path::Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
