//! Replication: append, acknowledge, refuse, commit.
//!
//! The leader does not know bytes. It says `Replicate` (after this entry, at most so much); the
//! replica, which owns the batches, sends them as appends and answers `Sent` in the same step.
//! Batches stream: nothing waits for an acknowledgement while the window is open.
//!
//! An append is a heartbeat, and a heartbeat is an append without a batch whose `prev` is the last
//! entry sent: so the first heartbeat after a loss reveals it.
//!
//! Two rules carry the safety of this file, and both are about not believing too much:
//!
//! * A follower's log counts only as far as *this* leader has verified it in *this* term, however
//!   much longer it is: for acknowledgements and for its commit index (paper §5.3; the seed broke
//!   both).
//! * A leader commits by counting only entries of its own term (paper §5.4.2, Figure 8).

use margay_log::breaks;
use margay_log::id::{EntryId, Index, Micros, NodeId};

use super::membership::Configurations;
use super::message::{Body, Message, Output};
use super::progress::{Progress, State};
use super::terms::TermRanges;
use super::{Configuration, Raft, Role, Round};

/// The body of an append; see [`Body::Append`].
#[derive(Clone, Debug)]
pub(super) struct Append {
    pub(super) prev: EntryId,
    pub(super) batch: Option<EntryId>,
    /// What the first entry of the batch says, if it is a configuration.
    pub(super) configuration: Option<Configuration>,
    pub(super) commit: Index,
    pub(super) round: Round,
}

// The leader asks.
impl Raft {
    /// The replica has sealed a batch behind the last entry. It has been handed to the own disk,
    /// and leaves for the peers in this same step: nobody waits for the other.
    pub(super) fn on_appended(&mut self, entries: u32, configuration: Option<Configuration>) {
        assert!(self.may_propose(), "only a leader appends, and not while it hands over");
        assert!(entries > 0, "a batch holds at least one entry");
        let last = self.terms.last().index.forward(u64::from(entries)).expect("indexes suffice");
        if let Some(configuration) = configuration {
            self.lead_configuration(self.terms.last().index.next(), configuration);
        }
        self.terms.append(EntryId::new(self.term, last));
    }

    /// Sends what each peer is due: batches, or else an empty append where one is owed, the
    /// heartbeat has come round, or a peer that has everything does not know yet that it is
    /// committed. At most one of them per peer and step; while batches flow, news of the commit
    /// index travel with them.
    pub(super) fn pump(&mut self, out: &mut Vec<Output>) {
        let (now, term, commit) = (self.now, self.term, self.commit_index);
        let Role::Leader(leader) = &mut self.role else { return };
        let last = self.terms.last().index;
        let round = leader.round;
        for peer in &mut leader.peers {
            let due = now >= peer.sent.after(self.config.heartbeat);
            if due {
                // Whoever was asked to send has not answered: ask again.
                peer.asked = false;
            }
            let prev = self.terms.entry_at(peer.next.prev());
            let prev = prev.expect("what precedes the next entry to send is in the log");
            let to = peer.id;
            if let Some(budget) = peer.budget(last, self.config.window_bytes) {
                peer.asked = true;
                out.push(Output::Replicate { to, after: prev, budget, term, commit, round });
            } else if !peer.asked
                && (due || peer.urgent || (peer.is_level(last) && peer.commit_told < commit))
            {
                peer.told(commit, prev.index, now);
                let body = Body::Append { prev, batch: None, commit, round };
                out.push(Output::Send { to, message: Message { term, body } });
                if peer.state == State::Snapshot {
                    out.push(Output::NeedsSnapshot { to });
                }
            }
        }
    }

    /// The answer to `Replicate`. What was sent counts as received until somebody says otherwise;
    /// `pump` asks for more at once, if there is more and the window allows it.
    pub(super) fn on_sent(&mut self, to: NodeId, last: Index, bytes: u64) {
        let (now, commit, end) = (self.now, self.commit_index, self.terms.last().index);
        let Some(peer) = self.peer(to) else { return };
        assert!(last <= end, "sent up to {last} of a log that ends at {end}");
        if peer.on_sent(last, bytes) {
            peer.told(commit, last, now);
        }
    }

    /// The replica has fetched from disk what the peer lacks.
    pub(super) fn on_readable(&mut self, to: NodeId) {
        if let Some(peer) = self.peer(to) {
            peer.paused = false;
        }
    }

    /// The peer's connection broke. The next heartbeat asks how much of what was in flight arrived;
    /// resending all of it unasked would be most of the traffic of a flapping link.
    pub(super) fn on_unreachable(&mut self, to: NodeId) {
        if let Some(peer) = self.peer(to) {
            peer.on_unreachable();
        }
    }

    /// A prefix of the log is gone. Whoever would have needed it next needs a snapshot now.
    pub(super) fn on_compacted(&mut self, base: EntryId) {
        if base.index <= self.terms.base().index {
            return;
        }
        assert!(self.terms.holds(base), "the log begins behind {base}, which it did not hold");
        assert!(base.index <= self.commit_index.min(self.durable_index));
        self.terms.forget_up_to(base.index);
        let Role::Leader(leader) = &mut self.role else { return };
        for peer in &mut leader.peers {
            if peer.state == State::Snapshot || peer.next <= base.index {
                peer.become_snapshot(base.index);
            }
        }
    }

    fn peer(&mut self, id: NodeId) -> Option<&mut Progress> {
        let Role::Leader(leader) = &mut self.role else { return None };
        leader.peers.iter_mut().find(|peer| peer.id == id)
    }
}

// The follower answers.
impl Raft {
    /// Paper, Figure 2, "AppendEntries RPC, receiver": refuse if the log lacks `prev`; else take
    /// the batch in place of what conflicts, and commit what the leader has.
    pub(super) fn on_append(&mut self, from: NodeId, append: Append, out: &mut Vec<Output>) {
        if self.ignore_append(from, &append) {
            return;
        }
        self.follow(from, append.round, out);
        if matches!(&self.role, Role::Follower(follower) if follower.contradicted) {
            return;
        }
        let Append { prev, batch, configuration, commit, .. } = append;
        let gap = breaks::GAP_ACCEPTED.on() && prev.index > self.terms.last().index;
        if !self.has(prev) && !gap {
            return self.reject(from, prev, out);
        }
        let taken = match batch {
            Some(batch) if !self.has(batch) => {
                if prev.index < self.verified().max(self.commit_index) {
                    // It contradicts what this leader sent before, or what is committed.
                    return self.contradict(from, out);
                }
                self.take_batch(prev, batch, configuration, out);
                true
            }
            _ => false,
        };
        let Role::Follower(follower) = &mut self.role else { unreachable!("it follows") };
        // What lies behind the own beginning is committed, so that this leader has it: a node that
        // started from its snapshot says so, and not how far it has been asked.
        let base = self.terms.base().index;
        follower.verified = follower.verified.max(batch.unwrap_or(prev).index).max(base);
        let (heard, acked, acked_at) = (follower.round, follower.acked_round, follower.acked_at);
        // Not min(commit, last): what lies beyond the verified part may conflict.
        let mut known = follower.verified;
        if breaks::ACK_UNVERIFIED.on() {
            known = self.terms.last().index;
        }
        let commit = commit.min(known);
        if commit > self.commit_index {
            self.commit_to(commit, out);
        }
        // A new batch is acknowledged when it is durable. A leader that waits for a round, or has
        // not heard this node for a while because its disk is slow, gets an answer at once.
        let silence = self.now.since(acked_at);
        let early = breaks::ACK_BEFORE_DURABLE.on();
        if early || !taken || heard != acked || silence >= self.config.heartbeat {
            self.acknowledge(out);
        }
    }

    /// See deviation 4 in the module above. The next term, or a restart, begins anew.
    fn contradict(&mut self, by: NodeId, out: &mut Vec<Output>) {
        if let Role::Follower(follower) = &mut self.role {
            follower.contradicted = true;
            out.push(Output::Contradicted { by });
        }
    }

    /// Whether no correct leader of this term would have sent this.
    fn ignore_append(&self, from: NodeId, append: &Append) -> bool {
        let other_leader = self.term_leader.is_some_and(|leader| leader != from);
        let last = append.batch.unwrap_or(append.prev);
        // A batch counts its entries in 32 bits; so nobody can use the indexes up.
        let entries = last.index.since(append.prev.index);
        let miscounted = append.batch.is_some() && (entries == 0 || entries > u64::from(u32::MAX));
        let zero = (append.prev.index == Index::ZERO) != (append.prev.term == EntryId::ZERO.term);
        other_leader || miscounted || zero || last.term < append.prev.term || last.term > self.term
    }

    /// Takes the sender of a well-formed append of the current term for its leader, and puts the
    /// election off.
    fn follow(&mut self, from: NodeId, round: Round, out: &mut Vec<Output>) {
        let following = matches!(&self.role, Role::Follower(own) if own.leader == Some(from));
        if !following {
            self.become_follower(Some(from), out);
        }
        self.reset_election_timer();
        let Role::Follower(follower) = &mut self.role else { unreachable!("it follows") };
        // Not the highest ever: one that nobody began would be answered for the rest of the term.
        follower.round = round;
        self.loyal_until = self.now.after(self.config.election_min);
    }

    /// Whether the log holds this entry. What is behind the snapshot is committed, so that every
    /// leader has it.
    fn has(&self, entry: EntryId) -> bool {
        if breaks::MATCH_BY_INDEX.on() {
            return entry.index <= self.terms.last().index;
        }
        entry.index < self.terms.base().index || self.terms.holds(entry)
    }

    /// How far the log is known to equal the present leader's. It starts from nothing with every
    /// leader and after every time-out: what an earlier leader verified may conflict with this one.
    pub(super) fn verified(&self) -> Index {
        match &self.role {
            Role::Follower(follower) => follower.verified,
            _ => Index::ZERO,
        }
    }

    /// Takes a batch into the log that it does not hold. Whatever lies behind `prev` is not this
    /// batch, so it conflicts and goes: batches are held whole or not at all. An append that is
    /// merely late or doubled never comes here (redpanda #17731).
    fn take_batch(
        &mut self,
        prev: EntryId,
        last: EntryId,
        configuration: Option<Configuration>,
        out: &mut Vec<Output>,
    ) {
        assert!(self.commit_index <= prev.index, "a committed entry would be truncated");
        if prev.index < self.terms.last().index {
            self.terms.truncate_after(prev.index);
            self.configurations.truncate_after(prev.index);
            self.durable_index = self.durable_index.min(prev.index);
        }
        if let Some(configuration) = configuration {
            self.configurations.append(prev.index.next(), configuration);
        }
        self.terms.append(last);
        out.push(Output::Accept { prev, last });
    }

    /// A snapshot is here. `end` was committed in a term that is not above this one, so that the
    /// leader of this term holds it (paper §5.4.3): it counts as verified. Where the log begins
    /// anew behind it, that is acknowledged only once the log's new beginning is durable: until
    /// then a restart finds the old log, and votes by it.
    pub(super) fn on_installed(
        &mut self,
        end: EntryId,
        configuration: (Index, Configuration),
        out: &mut Vec<Output>,
    ) {
        assert!(end.term <= self.term, "a snapshot of {end} in {}", self.term);
        if end.index < self.terms.base().index {
            return;
        }
        let cuts = breaks::SNAPSHOT_CUTS_TAIL.on();
        if cuts || !self.terms.holds(end) {
            let ahead = cuts || end.index > self.commit_index;
            assert!(ahead, "a snapshot contradicts what is committed");
            assert!(!matches!(self.role, Role::Leader(_)), "a leader holds what is committed");
            self.terms = TermRanges::new(end, Vec::new(), end);
            self.configurations = Configurations::new(vec![configuration]);
            let early = breaks::SNAPSHOT_ACKED_EARLY.on();
            self.durable_index = if early { end.index } else { Index::ZERO };
            // Whoever stood did so by another log, and by members among which it may have no vote.
            if !matches!(self.role, Role::Follower(_)) {
                self.become_follower(None, out);
            }
        } else {
            // The log may lack the batch that says so: it cannot be read here.
            self.on_found(configuration.0, configuration.1, out);
        }
        if end.index > self.commit_index {
            self.commit_to(end.index, out);
        }
        if let Role::Follower(follower) = &mut self.role {
            follower.verified = follower.verified.max(end.index);
            // What was acknowledged of the old log stays true; of the new one it is nothing yet.
            follower.acked = follower.acked.min(self.durable_index);
            if self.durable_index >= end.index {
                self.acknowledge(out);
            }
        }
    }

    /// The own disk has caught up: news for the leader this node follows, or one more
    /// acknowledgement if it leads.
    pub(super) fn on_durable(&mut self, index: Index, out: &mut Vec<Output>) {
        let last = self.terms.last().index;
        assert!(index <= last, "durable up to {index}, in a log that ends at {last}");
        self.durable_index = self.durable_index.max(index);
        if let Role::Follower(follower) = &self.role
            && self.durable_index.min(follower.verified) > follower.acked
        {
            self.acknowledge(out);
        }
    }

    /// Tells the leader what of *its* log is on this disk. Either half alone would be a lie:
    /// verified entries may be lost in a crash, durable ones may be of a leader that was deposed.
    fn acknowledge(&mut self, out: &mut Vec<Output>) {
        let Role::Follower(follower) = &mut self.role else { return };
        let Some(leader) = follower.leader else { return };
        let (mut matched, round) = (self.durable_index.min(follower.verified), follower.round);
        if breaks::ACK_BEFORE_DURABLE.on() {
            matched = follower.verified;
        }
        if breaks::ACK_UNVERIFIED.on() {
            matched = self.durable_index;
        }
        if breaks::BATCH_SPLIT.on() {
            let news = matched.since(self.commit_index);
            matched = Index(matched.0 - news / 2);
        }
        follower.acked = matched;
        follower.acked_round = round;
        follower.acked_at = self.now;
        self.send(leader, Body::AppendAck { matched, round }, out);
    }

    /// Names the last own entry that may be common: one at or before `prev`, and, as terms never
    /// decrease along a log, of no higher term. All behind it certainly conflicts.
    fn reject(&mut self, leader: NodeId, prev: EntryId, out: &mut Vec<Output>) {
        let Role::Follower(follower) = &mut self.role else { return };
        let round = follower.round;
        follower.acked_round = round;
        let hint = self.terms.hint(prev);
        self.send(leader, Body::AppendReject { prev: prev.index, hint, round }, out);
    }
}

// The leader hears.
impl Raft {
    /// The only way a peer's `match_index` moves.
    pub(super) fn on_append_ack(&mut self, from: NodeId, matched: Index, round: Round) {
        if self.ignore_answer(matched, round) {
            return;
        }
        let (now, last) = (self.now, self.terms.last().index);
        let Some(peer) = self.peer(from) else { return };
        hear(peer, round, now);
        peer.on_ack(matched);
        peer.end_round(last, now);
    }

    /// The peer lacks `prev`: look for the common end where its hint says, at once. A refusal of an
    /// older guess says nothing; one of the present guess always moves it back, by at least a
    /// batch, so that the search ends.
    pub(super) fn on_append_reject(
        &mut self,
        from: NodeId,
        prev: Index,
        hint: EntryId,
        round: Round,
    ) {
        let Some(asked) = self.terms.entry_at(prev) else { return };
        if self.ignore_answer(prev, round) || hint.index > prev || hint.term > asked.term {
            return;
        }
        if hint == asked {
            return; // It refuses what it says it holds.
        }
        let (now, base, probe) = (self.now, self.terms.base(), self.terms.probe(hint));
        // Of an entry that is not here, the index says nothing about what is held in common.
        let common = if self.terms.holds(hint) { hint.index } else { Index::ZERO };
        let Some(peer) = self.peer(from) else { return };
        hear(peer, round, now);
        if peer.ignore_reject(prev) {
            return;
        }
        peer.lost(common);
        if breaks::HINT_AS_MATCH.on() {
            peer.on_ack(hint.index);
        }
        match probe {
            Some(entry) => peer.become_probe(entry.index),
            None => peer.become_snapshot(base.index),
        }
    }

    /// Whether no correct follower would answer so: nobody holds more of this leader's log, or has
    /// heard more rounds, than there are.
    fn ignore_answer(&self, index: Index, round: Round) -> bool {
        let Role::Leader(leader) = &self.role else { return true };
        index > self.terms.last().index || round > leader.round
    }

    /// Commits what a quorum holds durably, this node's own disk among them or not: it is a voter
    /// like the others here (thesis §10.2.1), and often the slowest, having the most to do.
    pub(super) fn advance_commit(&mut self, out: &mut Vec<Output>) {
        let Role::Leader(leader) = &self.role else { return };
        let agreed = self.agreed(leader, self.durable_index, |peer| peer.match_index);
        let Some(index) = agreed else { return };
        // Entries of earlier terms commit with the first of this one (paper §5.4.2): on a majority
        // or not, a leader elected without them could still replace them. All entries from `first`
        // on are of this term.
        let own = index >= leader.first || breaks::COMMIT_OLD_TERM.on();
        if index > self.commit_index && own {
            self.commit_to(index, out);
        }
    }
}

/// Every answer in the current term confirms the leader, even a refusal.
fn hear(peer: &mut Progress, round: Round, now: Micros) {
    peer.heard = now;
    peer.answered = Some(now);
    peer.round = peer.round.max(round);
}
