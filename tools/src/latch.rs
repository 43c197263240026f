//! `margay latch`: wait until something was counted down.

use std::time::Duration;

use margay::machine::kind;
use margay::resource::Latch;
use serde_json::json;

use crate::connect::Connect;
use crate::data::Fresh;
use crate::exit::{Exit, NEGATIVE};
use crate::{hold, units};

/// Wait until a count has come to zero
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    connect: Connect,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand, Debug)]
enum Verb {
    /// Count down; prints what is left
    CountDown {
        /// Name of the latch
        name: String,
        /// By how much
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        by: u32,
        /// What it counts down from, where it is created now
        #[arg(long, default_value_t = 1)]
        count: u32,
    },
    /// Wait until it is open
    #[command(after_help = "\
Examples:
  margay latch wait ready --count 3 --wait 1m && ./begin.sh
  margay latch count-down ready --count 3                      # three times, anywhere")]
    Wait {
        /// Name of the latch
        name: String,
        /// What it counts down from, where it is created now
        #[arg(long, default_value_t = 1)]
        count: u32,
        /// Give up with exit code 1 after this time
        #[arg(long, value_name = "TIME", value_parser = units::duration)]
        wait: Option<Duration>,
    },
    /// Print how it stands; exit code 1 where there is none
    Status {
        /// Name of the latch
        name: String,
        #[command(flatten)]
        fresh: Fresh,
    },
}

pub(crate) fn run(args: &Args) -> Result<(), Exit> {
    match &args.verb {
        Verb::CountDown { name, by, count } => {
            let client = args.connect.client()?;
            let left = client.latch(name, *count).wait()?.count_down_by(*by).wait()?;
            args.connect.record(&[("LEFT", json!(left))])
        }
        Verb::Wait { name, count, wait } => {
            let is_open = hold::wait(&args.connect, |client| {
                let latch = client.latch(name, *count).wait()?;
                Ok(match wait {
                    Some(wait) => latch.opened_within(*wait),
                    None => latch.opened().map(|opened| opened.map(|()| true)),
                })
            })?;
            if is_open { Ok(()) } else { Err(Exit::quiet(NEGATIVE)) }
        }
        Verb::Status { name, fresh } => {
            let (client, level) = (args.connect.client()?, fresh.level());
            let (group, id) = Connect::must_exist(&client, name, kind::LATCH, level)?;
            let status = Latch::new(group, id).with_level(level).status().wait()?;
            args.connect.record(&[("LEFT", json!(status.left)), ("WAITING", json!(status.waiting))])
        }
    }
}
