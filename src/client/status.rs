//! Asks nodes how they are, one by one and not through a session: nodes without a leader answer
//! too.

use std::thread;
use std::time::{Duration, Instant};

use margay_log::id::GroupId;

use super::ask::ask;
use super::error::Error;
use crate::wire::client::{Request, Response};
use crate::wire::{self, GroupStatus};

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
        thread.spawn(move || ask_all(&address, timeout))
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
fn ask_all(address: &str, timeout: Duration) -> Result<Vec<GroupStatus>, String> {
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
    let answer = ask(address, group, &Request::Status { id: 1 }, end)?;
    Ok((answer.hello.groups, read(&answer.frame)?))
}

fn read(bytes: &[u8]) -> Result<Vec<GroupStatus>, String> {
    let frame = wire::decode(bytes).map_err(|error| error.to_string())?;
    match Response::decode(&frame).map_err(|error| error.to_string())? {
        Response::Status { groups, .. } => Ok(groups),
        Response::Refused { code, text, .. } => Err(format!("{code}: {}", text.escape_debug())),
        _ => Err("something else was answered".to_owned()),
    }
}
