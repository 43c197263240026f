//! `margay map`: an ordered map under a name.

use margay::client::{Client, Group};
use margay::machine::{Level, kind};
use margay::resource::Map;
use margay::resource::map::{MapEntry, MapRange};
use margay_log::id::Index;
use serde_json::{Value, json};

use crate::connect::Connect;
use crate::data::{self, Follow, Fresh, Life, Listing};
use crate::exit::{Exit, NEGATIVE};
use crate::output;
use crate::value::{print, print_version, swapped};

/// An ordered map under a name
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  margay map put users ada '{\"role\":\"admin\"}'
  margay map get users ada
  margay map put users ada guest --if-version 12    # exit code 1 where it has another
  margay map entries users --prefix a -o jsonl      # one object per line
  margay map put online n1 10.0.0.1 --ephemeral     # as long as this command runs")]
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
        /// Only if the key has no value; exit code 1 and the actual one where it has
        #[arg(long, conflicts_with_all = ["if_version", "if_value"])]
        if_absent: bool,
        /// Only if it has this version, 0 for none; exit code 1 and the actual value where not
        #[arg(long, value_name = "VERSION", conflicts_with = "if_value")]
        if_version: Option<u64>,
        /// Only if it has this value; exit code 1 and the actual one where not
        #[arg(long, value_name = "VALUE")]
        if_value: Option<String>,
        #[command(flatten)]
        life: Life,
    },
    /// Set the value of a key that has one, print what it was; exit code 1 where it has none
    Replace {
        /// Name of the map
        name: String,
        /// The key
        key: String,
        /// Its value
        value: String,
        #[command(flatten)]
        life: Life,
    },
    /// Print the value of a key; exit code 1 where there is none
    Get {
        /// Name of the map
        name: String,
        /// The key
        key: String,
        /// Print this where there is none, with exit code 0
        #[arg(long, value_name = "VALUE")]
        default: Option<String>,
        #[command(flatten)]
        fresh: Fresh,
    },
    /// Print the values of many keys
    GetMany {
        /// Name of the map
        name: String,
        /// The keys
        #[arg(required = true)]
        keys: Vec<String>,
        #[command(flatten)]
        fresh: Fresh,
    },
    /// Exit code 0 where a key is there, else 1
    Has {
        /// Name of the map
        name: String,
        /// The key
        #[arg(required_unless_present = "value")]
        key: Option<String>,
        /// Look for this value, under any key
        #[arg(long, conflicts_with = "key")]
        value: Option<String>,
        #[command(flatten)]
        fresh: Fresh,
    },
    /// Remove a key; exit code 1 where there was none
    Remove {
        /// Name of the map
        name: String,
        /// The key
        key: String,
        /// Only if it has this version; exit code 1 and the actual value where not
        #[arg(long, value_name = "VERSION", conflicts_with = "if_value")]
        if_version: Option<u64>,
        /// Only if it has this value; exit code 1 and the actual one where not
        #[arg(long, value_name = "VALUE")]
        if_value: Option<String>,
    },
    /// Remove the first entry and print it; exit code 1 where there is none
    Poll {
        /// Name of the map
        name: String,
        /// The last one instead
        #[arg(long)]
        last: bool,
    },
    /// Print the number of keys
    Size {
        /// Name of the map
        name: String,
        #[command(flatten)]
        fresh: Fresh,
    },
    /// Print all keys and values, in order of the keys
    Entries {
        /// Name of the map
        name: String,
        #[command(flatten)]
        range: Range,
    },
    /// Print all keys, in order
    Keys {
        /// Name of the map
        name: String,
        #[command(flatten)]
        range: Range,
    },
    /// Remove all keys
    Clear {
        /// Name of the map
        name: String,
    },
    /// Print each change, one per line, until interrupted; the map is created where there is none
    Watch {
        /// Name of the map
        name: String,
        #[command(flatten)]
        follow: Follow,
    },
}

/// Which part to print.
#[derive(clap::Args, Debug)]
struct Range {
    /// Only keys that begin so
    #[arg(long, default_value = "", hide_default_value = true)]
    prefix: String,
    /// Only this key and those after it
    #[arg(long, value_name = "KEY")]
    from: Option<String>,
    /// Only keys before this one
    #[arg(long, value_name = "KEY")]
    to: Option<String>,
    #[command(flatten)]
    fresh: Fresh,
    /// From the last to the first
    #[arg(long)]
    descending: bool,
    /// At most so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
}

pub(crate) fn run(args: &Args) -> Result<(), Exit> {
    let connect = &args.connect;
    match &args.verb {
        Verb::Put { .. } | Verb::Replace { .. } => return write(connect, &args.verb),
        Verb::Watch { name, follow } => {
            let client = connect.client()?;
            let map = client.map(name).wait()?;
            return follow.run(connect, (client.group_of(name)?, map.id(), kind::MAP));
        }
        _ => {}
    }
    let client = connect.client()?;
    match &args.verb {
        Verb::Remove { name, key, if_version, if_value } => {
            remove(connect, &client, name, key, *if_version, if_value.as_deref())
        }
        Verb::Poll { name, last } => {
            let polled = match existing(&client, name, Level::default())? {
                Some(map) if *last => map.poll_last().wait()?,
                Some(map) => map.poll_first().wait()?,
                None => None,
            };
            let entry = polled.ok_or(Exit::quiet(NEGATIVE))?;
            match connect.is_json() {
                true => output::json(&to_json(&entry)),
                false => output::line(&to_cells(&entry)[..2].join("  ")),
            }
        }
        Verb::Clear { name } => match existing(&client, name, Level::default())? {
            Some(map) => Ok(map.clear().wait()?),
            None => Ok(()),
        },
        _ => read(connect, &client, &args.verb),
    }
}

fn write(connect: &Connect, verb: &Verb) -> Result<(), Exit> {
    let (Verb::Put { name, life, .. } | Verb::Replace { name, life, .. }) = verb else {
        return Ok(());
    };
    let hold = life.prepare()?;
    let client = connect.client()?;
    let mut map = client.map(name).wait()?;
    if let Some(ttl) = life.ttl {
        map = map.with_ttl(ttl);
    }
    if life.ephemeral {
        map = map.ephemeral();
    }
    match verb {
        Verb::Put { key, value, if_absent, if_version, if_value, .. } => {
            let (key, value) = (key.as_bytes(), value.as_bytes());
            let swap = match (if_version, if_value) {
                (Some(0), _) => map.put_if_absent(key, value),
                (Some(version), _) => map.replace_version(key, Index(*version), value),
                (None, Some(expected)) => map.replace_if(key, expected.as_bytes(), value),
                (None, None) if *if_absent => map.put_if_absent(key, value),
                (None, None) => {
                    print_version(connect, map.put(key, value).wait()?.0)?;
                    return hold.until_stopped(&client);
                }
            };
            swapped(connect, &swap.wait()?)?;
        }
        Verb::Replace { key, value, .. } => {
            let old = map.replace(key.as_bytes(), value.as_bytes()).wait()?;
            print(connect, old.as_ref())?;
            old.ok_or(Exit::quiet(NEGATIVE))?;
        }
        _ => {}
    }
    hold.until_stopped(&client)
}

fn remove(
    connect: &Connect,
    client: &Client,
    name: &str,
    key: &str,
    version: Option<u64>,
    value: Option<&str>,
) -> Result<(), Exit> {
    let Some(map) = existing(client, name, Level::default())? else {
        return data::answer(connect, "removed", false);
    };
    let key = key.as_bytes();
    match (version, value) {
        (Some(version), _) => swapped(connect, &map.remove_version(key, Index(version)).wait()?),
        (None, Some(value)) => swapped(connect, &map.remove_if(key, value.as_bytes()).wait()?),
        (None, None) => data::answer(connect, "removed", map.remove(key).wait()?),
    }
}

fn read(connect: &Connect, client: &Client, verb: &Verb) -> Result<(), Exit> {
    match verb {
        Verb::Get { name, key, default, fresh } => {
            let found = match existing(client, name, fresh.level())? {
                Some(map) => map.get(key.as_bytes()).wait()?,
                None => None,
            };
            match (&found, default) {
                (None, Some(default)) if connect.is_json() => {
                    output::json(&json!({ "value": default, "version": null }))
                }
                (None, Some(default)) => output::line(default),
                (found, _) => {
                    print(connect, found.as_ref())?;
                    found.as_ref().map(|_| ()).ok_or(Exit::quiet(NEGATIVE))
                }
            }
        }
        Verb::GetMany { name, keys, fresh } => {
            get_many(connect, existing(client, name, fresh.level())?, keys)
        }
        Verb::Has { name, key, value, fresh } => {
            let there = match (existing(client, name, fresh.level())?, key, value) {
                (None, ..) => false,
                (Some(map), Some(key), _) => map.contains_key(key.as_bytes()).wait()?,
                (Some(map), None, value) => {
                    map.contains_value(value.as_deref().unwrap_or_default().as_bytes()).wait()?
                }
            };
            data::answer(connect, "there", there)
        }
        Verb::Size { name, fresh } => {
            let size = match existing(client, name, fresh.level())? {
                Some(map) => map.size().wait()?,
                None => 0,
            };
            data::number(connect, "size", size)
        }
        Verb::Entries { name, range } => list(connect, client, name, range, true),
        Verb::Keys { name, range } => list(connect, client, name, range, false),
        _ => Ok(()),
    }
}

/// The map, if there is one: looking at it must not create it.
fn existing(client: &Client, name: &str, level: Level) -> Result<Option<Map<Group>>, Exit> {
    let found = Connect::existing(client, name, kind::MAP, level)?;
    Ok(found.map(|(group, id)| Map::new(group, id).with_level(level)))
}

fn get_many(connect: &Connect, map: Option<Map<Group>>, keys: &[String]) -> Result<(), Exit> {
    let found = match map {
        Some(map) => map.get_many(keys).wait()?,
        None => Vec::new(),
    };
    let entries = keys.iter().zip(found).filter_map(|(key, found)| {
        let key = key.clone().into_bytes();
        found.map(|found| MapEntry { key, version: found.version, value: Some(found.value) })
    });
    let mut listing = Listing::begin(connect, &["KEY", "VALUE", "VERSION"]);
    listing.page(entries.map(|entry| (to_cells(&entry), to_json(&entry))))?;
    listing.end()
}

/// Page by page, so that a map of any size passes through. Each page is as of one moment, all of
/// them together are not.
fn list(
    connect: &Connect,
    client: &Client,
    name: &str,
    range: &Range,
    values: bool,
) -> Result<(), Exit> {
    let heads: &[&str] = if values { &["KEY", "VALUE", "VERSION"] } else { &["KEY", "VERSION"] };
    let mut listing = Listing::begin(connect, heads);
    let Some(map) = existing(client, name, range.fresh.level())? else { return listing.end() };
    let bytes = |text: &Option<String>| text.clone().map(String::into_bytes);
    let mut left = range.limit.unwrap_or(u32::MAX);
    let mut part = MapRange {
        prefix: range.prefix.clone().into_bytes(),
        from: bytes(&range.from),
        to: bytes(&range.to),
        descending: range.descending,
        ..MapRange::default()
    };
    loop {
        part.limit = left;
        let asked = part.clone();
        let page = if values { map.entries(asked).wait()? } else { map.keys(asked).wait()? };
        left -= page.entries.len() as u32;
        listing.page(page.entries.iter().map(|entry| {
            let mut cells = to_cells(entry);
            if !values {
                cells.remove(1);
            }
            (cells, to_json(entry))
        }))?;
        part.after = page.next;
        if part.after.is_none() || left == 0 {
            return listing.end();
        }
    }
}

fn to_cells(entry: &MapEntry) -> Vec<String> {
    let value = entry.value.as_deref().unwrap_or_default();
    vec![output::cell(&entry.key), output::cell(value), format!("v{}", entry.version.0)]
}

fn to_json(entry: &MapEntry) -> Value {
    let mut item = json!({ "key": output::to_json(&entry.key), "version": entry.version.0 });
    if let Some(value) = &entry.value {
        item["value"] = output::to_json(value);
    }
    item
}
