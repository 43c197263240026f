//! Encrypted connections on real sockets: a cluster that is used as ever, and everybody who comes
//! with the wrong certificate, with none, or with something else.

mod authority;

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use margay::client::admin::{Admin, AdminError, admin};
use margay::client::{Client, Error, status};
use margay::machine::Code;
use margay::server::{LocalCluster, Node};
use margay::tls::{Role, Tls};
use margay::wire::client::{Request, Response};
use margay::wire::{self, Hello, HelloKind};
use margay_log::id::{ClusterId, GroupId, NodeId};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::PATIENCE;
use crate::shard::{self, read_all, read_frame, read_hello};
use authority::Authority;

fn open(authority: &Authority, role: Role) -> Tls {
    Tls::open(authority.issue(&format!("{role:?}"), role.name(), |_| ())).expect("all is right")
}

fn node(authority: &Authority) -> Node {
    let tls = open(authority, Role::Node);
    let node = Node::builder().temporary().shards(2).groups(5);
    node.configure(move |config| config.tls = Some(tls)).start().expect("the node starts")
}

/// A connection made by hand.
type Line = StreamOwned<ClientConnection, TcpStream>;

fn dial(address: SocketAddr, folder: &Path) -> Line {
    let read = |name: &str| std::fs::read(folder.join(name)).expect("a file");
    let certificates = |name| {
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(name)).collect();
        all.expect("certificates")
    };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates("ca.pem"));
    let key = PrivateKeyDer::from_pem_slice(&read("key.pem")).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("known versions")
        .with_root_certificates(roots)
        .with_client_auth_cert(certificates("cert.pem"), key)
        .expect("they fit");
    let name = ServerName::try_from(Role::Node.name()).expect("a name");
    let connection = ClientConnection::new(Arc::new(config), name).expect("a right name");
    StreamOwned::new(connection, shard::dial(address))
}

/// Entries that are small and large, from leader to followers, to and from clients; a leader that
/// goes and comes back.
#[test]
fn a_cluster_whose_connections_are_encrypted_is_used_as_ever() {
    let authority = Authority::new("cluster", "ca");
    let tls = open(&authority, Role::Node);
    let builder = LocalCluster::builder(3).shards(2).groups(4);
    let mut cluster =
        builder.configure(move |config| config.tls = Some(tls.clone())).start().expect("founded");
    let tls = open(&authority, Role::Client);
    let client = Client::builder().endpoints(cluster.endpoints()).tls(tls).timeout(PATIENCE);
    let client = client.connect().expect("reached");
    let large = vec![7; 1 << 20];
    let check = |round: u8| {
        for group in 0..4 {
            let value = client.value(&format!("large@{group}")).wait().expect("there");
            value.set(&large).wait().expect("written");
            let small = client.map(&format!("small@{group}")).wait().expect("there");
            let puts: Vec<_> = (0..100u8).map(|n| small.put(&[n], &[round, n])).collect();
            for put in puts {
                put.wait().expect("written");
            }
            assert_eq!(
                value.get().wait().expect("read").map(|read| read.value),
                Some(large.clone())
            );
            for n in [0, 99] {
                let read = small.get(&[n]).wait().expect("read");
                assert_eq!(read.map(|read| read.value), Some(vec![round, n]));
            }
        }
    };
    check(1);
    let until = Instant::now() + PATIENCE;
    let leader = std::iter::repeat_with(|| cluster.leader(GroupId(0)))
        .take_while(|_| Instant::now() < until)
        .find_map(|leader| leader)
        .expect("somebody leads");
    cluster.stop_node(leader).expect("an orderly end");
    check(2);
    cluster.start_node(leader).expect("it starts");
    check(3);
    cluster.stop().expect("an orderly end");
}

/// Hello and requests in one piece, as many records as there are bytes, or in between: whoever
/// accepts reads ahead, and the shard of the group gets all of it.
#[test]
fn what_follows_a_hello_reaches_the_shard_of_its_group() {
    let authority = Authority::new("behind", "ca");
    let node = node(&authority);
    let folder = authority.issue("client", Role::Client.name(), |_| ());
    for round in 0..10 {
        for (group, cut) in (0..5).zip([usize::MAX, 1, 70, 64, 1_000]) {
            let mut line = dial(node.address(), &folder);
            let mut said = Hello::client(ClusterId(0), GroupId(group)).encode().to_vec();
            for id in 0..20 {
                Request::Status { id }.encode(&mut said);
            }
            for piece in said.chunks(cut.min(said.len())) {
                line.write_all(piece).expect("sent");
            }
            assert_eq!(read_hello(&mut line).group, GroupId(group), "round {round}");
            for expected in 0..20 {
                let bytes = read_frame(&mut line);
                let frame = wire::decode(&bytes).expect("a right frame");
                let answer = Response::decode(&frame).expect("an answer");
                let Response::Status { id, groups } = answer else { panic!("{answer:?}") };
                assert_eq!((id, groups[0].group), (expected, GroupId(group)));
            }
        }
    }
    node.stop().expect("an orderly end");
}

/// Whoever cannot be served is told why, in words that name the remedy.
#[test]
fn a_client_is_told_what_its_connection_lacks() {
    let (ours, theirs) = (Authority::new("lacks", "ca"), Authority::new("strange", "other"));
    let (encrypted, bare) = (node(&ours), Node::builder().temporary().start().expect("starts"));
    let refusal = |address: SocketAddr, tls: Option<Tls>| {
        let patience = if tls.is_some() { Duration::from_secs(3) } else { 2 * PATIENCE };
        let builder = Client::builder().endpoints([address.to_string()]);
        let builder = builder.timeout(patience);
        let builder = match tls {
            Some(tls) => builder.tls(tls),
            None => builder,
        };
        match builder.connect() {
            Err(Error::Unreachable { tried, .. }) => tried,
            other => panic!("{other:?}"),
        }
    };
    let check = |refusal: String, words: &str| assert!(refusal.contains(words), "{refusal}");
    let begun = Instant::now();
    check(refusal(encrypted.address(), None), "takes encrypted connections only; use --tls");
    assert!(begun.elapsed() < PATIENCE, "waiting longer would not help, and nobody does");
    let stranger = Tls::open(theirs.issue("client", Role::Client.name(), |_| ())).expect("right");
    check(
        refusal(encrypted.address(), Some(stranger)),
        "TLS: the certificate is not from an authority in ca.pem",
    );
    let folder = theirs.issue("trusting", Role::Client.name(), |_| ());
    authority::write(&folder, "ca.pem", &format!("{}{}", ours.pem, theirs.pem));
    let unknown = Tls::open(&folder).expect("right");
    check(
        refusal(encrypted.address(), Some(unknown)),
        "TLS: the other side does not know the authority of this certificate",
    );
    check(
        refusal(bare.address(), Some(open(&ours, Role::Client))),
        "TLS: the other side speaks no TLS 1.3",
    );
    encrypted.stop().expect("an orderly end");
    bare.stop().expect("an orderly end");
}

/// A client's certificate is good for using resources, and for looking.
#[test]
fn only_operators_change_who_leads_and_who_belongs() {
    let authority = Authority::new("roles", "ca");
    let node = node(&authority);
    let endpoints = [node.address().to_string()];
    let client = open(&authority, Role::Client);
    let ask = |role: Role, verb: Admin<'_>| {
        let tls = open(&authority, role);
        admin(&endpoints, Some(&tls), GroupId(0), verb, Instant::now() + PATIENCE)
    };
    for verb in [
        Admin::Transfer { name: "n1" },
        Admin::Remove { name: "n1" },
        Admin::Promote { name: "n1" },
        Admin::Demote { name: "n1" },
    ] {
        let refused = ask(Role::Client, verb);
        assert!(
            matches!(&refused, Err(AdminError::Refused { code: Code::DENIED, .. })),
            "{verb:?}: {refused:?}"
        );
    }
    for role in [Role::Operator, Role::Node] {
        ask(role, Admin::Promote { name: "n1" }).expect("it votes already");
    }
    let nodes = status(&endpoints, Some(&client), PATIENCE);
    assert_eq!(nodes[0].groups.as_ref().expect("an answer").len(), 5);
    node.stop().expect("an orderly end");
}

/// Refusals are answers like others: what waits to be read has a bound.
#[test]
fn a_client_that_reads_no_refusals_is_left() {
    let authority = Authority::new("deaf", "ca");
    let node = node(&authority);
    let folder = authority.issue("client", Role::Client.name(), |_| ());
    let mut line = dial(node.address(), &folder);
    line.write_all(&Hello::client(ClusterId(0), GroupId(0)).encode()).expect("sent");
    let mut flood = Vec::new();
    while flood.len() < 1 << 20 {
        Request::Admin { id: 1, admin: Admin::Promote { name: "n1" } }.encode(&mut flood);
    }
    // Kernels hold some, too.
    let left = (0..40).find(|_| line.write_all(&flood).is_err());
    assert!(left.is_some(), "who reads nothing is not answered for ever");
    node.stop().expect("an orderly end");
}

/// Who is told that he is refused may have more to say; he is not reset before he has read it.
#[test]
fn what_a_refused_stranger_still_says_is_thrown_away() {
    let authority = Authority::new("further", "ca");
    let node = node(&authority);
    let mut line = shard::dial(node.address());
    line.write_all(b"\x16\x03\x03\xff\xffnonsense").expect("sent");
    let alert = read_all(&mut line);
    assert!(alert.starts_with(b"\x15\x03"), "{alert:?}");
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(200) {
        line.write_all(b"more").expect("nothing is reset");
    }
    node.stop().expect("an orderly end");
}

#[test]
fn a_client_or_nobody_does_not_pose_as_a_node() {
    let authority = Authority::new("posing", "ca");
    let node = node(&authority);
    let (client, peer) = (Role::Client.name(), Role::Node.name());
    let folders = [authority.issue("c", client, |_| ()), authority.issue("p", peer, |_| ())];
    let cluster = node.server().cluster();
    for kind in [HelloKind::Peer, HelloKind::Forming] {
        let hello = Hello { kind, node: NodeId(9), ..Hello::client(cluster, GroupId(0)) };
        let mut line = dial(node.address(), &folders[0]);
        line.write_all(&hello.encode()).expect("sent");
        assert_eq!(read_hello(&mut line).code, Code::DENIED, "{kind:?}");
        let mut line = dial(node.address(), &folders[1]);
        line.write_all(&hello.encode()).expect("sent");
        assert_eq!(read_hello(&mut line).code, Code::OK, "{kind:?}");
        let mut line = shard::dial(node.address());
        line.write_all(&hello.encode()).expect("sent");
        assert_eq!(read_hello(&mut line).code, Code::TLS_REQUIRED, "{kind:?}");
    }
    node.stop().expect("an orderly end");
}

/// They are told so in their own protocol, as by a node without TLS; who says nothing sensible, or
/// does not go on, is given up.
#[test]
fn strangers_at_an_encrypted_port_are_told_so_and_left() {
    let authority = Authority::new("strangers", "ca");
    let node = node(&authority);
    for (said, answer) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], &b"HTTP/1.1 400"[..]),
        (b"SSH-2.0-OpenSSH_9.2\r\n", b"this is a margay port; SSH"),
        (b"PING\r\n", b"-ERR this is a margay port"),
        // Alerts: of a protocol version that is not spoken, of a message that is none.
        (b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03", b"\x15\x03"),
        (b"\x16\x03\x03\xff\xffnonsense", b"\x15\x03"),
    ] {
        let mut line = shard::dial(node.address());
        line.write_all(said).expect("sent");
        let heard = read_all(&mut line);
        assert!(heard.starts_with(answer), "{said:?}: {heard:?}");
    }
    // The rest of this one never comes; the others are served meanwhile.
    let mut slow = shard::dial(node.address());
    slow.write_all(b"\x16\x03\x01\x02\x00\x01").expect("sent");
    let tls = open(&authority, Role::Client);
    let client = Client::builder().endpoints([node.address().to_string()]).tls(tls);
    let client = client.connect().expect("reached");
    client.counter("hits").wait().expect("there").add_and_get(1).wait().expect("counted");
    assert_eq!(read_all(&mut slow), b"");
    node.stop().expect("an orderly end");
}

/// Many at once, so that handshakes, hellos and hand-overs between shards overlap.
#[test]
fn many_clients_at_once_are_all_served() {
    let authority = Authority::new("many", "ca");
    let node = node(&authority);
    let tls = open(&authority, Role::Client);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (tls, endpoint) = (tls.clone(), node.address().to_string());
            scope.spawn(move || {
                for _ in 0..5 {
                    let client = Client::builder().endpoints([endpoint.clone()]).tls(tls.clone());
                    let client = client.timeout(PATIENCE).connect().expect("reached");
                    for group in 0..5 {
                        let counter = client.counter(&format!("c{thread}@{group}")).wait();
                        counter.expect("there").add_and_get(1).wait().expect("counted");
                    }
                }
            });
        }
    });
    let client = node.client_builder().timeout(PATIENCE).connect().expect("reached");
    for thread in 0..8 {
        for group in 0..5 {
            let counter = client.counter(&format!("c{thread}@{group}")).wait().expect("there");
            assert_eq!(counter.get().wait().expect("read"), 5);
        }
    }
    node.stop().expect("an orderly end");
}
