//! The floor: what moving the bytes of a replicated append costs on this machine, with no protocol.
//!
//! Three nodes and a load generator, each a thread with a ring, over loopback TCP. The leader packs
//! client frames into a block, writes it `O_DIRECT|O_DSYNC` over space written before, sends it to
//! two followers that do the same, and answers once two of three hold it. No terms, no checksums,
//! no state machine.
//!
//! Every message is a header of two u64 (length and number, little-endian) and its bytes. Answers
//! and acknowledgements are a header alone: number, zero.

mod follower;
mod leader;
mod node_file;

use std::io;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::line::{self, Line};
use crate::report::{Recorder, Report, Shape};
use crate::ring::Ring;

/// Largest payload: a batch must hold a few frames.
pub const PAYLOAD_MAX: usize = 256 << 10;

const HEADER: usize = 16;
/// Bytes of a batch at most.
const BATCH: usize = 1 << 20;

/// Runs the floor with its files in `dir`; they are removed afterwards.
///
/// # Errors
/// Of files, sockets and rings, with what was tried.
pub fn run(shape: Shape, seconds: Duration, dir: &Path) -> io::Result<Report> {
    let listeners = (0..3)
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect::<io::Result<Vec<TcpListener>>>()?;
    let ports = listeners
        .iter()
        .map(|listener| Ok(listener.local_addr()?.port()))
        .collect::<io::Result<Vec<u16>>>()?;
    let [first, second, third] = ports[..] else { unreachable!("three listeners") };
    let mut files = Vec::new();
    for n in 0..3 {
        files.push(node_file::NodeFile::create(dir, n)?);
    }
    let mut nodes = Vec::new();
    for (n, (listener, file)) in listeners.into_iter().zip(&files).enumerate() {
        let file = file.open()?;
        let connections = shape.connections;
        nodes.push(thread::spawn(move || match n {
            0 => leader::run(&listener, connections, file, [second, third]),
            _ => follower::run(&listener, file),
        }));
    }
    let report = generate(shape, seconds, first);
    if report.is_err() {
        // Nodes that still wait for a connection get one that says nothing.
        ports.iter().for_each(|port| drop(TcpStream::connect(("127.0.0.1", *port))));
    }
    for node in nodes {
        let ended = node.join().map_err(|_| io::Error::other("a node of the floor panicked"))?;
        if report.is_ok() {
            ended?;
        }
    }
    report
}

/// Bytes of header and number.
fn header(first: u64, second: u64) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    bytes[..8].copy_from_slice(&first.to_le_bytes());
    bytes[8..].copy_from_slice(&second.to_le_bytes());
    bytes
}

/// The two numbers of the header `bytes` begin with, if it is there.
fn parse(bytes: &[u8]) -> Option<(u64, u64)> {
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
    (bytes.len() >= HEADER).then(|| (word(&bytes[..8]), word(&bytes[8..HEADER])))
}

/// The payload length and number of the message `bytes` begin with, if all of it is there.
fn message(bytes: &[u8]) -> Option<(usize, u64)> {
    let (length, number) = parse(bytes)?;
    let length = usize::try_from(length).ok()?;
    (bytes.len() >= HEADER + length).then_some((length, number))
}

/// The closed loop against the leader.
fn generate(shape: Shape, seconds: Duration, port: u16) -> io::Result<Report> {
    let mut ring = Ring::new()?;
    let payload = vec![7; shape.payload];
    let request = |out: &mut Vec<u8>, number: u64| {
        out.extend_from_slice(&header(shape.payload as u64, number));
        out.extend_from_slice(&payload);
    };
    let mut clients = Vec::new();
    for n in 0..shape.connections {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        let mut line = Line::open(&mut ring, stream, n as u64, 64 << 10)?;
        (0..shape.inflight).for_each(|number| request(&mut line.out, number as u64));
        clients.push((line, vec![Instant::now(); shape.inflight]));
    }
    let mut recorder = Recorder::new();
    let mut done = Vec::new();
    let warm_up = Duration::min(seconds / 5, Duration::from_secs(1));
    let mut warm = false;
    let mut begin = Instant::now();
    loop {
        clients.iter_mut().for_each(|(line, _)| line.flush(&mut ring));
        ring.wait(None, &mut done)?;
        let now = Instant::now();
        for completion in done.drain(..) {
            let (owner, kind) = line::untag(completion.tag);
            let (line, sent) = &mut clients[owner as usize];
            if kind == line::SENT {
                line.on_sent(completion);
                continue;
            }
            if !line.on_received(completion) {
                return Err(io::Error::other("a node of the floor has ended early"));
            }
            let numbers: usize = line.bytes().len() / HEADER;
            for n in 0..numbers {
                let Some((number, _)) = parse(&line.bytes()[n * HEADER..]) else { break };
                recorder.operation(now - sent[number as usize]);
                sent[number as usize] = now;
                request(&mut line.out, number);
            }
            line.consume(&mut ring, numbers * HEADER);
        }
        if !warm && now - begin >= warm_up {
            (warm, begin) = (true, now);
            recorder.reset();
        } else if warm && now - begin >= seconds {
            return Ok(recorder.report("floor", shape, now - begin));
        }
    }
}
