//! Simulating somebody's own state machine: the same cluster, clients, faults and checks, with
//! operations and a sequential model of the caller's.

use std::collections::BTreeMap;
use std::fmt;

use margay_log::rng::Rng;

use super::history::History;
use super::linearizable::Model;
use super::workload::{Actor, Journal, Shared, Workload};
use super::{Failure, Options, Summary, client::Desk, run_seed};
use crate::machine::{Level, ResourceId, StateMachine};
use crate::resource::{Answer, Submit};

/// What a simulation must know of a state machine.
pub trait Simulated: StateMachine + 'static {
    /// The machine as a user sees it: operations, replies, and what one does to a state.
    type Model: Model<Op: Clone + fmt::Debug, Reply: fmt::Debug> + Default;

    /// The machine at the beginning.
    fn new() -> Self;

    /// An operation, drawn. Few keys and many clients at each find most; values that say who wrote
    /// them find the rest.
    fn draw(rng: &mut Rng) -> <Self::Model as Model>::Op;

    /// The operation as it travels.
    fn request(op: &<Self::Model as Model>::Op) -> Request;

    /// What an answer means to the model. Leave out what no sequential run could know, versions for
    /// instance.
    fn reply(op: &<Self::Model as Model>::Op, answer: &Answer) -> <Self::Model as Model>::Reply;

    /// Which part of the state the operation touches. Parts that do not touch each other are judged
    /// one by one, which is much faster. Default: there is one part.
    fn part(op: &<Self::Model as Model>::Op) -> u64 {
        let _ = op;
        0
    }

    /// Operations that read everything there is. They are asked once more at the end, so that
    /// something acknowledged and lost is found. Default: none.
    fn look() -> Vec<<Self::Model as Model>::Op> {
        Vec::new()
    }

    /// What must hold for every state. Looked at again and again, on every node. Default: nothing.
    ///
    /// # Errors
    /// What does not hold.
    fn invariant(&self) -> Result<(), String> {
        Ok(())
    }
}

/// An operation as it travels.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// Whether it changes something: a command is logged, a query is not.
    pub is_command: bool,
    /// Kind of the operation, 128 or more.
    pub kind: u8,
    /// Its version.
    pub schema: u16,
    /// The operation.
    pub payload: Vec<u8>,
}

/// Runs seeds, each a cluster of three nodes and three clients with other faults, until there are
/// no more or one finds something.
///
/// # Errors
/// The first property that did not hold, with its seed.
///
/// # Example
/// `examples/check_your_machine.rs` is a whole one.
pub fn check<M: Simulated>(seeds: impl IntoIterator<Item = u64>) -> Result<Summary, Failure> {
    let mut all = Summary::default();
    for seed in seeds {
        all.add(check_with::<M>(Options::new(seed))?);
    }
    Ok(all)
}

/// Runs one seed with options of the caller's.
///
/// # Errors
/// The first property that did not hold.
pub fn check_with<M: Simulated>(options: Options) -> Result<Summary, Failure> {
    run_seed(options, M::new, M::invariant, |_, _| {
        vec![Box::new(Shared::<Driving<M>>::new("yours"))]
    })
}

/// Draws operations and notes what came of them.
struct Driving<M>(std::marker::PhantomData<fn() -> M>);

struct Parts<M: Simulated>(BTreeMap<u64, History<M::Model>>);

impl<M: Simulated> Default for Parts<M> {
    fn default() -> Parts<M> {
        Parts(BTreeMap::new())
    }
}

impl<M: Simulated> Journal for Parts<M> {
    fn judge(&mut self) -> Result<u64, Failure> {
        self.0.iter().map(|(part, history)| history.judge(&format!("part {part}"))).sum()
    }
}

impl<M: Simulated> Driving<M> {
    /// Asks for one operation. Returns whether it was answered.
    async fn ask(actor: &mut Actor<Parts<M>>, op: <M::Model as Model>::Op) -> bool {
        let Request { is_command, kind, schema, payload } = M::request(&op);
        let (invoked, desk): (u64, &Desk) = (actor.now(), &actor.desk);
        let (none, level) = (ResourceId(0), Level::Linearizable);
        let asked = match is_command {
            true => desk.command(kind, schema, none, payload),
            false => desk.query(level, kind, schema, none, payload),
        };
        let result = asked.await.map(|answer| M::reply(&op, &answer));
        let (answered, part) = (result.is_ok(), M::part(&op));
        actor.record(invoked, op, result, |journal: &mut Parts<M>| {
            journal.0.entry(part).or_default()
        });
        answered
    }
}

impl<M: Simulated> Workload for Driving<M> {
    type Journal = Parts<M>;

    async fn open(_actor: &mut Actor<Parts<M>>) -> Driving<M> {
        Driving(std::marker::PhantomData)
    }

    async fn act(&mut self, actor: &mut Actor<Parts<M>>) {
        let op = M::draw(&mut actor.rng);
        Self::ask(actor, op).await;
        actor.pause(10_000).await;
    }

    async fn look(&mut self, actor: &mut Actor<Parts<M>>) {
        for op in M::look() {
            while !Self::ask(actor, op.clone()).await {
                actor.pause(10_000).await;
            }
        }
    }
}
