//! Changing who belongs to the group: what an operator asks for, until it is done or refused.
//!
//! A configuration is the first entry of its batch: so a follower sees it without reading the
//! others, and a leader appends it when its open batch is empty. There is one change at a time; the
//! core says when it is safe, and when the second half of a change of voters is due.
//!
//! Invariants: `members` and the core's configurations are the same after every call; what waits is
//! answered once, also when this node leads no longer.

use margay_log::format::EntryHeader;
use margay_log::id::{Incarnation, Index, Micros, NodeId};
use margay_log::snapshot::SnapshotHeader;

use super::membership::{Change, Membership, Senseless};
use super::memberships::Memberships;
use super::{ConnId, Fatal, Host, RETRY, Replica, ReplicaConfig};
use crate::machine::{Code, StateMachine, kind};
use crate::raft::Configuration;
use crate::raft::message::ChangeRefused;
use crate::wire::client::{Admin, RefusedOf, Response};

/// Changes under way at their leader.
#[derive(Default)]
pub(super) struct Changes {
    /// Somebody waits for this one.
    asked: Option<Asked>,
    /// The first entry of the open batch.
    opened: Option<Membership>,
}

/// A change that somebody waits for.
struct Asked {
    conn: ConnId,
    id: u64,
    name: String,
    /// Not yet appended.
    next: Option<Membership>,
    /// When it was asked for.
    at: Micros,
}

/// The memberships of a log that is opened: from the newest snapshot that it holds the end of, or
/// from the founders on.
pub(super) fn restore_members(
    config: &ReplicaConfig,
    snapshot: Option<&SnapshotHeader>,
    marked: &[(Index, Vec<u8>)],
) -> Result<Memberships, Fatal> {
    let mut members = match snapshot {
        None => Memberships::new(Index::ZERO, Membership::founding(config.founders.clone())),
        Some(snapshot) => {
            let (group, index) = (config.group, snapshot.end.id.index);
            let (at, members) = Memberships::decode(&snapshot.meta)
                .map_err(|why| Fatal::Membership { group, index, why })?;
            Memberships::new(at, members)
        }
    };
    let end = snapshot.map_or(Index::ZERO, |snapshot| snapshot.end.id.index);
    for (index, payload) in marked.iter().filter(|(index, _)| *index > end) {
        let (group, index) = (config.group, *index);
        let read = Membership::decode(payload);
        members.append(index, read.map_err(|why| Fatal::Membership { group, index, why })?);
    }
    Ok(members)
}

/// What the wire says, as a change of members.
fn change(admin: Admin<'_>) -> Option<Change> {
    Some(match admin {
        Admin::Transfer { .. } => return None,
        Admin::Add { name, address, incarnation, node } => Change::Add {
            name: name.to_owned(),
            address: address.to_owned(),
            incarnation,
            id: (node != NodeId(0)).then_some(node),
        },
        Admin::Promote { name } => Change::Promote(name.to_owned()),
        Admin::Demote { name } => Change::Demote(name.to_owned()),
        Admin::Remove { name } => Change::Remove(name.to_owned()),
    })
}

impl<S: StateMachine> Replica<S> {
    /// A client asks for a change.
    pub(super) fn on_admin(
        &mut self,
        now: Micros,
        conn: ConnId,
        id: u64,
        admin: Admin<'_>,
        host: &mut dyn Host,
    ) {
        let name = admin.name().to_owned();
        let Some(change) = change(admin) else {
            return self.on_transfer_asked(now, conn, id, &name, host);
        };
        match self.consider(&change) {
            Ok(Some(next)) => {
                self.changes.asked = Some(Asked { conn, id, name, next: Some(next), at: now });
            }
            Ok(None) => {
                let node = self.members.current().number_of(&name).unwrap_or(NodeId(0));
                if let Some(out) = host.client(conn) {
                    let index = self.commit;
                    Response::Admin { id, changed: false, node, index }.encode(out);
                }
            }
            Err(refused) => self.refuse_change(conn, id, &refused, host),
        }
    }

    /// Why nothing is taken from a node, if so.
    #[must_use]
    pub fn refuses(&self, node: NodeId, incarnation: Incarnation) -> Option<Code> {
        if self.members.current().is_removed(node) {
            return Some(Code::REMOVED);
        }
        // Nobody knows all members at all times: who is not known may be the leader.
        let members = self.members.current().members();
        let mut known = members.map(|(member, _)| (member.id, member.incarnation));
        let as_another = |(id, life)| (id == node) != (life == incarnation);
        known.any(as_another).then_some(Code::DUPLICATE_NODE)
    }

    /// What the change would append; nothing, if that is so already.
    fn consider(&self, change: &Change) -> Result<Option<Membership>, Refusal> {
        self.raft.may_change()?;
        if self.changes.asked.is_some() {
            return Err(ChangeRefused::UnderWay.into());
        }
        Ok(self.members.current().changed(change)?)
    }

    /// When a change that cannot begin is given up; one that is in the open batch has begun.
    pub(super) fn change_deadline(&self) -> Option<Micros> {
        let begins = self.changes.opened.is_some();
        let waiting = self.changes.asked.as_ref().filter(|asked| asked.next.is_some() && !begins);
        waiting.map(|asked| asked.at.after(self.config.raft.election_max))
    }

    fn refuse_change(&self, conn: ConnId, id: u64, refused: &Refusal, host: &mut dyn Host) {
        let (code, retry, text) = match refused {
            Refusal::Core(refused) => self.say(refused),
            Refusal::Senseless(senseless) => {
                let code = match senseless {
                    Senseless::OtherDisk { .. } => Code::DUPLICATE_NODE,
                    _ => Code::BAD_CHANGE,
                };
                (code, Micros(0), senseless.to_string())
            }
        };
        let leader = match code {
            Code::NOT_LEADER => self.leader_address(),
            _ => String::new(),
        };
        if let Some(out) = host.client(conn) {
            let of = RefusedOf::Admin(id);
            Response::Refused { of, code, retry, leader: &leader, text: &text }.encode(out);
        }
    }

    /// The core's refusal in words, with the names of nodes.
    fn say(&self, refused: &ChangeRefused) -> (Code, Micros, String) {
        let name = |id: &NodeId| match self.members.member(*id) {
            Some(member) => member.name.clone(),
            None => id.to_string(),
        };
        match refused {
            ChangeRefused::NotLeader => (Code::NOT_LEADER, RETRY, String::new()),
            ChangeRefused::NotReady => (Code::NOT_READY, RETRY, String::new()),
            ChangeRefused::UnderWay => {
                let text = "another change is under way; try again when it has ended";
                (Code::CHANGE_UNDER_WAY, RETRY, text.to_owned())
            }
            ChangeRefused::NotCaughtUp { node, behind } => {
                let text = format!(
                    "{} has not caught up, it lacks about {behind} entries; try again later",
                    name(node)
                );
                (Code::NOT_CAUGHT_UP, RETRY, text)
            }
            ChangeRefused::NoQuorum { silent } => {
                let silent: Vec<String> = silent.iter().map(name).collect();
                let text = format!(
                    "the group could not commit without {}, which cannot be reached; start it, or \
                     remove it first",
                    silent.join(" or ")
                );
                (Code::UNSAFE_CHANGE, RETRY, text)
            }
        }
    }

    /// Refuses what cannot begin after all: somebody it needs has not answered since, or not caught
    /// up.
    pub(super) fn refuse_late_change(&mut self, now: Micros, host: &mut dyn Host) {
        if self.change_deadline().is_none_or(|due| now < due) {
            return;
        }
        let Some(Asked { conn, id, next: Some(next), at, .. }) = self.changes.asked.take() else {
            return;
        };
        let why = self.raft.check_change(&next.configuration(), at).err();
        let why = why.unwrap_or(ChangeRefused::UnderWay);
        self.refuse_change(conn, id, &why.into(), host);
    }

    /// Appends the configuration that is due, if one is and can be the first of its batch.
    pub(super) fn propose_configuration(&mut self) {
        if self.log.open_entries() > 0 {
            return;
        }
        let next = if self.raft.change_ends() {
            self.members.current().ended()
        } else {
            let Some(Asked { next: Some(next), at, .. }) = &self.changes.asked else { return };
            if self.raft.check_change(&next.configuration(), *at).is_err() {
                return;
            }
            next.clone()
        };
        let header = EntryHeader { kind: kind::CONFIGURATION, ..EntryHeader::default() };
        if self.log.push(&header, &next.encode()).is_ok() {
            self.changes.opened = Some(next);
        }
    }

    /// The batch that begins at `first` was sealed; what its first entry means for the core.
    pub(super) fn sealed_configuration(&mut self, first: Index) -> Option<Configuration> {
        let opened = self.changes.opened.take()?;
        let configuration = opened.configuration();
        if let Some(asked) = &mut self.changes.asked {
            asked.next = None;
        }
        self.members.append(first, opened);
        self.members_news = true;
        Some(configuration)
    }

    /// The batch that arrived takes the place of everything behind `prev`.
    pub(super) fn accept_members(&mut self, prev: Index) {
        self.members_news |= self.members.truncate_after(prev);
        if let Some(arriving) = self.arriving_members.take() {
            self.members.append(prev.next(), arriving);
            self.members_news = true;
        }
    }

    /// Tells the host whom to connect to.
    pub(super) fn tell_members(&mut self, host: &mut dyn Host) {
        if std::mem::take(&mut self.members_news) {
            host.members(&self.members);
        }
    }

    /// Answers who waits, when all of the change is committed.
    pub(super) fn answer_change(&mut self, host: &mut dyn Host) {
        if self.changes.asked.as_ref().is_none_or(|asked| asked.next.is_some()) {
            return;
        }
        if self.raft.may_change().is_ok() {
            self.say_done(host);
        }
    }

    fn say_done(&mut self, host: &mut dyn Host) {
        let Some(Asked { conn, id, name, .. }) = self.changes.asked.take() else { return };
        let node = self.members.current().number_of(&name).unwrap_or(NodeId(0));
        if let Some(out) = host.client(conn) {
            Response::Admin { id, changed: true, node, index: self.commit }.encode(out);
        }
    }

    /// This node leads no longer: what is appended may be committed by the next leader, or not. If
    /// it is because its own vote is gone, and that is committed, what was asked for is done.
    pub(super) fn give_up_change(&mut self, host: &mut dyn Host) {
        self.changes.opened = None;
        let votes = self.raft.configuration().is_voter(self.config.raft.id);
        let is_appended = |asked: &Asked| asked.next.is_none();
        if self.changes.asked.as_ref().is_some_and(is_appended)
            && !votes
            && self.members.is_settled()
        {
            return self.say_done(host);
        }
        let Some(Asked { conn, id, next, .. }) = self.changes.asked.take() else { return };
        let code = if next.is_some() { Code::NOT_LEADER } else { Code::LEADER_CHANGED };
        let leader = self.leader_address();
        if let Some(out) = host.client(conn) {
            let of = RefusedOf::Admin(id);
            Response::Refused { of, code, retry: RETRY, leader: &leader, text: "" }.encode(out);
        }
    }
}

/// Why a change is not begun.
enum Refusal {
    Core(ChangeRefused),
    Senseless(Senseless),
}

impl From<ChangeRefused> for Refusal {
    fn from(refused: ChangeRefused) -> Refusal {
        Refusal::Core(refused)
    }
}

impl From<Senseless> for Refusal {
    fn from(senseless: Senseless) -> Refusal {
        Refusal::Senseless(senseless)
    }
}
