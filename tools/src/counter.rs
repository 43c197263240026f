//! `margay counter`: a 64-bit number under a name.

use margay::machine::kind;
use margay::resource::Counter;
use serde_json::json;

use crate::connect::Connect;
use crate::exit::{Exit, NEGATIVE};
use crate::output;

/// A 64-bit number under a name
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  margay counter add hits          # 1 more; prints the new number
  margay counter add hits -- -5
  margay counter get hits")]
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
    },
    /// Add to it and print it; exit code 1, and nothing changes, where it would overflow
    Add {
        /// Name of the counter
        name: String,
        /// How much; may be negative
        #[arg(default_value_t = 1, allow_negative_numbers = true)]
        delta: i64,
    },
}

pub(crate) fn run(args: &Args) -> Result<(), Exit> {
    let client = args.connect.client()?;
    match &args.verb {
        Verb::Get { name } => {
            let found = args.connect.readable(&client, name, kind::COUNTER)?;
            let (group, id) = found.ok_or(Exit::quiet(NEGATIVE))?;
            let counter = Counter::new(group, id).with_level(args.connect.level.into());
            print(&args.connect, counter.get().wait()?)
        }
        Verb::Add { name, delta } => {
            print(&args.connect, client.counter(name).wait()?.add_and_get(*delta).wait()?)
        }
    }
}

fn print(connect: &Connect, number: i64) -> Result<(), Exit> {
    match connect.is_json() {
        true => output::json(&json!({ "value": number })),
        false => output::line(&number.to_string()),
    }
}
