//! `margay ls`, `describe`, `delete` and `watch`: resources of any type, by name.

use margay::client::{Found, Group};
use margay::machine::{EventPayload, Filter, ResourceId, SessionId, kind};
use margay::resource::registry::FindV1;
use margay::resource::{
    Delivery, Description, Directory, Handle, entries, log, multimap, registry, tree, type_name,
    type_named, type_names,
};
use margay_log::id::Index;
use serde_json::{Value, json};

use crate::connect::Connect;
use crate::data::{Follow, Fresh};
use crate::exit::{Exit, NEGATIVE};
use crate::output::{self, Table};
use crate::units;

/// List resources, in order of their names
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  margay ls                       # all of them
  margay ls orders/ --type lock
  margay ls -o jsonl | jq -r .name")]
pub(crate) struct Ls {
    #[command(flatten)]
    connect: Connect,
    /// Only names that begin so
    #[arg(default_value = "", hide_default_value = true)]
    prefix: String,
    /// Only this type: value, counter, map, lock …, or the number of an own type
    #[arg(long = "type", value_name = "TYPE", value_parser = resource_type)]
    kind: Option<u8>,
    #[command(flatten)]
    fresh: Fresh,
}

/// Show what a resource is: type, group, size, holders, waiters
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Exit code 1 where there is none.

Example:
  margay describe nightly -o json")]
pub(crate) struct Describe {
    #[command(flatten)]
    connect: Connect,
    /// Name of the resource
    name: String,
    #[command(flatten)]
    fresh: Fresh,
}

/// Delete resources with all they hold
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Whoever holds something there has lost it, and who waits is told so. Exit code 1 where one of them
was not there.")]
pub(crate) struct Delete {
    #[command(flatten)]
    connect: Connect,
    /// Names of the resources
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

/// Print what happens to a resource, one line per event, until interrupted
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Events come in order, each once, also when a leader fails. Where some are no longer kept, a line
'lagged' says so: read the state, then go on.

Examples:
  margay watch users                      # from now on
  margay watch users --key ada
  margay watch users --from 0 -o jsonl    # what is still kept, then what comes
  margay watch users --count 1            # wait for the next event")]
pub(crate) struct Watch {
    #[command(flatten)]
    connect: Connect,
    /// Name of the resource
    name: String,
    /// Begin behind this index, as events show it; without, with what happens from now on
    #[arg(long, value_name = "INDEX")]
    from: Option<u64>,
    #[command(flatten)]
    only: Follow,
}

/// A type by its name or number.
fn resource_type(text: &str) -> Result<u8, String> {
    let number = || text.parse::<u8>().ok().filter(|number| *number > 0);
    type_named(text).or_else(number).ok_or_else(|| {
        let names: Vec<&str> = type_names().collect();
        format!("no type; there are {}, and numbers of own types", names.join(", "))
    })
}

/// The name of a type, or its number where the name is known elsewhere.
fn type_text(kind: u8) -> String {
    match type_named(type_name(kind)) {
        Some(_) => type_name(kind).to_string(),
        None => kind.to_string(),
    }
}

pub(crate) fn ls(args: &Ls) -> Result<(), Exit> {
    /// Rows of a table that are aligned together.
    const ROWS: usize = 1_000;
    let client = args.connect.client()?;
    let found = client.list(&args.prefix, args.kind.unwrap_or(0));
    let mut found = found.with_level(args.fresh.level());
    let to_json = |Found { listed, group }: &Found| {
        json!({
            "name": listed.name,
            "type": type_text(listed.kind),
            "group": group.0,
            "id": listed.id.0,
        })
    };
    if args.connect.is_json() {
        let mut array = output::Array::begin(args.connect.output);
        found.try_for_each(|found| array.add(&to_json(&found?)))?;
        return array.end();
    }
    let mut is_first = true;
    loop {
        let page: Vec<Found> = found.by_ref().take(ROWS).collect::<Result<_, _>>()?;
        if page.is_empty() {
            return Ok(());
        }
        let table = Table::new(&["NAME", "TYPE", "GROUP", "ID"]);
        let mut table = if is_first { table } else { table.without_heads() };
        is_first = false;
        for Found { listed, group } in page {
            let name = output::cell(listed.name.as_bytes());
            let (group, id) = (group.0.to_string(), listed.id.0.to_string());
            table.row(vec![name, type_text(listed.kind), group, id]);
        }
        table.print()?;
    }
}

pub(crate) fn describe(args: &Describe) -> Result<(), Exit> {
    let client = args.connect.client()?;
    let group = client.group_of(&args.name)?;
    let directory = Directory::new(group.clone()).with_level(args.fresh.level());
    let (group, found) = (group.id(), directory.describe(&args.name).wait()?);
    let Some(found) = found else { return Err(absent(&args.name)) };
    let Description { id, size, events, options, held, waiting, .. } = &found;
    if args.connect.is_json() {
        let holder = |held: &(SessionId, u64)| json!({ "session": held.0.0, "token": held.1 });
        return output::json(&json!({
            "name": args.name,
            "type": found.type_name,
            "kind": found.kind,
            "group": group.0,
            "id": id.0,
            "size": size,
            "events": events,
            "options": output::hex(options),
            "holders": found.holders.iter().map(holder).collect::<Vec<Value>>(),
            "held": held,
            "waiting": waiting,
        }));
    }
    let mut lines = vec![
        ("name", output::cell(args.name.as_bytes())),
        ("type", output::cell(found.type_name.as_bytes())),
        ("group", group.0.to_string()),
        ("id", id.0.to_string()),
        ("size", units::grouped(*size)),
        ("events kept", units::grouped(u64::from(*events))),
    ];
    if !options.is_empty() {
        lines.push(("options", output::hex(options)));
    }
    lines.push(("waiting", units::grouped(u64::from(*waiting))));
    lines.push(("held", units::grouped(u64::from(*held))));
    let holders = found.holders.iter();
    lines.extend(holders.map(|(session, token)| ("", format!("{session} token {token}"))));
    lines.iter().try_for_each(|(what, text)| output::line(&format!("{what:12} {text}")))
}

pub(crate) fn delete(args: &Delete) -> Result<(), Exit> {
    let client = args.connect.client()?;
    let mut missing = Vec::new();
    let mut array = output::Array::begin(args.connect.output);
    for name in &args.names {
        let deleted = client.delete(name).wait()?;
        if !deleted {
            missing.push(name.as_str());
        }
        if args.connect.is_json() {
            array.add(&json!({ "name": name, "deleted": deleted }))?;
        }
    }
    array.end()?;
    match missing[..] {
        [] => Ok(()),
        _ => Err(absent(&missing.join(", "))),
    }
}

pub(crate) fn watch(args: &Watch) -> Result<(), Exit> {
    let client = args.connect.client()?;
    let group = client.group_of(&args.name)?;
    let Some(found) = client.find(&args.name).wait()? else { return Err(absent(&args.name)) };
    let filter = filter(found.kind, args.only.key.as_deref(), args.only.prefix.as_deref())?;
    let after = args.from.map(|index| (Index(index), u32::MAX));
    if let Some(index) = args.from {
        note_ahead(&group, &args.name, Index(index))?;
    }
    follow(&args.connect, group, (found.id, found.kind), filter, after, args.only.count)
}

/// Says so where a begin lies ahead: nothing is shown until then, and nobody would know why.
pub(crate) fn note_ahead(group: &Group, name: &str, begin: Index) -> Result<(), Exit> {
    let find = FindV1 { name: name.as_bytes().to_vec(), kind: 0 };
    let now = Handle::new(group.clone(), ResourceId::REGISTRY).query(&find).wait()?.index;
    if begin > now {
        output::aside(&format!(
            "note: {begin} is ahead of group {}, which is at {now}: nothing is shown before that\n",
            group.id().0
        ));
    }
    Ok(())
}

/// Which events of a resource of a kind: keys are written as they are shown.
fn filter(kind: u8, key: Option<&str>, prefix: Option<&str>) -> Result<Filter, Exit> {
    Ok(match (kind, key, prefix) {
        (_, None, None) => Filter::All,
        (kind::TREE, Some(path), _) => {
            Filter::Key(tree::path::key(path.as_bytes()).map_err(failed)?)
        }
        (kind::TREE, None, Some(path)) => {
            let names = path.strip_prefix('/').unwrap_or(path).bytes();
            Filter::Prefix(names.map(|byte| if byte == b'/' { 0 } else { byte }).collect())
        }
        (kind::QUEUE | kind::LOG, Some(number), _) => {
            let number = number.parse::<u64>();
            let number = number.map_err(|_| Exit::usage("--key is a number here"))?;
            // A log's keys say more behind it.
            Filter::Prefix(number.to_be_bytes().to_vec())
        }
        (kind::QUEUE | kind::LOG, None, Some(_)) => {
            return Err(Exit::usage("--prefix is not for keys that are numbers"));
        }
        (_, Some(key), _) => Filter::Key(key.as_bytes().to_vec()),
        (_, None, Some(prefix)) => Filter::Prefix(prefix.as_bytes().to_vec()),
    })
}

/// Prints events of a resource of a kind as they come, `count` of them or until it is deleted.
pub(crate) fn follow(
    connect: &Connect,
    group: Group,
    (id, kind): (ResourceId, u8),
    filter: Filter,
    after: Option<(Index, u32)>,
    count: Option<u64>,
) -> Result<(), Exit> {
    let mut events = Handle::new(group, id).subscribe(after, filter);
    let mut left = count.unwrap_or(u64::MAX);
    while left > 0 {
        let line = Line::read(events.wait_next()?, kind)?;
        if connect.is_json() {
            output::json(&line.to_json())?;
        } else {
            output::line(&line.to_text())?;
        }
        if line.what == "deleted" {
            return Ok(());
        }
        left -= 1;
    }
    Ok(())
}

/// One event as it is shown.
struct Line {
    what: &'static str,
    index: Index,
    ordinal: u32,
    /// As its type numbers it.
    event: u16,
    payload: EventPayload,
}

impl Line {
    fn read(delivery: Delivery, resource: u8) -> Result<Line, Exit> {
        let (index, ordinal, event, mut payload) = match delivery {
            Delivery::Event { index, ordinal, kind, payload } => {
                (index, ordinal, kind, EventPayload::decode(&payload).map_err(failed)?)
            }
            Delivery::Lagged { oldest } => {
                let payload = EventPayload { key: None, new: None, old: None };
                return Ok(Line { what: "lagged", index: oldest, ordinal: 0, event: 0, payload });
            }
        };
        payload.key = payload.key.map(|key| match (resource, key.first_chunk()) {
            (kind::TREE, _) => tree::path::of_key(&key),
            (kind::QUEUE | kind::LOG, Some(number)) => {
                u64::from_be_bytes(*number).to_string().into_bytes()
            }
            _ => key,
        });
        let has_entries =
            [kind::VALUE, kind::MAP, kind::MULTIMAP, kind::SET, kind::TREE].contains(&resource);
        let what = match (event, &payload.new, &payload.old) {
            (registry::DELETED, ..) => "deleted",
            (entries::CLEARED, ..) if has_entries => "cleared",
            (entries::EXPIRED, ..) if has_entries => "expired",
            (entries::SESSION_ENDED, ..) if has_entries => "session-ended",
            (multimap::KEY_REMOVED, ..) if has_entries => "key-removed",
            (log::TRIMMED, ..) if resource == kind::LOG => "trimmed",
            (_, Some(_), Some(_)) => "changed",
            (_, Some(_), None) => "added",
            (_, None, Some(_)) => "removed",
            (_, None, None) => "event",
        };
        Ok(Line { what, index, ordinal, event, payload })
    }

    fn to_json(&self) -> Value {
        let bytes = |bytes: &Option<Vec<u8>>| bytes.as_deref().map(output::to_json);
        json!({
            "what": self.what,
            "index": self.index.0,
            "ordinal": self.ordinal,
            "event": self.event,
            "key": bytes(&self.payload.key),
            "new": bytes(&self.payload.new),
            "old": bytes(&self.payload.old),
        })
    }

    fn to_text(&self) -> String {
        let EventPayload { key, new, old } = &self.payload;
        let mut text = format!("{:>8}  {:8}", self.index.0, self.what);
        if self.what == "event" {
            text.push_str(&format!("  {}", self.event));
        }
        let parts = [key.as_ref(), new.as_ref().or(old.as_ref())];
        for part in parts.into_iter().flatten() {
            text.push_str("  ");
            text.push_str(&output::cell(part));
        }
        text
    }
}

fn failed(code: margay::machine::Code) -> Exit {
    margay::resource::Failure::from(code).into()
}

fn absent(names: &str) -> Exit {
    Exit::new(NEGATIVE, format!("no resource called {names}")).hint("margay ls shows all")
}
