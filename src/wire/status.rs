//! How a node describes its groups to whoever asks: the material of `margay cluster status`.

use margay_log::id::{Chain, EntryId, GroupId, Index, Term};

use super::Error;
use super::fields::{Block, Fields, put_short_text};

/// One group, as the answering node sees it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct GroupStatus {
    /// The group.
    pub group: GroupId,
    /// Name of the node that answers.
    pub node: String,
    /// Name of the leader, where one is known.
    pub leader: Option<String>,
    /// It has come to an entry that it cannot apply, and answers nothing; see the node's log.
    pub halted: bool,
    /// A snapshot of its state is being written out.
    pub snapshotting: bool,
    /// The longest turn of the group's shard in the last five to ten seconds, in microseconds: so
    /// long nothing else on that shard went on.
    pub longest_turn_us: u32,
    /// How long ago that turn ended, in microseconds.
    pub longest_turn_ago_us: u32,
    /// The most that a turn of those seconds itself ran, in microseconds: what is longer waited,
    /// for a CPU as a rule.
    pub busiest_turn_us: u32,
    /// Current term.
    pub term: Term,
    /// First index still in the log.
    pub first: Index,
    /// Last entry of the log, durable or not.
    pub last: EntryId,
    /// Chain at `last`: equal chains at equal entries mean equal logs.
    pub chain: Chain,
    /// End of what is durable on this node.
    pub durable: Index,
    /// Commit index.
    pub commit: Index,
    /// Applied index.
    pub applied: Index,
    /// Open sessions.
    pub sessions: u32,
    /// Names of the voters; during a change of voters, of the new ones.
    pub voters: Vec<String>,
    /// Names of the voters before the change under way; empty without one.
    pub outgoing: Vec<String>,
    /// Names of the learners.
    pub learners: Vec<String>,
    /// Name and address of everybody among these, once each.
    pub members: Vec<(String, String)>,
}

/// Bytes before the texts of one group.
const FIXED_BYTES: usize = 92;

/// Flags.
const HAS_LEADER: u16 = 1;
const HALTED: u16 = 2;
const SNAPSHOTTING: u16 = 4;

/// Names in one list, at most.
const NAMES_MAX: u16 = 255;

impl GroupStatus {
    /// Appends this description.
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        let lists = [&self.voters, &self.outgoing, &self.learners];
        let [voters, outgoing, learners] =
            lists.map(|list| list.len().min(usize::from(NAMES_MAX)) as u16);
        let block = Block::<FIXED_BYTES>::new().u32(self.group.0).u32(self.sessions);
        let block = block.u64(self.term.0).u64(self.first.0);
        let block = block.u64(self.last.term.0).u64(self.last.index.0).u64(self.durable.0);
        let block = block.u64(self.commit.0).u64(self.applied.0).u32(self.chain.0);
        let flags = u16::from(self.leader.is_some()) * HAS_LEADER
            + u16::from(self.halted) * HALTED
            + u16::from(self.snapshotting) * SNAPSHOTTING;
        let block = block.u16(voters).u16(flags);
        let block = block.u16(outgoing).u16(learners).u32(self.longest_turn_us);
        let members = self.members.len().min(usize::from(NAMES_MAX));
        let block = block.u32(self.longest_turn_ago_us).u32(self.busiest_turn_us);
        let block = block.u16(members as u16).u16(0);
        out.extend_from_slice(&block.done());
        put_short_text(out, &self.node);
        if let Some(leader) = &self.leader {
            put_short_text(out, leader);
        }
        for list in lists {
            let names = list.iter().take(usize::from(NAMES_MAX));
            names.for_each(|name| put_short_text(out, name));
        }
        for (name, address) in &self.members[..members] {
            put_short_text(out, name);
            put_short_text(out, address);
        }
    }

    /// Reads one description.
    fn take(fields: &mut Fields<'_>) -> Result<GroupStatus, Error> {
        let (group, sessions) = (GroupId(fields.u32()?), fields.u32()?);
        let (term, first) = (Term(fields.u64()?), Index(fields.u64()?));
        let last = EntryId::new(Term(fields.u64()?), Index(fields.u64()?));
        let (durable, commit) = (Index(fields.u64()?), Index(fields.u64()?));
        let (applied, chain) = (Index(fields.u64()?), Chain(fields.u32()?));
        let voters = fields.u16()?;
        let flags = fields.u16()?;
        let (outgoing, learners) = (fields.u16()?, fields.u16()?);
        let (longest_turn_us, longest_turn_ago_us) = (fields.u32()?, fields.u32()?);
        let busiest_turn_us = fields.u32()?;
        let (members, zero) = (fields.u16()?, fields.u16()?);
        let most = voters.max(outgoing).max(learners).max(members);
        if most > NAMES_MAX || flags > HAS_LEADER + HALTED + SNAPSHOTTING || zero != 0 {
            return Err(fields.error("impossible counts"));
        }
        let node = fields.short_text()?.to_owned();
        let has_leader = flags & HAS_LEADER != 0;
        let leader = if has_leader { Some(fields.short_text()?.to_owned()) } else { None };
        let mut names = |count: u16| -> Result<Vec<String>, Error> {
            (0..count).map(|_| fields.short_text().map(str::to_owned)).collect()
        };
        let (voters, outgoing, learners) = (names(voters)?, names(outgoing)?, names(learners)?);
        let mut text = || fields.short_text().map(str::to_owned);
        let members = (0..members).map(|_| Ok((text()?, text()?)));
        let members = members.collect::<Result<_, Error>>()?;
        Ok(GroupStatus {
            group,
            node,
            leader,
            halted: flags & HALTED != 0,
            snapshotting: flags & SNAPSHOTTING != 0,
            longest_turn_us,
            longest_turn_ago_us,
            busiest_turn_us,
            term,
            first,
            last,
            chain,
            durable,
            commit,
            applied,
            sessions,
            voters,
            outgoing,
            learners,
            members,
        })
    }

    /// Reads `count` descriptions. The count is checked against the bytes before anything is
    /// allocated for it.
    pub(super) fn take_all(count: u64, fields: &mut Fields<'_>) -> Result<Vec<GroupStatus>, Error> {
        if count > (fields.left() / FIXED_BYTES) as u64 {
            return Err(fields.error("more groups than bytes"));
        }
        (0..count).map(|_| GroupStatus::take(fields)).collect()
    }
}
