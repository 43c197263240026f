//! Sessions over fail-over, pauses and partitions: nothing is done twice, nobody is left waiting,
//! and nobody loses a session that could not be heard.

use margay::client::session::{Output, SessionState};
use margay::machine::{Code, Level, Outcome, ResourceId, Sequence, kind};
use margay::resource::codec::{Encode, Operation};
use margay::resource::counter::{AddV1, GetV1};
use margay::resource::lock::{GRANTED, HolderV1, LockV1, UnlockV1};
use margay::resource::transaction::CommitV1;
use margay::resource::value::{self, GetAndSetV1, SetV1};
use margay::wire;
use margay::wire::client::{Admin, RefusedOf, Request, Response};
use margay_log::id::{Index, Micros};

use super::caller::{Caller, number};
use super::group::Group;

/// A group, its leader, and the others.
fn group() -> (Group, u32, Vec<u32>) {
    let mut group = Group::new(3);
    let (leader, others) = group.led();
    (group, leader, others)
}

/// A reply is lost, and its leader with it; the next leader has the state from a snapshot. The
/// command is asked for again, and counts once.
#[test]
pub(super) fn client_retry_is_exactly_once() {
    let mut group = Group::with(3, |config| config.snapshot_after = 32 << 10);
    let (leader, others) = group.led();
    let (other, away) = (others[0], others[1]);
    let mut filler = Caller::new(&group, 1, &[leader], 60_000);
    let mut caller = Caller::new(&group, 2, &[leader, away, other], 60_000);
    let counter = caller.open(&mut group, "counter", kind::COUNTER);
    caller.add(&mut group, counter);
    group.isolate(away);
    let id = caller.command(&group, counter, &AddV1 { delta: 1 });
    caller.carry(&mut group);
    // Asked for, and the answer will not come.
    caller.cut.insert(leader);
    let last = group.replica(away).log().last().index;
    while group.replica(leader).log().start().id.index <= last {
        filler.fill(&mut group, 8);
    }
    group.heal();
    group.converge();
    assert_eq!(group.replica(away).snapshot_counts().installed, 1);
    assert!(caller.result(id).is_none());
    hand_over(&mut group, leader, away);
    group.crash(leader);
    let answer = caller.finish(&mut group, id).expect("it is answered from what is remembered");
    assert_eq!((number(&answer.payload, 0), number(&answer.payload, 8)), (1, 2));
    assert_eq!(caller.count(&mut group, counter), 2);
    group.start(leader);
    group.converge();
}

/// Leadership goes from one node to another.
fn hand_over(group: &mut Group, from: u32, to: u32) {
    let conn = group.connect(from).expect("it runs");
    let (name, mut frame) = (format!("n{to}"), Vec::new());
    Request::Admin { id: 1, admin: Admin::Transfer { name: &name } }.encode(&mut frame);
    group.say(conn, &frame);
    group.until("the other to lead", |group| group.leads() == Some(to));
}

/// A leader that is cut off says so to everybody who waits, within a second: a read changed
/// nothing, a command may or may not have been.
#[test]
pub(super) fn pending_clients_get_error_on_step_down() {
    let (mut group, leader, _) = group();
    group.converge();
    let conn = group.connect(leader).expect("it runs");
    let mut frame = Vec::new();
    let timeout = Micros::from_millis(10_000);
    Request::Register { correlation: 1, key: [9; 16], timeout }.encode(&mut frame);
    group.say(conn, &frame);
    let mut answer = Vec::new();
    group.until("a session", |group| {
        answer = group.heard(conn);
        !answer.is_empty()
    });
    assert!(refusals(&answer).is_empty());
    let resource = ResourceId(1);
    let open = margay::resource::registry::OpenV1 {
        name: b"counter".to_vec(),
        kind: kind::COUNTER,
        options: Vec::new(),
    };
    let payload = margay::resource::codec::Encode::encode(&open);
    let (level, schema) = (Level::Linearizable, 0x0101);
    group.isolate(leader);
    let (sequence, acked) = (margay::machine::Sequence(1), margay::machine::Sequence(0));
    let kind = kind::REGISTRY;
    let mut command = Vec::new();
    Request::Command { sequence, acked, kind, schema, resource, payload: &payload }
        .encode(&mut command);
    group.say(conn, &command);
    let mut query = Vec::new();
    let (seen, after) = (Index(0), sequence);
    Request::Query { id: 5, level, seen, after, kind, schema, resource, payload: &payload }
        .encode(&mut query);
    group.say(conn, &query);
    let mut heard = Vec::new();
    let begun = group.now;
    group.until("both to be told", |group| {
        heard.extend(group.heard(conn));
        let told = refusals(&heard);
        told.contains(&RefusedOf::Query(5)) && told.contains(&RefusedOf::Connection)
    });
    assert!(group.now.since(begun) <= Micros::from_millis(1_000), "in time");
    // Nothing was said of the command: it may come to be, so it is not "refused".
    let of_command = |of: &RefusedOf| matches!(of, RefusedOf::Command(_));
    assert!(!refusals(&heard).iter().any(of_command));
}

/// What is refused in a stream of answers.
fn refusals(mut bytes: &[u8]) -> Vec<RefusedOf> {
    let mut found = Vec::new();
    while let Ok(Some(length)) = wire::peek(bytes) {
        let frame = wire::decode(&bytes[..length]).expect("a frame");
        if let Ok(Response::Refused { of, .. }) = Response::decode(&frame) {
            found.push(of);
        }
        bytes = &bytes[length..];
    }
    found
}

/// A client that can speak to an isolated node of a higher term, and tries it first, finds the
/// others all the same.
#[test]
pub(super) fn higher_view_isolated_node_cannot_lock_out_client() {
    let (mut group, _, others) = group();
    let alone = others[0];
    group.isolate(alone);
    group.run(5_000);
    let rest: Vec<u32> = (1..=3).filter(|n| *n != alone).collect();
    let mut caller = Caller::new(&group, 1, &[alone, rest[0], rest[1]], 10_000);
    let begun = group.now;
    let counter = caller.open(&mut group, "counter", kind::COUNTER);
    assert_eq!(caller.add(&mut group, counter), 1);
    assert_eq!(caller.tried[0], alone);
    assert!(group.now.since(begun) < Micros::from_millis(3_000));
}

/// A leader without a quorum takes so much and no more, and forgets none of it.
#[test]
pub(super) fn uncommitted_entries_size_limit_when_no_quorum() {
    let mut group = Group::with(3, |config| config.group_in_flight = 64);
    let (leader, others) = group.led();
    let mut caller = Caller::new(&group, 1, &[leader], 60_000);
    let counter = caller.open(&mut group, "counter", kind::COUNTER);
    group.converge();
    // They answer, so that the leader leads on, and write nothing.
    others.iter().for_each(|n| group.node(*n).holds = Some(|_| true));
    let add = AddV1 { delta: 1 };
    let ids: Vec<_> = (0..500).map(|_| caller.command(&group, counter, &add)).collect();
    for _ in 0..30 {
        caller.carry(&mut group);
        group.run(100);
        let replica = group.replica(leader);
        let under_way = replica.log().last().index.since(replica.commit());
        assert!(under_way <= 66, "{under_way} entries wait for a quorum");
    }
    assert_eq!(group.leader(), leader);
    others.iter().for_each(|n| group.node(*n).holds = None);
    for id in ids {
        caller.finish(&mut group, id).expect("what was refused for load is asked for again");
    }
    assert_eq!(caller.count(&mut group, counter), 500);
}

/// Sessions of ten clients, that keep them alive while they can.
fn sessions(group: &mut Group, nodes: &[u32]) -> Vec<Caller> {
    let mut callers: Vec<Caller> =
        (1..=10).map(|name| Caller::new(group, name, nodes, 5_000)).collect();
    for caller in &mut callers {
        caller.open(group, "something", kind::COUNTER);
    }
    callers
}

/// Time passes, and the clients do what they do.
fn pass(group: &mut Group, callers: &mut [Caller], millis: u64) {
    for _ in 0..millis / 50 {
        group.run(50);
        callers.iter_mut().for_each(|caller| caller.carry(group));
    }
}

#[track_caller]
fn all_live(group: &mut Group, callers: &[Caller]) {
    group.converge();
    for n in group.running() {
        assert_eq!(group.replica(n).machine().sessions().len(), callers.len(), "n{n}");
    }
    for caller in callers {
        assert!(!caller.states().contains(&SessionState::Expired), "{:?}", caller.states());
    }
}

/// A leader that stood still for long finds that it has heard of no session for half a minute. It
/// may end none of them: others have led them meanwhile.
#[test]
pub(super) fn leases_not_mass_revoked_by_stuck_leader() {
    let (mut group, leader, others) = group();
    let mut callers = sessions(&mut group, &[leader, others[0], others[1]]);
    group.node(leader).paused = true;
    pass(&mut group, &mut callers, 30_000);
    assert_ne!(group.leads(), Some(leader));
    group.node(leader).paused = false;
    pass(&mut group, &mut callers, 10_000);
    all_live(&mut group, &callers);
    // And once more, where nobody could take over: no node has heard anybody.
    (1..=3).for_each(|n| group.node(n).paused = true);
    pass(&mut group, &mut callers, 30_000);
    (1..=3).for_each(|n| group.node(n).paused = false);
    pass(&mut group, &mut callers, 10_000);
    all_live(&mut group, &callers);
    // Who really goes is missed by nobody.
    callers.truncate(4);
    pass(&mut group, &mut callers, 12_000);
    all_live(&mut group, &callers);
    // A group of one always hears its quorum, and leads on: it was deaf, the clients not silent.
    let mut group = Group::new(1);
    let mut callers = sessions(&mut group, &[1]);
    group.node(1).paused = true;
    pass(&mut group, &mut callers, 30_000);
    group.node(1).paused = false;
    pass(&mut group, &mut callers, 10_000);
    all_live(&mut group, &callers);
}

/// The same where the leader's disk hangs: the others commit, and sessions are heard.
#[test]
pub(super) fn leases_outlive_a_disk_that_hangs() {
    let (mut group, leader, others) = group();
    let mut callers = sessions(&mut group, &[leader, others[0], others[1]]);
    group.node(leader).holds = Some(|_| true);
    pass(&mut group, &mut callers, 30_000);
    group.node(leader).holds = None;
    pass(&mut group, &mut callers, 5_000);
    all_live(&mut group, &callers);
}

/// A lock, and two clients that may want it.
struct Locking {
    group: Group,
    leader: u32,
    others: Vec<u32>,
    lock: ResourceId,
    one: Caller,
    two: Caller,
}

impl Locking {
    fn new() -> Locking {
        let (mut group, leader, others) = group();
        let nodes = [leader, others[0], others[1]];
        let mut one = Caller::new(&group, 1, &nodes, 6_000);
        let mut two = Caller::new(&group, 2, &nodes, 6_000);
        let lock = one.open(&mut group, "lock", kind::LOCK);
        two.open(&mut group, "lock", kind::LOCK);
        Locking { group, leader, others, lock, one, two }
    }

    /// Both do what they do, until something is so.
    #[track_caller]
    fn until(&mut self, what: &str, reached: impl Fn(&mut Caller, &mut Caller) -> bool) {
        let Locking { group, one, two, .. } = self;
        group.until(what, |group| {
            one.carry(group);
            two.carry(group);
            reached(one, two)
        });
    }
}

const ASK: LockV1 = LockV1 { request: 1, wait_ms: None };

/// The token of a grant: where it was granted at once, or by a notice.
fn token(caller: &mut Caller, answer: &margay::resource::Answer) -> Option<i64> {
    if answer.payload[0] == GRANTED {
        return Some(number(&answer.payload, 1));
    }
    caller.notices().into_iter().find_map(|notice| match notice.state {
        margay::machine::NoticeState::Granted { token } => Some(token as i64),
        _ => None,
    })
}

/// A holder that stood still for longer than its session lives has lost the lock, whatever it
/// thinks: the next token is higher, and what it says with its own counts for nothing.
#[test]
pub(super) fn lock_requires_fencing_token() {
    let mut scene = Locking::new();
    let lock = scene.lock;
    let id = scene.one.command(&scene.group, lock, &ASK);
    let answer = scene.one.finish(&mut scene.group, id).expect("nobody holds it");
    let first = token(&mut scene.one, &answer).expect("it is granted");
    let id = scene.two.command(&scene.group, lock, &ASK);
    let answer = scene.two.finish(&mut scene.group, id).expect("it waits");
    assert_eq!(token(&mut scene.two, &answer), None);
    // The first stands still; the second does not.
    for _ in 0..160 {
        scene.group.run(50);
        scene.two.carry(&mut scene.group);
    }
    let second = token(&mut scene.two, &answer).expect("granted when the session ended");
    assert!(second > first, "tokens rise: {first}, {second}");
    let late = scene.one.command(&scene.group, lock, &UnlockV1 { token: first as u64 });
    scene.until("the first to learn it", |one, _| one.states().contains(&SessionState::Expired));
    let lost = |told: &Output| matches!(told, Output::Lost(held) if held.len() == 1);
    assert!(scene.one.told.iter().any(lost), "it is told what it has lost");
    let _ = scene.one.result(late);
    let id = scene.two.query(&scene.group, Level::Linearizable, lock, &HolderV1 {});
    let holder = scene.two.finish(&mut scene.group, id).expect("it can be asked");
    assert_eq!((holder.payload[0], number(&holder.payload, 9)), (1, second));
}

/// The holder is cut off together with the leader. The other side elects one, waits for the session
/// to end, and has the lock; after the heal all goes on, nobody hangs.
#[test]
pub(super) fn lock_split_brain_heal_no_hang() {
    let mut scene = Locking::new();
    let (lock, leader, others) = (scene.lock, scene.leader, scene.others.clone());
    let id = scene.one.command(&scene.group, lock, &ASK);
    let answer = scene.one.finish(&mut scene.group, id).expect("nobody holds it");
    let first = token(&mut scene.one, &answer).expect("it is granted");
    scene.group.isolate(leader);
    scene.one.cut.extend(others);
    scene.two.cut.insert(leader);
    let id = scene.two.command(&scene.group, lock, &ASK);
    scene.until("the second to be heard", |_, two| two.session.in_flight() == 0);
    let answer = scene.two.result(id).expect("just seen").expect("it is answered");
    scene.until("the second to hold it", |_, two| token(two, &answer).is_some());
    let second = token(&mut scene.two, &answer).expect("just seen");
    assert!(second > first);
    let safe = scene.one.session.safe_until().expect("it had a session");
    assert!(safe <= scene.group.now, "the first knows by itself that it is over");

    scene.group.heal();
    scene.one.cut.clear();
    scene.two.cut.clear();
    scene.until("the first to learn it", |one, _| one.states().contains(&SessionState::Expired));
    scene.one.told.clear();
    let again = scene.one.command(&scene.group, lock, &ASK);
    scene.until("the first to wait", |one, _| one.session.in_flight() == 0);
    let answer = scene.one.result(again).expect("just seen").expect("it waits");
    scene.two.command(&scene.group, lock, &UnlockV1 { token: second as u64 });
    scene.until("the first to hold it again", |one, _| token(one, &answer).is_some());
    let third = token(&mut scene.one, &answer).expect("just seen");
    assert!(third > second);
    scene.group.converge();
}

/// A lease does not outlast a leader that was stopped: what it answers when it goes on is not from
/// before, whether others have elected meanwhile or not.
#[test]
pub(super) fn lease_with_pause() {
    let mut group = Group::new(3);
    let mut counted_by_others = 0;
    // Around 600 to 800 ms others have elected, and the old leader has not yet given up.
    let pauses = [100, 350, 500, 600, 650, 700, 720, 740, 760, 780, 600, 700, 750, 1_500, 4_000];
    for (round, pause) in (1..).zip(pauses) {
        let (leader, others) = group.led();
        let mut reader = Caller::new(&group, round, &[leader], 30_000);
        let counter = reader.open(&mut group, "counter", kind::COUNTER);
        let before = reader.count(&mut group, counter);
        group.run(200);
        reader.carry(&mut group);
        // Another client does not reach the old leader, and waits for the next.
        let mut writer = Caller::new(&group, 100 + round, &others, 30_000);
        writer.cut.insert(leader);
        group.node(leader).paused = true;
        let add = writer.command(&group, counter, &AddV1 { delta: 1 });
        let begun = group.now;
        while group.now.since(begun) < Micros::from_millis(pause) {
            group.run(10);
            writer.carry(&mut group);
        }
        let added = writer.result(add);
        let least = before + i64::from(added.is_some());
        counted_by_others += i64::from(added.is_some());
        group.node(leader).paused = false;
        let read = reader.query(&group, Level::Lease, counter, &GetV1 {});
        let read = reader.finish(&mut group, read).expect("it is read");
        let read = number(&read.payload, 0);
        assert!(read >= least, "after {pause} ms: {least} was there, not {read}");
        if added.is_none() {
            writer.cut.clear();
            writer.finish(&mut group, add).expect("added in the end");
        }
    }
    assert!(counted_by_others > 1, "others have led for a while");
}

/// Whoever guesses the number of a session does not keep it alive by that, whatever is asked.
#[test]
pub(super) fn a_stranger_keeps_no_session_alive() {
    let (mut group, leader, _) = group();
    group.converge();
    let owner = group.connect(leader).expect("it runs");
    let mut frame = Vec::new();
    let timeout = Micros::from_millis(1_000);
    Request::Register { correlation: 1, key: [9; 16], timeout }.encode(&mut frame);
    group.say(owner, &frame);
    group.until("a session", |group| !group.heard(owner).is_empty());
    let sessions = group.replica(leader).machine().sessions();
    let (session, _) = sessions.iter().next().expect("just registered");
    group.disconnect(owner);

    let (stranger, acked) = (group.connect(leader).expect("it runs"), Sequence(0));
    let guesses = [
        Request::Close { session },
        Request::KeepAlive { session, acked },
        Request::Attach { session, key: [8; 16], acked },
    ];
    for round in 0..30 {
        let mut frame = Vec::new();
        guesses[round % guesses.len()].encode(&mut frame);
        group.say(stranger, &frame);
        group.run(100);
    }
    assert!(group.replica(leader).machine().sessions().is_empty(), "it was silent for 3 s");
}

/// Each of the commands of a transaction may answer with what was there before: together that fits
/// no frame. It is done, and who asked for it learns that; nobody stops for it.
#[test]
pub(super) fn answers_that_fit_no_frame_are_not_sent() {
    let (mut group, leader, others) = group();
    let mut caller = Caller::new(&group, 1, &[leader, others[0], others[1]], 60_000);
    let mut commit = CommitV1::default();
    for n in 0..3 {
        let value = caller.open(&mut group, &format!("value {n}"), kind::VALUE);
        let set = SetV1 { value: vec![n; 1 << 20], ephemeral: false, ttl_ms: 0 };
        let id = caller.command(&group, value, &set);
        caller.finish(&mut group, id).expect("it is set");
        let swap = GetAndSetV1 { value: Vec::new(), ephemeral: false, ttl_ms: 0 };
        commit.kinds.push(GetAndSetV1::KIND);
        commit.schemas.push(GetAndSetV1::SCHEMA);
        commit.resources.push(value.0);
        commit.payloads.push(swap.encode());
    }
    let id = caller.command(&group, ResourceId(0), &commit);
    let failure = caller.finish(&mut group, id).expect_err("its answer is too long");
    assert_eq!((failure.code, failure.outcome()), (Code::REPLY_GONE, Outcome::Applied));
    let get = caller.query(
        &group,
        Level::Linearizable,
        ResourceId(commit.resources[2]),
        &value::GetV1 {},
    );
    let value = caller.finish(&mut group, get).expect("it can be read").payload;
    assert!(value.len() < 100, "it has been taken");
    group.converge();
}
