//! Each rule on a snippet that breaks it and one that does not.

use crate::reach;
use crate::rules::check;
use crate::scan::Source;

/// `line rule` of everything found.
fn found(path: &str, text: &str) -> Vec<String> {
    check(&Source::new(path, text)).iter().map(|f| format!("{} {}", f.line, f.rule)).collect()
}

/// What of a rule is broken by the code there is.
fn found_in_all(rule: &str) -> Vec<String> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../src");
    let mut files = Vec::new();
    crate::collect(&root, &mut files).expect("the sources are there");
    assert!(files.iter().any(|file| file.ends_with("src/shard/turn.rs")));
    let read = |file: &std::path::PathBuf| {
        let path = file.strip_prefix(&root).expect("it is below").display().to_string();
        check(&Source::new(&format!("src/{path}"), &std::fs::read_to_string(file).expect("text")))
    };
    files.iter().flat_map(read).filter(|f| f.rule == rule).map(|f| f.to_string()).collect()
}

#[test]
fn comments_and_literals_are_not_code() {
    let text = "// HashMap\n/* f64 /* unsafe */ f64 */\nlet a = \"async \\\" f64\";\n\
                let b = r#\"f64 \" f64\"#;\nlet c = ['\"', '\\''];\nlet d = b\"f64\";\n";
    assert_eq!(found("src/raft/a.rs", text), Vec::<String>::new());
    assert_eq!(found("src/raft/a.rs", &format!("{text}let e: f64;\n")), ["7 determinism"]);
}

#[test]
fn lifetimes_do_not_swallow_code() {
    let text = "fn f<'a>(x: &'a str) -> &'a str { x }\nlet m: HashMap<u8, u8>;\n";
    assert_eq!(found("src/raft/a.rs", text), ["2 determinism"]);
}

#[test]
fn deterministic_tiers_have_no_clock_and_others_do() {
    let text = "use std::time::{Duration, Instant};\n";
    assert_eq!(found("src/replica/mod.rs", text), ["1 determinism"]);
    assert_eq!(found("log/src/disk/sim.rs", text), ["1 determinism"]);
    assert!(found("log/src/disk/sys.rs", text).is_empty());
    assert!(found("src/client/driver.rs", text).is_empty());
    assert!(found("src/shard/mod.rs", text).is_empty());
}

#[test]
fn a_turn_neither_waits_nor_borrows_at_run_time() {
    let waits = "async fn f() {\n    g().await\n}\n";
    assert_eq!(found("src/shard/turn.rs", waits), ["1 turn", "2 turn"]);
    assert_eq!(found("src/server/local.rs", "let a = RefCell::new(1);\n"), ["1 turn"]);
    assert_eq!(found("src/replica/mod.rs", "a: Rc<RefCell<u8>>,\n"), ["1 turn"]);
    assert!(found("src/shard/start.rs", waits).is_empty());
    assert_eq!(found("src/shard/start.rs", "let a = RefCell::new(1);\n"), ["1 turn"]);
    assert!(found("src/sim/workload/mod.rs", "a: Rc<RefCell<u8>>,\n").is_empty());
    assert_eq!(found_in_all("turn"), Vec::<String>::new());
}

/// A clock that is set changes no lease and no life: nobody looks at it.
#[test]
fn nothing_goes_by_the_calendar() {
    let text = "let now = SystemTime::now();\nclock_gettime(libc::CLOCK_REALTIME, &mut time);\n";
    for path in ["src/shard/sys.rs", "src/client/driver.rs", "src/machine/clock.rs"] {
        let calendars = found(path, text);
        assert!(calendars.contains(&"1 calendar".to_owned()), "{path}: {calendars:?}");
        assert!(calendars.contains(&"2 calendar".to_owned()), "{path}: {calendars:?}");
    }
    let boot = "clock_gettime(libc::CLOCK_BOOTTIME, &mut time);\n";
    assert!(found("src/shard/sys.rs", boot).is_empty());
    assert_eq!(found_in_all("calendar"), Vec::<String>::new());
}

#[test]
fn longer_names_are_not_the_banned_word() {
    assert!(found("src/raft/a.rs", "let operand = brand + InstantLike;\n").is_empty());
}

#[test]
fn tests_may_do_as_they_like() {
    let text =
        "#[cfg(test)]\nmod tests {\n    use crate::sim::Net;\n    let t = Instant::now();\n}\n";
    assert!(found("src/raft/a.rs", text).is_empty());
    let behind = format!("{text}let t = Instant::now();\n");
    assert_eq!(found("src/raft/a.rs", &behind), ["6 determinism"]);
}

#[test]
fn arrows_point_down() {
    assert_eq!(found("src/raft/a.rs", "use crate::replica::Replica;\n"), ["1 arrow"]);
    assert_eq!(found("src/raft/mod.rs", "use super::wire::Frame;\n"), ["1 arrow"]);
    assert_eq!(found("src/raft/a.rs", "use super::super::wire::Frame;\n"), ["1 arrow"]);
    assert_eq!(found("src/resource/map.rs", "use crate::{machine::Code, client};\n"), ["1 arrow"]);
    assert!(found("src/raft/a.rs", "use super::message::Input;\n").is_empty());
    assert!(found("src/replica/mod.rs", "use crate::{raft::{Raft}, machine::Code};\n").is_empty());
    assert!(found("src/server.rs", "use crate::shard::Shard;\n").is_empty());
}

#[test]
fn raft_knows_positions_only() {
    assert!(found("src/raft/mod.rs", "use margay_log::id::Index;\n").is_empty());
    assert_eq!(found("src/raft/mod.rs", "use margay_log::batch::Batch;\n"), ["1 arrow"]);
}

#[test]
fn crates_have_their_places() {
    assert_eq!(found("src/replica/mod.rs", "use glommio::Task;\n"), ["1 crate"]);
    assert!(found("src/shard/mod.rs", "use glommio::Task;\n").is_empty());
    assert!(found("log/src/disk/uring.rs", "use io_uring::IoUring;\n").is_empty());
    assert_eq!(found("log/src/disk/direct.rs", "use io_uring::IoUring;\n"), ["1 crate"]);
}

#[test]
fn unsafe_has_its_places() {
    let text = "#![deny(unsafe_code)]\nfn f() { unsafe { g() } }\n";
    assert_eq!(found("src/server.rs", text), ["2 unsafe"]);
    assert!(found("log/src/buffer.rs", text).is_empty());
}

#[test]
fn sizes_are_bounded() {
    let long = format!("fn f(a: [u8; 3]) {{\n{}}}\nfn g() {{}}\n", "    h();\n".repeat(70));
    assert_eq!(found("tools/src/a.rs", &long), ["1 function-length"]);
    assert_eq!(found("tools/src/a.rs", &"\n".repeat(701)), ["701 file-length"]);
    assert_eq!(found("tools/src/a.rs", &"é".repeat(101)), ["1 line-length"]);
    assert!(found("tools/src/a.rs", &"é".repeat(100)).is_empty());
}

#[test]
fn unfinished_work_is_not_merged() {
    let text = concat!("fn f() { to", "do!() }\n// FIX", "ME later\n#[ign", "ore]\nfn g() {}\n");
    assert_eq!(found("tools/src/a.rs", text), ["1 unfinished", "3 unfinished", "2 unfinished"]);
}

#[test]
fn files_nobody_names_are_dead() {
    let source = |path, text| Source::new(path, text);
    let sources = [
        source("src/lib.rs", "pub mod raft;\nmod config { }\n// mod gone;\n"),
        source("src/raft/mod.rs", "mod read;\n"),
        source("src/raft/read.rs", "#[cfg(test)]\nmod tests;\n"),
        source("src/raft/read/tests.rs", ""),
        source("src/raft/gone.rs", ""),
        source("examples/embed.rs", ""),
    ];
    let dead: Vec<String> = reach::check(&sources).into_iter().map(|f| f.path).collect();
    assert_eq!(dead, ["src/raft/gone.rs"]);
}
