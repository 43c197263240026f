//! `margay map`: an ordered map under a name.

use margay::client::{Client, Group};
use margay::machine::kind;
use margay::resource::Map;
use margay::resource::map::{MapEntry, MapRange};
use serde_json::json;

use crate::connect::Connect;
use crate::exit::{Exit, NEGATIVE};
use crate::output::{self, Table};
use crate::value::{print, print_version};

/// An ordered map under a name
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  margay map put users ada '{\"role\":\"admin\"}'
  margay map get users ada
  margay map entries users --prefix a -o json     # one object per line")]
pub(crate) struct Args {
    #[command(flatten)]
    connect: Connect,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand, Debug)]
enum Verb {
    /// Set the value of a key, print its version
    Put {
        /// Name of the map
        name: String,
        /// The key
        key: String,
        /// Its value
        value: String,
    },
    /// Print the value of a key; exit code 1 where there is none
    Get {
        /// Name of the map
        name: String,
        /// The key
        key: String,
    },
    /// Remove a key; exit code 1 where there was none
    Remove {
        /// Name of the map
        name: String,
        /// The key
        key: String,
    },
    /// Print the number of keys
    Size {
        /// Name of the map
        name: String,
    },
    /// Print all keys and values, in order of the keys
    Entries {
        /// Name of the map
        name: String,
        /// Only keys that begin so
        #[arg(long, default_value = "", hide_default_value = true)]
        prefix: String,
    },
    /// Remove all keys
    Clear {
        /// Name of the map
        name: String,
    },
}

pub(crate) fn run(args: &Args) -> Result<(), Exit> {
    let connect = &args.connect;
    let client = connect.client()?;
    match &args.verb {
        Verb::Put { name, key, value } => {
            let map = client.map(name).wait()?;
            print_version(connect, map.put(key.as_bytes(), value.as_bytes()).wait()?.0)
        }
        Verb::Get { name, key } => {
            let found = match existing(&client, name)? {
                Some(map) => map.get(key.as_bytes()).wait()?,
                None => None,
            };
            print(connect, found.as_ref())?;
            found.map(|_| ()).ok_or(Exit::quiet(NEGATIVE))
        }
        Verb::Remove { name, key } => {
            let there = match existing(&client, name)? {
                Some(map) => map.remove(key.as_bytes()).wait()?,
                None => false,
            };
            if connect.is_json() {
                output::json(&json!({ "removed": there }))?;
            }
            if there { Ok(()) } else { Err(Exit::quiet(NEGATIVE)) }
        }
        Verb::Size { name } => {
            let size = match existing(&client, name)? {
                Some(map) => map.size().wait()?,
                None => 0,
            };
            match connect.is_json() {
                true => output::json(&json!({ "size": size })),
                false => output::line(&size.to_string()),
            }
        }
        Verb::Entries { name, prefix } => match existing(&client, name)? {
            Some(map) => entries(connect, &map, prefix.as_bytes()),
            None => Ok(()),
        },
        Verb::Clear { name } => match existing(&client, name)? {
            Some(map) => Ok(map.clear().wait()?),
            None => Ok(()),
        },
    }
}

/// The map, if there is one: looking at it must not create it.
fn existing(client: &Client, name: &str) -> Result<Option<Map<Group>>, Exit> {
    let found = Connect::existing(client, name, kind::MAP)?;
    Ok(found.map(|(group, id)| Map::new(group, id)))
}

/// Page by page, so that a map of any size passes through. Each page is as of one moment, all of
/// them together are not.
fn entries(connect: &Connect, map: &Map<Group>, prefix: &[u8]) -> Result<(), Exit> {
    let mut after = None;
    loop {
        let is_first = after.is_none();
        let range = MapRange { prefix: prefix.to_vec(), after, ..MapRange::default() };
        let page = map.entries(range).wait()?;
        print_page(connect, &page.entries, is_first)?;
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(()),
        }
    }
}

fn print_page(connect: &Connect, entries: &[MapEntry], is_first: bool) -> Result<(), Exit> {
    let value = |entry: &MapEntry| entry.value.clone().unwrap_or_default();
    if connect.is_json() {
        return entries.iter().try_for_each(|entry| {
            output::json(&json!({
                "key": output::text(&entry.key),
                "value": output::text(&value(entry)),
                "version": entry.version.0,
            }))
        });
    }
    if entries.is_empty() {
        return Ok(());
    }
    let table = Table::new(&["KEY", "VALUE", "VERSION"]);
    let mut table = if is_first { table } else { table.without_heads() };
    for entry in entries {
        let (key, value) = (output::cell(&entry.key), output::cell(&value(entry)));
        table.row(vec![key, value, format!("v{}", entry.version.0)]);
    }
    table.print()
}
