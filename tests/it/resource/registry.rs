//! Names, types and ids.

use crate::machine::{Told, World};
use margay::machine::bytes::Reader;
use margay::machine::{Code, StateMachine, kind};
use margay::resource::Registry;
use margay::resource::codec::{Encode, Operation};
use margay::resource::map::{PutV1, SizeV1};
use margay::resource::registry::{DELETED, DeleteV1, FindV1, ListV1, OpenV1, RESOURCES_MAX};

fn open(name: &[u8], kind: u8) -> OpenV1 {
    OpenV1 { name: name.to_vec(), kind, options: Vec::new() }
}

fn opened(told: &Told) -> (u64, bool) {
    let mut reader = Reader::new(&told.payload);
    (reader.u64().unwrap(), reader.u8().unwrap() != 0)
}

#[test]
fn a_name_is_created_once_and_named_by_its_entry() {
    let mut world = World::new();
    let session = world.register(1);
    let told = world.command(session, 0, &open(b"users", kind::MAP));
    assert_eq!(opened(&told), (told.index, true));
    let id = told.index;
    let told = world.command(session, 0, &open(b"users", kind::MAP));
    assert_eq!(opened(&told), (id, false));
    let find = |name: &[u8], kind| world.query(session, 0, &FindV1 { name: name.to_vec(), kind });
    assert_eq!(find(b"users", kind::MAP).payload, [&id.to_le_bytes()[..], &[kind::MAP]].concat());
    assert_eq!(find(b"users", 0).code, Code::OK);
    assert_eq!(find(b"nobody", 0).code, Code::NO_SUCH_RESOURCE, "finding creates nothing");
    assert_eq!(world.machine.state().len(), 1);
}

#[test]
fn a_name_has_one_type_and_the_refusal_names_both() {
    let mut world = World::new();
    let session = world.register(1);
    let id = world.open(session, "users", kind::MAP);
    let told = [
        world.command(session, 0, &open(b"users", kind::LOCK)),
        world.query(session, 0, &FindV1 { name: b"users".to_vec(), kind: kind::LOCK }),
        world.command(session, id, &margay::resource::lock::CancelV1 { request: 1 }),
        world.query(session, id, &margay::resource::lock::HolderV1 {}),
    ];
    for told in told {
        assert_eq!(told.code, Code::WRONG_TYPE);
        assert_eq!(String::from_utf8(told.payload).unwrap(), "users is a map, not a lock");
    }
}

#[test]
fn bad_names_are_refused() {
    let mut world = World::new();
    let session = world.register(1);
    let long = vec![b'x'; 257];
    let bad: [&[u8]; 7] =
        [b"", &long, b"a\0b", b"\x1b[31m", b"a\nb", &[0xff, 0xfe], "a\u{85}b".as_bytes()];
    for name in bad {
        let operation = open(name, kind::MAP);
        let checked = Registry::check(kind::REGISTRY, OpenV1::SCHEMA, &operation.encode());
        assert_eq!(checked, Err(Code::BAD_NAME));
        assert_eq!(world.command(session, 0, &operation).code, Code::BAD_NAME);
    }
    assert!(world.machine.state().is_empty());
    for name in [&long[..256], "päth/to/ünïcode ☃".as_bytes(), b"../.."] {
        assert_eq!(world.command(session, 0, &open(name, kind::MAP)).code, Code::OK);
    }
    let unknown = open(b"x", 99);
    assert_eq!(world.command(session, 0, &unknown).code, Code::BAD_KIND);
    let options = OpenV1 { name: b"y".to_vec(), kind: kind::MAP, options: vec![0; 4_097] };
    assert_eq!(world.command(session, 0, &options).code, Code::OPTIONS_TOO_LARGE);
}

/// Who makes names without end is refused; what is there stays, and goes.
#[test]
fn a_group_holds_so_many_resources() {
    let mut world = World::new();
    let session = world.register(1);
    let first = world.open(session, "0", kind::COUNTER);
    for n in 1..RESOURCES_MAX {
        world.open(session, &n.to_string(), kind::COUNTER);
        world.seen.replies.clear();
    }
    let more = open(b"more", kind::COUNTER);
    assert_eq!(world.command(session, 0, &more).code, Code::TOO_MANY_RESOURCES);
    let told = world.command(session, 0, &open(b"0", kind::COUNTER));
    assert_eq!(opened(&told), (first, false), "what is there is found");
    assert_eq!(world.command(session, 0, &DeleteV1 { resource: first }).code, Code::OK);
    assert_eq!(world.command(session, 0, &more).code, Code::OK);
}

#[test]
fn a_deleted_resource_is_not_mistaken_for_its_successor() {
    let mut world = World::new();
    let session = world.register(1);
    let old = world.open(session, "map", kind::MAP);
    let put = PutV1 { key: vec![1], value: vec![2], previous: false, ephemeral: false, ttl_ms: 0 };
    world.command(session, old, &put);
    assert_eq!(world.command(session, 0, &DeleteV1 { resource: old }).code, Code::OK);
    assert_eq!(world.seen.events.last().unwrap().1.kind, DELETED);
    let new = world.open(session, "map", kind::MAP);
    assert_ne!(old, new);
    assert_eq!(world.command(session, old, &put).code, Code::NO_SUCH_RESOURCE);
    assert_eq!(world.query(session, old, &SizeV1 {}).code, Code::NO_SUCH_RESOURCE);
    assert_eq!(world.query(session, new, &SizeV1 {}).payload, 0_u64.to_le_bytes());
    let again = world.command(session, 0, &DeleteV1 { resource: old });
    assert_eq!(again.code, Code::NO_SUCH_RESOURCE);
    assert_eq!(world.command(session, 0, &DeleteV1 { resource: 0 }).code, Code::NO_SUCH_RESOURCE);
}

fn list(world: &World, list: &ListV1) -> (Option<Vec<u8>>, Vec<String>) {
    let told = world.query(0, 0, list);
    assert_eq!(told.code, Code::OK);
    let mut reader = Reader::new(&told.payload);
    let next = reader.optional().unwrap().map(<[u8]>::to_vec);
    let mut names = Vec::new();
    for _ in 0..reader.u32().unwrap() {
        reader.take(9).unwrap();
        names.push(String::from_utf8(reader.bytes().unwrap().to_vec()).unwrap());
    }
    reader.end().unwrap();
    (next, names)
}

#[test]
fn lists_go_by_prefix_and_type_page_by_page() {
    let mut world = World::new();
    let session = world.register(1);
    for n in 0..9 {
        let kind = if n % 3 == 0 { kind::LOCK } else { kind::MAP };
        world.open(session, &format!("a/{n}"), kind);
        world.open(session, &format!("b/{n}"), kind);
    }
    for limit in 1..12 {
        for (prefix, kind, count) in [("", 0, 18), ("a/", 0, 9), ("b/", kind::LOCK, 3), ("c", 0, 0)]
        {
            let (mut all, mut after) = (Vec::new(), Vec::new());
            loop {
                let page = ListV1 { prefix: prefix.into(), kind, after, limit };
                let (next, names) = list(&world, &page);
                assert!(names.len() <= limit as usize);
                all.extend(names);
                let Some(next) = next else { break };
                after = next;
            }
            assert_eq!(all.len(), count, "{prefix} {kind} {limit}");
            assert!(all.is_sorted() && all.iter().all(|name| name.starts_with(prefix)));
        }
    }
}
