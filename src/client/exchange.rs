//! One session at work: its connection, and who waits for what in it.

use std::collections::BTreeMap;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use margay_log::id::{ClusterId, Micros};

use super::driver::{self, Order};
use super::net::{self, ConnectionId, Heard, Writer, reason};
use super::session::{Call, CallId, Output, Session, SessionConfig, SessionState};
use crate::machine::{Code, Notice, NoticeState};
use crate::resource::{Answer, Completer, Delivery, Failure, Feed};
use crate::tls::Tls;

/// A socket that took nothing is tried again after this.
const WRITE_RETRY: Micros = Micros::from_millis(5);

/// Who waits for the end of a call.
enum Waiter {
    Answer(Completer<Answer>),
    Subscription(Feed),
}

/// Each with the token it knows of; 0 for none.
type Waits = BTreeMap<driver::Waiter, Vec<(u64, Completer<NoticeState>)>>;

/// See the module.
pub(super) struct Exchange {
    session: Session,
    connect_timeout: Duration,
    tls: Option<Tls>,
    connection: ConnectionId,
    /// Present while connected.
    writer: Option<Writer>,
    /// When to try again to write, after a socket took nothing.
    write_at: Option<Micros>,
    orders: SyncSender<Order>,
    /// By the slot of the call.
    waiters: Vec<Option<Waiter>>,
    feeds: BTreeMap<CallId, Feed>,
    waits: Waits,
    /// Who wants to know when something is over.
    ends: Waits,
    /// What the next state takes with it.
    lost: Vec<Notice>,
    states: Vec<(SessionState, Vec<Notice>)>,
}

impl Exchange {
    pub(super) fn new(
        config: SessionConfig,
        tls: Option<Tls>,
        now: Micros,
        orders: SyncSender<Order>,
    ) -> Exchange {
        Exchange {
            tls,
            connect_timeout: Duration::from_micros(config.connect_timeout.0),
            connection: ConnectionId { group: config.group, attempt: 0 },
            session: Session::new(config, now),
            writer: None,
            write_at: None,
            orders,
            waiters: Vec::new(),
            feeds: BTreeMap::new(),
            waits: BTreeMap::new(),
            ends: BTreeMap::new(),
            lost: Vec::new(),
            states: Vec::new(),
        }
    }

    pub(super) fn call(
        &mut self,
        now: Micros,
        call: Call,
        deadline: Micros,
        completer: Completer<Answer>,
    ) {
        let id = self.session.submit(now, call, deadline);
        self.expect(id, Waiter::Answer(completer));
    }

    pub(super) fn subscribe(&mut self, now: Micros, call: Call, deadline: Micros, feed: Feed) {
        let id = self.session.submit(now, call, deadline);
        self.expect(id, Waiter::Subscription(feed));
    }

    fn expect(&mut self, call: CallId, waiter: Waiter) {
        if self.waiters.len() <= call.slot() {
            self.waiters.resize_with(call.slot() + 1, || None);
        }
        self.waiters[call.slot()] = Some(waiter);
    }

    /// Whoever was answered "waiting" has had the notices before that answer: the mirror knows.
    pub(super) fn await_token(
        &mut self,
        (resource, waiter): driver::Waiter,
        seen: u64,
        completer: Completer<NoticeState>,
    ) {
        match self.session.news_of(resource, waiter, seen) {
            Some(news) => completer.complete(news.map_err(Failure::from)),
            None => {
                self.waits.entry((resource, waiter)).or_default().push((seen, completer));
            }
        }
    }

    /// Whoever asks was granted something: the mirror knew of it.
    pub(super) fn await_end(
        &mut self,
        (resource, waiter): driver::Waiter,
        completer: Completer<NoticeState>,
    ) {
        let is_ours = self.session.session().is_some_and(|session| session.0 <= waiter.0);
        let is_sure = is_ours && self.session.state() == Some(SessionState::Connected);
        if is_sure && self.session.holding(resource, waiter).is_some() {
            self.ends.entry((resource, waiter)).or_default().push((0, completer));
        } else {
            completer.complete(Ok(NoticeState::Lost));
        }
    }

    pub(super) fn close(&mut self, now: Micros) {
        self.session.close(now);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.session.state() == Some(SessionState::Closed)
    }

    pub(super) fn cluster(&self) -> Option<(ClusterId, u32)> {
        self.session.cluster()
    }

    pub(super) fn tried(&self) -> String {
        self.session.tried()
    }

    pub(super) fn is_shut_out(&self) -> bool {
        self.session.is_shut_out()
    }

    pub(super) fn has_feeds(&self) -> bool {
        !self.feeds.is_empty()
    }

    pub(super) fn deadline(&self) -> Option<Micros> {
        [self.session.deadline(), self.write_at].into_iter().flatten().min()
    }

    /// States that were not told yet.
    pub(super) fn states(&mut self) -> std::vec::Drain<'_, (SessionState, Vec<Notice>)> {
        self.states.drain(..)
    }

    /// Something of a connection; of an earlier one it does not matter any more.
    pub(super) fn hear(&mut self, now: Micros, id: ConnectionId, heard: Heard) {
        if id != self.connection {
            // Dropping a connection that came too late closes it.
            return;
        }
        match heard {
            Heard::Connected(writer) => {
                self.writer = Some(writer);
                let address = self.session.address().to_owned();
                self.session.on_connected(now, &address);
            }
            Heard::Failed(reason) => {
                self.disconnect();
                self.session.on_failed(now, &reason);
            }
            Heard::Bytes(bytes) => self.session.on_bytes(now, &bytes),
            Heard::Ended => self.lose(now),
        }
        self.tell(now);
    }

    fn lose(&mut self, now: Micros) {
        self.disconnect();
        self.session.on_disconnected(now);
    }

    /// What this connection still says does not matter any more.
    fn disconnect(&mut self) {
        self.writer = None;
        self.write_at = None;
        self.connection.attempt += 1;
    }

    /// Does what is due, sends what can be sent, tells what there is to tell.
    pub(super) fn serve(&mut self, now: Micros) {
        if self.session.deadline().is_some_and(|at| at <= now) {
            self.session.on_tick(now);
        }
        self.tell(now);
        if self.write_at.is_none_or(|at| at <= now) {
            self.write(now);
            self.tell(now);
        }
    }

    fn write(&mut self, now: Micros) {
        let Some(writer) = &mut self.writer else { return };
        // Once more when the buffer was full: the session fills it again.
        loop {
            let bytes = self.session.outgoing();
            let more = !bytes.is_empty();
            match writer.write(bytes) {
                Ok(true) => {
                    self.write_at = Some(now.after(WRITE_RETRY));
                    return;
                }
                Ok(false) => self.write_at = None,
                Err(_) => return self.lose(now),
            }
            if !more {
                return;
            }
        }
    }

    /// Ends subscriptions that nobody reads.
    pub(super) fn sweep(&mut self, now: Micros) {
        let gone: Vec<CallId> =
            self.feeds.iter().filter_map(|(id, feed)| feed.is_abandoned().then_some(*id)).collect();
        for id in gone {
            self.feeds.remove(&id);
            self.session.unsubscribe(now, id);
        }
        for waits in [&mut self.waits, &mut self.ends] {
            waits.retain(|_, waiting| {
                waiting.retain(|(_, completer)| !completer.is_abandoned());
                !waiting.is_empty()
            });
        }
    }

    /// Takes what the session wants done or has to tell.
    fn tell(&mut self, now: Micros) {
        while let Some(output) = self.session.poll() {
            match output {
                Output::Connect(address) => self.connect(now, address),
                Output::Disconnect => self.disconnect(),
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
                Output::Notice(notice) => self.notice(&notice),
                Output::Lost(lost) => self.lost = lost,
                Output::State(state) => self.become_state(state),
                // Nobody asks: `status.rs` has connections of its own.
                Output::Status(..) => {}
            }
        }
    }

    fn connect(&mut self, now: Micros, address: String) {
        self.disconnect();
        let orders = self.orders.clone();
        let started =
            net::connect(self.connection, address, self.tls.clone(), self.connect_timeout, orders);
        if let Err(error) = started {
            self.session.on_failed(now, &reason(&error));
        }
    }

    fn finish(&mut self, call: CallId, result: Result<Answer, Failure>) {
        let waiter = self.waiters.get_mut(call.slot()).and_then(Option::take);
        match (waiter, result) {
            (Some(Waiter::Answer(completer)), result) => completer.complete(result),
            (Some(Waiter::Subscription(feed)), Ok(_)) => {
                self.feeds.insert(call, feed);
            }
            (Some(Waiter::Subscription(feed)), Err(failure)) => feed.end(failure),
            (None, _) => {}
        }
    }

    fn notice(&mut self, notice: &Notice) {
        let named = (notice.resource, notice.waiter);
        if let Some(mut waiting) = self.waits.remove(&named) {
            let told = waiting.extract_if(.., |(seen, _)| notice.state.is_news(*seen));
            told.for_each(|(_, completer)| completer.complete(Ok(notice.state)));
            if !waiting.is_empty() {
                self.waits.insert(named, waiting);
            }
        }
        if notice.state.is_final() {
            let ended = self.ends.remove(&named);
            for (_, completer) in ended.into_iter().flatten() {
                completer.complete(Ok(notice.state));
            }
        }
    }

    fn become_state(&mut self, state: SessionState) {
        let lost = std::mem::take(&mut self.lost);
        self.states.push((state, lost));
        if state != SessionState::Connected {
            for (_, completer) in std::mem::take(&mut self.ends).into_values().flatten() {
                completer.complete(match state {
                    SessionState::Closed => Err(Failure::from(Code::CLIENT_CLOSED)),
                    _ => Ok(NoticeState::Lost),
                });
            }
        }
        let code = match state {
            SessionState::Expired => Code::SESSION_EXPIRED,
            SessionState::Closed => Code::CLIENT_CLOSED,
            SessionState::Connected | SessionState::Suspended => return,
        };
        for (_, completer) in std::mem::take(&mut self.waits).into_values().flatten() {
            completer.complete(Err(Failure::from(code)));
        }
        if state == SessionState::Closed {
            for (_, feed) in std::mem::take(&mut self.feeds) {
                feed.end(Failure::from(code));
            }
        }
    }
}
