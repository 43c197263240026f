//! `margay tree`: a tree of documents under a name.

use margay::client::{Client, Group};
use margay::machine::{Filter, Level, kind};
use margay::resource::{Swap, Tree, Versioned, tree::path};
use margay_log::id::Index;
use serde_json::json;

use crate::connect::Connect;
use crate::data::{self, Fresh, Listing};
use crate::exit::{Exit, NEGATIVE};
use crate::value::{print_as, print_version};
use crate::{manage, output};

/// A tree of documents under a name
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  margay tree create config /app/db 10.0.0.9 --parents
  margay tree get config /app/db
  margay tree children config /app
  margay tree create config /app/job- '' --sequential    # prints /app/job-0000000000
  margay tree watch config /app --below")]
pub(crate) struct Args {
    #[command(flatten)]
    connect: Connect,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand, Debug)]
enum Verb {
    /// Create a node, print its path; exit code 1 and the data where it exists
    Create {
        /// Name of the tree
        name: String,
        /// Path of the node: /a/b
        path: String,
        /// Its data
        #[arg(default_value = "", hide_default_value = true)]
        data: String,
        /// Create what is missing above it
        #[arg(long)]
        parents: bool,
        /// Complete its name with a number that rises
        #[arg(long)]
        sequential: bool,
        /// It is gone when this command ends: keeps running until interrupted
        #[arg(long)]
        ephemeral: bool,
    },
    /// Print the data of a node; exit code 1 where it is not there
    Get {
        /// Name of the tree
        name: String,
        /// Path of the node
        path: String,
        #[command(flatten)]
        fresh: Fresh,
    },
    /// Set the data of a node, print its version; exit code 1 where it is not there
    Set {
        /// Name of the tree
        name: String,
        /// Path of the node
        path: String,
        /// Its data
        data: String,
        /// Only if it has this version; exit code 1 and the actual data where not
        #[arg(long, value_name = "VERSION", default_value_t = 0, hide_default_value = true)]
        if_version: u64,
    },
    /// Delete a node; exit code 1 where it is not there, or others are below it
    Delete {
        /// Name of the tree
        name: String,
        /// Path of the node
        path: String,
        /// With everything below it, print how many nodes
        #[arg(long, conflicts_with = "if_version")]
        all: bool,
        /// Only if it has this version; exit code 1 and the actual data where not
        #[arg(long, value_name = "VERSION")]
        if_version: Option<u64>,
    },
    /// Print the names of the nodes right below one; exit code 1 where that is not there
    Children {
        /// Name of the tree
        name: String,
        /// Path of the node
        #[arg(default_value = "/")]
        path: String,
        #[command(flatten)]
        fresh: Fresh,
    },
    /// Print each change of a node, one per line, until interrupted; the tree is created where
    /// there is none
    Watch {
        /// Name of the tree
        name: String,
        /// Path of the node
        #[arg(default_value = "/")]
        path: String,
        /// Of everything below it, too
        #[arg(long)]
        below: bool,
        /// End after so many lines
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        count: Option<u64>,
    },
}

pub(crate) fn run(args: &Args) -> Result<(), Exit> {
    let connect = &args.connect;
    match &args.verb {
        Verb::Create { .. } => create(connect, &args.verb),
        Verb::Get { name, path, fresh } => {
            let found = match existing(&connect.client()?, name, fresh.level())? {
                Some(tree) => tree.get(path).wait()?,
                None => None,
            };
            let node = found.ok_or(Exit::quiet(NEGATIVE))?;
            match connect.is_json() {
                true => output::json(&json!({
                    "data": output::to_json(&node.data),
                    "version": node.version.0,
                    "created": node.created.0,
                    "session": node.owner.map(|owner| owner.0),
                })),
                false => output::bytes(&node.data),
            }
        }
        Verb::Set { name, path, data, if_version } => {
            let tree = connect.client()?.tree(name).wait()?;
            swapped(connect, &tree.set_version(path, Index(*if_version), data.as_bytes()).wait()?)
        }
        Verb::Delete { name, path, all, if_version } => {
            let Some(tree) = existing(&connect.client()?, name, Level::default())? else {
                return data::answer(connect, "deleted", false);
            };
            match if_version {
                Some(version) => {
                    let swap = tree.delete_version(path, Index(*version)).wait()?;
                    swapped(connect, &swap)
                }
                None if *all => data::number(connect, "deleted", tree.delete_all(path).wait()?),
                None => data::answer(connect, "deleted", tree.delete(path).wait()?),
            }
        }
        Verb::Children { name, path, fresh } => {
            let tree = existing(&connect.client()?, name, fresh.level())?;
            children(connect, &tree.ok_or(Exit::quiet(NEGATIVE))?, path)
        }
        Verb::Watch { name, path, below, count } => {
            let client = connect.client()?;
            let tree = client.tree(name).wait()?;
            let key = path::key(path.as_bytes()).map_err(margay::resource::Failure::from)?;
            let filter = if *below { Filter::Prefix(key) } else { Filter::Key(key) };
            let group = client.group_of(name)?;
            manage::follow(connect, group, (tree.id(), kind::TREE), filter, None, *count)
        }
    }
}

fn create(connect: &Connect, verb: &Verb) -> Result<(), Exit> {
    let Verb::Create { name, path, data, parents, sequential, ephemeral } = verb else {
        return Ok(());
    };
    let life = data::Life { ttl: None, ephemeral: *ephemeral };
    let hold = life.prepare()?;
    let client = connect.client()?;
    let mut tree = client.tree(name).wait()?;
    if *parents {
        tree = tree.with_parents();
    }
    if *ephemeral {
        tree = tree.ephemeral();
    }
    let created = if *sequential {
        tree.create_sequential(path, data.as_bytes()).wait()?
    } else {
        let swap = tree.create(path, data.as_bytes()).wait()?;
        if let Swap::Conflict(_) = swap {
            return swapped(connect, &swap);
        }
        path.clone()
    };
    match connect.is_json() {
        true => output::json(&json!({ "path": created }))?,
        false => output::line(&created)?,
    }
    hold.until_stopped(&client)
}

/// What came of a conditional write: the new version, or the data that is there and exit code 1.
fn swapped(connect: &Connect, swap: &Swap<Option<Versioned>>) -> Result<(), Exit> {
    match swap {
        Swap::Done(version) => print_version(connect, version.0),
        Swap::Conflict(found) => {
            print_as(connect, "data", found.as_ref())?;
            Err(Exit::quiet(NEGATIVE))
        }
    }
}

/// The tree, if there is one: looking at it must not create it.
fn existing(client: &Client, name: &str, level: Level) -> Result<Option<Tree<Group>>, Exit> {
    let found = Connect::existing(client, name, kind::TREE, level)?;
    Ok(found.map(|(group, id)| Tree::new(group, id).with_level(level)))
}

/// Page by page: each is as of one moment, all of them together are not.
fn children(connect: &Connect, tree: &Tree<Group>, path: &str) -> Result<(), Exit> {
    let mut listing = Listing::begin(connect, &["NAME"]);
    let mut after: Option<String> = None;
    loop {
        let page = tree.children(path, after.as_deref(), 0).wait()?;
        let page = page.ok_or(Exit::quiet(NEGATIVE))?;
        listing.page(
            page.names
                .iter()
                .map(|name| (vec![output::cell(name.as_bytes())], json!({ "name": name }))),
        )?;
        after = page.names.into_iter().next_back();
        if !page.more {
            return listing.end();
        }
    }
}
