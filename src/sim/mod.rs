//! A whole cluster and its clients on one thread, from one seed.
//!
//! The replicas, logs, sessions, resources and handles are those that ship; only disks, network,
//! clients' programs and time are simulated. A run has two phases: faults, drawn from the seed, and
//! then peace, in which everything must converge. After every turn what must hold is checked; at
//! the end what the clients saw is judged. The same seed gives the same run, byte for byte.
//!
//! What does not live here: sockets, files, and anything that a run could not repeat.

mod check;
mod checker;
mod client;
mod clock;
mod cluster;
mod history;
pub mod linearizable;
pub mod models;
mod nemesis;
mod network;
mod node;
mod queue;
mod run;
mod trace;
mod workload;

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use margay_log::id::Micros;

pub use self::check::{Request, Simulated, check, check_with};
use self::run::{Run, Subject};
use crate::machine::StateMachine;
use crate::resource::registry::Registry;
pub use margay_log::rng::Rng;

/// What to simulate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Everything is drawn from it.
    pub seed: u64,
    /// Nodes that found the cluster, 1 to 7. Drawn from the seed by default: of ten clusters six
    /// have 3, one each has 1, 2, 4 and 5.
    pub nodes: usize,
    /// Clients. Default 3.
    pub clients: usize,
    /// Virtual time with faults, in microseconds; twice as long where leaders come and go all the
    /// time. Drawn from the seed by default: 1.5 to 5.5 s.
    pub trouble: Micros,
    /// Virtual time after that in which everything must come to its end. Default 60 s.
    pub peace: Micros,
    /// Which faults are made. Default: those that are drawn.
    pub faults: Faults,
    /// What runs are to be about. Default: everything.
    pub focus: Option<Focus>,
    /// Print the trace.
    pub loud: bool,
    /// A known bug that is put back for this run. Default none.
    #[cfg(feature = "breaks")]
    pub broken: Option<margay_log::breaks::Break>,
}

impl Options {
    /// The defaults for a seed.
    #[must_use]
    pub fn new(seed: u64) -> Options {
        let mut rng = Rng::new(!seed);
        Options {
            seed,
            nodes: [3, 3, 3, 3, 3, 3, 1, 2, 4, 5][rng.below(10) as usize],
            clients: 3,
            trouble: Micros::from_millis(1_500 + rng.below(4_000)),
            peace: Micros::from_millis(60_000),
            faults: Faults::Drawn,
            focus: None,
            loud: false,
            #[cfg(feature = "breaks")]
            broken: None,
        }
    }
}

/// What runs are to be about: a few kinds of faults, and one kind of resource. Where many faults
/// are at work, those that need a moment of quiet come to nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Focus {
    /// The kinds of faults that every run has, and no others.
    pub faults: &'static [&'static str],
    /// What all clients use; `None` for what is drawn.
    pub resource: Option<&'static str>,
}

impl Focus {
    /// What a known bug is looked for with, if it is seldom found without.
    #[cfg(feature = "breaks")]
    #[must_use]
    pub fn of(broken: margay_log::breaks::Break) -> Option<Focus> {
        use margay_log::breaks as known;
        let (faults, resource): (&[&str], _) = match broken {
            known::COMMIT_OLD_TERM => (&["unheard leaders"], Some("map")),
            known::OLD_QUORUM_ONLY | known::NEW_QUORUM_ONLY => {
                (&["members", "cut", "heal"], Some("map"))
            }
            known::REMOVED_LEADER_COUNTS => (&["members", "crash"], Some("map")),
            known::READ_BEFORE_OWN_COMMIT => (&["unheard leaders", "short reigns"], Some("map")),
            known::READ_BY_OLD_ROUND => (&["late voters"], Some("map")),
            known::READ_GOES_BACK => (&["cut", "heal", "broken connections"], Some("leases")),
            known::LEASE_KEPT_ON_TRANSFER => (&["handed-over leader"], Some("leases")),
            known::LEASE_FORGOTTEN_AT_RESTART | known::LEASE_BROKEN_BY_VOTER => {
                (&["restarted voters"], Some("leases"))
            }
            known::LEASE_FROM_ANSWER => (&["late voters"], Some("leases")),
            known::LEASE_BEFORE_OWN_COMMIT => {
                (&["unheard leaders", "short reigns"], Some("leases"))
            }
            known::NEW_LEADER_EXPIRES_EARLY => (&["crash", "stranded leader"], Some("lock")),
            known::SAFE_TIME_FROM_RECEIPT => (&["late answers"], Some("lock")),
            known::ABA_ACK => (&["stalled leader"], Some("map")),
            known::TORN_TAIL_ACCEPTED => (&["crash", "slow disk"], None),
            known::WIPED_NODE_VOTES => (&["lost disk", "crash"], Some("map")),
            _ => return None,
        };
        Some(Focus { faults, resource })
    }
}

/// Which faults a run has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Faults {
    /// None at all.
    None,
    /// Of all kinds, drawn from the seed.
    Drawn,
    /// One follower lags for the first half of the trouble, because it is away or its disk is slow;
    /// at the end of the trouble it must have caught up.
    Laggard,
}

/// What a run came to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// Equal for equal runs.
    pub trace: u64,
    /// Virtual time that passed.
    pub time: Micros,
    /// Events that happened.
    pub events: u64,
    /// Operations that clients asked for.
    pub operations: u64,
    /// Of those, the ones that failed or whose outcome stayed unknown.
    pub unknown: u64,
    /// How often each kind of fault struck.
    pub faults: BTreeMap<&'static str, u64>,
    /// Snapshots that were finished.
    pub snapshots: u64,
    /// Snapshots that one node brought another.
    pub installs: u64,
    /// Histories whose search was given up.
    pub given_up: u64,
}

impl Summary {
    /// Adds another run; the trace is that of the last one.
    fn add(&mut self, other: Summary) {
        self.trace = other.trace;
        self.time = self.time.after(other.time);
        self.events += other.events;
        self.operations += other.operations;
        self.unknown += other.unknown;
        self.snapshots += other.snapshots;
        self.installs += other.installs;
        self.given_up += other.given_up;
        for (name, count) in other.faults {
            *self.faults.entry(name).or_default() += count;
        }
    }
}

/// A property that did not hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// What should hold.
    pub property: &'static str,
    /// What was seen.
    pub details: String,
    /// The seed that shows it.
    pub seed: u64,
    /// The last events before it.
    pub last: Vec<String>,
}

impl Failure {
    pub(self) fn new(property: &'static str, details: impl Into<String>) -> Failure {
        Failure { property, details: details.into(), seed: 0, last: Vec::new() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.last {
            writeln!(f, "{line}")?;
        }
        write!(f, "seed {} violates «{}»: {}", self.seed, self.property, self.details)
    }
}

impl std::error::Error for Failure {}

/// Runs one seed.
///
/// # Errors
/// The first property that did not hold.
pub fn run(options: Options) -> Result<Summary, Failure> {
    run_seed(options, Registry::new, |_| Ok(()), workload::draw)
}

/// Runs one seed: for any machine, with an invariant of it and with what clients do.
fn run_seed<S: StateMachine>(
    options: Options,
    state: fn() -> S,
    invariant: fn(&S) -> Result<(), String>,
    workloads: run::Draw,
) -> Result<Summary, Failure> {
    let once = |full| {
        let subject = Subject { state, invariant, workloads };
        run_once(options, full, subject)
    };
    // The first time without words: they cost more than the run.
    match once(false) {
        Err(first) if !options.loud => match once(true) {
            Err(again) if again.property == first.property => Err(again),
            _ => Err(first),
        },
        found => found,
    }
}

/// `full`: with every event written out.
fn run_once<S: StateMachine>(
    options: Options,
    full: bool,
    subject: Subject<S>,
) -> Result<Summary, Failure> {
    #[cfg(feature = "breaks")]
    let _switch = options.broken.map(margay_log::breaks::Break::switch_on);
    let mut run = Run::new(options, full, subject);
    // An assertion of the code under test is a finding like any other.
    let result = catch_unwind(AssertUnwindSafe(|| run.drive())).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
        Err(Failure::new("assertions hold", text))
    });
    result.map_err(|failure| Failure {
        seed: options.seed,
        last: run.cluster.trace.last(),
        ..failure
    })
}
