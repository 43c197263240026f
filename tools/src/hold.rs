//! Runs a command while something is held: a lock, permits, the lead in an election, a membership.

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use margay::client::{Client, Group};
use margay::resource::election::Leadership;
use margay::resource::{LockGuard, Membership, Permits, Reply, RwLockGuard};

use crate::connect::Connect;
use crate::exit::{Exit, NEGATIVE, USAGE};
use crate::output::Format;
use crate::sys::Signal;
use crate::{output, sys, units};

/// What every such command can be told.
#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// Give up with exit code 1 where it is not got within this time; without, wait
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    wait: Option<Duration>,
    /// It is given to others when nothing was heard of us for this long; 1s to 300s
    #[arg(long, value_name = "TIME", value_parser = units::duration, default_value = "10s")]
    session_timeout: Duration,
    /// The command and its arguments; a signal to margay is passed on to it
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

impl Options {
    /// The same from elsewhere; without a command, it is held until interrupted.
    pub(crate) fn new(
        wait: Option<Duration>,
        session_timeout: Duration,
        command: Vec<String>,
    ) -> Options {
        Options { wait, session_timeout, command }
    }
}

/// Something held.
pub(crate) trait Guard: Send + 'static {
    /// Its fencing token.
    fn token(&self) -> u64;
    /// What it is called, where it has got a name, and the variable that tells the command.
    fn name(&self) -> Option<(&'static str, &str)> {
        None
    }
    /// See [`LockGuard::lost`].
    fn lost(&self) -> Reply<()>;
    /// Gives it back.
    fn release(self) -> Reply<()>;
}

macro_rules! guards {
    ($($guard:ident: $token:ident, $release:ident;)*) => {$(
        impl Guard for $guard<Group> {
            fn token(&self) -> u64 {
                self.$token()
            }
            fn lost(&self) -> Reply<()> {
                self.lost()
            }
            fn release(self) -> Reply<()> {
                self.$release()
            }
        }
    )*};
}

guards! {
    LockGuard: token, unlock;
    RwLockGuard: token, unlock;
    Permits: token, release;
    Leadership: term, resign;
}

impl Guard for Membership<Group> {
    fn token(&self) -> u64 {
        self.number()
    }
    fn name(&self) -> Option<(&'static str, &str)> {
        Some(("MARGAY_MEMBER_ID", self.id()))
    }
    fn lost(&self) -> Reply<()> {
        self.lost()
    }
    fn release(self) -> Reply<()> {
        self.leave()
    }
}

/// What can happen while it is waited for or held.
enum Event<G> {
    Signal(Signal),
    Acquired(Result<Option<G>, Exit>),
    Ended(ExitStatus),
    Lost,
}

/// Acquires with `ask`, runs the command, gives back; ends with the command's code. The command
/// sees `name` in the environment as `variable`, and the token.
pub(crate) fn run<G: Guard>(
    connect: &Connect,
    options: &Options,
    (what, variable, name): (&str, &str, &str),
    ask: impl FnOnce(&Client, Option<Duration>) -> Reply<Option<G>>,
) -> Result<(), Exit> {
    let Options { wait, session_timeout, command } = options;
    let what = format!("{what} {name}");
    let (sender, events) = channel();
    sys::divert_signals(sender.clone(), Event::Signal)?;
    let client = connect.client_with(*session_timeout)?;
    let guard = acquire(&client, &what, *wait, ask(&client, *wait), &sender, &events)?;
    let token = guard.token().to_string();
    watch(guard.lost(), &sender)?;
    let Some((program, arguments)) = command.split_first() else {
        let ended = stay(&guard, &what, &events);
        let _ = guard.release().wait();
        let _ = client.close();
        return ended;
    };
    let mut process = Command::new(program);
    process.args(arguments).env(variable, name).env("MARGAY_FENCE_TOKEN", token);
    process.envs(guard.name());
    let status = supervise(start(process)?, &what, sender, &events)?;
    // Released with the session anyway; whether this answer comes does not matter to the caller.
    let _ = guard.release().wait();
    let _ = client.close();
    match code_of(status) {
        0 => Ok(()),
        code => Err(Exit::quiet(u8::try_from(code).unwrap_or(u8::MAX))),
    }
}

/// Waits for the answer to what `ask` asks. Who is interrupted leaves the row at once: its session
/// ends with it, not when nothing was heard of it for long.
pub(crate) fn wait<T: Send + 'static>(
    connect: &Connect,
    ask: impl FnOnce(&Client) -> Result<Reply<T>, Exit>,
) -> Result<T, Exit> {
    let (sender, events) = channel();
    sys::divert_signals(sender.clone(), |signal| Err(signal.number))?;
    let client = connect.client()?;
    let asked = ask(&client)?;
    // The main thread may have left.
    thread::spawn(move || sender.send(Ok(asked.wait())));
    match events.recv() {
        Ok(Ok(answer)) => Ok(answer?),
        Ok(Err(signal)) => {
            let _ = client.close();
            Err(Exit::quiet(128 + signal as u8))
        }
        Err(_) => Err(Exit::quiet(NEGATIVE)),
    }
}

/// Says what it is called, then waits for the end of it: a signal, or the loss.
fn stay<G: Guard>(guard: &G, what: &str, events: &Receiver<Event<G>>) -> Result<(), Exit> {
    let name = guard.name().map_or_else(|| guard.token().to_string(), |(_, name)| name.to_owned());
    output::line(&output::cell(name.as_bytes()))?;
    loop {
        match events.recv() {
            Ok(Event::Signal(_)) => return Ok(()),
            Ok(Event::Lost) => {
                let text = "was lost: it was taken away, or its session may have expired";
                return Err(Exit::new(NEGATIVE, format!("{what} {text}")));
            }
            Ok(_) => {}
            Err(_) => return Err(Exit::quiet(NEGATIVE)),
        }
    }
}

/// A command's exit code, as shells count.
pub(crate) fn code_of(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// Waits on a thread of its own, so that Ctrl-C ends the wait.
fn acquire<G: Guard>(
    client: &Client,
    what: &str,
    wait: Option<Duration>,
    asked: Reply<Option<G>>,
    sender: &Sender<Event<G>>,
    events: &Receiver<Event<G>>,
) -> Result<G, Exit> {
    let sender = sender.clone();
    // The main thread may have left.
    thread::spawn(move || sender.send(Event::Acquired(asked.wait().map_err(Exit::from))));
    match events.recv() {
        Ok(Event::Acquired(Ok(Some(guard)))) => Ok(guard),
        Ok(Event::Acquired(Ok(None))) => {
            let wait = units::time(wait.unwrap_or_default().as_micros() as u64);
            Err(Exit::new(NEGATIVE, format!("{what} was not to be had within {wait}")))
        }
        Ok(Event::Acquired(Err(exit))) => Err(exit),
        Ok(Event::Signal(signal)) => {
            // Withdraws the request: nobody must wait for a grant to us.
            let _ = client.close();
            Err(Exit::quiet(128 + signal.number as u8))
        }
        _ => Err(Exit::quiet(NEGATIVE)),
    }
}

/// Tells when what is held may be somebody else's.
fn watch<G: Guard>(lost: Reply<()>, sender: &Sender<Event<G>>) -> Result<(), Exit> {
    let sender = sender.clone();
    thread::Builder::new().name("margay-lost".to_string()).spawn(move || {
        if lost.wait().is_ok() {
            // The main thread may have ended the hold itself, and left.
            let _ = sender.send(Event::Lost);
        }
    })?;
    Ok(())
}

/// Starts a command that ends with us.
pub(crate) fn start(mut process: Command) -> Result<Child, Exit> {
    // What it prints is the answer.
    output::begin(Format::Table);
    sys::die_with_parent(&mut process, libc::SIGTERM);
    let program = process.get_program().to_string_lossy().into_owned();
    process.spawn().map_err(|error| Exit::new(USAGE, format!("cannot run {program}: {error}")))
}

/// The same in a process group of its own: Ctrl-C, which a terminal tells to all of ours, does not
/// reach it. [`Stopping`] decides what does.
pub(crate) fn start_apart(mut process: Command) -> Result<Child, Exit> {
    process.process_group(0);
    start(process)
}

/// A worker that is told to stop while a command runs that was started apart. The work at hand is
/// finished, unless it is told twice.
pub(crate) struct Stopping {
    pid: u32,
    /// The work at hand.
    what: String,
    times: u32,
    signal: i32,
}

impl Stopping {
    pub(crate) fn new(pid: u32, what: String) -> Stopping {
        Stopping { pid, what, times: 0, signal: 0 }
    }

    pub(crate) fn on_signal(&mut self, signal: i32) {
        (self.times, self.signal) = (self.times + 1, signal);
        match self.times {
            1 => output::aside(&format!(
                "{} is finished first; once more, and its command is told to stop\n",
                self.what
            )),
            2 => sys::signal_group(self.pid, libc::SIGTERM),
            _ => sys::signal_group(self.pid, libc::SIGKILL),
        }
    }

    /// The command has ended. Whether the worker does, too.
    pub(crate) fn ended(&self) -> Result<bool, Exit> {
        match self.times {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Exit::quiet(128 + self.signal as u8)),
        }
    }
}

/// Waits for the command. What somebody sends us is passed on; Ctrl-C, and that the terminal is
/// gone, the command hears from the terminal itself, and twice may mean more to it than once.
fn supervise<G: Guard>(
    mut child: Child,
    what: &str,
    sender: Sender<Event<G>>,
    events: &Receiver<Event<G>>,
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
            Ok(Event::Signal(signal)) if signal.is_of_terminal => {}
            Ok(Event::Signal(signal)) => sys::signal(pid, signal.number),
            Ok(Event::Lost) => {
                sys::signal(pid, libc::SIGTERM);
                output::aside(&format!(
                    "error: {what} was lost: it was taken away, or its session may have expired\n\
                     hint: the command was told to stop; the fencing token protects what it wrote\n"
                ));
            }
            Ok(Event::Acquired(_)) => {}
            Err(_) => return Err(Exit::new(NEGATIVE, "the command's end was not seen")),
        }
    }
}
