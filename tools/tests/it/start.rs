//! Nodes that cannot or must not start say why and what helps; nodes that stop, stop in order.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use margay::client::status;
use margay::machine::Code;

use crate::harness::{
    Ended, MARGAY, PATIENCE, Scratch, beside_others, margay_alone, plan, run, until,
};
use crate::nodes::{Nodes, name};
use crate::raw::Raw;

/// A cluster of one.
struct Single {
    child: Child,
    endpoint: String,
}

impl Single {
    /// Starts it through `sh`, after `limits` (`ulimit …`).
    fn start(data: &Path, limits: &str) -> Single {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let endpoint = listener.local_addr().expect("an address").to_string();
        drop(listener);
        let log = fs::File::create(data.with_extension("log")).expect("a log file");
        let script = format!("{limits}\nexec \"$@\"");
        let mut command = Command::new("sh");
        command.args(["-c", &script, "sh", MARGAY, "serve", "--shards", "1", "--groups", "1"]);
        command.args(["--listen", &endpoint, "--data"]).arg(data);
        command.stdin(Stdio::null()).stderr(log);
        crate::sys::die_with_parent(&mut command, libc::SIGKILL);
        let child = command.spawn().expect("starts");
        let mut single = Single { child, endpoint };
        let endpoints = [single.endpoint.clone()];
        until("the node to answer", || {
            let ended = single.child.try_wait().expect("can be waited for");
            assert!(ended.is_none(), "{}", fs::read_to_string(data.with_extension("log")).unwrap());
            status(&endpoints, PATIENCE)[0].groups.is_ok()
        });
        single
    }

    fn margay(&self, args: &[&str]) -> Ended {
        let mut command = Command::new(MARGAY);
        command.args(args).env("MARGAY_ENDPOINTS", &self.endpoint);
        run(command)
    }

    /// SIGTERM; returns the exit code.
    fn stop(mut self) -> Option<i32> {
        crate::sys::signal(self.child.id(), libc::SIGTERM);
        self.child.wait().expect("ends").code()
    }
}

impl Drop for Single {
    fn drop(&mut self) {
        // It has ended where `stop` was called.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn serve(data: &Path, args: &[&str]) -> Ended {
    let data = data.to_str().expect("a plain path");
    margay_alone(&[&["serve", "--data", data], args].concat())
}

#[test]
fn a_public_address_needs_a_word_about_it() {
    // 38
    let scratch = Scratch::new("public");
    let ended = serve(&scratch.path().join("n1"), &["--listen", "0.0.0.0:0"]).with(2);
    assert!(ended.err.contains("--unsafe-no-auth") && ended.err.contains("127.0.0.1"), "{ended:?}");
}

#[test]
fn impossible_options_are_refused_before_anything_is_made() {
    // 51
    let scratch = Scratch::new("options");
    let data = scratch.path().join("n1");
    let lines: [&[&str]; 8] = [
        &["--lisen", "127.0.0.1:0"],
        &["--listen", "127.0.0.1"],
        &["--shards", "0"],
        &["--groups", "100000"],
        &["--name", "a b"],
        &["--peers", "n1=127.0.0.1"],
        &["--peers", "n2=127.0.0.1:1,n3=127.0.0.1:2"],
        &["--peers", "n1=127.0.0.1:1,n1=127.0.0.1:2"],
    ];
    for args in lines {
        let ended = serve(&data, args).with(2);
        assert!(ended.err.starts_with("error: "), "{ended:?}");
    }
    assert!(serve(&data, &["--lisen", "x"]).err.contains("--listen"), "it says what was meant");
    assert!(!data.exists());
    let mut bad_log = Command::new(MARGAY);
    bad_log.args(["serve", "--data"]).arg(&data).env("MARGAY_LOG", "margay=loud");
    assert!(run(bad_log).with(2).err.contains("MARGAY_LOG"));
}

#[test]
fn a_directory_has_one_process_at_a_time() {
    // 49
    let _beside = beside_others();
    let scratch = Scratch::new("locked");
    let data = scratch.path().join("n1");
    let node = Single::start(&data, "");
    let ended = serve(&data, &["--listen", "127.0.0.1:0"]);
    assert_ne!(ended.code, Some(0));
    assert!(ended.err.contains(&format!("in use by process {}", node.child.id())), "{ended:?}");
    // Nor does a port have two.
    let ended = serve(&scratch.path().join("n2"), &["--listen", &node.endpoint]);
    assert!(ended.err.contains("cannot listen on"), "{ended:?}");
    node.margay(&["value", "set", "still", "fine"]).with(0);
}

#[test]
fn directories_that_others_could_change_are_refused() {
    // 50
    let scratch = Scratch::new("unsafe");
    let (open, link) = (scratch.path().join("open"), scratch.path().join("link"));
    fs::create_dir(&open).expect("made");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).expect("changed");
    let ended = serve(&open, &["--listen", "127.0.0.1:0"]);
    assert!(ended.code != Some(0) && ended.err.contains("chmod"), "{ended:?}");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o700)).expect("changed");
    symlink(&open, &link).expect("linked");
    let ended = serve(&link, &["--listen", "127.0.0.1:0"]);
    assert!(ended.code != Some(0) && ended.err.contains("symbolic link"), "{ended:?}");
    let file = scratch.path().join("file");
    fs::write(&file, "").expect("written");
    let ended = serve(&file, &["--listen", "127.0.0.1:0"]);
    assert!(ended.code != Some(0) && ended.err.starts_with("error: "), "{ended:?}");
}

#[test]
fn a_node_of_another_name_is_not_taken_for_this_one() {
    // 39
    let _beside = beside_others();
    let scratch = Scratch::new("name");
    let data = scratch.path().join("n1");
    assert_eq!(Single::start(&data, "").stop(), Some(0));
    let ended = serve(&data, &["--name", "n7", "--listen", "127.0.0.1:0"]);
    assert!(ended.code != Some(0) && ended.err.contains("n7"), "{ended:?}");
}

#[test]
fn a_wiped_node_is_refused() {
    // 39: it would have forgotten whom it voted for.
    let _beside = beside_others();
    let scratch = Scratch::new("wiped");
    let mut nodes = Nodes::start(&plan(scratch.path(), 1), PATIENCE).expect("three nodes start");
    nodes.kill(2).expect("can be killed");
    fs::remove_dir_all(scratch.path().join(name(2))).expect("removed");
    let error = nodes.restart(2, PATIENCE).expect_err("it must not come back so");
    assert!(error.to_string().contains("known with another disk"), "{error}");
    let client = margay::client::Client::builder().endpoints(nodes.endpoints());
    let client = client.connect().expect("the others serve");
    client.value("after").wait().expect("opens").set(b"x").wait().expect("writes");
}

#[test]
fn a_term_from_the_future_does_not_stop_a_cluster() {
    // 40, 42: somebody who knows the incarnation of a node claims the last term there is.
    let _beside = beside_others();
    let scratch = Scratch::new("future");
    let nodes = Nodes::start(&plan(scratch.path(), 1), PATIENCE).expect("three nodes start");
    let endpoints = nodes.endpoints();
    crate::peer::claim_terms_from_the_future(&endpoints);
    let client = margay::client::Client::builder().endpoints(endpoints).timeout(PATIENCE);
    let client = client.connect().expect("connects");
    client.value("after").wait().expect("opens").set(b"x").wait().expect("writes");
}

#[test]
fn descriptors_that_run_out_are_no_end() {
    // 33
    let _beside = beside_others();
    let scratch = Scratch::new("descriptors");
    let node = Single::start(&scratch.path().join("n1"), "ulimit -n 640");
    let mut refused = 0;
    let mut kept = Vec::new();
    for _ in 0..300 {
        let mut raw = Raw::dial(&node.endpoint);
        raw.send(&margay::wire::Hello::client(Default::default(), Default::default()).encode());
        match raw.hello().code {
            Code::OK => kept.push(raw),
            Code::TOO_MANY_CONNECTIONS => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(refused >= 100 && kept.len() >= 64, "{refused} refused, {} kept", kept.len());
    drop(kept);
    until("connections to be taken again", || {
        node.margay(&["value", "set", "x", "y"]).code == Some(0)
    });
}

#[test]
fn sigterm_under_load_ends_well_and_loses_nothing() {
    // 52
    let _beside = beside_others();
    let scratch = Scratch::new("sigterm");
    let data = scratch.path().join("n1");
    let node = Single::start(&data, "");
    let endpoint = [node.endpoint.clone()];
    let client = margay::client::Client::builder().endpoints(endpoint.clone()).timeout(PATIENCE);
    let client = client.connect().expect("connects");
    let counter = client.counter("hits").wait().expect("opens");
    let mut answers: Vec<_> = (0..400).map(|_| counter.increment()).collect();
    let rest = answers.split_off(100);
    answers.into_iter().for_each(|answer| assert!(answer.wait().is_ok()));
    assert_eq!(node.stop(), Some(0));
    let node = Single::start(&data, "");
    let json = node.margay(&["counter", "get", "hits", "-o", "json"]).with(0).json();
    assert!(json["value"].as_i64() >= Some(100), "{json}");
    drop(rest);
}

#[test]
fn more_shards_than_cpus_and_small_limits_start_all_the_same() {
    // 53
    let _beside = beside_others();
    let scratch = Scratch::new("small");
    let node = Single::start(&scratch.path().join("n1"), "ulimit -n 1024; ulimit -l 8192");
    node.margay(&["value", "set", "x", "y"]).with(0);
    drop(node);
    let limits = "ulimit -n 100";
    let mut command = Command::new("sh");
    let script = format!("{limits}\nexec \"$@\"");
    command.args(["-c", &script, "sh", MARGAY, "serve", "--listen", "127.0.0.1:0", "--data"]);
    command.arg(scratch.path().join("n2"));
    let ended = run(command);
    assert_ne!(ended.code, Some(0));
    assert!(ended.err.contains("ulimit -n"), "{ended:?}");
    assert!(!ended.err.contains("panicked"), "{ended:?}");
}
