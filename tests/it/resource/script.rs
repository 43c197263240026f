//! Random histories over all types of resources: sessions that come and go, repeats, gaps, garbage.

use crate::machine::{Batched, Logged, World, register};
use margay::machine::{Code, kind};
use margay::resource::codec::Encode;
use margay::resource::{
    barrier, counter, election, group, latch, lock, log, map, multimap, queue, registry, rwlock,
    semaphore, set, topic, tree, value,
};
use proptest::prelude::*;
use proptest::sample::Index as Pick;

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Register(u8),
    End(Pick, bool),
    Tick(u64),
    Command(Pick, Pick, Coded),
    /// A command of the first session to the registry.
    First(Coded),
    /// A command from the log once more.
    Again(Pick),
    /// A command with a sequence that is not the next.
    Skip(Pick, u64),
}

/// An operation as bytes.
#[derive(Clone, Debug)]
pub(crate) struct Coded {
    kind: u8,
    schema: u16,
    payload: Vec<u8>,
}

impl Coded {
    fn logged(&self, session: u64, resource: u64, sequence: u64) -> Logged {
        let (acked, payload) = (sequence.saturating_sub(4), self.payload.clone());
        let Coded { kind, schema, .. } = *self;
        Logged { kind, schema, resource, session, sequence, acked, payload }
    }
}

fn code<O: Encode>(operation: &O) -> Coded {
    Coded { kind: O::KIND, schema: O::SCHEMA, payload: operation.encode() }
}

/// A history begins with one of each.
const KINDS: [u8; 16] = [
    kind::QUEUE,
    kind::LOCK,
    kind::MAP,
    kind::VALUE,
    kind::COUNTER,
    kind::MULTIMAP,
    kind::SET,
    kind::TREE,
    kind::RW_LOCK,
    kind::SEMAPHORE,
    kind::BARRIER,
    kind::LATCH,
    kind::ELECTION,
    kind::TOPIC,
    kind::GROUP,
    kind::LOG,
];

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(0_u8..3, 0..3)
}

/// Whether an entry ends with its session, and its time to live.
fn life() -> impl Strategy<Value = (bool, u64)> {
    prop_oneof![2 => Just((false, 0)), 1 => (any::<bool>(), 0..4_u64)]
}

fn map_operation() -> impl Strategy<Value = Coded> {
    let maybe = || prop::option::of(bytes());
    prop_oneof![
        2 => (bytes(), bytes(), any::<bool>(), life()).prop_map(
            |(key, value, previous, (ephemeral, ttl_ms))| {
                code(&map::PutV1 { key, value, previous, ephemeral, ttl_ms })
            }
        ),
        1 => (bytes(), bytes(), life()).prop_map(|(key, value, (ephemeral, ttl_ms))| {
            code(&map::PutIfAbsentV1 { key, value, ephemeral, ttl_ms })
        }),
        1 => (bytes(), any::<bool>())
            .prop_map(|(key, previous)| code(&map::RemoveV1 { key, previous })),
        1 => (bytes(), maybe(), 0_u64..9).prop_map(|(key, expected, version)| {
            code(&map::RemoveIfV1 { key, expected, version })
        }),
        1 => (bytes(), bytes(), life()).prop_map(|(key, value, (ephemeral, ttl_ms))| {
            code(&map::ReplaceV1 { key, value, ephemeral, ttl_ms })
        }),
        1 => (bytes(), maybe(), 0_u64..9, bytes(), life()).prop_map(
            |(key, expected, version, value, (ephemeral, ttl_ms))| {
                code(&map::ReplaceIfV1 { key, expected, version, value, ephemeral, ttl_ms })
            }
        ),
        1 => any::<bool>().prop_map(|last| code(&map::PollV1 { last })),
        1 => Just(code(&map::ClearV1 {})),
    ]
}

fn value_operation() -> impl Strategy<Value = Coded> {
    prop_oneof![
        (bytes(), life()).prop_map(|(value, (ephemeral, ttl_ms))| {
            code(&value::SetV1 { value, ephemeral, ttl_ms })
        }),
        (bytes(), life()).prop_map(|(value, (ephemeral, ttl_ms))| {
            code(&value::GetAndSetV1 { value, ephemeral, ttl_ms })
        }),
        (prop::option::of(bytes()), bytes(), life()).prop_map(
            |(expected, value, (ephemeral, ttl_ms))| {
                code(&value::CompareAndSetV1 { expected, value, ephemeral, ttl_ms })
            }
        ),
        (0_u64..9, bytes(), life()).prop_map(|(version, value, (ephemeral, ttl_ms))| {
            code(&value::CompareVersionV1 { version, value, ephemeral, ttl_ms })
        }),
        Just(code(&value::DeleteV1 {})),
    ]
}

fn multimap_operation() -> impl Strategy<Value = Coded> {
    let values = || prop::collection::vec(bytes(), 0..3);
    prop_oneof![
        4 => (bytes(), bytes()).prop_map(|(key, value)| code(&multimap::PutV1 { key, value })),
        1 => (bytes(), values())
            .prop_map(|(key, values)| code(&multimap::ReplaceV1 { key, values })),
        1 => (bytes(), bytes())
            .prop_map(|(key, value)| code(&multimap::RemoveEntryV1 { key, value })),
        1 => bytes().prop_map(|key| code(&multimap::RemoveKeyV1 { key })),
        1 => bytes()
            .prop_map(|value| code(&multimap::RemoveValueV1 { value, after: None })),
        1 => Just(code(&multimap::ClearV1 {})),
    ]
}

fn set_operation() -> impl Strategy<Value = Coded> {
    let members = || prop::collection::vec(bytes(), 0..4);
    prop_oneof![
        4 => (members(), life()).prop_map(|(members, (ephemeral, ttl_ms))| {
            code(&set::AddV1 { members, ephemeral, ttl_ms })
        }),
        2 => members().prop_map(|members| code(&set::RemoveV1 { members })),
        1 => members().prop_map(|members| code(&set::RetainV1 { members })),
        1 => any::<bool>().prop_map(|last| code(&set::PollV1 { last })),
        1 => Just(code(&set::ClearV1 {})),
    ]
}

fn tree_operation() -> impl Strategy<Value = Coded> {
    let path = || {
        prop::collection::vec(prop_oneof![Just("/a"), Just("/b")], 0..4)
            .prop_map(|names| names.concat().into_bytes())
    };
    let flag = any::<bool>;
    prop_oneof![
        4 => (path(), bytes(), flag(), flag(), flag()).prop_map(
            |(path, data, ephemeral, sequential, parents)| {
                code(&tree::CreateV1 { path, data, ephemeral, sequential, parents })
            }
        ),
        1 => (path(), bytes(), prop_oneof![Just(0), 1_u64..9])
            .prop_map(|(path, data, version)| code(&tree::SetV1 { path, data, version })),
        1 => path().prop_map(|path| code(&tree::DeleteV1 { path, version: 0 })),
        1 => path().prop_map(|path| code(&tree::DeleteBelowV1 { path })),
    ]
}

fn lock_operation() -> impl Strategy<Value = Coded> {
    let wait = prop::option::of(prop_oneof![Just(0), 1..9_u64]);
    prop_oneof![
        4 => (0..3_u64, wait)
            .prop_map(|(request, wait_ms)| code(&lock::LockV1 { request, wait_ms })),
        1 => (0..60_u64).prop_map(|token| code(&lock::UnlockV1 { token })),
        2 => (0..3_u64).prop_map(|request| code(&lock::CancelV1 { request })),
    ]
}

fn claims_operation() -> impl Strategy<Value = Coded> {
    let wait = || prop::option::of(prop_oneof![Just(0), 1..9_u64]);
    prop_oneof![
        4 => (0..3_u64, any::<bool>(), wait()).prop_map(|(request, write, wait_ms)| {
            code(&rwlock::LockV1 { request, write, wait_ms })
        }),
        2 => (0..60_u64).prop_map(|hold| code(&rwlock::UnlockV1 { hold })),
        1 => (0..3_u64).prop_map(|request| code(&rwlock::CancelV1 { request })),
        4 => (0..3_u64, 0..3_u32, wait()).prop_map(|(request, permits, wait_ms)| {
            code(&semaphore::AcquireV1 { request, permits, wait_ms })
        }),
        2 => (0..60_u64, 1..3_u32)
            .prop_map(|(hold, permits)| code(&semaphore::ReleaseV1 { hold, permits })),
        1 => (0..3_u64).prop_map(|request| code(&semaphore::CancelV1 { request })),
        1 => (0..3_u64).prop_map(|request| code(&semaphore::DrainV1 { request })),
        1 => (0..4_u32).prop_map(|permits| code(&semaphore::ResizeV1 { permits })),
    ]
}

fn gathering_operation() -> impl Strategy<Value = Coded> {
    let wait = || prop::option::of(prop_oneof![Just(0), 1..9_u64]);
    let request = || 0..3_u64;
    prop_oneof![
        3 => (request(), wait())
            .prop_map(|(request, wait_ms)| code(&barrier::AwaitV1 { request, wait_ms })),
        1 => request().prop_map(|request| code(&barrier::CancelV1 { request })),
        1 => Just(code(&barrier::ResetV1 {})),
        3 => (request(), wait())
            .prop_map(|(request, wait_ms)| code(&latch::AwaitV1 { request, wait_ms })),
        1 => request().prop_map(|request| code(&latch::CancelV1 { request })),
        1 => Just(code(&latch::CountDownV1 { by: 1 })),
        4 => (request(), bytes(), wait()).prop_map(|(request, data, wait_ms)| {
            code(&election::CampaignV1 { request, data, wait_ms })
        }),
        1 => request().prop_map(|request| code(&election::CancelV1 { request })),
        1 => (0..60_u64).prop_map(|candidate| code(&election::AnointV1 { candidate })),
        1 => (0..60_u64).prop_map(|candidate| code(&election::PromoteV1 { candidate })),
        1 => (0..60_u64).prop_map(|candidate| code(&election::EvictV1 { candidate })),
    ]
}

fn queue_operation() -> impl Strategy<Value = Coded> {
    let wait = prop::option::of(prop_oneof![Just(0), 1..9_u64]);
    let (task, token) = (|| 0..60_u64, || 0..60_u64);
    prop_oneof![
        6 => (bytes(), 0..3_u64)
            .prop_map(|(value, delay_ms)| code(&queue::OfferV1 { value, delay_ms })),
        1 => Just(code(&queue::PollV1 {})),
        1 => (0..3_u64).prop_map(|request| code(&queue::CancelV1 { request })),
        1 => task().prop_map(|task| code(&queue::RemoveV1 { task })),
        1 => Just(code(&queue::ClearV1 {})),
        6 => (0..3_u64, 1..3_u32, 1..9_u64, wait).prop_map(|(request, max, lease_ms, wait_ms)| {
            code(&queue::TakeV1 { request, max, lease_ms, wait_ms })
        }),
        2 => (task(), token()).prop_map(|(task, token)| code(&queue::AckV1 { task, token })),
        1 => (task(), token(), 0..9_u64).prop_map(|(task, token, delay_ms)| {
            code(&queue::NackV1 { task, token, delay_ms })
        }),
        1 => (task(), token(), 1..9_u64).prop_map(|(task, token, lease_ms)| {
            code(&queue::ExtendV1 { task, token, lease_ms })
        }),
        1 => task().prop_map(|task| code(&queue::ReviveV1 { task })),
    ]
}

fn topic_operation() -> impl Strategy<Value = Coded> {
    (bytes(), bytes()).prop_map(|(key, value)| code(&topic::PublishV1 { key, value }))
}

fn group_operation() -> impl Strategy<Value = Coded> {
    let wait = || prop::option::of(prop_oneof![Just(0), 1..9_u64]);
    let id = || prop_oneof![Just(vec![]), Just(b"a".to_vec()), Just(b"b".to_vec())];
    let number = || 0..60_u64;
    prop_oneof![
        6 => (0..3_u64, id(), bytes(), wait()).prop_map(|(request, id, data, wait_ms)| {
            code(&group::JoinV1 { request, id, data, wait_ms })
        }),
        8 => (3..6_u64, 0..3_u8, bytes(), any::<bool>(), wait()).prop_map(
            |(request, to, value, ask, wait_ms)| {
                let id = if to == group::TO_MEMBER { b"a".to_vec() } else { vec![] };
                code(&group::SendV1 { request, to, id, value, ask, wait_ms })
            }
        ),
        2 => (0..6_u64).prop_map(|request| code(&group::CancelV1 { request })),
        1 => (number(), bytes()).prop_map(|(member, data)| code(&group::SetV1 { member, data })),
        1 => id().prop_map(|id| code(&group::RemoveV1 { id })),
        6 => (number(), number(), any::<bool>(), bytes()).prop_map(
            |(member, message, failed, value)| {
                code(&group::AnswerV1 { member, message, failed, value })
            }
        ),
    ]
}

fn log_operation() -> impl Strategy<Value = Coded> {
    let records = || prop::collection::vec(bytes(), 1..4);
    prop_oneof![
        4 => (records(), prop_oneof![4 => Just(0), 1 => 1..9_u64])
            .prop_map(|(records, position)| code(&log::AppendV1 { records, position })),
        1 => (0..20_u64).prop_map(|before| code(&log::TrimV1 { before })),
    ]
}

/// What a log keeps.
fn log_options() -> impl Strategy<Value = Vec<u8>> {
    let age = prop::option::of(1..4_u64);
    let all = (prop::option::of(1..5_u64), prop::option::of(1..9_u64), age);
    all.prop_map(|(records, bytes, age)| {
        [records, bytes, age].map(|bound| bound.unwrap_or_default().to_le_bytes()).concat()
    })
}

fn own_operation() -> impl Strategy<Value = Coded> {
    let kinds = prop::sample::select(&KINDS);
    prop_oneof![
        6 => (0..17_u8, kinds).prop_map(|(name, kind)| {
            code(&registry::OpenV1 { name: vec![b'a' + name], kind, options: Vec::new() })
        }),
        1 => (0..16_u8, log_options()).prop_map(|(name, options)| {
            code(&registry::OpenV1 { name: vec![b'A' + name], kind: kind::LOG, options })
        }),
        1 => (0..40_u64).prop_map(|resource| code(&registry::DeleteV1 { resource })),
    ]
}

fn garbage() -> impl Strategy<Value = Coded> {
    let payload = prop::collection::vec(any::<u8>(), 0..40);
    (6_u8..40, 0_u16..8, payload).prop_map(|(kind, schema, payload)| Coded {
        kind,
        schema: schema << 8 | 1,
        payload,
    })
}

fn coded() -> impl Strategy<Value = Coded> {
    prop_oneof![
        3 => own_operation(),
        3 => map_operation(),
        2 => value_operation(),
        2 => any::<i64>().prop_map(|delta| code(&counter::AddV1 { delta })),
        6 => lock_operation(),
        3 => multimap_operation(),
        4 => set_operation(),
        4 => tree_operation(),
        8 => claims_operation(),
        8 => gathering_operation(),
        6 => queue_operation(),
        2 => topic_operation(),
        6 => group_operation(),
        4 => log_operation(),
        1 => garbage(),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let pick = any::<Pick>;
    prop_oneof![
        2 => (0..5_u8).prop_map(Step::Register),
        1 => (pick(), any::<bool>()).prop_map(|(session, expire)| Step::End(session, expire)),
        2 => (0..5_000_u64).prop_map(Step::Tick),
        20 => (pick(), pick(), coded())
            .prop_map(|(session, id, op)| Step::Command(session, id, op)),
        1 => pick().prop_map(Step::Again),
        1 => (pick(), 0..4_u64).prop_map(|(session, skip)| Step::Skip(session, skip)),
    ]
}

/// A history of up to `max` steps. It begins with sessions and with a resource of each type.
pub(crate) fn steps(max: usize) -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 1..max).prop_map(|rest| {
        let mut steps = vec![Step::Register(0), Step::Register(1)];
        for (name, kind) in (b'a'..).zip(KINDS) {
            let open = registry::OpenV1 { name: vec![name], kind, options: Vec::new() };
            steps.push(Step::First(code(&open)));
        }
        steps.extend(rest);
        steps
    })
}

/// Plays a history on one world. Returns the log it made, in batches of up to three entries, and
/// the world.
pub(crate) fn play(script: &[Step]) -> (Vec<Batched>, World) {
    let mut world = World::new();
    let mut log: Vec<Batched> = Vec::new();
    let mut commands: Vec<Logged> = Vec::new();
    for step in script {
        let Some(logged) = logged(step, &world, &commands) else { continue };
        if let Step::Tick(span) = step {
            world.time += span;
        }
        if logged.session != 0 && logged.kind >= kind::REFUSED {
            commands.push(logged.clone());
        }
        match log.last_mut() {
            Some(last) if last.time == world.time && last.entries.len() < 3 => {
                last.entries.push(logged.clone());
            }
            _ => log.push(Batched { time: world.time, entries: vec![logged.clone()] }),
        }
        world.entry(logged);
    }
    (log, world)
}

fn logged(step: &Step, world: &World, commands: &[Logged]) -> Option<Logged> {
    let sessions: Vec<u64> = world.machine.sessions().iter().map(|(id, _)| id.0).collect();
    let pick = |from: &Pick| sessions.get(from.index(sessions.len().max(1))).copied();
    let next = |session| {
        let known = world.machine.sessions().get(margay::machine::SessionId(session));
        known.map_or(0, |known| known.last_sequence().0) + 1
    };
    Some(match step {
        Step::Register(key) => register(*key),
        Step::Tick(_) => Logged { kind: kind::TICK, ..Logged::default() },
        Step::End(session, expire) => {
            let kind = if *expire { kind::EXPIRE } else { kind::CLOSE };
            Logged { kind, session: pick(session)?, ..Logged::default() }
        }
        Step::First(coded) => coded.logged(*sessions.first()?, 0, next(*sessions.first()?)),
        Step::Command(session, id, coded) => {
            let session = pick(session)?;
            let own = coded.kind == kind::REGISTRY;
            let resource = if own { 0 } else { resource(world, coded.kind, id)? };
            coded.logged(session, resource, next(session))
        }
        Step::Again(back) => commands.get(back.index(commands.len().max(1)))?.clone(),
        Step::Skip(session, skip) => {
            let session = pick(session)?;
            let sequence = next(session) + skip;
            Logged { kind: kind::MAP, session, sequence, ..Logged::default() }
        }
    })
}

/// One of the resources opened with this kind, or now and then another.
fn resource(world: &World, kind: u8, pick: &Pick) -> Option<u64> {
    let list = registry::ListV1 { prefix: vec![], kind, after: vec![], limit: 0 };
    let told = world.query(0, 0, &list);
    assert_eq!(told.code, Code::OK);
    let mut reader = margay::machine::bytes::Reader::new(&told.payload);
    reader.optional().expect("the next name");
    let mut ids = Vec::new();
    for _ in 0..reader.u32().expect("a count") {
        ids.push(reader.u64().expect("an id"));
        reader.u8().expect("a kind");
        reader.bytes().expect("a name");
    }
    ids.get(pick.index(ids.len().max(1))).copied()
}
