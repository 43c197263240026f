//! `margay cluster`: who leads what, and how far each group is. Changing it: `members`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use margay::client::{Client, NodeStatus, status_of_all};
use margay::resource::Directory;
use margay::tls::Tls;
use margay::wire::GroupStatus;
use margay_log::id::GroupId;
use serde_json::json;

use crate::connect::Connect;
use crate::exit::{Exit, UNREACHABLE};
use crate::members;
use crate::output::{self, Table};
use crate::units;
use crate::verify;

/// Look at the cluster, or change who is a member
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    connect: Connect,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand, Debug)]
enum Verb {
    /// One line per group: leader, term, how far it is, voters
    #[command(after_help = "\
Examples:
  margay cluster status
  margay cluster status --wait       # until every group answers, at most 30 s; then exit code 3
  margay cluster status -o json      # group, leader, term, commit_index, applied_index, …")]
    Status {
        /// Wait until every group has a leader that answers; exit code 3 when that takes longer
        #[arg(
            long,
            value_name = "TIME",
            value_parser = units::duration,
            num_args = 0..=1,
            require_equals = true,
            default_missing_value = "30s"
        )]
        wait: Option<Duration>,
    },
    /// Compare the logs of all replicas while they serve; exit code 1 if they differ
    #[command(after_help = "\
Examples:
  margay cluster verify              # group 0: 3 replicas identical to index 1,234
  margay cluster verify -o json      # group, identical, index, replicas, compared, different, …

All members are compared, also those that --endpoints does not name; exit code 3 where one does not
answer.")]
    Verify,
    /// Make a node that runs a learner of every group, or tell the cluster its new address
    #[command(after_help = "\
A node that is started with --join adds itself. A learner receives the log and does not vote.
Examples:
  margay cluster add n4=10.0.0.4:5150
  margay cluster promote n4")]
    Add(members::Place),
    /// Let a learner vote in every group, once it has caught up
    Promote(members::Node),
    /// Make a voter a learner in every group
    Demote(members::Node),
    /// Remove a node from every group
    #[command(after_help = "\
A node that has been removed comes back only with an empty directory and --join. To replace a node
whose disk is gone, remove it first, then start its successor with --join and promote that; the
name may be the same. A removal may be repeated; exit code 1 where no member has, or lately had, the
name.
Examples:
  margay cluster remove n1
  margay serve --name n1 --data /new/disk --listen 10.0.0.1:5150 --join 10.0.0.2:5150
  margay cluster promote n1")]
    Remove(members::Node),
    /// Let a voter lead every group, or one
    #[command(after_help = "\
The leader hands over once the node holds all that it has itself. Leaders are spread over the nodes
by themselves: ten minutes later, or when the node restarts or its disk is slow, a group may move on
to the node that is preferred for it.

Examples:
  margay cluster transfer-leader n2
  margay cluster transfer-leader --group 0 n2
  margay cluster transfer-leader n2 -o json       # node, done, changed, groups, refused")]
    TransferLeader(members::Lead),
}

/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(50);

pub(crate) fn run(args: &Args) -> Result<(), Exit> {
    match &args.verb {
        Verb::Status { wait } => show(args, *wait),
        Verb::Verify => {
            args.connect.check()?;
            verify::run(&args.connect)
        }
        Verb::Add(place) => members::add(&args.connect, place),
        Verb::Promote(node) => members::promote(&args.connect, node),
        Verb::Demote(node) => members::demote(&args.connect, node),
        Verb::Remove(node) => members::remove(&args.connect, node),
        Verb::TransferLeader(lead) => members::transfer_leader(&args.connect, lead),
    }
}

fn show(args: &Args, wait: Option<Duration>) -> Result<(), Exit> {
    args.connect.check()?;
    let tls = args.connect.tls()?;
    if let Some(wait) = wait {
        wait_until_ready(&args.connect.endpoints, tls.as_ref(), wait)?;
    }
    let timeout = args.connect.timeout;
    let nodes = status_of_all(&args.connect.endpoints, tls.as_ref(), timeout, timeout);
    let groups = merge(&nodes);
    if groups.is_empty() {
        return Err(nobody(&nodes));
    }
    for error in nodes.iter().filter_map(|node| node.groups.as_ref().err()) {
        output::aside(&format!("note: {error}\n"));
    }
    if args.connect.is_json() {
        let mut array = output::Array::begin(args.connect.output);
        groups.iter().try_for_each(|group| array.add(&to_json(group)))?;
        return array.end();
    }
    let mut table =
        Table::new(&["GROUP", "LEADER", "TERM", "COMMIT", "APPLIED", "VOTERS", "LEARNERS"]);
    for group in &groups {
        table.row(vec![
            group.group.0.to_string(),
            match &group.leader {
                Some(leader) if group.halted => format!("{leader} (halted)"),
                Some(leader) => leader.clone(),
                None => "none".to_string(),
            },
            group.term.0.to_string(),
            units::grouped(group.commit.0),
            units::grouped(group.applied.0),
            voters(group),
            group.learners.join(" "),
        ]);
    }
    table.print()
}

/// No node has answered, each for a reason of its own.
pub(crate) fn nobody(nodes: &[NodeStatus]) -> Exit {
    let errors = nodes.iter().filter_map(|node| node.groups.as_ref().err());
    let why: Vec<String> = errors.map(ToString::to_string).collect();
    Exit::new(UNREACHABLE, format!("no node answered ({})", why.join("; ")))
        .hint("check --endpoints, and that nodes run there")
}

/// During a change: who voted, and who will.
fn voters(group: &GroupStatus) -> String {
    match group.outgoing.as_slice() {
        [] => group.voters.join(" "),
        outgoing => format!("{} → {}", outgoing.join(" "), group.voters.join(" ")),
    }
}

fn to_json(group: &GroupStatus) -> serde_json::Value {
    json!({
        "group": group.group.0,
        "leader": group.leader,
        "term": group.term.0,
        "commit_index": group.commit.0,
        "applied_index": group.applied.0,
        "voters": group.voters,
        "outgoing_voters": group.outgoing,
        "learners": group.learners,
        "halted": group.halted,
    })
}

/// One line per group from what each node says: of the highest term, and of those the leader's own
/// word, which is never behind.
pub(crate) fn merge(nodes: &[NodeStatus]) -> Vec<GroupStatus> {
    let mut groups: BTreeMap<GroupId, GroupStatus> = BTreeMap::new();
    let rank = |status: &GroupStatus| {
        let leads = status.leader.as_ref() == Some(&status.node);
        (status.term, leads, status.leader.is_some(), status.commit)
    };
    for status in nodes.iter().filter_map(|node| node.groups.as_ref().ok()).flatten() {
        let known = groups.entry(status.group).or_insert_with(|| status.clone());
        if rank(status) > rank(known) {
            *known = status.clone();
        }
    }
    groups.into_values().collect()
}

/// Returns once every group answers a linearizable read.
pub(crate) fn wait_until_ready(
    endpoints: &[String],
    tls: Option<&Tls>,
    limit: Duration,
) -> Result<(), Exit> {
    let end = Instant::now() + limit;
    let mut last;
    loop {
        let left = end.saturating_duration_since(Instant::now()).max(LOOK);
        match is_ready(endpoints, tls, left) {
            Ok(()) => return Ok(()),
            Err(exit) => last = exit,
        }
        if Instant::now() + LOOK >= end {
            return Err(last);
        }
        std::thread::sleep(LOOK);
    }
}

fn is_ready(endpoints: &[String], tls: Option<&Tls>, limit: Duration) -> Result<(), Exit> {
    let builder = Client::builder().endpoints(endpoints.to_vec()).timeout(limit);
    let builder = match tls {
        Some(tls) => builder.tls(tls.clone()),
        None => builder,
    };
    let client = builder.connect()?;
    let asked: Vec<_> = (0..client.groups())
        .map(|group| Directory::new(client.group(GroupId(group))).find("margay", 0))
        .collect();
    for answer in asked {
        answer.wait()?;
    }
    Ok(client.close()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use margay_log::id::{Index, Term};

    fn view(node: &str, leader: Option<&str>, term: u64, commit: u64) -> NodeStatus {
        let group = GroupStatus {
            node: node.to_string(),
            leader: leader.map(str::to_string),
            term: Term(term),
            commit: Index(commit),
            ..GroupStatus::default()
        };
        NodeStatus { endpoint: node.to_string(), groups: Ok(vec![group]) }
    }

    #[test]
    fn the_leader_of_the_highest_term_is_believed() {
        let nodes = [
            view("n1", Some("n1"), 3, 90),
            view("n2", Some("n2"), 4, 100),
            view("n3", Some("n2"), 4, 110),
        ];
        let groups = merge(&nodes);
        assert_eq!(groups.len(), 1);
        assert_eq!(groups[0].leader.as_deref(), Some("n2"));
        assert_eq!(groups[0].commit, Index(100), "the leader's own word");
    }

    #[test]
    fn an_election_under_way_is_not_hidden() {
        let nodes = [view("n1", Some("n1"), 3, 90), view("n2", None, 4, 90)];
        assert_eq!(merge(&nodes)[0].leader, None);
    }
}
