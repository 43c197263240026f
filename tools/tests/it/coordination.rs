//! The commands of what is granted in turn and handed out, against a real cluster.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use crate::harness::{Scratch, beside_others, for_cluster, margay, until};

fn start(args: &[&str]) -> std::process::Child {
    let mut command = for_cluster(args);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("the command starts")
}

fn json(args: &[&str]) -> serde_json::Value {
    margay(&[args, &["-o", "json"]].concat()).with(0).json()
}

#[test]
fn a_semaphore_lets_so_many_run_at_a_time() {
    let _beside = beside_others();
    margay(&["semaphore", "status", "cli-pool"]).with(1);
    let run = ["semaphore", "run", "cli-pool", "--permits", "2", "--wait", "0s", "--"];
    let mut holders: Vec<_> =
        (0..2).map(|_| start(&[&run[..4], &["2", "--", "sleep", "600"]].concat())).collect();
    until("both hold a permit", || {
        let status = margay(&["semaphore", "status", "cli-pool", "-o", "json"]);
        status.code == Some(0) && status.json()["available"] == 0
    });
    margay(&[&run[..], &["true"]].concat()).with(1);
    assert_eq!(json(&["semaphore", "resize", "cli-pool", "3"])["before"], 2);
    let token = margay(&[&run[..], &["sh", "-c", "echo $MARGAY_FENCE_TOKEN"]].concat()).with(0);
    assert!(token.out.trim().parse::<u64>().is_ok(), "{token:?}");
    margay(&["semaphore", "run", "cli-pool", "--take", "9", "--", "true"]).with(2);
    for holder in &mut holders {
        holder.kill().expect("it runs");
        holder.wait().expect("it ends");
    }
}

#[test]
fn a_read_write_lock_has_readers_or_a_writer() {
    let _beside = beside_others();
    let mut reader = start(&["rwlock", "run", "cli-rw", "--", "sleep", "600"]);
    until("it is read", || {
        let status = margay(&["rwlock", "status", "cli-rw", "-o", "json"]);
        status.code == Some(0) && status.json()["readers"] == 1
    });
    margay(&["rwlock", "run", "cli-rw", "--wait", "0s", "--", "true"]).with(0);
    margay(&["rwlock", "run", "cli-rw", "--write", "--wait", "10ms", "--", "true"]).with(1);
    assert!(json(&["rwlock", "status", "cli-rw"])["writer"].is_null());
    reader.kill().expect("it runs");
    reader.wait().expect("it ends");
    margay(&["lock", "status", "cli-rw"]).with(2);
}

#[test]
fn parties_meet_at_a_barrier_and_a_latch() {
    let _beside = beside_others();
    margay(&["barrier", "status", "cli-barrier"]).with(1);
    let first = start(&["barrier", "wait", "cli-barrier", "--parties", "2"]);
    until("one waits", || {
        let status = margay(&["barrier", "status", "cli-barrier", "-o", "json"]);
        status.code == Some(0) && status.json()["waiting"] == 1
    });
    let round = margay(&["barrier", "wait", "cli-barrier"]).with(0).out;
    let other = first.wait_with_output().expect("it ends");
    assert_eq!(String::from_utf8_lossy(&other.stdout), round, "the same round");
    margay(&["barrier", "wait", "cli-barrier", "--wait", "10ms"]).with(1);
    margay(&["barrier", "reset", "cli-barrier"]).with(0);

    margay(&["latch", "wait", "cli-latch", "--count", "2", "--wait", "0s"]).with(1);
    assert_eq!(margay(&["latch", "count-down", "cli-latch"]).with(0).out, "1\n");
    assert_eq!(json(&["latch", "status", "cli-latch"])["left"], 1);
    margay(&["latch", "count-down", "cli-latch"]).with(0);
    margay(&["latch", "wait", "cli-latch"]).with(0);
}

#[test]
fn an_election_has_one_leader_and_the_next_one_follows() {
    let _beside = beside_others();
    margay(&["election", "leader", "cli-boss"]).with(1);
    let run = |data| start(&["election", "run", "cli-boss", "--data", data, "--", "sleep", "600"]);
    let leads = |data: &str| {
        let leader = margay(&["election", "leader", "cli-boss", "-o", "json"]);
        leader.code == Some(0) && leader.json()["data"] == data
    };
    let mut first = run("one");
    until("one leads", || leads("one"));
    let mut second = run("two");
    until("two waits", || json(&["election", "leader", "cli-boss"])["waiting"] == 1);
    let waiting = &json(&["election", "candidates", "cli-boss"])[0];
    let candidate = waiting["candidate"].to_string();
    margay(&["election", "promote", "cli-boss", &candidate]).with(0);
    let term = json(&["election", "leader", "cli-boss"])["term"].as_u64();
    margay(&["election", "anoint", "cli-boss", &candidate]).with(0);
    until("two leads", || leads("two"));
    assert!(json(&["election", "leader", "cli-boss"])["term"].as_u64() > term);
    // It was told that it does not lead any more, and its command with it.
    assert_ne!(first.wait().expect("it ends").code(), Some(0));
    margay(&["election", "evict", "cli-boss", &candidate]).with(0);
    assert_ne!(second.wait().expect("it ends").code(), Some(0));
    margay(&["election", "evict", "cli-boss", "1"]).with(1);
    margay(&["election", "leader", "cli-boss"]).with(1);
}

#[test]
fn a_queue_of_values_and_a_worker() {
    let _beside = beside_others();
    margay(&["queue", "poll", "cli-queue"]).with(1);
    for value in ["a", "b", "c"] {
        margay(&["queue", "offer", "cli-queue", value]).with(0);
    }
    assert_eq!(margay(&["queue", "peek", "cli-queue"]).with(0).out, "a\n");
    assert_eq!(margay(&["queue", "poll", "cli-queue"]).with(0).out, "a\n");
    assert_eq!(json(&["queue", "status", "cli-queue"])["ready"], 2);
    let task = json(&["queue", "offer", "cli-queue", "d"])["task"].to_string();
    margay(&["queue", "contains", "cli-queue", &task]).with(0);
    margay(&["queue", "remove", "cli-queue", &task]).with(0);
    margay(&["queue", "remove", "cli-queue", &task]).with(1);
    let work = ["queue", "work", "cli-queue", "--idle", "10ms", "--", "sh", "-c", "cat; echo"];
    assert_eq!(margay(&work).with(0).out, "b\nc\n");
    margay(&["queue", "offer", "cli-queue", "e"]).with(0);
    assert_eq!(margay(&["queue", "clear", "cli-queue"]).with(0).out, "1\n");
}

#[test]
fn a_worker_that_fails_gives_its_task_back_until_it_is_dead() {
    let _beside = beside_others();
    let offered = json(&["queue", "offer", "cli-poison", "bad", "--deliveries", "2"]);
    let task = offered["task"].to_string();
    let work = [
        "queue",
        "work",
        "cli-poison",
        "--idle",
        "300ms",
        "--retry-after",
        "1ms",
        "-o",
        "json",
        "--",
        "sh",
        "-c",
        "exit 7",
    ];
    let out = margay(&work).with(0).out;
    let lines: Vec<serde_json::Value> =
        out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let ends: Vec<_> = lines.iter().map(|line| (&line["deliveries"], &line["exit"])).collect();
    assert_eq!(ends, [(&1.into(), &7.into()), (&2.into(), &7.into())]);
    let dead = &json(&["queue", "dead", "cli-poison"])[0];
    assert_eq!((dead["value"].as_str(), dead["deliveries"].as_u64()), (Some("bad"), Some(2)));
    margay(&["queue", "revive", "cli-poison", &task]).with(0);
    margay(&["queue", "revive", "cli-poison", &task]).with(1);
    let work = ["queue", "work", "cli-poison", "--idle", "10ms", "--", "cat"];
    assert_eq!(margay(&work).with(0).out, "bad");
}

/// A worker in a process group of its own, as a shell starts it: a signal to the group is what
/// Ctrl-C is.
struct Worker {
    child: std::process::Child,
    said: BufReader<std::process::ChildStderr>,
}

impl Worker {
    /// Runs until the command that it is given has made the file `begun`.
    fn start(args: &[&str], begun: &Path) -> Worker {
        let mut command = for_cluster(args);
        command.process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the command starts");
        let said = BufReader::new(child.stderr.take().expect("it is piped"));
        until("the command runs", || begun.exists());
        Worker { child, said }
    }

    /// Interrupts, and waits until the worker has taken notice: two that come at once are one.
    fn interrupt(&self) {
        let group = format!("-{}", self.child.id());
        let sent = Command::new("kill").args(["-INT", "--", &group]).status();
        assert!(sent.expect("kill is there").success());
        until("the worker to take notice", || !self.is_interrupted());
    }

    /// Whether an interruption waits to be noticed.
    fn is_interrupted(&self) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("it is not waited for yet");
        let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:"));
        let pending = pending.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
        pending.expect("a set of signals") & (1 << (libc::SIGINT - 1)) != 0
    }

    /// Interrupts, and waits until it says what it finishes first.
    fn interrupt_once(&mut self, what: &str) {
        self.interrupt();
        let mut line = String::new();
        self.said.read_line(&mut line).expect("it says something");
        assert!(line.starts_with(what) && line.contains("is finished first"), "{line}");
    }

    fn ended(mut self) -> Option<i32> {
        self.child.wait().expect("it ends").code()
    }
}

#[test]
fn a_worker_that_is_interrupted_finishes_its_task_and_stops() {
    let _beside = beside_others();
    let scratch = Scratch::new("stop");
    let (begun, go) = (scratch.path().join("begun"), scratch.path().join("go"));
    let wait = format!(
        "touch {}; until [ -e {} ]; do sleep 0.01; done; cat",
        begun.display(),
        go.display()
    );
    let task = margay(&["queue", "offer", "cli-stop", "a"]).with(0).out;
    margay(&["queue", "offer", "cli-stop", "b"]).with(0);
    let work = ["queue", "work", "cli-stop", "--", "sh", "-c", &wait];
    let mut worker = Worker::start(&work, &begun);
    worker.interrupt_once(&format!("task {}", task.trim()));
    fs::write(&go, "").expect("it can be written");
    assert_eq!(worker.ended(), Some(0));
    assert_eq!(margay(&["queue", "poll", "cli-stop"]).with(0).out, "b\n", "a is done");
    margay(&["queue", "poll", "cli-stop"]).with(1);

    // And a member its message.
    fs::remove_file(&go).and(fs::remove_file(&begun)).expect("ours");
    let serve = ["group", "serve", "cli-stop-group", "--", "sh", "-c", &wait];
    let sender = thread::spawn(|| {
        until("it is there", || margay(&["group", "send", "cli-stop-group", "x"]).code == Some(0));
    });
    let mut member = Worker::start(&serve, &begun);
    sender.join().expect("it is sent");
    member.interrupt_once("message ");
    fs::write(&go, "").expect("it can be written");
    assert_eq!(member.ended(), Some(0));
    let status = json(&["group", "status", "cli-stop-group"]);
    assert_eq!((&status["members"], &status["messages"]), (&0.into(), &0.into()));
}

#[test]
fn a_worker_that_is_interrupted_twice_gives_its_task_back() {
    let _beside = beside_others();
    let scratch = Scratch::new("stop-twice");
    let begun = scratch.path().join("begun");
    margay(&["queue", "offer", "cli-stop2", "a"]).with(0);
    for (stubborn, times) in [("", 2), ("trap '' TERM; ", 3)] {
        let _ = fs::remove_file(&begun);
        let wait = format!("{stubborn}touch {}; sleep 600", begun.display());
        let work = ["queue", "work", "cli-stop2", "--retry-after", "0s", "--", "sh", "-c", &wait];
        let mut worker = Worker::start(&work, &begun);
        worker.interrupt_once("task ");
        for _ in 1..times {
            worker.interrupt();
        }
        assert_eq!(worker.ended(), Some(130), "{times}");
        assert_eq!(json(&["queue", "status", "cli-stop2"])["ready"], 1, "{times}");
    }
}

/// However long the lines before it were.
#[test]
fn a_line_as_long_as_a_record_may_be_is_appended() {
    let _beside = beside_others();
    let mut command = for_cluster(&["journal", "append", "cli-lines"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut append = command.spawn().expect("the command starts");
    let mut lines = append.stdin.take().expect("it is piped");
    for length in [500 << 10, 1 << 20, 0, 1] {
        writeln!(lines, "{}", "x".repeat(length)).expect("it reads");
    }
    drop(lines);
    let ended = append.wait_with_output().expect("it ends");
    assert_eq!((&ended.stdout[..], &ended.stderr[..]), (&b"1\n"[..], &b""[..]));
    assert_eq!(json(&["journal", "status", "cli-lines"])["next"], 5);
}

#[test]
fn a_topic_is_heard_in_one_order() {
    let _beside = beside_others();
    let listen = ["topic", "subscribe", "cli-news", "--after", "0", "--count", "3"];
    let listener = start(&listen);
    let publish = |message, key| {
        let published = json(&["topic", "publish", "cli-news", message, "--key", key]);
        published["position"].as_u64().expect("a position")
    };
    let positions = [publish("one", "a"), publish("two", "b"), publish("three", "")];
    assert!(positions.is_sorted_by(|first, second| first < second), "{positions:?}");
    let heard = listener.wait_with_output().expect("it ends");
    assert!(heard.status.success(), "{heard:?}");
    assert_eq!(String::from_utf8_lossy(&heard.stdout), "one\ntwo\nthree\n");
    // One that comes later hears the same, and goes on behind any of them.
    assert_eq!(margay(&listen).with(0).out, "one\ntwo\nthree\n");
    let after = positions[0].to_string();
    let listen = ["topic", "subscribe", "cli-news", "--after", &after, "--count", "1"];
    assert_eq!(margay(&listen).with(0).out, "two\n");
    let listen = ["topic", "subscribe", "cli-news", "--after", "0", "--count", "1"];
    let message = json(&[&listen[..], &["--prefix", "b"]].concat());
    assert_eq!((&message["value"], &message["key"]), (&"two".into(), &"b".into()));
    assert_eq!(message["position"], positions[1]);
    margay(&["lock", "status", "cli-news"]).with(2);
    // Who listens learns that there is nothing to be heard any more.
    let mut listener = start(&listen[..5]);
    let mut heard = String::new();
    let mut out = BufReader::new(listener.stdout.take().expect("it is piped"));
    out.read_line(&mut heard).expect("it says something");
    assert_eq!(heard, "one\n");
    margay(&["delete", "cli-news"]).with(0);
    assert_eq!(listener.wait().expect("it ends").code(), Some(1));
}
