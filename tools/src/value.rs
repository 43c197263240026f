//! `margay value`: one value under a name.

use margay::client::{Client, Group};
use margay::machine::{Level, kind};
use margay::resource::{Swap, Value, Versioned};
use margay_log::id::Index;
use serde_json::json;

use crate::connect::Connect;
use crate::data::{self, Follow, Fresh, Life};
use crate::exit::{Exit, NEGATIVE};
use crate::output;

/// One value under a name
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  margay value set greeting hello
  margay value get greeting
  margay value get greeting --level sequential    # from any node
  margay value cas greeting hello welcome     # exit code 1 where it is not 'hello'
  margay value cas lease --absent mine        # only where there is none
  margay value set session abc --ttl 30m      # gone after half an hour
  margay value watch greeting")]
pub(crate) struct Args {
    #[command(flatten)]
    connect: Connect,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand, Debug)]
enum Verb {
    /// Print the value; exit code 1 where there is none
    Get {
        /// Name of the value
        name: String,
        #[command(flatten)]
        fresh: Fresh,
    },
    /// Set it, print its version
    Set {
        /// Name of the value
        name: String,
        /// What it shall be
        value: String,
        /// Only if it has this version, 0 for none; exit code 1 and the actual value where not
        #[arg(long, value_name = "VERSION")]
        if_version: Option<u64>,
        #[command(flatten)]
        life: Life,
    },
    /// Set it, print what it was; exit code 1 where there was none
    Swap {
        /// Name of the value
        name: String,
        /// What it shall be
        value: String,
        #[command(flatten)]
        life: Life,
    },
    /// Set it if it is what is expected; exit code 1 and the actual value where not
    Cas {
        /// Name of the value
        name: String,
        /// What it must be
        #[arg(required_unless_present = "absent", conflicts_with = "absent")]
        expected: Option<String>,
        /// What it shall be
        #[arg(required_unless_present = "absent")]
        value: Option<String>,
        /// Set it to this if there is none
        #[arg(long, value_name = "VALUE")]
        absent: Option<String>,
        #[command(flatten)]
        life: Life,
    },
    /// Delete it; exit code 1 where there was none
    Delete {
        /// Name of the value
        name: String,
    },
    /// Print each change, one per line, until interrupted; the value is created where there is none
    Watch {
        /// Name of the value
        name: String,
        #[command(flatten)]
        follow: Follow,
    },
}

pub(crate) fn run(args: &Args) -> Result<(), Exit> {
    let connect = &args.connect;
    match &args.verb {
        Verb::Get { name, fresh } => {
            let found = match existing(&connect.client()?, name, fresh.level())? {
                Some(value) => value.get().wait()?,
                None => None,
            };
            print(connect, found.as_ref())?;
            found.map(|_| ()).ok_or(Exit::quiet(NEGATIVE))
        }
        Verb::Set { name, value, if_version, life } => {
            write(connect, name, life, |handle| match if_version {
                None => print_version(connect, handle.set(value.as_bytes()).wait()?.0),
                Some(version) => {
                    let version = Index(*version);
                    let swap = handle.compare_version_and_set(version, value.as_bytes()).wait()?;
                    swapped(connect, &swap)
                }
            })
        }
        Verb::Swap { name, value, life } => write(connect, name, life, |handle| {
            let found = handle.get_and_set(value.as_bytes()).wait()?;
            print(connect, found.as_ref())?;
            found.map(|_| ()).ok_or(Exit::quiet(NEGATIVE))
        }),
        Verb::Cas { name, expected, value, absent, life } => {
            let new = absent.as_ref().or(value.as_ref()).map_or("", String::as_str);
            let expected = expected.as_ref().filter(|_| absent.is_none()).map(String::as_bytes);
            write(connect, name, life, |handle| {
                swapped(connect, &handle.compare_and_set(expected, new.as_bytes()).wait()?)
            })
        }
        Verb::Delete { name } => {
            let there = match existing(&connect.client()?, name, Level::default())? {
                Some(value) => value.delete().wait()?,
                None => false,
            };
            data::answer(connect, "deleted", there)
        }
        Verb::Watch { name, follow } => {
            let client = connect.client()?;
            let value = client.value(name).wait()?;
            follow.run(connect, (client.group_of(name)?, value.id(), kind::VALUE))
        }
    }
}

fn existing(client: &Client, name: &str, level: Level) -> Result<Option<Value<Group>>, Exit> {
    let found = Connect::existing(client, name, kind::VALUE, level)?;
    Ok(found.map(|(group, id)| Value::new(group, id).with_level(level)))
}

/// Opens the value, writes, and keeps an ephemeral one until interrupted.
fn write(
    connect: &Connect,
    name: &str,
    life: &Life,
    write: impl FnOnce(Value<Group>) -> Result<(), Exit>,
) -> Result<(), Exit> {
    let hold = life.prepare()?;
    let client = connect.client()?;
    let mut value = client.value(name).wait()?;
    if let Some(ttl) = life.ttl {
        value = value.with_ttl(ttl);
    }
    write(if life.ephemeral { value.ephemeral() } else { value })?;
    hold.until_stopped(&client)
}

/// A value, as `get` and a conflict show it; where there is none, only JSON says something.
pub(crate) fn print(connect: &Connect, found: Option<&Versioned>) -> Result<(), Exit> {
    print_as(connect, "value", found)
}

/// The same, in JSON under `what`.
pub(crate) fn print_as(
    connect: &Connect,
    what: &str,
    found: Option<&Versioned>,
) -> Result<(), Exit> {
    match (found, connect.is_json()) {
        (Some(found), false) => output::bytes(&found.value),
        (None, false) => Ok(()),
        (found, true) => output::json(&json!({
            what: found.map(|found| output::to_json(&found.value)),
            "version": found.map(|found| found.version.0),
        })),
    }
}

/// What came of a conditional write: the new version, or what is there and exit code 1.
pub(crate) fn swapped(connect: &Connect, swap: &Swap<Option<Versioned>>) -> Result<(), Exit> {
    match swap {
        Swap::Done(version) => print_version(connect, version.0),
        Swap::Conflict(found) => {
            print(connect, found.as_ref())?;
            Err(Exit::quiet(NEGATIVE))
        }
    }
}

/// The version of what was written.
pub(crate) fn print_version(connect: &Connect, version: u64) -> Result<(), Exit> {
    match connect.is_json() {
        true => output::json(&json!({ "version": version })),
        false => output::line(&format!("v{version}")),
    }
}
