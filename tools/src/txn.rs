//! `margay txn`: check and commit over several resources of one group.

mod step;

use std::collections::BTreeMap;
use std::io::{self, BufRead};

use margay::client::Client;
use margay::resource::transaction::{OPERATIONS_MAX, Outcome, Transaction, one_group};
use margay::resource::{Directory, type_name};
use serde_json::json;

use crate::connect::Connect;
use crate::exit::{Exit, NEGATIVE};
use crate::output;
use step::{Line, Step};

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
  {\"check\":\"lock\",\"name\":N,\"token\":TOKEN}        also: \"election\": still held under it

  value     {\"do\":\"set\",\"name\":N,\"value\":V}                   also: \"unset\"
  map       {\"do\":\"put\",\"name\":N,\"key\":K,\"value\":V}           also: \"remove\"
  counter   {\"do\":\"add\",\"name\":N,\"by\":I}
  set       {\"do\":\"add-member\",\"name\":N,\"value\":V}            also: \"remove-member\"
  multimap  {\"do\":\"put-value\",\"name\":N,\"key\":K,\"value\":V}     also: \"remove-value\"
  tree      {\"do\":\"create-node\",\"name\":N,\"path\":P,\"value\":V}  \
      also: \"set-node\", \"delete-node\"
  queue     {\"do\":\"offer\",\"name\":N,\"value\":V}
  log       {\"do\":\"append\",\"name\":N,\"value\":V}

Exit code 1 where a check fails or something is refused: nothing was done then. Resources that are
named are created where there are none, empty; none is where a step cannot be read, names are in
several groups, or one belongs to a resource of another type.

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

pub(crate) fn run(args: &Args) -> Result<(), Exit> {
    let lines = match args.steps.is_empty() {
        true => io::stdin().lock().lines().collect::<Result<_, _>>()?,
        false => args.steps.clone(),
    };
    let mut read = Vec::new();
    for line in lines.iter().filter(|line| !line.trim().is_empty()) {
        let step = serde_json::from_str::<Line>(line);
        read.push(step.map_err(|error| step::bad(line, &error.to_string()))?);
    }
    let steps = read.iter().map(step::read).collect::<Result<Vec<_>, _>>()?;
    if steps.is_empty() {
        return Err(Exit::usage("no steps").hint("margay txn --help shows what they look like"));
    }
    if steps.len() > OPERATIONS_MAX {
        let text = format!("{} steps; at most {OPERATIONS_MAX} in one transaction", steps.len());
        return Err(Exit::usage(text));
    }
    let kinds = kinds(&steps)?;
    let client = args.connect.client()?;
    check(&client, &kinds)?;
    let mut transaction = Transaction::new();
    for step in steps {
        transaction = step.add_to(transaction, &client)?;
    }
    show(&args.connect, transaction.commit().wait()?)
}

/// Which type each name must have. It has one in all steps.
fn kinds<'a>(steps: &[Step<'a>]) -> Result<BTreeMap<&'a str, u8>, Exit> {
    let mut kinds = BTreeMap::new();
    for step in steps {
        match kinds.insert(step.name, step.kind) {
            Some(other) if other != step.kind => {
                let (one, another) = (type_name(other), type_name(step.kind));
                let text = format!("'{}' cannot be a {one} and a {another}", step.name);
                return Err(Exit::usage(text).hint("use another name for one of them"));
            }
            _ => {}
        }
    }
    Ok(kinds)
}

/// Refuses what cannot be one transaction. Opening a resource creates it where there is none, so
/// nothing is opened before all names are known to be right.
fn check(client: &Client, kinds: &BTreeMap<&str, u8>) -> Result<(), Exit> {
    let (mut places, mut found) = (Vec::new(), Vec::new());
    for (&name, &kind) in kinds {
        let group = client.group_of(name)?;
        places.push((group.id(), name.to_owned()));
        found.push(Directory::new(group).find(name, kind));
    }
    one_group(&places)?;
    for look in found {
        look.wait()?;
    }
    Ok(())
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
