//! Doing what the core wants: its outputs, in order, until there are none.
//!
//! Replication reads the sealed batches from the log's tail and hands the very buffers that go to
//! the disk to the network; what is no longer in memory is fetched first.

use margay_log::Read;
use margay_log::batch::Batch;
use margay_log::breaks;
use margay_log::format::EntryHeader;
use margay_log::id::{Chain, EntryId, Index, Micros, NodeId, Term};

use super::{Fatal, Host, Replica};
use crate::machine::{Code, LogTime, StateMachine, kind};
use crate::raft::message::{Body, Input, Message, Output, RoleKind, Round};
use crate::wire::peer::PeerMessage;

/// What the hard state's meta block holds: version (4 bytes), vote (4, 0 = none), term (8).
const META: usize = 16;
const META_VERSION: u32 = 1;

/// Term and vote as the hard state's meta block.
pub(super) fn encode_meta(term: Term, vote: Option<NodeId>) -> [u8; META] {
    let mut meta = [0; META];
    meta[0..4].copy_from_slice(&META_VERSION.to_le_bytes());
    meta[4..8].copy_from_slice(&vote.map_or(0, |node| node.0).to_le_bytes());
    meta[8..16].copy_from_slice(&term.0.to_le_bytes());
    meta
}

/// The reverse; an empty block is that of a new log.
pub(super) fn decode_meta(meta: &[u8]) -> Option<(Term, Option<NodeId>)> {
    if meta.is_empty() {
        return Some((Term::ZERO, None));
    }
    let meta: &[u8; META] = meta.try_into().ok()?;
    let (version, rest) = meta.split_first_chunk::<4>()?;
    let (vote, term) = rest.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*version) != META_VERSION {
        return None;
    }
    let vote = u32::from_le_bytes(*vote);
    let term = Term(u64::from_le_bytes(term.try_into().ok()?));
    Some((term, (vote != 0).then_some(NodeId(vote))))
}

/// What every append of one replication has in common.
#[derive(Clone, Copy)]
struct Append {
    term: Term,
    commit: Index,
    round: Round,
}

impl<S: StateMachine> Replica<S> {
    /// Does everything the core has asked for, and what it asks for in consequence.
    pub(super) fn run_outputs(&mut self, now: Micros, host: &mut dyn Host) {
        while let Some(output) = self.outputs.pop_front() {
            match output {
                Output::Persist { ticket, .. } if breaks::VOTE_NOT_PERSISTED.on() => {
                    self.step(now, Input::Persisted { ticket });
                }
                Output::Persist { ticket, term, vote } => {
                    let written = self.log.set_meta(&encode_meta(term, vote));
                    self.persisting.push_back((written, ticket));
                }
                Output::Send { to, message } => {
                    self.send(to, message, None, host);
                }
                Output::Replicate { to, after, budget, term, commit, round } => {
                    let append = Append { term, commit, round };
                    self.replicate(now, to, after, budget, append, host);
                }
                Output::NeedsSnapshot { to } => self.on_needs_snapshot(now, to),
                Output::Accept { prev, .. } => self.accept(prev),
                Output::Commit { index } => self.on_commit(index),
                Output::ReadReady { id, index } => self.pending.ready(id, index),
                Output::ReadRefused { id } => self.refuse_reads(id, host),
                Output::Transferred { to, end } => self.on_transferred(now, to, end, host),
                Output::Contradicted { by } => self.on_contradicted(by),
                Output::RoleChanged { role, term, leader } => {
                    self.on_role(now, role, term, leader, host);
                }
            }
        }
    }

    /// Returns the bytes that go on their way.
    fn send(
        &mut self,
        to: NodeId,
        message: Message,
        batch: Option<&std::sync::Arc<Batch>>,
        host: &mut dyn Host,
    ) -> u64 {
        let chain = match message.body {
            Body::AppendAck { matched, .. } => self.log.chain_at(matched).unwrap_or_default(),
            Body::Append { prev, .. } => self.log.chain_at(prev.index).unwrap_or_default(),
            _ => Chain::default(),
        };
        let batch_length = batch.map_or(0, |batch| batch.bytes().len() as u32);
        self.frame.clear();
        PeerMessage { message, chain, batch_length }.encode(&mut self.frame);
        host.peer(to, &self.frame, batch);
        self.frame.len() as u64 + u64::from(batch_length)
    }

    /// Sends the batches behind `after`, the same buffers that go to the disk, and tells the core
    /// how far. What counts is all that goes on its way: the headers of small batches are no
    /// shorter than those.
    fn replicate(
        &mut self,
        now: Micros,
        to: NodeId,
        after: EntryId,
        budget: u64,
        append: Append,
        host: &mut dyn Host,
    ) {
        let mut batches = std::mem::take(&mut self.batches);
        batches.clear();
        let mut last = after.index;
        let mut bytes = 0;
        match self.log.read(after.index, budget, &mut batches) {
            Read::Cached => {
                let mut prev = after;
                for batch in &batches {
                    if bytes > 0 && bytes + batch.size() > budget {
                        break;
                    }
                    let end = batch.header().last();
                    let Append { term, commit, round } = append;
                    let body = Body::Append { prev, batch: Some(end), commit, round };
                    bytes += self.send(to, Message { term, body }, Some(batch), host);
                    last = end.index;
                    prev = end;
                }
            }
            Read::Pending(ticket) => self.fetching.push((ticket, to)),
            Read::End => {}
            // Nobody is sent what this node cannot read; it is being asked for.
            Read::Damaged => self.repairs.wait(to, after.index),
            Read::Gone => {
                tracing::warn!(group = self.config.group.0, %to, %after,
                    "what this follower needs cannot be read from the log");
            }
        }
        batches.clear();
        self.batches = batches;
        self.step(now, Input::Sent { to, last, bytes });
    }

    /// Puts the batch that arrived into the log.
    fn accept(&mut self, prev: EntryId) {
        let received = self.arriving.take().expect("the core accepts only what arrived");
        self.accept_members(prev.index);
        if let Err(refused) = self.log.accept(received) {
            self.front.fatal = Some(Fatal::Diverged {
                group: self.config.group,
                behind: prev.index,
                why: refused.to_string(),
            });
        }
    }

    fn on_commit(&mut self, index: Index) {
        assert!(index > self.commit, "commit goes forward only");
        self.commit = index;
        self.members_news |= self.members.commit(index);
        while let Some(&(last, bytes)) = self.uncommitted.front() {
            if last > index {
                break;
            }
            self.uncommitted.pop_front();
            self.uncommitted_bytes -= bytes;
        }
    }

    fn on_contradicted(&self, by: NodeId) {
        tracing::error!(group = self.config.group.0, leader = %by, commit = %self.commit,
            "the leader's log contradicts what is committed here: a majority has lost data that \
             was durable; nothing is taken from it; compare with `margay cluster verify`");
    }

    fn on_role(
        &mut self,
        now: Micros,
        role: RoleKind,
        term: Term,
        leader: Option<NodeId>,
        host: &mut dyn Host,
    ) {
        tracing::info!(group = self.config.group.0, ?role, %term, ?leader, "role changed");
        let leads = role == RoleKind::Leader;
        if !leads || self.ready_at.is_some() {
            self.stop_leading(host);
        }
        if leads {
            // Log time goes on from the last batch, whoever sealed it.
            self.clock = Some((LogTime(self.log.log_time()).max(self.machine.time()), now));
            self.ready_at = self.push_system(kind::NOOP, 0, &[]);
            self.leadership_began(now);
        }
    }

    /// An open batch exists only in its leader: whoever waits for it asks the next leader.
    fn stop_leading(&mut self, host: &mut dyn Host) {
        self.log.discard_open();
        self.give_up_change(host);
        self.uncommitted.clear();
        self.uncommitted_bytes = 0;
        self.clock = None;
        self.ticking = None;
        self.ready_at = None;
        self.leading = false;
        let leader = self.leader_address();
        self.front.stop_leading(Code::NOT_LEADER, &leader, host);
        self.refuse_all_reads(Code::NOT_LEADER, host);
    }

    /// Appends an entry of the system's own to the open batch. `None` where it does not fit now:
    /// the caller comes back with the next turn.
    pub(super) fn push_system(&mut self, kind: u8, session: u64, payload: &[u8]) -> Option<Index> {
        let header = EntryHeader { kind, session, ..EntryHeader::default() };
        self.log.push(&header, payload).ok()
    }

    /// Where clients should go: the leader's address, or nothing where none is known.
    pub(super) fn leader_address(&self) -> String {
        let leader = self.raft.leader().filter(|&id| id != self.config.raft.id);
        let member = leader.and_then(|id| self.members.member(id));
        member.map(|member| member.address.clone()).unwrap_or_default()
    }
}
