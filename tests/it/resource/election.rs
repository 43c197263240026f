//! The election against a row of candidates, and what its handle shows.

use super::handles::{Near, poll};
use super::lock::mirror;
use crate::machine::World;
use margay::machine::bytes::Reader;
use margay::machine::{Code, NoticeState, SessionId, kind};
use margay::resource::Election;
use margay::resource::election::{
    AnointV1, CampaignV1, CancelV1, CandidatesV1, ELECTED, ElectionEvent, EvictV1, LeaderV1,
    PromoteV1, VACANT,
};
use margay_log::id::{Index, Micros};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::task::Poll;
use std::time::Duration;

#[derive(Clone, Debug)]
enum Step {
    Campaign { session: usize, request: u64, wait: Option<u64> },
    Resign { session: usize, request: u64 },
    Anoint(usize),
    Promote(usize),
    Evict(usize),
    End(usize),
    Tick(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let wait = prop::option::of(prop_oneof![Just(0), 1..30_u64]);
    prop_oneof![
        8 => (0..4_usize, 0..3_u64, wait)
            .prop_map(|(session, request, wait)| Step::Campaign { session, request, wait }),
        2 => (0..4_usize, 0..3_u64)
            .prop_map(|(session, request)| Step::Resign { session, request }),
        2 => any::<usize>().prop_map(Step::Anoint),
        2 => any::<usize>().prop_map(Step::Promote),
        2 => any::<usize>().prop_map(Step::Evict),
        1 => (0..4_usize).prop_map(Step::End),
        2 => (0..12_u64).prop_map(Step::Tick),
    ]
}

#[derive(Clone, Copy, PartialEq, Debug)]
struct Running {
    session: u64,
    request: u64,
    name: u64,
    due: Option<u64>,
}

/// The first of the row leads.
#[derive(Default)]
struct Model {
    leader: Option<(Running, u64)>,
    row: Vec<Running>,
    events: Vec<(u16, u64)>,
}

impl Model {
    fn settle(&mut self, index: u64) {
        if self.leader.is_none() && !self.row.is_empty() {
            self.leader = Some((self.row.remove(0), index));
        }
    }

    fn find(&self, session: u64, request: u64) -> Option<Running> {
        let all = self.leader.iter().map(|(leader, _)| leader).chain(&self.row);
        all.copied().find(|known| (known.session, known.request) == (session, request))
    }

    fn remove(&mut self, name: u64) -> bool {
        if self.leader.is_some_and(|(leader, _)| leader.name == name) {
            self.leader = None;
            return true;
        }
        let before = self.row.len();
        self.row.retain(|known| known.name != name);
        self.row.len() < before
    }

    /// The name of somebody in the row, the leader, or nobody.
    fn pick(&self, pick: usize) -> u64 {
        let mut names: Vec<u64> = self.row.iter().map(|known| known.name).collect();
        names.extend(self.leader.map(|(leader, _)| leader.name));
        names.push(1);
        names[pick % names.len()]
    }
}

struct Game {
    world: World,
    model: Model,
    sessions: Vec<u64>,
    id: u64,
}

impl Game {
    fn play(&mut self, step: &Step) {
        let Game { world, model, sessions, id } = self;
        let index = world.machine.applied().0 + 1;
        let before = model.leader.map(|(leader, _)| leader.name);
        match *step {
            Step::Campaign { session, request, wait } => {
                let session = sessions[session];
                let data = index.to_string().into_bytes();
                let campaign = CampaignV1 { request, data, wait_ms: wait };
                let told = world.command(session, *id, &campaign);
                let due = wait.map(|wait| world.time + wait * 1_000);
                if model.find(session, request).is_some() {
                    assert_eq!(told.code, Code::ALREADY_HELD);
                } else if model.leader.is_none() || wait != Some(0) {
                    model.row.push(Running { session, request, name: index, due });
                }
            }
            Step::Resign { session, request } => {
                let known = model.find(sessions[session], request);
                world.command(sessions[session], *id, &CancelV1 { request });
                known.map(|known| model.remove(known.name));
            }
            Step::Anoint(pick) => {
                let candidate = model.pick(pick);
                let told = world.command(sessions[0], *id, &AnointV1 { candidate });
                match model.row.iter().position(|known| known.name == candidate) {
                    Some(at) => model.leader = Some((model.row.remove(at), index)),
                    None if before == Some(candidate) => {}
                    None => assert_eq!(told.code, Code::NO_SUCH_CANDIDATE),
                }
            }
            Step::Promote(pick) => {
                let candidate = model.pick(pick);
                let told = world.command(sessions[0], *id, &PromoteV1 { candidate });
                match model.row.iter().position(|known| known.name == candidate) {
                    Some(at) => {
                        let known = model.row.remove(at);
                        model.row.insert(0, known);
                    }
                    None => assert_eq!(told.code, Code::NO_SUCH_CANDIDATE),
                }
            }
            Step::Evict(pick) => {
                let candidate = model.pick(pick);
                let told = world.command(sessions[0], *id, &EvictV1 { candidate });
                let code = if model.remove(candidate) { Code::OK } else { Code::NO_SUCH_CANDIDATE };
                assert_eq!(told.code, code);
            }
            Step::End(session) => {
                let ended = sessions[session];
                world.end(kind::EXPIRE, ended);
                model.row.retain(|known| known.session != ended);
                model.leader = model.leader.filter(|(leader, _)| leader.session != ended);
                sessions[session] = world.register(session as u8);
            }
            Step::Tick(ms) => {
                world.tick(Micros::from_millis(ms));
                let now = world.time;
                model.row.retain(|known| known.due.is_none_or(|due| due > now));
            }
        }
        model.settle(index);
        match model.leader.map(|(leader, _)| leader.name) {
            after if after == before => {}
            Some(name) => model.events.push((ELECTED, name)),
            None => model.events.push((VACANT, 0)),
        }
        self.check();
    }

    fn check(&self) {
        let Game { world, model, sessions, id } = self;
        let payload = world.query(sessions[0], *id, &LeaderV1 {}).payload;
        let mut reader = Reader::new(&payload);
        assert_eq!(reader.u8().unwrap() != 0, model.leader.is_some());
        let (session, term) = (reader.u64().unwrap(), reader.u64().unwrap());
        let (name, waiting) = (reader.u64().unwrap(), reader.u32().unwrap());
        if let Some((leader, since)) = model.leader {
            assert_eq!((session, term, name), (leader.session, since, leader.name));
            assert_eq!(reader.rest(), leader.name.to_string().as_bytes());
        } else {
            assert!(model.row.is_empty(), "somebody leads as long as somebody wants to");
        }
        assert_eq!(waiting as usize, model.row.len());
        let payload = world.query(sessions[0], *id, &CandidatesV1 { limit: 0 }).payload;
        let mut reader = Reader::new(&payload);
        let mut listed = Vec::new();
        for _ in 0..reader.u32().unwrap() {
            let (name, session) = (reader.u64().unwrap(), reader.u64().unwrap());
            assert_eq!(reader.bytes().unwrap(), name.to_string().as_bytes());
            listed.push((name, session));
        }
        let row: Vec<_> = model.row.iter().map(|known| (known.name, known.session)).collect();
        assert_eq!(listed, row);
        let told: Vec<(u16, u64)> = world.seen.events.iter().map(told).collect();
        assert_eq!(told, model.events);
        for session in sessions {
            let mut listed = Vec::new();
            world.machine.holdings(SessionId(*session), &mut listed);
            let listed: BTreeMap<u64, NoticeState> =
                listed.iter().map(|notice| (notice.waiter.0, notice.state)).collect();
            assert_eq!(listed, mirror(&world.seen.notices, *session));
        }
    }
}

fn told((_, event): &(u64, margay::machine::Event)) -> (u16, u64) {
    let value = event.new.as_ref().map(|pair| pair.value()[..8].try_into().unwrap());
    (event.kind, value.map_or(0, u64::from_le_bytes))
}

proptest! {
    #[test]
    fn an_election_is_a_row_whose_first_leads(steps in prop::collection::vec(step(), 1..100)) {
        let mut world = World::new();
        let sessions: Vec<u64> = (0..4).map(|key| world.register(key)).collect();
        let id = world.open(sessions[0], "election", kind::ELECTION);
        let mut game = Game { world, model: Model::default(), sessions, id };
        let mut last = 0;
        for step in &steps {
            game.play(step);
            if let Some((_, term)) = game.model.leader {
                prop_assert!(term >= last, "terms rise");
                last = term;
            }
        }
    }
}

#[test]
fn leadership_passes_on_and_its_term_rises() {
    let (one, two) = Near::pair();
    let ours = Election::open(one.clone(), "boss").wait().unwrap();
    let theirs = Election::open(two, "boss").wait().unwrap();
    let mut watch = theirs.watch(None);
    assert_eq!(ours.leader().wait().unwrap(), None);
    let first = ours.campaign(b"one").wait().unwrap();
    let mut next = theirs.campaign(b"two");
    assert!(poll(&mut next).is_pending());
    assert!(ours.campaign_within(b"late", Duration::ZERO).wait().unwrap().is_none());
    assert!(theirs.is_leader(first.term()).wait().unwrap());
    let leader = theirs.leader().wait().unwrap().unwrap();
    assert_eq!((leader.data.as_slice(), leader.waiting), (&b"one"[..], 1));
    let mut lost = first.lost();
    assert!(poll(&mut lost).is_pending());
    one.end(kind::EXPIRE);
    assert!(poll(&mut lost).is_pending(), "this client's side does not know yet");
    let Poll::Ready(Ok(second)) = poll(&mut next) else { panic!("the next one leads") };
    assert!(second.term() > first.term());
    assert!(!theirs.is_leader(first.term()).wait().unwrap());
    let term = second.term();
    second.resign().wait().unwrap();
    let elected = |term, candidate, data: &[u8]| ElectionEvent::Elected {
        term,
        candidate,
        data: data.to_vec(),
    };
    let told: Vec<_> = std::iter::from_fn(|| watch.try_next()).map(Result::unwrap).collect();
    let expected = [
        elected(first.term(), first.candidate(), b"one"),
        elected(term, leader.candidate + 1, b"two"),
        ElectionEvent::Vacant,
    ];
    assert_eq!(told, expected);
    // Whoever has been told a leader goes on behind its term, and is not told it again.
    let mut watch = theirs.watch(Some((Index(first.term()), u32::MAX)));
    let told: Vec<_> = std::iter::from_fn(|| watch.try_next()).map(Result::unwrap).collect();
    assert_eq!(told, expected[1..]);
}

/// A crashed leader is replaced whether its session is closed or expires.
#[test]
fn a_leader_is_replaced_however_its_session_ends() {
    for end in [kind::CLOSE, kind::EXPIRE] {
        let (one, two) = Near::pair();
        let ours = Election::open(one.clone(), "boss").wait().unwrap();
        let theirs = Election::open(two, "boss").wait().unwrap();
        let _gone = ours.campaign(b"").wait().unwrap();
        let mut dead = ours.campaign(b"");
        let mut next = theirs.campaign(b"");
        assert!(poll(&mut dead).is_pending() && poll(&mut next).is_pending());
        one.end(end);
        assert!(matches!(poll(&mut next), Poll::Ready(Ok(_))), "and nobody dead is elected");
    }
}

#[test]
fn candidates_are_anointed_promoted_and_evicted() {
    let (one, two) = Near::pair();
    let ours = Election::open(one, "boss").wait().unwrap();
    let theirs = Election::open(two, "boss").wait().unwrap();
    let leader = ours.campaign(b"a").wait().unwrap();
    let mut waits: Vec<_> = [b"b", b"c", b"d"].map(|data| theirs.campaign(data)).into();
    for wait in &mut waits {
        assert!(poll(wait).is_pending());
    }
    let names = |election: &Election<Near>| -> Vec<(u64, Vec<u8>)> {
        let row = election.candidates().wait().unwrap();
        row.into_iter().map(|known| (known.candidate, known.data)).collect()
    };
    let row = names(&ours);
    ours.promote(row[2].0).wait().unwrap();
    assert_eq!(names(&ours)[0].1, b"d");
    ours.anoint(row[1].0).wait().unwrap();
    assert!(matches!(poll(&mut waits[1]), Poll::Ready(Ok(_))), "c leads; its guard is dropped");
    assert_eq!(leader.resign().wait().unwrap_err().code, Code::NOT_HOLDER);
    assert_eq!(ours.leader().wait().unwrap().unwrap().data, b"d", "c has resigned");
    ours.evict(row[0].0).wait().unwrap();
    let Poll::Ready(Err(failure)) = poll(&mut waits[0]) else { panic!("b is out") };
    assert_eq!(failure.code, Code::WAIT_LOST);
    let refused = ours.promote(row[0].0).wait().unwrap_err();
    assert_eq!(refused.code, Code::NO_SUCH_CANDIDATE);
    let large = ours.campaign(&vec![0; 5_000]).wait().err().unwrap();
    assert_eq!(large.code, Code::KEY_TOO_LARGE);
}
