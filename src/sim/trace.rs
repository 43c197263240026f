//! What happened, as text for people and as one number for comparing two runs.

use std::fmt;

use margay_log::id::Micros;

/// How much of the trace is kept for a failure's report.
const LAST: usize = 200;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Trace {
    /// Print every line.
    loud: bool,
    hash: u64,
    last: std::collections::VecDeque<String>,
    text: String,
}

impl Trace {
    pub(super) fn new(loud: bool) -> Trace {
        Trace { loud, hash: 0xcbf2_9ce4_8422_2325, last: Default::default(), text: String::new() }
    }

    /// Notes one event. Whatever is noted must be a function of the seed.
    pub(super) fn line(&mut self, now: Micros, what: fmt::Arguments<'_>) {
        use fmt::Write;
        self.text.clear();
        let (seconds, micros) = (now.0 / 1_000_000, now.0 % 1_000_000);
        let _ = write!(self.text, "{seconds:>5}.{micros:06} {what}");
        for byte in self.text.bytes() {
            // FNV-1a.
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
        if self.loud {
            println!("{}", self.text);
        }
        if self.last.len() == LAST {
            self.last.pop_front();
        }
        self.last.push_back(self.text.clone());
    }

    /// Equal for equal runs.
    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    /// The last events, oldest first.
    pub(super) fn last(&self) -> Vec<String> {
        self.last.iter().cloned().collect()
    }
}
