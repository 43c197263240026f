//! The lock: one holder, first come first served, rising tokens, nobody forgotten, nobody dead.

use crate::machine::World;
use margay::machine::bytes::Reader;
use margay::machine::{Code, LogTime, Notice, NoticeState, SessionId, kind};
use margay::resource::lock::{
    CancelV1, GRANTED, HolderV1, LockV1, NOT_ACQUIRED, UnlockV1, WAITING,
};
use margay::resource::registry::DeleteV1;
use margay_log::id::Micros;
use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};

#[derive(Clone, Debug)]
enum Step {
    Lock {
        session: usize,
        request: u64,
        wait: Option<u64>,
    },
    Unlock {
        session: usize,
        right: bool,
    },
    Cancel {
        session: usize,
        request: u64,
    },
    End {
        session: usize,
    },
    Tick {
        ms: u64,
    },
    /// Time passes without a batch of its own.
    Pass {
        ms: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let wait = prop::option::of(prop_oneof![Just(0), 1..20_u64]);
    prop_oneof![
        8 => (0..4_usize, 0..3_u64, wait)
            .prop_map(|(session, request, wait)| Step::Lock { session, request, wait }),
        5 => (0..4_usize, prop::bool::weighted(0.8))
            .prop_map(|(session, right)| Step::Unlock { session, right }),
        2 => (0..4_usize, 0..3_u64)
            .prop_map(|(session, request)| Step::Cancel { session, request }),
        1 => (0..4_usize).prop_map(|session| Step::End { session }),
        2 => (0..12_u64).prop_map(|ms| Step::Tick { ms }),
        2 => (0..12_u64).prop_map(|ms| Step::Pass { ms }),
    ]
}

/// session, request, waiter
type Who = (u64, u64, u64);

#[derive(Default)]
struct Model {
    now: u64,
    holder: Option<(Who, u64)>,
    /// With deadlines in microseconds.
    queue: VecDeque<(Who, Option<u64>)>,
    tokens: Vec<u64>,
    told: Vec<(u64, u64, NoticeState)>,
}

impl Model {
    fn tell(&mut self, who: Who, state: NoticeState) {
        self.told.push((who.0, who.2, state));
    }

    fn expire(&mut self) {
        let now = self.now;
        let mut due: Vec<_> = self
            .queue
            .iter()
            .filter_map(|(who, due)| due.filter(|due| *due <= now).map(|due| (due, who.2, *who)))
            .collect();
        due.sort_unstable();
        self.queue.retain(|(_, due)| due.is_none_or(|due| due > now));
        due.into_iter().for_each(|(_, _, who)| self.tell(who, NoticeState::TimedOut));
    }

    fn grant(&mut self, who: Who, index: u64) {
        assert!(self.tokens.last().is_none_or(|last| *last < index), "tokens rise");
        self.tokens.push(index);
        self.holder = Some((who, index));
        self.tell(who, NoticeState::Granted { token: index });
    }

    fn release(&mut self, index: u64) {
        self.holder = None;
        if let Some((next, _)) = self.queue.pop_front() {
            self.grant(next, index);
        }
    }

    fn busy(&self, session: u64, request: u64) -> bool {
        let all =
            self.queue.iter().map(|(who, _)| who).chain(self.holder.iter().map(|(who, _)| who));
        all.into_iter().any(|who| (who.0, who.1) == (session, request))
    }

    fn lock(&mut self, session: u64, request: u64, wait: Option<u64>, index: u64) -> Option<u8> {
        self.expire();
        if self.busy(session, request) {
            return None;
        }
        let who = (session, request, index);
        if self.holder.is_none() {
            self.grant(who, index);
            return Some(GRANTED);
        }
        if wait == Some(0) {
            return Some(NOT_ACQUIRED);
        }
        self.queue.push_back((who, wait.map(|wait| self.now + wait * 1_000)));
        self.tell(who, NoticeState::Waiting);
        Some(WAITING)
    }

    fn unlock(&mut self, session: u64, token: u64, index: u64) -> bool {
        self.expire();
        match self.holder {
            Some((who, has)) if (who.0, has) == (session, token) => {
                self.tell(who, NoticeState::Released);
                self.release(index);
                true
            }
            _ => false,
        }
    }

    fn cancel(&mut self, session: u64, request: u64, index: u64) -> u8 {
        self.expire();
        let matches = |who: &Who| (who.0, who.1) == (session, request);
        if let Some(at) = self.queue.iter().position(|(who, _)| matches(who)) {
            let (who, _) = self.queue.remove(at).unwrap();
            self.tell(who, NoticeState::Released);
            return 1;
        }
        match self.holder {
            Some((who, _)) if matches(&who) => {
                self.tell(who, NoticeState::Released);
                self.release(index);
                2
            }
            _ => 0,
        }
    }

    fn end(&mut self, session: u64, index: u64) {
        self.expire();
        self.queue.retain(|(who, _)| who.0 != session);
        if self.holder.is_some_and(|(who, _)| who.0 == session) {
            self.release(index);
        }
    }
}

struct Game {
    world: World,
    model: Model,
    sessions: Vec<u64>,
    id: u64,
}

impl Game {
    fn new() -> Game {
        let mut world = World::new();
        let sessions: Vec<u64> = (0..4).map(|key| world.register(key)).collect();
        let id = world.open(sessions[0], "lock", kind::LOCK);
        Game { world, model: Model::default(), sessions, id }
    }

    fn play(&mut self, step: &Step) {
        let Game { world, model, sessions, id } = self;
        let next = world.machine.applied().0 + 1;
        model.now = world.time;
        match *step {
            Step::Lock { session, request, wait } => {
                let session = sessions[session];
                let told = world.command(session, *id, &LockV1 { request, wait_ms: wait });
                match model.lock(session, request, wait, next) {
                    None => assert_eq!(told.code, Code::ALREADY_HELD),
                    Some(answer) => {
                        let token = if answer == GRANTED { next } else { 0 };
                        assert_eq!(read(&told.payload), (answer, token, next));
                    }
                }
            }
            Step::Unlock { session, right } => {
                let held = model.holder.filter(|_| right);
                let session = held.map_or(sessions[session], |(who, _)| who.0);
                let token = held.map_or(1, |(_, token)| token);
                let told = world.command(session, *id, &UnlockV1 { token });
                let done = model.unlock(session, token, next);
                assert_eq!(told.code, if done { Code::OK } else { Code::NOT_HOLDER });
            }
            Step::Cancel { session, request } => {
                let told = world.command(sessions[session], *id, &CancelV1 { request });
                assert_eq!(told.payload, [model.cancel(sessions[session], request, next)]);
            }
            Step::End { session } => {
                world.end(kind::EXPIRE, sessions[session]);
                model.end(sessions[session], next);
                sessions[session] = world.register(session as u8);
            }
            Step::Tick { ms } => {
                world.tick(Micros::from_millis(ms));
                model.now = world.time;
                model.expire();
            }
            Step::Pass { ms } => world.time += ms * 1_000,
        }
        self.check();
    }

    /// The machine's answers now are the model's, and its notices add up to its holdings.
    fn check(&self) {
        let Game { world, model, sessions, id } = self;
        let told: Vec<_> =
            world.seen.notices.iter().map(|n| (n.session.0, n.waiter.0, n.state)).collect();
        assert_eq!(told, model.told);
        // Whoever is due by now has not been told yet, but is gone for every question.
        let alive = |due: &Option<u64>| due.is_none_or(|due| due > world.time);
        let waiting = model.queue.iter().filter(|(_, due)| alive(due)).count();
        let payload = world.query(sessions[0], *id, &HolderV1 {}).payload;
        let mut reader = Reader::new(&payload);
        assert_eq!(reader.u8().unwrap() != 0, model.holder.is_some());
        assert_eq!(reader.u64().unwrap(), model.holder.map_or(0, |(who, _)| who.0));
        assert_eq!(reader.u64().unwrap(), model.holder.map_or(0, |(_, token)| token));
        assert_eq!(reader.u32().unwrap() as usize, waiting);
        for session in sessions {
            let mut listed = Vec::new();
            world.machine.holdings(SessionId(*session), &mut listed);
            let listed: BTreeMap<u64, NoticeState> =
                listed.iter().map(|notice| (notice.waiter.0, notice.state)).collect();
            assert_eq!(listed, mirror(&world.seen.notices, *session));
        }
        if model.holder.is_none() {
            assert!(model.queue.is_empty(), "nobody waits for a free lock");
        }
        assert!(model.queue.iter().all(|(who, _)| sessions.contains(&who.0)), "nobody dead waits");
    }
}

/// What a client makes of the notices.
pub(super) fn mirror(notices: &[Notice], session: u64) -> BTreeMap<u64, NoticeState> {
    let mut mirror = BTreeMap::new();
    for notice in notices.iter().filter(|notice| notice.session.0 == session) {
        match notice.state.is_final() {
            true => mirror.remove(&notice.waiter.0),
            false => mirror.insert(notice.waiter.0, notice.state),
        };
    }
    mirror
}

fn read(payload: &[u8]) -> (u8, u64, u64) {
    let mut reader = Reader::new(payload);
    (reader.u8().unwrap(), reader.u64().unwrap(), reader.u64().unwrap())
}

proptest! {
    #[test]
    fn a_lock_is_a_queue_with_one_holder(steps in prop::collection::vec(step(), 1..100)) {
        let mut game = Game::new();
        steps.iter().for_each(|step| game.play(step));
        // Nobody is forgotten: give back until it is free, and all have had their turn.
        while let Some((who, token)) = game.model.holder {
            game.model.now = game.world.time;
            let next = game.world.machine.applied().0 + 1;
            let told = game.world.command(who.0, game.id, &UnlockV1 { token });
            prop_assert_eq!(told.code, Code::OK);
            game.model.unlock(who.0, token, next);
            game.check();
        }
        prop_assert!(game.model.queue.is_empty());
        prop_assert_eq!(game.world.machine.next_timer(), None, "no timer without a wait");
    }
}

/// Locks held by one session, each with a wait of another that is due at once; their ids.
fn crowded(locks: usize) -> (World, u64, u64, Vec<u64>) {
    let mut world = World::new();
    let session = world.register(1);
    let ids: Vec<u64> =
        (0..locks).map(|n| world.open(session, &format!("lock-{n}"), kind::LOCK)).collect();
    let other = world.register(2);
    for id in &ids {
        let told = world.command(session, *id, &LockV1 { request: 1, wait_ms: None });
        assert_eq!(told.payload[0], GRANTED);
        let told = world.command(other, *id, &LockV1 { request: 1, wait_ms: Some(5) });
        assert_eq!(told.payload[0], WAITING);
    }
    world.time += 5_000;
    world.seen = Default::default();
    (world, session, other, ids)
}

fn timed_out(world: &World) -> usize {
    let all = world.seen.notices.iter();
    all.filter(|notice| notice.state == NoticeState::TimedOut).count()
}

fn granted(world: &World) -> bool {
    world.seen.notices.iter().any(|n| matches!(n.state, NoticeState::Granted { .. }))
}

/// The machine fires 1,024 timers a batch; what else is due must be gone all the same.
#[test]
fn due_waiters_are_gone_before_their_timers_fire() {
    let (mut world, session, other, locks) = crowded(1_100);
    // The timer of the last is the 1,100th: it does not fire before the unlock in this very batch.
    let last = *locks.last().unwrap();
    let holder = world.query(session, last, &HolderV1 {}).payload;
    let mut reader = Reader::new(&holder);
    let (_, _, token) = (reader.u8().unwrap(), reader.u64().unwrap(), reader.u64().unwrap());
    assert_eq!(reader.u32().unwrap(), 0, "a query sees that too");
    assert_eq!(world.command(session, last, &UnlockV1 { token }).code, Code::OK);
    assert_eq!(timed_out(&world), 1_025, "1,024 fired, one met on the way");
    assert!(!granted(&world));
    let mut listed = Vec::new();
    world.machine.holdings(SessionId(other), &mut listed);
    assert_eq!(listed, [], "nor is it listed as waiting");
    world.tick(Micros(0));
    assert_eq!(timed_out(&world), 1_100);
    assert_eq!(world.machine.next_timer(), None);
}

#[test]
fn due_waiters_do_not_inherit_from_a_session_that_ends() {
    let (mut world, session, _, _) = crowded(1_100);
    world.end(kind::EXPIRE, session);
    while world.machine.next_timer().is_some() {
        assert!(!granted(&world));
        world.tick(Micros(0));
    }
    assert_eq!((timed_out(&world), granted(&world)), (1_100, false));
}

#[test]
fn timers_fire_in_order_of_deadline_then_creation_over_all_locks() {
    let mut world = World::new();
    let (holder, waiter) = (world.register(1), world.register(2));
    let locks: Vec<u64> =
        (0..3).map(|n| world.open(holder, &format!("lock-{n}"), kind::LOCK)).collect();
    let mut expected = Vec::new();
    for id in &locks {
        world.command(holder, *id, &LockV1 { request: 1, wait_ms: None });
    }
    for (request, (lock, wait)) in [(2, 9), (0, 4), (1, 9), (0, 9), (2, 4)].into_iter().enumerate()
    {
        let lock_v1 = LockV1 { request: request as u64, wait_ms: Some(wait) };
        expected.push((wait, world.command(waiter, locks[lock], &lock_v1).index));
    }
    expected.sort_unstable();
    world.seen.notices.clear();
    assert_eq!(world.machine.next_timer(), Some(LogTime(4_000)));
    world.tick(Micros::from_millis(20));
    let fired: Vec<u64> = world.seen.notices.iter().map(|notice| notice.waiter.0).collect();
    assert_eq!(fired, expected.iter().map(|(_, index)| *index).collect::<Vec<_>>());
}

#[test]
fn the_waiting_list_is_bounded() {
    let mut world = World::new();
    let sessions = [1, 2].map(|key| world.register(key));
    let id = world.open(sessions[0], "lock", kind::LOCK);
    for request in 0..=10_000 {
        let session = sessions[request as usize % 2];
        let told = world.command(session, id, &LockV1 { request, wait_ms: None });
        assert_eq!(told.code, Code::OK);
    }
    let told = world.command(sessions[0], id, &LockV1 { request: 10_002, wait_ms: None });
    assert_eq!(told.code, Code::TOO_MANY_WAITERS);
    for session in sessions {
        world.seen = Default::default();
        world.end(kind::EXPIRE, session);
        while world.seen.ended.is_empty() {
            world.tick(Micros(0));
        }
        let dead = |notice: &Notice| notice.session == SessionId(session);
        assert!(!world.seen.notices.iter().any(dead), "the dead are told nothing");
    }
    let other = world.register(2);
    let told = world.command(other, id, &LockV1 { request: 1, wait_ms: Some(0) });
    assert_eq!(told.payload[0], GRANTED);
}

#[test]
fn deleting_a_lock_tells_its_holder_and_waiters() {
    let mut world = World::new();
    let sessions: Vec<u64> = (0..3).map(|key| world.register(key)).collect();
    let id = world.open(sessions[0], "lock", kind::LOCK);
    for session in &sessions {
        world.command(*session, id, &LockV1 { request: 1, wait_ms: Some(1_000) });
    }
    world.seen.notices.clear();
    world.command(sessions[0], 0, &DeleteV1 { resource: id });
    let told: Vec<_> = world.seen.notices.iter().map(|n| (n.session.0, n.state)).collect();
    assert_eq!(told, sessions.iter().map(|s| (*s, NoticeState::Lost)).collect::<Vec<_>>());
    assert_eq!(world.machine.next_timer(), None, "its timers are gone with it");
    for session in &sessions {
        let mut listed = Vec::new();
        world.machine.holdings(SessionId(*session), &mut listed);
        assert!(listed.is_empty());
        world.end(kind::CLOSE, *session);
    }
}

#[test]
fn unreasonable_waits_are_refused() {
    let mut world = World::new();
    let session = world.register(1);
    let id = world.open(session, "lock", kind::LOCK);
    let lock = LockV1 { request: 1, wait_ms: Some(u64::MAX) };
    assert_eq!(world.command(session, id, &lock).code, Code::BAD_TIME);
    let told = world.command(session, id, &UnlockV1 { token: 0 });
    assert_eq!(told.code, Code::NOT_HOLDER);
    let stranger = world.register(2);
    let token = read(&world.command(session, id, &LockV1 { request: 1, wait_ms: None }).payload).1;
    let told = world.command(stranger, id, &UnlockV1 { token });
    let text = String::from_utf8(told.payload).unwrap();
    assert_eq!(told.code, Code::NOT_HOLDER, "the right token from another session");
    assert!(text.contains(&token.to_string()), "{text}");
}
