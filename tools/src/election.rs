//! `margay election`: one leader at a time, and the next one when it is gone.

use margay::client::{Client, Group};
use margay::machine::{Level, kind};
use margay::resource::election::ElectionEvent;
use margay::resource::{Election, Reply};
use margay_log::id::Index;
use serde_json::json;

use crate::connect::Connect;
use crate::data::Fresh;
use crate::exit::{Exit, NEGATIVE};
use crate::hold;
use crate::output::{self, Table};

/// Lead, or see who does
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    connect: Connect,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand, Debug)]
enum Verb {
    /// Enter, wait to lead, run a command, resign; exits with the command's code
    #[command(after_help = "\
The command sees MARGAY_ELECTION_NAME and MARGAY_FENCE_TOKEN, which is the term: it rises with every
leader. If the lead is lost while the command runs, it gets SIGTERM.

Example:
  margay election run scheduler --data \"$(hostname)\" -- ./scheduler.sh")]
    Run {
        /// Name of the election
        name: String,
        /// What others shall see of this candidate
        #[arg(long, default_value = "")]
        data: String,
        #[command(flatten)]
        options: hold::Options,
    },
    /// Print who leads; exit code 1 where nobody does
    Leader {
        /// Name of the election
        name: String,
        #[command(flatten)]
        fresh: Fresh,
    },
    /// Print who waits to lead, in order
    Candidates {
        /// Name of the election
        name: String,
        #[command(flatten)]
        fresh: Fresh,
    },
    /// Print every new leader, a line each, until interrupted
    Observe {
        /// Name of the election
        name: String,
    },
    /// Make a candidate the leader, at once; who leads now is out
    Anoint {
        /// Name of the election
        name: String,
        /// The candidate's number
        candidate: u64,
    },
    /// Put a candidate in front of the others
    Promote {
        /// Name of the election
        name: String,
        /// The candidate's number
        candidate: u64,
    },
    /// Take a candidate out, also the one that leads
    Evict {
        /// Name of the election
        name: String,
        /// The candidate's number
        candidate: u64,
    },
}

pub(crate) fn run(args: &Args) -> Result<(), Exit> {
    if let Verb::Run { name, data, options } = &args.verb {
        let named = ("the election", "MARGAY_ELECTION_NAME", name.as_str());
        let data = data.clone().into_bytes();
        return hold::run(&args.connect, options, named, |client, wait| {
            client.election(name).then(move |election| match (election, wait) {
                (Ok(election), Some(wait)) => election.campaign_within(&data, wait),
                (Ok(election), None) => election.campaign(&data).and_then(|lead| Ok(Some(lead))),
                (Err(failure), _) => Reply::ready(Err(failure)),
            })
        });
    }
    let (client, written) = (args.connect.client()?, Level::default());
    match &args.verb {
        Verb::Run { .. } => Ok(()),
        Verb::Leader { name, fresh } => {
            leader(&args.connect, &existing(&client, name, fresh.level())?)
        }
        Verb::Candidates { name, fresh } => {
            candidates(&args.connect, &existing(&client, name, fresh.level())?)
        }
        Verb::Observe { name } => observe(&args.connect, &client.election(name).wait()?),
        Verb::Anoint { name, candidate } => {
            Ok(existing(&client, name, written)?.anoint(*candidate).wait()?)
        }
        Verb::Promote { name, candidate } => {
            Ok(existing(&client, name, written)?.promote(*candidate).wait()?)
        }
        Verb::Evict { name, candidate } => {
            Ok(existing(&client, name, written)?.evict(*candidate).wait()?)
        }
    }
}

fn existing(client: &Client, name: &str, level: Level) -> Result<Election<Group>, Exit> {
    let (group, id) = Connect::must_exist(client, name, kind::ELECTION, level)?;
    Ok(Election::new(group, id).with_level(level))
}

fn leader(connect: &Connect, election: &Election<Group>) -> Result<(), Exit> {
    let leader = election.leader().wait()?.ok_or(Exit::quiet(NEGATIVE))?;
    let data = match connect.is_json() {
        true => output::to_json(&leader.data),
        false => json!(output::cell(&leader.data)),
    };
    connect.record(&[
        ("TERM", json!(leader.term)),
        ("CANDIDATE", json!(leader.candidate)),
        ("SESSION", json!(leader.session.0)),
        ("DATA", data),
        ("WAITING", json!(leader.waiting)),
    ])
}

fn candidates(connect: &Connect, election: &Election<Group>) -> Result<(), Exit> {
    let mut table = Table::new(&["CANDIDATE", "SESSION", "DATA"]);
    let mut array = output::Array::begin(connect.output);
    for known in election.candidates().wait()? {
        let (candidate, session) = (known.candidate, known.session.0);
        if connect.is_json() {
            let data = output::to_json(&known.data);
            array.add(&json!({ "candidate": candidate, "session": session, "data": data }))?;
        } else {
            let data = output::cell(&known.data);
            table.row(vec![candidate.to_string(), session.to_string(), data]);
        }
    }
    if connect.is_json() { array.end() } else { table.print() }
}

fn observe(connect: &Connect, election: &Election<Group>) -> Result<(), Exit> {
    let print = |term: Option<u64>, candidate: Option<u64>, data: &[u8]| {
        if connect.is_json() {
            let data = term.map(|_| output::to_json(data));
            return output::json(&json!({ "term": term, "candidate": candidate, "data": data }));
        }
        match (term, candidate) {
            (Some(term), Some(candidate)) => {
                output::line(&format!("term {term}: {candidate} {}", output::cell(data)))
            }
            _ => output::line("vacant"),
        }
    };
    // Watched from before it is asked: what happens in between is not missed.
    let mut watch = election.watch(None);
    if let Some(leader) = election.leader().wait()? {
        print(Some(leader.term), Some(leader.candidate), &leader.data)?;
        // And not told twice: a term is the index at which it began.
        watch = election.watch(Some((Index(leader.term), u32::MAX)));
    }
    loop {
        match watch.wait_next()? {
            ElectionEvent::Elected { term, candidate, data } => {
                print(Some(term), Some(candidate), &data)?;
            }
            ElectionEvent::Vacant => print(None, None, &[])?,
            ElectionEvent::Deleted => return Err(Exit::new(NEGATIVE, "the election was deleted")),
            _ => output::aside("warning: some leaders were missed\n"),
        }
    }
}
