//! What comes back from a node, and what it means for the calls under way.

use super::*;
use crate::machine::Sequence;
use crate::wire::client::{RefusedOf, Response};
use crate::wire::{self};

/// What to do about a refusal.
enum Verdict {
    /// Another node may do it.
    Elsewhere,
    /// The same node will do it later.
    Later,
    /// The session is no more.
    Ended,
    /// Nobody will.
    Final,
}

impl Verdict {
    fn of(code: Code) -> Verdict {
        match code {
            Code::NOT_LEADER
            | Code::NO_LEADER
            | Code::LEADER_CHANGED
            | Code::NO_SUCH_GROUP
            | Code::CLUSTER_MISMATCH
            | Code::HALTED
            | Code::SESSION_MOVED
            | Code::NO_SESSION
            | Code::TOO_MANY_CONNECTIONS => Verdict::Elsewhere,
            Code::OVERLOADED
            | Code::TOO_MANY_SESSIONS
            | Code::DISK_FULL
            | Code::SEQUENCE_GAP
            | Code::NOT_READY
            | Code::TIMEOUT => Verdict::Later,
            Code::SESSION_EXPIRED | Code::SESSION_KEY => Verdict::Ended,
            _ => Verdict::Final,
        }
    }
}

/// A refusal without what it refuses.
struct Refusal<'a> {
    code: Code,
    retry: Micros,
    leader: &'a str,
    text: &'a str,
}

impl Refusal<'_> {
    fn attempt(&self) -> Attempt {
        // What cannot be an address is none.
        let is_address = |c: char| c.is_ascii_graphic();
        match self.code {
            Code::NOT_LEADER if self.leader.chars().all(is_address) => {
                Attempt::NotLeader(self.leader.to_owned())
            }
            Code::NOT_LEADER => Attempt::NotLeader(String::new()),
            code => Attempt::Refused(code, self.words()),
        }
    }

    fn failure(&self, outcome: Outcome) -> Failure {
        Failure::with_outcome(self.code, outcome, self.words())
    }

    /// What the text adds to the code, fit to be shown.
    fn words(&self) -> String {
        let known = self.text == self.code.text();
        self.text.chars().filter(|c| !known && !c.is_control()).collect()
    }
}

impl Session {
    pub(super) fn on_frame(&mut self, bytes: &[u8]) -> Result<(), wire::Error> {
        let response = Response::decode(&wire::decode(bytes)?)?;
        if let Link::Closing { .. } = self.link {
            self.on_closing(&response);
            return Ok(());
        }
        match response {
            Response::Reply { sequence, index, code, payload } => {
                self.on_reply(sequence, index, code, payload);
            }
            Response::QueryReply { id, index, code, payload } => {
                self.on_query_reply(CallId(id), index, code, payload);
            }
            Response::Event { subscription, index, ordinal, kind, payload } => {
                self.on_event(subscription, (index, ordinal), kind, payload);
            }
            Response::Lagged { subscription, oldest } => {
                if let Some(subscription) = self.subscriptions.lag(subscription, oldest) {
                    self.outputs.push_back(Output::Lagged { subscription, oldest });
                }
            }
            Response::Subscribed { id, index } => self.on_subscribed(id, index),
            Response::Notice(notice) => {
                let ours = Some(notice.session) == self.session();
                if ours && self.holdings.change(&notice) {
                    self.outputs.push_back(Output::Notice(notice));
                }
            }
            Response::Registered { correlation, session, timeout, .. } => {
                self.on_registered(correlation, session, timeout);
            }
            Response::Attached { session, notices, .. } => self.on_attached(session, &notices),
            Response::KeptAlive { session, .. } if Some(session) == self.session() => {
                if let Some(sent) = self.keep_alive.take() {
                    self.endpoints.succeeded();
                    self.renew(sent);
                }
            }
            Response::Refused { of, code, retry, leader, text } => {
                self.on_refused(of, &Refusal { code, retry, leader, text });
            }
            Response::Status { id: PROBE, .. } => self.probing = false,
            Response::Status { id, groups } => self.on_status(CallId(id), groups),
            Response::KeptAlive { .. } | Response::Closed { .. } | Response::Admin { .. } => {}
        }
        Ok(())
    }

    /// Only the answer to the close counts any more.
    fn on_closing(&mut self, response: &Response<'_>) {
        let of = |session: &SessionId| Some(*session) == self.session();
        match response {
            Response::Closed { session } if of(session) => self.closed(),
            Response::Refused { of: RefusedOf::Session(session), .. } if of(session) => {
                self.closed();
            }
            Response::Refused { of: RefusedOf::Connection, .. } => self.closed(),
            _ => {}
        }
    }

    fn on_reply(&mut self, sequence: Sequence, index: Index, code: Code, payload: &[u8]) {
        match code {
            // It stood in the log behind a gap and had no effect: begin again at the first
            // unanswered.
            Code::SEQUENCE_GAP => {
                self.stream.rewind();
                self.hold(Micros(0));
                return;
            }
            Code::SESSION_EXPIRED => {
                self.stream.refuse(sequence, true);
                self.expire();
                return;
            }
            _ => {}
        }
        let Some(answered) = self.stream.answer(sequence) else { return };
        self.endpoints.succeeded();
        self.load.reset();
        self.renew(answered.first_sent);
        self.seen = self.seen.max(index);
        self.recycle(answered.payload);
        if let Some(call) = answered.call {
            let result = if code == Code::REPLY_GONE {
                Err(Failure::from(code))
            } else {
                Ok(Answer { code, index, payload: self.copy(payload) })
            };
            self.finish(call, result);
        }
    }

    fn on_query_reply(&mut self, call: CallId, index: Index, code: Code, payload: &[u8]) {
        if !matches!(self.calls.work(call), Some(Work::Query { sent: true, .. })) {
            return;
        }
        self.endpoints.succeeded();
        self.load.reset();
        self.seen = self.seen.max(index);
        let payload = self.copy(payload);
        if let Some(mut work) = self.calls.finish(call) {
            self.forget(&work);
            if let Work::Query { operation, .. } = &mut work {
                self.recycle(std::mem::take(&mut operation.payload));
            }
            self.outputs.push_back(Output::Finished(call, Ok(Answer { code, index, payload })));
        }
    }

    fn on_status(&mut self, call: CallId, groups: Vec<GroupStatus>) {
        if matches!(self.calls.work(call), Some(Work::Status { sent: true })) {
            self.calls.finish(call);
            self.asked -= 1;
            self.outputs.push_back(Output::Status(call, groups));
        }
    }

    fn on_event(&mut self, id: u64, position: Position, kind: u16, payload: &[u8]) {
        if let Some(subscription) = self.subscriptions.deliver(id, position) {
            let (index, ordinal) = position;
            self.seen = self.seen.max(index);
            let payload = self.copy(payload);
            let event = Output::Event { subscription, index, ordinal, kind, payload };
            self.outputs.push_back(event);
        }
    }

    fn on_subscribed(&mut self, id: u64, index: Index) {
        if let Some(call) = self.subscriptions.confirm(id, index) {
            let answer = Answer { code: Code::OK, index, payload: Vec::new() };
            self.finish(call, Ok(answer));
        }
    }

    fn on_registered(&mut self, correlation: u64, session: SessionId, timeout: Micros) {
        if correlation != self.life || self.member.is_some() || !self.register_asked {
            return;
        }
        let Some(renewed) = self.register_sent else { return };
        self.endpoints.succeeded();
        self.load.reset();
        self.register_asked = false;
        self.member = Some(Member { session, timeout, attached: true, asked: false, renewed });
        // An earlier register, whose answer was lost, may be what opened it: so long ago, perhaps,
        // that it has expired. That is told, too, and once for each session.
        self.renew(renewed);
        if self.state != Some(SessionState::Connected) {
            self.become_state(SessionState::Suspended);
        }
    }

    fn on_attached(&mut self, session: SessionId, notices: &[Notice]) {
        let Some(member) = &mut self.member else { return };
        if member.session != session || !member.asked {
            return;
        }
        (member.attached, member.asked) = (true, false);
        self.endpoints.succeeded();
        self.load.reset();
        let mut news = Vec::new();
        self.holdings.replace(session, notices, &mut news);
        self.outputs.extend(news.into_iter().map(Output::Notice));
        // A deposed leader may answer an attach, but not this.
        self.keep_alive();
    }

    fn on_refused(&mut self, of: RefusedOf, refusal: &Refusal<'_>) {
        match of {
            RefusedOf::Connection => self.leave(refusal.attempt()),
            RefusedOf::Command(sequence) => self.on_command_refused(sequence, refusal),
            RefusedOf::Register(correlation) if correlation == self.life => {
                self.on_register_refused(refusal);
            }
            RefusedOf::Session(session) if Some(session) == self.session() => {
                self.on_session_refused(refusal);
            }
            RefusedOf::Status(PROBE) => self.probing = false,
            RefusedOf::Query(id) | RefusedOf::Status(id) => {
                self.on_query_refused(CallId(id), refusal);
            }
            RefusedOf::Subscription(id) => self.on_subscription_refused(id, refusal),
            // Frames of an unknown kind are only sent by a later version, which knows what to do.
            RefusedOf::Register(_)
            | RefusedOf::Session(_)
            | RefusedOf::Frame(_)
            | RefusedOf::Admin(_) => {}
        }
    }

    fn on_command_refused(&mut self, sequence: Sequence, refusal: &Refusal<'_>) {
        // That the session has expired says nothing of what it did before, but all of what is
        // refused now.
        let certain =
            refusal.code.outcome() == Outcome::NotApplied || refusal.code == Code::SESSION_EXPIRED;
        // A node that refuses one refuses each of those behind it: that says nothing new.
        let is_echo = self.stream.is_unsent(sequence);
        if !self.stream.refuse(sequence, certain) {
            return;
        }
        match Verdict::of(refusal.code) {
            Verdict::Later if is_echo => {}
            Verdict::Elsewhere => self.leave(refusal.attempt()),
            Verdict::Ended => self.expire(),
            Verdict::Later => {
                if refusal.code == Code::SEQUENCE_GAP {
                    self.stream.rewind();
                }
                self.endpoints.note(refusal.attempt());
                self.hold(refusal.retry);
            }
            Verdict::Final => {
                let (call, outcome) = self.stream.abandon(sequence);
                if let Some(call) = call {
                    self.finish(call, Err(refusal.failure(outcome)));
                }
                self.hold(Micros(0));
            }
        }
    }

    fn on_register_refused(&mut self, refusal: &Refusal<'_>) {
        self.register_asked = false;
        match Verdict::of(refusal.code) {
            Verdict::Elsewhere => self.leave(refusal.attempt()),
            Verdict::Later => {
                self.endpoints.note(refusal.attempt());
                self.hold(refusal.retry);
            }
            Verdict::Ended | Verdict::Final => {
                self.wanted = false;
                let mut commands = std::mem::take(&mut self.scratch);
                self.calls.select(&mut commands, |work| matches!(work, Work::Command(_)));
                for call in commands.drain(..) {
                    self.finish(call, Err(refusal.failure(Outcome::NotApplied)));
                }
                self.scratch = commands;
            }
        }
    }

    fn on_session_refused(&mut self, refusal: &Refusal<'_>) {
        match Verdict::of(refusal.code) {
            Verdict::Ended => self.expire(),
            Verdict::Later => {
                if let Some(member) = &mut self.member {
                    member.asked = false;
                }
                self.keep_alive = None;
                self.endpoints.note(refusal.attempt());
                self.hold(refusal.retry);
            }
            Verdict::Elsewhere | Verdict::Final => self.leave(refusal.attempt()),
        }
    }

    fn on_query_refused(&mut self, call: CallId, refusal: &Refusal<'_>) {
        let Some(Work::Query { sent, .. } | Work::Status { sent }) = self.calls.work(call) else {
            return;
        };
        match Verdict::of(refusal.code) {
            Verdict::Elsewhere if *sent => self.leave(refusal.attempt()),
            Verdict::Later if *sent => {
                *sent = false;
                self.asked -= 1;
                self.waiting.push_back(call);
                self.endpoints.note(refusal.attempt());
                self.hold(refusal.retry);
            }
            Verdict::Elsewhere | Verdict::Later => {}
            Verdict::Ended if self.member.is_some() => self.expire(),
            Verdict::Ended | Verdict::Final => {
                self.finish(call, Err(refusal.failure(Outcome::NotApplied)));
            }
        }
    }

    fn on_subscription_refused(&mut self, id: u64, refusal: &Refusal<'_>) {
        match Verdict::of(refusal.code) {
            Verdict::Elsewhere => self.leave(refusal.attempt()),
            Verdict::Later => {
                self.subscriptions.refuse(id);
                self.endpoints.note(refusal.attempt());
                self.hold(refusal.retry);
            }
            Verdict::Ended | Verdict::Final => {
                let Some(gone) = self.subscriptions.remove(id) else { return };
                let failure = refusal.failure(Outcome::NotApplied);
                if gone.confirmed {
                    self.outputs.push_back(Output::Ended { subscription: gone.id, failure });
                } else {
                    self.finish(gone.id, Err(failure));
                }
            }
        }
    }
}
