//! The load generator: a closed loop of client sessions on one ring, one thread.
//!
//! Each connection is a socket with a session of its own, spread over the groups. As soon as an
//! operation is answered the next one is sent, so the number under way is constant. The time of an
//! operation runs from the turn of the loop that sends it to the turn that reads its answer.

mod connection;
mod workload;

use std::fs::File;
use std::io::{self, Read};
use std::time::{Duration, Instant};

use margay::client::session::{Call, CallId, IN_FLIGHT_MAX, Output, Session, SessionConfig};
use margay::machine::ResourceId;
use margay::resource::codec::{Encode, Operation};
use margay::resource::registry::OpenV1;
use margay::resource::{Answer, Failure};
use margay::tls::Tls;
use margay_log::id::{GroupId, Micros};

use crate::report::{Recorder, Report, Shape};
use crate::ring::Ring;
use connection::{Connection, number_of};
use workload::Template;
pub use workload::{KEYS, Workload};

/// Operations under way on one connection, at most.
pub const INFLIGHT_MAX: usize = IN_FLIGHT_MAX - 1;
/// Connections, at most.
pub const CONNECTIONS_MAX: usize = 10_000;

/// Deadlines of sessions are looked at this often.
const TICK: Duration = Duration::from_millis(10);
/// An operation that takes longer is an error.
const PATIENCE: Micros = Micros::from_millis(10_000);
/// Saying good-bye takes no longer than this.
const FAREWELL: Duration = Duration::from_millis(500);

/// What to run.
#[derive(Clone, Debug)]
pub struct Load {
    /// Addresses of nodes.
    pub endpoints: Vec<String>,
    /// Whose connections these are, if they are encrypted.
    pub tls: Option<Tls>,
    /// What to do.
    pub workload: Workload,
    /// How much of it at once.
    pub shape: Shape,
    /// Keys of each map, for the workloads that have some; [`KEYS`] unless something else is said.
    pub keys: u32,
    /// How long to measure; a fifth of it, at most a second, goes before to warm up.
    pub time: Duration,
}

/// How far it has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pulse {
    /// Since measuring began.
    pub elapsed: Duration,
    /// Answered so far.
    pub ops: u64,
}

/// Why there is nothing to report.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No session came about.
    #[error("no leader answered within {} s (tried {tried})", PATIENCE.0 / 1_000_000)]
    Unreachable {
        /// What came of each address.
        tried: String,
    },
    /// The cluster does not want this.
    #[error("{0}")]
    Refused(Failure),
    /// This machine does not do what is needed.
    #[error("the load generator's ring: {0}")]
    Ring(#[from] io::Error),
}

/// Runs a load against a cluster. `pulse` is called about ten times a second.
///
/// # Errors
/// When it cannot begin. Operations that fail later are counted.
pub fn run(load: &Load, pulse: &mut dyn FnMut(Pulse)) -> Result<Report, Error> {
    let mut world = World::new(load)?;
    world.open_resources(load)?;
    if load.workload == Workload::MapGet {
        world.fill(load)?;
    }
    world.template = Template::of(load.workload, load.shape.payload);
    let measured = world.measure(load, pulse)?;
    let report = world.recorder.report(load.workload.name(), load.shape, measured);
    world.farewell()?;
    Ok(report)
}

/// Writes every key of the maps once, and nothing else.
///
/// # Errors
/// At the first operation that fails.
pub fn fill(load: &Load) -> Result<(), Error> {
    let mut world = World::new(load)?;
    world.open_resources(load)?;
    world.fill(load)?;
    world.farewell()
}

/// What a connection's calls are for.
struct Client {
    connection: Connection,
    group: u32,
    resource: ResourceId,
    /// When the call in each slot was made.
    sent: Vec<Instant>,
    /// Operations that failed and are tried again at the next tick, so that a cluster that refuses
    /// at once is not asked in a tight loop.
    failed: usize,
    /// Of xorshift; never 0.
    random: u64,
}

struct World {
    ring: Ring,
    start: Instant,
    now: Instant,
    next_tick: Instant,
    clients: Vec<Client>,
    template: Template,
    keys: u32,
    recorder: Recorder,
}

impl World {
    /// Connects once to learn the number of groups, then spreads the connections over them.
    fn new(load: &Load) -> Result<World, Error> {
        let now = Instant::now();
        let template = Template::of(load.workload, load.shape.payload);
        let mut world = World {
            ring: Ring::new()?,
            start: now,
            now,
            next_tick: now,
            clients: Vec::new(),
            template,
            keys: load.keys,
            recorder: Recorder::new(),
        };
        world.add_client(load, 0)?;
        world.until(|world| world.clients[0].connection.session.cluster().is_some())?;
        let groups = world.clients[0].connection.session.cluster().map_or(1, |(_, groups)| groups);
        for n in 1..load.shape.connections {
            world.add_client(load, n as u32 % groups)?;
        }
        Ok(world)
    }

    fn add_client(&mut self, load: &Load, group: u32) -> Result<(), Error> {
        let mut random = [0; 24];
        File::open("/dev/urandom")?.read_exact(&mut random)?;
        let (key, seed) = random.split_first_chunk::<16>().expect("24 bytes are more than 16");
        let seed = u64::from_le_bytes(seed.try_into().expect("eight bytes")) | 1;
        let config = SessionConfig::new(GroupId(group), load.endpoints.clone(), *key, seed);
        let session = Session::new(config, self.micros());
        self.clients.push(Client {
            connection: Connection::new(session, self.clients.len(), load.tls.clone()),
            group,
            resource: ResourceId::REGISTRY,
            sent: Vec::new(),
            failed: 0,
            random: seed,
        });
        Ok(())
    }

    fn micros(&self) -> Micros {
        Micros((self.now - self.start).as_micros() as u64)
    }

    /// One turn of the loop. `finished` is told each call that is over, and by whom it was made.
    fn turn(
        &mut self,
        mut finished: impl FnMut(&mut World, usize, CallId, Result<Answer, Failure>),
    ) -> Result<(), Error> {
        let now = self.micros();
        for n in 0..self.clients.len() {
            // The client is borrowed anew each time: `finished` may submit to it.
            while let Some(output) = self.clients[n].connection.poll(now, &mut self.ring) {
                if let Output::Finished(call, result) = output {
                    finished(self, n, call, result);
                }
            }
            self.clients[n].connection.flush(&mut self.ring);
        }
        let patience = self.next_tick.saturating_duration_since(self.now);
        let mut done = Vec::new();
        self.ring.wait(Some(patience), &mut done)?;
        self.now = Instant::now();
        let now = self.micros();
        for completion in done {
            let client = &mut self.clients[number_of(&completion)];
            client.connection.on_completion(now, &mut self.ring, completion);
        }
        if self.now >= self.next_tick {
            self.next_tick = self.now + TICK;
            self.clients.iter_mut().for_each(|client| client.connection.tick(now));
        }
        Ok(())
    }

    /// Turns until `reached`, which must come in time.
    fn until(&mut self, reached: impl Fn(&World) -> bool) -> Result<(), Error> {
        let begin = self.now;
        while !reached(self) {
            self.turn(|_, _, _, _| {})?;
            if self.now - begin > Duration::from_micros(PATIENCE.0) {
                let tried = self.clients[0].connection.session.tried();
                return Err(Error::Unreachable { tried });
            }
        }
        Ok(())
    }

    fn submit(&mut self, n: usize, call: Call) -> CallId {
        let (now, sent) = (self.micros(), self.now);
        let client = &mut self.clients[n];
        let id = client.connection.session.submit(now, call, now.after(PATIENCE));
        if client.sent.len() <= id.slot() {
            client.sent.resize(id.slot() + 1, sent);
        }
        client.sent[id.slot()] = sent;
        id
    }

    /// Runs calls, `width` at a time on each connection, until each connection has made all of its.
    /// The first failure ends it.
    fn run_calls(
        &mut self,
        width: usize,
        mut next: impl FnMut(&mut World, usize) -> Option<Call>,
        mut answered: impl FnMut(&mut World, usize, Answer),
    ) -> Result<(), Error> {
        let mut open = 0usize;
        for n in 0..self.clients.len() {
            for _ in 0..width {
                let Some(call) = next(self, n) else { break };
                self.submit(n, call);
                open += 1;
            }
        }
        let mut failure = None;
        while open > 0 && failure.is_none() {
            self.turn(|world, n, _, result| {
                open -= 1;
                match result.and_then(Answer::ok) {
                    Err(error) => failure = Some((n, error)),
                    Ok(answer) => {
                        answered(world, n, answer);
                        if let Some(call) = next(world, n) {
                            world.submit(n, call);
                            open += 1;
                        }
                    }
                }
            })?;
        }
        let Some((n, failure)) = failure else { return Ok(()) };
        let tried = self.clients[n].connection.session.tried();
        if tried.is_empty() {
            Err(Error::Refused(failure))
        } else {
            Err(Error::Unreachable { tried })
        }
    }

    fn open_resources(&mut self, load: &Load) -> Result<(), Error> {
        let mut asked = vec![false; self.clients.len()];
        self.run_calls(
            1,
            |world, n| {
                let (kind, name) = load.workload.resource(world.clients[n].group);
                let open = OpenV1 { name: name.into_bytes(), kind, options: Vec::new() };
                let resource = ResourceId::REGISTRY;
                let (kind, schema) = (OpenV1::KIND, OpenV1::SCHEMA);
                let payload = open.encode();
                (!std::mem::replace(&mut asked[n], true)).then_some(Call::Command {
                    kind,
                    schema,
                    resource,
                    payload,
                })
            },
            |world, n, answer| {
                let id = answer.payload.first_chunk().copied().unwrap_or_default();
                world.clients[n].resource = ResourceId(u64::from_le_bytes(id));
            },
        )
    }

    /// Writes every key of every map once; each connection of a group writes its part.
    fn fill(&mut self, load: &Load) -> Result<(), Error> {
        let template = Template::put(load.shape.payload);
        let groups: Vec<u32> = self.clients.iter().map(|client| client.group).collect();
        let of_group = |group| groups.iter().filter(|other| **other == group).count() as u32;
        let mut keys: Vec<u32> = (0..groups.len())
            .map(|n| groups[..n].iter().filter(|g| **g == groups[n]).count() as u32)
            .collect();
        self.run_calls(
            load.shape.inflight,
            |world, n| {
                let key = keys[n];
                keys[n] += of_group(groups[n]);
                let client = &mut world.clients[n];
                let buffer = client.connection.session.buffer();
                (key < load.keys).then(|| template.call(client.resource, key, buffer))
            },
            |_, _, _| {},
        )
    }

    /// The closed loop. Returns how long was measured.
    fn measure(&mut self, load: &Load, pulse: &mut dyn FnMut(Pulse)) -> Result<Duration, Error> {
        for n in 0..self.clients.len() {
            (0..load.shape.inflight).for_each(|_| self.submit_next(n));
        }
        let warm_up = Duration::min(load.time / 5, Duration::from_secs(1));
        let mut begin = self.now + warm_up;
        let mut next_pulse = begin;
        let mut is_warm = false;
        loop {
            self.turn(|world, n, call, result| world.on_finished(n, call, result))?;
            if self.now < begin {
                continue;
            }
            if !is_warm {
                (is_warm, begin) = (true, self.now);
                self.recorder.reset();
            }
            let elapsed = self.now - begin;
            if elapsed >= load.time {
                return Ok(elapsed);
            }
            if self.now >= next_pulse {
                next_pulse = self.now + Duration::from_millis(100);
                pulse(Pulse { elapsed, ops: self.recorder.ops() });
                for n in 0..self.clients.len() {
                    let failed = std::mem::take(&mut self.clients[n].failed);
                    (0..failed).for_each(|_| self.submit_next(n));
                }
            }
        }
    }

    fn on_finished(&mut self, n: usize, call: CallId, result: Result<Answer, Failure>) {
        match result.and_then(Answer::ok) {
            Ok(answer) => {
                let client = &mut self.clients[n];
                self.recorder.operation(self.now - client.sent[call.slot()]);
                client.connection.session.recycle(answer.payload);
                self.submit_next(n);
            }
            Err(_) => {
                self.recorder.error();
                self.clients[n].failed += 1;
            }
        }
    }

    fn submit_next(&mut self, n: usize) {
        let client = &mut self.clients[n];
        client.random ^= client.random << 13;
        client.random ^= client.random >> 7;
        client.random ^= client.random << 17;
        let key = (client.random % u64::from(self.keys)) as u32;
        let buffer = client.connection.session.buffer();
        let call = self.template.call(client.resource, key, buffer);
        self.submit(n, call);
    }

    /// Ends the sessions, so that they do not stay until they expire.
    fn farewell(&mut self) -> Result<(), Error> {
        let (now, begin) = (self.micros(), self.now);
        self.clients.iter_mut().for_each(|client| client.connection.session.close(now));
        let is_closed = |client: &Client| {
            client.connection.session.state() == Some(margay::client::session::SessionState::Closed)
        };
        while !self.clients.iter().all(is_closed) && self.now - begin < FAREWELL {
            self.turn(|_, _, _, _| {})?;
        }
        Ok(())
    }
}
