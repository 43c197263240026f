//! What the papers say of the tests is so.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Scenarios of others, numbered from 1.
const SCENARIOS: usize = 118;
/// Bad inputs, numbered from 1.
const BAD_INPUTS: usize = 56;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below a directory.
fn files(directory: &Path, all: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("it can be read").flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, all);
        } else {
            all.push(path);
        }
    }
}

/// Everything that may be named as a test: functions marked as one, stories of the Raft core, kinds
/// of faults and workloads of the simulator.
fn tests() -> BTreeSet<String> {
    let mut paths = Vec::new();
    for directory in ["tests", "src", "log/src", "log/tests", "tools/src", "tools/tests"] {
        files(&root().join(directory), &mut paths);
    }
    let mut found = BTreeSet::new();
    for path in paths {
        let extension = path.extension().and_then(|extension| extension.to_str());
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        match extension {
            Some("txt") if path.parent().is_some_and(|parent| parent.ends_with("raft")) => {
                found.insert(stem.to_owned());
            }
            Some("rs") => {
                let text = fs::read_to_string(&path).expect("source is text");
                for marked in text.split("#[test]").skip(1) {
                    let name = marked.split_once("fn ").map_or("", |(_, rest)| rest);
                    found.extend(name.split_once('(').map(|(name, _)| name.to_owned()));
                }
                for kind in text.split("Kind::new(\"").skip(1) {
                    found.extend(kind.split_once('"').map(|(name, _)| format!("fault {name}")));
                }
            }
            _ => {}
        }
    }
    found
}

/// The part of the paper below a heading.
fn section(heading: &str) -> String {
    let text = fs::read_to_string(root().join("docs/TESTING.md")).expect("the paper is there");
    let (_, rest) = text.split_once(heading).unwrap_or_else(|| panic!("no {heading}"));
    rest.split("\n## ").next().unwrap_or_default().to_owned()
}

/// What is written in a row as code: tests, or files.
fn named(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

fn exists(name: &str, tests: &BTreeSet<String>) -> bool {
    tests.contains(name) || (name.contains('/') && root().join(name).exists())
}

#[test]
fn the_tests_against_known_mistakes_are_there() {
    let tests = tests();
    let table = section("## Mistakes of others");
    let mut count = 0;
    for row in table.lines().filter(|line| line.starts_with("| ") && line.contains('`')) {
        for name in named(row) {
            assert!(exists(name, &tests), "no test {name}: {row}");
            count += 1;
        }
    }
    assert!(count >= 15, "only {count} tests are named");
}

/// Every bad input has its row, and every row a test that is there, or a reason to have none.
#[test]
fn the_tests_of_bad_input_are_there() {
    let tests = tests();
    let tables = section("## Bad input");
    let mut next = 1;
    for row in tables.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let number = cells[0].split_once(". ").and_then(|(number, _)| number.parse::<usize>().ok());
        let Some(number) = number else { continue };
        assert_eq!(next, number, "{row}");
        assert_eq!(cells.len(), 3, "input, answer and test: {row}");
        next = number + 1;
        let mut count = 0;
        for name in named(cells[2]) {
            assert!(exists(name, &tests), "no test {name}: {row}");
            count += 1;
        }
        assert!(count > 0 || cells[2].starts_with("does not apply: "), "no test: {row}");
    }
    assert_eq!(next, BAD_INPUTS + 1, "rows are missing");
}

/// Every scenario has its row, and every row a test that is there, or the reason why there is none.
#[test]
fn every_scenario_has_its_test() {
    let tests = tests();
    let tables = section("## Scenarios");
    let mut next = 1;
    for row in tables.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let Some(number) = cells[0].split(' ').next().and_then(|cell| cell.parse::<usize>().ok())
        else {
            continue;
        };
        assert_eq!(next, number, "{row}");
        assert_eq!(cells.len(), 2, "scenario and test: {row}");
        next = number + 1;
        let mut count = 0;
        for name in named(cells[1]) {
            assert!(exists(name, &tests), "no test {name}: {row}");
            count += 1;
        }
        assert!(count > 0 || cells[1].starts_with("does not apply: "), "no test: {row}");
    }
    assert_eq!(next, SCENARIOS + 1, "scenarios are missing");
}
