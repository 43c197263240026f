//! Checks of who holds what, and checks and commands of collections: multimaps, sets, queues,
//! document trees and logs.

use super::{EQUAL, Expect, NOT_EQUAL, Transaction};
use crate::resource::{
    Election, Lock, Log, Multimap, Queue, Set, Submit, Tree, election, lock, log, multimap, queue,
    set, tree,
};
use margay_log::id::Index;

/// Where the answers of a lock's holder and of an election's leader have the token, behind whether
/// there is one.
const TOKEN: u32 = 9;

/// Where the answer of a tree's get has the version, and where the data begins.
const NODE_VERSION: u32 = 1;
const NODE_DATA: u32 = 25;
/// Where the answer of a log's status says how it goes on.
const LOG_NEXT: u32 = 8;

impl<S: Submit> Transaction<S> {
    /// Only if the lock is still held under this token: a holder that was cut off does nothing
    /// then.
    #[must_use]
    pub fn holds(self, lock: &Lock<S>, token: u64) -> Transaction<S> {
        let expect = Expect::begins(EQUAL, &token.to_le_bytes()).behind(TOKEN);
        let is_held = Expect::begins(EQUAL, &[1]);
        let checked = self.check(lock.handle(), &lock::HolderV1 {}, is_held);
        checked.and(lock.handle(), &lock::HolderV1 {}, expect)
    }

    /// Only if the leader elected in this term still leads.
    #[must_use]
    pub fn leads(self, election: &Election<S>, term: u64) -> Transaction<S> {
        let expect = Expect::begins(EQUAL, &term.to_le_bytes()).behind(TOKEN);
        let is_led = Expect::begins(EQUAL, &[1]);
        let checked = self.check(election.handle(), &election::LeaderV1 {}, is_led);
        checked.and(election.handle(), &election::LeaderV1 {}, expect)
    }

    /// Only if the key has this value.
    #[must_use]
    pub fn has_value(self, multimap: &Multimap<S>, key: &[u8], value: &[u8]) -> Transaction<S> {
        let contains = multimap::ContainsV1 { key: key.to_vec(), value: Some(value.to_vec()) };
        self.check(multimap.handle(), &contains, Expect::is(&[1]))
    }

    /// Only if the key has not this value.
    #[must_use]
    pub fn lacks_value(self, multimap: &Multimap<S>, key: &[u8], value: &[u8]) -> Transaction<S> {
        let contains = multimap::ContainsV1 { key: key.to_vec(), value: Some(value.to_vec()) };
        self.check(multimap.handle(), &contains, Expect::is(&[0]))
    }

    /// Adds a value to a key; nothing changes where it has it.
    #[must_use]
    pub fn put_value(self, multimap: &Multimap<S>, key: &[u8], value: &[u8]) -> Transaction<S> {
        let (key, value) = (key.to_vec(), value.to_vec());
        self.command(multimap.handle(), &multimap::PutV1 { key, value })
    }

    /// Removes a value of a key, if it has it.
    #[must_use]
    pub fn remove_value(self, multimap: &Multimap<S>, key: &[u8], value: &[u8]) -> Transaction<S> {
        let (key, value) = (key.to_vec(), value.to_vec());
        self.command(multimap.handle(), &multimap::RemoveEntryV1 { key, value })
    }

    /// Only if the set has this member.
    #[must_use]
    pub fn has_member(self, set: &Set<S>, member: &[u8]) -> Transaction<S> {
        let contains = set::ContainsV1 { members: vec![member.to_vec()] };
        self.check(set.handle(), &contains, Expect::is(&[1]))
    }

    /// Only if the set has not this member.
    #[must_use]
    pub fn lacks_member(self, set: &Set<S>, member: &[u8]) -> Transaction<S> {
        let contains = set::ContainsV1 { members: vec![member.to_vec()] };
        self.check(set.handle(), &contains, Expect::is(&[0]))
    }

    /// Adds a member, for good; nothing changes where it is there.
    #[must_use]
    pub fn add_member(self, set: &Set<S>, member: &[u8]) -> Transaction<S> {
        let members = vec![member.to_vec()];
        self.command(set.handle(), &set::AddV1 { members, ephemeral: false, ttl_ms: 0 })
    }

    /// Removes a member, if it is there.
    #[must_use]
    pub fn remove_member(self, set: &Set<S>, member: &[u8]) -> Transaction<S> {
        self.command(set.handle(), &set::RemoveV1 { members: vec![member.to_vec()] })
    }

    /// Only if the queue still has this task, handed out or not.
    #[must_use]
    pub fn has_task(self, queue: &Queue<S>, task: u64) -> Transaction<S> {
        self.check(queue.handle(), &queue::ContainsV1 { task }, Expect::is(&[1]))
    }

    /// Only if the queue has not this task: it is done, or was taken back.
    #[must_use]
    pub fn lacks_task(self, queue: &Queue<S>, task: u64) -> Transaction<S> {
        self.check(queue.handle(), &queue::ContainsV1 { task }, Expect::is(&[0]))
    }

    /// Offers a value or task at the end of a queue: its number is the index at which the
    /// transaction takes effect. One of them per queue.
    #[must_use]
    pub fn offer(self, queue: &Queue<S>, value: &[u8]) -> Transaction<S> {
        self.command(queue.handle(), &queue::OfferV1 { value: value.to_vec(), delay_ms: 0 })
    }

    /// Only if the node has this data; `None` for no such node.
    #[must_use]
    pub fn node_is(self, tree: &Tree<S>, path: &str, expected: Option<&[u8]>) -> Transaction<S> {
        let get = tree::GetV1 { path: path.as_bytes().to_vec() };
        let is_there = Expect::begins(EQUAL, &[u8::from(expected.is_some())]);
        let checked = self.check(tree.handle(), &get, is_there);
        match expected {
            Some(data) => checked.and(tree.handle(), &get, Expect::is(data).behind(NODE_DATA)),
            None => checked,
        }
    }

    /// Only if the node is there, whatever its data.
    #[must_use]
    pub fn node_exists(self, tree: &Tree<S>, path: &str) -> Transaction<S> {
        let get = tree::GetV1 { path: path.as_bytes().to_vec() };
        self.check(tree.handle(), &get, Expect::begins(NOT_EQUAL, &[0]))
    }

    /// Only if the node has this version.
    #[must_use]
    pub fn node_version(self, tree: &Tree<S>, path: &str, version: Index) -> Transaction<S> {
        let get = tree::GetV1 { path: path.as_bytes().to_vec() };
        let expect = Expect::begins(EQUAL, &version.0.to_le_bytes()).behind(NODE_VERSION);
        self.node_exists(tree, path).and(tree.handle(), &get, expect)
    }

    /// Creates a node; nothing changes where it exists. Where it has no parent, nothing is done at
    /// all.
    #[must_use]
    pub fn create_node(self, tree: &Tree<S>, path: &str, data: &[u8]) -> Transaction<S> {
        let (path, data) = (path.as_bytes().to_vec(), data.to_vec());
        let (ephemeral, sequential, parents) = (false, false, false);
        let create = tree::CreateV1 { path, data, ephemeral, sequential, parents };
        self.command(tree.handle(), &create)
    }

    /// Sets the data of a node, if it is there.
    #[must_use]
    pub fn set_node(self, tree: &Tree<S>, path: &str, data: &[u8]) -> Transaction<S> {
        let (path, data) = (path.as_bytes().to_vec(), data.to_vec());
        self.command(tree.handle(), &tree::SetV1 { path, data, version: 0 })
    }

    /// Deletes a node, if it is there. Where others are below it, nothing is done at all.
    #[must_use]
    pub fn delete_node(self, tree: &Tree<S>, path: &str) -> Transaction<S> {
        let path = path.as_bytes().to_vec();
        self.command(tree.handle(), &tree::DeleteV1 { path, version: 0 })
    }

    /// Only if the log's next record is going to be at this position.
    #[must_use]
    pub fn log_ends_at(self, log: &Log<S>, next: u64) -> Transaction<S> {
        let expect = Expect::begins(EQUAL, &next.to_le_bytes()).behind(LOG_NEXT);
        self.check(log.handle(), &log::StatusV1 {}, expect)
    }

    /// Appends a record to a log. Where that is full, nothing is done at all.
    #[must_use]
    pub fn append(self, log: &Log<S>, record: &[u8]) -> Transaction<S> {
        let append = log::AppendV1 { records: vec![record.to_vec()], position: 0 };
        self.command(log.handle(), &append)
    }
}
