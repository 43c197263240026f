//! How calls end without an answer, and what may be said of them then.

use super::*;

impl Session {
    /// Ends a call, if it has not ended before.
    pub(super) fn finish(&mut self, call: CallId, result: Result<Answer, Failure>) {
        if let Some(work) = self.calls.finish(call) {
            self.forget(&work);
            self.outputs.push_back(Output::Finished(call, result));
        }
    }

    /// A call that was at `work` expects no answer any more.
    pub(super) fn forget(&mut self, work: &Work) {
        if let Work::Query { sent: true, .. } | Work::Status { sent: true } = work {
            self.asked -= 1;
        }
    }

    /// Ends the calls whose deadline has passed.
    pub(super) fn end_overdue(&mut self) {
        let mut due = std::mem::take(&mut self.scratch);
        self.calls.overdue(self.now, &mut due);
        for call in &due {
            let outcome = self.give_up(*call);
            let failure = self.late(*call, outcome);
            self.finish(*call, Err(failure));
        }
        if !due.is_empty() {
            self.waiting.retain(|call| self.calls.work(*call).is_some());
        }
        due.clear();
        self.scratch = due;
    }

    /// Ends the calls for which `wanted` says so, with what is known of each.
    pub(super) fn end_calls(&mut self, code: Code, wanted: impl Fn(&mut Work) -> bool) {
        let mut ending = std::mem::take(&mut self.scratch);
        self.calls.select(&mut ending, wanted);
        for call in ending.drain(..) {
            let outcome = self.give_up(call);
            self.finish(call, Err(Failure::with_outcome(code, outcome, "")));
        }
        self.scratch = ending;
        self.waiting.retain(|call| self.calls.work(*call).is_some());
    }

    /// Nobody waits for this call any more. What it may have done:
    pub(super) fn give_up(&mut self, call: CallId) -> Outcome {
        match self.calls.work(call) {
            Some(Work::Sent(sequence)) => {
                let sequence = *sequence;
                self.stream.abandon(sequence).1
            }
            Some(Work::Subscribe) => {
                self.subscriptions.remove(call.0);
                if self.link == Link::Open {
                    Request::Unsubscribe { id: call.0 }.encode(&mut self.out);
                }
                Outcome::NotApplied
            }
            Some(Work::Query { sent: true, .. } | Work::Status { sent: true }) => {
                self.unheard = true;
                Outcome::NotApplied
            }
            _ => Outcome::NotApplied,
        }
    }

    /// A call was not answered in time: what was tried.
    pub(super) fn late(&self, call: CallId, outcome: Outcome) -> Failure {
        let tenths = (self.now.since(self.calls.submitted(call)).0 + 50_000) / 100_000;
        let after = format!("{}.{}s", tenths / 10, tenths % 10);
        let tried = self.endpoints.to_string();
        let tried = if tried.is_empty() { tried } else { format!(" ({tried})") };
        if let (Link::Open, Some(code)) = (&self.link, self.endpoints.refused()) {
            // It was asked again and again, and always said why not. Where that is all there is to
            // tell, the code tells it.
            let address = self.endpoints.current();
            let is_all = tried == format!(" ({address}: {code})");
            let tried = if is_all { format!(" by {address}") } else { tried };
            return Failure::with_outcome(code, outcome, format!("for {after}{tried}"));
        }
        if self.link == Link::Open {
            let address = self.endpoints.current();
            let text = format!("no answer from {address} after {after}{tried}");
            return Failure::with_outcome(Code::TIMEOUT, outcome, text);
        }
        let text = format!("no leader for group {} after {after}{tried}", self.config.group.0);
        Failure::with_outcome(Code::NO_LEADER, outcome, text)
    }
}
