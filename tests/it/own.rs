//! Types of resources that a program brings along, and what becomes of a group whose code panics.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use margay::client::Client;
use margay::machine::bytes::{self, Reader};
use margay::machine::{Code, Commit, Effects, Query};
use margay::resource::own::{OwnType, RegisterError, register};
use margay::resource::snapshot::Items;
use margay::resource::{Created, Handle, Resource};
use margay::server::{LocalCluster, Node};
use margay_log::id::Index;

use crate::PATIENCE;

const FRAGILE: u8 = 201;
const ADD: u16 = 1;
const BREAK: u16 = 2;

/// Counts, and breaks when told to.
#[derive(Clone, Debug, Default)]
struct Fragile(u64);

impl OwnType for Fragile {
    const KIND: u8 = FRAGILE;
    const NAME: &'static str = "fragile";

    fn check(schema: u16, _: &[u8]) -> Result<(), Code> {
        assert!(schema < 100, "a check that is broken too");
        if schema <= BREAK { Ok(()) } else { Err(Code::BAD_KIND) }
    }

    fn create(options: &[u8]) -> Created {
        if options == b"bad" { Err(Code::BAD_PAYLOAD) } else { Ok(Box::new(Fragile(0))) }
    }
}

impl Resource for Fragile {
    fn apply(&mut self, commit: &Commit<'_>, effects: &mut Effects) {
        self.0 += 1;
        assert_ne!(commit.schema, BREAK, "told to break");
        bytes::put_u64(&mut effects.reply, self.0);
    }

    fn query(&self, query: &Query<'_>, effects: &mut Effects) {
        assert_ne!(query.schema, BREAK, "told to break");
        bytes::put_u64(&mut effects.reply, self.0);
    }

    fn freeze(&self, _: Option<&[u8]>, items: &mut Items<'_>) -> Option<Vec<u8>> {
        items.put(|out| bytes::put_u64(out, self.0));
        None
    }

    fn thaw(&mut self, item: &[u8], _: Index) -> Result<(), Code> {
        self.0 = Reader::new(item).u64()?;
        Ok(())
    }

    fn boxed_clone(&self) -> Box<dyn Resource> {
        Box::new(self.clone())
    }
}

fn open(client: &Client, name: &str) -> Handle<margay::client::Group> {
    client.resource(name, FRAGILE, &[]).wait().expect("it opens")
}

fn number(answer: &margay::resource::Answer) -> u64 {
    Reader::new(&answer.payload).u64().expect("a number")
}

#[test]
fn a_type_has_one_number_and_a_number_one_type() {
    struct Other;
    impl OwnType for Other {
        const KIND: u8 = FRAGILE;
        const NAME: &'static str = "other";
        fn check(_: u16, _: &[u8]) -> Result<(), Code> {
            Ok(())
        }
        fn create(_: &[u8]) -> Created {
            Err(Code::BAD_KIND)
        }
    }
    struct Ours;
    impl OwnType for Ours {
        const KIND: u8 = 18;
        const NAME: &'static str = "ours";
        fn check(_: u16, _: &[u8]) -> Result<(), Code> {
            Ok(())
        }
        fn create(_: &[u8]) -> Created {
            Err(Code::BAD_KIND)
        }
    }
    register::<Fragile>().expect("the first");
    register::<Fragile>().expect("again");
    let taken = RegisterError::Taken { name: "other", kind: FRAGILE, taken: "fragile" };
    assert_eq!(register::<Other>(), Err(taken));
    assert_eq!(register::<Ours>(), Err(RegisterError::NotOwn { name: "ours", kind: 18 }));
}

#[test]
fn an_own_type_is_a_resource_like_any_other() {
    let node = Node::builder().temporary().resource::<Fragile>().unwrap().start().unwrap();
    let client = node.client().unwrap();
    let handle = open(&client, "f");
    assert_eq!(number(&handle.command_bytes(FRAGILE, ADD, Vec::new()).wait().unwrap()), 1);
    let refused = client.resource("g", FRAGILE, b"bad").wait().unwrap_err();
    assert_eq!(refused.code, Code::BAD_PAYLOAD, "its own word about options");
    let refused = client.resource("g", FRAGILE + 1, &[]).wait().unwrap_err();
    assert_eq!(refused.code, Code::BAD_KIND, "never registered");
    assert_eq!(client.map("f").wait().unwrap_err().code, Code::WRONG_TYPE);
    for schema in [3, 100] {
        let refused = handle.command_bytes(FRAGILE, schema, Vec::new()).wait().unwrap_err();
        assert!(!refused.code.is_ok(), "{schema}: unknown, or its check panics");
    }
    // A query that panics has no answer; nothing else happens.
    assert_eq!(handle.query_bytes(FRAGILE, BREAK, vec![]).wait().unwrap_err().code, Code::HALTED);

    let node = node.restart().expect("it starts again");
    assert_eq!(number(&handle.command_bytes(FRAGILE, ADD, Vec::new()).wait().unwrap()), 2);
    node.stop().unwrap();
}

/// Waits until every node says of every group whether it is halted as expected.
fn expect_halted(cluster: &LocalCluster, expected: &BTreeMap<u32, bool>) -> Vec<Index> {
    let begun = Instant::now();
    loop {
        let nodes = margay::client::status(&cluster.endpoints(), None, Duration::from_secs(2));
        let groups: Vec<_> =
            nodes.iter().flat_map(|node| node.groups.as_ref().map_or(&[][..], |g| g)).collect();
        let as_expected = groups.iter().all(|g| expected[&g.group.0] == g.halted);
        if as_expected && groups.len() == 3 * expected.len() {
            let halted = groups.iter().filter(|group| group.halted);
            return halted.map(|group| group.applied).collect();
        }
        assert!(begun.elapsed() < PATIENCE, "{groups:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_panic_of_a_users_code_halts_its_group_on_every_node_and_no_other() {
    register::<Fragile>().expect("kind 201 is free");
    let mut cluster = LocalCluster::builder(3).groups(2).start().unwrap();
    let client = cluster.client().unwrap().with_timeout(PATIENCE);
    let (broken, well) = (open(&client, "f@0"), open(&client, "f@1"));
    broken.command_bytes(FRAGILE, ADD, vec![]).wait().expect("it works");

    // Time enough for all but what is never answered.
    let impatient = client.clone().with_timeout(Duration::from_secs(5));
    let failed = open(&impatient, "f@0").command_bytes(FRAGILE, BREAK, vec![]).wait();
    let failed = failed.expect_err("it breaks");
    assert_eq!(failed.outcome, margay::machine::Outcome::Unknown, "it is in the log for good");

    let expected = BTreeMap::from([(0, true), (1, false)]);
    let applied = expect_halted(&cluster, &expected);
    assert_eq!(applied.len(), 3);
    assert!(applied.iter().all(|index| *index == applied[0]), "at one index: {applied:?}");
    well.command_bytes(FRAGILE, ADD, vec![]).wait().expect("other groups go on");
    let refused = impatient.value("v@0").wait().expect_err("this one does not");
    assert!(refused.text.contains("halted"), "{refused}");

    // The entry is met again at the next start.
    for node in 0..3 {
        cluster.restart_node(node).expect("the node is well");
    }
    assert_eq!(expect_halted(&cluster, &expected), applied);
    assert_eq!(number(&well.command_bytes(FRAGILE, ADD, vec![]).wait().unwrap()), 2);
    cluster.stop().expect("it stops in order");
}
