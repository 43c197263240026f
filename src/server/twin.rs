//! Whether somebody else is this node already: a copy of a data directory that runs elsewhere.
//!
//! Two nodes of one identity may vote for two leaders in one term. The lock of a directory keeps a
//! second process from it, not from its copy. So a node that does not listen where the cluster
//! knows it asks who does: perhaps it is itself, behind a port that is mapped to its own.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use margay_log::id::{ClusterId, GroupId, Incarnation};

use crate::client::admin::identity;
use crate::error::Error;
use crate::shard::sys;
use crate::tls::Tls;
use crate::wire::{HELLO_BYTES, Hello};

/// Whoever serves answers sooner.
const ANSWER: Duration = Duration::from_millis(500);
/// Between two looks at who has connected.
const LOOK: Duration = Duration::from_millis(5);

/// Refuses to go on where a node of the same disk answers at `known`, the address at which the
/// cluster knows node `name`. This node listens on `listen`, by all of `listeners`, and answers
/// nobody yet.
pub(super) fn refuse(
    name: &str,
    incarnation: Incarnation,
    known: &str,
    listen: SocketAddr,
    listeners: &[&OwnedFd],
    tls: Option<&Tls>,
) -> Result<(), Error> {
    if is_own(known, listen) {
        return Ok(());
    }
    let other = match connect(known) {
        Some(stream) => {
            if leads_here(stream, listeners) {
                return Ok(());
            }
            identity(known, tls, Instant::now() + ANSWER).ok()
        }
        None => None,
    };
    if other.is_some_and(|other| other.incarnation == incarnation) {
        return Err(Error::Mismatch(format!(
            "{name} runs already, at {known}, and this directory is a copy of its own: stop one of \
             them; a further node needs an empty directory, a name of its own and --join"
        )));
    }
    tracing::warn!(
        "the cluster knows {name} at {known}, and it listens on {listen}: if it has moved, say \
         margay cluster add {name}=HOST:PORT"
    );
    Ok(())
}

/// Whether who connects to `known` comes to this node: an address of this machine, and the port.
fn is_own(known: &str, listen: SocketAddr) -> bool {
    let Ok(mut addresses) = known.to_socket_addrs() else { return false };
    addresses.any(|address| {
        let is_here = || sys::probe_address(SocketAddr::new(address.ip(), 0)).is_ok();
        address == listen
            || (listen.ip().is_unspecified() && address.port() == listen.port() && is_here())
    })
}

fn connect(known: &str) -> Option<TcpStream> {
    let connect = |address| TcpStream::connect_timeout(&address, ANSWER).ok();
    known.to_socket_addrs().ok()?.find_map(connect)
}

/// Whether `stream` ends at this node: what is said there is heard here. Others that connect
/// meanwhile are hung up on, and come again.
fn leads_here(mut stream: TcpStream, listeners: &[&OwnedFd]) -> bool {
    let Ok(nonce) = sys::random_u64() else { return false };
    let hello = Hello::client(ClusterId(0), GroupId(0));
    // Nobody looks at a client's incarnation.
    let said = Hello { incarnation: Incarnation(nonce), ..hello }.encode();
    if stream.set_nonblocking(true).is_err() || stream.write_all(&said).is_err() {
        return false;
    }
    let until = Instant::now() + ANSWER;
    let mut guests = Vec::new();
    while Instant::now() < until {
        let accepted = listeners.iter().filter_map(|listener| sys::accept_now(listener).ok());
        guests.extend(accepted.map(|fd| (TcpStream::from(fd), Vec::new())));
        for (guest, heard) in &mut guests {
            read_some(guest, heard);
            if *heard == said {
                return true;
            }
        }
        // Somebody else answers there, or hangs up.
        let answer = stream.read(&mut [0; HELLO_BYTES]);
        if !matches!(answer, Err(error) if error.kind() == ErrorKind::WouldBlock) {
            return false;
        }
        std::thread::sleep(LOOK);
    }
    false
}

/// Adds what has come to `heard`, up to a hello.
fn read_some(stream: &mut TcpStream, heard: &mut Vec<u8>) {
    let mut bytes = [0; HELLO_BYTES];
    let room = &mut bytes[heard.len()..];
    if let Ok(read) = stream.read(room) {
        heard.extend_from_slice(&room[..read]);
    }
}
