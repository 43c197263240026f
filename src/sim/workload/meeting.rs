//! A barrier at which clients meet two by two, and latches that they count down. Those who pass
//! the barrier together were there together, as many as it is for, and rounds rise. A latch is a
//! number that falls to zero; whoever waits for that learns whether it was so.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Actor, Journal, Workload, or_refused};
use crate::machine::Code;
use crate::resource::barrier::Barrier;
use crate::resource::latch::Latch;
use crate::sim::Failure;
use crate::sim::client::Desk;
use crate::sim::history::History;
use crate::sim::linearizable::Model;

const PARTIES: u32 = 2;
const LATCHES: usize = 3;
/// What a latch is counted down from.
const COUNT: u32 = 8;

/// See the module's text.
pub(in crate::sim) struct Meeting {
    barrier: Barrier<Desk>,
    latches: Vec<Latch<Desk>>,
}

/// Somebody arrived, in virtual microseconds.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    from: u64,
    became: Became,
}

/// What became of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Became {
    /// Nobody knows: it may have been a party.
    Unknown,
    /// Its time was over, or it was sent away, and knew at this time.
    Nothing { until: u64 },
    /// It passed, and knew at this time.
    Party { round: u64, until: u64 },
}

/// An operation on a latch. The reply is what is left; for a wait, 0 where it was open.
#[derive(Clone, Debug)]
pub(in crate::sim) enum Op {
    Down(u32),
    Left,
    Wait,
}

/// What is left.
#[derive(Default)]
pub(in crate::sim) struct Left;

impl Model for Left {
    type State = u64;
    type Op = Op;
    type Reply = u64;

    fn init(&self) -> u64 {
        COUNT.into()
    }

    fn step(&self, state: &u64, op: &Op) -> (u64, u64) {
        match *op {
            Op::Down(by) => {
                let left = state.saturating_sub(by.into());
                (left, left)
            }
            Op::Left => (*state, *state),
            Op::Wait => (*state, (*state).min(1)),
        }
    }
}

/// Who has arrived, and what became of each latch.
#[derive(Default)]
pub(in crate::sim) struct Seen {
    arrivals: Vec<Arrival>,
    latches: [History<Left>; LATCHES],
}

/// What is known of a round: it was completed between these two.
#[derive(Default)]
struct Round {
    number: u64,
    parties: usize,
    arrived: u64,
    passed: u64,
}

impl Journal for Seen {
    fn judge(&mut self) -> Result<u64, Failure> {
        self.judge_barrier()?;
        self.latches.iter().map(|history| history.judge("latch")).sum()
    }
}

impl Seen {
    /// The rounds that were seen, each completed before the next.
    fn rounds(&self) -> Vec<Round> {
        let mut rounds = BTreeMap::new();
        for arrival in &self.arrivals {
            let Became::Party { round: number, until } = arrival.became else { continue };
            let new = || Round { number, passed: until, ..Round::default() };
            let round = rounds.entry(number).or_insert_with(new);
            round.parties += 1;
            round.arrived = round.arrived.max(arrival.from);
            round.passed = round.passed.min(until);
        }
        let mut rounds: Vec<Round> = rounds.into_values().collect();
        for at in 1..rounds.len() {
            rounds[at].arrived = rounds[at].arrived.max(rounds[at - 1].arrived);
        }
        for at in (1..rounds.len()).rev() {
            rounds[at - 1].passed = rounds[at - 1].passed.min(rounds[at].passed);
        }
        rounds
    }

    fn judge_barrier(&self) -> Result<(), Failure> {
        let unknown = self.arrivals.iter().filter(|arrival| arrival.became == Became::Unknown);
        let mut unknown: Vec<u64> = unknown.map(|arrival| arrival.from).collect();
        unknown.sort_unstable();
        let mut used = 0;
        for round in self.rounds() {
            // Those of whom nothing was heard again: each may have been the missing party of one.
            used += (PARTIES as usize).saturating_sub(round.parties);
            let there = unknown.partition_point(|from| *from <= round.passed);
            let too_many = round.parties > PARTIES as usize;
            if too_many || used > there || round.passed < round.arrived {
                let Round { number, parties, arrived, passed } = round;
                let mut details = format!(
                    "round {number} was completed from {arrived} to {passed}; {parties} knew, and \
                     {there} may have been missing there or before, where {used} were; who arrived:"
                );
                for arrival in &self.arrivals {
                    details.push_str(&format!("\n  {arrival:?}"));
                }
                return Err(Failure::new("parties of a barrier pass together", details));
            }
        }
        Ok(())
    }
}

impl Workload for Meeting {
    type Journal = Seen;

    async fn open(actor: &mut Actor<Seen>) -> Meeting {
        let barrier = actor.open(|desk| Barrier::open(desk, "barrier", PARTIES)).await;
        let mut latches = Vec::new();
        for latch in 0..LATCHES {
            let name = format!("latch {latch}");
            latches.push(actor.open(|desk| Latch::open(desk, &name, COUNT)).await);
        }
        Meeting { barrier, latches }
    }

    async fn act(&mut self, actor: &mut Actor<Seen>) {
        match actor.rng.below(8) {
            0 => drop(actor.outcome(self.barrier.reset().await)),
            1..=4 => self.meet(actor).await,
            _ => self.use_latch(actor).await,
        }
        actor.pause(20_000).await;
    }

    async fn look(&mut self, actor: &mut Actor<Seen>) {
        for (at, latch) in self.latches.iter().enumerate() {
            loop {
                let invoked = actor.now();
                let Ok(status) = latch.status().await else { continue };
                break actor
                    .record(invoked, Op::Left, Ok(status.left), |seen| &mut seen.latches[at]);
            }
        }
    }
}

impl Meeting {
    /// Waits for another, for a while.
    async fn meet(&self, actor: &mut Actor<Seen>) {
        let wait = Duration::from_millis(actor.rng.below(2_000));
        let (from, mut at) = (actor.now(), 0);
        actor.note(|seen| {
            at = seen.arrivals.len();
            seen.arrivals.push(Arrival { from, became: Became::Unknown });
        });
        let passed = or_refused(self.barrier.arrive_within(wait).await, &[Code::WAIT_LOST]);
        let became = match &passed {
            Ok(Some(Some(round))) => Became::Party { round: *round, until: actor.now() },
            Ok(_) => Became::Nothing { until: actor.now() },
            Err(_) => Became::Unknown,
        };
        actor.outcome(passed);
        actor.note(|seen| seen.arrivals[at].became = became);
    }

    async fn use_latch(&self, actor: &mut Actor<Seen>) {
        let at = actor.rng.below(LATCHES as u64) as usize;
        let latch = &self.latches[at];
        let invoked = actor.now();
        let (op, result) = match actor.rng.below(4) {
            0 => {
                let by = 1 + actor.rng.below(2) as u32;
                (Op::Down(by), latch.count_down_by(by).await)
            }
            1 => (Op::Left, latch.status().await.map(|status| status.left)),
            _ => {
                let wait = Duration::from_millis(actor.rng.below(500));
                let opened = latch.opened_within(wait).await;
                (Op::Wait, opened.map(|is_open| u64::from(!is_open)))
            }
        };
        actor.record(invoked, op, result, |seen| &mut seen.latches[at]);
    }
}
