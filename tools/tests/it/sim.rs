//! `margay sim`: what it prints and how it ends.

use crate::harness::margay_alone;

#[test]
fn seeds_that_hold_are_summed_up() {
    let summed =
        margay_alone(&["sim", "--seeds", "3", "--from", "40", "-o", "json"]).with(0).json();
    assert_eq!((summed["seeds"].as_u64(), summed["failure"].is_null()), (Some(3), true));
    assert!(summed["operations"].as_u64() > Some(0));
    assert!(summed["simulated_seconds"].as_f64() > Some(1.0));
    let words = margay_alone(&["sim", "--seeds", "2", "--jobs", "1"]).with(0).out;
    assert!(words.starts_with("2 seeds held: ") && words.contains("simulated hours"), "{words}");
}

#[test]
fn one_seed_is_replayed_with_its_trace() {
    let replay = || margay_alone(&["sim", "--seed", "7"]).with(0).out;
    let (once, again) = (replay(), replay());
    let events = |text: &str| text.lines().filter(|line| line.starts_with(' ')).count();
    assert!(events(&once) > 1_000 && once.contains("is Leader in t"), "{once}");
    // The last lines tell how long it took.
    let lines = |text: &str| text.lines().take(events(text)).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(lines(&once), lines(&again));
}

#[test]
fn impossible_options_are_refused() {
    margay_alone(&["sim", "--seeds", "0"]).with(2);
    margay_alone(&["sim", "--seed", "1", "--minutes", "1"]).with(2);
    margay_alone(&["sim", "--nodes", "9"]).with(2);
}

#[cfg(feature = "breaks")]
#[test]
fn a_known_bug_is_found() {
    let found = margay_alone(&["sim", "--break", "half-is-a-quorum", "--seeds", "50"]).with(0).out;
    assert!(found.contains("found by «"), "{found}");
    // Replayed, it ends as a failure does: property, seed and the last events.
    let replay = ["sim", "--break", "half-is-a-quorum", "--seed", "1"];
    let failure = margay_alone(&replay).with(1).out;
    assert!(failure.contains("seed 1 violates «"), "{failure}");
    let unknown = margay_alone(&["sim", "--break", "nothing"]).with(2).err;
    assert!(unknown.contains("hash-order"), "{unknown}");
}

#[cfg(not(feature = "breaks"))]
#[test]
fn known_bugs_are_not_in_this_binary() {
    assert!(margay_alone(&["sim", "--breaks"]).with(2).err.contains("--features breaks"));
}
