//! A tree of documents of a type.
//!
//! The root, and nodes that were created on the way to another, have no data. Where that is no
//! value of the type, reading them fails: an `Option` of the type takes it for `None`.

use super::{Data, Stored, read, read_swap};
use crate::machine::{Level, SessionId};
use crate::resource::tree::{Children, Node, TreeEvent, filter_at, filter_below, read_event};
use crate::resource::{Delivery, Failure, Removal, Reply, Submit, Swap, Tree, Watch};
use margay_log::id::Index;
use std::marker::PhantomData;

/// A tree of documents of a type.
pub struct TreeOf<D, S> {
    tree: Tree<S>,
    is: PhantomData<fn() -> D>,
}

/// A node of a [`TreeOf`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeOf<D> {
    /// Its data.
    pub data: D,
    /// The index of the command that set the data.
    pub version: Index,
    /// The index of the command that created it.
    pub created: Index,
    /// The session it ends with, if it does.
    pub owner: Option<SessionId>,
}

/// A change of a [`TreeOf`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TreeEventOf<D> {
    /// A node was created.
    Created {
        /// Its path.
        path: String,
        /// Its data.
        data: Stored<D>,
    },
    /// A node has new data.
    Changed {
        /// Its path.
        path: String,
        /// Its data.
        data: Stored<D>,
        /// The data it had.
        old: D,
    },
    /// A node is not there any more.
    Removed {
        /// Its path.
        path: String,
        /// The data it had.
        old: D,
        /// Where in the log that happened; above the version it had.
        version: Index,
        /// Why.
        why: Removal,
    },
    /// The tree was deleted.
    Deleted,
    /// Changes were missed: read the tree, then go on.
    Lagged {
        /// Index of the oldest event still kept.
        oldest: Index,
    },
}

impl<D: Data, S: Submit> TreeOf<D, S> {
    /// The same tree, with data of a type.
    pub fn new(tree: Tree<S>) -> TreeOf<D, S> {
        TreeOf { tree, is: PhantomData }
    }

    /// The tree in bytes, for all else it can do.
    #[must_use]
    pub fn bytes(&self) -> &Tree<S> {
        &self.tree
    }

    /// See [`Tree::with_level`].
    #[must_use]
    pub fn with_level(self, level: Level) -> TreeOf<D, S> {
        TreeOf::new(self.tree.with_level(level))
    }

    /// See [`Tree::ephemeral`].
    #[must_use]
    pub fn ephemeral(self) -> TreeOf<D, S> {
        TreeOf::new(self.tree.ephemeral())
    }

    /// See [`Tree::with_parents`].
    #[must_use]
    pub fn with_parents(self) -> TreeOf<D, S> {
        TreeOf::new(self.tree.with_parents())
    }

    /// See [`Tree::create`].
    pub fn create(&self, path: &str, data: &D) -> Reply<Swap<Option<Stored<D>>>> {
        self.tree.create(path, &data.to_bytes()).and_then(read_swap)
    }

    /// See [`Tree::create_sequential`].
    pub fn create_sequential(&self, path: &str, data: &D) -> Reply<String> {
        self.tree.create_sequential(path, &data.to_bytes())
    }

    /// See [`Tree::set`].
    pub fn set(&self, path: &str, data: &D) -> Reply<Option<Index>> {
        self.tree.set(path, &data.to_bytes())
    }

    /// See [`Tree::set_version`].
    pub fn set_version(
        &self,
        path: &str,
        version: Index,
        data: &D,
    ) -> Reply<Swap<Option<Stored<D>>>> {
        self.tree.set_version(path, version, &data.to_bytes()).and_then(read_swap)
    }

    /// See [`Tree::delete`].
    pub fn delete(&self, path: &str) -> Reply<bool> {
        self.tree.delete(path)
    }

    /// See [`Tree::delete_version`].
    pub fn delete_version(&self, path: &str, version: Index) -> Reply<Swap<Option<Stored<D>>>> {
        self.tree.delete_version(path, version).and_then(read_swap)
    }

    /// See [`Tree::delete_all`].
    pub fn delete_all(&self, path: &str) -> Reply<u64> {
        self.tree.delete_all(path)
    }

    /// A node, if it is there.
    pub fn get(&self, path: &str) -> Reply<Option<NodeOf<D>>> {
        self.tree.get(path).and_then(|found| found.map(read_node).transpose())
    }

    /// Whether a node is there.
    pub fn exists(&self, path: &str) -> Reply<bool> {
        self.tree.exists(path)
    }

    /// See [`Tree::children`].
    pub fn children(&self, path: &str, after: Option<&str>, limit: u32) -> Reply<Option<Children>> {
        self.tree.children(path, after, limit)
    }

    /// See [`Tree::watch`]. A change whose data is none of the type is a failure, and the next one
    /// comes all the same.
    ///
    /// # Errors
    /// See [`Tree::watch`].
    pub fn watch(
        &self,
        path: &str,
        after: Option<(Index, u32)>,
    ) -> Result<Watch<TreeEventOf<D>>, Failure> {
        Ok(Watch::new(self.tree.handle().subscribe(after, filter_at(path)?), read_typed))
    }

    /// See [`Tree::watch_below`].
    ///
    /// # Errors
    /// See [`Tree::watch_below`].
    pub fn watch_below(
        &self,
        path: &str,
        after: Option<(Index, u32)>,
    ) -> Result<Watch<TreeEventOf<D>>, Failure> {
        Ok(Watch::new(self.tree.handle().subscribe(after, filter_below(path)?), read_typed))
    }
}

fn read_node<D: Data>(node: Node) -> Result<NodeOf<D>, Failure> {
    let Node { data, version, created, owner } = node;
    Ok(NodeOf { data: D::from_bytes(&data)?, version, created, owner })
}

fn read_typed<D: Data>(delivery: Delivery) -> Result<TreeEventOf<D>, Failure> {
    Ok(match read_event(delivery)? {
        TreeEvent::Created { path, data } => TreeEventOf::Created { path, data: read(data)? },
        TreeEvent::Changed { path, data, old } => {
            TreeEventOf::Changed { path, data: read(data)?, old: D::from_bytes(&old)? }
        }
        TreeEvent::Removed { path, old, version, why } => {
            TreeEventOf::Removed { path, old: D::from_bytes(&old)?, version, why }
        }
        TreeEvent::Deleted => TreeEventOf::Deleted,
        TreeEvent::Lagged { oldest } => TreeEventOf::Lagged { oldest },
    })
}

impl<D, S: Clone> Clone for TreeOf<D, S> {
    fn clone(&self) -> Self {
        TreeOf { tree: self.tree.clone(), is: PhantomData }
    }
}
