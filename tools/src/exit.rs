//! How the program ends: a code for scripts, a line for people.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | a negative answer: absent, conflict, lock not got |
//! | 2 | usage or configuration |
//! | 3 | no leader reachable, or none that can do it now; nothing was changed |
//! | 4 | outcome unknown: it may have been applied |
//! | 5 | applied, but the answer is lost |
//! | 6 | a node's storage is not to be trusted |

use std::fmt;
use std::io;
use std::process::ExitCode;

use margay::machine::{Code, Outcome};
use margay::resource::Failure;
use serde_json::json;

use crate::output;

/// The end of a command that did not end well.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Exit {
    code: u8,
    /// One line, lower case; empty where nothing is to be said.
    message: String,
    /// What helps; may be empty.
    hint: String,
}

/// A negative answer.
pub(crate) const NEGATIVE: u8 = 1;
/// Usage or configuration.
pub(crate) const USAGE: u8 = 2;
/// No leader reachable.
pub(crate) const UNREACHABLE: u8 = 3;
/// Outcome unknown.
pub(crate) const UNKNOWN: u8 = 4;
/// Applied, but the answer is lost. Not 0: who is to print it has not.
pub(crate) const ANSWER_LOST: u8 = 5;

impl Exit {
    /// An end with a code and a reason.
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Exit {
        Exit { code, message: message.into(), hint: String::new() }
    }

    /// An end that needs no words.
    pub(crate) fn quiet(code: u8) -> Exit {
        Exit::new(code, "")
    }

    /// A wrong argument or an impossible configuration.
    pub(crate) fn usage(message: impl Into<String>) -> Exit {
        Exit::new(USAGE, message)
    }

    /// Says what helps.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Exit {
        self.hint = hint.into();
        self
    }

    /// Why, without the hint.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// Whether it is a negative answer, not a failure to answer.
    pub(crate) fn is_negative(&self) -> bool {
        self.code == NEGATIVE
    }

    /// The same end, of which everything was said already.
    pub(crate) fn silent(&self) -> Exit {
        Exit::quiet(self.code)
    }

    /// Says why it ends, and ends.
    pub(crate) fn report(&self) -> ExitCode {
        let said = match output::is_for_programs() {
            true => format!("{}\n", self.to_json()),
            false => self.to_string(),
        };
        if !self.message.is_empty() {
            output::aside(&said);
        }
        ExitCode::from(self.code)
    }

    /// The same for programs; the keys are stable.
    fn to_json(&self) -> serde_json::Value {
        let hint = Some(&self.hint).filter(|hint| !hint.is_empty());
        json!({ "error": self.message, "exit_code": self.code, "hint": hint })
    }
}

/// Arguments that make no sense: the first words of what is said to people, and what helps.
impl From<clap::Error> for Exit {
    fn from(error: clap::Error) -> Exit {
        let text = error.to_string();
        let mut parts =
            text.split("\n\n").map(|part| part.split_whitespace().collect::<Vec<_>>().join(" "));
        let message = parts.next().unwrap_or_default();
        let exit = Exit::usage(message.strip_prefix("error: ").unwrap_or(&message));
        match parts.find_map(|part| part.strip_prefix("tip: ").map(str::to_owned)) {
            Some(tip) => exit.hint(tip),
            None => exit,
        }
    }
}

/// `error: …` and, where there is one, `hint: …`. Control characters are shown, not obeyed: names
/// and texts come from others.
impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, text) in [("error", &self.message), ("hint", &self.hint)] {
            if !text.is_empty() {
                let text: String = text
                    .chars()
                    .flat_map(
                        |c| if c.is_control() { c.escape_default().collect() } else { vec![c] },
                    )
                    .collect();
                writeln!(f, "{what}: {text}")?;
            }
        }
        Ok(())
    }
}

impl From<io::Error> for Exit {
    fn from(error: io::Error) -> Exit {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Exit::quiet(0);
        }
        Exit::new(NEGATIVE, error.to_string())
    }
}

impl From<Failure> for Exit {
    fn from(failure: Failure) -> Exit {
        let exit = Exit::new(code_of(&failure), failure.to_string());
        match (failure.outcome(), failure.code) {
            (Outcome::Unknown, _) => {
                exit.hint("it may have been applied: look before trying again")
            }
            (Outcome::Applied, _) => {
                exit.hint("do not repeat it: it would be done twice; look at what is there now")
            }
            (_, Code::DUPLICATE_KEY) => exit.hint(
                "queues, locks and whatever else grants take one command in each transaction",
            ),
            (_, Code::WRONG_TYPE) => exit.hint("use the command of its type, or another name"),
            _ => exit,
        }
    }
}

fn code_of(failure: &Failure) -> u8 {
    match (failure.outcome(), failure.code) {
        (Outcome::Unknown, _) => UNKNOWN,
        (Outcome::Applied, _) => ANSWER_LOST,
        (_, Code::OVERFLOW) => NEGATIVE,
        (_, Code(100..=299) | Code::BAD_TIMEOUT) => USAGE,
        (_, Code::CLUSTER_MISMATCH | Code::NO_SUCH_GROUP) => USAGE,
        (_, Code::TLS_REQUIRED | Code::DENIED) => USAGE,
        (_, Code(300..=399)) => NEGATIVE,
        _ => UNREACHABLE,
    }
}

impl From<margay_bench::load::Error> for Exit {
    fn from(error: margay_bench::load::Error) -> Exit {
        use margay_bench::load::Error;
        match error {
            Error::Unreachable { .. } => Exit::new(UNREACHABLE, error.to_string())
                .hint("check --endpoints, and that nodes run there"),
            Error::Refused(failure) => failure.into(),
            Error::Ring(_) => Exit::new(NEGATIVE, error.to_string())
                .hint("io_uring may be blocked here: in containers, by the seccomp profile"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(code: Code, outcome: Outcome) -> u8 {
        code_of(&Failure::with_outcome(code, outcome, ""))
    }

    #[test]
    fn codes_say_what_a_script_must_know() {
        assert_eq!(code(Code::BAD_NAME, Outcome::NotApplied), USAGE);
        assert_eq!(code(Code::WRONG_TYPE, Outcome::NotApplied), USAGE);
        assert_eq!(code(Code::BAD_TIMEOUT, Outcome::NotApplied), USAGE);
        assert_eq!(code(Code::OVERFLOW, Outcome::NotApplied), NEGATIVE);
        assert_eq!(code(Code::NOT_HOLDER, Outcome::NotApplied), NEGATIVE);
        assert_eq!(code(Code::TIMEOUT, Outcome::NotApplied), UNREACHABLE);
        assert_eq!(code(Code::TIMEOUT, Outcome::Unknown), UNKNOWN);
        assert_eq!(code(Code::REPLY_GONE, Outcome::Applied), ANSWER_LOST);
        assert_eq!(code(Code::DISK_FULL, Outcome::NotApplied), UNREACHABLE);
        assert_eq!(code(Code::DENIED, Outcome::NotApplied), USAGE);
    }

    #[test]
    fn programs_are_told_the_same_as_people() {
        let exit = Exit::new(UNREACHABLE, "no \"node\"\nanswered").hint("look");
        let told = r#"{"error":"no \"node\"\nanswered","exit_code":3,"hint":"look"}"#;
        assert_eq!(exit.to_json().to_string(), told);
        assert!(Exit::usage("what").to_json()["hint"].is_null());
    }

    #[test]
    fn messages_cannot_drive_the_terminal() {
        let exit = Exit::usage("name \x1b[2J").hint("try\nagain");
        assert_eq!(exit.to_string(), "error: name \\u{1b}[2J\nhint: try\\nagain\n");
    }
}
