//! One replica on a disk that can be held up, with two others that agree to everything: what
//! becomes of it when its own snapshots, or a user's code, fail at a bad moment, or turns are long.

mod turns;

use std::collections::BTreeMap;
use std::sync::Arc;

use margay::machine::bytes::{self, Reader};
use margay::machine::{
    Code, Commit, Effects, Events, Frozen, Level, LogTime, Notice, NoticeState, Query, ResourceId,
    RestoreError, Restoring, SessionId, StateMachine,
};
use margay::raft::message::{Body, Config, Message, RoleKind, Round};
use margay::replica::membership::Member;
use margay::replica::{ConnId, Host, Replica, ReplicaConfig};
use margay::wire::client::{NOTICES_MAX, Request, Response};
use margay::wire::peer::PeerMessage;
use margay::wire::repair::RepairRequest;
use margay::wire::{self, Kind};
use margay_log::batch::Batch;
use margay_log::disk::sim::SimDisk;
use margay_log::disk::{Disk, Op, SnapshotStep};
use margay_log::id::{
    BatchEnd, Chain, ClusterId, EntryId, GroupId, Incarnation, Index, Micros, NodeId,
};
use margay_log::{Options, open};

const CLUSTER: ClusterId = ClusterId(7);
const GROUP: GroupId = GroupId(0);
const CONN: ConnId = ConnId(1);
/// In a snapshot's file: in its first chunk's payload, behind its headers.
const FIRST_CHUNK: u64 = margay_log::snapshot::SNAPSHOT_HEADER as u64 + 33;
/// A kind of entry that is nobody else's.
const NOTE: u8 = 200;

/// Keeps the last note it was given, and breaks where the note says so.
#[derive(Clone, Debug, Default)]
struct Notebook {
    note: Vec<u8>,
    applied: u64,
}

impl Notebook {
    fn breaks_at(&self, what: &[u8]) {
        assert!(self.note != what, "told to break");
    }
}

impl StateMachine for Notebook {
    type Frozen = Copied;
    type Restoring = Copying;

    fn check(_: u8, _: u16, _: &[u8]) -> Result<(), Code> {
        Ok(())
    }

    fn apply(&mut self, commit: &Commit<'_>, _: &mut Effects) {
        self.note = commit.payload.to_vec();
        self.applied += 1;
    }

    fn query(&self, query: &Query<'_>, effects: &mut Effects) {
        bytes::put_u64(&mut effects.reply, self.applied);
        if query.payload == b"at length" {
            effects.reply.resize(3 << 20, 0);
        }
    }

    fn session_ended(&mut self, _: SessionId, _: &Commit<'_>, _: usize, _: &mut Effects) -> usize {
        0
    }

    fn next_timer(&self) -> Option<LogTime> {
        None
    }

    fn fire(&mut self, _: Index, _: LogTime, _: usize, _: &mut Effects) -> usize {
        0
    }

    fn holdings(&self, session: SessionId, _: LogTime, out: &mut Vec<Notice>) {
        self.breaks_at(b"break when asked what is held");
        let holds = match &self.note[..] {
            b"hold much" => 3 << 10,
            b"hold too much" => NOTICES_MAX as u64 + 1,
            _ => 0,
        };
        let (resource, state) = (ResourceId(1), NoticeState::Waiting);
        out.extend((0..holds).map(|n| Notice { session, resource, waiter: Index(n), state }));
    }

    fn events(&self, _: ResourceId, _: (Index, u32), _: &[u8]) -> Events {
        Events::Lagged { oldest: Index::ZERO }
    }

    fn freeze(&self) -> Copied {
        self.breaks_at(b"break when frozen");
        Copied(self.clone())
    }

    fn restore(_: Index) -> Copying {
        Copying::default()
    }
}

struct Copied(Notebook);

impl Frozen for Copied {
    fn next_chunk(&mut self, _: usize, out: &mut Vec<u8>) -> bool {
        self.0.breaks_at(b"break when written out");
        if self.0.note == b"write out too much" {
            out.resize((16 << 20) + 1, 0);
        }
        bytes::put_u64(out, self.0.applied);
        bytes::put_bytes(out, &self.0.note);
        false
    }
}

#[derive(Default)]
struct Copying(Notebook);

impl Restoring for Copying {
    type State = Notebook;

    fn feed(&mut self, chunk: &[u8]) -> Result<(), RestoreError> {
        let mut reader = Reader::new(chunk);
        let damaged = |_| RestoreError::Damaged { what: "the notebook" };
        self.0.applied = reader.u64().map_err(damaged)?;
        self.0.note = reader.bytes().map_err(damaged)?.to_vec();
        self.0.breaks_at(b"break when restored");
        Ok(())
    }

    fn finish(self) -> Result<Notebook, RestoreError> {
        Ok(self.0)
    }
}

/// What the replica has put out.
#[derive(Default)]
struct Outbox {
    clients: BTreeMap<ConnId, Vec<u8>>,
    peers: Vec<(NodeId, Vec<u8>, Option<Arc<Batch>>)>,
    ops: Vec<Op>,
    /// Every turn is a long one.
    long: bool,
}

impl Host for Outbox {
    fn client(&mut self, conn: ConnId) -> Option<&mut Vec<u8>> {
        Some(self.clients.entry(conn).or_default())
    }

    fn close(&mut self, _: ConnId) {}

    fn peer(&mut self, to: NodeId, frame: &[u8], batch: Option<&Arc<Batch>>) {
        self.peers.push((to, frame.to_vec(), batch.cloned()));
    }

    fn disk(&mut self, op: Op) {
        self.ops.push(op);
    }

    fn is_turn_long(&mut self) -> bool {
        self.long
    }
}

struct World {
    replica: Replica<Notebook>,
    disk: SimDisk,
    out: Outbox,
    now: Micros,
    /// Reads of snapshots do not end.
    holds_reads: bool,
    /// How often the others were asked for what is lacking.
    asked_for_state: usize,
    /// How often another was told to stand.
    handed_over: usize,
    sequence: u64,
}

fn options() -> Options {
    Options {
        cluster: CLUSTER,
        group: GROUP,
        segment_first: 32 << 10,
        segment_max: 32 << 10,
        keep_rotten: true,
        ..Options::default()
    }
}

/// Frames must lie on a boundary of 16 bytes, as they do where they are received.
fn aligned(frame: &[u8]) -> Vec<u128> {
    let words = frame.chunks_exact(16);
    words.map(|word| u128::from_ne_bytes(word.try_into().expect("16 bytes"))).collect()
}

fn as_bytes(words: &[u128]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

impl World {
    fn open(mut disk: SimDisk, founders: u32, now: Micros) -> World {
        let opened = open(&mut disk, options()).expect("it opens");
        let members = (1..=founders).map(|id| Member {
            id: NodeId(id),
            name: format!("n{id}"),
            address: format!("127.0.0.1:{id}"),
            incarnation: Incarnation(id.into()),
        });
        let raft = Config::new(NodeId(1), 1);
        let config = ReplicaConfig {
            snapshot_after: 48 << 10,
            scrub_pause: Micros::from_millis(5),
            ..ReplicaConfig::new(CLUSTER, GROUP, members.collect(), raft)
        };
        let replica = Replica::new(config, opened, Notebook::default(), now);
        World {
            replica: replica.expect("it takes over"),
            disk,
            out: Outbox::default(),
            now,
            holds_reads: false,
            asked_for_state: 0,
            handed_over: 0,
            sequence: 0,
        }
    }

    fn turn(&mut self) {
        self.now = self.now.after(Micros(1_000));
        self.replica.flush(self.now, &mut self.out).expect("nothing fatal");
        self.out.ops.drain(..).for_each(|op| self.disk.submit(op));
        let is_held = |op: &Op| {
            matches!(op, Op::Snapshot { step: SnapshotStep::Read { .. }, .. }) && self.holds_reads
        };
        let ends: Vec<usize> = self
            .disk
            .in_flight()
            .enumerate()
            .filter(|(_, op)| !is_held(op))
            .map(|(n, _)| n)
            .collect();
        ends.into_iter().rev().for_each(|n| self.disk.complete(n));
        let mut done = Vec::new();
        self.disk.poll(false, &mut done);
        for done in done {
            self.replica.on_disk(self.now, done, &mut self.out).expect("nothing fatal");
        }
        for (to, frame, batch) in std::mem::take(&mut self.out.peers) {
            self.answer(to, &frame, batch.as_deref());
        }
    }

    /// What another node says to that.
    fn answer(&mut self, from: NodeId, frame: &[u8], batch: Option<&Batch>) {
        let frame = wire::decode(frame).expect("a frame");
        if frame.kind == Kind::RepairRequest {
            self.asked_for_state += 1;
        }
        let Ok(PeerMessage { message, chain, .. }) = PeerMessage::decode(&frame) else { return };
        self.handed_over += usize::from(message.body == Body::TimeoutNow);
        let (body, chain) = match message.body {
            Body::PreVote { .. } => (Body::PreVoteReply { granted: true }, chain),
            Body::Vote { .. } => (Body::VoteReply { granted: true }, chain),
            Body::Append { prev, round, .. } => {
                let (matched, chain) = match batch {
                    Some(batch) => (batch.header().last().index, batch.header().chain),
                    None => (prev.index, chain),
                };
                (Body::AppendAck { matched, round }, chain)
            }
            _ => return,
        };
        self.is_told(from, Message { term: message.term, body }, chain);
    }

    /// Another node says something to this one.
    fn is_told(&mut self, from: NodeId, message: Message, chain: Chain) {
        let mut frame = Vec::new();
        PeerMessage { message, chain, batch_length: 0 }.encode(&mut frame);
        let frame = as_bytes(&aligned(&frame));
        let frame = wire::decode(&frame).expect("a frame");
        self.replica.on_peer(self.now, from, &frame, None, &mut self.out).expect("it is sound");
    }

    /// Another node leads, in the next term.
    fn is_deposed_by(&mut self, from: NodeId) {
        let term = self.replica.term().next();
        let (prev, batch, commit, round) = (EntryId::ZERO, None, Index::ZERO, Round(1));
        let body = Body::Append { prev, batch, commit, round };
        self.is_told(from, Message { term, body }, Chain::default());
    }

    fn until(&mut self, what: &str, reached: impl Fn(&World) -> bool) {
        for _ in 0..5_000 {
            if reached(self) {
                return;
            }
            self.turn();
        }
        let (now, counts) = (self.replica.status(), self.replica.snapshot_counts());
        panic!("{what}: {now:?}, {counts:?}");
    }

    fn leads(&self) -> bool {
        self.replica.raft().role() == RoleKind::Leader
    }

    fn says(&mut self, request: &Request<'_>) {
        self.says_often(CONN, 1, request);
    }

    /// The same so many times, on any connection.
    fn says_often(&mut self, conn: ConnId, times: usize, request: &Request<'_>) {
        let mut frame = Vec::new();
        request.encode(&mut frame);
        let frame = as_bytes(&aligned(&frame));
        let frame = wire::decode(&frame).expect("a frame");
        let World { replica, now, out, .. } = self;
        for _ in 0..times {
            replica.on_client(*now, conn, &frame, out).expect("a sound frame");
        }
    }

    /// The frames that the client was sent, as text.
    fn heard(&mut self) -> Vec<String> {
        let bytes = self.out.clients.remove(&CONN).unwrap_or_default();
        let (mut frames, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            let length = wire::peek(&bytes[at..]).expect("sound").expect("whole");
            let frame = wire::decode(&bytes[at..at + length]).expect("a frame");
            frames.push(format!("{:?}", Response::decode(&frame)));
            at += length;
        }
        frames
    }

    /// Elects this node and registers a session.
    fn lead(&mut self) -> SessionId {
        self.until("a leader", World::leads);
        self.until("its no-op", |world| world.replica.machine().applied() > Index::ZERO);
        self.turn();
        let timeout = Micros::from_millis(300_000);
        self.says(&Request::Register { correlation: 1, key: [1; 16], timeout });
        self.until("a session", |world| world.replica.machine().sessions().len() == 1);
        let (session, _) = self.replica.machine().sessions().iter().next().expect("one");
        session
    }

    fn note(&mut self, note: &[u8]) {
        self.sequence += 1;
        let sequence = margay::machine::Sequence(self.sequence);
        let acked = margay::machine::Sequence(self.sequence - 1);
        let (resource, payload) = (ResourceId(1), note);
        self.says(&Request::Command { sequence, acked, kind: NOTE, schema: 1, resource, payload });
    }

    /// Writes until two snapshots are there and the log begins behind the older one.
    fn cut_the_log(&mut self) {
        for n in 0..400 {
            self.note(&vec![b'x'; 4_000]);
            self.turn();
            if n % 8 == 0 {
                self.heard();
            }
            if self.replica.log().start().id.index > Index::ZERO {
                // And until that is on the disk.
                return (0..300).for_each(|_| self.turn());
            }
        }
        panic!("the log was not cut: {:?}", self.replica.snapshot_counts());
    }

    fn is_halted(&self) -> bool {
        self.replica.status().halted
    }
}

#[test]
fn a_leader_that_can_restore_none_of_its_snapshots_steps_down_and_asks_for_one() {
    let mut world = World::open(SimDisk::new(1), 3, Micros(0));
    world.lead();
    world.cut_the_log();
    world.until("everything on disk", |world| {
        world.replica.log().durable() == world.replica.log().last().index
    });
    let World { mut disk, now, .. } = world;
    let snapshots: Vec<_> = disk.finished_snapshots().collect();
    assert_eq!(snapshots.len(), 2);
    // Behind the header: opening finds nothing wrong.
    for (index, _) in snapshots {
        assert!(disk.flip_snapshot(index, FIRST_CHUNK, 3));
    }
    disk.abandon();

    let mut world = World::open(disk, 3, now);
    world.holds_reads = true;
    world.until("elected while it restores", World::leads);
    world.holds_reads = false;
    world.until("it gives up", |world| !world.leads());
    assert_eq!(world.replica.snapshot_counts().damaged, 2);
    world.until("it asks the others for a state", |world| world.asked_for_state >= 4);
    for _ in 0..3_000 {
        world.turn();
        assert!(!world.leads(), "who has no state does not stand");
    }
}

#[test]
#[should_panic(expected = "nothing fatal: Damaged")]
fn a_group_of_one_that_has_lost_its_state_stops() {
    let mut world = World::open(SimDisk::new(2), 1, Micros(0));
    world.lead();
    world.cut_the_log();
    let World { mut disk, now, .. } = world;
    let snapshots: Vec<_> = disk.finished_snapshots().collect();
    for (index, _) in snapshots {
        assert!(disk.flip_snapshot(index, FIRST_CHUNK, 3));
    }
    disk.abandon();
    let mut world = World::open(disk, 1, now);
    (0..200).for_each(|_| world.turn());
}

/// Whatever of a user's breaks, the process goes on and the group says that it does not.
#[test]
fn a_users_code_that_breaks_while_a_snapshot_is_taken_halts_its_group() {
    for note in ["break when frozen", "break when written out", "write out too much"] {
        let mut world = World::open(SimDisk::new(3), 3, Micros(0));
        world.lead();
        for _ in 0..20 {
            world.note(&vec![b'x'; 4_000]);
        }
        world.note(note.as_bytes());
        world.until(note, World::is_halted);
        assert_eq!(world.replica.snapshot_counts().made, 0);
        let heard = world.heard();
        let last = heard.last().expect("something was said");
        assert!(last.contains("Connection") && last.contains("HALTED"), "{note}: {last}");
        // It keeps its place in elections and its log.
        (0..2_000).for_each(|_| world.turn());
        assert!(world.leads() && world.is_halted());
    }
}

/// Others may go on: what breaks while a state is frozen breaks on one node.
#[test]
fn a_leader_that_has_halted_hands_over_and_takes_nothing_back() {
    let mut world = World::open(SimDisk::new(11), 3, Micros(0));
    world.lead();
    for _ in 0..20 {
        world.note(&vec![b'x'; 4_000]);
    }
    assert_eq!(world.handed_over, 0);
    world.note(b"break when frozen");
    world.until("halted", World::is_halted);
    (0..8_000).for_each(|_| world.turn());
    assert!(world.handed_over > 0, "to anybody who is well");
    world.is_deposed_by(NodeId(2));
    world.turn();
    let (term, body) = (world.replica.term(), Body::TimeoutNow);
    world.is_told(NodeId(2), Message { term, body }, Chain::default());
    assert_eq!(world.replica.raft().role(), RoleKind::Follower);
    assert_eq!(world.replica.term(), term, "it could answer nobody");
}

#[test]
fn a_users_code_that_breaks_when_asked_what_is_held_halts_its_group() {
    let mut world = World::open(SimDisk::new(4), 3, Micros(0));
    let session = world.lead();
    world.note(b"break when asked what is held");
    let acked = margay::machine::Sequence(0);
    world.says(&Request::Attach { session, key: [1; 16], acked });
    world.until("halted", World::is_halted);
    assert!(world.heard().iter().any(|said| said.contains("HALTED")));
}

/// Who holds too much is ended, by its leader; one that is deposed before it has answered appends
/// nothing.
#[test]
fn a_session_that_holds_too_much_is_ended_by_nobody_but_a_leader() {
    let mut world = World::open(SimDisk::new(10), 3, Micros(0));
    let session = world.lead();
    world.note(b"hold too much");
    let all = |world: &World| world.replica.machine().applied() == world.replica.log().last().index;
    world.turn();
    world.until("all applied", all);
    let acked = margay::machine::Sequence(0);
    world.says(&Request::Attach { session, key: [1; 16], acked });
    world.turn();
    // The others have confirmed it; in the same turn it hears of another leader.
    world.is_deposed_by(NodeId(2));
    world.heard();
    world.turn();
    assert!(!world.leads());
    let heard = world.heard();
    assert!(heard.iter().any(|said| said.contains("NOT_LEADER")), "{heard:?}");
    assert_eq!(world.replica.log().open_entries(), 0, "an open batch exists only in its leader");
}

/// A snapshot that a user's code cannot take back is as good as none: the log is applied anew.
#[test]
fn a_users_code_that_breaks_while_it_is_restored_falls_back_to_the_log() {
    let mut world = World::open(SimDisk::new(5), 3, Micros(0));
    world.lead();
    for _ in 0..13 {
        world.note(&vec![b'x'; 4_000]);
    }
    world.note(b"break when restored");
    world.until("a snapshot", |world| world.replica.snapshot_counts().made == 1);
    world.until("everything on disk", |world| {
        world.replica.log().durable() == world.replica.log().last().index
    });
    let (applied, World { mut disk, now, .. }) = (world.replica.machine().applied(), world);
    disk.abandon();
    let mut world = World::open(disk, 3, now);
    world
        .until("everything is applied again", |world| world.replica.machine().applied() >= applied);
    assert_eq!(world.replica.snapshot_counts().damaged, 1);
    assert_eq!(world.replica.machine().state().applied, 14);
}

/// A new leader takes over a thousand in a turn; who is heard of comes first, and nobody is
/// forgotten.
#[test]
fn thousands_of_sessions_are_taken_over_bit_by_bit() {
    const SESSIONS: u128 = 2_500;
    let mut world = World::open(SimDisk::new(6), 3, Micros(0));
    world.lead();
    let timeout = Micros::from_millis(1_000);
    let register = |key: u128| Request::Register {
        correlation: key as u64,
        key: (key << 64).to_le_bytes(),
        timeout,
    };
    for key in 1..=SESSIONS {
        world.says(&register(key));
        if key % 500 == 0 {
            (0..3).for_each(|_| world.turn());
        }
    }
    world.until("all of them", |world| world.replica.machine().sessions().len() == 2_501);
    (0..300).for_each(|_| world.turn());

    let World { mut disk, now, .. } = world;
    disk.abandon();
    let mut world = World::open(disk, 3, now);
    world.until("a leader", World::leads);
    world.until("its no-op", |world| {
        let last = world.replica.log().last();
        last.term == world.replica.term() && world.replica.machine().applied() == last.index
    });
    // The newest of all, before its turn has come.
    world.heard();
    world.says(&register(SESSIONS));
    (0..5).for_each(|_| world.turn());
    let heard = world.heard();
    assert!(heard.iter().any(|said| said.contains("Registered")), "{heard:?}");
    let (newest, _) = world
        .replica
        .machine()
        .sessions()
        .find(&(SESSIONS << 64).to_le_bytes())
        .expect("it is there");
    let acked = margay::machine::Sequence(0);
    for _ in 0..10 {
        (0..300).for_each(|_| world.turn());
        world.says(&Request::KeepAlive { session: newest, acked });
    }
    let left: Vec<_> = world.replica.machine().sessions().iter().map(|(id, _)| id).collect();
    assert_eq!(left.len(), 2, "the one with a long time-out, and the one that was heard: {left:?}");
    assert!(left.contains(&newest));
}

#[test]
fn a_snapshot_that_rots_at_rest_is_found_and_another_made() {
    let mut world = World::open(SimDisk::new(7), 3, Micros(0));
    world.lead();
    world.cut_the_log();
    let (older, _) = world.disk.finished_snapshots().next().expect("two of them");
    assert!(world.disk.flip_snapshot(older, FIRST_CHUNK, 3));
    world.until("it is found", |world| world.replica.snapshot_counts().damaged == 1);
    let made = world.replica.snapshot_counts().made;
    world.note(b"more");
    world.until("another", |world| world.replica.snapshot_counts().made > made);
    (0..300).for_each(|_| world.turn());
    let kept: Vec<_> = world.disk.finished_snapshots().map(|(index, _)| index).collect();
    assert!(kept.len() == 2 && !kept.contains(&older), "{older} is gone: {kept:?}");
    // What is left is whole.
    (0..500).for_each(|_| world.turn());
    assert_eq!(world.replica.snapshot_counts().damaged, 1);
}

/// Nobody has a snapshot, and none would be due: one is made for the node that needs it.
#[test]
fn who_is_asked_for_a_state_makes_a_snapshot_if_there_is_none() {
    let mut world = World::open(SimDisk::new(7), 3, Micros(0));
    world.lead();
    world.note(b"short");
    world.until("all applied", |world| {
        world.replica.machine().applied() == world.replica.log().last().index
    });
    (0..1_000).for_each(|_| world.turn());
    assert_eq!(world.replica.snapshot_counts().made, 0, "none is due");

    let ask = |world: &mut World, index: Index| {
        let (last, term) = (world.replica.log().last(), world.replica.term());
        let chain = world.replica.log().chain_at(last.index).expect("a batch ends there");
        let id = EntryId::new(last.term, index);
        let request = RepairRequest { term, first: Index::ZERO, end: BatchEnd { id, chain } };
        let mut frame = Vec::new();
        request.encode(&mut frame);
        let frame = as_bytes(&aligned(&frame));
        let frame = wire::decode(&frame).expect("a frame");
        let World { replica, now, out, .. } = world;
        replica.on_peer(*now, NodeId(2), &frame, None, out).expect("it is sound");
    };
    let made = |world: &mut World| {
        (0..100).for_each(|_| world.turn());
        world.replica.snapshot_counts().made
    };
    let last = world.replica.log().last().index;
    ask(&mut world, last.next());
    assert_eq!(made(&mut world), 0, "it has not come so far itself");
    ask(&mut world, last);
    world.until("a snapshot to be begun", |world| world.replica.status().snapshotting);
    ask(&mut world, last);
    world.note(b"more");
    assert_eq!(made(&mut world), 1, "asked for twice");
    ask(&mut world, last);
    assert_eq!(made(&mut world), 1, "there is one now");
}

/// A user's type may answer anything. What fits no frame is refused, and nobody stops for it.
#[test]
fn a_users_answer_that_fits_no_frame_is_refused() {
    let mut world = World::open(SimDisk::new(9), 3, Micros(0));
    world.lead();
    world.heard();
    let (id, seen, after) = (5, Index::ZERO, margay::machine::Sequence(0));
    let (level, kind, schema, resource) = (Level::Sequential, NOTE, 1, ResourceId(1));
    let payload = b"at length";
    world.says(&Request::Query { id, level, seen, after, kind, schema, resource, payload });
    world.turn();
    let heard = world.heard();
    assert!(heard.iter().any(|said| said.contains("FRAME_TOO_LARGE")), "{heard:?}");
}
