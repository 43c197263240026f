//! A group of Raft cores over a model of log, disk and network, with all safety properties checked
//! as it runs. Batches have no bytes here, only a number and a digest of everything before them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use margay::raft::message::{
    Body, ChangeRefused, Config, Input, Message, Output, ReadId, Restored, RoleKind,
};
use margay::raft::{Configuration, Raft};
use margay_log::id::{EntryId, Index, Micros, NodeId, Term, Ticket};

use super::draw;

/// Bytes that an entry counts for.
const ENTRY_BYTES: u64 = 100;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Batch {
    pub(crate) prev: EntryId,
    pub(crate) last: EntryId,
    /// Of its content and all before it. No two batches have the same content.
    digest: u64,
    /// The first entry is this one of the cluster's configurations.
    configuration: Option<usize>,
}

/// A message on its way, with the batch that travels behind it.
#[derive(Clone)]
pub(crate) struct Envelope {
    pub(crate) from: u32,
    pub(crate) to: u32,
    pub(crate) message: Message,
    pub(crate) batch: Option<Batch>,
}

pub(crate) struct Node {
    pub(crate) raft: Option<Raft>,
    /// What the replica holds.
    pub(crate) log: Vec<Batch>,
    /// What a crash leaves. Like the real log it is never truncated, only superseded.
    disk: Vec<Batch>,
    hard_state: (Term, Option<NodeId>),
    writes: VecDeque<Batch>,
    persists: VecDeque<(Ticket, Term, Option<NodeId>)>,
    /// Writes wait for `flush`.
    pub(crate) slow: bool,
    /// Batches to send are not in memory.
    pub(crate) cold: bool,
    /// What a restart finds as its snapshot.
    pub(crate) snapshot: EntryId,
    no_op_due: bool,
    restarts: u64,
}

#[derive(Default)]
pub(crate) struct Cluster {
    pub(crate) now: Micros,
    pub(crate) nodes: BTreeMap<u32, Node>,
    pub(crate) net: Vec<Envelope>,
    /// Links that lose everything, by (from, to).
    pub(crate) cut: BTreeSet<(u32, u32)>,
    /// What happened: (worth telling, as text).
    pub(crate) trace: Vec<(bool, String)>,
    /// Nobody reads it.
    pub(crate) untold: bool,
    /// Somebody has said what no node has: anything may be heard.
    pub(crate) forged: bool,
    /// Leaders keep leases.
    pub(crate) lease: bool,
    window_bytes: u64,
    seed: u64,
    contents: u64,
    /// Every configuration that was ever appended; the first is the founders'.
    configurations: Vec<Configuration>,
    /// Open reads: who was asked, and what it must see.
    reads: BTreeMap<u64, (u32, Index)>,
    /// (what begins a change, what ends it).
    ends: Vec<(Configuration, Configuration)>,
    leaders: BTreeMap<Term, u32>,
    entries: BTreeMap<EntryId, u64>,
    committed: BTreeMap<Index, Batch>,
    /// In which term that was first known.
    committed_in: BTreeMap<Index, Term>,
}

impl Cluster {
    /// A group that the first `founders` of `nodes` found; the others know of it, and have nothing.
    pub(crate) fn new(
        founders: u32,
        nodes: u32,
        seed: u64,
        window_bytes: u64,
        lease: bool,
    ) -> Cluster {
        let mut cluster =
            Cluster { now: Micros(1_000_000), seed, window_bytes, lease, ..Cluster::default() };
        let voters = (1..=founders).map(NodeId).collect();
        cluster.configurations = vec![Configuration::new(voters, Vec::new(), Vec::new())];
        for id in 1..=nodes {
            let node = Node {
                raft: None,
                log: Vec::new(),
                disk: Vec::new(),
                hard_state: (Term(0), None),
                writes: VecDeque::new(),
                persists: VecDeque::new(),
                slow: false,
                cold: false,
                snapshot: EntryId::ZERO,
                no_op_due: false,
                restarts: 0,
            };
            cluster.nodes.insert(id, node);
        }
        (1..=nodes).for_each(|id| cluster.restart(id));
        cluster
    }

    pub(crate) fn node(&mut self, id: u32) -> &mut Node {
        self.nodes.get_mut(&id).unwrap_or_else(|| panic!("there is no node {id}"))
    }

    pub(crate) fn raft(&self, id: u32) -> Option<&Raft> {
        self.nodes.get(&id)?.raft.as_ref()
    }

    /// The leader of the highest term.
    pub(crate) fn leader(&self) -> Option<u32> {
        let rafts = self.nodes.iter().filter_map(|(id, node)| Some((id, node.raft.as_ref()?)));
        let leaders = rafts.filter(|(_, raft)| raft.role() == RoleKind::Leader);
        leaders.max_by_key(|(_, raft)| raft.term()).map(|(id, _)| *id)
    }

    /// Writes down what happened, if anybody reads it.
    pub(crate) fn note(&mut self, news: bool, text: fmt::Arguments<'_>) {
        if !self.untold {
            self.trace.push((news, text.to_string()));
        }
    }

    /// Loses all that is not durable, after the first `lands` log writes under way have landed.
    pub(crate) fn crash(&mut self, id: u32, lands: usize) {
        let node = self.node(id);
        node.raft = None;
        for _ in 0..lands.min(node.writes.len()) {
            node.write_one();
        }
        node.writes.clear();
        node.persists.clear();
        node.no_op_due = false;
        node.log = node.disk.clone();
        self.reads.retain(|_, (asked, _)| *asked != id);
        self.note(false, format_args!("n{id} crashes"));
    }

    /// A disk that loses what it had called durable, as when it rots.
    pub(crate) fn rot(&mut self, id: u32, last: Index) {
        let node = self.node(id);
        assert!(node.raft.is_none(), "n{id} runs");
        node.disk.retain(|batch| batch.last.index <= last);
        node.log = node.disk.clone();
    }

    pub(crate) fn restart(&mut self, id: u32) {
        let (now, seed, window_bytes) = (self.now, self.seed, self.window_bytes);
        let lease = self.lease;
        let configurations = self.configurations_of(id);
        let node = self.node(id);
        node.restarts += 1;
        let mut terms: Vec<(Term, Index)> = Vec::new();
        for batch in &node.log {
            if terms.last().is_none_or(|(term, _)| *term < batch.last.term) {
                terms.push((batch.last.term, batch.prev.index.next()));
            }
        }
        let restored = Restored {
            term: node.hard_state.0,
            vote: node.hard_state.1,
            terms,
            last: node.last(),
            snapshot: node.snapshot,
            commit: Index(0),
            configurations,
        };
        let seed = seed.wrapping_add(node.restarts << 32);
        let config = Config { window_bytes, lease, ..Config::new(NodeId(id), seed) };
        node.raft = Some(Raft::new(config, restored, now));
    }

    /// What the group was founded with.
    pub(crate) fn founding(&self) -> &Configuration {
        &self.configurations[0]
    }

    /// The configurations of a node's log: that as of its snapshot, and those behind it.
    fn configurations_of(&self, id: u32) -> Vec<(Index, Configuration)> {
        let node = &self.nodes[&id];
        let mut found = vec![(Index(0), self.configurations[0].clone())];
        for batch in &node.log {
            if let Some(at) = batch.configuration {
                if batch.last.index <= node.snapshot.index {
                    found.clear();
                }
                found.push((batch.prev.index.next(), self.configurations[at].clone()));
            }
        }
        found
    }

    /// The leader seals a batch.
    pub(crate) fn propose(&mut self, id: u32, entries: u32) {
        self.seal(id, entries, None);
    }

    /// The leader appends a configuration: a joint one, if voters change.
    pub(crate) fn change(
        &mut self,
        id: u32,
        voters: Vec<NodeId>,
        learners: Vec<NodeId>,
    ) -> Result<(), ChangeRefused> {
        let raft = self.raft(id).ok_or(ChangeRefused::NotLeader)?;
        raft.may_change()?;
        let current = raft.configuration();
        let settled = Configuration::new(voters.clone(), Vec::new(), learners.clone());
        let outgoing = match settled.voters() == current.voters() {
            true => Vec::new(),
            false => current.voters().to_vec(),
        };
        let next = Configuration::new(voters, outgoing, learners.clone());
        let lately = Micros(self.now.0.saturating_sub(300_000));
        raft.check_change(&next, lately)?;
        self.ends.push((next.clone(), settled));
        self.seal(id, 1, Some(next));
        Ok(())
    }

    /// The end of the change that begins so: learners that voted are named here alone.
    fn end_of(&self, joint: &Configuration) -> Configuration {
        let (_, end) = self.ends.iter().rfind(|(begin, _)| begin == joint).expect("it was begun");
        end.clone()
    }

    fn seal(&mut self, id: u32, entries: u32, configuration: Option<Configuration>) {
        self.contents += 1;
        let content = self.contents;
        let node = self.node(id);
        let raft = node.raft.as_ref().expect("a node that runs");
        assert_eq!(raft.role(), RoleKind::Leader, "only a leader seals");
        let prev = node.last();
        let last = EntryId::new(raft.term(), Index(prev.index.0 + u64::from(entries)));
        let digest = mix(node.log.last().map_or(0, |batch| batch.digest) ^ content);
        let at = configuration.as_ref().map(|_| self.configurations.len());
        self.configurations.extend(configuration.clone());
        self.node(id).append(Batch { prev, last, digest, configuration: at });
        self.check_log(id);
        self.step(id, Input::Appended { entries, configuration }, None);
    }

    pub(crate) fn read(&mut self, id: u32, read: u64) {
        let committed = self.committed.keys().next_back().copied().unwrap_or_default();
        self.reads.insert(read, (id, committed));
        self.step(id, Input::Read { id: ReadId(read) }, None);
    }

    /// What a read by lease would see now; nothing, without a lease. It must not miss anything that
    /// anybody knows to be committed.
    pub(crate) fn read_by_lease(&self, id: u32) -> Option<Index> {
        let index = self.raft(id)?.lease(self.now)?;
        let committed = self.committed.keys().next_back().copied().unwrap_or_default();
        assert!(index >= committed, "n{id} reads {index} by its lease and misses {committed}");
        Some(index)
    }

    pub(crate) fn tick(&mut self, id: u32) {
        self.step(id, Input::Tick, None);
    }

    /// Delivers a message, or loses it: where the link is cut, or nobody is there.
    pub(crate) fn deliver(&mut self, envelope: Envelope) {
        let Envelope { from, to, message, batch } = envelope;
        if self.cut.contains(&(from, to)) || self.raft(to).is_none() {
            self.note(false, format_args!("n{from} ⇥ n{to} {} lost", draw::message(&message)));
            return;
        }
        let configuration = batch.and_then(|batch| batch.configuration);
        let configuration = configuration.map(|at| self.configurations[at].clone());
        self.step(to, Input::Message { from: NodeId(from), message, configuration }, batch);
    }

    /// Lets the first write under way become durable: hard state before log. Whether there was one.
    pub(crate) fn flush_one(&mut self, id: u32) -> bool {
        let node = self.node(id);
        if node.raft.is_none() {
            return false;
        }
        if let Some((ticket, term, vote)) = node.persists.pop_front() {
            node.hard_state = (term, vote);
            self.step(id, Input::Persisted { ticket }, None);
            return true;
        }
        if node.write_one() {
            let index = node.durable();
            self.step(id, Input::Durable { index }, None);
            return true;
        }
        false
    }

    pub(crate) fn step(&mut self, id: u32, input: Input, batch: Option<Batch>) {
        let now = self.now;
        let Some(raft) = self.node(id).raft.as_mut() else { return };
        let mut out = Vec::new();
        raft.step(now, input, &mut out);
        let mut work = VecDeque::from(out);
        loop {
            while let Some(output) = work.pop_front() {
                work.extend(self.carry_out(id, output, batch));
            }
            if std::mem::take(&mut self.node(id).no_op_due) {
                self.propose(id, 1);
            } else if self.raft(id).is_some_and(Raft::change_ends) {
                let end = self.end_of(self.raft(id).expect("it runs").configuration());
                self.seal(id, 1, Some(end));
            } else {
                break;
            }
        }
        let node = &self.nodes[&id];
        let raft = node.raft.as_ref().expect("it runs");
        assert_eq!(raft.last(), node.last(), "n{id}: core and log differ");
        assert!(raft.durable() <= node.durable(), "n{id} takes for durable what is not");
        if !node.slow {
            while self.flush_one(id) {}
        }
    }

    /// Does what the core says, as the replica would; returns what it says to that.
    fn carry_out(&mut self, id: u32, output: Output, batch: Option<Batch>) -> Vec<Output> {
        if !self.untold
            && let Some(text) = draw::output(&output)
        {
            let news = !matches!(
                output,
                Output::Send { .. } | Output::Accept { .. } | Output::Persist { .. }
            );
            self.note(news, format_args!("n{id} {text}"));
        }
        match output {
            Output::Persist { ticket, term, vote } => {
                self.node(id).persists.push_back((ticket, term, vote));
            }
            Output::Send { to, message } => {
                self.check_message(id, to, &message);
                self.net.push(Envelope { from: id, to: to.0, message, batch: None });
            }
            Output::Replicate { to, after, budget, term, commit, round } => {
                let head = Body::Append { prev: after, batch: None, commit, round };
                return self.replicate(id, to, after, budget, Message { term, body: head });
            }
            Output::Accept { prev, last } => {
                let batch = batch.expect("only a message with a batch is accepted");
                assert_eq!((batch.prev, batch.last), (prev, last));
                let node = self.node(id);
                node.log.retain(|held| held.last.index <= prev.index);
                assert_eq!(node.last(), prev, "n{id} truncates within a batch");
                node.append(batch);
                self.check_log(id);
            }
            // Stories install one by a command of their own.
            Output::NeedsSnapshot { .. } => {}
            Output::Commit { index } => self.check_commit(id, index),
            Output::ReadReady { id: read, index } => {
                let (_, least) = self.reads.remove(&read.0).expect("answered once");
                assert!(index >= least, "read {} at {index} misses {least}", read.0);
            }
            Output::ReadRefused { id: read } => {
                self.reads.remove(&read.0).expect("answered once");
            }
            Output::Transferred { .. } => {}
            Output::Contradicted { by } => {
                assert!(self.forged, "n{} contradicts what n{id} has committed", by.0);
            }
            Output::RoleChanged { role, term, .. } => {
                let leads = role == RoleKind::Leader;
                self.node(id).no_op_due = leads;
                if leads {
                    self.check_leader(id, term);
                }
            }
        }
        Vec::new()
    }

    fn replicate(
        &mut self,
        id: u32,
        to: NodeId,
        after: EntryId,
        budget: u64,
        head: Message,
    ) -> Vec<Output> {
        let Body::Append { commit, round, .. } = head.body else { unreachable!() };
        let node = self.node(id);
        let holds = after.index == Index(0) || node.log.iter().any(|batch| batch.last == after);
        assert!(holds, "n{id} is to send what follows {after}, which is not the end of a batch");
        let (mut last, mut bytes) = (after.index, 0);
        let mut sends = Vec::new();
        for batch in node.log.iter().filter(|batch| batch.prev.index >= after.index) {
            let size = batch.last.index.since(batch.prev.index) * ENTRY_BYTES;
            if node.cold || (bytes > 0 && bytes + size > budget) {
                break;
            }
            (last, bytes) = (batch.last.index, bytes + size);
            let body = Body::Append { prev: batch.prev, batch: Some(batch.last), commit, round };
            sends.push((Message { term: head.term, body }, *batch));
        }
        for (message, batch) in sends {
            self.note(false, format_args!("n{id} → n{} {}", to.0, draw::message(&message)));
            self.check_message(id, to, &message);
            self.net.push(Envelope { from: id, to: to.0, message, batch: Some(batch) });
        }
        let mut out = Vec::new();
        let now = self.now;
        let raft = self.node(id).raft.as_mut().expect("it runs");
        raft.step(now, Input::Sent { to, last, bytes }, &mut out);
        out
    }
}

// What must never happen.
impl Cluster {
    /// Nothing is said before it is durable.
    fn check_message(&self, from: u32, to: NodeId, message: &Message) {
        let node = &self.nodes[&from];
        let (term, vote) = node.hard_state;
        match message.body {
            Body::PreVote { .. } | Body::PreVoteReply { granted: true } => {}
            Body::VoteReply { granted: true } => {
                assert_eq!((term, vote), (message.term, Some(to)), "n{from}'s vote is not durable");
            }
            Body::AppendAck { matched, .. } => {
                assert!(matched <= node.durable(), "n{from} acknowledges {matched}, not durable");
                assert_eq!(term, message.term, "n{from}'s term is not durable");
            }
            _ => assert_eq!(term, message.term, "n{from}'s term is not durable"),
        }
    }

    /// Log matching: an entry of one term and index is the same everywhere, with all before it.
    fn check_log(&mut self, id: u32) {
        let batch = *self.nodes[&id].log.last().expect("just appended");
        let known = *self.entries.entry(batch.last).or_insert(batch.digest);
        assert_eq!(known, batch.digest, "n{id} holds another {}", batch.last);
    }

    /// Election safety and leader completeness.
    fn check_leader(&mut self, id: u32, term: Term) {
        let leader = *self.leaders.entry(term).or_insert(id);
        assert_eq!(leader, id, "two leaders in {term}");
        let log = &self.nodes[&id].log;
        // A late vote may make a leader of a term that is over: it lacks what came after.
        let before = |batch: &&Batch| self.committed_in[&batch.last.index] < term;
        for batch in self.committed.values().filter(before) {
            assert!(log.contains(batch), "leader n{id} of {term} lacks {}", batch.last);
        }
    }

    /// State machine safety, and that a quorum has on disk what is committed.
    fn check_commit(&mut self, id: u32, index: Index) {
        let node = &self.nodes[&id];
        let end = node.log.iter().any(|batch| batch.last.index == index);
        assert!(end, "n{id} commits {index}, which is not the end of a batch");
        let is_new = self.committed.keys().next_back().is_none_or(|last| *last < index);
        let raft = node.raft.as_ref().expect("it runs");
        let (term, quorum_of) = (raft.term(), raft.configuration().clone());
        for batch in node.log.iter().filter(|batch| batch.last.index <= index) {
            let known = *self.committed.entry(batch.last.index).or_insert(*batch);
            self.committed_in.entry(batch.last.index).or_insert(term);
            assert_eq!(known, *batch, "n{id} commits another {}", batch.last.index);
        }
        let batch = self.committed[&index];
        let held = |voter: NodeId| self.nodes[&voter.0].disk.contains(&batch);
        // By the leader, that is, and under the configuration in force there.
        let majority = |voters: &[NodeId]| {
            let holds = voters.iter().filter(|voter| held(**voter)).count();
            voters.is_empty() || holds > voters.len() / 2
        };
        let both = majority(quorum_of.voters()) && majority(quorum_of.outgoing());
        let durable = !is_new || both;
        assert!(durable, "{index} is committed without a quorum of {quorum_of:?} on disk");
    }
}

impl Node {
    pub(crate) fn last(&self) -> EntryId {
        self.log.last().map_or(EntryId::ZERO, |batch| batch.last)
    }

    fn append(&mut self, batch: Batch) {
        self.log.push(batch);
        self.writes.push_back(batch);
    }

    /// The first write under way lands: it supersedes what the disk holds at its place.
    fn write_one(&mut self) -> bool {
        let Some(batch) = self.writes.pop_front() else { return false };
        self.disk.retain(|held| held.last.index <= batch.prev.index);
        self.disk.push(batch);
        true
    }

    /// The log as it stands is on disk up to here.
    pub(crate) fn durable(&self) -> Index {
        let pairs = self.log.iter().zip(&self.disk);
        let same = pairs.take_while(|(log, disk)| log == disk);
        same.last().map_or(Index(0), |(batch, _)| batch.last.index)
    }

    /// Takes over another node's log up to `last`, as if a snapshot had been installed.
    pub(crate) fn install(&mut self, log: Vec<Batch>, last: EntryId) {
        self.log = log.into_iter().filter(|batch| batch.last.index <= last.index).collect();
        self.disk.clone_from(&self.log);
        self.snapshot = last;
    }
}

/// Spreads the bits of `value` (the finish of SplitMix64).
pub(crate) fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

// How it goes on by itself.
impl Cluster {
    /// Delivers what is on its way, and what comes of it, until nothing is.
    pub(crate) fn settle(&mut self) {
        for _ in 0..100_000 {
            if self.net.is_empty() {
                return;
            }
            let envelope = self.net.remove(0);
            self.deliver(envelope);
        }
        panic!("the group talks without end");
    }

    /// Whether the reads asked of nodes that did not crash since are answered.
    pub(crate) fn all_reads_answered(&self) -> bool {
        self.reads.is_empty()
    }

    /// Keeps every deadline up to `end`, delivering messages at once.
    pub(crate) fn run_until(&mut self, end: Micros) {
        self.settle();
        loop {
            let rafts = self.nodes.iter().filter_map(|(id, node)| Some((id, node.raft.as_ref()?)));
            let due = rafts.filter_map(|(id, raft)| Some((raft.deadline()?, *id))).min();
            let Some((deadline, id)) = due.filter(|(deadline, _)| *deadline <= end) else { break };
            assert!(deadline >= Micros(0));
            self.now = self.now.max(deadline);
            self.tick(id);
            let after = self.raft(id).and_then(|raft| raft.deadline());
            assert!(
                after.is_none_or(|after| after > self.now),
                "n{id} has the same deadline again"
            );
            self.settle();
        }
        self.now = end;
    }
}
