//! `margay lock`: a command that runs on one machine at a time.

use margay::machine::kind;
use margay::resource::Lock;
use serde_json::json;

use crate::connect::Connect;
use crate::data::Fresh;
use crate::exit::{Exit, NEGATIVE};
use crate::hold;

/// Run a command while holding a lock
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    connect: Connect,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand, Debug)]
enum Verb {
    /// Acquire the lock, run a command, release it; exits with the command's code
    #[command(after_help = "\
The command sees MARGAY_LOCK_NAME and MARGAY_FENCE_TOKEN. The token rises with every grant: give it
to what the command writes to, and let that refuse smaller ones. If the lock is lost while the
command runs, it gets SIGTERM.

Example:
  margay lock run nightly --wait 10s -- ./backup.sh")]
    Run {
        /// Name of the lock
        name: String,
        #[command(flatten)]
        options: hold::Options,
    },
    /// Print who holds it; exit code 1 where nobody does
    Status {
        /// Name of the lock
        name: String,
        #[command(flatten)]
        fresh: Fresh,
    },
}

pub(crate) fn run(args: &Args) -> Result<(), Exit> {
    match &args.verb {
        Verb::Run { name, options } => {
            let named = ("the lock", "MARGAY_LOCK_NAME", name.as_str());
            hold::run(&args.connect, options, named, |client, wait| {
                client.lock(name).then(move |lock| match (lock, wait) {
                    (Ok(lock), Some(wait)) => lock.lock_within(wait),
                    (Ok(lock), None) => lock.lock().and_then(|guard| Ok(Some(guard))),
                    (Err(failure), _) => margay::resource::Reply::ready(Err(failure)),
                })
            })
        }
        Verb::Status { name, fresh } => {
            let client = args.connect.client()?;
            let level = fresh.level();
            let (group, id) = Connect::must_exist(&client, name, kind::LOCK, level)?;
            let holder = Lock::new(group, id).with_level(level).holder().wait()?;
            let holder = holder.ok_or(Exit::quiet(NEGATIVE))?;
            args.connect.record(&[
                ("SESSION", json!(holder.session.0)),
                ("TOKEN", json!(holder.token)),
                ("WAITING", json!(holder.waiting)),
            ])
        }
    }
}
