//! What is sent, and in which order.

use super::*;

impl Session {
    /// Encodes what may be sent now. Calls go out in the order in which they were made; those sent
    /// before go first, under their old numbers.
    pub(super) fn fill(&mut self) {
        if self.link != Link::Open || self.out.len() >= OUT_HIGH {
            return;
        }
        if self.outstanding() == 0 && !self.unheard {
            self.quiet_since = self.now;
        }
        if self.held_until.is_some_and(|until| until > self.now) {
            return;
        }
        self.subscriptions.send(&mut self.out);
        self.introduce();
        let attached = self.member.is_some_and(|member| member.attached);
        while self.out.len() < OUT_HIGH {
            if attached && self.stream.has_unsent() {
                self.stream.send(&mut self.out);
            } else if let Some(call) = self.waiting.front() {
                if !self.send(*call, attached) {
                    break;
                }
                self.waiting.pop_front();
            } else {
                break;
            }
        }
    }

    /// Says who we are, if that is known or wanted and was not said on this connection.
    pub(super) fn introduce(&mut self) {
        match &mut self.member {
            Some(member) if !member.attached && !member.asked => {
                member.asked = true;
                let (session, acked) = (member.session, self.stream.acked());
                let key = self.config.key_of(self.life);
                Request::Attach { session, key, acked }.encode(&mut self.out);
            }
            None if self.wanted && !self.register_asked => {
                self.register_asked = true;
                self.register_sent.get_or_insert(self.now);
                let (correlation, timeout) = (self.life, self.config.timeout);
                let key = self.config.key_of(self.life);
                Request::Register { correlation, key, timeout }.encode(&mut self.out);
            }
            _ => {}
        }
    }

    /// Encodes a waiting call; says whether that was possible.
    pub(super) fn send(&mut self, call: CallId, attached: bool) -> bool {
        let Some(work) = self.calls.work(call) else { return true };
        match work {
            Work::Command(operation) if attached => {
                let payload = std::mem::take(&mut operation.payload);
                let operation = Operation { payload, ..*operation };
                *work = Work::Sent(self.stream.push(call, operation, self.now));
                self.stream.send(&mut self.out);
            }
            // A session's reads go where its commands go, so that they can wait for them.
            Work::Query { level, operation, sent, .. } if attached || self.member.is_none() => {
                *sent = true;
                self.asked += 1;
                let Operation { kind, schema, resource, ref payload } = *operation;
                let (id, level, seen, after) =
                    (call.0, *level, self.seen, self.stream.last_for_reads());
                let query =
                    Request::Query { id, level, seen, after, kind, schema, resource, payload };
                query.encode(&mut self.out);
            }
            Work::Status { sent } => {
                *sent = true;
                self.asked += 1;
                Request::Status { id: call.0 }.encode(&mut self.out);
            }
            _ => return false,
        }
        true
    }

    /// Requests on this connection whose answer is due.
    pub(super) fn outstanding(&self) -> usize {
        let asked = self.register_asked || self.member.is_some_and(|m| m.asked && !m.attached);
        self.stream.outstanding()
            + self.asked
            + usize::from(asked)
            + usize::from(self.keep_alive.is_some())
            + usize::from(self.probing)
    }
}
