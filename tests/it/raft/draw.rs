//! How messages and outputs look in a story.

use margay::raft::Configuration;
use margay::raft::message::{Body, Message, Output, RoleKind, Round};
use margay_log::id::NodeId;

pub(crate) fn message(message: &Message) -> String {
    let Message { term, body } = message;
    let text = match body {
        Body::PreVote { last } => format!("pre-vote? log {last}"),
        Body::PreVoteReply { granted } => format!("pre-vote {}", yes(*granted)),
        Body::Vote { last, handed_over } => {
            let why = if *handed_over { " handed over" } else { "" };
            format!("vote? log {last}{why}")
        }
        Body::VoteReply { granted } => format!("vote {}", yes(*granted)),
        Body::Append { prev, batch, commit, round } => {
            let batch = batch.map_or(String::new(), |last| format!(" [{last}]"));
            format!("append {prev}{batch} commit {commit}{}", number(*round))
        }
        Body::AppendAck { matched, round } => format!("ack {matched}{}", number(*round)),
        Body::AppendReject { prev, hint, round } => {
            format!("reject {prev} hint {hint}{}", number(*round))
        }
        Body::TimeoutNow => "timeout-now".to_string(),
    };
    format!("{term} {text}")
}

/// Nothing for `Replicate`: what it leads to is drawn.
pub(crate) fn output(output: &Output) -> Option<String> {
    let text = match output {
        Output::Persist { term, vote, .. } => match vote {
            Some(vote) => format!("persists {term} vote n{}", vote.0),
            None => format!("persists {term}"),
        },
        Output::Send { to, message: sent } => format!("→ n{} {}", to.0, message(sent)),
        Output::Replicate { .. } => return None,
        Output::NeedsSnapshot { to } => format!("would bring n{} a snapshot", to.0),
        Output::Accept { prev, last } => format!("accepts {prev} [{last}]"),
        Output::Commit { index } => format!("commits {index}"),
        Output::ReadReady { id, index } => format!("read {} at {index}", id.0),
        Output::ReadRefused { id } => format!("read {} refused", id.0),
        Output::Transferred { to, end } => format!("transfer to n{}: {end:?}", to.0),
        Output::Contradicted { by } => format!("is contradicted by n{}", by.0),
        Output::RoleChanged { role: kind, term, leader } => match leader {
            Some(leader) if *kind == RoleKind::Follower => {
                format!("is {} {term} of n{}", role(*kind), leader.0)
            }
            _ => format!("is {} {term}", role(*kind)),
        },
    };
    Some(text)
}

/// `voters 1 2 3`, in a joint configuration `voters 1 2 3 → 2 3 4`, then the learners.
pub(crate) fn configuration(configuration: &Configuration) -> String {
    let list = |ids: &[NodeId]| {
        let ids: Vec<String> = ids.iter().map(|id| id.0.to_string()).collect();
        ids.join(" ")
    };
    let mut text = "voters ".to_string();
    if configuration.is_joint() {
        text += &format!("{} → ", list(configuration.outgoing()));
    }
    text += &list(configuration.voters());
    if !configuration.learners().is_empty() {
        text += &format!(" learners {}", list(configuration.learners()));
    }
    text
}

pub(crate) fn role(role: RoleKind) -> &'static str {
    match role {
        RoleKind::Follower => "follower",
        RoleKind::PreCandidate => "pre-candidate",
        RoleKind::Candidate => "candidate",
        RoleKind::Leader => "leader",
    }
}

fn number(round: Round) -> String {
    if round.0 == 0 { String::new() } else { format!(" round {}", round.0) }
}

fn yes(granted: bool) -> &'static str {
    if granted { "yes" } else { "no" }
}
