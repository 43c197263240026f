//! The runtime of a node on real sockets, with groups that only echo: hostile bytes, many
//! connections, more groups than shards and more shards than processors, founding, and an orderly
//! end.

mod peers;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use margay::error::Error;
use margay::forming::Peer;
use margay::machine::Code;
use margay::replica::{ConnId, Fatal, Fault, Host};
use margay::server::{Group, MakeGroup, Seed, Server, ServerConfig};
use margay::wire::{self, Frame, HELLO_BYTES, Hello, HelloKind, Kind};
use margay_log::Buffer;
use margay_log::disk::Done;
use margay_log::id::{ClusterId, GroupId, Micros, NodeId};

use crate::PATIENCE;

/// Sends every frame back, with the number of its group.
struct Echo(GroupId);

impl Group for Echo {
    fn on_peer(
        &mut self,
        _: Micros,
        _: NodeId,
        _: &Frame<'_>,
        _: Option<Buffer>,
        _: &mut dyn Host,
    ) -> Result<(), Fault> {
        Ok(())
    }

    fn on_peer_down(&mut self, _: Micros, _: NodeId, _: &mut dyn Host) {}

    fn on_client(
        &mut self,
        _: Micros,
        conn: ConnId,
        frame: &Frame<'_>,
        host: &mut dyn Host,
    ) -> Result<(), Fault> {
        if let Some(out) = host.client(conn) {
            wire::encode(out, Kind::Reply, 0, frame.a, self.0.0.into(), &[frame.body]);
        }
        if frame.b == CLOSE {
            host.close(conn);
        }
        Ok(())
    }

    fn on_client_gone(&mut self, _: ConnId) {}

    fn on_disk(&mut self, _: Micros, _: Done, _: &mut dyn Host) -> Result<(), Fatal> {
        Ok(())
    }

    fn flush(&mut self, _: Micros, _: &mut dyn Host) -> Result<(), Fatal> {
        Ok(())
    }

    fn deadline(&self) -> Option<Micros> {
        None
    }
}

/// A frame with this `b` is echoed, and the connection closed.
const CLOSE: u64 = 77;

fn echo() -> MakeGroup {
    Arc::new(|seed: Seed, _| Ok(Box::new(Echo(seed.group)) as Box<dyn Group>))
}

/// A directory that goes away with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("margay-shard-{}-{number}", std::process::id());
        Scratch(std::env::temp_dir().join(name))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn alone(data: &Path) -> ServerConfig {
    let mut config = ServerConfig::new("n1", data);
    config.listen = "127.0.0.1:0".parse().expect("an address");
    config.shards = Some(1);
    config.groups = Some(1);
    config
}

fn start(config: &ServerConfig) -> Server {
    Server::start(config, echo(), &AtomicBool::new(false)).expect("the node starts")
}

pub(crate) fn dial(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the node listens");
    stream.set_nodelay(true).expect("a socket option");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
    stream
}

fn connect(address: SocketAddr, group: u32) -> TcpStream {
    let mut stream = dial(address);
    stream.write_all(&Hello::client(ClusterId(0), GroupId(group)).encode()).expect("sent");
    let hello = read_hello(&mut stream);
    assert_eq!(hello.code, Code::OK);
    stream
}

pub(crate) fn read_hello(stream: &mut impl Read) -> Hello {
    let mut bytes = [0; HELLO_BYTES];
    stream.read_exact(&mut bytes).expect("a hello comes back");
    Hello::decode(&bytes).expect("a right hello")
}

pub(crate) fn read_frame(stream: &mut impl Read) -> Vec<u8> {
    let mut bytes = vec![0; wire::HEADER];
    stream.read_exact(&mut bytes).expect("a header");
    let length = wire::peek(&bytes).expect("a right header").expect("a whole header");
    bytes.resize(length, 0);
    stream.read_exact(&mut bytes[wire::HEADER..]).expect("a body");
    bytes
}

/// Everything until the other side closes, kindly or not.
pub(crate) fn read_all(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    match stream.read_to_end(&mut all) {
        Ok(_) => {}
        Err(e) if e.kind() == ErrorKind::ConnectionReset => {}
        Err(e) => panic!("not closed: {e}"),
    }
    all
}

fn request(number: u64, size: usize) -> Vec<u8> {
    let mut out = Vec::new();
    wire::encode(&mut out, Kind::Command, 0, number, 0, &[&vec![number as u8; size]]);
    out
}

fn check_echo(stream: &mut TcpStream, number: u64, size: usize, group: u32) {
    let bytes = read_frame(stream);
    let frame = wire::decode(&bytes).expect("a whole frame");
    assert_eq!((frame.a, frame.b, frame.body.len()), (number, u64::from(group), size));
    assert!(frame.body.iter().all(|byte| *byte == number as u8));
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// However frames are cut on their way, each comes back once, in order; large ones too.
#[test]
fn frames_arrive_however_they_are_cut() {
    let scratch = Scratch::new();
    let server = start(&alone(&scratch.0));
    let sizes = [0, 1, 16, 100, 8_150, 8_192, 20_000, 1_000_000, 3];
    let mut stream = connect(server.address(), 0);
    let all: Vec<u8> = (0..).zip(sizes).flat_map(|(n, size)| request(n, size)).collect();
    for step in [1_usize, 13, 4_096, 100_000, usize::MAX] {
        let mut writer = stream.try_clone().expect("a second handle");
        // One byte at a time for the beginning only: a system call each.
        let mut cuts: Vec<&[u8]> = Vec::new();
        let head = all.len().min(step.saturating_mul(2_000));
        cuts.extend(all[..head].chunks(step.min(head)));
        cuts.push(&all[head..]);
        std::thread::scope(|scope| {
            scope.spawn(move || cuts.iter().for_each(|cut| writer.write_all(cut).expect("sent")));
            for (number, size) in (0..).zip(sizes) {
                check_echo(&mut stream, number, size, 0);
            }
        });
    }
    server.stop().expect("an orderly end");
}

/// Groups are served by the shard that owns them, whoever accepted the connection.
#[test]
fn connections_reach_the_shard_of_their_group() {
    let scratch = Scratch::new();
    let mut config = alone(&scratch.0);
    // More shards than this machine has processors, most likely, and more groups than shards.
    (config.shards, config.groups) = (Some(5), Some(11));
    let server = start(&config);
    assert_eq!((server.shards(), server.groups()), (5, 11));
    let mut streams: Vec<(u32, TcpStream)> =
        (0..11 * 4).map(|n| (n % 11, connect(server.address(), n % 11))).collect();
    for round in 0..50 {
        for (_, stream) in &mut streams {
            stream.write_all(&request(round, 64)).expect("sent");
        }
        for (group, stream) in &mut streams {
            check_echo(stream, round, 64, *group);
        }
    }
    let mut stranger = dial(server.address());
    stranger.write_all(&Hello::client(ClusterId(0), GroupId(11)).encode()).expect("sent");
    assert_eq!(read_hello(&mut stranger).code, Code::NO_SUCH_GROUP);
    let mut stranger = dial(server.address());
    stranger.write_all(&Hello::client(ClusterId(9), GroupId(0)).encode()).expect("sent");
    assert_eq!(read_hello(&mut stranger).code, Code::CLUSTER_MISMATCH);
    assert_eq!(server.stats().late_wakes, 0);
    server.stop().expect("an orderly end");
}

/// Who speaks another protocol is told so in it; nobody else is disturbed.
#[test]
fn strangers_are_answered_in_their_own_words() {
    let scratch = Scratch::new();
    let server = start(&alone(&scratch.0));
    let mut guest = connect(server.address(), 0);
    let cases: [(&[u8], &[u8]); 5] = [
        (b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 400"),
        (b"SSH-2.0-OpenSSH_9\r\n", b"this is a margay port"),
        (b"PING\r\n", b"-ERR this is a margay port"),
        (b"*1\r\n$4\r\nPING\r\n", b"-ERR this is a margay port"),
        (&[0x16, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3], &[0x15, 3, 1, 0, 2, 2, 70]),
    ];
    for (says, hears) in cases {
        let mut stream = dial(server.address());
        stream.write_all(says).expect("sent");
        let answer = read_all(&mut stream);
        assert!(answer.starts_with(hears), "{says:?} is answered {answer:?}");
    }
    let mut newer = Hello::client(ClusterId(0), GroupId(0)).encode();
    newer[8] = 99;
    let mut stream = dial(server.address());
    stream.write_all(&newer).expect("sent");
    assert_eq!(read_hello(&mut stream).code, Code::VERSION);

    // After the hello: a length of 4 GiB, a spoilt header, a spoilt body.
    let mut spoilt = request(1, 100);
    spoilt[60] ^= 1;
    let mut bad_header = request(1, 100);
    bad_header[9] ^= 1;
    for bytes in [&[0xff; 64][..], &bad_header, &spoilt] {
        let mut stream = connect(server.address(), 0);
        stream.write_all(bytes).expect("sent");
        let refusal = read_frame(&mut stream);
        assert_eq!(wire::decode(&refusal).expect("a whole frame").kind, Kind::Refused);
        assert!(read_all(&mut stream).is_empty());
    }
    guest.write_all(&request(5, 5)).expect("sent");
    check_echo(&mut guest, 5, 5, 0);
    server.stop().expect("an orderly end");
}

/// The last words of a group reach a client even if it is still talking.
#[test]
fn a_closed_connection_has_said_everything() {
    let scratch = Scratch::new();
    let server = start(&alone(&scratch.0));
    for _ in 0..20 {
        let mut stream = connect(server.address(), 0);
        let mut all = request(1, 100_000);
        wire::encode(&mut all, Kind::Command, 0, 2, CLOSE, &[&[2; 10]]);
        all.extend(request(3, 50_000));
        stream.write_all(&all).expect("sent");
        check_echo(&mut stream, 1, 100_000, 0);
        check_echo(&mut stream, 2, 10, 0);
        assert!(read_all(&mut stream).is_empty());
    }
    server.stop().expect("an orderly end");
}

/// Thousands come and go, some without a word, some in the middle of one; nothing is left of them.
#[test]
fn a_storm_of_connections_leaves_nothing_behind() {
    let scratch = Scratch::new();
    let mut config = alone(&scratch.0);
    config.shards = Some(2);
    let server = start(&config);
    let address = server.address();
    let mut guest = connect(address, 0);
    std::thread::scope(|scope| {
        for worker in 0..4_u64 {
            scope.spawn(move || {
                for n in 0..400 {
                    let mut stream = dial(address);
                    let hello = Hello::client(ClusterId(0), GroupId(0)).encode();
                    match (worker + n) % 4 {
                        0 => {}
                        1 => drop(stream.write_all(&hello[..20])),
                        2 => drop(stream.write_all(&hello)),
                        _ => {
                            let mut stream = connect(address, 0);
                            stream.write_all(&request(n, 3_000)[..1_000]).expect("sent");
                        }
                    }
                }
            });
        }
        for n in 0..200 {
            guest.write_all(&request(n, 64)).expect("sent");
            check_echo(&mut guest, n, 64, 0);
        }
    });
    eventually("only the guest is left", || server.stats().open == 1);
    guest.write_all(&request(9, 9)).expect("sent");
    check_echo(&mut guest, 9, 9, 0);
    server.stop().expect("an orderly end");
}

/// Silence after half a hello ends in time; so does a client that never reads, and only that one.
#[test]
fn patience_with_the_silent_ends() {
    let scratch = Scratch::new();
    let server = start(&alone(&scratch.0));
    let begun = Instant::now();
    let mut silent = dial(server.address());
    let mut half = dial(server.address());
    half.write_all(&Hello::client(ClusterId(0), GroupId(0)).encode()[..33]).expect("sent");

    let mut deaf = connect(server.address(), 0);
    deaf.set_write_timeout(Some(Duration::from_millis(500))).expect("a socket option");
    let flood = request(1, 1 << 20);
    let cut = (0..64).any(|_| deaf.write_all(&flood).is_err());
    assert!(cut, "somebody who reads nothing is not served for ever");

    assert_eq!(read_hello(&mut half).code, Code::BAD_FRAME);
    assert!(read_all(&mut silent).is_empty());
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(4) && took < PATIENCE, "{took:?}");
    drop(deaf);
    eventually("nobody is left", || server.stats().open == 0);
    server.stop().expect("an orderly end");
}

/// A node stops within a moment in the middle of traffic, and starts again as what it was.
#[test]
fn a_node_stops_and_starts_again() {
    let scratch = Scratch::new();
    let config = alone(&scratch.0);
    let (mut cluster, mut took) = (None, Vec::new());
    for _ in 0..3 {
        let server = start(&config);
        assert_eq!(*cluster.get_or_insert(server.cluster()), server.cluster());
        let address = server.address();
        let load: Vec<_> = (0..8)
            .map(|_| {
                std::thread::spawn(move || {
                    let mut stream = connect(address, 0);
                    let (frame, mut sink) = (request(1, 4_000), vec![0; 1 << 16]);
                    while stream.write_all(&frame).is_ok() {
                        match stream.read(&mut sink) {
                            Ok(1..) => {}
                            _ => return,
                        }
                    }
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(50));
        let twin = Server::start(&config, echo(), &AtomicBool::new(false));
        assert!(matches!(twin, Err(Error::Locked { pid, .. }) if pid == std::process::id()));
        let begun = Instant::now();
        server.stop().expect("an orderly end");
        took.push(begun.elapsed());
        load.into_iter().for_each(|thread| thread.join().expect("the load ends"));
    }
    // The machine may stand still once.
    assert!(took.iter().any(|took| *took < Duration::from_secs(4)), "{took:?}");
    let mut other = config.clone();
    other.name = "n2".to_owned();
    let error = Server::start(&other, echo(), &AtomicBool::new(false)).err();
    assert!(error.expect("refused").to_string().contains("belongs to node n1"));
    let mut other = config;
    other.groups = Some(2);
    let error = Server::start(&other, echo(), &AtomicBool::new(false)).err();
    assert!(error.expect("refused").to_string().contains("founded with 1 groups"));
}

#[test]
fn impossible_options_are_refused_with_a_remedy() {
    let scratch = Scratch::new();
    let refused = |change: fn(&mut ServerConfig)| {
        let mut config = alone(&scratch.0);
        change(&mut config);
        let error = Server::start(&config, echo(), &AtomicBool::new(false)).err().expect("refused");
        assert_eq!(error.exit_code(), 2, "{error}");
        error.to_string()
    };
    let public = refused(|config| config.listen = "0.0.0.0:0".parse().expect("an address"));
    assert!(public.contains("--unsafe-no-auth"), "{public}");
    assert!(refused(|config| config.shards = Some(0)).contains("--shards 0"));
    assert!(refused(|config| config.groups = Some(10_000)).contains("--groups 10000"));
    assert!(refused(|config| config.name = "../x".to_owned()).contains("--name"));
    let peer = |name: &str, address: &str| Peer { name: name.into(), address: address.into() };
    let list = vec![peer("n2", "127.0.0.1:1"), peer("n3", "127.0.0.1:2")];
    let mut config = alone(&scratch.0);
    config.peers = list;
    let error = Server::start(&config, echo(), &AtomicBool::new(false)).err().expect("refused");
    assert!(error.to_string().contains("n1 is not among them"), "{error}");
    assert!(!scratch.0.exists(), "nothing was made");
}

/// A peer of another cluster, or of this one with another disk, is not let in.
#[test]
fn false_peers_are_refused() {
    let scratch = Scratch::new();
    let server = start(&alone(&scratch.0));
    let mut hello = Hello::client(server.cluster(), GroupId(0));
    hello.kind = HelloKind::Peer;
    let answer = |hello: Hello| {
        let mut stream = dial(server.address());
        stream.write_all(&hello.encode()).expect("sent");
        let code = read_hello(&mut stream).code;
        assert!(read_all(&mut stream).is_empty());
        code
    };
    assert_eq!(answer(Hello { node: NodeId(1), ..hello }), Code::DUPLICATE_NODE);
    assert_eq!(answer(Hello { node: NodeId(0), ..hello }), Code::CLUSTER_MISMATCH);
    let elsewhere = Hello { cluster: ClusterId(1), node: NodeId(2), ..hello };
    assert_eq!(answer(elsewhere), Code::CLUSTER_MISMATCH);
    server.stop().expect("an orderly end");
}
