//! Commands that reach nobody for a while.

use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::harness::{
    MARGAY, PATIENCE, Scratch, alone, beside_others, cluster, margay, plan, run, until,
};
use crate::nodes::Nodes;
use crate::sys;

/// Its task is its own for as long as the lease lasts, whoever answers meanwhile.
#[test]
fn a_worker_keeps_its_task_over_an_outage_that_is_shorter_than_the_lease() {
    let _alone = alone();
    let scratch = Scratch::new("worker");
    let nodes = Nodes::start(&plan(scratch.path(), 1), PATIENCE).expect("three nodes start");
    let endpoints = nodes.endpoints().join(",");
    let margay = |args: &[&str]| {
        let mut command = Command::new(MARGAY);
        command.args(args).env("MARGAY_ENDPOINTS", &endpoints);
        command
    };
    run(margay(&["queue", "offer", "jobs", "work"])).with(0);
    // It asks for more time after 5 s, in the outage, and does not wait for an answer until that is
    // over. Behind it is time for a machine that stands still, too, before the lease ends.
    let work = ["queue", "work", "jobs", "--lease", "15s", "--timeout", "2s", "--idle", "100ms"];
    let mut worker = margay(&[&work[..], &["-o", "json", "--", "sleep", "12"]].concat());
    let worker = worker.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("it starts");
    until("it to have the task", || {
        run(margay(&["queue", "status", "jobs", "-o", "json"])).json()["leased"] == 1
    });
    thread::sleep(Duration::from_secs(1));
    nodes.pids().iter().for_each(|pid| sys::signal(*pid, libc::SIGSTOP));
    thread::sleep(Duration::from_secs(7));
    nodes.pids().iter().for_each(|pid| sys::signal(*pid, libc::SIGCONT));
    let ended = worker.wait_with_output().expect("it ends");
    let line: serde_json::Value = serde_json::from_slice(&ended.stdout).expect("one line");
    assert_eq!((&line["outcome"], &line["deliveries"]), (&"done".into(), &1.into()), "{line}");
    nodes.stop(PATIENCE).expect("all stop in order");
    drop(scratch);
}

/// What is there for as long as a command runs is gone when its session has expired, though nobody
/// has ended the command: it does not go on as if it were there.
#[test]
fn a_command_that_kept_something_ends_with_its_session() {
    let _beside = beside_others();
    let put = ["map", "put", "worker-online", "n1", "here", "--ephemeral"];
    let mut command = Command::new(MARGAY);
    command.args(put).env("MARGAY_ENDPOINTS", cluster());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    sys::die_with_parent(&mut command, libc::SIGKILL);
    let mut keeper = command.spawn().expect("it starts");
    let is_there = || margay(&["map", "has", "worker-online", "n1"]).code == Some(0);
    until("it to be there", is_there);
    sys::signal(keeper.id(), libc::SIGSTOP);
    until("it to be gone", || !is_there());
    sys::signal(keeper.id(), libc::SIGCONT);
    until("the command to end", || keeper.try_wait().expect("ours").is_some());
    let ended = keeper.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("expired"), "{said}");
}
