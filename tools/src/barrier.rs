//! `margay barrier`: wait for each other.

use std::time::Duration;

use margay::machine::{Level, kind};
use margay::resource::Barrier;
use serde_json::json;

use crate::connect::Connect;
use crate::data::Fresh;
use crate::exit::{Exit, NEGATIVE};
use crate::{hold, units};

/// Wait until all are here
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    connect: Connect,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand, Debug)]
enum Verb {
    /// Arrive and wait for the others; prints the round, which all who pass together share
    #[command(after_help = "\
Example:
  margay barrier wait start --parties 3 && ./begin.sh    # on three machines")]
    Wait {
        /// Name of the barrier
        name: String,
        /// How many it waits for, where it is created now
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=5_000))]
        parties: u32,
        /// Give up with exit code 1 after this time
        #[arg(long, value_name = "TIME", value_parser = units::duration)]
        wait: Option<Duration>,
    },
    /// Send away all who wait
    Reset {
        /// Name of the barrier
        name: String,
    },
    /// Print how it stands; exit code 1 where there is none
    Status {
        /// Name of the barrier
        name: String,
        #[command(flatten)]
        fresh: Fresh,
    },
}

pub(crate) fn run(args: &Args) -> Result<(), Exit> {
    let connect = &args.connect;
    if let Verb::Wait { name, parties, wait } = &args.verb {
        let round = hold::wait(connect, |client| {
            let barrier = client.barrier(name, *parties).wait()?;
            Ok(match wait {
                Some(wait) => barrier.arrive_within(*wait),
                None => barrier.arrive().map(|round| round.map(Some)),
            })
        })?;
        return connect.record(&[("ROUND", json!(round.ok_or(Exit::quiet(NEGATIVE))?))]);
    }
    let client = connect.client()?;
    let existing = |name: &str, level| -> Result<_, Exit> {
        let (group, id) = Connect::must_exist(&client, name, kind::BARRIER, level)?;
        Ok(Barrier::new(group, id).with_level(level))
    };
    match &args.verb {
        Verb::Wait { .. } => Ok(()),
        Verb::Reset { name } => Ok(existing(name, Level::default())?.reset().wait()?),
        Verb::Status { name, fresh } => {
            let status = existing(name, fresh.level())?.status().wait()?;
            args.connect
                .record(&[("PARTIES", json!(status.parties)), ("WAITING", json!(status.waiting))])
        }
    }
}
