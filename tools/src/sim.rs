//! `margay sim`: whole clusters with their faults in virtual time, seed after seed.

mod report;

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use margay::sim::{self, Failure, Options, Summary};

use crate::exit::Exit;
#[cfg(feature = "breaks")]
use crate::exit::NEGATIVE;
#[cfg(feature = "breaks")]
use crate::output;
use crate::output::Format;
use report::{Progress, Total};

/// Simulate clusters under faults and check everything they promise
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  margay sim                       # a hundred seeds
  margay sim --seeds 1000 --jobs 4
  margay sim --minutes 30 --from 5000
  margay sim --seed 4711           # one again, with its trace

The same seed gives the same run, on every machine. A failure prints the last events, the seed and
the property that did not hold, and ends with exit code 1.")]
pub(crate) struct Args {
    /// How many seeds [default: 100; to find known bugs at most 500 for each]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    seeds: Option<u64>,
    /// The first of them
    #[arg(long, value_name = "N", default_value_t = 1)]
    from: u64,
    /// Only this one, and print what happens
    #[arg(long, value_name = "N", conflicts_with_all = ["seeds", "from", "minutes", "breaks"])]
    seed: Option<u64>,
    /// As many seeds as fit into so many minutes
    #[arg(long, value_name = "M", conflicts_with = "seeds")]
    minutes: Option<u64>,
    /// Threads; each takes one seed at a time [default: one per CPU]
    #[arg(long, value_name = "J", value_parser = clap::value_parser!(u64).range(1..=1024))]
    jobs: Option<u64>,
    /// Nodes of each cluster [default: 3 to 5, mostly 3]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=7))]
    nodes: Option<u64>,
    /// Clients of each cluster
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=32))]
    clients: u64,
    /// Format of the result
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value = "table")]
    output: Format,
    /// Put a known bug back and see whether it is found; builds with the feature `breaks` only
    #[arg(long = "break", value_name = "NAME")]
    broken: Option<String>,
    /// Put every known bug back, one after the other, and print which are found
    #[arg(long, conflicts_with_all = ["broken", "minutes"])]
    breaks: bool,
}

impl Args {
    fn options(&self, seed: u64) -> Options {
        let mut options = Options::new(seed);
        options.nodes = self.nodes.map_or(options.nodes, |nodes| nodes as usize);
        options.clients = self.clients as usize;
        options
    }

    fn seeds(&self) -> u64 {
        let seeks = self.breaks || self.broken.is_some();
        self.seeds.unwrap_or(if seeks { 500 } else { 100 })
    }

    fn jobs(&self) -> usize {
        let cpus = || std::thread::available_parallelism().map_or(1, usize::from);
        self.jobs.map_or_else(cpus, |jobs| jobs as usize)
    }

    fn is_json(&self) -> bool {
        self.output == Format::Json
    }
}

pub(crate) fn run(args: &Args) -> Result<(), Exit> {
    // A failed assertion is a finding; it is reported with its seed, not as a panic.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        PANICKED.set(place.unwrap_or_default());
    }));
    if args.breaks || args.broken.is_some() {
        return broken(args);
    }
    if let Some(seed) = args.seed {
        let mut total = Total::default();
        let failure = total.add(simulate(Options { loud: !args.is_json(), ..args.options(seed) }));
        return report::end(args.is_json(), &total, 1, failure);
    }
    let mut total = Total::default();
    let mut progress = Progress::new(args.minutes.is_none().then_some(args.seeds()));
    let failure = sweep(
        args,
        |options| options,
        |found| {
            let failure = total.add(found);
            progress.show(&total);
            failure
        },
    );
    progress.clear();
    report::end(args.is_json(), &total, args.jobs(), failure)
}

std::thread_local! {
    /// Where this thread has panicked last.
    static PANICKED: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs one seed; a failed assertion says where it stands.
fn simulate(options: Options) -> Result<Summary, Failure> {
    PANICKED.take();
    sim::run(options).map_err(|mut failure| {
        let place = PANICKED.take();
        if !place.is_empty() {
            failure.details = format!("{} ({place})", failure.details);
        }
        failure
    })
}

/// Runs seeds on all jobs until there are no more, or one fails; of several that fail at about the
/// same time, the lowest counts.
fn sweep(
    args: &Args,
    change: impl Fn(Options) -> Options + Sync,
    mut each: impl FnMut(Result<Summary, Failure>) -> Option<Failure>,
) -> Option<Failure> {
    let last = match args.minutes {
        Some(_) => u64::MAX,
        None => args.from.saturating_add(args.seeds() - 1),
    };
    let until = args.minutes.map(|minutes| Instant::now() + Duration::from_secs(60 * minutes));
    let (next, stop) = (AtomicU64::new(args.from), AtomicBool::new(false));
    let worker = |found: Sender<Result<Summary, Failure>>| {
        while !stop.load(Ordering::Relaxed) && until.is_none_or(|until| Instant::now() < until) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed > last || found.send(simulate(change(args.options(seed)))).is_err() {
                return;
            }
        }
    };
    std::thread::scope(|scope| {
        let (sender, found): (_, Receiver<_>) = channel();
        for _ in 0..args.jobs() {
            let sender = sender.clone();
            scope.spawn(|| worker(sender));
        }
        drop(sender);
        let mut failed: Option<Failure> = None;
        for found in found {
            if let Some(failure) = each(found) {
                stop.store(true, Ordering::Relaxed);
                let first = failed.take().filter(|earlier| earlier.seed < failure.seed);
                failed = first.or(Some(failure));
            }
        }
        failed
    })
}

#[cfg(not(feature = "breaks"))]
fn broken(_args: &Args) -> Result<(), Exit> {
    Err(Exit::usage("this margay holds no known bugs")
        .hint("build one that does: cargo build --release -p margay-cli --features breaks"))
}

/// Puts known bugs back: one, or all by turns. One that is found is what is wanted.
#[cfg(feature = "breaks")]
fn broken(args: &Args) -> Result<(), Exit> {
    use margay_log::breaks::{ALL, Break};

    let Some(name) = &args.broken else {
        let rows = ALL.iter().map(|known| {
            let found = seek(args, *known);
            output::aside(&format!("{}\n", report::found(known, found.as_ref(), args.from)));
            (*known, found)
        });
        return report::breaks(args.is_json(), &rows.collect::<Vec<_>>(), args.from, args.seeds());
    };
    let Some(known) = Break::named(name) else {
        let names: Vec<&str> = ALL.iter().map(|known| known.name).collect();
        return Err(Exit::usage(format!("no bug is called {name}"))
            .hint(format!("one of: {}", names.join(", "))));
    };
    if let Some(seed) = args.seed {
        let options = Options { loud: !args.is_json(), ..args.options(seed) };
        let mut total = Total::default();
        let focus = sim::Focus::of(known);
        let failure = total.add(simulate(Options { broken: Some(known), focus, ..options }));
        return report::end(args.is_json(), &total, 1, failure);
    }
    let found = seek(args, known);
    output::line(&report::found(&known, found.as_ref(), args.from))?;
    if found.is_some() { Ok(()) } else { Err(Exit::quiet(NEGATIVE)) }
}

#[cfg(feature = "breaks")]
fn seek(args: &Args, known: margay_log::breaks::Break) -> Option<Failure> {
    let focus = sim::Focus::of(known);
    let found =
        sweep(args, |options| Options { broken: Some(known), focus, ..options }, Result::err);
    // Only what holds without the bug shows that it is the bug that was found.
    found.filter(|failure| simulate(Options { focus, ..args.options(failure.seed) }).is_ok())
}
