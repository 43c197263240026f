//! Style and arrow check: what rustfmt and clippy cannot know about this repository.
//!
//!     cargo run -p margay-cli --bin tidy [ROOT]
//!
//! It reads text, not syntax trees: `scan` blanks comments and strings, and every rule looks for
//! words in what is left. That is exact enough for our own code and has no dependencies. A finding
//! says where, which rule, why it exists and what to do instead. The arrows are those of
//! docs/ARCHITECTURE.md; a change that needs a new one edits both.

mod reach;
mod rules;
mod scan;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};

use scan::Source;

/// Where a rule is broken.
struct Finding {
    path: String,
    line: usize,
    rule: &'static str,
    text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.path, self.line, self.rule, self.text)
    }
}

/// All `.rs` files under `folder`, except what cargo built.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        if entry.file_type()?.is_dir() {
            if name != "target" && !name.to_string_lossy().starts_with('.') {
                collect(&path, files)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}

fn run(root: &Path) -> std::io::Result<Vec<Finding>> {
    let mut files = Vec::new();
    collect(root, &mut files)?;
    files.sort();
    let mut sources = Vec::new();
    for file in files {
        let path = file.strip_prefix(root).unwrap_or(&file).to_string_lossy().into_owned();
        sources.push(Source::new(&path, &std::fs::read_to_string(&file)?));
    }
    let mut found: Vec<Finding> = sources.iter().flat_map(rules::check).collect();
    found.extend(reach::check(&sources));
    Ok(found)
}

fn main() {
    let root = std::env::args().nth(1).map(PathBuf::from).unwrap_or_else(|| {
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
    });
    match run(&root) {
        Ok(found) if found.is_empty() => {}
        Ok(found) => {
            found.iter().for_each(|finding| println!("{finding}"));
            eprintln!("tidy: {} findings", found.len());
            std::process::exit(1);
        }
        Err(error) => {
            eprintln!("error: cannot read {}: {error}", root.display());
            std::process::exit(2);
        }
    }
}
