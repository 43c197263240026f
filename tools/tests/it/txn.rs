//! `margay txn`: steps as arguments and as lines, all or nothing, and what is refused.

use crate::harness::{beside_others, margay};

#[test]
fn all_steps_or_none_take_effect() {
    let _beside = beside_others();
    margay(&["counter", "add", "t-ada@1", "100"]).with(0);
    let transfer = |amount: &str| {
        let least = format!(r#"{{"check":"counter","name":"t-ada@1","at-least":{amount}}}"#);
        let take = format!(r#"{{"do":"add","name":"t-ada@1","by":-{amount}}}"#);
        let give = format!(r#"{{"do":"add","name":"t-bob@1","by":{amount}}}"#);
        let note = r#"{"do":"put","name":"t-notes@1","key":"last","value":"ada to bob"}"#;
        margay(&["txn", &least, &take, &give, note])
    };
    assert!(transfer("60").with(0).out.starts_with('v'));
    let refused = transfer("60").with(1);
    assert!(refused.err.contains("check 1 does not hold"), "{refused:?}");
    assert_eq!(margay(&["counter", "get", "t-ada@1"]).with(0).out, "40\n");
    assert_eq!(margay(&["counter", "get", "t-bob@1"]).with(0).out, "60\n");
    assert_eq!(margay(&["map", "get", "t-notes@1", "last"]).with(0).out, "ada to bob\n");

    let overflow = format!(r#"{{"do":"add","name":"t-bob@1","by":{}}}"#, i64::MAX);
    let undone = r#"{"do":"set","name":"t-value@1","value":"never"}"#;
    let json = margay(&["txn", "-o", "json", undone, &overflow]).with(1).json();
    assert_eq!((&json["committed"], &json["command"]), (&false.into(), &1.into()));
    assert_eq!(json["code"], "OVERFLOW");
    margay(&["value", "get", "t-value@1"]).with(1);
}

#[test]
fn steps_of_every_collection_are_checked_and_done_together() {
    let _beside = beside_others();
    let steps = [
        r#"{"check":"set","name":"c-set@1","lacks":"m"}"#,
        r#"{"check":"multimap","name":"c-multimap@1","key":"k","lacks":"v"}"#,
        r#"{"check":"queue","name":"c-queue@1","lacks":7}"#,
        r#"{"check":"tree","name":"c-tree@1","path":"/a","absent":true}"#,
        r#"{"check":"log","name":"c-log@1","next":1}"#,
        r#"{"do":"add-member","name":"c-set@1","value":"m"}"#,
        r#"{"do":"put-value","name":"c-multimap@1","key":"k","value":"v"}"#,
        r#"{"do":"create-node","name":"c-tree@1","path":"/a","value":"x"}"#,
        r#"{"do":"create-node","name":"c-tree@1","path":"/a/b","value":"y"}"#,
        r#"{"do":"offer","name":"c-queue@1","value":"task"}"#,
        r#"{"do":"append","name":"c-log@1","value":"one"}"#,
        r#"{"do":"append","name":"c-log@1","value":"two"}"#,
    ];
    let txn = |steps: &[&str]| margay(&[&["txn"], steps].concat());
    let version = txn(&steps).with(0).out;
    assert!(txn(&steps).with(1).err.contains("check 1 does not hold"), "it was done once");
    margay(&["set", "has", "c-set@1", "m"]).with(0);
    margay(&["multimap", "has", "c-multimap@1", "k", "v"]).with(0);
    assert_eq!(margay(&["tree", "get", "c-tree@1", "/a/b"]).with(0).out, "y\n");
    let page = margay(&["journal", "read", "c-log@1", "-o", "json"]).with(0).json();
    assert_eq!((&page[0]["record"], &page[1]["record"]), (&"one".into(), &"two".into()));
    // A task is numbered by the transaction that offered it.
    let task = version.trim().trim_start_matches('v');
    margay(&["queue", "contains", "c-queue@1", task]).with(0);

    let has_task = format!(r#"{{"check":"queue","name":"c-queue@1","has":{task}}}"#);
    let is_version =
        format!(r#"{{"check":"tree","name":"c-tree@1","path":"/a","version":{task}}}"#);
    let undone = txn(&[
        r#"{"check":"set","name":"c-set@1","has":"m"}"#,
        r#"{"check":"multimap","name":"c-multimap@1","key":"k","has":"v"}"#,
        &has_task,
        &is_version,
        r#"{"check":"tree","name":"c-tree@1","path":"/a/b","equals":"y"}"#,
        r#"{"check":"log","name":"c-log@1","next":3}"#,
        r#"{"do":"remove-member","name":"c-set@1","value":"m"}"#,
        r#"{"do":"remove-value","name":"c-multimap@1","key":"k","value":"v"}"#,
        r#"{"do":"set-node","name":"c-tree@1","path":"/a/b","value":"z"}"#,
        r#"{"do":"append","name":"c-log@1","value":"never"}"#,
        r#"{"do":"delete-node","name":"c-tree@1","path":"/a"}"#,
    ]);
    let refused = undone.with(1).err;
    assert!(refused.contains("command 5 was refused") && refused.contains("nodes below"));
    margay(&["set", "has", "c-set@1", "m"]).with(0);
    assert_eq!(margay(&["tree", "get", "c-tree@1", "/a/b"]).with(0).out, "y\n");
    assert_eq!(margay(&["journal", "status", "c-log@1", "-o", "json"]).with(0).json()["next"], 3);

    let twice = [r#"{"do":"offer","name":"c-queue@1","value":"v"}"#; 2];
    assert!(txn(&twice).with(2).err.contains("E0208"), "one task an entry");
}

#[test]
fn what_makes_no_transaction_is_refused_and_says_why() {
    let _beside = beside_others();
    let put = |name: &str| format!(r#"{{"do":"put","name":"{name}","key":"k","value":"v"}}"#);
    let crossing = margay(&["txn", &put("t-x@0"), &put("t-y@1")]).with(2).err;
    for part in ["t-x@0 is in group 0", "t-y@1 is in group 1", "t-y@0"] {
        assert!(crossing.contains(part), "{crossing}");
    }
    margay(&["map", "get", "t-x@0", "k"]).with(1);
    // Nothing is created on the way to a step that is none.
    margay(&["value", "set", "t-taken@1", "v"]).with(0);
    for (last, why) in [
        (r#"{"do":"put","name":"t-z@1","key":"k"}"#, "\"value\" must be there"),
        (r#"{"do":"add","name":"t-new@1","by":1}"#, "'t-new@1' cannot be a map and a counter"),
        (r#"{"do":"add","name":"t-taken@1","by":1}"#, "t-taken@1 is a value, not a counter"),
        (r#"{"do":"add","name":"","by":1}"#, "E0206"),
        (r#"{"check":"value","name":"t-z@1","absent":false}"#, "\"absent\" can only be true"),
    ] {
        let refused = margay(&["txn", &put("t-new@1"), last]).with(2).err;
        assert!(refused.contains(why), "{last}: {refused}");
        margay(&["describe", "t-new@1"]).with(1);
    }
    margay(&["describe", "t-x@0"]).with(1);
    for (step, why) in [
        ("{", "EOF"),
        (r#"{"do":"put","name":"t-x@0","key":"k"}"#, "\"value\" must be there"),
        (r#"{"do":"put","name":"t-x@0","key":"k","value":"v","ttl":1}"#, "\"ttl\" means nothing"),
        (r#"{"check":"value","name":"t-v","equal":"v"}"#, "\"equal\" means nothing"),
        (r#"{"check":"value","name":"t-v"}"#, "exactly one of equals, version, absent"),
        (r#"{"do":"dance","name":"t-v"}"#, "\"do\" is set"),
        (r#"{"do":"add","name":"t-n","by":1,"by":2}"#, "\"by\" is there twice"),
    ] {
        let refused = margay(&["txn", step]).with(2).err;
        assert!(refused.contains(why), "{step}: {refused}");
    }
    assert!(margay(&["txn"]).with(2).err.contains("no steps"));
}
