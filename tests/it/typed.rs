//! Handles of a program's own types, against a real node.

use margay::resource::Swap;
use margay::resource::typed::{Json, Rkyv, Stored};
use margay::server::Node;
use margay_log::id::Index;

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
    let user = |name: &str, age| Json(User { name: name.to_owned(), age });
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
