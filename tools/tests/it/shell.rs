//! `margay shell`, completions and manual pages.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;

use crate::harness::{MARGAY, Scratch, beside_others, cluster, margay, margay_alone, until};

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

/// At a terminal, which `script` makes.
#[test]
fn an_interrupt_ends_the_command_and_not_the_shell() {
    let _beside = beside_others();
    let scratch = Scratch::new("shell");
    margay(&["map", "put", "sh-watch", "key", "value"]).with(0);
    // Its code is asked of the one who started it: that of `script` may be another when it finds
    // the terminal closed before its child is gone. The trap keeps that one alive, and is not
    // inherited.
    let command = format!("trap : INT; {MARGAY} shell; echo ended with $?.");
    let mut terminal = Command::new("script")
        .args(["-qc", &command, "/dev/null"])
        .env("MARGAY_ENDPOINTS", cluster())
        .env("MARGAY_HISTORY", scratch.path().join("history"))
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script is there");
    let mut keys = terminal.stdin.take().expect("a pipe");
    let mut out = terminal.stdout.take().expect("a pipe");
    let (sender, said) = channel();
    thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(length @ 1..) = out.read(&mut bytes) {
            let _ = sender.send(String::from_utf8_lossy(&bytes[..length]).into_owned());
        }
    });
    // What the terminal is told whenever a line can be typed.
    const PROMPT: &str = "\x1b[?2004h";
    let mut shown = String::new();
    let mut wait_for = |what: &str, times: usize| {
        until(what, || {
            let more = said.try_iter().collect::<String>();
            // Whoever waits in vain sees what there was.
            print!("{}", more.escape_debug());
            shown.push_str(&more);
            shown.matches(what).count() == times
        });
    };
    let mut line = |line: &[u8]| keys.write_all(line).expect("it reads");
    for n in 0..2 {
        wait_for(PROMPT, 3 * n + 1);
        // A command that has signals for itself must not keep those of the next one.
        line(b"lock run sh-lock -- true\n");
        wait_for(PROMPT, 3 * n + 2);
        line(b"watch sh-watch --from 0\n");
        wait_for("added", n + 1);
        line(b"\x03");
        wait_for(PROMPT, 3 * n + 3);
        line(b"counter add sh-interrupts\n");
    }
    wait_for(PROMPT, 7);
    line(b"exit\n");
    wait_for("ended with 0.", 1);
    terminal.wait().expect("it ends");
    assert_eq!(margay(&["counter", "get", "sh-interrupts"]).with(0).out, "2\n");
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
    // What is laid out by hand stays as it is.
    let page = std::fs::read_to_string(scratch.path().join("margay-serve.1")).expect("a page");
    let (_, notes) = page.split_once("\n.SH NOTES\n.nf\n").expect("notes");
    let (notes, _) = notes.split_once("\n.fi\n").expect("their end");
    assert!(notes.starts_with("Examples:\n  margay serve  "), "{notes}");
}
