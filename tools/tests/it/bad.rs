//! Bad input, against real processes: whoever causes it is told what is wrong, and nobody else
//! notices.
//!
//! Nothing here waits by sleeping: answers are read with a time limit, and what has no answer is
//! looked for until it is there.

mod blocked;
mod disk;
mod frames;
mod full;
mod peers;
mod process;
mod sessions;
mod watchers;

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use margay::client::Client;
use margay::machine::Code;
use margay::wire::client::{RefusedOf, Response};
use margay::wire::{self, HELLO_BYTES, Hello};
use margay_log::id::{ClusterId, GroupId};

use crate::harness::{Ended, MARGAY, PATIENCE, until};
use crate::sys;

/// An answer that has not come by then is not going to.
const ANSWER: Duration = PATIENCE;

/// `margay serve`, alone, on a port of the system's choice, with its data in `data`. `before` are
/// the words of a command that starts it.
fn serve(before: &[&str], data: &Path, args: &[&str]) -> Command {
    let words: Vec<&str> = before.iter().copied().chain([MARGAY]).collect();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).args(["serve", "--name", "n1", "--listen", "127.0.0.1:0"]);
    command.args(["--groups", "1", "--data"]).arg(data).args(args);
    command.env_remove("MARGAY_LOG").stdin(Stdio::null());
    command
}

/// A node that serves. Dropping it kills it.
struct One {
    child: Child,
    address: String,
    log: PathBuf,
}

impl One {
    /// Starts a node in `dir`, with one shard.
    #[track_caller]
    fn start(dir: &Path) -> One {
        One::launch(serve(&[], &dir.join("data"), &["--shards", "1"]), dir)
    }

    /// Starts `command`, with what it says in a file in `dir`. Returns once it serves.
    #[track_caller]
    fn launch(command: Command, dir: &Path) -> One {
        let one = One::listen(command, dir);
        // Before that its groups have no leader, and refuse everything for that.
        serves(&one.address);
        one
    }

    /// The same, but returns once it listens.
    #[track_caller]
    fn listen(mut command: Command, dir: &Path) -> One {
        let log = dir.join("log");
        let file = File::create(&log).expect("a file for its log");
        command.stdout(Stdio::null()).stderr(file);
        sys::die_with_parent(&mut command, libc::SIGKILL);
        let child = command.spawn().expect("the node starts");
        let mut one = One { child, address: String::new(), log };
        until("the node to listen", || {
            let said = one.said();
            let ended = one.child.try_wait().expect("can be waited for");
            assert!(ended.is_none(), "ended with {ended:?}: {said}");
            let address = said.split("listening on ").nth(1).and_then(|s| s.split(' ').next());
            one.address = address.unwrap_or_default().to_owned();
            address.is_some()
        });
        one
    }

    /// What it has logged.
    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Asks it to end, and returns its exit code.
    #[track_caller]
    fn stop(mut self) -> Option<i32> {
        sys::signal(self.child.id(), libc::SIGTERM);
        self.wait()
    }

    #[track_caller]
    fn wait(&mut self) -> Option<i32> {
        let mut code = None;
        until("the node to end", || {
            let status = self.child.try_wait().expect("can be waited for");
            code = status.and_then(|status| status.code());
            status.is_some()
        });
        code
    }

    /// Asserts that it is alive and still serves somebody else, and never panicked.
    #[track_caller]
    fn serves(&self) {
        let answer = Client::builder().endpoints([&self.address]).timeout(ANSWER).connect();
        assert!(answer.is_ok(), "{answer:?}: {}", self.said());
        serves(&self.address);
        let said = self.said();
        assert!(!said.contains("panicked"), "{said}");
    }
}

impl Drop for One {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[track_caller]
fn connect(address: &str) -> Client {
    let client = Client::builder().endpoints(address.split(',')).timeout(ANSWER);
    client.connect().expect("somebody else is served")
}

/// Asserts that somebody else is served.
#[track_caller]
fn serves(address: &str) {
    let client = connect(address);
    let counter = client.counter("somebody-else").wait().expect("opens");
    let before = counter.get().wait().expect("reads");
    assert!(counter.increment().wait().expect("counts") > before);
    client.close().expect("closes");
}

/// Runs a server that should not start to its end.
#[track_caller]
fn ends(mut command: Command, dir: &Path) -> Ended {
    let log = dir.join("ended.log");
    let file = File::create(&log).expect("a file for its log");
    command.stdout(Stdio::null()).stderr(file);
    sys::die_with_parent(&mut command, libc::SIGKILL);
    let child = command.spawn().expect("it starts");
    let mut one = One { child, address: String::new(), log };
    let code = one.wait();
    Ended { code, out: String::new(), err: one.said() }
}

impl Ended {
    /// Asserts that it said all of `words` in one line, and how it ended.
    #[track_caller]
    fn because(self, code: i32, words: &[&str]) -> Ended {
        assert!(!self.err.contains("panicked"), "{self:?}");
        let fits = |line: &str| words.iter().all(|word| line.contains(word));
        let lines = self.err.lines().filter(|line| line.starts_with("error: "));
        assert!(lines.clone().count() == 1 && lines.clone().any(fits), "{words:?}: {self:?}");
        self.with(code)
    }
}

/// A connection of the test's own making.
struct Wire(TcpStream);

impl Wire {
    #[track_caller]
    fn dial(address: &str) -> Wire {
        let stream = TcpStream::connect(address).expect("the node listens");
        stream.set_nodelay(true).expect("a socket option");
        stream.set_read_timeout(Some(ANSWER)).expect("a socket option");
        Wire(stream)
    }

    /// After both hellos.
    #[track_caller]
    fn client(address: &str) -> Wire {
        let mut wire = Wire::dial(address);
        wire.send(&Hello::client(ClusterId(0), GroupId(0)).encode());
        assert_eq!(wire.hello().code, Code::OK);
        wire
    }

    #[track_caller]
    fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("is sent");
    }

    #[track_caller]
    fn hello(&mut self) -> Hello {
        self.hello_if_any().expect("a hello comes back")
    }

    /// The other side's hello, or `None` where it says nothing and closes.
    #[track_caller]
    fn hello_if_any(&mut self) -> Option<Hello> {
        let mut bytes = [0; HELLO_BYTES];
        match self.0.read_exact(&mut bytes) {
            Err(e) if matches!(e.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {
                return None;
            }
            other => other.expect("an answer in time"),
        }
        Some(Hello::decode(&bytes).expect("a right hello"))
    }

    /// The next frame, or `None` at the end.
    #[track_caller]
    fn frame(&mut self) -> Option<Vec<u8>> {
        let mut bytes = vec![0; wire::HEADER];
        match self.0.read_exact(&mut bytes) {
            Err(e) if matches!(e.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {
                return None;
            }
            other => other.expect("a frame in time"),
        }
        let length = wire::peek(&bytes).expect("a right header").expect("a whole header");
        bytes.resize(length, 0);
        self.0.read_exact(&mut bytes[wire::HEADER..]).expect("a body");
        Some(bytes)
    }

    /// The next answer, taken apart by `of`.
    #[track_caller]
    fn answer<T>(&mut self, of: impl FnOnce(Response<'_>) -> T) -> T {
        let bytes = self.frame().expect("the connection is kept");
        of(Response::decode(&wire::decode(&bytes).expect("a frame")).expect("an answer"))
    }

    /// What it is refused with: of what, why, in which words.
    #[track_caller]
    fn refusal(&mut self) -> (RefusedOf, Code, String) {
        self.answer(|answer| match answer {
            Response::Refused { of, code, text, .. } => (of, code, text.to_owned()),
            other => panic!("not refused: {other:?}"),
        })
    }

    /// Asserts that nothing follows.
    #[track_caller]
    fn closed(&mut self) {
        assert_eq!(self.frame(), None);
    }

    /// Everything until the end.
    #[track_caller]
    fn rest(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        match self.0.read_to_end(&mut all) {
            Err(e) if e.kind() == ErrorKind::ConnectionReset => {}
            other => drop(other.expect("is closed in time")),
        }
        all
    }
}
