//! `margay queue work`: takes tasks and runs a command for each.

use std::io::Write;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use margay::client::Group;
use margay::machine::Code;
use margay::resource::{Failure, Queue, Task};
use serde_json::json;

use crate::connect::Connect;
use crate::exit::{Exit, NEGATIVE};
use crate::hold::Stopping;
use crate::{hold, output, sys, units};

/// Take tasks, one after the other, and run a command for each, with the task on its standard input
#[derive(clap::Args, Debug)]
#[command(after_help = "\
A command that ends with 0 has done its task; any other end gives the task back. While the command
runs the lease is extended; when this worker dies, or is cut off for longer than the lease, others
get the task. So a task may be done twice: MARGAY_TASK_DELIVERIES says how often it was handed out,
and MARGAY_FENCE_TOKEN rises each time. The command also sees MARGAY_QUEUE_NAME and MARGAY_TASK, the
task's number.

Told to stop, with Ctrl-C, SIGTERM or SIGHUP, it lets the command finish, takes no more tasks and
ends with 0. Told again it stops the command with SIGTERM, which gives the task back, and ends with
128 and the signal's number, 130 for Ctrl-C. A third time kills the command.")]
pub(super) struct Args {
    /// Name of the queue
    name: String,
    /// A task that nothing was heard of for this long is given to others
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "30s")]
    lease: Duration,
    /// A task whose command has failed is not to be had before this time
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "1s")]
    retry_after: Duration,
    /// Where the queue is created now: a task handed out so often is a dead letter; 0: never
    #[arg(long, default_value_t = 0)]
    deliveries: u32,
    /// End when nothing was to be had for this long; without, go on until interrupted
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    idle: Option<Duration>,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

enum Event {
    Signal(i32),
    Took(Result<Vec<Task<Group>>, Failure>),
    Ended(ExitStatus),
}

/// Ends well where it was told to stop, or nothing is left to do.
pub(super) fn run(connect: &Connect, args: &Args) -> Result<(), Exit> {
    let (sender, events) = channel();
    sys::divert_signals(sender.clone(), |signal| Event::Signal(signal.number))?;
    let client = connect.client()?;
    let queue = client.queue_with(&args.name, args.deliveries).wait()?;
    loop {
        ask(&queue, args, &sender);
        let tasks = match events.recv() {
            Ok(Event::Took(tasks)) => tasks?,
            _ => break,
        };
        if tasks.is_empty() && args.idle.is_some() {
            break;
        }
        for task in tasks {
            match work(connect, args, task, &sender, &events) {
                Ok(false) => {}
                ended => {
                    let _ = client.close();
                    return ended.map(|_| ());
                }
            }
        }
    }
    // What was asked for and not got is withdrawn with the session.
    let _ = client.close();
    Ok(())
}

/// Waits for a task on a thread of its own, so that Ctrl-C ends the wait.
fn ask(queue: &Queue<Group>, args: &Args, sender: &Sender<Event>) {
    let (queue, sender) = (queue.clone(), sender.clone());
    let (lease, idle) = (args.lease, args.idle);
    thread::spawn(move || {
        let took = match idle {
            Some(idle) => queue.take_within(1, lease, idle).wait(),
            None => queue.take(1, lease).wait(),
        };
        // The main thread may have left.
        let _ = sender.send(Event::Took(took));
    });
}

/// Runs the command for a task. Returns whether it is time to stop; fails where that could not
/// wait for the command.
fn work(
    connect: &Connect,
    args: &Args,
    task: Task<Group>,
    sender: &Sender<Event>,
    events: &Receiver<Event>,
) -> Result<bool, Exit> {
    let mut process = Command::new(&args.command[0]);
    process.args(&args.command[1..]).stdin(Stdio::piped());
    process.env("MARGAY_QUEUE_NAME", &args.name).env("MARGAY_TASK", task.id().to_string());
    process.env("MARGAY_TASK_DELIVERIES", task.deliveries().to_string());
    process.env("MARGAY_FENCE_TOKEN", task.token().to_string());
    let mut child = hold::start_apart(process)?;
    let pid = child.id();
    let (input, value, sender) = (child.stdin.take(), task.value().to_vec(), sender.clone());
    thread::spawn(move || {
        // A command that does not read its task may be right.
        let _ = input.map(|mut input| input.write_all(&value));
        if let Ok(status) = child.wait() {
            let _ = sender.send(Event::Ended(status));
        }
    });
    let (mut stopping, mut lost) = (Stopping::new(pid, format!("task {}", task.id())), false);
    // Extended so long ago, and to be extended after so long.
    let (mut extended, mut pause) = (Instant::now(), args.lease / 3);
    let status = loop {
        match events.recv_timeout(pause) {
            Ok(Event::Ended(status)) => break status,
            Ok(Event::Signal(signal)) => stopping.on_signal(signal),
            Ok(Event::Took(_)) => {}
            Err(RecvTimeoutError::Timeout) if !lost => {
                let asked = Instant::now();
                match task.extend(args.lease).wait() {
                    Ok(()) => (extended, pause) = (asked, args.lease / 3),
                    // Nobody was there to be asked: it is this worker's for the rest of the lease.
                    Err(failure) if is_passing(&failure) && extended.elapsed() < args.lease => {
                        pause = args.lease / 12;
                    }
                    Err(failure) => {
                        lost = true;
                        sys::signal_group(pid, libc::SIGTERM);
                        output::aside(&format!("error: task {} was lost: {failure}\n", task.id()));
                    }
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Exit::new(NEGATIVE, "the command's end was not seen"));
            }
        }
    };
    finish(connect, args, task, status)?;
    stopping.ended()
}

/// Whether a failure says nothing of the task.
fn is_passing(failure: &Failure) -> bool {
    matches!(
        failure.code,
        Code::TIMEOUT
            | Code::NO_LEADER
            | Code::NOT_READY
            | Code::LEADER_CHANGED
            | Code::OVERLOADED
            | Code::DISK_FULL
    )
}

fn finish(
    connect: &Connect,
    args: &Args,
    task: Task<Group>,
    status: ExitStatus,
) -> Result<(), Exit> {
    let (id, deliveries, exit) = (task.id(), task.deliveries(), hold::code_of(status));
    let ended = match exit {
        0 => task.ack().wait(),
        _ => task.nack(args.retry_after).wait(),
    };
    let outcome = match (&ended, exit) {
        (Ok(()), 0) => "done",
        (Ok(()), _) => "given back",
        (Err(_), _) => "lost",
    };
    if connect.is_json() {
        let line = json!({
            "task": id, "deliveries": deliveries, "exit": exit, "outcome": outcome
        });
        output::json(&line)?;
    } else if outcome != "done" {
        output::aside(&format!("task {id}: {outcome}, exit code {exit}\n"));
    }
    Ok(())
}
