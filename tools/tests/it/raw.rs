//! A client that says exactly what it is told to, right or wrong.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use margay::machine::{Code, Sequence, SessionId};
use margay::wire::client::{RefusedOf, Request, Response};
use margay::wire::{self, HELLO_BYTES, Hello, HelloKind};
use margay_log::id::{ClusterId, GroupId, Micros};

/// Longer than any time the server takes over a connection on purpose, but for frames.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Raw {
    stream: TcpStream,
    inbox: Vec<u8>,
}

/// A refusal, owned.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Refusal {
    pub(crate) of: RefusedOf,
    pub(crate) code: Code,
    pub(crate) text: String,
}

/// An answer to a command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Answer {
    pub(crate) sequence: Sequence,
    pub(crate) code: Code,
    pub(crate) payload: Vec<u8>,
}

impl Raw {
    /// Connects and says nothing.
    pub(crate) fn dial(endpoint: &str) -> Raw {
        let stream = TcpStream::connect(endpoint).expect("the node listens");
        stream.set_nodelay(true).expect("a socket option");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
        stream.set_write_timeout(Some(PATIENCE)).expect("a socket option");
        Raw { stream, inbox: Vec::new() }
    }

    /// Connects and greets as a client of `group`.
    pub(crate) fn client(endpoint: &str, group: u32) -> Raw {
        let mut raw = Raw::dial(endpoint);
        raw.send(&Hello::client(ClusterId(0), GroupId(group)).encode());
        assert_eq!(raw.hello().code, Code::OK);
        raw
    }

    /// Connects and registers a session with this key.
    pub(crate) fn session(endpoint: &str, group: u32, key: [u8; 16]) -> (Raw, SessionId) {
        let mut raw = Raw::client(endpoint, group);
        let timeout = Micros::from_millis(10_000);
        raw.request(&Request::Register { correlation: 1, key, timeout });
        let frame = raw.frame();
        match response(&frame) {
            Response::Registered { session, .. } => (raw, session),
            other => panic!("{other:?}"),
        }
    }

    /// Sends bytes. A server that has closed already must not fail the test here.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        if let Err(error) = self.stream.write_all(bytes) {
            let gone = [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset];
            assert!(gone.contains(&error.kind()), "{error}");
        }
    }

    pub(crate) fn request(&mut self, request: &Request<'_>) {
        let mut bytes = Vec::new();
        request.encode(&mut bytes);
        self.send(&bytes);
    }

    pub(crate) fn hello(&mut self) -> Hello {
        let bytes = self.take(HELLO_BYTES);
        Hello::decode(&bytes).expect("a hello")
    }

    /// The next frame.
    pub(crate) fn frame(&mut self) -> Vec<u8> {
        let header = self.peek(wire::HEADER);
        let length = wire::peek(&header).expect("a right header").expect("a whole header");
        self.take(length)
    }

    /// The next response, which must be a refusal. Others before it are passed over.
    pub(crate) fn refusal(&mut self) -> Refusal {
        loop {
            let frame = self.frame();
            if let Response::Refused { of, code, text, .. } = response(&frame) {
                return Refusal { of, code, text: text.to_string() };
            }
        }
    }

    /// The next answer to a command. A refusal of it is an answer too.
    pub(crate) fn answer(&mut self) -> Answer {
        loop {
            let frame = self.frame();
            match response(&frame) {
                Response::Reply { sequence, code, payload, .. } => {
                    return Answer { sequence, code, payload: payload.to_vec() };
                }
                Response::Refused { of: RefusedOf::Command(sequence), code, .. } => {
                    return Answer { sequence, code, payload: Vec::new() };
                }
                _ => {}
            }
        }
    }

    /// Everything until the server closes.
    #[track_caller]
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.inbox);
        match self.stream.read_to_end(&mut bytes) {
            Err(error) if error.kind() != ErrorKind::ConnectionReset => {
                panic!("not closed: {error}")
            }
            _ => bytes,
        }
    }

    fn peek(&mut self, length: usize) -> Vec<u8> {
        while self.inbox.len() < length {
            let mut chunk = [0; 4096];
            let got = self.stream.read(&mut chunk).expect("an answer comes");
            assert!(got > 0, "closed after {:?}", String::from_utf8_lossy(&self.inbox));
            self.inbox.extend_from_slice(&chunk[..got]);
        }
        self.inbox[..length].to_vec()
    }

    fn take(&mut self, length: usize) -> Vec<u8> {
        let bytes = self.peek(length);
        self.inbox.drain(..length);
        bytes
    }
}

/// Reads a frame of the server's.
pub(crate) fn response(frame: &[u8]) -> Response<'_> {
    Response::decode(&wire::decode(frame).expect("a right frame")).expect("a response")
}

/// A frame header of our own making, with a right checksum.
pub(crate) fn header(length: u32, kind: u8, version: u8, body_crc: u32) -> [u8; wire::HEADER] {
    let mut header = [0; wire::HEADER];
    header[..4].copy_from_slice(&length.to_le_bytes());
    header[4..6].copy_from_slice(&[kind, version]);
    header[24..28].copy_from_slice(&body_crc.to_le_bytes());
    let crc = crc32c(&header[..28]);
    header[28..].copy_from_slice(&crc.to_le_bytes());
    header
}

/// A hello with some bytes changed and the checksum made right again.
pub(crate) fn hello_with(change: impl FnOnce(&mut [u8])) -> [u8; HELLO_BYTES] {
    let mut bytes = Hello::client(ClusterId(0), GroupId(0)).encode();
    change(&mut bytes[..60]);
    let crc = crc32c(&bytes[..60]);
    bytes[60..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// The Castagnoli checksum, bit by bit: what is tested must not check itself.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            let carry = crc & 1;
            (crc >> 1) ^ (0x82f6_3b78 & carry.wrapping_neg())
        })
    })
}

/// A hello of a node.
pub(crate) fn peer_hello(of: &Hello, node: u32, incarnation: u64) -> Hello {
    let (kind, node) = (HelloKind::Peer, margay_log::id::NodeId(node));
    Hello { kind, node, incarnation: margay_log::id::Incarnation(incarnation), ..*of }
}
