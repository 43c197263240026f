//! The connection of a session: getting one, keeping it, giving it up; and the session's life
//! across them.

use margay_log::breaks;

use super::*;
use crate::wire;

impl Session {
    /// The connection asked for with [`Output::Connect`] is there.
    pub fn on_connected(&mut self, now: Micros, endpoint: &str) {
        self.see(now);
        if !matches!(self.link, Link::Connecting { .. }) || endpoint != self.endpoints.current() {
            return;
        }
        debug_assert!(self.out.is_empty() && self.inbox.is_empty());
        let hello = Hello::client(self.cluster, self.config.group);
        self.out.extend_from_slice(&hello.encode());
        self.link = Link::Greeting { give_up: self.now.after(self.config.connect_timeout) };
    }

    /// The connection asked for with [`Output::Connect`] cannot be had, or is no good, and why.
    pub fn on_failed(&mut self, now: Micros, reason: &str) {
        self.see(now);
        match self.link {
            Link::Connecting { .. } | Link::Greeting { .. } => {
                self.lose(Attempt::Failed(reason.to_owned()));
            }
            _ => self.on_disconnected(now),
        }
    }

    /// The connection has ended without our wish.
    pub fn on_disconnected(&mut self, now: Micros) {
        self.see(now);
        match self.link {
            Link::Greeting { .. } => self.lose(Attempt::NoHello),
            Link::Open => self.lose(Attempt::Disconnected),
            Link::Closing { .. } => self.closed(),
            _ => {}
        }
    }

    /// Bytes have come in, cut anywhere.
    pub fn on_bytes(&mut self, now: Micros, bytes: &[u8]) {
        self.see(now);
        if !matches!(self.link, Link::Greeting { .. } | Link::Open | Link::Closing { .. }) {
            return;
        }
        (self.quiet_since, self.unheard, self.heard) = (self.now, false, self.now);
        // Whole frames are read where they are; only an incomplete one is kept.
        if self.inbox.is_empty() {
            let used = self.read(bytes);
            if self.is_connected() {
                self.inbox.extend_from_slice(&bytes[used..]);
            }
            return;
        }
        let mut inbox = std::mem::take(&mut self.inbox);
        inbox.extend_from_slice(bytes);
        let used = self.read(&inbox);
        if self.is_connected() {
            inbox.drain(..used);
            self.inbox = inbox;
        }
    }

    fn is_connected(&self) -> bool {
        matches!(self.link, Link::Greeting { .. } | Link::Open | Link::Closing { .. })
    }

    /// Takes what is complete from the front of `bytes`; returns how much that was.
    fn read(&mut self, bytes: &[u8]) -> usize {
        let mut used = 0;
        while self.is_connected() {
            let rest = &bytes[used..];
            let length = match self.link {
                Link::Greeting { .. } => Hello::peek(rest),
                _ => wire::peek(rest),
            };
            match length {
                Ok(Some(length)) if length <= rest.len() => {
                    used += length;
                    let taken = match self.link {
                        Link::Greeting { .. } => self.on_hello(&rest[..length]),
                        _ => self.on_frame(&rest[..length]),
                    };
                    if let Err(error) = taken
                        && error.is_fatal()
                    {
                        self.leave(Attempt::Bytes(error));
                    }
                }
                Ok(_) => break,
                Err(error) => self.leave(Attempt::Bytes(error)),
            }
        }
        used
    }

    fn on_hello(&mut self, bytes: &[u8]) -> Result<(), wire::Error> {
        let hello = Hello::decode(bytes)?;
        if hello.code != Code::OK {
            self.leave(Attempt::Refused(hello.code, String::new()));
        } else if self.cluster != ClusterId(0) && hello.cluster != self.cluster {
            let text = format!("it is {}, ours is {}", hello.cluster, self.cluster);
            self.leave(Attempt::Refused(Code::CLUSTER_MISMATCH, text));
        } else if hello.group != self.config.group || hello.groups <= self.config.group.0 {
            self.leave(Attempt::Refused(Code::NO_SUCH_GROUP, String::new()));
        } else {
            (self.cluster, self.groups) = (hello.cluster, hello.groups);
            self.link = Link::Open;
        }
        Ok(())
    }

    /// Whether there is any reason to be connected. The first connection is made in any case.
    fn is_needed(&self) -> bool {
        self.groups == 0
            || self.wanted
            || self.member.is_some()
            || self.in_flight() > 0
            || self.subscriptions.len() > 0
    }

    pub(super) fn maybe_connect(&mut self) {
        let Link::Down { retry_at } = self.link else { return };
        if retry_at <= self.now && self.is_needed() {
            let address = self.endpoints.next().to_owned();
            self.outputs.push_back(Output::Connect(address));
            self.link = Link::Connecting { give_up: self.now.after(self.config.connect_timeout) };
        }
    }

    /// Gives the connection up, or the attempt at one.
    pub(super) fn leave(&mut self, attempt: Attempt) {
        self.outputs.push_back(Output::Disconnect);
        self.lose(attempt);
    }

    /// The connection is gone, and with it everything that was only said on it.
    pub(super) fn lose(&mut self, attempt: Attempt) {
        let pause = self.endpoints.failed(attempt, &mut self.random);
        self.reset_link(self.now.after(pause));
    }

    /// Forgets what belongs to a connection. What was asked is asked again on the next.
    fn reset_link(&mut self, retry_at: Micros) {
        if matches!(self.link, Link::Closing { .. }) {
            self.closed();
            return;
        }
        self.link = Link::Down { retry_at };
        self.inbox.clear();
        self.out.clear();
        (self.held_until, self.unheard, self.probing) = (None, false, false);
        self.keep_alive = None;
        self.register_asked = false;
        if let Some(member) = &mut self.member {
            (member.attached, member.asked) = (false, false);
        }
        self.stream.lose();
        self.subscriptions.lose();
        self.ask_again();
        self.maybe_connect();
    }

    /// Puts the queries under way back in front of those never sent, in their order.
    fn ask_again(&mut self) {
        if self.asked == 0 {
            return;
        }
        self.asked = 0;
        let mut again = std::mem::take(&mut self.scratch);
        self.calls.select(&mut again, |work| match work {
            Work::Query { sent, .. } | Work::Status { sent } => std::mem::replace(sent, false),
            _ => false,
        });
        again.sort_by_key(|call| match self.calls.work(*call) {
            Some(Work::Query { order, .. }) => *order,
            _ => 0,
        });
        for call in again.drain(..).rev() {
            self.waiting.push_front(call);
        }
        self.scratch = again;
    }

    /// Nothing is sent for a while. What was sent together is refused together: the pause does not
    /// grow with every refusal that comes during it.
    pub(super) fn hold(&mut self, retry: Micros) {
        let asked = self.now.after(retry.min(self.config.timeout));
        let until = match self.held_until.filter(|until| *until > self.now) {
            Some(until) => until,
            None => self.now.after(self.load.next(&mut self.random)),
        };
        self.held_until = Some(until.max(asked));
    }

    pub(super) fn check_link(&mut self) {
        match self.link {
            Link::Connecting { give_up } | Link::Greeting { give_up } if give_up <= self.now => {
                self.leave(Attempt::TimedOut);
            }
            Link::Closing { give_up } if give_up <= self.now => self.closed(),
            Link::Open if self.silent_at().is_some_and(|at| at <= self.now) => {
                self.leave(Attempt::TimedOut);
            }
            _ => {}
        }
    }

    /// When the connection is given up if nothing is heard until then.
    fn silent_at(&self) -> Option<Micros> {
        (self.outstanding() > 0).then(|| self.quiet_since.after(self.config.silence))
    }

    pub(super) fn link_deadline(&self) -> Option<Micros> {
        match self.link {
            Link::Down { retry_at } => self.is_needed().then_some(retry_at),
            Link::Connecting { give_up } | Link::Greeting { give_up } => Some(give_up),
            Link::Closing { give_up } => Some(give_up),
            Link::Open => self.silent_at(),
            Link::Closed => None,
        }
    }

    /// When a keep-alive is due: a third of the time-out after the last request known to have
    /// renewed.
    fn keep_alive_at(&self) -> Option<Micros> {
        let member = self.member.filter(|member| member.attached && self.keep_alive.is_none())?;
        let due = member.renewed.after(Micros(member.timeout.0 / 3));
        // Where one was refused for load, the next one waits like everything else.
        (self.link == Link::Open).then(|| due.max(self.held_until.unwrap_or_default()))
    }

    pub(super) fn check_member(&mut self) {
        if self.state == Some(SessionState::Connected)
            && self.safe_until().is_some_and(|until| until <= self.now)
        {
            self.become_state(SessionState::Suspended);
        }
        if self.keep_alive_at().is_some_and(|at| at <= self.now) {
            self.keep_alive();
        }
    }

    pub(super) fn member_deadline(&self) -> Option<Micros> {
        let connected = self.state == Some(SessionState::Connected);
        let suspends = self.safe_until().filter(|_| connected);
        [suspends, self.keep_alive_at()].into_iter().flatten().min()
    }

    pub(super) fn keep_alive(&mut self) {
        let Some(Member { session, .. }) = self.member else { return };
        if self.outstanding() == 0 && !self.unheard {
            self.quiet_since = self.now;
        }
        self.keep_alive = Some(self.now);
        Request::KeepAlive { session, acked: self.stream.acked() }.encode(&mut self.out);
    }

    /// When a node that is only listened to is asked whether it is there. Without a session nothing
    /// else is asked of it, and one that is gone without a word would never be missed.
    pub(super) fn probe_at(&self) -> Option<Micros> {
        let listens = self.member.is_none() && self.subscriptions.len() > 0;
        let idle = self.link == Link::Open && self.outstanding() == 0;
        (listens && idle).then(|| self.heard.after(Micros(self.config.timeout.0 / 3)))
    }

    pub(super) fn probe(&mut self) {
        if self.probe_at().is_some_and(|at| at <= self.now) {
            (self.probing, self.quiet_since) = (true, self.now);
            Request::Status { id: PROBE }.encode(&mut self.out);
        }
    }

    /// A request sent at `sent` is known to have renewed the session.
    pub(super) fn renew(&mut self, sent: Micros) {
        let Some(member) = &mut self.member else { return };
        let from = if breaks::SAFE_TIME_FROM_RECEIPT.on() { self.now } else { sent };
        member.renewed = member.renewed.max(from);
        if self.state != Some(SessionState::Connected)
            && self.safe_until().is_some_and(|until| until > self.now)
        {
            self.become_state(SessionState::Connected);
        }
    }

    pub(super) fn become_state(&mut self, state: SessionState) {
        if self.state != Some(state) {
            self.state = Some(state);
            self.outputs.push_back(Output::State(state));
        }
    }

    /// The session is over, the client is not: the next command begins another one, on a new
    /// connection, where nothing can be mistaken for an answer to it.
    pub(super) fn expire(&mut self) {
        if let Some(Member { session, .. }) = self.member {
            let lost = self.holdings.all(session);
            if !lost.is_empty() {
                self.outputs.push_back(Output::Lost(lost));
            }
        }
        self.become_state(SessionState::Expired);
        self.end_calls(Code::SESSION_EXPIRED, |work| {
            matches!(work, Work::Command(_) | Work::Sent(_))
        });
        self.stream = Stream::new();
        self.holdings.clear();
        self.member = None;
        self.wanted = false;
        self.life += 1;
        self.register_sent = None;
        if self.config.recovery == Recovery::Close {
            self.end_calls(Code::SESSION_EXPIRED, |_| true);
            return self.closed();
        }
        self.endpoints.again();
        self.outputs.push_back(Output::Disconnect);
        self.reset_link(self.now);
    }

    /// The end, with or without an answer.
    pub(super) fn closed(&mut self) {
        if self.is_connected() || matches!(self.link, Link::Connecting { .. }) {
            self.outputs.push_back(Output::Disconnect);
        }
        self.link = Link::Closed;
        self.member = None;
        self.inbox.clear();
        self.out.clear();
        self.holdings.clear();
        self.become_state(SessionState::Closed);
    }
}
