//! How many connections a node takes, in all and from one address.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::config::{CONNECTIONS_PER_ADDRESS_MAX, HALF_OPEN_PER_ADDRESS_MAX};

/// Counts the connections of all shards of a node.
pub(crate) struct Limits {
    max: usize,
    open: AtomicUsize,
    /// Addresses other than this machine's own: (open, of these without a hello).
    addresses: Mutex<BTreeMap<IpAddr, (u32, u32)>>,
}

/// Why a connection is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// The node has as many as it takes.
    Node(usize),
    /// The address has.
    Address,
    /// The address has too many that never said hello.
    HalfOpen,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refusal::Node(max) => write!(f, "too many connections: this node takes {max}"),
            Refusal::Address => {
                write!(f, "too many connections from your address: {CONNECTIONS_PER_ADDRESS_MAX}")
            }
            Refusal::HalfOpen => write!(
                f,
                "too many connections from your address that say nothing: \
                 {HALF_OPEN_PER_ADDRESS_MAX}"
            ),
        }
    }
}

impl Limits {
    pub(crate) fn new(max: usize) -> Arc<Limits> {
        let (open, addresses) = (AtomicUsize::new(0), Mutex::default());
        Arc::new(Limits { max, open, addresses })
    }

    /// Connections open now.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Counts a new connection, unless there are too many.
    pub(crate) fn admit(self: &Arc<Limits>, address: IpAddr) -> Result<Permit, Refusal> {
        if self.open.fetch_add(1, Ordering::Relaxed) >= self.max {
            self.open.fetch_sub(1, Ordering::Relaxed);
            return Err(Refusal::Node(self.max));
        }
        // From here on dropping the permit takes it back.
        let mut permit = Permit { limits: Arc::clone(self), address: None, half: false };
        if address.is_loopback() {
            return Ok(permit);
        }
        let mut addresses = self.lock();
        let (open, half) = addresses.entry(address).or_default();
        if *open >= CONNECTIONS_PER_ADDRESS_MAX {
            return Err(Refusal::Address);
        }
        if *half >= HALF_OPEN_PER_ADDRESS_MAX {
            return Err(Refusal::HalfOpen);
        }
        *open += 1;
        *half += 1;
        drop(addresses);
        permit.address = Some(address);
        permit.half = true;
        Ok(permit)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<IpAddr, (u32, u32)>> {
        self.addresses.lock().expect("nobody panics while holding the counts")
    }
}

/// A counted connection; dropping it counts it off.
pub(crate) struct Permit {
    limits: Arc<Limits>,
    address: Option<IpAddr>,
    half: bool,
}

impl Permit {
    /// The connection has said hello.
    pub(crate) fn said_hello(&mut self) {
        if let (Some(address), true) = (self.address, self.half) {
            self.half = false;
            if let Some((_, half)) = self.limits.lock().get_mut(&address) {
                *half -= 1;
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.said_hello();
        self.limits.open.fetch_sub(1, Ordering::Relaxed);
        let Some(address) = self.address else { return };
        let mut addresses = self.limits.lock();
        if let Some((open, _)) = addresses.get_mut(&address) {
            *open -= 1;
            if *open == 0 {
                addresses.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_connections_off_again() {
        let limits = Limits::new(100);
        let far: IpAddr = "192.0.2.1".parse().expect("an address");
        let mut permits = Vec::new();
        for _ in 0..HALF_OPEN_PER_ADDRESS_MAX {
            permits.push(limits.admit(far).expect("below the limit"));
        }
        assert_eq!(limits.admit(far).err(), Some(Refusal::HalfOpen));
        permits[0].said_hello();
        permits.push(limits.admit(far).expect("one has said hello"));
        let near: IpAddr = "127.0.0.1".parse().expect("an address");
        while let Ok(permit) = limits.admit(near) {
            permits.push(permit);
        }
        assert_eq!((permits.len(), limits.open()), (100, 100));
        assert_eq!(limits.admit(near).err(), Some(Refusal::Node(100)));
        drop(permits);
        assert_eq!(limits.open(), 0);
        assert!(limits.lock().is_empty());
    }
}
