//! What every shard of a node knows, and what they tell the outside.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use margay_log::id::{ClusterId, GroupId, Incarnation, Micros, NodeId};

use super::limits::Limits;
use super::mesh::Inbox;
use super::sys;
use super::waste::Waste;
use crate::error::Error;
use crate::forming::Founder;
use crate::machine::Code;
use crate::wire::{Hello, HelloKind};

/// Shared by the shards of a node and by whoever started them.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) cluster: ClusterId,
    pub(crate) incarnation: Incarnation,
    /// Where it listens.
    pub(crate) port: u16,
    pub(crate) groups: u32,
    pub(crate) shards: usize,
    /// The founding record, for founders that missed it.
    pub(crate) record: Vec<u8>,
    /// By number: node 1 is the first.
    pub(crate) members: Vec<Founder>,
    /// Where the members are, as last resolved.
    pub(crate) addresses: Mutex<BTreeMap<NodeId, SocketAddr>>,
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
        id: NodeId,
        port: u16,
        addresses: BTreeMap<NodeId, SocketAddr>,
        shards: usize,
        connections: usize,
    ) -> std::io::Result<Node> {
        let mut inboxes = Vec::new();
        for _ in 0..shards {
            inboxes.push(Inbox::new()?);
        }
        let own = &founding.founders()[id.0 as usize - 1];
        Ok(Node {
            id,
            cluster: founding.cluster(),
            incarnation: own.incarnation,
            port,
            groups: founding.groups(),
            shards,
            record: founding.encode(),
            members: founding.founders().to_vec(),
            addresses: Mutex::new(addresses),
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

    /// Why nothing can be said to who greets so, if so.
    pub(crate) fn refuses(&self, hello: &Hello) -> Option<Code> {
        let foreign = hello.cluster != self.cluster;
        match hello.kind {
            HelloKind::Client if foreign && hello.cluster != ClusterId(0) => {
                Some(Code::CLUSTER_MISMATCH)
            }
            HelloKind::Peer if foreign => Some(Code::CLUSTER_MISMATCH),
            HelloKind::Peer if hello.node == self.id => Some(Code::DUPLICATE_NODE),
            HelloKind::Peer => match self.member(hello.node) {
                None => Some(Code::CLUSTER_MISMATCH),
                Some(member) if member.incarnation != hello.incarnation => {
                    Some(Code::DUPLICATE_NODE)
                }
                Some(_) if hello.group.0 >= self.groups => Some(Code::NO_SUCH_GROUP),
                Some(_) => None,
            },
            _ if hello.group.0 >= self.groups => Some(Code::NO_SUCH_GROUP),
            _ => None,
        }
    }

    /// The numbers of all members.
    pub(crate) fn members(&self) -> impl Iterator<Item = NodeId> {
        (1..=self.members.len() as u32).map(NodeId)
    }

    pub(crate) fn member(&self, id: NodeId) -> Option<&Founder> {
        self.members.get((id.0 as usize).checked_sub(1)?)
    }

    pub(crate) fn address(&self, id: NodeId) -> Option<SocketAddr> {
        self.addresses.lock().expect("nobody panics while holding the addresses").get(&id).copied()
    }

    pub(crate) fn set_address(&self, id: NodeId, address: SocketAddr) {
        let mut addresses = self.addresses.lock().expect("nobody panics while holding them");
        addresses.insert(id, address);
    }

    pub(crate) fn counters(&self, shard: usize) -> &Counters {
        &self.counters[shard]
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
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
