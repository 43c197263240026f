//! `margay shell`, completions and manual pages.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::harness::{MARGAY, Scratch, beside_others, cluster, margay_alone};

/// What the shell says to these lines, and its exit code.
fn shell(lines: &str) -> (String, String, Option<i32>) {
    let mut shell = Command::new(MARGAY)
        .arg("shell")
        .env("MARGAY_ENDPOINTS", cluster())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut input = shell.stdin.take().expect("a pipe");
    input.write_all(lines.as_bytes()).expect("it reads");
    drop(input);
    let ended = shell.wait_with_output().expect("it ends");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (text(ended.stdout), text(ended.stderr), ended.status.code())
}

#[test]
fn a_script_runs_line_by_line_and_ends_with_its_last_failure() {
    let _beside = beside_others();
    let lines = "# a note\n\nvalue set sh 'two words'\nvalue get sh\ncounter add sh-count\n";
    let (out, err, code) = shell(lines);
    assert!(out.contains("two words\n1\n"), "{out}{err}");
    assert_eq!(code, Some(0), "{err}");

    let lines = "value get sh-nothing\nvalue get sh\nvalue get 'sh\nteapot\nexit\nvalue get sh\n";
    let (out, err, code) = shell(lines);
    assert_eq!(out, "two words\n", "what follows a failure runs, what follows exit does not");
    assert!(err.contains("quote is not closed") && err.contains("teapot"), "{err}");
    assert_eq!(code, Some(2));
    let (_, err, code) = shell("log inspect /nowhere\n");
    assert!(code == Some(2) && err.contains("/nowhere"), "it needs no cluster: {err}");
    let (_, err, code) = shell("serve\n");
    assert!(code == Some(2) && err.contains("terminal for itself"), "{err}");
}

#[test]
fn completions_and_manual_pages_know_all_commands() {
    for name in ["bash", "zsh", "fish"] {
        let script = margay_alone(&["completions", name]).with(0).out;
        for word in ["describe", "counter", "endpoints"] {
            assert!(script.contains(word), "{name} completes {word}");
        }
    }
    margay_alone(&["completions", "tcsh"]).with(2);
    let page = margay_alone(&["man"]).with(0).out;
    assert!(page.contains(".TH") && page.contains("describe"), "{page}");
    let scratch = Scratch::new("man");
    let dir = scratch.path().display().to_string();
    margay_alone(&["man", "--dir", &dir]).with(0);
    let page = std::fs::read_to_string(scratch.path().join("margay-map-put.1")).expect("a page");
    assert!(page.contains("Set the value of a key"), "{page}");
}
