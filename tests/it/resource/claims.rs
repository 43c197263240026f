//! Semaphore and read-write lock: fair, never more granted than there is, nobody forgotten.

use super::lock::mirror;
use crate::machine::{Told, World};
use margay::machine::bytes::Reader;
use margay::machine::{Code, NoticeState, SessionId, kind};
use margay::resource::registry::{DeleteV1, OpenV1};
use margay::resource::{rwlock, semaphore};
use margay_log::id::Micros;
use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};

#[derive(Clone, Debug)]
enum Step {
    Ask { session: usize, request: u64, amount: u32, wait: Option<u64> },
    Release { pick: usize, right: bool },
    Cancel { session: usize, request: u64 },
    Drain { session: usize, request: u64 },
    Resize { permits: u32 },
    End { session: usize },
    Tick { ms: u64 },
    Pass { ms: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let wait = prop::option::of(prop_oneof![Just(0), 1..20_u64]);
    prop_oneof![
        10 => (0..4_usize, 0..3_u64, 0..5_u32, wait).prop_map(
            |(session, request, amount, wait)| Step::Ask { session, request, amount, wait }
        ),
        5 => (any::<usize>(), prop::bool::weighted(0.9))
            .prop_map(|(pick, right)| Step::Release { pick, right }),
        2 => (0..4_usize, 0..3_u64)
            .prop_map(|(session, request)| Step::Cancel { session, request }),
        1 => (0..4_usize, 0..3_u64)
            .prop_map(|(session, request)| Step::Drain { session, request }),
        1 => (0..6_u32).prop_map(|permits| Step::Resize { permits }),
        1 => (0..4_usize).prop_map(|session| Step::End { session }),
        2 => (0..12_u64).prop_map(|ms| Step::Tick { ms }),
        2 => (0..12_u64).prop_map(|ms| Step::Pass { ms }),
    ]
}

#[derive(Clone, Copy, Debug)]
struct Claim {
    session: u64,
    request: u64,
    name: u64,
    amount: u64,
    due: Option<u64>,
}

/// Permits in a bag and a queue in front of it.
#[derive(Default)]
struct Model {
    now: u64,
    total: u64,
    holds: Vec<(Claim, u64)>,
    queue: VecDeque<Claim>,
    last_token: u64,
    told: Vec<(u64, u64, NoticeState)>,
}

impl Model {
    fn tell(&mut self, claim: Claim, state: NoticeState) {
        self.told.push((claim.session, claim.name, state));
    }

    fn left(&self) -> u64 {
        self.total.saturating_sub(self.holds.iter().map(|(claim, _)| claim.amount).sum())
    }

    fn expire(&mut self) {
        let now = self.now;
        let mut due: Vec<Claim> = self.queue.iter().copied().collect();
        due.retain(|claim| claim.due.is_some_and(|due| due <= now));
        due.sort_by_key(|claim| (claim.due, claim.name));
        self.queue.retain(|claim| claim.due.is_none_or(|due| due > now));
        due.into_iter().for_each(|claim| self.tell(claim, NoticeState::TimedOut));
    }

    fn grant(&mut self, claim: Claim, index: u64) {
        assert!(claim.amount <= self.left(), "never more than there is");
        assert!(index >= self.last_token, "tokens do not fall");
        self.last_token = index;
        self.holds.push((claim, index));
        self.tell(claim, NoticeState::Granted { token: index });
    }

    fn serve(&mut self, index: u64) {
        while let Some(first) = self.queue.front().copied() {
            if first.amount > self.left() {
                return;
            }
            self.queue.pop_front();
            self.grant(first, index);
        }
    }

    fn settle(&mut self, index: u64) {
        self.expire();
        self.serve(index);
    }

    fn busy(&self, session: u64, request: u64) -> bool {
        let holds = self.holds.iter().map(|(claim, _)| claim);
        holds.chain(&self.queue).any(|claim| (claim.session, claim.request) == (session, request))
    }

    /// What the answer begins with; `None` where the request is under way already.
    fn ask(&mut self, claim: Claim, wait: Option<u64>, free: bool) -> Option<u8> {
        if self.busy(claim.session, claim.request) {
            return None;
        }
        if free && self.queue.is_empty() && claim.amount <= self.left() {
            self.grant(claim, claim.name);
            return Some(semaphore::GRANTED);
        }
        if wait == Some(0) {
            return Some(semaphore::NOT_ACQUIRED);
        }
        self.queue.push_back(claim);
        self.tell(claim, NoticeState::Waiting);
        Some(semaphore::WAITING)
    }

    fn cancel(&mut self, session: u64, request: u64) -> u8 {
        let matches = |claim: &Claim| (claim.session, claim.request) == (session, request);
        if let Some(at) = self.queue.iter().position(matches) {
            let claim = self.queue.remove(at).unwrap();
            self.tell(claim, NoticeState::Released);
            return 1;
        }
        match self.holds.iter().position(|(claim, _)| matches(claim)) {
            Some(at) => {
                let (claim, _) = self.holds.remove(at);
                self.tell(claim, NoticeState::Released);
                2
            }
            None => 0,
        }
    }

    fn end(&mut self, session: u64) {
        self.queue.retain(|claim| claim.session != session);
        self.holds.retain(|(claim, _)| claim.session != session);
    }
}

struct Game {
    world: World,
    model: Model,
    sessions: Vec<u64>,
    id: u64,
    /// Else a semaphore.
    rw: bool,
}

impl Game {
    fn new(rw: bool) -> Game {
        let mut world = World::new();
        let sessions: Vec<u64> = (0..4).map(|key| world.register(key)).collect();
        let (kind, options, total) = match rw {
            true => (kind::RW_LOCK, vec![], u64::from(u32::MAX)),
            false => (kind::SEMAPHORE, semaphore::options(4), 4),
        };
        let open = OpenV1 { name: b"it".to_vec(), kind, options };
        let id = world.command(sessions[0], 0, &open).index;
        let model = Model { total, ..Model::default() };
        Game { world, model, sessions, id, rw }
    }

    fn play(&mut self, step: &Step) {
        let index = self.world.machine.applied().0 + 1;
        self.model.now = self.world.time;
        match *step {
            Step::Ask { session, request, amount, wait } => {
                self.model.settle(index);
                self.ask(self.sessions[session], request, amount, wait, index);
            }
            Step::Release { pick, right } => {
                self.model.settle(index);
                self.release(pick, right, index);
            }
            Step::Cancel { session, request } => {
                self.model.settle(index);
                let session = self.sessions[session];
                let told = match self.rw {
                    true => self.world.command(session, self.id, &rwlock::CancelV1 { request }),
                    false => self.world.command(session, self.id, &semaphore::CancelV1 { request }),
                };
                assert_eq!(told.payload, [self.model.cancel(session, request)]);
            }
            Step::Drain { session, request } if !self.rw => {
                self.model.settle(index);
                self.drain(self.sessions[session], request, index);
            }
            Step::Resize { permits } if !self.rw => {
                self.model.settle(index);
                let session = self.sessions[0];
                let told = self.world.command(session, self.id, &semaphore::ResizeV1 { permits });
                assert_eq!(told.payload, self.model.total.to_le_bytes());
                self.model.total = permits.into();
            }
            Step::Drain { .. } | Step::Resize { .. } => return,
            Step::End { session } => {
                let ended = self.sessions[session];
                self.world.end(kind::EXPIRE, ended);
                // The timers fire first, in the same batch.
                self.model.settle(index);
                self.model.end(ended);
                self.sessions[session] = self.world.register(session as u8);
            }
            Step::Tick { ms } => {
                self.world.tick(Micros::from_millis(ms));
                self.model.now = self.world.time;
                let due = self.model.queue.iter().filter_map(|claim| claim.due).min();
                if due.is_some_and(|due| due <= self.model.now) {
                    self.model.settle(index);
                }
            }
            Step::Pass { ms } => self.world.time += ms * 1_000,
        }
        self.model.serve(index);
        self.check();
    }

    fn ask(&mut self, session: u64, request: u64, permits: u32, wait: Option<u64>, name: u64) {
        let Game { world, model, id, .. } = self;
        let (told, amount): (Told, u64) = match self.rw {
            true => {
                let write = permits == 0;
                let lock = rwlock::LockV1 { request, write, wait_ms: wait };
                let amount = if write { u32::MAX } else { 1 };
                (world.command(session, *id, &lock), amount.into())
            }
            false => {
                let acquire = semaphore::AcquireV1 { request, permits, wait_ms: wait };
                (world.command(session, *id, &acquire), permits.into())
            }
        };
        if amount == 0 || amount > model.total {
            assert_eq!(told.code, Code::BAD_AMOUNT);
            return;
        }
        let due = wait.map(|wait| model.now + wait * 1_000);
        match model.ask(Claim { session, request, name, amount, due }, wait, true) {
            None => assert_eq!(told.code, Code::ALREADY_HELD),
            Some(answer) => {
                let token = if answer == semaphore::GRANTED { name } else { 0 };
                let mut reader = Reader::new(&told.payload);
                let read = (reader.u8().unwrap(), reader.u64().unwrap(), reader.u64().unwrap());
                assert_eq!(read, (answer, token, name));
            }
        }
    }

    fn drain(&mut self, session: u64, request: u64, name: u64) {
        let told = self.world.command(session, self.id, &semaphore::DrainV1 { request });
        let amount = self.model.left();
        let claim = Claim { session, request, name, amount, due: None };
        match self.model.ask(claim, Some(0), amount > 0) {
            None => assert_eq!(told.code, Code::ALREADY_HELD),
            Some(answer) => {
                let taken = if answer == semaphore::GRANTED { amount } else { 0 };
                assert_eq!(told.payload[0], answer);
                assert_eq!(told.payload[17..], taken.to_le_bytes());
            }
        }
    }

    fn release(&mut self, pick: usize, right: bool, _index: u64) {
        let Game { world, model, id, .. } = self;
        let held = model.holds.get(pick % model.holds.len().max(1)).copied();
        let session = held.map_or(self.sessions[0], |(claim, _)| claim.session);
        let (name, amount) = held.map_or((1, 1), |(claim, _)| (claim.name, claim.amount));
        let told = match self.rw {
            true => {
                let hold = if right { name } else { name + 1_000 };
                world.command(session, *id, &rwlock::UnlockV1 { hold })
            }
            false => {
                let permits = amount as u32 + u32::from(!right);
                world.command(session, *id, &semaphore::ReleaseV1 { hold: name, permits })
            }
        };
        if let Some((claim, _)) = held.filter(|_| right) {
            assert_eq!(told.code, Code::OK);
            model.holds.retain(|(claim, _)| claim.name != name);
            model.tell(claim, NoticeState::Released);
        } else {
            assert_eq!(told.code, if self.rw { Code::NOT_HOLDER } else { Code::BAD_RELEASE });
        }
    }

    /// What the machine answers now is the model's, and its notices add up to its holdings.
    fn check(&self) {
        let Game { world, model, sessions, id, .. } = self;
        let told: Vec<_> =
            world.seen.notices.iter().map(|n| (n.session.0, n.waiter.0, n.state)).collect();
        assert_eq!(told, model.told);
        let alive = |claim: &&Claim| claim.due.is_none_or(|due| due > world.time);
        let waiting = model.queue.iter().filter(alive).count();
        let payload = match self.rw {
            true => world.query(sessions[0], *id, &rwlock::StatusV1 {}).payload,
            false => world.query(sessions[0], *id, &semaphore::StatusV1 {}).payload,
        };
        let mut reader = Reader::new(&payload);
        let status = (reader.u64().unwrap(), reader.u64().unwrap(), reader.u32().unwrap());
        let holds = model.holds.len() as u32;
        let writer = model.holds.iter().find(|(claim, _)| claim.amount == u64::from(u32::MAX));
        assert_eq!(
            status,
            match (self.rw, writer) {
                (true, Some((claim, token))) => (claim.session, *token, 0),
                (true, None) => (0, 0, holds),
                (false, _) => (model.total, model.left(), holds),
            }
        );
        assert_eq!(reader.u32().unwrap() as usize, waiting);
        for session in sessions {
            let mut listed = Vec::new();
            world.machine.holdings(SessionId(*session), &mut listed);
            let listed: BTreeMap<u64, NoticeState> =
                listed.iter().map(|notice| (notice.waiter.0, notice.state)).collect();
            assert_eq!(listed, mirror(&world.seen.notices, *session));
        }
    }
}

proptest! {
    #[test]
    fn a_semaphore_is_a_bag_of_permits_behind_a_queue(
        steps in prop::collection::vec(step(), 1..100),
    ) {
        let mut game = Game::new(false);
        steps.iter().for_each(|step| game.play(step));
    }

    #[test]
    fn a_read_write_lock_has_readers_or_one_writer(steps in prop::collection::vec(step(), 1..100)) {
        let mut game = Game::new(true);
        let mut writer = 0;
        for step in &steps {
            game.play(step);
            let holds = &game.model.holds;
            for (claim, token) in holds.iter().filter(|(claim, _)| claim.amount > 1) {
                prop_assert_eq!(holds.len(), 1, "a writer is alone: {:?}", claim);
                prop_assert!(*token >= writer);
                writer = *token;
            }
        }
    }
}

/// A wait that blocks others ends: they must not wait for the next command to be let in.
#[test]
fn who_stood_behind_a_wait_that_timed_out_is_let_in_by_the_timer() {
    let mut world = World::new();
    let session = world.register(1);
    let id = world.open(session, "rw", kind::RW_LOCK);
    let lock = |world: &mut World, request, write, wait_ms| {
        world.command(session, id, &rwlock::LockV1 { request, write, wait_ms }).payload[0]
    };
    assert_eq!(lock(&mut world, 1, false, None), rwlock::GRANTED);
    assert_eq!(lock(&mut world, 2, true, Some(5)), rwlock::WAITING);
    assert_eq!(lock(&mut world, 3, false, None), rwlock::WAITING);
    assert_eq!(lock(&mut world, 4, false, Some(0)), rwlock::NOT_ACQUIRED, "the writer is first");
    world.seen.notices.clear();
    world.tick(Micros::from_millis(5));
    let told: Vec<NoticeState> = world.seen.notices.iter().map(|notice| notice.state).collect();
    let token = world.machine.applied().0;
    assert_eq!(told, [NoticeState::TimedOut, NoticeState::Granted { token }]);
}

#[test]
fn a_release_of_what_is_not_held_changes_nothing() {
    let mut world = World::new();
    let (one, two) = (world.register(1), world.register(2));
    let open = |kind, options| OpenV1 { name: vec![b'a' + kind], kind, options };
    let id = world.command(one, 0, &open(kind::SEMAPHORE, semaphore::options(3))).index;
    let acquire = semaphore::AcquireV1 { request: 1, permits: 2, wait_ms: None };
    let hold = world.command(one, id, &acquire).index;
    let release = |permits| semaphore::ReleaseV1 { hold, permits };
    assert_eq!(world.command(one, id, &release(1)).code, Code::BAD_RELEASE, "other permits");
    assert_eq!(world.command(two, id, &release(2)).code, Code::BAD_RELEASE, "another session");
    assert_eq!(world.command(one, id, &release(2)).code, Code::OK);
    assert_eq!(world.command(one, id, &release(2)).code, Code::BAD_RELEASE, "twice");
    let rw = world.open(one, "rw", kind::RW_LOCK);
    let hold = world.command(one, rw, &rwlock::LockV1 { request: 1, write: true, wait_ms: None });
    let unlock = rwlock::UnlockV1 { hold: hold.index };
    assert_eq!(world.command(two, rw, &unlock).code, Code::NOT_HOLDER);
    assert_eq!(world.command(one, rw, &unlock).code, Code::OK);
    assert_eq!(world.command(one, rw, &unlock).code, Code::NOT_HOLDER);
}

#[test]
fn options_and_amounts_out_of_range_are_refused() {
    let mut world = World::new();
    let session = world.register(1);
    let open = |options| OpenV1 { name: b"s".to_vec(), kind: kind::SEMAPHORE, options };
    assert_eq!(world.command(session, 0, &open(vec![1, 2, 3])).code, Code::BAD_PAYLOAD);
    let id = world.command(session, 0, &open(semaphore::options(2))).index;
    let acquire = |permits, wait_ms| semaphore::AcquireV1 { request: 1, permits, wait_ms };
    assert_eq!(world.command(session, id, &acquire(0, None)).code, Code::BAD_AMOUNT);
    let told = world.command(session, id, &acquire(3, None));
    assert_eq!(told.code, Code::BAD_AMOUNT, "it would wait for ever");
    assert_eq!(String::from_utf8(told.payload).unwrap(), "asked for 3 of 2");
    assert_eq!(world.command(session, id, &acquire(1, Some(u64::MAX))).code, Code::BAD_TIME);
    let lock = rwlock::LockV1 { request: 1, write: false, wait_ms: Some(u64::MAX) };
    let rw = world.open(session, "rw", kind::RW_LOCK);
    assert_eq!(world.command(session, rw, &lock).code, Code::BAD_TIME);
}

#[test]
fn deleting_tells_holders_and_waiters() {
    let mut world = World::new();
    let sessions: Vec<u64> = (0..3).map(|key| world.register(key)).collect();
    let id = world.open(sessions[0], "rw", kind::RW_LOCK);
    for (session, write) in sessions.iter().zip([false, true, false]) {
        let lock = rwlock::LockV1 { request: 1, write, wait_ms: Some(1_000) };
        world.command(*session, id, &lock);
    }
    world.seen.notices.clear();
    world.command(sessions[0], 0, &DeleteV1 { resource: id });
    let told: Vec<_> = world.seen.notices.iter().map(|n| (n.session.0, n.state)).collect();
    assert_eq!(told, sessions.iter().map(|s| (*s, NoticeState::Lost)).collect::<Vec<_>>());
    assert_eq!(world.machine.next_timer(), None, "its timers are gone with it");
}

/// What is to be done at once is done, batch by batch.
fn settle(world: &mut World) {
    while world.machine.next_timer().is_some_and(|due| due.0 <= world.time) {
        world.tick(Micros(0));
    }
}

/// Nothing may be done for each waiter at each of these: that would be quadratic.
#[test]
fn thousands_of_waiters_are_served_in_linear_time() {
    let mut world = World::new();
    let open = OpenV1 { name: b"s".to_vec(), kind: kind::SEMAPHORE, options: vec![] };
    let first = world.register(0);
    let id = world.command(first, 0, &open).index;
    let acquire = |request| semaphore::AcquireV1 { request, permits: 1, wait_ms: None };
    let hold = world.command(first, id, &acquire(0)).index;
    for request in 1..=9_000 {
        assert_eq!(world.command(first, id, &acquire(request)).payload[0], semaphore::WAITING);
    }
    world.command(first, id, &semaphore::ResizeV1 { permits: 5_000 });
    world.command(first, id, &semaphore::ReleaseV1 { hold, permits: 1 });
    settle(&mut world);
    let granted = |world: &World| {
        let all = world.seen.notices.iter();
        all.filter(|notice| matches!(notice.state, NoticeState::Granted { .. })).count()
    };
    assert_eq!(granted(&world), 5_001);
    world.seen = Default::default();
    world.end(kind::EXPIRE, first);
    settle(&mut world);
    assert!(world.seen.notices.is_empty(), "the dead are told nothing");
    let told = world.query(first, id, &semaphore::StatusV1 {}).payload;
    assert_eq!(told[8..16], 5_000_u64.to_le_bytes(), "all is back");
}
