//! `margay txn`: check and commit over several resources of one group.

use std::io::{self, BufRead};

use margay::client::{Client, Group};
use margay::resource::transaction::{Outcome, Transaction};
use margay_log::id::Index;
use serde_json::{Map as Object, Value as Json, json};

use crate::connect::Connect;
use crate::exit::{Exit, NEGATIVE};
use crate::output;

/// Check and commit: all of it takes effect at one moment, or nothing
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Each step is a JSON object: a check or something to do. Checks see the state before everything that
is done. Names must be in one group: end them with the same @ and digits.

  {\"check\":\"value\",\"name\":N,\"equals\":V}          also: \"version\":I, \"absent\":true
  {\"check\":\"map\",\"name\":N,\"key\":K,\"equals\":V}    also: as above, \"exists\":true
  {\"check\":\"tree\",\"name\":N,\"path\":P,\"equals\":V}  also: as above
  {\"check\":\"counter\",\"name\":N,\"equals\":I}        also: \"at-least\":I, \"at-most\":I
  {\"check\":\"set\",\"name\":N,\"has\":V}               also: \"lacks\":V
  {\"check\":\"multimap\",\"name\":N,\"key\":K,\"has\":V}  also: \"lacks\":V
  {\"check\":\"queue\",\"name\":N,\"has\":TASK}          also: \"lacks\":TASK
  {\"check\":\"log\",\"name\":N,\"next\":POSITION}
  {\"check\":\"lock\",\"name\":N,\"token\":TOKEN}         also: \"election\": still held under it

  {\"do\":\"set\",\"name\":N,\"value\":V}                  also: \"unset\"              a value
  {\"do\":\"put\",\"name\":N,\"key\":K,\"value\":V}          also: \"remove\"             a map
  {\"do\":\"add\",\"name\":N,\"by\":I}                                               a counter
  {\"do\":\"add-member\",\"name\":N,\"value\":V}           also: \"remove-member\"      a set
  {\"do\":\"put-value\",\"name\":N,\"key\":K,\"value\":V}    also: \"remove-value\"       a multimap
  {\"do\":\"create-node\",\"name\":N,\"path\":P,\"value\":V} also: \"set-node\", \"delete-node\"
  {\"do\":\"offer\",\"name\":N,\"value\":V}                                          a queue
  {\"do\":\"append\",\"name\":N,\"value\":V}                                         a log

Exit code 1 where a check fails or something is refused: nothing was done then.

Example:
  margay txn '{\"check\":\"counter\",\"name\":\"ada@1\",\"at-least\":30}' \\
      '{\"do\":\"add\",\"name\":\"ada@1\",\"by\":-30}' \\
      '{\"do\":\"add\",\"name\":\"bob@1\",\"by\":30}'")]
pub(crate) struct Args {
    #[command(flatten)]
    connect: Connect,
    /// Steps, in order; without, one per line of standard input
    #[arg(value_name = "STEP")]
    steps: Vec<String>,
}

type Steps = Transaction<Group>;

pub(crate) fn run(args: &Args) -> Result<(), Exit> {
    let lines = match args.steps.is_empty() {
        true => io::stdin().lock().lines().collect::<Result<_, _>>()?,
        false => args.steps.clone(),
    };
    let mut objects = Vec::new();
    for line in lines.iter().filter(|line| !line.trim().is_empty()) {
        let step = serde_json::from_str::<Object<String, Json>>(line);
        objects.push(step.map_err(|error| bad(line, &error.to_string()))?);
    }
    if objects.is_empty() {
        return Err(Exit::usage("no steps").hint("margay txn --help shows what they look like"));
    }
    let client = args.connect.client()?;
    let mut steps = Steps::new();
    for object in &objects {
        let step = Step { client: &client, object };
        steps = step.add_to(steps)?;
    }
    show(&args.connect, steps.commit().wait()?)
}

fn bad(step: &str, why: &str) -> Exit {
    Exit::usage(format!("{step}: {why}")).hint("margay txn --help shows what steps look like")
}

/// One object.
struct Step<'a> {
    client: &'a Client,
    object: &'a Object<String, Json>,
}

impl Step<'_> {
    fn bad(&self, why: &str) -> Exit {
        bad(&Json::Object(self.object.clone()).to_string(), why)
    }

    fn text(&self, key: &str) -> Result<&str, Exit> {
        let text = self.object.get(key).and_then(Json::as_str);
        text.ok_or_else(|| self.bad(&format!("\"{key}\" must be there and be a text")))
    }

    fn number(&self, key: &str) -> Result<i64, Exit> {
        let number = self.object.get(key).and_then(Json::as_i64);
        number.ok_or_else(|| self.bad(&format!("\"{key}\" must be there and be a whole number")))
    }

    /// Nothing but these and what every step has: a misspelt condition must not count as none.
    fn only(&self, keys: &[&str]) -> Result<(), Exit> {
        let known = |key: &String| ["check", "do", "name"].iter().chain(keys).any(|k| k == key);
        match self.object.keys().find(|key| !known(key)) {
            Some(key) => Err(self.bad(&format!("\"{key}\" means nothing here"))),
            None => Ok(()),
        }
    }

    /// The one condition of a check.
    fn condition<'b>(&self, of: &[&'b str]) -> Result<&'b str, Exit> {
        let mut there = of.iter().filter(|key| self.object.contains_key(**key));
        match (there.next(), there.next()) {
            (Some(condition), None) => Ok(condition),
            _ => Err(self.bad(&format!("one of {} must be there", of.join(", ")))),
        }
    }

    fn version(&self) -> Result<Index, Exit> {
        self.whole("version").map(Index)
    }

    fn whole(&self, key: &str) -> Result<u64, Exit> {
        let number = self.object.get(key).and_then(Json::as_u64);
        number.ok_or_else(|| self.bad(&format!("\"{key}\" must be a whole number")))
    }

    fn add_to(&self, steps: Steps) -> Result<Steps, Exit> {
        let name = self.text("name")?;
        match (self.object.get("check"), self.object.get("do")) {
            (Some(_), None) => self.add_check(steps, name, self.text("check")?),
            (None, Some(_)) => self.add_command(steps, name, self.text("do")?),
            _ => Err(self.bad("a step has \"check\" or \"do\"")),
        }
    }

    fn add_check(&self, steps: Steps, name: &str, what: &str) -> Result<Steps, Exit> {
        Ok(match what {
            "value" => {
                let conditions = ["equals", "version", "absent"];
                self.only(&conditions)?;
                let value = self.client.value(name).wait()?;
                match self.condition(&conditions)? {
                    "equals" => steps.value_is(&value, Some(self.text("equals")?.as_bytes())),
                    "version" => steps.value_version(&value, self.version()?),
                    _ => steps.value_is(&value, None),
                }
            }
            "map" => {
                let conditions = ["equals", "version", "absent", "exists"];
                self.only(&["key", "equals", "version", "absent", "exists"])?;
                let (map, key) = (self.client.map(name).wait()?, self.text("key")?.as_bytes());
                match self.condition(&conditions)? {
                    "equals" => steps.entry_is(&map, key, Some(self.text("equals")?.as_bytes())),
                    "version" => steps.entry_version(&map, key, self.version()?),
                    "exists" => steps.entry_exists(&map, key),
                    _ => steps.entry_is(&map, key, None),
                }
            }
            "counter" => {
                let conditions = ["equals", "at-least", "at-most"];
                self.only(&conditions)?;
                let counter = self.client.counter(name).wait()?;
                match self.condition(&conditions)? {
                    "equals" => steps.counter_is(&counter, self.number("equals")?),
                    "at-least" => steps.at_least(&counter, self.number("at-least")?),
                    _ => steps.at_most(&counter, self.number("at-most")?),
                }
            }
            _ => return self.add_check_of_many(steps, name, what),
        })
    }

    fn add_check_of_many(&self, steps: Steps, name: &str, what: &str) -> Result<Steps, Exit> {
        let has_or_lacks = ["has", "lacks"];
        Ok(match what {
            "tree" => {
                let conditions = ["equals", "version", "absent", "exists"];
                self.only(&["path", "equals", "version", "absent", "exists"])?;
                let (tree, path) = (self.client.tree(name).wait()?, self.text("path")?);
                match self.condition(&conditions)? {
                    "equals" => steps.node_is(&tree, path, Some(self.text("equals")?.as_bytes())),
                    "version" => steps.node_version(&tree, path, self.version()?),
                    "exists" => steps.node_exists(&tree, path),
                    _ => steps.node_is(&tree, path, None),
                }
            }
            "set" => {
                self.only(&has_or_lacks)?;
                let set = self.client.set(name).wait()?;
                match self.condition(&has_or_lacks)? {
                    "has" => steps.has_member(&set, self.text("has")?.as_bytes()),
                    _ => steps.lacks_member(&set, self.text("lacks")?.as_bytes()),
                }
            }
            "multimap" => {
                self.only(&["key", "has", "lacks"])?;
                let (map, key) = (self.client.multimap(name).wait()?, self.text("key")?);
                match self.condition(&has_or_lacks)? {
                    "has" => steps.has_value(&map, key.as_bytes(), self.text("has")?.as_bytes()),
                    _ => steps.lacks_value(&map, key.as_bytes(), self.text("lacks")?.as_bytes()),
                }
            }
            "queue" => {
                self.only(&has_or_lacks)?;
                let queue = self.client.queue(name).wait()?;
                match self.condition(&has_or_lacks)? {
                    "has" => steps.has_task(&queue, self.whole("has")?),
                    _ => steps.lacks_task(&queue, self.whole("lacks")?),
                }
            }
            "log" => {
                self.only(&["next"])?;
                steps.log_ends_at(&self.client.log(name).wait()?, self.whole("next")?)
            }
            "lock" => {
                self.only(&["token"])?;
                steps.holds(&self.client.lock(name).wait()?, self.whole("token")?)
            }
            "election" => {
                self.only(&["token"])?;
                steps.leads(&self.client.election(name).wait()?, self.whole("token")?)
            }
            _ => {
                let all = "value, map, tree, counter, set, multimap, queue, log, lock or election";
                return Err(self.bad(&format!("\"check\" is {all}")));
            }
        })
    }

    fn add_command(&self, steps: Steps, name: &str, what: &str) -> Result<Steps, Exit> {
        Ok(match what {
            "set" => {
                self.only(&["value"])?;
                steps.set(&self.client.value(name).wait()?, self.text("value")?.as_bytes())
            }
            "unset" => {
                self.only(&[])?;
                steps.unset(&self.client.value(name).wait()?)
            }
            "put" => {
                self.only(&["key", "value"])?;
                let (key, value) = (self.text("key")?.as_bytes(), self.text("value")?.as_bytes());
                steps.put(&self.client.map(name).wait()?, key, value)
            }
            "remove" => {
                self.only(&["key"])?;
                steps.remove(&self.client.map(name).wait()?, self.text("key")?.as_bytes())
            }
            "add" => {
                self.only(&["by"])?;
                steps.add(&self.client.counter(name).wait()?, self.number("by")?)
            }
            _ => return self.add_command_to_many(steps, name, what),
        })
    }

    fn add_command_to_many(&self, steps: Steps, name: &str, what: &str) -> Result<Steps, Exit> {
        let value = || Ok::<&[u8], Exit>(self.text("value")?.as_bytes());
        Ok(match what {
            "add-member" | "remove-member" => {
                self.only(&["value"])?;
                let set = self.client.set(name).wait()?;
                match what {
                    "add-member" => steps.add_member(&set, value()?),
                    _ => steps.remove_member(&set, value()?),
                }
            }
            "put-value" | "remove-value" => {
                self.only(&["key", "value"])?;
                let (map, key) = (self.client.multimap(name).wait()?, self.text("key")?.as_bytes());
                match what {
                    "put-value" => steps.put_value(&map, key, value()?),
                    _ => steps.remove_value(&map, key, value()?),
                }
            }
            "create-node" | "set-node" => {
                self.only(&["path", "value"])?;
                let (tree, path) = (self.client.tree(name).wait()?, self.text("path")?);
                match what {
                    "create-node" => steps.create_node(&tree, path, value()?),
                    _ => steps.set_node(&tree, path, value()?),
                }
            }
            "delete-node" => {
                self.only(&["path"])?;
                steps.delete_node(&self.client.tree(name).wait()?, self.text("path")?)
            }
            "offer" => {
                self.only(&["value"])?;
                steps.offer(&self.client.queue(name).wait()?, value()?)
            }
            "append" => {
                self.only(&["value"])?;
                steps.append(&self.client.log(name).wait()?, value()?)
            }
            _ => {
                let all = "set, unset, put, remove, add, add-member, remove-member, put-value, \
                           remove-value, create-node, set-node, delete-node, offer or append";
                return Err(self.bad(&format!("\"do\" is {all}")));
            }
        })
    }
}

fn show(connect: &Connect, outcome: Outcome) -> Result<(), Exit> {
    match outcome {
        Outcome::Committed(done) if connect.is_json() => {
            output::json(&json!({ "committed": true, "version": done.index.0 }))
        }
        Outcome::Committed(done) => output::line(&format!("v{}", done.index.0)),
        Outcome::CheckFailed { check, .. } => {
            if connect.is_json() {
                output::json(&json!({ "committed": false, "check": check }))?;
                return Err(Exit::quiet(NEGATIVE));
            }
            Err(Exit::new(NEGATIVE, format!("check {} does not hold; nothing was done", check + 1)))
        }
        Outcome::Refused { command, code, text } => {
            if connect.is_json() {
                let code = code.name();
                output::json(&json!({ "committed": false, "command": command, "code": code }))?;
                return Err(Exit::quiet(NEGATIVE));
            }
            let why = if text.is_empty() { code.to_string() } else { format!("{code}: {text}") };
            let text = format!("command {} was refused, nothing was done: {why}", command + 1);
            Err(Exit::new(NEGATIVE, text))
        }
    }
}
