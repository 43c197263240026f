//! How long turns take, and what they take long with.
//!
//! The length of a turn is what the machine made of it: other threads' time on the same CPU counts.
//! With `MARGAY_LOG=margay::shard=debug` each long turn is said, with its parts and the time that
//! this thread itself ran.

use margay_log::id::Micros;

use super::sys;
use crate::config;

/// The parts of a turn, in order.
const PARTS: usize = 4;

/// The longest turns of late, and the parts of the current one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Pace {
    /// When `now` began to be collected.
    since: Micros,
    /// The longest turn in this period, and in the one before.
    now: Micros,
    before: Micros,
    began: Micros,
    /// Ends of the parts: completions, news and deadlines, groups, sends.
    ends: [Micros; PARTS],
    part: usize,
    /// What this thread had run when the turn began; 0 where nobody wants to know.
    ran: Micros,
}

impl Pace {
    /// A turn begins.
    pub(super) fn begin(&mut self, began: Micros) {
        let wanted = tracing::enabled!(tracing::Level::DEBUG);
        self.ran = if wanted { sys::ran() } else { Micros(0) };
        (self.began, self.part) = (began, 0);
    }

    /// A part of it ends.
    pub(super) fn lap(&mut self) {
        self.ends[self.part] = sys::now();
        self.part += 1;
    }

    /// The turn has ended, with its last part. Returns how long it was.
    pub(super) fn end(&mut self, completions: usize) -> Micros {
        let (began, end) = (self.began, self.ends[PARTS - 1]);
        let took = end.since(began);
        let age = began.since(self.since);
        if age >= config::PACE_PERIOD {
            let before = if age.0 < 2 * config::PACE_PERIOD.0 { self.now } else { Micros(0) };
            (self.since, self.now, self.before) = (began, Micros(0), before);
        }
        self.now = self.now.max(took);
        if took >= config::TURN_ALARM && self.ran > Micros(0) {
            let ran = sys::ran().since(self.ran).0;
            let [received, due, groups, sent] = self.ends;
            let (sent, groups) = (sent.since(groups).0, groups.since(due).0);
            let (due, received) = (due.since(received).0, received.since(began).0);
            let took = took.0;
            tracing::debug!(
                took,
                ran,
                completions,
                received,
                due,
                groups,
                sent,
                "a long turn, in us"
            );
        }
        took
    }

    /// The longest turn in this period and the one before.
    pub(super) fn longest(self, now: Micros) -> Micros {
        match now.since(self.since).0 / config::PACE_PERIOD.0 {
            0 => self.now.max(self.before),
            1 => self.now,
            _ => Micros(0),
        }
    }
}
