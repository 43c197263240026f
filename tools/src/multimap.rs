//! `margay multimap`: an ordered map from keys to sets of values under a name.

use margay::client::{Client, Group};
use margay::machine::{Level, kind};
use margay::resource::Multimap;
use margay::resource::multimap::MultimapRange;
use serde_json::json;

use crate::connect::Connect;
use crate::data::{self, Follow, Fresh, Listing};
use crate::exit::{Exit, NEGATIVE};
use crate::output;

/// An ordered map from keys to sets of values under a name
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  margay multimap put roles ada admin
  margay multimap get roles ada
  margay multimap remove roles ada admin       # a value of a key
  margay multimap remove roles ada             # the key
  margay multimap remove roles --value admin   # a value of all keys
  margay multimap entries roles -o jsonl")]
pub(crate) struct Args {
    #[command(flatten)]
    connect: Connect,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand, Debug)]
enum Verb {
    /// Add a value to a key; exit code 1 where it had it
    Put {
        /// Name of the multimap
        name: String,
        /// The key
        key: String,
        /// The value
        value: String,
    },
    /// Give a key these values and no others, print how many it had
    Replace {
        /// Name of the multimap
        name: String,
        /// The key
        key: String,
        /// The values
        values: Vec<String>,
    },
    /// Print the values of a key; exit code 1 where it has none
    Get {
        /// Name of the multimap
        name: String,
        /// The key
        key: String,
        #[command(flatten)]
        fresh: Fresh,
    },
    /// Exit code 0 where a key, a value of it, or a value of any key is there, else 1
    Has {
        /// Name of the multimap
        name: String,
        /// The key
        #[arg(required_unless_present = "any")]
        key: Option<String>,
        /// A value of it
        value: Option<String>,
        /// Look for this value, under any key
        #[arg(long = "value", value_name = "VALUE", conflicts_with = "key")]
        any: Option<String>,
        #[command(flatten)]
        fresh: Fresh,
    },
    /// Remove a value of a key, a key, or a value of all keys, print how many entries; exit code 1
    /// where there was none
    Remove {
        /// Name of the multimap
        name: String,
        /// The key
        #[arg(required_unless_present = "any")]
        key: Option<String>,
        /// A value of it; without, all of them
        value: Option<String>,
        /// Remove this value from all keys
        #[arg(long = "value", value_name = "VALUE", conflicts_with = "key")]
        any: Option<String>,
    },
    /// Print the number of entries
    Size {
        /// Name of the multimap
        name: String,
        /// Count the values of this key
        #[arg(long, conflicts_with = "keys")]
        key: Option<String>,
        /// Count the keys
        #[arg(long)]
        keys: bool,
        #[command(flatten)]
        fresh: Fresh,
    },
    /// Print all entries, in order of keys, then values
    Entries {
        /// Name of the multimap
        name: String,
        /// Only keys that begin so
        #[arg(long, default_value = "", hide_default_value = true)]
        prefix: String,
        #[command(flatten)]
        fresh: Fresh,
    },
    /// Remove all keys
    Clear {
        /// Name of the multimap
        name: String,
    },
    /// Print each change, one per line, until interrupted; it is created where there is none
    Watch {
        /// Name of the multimap
        name: String,
        #[command(flatten)]
        follow: Follow,
    },
}

pub(crate) fn run(args: &Args) -> Result<(), Exit> {
    let connect = &args.connect;
    let client = connect.client()?;
    match &args.verb {
        Verb::Put { name, key, value } => {
            let map = client.multimap(name).wait()?;
            data::answer(connect, "added", map.put(key.as_bytes(), value.as_bytes()).wait()?)
        }
        Verb::Replace { name, key, values } => {
            let map = client.multimap(name).wait()?;
            data::number(connect, "before", map.replace(key.as_bytes(), values).wait()?)
        }
        Verb::Get { name, key, fresh } => {
            get(connect, existing(&client, name, fresh.level())?.as_ref(), key)
        }
        Verb::Has { name, key, value, any, fresh } => {
            let there = match (existing(&client, name, fresh.level())?, key, value) {
                (None, ..) => false,
                (Some(map), Some(key), Some(value)) => {
                    map.contains(key.as_bytes(), value.as_bytes()).wait()?
                }
                (Some(map), Some(key), None) => map.contains_key(key.as_bytes()).wait()?,
                (Some(map), None, _) => map.contains_value(any_of(any)).wait()?,
            };
            data::answer(connect, "there", there)
        }
        Verb::Remove { name, key, value, any } => {
            let removed = match (existing(&client, name, Level::default())?, key, value) {
                (None, ..) => 0,
                (Some(map), Some(key), Some(value)) => {
                    u64::from(map.remove(key.as_bytes(), value.as_bytes()).wait()?)
                }
                (Some(map), Some(key), None) => map.remove_key(key.as_bytes()).wait()?,
                (Some(map), None, _) => map.remove_value(any_of(any)).wait()?,
            };
            data::number(connect, "removed", removed)?;
            if removed > 0 { Ok(()) } else { Err(Exit::quiet(NEGATIVE)) }
        }
        Verb::Size { name, key, keys, fresh } => {
            let size = match (existing(&client, name, fresh.level())?, key) {
                (None, _) => 0,
                (Some(map), Some(key)) => map.size_of(key.as_bytes()).wait()?,
                (Some(map), None) if *keys => map.keys_size().wait()?,
                (Some(map), None) => map.size().wait()?,
            };
            data::number(connect, "size", size)
        }
        Verb::Entries { name, prefix, fresh } => {
            entries(connect, existing(&client, name, fresh.level())?.as_ref(), prefix)
        }
        Verb::Clear { name } => match existing(&client, name, Level::default())? {
            Some(map) => Ok(map.clear().wait()?),
            None => Ok(()),
        },
        Verb::Watch { name, follow } => {
            let map = client.multimap(name).wait()?;
            follow.run(connect, (client.group_of(name)?, map.id(), kind::MULTIMAP))
        }
    }
}

fn any_of(value: &Option<String>) -> &[u8] {
    value.as_deref().unwrap_or_default().as_bytes()
}

/// The multimap, if there is one: looking at it must not create it.
fn existing(client: &Client, name: &str, level: Level) -> Result<Option<Multimap<Group>>, Exit> {
    let found = Connect::existing(client, name, kind::MULTIMAP, level)?;
    Ok(found.map(|(group, id)| Multimap::new(group, id).with_level(level)))
}

fn get(connect: &Connect, map: Option<&Multimap<Group>>, key: &str) -> Result<(), Exit> {
    let mut listing = Listing::begin(connect, &["VALUE", "VERSION"]);
    let (mut after, mut found) = (None::<Vec<u8>>, false);
    while let Some(map) = map {
        let page = map.get(key.as_bytes(), after.as_deref(), 0).wait()?;
        found |= !page.values.is_empty();
        listing.page(page.values.iter().map(|value| {
            let version = value.version.0;
            let item = json!({ "value": output::to_json(&value.value), "version": version });
            (vec![output::cell(&value.value), format!("v{version}")], item)
        }))?;
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    listing.end()?;
    if found { Ok(()) } else { Err(Exit::quiet(NEGATIVE)) }
}

/// Page by page: each is as of one moment, all of them together are not.
fn entries(connect: &Connect, map: Option<&Multimap<Group>>, prefix: &str) -> Result<(), Exit> {
    let mut listing = Listing::begin(connect, &["KEY", "VALUE", "VERSION"]);
    let Some(map) = map else { return listing.end() };
    let mut range = MultimapRange { prefix: prefix.as_bytes().to_vec(), ..Default::default() };
    loop {
        let page = map.entries(range.clone()).wait()?;
        listing.page(page.entries.iter().map(|(key, value)| {
            let version = value.version.0;
            let item = json!({
                "key": output::to_json(key),
                "value": output::to_json(&value.value),
                "version": version,
            });
            (vec![output::cell(key), output::cell(&value.value), format!("v{version}")], item)
        }))?;
        let last = page.entries.into_iter().next_back();
        range.after = last.map(|(key, value)| (key, value.value));
        if !page.more {
            return listing.end();
        }
    }
}
