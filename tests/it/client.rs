//! The client against real sockets: a node in miniature on the other end, which can be told to
//! misbehave.

use std::collections::BTreeMap;
use std::future::Future;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::pin::Pin;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::thread;
use std::time::{Duration, Instant};

use margay::client::session::SessionState;
use margay::client::{Client, Error, Group, route};
use margay::machine::{Code, Filter, Level, Notice, NoticeState, Outcome, ResourceId};
use margay::machine::{Sequence, SessionId};
use margay::resource::{Delivery, Submit};
use margay::wire::client::{RefusedOf, Request, Response};
use margay::wire::{self, GroupStatus, HELLO_BYTES, Hello};
use margay_log::id::{ClusterId, GroupId, Index, Micros};

use crate::PATIENCE;

/// What a node remembers across connections: enough of a state machine to prove "once, in order".
#[derive(Default)]
struct State {
    /// By key: id and the last sequence applied.
    sessions: BTreeMap<[u8; 16], (SessionId, u64)>,
    /// Payloads in the order in which they were applied.
    applied: Vec<Vec<u8>>,
    closed: Vec<SessionId>,
    connections: u32,
    /// Break the connection instead of answering each so-many-th command.
    break_every: Option<usize>,
    /// Refuse everything with this leader's address.
    leader: Option<String>,
    /// Say nothing but the hello.
    mute: bool,
}

impl State {
    /// Applies a command, unless it was applied before. Whether the connection goes on.
    fn answer_command(
        &mut self,
        key: &[u8; 16],
        sequence: Sequence,
        payload: &[u8],
        index: Index,
        out: &mut Vec<u8>,
    ) -> bool {
        let (session, last) = self.sessions[key];
        if sequence.0 > last + 1 {
            let (of, code) = (RefusedOf::Command(sequence), Code::SEQUENCE_GAP);
            let (retry, leader, text) = (Micros(0), "", "");
            Response::Refused { of, code, retry, leader, text }.encode(out);
            return true;
        }
        if sequence.0 == last + 1 {
            self.applied.push(payload.to_vec());
            self.sessions.insert(*key, (session, sequence.0));
            let count = self.applied.len();
            if self.break_every.is_some_and(|every| count.is_multiple_of(every)) {
                return false;
            }
        }
        if payload == b"wait" {
            let (waiter, resource) = (Index(sequence.0 + 1_000), ResourceId(5));
            let notice = |state| Notice { session, resource, waiter, state };
            Response::Notice(notice(NoticeState::Waiting)).encode(out);
            let (code, payload) = (Code::OK, b"waiting");
            Response::Reply { sequence, index: waiter, code, payload }.encode(out);
            Response::Notice(notice(NoticeState::Granted { token: 9 })).encode(out);
        } else {
            Response::Reply { sequence, index, code: Code::OK, payload }.encode(out);
        }
        true
    }
}

#[derive(Clone)]
struct Node {
    address: String,
    state: Arc<Mutex<State>>,
}

impl Node {
    fn start(state: State) -> Node {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let node = Node { address, state: Arc::new(Mutex::new(state)) };
        let serving = node.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let node = serving.clone();
                thread::spawn(move || node.serve(&mut stream.unwrap()));
            }
        });
        node
    }

    fn applied(&self) -> Vec<String> {
        let state = self.state.lock().unwrap();
        let text = |payload: &Vec<u8>| String::from_utf8(payload.clone()).unwrap();
        state.applied.iter().map(text).collect()
    }

    fn serve(&self, stream: &mut TcpStream) -> Option<()> {
        self.state.lock().unwrap().connections += 1;
        let mut hello = [0; HELLO_BYTES];
        stream.read_exact(&mut hello).ok()?;
        let hello = Hello::decode(&hello).unwrap();
        let answer = Hello { cluster: ClusterId(77), groups: 4, ..hello };
        stream.write_all(&answer.encode()).ok()?;
        let (mut key, mut header) = (None, [0; wire::HEADER]);
        loop {
            stream.read_exact(&mut header).ok()?;
            let length = wire::peek(&header).unwrap().unwrap();
            let mut bytes = header.to_vec();
            bytes.resize(length, 0);
            stream.read_exact(&mut bytes[wire::HEADER..]).ok()?;
            let frame = wire::decode(&bytes).unwrap();
            let mut out = Vec::new();
            let request = Request::decode(&frame).unwrap();
            let goes_on = self.answer(hello.group, &request, &mut key, &mut out);
            stream.write_all(&out).ok()?;
            if !goes_on {
                stream.shutdown(Shutdown::Both).ok()?;
                return None;
            }
        }
    }

    fn answer(
        &self,
        group: GroupId,
        request: &Request<'_>,
        key: &mut Option<[u8; 16]>,
        out: &mut Vec<u8>,
    ) -> bool {
        let mut state = self.state.lock().unwrap();
        if state.mute {
            return true;
        }
        if let Some(leader) = &state.leader {
            let of = match *request {
                Request::Register { correlation, .. } => RefusedOf::Register(correlation),
                Request::Query { id, .. } => RefusedOf::Query(id),
                _ => RefusedOf::Connection,
            };
            let (code, retry) = (Code::NOT_LEADER, Micros(0));
            Response::Refused { of, code, retry, leader, text: "" }.encode(out);
            return true;
        }
        let index = Index(1_000 + state.applied.len() as u64);
        match *request {
            Request::Register { correlation, key: new, timeout } => {
                let next = SessionId(100 + state.sessions.len() as u64);
                let session = state.sessions.entry(new).or_insert((next, 0)).0;
                *key = Some(new);
                Response::Registered { correlation, session, timeout, index }.encode(out);
            }
            Request::Attach { session, key: old, .. } => {
                let known = state.sessions.get(&old).copied();
                let (_, last) = known.filter(|(id, _)| *id == session).unwrap();
                *key = Some(old);
                let (sequence, notices) = (Sequence(last), Vec::new());
                Response::Attached { session, index, sequence, notices }.encode(out);
            }
            Request::KeepAlive { session, .. } => {
                Response::KeptAlive { session, index }.encode(out);
            }
            Request::Close { session } => {
                state.closed.push(session);
                Response::Closed { session }.encode(out);
            }
            Request::Command { sequence, payload, .. } => {
                return state.answer_command(&key.unwrap(), sequence, payload, index, out);
            }
            Request::Query { id, payload, .. } => {
                Response::QueryReply { id, index, code: Code::OK, payload }.encode(out);
            }
            Request::Subscribe { id, after, .. } => {
                Response::Subscribed { id, index }.encode(out);
                // One event per connection, each once: the client remembers where it was.
                let ordinal = after.map_or(0, |(_, ordinal)| ordinal.wrapping_add(1));
                let (subscription, kind, payload) = (id, 1, b"happened");
                let index = Index(5_000);
                Response::Event { subscription, index, ordinal, kind, payload }.encode(out);
            }
            Request::Unsubscribe { .. } | Request::Admin { .. } => {}
            Request::Status { id } => {
                let status = GroupStatus { group, node: "n1".to_owned(), ..Default::default() };
                Response::Status { id, groups: vec![status] }.encode(out);
            }
        }
        true
    }
}

fn connect(node: &Node) -> Client {
    let builder = Client::builder().endpoints([node.address.as_str()]);
    builder.timeout(PATIENCE).connect().unwrap()
}

/// Why there is no client of `address`, in the first of these times in which the machine gets as
/// far as to hear why.
fn refused(address: &str, expected: impl Fn(&str, Duration) -> bool) -> Error {
    let mut heard = Vec::new();
    for time in [300, 3_000, 30_000].map(Duration::from_millis) {
        let error = Client::builder().endpoints([address]).timeout(time).connect().unwrap_err();
        if expected(&error.to_string(), time) {
            return error;
        }
        heard.push(error.to_string());
    }
    panic!("{heard:?}");
}

fn command(group: &Group, text: &str) -> margay::resource::Reply<margay::resource::Answer> {
    group.command(18, 1, ResourceId(5), text.as_bytes().to_vec())
}

#[test]
fn names_are_routed_as_ever() {
    // Golden: whoever changes this loses the resources of every existing cluster.
    let names = ["", "users", "jobs", "cfg/mode", "a@b", "a@", "hits@3", "x@y@0", "zoë"];
    let routed: Vec<Option<u32>> =
        names.iter().map(|name| route(name, 6).map(|group| group.0)).collect();
    assert_eq!(routed, GOLDEN_ROUTES.map(Some));
    assert_eq!(route("hits@6", 6), None);
    assert_eq!(route("hits@99999999999999999999", 6), None);
    assert_eq!(route("hits", 0), None);
    for groups in 1..40 {
        let all = (0..1_000).map(|n| route(&format!("name-{n}"), groups).unwrap().0);
        let mut counts = vec![0; groups as usize];
        all.for_each(|group| counts[group as usize] += 1);
        assert!(counts.iter().all(|count| *count > 0), "{groups} groups: {counts:?}");
    }
}

const GOLDEN_ROUTES: [u32; 9] = [0, 1, 4, 5, 3, 0, 3, 0, 5];

#[test]
fn commands_are_applied_once_and_in_order_though_connections_break() {
    let node = Node::start(State { break_every: Some(37), ..State::default() });
    let client = connect(&node);
    assert_eq!((client.cluster(), client.groups()), (ClusterId(77), 4));
    let group = client.group(GroupId(2));
    let texts: Vec<String> = (0..400).map(|n| format!("command {n}")).collect();
    let replies: Vec<_> = texts.iter().map(|text| command(&group, text)).collect();
    for (text, reply) in texts.iter().zip(replies) {
        assert_eq!(reply.wait().unwrap().payload, text.as_bytes());
    }
    assert_eq!(node.applied(), texts);
    assert!(node.state.lock().unwrap().connections > 10);
    client.close().unwrap();
    assert_eq!(node.state.lock().unwrap().closed.len(), 1);
}

#[test]
fn threads_share_a_client() {
    let node = Node::start(State::default());
    let client = connect(&node);
    let work = |thread: u32| {
        let client = client.clone();
        thread::spawn(move || {
            let group = client.group(GroupId(thread % 4));
            for n in 0..50 {
                command(&group, &format!("{thread}.{n}")).wait().unwrap();
                let level = Level::Linearizable;
                let query = group.query(level, 18, 1, ResourceId(5), b"read".to_vec());
                assert_eq!(query.wait().unwrap().payload, b"read");
            }
        })
    };
    let threads: Vec<_> = (0..8).map(work).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let mut applied = node.applied();
    applied.sort();
    applied.dedup();
    assert_eq!(applied.len(), 400);
}

#[test]
fn the_leader_is_followed() {
    let leader = Node::start(State::default());
    let other = State { leader: Some(leader.address.clone()), ..State::default() };
    let follower = Node::start(other);
    let client = connect(&follower);
    command(&client.group(GroupId(0)), "a").wait().unwrap();
    assert_eq!(leader.applied(), ["a"]);
}

#[test]
fn nobody_there_is_said_so() {
    let error = refused("127.0.0.1:1", |text, time| {
        let after = time.as_secs_f64();
        text == format!("no node answered after {after:.1}s (127.0.0.1:1: connection refused)")
    });
    assert_eq!((error.outcome(), error.is_retryable()), (Outcome::NotApplied, true));
    assert!(matches!(Client::builder().connect(), Err(Error::NoEndpoints)));
}

#[test]
fn a_call_is_over_by_its_deadline() {
    let node = Node::start(State::default());
    // Long before the client takes a connection that says nothing for broken.
    let (short, silence) = (Duration::from_millis(300), Duration::from_secs(5));
    let builder = Client::builder().endpoints([&node.address]).timeout(PATIENCE);
    let group = builder.silence(silence).connect().unwrap().group(GroupId(1));
    command(&group, "a").wait().unwrap();
    node.state.lock().unwrap().mute = true;
    let start = Instant::now();
    let failure = command(&group.clone().with_timeout(short), "b").wait().unwrap_err();
    let took = start.elapsed();
    assert!(took < PATIENCE / 2, "that is nearer to the client's own time: {took:?}");
    assert_eq!((failure.code, failure.outcome), (Code::TIMEOUT, Outcome::Unknown));
    // How long it waited itself: a busy machine takes it up late.
    let waited = failure.text.strip_prefix(&format!("no answer from {} after ", node.address));
    let waited = waited.and_then(|text| text.split('s').next()?.parse::<f64>().ok());
    let longest = took.as_secs_f64() + 0.1;
    assert!(waited.is_some_and(|time| (0.2..=longest).contains(&time)), "{}", failure.text);
    // Unknown now; but the command goes on, and what follows it finds its place.
    node.state.lock().unwrap().mute = false;
    command(&group, "c").wait().unwrap();
    assert_eq!(node.applied(), ["a", "b", "c"]);
}

/// For ever is a time-out, too.
#[test]
fn a_time_that_is_longer_than_any_is_one() {
    // The second is none at all in the lowest 64 bits of its microseconds.
    let works = |long: Duration| {
        let node = Node::start(State::default());
        let builder = Client::builder().endpoints([&node.address]).timeout(long).silence(long);
        let client = builder.connect_timeout(long).backoff(long, long).connect().unwrap();
        command(&client.group(GroupId(0)), "a").wait().unwrap();
        let _events = client.group(GroupId(0)).subscribe(ResourceId(5), None, Filter::All);
        assert!(client.status()[0].groups.is_ok());
        assert_eq!(node.applied(), ["a"]);
        client.close().unwrap();
    };
    for long in [Duration::MAX, Duration::from_secs(1 << 58)] {
        let (done, is_done) = channel();
        thread::spawn(move || {
            works(long);
            done.send(()).unwrap();
        });
        is_done.recv_timeout(PATIENCE).expect("whoever has time has an answer");
    }
}

#[test]
fn a_client_comes_and_goes_without_blocking() {
    let node = Node::start(State::default());
    let builder = Client::builder().endpoints([&node.address]).timeout(PATIENCE);
    let client = builder.clone().connecting().wait().unwrap();
    command(&client.group(GroupId(0)), "a").wait().unwrap();
    client.closing().wait().unwrap();
    assert_eq!(node.state.lock().unwrap().closed.len(), 1);
    client.closing().wait().unwrap();
    let nobody = Client::builder().endpoints(["127.0.0.1:1"]).timeout(Duration::from_millis(200));
    let failure = nobody.connecting().wait().unwrap_err();
    assert_eq!((failure.code, failure.outcome), (Code::NO_LEADER, Outcome::NotApplied));
    assert!(failure.text.starts_with("no node answered after 0.2s"), "{failure}");
    // Nobody answers: whoever asks has the reply at once all the same, and nothing is in it.
    let context = &mut Context::from_waker(Waker::noop());
    let client = builder.clone().connecting().wait().unwrap();
    command(&client.group(GroupId(0)), "b").wait().unwrap();
    node.state.lock().unwrap().mute = true;
    assert!(Pin::new(&mut builder.connecting()).poll(context).is_pending());
    assert!(Pin::new(&mut client.closing()).poll(context).is_pending());
}

#[test]
fn events_go_on_after_a_reconnect_and_end_with_the_client() {
    let node = Node::start(State { break_every: Some(1), ..State::default() });
    let client = connect(&node);
    let group = client.group(GroupId(1));
    let after = Some((Index(5_000), 6));
    let mut events = group.subscribe(ResourceId(5), after, Filter::Key(b"k".to_vec()));
    for expected in 7..10 {
        match events.wait_next().unwrap() {
            Delivery::Event { index, ordinal, kind: 1, payload } => {
                assert_eq!(
                    (index, ordinal, &payload[..]),
                    (Index(5_000), expected, &b"happened"[..])
                );
            }
            other => panic!("{other:?}"),
        }
        // Breaks the connection.
        command(&group, "a").wait().unwrap();
    }
    client.close().unwrap();
    while events.wait_next().is_ok() {}
    assert_eq!(events.wait_next().unwrap_err().code, Code::CLIENT_CLOSED);
}

#[test]
fn a_wait_ends_with_its_notice() {
    let node = Node::start(State::default());
    let client = connect(&node);
    let group = client.group(GroupId(1));
    let answer = command(&group, "wait").wait().unwrap();
    let state = group.await_notice(ResourceId(5), answer.index).wait();
    assert_eq!(state, Ok(NoticeState::Granted { token: 9 }));
    let over = group.await_notice(ResourceId(5), Index(4_000)).wait();
    assert_eq!(over, Ok(NoticeState::TimedOut));
    let earlier = group.await_notice(ResourceId(5), Index(3)).wait();
    assert_eq!(earlier.unwrap_err().code, Code::SESSION_EXPIRED);
}

#[test]
fn states_are_told_and_a_closed_client_sends_nothing() {
    let node = Node::start(State::default());
    let client = connect(&node);
    let states = client.session_states();
    let group = client.group(GroupId(1));
    command(&group, "a").wait().unwrap();
    client.close().unwrap();
    let told: Vec<_> = states.iter().filter(|(group, _)| group.0 == 1).collect();
    let expected = [SessionState::Connected, SessionState::Closed];
    assert_eq!(told, expected.map(|state| (GroupId(1), state)));
    let failure = command(&group, "b").wait().unwrap_err();
    assert_eq!((failure.code, failure.outcome), (Code::CLIENT_CLOSED, Outcome::NotApplied));
    assert_eq!(node.applied(), ["a"]);
    client.close().unwrap();
}

#[test]
fn the_last_client_dropped_ends_the_session() {
    let node = Node::start(State::default());
    let client = connect(&node);
    let group = client.group(GroupId(1));
    drop(client);
    command(&group, "a").wait().unwrap();
    drop(group);
    let end = Instant::now() + PATIENCE;
    while node.state.lock().unwrap().closed.is_empty() {
        assert!(Instant::now() < end);
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn every_endpoint_tells_its_status_or_why_not() {
    let node = Node::start(State::default());
    let endpoints = [node.address.clone(), "127.0.0.1:1".to_owned()];
    let client = Client::builder().endpoints(endpoints).timeout(PATIENCE).connect().unwrap();
    let status = client.status();
    let groups = status[0].groups.as_ref().unwrap();
    let asked: Vec<u32> = groups.iter().map(|status| status.group.0).collect();
    assert_eq!(asked, [0, 1, 2, 3], "all groups, though each answer knows one");
    let error = status[1].groups.as_ref().unwrap_err();
    assert_eq!(error.to_string(), "127.0.0.1:1: connection refused");
}

#[test]
fn a_name_that_asks_for_a_group_there_is_not_is_refused_at_once() {
    let node = Node::start(State::default());
    let client = connect(&node);
    assert_eq!(client.group_of("users@3").unwrap().id(), GroupId(3));
    let failure = client.map("users@4").wait().unwrap_err();
    assert_eq!((failure.code, failure.outcome), (Code::NO_SUCH_GROUP, Outcome::NotApplied));
    let expected = "users@4 names a group this cluster does not have: it has 4";
    assert_eq!(failure.text, expected);
}

#[test]
fn a_server_of_another_kind_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.unwrap().write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    refused(&address, |text, _| text.contains("HTTP is spoken"));
}
