//! Output and exit codes of the commands, against a real cluster.

use std::io::Read;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::thread;

use crate::harness::{
    Ended, MARGAY, beside_others, cluster, for_cluster, margay, margay_alone, until,
};

#[test]
fn a_value_is_set_read_swapped_and_deleted() {
    let _beside = beside_others();
    assert_eq!(margay(&["value", "get", "cli-value"]).with(1).out, "");
    assert!(margay(&["value", "set", "cli-value", "hello"]).with(0).out.starts_with('v'));
    assert_eq!(margay(&["value", "get", "cli-value"]).with(0).out, "hello\n");
    margay(&["value", "cas", "cli-value", "hello", "welcome"]).with(0);
    let conflict = margay(&["value", "cas", "cli-value", "hello", "late"]).with(1);
    assert_eq!((conflict.out.as_str(), conflict.err.as_str()), ("welcome\n", ""));
    margay(&["value", "cas", "cli-value", "--absent", "mine"]).with(1);
    let json = margay(&["value", "get", "cli-value", "-o", "json"]).with(0).json();
    assert_eq!(json["value"], "welcome");
    assert!(json["version"].as_u64() > Some(0));
    margay(&["value", "delete", "cli-value"]).with(0);
    margay(&["value", "delete", "cli-value"]).with(1);
    assert!(margay(&["value", "get", "cli-value", "-o", "json"]).with(1).json()["value"].is_null());
    margay(&["value", "cas", "cli-value", "--absent", "mine"]).with(0);
}

#[test]
fn reading_creates_nothing() {
    let _beside = beside_others();
    margay(&["counter", "get", "cli-nothing"]).with(1);
    margay(&["map", "get", "cli-nothing", "key"]).with(1);
    assert_eq!(margay(&["map", "size", "cli-nothing"]).with(0).out, "0\n");
    // The name is still free for a resource of any type.
    margay(&["value", "set", "cli-nothing", "now"]).with(0);
}

#[test]
fn a_counter_counts_and_does_not_overflow() {
    let _beside = beside_others();
    assert_eq!(margay(&["counter", "add", "cli-counter"]).with(0).out, "1\n");
    assert_eq!(margay(&["counter", "add", "cli-counter", "-5"]).with(0).out, "-4\n");
    let most = i64::MAX.to_string();
    margay(&["counter", "add", "cli-counter", &most]).with(0);
    let overflow = margay(&["counter", "add", "cli-counter", "100"]).with(1);
    assert!(overflow.err.contains("overflow"), "{overflow:?}");
    let json = margay(&["counter", "get", "cli-counter", "-o", "json"]).with(0).json();
    assert_eq!(json["value"], i64::MAX - 4);
}

#[test]
fn a_map_is_ordered() {
    let _beside = beside_others();
    for key in ["b", "a", "c"] {
        margay(&["map", "put", "cli-map", key, &key.to_uppercase()]).with(0);
    }
    assert_eq!(margay(&["map", "get", "cli-map", "b"]).with(0).out, "B\n");
    margay(&["map", "remove", "cli-map", "b"]).with(0);
    margay(&["map", "remove", "cli-map", "b"]).with(1);
    assert_eq!(margay(&["map", "size", "cli-map"]).with(0).out, "2\n");
    let entries = margay(&["map", "entries", "cli-map", "-o", "json"]).with(0).json();
    let lines = entries.as_array().expect("a list").clone();
    let jsonl = margay(&["map", "entries", "cli-map", "-o", "jsonl"]).with(0).out;
    assert_eq!(jsonl.lines().count(), lines.len());
    let pairs: Vec<_> = lines.iter().map(|line| (&line["key"], &line["value"])).collect();
    assert_eq!(pairs, [(&"a".into(), &"A".into()), (&"c".into(), &"C".into())]);
    margay(&["map", "clear", "cli-map"]).with(0);
    assert_eq!(margay(&["map", "size", "cli-map"]).with(0).out, "0\n");
}

#[test]
fn a_map_of_many_pages_passes_through() {
    let _beside = beside_others();
    let client = margay::client::Client::builder().endpoints(cluster().split(','));
    let client = client.connect().expect("connects");
    let map = client.map("cli-pages").wait().expect("opens");
    let mut open = std::collections::VecDeque::new();
    for n in 0..2_500 {
        if open.len() == 500 {
            open.pop_front().map(|put: margay::resource::Reply<_>| put.wait().expect("is put"));
        }
        open.push_back(map.put(format!("{n:05}").as_bytes(), b"x"));
    }
    for put in open {
        put.wait().expect("is put");
    }
    let out = margay(&["map", "entries", "cli-pages"]).with(0).out;
    assert_eq!(out.lines().count(), 2_501, "a head and all entries");
    let last = out.lines().last().unwrap_or_default();
    assert!(last.starts_with("02499") || last.trim_start().starts_with("02499"), "{last}");
}

#[test]
fn cluster_status_has_a_stable_shape() {
    let _beside = beside_others();
    margay(&["cluster", "status", "--wait"]).with(0);
    let groups = margay(&["cluster", "status", "-o", "json"]).with(0).json();
    let groups = groups.as_array().expect("an array");
    assert_eq!(groups.len(), 2);
    for (n, group) in groups.iter().enumerate() {
        let keys: Vec<&str> =
            group.as_object().expect("objects").keys().map(String::as_str).collect();
        let expected = [
            "applied_index",
            "commit_index",
            "group",
            "halted",
            "leader",
            "learners",
            "outgoing_voters",
            "term",
            "voters",
        ];
        assert_eq!(keys, expected);
        assert_eq!(group["halted"], false);
        assert_eq!(group["group"], n);
        assert_eq!(group["voters"], serde_json::json!(["n1", "n2", "n3"]));
        let leader = group["leader"].as_str().expect("a name");
        assert!(["n1", "n2", "n3"].contains(&leader));
        assert!(group["commit_index"].as_u64() >= Some(1));
    }
    let table = margay(&["cluster", "status"]).with(0).out;
    assert!(table.starts_with("GROUP  LEADER  TERM"), "{table}");
}

#[test]
fn a_status_without_all_nodes_names_those_that_do_not_answer() {
    let _beside = beside_others();
    let endpoints = format!("{},127.0.0.1:1", cluster());
    let ended = margay(&["cluster", "status", "--endpoints", &endpoints]).with(0);
    assert!(ended.err.contains("127.0.0.1:1"), "{ended:?}");
}

#[test]
fn one_endpoint_is_enough_to_find_the_others() {
    let _beside = beside_others();
    let one = cluster().split(',').next().expect("there are three");
    let verified = margay(&["cluster", "verify", "--endpoints", one, "-o", "jsonl"]).with(0).out;
    assert_eq!(verified.lines().count(), 2, "a line for each group: {verified}");
    for line in verified.lines() {
        let group: serde_json::Value = serde_json::from_str(line).expect("an object");
        assert_eq!(group["replicas"], serde_json::json!(["n1", "n2", "n3"]));
        assert_eq!(group["compared"], 3);
    }
    // The same node by another name is not another one.
    let twice = format!("{one},{}", one.replace("127.0.0.1", "localhost"));
    let verified = margay(&["cluster", "verify", "--endpoints", &twice]).with(0).out;
    assert!(verified.contains(": 3 replicas"), "{verified}");
}

#[test]
fn who_changes_the_cluster_does_not_wait_for_a_node_that_hangs() {
    let _beside = beside_others();
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port of its own");
    let silent = silent.local_addr().expect("it has one");
    let endpoints = format!("{silent},{}", cluster());
    // Longer than a command may take here.
    let args = ["cluster", "promote", "n1", "--timeout", "10m", "--endpoints", &endpoints];
    let promoted = margay(&args).with(0);
    assert!(promoted.out.contains("n1 votes in 2 of 2 groups, as before"), "{promoted:?}");
}

#[test]
fn a_name_that_no_member_ever_had_is_not_removed() {
    let _beside = beside_others();
    let typo = margay(&["cluster", "remove", "n11"]).with(1);
    assert!(typo.err.contains("error: n11 is no member, and was none lately"), "{typo:?}");
    assert!(typo.err.contains("hint: the members are n1, n2, n3"), "{typo:?}");
    assert_eq!(typo.out, "");
}

#[test]
fn the_locked_command_sees_its_token_and_gives_its_code() {
    let _beside = beside_others();
    let run = |command: &str| {
        margay(&["lock", "run", "cli-lock", "--wait", "20s", "--", "sh", "-c", command])
    };
    let first = run("echo $MARGAY_FENCE_TOKEN $MARGAY_LOCK_NAME").with(0).out;
    let second = run("echo $MARGAY_FENCE_TOKEN $MARGAY_LOCK_NAME; exit 7").with(7).out;
    let token = |out: &str| {
        let (token, name) = out.trim().split_once(' ').expect("two words");
        assert_eq!(name, "cli-lock");
        token.parse::<u64>().expect("a number")
    };
    assert!(token(&second) > token(&first));
    run("kill -9 $$").with(128 + 9);
    margay(&["lock", "run", "cli-lock", "--", "/no/such/command"]).with(2);
}

#[test]
fn a_lock_that_is_held_is_not_got() {
    let _beside = beside_others();
    let hold = ["lock", "run", "cli-held", "--", "sh", "-c", "echo held; exec sleep 600"];
    let mut holder = for_cluster(&hold);
    holder.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut holder = holder.spawn().expect("starts");
    let mut word = [0; 5];
    holder.stdout.take().expect("piped").read_exact(&mut word).expect("it is held");
    let ended = margay(&["lock", "run", "cli-held", "--wait", "100ms", "--", "true"]).with(1);
    assert!(ended.err.contains("cli-held"), "{ended:?}");
    // SIGTERM goes through to the command; then the lock is free at once, not after a time-out.
    crate::sys::signal(holder.id(), libc::SIGTERM);
    until("the holder to end", || holder.try_wait().expect("ours").is_some());
    margay(&["lock", "run", "cli-held", "--wait", "0s", "--", "true"]).with(0);
}

#[test]
fn a_bench_reports_what_programs_read() {
    let _beside = beside_others();
    for workload in ["map-put", "map-get", "counter-add"] {
        let args = ["bench", "--workload", workload, "--connections", "4", "--inflight", "4"];
        let args = [&args[..], &["--seconds", "500ms", "-o", "json"]].concat();
        let json = margay(&args).with(0).json();
        assert_eq!(json["workload"], workload);
        assert_eq!((&json["connections"], &json["errors"]), (&4.into(), &0.into()));
        assert!(json["ops"].as_u64() > Some(10), "{json}");
        assert!(
            json["p50_us"].as_u64() > Some(0) && json["max_us"].as_u64() >= json["p99_us"].as_u64()
        );
    }
}

#[test]
fn no_cluster_is_exit_code_3_and_says_where_it_looked() {
    let args = ["--endpoints", "127.0.0.1:1,127.0.0.1:2", "--timeout", "300ms"];
    for command in [&["value", "get", "x"][..], &["counter", "add", "x"], &["cluster", "status"]] {
        let ended = margay_alone(&[command, &args[..]].concat()).with(3);
        assert!(ended.err.contains("hint: check --endpoints"), "{ended:?}");
    }
    let ended = margay_alone(&[&["cluster", "status", "--wait=200ms"], &args[..]].concat()).with(3);
    assert!(ended.err.contains("127.0.0.1:1"), "{ended:?}");
}

#[test]
fn usage_errors_are_exit_code_2_and_say_what_was_meant() {
    let near = margay_alone(&["value", "set", "--endpoint", "x", "a", "b"]).with(2);
    assert!(near.err.contains("--endpoints"), "{near:?}");
    assert!(margay_alone(&["vlaue"]).with(2).err.contains("'value'"));
    let no_time = margay_alone(&["value", "get", "x", "--timeout", "0s"]).with(2);
    assert!(no_time.err.contains("at least 1us"), "{no_time:?}");
    let unit = margay_alone(&["value", "get", "x", "--timeout", "10"]).with(2);
    assert!(unit.err.contains("10s"), "{unit:?}");
    margay_alone(&["bench", "--payload", "1TiB"]).with(2);
    margay_alone(&["bench", "--connections", "0"]).with(2);
    margay_alone(&["counter", "add", "x", "1e3"]).with(2);
    margay_alone(&["value", "get", "x", "--endpoints", " "]).with(2);
    margay_alone(&[]).with(2);
    for family in ["serve", "demo", "cluster", "value", "counter", "map", "lock", "bench"] {
        margay_alone(&[family, "--help"]).with(0);
    }
}

#[test]
fn with_json_there_is_always_one_document() {
    let _beside = beside_others();
    let json = |args: &[&str], code| margay(&[args, &["-o", "json"]].concat()).with(code).json();
    assert!(json(&["counter", "get", "doc-nothing"], 1)["value"].is_null());
    for nothing in ["tree get doc-nothing /a", "lock status doc-nothing", "describe doc-nothing"] {
        let args: Vec<&str> = nothing.split(' ').collect();
        assert!(json(&args, 1).is_null(), "{nothing}");
    }
    margay(&["queue", "offer", "doc-queue", "task"]).with(0);
    assert_eq!(json(&["queue", "dead", "doc-queue"], 0), serde_json::json!([]));
    margay(&["map", "put", "doc-map", "key", "value"]).with(0);
    assert!(json(&["map", "clear", "doc-map"], 0).is_null());
    // What a command prints that runs under a lock is all there is.
    let run = margay(&["lock", "run", "doc-lock", "-o", "json", "--", "echo", "{}"]).with(0);
    assert_eq!(run.out, "{}\n");
}

/// The last line on standard error; an answer, if any, is on standard output.
#[test]
fn with_json_a_failure_is_an_object_too() {
    let told = |ended: &Ended| -> serde_json::Value {
        let last = ended.err.lines().last().unwrap_or_default();
        serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {ended:?}"))
    };
    let nobody = ["--endpoints", "127.0.0.1:1", "--timeout", "300ms", "-o", "json"];
    for command in [&["value", "get", "x"][..], &["cluster", "status"], &["cluster", "remove", "x"]]
    {
        let ended = margay_alone(&[command, &nobody].concat()).with(3);
        let told = told(&ended);
        assert_eq!((ended.out.as_str(), &told["exit_code"]), ("", &3.into()), "{ended:?}");
        assert!(told["error"].as_str().is_some_and(|error| error.contains("127.0.0.1:1")));
        assert!(told["hint"].as_str().is_some_and(|hint| hint.contains("--endpoints")));
    }
    let usage = margay_alone(&["value", "set", "--endpoint", "x", "a", "b", "--output=jsonl"]);
    let usage = told(&usage.with(2));
    assert_eq!(usage["error"], "unexpected argument '--endpoint' found");
    assert!(usage["hint"].as_str().is_some_and(|hint| hint.contains("--endpoints")), "{usage}");
    let missing = told(&margay_alone(&["value", "get", "-ojson"]).with(2));
    let expected = "the following required arguments were not provided: <NAME>";
    assert_eq!((&missing["error"], &missing["hint"]), (&expected.into(), &().into()));
    let unit = told(&margay_alone(&["value", "get", "x", "--timeout", "10", "-o", "json"]).with(2));
    assert!(unit["error"].as_str().is_some_and(|error| error.contains("10s")), "{unit}");
    margay_alone(&["value", "--help", "-o", "json"]).with(0);

    let _beside = beside_others();
    let most = i64::MAX.to_string();
    margay(&["counter", "add", "doc-most", &most]).with(0);
    let overflow = margay(&["counter", "add", "doc-most", "1", "-o", "json"]).with(1);
    assert!(overflow.json().is_null());
    assert!(told(&overflow)["error"].as_str().is_some_and(|error| error.contains("overflow")));
    // What needs no words is said by the exit code alone.
    assert_eq!(margay(&["value", "get", "doc-nothing", "-o", "json"]).with(1).err, "");
}

/// What is no text stays what it is, and cannot be taken for text.
#[test]
fn json_loses_no_bytes() {
    let _beside = beside_others();
    let client = margay::client::Client::builder().endpoints(cluster().split(','));
    let client = client.connect().expect("connects");
    let bytes = b"\xffm\x80";
    let as_json = serde_json::json!({ "base64": "/22A" });
    client.value("bytes-value").wait().expect("opens").set(bytes).wait().expect("is set");
    client.map("bytes-map").wait().expect("opens").put(bytes, bytes).wait().expect("is put");
    client.set("bytes-set").wait().expect("opens").add(bytes).wait().expect("is added");
    client.log("bytes-log").wait().expect("opens").append(bytes).wait().expect("is appended");
    let json = |args: &[&str]| margay(&[args, &["-o", "json"]].concat()).with(0).json();
    assert_eq!(json(&["value", "get", "bytes-value"])["value"], as_json);
    let entry = &json(&["map", "entries", "bytes-map"])[0];
    assert_eq!((&entry["key"], &entry["value"]), (&as_json, &as_json));
    assert_eq!(json(&["set", "members", "bytes-set"])[0]["member"], as_json);
    assert_eq!(json(&["journal", "read", "bytes-log"])[0]["record"], as_json);
    let event = json(&["watch", "bytes-map", "--from", "0", "--count", "1"]);
    assert_eq!((&event["key"], &event["new"], &event["old"]), (&as_json, &as_json, &().into()));
    assert!(margay(&["map", "entries", "bytes-map"]).with(0).out.contains("\u{fffd}m\u{fffd}"));
}

#[test]
fn a_closed_pipe_is_no_error() {
    let _beside = beside_others();
    margay(&["map", "put", "cli-pipe", "key", &"x".repeat(100_000)]).with(0);
    let mut command = Command::new(MARGAY);
    command.args(["map", "entries", "cli-pipe"]).env("MARGAY_ENDPOINTS", cluster());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    drop(child.stdout.take());
    let mut err = String::new();
    let mut stderr = child.stderr.take().expect("piped");
    let reader = thread::spawn(move || stderr.read_to_string(&mut err).map(|_| err));
    let mut status = None;
    until("the command to end", || {
        status = child.try_wait().expect("can be waited for");
        status.is_some()
    });
    assert_eq!(status.and_then(|status| status.code()), Some(0));
    assert_eq!(reader.join().expect("reads").expect("text"), "");
}
