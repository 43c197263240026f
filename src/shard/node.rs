//! What every shard of a node knows, and what they tell the outside.

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use margay_log::id::{ClusterId, GroupId, Incarnation, Micros, NodeId};

use super::limits::Limits;
use super::mesh::Inbox;
use super::sys;
use super::waste::Waste;
use crate::error::Error;
use crate::forming::Founder;
use crate::machine::Code;
use crate::tls::Tls;
use crate::wire::{Hello, HelloKind};

/// Where a node is.
#[derive(Default)]
struct Place {
    /// `host:port`, as it was given.
    text: String,
    /// As last resolved.
    address: Option<SocketAddr>,
    /// It was given at the start; no configuration has said otherwise since.
    is_given: bool,
}

/// Shared by the shards of a node and by whoever started them.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) cluster: ClusterId,
    pub(crate) incarnation: Incarnation,
    /// Where it listens.
    pub(crate) port: u16,
    /// Its certificate, if its connections are encrypted.
    pub(crate) tls: Option<Tls>,
    pub(crate) groups: u32,
    pub(crate) shards: usize,
    /// The founding record, for founders that missed it.
    pub(crate) record: Vec<u8>,
    /// By number: node 1 is the first.
    pub(crate) founders: Vec<Founder>,
    /// Where other nodes are.
    places: Mutex<BTreeMap<NodeId, Place>>,
    pub(crate) inboxes: Vec<Inbox>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) counters: Vec<Counters>,
    /// Shards end when this is set and they are woken.
    stopping: AtomicBool,
    /// Why the node cannot go on.
    failure: Mutex<Option<Error>>,
    /// Signalled when a shard has failed.
    pub(crate) failed: OwnedFd,
    /// Where large states are dropped.
    pub(crate) waste: Waste,
}

impl Node {
    pub(crate) fn new(
        founding: &crate::forming::FoundingRecord,
        (id, incarnation): (NodeId, Incarnation),
        port: u16,
        shards: usize,
        connections: usize,
        tls: Option<Tls>,
    ) -> std::io::Result<Node> {
        let mut inboxes = Vec::new();
        for _ in 0..shards {
            inboxes.push(Inbox::new()?);
        }
        Ok(Node {
            id,
            cluster: founding.cluster(),
            incarnation,
            port,
            tls,
            groups: founding.groups(),
            shards,
            record: founding.encode(),
            founders: founding.founders().to_vec(),
            places: Mutex::default(),
            inboxes,
            limits: Limits::new(connections),
            counters: (0..shards).map(|_| Counters::default()).collect(),
            stopping: AtomicBool::new(false),
            failure: Mutex::new(None),
            failed: sys::eventfd()?,
            waste: Waste::new()?,
        })
    }

    /// What this node says first.
    pub(crate) fn hello(&self, kind: HelloKind, group: GroupId, code: Code) -> Hello {
        Hello {
            kind,
            group,
            cluster: self.cluster,
            node: self.id,
            groups: self.groups,
            incarnation: self.incarnation,
            code,
            port: self.port,
        }
    }

    /// Whether this hello comes from this very node: it dials a member that had its address before.
    pub(crate) fn is_own(&self, hello: &Hello) -> bool {
        let own = self.hello(hello.kind, hello.group, hello.code);
        (own.cluster, own.node, own.incarnation) == (hello.cluster, hello.node, hello.incarnation)
    }

    /// Why nothing can be said to who greets so, if so.
    pub(crate) fn refuses(&self, hello: &Hello) -> Option<Code> {
        let foreign = hello.cluster != self.cluster;
        match hello.kind {
            HelloKind::Client if foreign && hello.cluster != ClusterId(0) => {
                Some(Code::CLUSTER_MISMATCH)
            }
            HelloKind::Peer if foreign => Some(Code::CLUSTER_MISMATCH),
            // Whether it is a member is for the group to say.
            HelloKind::Peer if hello.node == self.id => Some(Code::DUPLICATE_NODE),
            HelloKind::Peer if hello.node == NodeId(0) => Some(Code::CLUSTER_MISMATCH),
            _ if hello.group.0 >= self.groups => Some(Code::NO_SUCH_GROUP),
            _ => None,
        }
    }

    /// Where a node is, if that is known.
    pub(crate) fn address(&self, id: NodeId) -> Option<SocketAddr> {
        self.places().get(&id)?.address
    }

    /// A group says where a member is. A name is looked up elsewhere: that can take its time. What
    /// was given at the start counts more than what is as it was at the founding.
    pub(crate) fn set_place(self: &Arc<Node>, id: NodeId, text: &str) {
        let founder = (id.0 as usize).checked_sub(1).and_then(|at| self.founders.get(at));
        let as_founded = founder.is_some_and(|founder| founder.address == text);
        let mut places = self.places();
        let place = places.entry(id).or_default();
        if place.text == text || (as_founded && place.is_given) {
            return;
        }
        text.clone_into(&mut place.text);
        place.is_given = false;
        place.address = text.parse().ok();
        if place.address.is_none() {
            let (node, text) = (Arc::clone(self), text.to_owned());
            // A thread that cannot be had now is had at the next refresh.
            let name = std::thread::Builder::new().name("margay-resolve".to_owned());
            let _ = name.spawn(move || node.resolve(id, &text));
        }
    }

    /// A node that is in no configuration yet has connected from there.
    pub(crate) fn note_address(&self, id: NodeId, address: SocketAddr) {
        let mut places = self.places();
        let place = places.entry(id).or_default();
        if place.text.is_empty() {
            place.address = Some(address);
        }
    }

    /// Looks all names up again: somebody may have moved.
    pub(crate) fn refresh_addresses(&self) {
        let is_name = |text: &str| !text.is_empty() && text.parse::<SocketAddr>().is_err();
        let places = self.places().iter().map(|(id, place)| (*id, place.text.clone())).collect();
        let mut named: Vec<(NodeId, String)> = places;
        named.retain(|(_, text)| is_name(text));
        for (id, text) in named {
            self.resolve(id, &text);
        }
    }

    /// Takes up a certificate that has been replaced. Blocks.
    pub(crate) fn refresh_tls(&self) {
        let Some(tls) = &self.tls else { return };
        match tls.refresh() {
            Ok(true) => tracing::info!("the certificate and whom it trusts were read again"),
            Ok(false) => {}
            Err(error) => tracing::warn!("what was read before stays in use: {error}"),
        }
    }

    /// Warns of a certificate that is soon of no use: nothing else would say so before the others
    /// refuse it.
    pub(crate) fn warn_of_expiry(&self) {
        const DAYS: u32 = 14;
        const DAY: Duration = Duration::from_secs(86_400);
        let Some(tls) = &self.tls else { return };
        if !tls.is_good_in(Duration::ZERO) {
            tracing::warn!("the own certificate has expired: there will be no new connections");
        } else if !tls.is_good_in(DAYS * DAY) {
            tracing::warn!("the own certificate expires within {DAYS} days");
        }
    }

    /// Finds out where a node is that is said to be at `text`. Blocks.
    pub(crate) fn resolve(&self, id: NodeId, text: &str) {
        {
            let mut places = self.places();
            let place = places.entry(id).or_default();
            if place.text.is_empty() {
                text.clone_into(&mut place.text);
                place.is_given = true;
            }
        }
        match text.to_socket_addrs().map(|mut found| found.next()) {
            Ok(Some(address)) => {
                let mut places = self.places();
                let place = places.entry(id).or_default();
                if place.text == text {
                    place.address = Some(address);
                }
            }
            Ok(None) => tracing::warn!(node = %id, "{text} has no address"),
            Err(error) => tracing::warn!(node = %id, "cannot resolve {text}: {error}"),
        }
    }

    fn places(&self) -> std::sync::MutexGuard<'_, BTreeMap<NodeId, Place>> {
        self.places.lock().expect("nobody panics while holding the places")
    }

    pub(crate) fn counters(&self, shard: usize) -> &Counters {
        &self.counters[shard]
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Whether it must not go on.
    pub(crate) fn has_failed(&self) -> bool {
        self.failure.lock().expect("nobody panics while holding the reason").is_some()
    }

    /// Tells every shard to end.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        for inbox in &self.inboxes {
            inbox.wake();
        }
    }

    /// The node must not go on. The first reason is kept.
    pub(crate) fn fail(&self, error: Error) {
        tracing::error!("{error}");
        self.failure.lock().expect("nobody panics while holding the reason").get_or_insert(error);
        sys::eventfd_signal(self.failed.as_fd());
        self.stop();
    }

    /// Why it could not go on.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.failure.lock().expect("nobody panics while holding the reason").take()
    }
}

/// Counted by one shard, read by anybody.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) turns: Count,
    pub(crate) completions: Count,
    pub(crate) frames: Count,
    pub(crate) parks: Count,
    /// Wake-ups well after their deadline; must stay 0.
    pub(crate) late: Count,
    /// Turns over the alarm.
    pub(crate) long_turns: Count,
    /// The longest turn, in microseconds.
    pub(crate) longest: Count,
    pub(crate) accepted: Count,
    pub(crate) refused: Count,
    /// Connections closed for what came over them.
    pub(crate) faults: Count,
}

/// A number with one writer.
#[derive(Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, n: u64) {
        // One writer: no read-modify-write is needed.
        self.0.store(self.0.load(Ordering::Relaxed) + n, Ordering::Relaxed);
    }

    /// Keeps the highest.
    pub(crate) fn raise(&self, n: u64) {
        if n > self.get() {
            self.0.store(n, Ordering::Relaxed);
        }
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Lets ten messages a second through, and says how many it kept back.
#[derive(Default)]
pub(crate) struct Hush {
    since: Micros,
    said: u32,
    kept: u64,
}

impl Hush {
    pub(crate) fn may_speak(&mut self, now: Micros) -> bool {
        if now.since(self.since) >= Micros(1_000_000) {
            if self.kept > 0 {
                tracing::warn!(kept = self.kept, "messages like these were not shown");
            }
            *self = Hush { since: now, said: 0, kept: 0 };
        }
        self.said += 1;
        let may = self.said <= 10;
        self.kept += u64::from(!may);
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forming::FoundingRecord;

    #[test]
    fn a_member_is_where_it_was_said_to_be_last() {
        let founder = |n: u64| Founder {
            name: format!("n{n}"),
            address: format!("127.0.0.1:{n}"),
            incarnation: Incarnation(n),
        };
        let record = FoundingRecord::new(1, vec![founder(1), founder(2)]).expect("a right record");
        let node = Node::new(&record, (NodeId(1), Incarnation(1)), 1, 1, 1, None);
        let node = Arc::new(node.expect("descriptors"));
        let port = || node.address(NodeId(2)).map(|address| address.port());
        // What the operator has said at the start counts more than the founding.
        node.resolve(NodeId(2), "127.0.0.1:22");
        node.set_place(NodeId(2), "127.0.0.1:2");
        assert_eq!(port(), Some(22));
        // It moves, and comes back.
        node.set_place(NodeId(2), "127.0.0.1:222");
        assert_eq!(port(), Some(222));
        node.set_place(NodeId(2), "127.0.0.1:2");
        assert_eq!(port(), Some(2));
    }
}
