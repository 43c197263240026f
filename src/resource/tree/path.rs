//! Paths of a document tree, and the keys that stand for them.
//!
//! `/` is the root. Any other path is a `/` before each name; a name is UTF-8, not empty, not `.`
//! or `..`, and has no `/` and no control character. The key of a node is its names, a zero after
//! each: so what is below a node has its key as a prefix, and sorts right behind it.

use crate::machine::{Code, KEY_MAX};

/// Ends each name in a key.
pub(super) const END: u8 = 0;

/// The key of a path.
///
/// # Errors
/// [`Code::KEY_TOO_LARGE`] over 4 KiB, [`Code::BAD_PATH`] where it is no path.
pub fn key(path: &[u8]) -> Result<Vec<u8>, Code> {
    match split(path)? {
        (parent, []) if path == b"/" => Ok(parent),
        (parent, name) => child(&parent, name),
    }
}

/// The key of the node above, and the name; both empty for the root. The name may be empty in a
/// path that ends with `/`.
pub(super) fn split(path: &[u8]) -> Result<(Vec<u8>, &[u8]), Code> {
    if path.len() > KEY_MAX {
        return Err(Code::KEY_TOO_LARGE);
    }
    let is_control = |text: &str| text.chars().any(char::is_control);
    if std::str::from_utf8(path).map_or(true, is_control) {
        return Err(Code::BAD_PATH);
    }
    let names = path.strip_prefix(b"/").ok_or(Code::BAD_PATH)?;
    let mut names = names.split(|byte| *byte == b'/').peekable();
    let mut parent = Vec::with_capacity(path.len());
    while let Some(name) = names.next() {
        if names.peek().is_none() {
            return Ok((parent, name));
        }
        append(&mut parent, name)?;
    }
    Ok((parent, &[]))
}

/// The key of a child.
pub(super) fn child(parent: &[u8], name: &[u8]) -> Result<Vec<u8>, Code> {
    let mut key = parent.to_vec();
    append(&mut key, name)?;
    if key.len() > KEY_MAX { Err(Code::KEY_TOO_LARGE) } else { Ok(key) }
}

fn append(key: &mut Vec<u8>, name: &[u8]) -> Result<(), Code> {
    if matches!(name, b"" | b"." | b"..") {
        return Err(Code::BAD_PATH);
    }
    key.extend_from_slice(name);
    key.push(END);
    Ok(())
}

/// The path of a key.
#[must_use]
pub fn of_key(key: &[u8]) -> Vec<u8> {
    let names = key.strip_suffix(&[END]).unwrap_or(key);
    let mut path = vec![b'/'];
    path.extend(names.iter().map(|byte| if *byte == END { b'/' } else { *byte }));
    path
}

/// The key of the node above; the root's own for the root.
pub(super) fn parent(key: &[u8]) -> &[u8] {
    let names = key.strip_suffix(&[END]).unwrap_or(key);
    let end = names.iter().rposition(|byte| *byte == END);
    end.map_or(&[], |end| &key[..=end])
}

/// Where the keys of all nodes on the way to a node end in its key, its own included.
pub(super) fn ends(key: &[u8]) -> impl Iterator<Item = usize> {
    key.iter().enumerate().filter(|(_, byte)| **byte == END).map(|(at, _)| at + 1)
}

/// The first name of the rest of a key.
pub(super) fn first_name(rest: &[u8]) -> &[u8] {
    rest.split(|byte| *byte == END).next().unwrap_or_default()
}
