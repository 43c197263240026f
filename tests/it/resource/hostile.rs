//! Bytes nobody vouches for: refused or applied, the same everywhere, and never a panic.

use super::golden::operations;
use crate::machine::{Logged, World};
use margay::machine::{Code, StateMachine, kind};
use margay::resource::Registry;
use margay::resource::codec::{self, Encode, Limits, Operation};
use margay::resource::map::PutV1;
use margay::resource::value::SetV1;
use proptest::prelude::*;
use rkyv::Archive;

/// What a type that does not exist is called.
const UNKNOWN: &str = "resource of an unknown type";

/// A world with a resource of each type, and their ids by kind.
fn world() -> (World, u64, Vec<(u8, u64)>) {
    let mut world = World::new();
    let session = world.register(1);
    let own = kind::REGISTRY + 1..=kind::LOG;
    let kinds = own.filter(|kind| margay::resource::type_name(*kind) != UNKNOWN);
    let mut ids = vec![(kind::REGISTRY, 0)];
    for kind in kinds {
        ids.push((kind, world.open(session, &format!("r{kind}"), kind)));
    }
    (world, session, ids)
}

/// Applies and queries a payload at each place of an alignment; all say the same.
fn try_everywhere(kind: u8, schema: u16, payload: &[u8]) -> Code {
    let mut all = (0..4).map(|shift| {
        let mut shifted = vec![0; shift];
        shifted.extend_from_slice(payload);
        let checked = Registry::check(kind, schema, &shifted[shift..]);
        let (mut world, session, ids) = world();
        let resource = ids.iter().find(|(known, _)| *known == kind).map_or(0, |(_, id)| *id);
        let sequence = world.sequences[&session] + 1;
        let logged = Logged {
            kind,
            schema,
            resource,
            session,
            sequence,
            acked: 0,
            payload: shifted[shift..].to_vec(),
        };
        let told = world.send(logged);
        if checked.is_err() && told.code == Code::OK {
            panic!("what is applied was admitted");
        }
        let query = margay::machine::Query {
            index: world.machine.applied(),
            time: world.machine.time(),
            session: margay::machine::SessionId(session),
            kind,
            schema,
            resource: margay::machine::ResourceId(resource),
            payload: &shifted[shift..],
        };
        let mut effects = margay::machine::Effects::new();
        world.machine.query(&query, &mut effects);
        (checked, told, effects.code, effects.reply)
    });
    let first = all.next().unwrap();
    all.for_each(|other| assert_eq!(other, first));
    first.1.code
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn mutated_operations_never_panic(
        which in any::<prop::sample::Index>(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
        grown in prop::collection::vec(any::<u8>(), 0..3),
    ) {
        let all = operations();
        let (_, kind, schema, payload) = &all[which.index(all.len())];
        let mut payload = payload.clone();
        for (at, byte) in flips {
            if !payload.is_empty() {
                let at = at.index(payload.len());
                payload[at] = byte;
            }
        }
        if let Some(cut) = cut {
            payload.truncate(cut.index(payload.len() + 1));
        }
        payload.extend(grown);
        try_everywhere(*kind, *schema, &payload);
    }

    #[test]
    fn random_bytes_never_panic(
        kind in kind::REFUSED..40,
        schema in prop_oneof![0_u16..0x900, 0x4000..0x4400_u16],
        payload in prop::collection::vec(prop_oneof![Just(0_u8), Just(0xff), any::<u8>()], 0..80),
    ) {
        try_everywhere(kind, schema | 1, &payload);
    }
}

proptest! {
    #[test]
    fn any_entry_is_taken_without_a_panic(
        entries in prop::collection::vec(
            (0_u8..40, 0..8_u64, 0..8_u64, 0..8_u64, prop::collection::vec(any::<u8>(), 0..40)),
            1..20,
        ),
    ) {
        let mut world = World::new();
        for (kind, resource, session, sequence, payload) in entries {
            let (schema, acked) = (0x0101, sequence);
            world.entry(Logged { kind, schema, resource, session, sequence, acked, payload });
        }
    }
}

#[test]
fn payloads_of_other_lengths_and_kinds_are_refused() {
    for (name, kind, schema, payload) in operations() {
        if !payload.is_empty() {
            assert_ne!(try_everywhere(kind, schema, &[]), Code::OK, "{name} of nothing");
        }
        for other in [0, schema + 1, 0xffff] {
            assert_eq!(Registry::check(kind, other, &payload), Err(Code::BAD_KIND), "{name}");
        }
        for other in [0, 1, 7, 15, 77, 255] {
            assert_eq!(Registry::check(other, schema, &payload), Err(Code::BAD_KIND), "{name}");
        }
    }
}

#[test]
fn keys_and_values_are_bounded() {
    let (mut world, session, ids) = world();
    let map = ids.iter().find(|(known, _)| *known == kind::MAP).unwrap().1;
    let value = ids.iter().find(|(known, _)| *known == kind::VALUE).unwrap().1;
    let put = |key, value| PutV1 {
        key: vec![0; key],
        value: vec![0; value],
        previous: false,
        ephemeral: false,
        ttl_ms: 0,
    };
    let cases = [
        ((4 << 10, 1 << 20), Code::OK),
        (((4 << 10) + 1, 0), Code::KEY_TOO_LARGE),
        ((0, (1 << 20) + 1), Code::VALUE_TOO_LARGE),
    ];
    for ((key, length), code) in cases {
        let operation = put(key, length);
        let checked = Registry::check(kind::MAP, PutV1::SCHEMA, &operation.encode());
        assert_eq!(checked.err().unwrap_or(Code::OK), code);
        assert_eq!(world.command(session, map, &operation).code, code);
    }
    let set = SetV1 { value: vec![0; (1 << 20) + 1], ephemeral: false, ttl_ms: 0 };
    assert_eq!(world.command(session, value, &set).code, Code::VALUE_TOO_LARGE);
}

/// The type a nesting bomb needs; none of ours is like it, and the depth is bounded all the same.
#[derive(rkyv::Archive, rkyv::Serialize)]
#[rkyv(
    serialize_bounds(
        __S: rkyv::ser::Writer + rkyv::ser::Allocator,
        __S::Error: rkyv::rancor::Source,
    ),
    bytecheck(bounds(
        __C: rkyv::validation::ArchiveContext,
        __C::Error: rkyv::rancor::Source,
    ))
)]
struct Bomb {
    #[rkyv(omit_bounds)]
    inner: Vec<Bomb>,
}

impl Limits for <Bomb as Archive>::Archived {}

impl Operation for Bomb {
    const KIND: u8 = 200;
    const SCHEMA: u16 = 1;
    const NAME: &'static str = "bomb";
}

#[test]
fn nesting_bombs_are_refused() {
    let bomb = |depth| {
        let nest = |inner, _| Bomb { inner: vec![inner] };
        (0..depth).fold(Bomb { inner: vec![] }, nest).encode()
    };
    assert_eq!(codec::check::<Bomb>(&bomb(2)), Ok(()));
    for depth in [20, 300] {
        assert_eq!(codec::check::<Bomb>(&bomb(depth)), Err(Code::BAD_PAYLOAD));
    }
}
