//! The rules that need one file only, and their tables.

use crate::Finding;
use crate::scan::{Source, is_name, item_end, line_of};

const FILE_LINES_MAX: usize = 700;
const FUNCTION_LINES_MAX: usize = 70;
const LINE_COLUMNS_MAX: usize = 100;

/// Top-level module of package margay → those it may name. Absent: any (server, lib).
const ARROWS: &[(&str, &[&str])] = &[
    ("config", &[]),
    ("error", &["config", "forming"]),
    ("raft", &[]),
    ("tls", &[]),
    ("machine", &["config"]),
    ("wire", &["raft", "machine", "config"]),
    ("resource", &["machine", "config"]),
    ("forming", &["wire", "config"]),
    ("replica", &["raft", "machine", "wire", "config", "error"]),
    ("client", &["wire", "machine", "resource", "tls", "config", "error"]),
    (
        "sim",
        &["raft", "wire", "machine", "resource", "replica", "client", "forming", "config", "error"],
    ),
    (
        "shard",
        &["raft", "wire", "machine", "resource", "replica", "forming", "tls", "config", "error"],
    ),
];

/// Crate → paths that may name it.
const CRATES: &[(&str, &[&str])] = &[
    ("glommio", &["src/shard/", "src/server.rs", "src/server/", "examples/"]),
    (
        "io_uring",
        &[
            "src/shard/",
            "src/server.rs",
            "src/server/",
            "bench/",
            "log/src/disk/driver.rs",
            "log/src/disk/prepare.rs",
            "log/src/disk/publish.rs",
            "log/src/disk/transfer.rs",
            "log/src/disk/uring.rs",
        ],
    ),
    ("core_affinity", &["src/shard/", "src/server.rs", "src/server/"]),
    ("polling", &["src/client/"]),
    ("rustls", &["src/tls/", "tests/it/tls.rs"]),
    ("clap", &["tools/"]),
    ("tracing_subscriber", &["tools/"]),
];

const UNSAFE: &[&str] = &[
    "log/src/buffer.rs",
    "log/src/disk/driver.rs",
    "log/src/disk/sys.rs",
    "log/src/disk/uring.rs",
    "log/tests/it/allocations.rs",
    "src/shard/ring.rs",
    "src/shard/ring/operations.rs",
    "src/shard/ring/pool.rs",
    "src/shard/sys.rs",
    "bench/src/ring.rs",
    "tools/src/sys.rs",
    "tools/tests/it/bad/blocked.rs",
];

/// Same inputs, same outputs: these take time, seeds and bytes as arguments.
const DETERMINISTIC: &[&str] = &[
    "src/raft/",
    "src/wire/",
    "src/machine/",
    "src/resource/",
    "src/replica/",
    "src/client/",
    "src/forming",
    "src/sim/",
    "log/src/",
];

/// The parts of them that are allowed to wait, and the disks.
const NOT_DETERMINISTIC: &[&str] = &[
    "src/resource/reply.rs",
    "src/resource/subscription.rs",
    "src/resource/typed/log.rs",
    "src/client/builder.rs",
    "src/client/driver",
    "src/client/exchange.rs",
    "src/client/group.rs",
    "src/client/mod.rs",
    "src/client/admin.rs",
    "src/client/ask.rs",
    "src/client/verify.rs",
    "src/client/net.rs",
    "src/client/states.rs",
    "src/client/status.rs",
    "log/src/commit_log/",
    "log/src/disk/ahead.rs",
    "log/src/disk/direct.rs",
    "log/src/disk/directory.rs",
    "log/src/disk/driver.rs",
    "log/src/disk/maker.rs",
    "log/src/disk/prepare.rs",
    "log/src/disk/publish.rs",
    "log/src/disk/snapshots.rs",
    "log/src/disk/sys.rs",
    "log/src/disk/transfer.rs",
    "log/src/disk/uring.rs",
    "log/src/disk/view.rs",
    "log/src/repair.rs",
];

/// Word (or path) → what to use instead, in deterministic code.
const BANNED: &[(&str, &str)] = &[
    ("Instant", "take `now: Micros`"),
    ("SystemTime", "take `now: Micros`, or log time"),
    ("HashMap", "use BTreeMap or a sorted Vec: a hash map's order is an address order"),
    ("HashSet", "use BTreeSet or a sorted Vec: a hash set's order is an address order"),
    ("std::thread", "emit an output and let the outer tier do it"),
    ("thread::", "emit an output and let the outer tier do it"),
    ("std::net", "emit an output and let the outer tier do it"),
    ("std::fs", "emit an output and let the outer tier do it"),
    ("rand", "take a seed"),
    ("async", "make it a plain step: input in, outputs out"),
    (".await", "make it a plain step: input in, outputs out"),
    ("f32", "use integers and state the unit in the name"),
    ("f64", "use integers and state the unit in the name"),
];

/// What runs on a shard's thread. A turn is a plain step there: nobody else runs before it is over,
/// so nothing can be borrowed meanwhile, and nobody needs to ask at run time whether it is.
const TURNS: &[&str] = &["src/shard/", "src/server", "src/replica/", "src/raft/", "src/machine/"];

/// Word → where on a shard's thread it may be.
const NOT_IN_TURNS: &[(&str, &[&str])] = &[
    // The executor's one task waits before there is a shard.
    ("async", &["src/shard/start.rs"]),
    (".await", &["src/shard/start.rs"]),
    ("RefCell", &[]),
];

/// Clocks that somebody sets, and so that jump. Nothing of package margay goes by them: a lease, a
/// time-out or a time to live is no longer because an hour was put in.
const CALENDARS: &[&str] = &["SystemTime", "CLOCK_REALTIME"];

/// Not to be merged, anywhere.
const UNFINISHED: &[&str] = &["todo!", "unimplemented!", "dbg!", "#[ignore"];

/// All of them.
pub(crate) fn check(source: &Source) -> Vec<Finding> {
    let mut found = Vec::new();
    check_sizes(source, &mut found);
    check_unfinished(source, &mut found);
    check_unsafe(source, &mut found);
    check_crates(source, &mut found);
    check_arrows(source, &mut found);
    check_determinism(source, &mut found);
    check_turns(source, &mut found);
    check_calendars(source, &mut found);
    found
}

fn check_sizes(source: &Source, found: &mut Vec<Finding>) {
    let lines = source.text.lines().count();
    if lines > FILE_LINES_MAX {
        let text = format!("{lines} lines, at most {FILE_LINES_MAX}; split it by conversation");
        found.push(source.finding(lines, "file-length", text));
    }
    for (n, line) in source.text.lines().enumerate() {
        let columns = line.chars().count();
        if columns > LINE_COLUMNS_MAX {
            let text = format!("{columns} columns, at most {LINE_COLUMNS_MAX}; break it");
            found.push(source.finding(n + 1, "line-length", text));
        }
    }
    for (at, _) in source.code.match_indices("fn ") {
        if source.code[..at].chars().last().is_some_and(is_name) {
            continue;
        }
        let (first, last) =
            (line_of(&source.code, at), line_of(&source.code, item_end(&source.code, at)));
        let length = last - first + 1;
        if length > FUNCTION_LINES_MAX {
            let text = format!(
                "{length} lines, at most {FUNCTION_LINES_MAX}; leave the branches here and move \
                 the leaves into functions named after this one"
            );
            found.push(source.finding(first, "function-length", text));
        }
    }
}

fn check_unfinished(source: &Source, found: &mut Vec<Finding>) {
    for &word in UNFINISHED {
        for line in source.lines_with(word) {
            let text = format!("`{word}` is not merged; finish it or leave it out");
            found.push(source.finding(line, "unfinished", text));
        }
    }
    let marker = concat!("FIX", "ME");
    for (at, _) in source.comments.match_indices(marker) {
        let text = format!("`{marker}` is not merged; repair it or open an issue");
        found.push(source.finding(line_of(&source.comments, at), "unfinished", text));
    }
}

fn check_unsafe(source: &Source, found: &mut Vec<Finding>) {
    if UNSAFE.contains(&source.path.as_str()) {
        return;
    }
    for line in source.lines_with("unsafe") {
        let text = "unsafe code lives in the few files that are read for it; use what they offer";
        found.push(source.finding(line, "unsafe", text));
    }
}

fn check_crates(source: &Source, found: &mut Vec<Finding>) {
    for &(name, places) in CRATES.iter().filter(|(_, places)| !source.is_under(places)) {
        for line in source.lines_with(name).filter(|&line| !source.is_test(line)) {
            let text = format!("`{name}` belongs to {}; go through them", places.join(", "));
            found.push(source.finding(line, "crate", text));
        }
    }
}

fn check_arrows(source: &Source, found: &mut Vec<Finding>) {
    let Some(inner) = source.path.strip_prefix("src/") else { return };
    let own = inner.split(['/', '.']).next().unwrap_or_default();
    let Some((_, allowed)) = ARROWS.iter().find(|(module, _)| *module == own) else { return };
    let depth = inner.trim_end_matches(".rs").split('/').filter(|part| *part != "mod").count();
    let climb = "super::".repeat(depth);
    for prefix in ["crate::", climb.as_str()] {
        for (at, _) in source.code.match_indices(prefix) {
            let line = line_of(&source.code, at);
            if source.is_test(line) || source.code[..at].ends_with("super::") {
                continue;
            }
            for module in modules_named(&source.code[at + prefix.len()..]) {
                let known = ARROWS.iter().any(|(name, _)| *name == module) || module == "server";
                if known && module != own && !allowed.contains(&module) {
                    let text = format!(
                        "`{own}` must not know `{module}`: arrows point down only; take what you \
                         need as an argument or a trait"
                    );
                    found.push(source.finding(line, "arrow", text));
                }
            }
        }
    }
    if own == "raft" {
        for (at, _) in source.code.match_indices("margay_log::") {
            let rest = &source.code[at + "margay_log::".len()..];
            let line = line_of(&source.code, at);
            let allowed = rest.starts_with("id::") || rest.starts_with("breaks;");
            if !allowed && !source.is_test(line) {
                let text = "`raft` decides about positions: of margay-log it may use `id` only";
                found.push(source.finding(line, "arrow", text));
            }
        }
    }
}

/// The first names of a path: one, or those of a `{…}` list.
fn modules_named(rest: &str) -> Vec<&str> {
    let name = |text: &str| text.find(|c| !is_name(c)).unwrap_or(text.len());
    let Some(list) = rest.strip_prefix('{') else { return vec![&rest[..name(rest)]] };
    let (mut depth, mut start, mut names) = (0, 0, Vec::new());
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' | ',' if depth == 0 => {
                let part = list[start..at].trim_start();
                names.push(&part[..name(part)]);
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    names
}

fn check_determinism(source: &Source, found: &mut Vec<Finding>) {
    if !source.is_under(DETERMINISTIC) || source.is_under(NOT_DETERMINISTIC) {
        return;
    }
    // Simulated clients await their replies; the simulator polls them itself, by the seed.
    let may_await = source.is_under(&["src/sim/"]);
    let allowed = |word: &str| may_await && matches!(word, "async" | ".await");
    for &(word, remedy) in BANNED.iter().filter(|(word, _)| !allowed(word)) {
        for line in source.lines_with(word).filter(|&line| !source.is_test(line)) {
            let text = format!("`{word}` in a tier that one seed must reproduce; {remedy}");
            found.push(source.finding(line, "determinism", text));
        }
    }
}

fn check_turns(source: &Source, found: &mut Vec<Finding>) {
    if !source.is_under(TURNS) {
        return;
    }
    for (word, _) in NOT_IN_TURNS.iter().filter(|(_, places)| !source.is_under(places)) {
        for line in source.lines_with(word).filter(|&line| !source.is_test(line)) {
            let text = format!("`{word}` where a turn is a plain step; borrow what it needs once");
            found.push(source.finding(line, "turn", text));
        }
    }
}

fn check_calendars(source: &Source, found: &mut Vec<Finding>) {
    if !source.is_under(&["src/"]) {
        return;
    }
    for word in CALENDARS {
        for line in source.lines_with(word) {
            let text = format!("`{word}` jumps when somebody sets it; count from boot: `sys::now`");
            found.push(source.finding(line, "calendar", text));
        }
    }
}
