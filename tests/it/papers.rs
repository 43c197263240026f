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
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("docs/TESTING.md")).expect("the paper is there");
    let (_, table) = text.split_once("## Mistakes of others").expect("the list is there");
    let mut all = String::new();
    sources(&root.join("tests"), &mut all);
    sources(&root.join("src"), &mut all);
    let rows = table.lines().filter(|line| line.starts_with("| ") && line.contains('`'));
    let mut named = 0;
    for row in rows {
        let names: Vec<&str> = row.split('`').skip(1).step_by(2).collect();
        for name in names {
            assert!(all.contains(&format!("fn {name}(")), "no test {name}: {row}");
            named += 1;
        }
    }
    assert!(named >= 15, "only {named} tests are named");
}
