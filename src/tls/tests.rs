use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use rcgen::{
    CertificateRevocationListParams, ExtendedKeyUsagePurpose, KeyIdMethod, KeyPair,
    RevokedCertParams, SerialNumber, date_time_ymd,
};

use rustls::pki_types::UnixTime;

use super::*;
use authority::{Authority, write};

#[path = "../../tests/it/tls/authority.rs"]
mod authority;

impl Authority {
    fn open(&self, folder: &str, role: Role) -> Tls {
        Tls::open(self.issue(folder, role.name(), |_| ())).expect("all is right")
    }
}

type Said = Result<Vec<u8>, Broken>;

/// Carries what one end has to say to the other, `cut` bytes at a time.
fn pass(from: &mut Secure, to: &mut Secure, cut: usize, heard: &mut Said) {
    let mut cipher = Vec::new();
    from.drain(&mut cipher);
    for piece in cipher.chunks(cut) {
        let mut plain = Vec::new();
        match (to.feed(piece, &mut plain), &mut *heard) {
            (Ok(()), Ok(all)) => all.extend_from_slice(&plain),
            (Err(broken), Ok(_)) => *heard = Err(broken),
            _ => {}
        }
    }
}

/// The same for both, until nobody has anything to say. What each has heard.
fn carry((left, right): (&mut Secure, &mut Secure), cut: usize) -> (Said, Said) {
    let (mut heard_left, mut heard_right) = (Ok(Vec::new()), Ok(Vec::new()));
    while left.has_output() || right.has_output() {
        pass(left, right, cut, &mut heard_right);
        pass(right, left, cut, &mut heard_left);
    }
    (heard_left, heard_right)
}

#[test]
fn what_is_said_arrives_however_it_is_cut() {
    let authority = Authority::new("cut", "ca");
    let node = authority.open("node", Role::Node);
    let long: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
    for (role, cut) in [(Role::Client, 1), (Role::Operator, 1_000), (Role::Node, usize::MAX)] {
        let (mut client, mut server) = (authority.open("client", role).dial(), node.accept());
        // Before the handshake, from the side that speaks first.
        client.put(b"hello");
        assert!(client.is_handshaking() && server.role().is_none());
        let (_, heard) = carry((&mut client, &mut server), cut);
        assert_eq!(heard, Ok(b"hello".to_vec()), "{role:?}");
        assert!(!client.is_handshaking() && !server.is_handshaking());
        assert_eq!((client.role(), server.role()), (Some(Role::Node), Some(role)));
        server.put(&long);
        client.put(&long);
        let (left, right) = carry((&mut client, &mut server), cut);
        assert!(left.as_ref() == Ok(&long) && right.as_ref() == Ok(&long), "{role:?}");
    }
}

/// Who is at fault is told so, and each end says what is wrong in its own words.
#[test]
fn only_the_own_authority_counts_and_only_a_node_is_dialled() {
    let (ours, theirs) = (Authority::new("ours", "ca"), Authority::new("theirs", "other"));
    let node = ours.open("node", Role::Node);
    let shake = |from: Tls, to: &Tls| {
        let (mut client, mut server) = (from.dial(), to.accept());
        client.put(b"hello");
        carry((&mut client, &mut server), usize::MAX)
    };
    let fault = |heard: Result<Vec<u8>, Broken>| heard.expect_err("refused").0;

    let (left, right) = shake(theirs.open("client", Role::Client), &node);
    assert_eq!(fault(left), "the certificate is not from an authority in ca.pem");
    assert_eq!(fault(right), "the other side does not know the authority of this certificate");

    // It trusts ours, and is not trusted.
    let folder = theirs.issue("stranger", Role::Client.name(), |_| ());
    write(&folder, "ca.pem", &format!("{}{}", ours.pem, theirs.pem));
    let (left, right) = shake(Tls::open(&folder).expect("right"), &node);
    assert_eq!(fault(left), "the other side does not know the authority of this certificate");
    assert_eq!(fault(right), "the certificate is not from an authority in ca.pem");

    // Clients do not pose as nodes, whatever they may use their certificates for.
    let folder = ours.issue("posing", Role::Operator.name(), |params| {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    });
    let posing = Tls::open(&folder).expect("right");
    let (left, _) = shake(ours.open("client", Role::Client), &posing);
    assert_eq!(fault(left), "the certificate is not a node's");
}

#[test]
fn what_is_wrong_with_a_folder_is_said_with_the_file() {
    let authority = Authority::new("folder", "ca");
    let fault = |folder: &Path| Tls::open(folder).expect_err("refused").to_string();
    let at = |folder: &Path, name: &str| folder.join(name).display().to_string();
    let fresh = || authority.issue("one", Role::Client.name(), |_| ());
    for name in ["ca.pem", "cert.pem", "key.pem"] {
        let folder = fresh();
        write(&folder, name, "nonsense");
        assert!(fault(&folder).starts_with(&at(&folder, name)), "{}", fault(&folder));
        std::fs::remove_file(folder.join(name)).expect("it is ours");
        let text = fault(&folder);
        assert!(text.starts_with(&at(&folder, name)) && text.contains("No such file"), "{text}");
    }
    let folder = fresh();
    write(&folder, "crl.pem", "nonsense");
    assert_eq!(fault(&folder), at(&folder, "crl.pem") + ": no revocation list in PEM");
    std::fs::remove_file(folder.join("crl.pem")).expect("it is ours");

    write(&folder, "key.pem", &KeyPair::generate().expect("a key").serialize_pem());
    assert_eq!(fault(&folder), at(&folder, "key.pem") + ": it is not the key of cert.pem");

    let folder = authority.issue("old", Role::Client.name(), |params| {
        params.not_after = date_time_ymd(2020, 1, 1);
    });
    assert_eq!(fault(&folder), at(&folder, "cert.pem") + ": the certificate has expired");
    let folder = authority.issue("early", Role::Client.name(), |params| {
        params.not_before = date_time_ymd(2120, 1, 1);
    });
    let text = ": the certificate is not valid yet: is a clock wrong?";
    assert_eq!(fault(&folder), at(&folder, "cert.pem") + text);
    let folder = authority.issue("nobody", Role::Client.name(), |params| {
        params.subject_alt_names = vec![rcgen::SanType::DnsName("n1".try_into().expect("a name"))];
    });
    let text = ": it is for none of node.margay.internal, operator.margay.internal, \
                client.margay.internal";
    assert_eq!(fault(&folder), at(&folder, "cert.pem") + text);
}

#[test]
fn files_that_are_replaced_are_taken_up_if_they_are_right() {
    let authority = Authority::new("replaced", "ca");
    let folder = authority.issue("node", Role::Operator.name(), |_| ());
    let tls = Tls::open(&folder).expect("right");
    assert!(!tls.refresh().expect("the same"));
    write(&folder, "cert.pem", "half of it");
    assert!(tls.refresh().is_err() && tls.role() == Role::Operator);
    authority.issue("node", Role::Node.name(), |_| ());
    assert!(tls.refresh().expect("right again"));
    assert_eq!(tls.role(), Role::Node);
    assert!(!tls.refresh().expect("the same"));
}

#[test]
fn a_certificate_that_will_expire_is_known() {
    let authority = Authority::new("expires", "ca");
    let day = Duration::from_secs(86_400);
    let now = Duration::from_secs(UnixTime::now().as_secs());
    let folder = authority.issue("node", Role::Node.name(), |params| {
        params.not_after = date_time_ymd(1970, 1, 1) + now + day;
    });
    let tls = Tls::open(&folder).expect("right, for a day");
    assert!(tls.is_good_in(Duration::ZERO) && tls.is_good_in(day / 2));
    assert!(!tls.is_good_in(day * 2));
    authority.issue("node", Role::Node.name(), |_| ());
    assert!(tls.refresh().expect("right"));
    assert!(tls.is_good_in(day * 2));
}

/// Clients read the files on many threads; who is slow does not bring back what was there before.
#[test]
fn what_was_read_last_counts() {
    let authority = Authority::new("slow", "ca");
    let folder = authority.issue("one", Role::Client.name(), |_| ());
    let tls = Tls::open(&folder).expect("right");
    authority.issue("one", Role::Operator.name(), |_| ());
    let key = folder.join("key.pem");
    let operators = std::fs::read(&key).expect("a file");
    std::fs::remove_file(&key).expect("it is ours");
    let made = std::process::Command::new("mkfifo").arg(&key).status().expect("it runs");
    assert!(made.success());
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| tls.refresh());
        // Opens when the other side reads: the operator's certificate has been read by then.
        let mut pipe = std::fs::File::options().write(true).open(&key).expect("a pipe");
        std::fs::remove_file(&key).expect("it is ours");
        authority.issue("one", Role::Node.name(), |_| ());
        let (done, end) = std::sync::mpsc::channel::<()>();
        let tls = &tls;
        let quick = scope.spawn(move || {
            let refreshed = tls.refresh();
            drop(done);
            refreshed
        });
        // Either it does not wait for the slow one, or it does.
        let _ = end.recv_timeout(Duration::from_millis(500));
        pipe.write_all(&operators).expect("read");
        drop(pipe);
        assert!(slow.join().expect("no panic").is_ok());
        assert!(quick.join().expect("no panic").is_ok());
    });
    assert_eq!(tls.role(), Role::Node);
}

#[test]
fn a_certificate_that_was_taken_back_does_not_count() {
    let authority = Authority::new("revoked", "ca");
    let folder = authority.issue("node", Role::Node.name(), |_| ());
    let node = Tls::open(&folder).expect("right");
    let revoked = SerialNumber::from(77u64);
    let lost = authority.issue("lost", Role::Client.name(), |params| {
        params.serial_number = Some(revoked.clone());
    });
    let lost = Tls::open(&lost).expect("right");
    let heard = || {
        let (mut client, mut server) = (lost.dial(), node.accept());
        client.put(b"hello");
        carry((&mut client, &mut server), usize::MAX).1
    };
    assert_eq!(heard(), Ok(b"hello".to_vec()));
    let list = CertificateRevocationListParams {
        this_update: date_time_ymd(2025, 1, 1),
        next_update: date_time_ymd(2125, 1, 1),
        crl_number: SerialNumber::from(1u64),
        issuing_distribution_point: None,
        revoked_certs: vec![RevokedCertParams {
            serial_number: revoked.clone(),
            revocation_time: date_time_ymd(2025, 1, 1),
            reason_code: None,
            invalidity_date: None,
        }],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = list.signed_by(&authority.issuer).expect("signed").pem().expect("text");
    write(&folder, "crl.pem", &list);
    assert!(node.refresh().expect("right"));
    assert_eq!(heard().expect_err("refused").0, "the certificate has been revoked");
    // Others are as good as before.
    let (mut client, mut server) = (authority.open("client", Role::Client).dial(), node.accept());
    client.put(b"hello");
    assert_eq!(carry((&mut client, &mut server), usize::MAX).1, Ok(b"hello".to_vec()));
}

/// A record that comes a byte at a time is awaited as long as all else, however long it is.
#[test]
fn reading_ends_in_time_whatever_trickles_in() {
    let authority = Authority::new("trickle", "ca");
    let (node, client) = (authority.open("node", Role::Node), authority.open("c", Role::Client));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let socket = TcpStream::connect(listener.local_addr().expect("bound")).expect("heard");
    let (guest, _) = listener.accept().expect("connected");
    let begun = Instant::now();
    let slow = std::thread::spawn(move || {
        let until = begun + Duration::from_secs(60);
        let (mut socket, secure) = Stream::dial(socket, Some(&client), until)
            .expect("trusted")
            .into_parts()
            .expect("silent");
        let (mut secure, mut cipher) = (secure.expect("encrypted"), Vec::new());
        secure.put(&[7; 16 << 10]);
        secure.drain(&mut cipher);
        // At least 16 s for all of it.
        let pause = Duration::from_millis(1);
        for byte in cipher {
            if socket.write_all(&[byte]).is_err() {
                return;
            }
            std::thread::sleep(pause);
        }
    });
    let mut stream =
        Stream::accept(guest, Some(&node), begun + Duration::from_secs(5)).expect("trusted");
    let read = stream.read(&mut [0; 100]);
    assert_eq!(read.expect_err("in time").kind(), ErrorKind::TimedOut);
    drop(stream);
    slow.join().expect("it is left");
}

/// Nothing that arrives makes an end panic or remember without bounds.
#[test]
fn bytes_that_are_no_tls_are_refused() {
    let authority = Authority::new("bytes", "ca");
    let node = authority.open("node", Role::Node);
    let client = authority.open("client", Role::Client);
    let mut hello = Vec::new();
    client.dial().drain(&mut hello);
    proptest::proptest!(|(bytes: Vec<u8>, at: usize, bit in 0..8u32, cut in 1..2_000usize)| {
        let mut plain = Vec::new();
        let _ = node.accept().feed(&bytes, &mut plain);
        let mut damaged = hello.clone();
        let at = at % damaged.len();
        damaged[at] ^= 1 << bit;
        let mut server = node.accept();
        for piece in damaged.chunks(cut) {
            if server.feed(piece, &mut plain).is_err() {
                break;
            }
        }
        proptest::prop_assert!(plain.is_empty() && server.role().is_none());
    });
    let error = node.accept().feed(b"GET / HTTP/1.1\r\n", &mut Vec::new());
    assert_eq!(error.expect_err("refused").0, "the other side speaks no TLS");
}
