//! The thread behind a client: a session per group in use, their connections, and the calls of all
//! threads.
//!
//! Everything the thread does begins with an [`Order`], from the application or from a connection's
//! thread, or with a deadline. Completing a call only wakes whoever waits; no code of the
//! application runs here.
//!
//! Why connections have threads of their own: see `net.rs`. `polling` would save them, but the only
//! way to give it a socket is an unsafe function, and there is no unsafe code above the log.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use margay_log::id::{ClusterId, GroupId, Index, Micros};

use super::exchange::Exchange;
use super::net::{ConnectionId, Heard};
use super::session::{Call, NEVER, Recovery, SessionConfig, SessionState};
use super::states::{StateChange, StateFeed};
use crate::machine::{Code, NoticeState, Outcome, ResourceId};
use crate::resource::{Answer, Completer, Failure, Feed};
use crate::tls::Tls;

/// Orders that wait for the thread, at most. An application that is further ahead is refused.
pub(super) const ORDERS_MAX: usize = 8_192;

/// Orders taken before sessions are looked after.
const ORDERS_PER_TURN: usize = 256;

/// How often abandoned subscriptions are looked for.
const SWEEP: Duration = Duration::from_secs(1);

/// A wait: the resource, and the command that asked.
pub(super) type Waiter = (ResourceId, Index);

/// Something for the thread to do.
pub(super) enum Order {
    /// A command or query.
    Call { group: GroupId, call: Call, deadline: Option<Instant>, completer: Completer<Answer> },
    /// Tell when a wait is over, or a hold has another token than the one seen.
    Await { group: GroupId, waiter: Waiter, seen: u64, completer: Completer<NoticeState> },
    /// Tell when a hold or wait is over, or may be.
    AwaitEnd { group: GroupId, waiter: Waiter, completer: Completer<NoticeState> },
    /// Events.
    Subscribe { group: GroupId, call: Call, deadline: Instant, feed: Feed },
    /// Tell who the cluster is, once a node has answered.
    Meet { deadline: Instant, completer: Completer<(ClusterId, u32)> },
    /// Tell the states of sessions from now on.
    Watch(SyncSender<(GroupId, SessionState)>),
    /// Tell them with what was lost.
    Follow(StateFeed),
    /// Some are [`Late`].
    Late,
    /// From the thread of a connection.
    Heard(ConnectionId, Heard),
    /// End all sessions, then the thread.
    Close(Option<Completer<()>>),
}

/// Orders that must not be lost, and found no place in the queue: one for each thing held that was
/// dropped meanwhile.
pub(super) type Late = Arc<Mutex<Vec<Order>>>;

/// Takes all of them.
pub(super) fn take_late(late: &Late) -> Vec<Order> {
    std::mem::take(&mut *late.lock().unwrap_or_else(PoisonError::into_inner))
}

/// What the thread starts with.
pub(super) struct Settings {
    pub(super) endpoints: Vec<String>,
    pub(super) tls: Option<Tls>,
    pub(super) cluster: ClusterId,
    pub(super) session_timeout: Duration,
    pub(super) connect_timeout: Duration,
    pub(super) silence: Duration,
    pub(super) backoff: (Duration, Duration),
    pub(super) recovery: Recovery,
    /// Begin with the first endpoint.
    pub(super) in_order: bool,
    pub(super) key: [u8; 16],
    pub(super) seed: u64,
}

pub(super) struct Driver {
    settings: Settings,
    start: Instant,
    orders: Receiver<Order>,
    late: Late,
    /// For the threads of connections.
    sender: SyncSender<Order>,
    exchanges: BTreeMap<GroupId, Exchange>,
    meeting: Vec<(Instant, Completer<(ClusterId, u32)>)>,
    watchers: Vec<SyncSender<(GroupId, SessionState)>>,
    followers: Vec<StateFeed>,
    swept: Instant,
    closing: Option<Vec<Completer<()>>>,
}

impl Driver {
    pub(super) fn new(
        settings: Settings,
        orders: Receiver<Order>,
        late: Late,
        sender: SyncSender<Order>,
    ) -> Driver {
        let start = Instant::now();
        Driver {
            settings,
            start,
            orders,
            late,
            sender,
            exchanges: BTreeMap::new(),
            meeting: Vec::new(),
            watchers: Vec::new(),
            followers: Vec::new(),
            swept: start,
            closing: None,
        }
    }

    /// Runs until closed.
    pub(super) fn run(mut self) {
        loop {
            let first = match self.wait() {
                Ok(order) => Some(order),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            // What is late comes behind all that was in the queue then: what it gives back may be
            // asked for there.
            let late = take_late(&self.late);
            let most = if late.is_empty() { ORDERS_PER_TURN } else { ORDERS_MAX };
            let more = (0..most).map_while(|_| self.orders.try_recv().ok());
            let orders: Vec<Order> = first.into_iter().chain(more).collect();
            for order in orders.into_iter().chain(late) {
                self.take(order);
            }
            self.turn();
            if self.is_closed() {
                return self.end();
            }
        }
    }

    /// The next order, or none by the next deadline.
    fn wait(&self) -> Result<Order, RecvTimeoutError> {
        let now = Instant::now();
        let sessions = self.exchanges.values().filter_map(Exchange::deadline);
        let sessions = sessions.map(|at| self.start + Duration::from_micros(at.0));
        let meeting = self.meeting.iter().map(|(deadline, _)| *deadline);
        let has_feeds = self.exchanges.values().any(Exchange::has_feeds);
        let sweep = has_feeds.then(|| self.swept + SWEEP);
        match sessions.chain(meeting).chain(sweep).min() {
            Some(at) => self.orders.recv_timeout(at.saturating_duration_since(now)),
            None => self.orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
        }
    }

    fn now(&self) -> Micros {
        self.at(Instant::now())
    }

    fn at(&self, time: Instant) -> Micros {
        let span = time.saturating_duration_since(self.start);
        Micros(u64::try_from(span.as_micros()).unwrap_or(u64::MAX))
    }

    fn take(&mut self, order: Order) {
        let now = self.now();
        match order {
            Order::Call { group, call, deadline, completer } => {
                let deadline = deadline.map_or(NEVER, |deadline| self.at(deadline));
                self.exchange(group, now).call(now, call, deadline, completer);
            }
            Order::Await { group, waiter, seen, completer } => {
                self.exchange(group, now).await_token(waiter, seen, completer);
            }
            Order::AwaitEnd { group, waiter, completer } => {
                self.exchange(group, now).await_end(waiter, completer);
            }
            Order::Subscribe { group, call, deadline, feed } => {
                let deadline = self.at(deadline);
                self.exchange(group, now).subscribe(now, call, deadline, feed);
            }
            Order::Meet { deadline, completer } => {
                self.exchange(GroupId(0), now);
                self.meeting.push((deadline, completer));
            }
            Order::Watch(watcher) => self.watchers.push(watcher),
            Order::Follow(feed) => self.followers.push(feed),
            Order::Heard(id, heard) => {
                if let Some(exchange) = self.exchanges.get_mut(&id.group) {
                    exchange.hear(now, id, heard);
                }
            }
            Order::Late => {}
            Order::Close(completer) => {
                self.closing.get_or_insert_default().extend(completer);
                self.exchanges.values_mut().for_each(|exchange| exchange.close(now));
            }
        }
    }

    /// The exchange with a group; begun where there is none.
    fn exchange(&mut self, group: GroupId, now: Micros) -> &mut Exchange {
        let Driver { settings, sender, exchanges, closing, .. } = self;
        exchanges.entry(group).or_insert_with(|| {
            let key = u128::from_le_bytes(settings.key).wrapping_add(u128::from(group.0) << 64);
            let seed = settings.seed ^ u64::from(group.0);
            let endpoints = settings.endpoints.clone();
            let mut config = SessionConfig::new(group, endpoints, key.to_le_bytes(), seed);
            config.cluster = settings.cluster;
            let micros =
                |span: Duration| Micros(u64::try_from(span.as_micros()).unwrap_or(u64::MAX));
            config.timeout = micros(settings.session_timeout);
            config.connect_timeout = micros(settings.connect_timeout);
            config.silence = micros(settings.silence);
            config.backoff_min = micros(settings.backoff.0);
            config.backoff_max = micros(settings.backoff.1);
            (config.recovery, config.shuffle) = (settings.recovery, !settings.in_order);
            let mut exchange = Exchange::new(config, settings.tls.clone(), now, sender.clone());
            if closing.is_some() {
                exchange.close(now);
            }
            exchange
        })
    }

    /// Looks after all sessions: what is due, what is to be sent, what is to be told.
    fn turn(&mut self) {
        let now = self.now();
        let sweep = self.swept.elapsed() >= SWEEP;
        if sweep {
            self.swept = Instant::now();
        }
        for (group, exchange) in &mut self.exchanges {
            exchange.serve(now);
            if sweep {
                exchange.sweep(now);
            }
            for (state, lost) in exchange.states() {
                let change = StateChange { group: *group, state, lost };
                self.followers.retain(|follower| follower.push(&change));
                // A watcher that does not read misses states; one that has gone is forgotten.
                self.watchers.retain(|watcher| {
                    use std::sync::mpsc::TrySendError::Disconnected;
                    !matches!(watcher.try_send((*group, state)), Err(Disconnected(_)))
                });
            }
        }
        self.meet();
    }

    /// Answers those who wait for the cluster.
    fn meet(&mut self) {
        if self.meeting.is_empty() {
            return;
        }
        let first = self.exchanges.get(&GroupId(0));
        let now = Instant::now();
        if let Some(cluster) = first.and_then(Exchange::cluster) {
            self.meeting.drain(..).for_each(|(_, completer)| completer.complete(Ok(cluster)));
        } else {
            let tried = first.map(Exchange::tried).unwrap_or_default();
            let is_over = first.is_some_and(Exchange::is_shut_out);
            let ends = |(deadline, _): &mut (Instant, _)| is_over || *deadline <= now;
            for (_, completer) in self.meeting.extract_if(.., ends) {
                let failure =
                    Failure::with_outcome(Code::NO_LEADER, Outcome::NotApplied, tried.clone());
                completer.complete(Err(failure));
            }
        }
    }

    fn is_closed(&self) -> bool {
        self.closing.is_some() && self.exchanges.values().all(Exchange::is_closed)
    }

    /// Answers what came too late.
    pub(super) fn end(self) {
        let Driver { orders, late, closing, .. } = self;
        let answer = |order| match order {
            Order::Call { completer, .. } => completer.complete(Err(closed())),
            Order::Await { completer, .. } | Order::AwaitEnd { completer, .. } => {
                completer.complete(Err(closed()));
            }
            Order::Subscribe { feed, .. } => feed.end(closed()),
            Order::Close(Some(completer)) => completer.complete(Ok(())),
            _ => {}
        };
        orders.try_iter().for_each(answer);
        // Whoever leaves something from here on learns that nobody looks.
        drop(orders);
        take_late(&late).into_iter().for_each(answer);
        closing.into_iter().flatten().for_each(|completer| completer.complete(Ok(())));
    }
}

fn closed() -> Failure {
    Failure::with_outcome(Code::CLIENT_CLOSED, Outcome::NotApplied, "")
}
