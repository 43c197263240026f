//! Options, directories, limits and ends of a process.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io::{self, BufRead, BufReader};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use margay::machine::Code;
use margay::resource::Reply;
use margay::wire::Hello;
use margay_log::id::{ClusterId, GroupId};

use super::{One, Wire, connect, ends, serve, serves};
use crate::harness::{Scratch, beside_others, until};
use crate::sys;

/// The same command with one argument replaced.
fn with(command: &Command, argument: &str, other: &str) -> Command {
    let mut changed = Command::new(command.get_program());
    let swap = |arg| if arg == OsStr::new(argument) { OsStr::new(other) } else { arg };
    changed.args(command.get_args().map(swap)).stdin(Stdio::null());
    changed
}

/// Starts a command with a limit that it may not raise again: root could.
fn limited(limit: &str) -> Vec<&str> {
    let is_root = fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    let weak = ["setpriv", "--bounding-set=-sys_resource,-ipc_lock"];
    ["prlimit", limit].into_iter().chain(weak.into_iter().filter(|_| is_root)).collect()
}

#[test]
fn options_that_cannot_be_are_refused_with_the_remedy() {
    let scratch = Scratch::new("bad-options");
    let data = scratch.path().join("data");
    let refused = |args: &[&str], words: &[&str]| {
        ends(serve(&[], &data, args), scratch.path()).because(2, words);
    };
    let public = with(&serve(&[], &data, &[]), "127.0.0.1:0", "0.0.0.0:0");
    let ended = ends(public, scratch.path());
    ended.because(2, &["0.0.0.0:0", "--tls", "127.0.0.1", "--unsafe-no-auth"]);
    refused(&["--shards", "1000"], &["--shards 1000", "between 1 and 128"]);
    refused(&["--snapshot-after", "4KiB"], &["--snapshot-after 4096", "at least 65536 bytes"]);
    refused(&["--cpus", "4096"], &["cpu 4096"]);
    refused(&["--cpus", "0", "--shards", "2"], &["--cpus names 1 cpus for 2 shards"]);
    refused(&["--cpus", "0,0"], &["--cpus names cpu 0 twice"]);
    refused(&["--peers", "n2=127.0.0.1:1"], &["n1 is not among them"]);
    let twins = "n1=127.0.0.1:1,n2=127.0.0.1:1";
    refused(&["--peers", twins], &["share a name or an address"]);
    assert!(!data.exists(), "nothing is made before the options are right");
    let typo = ends(serve(&[], &data, &["--lisen", "x"]), scratch.path()).with(2);
    assert!(typo.err.contains("'--listen'"), "{typo:?}");
    let twice = ends(serve(&[], &data, &["--name", "n2"]), scratch.path()).with(2);
    assert!(twice.err.contains("'--name <NAME>' cannot be used multiple times"), "{twice:?}");
    for (option, text, words) in [
        ("--shards", "0", "0 is not in"),
        ("--shards", "two", "'two'"),
        ("--peers", "n1", "NAME=HOST:PORT"),
        ("--cpus", "1k", "'1k'"),
    ] {
        let ended = ends(serve(&[], &data, &[&format!("{option}={text}")]), scratch.path()).with(2);
        assert!(ended.err.contains(words) && ended.err.contains(option), "{ended:?}");
    }
}

#[test]
fn a_directory_belongs_to_one_process_one_node_and_one_user() {
    let _beside = beside_others();
    let scratch = Scratch::new("bad-directory");
    let data = scratch.path().join("data");
    let one = One::start(scratch.path());
    let pid = format!("process {}", one.child.id());
    let refused = |before: &[&str], args: &[&str], code: i32, words: &[&str]| {
        ends(serve(before, &data, args), scratch.path()).because(code, words);
    };
    refused(&[], &["--shards", "1"], 1, &["data is in use by", &pid, "--data"]);
    let port = serve(&[], &scratch.path().join("other"), &[]);
    let (port, address) = (with(&port, "127.0.0.1:0", &one.address), one.address.as_str());
    ends(port, scratch.path()).because(1, &["cannot listen on", address, "already"]);
    one.serves();
    assert_eq!(one.stop(), Some(0));

    let other = with(&serve(&[], &data, &[]), "n1", "n2");
    ends(other, scratch.path()).because(1, &["belongs to node n1", "--name n2"]);
    let groups = with(&serve(&[], &data, &[]), "1", "7");
    ends(groups, scratch.path()).because(1, &["founded with 1 groups", "--groups 7"]);

    fs::set_permissions(&data, Permissions::from_mode(0o777)).expect("ours");
    refused(&[], &[], 1, &["can be written to by everybody", "chmod o-w"]);
    fs::set_permissions(&data, Permissions::from_mode(0o700)).expect("ours");
    let link = scratch.path().join("link");
    symlink(&data, &link).expect("a link");
    let ended = ends(serve(&[], &link, &[]), scratch.path());
    ended.because(1, &["link", "symbolic link"]);
    let file = scratch.path().join("log");
    ends(serve(&[], &file, &[]), scratch.path()).because(1, &["cannot use", "log"]);
    One::start(scratch.path()).serves();
}

#[test]
fn a_copy_of_a_directory_does_not_run_beside_its_original() {
    let _beside = beside_others();
    let scratch = Scratch::new("bad-copy");
    let one = One::start(scratch.path());
    let (data, copy) = (scratch.path().join("data"), scratch.path().join("copy"));
    let mut cp = Command::new("cp");
    cp.arg("-a").args([&data, &copy]);
    crate::harness::run(cp).with(0);
    let words = ["n1 runs already, at", &one.address, "copy"];
    ends(serve(&[], &copy, &["--shards", "1"]), scratch.path()).because(1, &words);
    one.serves();
    assert_eq!(one.stop(), Some(0));
    // Alone it may: the machine of the original is gone, and this one has been put in its place.
    let moved = One::launch(serve(&[], &copy, &["--shards", "1"]), scratch.path());
    moved.serves();
    assert!(moved.said().contains("if it has moved, say margay cluster add n1="));
}

/// Names of nodes are looked up again and again. Who is told to end does not wait for that.
#[test]
fn a_node_ends_while_a_resolver_does_not_answer() {
    let _beside = beside_others();
    let scratch = Scratch::new("bad-resolver");
    let file = |name: &str, text: &str| {
        let path = scratch.path().join(name);
        fs::write(&path, text).expect("ours");
        path.to_string_lossy().into_owned()
    };
    let hosts = file("hosts", "127.0.0.1 localhost n1.test\n");
    // Who waited for it would do so for longer than anything here may take.
    let resolver = "nameserver 10.9.9.2\noptions timeout:30 attempts:5\n";
    let resolver = file("resolv.conf", resolver);
    // What leaves by a dummy device, or by one whose input nothing is led to, is lost. $0 are the
    // hosts, $1 is the resolver.
    let script = "ip link set lo up && \
                  { ip link add none type dummy || ip link add none type ifb; } && \
                  ip address add 10.9.9.1/24 dev none && ip link set none up && \
                  mount --bind \"$0\" /etc/hosts && mount --bind \"$1\" /etc/resolv.conf && \
                  shift && exec \"$@\"";
    let before = ["unshare", "--mount", "--net", "sh", "-c", script, &hosts, &resolver];
    let mut trial = Command::new(before[0]);
    trial.args(&before[1..]).arg("true");
    let may = crate::harness::run(trial);
    if may.code != Some(0) {
        println!("skipped: no network of its own can be made here: {}", may.err.trim());
        return;
    }
    let args = ["--shards", "1", "--peers", "n1=n1.test:5150"];
    let command = serve(&before, &scratch.path().join("data"), &args);
    let one = One::listen(command, scratch.path());
    file("hosts", "127.0.0.1 localhost\n");
    let sockets = format!("/proc/{}/net/udp", one.child.id());
    until("its name to be looked up", || {
        fs::read_to_string(&sockets).is_ok_and(|sockets| sockets.contains("0209090A:0035"))
    });
    assert_eq!(one.stop(), Some(0));
}

/// Others reach it through an address that it does not have: another port of the machine around it.
#[test]
fn a_node_behind_a_mapped_port_knows_itself() {
    let _beside = beside_others();
    let scratch = Scratch::new("bad-mapped");
    let mapped = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = mapped.local_addr().expect("its address");
    // Nobody else is given this one meanwhile: all other tests are at 127.0.0.1.
    let own = TcpListener::bind("127.0.0.2:0").expect("a free port");
    let listen = own.local_addr().expect("its address").to_string();
    drop(own);
    let to = listen.clone();
    thread::spawn(move || {
        for stream in mapped.incoming().flatten() {
            let Ok(other) = TcpStream::connect(&to) else { continue };
            for (mut from, mut to) in [(&stream, &other), (&other, &stream)].map(|(from, to)| {
                (from.try_clone().expect("a descriptor"), to.try_clone().expect("a descriptor"))
            }) {
                thread::spawn(move || {
                    let _ = io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Write);
                });
            }
        }
    });
    let peers = format!("n1={address}");
    for shards in ["1", "3"] {
        let data = scratch.path().join("data");
        let command = serve(&[], &data, &["--shards", shards, "--peers", &peers]);
        let one = One::launch(with(&command, "127.0.0.1:0", &listen), scratch.path());
        serves(&address.to_string());
        assert!(!one.said().contains("the cluster knows n1 at"), "{}", one.said());
        assert_eq!(one.stop(), Some(0));
    }
}

#[test]
fn a_directory_in_memory_works_and_says_so() {
    let _beside = beside_others();
    let scratch = Scratch::new("bad-memory");
    let data = format!("/dev/shm/margay-bad-{}", std::process::id());
    let command = serve(&[], data.as_ref(), &["--shards", "1"]);
    let one = One::launch(command, scratch.path());
    one.serves();
    let said = one.said();
    let code = one.stop();
    let _ = fs::remove_dir_all(&data);
    assert!(said.contains("is in memory: nothing survives"), "{said}");
    assert_eq!(said.matches("is in memory").count(), 1, "said once: {said}");
    assert_eq!(code, Some(0));
}

#[test]
fn a_machine_that_gives_too_little_is_named_with_the_remedy() {
    let _beside = beside_others();
    let scratch = Scratch::new("bad-limits");
    let data = scratch.path().join("data");
    let low = limited("--memlock=65536:65536");
    let ended = ends(serve(&low, &data, &["--shards", "1"]), scratch.path());
    ended.because(1, &["locked memory: 64 KiB allowed, 512 KiB needed", "ulimit -l"]);
    let few = limited("--nofile=100:100");
    let ended = ends(serve(&few, &data, &["--shards", "1"]), scratch.path());
    ended.because(1, &["open files: 100 allowed, 576 needed", "ulimit -n"]);

    let cpus = thread::available_parallelism().expect("known").get();
    let shards = (cpus + 2).to_string();
    let one = One::launch(serve(&[], &data, &["--shards", &shards]), scratch.path());
    one.serves();
    let words = format!("{cpus} cpus for {shards} shards: threads are not pinned");
    assert!(one.said().contains(&words), "{}", one.said());
    assert_eq!(one.stop(), Some(0));
    let narrow = ["taskset", "-c", "0"];
    let one = One::launch(serve(&narrow, &data, &["--shards", "2"]), scratch.path());
    one.serves();
    assert!(one.said().contains("1 cpus for 2 shards"), "{}", one.said());
    assert_eq!(one.stop(), Some(0));
}

#[test]
fn more_connections_than_descriptors_are_refused_and_the_others_served() {
    let _beside = beside_others();
    let scratch = Scratch::new("bad-connections");
    let data = scratch.path().join("data");
    let few = limited("--nofile=600:600");
    let one = One::launch(serve(&few, &data, &["--shards", "1"]), scratch.path());
    assert!(one.said().contains("open files: 600, so 88 connections"), "{}", one.said());
    let client = connect(&one.address);
    let counter = client.counter("bad-connections").wait().expect("opens");
    let mut wires: Vec<Wire> = (0..200).map(|_| Wire::dial(&one.address)).collect();
    let mut last = wires.pop().expect("many");
    assert_eq!(last.hello().code, Code::TOO_MANY_CONNECTIONS);
    let (_, code, text) = last.refusal();
    assert_eq!(code, Code::TOO_MANY_CONNECTIONS);
    assert!(text.contains("too many connections: this node takes 88"), "{text}");
    last.closed();
    counter.increment().wait().expect("who was there before is served");
    drop(wires);
    one.serves();
    assert!(one.said().contains("connection refused: too many connections"), "{}", one.said());
}

/// SIGTERM, SIGKILL and SIGTERM while a client adds without pause: it stops in order, soon, and no
/// acknowledged addition is lost.
#[test]
fn a_node_that_is_ended_in_the_middle_of_work_loses_nothing() {
    let _beside = beside_others();
    let scratch = Scratch::new("bad-end");
    let (mut acknowledged, mut took) = (0, Vec::new());
    for signal in [libc::SIGTERM, libc::SIGKILL, libc::SIGTERM] {
        let mut one = One::start(scratch.path());
        let client = connect(&one.address).with_timeout(Duration::from_secs(5));
        let counter = client.counter("bad-end").wait().expect("opens");
        let kept = counter.get().wait().expect("reads");
        assert!(kept >= acknowledged, "{acknowledged} acknowledged, {kept} kept");
        let mut open: Vec<Reply<i64>> = Vec::new();
        while acknowledged < kept + 500 {
            open.extend((0..100).map(|_| counter.increment()));
            let number = open.remove(0).wait().expect("adds");
            acknowledged = acknowledged.max(number);
        }
        let began = Instant::now();
        sys::signal(one.child.id(), signal);
        let code = one.wait();
        let clean = (signal == libc::SIGTERM).then_some(0);
        clean.inspect(|_| took.push(began.elapsed()));
        assert_eq!(code, clean, "{}", one.said());
        let known = open.into_iter().filter_map(|reply| reply.wait().ok());
        acknowledged = known.fold(acknowledged, i64::max);
    }
    // The machine may stand still once.
    assert!(took.iter().any(|took| *took < Duration::from_secs(6)), "{took:?}");
    let one = One::start(scratch.path());
    let counter = connect(&one.address).counter("bad-end").wait().expect("opens");
    let kept = counter.get().wait().expect("reads");
    assert!(kept >= acknowledged, "{acknowledged} acknowledged, {kept} kept");
    one.serves();
}

/// Whoever reads the log goes away: the node goes on without a reader.
#[test]
fn a_node_whose_log_nobody_reads_goes_on() {
    let _beside = beside_others();
    let scratch = Scratch::new("bad-pipe");
    let mut command = serve(&[], &scratch.path().join("data"), &["--shards", "1"]);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    sys::die_with_parent(&mut command, libc::SIGKILL);
    let mut child = command.spawn().expect("starts");
    let log = scratch.path().join("log");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let address = lines.by_ref().map_while(Result::ok).find_map(|line| {
        let rest = line.split("listening on ").nth(1)?.to_owned();
        rest.split(' ').next().map(str::to_owned)
    });
    drop(lines);
    let one = One { child, address: address.expect("it listens"), log };
    for _ in 0..3 {
        // Each is worth a line.
        let mut wire = Wire::dial(&one.address);
        wire.send(b"GET / HTTP/1.1\r\n\r\n");
        assert!(wire.rest().starts_with(b"HTTP/1.1 400"));
        let mut hello = Hello::client(ClusterId(0), GroupId(0)).encode();
        hello[61] ^= 1;
        let mut wire = Wire::dial(&one.address);
        wire.send(&hello);
        assert_eq!(wire.hello().code, Code::CORRUPT);
        serves(&one.address);
    }
    assert_eq!(one.stop(), Some(0));
}

/// A node that waits for others, to join or to found, is stopped like any other.
#[test]
fn a_node_that_waits_for_others_stops_in_order() {
    let _beside = beside_others();
    let scratch = Scratch::new("bad-wait");
    for (belongs, sign) in [("--join", "not joined yet"), ("--peers", "waiting for")] {
        // Held and not listened on by anybody who would answer.
        let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
        let other = silent.local_addr().expect("has an address").to_string();
        let others = match belongs {
            "--join" => other,
            _ => format!("n1=127.0.0.1:1,n2={other}"),
        };
        let mut command = serve(&[], &scratch.path().join(belongs), &[belongs, &others]);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        sys::die_with_parent(&mut command, libc::SIGKILL);
        let mut child = command.spawn().expect("starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let mut said = lines.by_ref().map_while(Result::ok);
        assert!(said.any(|line| line.contains(sign)), "{belongs}: it never said '{sign}'");
        sys::signal(child.id(), libc::SIGTERM);
        let rest: Vec<String> = said.collect();
        let code = child.wait().expect("ends").code();
        assert_eq!(code, Some(0), "{belongs}: {rest:?}");
    }
}
