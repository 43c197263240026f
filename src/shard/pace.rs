//! How long turns take, and what they take long with.
//!
//! The length of a turn is what the machine made of it: what others ran on the same CPU meanwhile
//! counts. So there is a second figure, what a turn itself ran: the rest of a long one was waiting.
//! With `MARGAY_LOG=margay::shard=debug` each long turn is said, with its parts.

use margay_log::id::Micros;

use super::sys;
use crate::config;
use crate::replica::LongestTurn;

/// The parts of a turn, in order.
const PARTS: usize = 4;
/// What this thread has used is looked up at most this often: what a turn ran is said that much too
/// high at worst.
const LOOK: Micros = Micros(200);

/// The longest turns of late, and the parts of the current one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Pace {
    /// When `now` began to be collected.
    since: Micros,
    /// In this period, and in the one before.
    now: Longest,
    before: Longest,
    began: Micros,
    /// Ends of the parts: completions, news and deadlines, groups, sends.
    ends: [Micros; PARTS],
    part: usize,
    /// What this thread had used when it was last looked up, and when that was.
    used: sys::Used,
    looked: Micros,
}

/// The longest of some turns.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Longest {
    took: Micros,
    ended: Micros,
    /// What a turn itself ran, at most: not necessarily the same one.
    ran: Micros,
}

impl Longest {
    fn max(self, other: Longest) -> Longest {
        let longer = if other.took > self.took { other } else { self };
        Longest { ran: self.ran.max(other.ran), ..longer }
    }
}

impl Pace {
    /// A turn begins.
    pub(super) fn begin(&mut self, began: Micros) {
        if began.since(self.looked) >= LOOK {
            (self.used, self.looked) = (sys::used(), began);
        }
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
            let is_recent = age.0 < 2 * config::PACE_PERIOD.0;
            self.before = if is_recent { self.now } else { Longest::default() };
            (self.since, self.now) = (began, Longest::default());
        }
        // It cannot have run longer than it took.
        let longest = Longest { took, ended: end, ran: Micros(0) };
        let is_long = took >= config::TURN_ALARM;
        if is_long || took > self.now.ran {
            let used = sys::used();
            let ran = used.ran.since(self.used.ran).min(took);
            self.now = self.now.max(Longest { ran, ..longest });
            if is_long {
                self.say(took, ran, used, completions);
            }
        }
        self.now = self.now.max(longest);
        took
    }

    fn say(&self, took: Micros, ran: Micros, used: sys::Used, completions: usize) {
        let before = self.used;
        let system = used.system.since(before.system).0;
        let (faults, preempted) = (used.faults - before.faults, used.preempted - before.preempted);
        let [received, due, groups, sent] = self.ends;
        let (sent, groups) = (sent.since(groups).0, groups.since(due).0);
        let (due, received) = (due.since(received).0, received.since(self.began).0);
        let (took, ran) = (took.0, ran.0);
        tracing::debug!(
            took,
            ran,
            system,
            faults,
            preempted,
            completions,
            received,
            due,
            groups,
            sent,
            "a long turn, in us"
        );
    }

    /// The longest turns in this period and the one before.
    pub(super) fn longest(self, now: Micros) -> LongestTurn {
        let longest = match now.since(self.since).0 / config::PACE_PERIOD.0 {
            0 => self.now.max(self.before),
            1 => self.now,
            _ => Longest::default(),
        };
        LongestTurn { took: longest.took, ago: now.since(longest.ended), ran: longest.ran }
    }
}
