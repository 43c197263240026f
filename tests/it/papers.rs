//! What the papers say of the tests is so.

use std::fs;
use std::path::Path;

/// Appends all Rust source below a directory.
fn sources(directory: &Path, all: &mut String) {
    for entry in fs::read_dir(directory).expect("it can be read").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, all);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            all.push_str(&fs::read_to_string(&path).expect("source is text"));
        }
    }
}

#[test]
fn the_tests_against_known_mistakes_are_there() {
    assert!(tests_named("## Mistakes of others") >= 15, "too few tests are named");
}

#[test]
fn the_tests_of_bad_input_are_there() {
    assert!(tests_named("## Bad input per resource") >= 20, "too few tests are named");
}

/// How many tests the table below a heading names in its last column; each of them is there.
fn tests_named(heading: &str) -> usize {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("docs/TESTING.md")).expect("the paper is there");
    let (_, table) = text.split_once(heading).expect("the list is there");
    let mut all = String::new();
    for directory in ["tests", "src", "tools/tests"] {
        sources(&root.join(directory), &mut all);
    }
    let rows = table.lines().skip(1).take_while(|line| !line.starts_with("## "));
    let rows = rows.filter_map(|row| row.trim_end_matches(" |").rsplit_once(" | "));
    let mut named = 0;
    for (_, row) in rows {
        let names: Vec<&str> = row.split('`').skip(1).step_by(2).collect();
        for name in names {
            assert!(all.contains(&format!("fn {name}(")), "no test {name}: {row}");
            named += 1;
        }
    }
    named
}
