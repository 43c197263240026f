//! A small tree that all clients grow and prune: no child without its parent, and numbers of
//! sequential nodes that are given once.

use super::{Actor, Journal, Workload};
use crate::machine::Code;
use crate::resource::Failure as Refused;
use crate::resource::handle::Swap;
use crate::resource::tree::Tree;
use crate::sim::Failure;
use crate::sim::client::Desk;
use crate::sim::history::History;
use crate::sim::linearizable::Model;

/// Node n is the parent of node n + 1.
const PATHS: [&str; 3] = ["/a", "/a/b", "/a/b/c"];

/// See the module's text.
pub(in crate::sim) struct Growing {
    tree: Tree<Desk>,
}

/// An operation on a node of [`PATHS`], or on the root.
#[derive(Clone, Debug)]
pub(in crate::sim) enum Op {
    Create(u8),
    Delete(u8),
    Exists(u8),
    /// A sequential node below the root.
    Next,
}

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::sim) enum Reply {
    Done,
    Not,
    NoParent,
    HasChildren,
    Number(u64),
}

/// How many of the nodes there are, for each is below the one before; and the next number.
#[derive(Default)]
pub(in crate::sim) struct Branch;

impl Model for Branch {
    type State = (u8, u64);
    type Op = Op;
    type Reply = Reply;

    fn init(&self) -> (u8, u64) {
        (0, 0)
    }

    fn step(&self, &(depth, next): &(u8, u64), op: &Op) -> ((u8, u64), Reply) {
        match *op {
            Op::Create(node) if node > depth => ((depth, next), Reply::NoParent),
            Op::Create(node) if node == depth => ((depth + 1, next), Reply::Done),
            Op::Delete(node) if node + 1 < depth => ((depth, next), Reply::HasChildren),
            Op::Delete(node) if node + 1 == depth => ((depth - 1, next), Reply::Done),
            Op::Exists(node) if node < depth => ((depth, next), Reply::Done),
            Op::Create(_) | Op::Delete(_) | Op::Exists(_) => ((depth, next), Reply::Not),
            Op::Next => ((depth, next + 1), Reply::Number(next)),
        }
    }
}

impl Journal for History<Branch> {
    fn judge(&mut self) -> Result<u64, Failure> {
        History::judge(self, "tree")
    }
}

impl Growing {
    async fn ask(&self, op: &Op) -> Result<Reply, Refused> {
        let done = |done| if done { Reply::Done } else { Reply::Not };
        let path = |node: u8| PATHS[usize::from(node)];
        let result = match *op {
            Op::Create(node) => {
                let created = self.tree.create(path(node), b"").await;
                created.map(|swap| done(matches!(swap, Swap::Done(_))))
            }
            Op::Delete(node) => self.tree.delete(path(node)).await.map(done),
            Op::Exists(node) => self.tree.exists(path(node)).await.map(done),
            Op::Next => {
                let path = self.tree.create_sequential("/n", b"").await?;
                Ok(Reply::Number(path[2..].parse().unwrap_or(u64::MAX)))
            }
        };
        match result {
            Err(failure) if failure.code == Code::NO_PARENT => Ok(Reply::NoParent),
            Err(failure) if failure.code == Code::HAS_CHILDREN => Ok(Reply::HasChildren),
            other => other,
        }
    }
}

impl Workload for Growing {
    type Journal = History<Branch>;

    async fn open(actor: &mut Actor<History<Branch>>) -> Growing {
        Growing { tree: actor.open(|desk| Tree::open(desk, "tree")).await }
    }

    async fn act(&mut self, actor: &mut Actor<History<Branch>>) {
        let node = actor.rng.below(PATHS.len() as u64) as u8;
        let op = match actor.rng.below(8) {
            0..=2 => Op::Create(node),
            3..=4 => Op::Delete(node),
            5..=6 => Op::Exists(node),
            _ => Op::Next,
        };
        let invoked = actor.now();
        let result = self.ask(&op).await;
        actor.record(invoked, op, result, |history| history);
        actor.pause(10_000).await;
    }

    async fn look(&mut self, actor: &mut Actor<History<Branch>>) {
        for node in 0..PATHS.len() as u8 {
            loop {
                let (invoked, op) = (actor.now(), Op::Exists(node));
                let Ok(found) = self.ask(&op).await else { continue };
                break actor.record(invoked, op, Ok(found), |history| history);
            }
        }
    }
}
