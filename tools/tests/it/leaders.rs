//! Which node leads which group.

use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::harness::{Ended, MARGAY, PATIENCE, Scratch, alone, plan, run, until};
use crate::nodes::{NODES, Nodes};
use crate::sys;

/// Two for each node.
const GROUPS: u32 = 6;

/// The node that leads a group, when one does and says so.
fn leader(nodes: &Nodes, group: u32) -> usize {
    let mut leader = None;
    until("a leader", || {
        leader = nodes.leader(group);
        leader.is_some()
    });
    leader.expect("just seen")
}

/// How many groups each node leads.
fn leaders(nodes: &Nodes) -> [usize; NODES] {
    let mut led = [0; NODES];
    (0..GROUPS).for_each(|group| led[leader(nodes, group)] += 1);
    led
}

#[test]
fn leaders_are_spread_over_the_nodes_and_again_when_one_goes_or_comes_back() {
    let _alone = alone();
    let scratch = Scratch::new("leaders");
    let mut nodes = Nodes::start(&plan(scratch.path(), GROUPS), PATIENCE).expect("three nodes");
    until("each node to lead two groups", || leaders(&nodes) == [2, 2, 2]);
    nodes.kill(1).expect("it can be killed");
    until("two nodes to share the groups", || leaders(&nodes) == [3, 0, 3]);
    nodes.restart(1, PATIENCE).expect("it starts again");
    until("it to have its groups back", || leaders(&nodes) == [2, 2, 2]);
    nodes.stop(PATIENCE).expect("all stop in order");
}

fn transfer_leader(nodes: &Nodes, args: &[&str]) -> Ended {
    let mut command = Command::new(MARGAY);
    command.args(["cluster", "transfer-leader"]).args(args);
    command.env("MARGAY_ENDPOINTS", nodes.endpoints().join(","));
    run(command)
}

/// The highest term of each group.
fn terms(nodes: &Nodes) -> [u64; GROUPS as usize] {
    let mut terms = [0; GROUPS as usize];
    let status = nodes.status();
    for view in status.iter().filter_map(|status| status.groups.as_ref().ok()).flatten() {
        let highest = &mut terms[view.group.0 as usize];
        *highest = view.term.0.max(*highest);
    }
    terms
}

/// A machine that stands still for as long as an election takes has leaders that nobody has asked
/// for. That is nobody's fault, and terms tell: then all is tried again.
#[test]
fn an_operator_says_who_leads() {
    let _alone = alone();
    let is_told = |attempt| {
        let scratch = Scratch::new(&format!("transfer-{attempt}"));
        let nodes = Nodes::start(&plan(scratch.path(), GROUPS), PATIENCE).expect("three nodes");
        says_who_leads(nodes).inspect_err(|terms| println!("others were elected: {terms:?}"))
    };
    assert!((1..=5).any(|attempt| is_told(attempt).is_ok()), "elections all the time");
}

/// Fails with the terms where there were elections of themselves.
fn says_who_leads(mut nodes: Nodes) -> Result<(), [u64; GROUPS as usize]> {
    // Two each may also come of chance, with other groups than the ranks give them.
    let first = |group: u32| Some((group % 3) as usize);
    until("each group to be led by its first", || {
        (0..GROUPS).all(|group| nodes.leader(group) == first(group))
    });
    let mut expected = terms(&nodes);
    let has_term = |nodes: &Nodes, expected: &[u64]| {
        let terms = terms(nodes);
        if terms == expected { Ok(()) } else { Err(terms) }
    };

    // n2 is the second of group 0, and the first has just given it away: it keeps it.
    let told = transfer_leader(&nodes, &["--group", "0", "n2"]);
    let again = transfer_leader(&nodes, &["--group", "0", "n2"]);
    let (first, led) = (leader(&nodes, 0), leaders(&nodes));
    expected[0] += 1;
    has_term(&nodes, &expected)?;
    assert_eq!(told.with(0).out, "n2 leads in 1 of 1 groups\n");
    assert_eq!(again.with(0).out, "n2 leads in 1 of 1 groups, as before\n");
    assert_eq!(first, 1);
    assert_eq!(led, [1, 3, 2], "the other groups are left alone");

    let told = transfer_leader(&nodes, &["n2", "-o", "json"]);
    (0..GROUPS).filter(|group| ![0, 1, 4].contains(group)).for_each(|n| expected[n as usize] += 1);
    has_term(&nodes, &expected)?;
    let all = serde_json::json!(
        {"node": "n2", "done": 6, "changed": 3, "groups": 6, "refused": []}
    );
    assert_eq!(told.with(0).json(), all);

    let refused = transfer_leader(&nodes, &["n9"]).with(1);
    assert!(refused.err.contains("n9 is no member"), "{refused:?}");
    let refused = transfer_leader(&nodes, &["--group", "6", "n2"]).with(2);
    assert!(refused.err.contains("no group 6"), "{refused:?}");
    nodes.kill(2).expect("it can be killed");
    let refused = transfer_leader(&nodes, &["--group", "0", "n3", "--wait", "10s"]);
    let first = leader(&nodes, 0);
    has_term(&nodes, &expected)?;
    let refused = refused.with(1);
    assert!(refused.err.contains("n3 "), "{refused:?}");
    assert_eq!(first, 1, "who led leads on");
    nodes.restart(2, PATIENCE).expect("it starts again");
    nodes.stop(PATIENCE).expect("all stop in order");
    Ok(())
}

/// All groups of all nodes elect at the same time; none is left without a leader, and none needs
/// many attempts.
#[test]
fn election_storm_of_many_groups_at_a_restart() {
    const MANY: u32 = 64;
    let _alone = alone();
    let scratch = Scratch::new("storm");
    let mut nodes = Nodes::start(&plan(scratch.path(), MANY), PATIENCE).expect("three nodes");
    // (groups with a leader that all know, the highest term)
    let led = |nodes: &Nodes| {
        let status = nodes.status();
        let views = status.iter().filter_map(|status| status.groups.as_ref().ok()).flatten();
        let mut known = [0_usize; MANY as usize];
        let mut highest = 0;
        for view in views {
            known[view.group.0 as usize] += usize::from(view.leader.is_some());
            highest = highest.max(view.term.0);
        }
        (known.iter().filter(|known| **known == NODES).count(), highest)
    };
    until("all groups to have a leader", || led(&nodes).0 == MANY as usize);
    let (_, before) = led(&nodes);
    (0..NODES).for_each(|node| _ = nodes.kill(node).expect("it can be killed"));
    let begun = Instant::now();
    (0..NODES).for_each(|node| nodes.restart(node, PATIENCE).expect("it starts again"));
    until("all groups to have a leader again", || led(&nodes).0 == MANY as usize);
    let (_, after) = led(&nodes);
    let took = begun.elapsed().as_millis();
    println!("{MANY} groups lead {took} ms after the first start; terms from {before} to {after}");
    assert!(after <= before + 10, "from term {before} to {after}");
    nodes.stop(PATIENCE).expect("all stop in order");
}

/// What can be looked at, and how the answer begins.
const READS: [(&str, &str); 36] = [
    ("value get v", "one\n"),
    ("counter get c", "7\n"),
    ("map get m k", "two\n"),
    ("map get-many m k -o jsonl", "{\"key\":\"k\""),
    ("map has m k", ""),
    ("map size m", "1\n"),
    ("map entries m -o jsonl", "{\"key\":\"k\""),
    ("map keys m -o jsonl", "{\"key\":\"k\""),
    ("set has s a", ""),
    ("set size s", "2\n"),
    ("set members s -o jsonl", "{\"member\":\"a\"}"),
    ("multimap get mm k -o jsonl", "{\"value\":\"v\""),
    ("multimap has mm k v", ""),
    ("multimap has mm --value v", ""),
    ("multimap size mm", "1\n"),
    ("multimap size mm --keys", "1\n"),
    ("multimap entries mm -o jsonl", "{\"key\":\"k\""),
    ("tree get t /a", "data"),
    ("tree children t -o jsonl", "{\"name\":\"a\"}"),
    ("queue status q -o json", "{\"dead\":0,\"delayed\":0,\"leased\":0,\"ready\":1"),
    ("queue peek q", "task"),
    ("queue dead q", ""),
    ("journal read j", ""),
    ("journal status j -o json", "{\"bytes\":"),
    ("lock status l -o json", "{\"session\":"),
    ("rwlock status rw -o json", "{\"readers\":0,\"token\":"),
    ("semaphore status sem -o json", "{\"available\":3"),
    ("latch status la -o json", "{\"left\":1"),
    ("barrier status b -o json", "{\"parties\":2"),
    ("election leader e -o json", "{\"candidate\":"),
    ("election candidates e", ""),
    ("group members g -o jsonl", "{\"data\":\"here\",\"id\":\"n1\""),
    ("group status g -o json", "{\"asked\":0"),
    ("describe v", "name         v\n"),
    ("ls v --type value -o jsonl", "{\"group\":0"),
    ("ls", "NAME "),
];

/// What is there to be looked at.
const WRITES: [(&str, i32); 11] = [
    ("value set v one", 0),
    ("counter set c 7", 0),
    ("map put m k two", 0),
    ("set add s a b", 0),
    ("multimap put mm k v", 0),
    ("tree create t /a data", 0),
    ("queue offer q task", 0),
    ("journal append j record", 0),
    ("semaphore resize sem 3", 0),
    ("latch count-down la --count 2", 0),
    ("barrier wait b --wait 10ms", 1),
];

/// What others hold meanwhile.
const HOLDS: [&str; 4] = [
    "lock run l -- sleep 600",
    "rwlock run rw --write -- sleep 600",
    "election run e --data here -- sleep 600",
    "group join g --id n1 --data here -- sleep 600",
];

/// Ends with the test.
struct Holds(Vec<Child>);

impl Drop for Holds {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // It may have ended already: what it holds is lost with the majority.
            let _ = child.kill().and_then(|()| child.wait());
        }
    }
}

/// What can be looked at with one node of three, which does not lead.
#[test]
fn a_node_without_a_majority_answers_sequential_reads_only() {
    let _alone = alone();
    let scratch = Scratch::new("levels");
    let mut nodes = Nodes::start(&plan(scratch.path(), 1), PATIENCE).expect("three nodes");
    let all = nodes.endpoints();
    let command = |endpoints: &[String], line: &str| {
        let mut command = Command::new(MARGAY);
        command.args(line.split(' ')).env("MARGAY_ENDPOINTS", endpoints.join(","));
        command
    };
    let margay = |endpoints: &[String], line: &str| run(command(endpoints, line));
    let mut holds = Holds(Vec::new());
    for line in HOLDS {
        let mut command = command(&all, line);
        sys::die_with_parent(&mut command, libc::SIGKILL);
        holds.0.push(command.stderr(Stdio::null()).spawn().expect("it starts"));
    }
    WRITES.iter().for_each(|(line, code)| _ = margay(&all, line).with(*code));
    let task = margay(&all, "queue offer other task").with(0).out;
    let contains = format!("queue contains other {} --level sequential", task.trim());
    until("the task", || margay(&all[2..], &contains).code == Some(0));
    for (line, expected) in READS {
        // What is held is not at once.
        until(line, || margay(&all, line).code == Some(0));
        for level in ["linearizable", "lease"] {
            let read = margay(&all, &format!("{line} --level {level}")).with(0);
            assert!(read.out.starts_with(expected), "{line}: {read:?}");
        }
        // A node may be behind for a moment.
        until(line, || {
            let read = margay(&all[2..], &format!("{line} --level sequential"));
            read.code == Some(0) && read.out.starts_with(expected)
        });
    }
    nodes.kill(0).expect("it can be killed");
    nodes.kill(1).expect("it can be killed");
    for (line, expected) in READS {
        let read = margay(&all[2..], &format!("{line} --level sequential")).with(0);
        assert!(read.out.starts_with(expected), "{line}: {read:?}");
    }
    margay(&all[2..], &contains).with(0);
    margay(&all[2..], "value get v --timeout 2s").with(3);
    margay(&all[2..], "lock status l --level lease --timeout 2s").with(3);
}
