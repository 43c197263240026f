//! Files that no `mod` leads to: they are not compiled, so they rot.

use std::path::Path;

use crate::Finding;
use crate::scan::{Source, is_name};

/// Follows `mod` from every root.
pub(crate) fn check(sources: &[Source]) -> Vec<Finding> {
    let is_root = |path: &str| {
        ["src/lib.rs", "main.rs", "build.rs"]
            .iter()
            .any(|root| path == *root || path.ends_with(&format!("/{root}")))
            || path.contains("examples/")
    };
    let mut reached: Vec<usize> =
        (0..sources.len()).filter(|&n| is_root(&sources[n].path)).collect();
    let mut next = 0;
    while let Some(&n) = reached.get(next) {
        next += 1;
        for candidate in children(&sources[n], is_root(&sources[n].path)) {
            if let Some(child) = sources.iter().position(|source| source.path == candidate)
                && !reached.contains(&child)
            {
                reached.push(child);
            }
        }
    }
    let dead = (0..sources.len()).filter(|n| !reached.contains(n));
    let text = "no `mod` leads to this file, so nobody compiles it; name it or remove it";
    dead.map(|n| sources[n].finding(1, "dead-file", text)).collect()
}

/// Where the files of `mod name;` in `source` may lie.
fn children(source: &Source, is_root: bool) -> Vec<String> {
    let path = Path::new(&source.path);
    let folder = path.parent().unwrap_or(Path::new(""));
    let folder = if is_root || path.ends_with("mod.rs") {
        folder.to_path_buf()
    } else {
        path.with_extension("")
    };
    let mut paths = Vec::new();
    for (at, _) in source.code.match_indices("mod ") {
        let rest = &source.code[at + "mod ".len()..];
        let Some(end) = rest.find(|c| !is_name(c)) else { continue };
        if rest[end..].starts_with(';') {
            let name = &rest[..end];
            paths.push(folder.join(format!("{name}.rs")));
            paths.push(folder.join(name).join("mod.rs"));
        }
    }
    paths.into_iter().map(|path| path.to_string_lossy().into_owned()).collect()
}
