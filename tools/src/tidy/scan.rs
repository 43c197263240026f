//! Tells code from comments and literals, and tests from the rest.

use crate::Finding;

/// A file with its comments and strings taken out.
pub(crate) struct Source {
    /// From the root, with forward slashes.
    pub(crate) path: String,
    pub(crate) text: String,
    /// `text` with every character of a comment or literal replaced by a space; line breaks kept.
    pub(crate) code: String,
    /// The other way round for comments: everything else is a space.
    pub(crate) comments: String,
    /// Per line: part of a `#[cfg(test)]` item, or of a file of tests.
    test_lines: Vec<bool>,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Source {
        let (code, comments) = blank(text);
        let in_test_file = path.contains("tests/") || path.ends_with("/tests.rs");
        let mut test_lines = vec![in_test_file; text.lines().count() + 1];
        for (at, _) in code.match_indices("#[cfg(test)]") {
            let end = item_end(&code, at);
            test_lines[line_of(&code, at) - 1..line_of(&code, end)].fill(true);
        }
        Source { path: path.to_string(), text: text.to_string(), code, comments, test_lines }
    }

    pub(crate) fn is_under(&self, prefixes: &[&str]) -> bool {
        prefixes.iter().any(|prefix| self.path.starts_with(prefix))
    }

    pub(crate) fn is_test(&self, line: usize) -> bool {
        self.test_lines[line - 1]
    }

    pub(crate) fn finding(
        &self,
        line: usize,
        rule: &'static str,
        text: impl Into<String>,
    ) -> Finding {
        Finding { path: self.path.clone(), line, rule, text: text.into() }
    }

    /// Lines on which `word` stands in the code, not as part of a longer name.
    pub(crate) fn lines_with<'a>(&'a self, word: &'a str) -> impl Iterator<Item = usize> + 'a {
        let inside = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        self.code.match_indices(word).filter_map(move |(at, _)| {
            let starts = !inside(word.chars().next()) || !inside(self.code[..at].chars().last());
            let rest = &self.code[at + word.len()..];
            let ends = !inside(word.chars().last()) || !inside(rest.chars().next());
            (starts && ends).then(|| line_of(&self.code, at))
        })
    }
}

pub(crate) fn line_of(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

/// The offset behind the item that begins at `from`: its closing brace, or its semicolon.
pub(crate) fn item_end(code: &str, from: usize) -> usize {
    let (mut braces, mut others) = (0usize, 0usize);
    for (at, c) in code[from..].char_indices() {
        match c {
            '(' | '[' => others += 1,
            ')' | ']' => others = others.saturating_sub(1),
            '{' => braces += 1,
            '}' if braces <= 1 => return from + at,
            '}' => braces -= 1,
            ';' if braces == 0 && others == 0 => return from + at,
            _ => {}
        }
    }
    code.len()
}

/// What the scanner is inside of.
#[derive(Clone, Copy, PartialEq)]
enum Inside {
    Code,
    Line,
    Block(usize),
    /// A string; raw ones end at a quote followed by this many hashes.
    Str(Option<usize>),
}

/// Splits `text` into its code and its comments, each of the same shape as `text`.
fn blank(text: &str) -> (String, String) {
    let chars: Vec<char> = text.chars().collect();
    let (mut code, mut comments) = (String::new(), String::new());
    let mut inside = Inside::Code;
    let mut at = 0;
    while at < chars.len() {
        let (length, next) = token(&chars, at, inside);
        for &c in &chars[at..at + length] {
            let wide = c.len_utf8();
            let in_code = inside == Inside::Code && next == Inside::Code && length == 1;
            let in_comment = matches!(inside, Inside::Line | Inside::Block(_));
            let keep = |wanted| if c == '\n' || wanted { c.to_string() } else { " ".repeat(wide) };
            code.push_str(&keep(in_code));
            comments.push_str(&keep(in_comment));
        }
        at += length;
        inside = next;
    }
    (code, comments)
}

/// Length of the piece at `at`, and what follows it. Pieces of code are single characters;
/// character literals are pieces of their own.
fn token(chars: &[char], at: usize, inside: Inside) -> (usize, Inside) {
    let peek = |ahead: usize| chars.get(at + ahead).copied().unwrap_or('\0');
    match (inside, peek(0)) {
        (Inside::Line, '\n') => (1, Inside::Code),
        (Inside::Line, _) => (1, Inside::Line),
        (Inside::Block(depth), '/') if peek(1) == '*' => (2, Inside::Block(depth + 1)),
        (Inside::Block(1), '*') if peek(1) == '/' => (2, Inside::Code),
        (Inside::Block(depth), '*') if peek(1) == '/' => (2, Inside::Block(depth - 1)),
        (Inside::Str(None), '\\') => (2.min(chars.len() - at), inside),
        (Inside::Str(None), '"') => (1, Inside::Code),
        (Inside::Str(Some(hashes)), '"') if (1..=hashes).all(|ahead| peek(ahead) == '#') => {
            (1 + hashes, Inside::Code)
        }
        (Inside::Block(_) | Inside::Str(_), _) => (1, inside),
        (Inside::Code, '/') if peek(1) == '/' => (2, Inside::Line),
        (Inside::Code, '/') if peek(1) == '*' => (2, Inside::Block(1)),
        (Inside::Code, '"') => (1, Inside::Str(None)),
        (Inside::Code, 'r') if at == 0 || !is_name(chars[at - 1]) || chars[at - 1] == 'b' => {
            let hashes = (1..).take_while(|&ahead| peek(ahead) == '#').count();
            if peek(1 + hashes) == '"' {
                (2 + hashes, Inside::Str(Some(hashes)))
            } else {
                (1, Inside::Code)
            }
        }
        (Inside::Code, '\'') if peek(1) == '\\' => {
            let end = (3..12).find(|&ahead| peek(ahead) == '\'').unwrap_or(1);
            (end + 1, Inside::Code)
        }
        (Inside::Code, '\'') if peek(2) == '\'' => (3, Inside::Code),
        (Inside::Code, _) => (1, Inside::Code),
    }
}

pub(crate) fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}
