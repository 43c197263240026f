//! `margay shell`: the same commands, one per line, with completion and history.
//!
//! From a terminal it is a prompt. From a pipe it runs the lines and ends with the code of the last
//! command that did not end well, so that a script notices. Each command is a process of its own:
//! Ctrl-C ends it and not the shell.

use std::io::{self, BufRead, IsTerminal};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{self, Stdio};
use std::sync::mpsc::channel;
use std::thread;

use clap::Command;
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::history::DefaultHistory;
use rustyline::{Config, Context, Editor, Helper, Highlighter, Hinter, Validator};

use crate::connect::Connect;
use crate::exit::{Exit, NEGATIVE};
use crate::output::Format;
use crate::{hold, output, sys};

/// Run commands line by line, with completion and history
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Lines are commands without 'margay', as in: map put users ada admin. Quotes and backslashes work as
in a shell. 'help' lists the commands, 'exit' or Ctrl-D ends. History is kept in
~/.margay_history, or in the file that MARGAY_HISTORY names.

Ctrl-C ends the command that runs, as in: watch users.

From a pipe it runs all lines, and ends with the code of the last one that failed. There is nothing
on the standard input of its commands then.
  printf 'counter add hits\\nmap size users\\n' | margay shell")]
pub(crate) struct Args {
    #[command(flatten)]
    connect: Connect,
}

pub(crate) fn run(args: &Args, command: Command) -> Result<(), Exit> {
    let is_prompt = io::stdin().is_terminal();
    let shell = Shell { options: options(&args.connect), command, is_prompt };
    if is_prompt { shell.prompt() } else { shell.pipe() }
}

/// What the shell was told and its lines are, too: where the cluster is, and how to answer. Names
/// of options, and what they are.
fn options(connect: &Connect) -> Vec<(&'static str, String)> {
    let timeout = format!("{}us", connect.timeout.as_micros());
    let mut options = vec![("endpoints", connect.endpoints.join(",")), ("timeout", timeout)];
    if let Some(tls) = &connect.tls {
        options.push(("tls", tls.display().to_string()));
    }
    match connect.output {
        Format::Table => {}
        Format::Json => options.push(("output", "json".to_owned())),
        Format::Jsonl => options.push(("output", "jsonl".to_owned())),
    }
    options
}

struct Shell {
    options: Vec<(&'static str, String)>,
    command: Command,
    is_prompt: bool,
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
        leave_interrupts()?;
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
            Some(_) => Step::Done(self.start(&self.with_options(&words))),
        }
    }

    /// Runs a command to its end. It has said itself what there was to say.
    fn start(&self, words: &[String]) -> Result<(), Exit> {
        // As it was started, whatever stands in its place by now.
        let mut command = process::Command::new("/proc/self/exe");
        command.arg0("margay").args(words);
        if !self.is_prompt {
            command.stdin(Stdio::null());
        }
        sys::die_with_parent(&mut command, libc::SIGTERM);
        match hold::code_of(command.status()?) {
            0 => Ok(()),
            code => Err(Exit::quiet(u8::try_from(code).unwrap_or(u8::MAX))),
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
                let short = name == "output" && word.starts_with("-o");
                short || value.is_some_and(|value| value.is_empty() || value.starts_with('='))
            };
            own().any(says)
        };
        let takes = |name| verb.get_arguments().any(|option| option.get_long() == Some(name));
        let options = self.options.iter().filter(|(name, _)| takes(name) && !is_said(name));
        let options = options.map(|(name, value)| format!("--{name}={value}"));
        let verbs = &words[..words.len() - rest.len()];
        verbs.iter().cloned().chain(options).chain(rest.iter().cloned()).collect()
    }
}

enum Step {
    Done(Result<(), Exit>),
    Exit,
}

/// Leaves Ctrl-C to the commands: from the terminal it reaches them by itself.
fn leave_interrupts() -> Result<(), Exit> {
    let (sender, signals) = channel();
    sys::divert_signals(sender, |signal| signal.number)?;
    thread::spawn(move || {
        if let Some(signal) = signals.iter().find(|signal| *signal != libc::SIGINT) {
            process::exit(128 + signal);
        }
    });
    Ok(())
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
        let pairs = [("endpoints", "n1,n2"), ("timeout", "7us"), ("tls", "id"), ("output", "json")];
        let options = pairs.map(|(name, value)| (name, value.to_owned())).to_vec();
        let shell = Shell { options, command: crate::definitions(), is_prompt: false };
        let all = ["--endpoints=n1,n2", "--timeout=7us", "--tls=id", "--output=json"];
        for (verb, rest, told) in [
            ("ls", "", &all[..]),
            ("map put", "users ada admin", &all),
            ("map get", "users ada -o table", &all[..3]),
            ("map get", "users ada --timeout 1s --tls x -ojsonl", &all[..1]),
            ("map get", "users ada --timeout=1s --endpoints n3 --tls=x --output=table", &[]),
            ("lock run", "nightly -- curl --timeout 5 -o x", &all),
            ("bench", "--workload map-get", &all),
            ("bench floor", "--dir x", &all),
            ("log inspect", "dir", &all[3..]),
            ("tls show", "dir", &all[3..]),
            ("sim", "--seeds 1", &all[3..]),
            ("man", "", &[]),
        ] {
            let words = shell.with_options(&split(&format!("{verb} {rest}")).expect("words"));
            let expected = format!("{verb} {} {rest}", told.join(" "));
            assert_eq!(words, split(&expected).expect("words"));
            let words = std::iter::once("margay").chain(words.iter().map(String::as_str));
            assert!(crate::Cli::try_parse_from(words).is_ok(), "{expected}");
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
