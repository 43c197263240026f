//! The directory of a group's resources, as applications use it.

use super::codec::Encode;
use super::describe::{self, DescribeV1, Description};
use super::handle::{command, query};
use super::registry::{DeleteV1, FindV1, ListV1, OpenV1};
use super::{Answer, Reply, Submit};
use crate::machine::bytes::Reader;
use crate::machine::{Code, Level, ResourceId};

/// A resource, as lists and look-ups show it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// Its id.
    pub id: ResourceId,
    /// Its type: see [`crate::machine::kind`].
    pub kind: u8,
    /// Its name.
    pub name: String,
}

/// One page of a list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page {
    /// In order of their names.
    pub resources: Vec<Listed>,
    /// Ask for the next page after this name; `None` where this is the last.
    pub next: Option<String>,
}

/// The resources of the group that `submit` leads to.
#[derive(Clone, Debug)]
pub struct Directory<S> {
    submit: S,
    level: Level,
}

impl<S: Submit> Directory<S> {
    /// The directory of a group.
    pub fn new(submit: S) -> Directory<S> {
        Directory { submit, level: Level::default() }
    }

    /// The same, with look-ups and lists at another level.
    #[must_use]
    pub fn with_level(self, level: Level) -> Directory<S> {
        Directory { level, ..self }
    }

    /// The resource of a name; it is created where there is none.
    pub fn open(&self, name: &str, kind: u8, options: &[u8]) -> Reply<ResourceId> {
        let (name, options) = (name.as_bytes().to_vec(), options.to_vec());
        let open = OpenV1 { name, kind, options };
        self.command(&open).and_then(|answer| {
            let mut reader = Reader::new(&answer.payload);
            Ok(ResourceId(reader.u64()?))
        })
    }

    /// The resource of a name, `None` where there is none; `kind` 0 for any type.
    pub fn find(&self, name: &str, kind: u8) -> Reply<Option<Listed>> {
        let find = FindV1 { name: name.as_bytes().to_vec(), kind };
        let name = name.to_owned();
        self.query(&find).map(|result| {
            let answer = match result {
                Err(failure) if failure.code == Code::NO_SUCH_RESOURCE => return Ok(None),
                other => other?,
            };
            let mut reader = Reader::new(&answer.payload);
            let (id, kind) = (ResourceId(reader.u64()?), reader.u8()?);
            Ok(Some(Listed { id, kind, name }))
        })
    }

    /// What there is to say of the resource of a name; `None` where there is none.
    pub fn describe(&self, name: &str) -> Reply<Option<Description>> {
        let name = name.as_bytes().to_vec();
        self.query(&DescribeV1 { name }).map(|result| match result {
            Err(failure) if failure.code == Code::NO_SUCH_RESOURCE => Ok(None),
            other => Ok(Some(describe::read(&other?.payload)?)),
        })
    }

    /// Deletes a resource with all it holds. `false` where it is already gone.
    pub fn delete(&self, resource: ResourceId) -> Reply<bool> {
        self.command(&DeleteV1 { resource: resource.0 }).map(|result| match result {
            Err(failure) if failure.code == Code::NO_SUCH_RESOURCE => Ok(false),
            other => other.map(|_| true),
        })
    }

    /// A page of resources whose names begin with `prefix`, after the name `after` (empty for the
    /// first page).
    pub fn list(&self, prefix: &str, kind: u8, after: &str, limit: u32) -> Reply<Page> {
        let (prefix, after) = (prefix.as_bytes().to_vec(), after.as_bytes().to_vec());
        self.query(&ListV1 { prefix, kind, after, limit }).and_then(|answer| {
            let mut reader = Reader::new(&answer.payload);
            let next = reader.optional()?.map(|next| String::from_utf8_lossy(next).into_owned());
            let mut resources = Vec::new();
            for _ in 0..reader.u32()? {
                let (id, kind) = (ResourceId(reader.u64()?), reader.u8()?);
                let name = String::from_utf8_lossy(reader.bytes()?).into_owned();
                resources.push(Listed { id, kind, name });
            }
            Ok(Page { resources, next })
        })
    }

    fn command<O: Encode>(&self, operation: &O) -> Reply<Answer> {
        command(&self.submit, ResourceId::REGISTRY, operation)
    }

    fn query<O: Encode>(&self, operation: &O) -> Reply<Answer> {
        query(&self.submit, self.level, ResourceId::REGISTRY, operation)
    }
}
