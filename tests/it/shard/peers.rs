//! Nodes among themselves: founding, links, and batches that follow their frames.

use std::io::Write;
use std::net::TcpListener;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use margay::forming::Peer;
use margay::machine::Code;
use margay::raft::message::{Body, Message, Round};
use margay::replica::membership::{Member, Membership};
use margay::replica::memberships::Memberships;
use margay::replica::{ConnId, Fatal, Fault, Host};
use margay::server::{Group, MakeGroup, Seed, Server, ServerConfig};
use margay::wire::peer::PeerMessage;
use margay::wire::{Frame, Hello, HelloKind};
use margay_log::batch::{Batch, Received};
use margay_log::disk::Done;
use margay_log::format::EntryHeader;
use margay_log::id::{
    Chain, ClusterId, EntryId, GroupId, Incarnation, Index, Micros, NodeId, Term,
};
use margay_log::{Buffer, Log};

use super::{Scratch, alone, dial, eventually, read_hello, start};

/// Sends a large batch to all peers on a timer, and counts what arrives.
struct Sender {
    node: NodeId,
    peers: Vec<NodeId>,
    members: Memberships,
    batch: Arc<Batch>,
    seed: (ClusterId, GroupId),
    heard: Arc<Mutex<Vec<(NodeId, NodeId)>>>,
    next: Micros,
}

impl Sender {
    fn new(mut seed: Seed, heard: Arc<Mutex<Vec<(NodeId, NodeId)>>>, now: Micros) -> Sender {
        let log: &mut Log = &mut seed.opened.log;
        let header = EntryHeader::default();
        for size in [300_000, 70_000, 5] {
            log.push(&header, &vec![size as u8; size]).expect("room");
        }
        let batch = log.seal(Term(1), 0).expect("sealed");
        let node = seed.node;
        let peers = (1..=seed.founders.len() as u32).map(NodeId).filter(|id| *id != node);
        let ids = (seed.cluster, seed.group);
        let founders = (1..).zip(&seed.founders).map(|(id, founder)| Member {
            id: NodeId(id),
            name: founder.name.clone(),
            address: founder.address.clone(),
            incarnation: founder.incarnation,
        });
        let founding = Membership::founding(founders.collect());
        let members = Memberships::new(Index::ZERO, founding);
        Sender { node, peers: peers.collect(), members, batch, seed: ids, heard, next: now }
    }
}

impl Group for Sender {
    fn on_peer(
        &mut self,
        _: Micros,
        from: NodeId,
        frame: &Frame<'_>,
        batch: Option<Buffer>,
        _: &mut dyn Host,
    ) -> Result<(), Fault> {
        let length = PeerMessage::decode(frame)?.batch_length as usize;
        let buffer = batch.expect("a batch follows");
        let (cluster, group) = self.seed;
        let received = Received::check(buffer, length, cluster, group)?;
        assert_eq!(received.header().count, 3);
        self.heard.lock().expect("not poisoned").push((from, self.node));
        Ok(())
    }

    fn on_peer_down(&mut self, _: Micros, _: NodeId, _: &mut dyn Host) {}

    fn on_client(
        &mut self,
        _: Micros,
        _: ConnId,
        _: &Frame<'_>,
        _: &mut dyn Host,
    ) -> Result<(), Fault> {
        Ok(())
    }

    fn on_client_gone(&mut self, _: ConnId) {}

    fn on_disk(&mut self, _: Micros, _: Done, _: &mut dyn Host) -> Result<(), Fatal> {
        Ok(())
    }

    fn flush(&mut self, now: Micros, host: &mut dyn Host) -> Result<(), Fatal> {
        if now >= self.next {
            self.next = now.after(Micros::from_millis(10));
            host.members(&self.members);
            let last = EntryId::new(Term(1), self.batch.header().last().index);
            let body = Body::Append {
                prev: EntryId::ZERO,
                batch: Some(last),
                commit: Index(0),
                round: Round(1),
            };
            let message = Message { term: Term(1), body };
            let batch_length = self.batch.size() as u32;
            let mut frame = Vec::new();
            PeerMessage { message, chain: Chain(0), batch_length }.encode(&mut frame);
            for peer in &self.peers {
                host.peer(*peer, &frame, Some(&self.batch));
            }
        }
        Ok(())
    }

    fn deadline(&self) -> Option<Micros> {
        Some(self.next)
    }
}

/// So many addresses that nobody else is given while nobody listens there: all other tests are at
/// 127.0.0.1.
fn free_addresses(count: usize) -> Vec<String> {
    let bind = |_| TcpListener::bind("127.0.0.2:0").expect("a free port");
    // All are held at the same time, so that they differ.
    let listeners: Vec<TcpListener> = (0..count).map(bind).collect();
    let address = |held: &TcpListener| held.local_addr().expect("its address").to_string();
    listeners.iter().map(address).collect()
}

/// Three nodes found a cluster, one of them late, and send each other large batches; one that is
/// restarted is connected to again.
#[test]
fn nodes_found_a_cluster_and_exchange_batches() {
    let scratch = Scratch::new();
    let names = ["n1", "n2", "n3"];
    let addresses = names.iter().zip(free_addresses(names.len()));
    let peers: Vec<Peer> =
        addresses.map(|(name, address)| Peer { name: (*name).into(), address }).collect();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let launch = |at: usize| {
        let mut config = ServerConfig::new(names[at], scratch.0.join(names[at]));
        config.listen = peers[at].address.parse().expect("an address");
        config.peers = peers.clone();
        config.shards = Some(1 + at % 2);
        let heard = Arc::clone(&heard);
        let make: MakeGroup = Arc::new(move |seed, now| {
            Ok(Box::new(Sender::new(seed, Arc::clone(&heard), now)) as Box<dyn Group>)
        });
        Server::start(&config, make, &AtomicBool::new(false)).expect("the node starts")
    };
    let mut servers: Vec<Server> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3)
            .map(|at| {
                std::thread::sleep(Duration::from_millis(150 * at as u64));
                scope.spawn(move || launch(at))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("started")).collect()
    });
    assert!(servers.iter().all(|server| server.cluster() == servers[0].cluster()));
    assert!(servers.iter().all(|server| server.groups() == 3), "three nodes, one shard at least");
    let everybody = || {
        let heard = heard.lock().expect("not poisoned");
        let pairs = (1..=3).flat_map(|a| (1..=3).map(move |b| (NodeId(a), NodeId(b))));
        pairs.filter(|(a, b)| a != b).all(|pair| heard.contains(&pair))
    };
    eventually("everybody hears everybody", everybody);

    servers.remove(1).stop().expect("an orderly end");
    heard.lock().expect("not poisoned").clear();
    servers.insert(1, launch(1));
    eventually("everybody hears everybody again", everybody);
    for server in servers {
        server.stop().expect("an orderly end");
    }
}

/// A node that no configuration names, perhaps the leader that would bring it, starts again
/// elsewhere: it is answered there, at once and not where it was.
#[test]
fn who_is_not_known_is_answered_where_it_is_now() {
    let scratch = Scratch::new();
    let server = start(&alone(&scratch.0));
    let stranger = || {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let mut stream = dial(server.address());
        let hello = Hello {
            kind: HelloKind::Peer,
            cluster: server.cluster(),
            node: NodeId(7),
            incarnation: Incarnation(7),
            port,
            ..Hello::client(server.cluster(), GroupId(0))
        };
        stream.write_all(&hello.encode()).expect("sent");
        assert_eq!(read_hello(&mut stream).code, Code::OK);
        listener.set_nonblocking(true).expect("an option");
        eventually("the node to answer there", || listener.accept().is_ok());
    };
    // Nobody there speaks as a peer would: the pauses between attempts grow to a second.
    for _ in 0..7 {
        stranger();
        std::thread::sleep(Duration::from_millis(50));
    }
    let quickest = (0..3).map(|_| {
        let begun = Instant::now();
        stranger();
        let took = begun.elapsed();
        std::thread::sleep(Duration::from_millis(50));
        took
    });
    let quickest = quickest.min().expect("three of them");
    assert!(quickest < Duration::from_millis(600), "it is not tried at once: {quickest:?}");
    server.stop().expect("an orderly end");
}
