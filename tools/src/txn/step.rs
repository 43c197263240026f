//! Steps of `margay txn` as they are written: one JSON object each.
//!
//! All of a step is read before its resource is opened, which creates it where there is none.

use std::fmt;

use margay::client::{Client, Group};
use margay::machine::kind;
use margay::resource::transaction::Transaction;
use margay::resource::{Reply, Tree, Value};
use margay_log::id::Index;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::{Map as Object, Value as Json};

use crate::exit::Exit;

type Steps = Transaction<Group>;
type Add<'a> = Box<dyn FnOnce(Steps, &Client) -> Result<Steps, Exit> + 'a>;

/// One that was read: what it is about, and what it adds to a transaction once that is open.
pub(super) struct Step<'a> {
    pub(super) name: &'a str,
    pub(super) kind: u8,
    add: Add<'a>,
}

impl<'a> Step<'a> {
    fn new<R: 'a>(
        name: &'a str,
        kind: u8,
        open: fn(&Client, &str) -> Reply<R>,
        add: impl FnOnce(Steps, &R) -> Steps + 'a,
    ) -> Step<'a> {
        let add = move |steps, client: &Client| Ok(add(steps, &open(client, name).wait()?));
        Step { name, kind, add: Box::new(add) }
    }

    /// Opens its resource and adds it.
    pub(super) fn add_to(self, steps: Steps, client: &Client) -> Result<Steps, Exit> {
        (self.add)(steps, client)
    }
}

/// Why a step is none.
pub(super) fn bad(step: &str, why: &str) -> Exit {
    Exit::usage(format!("{step}: {why}")).hint("margay txn --help shows what steps look like")
}

/// An object whose keys differ: of two that are the same, one would be left out in silence.
pub(super) struct Line(Object<String, Json>);

impl<'de> Deserialize<'de> for Line {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Line, D::Error> {
        from.deserialize_map(Keys)
    }
}

/// Takes a [`Line`] key by key.
struct Keys;

impl<'de> Visitor<'de> for Keys {
    type Value = Line;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Line, A::Error> {
        let mut object = Object::new();
        while let Some((key, value)) = map.next_entry::<String, Json>()? {
            if object.contains_key(&key) {
                return Err(A::Error::custom(format_args!("\"{key}\" is there twice")));
            }
            object.insert(key, value);
        }
        Ok(Line(object))
    }
}

/// Reads a step.
pub(super) fn read(Line(object): &Line) -> Result<Step<'_>, Exit> {
    let fields = Fields(object);
    let name = fields.text("name")?;
    match (object.get("check"), object.get("do")) {
        (Some(_), None) => check(fields, name),
        (None, Some(_)) => command(fields, name),
        _ => Err(fields.bad("a step has \"check\" or \"do\"")),
    }
}

/// The fields of one object.
#[derive(Clone, Copy)]
struct Fields<'a>(&'a Object<String, Json>);

/// What must be so of something that has a version.
enum Versioned<'a> {
    Equals(&'a [u8]),
    Version(Index),
    Exists,
    Absent,
}

impl<'a> Fields<'a> {
    fn bad(self, why: &str) -> Exit {
        bad(&Json::Object(self.0.clone()).to_string(), why)
    }

    fn text(self, key: &str) -> Result<&'a str, Exit> {
        let text = self.0.get(key).and_then(Json::as_str);
        text.ok_or_else(|| self.bad(&format!("\"{key}\" must be there and be a text")))
    }

    fn bytes(self, key: &str) -> Result<&'a [u8], Exit> {
        Ok(self.text(key)?.as_bytes())
    }

    fn number(self, key: &str) -> Result<i64, Exit> {
        let number = self.0.get(key).and_then(Json::as_i64);
        number.ok_or_else(|| self.bad(&format!("\"{key}\" must be there and be a whole number")))
    }

    fn whole(self, key: &str) -> Result<u64, Exit> {
        let number = self.0.get(key).and_then(Json::as_u64);
        number.ok_or_else(|| self.bad(&format!("\"{key}\" must be there and be a whole number")))
    }

    /// A condition without a value of its own. `false` would be taken for its opposite.
    fn plain(self, key: &str) -> Result<(), Exit> {
        match self.0.get(key) {
            Some(Json::Bool(true)) => Ok(()),
            _ => Err(self.bad(&format!("\"{key}\" can only be true"))),
        }
    }

    /// Nothing but these and what every step has: a misspelt condition must not count as none.
    fn only(self, keys: &[&str]) -> Result<(), Exit> {
        let known = |key: &String| ["check", "do", "name"].iter().chain(keys).any(|k| k == key);
        match self.0.keys().find(|key| !known(key)) {
            Some(key) => Err(self.bad(&format!("\"{key}\" means nothing here"))),
            None => Ok(()),
        }
    }

    /// The one condition of a check.
    fn condition<'b>(self, of: &[&'b str]) -> Result<&'b str, Exit> {
        let mut there = of.iter().filter(|key| self.0.contains_key(**key));
        match (there.next(), there.next()) {
            (Some(condition), None) => Ok(condition),
            _ => Err(self.bad(&format!("exactly one of {} must be there", of.join(", ")))),
        }
    }

    /// The one condition of a check of what has a version, and nothing else but `keys`.
    fn versioned(self, keys: &[&str], of: &[&str]) -> Result<Versioned<'a>, Exit> {
        self.only(&[keys, of].concat())?;
        Ok(match self.condition(of)? {
            "equals" => Versioned::Equals(self.bytes("equals")?),
            "version" => Versioned::Version(Index(self.whole("version")?)),
            "exists" => self.plain("exists").map(|()| Versioned::Exists)?,
            _ => self.plain("absent").map(|()| Versioned::Absent)?,
        })
    }
}

/// Conditions of what has a version.
const VERSIONED: [&str; 4] = ["equals", "version", "absent", "exists"];

fn check<'a>(fields: Fields<'a>, name: &'a str) -> Result<Step<'a>, Exit> {
    Ok(match fields.text("check")? {
        "value" => {
            let condition = fields.versioned(&[], &["equals", "version", "absent"])?;
            let add = move |steps: Steps, value: &Value<Group>| match condition {
                Versioned::Equals(is) => steps.value_is(value, Some(is)),
                Versioned::Version(version) => steps.value_version(value, version),
                Versioned::Exists | Versioned::Absent => steps.value_is(value, None),
            };
            Step::new(name, kind::VALUE, Client::value, add)
        }
        "map" => {
            let condition = fields.versioned(&["key"], &VERSIONED)?;
            let key = fields.bytes("key")?;
            Step::new(name, kind::MAP, Client::map, move |steps, map| match condition {
                Versioned::Equals(is) => steps.entry_is(map, key, Some(is)),
                Versioned::Version(version) => steps.entry_version(map, key, version),
                Versioned::Exists => steps.entry_exists(map, key),
                Versioned::Absent => steps.entry_is(map, key, None),
            })
        }
        "tree" => {
            let condition = fields.versioned(&["path"], &VERSIONED)?;
            let path = fields.text("path")?;
            let add = move |steps: Steps, tree: &Tree<Group>| match condition {
                Versioned::Equals(is) => steps.node_is(tree, path, Some(is)),
                Versioned::Version(version) => steps.node_version(tree, path, version),
                Versioned::Exists => steps.node_exists(tree, path),
                Versioned::Absent => steps.node_is(tree, path, None),
            };
            Step::new(name, kind::TREE, Client::tree, add)
        }
        "counter" => {
            let conditions = ["equals", "at-least", "at-most"];
            fields.only(&conditions)?;
            let condition = fields.condition(&conditions)?;
            let number = fields.number(condition)?;
            Step::new(name, kind::COUNTER, Client::counter, move |steps, counter| match condition {
                "equals" => steps.counter_is(counter, number),
                "at-least" => steps.at_least(counter, number),
                _ => steps.at_most(counter, number),
            })
        }
        other => return check_of_others(fields, name, other),
    })
}

fn check_of_others<'a>(fields: Fields<'a>, name: &'a str, what: &str) -> Result<Step<'a>, Exit> {
    let conditions = ["has", "lacks"];
    let has_or_lacks = |keys: &[&str]| {
        fields.only(&[keys, &conditions].concat())?;
        fields.condition(&conditions)
    };
    Ok(match what {
        "set" => {
            let condition = has_or_lacks(&[])?;
            let member = fields.bytes(condition)?;
            Step::new(name, kind::SET, Client::set, move |steps, set| match condition {
                "has" => steps.has_member(set, member),
                _ => steps.lacks_member(set, member),
            })
        }
        "multimap" => {
            let condition = has_or_lacks(&["key"])?;
            let (key, value) = (fields.bytes("key")?, fields.bytes(condition)?);
            Step::new(name, kind::MULTIMAP, Client::multimap, move |steps, map| match condition {
                "has" => steps.has_value(map, key, value),
                _ => steps.lacks_value(map, key, value),
            })
        }
        "queue" => {
            let condition = has_or_lacks(&[])?;
            let task = fields.whole(condition)?;
            Step::new(name, kind::QUEUE, Client::queue, move |steps, queue| match condition {
                "has" => steps.has_task(queue, task),
                _ => steps.lacks_task(queue, task),
            })
        }
        "log" => {
            fields.only(&["next"])?;
            let next = fields.whole("next")?;
            Step::new(name, kind::LOG, Client::log, move |steps, log| steps.log_ends_at(log, next))
        }
        "lock" => {
            fields.only(&["token"])?;
            let token = fields.whole("token")?;
            Step::new(name, kind::LOCK, Client::lock, move |steps, lock| steps.holds(lock, token))
        }
        "election" => {
            fields.only(&["token"])?;
            let token = fields.whole("token")?;
            let add = move |steps: Steps, election: &_| steps.leads(election, token);
            Step::new(name, kind::ELECTION, Client::election, add)
        }
        _ => {
            let all = "value, map, tree, counter, set, multimap, queue, log, lock or election";
            return Err(fields.bad(&format!("\"check\" is {all}")));
        }
    })
}

fn command<'a>(fields: Fields<'a>, name: &'a str) -> Result<Step<'a>, Exit> {
    Ok(match fields.text("do")? {
        "set" => {
            fields.only(&["value"])?;
            let to = fields.bytes("value")?;
            Step::new(name, kind::VALUE, Client::value, move |steps, value| steps.set(value, to))
        }
        "unset" => {
            fields.only(&[])?;
            Step::new(name, kind::VALUE, Client::value, |steps, value| steps.unset(value))
        }
        "put" => {
            fields.only(&["key", "value"])?;
            let (key, to) = (fields.bytes("key")?, fields.bytes("value")?);
            Step::new(name, kind::MAP, Client::map, move |steps, map| steps.put(map, key, to))
        }
        "remove" => {
            fields.only(&["key"])?;
            let key = fields.bytes("key")?;
            Step::new(name, kind::MAP, Client::map, move |steps, map| steps.remove(map, key))
        }
        "add" => {
            fields.only(&["by"])?;
            let by = fields.number("by")?;
            let add = move |steps: Steps, counter: &_| steps.add(counter, by);
            Step::new(name, kind::COUNTER, Client::counter, add)
        }
        other => return command_to_others(fields, name, other),
    })
}

fn command_to_others<'a>(fields: Fields<'a>, name: &'a str, what: &str) -> Result<Step<'a>, Exit> {
    let is = |command: &str| what == command;
    Ok(match what {
        "add-member" | "remove-member" => {
            fields.only(&["value"])?;
            let (member, adds) = (fields.bytes("value")?, is("add-member"));
            Step::new(name, kind::SET, Client::set, move |steps, set| match adds {
                true => steps.add_member(set, member),
                false => steps.remove_member(set, member),
            })
        }
        "put-value" | "remove-value" => {
            fields.only(&["key", "value"])?;
            let (key, value) = (fields.bytes("key")?, fields.bytes("value")?);
            let puts = is("put-value");
            Step::new(name, kind::MULTIMAP, Client::multimap, move |steps, map| match puts {
                true => steps.put_value(map, key, value),
                false => steps.remove_value(map, key, value),
            })
        }
        "create-node" | "set-node" => {
            fields.only(&["path", "value"])?;
            let (path, data) = (fields.text("path")?, fields.bytes("value")?);
            let creates = is("create-node");
            Step::new(name, kind::TREE, Client::tree, move |steps, tree| match creates {
                true => steps.create_node(tree, path, data),
                false => steps.set_node(tree, path, data),
            })
        }
        "delete-node" => {
            fields.only(&["path"])?;
            let path = fields.text("path")?;
            let add = move |steps: Steps, tree: &_| steps.delete_node(tree, path);
            Step::new(name, kind::TREE, Client::tree, add)
        }
        "offer" => {
            fields.only(&["value"])?;
            let task = fields.bytes("value")?;
            Step::new(name, kind::QUEUE, Client::queue, move |steps, queue| {
                steps.offer(queue, task)
            })
        }
        "append" => {
            fields.only(&["value"])?;
            let record = fields.bytes("value")?;
            Step::new(name, kind::LOG, Client::log, move |steps, log| steps.append(log, record))
        }
        _ => {
            let all = "set, unset, put, remove, add, add-member, remove-member, put-value, \
                       remove-value, create-node, set-node, delete-node, offer or append";
            return Err(fields.bad(&format!("\"do\" is {all}")));
        }
    })
}
