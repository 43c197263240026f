//! `margay rwlock`: many readers, or one writer.

use margay::machine::kind;
use margay::resource::{Reply, RwLock};
use serde_json::json;

use crate::connect::Connect;
use crate::data::Fresh;
use crate::exit::Exit;
use crate::hold;

/// Run a command while holding a read-write lock
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    connect: Connect,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand, Debug)]
enum Verb {
    /// Acquire it, beside other readers or alone, run a command, release it; exits with the
    /// command's code
    #[command(after_help = "\
The command sees MARGAY_LOCK_NAME and MARGAY_FENCE_TOKEN; if the lock is lost while it runs, it gets
SIGTERM.

Examples:
  margay rwlock run config -- ./serve.sh
  margay rwlock run config --write --wait 1m -- ./migrate.sh")]
    Run {
        /// Name of the lock
        name: String,
        /// Alone: neither readers nor other writers
        #[arg(long)]
        write: bool,
        #[command(flatten)]
        options: hold::Options,
    },
    /// Print who holds it; exit code 1 where there is no such lock
    Status {
        /// Name of the lock
        name: String,
        #[command(flatten)]
        fresh: Fresh,
    },
}

pub(crate) fn run(args: &Args) -> Result<(), Exit> {
    match &args.verb {
        Verb::Run { name, write, options } => {
            let (named, write) = (("the lock", "MARGAY_LOCK_NAME", name.as_str()), *write);
            hold::run(&args.connect, options, named, |client, wait| {
                client.rwlock(name).then(move |lock| match (lock, wait, write) {
                    (Ok(lock), Some(wait), false) => lock.read_within(wait),
                    (Ok(lock), Some(wait), true) => lock.write_within(wait),
                    (Ok(lock), None, false) => lock.read().and_then(|guard| Ok(Some(guard))),
                    (Ok(lock), None, true) => lock.write().and_then(|guard| Ok(Some(guard))),
                    (Err(failure), ..) => Reply::ready(Err(failure)),
                })
            })
        }
        Verb::Status { name, fresh } => {
            let client = args.connect.client()?;
            let level = fresh.level();
            let (group, id) = Connect::must_exist(&client, name, kind::RW_LOCK, level)?;
            let status = RwLock::new(group, id).with_level(level).status().wait()?;
            args.connect.record(&[
                ("WRITER", json!(status.writer.map(|(session, _)| session.0))),
                ("TOKEN", json!(status.writer.map(|(_, token)| token))),
                ("READERS", json!(status.readers)),
                ("WAITING", json!(status.waiting)),
            ])
        }
    }
}
