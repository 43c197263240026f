//! Asks nodes how they are, one by one and not through a session: nodes without a leader answer
//! too.

use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use margay_log::id::GroupId;

use super::ask::{ask, shown};
use super::error::Error;
use super::net::from_now;
use crate::tls::Tls;
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
pub fn status(endpoints: &[String], tls: Option<&Tls>, timeout: Duration) -> Vec<NodeStatus> {
    let asked = endpoints.iter().map(|endpoint| {
        let (address, tls) = (endpoint.clone(), tls.cloned());
        let thread = thread::Builder::new().name("margay-status".to_owned());
        thread.spawn(move || ask_all(&address, tls.as_ref(), timeout))
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

/// Asks these nodes how they are and, where they tell of members of the cluster that are not among
/// them, those too. Waits for none longer than `timeout`, nor longer than `behind` after the first
/// has answered. Those of `endpoints` come first, in their order.
#[must_use]
pub fn status_of_all(
    endpoints: &[String],
    tls: Option<&Tls>,
    timeout: Duration,
    behind: Duration,
) -> Vec<NodeStatus> {
    let (answers, answered) = channel();
    let mut survey = Survey { tls: tls.cloned(), timeout, answers, asked: Vec::new() };
    endpoints.iter().for_each(|endpoint| survey.ask(endpoint, None));
    let mut end = from_now(timeout);
    while survey.waits() {
        let left = end.saturating_duration_since(Instant::now());
        let Ok((at, answer)) = answered.recv_timeout(left) else { break };
        let members: Vec<_> = answer.iter().flatten().flat_map(|g| g.members.clone()).collect();
        if answer.is_ok() {
            end = end.min(from_now(behind));
        }
        survey.asked[at].answer = Some(answer);
        members.iter().for_each(|(name, address)| survey.ask(address, Some(name)));
    }
    survey.end()
}

/// Who is asked, and what they have said.
struct Survey {
    tls: Option<Tls>,
    timeout: Duration,
    answers: Sender<(usize, Result<Vec<GroupStatus>, String>)>,
    asked: Vec<Asked>,
}

struct Asked {
    endpoint: String,
    /// Whom others say to be there; `None` for who was to be asked from the beginning. The same
    /// node may have been asked under another address.
    name: Option<String>,
    answer: Option<Result<Vec<GroupStatus>, String>>,
}

impl Asked {
    fn is(&self, name: &str) -> bool {
        let groups = self.answer.iter().flatten().flatten();
        { groups }.any(|group| group.node == name)
    }
}

impl Survey {
    /// Asks whoever is at `endpoint`, on a thread of its own, unless it was asked already.
    fn ask(&mut self, endpoint: &str, name: Option<&String>) {
        let is_known =
            |asked: &Asked| asked.endpoint == endpoint || name.is_some_and(|name| asked.is(name));
        if name.is_some() && self.asked.iter().any(is_known) {
            return;
        }
        let (at, timeout) = (self.asked.len(), self.timeout);
        let (address, answers) = (endpoint.to_owned(), self.answers.clone());
        let tls = self.tls.clone();
        let thread = thread::Builder::new().name("margay-status".to_owned());
        // Nobody listens any more where the survey is over.
        let ask = move || ask_all(&address, tls.as_ref(), timeout);
        let thread = thread.spawn(move || drop(answers.send((at, ask()))));
        let answer = thread.err().map(|error| Err(error.to_string()));
        let (endpoint, name) = (endpoint.to_owned(), name.cloned());
        self.asked.push(Asked { endpoint, name, answer });
    }

    /// Whether an answer is wanted yet.
    fn waits(&self) -> bool {
        self.asked.iter().any(|asked| asked.answer.is_none() && !self.is_elsewhere(asked))
    }

    /// Whether the one asked there has answered under an address that was given.
    fn is_elsewhere(&self, asked: &Asked) -> bool {
        let Some(name) = &asked.name else { return false };
        self.asked.iter().any(|other| other.name.is_none() && other.is(name))
    }

    fn end(self) -> Vec<NodeStatus> {
        let asked = self.asked.iter().filter(|asked| !self.is_elsewhere(asked));
        let node = |asked: &Asked| {
            let endpoint = asked.endpoint.clone();
            let answer = asked.answer.clone().unwrap_or_else(|| Err("timed out".to_owned()));
            let failed = |reason| Error::Node { endpoint: endpoint.clone(), reason };
            NodeStatus { groups: answer.map_err(failed), endpoint }
        };
        asked.map(node).collect()
    }
}

/// Asks a node about all groups. The one that answers first may know only those of its own core:
/// the others are asked for in turn.
fn ask_all(
    address: &str,
    tls: Option<&Tls>,
    timeout: Duration,
) -> Result<Vec<GroupStatus>, String> {
    let end = from_now(timeout);
    let (mut found, mut group, mut groups) = (Vec::<GroupStatus>::new(), 0, 1);
    while group < groups {
        if !found.iter().any(|status| status.group.0 == group) {
            let (count, mut more) = ask_group(address, tls, GroupId(group), end)?;
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
    tls: Option<&Tls>,
    group: GroupId,
    end: Instant,
) -> Result<(u32, Vec<GroupStatus>), String> {
    let answer = ask(address, tls, group, &Request::Status { id: 1 }, end)?;
    Ok((answer.hello.groups, read(&answer.frame)?))
}

fn read(bytes: &[u8]) -> Result<Vec<GroupStatus>, String> {
    let frame = wire::decode(bytes).map_err(|error| error.to_string())?;
    match Response::decode(&frame).map_err(|error| error.to_string())? {
        Response::Status { groups, .. } => Ok(groups),
        Response::Refused { code, text, .. } => Err(format!("{code}: {}", shown(text))),
        _ => Err("something else was answered".to_owned()),
    }
}
