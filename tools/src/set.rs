//! `margay set`: an ordered set under a name.

use margay::client::{Client, Group};
use margay::machine::{Level, kind};
use margay::resource::Set;
use margay::resource::set::SetRange;
use serde_json::json;

use crate::connect::Connect;
use crate::data::{self, Follow, Fresh, Life, Listing};
use crate::exit::{Exit, NEGATIVE};
use crate::output;

/// An ordered set under a name
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  margay set add tags red green       # exit code 1 where all of them were there
  margay set has tags red
  margay set members tags --prefix r
  margay set retain tags red          # and no others
  margay set add online n1 --ttl 30s  # again before that, and it stays")]
pub(crate) struct Args {
    #[command(flatten)]
    connect: Connect,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand, Debug)]
enum Verb {
    /// Add members, print how many are new; exit code 1 where none is
    Add {
        /// Name of the set
        name: String,
        /// The members
        #[arg(required = true)]
        members: Vec<String>,
        #[command(flatten)]
        life: Life,
    },
    /// Remove members, print how many were there; exit code 1 where none was
    Remove {
        /// Name of the set
        name: String,
        /// The members
        #[arg(required = true)]
        members: Vec<String>,
    },
    /// Remove all members but these, print how many
    Retain {
        /// Name of the set
        name: String,
        /// The members that stay
        members: Vec<String>,
    },
    /// Exit code 0 where all of these are members, else 1
    Has {
        /// Name of the set
        name: String,
        /// The members
        #[arg(required = true)]
        members: Vec<String>,
        #[command(flatten)]
        fresh: Fresh,
    },
    /// Remove the first member and print it; exit code 1 where there is none
    Poll {
        /// Name of the set
        name: String,
        /// The last one instead
        #[arg(long)]
        last: bool,
    },
    /// Print the number of members
    Size {
        /// Name of the set
        name: String,
        #[command(flatten)]
        fresh: Fresh,
    },
    /// Print all members, in order
    Members {
        /// Name of the set
        name: String,
        /// Only members that begin so
        #[arg(long, default_value = "", hide_default_value = true)]
        prefix: String,
        /// Only this member and those after it
        #[arg(long, value_name = "MEMBER")]
        from: Option<String>,
        /// Only members before this one
        #[arg(long, value_name = "MEMBER")]
        to: Option<String>,
        /// From the last to the first
        #[arg(long)]
        descending: bool,
        #[command(flatten)]
        fresh: Fresh,
    },
    /// Remove all members
    Clear {
        /// Name of the set
        name: String,
    },
    /// Print each change, one per line, until interrupted; the set is created where there is none
    Watch {
        /// Name of the set
        name: String,
        #[command(flatten)]
        follow: Follow,
    },
}

pub(crate) fn run(args: &Args) -> Result<(), Exit> {
    let connect = &args.connect;
    match &args.verb {
        Verb::Add { name, members, life } => add(connect, name, members, life),
        Verb::Remove { name, members } => {
            let removed = match existing(&connect.client()?, name, Level::default())? {
                Some(set) => set.remove_all(members).wait()?,
                None => 0,
            };
            data::number(connect, "removed", removed)?;
            none_is_negative(removed)
        }
        Verb::Retain { name, members } => {
            let removed = match existing(&connect.client()?, name, Level::default())? {
                Some(set) => set.retain(members).wait()?,
                None => 0,
            };
            data::number(connect, "removed", removed)
        }
        Verb::Has { name, members, fresh } => {
            let there = match existing(&connect.client()?, name, fresh.level())? {
                Some(set) => set.contains_all(members).wait()?,
                None => false,
            };
            data::answer(connect, "there", there)
        }
        Verb::Poll { name, last } => poll(connect, name, *last),
        Verb::Size { name, fresh } => {
            let size = match existing(&connect.client()?, name, fresh.level())? {
                Some(set) => set.size().wait()?,
                None => 0,
            };
            data::number(connect, "size", size)
        }
        Verb::Members { name, prefix, from, to, descending, fresh } => {
            let bytes = |text: &Option<String>| text.clone().map(String::into_bytes);
            let range = SetRange {
                prefix: prefix.clone().into_bytes(),
                from: bytes(from),
                to: bytes(to),
                descending: *descending,
                ..SetRange::default()
            };
            let set = existing(&connect.client()?, name, fresh.level())?;
            members(connect, set.as_ref(), range)
        }
        Verb::Clear { name } => match existing(&connect.client()?, name, Level::default())? {
            Some(set) => Ok(set.clear().wait()?),
            None => Ok(()),
        },
        Verb::Watch { name, follow } => {
            let client = connect.client()?;
            let set = client.set(name).wait()?;
            follow.run(connect, (client.group_of(name)?, set.id(), kind::SET))
        }
    }
}

fn add(connect: &Connect, name: &str, members: &[String], life: &Life) -> Result<(), Exit> {
    let hold = life.prepare()?;
    let client = connect.client()?;
    let mut set = client.set(name).wait()?;
    if let Some(ttl) = life.ttl {
        set = set.with_ttl(ttl);
    }
    let set = if life.ephemeral { set.ephemeral() } else { set };
    let added = set.add_all(members).wait()?;
    data::number(connect, "added", added)?;
    hold.until_stopped(&client)?;
    none_is_negative(added)
}

fn poll(connect: &Connect, name: &str, last: bool) -> Result<(), Exit> {
    let polled = match existing(&connect.client()?, name, Level::default())? {
        Some(set) if last => set.poll_last().wait()?,
        Some(set) => set.poll_first().wait()?,
        None => None,
    };
    let member = polled.ok_or(Exit::quiet(NEGATIVE))?;
    match connect.is_json() {
        true => output::json(&json!({ "member": output::to_json(&member) })),
        false => output::bytes(&member),
    }
}

fn none_is_negative(count: u64) -> Result<(), Exit> {
    if count > 0 { Ok(()) } else { Err(Exit::quiet(NEGATIVE)) }
}

/// The set, if there is one: looking at it must not create it.
fn existing(client: &Client, name: &str, level: Level) -> Result<Option<Set<Group>>, Exit> {
    let found = Connect::existing(client, name, kind::SET, level)?;
    Ok(found.map(|(group, id)| Set::new(group, id).with_level(level)))
}

/// Page by page: each is as of one moment, all of them together are not.
fn members(connect: &Connect, set: Option<&Set<Group>>, mut range: SetRange) -> Result<(), Exit> {
    let mut listing = Listing::begin(connect, &["MEMBER"]);
    let Some(set) = set else { return listing.end() };
    loop {
        let page = set.members(range.clone()).wait()?;
        listing.page(page.members.iter().map(|member| {
            (vec![output::cell(member)], json!({ "member": output::to_json(member) }))
        }))?;
        range.after = page.next;
        if range.after.is_none() {
            return listing.end();
        }
    }
}
