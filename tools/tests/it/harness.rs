//! What the tests share: a cluster for all that do not hurt it, directories, and the command.

use std::convert::Infallible;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread;
use std::time::{Duration, Instant};

use crate::nodes::{Live, Nodes, Plan};
use crate::sys;

/// Everything ends within this time, or fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// The command under test.
pub(crate) const MARGAY: &str = env!("CARGO_BIN_EXE_margay");

/// Where tests have their directories.
const BASE: &str = env!("CARGO_TARGET_TMPDIR");
/// The directory of the cluster that tests share.
const SHARED: &str = "shared";
/// Lines of each node's log that are shown when a test fails.
const LINES_SHOWN: usize = 60;

/// A machine is not large enough for the test that measures and anything else.
static MACHINE: RwLock<()> = RwLock::new(());

/// Of a test that may run beside others.
pub(crate) struct Beside(#[expect(dead_code)] RwLockReadGuard<'static, ()>);

/// Held by tests that may run beside others.
pub(crate) fn beside_others() -> Beside {
    Beside(MACHINE.read().unwrap_or_else(PoisonError::into_inner))
}

impl Drop for Beside {
    fn drop(&mut self) {
        if thread::panicking() {
            // It may have to do with what the test was about.
            show_logs(&Scratch::place(SHARED));
        }
    }
}

/// Held by a test that must be alone.
pub(crate) fn alone() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().unwrap_or_else(PoisonError::into_inner)
}

/// A directory of one test, removed with it.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(test: &str) -> Scratch {
        remove_left_overs(Path::new(BASE));
        let dir = Scratch::place(test);
        fs::create_dir_all(&dir).expect("the target directory can be written to");
        Scratch(dir)
    }

    fn place(test: &str) -> PathBuf {
        Path::new(BASE).join(format!("{}-{test}", std::process::id()))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if thread::panicking() {
            show_logs(&self.0);
        }
        // Seen and removed by the next run.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What the nodes of a test that fails have said last.
fn show_logs(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_log = path.extension().or(path.file_name()).is_some_and(|name| name == "log");
        if is_log && path.is_file() {
            let text = fs::read_to_string(&path).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let last = lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n");
            eprintln!("--- {} ---\n{last}", path.display());
        }
    }
}

/// Directories of test processes that are no more.
fn remove_left_overs(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let pid = name.split('-').next().and_then(|pid| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// A plan for nodes with their data in `dir`.
pub(crate) fn plan(dir: &Path, groups: u32) -> Plan {
    let (executable, dir) = (PathBuf::from(MARGAY), dir.to_path_buf());
    Plan { executable, dir, groups, shards: 1, tls: None, more: Vec::new(), live: Live::default() }
}

/// The endpoints of a cluster of two groups that all tests share. Nobody may kill its nodes.
pub(crate) fn cluster() -> &'static str {
    static ENDPOINTS: OnceLock<String> = OnceLock::new();
    ENDPOINTS.get_or_init(|| {
        let (sender, receiver) = channel();
        // Nodes die with the thread that started them, so that must not be a test's.
        thread::spawn(move || {
            let scratch = Scratch::new(SHARED);
            let nodes = Nodes::start(&plan(scratch.path(), 2), PATIENCE);
            let endpoints = nodes.as_ref().map(|nodes| nodes.endpoints().join(","));
            sender.send(endpoints.map_err(|error| error.to_string())).expect("somebody waits");
            loop {
                thread::park();
            }
        });
        let endpoints = receiver.recv().expect("the thread answers");
        endpoints.expect("three nodes start")
    })
}

/// How a command ended and what it said.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ended {
    /// Asserts the exit code; the whole end is shown where it differs.
    #[track_caller]
    pub(crate) fn with(self, code: i32) -> Ended {
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }

    /// The one JSON value of the output.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// `margay` for the shared cluster. Its operations may take as long as anything here, where the
/// arguments do not say how long.
pub(crate) fn for_cluster(args: &[&str]) -> Command {
    let mut command = Command::new(MARGAY);
    let (family, rest) = args.split_at(1);
    command.args(family);
    if !args.contains(&"--timeout") {
        command.args(["--timeout", "60s"]);
    }
    command.args(rest).env("MARGAY_ENDPOINTS", cluster()).env_remove("MARGAY_TLS");
    command
}

/// Runs `margay` against the shared cluster.
#[track_caller]
pub(crate) fn margay(args: &[&str]) -> Ended {
    run(for_cluster(args))
}

/// Runs `margay` without any cluster in its environment.
#[track_caller]
pub(crate) fn margay_alone(args: &[&str]) -> Ended {
    let mut command = Command::new(MARGAY);
    command.args(args).env_remove("MARGAY_ENDPOINTS").env_remove("MARGAY_TLS");
    run(command)
}

/// Runs a command to its end.
#[track_caller]
pub(crate) fn run(command: Command) -> Ended {
    run_within(PATIENCE, command)
}

/// The same with another limit. Whoever waits for what does not come is ended then.
#[track_caller]
pub(crate) fn run_within(limit: Duration, mut command: Command) -> Ended {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    sys::die_with_parent(&mut command, libc::SIGKILL);
    let child = command.spawn().expect("the command starts");
    let (pid, (ends, ended)) = (child.id(), channel::<Infallible>());
    let watch = thread::spawn(move || {
        let is_late = ended.recv_timeout(limit) == Err(RecvTimeoutError::Timeout);
        if is_late {
            sys::signal(pid, libc::SIGKILL);
        }
        is_late
    });
    let output = child.wait_with_output().expect("it ends, or is ended");
    drop(ends);
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let ended =
        Ended { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) };
    let is_late = watch.join().expect("no panic");
    assert!(!is_late, "{command:?} has not ended within {limit:?}: {ended:?}");
    ended
}

/// Waits until `reached`, looking often.
#[track_caller]
pub(crate) fn until(what: &str, reached: impl FnMut() -> bool) {
    until_or(what, reached, String::new);
}

/// As [`until`]; `explain` says what is there instead.
#[track_caller]
pub(crate) fn until_or(
    what: &str,
    mut reached: impl FnMut() -> bool,
    explain: impl Fn() -> String,
) {
    let end = Instant::now() + PATIENCE;
    while !reached() {
        assert!(Instant::now() < end, "waited {PATIENCE:?} for {what}\n{}", explain());
        thread::sleep(Duration::from_millis(2));
    }
}
