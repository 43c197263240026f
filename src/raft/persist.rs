//! What a node says, it says in its current term: so it waits until term and vote are durable.
//!
//! What waits is replaced by newer messages of its kind, and dropped with the role (`become_role`).
//!
//! Invariant: at most one [`Output::Persist`] per step.

use std::mem;

use margay_log::id::{NodeId, Term, Ticket};

use super::Raft;
use super::message::{Body, Message, Output};

impl Raft {
    /// Says something in the current term, as soon as that is durable.
    pub(super) fn send(&mut self, to: NodeId, body: Body, out: &mut Vec<Output>) {
        self.send_in(self.term, to, body, out);
    }

    pub(super) fn send_in(&mut self, term: Term, to: NodeId, body: Body, out: &mut Vec<Output>) {
        let message = Message { term, body };
        if self.is_persisted() {
            out.push(Output::Send { to, message });
            return;
        }
        let kind = mem::discriminant(&message.body);
        let same =
            |held: &&mut (NodeId, Message)| held.0 == to && mem::discriminant(&held.1.body) == kind;
        match self.held.iter_mut().find(same) {
            Some(older) => older.1 = message,
            None => self.held.push((to, message)),
        }
    }

    /// Whether term and vote are durable.
    pub(super) fn is_persisted(&self) -> bool {
        !self.persist_owed && self.persist_durable == self.persist_issued
    }

    /// At most one `Persist` per step.
    pub(super) fn persist(&mut self, out: &mut Vec<Output>) {
        if mem::take(&mut self.persist_owed) {
            self.persist_issued = Ticket(self.persist_issued.0 + 1);
            let (ticket, term, vote) = (self.persist_issued, self.term, self.vote);
            out.push(Output::Persist { ticket, term, vote });
        }
    }

    pub(super) fn on_persisted(&mut self, ticket: Ticket, out: &mut Vec<Output>) {
        assert!(ticket <= self.persist_issued, "{ticket} is durable and was never asked for");
        self.persist_durable = self.persist_durable.max(ticket);
        if !self.is_persisted() {
            return;
        }
        for (to, message) in self.held.drain(..) {
            out.push(Output::Send { to, message });
        }
        self.on_own_vote_durable(out);
    }
}
