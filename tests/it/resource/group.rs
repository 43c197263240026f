//! The group against a plain model of members and inboxes, and its bounds.

use super::lock::mirror;
use crate::machine::World;
use margay::machine::bytes::Reader;
use margay::machine::{Code, NoticeState, SessionId, kind};
use margay::resource::group::{
    ANSWERED, AnswerV1, AnswersV1, BYTES_MAX, CancelV1, FAILED, GONE, GRANTED, INBOX_BYTES_MAX,
    INBOX_MAX, InboxV1, JOINED, JoinV1, LEFT, MEMBERS_MAX, MembersV1, NOT_ACQUIRED, REMOVED,
    RemoveV1, SESSION_ENDED, SILENT, SendV1, SetV1, StatusV1, TO_ALL, TO_ANY, TO_MEMBER, UPDATED,
    WAITING,
};
use margay_log::id::Micros;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug)]
enum Step {
    Join { session: usize, request: u64, id: u8, wait: Option<u64> },
    Send { session: usize, request: u64, to: u8, id: u8, ask: bool, wait: Option<u64> },
    Cancel { session: usize, request: u64 },
    Set(usize),
    Remove(u8),
    Answer { pick: usize, failed: bool },
    End(usize),
    Tick(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let wait = || prop::option::of(prop_oneof![Just(0), 1..30_u64]);
    let limit = || prop::option::of(1..30_u64);
    prop_oneof![
        6 => (0..4_usize, 0..3_u64, 0..3_u8, wait())
            .prop_map(|(session, request, id, wait)| Step::Join { session, request, id, wait }),
        8 => (0..4_usize, 3..6_u64, 0..3_u8, 1..3_u8, any::<bool>(), limit()).prop_map(
            |(session, request, to, id, ask, wait)| {
                Step::Send { session, request, to, id, ask, wait }
            }
        ),
        2 => (0..4_usize, 0..6_u64)
            .prop_map(|(session, request)| Step::Cancel { session, request }),
        1 => any::<usize>().prop_map(Step::Set),
        1 => (1..3_u8).prop_map(Step::Remove),
        6 => (any::<usize>(), any::<bool>())
            .prop_map(|(pick, failed)| Step::Answer { pick, failed }),
        1 => (0..4_usize).prop_map(Step::End),
        2 => (0..12_u64).prop_map(Step::Tick),
    ]
}

type Bytes = Vec<u8>;

#[derive(Clone, PartialEq, Debug)]
struct Seat {
    session: u64,
    request: u64,
    id: Bytes,
    data: Bytes,
    due: Option<u64>,
}

#[derive(Clone, Debug)]
struct Sent {
    session: u64,
    to: u8,
    ask: bool,
    due: Option<u64>,
}

#[derive(Clone, Debug)]
struct Asked {
    session: u64,
    request: u64,
    /// By member: what came of it.
    outcomes: BTreeMap<u64, (u8, Bytes, Bytes)>,
    done: bool,
}

/// Members and joins that wait by their numbers; inboxes as rows of messages.
#[derive(Default)]
struct Model {
    members: BTreeMap<u64, Seat>,
    waiting: BTreeMap<u64, Seat>,
    inboxes: BTreeMap<u64, Vec<u64>>,
    sent: BTreeMap<u64, Sent>,
    homeless: BTreeSet<u64>,
    asked: BTreeMap<u64, Asked>,
    last: u64,
    events: Vec<(u16, Bytes)>,
}

impl Model {
    fn of_id(&self, id: &[u8]) -> Option<u64> {
        self.members.iter().find(|(_, seat)| seat.id == id).map(|(number, _)| *number)
    }

    /// What a request of a session holds or waits for.
    fn named(&self, session: u64, request: u64) -> Option<u64> {
        let seats = self.members.iter().chain(&self.waiting);
        let seats = seats.map(|(number, seat)| (*number, seat.session, seat.request));
        let asked = self.asked.iter().map(|(number, ask)| (*number, ask.session, ask.request));
        let mut all = seats.chain(asked);
        all.find(|known| (known.1, known.2) == (session, request)).map(|known| known.0)
    }

    fn seat(&mut self, number: u64, seat: Seat) {
        self.events.push((JOINED, seat.id.clone()));
        self.members.insert(number, seat);
        self.inboxes.insert(number, Vec::new());
        self.house();
    }

    fn next(&mut self) -> Option<u64> {
        let after = self.members.range(self.last + 1..).next();
        let next = *after.or_else(|| self.members.iter().next())?.0;
        self.last = next;
        Some(next)
    }

    fn house(&mut self) {
        while let Some(message) = self.homeless.first().copied() {
            let Some(member) = self.next() else { return };
            self.homeless.remove(&message);
            self.inboxes.get_mut(&member).unwrap().push(message);
        }
    }

    fn withdraw(&mut self, message: u64) -> Vec<u64> {
        self.sent.remove(&message);
        self.homeless.remove(&message);
        let mut had = Vec::new();
        for (member, inbox) in &mut self.inboxes {
            let before = inbox.len();
            inbox.retain(|known| *known != message);
            had.extend((inbox.len() < before).then_some(*member));
        }
        had
    }

    fn finish(&mut self, message: u64) {
        if !self.inboxes.values().any(|inbox| inbox.contains(&message)) {
            self.sent.remove(&message);
            self.done(message);
        }
    }

    fn done(&mut self, message: u64) {
        if let Some(ask) = self.asked.get_mut(&message) {
            ask.done = true;
        }
    }

    fn note(&mut self, message: u64, member: u64, kind: u8, id: &Bytes, value: &[u8]) {
        if let Some(ask) = self.asked.get_mut(&message) {
            ask.outcomes.insert(member, (kind, id.clone(), value.to_vec()));
        }
    }

    fn let_go(&mut self, numbers: &[u64], why: u16) {
        let mut left = Vec::new();
        for number in numbers {
            self.waiting.remove(number);
            if self.asked.remove(number).is_some() {
                self.withdraw(*number);
            }
        }
        for number in numbers {
            if let Some(seat) = self.members.remove(number) {
                self.events.push((why, seat.id.clone()));
                left.push((seat.id, *number));
            }
        }
        for (id, member) in &left {
            for message in self.inboxes.remove(member).unwrap() {
                if self.sent[&message].to == TO_ANY {
                    self.homeless.insert(message);
                    continue;
                }
                self.note(message, *member, GONE, id, b"");
                self.finish(message);
            }
        }
        for (id, _) in left {
            let next = self.waiting.iter().find(|(_, seat)| seat.id == id);
            if let Some(number) = next.map(|(number, _)| *number) {
                let seat = self.waiting.remove(&number).unwrap();
                self.seat(number, seat);
            }
        }
        self.house();
    }

    fn pass(&mut self, now: u64) {
        self.waiting.retain(|_, seat| seat.due.is_none_or(|due| due > now));
        let mut over: Vec<(u64, u64)> = Vec::new();
        over.extend(self.sent.iter().filter_map(|(number, sent)| Some((sent.due?, *number))));
        over.retain(|(due, _)| *due <= now);
        over.sort_unstable();
        for (_, message) in over {
            for member in self.withdraw(message) {
                let id = self.members[&member].id.clone();
                self.note(message, member, SILENT, &id, b"");
            }
            self.done(message);
            self.house();
        }
    }
}

struct Game {
    world: World,
    model: Model,
    sessions: Vec<u64>,
    id: u64,
}

fn id_of(id: u8) -> Bytes {
    if id == 0 { Bytes::new() } else { vec![b'a' + id] }
}

impl Game {
    fn new() -> Game {
        let mut world = World::new();
        let sessions: Vec<u64> = (0..4).map(|key| world.register(key)).collect();
        let id = world.open(sessions[0], "group", kind::GROUP);
        Game { world, model: Model::default(), sessions, id }
    }

    fn play(&mut self, step: &Step) {
        match *step {
            Step::Join { session, request, id, wait } => {
                self.join(self.sessions[session], request, id_of(id), wait);
            }
            Step::Send { session, request, to, id, ask, wait } => {
                let send = SendV1 {
                    request,
                    to,
                    id: if to == TO_MEMBER { id_of(id) } else { Bytes::new() },
                    value: b"hello".to_vec(),
                    ask,
                    wait_ms: wait,
                };
                self.send(self.sessions[session], send);
            }
            Step::Cancel { session, request } => {
                let session = self.sessions[session];
                let told = self.world.command(session, self.id, &CancelV1 { request });
                let number = self.model.named(session, request);
                let held = number.is_some_and(|number| {
                    let answered = self.model.asked.get(&number).is_some_and(|ask| ask.done);
                    answered || self.model.members.contains_key(&number)
                });
                assert_eq!(told.payload, [u8::from(number.is_some()) + u8::from(held)]);
                self.model.let_go(number.as_slice(), LEFT);
            }
            Step::Set(pick) => self.set(pick),
            Step::Remove(id) => {
                let there = self.model.of_id(&id_of(id));
                let remove = RemoveV1 { id: id_of(id) };
                let told = self.world.command(self.sessions[0], self.id, &remove);
                assert_eq!(told.payload, [u8::from(there.is_some())]);
                self.model.let_go(there.as_slice(), REMOVED);
            }
            Step::Answer { pick, failed } => self.answer(pick, failed),
            Step::End(session) => {
                let ended = self.sessions[session];
                self.world.end(kind::EXPIRE, ended);
                let seats = self.model.members.iter().chain(&self.model.waiting);
                let seats = seats.filter(|(_, seat)| seat.session == ended);
                let asked = self.model.asked.iter().filter(|(_, ask)| ask.session == ended);
                let names = seats.map(|(name, _)| *name).chain(asked.map(|(name, _)| *name));
                let names: BTreeSet<u64> = names.collect();
                self.model.let_go(&Vec::from_iter(names), SESSION_ENDED);
                self.sessions[session] = self.world.register(session as u8);
            }
            Step::Tick(ms) => {
                self.world.tick(Micros::from_millis(ms));
                self.model.pass(self.world.time);
            }
        }
        self.check();
    }

    fn join(&mut self, session: u64, request: u64, id: Bytes, wait_ms: Option<u64>) {
        let data = self.world.machine.applied().0.to_le_bytes().to_vec();
        let (own, brought) = (id.clone(), data.clone());
        let told =
            self.world.command(session, self.id, &JoinV1 { request, id: own, data, wait_ms });
        let (number, model) = (told.index, &mut self.model);
        let id = if id.is_empty() { format!(":{number}").into_bytes() } else { id };
        let there = model.of_id(&id);
        if model.named(session, request).is_some() {
            assert_eq!(told.code, Code::ALREADY_HELD);
            return;
        }
        if let Some(seat) = there.and_then(|there| model.members.get_mut(&there))
            && seat.session == session
        {
            assert_eq!((told.payload[0], told.payload[9]), (GRANTED, there.unwrap() as u8));
            (seat.request, seat.data) = (request, brought);
            model.events.push((UPDATED, id));
            return;
        }
        let due = wait_ms.map(|wait| self.world.time + wait * 1_000);
        let seat = Seat { session, request, id, data: brought, due };
        let answer = match (there, wait_ms) {
            (None, _) => GRANTED,
            (Some(_), Some(0)) => NOT_ACQUIRED,
            _ => WAITING,
        };
        assert_eq!(told.payload[0], answer);
        match answer {
            GRANTED => model.seat(number, seat),
            WAITING => drop(model.waiting.insert(number, seat)),
            _ => {}
        }
    }

    fn send(&mut self, session: u64, send: SendV1) {
        let SendV1 { request, to, ask, wait_ms, .. } = send;
        let told = self.world.command(session, self.id, &send);
        let (number, model) = (told.index, &mut self.model);
        let recipients: Vec<u64> = match to {
            TO_ANY => model.members.keys().next().into_iter().copied().collect(),
            TO_MEMBER => model.of_id(&send.id).into_iter().collect(),
            _ => model.members.keys().copied().collect(),
        };
        if recipients.is_empty() {
            assert_eq!(told.code, Code::NO_SUCH_MEMBER);
            return;
        }
        if ask && model.named(session, request).is_some() {
            assert_eq!(told.code, Code::ALREADY_HELD);
            return;
        }
        assert_eq!((told.code, told.payload.first().copied()), (Code::OK, ask.then_some(WAITING)));
        if ask {
            let asked = Asked { session, request, outcomes: BTreeMap::new(), done: false };
            model.asked.insert(number, asked);
        }
        let due = wait_ms.map(|wait| self.world.time + wait * 1_000);
        model.sent.insert(number, Sent { session, to, ask, due });
        if to == TO_ANY {
            model.homeless.insert(number);
            model.house();
        } else {
            recipients.iter().for_each(|one| model.inboxes.get_mut(one).unwrap().push(number));
        }
    }

    fn set(&mut self, pick: usize) {
        let members: Vec<u64> = self.model.members.keys().copied().collect();
        let Some(member) = members.get(pick % members.len().max(1)) else { return };
        let data = self.world.machine.applied().0.to_le_bytes().to_vec();
        // Now and then by a session that is not the member's.
        let (seat, session) = (&self.model.members[member], self.sessions[pick / 7 % 4]);
        let set = SetV1 { member: *member, data: data.clone() };
        let told = self.world.command(session, self.id, &set);
        if seat.session != session {
            assert_eq!(told.code, Code::NO_SUCH_MEMBER);
            return;
        }
        assert_eq!(told.code, Code::OK);
        self.model.events.push((UPDATED, seat.id.clone()));
        self.model.members.get_mut(member).unwrap().data = data;
    }

    fn answer(&mut self, pick: usize, failed: bool) {
        let inboxes = self.model.inboxes.iter();
        let all: Vec<(u64, u64)> = inboxes
            .flat_map(|(member, inbox)| inbox.iter().map(|message| (*member, *message)))
            .collect();
        let Some((member, message)) = all.get(pick % all.len().max(1)).copied() else { return };
        let (session, id) = {
            let seat = &self.model.members[&member];
            (seat.session, seat.id.clone())
        };
        let value = b"answer".to_vec();
        let answer = AnswerV1 { member, message, failed, value: value.clone() };
        let stranger = self.sessions.iter().find(|other| **other != session).copied().unwrap();
        let told = self.world.command(stranger, self.id, &answer);
        assert_eq!(told.code, Code::NO_SUCH_MEMBER, "only its own session speaks for a member");
        assert_eq!(self.world.command(session, self.id, &answer).code, Code::OK);
        self.model.inboxes.get_mut(&member).unwrap().retain(|known| *known != message);
        let kind = if failed { FAILED } else { ANSWERED };
        self.model.note(message, member, kind, &id, &value);
        self.model.finish(message);
        let told = self.world.command(session, self.id, &answer);
        assert_eq!(told.code, Code::NO_SUCH_MESSAGE, "answered once");
    }

    fn check(&self) {
        let Game { world, model, sessions, id } = self;
        let told: Vec<(u16, Bytes)> = world
            .seen
            .events
            .iter()
            .map(|(_, event)| (event.kind, event.key().unwrap().to_vec()))
            .collect();
        assert_eq!(told, model.events);
        assert_eq!(self.listed(), model.members.iter().map(seat_of).collect::<Vec<_>>());
        for (member, expected) in &model.inboxes {
            let inbox = InboxV1 { member: *member, brought: 0, message: 0 };
            let messages = world.query(0, *id, &inbox).payload;
            let mut reader = Reader::new(&messages);
            assert_eq!(reader.u8().unwrap(), 0);
            let read: Vec<u64> = (0..reader.u32().unwrap())
                .map(|_| {
                    let (_, number) = (reader.u64().unwrap(), reader.u64().unwrap());
                    let sent = &model.sent[&number];
                    let (from, ask) = (reader.u64().unwrap(), reader.u8().unwrap());
                    assert_eq!((from, ask), (sent.session, u8::from(sent.ask)));
                    assert_eq!(reader.bytes().unwrap(), b"hello");
                    number
                })
                .collect();
            assert_eq!(&read, expected, "in the order in which they were brought");
        }
        for (number, ask) in &model.asked {
            let told = world.query(0, *id, &AnswersV1 { message: *number, after: 0 });
            assert_eq!(told.code == Code::OK, ask.done);
            if ask.done {
                assert_eq!(outcomes(&told.payload), ask.outcomes);
            }
        }
        for session in sessions {
            let mut listed = Vec::new();
            world.machine.holdings(SessionId(*session), &mut listed);
            let listed: BTreeMap<u64, NoticeState> =
                listed.iter().map(|notice| (notice.waiter.0, notice.state)).collect();
            assert_eq!(listed, mirror(&world.seen.notices, *session));
            let seats = model.members.iter().chain(&model.waiting);
            let seats = seats.filter(|(_, seat)| seat.session == *session).map(|(name, _)| *name);
            let asked = model.asked.iter().filter(|(_, ask)| ask.session == *session);
            let names: BTreeSet<u64> = seats.chain(asked.map(|(name, _)| *name)).collect();
            assert_eq!(Vec::from_iter(names), listed.keys().copied().collect::<Vec<_>>());
        }
        self.check_status();
    }

    fn check_status(&self) {
        let Game { world, model, .. } = self;
        let told = world.query(0, self.id, &StatusV1 {}).payload;
        let mut reader = Reader::new(&told);
        let [members, placed, homeless, bytes] = [(); 4].map(|()| reader.u64().unwrap() as usize);
        assert_eq!((members, homeless), (model.members.len(), model.homeless.len()));
        assert_eq!(placed, model.inboxes.values().map(Vec::len).sum::<usize>());
        assert_eq!(bytes, 5 * model.sent.len(), "nothing is left of what is over");
        let unanswered = model.asked.values().filter(|ask| !ask.done).count();
        let rest = [reader.u32().unwrap() as usize, reader.u32().unwrap() as usize];
        assert_eq!(rest, [model.waiting.len(), unanswered]);
    }

    /// Number, session, id, metadata of all members, two at a time.
    fn listed(&self) -> Vec<(u64, u64, Bytes, Bytes)> {
        let (mut all, mut after) = (Vec::new(), 0);
        loop {
            let told = self.world.query(0, self.id, &MembersV1 { after, limit: 2 }).payload;
            let mut reader = Reader::new(&told);
            let more = reader.u8().unwrap() != 0;
            for _ in 0..reader.u32().unwrap() {
                let (number, session) = (reader.u64().unwrap(), reader.u64().unwrap());
                let waiting = reader.u32().unwrap() as usize;
                assert_eq!(waiting, self.model.inboxes[&number].len());
                let id = reader.bytes().unwrap().to_vec();
                all.push((number, session, id, reader.bytes().unwrap().to_vec()));
                after = number;
            }
            if !more {
                return all;
            }
        }
    }
}

fn seat_of((number, seat): (&u64, &Seat)) -> (u64, u64, Bytes, Bytes) {
    (*number, seat.session, seat.id.clone(), seat.data.clone())
}

fn outcomes(payload: &[u8]) -> BTreeMap<u64, (u8, Bytes, Bytes)> {
    let mut reader = Reader::new(payload);
    assert_eq!(reader.u8().unwrap(), 0);
    (0..reader.u32().unwrap())
        .map(|_| {
            let (member, kind) = (reader.u64().unwrap(), reader.u8().unwrap());
            let id = reader.bytes().unwrap().to_vec();
            (member, (kind, id, reader.bytes().unwrap().to_vec()))
        })
        .collect()
}

proptest! {
    #[test]
    fn a_group_is_members_with_inboxes(steps in prop::collection::vec(step(), 1..120)) {
        let mut game = Game::new();
        steps.iter().for_each(|step| game.play(step));
        // Nothing is forgotten: without sessions nothing is left but what was sent to any.
        for session in 0..4 {
            game.play(&Step::End(session));
        }
        prop_assert!(game.model.members.is_empty() && game.model.asked.is_empty());
        let kept = game.model.sent.values().all(|sent| sent.to == TO_ANY && !sent.ask);
        prop_assert!(kept && game.model.sent.len() == game.model.homeless.len());
    }
}

// ---- bounds ---------------------------------------------------------------------------------

fn join(request: u64, id: &str) -> JoinV1 {
    JoinV1 { request, id: id.as_bytes().to_vec(), data: vec![], wait_ms: Some(0) }
}

fn send(to: u8, id: &str, size: usize) -> SendV1 {
    let (id, value) = (id.as_bytes().to_vec(), vec![7; size]);
    SendV1 { request: 99, to, id, value, ask: false, wait_ms: None }
}

#[test]
fn what_is_out_of_bounds_is_refused() {
    let mut world = World::new();
    let session = world.register(1);
    let id = world.open(session, "group", kind::GROUP);
    let refused = |world: &mut World, join: JoinV1| world.command(session, id, &join).code;
    for bad in [":7", "a\u{7}b", "new\nline"] {
        assert_eq!(refused(&mut world, join(1, bad)), Code::BAD_NAME, "{bad:?}");
    }
    assert_eq!(refused(&mut world, join(1, &"x".repeat(257))), Code::BAD_NAME);
    let bad = JoinV1 { id: vec![0xff], ..join(1, "") };
    assert_eq!(refused(&mut world, bad), Code::BAD_NAME);
    let bad = JoinV1 { data: vec![0; (4 << 10) + 1], ..join(1, "") };
    assert_eq!(refused(&mut world, bad), Code::KEY_TOO_LARGE);
    let bad = JoinV1 { wait_ms: Some(u64::MAX), ..join(1, "") };
    assert_eq!(refused(&mut world, bad), Code::BAD_TIME);
    let member = world.command(session, id, &join(1, "a")).index;

    let cases = [
        (send(3, "", 1), Code::BAD_PAYLOAD),
        (send(TO_ALL, "a", 1), Code::BAD_PAYLOAD),
        (send(TO_MEMBER, "", 1), Code::BAD_NAME),
        (send(TO_MEMBER, "b", 1), Code::NO_SUCH_MEMBER),
        (send(TO_ANY, "", (1 << 20) + 1), Code::VALUE_TOO_LARGE),
        (SendV1 { wait_ms: Some(0), ..send(TO_ANY, "", 1) }, Code::BAD_TIME),
        (SendV1 { wait_ms: Some(u64::MAX), ..send(TO_ANY, "", 1) }, Code::BAD_TIME),
        (SendV1 { ask: true, request: 1, ..send(TO_ANY, "", 1) }, Code::ALREADY_HELD),
    ];
    for (send, code) in cases {
        assert_eq!(world.command(session, id, &send).code, code);
    }
    let answer = |member, message| AnswerV1 { member, message, failed: false, value: vec![] };
    assert_eq!(world.command(session, id, &answer(member, 1)).code, Code::NO_SUCH_MESSAGE);
    assert_eq!(world.command(session, id, &answer(1, 1)).code, Code::NO_SUCH_MEMBER);
    let set = SetV1 { member, data: vec![0; (4 << 10) + 1] };
    assert_eq!(world.command(session, id, &set).code, Code::KEY_TOO_LARGE);
    let inbox = InboxV1 { member: 1, brought: 0, message: 0 };
    assert_eq!(world.query(session, id, &inbox).code, Code::NO_SUCH_MEMBER);
    let (brought, message) = (u64::MAX, u64::MAX);
    let inbox = world.query(session, id, &InboxV1 { member, brought, message });
    assert_eq!(inbox.payload, [0; 5]);
    let answers = AnswersV1 { message: member, after: u64::MAX };
    assert_eq!(world.query(session, id, &answers).code, Code::NO_SUCH_MESSAGE);
    let page = MembersV1 { after: u64::MAX, limit: 0 };
    assert_eq!(world.query(session, id, &page).payload, [0; 5]);
    assert_eq!(world.query(session, id, &StatusV1 {}).payload[8..32], [0; 24]);
}

/// The machine fires 1,024 timers a batch; what else is due must be gone all the same.
#[test]
fn a_message_whose_time_is_over_is_gone_before_its_timer_fires() {
    let mut world = World::new();
    let (session, other) = (world.register(1), world.register(2));
    let mut last = None;
    for group in 0..1_100 {
        let id = world.open(session, &format!("group-{group}"), kind::GROUP);
        let member = world.command(session, id, &join(1, "a")).index;
        let ask = SendV1 { ask: true, wait_ms: Some(5), ..send(TO_ANY, "", 1) };
        last = Some((id, member, world.command(other, id, &ask).index));
    }
    let (id, member, message) = last.unwrap();
    world.time += 5_000;
    let inbox = InboxV1 { member, brought: 0, message: 0 };
    assert_eq!(world.query(session, id, &inbox).payload, [0; 5]);
    // The timer of the last is the 1,100th: it does not fire before the answer in this very batch.
    let answer = AnswerV1 { member, message, failed: false, value: vec![] };
    assert_eq!(world.command(session, id, &answer).code, Code::NO_SUCH_MESSAGE);
    let answers = AnswersV1 { message, after: 0 };
    assert_eq!(world.query(other, id, &answers).code, Code::NO_SUCH_MESSAGE, "not known yet");
    world.tick(Micros(0));
    let told = world.query(other, id, &answers).payload;
    assert_eq!(outcomes(&told), BTreeMap::from([(member, (SILENT, b"a".to_vec(), vec![]))]));
    assert_eq!(world.machine.next_timer(), None);
}

#[test]
fn a_slow_member_fills_its_own_inbox_only() {
    let mut world = World::new();
    let session = world.register(1);
    let id = world.open(session, "group", kind::GROUP);
    for (request, name) in [(1, "slow"), (2, "quick")] {
        world.command(session, id, &join(request, name));
    }
    let tell =
        |world: &mut World, to, name, size| world.command(session, id, &send(to, name, size)).code;
    for _ in 0..INBOX_MAX {
        assert_eq!(tell(&mut world, TO_MEMBER, "slow", 1), Code::OK);
    }
    assert_eq!(tell(&mut world, TO_MEMBER, "slow", 1), Code::INBOX_FULL);
    assert_eq!(tell(&mut world, TO_ALL, "", 1), Code::INBOX_FULL, "to all, or to none");
    let messages = |world: &World| {
        let told = world.query(session, id, &StatusV1 {}).payload;
        u64::from_le_bytes(told[8..16].try_into().unwrap())
    };
    assert_eq!(messages(&world), u64::from(INBOX_MAX));
    // Messages for any go past it.
    let large = 1 << 20;
    for _ in 0..INBOX_BYTES_MAX / large as u64 {
        assert_eq!(tell(&mut world, TO_ANY, "", large), Code::OK);
    }
    assert_eq!(tell(&mut world, TO_ANY, "", 1), Code::INBOX_FULL);
    // When it leaves, what was for any would go to the other; what was its own is over.
    world.command(session, id, &RemoveV1 { id: b"slow".to_vec() });
    assert_eq!(messages(&world), INBOX_BYTES_MAX / large as u64);
    // Whoever joins finds room, and what nobody has room for waits for it.
    world.command(session, id, &RemoveV1 { id: b"quick".to_vec() });
    assert_eq!(messages(&world), 0);
    world.command(session, id, &join(3, "new"));
    assert_eq!(messages(&world), INBOX_BYTES_MAX / large as u64);
}

/// However much waits for its members: the end of a session lets go of about one inbox at a time.
#[test]
fn a_session_that_ends_with_full_inboxes_leaves_them_one_by_one() {
    let mut world = World::new();
    let (session, other) = (world.register(1), world.register(2));
    let id = world.open(session, "group", kind::GROUP);
    for (request, name) in [(1, "a"), (2, "b"), (3, "c")] {
        world.command(session, id, &join(request, name));
        for _ in 0..INBOX_MAX {
            assert_eq!(world.command(other, id, &send(TO_MEMBER, name, 1)).code, Code::OK);
        }
    }
    let left = |world: &World| {
        world.seen.events.iter().filter(|(_, event)| event.kind == SESSION_ENDED).count()
    };
    world.end(kind::EXPIRE, session);
    assert_eq!(left(&world), 1);
    while world.machine.next_timer().is_some() {
        assert!(world.seen.ended.is_empty());
        world.tick(Micros(0));
    }
    assert_eq!((left(&world), world.seen.ended.len()), (3, 1));
    assert_eq!(world.query(other, id, &StatusV1 {}).payload, [0; 40]);
}

#[test]
fn members_questions_and_bytes_are_bounded() {
    let mut world = World::new();
    let (session, other) = (world.register(1), world.register(2));
    let id = world.open(session, "group", kind::GROUP);
    for request in 0..MEMBERS_MAX as u64 {
        assert_eq!(world.command(session, id, &join(request, "")).code, Code::OK);
    }
    assert_eq!(world.command(session, id, &join(9_999, "")).code, Code::TOO_MANY_MEMBERS);
    let (all, mut notices) = (MEMBERS_MAX, world.seen.notices.len());
    for _ in 0..10 {
        assert_eq!(world.command(other, id, &send(TO_ALL, "", 9)).code, Code::OK);
        assert_eq!(world.seen.notices.len() - notices, all, "each member is told once");
        notices = world.seen.notices.len();
    }
    assert_eq!(world.command(other, id, &send(TO_ALL, "", 9)).code, Code::INBOX_FULL);
    world.end(kind::EXPIRE, session);
    while world.machine.next_timer().is_some() {
        world.tick(Micros(0));
    }
    assert_eq!(world.query(other, id, &StatusV1 {}).payload, [0; 40]);

    let large = 1 << 20;
    for request in 0..=BYTES_MAX / INBOX_BYTES_MAX {
        world.command(other, id, &join(request, ""));
    }
    for _ in 0..BYTES_MAX / large as u64 {
        assert_eq!(world.command(other, id, &send(TO_ANY, "", large)).code, Code::OK);
    }
    assert_eq!(world.command(other, id, &send(TO_ANY, "", 1)).code, Code::INBOX_FULL);
}
