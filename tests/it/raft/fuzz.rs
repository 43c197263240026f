//! A search for broken stories: random ones, from seeds. `MARGAY_SEEDS=100000` looks longer,
//! `MARGAY_SEED=7` plays one again and prints it.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use margay::raft::message::{Input, RoleKind};
use margay_log::id::{Micros, NodeId};

use super::cluster::{Cluster, mix};

/// Lines of the story shown when it breaks.
const TRACE_LINES: usize = 60;

#[test]
fn random_stories_are_safe_and_end_well() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("MARGAY_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("MARGAY_SEEDS").unwrap_or(200),
    };
    for seed in seeds {
        let mut fuzz = Fuzz::new(seed);
        let played = catch_unwind(AssertUnwindSafe(|| fuzz.play()));
        if let Err(cause) = played {
            let trace = &fuzz.cluster.trace;
            let tail = trace.len().saturating_sub(TRACE_LINES);
            trace[tail..].iter().for_each(|(_, line)| eprintln!("{line}"));
            eprintln!("play it again with MARGAY_SEED={seed}");
            resume_unwind(cause);
        }
    }
}

struct Fuzz {
    random: u64,
    cluster: Cluster,
    nodes: u32,
    reads: u64,
    /// Chances in a thousand, per message: to be lost, doubled, overtaken.
    loss: u64,
    doubling: u64,
    reordering: u64,
    /// Chance in a thousand, per action, that a node crashes.
    crashes: u64,
}

impl Fuzz {
    fn new(seed: u64) -> Fuzz {
        let mut fuzz = Fuzz {
            random: mix(seed),
            cluster: Cluster::default(),
            nodes: 0,
            reads: 0,
            loss: 0,
            doubling: 0,
            reordering: 0,
            crashes: 0,
        };
        fuzz.nodes = [1, 2, 3, 3, 3, 3, 4, 5, 5][fuzz.below(9) as usize];
        let window = [150, 1_000, 8 << 20][fuzz.below(3) as usize];
        fuzz.cluster = Cluster::new(fuzz.nodes, seed, window);
        // Some groups live in a bad place, some in a good one.
        fuzz.loss = [0, 20, 300][fuzz.below(3) as usize];
        fuzz.doubling = [0, 50, 500][fuzz.below(3) as usize];
        fuzz.reordering = [0, 100, 500][fuzz.below(3) as usize];
        fuzz.crashes = [0, 5, 30][fuzz.below(3) as usize];
        fuzz
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random = mix(self.random);
        self.random % bound
    }

    fn chance(&mut self, in_a_thousand: u64) -> bool {
        self.below(1_000) < in_a_thousand
    }

    fn node(&mut self) -> u32 {
        self.below(u64::from(self.nodes)) as u32 + 1
    }

    fn play(&mut self) {
        for _ in 0..1_000 {
            self.act();
        }
        self.end_well();
    }

    fn act(&mut self) {
        let id = self.node();
        let other = self.node();
        match self.below(1_000) {
            0..500 => self.deliver(),
            500..600 => self.pass(),
            600..700 => self.propose(id),
            700..740 => {
                self.reads += 1;
                if self.cluster.raft(id).is_some() {
                    self.cluster.read(id, self.reads);
                }
            }
            740..840 => {
                self.cluster.flush_one(id);
            }
            840..860 => self.cluster.node(id).slow ^= true,
            860..870 => self.cluster.node(id).cold ^= true,
            870..900 => {
                let to = NodeId(other);
                if id != other && !self.cluster.node(id).cold {
                    self.cluster.step(id, Input::Readable { to }, None);
                }
            }
            900..910 => {
                self.cluster.step(id, Input::Unreachable { peer: NodeId(other) }, None);
            }
            910..930 => {
                self.cluster.cut.insert((id, other));
            }
            930..935 => {
                for other in 1..=self.nodes {
                    self.cluster.cut.extend([(id, other), (other, id)]);
                }
            }
            935..950 => self.cluster.cut.clear(),
            _ => self.crash_or_restart(id),
        }
    }

    fn deliver(&mut self) {
        let waiting = self.cluster.net.len() as u64;
        if waiting == 0 {
            return;
        }
        let at = if self.chance(self.reordering) { self.below(waiting) } else { 0 };
        let envelope = self.cluster.net.remove(at as usize);
        if self.chance(self.loss) {
            return;
        }
        if self.chance(self.doubling) && waiting < 500 {
            self.cluster.net.push(envelope.clone());
        }
        self.cluster.deliver(envelope);
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
            let due = raft.and_then(|raft| raft.deadline()).is_some_and(|due| due <= now);
            if due && !self.chance(100) {
                self.cluster.tick(id);
            }
        }
    }

    fn propose(&mut self, id: u32) {
        let leads = |raft: &margay::raft::Raft| raft.role() == RoleKind::Leader;
        if self.cluster.raft(id).is_some_and(leads) {
            let entries = self.below(5) as u32 + 1;
            self.cluster.propose(id, entries);
        }
    }

    fn crash_or_restart(&mut self, id: u32) {
        if self.cluster.raft(id).is_none() {
            self.cluster.restart(id);
        } else if self.chance(self.crashes * 20) {
            let lands = self.below(4) as usize;
            self.cluster.crash(id, lands);
        }
    }

    /// Once everything works again, a leader is found and all logs become one.
    fn end_well(&mut self) {
        let cluster = &mut self.cluster;
        cluster.note(true, "everything works again".to_string());
        cluster.cut.clear();
        for id in 1..=self.nodes {
            cluster.node(id).cold = false;
            cluster.node(id).slow = false;
            if cluster.raft(id).is_none() {
                cluster.restart(id);
            }
            while cluster.flush_one(id) {}
            for to in (1..=self.nodes).map(NodeId) {
                cluster.step(id, Input::Readable { to }, None);
            }
        }
        cluster.run_until(cluster.now.after(Micros::from_millis(20_000)));
        let leader = cluster.leader().expect("20 s are enough to elect a leader");
        cluster.propose(leader, 1);
        cluster.read(leader, u64::MAX);
        cluster.run_until(cluster.now.after(Micros::from_millis(1_000)));
        assert_eq!(cluster.leader(), Some(leader), "nothing was wrong with the leader");
        let log = cluster.node(leader).log.clone();
        for id in 1..=self.nodes {
            assert!(cluster.node(id).log == log, "n{id}'s log differs from the leader's");
            let raft = cluster.raft(id).expect("all run");
            assert_eq!(raft.commit(), raft.last().index, "n{id} does not know what is committed");
            assert_eq!(raft.durable(), raft.last().index);
        }
        assert!(cluster.all_reads_answered(), "a read was never answered");
    }
}
