//! `margay queue`: values in a row, and workers that take tasks.

use std::io::Read;
use std::time::Duration;

use margay::client::{Client, Group};
use margay::machine::{Level, kind};
use margay::resource::Queue;
use margay::resource::queue::QueueEvent;
use serde_json::json;

use crate::connect::Connect;
use crate::data::{self, Fresh};
use crate::exit::{Exit, NEGATIVE};
use crate::output::{self, Table};
use crate::units;

mod work;

/// Queues of values and tasks
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  margay queue offer thumbs picture-17.png
  margay queue work thumbs --deliveries 5 -- ./thumbnail.sh    # the task is on standard input
  margay queue status thumbs")]
pub(crate) struct Args {
    #[command(flatten)]
    connect: Connect,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand, Debug)]
enum Verb {
    /// Put a value at the end; prints its number
    Offer {
        /// Name of the queue
        name: String,
        /// The value; without, it is read from standard input
        value: Option<String>,
        /// Not to be had before this time has passed
        #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "0s")]
        delay: Duration,
        /// Where the queue is created now: a task handed out so often is a dead letter; 0: never
        #[arg(long, default_value_t = 0)]
        deliveries: u32,
    },
    /// Take the first value away and print it; exit code 1 where there is none
    Poll {
        /// Name of the queue
        name: String,
    },
    /// Print the first value; exit code 1 where there is none
    Peek {
        /// Name of the queue
        name: String,
        #[command(flatten)]
        fresh: Fresh,
    },
    /// Say whether a task is still there, with exit code 0 or 1
    Contains {
        /// Name of the queue
        name: String,
        /// Its number
        task: u64,
        #[command(flatten)]
        fresh: Fresh,
    },
    /// Take back a task that is not handed out; exit code 1 where it is not there
    Remove {
        /// Name of the queue
        name: String,
        /// Its number
        task: u64,
    },
    /// Take away all that is not handed out; prints how many
    Clear {
        /// Name of the queue
        name: String,
    },
    /// Print how it stands; exit code 1 where there is none
    Status {
        /// Name of the queue
        name: String,
        #[command(flatten)]
        fresh: Fresh,
    },
    /// Print the dead letters
    Dead {
        /// Name of the queue
        name: String,
        #[command(flatten)]
        fresh: Fresh,
    },
    /// Make a dead letter a task again; exit code 1 where it is not there
    Revive {
        /// Name of the queue
        name: String,
        /// Its number
        task: u64,
    },
    /// Print what happens, a line each, until interrupted
    Watch {
        /// Name of the queue
        name: String,
    },
    Work(work::Args),
}

pub(crate) fn run(args: &Args) -> Result<(), Exit> {
    let connect = &args.connect;
    if let Verb::Work(args) = &args.verb {
        return work::run(connect, args);
    }
    let (client, written) = (connect.client()?, Level::default());
    match &args.verb {
        Verb::Offer { name, value, delay, deliveries } => {
            let value = match value {
                Some(value) => value.clone().into_bytes(),
                None => read_input()?,
            };
            let queue = client.queue_with(name, *deliveries).wait()?;
            connect.record(&[("TASK", json!(queue.offer_after(&value, *delay).wait()?))])
        }
        Verb::Poll { name } => first(connect, existing(&client, name, written)?.poll().wait()?),
        Verb::Peek { name, fresh } => {
            first(connect, existing(&client, name, fresh.level())?.peek().wait()?)
        }
        Verb::Contains { name, task, fresh } => {
            let found = existing(&client, name, fresh.level())?.contains(*task).wait()?;
            data::answer(connect, "there", found)
        }
        Verb::Remove { name, task } => {
            let found = existing(&client, name, written)?.remove(*task).wait()?;
            data::answer(connect, "removed", found)
        }
        Verb::Revive { name, task } => {
            let found = existing(&client, name, written)?.revive(*task).wait()?;
            data::answer(connect, "revived", found)
        }
        Verb::Clear { name } => {
            let cleared = existing(&client, name, written)?.clear().wait()?;
            connect.record(&[("CLEARED", json!(cleared))])
        }
        Verb::Status { name, fresh } => {
            let status = existing(&client, name, fresh.level())?.status().wait()?;
            connect.record(&[
                ("READY", json!(status.ready)),
                ("DELAYED", json!(status.delayed)),
                ("LEASED", json!(status.leased)),
                ("DEAD", json!(status.dead)),
                ("WAITING", json!(status.waiting)),
            ])
        }
        Verb::Dead { name, fresh } => dead(connect, &existing(&client, name, fresh.level())?),
        Verb::Watch { name } => watch(connect, &client.queue(name).wait()?),
        Verb::Work(_) => Ok(()),
    }
}

fn existing(client: &Client, name: &str, level: Level) -> Result<Queue<Group>, Exit> {
    let (group, id) = Connect::must_exist(client, name, kind::QUEUE, level)?;
    Ok(Queue::new(group, id).with_level(level))
}

fn read_input() -> Result<Vec<u8>, Exit> {
    let mut value = Vec::new();
    std::io::stdin().lock().read_to_end(&mut value)?;
    Ok(value)
}

fn flag(found: bool) -> Result<(), Exit> {
    if found { Ok(()) } else { Err(Exit::quiet(NEGATIVE)) }
}

fn first(connect: &Connect, value: Option<Vec<u8>>) -> Result<(), Exit> {
    if connect.is_json() {
        output::json(&json!({ "value": value.as_deref().map(output::to_json) }))?;
    } else if let Some(value) = &value {
        output::bytes(value)?;
    }
    flag(value.is_some())
}

fn dead(connect: &Connect, queue: &Queue<Group>) -> Result<(), Exit> {
    let mut table = Table::new(&["TASK", "DELIVERIES", "VALUE"]);
    let mut array = output::Array::begin(connect.output);
    let mut after = 0;
    loop {
        let page = queue.dead_letters(after).wait()?;
        let Some(last) = page.last() else { break };
        after = last.id;
        for letter in &page {
            let (task, deliveries) = (letter.id, letter.deliveries);
            if connect.is_json() {
                let value = output::to_json(&letter.value);
                array.add(&json!({ "task": task, "deliveries": deliveries, "value": value }))?;
            } else {
                let value = output::cell(&letter.value);
                table.row(vec![task.to_string(), deliveries.to_string(), value]);
            }
        }
    }
    if connect.is_json() { array.end() } else { table.print() }
}

fn watch(connect: &Connect, queue: &Queue<Group>) -> Result<(), Exit> {
    let mut watch = queue.watch(None);
    loop {
        let (event, task, value) = match watch.wait_next()? {
            QueueEvent::Offered { id, value } => ("offered", Some(id), value),
            QueueEvent::Removed { id, value } => ("removed", Some(id), value),
            QueueEvent::Died { id, value } => ("died", Some(id), value),
            QueueEvent::Cleared => ("cleared", None, Vec::new()),
            QueueEvent::Deleted => return Err(Exit::new(NEGATIVE, "the queue was deleted")),
            _ => ("lagged", None, Vec::new()),
        };
        if connect.is_json() {
            let value = task.map(|_| output::to_json(&value));
            output::json(&json!({ "event": event, "task": task, "value": value }))?;
        } else {
            let task = task.map(|task| task.to_string()).unwrap_or_default();
            output::line(format!("{event} {task} {}", output::cell(&value)).trim_end())?;
        }
    }
}
