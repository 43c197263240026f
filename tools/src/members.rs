//! `margay cluster add, promote, demote, remove, transfer-leader`: who is a member of the groups,
//! and who leads them.
//!
//! Every group has its own membership and its own leader; a command goes through all of them, one
//! after the other. It may be repeated: what is so already stays so, and what was missed is made up
//! for.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use margay::client::admin::{Admin, AdminError, Done, admin, identity};
use margay::client::status_of_all;
use margay::machine::Code;
use margay::tls::Tls;
use margay::wire::GroupStatus;
use margay_log::id::{GroupId, Incarnation, NodeId};
use serde_json::json;

use crate::cluster::{merge, nobody};
use crate::connect::Connect;
use crate::exit::{Exit, NEGATIVE, UNREACHABLE, USAGE};
use crate::output;
use crate::units;

/// A node that answers so much later than another is not waited for: one that hangs must not hold
/// up whoever wants to do something about it.
const BEHIND: Duration = Duration::from_secs(1);

/// Who, and how long to wait.
#[derive(clap::Args, Debug)]
pub(crate) struct Node {
    /// The node's name
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    name: String,
    /// How long to try where it cannot be done yet
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "30s")]
    wait: Duration,
}

/// Who shall lead what.
#[derive(clap::Args, Debug)]
pub(crate) struct Lead {
    #[command(flatten)]
    node: Node,
    /// This group only
    #[arg(long, value_name = "N")]
    group: Option<u32>,
}

/// Who and where, and how long to wait.
#[derive(clap::Args, Debug)]
pub(crate) struct Place {
    /// The node, which runs there
    #[arg(value_name = "NAME=HOST:PORT", value_parser = place)]
    node: (String, String),
    /// How long to try where it cannot be done yet
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "30s")]
    wait: Duration,
}

fn place(text: &str) -> Result<(String, String), String> {
    let parts = text.split_once('=').filter(|(name, address)| {
        let port = address.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
        !name.is_empty() && matches!(port, Some(Ok(port)) if port > 0)
    });
    let (name, address) = parts.ok_or("not NAME=HOST:PORT, as in n4=127.0.0.1:5154")?;
    Ok((name.to_string(), address.to_string()))
}

/// What is asked of every group.
enum Verb {
    Add { address: String, incarnation: Incarnation },
    Promote,
    Demote,
    Remove,
    Transfer,
}

impl Verb {
    fn ask<'a>(&'a self, name: &'a str, node: NodeId) -> Admin<'a> {
        match self {
            Verb::Add { address, incarnation } => {
                Admin::Add { name, address, incarnation: *incarnation, node }
            }
            Verb::Promote => Admin::Promote { name },
            Verb::Demote => Admin::Demote { name },
            Verb::Remove => Admin::Remove { name },
            Verb::Transfer => Admin::Transfer { name },
        }
    }

    /// What it is then, in so many groups.
    fn state(&self) -> &'static str {
        match self {
            Verb::Add { .. } => "is a member",
            Verb::Promote => "votes",
            Verb::Demote => "does not vote",
            Verb::Remove => "is no member",
            Verb::Transfer => "leads",
        }
    }
}

pub(crate) fn add(connect: &Connect, args: &Place) -> Result<(), Exit> {
    let (name, address) = &args.node;
    let known = identity(address, connect.tls()?.as_ref(), Instant::now() + connect.timeout)
        .map_err(|error| {
            Exit::new(UNREACHABLE, format!("{name} does not answer at {address}: {error}"))
                .hint("start it there with --join; that adds it, too")
        })?;
    if known.name.as_ref().is_some_and(|other| other != name) {
        let other = known.name.unwrap_or_default();
        return Err(Exit::usage(format!("the node at {address} is called {other}, not {name}")));
    }
    let verb = Verb::Add { address: address.clone(), incarnation: known.incarnation };
    everywhere(connect, &verb, &Node { name: name.clone(), wait: args.wait }, None)
}

pub(crate) fn promote(connect: &Connect, args: &Node) -> Result<(), Exit> {
    everywhere(connect, &Verb::Promote, args, None)
}

pub(crate) fn demote(connect: &Connect, args: &Node) -> Result<(), Exit> {
    everywhere(connect, &Verb::Demote, args, None)
}

pub(crate) fn remove(connect: &Connect, args: &Node) -> Result<(), Exit> {
    everywhere(connect, &Verb::Remove, args, None)
}

pub(crate) fn transfer_leader(connect: &Connect, args: &Lead) -> Result<(), Exit> {
    everywhere(connect, &Verb::Transfer, &args.node, args.group.map(GroupId))
}

/// Goes through all groups, or one; what one refuses does not keep the others from it.
fn everywhere(
    connect: &Connect,
    verb: &Verb,
    Node { name, wait }: &Node,
    only: Option<GroupId>,
) -> Result<(), Exit> {
    connect.check()?;
    let tls = connect.tls()?;
    let (known, endpoints) = groups(connect, tls.as_ref(), only)?;
    let groups: Vec<GroupId> = known.iter().map(|status| status.group).collect();
    let end = Instant::now() + *wait;
    let mut node = NodeId(0);
    let mut done: Vec<Done> = Vec::new();
    let mut failed: Vec<(GroupId, AdminError)> = Vec::new();
    for (&group, before) in groups.iter().zip(&known) {
        // Also late in the list there is time for an answer.
        let end = end.max(Instant::now() + connect.timeout.min(*wait));
        match admin(&endpoints, tls.as_ref(), group, verb.ask(name, node), end) {
            Ok(mut answer) => {
                node = answer.node;
                // Whoever answers leads already, and cannot tell since when.
                answer.changed |=
                    matches!(verb, Verb::Transfer) && before.leader.as_ref() != Some(name);
                done.push(answer);
            }
            Err(error) => failed.push((group, error)),
        }
        if failed.len() == 1 && group == groups[0] {
            // The first group gives a new node its number; and what it refuses, the others would.
            break;
        }
        if groups.len() > 1 && !connect.is_json() {
            let (at, all) = (done.len() + failed.len(), groups.len());
            output::aside(&format!("{name}: {at} of {all} groups\n"));
        }
    }
    // Whom nobody remembers was never there: a name that is repeated after a lost answer is known.
    let nobody = |answer: &Done| !answer.changed && answer.node == NodeId(0);
    if matches!(verb, Verb::Remove) && failed.is_empty() && done.iter().all(nobody) {
        return Err(unknown(name, &known));
    }
    report(connect, verb, name, &groups, &done, &failed)
}

/// There is nobody of this name to be removed.
fn unknown(name: &str, known: &[GroupStatus]) -> Exit {
    let members = known.iter().flat_map(|group| {
        group.voters.iter().chain(&group.outgoing).chain(&group.learners).map(String::as_str)
    });
    let members = members.collect::<BTreeSet<&str>>().into_iter().collect::<Vec<_>>().join(", ");
    Exit::new(NEGATIVE, format!("{name} is no member, and was none lately"))
        .hint(format!("the members are {members}"))
}

/// The groups that a command is for, as they are before it, and whom to ask: first who answers.
fn groups(
    connect: &Connect,
    tls: Option<&Tls>,
    only: Option<GroupId>,
) -> Result<(Vec<GroupStatus>, Vec<String>), Exit> {
    let mut nodes = status_of_all(&connect.endpoints, tls, connect.timeout, BEHIND);
    nodes.sort_by_key(|node| node.groups.is_err());
    let mut known = merge(&nodes);
    if known.is_empty() {
        return Err(nobody(&nodes));
    }
    if let Some(only) = only {
        let last = known.last().map_or(0, |status| status.group.0);
        known.retain(|status| status.group == only);
        if known.is_empty() {
            return Err(Exit::usage(format!("there is no group {}: they are 0 to {last}", only.0)));
        }
    }
    Ok((known, nodes.into_iter().map(|node| node.endpoint).collect()))
}

fn report(
    connect: &Connect,
    verb: &Verb,
    name: &str,
    groups: &[GroupId],
    done: &[Done],
    failed: &[(GroupId, AdminError)],
) -> Result<(), Exit> {
    let changed = done.iter().filter(|answer| answer.changed).count();
    if connect.is_json() {
        let refused: Vec<_> = failed
            .iter()
            .map(|(group, error)| json!({"group": group.0, "reason": error.to_string()}))
            .collect();
        output::json(&json!({
            "node": name,
            "done": done.len(),
            "changed": changed,
            "groups": groups.len(),
            "refused": refused,
        }))?;
    } else if !done.is_empty() {
        let (count, all, state) = (done.len(), groups.len(), verb.state());
        let already = if changed == 0 { ", as before" } else { "" };
        output::line(&format!("{name} {state} in {count} of {all} groups{already}"))?;
    }
    let Some((group, error)) = failed.first() else { return Ok(()) };
    let code = match error {
        AdminError::Refused { code: Code::DENIED, .. } => USAGE,
        AdminError::Refused { .. } => NEGATIVE,
        AdminError::Unreachable { .. } => UNREACHABLE,
    };
    let exit = Exit::new(code, format!("group {}: {error}", group.0));
    Err(match error {
        AdminError::Refused { code: Code::DENIED, .. } => {
            exit.hint("--tls of an operator is needed: margay tls issue DIR operator --ca …")
        }
        _ if done.is_empty() => exit,
        _ => exit.hint("say it again to complete it"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_has_a_name_a_host_and_a_port() {
        let named = |name: &str, address: &str| Ok((name.to_string(), address.to_string()));
        assert_eq!(place("n4=db4.example:5150"), named("n4", "db4.example:5150"));
        for text in ["n4", "n4=", "=h:1", "n4=h", "n4=h:0"] {
            assert!(place(text).is_err(), "{text}");
        }
    }
}
