//! What an operator asks of a group: found by its leader, asked again until it is done, refused or
//! out of time. Everything asked for here may be asked for twice.

use std::thread;
use std::time::{Duration, Instant};

use margay_log::id::{GroupId, Incarnation, NodeId};

use super::ask::{ask, shown};
use crate::machine::Code;
use crate::tls::Tls;
use crate::wire;
pub use crate::wire::client::Admin;
use crate::wire::client::{Request, Response};

/// Longest wait for one node.
const PATIENCE: Duration = Duration::from_secs(5);
/// And the shortest: a leader takes a second to find out that a change cannot begin.
const ANSWER: Duration = Duration::from_millis(1_500);
/// Before the next one is asked.
const PAUSE: Duration = Duration::from_millis(50);

/// What was asked for is so, and committed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Done {
    /// It was not so before.
    pub changed: bool,
    /// Number of the node it is about; 0 where nobody knows it, as a member or as one before.
    pub node: NodeId,
}

/// Why it is not.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AdminError {
    /// The leader refuses it.
    #[error("{text}")]
    Refused {
        /// Why.
        code: Code,
        /// The same in words, and what helps.
        text: String,
    },
    /// No leader has answered in time. What was asked for may become so yet.
    #[error("no leader of group {group} answered: {why}")]
    Unreachable {
        /// The group.
        group: GroupId,
        /// What the last node said.
        why: String,
    },
}

/// What one node says.
enum Said {
    Done(Done),
    Elsewhere(String),
    /// Not now; perhaps later.
    Later(Code, String),
    Never(Code, String),
}

/// Asks the leader of a group, whichever of `endpoints` knows it, until `end`. One that does not
/// answer is left after its share of the time, and the others are asked.
///
/// # Errors
/// See [`AdminError`].
pub fn admin(
    endpoints: &[String],
    tls: Option<&Tls>,
    group: GroupId,
    admin: Admin<'_>,
    end: Instant,
) -> Result<Done, AdminError> {
    let mut next = endpoints.iter().cycle();
    let mut leader: Option<String> = None;
    let (mut silence, mut answer) = ("no endpoint was given".to_owned(), None);
    let mut refusal = None;
    while let Some(endpoint) = leader.take().or_else(|| next.next().cloned()) {
        let left = end.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(endpoints.len()).unwrap_or(u32::MAX).max(1);
        let until = Instant::now() + share.clamp(ANSWER, PATIENCE);
        match ask_one(&endpoint, tls, group, admin, end.min(until)) {
            Ok(Said::Done(done)) => return Ok(done),
            Ok(Said::Never(code, text)) => return Err(AdminError::Refused { code, text }),
            Ok(Said::Elsewhere(address)) if !address.is_empty() && address != endpoint => {
                leader = Some(address);
            }
            Ok(Said::Elsewhere(_)) => answer = Some(format!("{endpoint}: knows no leader")),
            Ok(Said::Later(code, text)) => {
                leader = Some(endpoint);
                refusal = Some(AdminError::Refused { code, text });
            }
            Err(error) => silence = format!("{endpoint}: {error}"),
        }
        if Instant::now() + PAUSE >= end {
            break;
        }
        thread::sleep(PAUSE);
    }
    let why = answer.unwrap_or(silence);
    Err(refusal.unwrap_or(AdminError::Unreachable { group, why }))
}

/// Who a node is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Its name, if it knows yet under which it is a member.
    pub name: Option<String>,
    /// The life of its data directory.
    pub incarnation: Incarnation,
}

/// Asks a node who it is, until `end`.
///
/// # Errors
/// Why there is no answer, in words.
pub fn identity(address: &str, tls: Option<&Tls>, end: Instant) -> Result<Identity, String> {
    let answer = ask(address, tls, GroupId(0), &Request::Status { id: 1 }, end)?;
    let frame = wire::decode(&answer.frame).map_err(|error| error.to_string())?;
    let name = match Response::decode(&frame).map_err(|error| error.to_string())? {
        Response::Status { groups, .. } => groups.into_iter().next().map(|group| group.node),
        _ => return Err("something else was answered".to_owned()),
    };
    let name = name.filter(|name| !name.is_empty());
    Ok(Identity { name, incarnation: answer.hello.incarnation })
}

fn ask_one(
    address: &str,
    tls: Option<&Tls>,
    group: GroupId,
    admin: Admin<'_>,
    end: Instant,
) -> Result<Said, String> {
    let answer = ask(address, tls, group, &Request::Admin { id: 1, admin }, end)?;
    let frame = wire::decode(&answer.frame).map_err(|error| error.to_string())?;
    match Response::decode(&frame).map_err(|error| error.to_string())? {
        Response::Admin { changed, node, .. } => Ok(Said::Done(Done { changed, node })),
        Response::Refused { code, leader, text, .. } => {
            let words = if text.is_empty() { code.text() } else { text };
            let words = shown(words);
            Ok(match code {
                Code::NOT_LEADER | Code::LEADER_CHANGED => Said::Elsewhere(leader.to_owned()),
                Code::NOT_READY
                | Code::CHANGE_UNDER_WAY
                | Code::NOT_CAUGHT_UP
                | Code::UNSAFE_CHANGE
                | Code::OVERLOADED => Said::Later(code, words),
                _ => Said::Never(code, words),
            })
        }
        _ => Err("something else was answered".to_owned()),
    }
}
