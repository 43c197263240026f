//! The document tree as applications use it.

use super::{ChildrenV1, CreateV1, DeleteBelowV1, DeleteV1, GetV1, SetV1, path};
use crate::machine::bytes::Reader;
use crate::machine::{Code, EventPayload, Filter, Level, ResourceId, SessionId, kind};
use crate::resource::handle::{Handle, Removal, Swap, Versioned, read_count, read_swap};
use crate::resource::registry::DELETED;
use crate::resource::{Answer, Delivery, Failure, Reply, Submit, Watch, entries};
use margay_log::id::Index;

/// A tree of documents.
///
/// Paths are at most 4 KiB, data 1 MiB.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let client = margay::client::Client::builder().endpoints(["127.0.0.1:5150"]).connect()?;
/// let config = client.tree("config").wait()?;
/// config.clone().with_parents().create("/app/db", b"10.0.0.9").wait()?;
/// let node = config.get("/app/db").wait()?.expect("just made");
/// config.set_version("/app/db", node.version, b"10.0.0.10").wait()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Tree<S> {
    handle: Handle<S>,
    ephemeral: bool,
    parents: bool,
}

/// A node of a tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// Its data.
    pub data: Vec<u8>,
    /// The index of the command that set the data.
    pub version: Index,
    /// The index of the command that created it.
    pub created: Index,
    /// The session it ends with, if it does.
    pub owner: Option<SessionId>,
}

/// Names of children, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Children {
    /// At most [`super::CHILDREN_MAX`].
    pub names: Vec<String>,
    /// Whether there are more after the last of them.
    pub more: bool,
}

/// A change of a tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TreeEvent {
    /// A node was created.
    Created {
        /// Its path.
        path: String,
        /// Its data.
        data: Versioned,
    },
    /// A node has new data.
    Changed {
        /// Its path.
        path: String,
        /// Its data.
        data: Versioned,
        /// The data it had.
        old: Vec<u8>,
    },
    /// A node is not there any more.
    Removed {
        /// Its path.
        path: String,
        /// The data it had.
        old: Vec<u8>,
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

impl<S: Submit> Tree<S> {
    /// Opens a tree by name; it is created, with its root, where there is none.
    pub fn open(submit: S, name: &str) -> Reply<Tree<S>> {
        let opened = Handle::open(submit, name, kind::TREE);
        opened.and_then(|handle| Ok(Tree { handle, ephemeral: false, parents: false }))
    }

    /// The tree `id`.
    pub fn new(submit: S, id: ResourceId) -> Tree<S> {
        Tree { handle: Handle::new(submit, id), ephemeral: false, parents: false }
    }

    /// The same, with reads at another level.
    #[must_use]
    pub fn with_level(self, level: Level) -> Tree<S> {
        Tree { handle: self.handle.with_level(level), ..self }
    }

    /// The same tree, but nodes created through this handle end with this client's session, and
    /// nothing can be below them.
    #[must_use]
    pub fn ephemeral(self) -> Tree<S> {
        Tree { ephemeral: true, ..self }
    }

    /// The same tree, but creating a node creates those above it, without data, where they are not
    /// there.
    #[must_use]
    pub fn with_parents(self) -> Tree<S> {
        Tree { parents: true, ..self }
    }

    /// The way to it, for transactions and operations of one's own.
    #[must_use]
    pub fn handle(&self) -> &Handle<S> {
        &self.handle
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> ResourceId {
        self.handle.id()
    }

    /// Creates a node; says what is there where it exists. Fails with [`Code::NO_PARENT`] or
    /// [`Code::EPHEMERAL_PARENT`] where nothing can be below the path's parent.
    pub fn create(&self, path: &str, data: &[u8]) -> Reply<Swap<Option<Versioned>>> {
        self.create_as(path, data, false).and_then(|answer| read_swap(&answer))
    }

    /// Creates a node whose name is the last one of `path`, possibly empty, and ten digits: a
    /// number that rises with each such node of the same parent. Returns its path.
    pub fn create_sequential(&self, path: &str, data: &[u8]) -> Reply<String> {
        let (tree, own_path, own_data) = (self.clone(), path.to_owned(), data.to_vec());
        self.create_as(path, data, true).then(move |answer| match answer {
            Ok(answer) => match answer.payload.split_first() {
                Some((1, path)) => Reply::ready(text(path.to_vec())),
                // Somebody has given a node this very name: the next number.
                Some((0, _)) => tree.create_sequential(&own_path, &own_data),
                _ => Reply::ready(Err(Failure::from(Code::BAD_PAYLOAD))),
            },
            Err(failure) => Reply::ready(Err(failure)),
        })
    }

    fn create_as(&self, path: &str, data: &[u8], sequential: bool) -> Reply<Answer> {
        let (path, data) = (path.as_bytes().to_vec(), data.to_vec());
        let Tree { ephemeral, parents, .. } = *self;
        self.handle.command(&CreateV1 { path, data, ephemeral, sequential, parents })
    }

    /// Sets the data of a node; `None` where there is none. Returns its version.
    pub fn set(&self, path: &str, data: &[u8]) -> Reply<Option<Index>> {
        self.set_version(path, Index::ZERO, data).and_then(|swap| match swap {
            Swap::Done(version) => Ok(Some(version)),
            Swap::Conflict(_) => Ok(None),
        })
    }

    /// Sets the data of a node that has this version, or any for `Index::ZERO`.
    pub fn set_version(
        &self,
        path: &str,
        version: Index,
        data: &[u8],
    ) -> Reply<Swap<Option<Versioned>>> {
        let (path, data) = (path.as_bytes().to_vec(), data.to_vec());
        let set = SetV1 { path, data, version: version.0 };
        self.handle.command(&set).and_then(|answer| read_swap(&answer))
    }

    /// Deletes a node without children. Returns whether it was there. Fails with
    /// [`Code::HAS_CHILDREN`].
    pub fn delete(&self, path: &str) -> Reply<bool> {
        let deleted = self.delete_version(path, Index::ZERO);
        deleted.and_then(|swap| Ok(matches!(swap, Swap::Done(_))))
    }

    /// Deletes a node without children that has this version, or any for `Index::ZERO`.
    pub fn delete_version(&self, path: &str, version: Index) -> Reply<Swap<Option<Versioned>>> {
        let delete = DeleteV1 { path: path.as_bytes().to_vec(), version: version.0 };
        self.handle.command(&delete).and_then(|answer| read_swap(&answer))
    }

    /// Deletes everything below a node, then the node, unless it is the root: 1,000 nodes at a
    /// time, children before parents. Returns how many. Fails with [`Code::HAS_CHILDREN`] where
    /// somebody creates nodes there meanwhile. Where it fails and some are gone already, the
    /// outcome is unknown.
    pub fn delete_all(&self, path: &str) -> Reply<u64> {
        self.clone().delete_more(path.to_owned(), 0)
    }

    fn delete_more(self, path: String, before: u64) -> Reply<u64> {
        let delete = DeleteBelowV1 { path: path.as_bytes().to_vec() };
        self.handle.command(&delete).then(move |answer| match answer.and_then(read_count) {
            Ok(0) if path == "/" => Reply::ready(Ok(before)),
            Ok(0) => self.delete(&path).map(move |own| {
                let own = own.map_err(|failure| failure.behind(before > 0))?;
                Ok(before + u64::from(own))
            }),
            Ok(deleted) => self.delete_more(path, before + deleted),
            Err(failure) => Reply::ready(Err(failure.behind(before > 0))),
        })
    }

    /// A node, if it is there. The root always is; its version is 0 until something is done to it.
    pub fn get(&self, path: &str) -> Reply<Option<Node>> {
        self.handle.query(&GetV1 { path: path.as_bytes().to_vec() }).and_then(|answer| {
            let mut reader = Reader::new(&answer.payload);
            let is_there = reader.u8()? != 0;
            let (version, created) = (Index(reader.u64()?), Index(reader.u64()?));
            let owner = Some(SessionId(reader.u64()?)).filter(|owner| owner.0 != 0);
            let data = reader.rest().to_vec();
            Ok(is_there.then_some(Node { data, version, created, owner }))
        })
    }

    /// Whether a node is there.
    pub fn exists(&self, path: &str) -> Reply<bool> {
        self.get(path).and_then(|found| Ok(found.is_some()))
    }

    /// A page of the names of a node's children, after one of them or from the first on; `limit` 0
    /// for as many as fit. `None` where the node is not there.
    pub fn children(&self, path: &str, after: Option<&str>, limit: u32) -> Reply<Option<Children>> {
        let after = after.map(|after| after.as_bytes().to_vec());
        let children = ChildrenV1 { path: path.as_bytes().to_vec(), after, limit };
        self.handle.query(&children).and_then(|answer| {
            let mut reader = Reader::new(&answer.payload);
            let (is_there, more) = (reader.u8()? != 0, reader.u8()? != 0);
            let mut names = Vec::new();
            for _ in 0..reader.u32()? {
                names.push(text(reader.bytes()?.to_vec())?);
            }
            Ok(is_there.then_some(Children { names, more }))
        })
    }

    /// Changes of one node, after a position or from now on.
    ///
    /// # Errors
    /// [`Code::BAD_PATH`], [`Code::KEY_TOO_LARGE`].
    pub fn watch(
        &self,
        path: &str,
        after: Option<(Index, u32)>,
    ) -> Result<Watch<TreeEvent>, Failure> {
        Ok(Watch::new(self.handle.subscribe(after, filter_at(path)?), read_event))
    }

    /// Changes of a node and of all below it, after a position or from now on.
    ///
    /// # Errors
    /// [`Code::BAD_PATH`], [`Code::KEY_TOO_LARGE`].
    pub fn watch_below(
        &self,
        path: &str,
        after: Option<(Index, u32)>,
    ) -> Result<Watch<TreeEvent>, Failure> {
        Ok(Watch::new(self.handle.subscribe(after, filter_below(path)?), read_event))
    }
}

/// Events of one node.
pub(in super::super) fn filter_at(path: &str) -> Result<Filter, Failure> {
    Ok(Filter::Key(path::key(path.as_bytes())?))
}

/// Events of a node and of all below it.
pub(in super::super) fn filter_below(path: &str) -> Result<Filter, Failure> {
    Ok(Filter::Prefix(path::key(path.as_bytes())?))
}

fn text(bytes: Vec<u8>) -> Result<String, Failure> {
    String::from_utf8(bytes).map_err(|_| Failure::from(Code::BAD_PAYLOAD))
}

pub(in super::super) fn read_event(delivery: Delivery) -> Result<TreeEvent, Failure> {
    let (version, kind, payload) = match delivery {
        Delivery::Lagged { oldest } => return Ok(TreeEvent::Lagged { oldest }),
        Delivery::Event { index: version, kind, payload, .. } => (version, kind, payload),
    };
    let EventPayload { key, new, old } = EventPayload::decode(&payload)?;
    if kind == DELETED {
        return Ok(TreeEvent::Deleted);
    }
    let path = text(path::of_key(&key.ok_or(Code::BAD_PAYLOAD)?))?;
    match (kind, new, old) {
        (entries::PUT, Some(value), None) => {
            Ok(TreeEvent::Created { path, data: Versioned { value, version } })
        }
        (entries::PUT, Some(value), Some(old)) => {
            Ok(TreeEvent::Changed { path, data: Versioned { value, version }, old })
        }
        (kind, _, Some(old)) => match Removal::of_event(kind) {
            Some(why) => Ok(TreeEvent::Removed { path, old, version, why }),
            None => Err(Failure::from(Code::BAD_PAYLOAD)),
        },
        _ => Err(Failure::from(Code::BAD_PAYLOAD)),
    }
}
