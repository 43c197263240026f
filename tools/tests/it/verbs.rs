//! Every verb of every resource, tried by the script that people run, too.

use std::process::Command;
use std::time::Duration;

use crate::harness::{MARGAY, beside_others, cluster, run_within};

#[test]
fn every_verb_does_what_it_should() {
    let _beside = beside_others();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/verbs.sh");
    let mut command = Command::new("bash");
    command.arg(script).env("MARGAY", MARGAY).env("MARGAY_ENDPOINTS", cluster());
    let ended = run_within(Duration::from_secs(600), command).with(0);
    assert!(ended.err.contains("tried: manage"), "{}", ended.err);
}
