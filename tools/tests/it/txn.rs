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
fn what_makes_no_transaction_is_refused_and_says_why() {
    let _beside = beside_others();
    let put = |name: &str| format!(r#"{{"do":"put","name":"{name}","key":"k","value":"v"}}"#);
    let crossing = margay(&["txn", &put("t-x@0"), &put("t-y@1")]).with(2).err;
    for part in ["t-x@0 is in group 0", "t-y@1 is in group 1", "t-y@0"] {
        assert!(crossing.contains(part), "{crossing}");
    }
    margay(&["map", "get", "t-x@0", "k"]).with(1);
    for (step, why) in [
        ("{", "EOF"),
        (r#"{"do":"put","name":"t-x@0","key":"k"}"#, "\"value\" must be there"),
        (r#"{"do":"put","name":"t-x@0","key":"k","value":"v","ttl":1}"#, "\"ttl\" means nothing"),
        (r#"{"check":"value","name":"t-v","equal":"v"}"#, "\"equal\" means nothing"),
        (r#"{"check":"value","name":"t-v"}"#, "one of equals, version, absent"),
        (r#"{"do":"dance","name":"t-v"}"#, "\"do\" is set"),
    ] {
        let refused = margay(&["txn", step]).with(2).err;
        assert!(refused.contains(why), "{step}: {refused}");
    }
    assert!(margay(&["txn"]).with(2).err.contains("no steps"));
}
