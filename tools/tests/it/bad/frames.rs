//! Bytes that are no hello and no frame.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use crc32c::crc32c;
use margay::machine::Code;
use margay::wire::client::{RefusedOf, Request, Response};
use margay::wire::{self, Hello, Kind};
use margay_log::id::{ClusterId, GroupId};

use super::{One, Wire};
use crate::harness::{Scratch, beside_others};

/// A frame whose checksums are right whatever `spoil` has made of its bytes.
fn spoilt(spoil: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut bytes = Vec::new();
    wire::encode(&mut bytes, Kind::Status, 0, 1, 0, &[&[7; 12]]);
    spoil(&mut bytes);
    let crc = crc32c(&bytes[32..]);
    bytes[24..28].copy_from_slice(&crc.to_le_bytes());
    let crc = crc32c(&bytes[..28]);
    bytes[28..32].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// What a process has had in memory at most, in KiB.
pub(super) fn peak_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
    number.and_then(|number| number.parse().ok()).expect("a number")
}

#[test]
fn a_frame_that_cannot_be_is_named_and_ends_only_its_connection() {
    let _beside = beside_others();
    let scratch = Scratch::new("bad-frames");
    let one = One::start(scratch.path());
    let mut torn_header = spoilt(|_| ());
    torn_header[9] ^= 1;
    let mut torn_body = spoilt(|_| ());
    torn_body[40] ^= 1;
    let cases: [(&str, Vec<u8>, Code, &str); 12] = [
        ("4 GiB", vec![0xff; 4], Code::FRAME_TOO_LARGE, "frame of 4294967295 bytes; the largest"),
        ("nothing", vec![0; 4], Code::BAD_FRAME, "frame length 0"),
        ("half a header", vec![16, 0, 0, 0], Code::BAD_FRAME, "frame length 16"),
        ("odd", vec![33, 0, 0, 0], Code::BAD_FRAME, "frame length 33"),
        ("header", torn_header, Code::CORRUPT, "frame header"),
        ("body", torn_body, Code::CORRUPT, "frame body"),
        ("newer", spoilt(|bytes| bytes[5] = 2), Code::VERSION, "protocol version 2"),
        ("padding", spoilt(|bytes| bytes[47] = 1), Code::BAD_PAYLOAD, "padding is not zero"),
        ("flags", spoilt(|bytes| bytes[7] = 9), Code::BAD_PAYLOAD, "unknown flags"),
        ("answer", spoilt(|bytes| bytes[4] = 37), Code::BAD_PAYLOAD, "not a request"),
        ("peer's", spoilt(|bytes| bytes[4] = 66), Code::BAD_PAYLOAD, "not a request"),
        ("web", b"GET / HTTP/1.1\r\n\r\n".to_vec(), Code::FOREIGN, "HTTP is spoken"),
    ];
    for (what, bytes, code, words) in cases {
        let mut wire = Wire::client(&one.address);
        wire.send(&bytes);
        let (of, told, text) = wire.refusal();
        assert_eq!((of, told), (RefusedOf::Connection, code), "{what}: {text}");
        assert!(text.contains(words), "{what}: {text}");
        wire.closed();
    }
    one.serves();
    let before = peak_memory(one.child.id());
    for _ in 0..100 {
        let mut wire = Wire::client(&one.address);
        wire.send(&0x7fff_fff0_u32.to_le_bytes());
        assert_eq!(wire.refusal().1, Code::FRAME_TOO_LARGE);
    }
    let grown = peak_memory(one.child.id()) - before;
    assert!(grown < 16 << 10, "{grown} KiB more than before");
    assert!(one.said().contains("client connection closed: frame of 4294967295 bytes"));
    one.serves();
}

#[test]
fn an_unknown_kind_is_refused_and_its_connection_kept() {
    let _beside = beside_others();
    let scratch = Scratch::new("bad-kind");
    let one = One::start(scratch.path());
    let mut wire = Wire::client(&one.address);
    wire.send(&spoilt(|bytes| bytes[4] = 200));
    let (of, code, text) = wire.refusal();
    assert_eq!((of, code), (RefusedOf::Frame(200), Code::BAD_KIND));
    assert!(text.contains("unknown message kind 200"), "{text}");
    // The same connection goes on, in pieces of one byte: nothing is ever aligned.
    let mut request = Vec::new();
    Request::Status { id: 9 }.encode(&mut request);
    request.chunks(1).for_each(|byte| wire.send(byte));
    wire.answer(|answer| assert!(matches!(answer, Response::Status { id: 9, .. }), "{answer:?}"));
    one.serves();
}

#[test]
fn strangers_are_told_in_their_own_protocol() {
    let _beside = beside_others();
    let scratch = Scratch::new("bad-strangers");
    let one = One::start(scratch.path());
    let tls = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[7; 506]].concat();
    let cases: [(&[u8], &[u8], &str); 7] = [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 400 Bad Request\r\n", "HTTP"),
        (b"POST /v1/map HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 Bad Request\r\n", "HTTP"),
        (&tls, &[0x15, 3, 1, 0, 2, 2, 70], "TLS"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", b"this is a margay port; SSH", "SSH"),
        (b"*1\r\n$4\r\nPING\r\n", b"-ERR this is a margay port; Redis", "Redis"),
        (b"PING\r\n", b"-ERR this is a margay port; Redis", "Redis"),
        (b"\0\0\0\0\0\0\0\0", b"", "unknown protocol"),
    ];
    for (said, answer, who) in cases {
        let mut wire = Wire::dial(&one.address);
        wire.send(said);
        let heard = wire.rest();
        assert!(heard.starts_with(answer), "{who}: {}", String::from_utf8_lossy(&heard));
        assert!(one.said().contains(who), "{who}: {}", one.said());
    }
    one.serves();
}

#[test]
fn a_hello_that_does_not_fit_is_answered_with_the_reason() {
    let _beside = beside_others();
    let scratch = Scratch::new("bad-hello");
    let one = One::start(scratch.path());
    let right = Hello::client(ClusterId(0), GroupId(0)).encode();
    let with = |at: usize, byte: u8, mend: bool| {
        let mut bytes = right;
        bytes[at] = byte;
        if mend {
            let crc = crc32c(&bytes[..60]);
            bytes[60..].copy_from_slice(&crc.to_le_bytes());
        }
        bytes
    };
    let cases = [
        (with(8, 2, true), Code::VERSION, "protocol version 2; version 1 is spoken here"),
        (with(20, 1, false), Code::CORRUPT, "checksum of the hello"),
        (with(10, 9, true), Code::BAD_KIND, "9"),
        (with(50, 1, true), Code::BAD_KIND, ""),
        (with(12, 77, true), Code::NO_SUCH_GROUP, "groups 0 to 0 are served"),
        (with(16, 1, true), Code::CLUSTER_MISMATCH, "another cluster"),
    ];
    for (bytes, code, words) in cases {
        let mut wire = Wire::dial(&one.address);
        wire.send(&bytes);
        assert_eq!(wire.hello().code, code);
        let (_, told, text) = wire.refusal();
        assert!(told == code && text.contains(words), "{told}: {text}");
        wire.closed();
    }
    one.serves();
}

/// Half a hello, a hello that comes a byte at a time, and a thousand connections that say nothing.
#[test]
fn who_says_hello_too_slowly_is_told_and_closed() {
    let _beside = beside_others();
    let scratch = Scratch::new("bad-slow");
    let one = One::start(scratch.path());
    let hello = Hello::client(ClusterId(0), GroupId(0)).encode();
    let silent: Vec<Wire> = (0..1_000).map(|_| Wire::dial(&one.address)).collect();
    let mut half = Wire::dial(&one.address);
    half.send(&hello[..40]);
    one.serves();
    let mut slow = Wire::dial(&one.address);
    let mut sender = slow.0.try_clone().expect("a second handle");
    // This pace is the abuse itself: 64 bytes in 8 s at least, and nobody waits for the last one.
    thread::spawn(move || {
        for byte in hello {
            if std::io::Write::write_all(&mut sender, &[byte]).is_err() {
                return;
            }
            thread::sleep(Duration::from_millis(125));
        }
    });
    for wire in [&mut half, &mut slow] {
        assert_eq!(wire.hello().code, Code::BAD_FRAME);
        let (_, _, text) = wire.refusal();
        assert!(text.contains("complete within 5 s"), "{text}");
    }
    silent.into_iter().for_each(|mut wire| assert!(wire.rest().is_empty()));
    one.serves();
}

/// What follows the hello is a frame that never ends: half of it and silence, and one that comes a
/// byte at a time.
#[test]
fn who_does_not_end_a_frame_is_told_and_closed() {
    let _beside = beside_others();
    let scratch = Scratch::new("bad-half");
    let one = One::start(scratch.path());
    let mut frame = Vec::new();
    Request::Status { id: 9 }.encode(&mut frame);
    let (mut half, mut slow) = (Wire::client(&one.address), Wire::client(&one.address));
    let began = Instant::now();
    half.send(&frame[..16]);
    let mut sender = slow.0.try_clone().expect("a second handle");
    // This pace is the abuse itself: 32 bytes in 48 s at least, and nobody waits for the last one.
    thread::spawn(move || {
        for byte in frame {
            if std::io::Write::write_all(&mut sender, &[byte]).is_err() {
                return;
            }
            thread::sleep(Duration::from_millis(1_500));
        }
    });
    for wire in [&mut half, &mut slow] {
        let (of, code, text) = wire.refusal();
        assert_eq!((of, code), (RefusedOf::Connection, Code::BAD_FRAME));
        assert!(text.contains("complete within 30 s"), "{text}");
    }
    let took = began.elapsed();
    assert!(took.as_secs() >= 29, "{took:?}");
    one.serves();
}

#[test]
fn thousands_who_never_say_hello_disturb_nobody() {
    let _beside = beside_others();
    let scratch = Scratch::new("bad-silent");
    let one = One::start(scratch.path());
    let silent: Vec<Wire> = (0..800).map(|_| Wire::dial(&one.address)).collect();
    one.serves();
    drop(silent);
    (0..3_000).for_each(|_| drop(Wire::dial(&one.address)));
    assert!(!one.said().contains("error: "), "{}", one.said());
    one.serves();
}
