//! The log: one order, no gaps, and explicit where something is not kept any more.

use super::handles::Near;
use crate::machine::{Told, World, chunks, restore};
use margay::machine::bytes::Reader;
use margay::machine::{Code, LogTime, StateMachine, VALUE_MAX, kind};
use margay::resource::log::{
    AppendV1, Appended, BYTES_MAX, Log, RECORDS_MAX, ReadV1, Record, Retention, StatusV1, TrimV1,
};
use margay::resource::registry::{DeleteV1, OpenV1};
use margay::resource::{Failure, Registry};
use margay_log::id::Micros;
use proptest::prelude::*;
use std::time::Duration;

const SECOND: Micros = Micros::from_millis(1_000);

fn create(world: &mut World, session: u64, retention: Retention) -> Told {
    let open = OpenV1 { name: b"log".to_vec(), kind: kind::LOG, options: retention.encode() };
    world.command(session, 0, &open)
}

/// A world with a log in it.
fn world(retention: Retention) -> (World, u64, u64) {
    let mut world = World::new();
    let session = world.register(1);
    let told = create(&mut world, session, retention);
    assert_eq!(told.code, Code::OK);
    (world, session, told.index)
}

fn append(world: &mut World, session: u64, id: u64, records: Vec<Vec<u8>>) -> Told {
    world.command(session, id, &AppendV1 { records, position: 0 })
}

/// First, next, bytes.
fn status(world: &World, id: u64) -> (u64, u64, u64) {
    let told = world.query(0, id, &StatusV1 {});
    let mut reader = Reader::new(&told.payload);
    (reader.u64().unwrap(), reader.u64().unwrap(), reader.u64().unwrap())
}

/// The records of one page: where it begins, then time and bytes of each.
fn page(told: &Told) -> (u64, Vec<(u64, Vec<u8>)>) {
    assert_eq!(told.code, Code::OK, "{told:?}");
    let mut reader = Reader::new(&told.payload);
    let (from, _first, _next) = (reader.u64().unwrap(), reader.u64(), reader.u64());
    let count = reader.u32().unwrap();
    let record = |_| (reader.u64().unwrap(), reader.bytes().unwrap().to_vec());
    let records = (0..count).map(record).collect();
    (from, records)
}

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<Vec<u8>>),
    /// At the next position, or at another.
    AppendAt(bool, Vec<u8>),
    Trim(u64),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let record = || prop::collection::vec(any::<u8>(), 0..6);
    prop_oneof![
        4 => prop::collection::vec(record(), 1..4).prop_map(Step::Append),
        2 => (any::<bool>(), record()).prop_map(|(right, record)| Step::AppendAt(right, record)),
        1 => (0..40_u64).prop_map(Step::Trim),
        2 => (0..900_u64).prop_map(Step::Pass),
    ]
}

fn retention() -> impl Strategy<Value = Retention> {
    let maybe = |max| prop::option::of(1..max);
    (maybe(9_u64), maybe(30_u64), maybe(3_000_u64)).prop_map(|(records, bytes, age_ms)| {
        let mut retention = Retention::new();
        retention = records.map_or(retention, |records| retention.records(records));
        retention = bytes.map_or(retention, |bytes| retention.bytes(bytes));
        age_ms.map_or(retention, |age_ms| retention.age(Duration::from_millis(age_ms)))
    })
}

/// The plainest log there is.
struct Model {
    /// Position, time, bytes of each.
    kept: Vec<(u64, u64, Vec<u8>)>,
    next: u64,
    bounds: (u64, u64, u64),
}

impl Model {
    fn push(&mut self, time: u64, record: &[u8]) {
        self.kept.push((self.next, time, record.to_vec()));
        self.next += 1;
    }

    fn bytes(&self) -> u64 {
        self.kept.iter().map(|(_, _, record)| record.len() as u64).sum()
    }

    fn roll(&mut self) {
        let (records, bytes, _) = self.bounds;
        let too_much = |model: &Model| {
            (records > 0 && model.kept.len() as u64 > records)
                || (bytes > 0 && model.bytes() > bytes)
        };
        while self.kept.len() > 1 && too_much(self) {
            self.kept.remove(0);
        }
    }

    fn age(&mut self, now: u64) {
        let age = self.bounds.2 * 1_000;
        self.kept.retain(|(_, time, _)| age == 0 || time + age > now);
    }

    fn first(&self) -> u64 {
        self.kept.first().map_or(self.next, |(position, ..)| *position)
    }
}

proptest! {
    #[test]
    fn a_log_is_a_list_that_forgets_its_beginning(
        retention in retention(),
        steps in prop::collection::vec(step(), 1..60),
        limit in 1_u32..5,
    ) {
        let (mut world, session, id) = world(retention);
        let options = retention.encode();
        let bound = |at: usize| options.get(at..at + 8).map_or(0, |bytes| {
            u64::from_le_bytes(bytes.try_into().unwrap())
        });
        let bounds = (bound(0), bound(8), bound(16));
        let mut model = Model { kept: Vec::new(), next: 1, bounds };
        for step in steps {
            if let Step::Pass(milliseconds) = step {
                world.time += milliseconds * 1_000;
            }
            model.age(world.time);
            match step {
                Step::Append(records) => {
                    let told = append(&mut world, session, id, records.clone());
                    prop_assert_eq!(told.payload, [&[1][..], &model.next.to_le_bytes()].concat());
                    records.iter().for_each(|record| model.push(world.time, record));
                    model.roll();
                }
                Step::AppendAt(right, record) => {
                    let position = if right { model.next } else { model.next + 1 };
                    let append = AppendV1 { records: vec![record.clone()], position };
                    let told = world.command(session, id, &append);
                    let done = u8::from(right);
                    let expected = [&[done][..], &model.next.to_le_bytes()].concat();
                    prop_assert_eq!(told.payload, expected);
                    if right {
                        model.push(world.time, &record);
                        model.roll();
                    }
                }
                Step::Trim(before) => {
                    let told = world.command(session, id, &TrimV1 { before });
                    model.kept.retain(|(position, ..)| *position >= before);
                    prop_assert_eq!(told.payload, model.first().to_le_bytes());
                }
                Step::Pass(_) => {}
            }
            let (first, next) = (model.first(), model.next);
            prop_assert_eq!(status(&world, id), (first, next, model.bytes()));
            for from in first.saturating_sub(2)..next + 2 {
                let told = world.query(session, id, &ReadV1 { from, limit });
                if from > 0 && from < first {
                    prop_assert_eq!(told.code, Code::TRIMMED);
                    continue;
                }
                let from = from.max(first);
                let there = model.kept.iter().filter(|(position, ..)| *position >= from);
                let there: Vec<_> = there.take(limit as usize).collect();
                let (begin, records) = page(&told);
                prop_assert_eq!(begin, from);
                prop_assert_eq!(records.len(), there.len());
                for ((time, bytes), (_, at, expected)) in records.iter().zip(there) {
                    prop_assert_eq!((time, bytes), (at, expected));
                }
            }
        }
        let copy = restore(&chunks(&world.machine, 64)).expect("what we wrote");
        prop_assert_eq!(chunks(&copy, 64), chunks(&world.machine, 64));
    }
}

#[test]
fn records_that_are_too_old_go_with_a_timer_a_second_and_are_gone_before() {
    let age = Duration::from_millis(1_500);
    let (mut world, session, id) = world(Retention::new().age(age));
    append(&mut world, session, id, vec![b"old".to_vec()]);
    world.tick(SECOND);
    append(&mut world, session, id, vec![b"new".to_vec()]);
    world.time += 500_000;
    assert_eq!(status(&world, id), (2, 3, 3), "gone for a query before any timer fires");
    assert_eq!(world.machine.next_timer(), Some(LogTime(2_000_000)));
    world.tick(Micros::from_millis(500));
    assert_eq!(world.machine.next_timer(), Some(LogTime(3_000_000)), "the other one's");
    world.tick(SECOND);
    assert_eq!(status(&world, id), (3, 3, 0), "the last one goes as well");
    assert_eq!(world.machine.next_timer(), None);
    let told = append(&mut world, session, id, vec![b"on".to_vec()]);
    assert_eq!(told.payload[1..], 3_u64.to_le_bytes(), "positions are not used again");
}

#[test]
fn a_log_that_keeps_everything_is_full_one_day_and_one_that_rolls_never() {
    let (mut keeps, session, id) = world(Retention::new());
    let thousand = || vec![Vec::new(); 1_000];
    for _ in 0..RECORDS_MAX / 1_000 {
        assert_eq!(append(&mut keeps, session, id, thousand()).code, Code::OK);
        keeps.seen.events.clear();
    }
    let before = status(&keeps, id);
    assert_eq!(append(&mut keeps, session, id, vec![vec![]]).code, Code::LOG_FULL);
    assert_eq!(status(&keeps, id), before, "nothing has changed");
    keeps.command(session, id, &TrimV1 { before: 2 });
    assert_eq!(append(&mut keeps, session, id, vec![vec![]]).code, Code::OK);
    assert_eq!(append(&mut keeps, session, id, vec![vec![]]).code, Code::LOG_FULL);

    let (mut rolls, session, id) = world(Retention::new().bytes(BYTES_MAX));
    for _ in 0..BYTES_MAX / VALUE_MAX as u64 + 3 {
        let told = append(&mut rolls, session, id, vec![vec![7; VALUE_MAX]]);
        assert_eq!(told.code, Code::OK);
        rolls.seen.events.clear();
    }
    let (first, next, bytes) = status(&rolls, id);
    assert_eq!((first, next, bytes), (4, BYTES_MAX / VALUE_MAX as u64 + 4, BYTES_MAX));
}

#[test]
fn a_page_is_bounded_in_bytes_and_always_gets_on() {
    let (mut world, session, id) = world(Retention::new());
    for n in 0..4_u8 {
        append(&mut world, session, id, vec![vec![n; 700 << 10]]);
    }
    for position in 1..=4_u64 {
        let told = world.query(session, id, &ReadV1 { from: position, limit: 0 });
        let (from, records) = page(&told);
        assert_eq!((from, records.len(), records[0].1[0]), (position, 1, position as u8 - 1));
    }
    let (mut small, session, id) = self::world(Retention::new());
    append(&mut small, session, id, vec![vec![]; 1_000]);
    append(&mut small, session, id, vec![vec![]; 1_000]);
    for limit in [0, 1_000, 1_001, u32::MAX] {
        let (_, records) = page(&small.query(session, id, &ReadV1 { from: 0, limit }));
        assert_eq!(records.len(), 1_000);
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let admitted = |append: &AppendV1| {
        use margay::resource::codec::{Encode, Operation};
        Registry::check(kind::LOG, AppendV1::SCHEMA, &append.encode())
    };
    let append = |records| AppendV1 { records, position: 0 };
    assert_eq!(admitted(&append(vec![])), Err(Code::BAD_AMOUNT));
    assert_eq!(admitted(&append(vec![vec![]; 1_000])), Ok(()));
    assert_eq!(admitted(&append(vec![vec![]; 1_001])), Err(Code::TOO_MANY_KEYS));
    assert_eq!(admitted(&append(vec![vec![0; VALUE_MAX + 1]])), Err(Code::VALUE_TOO_LARGE));

    let mut world = World::new();
    let session = world.register(1);
    let eleven_years = Duration::from_secs(11 * 365 * 24 * 3_600);
    let new = Retention::new;
    let bad = [
        (new().records(0), Code::BAD_AMOUNT),
        (new().records(RECORDS_MAX + 1), Code::BAD_AMOUNT),
        (new().bytes(0), Code::BAD_AMOUNT),
        (new().bytes(BYTES_MAX + 1), Code::BAD_AMOUNT),
        (new().age(Duration::ZERO), Code::BAD_TIME),
        (new().age(eleven_years), Code::BAD_TIME),
        (new().age(Duration::MAX), Code::BAD_TIME),
    ];
    for (retention, code) in bad {
        assert_eq!(create(&mut world, session, retention).code, code, "{retention:?}");
    }
    let options = vec![1; 23];
    let open = OpenV1 { name: b"log".to_vec(), kind: kind::LOG, options };
    assert_eq!(world.command(session, 0, &open).code, Code::BAD_PAYLOAD);
    let most = new().records(RECORDS_MAX).bytes(BYTES_MAX).age(Duration::from_nanos(1));
    assert_eq!(create(&mut world, session, most).code, Code::OK);
}

// ---- the handle -----------------------------------------------------------------------------

fn log_of(retention: Retention) -> (Near, Log<Near>) {
    let (near, _) = Near::pair();
    let log = Log::open_with(near.clone(), "audit", retention).wait().unwrap();
    (near, log)
}

fn numbers(records: &[Record]) -> Vec<(u64, u8)> {
    records.iter().map(|record| (record.position, record.bytes[0])).collect()
}

/// All that is there now.
fn heard(follow: &mut margay::resource::log::Follow<Near>) -> Vec<(u64, u8)> {
    let all: Vec<Record> = std::iter::from_fn(|| follow.try_next()).map(Result::unwrap).collect();
    numbers(&all)
}

#[test]
fn the_log_handle() {
    let (_near, log) = log_of(Retention::new());
    assert_eq!(log.append(&[1]).wait().unwrap(), 1);
    assert_eq!(log.append_all(&[[2], [3]]).wait().unwrap(), 2..4);
    assert_eq!(log.append_at(4, &[[4]]).wait().unwrap(), Appended::Done(4..5));
    for elsewhere in [1, 4, 6] {
        let appended = log.append_at(elsewhere, &[[9]]).wait().unwrap();
        assert_eq!(appended, Appended::Conflict { next: 5 });
    }
    assert_eq!(log.append_at(0, &[[9]]).wait().unwrap_err().code, Code::BAD_AMOUNT);
    let none: [&[u8]; 0] = [];
    assert_eq!(log.append_all(&none).wait().unwrap_err().code, Code::BAD_AMOUNT);

    let page = log.read(2, 2).wait().unwrap();
    assert_eq!((numbers(&page.records), page.first, page.next), (vec![(2, 2), (3, 3)], 1, 5));
    assert_eq!(page.go_on(), Some(4));
    assert_eq!(log.read(4, 0).wait().unwrap().go_on(), None);
    assert!(log.read(5, 0).wait().unwrap().records.is_empty());

    assert_eq!(log.trim(3).wait().unwrap(), 3);
    assert_eq!(log.trim(1).wait().unwrap(), 3, "nothing comes back");
    let failure = log.read(2, 0).wait().unwrap_err();
    assert_eq!(failure.code, Code::TRIMMED);
    assert!(failure.text.contains("position 2 is gone; the first is 3"), "{failure}");
    assert_eq!(numbers(&log.read(0, 0).wait().unwrap().records), [(3, 3), (4, 4)]);
    assert_eq!(log.trim(u64::MAX).wait().unwrap(), 5);
    let status = log.status().wait().unwrap();
    assert_eq!((status.first, status.next, status.bytes), (5, 5, 0));
}

#[test]
fn following_goes_from_what_is_there_to_what_comes_without_a_gap() {
    let (_near, log) = log_of(Retention::new());
    let mut from_now = log.follow(None);
    assert_eq!(heard(&mut from_now), []);
    for n in 0..2_500_u64 {
        log.append(&[n as u8]).wait().unwrap();
    }
    let (mut all, mut some) = (log.follow(Some(0)), log.follow(Some(2_499)));
    let expected: Vec<(u64, u8)> = (1..=2_500).map(|n| (n, (n - 1) as u8)).collect();
    assert_eq!(heard(&mut all), expected);
    assert_eq!(heard(&mut from_now), expected, "more than events are kept: from pages, too");
    assert_eq!(heard(&mut some), expected[2_498..]);
    let mut ahead = log.follow(Some(2_503));
    assert_eq!(heard(&mut ahead), []);
    log.append_all(&[[1], [2], [3]]).wait().unwrap();
    for follow in [&mut all, &mut from_now, &mut some] {
        assert_eq!(heard(follow), [(2_501, 1), (2_502, 2), (2_503, 3)]);
        assert_eq!(follow.position(), 2_504);
    }
    assert_eq!(heard(&mut ahead), [(2_503, 3)], "it begins where it was told to");
}

#[test]
fn a_record_too_large_to_be_an_event_is_read() {
    let (_near, log) = log_of(Retention::new());
    let mut follow = log.follow(Some(0));
    assert_eq!(heard(&mut follow), []);
    log.append(&[1; VALUE_MAX]).wait().unwrap();
    log.append(&[2]).wait().unwrap();
    assert_eq!(heard(&mut follow), [(1, 1), (2, 2)]);
}

#[test]
fn who_follows_a_log_that_was_trimmed_past_is_told() {
    let (_near, log) = log_of(Retention::new().records(10));
    for n in 0..30 {
        log.append(&[n]).wait().unwrap();
    }
    let mut late = log.follow(Some(5));
    let Some(Err(Failure { code: Code::TRIMMED, .. })) = late.try_next() else { panic!() };
    assert_eq!(late.position(), 5, "this one is missing");
    assert!(late.try_next().unwrap().is_err(), "it is over");
    let mut first = log.follow(Some(0));
    let all = heard(&mut first);
    assert_eq!((all.len(), all[0].0), (10, 21), "from the first that is kept");

    // What came as an event is there, kept by now or not.
    for n in 30..50 {
        log.append(&[n]).wait().unwrap();
    }
    log.trim(u64::MAX).wait().unwrap();
    assert_eq!(heard(&mut first).len(), 20);
    // Missed events, and what they told of is gone.
    for n in 0..2_000_u64 {
        log.append(&[n as u8]).wait().unwrap();
    }
    let mut slow = log.follow(None);
    assert!(slow.try_next().is_none());
    for n in 0..5_000_u64 {
        log.append(&[n as u8]).wait().unwrap();
    }
    let Some(Err(failure)) = slow.try_next() else { panic!("it must have lagged") };
    assert_eq!((failure.code, slow.position()), (Code::TRIMMED, 2_051));
}

#[test]
fn who_follows_a_log_that_is_deleted_is_told() {
    let (near, log) = log_of(Retention::new());
    log.append(&[1]).wait().unwrap();
    let mut follow = log.follow(Some(1));
    assert_eq!(heard(&mut follow), [(1, 1)]);
    let mut far = near.far();
    let (session, delete) = (near.session, DeleteV1 { resource: log.id().0 });
    far.world.command(session, 0, &delete);
    far.deliver();
    drop(far);
    let Some(Err(failure)) = follow.try_next() else { panic!("it is over") };
    assert_eq!(failure.code, Code::NO_SUCH_RESOURCE);
    let late = log.follow(Some(1)).try_next().unwrap().unwrap_err();
    assert_eq!(late.code, Code::NO_SUCH_RESOURCE);
}
