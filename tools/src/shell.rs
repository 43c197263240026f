//! `margay shell`: the same commands, one per line, with completion and history.
//!
//! From a terminal it is a prompt. From a pipe it runs the lines and ends with the code of the last
//! command that did not end well, so that a script notices.

use std::io::{self, BufRead, IsTerminal};
use std::path::PathBuf;

use clap::Command;
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::history::DefaultHistory;
use rustyline::{Config, Context, Editor, Helper, Highlighter, Hinter, Validator};

use crate::connect::Connect;
use crate::exit::{Exit, NEGATIVE};
use crate::output;

/// Run commands line by line, with completion and history
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Lines are commands without 'margay', as in: map put users ada admin. Quotes and backslashes work as
in a shell. 'help' lists the commands, 'exit' or Ctrl-D ends. History is kept in
~/.margay_history, or in the file that MARGAY_HISTORY names.

From a pipe it runs all lines, and ends with the code of the last one that failed:
  printf 'counter add hits\\nmap size users\\n' | margay shell")]
pub(crate) struct Args {
    #[command(flatten)]
    connect: Connect,
}

/// Runs one command, given its words.
pub(crate) type RunLine = fn(&[String]) -> Result<(), Exit>;

pub(crate) fn run(args: &Args, command: Command, run: RunLine) -> Result<(), Exit> {
    let shell = Shell { options: options(&args.connect), command, run };
    if io::stdin().is_terminal() { shell.prompt() } else { shell.pipe() }
}

/// How each line finds the cluster that the shell was started for: names of options, and what they
/// are.
fn options(connect: &Connect) -> [(&'static str, String); 2] {
    let timeout = format!("{}us", connect.timeout.as_micros());
    [("endpoints", connect.endpoints.join(",")), ("timeout", timeout)]
}

struct Shell {
    options: [(&'static str, String); 2],
    command: Command,
    run: RunLine,
}

impl Shell {
    fn pipe(&self) -> Result<(), Exit> {
        let mut ended = Ok(());
        for line in io::stdin().lock().lines() {
            match self.line(&line?) {
                Step::Done(Ok(())) => {}
                Step::Done(Err(exit)) => {
                    exit.report();
                    ended = Err(exit.silent());
                }
                Step::Exit => break,
            }
        }
        ended
    }

    fn prompt(&self) -> Result<(), Exit> {
        let config = Config::builder().auto_add_history(true).build();
        let mut editor: Editor<Words, DefaultHistory> =
            Editor::with_config(config).map_err(failed)?;
        editor.set_helper(Some(Words { command: self.command.clone() }));
        let history = history();
        if let Some(history) = &history {
            // There is none the first time.
            let _ = editor.load_history(history);
        }
        loop {
            match editor.readline("margay> ") {
                Ok(line) => match self.line(&line) {
                    Step::Done(ended) => {
                        if let Err(exit) = ended {
                            exit.report();
                        }
                    }
                    Step::Exit => break,
                },
                Err(ReadlineError::Interrupted) => {}
                Err(ReadlineError::Eof) => break,
                Err(error) => return Err(failed(error)),
            }
        }
        if let Some(history) = &history
            && let Err(error) = editor.save_history(history)
        {
            output::aside(&format!("note: history is not kept: {error}\n"));
        }
        Ok(())
    }

    fn line(&self, line: &str) -> Step {
        let words = match split(line) {
            Ok(words) => words,
            Err(why) => return Step::Done(Err(Exit::usage(why))),
        };
        match words.first().map(String::as_str) {
            None => Step::Done(Ok(())),
            Some(word) if word.starts_with('#') => Step::Done(Ok(())),
            Some("exit" | "quit") => Step::Exit,
            Some(word @ ("shell" | "serve" | "demo")) => {
                Step::Done(Err(Exit::usage(format!("{word} has a terminal for itself"))))
            }
            Some(_) => Step::Done((self.run)(&self.with_options(&words))),
        }
    }

    /// The options stand behind the verb, where that takes them and the line does not say the same
    /// itself.
    fn with_options(&self, words: &[String]) -> Vec<String> {
        let (mut verb, mut rest) = (&self.command, words);
        while let Some((word, behind)) = rest.split_first()
            && let Some(next) = verb.find_subcommand(word)
        {
            (verb, rest) = (next, behind);
        }
        let own = || rest.iter().take_while(|word| *word != "--");
        let is_said = |name: &str| {
            let says = |word: &String| {
                let value = word.strip_prefix("--").and_then(|word| word.strip_prefix(name));
                value.is_some_and(|value| value.is_empty() || value.starts_with('='))
            };
            own().any(says)
        };
        let takes = |name| verb.get_arguments().any(|option| option.get_long() == Some(name));
        let options = self.options.iter().filter(|(name, _)| takes(name) && !is_said(name));
        let options = options.map(|(name, value)| format!("--{name}={value}"));
        let verbs = &words[..words.len() - rest.len()];
        let all = std::iter::once("margay".to_owned()).chain(verbs.iter().cloned());
        all.chain(options).chain(rest.iter().cloned()).collect()
    }
}

enum Step {
    Done(Result<(), Exit>),
    Exit,
}

fn failed(error: ReadlineError) -> Exit {
    Exit::new(NEGATIVE, format!("cannot read the terminal: {error}"))
}

fn history() -> Option<PathBuf> {
    let named = std::env::var_os("MARGAY_HISTORY").map(PathBuf::from);
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".margay_history"));
    named.or_else(home)
}

/// The words of a line: blanks part them, but for quoted ones; a backslash takes the next character
/// as it is.
fn split(line: &str) -> Result<Vec<String>, &'static str> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut characters = line.chars();
    while let Some(c) = characters.next() {
        match (c, quote) {
            ('\'', Some('\'')) | ('"', Some('"')) => quote = None,
            (c, Some('\'')) => word.get_or_insert_default().push(c),
            ('\\', _) => {
                let next = characters.next().ok_or("a backslash ends the line")?;
                word.get_or_insert_default().push(next);
            }
            (c, Some(_)) => word.get_or_insert_default().push(c),
            ('\'' | '"', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, None) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed");
    }
    words.extend(word);
    Ok(words)
}

/// Completes commands, verbs and options from their definitions.
#[derive(Helper, Highlighter, Hinter, Validator)]
struct Words {
    command: Command,
}

impl Completer for Words {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        position: usize,
        _: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<String>)> {
        let line = &line[..position];
        let begin = line.rfind(char::is_whitespace).map_or(0, |at| at + 1);
        Ok((begin, candidates(&self.command, &line[..begin], &line[begin..])))
    }
}

/// What may stand where `word` begins, after the words `before`.
fn candidates(command: &Command, before: &str, word: &str) -> Vec<String> {
    let mut at = command;
    for word in before.split_whitespace() {
        // Names and values do not lead further.
        at = at.find_subcommand(word).unwrap_or(at);
    }
    let verbs = at.get_subcommands().filter(|verb| !verb.is_hide_set());
    let mut all: Vec<String> = verbs.map(|verb| verb.get_name().to_owned()).collect();
    if word.starts_with('-') {
        let own = at.get_arguments().chain(command.get_arguments());
        all.extend(own.filter_map(|option| option.get_long()).map(|long| format!("--{long}")));
    }
    if before.trim().is_empty() {
        all.extend(["exit".to_owned(), "help".to_owned()]);
    }
    all.retain(|candidate| candidate.starts_with(word));
    all.sort();
    all.dedup();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        split(line).expect("it can be split")
    }

    #[test]
    fn words_are_parted_as_in_a_shell() {
        assert_eq!(words("  map  put users\tada "), ["map", "put", "users", "ada"]);
        assert_eq!(
            words(r#"a 'b "c' "d 'e\" f" g\ h '' i"j"k"#),
            ["a", "b \"c", "d 'e\" f", "g h", "", "ijk"]
        );
        assert!(words("   ").is_empty());
        for bad in ["'a", "\"a", "a\\"] {
            assert!(split(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn each_line_is_told_where_the_cluster_is_if_it_wants_to_know() {
        use clap::Parser;
        let options = [("endpoints", "n1,n2".to_owned()), ("timeout", "7us".to_owned())];
        let shell = Shell { options, command: crate::definitions(), run: |_| Ok(()) };
        let both = ["--endpoints=n1,n2", "--timeout=7us"];
        for (verb, rest, told) in [
            ("ls", "", &both[..]),
            ("map put", "users ada admin", &both),
            ("map get", "users ada --timeout 1s", &both[..1]),
            ("map get", "users ada --timeout=1s --endpoints n3", &[]),
            ("lock run", "nightly -- curl --timeout 5", &both),
            ("bench", "--workload map-get", &both),
            ("bench floor", "--dir x", &both),
            ("log inspect", "dir", &[]),
            ("sim", "--seeds 1", &[]),
            ("man", "", &[]),
        ] {
            let all = shell.with_options(&words(&format!("{verb} {rest}")));
            let expected = format!("margay {verb} {} {rest}", told.join(" "));
            assert_eq!(all, words(&expected));
            assert!(crate::Cli::try_parse_from(&all).is_ok(), "{all:?}");
        }
    }

    #[test]
    fn commands_verbs_and_options_are_completed() {
        let command = crate::definitions;
        let complete = |before: &str, word: &str| candidates(&command(), before, word);
        assert_eq!(complete("", "cou"), ["counter"]);
        assert!(complete("", "").contains(&"exit".to_owned()));
        assert!(complete("map ", "").contains(&"put".to_owned()));
        assert!(complete("map ", "--end").contains(&"--endpoints".to_owned()));
        assert_eq!(complete("map put users ", "x"), Vec::<String>::new());
    }
}
