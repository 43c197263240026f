//! Barrier and latch: all pass together, nobody is forgotten, those who leave are not counted.

use super::handles::{Near, poll};
use super::lock::mirror;
use crate::machine::World;
use margay::machine::{Code, NoticeState, SessionId, kind};
use margay::resource::registry::OpenV1;
use margay::resource::{Barrier, Latch, barrier, latch};
use margay_log::id::Micros;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::task::Poll;
use std::time::Duration;

#[derive(Clone, Debug)]
enum Step {
    Arrive {
        session: usize,
        request: u64,
        wait: Option<u64>,
    },
    Cancel {
        session: usize,
        request: u64,
    },
    /// The barrier is reset, the latch counted down.
    Other,
    End(usize),
    Tick(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let wait = prop::option::of(prop_oneof![Just(0), 1..30_u64]);
    prop_oneof![
        8 => (0..4_usize, 0..3_u64, wait)
            .prop_map(|(session, request, wait)| Step::Arrive { session, request, wait }),
        3 => (0..4_usize, 0..3_u64)
            .prop_map(|(session, request)| Step::Cancel { session, request }),
        1 => Just(Step::Other),
        1 => (0..4_usize).prop_map(Step::End),
        2 => (0..12_u64).prop_map(Step::Tick),
    ]
}

#[derive(Clone, Copy, PartialEq, Debug)]
struct Party {
    session: u64,
    request: u64,
    name: u64,
    due: Option<u64>,
}

#[derive(Default)]
struct Model {
    waiting: Vec<Party>,
    passed: Vec<(Party, u64)>,
}

impl Model {
    fn pass(&mut self, index: u64) {
        self.passed.extend(self.waiting.drain(..).map(|party| (party, index)));
    }

    /// Everything of this session is as listed at attach.
    fn of(&self, session: u64) -> BTreeMap<u64, NoticeState> {
        let waiting = self.waiting.iter().map(|party| (party, NoticeState::Waiting));
        let passed = self.passed.iter();
        let passed = passed.map(|(party, token)| (party, NoticeState::Granted { token: *token }));
        let all = waiting.chain(passed).filter(|(party, _)| party.session == session);
        all.map(|(party, state)| (party.name, state)).collect()
    }
}

struct Game {
    world: World,
    sessions: Vec<u64>,
    id: u64,
    model: Model,
    /// What the latch has left to count down; `None` for a barrier of three.
    left: Option<u32>,
}

impl Game {
    fn new(left: Option<u32>) -> Game {
        let mut world = World::new();
        let sessions: Vec<u64> = (0..4).map(|key| world.register(key)).collect();
        let (kind, options) = match left {
            Some(count) => (kind::LATCH, latch::options(count)),
            None => (kind::BARRIER, barrier::options(3)),
        };
        let open = OpenV1 { name: b"it".to_vec(), kind, options };
        let id = world.command(sessions[0], 0, &open).index;
        Game { world, sessions, id, model: Model::default(), left }
    }

    fn play(&mut self, step: &Step) {
        match *step {
            Step::Arrive { session, request, wait } => {
                self.arrive(self.sessions[session], request, wait);
            }
            Step::Cancel { session, request } => self.cancel(self.sessions[session], request),
            Step::Other => self.other(),
            Step::End(session) => {
                let Game { world, sessions, model, .. } = self;
                let ended = sessions[session];
                world.end(kind::EXPIRE, ended);
                model.waiting.retain(|party| party.session != ended);
                model.passed.retain(|(party, _)| party.session != ended);
                sessions[session] = world.register(session as u8);
            }
            Step::Tick(ms) => {
                self.world.tick(Micros::from_millis(ms));
                let now = self.world.time;
                self.model.waiting.retain(|party| party.due.is_none_or(|due| due > now));
            }
        }
        self.check();
    }

    fn arrive(&mut self, session: u64, request: u64, wait_ms: Option<u64>) {
        let Game { world, id, model, left, .. } = self;
        let told = match left {
            Some(_) => world.command(session, *id, &latch::AwaitV1 { request, wait_ms }),
            None => world.command(session, *id, &barrier::AwaitV1 { request, wait_ms }),
        };
        let all = model.waiting.iter().chain(model.passed.iter().map(|(party, _)| party));
        let mut all = all.map(|party| (party.session, party.request));
        if all.any(|known| known == (session, request)) {
            assert_eq!(told.code, Code::ALREADY_HELD);
            return;
        }
        let due = wait_ms.map(|wait| world.time + wait * 1_000);
        let open = match left {
            Some(left) => *left == 0,
            None => model.waiting.len() == 2,
        };
        if open || wait_ms != Some(0) {
            model.waiting.push(Party { session, request, name: told.index, due });
        }
        if open {
            model.pass(told.index);
        }
        assert_eq!(told.payload[0] == barrier::GRANTED, open);
    }

    fn cancel(&mut self, session: u64, request: u64) {
        let Game { world, id, model, left, .. } = self;
        match left {
            Some(_) => world.command(session, *id, &latch::CancelV1 { request }),
            None => world.command(session, *id, &barrier::CancelV1 { request }),
        };
        let other = |party: &Party| (party.session, party.request) != (session, request);
        model.waiting.retain(other);
        model.passed.retain(|(party, _)| other(party));
    }

    fn other(&mut self) {
        let Game { world, sessions, id, model, left } = self;
        match left {
            Some(left) => {
                let told = world.command(sessions[0], *id, &latch::CountDownV1 { by: 1 });
                *left = left.saturating_sub(1);
                assert_eq!(told.payload, u64::from(*left).to_le_bytes());
                if *left == 0 {
                    model.pass(told.index);
                }
            }
            None => {
                world.command(sessions[0], *id, &barrier::ResetV1 {});
                model.waiting.clear();
            }
        }
    }

    fn check(&self) {
        for session in &self.sessions {
            let mut listed = Vec::new();
            self.world.machine.holdings(SessionId(*session), &mut listed);
            let listed: BTreeMap<u64, NoticeState> =
                listed.iter().map(|notice| (notice.waiter.0, notice.state)).collect();
            assert_eq!(listed, mirror(&self.world.seen.notices, *session));
            assert_eq!(listed, self.model.of(*session));
        }
    }
}

proptest! {
    #[test]
    fn a_barrier_lets_three_pass_at_a_time(steps in prop::collection::vec(step(), 1..100)) {
        let mut game = Game::new(None);
        steps.iter().for_each(|step| game.play(step));
    }

    #[test]
    fn a_latch_opens_once_and_for_all(
        steps in prop::collection::vec(step(), 1..100),
        count in 0_u32..5,
    ) {
        let mut game = Game::new(Some(count));
        steps.iter().for_each(|step| game.play(step));
    }
}

#[test]
fn parties_pass_a_barrier_together_round_by_round() {
    let (one, two) = Near::pair();
    let ours = Barrier::open(one.clone(), "start", 2).wait().unwrap();
    let theirs = Barrier::open(two, "start", 2).wait().unwrap();
    let mut last = 0;
    for _ in 0..3 {
        let mut first = ours.arrive();
        assert!(poll(&mut first).is_pending());
        let round = theirs.arrive().wait().unwrap();
        assert_eq!(first.wait().unwrap(), round, "the same round for both");
        assert!(round > last);
        last = round;
    }
    assert!(ours.arrive_within(Duration::ZERO).wait().unwrap().is_none());
    let mut waiting = theirs.arrive();
    assert!(poll(&mut waiting).is_pending());
    ours.reset().wait().unwrap();
    let Poll::Ready(Err(failure)) = poll(&mut waiting) else { panic!("sent away") };
    assert_eq!(failure.code, Code::WAIT_LOST);
    let status = ours.status().wait().unwrap();
    assert_eq!((status.parties, status.waiting), (2, 0));
    let mut gone = theirs.arrive();
    assert!(poll(&mut gone).is_pending());
    drop(gone);
    assert!(poll(&mut ours.arrive()).is_pending(), "who has left does not count");
    for parties in [0, barrier::PARTIES_MAX + 1] {
        let refused = Barrier::open(one.clone(), "bad", parties).wait().err().unwrap();
        assert_eq!(refused.code, Code::BAD_AMOUNT);
    }
}

/// The round was completed while a party was cut off; when it is back it is told.
#[test]
fn a_party_that_was_cut_off_has_passed_all_the_same() {
    let (one, two) = Near::pair();
    let ours = Barrier::open(one.clone(), "start", 2).wait().unwrap();
    let theirs = Barrier::open(two, "start", 2).wait().unwrap();
    one.hold();
    let mut waiting = ours.arrive();
    let mut last = theirs.arrive();
    one.attach();
    one.let_go();
    assert!(matches!(poll(&mut last), Poll::Ready(Ok(_))));
    assert!(matches!(poll(&mut waiting), Poll::Ready(Ok(_))));
}

#[test]
fn a_latch_opens_when_it_is_counted_down() {
    let (one, two) = Near::pair();
    let ours = Latch::open(one.clone(), "ready", 3).wait().unwrap();
    let theirs = Latch::open(two, "ready", 9).wait().unwrap();
    let mut waiting = theirs.opened();
    assert!(poll(&mut waiting).is_pending());
    assert!(!theirs.opened_within(Duration::ZERO).wait().unwrap());
    assert_eq!(ours.count_down().wait().unwrap(), 2);
    assert_eq!(ours.status().wait().unwrap().waiting, 1);
    one.end(kind::CLOSE);
    assert_eq!(theirs.count_down_by(5).wait().unwrap(), 0, "what was counted stays counted");
    assert!(matches!(poll(&mut waiting), Poll::Ready(Ok(()))));
    assert!(theirs.opened_within(Duration::ZERO).wait().unwrap(), "open for ever");
    assert_eq!(theirs.count_down_by(0).wait().unwrap_err().code, Code::BAD_AMOUNT);
}
