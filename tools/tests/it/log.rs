//! `margay log` on directories of embedded logs, sound and harmed.

use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use margay_log::commit_log::{CommitLog, CommitLogOptions};
use serde_json::Value;

use crate::harness::{MARGAY, Scratch, beside_others};

const ENTRIES: u64 = 25;

fn filled(path: &Path) {
    let options = CommitLogOptions { segment_first: 16 << 10, ..CommitLogOptions::default() };
    let log = CommitLog::open(path, options).expect("a new log").log;
    for n in 1..=ENTRIES {
        log.append(format!("entry {n}").as_bytes()).expect("room").wait().expect("durable");
    }
}

fn run(arguments: &[&str], dir: &Path) -> Output {
    let mut command = Command::new(MARGAY);
    command.arg("log").args(arguments).arg(dir).stdin(std::process::Stdio::null());
    command.output().expect("it runs")
}

fn json(arguments: &[&str], dir: &Path) -> (i32, Value) {
    let output = run(&[arguments, &["-o", "json"]].concat(), dir);
    let code = output.status.code().expect("it ends by itself");
    let value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    (code, value)
}

fn text(output: &Output) -> (i32, String, String) {
    let utf8 = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    (output.status.code().expect("ends"), utf8(&output.stdout), utf8(&output.stderr))
}

#[test]
fn a_sound_log_is_shown() {
    let _machine = beside_others();
    let scratch = Scratch::new("log-sound");
    let dir = scratch.path().join("log");
    filled(&dir);
    let (code, inspected) = json(&["inspect"], &dir);
    assert_eq!((code, &inspected["log"]["last_index"]), (0, &Value::from(ENTRIES)));
    assert_eq!(inspected["log"]["damage"], Value::Null);
    assert_eq!(inspected["hard_state"]["group"], 0);
    let (code, verified) = json(&["verify"], &dir);
    assert_eq!((code, &verified["entries"]), (0, &Value::from(ENTRIES)));
    let (code, stats) = json(&["stats"], &dir);
    assert_eq!((code, &stats["kinds"][0]["entries"]), (0, &Value::from(ENTRIES)));

    let (code, out, _) = text(&run(&["dump", "--from", "3", "--to", "5"], &dir));
    assert_eq!((code, out.lines().count()), (0, 3));
    assert!(out.lines().next().is_some_and(|line| line.ends_with("entry 3")), "{out}");
    let dumped =
        run(&["dump", "--from", "7", "--to", "7", "--payload", "hex", "-o", "jsonl"], &dir);
    let entry: Value = serde_json::from_slice(&dumped.stdout).expect("JSON");
    assert_eq!(entry["payload"], "656e7472792037");
    for verb in ["inspect", "verify", "stats", "repair"] {
        let (code, out, err) = text(&run(&[verb], &dir));
        assert!(code == 0 && !out.is_empty() && err.is_empty(), "{verb}: {out}{err}");
    }
}

/// Flips a bit in the middle of the log, in the first batch of its second segment.
fn damage(dir: &Path) {
    let file = dir.join("segment-0000000000000002.log");
    let mut bytes = std::fs::read(&file).expect("there");
    bytes[4096 + 150] ^= 1;
    std::fs::write(&file, bytes).expect("writable");
}

fn entries_before(inspected: &Value) -> Option<usize> {
    inspected["log"]["last_index"].as_u64().and_then(|last| usize::try_from(last).ok())
}

#[test]
fn a_damaged_log_is_located_and_repaired_only_when_told_to() {
    let _machine = beside_others();
    let scratch = Scratch::new("log-damaged");
    let dir = scratch.path().join("log");
    filled(&dir);
    damage(&dir);

    let (code, inspected) = json(&["inspect"], &dir);
    let damage = &inspected["log"]["damage"];
    assert_eq!(code, 1);
    assert_eq!(damage["segment"], "segment-0000000000000002.log");
    assert_eq!((&damage["offset"], &damage["last_index"]), (&4096.into(), &ENTRIES.into()));
    let (code, _, err) = text(&run(&["verify"], &dir));
    assert!(code == 1 && err.contains("segment-0000000000000002.log at offset 4096"), "{err}");

    // What there is before the damage is shown, and that there is more.
    let (code, entries) = json(&["dump"], &dir);
    assert_eq!((code, entries.as_array().map(Vec::len)), (1, entries_before(&inspected)));
    let (code, stats) = json(&["stats"], &dir);
    assert_eq!((code, &stats["last_index"]), (1, &inspected["log"]["last_index"]));
    for verb in ["dump", "stats"] {
        let (code, out, err) = text(&run(&[verb], &dir));
        assert!(code == 1 && !out.is_empty() && err.contains("damaged"), "{verb}: {out}{err}");
    }

    // Nobody is there to be asked.
    let (code, planned) = json(&["repair"], &dir);
    assert_eq!((code, &planned["result"]), (1, &Value::from("not repaired")));
    assert_eq!(planned["last_index"], inspected["log"]["last_index"]);
    assert_eq!(planned["originals"], Value::Null);
    let (code, out, err) = text(&run(&["repair"], &dir));
    assert!(code == 1 && out.contains("lose entries") && err.contains("--yes"), "{out}{err}");
    assert_eq!(json(&["inspect"], &dir).0, 1);

    let (code, repaired) = json(&["repair", "--yes"], &dir);
    assert_eq!((code, &repaired["result"]), (0, &Value::from("repaired")));
    let originals = repaired["originals"].as_str().expect("a path");
    assert!(Path::new(originals).join("segment-0000000000000002.log").exists());
    let (code, inspected) = json(&["inspect"], &dir);
    assert_eq!((code, &inspected["log"]["last_index"]), (0, &repaired["last_index"]));
}

/// A log that was sound when it was opened may rot before all of it is read.
#[test]
fn an_entry_that_cannot_be_read_any_more_is_said_with_its_place() {
    let _machine = beside_others();
    let scratch = Scratch::new("log-rots");
    let dir = scratch.path().join("log");
    let log = CommitLog::open(&dir, CommitLogOptions::default()).expect("a new log").log;
    let last = vec![b'z'; 16 << 10];
    for _ in 0..200 {
        log.append(&[b'a'; 16 << 10]).expect("room").wait().expect("durable");
    }
    log.append(&last).expect("room").wait().expect("durable");
    drop(log);

    let mut command = Command::new(MARGAY);
    command.args(["log", "dump", "--payload", "hex"]).arg(&dir);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut dump = command.spawn().expect("it runs");
    // It has opened the log, and comes no further than what the pipe takes.
    let mut out = dump.stdout.take().expect("piped");
    out.read_exact(&mut [0]).expect("it prints");
    let is_rotten = std::fs::read_dir(&dir).expect("there").any(|file| {
        let file = file.expect("there").path();
        let bytes = std::fs::read(&file).expect("readable");
        let at = bytes.windows(last.len()).position(|found| found == last);
        at.is_some_and(|at| {
            let file = std::fs::File::options().write(true).open(file).expect("writable");
            file.write_all_at(b"y", at as u64).expect("written");
            true
        })
    });
    assert!(is_rotten);
    let mut lines = Vec::new();
    out.read_to_end(&mut lines).expect("to its end");
    let (code, _, err) = text(&dump.wait_with_output().expect("it ends"));
    assert_eq!((code, lines.iter().filter(|byte| **byte == b'\n').count()), (1, 200), "{err}");
    assert!(err.contains("201") && err.contains("segment-"), "{err}");
}

/// A directory that is named by a dot has a name all the same, and so have its originals.
#[test]
fn a_log_is_repaired_from_within_its_directory() {
    let _machine = beside_others();
    let scratch = Scratch::new("log-within");
    let dir = scratch.path().join("log");
    filled(&dir);
    damage(&dir);
    let mut command = Command::new(MARGAY);
    command.args(["log", "repair", "--yes", "."]).current_dir(&dir);
    let (code, out, err) = text(&command.output().expect("it runs"));
    assert_eq!(code, 0, "{out}{err}");
    assert!(scratch.path().join("log.damaged/segment-0000000000000002.log").exists(), "{out}");
    assert_eq!(json(&["inspect"], &dir).0, 0);
}

#[test]
fn the_logs_of_a_node_are_named_where_its_directory_is() {
    let _machine = beside_others();
    let scratch = Scratch::new("log-node");
    filled(&scratch.path().join("group-0"));
    for verb in ["inspect", "verify", "dump", "stats", "repair"] {
        let (code, _, err) = text(&run(&[verb], scratch.path()));
        assert!(code == 2 && err.contains("DIR/group-0"), "{verb}: {err}");
    }
}

#[test]
fn what_is_no_log_is_said_to_be_none() {
    let _machine = beside_others();
    let scratch = Scratch::new("log-none");
    for verb in ["inspect", "verify", "dump", "stats", "repair"] {
        let (code, _, err) = text(&run(&[verb], scratch.path()));
        assert!(code == 2 && err.starts_with("error: "), "{verb}: {err}");
        assert_eq!(std::fs::read_dir(scratch.path()).expect("there").count(), 0);
    }
}
