//! The queue: no task is lost, none is done again once it is acknowledged, none is had by two.

use super::handles::{Near, poll};
use super::lock::mirror;
use crate::machine::World;
use margay::machine::bytes::Reader;
use margay::machine::{Code, NoticeState, SessionId, kind};
use margay::resource::queue::{
    AckV1, CancelV1, ClearV1, ContainsV1, DIED, ExtendV1, NackV1, OfferV1, PollV1, QueueEvent,
    ReviveV1, StatusV1, TakeV1, options,
};
use margay::resource::registry::{DeleteV1, OpenV1};
use margay::resource::{Queue, queue};
use margay_log::id::Micros;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::task::Poll;
use std::time::Duration;

#[derive(Clone, Debug)]
enum Step {
    Offer { delay: u64 },
    Poll,
    Take { session: usize, request: u64, max: u32, lease: u64, wait: Option<u64> },
    Cancel { session: usize, request: u64 },
    Ack(usize),
    Nack(usize, u64),
    Extend(usize, u64),
    Revive(usize),
    Clear,
    End(usize),
    Tick(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let wait = prop::option::of(prop_oneof![Just(0), 1..30_u64]);
    let delay = || prop_oneof![3 => Just(0_u64), 1 => 1..9_u64];
    prop_oneof![
        6 => delay().prop_map(|delay| Step::Offer { delay }),
        1 => Just(Step::Poll),
        6 => (0..3_usize, 0..3_u64, 1..4_u32, 1..20_u64, wait).prop_map(
            |(session, request, max, lease, wait)| {
                Step::Take { session, request, max, lease, wait }
            }
        ),
        1 => (0..3_usize, 0..3_u64)
            .prop_map(|(session, request)| Step::Cancel { session, request }),
        4 => any::<usize>().prop_map(Step::Ack),
        2 => (any::<usize>(), delay()).prop_map(|(pick, delay)| Step::Nack(pick, delay)),
        1 => (any::<usize>(), 1..20_u64).prop_map(|(pick, lease)| Step::Extend(pick, lease)),
        1 => any::<usize>().prop_map(Step::Revive),
        1 => Just(Step::Clear),
        1 => (0..3_usize).prop_map(Step::End),
        4 => (0..12_u64).prop_map(Step::Tick),
    ]
}

/// What a worker remembers of a task it has: session, number, token, until when.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Hand {
    session: u64,
    task: u64,
    token: u64,
    due: u64,
}

/// Tasks are followed from outside: whatever the machine says must fit together.
#[derive(Default)]
struct Model {
    /// All that were offered and are not gone.
    alive: BTreeSet<u64>,
    dead: BTreeSet<u64>,
    hands: Vec<Hand>,
    /// Hand-outs of each task.
    deliveries: BTreeMap<u64, u32>,
    last_token: BTreeMap<u64, u64>,
}

const DELIVERIES_MAX: u32 = 3;

struct Game {
    world: World,
    model: Model,
    sessions: Vec<u64>,
    id: u64,
    /// Leases that waiting takes asked for, by take.
    asked: BTreeMap<u64, (u64, u64)>,
    events: usize,
    notices: usize,
}

impl Game {
    fn new() -> Game {
        let mut world = World::new();
        let sessions: Vec<u64> = (0..3).map(|key| world.register(key)).collect();
        let name = b"tasks".to_vec();
        let open = OpenV1 { name, kind: kind::QUEUE, options: options(DELIVERIES_MAX) };
        let id = world.command(sessions[0], 0, &open).index;
        let (model, asked) = (Model::default(), BTreeMap::new());
        Game { world, model, sessions, id, asked, events: 0, notices: 0 }
    }

    fn play(&mut self, step: &Step) {
        let first = self.sessions[0];
        match *step {
            Step::Offer { delay } => {
                let value = b"task".to_vec();
                let told = self.world.command(first, self.id, &OfferV1 { value, delay_ms: delay });
                self.model.alive.insert(told.index);
            }
            Step::Poll => {
                let told = self.world.command(first, self.id, &PollV1 {});
                if told.payload[0] == 1 {
                    let task = u64::from_le_bytes(told.payload[1..9].try_into().unwrap());
                    assert!(self.model.alive.remove(&task), "polled once");
                    assert!(!self.has(task), "nobody has what is polled");
                }
            }
            Step::Take { session, request, max, lease, wait } => {
                self.take(self.sessions[session], request, (max, lease), wait);
            }
            Step::Cancel { session, request } => {
                let session = self.sessions[session];
                self.world.command(session, self.id, &CancelV1 { request });
            }
            Step::Ack(pick) => self.ack(pick),
            Step::Nack(pick, delay_ms) => {
                let Some(Hand { session, task, token, due }) = self.pick(pick) else { return };
                let told = self.world.command(session, self.id, &NackV1 { task, token, delay_ms });
                assert!(due > self.world.time || told.code != Code::OK);
                if told.code == Code::OK {
                    self.model.hands.retain(|hand| hand.task != task);
                }
            }
            Step::Extend(pick, lease_ms) => {
                let Some(hand) = self.pick(pick) else { return };
                let extend = ExtendV1 { task: hand.task, token: hand.token, lease_ms };
                if self.world.command(hand.session, self.id, &extend).code == Code::OK {
                    assert!(hand.due > self.world.time);
                    let due = self.world.time + lease_ms * 1_000;
                    let all = self.model.hands.iter_mut();
                    all.filter(|known| **known == hand).for_each(|known| known.due = due);
                }
            }
            Step::Revive(pick) => {
                let dead: Vec<u64> = self.model.dead.iter().copied().collect();
                let task = dead.get(pick % dead.len().max(1)).copied().unwrap_or(1);
                let told = self.world.command(first, self.id, &ReviveV1 { task });
                assert_eq!(told.payload, [u8::from(self.model.dead.remove(&task))]);
                if told.payload == [1] {
                    self.model.alive.insert(task);
                    self.model.deliveries.remove(&task);
                }
            }
            Step::Clear => self.clear(),
            Step::End(session) => {
                let ended = self.sessions[session];
                self.world.end(kind::EXPIRE, ended);
                self.model.hands.retain(|hand| hand.session != ended);
                self.sessions[session] = self.world.register(session as u8);
            }
            Step::Tick(ms) => self.world.tick(Micros::from_millis(ms)),
        }
        self.hear();
        self.check();
    }

    fn has(&self, task: u64) -> bool {
        let mut hands = self.model.hands.iter();
        hands.any(|hand| hand.task == task && hand.due > self.world.time && self.is_held(hand))
    }

    fn is_held(&self, hand: &Hand) -> bool {
        let mut listed = Vec::new();
        self.world.machine.holdings(SessionId(hand.session), &mut listed);
        listed.iter().any(|notice| notice.state == NoticeState::Granted { token: hand.token })
    }

    fn pick(&self, pick: usize) -> Option<Hand> {
        self.model.hands.get(pick % self.model.hands.len().max(1)).copied()
    }

    fn take(&mut self, session: u64, request: u64, (max, lease): (u32, u64), wait: Option<u64>) {
        let take = TakeV1 { request, max, lease_ms: lease, wait_ms: wait };
        let told = self.world.command(session, self.id, &take);
        if told.code == Code::ALREADY_HELD {
            return;
        }
        match told.payload[0] {
            queue::GRANTED => {
                let (take, token) = (told.index, told.index);
                let tasks =
                    self.got(session, token, self.world.time + lease * 1_000, &told.payload[17..]);
                assert!(1 <= tasks && tasks <= max, "take {take}");
            }
            queue::WAITING => drop(self.asked.insert(told.index, (session, lease))),
            _ => assert_eq!(wait, Some(0)),
        }
    }

    /// Tasks were handed out.
    fn got(&mut self, session: u64, token: u64, due: u64, listed: &[u8]) -> u32 {
        let mut reader = Reader::new(listed);
        let count = reader.u32().unwrap();
        for _ in 0..count {
            let (task, deliveries) = (reader.u64().unwrap(), reader.u32().unwrap());
            assert_eq!(reader.bytes().unwrap(), b"task");
            let model = &mut self.model;
            assert!(model.alive.contains(&task), "what is gone is not handed out again");
            let before = model.deliveries.entry(task).or_default();
            *before += 1;
            assert_eq!((*before, *before <= DELIVERIES_MAX), (deliveries, true));
            let last = model.last_token.insert(task, token);
            assert!(last < Some(token), "a task's tokens rise");
            model.hands.retain(|hand| hand.task != task);
            model.hands.push(Hand { session, task, token, due });
        }
        count
    }

    fn ack(&mut self, pick: usize) {
        let Some(hand) = self.pick(pick) else { return };
        let (task, token) = (hand.task, hand.token);
        let had = self.has(task);
        let told = self.world.command(hand.session, self.id, &AckV1 { task, token });
        if told.code == Code::OK {
            assert!(had && self.model.alive.remove(&task), "acknowledged once");
            self.model.hands.retain(|known| known.task != task);
        } else {
            assert!([Code::LEASE_EXPIRED, Code::SESSION_EXPIRED].contains(&told.code));
        }
    }

    fn clear(&mut self) {
        let told = self.world.command(self.sessions[0], self.id, &ClearV1 {});
        let count = u64::from_le_bytes(told.payload.try_into().unwrap());
        let before = self.model.alive.len();
        let gone: Vec<u64> = self.model.alive.iter().copied().collect();
        for task in gone {
            let told = self.world.query(0, self.id, &ContainsV1 { task });
            if told.payload == [0] && !self.died(task) {
                self.model.alive.remove(&task);
            }
        }
        let died = self.model.alive.iter().filter(|task| self.died(**task)).count();
        assert_eq!((before - self.model.alive.len()) as u64, count, "{died} died");
    }

    /// Whether the events not heard yet say so.
    fn died(&self, task: u64) -> bool {
        let mut rest = self.world.seen.events[self.events..].iter();
        rest.any(|(_, event)| event.kind == DIED && event.key() == Some(&task.to_be_bytes()[..]))
    }

    /// What was told since: takes that waited, tasks that died.
    fn hear(&mut self) {
        for at in self.events..self.world.seen.events.len() {
            let (_, event) = &self.world.seen.events[at];
            if event.kind == DIED {
                let task = u64::from_be_bytes(event.key().unwrap().try_into().unwrap());
                assert!(self.model.alive.remove(&task) && self.model.dead.insert(task));
                assert_eq!(self.model.deliveries[&task], DELIVERIES_MAX);
            }
        }
        self.events = self.world.seen.events.len();
        for at in self.notices..self.world.seen.notices.len() {
            let notice = self.world.seen.notices[at];
            if let NoticeState::Granted { token } = notice.state
                && let Some((session, lease)) = self.asked.remove(&notice.waiter.0)
            {
                let leased = queue::LeasedV1 { take: notice.waiter.0 };
                let listed = self.world.query(session, self.id, &leased).payload;
                self.got(session, token, self.world.time + lease * 1_000, &listed);
            }
        }
        self.notices = self.world.seen.notices.len();
    }

    fn check(&self) {
        let told = self.world.query(0, self.id, &StatusV1 {}).payload;
        let mut reader = Reader::new(&told);
        let [ready, delayed, leased, dead] = [(); 4].map(|()| reader.u64().unwrap());
        assert_eq!(ready + delayed + leased, self.model.alive.len() as u64, "none is lost");
        assert_eq!(dead, self.model.dead.len() as u64);
        let waiting = reader.u32().unwrap();
        assert!(waiting == 0 || ready == 0, "nobody waits while there is something");
        for task in &self.model.alive {
            let told = self.world.query(0, self.id, &ContainsV1 { task: *task });
            assert_eq!(told.payload, [1]);
        }
        for session in &self.sessions {
            let mut listed = Vec::new();
            self.world.machine.holdings(SessionId(*session), &mut listed);
            let listed: BTreeMap<u64, NoticeState> =
                listed.iter().map(|notice| (notice.waiter.0, notice.state)).collect();
            assert_eq!(listed, mirror(&self.world.seen.notices, *session));
        }
    }
}

proptest! {
    #[test]
    fn tasks_are_done_at_least_once_and_acknowledged_once(
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut game = Game::new();
        steps.iter().for_each(|step| game.play(step));
    }
}

#[test]
fn a_queue_of_values() {
    let (one, two) = Near::pair();
    let ours = Queue::open(one, "values").wait().unwrap();
    let theirs = Queue::open(two, "values").wait().unwrap();
    let mut watch = theirs.watch(None);
    assert_eq!(ours.poll().wait().unwrap(), None);
    let ids = ["a", "b", "c"].map(|value| ours.offer(value.as_bytes()).wait().unwrap());
    assert_eq!(theirs.peek().wait().unwrap().as_deref(), Some(&b"a"[..]));
    assert!(theirs.remove(ids[1]).wait().unwrap() && !theirs.remove(ids[1]).wait().unwrap());
    assert!(ours.contains(ids[2]).wait().unwrap() && !ours.contains(ids[1]).wait().unwrap());
    assert_eq!(theirs.poll().wait().unwrap().as_deref(), Some(&b"a"[..]));
    assert_eq!(ours.clear().wait().unwrap(), 1);
    assert_eq!(ours.status().wait().unwrap().ready, 0);
    let told: Vec<_> = std::iter::from_fn(|| watch.try_next()).map(Result::unwrap).collect();
    let value = |text: &str| text.as_bytes().to_vec();
    let expected = [
        QueueEvent::Offered { id: ids[0], value: value("a") },
        QueueEvent::Offered { id: ids[1], value: value("b") },
        QueueEvent::Offered { id: ids[2], value: value("c") },
        QueueEvent::Removed { id: ids[1], value: value("b") },
        QueueEvent::Removed { id: ids[0], value: value("a") },
        QueueEvent::Cleared,
    ];
    assert_eq!(told, expected);
}

const LEASE: Duration = Duration::from_secs(10);

#[test]
fn a_task_goes_from_hand_to_hand_until_it_is_done() {
    let (one, two) = Near::pair();
    let ours = Queue::open(one.clone(), "tasks").wait().unwrap();
    let theirs = Queue::open(two, "tasks").wait().unwrap();
    let mut waiting = theirs.take(5, LEASE);
    assert!(poll(&mut waiting).is_pending());
    let id = ours.offer(b"work").wait().unwrap();
    let Poll::Ready(Ok(mut tasks)) = poll(&mut waiting) else { panic!("there is one") };
    let task = tasks.pop().unwrap();
    assert_eq!((task.id(), task.value(), task.deliveries()), (id, &b"work"[..], 1));
    assert!(ours.take_within(1, LEASE, Duration::ZERO).wait().unwrap().is_empty());
    let token = task.token();
    drop(task);
    let mut again = ours.take(1, LEASE).wait().unwrap();
    let task = again.pop().unwrap();
    assert_eq!((task.id(), task.deliveries(), task.token() > token), (id, 2, true));
    task.nack(Duration::from_secs(1)).wait().unwrap();
    assert_eq!(ours.status().wait().unwrap().delayed, 1);
    assert!(ours.take_within(1, LEASE, Duration::ZERO).wait().unwrap().is_empty());
    one.far().world.tick(Micros::from_millis(1_000));
    let task = ours.take(1, LEASE).wait().unwrap().pop().unwrap();
    one.end(kind::EXPIRE);
    let task_again = theirs.take(1, LEASE).wait().unwrap().pop().unwrap();
    assert_eq!((task_again.id(), task_again.deliveries()), (id, 4), "lost with its session");
    assert_eq!(task.ack().wait().unwrap_err().code, Code::SESSION_EXPIRED);
    task_again.ack().wait().unwrap();
    assert!(!theirs.contains(id).wait().unwrap());
}

/// The lease is over: the late acknowledgement is refused, and the task is handed out once more.
#[test]
fn a_late_acknowledgement_is_refused() {
    let (one, two) = Near::pair();
    let ours = Queue::open(one.clone(), "tasks").wait().unwrap();
    let theirs = Queue::open(two, "tasks").wait().unwrap();
    ours.offer(b"work").wait().unwrap();
    let slow = ours.take(1, LEASE).wait().unwrap().pop().unwrap();
    one.far().world.time += 9_000_000;
    slow.extend(LEASE).wait().unwrap();
    one.far().world.time += 9_000_000;
    assert!(theirs.take_within(1, LEASE, Duration::ZERO).wait().unwrap().is_empty(), "extended");
    one.far().world.time += 1_000_000;
    let quick = theirs.take(1, LEASE).wait().unwrap().pop().unwrap();
    assert_eq!(quick.deliveries(), 2);
    assert_eq!(slow.extend(LEASE).wait().unwrap_err().code, Code::LEASE_EXPIRED);
    assert_eq!(slow.ack().wait().unwrap_err().code, Code::LEASE_EXPIRED);
    quick.ack().wait().unwrap();
    assert_eq!(ours.status().wait().unwrap().leased, 0);
}

#[test]
fn what_nobody_can_do_is_a_dead_letter() {
    let (one, _) = Near::pair();
    let queue = Queue::open_with(one, "tasks", 2).wait().unwrap();
    let id = queue.offer(b"poison").wait().unwrap();
    for _ in 0..2 {
        drop(queue.take(1, LEASE).wait().unwrap());
    }
    assert!(queue.take_within(1, LEASE, Duration::ZERO).wait().unwrap().is_empty());
    let dead = queue.dead_letters(0).wait().unwrap();
    assert_eq!((dead.len(), dead[0].id, dead[0].deliveries), (1, id, 2));
    assert!(queue.dead_letters(id).wait().unwrap().is_empty());
    assert!(queue.revive(id).wait().unwrap() && !queue.revive(id).wait().unwrap());
    let task = queue.take(1, LEASE).wait().unwrap().pop().unwrap();
    assert_eq!((task.value(), task.deliveries()), (&b"poison"[..], 1));
    task.ack().wait().unwrap();
}

/// A take that was granted while its client was cut off is not lost, and its tasks are not either.
#[test]
fn a_take_that_is_dropped_gives_its_tasks_back() {
    let (one, two) = Near::pair();
    let ours = Queue::open(one.clone(), "tasks").wait().unwrap();
    let theirs = Queue::open(two, "tasks").wait().unwrap();
    let mut waiting = ours.take(1, LEASE);
    assert!(poll(&mut waiting).is_pending());
    theirs.offer(b"work").wait().unwrap();
    drop(waiting);
    assert_eq!(theirs.take_within(1, LEASE, Duration::ZERO).wait().unwrap().len(), 1);
}

#[test]
fn unreasonable_takes_are_refused() {
    let mut world = World::new();
    let session = world.register(1);
    let id = world.open(session, "tasks", kind::QUEUE);
    let take = |max, lease_ms| TakeV1 { request: 1, max, lease_ms, wait_ms: None };
    for (max, lease_ms, code) in [
        (0, 1, Code::BAD_AMOUNT),
        (queue::TAKE_MAX + 1, 1, Code::BAD_AMOUNT),
        (1, 0, Code::BAD_TIME),
        (1, u64::MAX, Code::BAD_TIME),
    ] {
        assert_eq!(world.command(session, id, &take(max, lease_ms)).code, code);
    }
    let offer = OfferV1 { value: vec![0; (1 << 20) + 1], delay_ms: 0 };
    assert_eq!(world.command(session, id, &offer).code, Code::VALUE_TOO_LARGE);
    let offer = OfferV1 { value: vec![], delay_ms: u64::MAX };
    assert_eq!(world.command(session, id, &offer).code, Code::BAD_TIME);
    let ack = AckV1 { task: 1, token: 1 };
    assert_eq!(world.command(session, id, &ack).code, Code::LEASE_EXPIRED);
}

/// A thousand leases that end at once are a thousand tasks that can be had, and one turn each.
#[test]
fn many_leases_end_at_once() {
    let mut world = World::new();
    let session = world.register(1);
    let id = world.open(session, "tasks", kind::QUEUE);
    for _ in 0..3_000 {
        world.command(session, id, &OfferV1 { value: vec![1], delay_ms: 0 });
    }
    for request in 0..30 {
        let take = TakeV1 { request, max: 100, lease_ms: 5, wait_ms: None };
        assert_eq!(world.command(session, id, &take).payload[0], queue::GRANTED);
    }
    let status = |world: &World| world.query(session, id, &StatusV1 {}).payload;
    assert_eq!(status(&world)[16..24], 3_000_u64.to_le_bytes());
    world.tick(Micros::from_millis(5));
    world.tick(Micros::from_millis(0));
    world.tick(Micros::from_millis(0));
    assert_eq!(status(&world)[..8], 3_000_u64.to_le_bytes(), "all can be had again");
    assert_eq!(world.machine.next_timer(), None);
    world.command(session, 0, &DeleteV1 { resource: id });
}
