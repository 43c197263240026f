//! `--config`: what the flags of `serve` say, in a file. A flag that is given wins.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::exit::Exit;

/// A file's keys, named like the flags.
#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct File {
    pub(super) name: Option<String>,
    pub(super) data: Option<PathBuf>,
    pub(super) listen: Option<String>,
    /// Name → HOST:PORT.
    #[serde(default)]
    pub(super) peers: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) join: Vec<String>,
    pub(super) advertise: Option<String>,
    pub(super) groups: Option<u32>,
    pub(super) shards: Option<u16>,
    pub(super) cpus: Option<Vec<usize>>,
    pub(super) snapshot_after: Option<String>,
    pub(super) no_lease: Option<bool>,
    pub(super) tls: Option<PathBuf>,
    pub(super) unsafe_no_auth: Option<bool>,
}

impl File {
    /// Reads a file. What is wrong with it is said with its place.
    pub(super) fn read(path: &Path) -> Result<File, Exit> {
        let name = path.display();
        let text = fs::read_to_string(path)
            .map_err(|error| Exit::usage(format!("cannot read {name}: {error}")))?;
        toml::from_str(&text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            let before = text.get(..at).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
            let hint = match meant(error.message()) {
                Some(key) => format!("did you mean {key}?"),
                None => "see margay serve --help: keys are named like its flags".to_owned(),
            };
            Exit::usage(format!("{name}:{line}:{column}: {}", error.message())).hint(hint)
        })
    }
}

/// The key that is likely to have been meant, where one is not known: the message quotes that, and
/// then all that are.
fn meant(message: &str) -> Option<&str> {
    const TYPOS_MAX: usize = 2;
    let mut quoted = message.split('`').skip(1).step_by(2);
    let unknown = quoted.next().filter(|_| message.starts_with("unknown field "))?;
    let (count, key) = quoted.map(|key| (typos(unknown, key), key)).min()?;
    (count <= TYPOS_MAX).then_some(key)
}

/// How many letters must be put in, left out, changed or exchanged with their neighbours to make
/// one word of the other.
fn typos(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    // Of the first letters of one, and of the other: the last three rows of a table.
    let mut before = Vec::new();
    let mut last: Vec<usize> = (0..=other.len()).collect();
    for i in 1..=one.len() {
        let mut row = vec![i];
        for j in 1..=other.len() {
            let changed = last[j - 1] + usize::from(one[i - 1] != other[j - 1]);
            let mut least = changed.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && one[i - 1] == other[j - 2] && one[i - 2] == other[j - 1] {
                least = least.min(before[j - 2] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(test: &str, text: &str) -> Result<File, String> {
        let path = std::env::temp_dir().join(format!("{}-{test}.toml", std::process::id()));
        fs::write(&path, text).expect("a file of the test's own");
        let file = File::read(&path).map_err(|exit| exit.to_string());
        fs::remove_file(&path).expect("ours");
        file
    }

    #[test]
    fn every_flag_has_its_key() {
        let text = "name = 'n1'\ndata = '/d'\nlisten = '127.0.0.1:1'\ngroups = 4\nshards = 2\n\
                    cpus = [0, 1]\nsnapshot-after = '1MiB'\nunsafe-no-auth = true\ntls = '/t'\n\
                    [peers]\nn1 = 'a:1'\nn2 = 'b:2'\n";
        let file = read("all", text).expect("a right file");
        assert_eq!((file.groups, file.shards, file.cpus), (Some(4), Some(2), Some(vec![0, 1])));
        assert_eq!((file.peers.len(), file.tls), (2, Some("/t".into())));
    }

    #[test]
    fn a_key_that_is_nearly_right_is_guessed() {
        for (wrong, right) in [
            ("lisen", Some("listen")),
            ("snapshot_after", Some("snapshot-after")),
            ("nmae", Some("name")),
            ("no-leases", Some("no-lease")),
            ("replicas", None),
            ("x", None),
        ] {
            let path = std::env::temp_dir().join(format!("{}-{wrong}.toml", std::process::id()));
            fs::write(&path, format!("{wrong} = 1\n")).expect("a file of the test's own");
            let exit = File::read(&path).expect_err("a wrong file");
            fs::remove_file(&path).expect("ours");
            let said = format!("{exit:?}");
            let guess = right.map(|right| format!("did you mean {right}?"));
            match guess {
                Some(guess) => assert!(said.contains(&guess), "{wrong}: {said}"),
                None => assert!(!said.contains("did you mean"), "{wrong}: {said}"),
            }
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let cases = [
            ("name = 'n1'\n  lisen = 'x'\n", ".toml:2:3: unknown field `lisen`, expected one of"),
            ("name = 'n1'\nname = 'n2'\n", ".toml:2:1: duplicate key"),
            ("groups = 'four'\n", ".toml:1:10: invalid type"),
            ("name = \n", ".toml:1:"),
        ];
        for (n, (text, words)) in cases.into_iter().enumerate() {
            let error = read(&format!("wrong{n}"), text).expect_err("a wrong file");
            assert!(error.contains(words), "{words}: {error}");
        }
    }
}
