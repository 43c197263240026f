//! Asks nodes how they are, one by one and not through a session: nodes without a leader answer
//! too.

use std::io::{Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use margay_log::id::{ClusterId, GroupId};

use super::error::Error;
use super::net::{open_one, reason};
use crate::machine::Code;
use crate::wire::client::{Request, Response};
use crate::wire::{self, GroupStatus, HELLO_BYTES, Hello};

/// What one node says.
#[derive(Debug)]
pub struct NodeStatus {
    /// The address that was asked.
    pub endpoint: String,
    /// Its groups, or why there is no answer.
    pub groups: Result<Vec<GroupStatus>, Error>,
}

/// Asks all nodes at the same time how they are; waits for each no longer than `timeout`.
#[must_use]
pub fn status(endpoints: &[String], timeout: Duration) -> Vec<NodeStatus> {
    let asked = endpoints.iter().map(|endpoint| {
        let address = endpoint.clone();
        let thread = thread::Builder::new().name("margay-status".to_owned());
        thread.spawn(move || ask(&address, timeout))
    });
    let asked: Vec<_> = asked.collect();
    let answers = asked.into_iter().map(|thread| match thread.map(thread::JoinHandle::join) {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Err("the thread that asked has panicked".to_owned()),
        Err(error) => Err(error.to_string()),
    });
    let node = |(endpoint, answer): (&String, Result<_, String>)| {
        let endpoint = endpoint.clone();
        let failed = |reason| Error::Node { endpoint: endpoint.clone(), reason };
        NodeStatus { groups: answer.map_err(failed), endpoint }
    };
    endpoints.iter().zip(answers).map(node).collect()
}

/// Asks a node about all groups. The one that answers first may know only those of its own core:
/// the others are asked for in turn.
fn ask(address: &str, timeout: Duration) -> Result<Vec<GroupStatus>, String> {
    let end = Instant::now() + timeout;
    let (mut found, mut group, mut groups) = (Vec::<GroupStatus>::new(), 0, 1);
    while group < groups {
        if !found.iter().any(|status| status.group.0 == group) {
            let (count, mut more) = ask_group(address, GroupId(group), end)?;
            groups = count;
            more.retain(|status| !found.iter().any(|known| known.group == status.group));
            found.append(&mut more);
        }
        group += 1;
    }
    found.sort_by_key(|status| status.group);
    Ok(found)
}

fn ask_group(
    address: &str,
    group: GroupId,
    end: Instant,
) -> Result<(u32, Vec<GroupStatus>), String> {
    let mut question = Vec::new();
    Request::Status { id: 1 }.encode(&mut question);
    let (hello, answer) = exchange(address, group, &question, end)?;
    Ok((hello.groups, read(&answer)?))
}

/// Asks a node's replica of a group one question: its hello, and the first frame of its answer.
pub(super) fn exchange(
    address: &str,
    group: GroupId,
    question: &[u8],
    end: Instant,
) -> Result<(Hello, Vec<u8>), String> {
    let left = || end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero());
    let left = || left().ok_or_else(|| "timed out".to_owned());
    let mut stream = open_one(address, left()?).map_err(|error| reason(&error))?;
    let mut out = Hello::client(ClusterId(0), group).encode().to_vec();
    out.extend_from_slice(question);
    stream.set_write_timeout(Some(left()?)).map_err(|error| reason(&error))?;
    stream.write_all(&out).map_err(|error| reason(&error))?;

    let (mut bytes, mut hello) = (Vec::new(), None::<Hello>);
    loop {
        let body = if hello.is_some() { &bytes[HELLO_BYTES..] } else { &bytes[..] };
        let length = if hello.is_some() { wire::peek(body) } else { Hello::peek(body) };
        match length.map_err(|error| error.to_string())? {
            Some(length) if length <= body.len() && hello.is_none() => {
                hello = Some(check(&body[..length])?);
                continue;
            }
            Some(length) if length <= body.len() => {
                let answer = body[..length].to_vec();
                return Ok((hello.ok_or("no hello came first")?, answer));
            }
            _ => {}
        }
        let mut chunk = [0; 4096];
        stream.set_read_timeout(Some(left()?)).map_err(|error| reason(&error))?;
        match stream.read(&mut chunk).map_err(|error| reason(&error))? {
            0 => return Err("disconnected".to_owned()),
            length => bytes.extend_from_slice(&chunk[..length]),
        }
    }
}

fn check(bytes: &[u8]) -> Result<Hello, String> {
    let hello = Hello::decode(bytes).map_err(|error| error.to_string())?;
    if hello.code == Code::OK { Ok(hello) } else { Err(hello.code.to_string()) }
}

fn read(bytes: &[u8]) -> Result<Vec<GroupStatus>, String> {
    let frame = wire::decode(bytes).map_err(|error| error.to_string())?;
    match Response::decode(&frame).map_err(|error| error.to_string())? {
        Response::Status { groups, .. } => Ok(groups),
        Response::Refused { code, text, .. } => Err(format!("{code}: {}", text.escape_debug())),
        _ => Err("something else was answered".to_owned()),
    }
}
