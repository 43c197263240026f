//! One session and its socket: what the sans-IO client asks for is done on the ring.

use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use margay::client::session::{Output, Session};
use margay::tls::{Secure, Stream, Tls};
use margay_log::id::Micros;

use crate::line::{self, Line};
use crate::ring::{Completion, Ring};

/// Connecting is the one thing done outside the ring, so it must not take long.
const CONNECT: Duration = Duration::from_millis(300);
/// And shaking hands.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Bytes received at once.
const RECEIVE: usize = 64 << 10;
/// Tags carry the number of the connection below this bit, and above it how often it was connected:
/// what ends late is told from what belongs to the socket of now.
const EPOCH: u32 = 20;

pub(super) struct Connection {
    pub(super) session: Session,
    number: u64,
    epoch: u64,
    line: Option<Line>,
    tls: Option<Tls>,
    /// What stands between the line and the session, if that is encrypted.
    secure: Option<Box<Secure>>,
    /// What was decrypted last; kept for its memory.
    plain: Vec<u8>,
}

/// The connection a completion belongs to.
pub(super) fn number_of(completion: &Completion) -> usize {
    (line::untag(completion.tag).0 & ((1 << EPOCH) - 1)) as usize
}

impl Connection {
    pub(super) fn new(session: Session, number: usize, tls: Option<Tls>) -> Connection {
        let (number, secure, plain) = (number as u64, None, Vec::new());
        Connection { session, number, epoch: 0, line: None, tls, secure, plain }
    }

    /// What the session wants of its socket is done here; returns the next output for others.
    pub(super) fn poll(&mut self, now: Micros, ring: &mut Ring) -> Option<Output> {
        loop {
            match self.session.poll()? {
                Output::Connect(address) => self.connect(now, ring, &address),
                Output::Disconnect => self.disconnect(ring),
                output => return Some(output),
            }
        }
    }

    fn connect(&mut self, now: Micros, ring: &mut Ring, address: &str) {
        self.disconnect(ring);
        self.epoch += 1;
        let owner = self.epoch << EPOCH | self.number;
        let opened = open(address, self.tls.as_ref()).and_then(|(stream, secure)| {
            Line::open(ring, stream, owner, RECEIVE).map(|line| (line, secure))
        });
        match opened {
            Ok((line, secure)) => {
                (self.line, self.secure) = (Some(line), secure);
                self.session.on_connected(now, address);
            }
            Err(error) => self.session.on_failed(now, &error.to_string()),
        }
    }

    fn disconnect(&mut self, ring: &mut Ring) {
        if let Some(mut line) = self.line.take() {
            line.close(ring);
        }
    }

    pub(super) fn on_completion(&mut self, now: Micros, ring: &mut Ring, completion: Completion) {
        let (owner, kind) = line::untag(completion.tag);
        let Some(line) = self.line.as_mut().filter(|_| owner >> EPOCH == self.epoch) else {
            return;
        };
        if kind == line::SENT {
            if completion.result.is_ok() {
                line.on_sent(completion);
                return;
            }
        } else if line.on_received(completion) {
            let length = line.bytes().len();
            let Some(secure) = &mut self.secure else {
                self.session.on_bytes(now, line.bytes());
                return line.consume(ring, length);
            };
            // An earlier connection may have ended within it.
            self.plain.clear();
            if secure.feed(line.bytes(), &mut self.plain).is_ok() {
                self.session.on_bytes(now, &self.plain);
                return line.consume(ring, length);
            }
        }
        self.disconnect(ring);
        self.session.on_disconnected(now);
    }

    pub(super) fn tick(&mut self, now: Micros) {
        if self.session.deadline().is_some_and(|deadline| deadline <= now) {
            self.session.on_tick(now);
        }
    }

    /// Hands what the session has to say to the ring.
    pub(super) fn flush(&mut self, ring: &mut Ring) {
        if let Some(line) = self.line.as_mut().filter(|line| !line.is_sending()) {
            let outgoing = self.session.outgoing();
            match &mut self.secure {
                Some(secure) => {
                    secure.put(outgoing);
                    outgoing.clear();
                    secure.drain(&mut line.out);
                }
                None => std::mem::swap(&mut line.out, outgoing),
            }
            line.flush(ring);
        }
    }
}

/// A connection, after its handshake if it is encrypted.
fn open(address: &str, tls: Option<&Tls>) -> std::io::Result<(TcpStream, Option<Box<Secure>>)> {
    let mut last = std::io::Error::other("the name has no address");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT) {
            Ok(stream) => {
                let limit = tls.is_some().then_some(HANDSHAKE);
                stream.set_read_timeout(limit)?;
                stream.set_write_timeout(limit)?;
                let secured = Stream::dial(stream, tls, Instant::now() + HANDSHAKE)?;
                return secured.into_parts();
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}
