//! `margay ls`, `describe`, `delete` and `watch`, against a real cluster.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::harness::{MARGAY, beside_others, cluster, margay};

/// The objects of a `jsonl` output.
fn objects(out: &str) -> Vec<serde_json::Value> {
    out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn what_there_is_is_listed_described_and_deleted() {
    let _beside = beside_others();
    let names = ["m-list/a@0", "m-list/b@1", "m-list/c@0", "m-list/d@1"];
    for name in names {
        margay(&["map", "put", name, "key", "value"]).with(0);
    }
    margay(&["counter", "add", "m-list/b2"]).with(0);
    let all = objects(&margay(&["ls", "m-list/", "-o", "jsonl"]).with(0).out);
    let listed: Vec<&str> = all.iter().filter_map(|one| one["name"].as_str()).collect();
    let expected = ["m-list/a@0", "m-list/b2", "m-list/b@1", "m-list/c@0", "m-list/d@1"];
    assert_eq!(listed, expected, "in order of the names, over all groups");
    let maps = margay(&["ls", "m-list/", "--type", "map", "-o", "json"]).with(0).json();
    assert_eq!(maps.as_array().map(Vec::len), Some(4), "one document");
    assert_eq!((&maps[1]["type"], &maps[1]["group"]), (&"map".into(), &1.into()));
    assert_eq!(margay(&["ls", "m-list/nothing", "-o", "json"]).with(0).out, "[]\n");
    assert_eq!(margay(&["ls", "m-list/nothing"]).with(0).out, "");
    assert!(margay(&["ls", "--type", "teapot"]).with(2).err.contains("counter"));

    let map = margay(&["describe", "m-list/a@0", "-o", "json"]).with(0).json();
    assert_eq!((&map["type"], &map["size"], &map["held"]), (&"map".into(), &1.into(), &0.into()));
    assert!(margay(&["describe", "m-list/x"]).with(1).err.contains("m-list/x"));

    margay(&["delete", "m-list/a@0", "m-list/b@1"]).with(0);
    let missing = margay(&["delete", "m-list/c@0", "m-list/a@0"]).with(1);
    assert!(missing.err.contains("m-list/a@0") && !missing.err.contains("m-list/c@0"));
    let left = objects(&margay(&["ls", "m-list/", "-o", "jsonl"]).with(0).out);
    assert_eq!(left.len(), 2);
    // The name is free again, for any type.
    margay(&["value", "set", "m-list/a@0", "now a value"]).with(0);
}

#[test]
fn a_lock_is_described_with_its_holder_and_its_waiters() {
    let _beside = beside_others();
    let client = margay::client::Client::builder().endpoints(cluster().split(','));
    let client = client.connect().expect("connects");
    let lock = client.lock("m-lock").wait().expect("opens");
    let guard = lock.lock().wait().expect("free");
    let waiting = lock.lock();
    crate::harness::until("the waiter to be seen", || {
        let seen = margay(&["describe", "m-lock", "-o", "json"]).with(0).json();
        assert_eq!(seen["holders"][0]["token"], guard.token());
        seen["waiting"] == 1
    });
    drop(waiting);
    assert!(margay(&["describe", "m-lock"]).with(0).out.contains("token"));
}

#[test]
fn a_watcher_sees_each_change_once_and_the_end() {
    let _beside = beside_others();
    margay(&["map", "put", "m-watch", "a", "1"]).with(0);
    let mut watcher = Command::new(MARGAY)
        .args(["watch", "m-watch", "--from", "0", "-o", "jsonl"])
        .env("MARGAY_ENDPOINTS", cluster())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut lines = BufReader::new(watcher.stdout.take().expect("a pipe")).lines();
    let mut next = || -> serde_json::Value {
        let line = lines.next().expect("one more line").expect("it is text");
        serde_json::from_str(&line).expect("JSON")
    };
    let first = next();
    assert_eq!(
        (&first["what"], &first["key"], &first["new"]),
        (&"added".into(), &"a".into(), &"1".into())
    );
    margay(&["map", "put", "m-watch", "a", "2"]).with(0);
    let second = next();
    assert_eq!((&second["what"], &second["old"]), (&"changed".into(), &"1".into()));
    assert!(second["index"].as_u64() > first["index"].as_u64());
    margay(&["map", "remove", "m-watch", "a"]).with(0);
    assert_eq!(next()["what"], "removed");
    margay(&["delete", "m-watch"]).with(0);
    assert_eq!(next()["what"], "deleted");
    assert!(watcher.wait().expect("it ends").success(), "a deleted resource has no more events");

    margay(&["watch", "m-nothing"]).with(1);
    let from = first["index"].as_u64().expect("a number").to_string();
    margay(&["map", "put", "m-watch", "b", "3"]).with(0);
    let kept = margay(&["watch", "m-watch", "--from", &from, "--count", "1"]).with(0).out;
    assert!(kept.contains("added") && kept.contains("b  3"), "{kept}");
}

/// A begin that lies ahead would otherwise look like nothing happening.
#[test]
fn who_begins_ahead_of_the_cluster_is_told() {
    let _beside = beside_others();
    margay(&["topic", "publish", "m-ahead", "now"]).with(0);
    margay(&["journal", "append", "m-ahead-log", "now"]).with(0);
    for args in [
        ["watch", "m-ahead", "--from", "99999999"],
        ["topic subscribe", "m-ahead", "--after", "99999999"],
        ["journal follow", "m-ahead-log", "--from", "99999999"],
    ] {
        let words = args.iter().flat_map(|arg| arg.split(' '));
        let mut command = Command::new(MARGAY);
        command.args(words).env("MARGAY_ENDPOINTS", cluster());
        let mut waits = command.stderr(Stdio::piped()).spawn().expect("it starts");
        let mut line = String::new();
        let mut said = BufReader::new(waits.stderr.take().expect("a pipe"));
        said.read_line(&mut line).expect("it says something");
        assert!(line.starts_with("note: 99999999 is ahead of "), "{args:?}: {line}");
        waits.kill().and_then(|()| waits.wait()).expect("it waits");
    }
}

/// Keys are given as they are shown, whatever stands for them inside.
#[test]
fn a_watcher_names_keys_as_they_are_shown() {
    let _beside = beside_others();
    for path in ["/app", "/app/db", "/apple"] {
        margay(&["tree", "create", "m-tree", path]).with(0);
    }
    let task = margay(&["queue", "offer", "m-queue", "first"]).with(0).out;
    margay(&["queue", "offer", "m-queue", "second"]).with(0);
    margay(&["queue", "remove", "m-queue", task.trim()]).with(0);
    margay(&["journal", "append", "m-log", "a", "b"]).with(0);
    let keys = |name: &str, which: &[&str], count: &str| {
        let watch = ["watch", name, "--from", "0", "-o", "jsonl", "--count", count];
        let seen = objects(&margay(&[&watch[..], which].concat()).with(0).out);
        let keys = seen.iter().map(|one| one["key"].as_str().expect("a key").to_owned());
        keys.collect::<Vec<String>>()
    };
    assert_eq!(keys("m-tree", &["--key", "/app"], "1"), ["/app"]);
    assert_eq!(keys("m-tree", &["--prefix", "/app/"], "2"), ["/app", "/app/db"], "and below");
    assert_eq!(keys("m-tree", &["--prefix", "/app"], "3"), ["/app", "/app/db", "/apple"]);
    assert_eq!(keys("m-queue", &["--key", task.trim()], "2"), [task.trim(); 2]);
    assert_eq!(keys("m-log", &["--key", "2"], "1"), ["2"]);
    assert!(margay(&["watch", "m-queue", "--key", "x"]).with(2).err.contains("number"));
    margay(&["watch", "m-tree", "--key", "app"]).with(2);
}
