//! A search for broken stories: random ones, from seeds. `MARGAY_SEEDS=100000` looks longer,
//! `MARGAY_SEED=7` plays one again and prints it.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use margay::raft::Raft;
use margay::raft::message::{Input, RoleKind};
use margay_log::id::{Micros, NodeId};

use super::cluster::{Cluster, Envelope, mix};

/// Lines of the story shown when it breaks.
const TRACE_LINES: usize = 60;

#[test]
fn random_groups_are_safe_and_end_well() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("MARGAY_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("MARGAY_SEEDS").unwrap_or(200),
    };
    let mut changed = 0;
    let groups = seeds.end - seeds.start;
    for seed in seeds {
        let played = catch_unwind(|| {
            let mut fuzz = Fuzz::new(seed, true);
            fuzz.play();
            fuzz.changed
        });
        if let Ok(changes) = played {
            changed += changes;
        } else {
            // Once more, and this time it is written down.
            let mut fuzz = Fuzz::new(seed, false);
            let again = catch_unwind(AssertUnwindSafe(|| fuzz.play()));
            let trace = &fuzz.cluster.trace;
            let tail = trace.len().saturating_sub(TRACE_LINES);
            trace[tail..].iter().for_each(|(_, line)| eprintln!("{line}"));
            eprintln!("play it again with MARGAY_SEED={seed}");
            resume_unwind(again.expect_err("the same seed, the same story"));
        }
    }
    assert!(groups < 100 || changed > groups, "memberships hardly change: {changed} times");
}

/// What the search is worth: known bugs that are put back are found.
#[cfg(feature = "breaks")]
#[test]
fn bugs_of_the_membership_are_found() {
    use margay_log::breaks;
    let bugs = [
        breaks::LEARNER_COUNTS,
        breaks::OLD_QUORUM_ONLY,
        breaks::NEW_QUORUM_ONLY,
        breaks::CHANGE_AT_COMMIT,
        breaks::REMOVED_LEADER_COUNTS,
    ];
    let found = bugs.map(|bug| {
        let _switch = bug.switch_on();
        let seed = (0..5_000).find(|seed| catch_unwind(|| Fuzz::new(*seed, true).play()).is_err());
        (bug.name, seed)
    });
    for (name, seed) in found {
        println!("{name}: {seed:?}");
        assert!(seed.is_some(), "{name} is not found");
    }
}

/// What may happen next, and how often. Each phase of a story draws one of the four anew for every
/// action: most phases know only one or two kinds of trouble, so that the group gets somewhere
/// before it is hit again.
const ACTIONS: [(Action, [u64; 4]); 17] = [
    (Fuzz::deliver, [600, 600, 600, 1_000]),
    (Fuzz::pass, [20, 20, 50, 100]),
    (Fuzz::lose_patience, [0, 5, 10, 30]),
    (Fuzz::propose, [20, 50, 100, 200]),
    (Fuzz::read, [10, 20, 20, 50]),
    (Fuzz::read_by_lease, [50, 50, 100, 200]),
    (Fuzz::transfer, [0, 0, 2, 20]),
    (Fuzz::flush, [100, 100, 200, 300]),
    (Fuzz::lose, [0, 0, 5, 100]),
    (Fuzz::double, [0, 0, 20, 200]),
    (Fuzz::change_disk, [0, 0, 0, 20]),
    (Fuzz::change_memory, [0, 0, 0, 20]),
    (Fuzz::break_connection, [0, 0, 0, 20]),
    (Fuzz::cut, [0, 0, 3, 10]),
    (Fuzz::heal, [5, 5, 10, 10]),
    (Fuzz::crash_or_restart, [5, 5, 10, 30]),
    (Fuzz::change_members, [0, 10, 20, 60]),
];

type Action = fn(&mut Fuzz);

const PHASES: u32 = 15;
const ACTIONS_PER_PHASE: u32 = 150;

struct Fuzz {
    random: u64,
    cluster: Cluster,
    nodes: u32,
    reads: u64,
    /// Changes of the membership that were begun.
    changed: u64,
    weights: [u64; ACTIONS.len()],
    /// Whether messages overtake each other in this phase.
    reordering: bool,
    /// Who does not notice in this phase that time passes; 0 is nobody.
    asleep: u32,
}

impl Fuzz {
    fn new(seed: u64, untold: bool) -> Fuzz {
        let mut fuzz = Fuzz {
            random: mix(seed),
            cluster: Cluster::default(),
            nodes: 0,
            reads: 0,
            changed: 0,
            weights: [0; ACTIONS.len()],
            reordering: false,
            asleep: 0,
        };
        fuzz.nodes = [1, 2, 3, 3, 3, 3, 4, 5, 5][fuzz.below(9) as usize];
        // Every other group has nodes that wait to be members.
        let founders = fuzz.nodes;
        fuzz.nodes += [0, 0, 1, 3][fuzz.below(4) as usize];
        let window = [150, 1_000, 8 << 20][fuzz.below(3) as usize];
        fuzz.cluster = Cluster::new(founders, fuzz.nodes, seed, window, true);
        fuzz.cluster.untold = untold;
        fuzz
    }

    fn play(&mut self) {
        for _ in 0..PHASES {
            for (weight, (_, choices)) in ACTIONS.iter().enumerate() {
                self.weights[weight] = choices[self.below(4) as usize];
            }
            self.reordering = self.below(2) == 0;
            self.asleep = self.below(u64::from(self.nodes) + 1) as u32;
            if self.below(3) > 0 {
                self.repair();
            }
            for _ in 0..ACTIONS_PER_PHASE {
                let mut chosen = self.below(self.weights.iter().sum());
                let weights = self.weights.iter().zip(&ACTIONS);
                let action =
                    weights.map(|(weight, (action, _))| (*weight, *action)).find(|(weight, _)| {
                        let found = chosen < *weight;
                        chosen = chosen.saturating_sub(*weight);
                        found
                    });
                action.expect("the weights add up").1(self);
            }
        }
        self.end_well();
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random = mix(self.random);
        self.random % bound
    }

    fn node(&mut self) -> u32 {
        self.below(u64::from(self.nodes)) as u32 + 1
    }

    /// A node, and what it says of itself.
    fn any(&mut self) -> (u32, Option<&Raft>) {
        let id = self.node();
        (id, self.cluster.raft(id))
    }

    fn deliver(&mut self) {
        if let Some(envelope) = self.take_message() {
            self.cluster.deliver(envelope);
        }
    }

    fn lose(&mut self) {
        self.take_message();
    }

    fn double(&mut self) {
        if let Some(envelope) = self.take_message() {
            self.cluster.net.push(envelope.clone());
            self.cluster.deliver(envelope);
        }
    }

    fn take_message(&mut self) -> Option<Envelope> {
        let waiting = self.cluster.net.len() as u64;
        let at = if self.reordering && waiting > 0 { self.below(waiting) } else { 0 };
        (waiting > 0).then(|| self.cluster.net.remove(at as usize))
    }

    /// Time passes; most nodes notice, in any order.
    fn pass(&mut self) {
        let span = [1, 20, 60, 200][self.below(4) as usize];
        self.cluster.now = self.cluster.now.after(Micros::from_millis(self.below(span)));
        let first = self.node();
        for offset in 0..self.nodes {
            let id = (first + offset) % self.nodes + 1;
            let now = self.cluster.now;
            let raft = self.cluster.raft(id);
            let due = raft.and_then(Raft::deadline).is_some_and(|due| due <= now);
            if due && id != self.asleep && self.below(10) > 0 {
                self.cluster.tick(id);
            }
        }
    }

    /// So much time passes that a node or two do what they do next, and the others sleep over it.
    fn lose_patience(&mut self) {
        for _ in 0..=self.below(2) {
            let (id, raft) = self.any();
            if let Some(due) = raft.and_then(Raft::deadline) {
                self.cluster.now = self.cluster.now.max(due);
                self.cluster.tick(id);
            }
        }
    }

    fn propose(&mut self) {
        let (id, raft) = self.any();
        if raft.is_some_and(Raft::may_propose) {
            let entries = self.below(5) as u32 + 1;
            self.cluster.propose(id, entries);
        }
    }

    /// Mostly of somebody who leads, or thinks so.
    fn read(&mut self) {
        let (id, raft) = self.any();
        let leads = raft.is_some_and(|raft| raft.role() == RoleKind::Leader);
        if leads || (raft.is_some() && self.below(8) == 0) {
            self.reads += 1;
            self.cluster.read(id, self.reads);
        }
    }

    /// By whoever has a lease, thinks it is leader or not.
    fn read_by_lease(&mut self) {
        for id in 1..=self.nodes {
            self.cluster.read_by_lease(id);
        }
    }

    /// Mostly by somebody who leads, or thinks so.
    fn transfer(&mut self) {
        let to = NodeId(self.node());
        let (id, raft) = self.any();
        let leads = raft.is_some_and(|raft| raft.role() == RoleKind::Leader);
        if leads || (raft.is_some() && self.below(8) == 0) {
            self.cluster.step(id, Input::Transfer { to }, None);
        }
    }

    fn flush(&mut self) {
        let id = self.node();
        self.cluster.flush_one(id);
    }

    fn change_disk(&mut self) {
        let id = self.node();
        self.cluster.node(id).slow ^= true;
    }

    fn change_memory(&mut self) {
        let id = self.node();
        self.cluster.node(id).cold ^= true;
        if !self.cluster.node(id).cold {
            (1..=self.nodes).for_each(|to| self.readable(id, to));
        }
    }

    fn readable(&mut self, id: u32, to: u32) {
        self.cluster.step(id, Input::Readable { to: NodeId(to) }, None);
    }

    fn break_connection(&mut self) {
        let (id, peer) = (self.node(), NodeId(self.node()));
        self.cluster.step(id, Input::Unreachable { peer }, None);
    }

    /// One link, one way; or a node from all others.
    fn cut(&mut self) {
        let (id, other) = (self.node(), self.node());
        if self.below(3) > 0 {
            self.cluster.cut.insert((id, other));
        } else {
            (1..=self.nodes).for_each(|other| self.cluster.cut.extend([(id, other), (other, id)]));
        }
    }

    fn heal(&mut self) {
        self.cluster.cut.clear();
    }

    /// Mostly both at once: what was not durable is forgotten before anybody notices.
    fn crash_or_restart(&mut self) {
        let (id, raft) = self.any();
        if raft.is_some() {
            let lands = self.below(4) as usize;
            self.cluster.crash(id, lands);
        }
        if self.cluster.raft(id).is_none() && self.below(4) > 0 {
            self.cluster.restart(id);
        }
    }

    /// A leader is asked for any change; most are refused.
    fn change_members(&mut self) {
        let (id, raft) = self.any();
        let Some(raft) = raft.filter(|raft| raft.role() == RoleKind::Leader) else { return };
        let mut voters = raft.configuration().voters().to_vec();
        let mut learners = raft.configuration().learners().to_vec();
        for _ in 0..=self.below(2) {
            let node = NodeId(self.node());
            let votes = voters.contains(&node);
            let learns = learners.contains(&node);
            voters.retain(|id| *id != node);
            learners.retain(|id| *id != node);
            match (votes, learns) {
                // A learner votes, a voter leaves or learns, whoever is none learns.
                (_, true) if self.below(4) > 0 => voters.push(node),
                (_, true) => {}
                (true, _) if self.below(2) == 0 => {}
                _ => learners.push(node),
            }
        }
        if !voters.is_empty() {
            // The refusals are the core's business; that it allows enough is looked at in the end.
            self.changed += u64::from(self.cluster.change(id, voters, learners).is_ok());
        }
    }

    /// Links hold, nodes run, and half of the disks are fast.
    fn repair(&mut self) {
        self.heal();
        for id in 1..=self.nodes {
            if self.cluster.raft(id).is_none() {
                self.cluster.restart(id);
            }
            self.cluster.node(id).slow = self.below(2) == 0;
            self.cluster.node(id).cold = false;
            (1..=self.nodes).for_each(|to| self.readable(id, to));
        }
    }

    /// Once everything works again, a leader is found and all logs become one.
    fn end_well(&mut self) {
        self.repair();
        let cluster = &mut self.cluster;
        cluster.note(true, format_args!("everything works again"));
        for id in 1..=self.nodes {
            cluster.node(id).slow = false;
            while cluster.flush_one(id) {}
        }
        cluster.run_until(cluster.now.after(Micros::from_millis(20_000)));
        let leader = cluster.leader().expect("20 s are enough to elect a leader");
        cluster.propose(leader, 1);
        cluster.read(leader, u64::MAX);
        cluster.run_until(cluster.now.after(Micros::from_millis(1_000)));
        assert_eq!(cluster.leader(), Some(leader), "nothing was wrong with the leader");
        let log = cluster.node(leader).log.clone();
        let members = cluster.raft(leader).expect("it leads").configuration().clone();
        assert!(!members.is_joint() && members.is_voter(NodeId(leader)), "a change ends");
        for id in members.members().map(|id| id.0) {
            assert!(cluster.node(id).log == log, "n{id}'s log differs from the leader's");
            let raft = cluster.raft(id).expect("all run");
            assert_eq!(raft.commit(), raft.last().index, "n{id} does not know what is committed");
            assert_eq!(raft.durable(), raft.last().index);
        }
        assert!(cluster.all_reads_answered(), "a read was never answered");
    }
}
