//! Clusters of real processes that take certificates alone: they are used as ever, and whoever
//! comes with a wrong one, or with none, is told so.

use std::fs::{self, File};
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use margay::tls::Tls;

use super::{shown, tls};
use crate::harness::{
    Ended, MARGAY, PATIENCE, Scratch, beside_others, for_cluster, plan, run, run_within, until,
    until_or,
};
use crate::nodes::{Identities, Nodes, name};
use crate::sys;

/// An authority, `ca`, with folders for three nodes, an operator and a client, in `id`.
fn identities(dir: &Path) -> Identities {
    tls(dir, "init ca").with(0);
    for node in 0..3 {
        tls(dir, &format!("issue id/{} node --ca ca", name(node))).with(0);
    }
    tls(dir, "issue id/admin operator --ca ca").with(0);
    tls(dir, "issue id/app client --ca ca").with(0);
    let id = dir.join("id");
    let own = Tls::open(id.join("admin")).expect("it is right");
    Identities { dir: id, own }
}

/// Three nodes with two groups, and where folders for `--tls` are.
struct World {
    nodes: Nodes,
    scratch: Scratch,
}

impl World {
    fn start(test: &str) -> World {
        let scratch = Scratch::new(test);
        let mut plan = plan(scratch.path(), 2);
        plan.tls = Some(identities(scratch.path()));
        let nodes = Nodes::start(&plan, PATIENCE).expect("three nodes start");
        World { nodes, scratch }
    }

    fn dir(&self) -> &Path {
        self.scratch.path()
    }

    fn id(&self, who: &str) -> PathBuf {
        self.dir().join("id").join(who)
    }

    /// Runs `margay` as somebody against all nodes, or one.
    fn margay(&self, who: &str, at: Option<usize>, args: &str) -> Ended {
        let endpoints = match at {
            Some(node) => self.nodes.endpoints()[node].clone(),
            None => self.nodes.endpoints().join(","),
        };
        let mut command = Command::new(MARGAY);
        command.args(args.split(' ')).env("MARGAY_ENDPOINTS", endpoints);
        match who {
            "" => command.env_remove("MARGAY_TLS"),
            who => command.env("MARGAY_TLS", self.id(who)),
        };
        run(command)
    }

    /// The same, until it ends and says so.
    #[track_caller]
    fn told(&self, who: &str, at: Option<usize>, args: &str, code: i32, words: &str) {
        let ended = || self.margay(who, at, args);
        let is_told = || {
            let ended = ended();
            ended.code == Some(code) && (ended.out.contains(words) || ended.err.contains(words))
        };
        let what = format!("'{who}' to be told '{words}' by {args}");
        until_or(&what, is_told, || format!("{:?}", ended()));
    }
}

/// A node that did not found the cluster. Dropping it kills it.
struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    fn join(world: &World, name: &str, who: &str) -> Process {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let mut command = Command::new(MARGAY);
        command.args(["serve", "--name", name, "--shards", "1"]);
        command.args(["--listen", &free.expect("a free port").to_string()]);
        command.args(["--join", &world.nodes.endpoints().join(",")]);
        command.arg("--data").arg(world.dir().join(name)).stdin(Stdio::null());
        if !who.is_empty() {
            command.arg("--tls").arg(world.id(who));
        }
        Process::start(command, world.dir().join(name).with_extension("log"))
    }

    fn start(mut command: Command, log: PathBuf) -> Process {
        command.stdout(Stdio::null()).stderr(File::create(&log).expect("a log file"));
        sys::die_with_parent(&mut command, libc::SIGKILL);
        Process { child: command.spawn().expect("it starts"), log }
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_cluster_is_used_with_certificates() {
    let _beside = beside_others();
    let mut world = World::start("tls-cluster");
    for node in 0..3 {
        let put = format!("map put users key-{node} value-{node} --timeout 60s");
        world.margay("app", Some(node), &put).with(0);
        for other in 0..3 {
            let get = format!("map get users key-{node} --timeout 60s");
            let got = world.margay("app", Some(other), &get).with(0).out;
            assert_eq!(got, format!("value-{node}\n"));
        }
    }
    world.margay("app", None, "cluster verify --timeout 60s").with(0);
    let bench = "bench --connections 4 --inflight 4 --seconds 500ms -o json";
    let bench = world.margay("app", None, bench).with(0).json();
    assert!(bench["ops"].as_u64() > Some(10) && bench["errors"] == 0, "{bench}");

    let mut leader = None;
    until("a leader", || {
        leader = world.nodes.leader(0);
        leader.is_some()
    });
    let leader = leader.expect("it was waited for");
    world.nodes.kill(leader).expect("can be killed");
    world.margay("app", None, "map put users later value --timeout 60s").with(0);
    assert_eq!(world.margay("app", None, "map size users --timeout 60s").with(0).out, "4\n");
    world.nodes.restart(leader, PATIENCE).expect("it comes back");

    tls(world.dir(), "issue id/n4 node --ca ca").with(0);
    let fourth = Process::join(&world, "n4", "n4");
    let is_member = |list: &str| {
        let status = world.margay("app", None, "cluster status --timeout 60s -o json").json();
        let groups = status.as_array().expect("a list");
        groups.iter().all(|group| group[list].to_string().contains("\"n4\""))
    };
    until_or("n4 to be a learner", || is_member("learners"), || fourth.said());

    // What an operator may do, a client may not.
    for verb in ["promote n4", "remove n2", "transfer-leader n3", "demote n1"] {
        let denied = world.margay("app", None, &format!("cluster {verb} --timeout 60s"));
        let words = ["it takes an operator's certificate", "--tls"];
        assert!(words.iter().all(|word| denied.err.contains(word)), "{denied:?}");
        denied.with(2);
    }
    assert!(is_member("learners"));
    let promoted = world.margay("admin", None, "cluster promote n4 --timeout 60s --wait 60s");
    assert_eq!(promoted.with(0).out, "n4 votes in 2 of 2 groups\n");
    assert!(is_member("voters"));
}

#[test]
fn every_verb_does_over_tls_what_it_should() {
    let _beside = beside_others();
    let world = World::start("tls-verbs");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/verbs.sh");
    let mut command = Command::new("bash");
    command.arg(script).env("MARGAY", MARGAY).env("MARGAY_TLS", world.id("app"));
    command.env("MARGAY_ENDPOINTS", world.nodes.endpoints().join(","));
    let ended = run_within(Duration::from_secs(600), command).with(0);
    assert!(ended.err.contains("tried: manage"), "{}", ended.err);
}

#[test]
fn whoever_has_not_the_right_certificate_is_told_what_is_wrong() {
    let _beside = beside_others();
    let world = World::start("tls-strangers");
    let dir = world.dir();
    let get = "value get greeting --timeout 2s";
    world.margay("app", None, "value set greeting hello --timeout 60s").with(0);
    for status in [get, "cluster status --timeout 2s", "cluster promote n1 --timeout 2s"] {
        world.told("", None, status, 3, "use --tls");
    }
    // Of another authority: whom he does not know, and who does not know him.
    tls(dir, "init other").with(0);
    tls(dir, "issue id/foreign client --ca other").with(0);
    world.told("foreign", None, get, 3, "the certificate is not from an authority in ca.pem");
    let mut trusts_all = File::options().append(true).open(world.id("foreign").join("ca.pem"));
    let ours = fs::read(dir.join("ca/ca.pem")).expect("it is there");
    trusts_all.as_mut().expect("it is there").write_all(&ours).expect("is written");
    world.told("foreign", None, get, 3, "does not know the authority of this certificate");
    tls(dir, "issue id/n4 node --ca other").with(0);
    let fourth = Process::join(&world, "n4", "n4");
    let is_told = || fourth.said().contains("the certificate is not from an authority in ca.pem");
    until_or("the foreign node to be told", is_told, || fourth.said());
    let plain = Process::join(&world, "n5", "");
    until_or("the plain node to be told", || plain.said().contains("use --tls"), || plain.said());

    // One's own certificate is looked at before anybody is asked.
    tls(dir, "issue id/short client --ca ca --valid 1s").with(0);
    world.told("short", None, get, 2, "short/cert.pem: the certificate has expired");
    world.told("nobody", None, get, 2, "nobody/ca.pem: No such file");

    // The other way round: nodes without it.
    let folder = world.id("app").to_string_lossy().into_owned();
    let words = "serves it without --tls?";
    let ended = || run(for_cluster(&["value", "get", "x", "--timeout", "2s", "--tls", &folder]));
    let is_told = || {
        let ended = ended();
        ended.code == Some(3) && ended.err.contains(words)
    };
    until_or("a plain node to be told of", is_told, || format!("{:?}", ended()));
    assert_eq!(
        world.margay("app", None, "value get greeting --timeout 60s").with(0).out,
        "hello\n"
    );
}

#[test]
fn certificates_and_authorities_are_replaced_while_all_runs() {
    let _beside = beside_others();
    let mut world = World::start("tls-replaced");
    let dir = world.dir().to_path_buf();
    let get = "value get greeting --timeout 2s";
    world.margay("app", None, "value set greeting hello --timeout 60s").with(0);

    // A certificate that is taken back.
    tls(&dir, "issue id/stolen client --ca ca").with(0);
    world.told("stolen", None, get, 0, "hello");
    tls(&dir, "revoke --ca ca id/stolen").with(0);
    let nodes = [0, 1, 2].map(name);
    for node in &nodes {
        fs::copy(dir.join("ca/crl.pem"), world.id(node).join("crl.pem")).expect("is copied");
    }
    for at in 0..3 {
        world.told("stolen", Some(at), get, 3, "this certificate is revoked");
        world.told("app", Some(at), get, 0, "hello");
    }

    // Another authority, first beside the old one.
    tls(&dir, "init ca2").with(0);
    tls(&dir, "issue id/new client --ca ca2").with(0);
    world.told("new", None, get, 3, "not from an authority in ca.pem");
    let new = fs::read(dir.join("ca2/ca.pem")).expect("it is there");
    for who in nodes.iter().map(String::as_str).chain(["app", "admin"]) {
        let mut file = File::options().append(true).open(world.id(who).join("ca.pem"));
        file.as_mut().expect("it is there").write_all(&new).expect("is written");
    }
    for node in &nodes {
        tls(&dir, &format!("issue id/{node} node --ca ca2 --renew")).with(0);
        assert_eq!(shown(&dir, &format!("id/{node}"), 0).len(), 3);
    }
    for at in 0..3 {
        world.told("new", Some(at), get, 0, "hello");
        world.told("app", Some(at), get, 0, "hello");
    }
    // Nodes find each other with what they have now: none of these connections is an old one.
    world.nodes.kill(2).expect("can be killed");
    world.nodes.kill(1).expect("can be killed");
    world.nodes.restart(1, PATIENCE).expect("it comes back");
    world.margay("new", None, "value set greeting hello --timeout 60s").with(0);
    world.nodes.restart(2, PATIENCE).expect("it comes back");
    // Then without the old one.
    for node in &nodes {
        fs::copy(dir.join("ca2/ca.pem"), world.id(node).join("ca.pem")).expect("is copied");
        fs::remove_file(world.id(node).join("crl.pem")).expect("it is there");
    }
    for at in 0..3 {
        world.told("app", Some(at), get, 3, "does not know the authority of this certificate");
        world.told("new", Some(at), get, 0, "hello");
    }
}

#[test]
fn a_node_does_not_start_with_a_folder_that_is_not_right() {
    let scratch = Scratch::new("tls-serve");
    let dir = scratch.path();
    identities(dir);
    let serve = |args: &[&str]| {
        let mut command = Command::new(MARGAY);
        command.args(["serve", "--data", "data", "--shards", "1"]).args(args).current_dir(dir);
        command
    };
    let refused = |who: &str, words: &[&str]| {
        let ended = run(serve(&["--listen", "127.0.0.1:0", "--tls", who])).with(2);
        assert!(words.iter().all(|word| ended.err.contains(word)), "{words:?}: {ended:?}");
    };
    refused("id/nobody", &["id/nobody/ca.pem: No such file", "margay tls issue"]);
    refused("id/app", &["no node's", "node.margay.internal"]);
    let (key, other) = (dir.join("id/n1/key.pem"), dir.join("id/n2/key.pem"));
    fs::copy(&other, &key).expect("is copied");
    refused("id/n1", &["id/n1/key.pem: it is not the key of cert.pem"]);
    fs::remove_file(&key).expect("it is there");
    refused("id/n1", &["id/n1/key.pem: No such file"]);
    fs::write(dir.join("id/n2/ca.pem"), "hello").expect("is written");
    refused("id/n2", &["id/n2/ca.pem: no certificate in PEM"]);
    tls(dir, "init other").with(0);
    fs::copy(dir.join("other/ca.pem"), dir.join("id/n3/ca.pem")).expect("is copied");
    refused("id/n3", &["id/n3/cert.pem", "not from an authority in ca.pem"]);
    tls(dir, "issue id/n4 node --ca ca --valid 1s").with(0);
    until("a second to be over", || tls(dir, "show id/n4").code == Some(1));
    refused("id/n4", &["id/n4/cert.pem: the certificate has expired"]);
    assert!(!dir.join("data").exists(), "nothing is made before the options are right");

    // In a file, too.
    fs::write(dir.join("margay.toml"), "tls = \"id/nobody\"\n").expect("is written");
    let ended = run(serve(&["--config", "margay.toml"])).with(2);
    assert!(ended.err.contains("id/nobody/ca.pem"), "{ended:?}");

    // Who knows whom it talks to may listen where everybody reaches it.
    tls(dir, "issue id/n5 node --ca ca --valid 3d").with(0);
    let public = serve(&["--listen", "0.0.0.0:0", "--tls", "id/n5"]);
    let public = Process::start(public, dir.join("log"));
    until_or("a public address", || public.said().contains("on 0.0.0.0:"), || public.said());
    let warns = || public.said().contains("the own certificate expires within 14 days");
    until_or("a warning in time", warns, || public.said());
}
