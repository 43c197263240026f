//! `margay demo`: three nodes on this machine, resources at work, a leader killed under load, and
//! the proof that nothing acknowledged was lost.
//!
//! Each line names its topic and says what was seen, not what was hoped for: whatever is not as it
//! should be ends the demo with an error.

use std::fmt::Display;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use margay::client::Client;
use margay::machine::Code;
use margay::resource::Swap;
use margay::resource::map::MapRange;
use margay_bench::load::{self, KEYS, Load, Workload};
use margay_bench::report::Shape;

use crate::bench::Progress;
use crate::exit::{Exit, NEGATIVE, USAGE};
use crate::ids::Writers;
use crate::nodes::{Live, NODES, Nodes, Plan, name};
use crate::{output, sys, units};

/// See it work: three nodes, resources at work, a leader killed under load
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Starts three nodes as processes of their own on free ports of this machine, uses the resources that
most people come for, kills the leader of a group with SIGKILL while clients write, restarts it and
checks that everything acknowledged is there. Leaves nothing behind unless --data is given.")]
pub(crate) struct Args {
    /// How long to measure throughput
    #[arg(long, value_name = "TIME", value_parser = units::seconds, default_value = "5")]
    seconds: Duration,
    /// Keep the nodes' data and logs in this directory, which must be empty or new
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

const GROUPS: u32 = 2;
/// Nothing in the demo should take this long.
const PATIENCE: Duration = Duration::from_secs(30);
/// Sessions of the shortest time-out: the demo waits for one to end.
const SESSION: Duration = Duration::from_secs(1);
const SHAPE: Shape = Shape { connections: 16, inflight: 16, payload: 64 };

pub(crate) fn run(args: &Args) -> Result<(), Exit> {
    crate::serve::refuse_bugs()?;
    let (sender, signals) = channel();
    sys::divert_signals(sender, |signal| signal.number)?;
    let dir = directory(args.data.as_deref())?;
    let place = Place { dir: dir.clone(), is_kept: args.data.is_some() };
    let live = Live::default();
    clean_up_on_signal(signals, dir, place.is_kept, live.clone())?;
    let told = tell(args, &place, live);
    while INTERRUPTED.load(Ordering::SeqCst) {
        // The process is about to end.
        thread::park();
    }
    if told.is_err() && !place.is_kept {
        output::aside("note: run it with --data DIR to keep the nodes' logs\n");
    }
    drop(place);
    told
}

/// The directory of the nodes; removed when dropped, unless it is the user's.
struct Place {
    dir: PathBuf,
    is_kept: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.is_kept {
            // A left-over in the temporary directory; there is nobody to tell.
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

fn directory(wished: Option<&Path>) -> Result<PathBuf, Exit> {
    let explain = |dir: &Path, error: &dyn Display| {
        Exit::new(USAGE, format!("cannot use {}: {error}", dir.display()))
    };
    let Some(dir) = wished else {
        let dir = temporary().join(format!("margay-demo-{}", std::process::id()));
        fs::create_dir(&dir).map_err(|error| explain(&dir, &error))?;
        return dir.canonicalize().map_err(|error| explain(&dir, &error));
    };
    fs::create_dir_all(dir).map_err(|error| explain(dir, &error))?;
    let dir = dir.canonicalize().map_err(|error| explain(dir, &error))?;
    match fs::read_dir(&dir).map_err(|error| explain(&dir, &error))?.next() {
        Some(_) => Err(explain(&dir, &"it is not empty").hint("--data wants an empty directory")),
        None => Ok(dir),
    }
}

/// Where temporary files go, and a disk is below: memory would prove nothing.
fn temporary() -> PathBuf {
    let places = [std::env::temp_dir(), PathBuf::from("/var/tmp"), PathBuf::from(".")];
    let on_disk = |place: &&PathBuf| {
        let place = place.canonicalize();
        place.is_ok_and(|place| !matches!(file_system(&place).as_str(), "tmpfs" | "ramfs"))
    };
    places.iter().find(on_disk).unwrap_or(&places[0]).clone()
}

/// Set before the nodes are killed: what fails from then on is nobody's business.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Ctrl-C: the nodes die with this process; what they wrote goes with them.
fn clean_up_on_signal(
    signals: Receiver<i32>,
    dir: PathBuf,
    is_kept: bool,
    live: Live,
) -> Result<(), Exit> {
    thread::Builder::new().name("margay-interrupt".to_string()).spawn(move || {
        let Ok(signal) = signals.recv() else { return };
        output::aside("\ninterrupted; stopping the nodes\n");
        INTERRUPTED.store(true, Ordering::SeqCst);
        live.kill();
        let end = Instant::now() + Duration::from_secs(2);
        while !is_kept && fs::remove_dir_all(&dir).is_err() && dir.exists() && Instant::now() < end
        {
            thread::sleep(Duration::from_millis(10));
        }
        std::process::exit(128 + signal);
    })?;
    Ok(())
}

/// One line of the story.
fn say(topic: &str, text: impl Display) -> Result<(), Exit> {
    output::line(&format!("{topic:<9} {text}"))
}

/// What should not have happened.
fn wrong(what: impl Display) -> Exit {
    Exit::new(NEGATIVE, format!("{what}: this should not happen; please report it"))
}

fn tell(args: &Args, place: &Place, live: Live) -> Result<(), Exit> {
    let plan = Plan {
        executable: std::env::current_exe()?,
        dir: place.dir.clone(),
        groups: GROUPS,
        shards: 1,
        tls: None,
        more: Vec::new(),
        live,
    };
    let (kernel, cpus, version) = machine();
    output::line(&format!("margay {version} · Linux {kernel} · {cpus} CPUs"))?;
    let begin = Instant::now();
    let mut nodes = Nodes::start(&plan, PATIENCE)?;
    crate::cluster::wait_until_ready(&nodes.endpoints(), None, PATIENCE)?;
    let ready = begin.elapsed().as_secs_f64();
    say(
        "cluster",
        format!("{NODES} nodes, each a process; {GROUPS} groups; ready in {ready:.2} s"),
    )?;
    let kept = if place.is_kept { "stays there" } else { "removed at the end" };
    say("", format!("data in {}, {kept}", place.dir.display()))?;
    resources(&nodes)?;
    lock(&nodes, &plan)?;
    work(&nodes)?;
    speed(&nodes, args.seconds)?;
    failover(&mut nodes)?;
    let warnings = nodes.warnings(0);
    nodes.stop(PATIENCE)?;
    durability(&place.dir, &warnings)?;
    say("next", "margay serve            a server on 127.0.0.1:5150")?;
    say("", "margay bench --help     measure it yourself · scripts/bench.sh: against the floor")
}

/// Value, counter, map.
fn resources(nodes: &Nodes) -> Result<(), Exit> {
    let client = Client::builder().endpoints(nodes.endpoints()).connect()?;
    let value = client.value("greeting").wait()?;
    let first = value.set(b"hello").wait()?;
    let Swap::Done(second) = value.compare_and_set(Some(b"hello"), b"welcome").wait()? else {
        return Err(wrong("a compare-and-set of the right value did nothing"));
    };
    let Swap::Conflict(Some(found)) = value.compare_and_set(Some(b"hello"), b"late").wait()? else {
        return Err(wrong("a compare-and-set of an old value was done"));
    };
    let found = output::cell(&found.value);
    let swaps = format!("hello → welcome (v{second}) · hello → late: refused, it is {found}");
    say("value", format!("greeting = hello (v{first}) · {swaps}"))?;

    let counter = client.counter("visits").wait()?;
    let (one, six) = (counter.increment().wait()?, counter.add_and_get(5).wait()?);
    counter.set(i64::MAX).wait()?;
    let overflow = counter.increment().wait();
    if !matches!(&overflow, Err(failure) if failure.code == Code::OVERFLOW) {
        return Err(wrong("a counter went past its range"));
    }
    let end = "at its end, +1 is refused and changes nothing";
    say("counter", format!("visits +1 = {one} · +5 = {six} · {end}"))?;

    let users = client.map("users").wait()?;
    for (name, role) in [("ada", "admin"), ("grace", "author"), ("alan", "guest")] {
        users.put(name.as_bytes(), role.as_bytes()).wait()?;
    }
    users.remove(b"alan").wait()?;
    let page = users.entries(MapRange::default()).wait()?;
    let entry = |entry: &margay::resource::map::MapEntry| {
        let value = entry.value.as_deref().unwrap_or_default();
        format!("{}={}", output::cell(&entry.key), output::cell(value))
    };
    let entries: Vec<String> = page.entries.iter().map(entry).collect();
    say("map", format!("users: 3 put, 1 removed, in order: {}", entries.join(" ")))?;
    Ok(client.close()?)
}

/// A holder that is killed without a word, and a fencing token that rises.
fn lock(nodes: &Nodes, plan: &Plan) -> Result<(), Exit> {
    let mut holder = Command::new(&plan.executable);
    holder.args(["lock", "run", "nightly", "--session-timeout", "1s"]);
    holder.args(["--endpoints", &nodes.endpoints().join(",")]).env_remove("MARGAY_TLS");
    holder.args(["--", "sh", "-c", "echo $MARGAY_FENCE_TOKEN; exec sleep 600"]);
    holder.stdin(Stdio::null()).stdout(Stdio::piped());
    sys::die_with_parent(&mut holder, libc::SIGKILL);
    let mut holder = holder.spawn()?;
    let mut line = String::new();
    if let Some(stdout) = holder.stdout.take() {
        BufReader::new(stdout).read_line(&mut line)?;
    }
    let old: u64 = line.trim().parse().map_err(|_| wrong("the holder got no token"))?;

    let client = Client::builder().endpoints(nodes.endpoints()).session_timeout(SESSION * 10);
    let client = client.connect()?;
    let lock = client.lock("nightly").wait()?;
    let waiting = lock.lock_within(PATIENCE);
    let end = Instant::now() + PATIENCE;
    while lock.holder().wait()?.is_none_or(|holder| holder.waiting == 0) {
        if Instant::now() > end {
            return Err(wrong("nobody waits for the lock"));
        }
    }
    holder.kill()?;
    let killed = Instant::now();
    holder.wait()?;
    let guard = waiting.wait()?.ok_or_else(|| wrong("the lock was not granted"))?;
    let token = guard.token();
    if token <= old {
        return Err(wrong("the token did not rise"));
    }
    let late = lock.unlock(old).wait();
    if !matches!(&late, Err(failure) if failure.code == Code::NOT_HOLDER) {
        return Err(wrong("a release under an old token was taken"));
    }
    let (after, over) = (killed.elapsed().as_secs_f64(), SESSION.as_secs());
    say("lock", format!("A holds nightly (token {old}), B waits · A is killed with SIGKILL"))?;
    let granted = format!("{after:.2} s later A's session of {over} s is over: B (token {token})");
    say("", format!("{granted} · a release with {old}: refused"))?;
    guard.unlock().wait()?;
    Ok(client.close()?)
}

/// A worker that leads, with tasks in its hands, and goes: both pass on with its session.
fn work(nodes: &Nodes) -> Result<(), Exit> {
    let connect = || Client::builder().endpoints(nodes.endpoints()).connect();
    let (a, b) = (connect()?, connect()?);
    let jobs = a.queue("jobs").wait()?;
    for job in ["one", "two", "three"] {
        jobs.offer(job.as_bytes()).wait()?;
    }
    let taken = jobs.take(2, PATIENCE).wait()?.len();
    let leads = a.election("primary").wait()?.campaign(b"A").wait()?;
    let election = b.election("primary").wait()?;
    let campaign = election.campaign(b"B");
    wait_for(|| election.candidates().wait().is_ok_and(|row| !row.is_empty()), "a candidate")?;
    a.close()?;
    let lead = campaign.wait()?;
    let (old, term) = (leads.term(), lead.term());
    if term <= old {
        return Err(wrong("the term did not rise"));
    }
    let jobs = b.queue("jobs").wait()?;
    let (mut done, mut again) = (0, 0);
    while done < 3 {
        for task in jobs.take_within(3, PATIENCE, PATIENCE).wait()? {
            again += usize::from(task.deliveries() > 1);
            task.ack().wait()?;
            done += 1;
        }
    }
    if again != taken {
        return Err(wrong("tasks were delivered again that nobody had taken, or not again"));
    }
    say("election", format!("A leads (term {old}), B stands by · A ends: B leads (term {term})"))?;
    let back = format!("{again} of them delivered again");
    say(
        "queue",
        format!("3 jobs: A took {taken} and ended without a word · B did {done}, {back}"),
    )?;
    Ok(b.close()?)
}

/// Writes and linearizable reads, as fast as they go.
fn speed(nodes: &Nodes, time: Duration) -> Result<(), Exit> {
    let mut topic = "speed";
    for workload in [Workload::MapPut, Workload::MapGet] {
        let (endpoints, shape, keys) = (nodes.endpoints(), SHAPE, KEYS);
        let load = Load { endpoints, tls: None, workload, shape, keys, time };
        let mut progress = Progress::new(time);
        let report = load::run(&load, &mut |pulse| progress.show(pulse));
        progress.clear();
        let report = report?;
        if report.errors > 0 {
            return Err(wrong(format!("{} operations failed", report.errors)));
        }
        let line = format!(
            "{:<7} {:>9}/s   p50 {:<9} p99 {:<9} p99.9 {}",
            workload.name(),
            units::grouped(report.ops_per_s()),
            units::time(report.p50_us),
            units::time(report.p99_us),
            units::time(report.p999_us),
        );
        say(topic, line)?;
        topic = "";
    }
    let Shape { connections, inflight, payload } = SHAPE;
    let seconds = time.as_secs_f64();
    let shape = format!("{connections} connections x {inflight} under way, {payload} B");
    say("", format!("{shape}, {seconds:.1} s each; reads are linearizable; all on this machine"))
}

/// The group whose leader is killed.
const VICTIM: u32 = 0;
/// Ids acknowledged before and after the kill, at least.
const IDS: u64 = 1_000;

fn failover(nodes: &mut Nodes) -> Result<(), Exit> {
    let endpoints = nodes.endpoints();
    let writers = Writers::start(&endpoints, "demo", VICTIM)?;
    wait_for(|| writers.acknowledged() >= IDS, "writes before the kill")?;
    let leader = nodes.leader(VICTIM).ok_or_else(|| wrong("a group without a leader"))?;
    let before = writers.acknowledged();
    let killed = nodes.kill(leader)?;
    writers.on_killed(killed);
    wait_for(|| writers.next_write().is_some(), "a write after the kill")?;
    let next_write = writers.next_write().unwrap_or_default();
    wait_for(|| nodes.leader(VICTIM).is_some_and(|now| now != leader), "a new leader")?;
    let successor = nodes.leader(VICTIM).map_or_else(|| "another".to_string(), name);
    let (dead, before) = (name(leader), units::grouped(before));
    let role = format!("{dead}, leader of group {VICTIM}");
    say("failover", format!("{role}, killed with SIGKILL under load after {before} ids"))?;
    let next_write = units::time(next_write.as_micros() as u64);
    say("", format!("{successor} leads · next committed write {next_write} after the kill"))?;
    let level = writers.acknowledged() + IDS;
    nodes.restart(leader, PATIENCE)?;
    let returned = Instant::now();
    wait_for(|| writers.acknowledged() >= level, "writes after the restart")?;
    let goal = crate::cluster::merge(&nodes.status());
    let goal = goal.iter().find(|group| group.group.0 == VICTIM).map_or(0, |group| group.commit.0);
    wait_for(
        || {
            let status = nodes.status();
            let groups = status[leader].groups.as_ref().map_or(&[][..], |groups| groups);
            groups.iter().any(|group| group.group.0 == VICTIM && group.applied.0 >= goal)
        },
        "the restarted node to catch up",
    )?;
    let caught_up = returned.elapsed();
    let verdict = writers.finish(&endpoints).map_err(wrong)?;
    let caught_up = units::time(caught_up.as_micros() as u64);
    say("", format!("{dead} restarted with its own data, caught up in {caught_up}"))?;
    let (ids, adds) = (units::grouped(verdict.acknowledged), units::grouped(verdict.adds));
    let counter = units::grouped(verdict.counter.unsigned_abs());
    say(
        "",
        format!("all {ids} acknowledged ids are there; the counter is {counter} after {adds}"),
    )?;
    say("", "acknowledged adds: nothing lost, nothing twice")
}

fn wait_for(reached: impl Fn() -> bool, what: &str) -> Result<(), Exit> {
    let end = Instant::now() + PATIENCE;
    while !reached() {
        if Instant::now() > end {
            return Err(wrong(format!("waited {} s for {what}", PATIENCE.as_secs())));
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// What the durability of this run is worth, and what not.
fn durability(dir: &Path, warnings: &[String]) -> Result<(), Exit> {
    if let Some(warning) = warnings.first() {
        say("durable", output::cell(warning.as_bytes()))?;
        return say("", "so this run shows what is kept when processes die, and no more");
    }
    let system = file_system(dir);
    say("durable", "every answer waited for O_DIRECT|O_DSYNC writes on 2 of 3 logs")?;
    say(
        "",
        format!("all three on one machine ({system}): safe from killed processes, and from power"),
    )?;
    say("", "loss if the disk keeps its word; to survive the disk, use three machines")
}

/// Kernel, CPUs, and our version.
fn machine() -> (String, usize, &'static str) {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kernel: Vec<&str> = kernel.trim().split(['.', '-']).take(2).collect();
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    (kernel.join("."), cpus, env!("CARGO_PKG_VERSION"))
}

/// The type of the file system that holds `path`: that of the longest mount point above it.
fn file_system(path: &Path) -> String {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mount = |line: &str| -> Option<(usize, String)> {
        let (fields, rest) = line.split_once(" - ")?;
        let point = fields.split(' ').nth(4)?;
        let system = rest.split(' ').next()?.to_string();
        path.starts_with(point).then_some((point.len(), system))
    };
    let longest = mounts.lines().filter_map(mount).max_by_key(|(length, _)| *length);
    longest.map_or_else(|| "file system".to_string(), |(_, system)| system)
}
