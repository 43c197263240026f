//! Types whose state is claims and little else: lock, read-write lock, semaphore, barrier, latch.
//! They differ in what can be asked of them and in when a turn has come; all the rest is here.

use super::{Claims, Moment, delegate_to_claims};
use crate::machine::bytes::Reader;
use crate::machine::clock::Due;
use crate::machine::{Code, Commit, Effects, Query, SessionId};
use crate::resource::snapshot::Items;
use crate::resource::{Firing, Resource};
use margay_log::id::Index;
use std::fmt;

/// What is a type's own.
pub(in super::super) trait Rules:
    Clone + Send + Sync + fmt::Debug + 'static
{
    /// How many permits there are. None where turns come by commands alone.
    fn permits(&self) -> u64 {
        0
    }

    /// Applies a command. Whoever's turn has come then is granted.
    fn apply(
        &mut self,
        claims: &mut Claims,
        commit: &Commit<'_>,
        effects: &mut Effects,
    ) -> Result<(), Code>;

    /// Answers a query.
    fn query(&self, claims: &Claims, query: &Query<'_>, out: &mut Vec<u8>) -> Result<(), Code>;

    /// Writes items of its own; their first bytes are numbers from 16 on.
    fn freeze(&self, items: &mut Items<'_>) {
        let _ = items;
    }

    /// Takes back an item of its own, whose first byte is `tag`.
    fn thaw(&mut self, tag: u8, reader: &mut Reader<'_>) -> Result<(), Code> {
        let _ = (tag, reader);
        Err(Code::BAD_PAYLOAD)
    }

    /// Whether claims out of a snapshot can be.
    fn is_sound(&self, claims: &Claims) -> bool {
        let _ = claims;
        true
    }
}

/// The state of such a type.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Turns<R> {
    rules: R,
    claims: Claims,
}

impl<R: Rules> Turns<R> {
    /// Nobody holds or waits for anything.
    pub(in super::super) fn new(rules: R) -> Turns<R> {
        Turns { rules, claims: Claims::default() }
    }
}

impl<R: Rules> Resource for Turns<R> {
    fn apply(&mut self, commit: &Commit<'_>, effects: &mut Effects) {
        let at = Moment::from(commit);
        self.claims.settle(self.rules.permits(), at, effects);
        if let Err(code) = self.rules.apply(&mut self.claims, commit, effects) {
            effects.refuse(code, "");
        }
        self.claims.settle(self.rules.permits(), at, effects);
    }

    fn query(&self, query: &Query<'_>, effects: &mut Effects) {
        if let Err(code) = self.rules.query(&self.claims, query, &mut effects.reply) {
            effects.refuse(code, "");
        }
    }

    fn session_ended(
        &mut self,
        session: SessionId,
        commit: &Commit<'_>,
        effects: &mut Effects,
    ) -> usize {
        let at = Moment::from(commit);
        let names = self.claims.some_of(session);
        self.claims.end(&names);
        self.claims.settle(self.rules.permits(), at, effects);
        names.len()
    }

    fn deleted(&mut self, firing: &Firing, limit: usize, effects: &mut Effects) -> bool {
        self.claims.lose_some(limit, firing.into(), effects)
    }

    fn next_timer(&self) -> Option<Due> {
        self.claims.next_timer_of(self.rules.permits())
    }

    fn fire(&mut self, firing: &Firing, effects: &mut Effects) {
        self.claims.fire(self.rules.permits(), firing.into(), effects);
    }

    delegate_to_claims!(claims);

    fn freeze(&self, _after: Option<&[u8]>, items: &mut Items<'_>) -> Option<Vec<u8>> {
        self.rules.freeze(items);
        self.claims.freeze(items);
        None
    }

    fn thaw(&mut self, item: &[u8], applied: Index) -> Result<(), Code> {
        let mut reader = Reader::new(item);
        match reader.u8()? {
            tag if tag >= super::ITEM_OWN => self.rules.thaw(tag, &mut reader)?,
            tag => self.claims.thaw(tag, &mut reader, applied)?,
        }
        if !self.rules.is_sound(&self.claims) {
            return Err(Code::BAD_PAYLOAD);
        }
        reader.end()
    }

    fn boxed_clone(&self) -> Box<dyn Resource> {
        Box::new(self.clone())
    }
}
