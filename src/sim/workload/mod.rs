//! What simulated clients do: one file per kind of resource, one line in the table per file.
//!
//! Which kinds a run has is drawn from its seed. Every client runs each of them at the same time
//! over its one session, so that commands of several resources are in flight together. What clients
//! saw goes into a journal that all clients of a kind share; when the run is over the journal is
//! judged.
//!
//! A workload does not know about faults: a call may fail, or be answered late, or never.

mod counter;
mod election;
mod events;
mod group;
mod ids;
mod lease;
mod lock;
mod log;
mod map;
mod meeting;
mod queue;
mod rwlock;
mod semaphore;
mod set;
mod topic;
mod transaction;
mod tree;
mod value;
mod watch;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use margay_log::rng::Rng;

use super::client::Desk;
use super::history::History;
use super::linearizable::Model;
use super::{Failure, Focus, history};
use crate::machine::{Code, Outcome};
use crate::resource::{Failure as Refused, Reply};

/// All kinds there are. `Kind::of("name", chance)`: the kind is part of `chance` of 10 runs.
pub(super) const TABLE: &[Kind] = &[
    Kind::of::<map::Keys>("map", 8),
    Kind::of::<counter::Adding>("counter", 6),
    Kind::of::<lease::Leasing>("leases", 5),
    Kind::of::<lock::Holding>("lock", 6),
    Kind::of::<watch::Watching>("watch", 5),
    Kind::of::<value::Swapping>("value", 3),
    Kind::of::<set::Gathering>("set and multimap", 3),
    Kind::of::<tree::Growing>("tree", 3),
    Kind::of::<events::Following>("events", 3),
    Kind::of::<topic::Publishing>("topic", 3),
    Kind::of::<queue::Working>("queue", 3),
    Kind::of::<rwlock::Reading>("rwlock", 2),
    Kind::of::<semaphore::Sharing>("semaphore", 3),
    Kind::of::<election::Leading>("election", 3),
    Kind::of::<transaction::Transfers>("transfers", 4),
    Kind::of::<log::Appending>("log", 4),
    Kind::of::<group::Serving>("group", 4),
    Kind::of::<meeting::Meeting>("barrier and latch", 3),
    Kind::of::<ids::Numbering>("ids", 2),
];

/// Kinds of one run, at most: many at once only make each of them rare.
const KINDS_MAX: usize = 4;

/// What one client does with resources of one kind.
pub(super) trait Workload: Sized + 'static {
    /// What all clients of a run remember together.
    type Journal: Journal;

    /// Whether it also makes sense for a client that only reads: one without a session, which any
    /// leader answers as soon as it may.
    const READS: bool = false;

    /// Opens what it needs; see [`Actor::open`].
    async fn open(actor: &mut Actor<Self::Journal>) -> Self;

    /// Does one thing, drawn from `actor.rng`, and notes what came of it. Called again and again
    /// while there is trouble.
    async fn act(&mut self, actor: &mut Actor<Self::Journal>);

    /// The trouble is over: looks at everything once more, as often as it takes, so that an
    /// acknowledged command that was lost is found.
    async fn look(&mut self, actor: &mut Actor<Self::Journal>);
}

/// What all clients of one kind saw.
pub(super) trait Journal: Default + 'static {
    /// Whether it could have been so. Returns how many searches were given up; at the end of every
    /// run.
    ///
    /// # Errors
    /// What could not have been so.
    fn judge(&mut self) -> Result<u64, Failure>;
}

/// How many operations were asked for, and how many of them failed or have an unknown outcome.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub operations: u64,
    pub unknown: u64,
}

/// A client's part in one workload: time, chance, the way to the cluster and the common journal.
pub(super) struct Actor<J> {
    /// Where handles submit.
    pub desk: Desk,
    /// Whatever it decides is drawn from here.
    pub rng: Rng,
    /// The client, from 1.
    pub id: u64,
    /// It sends no commands.
    pub only_reads: bool,
    journal: Rc<RefCell<J>>,
    tally: Rc<Cell<Tally>>,
    fresh: u64,
}

impl<J> Actor<J> {
    /// Opens a resource, however often it takes: `actor.open(|desk| Map::open(desk, "map"))`.
    pub(super) async fn open<H>(&mut self, open: impl Fn(Desk) -> Reply<H>) -> H {
        loop {
            if let Ok(handle) = open(self.desk.clone()).await {
                return handle;
            }
            self.pause(50_000).await;
        }
    }

    /// Does nothing for a while, at most `micros`.
    pub(super) async fn pause(&mut self, micros: u64) {
        let until = self.desk.now() + self.rng.below(micros.max(1));
        self.desk.sleep_until(until).await;
    }

    /// Virtual time, in microseconds.
    pub(super) fn now(&self) -> u64 {
        self.desk.now()
    }

    /// A number that nobody else writes in this run.
    pub(super) fn fresh(&mut self) -> u64 {
        self.fresh += 1;
        self.id << 32 | self.fresh
    }

    /// Writes into the common journal.
    pub(super) fn note(&self, write: impl FnOnce(&mut J)) {
        write(&mut self.journal.borrow_mut());
    }

    /// Counts an operation, and says what a history says of it: a reply and when it came, none that
    /// ever came, or (outer `None`) that it certainly never was.
    pub(super) fn outcome<R>(&self, result: Result<R, Refused>) -> Option<Option<(u64, R)>> {
        let mut tally = self.tally.get();
        tally.operations += 1;
        tally.unknown += u64::from(result.is_err());
        self.tally.set(tally);
        match result {
            Ok(reply) => Some(Some((self.now(), reply))),
            Err(failure) if failure.outcome() == Outcome::NotApplied => None,
            Err(_) => Some(None),
        }
    }

    /// Puts one operation into a history of the journal, if it may have been.
    pub(super) fn record<M: Model>(
        &self,
        invoked: u64,
        op: M::Op,
        result: Result<M::Reply, Refused>,
        history: impl FnOnce(&mut J) -> &mut History<M>,
    ) {
        if let Some(replied) = self.outcome(result) {
            self.note(|journal| history(journal).push(history::seen(invoked, op, replied)));
        }
    }
}

/// What was done, or that it was refused in a way that is an answer, too.
pub(super) fn or_refused<T>(
    result: Result<T, Refused>,
    codes: &[Code],
) -> Result<Option<T>, Refused> {
    match result {
        Err(failure) if codes.contains(&failure.code) => Ok(None),
        result => result.map(Some),
    }
}

/// A client's program.
pub(super) type Program = Pin<Box<dyn Future<Output = ()>>>;

/// A workload in the table.
pub(super) struct Kind {
    pub name: &'static str,
    chance: u64,
    new: fn(&'static str) -> Box<dyn Running>,
}

impl Kind {
    const fn of<W: Workload>(name: &'static str, chance: u64) -> Kind {
        Kind { name, chance, new: |name| Box::new(Shared::<W>::new(name)) }
    }
}

/// A workload of one run.
pub(super) trait Running {
    /// What it is called.
    fn name(&self) -> &'static str;
    /// See [`Workload::READS`].
    fn reads(&self) -> bool;
    /// What one client does.
    fn program(&self, desk: Desk, rng: Rng, id: u64, only_reads: bool) -> Program;
    /// What was done so far.
    fn tally(&self) -> Tally;
    /// See [`Journal::judge`].
    fn judge(&self) -> Result<u64, Failure>;
}

/// See [`Running`]: the journal and the tally that its clients share.
pub(super) struct Shared<W: Workload> {
    name: &'static str,
    journal: Rc<RefCell<W::Journal>>,
    tally: Rc<Cell<Tally>>,
}

impl<W: Workload> Shared<W> {
    pub(super) fn new(name: &'static str) -> Shared<W> {
        Shared { name, journal: Rc::default(), tally: Rc::default() }
    }
}

impl<W: Workload> Running for Shared<W> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn reads(&self) -> bool {
        W::READS
    }

    fn program(&self, desk: Desk, rng: Rng, id: u64, only_reads: bool) -> Program {
        let (journal, tally) = (Rc::clone(&self.journal), Rc::clone(&self.tally));
        let mut actor = Actor { desk, rng, id, only_reads, journal, tally, fresh: 0 };
        Box::pin(async move {
            let mut workload = W::open(&mut actor).await;
            while !actor.desk.closing() {
                workload.act(&mut actor).await;
                if actor.rng.chance(1, 8) {
                    actor.pause(50_000).await;
                }
            }
            if !actor.desk.leaving() {
                workload.look(&mut actor).await;
            }
        })
    }

    fn tally(&self) -> Tally {
        self.tally.get()
    }

    fn judge(&self) -> Result<u64, Failure> {
        self.journal.borrow_mut().judge()
    }
}

/// Draws the workloads of a run: at least one, at most [`KINDS_MAX`]; or the one that it is about.
pub(super) fn draw(rng: &mut Rng, focus: Option<Focus>) -> Vec<Box<dyn Running>> {
    let about = focus.and_then(|focus| focus.resource);
    if let Some(kind) = TABLE.iter().find(|kind| Some(kind.name) == about) {
        return vec![(kind.new)(kind.name)];
    }
    let mut drawn: Vec<&Kind> = TABLE.iter().filter(|kind| rng.chance(kind.chance, 10)).collect();
    while drawn.len() > KINDS_MAX {
        drawn.remove(rng.below(drawn.len() as u64) as usize);
    }
    if drawn.is_empty() {
        drawn.push(&TABLE[rng.below(TABLE.len() as u64) as usize]);
    }
    drawn.into_iter().map(|kind| (kind.new)(kind.name)).collect()
}
