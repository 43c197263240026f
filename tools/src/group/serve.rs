//! `margay group serve`: joins, and runs a command for each message.

use std::io::{Read, Write};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use margay::client::Group;
use margay::machine::VALUE_MAX;
use margay::resource::Failure;
use margay::resource::group::{Inbox, Membership, Message};
use serde_json::json;

use super::{Me, ask_to_join};
use crate::connect::Connect;
use crate::exit::{Exit, NEGATIVE};
use crate::hold::Stopping;
use crate::{hold, output, sys};

/// Join, and run a command for each message, with the message on its standard input
#[derive(clap::Args, Debug)]
#[command(after_help = "\
What the command prints is the answer, without the line end behind it; any other exit code than 0
tells who asks that it has failed. A message whose command was not over when this member left or
died goes to another, if it was for any: it may be done twice. The command sees MARGAY_GROUP_NAME,
MARGAY_MEMBER_ID, MARGAY_MESSAGE, the message's number, and MARGAY_FENCE_TOKEN.

Told to stop, with Ctrl-C, SIGTERM or SIGHUP, it lets the command finish, answers, leaves and ends
with 0. Told again it stops the command with SIGTERM, so that the message has failed, and ends with
128 and the signal's number, 130 for Ctrl-C. A third time kills the command.")]
pub(super) struct Args {
    #[command(flatten)]
    me: Me,
    /// Leave after so many messages; without, go on until interrupted
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

enum Event {
    Signal(i32),
    Joined(Result<Option<Membership<Group>>, Failure>),
    Came(Box<Came>),
    Ended(ExitStatus, Vec<u8>),
}

/// The next message, or why there is none, and where those after it come from.
struct Came {
    inbox: Inbox<Group>,
    message: Result<Message<Group>, Failure>,
}

/// Ends well where it was told to stop, or has done as much as it was to do.
pub(super) fn run(connect: &Connect, args: &Args) -> Result<(), Exit> {
    let (sender, events) = channel();
    sys::divert_signals(sender.clone(), |signal| Event::Signal(signal.number))?;
    let client = connect.client_with(args.me.session_timeout)?;
    let (joining, joined) = (ask_to_join(&client, &args.me), sender.clone());
    // On a thread of its own, so that Ctrl-C ends the wait. The main thread may have left.
    thread::spawn(move || joined.send(Event::Joined(joining.wait())));
    let member = match events.recv() {
        Ok(Event::Joined(Ok(Some(member)))) => member,
        Ok(Event::Joined(Ok(None))) => {
            return Err(Exit::new(NEGATIVE, "another member still has the id"));
        }
        Ok(Event::Joined(Err(failure))) => return Err(failure.into()),
        _ => {
            let _ = client.close();
            return Ok(());
        }
    };
    let served = serve(connect, args, &member, &sender, &events);
    // It leaves with the session anyway; whether this answer comes does not matter to the caller.
    let _ = member.leave().wait();
    let _ = client.close();
    served
}

fn serve(
    connect: &Connect,
    args: &Args,
    member: &Membership<Group>,
    sender: &Sender<Event>,
    events: &Receiver<Event>,
) -> Result<(), Exit> {
    next(member.messages(), sender);
    for _ in 0..args.count.unwrap_or(u64::MAX) {
        let Came { inbox, message } = match events.recv() {
            Ok(Event::Came(came)) => *came,
            _ => return Ok(()),
        };
        if work(connect, args, member, message?, sender, events)? {
            return Ok(());
        }
        next(inbox, sender);
    }
    Ok(())
}

/// Waits for the next message on a thread of its own, so that Ctrl-C ends the wait.
fn next(mut inbox: Inbox<Group>, sender: &Sender<Event>) {
    let sender = sender.clone();
    thread::spawn(move || {
        let message = inbox.wait_next();
        // The main thread may have left.
        let _ = sender.send(Event::Came(Box::new(Came { inbox, message })));
    });
}

/// Runs the command for a message and answers. Returns whether it is time to stop; fails where
/// that could not wait for the command.
fn work(
    connect: &Connect,
    args: &Args,
    member: &Membership<Group>,
    message: Message<Group>,
    sender: &Sender<Event>,
    events: &Receiver<Event>,
) -> Result<bool, Exit> {
    let mut process = Command::new(&args.command[0]);
    process.args(&args.command[1..]).stdin(Stdio::piped()).stdout(Stdio::piped());
    process.env("MARGAY_GROUP_NAME", &args.me.name).env("MARGAY_MEMBER_ID", member.id());
    process.env("MARGAY_MESSAGE", message.number().to_string());
    process.env("MARGAY_FENCE_TOKEN", member.number().to_string());
    let mut child = hold::start_apart(process)?;
    let (pid, value, sender) = (child.id(), message.value().to_vec(), sender.clone());
    let (input, output) = (child.stdin.take(), child.stdout.take());
    // A command that does not read its message may be right.
    thread::spawn(move || input.map(|mut input| input.write_all(&value)));
    thread::spawn(move || {
        let mut said = Vec::new();
        let _ = output.map(|mut output| output.read_to_end(&mut said));
        if let Ok(status) = child.wait() {
            let _ = sender.send(Event::Ended(status, said));
        }
    });
    let mut stopping = Stopping::new(pid, format!("message {}", message.number()));
    let (status, mut answer) = loop {
        match events.recv() {
            Ok(Event::Ended(status, said)) => break (status, said),
            Ok(Event::Signal(signal)) => stopping.on_signal(signal),
            Ok(_) => {}
            Err(_) => return Err(Exit::new(NEGATIVE, "the command's end was not seen")),
        }
    };
    answer.pop_if(|last| *last == b'\n');
    finish(connect, message, status, &answer)?;
    stopping.ended()
}

fn finish(
    connect: &Connect,
    message: Message<Group>,
    status: ExitStatus,
    answer: &[u8],
) -> Result<(), Exit> {
    let (number, exit) = (message.number(), hold::code_of(status));
    let answered = match exit {
        0 if answer.len() <= VALUE_MAX => message.reply(answer).wait(),
        0 => message.fail("the answer is larger than 1 MiB").wait(),
        _ => message.fail(&format!("exit code {exit}")).wait(),
    };
    let outcome = match (&answered, exit) {
        (Ok(()), 0) => "answered",
        (Ok(()), _) => "failed",
        (Err(_), _) => "not wanted any more",
    };
    if connect.is_json() {
        return output::json(&json!({ "message": number, "exit": exit, "outcome": outcome }));
    }
    if outcome != "answered" {
        output::aside(&format!("message {number}: {outcome}, exit code {exit}\n"));
    }
    Ok(())
}
