//! Handles of a program's own types, against a real node.

use margay::machine::{Code, Filter, Outcome};
use margay::resource::log::Appended;
use margay::resource::typed::{
    Change, ElectionEventOf, Entry, Json, MultimapEventOf, Rkyv, Stored, TopicEventOf, TreeEventOf,
};
use margay::resource::{Removal, Swap};
use margay::server::Node;
use margay_log::id::Index;
use std::time::Duration;

#[derive(serde::Serialize, serde::Deserialize, Clone, PartialEq, Eq, Debug)]
struct User {
    name: String,
    age: u32,
}

#[test]
fn maps_and_values_speak_the_programs_types() {
    let node = Node::builder().temporary().start().expect("it starts");
    let client = node.client().unwrap();
    let users = client.map_of::<i32, Json<User>>("users").wait().unwrap();
    for (id, name) in [(7, "ada"), (-2, "bob"), (300, "cleo")] {
        users.put(&id, &user(name, 30)).wait().unwrap();
    }
    assert_eq!(users.get(&7).wait().unwrap().unwrap().value, user("ada", 30));
    let page = users.entries(None, 0).wait().unwrap();
    let ids: Vec<i32> = page.entries.iter().map(|entry| entry.key).collect();
    assert_eq!((ids, page.next), (vec![-2, 7, 300], None), "in the order of the numbers");
    let page = users.entries(Some(&-2), 1).wait().unwrap();
    assert_eq!((page.entries.len(), page.next), (1, Some(7)));
    assert_eq!(page.entries[0].value, user("ada", 30));
    let conflict = users.put_if_absent(&7, &user("eve", 1)).wait().unwrap();
    assert!(matches!(conflict, Swap::Conflict(Some(there)) if there.value == user("ada", 30)));
    assert!(users.remove(&7).wait().unwrap() && !users.contains(&7).wait().unwrap());
    assert_eq!(users.size().wait().unwrap(), 2);

    let pair = client.value_of::<Rkyv<(u32, String)>>("pair").wait().unwrap();
    let version = pair.set(&Rkyv((1, "one".to_owned()))).wait().unwrap();
    let stored = pair.get().wait().unwrap();
    assert_eq!(stored, Some(Stored { value: Rkyv((1, "one".to_owned())), version }));
    let late = pair.set_if(Index::ZERO, &Rkyv((2, String::new()))).wait().unwrap();
    assert!(matches!(late, Swap::Conflict(Some(_))));

    // What somebody else wrote is no number: the reading fails, the value stays.
    let number = client.value_of::<u64>("pair").wait().unwrap();
    assert!(number.get().wait().unwrap_err().to_string().contains("u64"));
}

fn user(name: &str, age: u32) -> Json<User> {
    Json(User { name: name.to_owned(), age })
}

#[test]
fn values_and_maps_change_what_they_have_read() {
    let node = Node::builder().temporary().start().expect("it starts");
    let client = node.client().unwrap();
    let limit = client.value_of::<u64>("limit").wait().unwrap();
    let mut changes = limit.watch(Some((Index::ZERO, 0)));
    assert_eq!(limit.update(|old| old.unwrap_or(40) + 1).wait().unwrap().value, 41);
    assert_eq!(limit.update(|old| old.unwrap_or(40) + 1).wait().unwrap().value, 42);
    let conflict = limit.compare_and_set(Some(&7), &8).wait().unwrap();
    assert!(matches!(conflict, Swap::Conflict(Some(Stored { value: 42, .. }))));
    assert!(matches!(limit.compare_and_set(Some(&42), &43).wait().unwrap(), Swap::Done(_)));
    assert!(limit.delete().wait().unwrap());
    for (new, before) in [(41, None), (42, Some(41)), (43, Some(42))] {
        let Change::Put { value, old, .. } = changes.wait_next().unwrap() else { panic!("a put") };
        assert_eq!((value, old), (new, before));
    }
    let removed = changes.wait_next().unwrap();
    let Change::Removed { old: 43, why: Removal::Removed, .. } = removed else { panic!("gone") };

    let users = client.map_of::<u32, Json<User>>("users").wait().unwrap();
    let mut changes = users.watch_key(&7, Some((Index::ZERO, 0)));
    users.put(&9, &user("cleo", 9)).wait().unwrap();
    let birthday = |found: Option<Json<User>>| {
        let Json(found) = found.unwrap_or_else(|| user("ada", 35));
        Some(Json(User { age: found.age + 1, ..found }))
    };
    users.compute(&7, birthday).wait().unwrap();
    let older = users.compute(&7, birthday).wait().unwrap().unwrap();
    assert_eq!(older.value, user("ada", 37));
    let stale = users.replace_version(&7, Index(1), &user("eve", 1)).wait().unwrap();
    assert!(matches!(stale, Swap::Conflict(Some(there)) if there == older));
    let many = users.get_many(&[7, 8]).wait().unwrap();
    assert_eq!(many, [Some(older), None]);
    assert_eq!(users.floor(&8).wait().unwrap().unwrap().key, 7);
    assert_eq!(users.poll_last().wait().unwrap().unwrap().value, user("cleo", 9));
    assert!(users.compute(&7, |_| None).wait().unwrap().is_none());
    assert_eq!(users.size().wait().unwrap(), 0);
    for age in [36, 37] {
        let Change::Put { key: 7, value, .. } = changes.wait_next().unwrap() else {
            panic!("a put of this key")
        };
        assert_eq!(value, user("ada", age));
    }
    assert!(matches!(changes.wait_next().unwrap(), Change::Removed { key: 7, .. }));

    // What cannot be read is not overwritten, and the failure says that nothing was.
    client.value("limit").wait().unwrap().set(b"no number").wait().unwrap();
    let failure = limit.update(|old| old.unwrap_or(0)).wait().unwrap_err();
    assert_eq!(failure.outcome(), Outcome::NotApplied);
    assert_eq!(limit.bytes().get().wait().unwrap().unwrap().value, b"no number");
}

#[test]
fn collections_queues_topics_and_logs_speak_the_programs_types() {
    let node = Node::builder().temporary().start().expect("it starts");
    let client = node.client().unwrap();
    let ports = client.set_of::<u16>("ports").wait().unwrap();
    let mut changes = ports.watch(Some((Index::ZERO, 0)));
    assert_eq!(ports.add_all(&[443, 80]).wait().unwrap(), 2);
    assert!(!ports.add(&80).wait().unwrap() && ports.contains_all(&[80, 443]).wait().unwrap());
    let page = ports.members(None, 1).wait().unwrap();
    assert_eq!((page.members, page.next), (vec![80], Some(80)));
    assert_eq!(ports.members(Some(&80), 0).wait().unwrap().members, [443]);
    assert_eq!(ports.poll_first().wait().unwrap(), Some(80));
    assert_eq!(ports.retain(&[]).wait().unwrap(), 1);
    assert!(matches!(changes.wait_next().unwrap(), Change::Put { key: 443, value: (), .. }));
    assert!(matches!(changes.wait_next().unwrap(), Change::Put { key: 80, .. }));
    assert!(matches!(changes.wait_next().unwrap(), Change::Removed { key: 80, .. }));

    let roles = client.multimap_of::<String, i64>("roles").wait().unwrap();
    let ada = "ada".to_owned();
    assert!(roles.put(&ada, &-3).wait().unwrap() && roles.put(&ada, &5).wait().unwrap());
    let page = roles.get(&ada, Some(&-3), 0).wait().unwrap();
    assert_eq!((page.values[0].value, page.values.len(), page.next), (5, 1, None));
    assert_eq!(roles.replace(&ada, &[7]).wait().unwrap(), 2);
    assert!(roles.contains(&ada, &7).wait().unwrap() && roles.size().wait().unwrap() == 1);

    let jobs = client.queue_of::<Json<User>>("jobs").wait().unwrap();
    jobs.offer(&user("ada", 1)).wait().unwrap();
    jobs.offer(&user("bob", 2)).wait().unwrap();
    let lease = Duration::from_secs(30);
    let task = jobs.take(1, lease).wait().unwrap().pop().expect("there is one");
    assert_eq!((task.value().unwrap(), task.bytes().deliveries()), (user("ada", 1), 1));
    task.extend(lease).wait().unwrap();
    task.ack().wait().unwrap();
    assert_eq!(jobs.poll().wait().unwrap(), Some(user("bob", 2)));
    assert!(jobs.take_within(1, lease, Duration::ZERO).wait().unwrap().is_empty());

    let news = client.topic_of::<String>("news").wait().unwrap();
    let first = news.publish(&"first".to_owned()).wait().unwrap();
    news.bytes().publish(&[0xff]).wait().unwrap();
    news.publish_under(b"key", &"last".to_owned()).wait().unwrap();
    let mut heard = news.subscribe(Some(Index::ZERO), Filter::All);
    let message = heard.wait_next().unwrap();
    let (key, value) = (Vec::new(), "first".to_owned());
    assert_eq!(message, TopicEventOf::Message { position: first, key, value });
    assert_eq!(heard.wait_next().unwrap_err().code, Code::BAD_PAYLOAD);
    let last = heard.wait_next().unwrap();
    assert!(matches!(last, TopicEventOf::Message { value, .. } if value == "last"));

    let audit = client.log_of::<u32>("audit").wait().unwrap();
    assert_eq!(audit.append(&10).wait().unwrap(), 1);
    assert_eq!(audit.append_all(&[20, 30]).wait().unwrap(), 2..4);
    assert_eq!(audit.append_at(3, &[40]).wait().unwrap(), Appended::Conflict { next: 4 });
    let page = audit.read(1, 2).wait().unwrap();
    let values: Vec<u32> = page.records.iter().map(|record| record.value).collect();
    assert_eq!((values, page.go_on), (vec![10, 20], Some(3)));
    let mut records = audit.follow(Some(3));
    let record = records.wait_next().unwrap();
    assert_eq!((record.position, record.value, records.position()), (3, 30, 4));
}

#[test]
fn multimaps_are_paged_and_watched_as_types() {
    let node = Node::builder().temporary().start().expect("it starts");
    let client = node.client().unwrap();
    let roles = client.multimap_of::<i32, String>("roles").wait().unwrap();
    let (admin, author) = ("admin".to_owned(), "author".to_owned());
    let mut all = roles.watch(Some((Index::ZERO, 0)));
    let mut one = roles.watch_key(&7, Some((Index::ZERO, 0)));
    for (key, value) in [(7, &admin), (-1, &admin), (7, &author)] {
        assert!(roles.put(&key, value).wait().unwrap());
    }
    let sizes = (roles.size(), roles.keys_size(), roles.size_of(&7));
    let sizes = (sizes.0.wait().unwrap(), sizes.1.wait().unwrap(), sizes.2.wait().unwrap());
    assert_eq!(sizes, (3, 2, 2));
    assert!(roles.contains_value(&author).wait().unwrap());

    // Page by page it is what one page says.
    let whole = roles.entries(None, 0).wait().unwrap();
    let pairs = |entries: &[Entry<i32, String>]| -> Vec<(i32, String)> {
        entries.iter().map(|entry| (entry.key, entry.value.clone())).collect()
    };
    let in_order = [(-1, admin.clone()), (7, admin.clone()), (7, author.clone())];
    assert_eq!((pairs(&whole.entries), whole.next), (in_order.to_vec(), None));
    let (mut paged, mut next) = (Vec::new(), None);
    loop {
        let after = next.as_ref().map(|(key, value)| (key, value));
        let page = roles.entries(after, 1).wait().unwrap();
        assert_eq!(page.entries.len(), 1);
        paged.extend(page.entries);
        next = page.next;
        if next.is_none() {
            break;
        }
    }
    assert_eq!(paged, whole.entries);

    assert!(roles.remove(&7, &author).wait().unwrap());
    assert_eq!(roles.remove_key(&7).wait().unwrap(), 1);
    roles.clear().wait().unwrap();
    for (key, value) in [(7, &admin), (-1, &admin), (7, &author)] {
        let put = all.wait_next().unwrap();
        let MultimapEventOf::Put { key: is, value: told, .. } = put else { panic!("{put:?}") };
        assert_eq!((is, &told), (key, value));
    }
    let removed = all.wait_next().unwrap();
    assert!(matches!(removed, MultimapEventOf::Removed { key: 7, value, .. } if value == author));
    assert!(matches!(all.wait_next().unwrap(), MultimapEventOf::KeyRemoved { key: 7, .. }));
    assert_eq!(all.wait_next().unwrap(), MultimapEventOf::Cleared);
    for value in [&admin, &author] {
        let put = one.wait_next().unwrap();
        assert!(matches!(put, MultimapEventOf::Put { key: 7, value: told, .. } if told == *value));
    }
}

#[test]
fn trees_speak_the_programs_types() {
    let node = Node::builder().temporary().start().expect("it starts");
    let client = node.client().unwrap();
    let users = client.tree_of::<Json<User>>("users").wait().unwrap();
    let mut below = users.watch_below("/team", Some((Index::ZERO, 0))).unwrap();
    let mut exact = users.watch("/team/ada", Some((Index::ZERO, 0))).unwrap();
    let parents = users.clone().with_parents();
    let created = parents.create("/team/ada", &user("ada", 36)).wait().unwrap();
    let Swap::Done(version) = created else { panic!("{created:?}") };
    let conflict = users.create("/team/ada", &user("eve", 1)).wait().unwrap();
    assert_eq!(conflict, Swap::Conflict(Some(Stored { value: user("ada", 36), version })));
    let found = users.get("/team/ada").wait().unwrap().expect("it was created");
    assert_eq!((found.data, found.version, found.owner), (user("ada", 36), version, None));
    let changed = users.set_version("/team/ada", version, &user("ada", 37)).wait().unwrap();
    assert!(matches!(changed, Swap::Done(_)));
    assert!(users.set("/team/ada", &user("ada", 38)).wait().unwrap().is_some());
    let path = users.create_sequential("/team/n-", &user("bob", 2)).wait().unwrap();
    assert_eq!(path, "/team/n-0000000000");
    let names = users.children("/team", None, 0).wait().unwrap().expect("it is there").names;
    assert_eq!(names, ["ada", "n-0000000000"]);
    assert!(
        users.delete("/team/ada").wait().unwrap() && !users.exists("/team/ada").wait().unwrap()
    );

    // A node that was created on the way has no data: no user, but nothing of an `Option`.
    assert_eq!(users.get("/team").wait().unwrap_err().code, Code::BAD_PAYLOAD);
    assert_eq!(below.wait_next().unwrap_err().code, Code::BAD_PAYLOAD);
    let options = client.tree_of::<Option<Json<User>>>("users").wait().unwrap();
    assert_eq!(options.get("/team").wait().unwrap().expect("it is there").data, None);
    let bob = options.get(&path).wait().unwrap().expect("it is there");
    assert_eq!(bob.data, Some(user("bob", 2)));

    for watch in [&mut below, &mut exact] {
        let first = watch.wait_next().unwrap();
        let data = Stored { value: user("ada", 36), version };
        assert_eq!(first, TreeEventOf::Created { path: "/team/ada".to_owned(), data });
        for age in [37, 38] {
            let event = watch.wait_next().unwrap();
            let TreeEventOf::Changed { data, old, .. } = event else { panic!("{event:?}") };
            assert_eq!((data.value, old), (user("ada", age), user("ada", age - 1)));
        }
    }
    let last = exact.wait_next().unwrap();
    let TreeEventOf::Removed { old, why: Removal::Removed, .. } = last else { panic!("{last:?}") };
    assert_eq!(old, user("ada", 38));
    assert_eq!(users.watch("team", None).unwrap_err().code, Code::BAD_PATH);
}

#[test]
fn candidates_bring_the_programs_types() {
    let node = Node::builder().temporary().start().expect("it starts");
    let (one, two) = (node.client().unwrap(), node.client().unwrap());
    let mine = one.election_of::<Json<User>>("scheduler").wait().unwrap();
    let theirs = two.election_of::<Json<User>>("scheduler").wait().unwrap();
    let mut heard = theirs.watch(Some((Index::ZERO, 0)));
    let lead = mine.campaign(&user("ada", 1)).wait().unwrap();
    let leader = theirs.leader().wait().unwrap().expect("somebody leads");
    assert_eq!((leader.term, leader.data, leader.waiting), (lead.term(), user("ada", 1), 0));
    assert!(theirs.campaign_within(&user("eve", 3), Duration::ZERO).wait().unwrap().is_none());
    let waits = theirs.campaign(&user("bob", 2));
    let candidates = loop {
        let candidates = mine.candidates().wait().unwrap();
        if !candidates.is_empty() {
            break candidates;
        }
    };
    assert_eq!((&candidates[0].data, candidates.len()), (&user("bob", 2), 1));
    mine.anoint(candidates[0].candidate).wait().unwrap();
    let other = waits.wait().unwrap();
    assert!(mine.is_leader(other.term()).wait().unwrap());
    mine.evict(other.candidate()).wait().unwrap();
    for (name, age) in [("ada", 1), ("bob", 2)] {
        let event = heard.wait_next().unwrap();
        let ElectionEventOf::Elected { data, .. } = event else { panic!("{event:?}") };
        assert_eq!(data, user(name, age));
    }
    assert_eq!(heard.wait_next().unwrap(), ElectionEventOf::Vacant);
    assert!(theirs.leader().wait().unwrap().is_none());
}
