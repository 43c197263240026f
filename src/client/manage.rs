//! Looking after resources of any type, by name: find, describe, list, delete. Nothing here creates
//! one.

use std::collections::VecDeque;

use margay_log::id::GroupId;

use super::{Client, Group};
use crate::machine::Level;
use crate::resource::directory::Listed;
use crate::resource::{Description, Directory, Failure, Reply};

/// A resource on a list of the whole cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// Id, type and name.
    pub listed: Listed,
    /// The group it lives in.
    pub group: GroupId,
}

/// The resources of all groups in order of their names, fetched page by page. Blocks the thread;
/// each page is as of one moment, all of them together are not.
#[derive(Debug)]
pub struct Listing {
    sources: Vec<Source>,
    prefix: String,
    kind: u8,
    level: Level,
}

/// What is left of one group's list.
#[derive(Debug)]
struct Source {
    group: Group,
    page: VecDeque<Listed>,
    /// Where the next page begins, if there is one.
    next: Option<String>,
}

impl Client {
    /// The resource of a name, of any type; `None` where there is none.
    pub fn find(&self, name: &str) -> Reply<Option<Listed>> {
        self.with_group(name, |directory| directory.find(name, 0))
    }

    /// Whether there is a resource of this name, of any type.
    pub fn exists(&self, name: &str) -> Reply<bool> {
        self.find(name).and_then(|found| Ok(found.is_some()))
    }

    /// What there is to say of a resource: type, size, holders, waiters; `None` where there is
    /// none.
    pub fn describe(&self, name: &str) -> Reply<Option<Description>> {
        self.with_group(name, |directory| directory.describe(name))
    }

    /// Deletes a resource of any type with all it holds: holders have lost what they held, waiters
    /// wait no more, watchers are told. `false` where there is none.
    pub fn delete(&self, name: &str) -> Reply<bool> {
        self.with_group(name, |directory| {
            let found = directory.find(name, 0);
            found.then(move |found| match found {
                Ok(Some(listed)) => directory.delete(listed.id),
                Ok(None) => Reply::ready(Ok(false)),
                Err(failure) => Reply::ready(Err(failure)),
            })
        })
    }

    /// All resources of the cluster whose names begin with `prefix`; `kind` 0 for any type.
    #[must_use]
    pub fn list(&self, prefix: &str, kind: u8) -> Listing {
        let source = |group| Source {
            group: self.group(GroupId(group)),
            page: VecDeque::new(),
            next: Some(String::new()),
        };
        let sources = (0..self.groups()).map(source).collect();
        Listing { sources, prefix: prefix.to_owned(), kind, level: Level::default() }
    }

    fn with_group<T>(
        &self,
        name: &str,
        ask: impl FnOnce(Directory<Group>) -> Reply<T>,
    ) -> Reply<T> {
        match self.group_of(name) {
            Ok(group) => ask(Directory::new(group)),
            Err(error) => Reply::ready(Err(Failure::new(error.code(), error.to_string()))),
        }
    }
}

impl Listing {
    /// The same, read at another level.
    #[must_use]
    pub fn with_level(self, level: Level) -> Listing {
        Listing { level, ..self }
    }

    /// Fetches, from all groups at the same time, a page where there is none at hand and more to
    /// come.
    fn fill(&mut self) -> Result<(), Failure> {
        // A page may be empty and not the last: only part of the names was looked at.
        loop {
            let asked: Vec<_> = self
                .sources
                .iter_mut()
                .filter(|source| source.page.is_empty())
                .filter_map(|source| {
                    let after = source.next.take()?;
                    let directory = Directory::new(source.group.clone()).with_level(self.level);
                    Some((directory.list(&self.prefix, self.kind, &after, 0), source))
                })
                .collect();
            if asked.is_empty() {
                return Ok(());
            }
            for (page, source) in asked {
                let page = page.wait()?;
                source.page = page.resources.into();
                source.next = page.next;
            }
        }
    }
}

impl Iterator for Listing {
    type Item = Result<Found, Failure>;

    fn next(&mut self) -> Option<Result<Found, Failure>> {
        if let Err(failure) = self.fill() {
            self.sources.clear();
            return Some(Err(failure));
        }
        let with_page = self.sources.iter_mut().filter(|source| !source.page.is_empty());
        let first = with_page.min_by(|a, b| a.page[0].name.cmp(&b.page[0].name))?;
        let listed = first.page.pop_front()?;
        Some(Ok(Found { listed, group: first.group.id() }))
    }
}
