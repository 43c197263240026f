//! `margay value`: one value under a name.

use margay::machine::kind;
use margay::resource::{Swap, Value, Versioned};
use serde_json::json;

use crate::connect::Connect;
use crate::exit::{Exit, NEGATIVE};
use crate::output;

/// One value under a name
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  margay value set greeting hello
  margay value get greeting
  margay value get greeting --level sequential     # from any node, leader or not
  margay value cas greeting hello welcome     # exit code 1 where it is not 'hello'
  margay value cas lease --absent mine        # only where there is none")]
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
    },
    /// Set it, print its version
    Set {
        /// Name of the value
        name: String,
        /// What it shall be
        value: String,
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
    },
    /// Delete it; exit code 1 where there was none
    Delete {
        /// Name of the value
        name: String,
    },
}

pub(crate) fn run(args: &Args) -> Result<(), Exit> {
    let connect = &args.connect;
    let client = connect.client()?;
    match &args.verb {
        Verb::Get { name } => {
            let found = match connect.readable(&client, name, kind::VALUE)? {
                Some((group, id)) => {
                    Value::new(group, id).with_level(connect.level.into()).get().wait()?
                }
                None => None,
            };
            print(connect, found.as_ref())?;
            found.map(|_| ()).ok_or(Exit::quiet(NEGATIVE))
        }
        Verb::Set { name, value } => {
            let version = client.value(name).wait()?.set(value.as_bytes()).wait()?;
            print_version(connect, version.0)
        }
        Verb::Cas { name, expected, value, absent } => {
            let new = absent.as_ref().or(value.as_ref()).map_or("", String::as_str);
            let expected = expected.as_ref().filter(|_| absent.is_none()).map(String::as_bytes);
            let handle = client.value(name).wait()?;
            match handle.compare_and_set(expected, new.as_bytes()).wait()? {
                Swap::Done(version) => print_version(connect, version.0),
                Swap::Conflict(found) => {
                    print(connect, found.as_ref())?;
                    Err(Exit::quiet(NEGATIVE))
                }
            }
        }
        Verb::Delete { name } => {
            let there = match Connect::existing(&client, name, kind::VALUE)? {
                Some((group, id)) => Value::new(group, id).delete().wait()?,
                None => false,
            };
            if connect.is_json() {
                output::json(&json!({ "deleted": there }))?;
            }
            if there { Ok(()) } else { Err(Exit::quiet(NEGATIVE)) }
        }
    }
}

/// A value, as `get` and a conflict show it; where there is none, only JSON says something.
pub(crate) fn print(connect: &Connect, found: Option<&Versioned>) -> Result<(), Exit> {
    match (found, connect.is_json()) {
        (Some(found), false) => output::bytes(&found.value),
        (None, false) => Ok(()),
        (found, true) => output::json(&json!({
            "value": found.map(|found| output::text(&found.value)),
            "version": found.map(|found| found.version.0),
        })),
    }
}

/// The version of what was written.
pub(crate) fn print_version(connect: &Connect, version: u64) -> Result<(), Exit> {
    match connect.is_json() {
        true => output::json(&json!({ "version": version })),
        false => output::line(&format!("v{version}")),
    }
}
