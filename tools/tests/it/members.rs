//! Changing who belongs to a cluster of real processes, while clients write: nothing acknowledged
//! is lost.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::harness::{Ended, MARGAY, PATIENCE, Scratch, alone, plan, run, until, until_or};
use crate::ids::Writers;
use crate::nodes::{Nodes, name};
use crate::sys;

/// Ids acknowledged between two events, at least.
const PROGRESS: u64 = 100;

/// A node that did not found the cluster.
struct Joined {
    name: &'static str,
    address: String,
    dir: PathBuf,
    child: Option<Child>,
}

impl Joined {
    fn new(dir: &Path, name: &'static str) -> Joined {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = free.expect("a free port").to_string();
        Joined { name, address, dir: dir.join(format!("{name}-joined")), child: None }
    }

    /// Starts it; `join` is needed the first time only.
    fn start(&mut self, join: &[String]) {
        let log = File::options().create(true).append(true).open(self.log_file());
        let log = log.expect("a log file");
        let mut command = Command::new(MARGAY);
        command.args(["serve", "--name", self.name, "--listen", &self.address, "--shards", "1"]);
        command.arg("--data").arg(&self.dir);
        if !join.is_empty() {
            command.args(["--join", &join.join(",")]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        sys::die_with_parent(&mut command, libc::SIGKILL);
        self.child = Some(command.spawn().expect("it starts"));
    }

    fn log_file(&self) -> PathBuf {
        self.dir.with_extension("log")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("can be killed");
            child.wait().expect("is no more");
        }
    }

    fn ends(&mut self) -> Option<i32> {
        let mut child = self.child.take()?;
        child.wait().expect("it was ours").code()
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        self.kill();
    }
}

fn margay(endpoints: &[String], args: &[&str]) -> Ended {
    let mut command = Command::new(MARGAY);
    command.args(args).env("MARGAY_ENDPOINTS", endpoints.join(","));
    run(command)
}

/// The names in a list of the status, if it is the same in both groups.
fn list(endpoints: &[String], list: &str) -> Option<Vec<String>> {
    let status = margay(endpoints, &["cluster", "status", "-o", "json"]).json();
    let groups = status.as_array()?;
    let names = |group: &serde_json::Value| -> Option<Vec<String>> {
        group[list].as_array()?.iter().map(|name| name.as_str().map(str::to_string)).collect()
    };
    let first = names(groups.first()?)?;
    groups.iter().all(|group| names(group).as_ref() == Some(&first)).then_some(first)
}

/// Writes go on in all groups; `endpoints` are asked how it stands if not.
fn progress(endpoints: &[String], writers: &[Writers], when: &str) {
    for writers in writers {
        let goal = writers.acknowledged() + PROGRESS;
        until_or(
            &format!("progress {when}"),
            || writers.acknowledged() >= goal,
            || format!("{:?}", margay(endpoints, &["cluster", "status"])),
        );
    }
}

#[test]
fn members_come_and_go_under_load() {
    let _alone = alone();
    let scratch = Scratch::new("members");
    let mut nodes = Nodes::start(&plan(scratch.path(), 2), PATIENCE).expect("three nodes start");
    let founders = nodes.endpoints();
    let mut fourth = Joined::new(scratch.path(), "n4");
    let mut all = founders.clone();
    all.push(fourth.address.clone());
    let writers: Vec<Writers> = (0..2)
        .map(|group| Writers::start(&all, &format!("m{group}"), group).expect("writers connect"))
        .collect();
    progress(&all, &writers, "before anything changes");

    // A node joins: a learner of every group. Promoted, it votes.
    fourth.start(&founders[..2]);
    until("n4 to be a learner", || list(&all, "learners") == Some(vec!["n4".to_string()]));
    let promote = || margay(&all, &["cluster", "promote", "n4"]).with(0);
    let promoted = promote();
    assert_eq!(promoted.out, "n4 votes in 2 of 2 groups\n", "{}", fourth.log());
    assert_eq!(promote().out, "n4 votes in 2 of 2 groups, as before\n");
    progress(&all, &writers, "with four voters");

    // A founder leaves, whoever leads; what is left of it cannot disturb.
    let remove = || margay(&all, &["cluster", "remove", "n1"]).with(0).out;
    assert_eq!(remove(), "n1 is no member in 2 of 2 groups\n");
    assert_eq!(remove(), "n1 is no member in 2 of 2 groups, as before\n");
    let expected: Vec<String> = ["n2", "n3", "n4"].map(str::to_string).to_vec();
    until("n1 to be gone", || list(&all[1..], "voters") == Some(expected.clone()));
    progress(&all, &writers, "with the removed node still running");
    nodes.kill(0).expect("can be killed");

    // A restarted member needs no --join.
    fourth.kill();
    progress(&all, &writers, "without n4");
    fourth.start(&[]);
    until("n4 to be back", || margay(&all[3..], &["cluster", "status"]).code == Some(0));

    replaces_a_wiped_node(&scratch, &mut nodes, &all, &writers);

    for writers in writers {
        let verdict = writers.finish(&all[1..]).unwrap_or_else(|error| {
            let logs: Vec<String> = (0..3).map(|node| nodes.log(node)).collect();
            panic!("{error}\n{}\n{}", logs.join("\n"), fourth.log());
        });
        assert!(verdict.acknowledged > 4 * PROGRESS, "{verdict:?}");
    }
}

/// The third node has lost its disk: refused as who it was, it comes back as another, at the same
/// address. There it may look for who it was, and finds itself; that is no reason for noise.
fn replaces_a_wiped_node(
    scratch: &Scratch,
    nodes: &mut Nodes,
    all: &[String],
    writers: &[Writers],
) {
    nodes.kill(2).expect("can be killed");
    fs::remove_dir_all(scratch.path().join(name(2))).expect("is removed");
    let error = nodes.restart(2, PATIENCE).expect_err("it must not come back so");
    assert!(error.to_string().contains("known with another disk"), "{error}");
    progress(all, writers, "with two of three");

    let mut successor = Joined::new(scratch.path(), "n3");
    successor.address.clone_from(&all[2]);
    successor.start(&all[1..2]);
    assert_eq!(successor.ends(), Some(1), "{}", successor.log());
    assert!(successor.log().contains("known with another disk"), "{}", successor.log());

    // The two that are left could not do without each other.
    let unsafe_one = margay(all, &["cluster", "remove", "n4", "--wait", "8s"]);
    assert_eq!(
        unsafe_one.code,
        Some(1),
        "{unsafe_one:?}\n{}\n{}",
        nodes.log(1),
        margay(all, &["cluster", "status"]).out
    );
    assert!(unsafe_one.err.contains("cannot be reached"), "{unsafe_one:?}");

    margay(all, &["cluster", "remove", "n3"]).with(0);
    successor.start(&all[1..2]);
    let everybody = all.to_vec();
    until("n3 to be a learner", || list(&everybody, "learners") == Some(vec!["n3".to_string()]));
    margay(&everybody, &["cluster", "promote", "n3"]).with(0);
    progress(all, writers, "with the successor");
    let log = successor.log();
    assert!(!log.contains("hello refused"), "{log}");
    assert!(log.matches("it had this node's address before").count() <= 1, "{log}");

    // It is as good as any: the group lives by it and n4.
    nodes.kill(1).expect("can be killed");
    let patient = Duration::from_millis(10);
    std::thread::sleep(patient);
    progress(all, writers, "by the successor and n4");
    nodes.restart(1, PATIENCE).expect("n2 comes back");
    successor.kill();
    progress(all, writers, "without the successor");
}

/// One of the addresses given is that of a node that hangs: it takes connections and says nothing.
#[test]
fn a_node_that_hangs_keeps_nobody_from_the_others() {
    let _alone = alone();
    let scratch = Scratch::new("hangs");
    let nodes = Nodes::start(&plan(scratch.path(), 2), PATIENCE).expect("three nodes start");
    let hangs = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let hangs = hangs.local_addr().map(|at| (at.to_string(), hangs)).expect("it has one");
    let mut given = vec![hangs.0.clone()];
    given.extend(nodes.endpoints());
    for verb in ["demote", "promote"] {
        margay(&given, &["cluster", verb, "n3", "--wait", "20s"]).with(0);
    }
    let mut fourth = Joined::new(scratch.path(), "n4");
    fourth.start(&given[..2]);
    until("n4 to be a learner", || {
        list(&nodes.endpoints(), "learners") == Some(vec!["n4".to_string()])
    });
    margay(&given, &["cluster", "remove", "n4", "--wait", "20s"]).with(0);
}
