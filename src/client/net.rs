//! Connections of the driver: each has a thread that connects, then reads.
//!
//! Names are resolved and connections made by blocking calls, which may take long; reading has to
//! wait for whatever comes. Both happen on the connection's own thread, so that no group waits for
//! another's node. The driver writes: a socket that takes nothing for a millisecond is left alone
//! for a while.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use margay_log::id::GroupId;

use super::driver::Order;
use crate::tls::{Secure, Stream, Tls};

/// The port of addresses that name none.
pub(super) const PORT: u16 = 5150;

/// Read at once, at most.
const CHUNK: usize = 16 << 10;

/// A write that takes longer leaves the rest for later. The clock of the kernel may make it a few
/// more.
const WRITE_TIMEOUT: Duration = Duration::from_millis(1);

/// As far off as a deadline can be: a century.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 3_600);

/// So long from now.
pub(super) fn from_now(span: Duration) -> Instant {
    Instant::now() + span.min(FOREVER)
}

/// Names one connection of one group; never used twice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ConnectionId {
    pub(super) group: GroupId,
    pub(super) attempt: u64,
}

/// What becomes of a connection, in order.
pub(super) enum Heard {
    Connected(Writer),
    /// There is no connection, or there was one that is no good, and why.
    Failed(String),
    Bytes(Vec<u8>),
    Ended,
}

/// Connects to `address` and reads, on a thread of its own, until the connection ends or nobody
/// listens.
pub(super) fn connect(
    id: ConnectionId,
    address: String,
    tls: Option<Tls>,
    timeout: Duration,
    orders: SyncSender<Order>,
) -> io::Result<()> {
    let name = format!("margay-{}-{}", id.group, id.attempt);
    thread::Builder::new().name(name).spawn(move || {
        let say = |heard| orders.send(Order::Heard(id, heard)).is_ok();
        match open(&address, tls.as_ref(), timeout) {
            Ok((writer, reader)) => {
                if say(Heard::Connected(writer)) {
                    read(reader, say);
                }
            }
            Err(error) => {
                say(Heard::Failed(reason(&error)));
            }
        }
    })?;
    Ok(())
}

fn read(mut reader: Reader, say: impl Fn(Heard) -> bool) {
    let mut chunk = vec![0; CHUNK];
    loop {
        let heard = match reader.socket.read(&mut chunk) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Ok(0) | Err(_) => Heard::Ended,
            Ok(length) => reader.take(&chunk[..length]),
        };
        let is_last = matches!(heard, Heard::Ended | Heard::Failed(_));
        if !say(heard) || is_last {
            return;
        }
    }
}

/// What stands between a socket and what is said over it, for both threads.
type Shared = Arc<Mutex<Box<Secure>>>;

fn lock(secure: &Shared) -> MutexGuard<'_, Box<Secure>> {
    // What panics with it in hands has lost the connection.
    secure.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The reading side of a connection.
struct Reader {
    socket: TcpStream,
    secure: Option<Shared>,
}

impl Reader {
    /// What is said by these bytes. What has to be answered to the encryption itself goes with what
    /// is written next.
    fn take(&mut self, bytes: &[u8]) -> Heard {
        let Some(secure) = &self.secure else { return Heard::Bytes(bytes.to_vec()) };
        let mut plain = Vec::new();
        match lock(secure).feed(bytes, &mut plain) {
            Ok(()) => Heard::Bytes(plain),
            Err(broken) => Heard::Failed(broken.to_string()),
        }
    }
}

/// Both sides of a connection.
fn open(address: &str, tls: Option<&Tls>, timeout: Duration) -> io::Result<(Writer, Reader)> {
    let end = from_now(timeout);
    let socket = open_one(address, timeout)?;
    let (socket, secure) = secured(socket, tls, end)?.into_parts()?;
    socket.set_read_timeout(None)?;
    socket.set_write_timeout(Some(WRITE_TIMEOUT))?;
    let secure = secure.map(|secure| Arc::new(Mutex::new(secure)));
    let reader = Reader { socket: socket.try_clone()?, secure: secure.clone() };
    Ok((Writer { socket, secure, unsent: Vec::new(), written: 0 }, reader))
}

/// Shakes hands, if connections are encrypted, until `end`.
pub(super) fn secured(socket: TcpStream, tls: Option<&Tls>, end: Instant) -> io::Result<Stream> {
    if let Some(tls) = tls {
        // What cannot be read now was read before.
        let _ = tls.refresh();
        let left = end.saturating_duration_since(Instant::now()).max(WRITE_TIMEOUT);
        socket.set_read_timeout(Some(left))?;
        socket.set_write_timeout(Some(left))?;
    }
    Stream::dial(socket, tls, end)
}

/// Tries what the address stands for, within `timeout`.
pub(super) fn open_one(address: &str, timeout: Duration) -> io::Result<TcpStream> {
    let end = from_now(timeout);
    let targets: Vec<SocketAddr> = with_port(address).to_socket_addrs()?.collect();
    open_any(&targets, end)
}

/// Tries one after the other until `end`. One that does not answer leaves the others their shares
/// of the time.
fn open_any(targets: &[SocketAddr], end: Instant) -> io::Result<TcpStream> {
    let mut last = io::Error::new(ErrorKind::NotFound, "the name stands for no address");
    for (target, rest) in targets.iter().zip((1..=targets.len()).rev()) {
        let left = end.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(rest).unwrap_or(u32::MAX);
        if share.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        match TcpStream::connect_timeout(target, share) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The endpoints in the order in which they accept a connection; those that do not, last.
pub(super) fn nearest_first(endpoints: Vec<String>, timeout: Duration) -> Vec<String> {
    let probe = |endpoint: &String| {
        let (endpoint, start) = (endpoint.clone(), Instant::now());
        thread::spawn(move || open_one(&endpoint, timeout).ok().map(|_| start.elapsed()))
    };
    let probes: Vec<_> = endpoints.iter().map(probe).collect();
    let times = probes.into_iter().map(|probe| probe.join().ok().flatten());
    let mut timed: Vec<_> =
        times.map(|time| time.unwrap_or(Duration::MAX)).zip(endpoints).collect();
    timed.sort_by_key(|(time, _)| *time);
    timed.into_iter().map(|(_, endpoint)| endpoint).collect()
}

/// `n1` becomes `n1:5150`.
fn with_port(address: &str) -> String {
    if address.parse::<Ipv6Addr>().is_ok() {
        return format!("[{address}]:{PORT}");
    }
    let host_end = address.rfind(']').unwrap_or(0);
    if address[host_end..].contains(':') { address.to_owned() } else { format!("{address}:{PORT}") }
}

/// What went wrong, in a few words.
pub(super) fn reason(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        ErrorKind::TimedOut | ErrorKind::WouldBlock => "timed out".to_owned(),
        ErrorKind::ConnectionReset => "connection reset".to_owned(),
        _ => error.to_string(),
    }
}

/// The writing side of a connection.
pub(super) struct Writer {
    socket: TcpStream,
    secure: Option<Shared>,
    unsent: Vec<u8>,
    written: usize,
}

impl Writer {
    /// Sends what is left from before, then `bytes`, which is empty afterwards if all of that was
    /// taken. Returns whether something is left.
    pub(super) fn write(&mut self, bytes: &mut Vec<u8>) -> io::Result<bool> {
        loop {
            if self.written == self.unsent.len() {
                self.unsent.clear();
                self.written = 0;
                self.load(bytes);
                if self.unsent.is_empty() {
                    return Ok(false);
                }
            }
            match self.socket.write(&self.unsent[self.written..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(length) => self.written += length,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    return Ok(true);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Writer {
    /// Makes what is to be said what is to be sent.
    fn load(&mut self, bytes: &mut Vec<u8>) {
        let Some(secure) = &self.secure else { return std::mem::swap(&mut self.unsent, bytes) };
        let mut secure = lock(secure);
        secure.put(bytes);
        secure.drain(&mut self.unsent);
        bytes.clear();
    }
}

/// The reader ends too.
impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn an_address_without_a_port_gets_ours() {
        let cases = [
            ("n1", "n1:5150"),
            ("n1:7", "n1:7"),
            ("[::1]", "[::1]:5150"),
            ("[::1]:7", "[::1]:7"),
            ("::1", "[::1]:5150"),
            ("10.0.0.1", "10.0.0.1:5150"),
        ];
        for (given, full) in cases {
            assert_eq!(with_port(given), full);
        }
    }

    /// Where a name stands for several, the first may be one that nobody hears.
    #[test]
    fn an_address_that_does_not_answer_leaves_time_for_the_next() {
        let [deaf, node] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
        let [from, to] = [&deaf, &node].map(|listener| listener.local_addr().expect("bound"));
        // Nobody accepts: when so many wait, the kernel answers no more.
        let moment = Duration::from_millis(100);
        let waiting: Vec<_> =
            (0..10_000).map_while(|_| TcpStream::connect_timeout(&from, moment).ok()).collect();
        let open = |targets: &[SocketAddr], seconds| {
            open_any(targets, from_now(Duration::from_secs(seconds)))
        };
        assert_eq!(open(&[from], 1).expect_err("deaf").kind(), ErrorKind::TimedOut);
        // The machine may stand still, too, before the other one has its turn.
        let reached = open(&[from, to], 8).expect("the other one answers");
        assert_eq!(reached.peer_addr().expect("connected"), to);
        drop((waiting, deaf));
    }
}
