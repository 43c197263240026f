//! A simulated client: the real session, and programs of handles that run over it.
//!
//! A program is a future that an executor or a thread would run; here all of a client's are polled
//! whenever something may have come for one. Their handles submit to a [`Desk`], and this file
//! carries orders from the desk to the session and answers back.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use margay_log::id::{GroupId, Index, Micros};
use margay_log::rng::Rng;

use super::workload::Program;
use crate::client::session::{Call, CallId, Output, Session, SessionConfig, SessionState};
use crate::machine::{Code, Filter, Level, NoticeState, ResourceId};
use crate::replica::ConnId;
use crate::resource::reply::Completer;
use crate::resource::subscription::{Delivery, Feed, Subscription};
use crate::resource::{Answer, Failure, Reply, Submit};

/// How long a simulated call may take.
const PATIENCE: Micros = Micros::from_millis(5_000);

/// What the programs have asked for and the session has not heard of yet.
enum Order {
    Call(Call, Completer<Answer>),
    /// With the token that is known; 0 for none.
    Notice(ResourceId, Index, u64, Completer<NoticeState>),
    End(ResourceId, Index, Completer<NoticeState>),
    Subscribe(ResourceId, Option<(Index, u32)>, Vec<u8>, Feed),
}

#[derive(Default)]
struct Shared {
    orders: VecDeque<Order>,
    now: Micros,
    unique: u64,
    /// How many sessions have ended.
    expired: u64,
    /// Until when what the session holds is certainly its own.
    safe_until: Option<Micros>,
    /// No new work: finish what is under way.
    closing: bool,
    /// Nothing will come any more, not even a last look.
    leaving: bool,
    sleeping: Option<Micros>,
}

/// Where handles submit. Cloned into every handle of the programs.
#[derive(Clone, Default)]
pub(super) struct Desk(Arc<Mutex<Shared>>);

impl Desk {
    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Virtual time, in microseconds.
    pub(super) fn now(&self) -> u64 {
        self.shared().now.0
    }

    /// How many sessions of this client have ended so far.
    pub(super) fn expired(&self) -> u64 {
        self.shared().expired
    }

    /// Until when what the session holds is certainly its own.
    pub(super) fn safe_until(&self) -> u64 {
        self.shared().safe_until.map_or(0, |at| at.0)
    }

    /// Whether the programs should come to their end.
    pub(super) fn closing(&self) -> bool {
        self.shared().closing
    }

    /// Whether nothing will be answered any more.
    pub(super) fn leaving(&self) -> bool {
        self.shared().leaving
    }

    /// Resolves when the time has come. Whoever sleeps says so again each time programs run.
    pub(super) async fn sleep_until(&self, at: u64) {
        std::future::poll_fn(|_| {
            let mut shared = self.shared();
            if shared.now.0 >= at {
                return Poll::Ready(());
            }
            let first = shared.sleeping.map_or(Micros(at), |other| other.min(Micros(at)));
            shared.sleeping = Some(first);
            Poll::Pending
        })
        .await;
    }
}

impl Submit for Desk {
    fn command(
        &self,
        kind: u8,
        schema: u16,
        resource: ResourceId,
        payload: Vec<u8>,
    ) -> Reply<Answer> {
        let (completer, reply) = Reply::channel();
        let call = Call::Command { kind, schema, resource, payload };
        self.shared().orders.push_back(Order::Call(call, completer));
        reply
    }

    fn query(
        &self,
        level: Level,
        kind: u8,
        schema: u16,
        resource: ResourceId,
        payload: Vec<u8>,
    ) -> Reply<Answer> {
        let (completer, reply) = Reply::channel();
        let call = Call::Query { level, kind, schema, resource, payload };
        self.shared().orders.push_back(Order::Call(call, completer));
        reply
    }

    fn await_token(&self, resource: ResourceId, waiter: Index, seen: u64) -> Reply<NoticeState> {
        let (completer, reply) = Reply::channel();
        self.shared().orders.push_back(Order::Notice(resource, waiter, seen, completer));
        reply
    }

    fn await_end(&self, resource: ResourceId, waiter: Index) -> Reply<NoticeState> {
        let (completer, reply) = Reply::channel();
        self.shared().orders.push_back(Order::End(resource, waiter, completer));
        reply
    }

    fn subscribe(
        &self,
        resource: ResourceId,
        after: Option<(Index, u32)>,
        filter: Filter,
    ) -> Subscription {
        let (feed, subscription) = Subscription::channel();
        let mut encoded = Vec::new();
        filter.encode(&mut encoded);
        self.shared().orders.push_back(Order::Subscribe(resource, after, encoded, feed));
        subscription
    }

    fn unique(&self) -> u64 {
        let mut shared = self.shared();
        shared.unique += 1;
        shared.unique
    }
}

/// See the module's text.
pub(super) struct Client {
    pub session: Session,
    pub link: Option<ConnId>,
    /// Whether the link is up, or still being made.
    pub linked: bool,
    pub desk: Desk,
    programs: Vec<Program>,
    calls: BTreeMap<CallId, Completer<Answer>>,
    feeds: BTreeMap<CallId, Feed>,
    notices: Vec<(ResourceId, Index, u64, Completer<NoticeState>)>,
    ends: Vec<(ResourceId, Index, Completer<NoticeState>)>,
    /// Something came that the programs have not seen.
    told: bool,
    /// When `Event::Client` was last scheduled for.
    pub wake: Option<Micros>,
}

impl Client {
    pub(super) fn new(
        rng: &mut Rng,
        endpoints: Vec<String>,
        now: Micros,
        programs: impl FnOnce(&Desk) -> Vec<Program>,
    ) -> Client {
        let key = (u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64())).to_le_bytes();
        let mut config = SessionConfig::new(GroupId(0), endpoints, key, rng.next_u64());
        let longest = if rng.chance(1, 2) { 4_000 } else { 500 };
        config.timeout = Micros::from_millis(1_000 + rng.below(longest));
        config.silence = Micros::from_millis(300 + rng.below(700));
        let desk = Desk::default();
        Client {
            session: Session::new(config, now),
            link: None,
            linked: false,
            programs: programs(&desk),
            desk,
            calls: BTreeMap::new(),
            feeds: BTreeMap::new(),
            notices: Vec::new(),
            ends: Vec::new(),
            told: false,
            wake: None,
        }
    }

    /// Whether all programs have come to their end.
    pub(super) fn is_done(&self) -> bool {
        self.programs.is_empty()
    }

    /// The programs should come to their end.
    pub(super) fn close(&mut self) {
        self.desk.shared().closing = true;
    }

    /// The client goes: all that is under way ends now, and no new work begins.
    pub(super) fn leave(&mut self, now: Micros) {
        self.desk.shared().closing = true;
        self.desk.shared().leaving = true;
        self.session.close(now);
        self.told = true;
    }

    /// Lets the programs run as far as they can, and gives the session what they asked for.
    pub(super) fn run(&mut self, now: Micros) {
        {
            let mut shared = self.desk.shared();
            shared.now = now;
            shared.safe_until = self.session.safe_until();
            shared.sleeping = None;
        }
        self.told = false;
        let mut context = Context::from_waker(Waker::noop());
        self.programs.retain_mut(|program| program.as_mut().poll(&mut context).is_pending());
        loop {
            let order = self.desk.shared().orders.pop_front();
            let Some(order) = order else { break };
            let deadline = now.after(PATIENCE);
            match order {
                Order::Call(call, completer) => {
                    let id = self.session.submit(now, call, deadline);
                    self.calls.insert(id, completer);
                }
                Order::Subscribe(resource, after, filter, feed) => {
                    let call = Call::Subscribe { resource, after, filter };
                    let id = self.session.submit(now, call, Micros(u64::MAX));
                    self.feeds.insert(id, feed);
                }
                Order::Notice(resource, waiter, seen, completer) => {
                    self.notices.push((resource, waiter, seen, completer));
                }
                Order::End(resource, waiter, completer) => {
                    self.ends.push((resource, waiter, completer));
                }
            }
        }
        self.settle_notices();
    }

    /// What became of the waits that somebody asked about.
    fn settle_notices(&mut self) {
        for (resource, waiter, seen, completer) in std::mem::take(&mut self.notices) {
            match self.session.news_of(resource, waiter, seen) {
                Some(news) => {
                    completer.complete(news.map_err(Failure::from));
                    self.told = true;
                }
                None => self.notices.push((resource, waiter, seen, completer)),
            }
        }
        let is_sure = self.session.state() == Some(SessionState::Connected);
        for (resource, waiter, completer) in std::mem::take(&mut self.ends) {
            if is_sure && self.session.holding(resource, waiter).is_some() {
                self.ends.push((resource, waiter, completer));
            } else {
                completer.complete(Ok(NoticeState::Lost));
                self.told = true;
            }
        }
    }

    /// Takes what the session has to tell the programs. What concerns the connection is returned.
    pub(super) fn take_outputs(&mut self) -> Vec<Output> {
        let mut rest = Vec::new();
        while let Some(output) = self.session.poll() {
            self.told = true;
            match output {
                Output::Finished(call, result) => self.finish(call, result),
                Output::Event { subscription, index, ordinal, kind, payload } => {
                    if let Some(feed) = self.feeds.get(&subscription) {
                        feed.push(Delivery::Event { index, ordinal, kind, payload });
                    }
                }
                Output::Lagged { subscription, oldest } => {
                    if let Some(feed) = self.feeds.get(&subscription) {
                        feed.push(Delivery::Lagged { oldest });
                    }
                }
                Output::Ended { subscription, failure } => {
                    if let Some(feed) = self.feeds.remove(&subscription) {
                        feed.end(failure);
                    }
                }
                Output::State(SessionState::Expired) => {
                    self.desk.shared().expired += 1;
                    for (_, _, _, completer) in self.notices.drain(..) {
                        completer.complete(Err(Failure::from(Code::SESSION_EXPIRED)));
                    }
                }
                Output::State(_) | Output::Lost(_) | Output::Notice(_) | Output::Status(..) => {}
                Output::Connect(_) | Output::Disconnect => rest.push(output),
            }
        }
        rest
    }

    fn finish(&mut self, call: CallId, result: Result<Answer, Failure>) {
        if let Some(completer) = self.calls.remove(&call) {
            completer.complete(result);
        } else if let Err(failure) = result
            && let Some(feed) = self.feeds.remove(&call)
        {
            feed.end(failure);
        }
    }

    /// Whether an answer or an order waits that a program or the session has not seen.
    pub(super) fn has_news(&self) -> bool {
        !self.desk.shared().orders.is_empty() || self.told
    }

    /// When the session or a program must be looked at next.
    pub(super) fn deadline(&self) -> Option<Micros> {
        let sleeping = self.desk.shared().sleeping;
        [self.session.deadline(), sleeping].into_iter().flatten().min()
    }
}
