//! One question to one node, outside any session: connect, say hello, ask, read the answer, close.

use std::io::{Read, Write};
use std::time::Instant;

use margay_log::id::{ClusterId, GroupId};

use super::endpoints::NO_HELLO;
use super::net::{open_one, reason, secured};
use crate::machine::Code;
use crate::tls::Tls;
use crate::wire::client::Request;
use crate::wire::{self, HELLO_BYTES, Hello};

/// A node's hello, and the one frame that it answered.
pub(super) struct Answer {
    pub(super) hello: Hello,
    pub(super) frame: Vec<u8>,
}

/// Asks the node at `address` about a group, until `end`.
///
/// # Errors
/// Why there is no answer, in words.
pub(super) fn ask(
    address: &str,
    tls: Option<&Tls>,
    group: GroupId,
    request: &Request<'_>,
    end: Instant,
) -> Result<Answer, String> {
    let mut question = Vec::new();
    request.encode(&mut question);
    exchange(address, tls, group, &question, end)
}

/// The same for a frame that is not a client's alone.
///
/// # Errors
/// Why there is no answer, in words.
pub(super) fn exchange(
    address: &str,
    tls: Option<&Tls>,
    group: GroupId,
    question: &[u8],
    end: Instant,
) -> Result<Answer, String> {
    let left = || end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero());
    let left = || left().ok_or_else(|| "timed out".to_owned());
    let socket = open_one(address, left()?).map_err(|error| reason(&error))?;
    let mut stream = secured(socket, tls, end).map_err(|error| reason(&error))?;
    let mut out = Hello::client(ClusterId(0), group).encode().to_vec();
    out.extend_from_slice(question);
    stream.socket().set_write_timeout(Some(left()?)).map_err(|error| reason(&error))?;
    stream.write_all(&out).map_err(|error| reason(&error))?;

    let (mut bytes, mut hello) = (Vec::new(), None);
    loop {
        let body = if hello.is_some() { &bytes[HELLO_BYTES..] } else { &bytes[..] };
        let length = if hello.is_some() { wire::peek(body) } else { Hello::peek(body) };
        match (length.map_err(|error| error.to_string())?, hello) {
            (Some(length), None) if length <= body.len() => {
                hello = Some(check(&body[..length])?);
                continue;
            }
            (Some(length), Some(hello)) if length <= body.len() => {
                return Ok(Answer { hello, frame: body[..length].to_vec() });
            }
            _ => {}
        }
        let mut chunk = [0; 4096];
        stream.socket().set_read_timeout(Some(left()?)).map_err(|error| reason(&error))?;
        match stream.read(&mut chunk).map_err(|error| reason(&error))? {
            0 if hello.is_none() => return Err(NO_HELLO.to_owned()),
            0 => return Err("disconnected".to_owned()),
            length => bytes.extend_from_slice(&chunk[..length]),
        }
    }
}

fn check(bytes: &[u8]) -> Result<Hello, String> {
    let hello = Hello::decode(bytes).map_err(|error| error.to_string())?;
    if hello.code == Code::OK { Ok(hello) } else { Err(hello.code.to_string()) }
}

/// The words of others, which cannot drive a terminal.
pub(super) fn shown(words: &str) -> String {
    words.replace(char::is_control, "\u{fffd}")
}
