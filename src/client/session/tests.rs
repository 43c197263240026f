//! Stories: a session and a scripted node that speaks in wire frames.

use super::*;
use crate::machine::{Level, Sequence};
use crate::wire::client::{RefusedOf, Response};
use crate::wire::{self, Hello};
use margay_log::id::GroupId;

mod delivery;
mod trouble;

const SECOND: Micros = Micros(1_000_000);
const S1: SessionId = SessionId(100);

/// One session, one connection at a time, and a clock that is moved by hand.
struct World {
    session: Session,
    now: Micros,
    /// Where the session is connected or wants to be.
    address: String,
    told: Vec<String>,
}

impl World {
    fn new() -> World {
        World::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut SessionConfig)) -> World {
        let endpoints = ["n1", "n2", "n3"].map(|name| format!("{name}:5150")).to_vec();
        let mut config = SessionConfig::new(GroupId(3), endpoints, *b"secret key of 16", 7);
        change(&mut config);
        let session = Session::new(config, Micros(0));
        World { session, now: Micros(0), address: String::new(), told: Vec::new() }
    }

    /// Connects wherever the session wants to, and answers its hello.
    fn connect(&mut self) {
        self.look();
        let address = self.address.clone();
        self.session.on_connected(self.now, &address);
        let hello = Hello::decode(&std::mem::take(self.session.outgoing())).unwrap();
        assert_eq!(hello.group, GroupId(3));
        let answer = Hello { cluster: ClusterId(9), groups: 8, ..hello };
        self.session.on_bytes(self.now, &answer.encode());
    }

    /// Connected, registered, with nothing under way.
    fn registered() -> World {
        let mut world = World::new();
        world.session.register(world.now);
        world.connect();
        assert_eq!(world.sent(), ["register 0"]);
        world.says(&registered(0, S1));
        assert_eq!(world.told(), ["Connected"]);
        world
    }

    fn command(&mut self, text: &str, seconds: u64) -> CallId {
        let (kind, schema, resource) = (18, 1, ResourceId(5));
        let call = Call::Command { kind, schema, resource, payload: text.as_bytes().to_vec() };
        self.session.submit(self.now, call, self.now.after(Micros(seconds * SECOND.0)))
    }

    fn query(&mut self, text: &str) -> CallId {
        let (level, kind, schema, resource) = (Level::Linearizable, 18, 1, ResourceId(5));
        let payload = text.as_bytes().to_vec();
        let call = Call::Query { level, kind, schema, resource, payload };
        self.session.submit(self.now, call, self.now.after(Micros(5 * SECOND.0)))
    }

    /// The node says something.
    fn says(&mut self, response: &Response<'_>) {
        let mut bytes = Vec::new();
        response.encode(&mut bytes);
        self.session.on_bytes(self.now, &bytes);
    }

    fn replies(&mut self, sequence: u64, index: u64) {
        self.says(&reply(sequence, index, Code::OK));
    }

    fn refuses(&mut self, of: RefusedOf, code: Code, leader: &str) {
        self.says(&Response::Refused { of, code, retry: Micros(0), leader, text: "" });
    }

    /// The connection breaks, and the session gets another one.
    fn reconnect(&mut self) {
        self.session.on_disconnected(self.now);
        self.connect();
    }

    /// As `reconnect`, up to the point where commands are sent again.
    fn reattach(&mut self) {
        self.reconnect();
        assert_eq!(self.sent(), ["attach S100"]);
        self.says(&attached(vec![]));
    }

    fn wait(&mut self, span: Micros) {
        self.now = self.now.after(span);
        self.session.on_tick(self.now);
    }

    /// Moves the clock from deadline to deadline, at most `span`.
    fn pass(&mut self, span: Micros) {
        let end = self.now.after(span);
        while let Some(at) = self.session.deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.session.on_tick(self.now);
            self.session.outgoing();
        }
        self.now = end;
        self.session.on_tick(self.now);
    }

    /// What the session has sent since last asked, in short.
    fn sent(&mut self) -> Vec<String> {
        let bytes = std::mem::take(self.session.outgoing());
        let (mut rest, mut all) = (&bytes[..], Vec::new());
        while let Some(length) = wire::peek(rest).unwrap() {
            let frame = wire::decode(&rest[..length]).unwrap();
            all.push(short(&Request::decode(&frame).unwrap()));
            rest = &rest[length..];
        }
        assert!(rest.is_empty());
        all
    }

    /// What the session has told since last asked, in short.
    fn told(&mut self) -> Vec<String> {
        self.look();
        std::mem::take(&mut self.told)
    }

    fn look(&mut self) {
        while let Some(output) = self.session.poll() {
            let text = match output {
                Output::Connect(address) => {
                    self.address = address;
                    continue;
                }
                Output::Disconnect => continue,
                Output::Finished(call, Ok(answer)) => {
                    format!("{} ok at {} {:?}", call.slot(), answer.index, answer.code)
                }
                Output::Finished(call, Err(failure)) => {
                    format!("{} {:?} {:?}", call.slot(), failure.outcome, failure.code)
                }
                Output::Status(call, groups) => format!("{} {} groups", call.slot(), groups.len()),
                Output::Event { index, ordinal, .. } => format!("event {index}.{ordinal}"),
                Output::Lagged { oldest, .. } => format!("lagged, from {oldest}"),
                Output::Ended { failure, .. } => format!("ended {:?}", failure.code),
                Output::Notice(notice) => format!("{} {:?}", notice.waiter, notice.state),
                Output::Lost(lost) => format!("lost {}", lost.len()),
                Output::State(state) => format!("{state:?}"),
            };
            self.told.push(text);
        }
    }
}

fn short(request: &Request<'_>) -> String {
    let text = |payload: &[u8]| String::from_utf8_lossy(payload).into_owned();
    match request {
        Request::Register { correlation, .. } => format!("register {correlation}"),
        Request::Attach { session, .. } => format!("attach {session}"),
        Request::KeepAlive { acked, .. } => format!("keep-alive {acked}"),
        Request::Close { session } => format!("close {session}"),
        Request::Command { sequence, kind: crate::machine::kind::REFUSED, .. } => {
            format!("{sequence} nothing")
        }
        Request::Command { sequence, acked, payload, .. } => {
            format!("{sequence} {} acked {acked}", text(payload))
        }
        Request::Query { seen, after, payload, .. } => {
            format!("query {} after {after} seen {seen}", text(payload))
        }
        Request::Subscribe { after, .. } => match after {
            Some((index, ordinal)) => format!("subscribe after {index}.{ordinal}"),
            None => "subscribe from now".to_owned(),
        },
        Request::Unsubscribe { .. } => "unsubscribe".to_owned(),
        Request::Status { .. } => "status".to_owned(),
        Request::Admin { .. } => "admin".to_owned(),
    }
}

fn registered(life: u64, session: SessionId) -> Response<'static> {
    let timeout = Micros(10 * SECOND.0);
    Response::Registered { correlation: life, session, timeout, index: Index(session.0) }
}

fn attached(notices: Vec<Notice>) -> Response<'static> {
    Response::Attached { session: S1, index: Index(200), sequence: Sequence(0), notices }
}

fn reply(sequence: u64, index: u64, code: Code) -> Response<'static> {
    Response::Reply { sequence: Sequence(sequence), index: Index(index), code, payload: b"" }
}

#[test]
fn the_first_command_registers_and_queries_need_no_session() {
    let mut world = World::new();
    world.query("q1");
    world.connect();
    assert_eq!(world.sent(), ["query q1 after #0 seen 0"]);
    world.command("a", 5);
    world.query("q2");
    assert_eq!(world.sent(), ["register 0"], "what was called after the command waits for it");
    world.says(&registered(0, S1));
    assert_eq!(world.sent(), ["#1 a acked #0", "query q2 after #1 seen 0"]);
    world.replies(1, 101);
    world.query("q3");
    assert_eq!(world.sent(), ["query q3 after #1 seen 101"]);
    assert_eq!(world.told(), ["Connected", "1 ok at 101 OK(0)"]);
}

#[test]
fn bytes_may_be_cut_anywhere() {
    let mut world = World::registered();
    world.command("a", 5);
    world.command("b", 5);
    world.sent();
    let mut bytes = Vec::new();
    reply(1, 101, Code::OK).encode(&mut bytes);
    reply(2, 102, Code::OK).encode(&mut bytes);
    for byte in bytes {
        world.session.on_bytes(world.now, &[byte]);
    }
    assert_eq!(world.told(), ["0 ok at 101 OK(0)", "1 ok at 102 OK(0)"]);
}

#[test]
fn a_lost_reply_is_answered_once_under_the_same_number() {
    let mut world = World::registered();
    for text in ["a", "b", "c"] {
        world.command(text, 5);
    }
    assert_eq!(world.sent(), ["#1 a acked #0", "#2 b acked #0", "#3 c acked #0"]);
    world.replies(1, 101);
    // The node applied 2 as well, but its answer is lost with the connection.
    world.reattach();
    assert_eq!(world.sent(), ["keep-alive #1", "#2 b acked #1", "#3 c acked #1"]);
    world.replies(2, 102);
    world.replies(2, 102);
    world.replies(3, 103);
    assert_eq!(world.told(), ["0 ok at 101 OK(0)", "1 ok at 102 OK(0)", "2 ok at 103 OK(0)"]);
    world.command("d", 5);
    assert_eq!(world.sent(), ["#4 d acked #3"]);
}

#[test]
fn a_lost_answer_to_register_is_asked_for_with_the_same_key() {
    let mut world = World::new();
    world.command("a", 5);
    world.connect();
    let mut keys = Vec::new();
    for _ in 0..2 {
        let bytes = std::mem::take(world.session.outgoing());
        match Request::decode(&wire::decode(&bytes).unwrap()).unwrap() {
            Request::Register { key, .. } => keys.push(key),
            other => panic!("{other:?}"),
        }
        world.reconnect();
    }
    assert_eq!(keys, [*b"secret key of 16"; 2]);
    assert_eq!(world.sent(), ["register 0"]);
    world.says(&registered(0, S1));
    assert_eq!(world.sent(), ["#1 a acked #0"]);
}

#[test]
fn the_leader_is_found_by_its_name_in_a_refusal() {
    let mut world = World::registered();
    world.command("a", 5);
    world.query("q");
    world.sent();
    world.refuses(RefusedOf::Command(Sequence(1)), Code::NOT_LEADER, "n9:5150");
    // The refusal of the query comes too late to matter.
    world.refuses(RefusedOf::Query(2), Code::NOT_LEADER, "n1:5150");
    world.connect();
    assert_eq!(world.address, "n9:5150");
    assert_eq!(world.sent(), ["attach S100"]);
    world.says(&attached(vec![]));
    assert_eq!(
        world.sent(),
        ["keep-alive #0", "#1 a acked #0", "query q after #1 seen 0"],
        "in the old order",
    );
}

#[test]
fn a_refusal_for_load_is_waited_out_and_order_is_kept() {
    let mut world = World::registered();
    for text in ["a", "b", "c"] {
        world.command(text, 5);
    }
    world.sent();
    let retry = Micros::from_millis(70);
    let of = RefusedOf::Command(Sequence(2));
    world.says(&Response::Refused { of, code: Code::OVERLOADED, retry, leader: "", text: "" });
    world.replies(1, 101);
    world.command("d", 5);
    assert!(world.sent().is_empty(), "held back");
    world.wait(Micros::from_millis(69));
    assert!(world.sent().is_empty(), "still");
    assert!(world.session.deadline().unwrap() <= world.now.after(Micros::from_millis(1)));
    world.wait(Micros::from_millis(1));
    assert_eq!(world.sent(), ["#2 b acked #1", "#3 c acked #1", "#4 d acked #1"]);
}

#[test]
fn a_refusal_and_its_echoes_make_one_pause() {
    let mut world = World::registered();
    for text in ["a", "b", "c", "d", "e", "f"] {
        world.command(text, 5);
    }
    world.sent();
    world.refuses(RefusedOf::Command(Sequence(2)), Code::OVERLOADED, "");
    for sequence in 3..=6 {
        world.refuses(RefusedOf::Command(Sequence(sequence)), Code::SEQUENCE_GAP, "");
    }
    world.wait(Micros::from_millis(20));
    let sent = world.sent();
    assert_eq!(sent[0], "#2 b acked #0", "1 was not refused");
    assert_eq!(sent.len(), 5);
}

#[test]
fn too_many_calls_at_once_are_refused_and_nothing_is_lost() {
    let mut world = World::with(|config| config.in_flight_max = 2);
    world.command("a", 5);
    world.command("b", 5);
    world.command("c", 5);
    assert_eq!(world.told(), ["2 NotApplied OVERLOADED(503)"]);
    world.connect();
    world.says(&registered(0, S1));
    world.sent();
    world.says(&registered(0, S1));
    assert_eq!(world.sent(), ["#1 a acked #0", "#2 b acked #0"]);
    world.replies(1, 101);
    world.command("d", 5);
    assert_eq!(world.sent(), ["#3 d acked #1"]);
}

/// What is given back must not be lost: nobody else would.
#[test]
fn a_command_without_a_deadline_is_neither_refused_for_load_nor_given_up() {
    let mut world = World::with(|config| config.in_flight_max = 2);
    for text in ["a", "b"] {
        world.command(text, 5);
    }
    let (kind, schema, resource) = (18, 1, ResourceId(5));
    let call = Call::Command { kind, schema, resource, payload: b"give back".to_vec() };
    world.session.submit(world.now, call, NEVER);
    assert!(world.told().is_empty());
    world.pass(Micros(60 * SECOND.0));
    assert_eq!(world.told(), ["0 NotApplied NO_LEADER(704)", "1 NotApplied NO_LEADER(704)"]);
    assert_eq!(world.session.in_flight(), 1);
    world.connect();
    assert_eq!(world.sent(), ["register 0"]);
    world.says(&registered(0, S1));
    assert_eq!(world.sent(), ["#1 give back acked #0"]);
    // With the session it ends, and so does what it would have given back.
    world.refuses(RefusedOf::Session(S1), Code::SESSION_EXPIRED, "");
    assert_eq!(world.session.in_flight(), 0);
}

#[test]
fn a_steady_session_allocates_no_payloads() {
    let mut world = World::registered();
    for sequence in 1..=100 {
        let mut payload = world.session.buffer();
        assert_eq!(payload.capacity() > 0, sequence > 1, "{sequence}");
        payload.extend_from_slice(b"value");
        let (kind, schema, resource) = (18, 1, ResourceId(5));
        let call = Call::Command { kind, schema, resource, payload };
        world.session.submit(world.now, call, SECOND);
        world.session.outgoing().clear();
        let mut bytes = Vec::new();
        let (sequence, index) = (Sequence(sequence), Index(sequence));
        Response::Reply { sequence, index, code: Code::OK, payload: b"old" }.encode(&mut bytes);
        world.session.on_bytes(world.now, &bytes);
        while let Some(output) = world.session.poll() {
            if let Output::Finished(call, Ok(answer)) = output {
                assert_eq!(call.slot(), 0);
                world.session.recycle(answer.payload);
            }
        }
    }
}

#[test]
fn two_sessions_with_the_same_seed_do_the_same() {
    let story = || {
        let mut world = World::new();
        let mut all = Vec::new();
        for _ in 0..20 {
            world.pass(Micros::from_millis(300));
            let reason = "connection refused";
            world.session.on_failed(world.now, reason);
            world.look();
            all.push((world.address.clone(), world.session.deadline()));
        }
        all
    };
    assert_eq!(story(), story());
}
