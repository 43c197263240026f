//! `margay counter`: a 64-bit number under a name.

use margay::machine::kind;
use margay::resource::{Counter, Swap};
use serde_json::json;

use crate::connect::Connect;
use crate::data::Fresh;
use crate::exit::{Exit, NEGATIVE};
use crate::output;

/// A 64-bit number under a name
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  margay counter add hits          # 1 more; prints the new number
  margay counter add hits -- -5
  margay counter get hits
  margay counter cas hits 5 0      # exit code 1, and the number, where it is not 5
  margay counter ids orders 100    # numbers that nobody else gets, first and last")]
pub(crate) struct Args {
    #[command(flatten)]
    connect: Connect,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand, Debug)]
enum Verb {
    /// Print the number; exit code 1 where there is none
    Get {
        /// Name of the counter
        name: String,
        #[command(flatten)]
        fresh: Fresh,
    },
    /// Set it, print what it was
    Set {
        /// Name of the counter
        name: String,
        /// What it shall be
        #[arg(allow_negative_numbers = true)]
        value: i64,
    },
    /// Add to it and print it; exit code 1, and nothing changes, where it would overflow
    Add {
        /// Name of the counter
        name: String,
        /// How much; may be negative
        #[arg(default_value_t = 1, allow_negative_numbers = true)]
        delta: i64,
    },
    /// Set it if it is what is expected; exit code 1 and the actual number where not
    Cas {
        /// Name of the counter
        name: String,
        /// What it must be
        #[arg(allow_negative_numbers = true)]
        expected: i64,
        /// What it shall be
        #[arg(allow_negative_numbers = true)]
        value: i64,
    },
    /// Reserve a range of ids that nobody else gets, print its first and last
    Ids {
        /// Name of the counter
        name: String,
        /// How many
        #[arg(default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        count: u32,
    },
}

pub(crate) fn run(args: &Args) -> Result<(), Exit> {
    let client = args.connect.client()?;
    match &args.verb {
        Verb::Get { name, fresh } => {
            let found = Connect::existing(&client, name, kind::COUNTER, fresh.level())?;
            let Some((group, id)) = found else {
                let no = Err(Exit::quiet(NEGATIVE));
                return if args.connect.is_json() {
                    output::json(&json!({ "value": null })).and(no)
                } else {
                    no
                };
            };
            let counter = Counter::new(group, id).with_level(fresh.level());
            print(&args.connect, counter.get().wait()?)
        }
        Verb::Set { name, value } => {
            print(&args.connect, client.counter(name).wait()?.set(*value).wait()?)
        }
        Verb::Add { name, delta } => {
            print(&args.connect, client.counter(name).wait()?.add_and_get(*delta).wait()?)
        }
        Verb::Cas { name, expected, value } => {
            let counter = client.counter(name).wait()?;
            match counter.compare_and_set(*expected, *value).wait()? {
                Swap::Done(_) => print(&args.connect, *value),
                Swap::Conflict(number) => {
                    print(&args.connect, number)?;
                    Err(Exit::quiet(NEGATIVE))
                }
            }
        }
        Verb::Ids { name, count } => {
            let counter = client.counter(name).wait()?;
            let before = counter.get_and_add(i64::from(*count)).wait()?;
            let (first, last) = (before + 1, before + i64::from(*count));
            match args.connect.is_json() {
                true => output::json(&json!({ "first": first, "last": last })),
                false => output::line(&format!("{first} {last}")),
            }
        }
    }
}

fn print(connect: &Connect, number: i64) -> Result<(), Exit> {
    match connect.is_json() {
        true => output::json(&json!({ "value": number })),
        false => output::line(&number.to_string()),
    }
}
