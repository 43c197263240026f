//! Whether somebody else is this node already: a copy of a data directory that runs elsewhere.
//!
//! Two nodes of one identity may vote for two leaders in one term. The lock of a directory keeps a
//! second process from it, not from its copy. So a node that does not listen where the cluster
//! knows it asks who does.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::{Duration, Instant};

use margay_log::id::Incarnation;

use crate::client::admin::identity;
use crate::error::Error;
use crate::shard::sys;

/// Whoever serves answers sooner.
const ANSWER: Duration = Duration::from_millis(500);

/// Refuses to go on where a node of the same disk answers at `known`, the address at which the
/// cluster knows node `name`. This node listens on `listen` and answers nobody yet.
pub(super) fn refuse(
    name: &str,
    incarnation: Incarnation,
    known: &str,
    listen: SocketAddr,
) -> Result<(), Error> {
    if is_own(known, listen) {
        return Ok(());
    }
    match identity(known, Instant::now() + ANSWER) {
        Ok(other) if other.incarnation == incarnation => Err(Error::Mismatch(format!(
            "{name} runs already, at {known}, and this directory is a copy of its own: stop one of \
             them; a further node needs an empty directory, a name of its own and --join"
        ))),
        _ => {
            tracing::warn!(
                "the cluster knows {name} at {known}, and it listens on {listen}: if it has moved, \
                 say margay cluster add {name}=HOST:PORT"
            );
            Ok(())
        }
    }
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
