//! `margay semaphore`: at most so many at a time.

use margay::machine::kind;
use margay::resource::{Reply, Semaphore};
use serde_json::json;

use crate::connect::Connect;
use crate::data::Fresh;
use crate::exit::Exit;
use crate::hold;

/// Run a command while holding permits of a semaphore
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    connect: Connect,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand, Debug)]
enum Verb {
    /// Take permits, run a command, give them back; exits with the command's code
    #[command(after_help = "\
The command sees MARGAY_SEMAPHORE_NAME and MARGAY_FENCE_TOKEN; if the permits are lost while it
runs, it gets SIGTERM.

Example:
  margay semaphore run downloads --permits 4 -- ./fetch.sh    # four at a time, on any machine")]
    Run {
        /// Name of the semaphore
        name: String,
        /// How many permits to take
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        take: u32,
        /// How many it has, where it is created now
        #[arg(long, default_value_t = 1)]
        permits: u32,
        #[command(flatten)]
        options: hold::Options,
    },
    /// Change how many permits there are; creates it where there is none. Prints how many there
    /// were
    Resize {
        /// Name of the semaphore
        name: String,
        /// How many there shall be
        permits: u32,
    },
    /// Print how it stands; exit code 1 where there is none
    Status {
        /// Name of the semaphore
        name: String,
        #[command(flatten)]
        fresh: Fresh,
    },
}

pub(crate) fn run(args: &Args) -> Result<(), Exit> {
    match &args.verb {
        Verb::Run { name, take, permits, options } => {
            let named = ("the semaphore", "MARGAY_SEMAPHORE_NAME", name.as_str());
            let (take, permits) = (*take, *permits);
            hold::run(&args.connect, options, named, |client, wait| {
                client.semaphore(name, permits).then(move |semaphore| match (semaphore, wait) {
                    (Ok(semaphore), Some(wait)) => semaphore.acquire_within(take, wait),
                    (Ok(semaphore), None) => {
                        semaphore.acquire(take).and_then(|held| Ok(Some(held)))
                    }
                    (Err(failure), _) => Reply::ready(Err(failure)),
                })
            })
        }
        Verb::Resize { name, permits } => {
            let client = args.connect.client()?;
            let before = client.semaphore(name, *permits).wait()?.resize(*permits).wait()?;
            args.connect.record(&[("PERMITS", json!(permits)), ("BEFORE", json!(before))])
        }
        Verb::Status { name, fresh } => {
            let client = args.connect.client()?;
            let level = fresh.level();
            let (group, id) = Connect::must_exist(&client, name, kind::SEMAPHORE, level)?;
            let status = Semaphore::new(group, id).with_level(level).status().wait()?;
            args.connect.record(&[
                ("PERMITS", json!(status.permits)),
                ("AVAILABLE", json!(status.available)),
                ("HOLDERS", json!(status.holders)),
                ("WAITING", json!(status.waiting)),
            ])
        }
    }
}
