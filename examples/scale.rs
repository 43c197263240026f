//! Many sessions, resources and waiters: what one costs, and what the cluster does under all of
//! them. `cargo run --release --example scale [SESSIONS [RESOURCES [WAITERS]]]`.
//!
//! First the replicated state alone, as each node holds it. Then a cluster of three in this
//! process: a fail-over with all of it there, and the expiry of all sessions at once, while a
//! client goes on and notes its slowest command.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::time::{Duration, Instant};

use margay::client::{Client, Group};
use margay::machine::{
    Code, EndReason, Entry, Event, LogTime, Machine, Notice, ResourceId, Sequence, SessionId, Sink,
    kind, session,
};
use margay::resource::codec::{Encode, Operation};
use margay::resource::lock::LockV1;
use margay::resource::registry::{OpenV1, Registry};
use margay::resource::{Counter, LockGuard, Reply};
use margay::server::LocalCluster;
use margay::wire::client::{Request, Response};
use margay::wire::{self, HELLO_BYTES, Hello};
use margay_log::id::{ClusterId, GroupId, Index, Micros};

type Failed = Box<dyn std::error::Error>;

/// How many of each.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    pub(crate) sessions: u64,
    pub(crate) resources: u64,
    pub(crate) waiters: u64,
    /// Of the sessions.
    pub(crate) timeout: Duration,
}

#[allow(dead_code)]
fn main() -> Result<(), Failed> {
    let numbers = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let numbers = numbers.collect::<Result<Vec<u64>, _>>()?;
    let number = |at: usize, default| numbers.get(at).copied().unwrap_or(default);
    let load = Load {
        sessions: number(0, 10_000),
        resources: number(1, 100_000),
        waiters: number(2, 1_000),
        timeout: Duration::from_secs(30),
    };
    state(load)?;
    cluster(load)
}

/// What one of each costs in the state, on each node.
pub(crate) fn state(load: Load) -> Result<(), Failed> {
    let mut world = World { machine: Machine::new(Registry::new()), sequence: 0 };
    let mut cost = |what: &str, count: u64, fill: &mut dyn FnMut(&mut World, u64)| {
        let before = resident()?;
        (0..count).for_each(|n| fill(&mut world, n));
        let bytes = resident()?.saturating_sub(before) / count.max(1);
        println!("{count:>7} {what:<36} {bytes:>6} bytes each");
        Ok::<(), Failed>(())
    };
    cost("sessions", load.sessions, &mut |world, n| world.register(n))?;
    let owner = SessionId(1);
    cost("resources (counters)", load.resources, &mut |world, n| {
        world.command(owner, ResourceId(0), &open(&format!("counter-{n:08}"), kind::COUNTER));
    })?;
    world.command(owner, ResourceId(0), &open("hot", kind::LOCK));
    let hot = ResourceId(world.machine.applied().0);
    world.command(owner, hot, &LockV1 { request: 1, wait_ms: None });
    let mut world = world;
    let before = resident()?;
    for n in 0..load.waiters {
        world.command(owner, hot, &LockV1 { request: n + 2, wait_ms: Some(3_600_000) });
    }
    let bytes = resident()?.saturating_sub(before) / load.waiters.max(1);
    println!(
        "{:>7} {:<36} {bytes:>6} bytes each",
        load.waiters, "waiters on one lock, with time-outs"
    );
    Ok(())
}

/// The same in a cluster of three, which loses its leader and then all those sessions.
pub(crate) fn cluster(load: Load) -> Result<(), Failed> {
    let mut cluster = LocalCluster::builder(3).groups(1).start()?;
    let client = cluster.client_builder().timeout(Duration::from_secs(60)).connect()?;
    let probe = client.counter("probe").wait()?;
    probe.increment().wait()?;

    fill(&client, load.resources)?;
    let lock = client.lock("hot").wait()?;
    let guard = lock.lock().wait()?;
    let waiting: Vec<Reply<LockGuard<Group>>> = (0..load.waiters).map(|_| lock.lock()).collect();
    let begun = Instant::now();
    register_all(&cluster, load)?;
    println!("{} sessions registered in {:.1?}", load.sessions, begun.elapsed());

    let leader = leader(&cluster)?;
    let begun = Instant::now();
    cluster.stop_node(leader)?;
    probe.increment().wait()?;
    println!("fail-over with all of it: {:.0?} until the next command was done", begun.elapsed());
    // The new leader takes the sessions over a part in each turn, and goes on with that.
    std::thread::sleep(Duration::from_secs(1));
    let (turn, ran) = longest_turn(&cluster);
    println!("longest turn meanwhile: {turn:.1?}, of which a turn itself ran {ran:.1?} at most");
    guard.unlock().wait()?;
    let next = waiting.into_iter().next().ok_or("no waiter")?.wait()?;
    println!("the first of {} waiters has the lock, token {}", load.waiters, next.token());

    // A new leader gives everybody a whole time-out; then nobody has been heard of.
    let (begun, mut slowest) = (Instant::now(), Duration::ZERO);
    loop {
        let asked = Instant::now();
        probe.increment().wait()?;
        slowest = slowest.max(asked.elapsed());
        if sessions(&cluster) < load.sessions.min(100) || begun.elapsed() > 6 * load.timeout {
            break;
        }
    }
    let left = sessions(&cluster);
    println!("all expired at once: {left} sessions left; the slowest command took {slowest:.0?}");
    if left > load.sessions / 2 {
        return Err(format!("{left} sessions did not expire").into());
    }
    client.close()?;
    cluster.stop()?;
    Ok(())
}

fn fill(client: &Client, resources: u64) -> Result<(), Failed> {
    let begun = Instant::now();
    let mut open: std::collections::VecDeque<Reply<Counter<Group>>> = Default::default();
    for n in 0..resources {
        if open.len() >= 500 {
            open.pop_front().ok_or("one is open")?.wait()?;
        }
        open.push_back(client.counter(&format!("counter-{n:08}")));
    }
    open.into_iter().try_for_each(|reply| reply.wait().map(drop))?;
    println!("{resources} resources created in {:.1?}", begun.elapsed());
    Ok(())
}

fn leader(cluster: &LocalCluster) -> Result<usize, Failed> {
    let end = Instant::now() + Duration::from_secs(30);
    while Instant::now() < end {
        if let Some(leader) = cluster.leader(GroupId(0)) {
            return Ok(leader);
        }
    }
    Err("nobody leads".into())
}

/// Open sessions, as the leader counts them.
fn sessions(cluster: &LocalCluster) -> u64 {
    let all = margay::client::status(&cluster.endpoints(), None, Duration::from_secs(2));
    let groups = all.iter().filter_map(|node| node.groups.as_ref().ok()).flatten();
    let leads = groups.filter(|group| group.leader.as_ref() == Some(&group.node));
    leads.map(|group| u64::from(group.sessions)).max().unwrap_or(u64::MAX)
}

/// The longest turn of any shard in the last five to ten seconds, and the most that one itself ran.
fn longest_turn(cluster: &LocalCluster) -> (Duration, Duration) {
    let all = margay::client::status(&cluster.endpoints(), None, Duration::from_secs(2));
    let groups = all.iter().filter_map(|node| node.groups.as_ref().ok()).flatten();
    let turns = groups.map(|group| (group.longest_turn_us, group.busiest_turn_us));
    let (turn, ran) = turns.fold((0, 0), |most, turn| (most.0.max(turn.0), most.1.max(turn.1)));
    (Duration::from_micros(turn.into()), Duration::from_micros(ran.into()))
}

/// Registers the sessions over some connections at the same time.
fn register_all(cluster: &LocalCluster, load: Load) -> Result<(), Failed> {
    const CONNECTIONS: u64 = 64;
    let share = |n: u64| n * load.sessions / CONNECTIONS;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..CONNECTIONS)
            .map(|n| {
                scope.spawn(move || {
                    let (mut next, end) = (share(n), share(n + 1));
                    while next < end {
                        // The leader may change meanwhile: the next one knows those it has.
                        let leader = leader(cluster).map_err(|error| error.to_string())?;
                        next = register(&cluster.endpoints()[leader], next..end, load.timeout)
                            .map_err(|error| error.to_string())?;
                    }
                    Ok::<(), String>(())
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(registered) => Ok(registered?),
            Err(_) => Err("a thread panicked".into()),
        })
    })
}

/// Registers sessions one after the other over one connection, which speaks for the last of them
/// only, and keeps none of them alive. Returns the first that was not registered: the end, or where
/// the node would not go on.
fn register(address: &str, all: Range<u64>, timeout: Duration) -> Result<u64, Failed> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.write_all(&Hello::client(ClusterId(0), GroupId(0)).encode())?;
    let mut hello = [0; HELLO_BYTES];
    stream.read_exact(&mut hello)?;
    Hello::decode(&hello)?;
    let timeout = Micros(timeout.as_micros() as u64);
    for session in all.clone() {
        let (mut out, key) = (Vec::new(), (u128::from(session) + 1).to_le_bytes());
        Request::Register { correlation: session, key, timeout }.encode(&mut out);
        stream.write_all(&out)?;
        loop {
            let mut frame = vec![0; wire::HEADER];
            stream.read_exact(&mut frame)?;
            let length = wire::peek(&frame)?.ok_or("a header has a length")?;
            frame.resize(length, 0);
            stream.read_exact(&mut frame[wire::HEADER..])?;
            match Response::decode(&wire::decode(&frame)?)? {
                Response::Registered { .. } => break,
                // On a slow machine the first are over before the last are there.
                Response::Refused { code: Code::SESSION_EXPIRED, .. } => {}
                Response::Refused { code: Code::NOT_LEADER | Code::NOT_READY, .. } => {
                    return Ok(session);
                }
                other => return Err(format!("not registered: {other:?}").into()),
            }
        }
    }
    Ok(all.end)
}

fn open(name: &str, kind: u8) -> OpenV1 {
    OpenV1 { name: name.as_bytes().to_vec(), kind, options: Vec::new() }
}

/// Memory of this process in use, in bytes.
fn resident() -> Result<u64, Failed> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = text.split(' ').nth(1).ok_or("statm has seven numbers")?.parse()?;
    Ok(pages * 4_096)
}

/// One replica's state, without a log below it.
struct World {
    machine: Machine<Registry>,
    sequence: u64,
}

impl World {
    fn register(&mut self, n: u64) {
        let key = (u128::from(n) + 1).to_le_bytes();
        let payload = session::encode_register(&key, Micros::from_millis(10_000));
        self.apply(kind::REGISTER, 0, SessionId(0), ResourceId(0), &payload);
    }

    fn command<O: Encode + Operation>(&mut self, session: SessionId, id: ResourceId, command: &O) {
        self.sequence += 1;
        self.apply(O::KIND, O::SCHEMA, session, id, &command.encode());
    }

    fn apply(
        &mut self,
        kind: u8,
        schema: u16,
        session: SessionId,
        resource: ResourceId,
        payload: &[u8],
    ) {
        let index = self.machine.applied().next();
        // Everything is acknowledged, as clients do.
        let (sequence, acked) = (Sequence(self.sequence), Sequence(self.sequence.max(1) - 1));
        let entry = Entry { index, kind, schema, resource, session, sequence, acked, payload };
        self.machine.apply(index, LogTime(index.0), [entry], &mut Deaf);
    }
}

/// Nobody is told.
struct Deaf;

impl Sink for Deaf {
    fn reply(&mut self, _: Index, _: SessionId, _: Sequence, code: Code, _: &[u8]) {
        assert!(code.is_ok(), "{code}");
    }

    fn event(&mut self, _: Index, _: &Event) {}

    fn notice(&mut self, _: &Notice) {}

    fn registered(&mut self, _: Index, _: SessionId, _: &[u8; 16], _: Micros) {}

    fn ended(&mut self, _: Index, _: SessionId, _: EndReason) {}
}
