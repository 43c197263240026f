//! Which address to try next, when, and what came of those tried before.

use std::fmt;

use margay_log::id::Micros;

use super::backoff::{Backoff, Random};
use crate::machine::Code;

/// Attempts remembered for error messages.
const ATTEMPTS_MAX: usize = 16;

/// Hints followed in a row without a pause. While a leader is being elected, nodes point at the old
/// one.
const HINTS_MAX: u32 = 3;

/// What servers of other protocols do, those of TLS for example.
pub(super) const NO_HELLO: &str = "disconnected before it said hello: is it a margay node?";

/// The addresses of a cluster as one session knows them.
#[derive(Debug)]
pub(super) struct Endpoints {
    list: Vec<String>,
    next: usize,
    current: String,
    hint: Option<String>,
    /// Hints followed since the last success.
    hints: u32,
    /// Failed attempts since the last success.
    failures: usize,
    backoff: Backoff,
    attempts: Vec<(String, Attempt)>,
}

/// What came of trying an address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Attempt {
    /// No connection, in the words of whoever tried.
    Failed(String),
    /// The connection was closed before a hello came.
    NoHello,
    /// The connection broke.
    Disconnected,
    /// An answer was due and did not come.
    TimedOut,
    /// It does not lead the group; it may know who does.
    NotLeader(String),
    /// It refused, and why.
    Refused(Code, String),
    /// What came was not our protocol.
    Bytes(crate::wire::Error),
}

impl Endpoints {
    /// Shuffled, the starting point differs from seed to seed, so that many clients do not all
    /// begin at one node.
    pub(super) fn new(
        list: Vec<String>,
        shuffle: bool,
        backoff: Backoff,
        random: &mut Random,
    ) -> Endpoints {
        assert!(!list.is_empty(), "a session needs at least one endpoint");
        let drawn = (random.next() % list.len() as u64) as usize;
        let next = if shuffle { drawn } else { 0 };
        Endpoints {
            list,
            next,
            current: String::new(),
            hint: None,
            hints: 0,
            failures: 0,
            backoff,
            attempts: Vec::new(),
        }
    }

    /// The address to connect to now.
    pub(super) fn next(&mut self) -> &str {
        self.current = self.hint.take().unwrap_or_else(|| {
            let address = self.list[self.next].clone();
            self.next = (self.next + 1) % self.list.len();
            address
        });
        &self.current
    }

    /// The address that was tried last.
    pub(super) fn current(&self) -> &str {
        &self.current
    }

    /// The current address is no good. Returns how long to wait before the next: not at all while
    /// there are addresses that have not been tried, or a leader's address to follow.
    pub(super) fn failed(&mut self, attempt: Attempt, random: &mut Random) -> Micros {
        self.failures += 1;
        if let Attempt::NotLeader(hint) = &attempt
            && !hint.is_empty()
            && *hint != self.current
        {
            self.hint = Some(hint.clone());
            self.hints += 1;
        }
        self.remember(attempt);
        if self.hint.is_some() && self.hints <= HINTS_MAX || self.failures < self.list.len() {
            return Micros(0);
        }
        self.backoff.next(random)
    }

    /// The current address answered, though not as hoped.
    pub(super) fn note(&mut self, attempt: Attempt) {
        self.remember(attempt);
    }

    /// Why the current address does not do what is asked for, if that is the last it said.
    pub(super) fn refused(&self) -> Option<Code> {
        match self.attempts.last() {
            Some((address, Attempt::Refused(code, _))) if *address == self.current => Some(*code),
            _ => None,
        }
    }

    /// Whether all addresses say that this client must come in another way: encrypted, or to
    /// another cluster. Trying again does not help.
    pub(super) fn are_closed(&self) -> bool {
        let is_closed = |attempt: &Attempt| {
            matches!(attempt, Attempt::Refused(Code::TLS_REQUIRED | Code::CLUSTER_MISMATCH, _))
        };
        let tried = |address: &String| self.attempts.iter().find(|(tried, _)| tried == address);
        self.list.iter().all(|address| tried(address).is_some_and(|(_, said)| is_closed(said)))
    }

    /// The next attempt goes to the current address.
    pub(super) fn again(&mut self) {
        self.hint = Some(self.current.clone());
    }

    /// The current address does what is asked for.
    pub(super) fn succeeded(&mut self) {
        if !self.attempts.is_empty() {
            self.hints = 0;
            self.failures = 0;
            self.backoff.reset();
            self.attempts.clear();
        }
    }

    fn remember(&mut self, attempt: Attempt) {
        self.attempts.retain(|(address, _)| *address != self.current);
        if self.attempts.len() == ATTEMPTS_MAX {
            self.attempts.remove(0);
        }
        self.attempts.push((self.current.clone(), attempt));
    }
}

/// What was tried since the last success, in order.
impl fmt::Display for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (address, attempt)) in self.attempts.iter().enumerate() {
            let separator = if n == 0 { "" } else { "; " };
            write!(f, "{separator}{address}: {attempt}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Attempt::Failed(reason) => f.write_str(reason),
            Attempt::NoHello => f.write_str(NO_HELLO),
            Attempt::Disconnected => f.write_str("disconnected"),
            Attempt::TimedOut => f.write_str("timed out"),
            Attempt::NotLeader(hint) if hint.is_empty() => f.write_str("not leader, knows none"),
            Attempt::NotLeader(hint) => write!(f, "not leader, hint {hint}"),
            Attempt::Refused(code, text) if text.is_empty() => write!(f, "{code}"),
            Attempt::Refused(code, text) => write!(f, "{code}: {text}"),
            Attempt::Bytes(error) => write!(f, "{error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints() -> (Endpoints, Random) {
        let mut random = Random::new(0);
        let list = ["n1:5150", "n2:5150", "n3:5150"].map(str::to_owned).to_vec();
        let backoff = Backoff::new(Micros(20_000), Micros(500_000));
        (Endpoints::new(list, false, backoff, &mut random), random)
    }

    #[test]
    fn all_are_tried_before_the_first_pause_and_the_story_is_told() {
        let (mut endpoints, mut random) = endpoints();
        let mut fail = |endpoints: &mut Endpoints, attempt| endpoints.failed(attempt, &mut random);
        assert_eq!(endpoints.next(), "n1:5150");
        let refused = Attempt::Failed("connection refused".to_owned());
        assert_eq!(fail(&mut endpoints, refused), Micros(0));
        assert_eq!(endpoints.next(), "n2:5150");
        let hint = Attempt::NotLeader("n3:5150".to_owned());
        assert_eq!(fail(&mut endpoints, hint), Micros(0));
        assert_eq!(endpoints.next(), "n3:5150", "the hint");
        assert!(fail(&mut endpoints, Attempt::TimedOut) > Micros(0));
        assert_eq!(
            endpoints.to_string(),
            "n1:5150: connection refused; n2:5150: not leader, hint n3:5150; n3:5150: timed out",
        );
        endpoints.succeeded();
        assert_eq!(endpoints.to_string(), "");
    }

    #[test]
    fn it_is_hopeless_when_the_last_address_has_said_so_too() {
        let (mut endpoints, mut random) = endpoints();
        let closed = || Attempt::Refused(Code::TLS_REQUIRED, String::new());
        for attempt in [closed(), Attempt::TimedOut, closed(), closed(), closed()] {
            assert!(!endpoints.are_closed());
            endpoints.next();
            endpoints.failed(attempt, &mut random);
        }
        assert!(endpoints.are_closed(), "{endpoints}");
        endpoints.next();
        endpoints.failed(Attempt::NoHello, &mut random);
        assert!(!endpoints.are_closed());
    }

    #[test]
    fn two_nodes_that_point_at_each_other_do_not_make_a_storm() {
        let (mut endpoints, mut random) = endpoints();
        let mut pauses = 0;
        for n in 0..20 {
            endpoints.next();
            let other = if n % 2 == 0 { "n2:5150" } else { "n1:5150" };
            let pause = endpoints.failed(Attempt::NotLeader(other.to_owned()), &mut random);
            pauses += u32::from(pause > Micros(0));
        }
        assert!(pauses >= 15, "{pauses} pauses");
    }
}
