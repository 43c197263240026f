//! Finding damage on this node's disk, and mending it from the others.
//!
//! A batch that cannot be read is asked for by its place in the log and its chain: any peer may
//! give it back, leader or not, and it checks itself. While it is lacking nothing behind it is
//! applied here, and nobody is sent it. A log that was found damaged when it was opened does not
//! vote and does not stand until it is whole: where batches within it were lost, until all are put
//! back (one of them may have changed who votes); where its end was lost, until a leader has
//! brought it there (a vote given meanwhile could elect somebody who lacks what this node had
//! acknowledged). A leader that cannot read what it has to send, and has it from nobody, neither
//! leads nor votes any more, until it has been mended or replaced.
//!
//! What is at rest is looked through in the background, a piece at a time, batches and snapshots:
//! so rot is found while there are others to mend it.

use std::sync::Arc;

use margay_log::batch::{Batch, Received};
use margay_log::id::{BatchEnd, EntryId, Index, Micros, NodeId, Term, Ticket};
use margay_log::recover::Rotten;
use margay_log::snapshot::SnapshotHeader;
use margay_log::{Buffer, Found, Opened, Read};

use super::membership::{Member, Membership, Standing};
use super::memberships::Memberships;
use super::{Fault, Host, Replica};
use crate::machine::{StateMachine, kind};
use crate::raft::message::{Input, RoleKind};
use crate::wire::repair::{ChainQuery, ChainReply, RepairReply, RepairRequest};

/// What is lacking is asked for this often.
const ASK_EVERY: Micros = Micros::from_millis(200);
/// The same for what is not needed to go on: what lies behind the newest snapshot.
const ASK_SELDOM: Micros = Micros::from_millis(5_000);
/// A leader that has asked for so long for what nobody gives back lets another lead.
const GIVES_UP_AFTER: Micros = Micros::from_millis(2_000);
/// Batches asked for at a time.
const ASK_MAX: usize = 8;
/// Requests of others that wait for the disk, at most.
const GIVING_MAX: usize = 64;

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Repairs {
    /// This node does not vote.
    pub abstains: bool,
    /// The term in which the log was opened: what it lacks was acknowledged in that or before.
    opened_in: Term,
    /// Not asked again before this time.
    ask_at: Micros,
    /// Since when this leader lacks something that may be nobody else's.
    lacks_since: Option<Micros>,
    /// Requests that wait for a read.
    giving: Vec<(Ticket, NodeId, RepairRequest)>,
    /// Followers that need what is lacking here, and what they have.
    waiting: Vec<(NodeId, Index)>,
    /// Where looking through goes on, and when.
    scrubbed: Index,
    scrub_at: Micros,
    scrubbing: Option<Ticket>,
    /// Damaged batches when this was last looked at.
    known: usize,
    pub counts: RepairCounts,
}

impl Repairs {
    /// A follower needs what is lacking here, and has everything up to `has`.
    pub(super) fn wait(&mut self, to: NodeId, has: Index) {
        self.waiting.retain(|(node, _)| *node != to);
        self.waiting.push((to, has));
    }
}

/// How often what happened, since this replica began.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RepairCounts {
    /// Batches of this log that could not be read.
    pub found: u64,
    /// Those that were put back.
    pub mended: u64,
    /// Times the whole log and the snapshots were looked through.
    pub rounds: u64,
}

/// Whether a damaged log is to be left as it is, because no other node of its group could give back
/// what it lacks: what is restored then, from a copy, is whole again. It goes by the latest members
/// that log and snapshots tell of, not by the founders.
///
/// A lost end is known only to a leader, and who alone votes needs none; a lost batch is known to
/// every member that has it.
#[must_use]
pub fn is_beyond_repair(own: NodeId, founders: &[Member], found: &Found<'_>) -> bool {
    // What cannot be read is an error of its own, once the log is open.
    let members = latest_members(founders, found.marked, found.snapshots.last());
    let Some(members) = members else { return false };
    let is_other = |(member, standing): (&Member, Standing)| {
        member.id != own && (found.damage.is_none() || standing.votes())
    };
    !members.members().any(is_other)
}

/// Where the cluster knows a node, as far as its own log tells.
#[must_use]
pub fn address_of(own: NodeId, founders: &[Member], opened: &Opened) -> Option<String> {
    let members = latest_members(founders, &opened.marked, opened.snapshots.last())?;
    members.member(own).map(|member| member.address.clone())
}

/// The membership that was appended last, as far as is known.
fn latest_members(
    founders: &[Member],
    marked: &[(Index, Vec<u8>)],
    snapshot: Option<&SnapshotHeader>,
) -> Option<Membership> {
    let end = snapshot.map_or(Index::ZERO, |snapshot| snapshot.end.id.index);
    match (marked.last().filter(|(index, _)| *index > end), snapshot) {
        (Some((_, payload)), _) => Membership::decode(payload).ok(),
        (None, Some(snapshot)) => Memberships::decode(&snapshot.meta).ok().map(|(_, last)| last),
        (None, None) => Some(Membership::founding(founders.to_vec())),
    }
}

impl<S: StateMachine> Replica<S> {
    /// Whether this log may vote as it was opened.
    pub(super) fn begin_repair(&mut self, rotten: usize) {
        self.repairs.opened_in = self.raft.term();
        self.repairs.abstains = rotten > 0 || self.log.repair().is_some() || self.lacks_state();
        self.raft.abstain(self.repairs.abstains);
        if self.repairs.abstains {
            let until = self.log.repair().unwrap_or_default();
            tracing::warn!(group = self.config.group.0, rotten, %until,
                "the log is damaged; this node does not vote until it is mended from the others");
        }
    }

    /// What is due about damage at the end of a turn.
    pub(super) fn flush_repairs(&mut self, now: Micros, host: &mut dyn Host) {
        self.note_damage();
        self.note_lost_state();
        self.note_lost_end(now);
        if self.repairs.abstains && self.is_whole() {
            self.repairs.abstains = false;
            self.raft.abstain(false);
            tracing::info!(group = self.config.group.0, "the log is whole again; this node votes");
        }
        let lacks = self.log.is_damaged() || self.lacks_state();
        if lacks && now >= self.repairs.ask_at {
            let needed = self.lacks_state() || self.first_needed().is_some();
            self.repairs.ask_at = now.after(if needed { ASK_EVERY } else { ASK_SELDOM });
            self.ask_for_what_is_lacking(host);
            self.bring_past_damage(now);
        }
        self.scrub(now);
    }

    /// Nobody else may have what is lacking any more: whoever lags behind it is brought a snapshot
    /// that ends behind it. Asked again until it has come.
    fn bring_past_damage(&mut self, now: Micros) {
        let mut waiting = std::mem::take(&mut self.repairs.waiting);
        waiting.retain(|(to, has)| {
            let peer = self.raft.peers().find(|peer| peer.id == *to);
            peer.is_some_and(|peer| peer.matched <= *has)
        });
        for &(to, has) in &waiting {
            if self.snapshots.newest() > has {
                self.on_needs_snapshot(now, to);
            }
        }
        self.repairs.waiting = waiting;
    }

    /// When there is something to do even if nothing happens.
    pub(super) fn repair_deadline(&self) -> Option<Micros> {
        let lacks = self.log.is_damaged() || self.lacks_state();
        let ask = lacks.then_some(self.repairs.ask_at);
        let scrub = self.repairs.scrubbing.is_none() && self.config.scrub_pause > Micros(0);
        ask.into_iter().chain(scrub.then_some(self.repairs.scrub_at)).min()
    }

    /// No snapshot on this disk could be restored, and the log begins behind its start: this node
    /// can answer nobody until it is brought one. It may have been elected while it tried.
    fn note_lost_state(&mut self) {
        if self.repairs.abstains || !self.lacks_state() {
            return;
        }
        self.repairs.abstains = true;
        self.raft.abstain(true);
        let start = self.log.start().id.index;
        tracing::error!(group = self.config.group.0, %start,
            "no snapshot here can be restored and the log begins behind them; this node neither \
             leads nor votes until another brings it one");
    }

    /// A batch of this leader rots that is not committed: nobody may have another copy, and none of
    /// what follows can ever be sent. Whoever is elected without this node has the log go on
    /// without it, or gives it back.
    fn note_lost_end(&mut self, now: Micros) {
        let leads = self.raft.role() == RoleKind::Leader && !self.repairs.abstains;
        let commit = self.raft.commit();
        let lacks = leads && self.log.damaged().iter().any(|rotten| rotten.first > commit);
        if !lacks {
            self.repairs.lacks_since = None;
            return;
        }
        let since = *self.repairs.lacks_since.get_or_insert(now);
        if now < since.after(GIVES_UP_AFTER) || !self.has_others() {
            return;
        }
        self.repairs.abstains = true;
        self.raft.abstain(true);
        tracing::error!(group = self.config.group.0, %commit,
            "a batch of the log cannot be read, is not known to be committed, and nobody gives it \
             back; this node neither leads nor votes until the log is whole");
    }

    fn note_damage(&mut self) {
        let damaged = self.log.damaged().len();
        if damaged > self.repairs.known {
            for rotten in self.log.damaged() {
                tracing::error!(group = self.config.group.0, segment = rotten.segment.0,
                    offset = rotten.offset, first = %rotten.first, end = %rotten.end.id,
                    "a batch of the log cannot be read; asking the others for it");
            }
            self.repairs.counts.found += (damaged - self.repairs.known) as u64;
        }
        self.repairs.known = damaged;
    }

    /// The first damaged batch that the state cannot do without: behind the newest snapshot.
    fn first_needed(&self) -> Option<Index> {
        let snapshot = self.snapshots.newest();
        let needed = |rotten: &&Rotten| rotten.end.id.index > snapshot;
        self.log.damaged().iter().find(needed).map(|rotten| rotten.first)
    }

    /// Applying waits for a batch that this disk has lost.
    pub(super) fn is_stuck(&self) -> bool {
        let applied = self.machine.applied();
        let next = |rotten: &Rotten| rotten.first == applied.next();
        !self.snapshots.is_restoring() && self.log.damaged().iter().any(next)
    }

    /// Nothing is lacking that this node may have acknowledged.
    fn is_whole(&mut self) -> bool {
        if self.lacks_state() || self.first_needed().is_some() {
            return false;
        }
        // What a leader that was elected since has committed in its own term stands on all that was
        // committed before: a node that holds that durably lacks nothing that counts. Of a leader
        // to whom it has itself acknowledged what it lacks, only all of that will do.
        let commit = self.raft.commit();
        let follows = self.raft.role() == RoleKind::Follower && self.raft.leader().is_some();
        let term = self.raft.term();
        let of_term = self.log.term_at(commit) == Some(term) && term > self.repairs.opened_in;
        if self.log.repair().is_some() && follows && of_term && self.log.durable() >= commit {
            self.log.set_repaired();
        }
        self.log.repair().is_none()
    }

    fn ask_for_what_is_lacking(&mut self, host: &mut dyn Host) {
        let term = self.raft.term();
        let mut requests: Vec<RepairRequest> = Vec::new();
        if self.lacks_state() {
            requests.push(RepairRequest { term, first: Index::ZERO, end: self.log.start() });
        }
        let damaged = self.log.damaged();
        requests.extend(damaged.iter().take(ASK_MAX).map(|rotten| RepairRequest {
            term,
            first: rotten.first,
            end: rotten.end,
        }));
        for request in requests {
            self.frame.clear();
            request.encode(&mut self.frame);
            for to in self.others() {
                host.peer(to, &self.frame, None);
            }
        }
    }

    fn others(&self) -> Vec<NodeId> {
        let own = self.config.raft.id;
        let members = self.members.current().members();
        members.map(|(member, _)| member.id).filter(|id| *id != own).collect()
    }

    /// Whether there is anybody who could give back what is lacking here.
    pub(super) fn has_others(&self) -> bool {
        !self.others().is_empty()
    }

    /// Another node has lost the state that its log begins with, at `index`. Where no snapshot here
    /// reaches so far, one is made: nothing else can help that node, and it may be long until one
    /// is due.
    fn on_state_wanted(&mut self, now: Micros, from: NodeId, index: Index) {
        if self.snapshots.newest() >= index {
            self.on_needs_snapshot(now, from);
        } else if self.machine.applied() >= index && !self.snapshots.is_making() {
            // It asks again and again: the one under way is not to be followed by another.
            self.snapshots.want_one();
        }
    }

    /// Another node lacks something: it gets it, if this one has it.
    pub(super) fn on_repair_request(
        &mut self,
        now: Micros,
        from: NodeId,
        request: RepairRequest,
        host: &mut dyn Host,
    ) {
        if request.first == Index::ZERO {
            self.on_state_wanted(now, from, request.end.id.index);
            return;
        }
        let BatchEnd { id, chain } = request.end;
        if request.first <= self.log.start().id.index {
            // Nobody has it any more, as it seems; the state it led to does as well.
            return self.on_needs_snapshot(now, from);
        }
        if self.log.chain_at(id.index) != Some(chain) {
            return;
        }
        let mut batches: Vec<Arc<Batch>> = Vec::new();
        match self.log.read(request.first.prev(), 0, &mut batches) {
            Read::Cached => {}
            Read::Pending(ticket) => {
                if self.repairs.giving.len() < GIVING_MAX {
                    self.repairs.giving.push((ticket, from, request));
                }
                return;
            }
            Read::End | Read::Gone | Read::Damaged => return,
        }
        let Some(batch) = batches.first() else { return };
        let header = batch.header();
        if header.first != request.first || header.chain != chain {
            return;
        }
        let batch_length = batch.bytes().len() as u32;
        self.frame.clear();
        RepairReply { term: self.raft.term(), first: header.first, batch_length }
            .encode(&mut self.frame);
        host.peer(from, &self.frame, Some(batch));
    }

    /// A read has ended: who waits for it is answered.
    pub(super) fn on_read_for_repair(&mut self, now: Micros, read: Ticket, host: &mut dyn Host) {
        if self.repairs.scrubbing == Some(read) {
            self.repairs.scrubbing = None;
        }
        let mut at = 0;
        while at < self.repairs.giving.len() {
            if self.repairs.giving[at].0 == read {
                let (_, to, request) = self.repairs.giving.swap_remove(at);
                self.on_repair_request(now, to, request, host);
            } else {
                at += 1;
            }
        }
    }

    /// Somebody gives back a batch.
    ///
    /// # Errors
    /// It is not what its frame says.
    pub(super) fn on_repair_reply(
        &mut self,
        now: Micros,
        from: NodeId,
        reply: RepairReply,
        batch: Option<Buffer>,
        host: &mut dyn Host,
    ) -> Result<(), Fault> {
        let Some(buffer) = batch else {
            return Err(Fault::Append("a repair came without its batch"));
        };
        let length = reply.batch_length as usize;
        let received = Received::check(buffer, length, self.config.cluster, self.config.group)?;
        let header = *received.header();
        let first = received.first_entry().filter(|(header, _)| header.kind == kind::CONFIGURATION);
        let members = first.map(|(_, payload)| payload.to_vec());
        if !self.log.mend(received) {
            return Ok(());
        }
        let index = header.first;
        tracing::info!(group = self.config.group.0, %from, %index, "a batch was given back");
        self.repairs.counts.mended += 1;
        self.repairs.known = self.log.damaged().len();
        self.repairs.ask_at = now;
        if let Some(Ok(membership)) = members.map(|bytes| Membership::decode(&bytes)) {
            self.found_members(now, index, membership);
        }
        for (to, _) in std::mem::take(&mut self.repairs.waiting) {
            self.step(now, Input::Readable { to });
        }
        self.run_outputs(now, host);
        Ok(())
    }

    /// A batch that was lacking when the log was opened changed the membership.
    fn found_members(&mut self, now: Micros, index: Index, membership: Membership) {
        let configuration = membership.configuration();
        self.insert_members(index, membership);
        self.step(now, Input::Found { index, configuration });
    }

    /// A membership that was in the log all the time has come to light.
    pub(super) fn insert_members(&mut self, index: Index, membership: Membership) {
        if self.members.insert(index, membership) {
            self.members.commit(self.raft.commit());
            self.members_news = true;
        }
    }

    /// Looks through the next piece of what is at rest, if it is time.
    fn scrub(&mut self, now: Micros) {
        if self.is_suspicious() {
            self.scrub_snapshots();
            return;
        }
        let pause = self.config.scrub_pause;
        let due = pause > Micros(0) && now >= self.repairs.scrub_at;
        if !due || self.repairs.scrubbing.is_some() {
            return;
        }
        self.repairs.scrub_at = now.after(pause);
        match self.log.scrub(self.repairs.scrubbed) {
            Some((ticket, through)) => {
                self.repairs.scrubbing = Some(ticket);
                self.repairs.scrubbed = through;
            }
            None if self.scrub_snapshots() => {}
            None => {
                self.repairs.scrubbed = Index::ZERO;
                self.repairs.counts.rounds += 1;
            }
        }
    }

    /// The last batch end up to an index that is committed and durable here.
    pub(super) fn chain_reply(&self, query: ChainQuery) -> ChainReply {
        let start = self.log.start();
        let known = self.raft.commit().min(self.log.durable()).min(query.index);
        let end = self.log.end_up_to(known.max(start.id.index));
        let end = if end.id == EntryId::ZERO { BatchEnd::ZERO } else { end };
        let damaged = self.log.damaged().len() as u32;
        ChainReply { id: query.id, end, start: start.id.index, damaged }
    }

    /// What has happened about damage.
    #[must_use]
    pub fn repair_counts(&self) -> RepairCounts {
        self.repairs.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However often the connection to it breaks.
    #[test]
    fn a_follower_waits_once_for_what_is_lacking() {
        let mut repairs = Repairs::default();
        for (node, has) in [(2, 5), (3, 5), (2, 7)] {
            repairs.wait(NodeId(node), Index(has));
        }
        assert_eq!(repairs.waiting, [(NodeId(3), Index(5)), (NodeId(2), Index(7))]);
    }
}
