//! Faults: one file per kind, one line in the table per file.
//!
//! Any number of nodes may be down or cut off at a time; what was acknowledged must survive it all,
//! for disks keep what they said was durable. Which kinds of faults a run has is drawn once, so
//! that some runs are only crashes, some only cuts. When peace comes every fault mends what it did.

mod churn;
mod clock;
mod connections;
mod crash;
mod cut;
mod depose;
mod disk;
mod laggard;
mod late;
mod loss;
mod members;
mod pause;
mod rot;
mod stop;
mod weather;

use std::collections::BTreeMap;

use margay_log::id::Micros;
use margay_log::rng::Rng;

use super::cluster::Cluster;
use super::{Failure, Focus};
use crate::machine::StateMachine;

/// A kind of fault.
pub(super) trait Fault<S: StateMachine> {
    /// Does something bad, or nothing where there is nothing to do; whatever is drawn is drawn from
    /// `cluster.rng`. What it did goes into the trace. Returns whether it did something.
    ///
    /// # Errors
    /// A property that did not hold.
    fn strike(&mut self, cluster: &mut Cluster<S>) -> Result<bool, Failure>;

    /// A node has another role than before: some faults strike at such a moment.
    ///
    /// # Errors
    /// A property that did not hold.
    fn on_role(&mut self, cluster: &mut Cluster<S>, at: usize) -> Result<(), Failure> {
        let _ = (cluster, at);
        Ok(())
    }

    /// The time for its second step, about this node, has come: [`Event::Sequel`].
    ///
    /// [`Event::Sequel`]: super::cluster::Event::Sequel
    ///
    /// # Errors
    /// A property that did not hold.
    fn sequel(&mut self, cluster: &mut Cluster<S>, node: usize) -> Result<(), Failure> {
        let _ = (cluster, node);
        Ok(())
    }

    /// Peace: takes back what it did and what does not pass by itself. Nodes that are down are
    /// started and cut links mended without it.
    ///
    /// # Errors
    /// A property that did not hold.
    fn mend(&mut self, cluster: &mut Cluster<S>) -> Result<(), Failure> {
        let _ = cluster;
        Ok(())
    }
}

/// A kind of fault in the table.
struct Kind<S: StateMachine> {
    name: &'static str,
    /// It is part of so many of 12 runs.
    chance: u64,
    /// How often it strikes in such a run, relative to the others.
    weight: u64,
    new: fn(&mut Rng) -> Box<dyn Fault<S>>,
}

impl<S: StateMachine> Kind<S> {
    fn new(
        name: &'static str,
        chance: u64,
        weight: u64,
        new: fn(&mut Rng) -> Box<dyn Fault<S>>,
    ) -> Kind<S> {
        Kind { name, chance, weight, new }
    }
}

/// All kinds there are: name, runs of 12 that have it, weight, and how it begins.
fn table<S: StateMachine>() -> Vec<Kind<S>> {
    vec![
        Kind::new("crash", 8, 2, |_| Box::new(crash::Crash)),
        Kind::new("short reigns", 4, 1, |_| Box::new(crash::ShortReigns::default())),
        Kind::new(crash::UNHEARD, 2, 1, |_| Box::new(crash::Unheard::default())),
        Kind::new("cut", 6, 1, |_| Box::new(cut::Cut)),
        Kind::new("heal", 6, 1, |_| Box::new(cut::Heal)),
        Kind::new("stranded leader", 5, 2, |_| Box::new(cut::Strand)),
        Kind::new(depose::HANDED_OVER, 3, 2, |_| Box::new(depose::HandOver::default())),
        Kind::new(depose::RESTARTED, 3, 2, |_| Box::new(depose::RestartedVoters::default())),
        Kind::new(depose::STALLED, 2, 2, |_| Box::new(depose::Stall::default())),
        Kind::new(late::CLIENT, 3, 1, |_| Box::new(late::Answers::default())),
        Kind::new(late::LEADER, 3, 1, |_| Box::new(late::Voters::default())),
        Kind::new("lone client", 4, 1, |_| Box::new(cut::Loner)),
        Kind::new("clog", 3, 1, |_| Box::new(cut::Clog)),
        Kind::new("members", 5, 3, |rng| Box::new(members::Members::new(rng))),
        Kind::new("pause", 4, 1, |_| Box::new(pause::Pause)),
        Kind::new("suspend", 3, 1, |_| Box::new(clock::Suspend)),
        Kind::new("rot", 4, 1, |rng| Box::new(rot::Rot::new(rng))),
        Kind::new("weather", 6, 1, |_| Box::new(weather::Change)),
        Kind::new("broken connections", 6, 1, |_| Box::new(connections::Break)),
        Kind::new("broken links", 4, 1, |_| Box::new(connections::BreakPeers)),
        Kind::new("half-open connections", 3, 1, |_| Box::new(connections::HalfOpen)),
        Kind::new("churn", 3, 1, |_| Box::new(churn::Churn)),
        Kind::new("slow disk", 3, 1, |_| Box::new(disk::Slow)),
        Kind::new("full disk", 2, 1, |_| Box::new(disk::Full)),
        Kind::new("failing disk", 3, 1, |_| Box::new(disk::Failing)),
        Kind::new("rotten hard state", 3, 1, |_| Box::new(loss::HardState::default())),
        Kind::new(stop::STOP, 3, 1, |_| Box::new(stop::Stop::default())),
        Kind::new("lost disk", 2, 1, |_| Box::new(loss::Wipe::default())),
    ]
}

struct Active<S: StateMachine> {
    name: &'static str,
    weight: u64,
    fault: Box<dyn Fault<S>>,
}

/// The faults of one run. See the module's text.
pub(super) struct Nemesis<S: StateMachine> {
    active: Vec<Active<S>>,
    /// Pause between two strikes, at most.
    every: u64,
    /// How often each kind did something.
    struck: BTreeMap<&'static str, u64>,
}

impl<S: StateMachine> Nemesis<S> {
    pub(super) fn new(rng: &mut Rng, focus: Option<Focus>) -> Nemesis<S> {
        let mut active = Vec::new();
        for Kind { name, chance, weight, new } in table() {
            let mut own = rng.fork();
            let drawn = rng.chance(chance, 12);
            if focus.map_or(drawn, |focus| focus.faults.contains(&name)) {
                active.push(Active { name, weight, fault: new(&mut own) });
            }
        }
        let every = 50_000 + rng.below(1_000_000);
        Nemesis { active, every, struck: BTreeMap::new() }
    }

    /// Nothing but one follower that lags for so long.
    pub(super) fn laggard(lags: Micros) -> Nemesis<S> {
        let fault = Box::new(laggard::Laggard::new(lags));
        let active = vec![Active { name: laggard::NAME, weight: 1, fault }];
        Nemesis { active, every: 100_000, struck: BTreeMap::new() }
    }

    /// What this run has.
    pub(super) fn names(&self) -> Vec<&'static str> {
        self.active.iter().map(|active| active.name).collect()
    }

    /// How often each kind of fault did something.
    pub(super) fn struck(&self) -> &BTreeMap<&'static str, u64> {
        &self.struck
    }

    /// Lets one fault strike. Returns when to come again.
    pub(super) fn strike(&mut self, cluster: &mut Cluster<S>) -> Result<Micros, Failure> {
        let all: u64 = self.active.iter().map(|active| active.weight).sum();
        if all > 0 {
            let mut drawn = cluster.rng.below(all);
            for active in &mut self.active {
                if drawn < active.weight {
                    if active.fault.strike(cluster)? {
                        *self.struck.entry(active.name).or_default() += 1;
                    }
                    break;
                }
                drawn -= active.weight;
            }
        }
        Ok(Micros(1_000 + cluster.rng.below(self.every)))
    }

    /// Tells the faults which nodes have other roles than before.
    pub(super) fn see_roles(&mut self, cluster: &mut Cluster<S>) -> Result<(), Failure> {
        for at in std::mem::take(&mut cluster.role_changed) {
            for active in &mut self.active {
                active.fault.on_role(cluster, at)?;
            }
        }
        Ok(())
    }

    /// The second step of a fault.
    pub(super) fn sequel(
        &mut self,
        cluster: &mut Cluster<S>,
        of: &'static str,
        node: usize,
    ) -> Result<(), Failure> {
        let mut active = self.active.iter_mut().filter(|active| active.name == of);
        active.try_for_each(|active| active.fault.sequel(cluster, node))
    }

    /// The trouble is over.
    pub(super) fn mend(&mut self, cluster: &mut Cluster<S>) -> Result<(), Failure> {
        self.active.iter_mut().try_for_each(|active| active.fault.mend(cluster))
    }
}
