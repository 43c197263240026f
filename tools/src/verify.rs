//! `margay cluster verify`: whether all replicas have the same log, byte for byte.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::thread;
use std::time::{Duration, Instant};

use margay::client::{NodeStatus, chain, compare, status_of_all};
use margay::tls::Tls;
use margay_log::id::{GroupId, Index};
use serde_json::json;

use crate::connect::Connect;
use crate::exit::{Exit, NEGATIVE, UNREACHABLE};
use crate::output;
use crate::units;

/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// What is said of one group.
struct Verified {
    group: GroupId,
    names: Vec<String>,
    index: Index,
    compared: usize,
    /// Name, and the last index up to which its log is that of the others.
    different: Vec<(String, Index)>,
    apart: Vec<String>,
    unreadable: Vec<(String, u32)>,
}

impl Verified {
    fn is_good(&self) -> bool {
        self.different.is_empty()
    }

    fn line(&self) -> String {
        let Verified { group, compared, .. } = self;
        let index = units::grouped(self.index.0);
        let replicas = if *compared == 1 { "replica" } else { "replicas" };
        let mut line =
            format!("group {}: {compared} {replicas} identical to index {index}", group.0);
        for (name, behind) in &self.different {
            line += &format!("; {name} differs behind index {}", units::grouped(behind.0));
        }
        for name in &self.apart {
            line += &format!("; {name} is too far behind to be compared");
        }
        for (name, batches) in self.unreadable.iter().filter(|(_, batches)| *batches > 0) {
            line += &format!("; {name} is mending {batches} unreadable batches");
        }
        line
    }

    fn json(&self) -> serde_json::Value {
        let different = self.different.iter();
        let different = different.map(|(name, index)| json!({"node": name, "behind": index.0}));
        let unreadable = self.unreadable.iter().filter(|(_, batches)| *batches > 0);
        let unreadable = unreadable.map(|(name, n)| json!({"node": name, "batches": n}));
        json!({
            "group": self.group.0,
            "identical": self.is_good(),
            "index": self.index.0,
            "replicas": self.names,
            "compared": self.compared,
            "different": different.collect::<Vec<_>>(),
            "too_far_behind": self.apart,
            "unreadable": unreadable.collect::<Vec<_>>(),
        })
    }
}

pub(crate) fn run(connect: &Connect) -> Result<(), Exit> {
    let tls = connect.tls()?;
    let nodes = status_of_all(&connect.endpoints, tls.as_ref(), connect.timeout, connect.timeout);
    let mut silent = Vec::new();
    for node in &nodes {
        if let Err(error) = &node.groups {
            output::aside(&format!("note: {error}\n"));
            silent.push(node.endpoint.clone());
        }
    }
    let mut verified = Vec::new();
    for (group, replicas) in replicas(&nodes) {
        verified.push(verify(connect, tls.as_ref(), group, &replicas)?);
    }
    if connect.is_json() {
        let mut array = output::Array::begin(connect.output);
        verified.iter().try_for_each(|verified| array.add(&verified.json()))?;
        array.end()?;
    } else {
        verified.iter().try_for_each(|verified| output::line(&verified.line()))?;
    }
    if !verified.iter().all(Verified::is_good) {
        return Err(Exit::new(NEGATIVE, "replicas differ")
            .hint("stop the node that differs and keep its data for whoever looks into it"));
    }
    match silent.as_slice() {
        [] if !verified.is_empty() => Ok(()),
        silent => Err(Exit::new(UNREACHABLE, format!("no answer from {}", silent.join(", ")))
            .hint("what is not reached is not verified; check --endpoints")),
    }
}

/// Of each group: the names of the nodes that have a replica, and where they are.
fn replicas(nodes: &[NodeStatus]) -> BTreeMap<GroupId, Vec<(String, String)>> {
    let mut found: BTreeMap<GroupId, Vec<(String, String)>> = BTreeMap::new();
    for node in nodes {
        for status in node.groups.iter().flatten() {
            let of_group = found.entry(status.group).or_default();
            // One node may have been asked under two addresses.
            if of_group.iter().all(|(name, _)| *name != status.node) {
                of_group.push((status.node.clone(), node.endpoint.clone()));
            }
        }
    }
    found.values_mut().for_each(|of_group| of_group.sort());
    found
}

fn verify(
    connect: &Connect,
    tls: Option<&Tls>,
    group: GroupId,
    replicas: &[(String, String)],
) -> Result<Verified, Exit> {
    let ask = |at: usize, index| chain(&replicas[at].1, tls, group, index, connect.timeout);
    let not_compared = |why: &dyn Display| {
        Err(Exit::new(UNREACHABLE, format!("group {}: nothing is compared: {why}", group.0)))
    };
    let end = Instant::now() + connect.timeout;
    let comparison = loop {
        let comparison = match compare(replicas.len(), ask) {
            Ok(comparison) => comparison,
            Err(error) => return not_compared(&error),
        };
        // Every group has entries; but who has just started knows none that is committed.
        if comparison.index > Index::ZERO || !comparison.different.is_empty() {
            break comparison;
        }
        if Instant::now() >= end {
            return not_compared(&"a replica does not know yet what is committed");
        }
        thread::sleep(LOOK);
    };
    let name = |at: usize| replicas[at].0.clone();
    let different = comparison.different.iter().map(|&(at, index)| (name(at), index));
    Ok(Verified {
        group,
        names: (0..replicas.len()).map(name).collect(),
        index: comparison.index,
        compared: comparison.compared.len() - comparison.different.len(),
        different: different.collect(),
        apart: comparison.apart.iter().map(|&at| name(at)).collect(),
        unreadable: (0..).map(name).zip(comparison.unreadable).take(replicas.len()).collect(),
    })
}
