//! `margay lock run`: a command that runs on one machine at a time.

use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use margay::client::session::SessionState;
use margay::client::{Client, Group};
use margay::resource::LockGuard;

use crate::connect::Connect;
use crate::exit::{Exit, NEGATIVE, USAGE};
use crate::{output, sys, units};

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
        /// Give up with exit code 1 where it is not got within this time; without, wait
        #[arg(long, value_name = "TIME", value_parser = units::duration)]
        wait: Option<Duration>,
        /// The lock is released when nothing was heard of us for this long; 1s to 300s
        #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "10s")]
        session_timeout: Duration,
        /// The command and its arguments
        #[arg(last = true, required = true, value_name = "CMD")]
        command: Vec<String>,
    },
}

/// What can happen while the lock is waited for or held.
enum Event {
    Signal(i32),
    Acquired(Result<Option<LockGuard<Group>>, Exit>),
    Ended(ExitStatus),
    Lost,
}

pub(crate) fn run(args: &Args) -> Result<(), Exit> {
    let Verb::Run { name, wait, session_timeout, command } = &args.verb;
    let (sender, events) = channel();
    sys::divert_signals(sender.clone(), Event::Signal)?;
    let client = args.connect.client_with(*session_timeout)?;
    let guard = acquire(&client, name, *wait, &sender, &events)?;
    let token = guard.token();
    watch_session(&client, &sender)?;
    let child = start(command, name, token)?;
    let status = supervise(child, name, sender, &events)?;
    // Released with the session anyway; whether this answer comes does not matter to the caller.
    let _ = guard.unlock().wait();
    let _ = client.close();
    match status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)) {
        0 => Ok(()),
        code => Err(Exit::quiet(u8::try_from(code).unwrap_or(u8::MAX))),
    }
}

/// Waits on a thread of its own, so that Ctrl-C ends the wait.
fn acquire(
    client: &Client,
    name: &str,
    wait: Option<Duration>,
    sender: &Sender<Event>,
    events: &Receiver<Event>,
) -> Result<LockGuard<Group>, Exit> {
    let lock = client.lock(name).wait()?;
    let sender = sender.clone();
    thread::spawn(move || {
        let got = match wait {
            Some(wait) => lock.lock_within(wait).wait(),
            None => lock.lock().wait().map(Some),
        };
        // The main thread may have left.
        let _ = sender.send(Event::Acquired(got.map_err(Exit::from)));
    });
    match events.recv() {
        Ok(Event::Acquired(Ok(Some(guard)))) => Ok(guard),
        Ok(Event::Acquired(Ok(None))) => {
            let wait = units::time(wait.unwrap_or_default().as_micros() as u64);
            Err(Exit::new(NEGATIVE, format!("the lock {name} was not free within {wait}")))
        }
        Ok(Event::Acquired(Err(exit))) => Err(exit),
        Ok(Event::Signal(signal)) => {
            // Withdraws the request: nobody must wait for a grant to us.
            let _ = client.close();
            Err(Exit::quiet(128 + signal as u8))
        }
        _ => Err(Exit::quiet(NEGATIVE)),
    }
}

/// Tells when the lock may be somebody else's.
fn watch_session(client: &Client, sender: &Sender<Event>) -> Result<(), Exit> {
    let (states, sender) = (client.session_states(), sender.clone());
    thread::Builder::new().name("margay-lock".to_string()).spawn(move || {
        for (_, state) in states {
            if state == SessionState::Expired && sender.send(Event::Lost).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}

fn start(command: &[String], name: &str, token: u64) -> Result<Child, Exit> {
    let mut process = Command::new(&command[0]);
    process.args(&command[1..]);
    process.env("MARGAY_LOCK_NAME", name).env("MARGAY_FENCE_TOKEN", token.to_string());
    sys::die_with_parent(&mut process, libc::SIGTERM);
    process.spawn().map_err(|error| Exit::new(USAGE, format!("cannot run {}: {error}", command[0])))
}

/// Waits for the command. Signals that only we got are passed on; Ctrl-C reaches the command by
/// itself, from the terminal.
fn supervise(
    mut child: Child,
    name: &str,
    sender: Sender<Event>,
    events: &Receiver<Event>,
) -> Result<ExitStatus, Exit> {
    let pid = child.id();
    thread::Builder::new().name("margay-child".to_string()).spawn(move || {
        if let Ok(status) = child.wait() {
            // The main thread is waiting for it.
            let _ = sender.send(Event::Ended(status));
        }
    })?;
    loop {
        match events.recv() {
            Ok(Event::Ended(status)) => return Ok(status),
            Ok(Event::Signal(libc::SIGINT)) => {}
            Ok(Event::Signal(signal)) => sys::signal(pid, signal),
            Ok(Event::Lost) => {
                sys::signal(pid, libc::SIGTERM);
                output::aside(&format!(
                    "error: the lock {name} was lost: its session has expired\n\
                     hint: the command was told to stop; the fencing token protects what it wrote\n"
                ));
            }
            Ok(Event::Acquired(_)) => {}
            Err(_) => return Err(Exit::new(NEGATIVE, "the command's end was not seen")),
        }
    }
}
