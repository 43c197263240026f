//! What sessions hold of a resource, and what they wait for: the state that everything shares that
//! is granted in turn. A lock grants its one permit, a read-write lock all of them to a writer and
//! one to a reader, a semaphore as many as are asked for; barrier, latch and election decide
//! themselves when a turn has come.
//!
//! - First come, first served: whoever asks waits behind all who wait, however little it asks for.
//! - A hold or a wait belongs to a *request* of a session: requests that share a session wait for
//!   each other like strangers. A hold is named by the index of the command that asked.
//! - Every grant carries a token: the index of the entry that granted it. Tokens never fall; those
//!   of exclusive grants rise strictly. Grants of one entry share theirs: they hold together.
//! - Each change is a notice; all that is held or waited for is listed at attach.

use super::waiters::{Waiter, Waiters};
use super::{Firing, HOLDINGS_MAX};
use crate::machine::bytes;
use crate::machine::clock::Due;
use crate::machine::{Code, Commit, Effects, LogTime, NoticeState, ResourceId, SessionId};
use imbl::OrdMap;
use margay_log::id::{Index, Micros};
use rkyv::option::ArchivedOption;
use rkyv::primitive::ArchivedU64;

mod frozen;
pub(super) mod handle;
mod involved;
mod turns;

use frozen::ITEM_OWN;
pub(super) use involved::delegate_to_claims;
pub(super) use turns::{Rules, Turns};

/// Holds of one resource, at most.
pub(super) const HOLDS_MAX: usize = 10_000;
/// Waits that one entry ends or grants, each, at most; timers do the rest.
const TURNS_PER_ENTRY: usize = 256;
/// What one grant can amount to, and all permits there are.
pub(super) const PERMITS_MAX: u64 = u32::MAX as u64;
/// Longest wait, in milliseconds: a year.
pub const WAIT_MS_MAX: u64 = 365 * 24 * 3_600 * 1_000;

/// Answer: not to be had now, and it was not wished to wait.
pub const NOT_ACQUIRED: u8 = 0;
/// Answer: held from now on.
pub const GRANTED: u8 = 1;
/// Answer: waiting; the outcome comes as a notice.
pub const WAITING: u8 = 2;

/// Defines the operation that takes back a request; the same for all kinds.
macro_rules! cancel_operation {
    ($kind:expr) => {
        /// Takes back a request, whatever has become of it. Answers 0 where it neither waits nor
        /// holds, 1 where it waited, 2 where it held.
        #[derive(rkyv::Archive, rkyv::Serialize, Debug)]
        pub struct CancelV1 {
            /// The number it was asked with.
            pub request: u64,
        }
        $crate::resource::codec::operation!(CancelV1, $kind, 0x0301, "cancel");
        $crate::resource::codec::limits! { ArchivedCancelV1:; }
        impl $crate::resource::claims::handle::Cancel for CancelV1 {
            fn of(request: u64) -> CancelV1 {
                CancelV1 { request }
            }
        }
    };
}
pub(super) use cancel_operation;

/// Where and when something happens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) resource: ResourceId,
    pub(super) index: Index,
    pub(super) now: LogTime,
}

impl From<&Commit<'_>> for Moment {
    fn from(commit: &Commit<'_>) -> Moment {
        Moment { resource: commit.resource, index: commit.index, now: commit.time }
    }
}

impl From<&Firing> for Moment {
    fn from(firing: &Firing) -> Moment {
        Moment { resource: firing.resource, index: firing.index, now: firing.now }
    }
}

/// Something asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask {
    pub(super) session: SessionId,
    pub(super) request: u64,
    pub(super) amount: u64,
    /// How long to wait; 0 for not at all, `None` for as long as it takes.
    pub(super) wait_ms: Option<u64>,
}

impl Ask {
    /// As a session's command says it.
    pub(super) fn new(
        session: SessionId,
        request: ArchivedU64,
        amount: u64,
        wait_ms: &ArchivedOption<ArchivedU64>,
    ) -> Ask {
        let wait_ms = wait_ms.as_ref().map(|wait| wait.to_native());
        Ask { session, request: request.to_native(), amount, wait_ms }
    }
}

/// Something held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Hold {
    pub(super) session: SessionId,
    pub(super) request: u64,
    /// The index of the command that asked.
    pub(super) waiter: Index,
    pub(super) token: u64,
    pub(super) amount: u64,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Claims {
    holds: OrdMap<Index, Hold>,
    requests: OrdMap<(SessionId, u64), Index>,
    /// Sum over `holds`.
    taken: u64,
    pub(super) waiters: Waiters,
    /// The token of the last grant; 0 before the first.
    last_token: u64,
}

impl Claims {
    /// Permits that are out.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// How many holds there are.
    pub(super) fn holding(&self) -> usize {
        self.holds.len()
    }

    /// All holds, in order of the commands that asked.
    pub(super) fn holds(&self) -> impl Iterator<Item = &Hold> {
        self.holds.values()
    }

    /// The hold with this name.
    pub(super) fn hold(&self, waiter: Index) -> Option<&Hold> {
        self.holds.get(&waiter)
    }

    /// Whether this request may be granted at once where there are `total` permits.
    pub(super) fn is_free(&self, total: u64, amount: u64, now: LogTime) -> bool {
        self.fits(total, amount) && self.waiting(now) == 0
    }

    fn fits(&self, total: u64, amount: u64) -> bool {
        amount <= total.saturating_sub(self.taken) && self.holds.len() < HOLDS_MAX
    }

    /// Grants a request where it is `free`, else lets it wait. Writes the answer: how it ended
    /// ([`GRANTED`], [`WAITING`], [`NOT_ACQUIRED`]), token, name.
    pub(super) fn ask(
        &mut self,
        ask: Ask,
        free: bool,
        at: Moment,
        effects: &mut Effects,
    ) -> Result<u8, Code> {
        let Ask { session, request, amount, wait_ms } = ask;
        let named = (session, request);
        if let Some(index) = self.waiters.find(session, request) {
            self.drop_if_due(index, at, effects);
        }
        if self.requests.contains_key(&named) || self.waiters.find(session, request).is_some() {
            return Err(Code::ALREADY_HELD);
        }
        let is_kept = free || wait_ms != Some(0);
        if is_kept && effects.held >= HOLDINGS_MAX {
            return Err(Code::TOO_MANY_HOLDINGS);
        }
        let answer = if free {
            let waiter = Waiter { session, request, amount, due: None };
            self.grant(at.index, waiter, at, effects);
            GRANTED
        } else if wait_ms == Some(0) {
            NOT_ACQUIRED
        } else {
            let due = wait_ms.map(|wait| at.now.after(Micros::from_millis(wait)));
            self.waiters.push(at.index, Waiter { session, request, amount, due })?;
            effects.notice(session, at.resource, at.index, NoticeState::Waiting);
            WAITING
        };
        effects.reply.push(answer);
        bytes::put_u64(&mut effects.reply, if answer == GRANTED { self.last_token } else { 0 });
        bytes::put_u64(&mut effects.reply, at.index.0);
        Ok(answer)
    }

    /// The same, where all who wait may have to be granted at once: there must be room for them.
    pub(super) fn ask_to_pass(
        &mut self,
        ask: Ask,
        free: bool,
        at: Moment,
        effects: &mut Effects,
    ) -> Result<u8, Code> {
        if self.holds.len() + self.waiters.len() >= HOLDS_MAX {
            return Err(Code::TOO_MANY_WAITERS);
        }
        self.ask(ask, free, at, effects)
    }

    /// Grants `waiter`, which is no longer in the waiting list.
    pub(super) fn grant(&mut self, name: Index, by: Waiter, at: Moment, effects: &mut Effects) {
        let Waiter { session, request, amount, .. } = by;
        let token = at.index.0;
        assert!(token >= self.last_token, "tokens do not fall");
        self.last_token = token;
        self.insert(Hold { session, request, waiter: name, token, amount });
        effects.notice(session, at.resource, name, NoticeState::Granted { token });
    }

    /// There is news for a holder: the token of its hold is the index of this entry from now on.
    pub(super) fn touch(&mut self, waiter: Index, at: Moment, effects: &mut Effects) {
        let Some(hold) = self.holds.get_mut(&waiter) else { return };
        if hold.token == at.index.0 {
            return;
        }
        hold.token = at.index.0;
        self.last_token = at.index.0;
        let state = NoticeState::Granted { token: hold.token };
        effects.notice(hold.session, at.resource, waiter, state);
    }

    /// What is held belongs to another request of its session from now on, which must be free.
    pub(super) fn pass(&mut self, waiter: Index, request: u64) {
        let Some(hold) = self.holds.get_mut(&waiter) else { return };
        self.requests.remove(&(hold.session, hold.request));
        hold.request = request;
        let before = self.requests.insert((hold.session, request), waiter);
        assert!(before.is_none(), "a request names one hold");
    }

    fn insert(&mut self, hold: Hold) {
        self.taken += hold.amount;
        let named = self.requests.insert((hold.session, hold.request), hold.waiter);
        let held = self.holds.insert(hold.waiter, hold);
        assert!(named.is_none() && held.is_none(), "a request is granted once");
    }

    /// Takes a hold away, without telling anybody.
    pub(super) fn remove(&mut self, waiter: Index) -> Option<Hold> {
        let hold = self.holds.remove(&waiter)?;
        self.requests.remove(&(hold.session, hold.request));
        self.taken -= hold.amount;
        Some(hold)
    }

    /// The session gives back a hold of its own.
    pub(super) fn release(&mut self, waiter: Index, at: Moment, effects: &mut Effects) {
        if let Some(hold) = self.remove(waiter) {
            effects.notice(hold.session, at.resource, waiter, NoticeState::Released);
        }
    }

    /// Takes back a request: see `CancelV1`. Writes the answer.
    pub(super) fn cancel(&mut self, of: (SessionId, u64), at: Moment, effects: &mut Effects) {
        let waits = self.waiters.find(of.0, of.1);
        let waits = waits.filter(|index| !self.drop_if_due(*index, at, effects));
        let found = if let Some(index) = waits {
            self.waiters.remove(index);
            effects.notice(of.0, at.resource, index, NoticeState::Released);
            1
        } else if let Some(waiter) = self.requests.get(&of).copied() {
            self.release(waiter, at, effects);
            2
        } else {
            0
        };
        effects.reply.push(found);
    }

    /// Lets go of what is due and grants whatever fits, in order, where there are `total` permits.
    pub(super) fn settle(&mut self, total: u64, at: Moment, effects: &mut Effects) {
        self.drop_due(at, effects);
        self.serve(total, TURNS_PER_ENTRY, at, effects);
    }

    /// The next timer is due: one wait is over, or one whose turn has come is granted.
    pub(super) fn fire(&mut self, total: u64, at: Moment, effects: &mut Effects) {
        let is_due = |due: Due| due.at <= at.now;
        // Others that are due may be in the way of those whose turn seems to have come.
        if !self.drop_one_due(at, effects) || !self.waiters.next_timer().is_some_and(is_due) {
            self.serve(total, 1, at, effects);
        }
    }

    /// The next timer where there are `total` permits: at once, if somebody's turn has come.
    pub(super) fn next_timer_of(&self, total: u64) -> Option<Due> {
        let first = self.waiters.first();
        let owed = first.filter(|(_, waiter)| self.fits(total, waiter.amount));
        let at_once = |(index, _)| Due { at: LogTime(0), created: index };
        owed.map(at_once).or_else(|| self.waiters.next_timer())
    }

    /// Grants whatever fits, in order, up to `limit`; who is in the way and due is gone.
    fn serve(&mut self, total: u64, limit: usize, at: Moment, effects: &mut Effects) {
        for _ in 0..limit {
            let Some((index, waiter)) = self.waiters.first() else { return };
            if self.drop_if_due(index, at, effects) {
                continue;
            }
            if !self.fits(total, waiter.amount) {
                return;
            }
            self.waiters.remove(index);
            self.grant(index, waiter, at, effects);
        }
    }

    /// Grants all who wait.
    pub(super) fn serve_all(&mut self, at: Moment, effects: &mut Effects) {
        while self.holds.len() < HOLDS_MAX
            && let Some((index, waiter)) = self.waiters.first()
        {
            if !self.drop_if_due(index, at, effects) {
                self.waiters.remove(index);
                self.grant(index, waiter, at, effects);
            }
        }
    }

    /// Waits due at the moment are over, whether or not their timers have fired.
    pub(super) fn drop_due(&mut self, at: Moment, effects: &mut Effects) {
        for _ in 0..TURNS_PER_ENTRY {
            if !self.drop_one_due(at, effects) {
                return;
            }
        }
    }

    /// A wait is over if it is due. Returns whether it is.
    pub(super) fn drop_if_due(&mut self, index: Index, at: Moment, effects: &mut Effects) -> bool {
        let Some(waiter) = self.waiters.get(index) else { return false };
        let is_due = waiter.is_due(at.now);
        if is_due {
            self.waiters.remove(index);
            effects.notice(waiter.session, at.resource, index, NoticeState::TimedOut);
        }
        is_due
    }

    /// The next wait that is due is over.
    pub(super) fn drop_one_due(&mut self, at: Moment, effects: &mut Effects) -> bool {
        let Some((index, waiter)) = self.waiters.pop_due(at.now) else { return false };
        effects.notice(waiter.session, at.resource, index, NoticeState::TimedOut);
        true
    }

    /// Somebody's hold is taken away. Returns whether there was one.
    pub(super) fn lose(&mut self, waiter: Index, at: Moment, effects: &mut Effects) -> bool {
        let Some(hold) = self.remove(waiter) else { return false };
        effects.notice(hold.session, at.resource, waiter, NoticeState::Lost);
        true
    }

    /// The name of what a request holds or waits for.
    pub(super) fn name_of(&self, of: (SessionId, u64)) -> Option<Index> {
        self.requests.get(&of).copied().or_else(|| self.waiters.find(of.0, of.1))
    }

    /// A session is ending: some of its waits and holds are gone, and nobody is told.
    pub(super) fn end(&mut self, names: &[Index]) {
        for name in names {
            if self.waiters.remove(*name).is_none() {
                self.remove(*name);
            }
        }
    }

    /// Up to `limit` lose what they hold or wait for. Returns whether there are more.
    pub(super) fn lose_some(&mut self, limit: usize, at: Moment, effects: &mut Effects) -> bool {
        for _ in 0..limit {
            if self.drop_one_due(at, effects) {
                continue;
            }
            if let Some(name) = self.holds.get_min().map(|(name, _)| *name) {
                self.lose(name, at, effects);
            } else if let Some((name, waiter)) = self.waiters.first() {
                self.waiters.remove(name);
                effects.notice(waiter.session, at.resource, name, NoticeState::Lost);
            } else {
                return false;
            }
        }
        !self.holds.is_empty() || !self.waiters.is_empty()
    }

    /// Those who wait lose their places.
    pub(super) fn lose_waiting(&mut self, at: Moment, effects: &mut Effects) {
        for (index, waiter) in std::mem::take(&mut self.waiters).iter() {
            let is_due = waiter.is_due(at.now);
            let state = if is_due { NoticeState::TimedOut } else { NoticeState::Lost };
            effects.notice(waiter.session, at.resource, index, state);
        }
    }

    pub(super) fn next_timer(&self) -> Option<Due> {
        self.waiters.next_timer()
    }

    /// How many wait whose time-out has not passed.
    pub(super) fn waiting(&self, now: LogTime) -> u32 {
        u32::try_from(self.waiters.len_at(now)).expect("at most WAITERS_MAX")
    }
}
