//! A tree of documents: nodes under paths like `/a/b`, each with its data and a version.
//!
//! A node's parent is always there; the root is there from the beginning. A node may end with the
//! session that created it, then nothing can be below it. A name may be completed with a number
//! that rises with each such node of the same parent. Events: those of [`super::entries`], under
//! the node's [`path::key`].

mod handle;
pub mod path;

pub use handle::{Children, Node, Tree, TreeEvent};
pub(super) use handle::{filter_at, filter_below, read_event};

use super::Resource;
use super::codec::{
    Limits, Operation, Scratch, access, check_by_schema, limit, limits, operation, page_limit,
};
use super::entries::{Entries, Extra, Held, Life, PAGE_BYTES_MAX, Page, delegate_to_entries};
use super::handle::{put_swap, thaw_version};
use crate::machine::bytes::{self, Reader};
use crate::machine::{Code, Commit, Effects, LogTime, Pair, Query, kind};
use margay_log::id::Index;

/// Names on a page of children, at most.
pub const CHILDREN_MAX: u32 = 1_000;
/// Nodes that one command deletes, at most.
const DELETE_MAX: usize = 1_000;

// ---- operations -----------------------------------------------------------------------------

/// Creates a node. Answers 1 and its path, or 0, version and data of the one there is.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct CreateV1 {
    /// At most 4 KiB; where a number is to follow, the last name may be empty.
    pub path: Vec<u8>,
    /// At most 1 MiB.
    pub data: Vec<u8>,
    /// Whether it ends with the session.
    pub ephemeral: bool,
    /// Whether ten digits are to follow.
    pub sequential: bool,
    /// Whether to create the nodes above that are not there, without data.
    pub parents: bool,
}

/// Sets the data of a node that has the version. Answers 1, or 0, version and data of what is
/// there.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct SetV1 {
    /// At most 4 KiB.
    pub path: Vec<u8>,
    /// At most 1 MiB.
    pub data: Vec<u8>,
    /// 0 for any.
    pub version: u64,
}

/// Deletes a node that has the version and no children. Answers as [`SetV1`] does.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct DeleteV1 {
    /// At most 4 KiB; not the root.
    pub path: Vec<u8>,
    /// 0 for any.
    pub version: u64,
}

/// Deletes up to 1,000 nodes below a path, from the last to the first. Answers how many.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct DeleteBelowV1 {
    /// At most 4 KiB.
    pub path: Vec<u8>,
}

/// Query: a node. Answers whether it is there, its version, the entry that created it, the session
/// it ends with or 0, and its data.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct GetV1 {
    /// At most 4 KiB.
    pub path: Vec<u8>,
}

/// Query: names of the children of a node, in order. Answers whether the node is there, 1 where
/// more follow, a count, and the names.
#[derive(rkyv::Archive, rkyv::Serialize, Debug)]
pub struct ChildrenV1 {
    /// At most 4 KiB.
    pub path: Vec<u8>,
    /// The page begins after this name.
    pub after: Option<Vec<u8>>,
    /// At most so many; 0 and anything over [`CHILDREN_MAX`] stand for [`CHILDREN_MAX`].
    pub limit: u32,
}

operation!(CreateV1, kind::TREE, 0x0101, "create");
operation!(SetV1, kind::TREE, 0x0201, "set");
operation!(DeleteV1, kind::TREE, 0x0301, "delete");
operation!(DeleteBelowV1, kind::TREE, 0x0401, "delete-below");
operation!(GetV1, kind::TREE, 0x4001, "get");
operation!(ChildrenV1, kind::TREE, 0x4101, "children");

limits! {
    ArchivedSetV1: value(data), path(path);
    ArchivedDeleteBelowV1: path(path);
    ArchivedGetV1: path(path);
    ArchivedChildrenV1: path(path), bound(after);
}

impl Limits for ArchivedCreateV1 {
    fn limits(&self) -> Result<(), Code> {
        limit::value(&self.data)?;
        if self.sequential { path::split(&self.path).map(drop) } else { limit::path(&self.path) }
    }
}

impl Limits for ArchivedDeleteV1 {
    fn limits(&self) -> Result<(), Code> {
        if self.path[..] == *b"/" { Err(Code::BAD_PATH) } else { limit::path(&self.path) }
    }
}

check_by_schema!(CreateV1, SetV1, DeleteV1, DeleteBelowV1);

// ---- state ----------------------------------------------------------------------------------

/// Nodes by [`path::key`]: what is below a node follows it. The root has an entry only once
/// something was done to it.
#[derive(Clone, Debug, Default)]
pub(super) struct TreeState {
    nodes: Entries<Origin>,
}

/// What a node is beside its data.
#[derive(Clone, Copy, Debug, Default)]
struct Origin {
    /// The entry that created it.
    created: Index,
    /// The number of its next sequential child.
    next: u64,
}

impl Extra for Origin {
    fn freeze(&self, out: &mut Vec<u8>) {
        bytes::put_u64(out, self.created.0);
        bytes::put_u64(out, self.next);
    }

    fn thaw(reader: &mut Reader<'_>, applied: Index) -> Result<Origin, Code> {
        Ok(Origin { created: thaw_version(reader, applied)?, next: reader.u64()? })
    }
}

impl Resource for TreeState {
    fn apply(&mut self, commit: &Commit<'_>, effects: &mut Effects) {
        if let Err(code) = self.try_apply(commit, effects) {
            effects.refuse(code, "");
        }
    }

    fn query(&self, query: &Query<'_>, effects: &mut Effects) {
        if let Err(code) = self.try_query(query, &mut effects.reply) {
            effects.refuse(code, "");
        }
    }

    delegate_to_entries!(nodes);
}

impl TreeState {
    fn try_apply(&mut self, commit: &Commit<'_>, effects: &mut Effects) -> Result<(), Code> {
        let (payload, mut scratch) = (commit.payload, Scratch::new());
        match commit.schema {
            CreateV1::SCHEMA => {
                let create = access::<CreateV1>(payload, &mut scratch)?;
                self.create(create, commit, effects)?;
            }
            SetV1::SCHEMA => {
                let set = access::<SetV1>(payload, &mut scratch)?;
                let key = path::key(&set.path)?;
                if key.is_empty() {
                    self.root(commit);
                }
                let found = self.nodes.get(&key, commit.time);
                let done = found.is_some_and(|held| held.meets(None, set.version.to_native()));
                put_swap(&mut effects.reply, done, found.map(Held::versioned));
                if let Some(held) = found.filter(|_| done) {
                    let (life, origin) = (held.life(), held.extra);
                    self.nodes.put(Pair::new(&key, &set.data), life, origin, commit, effects);
                }
            }
            DeleteV1::SCHEMA => {
                let delete = access::<DeleteV1>(payload, &mut scratch)?;
                let key = path::key(&delete.path)?;
                let found = self.nodes.get(&key, commit.time);
                let done = found.is_some_and(|held| held.meets(None, delete.version.to_native()));
                if done && self.first_below(&key, None, commit.time)?.is_some() {
                    return Err(Code::HAS_CHILDREN);
                }
                put_swap(&mut effects.reply, done, found.map(Held::versioned));
                if done {
                    self.nodes.remove(&key, commit, effects);
                }
            }
            DeleteBelowV1::SCHEMA => {
                let delete = access::<DeleteBelowV1>(payload, &mut scratch)?;
                let key = path::key(&delete.path)?;
                let deleted = self.delete_below(&key, commit, effects);
                bytes::put_u64(&mut effects.reply, deleted as u64);
            }
            _ => return Err(Code::BAD_KIND),
        }
        Ok(())
    }

    fn create(
        &mut self,
        create: &ArchivedCreateV1,
        commit: &Commit<'_>,
        effects: &mut Effects,
    ) -> Result<(), Code> {
        let (parent, name) = path::split(&create.path)?;
        let mut name = name.to_vec();
        if parent.is_empty() {
            self.root(commit);
        }
        let place = self.parent_of(&parent, create.parents, commit)?;
        if create.sequential {
            let number = place.as_ref().map_or(0, |held| held.extra.next);
            name.extend_from_slice(format!("{number:010}").as_bytes());
        } else if name.is_empty() {
            // The root: it is there.
            put_swap(&mut effects.reply, false, place.as_ref().map(Held::versioned));
            return Ok(());
        }
        let key = path::child(&parent, &name)?;
        if place.is_none() {
            self.create_above(&parent, commit, effects);
        }
        if create.sequential {
            let held = self.nodes.get(&parent, commit.time).expect("it was there, or is now");
            let origin = Origin { next: held.extra.next.saturating_add(1), ..held.extra };
            let counted = Held::new(held.pair.clone(), held.version, held.life(), origin);
            self.nodes.insert(counted);
        }
        if let Some(there) = self.nodes.get(&key, commit.time) {
            put_swap(&mut effects.reply, false, Some(there.versioned()));
            return Ok(());
        }
        let life = Life::wished(0, create.ephemeral, commit);
        let origin = Origin { created: commit.index, next: 0 };
        self.nodes.put(Pair::new(&key, &create.data), life, origin, commit, effects);
        effects.reply.push(1);
        effects.reply.extend_from_slice(&path::of_key(&key));
        Ok(())
    }

    /// The node that is to have a child; `None` where it may be created first.
    fn parent_of(
        &self,
        parent: &[u8],
        may_create: bool,
        commit: &Commit<'_>,
    ) -> Result<Option<Held<Origin>>, Code> {
        let mut above = parent;
        loop {
            match self.nodes.get(above, commit.time) {
                Some(held) if held.life().owner.is_some() => return Err(Code::EPHEMERAL_PARENT),
                Some(held) if above.len() == parent.len() => return Ok(Some(held.clone())),
                None if !may_create => return Err(Code::NO_PARENT),
                None if !above.is_empty() => above = path::parent(above),
                _ => return Ok(None),
            }
        }
    }

    /// Creates what is missing of a node and all above it.
    fn create_above(&mut self, key: &[u8], commit: &Commit<'_>, effects: &mut Effects) {
        self.root(commit);
        for end in path::ends(key) {
            if self.nodes.get(&key[..end], commit.time).is_none() {
                let origin = Origin { created: commit.index, next: 0 };
                let pair = Pair::new(&key[..end], &[]);
                self.nodes.put(pair, Life::default(), origin, commit, effects);
            }
        }
    }

    /// The root gets an entry, without a word: it was there.
    fn root(&mut self, commit: &Commit<'_>) {
        if self.nodes.get(&[], commit.time).is_none() {
            let origin = Origin { created: commit.index, next: 0 };
            let root = Held::new(Pair::new(&[], &[]), commit.index, Life::default(), origin);
            self.nodes.insert(root);
        }
    }

    fn delete_below(&mut self, key: &[u8], commit: &Commit<'_>, effects: &mut Effects) -> usize {
        let mut last = Vec::new();
        let page = Page { prefix: key, descending: true, ..Page::default() };
        self.nodes.scan(&page, commit.time, |held| {
            if held.pair.key().len() > key.len() && last.len() < DELETE_MAX {
                last.push(held.pair.clone());
            }
            last.len() < DELETE_MAX
        });
        for pair in &last {
            self.nodes.remove(pair.key(), commit, effects);
        }
        last.len()
    }

    /// The first node below one: its first child, or the first after what is below a child.
    fn first_below(
        &self,
        key: &[u8],
        after: Option<&[u8]>,
        now: LogTime,
    ) -> Result<Option<&Held<Origin>>, Code> {
        // Nothing sorts between a child, what is below it, and this.
        let from = after.map(|name| [key, name, &[path::END + 1]].concat());
        let after = Some(key).filter(|_| from.is_none());
        self.nodes
            .first(&Page { prefix: key, from: from.as_deref(), after, ..Page::default() }, now)
    }

    fn try_query(&self, query: &Query<'_>, out: &mut Vec<u8>) -> Result<(), Code> {
        let (payload, now, mut scratch) = (query.payload, query.time, Scratch::new());
        match query.schema {
            GetV1::SCHEMA => {
                let key = path::key(&access::<GetV1>(payload, &mut scratch)?.path)?;
                let found = self.nodes.get(&key, now);
                out.push(u8::from(found.is_some() || key.is_empty()));
                bytes::put_u64(out, found.map_or(0, |held| held.version.0));
                bytes::put_u64(out, found.map_or(0, |held| held.extra.created.0));
                let owner = found.and_then(|held| held.life().owner);
                bytes::put_u64(out, owner.unwrap_or_default().0);
                out.extend_from_slice(found.map_or(&[], |held| held.pair.value()));
            }
            ChildrenV1::SCHEMA => {
                let children = access::<ChildrenV1>(payload, &mut scratch)?;
                self.children(children, now, out)?;
            }
            _ => return Err(Code::BAD_KIND),
        }
        Ok(())
    }

    fn children(
        &self,
        children: &ArchivedChildrenV1,
        now: LogTime,
        out: &mut Vec<u8>,
    ) -> Result<(), Code> {
        let key = path::key(&children.path)?;
        let limit = page_limit(children.limit.to_native(), CHILDREN_MAX);
        let mut after = children.after.as_ref().map(|after| after.to_vec());
        let (mut names, mut count, mut more) = (Vec::new(), 0_u32, false);
        while let Some(held) = self.first_below(&key, after.as_deref(), now)? {
            let name = path::first_name(&held.pair.key()[key.len()..]);
            let is_full = count > 0 && names.len() + name.len() > PAGE_BYTES_MAX;
            if count == limit || is_full {
                more = true;
                break;
            }
            bytes::put_bytes(&mut names, name);
            count += 1;
            after = Some(name.to_vec());
        }
        out.push(u8::from(key.is_empty() || self.nodes.get(&key, now).is_some()));
        out.push(u8::from(more));
        bytes::put_u32(out, count);
        out.extend_from_slice(&names);
        Ok(())
    }
}
