//! Signals to a command that runs while something is held: it hears of each of them once.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::harness::{MARGAY, Scratch, beside_others, cluster, margay, until};
use crate::sys;

/// Says that it runs, and each time how often it was interrupted; ends with 7 at the `last` time.
fn counts(last: u32) -> String {
    format!(
        "n=0; trap 'n=$((n + 1)); echo told $n; [ $n -lt {last} ] || exit 7' INT; \
         echo held; while :; do sleep 0.02; done"
    )
}

fn start(mut command: Command) -> (Child, BufReader<impl Read>) {
    command.env("MARGAY_ENDPOINTS", cluster()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("the command starts");
    let out = BufReader::new(child.stdout.take().expect("it is piped"));
    (child, out)
}

fn line(out: &mut impl BufRead) -> String {
    let mut line = String::new();
    out.read_line(&mut line).expect("it says something");
    line.trim_end().to_owned()
}

/// `kill -INT` reaches margay alone.
#[test]
fn an_interrupt_that_is_sent_to_the_holder_reaches_its_command() {
    let _beside = beside_others();
    let runs: [&[&str]; 5] = [
        &["lock", "run", "int-lock"],
        &["rwlock", "run", "int-rwlock", "--write"],
        &["semaphore", "run", "int-semaphore", "--permits", "1"],
        &["election", "run", "int-election"],
        &["group", "join", "int-group"],
    ];
    for args in runs {
        let mut command = Command::new(MARGAY);
        command.args(args).args(["--", "sh", "-c", &counts(2)]);
        let (mut child, mut out) = start(command);
        assert_eq!(line(&mut out), "held", "{args:?}");
        for told in ["told 1", "told 2"] {
            sys::signal(child.id(), libc::SIGINT);
            assert_eq!(line(&mut out), told, "{args:?}");
        }
        assert_eq!(child.wait().expect("it ends").code(), Some(7), "{args:?}");
    }
}

/// A terminal, which `script` makes, tells the command itself: it must not be told a second time.
/// The command is one that notices: a worker, which finishes its task where it is told once.
#[test]
fn an_interrupt_from_the_terminal_reaches_the_command_once() {
    let _beside = beside_others();
    let scratch = Scratch::new("terminal");
    let (begun, go) = (scratch.path().join("begun"), scratch.path().join("go"));
    margay(&["queue", "offer", "int-terminal-work", "task"]).with(0);
    let run = format!(
        "trap : INT; {MARGAY} lock run int-terminal -- {MARGAY} queue work int-terminal-work -- \
         sh -c 'touch {}; until [ -e {} ]; do sleep 0.01; done'; echo ended with $?.",
        begun.display(),
        go.display()
    );
    let mut command = Command::new("script");
    command.args(["-qc", &run, "/dev/null"]);
    let (mut terminal, mut out) = start(command);
    let mut keys = terminal.stdin.take().expect("it is piped");
    until("the task is worked on", || begun.exists());
    keys.write_all(b"\x03").expect("it reads");
    let told = line(&mut out);
    assert!(told.contains("is finished first"), "{told}");
    // Another one, if there was one, would be on its way.
    thread::sleep(Duration::from_millis(300));
    fs::write(&go, "").expect("it can be written");
    assert_eq!(line(&mut out), "ended with 0.");
    drop(keys);
    terminal.wait().expect("it ends");
}

/// `nohup` starts it so. Ended by a later signal, it says by which.
#[test]
fn a_hangup_that_is_ignored_stays_so() {
    let _beside = beside_others();
    let hold = ["lock", "run", "int-nohup", "--", "sh", "-c", "echo held; exec sleep 600"];
    let mut command = Command::new(MARGAY);
    command.args(hold);
    let (mut holder, mut out) = start(command);
    assert_eq!(line(&mut out), "held");
    let wait = format!("trap '' HUP; exec {MARGAY} lock run int-nohup -- true");
    let mut command = Command::new("sh");
    command.args(["-c", &wait]);
    let (mut waiter, _) = start(command);
    until("it waits", || {
        let status = margay(&["lock", "status", "int-nohup", "-o", "json"]);
        status.code == Some(0) && status.json()["waiting"] == 1
    });
    sys::signal(waiter.id(), libc::SIGHUP);
    sys::signal(waiter.id(), libc::SIGTERM);
    assert_eq!(waiter.wait().expect("it ends").code(), Some(128 + libc::SIGTERM));
    sys::signal(holder.id(), libc::SIGHUP);
    assert_eq!(holder.wait().expect("it ends").code(), Some(128 + libc::SIGHUP));
}
