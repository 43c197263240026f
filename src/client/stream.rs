//! The commands of one session that were sent: numbered without gaps, kept until answered, sent
//! again in order.
//!
//! What may be said of a command that is given up depends on what became of each time it was sent.
//! One that was refused every time has never entered a log; one that was sent on a connection that
//! broke may have. Either way its sequence stays taken, for those behind it have their numbers
//! already.
//!
//! ```text
//!  answered, dropped | first … sent on this connection … | cursor … to be sent (again) … | last
//! ```

use std::collections::VecDeque;

use margay_log::id::Micros;

use super::calls::{CallId, Operation};
use crate::machine::{Code, Outcome, ResourceId, Sequence, kind};
use crate::wire::client::Request;

/// Sent, or sent before and to be sent again; and not answered, or behind one that is not.
#[derive(Debug)]
struct Entry {
    /// Who waits; nobody once its deadline has passed.
    call: Option<CallId>,
    operation: Operation,
    /// When it was sent the first time: it cannot have renewed the session before that.
    first_sent: Micros,
    /// Times sent on this connection.
    sends: u8,
    /// Times it was refused by name on this connection.
    refusals: u8,
    /// Times sent on this connection that the refusal of one before it answered for.
    swept: u8,
    /// Sent on an earlier connection without a certain refusal: it may be in a log.
    tainted: bool,
    answered: bool,
}

impl Entry {
    /// Whether no log can hold it: every time it was sent, it or one before it was refused. The two
    /// are counted apart, for a refusal by name may come after the sweep that has answered for it.
    fn is_outside(&self) -> bool {
        !self.tainted && self.refusals.max(self.swept) >= self.sends
    }

    fn is_filler(&self) -> bool {
        self.operation.kind == kind::REFUSED
    }
}

/// A command that has been answered.
pub(super) struct Answered {
    pub(super) call: Option<CallId>,
    pub(super) first_sent: Micros,
    /// What it carried, for its space.
    pub(super) payload: Vec<u8>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Stream {
    first: Sequence,
    entries: VecDeque<Entry>,
    /// Index of the first entry that is to be sent (again).
    cursor: usize,
    /// Entries nobody waits for.
    orphans: usize,
}

impl Stream {
    pub(super) fn new() -> Stream {
        Stream { first: Sequence(1), entries: VecDeque::new(), cursor: 0, orphans: 0 }
    }

    /// End of the contiguous prefix of replies received.
    pub(super) fn acked(&self) -> Sequence {
        Sequence(self.first.0 - 1)
    }

    /// The last number given out.
    pub(super) fn last(&self) -> Sequence {
        Sequence(self.first.0 - 1 + self.entries.len() as u64)
    }

    /// The last command a read must see. One that was given up outside of any log changes nothing:
    /// reads need not wait until its number is used up.
    pub(super) fn last_for_reads(&self) -> Sequence {
        let fillers = self.entries.iter().rev().take_while(|entry| entry.is_filler()).count();
        Sequence(self.last().0 - fillers as u64)
    }

    /// Entries that nobody waits for but that must go through.
    pub(super) fn orphans(&self) -> usize {
        self.orphans
    }

    /// Sent on this connection and not answered.
    pub(super) fn outstanding(&self) -> usize {
        self.cursor
    }

    /// Whether something is to be sent.
    pub(super) fn has_unsent(&self) -> bool {
        self.cursor < self.entries.len()
    }

    /// Whether an unanswered command is to be sent (again).
    pub(super) fn is_unsent(&self, sequence: Sequence) -> bool {
        self.position(sequence).is_some_and(|position| position >= self.cursor)
    }

    /// Gives a command the next number. It is sent by the next [`Stream::send`].
    pub(super) fn push(&mut self, call: CallId, operation: Operation, now: Micros) -> Sequence {
        self.entries.push_back(Entry {
            call: Some(call),
            operation,
            first_sent: now,
            sends: 0,
            refusals: 0,
            swept: 0,
            tainted: false,
            answered: false,
        });
        self.last()
    }

    /// Encodes the command at the cursor and moves on.
    pub(super) fn send(&mut self, out: &mut Vec<u8>) {
        let (sequence, acked) = (Sequence(self.first.0 + self.cursor as u64), self.acked());
        let entry = &mut self.entries[self.cursor];
        self.cursor += 1;
        if entry.answered {
            return;
        }
        if entry.sends == u8::MAX {
            entry.tainted = true;
        }
        entry.sends = entry.sends.saturating_add(1);
        let Operation { kind, schema, resource, ref payload } = entry.operation;
        Request::Command { sequence, acked, kind, schema, resource, payload }.encode(out);
    }

    /// Takes the answer to a command; `None` for one that was answered before or never sent.
    pub(super) fn answer(&mut self, sequence: Sequence) -> Option<Answered> {
        let position = self.position(sequence)?;
        let entry = &mut self.entries[position];
        entry.answered = true;
        let answered = Answered {
            call: entry.call.take(),
            first_sent: entry.first_sent,
            payload: std::mem::take(&mut entry.operation.payload),
        };
        self.orphans -= usize::from(answered.call.is_none());
        while self.entries.front().is_some_and(|entry| entry.answered) {
            self.entries.pop_front();
            self.first = self.first.next();
            self.cursor = self.cursor.saturating_sub(1);
        }
        Some(answered)
    }

    /// A command was refused, and with it all that was sent behind it: they are to be sent again.
    /// `certain` says that a refusal proves the command has entered no log. Returns whether it is
    /// under way at all.
    ///
    /// Commands are admitted in order, so while one is outside, so are those behind it. Not so when
    /// the refused one has been sent again meanwhile: then the refusal may be of the earlier time.
    pub(super) fn refuse(&mut self, sequence: Sequence, certain: bool) -> bool {
        let Some(position) = self.position(sequence) else { return false };
        let entry = &mut self.entries[position];
        entry.refusals = entry.refusals.saturating_add(1);
        entry.tainted |= !certain;
        let outside = entry.is_outside();
        for entry in self.entries.range_mut(position..) {
            entry.tainted |= !certain && entry.sends > 0;
            if outside {
                entry.swept = entry.sends;
            }
        }
        self.cursor = self.cursor.min(position);
        true
    }

    /// Everything is to be sent again on this connection.
    pub(super) fn rewind(&mut self) {
        self.cursor = 0;
    }

    /// The connection is gone: what was sent on it and not refused may have been heard.
    pub(super) fn lose(&mut self) {
        for entry in &mut self.entries {
            entry.tainted |= !entry.is_outside();
            (entry.sends, entry.refusals, entry.swept) = (0, 0, 0);
        }
        self.cursor = 0;
    }

    /// Nobody waits for this command any more. Its number stays: what cannot be in a log is
    /// replaced by a command that does nothing, anything else goes on being sent as it is. Returns
    /// who waited, and what is known of the command.
    pub(super) fn abandon(&mut self, sequence: Sequence) -> (Option<CallId>, Outcome) {
        let position = self.position(sequence).expect("only a command that is in the stream");
        let entry = &mut self.entries[position];
        let call = entry.call.take();
        self.orphans += usize::from(call.is_some());
        if !entry.is_outside() {
            return (call, Outcome::Unknown);
        }
        entry.operation = filler();
        (call, Outcome::NotApplied)
    }

    /// Where an unanswered command stands.
    fn position(&self, sequence: Sequence) -> Option<usize> {
        let position = usize::try_from(sequence.0.checked_sub(self.first.0)?).ok()?;
        self.entries.get(position).filter(|entry| !entry.answered).map(|_| position)
    }
}

/// Uses up a sequence and changes nothing: what the log itself keeps of a refused command.
fn filler() -> Operation {
    let mut payload = vec![0; 8];
    payload[..2].copy_from_slice(&Code::TIMEOUT.0.to_le_bytes());
    Operation { kind: kind::REFUSED, schema: 0, resource: ResourceId::REGISTRY, payload }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::calls::{Calls, Work};

    /// Three commands, all sent once.
    fn three_sent() -> (Stream, Vec<CallId>) {
        let (mut stream, mut calls, mut out) = (Stream::new(), Calls::default(), Vec::new());
        let ids: Vec<CallId> =
            (0..3).map(|_| calls.begin(Micros(0), Micros(1), Work::Subscribe)).collect();
        for id in &ids {
            let resource = ResourceId(5);
            let operation = Operation { kind: 18, schema: 1, resource, payload: Vec::new() };
            stream.push(*id, operation, Micros(0));
            stream.send(&mut out);
        }
        (stream, ids)
    }

    fn send_all(stream: &mut Stream) {
        while stream.has_unsent() {
            stream.send(&mut Vec::new());
        }
    }

    #[test]
    fn a_refusal_answers_for_all_behind_it() {
        let (mut stream, _) = three_sent();
        assert!(stream.refuse(Sequence(2), true));
        assert_eq!(stream.abandon(Sequence(3)).1, Outcome::NotApplied);
        assert_eq!(stream.abandon(Sequence(1)).1, Outcome::Unknown);
        assert_eq!(stream.outstanding(), 1);
    }

    #[test]
    fn a_refusal_that_may_be_of_an_earlier_time_proves_nothing() {
        let (mut stream, _) = three_sent();
        stream.refuse(Sequence(1), true);
        send_all(&mut stream);
        // The server refuses each by name; this is the answer to the first time 2 was sent.
        stream.refuse(Sequence(2), true);
        assert_eq!(stream.abandon(Sequence(2)).1, Outcome::Unknown);
        assert_eq!(stream.abandon(Sequence(3)).1, Outcome::Unknown);
    }

    #[test]
    fn one_refused_every_time_is_outside() {
        let (mut stream, _) = three_sent();
        for _ in 0..2 {
            (1..=3).for_each(|n| assert!(stream.refuse(Sequence(n), true)));
            send_all(&mut stream);
        }
        (1..=3).for_each(|n| assert!(stream.refuse(Sequence(n), true)));
        assert_eq!(stream.abandon(Sequence(3)).1, Outcome::NotApplied);
    }

    #[test]
    fn what_was_under_way_when_the_connection_broke_stays_in_doubt() {
        let (mut stream, _) = three_sent();
        stream.refuse(Sequence(3), true);
        stream.lose();
        send_all(&mut stream);
        stream.refuse(Sequence(1), true);
        assert_eq!(stream.abandon(Sequence(1)).1, Outcome::Unknown);
        // 3 was refused on both connections, but 1 may be in a log, and 2 and 3 may have followed
        // it there.
        assert_eq!(stream.abandon(Sequence(3)).1, Outcome::Unknown);
        assert_eq!(stream.orphans(), 2);
    }

    #[test]
    fn answers_out_of_order_are_kept_until_the_prefix_is_whole() {
        let (mut stream, ids) = three_sent();
        assert!(stream.answer(Sequence(4)).is_none(), "never sent");
        assert_eq!(stream.answer(Sequence(2)).unwrap().call, Some(ids[1]));
        assert!(stream.answer(Sequence(2)).is_none(), "once");
        assert_eq!(stream.acked(), Sequence(0));
        assert_eq!(stream.answer(Sequence(1)).unwrap().call, Some(ids[0]));
        assert_eq!((stream.acked(), stream.last()), (Sequence(2), Sequence(3)));
        assert_eq!(stream.outstanding(), 1);
    }
}
