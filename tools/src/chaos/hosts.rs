//! Hosts: a network namespace, a small file system and a `margay serve` each, joined by a bridge.
//!
//! A link is cut one way by telling the sender a hardware address that nobody has: its packets
//! leave and reach no one, as on a broken wire. That needs nothing of the kernel but bridges.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use margay::client::{NodeStatus, status};

use crate::sys;

/// Where the clients are.
const CLIENTS_ADDRESS: &str = "10.91.0.254";
/// A hardware address that no host has.
const NOWHERE: &str = "02:00:00:00:00:66";
/// What a node's file system has: more than its logs take, which use their files again.
const DISK_MIB: u64 = 1_024;
/// Logs stay far smaller than the disk, and snapshots are frequent.
const SNAPSHOT_AFTER: &str = "4MiB";
/// Groups of the cluster.
pub(crate) const GROUPS: u32 = 2;
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(20);
/// A node that has answered nothing for this long is not going to.
const ANSWER: Duration = Duration::from_secs(2);
/// A process that has begun so lately may not watch for signals yet.
const YOUNG: Duration = Duration::from_secs(1);

/// Somebody with a place on the network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Party {
    /// A node.
    Node(usize),
    /// All clients.
    Clients,
}

/// All hosts. Dropping it kills the nodes; the rest ends with the namespaces.
pub(crate) struct Hosts {
    margay: PathBuf,
    dir: PathBuf,
    nodes: Vec<Host>,
}

struct Host {
    child: Option<Child>,
    /// When the last one began.
    began: Instant,
    /// SIGSTOP was sent.
    paused: bool,
    /// It founds nothing: it joins those that are there.
    joins: bool,
    cuts: Vec<Party>,
}

/// As the command line calls a node.
pub(crate) fn name(node: usize) -> String {
    format!("n{}", node + 1)
}

fn address(party: Party) -> String {
    match party {
        Party::Node(node) => format!("10.91.0.{}", node + 1),
        Party::Clients => CLIENTS_ADDRESS.to_string(),
    }
}

/// Runs a command that must succeed.
fn run<S: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = S>) -> io::Result<()> {
    let mut command = Command::new(program);
    let output = command.args(args).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let text = format!("{command:?} ended with {}: {}", output.status, said.trim());
    Err(io::Error::other(text))
}

fn words(program: &str, line: &str) -> io::Result<()> {
    run(program, line.split_whitespace())
}

impl Hosts {
    /// Makes the hosts, starts a node on each and waits until every group has a leader.
    pub(crate) fn start(
        margay: &Path,
        dir: &Path,
        nodes: usize,
        patience: Duration,
    ) -> io::Result<Hosts> {
        let links = Command::new("ip").args(["-oneline", "link", "show"]).output()?.stdout;
        if links.iter().filter(|byte| **byte == b'\n').count() != 1 {
            let text = "this network is in use; start it by scripts/chaos.sh, in one of its own";
            return Err(io::Error::other(text));
        }
        // Names of namespaces are files below /run: ours, not the machine's.
        words("mount", "-t tmpfs none /run")?;
        words("ip", "link set lo up")?;
        words("ip", "link add br0 type bridge")?;
        words("ip", &format!("addr add {CLIENTS_ADDRESS}/24 dev br0"))?;
        words("ip", "link set br0 up")?;
        let mut hosts = Hosts { margay: margay.into(), dir: dir.into(), nodes: Vec::new() };
        for node in 0..nodes {
            hosts.make(node)?;
        }
        for node in 0..nodes {
            hosts.spawn(node)?;
        }
        hosts.wait_for_all(patience)?;
        Ok(hosts)
    }

    fn make(&mut self, node: usize) -> io::Result<()> {
        let (name, address) = (name(node), address(Party::Node(node)));
        words("ip", &format!("netns add {name}"))?;
        words("ip", &format!("link add v-{name} type veth peer name eth0 netns {name}"))?;
        words("ip", &format!("link set v-{name} master br0 up"))?;
        words("ip", &format!("-n {name} addr add {address}/24 dev eth0"))?;
        words("ip", &format!("-n {name} link set eth0 up"))?;
        words("ip", &format!("-n {name} link set lo up"))?;
        let (image, mount) = (self.dir.join(format!("{name}.image")), self.mount(node));
        fs::create_dir_all(&mount)?;
        File::create(&image)?.set_len(DISK_MIB << 20)?;
        run("mkfs.ext4", [OsStr::new("-q"), image.as_os_str()])?;
        run("mount", [OsStr::new("-o"), OsStr::new("loop"), image.as_os_str(), mount.as_os_str()])?;
        let began = Instant::now();
        self.nodes.push(Host { child: None, began, paused: false, joins: false, cuts: Vec::new() });
        Ok(())
    }

    fn mount(&self, node: usize) -> PathBuf {
        self.dir.join(name(node))
    }

    fn data(&self, node: usize) -> PathBuf {
        self.mount(node).join("data")
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Where the nodes listen.
    pub(crate) fn endpoints(&self) -> Vec<String> {
        (0..self.len()).map(|node| format!("{}:5150", address(Party::Node(node)))).collect()
    }

    /// Starts a node with the data it left, if it does not run.
    pub(crate) fn spawn(&mut self, node: usize) -> io::Result<()> {
        if self.nodes[node].child.is_some() {
            return Ok(());
        }
        let endpoints = self.endpoints();
        let all = || endpoints.iter().enumerate();
        let others: Vec<String> = if self.nodes[node].joins {
            all().filter(|(n, _)| *n != node).map(|(_, at)| at.clone()).collect()
        } else {
            all().map(|(n, at)| format!("{}={at}", name(n))).collect()
        };
        let log = self.dir.join(name(node)).with_extension("log");
        let log = OpenOptions::new().create(true).append(true).open(log)?;
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &name(node)]).arg(&self.margay).arg("serve");
        command.args(["--name", &name(node), "--listen", &endpoints[node], "--unsafe-no-auth"]);
        let belongs = if self.nodes[node].joins { "--join" } else { "--peers" };
        command.args([belongs, &others.join(","), "--shards", "1"]);
        command.args(["--groups", &GROUPS.to_string()]);
        command.args(["--snapshot-after", SNAPSHOT_AFTER, "--data"]);
        command.arg(self.data(node));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        sys::die_with_parent(&mut command, libc::SIGKILL);
        self.nodes[node].began = Instant::now();
        self.nodes[node].child = Some(command.spawn()?);
        Ok(())
    }

    /// Whether a node's process is there, stopped or not.
    pub(crate) fn is_up(&self, node: usize) -> bool {
        self.nodes[node].child.is_some()
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, node: usize) -> io::Result<()> {
        self.nodes[node].paused = false;
        if let Some(mut child) = self.nodes[node].child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Kills a node and empties its disk: the next time it starts, it joins.
    pub(crate) fn wipe(&mut self, node: usize) -> io::Result<()> {
        self.kill(node)?;
        self.nodes[node].joins = true;
        fs::remove_dir_all(self.data(node))
    }

    /// SIGTERM, and waits for an orderly end. It ends a process that has just begun as it ends any.
    pub(crate) fn terminate(&mut self, node: usize, patience: Duration) -> io::Result<()> {
        self.resume(node);
        let Some(mut child) = self.nodes[node].child.take() else { return Ok(()) };
        let is_young = self.nodes[node].began.elapsed() < YOUNG;
        sys::signal(child.id(), libc::SIGTERM);
        let end = Instant::now() + patience;
        while Instant::now() < end {
            match child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) if is_young && status.signal() == Some(libc::SIGTERM) => return Ok(()),
                Some(status) => return Err(self.ended(node, &status.to_string())),
                None => thread::sleep(LOOK),
            }
        }
        child.kill()?;
        child.wait()?;
        Err(self.ended(node, "no answer to SIGTERM"))
    }

    /// Stops a process where it is.
    pub(crate) fn pause(&mut self, node: usize) {
        if let Some(child) = &self.nodes[node].child {
            sys::signal(child.id(), libc::SIGSTOP);
            self.nodes[node].paused = true;
        }
    }

    /// Lets it go on.
    pub(crate) fn resume(&mut self, node: usize) {
        if let Some(child) = self.nodes[node].child.as_ref().filter(|_| self.nodes[node].paused) {
            sys::signal(child.id(), libc::SIGCONT);
        }
        self.nodes[node].paused = false;
    }

    /// From now on nothing that `from` sends reaches `to`.
    pub(crate) fn cut(&mut self, from: Party, to: Party) -> io::Result<()> {
        let Party::Node(at) = from else { return self.deafen(to) };
        if !self.nodes[at].cuts.contains(&to) {
            let host = name(at);
            let line = format!(
                "-n {host} neigh replace {} lladdr {NOWHERE} dev eth0 nud permanent",
                address(to)
            );
            words("ip", &line)?;
            self.nodes[at].cuts.push(to);
        }
        Ok(())
    }

    /// What clients send reaches a node no more.
    fn deafen(&mut self, node: Party) -> io::Result<()> {
        let address = address(node);
        words("ip", &format!("neigh replace {address} lladdr {NOWHERE} dev br0 nud permanent"))
    }

    /// Mends every link.
    pub(crate) fn mend(&mut self) -> io::Result<()> {
        for node in 0..self.len() {
            for to in std::mem::take(&mut self.nodes[node].cuts) {
                let line = format!("-n {} neigh del {} dev eth0", name(node), address(to));
                words("ip", &line)?;
            }
        }
        words("ip", "neigh flush dev br0 nud permanent")
    }

    /// Takes all space there is on a node's disk.
    pub(crate) fn fill_disk(&mut self, node: usize) -> io::Result<()> {
        let balloon = self.mount(node).join("balloon");
        let (mut taken, mut piece) = (0, DISK_MIB << 20);
        while piece >= 4_096 {
            let options = ["--offset", &taken.to_string(), "--length", &piece.to_string()];
            let arguments = options.iter().map(OsStr::new).chain([balloon.as_os_str()]);
            match run("fallocate", arguments) {
                Ok(()) => taken += piece,
                Err(error) if error.to_string().contains("No space left") => piece /= 2,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Gives it back.
    pub(crate) fn free_disk(&mut self, node: usize) -> io::Result<()> {
        match fs::remove_file(self.mount(node).join("balloon")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// A node that ended by itself is a finding.
    pub(crate) fn check(&mut self) -> io::Result<()> {
        for node in 0..self.len() {
            let Some(child) = &mut self.nodes[node].child else { continue };
            if let Some(status) = child.try_wait()? {
                self.nodes[node].child = None;
                return Err(self.ended(node, &status.to_string()));
            }
        }
        Ok(())
    }

    /// What each node says.
    pub(crate) fn status(&self) -> Vec<NodeStatus> {
        status(&self.endpoints(), None, ANSWER)
    }

    /// Whether a node has come up.
    pub(crate) fn serves(&self, node: usize) -> bool {
        self.status().get(node).is_some_and(|status| status.groups.is_ok())
    }

    /// The node that leads group 0, by what most recently elected nodes say of themselves.
    pub(crate) fn leader(&self) -> Option<usize> {
        let nodes = self.status();
        let of = |node: &NodeStatus| node.groups.as_ref().ok()?.first().cloned();
        let views: Vec<_> = nodes.iter().map(of).collect();
        let term = views.iter().flatten().map(|view| view.term).max()?;
        views.iter().position(|view| {
            view.as_ref().is_some_and(|view| {
                view.term == term && view.leader.as_ref().is_some_and(|l| *l == view.node)
            })
        })
    }

    /// Waits until every node answers and every group has a leader.
    pub(crate) fn wait_for_all(&mut self, patience: Duration) -> io::Result<()> {
        let end = Instant::now() + patience;
        loop {
            self.check()?;
            let nodes = self.status();
            let led = |node: &NodeStatus| {
                let groups = node.groups.as_ref();
                groups.is_ok_and(|groups| groups.iter().all(|group| group.leader.is_some()))
            };
            if nodes.iter().all(led) {
                return Ok(());
            }
            if Instant::now() > end {
                let logs: Vec<String> = (0..self.len()).map(|node| self.log(node)).collect();
                let text = format!("no peace after {patience:?}:\n{}", logs.join("\n"));
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            thread::sleep(LOOK);
        }
    }

    /// Stops all nodes in order.
    pub(crate) fn stop(mut self, patience: Duration) -> io::Result<()> {
        (0..self.len()).try_for_each(|node| self.terminate(node, patience))
    }

    fn ended(&self, node: usize, how: &str) -> io::Error {
        io::Error::other(format!("{} ended: {how}\n{}", name(node), self.log(node)))
    }

    /// The last lines a node has logged.
    fn log(&self, node: usize) -> String {
        let read = || -> io::Result<String> {
            let mut file = File::open(self.dir.join(name(node)).with_extension("log"))?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(2_000)))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        read().unwrap_or_else(|error| format!("(no log: {error})"))
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for node in 0..self.len() {
            // It may have ended already.
            let _ = self.kill(node);
        }
    }
}
