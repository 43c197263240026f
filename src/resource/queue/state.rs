//! What a queue does: hands out tasks, takes them back, buries them. What it answers is in
//! `page.rs`.

use super::tasks::{Lease, Letters, Place, Task, Tasks};
use super::*;
use crate::machine::bytes;
use crate::machine::clock::Due;
use crate::machine::{Commit, Effects, Pair, Query, SessionId};
use crate::resource::claims::{Ask, Moment, delegate_to_claims};
use crate::resource::codec::{Operation, Scratch, access, number_or};
use crate::resource::snapshot::Items;
use crate::resource::waiters::Waiter;
use crate::resource::waste::Waste;
use crate::resource::{Created, ENDED_AT_ONCE, Firing};
use imbl::OrdMap;
use margay_log::id::{Index, Micros};

/// Waits, and delays and leases, whose ends one command looks after, at most; timers do the rest.
const DUE_PER_COMMAND: usize = 256;

/// See the module above. A take holds its name as a claim for as long as any of its tasks is
/// handed out.
#[derive(Clone, Debug)]
pub(super) struct QueueState {
    /// From the options: 0 for as often as it takes.
    deliveries_max: u32,
    pub(super) claims: Claims,
    /// The leases, in milliseconds, that takes which wait have asked for.
    pub(super) asked: OrdMap<Index, u64>,
    pub(super) tasks: Tasks,
    pub(super) dead: Letters,
    cleared: Vec<Tasks>,
}

/// With options; without any a task is handed out as often as it takes.
pub(in super::super) fn create(options: &[u8]) -> Created {
    let deliveries_max = number_or(0, options)?;
    Ok(Box::new(QueueState {
        deliveries_max,
        claims: Claims::default(),
        asked: OrdMap::new(),
        tasks: Tasks::default(),
        dead: Letters::default(),
        cleared: Vec::new(),
    }))
}

impl Resource for QueueState {
    fn apply(&mut self, commit: &Commit<'_>, effects: &mut Effects) {
        self.settle(commit.into(), effects);
        if let Err(code) = self.try_apply(commit, effects) {
            effects.refuse(code, "");
        }
        self.serve(commit.into(), effects);
    }

    fn query(&self, query: &Query<'_>, effects: &mut Effects) {
        if let Err(code) = self.try_query(query, &mut effects.reply) {
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
        self.settle(at, effects);
        let (mut released, names) = (0, self.claims.some_of(session));
        for name in names {
            if released >= ENDED_AT_ONCE {
                break;
            }
            released += 1 + self.tasks.of_take(name).count();
            self.claims.end(&[name]);
            self.asked.remove(&name);
            self.give_back_all(name, at, effects);
        }
        self.serve(at, effects);
        released
    }

    fn deleted(&mut self, firing: &Firing, limit: usize, effects: &mut Effects) -> bool {
        if self.tasks.len() > 0 {
            self.cleared.push(std::mem::take(&mut self.tasks));
        }
        self.claims.lose_some(limit, firing.into(), effects)
    }

    fn next_timer(&self) -> Option<Due> {
        [self.claims.next_timer(), self.tasks.next_timer()].into_iter().flatten().min()
    }

    fn fire(&mut self, firing: &Firing, effects: &mut Effects) {
        let at = Moment::from(firing);
        if self.claims.next_timer().is_some_and(|due| Some(due) == self.next_timer()) {
            self.drop_one_due(at, effects);
        } else {
            self.end_one_due(at, effects);
        }
        // Others that are due may still be in the way; their timers come next.
        if self.claims.next_timer().is_none_or(|due| due.at > at.now) {
            self.serve(at, effects);
        }
    }

    delegate_to_claims!(claims);

    fn take_waste(&mut self) -> Option<Box<dyn Waste>> {
        Some(Box::new(self.cleared.pop()?))
    }

    fn freeze(&self, after: Option<&[u8]>, items: &mut Items<'_>) -> Option<Vec<u8>> {
        self.freeze_behind(after, items)
    }

    fn thaw(&mut self, item: &[u8], applied: Index) -> Result<(), Code> {
        self.thaw_item(item, applied)
    }

    fn boxed_clone(&self) -> Box<dyn Resource> {
        Box::new(self.clone())
    }
}

impl QueueState {
    /// What is due is over, as far as one command goes; then takes that wait get what there is.
    fn settle(&mut self, at: Moment, effects: &mut Effects) {
        for _ in 0..DUE_PER_COMMAND {
            if !self.drop_one_due(at, effects) {
                break;
            }
        }
        for _ in 0..DUE_PER_COMMAND {
            if !self.end_one_due(at, effects) {
                break;
            }
        }
        self.serve(at, effects);
    }

    fn drop_one_due(&mut self, at: Moment, effects: &mut Effects) -> bool {
        let told = effects.notices.len();
        let dropped = self.claims.drop_one_due(at, effects);
        self.forget_over(told, effects);
        dropped
    }

    /// Takes that were told that they are over have left nothing.
    fn forget_over(&mut self, told: usize, effects: &Effects) {
        for notice in effects.notices[told..].iter().filter(|notice| notice.state.is_final()) {
            self.asked.remove(&notice.waiter);
        }
    }

    /// The next delay or lease that is due ends.
    fn end_one_due(&mut self, at: Moment, effects: &mut Effects) -> bool {
        let Some(name) = self.tasks.first_due(at.now) else { return false };
        match self.tasks.get(name).map(|task| task.place) {
            Some(Place::Leased(lease)) => {
                self.give_back(name, 0, at, effects);
                self.end_take(lease.take, true, at, effects);
            }
            _ => self.tasks.put(name, Place::Ready),
        }
        true
    }

    /// Hands out to takes that wait, in order.
    fn serve(&mut self, at: Moment, effects: &mut Effects) {
        while self.can_hand_out()
            && let Some((name, waiter)) = self.claims.waiters.first()
        {
            let lease_ms = self.asked.remove(&name).unwrap_or(1);
            if self.claims.drop_if_due(name, at, effects) {
                continue;
            }
            self.claims.waiters.remove(name);
            self.claims.grant(name, Waiter { amount: 1, ..waiter }, at, effects);
            self.hand_out(name, waiter.amount, lease_ms, at);
        }
    }

    fn can_hand_out(&self) -> bool {
        self.tasks.first_ready().is_some() && self.tasks.leased() < LEASED_MAX
    }

    fn hand_out(&mut self, take: Index, max: u64, lease_ms: u64, at: Moment) {
        let due = at.now.after(Micros::from_millis(lease_ms));
        let mut bytes = 0;
        for _ in 0..max {
            let Some(name) = self.tasks.first_ready() else { return };
            let size = self.tasks.get(name).map_or(0, |task| task.pair.size());
            if bytes > 0 && bytes + size > ANSWER_BYTES {
                return;
            }
            bytes += size;
            self.tasks.put(name, Place::Leased(Lease { take, due }));
        }
    }

    /// A take none of whose tasks is handed out any more is over.
    fn end_take(&mut self, take: Index, lost: bool, at: Moment, effects: &mut Effects) {
        if self.tasks.of_take(take).next().is_some() {
            return;
        }
        if lost {
            self.claims.lose(take, at, effects);
        } else {
            self.claims.release(take, at, effects);
        }
    }

    fn give_back_all(&mut self, take: Index, at: Moment, effects: &mut Effects) {
        let all: Vec<Index> = self.tasks.of_take(take).collect();
        for name in all {
            self.give_back(name, 0, at, effects);
        }
    }

    /// A task can be had again, or is dead.
    fn give_back(&mut self, name: Index, delay_ms: u64, at: Moment, effects: &mut Effects) {
        let Some(task) = self.tasks.get(name) else { return };
        if self.deliveries_max == 0 || task.deliveries < self.deliveries_max {
            let until = at.now.after(Micros::from_millis(delay_ms));
            let place = if delay_ms == 0 { Place::Ready } else { Place::Delayed(until) };
            return self.tasks.put(name, place);
        }
        let Some(task) = self.tasks.remove(name) else { return };
        effects.event(at.resource, DIED, None, Some(task.pair.clone()));
        self.dead.insert(name, task);
    }

    /// The task, where the session has it under this token.
    fn leased(&self, task: u64, token: u64, commit: &Commit<'_>) -> Result<(Index, Lease), Code> {
        let name = Index(task);
        let place = self.tasks.get(name).map(|task| task.place);
        let Some(Place::Leased(lease)) = place else { return Err(Code::LEASE_EXPIRED) };
        let held = self.claims.hold(lease.take);
        let ours = held.is_some_and(|held| (held.session, held.token) == (commit.session, token));
        if ours && lease.due > commit.time { Ok((name, lease)) } else { Err(Code::LEASE_EXPIRED) }
    }

    fn try_apply(&mut self, commit: &Commit<'_>, effects: &mut Effects) -> Result<(), Code> {
        let (payload, mut scratch) = (commit.payload, Scratch::new());
        let at = Moment::from(commit);
        match commit.schema {
            OfferV1::SCHEMA => {
                let offer = access::<OfferV1>(payload, &mut scratch)?;
                self.offer(&offer.value, offer.delay_ms.to_native(), at, effects)
            }
            PollV1::SCHEMA => {
                access::<PollV1>(payload, &mut scratch)?;
                self.poll(at, effects);
                Ok(())
            }
            CancelV1::SCHEMA => {
                let request = access::<CancelV1>(payload, &mut scratch)?.request.to_native();
                let named = (commit.session, request);
                let take = self.claims.name_of(named);
                self.claims.cancel(named, at, effects);
                if let Some(take) = take {
                    self.asked.remove(&take);
                    self.give_back_all(take, at, effects);
                }
                Ok(())
            }
            RemoveV1::SCHEMA => {
                let name = Index(access::<RemoveV1>(payload, &mut scratch)?.task.to_native());
                let task = self.tasks.get(name);
                let waits = task.is_some_and(|task| !matches!(task.place, Place::Leased(_)));
                if waits {
                    self.finish(name, at, effects);
                }
                effects.reply.push(u8::from(waits));
                Ok(())
            }
            ClearV1::SCHEMA => {
                access::<ClearV1>(payload, &mut scratch)?;
                let (count, cleared) = self.tasks.clear();
                self.cleared.push(cleared);
                if count > 0 {
                    effects.event(at.resource, CLEARED, None, None);
                }
                bytes::put_u64(&mut effects.reply, count);
                Ok(())
            }
            _ => self.try_apply_to_tasks(commit, effects),
        }
    }

    fn try_apply_to_tasks(
        &mut self,
        commit: &Commit<'_>,
        effects: &mut Effects,
    ) -> Result<(), Code> {
        let (payload, mut scratch) = (commit.payload, Scratch::new());
        let at = Moment::from(commit);
        match commit.schema {
            TakeV1::SCHEMA => {
                let take = access::<TakeV1>(payload, &mut scratch)?;
                self.take(take, commit, effects)?;
            }
            AckV1::SCHEMA => {
                let ack = access::<AckV1>(payload, &mut scratch)?;
                let (task, token) = (ack.task.to_native(), ack.token.to_native());
                let (name, lease) = self.leased(task, token, commit)?;
                self.finish(name, at, effects);
                self.end_take(lease.take, false, at, effects);
            }
            NackV1::SCHEMA => {
                let nack = access::<NackV1>(payload, &mut scratch)?;
                let (task, token) = (nack.task.to_native(), nack.token.to_native());
                let (name, lease) = self.leased(task, token, commit)?;
                self.give_back(name, nack.delay_ms.to_native(), at, effects);
                self.end_take(lease.take, false, at, effects);
            }
            ExtendV1::SCHEMA => {
                let extend = access::<ExtendV1>(payload, &mut scratch)?;
                let (task, token) = (extend.task.to_native(), extend.token.to_native());
                let (name, lease) = self.leased(task, token, commit)?;
                let due = at.now.after(Micros::from_millis(extend.lease_ms.to_native()));
                self.tasks.put(name, Place::Leased(Lease { due, ..lease }));
            }
            ReviveV1::SCHEMA => {
                let name = Index(access::<ReviveV1>(payload, &mut scratch)?.task.to_native());
                let size = self.dead.get(name).map(|task| task.pair.size());
                if size.is_some_and(|size| !self.fits(size)) {
                    return Err(Code::QUEUE_FULL);
                }
                effects.reply.push(u8::from(size.is_some()));
                if let Some(mut task) = self.dead.remove(name) {
                    Tasks::forget_deliveries(&mut task);
                    self.tasks.insert(name, task);
                }
            }
            _ => return Err(Code::BAD_KIND),
        }
        Ok(())
    }

    pub(super) fn fits(&self, more: usize) -> bool {
        self.tasks.len() < TASKS_MAX && self.tasks.bytes() + more as u64 <= BYTES_MAX
    }

    fn offer(
        &mut self,
        value: &[u8],
        delay_ms: u64,
        at: Moment,
        effects: &mut Effects,
    ) -> Result<(), Code> {
        let pair = Pair::new(&at.index.0.to_be_bytes(), value);
        if !self.fits(pair.size()) {
            return Err(Code::QUEUE_FULL);
        }
        let until = at.now.after(Micros::from_millis(delay_ms));
        let place = if delay_ms == 0 { Place::Ready } else { Place::Delayed(until) };
        self.tasks.insert(at.index, Task { pair: pair.clone(), deliveries: 0, place });
        effects.event(at.resource, OFFERED, Some(pair), None);
        bytes::put_u64(&mut effects.reply, at.index.0);
        Ok(())
    }

    fn poll(&mut self, at: Moment, effects: &mut Effects) {
        let first = self.tasks.first_ready();
        self.put_first(&mut effects.reply);
        if let Some(name) = first {
            self.finish(name, at, effects);
        }
    }

    /// A task is gone for good.
    fn finish(&mut self, name: Index, at: Moment, effects: &mut Effects) {
        if let Some(task) = self.tasks.remove(name) {
            effects.event(at.resource, REMOVED, None, Some(task.pair));
        }
    }

    fn take(
        &mut self,
        take: &ArchivedTakeV1,
        commit: &Commit<'_>,
        effects: &mut Effects,
    ) -> Result<(), Code> {
        let (name, at) = (commit.index, Moment::from(commit));
        let (max, lease_ms) = (take.max.to_native(), take.lease_ms.to_native());
        let free = self.can_hand_out() && self.claims.waiting(at.now) == 0;
        let amount = if free { 1 } else { max.into() };
        let ask = Ask::new(commit.session, take.request, amount, &take.wait_ms);
        let told = effects.notices.len();
        let asked = self.claims.ask(ask, free, at, effects);
        // One of the same request may have been over.
        self.forget_over(told, effects);
        match asked? {
            GRANTED => {
                self.hand_out(name, max.into(), lease_ms, at);
                self.put_tasks(self.tasks.of_take(name), &mut effects.reply);
            }
            WAITING => drop(self.asked.insert(name, lease_ms)),
            _ => {}
        }
        Ok(())
    }
}
