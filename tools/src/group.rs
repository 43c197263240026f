//! `margay group`: members, and messages to them.

use std::io::Read;
use std::time::Duration;

use margay::client::{Client, Group};
use margay::machine::{Code, Level, kind};
use margay::resource::group::{Departure, MemberEvent, To};
use margay::resource::{Failure, MemberGroup, Membership, Reply};
use serde_json::json;

use crate::connect::Connect;
use crate::data::{self, Fresh};
use crate::exit::{Exit, NEGATIVE, UNKNOWN};
use crate::output::{self, Array, Table};
use crate::{hold, units};

mod serve;

/// Members, and messages to one of them, to any, or to all
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  margay group join workers --id n1 --data 10.0.0.7:9000 -- ./worker.sh
  margay group serve workers -- ./handle.sh     # a message on its input, the answer on its output
  margay group ask workers 'resize 17'
  margay group members workers")]
pub(crate) struct Args {
    #[command(flatten)]
    connect: Connect,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Args, Debug)]
struct Me {
    /// Name of the group
    name: String,
    /// The member's id, which no other has; without, one is drawn
    #[arg(long)]
    id: Option<String>,
    /// What others shall see of it
    #[arg(long, default_value = "")]
    data: String,
    /// Give up with exit code 1 where another still has the id after this time; without, wait
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    wait: Option<Duration>,
    /// It is no member any more when nothing was heard of us for this long; 1s to 300s
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "10s")]
    session_timeout: Duration,
}

#[derive(clap::Args, Debug)]
struct Letter {
    /// Name of the group
    name: String,
    /// The message; without, it is read from standard input
    value: Option<String>,
    /// Only for the member of this id; without, for any
    #[arg(long, value_name = "ID")]
    to: Option<String>,
    /// For all who are there
    #[arg(long, conflicts_with = "to")]
    all: bool,
}

#[derive(clap::Subcommand, Debug)]
enum Verb {
    /// Join and run a command, or stay until interrupted; then leave
    #[command(after_help = "\
Exits with the command's code. It sees MARGAY_GROUP_NAME, MARGAY_MEMBER_ID and MARGAY_FENCE_TOKEN,
which rises with every membership of an id. If the membership is lost while the command runs, it
gets SIGTERM. Without a command the id is printed.")]
    Join {
        #[command(flatten)]
        me: Me,
        /// The command and its arguments; a signal to margay is passed on to it
        #[arg(last = true, value_name = "CMD")]
        command: Vec<String>,
    },
    Serve(serve::Args),
    /// Print who is there, in the order in which they joined
    Members {
        /// Name of the group
        name: String,
        #[command(flatten)]
        fresh: Fresh,
    },
    /// Make a member leave, whosever it is; exit code 1 where it is not there
    Leave {
        /// Name of the group
        name: String,
        /// The member's id
        id: String,
    },
    /// Put a message into an inbox and print its number; exit code 1 where nobody is there
    Send {
        #[command(flatten)]
        letter: Letter,
        /// It is taken back where it was not answered after this time
        #[arg(long, value_name = "TIME", value_parser = units::duration)]
        within: Option<Duration>,
    },
    /// Send a message, wait for the answer and print it
    #[command(after_help = "\
Exit code 1 where nobody is there or the member has failed, 4 where it left or did not answer: it
may have done what was asked. With --all a line is printed for each member, and the exit code is 1
where one of them has failed, left or not answered.")]
    Ask {
        #[command(flatten)]
        letter: Letter,
        /// Wait so long for the answer
        #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "5s")]
        wait: Duration,
    },
    /// Print how it stands; exit code 1 where there is none
    Status {
        /// Name of the group
        name: String,
        #[command(flatten)]
        fresh: Fresh,
    },
    /// Print who joins, leaves and changes, a line each, until interrupted
    Watch {
        /// Name of the group
        name: String,
        /// End after so many lines
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        count: Option<u64>,
    },
}

pub(crate) fn run(args: &Args) -> Result<(), Exit> {
    let connect = &args.connect;
    match &args.verb {
        Verb::Join { me, command } => join(connect, me, command),
        Verb::Serve(args) => serve::run(connect, args),
        Verb::Members { name, fresh } => {
            members(connect, &existing(&connect.client()?, name, fresh.level())?)
        }
        Verb::Leave { name, id } => {
            let group = existing(&connect.client()?, name, Level::default())?;
            data::answer(connect, "removed", group.remove(id).wait()?)
        }
        Verb::Send { letter, within } => send(connect, letter, *within),
        Verb::Ask { letter, wait } => ask(connect, letter, *wait),
        Verb::Status { name, fresh } => {
            let status = existing(&connect.client()?, name, fresh.level())?.status().wait()?;
            connect.record(&[
                ("MEMBERS", json!(status.members)),
                ("MESSAGES", json!(status.messages)),
                ("HOMELESS", json!(status.homeless)),
                ("BYTES", json!(status.bytes)),
                ("WAITING", json!(status.waiting)),
                ("ASKED", json!(status.asked)),
            ])
        }
        Verb::Watch { name, count } => watch(connect, name, *count),
    }
}

fn existing(client: &Client, name: &str, level: Level) -> Result<MemberGroup<Group>, Exit> {
    let (group, id) = Connect::must_exist(client, name, kind::GROUP, level)?;
    Ok(MemberGroup::new(group, id).with_level(level))
}

fn join(connect: &Connect, me: &Me, command: &[String]) -> Result<(), Exit> {
    let options = hold::Options::new(me.wait, me.session_timeout, command.to_vec());
    let named = ("the membership in", "MARGAY_GROUP_NAME", me.name.as_str());
    hold::run(connect, &options, named, |client, _| ask_to_join(client, me))
}

/// `None` where another still has the id.
fn ask_to_join(client: &Client, me: &Me) -> Reply<Option<Membership<Group>>> {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 3_600);
    let (id, data) = (me.id.clone(), me.data.clone().into_bytes());
    let wait = me.wait.unwrap_or(YEAR);
    let joined = client.member_group(&me.name).then(move |group| match (group, id) {
        (Ok(group), Some(id)) => group.join_within(&id, &data, wait),
        (Ok(group), None) => group.join(&data),
        (Err(failure), _) => Reply::ready(Err(failure)),
    });
    joined.map(|joined| match joined {
        Ok(member) => Ok(Some(member)),
        Err(failure) if failure.code == Code::MEMBER_EXISTS => Ok(None),
        Err(failure) => Err(failure),
    })
}

fn members(connect: &Connect, group: &MemberGroup<Group>) -> Result<(), Exit> {
    let mut array = Array::begin(connect.output);
    let mut table = Table::new(&["ID", "NUMBER", "SESSION", "MESSAGES", "DATA"]);
    let mut next = Some(0);
    while let Some(after) = next {
        let page = group.members(after, 0).wait()?;
        next = page.next;
        for member in page.members {
            array.add(&json!({
                "id": member.id,
                "number": member.number,
                "session": member.session.0,
                "messages": member.messages,
                "data": output::to_json(&member.data),
            }))?;
            if !connect.is_json() {
                table.row(vec![
                    output::cell(member.id.as_bytes()),
                    member.number.to_string(),
                    member.session.0.to_string(),
                    member.messages.to_string(),
                    output::cell(&member.data),
                ]);
            }
        }
    }
    if connect.is_json() { array.end() } else { table.print() }
}

/// The group and the message.
fn open(connect: &Connect, letter: &Letter) -> Result<(MemberGroup<Group>, Vec<u8>), Exit> {
    let group = existing(&connect.client()?, &letter.name, Level::default())?;
    let value = match &letter.value {
        Some(value) => value.clone().into_bytes(),
        None => {
            let mut value = Vec::new();
            std::io::stdin().lock().read_to_end(&mut value)?;
            value
        }
    };
    Ok((group, value))
}

fn recipient(letter: &Letter) -> To<'_> {
    letter.to.as_deref().map_or(To::Any, To::Member)
}

fn send(connect: &Connect, letter: &Letter, within: Option<Duration>) -> Result<(), Exit> {
    let (group, value) = open(connect, letter)?;
    let sent = match (letter.all, within) {
        (true, None) => group.send_all(&value),
        (true, Some(_)) => return Err(Exit::usage("--within is not for --all")),
        (false, None) => group.send(recipient(letter), &value),
        (false, Some(within)) => group.send_within(recipient(letter), &value, within),
    };
    connect.record(&[("MESSAGE", json!(sent.wait()?))])
}

fn ask(connect: &Connect, letter: &Letter, wait: Duration) -> Result<(), Exit> {
    let (group, value) = open(connect, letter)?;
    if letter.all {
        return ask_all(connect, &group, &value, wait);
    }
    match group.ask(recipient(letter), &value, wait).wait() {
        Ok(answer) if connect.is_json() => {
            output::json(&json!({ "answer": output::to_json(&answer) }))
        }
        Ok(answer) => output::bytes(&answer),
        Err(failure) if failure.code == Code::MESSAGE_FAILED => {
            Err(Exit::new(NEGATIVE, failure.to_string()))
        }
        Err(failure) if failure.code == Code::TIMEOUT => {
            let hint = "it may have been done: look before asking again";
            Err(Exit::new(UNKNOWN, "no answer in time").hint(hint))
        }
        Err(failure) => Err(failure.into()),
    }
}

fn ask_all(
    connect: &Connect,
    group: &MemberGroup<Group>,
    value: &[u8],
    wait: Duration,
) -> Result<(), Exit> {
    let mut array = Array::begin(connect.output);
    let mut table = Table::new(&["ID", "OUTCOME", "ANSWER"]);
    let mut good = true;
    for one in group.ask_all(value, wait).wait()? {
        good &= one.answer.is_ok();
        let (outcome, text) = match &one.answer {
            Ok(answer) => ("answered", answer.clone()),
            Err(failure) => (outcome(failure), failure.text.clone().into_bytes()),
        };
        let answer = output::to_json(&text);
        array.add(&json!({ "id": one.id, "outcome": outcome, "answer": answer }))?;
        let id = output::cell(one.id.as_bytes());
        table.row(vec![id, outcome.to_owned(), output::cell(&text)]);
    }
    if connect.is_json() {
        array.end()?
    } else {
        table.print()?
    }
    if good { Ok(()) } else { Err(Exit::quiet(NEGATIVE)) }
}

fn outcome(failure: &Failure) -> &'static str {
    match failure.code {
        Code::MESSAGE_FAILED => "failed",
        Code::NO_SUCH_MEMBER => "left",
        _ => "silent",
    }
}

fn watch(connect: &Connect, name: &str, count: Option<u64>) -> Result<(), Exit> {
    let group = connect.client()?.member_group(name).wait()?;
    let mut watch = group.watch(None);
    for _ in 0..count.unwrap_or(u64::MAX) {
        let (event, id, data) = match watch.wait_next()? {
            MemberEvent::Joined { id, data } => ("joined", id, data),
            MemberEvent::Updated { id, data, .. } => ("updated", id, data),
            MemberEvent::Left { id, data, why } => (
                match why {
                    Departure::Left => "left",
                    Departure::Removed => "removed",
                    Departure::SessionEnded => "session-ended",
                },
                id,
                data,
            ),
            MemberEvent::Deleted => return Err(Exit::new(NEGATIVE, "the group was deleted")),
            _ => ("lagged", String::new(), Vec::new()),
        };
        if connect.is_json() {
            let data = output::to_json(&data);
            output::json(&json!({ "event": event, "id": id, "data": data }))?;
        } else {
            let (id, data) = (output::cell(id.as_bytes()), output::cell(&data));
            output::line(format!("{event} {id} {data}").trim_end())?;
        }
    }
    Ok(())
}
