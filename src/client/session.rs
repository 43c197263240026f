//! One client's conversation with one group, without I/O: what to connect to, what to send, what
//! has come back.
//!
//! No clock, thread or random source: time comes in as a parameter, randomness as a seed and a key.
//! A driver thread, a load generator's ring and the simulator run the same code.
//!
//! - A node is found by asking: one that does not lead refuses and names the leader, if it knows
//!   it.
//! - Commands get their sequence when they are first sent and keep it; after a reconnect everything
//!   unanswered is sent again, in order, under the same numbers. So each is applied once.
//! - Queries carry the highest index seen and the last sequence sent: reads never go backwards and
//!   see the session's own writes. Calls are sent in the order in which they were made.
//! - The session is registered when the first command needs it. A session that only reads needs
//!   none; one that only listens asks its node now and then whether it is there.
//!
//! What a failure says about the operation, and why:
//!
//! | what happened | outcome |
//! |---|---|
//! | never sent | not applied |
//! | sent, and refused every time | not applied; a command that does nothing takes its sequence |
//! | sent, not answered by its deadline | unknown; it goes on being sent, its reply is dropped |
//! | sent, not answered when the session expired or was closed | unknown |
//! | answered "reply gone" | applied |
//! | a query, whatever happened | not applied: it changes nothing |
//!
//! ```text
//!          Connect            on_connected         hello
//!  Down ───────────► Connecting ────────► Greeting ─────► Open ── close ──► Closing ──► Closed
//!    ▲                   │                    │             │
//!    └───────────────────┴── refused, silent, broken, not leader: the next address, after a pause
//! ```

use std::collections::VecDeque;

use margay_log::id::{ClusterId, Index, Micros};

use super::backoff::{Backoff, Random};
use super::calls::{Calls, Operation, Work};
use super::config::{OUT_HIGH, SUBSCRIPTIONS_MAX};
use super::endpoints::{Attempt, Endpoints};
use super::holdings::Holdings;
use super::stream::Stream;
use super::subscriptions::{Position, Subscriptions};
use crate::machine::{Code, Notice, NoticeState, Outcome, ResourceId, SessionId};
use crate::resource::{Answer, Failure};
use crate::wire::client::Request;
use crate::wire::{GroupStatus, Hello, PAYLOAD_MAX};

mod answers;
mod ending;
mod interface;
mod link;
mod outgoing;
#[cfg(test)]
mod tests;

pub use super::calls::{CallId, NEVER};
pub use super::config::{IN_FLIGHT_MAX, Recovery, SessionConfig};
pub use interface::{Call, Output, SessionState};

/// Where the connection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Link {
    /// None; the next attempt not before this.
    Down { retry_at: Micros },
    /// Under way; given up at this time.
    Connecting { give_up: Micros },
    /// Our hello is sent, theirs has not come.
    Greeting { give_up: Micros },
    /// Frames go both ways.
    Open,
    /// The session's end is asked for.
    Closing { give_up: Micros },
    /// The end.
    Closed,
}

/// A registered session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Member {
    session: SessionId,
    /// As the cluster granted it.
    timeout: Micros,
    /// Whether the connection speaks for it, or was asked to.
    attached: bool,
    asked: bool,
    /// Send time of the last request that is known to have renewed it.
    renewed: Micros,
}

/// See the module.
#[derive(Debug)]
pub struct Session {
    config: SessionConfig,
    random: Random,
    now: Micros,

    link: Link,
    endpoints: Endpoints,
    /// Last time something was heard, or that nothing was due.
    quiet_since: Micros,
    /// A call that was sent since has ended without an answer.
    unheard: bool,
    /// Last time something was heard.
    heard: Micros,
    /// Asked for a sign of life on this connection, and not answered.
    probing: bool,
    /// Nothing is sent before this: the group has too much to do.
    held_until: Option<Micros>,
    load: Backoff,

    cluster: ClusterId,
    groups: u32,
    member: Option<Member>,
    state: Option<SessionState>,
    /// A session is wanted though there is none yet.
    wanted: bool,
    /// Sessions that have ended. Distinguishes their keys.
    life: u64,
    register_asked: bool,
    /// When this life's register was sent the first time.
    register_sent: Option<Micros>,
    /// Send time of the keep-alive under way.
    keep_alive: Option<Micros>,

    calls: Calls,
    /// Calls that are to be sent, in order. Some may have ended meanwhile.
    waiting: VecDeque<CallId>,
    stream: Stream,
    /// Queries and status calls sent on this connection and not answered.
    asked: usize,
    order: u64,
    seen: Index,
    subscriptions: Subscriptions,
    holdings: Holdings,

    inbox: Vec<u8>,
    out: Vec<u8>,
    outputs: VecDeque<Output>,
    spare: Vec<Vec<u8>>,
    scratch: Vec<CallId>,
}

/// Buffers kept for reuse, at most, and the largest of them in bytes.
const SPARE_MAX: usize = IN_FLIGHT_MAX;
const SPARE_BYTES_MAX: usize = 4 << 10;

/// The id of a status request that asks for a sign of life and no more: no call has it.
const PROBE: u64 = u64::MAX;

impl Session {
    /// A session that begins to look for its group at once.
    ///
    /// # Panics
    /// When the configuration names no endpoint.
    #[must_use]
    pub fn new(config: SessionConfig, now: Micros) -> Session {
        let mut random = Random::new(config.seed);
        let backoff = Backoff::new(config.backoff_min, config.backoff_max);
        let list = config.endpoints.clone();
        let endpoints = Endpoints::new(list, config.shuffle, backoff.clone(), &mut random);
        let mut session = Session {
            link: Link::Down { retry_at: now },
            endpoints,
            quiet_since: now,
            unheard: false,
            heard: now,
            probing: false,
            held_until: None,
            load: backoff,
            cluster: config.cluster,
            groups: 0,
            member: None,
            state: None,
            wanted: false,
            life: 0,
            register_asked: false,
            register_sent: None,
            keep_alive: None,
            calls: Calls::default(),
            waiting: VecDeque::new(),
            stream: Stream::new(),
            asked: 0,
            order: 0,
            seen: Index::ZERO,
            subscriptions: Subscriptions::default(),
            holdings: Holdings::default(),
            inbox: Vec::new(),
            out: Vec::new(),
            outputs: VecDeque::new(),
            spare: Vec::new(),
            scratch: Vec::new(),
            config,
            random,
            now,
        };
        session.maybe_connect();
        session
    }

    /// Takes on a call. It ends with [`Output::Finished`] (or [`Output::Status`]), by `deadline` at
    /// the latest; with too many under way at once, unless its deadline is [`NEVER`]: such a call
    /// gives something back, and goes on for as long as the session lives.
    pub fn submit(&mut self, now: Micros, call: Call, deadline: Micros) -> CallId {
        self.see(now);
        let refusal = self.refusal(&call, deadline);
        let work = match call {
            Call::Command { kind, schema, resource, payload } => {
                Work::Command(Operation { kind, schema, resource, payload })
            }
            Call::Query { level, kind, schema, resource, payload } => {
                let operation = Operation { kind, schema, resource, payload };
                self.order += 1;
                Work::Query { level, operation, order: self.order, sent: false }
            }
            Call::Subscribe { resource, after, filter } => {
                let id = self.calls.begin(now, deadline, Work::Subscribe);
                match refusal {
                    Some(failure) => self.finish(id, Err(failure)),
                    None => self.subscriptions.add(id, resource, after, filter),
                }
                self.maybe_connect();
                return id;
            }
            Call::Status => Work::Status { sent: false },
        };
        let is_command = matches!(work, Work::Command(_));
        let id = self.calls.begin(now, deadline, work);
        if let Some(failure) = refusal {
            self.finish(id, Err(failure));
            return id;
        }
        self.wanted |= is_command;
        self.waiting.push_back(id);
        self.maybe_connect();
        id
    }

    /// Why a call cannot be taken on.
    fn refusal(&self, call: &Call, deadline: Micros) -> Option<Failure> {
        let refused = |code, text| Some(Failure::with_outcome(code, Outcome::NotApplied, text));
        if matches!(self.link, Link::Closing { .. } | Link::Closed) {
            return refused(Code::CLIENT_CLOSED, String::new());
        }
        let most = self.config.in_flight_max.min(IN_FLIGHT_MAX);
        if deadline < NEVER && self.in_flight() >= most {
            let text = format!("{} calls are under way; wait for some answers", self.in_flight());
            return refused(Code::OVERLOADED, text);
        }
        match call {
            Call::Command { payload, .. } | Call::Query { payload, .. }
                if payload.len() > PAYLOAD_MAX =>
            {
                let text = format!("{} bytes; at most {PAYLOAD_MAX} travel", payload.len());
                refused(Code::FRAME_TOO_LARGE, text)
            }
            Call::Subscribe { .. } if self.subscriptions.len() >= SUBSCRIPTIONS_MAX => {
                refused(Code::TOO_MANY_SUBSCRIPTIONS, String::new())
            }
            Call::Subscribe { filter, .. } if filter.len() > PAYLOAD_MAX => {
                refused(Code::BAD_FILTER, String::new())
            }
            _ => None,
        }
    }

    /// Ends a subscription.
    pub fn unsubscribe(&mut self, now: Micros, subscription: CallId) {
        self.see(now);
        if self.subscriptions.remove(subscription.0).is_none() {
            return;
        }
        if self.link == Link::Open {
            Request::Unsubscribe { id: subscription.0 }.encode(&mut self.out);
        }
        let failure =
            Failure::with_outcome(Code::CLIENT_CLOSED, Outcome::NotApplied, "unsubscribed");
        self.finish(subscription, Err(failure));
    }

    /// Registers without waiting for the first command.
    pub fn register(&mut self, now: Micros) {
        self.see(now);
        self.wanted = true;
        self.maybe_connect();
    }

    /// Ends the session. What is under way ends at once: not applied, or unknown if it was sent.
    pub fn close(&mut self, now: Micros) {
        self.see(now);
        if matches!(self.link, Link::Closing { .. } | Link::Closed) {
            return;
        }
        self.end_calls(Code::CLIENT_CLOSED, |_| true);
        match (self.link, self.member) {
            (Link::Open, Some(Member { session, attached: true, .. })) => {
                Request::Close { session }.encode(&mut self.out);
                let give_up = self.now.after(self.config.connect_timeout);
                self.link = Link::Closing { give_up };
            }
            _ => self.closed(),
        }
    }

    /// Time has passed. Due at [`Session::deadline`].
    pub fn on_tick(&mut self, now: Micros) {
        self.see(now);
        self.end_overdue();
        self.check_link();
        self.check_member();
        self.probe();
        if self.held_until.is_some_and(|until| until <= self.now) {
            self.held_until = None;
        }
        self.maybe_connect();
    }

    /// When `on_tick` is due, if ever.
    #[must_use]
    pub fn deadline(&self) -> Option<Micros> {
        let times = [self.calls.deadline(), self.link_deadline(), self.member_deadline()];
        let held = self.held_until.filter(|_| self.link == Link::Open);
        times.into_iter().chain([held, self.probe_at()]).flatten().min()
    }

    /// Bytes to be sent, in order. Take them from the front, or swap the buffer for an empty one.
    /// What is taken was sent, as far as outcomes are concerned.
    pub fn outgoing(&mut self) -> &mut Vec<u8> {
        self.fill();
        &mut self.out
    }

    /// The next thing to do or to tell, in order.
    pub fn poll(&mut self) -> Option<Output> {
        let output = self.outputs.pop_front()?;
        if let Output::Finished(call, _) | Output::Status(call, _) = output {
            self.calls.release(call);
        }
        Some(output)
    }

    /// Calls under way, and commands that nobody waits for but that must still go through.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.calls.open() + self.stream.orphans()
    }

    /// The session, while there is one.
    #[must_use]
    pub fn session(&self) -> Option<SessionId> {
        self.member.map(|member| member.session)
    }

    /// What the session can rely on; `None` before it was first registered.
    #[must_use]
    pub fn state(&self) -> Option<SessionState> {
        self.state
    }

    /// Until when what the session holds is its own, whatever becomes of the connection: a time-out
    /// from when the last request that is known to have renewed it was *sent*.
    #[must_use]
    pub fn safe_until(&self) -> Option<Micros> {
        self.member.map(|member| member.renewed.after(member.timeout))
    }

    /// What became of a hold or wait, as the cluster last said; `None` when it is over.
    #[must_use]
    pub fn holding(&self, resource: ResourceId, waiter: Index) -> Option<NoticeState> {
        self.holdings.get(resource, waiter)
    }

    /// What to tell somebody who awaits a wait or a hold and knows of tokens up to `seen`; `None`
    /// while there is nothing new.
    ///
    /// # Errors
    /// [`Code::SESSION_EXPIRED`] where it was asked for in a session before this one: a session is
    /// named by an entry, like what it asks for.
    #[must_use]
    pub fn news_of(
        &self,
        resource: ResourceId,
        waiter: Index,
        seen: u64,
    ) -> Option<Result<NoticeState, Code>> {
        if self.session().is_none_or(|session| session.0 > waiter.0) {
            return Some(Err(Code::SESSION_EXPIRED));
        }
        match self.holding(resource, waiter) {
            Some(state) => state.is_news(seen).then_some(Ok(state)),
            None => Some(Ok(NoticeState::TimedOut)),
        }
    }

    /// The address it is connected to, or was last.
    #[must_use]
    pub fn address(&self) -> &str {
        self.endpoints.current()
    }

    /// The cluster and its number of groups, once a node has answered.
    #[must_use]
    pub fn cluster(&self) -> Option<(ClusterId, u32)> {
        (self.groups > 0).then_some((self.cluster, self.groups))
    }

    /// What was tried since something last went well, for people.
    #[must_use]
    pub fn tried(&self) -> String {
        self.endpoints.to_string()
    }

    /// Whether every address says that this client must come in another way.
    #[must_use]
    pub fn is_shut_out(&self) -> bool {
        self.endpoints.are_closed()
    }

    /// An empty buffer, with space in it if one is at hand: payloads of commands come back here.
    #[must_use]
    pub fn buffer(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }

    /// Gives a buffer back for reuse, that of an answer for instance.
    pub fn recycle(&mut self, mut buffer: Vec<u8>) {
        let fits = (1..=SPARE_BYTES_MAX).contains(&buffer.capacity());
        if fits && self.spare.len() < SPARE_MAX {
            buffer.clear();
            self.spare.push(buffer);
        }
    }

    /// Time never runs backwards in here.
    fn see(&mut self, now: Micros) {
        self.now = self.now.max(now);
    }

    /// A copy of a reply's payload.
    fn copy(&mut self, payload: &[u8]) -> Vec<u8> {
        if payload.is_empty() {
            return Vec::new();
        }
        let mut buffer = self.buffer();
        buffer.extend_from_slice(payload);
        buffer
    }
}
