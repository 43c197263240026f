//! What happened, as text for people and as one number for comparing two runs.
//!
//! Faults, starts and changes of leaders are lines that are always written. Every event besides —
//! each frame, each end of a disk operation — goes into the number, and is written out only where
//! somebody wants to read it.

use std::collections::VecDeque;
use std::fmt;
use std::io::Write;

use margay_log::id::Micros;

/// How much of the trace is kept for a failure's report.
const LAST: usize = 100;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Trace {
    /// Print every line.
    loud: bool,
    /// Write out every event.
    full: bool,
    hash: u64,
    last: VecDeque<String>,
}

impl Trace {
    pub(super) fn new(loud: bool, full: bool) -> Trace {
        Trace { loud, full: loud || full, hash: 0xcbf2_9ce4_8422_2325, last: VecDeque::new() }
    }

    /// Notes something that people should read of. Whatever is noted must be a function of the
    /// seed.
    pub(super) fn line(&mut self, now: Micros, what: fmt::Arguments<'_>) {
        let text = timed(now, what);
        for byte in text.bytes() {
            self.mix(u64::from(byte));
        }
        self.keep(text);
    }

    /// Whether every event is written out.
    pub(super) fn is_full(&self) -> bool {
        self.full
    }

    /// Notes one event by numbers that tell it from others, and by words for whoever wants them.
    pub(super) fn event(&mut self, now: Micros, numbers: [u64; 3], what: fmt::Arguments<'_>) {
        self.mix(now.0);
        numbers.into_iter().for_each(|number| self.mix(number));
        if self.full {
            self.keep(timed(now, what));
        }
    }

    /// FNV-1a, a word at a time.
    fn mix(&mut self, number: u64) {
        self.hash = (self.hash ^ number).wrapping_mul(0x100_0000_01b3).rotate_left(17);
    }

    fn keep(&mut self, text: String) {
        if self.loud {
            // Where nobody listens any more the run goes on.
            let _ = writeln!(std::io::stdout(), "{text}");
        }
        if self.last.len() == LAST {
            self.last.pop_front();
        }
        self.last.push_back(text);
    }

    /// Equal for equal runs.
    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    /// The last lines, oldest first.
    pub(super) fn last(&self) -> Vec<String> {
        self.last.iter().cloned().collect()
    }
}

fn timed(now: Micros, what: fmt::Arguments<'_>) -> String {
    let (seconds, micros) = (now.0 / 1_000_000, now.0 % 1_000_000);
    format!("{seconds:>5}.{micros:06} {what}")
}
