//! Stories as tests: a text file with commands and, below `---`, what they print.
//!
//! ```text
//! # The moral, on the first line. Other lines that begin with # are comments.
//! cluster nodes=3 leader=1
//! propose 1
//! ---
//! n1 → n2 append 1@1 [2@1]
//!
//! status
//! ---
//! ...
//! ```
//!
//! Blocks are separated by empty lines. `UPDATE=1` writes what was printed in place of what was
//! expected: look at the diff and understand it before you commit it.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// What runs the commands of one story.
pub(crate) trait Story {
    /// Runs a command and returns what it printed, one line each.
    fn run(&mut self, command: &Command) -> Result<Vec<String>, String>;
}

/// A command: `name argument argument key=value`.
pub(crate) struct Command {
    pub(crate) name: String,
    pub(crate) arguments: Vec<String>,
}

impl Command {
    fn parse(line: &str) -> Command {
        let mut words = line.split_whitespace().map(str::to_string);
        let name = words.next().unwrap_or_default();
        Command { name, arguments: words.collect() }
    }

    /// The arguments that are not `key=value`.
    pub(crate) fn plain(&self) -> impl Iterator<Item = &str> {
        self.arguments.iter().map(String::as_str).filter(|argument| !argument.contains('='))
    }

    /// The plain argument at `at`.
    pub(crate) fn at<T: std::str::FromStr>(&self, at: usize) -> Result<T, String> {
        let word =
            self.plain().nth(at).ok_or_else(|| format!("{} lacks an argument", self.name))?;
        word.parse().map_err(|_| format!("{}: what is {word:?}?", self.name))
    }

    /// The value of `key=`.
    pub(crate) fn value(&self, key: &str) -> Option<&str> {
        let pairs = self.arguments.iter().filter_map(|argument| argument.split_once('='));
        pairs.filter(|(name, _)| *name == key).map(|(_, value)| value).next()
    }
}

/// Runs every story of a directory of `tests/it/scripts`; a new `S` for each.
pub(crate) fn run_all<S: Story + Default>(directory: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/scripts").join(directory);
    let mut paths: Vec<_> = fs::read_dir(&root)
        .unwrap_or_else(|error| panic!("{}: {error}", root.display()))
        .map(|entry| entry.expect("a readable directory").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "no stories in {}", root.display());
    let update = std::env::var_os("UPDATE").is_some();
    let mut failures = String::new();
    for path in paths {
        let expected = fs::read_to_string(&path).expect("a readable story");
        assert!(expected.starts_with("# "), "{}: where is the moral?", path.display());
        eprintln!("story {}", path.display());
        let actual = play(&expected, &mut S::default());
        if update {
            fs::write(&path, &actual).expect("a writable story");
        } else if let Some(difference) = first_difference(&expected, &actual) {
            let name = path.display();
            writeln!(failures, "\n{name}\n{difference}").expect("memory");
        }
    }
    assert!(failures.is_empty(), "stories end otherwise (UPDATE=1 rewrites them):\n{failures}");
}

/// The story with its output replaced by what its commands print.
fn play(text: &str, story: &mut dyn Story) -> String {
    let mut actual = String::new();
    for block in text.trim_end().split("\n\n") {
        if !actual.is_empty() {
            actual.push('\n');
        }
        let commands = block.lines().take_while(|line| *line != "---");
        let mut output = Vec::new();
        let mut silent = true;
        for line in commands {
            writeln!(actual, "{line}").expect("memory");
            if line.starts_with('#') {
                continue;
            }
            silent = false;
            match story.run(&Command::parse(line)) {
                Ok(lines) => output.extend(lines),
                Err(error) => output.push(format!("error: {error}")),
            }
        }
        if !silent {
            actual.push_str("---\n");
            output.iter().for_each(|line| writeln!(actual, "{line}").expect("memory"));
        }
    }
    actual
}

fn first_difference(expected: &str, actual: &str) -> Option<String> {
    let (mut left, mut right) = (expected.lines(), actual.lines());
    for line in 1.. {
        let pair = (left.next(), right.next());
        match pair {
            (None, None) => return None,
            (expected, actual) if expected == actual => {}
            (expected, actual) => {
                let show = |line: Option<&str>| line.unwrap_or("(end)").to_string();
                let (expected, actual) = (show(expected), show(actual));
                return Some(format!("line {line}\n  expected {expected}\n  printed  {actual}"));
            }
        }
    }
    None
}
